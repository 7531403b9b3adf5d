// The services of the soak, as processes that can be killed: `soak upstream PORT`.
#ifndef GATEWAY_TESTS_SOAK_UPSTREAM_H_
#define GATEWAY_TESTS_SOAK_UPSTREAM_H_

#include <cstdint>

namespace gateway::soak {

// Serves on 127.0.0.1:`port` until the process is killed; returns 1 if it cannot listen. The last segment of the path
// and the query select the response:
//   small?id=N      "id=N", about 100 bytes
//   delay?ms=N      the same after a delay
//   bytes?n=N       N bytes of the pattern, with Content-Length; chunked?n=N: in chunks
//   drip?n=N&ms=M   the same, `piece=P` bytes (default 1024) every M ms
//   upload          reads and checks a body: "bytes=N"; 400 if it is not the pattern
//   silent          never responds
//   ws              101, then echoes
int RunUpstream(uint16_t port);

}  // namespace gateway::soak

#endif  // GATEWAY_TESTS_SOAK_UPSTREAM_H_
