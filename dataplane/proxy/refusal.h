// How a stage of a request says no.
#ifndef GATEWAY_DATAPLANE_PROXY_REFUSAL_H_
#define GATEWAY_DATAPLANE_PROXY_REFUSAL_H_

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string_view>

#include "dataplane/http/reason.h"

namespace gateway::dataplane {

// The document whose decision it was: {"RateLimit", "per-client"}. Views hold as long as the exchange.
struct PolicyName {
  std::string_view kind;
  std::string_view name;
  bool empty() const { return kind.empty(); }
};

struct Refusal {
  Reason reason = Reason::kNone;
  const char* detail = "";  // a constant
  PolicyName policy{};
  std::chrono::milliseconds retry_after{0};  // of kRateLimited and kBreakerOpen
};

// The stages of Exchange::Handle that may refuse a request, in their order.
enum class Stage : uint8_t {
  kNone,
  kReadHeader,
  kTakeBody,
  kNormalizeTarget,
  kBuiltin,
  kConfiguration,
  kMatchRoute,
  kReadWebCall,
  kAccess,
  kLimits,
  kAuthenticate,
  kIdentityLimits,
  kBodySize,
  kRedirect,
  kRewrite,
  kLoop,
  kEndpoints,
  kBulkhead,
  kBreaker,
  kBufferBody,
  kForward,
  kInternal,  // an exception
};

// Retry-After and RateLimit-Reset: whole seconds, after which what was promised holds.
inline int64_t CeilSeconds(std::chrono::milliseconds time) { return std::max<int64_t>(1, (time.count() + 999) / 1000); }

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_REFUSAL_H_
