#include "dataplane/connection.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "dataplane/exchange.h"
#include "dataplane/worker.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {

void ClientConnection::Start(Worker* worker, int fd, const sockaddr_storage& address) {
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
  Run(std::move(connection));
}

ClientConnection::ClientConnection(Worker* worker, const sockaddr_storage& address, const in6_addr& peer_address)
    : socket(&worker->loop()),
      peer(peer_address),
      peer_ip(IpText(address)),
      peer_trusted(worker->options().trusted_proxies.Contains(peer_address)),
      worker_(worker) {
  worker_->Register(this);
}

ClientConnection::~ClientConnection() { worker_->Unregister(this); }

Detached ClientConnection::Run(std::unique_ptr<ClientConnection> self) {
  try {
    co_await self->Serve();
  } catch (const std::exception& error) {
    spdlog::error("a connection ended by an exception: {}", error.what());
  }
}

Task<void> ClientConnection::Serve() {
  EventLoop& loop = worker_->loop();
  bool first = true;
  int in_a_row = 0;
  while (!ending_) {
    if (input.empty()) {
      input.Reset();
      in_a_row = 0;
      idle_ = true;
      // A new connection has as long for its first byte as for a whole head.
      const auto patience =
          std::min(worker_->idle_grace(), first ? worker_->options().header_timeout : worker_->options().idle_timeout);
      const Wait wait = co_await socket.Readable(loop.now() + patience);
      idle_ = false;
      if (wait != Wait::kReady) co_return;
    } else if (++in_a_row >= 32) {
      // A client that pipelines without end takes its turn like everybody else.
      in_a_row = 0;
      co_await Yield(&loop);
    }
    if (co_await ServeExchange()) first = false;
  }
  if (gone_ || socket.broken() || socket.cancelled()) co_return;
  if (reset_) {
    const linger now{1, 0};
    (void)setsockopt(socket.fd(), SOL_SOCKET, SO_LINGER, &now, sizeof now);  // a plain close is the next best
    co_return;
  }
  if (lingers_ || !socket.Quiet()) co_await Linger();
}

Task<bool> ClientConnection::ServeExchange() {
  Exchange exchange(worker_, this);
  co_return co_await exchange.Run();
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
