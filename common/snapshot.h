// What a set of policy means, compiled once into what the request path reads.
//
// CompileSnapshot is the only reader of policy's meaning: the control plane runs it before it commits, the data plane
// before it serves, gatewayctl's dry run through either. A Snapshot is immutable and may be shared by all threads.
#ifndef GATEWAY_COMMON_SNAPSHOT_H_
#define GATEWAY_COMMON_SNAPSHOT_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "gateway/v1/admin.pb.h"
#include "gateway/v1/policy.pb.h"

namespace gateway {

using Millis = std::chrono::milliseconds;

// Of one path template, ** included: what a match holds without allocating.
inline constexpr size_t kTemplateVariablesMax = 16;

// What a compiled RateLimit counts by.
enum class LimitKey : uint8_t { kClientIp, kPath };

struct RateLimitPolicy {
  std::string name;
  std::vector<LimitKey> keys;
  uint32_t requests = 0;
  Millis window{};
  v1::RateLimit::Mode mode = v1::RateLimit::ENFORCE;  // never DISABLED inside a route's list
  friend bool operator==(const RateLimitPolicy&, const RateLimitPolicy&) = default;
};

struct BreakerPolicy {
  std::string name;
  Millis timeout{1000};
  uint32_t max_concurrent_requests = 100;
  uint32_t request_volume_threshold = 20;
  Millis sleep_window{5000};
  uint32_t error_percent_threshold = 50;
  friend bool operator==(const BreakerPolicy&, const BreakerPolicy&) = default;
};

struct StaticAddress {
  std::string host;  // an IP literal without brackets, or a host name
  uint16_t port = 0;
  uint32_t weight = 1;
  std::string zone;
};

// A Service, or what a consul_service route makes of a service of Consul.
struct ServicePolicy {
  std::string name;  // of the Service; empty in a template
  // Exactly one of the two: `addresses`, or a service of Consul (its name is filled in per request for a template).
  bool from_consul = false;
  std::vector<StaticAddress> addresses;
  std::string consul_service;
  std::string datacenter;
  std::vector<std::string> tags;  // sorted
  v1::ConsulSource::OnSuspect on_suspect = v1::ConsulSource::KEEP;

  v1::LoadBalancer::Policy balance = v1::LoadBalancer::ROUND_ROBIN;
  Millis connect_timeout{2000};
  Millis response_timeout{15000};
  Millis idle_timeout{60000};
  std::shared_ptr<const BreakerPolicy> breaker;  // null: none
};

struct SplitTarget {
  uint32_t service;  // index into Snapshot::services()
  uint32_t upto;     // cumulative weight: chosen where a draw from [0, total) is below it
};

struct ConsulServicePolicy {
  uint32_t variable;  // index into RouteMatch::variables
  // Whether a request may reach this service of Consul: allowed, not denied, neither `consul` nor the gateway's own.
  // Thread-safe.
  bool Allows(std::string_view service) const;
  std::vector<std::string> allow, deny;
  std::string own_service;
  ServicePolicy service;
};

// A piece of a rewritten path: literal text, or a variable of the match.
struct RewritePiece {
  std::string literal;
  int variable = -1;  // index into RouteMatch::variables, or -1: `literal`
};

struct RoutePolicy {
  std::string name;
  uint32_t index = 0;   // in Snapshot::routes()
  std::string pattern;  // of the path as the operator wrote it, for labels: "/users/{id}/**"; "" where any path matches

  std::vector<SplitTarget> split;  // one entry for a plain `service`; empty with consul_service
  uint32_t split_total = 0;
  std::unique_ptr<const ConsulServicePolicy> consul_service;

  bool rewrites = false;              // the path
  std::vector<RewritePiece> rewrite;  // appended one after the other; then, for a prefix, the rest of the path
  // The rest begins at RouteMatch::prefix_length; only for a prefix rewrite (`rewrite` is one literal then, without a
  // slash at its end: `/` is "").
  bool rewrite_is_prefix = false;
  std::string rewrite_host;  // empty: the request's own

  Millis timeout{30000};
  Millis max_duration{0};  // 0: none
  bool websocket = false;  // a client may change to it
  Millis upgrade_idle_timeout{300000};
  std::vector<uint32_t> rate_limits;  // indices into Snapshot::rate_limits(), in the order given
};

// One field of a request's head; views into the read buffer.
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
};

struct RouteMatch {
  const RoutePolicy* route = nullptr;  // null: none
  // Of the template, in order of appearance, ** last (with its leading slash, or empty); views into MatchInput::path.
  absl::InlinedVector<std::string_view, kTemplateVariablesMax> variables;
  // Of the path's part that the route's prefix, its exact path, or the literal segments in front of its template's
  // first variable matched, without a slash at the end; 0 for a regex and where the route has no path.
  size_t prefix_length = 0;
  // With no route: whether another method would have matched, and those methods (for Allow), sorted.
  bool method_not_allowed = false;
  absl::InlinedVector<std::string_view, 8> allowed_methods;
};

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
  // m.route->rewrites.
  static void Rewrite(const RouteMatch& m, std::string_view path, std::string* out);

  std::span<const std::unique_ptr<const RoutePolicy>> routes() const { return routes_; }
  std::span<const ServicePolicy> services() const { return services_; }
  std::span<const RateLimitPolicy> rate_limits() const { return rate_limits_; }
  // The limit that /test-rate-limit is under: RateLimit/default; -1 where it is disabled.
  int builtin_rate_limit() const { return builtin_rate_limit_; }

 private:
  friend class SnapshotCompiler;
  Snapshot();
  uint64_t revision_ = 0;
  std::string epoch_;
  std::vector<std::unique_ptr<const RoutePolicy>> routes_;
  std::vector<ServicePolicy> services_;
  std::vector<RateLimitPolicy> rate_limits_;
  int builtin_rate_limit_ = -1;
  std::unique_ptr<const RouteTable> table_;
};

struct CompileOptions {
  std::string epoch;
  uint64_t revision = 0;
  // Consul's name of the gateway itself, never reachable through a consul_service route.
  std::string own_service = "api-gateway";
};

struct CompileResult {
  std::shared_ptr<const Snapshot> snapshot;  // null if there are errors
  std::vector<v1::PolicyError> errors;       // all of them; sorted by kind, name, field
  std::vector<std::string> warnings;         // e.g. a route that can never match
};

// Compiles a whole set (built-ins included; one of each kind and name). Checks everything that a set can get wrong:
// names, ranges, references, addresses, templates, regexes. Never throws.
CompileResult CompileSnapshot(std::span<const v1::Resource* const> resources, const CompileOptions& options);

// Checks one resource by itself: names, ranges and forms, no references. Appends to `errors`.
void CheckResource(const v1::Resource& resource, std::vector<v1::PolicyError>* errors);

// The built-in resources: RateLimit/default (of the bootstrap's rate_limit, null: mode disabled),
// CircuitBreaker/hystrix, Defaults/default.
struct BuiltinRateLimit {
  uint32_t max_requests = 1000;
  Millis window{60000};
};
std::vector<v1::Resource> BuiltinResources(const std::optional<BuiltinRateLimit>& rate_limit);

}  // namespace gateway

#endif  // GATEWAY_COMMON_SNAPSHOT_H_
