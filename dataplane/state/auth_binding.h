// Auths of a snapshot, bound to their key sets and counters.
#ifndef GATEWAY_DATAPLANE_STATE_AUTH_BINDING_H_
#define GATEWAY_DATAPLANE_STATE_AUTH_BINDING_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "common/auth/key_source.h"
#include "common/policy/policy.h"
#include "dataplane/auth/auth.h"
#include "dataplane/state/kept.h"

namespace gateway::dataplane {

// Keeps the counters of each Auth by its name, and key sets by where they come from. The configuration thread's.
class AuthBinder {
 public:
  explicit AuthBinder(KeyFetcher::Options options) : fetcher_(std::move(options)) {}

  std::shared_ptr<const BoundAuth> Bind(const std::shared_ptr<const AuthPolicy>& policy, uint64_t generation);
  void DropOlder(uint64_t generation);

  std::vector<std::shared_ptr<const AuthRuntime>> auths() const;  // by name
  // Thread-safe.
  KeyFetcher& fetcher() { return fetcher_; }

 private:
  std::shared_ptr<KeySource> GetOrCreateKeys(const AuthMethodPolicy& method, uint64_t generation);

  KeyFetcher fetcher_;
  KeptMap<std::shared_ptr<AuthRuntime>> auths_;      // by the Auth's name
  KeptMap<std::shared_ptr<KeySource>> inline_keys_;  // by the digest of the set's text
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_STATE_AUTH_BINDING_H_
