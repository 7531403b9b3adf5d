// Tokens, the audit, and requests that have been done.
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "controlplane/store/store_impl.h"

namespace gateway::controlplane {
namespace {

absl::string_view BytesOf(const Digest& digest) {
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

}  // namespace

int Store::Impl::WriteAudit(std::span<const v1::AuditEntry> entries) {
  Statement append(database.get(), "INSERT INTO audit(time, actor, body) VALUES(?,?,?)");
  for (const v1::AuditEntry& entry : entries) {
    append.Bind(MicrosOf(entry.time())).Bind(entry.actor()).BindBlob(entry.SerializeAsString());
    if (int rc = append.Run(); rc != SQLITE_OK) return rc;
  }
  // Numbers have no gaps but at the old end: those that are kept are the newest.
  Statement prune(database.get(), "DELETE FROM audit WHERE number <= (SELECT max(number) FROM audit) - ?");
  return prune.Bind(static_cast<int64_t>(options.audit_rows_max)).Run();
}

int Store::Impl::WriteRequest(const StoredRequest& request) {
  Statement put(database.get(), "INSERT INTO requests(id, digest, revision, response) VALUES(?,?,?,?)");
  put.Bind(request.id).BindBlob(request.digest).Bind(static_cast<int64_t>(request.revision));
  if (int rc = put.BindBlob(request.response).Run(); rc != SQLITE_OK) return rc;
  Statement prune(database.get(), "DELETE FROM requests WHERE number <= (SELECT max(number) FROM requests) - ?");
  return prune.Bind(static_cast<int64_t>(kRequestsMax)).Run();
}

absl::StatusOr<std::optional<StoredRequest>> Store::FindRequest(const std::string& id) {
  std::lock_guard lock(impl_->mu);
  Statement row(impl_->database.get(), "SELECT digest, revision, response FROM requests WHERE id = ?");
  row.Bind(id);
  if (!row.Step()) {
    if (row.rc() != SQLITE_OK) return impl_->database.Error(row.rc(), "read");
    return std::nullopt;
  }
  return StoredRequest{id, std::string(row.Blob(0)), static_cast<uint64_t>(row.Int(1)), std::string(row.Blob(2))};
}

absl::Status Store::PutRequest(const StoredRequest& request) {
  std::lock_guard lock(impl_->mu);
  return impl_->database.Transact([&] { return impl_->WriteRequest(request); });
}

absl::StatusOr<std::vector<StoredToken>> Store::LoadTokens() {
  std::lock_guard lock(impl_->mu);
  std::vector<StoredToken> all;
  Statement row(impl_->database.get(), "SELECT name, digest, body, checksum FROM tokens ORDER BY name");
  while (row.Step()) {
    StoredToken& each = all.emplace_back();
    const std::string name = row.Text(0);
    const std::string digest(row.Blob(1)), body(row.Blob(2));
    if (row.Int(3) != ItemChecksum(name, digest, body) || digest.size() != each.digest.size() ||
        !each.token.ParseFromString(body) || each.token.name() != name) {
      return impl_->database.Damaged(absl::StrCat("the token '", name, "' cannot be read"));
    }
    memcpy(each.digest.data(), digest.data(), digest.size());
  }
  if (row.rc() != SQLITE_OK) return impl_->database.Error(row.rc(), "read");
  return all;
}

absl::Status Store::PutToken(const StoredToken& token) {
  std::lock_guard lock(impl_->mu);
  return impl_->database.Transact([&] {
    const std::string body = token.token.SerializeAsString();
    Statement put(impl_->database.get(), "INSERT OR REPLACE INTO tokens(name, digest, body, checksum) VALUES(?,?,?,?)");
    put.Bind(token.token.name()).BindBlob(BytesOf(token.digest)).BindBlob(body);
    return put.Bind(ItemChecksum(token.token.name(), BytesOf(token.digest), body)).Run();
  });
}

absl::Status Store::AppendAudit(std::span<const v1::AuditEntry> entries) {
  std::lock_guard lock(impl_->mu);
  return impl_->database.Transact([&] { return impl_->WriteAudit(entries); }, WriteKind::kBlind);
}

absl::StatusOr<std::vector<v1::AuditEntry>> Store::AuditBefore(uint64_t before, const std::string& actor,
                                                               absl::Time since, size_t limit) {
  std::lock_guard lock(impl_->mu);
  Statement row(impl_->database.get(), actor.empty()
                                           ? "SELECT number, body FROM audit WHERE number < ? AND time >= ? "
                                             "ORDER BY number DESC LIMIT ?"
                                           : "SELECT number, body FROM audit WHERE number < ? AND time >= ? AND "
                                             "actor = ? ORDER BY number DESC LIMIT ?");
  row.Bind(before == 0 ? INT64_MAX : static_cast<int64_t>(before)).Bind(absl::ToUnixMicros(since));
  if (!actor.empty()) row.Bind(actor);
  row.Bind(static_cast<int64_t>(limit));
  std::vector<v1::AuditEntry> page;
  size_t bytes = 0;
  while (bytes < kHistoryPageBytesMax && row.Step()) {
    v1::AuditEntry& entry = page.emplace_back();
    if (!entry.ParseFromString(std::string(row.Blob(1)))) {
      return impl_->database.Damaged(absl::StrCat("entry ", row.Int(0), " of the audit cannot be read"));
    }
    entry.set_number(static_cast<uint64_t>(row.Int(0)));
    bytes += entry.ByteSizeLong();
  }
  if (bytes < kHistoryPageBytesMax && row.rc() != SQLITE_OK) return impl_->database.Error(row.rc(), "read");
  return page;
}

}  // namespace gateway::controlplane
