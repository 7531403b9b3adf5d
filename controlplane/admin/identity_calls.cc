#include "controlplane/admin/identity_calls.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/timestamp.h"
#include "controlplane/admin/call_context.h"
#include "controlplane/admin/paging.h"
#include "controlplane/identity/rules.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {

absl::Status IdentityCalls::CreateToken(const v1::CreateTokenRequest& request, const Caller& caller,
                                        v1::CreateTokenResponse* response) {
  const absl::Time now = absl::Now();
  absl::StatusOr<v1::CreateTokenResponse> done =
      tokens_->Create(request, caller.name.empty() ? caller.address : caller.name, now);
  if (!done.ok()) return done.status();
  audit_->Done(caller, absl::StrCat("created token ", request.name(), ", ", RoleName(request.role())), now);
  *response = *std::move(done);
  return absl::OkStatus();
}

absl::Status IdentityCalls::ListTokens(v1::ListTokensResponse* response) const {
  for (v1::Token& token : tokens_->List()) *response->add_tokens() = std::move(token);
  return absl::OkStatus();
}

absl::Status IdentityCalls::RevokeToken(const v1::RevokeTokenRequest& request, const Caller& caller) {
  const absl::Time now = absl::Now();
  if (absl::Status s = tokens_->Revoke(request.name(), now); !s.ok()) return s;
  audit_->Done(caller, absl::StrCat("revoked token ", request.name()), now);
  return absl::OkStatus();
}

absl::Status IdentityCalls::CreateJoinToken(const v1::CreateJoinTokenRequest& request, const Caller& caller,
                                            v1::CreateJoinTokenResponse* response) {
  if (absl::Status s = CheckContext(request.context()); !s.ok()) return s;
  if (joining_ == nullptr) {
    return absl::FailedPreconditionError(
        "this control plane has no CA for data planes (control_plane.join.ca_cert and ca_key)");
  }
  const absl::Time now = absl::Now();
  absl::StatusOr<v1::CreateJoinTokenResponse> done = joining_->CreateToken(request, now);
  if (!done.ok()) return done.status();
  const std::string& comment = request.context().comment();
  const std::string what = absl::StrCat("created a join token for data plane '", request.name(), "'",
                                        comment.empty() ? "" : absl::StrCat(": ", comment));
  spdlog::info("{}, by '{}' from {}", what, DoerOf(caller, request.context()), caller.address);
  audit_->Done(caller, what, now);
  *response = *std::move(done);
  return absl::OkStatus();
}

absl::Status IdentityCalls::ListAudit(const v1::ListAuditRequest& request, v1::ListAuditResponse* response) {
  absl::StatusOr<uint32_t> page_size = PageSize(request.page_size(), kAuditPageDefault, kAuditPageMax);
  if (!page_size.ok()) return page_size.status();
  const absl::Time since = request.has_since() ? TimeOf(request.since()) : absl::InfinitePast();
  const std::string fingerprint = Fingerprint(request.actor());
  const absl::StatusOr<uint64_t> before = ReadBefore(request.page_token(), fingerprint, "audit");
  if (!before.ok()) return before.status();
  audit_->Flush();
  absl::StatusOr<std::vector<v1::AuditEntry>> page = store_->AuditBefore(*before, request.actor(), since, *page_size);
  if (!page.ok()) return page.status();
  // An empty page ends it: one call more than there need be, where the last page is just full.
  if (!page->empty()) response->set_next_page_token(MakeToken({fingerprint, absl::StrCat(page->back().number())}));
  for (v1::AuditEntry& entry : *page) *response->add_entries() = std::move(entry);
  return absl::OkStatus();
}

}  // namespace gateway::controlplane
