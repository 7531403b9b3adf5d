#include "controlplane/rpc/executor.h"

#include <mutex>
#include <utility>

namespace gateway::controlplane {

Executor::Executor() : thread_([this] { Loop(); }) {}

Executor::~Executor() {
  {
    std::lock_guard lock(mu_);
    ending_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

bool Executor::Run(std::function<void()> task) {
  {
    std::lock_guard lock(mu_);
    if (queue_.size() >= kQueueMax || ending_) return false;
    queue_.push_back(std::move(task));
  }
  changed_.notify_one();
  return true;
}

void Executor::Loop() {
  while (true) {
    std::function<void()> task;
    {
      std::unique_lock lock(mu_);
      changed_.wait(lock, [this] { return ending_ || !queue_.empty(); });
      if (queue_.empty()) return;
      task = std::move(queue_.front());
      queue_.pop_front();
    }
    task();
  }
}

}  // namespace gateway::controlplane
