// A request to Consul's HTTP API and what comes back, whatever carries them.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_CONSUL_REQUEST_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_CONSUL_REQUEST_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace gateway::controlplane {

inline constexpr uint32_t kConsulHeaderBytesMax = 64 * 1024;  // of a response
inline constexpr const char* kConsulUserAgent = "gateway-controlplane";

struct ConsulRequest {
  const char* method = "GET";
  std::string target;
  std::string body = {};   // JSON, or nothing
  std::string token = {};  // "": goes without
};

struct ConsulResponse {
  int status = 0;
  // X-Consul-Index; 0 if it is absent or not a number. Look at `status` first: a 500 carries an index too.
  uint64_t index = 0;
  bool known_leader = true;  // X-Consul-KnownLeader; true if it is absent
  std::string body;          // at most kResponseBytesMax, else the read fails
};

// Takes what a header of a response says.
void SetResponseHeader(ConsulResponse* response, std::string_view name, std::string_view value);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_CONSUL_REQUEST_H_
