// What operators have set for endpoints.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "controlplane/store/store_impl.h"

namespace gateway::controlplane {

absl::StatusOr<std::vector<v1::EndpointOverride>> Store::LoadOverrides() {
  std::lock_guard lock(impl_->mu);
  std::vector<v1::EndpointOverride> all;
  Statement row(impl_->database.get(),
                "SELECT service, endpoint, body, checksum FROM overrides ORDER BY service, endpoint");
  while (row.Step()) {
    v1::EndpointOverride& each = all.emplace_back();
    const std::string service = row.Text(0), endpoint = row.Text(1), body(row.Blob(2));
    if (row.Int(3) != ItemChecksum(service, endpoint, body) || !each.ParseFromString(body) ||
        each.service() != service || each.endpoint() != endpoint) {
      return impl_->database.Damaged(absl::StrCat("what was set for ", endpoint, " of '", service, "' cannot be read"));
    }
  }
  if (row.rc() != SQLITE_OK) return impl_->database.Error(row.rc(), "read");
  return all;
}

absl::Status Store::PutOverride(const v1::EndpointOverride& override) {
  std::lock_guard lock(impl_->mu);
  return impl_->database.Transact([&] {
    const std::string body = override.SerializeAsString();
    Statement put(impl_->database.get(),
                  "INSERT OR REPLACE INTO overrides(service, endpoint, body, checksum) VALUES(?,?,?,?)");
    put.Bind(override.service()).Bind(override.endpoint()).BindBlob(body);
    return put.Bind(ItemChecksum(override.service(), override.endpoint(), body)).Run();
  });
}

absl::Status Store::DeleteOverride(const std::string& service, const std::string& endpoint) {
  std::lock_guard lock(impl_->mu);
  return impl_->database.Transact([&] {
    Statement erase(impl_->database.get(), "DELETE FROM overrides WHERE service = ? AND endpoint = ?");
    return erase.Bind(service).Bind(endpoint).Run();
  });
}

}  // namespace gateway::controlplane
