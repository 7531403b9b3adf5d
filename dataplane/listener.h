// The main port's sockets: one for each address and worker, shared by SO_REUSEPORT.
#ifndef GATEWAY_DATAPLANE_LISTENER_H_
#define GATEWAY_DATAPLANE_LISTENER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/v1/bootstrap.pb.h"

namespace gateway::dataplane {

// What a connection of a trusted proxy begins with (Listener.proxy_protocol).
enum class ProxyHeaderMode : uint8_t { kNone, kRequired, kOptional };

struct ListeningSocket {
  int fd = -1;  // non-blocking, listening
  ProxyHeaderMode proxy_header = ProxyHeaderMode::kNone;
};

struct ListenerSet {
  std::vector<std::vector<ListeningSocket>> of_worker;  // whoever takes them closes them
  std::vector<std::string> addresses;                   // as bound, for people
  uint16_t port = 0;                                    // of the first address
};

// Binds server.listeners, or all interfaces at server.port (IPv6 where the machine has it). Port 0 is any free one, the
// same for all workers. An error says which address, and why; then nothing stays bound.
absl::StatusOr<ListenerSet> OpenListeners(const v1::ServerSection& server, int workers);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_LISTENER_H_
