// A copy of the database while it is in use, and a look at every row.
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "controlplane/store/store_impl.h"

namespace gateway::controlplane {
namespace {

constexpr int kBackupStepPages = 2'048;  // 8 MiB: a change waits for one step at most

}  // namespace

absl::StatusOr<uint64_t> Store::BackUp(const std::string& to) {
  Database copy(to);
  CreatePrivate(to);
  int rc = copy.OpenFile(to, 0, "");
  if (rc != SQLITE_OK) return copy.Error(rc, "create");
  sqlite3_backup* backup = nullptr;
  {
    std::lock_guard lock(impl_->mu);
    backup = sqlite3_backup_init(copy.get(), "main", impl_->database.get(), "main");
  }
  if (backup == nullptr) return copy.Error(sqlite3_errcode(copy.get()), "write to");
  // Changes between two steps go through the same connection: SQLite writes them into the copy as well.
  do {
    std::lock_guard lock(impl_->mu);
    rc = sqlite3_backup_step(backup, kBackupStepPages);
  } while (rc == SQLITE_OK);
  {
    std::lock_guard lock(impl_->mu);
    rc = sqlite3_backup_finish(backup);
  }
  // One file, without a log beside it.
  if (rc == SQLITE_OK) rc = copy.Exec("PRAGMA journal_mode=DELETE");
  absl::StatusOr<int64_t> revision = absl::InternalError("");
  if (rc != SQLITE_OK) {
    revision = copy.Error(rc, "write to");
  } else {
    revision = copy.Number("SELECT coalesce(max(revision), 0) FROM revisions");
  }
  copy.Close();
  if (revision.ok()) return static_cast<uint64_t>(*revision);
  for (const char* suffix : {"", "-journal", "-wal", "-shm"}) (void)unlink(absl::StrCat(to, suffix).c_str());
  return revision.status();
}

absl::Status Store::CheckAll() {
  if (absl::StatusOr<std::vector<StoredToken>> tokens = LoadTokens(); !tokens.ok()) return tokens.status();
  if (absl::StatusOr<std::vector<v1::EndpointOverride>> all = LoadOverrides(); !all.ok()) return all.status();
  if (auto drains = LoadDrains(); !drains.ok()) return drains.status();
  if (auto canaries = LoadCanaries(revision()); !canaries.ok()) return canaries.status();
  if (absl::Status s = CheckJoinTokens(); !s.ok()) return s;
  std::lock_guard lock(impl_->mu);
  absl::StatusOr<std::string> check = impl_->database.One("PRAGMA integrity_check(1)", "read");
  if (!check.ok()) return check.status();
  if (*check != "ok") return impl_->database.Damaged(*check);
  Statement row(impl_->database.get(),
                "SELECT kind, name, body, checksum, revision, changed_at, built_in, owner, op FROM history WHERE body "
                "IS NOT NULL");
  while (row.Step()) {
    ResourceSet read;
    if (absl::Status s = impl_->ReadRow(row, &read, static_cast<int>(row.Int(8))); !s.ok()) return s;
  }
  if (row.rc() != SQLITE_OK) return impl_->database.Error(row.rc(), "read");
  std::vector<uint64_t> changes;
  {
    Statement change(impl_->database.get(), "SELECT revision FROM pending_changes");
    while (change.Step()) changes.push_back(static_cast<uint64_t>(change.Int(0)));
    if (change.rc() != SQLITE_OK) return impl_->database.Error(change.rc(), "read");
  }
  for (const uint64_t revision : changes) {
    if (auto change = impl_->ReadPendingChange(revision); !change.ok()) return change.status();
  }
  // Secrets have no checksum. One that cannot be opened is made anew by its owner: no reason to refuse a backup.
  Statement audit(impl_->database.get(), "SELECT number, body FROM audit");
  while (audit.Step()) {
    if (v1::AuditEntry entry; !entry.ParseFromString(std::string(audit.Blob(1)))) {
      return impl_->database.Damaged(absl::StrCat("entry ", audit.Int(0), " of the audit cannot be read"));
    }
  }
  return audit.rc() == SQLITE_OK ? absl::OkStatus() : impl_->database.Error(audit.rc(), "read");
}

}  // namespace gateway::controlplane
