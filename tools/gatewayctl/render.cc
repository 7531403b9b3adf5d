#include "tools/gatewayctl/render.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "common/base/certificate.h"
#include "common/base/endpoint_name.h"
#include "common/base/host_port.h"
#include "common/base/units.h"
#include "common/policy/policy_files.h"
#include "tools/gatewayctl/format.h"
#include "tools/gatewayctl/requirement.h"
#include "tools/gatewayctl/table.h"

namespace gateway::ctl {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr size_t kSummaryItemsMax = 3;  // of a list inside a table's cell
constexpr char kNone[] = "none";

std::string Lower(const std::string& enum_name) { return absl::AsciiStrToLower(enum_name); }

// "a, b, c and 7 more".
template <typename Range>
std::string JoinSome(const Range& items, size_t most = kSummaryItemsMax) {
  std::vector<std::string> shown(items.begin(), items.end());
  const size_t total = shown.size();
  if (total <= most) return absl::StrJoin(shown, ", ");
  shown.resize(most);
  return absl::StrCat(absl::StrJoin(shown, ", "), " and ", total - most, " more");
}

std::string DurationOr(bool given, const google::protobuf::Duration& duration, const char* absent) {
  return given ? FormatDuration(duration) : absent;
}

void CollectReferences(const Message& message, std::vector<ResourceKey>* found) {
  const auto* r = message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  r->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    if (field->is_map()) continue;
    const int count = field->is_repeated() ? r->FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        CollectReferences(
            field->is_repeated() ? r->GetRepeatedMessage(message, field, i) : r->GetMessage(message, field), found);
        continue;
      }
      if (field->cpp_type() != FieldDescriptor::CPPTYPE_STRING) continue;
      const std::string& kind = field->options().GetExtension(v1::rules).reference();
      if (kind.empty()) continue;
      ResourceKey key{kind,
                      field->is_repeated() ? r->GetRepeatedString(message, field, i) : r->GetString(message, field)};
      if (key.name.empty() || key.name == kNone) continue;
      if (std::find(found->begin(), found->end(), key) == found->end()) found->push_back(std::move(key));
    }
  }
}

std::string HostPort(const std::string& host, uint32_t port) {
  return host.find(':') == std::string::npos ? absl::StrCat(host, ":", port) : absl::StrCat("[", host, "]:", port);
}

std::string PathText(const v1::PathMatch& path) {
  switch (path.match_case()) {
    case v1::PathMatch::kExact:
      return absl::StrCat("= ", path.exact());
    case v1::PathMatch::kPrefix:
      return absl::StrCat(path.prefix(), path.prefix().ends_with('/') ? "**" : "/**");
    case v1::PathMatch::kTemplate:
      return path.template_();
    case v1::PathMatch::kRegex:
      return absl::StrCat("~ ", path.regex());
    case v1::PathMatch::MATCH_NOT_SET:
      break;
  }
  return "any";
}

// "X-Canary=1", "no X-Debug", "v~2.*".
template <typename Match>
std::string ConditionText(const Match& match) {
  if (match.has_exact()) return absl::StrCat(match.name(), "=", match.exact());
  if (match.has_prefix()) return absl::StrCat(match.name(), "=", match.prefix(), "*");
  if (match.has_regex()) return absl::StrCat(match.name(), "~", match.regex());
  return match.has_present() && !match.present() ? absl::StrCat("no ", match.name()) : match.name();
}

// Of match.grpc: "shop.v1.Orders/Get", "shop.v1.Orders/*".
std::string CallText(const v1::GrpcMatch& grpc) {
  return absl::StrCat(grpc.service(), "/", grpc.method().empty() ? "*" : grpc.method());
}

// "/v1/**", "grpc shop.v1.Orders/Get".
std::string PathText(const v1::RouteMatch& match) {
  return match.has_grpc() ? absl::StrCat("grpc ", CallText(match.grpc())) : PathText(match.path());
}

// Of the scheme, of headers and of the query ("?v=2").
std::vector<std::string> ConditionsOf(const v1::RouteMatch& match) {
  std::vector<std::string> conditions;
  if (match.scheme() != v1::RouteMatch::SCHEME_UNSPECIFIED) {
    conditions.push_back(absl::StrCat("scheme=", Lower(v1::RouteMatch::Scheme_Name(match.scheme()))));
  }
  for (const v1::HeaderMatch& header : match.headers()) conditions.push_back(ConditionText(header));
  for (const v1::QueryMatch& query : match.query()) conditions.push_back(absl::StrCat("?", ConditionText(query)));
  return conditions;
}

// "GET, POST api.example.com/v1/** (X-Canary=1)".
std::string MatchText(const v1::RouteMatch& match) {
  std::string text;
  if (match.methods_size() > 0) absl::StrAppend(&text, JoinSome(match.methods()), " ");
  const std::string path = PathText(match);
  if (match.hosts_size() > 0) absl::StrAppend(&text, JoinSome(match.hosts()), path.starts_with('/') ? "" : " ");
  absl::StrAppend(&text, path);
  const std::vector<std::string> conditions = ConditionsOf(match);
  if (!conditions.empty()) absl::StrAppend(&text, " (", JoinSome(conditions), ")");
  return text;
}

// Whom an Auth lets in: "any consumer", "group partners or consumer acme".
std::string AdmittedText(const v1::AuthAllow& allow, size_t most = kSummaryItemsMax) {
  if (allow.groups().empty() && allow.consumers().empty()) return "any consumer";
  std::vector<std::string> parts;
  if (!allow.groups().empty()) {
    parts.push_back(absl::StrCat(allow.groups_size() == 1 ? "group " : "groups ", JoinSome(allow.groups(), most)));
  }
  if (!allow.consumers().empty()) {
    parts.push_back(
        absl::StrCat(allow.consumers_size() == 1 ? "consumer " : "consumers ", JoinSome(allow.consumers(), most)));
  }
  return absl::StrJoin(parts, " or ");
}

uint32_t WeightOf(const v1::WeightedService& target) { return target.has_weight() ? target.weight() : 1; }

// Where a route's requests go, each with its share in per cent.
std::vector<std::pair<std::string, double>> TargetsOf(const v1::Route& route) {
  if (!route.service().empty()) return {{route.service(), 100.0}};
  double total = 0;
  for (const auto& target : route.split()) total += WeightOf(target);
  std::vector<std::pair<std::string, double>> targets;
  for (const auto& target : route.split()) {
    targets.emplace_back(target.service(), total > 0 ? 100.0 * WeightOf(target) / total : 0);
  }
  return targets;
}

std::string Percent(double share) {
  const long tenths = std::lround(share * 10);
  std::string text = absl::StrCat(tenths / 10);
  const long tenth = tenths % 10;
  return tenth == 0 ? absl::StrCat(text, "%") : absl::StrCat(text, ".", tenth, "%");
}

std::string RouteTo(const v1::Route& route, size_t most = kSummaryItemsMax) {
  if (route.has_consul_service()) return absl::StrCat("consul {", route.consul_service().from(), "}");
  if (!route.service().empty()) return route.service();
  if (route.has_redirect()) {
    return absl::StrCat("redirect ", route.redirect().has_status() ? route.redirect().status() : 308);
  }
  if (route.has_respond()) {
    return absl::StrCat("respond ", route.respond().has_status() ? route.respond().status() : 200);
  }
  std::vector<std::string> shares;
  for (const auto& [service, share] : TargetsOf(route)) shares.push_back(absl::StrCat(service, " ", Percent(share)));
  return JoinSome(shares, most);
}

std::string ServiceSource(const v1::Service& service, size_t most = kSummaryItemsMax) {
  if (service.has_consul()) {
    return absl::StrCat(
        "consul ", service.consul().service(),
        service.consul().datacenter().empty() ? "" : absl::StrCat("@", service.consul().datacenter()),
        service.consul().tags().empty() ? "" : absl::StrCat(" (", absl::StrJoin(service.consul().tags(), ", "), ")"));
  }
  std::vector<std::string> addresses;
  for (const auto& endpoint : service.static_()) addresses.push_back(endpoint.address());
  return JoinSome(addresses, most);
}

std::string BalancerOf(const v1::LoadBalancer& balancer) {
  return balancer.policy() == v1::LoadBalancer::POLICY_UNSPECIFIED
             ? "round_robin"
             : Lower(v1::LoadBalancer::Policy_Name(balancer.policy()));
}

std::string LimitText(const v1::RateLimit& limit) {
  std::string text = absl::StrCat(limit.limit().requests(), " per ", FormatDuration(limit.limit().window()));
  if (limit.algorithm() == v1::RateLimit::FIXED_WINDOW) absl::StrAppend(&text, ", fixed window");
  if (limit.algorithm() == v1::RateLimit::TOKEN_BUCKET) {
    const uint32_t burst = limit.limit().has_burst() ? limit.limit().burst() : limit.limit().requests();
    absl::StrAppend(&text, ", burst ", burst);
  }
  return text;
}

std::string ModeOf(const v1::RateLimit& limit) {
  return limit.mode() == v1::RateLimit::MODE_UNSPECIFIED ? "enforce" : Lower(v1::RateLimit::Mode_Name(limit.mode()));
}

uint32_t ValueOr(bool given, uint32_t value, uint32_t absent) { return given ? value : absent; }

// "api_key, jwt".
std::string AuthMethodsText(const v1::Auth& auth) {
  std::vector<std::string> words;
  for (const v1::AuthMethod& method : auth.methods()) {
    words.push_back(method.has_api_key()              ? "api_key"
                    : method.has_jwt()                ? "jwt"
                    : method.has_client_certificate() ? "client_certificate"
                                                      : "basic");
  }
  return absl::StrJoin(words, ", ");
}

// The hosts that it serves, and when it expires.
std::vector<std::string> CertificateCells(const v1::Certificate& certificate, size_t most) {
  const auto chain = ReadCertificates(certificate.certificate().inline_());
  if (!chain.ok()) return {JoinSome(certificate.hosts(), most), "unreadable"};
  const X509* leaf = chain->front().get();
  return {
      certificate.hosts().empty() ? JoinSome(AlternativeNamesOf(leaf).dns, most) : JoinSome(certificate.hosts(), most),
      absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", ExpiryOf(leaf), absl::UTCTimeZone())};
}

// A kind's own columns, between the name and the revision.
std::vector<std::string> Headings(const std::string& kind) {
  if (kind == "Service") return {"ENDPOINTS", "BALANCER", "BREAKER"};
  if (kind == "Route") return {"HOSTS", "METHODS", "PATH", "CONDITIONS", "TO", "PRIORITY"};
  if (kind == "RateLimit") return {"LIMIT", "KEY", "MODE"};
  if (kind == "CircuitBreaker") return {"TIMEOUT", "CONCURRENT", "VOLUME", "ERRORS", "SLEEP"};
  if (kind == "Retry") return {"ATTEMPTS", "CONDITIONS", "METHODS", "BUDGET"};
  if (kind == "Auth") return {"METHODS", "ADMITS"};
  if (kind == "Consumer") return {"GROUPS", "CREDENTIALS"};
  if (kind == "Cors") return {"ORIGINS", "METHODS", "CREDENTIALS"};
  if (kind == "Certificate") return {"HOSTS", "EXPIRES"};
  if (kind == "IpAccess") return {"ALLOW", "DENY"};
  if (kind == "Defaults") return {"RATE LIMITS", "BREAKER", "TIMEOUT"};
  return {"SUMMARY"};
}

// `most`: of each list.
std::vector<std::string> Cells(const v1::Resource& resource, size_t most = kSummaryItemsMax) {
  switch (resource.kind_case()) {
    case v1::Resource::kService: {
      const v1::Service& s = resource.service();
      return {ServiceSource(s, most), BalancerOf(s.load_balancer()), s.circuit_breaker()};
    }
    case v1::Resource::kRoute: {
      const v1::Route& r = resource.route();
      return {r.match().hosts().empty() ? "any" : JoinSome(r.match().hosts(), most),
              r.match().methods().empty() ? "any" : JoinSome(r.match().methods(), most),
              PathText(r.match()),
              JoinSome(ConditionsOf(r.match()), most),
              RouteTo(r, most),
              absl::StrCat(r.priority())};
    }
    case v1::Resource::kRateLimit: {
      const v1::RateLimit& l = resource.rate_limit();
      return {LimitText(l), l.key().empty() ? "one for all" : absl::StrJoin(l.key(), ", "), ModeOf(l)};
    }
    case v1::Resource::kCircuitBreaker: {
      const v1::CircuitBreaker& b = resource.circuit_breaker();
      return {DurationOr(b.has_timeout(), b.timeout(), "1s"),
              absl::StrCat(ValueOr(b.has_max_concurrent_requests(), b.max_concurrent_requests(), 100)),
              absl::StrCat(ValueOr(b.has_request_volume_threshold(), b.request_volume_threshold(), 20)),
              absl::StrCat(ValueOr(b.has_error_percent_threshold(), b.error_percent_threshold(), 50), "%"),
              DurationOr(b.has_sleep_window(), b.sleep_window(), "5s")};
    }
    case v1::Resource::kRetry: {
      const v1::Retry& r = resource.retry();
      return {absl::StrCat(ValueOr(r.has_attempts(), r.attempts(), 1)),
              r.conditions().empty() ? "connect_failure, reset, 502, 503, 504" : absl::StrJoin(r.conditions(), ", "),
              r.methods().empty() ? "GET, HEAD, PUT, DELETE, OPTIONS" : absl::StrJoin(r.methods(), ", "),
              absl::StrCat(ValueOr(r.budget().has_percent(), r.budget().percent(), 20), "%")};
    }
    case v1::Resource::kAuth: {
      const v1::Auth& a = resource.auth();
      return {AuthMethodsText(a), AdmittedText(a.allow(), most)};
    }
    case v1::Resource::kConsumer: {
      const v1::Consumer& c = resource.consumer();
      return {JoinSome(c.groups(), most), absl::StrCat(c.credentials_size())};
    }
    case v1::Resource::kCors: {
      const v1::Cors& c = resource.cors();
      return {JoinSome(c.origins(), most), c.methods().empty() ? "GET, HEAD, POST" : absl::StrJoin(c.methods(), ", "),
              c.credentials() ? "yes" : "no"};
    }
    case v1::Resource::kCertificate:
      return CertificateCells(resource.certificate(), most);
    case v1::Resource::kIpAccess: {
      const v1::IpAccess& a = resource.ip_access();
      return {a.allow().empty() ? "any" : JoinSome(a.allow(), most),
              a.deny().empty() ? kNone : JoinSome(a.deny(), most)};
    }
    case v1::Resource::kDefaults: {
      const v1::Defaults& d = resource.defaults();
      return {JoinSome(d.rate_limits(), most), d.circuit_breaker(), DurationOr(d.has_timeout(), d.timeout(), "30s")};
    }
    case v1::Resource::KIND_NOT_SET:
      break;
  }
  return {""};
}

std::string Summary(const v1::Resource& resource) {
  switch (resource.kind_case()) {
    case v1::Resource::kService:
      return ServiceSource(resource.service());
    case v1::Resource::kRoute:
      return absl::StrCat(MatchText(resource.route().match()), " -> ", RouteTo(resource.route()));
    case v1::Resource::kRateLimit:
      return absl::StrCat(
          LimitText(resource.rate_limit()),
          resource.rate_limit().key().empty() ? ""
                                              : absl::StrCat(" by ", absl::StrJoin(resource.rate_limit().key(), ", ")),
          ModeOf(resource.rate_limit()) == "enforce" ? "" : absl::StrCat(" (", ModeOf(resource.rate_limit()), ")"));
    case v1::Resource::kCircuitBreaker: {
      const std::vector<std::string> cells = Cells(resource);
      return absl::StrCat("opens at ", cells[3], " of ", cells[2], " or more, for ", cells[4]);
    }
    case v1::Resource::kRetry: {
      const std::vector<std::string> cells = Cells(resource);
      return absl::StrCat(cells[0], " more on ", cells[1], "; budget ", cells[3]);
    }
    case v1::Resource::kAuth: {
      const std::vector<std::string> cells = Cells(resource);
      return absl::StrCat(cells[0], "; admits ", cells[1]);
    }
    case v1::Resource::kConsumer: {
      const std::vector<std::string> cells = Cells(resource);
      return absl::StrCat("groups: ", cells[0].empty() ? kNone : cells[0], "; ", cells[1], " credentials");
    }
    case v1::Resource::kCors: {
      const std::vector<std::string> cells = Cells(resource);
      return absl::StrCat(cells[0], ": ", cells[1]);
    }
    case v1::Resource::kCertificate: {
      const std::vector<std::string> cells = Cells(resource);
      return absl::StrCat("for ", cells[0].empty() ? kNone : cells[0], "; expires ", cells[1]);
    }
    case v1::Resource::kIpAccess: {
      const std::vector<std::string> cells = Cells(resource);
      return absl::StrCat("allow: ", cells[0], "; deny: ", cells[1]);
    }
    case v1::Resource::kDefaults: {
      const v1::Defaults& d = resource.defaults();
      return absl::StrCat("limits: ", d.rate_limits().empty() ? kNone : JoinSome(d.rate_limits()),
                          "; breaker: ", d.circuit_breaker().empty() ? kNone : d.circuit_breaker());
    }
    case v1::Resource::KIND_NOT_SET:
      break;
  }
  return "";
}

std::string LabelsText(const v1::Resource& resource) {
  const std::map<std::string, std::string> labels(LabelsOf(resource).begin(), LabelsOf(resource).end());
  return absl::StrJoin(labels, ", ", absl::PairFormatter("="));
}

std::string DescriptionOf(const v1::Resource& resource) {
  const Message* body = BodyOf(resource);
  const FieldDescriptor* field = body == nullptr ? nullptr : body->GetDescriptor()->FindFieldByName("description");
  return field == nullptr ? "" : body->GetReflection()->GetString(*body, field);
}

// "+Route/a, -Route/b and 9,997 more (9,998 deleted)".
std::string ChangesText(const google::protobuf::RepeatedPtrField<v1::Change>& all) {
  std::vector<std::string> shown;
  std::map<v1::Change::Op, size_t> counts;
  for (const v1::Change& change : all) {
    if (change.op() == v1::Change::UNCHANGED) continue;
    ++counts[change.op()];
    const char* sign = change.op() == v1::Change::CREATED ? "+" : change.op() == v1::Change::DELETED ? "-" : "~";
    shown.push_back(absl::StrCat(sign, change.kind(), "/", change.name()));
  }
  std::string text = JoinSome(shown);
  if (shown.size() <= kSummaryItemsMax) return text;
  std::vector<std::string> sums;
  for (const auto& [op, count] : counts) sums.push_back(absl::StrCat(count, " ", Lower(v1::Change::Op_Name(op))));
  return absl::StrCat(text, " (", absl::StrJoin(sums, ", "), ")");
}

std::string RevisionCell(const v1::StoredResource& stored) {
  return stored.built_in() ? "built-in" : absl::StrCat(stored.revision());
}

std::string StateOf(const v1::DataPlaneState& plane) {
  if (!plane.connected()) return plane.lost() ? "lost" : "gone";
  if (!plane.rivals().empty()) return "contended";
  if (!plane.held().empty()) return "held";
  const std::string state =
      plane.rejections().empty() ? "connected" : absl::StrCat("rejected ", plane.rejected_revision());
  if (plane.log_level() == v1::LoggingSection::LEVEL_UNSPECIFIED) return state;
  return absl::StrCat(state, ", log ", Lower(v1::LoggingSection::Level_Name(plane.log_level())));
}

// "10.0.0.7:8080, version 0.2.0"
std::string RivalText(const v1::Rival& rival) {
  return Printable(absl::StrCat(rival.address(), ", version ", rival.version()));
}

// "Route/orders: match.path.regex: too long"
std::string RejectionText(const v1::Rejection& rejection) {
  std::vector<std::string> parts;
  if (!rejection.kind().empty()) parts.push_back(absl::StrCat(rejection.kind(), "/", rejection.name()));
  if (!rejection.field().empty()) parts.push_back(rejection.field());
  parts.push_back(rejection.reason());
  return Printable(absl::StrJoin(parts, ": "));
}

bool HasTags(const v1::Instance& instance, const google::protobuf::RepeatedPtrField<std::string>& tags,
             std::string* missing) {
  for (const std::string& tag : tags) {
    if (std::find(instance.tags().begin(), instance.tags().end(), tag) == instance.tags().end()) {
      *missing = tag;
      return false;
    }
  }
  return true;
}

const v1::EndpointSet* SetOf(const v1::ConsulSource& source, const EndpointSets& sets) {
  for (const v1::EndpointSet& set : sets) {
    if (set.key().service() == source.service() &&
        (source.datacenter().empty() || set.key().datacenter() == source.datacenter())) {
      return &set;
    }
  }
  return nullptr;
}

// Those of Consul; `service`: whose tags they need to have, or null.
void AddInstances(const v1::EndpointSet& set, const v1::Service* service, std::vector<EndpointRow>* rows) {
  for (const v1::Instance& instance : set.instances()) {
    EndpointRow row{.service = set.key().service(),
                    .address = HostPort(instance.address(), instance.port()),
                    .health = Lower(v1::Instance::Health_Name(instance.health())),
                    .weight = instance.weight(),
                    .serving = false,
                    .why_not = "",
                    .zone = instance.zone(),
                    .tags = {instance.tags().begin(), instance.tags().end()},
                    .id = instance.id(),
                    .excluded = {},
                    .out_at = {},
                    .override = {},
                    .set_by = {}};
    std::string missing_tag;
    if (!instance.unusable().empty()) {
      row.why_not = instance.unusable();
    } else if (instance.health() != v1::Instance::PASSING && instance.health() != v1::Instance::WARNING) {
      row.why_not = row.health;
    } else if (instance.weight() == 0) {
      row.why_not = "weight 0";
    } else if (service != nullptr && !HasTags(instance, service->consul().tags(), &missing_tag)) {
      row.why_not = absl::StrCat("no tag ", missing_tag);
    } else {
      row.serving = true;
    }
    rows->push_back(std::move(row));
  }
}

int CountServing(std::span<const EndpointRow> rows) {
  return static_cast<int>(std::count_if(rows.begin(), rows.end(), [](const EndpointRow& row) { return row.serving; }));
}

std::string SetState(const v1::EndpointSet* set, int serving) {
  if (set != nullptr && set->state() == v1::EndpointSet::UNKNOWN_SERVICE) return "unknown to Consul";
  if (set == nullptr || set->state() != v1::EndpointSet::KNOWN) return "not read from Consul yet";
  if (set->stale()) return absl::StrCat("stale: ", set->alarm());
  return serving == 0 ? "no endpoint serves" : "ok";
}

const v1::StoredResource* Find(const ResourceKey& key, std::span<const v1::StoredResource> all) {
  for (const v1::StoredResource& stored : all) {
    if (KeyOf(stored.resource()) == key) return &stored;
  }
  return nullptr;
}

// "  Label:        text"
void AppendFact(std::string* out, const std::string& label, const std::string& text) {
  constexpr size_t kLabelWidth = 14;
  std::string line = absl::StrCat("  ", label, label.empty() ? "" : ":");
  line.resize(std::max(line.size() + 1, kLabelWidth + 2), ' ');
  absl::StrAppend(out, line, Printable(text), "\n");
}

// With what data planes leave out of them.
std::vector<EndpointRow> RowsOf(const v1::Service& service, const v1::ListEndpointsResponse& all, absl::Time now) {
  std::vector<EndpointRow> rows = EndpointsOf(&service, all.sets());
  AddOverrides(all, &service, service.name(), now, &rows);
  AddExclusions(all, service.name(), &rows);
  return rows;
}

std::string EndpointsText(const v1::Service& service, const v1::ListEndpointsResponse& all, absl::Time now) {
  const std::vector<EndpointRow> rows = RowsOf(service, all, now);
  std::vector<std::string> addresses;
  for (const EndpointRow& row : rows) {
    if (row.serving) addresses.push_back(row.address);
  }
  return absl::StrCat(CountServing(rows), " of ", rows.size(), " endpoints serving",
                      addresses.empty() ? "" : absl::StrCat(": ", JoinSome(addresses)));
}

// A setting and whose it is, where the document itself says nothing.
template <typename List>
std::string LimitsText(const List& own, const v1::Defaults* defaults) {
  const bool inherited = own.empty();
  if (inherited && (defaults == nullptr || defaults->rate_limits().empty())) return kNone;
  const auto& list = inherited ? defaults->rate_limits() : own;
  return absl::StrCat(absl::StrJoin(list, ", "), inherited ? "  (Defaults/default)" : "");
}

std::string BreakerText(const std::string& own, const v1::Defaults* defaults) {
  if (!own.empty()) return own;
  if (defaults == nullptr || defaults->circuit_breaker().empty()) return kNone;
  return absl::StrCat(defaults->circuit_breaker(), "  (Defaults/default)");
}

void DescribeRoute(const v1::Route& route, const Description& d, const v1::Defaults* defaults, absl::Time now,
                   std::string* out) {
  *out += "\nServes\n";
  const v1::RouteMatch& match = route.match();
  AppendFact(out, "Hosts", match.hosts().empty() ? "any" : absl::StrJoin(match.hosts(), ", "));
  AppendFact(out, "Methods", match.methods().empty() ? "any" : absl::StrJoin(match.methods(), ", "));
  AppendFact(out, "Path", PathText(match));
  if (const std::vector<std::string> conditions = ConditionsOf(match); !conditions.empty()) {
    AppendFact(out, "Conditions", absl::StrJoin(conditions, ", "));
  }
  std::string label = "To";
  if (route.has_consul_service()) {
    const v1::ConsulServiceRoute& consul = route.consul_service();
    AppendFact(
        out, label,
        absl::StrCat("the service of Consul named by {", consul.from(),
                     "}; allowed: ", consul.allow().empty() ? "none" : absl::StrJoin(consul.allow(), ", "),
                     consul.deny().empty() ? "" : absl::StrCat("; denied: ", absl::StrJoin(consul.deny(), ", "))));
    AppendFact(out, "Breaker", BreakerText(consul.template_().circuit_breaker(), defaults));
  }
  for (const auto& [name, share] : TargetsOf(route)) {
    const v1::StoredResource* service = Find({"Service", name}, d.all);
    std::string text = absl::StrCat(Percent(share), " Service/", name);
    if (service == nullptr) {
      absl::StrAppend(&text, ": not defined");
    } else {
      absl::StrAppend(&text, ": ", EndpointsText(service->resource().service(), d.endpoints, now),
                      "; breaker: ", BreakerText(service->resource().service().circuit_breaker(), defaults));
    }
    AppendFact(out, label, text);
    label.clear();
  }
  std::string timeout = DurationOr(route.has_timeout(), route.timeout(), "");
  if (timeout.empty()) {
    timeout = defaults != nullptr && defaults->has_timeout()
                  ? absl::StrCat(FormatDuration(defaults->timeout()), "  (Defaults/default)")
                  : "30s  (built-in)";
  }
  AppendFact(out, "Timeout", timeout);
  AppendFact(out, "Rate limits", LimitsText(route.rate_limits(), defaults));
}

void DescribeService(const v1::Service& service, const Description& d, const v1::Defaults* defaults, absl::Time now,
                     std::string* out) {
  *out += "\nServes\n";
  const std::vector<EndpointRow> rows = RowsOf(service, d.endpoints, now);
  if (service.has_consul()) {
    AppendFact(out, "Source", ServiceSource(service));
    AppendFact(out, "State", SetState(SetOf(service.consul(), d.endpoints.sets()), CountServing(rows)));
  } else {
    AppendFact(out, "Source", "static");
  }
  AppendFact(out, "Balancer", BalancerOf(service.load_balancer()));
  if (service.protocol() == v1::Service::HTTP2) AppendFact(out, "Protocol", "HTTP/2");
  if (service.protocol() == v1::Service::AUTO) AppendFact(out, "Protocol", "HTTP/2 or HTTP/1.1, by ALPN");
  AppendFact(out, "Breaker", BreakerText(service.circuit_breaker(), defaults));
  *out += "\nEndpoints\n";
  if (rows.empty()) {
    *out += "  none\n";
    return;
  }
  std::vector<std::string> lines = absl::StrSplit(RenderEndpoints(rows), '\n', absl::SkipEmpty());
  for (const std::string& line : lines) absl::StrAppend(out, "  ", line, "\n");
}

void DescribeConsumer(const v1::Consumer& consumer, const Description& d, std::string* out) {
  *out += "\nAdmitted by\n";
  const std::vector<Admission> admissions = AdmissionsOf(consumer, d.all);
  for (const Admission& admission : admissions) {
    absl::StrAppend(out, "  Auth/", Printable(admission.auth), " through ", absl::StrJoin(admission.methods, ", "),
                    ": ", Printable(admission.because),
                    "; routes: ", admission.routes.empty() ? kNone : Printable(JoinSome(admission.routes)), "\n");
  }
  if (admissions.empty()) *out += "  nothing\n";
}

void AppendKeys(const std::string& title, const std::vector<ResourceKey>& keys, std::span<const v1::StoredResource> all,
                std::string* out) {
  absl::StrAppend(out, "\n", title, "\n");
  for (const ResourceKey& key : keys) {
    const v1::StoredResource* stored = Find(key, all);
    absl::StrAppend(out, "  ", key.ToString(),
                    stored == nullptr    ? "  (not defined)"
                    : stored->built_in() ? "  (built-in)"
                                         : "",
                    "\n");
  }
  if (keys.empty()) *out += "  none\n";
}

}  // namespace

std::vector<ResourceKey> ReferencesOf(const v1::Resource& resource) {
  std::vector<ResourceKey> found;
  if (const Message* body = BodyOf(resource); body != nullptr) CollectReferences(*body, &found);
  return found;
}

std::vector<ResourceKey> ReferrersOf(const ResourceKey& key, std::span<const v1::StoredResource> all) {
  std::vector<ResourceKey> found;
  for (const v1::StoredResource& stored : all) {
    const std::vector<ResourceKey> references = ReferencesOf(stored.resource());
    if (std::find(references.begin(), references.end(), key) != references.end()) {
      found.push_back(KeyOf(stored.resource()));
    }
  }
  return found;
}

std::vector<Admission> AdmissionsOf(const v1::Consumer& consumer, std::span<const v1::StoredResource> all) {
  const v1::StoredResource* stored = Find({"Defaults", "default"}, all);
  const std::string by_default = stored == nullptr ? "" : stored->resource().defaults().auth();
  std::vector<Admission> admissions;
  for (const v1::StoredResource& each : all) {
    if (!each.resource().has_auth()) continue;
    const v1::Auth& auth = each.resource().auth();
    Admission admission{.auth = auth.name(), .methods = {}, .because = "any consumer is admitted", .routes = {}};
    for (const v1::AuthMethod& method : auth.methods()) {
      const bool has = std::any_of(
          consumer.credentials().begin(), consumer.credentials().end(), [&method](const v1::Credential& credential) {
            return (method.has_api_key() && credential.credential_case() == v1::Credential::kApiKeySha256) ||
                   (method.has_basic() && credential.has_basic()) ||
                   (method.has_client_certificate() && credential.has_client_certificate()) ||
                   (method.has_jwt() && credential.has_jwt() && credential.jwt().issuer() == method.jwt().issuer());
          });
      if (!has) continue;
      admission.methods.push_back(method.has_api_key()              ? "api_key"
                                  : method.has_jwt()                ? absl::StrCat("jwt of ", method.jwt().issuer())
                                  : method.has_client_certificate() ? "client_certificate"
                                                                    : "basic");
    }
    if (admission.methods.empty()) continue;
    if (auth.allow().groups_size() + auth.allow().consumers_size() > 0) {
      const auto& named = auth.allow().consumers();
      const auto group =
          std::find_if(auth.allow().groups().begin(), auth.allow().groups().end(), [&](const auto& name) {
            return std::find(consumer.groups().begin(), consumer.groups().end(), name) != consumer.groups().end();
          });
      if (std::find(named.begin(), named.end(), consumer.name()) != named.end()) {
        admission.because = "it is named";
      } else if (group != auth.allow().groups().end()) {
        admission.because = absl::StrCat("group ", *group);
      } else {
        continue;
      }
    }
    for (const v1::StoredResource& other : all) {
      if (!other.resource().has_route()) continue;
      const v1::Route& route = other.resource().route();
      if ((route.auth().empty() ? by_default : route.auth()) == auth.name()) admission.routes.push_back(route.name());
    }
    admissions.push_back(std::move(admission));
  }
  return admissions;
}

std::string RenderResources(const std::string& kind, std::span<const v1::StoredResource> resources, absl::Time now,
                            bool wide) {
  std::vector<std::string> headings;
  if (kind.empty()) headings.push_back("KIND");
  headings.push_back("NAME");
  for (std::string& heading : Headings(kind)) headings.push_back(std::move(heading));
  headings.push_back("REVISION");
  headings.push_back("AGE");
  if (wide) headings.insert(headings.end(), {"CHANGED", "LABELS", "DESCRIPTION"});
  Table table(headings);
  for (const v1::StoredResource& stored : resources) {
    ResourceKey key = KeyOf(stored.resource());
    std::vector<std::string> cells;
    if (kind.empty()) cells.push_back(key.kind);
    cells.push_back(key.name);
    for (std::string& cell :
         kind.empty() ? std::vector<std::string>{Summary(stored.resource())}
                      : Cells(stored.resource(), wide ? std::numeric_limits<size_t>::max() : kSummaryItemsMax)) {
      cells.push_back(std::move(cell));
    }
    cells.push_back(RevisionCell(stored));
    cells.push_back(FormatAge(stored.changed_at(), now));
    if (wide) {
      cells.resize(headings.size() - 3);
      cells.push_back(stored.has_changed_at() ? FormatTime(stored.changed_at()) : "");
      cells.push_back(LabelsText(stored.resource()));
      cells.push_back(DescriptionOf(stored.resource()));
    }
    cells.resize(headings.size());  // a server newer than this program may know kinds that this program doesn't
    table.AddRow(std::move(cells));
  }
  return table.ToString();
}

std::string SummaryOf(const v1::Resource& resource) { return Summary(resource); }

std::string RenderChanges(std::span<const v1::Change> changes) {
  std::string text;
  for (const v1::Change& change : changes) {
    absl::StrAppend(&text, Printable(change.kind()), "/", Printable(change.name()), " ",
                    Lower(v1::Change::Op_Name(change.op())), "\n");
  }
  return text;
}

std::string RenderHistory(std::span<const v1::RevisionInfo> revisions, absl::Time now) {
  Table table({"REVISION", "AGE", "ACTOR", "FROM", "CHANGES", "COMMENT"});
  for (const v1::RevisionInfo& info : revisions) {
    table.AddRow({absl::StrCat(info.revision()), FormatAge(info.time(), now), info.actor(), info.peer(),
                  ChangesText(info.changes()), info.comment()});
  }
  return table.ToString();
}

std::string RenderRevisionHead(const v1::RevisionInfo& info, absl::Time now) {
  std::string text = absl::StrCat("revision ", info.revision(), "\n");
  AppendFact(&text, "Time", absl::StrCat(FormatTime(info.time()), ", ", FormatAge(info.time(), now), " ago"));
  AppendFact(&text, "Actor", info.peer().empty() ? info.actor() : absl::StrCat(info.actor(), " from ", info.peer()));
  if (!info.comment().empty()) AppendFact(&text, "Comment", info.comment());
  return text;
}

std::string RenderUndone(const v1::RollbackResponse& rollback, absl::Time now, bool done) {
  if (rollback.undone_count() == 0) return "";
  std::string text = absl::StrCat(done ? "undone" : "this would undo", ":\n");
  for (const v1::RevisionInfo& info : rollback.undone()) {
    absl::StrAppend(&text, "  revision ", info.revision(), ", ", FormatAge(info.time(), now), " ago, by ",
                    Printable(info.actor()), ": ", Printable(ChangesText(info.changes())),
                    info.comment().empty() ? "" : absl::StrCat(" (", Printable(info.comment()), ")"), "\n");
  }
  const uint64_t more = rollback.undone_count() - static_cast<uint64_t>(rollback.undone_size());
  if (more > 0) absl::StrAppend(&text, "  and ", more, " earlier revisions\n");
  return text;
}

std::string RenderDataPlanes(const v1::ListDataPlanesResponse& state, absl::Time now) {
  Table table({"NAME", "ADDRESS", "ZONE", "STATE", "SINCE", "REVISION", "ENDPOINTS", "WORKERS", "VERSION"});
  for (const v1::DataPlaneState& plane : state.data_planes()) {
    table.AddRow({plane.name(), plane.address(), plane.zone(), StateOf(plane), FormatAge(plane.since(), now),
                  absl::StrCat(plane.applied_revision(), "/", state.revision()),
                  absl::StrCat(plane.applied_endpoints_version()), absl::StrCat(plane.workers()), plane.version()});
  }
  std::string text = table.ToString();
  for (const v1::DataPlaneState& plane : state.data_planes()) {
    for (const v1::Rejection& rejection : plane.rejections()) {
      absl::StrAppend(&text, Printable(plane.name()), " rejected revision ", plane.rejected_revision(), ": ",
                      RejectionText(rejection), "\n");
    }
    for (const v1::Rival& rival : plane.rivals()) {
      absl::StrAppend(&text, Printable(plane.name()), ": another instance claims this name and is refused (",
                      RivalText(rival), "; last try ", FormatAge(rival.last_seen(), now), " ago)\n");
    }
    if (!plane.held().empty()) {
      absl::StrAppend(&text, Printable(plane.name()), " is sent nothing: ", Printable(plane.held()),
                      "; see gatewayctl accept-history --help\n");
    }
  }
  return text;
}

std::string NamesText(const google::protobuf::RepeatedPtrField<std::string>& names, size_t count) {
  constexpr int kNamed = 5;
  std::string text;
  for (int i = 0; i < std::min(kNamed, names.size()); ++i) {
    absl::StrAppend(&text, i == 0 ? "" : ", ", Printable(names[i]));
  }
  const auto total = std::max<size_t>(count, names.size());
  if (total > kNamed) absl::StrAppend(&text, " and ", total - kNamed, " more");
  return text;
}

std::string RolloutLine(const v1::RolloutResponse& rollout) {
  return absl::StrCat(
      "revision ", rollout.revision(), " serving on ", rollout.serving(), "/", rollout.data_planes(), " data planes (",
      rollout.workers_serving(), " workers)",
      rollout.done() && rollout.has_elapsed() ? absl::StrCat(" in ", FormatElapsed(rollout.elapsed())) : "",
      rollout.lost().empty() ? ""
                             : absl::StrCat("; ", LostCount(rollout),
                                            " lost and not counted: ", NamesText(rollout.lost(), LostCount(rollout))));
}

std::string RenderPending(const v1::RolloutResponse& rollout) {
  constexpr int kTold = 5;
  std::string text;
  int told = 0;
  for (const v1::DataPlaneState& plane : rollout.pending()) {
    const std::string name = Printable(plane.name());
    if (told++ == kTold) break;
    // A rejection of an older revision says nothing of this one.
    if (plane.rejected_revision() >= rollout.revision() && !plane.rejections().empty()) {
      for (const v1::Rejection& rejection : plane.rejections()) {
        absl::StrAppend(&text, "  ", name, " rejected it: ", RejectionText(rejection), "\n");
      }
    } else if (!plane.connected()) {
      absl::StrAppend(&text, "  ", name, " is not connected, and expected back\n");
    } else if (!plane.rivals().empty()) {
      absl::StrAppend(&text, "  ", name, " is claimed by two instances: ", Printable(plane.address()), " and ",
                      RivalText(plane.rivals(0)), "\n");
    } else if (!plane.held().empty()) {
      absl::StrAppend(&text, "  ", name, " is sent nothing: ", Printable(plane.held()), "\n");
    } else if (plane.applied_revision() == 0) {
      absl::StrAppend(&text, "  ", name, " serves nothing yet\n");
    } else {
      absl::StrAppend(&text, "  ", name, " serves revision ", plane.applied_revision(), "\n");
    }
  }
  const uint32_t pending = std::max<uint32_t>(rollout.data_planes() - rollout.serving(), rollout.pending_size());
  if (pending > kTold) absl::StrAppend(&text, "  and ", pending - kTold, " more; see gatewayctl dataplanes\n");
  return text;
}

std::vector<EndpointRow> EndpointsOf(const v1::Service* service, const EndpointSets& sets) {
  std::vector<EndpointRow> rows;
  if (service != nullptr && !service->has_consul()) {
    for (const v1::StaticEndpoint& endpoint : service->static_()) {
      const uint32_t weight = endpoint.has_weight() ? endpoint.weight() : 1;
      rows.push_back({.service = service->name(),
                      .address = endpoint.address(),
                      .health = "static",
                      .weight = weight,
                      .serving = weight > 0,
                      .why_not = weight > 0 ? "" : "weight 0",
                      .zone = endpoint.zone(),
                      .tags = {},
                      .id = "",
                      .excluded = {},
                      .out_at = {},
                      .override = {},
                      .set_by = {}});
    }
    return rows;
  }
  const v1::EndpointSet* only = service == nullptr ? nullptr : SetOf(service->consul(), sets);
  for (const v1::EndpointSet& set : sets) {
    if (service != nullptr && &set != only) continue;
    AddInstances(set, service, &rows);
  }
  return rows;
}

namespace {

std::string NameOfEndpoint(const std::string& address) {
  const absl::StatusOr<gateway::HostPort> parsed = ParseHostPort(address);
  return parsed.ok() ? EndpointName(parsed->host, parsed->port) : address;
}

// "drained", "weight 3"
std::string ActionText(const v1::EndpointOverride& override) {
  if (override.action_case() == v1::EndpointOverride::kDrain) return "drained";
  return override.weight() == 0 ? "taken out" : absl::StrCat("weight ", override.weight());
}

// "by alice, 8m left"
std::string OverrideText(const v1::EndpointOverride& override, absl::Time now) {
  std::string left;
  if (override.has_until()) {
    const absl::Time until =
        absl::FromUnixSeconds(override.until().seconds()) + absl::Nanoseconds(override.until().nanos());
    google::protobuf::Timestamp then;  // as long ago as it is away
    then.set_seconds(absl::ToUnixSeconds(now - std::max(until - now, absl::ZeroDuration())));
    left = absl::StrCat(", ", FormatAge(then, now), " left");
  }
  return absl::StrCat("by ", override.actor(), left);
}

}  // namespace

void AddOverrides(const v1::ListEndpointsResponse& endpoints, const v1::Service* service, std::string_view name,
                  absl::Time now, std::vector<EndpointRow>* rows) {
  const std::string consul_name = service != nullptr && service->has_consul() && service->consul().datacenter().empty()
                                      ? service->consul().service()
                                      : std::string(name);
  for (EndpointRow& row : *rows) {
    const std::string address = NameOfEndpoint(row.address);
    const v1::EndpointOverride* found = nullptr;
    for (const v1::EndpointOverride& each : endpoints.overrides()) {
      if (each.endpoint() != address) continue;
      if (each.service() == name) found = &each;  // goes before one of Consul's service
      if (each.service() == consul_name && found == nullptr) found = &each;
    }
    if (found == nullptr) continue;
    row.override = *found;
    row.set_by = absl::StrCat(ActionText(*found), " ", OverrideText(*found, now));
    row.weight = found->weight();
    const bool well = row.serving || row.why_not == "weight 0";
    if (!well) continue;
    row.serving = found->action_case() == v1::EndpointOverride::kWeight && found->weight() > 0;
    row.why_not = row.serving ? "" : ActionText(*found);
  }
}

std::string RenderOverrides(const v1::ListEndpointsResponse& endpoints, absl::Time now) {
  constexpr int kTold = 5;
  std::string text;
  for (int i = 0; i < std::min(kTold, endpoints.overrides_size()); ++i) {
    const v1::EndpointOverride& each = endpoints.overrides(i);
    absl::StrAppend(&text,
                    Printable(absl::StrCat(each.service(), ": ", each.endpoint(), " is ", ActionText(each), " ",
                                           OverrideText(each, now))),
                    "\n");
  }
  if (endpoints.overrides_size() > kTold) {
    absl::StrAppend(&text, "and ", endpoints.overrides_size() - kTold, " more endpoints are set by operators\n");
  }
  return text;
}

std::string RenderPendingOverrides(const v1::ListEndpointsResponse& endpoints) {
  if (endpoints.overrides_pending().empty()) return "";
  return absl::StrCat("what operators have set is not in force on: ",
                      NamesText(endpoints.overrides_pending(), endpoints.overrides_pending_size()),
                      " (not yet, or too old for it)\n");
}

void AddExclusions(const v1::ListEndpointsResponse& endpoints, std::string_view service,
                   std::vector<EndpointRow>* rows) {
  const auto concerns = [service](const std::string& other) { return service.empty() || other == service; };
  std::map<std::string, size_t> by_address;
  for (size_t i = 0; i < rows->size(); ++i) by_address.emplace((*rows)[i].address, i);
  // Of each data plane and endpoint: the rows of the names that it is an address of, and how many of a name's are in
  // use.
  std::map<std::pair<std::string, std::string>, std::vector<size_t>> named;
  std::map<std::pair<std::string, size_t>, int> in_use;
  for (const v1::ResolvedHost& resolved : endpoints.hosts()) {
    const v1::HostReport& host = resolved.host();
    const auto row = by_address.find(host.address());
    if (!concerns(host.service()) || row == by_address.end()) continue;
    in_use[{resolved.data_plane(), row->second}] += host.endpoints_size();
    for (const std::string& endpoint : host.endpoints()) {
      named[{resolved.data_plane(), endpoint}].push_back(row->second);
    }
    if (host.endpoints_size() > 0) continue;
    (*rows)[row->second].excluded.push_back(absl::StrCat(resolved.data_plane(), ": the name has no address"));
    (*rows)[row->second].out_at.insert(resolved.data_plane());
  }
  std::set<std::string> panicking;
  for (const v1::PanickingService& each : endpoints.panicking()) {
    if (concerns(each.service())) panicking.insert(each.data_plane());
  }
  std::set<std::pair<std::string, std::string>> told;  // an endpoint may be left out for two reasons
  for (const v1::Exclusion& exclusion : endpoints.excluded()) {
    const v1::ExcludedEndpoint& endpoint = exclusion.endpoint();
    if (!concerns(endpoint.service())) continue;
    const std::string& plane = exclusion.data_plane();
    const bool ignored = panicking.contains(plane);
    const bool first = told.emplace(plane, endpoint.endpoint()).second;
    const std::string reason =
        absl::StrCat(endpoint.reason(), ignored ? " (ignored: too few endpoints are usable)" : "");
    const auto names = named.find({plane, endpoint.endpoint()});
    if (names != named.end()) {
      for (const size_t index : names->second) {
        EndpointRow& row = (*rows)[index];
        row.excluded.push_back(absl::StrCat(plane, ": ", endpoint.endpoint(), " ", reason));
        if (first && --in_use[{plane, index}] == 0 && !ignored) row.out_at.insert(plane);
      }
    }
    auto found = by_address.find(endpoint.endpoint());
    if (found == by_address.end()) {
      if (names != named.end()) continue;
      EndpointRow added;
      added.service = endpoint.service();
      added.address = endpoint.endpoint();
      added.health = "unknown";
      added.serving = true;
      found = by_address.emplace(added.address, rows->size()).first;
      rows->push_back(std::move(added));
    }
    EndpointRow& row = (*rows)[found->second];
    row.excluded.push_back(absl::StrCat(plane, ": ", reason));
    if (!ignored) row.out_at.insert(plane);
  }
  for (EndpointRow& row : *rows) {
    if (!row.serving || row.out_at.empty() || row.out_at.size() < endpoints.reporting()) continue;
    if (endpoints.reporting() == 0) continue;  // a control plane that does not say how many there are
    row.serving = false;
    row.why_not = "left out by every data plane";
  }
}

std::string RenderEndpoints(std::span<const EndpointRow> rows) {
  const bool excluded =
      std::any_of(rows.begin(), rows.end(), [](const EndpointRow& row) { return !row.excluded.empty(); });
  const bool set =
      std::any_of(rows.begin(), rows.end(), [](const EndpointRow& row) { return row.override.has_value(); });
  std::vector<std::string> headings = {"SERVICE", "ADDRESS", "SERVING", "HEALTH", "WEIGHT", "ZONE", "TAGS", "ID"};
  if (set) headings.push_back("SET");
  if (excluded) headings.push_back("LEFT OUT BY");
  Table table(headings);
  for (const EndpointRow& row : rows) {
    const std::string serving = !row.serving         ? absl::StrCat("no: ", row.why_not)
                                : row.out_at.empty() ? "yes"
                                                     : "not everywhere";
    std::vector<std::string> cells = {row.service,
                                      row.address,
                                      serving,
                                      row.health,
                                      absl::StrCat(row.weight),
                                      row.zone,
                                      absl::StrJoin(row.tags, ", "),
                                      row.id};
    if (set) cells.push_back(Printable(row.set_by));
    if (excluded) cells.push_back(absl::StrJoin(row.excluded, "; "));
    table.AddRow(std::move(cells));
  }
  return table.ToString();
}

std::string RenderBreakers(const v1::ListBreakersResponse& breakers, absl::Time now) {
  Table table({"SERVICE", "DATA PLANE", "BREAKER", "STATE", "NEXT PROBE", "IN FLIGHT", "REQUESTS", "FAILURES", "SLOW",
               "OPENED", "OPENED BY", "AS OF"});
  for (const v1::DataPlaneBreaker& row : breakers.breakers()) {
    const v1::BreakerReport& breaker = row.breaker();
    std::string next_probe;
    if (breaker.has_next_probe()) {
      // It was said at the time of the report.
      const absl::Duration told =
          absl::Seconds(breaker.next_probe().seconds()) + absl::Nanoseconds(breaker.next_probe().nanos());
      const absl::Duration age = now - absl::FromUnixSeconds(row.reported_at().seconds());
      const absl::Duration left = row.has_reported_at() ? told - age : told;
      next_probe = left <= absl::ZeroDuration() ? "due" : absl::StrCat("in ", absl::ToInt64Seconds(left) + 1, "s");
    }
    std::string opened_by;
    if (breaker.opening_requests() > 0) {
      opened_by = absl::StrCat(breaker.opening_failures(), " of ", breaker.opening_requests(), " failed",
                               breaker.opening_slow() > 0 ? absl::StrCat(", ", breaker.opening_slow(), " slow") : "");
    }
    const std::string age = FormatAge(row.reported_at(), now);
    table.AddRow(
        {breaker.service(), row.data_plane(), breaker.breaker(),
         absl::StrCat(Lower(v1::BreakerReport::State_Name(breaker.state())), breaker.forced() ? " (forced)" : ""),
         next_probe, absl::StrCat(breaker.in_flight()), absl::StrCat(breaker.requests()),
         absl::StrCat(breaker.failures()), absl::StrCat(breaker.slow()), absl::StrCat(breaker.opened()), opened_by,
         age.empty() ? "" : absl::StrCat(age, " ago")});
  }
  return table.ToString();
}

std::string RenderLimits(const v1::ListLimitsResponse& limits) {
  struct Total {
    uint64_t planes = 0, keys = 0, allowed = 0, refused = 0, overflowed = 0;
  };
  std::map<std::string, Total> totals;
  Table table({"LIMIT", "DATA PLANE", "KEYS", "ALLOWED", "REFUSED", "OVERFLOWED", "STATE"});
  for (const v1::DataPlaneLimit& row : limits.limits()) {
    const v1::LimitReport& limit = row.limit();
    table.AddRow({limit.name(), row.data_plane(), absl::StrCat(limit.keys()), absl::StrCat(limit.allowed()),
                  absl::StrCat(limit.refused()), absl::StrCat(limit.overflowed()),
                  limit.unavailable() ? "unavailable" : "ok"});
    Total& total = totals[limit.name()];
    ++total.planes;
    total.keys += limit.keys();
    total.allowed += limit.allowed();
    total.refused += limit.refused();
    total.overflowed += limit.overflowed();
  }
  // Of limits that more than one data plane counts.
  for (const auto& [name, total] : totals) {
    if (total.planes < 2) continue;
    table.AddRow({name, absl::StrCat("all ", total.planes), absl::StrCat(total.keys), absl::StrCat(total.allowed),
                  absl::StrCat(total.refused), absl::StrCat(total.overflowed), ""});
  }
  return table.ToString();
}

std::string RenderEndpointAlarms(const v1::ListEndpointsResponse& endpoints) {
  std::string text;
  if (!endpoints.consul_reachable() && !endpoints.consul_error().empty()) {
    absl::StrAppend(&text, "Consul is not reachable: ", Printable(endpoints.consul_error()), "\n");
  }
  for (const v1::EndpointSet& set : endpoints.sets()) {
    if (set.stale()) {
      absl::StrAppend(&text, Printable(set.key().service()), " is held from an earlier read: ", Printable(set.alarm()),
                      "\n");
    }
  }
  return text;
}

std::vector<ServiceRow> ServicesOf(std::span<const v1::StoredResource> services, const v1::ListEndpointsResponse& all,
                                   const v1::ListBreakersResponse& breakers, absl::Time now) {
  const auto open_on = [&breakers](const std::string& service) {
    std::vector<std::string> planes;
    for (const v1::DataPlaneBreaker& row : breakers.breakers()) {
      if (row.breaker().service() != service || row.breaker().state() == v1::BreakerReport::CLOSED ||
          row.breaker().state() == v1::BreakerReport::STATE_UNSPECIFIED) {
        continue;
      }
      planes.push_back(row.data_plane());
    }
    return planes;
  };
  std::vector<ServiceRow> rows;
  std::vector<const v1::EndpointSet*> told;
  for (const v1::StoredResource& stored : services) {
    const v1::Service& service = stored.resource().service();
    const std::vector<EndpointRow> endpoints = RowsOf(service, all, now);
    const int serving = CountServing(endpoints);
    std::string state = serving == 0 ? "no endpoint serves" : "ok";
    if (service.has_consul()) {
      told.push_back(SetOf(service.consul(), all.sets()));
      state = SetState(told.back(), serving);
    }
    rows.push_back({service.name(), service.has_consul() ? ServiceSource(service) : "static", serving,
                    static_cast<int>(endpoints.size()), open_on(service.name()), std::move(state)});
  }
  for (const v1::EndpointSet& set : all.sets()) {
    if (set.written_down() || std::find(told.begin(), told.end(), &set) != told.end()) continue;
    std::vector<EndpointRow> endpoints;
    AddInstances(set, nullptr, &endpoints);
    AddOverrides(all, nullptr, set.key().service(), now, &endpoints);
    AddExclusions(all, set.key().service(), &endpoints);
    const int serving = CountServing(endpoints);
    rows.push_back({set.key().service(), "consul only", serving, static_cast<int>(endpoints.size()),
                    open_on(set.key().service()), SetState(&set, serving)});
  }
  return rows;
}

std::string RenderServices(std::span<const ServiceRow> rows) {
  Table table({"NAME", "SOURCE", "SERVING", "STATE"});
  for (const ServiceRow& row : rows) {
    const std::string breaker =
        row.breaker_open_on.empty() ? "" : absl::StrCat("; breaker open on ", JoinSome(row.breaker_open_on));
    table.AddRow(
        {row.name, row.source, absl::StrCat(row.serving, "/", row.endpoints), absl::StrCat(row.state, breaker)});
  }
  return table.ToString();
}

std::string RenderDescription(const Description& d, absl::Time now) {
  const ResourceKey key = KeyOf(d.stored.resource());
  std::string out = absl::StrCat(key.ToString(), "\n");
  std::string revision = absl::StrCat(d.stored.revision(), d.stored.built_in() ? ", built-in" : "");
  if (d.stored.has_changed_at()) {
    absl::StrAppend(&revision, ", changed ", FormatAge(d.stored.changed_at(), now), " ago (",
                    FormatTime(d.stored.changed_at()), ")");
  }
  AppendFact(&out, "Revision", revision);
  if (d.last_change.has_value()) {
    AppendFact(&out, "Changed by",
               absl::StrCat(d.last_change->actor(),
                            d.last_change->comment().empty() ? "" : absl::StrCat(": ", d.last_change->comment())));
  }
  if (!LabelsOf(d.stored.resource()).empty()) AppendFact(&out, "Labels", LabelsText(d.stored.resource()));

  const v1::StoredResource* stored_defaults = Find({"Defaults", "default"}, d.all);
  const v1::Defaults* defaults = stored_defaults == nullptr ? nullptr : &stored_defaults->resource().defaults();
  if (d.stored.resource().has_route()) DescribeRoute(d.stored.resource().route(), d, defaults, now, &out);
  if (d.stored.resource().has_consumer()) DescribeConsumer(d.stored.resource().consumer(), d, &out);
  if (d.stored.resource().has_service()) DescribeService(d.stored.resource().service(), d, defaults, now, &out);
  AppendKeys("Refers to", ReferencesOf(d.stored.resource()), d.all, &out);
  AppendKeys("Referred to by", ReferrersOf(key, d.all), d.all, &out);
  std::string document = EncodeResource(d.stored.resource());
  document.erase(document.find_last_not_of('\n') + 1);
  absl::StrAppend(&out, "\nDocument\n  ", absl::StrReplaceAll(document, {{"\n", "\n  "}}), "\n");
  return out;
}

}  // namespace gateway::ctl
