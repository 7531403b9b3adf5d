#include "dataplane/server_options.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/numbers.h"
#include "common/bootstrap.h"
#include "common/text.h"

namespace gateway::dataplane {

bool ParseIp(std::string_view text, in6_addr* out) {
  char copy[INET6_ADDRSTRLEN];
  if (text.empty() || text.size() >= sizeof copy) return false;
  std::memcpy(copy, text.data(), text.size());
  copy[text.size()] = '\0';
  in_addr v4;
  if (inet_pton(AF_INET, copy, &v4) == 1) {
    std::memset(out->s6_addr, 0, 10);
    out->s6_addr[10] = out->s6_addr[11] = 0xff;
    std::memcpy(out->s6_addr + 12, &v4, 4);
    return true;
  }
  return inet_pton(AF_INET6, copy, out) == 1;
}

absl::Status AddressSet::Add(std::string_view cidr) {
  const size_t slash = cidr.find('/');
  const std::string_view host = cidr.substr(0, slash);
  Block block;
  int bits = 0;
  const bool v4 = host.find(':') == std::string_view::npos;
  if (!ParseIp(host, &block.network) ||
      (slash != std::string_view::npos && !absl::SimpleAtoi(AbslView(cidr.substr(slash + 1)), &bits))) {
    return absl::InvalidArgumentError(Concat("'", cidr, "' is not an address block like 10.0.0.0/8"));
  }
  const int width = v4 ? 32 : 128;
  if (slash == std::string_view::npos) bits = width;
  if (bits < 0 || bits > width) {
    return absl::InvalidArgumentError(Concat("'", cidr, "': a prefix length is 0 to ", width));
  }
  block.bits = bits + 128 - width;
  blocks_.push_back(block);
  return absl::OkStatus();
}

bool AddressSet::Contains(const in6_addr& address) const {
  for (const Block& block : blocks_) {
    const int whole = block.bits / 8;
    if (std::memcmp(block.network.s6_addr, address.s6_addr, static_cast<size_t>(whole)) != 0) continue;
    const int rest = block.bits % 8;
    if (rest == 0 || (block.network.s6_addr[whole] ^ address.s6_addr[whole]) >> (8 - rest) == 0) return true;
  }
  return false;
}

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
  options.max_connections_per_address = server.max_connections_per_address() > 0
                                            ? server.max_connections_per_address()
                                            : std::max<int64_t>(1, options.max_connections / 2);
  options.max_header_bytes = server.max_header_bytes();
  for (const std::string& cidr : server.trusted_proxies()) {
    if (absl::Status status = options.trusted_proxies.Add(cidr); !status.ok()) return status;
  }
  return options;
}

}  // namespace gateway::dataplane
