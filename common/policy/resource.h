// The envelope of a policy resource: its kind and name, whichever message it holds.
#ifndef GATEWAY_COMMON_POLICY_RESOURCE_H_
#define GATEWAY_COMMON_POLICY_RESOURCE_H_

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/v1/admin.pb.h"
#include "gateway/v1/policy.pb.h"

namespace gateway {

// The policy language's version, sent in every hello and update. A data plane never ACKs an update of a higher one. It
// rises with the first release that adds a kind, a field or an enum value (schema_version.h).
inline constexpr uint32_t kSchemaVersion = 3;

// The name of the one Defaults, and of the built-in RateLimit.
inline constexpr std::string_view kDefaultName = "default";

using Labels = google::protobuf::Map<std::string, std::string>;

struct ResourceKey {
  std::string kind;  // "Route"
  std::string name;
  // (clang-tidy mistakes what the compiler generates for a null pointer.)
  friend auto operator<=>(const ResourceKey&, const ResourceKey&) = default;  // NOLINT(modernize-use-nullptr)
  template <typename H>
  friend H AbslHashValue(H h, const ResourceKey& k) {
    return H::combine(std::move(h), k.kind, k.name);
  }
  std::string ToString() const { return kind + "/" + name; }
};

// All kinds, in the order in which they are listed: "Service", "Route", ...
std::span<const std::string_view> ResourceKinds();

// "route", "Routes", "ratelimits", "rl" -> "Route". NotFound lists the kinds.
absl::StatusOr<std::string> CanonicalKind(std::string_view word);

// Empty strings if `resource` holds nothing.
ResourceKey KeyOf(const v1::Resource& resource);

// Empty if `resource` holds nothing. These live as long as it does.
const std::string& NameOf(const v1::Resource& resource);
const std::string& DescriptionOf(const v1::Resource& resource);
const Labels& LabelsOf(const v1::Resource& resource);

// The message inside (Service, Route, ...); null if it holds nothing.
const google::protobuf::Message* BodyOf(const v1::Resource& resource);
google::protobuf::Message* MutableBodyOf(v1::Resource* resource, std::string_view kind);  // null: no such kind

// Replaces redacted secrets in `resource` by those of `current`, its stored version (null: it is not stored). Appends
// an error for each that is not found. See config/redaction.h.
void RestoreSecrets(const v1::Resource* current, v1::Resource* resource, std::vector<v1::PolicyError>* errors);

// [a-z0-9]([a-z0-9._-]{0,126}[a-z0-9])?, and not "none".
absl::Status CheckName(std::string_view name);

// The key of a label: NAME or PREFIX/NAME, as kubectl has it (policy.proto, Resource). InvalidArgument says what was
// expected.
absl::Status CheckLabelKey(std::string_view key);
// Appends an error for each key of `resource`'s labels that is not one. For changes alone: stored policy may have keys
// of before there was a grammar, and stays valid.
void CheckLabelKeys(const v1::Resource& resource, std::vector<v1::PolicyError>* errors);

// The same bytes for the same resource, on every machine: what is stored, compared and hashed.
std::string CanonicalBytes(const v1::Resource& resource);

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_RESOURCE_H_
