// Tells everybody who asked that something changed.
#ifndef GATEWAY_CONTROLPLANE_RPC_NOTIFIER_H_
#define GATEWAY_CONTROLPLANE_RPC_NOTIFIER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"

namespace gateway::controlplane {

// Thread-safe. A callback may still be running, or about to run, when Remove returns: let it hold what it needs weakly.
// How many there may be is for the owner of the subscribers to bound.
class Notifier {
 public:
  using Callback = std::function<void()>;

  uint64_t Add(Callback callback) {
    std::lock_guard lock(mu_);
    callbacks_.emplace(++last_, std::move(callback));
    return last_;
  }
  void Remove(uint64_t id) {
    std::lock_guard lock(mu_);
    callbacks_.erase(id);
  }
  // Calls all of them on this thread, without a lock held.
  void Notify() {
    std::vector<Callback> callbacks;
    {
      std::lock_guard lock(mu_);
      for (const auto& [id, callback] : callbacks_) callbacks.push_back(callback);
    }
    for (const Callback& callback : callbacks) callback();
  }

 private:
  std::mutex mu_;
  uint64_t last_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<uint64_t, Callback> callbacks_ ABSL_GUARDED_BY(mu_);
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_RPC_NOTIFIER_H_
