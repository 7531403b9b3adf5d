// What keeps a request where the last one of its kind was: the bytes that a policy says, hashed, and the sides of a
// split. Pure; the same in every data plane.
#ifndef GATEWAY_DATAPLANE_POLICY_HASH_ON_H_
#define GATEWAY_DATAPLANE_POLICY_HASH_ON_H_

#include <netinet/in.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "common/policy/policy.h"
#include "common/policy/snapshot.h"

namespace gateway::dataplane {

// The first cookie of this name (compared with case) over all Cookie fields, without quotes around it and space behind
// it; a view into `fields`. Empty: it is missing or empty (RFC 6265, sections 4.1.1 and 4.2).
std::string_view FindCookie(std::span<const FieldView> fields, std::string_view name);

// Of what `on` says. Nothing where the request lacks it; an empty field or cookie is as good as none. Of several fields
// of one name the first counts. `client`: all of the address; `path`: normalised, without the query.
std::optional<uint64_t> HashOf(const HashOnPolicy& on, std::span<const FieldView> fields, const in6_addr& client,
                               std::string_view path);

// The index of the target that requests with this hash stay with, each chosen as often as its weight says.
//
// Weighted rendezvous hashing: every target draws by itself (hash and its service's name), and the best of the draws,
// each to the power of one over its weight, wins. So nobody moves but towards a target whose share grew or away from
// one whose share shrank, whatever the order, also when a target comes or goes; and routes that split over the same
// services agree on where a user belongs. A draw over cumulative weights would move bystanders too.
// Requires: `targets` is not empty; none has weight 0.
size_t ChooseTarget(std::span<const SplitTarget> targets, std::span<const ServicePolicy> services, uint64_t hash);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_POLICY_HASH_ON_H_
