#include "common/policy/snapshot.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <deque>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "common/base/certificate.h"
#include "common/base/text.h"
#include "common/base/units.h"
#include "common/config/bootstrap.h"
#include "common/config/codec.h"
#include "common/config/yaml.h"
#include "common/policy/guard_warnings.h"
#include "common/policy/policy_check.h"
#include "common/policy/policy_texts.h"
#include "common/policy/redaction.h"
#include "common/policy/resource.h"
#include "common/policy/route/path.h"
#include "common/policy/route/route_pattern.h"
#include "common/policy/route/route_table.h"
#include "re2/re2.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {
namespace {

constexpr Millis kRouteTimeout{30'000};  // where neither the route nor Defaults names one
// Each costs a pass over all names; a set with more wrong references than this has one cause, and the first show it.
constexpr int kSuggestionsMax = 50;

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

// Fields that proxies tell the client's address in; `name` is in lower case.
bool NamesClientAddress(std::string_view name) {
  static constexpr std::array<std::string_view, 9> kNames = {
      "x-forwarded-for", "forwarded",        "x-real-ip",           "x-client-ip",     "true-client-ip",
      "client-ip",       "cf-connecting-ip", "x-cluster-client-ip", "fastly-client-ip"};
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

std::string_view AsStd(absl::string_view text) { return {text.data(), text.size()}; }

std::shared_ptr<UpstreamTlsPolicy> BuildUpstreamTls(const v1::UpstreamTls& tls) {
  auto policy = std::make_shared<UpstreamTlsPolicy>();
  policy->server_name = tls.server_name();
  policy->verify = tls.verify() == v1::UpstreamTls::CHAIN  ? UpstreamTlsPolicy::Verify::kChain
                   : tls.verify() == v1::UpstreamTls::NONE ? UpstreamTlsPolicy::Verify::kNone
                                                           : UpstreamTlsPolicy::Verify::kFull;
  policy->ca_pem = tls.ca().inline_();
  policy->tls13_only = tls.min_version() == "1.3";
  return policy;
}

UpstreamProtocol ProtocolOf(v1::Service::Protocol protocol, bool tls) {
  if (protocol == v1::Service::HTTP2) return UpstreamProtocol::kHttp2;
  return protocol == v1::Service::AUTO && tls ? UpstreamProtocol::kAuto : UpstreamProtocol::kHttp1;
}

void ReadTimeouts(const v1::Timeouts& timeouts, ServicePolicy* policy) {
  if (timeouts.has_connect()) policy->connect_timeout = ToMillis(timeouts.connect());
  if (timeouts.has_response()) policy->response_timeout = ToMillis(timeouts.response());
  if (timeouts.has_idle()) policy->idle_timeout = ToMillis(timeouts.idle());
}

HashOnPolicy BuildHashOn(const v1::HashOn& on) {
  HashOnPolicy policy;
  switch (on.on_case()) {
    case v1::HashOn::kHeader:
      policy.kind = HashOnPolicy::Kind::kHeader;
      policy.name = absl::AsciiStrToLower(on.header());
      break;
    case v1::HashOn::kCookie:
      policy.kind = HashOnPolicy::Kind::kCookie;
      policy.name = on.cookie();
      break;
    case v1::HashOn::kClientIp:
      policy.kind = HashOnPolicy::Kind::kClientIp;
      break;
    case v1::HashOn::kPath:
      policy.kind = HashOnPolicy::Kind::kPath;
      break;
    case v1::HashOn::ON_NOT_SET:
      break;
  }
  return policy;
}

BalancePolicy BuildBalance(const v1::LoadBalancer& balancer) {
  BalancePolicy policy;
  if (balancer.policy() != v1::LoadBalancer::POLICY_UNSPECIFIED) policy.policy = balancer.policy();
  if (policy.policy == v1::LoadBalancer::RING_HASH || policy.policy == v1::LoadBalancer::MAGLEV) {
    policy.hash_on = BuildHashOn(balancer.hash_on());
    if (policy.hash_on.kind == HashOnPolicy::Kind::kNothing) policy.hash_on.kind = HashOnPolicy::Kind::kClientIp;
  }
  if (balancer.has_session()) {
    policy.session_cookie = balancer.session().cookie();
    if (!balancer.session().path().empty()) policy.session_path = balancer.session().path();
    if (balancer.session().has_ttl()) {
      policy.session_ttl = std::chrono::duration_cast<std::chrono::seconds>(ToMillis(balancer.session().ttl()));
    }
  }
  if (balancer.has_slow_start()) policy.slow_start = ToMillis(balancer.slow_start());
  if (balancer.has_panic_percent()) policy.panic_percent = balancer.panic_percent();
  policy.prefer_zone = balancer.zones() == v1::LoadBalancer::PREFER;
  if (balancer.has_zone_min_percent()) policy.zone_min_percent = balancer.zone_min_percent();
  if (balancer.has_hash_balance_percent()) policy.hash_balance_percent = balancer.hash_balance_percent();
  return policy;
}

// Of a Service, or of a consul_service route's template.
template <typename Body>
void ReadHealth(const Body& body, ServicePolicy* service) {
  if (body.has_health_check()) {
    const v1::HealthCheck& check = body.health_check();
    auto policy = std::make_shared<HealthCheckPolicy>();
    policy->tcp = check.type() == v1::HealthCheck::TCP;
    policy->grpc = check.type() == v1::HealthCheck::GRPC;
    policy->grpc_service = check.service();
    if (!check.path().empty()) policy->path = check.path();
    if (check.has_interval()) policy->interval = ToMillis(check.interval());
    if (check.has_timeout()) policy->timeout = ToMillis(check.timeout());
    if (check.has_healthy()) policy->healthy = check.healthy();
    if (check.has_unhealthy()) policy->unhealthy = check.unhealthy();
    policy->statuses.assign(check.statuses().begin(), check.statuses().end());
    policy->host = check.host();
    policy->port = static_cast<uint16_t>(check.port());
    service->health_check = std::move(policy);
  }
  if (body.has_outlier_ejection()) {
    const v1::OutlierEjection& outlier = body.outlier_ejection();
    auto policy = std::make_shared<OutlierPolicy>();
    if (outlier.has_consecutive_failures()) policy->consecutive_failures = outlier.consecutive_failures();
    policy->consecutive_gateway_failures = outlier.consecutive_gateway_failures();
    if (outlier.has_base_time()) policy->base_time = ToMillis(outlier.base_time());
    if (outlier.has_max_time()) {
      policy->max_time = ToMillis(outlier.max_time());
      // What is written goes before what is not; CheckOutlier compares the two where both are.
      if (!outlier.has_base_time()) policy->base_time = std::min(policy->base_time, policy->max_time);
    }
    policy->max_time = std::max(policy->max_time, policy->base_time);  // of a base_time longer than the 300 s
    if (outlier.has_max_percent()) policy->max_percent = outlier.max_percent();
    if (outlier.has_success_rate()) {
      const v1::OutlierEjection::SuccessRate& rate = outlier.success_rate();
      policy->by_success_rate = true;
      if (rate.has_interval()) policy->interval = ToMillis(rate.interval());
      if (rate.has_min_endpoints()) policy->min_endpoints = rate.min_endpoints();
      if (rate.has_min_requests()) policy->min_requests = rate.min_requests();
      if (rate.has_deviations()) policy->deviations = rate.deviations();
    }
    service->outlier = std::move(policy);
  }
  if (body.has_limits()) {
    auto policy = std::make_shared<ServiceLimitsPolicy>();
    policy->connections = body.limits().connections();
    if (body.limits().has_pending()) policy->pending = body.limits().pending();
    if (body.limits().has_pending_timeout()) policy->pending_timeout = ToMillis(body.limits().pending_timeout());
    policy->requests = body.limits().requests();
    service->limits = std::move(policy);
  }
}

v1::ConsulSource::OnSuspect OnSuspectOf(v1::ConsulSource::OnSuspect on_suspect) {
  return on_suspect == v1::ConsulSource::ON_SUSPECT_UNSPECIFIED ? v1::ConsulSource::KEEP : on_suspect;
}

std::vector<std::string> SortedTags(const google::protobuf::RepeatedPtrField<std::string>& tags) {
  std::vector<std::string> sorted(tags.begin(), tags.end());
  std::sort(sorted.begin(), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  return sorted;
}

}  // namespace

bool ConsulServicePolicy::Allows(std::string_view name) const {
  const std::string lower = absl::AsciiStrToLower(std::string(name));
  if (name.empty() || lower == "consul" || lower == absl::AsciiStrToLower(own_service)) return false;
  auto matches = [name](const std::string& pattern) { return MatchesGlob(pattern, name); };
  return std::any_of(allow.begin(), allow.end(), matches) && std::none_of(deny.begin(), deny.end(), matches);
}

const ConsumerTable::Password& ConsumerTable::DecoyOf(std::string_view username) const {
  const Digest digest = decoys.Of({username});
  uint64_t number;
  std::memcpy(&number, digest.data(), sizeof number);
  return passwords[number % passwords.size()];
}

Snapshot::Snapshot() = default;
Snapshot::~Snapshot() = default;

void Snapshot::Match(const MatchInput& in, RouteMatch* out) const { table_->Match(in, out); }

void Snapshot::AppendPath(const RouteMatch& m, const std::vector<RewritePiece>& pieces, bool is_prefix,
                          std::string_view path, std::string* out) {
  const size_t base = out->size();
  for (const RewritePiece& piece : pieces) {
    out->append(piece.variable < 0 ? std::string_view(piece.literal)
                                   : m.variables[static_cast<size_t>(piece.variable)]);
  }
  if (is_prefix) out->append(path.substr(m.prefix_length));
  if (out->size() == base) out->push_back('/');
}

bool Snapshot::Rewrite(const RouteMatch& m, std::string_view path, std::string* out) {
  if (m.route->rewrite_regex == nullptr) {
    AppendPath(m, m.route->rewrite, m.route->rewrite_is_prefix, path, out);
    return true;
  }
  if (path == "*") {  // of OPTIONS: no path, so there is nothing to replace
    out->push_back('*');
    return true;
  }
  std::string text(path);
  re2::RE2::GlobalReplace(&text, *m.route->rewrite_regex, m.route->rewrite_substitution);
  if (text.empty()) text = "/";
  // What took "//" or a dot segment into being is not resolved: a client that makes one (/.x./ where x is taken out)
  // would leave where the route's operator meant it to stay.
  if (!IsNormalPath(text)) {
    std::string normal;
    if (NormalizePath(text, false, &normal) != PathError::kNone || normal != text) return false;
  }
  out->append(text);
  return true;
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
    BuildConsumers();
    ReadCertificates();
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
      case v1::Resource::kRetry:
        return IndexBody(&retries_, resource.retry(), resource);
      case v1::Resource::kAuth:
        return IndexBody(&auths_, resource.auth(), resource);
      case v1::Resource::kConsumer:
        return IndexBody(&consumers_, resource.consumer(), resource);
      case v1::Resource::kCors:
        return IndexBody(&cors_, resource.cors(), resource);
      case v1::Resource::kIpAccess:
        return IndexBody(&accesses_, resource.ip_access(), resource);
      case v1::Resource::kCertificate:
        return IndexBody(&certificates_, resource.certificate(), resource);
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

  // `none` is a reference to nothing.
  template <typename Body>
  void CheckOptionalReference(const Report& report, const std::string& field, std::string_view noun,
                              const std::string& name, const Kind<Body>& kind) {
    if (name != kNone) CheckReference(report, field, noun, name, kind);
  }

  // Of a Service, or of a consul_service route's template.
  template <typename Body>
  void CheckServiceReferences(const Report& report, const std::string& base, const Body& body) {
    CheckOptionalReference(report, base + "circuit_breaker", "circuit breaker", body.circuit_breaker(), breakers_);
    CheckOptionalReference(report, base + "retry", "retry", body.retry(), retries_);
  }

  // The same, of those that have `tls`.
  template <typename Body>
  void CheckTlsReferences(const Report& report, const std::string& base, const Body& body) {
    CheckReference(report, base + "tls.certificate", "certificate", body.tls().certificate(), certificates_);
  }

  // Of a Route, or of Defaults.
  template <typename Body>
  void CheckRouteReferences(const Report& report, const Body& body) {
    CheckOptionalReference(report, "auth", "auth", body.auth(), auths_);
    CheckOptionalReference(report, "cors", "cors", body.cors(), cors_);
    CheckOptionalReference(report, "access", "IP access", body.access(), accesses_);
    CheckLimitReferences(report, body.rate_limits());
  }

  // A browser takes two values of one of its fields for none.
  void CheckCorsAlone(const Report& report, const v1::Route& route) const {
    const std::string& cors = route.cors().empty() ? Default().cors() : route.cors();
    if (cors.empty() || cors == kNone) return;
    const auto check = [&](std::string_view field, const auto& edits) {
      for (const auto& [name, value] : edits) {
        if (!absl::StartsWithIgnoreCase(name, "access-control-")) continue;
        report.Add(fmt::format("{}.{}", field, KeyInPath(name)),
                   fmt::format("is already set by Cors/{}: set it there, or give this route `cors: none`", cors));
      }
    };
    check("response_headers.set", route.response_headers().set());
    check("response_headers.add", route.response_headers().add());
    check("respond.headers", route.respond().headers());
  }

  // Requests lose what any Auth forwards as, before this one looks for its keys.
  void CheckKeyFields(const Report& report, const v1::Auth& auth) const {
    for (int i = 0; i < auth.methods_size(); ++i) {
      if (!auth.methods(i).has_api_key()) continue;
      const std::string header = KeyFieldOf(auth.methods(i));
      const auto found = forwarded_.find(FoldField(header));
      // (The Auth's own are told by CheckResource.)
      if (found == forwarded_.end() || found->second == auth.name()) continue;
      report.Add(At("methods", i, ".api_key.header"),
                 fmt::format("{} is removed from every request: Auth/{} tells services its callers in it",
                             QuoteForMessage(header), found->second));
    }
  }

  static std::string KeyFieldOf(const v1::AuthMethod& method) {
    return method.api_key().header().empty() ? "X-API-Key" : method.api_key().header();
  }

  void IndexForwarded() {
    for (const auto& [name, auth] : auths_.sorted) {
      const auto add = [this, name = name](const std::string& field) {
        if (!field.empty()) forwarded_.emplace(FoldField(field), name);
      };
      add(auth->forward().consumer());
      add(auth->forward().groups());
      add(auth->forward().client_certificate());
      for (const auto& [field, claim] : auth->forward().claims()) add(field);
    }
  }

  void CheckReferences() {
    services_.Sort();
    routes_.Sort();
    rate_limits_.Sort();
    breakers_.Sort();
    retries_.Sort();
    auths_.Sort();
    consumers_.Sort();
    cors_.Sort();
    accesses_.Sort();
    certificates_.Sort();
    IndexForwarded();
    for (const v1::Resource* resource : resources_) {
      const ResourceKey key = KeyOf(*resource);
      const Report report(key, &result_.errors);
      if (resource->has_service()) {
        CheckServiceReferences(report, "", resource->service());
        CheckTlsReferences(report, "", resource->service());
      } else if (resource->has_route()) {
        const v1::Route& route = resource->route();
        CheckReference(report, "service", "service", route.service(), services_);
        for (int i = 0; i < route.split_size(); ++i) {
          CheckReference(report, At("split", i, ".service"), "service", route.split(i).service(), services_);
        }
        for (int i = 0; i < route.mirror_size(); ++i) {
          CheckReference(report, At("mirror", i, ".service"), "service", route.mirror(i).service(), services_);
        }
        CheckServiceReferences(report, "consul_service.template.", route.consul_service().template_());
        CheckTlsReferences(report, "consul_service.template.", route.consul_service().template_());
        CheckRouteReferences(report, route);
        CheckCorsAlone(report, route);
      } else if (resource->has_defaults()) {
        CheckServiceReferences(report, "", resource->defaults());
        CheckRouteReferences(report, resource->defaults());
      } else if (resource->has_auth()) {
        for (int i = 0; i < resource->auth().allow().consumers_size(); ++i) {
          CheckReference(report, At("allow.consumers", i), "consumer", resource->auth().allow().consumers(i),
                         consumers_);
        }
        CheckKeyFields(report, resource->auth());
      }
    }
    if (consumers_.sorted.size() > kConsumersMax) {
      const ResourceKey key{"Consumer", std::string(consumers_.sorted.back().first)};
      Report(key, &result_.errors).Add("", fmt::format("is one consumer too many: at most {}", kConsumersMax));
    }
  }

  // What consumers show, each thing once. Reports what two of them share.
  void BuildConsumers() {
    auto table = std::make_shared<ConsumerTable>();
    for (const auto& [name, consumer] : consumers_.sorted) {
      const auto index = static_cast<uint32_t>(table->consumers.size());
      ConsumerPolicy& policy = table->consumers.emplace_back();
      policy.name = consumer->name();
      policy.groups.assign(consumer->groups().begin(), consumer->groups().end());
      std::sort(policy.groups.begin(), policy.groups.end());
      table->by_name.emplace(policy.name, index);
      const ResourceKey key{"Consumer", policy.name};
      const Report report(key, &result_.errors);
      for (int i = 0; i < consumer->credentials_size(); ++i) {
        const v1::Credential& credential = consumer->credentials(i);
        const auto told = [&](uint32_t other, std::string_view what) {
          report.Add(At("credentials", i),
                     fmt::format("has the same {} as Consumer/{}", what, table->consumers[other].name));
        };
        switch (credential.credential_case()) {
          case v1::Credential::kApiKeySha256: {
            const auto [at, added] =
                table->by_key_digest.emplace(absl::HexStringToBytes(credential.api_key_sha256()), index);
            if (!added) told(at->second, "API key");
            break;
          }
          case v1::Credential::kBasic: {
            const auto [at, added] = table->by_username.emplace(credential.basic().username(),
                                                                static_cast<uint32_t>(table->passwords.size()));
            if (added) {
              table->passwords.push_back({.consumer = index, .hash = credential.basic().password_hash()});
            } else {
              told(table->passwords[at->second].consumer, "user name");
            }
            break;
          }
          case v1::Credential::kJwt: {
            const auto [at, added] =
                table->by_subject.emplace(Concat(credential.jwt().issuer(), "\n", credential.jwt().subject()), index);
            if (!added) told(at->second, "subject");
            break;
          }
          case v1::Credential::kClientCertificate: {
            const std::string& identity = credential.client_certificate().identity();
            const auto [at, added] = table->by_folded_certificate.emplace(FoldCertificateIdentity(identity), index);
            if (!added) told(at->second, "client certificate identity (upper and lower case are alike)");
            table->by_certificate.emplace(identity, index);
            break;
          }
          case v1::Credential::CREDENTIAL_NOT_SET:
            break;
        }
      }
    }
    std::string hashes;
    for (const ConsumerTable::Password& password : table->passwords) Append(&hashes, password.hash, "\n");
    const Digest decoys = Sha256(hashes);
    table->decoys = KeyedDigest(std::string_view(reinterpret_cast<const char*>(decoys.data()), decoys.size()));
    consumer_table_ = std::move(table);
  }

  // Reads each Certificate once, for its errors and for its use.
  void ReadCertificates() {
    if (certificates_.sorted.size() > kCertificatesMax) {
      const ResourceKey key{"Certificate", std::string(certificates_.sorted.back().first)};
      Report(key, &result_.errors).Add("", fmt::format("is one certificate too many: at most {}", kCertificatesMax));
      return;
    }
    for (const auto& [name, document] : certificates_.sorted) {
      const ResourceKey key{"Certificate", document->name()};
      const Report report(key, &result_.errors);
      const std::string& chain = document->certificate().inline_();
      const std::string& secret = document->key().inline_();
      std::shared_ptr<const Certificate>& read = read_certificates_.emplace_back();
      if (chain.empty() || secret.empty()) continue;  // told by CheckResource
      if (const auto parsed = gateway::ReadCertificates(chain); !parsed.ok()) {
        report.Add("certificate", std::string(parsed.status().message()));
        continue;
      }
      if (IsRedacted(secret)) continue;  // kept from this data plane
      if (const auto parsed = ReadPrivateKey(secret); !parsed.ok()) {
        report.Add("key", std::string(parsed.status().message()));
        continue;
      }
      const std::string title = key.ToString();
      auto certificate = ParseCertificate({.name = title, .chain_pem = chain, .key_pem = secret}, options_.now);
      if (!certificate.ok()) {
        std::string_view message = AsStd(certificate.status().message());
        if (message.starts_with(title)) message.remove_prefix(title.size() + 2);
        report.Add("certificate", message);
        continue;
      }
      if (certificate->not_after > options_.now && certificate->not_after <= options_.now + kCertificateExpiresSoon) {
        certificate->warnings.push_back(fmt::format("{}: expires soon, on {}", title,
                                                    absl::FormatTime(certificate->not_after, absl::UTCTimeZone())));
      }
      if (document->hosts_size() > 0) {
        const std::vector<std::string> names =
            std::exchange(certificate->dns_names, {document->hosts().begin(), document->hosts().end()});
        for (const std::string& host : certificate->dns_names) {
          if (std::any_of(names.begin(), names.end(), [&host](const std::string& n) { return NameCovers(n, host); })) {
            continue;
          }
          certificate->warnings.push_back(fmt::format(
              "{}: hosts has {}, which the certificate is not for: clients reject it", title, QuoteForMessage(host)));
        }
      }
      read = std::make_shared<const Certificate>(*std::move(certificate));
    }
  }

  // Whether some host is one of `name`'s, a certificate's, and of a route's `pattern`.
  static bool Overlap(std::string_view name, std::string_view pattern) {
    if (NameCovers(name, pattern)) return true;
    if (!pattern.starts_with("*.")) return false;
    const std::string_view suffix = pattern.substr(1);  // of any number of labels
    return name.ends_with(suffix);
  }

  void BuildCertificates() {
    std::vector<std::string_view> hosts;  // of routes; none: one of them serves any
    for (const auto& [name, route] : routes_.sorted) {
      if (route->match().hosts().empty() && route->match().scheme() != v1::RouteMatch::HTTP) {
        hosts.clear();
        break;
      }
      hosts.insert(hosts.end(), route->match().hosts().begin(), route->match().hosts().end());
    }
    for (size_t i = 0; i < read_certificates_.size(); ++i) {
      const std::shared_ptr<const Certificate>& certificate = read_certificates_[i];
      if (certificate == nullptr) {
        ++snapshot_->keys_lacking_;
        result_.warnings.push_back(fmt::format(
            "Certificate/{}: has no key here and is not served: a stream that is neither TLS nor loopback does "
            "not carry it, a cache may not have it, and exports redact it",
            certificates_.sorted[i].first));
        continue;
      }
      snapshot_->certificates_.push_back(certificate);
      result_.warnings.insert(result_.warnings.end(), certificate->warnings.begin(), certificate->warnings.end());
      const auto serves = [&hosts](const std::string& name) {
        return std::any_of(hosts.begin(), hosts.end(), [&](std::string_view host) { return Overlap(name, host); });
      };
      if (hosts.empty() || shown_.contains(certificates_.sorted[i].first) ||
          std::any_of(certificate->dns_names.begin(), certificate->dns_names.end(), serves)) {
        continue;
      }
      result_.warnings.push_back(
          fmt::format("Certificate/{}: no route serves any of its hosts", certificates_.sorted[i].first));
    }
  }

  // The certificate that is shown to endpoints.
  void UseCertificate(const std::string& name, UpstreamTlsPolicy* policy) {
    if (name.empty()) return;
    const v1::Certificate& document = *certificates_.sorted[certificates_.index.at(name)].second;
    shown_.insert(document.name());
    policy->certificate = name;
    policy->certificate_pem = document.certificate().inline_();
    if (!IsRedacted(document.key().inline_())) policy->key_pem = document.key().inline_();
  }

  void CheckRegexBudget() {
    size_t regexes = 0;
    for (const auto& [name, route] : routes_.sorted) {
      const size_t matching = CountRegexes(route->match());
      regexes += matching + static_cast<size_t>(route->rewrite().has_regex());
      if (regexes > kRegexesMax) {
        const ResourceKey key{"Route", std::string(name)};
        Report(key, &result_.errors)
            .Add(matching > 0 ? "match" : "rewrite.regex",
                 fmt::format("has one regex too many: all routes together may have {}", kRegexesMax));
        return;
      }
    }
  }

  void Build() {
    snapshot_.reset(new Snapshot);
    snapshot_->epoch_ = options_.epoch;
    snapshot_->revision_ = options_.revision;
    BuildRateLimits();
    WarnOfIssuers();
    WarnOfCertificates();
    for (const auto& [name, breaker] : breakers_.sorted) breaker_policies_.push_back(BuildBreaker(*breaker));
    for (const auto& [name, retry] : retries_.sorted) retry_policies_.push_back(BuildRetry(*retry));
    for (const auto& [name, auth] : auths_.sorted) snapshot_->auths_.push_back(BuildAuth(*auth));
    for (const auto& [name, cors] : cors_.sorted) cors_policies_.push_back(BuildCors(*cors));
    for (const auto& [name, access] : accesses_.sorted) access_policies_.push_back(BuildAccess(*access));
    snapshot_->consumers_ = std::move(consumer_table_);
    BuildIdentityFields();
    for (const auto& [name, service] : services_.sorted) {
      snapshot_->services_.push_back(BuildService(*service));
      WarnOfAddresses(snapshot_->services_.back());
    }
    std::vector<RouteTable::Entry> entries;
    entries.reserve(routes_.sorted.size());
    snapshot_->routes_.reserve(routes_.sorted.size());
    std::deque<v1::Route> plain;  // of those that match gRPC
    for (const auto& [name, given] : routes_.sorted) {
      const v1::Route* route = given;
      if (given->match().has_grpc()) {
        plain.push_back(*given);
        *plain.back().mutable_match() = WithoutGrpc(given->match(), given->grpc_web());
        route = &plain.back();
      }
      auto policy = BuildRoute(*route);
      WarnOfRedirect(*route);
      policy->index = static_cast<uint32_t>(snapshot_->routes_.size());
      entries.push_back({policy.get(), route});
      snapshot_->routes_.push_back(std::move(policy));
    }
    BuildCertificates();
    snapshot_->table_ = RouteTable::Build(entries, &result_.warnings);
    WarnOfOpenMethods(*snapshot_->table_, entries, &result_.warnings);
  }

  // Of written-down endpoints: none that would get a request, or one that is written twice.
  void WarnOfAddresses(const ServicePolicy& service) {
    if (service.addresses.empty()) return;
    bool any_weight = false;
    absl::flat_hash_map<std::string, size_t> seen;
    for (size_t i = 0; i < service.addresses.size(); ++i) {
      const auto& address = service.addresses[i];
      any_weight = any_weight || address.weight > 0;
      const bool literal = address.host.find(':') != std::string::npos;
      const std::string host = literal ? Concat("[", address.host, "]") : address.host;
      char normal[kNormalHostBytesMax];
      if (host.size() > sizeof normal) continue;
      const std::string shown =
          fmt::format("{}:{}", std::string_view(normal, NormalizeHost(host, normal)), address.port);
      const auto [first, added] = seen.emplace(shown, i);
      if (added) continue;
      result_.warnings.push_back(
          fmt::format("Service/{}: static[{}] and static[{}] are the same address {}; its share "
                      "is said by `weight`, not by writing it twice",
                      service.name, first->second, i, QuoteForMessage(shown)));
    }
    if (!any_weight) {
      result_.warnings.push_back(
          fmt::format("Service/{}: every endpoint has weight 0, so none gets a request (503)", service.name));
    }
  }

  // One to another scheme alone leads those who have it back to itself.
  void WarnOfRedirect(const v1::Route& route) {
    const v1::Redirect& redirect = route.redirect();
    if (redirect.scheme().empty() || !redirect.host().empty() || !redirect.path().empty() ||
        !redirect.prefix().empty() || !redirect.template_().empty() ||
        route.match().scheme() != v1::RouteMatch::SCHEME_UNSPECIFIED) {
      return;
    }
    result_.warnings.push_back(
        fmt::format("Route/{}: redirects {} requests to themselves; add `match: {{ scheme: {} }}`", route.name(),
                    redirect.scheme(), redirect.scheme() == "https" ? "http" : "https"));
  }

  // Whether some Auth reads credentials from the field; `name` is in lower case.
  bool HoldsCredentials(std::string_view name) const {
    return std::any_of(auths_.sorted.begin(), auths_.sorted.end(), [name](const auto& entry) {
      const auto& methods = entry.second->methods();
      return std::any_of(methods.begin(), methods.end(), [name](const v1::AuthMethod& method) {
        if (method.has_client_certificate()) return false;
        return name == (method.has_api_key() ? absl::AsciiStrToLower(KeyFieldOf(method)) : "authorization");
      });
    });
  }

  // A subject is a consumer's only by a method that pins its issuer. One warning for each issuer.
  void WarnOfIssuers() {
    std::map<std::string_view, std::pair<std::string_view, size_t>> strange;  // the first consumer, and how many more
    for (const auto& [name, consumer] : consumers_.sorted) {
      for (const v1::Credential& credential : consumer->credentials()) {
        if (!credential.has_jwt()) continue;
        const auto [at, added] = strange.try_emplace(credential.jwt().issuer(), name, 0);
        if (!added) ++at->second.second;
      }
    }
    for (const auto& [name, auth] : auths_.sorted) {
      for (const v1::AuthMethod& method : auth->methods()) strange.erase(method.jwt().issuer());
    }
    for (const auto& [issuer, consumers] : strange) {
      const std::string more = consumers.second == 0 ? "" : fmt::format(" (and {} more credentials)", consumers.second);
      result_.warnings.push_back(
          fmt::format("Consumer/{}: no Auth has a jwt method with the issuer {}, so its token is never accepted{}",
                      consumers.first, QuoteForMessage(issuer), more));
    }
  }

  // The same of client certificates; one warning for all.
  void WarnOfCertificates() {
    for (const auto& [name, auth] : auths_.sorted) {
      for (const v1::AuthMethod& method : auth->methods()) {
        if (method.has_client_certificate()) return;
      }
    }
    for (const auto& [name, consumer] : consumers_.sorted) {
      for (const v1::Credential& credential : consumer->credentials()) {
        if (!credential.has_client_certificate()) continue;
        result_.warnings.push_back(fmt::format(
            "Consumer/{}: no Auth has a client_certificate method, so its certificate is never accepted", name));
        return;
      }
    }
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
      for (const std::string& key : limit.key()) policy.keys.push_back(ParseLimitKey(key).value());
      policy.needs_identity =
          std::any_of(policy.keys.begin(), policy.keys.end(), [](const LimitKey& key) { return key.NeedsIdentity(); });
      policy.requests = limit.limit().requests();
      policy.window = ToMillis(limit.limit().window());
      policy.burst = limit.limit().has_burst() ? limit.limit().burst() : policy.requests;
      if (limit.algorithm() != v1::RateLimit::ALGORITHM_UNSPECIFIED) policy.algorithm = limit.algorithm();
      if (limit.scope() != v1::RateLimit::SCOPE_UNSPECIFIED) policy.scope = limit.scope();
      if (limit.on_unavailable() != v1::RateLimit::ON_UNAVAILABLE_UNSPECIFIED) {
        policy.on_unavailable = limit.on_unavailable();
        if (policy.scope == v1::RateLimit::DATA_PLANE) {
          result_.warnings.push_back(
              fmt::format("RateLimit/{}: on_unavailable has no effect with scope: data_plane", limit.name()));
        }
      }
      for (const LimitKey& key : policy.keys) {
        if (key.kind != LimitKey::Kind::kHeader) continue;
        if (HoldsCredentials(key.name)) {
          result_.warnings.push_back(fmt::format(
              "RateLimit/{}: any client can invent values of {}, and so be in another bucket with each request; "
              "consumer counts by whom an Auth has found",
              limit.name(), key.name));
        }
        if (!NamesClientAddress(key.name)) continue;
        result_.warnings.push_back(
            fmt::format("RateLimit/{}: any client can write {} as it likes, and so be in another bucket with each "
                        "request; client_ip "
                        "takes the address from it for server.trusted_proxies",
                        limit.name(), key.name));
      }
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
    policy->max_sleep_window =
        breaker.has_max_sleep_window() ? ToMillis(breaker.max_sleep_window()) : policy->sleep_window;
    if (breaker.has_slow_call_duration()) policy->slow_call_duration = ToMillis(breaker.slow_call_duration());
    if (breaker.has_slow_call_percent_threshold()) {
      policy->slow_call_percent_threshold = breaker.slow_call_percent_threshold();
    }
    if (breaker.has_probes()) policy->probes = breaker.probes();
    policy->force = breaker.force();
    return policy;
  }

  static std::shared_ptr<const RetryPolicy> BuildRetry(const v1::Retry& retry) {
    auto policy = std::make_shared<RetryPolicy>();
    policy->name = retry.name();
    if (retry.has_attempts()) policy->attempts = retry.attempts();
    for (const std::string& condition : retry.conditions()) AddRetryCondition(condition, policy.get());
    if (retry.conditions().empty()) {
      for (const std::string_view condition : {"connect_failure", "reset", "502", "503", "504"}) {
        AddRetryCondition(condition, policy.get());
      }
    }
    policy->methods = MethodsWithHead(retry.methods());
    if (policy->methods.empty()) policy->methods = {"GET", "HEAD", "PUT", "DELETE", "OPTIONS"};
    std::sort(policy->methods.begin(), policy->methods.end());
    if (retry.has_per_try_timeout()) policy->per_try_timeout = ToMillis(retry.per_try_timeout());
    if (retry.backoff().has_base()) policy->backoff_base = ToMillis(retry.backoff().base());
    if (retry.backoff().has_max()) policy->backoff_max = ToMillis(retry.backoff().max());
    policy->backoff_max = std::max(policy->backoff_max, policy->backoff_base);
    if (retry.budget().has_percent()) policy->budget_percent = retry.budget().percent();
    if (retry.budget().has_min_per_second()) policy->budget_min_per_second = retry.budget().min_per_second();
    if (retry.has_max_body_bytes()) policy->max_body_bytes = retry.max_body_bytes();
    return policy;
  }

  static std::shared_ptr<const AuthPolicy> BuildAuth(const v1::Auth& auth) {
    auto policy = std::make_shared<AuthPolicy>();
    policy->name = auth.name();
    for (const v1::AuthMethod& method : auth.methods()) {
      AuthMethodPolicy& built = policy->methods.emplace_back();
      if (method.has_api_key()) {
        built.kind = AuthMethodPolicy::Kind::kApiKey;
        built.header = KeyFieldOf(method);
      } else if (method.has_basic()) {
        built.kind = AuthMethodPolicy::Kind::kBasic;
        built.realm = method.basic().realm().empty() ? "gateway" : method.basic().realm();
      } else if (method.has_client_certificate()) {
        built.kind = AuthMethodPolicy::Kind::kClientCertificate;
        built.identity = method.client_certificate().identity();
      } else {
        const v1::JwtAuth& jwt = method.jwt();
        built.kind = AuthMethodPolicy::Kind::kJwt;
        built.issuer = jwt.issuer();
        built.audiences.assign(jwt.audiences().begin(), jwt.audiences().end());
        built.jwks_inline = jwt.jwks().inline_();
        built.jwks_url = jwt.jwks().url();
        if (jwt.jwks().has_refresh()) built.jwks_refresh = ToMillis(jwt.jwks().refresh());
        built.require.assign(jwt.require().begin(), jwt.require().end());
        std::sort(built.require.begin(), built.require.end());
        if (jwt.has_leeway()) built.leeway = ToMillis(jwt.leeway());
        built.groups_claim = jwt.groups_claim().empty() ? "groups" : jwt.groups_claim();
        built.consumer_claim = jwt.consumer_claim().empty() ? "sub" : jwt.consumer_claim();
      }
    }
    policy->allow_groups.assign(auth.allow().groups().begin(), auth.allow().groups().end());
    policy->allow_consumers.assign(auth.allow().consumers().begin(), auth.allow().consumers().end());
    std::sort(policy->allow_groups.begin(), policy->allow_groups.end());
    std::sort(policy->allow_consumers.begin(), policy->allow_consumers.end());
    policy->forward_consumer = auth.forward().consumer();
    policy->forward_groups = auth.forward().groups();
    policy->forward_client_certificate = auth.forward().client_certificate();
    policy->forward_claims.assign(auth.forward().claims().begin(), auth.forward().claims().end());
    std::sort(policy->forward_claims.begin(), policy->forward_claims.end());
    policy->keep_credentials = auth.forward().credentials() == v1::AuthForward::KEEP;
    return policy;
  }

  void BuildIdentityFields() {
    std::vector<std::string>& fields = snapshot_->identity_fields_;
    const auto add = [&fields](const std::string& name) {
      if (!name.empty()) fields.push_back(absl::AsciiStrToLower(name));
    };
    for (const std::shared_ptr<const AuthPolicy>& auth : snapshot_->auths_) {
      add(auth->forward_consumer);
      add(auth->forward_groups);
      add(auth->forward_client_certificate);
      for (const auto& [field, claim] : auth->forward_claims) add(field);
    }
    std::sort(fields.begin(), fields.end());
    fields.erase(std::unique(fields.begin(), fields.end()), fields.end());
  }

  static std::shared_ptr<const CorsPolicy> BuildCors(const v1::Cors& cors) {
    auto policy = std::make_shared<CorsPolicy>();
    policy->name = cors.name();
    for (const std::string& text : cors.origins()) {
      if (text == "*") {
        policy->any_origin = true;
        continue;
      }
      Origin origin = ParseOrigin(text).value();
      if (origin.wildcard) {
        policy->wildcards.emplace_back(std::move(origin.scheme), std::move(origin.host));
      } else {
        policy->origins.push_back(origin.scheme + origin.host);
      }
    }
    std::sort(policy->origins.begin(), policy->origins.end());
    policy->methods.assign(cors.methods().begin(), cors.methods().end());
    policy->any_method = std::find(policy->methods.begin(), policy->methods.end(), "*") != policy->methods.end();
    if (policy->methods.empty()) policy->methods = {"GET", "HEAD", "POST"};
    for (const std::string& header : cors.headers()) {
      if (header == "*") policy->any_header = true;
      policy->headers.push_back(absl::AsciiStrToLower(header));
    }
    for (const std::string& header : cors.expose_headers()) {
      Append(&policy->expose_headers, policy->expose_headers.empty() ? "" : ", ", header);
    }
    policy->credentials = cors.credentials();
    if (cors.has_max_age()) {
      policy->max_age = std::chrono::duration_cast<std::chrono::seconds>(ToMillis(cors.max_age()));
    }
    return policy;
  }

  static std::shared_ptr<const AccessPolicy> BuildAccess(const v1::IpAccess& access) {
    auto policy = std::make_shared<AccessPolicy>();
    policy->name = access.name();
    // Checked before: none fails.
    for (const std::string& block : access.allow()) policy->allow.Add(block).IgnoreError();
    for (const std::string& block : access.deny()) policy->deny.Add(block).IgnoreError();
    policy->allow.Seal();
    policy->deny.Seal();
    return policy;
  }

  // What `name` refers to, or where it is empty what Defaults does; null for neither, and for `none`.
  template <typename Body, typename Policy>
  static std::shared_ptr<const Policy> Referred(const std::string& name, const std::string& by_default,
                                                const Kind<Body>& kind,
                                                const std::vector<std::shared_ptr<const Policy>>& policies) {
    const std::string& effective = name.empty() ? by_default : name;
    if (effective.empty() || effective == kNone) return nullptr;
    return policies[kind.index.at(effective)];
  }

  // Of a Service, or of a consul_service route's template.
  template <typename Body>
  void ReadServicePolicies(const Body& body, ServicePolicy* policy) {
    policy->balance = BuildBalance(body.load_balancer());
    ReadTimeouts(body.timeouts(), policy);
    if (body.has_tls()) {
      auto tls = BuildUpstreamTls(body.tls());
      UseCertificate(body.tls().certificate(), tls.get());
      policy->tls = std::move(tls);
    }
    policy->protocol = ProtocolOf(body.protocol(), body.has_tls());
    policy->breaker = Referred(body.circuit_breaker(), Default().circuit_breaker(), breakers_, breaker_policies_);
    policy->retry = Referred(body.retry(), Default().retry(), retries_, retry_policies_);
    ReadHealth(body, policy);
  }

  const v1::Defaults& Default() const { return defaults_ != nullptr ? *defaults_ : v1::Defaults::default_instance(); }

  ServicePolicy BuildService(const v1::Service& service) {
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
    ReadServicePolicies(service, &policy);
    return policy;
  }

  static std::vector<FieldEdit> BuildEdits(const google::protobuf::Map<std::string, std::string>& map,
                                           const std::vector<std::string>& variables) {
    std::vector<FieldEdit> edits;
    for (const auto& [name, value] : map) {
      edits.push_back({.name = name, .value = ParseText(value, variables, true, kFieldValueBytesMax).value()});
    }
    // A map has no order; the file's is lost, so it is the names'.
    std::sort(edits.begin(), edits.end(), [](const FieldEdit& a, const FieldEdit& b) { return a.name < b.name; });
    return edits;
  }

  static std::unique_ptr<const FieldEditsPolicy> BuildFieldEdits(const v1::FieldEdits& edits,
                                                                 const std::vector<std::string>& variables) {
    auto policy = std::make_unique<FieldEditsPolicy>();
    policy->remove.assign(edits.remove().begin(), edits.remove().end());
    policy->set = BuildEdits(edits.set(), variables);
    policy->add = BuildEdits(edits.add(), variables);
    if (policy->empty()) return nullptr;
    policy->IndexNames();
    return policy;
  }

  static std::unique_ptr<const RedirectPolicy> BuildRedirect(const v1::Redirect& redirect,
                                                             const std::vector<std::string>& variables) {
    auto policy = std::make_unique<RedirectPolicy>();
    if (redirect.has_status()) policy->status = static_cast<int>(redirect.status());
    policy->scheme = redirect.scheme();
    policy->host = redirect.host();
    policy->path = redirect.path();
    if (!redirect.prefix().empty()) {
      policy->rewrite_is_prefix = true;
      policy->rewrite = PrefixPieces(redirect.prefix());
    }
    if (!redirect.template_().empty()) policy->rewrite = TemplatePieces(redirect.template_(), variables);
    policy->strip_query = redirect.strip_query();
    return policy;
  }

  static std::unique_ptr<const RespondPolicy> BuildRespond(const v1::Respond& respond,
                                                           const std::vector<std::string>& variables) {
    auto policy = std::make_unique<RespondPolicy>();
    if (respond.has_status()) policy->status = static_cast<int>(respond.status());
    policy->body = ParseText(respond.body(), variables, false, kRespondBodyBytesMax).value();
    policy->content_type = respond.content_type().empty() ? "text/plain; charset=utf-8" : respond.content_type();
    policy->headers = BuildEdits(respond.headers(), variables);
    return policy;
  }

  std::unique_ptr<RoutePolicy> BuildRoute(const v1::Route& route) {
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
        variables = VariablesOf(path);
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
      ReadServicePolicies(config.template_(), &service);
      policy->consul_service = std::move(consul_service);
    }

    if (route.has_split_on()) policy->split_on = BuildHashOn(route.split_on());
    if (route.has_redirect()) policy->redirect = BuildRedirect(route.redirect(), variables);
    if (route.has_respond()) policy->respond = BuildRespond(route.respond(), variables);
    policy->request_headers = BuildFieldEdits(route.request_headers(), variables);
    policy->response_headers = BuildFieldEdits(route.response_headers(), variables);
    policy->request_query = BuildFieldEdits(route.request_query(), variables);
    for (const v1::Mirror& mirror : route.mirror()) {
      const double percent = mirror.has_percent() ? mirror.percent() : 100;
      policy->mirrors.push_back({.service = services_.index.at(mirror.service()),
                                 .per_million = static_cast<uint32_t>(std::lround(percent * 10'000))});
    }
    policy->access = Referred(route.access(), Default().access(), accesses_, access_policies_);
    policy->cors = Referred(route.cors(), Default().cors(), cors_, cors_policies_);
    policy->auth = Referred(route.auth(), Default().auth(), auths_, snapshot_->auths_);
    const v1::BodyLimits& body = route.has_body() ? route.body() : Default().body();
    policy->bounds_body = body.has_max_bytes();
    policy->max_body_bytes = body.max_bytes();

    BuildRewrite(route.rewrite(), variables, policy.get());
    policy->timeout = kRouteTimeout;
    if (route.has_timeout()) {
      policy->timeout = ToMillis(route.timeout());
    } else if (Default().has_timeout()) {
      policy->timeout = ToMillis(Default().timeout());
    }
    if (route.has_max_duration()) policy->max_duration = ToMillis(route.max_duration());
    if (route.has_upgrade_idle_timeout()) policy->upgrade_idle_timeout = ToMillis(route.upgrade_idle_timeout());
    policy->grpc_web = route.grpc_web();
    policy->websocket = std::find(route.upgrades().begin(), route.upgrades().end(),
                                  static_cast<int>(v1::Route::WEBSOCKET)) != route.upgrades().end();
    for (const std::string& name : route.rate_limits().empty() ? Default().rate_limits() : route.rate_limits()) {
      if (name == kNone) continue;
      const int index = limit_indices_[rate_limits_.index.at(name)];
      if (index < 0) continue;
      const bool needs_identity = snapshot_->rate_limits_[static_cast<size_t>(index)].needs_identity;
      (needs_identity ? policy->identity_limits : policy->rate_limits).push_back(static_cast<uint32_t>(index));
      if (needs_identity && policy->auth == nullptr) {
        result_.warnings.push_back(fmt::format(
            "Route/{}: RateLimit/{} counts by consumer or claim, but the route has no auth: all of its requests share "
            "one bucket",
            route.name(), name));
      }
    }
    return policy;
  }

  static std::vector<RewritePiece> PrefixPieces(std::string_view prefix) {
    if (prefix.ends_with('/')) prefix.remove_suffix(1);  // the rest begins with its own, or is nothing
    return {{.literal = std::string(prefix), .variable = -1}};
  }

  static std::vector<RewritePiece> TemplatePieces(const std::string& text, const std::vector<std::string>& variables) {
    std::vector<RewritePiece> pieces;
    std::string literal;
    const std::vector<TemplateSegment> segments = ParseTemplate(text).value();
    for (const TemplateSegment& segment : segments) {
      if (segment.kind != TemplateSegment::Kind::kRest) literal += '/';  // ** has its own, or is nothing
      if (segment.kind == TemplateSegment::Kind::kLiteral) {
        literal += segment.text;
        continue;
      }
      if (!literal.empty()) pieces.push_back({.literal = std::exchange(literal, {}), .variable = -1});
      const auto at = std::find(variables.begin(), variables.end(), segment.text) - variables.begin();
      pieces.push_back({.literal = {}, .variable = static_cast<int>(at)});
    }
    if (!literal.empty()) pieces.push_back({.literal = std::move(literal), .variable = -1});
    return pieces;
  }

  static void BuildRewrite(const v1::Rewrite& rewrite, const std::vector<std::string>& variables, RoutePolicy* policy) {
    policy->rewrite_host = rewrite.host();
    if (!rewrite.prefix().empty()) {
      policy->rewrites = true;
      policy->rewrite_is_prefix = true;
      policy->rewrite = PrefixPieces(rewrite.prefix());
    }
    if (!rewrite.template_().empty()) {
      policy->rewrites = true;
      policy->rewrite = TemplatePieces(rewrite.template_(), variables);
    }
    if (rewrite.has_regex()) {
      policy->rewrites = true;
      policy->rewrite_regex = CompileRegex(rewrite.regex().pattern());  // checked before
      policy->rewrite_substitution = rewrite.regex().substitution();
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
  Kind<v1::Retry> retries_;
  Kind<v1::Auth> auths_;
  Kind<v1::Consumer> consumers_;
  Kind<v1::Cors> cors_;
  Kind<v1::IpAccess> accesses_;
  Kind<v1::Certificate> certificates_;
  absl::flat_hash_map<std::string, std::string_view> forwarded_;  // a field, folded -> the Auth that forwards as it
  const v1::Defaults* defaults_ = nullptr;

  std::shared_ptr<Snapshot> snapshot_;
  std::vector<int> limit_indices_;  // by position in rate_limits_.sorted: in Snapshot::rate_limits(), or -1: disabled
  // By position in the `sorted` of their kind.
  std::vector<std::shared_ptr<const BreakerPolicy>> breaker_policies_;
  std::vector<std::shared_ptr<const RetryPolicy>> retry_policies_;
  std::vector<std::shared_ptr<const CorsPolicy>> cors_policies_;
  std::vector<std::shared_ptr<const AccessPolicy>> access_policies_;
  std::shared_ptr<const ConsumerTable> consumer_table_;
  std::vector<std::shared_ptr<const Certificate>> read_certificates_;  // null: its key is kept from this data plane
  std::set<std::string_view> shown_;                                   // to endpoints
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
