// How texts in policies are parsed: for the checks, which report errors, and for the compiler.
#ifndef GATEWAY_COMMON_POLICY_POLICY_TEXTS_H_
#define GATEWAY_COMMON_POLICY_POLICY_TEXTS_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/policy/policy.h"
#include "gateway/v1/policy.pb.h"

namespace gateway {

inline constexpr size_t kFieldValueBytesMax = 4096;
inline constexpr size_t kTextVariablesMax = 32;  // of one text, so that a long path is not repeated too often

// A header name in lower case and with dashes for underscores, since many servers treat the two alike.
std::string FoldField(std::string_view name);
// X-Consumer and X-Consumer-*, which identify the caller to services: a client's own are removed from every request.
bool IsIdentityField(std::string_view name);

// InvalidArgument lists the valid keys.
absl::StatusOr<LimitKey> ParseLimitKey(std::string_view text);

// Text with ${...}; `variables` are those of the route's template, in the order of RouteMatch (** is "").
// InvalidArgument: an unknown variable, a missing end, a control byte if `one_line`, or longer than `bytes_max`.
absl::StatusOr<TextTemplate> ParseText(std::string_view text, const std::vector<std::string>& variables, bool one_line,
                                       size_t bytes_max);

// The names in the order of RouteMatch::variables; ** is "". Empty if `path` has no valid template.
std::vector<std::string> VariablesOf(const v1::PathMatch& path);

// "https://app.example.com[:8443]", as browsers send it (lower case, no default port), optionally with "*." before the
// host. InvalidArgument says what was expected.
struct Origin {
  std::string scheme;  // "https://"
  std::string host;    // "app.example.com:8443"; for a wildcard ".example.com"
  bool wildcard = false;
};
absl::StatusOr<Origin> ParseOrigin(std::string_view text);

// Whether keys may be fetched from `url`: https, or http of this host (127.0.0.1, [::1], localhost), without a user or
// a password. The rule holds for policy and for every redirect. InvalidArgument says what was expected; a password is
// not repeated.
absl::Status CheckKeysUrl(std::string_view url);

// What a Retry's condition means; false: it is none.
bool AddRetryCondition(std::string_view text, RetryPolicy* policy);

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_POLICY_TEXTS_H_
