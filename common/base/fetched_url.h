// URLs that a process fetches because a policy, a bootstrap file or a redirect says so.
#ifndef GATEWAY_COMMON_BASE_FETCHED_URL_H_
#define GATEWAY_COMMON_BASE_FETCHED_URL_H_

#include <string_view>

#include "absl/status/status.h"

namespace gateway {

// Whether `what` ("keys") may be fetched from `url`: https, or http of this host (127.0.0.1, [::1], localhost), without
// a user or a password. The rule holds for policy and for every redirect. InvalidArgument says what was expected; a
// password is not repeated.
absl::Status CheckFetchedUrl(std::string_view url, std::string_view what);
inline absl::Status CheckKeysUrl(std::string_view url) { return CheckFetchedUrl(url, "keys"); }

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_FETCHED_URL_H_
