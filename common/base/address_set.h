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

// `text` as an IPv6 address, IPv4 mapped; false where it is no literal.
bool ParseIp(std::string_view text, in6_addr* out);

// Built once (Add, then Seal), then immutable: any thread may ask. IPv4 is what its IPv4-mapped IPv6 address is, so
// "10.0.0.0/8" holds ::ffff:10.1.2.3; a block of IPv6 around all of these, as ::/0, holds none of them. Kept as sorted
// ranges that do not touch: a question is one binary search, whatever the number and the nesting of the blocks.
class AddressSet {
 public:
  // "10.0.0.0/8", "2001:db8::/32", "192.0.2.1". InvalidArgument says what was expected: also where bits are set behind
  // the prefix, for it might be the address that was meant, or a longer one.
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
