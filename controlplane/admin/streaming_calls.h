// The admin calls that respond with a stream of messages.
#ifndef GATEWAY_CONTROLPLANE_ADMIN_STREAMING_CALLS_H_
#define GATEWAY_CONTROLPLANE_ADMIN_STREAMING_CALLS_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "common/base/digest.h"
#include "controlplane/identity/caller.h"
#include "controlplane/identity/tokens.h"
#include "controlplane/rpc/notifier.h"
#include "grpcpp/support/server_callback.h"

namespace gateway::controlplane {

// Watch, Rollout and Backup calls at a time; of these, one Backup: each holds a copy of the database on its disk.
inline constexpr size_t kAdminStreamsMax = 256;

// Those that are under way, at most kAdminStreamsMax. Ends those whose token is revoked or has expired: has a thread
// that looks for expired ones. Thread-safe.
class StreamingCalls {
 public:
  struct Call {
    virtual ~Call() = default;
    virtual void End(const grpc::Status& status) = 0;
    // As the caller has them.
    std::optional<Digest> token;
    absl::Time expires_at = absl::InfiniteFuture();
  };

  explicit StreamingCalls(Tokens* tokens);
  ~StreamingCalls();  // waits until every call has ended

  // Ends all with UNAVAILABLE and refuses new ones.
  void Drain();

  // Whether `call` is the only backup under way: then it is until it ends.
  bool BeginBackup(Call* call);
  // Starts `stream` (an AdminStream), or ends it if there are too many.
  template <typename S>
  S* Open(std::shared_ptr<S> stream, const grpc::CallbackServerContext* context) {
    stream->token = CallerOf(context).token;
    stream->expires_at = CallerOf(context).expires_at;
    const std::optional<grpc::Status> refusal = Add(stream);
    refusal ? stream->End(*refusal) : stream->Start();
    return stream.get();
  }
  // `call` has ended.
  void Remove(Call* call);

 private:
  // Why `call` is refused; none: it is not. A refused one lives until its Remove too, for an instant.
  std::optional<grpc::Status> Add(std::shared_ptr<Call> call);
  // Ends the calls whose token is revoked or has expired.
  void EndRevoked();
  void Sweep();

  Tokens* const tokens_;
  uint64_t revocations_ = 0;  // the subscription

  std::mutex mu_;
  std::condition_variable ended_;
  std::map<Call*, std::shared_ptr<Call>> calls_ ABSL_GUARDED_BY(mu_);
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  Call* backup_ ABSL_GUARDED_BY(mu_) = nullptr;  // the one that is under way
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  std::thread sweeper_;
};

// A call that responds with a stream of messages. Wake says that there is something to send; Next sends it.
template <typename Message>
class AdminStream : public StreamingCalls::Call,
                    public grpc::ServerWriteReactor<Message>,
                    public std::enable_shared_from_this<AdminStream<Message>> {
 public:
  AdminStream(StreamingCalls* calls, Notifier* notifier) : calls_(calls), notifier_(notifier) {}

  void Start() {
    subscription_ = notifier_->Add([weak = this->weak_from_this()] {
      if (auto self = weak.lock()) self->Wake();
    });
    Wake();
  }

  void Wake() {
    std::lock_guard lock(mu_);
    if (writing_ || finished_ || end_) return;
    switch (Next(&message_)) {
      case Step::kWait:
        break;
      case Step::kWrite:
        writing_ = true;
        this->StartWrite(&message_);
        break;
      case Step::kWriteLast:
        finished_ = true;
        this->StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status::OK);
        break;
    }
  }

  void End(const grpc::Status& status) override {
    std::lock_guard lock(mu_);
    EndLocked(status);
  }

  void OnWriteDone(bool ok) override {
    {
      std::lock_guard lock(mu_);
      writing_ = false;
      if (end_ || !ok) {
        if (!std::exchange(finished_, true)) this->Finish(end_.value_or(grpc::Status::CANCELLED));
        return;
      }
    }
    Wake();
  }
  void OnCancel() override { End(grpc::Status::CANCELLED); }
  void OnDone() override {
    // gRPC has ended every other call into this; the lock says so to a reader or a checker of the code.
    { std::lock_guard lock(mu_); }
    notifier_->Remove(subscription_);
    calls_->Remove(this);  // may end this
  }

 protected:
  enum class Step { kWait, kWrite, kWriteLast };
  // What to write now, with mu_ held.
  virtual Step Next(Message* message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) = 0;
  void EndLocked(const grpc::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (finished_ || end_) return;
    end_ = status;
    if (writing_) return;  // OnWriteDone finishes
    finished_ = true;
    this->Finish(*end_);
  }

  std::mutex mu_;

 private:
  StreamingCalls* const calls_;
  Notifier* const notifier_;
  uint64_t subscription_ = 0;
  Message message_;  // stays until OnWriteDone
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mu_);
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_ADMIN_STREAMING_CALLS_H_
