// Text put together from pieces. Debian builds abseil with a string_view of its own, so absl::StrCat takes no
// std::string_view; this does.
#ifndef GATEWAY_COMMON_BASE_TEXT_H_
#define GATEWAY_COMMON_BASE_TEXT_H_

#include <algorithm>
#include <charconv>
#include <concepts>
#include <string>
#include <string_view>

#include "absl/strings/string_view.h"

namespace gateway {

inline absl::string_view AbslView(std::string_view text) { return {text.data(), text.size()}; }

inline void AppendPiece(std::string* out, std::string_view piece) { out->append(piece); }
template <std::integral Number>
void AppendPiece(std::string* out, Number number) {
  char room[24];
  const auto [end, error] = std::to_chars(room, room + sizeof room, number);
  (void)error;  // 24 characters hold any integer
  out->append(room, end);
}

// Appends each piece: text, or an integer in decimal.
template <typename... Pieces>
void Append(std::string* out, const Pieces&... pieces) {
  (AppendPiece(out, pieces), ...);
}

template <typename... Pieces>
std::string Concat(const Pieces&... pieces) {
  std::string out;
  Append(&out, pieces...);
  return out;
}

// A token (RFC 9110, section 5.6.2): a method, a field's name, a cookie's name.
inline bool IsToken(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
  });
}

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_TEXT_H_
