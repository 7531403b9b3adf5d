#include "dataplane/server/connection.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <utility>

#include "dataplane/http/http1/server_stream.h"
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

}  // namespace

void ClientConnection::Start(Worker* worker, int fd, const sockaddr_storage& address, ProxyHeaderMode proxy_header) {
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
  Run(std::move(connection), proxy_header);
}

ClientConnection::ClientConnection(Worker* worker, const sockaddr_storage& address, const in6_addr& peer_address)
    : Connection(&worker->loop()), worker_(worker) {
  info.peer = peer_address;
  info.peer_ip = IpText(address);
  info.peer_trusted = worker->options().trusted_proxies.Contains(peer_address);
  worker_->Register(this);
}

ClientConnection::~ClientConnection() {
  if (counted_) worker_->counts().by_address.Remove(info.peer);
  worker_->Unregister(this);
}

Detached ClientConnection::Run(std::unique_ptr<ClientConnection> self, ProxyHeaderMode proxy_header) {
  try {
    // A trusted proxy has as many connections as it has clients: theirs are counted.
    if (self->info.peer_trusted && proxy_header != ProxyHeaderMode::kNone) {
      if (!co_await self->ReadProxyHeader(proxy_header)) co_return;
    }
    if (!self->info.peer_trusted && !self->CountAddress())
      co_return co_await self->RefuseAndLinger(kTooManyConnections);
    co_await self->Serve();
  } catch (const std::exception& error) {
    spdlog::error("a connection ended by an exception: {}", error.what());
  }
}

bool ClientConnection::CountAddress() {
  const int64_t max = worker_->options().max_connections_per_address;
  counted_ = worker_->counts().by_address.Add(info.peer, max);
  if (counted_) return true;
  worker_->metrics().Add(WorkerGauge::kConnectionsRefusedTotal, 1);
  if (worker_->MayWarn(Worker::Warning::kAddressConnectionsMax)) {
    spdlog::warn("a connection from {} is rejected: it has {} already (server.max_connections_per_address)", info.peer_ip,
                 max);
  }
  return false;
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
      // A new connection has as long for its first byte as for a whole head.
      const auto patience = std::min(worker_->idle_grace(),
                                     served_ ? worker_->options().idle_timeout : worker_->options().header_timeout);
      const Wait wait = co_await socket.Readable(loop.now() + patience);
      idle_ = false;
      if (wait != Wait::kReady) co_return;
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
  if (lingers || !socket.Quiet()) co_await Linger();
}

Task<bool> ClientConnection::ServeExchange() {
  http1::ServerStream stream(worker_->stream_resources(), this);
  if (!co_await stream.ReadHead()) co_return false;
  co_await ServeRequest(*worker_, stream);
  co_return true;
}

Task<void> ClientConnection::Linger() {
  // Thrown away at once, so all connections of a thread may share it: a spent buffer budget must not cost a client its
  // answer.
  static thread_local std::array<char, 16 * 1024> sink;
  input.Reset();
  if (shutdown(socket.fd(), SHUT_WR) != 0) co_return;
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
