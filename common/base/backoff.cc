#include "common/base/backoff.h"

#include <algorithm>
#include <cstdint>

#include "absl/random/distributions.h"

namespace gateway {

std::chrono::milliseconds ReconnectDelay(int attempt, absl::BitGenRef random) {
  // Past six doublings it is above the maximum.
  const int64_t ceiling = std::min<int64_t>(kReconnectMin.count() << std::clamp(attempt, 0, 6), kReconnectMax.count());
  return std::chrono::milliseconds(absl::Uniform<int64_t>(absl::IntervalClosed, random, 1, ceiling));
}

}  // namespace gateway
