// Text from outside, as messages show it.
#ifndef GATEWAY_COMMON_BASE_QUOTE_H_
#define GATEWAY_COMMON_BASE_QUOTE_H_

#include <cstddef>
#include <string>
#include <string_view>

namespace gateway {

// `text` as a message shows it: in single quotes, control characters and broken UTF-8 escaped, a long one cut short.
std::string QuoteForMessage(std::string_view text);

bool IsValidUtf8(std::string_view text);

// The length of the UTF-8 sequence that `text`, which is not empty, starts with; 0 if it does not start with one
// (RFC 3629: no surrogates, no overlong forms).
size_t Utf8SequenceLength(std::string_view text);

// `text`, which is UTF-8, cut to `bytes_max` between two characters.
std::string CutUtf8(std::string text, size_t bytes_max);

// Whether `sequence`, one character beyond ASCII, must be escaped: C1 controls, the two line separators, the byte order
// mark and the two non-characters are not printable YAML.
bool IsUnprintable(std::string_view sequence);

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_QUOTE_H_
