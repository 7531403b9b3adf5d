// JSON from outside, read strictly: what two readers could read differently is rejected.
#ifndef GATEWAY_COMMON_BASE_STRICT_JSON_H_
#define GATEWAY_COMMON_BASE_STRICT_JSON_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace gateway {

inline constexpr size_t kJsonDepthMax = 32;

// An object. InvalidArgument, which repeats nothing of the text, if it is something else, not JSON (RFC 8259), nests
// deeper than kJsonDepthMax, or gives a name twice in one object. The caller bounds its size. Does not throw.
absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text);

// The member if it exists and is a string; else null.
const std::string* FindString(const nlohmann::json& object, const char* name);

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_STRICT_JSON_H_
