#include "controlplane/sources/consul/publication.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "boost/asio/post.hpp"
#include "controlplane/sources/consul/state_file.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using std::chrono::milliseconds;

constexpr milliseconds kPublishPause{5};  // between two catalogs: joins what one event changes in several services
constexpr milliseconds kStateFileInterval{1000};  // between two writes
constexpr int kWarningsPerSet = 5;                // of a set's instances, at a time

void SetNow(google::protobuf::Timestamp* time) {
  const absl::Time now = absl::Now();
  time->set_seconds(absl::ToUnixSeconds(now));
  time->set_nanos(static_cast<int32_t>(absl::ToUnixNanos(now) % 1'000'000'000));
}

// Of each instance once, while it stays so.
void WarnOfUnusable(const v1::EndpointSet* before, const v1::EndpointSet& set) {
  std::set<std::pair<std::string_view, std::string_view>> told;
  if (before != nullptr) {
    for (const v1::Instance& instance : before->instances()) told.emplace(instance.id(), instance.unusable());
  }
  int warnings = 0;
  for (const v1::Instance& instance : set.instances()) {
    if (instance.unusable().empty() || told.contains({instance.id(), instance.unusable()})) continue;
    if (++warnings > kWarningsPerSet) {
      spdlog::warn("consul: {}: more instances that cannot be used", set.key().service());
      return;
    }
    spdlog::warn("consul: {}: instance {} is not used: {}", set.key().service(), instance.id(), instance.unusable());
  }
}

bool HasUnusable(const v1::EndpointSet& set) {
  return std::any_of(set.instances().begin(), set.instances().end(),
                     [](const v1::Instance& each) { return !each.unusable().empty(); });
}

}  // namespace

v1::EndpointSet EmptySet(const EndpointKey& key, v1::EndpointSet::State state) {
  v1::EndpointSet set;
  set.mutable_key()->set_datacenter(key.first);
  set.mutable_key()->set_service(key.second);
  set.set_state(state);
  return set;
}

void Publication::Schedule() {
  if (scheduled_ || state_.stopping) return;
  scheduled_ = true;
  // A change after a pause goes out with the end of this turn of the loop, which may change more services.
  timer_.expires_at(std::max(Clock::now(), published_ + kPublishPause));
  timer_.async_wait([this](const error_code& ec) {
    scheduled_ = false;
    if (!ec && !state_.stopping) PublishNow();
  });
}

void Publication::Removed() {
  changed_ = true;
  Schedule();
}

std::shared_ptr<const v1::EndpointSet> Publication::Served(const EndpointKey& key) const {
  const auto frozen = frozen_.find(key);
  if (frozen != frozen_.end()) return frozen->second;
  const auto found = state_.tracked.find(key);
  return found == state_.tracked.end() ? nullptr : found->second.set;
}

void Publication::PublishNow() {
  published_ = Clock::now();
  auto next = std::make_shared<EndpointCatalog>();
  next->catalog_known = state_.CatalogKnown();
  {
    absl::MutexLock lock(&mutex_);
    next->version = current_->version;
    if (current_->catalog_known != next->catalog_known) changed_ = true;
    if (!changed_) next->sets = current_->sets;
  }
  if (changed_) {
    ++next->version;
    dirty_ = true;
  }
  for (const auto& [key, service] : state_.tracked) {
    if (changed_) {
      const auto frozen = frozen_.empty() ? frozen_.end() : frozen_.find(key);
      next->sets.emplace_hint(next->sets.end(), key, frozen == frozen_.end() ? service.set : frozen->second);
    }
    next->watches += service.loop != nullptr ? 1 : 0;
    next->held += service.set->stale() ? 1 : 0;
  }
  next->frozen = frozen_.size();
  for (const auto& [name, dc] : state_.datacenters) {
    if (dc->names != nullptr) next->names.emplace(name, dc->names);
  }
  next->reachable = reachable_;
  next->error = error_;
  changed_ = false;
  {
    absl::MutexLock lock(&mutex_);
    current_ = next;
  }
  publish_(std::move(next));
  if (dirty_) ScheduleFile();
}

void Publication::ScheduleFile() {
  if (state_.options.state_file.empty() || file_scheduled_) return;
  file_scheduled_ = true;
  file_timer_.expires_at(std::max(Clock::now(), file_written_ + kStateFileInterval));
  file_timer_.async_wait([this](const error_code& ec) {
    file_scheduled_ = false;
    if (!ec && !state_.stopping) WriteFile(nullptr);
  });
}

void Publication::WriteFile(std::function<void(const absl::Status&)> written) {
  dirty_ = false;
  file_written_ = Clock::now();
  KeptEndpoints kept;
  for (const auto& [key, service] : state_.tracked) {
    if (service.set->state() == v1::EndpointSet::KNOWN && service.set->instances_size() > 0) {
      kept.sets.push_back(service.set);
    }
  }
  // Not claimed since no read of Consul has succeeded yet: still the last that is known of these.
  for (const auto& [key, set] : loaded_) kept.sets.push_back(set);
  for (const auto& [key, set] : frozen_) kept.frozen.push_back(set);
  asio::post(writer_, [this, kept = std::move(kept), written = std::move(written)]() mutable {
    kept.events = history_.All();
    const absl::Status status = WriteStateFile(state_.options.state_file, kept);
    if (!status.ok()) spdlog::warn("consul: keeping the last-known endpoints: {}", std::string(status.message()));
    if (written) asio::post(state_.io, [written = std::move(written), status] { written(status); });
  });
}

void Publication::Load() {
  if (state_.options.state_file.empty()) return;
  const absl::StatusOr<KeptEndpoints> kept = ReadStateFile(state_.options.state_file);
  if (!kept.ok()) {
    if (!absl::IsNotFound(kept.status())) {
      spdlog::warn("consul: the last-known endpoints are ignored: {}", std::string(kept.status().message()));
    }
    return;
  }
  for (const auto& set : kept->sets) {
    if (loaded_.size() >= kServicesMax) break;
    auto copy = std::make_shared<v1::EndpointSet>(*set);
    copy->set_stale(true);
    copy->set_alarm("kept from an earlier run, not read yet");
    loaded_[{set->key().datacenter(), set->key().service()}] = std::move(copy);
  }
  for (const auto& set : kept->frozen) {
    if (frozen_.size() >= kFrozenMax) break;
    frozen_[{set->key().datacenter(), set->key().service()}] = set;
  }
  for (const v1::EndpointEvent& event : kept->events) history_.Add(event);
  spdlog::info("consul: {} services loaded from {}, {} of them frozen", loaded_.size(), state_.options.state_file,
               frozen_.size());
}

void Publication::Stop() {
  timer_.cancel();
  file_timer_.cancel();
  if (dirty_ && !state_.options.state_file.empty()) WriteFile(nullptr);
}

std::shared_ptr<const EndpointCatalog> Publication::current() const {
  absl::MutexLock lock(&mutex_);
  return current_;
}

void Publication::SetReachable(const Datacenter& dc, const absl::Status& status) {
  if (!dc.name.empty()) return;  // another datacenter says little about the agent
  const std::string text = status.ok() ? "" : std::string(status.message());
  if (reachable_ == status.ok() && error_ == text) return;
  if (reachable_ != status.ok()) {
    v1::EndpointEvent event;
    event.set_kind(status.ok() ? v1::EndpointEvent::RECOVERED : v1::EndpointEvent::HELD);
    event.set_reason(status.ok() ? "Consul responds" : absl::StrCat("Consul cannot be read: ", text));
    Record(std::move(event));
    if (status.ok()) {
      spdlog::info("consul: {} responds", state_.options.access.address);
    } else {
      spdlog::warn("consul: {}; the last good endpoints are kept", text);
    }
  }
  reachable_ = status.ok();
  error_ = text;
  Schedule();
}

void Publication::Record(v1::EndpointEvent event) {
  SetNow(event.mutable_time());
  history_.Add(std::move(event));
  dirty_ = true;
}

void Publication::Store(const EndpointKey& key, Tracked& service, v1::EndpointSet set, const std::string& reason) {
  const v1::EndpointSet* before = service.set.get();
  if (before != nullptr && before->SerializeAsString() == set.SerializeAsString()) return;
  // The first one is what the state file has, all services at once, which Load has told, or empty.
  if (!set.alarm().empty() && before != nullptr && before->alarm() != set.alarm()) {
    spdlog::warn("consul: {}: {}", set.key().service(), set.alarm());
  }
  if (HasUnusable(set)) WarnOfUnusable(before, set);
  // What was never read tells nothing, and neither does a vanished service that was empty.
  v1::EndpointEvent event = DescribeChange(before, set);
  if (ChangesEndpoints(event) && !set.stale()) {
    event.set_reason(IsFrozen(key) ? "in Consul; not served, as it is frozen" : reason);
    Record(std::move(event));
  }
  service.set = std::make_shared<const v1::EndpointSet>(std::move(set));
  changed_ = true;
  Schedule();
}

void Publication::Hold(const EndpointKey& key, Tracked& service, const std::string& alarm) {
  v1::EndpointSet held = *service.set;
  held.set_stale(held.state() != v1::EndpointSet::UNAVAILABLE);
  held.set_alarm(alarm);
  // What fails for all services alike is one event, of SetReachable.
  if (service.suspect_since.has_value() && held.stale() && service.set->alarm() != alarm) {
    v1::EndpointEvent event = DescribeChange(service.set.get(), held);
    event.set_kind(v1::EndpointEvent::HELD);
    event.set_reason(alarm);
    Record(std::move(event));
  }
  Store(key, service, std::move(held));
}

void Publication::Fail(const EndpointKey& key, const absl::Status& status) {
  Tracked* service = state_.Find(key);
  if (service == nullptr) return;
  // The first error of a row stays: each further one would be news for every data plane.
  if (service->failed || service->suspect_since.has_value()) return;
  service->failed = true;
  Hold(key, *service, absl::StrCat("read failed: ", status.message()));
}

void Publication::RecordDecision(const EndpointSource::Decision& decision, v1::EndpointEvent::Kind kind,
                                 const v1::EndpointSet& set) {
  v1::EndpointEvent event = DescribeChange(&set, set);
  event.set_kind(kind);
  event.set_actor(decision.actor);
  event.set_reason(decision.comment);
  Record(std::move(event));
}

void Publication::RecordAccepted(const EndpointSource::Decision& decision, const Tracked* service) {
  RecordDecision(decision, v1::EndpointEvent::ACCEPTED,
                 service == nullptr ? EmptySet(decision.key, v1::EndpointSet::UNKNOWN_SERVICE) : *service->set);
}

void Publication::Freeze(const EndpointSource::Decision& decision, EndpointSource::DecideDone done) {
  const EndpointKey key = decision.key;
  const Tracked* service = state_.Find(key);
  if (service == nullptr) return done(absl::NotFoundError("no policy refers to this service of Consul"));
  if (IsFrozen(key)) return done(absl::FailedPreconditionError("it is frozen already; thaw it first"));
  if (service->set->state() != v1::EndpointSet::KNOWN || service->set->instances_size() == 0) {
    return done(absl::FailedPreconditionError("it has no endpoints that could be kept"));
  }
  if (frozen_.size() >= kFrozenMax) {
    return done(absl::ResourceExhaustedError(absl::StrCat(kFrozenMax, " services are frozen already; thaw one first")));
  }
  auto set = std::make_shared<v1::EndpointSet>(*service->set);
  set->set_stale(false);
  set->set_alarm(absl::StrCat("frozen by '", decision.actor, "'",
                              decision.comment.empty() ? "" : absl::StrCat(": ", decision.comment)));
  set->mutable_frozen()->set_actor(decision.actor);
  set->mutable_frozen()->set_comment(decision.comment);
  SetNow(set->mutable_frozen()->mutable_since());
  frozen_[key] = set;
  RecordDecision(decision, v1::EndpointEvent::FROZEN, *set);
  Removed();
  if (state_.options.state_file.empty()) return done(*set);
  WriteFile([this, key, set, done = std::move(done)](const absl::Status& status) {
    if (status.ok()) return done(*set);
    frozen_.erase(key);
    Removed();
    done(absl::InternalError(absl::StrCat("it is not frozen, as that cannot be kept: ", status.message())));
  });
}

void Publication::Thaw(const EndpointSource::Decision& decision, EndpointSource::DecideDone done) {
  const EndpointKey key = decision.key;
  const auto found = frozen_.find(key);
  if (found == frozen_.end()) return done(absl::FailedPreconditionError("it is not frozen"));
  const std::shared_ptr<const v1::EndpointSet> was = found->second;
  frozen_.erase(found);
  const auto now = [this, key] {
    const std::shared_ptr<const v1::EndpointSet> set = Served(key);
    return set == nullptr ? EmptySet(key, v1::EndpointSet::UNKNOWN_SERVICE) : *set;
  };
  v1::EndpointEvent event = DescribeChange(was.get(), now());
  event.set_kind(v1::EndpointEvent::THAWED);
  event.set_actor(decision.actor);
  event.set_reason(decision.comment);
  Record(std::move(event));
  Removed();
  if (state_.options.state_file.empty()) return done(now());
  WriteFile([this, key, was, now, done = std::move(done)](const absl::Status& status) {
    if (status.ok()) return done(now());
    frozen_[key] = was;
    Removed();
    done(absl::InternalError(absl::StrCat("it is still frozen, as a thaw cannot be kept: ", status.message())));
  });
}

}  // namespace gateway::controlplane
