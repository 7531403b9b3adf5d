#include "dataplane/config/state_installer.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/time/time.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

constexpr std::chrono::seconds kPatience{10};  // before a worker that has not taken a state is logged

}  // namespace

StateInstaller::StateInstaller(RuntimeState* runtime, InstallFunction install)
    : runtime_(runtime), install_(std::move(install)) {}

void StateInstaller::Begin(std::shared_ptr<const Snapshot> snapshot, const EndpointTable& endpoints, bool has_policy) {
  if (current_ != nullptr) {
    retired_.push_back(std::move(current_));
    if (retired_.size() > kRetiredStatesMax) retired_.pop_front();
  }
  current_ = runtime_->Bind(std::move(snapshot), endpoints, has_policy);
  install_(current_, [progress = progress_, number = ++begun_] {
    absl::MutexLock lock(&progress->mutex);
    progress->installed = std::max(progress->installed, number);
  });
}

bool StateInstaller::Await() {
  Progress& progress = *progress_;
  const auto decided = [this, &progress]() ABSL_SHARED_LOCKS_REQUIRED(progress.mutex) {
    return progress.installed >= begun_ || progress.abandoned;
  };
  absl::MutexLock lock(&progress.mutex);
  while (!progress.mutex.AwaitWithTimeout(absl::Condition(&decided), absl::FromChrono(kPatience))) {
    spdlog::warn("configuration: a worker has not taken revision {}, endpoints {} yet", current_->snapshot->revision(),
                 current_->endpoints_version);
  }
  return progress.installed >= begun_;
}

void StateInstaller::Abandon() {
  absl::MutexLock lock(&progress_->mutex);
  progress_->abandoned = true;
}

void StateInstaller::Sweep() {
  // Only this thread's reference is left, so none can be added: it is freed here, not by a worker.
  std::erase_if(retired_, [](const auto& state) { return state.use_count() == 1; });
}

}  // namespace gateway::dataplane
