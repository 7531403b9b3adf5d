// Sockets for the benchmark's programs. Loopback only.
#ifndef GATEWAY_TESTS_BENCH_SOCKETS_H_
#define GATEWAY_TESTS_BENCH_SOCKETS_H_

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>

namespace gateway::bench {

inline constexpr int kBacklog = 4096;  // as the proxies use it

inline sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

// A non-blocking listener on 127.0.0.1:`port`; -1: see errno.
inline int Listen(int port) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  const int one = 1;
  const sockaddr_in here = Loopback(port);
  (void)setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, reinterpret_cast<const sockaddr*>(&here), sizeof here) != 0 || listen(listener, kBacklog) != 0) {
    close(listener);
    return -1;
  }
  return listener;
}

// A non-blocking socket connecting to 127.0.0.1:`port`, with TCP_NODELAY; -1: out of descriptors.
inline int Connect(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  const int one = 1;
  const sockaddr_in there = Loopback(port);
  (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  (void)connect(fd, reinterpret_cast<const sockaddr*>(&there), sizeof there);  // EINPROGRESS; a refusal shows later
  return fd;
}

// The next connection of `listener`, non-blocking, with TCP_NODELAY; -1: no connection.
inline int Accept(int listener) {
  const int fd = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  const int one = 1;
  if (fd >= 0) (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  return fd;
}

}  // namespace gateway::bench

#endif  // GATEWAY_TESTS_BENCH_SOCKETS_H_
