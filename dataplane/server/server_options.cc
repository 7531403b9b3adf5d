#include "dataplane/server/server_options.h"

#include "absl/random/random.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/units.h"

namespace gateway::dataplane {

absl::StatusOr<ServerOptions> ServerOptions::From(const v1::Bootstrap& bootstrap) {
  const v1::ServerSection& server = bootstrap.server();
  ServerOptions options;
  options.header_timeout = ToMillis(server.header_timeout());
  options.read_timeout = ToMillis(server.read_timeout());
  options.write_timeout = ToMillis(server.write_timeout());
  options.idle_timeout = ToMillis(server.idle_timeout());
  options.watchdog_timeout = ToMillis(server.watchdog_timeout());
  options.builtin_routes = server.builtin_routes();
  options.metrics_on_main_port = bootstrap.metrics().main_port();
  options.error_details = server.error_details();
  options.reject_encoded_slashes = server.encoded_slashes() == v1::ServerSection::REJECT;
  options.log_requests = bootstrap.logging().level() <= v1::LoggingSection::INFO;
  options.max_connections = server.max_connections();
  options.max_connections_per_address = server.max_connections_per_address();
  options.max_header_bytes = server.max_header_bytes();
  options.http2.max_concurrent_streams = server.http2().max_concurrent_streams();
  options.http2.initial_window = static_cast<uint32_t>(server.http2().initial_window());
  options.http2.max_header_list = static_cast<uint32_t>(server.http2().max_header_list());
  options.http2.header_timeout = options.header_timeout;
  options.http2.write_timeout = options.write_timeout;
  options.http2.idle_timeout = options.idle_timeout;
  for (const std::string& cidr : server.trusted_proxies()) {
    if (absl::Status status = options.trusted_proxies.Add(cidr); !status.ok()) return status;
  }
  options.trusted_proxies.Seal();
  absl::BitGen random;
  options.via = absl::StrCat("gateway (", absl::Hex(absl::Uniform<uint32_t>(random), absl::kZeroPad8), ")");
  for (const std::string& name : bootstrap.access_log().redact_query()) {
    options.redact_query.push_back(absl::AsciiStrToLower(name));
  }
  return options;
}

}  // namespace gateway::dataplane
