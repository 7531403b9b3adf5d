#include "controlplane/publish/endpoint_overrides.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

// Between two looks at the clock, which may be set.
constexpr std::chrono::seconds kLookEvery{60};

// None: it stays until it is taken back.
std::optional<absl::Time> EndOf(const v1::EndpointOverride& override) {
  if (!override.has_until()) return std::nullopt;
  return absl::FromUnixSeconds(override.until().seconds()) + absl::Nanoseconds(override.until().nanos());
}

}  // namespace

std::string DescribeOverride(const v1::EndpointOverride& override) {
  if (override.action_case() == v1::EndpointOverride::kDrain) return "drained";
  return override.weight() == 0 ? "taken out" : absl::StrCat("weight ", override.weight(), " instead of its own");
}

absl::StatusOr<std::unique_ptr<EndpointOverrides>> EndpointOverrides::Open(Store* store, Options options) {
  absl::StatusOr<std::vector<v1::EndpointOverride>> loaded = store->LoadOverrides();
  if (!loaded.ok()) return loaded.status();
  std::unique_ptr<EndpointOverrides> overrides(new EndpointOverrides(store, std::move(options)));
  {
    std::lock_guard lock(overrides->mu_);
    for (v1::EndpointOverride& each : *loaded) {
      Key key(each.service(), each.endpoint());
      overrides->all_.emplace(std::move(key), std::move(each));
    }
    overrides->EndDue();
    overrides->Publish();
  }
  overrides->thread_ = std::thread([raw = overrides.get()] { raw->Run(); });
  return overrides;
}

EndpointOverrides::~EndpointOverrides() {
  {
    std::lock_guard lock(mu_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

absl::Status EndpointOverrides::Set(const v1::EndpointOverride& override) {
  {
    std::lock_guard lock(mu_);
    const Key key(override.service(), override.endpoint());
    if (all_.size() >= kOverridesMax && !all_.contains(key)) {
      return absl::ResourceExhaustedError(
          absl::StrCat("there are ", kOverridesMax, " endpoints that operators have set; take some back (up)"));
    }
    if (absl::Status s = store_->PutOverride(override); !s.ok()) return s;
    all_[key] = override;
    Publish();
  }
  changed_.notify_all();
  return absl::OkStatus();
}

absl::Status EndpointOverrides::Clear(const std::string& service, const std::string& endpoint) {
  std::lock_guard lock(mu_);
  const auto found = all_.find({service, endpoint});
  if (found == all_.end()) {
    return absl::NotFoundError(absl::StrCat("nothing is set for ", endpoint, " of '", service, "'"));
  }
  if (absl::Status s = store_->DeleteOverride(service, endpoint); !s.ok()) return s;
  all_.erase(found);
  Publish();
  return absl::OkStatus();
}

std::vector<v1::EndpointOverride> EndpointOverrides::List(const std::string& service) const {
  std::lock_guard lock(mu_);
  std::vector<v1::EndpointOverride> listed;
  for (const auto& [key, each] : all_) {
    if (service.empty() || key.first == service) listed.push_back(each);
  }
  return listed;
}

bool EndpointOverrides::EndDue() {
  const absl::Time now = options_.now();
  bool any = false;
  for (auto it = all_.begin(); it != all_.end();) {
    const std::optional<absl::Time> end = EndOf(it->second);
    if (!end || *end > now) {
      ++it;
      continue;
    }
    // Where the disk does not take it, the next start finds that its time has come.
    if (const absl::Status s = store_->DeleteOverride(it->first.first, it->first.second); !s.ok()) {
      spdlog::warn("an endpoint that an operator had set stays in the database: {}", std::string(s.message()));
    }
    spdlog::info("{} of '{}' is as policy has it again: its time is over ({})", it->second.endpoint(),
                 it->second.service(), DescribeOverride(it->second));
    if (options_.ended) options_.ended(it->second);
    it = all_.erase(it);
    any = true;
  }
  return any;
}

void EndpointOverrides::Publish() const {
  if (!options_.publish) return;
  std::vector<v1::EndpointOverride> all;
  all.reserve(all_.size());
  for (const auto& [key, each] : all_) all.push_back(each);
  options_.publish(all);
}

void EndpointOverrides::Run() {
  std::unique_lock lock(mu_);
  while (!ending_) {
    if (EndDue()) Publish();
    std::chrono::milliseconds wait = kLookEvery;
    for (const auto& [key, each] : all_) {
      const std::optional<absl::Time> end = EndOf(each);
      if (!end) continue;
      const auto left = absl::ToChronoMilliseconds(*end - options_.now()) + std::chrono::milliseconds(1);
      wait = std::clamp(left, std::chrono::milliseconds(1), wait);
    }
    changed_.wait_for(lock, wait);
  }
}

}  // namespace gateway::controlplane
