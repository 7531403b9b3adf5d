// Who calls the admin API: established once, at the head of each call, and known to everything behind it.
#ifndef GATEWAY_CONTROLPLANE_IDENTITY_CALLER_H_
#define GATEWAY_CONTROLPLANE_IDENTITY_CALLER_H_

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "common/base/digest.h"
#include "controlplane/identity/caller_limits.h"
#include "controlplane/identity/scope.h"
#include "gateway/v1/admin.pb.h"
#include "grpcpp/server_context.h"

namespace gateway::controlplane {

struct Caller {
  std::string name;  // as authenticated; "": nobody asked who it is
  v1::Token::Role role = v1::Token::ROLE_UNSPECIFIED;
  std::shared_ptr<const Scope> scope;              // null: everything
  std::string address;                             // without port
  std::optional<Digest> token;                     // of the control plane's own, by which it is known
  absl::Time expires_at = absl::InfiniteFuture();  // of a token of an issuer
  std::string action;                              // the call: "Apply"
};

// The context of every call of the admin listener: made by gRPC through CallContexts, filled in by AdminGate.
class CallContext final : public grpc::CallbackServerContext {
 public:
  Caller caller;
  CallerLimits::Slot slot;  // as long as the call
};

// Of a context that CallContexts made.
inline const Caller& CallerOf(const grpc::CallbackServerContext* context) {
  return static_cast<const CallContext*>(context)->caller;
}

class CallContexts final : public grpc::ContextAllocator {
 public:
  grpc::CallbackServerContext* NewCallbackServerContext() override { return new CallContext; }
  void Release(grpc::CallbackServerContext* context) override { delete static_cast<CallContext*>(context); }
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_IDENTITY_CALLER_H_
