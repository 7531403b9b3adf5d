#include "controlplane/stream/change_keeper.h"

#include <memory>
#include <utility>

#include "spdlog/spdlog.h"

namespace gateway::controlplane {

ChangeKeeper::ChangeKeeper(Publisher* publisher, Hub* hub, std::function<absl::Time()> now)
    : publisher_(publisher), hub_(hub), now_(std::move(now)), started_at_(now_()) {
  subscription_ = publisher_->revisions().Add([bell = bell_] {
    {
      std::lock_guard lock(bell->mu);
      bell->news = true;
    }
    bell->wakes.notify_one();
  });
  thread_ = std::thread([this] { Run(); });
}

ChangeKeeper::~ChangeKeeper() {
  publisher_->revisions().Remove(subscription_);
  {
    std::lock_guard lock(bell_->mu);
    bell_->ending = true;
  }
  bell_->wakes.notify_one();
  thread_.join();
}

void ChangeKeeper::Run() {
  Bell& bell = *bell_;
  std::unique_lock lock(bell.mu);
  while (!bell.ending) {
    bell.news = false;
    lock.unlock();
    const std::shared_ptr<const PolicyState> state = publisher_->current();
    const bool under_way = state->pending != nullptr;
    if (under_way) Look(*state->pending);
    lock.lock();
    const auto awaited = [&bell]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(bell.mu) { return bell.ending || bell.news; };
    if (under_way) {
      bell.wakes.wait_for(lock, kLookEvery, awaited);
    } else {
      bell.wakes.wait(lock, awaited);
    }
  }
}

void ChangeKeeper::Look(const v1::PendingChange& change) {
  const absl::Time now = now_();
  const bool judged_late = change.has_guard_until() && absl::FromUnixSeconds(change.guard_until().seconds()) <= now &&
                           change.begun().seconds() < absl::ToUnixSeconds(started_at_);
  if (judged_late && now - started_at_ < kReportsWait) return;
  const absl::Status status = publisher_->AdvanceChange(change.revision(), hub_->Figures(change.revision()));
  if (!status.ok() && told_ != status.message()) {
    spdlog::error("revision {}: what must become of the change cannot be done, and is tried again: {}",
                  change.revision(), std::string(status.message()));
  }
  told_ = std::string(status.message());
}

}  // namespace gateway::controlplane
