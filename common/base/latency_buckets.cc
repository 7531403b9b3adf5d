#include "common/base/latency_buckets.h"

namespace gateway {

double LatencyQuantile(std::span<const uint64_t> buckets, double quantile) {
  uint64_t total = 0;
  for (const uint64_t each : buckets) total += each;
  if (total == 0) return 0;
  const double wanted = std::clamp(quantile, 0.0, 1.0) * static_cast<double>(total);
  double below = 0;
  for (size_t i = 0; i < buckets.size(); ++i) {
    const auto here = static_cast<double>(buckets[i]);
    if (here == 0 || below + here < wanted) {
      below += here;
      continue;
    }
    const double low = i == 0 ? 0 : static_cast<double>(kLatencyBoundNanos[std::min(i, kLatencyBuckets - 1) - 1]);
    if (i >= kLatencyBoundNanos.size()) return low;
    return low + (static_cast<double>(kLatencyBoundNanos[i]) - low) * (wanted - below) / here;
  }
  return 0;
}

}  // namespace gateway
