// The admin API's calls about tokens and the audit.
#ifndef GATEWAY_CONTROLPLANE_ADMIN_IDENTITY_CALLS_H_
#define GATEWAY_CONTROLPLANE_ADMIN_IDENTITY_CALLS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "controlplane/identity/audit_log.h"
#include "controlplane/identity/caller.h"
#include "controlplane/identity/joining.h"
#include "controlplane/identity/tokens.h"
#include "controlplane/store/store.h"
#include "gateway/v1/admin.pb.h"

namespace gateway::controlplane {

inline constexpr uint32_t kAuditPageDefault = 100;
inline constexpr uint32_t kAuditPageMax = 1'000;

// As in admin.proto. Thread-safe; all but ListTokens block on the database.
class IdentityCalls {
 public:
  // `joining`: null if data planes do not join with tokens.
  IdentityCalls(Store* store, Tokens* tokens, Joining* joining, AuditLog* audit)
      : store_(store), tokens_(tokens), joining_(joining), audit_(audit) {}

  absl::Status CreateToken(const v1::CreateTokenRequest& request, const Caller& caller,
                           v1::CreateTokenResponse* response);
  absl::Status ListTokens(v1::ListTokensResponse* response) const;
  absl::Status RevokeToken(const v1::RevokeTokenRequest& request, const Caller& caller);
  absl::Status CreateJoinToken(const v1::CreateJoinTokenRequest& request, const Caller& caller,
                               v1::CreateJoinTokenResponse* response);
  absl::Status ListAudit(const v1::ListAuditRequest& request, v1::ListAuditResponse* response);

 private:
  Store* const store_;
  Tokens* const tokens_;
  Joining* const joining_;
  AuditLog* const audit_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_ADMIN_IDENTITY_CALLS_H_
