// What is kept from one bind to the next, under stable names.
#ifndef GATEWAY_DATAPLANE_STATE_KEPT_H_
#define GATEWAY_DATAPLANE_STATE_KEPT_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "dataplane/state/serving_state.h"

namespace gateway::dataplane {

// A value, and the last bind that named it.
template <typename T>
struct Kept {
  T value;
  uint64_t generation = 0;
};
template <typename T>
using KeptMap = absl::flat_hash_map<std::string, Kept<T>, StringHash, std::equal_to<>>;

// Those that bind `generation` did not name.
template <typename T>
void DropOlder(KeptMap<T>& map, uint64_t generation) {
  absl::erase_if(map, [generation](const auto& entry) { return entry.second.generation != generation; });
}

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_STATE_KEPT_H_
