// What a service remembers of its endpoints while requests come and go: kept by address and service, so that a new set
// or a new policy finds it again. Everything here is atomic: workers, the health checker and the ejector write it.
#ifndef GATEWAY_DATAPLANE_POLICY_ENDPOINT_STATE_H_
#define GATEWAY_DATAPLANE_POLICY_ENDPOINT_STATE_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>

#include "common/base/time.h"

namespace gateway::dataplane {

// A moving average of latency that jumps to a peak at once and forgets it slowly, as Finagle and linkerd have it: after
// one slow response an endpoint is avoided, and comes back as time passes, also with no traffic to measure by. Unlike
// theirs it also forgets by the number of good responses: with a thousand a second, one pause would else keep an
// endpoint away for the whole of `decay`, however many good responses it has given since.
class PeakEwma {
 public:
  static constexpr double kSampleWeightMin = 0.125;

  // `decay`: the time in which a sample's weight falls to 1/e.
  void Observe(std::chrono::nanoseconds latency, TimePoint now, std::chrono::nanoseconds decay);
  // Nanoseconds, decayed up to `now`.
  double Cost(TimePoint now, std::chrono::nanoseconds decay) const;
  bool measured() const { return packed_.load(std::memory_order_relaxed) != 0; }

 private:
  // The cost as a float, below it the time of the last sample in units of 2^16 ns (wraps after 78 hours, when an old
  // cost may count as a fresh one once). One word, so that both change together without a lock. 0: never measured.
  std::atomic<uint64_t> packed_{0};
};

// All endpoints of one service together.
struct EndpointGroup {
  // Rises whenever an endpoint becomes usable or unusable: balancers compare it with what they last saw.
  std::atomic<uint64_t> changes{1};
  // Requests at all endpoints; kept only where a balancer asks for it.
  std::atomic<int64_t> in_flight{0};
};

// Reasons for which an endpoint gets no requests; several may hold at once.
enum class Exclusion : uint32_t {
  kUnhealthy = 1,  // active checks failed
  kEjected = 2,    // as an outlier
};

class EndpointState {
 public:
  static constexpr int64_t kAlways = std::numeric_limits<int64_t>::min();

  // `since`: when it began to serve, for the slow start; kAlways: long ago.
  explicit EndpointState(std::shared_ptr<EndpointGroup> group, int64_t since = kAlways)
      : group_(std::move(group)), serving_since_(since) {}

  bool usable() const { return excluded_.load(std::memory_order_relaxed) == 0; }
  bool excluded(Exclusion by) const {
    return (excluded_.load(std::memory_order_relaxed) & static_cast<uint32_t>(by)) != 0;
  }
  void Exclude(Exclusion by);
  // With the last reason gone it returns, with a slow start from `now` on.
  void Include(Exclusion by, TimePoint now);

  // Nanoseconds of the steady clock, or kAlways.
  int64_t serving_since() const { return serving_since_.load(std::memory_order_relaxed); }

  const std::shared_ptr<EndpointGroup>& group() const { return group_; }

  std::atomic<uint32_t> in_flight{0};
  PeakEwma latency;
  // The ejector's: failures in a row, and in the upper half the gateway failures among them in a row; then what
  // happened in this interval, counted only where the success rate matters.
  std::atomic<uint64_t> failures{0};
  std::atomic<uint32_t> interval_requests{0};
  std::atomic<uint32_t> interval_successes{0};

 private:
  const std::shared_ptr<EndpointGroup> group_;
  std::atomic<uint32_t> excluded_{0};
  std::atomic<int64_t> serving_since_;
};

// A request that is at an endpoint, from its construction to its end. Movable; default: none.
class InFlight {
 public:
  InFlight() = default;
  explicit InFlight(std::shared_ptr<EndpointState> state) : state_(std::move(state)) {
    state_->in_flight.fetch_add(1, std::memory_order_relaxed);
    state_->group()->in_flight.fetch_add(1, std::memory_order_relaxed);
  }
  InFlight(InFlight&& other) noexcept = default;
  InFlight& operator=(InFlight&& other) noexcept {
    if (this != &other) {
      End();
      state_ = std::move(other.state_);
    }
    return *this;
  }
  ~InFlight() { End(); }

 private:
  void End() {
    if (state_ == nullptr) return;
    state_->in_flight.fetch_sub(1, std::memory_order_relaxed);
    state_->group()->in_flight.fetch_sub(1, std::memory_order_relaxed);
    state_.reset();
  }
  std::shared_ptr<EndpointState> state_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_POLICY_ENDPOINT_STATE_H_
