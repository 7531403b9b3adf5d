// Strict JSON for untrusted input: rejects what two readers could understand differently.
#ifndef GATEWAY_COMMON_BASE_STRICT_JSON_H_
#define GATEWAY_COMMON_BASE_STRICT_JSON_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace gateway {

inline constexpr size_t kJsonDepthMax = 32;

// An object. InvalidArgument, which repeats nothing of the text, if it is not JSON (RFC 8259) or not an object, nests
// deeper than kJsonDepthMax, or has a duplicate name in one object. The caller limits its size. Does not throw.
absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text);

// The member if it is a string; otherwise null.
const std::string* FindString(const nlohmann::json& object, const char* name);

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_STRICT_JSON_H_
