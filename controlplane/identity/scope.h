// What an editor that is bound to labels and kinds may change. Pure.
#ifndef GATEWAY_CONTROLPLANE_IDENTITY_SCOPE_H_
#define GATEWAY_CONTROLPLANE_IDENTITY_SCOPE_H_

#include <functional>
#include <map>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "common/document/resource.h"
#include "gateway/v1/policy.pb.h"

namespace gateway::controlplane {

// A resource that has this label is for everybody to refer to: shared: "true".
inline constexpr char kSharedLabel[] = "shared";
inline constexpr char kSharedValue[] = "true";

struct Scope {
  std::map<std::string, std::string> only;  // labels, every one of them; empty: any resource
  std::set<std::string> kinds;              // empty: any kind

  // Null where there is none of that name.
  struct Known {
    const v1::Resource* resource = nullptr;
    bool built_in = false;
  };
  using Lookup = std::function<Known(const ResourceKey&)>;

  // PermissionDenied unless `key` may change from `before` to `after` (null: there is none): it is of these kinds, has
  // the labels before and after, and refers only to what it may: what has the labels, is built in, is shared, or was
  // referred to by it before. `find` looks into the set as it will be.
  absl::Status CheckEdit(const ResourceKey& key, const Known& before, const v1::Resource* after,
                         const Lookup& find) const;
};

// All references of a resource's body, as its schema tells them.
std::set<ResourceKey> ReferencesOf(const v1::Resource& resource);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_IDENTITY_SCOPE_H_
