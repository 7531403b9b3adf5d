#include "common/address_set.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/numbers.h"
#include "common/text.h"

namespace gateway {
namespace {

// Whether nothing is between the two, or they overlap. Requires: first <= second's first.
template <typename Key>
bool Touches(const Key& last, const Key& next) {
  if (next <= last) return true;
  Key after = last;
  for (size_t i = after.size(); i-- > 0;) {
    if (++after[i] != 0) break;
  }
  return after == next;
}

}  // namespace

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
  in6_addr network;
  int bits = 0;
  const bool v4 = host.find(':') == std::string_view::npos;
  if (!ParseIp(host, &network) ||
      (slash != std::string_view::npos && !absl::SimpleAtoi(AbslView(cidr.substr(slash + 1)), &bits))) {
    return absl::InvalidArgumentError(Concat("'", cidr, "' is not an address block like 10.0.0.0/8"));
  }
  const int width = v4 ? 32 : 128;
  if (slash == std::string_view::npos) bits = width;
  if (bits < 0 || bits > width) {
    return absl::InvalidArgumentError(Concat("'", cidr, "': a prefix length is 0 to ", width));
  }
  bits += 128 - width;
  Range range;
  for (int i = 0; i < 16; ++i) {
    const int kept = std::clamp(bits - 8 * i, 0, 8);
    const auto mask = static_cast<uint8_t>(0xff00 >> kept);
    const auto at = static_cast<size_t>(i);
    range.first[at] = static_cast<uint8_t>(network.s6_addr[i] & mask);
    range.last[at] = static_cast<uint8_t>(network.s6_addr[i] | static_cast<uint8_t>(~mask));
  }
  ranges_.push_back(range);
  return absl::OkStatus();
}

void AddressSet::Seal() {
  std::sort(ranges_.begin(), ranges_.end(), [](const Range& a, const Range& b) { return a.first < b.first; });
  std::vector<Range> merged;
  for (const Range& range : ranges_) {
    if (!merged.empty() && Touches(merged.back().last, range.first)) {
      merged.back().last = std::max(merged.back().last, range.last);
    } else {
      merged.push_back(range);
    }
  }
  ranges_ = std::move(merged);
}

bool AddressSet::Contains(const in6_addr& address) const {
  Key key;
  std::memcpy(key.data(), address.s6_addr, key.size());
  auto after = std::upper_bound(ranges_.begin(), ranges_.end(), key,
                                [](const Key& sought, const Range& range) { return sought < range.first; });
  return after != ranges_.begin() && key <= std::prev(after)->last;
}

}  // namespace gateway
