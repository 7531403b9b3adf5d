// How much of a service one data plane uses at once: connections in use, requests that wait for one, and both together
// (Service.limits).
#ifndef GATEWAY_DATAPLANE_POLICY_BULKHEAD_H_
#define GATEWAY_DATAPLANE_POLICY_BULKHEAD_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "common/policy/policy.h"

namespace gateway::dataplane {

// One service's, over all workers of the process. Thread-safe; never reads a clock: who waits keeps the time.
// Those that wait are served in the order in which they came. HTTP/1.1 needs a connection for each request, so places
// are connections in use; idle ones in the pools cost the service next to nothing and are not counted.
class Bulkhead {
 public:
  enum class Verdict : uint8_t {
    kEntered,
    kWaits,            // what `granted` gave will be called, unless Leave comes first
    kTooManyRequests,  // limits.requests
    kTooManyPending,   // limits.pending
  };

  // One request's place, or its wait for one. Movable only while empty.
  class Place {
   public:
    Place() = default;
    ~Place() { Leave(); }
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;
    // Gives the place, or the wait for one, back. Nothing is granted after it.
    void Leave();
    bool entered() const;

   private:
    friend class Bulkhead;
    struct State;
    std::shared_ptr<Bulkhead> bulkhead_;
    std::shared_ptr<State> state_;  // of a wait
  };

  explicit Bulkhead(const ServiceLimitsPolicy& limits) : limits_(limits) {}

  // `granted` is asked only where the request waits; what it gives is called once, by whoever leaves, on that one's
  // thread; it must not block, nor call back in here.
  // Requires: `place` is empty. `self` owns this.
  static Verdict Enter(const std::shared_ptr<Bulkhead>& self, Place* place,
                       absl::FunctionRef<std::function<void()>()> granted);

  // New bounds; who is inside stays inside.
  void Reconfigure(const ServiceLimitsPolicy& limits);

  struct View {
    uint32_t in_use = 0, pending = 0;
    uint64_t refused = 0;
  };
  View view() const;

 private:
  void Leave(Place* place);
  void Admit(std::vector<std::function<void()>>* calls) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  ServiceLimitsPolicy limits_ ABSL_GUARDED_BY(mutex_);
  uint32_t in_use_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<std::shared_ptr<Place::State>> pending_ ABSL_GUARDED_BY(mutex_);
  uint64_t refused_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_POLICY_BULKHEAD_H_
