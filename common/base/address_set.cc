#include "common/base/address_set.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <system_error>

#include "common/base/quote.h"
#include "common/base/text.h"

namespace gateway {
namespace {

using Key = std::array<uint8_t, 16>;

// ::ffff:0:0/96, where IPv4 is.
constexpr Key kFirstMapped = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0};
constexpr Key kLastMapped = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

Key After(Key key) {
  for (size_t i = key.size(); i-- > 0;) {
    if (++key[i] != 0) break;
  }
  return key;
}

Key Before(Key key) {
  for (size_t i = key.size(); i-- > 0;) {
    if (key[i]-- != 0) break;
  }
  return key;
}

// Whether nothing is between the two, or they overlap. Requires: first <= second's first.
bool Touches(const Key& last, const Key& next) { return next <= last || After(last) == next; }

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
  const std::string_view length = slash == std::string_view::npos ? "" : cidr.substr(slash + 1);
  in6_addr network;
  const bool v4 = host.find(':') == std::string_view::npos;
  const int width = v4 ? 32 : 128;
  int bits = width;
  if (slash != std::string_view::npos) {
    const auto [end, error] = std::from_chars(length.data(), length.data() + length.size(), bits);
    if (length.empty() || length.front() == '-' || error != std::errc() || end != length.data() + length.size())
      bits = -1;
  }
  if (bits < 0 || !ParseIp(host, &network)) {
    return absl::InvalidArgumentError(
        Concat(QuoteForMessage(cidr),
               " is not an address or a block; expected one like 192.0.2.1, 10.0.0.0/8 or 2001:db8::/32"));
  }
  if (bits > width) {
    return absl::InvalidArgumentError(
        Concat(QuoteForMessage(cidr), " has too long a prefix; expected a length from 0 to ", width));
  }
  Range range;
  for (int i = 0; i < 16; ++i) {
    const int kept = std::clamp(bits + 128 - width - 8 * i, 0, 8);
    const auto mask = static_cast<uint8_t>(0xff00 >> kept);
    const auto at = static_cast<size_t>(i);
    range.first[at] = static_cast<uint8_t>(network.s6_addr[i] & mask);
    range.last[at] = static_cast<uint8_t>(network.s6_addr[i] | static_cast<uint8_t>(~mask));
  }
  if (std::memcmp(range.first.data(), network.s6_addr, sizeof network.s6_addr) != 0) {
    char text[INET6_ADDRSTRLEN] = "";
    inet_ntop(v4 ? AF_INET : AF_INET6, range.first.data() + (v4 ? 12 : 0), text, sizeof text);
    return absl::InvalidArgumentError(Concat(QuoteForMessage(cidr), " has bits behind its prefix; expected ",
                                             std::string_view(text), "/", bits, ", or ", host,
                                             " for this address alone"));
  }
  // A block of IPv6 that IPv4's own lies in means IPv6 alone: who writes ::/0 has not written 0.0.0.0/0.
  if (!v4 && range.first < kFirstMapped && kLastMapped <= range.last) {
    ranges_.push_back({range.first, Before(kFirstMapped)});
    range.first = After(kLastMapped);
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
