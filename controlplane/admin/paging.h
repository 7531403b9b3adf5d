// Page sizes and page tokens of the calls that list.
#ifndef GATEWAY_CONTROLPLANE_ADMIN_PAGING_H_
#define GATEWAY_CONTROLPLANE_ADMIN_PAGING_H_

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace gateway::controlplane {

// FNV-1a: ties a page token to the request that it continues.
std::string Fingerprint(std::string_view text);

// A token is "word|word|..." in web-safe base64: nothing that a caller should read.
std::string MakeToken(std::initializer_list<absl::string_view> words);
// InvalidArgument unless it has `words` words.
absl::StatusOr<std::vector<std::string>> ReadToken(const std::string& token, size_t words);
// The number that `token` continues below (MakeToken of `fingerprint` and that number); 0 if `token` is empty.
// InvalidArgument: it is of another `list`.
absl::StatusOr<uint64_t> ReadBefore(const std::string& token, const std::string& fingerprint, absl::string_view list);

// `otherwise` if `asked` is 0; InvalidArgument if it is more than `max`.
absl::StatusOr<uint32_t> PageSize(uint32_t asked, uint32_t otherwise, uint32_t max);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_ADMIN_PAGING_H_
