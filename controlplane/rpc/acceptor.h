// The listening socket in front of a gRPC server: how many connections it takes, of whom, and for how long a silent one
// may stay.
#ifndef GATEWAY_CONTROLPLANE_RPC_ACCEPTOR_H_
#define GATEWAY_CONTROLPLANE_RPC_ACCEPTOR_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace gateway::controlplane {

struct AcceptorOptions {
  std::string key = {};      // of the bootstrap file, for messages: "control_plane.admin_listen"
  std::string address = {};  // "127.0.0.1:7400", "localhost:7400", "[::]:7400"; port 0: any
  // What a client sends first: the preface of HTTP/2 (RFC 9113, 3.4), or a TLS record with a ClientHello.
  bool tls = false;
  size_t connections_max = 1000;
  size_t connections_per_address_max = 500;               // of an IPv4 address, of an IPv6 /64
  std::chrono::milliseconds first_bytes_timeout{10'000};  // for the whole preface or ClientHello
  std::chrono::milliseconds exhausted_pause{100};         // without a free descriptor, before the next accept
};

struct AcceptorCounts {
  std::atomic<uint64_t> open{0};       // silent ones and those that were handed over; may lag a second behind
  std::atomic<uint64_t> accepted{0};   // handed over
  std::atomic<uint64_t> refused{0};    // closed at once: a bound was reached by connections that had spoken
  std::atomic<uint64_t> silent{0};     // closed without a whole preface: at the deadline, or for a newer connection
  std::atomic<uint64_t> invalid{0};    // began with something else
  std::atomic<uint64_t> exhausted{0};  // accepts that failed because the process or the system had no descriptor left
};

// gRPC 1.51 stops its own listener for good when accept fails once for want of descriptors, and bounds neither
// connections nor their handshakes. So this class accepts, on a thread of its own, and hands a connection over when its
// first bytes are there. Where a bound is reached, the longest silent connection gives way; one that has been handed
// over never does.
//
// A handed-over descriptor belongs to gRPC, which does not tell when it closes it: this class compares the socket's
// cookie (SO_COOKIE, never used twice) once a second and where a bound is reached.
class Acceptor {
 public:
  // Takes `fd`. `own`: it comes from ConnectToSelf.
  using HandOver = std::function<void(int fd, bool own)>;

  // Binds and listens; nobody is accepted before Start. Unavailable says which address, and why.
  static absl::StatusOr<std::unique_ptr<Acceptor>> Listen(AcceptorOptions options);
  ~Acceptor();  // stops

  // `hand_over` is called on the acceptor's thread.
  void Start(HandOver hand_over);
  // Closes the listening sockets and what is silent. After it `hand_over` is not called any more.
  void Stop();

  uint16_t port() const;
  const AcceptorCounts& counts() const;

  // A new connection to the listening socket from this process, through the same queue and the same thread as everybody
  // else's, which does not count towards the bounds and needs no first bytes. `then` is called with its descriptor,
  // which it takes, before the acceptor forgets that the connection is its own. One at a time.
  absl::Status ConnectToSelf(std::chrono::milliseconds timeout, const std::function<absl::Status(int fd)>& then);

 private:
  struct Impl;
  explicit Acceptor(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_RPC_ACCEPTOR_H_
