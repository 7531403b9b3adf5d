#include "controlplane/admin/admin_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/admin_protocol.h"
#include "common/base/timestamp.h"
#include "common/base/version.h"
#include "controlplane/admin/backup_stream.h"
#include "controlplane/admin/call_context.h"
#include "controlplane/admin/policy_streams.h"
#include "controlplane/identity/caller.h"
#include "controlplane/rpc/grpc_status.h"

namespace gateway::controlplane {
namespace {

// As much as the caller says that it takes.
size_t ErrorDetailsBytesMax(const grpc::CallbackServerContext& context) {
  const auto asked = context.client_metadata().find(kErrorBytesMetadata);
  size_t bytes = 0;
  if (asked == context.client_metadata().end() ||
      !absl::SimpleAtoi(absl::string_view(asked->second.data(), asked->second.size()), &bytes)) {
    return kErrorDetailsBytesMax;
  }
  return std::clamp(bytes, kErrorDetailsBytesMax, kErrorBytesAskedMax);
}

}  // namespace

AdminService::AdminService(Publisher* publisher, Hub* hub, Tokens* tokens, AuditLog* audit, AdminOperations operations,
                           std::string name)
    : publisher_(publisher),
      hub_(hub),
      audit_(audit),
      name_(std::move(name)),
      backup_file_(std::move(operations.backup_file)),
      started_at_(absl::Now()),
      reads_(publisher, operations.acme),
      changes_(publisher, hub),
      fleet_(publisher, hub, audit, operations.drains, operations.log_level, std::move(operations.diagnose)),
      endpoints_(publisher, hub, audit, operations.overrides, operations.endpoints),
      identity_(&publisher->store(), tokens, operations.joining, audit),
      streams_(tokens) {}

grpc::ServerUnaryReactor* AdminService::Now(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::Later(grpc::CallbackServerContext* context,
                                              std::function<absl::Status()> work) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const bool queued = executor_.Run(
      [this, reactor, work = std::move(work), caller = CallerOf(context), bytes_max = ErrorDetailsBytesMax(*context)] {
        const absl::Status status = work();
        // What the gate lets through, the resources may still forbid.
        if (absl::IsPermissionDenied(status)) audit_->Denied(caller, std::string(status.message()), absl::Now());
        reactor->Finish(ToGrpc(status, bytes_max));
      });
  if (!queued) reactor->Finish({grpc::StatusCode::UNAVAILABLE, "too many requests are waiting"});
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::Get(grpc::CallbackServerContext* context, const v1::GetRequest* request,
                                            v1::GetResponse* response) {
  return Now(context, reads_.Get(*request, response));
}

grpc::ServerUnaryReactor* AdminService::List(grpc::CallbackServerContext* context, const v1::ListRequest* request,
                                             v1::ListResponse* response) {
  return Now(context, reads_.List(*request, /*with_secrets=*/false, response));
}

grpc::ServerUnaryReactor* AdminService::Export(grpc::CallbackServerContext* context, const v1::ListRequest* request,
                                               v1::ListResponse* response) {
  return Now(context, reads_.List(*request, /*with_secrets=*/true, response));
}

grpc::ServerUnaryReactor* AdminService::Lint(grpc::CallbackServerContext* context, const v1::LintRequest*,
                                             v1::LintResponse* response) {
  return Now(context, reads_.Lint(response));
}

grpc::ServerUnaryReactor* AdminService::History(grpc::CallbackServerContext* context, const v1::HistoryRequest* request,
                                                v1::HistoryResponse* response) {
  return Later(context, [this, request, response] { return reads_.History(*request, response); });
}

grpc::ServerUnaryReactor* AdminService::ResourceHistory(grpc::CallbackServerContext* context,
                                                        const v1::ResourceHistoryRequest* request,
                                                        v1::ResourceHistoryResponse* response) {
  return Later(context, [this, request, response] { return reads_.ResourceHistory(*request, response); });
}

grpc::ServerUnaryReactor* AdminService::GetRevision(grpc::CallbackServerContext* context,
                                                    const v1::GetRevisionRequest* request,
                                                    v1::GetRevisionResponse* response) {
  return Later(context, [this, request, response] { return reads_.GetRevision(*request, response); });
}

grpc::ServerUnaryReactor* AdminService::Apply(grpc::CallbackServerContext* context, const v1::ApplyRequest* request,
                                              v1::ApplyResponse* response) {
  return Later(context, [this, author = AuthorOf(CallerOf(context)), request, response] {
    return changes_.Apply(*request, author, response);
  });
}

grpc::ServerUnaryReactor* AdminService::Delete(grpc::CallbackServerContext* context, const v1::DeleteRequest* request,
                                               v1::DeleteResponse* response) {
  return Later(context, [this, author = AuthorOf(CallerOf(context)), request, response] {
    return changes_.Delete(*request, author, response);
  });
}

grpc::ServerUnaryReactor* AdminService::Rollback(grpc::CallbackServerContext* context,
                                                 const v1::RollbackRequest* request, v1::RollbackResponse* response) {
  return Later(context, [this, author = AuthorOf(CallerOf(context)), request, response] {
    return changes_.Rollback(*request, author, response);
  });
}

grpc::ServerUnaryReactor* AdminService::DecideChange(grpc::CallbackServerContext* context,
                                                     const v1::DecideChangeRequest* request,
                                                     v1::DecideChangeResponse* response) {
  return Later(context, [this, author = AuthorOf(CallerOf(context)), request, response] {
    return changes_.Decide(*request, author, response);
  });
}

grpc::ServerUnaryReactor* AdminService::DecideCanary(grpc::CallbackServerContext* context,
                                                     const v1::DecideCanaryRequest* request,
                                                     v1::DecideCanaryResponse* response) {
  return Later(context, [this, author = AuthorOf(CallerOf(context)), request, response] {
    return changes_.DecideCanary(*request, author, response);
  });
}

grpc::ServerUnaryReactor* AdminService::GetChange(grpc::CallbackServerContext* context,
                                                  const v1::GetChangeRequest* request,
                                                  v1::GetChangeResponse* response) {
  return Later(context, [this, request, response] { return changes_.Get(*request, response); });
}

grpc::ServerWriteReactor<v1::WatchResponse>* AdminService::Watch(grpc::CallbackServerContext* context,
                                                                 const v1::WatchRequest* request) {
  const uint64_t current = publisher_->current()->revision;
  const uint64_t after = request->after_revision() == 0 ? current : request->after_revision();
  auto stream = std::make_shared<WatchStream>(&streams_, publisher_, &executor_, after);
  if (after > current) {
    stream->End({grpc::StatusCode::OUT_OF_RANGE,
                 absl::StrCat("there is no revision ", after, " yet; the current one is ", current)});
  }
  return streams_.Open(std::move(stream), context);
}

grpc::ServerWriteReactor<v1::RolloutResponse>* AdminService::Rollout(grpc::CallbackServerContext* context,
                                                                     const v1::RolloutRequest* request) {
  const std::shared_ptr<const PolicyState> state = publisher_->current();
  const uint64_t revision = request->revision() == 0 ? state->revision : request->revision();
  absl::Time committed_at = state->committed_at;
  absl::Status known;
  if (revision != state->revision) {
    // A read of one row by its key; the one call on gRPC's threads that may wait for a commit.
    absl::StatusOr<absl::Time> time = publisher_->store().TimeOf(revision);
    if (time.ok()) {
      committed_at = *time;
    } else {
      known = time.status();
    }
  }
  auto stream = std::make_shared<RolloutStream>(&streams_, hub_, revision, committed_at, request->wait());
  if (!known.ok()) stream->End(ToGrpc(known));
  return streams_.Open(std::move(stream), context);
}

grpc::ServerWriteReactor<v1::BackupResponse>* AdminService::Backup(grpc::CallbackServerContext* context,
                                                                   const v1::BackupRequest*) {
  auto stream = std::make_shared<BackupStream>(
      &streams_, BackupSource{publisher_, &executor_, audit_, backup_file_, name_}, CallerOf(context));
  if (!streams_.BeginBackup(stream.get())) {
    stream->End({grpc::StatusCode::RESOURCE_EXHAUSTED, "another backup is under way; try again later"});
  }
  return streams_.Open(std::move(stream), context);
}

grpc::ServerUnaryReactor* AdminService::ListDataPlanes(grpc::CallbackServerContext* context,
                                                       const v1::ListDataPlanesRequest*,
                                                       v1::ListDataPlanesResponse* response) {
  return Now(context, fleet_.ListDataPlanes(response));
}

grpc::ServerUnaryReactor* AdminService::ForgetDataPlanes(grpc::CallbackServerContext* context,
                                                         const v1::ForgetDataPlanesRequest* request,
                                                         v1::ForgetDataPlanesResponse* response) {
  return Now(context, fleet_.ForgetDataPlanes(*request, CallerOf(context), response));
}

grpc::ServerUnaryReactor* AdminService::AcceptHistory(grpc::CallbackServerContext* context,
                                                      const v1::AcceptHistoryRequest* request,
                                                      v1::AcceptHistoryResponse* response) {
  return Later(context, [this, caller = CallerOf(context), request, response] {
    return fleet_.AcceptHistory(*request, caller, response);
  });
}

grpc::ServerUnaryReactor* AdminService::ListBreakers(grpc::CallbackServerContext* context,
                                                     const v1::ListBreakersRequest* request,
                                                     v1::ListBreakersResponse* response) {
  return Now(context, fleet_.ListBreakers(*request, response));
}

grpc::ServerUnaryReactor* AdminService::ListLimits(grpc::CallbackServerContext* context,
                                                   const v1::ListLimitsRequest* request,
                                                   v1::ListLimitsResponse* response) {
  return Now(context, fleet_.ListLimits(*request, response));
}

grpc::ServerUnaryReactor* AdminService::SetDrain(grpc::CallbackServerContext* context,
                                                 const v1::SetDrainRequest* request, v1::SetDrainResponse* response) {
  if (absl::Status s = FleetCalls::CheckDrain(*request); !s.ok()) return Now(context, s);
  return Later(context, [this, caller = CallerOf(context), request, response] {
    return fleet_.SetDrain(*request, caller, response);
  });
}

grpc::ServerUnaryReactor* AdminService::SetLogLevel(grpc::CallbackServerContext* context,
                                                    const v1::SetLogLevelRequest* request,
                                                    v1::SetLogLevelResponse* response) {
  return Now(context, fleet_.SetLogLevel(*request, CallerOf(context), response));
}

grpc::ServerUnaryReactor* AdminService::Diagnose(grpc::CallbackServerContext* context,
                                                 const v1::DiagnoseRequest* request, v1::DiagnoseResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  fleet_.Diagnose(*request, response, [reactor](const absl::Status& status) { reactor->Finish(ToGrpc(status)); });
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::ListEndpoints(grpc::CallbackServerContext* context,
                                                      const v1::ListEndpointsRequest* request,
                                                      v1::ListEndpointsResponse* response) {
  return Now(context, endpoints_.List(*request, response));
}

grpc::ServerUnaryReactor* AdminService::ListEndpointHistory(grpc::CallbackServerContext* context,
                                                            const v1::ListEndpointHistoryRequest* request,
                                                            v1::ListEndpointHistoryResponse* response) {
  return Now(context, endpoints_.ListHistory(*request, response));
}

grpc::ServerUnaryReactor* AdminService::SetEndpoint(grpc::CallbackServerContext* context,
                                                    const v1::SetEndpointRequest* request,
                                                    v1::SetEndpointResponse* response) {
  const absl::StatusOr<std::string> endpoint = EndpointCalls::CheckSet(*request);
  if (!endpoint.ok()) return Now(context, endpoint.status());
  return Later(context, [this, caller = CallerOf(context), request, response, endpoint = *endpoint] {
    return endpoints_.Set(*request, endpoint, caller, response);
  });
}

grpc::ServerUnaryReactor* AdminService::DecideEndpoints(grpc::CallbackServerContext* context,
                                                        const v1::DecideEndpointsRequest* request,
                                                        v1::DecideEndpointsResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  endpoints_.Decide(*request, CallerOf(context), response,
                    [reactor](const absl::Status& status) { reactor->Finish(ToGrpc(status)); });
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::CreateToken(grpc::CallbackServerContext* context,
                                                    const v1::CreateTokenRequest* request,
                                                    v1::CreateTokenResponse* response) {
  return Later(context, [this, caller = CallerOf(context), request, response] {
    return identity_.CreateToken(*request, caller, response);
  });
}

grpc::ServerUnaryReactor* AdminService::ListTokens(grpc::CallbackServerContext* context, const v1::ListTokensRequest*,
                                                   v1::ListTokensResponse* response) {
  return Now(context, identity_.ListTokens(response));
}

grpc::ServerUnaryReactor* AdminService::RevokeToken(grpc::CallbackServerContext* context,
                                                    const v1::RevokeTokenRequest* request, v1::RevokeTokenResponse*) {
  return Later(context,
               [this, caller = CallerOf(context), request] { return identity_.RevokeToken(*request, caller); });
}

grpc::ServerUnaryReactor* AdminService::CreateJoinToken(grpc::CallbackServerContext* context,
                                                        const v1::CreateJoinTokenRequest* request,
                                                        v1::CreateJoinTokenResponse* response) {
  return Later(context, [this, caller = CallerOf(context), request, response] {
    return identity_.CreateJoinToken(*request, caller, response);
  });
}

grpc::ServerUnaryReactor* AdminService::ListAudit(grpc::CallbackServerContext* context,
                                                  const v1::ListAuditRequest* request,
                                                  v1::ListAuditResponse* response) {
  return Later(context, [this, request, response] { return identity_.ListAudit(*request, response); });
}

grpc::ServerUnaryReactor* AdminService::GetServerInfo(grpc::CallbackServerContext* context,
                                                      const v1::GetServerInfoRequest*,
                                                      v1::GetServerInfoResponse* response) {
  const std::shared_ptr<const PolicyState> state = publisher_->current();
  response->set_version(kVersion);
  response->set_epoch(state->epoch);
  response->set_revision(state->revision);
  SetTime(started_at_, response->mutable_started_at());
  response->set_remembers_requests(true);
  response->set_name(name_);
  return Now(context, absl::OkStatus());
}

}  // namespace gateway::controlplane
