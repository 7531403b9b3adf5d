// Limits of what one data plane uses of a service at once: connections in use, requests that wait for one, and both
// together (Service.limits).
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

// For one service, over all workers of the process. Thread-safe; never reads a clock: the waiting caller keeps the
// time. Waiting requests are served in order. HTTP/1.1 needs a connection for each request, so places are connections
// in use; idle pooled connections cost the service almost nothing and are not counted.
class Bulkhead {
 public:
  enum class Verdict : uint8_t {
    kEntered,
    kWaits,            // the function from `granted` will be called, unless Leave comes first
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
    // Returns the place, or ends the wait for one. Nothing is granted after it.
    void Leave();
    bool entered() const;

   private:
    friend class Bulkhead;
    struct State;
    std::shared_ptr<Bulkhead> bulkhead_;
    std::shared_ptr<State> state_;  // while waiting
  };

  explicit Bulkhead(const ServiceLimitsPolicy& limits) : limits_(limits) {}

  // `granted` is called only if the request waits; the function that it returns is called once, by the leaving
  // request on its thread. It must not block or call back into this object. Requires: `place` is empty. `self` owns
  // this.
  static Verdict Enter(const std::shared_ptr<Bulkhead>& self, Place* place,
                       absl::FunctionRef<std::function<void()>()> granted);

  // Sets new limits; requests inside stay inside.
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
