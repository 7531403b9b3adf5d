// Authentication as exchanges use it: an Auth bound to its keys and counters, what a verified token says, and what all
// workers share for it. The stage itself is in proxy/stages/authenticate.
#ifndef GATEWAY_DATAPLANE_AUTH_AUTH_H_
#define GATEWAY_DATAPLANE_AUTH_AUTH_H_

#include <array>
#include <atomic>
#include <bitset>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/auth/jwt.h"
#include "common/auth/key_source.h"
#include "common/base/digest.h"
#include "common/policy/policy.h"
#include "dataplane/auth/credential_cache.h"
#include "dataplane/auth/password_pool.h"

namespace gateway::dataplane {

// A token that was found good by one method of an Auth.
struct VerifiedToken {
  JwtClaims claims;
  std::string subject;  // the value of the method's consumer_claim; may be empty
};
// One worker's. By the token and by what its method asks of it; the generation is the key set's.
using TokenCache = CredentialCache<VerifiedToken, WallTime>;

enum class AuthResult : uint8_t { kAllowed, kUnauthenticated, kForbidden, kOverloaded, kThrottled };
inline constexpr size_t kAuthResultCount = 5;

// Survives a change of the Auth. Counted by the workers without sharing cache lines.
class AuthRuntime {
 public:
  explicit AuthRuntime(std::string name) : name_(std::move(name)) {}
  const std::string& name() const { return name_; }
  void Count(int worker, AuthResult result) {
    shards_[static_cast<size_t>(worker) % kShards].counts[static_cast<size_t>(result)].fetch_add(
        1, std::memory_order_relaxed);
  }
  uint64_t Sum(AuthResult result) const {
    uint64_t sum = 0;
    for (const Shard& shard : shards_) {
      sum += shard.counts[static_cast<size_t>(result)].load(std::memory_order_relaxed);
    }
    return sum;
  }

 private:
  static constexpr size_t kShards = 16;
  struct alignas(64) Shard {
    std::array<std::atomic<uint64_t>, kAuthResultCount> counts{};
  };
  const std::string name_;
  std::array<Shard, kShards> shards_;
};

struct BoundAuthMethod {
  const AuthMethodPolicy* policy = nullptr;  // in BoundAuth::policy
  std::string folded_header;                 // of an API key: as http1::EqualsFolded has it
  // Of a JWT.
  JwtRules rules;
  std::shared_ptr<KeySource> keys;
  Digest meaning{};  // of the rules and of where the keys are from: what was verified under others counts no more
};

struct BoundAuth {
  std::shared_ptr<const AuthPolicy> policy;
  std::vector<BoundAuthMethod> methods;  // certificates, API keys, tokens, passwords: the cheap ones first
  std::shared_ptr<AuthRuntime> runtime;
  bool takes_basic = false;
  bool takes_certificate = false;
  // Where keys that a set lacks are asked for; outlives the workers.
  KeyFetcher* fetcher = nullptr;
};

// What all workers share.
struct Authentication {
  explicit Authentication(PasswordPool::Options options) : passwords(options) {}
  const KeyedDigest digest = KeyedDigest::Random();
  PasswordPool passwords;
};

// The request fields in which services are told who calls. X-Consumer and X-Consumer-* are always among them, and known
// by their FieldKind; so are those of client certificates.
class IdentityFields {
 public:
  IdentityFields() = default;
  // Lower case.
  explicit IdentityFields(std::span<const std::string> names);
  // Whether `name`, in any case and with underscores for dashes, is one of those given.
  bool Has(std::string_view name) const;
  bool empty() const { return names_.empty(); }

 private:
  std::vector<std::string> names_;  // with dashes for underscores
  std::bitset<64> sizes_;           // of names; the last bit: as long or longer
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_AUTH_AUTH_H_
