// The transport below TLS: a connection's bytes as they are on the wire.
#ifndef GATEWAY_DATAPLANE_NET_WIRE_H_
#define GATEWAY_DATAPLANE_NET_WIRE_H_

#include <sys/uio.h>

#include <cstddef>
#include <span>

#include "dataplane/net/io.h"

namespace gateway::dataplane {

// Moves `parts` on past their first `bytes` bytes.
inline void Advance(std::span<iovec>* parts, size_t bytes) {
  while (!parts->empty() && bytes >= parts->front().iov_len) {
    bytes -= parts->front().iov_len;
    *parts = parts->subspan(1);
  }
  if (bytes > 0) {
    parts->front().iov_base = static_cast<char*>(parts->front().iov_base) + bytes;
    parts->front().iov_len -= bytes;
  }
}

// Never blocks.
class Wire {
 public:
  // At most one system call.
  virtual Io ReceiveBytes(char* data, size_t size, size_t* moved) = 0;
  // Moves `parts` on past what was sent. kDone: all of it. `flags`: those of send(2).
  virtual Io SendBytes(int flags, std::span<iovec>* parts, size_t* moved) = 0;

 protected:
  ~Wire() = default;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_NET_WIRE_H_
