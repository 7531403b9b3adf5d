// A Route's canary: its check, and what it means for the weights of the split.
#ifndef GATEWAY_COMMON_POLICY_KINDS_CANARY_H_
#define GATEWAY_COMMON_POLICY_KINDS_CANARY_H_

#include <chrono>
#include <cstdint>
#include <string>

#include "common/policy/kinds/checks.h"
#include "gateway/v1/policy.pb.h"

namespace gateway {

inline constexpr size_t kCanariesMax = 1'000;  // Routes with a canary, in a whole policy
inline constexpr std::chrono::seconds kCanaryEveryDefault{60};

// The side that the traffic moves to. REQUIRES: `route` has a split and a canary.
const std::string& CanaryServiceOf(const v1::Route& route);
// How long a step lasts.
std::chrono::milliseconds CanaryEveryOf(const v1::Route& route);

// Reports what is wrong with the canary of `route`.
void CheckCanary(const Report& report, const v1::Route& route);

// `route` as data planes serve it while its side gets `percent` (0 to 100): the weights of the split are replaced, and
// the Route has no canary. REQUIRES: it passes CheckCanary.
v1::Route ServedRoute(const v1::Route& route, uint32_t percent);

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_KINDS_CANARY_H_
