// The admin API's changes of policy, and those that are under way.
#ifndef GATEWAY_CONTROLPLANE_ADMIN_POLICY_CHANGES_H_
#define GATEWAY_CONTROLPLANE_ADMIN_POLICY_CHANGES_H_

#include "absl/status/status.h"
#include "controlplane/publish/publisher.h"
#include "controlplane/stream/hub.h"
#include "gateway/v1/admin.pb.h"

namespace gateway::controlplane {

// As in admin.proto. Thread-safe; every call blocks on the database.
class PolicyChanges {
 public:
  PolicyChanges(Publisher* publisher, const Hub* hub) : publisher_(publisher), hub_(hub) {}

  // Warns of services that Consul does not know.
  absl::Status Apply(const v1::ApplyRequest& request, const Author& author, v1::ApplyResponse* response);
  absl::Status Delete(const v1::DeleteRequest& request, const Author& author, v1::DeleteResponse* response);
  absl::Status Rollback(const v1::RollbackRequest& request, const Author& author, v1::RollbackResponse* response);

  absl::Status Decide(const v1::DecideChangeRequest& request, const Author& author, v1::DecideChangeResponse* response);
  absl::Status DecideCanary(const v1::DecideCanaryRequest& request, const Author& author,
                            v1::DecideCanaryResponse* response);
  absl::Status Get(const v1::GetChangeRequest& request, v1::GetChangeResponse* response) const;

 private:
  Publisher* const publisher_;
  const Hub* const hub_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_ADMIN_POLICY_CHANGES_H_
