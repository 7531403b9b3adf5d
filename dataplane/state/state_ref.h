// A worker's own reference count on a ServingState: exchanges hold the state that they started with without touching a
// counter that other threads touch.
#ifndef GATEWAY_DATAPLANE_STATE_STATE_REF_H_
#define GATEWAY_DATAPLANE_STATE_STATE_REF_H_

#include <cstdint>
#include <memory>

#include "dataplane/state/serving_state.h"

namespace gateway::dataplane {

// On the heap; deleted with its last reference. The worker holds one for as long as the state is the newest.
struct LocalState {
  std::shared_ptr<const ServingState> state;
  uint32_t references = 0;
};

// One reference. Belongs to the worker's thread.
class StateRef {
 public:
  explicit StateRef(LocalState* local) : local_(local) { ++local_->references; }
  StateRef(const StateRef&) = delete;
  StateRef& operator=(const StateRef&) = delete;
  ~StateRef() {
    if (--local_->references == 0) delete local_;
  }
  const ServingState& operator*() const { return *local_->state; }
  const ServingState* operator->() const { return local_->state.get(); }

 private:
  LocalState* local_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_STATE_STATE_REF_H_
