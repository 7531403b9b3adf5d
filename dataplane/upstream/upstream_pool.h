// Connections to endpoints, kept for reuse. One worker's.
#ifndef GATEWAY_DATAPLANE_UPSTREAM_UPSTREAM_POOL_H_
#define GATEWAY_DATAPLANE_UPSTREAM_UPSTREAM_POOL_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "dataplane/net/buffer_pool.h"
#include "dataplane/net/socket.h"
#include "dataplane/state/serving_state.h"
#include "dataplane/telemetry/metrics.h"

namespace gateway::dataplane {

class UpstreamPool;

// One connection to an endpoint: owned by the exchange that uses it, or idle in the pool.
class UpstreamConnection {
 public:
  UpstreamConnection(EventLoop* loop, std::shared_ptr<Endpoint> endpoint, WorkerShard* metrics);
  ~UpstreamConnection();

  // The handshake of an endpoint with TLS, after the connection is established; kNone: done.
  Task<tls::HandshakeError> Secure(TimePoint deadline);

  Socket socket;
  Buffer input;         // bytes of the answer that were read and not used yet
  bool reused = false;  // has carried an exchange before
  const std::shared_ptr<Endpoint> endpoint;

 private:
  friend class UpstreamPool;
  WorkerShard* metrics_;
  UpstreamPool* pool_ = nullptr;  // while idle
  size_t idle_index_ = 0;
};

// The most recently used one is given out first, so that the others can age. An idle connection that says anything, or
// ends, is closed at once.
class UpstreamPool {
 public:
  static constexpr size_t kIdlePerEndpointMax = 1024;
  // How long no connection of an endpoint is kept that has said something out of turn.
  static constexpr std::chrono::seconds kDistrust{60};

  UpstreamPool(EventLoop* loop, WorkerShard* metrics) : loop_(loop), metrics_(metrics) {}
  ~UpstreamPool();

  // An idle connection to `endpoint`, or null. With `probe` it is asked once more whether it is still alive (a system
  // call): for requests that must not be sent twice.
  std::unique_ptr<UpstreamConnection> Take(const Endpoint& endpoint, bool probe);
  // A new one that is connecting; null: refused at once, or out of descriptors (errno says).
  std::unique_ptr<UpstreamConnection> Connect(const std::shared_ptr<Endpoint>& endpoint);
  // Keeps a connection whose answer has been read to its end. Not where more came behind that, nor for kDistrust after
  // that: bytes that come late would be taken for the next request's answer.
  void Keep(std::unique_ptr<UpstreamConnection> connection, std::chrono::milliseconds idle_timeout);

  // Closes one that is idle, for its descriptor; false: none is.
  bool CloseOne();

  // It has sent bytes that belong to no answer.
  void Distrust(Endpoint* endpoint);

  // Closes the idle connections to endpoints that no bind since `generation` has named.
  void CloseUnbound(uint64_t generation);

 private:
  using Idle = std::vector<std::unique_ptr<UpstreamConnection>>;
  static void OnIdleEvent(void* connection);
  void Remove(UpstreamConnection* connection);

  EventLoop* loop_;
  WorkerShard* metrics_;
  absl::flat_hash_map<uint64_t, Idle> idle_;  // by Endpoint::id
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_UPSTREAM_UPSTREAM_POOL_H_
