#include "controlplane/sources/consul/history.h"

#include <algorithm>
#include <string>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace gateway::controlplane {
namespace {

bool Serves(const v1::Instance& instance) {
  return instance.weight() > 0 &&
         (instance.health() == v1::Instance::PASSING || instance.health() == v1::Instance::WARNING);
}

std::string AddressOf(const v1::Instance& instance) {
  const bool v6 = instance.address().find(':') != std::string::npos;
  return v6 ? absl::StrCat("[", instance.address(), "]:", instance.port())
            : absl::StrCat(instance.address(), ":", instance.port());
}

void Add(google::protobuf::RepeatedPtrField<std::string>* list, const std::string& text) {
  if (list->size() < kEventEndpointsMax) *list->Add() = text;
}

// What is different now, in words; "" if all of it that is told here is the same.
std::string Difference(const v1::Instance& before, const v1::Instance& now) {
  if (AddressOf(before) != AddressOf(now)) return absl::StrCat("moved from ", AddressOf(before));
  if (before.health() != now.health()) return absl::AsciiStrToLower(v1::Instance::Health_Name(now.health()));
  if (before.weight() != now.weight()) return absl::StrCat("weight ", now.weight());
  if (!std::ranges::equal(before.tags(), now.tags())) return "other tags";
  if (before.zone() != now.zone()) return absl::StrCat("zone '", now.zone(), "'");
  return before.unusable() == now.unusable() ? "" : now.unusable();
}

EndpointKey KeyOf(const v1::EndpointEvent& event) { return {event.key().datacenter(), event.key().service()}; }

}  // namespace

v1::EndpointEvent DescribeChange(const v1::EndpointSet* before, const v1::EndpointSet& after) {
  v1::EndpointEvent event;
  event.set_kind(after.state() == v1::EndpointSet::UNKNOWN_SERVICE ? v1::EndpointEvent::VANISHED
                                                                   : v1::EndpointEvent::CHANGED);
  *event.mutable_key() = after.key();
  uint32_t serving = 0;
  // Both are sorted by id.
  int old = 0;
  const int olds = before == nullptr ? 0 : before->instances_size();
  for (const v1::Instance& instance : after.instances()) {
    serving += Serves(instance) ? 1 : 0;
    for (; old < olds && before->instances(old).id() < instance.id(); ++old) {
      Add(event.mutable_removed(), AddressOf(before->instances(old)));
    }
    if (old == olds || before->instances(old).id() != instance.id()) {
      Add(event.mutable_added(), AddressOf(instance));
      continue;
    }
    const std::string difference = Difference(before->instances(old++), instance);
    if (!difference.empty()) Add(event.mutable_altered(), absl::StrCat(AddressOf(instance), " ", difference));
  }
  for (; old < olds; ++old) Add(event.mutable_removed(), AddressOf(before->instances(old)));
  event.set_serving(serving);
  event.set_instances(static_cast<uint32_t>(after.instances_size()));
  return event;
}

bool ChangesEndpoints(const v1::EndpointEvent& event) {
  return event.added_size() + event.removed_size() + event.altered_size() > 0;
}

void EndpointHistory::Add(v1::EndpointEvent event) {
  const EndpointKey key = KeyOf(event);
  absl::MutexLock lock(&mutex_);
  std::deque<Numbered>& own = events_[key];
  own.emplace_back(next_, std::move(event));
  order_.emplace_hint(order_.end(), next_++, key);
  if (own.size() > kEventsOfServiceMax) {
    order_.erase(own.front().first);
    own.pop_front();
  }
  if (order_.size() > kEventsMax) {
    const auto oldest = events_.find(order_.begin()->second);
    oldest->second.pop_front();
    if (oldest->second.empty()) events_.erase(oldest);
    order_.erase(order_.begin());
  }
}

std::vector<v1::EndpointEvent> EndpointHistory::Of(const EndpointKey& key) const {
  absl::MutexLock lock(&mutex_);
  std::vector<const Numbered*> found;
  for (const EndpointKey& each : {key, EndpointKey()}) {
    const auto own = events_.find(each);
    if (own == events_.end()) continue;
    for (const Numbered& event : own->second) found.push_back(&event);
    if (key == EndpointKey()) break;
  }
  std::sort(found.begin(), found.end(), [](const Numbered* a, const Numbered* b) { return a->first > b->first; });
  if (found.size() > kEventsOfServiceMax) found.resize(kEventsOfServiceMax);
  std::vector<v1::EndpointEvent> events;
  for (const Numbered* each : found) events.push_back(each->second);
  return events;
}

std::vector<v1::EndpointEvent> EndpointHistory::All() const {
  absl::MutexLock lock(&mutex_);
  std::vector<const Numbered*> found;
  for (const auto& [key, own] : events_) {
    for (const Numbered& event : own) found.push_back(&event);
  }
  std::sort(found.begin(), found.end(), [](const Numbered* a, const Numbered* b) { return a->first < b->first; });
  std::vector<v1::EndpointEvent> events;
  for (const Numbered* each : found) events.push_back(each->second);
  return events;
}

}  // namespace gateway::controlplane
