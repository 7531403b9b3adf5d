// Operators by JSON Web Tokens of an OpenID Connect issuer: whose a token is, and what its groups may do.
#ifndef GATEWAY_CONTROLPLANE_IDENTITY_OIDC_H_
#define GATEWAY_CONTROLPLANE_IDENTITY_OIDC_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/auth/jwt.h"
#include "common/auth/key_source.h"
#include "common/base/time.h"
#include "controlplane/identity/caller.h"
#include "controlplane/identity/scope.h"
#include "gateway/v1/bootstrap.pb.h"
#include "nlohmann/json_fwd.hpp"

namespace gateway::controlplane {

struct OidcOptions {
  std::chrono::milliseconds timeout{5000};  // of a fetch: the issuer's configuration and its keys
  // The shortest time between two fetches that tokens with unknown keys cause.
  std::chrono::milliseconds pause{10'000};
  // How long a call waits for such a fetch. gRPC has few threads, and only one call waits at a time.
  std::chrono::milliseconds wait{1000};
  std::function<TimePoint()> clock = std::chrono::steady_clock::now;
};

// Owns the thread that fetches the issuer's keys, and follows the issuer's configuration each time: keys may move.
// Thread-safe.
class Oidc {
 public:
  static constexpr std::chrono::minutes kRefresh{10};
  // How long the last keys verify tokens while the issuer is away; a key that it has withdrawn counts no longer.
  static constexpr std::chrono::hours kKeysKept{24};
  static constexpr std::chrono::seconds kLeeway{30};  // between the issuer's clock and this one
  static constexpr size_t kNameBytesMax = 256;        // of an operator, as of every actor in history

  // `section` has passed the checks of the bootstrap file. InvalidArgument names the key: a kind that does not exist, a
  // CA that cannot be read. Does not wait for the issuer.
  static absl::StatusOr<std::unique_ptr<Oidc>> Open(const v1::OidcSection& section, OidcOptions options = {});
  ~Oidc();  // ends a fetch within about a second

  // Whether `credential` has the form of a JWT: three parts with dots between them.
  static bool LooksLikeToken(std::string_view credential);

  // Fills in the caller's name, role, scope and expiry; the name also if PermissionDenied says that its groups have no
  // role. Unauthenticated: not a valid token of the issuer for this audience. Unavailable: the keys are not known.
  // Blocks for `wait` at most.
  absl::Status Identify(std::string_view token, absl::Time now, Caller* caller);

  // Of the fetches, for metrics.
  KeyFetcher::Row keys() const { return fetcher_.Rows().at(0); }

 private:
  struct Role {
    v1::Token::Role role = v1::Token::ROLE_UNSPECIFIED;
    std::shared_ptr<const Scope> scope;  // null: everything
    int place = 0;                       // in the file
  };

  Oidc(const v1::OidcSection& section, std::map<std::string, Role> roles, OidcOptions options);
  absl::StatusOr<std::string> Fetch(const std::string& url, std::chrono::milliseconds timeout) const;
  // By the keys that there are; waits for newer ones if the token names an unknown key.
  absl::StatusOr<JwtVerdict> Verify(std::string_view token, WallTime now);
  // Unavailable: they are still being fetched. OK also if there is nothing new.
  absl::Status AwaitNewerKeys(uint64_t seen);
  absl::Status CheckKeysAge() const;
  absl::Status SetRole(const nlohmann::json& claims, Caller* caller) const;

  const std::string issuer_, name_claim_, groups_claim_;
  const FetchOptions fetch_options_;
  const std::chrono::milliseconds wait_;
  const std::map<std::string, Role> roles_;  // by group
  JwtRules rules_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> waiting_{false};  // a call, for keys
  KeyFetcher fetcher_;
  const std::shared_ptr<KeySource> source_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_IDENTITY_OIDC_H_
