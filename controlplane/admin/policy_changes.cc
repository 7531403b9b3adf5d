#include "controlplane/admin/policy_changes.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/units.h"

namespace gateway::controlplane {
namespace {

// A misspelt service of Consul is not an error of the policy, since the service may come later, but it is worth a
// warning.
void WarnOfUnknownServices(const v1::ApplyRequest& request, const EndpointCatalog* catalog,
                           v1::ApplyResponse* response) {
  if (catalog == nullptr) return;
  for (const v1::Resource& resource : request.resources()) {
    if (!resource.has_service() || !resource.service().has_consul()) continue;
    const v1::ConsulSource& source = resource.service().consul();
    const std::string& name = source.service();
    const auto names = catalog->names.find(source.datacenter());
    if (names == catalog->names.end() || names->second->contains(name)) continue;
    const std::string near = NearestName(name, {names->second->begin(), names->second->end()});
    response->add_warnings(
        absl::StrCat("Service/", resource.service().name(), ": '", name, "' is unknown to Consul",
                     source.datacenter().empty() ? "" : absl::StrCat(" in datacenter '", source.datacenter(), "'"),
                     near.empty() ? "" : absl::StrCat(" (did you mean '", near, "'?)"),
                     "; requests get 503 until it is registered"));
  }
}

}  // namespace

absl::Status PolicyChanges::Apply(const v1::ApplyRequest& request, const Author& author, v1::ApplyResponse* response) {
  absl::StatusOr<v1::ApplyResponse> done = publisher_->Apply(request, author);
  if (!done.ok()) return done.status();
  *response = *std::move(done);
  WarnOfUnknownServices(request, hub_->endpoints().get(), response);
  return absl::OkStatus();
}

absl::Status PolicyChanges::Delete(const v1::DeleteRequest& request, const Author& author,
                                   v1::DeleteResponse* response) {
  absl::StatusOr<v1::DeleteResponse> done = publisher_->Delete(request, author);
  if (!done.ok()) return done.status();
  *response = *std::move(done);
  return absl::OkStatus();
}

absl::Status PolicyChanges::Rollback(const v1::RollbackRequest& request, const Author& author,
                                     v1::RollbackResponse* response) {
  absl::StatusOr<v1::RollbackResponse> done = publisher_->Rollback(request, author);
  if (!done.ok()) return done.status();
  *response = *std::move(done);
  return absl::OkStatus();
}

absl::Status PolicyChanges::Decide(const v1::DecideChangeRequest& request, const Author& author,
                                   v1::DecideChangeResponse* response) {
  absl::StatusOr<v1::DecideChangeResponse> done = publisher_->Decide(request, author);
  if (!done.ok()) return done.status();
  *response = *std::move(done);
  return absl::OkStatus();
}

absl::Status PolicyChanges::DecideCanary(const v1::DecideCanaryRequest& request, const Author& author,
                                         v1::DecideCanaryResponse* response) {
  absl::StatusOr<v1::DecideCanaryResponse> done = publisher_->DecideCanary(request, author);
  if (!done.ok()) return done.status();
  *response = *std::move(done);
  return absl::OkStatus();
}

absl::Status PolicyChanges::Get(const v1::GetChangeRequest& request, v1::GetChangeResponse* response) const {
  absl::StatusOr<v1::PendingChange> change = publisher_->store().PendingChangeOf(request.revision());
  if (change.ok()) *response->mutable_change() = *std::move(change);
  return change.status();
}

}  // namespace gateway::controlplane
