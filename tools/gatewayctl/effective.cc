#include "tools/gatewayctl/effective.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/units.h"
#include "common/document/resource.h"
#include "tools/gatewayctl/render.h"
#include "tools/gatewayctl/table.h"

namespace gateway::ctl {
namespace {

constexpr char kNone[] = "none";

std::string SizeText(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (unit + 1 < std::size(kUnits) && bytes != 0 && bytes % 1024 == 0) {
    bytes /= 1024;
    ++unit;
  }
  return absl::StrCat(bytes, kUnits[unit]);
}

std::string HashOnText(const v1::HashOn& on) {
  switch (on.on_case()) {
    case v1::HashOn::kHeader:
      return absl::StrCat("header ", on.header());
    case v1::HashOn::kCookie:
      return absl::StrCat("cookie ", on.cookie());
    case v1::HashOn::kClientIp:
      return "client_ip";
    case v1::HashOn::kPath:
      return "path";
    case v1::HashOn::ON_NOT_SET:
      break;
  }
  return "";
}

// As the data plane has it: 30 s where nothing is said, or the longest time where that is shorter.
google::protobuf::Duration OutlierBaseTime(const v1::OutlierEjection& outlier) {
  if (outlier.has_base_time()) return outlier.base_time();
  google::protobuf::Duration base;
  base.set_seconds(30);
  const bool shorter = outlier.has_max_time() && outlier.max_time().seconds() < base.seconds();
  return shorter ? outlier.max_time() : base;
}

std::string RewriteText(const v1::Rewrite& rewrite) {
  std::vector<std::string> parts;
  if (!rewrite.prefix().empty()) parts.push_back(absl::StrCat("prefix ", rewrite.prefix()));
  if (!rewrite.template_().empty()) parts.push_back(absl::StrCat("template ", rewrite.template_()));
  if (rewrite.has_regex()) {
    parts.push_back(absl::StrCat("regex ", rewrite.regex().pattern(), " to ",
                                 rewrite.regex().substitution().empty() ? "nothing" : rewrite.regex().substitution()));
  }
  if (!rewrite.host().empty()) parts.push_back(absl::StrCat("host ", rewrite.host()));
  return absl::StrJoin(parts, ", ");
}

// Names alone: values may be long, and secret.
std::string EditsText(const v1::FieldEdits& edits) {
  const auto names = [](const google::protobuf::Map<std::string, std::string>& map) {
    std::vector<std::string> sorted;
    for (const auto& [name, value] : map) sorted.push_back(name);
    std::sort(sorted.begin(), sorted.end());
    return absl::StrJoin(sorted, ", ");
  };
  std::vector<std::string> parts;
  if (edits.remove_size() > 0) parts.push_back(absl::StrCat("remove ", absl::StrJoin(edits.remove(), ", ")));
  if (!edits.set().empty()) parts.push_back(absl::StrCat("set ", names(edits.set())));
  if (!edits.add().empty()) parts.push_back(absl::StrCat("add ", names(edits.add())));
  return absl::StrJoin(parts, "; ");
}

// Collects the rows of one route.
class Effective {
 public:
  Effective(const v1::Route& route, std::span<const v1::StoredResource> all) : route_(route), all_(all) {
    if (const v1::StoredResource* stored = Find("Defaults", "default"); stored != nullptr) {
      defaults_ = stored->resource().defaults();
      defaults_built_in_ = stored->built_in();
    }
  }

  std::vector<EffectiveRow> Rows() {
    if (route_.has_split_on()) Add("split", "split_on", "route", HashOnText(route_.split_on()));
    AddNamed("access", "IpAccess", route_.access(), "route", defaults_.access());
    AddNamed("cors", "Cors", route_.cors(), "route", defaults_.cors());
    AddLimits("limits before auth", false);
    AddNamed("auth", "Auth", route_.auth(), "route", defaults_.auth());
    AddLimits("limits after auth", true);
    AddBody();
    if (route_.has_redirect()) {
      Add("answer", "redirect", "route",
          absl::StrCat(route_.redirect().has_status() ? route_.redirect().status() : 308));
      AddEdits("answer", "response_headers", route_.response_headers());
      return std::move(rows_);
    }
    if (route_.has_respond()) {
      Add("answer", "respond", "route", absl::StrCat(route_.respond().has_status() ? route_.respond().status() : 200));
      AddEdits("answer", "response_headers", route_.response_headers());
      return std::move(rows_);
    }
    if (route_.has_rewrite()) Add("rewrite", "rewrite", "route", RewriteText(route_.rewrite()));
    if (route_.has_consul_service()) {
      v1::Service service;
      const v1::ServiceTemplate& from = route_.consul_service().template_();
      *service.mutable_load_balancer() = from.load_balancer();
      *service.mutable_timeouts() = from.timeouts();
      service.set_circuit_breaker(from.circuit_breaker());
      service.set_retry(from.retry());
      if (from.has_health_check()) *service.mutable_health_check() = from.health_check();
      if (from.has_outlier_ejection()) *service.mutable_outlier_ejection() = from.outlier_ejection();
      if (from.has_limits()) *service.mutable_limits() = from.limits();
      AddService(service, "route (template)");
    } else if (!route_.service().empty()) {
      AddServiceNamed(route_.service());
    } else {
      for (const v1::WeightedService& target : route_.split()) AddServiceNamed(target.service());
    }
    AddTimes();
    AddEdits("forward", "request_headers", route_.request_headers());
    AddEdits("forward", "request_query", route_.request_query());
    for (const v1::Mirror& mirror : route_.mirror()) {
      Add("mirror", absl::StrCat("Service/", mirror.service()), "route",
          absl::StrCat(mirror.has_percent() ? mirror.percent() : 100, "%"));
    }
    AddEdits("answer", "response_headers", route_.response_headers());
    return std::move(rows_);
  }

  std::vector<EffectiveRow> ServiceRows(const v1::Service& service) {
    AddService(service, absl::StrCat("Service/", service.name()));
    return std::move(rows_);
  }

 private:
  const v1::StoredResource* Find(const std::string& kind, const std::string& name) const {
    for (const v1::StoredResource& stored : all_) {
      const ResourceKey key = KeyOf(stored.resource());
      if (key.kind == kind && key.name == name) return &stored;
    }
    return nullptr;
  }

  std::string DefaultsSource() const { return defaults_built_in_ ? "Defaults/default (built-in)" : "Defaults/default"; }

  void Add(std::string stage, std::string policy, std::string source, std::string settings) {
    rows_.push_back({std::move(stage), std::move(policy), std::move(source), std::move(settings)});
  }

  std::string SettingsOf(const std::string& kind, const std::string& name) const {
    const v1::StoredResource* stored = Find(kind, name);
    if (stored == nullptr) return "not defined";
    return absl::StrCat(SummaryOf(stored->resource()), stored->built_in() ? "  (built-in)" : "");
  }

  // A policy by its name: the document's own word, else that of Defaults, else none.
  void AddNamed(const std::string& stage, const std::string& kind, const std::string& own, const std::string& owner,
                const std::string& inherited) {
    const std::string& name = own.empty() ? inherited : own;
    const std::string source = !own.empty() ? owner : !inherited.empty() ? DefaultsSource() : "built-in";
    if (name.empty() || name == kNone) return Add(stage, kNone, source, "");
    Add(stage, absl::StrCat(kind, "/", name), source, SettingsOf(kind, name));
  }

  void AddLimits(const std::string& stage, bool with_identity) {
    const bool own = !route_.rate_limits().empty();
    bool any = false;
    for (const std::string& name : own ? route_.rate_limits() : defaults_.rate_limits()) {
      if (name == kNone) continue;
      const v1::StoredResource* stored = Find("RateLimit", name);
      bool needs_identity = false;
      if (stored != nullptr) {
        for (const std::string& key : stored->resource().rate_limit().key()) {
          needs_identity = needs_identity || key == "consumer" || absl::StartsWith(key, "claim:");
        }
      }
      if (needs_identity != with_identity) continue;
      any = true;
      Add(stage, absl::StrCat("RateLimit/", name), own ? "route" : DefaultsSource(), SettingsOf("RateLimit", name));
    }
    if (!any) {
      Add(stage, kNone, own ? "route" : defaults_.rate_limits().empty() ? "built-in" : DefaultsSource(), "");
    }
  }

  void AddBody() {
    const bool own = route_.has_body();
    const v1::BodyLimits& body = own ? route_.body() : defaults_.body();
    const std::string source = own ? "route" : defaults_.has_body() ? DefaultsSource() : "built-in";
    if (body.has_max_bytes()) {
      Add("body", "max_bytes", source, SizeText(body.max_bytes()));
    } else {
      Add("body", kNone, source, "");
    }
  }

  void AddServiceNamed(const std::string& name) {
    const v1::StoredResource* stored = Find("Service", name);
    if (stored == nullptr) return Add("balance", absl::StrCat("Service/", name), "route", "not defined");
    AddService(stored->resource().service(), absl::StrCat("Service/", name));
  }

  void AddEdits(const std::string& stage, const std::string& field, const v1::FieldEdits& edits) {
    if (std::string text = EditsText(edits); !text.empty()) Add(stage, field, "route", std::move(text));
  }

  // In the order in which a request meets them; see Exchange.
  void AddService(const v1::Service& service, const std::string& owner) {
    const size_t first = rows_.size();
    AddServiceRows(service, owner);
    // Of a split, what a service inherits must not be taken for another's.
    if (route_.split_size() < 2) return;
    for (size_t i = first; i < rows_.size(); ++i) {
      if (rows_[i].source != owner) absl::StrAppend(&rows_[i].source, ", for ", owner);
    }
  }

  void AddServiceRows(const v1::Service& service, const std::string& owner) {
    if (service.has_limits()) {
      std::vector<std::string> bounds;
      const v1::ServiceLimits& limits = service.limits();
      if (limits.has_connections()) bounds.push_back(absl::StrCat("connections ", limits.connections()));
      if (limits.has_pending()) bounds.push_back(absl::StrCat("pending ", limits.pending()));
      if (limits.has_requests()) bounds.push_back(absl::StrCat("requests ", limits.requests()));
      Add("limits of the service", "limits", owner, absl::StrJoin(bounds, ", "));
    }
    AddNamed("breaker", "CircuitBreaker", service.circuit_breaker(), owner, defaults_.circuit_breaker());
    const v1::LoadBalancer& balancer = service.load_balancer();
    std::string settings = balancer.policy() == v1::LoadBalancer::POLICY_UNSPECIFIED
                               ? "round_robin"
                               : absl::AsciiStrToLower(v1::LoadBalancer::Policy_Name(balancer.policy()));
    if (balancer.has_session()) absl::StrAppend(&settings, ", session by cookie ", balancer.session().cookie());
    Add("balance", "load_balancer", balancer.ByteSizeLong() > 0 ? owner : "built-in", settings);
    if (service.has_health_check()) {
      const v1::HealthCheck& check = service.health_check();
      Add("balance", "health_check", owner,
          absl::StrCat(check.type() == v1::HealthCheck::TCP
                           ? "tcp"
                           : absl::StrCat("GET ", check.path().empty() ? "/" : check.path()),
                       " every ", check.has_interval() ? FormatDuration(check.interval()) : "5s"));
    }
    if (service.has_outlier_ejection()) {
      const v1::OutlierEjection& outlier = service.outlier_ejection();
      Add("balance", "outlier_ejection", owner,
          absl::StrCat(outlier.has_consecutive_failures() ? outlier.consecutive_failures() : 5,
                       " failures in a row, for ", FormatDuration(OutlierBaseTime(outlier)), " and longer"));
    }
    AddNamed("forward", "Retry", service.retry(), owner, defaults_.retry());
    const v1::Timeouts& timeouts = service.timeouts();
    Add("forward", "timeouts", timeouts.ByteSizeLong() > 0 ? owner : "built-in",
        absl::StrCat("connect ", timeouts.has_connect() ? FormatDuration(timeouts.connect()) : "2s", ", response ",
                     timeouts.has_response() ? FormatDuration(timeouts.response()) : "15s"));
  }

  void AddTimes() {
    if (route_.has_timeout()) {
      Add("forward", "timeout", "route", FormatDuration(route_.timeout()));
    } else if (defaults_.has_timeout()) {
      Add("forward", "timeout", DefaultsSource(), FormatDuration(defaults_.timeout()));
    } else {
      Add("forward", "timeout", "built-in", "30s");
    }
    if (route_.has_max_duration()) Add("forward", "max_duration", "route", FormatDuration(route_.max_duration()));
  }

  const v1::Route& route_;
  const std::span<const v1::StoredResource> all_;
  v1::Defaults defaults_;
  bool defaults_built_in_ = false;
  std::vector<EffectiveRow> rows_;
};

}  // namespace

std::vector<EffectiveRow> EffectiveOf(const v1::Route& route, std::span<const v1::StoredResource> all) {
  return Effective(route, all).Rows();
}

std::vector<EffectiveRow> EffectiveOfService(const v1::Service& service, std::span<const v1::StoredResource> all) {
  const v1::Route nobody;  // whose own settings are none
  return Effective(nobody, all).ServiceRows(service);
}

std::string RenderEffective(std::span<const EffectiveRow> rows) {
  Table table({"STAGE", "POLICY", "FROM", "SETTINGS"});
  for (const EffectiveRow& row : rows) table.AddRow({row.stage, row.policy, row.source, row.settings});
  return table.ToString();
}

}  // namespace gateway::ctl
