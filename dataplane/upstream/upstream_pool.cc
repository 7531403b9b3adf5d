#include "dataplane/upstream/upstream_pool.h"

#include <algorithm>
#include <cerrno>
#include <exception>
#include <optional>
#include <utility>

#include "dataplane/http/http1/client_stream.h"
#include "dataplane/net/task.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

constexpr const char* kNoHttp2 = "the endpoint did not select HTTP/2 (ALPN h2)";

// From here on the connection is TLS. kDone, kAgain (not in time) or kError; `*failure` says why the handshake failed.
Task<Io> Secure(UpstreamConnection* connection, TimePoint deadline, const char** failure) {
  SslPtr ssl = connection->endpoint->tls->NewSsl();
  if (ssl == nullptr) {
    *failure = HandshakeErrorText(tls::HandshakeError::kOther);
    co_return Io::kError;
  }
  connection->socket.UseTls(std::move(ssl), "", connection->endpoint->tls);
  const tls::HandshakeError error = co_await connection->socket.Handshake(deadline);
  if (error == tls::HandshakeError::kNone) co_return Io::kDone;
  *failure = HandshakeErrorText(error);
  co_return error == tls::HandshakeError::kTimeout ? Io::kAgain : Io::kError;
}

Task<Io> ConnectFully(UpstreamConnection* connection, TimePoint deadline, const char** failure) {
  Socket& socket = connection->socket;
  const Wait wait = co_await socket.Writable(deadline);
  if (wait == Wait::kTimeout) co_return Io::kAgain;
  if (wait != Wait::kReady || socket.ConnectError() != 0 || socket.broken()) co_return Io::kError;
  if (connection->endpoint->tls == nullptr) co_return Io::kDone;
  co_return co_await Secure(connection, deadline, failure);
}

}  // namespace

// A request on an HTTP/1 connection of the pool. Its memory is recycled as the frames of coroutines are.
class UpstreamPool::PooledStream final : public http1::ClientStream {
 public:
  PooledStream(const http::StreamResources& resources, UpstreamPool* pool,
               std::unique_ptr<UpstreamConnection> connection, std::chrono::milliseconds idle_timeout)
      : ClientStream(resources, &connection->socket, &connection->input, connection->reused),
        pool_(pool),
        idle_timeout_(idle_timeout),
        connection_(std::move(connection)) {}

  Task<Io> Connect(TimePoint deadline) override {
    return connection_->endpoint->tls == nullptr ? ClientStream::Connect(deadline)
                                                 : ConnectFully(connection_.get(), deadline, &tls_failure_);
  }
  const char* tls_failure() const override { return tls_failure_; }
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
  const char* tls_failure_ = nullptr;
};

// A request on a new connection to an endpoint that says during the handshake which protocol it speaks: then it is a
// stream of that one.
class UpstreamPool::NegotiatingStream final : public http::UpstreamStream {
 public:
  NegotiatingStream(UpstreamPool* pool, std::unique_ptr<UpstreamConnection> connection,
                    std::chrono::milliseconds idle_timeout)
      : pool_(pool), idle_timeout_(idle_timeout), connection_(std::move(connection)) {}

  bool connected() const override { return inner_ != nullptr; }
  Task<Io> Connect(TimePoint deadline) override {
    const Io io = co_await ConnectFully(connection_.get(), deadline, &tls_failure_);
    if (io != Io::kDone) co_return io;
    if (cancelled()) co_return Io::kError;
    if (connection_->socket.tls()->protocol() == "h2") {
      SharedConnection* const shared = pool_->Share(std::move(connection_), true, idle_timeout_);
      inner_ = OpenOn(shared);
      if (inner_ == nullptr) co_return Io::kError;
      if (!expects_protocol_) co_return Io::kDone;
      inner_->ExpectProtocol();
      if (inner_->connected()) co_return Io::kDone;
      const Io settled = co_await inner_->Connect(deadline);  // the endpoint's SETTINGS are there
      co_return settled;
    }
    inner_ = std::make_unique<PooledStream>(pool_->resources_, pool_, std::move(connection_), idle_timeout_);
    co_return Io::kDone;
  }
  void ExpectProtocol() override { expects_protocol_ = true; }
  const char* tls_failure() const override { return tls_failure_; }

  // REQUIRES of what follows, except Cancel: connected.
  Io Begin(const http::OutgoingRequest& request, const http::BodyPiece& first) override {
    return inner_->Begin(request, first);
  }
  http::HeadRead ReadHead(http::Response** response) override { return inner_->ReadHead(response); }
  bool sent() const override { return inner_->sent(); }
  bool heard() const override { return inner_->heard(); }
  bool stale() const override { return inner_->stale(); }
  bool refused() const override { return inner_->refused(); }
  bool carries_trailers() const override { return inner_ == nullptr || inner_->carries_trailers(); }
  void Finish() override { inner_->Finish(); }
  void Cancel() override {
    if (inner_ != nullptr) return inner_->Cancel();
    cancelled_ = true;
    if (connection_ != nullptr) connection_->socket.Cancel();
  }
  bool cancelled() const override { return inner_ != nullptr ? inner_->cancelled() : cancelled_; }

  http::BodyRead Read(http::BodyForms takes, http::BodyPiece* piece) override { return inner_->Read(takes, piece); }
  void ExtendRead(TimePoint deadline) override { inner_->ExtendRead(deadline); }
  void Interrupt() override { inner_->Interrupt(); }
  void Pause() override { inner_->Pause(); }
  const char* detail() const override { return inner_->detail(); }
  http::BodyForms takes() const override { return inner_->takes(); }
  Io Write(const http::BodyPiece& piece) override { return inner_->Write(piece); }
  Task<Io> Flush(std::chrono::milliseconds stall, TimePoint until) override { return inner_->Flush(stall, until); }

  static void* operator new(size_t bytes) { return FramePool::Allocate(bytes); }
  static void operator delete(void* stream, size_t bytes) noexcept { FramePool::Free(stream, bytes); }

 private:
  static std::unique_ptr<http::UpstreamStream> OpenOn(SharedConnection* shared);

  bool IsReadable() const override { return inner_->Readable({}).await_ready(); }
  void SuspendRead(std::coroutine_handle<> caller, TimePoint deadline) override {
    waiting_.emplace(inner_->Readable(deadline));
    waiting_->await_suspend(caller);
  }
  Wait ResumeRead(bool suspended) override {
    return suspended ? waiting_->await_resume() : inner_->Readable({}).await_resume();
  }

  UpstreamPool* const pool_;
  const std::chrono::milliseconds idle_timeout_;
  std::unique_ptr<UpstreamConnection> connection_;  // until it is the inner stream's
  std::unique_ptr<http::UpstreamStream> inner_;
  std::optional<http::Readiness> waiting_;
  const char* tls_failure_ = nullptr;
  bool expects_protocol_ = false;
  bool cancelled_ = false;
};

// An HTTP/2 connection with its session. Its coroutine is `run`; over, it waits for its last stream to be destroyed.
struct UpstreamPool::SharedConnection {
  SharedConnection(UpstreamPool* pool, std::unique_ptr<UpstreamConnection> of)
      : pool(pool),
        number(++pool->shared_made_),
        connection(std::move(of)),
        session(&pool->http2_, &connection->socket, &UpstreamPool::OnStreamEnded, this) {}

  UpstreamPool* const pool;
  const uint64_t number;
  const std::unique_ptr<UpstreamConnection> connection;
  http2::ClientSession session;
  std::optional<Task<void>> run;
  bool over = false;
};

std::unique_ptr<http::UpstreamStream> UpstreamPool::NegotiatingStream::OpenOn(SharedConnection* shared) {
  return shared->session.HasRoom() ? shared->session.Open() : nullptr;
}

UpstreamConnection::UpstreamConnection(EventLoop* loop, std::shared_ptr<Endpoint> to, WorkerShard* metrics)
    : socket(loop), endpoint(std::move(to)), metrics_(metrics) {
  metrics_->Add(WorkerGauge::kUpstreamConnections, 1);
}

UpstreamConnection::~UpstreamConnection() { metrics_->Add(WorkerGauge::kUpstreamConnections, -1); }

UpstreamPool::UpstreamPool(const http::StreamResources& resources, WorkerShard* metrics, DescriptorReserve* reserve)
    : resources_(resources),
      metrics_(metrics),
      reserve_(reserve),
      http2_(resources.loop, resources.buffers, &http2_metrics_) {}

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
  const bool shares = endpoint->protocol != UpstreamProtocol::kHttp1;
  if (shares) {
    if (auto stream = Join(*endpoint, reuse, idle_timeout); stream != nullptr) return stream;
  }
  std::unique_ptr<UpstreamConnection> connection;
  if (reuse != Reuse::kNone) connection = Take(*endpoint, reuse == Reuse::kProbed);
  const bool kept = connection != nullptr;
  if (!kept) connection = Connect(endpoint);
  if (connection == nullptr) return nullptr;
  if (!shares || kept) {
    return std::make_unique<PooledStream>(resources_, this, std::move(connection), idle_timeout);
  }
  if (endpoint->protocol == UpstreamProtocol::kAuto) {
    return std::make_unique<NegotiatingStream>(this, std::move(connection), idle_timeout);
  }
  return Share(std::move(connection), false, idle_timeout)->session.Open();
}

std::unique_ptr<http::UpstreamStream> UpstreamPool::Join(const Endpoint& endpoint, Reuse reuse,
                                                         std::chrono::milliseconds idle_timeout) {
  const auto found = shared_.find(endpoint.id);
  if (found == shared_.end()) return nullptr;
  for (const std::unique_ptr<SharedConnection>& each : found->second.all) {
    if (each->over || !each->session.HasRoom()) continue;
    if (reuse == Reuse::kNone && each->number <= found->second.lost) continue;
    each->session.set_idle_timeout(idle_timeout);
    if (each->session.serving()) metrics_->Add(WorkerGauge::kUpstreamReusesTotal, 1);
    return each->session.Open();
  }
  // One that takes no more may be among them: what is refused there goes to a new one.
  if (!found->second.all.empty()) found->second.lost = shared_made_;
  return nullptr;
}

UpstreamPool::SharedConnection* UpstreamPool::Share(std::unique_ptr<UpstreamConnection> connection, bool established,
                                                    std::chrono::milliseconds idle_timeout) {
  const uint64_t id = connection->endpoint->id;
  auto made = std::make_unique<SharedConnection>(this, std::move(connection));
  SharedConnection* const shared = made.get();
  shared->session.set_idle_timeout(idle_timeout);
  shared_[id].all.push_back(std::move(made));
  shared->run.emplace(Serve(shared, established));
  shared->run->Start();
  return shared;
}

Task<void> UpstreamPool::Serve(SharedConnection* shared, bool established) {
  Socket& socket = shared->connection->socket;
  const char* tls_failure = nullptr;
  try {
    if (!established) {
      // Each stream has a deadline of its own; with the last of them the connection is given up (OnStreamEnded).
      established = co_await ConnectFully(shared->connection.get(), TimePoint::max(), &tls_failure) == Io::kDone;
      if (established && socket.tls() != nullptr && socket.tls()->protocol() != "h2") {
        established = false;
        tls_failure = kNoHttp2;
      }
    }
    if (established) {
      co_await shared->session.Serve();
    } else {
      shared->session.FailConnect(tls_failure);
    }
  } catch (const std::exception& error) {
    spdlog::error("a connection to {} failed: {}", shared->connection->endpoint->name, error.what());
    shared->session.FailConnect(nullptr);
  }
  shared->over = true;
  shared_[shared->connection->endpoint->id].lost = shared_made_;
  socket.AnnounceClose();
  socket.Close();
  DestroySoon(shared);
}

void UpstreamPool::OnStreamEnded(void* self) {
  auto* const shared = static_cast<SharedConnection*>(self);
  if (shared->session.streams() > 0) return;
  if (shared->over) {
    shared->pool->DestroySoon(shared);
  } else if (shared->session.connecting()) {
    shared->connection->socket.Cancel();
  }
}

// At the end of the turn, if it is over and no stream of it is held: its coroutine, or a stream's, may be on the
// stack.
void UpstreamPool::DestroySoon(SharedConnection* shared) {
  resources_.loop->Defer([this, shared, id = shared->connection->endpoint->id] {
    const auto found = shared_.find(id);
    if (found == shared_.end()) return;
    std::erase_if(found->second.all, [shared](const std::unique_ptr<SharedConnection>& each) {
      return each.get() == shared && each->over && each->session.disposable();
    });
  });
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
  return CloseOneShared();
}

bool UpstreamPool::CloseOneShared() {
  for (auto& [id, connections] : shared_) {
    const auto idle = std::find_if(connections.all.begin(), connections.all.end(), [](const auto& each) {
      return !each->over && each->session.serving() && each->session.disposable();
    });
    if (idle == connections.all.end()) continue;
    connections.all.erase(idle);
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
  for (auto each = shared_.begin(); each != shared_.end();) {
    if (each->second.all.empty()) {
      shared_.erase(each++);
      continue;
    }
    for (const std::unique_ptr<SharedConnection>& shared : each->second.all) {
      if (shared->connection->endpoint->bound_generation.load(std::memory_order_relaxed) < generation) {
        shared->session.Retire();
      }
    }
    ++each;
  }
}

}  // namespace gateway::dataplane
