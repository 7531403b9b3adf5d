// Private keys of certificates, and secrets of the control plane's own, are sealed on disk.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "controlplane/store/store_impl.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

constexpr char kNext[] = ".next";  // behind the sealing key's path: a key that takes its place

// A rename or a removal in the folder of `path` is on disk after this.
void SyncFolder(const std::string& path) {
  const size_t slash = path.rfind('/');
  const int fd =
      open(slash == std::string::npos ? "." : path.substr(0, slash + 1).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  (void)fsync(fd);  // file systems that cannot do that need not
  close(fd);
}

std::string Context(const ResourceKey& key) { return absl::StrCat(key.ToString(), " key"); }
std::string SecretContext(const std::string& name) { return absl::StrCat("secret ", name); }

}  // namespace

// The key that the rows are sealed under is KEY.next: it becomes KEY.
absl::Status Store::Impl::PromoteSealingKey(std::string* replaced) {
  const std::string key = SealingKeyPath(), next = absl::StrCat(key, kNext);
  *replaced = absl::StrCat(key, ".replaced-", absl::FormatTime("%Y%m%dT%H%M%SZ", absl::Now(), absl::UTCTimeZone()));
  if (rename(key.c_str(), replaced->c_str()) != 0 && errno != ENOENT) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot rename the sealing key '", key, "' to '", *replaced, "': ", strerror(errno)));
  }
  if (rename(next.c_str(), key.c_str()) != 0) {
    return absl::FailedPreconditionError(absl::StrCat("cannot rename the new sealing key '", next, "' to '", key,
                                                      "': ", strerror(errno), "; the next start does it"));
  }
  SyncFolder(key);
  return absl::OkStatus();
}

absl::Status Store::Impl::FinishReseal() {
  const std::string next = absl::StrCat(SealingKeyPath(), kNext);
  if (!options.create || access(next.c_str(), F_OK) != 0) return absl::OkStatus();
  absl::StatusOr<std::string> current = database.One("SELECT value FROM meta WHERE key='sealing_key'", "read");
  if (!current.ok()) return current.status();
  const absl::StatusOr<Sealer> read = Sealer::Read(next);
  if (read.ok() && read->Fingerprint() == *current) {
    std::string replaced;
    if (absl::Status s = PromoteSealingKey(&replaced); !s.ok()) return s;
    spdlog::warn("the interrupted replacement of the sealing key is finished; the old one is '{}'", replaced);
    return absl::OkStatus();
  }
  // It was made, and nothing was sealed under it.
  if (unlink(next.c_str()) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot remove '", next, "', a sealing key that was never used: ", strerror(errno)));
  }
  return absl::OkStatus();
}

int Store::Impl::ResealRows(const Sealer& next, size_t* count, absl::Status* status) {
  struct Row {
    int64_t id;
    std::string body;
    uint32_t checksum;
  };
  for (const bool history : {false, true}) {
    std::vector<Row> rows;
    {
      Statement row(database.get(),
                    history
                        ? "SELECT kind, name, body, checksum, revision, changed_at, built_in, owner, op, rowid FROM "
                          "history WHERE kind = 'Certificate' AND body IS NOT NULL"
                        : "SELECT kind, name, body, checksum, revision, changed_at, built_in, owner, 0, rowid FROM "
                          "resources WHERE kind = 'Certificate'");
      while (row.Step()) {
        ResourceSet read;
        const int op = static_cast<int>(row.Int(8));
        *status = ReadRow(row, &read, op);  // opened with the old key
        if (!status->ok()) return SQLITE_ABORT;
        const auto& [key, record] = *read.begin();
        const std::string& plain = record.resource->certificate().key().inline_();
        if (plain.empty()) continue;
        absl::StatusOr<std::string> sealed = next.Seal(plain, Context(key));
        if (!sealed.ok()) {
          *status = sealed.status();
          return SQLITE_ABORT;
        }
        v1::Resource copy = *record.resource;
        copy.mutable_certificate()->mutable_key()->set_inline_(*std::move(sealed));
        std::string body = CanonicalBytes(copy);
        const uint32_t checksum = RowChecksum(key, body, record.revision, row.Int(5), op, record.built_in, record.set);
        rows.push_back({row.Int(9), std::move(body), checksum});
      }
      if (row.rc() != SQLITE_OK) return row.rc();
    }
    Statement put(database.get(), history ? "UPDATE history SET body = ?, checksum = ? WHERE rowid = ?"
                                          : "UPDATE resources SET body = ?, checksum = ? WHERE rowid = ?");
    for (const Row& row : rows) {
      if (int rc = put.BindBlob(row.body).Bind(row.checksum).Bind(row.id).Run(); rc != SQLITE_OK) return rc;
    }
    *count += rows.size();
  }
  std::vector<std::pair<std::string, std::string>> secrets;  // name, sealed anew
  {
    Statement row(database.get(), "SELECT name, body FROM secrets");
    while (row.Step()) {
      const std::string name = row.Text(0);
      absl::StatusOr<std::string> plain = absl::FailedPreconditionError("the sealing key is missing");
      if (sealer.has_value()) plain = sealer->Open(row.Text(1), SecretContext(name));
      if (!plain.ok()) {
        // Of a key that is gone: nobody can read it, also not without this, and it is made anew when it is needed.
        spdlog::warn("the secret '{}' is not sealed again: {}", name, std::string(plain.status().message()));
        continue;
      }
      absl::StatusOr<std::string> sealed = next.Seal(*plain, SecretContext(name));
      if (!sealed.ok()) {
        *status = sealed.status();
        return SQLITE_ABORT;
      }
      secrets.emplace_back(name, *std::move(sealed));
    }
    if (row.rc() != SQLITE_OK) return row.rc();
  }
  for (const auto& [name, sealed] : secrets) {
    Statement put(database.get(), "UPDATE secrets SET body = ? WHERE name = ?");
    if (int rc = put.Bind(sealed).Bind(name).Run(); rc != SQLITE_OK) return rc;
  }
  Statement set(database.get(), "INSERT OR REPLACE INTO meta(key, value) VALUES('sealing_key', ?)");
  return set.Bind(next.Fingerprint()).Run();
}

absl::StatusOr<Store::Resealed> Store::Reseal() {
  std::lock_guard lock(impl_->mu);
  absl::StatusOr<Sealer> next = Sealer::Create(absl::StrCat(impl_->SealingKeyPath(), kNext));
  if (!next.ok()) return next.status();
  SyncFolder(impl_->SealingKeyPath());
  // What was sealed under the old key does not stay in pages that are free.
  if (int rc = impl_->database.Exec("PRAGMA secure_delete=ON"); rc != SQLITE_OK) {
    return impl_->database.Error(rc, "write to");
  }
  Resealed done;
  absl::Status why;
  const absl::Status status = impl_->database.Transact([&] { return impl_->ResealRows(*next, &done.keys, &why); });
  if (!why.ok()) {
    (void)unlink(absl::StrCat(impl_->SealingKeyPath(), kNext).c_str());  // else the next Open does
    return why;
  }
  // After a failed sync the rows may be on disk or not: the next Open sees which, and needs the new key for that.
  if (!status.ok()) return status;
  if (absl::Status s = impl_->PromoteSealingKey(&done.replaced_key); !s.ok()) return s;
  impl_->sealer.emplace(*std::move(next));
  (void)impl_->database.Exec(
      "PRAGMA wal_checkpoint(TRUNCATE)");  // the log has the old rows until then, or until the end
  return done;
}

absl::Status Store::Impl::ReadSealingKey() {
  absl::StatusOr<Sealer> read = Sealer::Read(SealingKeyPath());
  if (!options.create) {
    // Of an interrupted Reseal: the key may still be called KEY.next.
    absl::StatusOr<std::string> current = database.One("SELECT value FROM meta WHERE key='sealing_key'", "read");
    if (!current.ok()) return current.status();
    absl::StatusOr<Sealer> next = Sealer::Read(absl::StrCat(SealingKeyPath(), kNext));
    if (next.ok() && next->Fingerprint() == *current) read = std::move(next);
  }
  if (read.ok()) {
    sealer.emplace(*std::move(read));
    return absl::OkStatus();
  }
  return absl::IsNotFound(read.status()) ? absl::OkStatus() : read.status();
}

// Only if nothing is sealed under a lost one: a new key would hide that.
absl::Status Store::Impl::MakeSealingKey() {
  if (sealer.has_value() || !options.create) return absl::OkStatus();
  absl::StatusOr<Sealer> made = Sealer::Create(SealingKeyPath());
  if (!made.ok()) return made.status();
  sealer.emplace(*std::move(made));
  return absl::OkStatus();
}

absl::StatusOr<std::string> Store::Impl::Sealed(const ResourceKey& key, const v1::Resource& resource) const {
  if (!resource.has_certificate() || resource.certificate().key().inline_().empty()) return CanonicalBytes(resource);
  if (!sealer.has_value()) return absl::FailedPreconditionError("the sealing key is missing");
  absl::StatusOr<std::string> sealed = sealer->Seal(resource.certificate().key().inline_(), Context(key));
  if (!sealed.ok()) return sealed.status();
  v1::Resource copy = resource;
  copy.mutable_certificate()->mutable_key()->set_inline_(*std::move(sealed));
  return CanonicalBytes(copy);
}

absl::Status Store::Impl::Unseal(const ResourceKey& key, v1::Resource* resource) const {
  if (!resource->has_certificate() || !IsSealed(resource->certificate().key().inline_())) return absl::OkStatus();
  const std::string where =
      absl::StrCat("the database '", options.path, "': the private key of ", key.ToString(), ": ");
  if (!sealer.has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat(where, "its sealing key '", SealingKeyPath(), "' is missing; restore it"));
  }
  absl::StatusOr<std::string> plain = sealer->Open(resource->certificate().key().inline_(), Context(key));
  if (!plain.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat(where, plain.status().message(), " (the sealing key is '", SealingKeyPath(), "')"));
  }
  resource->mutable_certificate()->mutable_key()->set_inline_(*std::move(plain));
  return absl::OkStatus();
}

absl::StatusOr<std::string> Store::Secret(const std::string& name) {
  std::lock_guard lock(impl_->mu);
  Statement row(impl_->database.get(), "SELECT body FROM secrets WHERE name = ?");
  row.Bind(name);
  if (!row.Step()) {
    if (row.rc() != SQLITE_OK) return impl_->database.Error(row.rc(), "read");
    return absl::NotFoundError(absl::StrCat("the secret '", name, "' is not in the database"));
  }
  if (!impl_->sealer.has_value()) return absl::FailedPreconditionError("the sealing key is missing");
  absl::StatusOr<std::string> plain = impl_->sealer->Open(row.Text(0), SecretContext(name));
  if (plain.ok()) return plain;
  return absl::Status(plain.status().code(), absl::StrCat("the database '", impl_->options.path, "': the secret '",
                                                          name, "': ", plain.status().message()));
}

absl::Status Store::PutSecret(const std::string& name, const std::string& plain) {
  std::lock_guard lock(impl_->mu);
  if (!impl_->sealer.has_value()) return absl::FailedPreconditionError("the sealing key is missing");
  const absl::StatusOr<std::string> sealed = impl_->sealer->Seal(plain, SecretContext(name));
  if (!sealed.ok()) return sealed.status();
  return impl_->database.Transact(
      [&] {
        Statement put(impl_->database.get(), "INSERT OR REPLACE INTO secrets(name, body) VALUES(?,?)");
        return put.Bind(name).Bind(*sealed).Run();
      },
      WriteKind::kBlind);
}

absl::Status Store::DeleteSecret(const std::string& name) {
  std::lock_guard lock(impl_->mu);
  return impl_->database.Transact(
      [&] {
        Statement erase(impl_->database.get(), "DELETE FROM secrets WHERE name = ?");
        return erase.Bind(name).Run();
      },
      WriteKind::kBlind);
}

}  // namespace gateway::controlplane
