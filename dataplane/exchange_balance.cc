// Which endpoint an attempt goes to, and what the service remembers of how it went.
#include <algorithm>
#include <string>

#include "absl/strings/match.h"
#include "common/hash.h"
#include "common/text.h"
#include "dataplane/exchange.h"

namespace gateway::dataplane {
namespace {

// What a failed attempt counts as at least, so that an endpoint that fails at once does not look fast.
constexpr std::chrono::seconds kFailureLatency{1};

// Of a Cookie field (RFC 6265, section 5.4: pairs with "; " between them); null where it is not there.
std::string_view CookieIn(std::string_view field, std::string_view name) {
  while (!field.empty()) {
    const size_t end = std::min(field.find(';'), field.size());
    std::string_view pair = field.substr(0, end);
    field.remove_prefix(std::min(end + 1, field.size()));
    pair.remove_prefix(std::min(pair.find_first_not_of(" \t"), pair.size()));
    if (pair.size() > name.size() && pair[name.size()] == '=' && pair.substr(0, name.size()) == name) {
      std::string_view value = pair.substr(name.size() + 1);
      while (!value.empty() && (value.back() == ' ' || value.back() == '\t')) value.remove_suffix(1);
      if (value.size() >= 2 && value.front() == '"' && value.back() == '"') value = value.substr(1, value.size() - 2);
      return value;
    }
  }
  return {};
}

}  // namespace

// The first one of this name; empty: there is none.
std::string_view Exchange::CookieOf(std::string_view name) const {
  for (const FieldView& field : head_.fields) {
    if (!absl::EqualsIgnoreCase(AbslView(field.name), "cookie")) continue;
    if (const std::string_view value = CookieIn(field.value, name); !value.empty()) return value;
  }
  return {};
}

// Nothing where the request lacks what is hashed.
std::optional<uint64_t> Exchange::HashOf(const HashOnPolicy& on) const {
  std::string_view bytes;
  switch (on.kind) {
    case HashOnPolicy::Kind::kNothing:
      break;
    case HashOnPolicy::Kind::kHeader:
      for (const FieldView& field : head_.fields) {
        if (!bytes.empty() || !absl::EqualsIgnoreCase(AbslView(field.name), AbslView(on.name))) continue;
        bytes = field.value;
      }
      break;
    case HashOnPolicy::Kind::kCookie:
      bytes = CookieOf(on.name);
      break;
    case HashOnPolicy::Kind::kClientIp:
      bytes = {reinterpret_cast<const char*>(client_address_.s6_addr), sizeof client_address_.s6_addr};
      break;
    case HashOnPolicy::Kind::kPath:
      bytes = path_;
      break;
  }
  if (bytes.empty()) return std::nullopt;
  return StableHash(bytes);
}

// The session's endpoint where it may have the request, else the balancer's choice, none of `tried_`. False: there is
// none.
bool Exchange::PickEndpoint() {
  const EndpointBalancer& balancer = *service_->balancer;
  in_flight_ = {};
  int index = EndpointBalancer::kNone;
  if (service_->sessions != nullptr) {
    const auto found = service_->sessions->indices.find(CookieOf(service_->policy->balance.session_cookie));
    if (found != service_->sessions->indices.end() && balancer.Usable(found->second) &&
        std::find(tried_.begin(), tried_.end(), found->second) == tried_.end()) {
      index = static_cast<int>(found->second);
    }
    sets_session_ = index == EndpointBalancer::kNone;
  }
  if (index == EndpointBalancer::kNone) {
    index = balancer.Pick(service_->runtime->cursor, {.random = worker_->random(),
                                                      .now = loop().now(),
                                                      .hash = HashOf(service_->policy->balance.hash_on),
                                                      .tried = {tried_.data(), tried_.size()}});
  }
  if (index == EndpointBalancer::kNone) return false;
  endpoint_index_ = static_cast<uint32_t>(index);
  endpoint_ = service_->endpoints[endpoint_index_];
  endpoint_reported_ = false;
  if (balancer.counts_in_flight()) in_flight_ = InFlight(balancer.members()[endpoint_index_].state);
  return true;
}

// How the attempt at the endpoint that was picked last went: the status of its answer, or (0) why there is none. The
// first word on an attempt counts. What the client, or the gateway itself, is to blame for says nothing of an endpoint.
void Exchange::ReportEndpoint(int status, Reason reason) {
  if (endpoint_reported_ || (service_->ejector == nullptr && !service_->balancer->measures_latency())) return;
  using Result = OutlierEjector::Result;
  Result result = Result::kSuccess;
  if (status >= 500) {
    result = status >= 502 && status <= 504 ? Result::kGatewayFailure : Result::kFailure;
  } else if (status == 0) {
    const bool its_fault = reason == Reason::kUpstreamReset || reason == Reason::kUpstreamInvalid ||
                           reason == Reason::kUpstreamConnectFailed || reason == Reason::kUpstreamTimeout ||
                           (reason == Reason::kRequestDeadline && !OutOfTime());
    if (!its_fault) return;
    result = Result::kGatewayFailure;
  }
  endpoint_reported_ = true;
  EndpointState& state = *service_->balancer->members()[endpoint_index_].state;
  const TimePoint now = loop().now();
  if (service_->balancer->measures_latency()) {
    std::chrono::nanoseconds latency = now - attempt_started_;
    if (result == Result::kGatewayFailure) latency = std::max<std::chrono::nanoseconds>(latency, kFailureLatency);
    state.latency.Observe(latency, now, service_->balancer->options().decay);
  }
  if (service_->ejector != nullptr) service_->ejector->Report(&state, result, now);
}

// Of an answer to a client that has no session here yet, or whose endpoint is another now. Appended to `out`, a whole
// line.
void Exchange::AppendSessionCookie(std::string* out) const {
  const BalancePolicy& policy = service_->policy->balance;
  Append(out, "Set-Cookie: ", policy.session_cookie, "=", service_->sessions->values[endpoint_index_],
         "; Path=", policy.session_path, "; HttpOnly; SameSite=Lax");
  if (policy.session_ttl.count() > 0) Append(out, "; Max-Age=", policy.session_ttl.count());
  out->append("\r\n");
}

}  // namespace gateway::dataplane
