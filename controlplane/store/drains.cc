// Data planes that operators have drained.
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "controlplane/store/store_impl.h"

namespace gateway::controlplane {

absl::StatusOr<std::map<std::string, v1::DataPlaneDrain>> Store::LoadDrains() {
  std::lock_guard lock(impl_->mu);
  std::map<std::string, v1::DataPlaneDrain> all;
  Statement row(impl_->database.get(), "SELECT name, body, checksum FROM drains");
  while (row.Step()) {
    const std::string name = row.Text(0), body(row.Blob(1));
    if (row.Int(2) != ItemChecksum(name, "", body) || !all[name].ParseFromString(body)) {
      return impl_->database.Damaged(absl::StrCat("the drain of '", name, "' cannot be read"));
    }
  }
  if (row.rc() != SQLITE_OK) return impl_->database.Error(row.rc(), "read");
  return all;
}

absl::Status Store::PutDrain(const std::string& name, const v1::DataPlaneDrain& drain) {
  std::lock_guard lock(impl_->mu);
  return impl_->database.Transact([&] {
    const std::string body = drain.SerializeAsString();
    Statement put(impl_->database.get(), "INSERT OR REPLACE INTO drains(name, body, checksum) VALUES(?,?,?)");
    return put.Bind(name).BindBlob(body).Bind(ItemChecksum(name, "", body)).Run();
  });
}

absl::Status Store::DeleteDrain(const std::string& name) {
  std::lock_guard lock(impl_->mu);
  return impl_->database.Transact([&] {
    Statement erase(impl_->database.get(), "DELETE FROM drains WHERE name = ?");
    return erase.Bind(name).Run();
  });
}

}  // namespace gateway::controlplane
