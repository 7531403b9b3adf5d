// Sets of IP addresses in CIDR notation.
#ifndef GATEWAY_COMMON_BASE_ADDRESS_SET_H_
#define GATEWAY_COMMON_BASE_ADDRESS_SET_H_

#include <netinet/in.h>

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace gateway {

// Parses `text` as an IPv6 address; an IPv4 address is mapped. False if it is not an address literal.
bool ParseIp(std::string_view text, in6_addr* out);

// Built once (Add, then Seal), then immutable and safe on any thread. An IPv4 address is its IPv4-mapped IPv6 address,
// so "10.0.0.0/8" holds ::ffff:10.1.2.3. An IPv6 block around all mapped ones, such as ::/0, holds none of them. Stored
// as sorted, disjoint ranges: a lookup is one binary search, however many blocks there are and however they nest.
class AddressSet {
 public:
  // "10.0.0.0/8", "2001:db8::/32", "192.0.2.1". InvalidArgument if malformed, and if bits behind the prefix are set:
  // the author may have meant the address, or a longer prefix.
  absl::Status Add(std::string_view cidr);
  // After the last Add.
  void Seal();
  // Requires: sealed.
  bool Contains(const in6_addr& address) const;
  bool empty() const { return ranges_.empty(); }

 private:
  using Key = std::array<uint8_t, 16>;  // in network order, so that it compares like the address
  struct Range {
    Key first, last;
  };
  std::vector<Range> ranges_;
};

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_ADDRESS_SET_H_
