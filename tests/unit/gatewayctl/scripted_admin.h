// A scripted admin server, over real gRPC on a free loopback port.
#ifndef GATEWAY_TESTS_UNIT_GATEWAYCTL_SCRIPTED_ADMIN_H_
#define GATEWAY_TESTS_UNIT_GATEWAYCTL_SCRIPTED_ADMIN_H_

#include <array>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "gateway/v1/admin.grpc.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"

namespace gateway::ctl {

// Calls that are not scripted are UNIMPLEMENTED. Set the handlers and responses between calls; they run, and are read,
// on gRPC's threads, one at a time.
class ScriptedAdmin final : public v1::Admin::Service {
 public:
  using Writer = grpc::ServerWriter<v1::RolloutResponse>;

  ScriptedAdmin() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~ScriptedAdmin() override { Stop(); }

  void Stop() { server_->Shutdown(std::chrono::system_clock::now()); }
  // Orders the test's writes before a call and the other way round: the call alone orders nothing that a sanitizer can
  // see.
  void Order() { absl::MutexLock lock(&mutex_); }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }

  std::function<grpc::Status(const v1::ApplyRequest&, v1::ApplyResponse*)> apply;
  std::function<grpc::Status(const v1::DeleteRequest&, v1::DeleteResponse*)> remove;
  std::function<grpc::Status(const v1::HistoryRequest&, v1::HistoryResponse*)> history;
  std::function<grpc::Status(const v1::RollbackRequest&, v1::RollbackResponse*)> rollback;
  std::function<grpc::Status(const v1::RolloutRequest&, Writer*, grpc::ServerContext*)> rollout;
  std::function<grpc::Status(const v1::DecideChangeRequest&, v1::DecideChangeResponse*)> decide_change;
  std::function<grpc::Status(const v1::DecideCanaryRequest&, v1::DecideCanaryResponse*)> decide_canary;
  std::function<grpc::Status(const v1::GetChangeRequest&, v1::GetChangeResponse*)> get_change;
  std::function<grpc::Status(const v1::ListRequest&, v1::ListResponse*)> list;
  std::function<grpc::Status(const v1::SetEndpointRequest&, v1::SetEndpointResponse*)> set_endpoint;
  std::function<grpc::Status(const v1::DecideEndpointsRequest&, v1::DecideEndpointsResponse*)> decide_endpoints;
  std::function<grpc::Status(const v1::ListEndpointHistoryRequest&, v1::ListEndpointHistoryResponse*)> endpoint_history;
  std::function<grpc::Status(const v1::SetDrainRequest&, v1::SetDrainResponse*)> set_drain;
  std::function<grpc::Status(const v1::SetLogLevelRequest&, v1::SetLogLevelResponse*)> set_log_level;
  std::function<grpc::Status(const v1::DiagnoseRequest&, v1::DiagnoseResponse*)> diagnose;
  std::vector<v1::StoredResource> resources;  // for Get, and for List unless `list` is set
  std::map<uint64_t, v1::GetRevisionResponse> revisions;
  v1::ListDataPlanesResponse data_planes;
  v1::ListEndpointsResponse endpoints;
  v1::ListBreakersResponse breakers;
  v1::ListLimitsResponse limits;
  std::function<grpc::Status(const v1::ResourceHistoryRequest&, v1::ResourceHistoryResponse*)> resource_history;
  std::vector<v1::BackupResponse> backup;  // all that a Backup says
  bool remembers_requests = false;
  uint64_t revision = 7;
  std::string name;
  std::vector<std::string> warnings;             // for Lint
  std::vector<v1::StoredResource> with_secrets;  // for Export
  std::vector<v1::RevisionInfo> watched;         // everything that a Watch sends before it ends

 private:
  template <typename Handler, typename... Arguments>
  grpc::Status Run(const Handler& handler, Arguments&&... arguments) {
    absl::MutexLock lock(&mutex_);
    if (!handler) return {grpc::StatusCode::UNIMPLEMENTED, "not scripted"};
    return handler(std::forward<Arguments>(arguments)...);
  }

  grpc::Status Apply(grpc::ServerContext*, const v1::ApplyRequest* in, v1::ApplyResponse* out) override {
    return Run(apply, *in, out);
  }
  grpc::Status Delete(grpc::ServerContext*, const v1::DeleteRequest* in, v1::DeleteResponse* out) override {
    return Run(remove, *in, out);
  }
  grpc::Status History(grpc::ServerContext*, const v1::HistoryRequest* in, v1::HistoryResponse* out) override {
    return Run(history, *in, out);
  }
  grpc::Status ResourceHistory(grpc::ServerContext*, const v1::ResourceHistoryRequest* in,
                               v1::ResourceHistoryResponse* out) override {
    return Run(resource_history, *in, out);
  }
  grpc::Status Backup(grpc::ServerContext*, const v1::BackupRequest*,
                      grpc::ServerWriter<v1::BackupResponse>* out) override {
    absl::MutexLock lock(&mutex_);
    for (const v1::BackupResponse& part : backup) out->Write(part);
    return grpc::Status::OK;
  }
  grpc::Status Rollback(grpc::ServerContext*, const v1::RollbackRequest* in, v1::RollbackResponse* out) override {
    return Run(rollback, *in, out);
  }
  grpc::Status Rollout(grpc::ServerContext* context, const v1::RolloutRequest* in, Writer* out) override {
    return Run(rollout, *in, out, context);
  }
  grpc::Status DecideChange(grpc::ServerContext*, const v1::DecideChangeRequest* in,
                            v1::DecideChangeResponse* out) override {
    return Run(decide_change, *in, out);
  }
  grpc::Status DecideCanary(grpc::ServerContext*, const v1::DecideCanaryRequest* in,
                            v1::DecideCanaryResponse* out) override {
    return Run(decide_canary, *in, out);
  }
  grpc::Status GetChange(grpc::ServerContext*, const v1::GetChangeRequest* in, v1::GetChangeResponse* out) override {
    return Run(get_change, *in, out);
  }
  grpc::Status SetEndpoint(grpc::ServerContext*, const v1::SetEndpointRequest* in,
                           v1::SetEndpointResponse* out) override {
    return Run(set_endpoint, *in, out);
  }
  grpc::Status DecideEndpoints(grpc::ServerContext*, const v1::DecideEndpointsRequest* in,
                               v1::DecideEndpointsResponse* out) override {
    return Run(decide_endpoints, *in, out);
  }
  grpc::Status ListEndpointHistory(grpc::ServerContext*, const v1::ListEndpointHistoryRequest* in,
                                   v1::ListEndpointHistoryResponse* out) override {
    return Run(endpoint_history, *in, out);
  }
  grpc::Status SetDrain(grpc::ServerContext*, const v1::SetDrainRequest* in, v1::SetDrainResponse* out) override {
    return Run(set_drain, *in, out);
  }
  grpc::Status SetLogLevel(grpc::ServerContext*, const v1::SetLogLevelRequest* in,
                           v1::SetLogLevelResponse* out) override {
    return Run(set_log_level, *in, out);
  }
  grpc::Status Diagnose(grpc::ServerContext*, const v1::DiagnoseRequest* in, v1::DiagnoseResponse* out) override {
    return Run(diagnose, *in, out);
  }
  grpc::Status Get(grpc::ServerContext*, const v1::GetRequest* in, v1::GetResponse* out) override;
  grpc::Status List(grpc::ServerContext*, const v1::ListRequest* in, v1::ListResponse* out) override;
  grpc::Status GetRevision(grpc::ServerContext*, const v1::GetRevisionRequest* in,
                           v1::GetRevisionResponse* out) override {
    absl::MutexLock lock(&mutex_);
    if (!revisions.contains(in->revision())) return {grpc::StatusCode::NOT_FOUND, "no such revision"};
    *out = revisions[in->revision()];
    return grpc::Status::OK;
  }
  grpc::Status ForgetDataPlanes(grpc::ServerContext*, const v1::ForgetDataPlanesRequest* in,
                                v1::ForgetDataPlanesResponse* out) override {
    if (in->gone()) {
      for (int i = 1; i <= 7; ++i) out->add_names(absl::StrCat("dp-", i));
    } else {
      out->add_names(in->name());
    }
    return grpc::Status::OK;
  }
  grpc::Status AcceptHistory(grpc::ServerContext*, const v1::AcceptHistoryRequest* in,
                             v1::AcceptHistoryResponse* out) override {
    EXPECT_FALSE(in->context().actor().empty());
    out->set_epoch("ab12");
    out->set_released(2);
    return grpc::Status::OK;
  }
  grpc::Status ListDataPlanes(grpc::ServerContext*, const v1::ListDataPlanesRequest*,
                              v1::ListDataPlanesResponse* out) override {
    absl::MutexLock lock(&mutex_);
    *out = data_planes;
    return grpc::Status::OK;
  }
  grpc::Status ListEndpoints(grpc::ServerContext*, const v1::ListEndpointsRequest*,
                             v1::ListEndpointsResponse* out) override {
    absl::MutexLock lock(&mutex_);
    *out = endpoints;
    return grpc::Status::OK;
  }
  grpc::Status ListBreakers(grpc::ServerContext*, const v1::ListBreakersRequest*,
                            v1::ListBreakersResponse* out) override {
    absl::MutexLock lock(&mutex_);
    *out = breakers;
    return grpc::Status::OK;
  }
  grpc::Status ListLimits(grpc::ServerContext*, const v1::ListLimitsRequest*, v1::ListLimitsResponse* out) override {
    absl::MutexLock lock(&mutex_);
    *out = limits;
    return grpc::Status::OK;
  }
  grpc::Status GetServerInfo(grpc::ServerContext*, const v1::GetServerInfoRequest*,
                             v1::GetServerInfoResponse* out) override {
    absl::MutexLock lock(&mutex_);
    out->set_version("9.9.9");
    out->set_epoch("epoch");
    out->set_revision(revision);
    out->set_name(name);
    out->set_remembers_requests(remembers_requests);
    return grpc::Status::OK;
  }
  grpc::Status Lint(grpc::ServerContext*, const v1::LintRequest*, v1::LintResponse* out) override {
    absl::MutexLock lock(&mutex_);
    out->mutable_warnings()->Assign(warnings.begin(), warnings.end());
    out->set_revision(revision);
    return grpc::Status::OK;
  }
  grpc::Status Export(grpc::ServerContext*, const v1::ListRequest*, v1::ListResponse* out) override {
    absl::MutexLock lock(&mutex_);
    for (const v1::StoredResource& stored : with_secrets) *out->add_resources() = stored;
    out->set_revision(revision);
    return grpc::Status::OK;
  }
  grpc::Status Watch(grpc::ServerContext*, const v1::WatchRequest* in,
                     grpc::ServerWriter<v1::WatchResponse>* out) override {
    std::vector<v1::RevisionInfo> told;
    {
      absl::MutexLock lock(&mutex_);
      told = watched;
    }
    for (const v1::RevisionInfo& info : told) {
      if (info.revision() <= in->after_revision()) continue;
      v1::WatchResponse response;
      *response.mutable_revision() = info;
      out->Write(response);
    }
    return {grpc::StatusCode::UNAVAILABLE, "going down"};
  }

  absl::Mutex mutex_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

// INVALID_ARGUMENT as the control plane sends it: "Kind/name", field and message of each error, as a typed detail and
// as a BadRequest.
grpc::Status InvalidPolicy(const std::vector<std::array<std::string, 4>>& mistakes);

// A stored resource from one YAML document.
v1::StoredResource Stored(const std::string& yaml, uint64_t revision = 1, bool built_in = false);

}  // namespace gateway::ctl

#endif  // GATEWAY_TESTS_UNIT_GATEWAYCTL_SCRIPTED_ADMIN_H_
