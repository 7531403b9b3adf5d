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

// `text` as an IPv6 address, IPv4 mapped; false if it is not a literal.
bool ParseIp(std::string_view text, in6_addr* out);

// Built once (Add, then Seal), then immutable: any thread may read it. An IPv4 address and its IPv4-mapped IPv6
// address are the same, so "10.0.0.0/8" contains ::ffff:10.1.2.3; a block of IPv6 around all of these, such as ::/0,
// does not contain them. Kept as sorted ranges that do not touch: a lookup is one binary search, however many blocks
// there are and however they nest.
class AddressSet {
 public:
  // "10.0.0.0/8", "2001:db8::/32", "192.0.2.1". InvalidArgument says what was expected, also if bits are set after the
  // prefix, since the address or a longer prefix may have been meant.
  absl::Status Add(std::string_view cidr);
  // After the last Add.
  void Seal();
  // Requires: sealed.
  bool Contains(const in6_addr& address) const;
  bool empty() const { return ranges_.empty(); }

 private:
  using Key = std::array<uint8_t, 16>;  // in network order, so that it compares as the address does
  struct Range {
    Key first, last;
  };
  std::vector<Range> ranges_;
};

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_ADDRESS_SET_H_
