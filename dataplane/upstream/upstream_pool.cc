#include "dataplane/upstream/upstream_pool.h"

#include <cerrno>
#include <utility>

#include "dataplane/http/http1/client_stream.h"
#include "dataplane/net/task.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

// A request on an HTTP/1 connection of the pool. Its memory is recycled as the frames of coroutines are.
class PooledStream final : public http1::ClientStream {
 public:
  PooledStream(const http::StreamResources& resources, UpstreamPool* pool,
               std::unique_ptr<UpstreamConnection> connection, std::chrono::milliseconds idle_timeout)
      : ClientStream(resources, &connection->socket, &connection->input, connection->reused),
        pool_(pool),
        idle_timeout_(idle_timeout),
        connection_(std::move(connection)) {}

  void Finish() override {
    if (unsolicited()) pool_->Distrust(connection_->endpoint.get());
    if (MayReuse()) pool_->Keep(std::move(connection_), idle_timeout_);
  }

  static void* operator new(size_t bytes) { return FramePool::Allocate(bytes); }
  static void operator delete(void* stream, size_t bytes) noexcept { FramePool::Free(stream, bytes); }

 private:
  UpstreamPool* const pool_;
  const std::chrono::milliseconds idle_timeout_;
  std::unique_ptr<UpstreamConnection> connection_;
};

}  // namespace

UpstreamConnection::UpstreamConnection(EventLoop* loop, std::shared_ptr<Endpoint> to, WorkerShard* metrics)
    : socket(loop), endpoint(std::move(to)), metrics_(metrics) {
  metrics_->Add(WorkerGauge::kUpstreamConnections, 1);
}

UpstreamConnection::~UpstreamConnection() { metrics_->Add(WorkerGauge::kUpstreamConnections, -1); }

UpstreamPool::~UpstreamPool() = default;

std::unique_ptr<UpstreamConnection> UpstreamPool::Take(const Endpoint& endpoint, bool probe) {
  const auto found = idle_.find(endpoint.id);
  if (found == idle_.end()) return nullptr;
  while (!found->second.empty()) {
    std::unique_ptr<UpstreamConnection> connection = std::move(found->second.back());
    found->second.pop_back();
    metrics_->Add(WorkerGauge::kUpstreamIdle, -1);
    connection->socket.EndIdle();
    connection->pool_ = nullptr;
    if (connection->socket.broken() || connection->socket.peer_ended()) continue;
    if (probe && !connection->socket.ProbeQuiet()) continue;
    connection->reused = true;
    metrics_->Add(WorkerGauge::kUpstreamReusesTotal, 1);
    return connection;
  }
  return nullptr;
}

std::unique_ptr<http::UpstreamStream> UpstreamPool::Acquire(const std::shared_ptr<Endpoint>& endpoint, Reuse reuse,
                                                            std::chrono::milliseconds idle_timeout) {
  std::unique_ptr<UpstreamConnection> connection;
  if (reuse != Reuse::kNone) connection = Take(*endpoint, reuse == Reuse::kProbed);
  if (connection == nullptr) connection = Connect(endpoint);
  if (connection == nullptr) return nullptr;
  return std::make_unique<PooledStream>(resources_, this, std::move(connection), idle_timeout);
}

std::unique_ptr<UpstreamConnection> UpstreamPool::Connect(const std::shared_ptr<Endpoint>& endpoint) {
  std::unique_ptr<UpstreamConnection> connection = ConnectOnce(endpoint);
  if (reserve_ == nullptr) return connection;
  // (Others may take what was freed.)
  for (int freed = 0; connection == nullptr && (errno == EMFILE || errno == ENFILE) && freed < kDescriptorsFreedMax;
       ++freed) {
    if (!reserve_->FreeDescriptor()) {
      errno = EMFILE;
      break;
    }
    connection = ConnectOnce(endpoint);
  }
  if (connection != nullptr && reserve_->IsShortOfDescriptors(connection->socket.fd()))
    (void)reserve_->FreeDescriptor();
  return connection;
}

std::unique_ptr<UpstreamConnection> UpstreamPool::ConnectOnce(const std::shared_ptr<Endpoint>& endpoint) {
  metrics_->Add(WorkerGauge::kUpstreamConnectsTotal, 1);
  auto connection = std::make_unique<UpstreamConnection>(resources_.loop, endpoint, metrics_);
  if (!connection->socket.StartConnect(reinterpret_cast<const sockaddr*>(&endpoint->address),
                                       endpoint->address_length)) {
    const int error = errno;
    connection.reset();
    errno = error;
  }
  return connection;
}

bool UpstreamPool::CloseOne() {
  for (auto& [id, idle] : idle_) {
    if (idle.empty()) continue;
    Remove(idle.front().get());  // the one that has aged most
    return true;
  }
  return false;
}

void UpstreamPool::Distrust(Endpoint* endpoint) {
  const int64_t until = (resources_.loop->now() + kDistrust).time_since_epoch().count();
  const int64_t before = endpoint->distrusted_until.exchange(until, std::memory_order_relaxed);
  if (before >= resources_.loop->now().time_since_epoch().count()) return;
  spdlog::warn("endpoint {} sent unsolicited bytes: its connections are not reused for {} s", endpoint->name,
               kDistrust.count());
}

void UpstreamPool::Keep(std::unique_ptr<UpstreamConnection> connection, std::chrono::milliseconds idle_timeout) {
  if (!connection->socket.Quiet() && connection->socket.HasBytes()) Distrust(connection->endpoint.get());
  if (connection->endpoint->distrusted_until.load(std::memory_order_relaxed) >
      resources_.loop->now().time_since_epoch().count()) {
    return;
  }
  if (!connection->socket.open() || connection->socket.cancelled() || connection->socket.broken() ||
      connection->socket.peer_ended() || !connection->input.empty() || !connection->socket.Quiet()) {
    return;
  }
  Idle& idle = idle_[connection->endpoint->id];
  if (idle.size() >= kIdlePerEndpointMax) return;
  connection->input.Reset();
  connection->pool_ = this;
  connection->idle_index_ = idle.size();
  connection->socket.CancelOnReset(nullptr);
  connection->socket.WatchIdle(&UpstreamPool::OnIdleEvent, connection.get(), resources_.loop->now() + idle_timeout);
  idle.push_back(std::move(connection));
  metrics_->Add(WorkerGauge::kUpstreamIdle, 1);
}

void UpstreamPool::OnIdleEvent(void* self) {
  auto* connection = static_cast<UpstreamConnection*>(self);
  if (connection->socket.HasBytes()) connection->pool_->Distrust(connection->endpoint.get());
  connection->pool_->Remove(connection);
}

void UpstreamPool::Remove(UpstreamConnection* connection) {
  Idle& idle = idle_[connection->endpoint->id];
  const size_t index = connection->idle_index_;
  std::swap(idle[index], idle.back());
  idle[index]->idle_index_ = index;
  idle.pop_back();
  metrics_->Add(WorkerGauge::kUpstreamIdle, -1);
}

void UpstreamPool::CloseUnbound(uint64_t generation) {
  for (auto each = idle_.begin(); each != idle_.end();) {
    Idle& idle = each->second;
    if (idle.empty() || idle.front()->endpoint->bound_generation.load(std::memory_order_relaxed) < generation) {
      metrics_->Add(WorkerGauge::kUpstreamIdle, -static_cast<int64_t>(idle.size()));
      idle_.erase(each++);
    } else {
      ++each;
    }
  }
}

}  // namespace gateway::dataplane
