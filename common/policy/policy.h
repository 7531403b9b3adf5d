// Policy as the request path reads it: what CompileSnapshot makes of the documents. All of it is immutable and may be
// shared by all threads. Names are the documents' own; what an absent field means is already filled in.
#ifndef GATEWAY_COMMON_POLICY_POLICY_H_
#define GATEWAY_COMMON_POLICY_POLICY_H_

#include <algorithm>
#include <bitset>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/base/address_set.h"
#include "common/base/digest.h"
#include "gateway/v1/policy.pb.h"

namespace re2 {
class RE2;
}

namespace gateway {

using Millis = std::chrono::milliseconds;

// A part of what a RateLimit counts by.
struct LimitKey {
  enum class Kind : uint8_t { kClientIp, kPath, kHeader, kHost, kRoute, kService, kConsumer, kClaim };
  Kind kind = Kind::kClientIp;
  std::string name;  // of a header (lower case) or a claim
  bool NeedsIdentity() const { return kind == Kind::kConsumer || kind == Kind::kClaim; }
  friend bool operator==(const LimitKey&, const LimitKey&) = default;
};

struct RateLimitPolicy {
  std::string name;
  std::vector<LimitKey> keys;
  bool needs_identity = false;  // one of `keys` does: checked after authentication, else before
  uint32_t requests = 0;
  Millis window{};
  uint32_t burst = 0;  // of a token bucket
  v1::RateLimit::Algorithm algorithm = v1::RateLimit::SLIDING_WINDOW;
  v1::RateLimit::Scope scope = v1::RateLimit::DATA_PLANE;
  v1::RateLimit::OnUnavailable on_unavailable = v1::RateLimit::LAST_SHARE;
  v1::RateLimit::Mode mode = v1::RateLimit::ENFORCE;  // never DISABLED inside a route's list
  friend bool operator==(const RateLimitPolicy&, const RateLimitPolicy&) = default;
};

struct BreakerPolicy {
  std::string name;
  Millis timeout{1000};
  uint32_t max_concurrent_requests = 100;
  uint32_t request_volume_threshold = 20;
  Millis sleep_window{5000};
  Millis max_sleep_window{0};  // not above sleep_window: it does not grow
  uint32_t error_percent_threshold = 50;
  Millis slow_call_duration{0};  // 0: no call is slow
  uint32_t slow_call_percent_threshold = 100;
  uint32_t probes = 1;
  v1::CircuitBreaker::Force force = v1::CircuitBreaker::FORCE_UNSPECIFIED;
  friend bool operator==(const BreakerPolicy&, const BreakerPolicy&) = default;
};

struct RetryPolicy {
  std::string name;
  uint32_t attempts = 1;  // after the first try
  bool on_connect_failure = false;
  bool on_reset = false;
  bool on_timeout = false;
  std::bitset<600> statuses;         // of a response
  std::bitset<32> grpc_codes;        // the same for gRPC; if any is set, calls are retried whatever `methods` says
  std::vector<std::string> methods;  // sorted
  Millis per_try_timeout{0};         // 0: none
  Millis backoff_base{25};
  Millis backoff_max{250};
  uint32_t budget_percent = 20;
  uint32_t budget_min_per_second = 3;
  uint64_t max_body_bytes = uint64_t{64} << 10;
  friend bool operator==(const RetryPolicy&, const RetryPolicy&) = default;
};

// Of a request, what is hashed (RoutePolicy::split_on, BalancePolicy::hash_on).
struct HashOnPolicy {
  enum class Kind : uint8_t { kNothing, kHeader, kCookie, kClientIp, kPath };
  Kind kind = Kind::kNothing;
  std::string name;  // of a header (lower case) or a cookie
  friend bool operator==(const HashOnPolicy&, const HashOnPolicy&) = default;
};

struct BalancePolicy {
  v1::LoadBalancer::Policy policy = v1::LoadBalancer::ROUND_ROBIN;
  HashOnPolicy hash_on;        // of ring_hash and maglev; else kNothing
  std::string session_cookie;  // empty: none
  std::string session_path = "/";
  std::chrono::seconds session_ttl{0};  // 0: until the browser ends
  Millis slow_start{0};
  uint32_t panic_percent = 50;
  bool prefer_zone = false;
  uint32_t zone_min_percent = 70;
  uint32_t hash_balance_percent = 125;
  friend bool operator==(const BalancePolicy&, const BalancePolicy&) = default;
};

struct HealthCheckPolicy {
  bool tcp = false;
  bool grpc = false;
  std::string grpc_service;  // empty: the endpoint as a whole
  std::string path = "/";
  Millis interval{5000};
  Millis timeout{1000};
  uint32_t healthy = 2;
  uint32_t unhealthy = 3;
  std::vector<uint32_t> statuses;  // empty: 200 to 299
  std::string host;                // empty: the endpoint's address
  uint16_t port = 0;               // 0: the endpoint's own
  friend bool operator==(const HealthCheckPolicy&, const HealthCheckPolicy&) = default;
};

struct OutlierPolicy {
  uint32_t consecutive_failures = 5;          // 0: not a condition
  uint32_t consecutive_gateway_failures = 0;  // 0: not a condition
  Millis base_time{30'000};
  Millis max_time{300'000};
  uint32_t max_percent = 50;
  bool by_success_rate = false;
  Millis interval{10'000};
  uint32_t min_endpoints = 5;
  uint32_t min_requests = 100;
  double deviations = 1.9;
  friend bool operator==(const OutlierPolicy&, const OutlierPolicy&) = default;
};

// 0: no bound (except `pending`).
struct ServiceLimitsPolicy {
  uint32_t connections = 0;
  uint32_t pending = 1024;
  Millis pending_timeout{1000};
  uint32_t requests = 0;
  friend bool operator==(const ServiceLimitsPolicy&, const ServiceLimitsPolicy&) = default;
};

struct StaticAddress {
  std::string host;  // an IP literal without brackets, or a host name
  uint16_t port = 0;
  uint32_t weight = 1;
  std::string zone;
};

// A Service, or what a consul_service route makes of a service of Consul.
struct UpstreamTlsPolicy {
  enum class Verify : uint8_t { kFull, kChain, kNone };
  std::string server_name;  // empty: the host of the endpoint's address
  Verify verify = Verify::kFull;
  std::string ca_pem;  // empty: the system's
  bool tls13_only = false;
  std::string certificate;               // of a Certificate: its name; empty: no certificate is sent
  std::string certificate_pem, key_pem;  // the key is empty if this data plane did not get it
  friend bool operator==(const UpstreamTlsPolicy&, const UpstreamTlsPolicy&) = default;
};

// What endpoints speak.
enum class UpstreamProtocol : uint8_t {
  kHttp1,
  kHttp2,
  kAuto,  // with TLS, what ALPN selects; without it HTTP/1.1
};

struct ServicePolicy {
  std::string name;  // of the Service; empty in a template
  // Exactly one of the two: `addresses`, or a service of Consul (its name is filled in per request for a template).
  bool from_consul = false;
  std::vector<StaticAddress> addresses;
  std::string consul_service;
  std::string datacenter;
  std::vector<std::string> tags;  // sorted
  v1::ConsulSource::OnSuspect on_suspect = v1::ConsulSource::KEEP;

  BalancePolicy balance;
  Millis connect_timeout{2000};
  Millis response_timeout{15000};
  Millis idle_timeout{60000};
  std::shared_ptr<const BreakerPolicy> breaker;           // null: none
  std::shared_ptr<const RetryPolicy> retry;               // null: none
  std::shared_ptr<const HealthCheckPolicy> health_check;  // null: none
  std::shared_ptr<const OutlierPolicy> outlier;           // null: none
  std::shared_ptr<const ServiceLimitsPolicy> limits;      // null: none
  std::shared_ptr<const UpstreamTlsPolicy> tls;           // null: cleartext
  UpstreamProtocol protocol = UpstreamProtocol::kHttp1;   // kAuto only with TLS
};

struct SplitTarget {
  uint32_t service;  // index into Snapshot::services()
  uint32_t upto;     // cumulative weight: chosen if a draw from [0, total) is below it
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

// Text with ${...} in it (FieldEdits, Respond), taken apart.
struct TextPiece {
  enum class Kind : uint8_t {
    kLiteral,
    kClientIp,
    kRequestId,
    kConsumer,
    kHost,
    kPath,
    kMethod,
    kRoute,
    kPathVariable,  // `variable`
  };
  Kind kind = Kind::kLiteral;
  std::string literal;
  int variable = -1;  // index into RouteMatch::variables
};
using TextTemplate = std::vector<TextPiece>;

struct FieldEdit {
  std::string name;  // as written; of a header compared without case
  TextTemplate value;
};

// In this order: remove, set, add. Of headers and of the query.
struct FieldEditsPolicy {
  std::vector<std::string> remove;
  std::vector<FieldEdit> set;
  std::vector<FieldEdit> add;
  // By the length of a header's name (the last bit: as long or longer): whether a name of `remove` or `set` has it.
  // That alone is enough for nearly every header that passes.
  std::bitset<64> replaced_sizes;
  bool empty() const { return remove.empty() && set.empty() && add.empty(); }
  bool MayReplace(std::string_view name) const {
    return replaced_sizes.test(std::min(name.size(), replaced_sizes.size() - 1));
  }
  void IndexNames() {  // once remove and set are there
    const auto note = [this](const std::string& name) {
      replaced_sizes.set(std::min(name.size(), replaced_sizes.size() - 1));
    };
    for (const std::string& name : remove) note(name);
    for (const FieldEdit& edit : set) note(edit.name);
  }
};

struct RedirectPolicy {
  int status = 308;
  std::string scheme;  // empty: the request's
  std::string host;    // empty: the request's
  // The path: `path`, or the pieces as RoutePolicy::rewrite has them, or (all empty) the request's.
  std::string path;
  std::vector<RewritePiece> rewrite;
  bool rewrite_is_prefix = false;
  bool strip_query = false;
};

struct RespondPolicy {
  int status = 200;
  TextTemplate body;
  std::string content_type;
  std::vector<FieldEdit> headers;
};

struct MirrorTarget {
  uint32_t service = 0;              // index into Snapshot::services()
  uint32_t per_million = 1'000'000;  // of the requests
};

struct AuthMethodPolicy {
  enum class Kind : uint8_t { kApiKey, kJwt, kBasic, kClientCertificate };
  Kind kind = Kind::kApiKey;
  v1::ClientCertificateAuth::Identity identity = v1::ClientCertificateAuth::SAN_URI;  // of a client certificate
  std::string header;                                                                 // of an API key, as written
  std::string realm;                                                                  // of basic
  // Of a JWT.
  std::string issuer;                  // empty: any
  std::vector<std::string> audiences;  // empty: any
  std::string jwks_inline;             // exactly one of these two
  std::string jwks_url;
  Millis jwks_refresh{300'000};
  std::vector<std::pair<std::string, std::string>> require;  // claim, value; sorted
  Millis leeway{60'000};
  std::string groups_claim;
  std::string consumer_claim;
  friend bool operator==(const AuthMethodPolicy&, const AuthMethodPolicy&) = default;
};

struct AuthPolicy {
  std::string name;
  std::vector<AuthMethodPolicy> methods;
  std::vector<std::string> allow_groups, allow_consumers;           // sorted; both empty: every known caller
  std::string forward_consumer, forward_groups;                     // request headers, as written; empty: not sent
  std::string forward_client_certificate;                           // likewise
  std::vector<std::pair<std::string, std::string>> forward_claims;  // field, claim
  bool keep_credentials = false;
  friend bool operator==(const AuthPolicy&, const AuthPolicy&) = default;
};

struct ConsumerPolicy {
  std::string name;
  std::vector<std::string> groups;  // sorted
};

// Every Consumer, by what it shows.
struct ConsumerTable {
  struct Password {
    uint32_t consumer;
    std::string hash;  // PHC string
  };
  std::vector<ConsumerPolicy> consumers;                     // by name
  absl::flat_hash_map<std::string, uint32_t> by_name;        // -> index
  absl::flat_hash_map<std::string, uint32_t> by_key_digest;  // 32 bytes, SHA-256 of the key
  std::vector<Password> passwords;
  absl::flat_hash_map<std::string, uint32_t> by_username;  // -> index of `passwords`
  absl::flat_hash_map<std::string, uint32_t> by_subject;   // "issuer\nsubject"
  // By what is in a client's certificate: as written, and as FoldCertificateIdentity has it.
  absl::flat_hash_map<std::string, uint32_t> by_certificate, by_folded_certificate;
  KeyedDigest decoys{std::string_view()};  // its key is made of all hashes

  // The password that an unknown user name is checked against. REQUIRES: there is a password. The choice is the same
  // for a name on every data plane and after each restart, so the cost of a check does not reveal whether a name
  // exists.
  const Password& DecoyOf(std::string_view username) const;
};

// How CORS headers are made: see dataplane/policy/cors.h.
struct CorsPolicy {
  std::string name;
  bool any_origin = false;
  std::vector<std::string> origins;  // exact, sorted, as a browser sends them
  std::vector<std::pair<std::string, std::string>>
      wildcards;  // "https://", ".example.com" (with a port's ":8443" behind)
  bool any_method = false;
  std::vector<std::string> methods;
  bool any_header = false;
  std::vector<std::string> headers;  // lower case
  std::string expose_headers;        // joined, "" for none
  bool credentials = false;
  std::chrono::seconds max_age{5};
};

struct AccessPolicy {
  std::string name;
  AddressSet allow;  // empty: all
  AddressSet deny;   // takes precedence over `allow`
};

struct RoutePolicy {
  std::string name;
  std::string pattern;  // of the path as the operator wrote it, for labels: "/users/{id}/**"; "" if any path matches
  uint32_t index = 0;   // in Snapshot::routes()

  // Where to: a split (one entry for a plain `service`), a service of Consul, or a response of the gateway.
  uint32_t split_total = 0;
  std::vector<SplitTarget> split;
  HashOnPolicy split_on;
  std::unique_ptr<const ConsulServicePolicy> consul_service;
  std::unique_ptr<const RedirectPolicy> redirect;
  std::unique_ptr<const RespondPolicy> respond;

  bool rewrites = false;  // the path
  // The rest begins at RouteMatch::prefix_length; only for a prefix rewrite (`rewrite` is one literal then, without a
  // slash at its end: `/` is "").
  bool rewrite_is_prefix = false;
  std::vector<RewritePiece> rewrite;  // appended one after the other; then, for a prefix, the rest of the path
  std::shared_ptr<const re2::RE2> rewrite_regex;  // null: none; every match in the path becomes rewrite_substitution
  std::string rewrite_substitution;
  std::string rewrite_host;  // empty: the request's own

  Millis timeout{30000};
  Millis max_duration{0};  // 0: none
  bool websocket = false;  // a client may upgrade to it
  bool grpc_web = false;   // calls of gRPC-Web become gRPC
  Millis upgrade_idle_timeout{300000};

  // Null or empty: the route does not use it.
  std::shared_ptr<const AccessPolicy> access;
  std::shared_ptr<const CorsPolicy> cors;
  std::shared_ptr<const AuthPolicy> auth;
  // Indices into Snapshot::rate_limits(), in the order given: limits that are checked before authentication, and limits
  // whose keys need it.
  std::vector<uint32_t> rate_limits;
  std::vector<uint32_t> identity_limits;
  bool bounds_body = false;
  uint64_t max_body_bytes = 0;
  std::unique_ptr<const FieldEditsPolicy> request_headers, response_headers, request_query;
  std::vector<MirrorTarget> mirrors;
};

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_POLICY_H_
