// ACME challenges that a CA may ask this data plane about: its own certificates are ordered by the control plane.
#ifndef GATEWAY_DATAPLANE_NET_TLS_ACME_CHALLENGES_H_
#define GATEWAY_DATAPLANE_NET_TLS_ACME_CHALLENGES_H_

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

namespace gateway::dataplane::tls {

// The ALPN protocol of tls-alpn-01 (RFC 8737, section 6.2).
inline constexpr std::string_view kAcmeProtocol = "acme-tls/1";
// Where http-01 asks (RFC 8555, section 8.3).
inline constexpr std::string_view kAcmePath = "/.well-known/acme-challenge/";

// Challenges by host, shared by the workers. Thread-safe; while nothing is pending a lookup costs one load.
class AcmeChallenges {
 public:
  static constexpr size_t kMax = 1000;

  struct Challenge {
    std::string host;  // lower case
    std::string token;
    std::string key_authorization;
    bool tls = false;  // tls-alpn-01, else http-01
  };
  // Takes the place of the previous ones. Those past kMax are dropped.
  void Set(std::vector<Challenge> challenges);

  // The body of the response for `path` (normalised) of `host` (lower case, no port); nothing: no such token is
  // pending.
  std::optional<std::string> FindHttp(std::string_view host, std::string_view path) const;
  // The key authorization of a pending tls-alpn-01 challenge for `host`; nothing: not pending.
  std::optional<std::string> FindTls(std::string_view host) const;

 private:
  std::atomic<bool> any_{false};
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::pair<std::string, std::string>, std::string> http_ ABSL_GUARDED_BY(mutex_);  // host, token
  absl::flat_hash_map<std::string, std::string> tls_ ABSL_GUARDED_BY(mutex_);                           // host
};

// What tls-alpn-01 is responded to with: a certificate for `host`, signed by its own new key, with the digest of
// `key_authorization` in a critical acmeIdentifier (RFC 8737, section 3). PEM.
struct ChallengeCertificate {
  std::string certificate_pem, key_pem;
};
absl::StatusOr<ChallengeCertificate> MakeChallengeCertificate(const std::string& host,
                                                              std::string_view key_authorization);

}  // namespace gateway::dataplane::tls

#endif  // GATEWAY_DATAPLANE_NET_TLS_ACME_CHALLENGES_H_
