#include "controlplane/sources/consul/sweep.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace gateway::controlplane {
namespace {

namespace asio = boost::asio;
using std::chrono::milliseconds;

// No watch shows every change: a node that has another address, say. So all services are read within this time, a few
// each tick. It is what an idle control plane costs, so it is slow.
constexpr milliseconds kRound{300'000};
constexpr milliseconds kTick{1'000};
constexpr milliseconds kSweepingTick{20};  // while a whole sweep runs
constexpr milliseconds kFetcherIdle{60'000};
// A sweep that the catalog asks for, since it changed and doesn't say which service, begins at once after a quiet time.
// Otherwise it waits as long as the one before it took, so sweeps take half of the fetchers' time at most.
constexpr int kRest = 1;

bool DiffersFromChecks(const Tracked& service, const CheckDigests& checks) {
  return service.checks != DigestOf(*service.set, checks);
}

// Whether the instances of `set` carry other tags than the catalog lists.
bool HasOtherTags(const v1::EndpointSet& set, const std::vector<std::string>& listed) {
  std::set<std::string_view> tags, wanted(listed.begin(), listed.end());
  for (const v1::Instance& instance : set.instances()) tags.insert(instance.tags().begin(), instance.tags().end());
  return tags != wanted;
}

bool DiffersFromListing(const EndpointKey& key, const Tracked& service, const Datacenter& dc) {
  const auto listed = dc.listing.find(key.second);
  return listed != dc.listing.end() && HasOtherTags(*service.set, listed->second);
}

// Consul responded, but not with this.
bool IsRefusal(const absl::Status& status) {
  return absl::IsInternal(status) || absl::IsInvalidArgument(status) || absl::IsResourceExhausted(status) ||
         absl::IsPermissionDenied(status) || absl::IsNotFound(status);
}

}  // namespace

void Sweep::Begin() {
  eager_from_ = {};
  for (int i = 0; i < kFetchers; ++i) {
    fetchers_.push_back(state_.NewLoop());
    state_.Spawn(Fetch(fetchers_.back()));
  }
  sweeper_ = state_.NewLoop();
  state_.Spawn(Run(sweeper_));
  for (const auto& [key, service] : state_.tracked) Enqueue(key);
}

void Sweep::End() {
  for (auto& loop : fetchers_) state_.Stop(loop);
  fetchers_.clear();
  state_.Stop(sweeper_);
  fetch_queue_.clear();
  fetch_queued_.clear();
  sweep_queue_.clear();
  sweep_queued_.clear();
  fetching_.clear();
  fetch_again_.clear();
  retry_next_.reset();
  eager_ = false;
}

void Sweep::WakeFetchers() {
  for (const auto& loop : fetchers_) loop->timer.cancel();
}

void Sweep::Enqueue(const EndpointKey& key) {
  if (!state_.past_budget) return;
  const Tracked* service = state_.Find(key);
  if (service == nullptr || service->loop != nullptr) return;  // its own watch tells
  if (fetching_.contains(key)) {
    fetch_again_.insert(key);  // what is being read may be older than the reason to read it
    return;
  }
  if (!fetch_queued_.insert(key).second) return;
  sweep_queued_.erase(key);
  fetch_queue_.push_back(key);
  WakeFetchers();
}

void Sweep::EnqueueSweep(const EndpointKey& key) {
  if (state_.tracked.at(key).loop != nullptr || fetch_queued_.contains(key) || !sweep_queued_.insert(key).second) {
    return;
  }
  sweep_queue_.push_back(key);
}

std::optional<EndpointKey> Sweep::NextToFetch() {
  for (auto [queue, queued] : {std::pair{&fetch_queue_, &fetch_queued_}, {&sweep_queue_, &sweep_queued_}}) {
    while (!queue->empty()) {
      EndpointKey key = std::move(queue->front());
      queue->pop_front();
      if (queued->erase(key) == 0) continue;  // it went to the other one
      if (!fetching_.contains(key)) return key;
      fetch_again_.insert(std::move(key));  // what is being read may be older than the sweep
    }
  }
  return std::nullopt;
}

void Sweep::RetryAt(Tracked& service, Clock::time_point at) {
  service.retry_at = at;
  retry_next_ = std::min(retry_next_.value_or(at), at);
}

void Sweep::RetryDue(Clock::time_point now) {
  if (!retry_next_.has_value() || *retry_next_ > now) return;
  retry_next_.reset();
  for (auto& [key, service] : state_.tracked) {
    if (service.retry_at == Clock::time_point{}) continue;
    if (service.retry_at > now) {
      retry_next_ = std::min(retry_next_.value_or(service.retry_at), service.retry_at);
      continue;
    }
    service.retry_at = {};
    Enqueue(key);
  }
}

void Sweep::OnBelieved(const EndpointKey& key, Tracked& service, uint64_t index) {
  if (!state_.past_budget || service.loop != nullptr) return;
  const Datacenter& dc = *state_.datacenters.at(key.first);
  const bool lags = (dc.checks.has_value() && index <= dc.checks_index && DiffersFromChecks(service, *dc.checks)) ||
                    (dc.known && index <= dc.listing_index && DiffersFromListing(key, service, dc));
  if (!lags) {
    service.disagreement.Reset();
    return;
  }
  RetryAt(service, Clock::now() + service.disagreement.Next(state_.Unit()));
  if (sweeper_ != nullptr) sweeper_->timer.cancel();
}

void Sweep::OnCatalog(const Datacenter& dc) {
  if (!state_.past_budget) return;
  for (const auto& [key, service] : state_.tracked) {
    if (key.first != dc.name || service.retry_at != Clock::time_point{}) continue;
    if (DiffersFromListing(key, service, dc)) Enqueue(key);
  }
  // Not everything that wakes this shows in the list: an instance without checks of a service that has others, say.
  eager_ = true;
  if (sweeper_ != nullptr) sweeper_->timer.cancel();
}

void Sweep::OnChecks(const Datacenter& dc, bool all) {
  for (const auto& [key, service] : state_.tracked) {
    if (key.first != dc.name) continue;
    if (all || (service.retry_at == Clock::time_point{} && DiffersFromChecks(service, *dc.checks))) Enqueue(key);
  }
}

asio::awaitable<void> Sweep::Fetch(std::shared_ptr<Loop> loop) {
  RetryDelay unreachable;
  while (!loop->stopped) {
    const std::optional<EndpointKey> next = NextToFetch();
    if (!next.has_value()) {
      co_await WatchState::Pause(*loop, kFetcherIdle);  // until woken
      continue;
    }
    const EndpointKey& key = *next;
    const auto dc_found = state_.datacenters.find(key.first);
    if (dc_found == state_.datacenters.end() || state_.Find(key) == nullptr) continue;
    const std::shared_ptr<Datacenter> dc = dc_found->second;
    if (!dc->known || !dc->listing.contains(key.second)) continue;  // the catalog's business
    fetching_.insert(key);
    const absl::Status status = co_await reader_.Read(*dc, *loop, key);
    if (loop->stopped) break;
    fetching_.erase(key);
    if (fetch_again_.erase(key) > 0) Enqueue(key);
    if (status.ok()) {
      unreachable.Reset();
      continue;
    }
    if (IsRefusal(status)) {
      // The others go on meanwhile.
      if (Tracked* service = state_.Find(key); service != nullptr) {
        RetryAt(*service, Clock::now() + service->retry.Next(state_.Unit()));
      }
      continue;
    }
    Enqueue(key);
    const auto until = Clock::now() + unreachable.Next(state_.Unit());
    while (!loop->stopped && Clock::now() < until) co_await WatchState::Pause(*loop, until - Clock::now());
  }
}

// As many as bring all of them round within kRound, from where the last tick ended.
void Sweep::SweepSome() {
  const size_t count = state_.tracked.size();
  if (count == 0) return;
  auto next = state_.tracked.upper_bound(swept_);
  for (size_t left = 1 + count * static_cast<size_t>(kTick.count()) / static_cast<size_t>(kRound.count()); left > 0;
       --left) {
    if (next == state_.tracked.end()) next = state_.tracked.begin();
    EnqueueSweep(next->first);
    swept_ = next->first;
    ++next;
  }
  WakeFetchers();
}

asio::awaitable<void> Sweep::Run(std::shared_ptr<Loop> loop) {
  std::optional<Clock::time_point> began;  // a whole sweep
  auto tick = Clock::now() + kTick;
  while (!loop->stopped) {
    auto wake = began ? Clock::now() + kSweepingTick : tick;
    if (eager_ && !began) wake = std::min(wake, eager_from_);
    if (retry_next_.has_value()) wake = std::min(wake, *retry_next_);
    co_await WatchState::Pause(*loop, wake - Clock::now());  // or woken, as there is a reason
    if (loop->stopped) break;
    const auto now = Clock::now();
    RetryDue(now);
    if (began && sweep_queued_.empty()) {
      eager_from_ = now + kRest * (now - *began);
      began.reset();
    }
    if (eager_ && !began && now >= eager_from_) {
      eager_ = false;
      began = now;
      for (const auto& [key, service] : state_.tracked) EnqueueSweep(key);
      WakeFetchers();
    }
    if (now >= tick) {
      tick = now + kTick;
      SweepSome();
    }
  }
}

}  // namespace gateway::controlplane
