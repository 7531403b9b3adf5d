// Hosts and ports as operators write them.
#ifndef GATEWAY_COMMON_BASE_HOST_PORT_H_
#define GATEWAY_COMMON_BASE_HOST_PORT_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace gateway {

// Splits "host:port", "[::1]:8080"; the host may be empty only if `host_optional`. InvalidArgument says what was
// expected.
struct HostPort {
  std::string host;  // without brackets
  uint16_t port = 0;
};
absl::StatusOr<HostPort> ParseHostPort(std::string_view text, bool host_optional = false);

// Whether `host` is an IPv4 or an IPv6 address (without brackets).
bool IsIpAddress(const std::string& host);

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_HOST_PORT_H_
