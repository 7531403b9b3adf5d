// Authentication on the request path: an Auth bound to its keys and counters, the claims of a verified token, and what
// all workers share. The stage itself is in authenticate.cc.
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

#include "common/base/digest.h"
#include "common/base/time.h"
#include "common/policy/policy.h"
#include "dataplane/auth/credential_cache.h"
#include "dataplane/auth/jwt.h"
#include "dataplane/auth/key_source.h"
#include "dataplane/auth/password_pool.h"

namespace gateway::dataplane {

// A token that one method of an Auth has verified.
struct VerifiedToken {
  JwtClaims claims;
  std::string subject;  // the value of the method's consumer_claim; may be empty
};
// One worker's cache. Keyed by the token and the requirements of its method; the generation is that of the key set.
using TokenCache = CredentialCache<VerifiedToken, WallTime>;

enum class AuthResult : uint8_t { kAllowed, kUnauthenticated, kForbidden, kOverloaded, kThrottled };
inline constexpr size_t kAuthResultCount = 5;

// Survives a change of the Auth. Workers count without sharing cache lines.
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
  std::string folded_header;                 // for an API key; see EqualsFolded
  // For a JWT.
  JwtRules rules;
  std::shared_ptr<KeySource> keys;
  Digest meaning{};  // of the rules and of the source of the keys: invalidates results under others
};

struct BoundAuth {
  std::shared_ptr<const AuthPolicy> policy;
  std::vector<BoundAuthMethod> methods;  // API keys, then tokens, then passwords: cheap ones first
  std::shared_ptr<AuthRuntime> runtime;
  bool takes_basic = false;
  // Fetches keys that a set lacks; outlives the workers.
  KeyFetcher* fetcher = nullptr;
};

// Shared by all workers.
struct Authentication {
  explicit Authentication(PasswordPool::Options options) : passwords(options) {}
  const KeyedDigest digest = KeyedDigest::Random();
  PasswordPool passwords;
};

// The request headers that identify the caller to services. X-Consumer and X-Consumer-* always belong to them; those
// have their own FieldKind.
class IdentityFields {
 public:
  IdentityFields() = default;
  // Lower case.
  explicit IdentityFields(std::span<const std::string> names);
  // Whether `name`, in any case and with underscores for dashes, is one of them.
  bool Has(std::string_view name) const;
  bool empty() const { return names_.empty(); }

 private:
  std::vector<std::string> names_;  // with dashes for underscores
  std::bitset<64> sizes_;           // of names; the last bit: as long or longer
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_AUTH_AUTH_H_
