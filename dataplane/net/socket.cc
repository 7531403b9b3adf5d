#include "dataplane/net/socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <string>
#include <utility>

namespace gateway::dataplane {
namespace {

// Calls again where a signal came between.
template <typename Call>
ssize_t Uninterrupted(Call call) {
  for (;;) {
    const ssize_t n = call();
    if (n >= 0 || errno != EINTR) return n;
  }
}

// recv and send themselves are cancellation points of threads, which costs two atomic operations each; no thread here
// is ever cancelled.
ssize_t Receive(int fd, char* data, size_t size) {
  return Uninterrupted([&] { return syscall(SYS_recvfrom, fd, data, size, 0, nullptr, nullptr); });
}

ssize_t Send(int fd, std::span<iovec> parts, int flags) {
  flags |= MSG_NOSIGNAL;
  if (parts.size() == 1) {  // without a message header to be copied
    const iovec& part = parts.front();
    return Uninterrupted([&] { return syscall(SYS_sendto, fd, part.iov_base, part.iov_len, flags, nullptr, 0); });
  }
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  return Uninterrupted([&] { return syscall(SYS_sendmsg, fd, &message, flags); });
}

// Of each connection; inet_ntop goes through printf.
std::string Ipv4Text(const unsigned char* bytes) {
  char text[INET_ADDRSTRLEN];
  char* at = text;
  for (int i = 0; i < 4; ++i) {
    if (i > 0) *at++ = '.';
    at = std::to_chars(at, text + sizeof text, bytes[i]).ptr;
  }
  return {text, at};
}

ssize_t Splice(int from, int to, size_t size) {
  return Uninterrupted([&] { return splice(from, nullptr, to, nullptr, size, SPLICE_F_MOVE | SPLICE_F_NONBLOCK); });
}

}  // namespace

Socket::Socket(EventLoop* loop)
    : loop_(loop), read_timer_(loop, &Socket::OnReadTimeout, this), write_timer_(loop, &Socket::OnWriteTimeout, this) {}

bool Socket::Adopt(int fd) {
  fd_ = fd;
  slot_ = loop_->Add(
      fd, [](void* self, uint32_t events) { static_cast<Socket*>(self)->OnEvents(events); }, this);
  if (slot_ == nullptr) {
    close(fd_);
    fd_ = -1;
    return false;
  }
  return true;
}

bool Socket::StartConnect(const sockaddr* address, socklen_t length) {
  const int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  const int one = 1;
  (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);  // slower without, not wrong
  if (connect(fd, address, length) != 0 && errno != EINPROGRESS) {
    const int error = errno;
    close(fd);
    errno = error;
    return false;
  }
  if (!Adopt(fd)) return false;
  writable_ = false;  // until the event of the connection
  return true;
}

int Socket::ConnectError() const {
  int error = 0;
  socklen_t length = sizeof error;
  if (getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &length) != 0) return errno;
  return error;
}

void Socket::Close() {
  if (fd_ < 0) return;
  loop_->Release(slot_);
  slot_ = nullptr;
  close(fd_);
  fd_ = -1;
  tls_.reset();
  buffered_ = false;
  read_timer_.Disarm();
  write_timer_.Disarm();
}

Io Socket::Failed(bool* ready) {
  if (errno == EAGAIN || errno == EWOULDBLOCK) {
    *ready = false;
    return Io::kAgain;
  }
  broken_ = true;
  return Io::kError;
}

Io Socket::ReceiveBytes(char* data, size_t size, size_t* moved) {
  *moved = 0;
  if (!readable_) return Io::kAgain;
  const ssize_t n = Receive(fd_, data, size);
  if (n < 0) return Failed(&readable_);
  if (n == 0) return Io::kEnd;
  *moved = static_cast<size_t>(n);
  // A short read emptied the socket; what comes later makes a new event (epoll(7), question 9). An end that was seen
  // must still be read.
  if (*moved < size && !peer_ended_) readable_ = false;
  return Io::kDone;
}

Io Socket::ReadInto(SplicePipe* pipe, size_t size, size_t* moved) {
  *moved = 0;
  if (!readable_) return Io::kAgain;
  const ssize_t n = Splice(fd_, pipe->write_end(), std::min(size, SplicePipe::kBytesMax));
  if (n < 0) return Failed(&readable_);
  if (n == 0) return Io::kEnd;
  // (Fewer than asked for may mean that the pipe has no slot left: there may be more.)
  *moved = static_cast<size_t>(n);
  pipe->Filled(*moved);
  return Io::kDone;
}

Io Socket::SendBytes(int flags, std::span<iovec>* parts, size_t* moved) {
  *moved = 0;
  while (!parts->empty() && parts->front().iov_len == 0) *parts = parts->subspan(1);
  while (!parts->empty()) {
    if (!writable_) return Io::kAgain;
    const ssize_t n = Send(fd_, *parts, flags);
    if (n < 0) return Failed(&writable_);
    *moved += static_cast<size_t>(n);
    Advance(parts, static_cast<size_t>(n));
  }
  return Io::kDone;
}

void Socket::UseTls(SslPtr ssl, std::string_view read_before, std::shared_ptr<const void> keep) {
  Wire* const wire = this;
  tls_ = std::make_unique<tls::Session>(std::move(ssl), wire, std::move(keep));
  if (!read_before.empty()) tls_->Preload(read_before);
}

Task<tls::HandshakeError> Socket::Handshake(TimePoint deadline) {
  for (;;) {
    const tls::HandshakeStep step = tls_->Handshake();
    if (step == tls::HandshakeStep::kDone) {
      buffered_ = tls_->pending();
      co_return tls::HandshakeError::kNone;
    }
    if (step == tls::HandshakeStep::kFailed) co_return tls_->error();
    const Wait wait = step == tls::HandshakeStep::kWantRead ? co_await Readable(deadline) : co_await Writable(deadline);
    if (wait != Wait::kReady) {
      co_return wait == Wait::kTimeout ? tls::HandshakeError::kTimeout : tls::HandshakeError::kClosed;
    }
  }
}

Io Socket::ReadTls(char* data, size_t size, size_t* moved) {
  const Io io = tls_->Read(data, size, moved);
  buffered_ = tls_->pending();
  if (io == Io::kError) broken_ = true;
  return io;
}

Io Socket::WriteTls(int flags, bool last, std::span<iovec>* parts, size_t* moved) {
  const Io io = tls_->Write(parts, flags, last, moved);
  if (io == Io::kError) broken_ = true;
  return io;
}

bool Socket::ShutdownWrite() {
  AnnounceClose();
  return shutdown(fd_, SHUT_WR) == 0;
}

Io Socket::WriteFrom(SplicePipe* pipe, size_t* moved) {
  *moved = 0;
  while (pipe->held() > 0) {
    if (!writable_) return Io::kAgain;
    const ssize_t n = Splice(pipe->read_end(), fd_, pipe->held());
    if (n == 0) errno = EPIPE;  // not while the pipe holds anything
    if (n <= 0) return Failed(&writable_);
    pipe->Drained(static_cast<size_t>(n));
    *moved += static_cast<size_t>(n);
  }
  return Io::kDone;
}

template <typename Writer>
Task<Io> Socket::WriteWhole(Writer write, std::chrono::milliseconds stall, uint64_t* moved, TimePoint until) {
  for (;;) {
    size_t now = 0;
    const Io io = write(&now);
    *moved += now;
    if (io != Io::kAgain) co_return io;
    const Wait wait = co_await Writable(std::min(loop_->now() + stall, until));
    if (wait != Wait::kReady) co_return wait == Wait::kTimeout ? Io::kAgain : Io::kError;
  }
}

Task<Io> Socket::WriteRest(std::span<iovec> parts, std::chrono::milliseconds stall, uint64_t* moved, TimePoint until) {
  return WriteWhole([this, parts](size_t* now) mutable { return Write(&parts, now); }, stall, moved, until);
}

Task<Io> Socket::WriteRestFrom(SplicePipe* pipe, std::chrono::milliseconds stall, uint64_t* moved, TimePoint until) {
  return WriteWhole([this, pipe](size_t* now) { return WriteFrom(pipe, now); }, stall, moved, until);
}

void Socket::OnEvents(uint32_t events) {
  if ((events & EPOLLRDHUP) != 0) peer_ended_ = true;
  if ((events & (EPOLLERR | EPOLLHUP)) != 0) broken_ = peer_ended_ = true;
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) readable_ = true;
  if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) writable_ = true;
  if (idle_watch_ != nullptr) {
    // The first event of a new descriptor says only that it can be written to.
    if (readable_ || broken_) {
      // Session tickets and key updates carry no data: the connection stays idle.
      if (tls_ != nullptr && !broken_ && !peer_ended_ && ProbeQuiet()) return;
      const IdleWatch watch = idle_watch_;
      watch(idle_owner_);
    }
    return;
  }
  // Whoever is resumed may destroy this socket, and the other one; the slot stays until the turn ends.
  const IoSlot* slot = slot_;
  if (broken_ && reset_watch_ != nullptr) {
    AbandonWaits();
    if (slot->owner != this) return;
  }
  if (readable_ && reader_.handle) {
    reader_.Resume(Wait::kReady);
    if (slot->owner != this) return;
  }
  if (writable_ && writer_.handle) writer_.Resume(Wait::kReady);
}

void Socket::OnReadTimeout(void* self) {
  auto* socket = static_cast<Socket*>(self);
  if (socket->idle_watch_ != nullptr) {
    socket->idle_watch_(socket->idle_owner_);
  } else if (socket->reader_.handle) {
    socket->reader_.Resume(Wait::kTimeout);
  }
}

void Socket::OnWriteTimeout(void* self) {
  auto* socket = static_cast<Socket*>(self);
  if (socket->writer_.handle) socket->writer_.Resume(Wait::kTimeout);
}

bool Socket::ProbeQuiet() {
  if (peer_ended_ || broken_) return false;
  if (tls_ != nullptr) {
    readable_ = true;
    const bool quiet = tls_->Quiet();
    buffered_ = tls_->pending();
    return quiet;
  }
  char byte;
  const ssize_t n = recv(fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  if (n >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) return false;
  readable_ = false;
  return true;
}

bool Socket::HasBytes() {
  if (tls_ != nullptr) {
    readable_ = true;
    const bool has_data = tls_->HasData();
    buffered_ = tls_->pending();
    return has_data;
  }
  char byte;
  return recv(fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

void Socket::Cancel() {
  cancelled_ = true;
  Interrupt();
}

void Socket::Interrupt() {
  const IoSlot* slot = slot_;
  if (reader_.handle) {
    reader_.Resume(Wait::kCancelled);
    if (slot == nullptr || slot->owner != this) return;
  }
  if (writer_.handle) writer_.Resume(Wait::kCancelled);
}

void Socket::WatchIdle(IdleWatch watch, void* owner, TimePoint deadline) {
  idle_watch_ = watch;
  idle_owner_ = owner;
  read_timer_.Arm(deadline);
}

void Socket::EndIdle() {
  idle_watch_ = nullptr;
  read_timer_.Disarm();
}

std::string IpText(const in6_addr& address) {
  if (IN6_IS_ADDR_V4MAPPED(&address)) return Ipv4Text(address.s6_addr + 12);
  char text[INET6_ADDRSTRLEN] = "";
  inet_ntop(AF_INET6, &address, text, sizeof text);
  return text;
}

std::string IpText(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET6) return IpText(reinterpret_cast<const sockaddr_in6&>(address).sin6_addr);
  if (address.ss_family != AF_INET) return "";
  return Ipv4Text(reinterpret_cast<const unsigned char*>(&reinterpret_cast<const sockaddr_in&>(address).sin_addr));
}

uint16_t PortOf(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET) return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
  if (address.ss_family == AF_INET6) return ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
  return 0;
}

std::string AddressText(const sockaddr_storage& address) {
  const std::string ip = IpText(address);
  const bool v6 = ip.find(':') != std::string::npos;
  return (v6 ? "[" + ip + "]" : ip) + ":" + std::to_string(PortOf(address));
}

}  // namespace gateway::dataplane
