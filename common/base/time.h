// The two clocks, as types. Policy objects never read a clock: callers pass `now`.
#ifndef GATEWAY_COMMON_BASE_TIME_H_
#define GATEWAY_COMMON_BASE_TIME_H_

#include <chrono>

namespace gateway {

// Steady time since an arbitrary start; for waits, deadlines and rates.
using TimePoint = std::chrono::steady_clock::time_point;
// Wall-clock time; for what other machines state, such as when a token expires.
using WallTime = std::chrono::system_clock::time_point;

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_TIME_H_
