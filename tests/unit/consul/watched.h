// A watcher under test, with waits for what it publishes.
#ifndef GATEWAY_TESTS_UNIT_CONSUL_WATCHED_H_
#define GATEWAY_TESTS_UNIT_CONSUL_WATCHED_H_

#include <functional>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "controlplane/sources/consul/watcher.h"
#include "tests/fixtures/wait_for.h"

namespace gateway::controlplane {

class Watched {
 public:
  explicit Watched(ConsulWatcherOptions options)
      : watcher_(std::move(options), [this](std::shared_ptr<const EndpointCatalog> catalog) {
          absl::MutexLock lock(&mutex_);
          if (catalog->version < newest_->version) ordered_ = false;
          newest_ = std::move(catalog);
          ++publications_;
        }) {}

  ConsulWatcher& watcher() { return watcher_; }

  // Follows these services by name, in the agent's own datacenter.
  void Follow(const std::vector<std::string>& services,
              v1::ConsulSource::OnSuspect on_suspect = v1::ConsulSource::KEEP) {
    EndpointInterest interest;
    for (const std::string& service : services) interest.services.push_back({"", service, on_suspect});
    watcher_.SetInterest(std::move(interest));
  }

  // Waits for what becomes of it.
  absl::StatusOr<v1::EndpointSet> Decide(v1::DecideEndpointsRequest::Decision what, const std::string& service,
                                         const std::string& comment = "") {
    std::promise<absl::StatusOr<v1::EndpointSet>> promise;
    watcher_.Decide({{"", service}, what, "ada", comment},
                    [&promise](absl::StatusOr<v1::EndpointSet> set) { promise.set_value(std::move(set)); });
    return promise.get_future().get();
  }
  // "held changed": of its history, the newest first.
  std::string History(const std::string& service) const {
    std::string text;
    for (const v1::EndpointEvent& event : watcher_.History({"", service})) {
      text += (text.empty() ? "" : " ") + absl::AsciiStrToLower(v1::EndpointEvent::Kind_Name(event.kind()));
    }
    return text;
  }

  using Condition = std::function<bool(const EndpointCatalog&)>;
  [[nodiscard]] bool Wait(const Condition& condition, fixtures::Timeout timeout = fixtures::kSoon) {
    const auto holds = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return condition(*newest_); };
    absl::MutexLock lock(&mutex_);
    return mutex_.AwaitWithTimeout(absl::Condition(&holds), absl::FromChrono(timeout));
  }

  std::shared_ptr<const EndpointCatalog> newest() const {
    absl::MutexLock lock(&mutex_);
    return newest_;
  }
  int publications() const {
    absl::MutexLock lock(&mutex_);
    return publications_;
  }
  bool ordered() const {
    absl::MutexLock lock(&mutex_);
    return ordered_;
  }

 private:
  mutable absl::Mutex mutex_;
  std::shared_ptr<const EndpointCatalog> newest_ ABSL_GUARDED_BY(mutex_) = std::make_shared<EndpointCatalog>();
  int publications_ ABSL_GUARDED_BY(mutex_) = 0;
  bool ordered_ ABSL_GUARDED_BY(mutex_) = true;
  ConsulWatcher watcher_;  // last: its thread uses the others
};

// The set; without one, an empty one of state STATE_UNSPECIFIED.
inline const v1::EndpointSet& SetOf(const EndpointCatalog& catalog, const std::string& service,
                                    const std::string& datacenter = "") {
  const auto found = catalog.sets.find({datacenter, service});
  return found == catalog.sets.end() ? v1::EndpointSet::default_instance() : *found->second;
}

// "8001 8002": the ports of serving instances. Followed by "stale" if the set is stale.
inline std::string Serving(const v1::EndpointSet& set) {
  std::string text;
  for (const v1::Instance& instance : set.instances()) {
    if (instance.weight() == 0) continue;
    if (instance.health() != v1::Instance::PASSING && instance.health() != v1::Instance::WARNING) continue;
    text += (text.empty() ? "" : " ") + std::to_string(instance.port());
  }
  if (set.stale()) text += text.empty() ? "stale" : " stale";
  return text;
}

// A condition for Wait.
inline Watched::Condition Serves(const std::string& service, const std::string& ports) {
  return [=](const EndpointCatalog& catalog) {
    const v1::EndpointSet& set = SetOf(catalog, service);
    return set.state() == v1::EndpointSet::KNOWN && Serving(set) == ports;
  };
}

inline Watched::Condition Unknown(const std::string& service) {
  return [=](const EndpointCatalog& catalog) {
    return SetOf(catalog, service).state() == v1::EndpointSet::UNKNOWN_SERVICE;
  };
}

}  // namespace gateway::controlplane

#endif  // GATEWAY_TESTS_UNIT_CONSUL_WATCHED_H_
