// Policy that is there without a document; a document of the same name replaces it whole.
#ifndef GATEWAY_COMMON_POLICY_BUILTIN_H_
#define GATEWAY_COMMON_POLICY_BUILTIN_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "common/policy/policy.h"
#include "gateway/v1/bootstrap.pb.h"
#include "gateway/v1/policy.pb.h"

namespace gateway {

// The limit of RateLimit/default.
struct BuiltinRateLimit {
  uint32_t max_requests = 1000;
  Millis window{60000};
};

// The bootstrap's `rate_limit`; nothing if it is absent or disabled.
std::optional<BuiltinRateLimit> BuiltinLimitOf(const v1::Bootstrap& config);

// RateLimit/default (disabled without `rate_limit`), CircuitBreaker/hystrix, Defaults/default.
std::vector<v1::Resource> BuiltinResources(const std::optional<BuiltinRateLimit>& rate_limit);

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_BUILTIN_H_
