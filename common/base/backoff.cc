#include "common/base/backoff.h"

#include <algorithm>
#include <cstdint>

#include "absl/random/random.h"

namespace gateway {
namespace {

constexpr std::chrono::milliseconds kReconnectMin{100};
constexpr std::chrono::milliseconds kReconnectMax{5000};
constexpr int kDoublingsMax = 6;  // one more than kReconnectMax takes

}  // namespace

std::chrono::milliseconds ReconnectDelay(int attempt, absl::BitGenRef random) {
  const int64_t ceiling =
      std::min<int64_t>(kReconnectMin.count() << std::clamp(attempt, 0, kDoublingsMax), kReconnectMax.count());
  return std::chrono::milliseconds(absl::Uniform<int64_t>(absl::IntervalClosed, random, 1, ceiling));
}

}  // namespace gateway
