// How the texts in policies are read: by the checks, which want to know what is wrong, and by the compiler.
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
inline constexpr size_t kTextVariablesMax = 32;  // of one text: a long path is not to become many

// A field's name in lower case and with dashes for underscores, since many servers take the two for the same.
std::string FoldField(std::string_view name);
// X-Consumer, X-Consumer-*, and those of IsCertificateField, in which services are told who calls: a client's own are
// removed from every request.
bool IsIdentityField(std::string_view name);
// X-Forwarded-Client-Cert, Client-Cert and Client-Cert-Chain.
bool IsCertificateField(std::string_view name);

// In lower case; a fingerprint as 64 hexadecimal digits, with colons between bytes or without.
std::string FoldCertificateIdentity(std::string_view identity);

// InvalidArgument says what keys there are.
absl::StatusOr<LimitKey> ParseLimitKey(std::string_view text);

// Text with ${...}; `variables` are those of the route's template, in RouteMatch's order (** is ""). InvalidArgument:
// an unknown variable, no end, a control byte where `one_line`, or longer than `bytes_max`.
absl::StatusOr<TextTemplate> ParseText(std::string_view text, const std::vector<std::string>& variables, bool one_line,
                                       size_t bytes_max);

// The names in the order of RouteMatch::variables; ** is "". Empty where `path` has no template, or a bad one.
std::vector<std::string> VariablesOf(const v1::PathMatch& path);

// "https://app.example.com[:8443]", as browsers send it (lower case, no default port), with a "*." in front of the host
// or without. InvalidArgument says what was expected.
struct Origin {
  std::string scheme;  // "https://"
  std::string host;    // "app.example.com:8443"; of a wildcard ".example.com"
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
