// Text: joined from pieces, compared, trimmed. Debian builds Abseil with its own string_view, so absl::StrCat does not
// take a std::string_view; Concat does.
#ifndef GATEWAY_COMMON_BASE_TEXT_H_
#define GATEWAY_COMMON_BASE_TEXT_H_

#include <array>
#include <charconv>
#include <concepts>
#include <cstddef>
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

constexpr char LowerAscii(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

// Whether `c` may be in a token.
inline bool IsTokenCharacter(char c) {
  static constexpr std::array<bool, 256> kTable = [] {
    std::array<bool, 256> table{};
    for (const char each :
         std::string_view("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ!#$%&'*+-.^_`|~")) {
      table[static_cast<unsigned char>(each)] = true;
    }
    return table;
  }();
  return kTable[static_cast<unsigned char>(c)];
}

// A token (RFC 9110, section 5.6.2): a method, a field name, a cookie name.
inline bool IsToken(std::string_view text) {
  for (const char c : text) {
    if (!IsTokenCharacter(c)) return false;
  }
  return !text.empty();
}

// Removes spaces and tabs at both ends (OWS; RFC 9110, section 5.6.3).
inline std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// Of equal size. The two functions below are called for every field of a header, and nearly all names differ in size.
bool BytesEqualIgnoringCase(const char* a, const char* b, size_t size);
bool BytesEqualFolded(const char* name, const char* known, size_t size);

// Compares ASCII letters without regard to case.
inline bool EqualsIgnoreCase(std::string_view a, std::string_view b) {
  return a.size() == b.size() && BytesEqualIgnoringCase(a.data(), b.data(), a.size());
}
// Compares a field name with `known`, which is lower case: without regard to case, and with '_' equal to '-'. Services
// that read fields from variables (CGI, WSGI) cannot tell such names apart.
inline bool EqualsFolded(std::string_view name, std::string_view known) {
  return name.size() == known.size() && BytesEqualFolded(name.data(), known.data(), name.size());
}

// The length of the UTF-8 sequence at the start of `text`, which is not empty; 0 if it is not valid UTF-8 (RFC 3629: no
// surrogates, no overlong forms).
size_t Utf8SequenceLength(std::string_view text);
bool IsValidUtf8(std::string_view text);
// Of a valid sequence beyond ASCII: C1 controls, the two line separators, the byte order mark and the two
// non-characters. YAML escapes them, and so do messages.
bool IsUnprintable(std::string_view sequence);

// `text` for a message: in single quotes, control characters and invalid UTF-8 escaped, truncated after 80 bytes.
std::string QuoteForMessage(std::string_view text);

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_TEXT_H_
