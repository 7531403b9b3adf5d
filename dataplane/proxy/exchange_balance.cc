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

// The session's endpoint where it may have the request, else the balancer's choice, none of `attempt_.tried`. False: there is
// none.
bool Exchange::PickEndpoint() {
  const EndpointBalancer& balancer = *target_.service->balancer;
  attempt_.in_flight = {};
  int index = EndpointBalancer::kNone;
  if (target_.service->sessions != nullptr) {
    const auto found =
        target_.service->sessions->indices.find(FindCookie(request_.head.field_views(), target_.service->policy->balance.session_cookie));
    if (found != target_.service->sessions->indices.end() && balancer.Usable(found->second) &&
        std::find(attempt_.tried.begin(), attempt_.tried.end(), found->second) == attempt_.tried.end()) {
      index = static_cast<int>(found->second);
    }
    attempt_.sets_session = index == EndpointBalancer::kNone;
  }
  if (index == EndpointBalancer::kNone) {
    index =
        balancer.Pick(target_.service->runtime->cursor,
                      {.random = worker_->random(),
                       .now = loop().now(),
                       .hash = HashOf(target_.service->policy->balance.hash_on, request_.head.field_views(), request_.client_address, request_.path),
                       .tried = {attempt_.tried.data(), attempt_.tried.size()}});
  }
  if (index == EndpointBalancer::kNone) return false;
  attempt_.endpoint_index = static_cast<uint32_t>(index);
  attempt_.endpoint = target_.service->endpoints[attempt_.endpoint_index];
  attempt_.endpoint_reported = false;
  if (balancer.counts_in_flight()) attempt_.in_flight = InFlight(balancer.members()[attempt_.endpoint_index].state);
  return true;
}

// How the attempt at the endpoint that was picked last went: the status of its answer, or (0) why there is none. The
// first report on an attempt counts: of a failing status at the head, of others at the end of the body, so that a
// response that breaks off or stalls is a failure. Latency is that of the head. What the client, or the gateway itself,
// is to blame for says nothing of an endpoint.
void Exchange::ReportEndpoint(int status, Reason reason) {
  if (attempt_.endpoint_reported || (target_.service->ejector == nullptr && !target_.service->balancer->measures_latency())) return;
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
  attempt_.endpoint_reported = true;
  EndpointState& state = *target_.service->balancer->members()[attempt_.endpoint_index].state;
  const TimePoint now = loop().now();
  if (result == Result::kGatewayFailure) {
    ObserveLatency(std::max<std::chrono::nanoseconds>(ServiceTime(), kFailureLatency));
  }
  if (target_.service->ejector != nullptr) target_.service->ejector->Report(&state, result, now);
}

void Exchange::ObserveLatency(std::chrono::nanoseconds latency) {
  if (!target_.service->balancer->measures_latency()) return;
  EndpointState& state = *target_.service->balancer->members()[attempt_.endpoint_index].state;
  state.latency.Observe(latency, loop().now(), target_.service->balancer->options().decay);
}

// Of an answer to a client that has no session here yet, or whose endpoint is another now. Appended to `out`, a whole
// line.
void Exchange::AppendSessionCookie(std::string* out) const {
  const BalancePolicy& policy = target_.service->policy->balance;
  Append(out, "Set-Cookie: ", policy.session_cookie, "=", target_.service->sessions->values[attempt_.endpoint_index],
         "; Path=", policy.session_path, "; HttpOnly; SameSite=Lax");
  if (policy.session_ttl.count() > 0) Append(out, "; Max-Age=", policy.session_ttl.count());
  out->append("\r\n");
}

}  // namespace gateway::dataplane
