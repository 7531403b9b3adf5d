#include "common/policy/kinds/upstream.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include "absl/strings/ascii.h"
#include "common/base/certificate.h"
#include "common/base/host_port.h"
#include "common/base/quote.h"
#include "common/base/text.h"
#include "common/base/units.h"
#include "common/config/redaction.h"

namespace gateway {
namespace {

constexpr int kTagsMax = 64;
constexpr size_t kConsulNameBytesMax = 256;

std::string NoCookieName(std::string_view name) {
  return fmt::format("{} is not a cookie name; expected letters, digits and !#$%&'*+-.^_`|~, as in session_id",
                     QuoteForMessage(name));
}

void CheckBalancer(const Report& report, const std::string& field, const v1::LoadBalancer& balancer) {
  CheckEnum(report, field + ".policy", balancer.policy(), v1::LoadBalancer::Policy_IsValid);
  CheckEnum(report, field + ".zones", balancer.zones(), v1::LoadBalancer::Zones_IsValid);
  const bool hashes = balancer.policy() == v1::LoadBalancer::RING_HASH || balancer.policy() == v1::LoadBalancer::MAGLEV;
  if (balancer.has_hash_on()) {
    CheckHashOn(report, field + ".hash_on", balancer.hash_on());
    if (!hashes) report.Add(field + ".hash_on", "means something with ring_hash and maglev only");
  }
  if (balancer.has_hash_balance_percent() && balancer.policy() != v1::LoadBalancer::RING_HASH) {
    report.Add(field + ".hash_balance_percent", "means something with ring_hash only");
  }
  if (balancer.has_zone_min_percent() && balancer.zones() != v1::LoadBalancer::PREFER) {
    report.Add(field + ".zone_min_percent", "means something with zones: prefer only");
  }
  if (balancer.has_session()) {
    const v1::SessionCookie& session = balancer.session();
    if (!session.cookie().empty() && !IsToken(session.cookie())) {
      report.Add(field + ".session.cookie", NoCookieName(session.cookie()));
    }
    if (!session.path().empty() &&
        (session.path()[0] != '/' || !IsTargetText(session.path()) || session.path().find(';') != std::string::npos)) {
      report.Add(field + ".session.path", fmt::format("{} is not a cookie path; expected one like /shop, without a ';'",
                                                      QuoteForMessage(session.path())));
    }
  }
}

void CheckHealthCheck(const Report& report, const std::string& field, const v1::HealthCheck& check) {
  CheckEnum(report, field + ".type", check.type(), v1::HealthCheck::Type_IsValid);
  if (check.type() == v1::HealthCheck::GRPC) {
    if (!check.path().empty() || check.statuses_size() > 0) report.Add(field, "of type grpc has no path or statuses");
  } else if (!check.service().empty()) {
    report.Add(field + ".service", "means something with type: grpc only");
  }
  if (check.service().size() > 256 || !IsTargetText(check.service())) {
    report.Add(field + ".service", fmt::format("{} is not the name of a gRPC service; expected one like shop.v1.Orders",
                                               QuoteForMessage(check.service())));
  }
  if (check.type() == v1::HealthCheck::TCP &&
      (!check.path().empty() || !check.host().empty() || check.statuses_size() > 0)) {
    report.Add(field, "of type tcp has no path, host or statuses");
  }
  if (!check.path().empty() && (check.path()[0] != '/' || !IsTargetText(check.path()) || check.path().size() > 2048)) {
    report.Add(field + ".path",
               fmt::format("{} is not a path; expected one like /health", QuoteForMessage(check.path())));
  }
  for (int i = 0; i < check.statuses_size(); ++i) {
    if (check.statuses(i) < 200 || check.statuses(i) > 599) {
      report.Add(At(field + ".statuses", i), fmt::format("is {}; expected 200 to 599", check.statuses(i)));
    }
  }
  if (!check.host().empty()) CheckHostWithPort(report, field + ".host", check.host());
}

void CheckOutlier(const Report& report, const std::string& field, const v1::OutlierEjection& outlier) {
  if (outlier.has_max_time() && outlier.has_base_time() &&
      ToMillis(outlier.max_time()) < ToMillis(outlier.base_time())) {
    report.Add(field + ".max_time", "is shorter than base_time");
  }
}

void CheckUpstreamTls(const Report& report, const std::string& field, const v1::UpstreamTls& tls) {
  CheckEnum(report, field + ".verify", tls.verify(), v1::UpstreamTls::Verify_IsValid);
  if (!tls.server_name().empty() && !ParseHostPort(tls.server_name() + ":1").ok()) {
    report.Add(field + ".server_name",
               fmt::format("{} is neither a host name nor an IP address", QuoteForMessage(tls.server_name())));
  }
  switch (tls.ca().source_case()) {
    case v1::PemText::kFile:
      report.Add(field + ".ca.file", "is read by gatewayctl, which puts its text in `inline`; send that");
      break;
    case v1::PemText::kInline: {
      const auto certificates = ReadCertificates(tls.ca().inline_());
      if (!certificates.ok()) report.Add(field + ".ca.inline", std::string(certificates.status().message()));
      if (tls.verify() == v1::UpstreamTls::NONE) report.Add(field + ".ca", "has no effect with verify: none");
      break;
    }
    case v1::PemText::SOURCE_NOT_SET:
      if (tls.has_ca()) report.Add(field + ".ca", "needs one of file and inline");
      break;
  }
  if (!tls.min_version().empty() && tls.min_version() != "1.2" && tls.min_version() != "1.3") {
    report.Add(field + ".min_version",
               fmt::format("{} is not a version of TLS; expected 1.2 or 1.3", QuoteForMessage(tls.min_version())));
  }
}

std::shared_ptr<UpstreamTlsPolicy> CompileTls(const v1::UpstreamTls& tls) {
  auto policy = std::make_shared<UpstreamTlsPolicy>();
  policy->server_name = tls.server_name();
  policy->verify = tls.verify() == v1::UpstreamTls::CHAIN  ? UpstreamTlsPolicy::Verify::kChain
                   : tls.verify() == v1::UpstreamTls::NONE ? UpstreamTlsPolicy::Verify::kNone
                                                           : UpstreamTlsPolicy::Verify::kFull;
  policy->ca_pem = tls.ca().inline_();
  policy->tls13_only = tls.min_version() == "1.3";
  return policy;
}

// The certificate that is shown to endpoints.
void UseCertificate(const std::string& name, const Compilation& compilation, UpstreamTlsPolicy* policy) {
  if (name.empty()) return;
  const v1::Certificate& document = compilation.All<v1::Certificate>().Named(name);
  policy->certificate = name;
  policy->certificate_pem = document.certificate().inline_();
  if (!IsRedacted(document.key().inline_())) policy->key_pem = document.key().inline_();
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

BalancePolicy CompileBalance(const v1::LoadBalancer& balancer) {
  BalancePolicy policy;
  if (balancer.policy() != v1::LoadBalancer::POLICY_UNSPECIFIED) policy.policy = balancer.policy();
  if (policy.policy == v1::LoadBalancer::RING_HASH || policy.policy == v1::LoadBalancer::MAGLEV) {
    policy.hash_on = CompileHashOn(balancer.hash_on());
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
      // A given value takes precedence over a default; CheckOutlier compares the two if both are given.
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

}  // namespace

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

std::vector<std::string> SortedTags(const google::protobuf::RepeatedPtrField<std::string>& tags) {
  std::vector<std::string> sorted(tags.begin(), tags.end());
  std::sort(sorted.begin(), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  return sorted;
}

v1::ConsulSource::OnSuspect OnSuspectOf(v1::ConsulSource::OnSuspect on_suspect) {
  return on_suspect == v1::ConsulSource::ON_SUSPECT_UNSPECIFIED ? v1::ConsulSource::KEEP : on_suspect;
}

void CheckHashOn(const Report& report, const std::string& field, const v1::HashOn& on) {
  switch (on.on_case()) {
    case v1::HashOn::kHeader:
      if (!IsToken(on.header())) {
        report.Add(field + ".header", NoFieldName(on.header()));
      }
      break;
    case v1::HashOn::kCookie:
      if (!IsToken(on.cookie())) {
        report.Add(field + ".cookie", NoCookieName(on.cookie()));
      }
      break;
    case v1::HashOn::ON_NOT_SET:
      report.Add(field, "is empty; expected header, cookie, client_ip or path");
      break;
    default:
      break;
  }
}

HashOnPolicy CompileHashOn(const v1::HashOn& on) {
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

template <typename Body>
void CheckUpstream(const Report& report, const std::string& base, const Body& body) {
  CheckBalancer(report, base + "load_balancer", body.load_balancer());
  if (body.has_health_check()) CheckHealthCheck(report, base + "health_check", body.health_check());
  if (body.has_outlier_ejection()) CheckOutlier(report, base + "outlier_ejection", body.outlier_ejection());
  if (body.has_tls()) CheckUpstreamTls(report, base + "tls", body.tls());
  CheckEnum(report, base + "protocol", body.protocol(), v1::Service::Protocol_IsValid);
}

template <typename Body>
void CompileUpstream(const Body& body, const Compilation& compilation, ServicePolicy* policy) {
  policy->balance = CompileBalance(body.load_balancer());
  ReadTimeouts(body.timeouts(), policy);
  if (body.has_tls()) {
    auto tls = CompileTls(body.tls());
    UseCertificate(body.tls().certificate(), compilation, tls.get());
    policy->tls = std::move(tls);
  }
  policy->protocol = ProtocolOf(body.protocol(), body.has_tls());
  policy->breaker = compilation.Referred<v1::CircuitBreaker>(
      body.circuit_breaker(), compilation.defaults().circuit_breaker(), compilation.breakers);
  policy->retry = compilation.Referred<v1::Retry>(body.retry(), compilation.defaults().retry(), compilation.retries);
  ReadHealth(body, policy);
}

template void CheckUpstream(const Report&, const std::string&, const v1::Service&);
template void CheckUpstream(const Report&, const std::string&, const v1::ServiceTemplate&);
template void CompileUpstream(const v1::Service&, const Compilation&, ServicePolicy*);
template void CompileUpstream(const v1::ServiceTemplate&, const Compilation&, ServicePolicy*);

}  // namespace gateway
