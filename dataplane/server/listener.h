// The main port's sockets: bound here, passed by systemd, or handed over by the process whose place this one takes.
#ifndef GATEWAY_DATAPLANE_SERVER_LISTENER_H_
#define GATEWAY_DATAPLANE_SERVER_LISTENER_H_

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/v1/bootstrap.pb.h"

namespace gateway::dataplane {

inline constexpr int kListenBacklog = 4096;  // the kernel's own bound (net.core.somaxconn) is the lower one

// What a connection of a trusted proxy begins with (Listener.proxy_protocol).
enum class ProxyHeaderMode : uint8_t { kNone, kRequired, kOptional };

// How the connections of one listener begin, and what they speak.
struct ListenerOptions {
  ProxyHeaderMode proxy_header = ProxyHeaderMode::kNone;
  int tls = -1;  // its index in server.listeners (tls_listeners.h); -1: cleartext
  bool http1 = true;
  bool http2 = false;  // by ALPN with TLS, by prior knowledge without
};

// A listening socket that somebody else has bound.
struct PassedSocket {
  int fd = -1;
  bool systemd = false;  // systemd's first: server.listeners need not name it
  sockaddr_storage address{};
  socklen_t length = 0;
};

// Checks that `fd` is a stream socket of IPv4 or IPv6 that listens, and makes it non-blocking and close-on-exec. An
// error says what else it is; `fd` stays the caller's.
absl::StatusOr<PassedSocket> InspectListener(int fd);

// What systemd passed: LISTEN_FDS descriptors from number 3 on, where LISTEN_PID is this process (sd_listen_fds(3)).
// Empties these variables of the environment, so that no child takes them for its own.
absl::StatusOr<std::vector<PassedSocket>> TakeSystemdSockets();

// As a worker gets it.
struct ListeningSocket {
  int fd = -1;
  ListenerOptions options;
  bool shared = false;    // other workers accept from the same socket
  bool listening = true;  // false: only bound, so that no connection comes before somebody accepts
};

struct ListenerSet {
  std::vector<std::vector<ListeningSocket>> of_worker;  // non-blocking; the new owner closes them
  // Handed over, but configured no longer: what waits in them is to be accepted, then they are to be closed.
  std::vector<ListeningSocket> leaving;
  std::vector<PassedSocket> sockets;   // each socket once, for the next hand-over; the descriptors are the workers'
  std::vector<std::string> addresses;  // as bound, for people
  uint16_t port = 0;                   // of the first address
};

// Binds server.listeners, or all interfaces at server.port (IPv6 where the machine has it): one socket for each address
// and worker, shared by SO_REUSEPORT. Port 0 is any free one, the same for all workers. An error says which address,
// and why; then nothing stays bound.
//
// What was `passed` comes first, and is owned from here on. A socket whose address is configured takes the place of a
// bind; systemd's are used whether configured or not, and where they come without server.listeners nothing else is.
// Several sockets of one address are spread over the workers. Where there are more workers than sockets, they take
// turns at systemd's, and to those of a hand-over further ones are bound. While a hand-over is under way, what is bound
// here does not listen yet: until somebody accepts, a connection in its queue would wait, and be lost if this process
// ended.
absl::StatusOr<ListenerSet> OpenListeners(const v1::ServerSection& server, int workers,
                                          std::vector<PassedSocket> passed = {});

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_SERVER_LISTENER_H_
