// How long to wait before the next try.
#ifndef GATEWAY_COMMON_BASE_BACKOFF_H_
#define GATEWAY_COMMON_BASE_BACKOFF_H_

#include <chrono>

#include "absl/random/bit_gen_ref.h"

namespace gateway {

inline constexpr std::chrono::milliseconds kReconnectMin{100};
inline constexpr std::chrono::milliseconds kReconnectMax{5000};

// The delay before attempt number `attempt` (from 0) to connect: full jitter, uniform from 1 ms to kReconnectMin
// doubled `attempt` times, at most kReconnectMax. A thousand processes that lost the same peer come back spread out.
std::chrono::milliseconds ReconnectDelay(int attempt, absl::BitGenRef random);

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_BACKOFF_H_
