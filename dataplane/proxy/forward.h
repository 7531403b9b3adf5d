// How a service is asked: attempts at its endpoints until one has responded, and what each of them meant for the
// service and the endpoint. The two bodies of an attempt flow at once: the request's in a task of its own, the
// response's in the exchange's.
#ifndef GATEWAY_DATAPLANE_PROXY_FORWARD_H_
#define GATEWAY_DATAPLANE_PROXY_FORWARD_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/container/inlined_vector.h"
#include "dataplane/http/stream.h"
#include "dataplane/net/task.h"
#include "dataplane/policy/circuit_breaker.h"
#include "dataplane/policy/endpoint_balancer.h"
#include "dataplane/proxy/attempt.h"
#include "dataplane/proxy/exchange_resources.h"
#include "dataplane/proxy/request_context.h"
#include "dataplane/proxy/retry.h"

namespace gateway::dataplane {

// Of one request. Lives in the exchange's coroutine; everything it is given outlives it. Relays the response of the
// endpoint that responded; refusing is the exchange's task.
class Forwarding {
 public:
  static constexpr int kConnectAttemptsMax = 3;  // endpoints tried while connections are refused
  static constexpr int kRenewalsMax = 3;         // new connections for a request that an endpoint has not looked at

  // REQUIRES: the target's service has a balancer. `retry`: null if the request is not retried.
  Forwarding(ExchangeResources* resources, RequestContext* context, const RetryPolicy* retry,
             CircuitBreaker::Permit* permit);
  Forwarding(const Forwarding&) = delete;
  Forwarding& operator=(const Forwarding&) = delete;

  // Chooses endpoints until one has responded (kNone), or nothing is left to try. kClientClosed without a response:
  // there is no client to respond to.
  Task<AttemptEnd> Run();

  // The steps of Run. Begins an attempt: at the same endpoint as before, or at another one, as session, balancer and
  // what was tried say. False: no endpoint is left.
  bool Begin(bool same_endpoint);
  // The attempt that was begun, on a stream that can take a request: sends the request and relays the response.
  Task<AttemptEnd> TryEndpoint(http::UpstreamStream* upstream);

 private:
  // What is particular to each relay.
  class Upload;
  class Download;

  const ServicePolicy& policy() const { return *service_.policy; }
  EventLoop& loop() const { return *resources_.loop; }
  TimePoint now() const { return loop().now(); }
  bool IsGone() const { return context_.stream.gone() || *resources_.cut_short; }
  bool IsOutOfTime() const { return context_.deadline.IsOver(now()); }
  // When the service has to have responded.
  TimePoint ResponseUntil() const;

  // The session's endpoint if it may have the request, else the balancer's choice, not one of `tried_`. False: there is
  // none.
  bool PickEndpoint();
  Task<bool> Connect(http::UpstreamStream* upstream, AttemptEnd* failure);
  Task<AttemptEnd> Converse(http::UpstreamStream* upstream, std::optional<Task<void>>* upload);
  Task<AttemptEnd> RelayResponse(http::UpstreamStream* upstream, http::Response* response);
  Task<void> UploadBody(http::UpstreamStream* upstream);
  void CancelWhenGone(http::UpstreamStream* upstream);  // null: nothing is cancelled
  TimePoint HeaderDeadline() const;
  std::chrono::nanoseconds ServiceTime() const;
  AttemptEnd EndOfWait(Wait wait) const;
  Reason EndOfCancelled() const;
  bool MayRepeat(const AttemptEnd& attempt) const;
  bool GrantRetry(const FailedAttempt& attempt);

  // What the breaker and the endpoint's statistics hear. Of each attempt the first report counts.
  void ReportFailure(const AttemptEnd& attempt);
  void ReportHeader(int status);  // a 5xx is a failure whatever follows, a 101 a success
  void ReportSuccess();           // the body has flowed for long enough
  void ReportEnd();               // the body has ended
  void ReportEndpoint(int status, Reason reason);
  void ObserveLatency(std::chrono::nanoseconds latency);

  // A Set-Cookie line for a response with this status; empty: it needs none.
  std::string SessionCookie(int status) const;

  ExchangeResources& resources_;
  RequestContext& context_;
  const BoundService& service_;
  CircuitBreaker::Permit& permit_;
  Retries retries_;
  AttemptClock clock_;
  uint32_t endpoint_index_ = 0;             // of this attempt, in service_.endpoints
  bool endpoint_reported_ = true;           // this attempt was reported to the endpoint's statistics
  bool sets_session_ = false;               // the response brings a cookie
  bool stop_upload_ = false;                // the attempt is over
  absl::InlinedVector<uint32_t, 8> tried_;  // indices that are not to be picked again
  InFlight in_flight_;                      // where the balancer counts
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_FORWARD_H_
