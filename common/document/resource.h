// The envelope of a policy resource: kind and name, for every type of message.
#ifndef GATEWAY_COMMON_DOCUMENT_RESOURCE_H_
#define GATEWAY_COMMON_DOCUMENT_RESOURCE_H_

#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "gateway/v1/policy.pb.h"

namespace gateway {

// The version of the policy schema, sent in every hello and update. A data plane never ACKs an update of a higher one.
inline constexpr uint32_t kSchemaVersion = 2;

struct ResourceKey {
  std::string kind;  // "Route"
  std::string name;
  // (clang-tidy mistakes the generated comparison for one with a null pointer.)
  friend auto operator<=>(const ResourceKey&, const ResourceKey&) = default;  // NOLINT(modernize-use-nullptr)
  template <typename H>
  friend H AbslHashValue(H h, const ResourceKey& k) {
    return H::combine(std::move(h), k.kind, k.name);
  }
  std::string ToString() const { return kind + "/" + name; }
};

// All kinds, in the order of lists: "Service", "Route", ...
std::span<const std::string_view> ResourceKinds();

// "route", "Routes", "ratelimits", "rl" -> "Route". NotFound lists the kinds.
absl::StatusOr<std::string> CanonicalKind(std::string_view word);

// Empty strings if `resource` is empty.
ResourceKey KeyOf(const v1::Resource& resource);

const google::protobuf::Map<std::string, std::string>& LabelsOf(const v1::Resource& resource);

// The message inside (Service, Route, ...); null if it is empty.
const google::protobuf::Message* BodyOf(const v1::Resource& resource);
google::protobuf::Message* MutableBodyOf(v1::Resource* resource, std::string_view kind);  // null: no such kind

// [a-z0-9]([a-z0-9._-]{0,126}[a-z0-9])?, and not "none".
absl::Status CheckName(std::string_view name);

// The same bytes for the same resource, on every machine: for storage, comparison and hashes.
std::string CanonicalBytes(const v1::Resource& resource);

}  // namespace gateway

#endif  // GATEWAY_COMMON_DOCUMENT_RESOURCE_H_
