// The buckets in which data planes count latencies for the control plane: four to an octave, so that a percentile read
// from them is within a fifth of the true one. Part of the wire's contract (RouteReport): never changed, only added to.
#ifndef GATEWAY_COMMON_BASE_LATENCY_BUCKETS_H_
#define GATEWAY_COMMON_BASE_LATENCY_BUCKETS_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace gateway {

inline constexpr size_t kLatencyBuckets = 64;

// The upper bounds, included, of all buckets but the last, which has none: 0.25 ms to 11.6 s.
inline constexpr std::array<int64_t, kLatencyBuckets - 1> kLatencyBoundNanos = [] {
  constexpr std::array<int64_t, 4> kSteps = {1000, 1189, 1414, 1682};  // powers of the fourth root of 2, in thousandths
  std::array<int64_t, kLatencyBuckets - 1> bounds{};
  for (size_t i = 0; i < bounds.size(); ++i) bounds[i] = (int64_t{250} << (i / 4)) * kSteps[i % 4];
  return bounds;
}();

constexpr size_t LatencyBucketOf(int64_t nanos) {
  return static_cast<size_t>(std::lower_bound(kLatencyBoundNanos.begin(), kLatencyBoundNanos.end(), nanos) -
                             kLatencyBoundNanos.begin());
}

// The latency in nanoseconds that `quantile` (0 to 1) of all in `buckets` (at most kLatencyBuckets) do not pass,
// interpolated within its bucket; that of the last bucket is its lower bound. 0: there are none.
double LatencyQuantile(std::span<const uint64_t> buckets, double quantile);

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_LATENCY_BUCKETS_H_
