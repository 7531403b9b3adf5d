// What a set of policy means, compiled once into what the request path reads.
//
// CompileSnapshot is the only reader of policy's meaning: the control plane runs it before it commits, the data plane
// before it serves, gatewayctl's dry run through either. A Snapshot is immutable and may be shared by all threads.
#ifndef GATEWAY_COMMON_POLICY_SNAPSHOT_H_
#define GATEWAY_COMMON_POLICY_SNAPSHOT_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/policy/policy.h"
#include "gateway/v1/admin.pb.h"
#include "gateway/v1/policy.pb.h"

namespace gateway {

// Of one path template, ** included: what a match holds without allocating.
inline constexpr size_t kTemplateVariablesMax = 16;

// One field of a request's header; views into the read buffer.
struct FieldView {
  std::string_view name;
  std::string_view value;
};

// What routes see of a request. `host` is lower case, without port and trailing dot, an IPv6 address in its brackets;
// `path` is normalised (see path.h), `query` is without its question mark. What conditions mean: see route_table.h.
struct MatchInput {
  std::string_view method;
  std::string_view host;
  std::string_view path;
  std::string_view query;
  std::span<const FieldView> fields;
  bool https = false;  // the client's scheme
};

struct RouteMatch {
  const RoutePolicy* route = nullptr;  // null: none
  // Of the template, in order of appearance, ** last (with its leading slash, or empty); views into MatchInput::path.
  absl::InlinedVector<std::string_view, kTemplateVariablesMax> variables;
  // Of the path's part that the route's prefix, its exact path, or the literal segments in front of its template's
  // first variable matched, without a slash at the end; 0 for a regex and for a route without a path.
  size_t prefix_length = 0;
  // With no route: whether another method would have matched, and those methods (for Allow), sorted.
  bool method_not_allowed = false;
  absl::InlinedVector<std::string_view, 8> allowed_methods;
};

struct Certificate;
class RouteTable;

class Snapshot {
 public:
  ~Snapshot();
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;

  uint64_t revision() const { return revision_; }
  const std::string& epoch() const { return epoch_; }

  // The most specific route that matches (POLICY's order: priority; host; path; method; more conditions; name).
  // Allocates nothing for a table without regexes. Thread-safe.
  void Match(const MatchInput& in, RouteMatch* out) const;

  // The upstream's path for a match of `route`, appended to `out` (without the query). Requires: m.route != nullptr and
  // m.route->rewrites. False if a regex turned it into what is not a path in normal form; an empty one is "/".
  static bool Rewrite(const RouteMatch& m, std::string_view path, std::string* out);
  // The path that `pieces` make of a match (RoutePolicy::rewrite, RedirectPolicy::rewrite), appended to `out`.
  static void AppendPath(const RouteMatch& m, const std::vector<RewritePiece>& pieces, bool is_prefix,
                         std::string_view path, std::string* out);

  std::span<const std::unique_ptr<const RoutePolicy>> routes() const { return routes_; }
  std::span<const ServicePolicy> services() const { return services_; }
  std::span<const RateLimitPolicy> rate_limits() const { return rate_limits_; }
  // Every Auth, also those that no route uses.
  std::span<const std::shared_ptr<const AuthPolicy>> auths() const { return auths_; }
  // Never null.
  const std::shared_ptr<const ConsumerTable>& consumers() const { return consumers_; }
  // The request fields that any Auth forwards, lower case, sorted: a client's own are removed on every route, under
  // look-alike names too.
  std::span<const std::string> identity_fields() const { return identity_fields_; }
  // What listeners with TLS serve beside their own, by name; `source.name` is "Certificate/NAME". Those whose key this
  // data plane did not get are not among them.
  std::span<const std::shared_ptr<const Certificate>> certificates() const { return certificates_; }
  // How many keys were not sent.
  size_t keys_lacking() const { return keys_lacking_; }
  // The limit that /test-rate-limit is under: RateLimit/default; -1 if it is disabled.
  int builtin_rate_limit() const { return builtin_rate_limit_; }

 private:
  friend class SnapshotCompiler;
  Snapshot();
  uint64_t revision_ = 0;
  std::string epoch_;
  std::vector<std::unique_ptr<const RoutePolicy>> routes_;
  std::vector<ServicePolicy> services_;
  std::vector<RateLimitPolicy> rate_limits_;
  std::vector<std::shared_ptr<const AuthPolicy>> auths_;
  std::shared_ptr<const ConsumerTable> consumers_;
  std::vector<std::string> identity_fields_;
  std::vector<std::shared_ptr<const Certificate>> certificates_;
  size_t keys_lacking_ = 0;
  int builtin_rate_limit_ = -1;
  std::unique_ptr<const RouteTable> table_;
};

struct CompileOptions {
  std::string epoch;
  uint64_t revision = 0;
  // Consul's name of the gateway itself, never reachable through a consul_service route.
  std::string own_service = "api-gateway";
  // Of certificates.
  absl::Time now = absl::Now();
};

struct CompileResult {
  std::shared_ptr<const Snapshot> snapshot;  // null if there are errors
  std::vector<v1::PolicyError> errors;       // all of them; sorted by kind, name, field
  std::vector<std::string> warnings;         // e.g. a route that can never match
};

// Compiles a whole set (built-ins included; one of each kind and name). Checks everything that a set can get wrong:
// names, ranges, references, addresses, templates, regexes. Never throws.
CompileResult CompileSnapshot(std::span<const v1::Resource* const> resources, const CompileOptions& options);

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_SNAPSHOT_H_
