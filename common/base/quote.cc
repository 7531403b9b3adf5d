#include "common/base/quote.h"

#include <algorithm>

#include "spdlog/fmt/fmt.h"

namespace gateway {
namespace {

constexpr size_t kQuotedMax = 80;  // bytes of a value that a message repeats

}  // namespace

size_t Utf8SequenceLength(std::string_view text) {
  auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  auto in = [](unsigned char b, unsigned char low, unsigned char high) { return b >= low && b <= high; };
  unsigned char first = byte(0);
  if (first < 0x80) return 1;
  size_t length = in(first, 0xc2, 0xdf) ? 2 : in(first, 0xe0, 0xef) ? 3 : in(first, 0xf0, 0xf4) ? 4 : 0;
  if (length == 0 || text.size() < length) return 0;
  unsigned char low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  unsigned char high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  if (!in(byte(1), low, high)) return 0;
  for (size_t i = 2; i < length; ++i) {
    if (!in(byte(i), 0x80, 0xbf)) return 0;
  }
  return length;
}

std::string CutUtf8(std::string text, size_t bytes_max) {
  if (text.size() <= bytes_max) return text;
  // A byte of the form 10xxxxxx is within a character.
  while (bytes_max > 0 && (static_cast<unsigned char>(text[bytes_max]) & 0xC0) == 0x80) --bytes_max;
  text.resize(bytes_max);
  return text;
}

bool IsUnprintable(std::string_view sequence) {
  return (sequence.size() == 2 && sequence[0] == '\xc2' && static_cast<unsigned char>(sequence[1]) < 0xa0) ||
         sequence == "\u2028" || sequence == "\u2029" || sequence == "\ufeff" || sequence == "\xef\xbf\xbe" ||
         sequence == "\xef\xbf\xbf";
}

std::string QuoteForMessage(std::string_view text) {
  std::string quoted = "'";
  for (size_t i = 0; i < text.size();) {
    if (i >= kQuotedMax) {
      quoted += "...";
      break;
    }
    size_t length = Utf8SequenceLength(text.substr(i));
    std::string_view sequence = text.substr(i, std::max<size_t>(length, 1));
    auto byte = static_cast<unsigned char>(text[i]);
    if (length == 0 || byte < 0x20 || byte == 0x7f || IsUnprintable(sequence)) {
      for (unsigned char b : sequence) quoted += fmt::format("\\x{:02x}", b);
    } else {
      quoted += sequence;
    }
    i += sequence.size();
  }
  return quoted + "'";
}

bool IsValidUtf8(std::string_view text) {
  while (!text.empty()) {
    size_t length = Utf8SequenceLength(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

}  // namespace gateway
