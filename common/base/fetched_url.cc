#include "common/base/fetched_url.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/ascii.h"
#include "common/base/host_port.h"
#include "common/base/quote.h"
#include "common/base/text.h"

namespace gateway {

absl::Status CheckFetchedUrl(std::string_view url, std::string_view what) {
  constexpr std::string_view kPlain = "http://";
  constexpr std::string_view kSecure = "https://";
  constexpr size_t kUrlBytesMax = 2048;
  if (url.find('@') != std::string_view::npos) {
    // Not repeated: what precedes the @ may be a password.
    return absl::InvalidArgumentError(
        Concat("has a user's name or a password (an @); ", what, " are public, and are asked for without either"));
  }
  const bool plain = url.starts_with(kPlain);
  const std::string_view rest = url.substr(std::min(url.size(), (plain ? kPlain : kSecure).size()));
  const bool printable =
      std::all_of(url.begin(), url.end(), [](char c) { return absl::ascii_isgraph(static_cast<unsigned char>(c)); });
  if ((!plain && !url.starts_with(kSecure)) || rest.empty() || !printable || url.size() > kUrlBytesMax) {
    return absl::InvalidArgumentError(Concat(QuoteForMessage(url), " is not a URL to fetch ", what,
                                             " from; expected https://... (http:// of this host only)"));
  }
  if (!plain) return absl::OkStatus();
  const std::string_view authority = rest.substr(0, rest.find_first_of("/?#"));
  const size_t host_end = authority.starts_with('[') ? authority.find(']') + 1 : authority.find(':');
  const std::string_view host = authority.substr(0, host_end);
  const bool local = host == "127.0.0.1" || host == "localhost" || host == "[::1]";
  if (!local || (host != authority && !ParseHostPort(authority).ok())) {
    return absl::InvalidArgumentError(Concat(QuoteForMessage(url), ": plain http is for this host only"));
  }
  return absl::OkStatus();
}

}  // namespace gateway
