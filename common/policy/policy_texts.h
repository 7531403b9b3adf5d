// How texts in policies are read, for the checks and for the compiler.
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
// X-Consumer, X-Consumer-*, and those of IsCertificateField, which tell services who calls: a client's own are removed
// from every request.
bool IsIdentityField(std::string_view name);
// X-Forwarded-Client-Cert, Client-Cert and Client-Cert-Chain.
bool IsCertificateField(std::string_view name);

// In lower case; a fingerprint as 64 hexadecimal digits, with colons between bytes or without.
std::string FoldCertificateIdentity(std::string_view identity);

// Text with ${...}; `variables` are those of the route's template, in RouteMatch's order (** is ""). InvalidArgument:
// an unknown variable, no end, a control byte if `one_line`, or longer than `bytes_max`.
absl::StatusOr<TextTemplate> ParseText(std::string_view text, const std::vector<std::string>& variables, bool one_line,
                                       size_t bytes_max);

// The names in the order of RouteMatch::variables; ** is "". Empty if `path` has no template, or a bad one.
std::vector<std::string> VariablesOf(const v1::PathMatch& path);

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_POLICY_TEXTS_H_
