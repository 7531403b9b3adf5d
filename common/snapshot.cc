#include "common/snapshot.h"

#include <algorithm>
#include <limits>
#include <set>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "common/bootstrap.h"
#include "common/codec.h"
#include "common/resource.h"
#include "common/route_table.h"
#include "common/yaml.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {
namespace {

constexpr std::string_view kNone = "none";
constexpr std::string_view kDefaultName = "default";
constexpr int kStaticEndpointsMax = 10'000;  // of one service
constexpr int kTagsMax = 64;
constexpr int kLabelsMax = 64;
constexpr size_t kLabelBytesMax = 256;  // a key or a value
constexpr size_t kDescriptionBytesMax = 4096;
constexpr size_t kConsulNameBytesMax = 256;
constexpr Millis kRouteTimeout{30'000};  // where neither the route nor Defaults names one
// Each costs a pass over all names; a set with more wrong references than this has one cause, and the first show it.
constexpr int kSuggestionsMax = 50;

// Collects what is wrong with one resource.
class Report {
 public:
  Report(const ResourceKey& key, std::vector<v1::PolicyError>* errors) : key_(key), errors_(errors) {}

  void Add(std::string_view field, std::string_view message) const {
    v1::PolicyError& error = errors_->emplace_back();
    error.set_kind(key_.kind);
    error.set_name(key_.name);
    error.set_field(std::string(field));
    error.set_message(std::string(message));
  }
  void AddIfBad(std::string_view field, const absl::Status& status) const {
    if (!status.ok()) Add(field, std::string(status.message()));
  }

 private:
  const ResourceKey& key_;
  std::vector<v1::PolicyError>* errors_;
};

std::string At(std::string_view list, int index, std::string_view field = "") {
  return fmt::format("{}[{}]{}", list, index, field);
}

// A name of Consul's, a tag or a pattern of names: Consul itself takes nearly everything.
void CheckConsulText(const Report& report, const std::string& field, std::string_view text) {
  if (text.empty()) {
    report.Add(field, "is empty");
  } else if (text.size() > kConsulNameBytesMax) {
    report.Add(field, fmt::format("is longer than {} bytes", kConsulNameBytesMax));
  } else if (!std::all_of(text.begin(), text.end(),
                          [](char c) { return absl::ascii_isgraph(static_cast<unsigned char>(c)); })) {
    report.Add(field, "has a space, a control byte or a byte beyond ASCII");
  }
}

void CheckTags(const Report& report, const std::string& field,
               const google::protobuf::RepeatedPtrField<std::string>& tags) {
  if (tags.size() > kTagsMax) report.Add(field, fmt::format("has {} tags; at most {}", tags.size(), kTagsMax));
  for (int i = 0; i < tags.size(); ++i) CheckConsulText(report, At(field, i), tags[i]);
}

template <typename Enum>
void CheckEnum(const Report& report, std::string_view field, Enum value, bool (*is_valid)(int)) {
  if (!is_valid(value))
    report.Add(field, fmt::format("is {}, which this version does not know", static_cast<int>(value)));
}

void CheckEnvelope(const Report& report, const google::protobuf::Map<std::string, std::string>& labels,
                   const std::string& description) {
  if (labels.size() > kLabelsMax)
    report.Add("labels", fmt::format("has {} entries; at most {}", labels.size(), kLabelsMax));
  for (const auto& [key, value] : labels) {
    if (key.empty()) report.Add("labels", "has an empty key");
    if (key.size() > kLabelBytesMax || value.size() > kLabelBytesMax) {
      report.Add(fmt::format("labels.{}", key.substr(0, kLabelBytesMax)),
                 fmt::format("is longer than {} bytes", kLabelBytesMax));
    }
  }
  if (description.size() > kDescriptionBytesMax) {
    report.Add("description", fmt::format("is longer than {} bytes", kDescriptionBytesMax));
  }
}

void CheckBalancer(const Report& report, const std::string& field, const v1::LoadBalancer& balancer) {
  CheckEnum(report, field + ".policy", balancer.policy(), v1::LoadBalancer::Policy_IsValid);
}

void CheckService(const Report& report, const v1::Service& service) {
  if (service.has_consul() == (service.static__size() > 0)) {
    report.Add("", service.has_consul() ? "has both consul and static; exactly one says where its endpoints are"
                                        : "needs one of consul and static, which says where its endpoints are");
  }
  if (service.has_consul()) {
    const v1::ConsulSource& consul = service.consul();
    // An empty name is reported by the rules.
    if (!consul.service().empty()) CheckConsulText(report, "consul.service", consul.service());
    if (!consul.datacenter().empty()) CheckConsulText(report, "consul.datacenter", consul.datacenter());
    CheckTags(report, "consul.tags", consul.tags());
    CheckEnum(report, "consul.on_suspect", consul.on_suspect(), v1::ConsulSource::OnSuspect_IsValid);
  }
  if (service.static__size() > kStaticEndpointsMax) {
    report.Add("static", fmt::format("has {} endpoints; at most {}", service.static__size(), kStaticEndpointsMax));
  }
  absl::flat_hash_map<std::string, int> seen;
  for (int i = 0; i < service.static__size(); ++i) {
    const v1::StaticEndpoint& endpoint = service.static_(i);
    const std::string field = At("static", i, ".address");
    if (endpoint.address().empty()) continue;  // reported by the rules
    absl::StatusOr<HostPort> address = ParseHostPort(endpoint.address());
    if (!address.ok()) {
      report.Add(field, std::string(address.status().message()));
      continue;
    }
    if (address->port == 0)
      report.Add(field, fmt::format("{} has port 0; expected 1 to 65535", QuoteForMessage(endpoint.address())));
    auto [it, inserted] = seen.try_emplace(fmt::format("{} {}", address->host, address->port), i);
    if (!inserted) {
      report.Add(field, fmt::format("{} is static[{}] already", QuoteForMessage(endpoint.address()), it->second));
    }
  }
  CheckBalancer(report, "load_balancer", service.load_balancer());
}

void CheckRewrite(const Report& report, const v1::Route& route) {
  const v1::Rewrite& rewrite = route.rewrite();
  const v1::PathMatch& path = route.match().path();
  if (!rewrite.prefix().empty() && !rewrite.template_().empty()) {
    report.Add("rewrite", "has both prefix and template; at most one says what the service sees");
  }
  if (rewrite.prefix().empty() && rewrite.template_().empty() && rewrite.host().empty()) {
    report.Add("rewrite", "is empty; expected prefix, template or host");
  }
  if (!rewrite.prefix().empty()) {
    report.AddIfBad("rewrite.prefix", CheckPathPattern(rewrite.prefix()));
    if (!path.has_prefix() && !path.has_template_()) {
      report.Add("rewrite.prefix", "needs a match.path.prefix or a match.path.template, whose beginning it replaces");
    }
  }
  if (!rewrite.template_().empty()) {
    absl::StatusOr<std::vector<TemplateSegment>> segments = ParseTemplate(rewrite.template_());
    if (!segments.ok()) {
      report.Add("rewrite.template", std::string(segments.status().message()));
      return;
    }
    std::vector<TemplateSegment> known;
    if (path.has_template_()) {
      absl::StatusOr<std::vector<TemplateSegment>> own = ParseTemplate(path.template_());
      if (!own.ok()) return;  // reported with the match
      known = *std::move(own);
    }
    for (const TemplateSegment& segment : *segments) {
      if (segment.kind == TemplateSegment::Kind::kLiteral) continue;
      const bool found = std::any_of(known.begin(), known.end(), [&segment](const TemplateSegment& k) {
        return k.kind == segment.kind && k.text == segment.text;
      });
      if (found) continue;
      report.Add("rewrite.template",
                 segment.kind == TemplateSegment::Kind::kRest
                     ? "has **, but match.path has no template that ends in **"
                     : fmt::format("variable {} is not in match.path.template", QuoteForMessage(segment.text)));
    }
  }
  if (!rewrite.host().empty()) {
    std::string_view host = rewrite.host();
    const size_t colon = host.rfind(':');
    if (colon != std::string_view::npos && host.back() != ']') {
      absl::StatusOr<HostPort> address = ParseHostPort(host);
      if (!address.ok()) {
        report.Add("rewrite.host", std::string(address.status().message()));
        return;
      }
      host = host.substr(0, colon);
    }
    report.AddIfBad("rewrite.host", CheckHost(absl::AsciiStrToLower(std::string(host))));
  }
}

void CheckConsulServiceRoute(const Report& report, const v1::Route& route) {
  const v1::ConsulServiceRoute& config = route.consul_service();
  const v1::PathMatch& path = route.match().path();
  if (!path.has_template_()) {
    report.Add("consul_service.from", "needs a match.path.template with the variable that holds the service's name");
  } else if (!config.from().empty()) {
    absl::StatusOr<std::vector<TemplateSegment>> segments = ParseTemplate(path.template_());
    if (segments.ok() && std::none_of(segments->begin(), segments->end(), [&config](const TemplateSegment& segment) {
          return segment.kind == TemplateSegment::Kind::kVariable && segment.text == config.from();
        })) {
      report.Add("consul_service.from",
                 fmt::format("variable {} is not in match.path.template", QuoteForMessage(config.from())));
    }
  }
  for (int i = 0; i < config.allow_size(); ++i) {
    CheckConsulText(report, At("consul_service.allow", i), config.allow(i));
  }
  for (int i = 0; i < config.deny_size(); ++i) {
    CheckConsulText(report, At("consul_service.deny", i), config.deny(i));
  }
  CheckTags(report, "consul_service.tags", config.tags());
  CheckBalancer(report, "consul_service.template.load_balancer", config.template_().load_balancer());
  CheckEnum(report, "consul_service.template.on_suspect", config.template_().on_suspect(),
            v1::ConsulSource::OnSuspect_IsValid);
}

void CheckLimitList(const Report& report, const google::protobuf::RepeatedPtrField<std::string>& names) {
  for (int i = 0; i < names.size(); ++i) {
    if (names[i] == kNone && names.size() > 1) {
      report.Add(At("rate_limits", i), "'none' stands alone");
    } else if (std::find(names.begin(), names.begin() + i, names[i]) != names.begin() + i) {
      report.Add(At("rate_limits", i), fmt::format("{} comes twice", QuoteForMessage(names[i])));
    }
  }
}

void CheckRoute(const Report& report, const v1::Route& route) {
  CheckRouteMatch(route.match(), [&report](const std::string& field, const std::string& message) {
    report.Add(fmt::format("match.{}", field), message);
  });
  const int targets = static_cast<int>(!route.service().empty()) + static_cast<int>(route.split_size() > 0) +
                      static_cast<int>(route.has_consul_service());
  if (targets != 1) {
    report.Add("", fmt::format("{}exactly one of service, split and consul_service is needed",
                               targets == 0 ? "leads nowhere; " : "leads to several places; "));
  }
  if (route.split_size() > 0) {
    uint64_t total = 0;
    std::set<std::string_view> seen;
    for (int i = 0; i < route.split_size(); ++i) {
      const v1::WeightedService& target = route.split(i);
      total += target.has_weight() ? target.weight() : 1;
      if (!target.service().empty() && !seen.insert(target.service()).second) {
        report.Add(At("split", i, ".service"), fmt::format("{} comes twice", QuoteForMessage(target.service())));
      }
    }
    if (total == 0) report.Add("split", "has no weight above 0");
    if (total > std::numeric_limits<uint32_t>::max()) report.Add("split", "has weights whose sum is beyond 4294967295");
  }
  if (route.has_consul_service()) CheckConsulServiceRoute(report, route);
  if (route.has_rewrite()) CheckRewrite(report, route);
  CheckLimitList(report, route.rate_limits());
  for (int i = 0; i < route.upgrades_size(); ++i) {
    CheckEnum(report, At("upgrades", i), route.upgrades(i), v1::Route::Upgrade_IsValid);
    if (route.upgrades(i) == v1::Route::UPGRADE_UNSPECIFIED) report.Add(At("upgrades", i), "names no protocol");
  }
}

std::optional<LimitKey> LimitKeyOf(std::string_view name) {
  if (name == "client_ip") return LimitKey::kClientIp;
  if (name == "path") return LimitKey::kPath;
  return std::nullopt;
}

void CheckRateLimit(const Report& report, const v1::RateLimit& limit) {
  for (int i = 0; i < limit.key_size(); ++i) {
    if (!LimitKeyOf(limit.key(i)).has_value()) {
      const std::string near = NearestName(limit.key(i), {"client_ip", "path"});
      report.Add(At("key", i), fmt::format("{} is no key; {}", QuoteForMessage(limit.key(i)),
                                           near.empty() ? "expected client_ip or path"
                                                        : fmt::format("did you mean {}?", QuoteForMessage(near))));
    } else if (std::find(limit.key().begin(), limit.key().begin() + i, limit.key(i)) != limit.key().begin() + i) {
      report.Add(At("key", i), fmt::format("{} comes twice", QuoteForMessage(limit.key(i))));
    }
  }
  CheckEnum(report, "algorithm", limit.algorithm(), v1::RateLimit::Algorithm_IsValid);
  CheckEnum(report, "scope", limit.scope(), v1::RateLimit::Scope_IsValid);
  CheckEnum(report, "mode", limit.mode(), v1::RateLimit::Mode_IsValid);
}

// Whether `text` is `pattern`, where each '*' stands for any bytes. Without case: Consul serves its DNS so.
bool MatchesGlob(std::string_view pattern, std::string_view text) {
  size_t p = 0;
  size_t t = 0;
  size_t star = std::string_view::npos;  // the last one seen; what it stands for ends before `star_text`
  size_t star_text = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      star_text = t;
    } else if (p < pattern.size() && absl::ascii_tolower(static_cast<unsigned char>(pattern[p])) ==
                                         absl::ascii_tolower(static_cast<unsigned char>(text[t]))) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++star_text;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

void ReadTimeouts(const v1::Timeouts& timeouts, ServicePolicy* policy) {
  if (timeouts.has_connect()) policy->connect_timeout = ToMillis(timeouts.connect());
  if (timeouts.has_response()) policy->response_timeout = ToMillis(timeouts.response());
  if (timeouts.has_idle()) policy->idle_timeout = ToMillis(timeouts.idle());
}

v1::LoadBalancer::Policy BalanceOf(const v1::LoadBalancer& balancer) {
  return balancer.policy() == v1::LoadBalancer::POLICY_UNSPECIFIED ? v1::LoadBalancer::ROUND_ROBIN : balancer.policy();
}

v1::ConsulSource::OnSuspect OnSuspectOf(v1::ConsulSource::OnSuspect on_suspect) {
  return on_suspect == v1::ConsulSource::ON_SUSPECT_UNSPECIFIED ? v1::ConsulSource::KEEP : on_suspect;
}

// The names in the order of RouteMatch::variables; ** is "". Requires: a valid template.
std::vector<std::string> VariablesOf(std::string_view path_template) {
  std::vector<std::string> names;
  std::vector<TemplateSegment> segments = ParseTemplate(path_template).value();
  for (TemplateSegment& segment : segments) {
    if (segment.kind != TemplateSegment::Kind::kLiteral) names.push_back(std::move(segment.text));
  }
  return names;
}

std::vector<std::string> SortedTags(const google::protobuf::RepeatedPtrField<std::string>& tags) {
  std::vector<std::string> sorted(tags.begin(), tags.end());
  std::sort(sorted.begin(), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  return sorted;
}

}  // namespace

void CheckResource(const v1::Resource& resource, std::vector<v1::PolicyError>* errors) {
  const ResourceKey key = KeyOf(resource);
  const Report report(key, errors);
  const google::protobuf::Message* body = BodyOf(resource);
  if (body == nullptr) {
    report.Add("kind", "is missing, or one that this version does not know");
    return;
  }
  report.AddIfBad("name", CheckName(key.name));
  std::vector<FieldProblem> problems;
  CheckRules(*body, &problems);
  for (const FieldProblem& problem : problems) report.Add(problem.field, problem.message);

  switch (resource.kind_case()) {
    case v1::Resource::kService:
      CheckEnvelope(report, resource.service().labels(), resource.service().description());
      CheckService(report, resource.service());
      break;
    case v1::Resource::kRoute:
      CheckEnvelope(report, resource.route().labels(), resource.route().description());
      CheckRoute(report, resource.route());
      break;
    case v1::Resource::kRateLimit:
      CheckEnvelope(report, resource.rate_limit().labels(), resource.rate_limit().description());
      CheckRateLimit(report, resource.rate_limit());
      break;
    case v1::Resource::kCircuitBreaker:
      CheckEnvelope(report, resource.circuit_breaker().labels(), resource.circuit_breaker().description());
      break;
    case v1::Resource::kDefaults:
      CheckEnvelope(report, resource.defaults().labels(), resource.defaults().description());
      if (key.name != kDefaultName) {
        report.Add("name", fmt::format("{}: there is one Defaults, named 'default'", QuoteForMessage(key.name)));
      }
      CheckLimitList(report, resource.defaults().rate_limits());
      break;
    case v1::Resource::KIND_NOT_SET:
      break;
  }
}

bool ConsulServicePolicy::Allows(std::string_view name) const {
  const std::string lower = absl::AsciiStrToLower(std::string(name));
  if (name.empty() || lower == "consul" || lower == absl::AsciiStrToLower(own_service)) return false;
  auto matches = [name](const std::string& pattern) { return MatchesGlob(pattern, name); };
  return std::any_of(allow.begin(), allow.end(), matches) && std::none_of(deny.begin(), deny.end(), matches);
}

Snapshot::Snapshot() = default;
Snapshot::~Snapshot() = default;

void Snapshot::Match(const MatchInput& in, RouteMatch* out) const { table_->Match(in, out); }

void Snapshot::Rewrite(const RouteMatch& m, std::string_view path, std::string* out) {
  const size_t base = out->size();
  for (const RewritePiece& piece : m.route->rewrite) {
    out->append(piece.variable < 0 ? std::string_view(piece.literal)
                                   : m.variables[static_cast<size_t>(piece.variable)]);
  }
  if (m.route->rewrite_is_prefix) out->append(path.substr(m.prefix_length));
  if (out->size() == base) out->push_back('/');
}

// One compilation: indexes the set, checks it, and builds the snapshot if nothing is wrong.
class SnapshotCompiler {
 public:
  SnapshotCompiler(std::span<const v1::Resource* const> resources, const CompileOptions& options)
      : resources_(resources), options_(options) {}

  CompileResult Run() {
    for (const v1::Resource* resource : resources_) {
      CheckResource(*resource, &result_.errors);
      Index(*resource);
    }
    CheckReferences();
    CheckRegexBudget();
    if (result_.errors.empty()) {
      Build();
      result_.snapshot = std::move(snapshot_);
      std::sort(result_.warnings.begin(), result_.warnings.end());
      return std::move(result_);
    }
    auto order = [](const v1::PolicyError& e) { return std::tie(e.kind(), e.name(), e.field(), e.message()); };
    std::sort(result_.errors.begin(), result_.errors.end(),
              [&order](const v1::PolicyError& a, const v1::PolicyError& b) { return order(a) < order(b); });
    // The rules and the checks here may see the same mistake.
    auto same = [&order](const v1::PolicyError& a, const v1::PolicyError& b) { return order(a) == order(b); };
    result_.errors.erase(std::unique(result_.errors.begin(), result_.errors.end(), same), result_.errors.end());
    return std::move(result_);
  }

 private:
  // Resources of one kind by name, in the names' order; the first of a name counts.
  template <typename Body>
  struct Kind {
    std::vector<std::pair<std::string_view, const Body*>> sorted;
    absl::flat_hash_map<std::string_view, uint32_t> index;  // into `sorted`

    void Sort() {
      std::stable_sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
      sorted.erase(
          std::unique(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.first == b.first; }),
          sorted.end());
      index.clear();
      for (uint32_t i = 0; i < sorted.size(); ++i) index.emplace(sorted[i].first, i);
    }
    std::vector<std::string> Names() const {
      std::vector<std::string> names;
      for (const auto& [name, body] : sorted) names.emplace_back(name);
      return names;
    }
  };

  template <typename Body>
  void IndexBody(Kind<Body>* kind, const Body& body, const v1::Resource& resource) {
    if (!kind->index.emplace(body.name(), 0).second) {
      const ResourceKey key = KeyOf(resource);
      Report(key, &result_.errors).Add("name", fmt::format("{} comes twice", QuoteForMessage(key.name)));
    }
    kind->sorted.emplace_back(body.name(), &body);
  }

  void Index(const v1::Resource& resource) {
    switch (resource.kind_case()) {
      case v1::Resource::kService:
        return IndexBody(&services_, resource.service(), resource);
      case v1::Resource::kRoute:
        return IndexBody(&routes_, resource.route(), resource);
      case v1::Resource::kRateLimit:
        return IndexBody(&rate_limits_, resource.rate_limit(), resource);
      case v1::Resource::kCircuitBreaker:
        return IndexBody(&breakers_, resource.circuit_breaker(), resource);
      case v1::Resource::kDefaults:
        // Another name than `default` is an error already.
        if (resource.defaults().name() == kDefaultName) defaults_ = &resource.defaults();
        return;
      case v1::Resource::KIND_NOT_SET:
        return;
    }
  }

  template <typename Body>
  void CheckReference(const Report& report, const std::string& field, std::string_view noun, const std::string& name,
                      const Kind<Body>& kind) {
    if (name.empty() || kind.index.contains(name)) return;
    std::string near;
    if (++suggestions_ <= kSuggestionsMax) near = NearestName(name, kind.Names());
    report.Add(field, fmt::format("{} {} is not defined{}", noun, QuoteForMessage(name),
                                  near.empty() ? "" : fmt::format("; did you mean {}?", QuoteForMessage(near))));
  }

  void CheckLimitReferences(const Report& report, const google::protobuf::RepeatedPtrField<std::string>& names) {
    for (int i = 0; i < names.size(); ++i) {
      if (names[i].empty()) report.Add(At("rate_limits", i), "is empty");
      if (names[i] != kNone) CheckReference(report, At("rate_limits", i), "rate limit", names[i], rate_limits_);
    }
  }

  void CheckBreakerReference(const Report& report, const std::string& field, const std::string& name) {
    if (name != kNone) CheckReference(report, field, "circuit breaker", name, breakers_);
  }

  void CheckReferences() {
    services_.Sort();
    routes_.Sort();
    rate_limits_.Sort();
    breakers_.Sort();
    for (const v1::Resource* resource : resources_) {
      const ResourceKey key = KeyOf(*resource);
      const Report report(key, &result_.errors);
      if (resource->has_service()) {
        CheckBreakerReference(report, "circuit_breaker", resource->service().circuit_breaker());
      } else if (resource->has_route()) {
        const v1::Route& route = resource->route();
        CheckReference(report, "service", "service", route.service(), services_);
        for (int i = 0; i < route.split_size(); ++i) {
          CheckReference(report, At("split", i, ".service"), "service", route.split(i).service(), services_);
        }
        CheckBreakerReference(report, "consul_service.template.circuit_breaker",
                              route.consul_service().template_().circuit_breaker());
        CheckLimitReferences(report, route.rate_limits());
      } else if (resource->has_defaults()) {
        CheckBreakerReference(report, "circuit_breaker", resource->defaults().circuit_breaker());
        CheckLimitReferences(report, resource->defaults().rate_limits());
      }
    }
  }

  void CheckRegexBudget() {
    size_t regexes = 0;
    for (const auto& [name, route] : routes_.sorted) {
      regexes += CountRegexes(route->match());
      if (regexes > kRegexesMax) {
        const ResourceKey key{"Route", std::string(name)};
        Report(key, &result_.errors)
            .Add("match", fmt::format("has one regex too many: all routes together may have {}", kRegexesMax));
        return;
      }
    }
  }

  void Build() {
    snapshot_.reset(new Snapshot);
    snapshot_->epoch_ = options_.epoch;
    snapshot_->revision_ = options_.revision;
    BuildRateLimits();
    for (const auto& [name, breaker] : breakers_.sorted) breaker_policies_.push_back(BuildBreaker(*breaker));
    for (const auto& [name, service] : services_.sorted) snapshot_->services_.push_back(BuildService(*service));
    std::vector<RouteTable::Entry> entries;
    entries.reserve(routes_.sorted.size());
    snapshot_->routes_.reserve(routes_.sorted.size());
    for (const auto& [name, route] : routes_.sorted) {
      auto policy = BuildRoute(*route);
      policy->index = static_cast<uint32_t>(snapshot_->routes_.size());
      entries.push_back({policy.get(), route});
      snapshot_->routes_.push_back(std::move(policy));
    }
    snapshot_->table_ = RouteTable::Build(entries, &result_.warnings);
  }

  void BuildRateLimits() {
    limit_indices_.assign(rate_limits_.sorted.size(), -1);
    for (size_t i = 0; i < rate_limits_.sorted.size(); ++i) {
      const v1::RateLimit& limit = *rate_limits_.sorted[i].second;
      if (limit.mode() == v1::RateLimit::DISABLED) continue;
      limit_indices_[i] = static_cast<int>(snapshot_->rate_limits_.size());
      if (limit.name() == kDefaultName) snapshot_->builtin_rate_limit_ = limit_indices_[i];
      RateLimitPolicy& policy = snapshot_->rate_limits_.emplace_back();
      policy.name = limit.name();
      for (const std::string& key : limit.key()) policy.keys.push_back(*LimitKeyOf(key));
      policy.requests = limit.limit().requests();
      policy.window = ToMillis(limit.limit().window());
      policy.mode = limit.mode() == v1::RateLimit::SHADOW ? v1::RateLimit::SHADOW : v1::RateLimit::ENFORCE;
    }
  }

  static std::shared_ptr<const BreakerPolicy> BuildBreaker(const v1::CircuitBreaker& breaker) {
    auto policy = std::make_shared<BreakerPolicy>();
    policy->name = breaker.name();
    if (breaker.has_timeout()) policy->timeout = ToMillis(breaker.timeout());
    if (breaker.has_max_concurrent_requests()) policy->max_concurrent_requests = breaker.max_concurrent_requests();
    if (breaker.has_request_volume_threshold()) policy->request_volume_threshold = breaker.request_volume_threshold();
    if (breaker.has_sleep_window()) policy->sleep_window = ToMillis(breaker.sleep_window());
    if (breaker.has_error_percent_threshold()) policy->error_percent_threshold = breaker.error_percent_threshold();
    return policy;
  }

  // `name` as a service has it: empty is what Defaults says.
  std::shared_ptr<const BreakerPolicy> BreakerOf(const std::string& name) const {
    const std::string& effective = name.empty() && defaults_ != nullptr ? defaults_->circuit_breaker() : name;
    if (effective.empty() || effective == kNone) return nullptr;
    return breaker_policies_[breakers_.index.at(effective)];
  }

  ServicePolicy BuildService(const v1::Service& service) const {
    ServicePolicy policy;
    policy.name = service.name();
    if (service.has_consul()) {
      policy.from_consul = true;
      policy.consul_service = service.consul().service();
      policy.datacenter = service.consul().datacenter();
      policy.tags = SortedTags(service.consul().tags());
      policy.on_suspect = OnSuspectOf(service.consul().on_suspect());
    }
    for (const v1::StaticEndpoint& endpoint : service.static_()) {
      HostPort address = ParseHostPort(endpoint.address()).value();
      policy.addresses.push_back({.host = std::move(address.host),
                                  .port = address.port,
                                  .weight = endpoint.has_weight() ? endpoint.weight() : 1,
                                  .zone = endpoint.zone()});
    }
    policy.balance = BalanceOf(service.load_balancer());
    ReadTimeouts(service.timeouts(), &policy);
    policy.breaker = BreakerOf(service.circuit_breaker());
    return policy;
  }

  std::unique_ptr<RoutePolicy> BuildRoute(const v1::Route& route) const {
    auto policy = std::make_unique<RoutePolicy>();
    policy->name = route.name();
    std::vector<std::string> variables;
    const v1::PathMatch& path = route.match().path();
    switch (path.match_case()) {
      case v1::PathMatch::kExact:
        policy->pattern = path.exact();
        break;
      case v1::PathMatch::kPrefix:
        policy->pattern = path.prefix();
        break;
      case v1::PathMatch::kTemplate:
        policy->pattern = path.template_();
        variables = VariablesOf(path.template_());
        break;
      case v1::PathMatch::kRegex:
        policy->pattern = path.regex();
        break;
      case v1::PathMatch::MATCH_NOT_SET:
        break;
    }
    auto variable_index = [&variables](std::string_view name) {
      return static_cast<int>(std::find(variables.begin(), variables.end(), name) - variables.begin());
    };

    if (!route.service().empty()) {
      policy->split.push_back({.service = services_.index.at(route.service()), .upto = 1});
      policy->split_total = 1;
    }
    for (const v1::WeightedService& target : route.split()) {
      const uint32_t weight = target.has_weight() ? target.weight() : 1;
      if (weight == 0) continue;
      policy->split_total += weight;
      policy->split.push_back({.service = services_.index.at(target.service()), .upto = policy->split_total});
    }
    if (route.has_consul_service()) {
      const v1::ConsulServiceRoute& config = route.consul_service();
      auto consul_service = std::make_unique<ConsulServicePolicy>();
      consul_service->variable = static_cast<uint32_t>(variable_index(config.from()));
      consul_service->allow.assign(config.allow().begin(), config.allow().end());
      consul_service->deny.assign(config.deny().begin(), config.deny().end());
      consul_service->own_service = options_.own_service;
      ServicePolicy& service = consul_service->service;
      service.from_consul = true;
      service.tags = SortedTags(config.tags());
      service.on_suspect = OnSuspectOf(config.template_().on_suspect());
      service.balance = BalanceOf(config.template_().load_balancer());
      ReadTimeouts(config.template_().timeouts(), &service);
      service.breaker = BreakerOf(config.template_().circuit_breaker());
      policy->consul_service = std::move(consul_service);
    }

    BuildRewrite(route.rewrite(), variable_index, policy.get());
    policy->timeout = kRouteTimeout;
    if (route.has_timeout()) {
      policy->timeout = ToMillis(route.timeout());
    } else if (defaults_ != nullptr && defaults_->has_timeout()) {
      policy->timeout = ToMillis(defaults_->timeout());
    }
    if (route.has_max_duration()) policy->max_duration = ToMillis(route.max_duration());
    if (route.has_upgrade_idle_timeout()) policy->upgrade_idle_timeout = ToMillis(route.upgrade_idle_timeout());
    policy->websocket = std::find(route.upgrades().begin(), route.upgrades().end(),
                                  static_cast<int>(v1::Route::WEBSOCKET)) != route.upgrades().end();
    const auto* limits = &route.rate_limits();
    if (limits->empty() && defaults_ != nullptr) limits = &defaults_->rate_limits();
    for (const std::string& name : *limits) {
      if (name == kNone) continue;
      const int index = limit_indices_[rate_limits_.index.at(name)];
      if (index >= 0) policy->rate_limits.push_back(static_cast<uint32_t>(index));
    }
    return policy;
  }

  template <typename VariableIndex>
  static void BuildRewrite(const v1::Rewrite& rewrite, const VariableIndex& variable_index, RoutePolicy* policy) {
    policy->rewrite_host = rewrite.host();
    if (!rewrite.prefix().empty()) {
      policy->rewrites = true;
      policy->rewrite_is_prefix = true;
      std::string_view prefix = rewrite.prefix();
      if (prefix.ends_with('/')) prefix.remove_suffix(1);  // the rest begins with its own, or is nothing
      policy->rewrite.push_back({.literal = std::string(prefix), .variable = -1});
    }
    if (!rewrite.template_().empty()) {
      policy->rewrites = true;
      std::string literal;
      const std::vector<TemplateSegment> segments = ParseTemplate(rewrite.template_()).value();
      for (const TemplateSegment& segment : segments) {
        if (segment.kind != TemplateSegment::Kind::kRest) literal += '/';  // ** has its own, or is nothing
        if (segment.kind == TemplateSegment::Kind::kLiteral) {
          literal += segment.text;
          continue;
        }
        if (!literal.empty()) policy->rewrite.push_back({.literal = std::exchange(literal, {}), .variable = -1});
        policy->rewrite.push_back({.literal = {}, .variable = variable_index(segment.text)});
      }
      if (!literal.empty()) policy->rewrite.push_back({.literal = std::move(literal), .variable = -1});
    }
  }

  std::span<const v1::Resource* const> resources_;
  const CompileOptions& options_;
  CompileResult result_;
  int suggestions_ = 0;
  Kind<v1::Service> services_;
  Kind<v1::Route> routes_;
  Kind<v1::RateLimit> rate_limits_;
  Kind<v1::CircuitBreaker> breakers_;
  const v1::Defaults* defaults_ = nullptr;

  std::shared_ptr<Snapshot> snapshot_;
  std::vector<int> limit_indices_;  // by position in rate_limits_.sorted: in Snapshot::rate_limits(), or -1: disabled
  std::vector<std::shared_ptr<const BreakerPolicy>> breaker_policies_;  // by position in breakers_.sorted
};

CompileResult CompileSnapshot(std::span<const v1::Resource* const> resources, const CompileOptions& options) {
  return SnapshotCompiler(resources, options).Run();
}

std::vector<v1::Resource> BuiltinResources(const std::optional<BuiltinRateLimit>& rate_limit) {
  std::vector<v1::Resource> resources(3);

  const BuiltinRateLimit limit = rate_limit.value_or(BuiltinRateLimit{});
  v1::RateLimit& default_limit = *resources[0].mutable_rate_limit();
  default_limit.set_name(std::string(kDefaultName));
  default_limit.add_key("client_ip");
  default_limit.add_key("path");
  default_limit.mutable_limit()->set_requests(limit.max_requests);
  google::protobuf::Duration& window = *default_limit.mutable_limit()->mutable_window();
  window.set_seconds(limit.window.count() / 1000);
  window.set_nanos(static_cast<int32_t>(limit.window.count() % 1000 * 1'000'000));
  if (!rate_limit.has_value()) default_limit.set_mode(v1::RateLimit::DISABLED);

  v1::CircuitBreaker& hystrix = *resources[1].mutable_circuit_breaker();
  hystrix.set_name("hystrix");
  hystrix.mutable_timeout()->set_seconds(1);
  hystrix.set_max_concurrent_requests(100);
  hystrix.set_request_volume_threshold(20);
  hystrix.mutable_sleep_window()->set_seconds(5);
  hystrix.set_error_percent_threshold(50);

  v1::Defaults& defaults = *resources[2].mutable_defaults();
  defaults.set_name(std::string(kDefaultName));
  defaults.add_rate_limits(std::string(kDefaultName));
  defaults.mutable_timeout()->set_seconds(30);
  return resources;
}

}  // namespace gateway
