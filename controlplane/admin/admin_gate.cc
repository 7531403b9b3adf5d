#include "controlplane/admin/admin_gate.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/pki.h"
#include "controlplane/identity/data_plane_name.h"
#include "controlplane/identity/own_actors.h"
#include "controlplane/identity/rules.h"
#include "controlplane/rpc/grpc_status.h"
#include "controlplane/stream/config_service.h"

namespace gateway::controlplane {
namespace {

constexpr char kAuthorization[] = "authorization";
constexpr char kBearer[] = "bearer ";  // in any case: RFC 9110, section 11.1

}  // namespace

AdminGate::AdminGate(AdminService* service, Tokens* tokens, AuditLog* audit, AdminGateOptions options)
    : service_(service), tokens_(tokens), audit_(audit), options_(std::move(options)) {}

absl::Status AdminGate::IdentifyByCertificate(const std::string& certificate, Caller* caller) const {
  const absl::StatusOr<CertificateInfo> info = DescribeCertificate(certificate);
  if (!info.ok()) return absl::UnauthenticatedError("the client certificate cannot be read");
  caller->name = !info->common_name.empty()  ? info->common_name
                 : !info->names.uris.empty() ? info->names.uris.front()
                 : !info->names.dns.empty()  ? info->names.dns.front()
                                             : "";
  if (caller->name.empty()) return absl::UnauthenticatedError("the client certificate has no name");
  if (IsOwnActor(caller->name)) {
    return absl::UnauthenticatedError(
        absl::StrCat("the client certificate is for '", caller->name, "', which is the control plane itself"));
  }
  caller->role = RoleNamed(info->organizational_unit);
  if (caller->role != v1::Token::ROLE_UNSPECIFIED) return absl::OkStatus();
  if (!info->organizational_unit.empty()) {
    return absl::PermissionDeniedError(absl::StrCat("the certificate of '", caller->name, "' is for a '",
                                                    info->organizational_unit,
                                                    "' (its OU); expected viewer, operator, editor or admin"));
  }
  if (options_.shared_client_ca()) {
    return absl::PermissionDeniedError(
        absl::StrCat("the certificate of '", caller->name,
                     "' has no role (OU) and its CA is that of data planes: expected OU=viewer, operator, editor or "
                     "admin"));
  }
  caller->role = v1::Token::ADMIN;
  return absl::OkStatus();
}

absl::Status AdminGate::Identify(const grpc::CallbackServerContext& context, Caller* caller, absl::Time now) const {
  const auto& metadata = context.client_metadata();
  const auto [first, last] = metadata.equal_range(kAuthorization);
  if (first != last) {
    if (std::next(first) != last) return absl::UnauthenticatedError("two credentials; expected one");
    const absl::string_view value(first->second.data(), first->second.size());
    if (!absl::StartsWithIgnoreCase(value, kBearer)) {
      return absl::UnauthenticatedError("expected a credential of the form 'Bearer TOKEN'");
    }
    const absl::string_view secret = absl::StripAsciiWhitespace(value.substr(sizeof(kBearer) - 1));
    if (options_.oidc != nullptr && Oidc::LooksLikeToken({secret.data(), secret.size()})) {
      return options_.oidc->Identify({secret.data(), secret.size()}, now, caller);
    }
    absl::StatusOr<Tokens::Grant> grant = tokens_->Find({secret.data(), secret.size()}, now);
    if (!grant.ok()) return grant.status();
    caller->name = std::move(grant->name);
    caller->role = grant->role;
    caller->scope = std::move(grant->scope);
    caller->token = grant->digest;
    return absl::OkStatus();
  }
  if (const std::string certificate = PeerCertificate(*context.auth_context()); !certificate.empty()) {
    return IdentifyByCertificate(certificate, caller);
  }
  if (options_.required) {
    return absl::UnauthenticatedError(
        "no credential; expected a token (gatewayctl --token-file, GATEWAY_TOKEN) or a "
        "client certificate");
  }
  caller->role = v1::Token::ADMIN;
  return absl::OkStatus();
}

grpc::Status AdminGate::Admit(absl::string_view method, grpc::CallbackServerContext* context) {
  const absl::Time now = absl::Now();
  Caller& caller = static_cast<CallContext*>(context)->caller;
  caller.address = HostOfPeer(context->peer());
  caller.action = std::string(method);
  const CallRule* rule = RuleOf(method);
  absl::Status status = Identify(*context, &caller, now);
  if (status.ok() && rule == nullptr)
    status = absl::PermissionDeniedError(absl::StrCat(method, ": nobody may do that"));
  if (status.ok() && caller.role < rule->role) {
    status = absl::PermissionDeniedError(absl::StrCat("'", caller.name, "' has the role ", RoleName(caller.role), "; ",
                                                      method, " needs ", RoleName(rule->role),
                                                      rule->role == v1::Token::ADMIN ? "" : " or above"));
  }
  if (status.ok() && rule->effect == CallRule::kChangesFleet && caller.scope != nullptr) {
    status = absl::PermissionDeniedError(
        absl::StrCat("'", caller.name, "' is bound to labels or kinds; ", method, " concerns everybody"));
  }
  if (!status.ok()) {
    audit_->Denied(caller, std::string(status.message()), now);
    return ToGrpc(status);
  }
  if (!caller.name.empty()) {
    absl::StatusOr<CallerLimits::Slot> slot = limits_.Admit(caller.name, now);
    if (!slot.ok()) return ToGrpc(slot.status());
    static_cast<CallContext*>(context)->slot = *std::move(slot);
  }
  return grpc::Status::OK;
}

}  // namespace gateway::controlplane
