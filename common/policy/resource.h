// The envelope of a policy resource: its kind and name, whichever message it holds.
#ifndef GATEWAY_COMMON_POLICY_RESOURCE_H_
#define GATEWAY_COMMON_POLICY_RESOURCE_H_

#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "gateway/v1/policy.pb.h"

namespace gateway {

// The policy language's version, sent in every hello and update. A data plane never ACKs an update of a higher one. It
// rises with the first release that adds a kind, a field or an enum value (schema_version.h).
inline constexpr uint32_t kSchemaVersion = 3;

struct ResourceKey {
  std::string kind;  // "Route"
  std::string name;
  // (The check takes what the compiler makes of it for a null pointer.)
  friend auto operator<=>(const ResourceKey&, const ResourceKey&) = default;  // NOLINT(modernize-use-nullptr)
  template <typename H>
  friend H AbslHashValue(H h, const ResourceKey& k) {
    return H::combine(std::move(h), k.kind, k.name);
  }
  std::string ToString() const { return kind + "/" + name; }
};

// All kinds, in the order in which they are listed: "Service", "Route", ...
std::span<const std::string_view> ResourceKinds();

// "route", "Routes", "ratelimits", "rl" -> "Route". NotFound names the kinds there are.
absl::StatusOr<std::string> CanonicalKind(std::string_view word);

// Empty strings where `resource` holds nothing.
ResourceKey KeyOf(const v1::Resource& resource);

const google::protobuf::Map<std::string, std::string>& LabelsOf(const v1::Resource& resource);

// The message inside (Service, Route, ...); null where it holds nothing.
const google::protobuf::Message* BodyOf(const v1::Resource& resource);
google::protobuf::Message* MutableBodyOf(v1::Resource* resource, std::string_view kind);  // null: no such kind

// [a-z0-9]([a-z0-9._-]{0,126}[a-z0-9])?, and not "none".
absl::Status CheckName(std::string_view name);

// The same bytes for the same resource, on every machine: what is stored, compared and hashed.
std::string CanonicalBytes(const v1::Resource& resource);

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_RESOURCE_H_
