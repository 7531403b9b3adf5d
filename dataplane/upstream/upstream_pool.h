// Connections to endpoints, kept for reuse. One worker's.
#ifndef GATEWAY_DATAPLANE_UPSTREAM_UPSTREAM_POOL_H_
#define GATEWAY_DATAPLANE_UPSTREAM_UPSTREAM_POOL_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "dataplane/http/http2/client_session.h"
#include "dataplane/http/http2/session_metrics.h"
#include "dataplane/http/stream.h"
#include "dataplane/http/stream_resources.h"
#include "dataplane/net/buffer_pool.h"
#include "dataplane/net/socket.h"
#include "dataplane/net/task.h"
#include "dataplane/telemetry/metrics.h"
#include "dataplane/upstream/endpoint.h"

namespace gateway::dataplane {

class UpstreamPool;

// A connection to an endpoint: owned by the stream that uses it, or idle in the pool, or shared by streams of HTTP/2.
class UpstreamConnection {
 public:
  UpstreamConnection(EventLoop* loop, std::shared_ptr<Endpoint> endpoint, WorkerShard* metrics);
  ~UpstreamConnection();

  Socket socket;
  Buffer input;         // bytes of a response's header that were read and not used yet
  bool reused = false;  // has carried an exchange before
  const std::shared_ptr<Endpoint> endpoint;

 private:
  friend class UpstreamPool;
  WorkerShard* metrics_;
  UpstreamPool* pool_ = nullptr;  // while idle
  size_t idle_index_ = 0;
};

// Knows about the other descriptors of the process.
class DescriptorReserve {
 public:
  // Closes a connection that is not in use. False: all are.
  virtual bool FreeDescriptor() = 0;
  // Whether hardly any are left behind `fd`, which was just opened.
  virtual bool IsShortOfDescriptors(int fd) const = 0;

 protected:
  ~DescriptorReserve() = default;
};

// Of HTTP/1 connections the most recently used one is given out first, so that the others can age. An idle one that
// says anything, or ends, is closed at once. HTTP/2 connections are shared: a request goes to the oldest one that has
// room, so that the others can age; if none has room, another one is made.
class UpstreamPool {
 public:
  static constexpr size_t kIdlePerEndpointMax = 1024;
  static constexpr int kDescriptorsFreedMax = 4;  // for one connection
  // How long no connection of an endpoint is kept that has said something out of turn.
  static constexpr std::chrono::seconds kDistrust{60};

  // `reserve` may be null.
  UpstreamPool(const http::StreamResources& resources, WorkerShard* metrics, DescriptorReserve* reserve);
  ~UpstreamPool();

  enum class Reuse : uint8_t {
    kKept,    // an idle connection, if there is one
    kProbed,  // the same, once it was asked whether it is still alive (a system call): for requests that must not be
              // sent twice
    kNone,    // a new one; of HTTP/2, one that began after the last one ended, or was said to take no more
  };
  // A stream to `endpoint`. Null: refused at once, or out of descriptors (errno says). It keeps its connection for
  // `idle_timeout`.
  std::unique_ptr<http::UpstreamStream> Acquire(const std::shared_ptr<Endpoint>& endpoint, Reuse reuse,
                                                std::chrono::milliseconds idle_timeout);

  // Keeps a connection whose response has been read to its end. Not where more came behind that, nor for kDistrust
  // after that: bytes that come late would be taken for the next request's response.
  void Keep(std::unique_ptr<UpstreamConnection> connection, std::chrono::milliseconds idle_timeout);

  // Closes one that is idle, for its descriptor; false: none is.
  bool CloseOne();

  // It has sent bytes that belong to no response.
  void Distrust(Endpoint* endpoint);

  // Closes the idle connections to endpoints that no bind since `generation` has named.
  void CloseUnbound(uint64_t generation);

  // Of HTTP/2. Any thread may read it.
  const http2::ClientMetrics& http2_metrics() const { return http2_metrics_; }

 private:
  class PooledStream;
  class NegotiatingStream;
  struct SharedConnection;
  // The HTTP/2 connections to one endpoint, the oldest first.
  struct SharedConnections {
    std::vector<std::unique_ptr<SharedConnection>> all;
    uint64_t lost = 0;  // the newest one that there was when one was lost
  };
  using Idle = std::vector<std::unique_ptr<UpstreamConnection>>;
  static void OnIdleEvent(void* connection);
  void Remove(UpstreamConnection* connection);
  std::unique_ptr<UpstreamConnection> Take(const Endpoint& endpoint, bool probe);
  std::unique_ptr<UpstreamConnection> Connect(const std::shared_ptr<Endpoint>& endpoint);
  std::unique_ptr<UpstreamConnection> ConnectOnce(const std::shared_ptr<Endpoint>& endpoint);

  // A stream on a connection that is there already; null: none has room.
  std::unique_ptr<http::UpstreamStream> Join(const Endpoint& endpoint, Reuse reuse,
                                             std::chrono::milliseconds idle_timeout);
  // From now on requests share it. `established`: it has been connected, and the endpoint speaks HTTP/2.
  SharedConnection* Share(std::unique_ptr<UpstreamConnection> connection, bool established,
                          std::chrono::milliseconds idle_timeout);
  Task<void> Serve(SharedConnection* shared, bool established);
  static void OnStreamEnded(void* shared);
  void DestroySoon(SharedConnection* shared);
  bool CloseOneShared();

  const http::StreamResources& resources_;
  WorkerShard* metrics_;
  DescriptorReserve* const reserve_;
  absl::flat_hash_map<uint64_t, Idle> idle_;  // by Endpoint::id
  http2::ClientMetrics http2_metrics_;
  http2::ClientResources http2_;
  absl::flat_hash_map<uint64_t, SharedConnections> shared_;  // by Endpoint::id
  uint64_t shared_made_ = 0;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_UPSTREAM_UPSTREAM_POOL_H_
