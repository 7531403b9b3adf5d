// The clock of everything that waits or expires.
#ifndef GATEWAY_COMMON_BASE_TIME_H_
#define GATEWAY_COMMON_BASE_TIME_H_

#include <chrono>

namespace gateway {

// Monotonic time; what policy objects and timers take as `now`.
using TimePoint = std::chrono::steady_clock::time_point;

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_TIME_H_
