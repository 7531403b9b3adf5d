#include "controlplane/admin/paging.h"

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace gateway::controlplane {

std::string Fingerprint(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (unsigned char byte : text) hash = (hash ^ byte) * 0x100000001b3u;
  return absl::StrCat(absl::Hex(hash, absl::kZeroPad16));
}

std::string MakeToken(std::initializer_list<absl::string_view> words) {
  return absl::WebSafeBase64Escape(absl::StrJoin(words, "|"));
}

absl::StatusOr<std::vector<std::string>> ReadToken(const std::string& token, size_t words) {
  std::string text;
  std::vector<std::string> read;
  if (absl::WebSafeBase64Unescape(token, &text)) read = absl::StrSplit(text, '|');
  if (read.size() != words) return absl::InvalidArgumentError("page_token: not one that this call returned");
  return read;
}

absl::StatusOr<uint64_t> ReadBefore(const std::string& token, const std::string& fingerprint, absl::string_view list) {
  uint64_t before = 0;
  if (token.empty()) return before;
  absl::StatusOr<std::vector<std::string>> words = ReadToken(token, 2);
  if (!words.ok()) return words.status();
  if ((*words)[0] != fingerprint || !absl::SimpleAtoi((*words)[1], &before) || before == 0) {
    return absl::InvalidArgumentError(absl::StrCat("page_token: of another ", list));
  }
  return before;
}

absl::StatusOr<uint32_t> PageSize(uint32_t asked, uint32_t otherwise, uint32_t max) {
  if (asked > max) return absl::InvalidArgumentError(absl::StrCat("page_size: ", asked, "; at most ", max));
  return asked == 0 ? otherwise : asked;
}

}  // namespace gateway::controlplane
