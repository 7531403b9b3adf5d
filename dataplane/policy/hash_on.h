// Keeps related requests on one endpoint: hashes the configured part of a request, and picks the side of a split. Pure;
// the same in every data plane.
#ifndef GATEWAY_DATAPLANE_POLICY_HASH_ON_H_
#define GATEWAY_DATAPLANE_POLICY_HASH_ON_H_

#include <netinet/in.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "common/base/field_view.h"
#include "common/policy/policy.h"

namespace gateway::dataplane {

// The first cookie with this name (compared with case) over all Cookie headers, without quotes around it and spaces
// after it; a view into `fields`. Empty: absent or empty (RFC 6265, sections 4.1.1 and 4.2).
std::string_view FindCookie(std::span<const FieldView> fields, std::string_view name);

// The hash of the part that `on` selects. Empty if the request lacks it or its value is empty. The first of several
// headers with one name counts. `client`: the full address; `path`: normalized, without the query.
std::optional<uint64_t> HashOf(const HashOnPolicy& on, std::span<const FieldView> fields, const in6_addr& client,
                               std::string_view path);

// The index of the target for this hash; each target is picked in proportion to its weight.
//
// Weighted rendezvous hashing: every target draws by itself (from the hash and the name of its service), and the best
// draw, raised to one over its weight, wins. So users move only to a target whose share grew or from one whose share
// shrank, in any order of targets, also when a target comes or goes; and routes that split over the same services agree
// on each user's side. A draw over cumulative weights would move other users too. Requires: `targets` is not empty;
// none has weight 0.
size_t ChooseTarget(std::span<const SplitTarget> targets, std::span<const ServicePolicy> services, uint64_t hash);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_POLICY_HASH_ON_H_
