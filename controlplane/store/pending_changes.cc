// Changes that are not final, and how they ended.
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "controlplane/store/store_impl.h"

namespace gateway::controlplane {

int Store::Impl::WriteChange(const v1::PendingChange& change) {
  const std::string body = change.SerializeAsString();
  Statement put(database.get(), "INSERT OR REPLACE INTO pending_changes(revision, body, checksum) VALUES(?,?,?)");
  put.Bind(static_cast<int64_t>(change.revision())).BindBlob(body);
  if (int rc = put.Bind(ItemChecksum(absl::StrCat(change.revision()), "", body)).Run(); rc != SQLITE_OK) return rc;
  Statement prune(database.get(),
                  "DELETE FROM pending_changes WHERE revision NOT IN "
                  "(SELECT revision FROM pending_changes ORDER BY revision DESC LIMIT ?)");
  return prune.Bind(kPendingChangesKept).Run();
}

absl::StatusOr<std::optional<v1::PendingChange>> Store::Impl::ReadPendingChange(uint64_t revision) {
  Statement row(database.get(),
                revision == 0 ? "SELECT revision, body, checksum FROM pending_changes ORDER BY revision DESC LIMIT 1"
                              : "SELECT revision, body, checksum FROM pending_changes WHERE revision = ?");
  if (revision != 0) row.Bind(static_cast<int64_t>(revision));
  if (!row.Step()) {
    if (row.rc() != SQLITE_OK) return database.Error(row.rc(), "read");
    return std::nullopt;
  }
  v1::PendingChange change;
  const std::string body(row.Blob(1));
  if (row.Int(2) != ItemChecksum(absl::StrCat(row.Int(0)), "", body) || !change.ParseFromString(body) ||
      change.revision() != static_cast<uint64_t>(row.Int(0))) {
    return database.Damaged(absl::StrCat("what became of the change of revision ", row.Int(0), " cannot be read"));
  }
  return change;
}

absl::Status Store::PutPendingChange(const v1::PendingChange& change, const v1::AuditEntry& entry) {
  std::lock_guard lock(impl_->mu);
  return impl_->database.Transact([&] {
    const int rc = impl_->WriteChange(change);
    return rc == SQLITE_OK ? impl_->WriteAudit({&entry, 1}) : rc;
  });
}

absl::StatusOr<v1::PendingChange> Store::PendingChangeOf(uint64_t revision) {
  std::lock_guard lock(impl_->mu);
  absl::StatusOr<std::optional<v1::PendingChange>> change = impl_->ReadPendingChange(revision);
  if (!change.ok()) return change.status();
  if (change->has_value()) return **std::move(change);
  return absl::NotFoundError(revision == 0 ? "no change was ever staged, guarded or to be confirmed"
                                           : absl::StrCat("revision ", revision,
                                                          " was final at once, or what became "
                                                          "of it is no longer kept"));
}

}  // namespace gateway::controlplane
