// Base64 as RFC 4648 has it, and strictly so: one text for the same bytes.
#ifndef GATEWAY_COMMON_BASE_BASE64_H_
#define GATEWAY_COMMON_BASE_BASE64_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace gateway {

enum class Base64 : uint8_t {
  kStandard,  // section 4; padding may be left out, as in PHC strings
  kUrl,       // section 5, without padding, as in RFC 7515
};

// Nothing for characters outside the alphabet, a length that no bytes have, misplaced padding, or leftover bits that
// are not zero.
std::optional<std::string> DecodeBase64(Base64 alphabet, std::string_view text);

// Without padding.
std::string EncodeBase64(Base64 alphabet, std::string_view bytes);

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_BASE64_H_
