#include "controlplane/stream/join_service.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "controlplane/identity/data_plane_name.h"
#include "controlplane/rpc/grpc_status.h"
#include "controlplane/stream/config_service.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

constexpr char kEnroll[] = "Enroll";

// An operator may have the same name as a data plane.
void NameAsDataPlane(Caller* caller) {
  if (!caller->name.empty()) caller->name = absl::StrCat("data plane ", caller->name);
}

}  // namespace

bool JoinService::MayTell(absl::Time now) {
  std::lock_guard lock(mu_);
  const double grown = std::max(0.0, absl::ToDoubleSeconds(now - filled_at_) * kRefusalsToldPerSecond);
  room_ = std::min(kRefusalsToldBurst, room_ + grown);
  filled_at_ = now;
  if (room_ < 1) return false;
  room_ -= 1;
  return true;
}

grpc::ServerUnaryReactor* JoinService::Enroll(grpc::CallbackServerContext* context, const v1::EnrollRequest* request,
                                              v1::EnrollResponse* response) {
  return Run(context, kEnroll, &counts_.enrolled, [this, request, response](Caller* caller) {
    return joining_->Enroll(*request, now_(), &caller->name, response);
  });
}

grpc::ServerUnaryReactor* JoinService::Renew(grpc::CallbackServerContext* context, const v1::RenewRequest* request,
                                             v1::EnrollResponse* response) {
  return Run(context, "Renew", &counts_.renewed,
             [this, request, response, certificate = PeerCertificate(*context->auth_context())](Caller* caller) {
               return joining_->Renew(*request, certificate, now_(), &caller->name, response);
             });
}

grpc::ServerUnaryReactor* JoinService::Run(grpc::CallbackServerContext* context, const char* action,
                                           std::atomic<uint64_t>* count,
                                           std::function<absl::Status(Caller* caller)> work) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  Caller caller;
  caller.address = HostOfPeer(context->peer());
  caller.action = action;
  absl::StatusOr<CallerLimits::Slot> slot = limits_.Admit(caller.address, now_());
  if (!slot.ok()) {
    ++counts_.rejected;
    reactor->Finish(ToGrpc(slot.status()));
    return reactor;
  }
  const bool queued = executor_.Run(
      [this, reactor, count, caller = std::move(caller), slot = *std::move(slot), work = std::move(work)]() mutable {
        const absl::Status status = work(&caller);
        ++(status.ok() ? *count : counts_.rejected);
        if (status.ok()) {
          spdlog::info("data plane '{}' ({}): {}: a certificate is issued", caller.name, caller.address, caller.action);
        } else if (MayTell(now_())) {
          spdlog::warn("data plane '{}' ({}): {}: {}", caller.name.empty() ? "?" : caller.name, caller.address,
                       caller.action, std::string(status.message()));
          NameAsDataPlane(&caller);
          audit_->Denied(caller, std::string(status.message()), now_());
        }
        if (status.ok() && caller.action == kEnroll) {
          const std::string detail = absl::StrCat("issued a certificate for data plane '", caller.name, "'");
          NameAsDataPlane(&caller);
          audit_->Done(caller, detail, now_());
        }
        reactor->Finish(ToGrpc(status));
      });
  if (!queued) {
    ++counts_.rejected;
    reactor->Finish({grpc::StatusCode::UNAVAILABLE, "too many requests are waiting"});
  }
  return reactor;
}

}  // namespace gateway::controlplane
