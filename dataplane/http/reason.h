// Every reason for which the gateway responds by itself: one table of status, stable word and message. The word is the
// same in the response, in the access log and in metrics.
#ifndef GATEWAY_DATAPLANE_HTTP_REASON_H_
#define GATEWAY_DATAPLANE_HTTP_REASON_H_

#include <cstdint>
#include <string_view>

namespace gateway::dataplane {

enum class Reason : uint8_t {
  kNone,  // the service responded
  kBadRequest,
  kUnauthenticated,
  kForbidden,
  kNoRoute,
  kUnknownService,
  kMethodNotAllowed,
  kRequestTimeout,
  kBodyTooLarge,
  kTargetTooLong,
  kExpectationFailed,
  kHeadersTooLarge,
  kMisdirectedRequest,
  kRateLimited,
  kInternal,
  kNotImplemented,
  kHttpVersion,
  kUpstreamReset,
  kUpstreamInvalid,
  kUpstreamConnectFailed,
  kUpstreamTlsFailed,
  kNoHealthyEndpoint,
  kDiscoveryUnavailable,
  kBreakerOpen,
  kConcurrencyLimit,
  kOverloaded,
  kDraining,
  kUpstreamTimeout,
  kRequestDeadline,
  kLoopDetected,
  kClientClosed,  // there is no client to respond to; status 499 in log and metrics
};
inline constexpr int kReasonCount = static_cast<int>(Reason::kClientClosed) + 1;

struct ReasonInfo {
  int status;
  std::string_view word;     // "rate_limited"
  std::string_view message;  // "Rate limit exceeded"
};

const ReasonInfo& InfoOf(Reason reason);

// "Not Found"; "Unknown" for a status that has no name.
std::string_view StatusPhrase(int status);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_HTTP_REASON_H_
