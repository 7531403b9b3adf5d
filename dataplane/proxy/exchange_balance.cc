// Which endpoint an attempt goes to, and what the service remembers of how it went.
#include <algorithm>
#include <string>

#include "common/base/text.h"
#include "dataplane/policy/hash_on.h"
#include "dataplane/proxy/exchange.h"

namespace gateway::dataplane {
namespace {

// What a failed attempt counts as at least, so that an endpoint that fails at once does not look fast.
constexpr std::chrono::seconds kFailureLatency{1};

}  // namespace

// The session's endpoint where it may have the request, else the balancer's choice, none of `tried_`. False: there is
// none.
bool Exchange::PickEndpoint() {
  const EndpointBalancer& balancer = *service_->balancer;
  in_flight_ = {};
  int index = EndpointBalancer::kNone;
  if (service_->sessions != nullptr) {
    const auto found =
        service_->sessions->indices.find(FindCookie(head_.field_views(), service_->policy->balance.session_cookie));
    if (found != service_->sessions->indices.end() && balancer.Usable(found->second) &&
        std::find(tried_.begin(), tried_.end(), found->second) == tried_.end()) {
      index = static_cast<int>(found->second);
    }
    sets_session_ = index == EndpointBalancer::kNone;
  }
  if (index == EndpointBalancer::kNone) {
    index =
        balancer.Pick(service_->runtime->cursor,
                      {.random = worker_->random(),
                       .now = loop().now(),
                       .hash = HashOf(service_->policy->balance.hash_on, head_.field_views(), client_address_, path_),
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
// first report on an attempt counts: of a failing status at the head, of others at the end of the body, so that a
// response that breaks off or stalls is a failure. Latency is that of the head. What the client, or the gateway itself,
// is to blame for says nothing of an endpoint.
void Exchange::ReportEndpoint(int status, Reason reason) {
  if (endpoint_reported_ || (service_->ejector == nullptr && !service_->balancer->measures_latency())) return;
  using Result = OutlierEjector::Result;
  Result result = Result::kSuccess;
  if (status >= 500) {
    result = status >= 502 && status <= 504 ? Result::kGatewayFailure : Result::kFailure;
  } else if (status == 0) {
    const bool its_fault = reason == Reason::kUpstreamReset || reason == Reason::kUpstreamInvalid ||
                           reason == Reason::kUpstreamConnectFailed || reason == Reason::kUpstreamTlsFailed ||
                           reason == Reason::kUpstreamTimeout || (reason == Reason::kRequestDeadline && !OutOfTime());
    if (!its_fault) return;
    result = Result::kGatewayFailure;
  }
  endpoint_reported_ = true;
  EndpointState& state = *service_->balancer->members()[endpoint_index_].state;
  const TimePoint now = loop().now();
  if (result == Result::kGatewayFailure) {
    ObserveLatency(std::max<std::chrono::nanoseconds>(ServiceTime(), kFailureLatency));
  }
  if (service_->ejector != nullptr) service_->ejector->Report(&state, result, now);
}

void Exchange::ObserveLatency(std::chrono::nanoseconds latency) {
  if (!service_->balancer->measures_latency()) return;
  EndpointState& state = *service_->balancer->members()[endpoint_index_].state;
  state.latency.Observe(latency, loop().now(), service_->balancer->options().decay);
}

// Of an answer to a client that has no session here yet, or whose endpoint is another now. Appended to `out`, a whole
// line.
void Exchange::AppendSessionCookie(std::string* out) const {
  const BalancePolicy& policy = service_->policy->balance;
  Append(out, "Set-Cookie: ", policy.session_cookie, "=", service_->sessions->values[endpoint_index_],
         "; Path=", policy.session_path, "; HttpOnly; SameSite=Lax");
  if (IsHttps()) out->append("; Secure");
  if (policy.session_ttl.count() > 0) Append(out, "; Max-Age=", policy.session_ttl.count());
  out->append("\r\n");
}

}  // namespace gateway::dataplane
