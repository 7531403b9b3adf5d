// How an endpoint is called in logs, lists and overrides.
#ifndef GATEWAY_COMMON_BASE_ENDPOINT_NAME_H_
#define GATEWAY_COMMON_BASE_ENDPOINT_NAME_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace gateway {

// "10.0.0.7:8080", "[2001:db8::1]:8080", "host.example:8080". An address has one spelling, whatever `host` has: two
// names are equal if they stand for the same endpoint. `host` is without brackets.
std::string EndpointName(std::string_view host, uint32_t port);

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_ENDPOINT_NAME_H_
