#include "controlplane/stream/canary_keeper.h"

#include <algorithm>
#include <memory>
#include <set>
#include <utility>

#include "common/policy/kinds/canary.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

// What is more than in `before`, of one data plane. One that was restarted counts from nothing.
SideFigures Since(SideFigures now, const SideFigures& before) {
  for (auto [figures, base] : {std::pair{&now.side, &before.side}, std::pair{&now.others, &before.others}}) {
    if (figures->requests < base->requests) continue;
    figures->requests -= base->requests;
    figures->errors -= std::min(figures->errors, base->errors);
    for (size_t i = 0; i < kLatencyBuckets; ++i) {
      figures->latency[i] -= std::min(figures->latency[i], base->latency[i]);
    }
  }
  return now;
}

// By Route and data plane, of those canaries that have a guard.
std::map<std::string, std::map<std::string, SideFigures>> Collect(const PolicyState& state,
                                                                  const CanaryCounts::Reports& reports) {
  std::map<std::string, std::map<std::string, SideFigures>> all;
  for (const auto& [name, canary] : *state.canaries) {
    const v1::Route& route = state.resources->at({"Route", name}).resource->route();
    if (!route.canary().guard().empty() && IsWatched(route, canary.state)) all[name];
  }
  if (all.empty()) return all;
  for (const auto& [data_plane, report] : reports) {
    for (const v1::RouteReport& row : report->routes()) {
      const auto found = row.services().empty() ? all.end() : all.find(row.route());
      if (found == all.end() || row.revision() != state.resources->at({"Route", row.route()}).revision) continue;
      SideFigures& figures = found->second[data_plane];
      figures.data_planes = 1;
      for (const v1::RouteServiceReport& side : row.services()) {
        const bool is_it = side.service() == state.canaries->at(row.route()).state.service();
        (is_it ? figures.side : figures.others).Add(side);
      }
    }
  }
  return all;
}

}  // namespace

CanaryFigures CanaryCounts::Count(const PolicyState& state, const Reports& reports, absl::Time now) {
  CanaryFigures result;
  std::set<std::string> still_paused;
  for (const auto& [name, data_planes] : Collect(state, reports)) {
    const ResourceRecord& record = state.resources->at({"Route", name});
    SideFigures& sum = result[name];
    sum.version = record.revision;
    Window* window = nullptr;
    if (state.canaries->at(name).state.phase() == v1::CanaryState::PAUSED) {
      still_paused.insert(name);
      const absl::Duration every = absl::FromChrono(CanaryEveryOf(record.resource->route()));
      window = &paused_[name];
      if (window->version != record.revision) {
        *window = {record.revision, now + every, {}, {}};
      } else if (now >= window->next) {
        *window = {record.revision, now + every, std::move(window->since), data_planes};
      }
    }
    for (const auto& [data_plane, each] : data_planes) {
      const auto before = window == nullptr ? Sides::iterator() : window->before.find(data_plane);
      const bool known = window != nullptr && before != window->before.end();
      const SideFigures recent = known ? Since(each, before->second) : each;
      sum.data_planes += each.data_planes;
      sum.side.Add(recent.side);
      sum.others.Add(recent.others);
    }
  }
  std::erase_if(paused_, [&still_paused](const auto& each) { return !still_paused.contains(each.first); });
  return result;
}

CanaryKeeper::CanaryKeeper(Publisher* publisher, Hub* hub, std::function<absl::Time()> now)
    : publisher_(publisher), hub_(hub), now_(std::move(now)), started_at_(now_()) {
  subscription_ = publisher_->revisions().Add([bell = bell_] {
    {
      std::lock_guard lock(bell->mu);
      bell->news = true;
    }
    bell->wakes.notify_one();
  });
  thread_ = std::thread([this] { Run(); });
}

CanaryKeeper::~CanaryKeeper() {
  publisher_->revisions().Remove(subscription_);
  {
    std::lock_guard lock(bell_->mu);
    bell_->ending = true;
  }
  bell_->wakes.notify_one();
  thread_.join();
}

void CanaryKeeper::Run() {
  Bell& bell = *bell_;
  std::unique_lock lock(bell.mu);
  while (!bell.ending) {
    bell.news = false;
    lock.unlock();
    Look(*publisher_->current());
    // What a look has changed is news: the next one sees it.
    const std::shared_ptr<const PolicyState> state = publisher_->current();
    bool guarded = false;
    absl::Time due = absl::InfiniteFuture();
    for (const auto& [name, canary] : *state->canaries) {
      const v1::Route& route = state->resources->at({"Route", name}).resource->route();
      if (!IsWatched(route, canary.state)) continue;
      guarded = guarded || !route.canary().guard().empty();
      due = std::min(due, StepEnd(route, canary.state));
    }
    lock.lock();
    const auto awaited = [&bell]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(bell.mu) { return bell.ending || bell.news; };
    if (!guarded && due == absl::InfiniteFuture()) {
      bell.wakes.wait(lock, awaited);
      continue;
    }
    // One that is due already waits for a change under way, for reports, or for the disk. To whole seconds: steps of
    // many canaries are one revision then.
    const absl::Duration left = absl::UnixEpoch() + absl::Ceil(due - absl::UnixEpoch(), absl::Seconds(1)) - now_();
    const bool soon = !guarded && left > absl::ZeroDuration();
    bell.wakes.wait_for(
        lock,
        soon ? absl::ToChronoMilliseconds(std::min(left, absl::Hours(1))) + std::chrono::milliseconds(1) : kLookEvery,
        awaited);
  }
}

void CanaryKeeper::Look(const PolicyState& state) {
  if (state.canaries->empty()) return;
  const absl::Time now = now_();
  const absl::Status status =
      publisher_->AdvanceCanaries(counts_.Count(state, hub_->Reports(), now), now - started_at_ >= kReportsWait);
  if (!status.ok() && told_ != status.message()) {
    spdlog::warn("{}{}", absl::IsAborted(status) ? "" : "a canary cannot move, which is tried again: ",
                 std::string(status.message()));
  }
  told_ = std::string(status.message());
}

}  // namespace gateway::controlplane
