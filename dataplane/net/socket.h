// A non-blocking TCP socket on a worker's loop, with waits that a coroutine awaits.
#ifndef GATEWAY_DATAPLANE_NET_SOCKET_H_
#define GATEWAY_DATAPLANE_NET_SOCKET_H_

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "dataplane/net/event_loop.h"
#include "dataplane/net/io.h"
#include "dataplane/net/splice_pipe.h"
#include "dataplane/net/task.h"
#include "dataplane/net/tls/session.h"
#include "dataplane/net/wire.h"

namespace gateway::dataplane {

// Owns the descriptor. At most one coroutine waits for reading and one for writing. Belongs to one loop; not movable
// (the loop and its timers point at it). With UseTls, Read and Write carry plaintext and the wire TLS records; callers
// see no difference but that splices are not available.
class Socket final : private Wire {
 public:
  explicit Socket(EventLoop* loop);
  ~Socket() { Close(); }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  // Takes over a non-blocking descriptor. False: the loop can't have it (it is closed).
  bool Adopt(int fd);
  // A new socket that connects to `address`; then await Writable and ask ConnectError. False: no descriptor, or refused
  // at once.
  bool StartConnect(const sockaddr* address, socklen_t length);
  int ConnectError() const;
  void Close();
  int fd() const { return fd_; }
  bool open() const { return fd_ >= 0; }

  // From now on the connection is TLS; the handshake comes first. `read_before`: bytes that were read from the wire
  // already. `keep`: what the callbacks of `ssl` point at.
  void UseTls(SslPtr ssl, std::string_view read_before, std::shared_ptr<const void> keep);
  // Performs the handshake. kNone: done, else why it failed; tls()->error_text() says more.
  Task<tls::HandshakeError> Handshake(TimePoint deadline);
  // After a handshake that failed: the connection is cleartext again.
  void EndTls() {
    tls_.reset();
    buffered_ = false;
  }
  // Null: cleartext.
  tls::Session* tls() { return tls_.get(); }
  const tls::Session* tls() const { return tls_.get(); }

  // One system call at most; none where the last one showed that there is nothing.
  Io Read(char* data, size_t size, size_t* moved) {
    return tls_ == nullptr ? ReceiveBytes(data, size, moved) : ReadTls(data, size, moved);
  }
  // Moves `parts` on past what was written. kDone: all of it is with the kernel; kAgain: not all (with TLS `parts` may
  // be empty then: what is left is ciphertext. Wait until writable and call again).
  Io Write(std::span<iovec>* parts, size_t* moved) {
    return tls_ == nullptr ? SendBytes(0, parts, moved) : WriteTls(0, false, parts, moved);
  }
  // The same, of the last bytes of a connection: the caller ends it in this turn, so that its end goes with them, in
  // one packet (with TLS, close_notify too).
  Io WriteLast(std::span<iovec>* parts, size_t* moved) {
    return tls_ == nullptr ? SendBytes(MSG_MORE, parts, moved) : WriteTls(MSG_MORE, true, parts, moved);
  }
  // Ends this side: close_notify where it is TLS, then FIN. False: the connection is gone.
  bool ShutdownWrite();
  // With TLS, sends close_notify: this side has said all it had to say. Else nothing.
  void AnnounceClose() {
    if (tls_ != nullptr && !broken_) tls_->SendClose();
  }

  // Write until all is out. Each stall lasts at most `stall`, the whole not beyond `until`; then kAgain. `moved` counts
  // up.
  Task<Io> WriteRest(std::span<iovec> parts, std::chrono::milliseconds stall, uint64_t* moved,
                     TimePoint until = TimePoint::max());

  // Whether bytes can be moved without being copied: the following functions need it.
  bool CanSplice() const { return tls_ == nullptr; }
  // The same without copying: at most `size` bytes into `pipe`, which is empty.
  Io ReadInto(SplicePipe* pipe, size_t size, size_t* moved);
  // All that `pipe` holds.
  Io WriteFrom(SplicePipe* pipe, size_t* moved);
  Task<Io> WriteRestFrom(SplicePipe* pipe, std::chrono::milliseconds stall, uint64_t* moved,
                         TimePoint until = TimePoint::max());

  class Awaiter;
  Awaiter Readable(TimePoint deadline);
  Awaiter Writable(TimePoint deadline);
  // Moves the deadline of the current wait.
  void ExtendRead(TimePoint deadline);

  // Nothing to read and no end, as far as this socket was told; the kernel is asked only where that does not say.
  bool Quiet() { return readable_ || buffered_ ? ProbeQuiet() : !peer_ended_ && !broken_; }
  // The same, asked of the kernel.
  bool ProbeQuiet();
  // Whether bytes wait to be read; asks the kernel.
  bool HasBytes();

  // Ends the waits of now, not those of later.
  void Interrupt();
  // Ends every wait of now and of later.
  void Cancel();
  bool cancelled() const { return cancelled_; }
  // The peer reset the connection, or both sides have ended.
  bool broken() const { return broken_; }
  // The peer ended its side; there may be bytes before the end.
  bool peer_ended() const { return peer_ended_; }

  // When this one's peer resets the connection, `watch` (null: nobody) is told, once: nobody is left to answer. It may
  // destroy this socket.
  using ResetWatch = void (*)(void* owner);
  void WatchReset(ResetWatch watch, void* owner) {
    reset_watch_ = watch;
    reset_owner_ = owner;
  }
  // Tells it as if the peer had gone.
  void AbandonWaits() {
    if (reset_watch_ != nullptr) std::exchange(reset_watch_, nullptr)(reset_owner_);
  }
  // The same: then `other` is cancelled.
  void CancelOnReset(Socket* other) {
    WatchReset(other != nullptr ? [](void* owner) { static_cast<Socket*>(owner)->Cancel(); } : ResetWatch(nullptr),
               other);
  }

  // While nobody waits: any event, or the deadline, is told to `watch`, which may destroy this socket.
  using IdleWatch = void (*)(void* owner);
  void WatchIdle(IdleWatch watch, void* owner, TimePoint deadline);
  void EndIdle();

 private:
  struct Waiter {
    std::coroutine_handle<> handle;
    Wait result = Wait::kReady;
    void Resume(Wait wait) {
      result = wait;
      std::exchange(handle, nullptr).resume();
    }
  };

  // The wire's side, which is also the cleartext one.
  Io ReceiveBytes(char* data, size_t size, size_t* moved) override;
  Io SendBytes(int flags, std::span<iovec>* parts, size_t* moved) override;
  Io ReadTls(char* data, size_t size, size_t* moved);
  Io WriteTls(int flags, bool last, std::span<iovec>* parts, size_t* moved);
  // What a system call that failed just now (errno) says of the connection, and of what `ready` holds.
  Io Failed(bool* ready);
  template <typename Writer>  // Io(size_t* moved)
  Task<Io> WriteWhole(Writer write, std::chrono::milliseconds stall, uint64_t* moved, TimePoint until);
  void OnEvents(uint32_t events);
  static void OnReadTimeout(void* self);
  static void OnWriteTimeout(void* self);

  EventLoop* loop_;
  int fd_ = -1;
  IoSlot* slot_ = nullptr;
  bool readable_ = false;  // the descriptor's first event says what is there
  bool buffered_ = false;  // TLS has something to return without the descriptor
  bool writable_ = true;
  bool peer_ended_ = false;
  bool broken_ = false;
  bool cancelled_ = false;
  std::unique_ptr<tls::Session> tls_;
  Waiter reader_;
  Waiter writer_;
  Timer read_timer_;
  Timer write_timer_;
  ResetWatch reset_watch_ = nullptr;
  void* reset_owner_ = nullptr;
  IdleWatch idle_watch_ = nullptr;
  void* idle_owner_ = nullptr;

 public:
  class Awaiter {
   public:
    bool await_ready() const noexcept {
      return socket_.cancelled_ || (reading_ ? socket_.readable_ || socket_.buffered_ : socket_.writable_);
    }
    void await_suspend(std::coroutine_handle<> caller) noexcept {
      Waiter& waiter = reading_ ? socket_.reader_ : socket_.writer_;
      waiter.handle = caller;
      (reading_ ? socket_.read_timer_ : socket_.write_timer_).Arm(deadline_);
      suspended_ = true;
    }
    Wait await_resume() noexcept {
      if (socket_.cancelled_) return Wait::kCancelled;
      if (!suspended_) return Wait::kReady;
      (reading_ ? socket_.read_timer_ : socket_.write_timer_).Disarm();
      return reading_ ? socket_.reader_.result : socket_.writer_.result;
    }

   private:
    friend class Socket;
    Awaiter(Socket& socket, bool reading, TimePoint deadline)
        : socket_(socket), deadline_(deadline), reading_(reading) {}
    Socket& socket_;
    TimePoint deadline_;
    bool reading_;
    bool suspended_ = false;
  };
};

inline Socket::Awaiter Socket::Readable(TimePoint deadline) { return {*this, true, deadline}; }
inline Socket::Awaiter Socket::Writable(TimePoint deadline) { return {*this, false, deadline}; }
inline void Socket::ExtendRead(TimePoint deadline) {
  if (reader_.handle) read_timer_.Arm(deadline);
}

// "10.0.0.7:8080", "[2001:db8::1]:8080".
std::string AddressText(const sockaddr_storage& address);
// The address alone, IPv4-mapped IPv6 as IPv4: "10.0.0.7", "2001:db8::1".
std::string IpText(const sockaddr_storage& address);
std::string IpText(const in6_addr& address);
uint16_t PortOf(const sockaddr_storage& address);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_NET_SOCKET_H_
