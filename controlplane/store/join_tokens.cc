// The tokens with which data planes get their first certificate.
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "controlplane/store/store_impl.h"

namespace gateway::controlplane {
namespace {

absl::string_view BytesOf(const Digest& digest) {
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

uint32_t ChecksumOf(const std::string& name, int64_t expires, const Digest& digest) {
  return ItemChecksum(name, absl::StrCat(expires), BytesOf(digest));
}

}  // namespace

absl::Status Store::PutJoinToken(const StoredJoinToken& token, absl::Time now) {
  std::lock_guard lock(impl_->mu);
  bool full = false;
  const absl::Status done = impl_->database.Transact([&] {
    Statement expired(impl_->database.get(), "DELETE FROM join_tokens WHERE expires <= ?");
    if (int rc = expired.Bind(absl::ToUnixMicros(now)).Run(); rc != SQLITE_OK) return rc;
    Statement count(impl_->database.get(), "SELECT count(*) FROM join_tokens");
    if (!count.Step()) return count.rc();
    full = count.Int(0) >= static_cast<int64_t>(kJoinTokensMax);
    if (full) return SQLITE_OK;
    const int64_t expires = absl::ToUnixMicros(token.expires);
    Statement put(impl_->database.get(), "INSERT INTO join_tokens(digest, name, expires, checksum) VALUES(?,?,?,?)");
    put.BindBlob(BytesOf(token.digest)).Bind(token.name).Bind(expires);
    return put.Bind(ChecksumOf(token.name, expires, token.digest)).Run();
  });
  if (done.ok() && full) {
    return absl::ResourceExhaustedError(
        absl::StrCat("there are ", kJoinTokensMax, " join tokens; each is forgotten when it expires"));
  }
  return done;
}

absl::StatusOr<std::string> Store::FindJoinToken(const Digest& digest, absl::Time now) {
  std::lock_guard lock(impl_->mu);
  Statement row(impl_->database.get(), "SELECT name, expires, checksum FROM join_tokens WHERE digest = ?");
  row.BindBlob(BytesOf(digest));
  if (!row.Step()) {
    if (row.rc() != SQLITE_OK) return impl_->database.Error(row.rc(), "read");
    return absl::UnauthenticatedError("the join token is not known");
  }
  std::string name = row.Text(0);
  if (row.Int(2) != ChecksumOf(name, row.Int(1), digest)) {
    return impl_->database.Damaged(absl::StrCat("a join token of '", name, "' cannot be read"));
  }
  if (row.Int(1) <= absl::ToUnixMicros(now)) {
    return absl::UnauthenticatedError(absl::StrCat("the join token of '", name, "' has expired"));
  }
  return name;
}

absl::Status Store::CheckJoinTokens() {
  std::lock_guard lock(impl_->mu);
  Statement row(impl_->database.get(), "SELECT digest, name, expires, checksum FROM join_tokens");
  while (row.Step()) {
    Digest digest{};
    const absl::string_view bytes = row.Blob(0);
    const bool sized = bytes.size() == digest.size();
    if (sized) std::memcpy(digest.data(), bytes.data(), digest.size());
    if (!sized || row.Int(3) != ChecksumOf(row.Text(1), row.Int(2), digest)) {
      return impl_->database.Damaged(absl::StrCat("a join token of '", row.Text(1), "' cannot be read"));
    }
  }
  return row.rc() == SQLITE_OK ? absl::OkStatus() : impl_->database.Error(row.rc(), "read");
}

absl::Status Store::SpendJoinToken(const Digest& digest, const Digest& key, absl::Time now) {
  std::lock_guard lock(impl_->mu);
  bool spent = false;
  const absl::Status done = impl_->database.Transact([&] {
    Statement spend(impl_->database.get(),
                    "UPDATE join_tokens SET spent_by = ?1 WHERE digest = ?2 AND expires > ?3 AND "
                    "(spent_by IS NULL OR spent_by = ?1)");
    spend.BindBlob(BytesOf(key)).BindBlob(BytesOf(digest)).Bind(absl::ToUnixMicros(now));
    if (int rc = spend.Run(); rc != SQLITE_OK) return rc;
    spent = sqlite3_changes(impl_->database.get()) == 1;
    return SQLITE_OK;
  });
  if (done.ok() && !spent) return absl::UnauthenticatedError("the join token is spent, or has expired just now");
  return done;
}

}  // namespace gateway::controlplane
