#include "common/base/host_port.h"

#include <arpa/inet.h>

#include <charconv>

#include "absl/strings/ascii.h"
#include "common/base/quote.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {
namespace {

constexpr size_t kHostNameMax = 253;  // RFC 1035, section 2.3.4, without the final dot

bool IsIpv4(const std::string& text) {
  in_addr address;
  return inet_pton(AF_INET, text.c_str(), &address) == 1;
}

bool IsIpv6(const std::string& text) {
  in6_addr address;
  return inet_pton(AF_INET6, text.c_str(), &address) == 1;
}

// Letters, digits, '-' and '_' (which DNS lacks, but containers' names have), in labels of 1 to 63. What looks like a
// number in its last label must be an IPv4 address: "10.0.0.256" is not a host name.
bool IsHostName(std::string_view text) {
  if (!text.empty() && text.back() == '.') text.remove_suffix(1);
  if (text.empty() || text.size() > kHostNameMax) return false;
  size_t label = 0;
  bool digits_only = true;
  for (char c : text) {
    if (c == '.') {
      if (label == 0) return false;
      label = 0;
      digits_only = true;
      continue;
    }
    if (!absl::ascii_isalnum(c) && c != '-' && c != '_') return false;
    if (++label > 63) return false;
    digits_only = digits_only && absl::ascii_isdigit(c);
  }
  return label > 0 && !digits_only;
}

}  // namespace

bool IsIpAddress(const std::string& host) { return IsIpv4(host) || IsIpv6(host); }

absl::StatusOr<HostPort> ParseHostPort(std::string_view text, bool host_optional) {
  auto refuse = [&](std::string_view why) {
    return absl::InvalidArgumentError(fmt::format(
        "expected host:port, such as \"10.0.0.7:8080\" or \"[::1]:8080\", found {}: {}", QuoteForMessage(text), why));
  };
  HostPort result;
  std::string_view port;
  if (!text.empty() && text.front() == '[') {
    size_t close = text.find(']');
    if (close == std::string_view::npos) return refuse("']' is missing");
    result.host = std::string(text.substr(1, close - 1));
    if (!IsIpv6(result.host)) return refuse("the text in brackets is not an IPv6 address");
    port = text.substr(close + 1);
    if (port.empty() || port.front() != ':') return refuse("the port is missing");
    port.remove_prefix(1);
  } else {
    size_t colon = text.find(':');
    if (colon == std::string_view::npos) return refuse("the port is missing");
    if (text.substr(colon).starts_with("://")) return refuse("this is a URL");
    if (text.find(':', colon + 1) != std::string_view::npos) return refuse("an IPv6 address needs brackets");
    result.host = std::string(text.substr(0, colon));
    port = text.substr(colon + 1);
    if (result.host.empty()) {
      if (!host_optional) return refuse("the host is missing");
    } else if (!IsIpv4(result.host) && !IsHostName(result.host)) {
      return refuse("the host is neither an IP address nor a host name");
    }
  }
  bool digits = !port.empty() && port.size() <= 5;
  for (char c : port) digits = digits && absl::ascii_isdigit(c);
  uint32_t number = 0;
  if (digits) std::from_chars(port.data(), port.data() + port.size(), number);
  if (!digits || number > 65535) return refuse("a port is a number from 0 to 65535");
  result.port = static_cast<uint16_t>(number);
  return result;
}

}  // namespace gateway
