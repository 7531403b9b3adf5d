// An address that requests are sent to.
#ifndef GATEWAY_DATAPLANE_UPSTREAM_ENDPOINT_H_
#define GATEWAY_DATAPLANE_UPSTREAM_ENDPOINT_H_

#include <sys/socket.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "common/policy/policy.h"
#include "dataplane/net/tls/client_context.h"

namespace gateway::dataplane {

// One address that requests are sent to, for as long as any state names it. Shared by all services that name it.
struct Endpoint {
  std::string name;  // "10.0.0.7:8080", for logs
  sockaddr_storage address{};
  socklen_t address_length = 0;
  uint64_t id = 0;  // unique for the life of the process: the key of the workers' connection pools
  std::shared_ptr<tls::EndpointTls> tls;  // null: cleartext
  UpstreamProtocol protocol = UpstreamProtocol::kHttp1;
  // The newest bind that named it; a worker closes the idle connections of those that fell behind.
  std::atomic<uint64_t> bound_generation{0};
  // Until when none of its connections is kept for reuse: it has sent unsolicited bytes, so what arrives first on a
  // kept connection may not be the response (steady clock, nanoseconds).
  std::atomic<int64_t> distrusted_until{0};
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_UPSTREAM_ENDPOINT_H_
