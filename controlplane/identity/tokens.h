// Tokens of people and pipelines: made, looked up by every call, revoked.
#ifndef GATEWAY_CONTROLPLANE_IDENTITY_TOKENS_H_
#define GATEWAY_CONTROLPLANE_IDENTITY_TOKENS_H_

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/digest.h"
#include "controlplane/identity/scope.h"
#include "controlplane/rpc/notifier.h"
#include "controlplane/store/store.h"
#include "gateway/v1/admin.pb.h"

namespace gateway::controlplane {

inline constexpr size_t kTokensMax = 10'000;
inline constexpr size_t kTokenLabelsMax = 16;
// The token that the first start makes.
inline constexpr char kFirstToken[] = "admin";

// All of them in memory, each written to the store before it counts. Secrets are "gwt_" and 256 random bits; only their
// SHA-256 is kept. Thread-safe. Create and Revoke block on the disk: call them off gRPC's threads.
class Tokens {
 public:
  static absl::StatusOr<std::unique_ptr<Tokens>> Open(Store* store);

  // Where there was never any token: makes an admin's, and writes it to `path`, mode 0600, whatever was there. Once.
  absl::Status MakeFirst(const std::string& path, absl::Time now);

  // InvalidArgument names the field; AlreadyExists where one of that name is in force.
  absl::StatusOr<v1::CreateTokenResponse> Create(const v1::CreateTokenRequest& request, const std::string& by,
                                                 absl::Time now);
  absl::Status Revoke(const std::string& name, absl::Time now);
  std::vector<v1::Token> List() const;  // by name

  struct Grant {
    std::string name;
    Digest digest;
    v1::Token::Role role;
    std::shared_ptr<const Scope> scope;  // null: everything
    absl::Time expires_at;
  };
  // Unauthenticated: nobody's, expired or revoked; the message says which, and whose.
  absl::StatusOr<Grant> Find(std::string_view secret, absl::Time now) const;
  // Whether a token that was found is still in force: for calls that are open while it ends.
  bool InForce(const Digest& digest, absl::Time now) const;

  // Told after each revocation.
  Notifier& revocations() { return revocations_; }

 private:
  struct Record {
    v1::Token token;
    Digest digest;
    std::shared_ptr<const Scope> scope;
  };
  explicit Tokens(Store* store) : store_(store) {}
  void Put(v1::Token token, const Digest& digest) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Store* const store_;
  Notifier revocations_;
  std::mutex write_mu_;  // held over a whole change
  mutable std::mutex mu_;
  std::map<std::string, Record> by_name_ ABSL_GUARDED_BY(mu_);
  std::unordered_map<Digest, std::string, DigestHash> names_ ABSL_GUARDED_BY(mu_);
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_IDENTITY_TOKENS_H_
