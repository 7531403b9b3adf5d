// The config stream: the gRPC side of the hub.
#ifndef GATEWAY_CONTROLPLANE_STREAM_CONFIG_SERVICE_H_
#define GATEWAY_CONTROLPLANE_STREAM_CONFIG_SERVICE_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "controlplane/sources/registered_instance.h"
#include "controlplane/stream/hub.h"
#include "gateway/v1/config_stream.grpc.pb.h"

namespace gateway::controlplane {

struct ConfigServiceOptions {
  size_t streams_max = 10'000;
  absl::Duration hello_wait = absl::Seconds(10);  // from the stream's start
  absl::Duration close_wait = absl::Seconds(2);   // for a pending write, before a stream is cut
  // Called when a reachable data plane has said hello or goodbye. Must not block. May be null.
  std::function<void(const RegisteredInstance&)> registered;
  std::function<void(const std::string& name)> said_goodbye;
  // With TLS: a data plane goes by a name of its certificate, or not at all.
  bool names_by_certificate = false;
};

// Checks a Hello. InvalidArgument names the field.
absl::Status CheckHello(const v1::Hello& hello);

// "127.0.0.1" from gRPC's "ipv4:127.0.0.1:4321" or "ipv6:%5B::1%5D:4321"; anything else unchanged.
std::string HostOfPeer(const std::string& peer);

// Writes the hub's buffers as they are (the raw method), so that an update is serialized once for all streams. Runs on
// gRPC's callback threads and on one of its own, for deadlines.
class ConfigService final : public v1::ConfigStream::WithRawCallbackMethod_Connect<v1::ConfigStream::Service> {
 public:
  ConfigService(Hub* hub, ConfigServiceOptions options);
  ~ConfigService() override;  // waits until every stream has ended

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Connect(grpc::CallbackServerContext* context) override;

  // Ends every stream with UNAVAILABLE, so that data planes try another control plane, and rejects new ones.
  void Drain();

  uint64_t streams_refused() const { return refused_; }

 private:
  class Stream;
  void Remove(Stream* stream);
  void Watch();

  Hub* const hub_;
  const ConfigServiceOptions options_;
  std::atomic<uint64_t> refused_{0};

  std::mutex mu_;
  std::condition_variable changed_;
  std::map<Stream*, std::shared_ptr<Stream>> streams_ ABSL_GUARDED_BY(mu_);
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  std::thread watch_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_STREAM_CONFIG_SERVICE_H_
