#include "controlplane/admin/policy_streams.h"

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "controlplane/rpc/grpc_status.h"

namespace gateway::controlplane {
namespace {

// Revisions that a Watch reads ahead.
constexpr size_t kWatchPage = 16;

}  // namespace

WatchStream::Step WatchStream::Next(v1::WatchResponse* message) {
  if (!ahead_.empty()) {
    *message->mutable_revision() = std::move(ahead_.front());
    ahead_.pop_front();
    delivered_ = message->revision().revision();
    return Step::kWrite;
  }
  if (reading_ || publisher_->current()->revision <= delivered_) return Step::kWait;
  reading_ = executor_->Run(
      [self = std::static_pointer_cast<WatchStream>(shared_from_this()), after = delivered_] { self->Read(after); });
  if (!reading_) EndLocked({grpc::StatusCode::UNAVAILABLE, "too many requests are waiting"});
  return Step::kWait;
}

void WatchStream::Read(uint64_t after) {
  absl::StatusOr<std::vector<v1::RevisionInfo>> page = publisher_->store().RevisionsAfter(after, kWatchPage);
  {
    std::lock_guard lock(mu_);
    reading_ = false;
    if (!page.ok()) return EndLocked(ToGrpc(page.status()));
    for (v1::RevisionInfo& info : *page) ahead_.push_back(std::move(info));
    if (ahead_.empty()) return;
  }
  Wake();
}

RolloutStream::Step RolloutStream::Next(v1::RolloutResponse* message) {
  v1::RolloutResponse now = hub_->Rollout(revision_, committed_at_);
  const bool decided = now.data_planes() > 0 && now.serving() + now.rejected() == now.data_planes();
  if (!wait_ || decided) {
    *message = std::move(now);
    return Step::kWriteLast;
  }
  const std::array<uint32_t, 3> figures{now.data_planes(), now.serving(), now.rejected()};
  if (figures == last_) return Step::kWait;
  last_ = figures;
  *message = std::move(now);
  return Step::kWrite;
}

}  // namespace gateway::controlplane
