// Tables of resources, and what each is about in a few words.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "common/base/certificate.h"
#include "common/base/endpoint_name.h"
#include "common/base/host_port.h"
#include "tools/gatewayctl/format.h"
#include "tools/gatewayctl/render_text.h"

namespace gateway::ctl {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

std::string PatternText(const v1::PathMatch& path) {
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
  if (certificate.has_acme() && !certificate.has_certificate()) {
    return {JoinSome(certificate.acme().hosts(), most), "pending"};
  }
  const auto chain = ReadCertificates(certificate.certificate().inline_());
  if (!chain.ok()) return {JoinSome(certificate.hosts(), most), "unreadable"};
  const X509* leaf = chain->front().get();
  return {
      certificate.hosts().empty() ? JoinSome(AlternativeNamesOf(leaf).dns, most) : JoinSome(certificate.hosts(), most),
      absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", ExpiryOf(leaf), absl::UTCTimeZone())};
}

constexpr size_t kRouteTo = 5;  // the column TO, with the name before it

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
  if (kind == "Certificate") return {"HOSTS", "EXPIRES", "RENEWAL"};
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

std::string DescriptionOf(const v1::Resource& resource) {
  const Message* body = BodyOf(resource);
  const FieldDescriptor* field = body == nullptr ? nullptr : body->GetDescriptor()->FindFieldByName("description");
  return field == nullptr ? "" : body->GetReflection()->GetString(*body, field);
}

std::string RevisionCell(const v1::StoredResource& stored) {
  return stored.built_in() ? "built-in" : absl::StrCat(stored.revision());
}

}  // namespace

std::string RenewalCell(const v1::StoredResource& stored, absl::Time now) {
  if (!stored.has_acme()) return stored.resource().certificate().has_acme() ? "unknown" : "";
  const v1::AcmeState& state = stored.acme();
  if (state.phase() == v1::AcmeState::ORDERING) return "ordering";
  google::protobuf::Timestamp from;
  from.set_seconds(absl::ToUnixSeconds(now));
  const std::string when = state.next_try().seconds() > from.seconds()
                               ? absl::StrCat("in ", FormatAge(from, absl::FromUnixSeconds(state.next_try().seconds())))
                               : "now";
  if (state.phase() != v1::AcmeState::FAILED) return when;
  return absl::StrCat("failed ", state.failures(), state.failures() == 1 ? " time" : " times", ", next try ", when);
}

std::string ExpiryText(const v1::Certificate& certificate) {
  return CertificateCells(certificate, kSummaryItemsMax).back();
}

// "/v1/**", "grpc shop.v1.Orders/Get".
std::string PathText(const v1::RouteMatch& match) {
  return match.has_grpc() ? absl::StrCat("grpc ", CallText(match.grpc())) : PatternText(match.path());
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

std::string ServiceSource(const v1::Service& service, size_t most) {
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

std::string LabelsText(const v1::Resource& resource) {
  const std::map<std::string, std::string> labels(LabelsOf(resource).begin(), LabelsOf(resource).end());
  return absl::StrJoin(labels, ", ", absl::PairFormatter("="));
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
  for (const v1::StoredResource& given : resources) {
    v1::StoredResource stored = given;
    if (stored.has_canary()) *stored.mutable_resource()->mutable_route() = ServedNow(given);
    ResourceKey key = KeyOf(stored.resource());
    std::vector<std::string> cells;
    if (kind.empty()) cells.push_back(key.kind);
    cells.push_back(key.name);
    for (std::string& cell :
         kind.empty() ? std::vector<std::string>{Summary(stored.resource())}
                      : Cells(stored.resource(), wide ? std::numeric_limits<size_t>::max() : kSummaryItemsMax)) {
      cells.push_back(std::move(cell));
    }
    if (kind == "Certificate") cells.push_back(RenewalCell(stored, now));
    if (wide && kind == "Route" && stored.has_canary()) {
      absl::StrAppend(&cells[kRouteTo], " (canary: ", stored.canary().percent(), "%, ", CanaryPhase(stored.canary()),
                      ")");
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

}  // namespace gateway::ctl
