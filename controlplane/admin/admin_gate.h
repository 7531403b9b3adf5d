// The head of every call of the admin API: who calls, and may they?
#ifndef GATEWAY_CONTROLPLANE_ADMIN_ADMIN_GATE_H_
#define GATEWAY_CONTROLPLANE_ADMIN_ADMIN_GATE_H_

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "controlplane/admin/admin_service.h"
#include "controlplane/identity/audit_log.h"
#include "controlplane/identity/caller.h"
#include "controlplane/identity/oidc.h"
#include "controlplane/identity/tokens.h"
#include "gateway/v1/admin.grpc.pb.h"

namespace gateway::controlplane {

struct AdminGateOptions {
  // Every call needs a credential. Without, one that comes with none may do everything, and one that comes with a
  // credential is held to it.
  bool required = false;
  // Whether the admin listener's client CA issues data planes' certificates too: then a certificate has to say which
  // role it is for.
  std::function<bool()> shared_client_ca = [] { return false; };
  Oidc* oidc = nullptr;  // null: no tokens of an issuer
};

// What gRPC serves on the admin listener; outlives the server. Each call is checked by its rule (rules.h) and passed on
// to AdminService, with its Caller in the context. A call that is not written down here is UNIMPLEMENTED: nothing is
// open by mistake.
class AdminGate final : public v1::Admin::CallbackService {
 public:
  AdminGate(AdminService* service, Tokens* tokens, AuditLog* audit, AdminGateOptions options);

#define GATEWAY_UNARY(method)                                                                                \
  grpc::ServerUnaryReactor* method(grpc::CallbackServerContext* context, const v1::method##Request* request, \
                                   v1::method##Response* response) override {                                \
    return Unary(#method, context, request, response, &AdminService::method);                                \
  }
#define GATEWAY_STREAM(method)                                                                          \
  grpc::ServerWriteReactor<v1::method##Response>* method(grpc::CallbackServerContext* context,          \
                                                         const v1::method##Request* request) override { \
    return Stream(#method, context, request, &AdminService::method);                                    \
  }
  GATEWAY_UNARY(Apply)
  GATEWAY_UNARY(Get)
  GATEWAY_UNARY(List)
  GATEWAY_UNARY(Delete)
  GATEWAY_UNARY(History)
  GATEWAY_UNARY(Lint)
  GATEWAY_UNARY(ResourceHistory)
  GATEWAY_STREAM(Backup)
  GATEWAY_UNARY(GetRevision)
  GATEWAY_UNARY(Rollback)
  GATEWAY_UNARY(DecideChange)
  GATEWAY_UNARY(DecideCanary)
  GATEWAY_UNARY(GetChange)
  GATEWAY_STREAM(Watch)
  GATEWAY_UNARY(ListDataPlanes)
  GATEWAY_UNARY(ForgetDataPlanes)
  GATEWAY_UNARY(AcceptHistory)
  GATEWAY_STREAM(Rollout)
  GATEWAY_UNARY(ListEndpoints)
  GATEWAY_UNARY(ListBreakers)
  GATEWAY_UNARY(ListLimits)
  GATEWAY_UNARY(GetServerInfo)
  GATEWAY_UNARY(SetEndpoint)
  GATEWAY_UNARY(DecideEndpoints)
  GATEWAY_UNARY(ListEndpointHistory)
  GATEWAY_UNARY(SetDrain)
  GATEWAY_UNARY(SetLogLevel)
  GATEWAY_UNARY(Diagnose)
  GATEWAY_UNARY(CreateToken)
  GATEWAY_UNARY(ListTokens)
  GATEWAY_UNARY(RevokeToken)
  GATEWAY_UNARY(CreateJoinToken)
  GATEWAY_UNARY(ListAudit)
  grpc::ServerUnaryReactor* Export(grpc::CallbackServerContext* context, const v1::ListRequest* request,
                                   v1::ListResponse* response) override {
    return Unary("Export", context, request, response, &AdminService::Export);
  }
#undef GATEWAY_UNARY
#undef GATEWAY_STREAM

 private:
  // Fills in the caller. Not OK: how the call ends.
  grpc::Status Admit(absl::string_view method, grpc::CallbackServerContext* context);
  // Unauthenticated; PermissionDenied for a certificate that is not an operator's, or a token of an issuer without a role;
  // Unavailable while an issuer's keys are not known.
  absl::Status Identify(const grpc::CallbackServerContext& context, Caller* caller, absl::Time now) const;
  absl::Status IdentifyByCertificate(const std::string& certificate, Caller* caller) const;

  template <typename Request, typename Response>
  grpc::ServerUnaryReactor* Unary(absl::string_view method, grpc::CallbackServerContext* context,
                                  const Request* request, Response* response,
                                  grpc::ServerUnaryReactor* (AdminService::*call)(grpc::CallbackServerContext*,
                                                                                  const Request*, Response*)) {
    if (const grpc::Status refusal = Admit(method, context); !refusal.ok()) {
      grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
      reactor->Finish(refusal);
      return reactor;
    }
    return (service_->*call)(context, request, response);
  }
  template <typename Request, typename Response>
  grpc::ServerWriteReactor<Response>* Stream(
      absl::string_view method, grpc::CallbackServerContext* context, const Request* request,
      grpc::ServerWriteReactor<Response>* (AdminService::*call)(grpc::CallbackServerContext*, const Request*)) {
    class Refusal final : public grpc::ServerWriteReactor<Response> {
     public:
      explicit Refusal(const grpc::Status& status) { this->Finish(status); }
      void OnDone() override { delete this; }
    };
    if (const grpc::Status refusal = Admit(method, context); !refusal.ok()) return new Refusal(refusal);
    return (service_->*call)(context, request);
  }

  AdminService* const service_;
  Tokens* const tokens_;
  AuditLog* const audit_;
  const AdminGateOptions options_;
  CallerLimits limits_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_ADMIN_ADMIN_GATE_H_
