// What the load programs of the benchmark measure: latencies, and the CPU time and memory of the measured processes.
#ifndef GATEWAY_TESTS_BENCH_MEASUREMENT_H_
#define GATEWAY_TESTS_BENCH_MEASUREMENT_H_

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace gateway::bench {

int64_t NowNs();  // monotonic

// Latencies in buckets of 1/64 of their power of two: reported values are at most 1.6 % too high.
class Histogram {
 public:
  void Add(int64_t ns) {
    ++buckets_[Index(static_cast<uint64_t>(std::max<int64_t>(ns, 0)))];
    ++count_;
    max_ = std::max(max_, ns);
  }
  uint64_t count() const { return count_; }
  // {"p50": ..., "max": ..., "count": N}, in microseconds.
  std::string Json() const;

 private:
  static constexpr int kBits = 6;

  static size_t Index(uint64_t ns) {
    if (ns < (1U << kBits)) return ns;
    const int shift = std::bit_width(ns) - 1 - kBits;
    return (static_cast<size_t>(shift + 1) << kBits) + ((ns >> shift) - (1U << kBits));
  }
  static uint64_t Highest(size_t index) {
    if (index < (1U << kBits)) return index;
    const auto shift = (index >> kBits) - 1;
    return (((1U << kBits) + (index & ((1U << kBits) - 1)) + 1) << shift) - 1;
  }
  double Micros(double quantile) const {
    const auto rank = static_cast<uint64_t>(quantile * static_cast<double>(count_));
    uint64_t seen = 0;
    for (size_t i = 0; i < buckets_.size(); ++i) {
      seen += buckets_[i];
      if (seen > rank) return static_cast<double>(std::min(Highest(i), static_cast<uint64_t>(max_))) / 1e3;
    }
    return static_cast<double>(max_) / 1e3;
  }

  std::vector<uint64_t> buckets_ = std::vector<uint64_t>(59 << kBits);
  uint64_t count_ = 0;
  int64_t max_ = 0;
};

// CPU time and resident memory of processes, from /proc.
struct Usage {
  double cpu_seconds = 0;
  uint64_t rss_bytes = 0;
};

Usage UsageOf(const std::vector<int>& pids);

double OwnCpuSeconds();  // of this process, all threads

}  // namespace gateway::bench

#endif  // GATEWAY_TESTS_BENCH_MEASUREMENT_H_
