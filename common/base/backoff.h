// How long to wait before another connection attempt.
#ifndef GATEWAY_COMMON_BASE_BACKOFF_H_
#define GATEWAY_COMMON_BASE_BACKOFF_H_

#include <chrono>

#include "absl/random/bit_gen_ref.h"

namespace gateway {

// Before attempt number `attempt` (from 0) at a control plane: full jitter, uniform from 1 ms to 100 ms doubled
// `attempt` times, at most 5 s. A thousand data planes that lost the same control plane come back spread out.
std::chrono::milliseconds ReconnectDelay(int attempt, absl::BitGenRef random);

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_BACKOFF_H_
