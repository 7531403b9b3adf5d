// Binds what is applied and hands it to the workers, and frees states that no worker holds any more.
#ifndef GATEWAY_DATAPLANE_CONFIG_STATE_INSTALLER_H_
#define GATEWAY_DATAPLANE_CONFIG_STATE_INSTALLER_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "dataplane/state/runtime_state.h"

namespace gateway::dataplane {

// Hands a state to every worker and calls `done` (on any thread, once) when all of them serve from it.
using InstallFunction = std::function<void(std::shared_ptr<const ServingState>, std::function<void()> done)>;

// The configuration thread's, except Abandon.
class StateInstaller {
 public:
  static constexpr size_t kRetiredStatesMax = 1024;  // past it, the last worker that holds the oldest one frees it

  StateInstaller(RuntimeState* runtime, InstallFunction install);

  // Binds and installs; returns at once.
  void Begin(std::shared_ptr<const Snapshot> snapshot, const EndpointTable& endpoints, bool has_policy);
  // Blocks until every worker serves what Begin installed last; a worker that takes longer than 10 s is logged. False:
  // Abandon was called.
  bool Await();
  bool Install(std::shared_ptr<const Snapshot> snapshot, const EndpointTable& endpoints, bool has_policy) {
    Begin(std::move(snapshot), endpoints, has_policy);
    return Await();
  }
  // Ends every Await, now and later. Thread-safe.
  void Abandon();

  // Whether older states wait for their workers; Sweep frees those that no worker holds any more.
  bool has_retired() const { return !retired_.empty(); }
  void Sweep();

 private:
  // Shared with every `done` that a worker may still call.
  struct Progress {
    absl::Mutex mutex;
    uint64_t installed ABSL_GUARDED_BY(mutex) = 0;  // the newest one that every worker serves
    bool abandoned ABSL_GUARDED_BY(mutex) = false;
  };

  RuntimeState* const runtime_;
  const InstallFunction install_;
  const std::shared_ptr<Progress> progress_ = std::make_shared<Progress>();
  uint64_t begun_ = 0;
  std::shared_ptr<const ServingState> current_;
  std::deque<std::shared_ptr<const ServingState>> retired_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_CONFIG_STATE_INSTALLER_H_
