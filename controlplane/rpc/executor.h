// One thread for work that may block: SQLite and compiling, kept off gRPC's callback threads.
#ifndef GATEWAY_CONTROLPLANE_RPC_EXECUTOR_H_
#define GATEWAY_CONTROLPLANE_RPC_EXECUTOR_H_

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "absl/base/thread_annotations.h"

namespace gateway::controlplane {

// Runs tasks one after the other, in order. Thread-safe.
class Executor {
 public:
  static constexpr size_t kQueueMax = 1'000;

  Executor();
  ~Executor();  // runs what is queued, then ends the thread

  // False where kQueueMax tasks wait already: `task` is not run.
  [[nodiscard]] bool Run(std::function<void()> task);

 private:
  void Loop();

  std::mutex mu_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mu_);
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_RPC_EXECUTOR_H_
