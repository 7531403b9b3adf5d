#include "controlplane/admin/streaming_calls.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace gateway::controlplane {
namespace {

// How often expired tokens are looked for; revoked ones are known at once.
constexpr std::chrono::seconds kSweepEvery{1};

}  // namespace

StreamingCalls::StreamingCalls(Tokens* tokens) : tokens_(tokens) {
  revocations_ = tokens_->revocations().Add([this] { EndRevoked(); });
  sweeper_ = std::thread([this] { Sweep(); });
}

StreamingCalls::~StreamingCalls() {
  {
    std::unique_lock lock(mu_);
    ended_.wait(lock, [this] { return calls_.empty(); });
    ending_ = true;
  }
  ended_.notify_all();
  sweeper_.join();
  tokens_->revocations().Remove(revocations_);
}

void StreamingCalls::EndRevoked() {
  const absl::Time now = absl::Now();
  std::vector<std::shared_ptr<Call>> ended;
  {
    std::lock_guard lock(mu_);
    for (const auto& [raw, call] : calls_) {
      const bool in_force = call->expires_at > now && (!call->token || tokens_->InForce(*call->token, now));
      if (!in_force) ended.push_back(call);
    }
  }
  for (const auto& call : ended) {
    call->End({grpc::StatusCode::UNAUTHENTICATED, "the token of this call is revoked or has expired"});
  }
}

void StreamingCalls::Sweep() {
  std::unique_lock lock(mu_);
  while (!ended_.wait_for(lock, kSweepEvery, [this] { return ending_; })) {
    lock.unlock();
    EndRevoked();
    lock.lock();
  }
}

void StreamingCalls::Drain() {
  std::vector<std::shared_ptr<Call>> calls;
  {
    std::lock_guard lock(mu_);
    draining_ = true;
    for (const auto& [raw, call] : calls_) calls.push_back(call);
  }
  for (const auto& call : calls) {
    call->End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the control plane is shutting down"));
  }
}

void StreamingCalls::Remove(Call* call) {
  std::shared_ptr<Call> last;  // ends it after the lock is given back
  std::lock_guard lock(mu_);
  auto it = calls_.find(call);
  last = std::move(it->second);
  if (call == backup_) backup_ = nullptr;
  calls_.erase(it);
  ended_.notify_all();  // with the lock held: the waiter for the last one destroys this
}

bool StreamingCalls::BeginBackup(Call* call) {
  std::lock_guard lock(mu_);
  if (backup_ != nullptr) return false;
  backup_ = call;
  return true;
}

std::optional<grpc::Status> StreamingCalls::Add(std::shared_ptr<Call> call) {
  std::optional<grpc::Status> refusal;
  std::lock_guard lock(mu_);
  if (draining_) {
    refusal = grpc::Status(grpc::StatusCode::UNAVAILABLE, "the control plane is shutting down");
  } else if (calls_.size() >= kAdminStreamsMax) {
    refusal = grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED,
                           absl::StrCat("there are ", kAdminStreamsMax, " streaming calls already"));
  }
  Call* const raw = call.get();
  calls_.emplace(raw, std::move(call));
  return refusal;
}

}  // namespace gateway::controlplane
