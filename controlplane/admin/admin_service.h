// The admin API: requests checked, handed to the publisher, the store, the hub; answers within gRPC's limits.
#ifndef GATEWAY_CONTROLPLANE_ADMIN_ADMIN_SERVICE_H_
#define GATEWAY_CONTROLPLANE_ADMIN_ADMIN_SERVICE_H_

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/log_level.h"
#include "controlplane/acme/issuer.h"
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

inline constexpr uint32_t kListPageDefault = 500;
inline constexpr uint32_t kListPageMax = 5'000;
inline constexpr uint32_t kHistoryPageDefault = 100;
inline constexpr uint32_t kHistoryPageMax = 1'000;
// A page of List ends here, below gRPC's limit of 4 MiB a message.
inline constexpr size_t kListPageBytesMax = 3u << 20;
// Watch, Rollout and Backup calls at a time; of these, one Backup: each holds a copy of the database on its disk.
inline constexpr size_t kAdminStreamsMax = 256;
inline constexpr size_t kBackupChunkBytes = 1u << 20;

inline constexpr uint32_t kAuditPageDefault = 100;
inline constexpr uint32_t kAuditPageMax = 1'000;

inline constexpr uint32_t kEndpointWeightMax = 65'535;  // as policy and Consul have it
inline constexpr absl::Duration kOverrideMax = absl::Hours(24 * 366);
inline constexpr absl::Duration kLogLevelDefault = absl::Minutes(5);
inline constexpr absl::Duration kLogLevelMax = absl::Hours(24);

// What an operator changes at run time, and what a support bundle has of this process.
struct AdminOperations {
  EndpointOverrides* overrides;
  EndpointSource* endpoints;  // null: there is no Consul
  DataPlaneDrains* drains;
  LogLevel* log_level;
  std::function<v1::DiagnoseResponse()> diagnose;
  std::string backup_file;           // where a Backup puts its copy while it is read: beside the database
  const AcmeIssuer* acme = nullptr;  // null: certificates with `acme` have no state
};

// Reads answer from memory on gRPC's threads; whatever touches SQLite or compiles runs on one thread of its own. Called
// by AdminGate, which gRPC serves: contexts are its, with a Caller who may do what is asked, but for the resources that
// a bound editor touches (Publisher).
class AdminService final : public v1::Admin::CallbackService {
 public:
  // `name`: what GetServerInfo says it is called.
  AdminService(Publisher* publisher, Hub* hub, Tokens* tokens, AuditLog* audit, AdminOperations operations,
               std::string name = "");
  ~AdminService() override;  // waits until every call has ended

  // Ends the streaming calls with UNAVAILABLE and refuses new ones.
  void Drain();

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
  grpc::ServerUnaryReactor* ListAudit(grpc::CallbackServerContext* context, const v1::ListAuditRequest* request,
                                      v1::ListAuditResponse* response) override;

 private:
  // A streaming call, by its base.
  struct Call;
  template <typename Message>
  class Stream;
  class WatchStream;
  class RolloutStream;
  class BackupStream;

  grpc::ServerUnaryReactor* Now(grpc::CallbackServerContext* context, const absl::Status& status);
  grpc::ServerUnaryReactor* Later(grpc::CallbackServerContext* context, std::function<absl::Status()> work);
  template <typename S, typename Message>
  grpc::ServerWriteReactor<Message>* Open(std::shared_ptr<S> stream, grpc::CallbackServerContext* context);
  void Remove(Call* call);
  // Ends the streaming calls whose token is revoked or has expired.
  void EndRevoked();
  void Sweep();

  absl::Status FillList(const v1::ListRequest& request, bool with_secrets, v1::ListResponse* response) const;
  absl::Status FillAudit(const v1::ListAuditRequest& request, v1::ListAuditResponse* response);
  absl::Status FillVersions(const v1::ResourceHistoryRequest& request, v1::ResourceHistoryResponse* response) const;
  absl::Status FillHistory(const v1::HistoryRequest& request, v1::HistoryResponse* response) const;
  void FillExclusions(const std::string& service, v1::ListEndpointsResponse* response) const;
  // Those that concern `service` ("": all), a Service's name or that of a service of Consul.
  std::vector<v1::EndpointOverride> OverridesOf(const std::string& service) const;
  absl::Status SetOverride(const v1::SetEndpointRequest& request, const std::string& endpoint, const Caller& caller,
                           v1::SetEndpointResponse* response);
  absl::Status ChangeDrain(const v1::SetDrainRequest& request, const Caller& caller, v1::SetDrainResponse* response);
  void WarnOfDrain(const std::string& name, v1::SetDrainResponse* response) const;
  // What is worth a word about an override that was set just now.
  void WarnOfOverride(const v1::EndpointOverride& override, const v1::ListEndpointsResponse& endpoints,
                      v1::SetEndpointResponse* response) const;
  absl::Status FillEndpoints(const v1::ListEndpointsRequest& request, v1::ListEndpointsResponse* response) const;
  // What `service` is in Consul. NotFound, as ListEndpoints has it; FailedPrecondition if its endpoints are written
  // down.
  absl::StatusOr<EndpointKey> ConsulKeyOf(const std::string& service) const;

  Publisher* const publisher_;
  Hub* const hub_;
  Tokens* const tokens_;
  AuditLog* const audit_;
  const AdminOperations operations_;
  const std::string name_;
  const absl::Time started_at_;
  uint64_t revocations_ = 0;  // the subscription

  std::mutex mu_;
  std::condition_variable ended_;
  std::map<Call*, std::shared_ptr<Call>> calls_ ABSL_GUARDED_BY(mu_);
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  Call* backup_ ABSL_GUARDED_BY(mu_) = nullptr;  // the one that is under way
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  std::thread sweeper_;

  Executor executor_;  // last: its tasks use all of the above
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_ADMIN_ADMIN_SERVICE_H_
