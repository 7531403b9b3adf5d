// One attempt at a stream to a control plane: what the configuration stream and the lease stream have in common.
#ifndef GATEWAY_DATAPLANE_CONFIG_CONTROL_PLANE_STREAM_H_
#define GATEWAY_DATAPLANE_CONFIG_CONTROL_PLANE_STREAM_H_

#include <chrono>
#include <cstddef>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/thread.h"
#include "common/base/time.h"
#include "grpcpp/grpcpp.h"

namespace gateway::dataplane {

// What a stream's thread passes to its owner's. It outlives the stream: one inbox for all attempts.
template <typename Incoming>
struct StreamInbox {
  absl::Mutex mutex;
  struct Arrival {
    Incoming message;
    TimePoint at;
  };
  std::deque<Arrival> messages ABSL_GUARDED_BY(mutex);
  std::optional<grpc::Status> stream_end ABSL_GUARDED_BY(mutex);
  bool stop ABSL_GUARDED_BY(mutex) = false;  // the owner is ending; what still arrives is read and dropped

  // Forgets what an earlier stream delivered.
  void Clear() ABSL_LOCKS_EXCLUDED(mutex) {
    absl::MutexLock lock(&mutex);
    messages.clear();
    stream_end.reset();
  }
};

struct ControlPlaneStreamOptions {
  std::string address;  // "host:port"
  std::shared_ptr<grpc::ChannelCredentials> credentials;
  grpc::ChannelArguments arguments;
  std::string thread_name;
  ThreadPriority priority = ThreadPriority::kBackground;
  size_t unread_max = 1;      // messages in the inbox; the rest waits in the stream's flow control
  int message_bytes_max = 0;  // of one that arrives; 0: gRPC's 4 MiB
};

// Owns a thread that connects, sends the first message, and reads into the inbox, waiting there while the owner is
// busy. Write and WritesDone belong to the owner's thread, once a message has been read; Cancel to any thread. `kCall`:
// the method of the stub, as &v1::ConfigStream::Stub::Connect.
template <typename Stub, typename Outgoing, typename Incoming,
          std::unique_ptr<grpc::ClientReaderWriter<Outgoing, Incoming>> (Stub::*kCall)(grpc::ClientContext*)>
class ControlPlaneStream {
 public:
  ControlPlaneStream(ControlPlaneStreamOptions options, Outgoing first, std::shared_ptr<StreamInbox<Incoming>> inbox)
      : unread_max_(options.unread_max), inbox_(std::move(inbox)) {
    grpc::ChannelArguments& arguments = options.arguments;
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, static_cast<int>(kKeepaliveTime.count()));
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, static_cast<int>(kKeepaliveTimeout.count()));
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    if (options.message_bytes_max > 0) arguments.SetInt(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, options.message_bytes_max);
    // A connection of its own: the delay between attempts is ours, and bytes of configuration never delay grants.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    stub_ = std::make_unique<Stub>(grpc::CreateCustomChannel(options.address, options.credentials, arguments));
    thread_ = StartThread(options.thread_name, options.priority, [this, first = std::move(first)] { Run(first); });
  }
  ControlPlaneStream(const ControlPlaneStream&) = delete;
  ControlPlaneStream& operator=(const ControlPlaneStream&) = delete;

  ~ControlPlaneStream() {
    Cancel();
    thread_.join();
  }

  void Cancel() {
    {
      absl::MutexLock lock(&inbox_->mutex);
      cancelled_ = true;
    }
    context_.TryCancel();
  }

  // False: the stream is broken; its end follows in the inbox.
  bool Write(const Outgoing& message) { return stream_->Write(message); }
  void WritesDone() { stream_->WritesDone(); }

 private:
  // The control plane expects one every 30 s, and tolerates one every 10 s.
  static constexpr std::chrono::milliseconds kKeepaliveTime{20'000};
  static constexpr std::chrono::milliseconds kKeepaliveTimeout{10'000};

  void Run(const Outgoing& first) {
    stream_ = (stub_.get()->*kCall)(&context_);
    stream_->Write(first);
    Incoming message;
    while (stream_->Read(&message)) {
      const auto room = [this]() ABSL_SHARED_LOCKS_REQUIRED(inbox_->mutex) {
        return cancelled_ || inbox_->stop || inbox_->messages.size() < unread_max_;
      };
      absl::MutexLock lock(&inbox_->mutex);
      inbox_->mutex.Await(absl::Condition(&room));
      if (cancelled_) break;
      if (inbox_->stop) continue;
      inbox_->messages.push_back({std::move(message), std::chrono::steady_clock::now()});
    }
    grpc::Status status = stream_->Finish();
    absl::MutexLock lock(&inbox_->mutex);
    inbox_->stream_end = std::move(status);
  }

  const size_t unread_max_;
  const std::shared_ptr<StreamInbox<Incoming>> inbox_;
  std::unique_ptr<Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<Outgoing, Incoming>> stream_;
  bool cancelled_ = false;  // guarded by the inbox's mutex
  std::thread thread_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_CONFIG_CONTROL_PLANE_STREAM_H_
