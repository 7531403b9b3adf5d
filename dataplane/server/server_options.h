// The bootstrap's `server` section as the request path reads it.
#ifndef GATEWAY_DATAPLANE_SERVER_SERVER_OPTIONS_H_
#define GATEWAY_DATAPLANE_SERVER_SERVER_OPTIONS_H_

#include <chrono>
#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "dataplane/http/http2/session_options.h"
#include "dataplane/proxy/exchange_resources.h"
#include "gateway/v1/bootstrap.pb.h"

namespace gateway::dataplane {

struct ServerOptions : ExchangeOptions {
  std::chrono::milliseconds header_timeout{10'000};
  std::chrono::milliseconds idle_timeout{60'000};
  bool log_requests = true;
  int64_t max_connections = 50'000;
  int64_t max_connections_per_address = 0;  // 0: a share of what can be open (Worker::connections_per_address_max)
  size_t max_header_bytes = 64 * 1024;
  std::chrono::milliseconds watchdog_timeout{5'000};
  http2::SessionOptions http2;

  static absl::StatusOr<ServerOptions> From(const v1::Bootstrap& bootstrap);
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_SERVER_SERVER_OPTIONS_H_
