#include "dataplane/policy/endpoint_state.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace gateway::dataplane {
namespace {

constexpr int kTickBits = 16;  // 65.5 us

uint32_t TickOf(TimePoint now) {
  const auto nanoseconds = std::chrono::duration_cast<std::chrono::nanoseconds>(now.time_since_epoch()).count();
  return static_cast<uint32_t>(static_cast<uint64_t>(nanoseconds) >> kTickBits);
}

double CostIn(uint64_t packed) { return std::bit_cast<float>(static_cast<uint32_t>(packed >> 32)); }

// Workers read the clock once in each turn, so one may be slightly behind another.
bool IsBehind(uint32_t tick, uint64_t packed) { return tick - static_cast<uint32_t>(packed) >= 1U << 31; }

// The remaining part of a sample after the ticks from `packed` to `tick`.
double LeftOf(uint64_t packed, uint32_t tick, std::chrono::nanoseconds decay) {
  if (IsBehind(tick, packed)) return 1;
  const uint32_t ticks = tick - static_cast<uint32_t>(packed);
  return std::exp(-std::ldexp(static_cast<double>(ticks), kTickBits) / static_cast<double>(decay.count()));
}

}  // namespace

void PeakEwma::Observe(std::chrono::nanoseconds latency, TimePoint now, std::chrono::nanoseconds decay) {
  const uint32_t now_tick = TickOf(now);
  const auto sample = static_cast<double>(latency.count());
  uint64_t before = packed_.load(std::memory_order_relaxed);
  for (;;) {
    double cost = sample;
    const uint32_t tick = before != 0 && IsBehind(now_tick, before) ? static_cast<uint32_t>(before) : now_tick;
    if (before != 0 && sample < CostIn(before)) {
      const double left = std::min(LeftOf(before, tick, decay), 1 - kSampleWeightMin);
      cost = CostIn(before) * left + sample * (1 - left);
    }
    const uint64_t after = uint64_t{std::bit_cast<uint32_t>(static_cast<float>(cost))} << 32 | tick;
    if (packed_.compare_exchange_weak(before, after, std::memory_order_relaxed)) return;
  }
}

double PeakEwma::Cost(TimePoint now, std::chrono::nanoseconds decay) const {
  const uint64_t packed = packed_.load(std::memory_order_relaxed);
  return CostIn(packed) * LeftOf(packed, TickOf(now), decay);
}

void EndpointState::Exclude(Exclusion by) {
  const auto bit = static_cast<uint32_t>(by);
  if ((excluded_.fetch_or(bit) & bit) == 0) group_->changes.fetch_add(1, std::memory_order_release);
}

void EndpointState::Include(Exclusion by, TimePoint now) {
  const auto bit = static_cast<uint32_t>(by);
  const uint32_t before = excluded_.fetch_and(~bit);
  if ((before & bit) == 0) return;
  if (before == bit) {
    serving_since_.store(std::chrono::duration_cast<std::chrono::nanoseconds>(now.time_since_epoch()).count(),
                         std::memory_order_relaxed);
  }
  group_->changes.fetch_add(1, std::memory_order_release);
}

}  // namespace gateway::dataplane
