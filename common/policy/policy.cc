#include "common/policy/policy.h"

#include <cstring>

#include "absl/strings/ascii.h"

namespace gateway {
namespace {

// Whether `text` is `pattern`, where each '*' stands for any bytes. Without case: Consul serves its DNS so.
bool MatchesGlob(std::string_view pattern, std::string_view text) {
  size_t p = 0;
  size_t t = 0;
  size_t star = std::string_view::npos;  // the last one seen; what it stands for ends before `star_text`
  size_t star_text = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      star_text = t;
    } else if (p < pattern.size() && absl::ascii_tolower(static_cast<unsigned char>(pattern[p])) ==
                                         absl::ascii_tolower(static_cast<unsigned char>(text[t]))) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++star_text;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace

bool ConsulServicePolicy::Allows(std::string_view name) const {
  const std::string lower = absl::AsciiStrToLower(std::string(name));
  if (name.empty() || lower == "consul" || lower == absl::AsciiStrToLower(own_service)) return false;
  auto matches = [name](const std::string& pattern) { return MatchesGlob(pattern, name); };
  return std::any_of(allow.begin(), allow.end(), matches) && std::none_of(deny.begin(), deny.end(), matches);
}

const ConsumerTable::Password& ConsumerTable::DecoyOf(std::string_view username) const {
  const Digest digest = decoys.Of({username});
  uint64_t number;
  std::memcpy(&number, digest.data(), sizeof number);
  return passwords[number % passwords.size()];
}

}  // namespace gateway
