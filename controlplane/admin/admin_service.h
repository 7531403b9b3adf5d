// The admin API: requests checked, handed to the publisher, the store, the hub; answers within gRPC's limits.
#ifndef GATEWAY_CONTROLPLANE_ADMIN_ADMIN_SERVICE_H_
#define GATEWAY_CONTROLPLANE_ADMIN_ADMIN_SERVICE_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/log_level.h"
#include "controlplane/acme/issuer.h"
#include "controlplane/admin/endpoint_calls.h"
#include "controlplane/admin/fleet_calls.h"
#include "controlplane/admin/identity_calls.h"
#include "controlplane/admin/policy_changes.h"
#include "controlplane/admin/policy_reads.h"
#include "controlplane/admin/streaming_calls.h"
#include "controlplane/identity/audit_log.h"
#include "controlplane/identity/tokens.h"
#include "controlplane/publish/data_plane_drains.h"
#include "controlplane/publish/endpoint_overrides.h"
#include "controlplane/publish/publisher.h"
#include "controlplane/rpc/executor.h"
#include "controlplane/sources/endpoint_source.h"
#include "controlplane/stream/hub.h"
#include "gateway/v1/admin.grpc.pb.h"

namespace gateway::controlplane {

// What an operator changes at run time, and what a support bundle has of this process.
struct AdminOperations {
  EndpointOverrides* overrides;
  EndpointSource* endpoints;  // null: there is no Consul
  DataPlaneDrains* drains;
  LogLevel* log_level;
  std::function<v1::DiagnoseResponse()> diagnose;
  std::string backup_file;           // where a Backup puts its copy while it is read: beside the database
  const AcmeIssuer* acme = nullptr;  // null: certificates with `acme` have no state
  Joining* joining = nullptr;        // null: data planes do not join with tokens
};

// Says on which thread each call runs; what a call does is in the class of its group (PolicyReads, PolicyChanges,
// FleetCalls, EndpointCalls, IdentityCalls) or in its stream.
// Reads answer from memory on gRPC's threads; whatever touches SQLite or compiles runs on one thread of its own. Called
// by AdminGate, which gRPC serves: contexts are its, with a Caller who may do what is asked, but for the resources that
// a bound editor touches (Publisher).
class AdminService final : public v1::Admin::CallbackService {
 public:
  // `name`: what GetServerInfo says it is called.
  AdminService(Publisher* publisher, Hub* hub, Tokens* tokens, AuditLog* audit, AdminOperations operations,
               std::string name = "");

  // Ends the streaming calls with UNAVAILABLE and refuses new ones. The destructor waits until all have ended.
  void Drain() { streams_.Drain(); }

  grpc::ServerUnaryReactor* Apply(grpc::CallbackServerContext* context, const v1::ApplyRequest* request,
                                  v1::ApplyResponse* response) override;
  grpc::ServerUnaryReactor* Get(grpc::CallbackServerContext* context, const v1::GetRequest* request,
                                v1::GetResponse* response) override;
  grpc::ServerUnaryReactor* List(grpc::CallbackServerContext* context, const v1::ListRequest* request,
                                 v1::ListResponse* response) override;
  grpc::ServerUnaryReactor* Export(grpc::CallbackServerContext* context, const v1::ListRequest* request,
                                   v1::ListResponse* response) override;
  grpc::ServerUnaryReactor* Lint(grpc::CallbackServerContext* context, const v1::LintRequest* request,
                                 v1::LintResponse* response) override;
  grpc::ServerUnaryReactor* Delete(grpc::CallbackServerContext* context, const v1::DeleteRequest* request,
                                   v1::DeleteResponse* response) override;
  grpc::ServerUnaryReactor* History(grpc::CallbackServerContext* context, const v1::HistoryRequest* request,
                                    v1::HistoryResponse* response) override;
  grpc::ServerUnaryReactor* ResourceHistory(grpc::CallbackServerContext* context,
                                            const v1::ResourceHistoryRequest* request,
                                            v1::ResourceHistoryResponse* response) override;
  grpc::ServerWriteReactor<v1::BackupResponse>* Backup(grpc::CallbackServerContext* context,
                                                       const v1::BackupRequest* request) override;
  grpc::ServerUnaryReactor* GetRevision(grpc::CallbackServerContext* context, const v1::GetRevisionRequest* request,
                                        v1::GetRevisionResponse* response) override;
  grpc::ServerUnaryReactor* Rollback(grpc::CallbackServerContext* context, const v1::RollbackRequest* request,
                                     v1::RollbackResponse* response) override;
  grpc::ServerUnaryReactor* DecideChange(grpc::CallbackServerContext* context, const v1::DecideChangeRequest* request,
                                         v1::DecideChangeResponse* response) override;
  grpc::ServerUnaryReactor* DecideCanary(grpc::CallbackServerContext* context, const v1::DecideCanaryRequest* request,
                                         v1::DecideCanaryResponse* response) override;
  grpc::ServerUnaryReactor* GetChange(grpc::CallbackServerContext* context, const v1::GetChangeRequest* request,
                                      v1::GetChangeResponse* response) override;
  grpc::ServerWriteReactor<v1::WatchResponse>* Watch(grpc::CallbackServerContext* context,
                                                     const v1::WatchRequest* request) override;
  grpc::ServerUnaryReactor* ListDataPlanes(grpc::CallbackServerContext* context,
                                           const v1::ListDataPlanesRequest* request,
                                           v1::ListDataPlanesResponse* response) override;
  grpc::ServerUnaryReactor* ForgetDataPlanes(grpc::CallbackServerContext* context,
                                             const v1::ForgetDataPlanesRequest* request,
                                             v1::ForgetDataPlanesResponse* response) override;
  grpc::ServerUnaryReactor* AcceptHistory(grpc::CallbackServerContext* context, const v1::AcceptHistoryRequest* request,
                                          v1::AcceptHistoryResponse* response) override;
  grpc::ServerWriteReactor<v1::RolloutResponse>* Rollout(grpc::CallbackServerContext* context,
                                                         const v1::RolloutRequest* request) override;
  grpc::ServerUnaryReactor* ListEndpoints(grpc::CallbackServerContext* context, const v1::ListEndpointsRequest* request,
                                          v1::ListEndpointsResponse* response) override;
  grpc::ServerUnaryReactor* ListBreakers(grpc::CallbackServerContext* context, const v1::ListBreakersRequest* request,
                                         v1::ListBreakersResponse* response) override;
  grpc::ServerUnaryReactor* ListLimits(grpc::CallbackServerContext* context, const v1::ListLimitsRequest* request,
                                       v1::ListLimitsResponse* response) override;
  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context, const v1::GetServerInfoRequest* request,
                                          v1::GetServerInfoResponse* response) override;
  grpc::ServerUnaryReactor* SetEndpoint(grpc::CallbackServerContext* context, const v1::SetEndpointRequest* request,
                                        v1::SetEndpointResponse* response) override;
  grpc::ServerUnaryReactor* DecideEndpoints(grpc::CallbackServerContext* context,
                                            const v1::DecideEndpointsRequest* request,
                                            v1::DecideEndpointsResponse* response) override;
  grpc::ServerUnaryReactor* ListEndpointHistory(grpc::CallbackServerContext* context,
                                                const v1::ListEndpointHistoryRequest* request,
                                                v1::ListEndpointHistoryResponse* response) override;
  grpc::ServerUnaryReactor* SetDrain(grpc::CallbackServerContext* context, const v1::SetDrainRequest* request,
                                     v1::SetDrainResponse* response) override;
  grpc::ServerUnaryReactor* SetLogLevel(grpc::CallbackServerContext* context, const v1::SetLogLevelRequest* request,
                                        v1::SetLogLevelResponse* response) override;
  grpc::ServerUnaryReactor* Diagnose(grpc::CallbackServerContext* context, const v1::DiagnoseRequest* request,
                                     v1::DiagnoseResponse* response) override;
  grpc::ServerUnaryReactor* CreateToken(grpc::CallbackServerContext* context, const v1::CreateTokenRequest* request,
                                        v1::CreateTokenResponse* response) override;
  grpc::ServerUnaryReactor* ListTokens(grpc::CallbackServerContext* context, const v1::ListTokensRequest* request,
                                       v1::ListTokensResponse* response) override;
  grpc::ServerUnaryReactor* RevokeToken(grpc::CallbackServerContext* context, const v1::RevokeTokenRequest* request,
                                        v1::RevokeTokenResponse* response) override;
  grpc::ServerUnaryReactor* CreateJoinToken(grpc::CallbackServerContext* context,
                                            const v1::CreateJoinTokenRequest* request,
                                            v1::CreateJoinTokenResponse* response) override;
  grpc::ServerUnaryReactor* ListAudit(grpc::CallbackServerContext* context, const v1::ListAuditRequest* request,
                                      v1::ListAuditResponse* response) override;

 private:
  // Ends the call with `status`.
  grpc::ServerUnaryReactor* Now(grpc::CallbackServerContext* context, const absl::Status& status);
  // Runs `work` on the executor, then ends the call.
  grpc::ServerUnaryReactor* Later(grpc::CallbackServerContext* context, std::function<absl::Status()> work);

  Publisher* const publisher_;
  Hub* const hub_;
  AuditLog* const audit_;
  const std::string name_;
  const std::string backup_file_;
  const absl::Time started_at_;

  PolicyReads reads_;
  PolicyChanges changes_;
  FleetCalls fleet_;
  EndpointCalls endpoints_;
  IdentityCalls identity_;
  Executor executor_;       // ends after the streams, which use it, and before what its tasks use
  StreamingCalls streams_;  // last: waits for the calls
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_ADMIN_ADMIN_SERVICE_H_
