// The state of the canaries of Routes.
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "controlplane/store/store_impl.h"

namespace gateway::controlplane {
namespace {

uint32_t ChecksumOf(const std::string& route, const StoredCanary& canary, const std::string& body) {
  return ItemChecksum(route, absl::StrCat(canary.revision, "\n", canary.written, "\n", canary.shape), body);
}

}  // namespace

int Store::Impl::WriteCanaries(const CanaryEdits& edits) {
  if (edits.older == CanaryEdits::Older::kAllReplaced) {
    if (int rc = database.Exec("DELETE FROM canaries"); rc != SQLITE_OK) return rc;
  }
  Statement erase(database.get(), "DELETE FROM canaries WHERE route = ?");
  const bool drops = edits.older == CanaryEdits::Older::kDropped;
  for (const std::string& route : edits.removed) {
    if (!drops) break;
    if (int rc = erase.Bind(route).Run(); rc != SQLITE_OK) return rc;
  }
  Statement put(database.get(),
                "INSERT OR REPLACE INTO canaries(route, revision, written, shape, body, checksum) VALUES(?,?,?,?,?,?)");
  for (const auto& [route, canary] : edits.put) {
    if (drops) {
      if (int rc = erase.Bind(route).Run(); rc != SQLITE_OK) return rc;
    }
    const std::string body = canary.state.SerializeAsString();
    put.Bind(route).Bind(static_cast<int64_t>(canary.revision)).Bind(static_cast<int64_t>(canary.written));
    put.Bind(canary.shape).BindBlob(body);
    if (int rc = put.Bind(ChecksumOf(route, canary, body)).Run(); rc != SQLITE_OK) return rc;
  }
  return SQLITE_OK;
}

absl::StatusOr<CanarySet> Store::LoadCanaries(uint64_t revision) {
  std::lock_guard lock(impl_->mu);
  CanarySet all;
  Statement row(impl_->database.get(),
                "SELECT route, revision, written, shape, body, checksum FROM canaries WHERE revision <= ? "
                "ORDER BY route, revision");
  row.Bind(static_cast<int64_t>(revision));
  while (row.Step()) {
    const std::string route = row.Text(0), body(row.Blob(4));
    StoredCanary canary{static_cast<uint64_t>(row.Int(1)), static_cast<uint64_t>(row.Int(2)), row.Text(3), {}};
    if (row.Int(5) != ChecksumOf(route, canary, body) || !canary.state.ParseFromString(body)) {
      return impl_->database.Damaged(absl::StrCat("the canary of Route/", route, " cannot be read"));
    }
    all[route] = std::move(canary);
  }
  if (row.rc() != SQLITE_OK) return impl_->database.Error(row.rc(), "read");
  return all;
}

}  // namespace gateway::controlplane
