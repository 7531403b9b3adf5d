// One compilation of a set of policy: what is given, what is found, and what kinds hand on to one another.
#ifndef GATEWAY_COMMON_POLICY_KINDS_COMPILATION_H_
#define GATEWAY_COMMON_POLICY_KINDS_COMPILATION_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/policy/kinds/checks.h"
#include "common/policy/policy.h"
#include "common/policy/route/route_table.h"
#include "common/policy/snapshot.h"
#include "google/protobuf/message.h"

namespace gateway {

inline constexpr std::string_view kNone = "none";  // as a reference: nothing, not even what Defaults says

// The resources of one kind, in the order of their names; of several with one name the first counts.
struct NamedBodies {
  std::vector<std::pair<std::string_view, const google::protobuf::Message*>> sorted;
  absl::flat_hash_map<std::string_view, uint32_t> index;  // into `sorted`

  // False: there is one of that name already.
  bool Add(std::string_view name, const google::protobuf::Message* body);
  // Once all are added.
  void Sort();
};

// The same with their type. A view.
template <typename Body>
class Documents {
 public:
  explicit Documents(const NamedBodies& bodies) : bodies_(&bodies) {}

  size_t size() const { return bodies_->sorted.size(); }
  std::string_view name(size_t i) const { return bodies_->sorted[i].first; }
  const Body& operator[](size_t i) const { return static_cast<const Body&>(*bodies_->sorted[i].second); }
  bool Contains(std::string_view name) const { return bodies_->index.contains(name); }
  // REQUIRES: Contains(name).
  uint32_t IndexOf(std::string_view name) const { return bodies_->index.at(name); }
  const Body& Named(std::string_view name) const { return (*this)[IndexOf(name)]; }

 private:
  const NamedBodies* bodies_;
};

// Everything stays valid as long as the resources do. Not thread-safe.
struct Compilation {
  // Given.
  std::span<const v1::Resource* const> resources;
  const CompileOptions& options;

  // Of every kind that has resources; filled before anything of a kind is called.
  absl::flat_hash_map<const google::protobuf::Descriptor*, NamedBodies> bodies = {};

  // Found.
  std::vector<v1::PolicyError> errors = {};
  std::vector<std::string> warnings = {};
  int suggestions = 0;

  // What the kinds make, each list in the order of names: for kinds that refer to them, and for the snapshot.
  std::vector<RateLimitPolicy> rate_limits = {};  // without those that are disabled
  int builtin_rate_limit = -1;                    // into rate_limits
  std::vector<std::shared_ptr<const BreakerPolicy>> breakers = {};
  std::vector<std::shared_ptr<const RetryPolicy>> retries = {};
  std::vector<std::shared_ptr<const AuthPolicy>> auths = {};
  std::vector<std::string> identity_fields = {};
  std::vector<std::shared_ptr<const CorsPolicy>> cors = {};
  std::vector<std::shared_ptr<const AccessPolicy>> accesses = {};
  std::shared_ptr<const ConsumerTable> consumers = {};
  std::vector<ServicePolicy> services = {};
  std::vector<std::unique_ptr<const RoutePolicy>> routes = {};
  std::unique_ptr<const RouteTable> table = {};
  std::vector<std::shared_ptr<const Certificate>> certificates = {};  // whose key this data plane has
  size_t keys_lacking = 0;

  template <typename Body>
  Documents<Body> All() const {
    return Documents<Body>(BodiesOf(Body::descriptor()));
  }

  // Defaults/default, or one that says nothing.
  const v1::Defaults& defaults() const;

  // Reports a reference, which may be empty, to a resource of kind Body that is not in the set. `noun` says what it is.
  template <typename Body>
  void CheckReference(const Report& report, const std::string& field, std::string_view noun, const std::string& name) {
    const NamedBodies& all = BodiesOf(Body::descriptor());
    if (!name.empty() && !all.index.contains(name)) ReportUndefined(report, field, noun, name, all);
  }
  // The same of a reference that may be `none`.
  template <typename Body>
  void CheckOptionalReference(const Report& report, const std::string& field, std::string_view noun,
                              const std::string& name) {
    if (name != kNone) CheckReference<Body>(report, field, noun, name);
  }

  // What `name`, or if that is empty `by_default`, refers to among `policies`, which Body's kind has made of all its
  // resources; null if both are empty, and for `none`.
  template <typename Body, typename Policy>
  std::shared_ptr<const Policy> Referred(const std::string& name, const std::string& by_default,
                                         const std::vector<std::shared_ptr<const Policy>>& policies) const {
    const std::string& effective = name.empty() ? by_default : name;
    if (effective.empty() || effective == kNone) return nullptr;
    return policies[All<Body>().IndexOf(effective)];
  }

 private:
  const NamedBodies& BodiesOf(const google::protobuf::Descriptor* kind) const;
  void ReportUndefined(const Report& report, const std::string& field, std::string_view noun, const std::string& name,
                       const NamedBodies& all);
};

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_KINDS_COMPILATION_H_
