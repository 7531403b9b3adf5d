// The admin API as gatewayctl uses it: one server, blocking calls, a deadline for each, errors as absl::Status.
#ifndef GATEWAY_TOOLS_GATEWAYCTL_CLIENT_H_
#define GATEWAY_TOOLS_GATEWAYCTL_CLIENT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gateway/v1/admin.grpc.pb.h"
#include "tools/gatewayctl/connection.h"
#include "tools/gatewayctl/exit_code.h"

namespace gateway::ctl {

constexpr absl::Duration kConnectTimeout = absl::Seconds(3);  // to a connection; then the server counts as unreachable
constexpr int kListRestartsMax = 5;                           // of a listing that a change cut in two

// How a wait for a rollout ended.
struct RolloutOutcome {
  v1::RolloutResponse last;  // the newest that was heard
  bool timed_out = false;
};

inline constexpr absl::Duration kRepeatFor = absl::Seconds(10);  // a control plane restarts in less
inline constexpr absl::Duration kBackupTimeout = absl::Hours(1);

// Not thread-safe. Connects with the first call.
//
// The code of an error is gRPC's, except that a call that outlived `timeout` is UNAVAILABLE; the message is fit for
// people.
class AdminClient {
 public:
  // `timeout` is for each call, and for a whole AwaitRollout. The connection's token goes with every call.
  AdminClient(const Connection& connection, absl::Duration timeout);

  // Apply, Delete and Rollback send a request id that is new, unless there is one or it is a dry run. So they are sent
  // again while the control plane is away, for kRepeatFor at most, and are done once; not if it could not be reached at
  // all, or does not remember requests.
  absl::StatusOr<v1::ApplyResponse> Apply(const v1::ApplyRequest& request);
  absl::StatusOr<v1::GetResponse> Get(const std::string& kind, const std::string& name);
  // All pages of one state of the policy, and that state's revision. An empty `kind` means all kinds, an empty
  // `selector` (LabelSelector's grammar) all resources.
  absl::StatusOr<v1::ListResponse> List(const std::string& kind, const std::string& selector = "");
  // As List, with secrets as they are stored.
  absl::StatusOr<v1::ListResponse> ListWithSecrets();
  absl::StatusOr<v1::LintResponse> Lint();
  // Calls `on_revision` for every revision after `after` until it returns false, or the connection breaks.
  absl::Status Watch(uint64_t after, const std::function<bool(const v1::RevisionInfo&)>& on_revision);
  absl::StatusOr<v1::DeleteResponse> Delete(const v1::DeleteRequest& request);
  // The newest `limit` revisions that `request` wants; 0: all.
  absl::StatusOr<v1::HistoryResponse> History(v1::HistoryRequest request, uint64_t limit);
  // All versions that are kept.
  absl::StatusOr<v1::ResourceHistoryResponse> ResourceHistory(const std::string& kind, const std::string& name);
  // Calls `on_part` for every part until it returns false. No `timeout`: as long as it takes, kBackupTimeout at most.
  absl::Status Backup(const std::function<bool(const v1::BackupResponse&)>& on_part);
  absl::StatusOr<v1::GetRevisionResponse> GetRevision(uint64_t revision);
  absl::StatusOr<v1::RollbackResponse> Rollback(const v1::RollbackRequest& request);
  absl::StatusOr<v1::DecideChangeResponse> DecideChange(const v1::DecideChangeRequest& request);
  absl::StatusOr<v1::DecideCanaryResponse> DecideCanary(const v1::DecideCanaryRequest& request);
  absl::StatusOr<v1::GetChangeResponse> GetChange(uint64_t revision);
  absl::StatusOr<v1::ListDataPlanesResponse> ListDataPlanes();
  absl::StatusOr<v1::ForgetDataPlanesResponse> ForgetDataPlanes(const v1::ForgetDataPlanesRequest& request);
  absl::StatusOr<v1::AcceptHistoryResponse> AcceptHistory(const v1::AcceptHistoryRequest& request);
  absl::StatusOr<v1::RolloutResponse> GetRollout(uint64_t revision);
  // Until every connected data plane serves `revision` or rejected it, or the timeout; with `enough`, until that says
  // so of what was heard, with some missing or not. A control plane that goes away meanwhile is waited for, if it was
  // there at first.
  absl::StatusOr<RolloutOutcome> AwaitRollout(uint64_t revision,
                                              const std::function<bool(const v1::RolloutResponse&)>& enough = nullptr);
  absl::StatusOr<v1::ListEndpointsResponse> ListEndpoints(const std::string& service);
  absl::StatusOr<v1::ListBreakersResponse> ListBreakers(const std::string& service);
  absl::StatusOr<v1::ListLimitsResponse> ListLimits(const std::string& name);
  absl::StatusOr<v1::GetServerInfoResponse> GetServerInfo();
  absl::StatusOr<v1::SetEndpointResponse> SetEndpoint(const v1::SetEndpointRequest& request);
  absl::StatusOr<v1::DecideEndpointsResponse> DecideEndpoints(const v1::DecideEndpointsRequest& request);
  absl::StatusOr<v1::ListEndpointHistoryResponse> ListEndpointHistory(const std::string& service);
  absl::StatusOr<v1::SetDrainResponse> SetDrain(const v1::SetDrainRequest& request);
  absl::StatusOr<v1::SetLogLevelResponse> SetLogLevel(const v1::SetLogLevelRequest& request);
  // Of a data plane; "": of the control plane.
  absl::StatusOr<v1::DiagnoseResponse> Diagnose(const std::string& data_plane);
  absl::StatusOr<v1::CreateTokenResponse> CreateToken(const v1::CreateTokenRequest& request);
  absl::StatusOr<v1::ListTokensResponse> ListTokens();
  absl::Status RevokeToken(const std::string& name);
  absl::StatusOr<v1::CreateJoinTokenResponse> CreateJoinToken(const v1::CreateJoinTokenRequest& request);
  // The newest `limit` entries; 0: all.
  absl::StatusOr<v1::ListAuditResponse> ListAudit(v1::ListAuditRequest request, uint64_t limit);

 private:
  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(grpc::Status (v1::Admin::Stub::*method)(grpc::ClientContext*, const Request&,
                                                                        Response*),
                                const Request& request);
  using ListMethod = grpc::Status (v1::Admin::Stub::*)(grpc::ClientContext*, const v1::ListRequest&, v1::ListResponse*);
  absl::StatusOr<v1::ListResponse> AllPages(ListMethod method, const std::string& kind, const std::string& selector);
  template <typename Request, typename Response>
  absl::StatusOr<Response> CallOnce(grpc::Status (v1::Admin::Stub::*method)(grpc::ClientContext*, const Request&,
                                                                            Response*),
                                    Request request);
  absl::Status Translate(const grpc::Status& status) const;

  const std::string server_;
  const bool tls_, certificate_;  // what the connection was made with
  const absl::Duration timeout_;
  std::unique_ptr<v1::Admin::Stub> stub_;
  bool reached_ = false;  // some call was answered
  bool sent_ = false;     // the last call may have reached the server
};

// The mistakes that the server found in a policy; none, if the error is something else.
v1::PolicyErrors PolicyErrorsOf(const absl::Status& status);

ExitCode ExitCodeOf(const absl::Status& status);

}  // namespace gateway::ctl

#endif  // GATEWAY_TOOLS_GATEWAYCTL_CLIENT_H_
