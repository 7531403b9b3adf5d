#include "common/base/base64.h"

#include <array>

namespace gateway {
namespace {

constexpr std::string_view kStandardDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr std::string_view kUrlDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

constexpr uint8_t kNoDigit = 0xff;

constexpr std::array<uint8_t, 256> ValuesOf(std::string_view digits) {
  std::array<uint8_t, 256> values{};
  for (uint8_t& value : values) value = kNoDigit;
  for (size_t i = 0; i < digits.size(); ++i) values[static_cast<uint8_t>(digits[i])] = static_cast<uint8_t>(i);
  return values;
}
constexpr std::array<uint8_t, 256> kStandardValues = ValuesOf(kStandardDigits);
constexpr std::array<uint8_t, 256> kUrlValues = ValuesOf(kUrlDigits);

}  // namespace

std::optional<std::string> DecodeBase64(Base64 alphabet, std::string_view text) {
  const std::array<uint8_t, 256>& values = alphabet == Base64::kUrl ? kUrlValues : kStandardValues;
  if (alphabet == Base64::kStandard && text.size() % 4 == 0) {
    for (int padding = 0; padding < 2 && !text.empty() && text.back() == '='; ++padding) text.remove_suffix(1);
  }
  if (text.size() % 4 == 1) return std::nullopt;
  std::string bytes;
  bytes.reserve(text.size() * 3 / 4);
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const uint8_t value = values[static_cast<uint8_t>(c)];
    if (value == kNoDigit) return std::nullopt;
    bits = bits << 6 | value;
    count += 6;
    if (count >= 8) {
      count -= 8;
      bytes.push_back(static_cast<char>(bits >> count & 0xff));
    }
  }
  if ((bits & ((1u << count) - 1)) != 0) return std::nullopt;
  return bytes;
}

std::string EncodeBase64(Base64 alphabet, std::string_view bytes) {
  const std::string_view digits = alphabet == Base64::kUrl ? kUrlDigits : kStandardDigits;
  std::string text;
  text.reserve(bytes.size() * 4 / 3 + 3);
  uint32_t bits = 0;
  int count = 0;
  for (const char c : bytes) {
    bits = bits << 8 | static_cast<uint8_t>(c);
    count += 8;
    while (count >= 6) {
      count -= 6;
      text.push_back(digits[bits >> count & 63]);
    }
  }
  if (count > 0) text.push_back(digits[bits << (6 - count) & 63]);
  return text;
}

}  // namespace gateway
