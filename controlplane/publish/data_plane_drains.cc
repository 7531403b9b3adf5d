#include "controlplane/publish/data_plane_drains.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {

absl::StatusOr<std::unique_ptr<DataPlaneDrains>> DataPlaneDrains::Open(Store* store) {
  absl::StatusOr<DrainMap> loaded = store->LoadDrains();
  if (!loaded.ok()) return loaded.status();
  std::unique_ptr<DataPlaneDrains> drains(new DataPlaneDrains(store));
  std::lock_guard lock(drains->mu_);
  drains->all_ = *std::move(loaded);
  return drains;
}

DataPlaneDrains::~DataPlaneDrains() { Stop(); }

void DataPlaneDrains::Start(PublishFunction publish) {
  {
    std::lock_guard lock(mu_);
    publish_ = std::move(publish);
    publish_(all_);
  }
  thread_ = std::thread([this] { Run(); });
}

void DataPlaneDrains::Stop() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(forgotten_mu_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

absl::StatusOr<v1::DataPlaneDrain> DataPlaneDrains::Set(const std::string& name, const v1::DataPlaneDrain& drain) {
  std::lock_guard lock(mu_);
  if (const auto found = all_.find(name); found != all_.end()) return found->second;
  if (all_.size() >= kDrainsMax) {
    return absl::ResourceExhaustedError(absl::StrCat(kDrainsMax, " data planes are drained; take some back (undrain)"));
  }
  if (absl::Status s = store_->PutDrain(name, drain); !s.ok()) return s;
  all_.emplace(name, drain);
  publish_(all_);
  return drain;
}

absl::Status DataPlaneDrains::Clear(const std::string& name) {
  std::lock_guard lock(mu_);
  const auto found = all_.find(name);
  if (found == all_.end()) return absl::NotFoundError(absl::StrCat("data plane '", name, "' is not drained"));
  if (absl::Status s = store_->DeleteDrain(name); !s.ok()) return s;
  all_.erase(found);
  publish_(all_);
  return absl::OkStatus();
}

void DataPlaneDrains::Forget(const std::string& name) {
  {
    std::lock_guard lock(forgotten_mu_);
    if (ending_) return;
    forgotten_.insert(name);
  }
  changed_.notify_all();
}

DrainMap DataPlaneDrains::List() const {
  std::lock_guard lock(mu_);
  return all_;
}

void DataPlaneDrains::Run() {
  std::unique_lock lock(forgotten_mu_);
  while (true) {
    changed_.wait(lock, [this] { return ending_ || !forgotten_.empty(); });
    const std::set<std::string> names = std::exchange(forgotten_, {});
    if (names.empty()) return;
    lock.unlock();
    for (const std::string& name : names) {
      const absl::Status status = Clear(name);
      if (status.ok()) {
        spdlog::info("data plane '{}' is forgotten, and no longer drained", name);
      } else if (!absl::IsNotFound(status)) {
        spdlog::warn("the drain of the forgotten data plane '{}' stays in the database: {}", name,
                     std::string(status.message()));
      }
    }
    lock.lock();
  }
}

}  // namespace gateway::controlplane
