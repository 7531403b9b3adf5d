#include "dataplane/server/connection.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <span>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "dataplane/http/http1/server_stream.h"
#include "dataplane/http/http2/server_session.h"
#include "dataplane/net/cancellable_timer.h"
#include "dataplane/net/proxy_header.h"
#include "dataplane/proxy/serve_request.h"
#include "dataplane/server/worker.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

constexpr std::string_view kProxyHeaderExpected =
    "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 63\r\n"
    "X-Gateway-Reason: bad_request\r\nConnection: close\r\n\r\n"
    R"({"error": "Bad request", "code": 400, "reason": "bad_request"})"
    "\n";
constexpr std::string_view kHttpsExpected =
    "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 94\r\n"
    "X-Gateway-Reason: bad_request\r\nConnection: close\r\n\r\n"
    R"({"error": "This port speaks HTTPS, not cleartext HTTP", "code": 400, "reason": "bad_request"})"
    "\n";
constexpr std::string_view kHttp2Expected =
    "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 80\r\n"
    "X-Gateway-Reason: bad_request\r\nConnection: close\r\n\r\n"
    R"({"error": "This port speaks HTTP/2 only", "code": 400, "reason": "bad_request"})"
    "\n";

}  // namespace

void ClientConnection::Start(Worker* worker, int fd, const sockaddr_storage& address, const ListenerOptions& options) {
  in6_addr peer{};
  if (address.ss_family == AF_INET6) {
    peer = reinterpret_cast<const sockaddr_in6&>(address).sin6_addr;
  } else {
    peer.s6_addr[10] = peer.s6_addr[11] = 0xff;
    std::memcpy(peer.s6_addr + 12, &reinterpret_cast<const sockaddr_in&>(address).sin_addr, 4);
  }
  std::unique_ptr<ClientConnection> connection;
  try {
    connection.reset(new ClientConnection(worker, address, peer));
  } catch (...) {
    close(fd);
    throw;
  }
  if (!connection->socket.Adopt(fd)) return;
  Run(std::move(connection), options);
}

ClientConnection::ClientConnection(Worker* worker, const sockaddr_storage& address, const in6_addr& peer_address)
    : Connection(&worker->loop()), worker_(worker) {
  info.peer = peer_address;
  info.peer_ip = IpText(address);
  info.peer_trusted = worker->options().trusted_proxies.Contains(peer_address);
  silent_.worker = worker->index();
  silent_.id = worker->counts().silent.NewId();
  worker_->Register(this);
}

ClientConnection::~ClientConnection() {
  worker_->counts().silent.Remove(&silent_);
  if (silent_.counted) worker_->counts().by_address.Remove(info.peer);
  worker_->Unregister(this);
}

Detached ClientConnection::Run(std::unique_ptr<ClientConnection> self, ListenerOptions options) {
  try {
    // A trusted proxy has as many connections as it has clients: theirs are counted.
    if (self->info.peer_trusted && options.proxy_header != ProxyHeaderMode::kNone) {
      self->ListAsSilent();
      if (!co_await self->ReadProxyHeader(options.proxy_header)) co_return;
      self->UnlistAsSilent();
    }
    bool welcome = true;
    if (!self->info.peer_trusted) welcome = co_await self->CountAddress();
    self->ListAsSilent();
    if (!welcome) {
      if (options.tls < 0) co_await self->RefuseAndLinger(kTooManyConnections);
      co_return;  // before a handshake there is nothing that a TLS client would understand
    }
    if (options.tls >= 0 && !co_await self->AcceptTls(options.tls)) co_return;
    if (co_await self->SpeaksHttp2(options)) {
      co_await self->ServeHttp2();
    } else if (options.http1) {
      co_await self->Serve();
    } else if (!self->gone && !self->input.empty()) {
      co_await self->RefuseAndLinger(kHttp2Expected);
    }
  } catch (const std::exception& error) {
    spdlog::error("a connection ended by an exception: {}", error.what());
  }
}

TimePoint ClientConnection::idle_since() const {
  if (http2_ != nullptr) return http2_->idle_since();
  return idle_ ? idle_since_ : TimePoint::max();
}

bool ClientConnection::IsIdle() {
  const bool idle = http2_ != nullptr ? http2_->idle() : idle_;
  return idle && socket.ProbeQuiet();  // what has come in the meantime is served first
}

bool ClientConnection::CloseIfIdle() {
  if (!IsIdle()) return false;
  socket.Cancel();
  return true;
}

void ClientConnection::Drain() {
  if (http2_ != nullptr) http2_->Drain();
}

void ClientConnection::AbandonWaits() {
  if (http2_ != nullptr) return http2_->CutShort();
  socket.AbandonWaits();
}

// With TLS, what ALPN has agreed on; else the client's first bytes tell, as soon as they differ from HTTP/2's.
Task<bool> ClientConnection::SpeaksHttp2(const ListenerOptions& options) {
  if (!options.http2) co_return false;
  if (info.tls != nullptr) co_return info.tls->alpn == "h2";
  const TimePoint deadline = worker_->loop().now() + worker_->options().header_timeout;
  for (;;) {
    const http2::Preface preface = http2::MatchPreface({input.data(), input.size()});
    if (preface != http2::Preface::kMore) co_return preface == http2::Preface::kHttp2;
    size_t moved = 0;
    if (!input) input = worker_->buffers().Acquire(BufferPool::kSmall);
    // A connection that ends here, or for which there is no room, is HTTP/1's to end.
    if (!input) co_return false;
    const Io io = socket.Read(input.space(), input.room(), &moved);
    input.Filled(moved);
    if (io == Io::kDone) continue;
    if (input.empty()) input.Reset();
    if (io != Io::kAgain) co_return false;
    idle_ = input.empty();
    idle_since_ = worker_->loop().now();
    const Wait wait = co_await socket.Readable(std::min(deadline, idle_since_ + worker_->idle_grace()));
    idle_ = false;
    if (wait != Wait::kReady) {
      ending = gone = true;
      co_return false;
    }
  }
}

Task<void> ClientConnection::ServeHttp2() {
  http2::ServerSession session(&worker_->http2(), &socket, &info, &ClientConnection::ServeHttp2Stream, this);
  http2_ = &session;
  if (worker_->ending()) session.Drain();
  const http2::ServerSession::End end = co_await session.Serve(std::move(input));
  http2_ = nullptr;
  if (session.abuse() != http2::Abuse::kNone && worker_->MayWarn(Worker::Warning::kHttp2Abuse)) {
    spdlog::warn("an HTTP/2 connection from {} is closed: {}", info.peer_ip, http2::NameOf(session.abuse()));
  }
  if (end == http2::ServerSession::End::kClosed) co_await Linger();
}

Task<void> ClientConnection::ServeHttp2Stream(void* connection, http::DownstreamStream& stream) {
  auto& self = *static_cast<ClientConnection*>(connection);
  self.Asked();
  // A connection to a drained data plane still serves a request: the client may know of no other.
  if (self.worker_->draining()) self.Drain();
  return ServeRequest(self.worker_->exchange_resources(), stream);
}

void ClientConnection::ListAsSilent() {
  silent_.fd = socket.fd();
  silent_.address = info.peer;
  worker_->counts().silent.Add(&silent_);
}

void ClientConnection::UnlistAsSilent() {
  worker_->counts().silent.Remove(&silent_);
  if (!silent_.handed_over) return;
  // It stays after all, one too many.
  silent_.handed_over = false;
  silent_.counted = worker_->counts().by_address.Add(silent_.address, std::numeric_limits<int64_t>::max());
}

void ClientConnection::GiveWay() {
  if (!worker_->counts().silent.IsTaken(silent_)) return;  // it is back already
  if (!socket.HasBytes()) return Cancel();
  UnlistAsSilent();
  ListAsSilent();
}

void ClientConnection::BecomeAsked() {
  UnlistAsSilent();
  worker_->Unlist(this);
  asked_ = true;
  worker_->List(this);
}

Task<bool> ClientConnection::CountAddress() {
  using Found = SilentConnections::Found;
  const int64_t max = worker_->connections_per_address_max();
  Found found = Found::kNone;
  const auto count = [&] {
    silent_.counted = worker_->counts().by_address.Add(info.peer, max);
    if (!silent_.counted) {
      found = worker_->TakeOverSilentOf(info.peer);
      silent_.counted = found == Found::kOne;
    }
    return silent_.counted;
  };
  if (count()) co_return true;
  CancellableTimer timer(&worker_->loop());
  for (int i = 0; i < kRoomTries && found == Found::kUnread; ++i) {
    co_await timer.Until(worker_->loop().now() + kRoomTryInterval);
    if (count()) co_return true;
  }
  worker_->metrics().Add(WorkerGauge::kConnectionsRefusedTotal, 1);
  if (worker_->MayWarn(Worker::Warning::kAddressConnectionsMax)) {
    spdlog::warn("a connection from {} is rejected: it has {} already (server.max_connections_per_address)",
                 info.peer_ip, max);
  }
  co_return false;
}

Task<bool> ClientConnection::ReadProxyHeader(ProxyHeaderMode mode) {
  const TimePoint deadline = worker_->loop().now() + worker_->options().header_timeout;
  for (;;) {
    if (co_await socket.Readable(deadline) != Wait::kReady) co_return false;
    if (!input) input = worker_->buffers().Acquire(BufferPool::kSmall);
    if (!input) co_return false;
    size_t moved = 0;
    const Io io = socket.Read(input.space(), input.room(), &moved);
    if (io == Io::kAgain) {
      if (input.empty()) input.Reset();
      continue;
    }
    if (io != Io::kDone) co_return false;
    input.Filled(moved);
    ProxyHeader header;
    const char* detail = "no PROXY header";
    const ProxyResult result = ParseProxyHeader({input.data(), input.size()}, &header, &detail);
    if (result == ProxyResult::kMore) continue;
    if (result == ProxyResult::kNotProxy && mode == ProxyHeaderMode::kOptional) co_return true;
    if (result == ProxyResult::kComplete) {
      input.Consume(header.bytes);
      if (header.has_source) {
        info.peer = header.source;
        info.peer_ip = IpText(info.peer);
        info.peer_trusted = worker_->options().trusted_proxies.Contains(info.peer);
      }
      co_return true;
    }
    worker_->metrics().Add(WorkerGauge::kBadRequestsTotal, 1);
    if (worker_->MayWarn(Worker::Warning::kProxyHeader))
      spdlog::warn("a connection from the trusted proxy {} is rejected: {}", info.peer_ip, detail);
    co_await RefuseAndLinger(kProxyHeaderExpected);
    co_return false;
  }
}

Task<bool> ClientConnection::AcceptTls(int listener) {
  const TimePoint deadline = worker_->loop().now() + worker_->options().header_timeout;
  TlsCounters& counters = worker_->tls_counters();
  // A silent connection costs no TLS state.
  if (input.empty()) {
    const Wait wait = co_await socket.Readable(deadline);
    if (wait != Wait::kReady) {
      counters.Count(wait == Wait::kTimeout ? tls::HandshakeError::kTimeout : tls::HandshakeError::kClosed);
      co_return false;
    }
  }
  const std::shared_ptr<const tls::ServerContext> context = worker_->tls_context(listener);
  SslPtr ssl = context->NewSsl();
  if (ssl == nullptr) co_return false;
  socket.UseTls(std::move(ssl), {input.data(), input.size()}, context);
  input.Reset();
  tls::HandshakeError error;
  {
    worker_->BeginHandshake(this);
    const absl::Cleanup end = [this] { worker_->EndHandshake(this); };
    error = co_await socket.Handshake(deadline);
  }
  counters.Count(error);
  if (error == tls::HandshakeError::kNone) {
    tls_ = std::make_unique<const TlsFacts>(*socket.tls());
    info.tls = &tls_->info;
    if (info.tls->resumed) counters.CountResumed();
    if (info.tls->alpn != tls::kAcmeProtocol) co_return true;
    socket.AnnounceClose();  // a CA has seen what it asked for (RFC 8737, section 3)
    co_return false;
  }
  if (error == tls::HandshakeError::kTimeout || error == tls::HandshakeError::kClosed) co_return false;
  if (worker_->MayWarn(Worker::Warning::kTlsHandshake)) {
    spdlog::info("TLS handshake with {} failed ({}): {}", info.peer_ip, HandshakeErrorName(error),
                 socket.tls()->error_text());
  }
  socket.EndTls();
  if (error == tls::HandshakeError::kPlainHttp) {
    co_await RefuseAndLinger(kHttpsExpected);
  } else {
    co_await Linger();  // or the alert could be lost
  }
  co_return false;
}

Task<void> ClientConnection::RefuseAndLinger(std::string_view answer) {
  std::array<iovec, 1> part = {{{const_cast<char*>(answer.data()), answer.size()}}};
  std::span<iovec> rest(part);
  size_t moved = 0;
  if (socket.Write(&rest, &moved) == Io::kDone) co_await Linger();
}

Task<void> ClientConnection::Serve() {
  EventLoop& loop = worker_->loop();
  int in_a_row = 0;
  while (!ending) {
    if (input.empty()) {
      input.Reset();
      in_a_row = 0;
      idle_ = true;
      idle_since_ = loop.now();
      // A new connection has as long for its first byte as for a whole head.
      const auto patience = std::min(worker_->idle_grace(),
                                     served_ ? worker_->options().idle_timeout : worker_->options().header_timeout);
      const Wait wait = co_await socket.Readable(idle_since_ + patience);
      idle_ = false;
      if (wait != Wait::kReady) co_return socket.AnnounceClose();
    } else if (++in_a_row >= 32) {
      // A client that pipelines without end takes its turn like everybody else.
      in_a_row = 0;
      co_await Yield(&loop);
    }
    if (co_await ServeExchange()) served_ = true;
  }
  if (reset) {
    const linger now{1, 0};
    (void)setsockopt(socket.fd(), SOL_SOCKET, SO_LINGER, &now, sizeof now);  // a plain close is the next best
    co_return;
  }
  if (gone || socket.broken() || socket.cancelled()) co_return;
  if (lingers || !socket.Quiet()) co_return co_await Linger();
  socket.AnnounceClose();
}

Task<bool> ClientConnection::ServeExchange() {
  http1::ServerStream stream(worker_->stream_resources(), this);
  if (!co_await stream.ReadHead()) co_return false;
  Asked();
  co_await ServeRequest(worker_->exchange_resources(), stream);
  co_return true;
}

Task<void> ClientConnection::Linger() {
  // Thrown away at once, so all connections of a thread may share it: a spent buffer budget must not cost a client its
  // answer.
  static thread_local std::array<char, 16 * 1024> sink;
  input.Reset();
  if (!socket.ShutdownWrite()) co_return;
  const TimePoint deadline = worker_->loop().now() + kLingerTime;
  for (size_t discarded = 0; discarded < kLingerBytesMax;) {
    size_t moved = 0;
    const Io io = socket.Read(sink.data(), sink.size(), &moved);
    discarded += moved;
    if (io == Io::kEnd || io == Io::kError) co_return;
    if (io == Io::kDone) continue;
    if (co_await socket.Readable(deadline) != Wait::kReady) co_return;
  }
}

}  // namespace gateway::dataplane
