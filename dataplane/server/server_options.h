// The bootstrap's `server` section as the request path reads it.
#ifndef GATEWAY_DATAPLANE_SERVER_SERVER_OPTIONS_H_
#define GATEWAY_DATAPLANE_SERVER_SERVER_OPTIONS_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/address_set.h"
#include "dataplane/http/http2/session_options.h"
#include "gateway/v1/bootstrap.pb.h"

namespace gateway::dataplane {

struct ServerOptions {
  std::chrono::milliseconds header_timeout{10'000};
  std::chrono::milliseconds read_timeout{30'000};
  std::chrono::milliseconds write_timeout{30'000};
  std::chrono::milliseconds idle_timeout{60'000};
  bool builtin_routes = true;
  bool metrics_on_main_port = false;
  bool error_details = false;
  bool reject_encoded_slashes = false;
  bool log_requests = true;
  int64_t max_connections = 50'000;
  int64_t max_connections_per_address = 0;  // 0: a share of what can be open (Worker::connections_per_address_max)
  size_t max_header_bytes = 64 * 1024;
  // What this process writes behind its version in Via, and knows its own requests by: "gateway (5f3a9c1e)", drawn anew
  // at each start. The name alone would take another gateway of this kind for itself.
  std::string via;
  std::chrono::milliseconds watchdog_timeout{5'000};
  http2::SessionOptions http2;
  AddressSet trusted_proxies;
  std::vector<std::string> redact_query;  // lower case; see LoggedTarget

  static absl::StatusOr<ServerOptions> From(const v1::Bootstrap& bootstrap);
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_SERVER_SERVER_OPTIONS_H_
