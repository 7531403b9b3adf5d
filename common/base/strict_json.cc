#include "common/base/strict_json.h"

#include <set>
#include <string>
#include <vector>

namespace gateway {

absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text) {
  using Event = nlohmann::json::parse_event_t;
  std::vector<std::set<std::string>> names;  // of the objects that are open
  size_t depth = 0;
  bool too_deep = false;
  bool repeated = false;
  const auto look = [&](int, Event event, nlohmann::json& parsed) {
    switch (event) {
      case Event::object_start:
        names.emplace_back();
        [[fallthrough]];
      case Event::array_start:
        if (++depth > kJsonDepthMax) too_deep = true;
        break;
      case Event::object_end:
        names.pop_back();
        [[fallthrough]];
      case Event::array_end:
        --depth;
        break;
      case Event::key:
        if (!names.back().insert(parsed.get_ref<const std::string&>()).second) repeated = true;
        break;
      case Event::value:
        break;
    }
    return true;
  };
  nlohmann::json value = nlohmann::json::parse(text.begin(), text.end(), look, /*allow_exceptions=*/false);
  if (value.is_discarded()) return absl::InvalidArgumentError("it is not JSON");
  if (too_deep) return absl::InvalidArgumentError("it nests too deep");
  if (repeated) return absl::InvalidArgumentError("it gives a name twice");
  if (!value.is_object()) return absl::InvalidArgumentError("it is not a JSON object");
  return value;
}

const std::string* FindString(const nlohmann::json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get_ptr<const std::string*>() : nullptr;
}

}  // namespace gateway
