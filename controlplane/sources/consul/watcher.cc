// One thread, and on it a coroutine for each loop:
//
//   CatalogWatch   one for each datacenter: catalog/services. What exists, and so what to watch.
//   ServiceReader  Watch, one for each service that exists, or past the budget for those that rank highest:
//                  health/service/NAME.
//   CheckWatch     past the budget, one for each datacenter: health/state/any.
//   Sweep          past the budget: reads of the services without a watch, if they differ from what the global
//                  watches say, and of all when the catalog has changed without saying where.
//   Confirmation   one for each datacenter while something is suspect: asks the leader.
//
// Every response about a service goes through Confirmation::OnResponse; every change of what is known
// through Publication::Store, which schedules a publication.
#include "controlplane/sources/consul/watcher.h"

#include <algorithm>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "boost/asio/executor_work_guard.hpp"
#include "boost/asio/post.hpp"
#include "controlplane/sources/consul/catalog_watch.h"
#include "controlplane/sources/consul/check_watch.h"
#include "controlplane/sources/consul/confirmation.h"
#include "controlplane/sources/consul/publication.h"
#include "controlplane/sources/consul/ranking.h"
#include "controlplane/sources/consul/service_watch.h"
#include "controlplane/sources/consul/sweep.h"
#include "controlplane/sources/consul/watch_state.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// A blocking query keeps its slot at the agent (of 200 for each client) until its wait ends, also when its client has
// gone.
constexpr int kSlotsPerWatch = 2;
// How long a service keeps its watch before a busier one may have it, and how often slots that are free again are used.
constexpr milliseconds kWatchKept{60'000};

}  // namespace

struct ConsulWatcher::Impl {
  Impl(ConsulWatcherOptions watcher_options, Publish callback)
      : options(std::move(watcher_options)), state(options), publication(&state, std::move(callback)) {}

  const ConsulWatcherOptions options;

  absl::Mutex mutex;
  std::optional<EndpointInterest> next_interest ABSL_GUARDED_BY(mutex);

  // The rest belongs to the thread.
  WatchState state;
  asio::executor_work_guard<asio::io_context::executor_type> work{state.io.get_executor()};
  Publication publication;
  Confirmation confirmation{&state, &publication, [this](const EndpointKey& key, Tracked& service, uint64_t index) {
                              sweep.OnBelieved(key, service, index);
                            }};
  ServiceReader reader{&state, &publication, &confirmation};
  Sweep sweep{&state, &reader};
  CatalogWatch catalog_watch{&state, &publication, &confirmation, [this](Datacenter& dc, bool news) {
                               if (news) Reconcile();
                               sweep.OnCatalog(dc);
                             }};
  CheckWatch check_watch{&state, &publication, [this](const Datacenter& dc, bool all) { sweep.OnChecks(dc, all); }};
  EndpointInterest interest;
  bool interest_set = false;
  std::map<EndpointKey, uint32_t> busy;  // as ConsulWatcherOptions has it
  asio::steady_timer busy_timer{state.io};
  Clock::time_point chosen_at{};  // who has a watch
  bool shared = false;            // as the connections were then
  std::thread thread;

  // Brings everything in line with the interest and the catalogs.
  void Reconcile() {
    std::map<EndpointKey, std::pair<v1::ConsulSource::OnSuspect, bool>> wanted;
    std::set<std::string> wanted_datacenters{""};
    bool left_out = false;
    for (const EndpointInterest::Service& service : interest.services) {
      if (wanted.size() >= kServicesMax) left_out = true;
      if (left_out) break;
      const auto [it, added] =
          wanted.try_emplace({service.datacenter, service.service}, std::pair{service.on_suspect, true});
      // Two policies that differ: the careful one.
      if (!added && service.on_suspect != v1::ConsulSource::ACCEPT) it->second.first = service.on_suspect;
      wanted_datacenters.insert(service.datacenter);
    }
    const bool own_known = state.CatalogKnown();
    const auto want_dynamic = [&](const std::string& name) {
      if (left_out || !interest.dynamic || !interest.dynamic(name)) return;
      if (wanted.size() >= kServicesMax) {
        left_out = true;
        return;
      }
      wanted.try_emplace({"", name}, std::pair{interest.dynamic_on_suspect, false});
    };
    if (own_known) {
      for (const auto& [name, tags] : state.datacenters.at("")->listing) want_dynamic(name);
    } else {
      for (const auto& [key, set] : publication.loaded()) {
        if (key.first.empty()) want_dynamic(key.second);
      }
    }
    // One that has just left the catalog stays until that is confirmed.
    for (const auto& [key, service] : state.tracked) {
      if (key.first.empty() && service.set->instances_size() > 0) want_dynamic(key.second);
    }
    for (const auto& [key, set] : publication.frozen()) {
      if (key.first.empty()) want_dynamic(key.second);
    }
    if (left_out) spdlog::error("consul: more than {} services are of interest; the rest is not watched", kServicesMax);

    for (auto it = state.tracked.begin(); it != state.tracked.end();) {
      if (wanted.contains(it->first)) {
        ++it;
        continue;
      }
      state.Stop(it->second.loop);
      it = state.tracked.erase(it);
      publication.Removed();
    }
    for (auto it = state.datacenters.begin(); it != state.datacenters.end();) {
      Datacenter& dc = *it->second;
      if (wanted_datacenters.contains(it->first)) {
        ++it;
        continue;
      }
      state.Stop(dc.catalog_loop);
      state.Stop(dc.checks_loop);
      state.Stop(dc.confirm_loop);
      it = state.datacenters.erase(it);
    }
    for (const std::string& name : wanted_datacenters) {
      std::shared_ptr<Datacenter>& dc = state.datacenters[name];
      if (dc != nullptr) continue;
      dc = std::make_shared<Datacenter>();
      dc->name = name;
      dc->catalog_loop = state.NewLoop();
      state.Spawn(catalog_watch.Run(dc, dc->catalog_loop));
    }
    for (const auto& [key, want] : wanted) {
      Tracked& service = state.tracked[key];
      service.on_suspect = want.first;
      service.named = want.second;
      if (service.set != nullptr) continue;
      const auto kept = publication.loaded().find(key);
      if (kept != publication.loaded().end()) {
        publication.Store(key, service, *kept->second);
        publication.loaded().erase(kept);
      } else {
        publication.Store(key, service, EmptySet(key, v1::EndpointSet::UNAVAILABLE));
      }
    }
    if (own_known && interest_set) publication.loaded().clear();  // what is not wanted by now is not of interest

    ChooseWatches();
  }

  // Connections that are not for watches of services: the catalog's, the checks', the leader's of each datacenter, and
  // those that read.
  size_t OtherConnections() const { return 3 * state.datacenters.size() + Sweep::kConnections; }

  // Queries that may wait at once.
  size_t Budget() const {
    const auto connections = static_cast<size_t>(std::max(options.watches_max, 0));
    return state.agent->shared() ? connections * kStreamsPerConnection : connections;
  }

  void ChooseWatches() {
    const auto now = Clock::now();
    auto& abandoned = state.abandoned;
    while (!abandoned.empty() && abandoned.front() <= now) abandoned.pop_front();
    shared = state.agent->shared();
    size_t listed = 0;
    for (const auto& [key, service] : state.tracked) {
      const Datacenter& dc = *state.datacenters.at(key.first);
      if (dc.known && dc.listing.contains(key.second)) ++listed;
    }
    const size_t budget = Budget();
    const size_t needed = listed + state.datacenters.size();
    // Back below the budget by a tenth, so that one service more or less doesn't turn everything around.
    const bool too_many = needed > (state.past_budget ? budget - budget / 10 : budget) ||
                          needed + abandoned.size() > budget * kSlotsPerWatch;
    if (too_many != state.past_budget) {
      state.past_budget = too_many;
      spdlog::info("consul: {} services: {}", listed,
                   too_many ? "those that rank highest are watched by themselves, the others together"
                            : "each watched by itself");
      if (too_many) {
        sweep.Begin();
        FollowBusy();
      } else {
        sweep.End();
        busy_timer.cancel();
        busy.clear();
      }
    }

    std::vector<EndpointKey> vanished;
    std::vector<std::pair<const EndpointKey, Tracked>*> able;  // those that could have a watch
    for (auto& entry : state.tracked) {
      auto& [key, service] = entry;
      Datacenter& dc = *state.datacenters.at(key.first);
      if (!dc.known) continue;
      if (!dc.listing.contains(key.second)) {
        if (service.set->instances_size() > 0) {
          confirmation.Suspect(key, service);
        } else {
          vanished.push_back(key);
        }
        continue;
      }
      able.push_back(&entry);
    }
    if (state.past_budget) {
      ShareWatches(able, budget, now);
      for (const auto* entry : able) {
        const Tracked& service = entry->second;
        if (service.good_index == 0 || service.failed || service.suspect_since.has_value()) sweep.Enqueue(entry->first);
      }
    } else {
      for (auto* entry : able) BeginWatch(entry->first, entry->second, now);
    }
    for (const EndpointKey& key : vanished) confirmation.SetUnknown(key, state.tracked.at(key));
    publication.Schedule();  // who has a watch is told, too
    for (const auto& [name, dc] : state.datacenters) {
      if (!state.past_budget) {
        state.Stop(dc->checks_loop);
        dc->checks.reset();
      } else if (dc->checks_loop == nullptr) {
        dc->checks_loop = state.NewLoop();
        state.Spawn(check_watch.Run(dc, dc->checks_loop));
      }
    }
  }

  void BeginWatch(const EndpointKey& key, Tracked& service, Clock::time_point now) {
    if (service.loop != nullptr) return;
    service.loop = state.NewLoop();
    service.watched_since = now;
    service.retry_at = {};  // its watch tries again by itself
    state.Spawn(reader.Watch(state.datacenters.at(key.first), service.loop, key));
  }

  // Gives the watches of `budget` to those of `able` that rank highest; the others lose theirs and are read once more,
  // since what changed after their last response wakes no watch.
  void ShareWatches(const std::vector<std::pair<const EndpointKey, Tracked>*>& able, size_t budget,
                    Clock::time_point now) {
    chosen_at = now;
    const size_t others = OtherConnections();
    const size_t watches = budget > others ? budget - others : 0;
    std::vector<WatchCandidate> candidates(able.size());
    for (size_t i = 0; i < able.size(); ++i) {
      const auto& [key, service] = *able[i];
      const auto found = busy.find(key);
      candidates[i] = {.index = i,
                       .magnitude = found == busy.end() ? 0 : found->second,
                       .named = service.named,
                       .watched = service.loop != nullptr,
                       .settled = service.loop != nullptr && now - service.watched_since >= kWatchKept};
    }
    const WatchChoice choice = ChooseWatched(candidates, watches);
    const auto end = [this, &able](size_t index) {
      state.Stop(able[index]->second.loop);
      sweep.Enqueue(able[index]->first);
    };
    for (const size_t index : choice.end) end(index);
    // The agent has as many slots, and those of watches that have ended are taken for a while.
    const auto room = [&] {
      size_t running = 0;
      for (const auto* entry : able) running += entry->second.loop != nullptr ? 1 : 0;
      return running + others + state.abandoned.size() < budget * kSlotsPerWatch;
    };
    for (const size_t index : choice.begin) {
      if (!room()) return;
      BeginWatch(able[index]->first, able[index]->second, now);
    }
    for (const auto& [loser, winner] : choice.swaps) {
      if (!room()) return;
      end(loser);
      BeginWatch(able[winner]->first, able[winner]->second, now);
    }
  }

  // Looks again and again, as long as there are too few watches, whom they are worth most to, and whether there are
  // more.
  void FollowBusy() {
    if (state.stopping) return;
    busy_timer.expires_after(options.busy ? options.busy_interval : kWatchKept);
    busy_timer.async_wait([this](const error_code& ec) {
      if (ec || state.stopping || !state.past_budget) return;
      std::map<EndpointKey, uint32_t> now_busy;
      if (options.busy) now_busy = options.busy();
      if (now_busy != busy || shared != state.agent->shared() || Clock::now() >= chosen_at + kWatchKept / 2) {
        busy = std::move(now_busy);
        ChooseWatches();
      }
      if (state.past_budget) FollowBusy();
    });
  }

  void TakeInterest() {
    {
      absl::MutexLock lock(&mutex);
      if (!next_interest.has_value()) return;
      interest = *std::move(next_interest);
      next_interest.reset();
      interest_set = true;
    }
    if (!state.stopping) Reconcile();
  }

  void Decide(Decision decision, DecideDone done) {
    if (state.stopping) return done(absl::UnavailableError("the control plane ends"));
    switch (decision.what) {
      case v1::DecideEndpointsRequest::ACCEPT:
        return confirmation.Accept(std::move(decision), std::move(done));
      case v1::DecideEndpointsRequest::FREEZE:
        return publication.Freeze(decision, std::move(done));
      case v1::DecideEndpointsRequest::THAW: {
        const EndpointKey key = decision.key;
        publication.Thaw(decision, std::move(done));
        // It stayed only because it was frozen.
        const Tracked* service = state.Find(key);
        if (service != nullptr && !publication.IsFrozen(key)) ChooseWatches();
        return;
      }
      default:
        return done(absl::InvalidArgumentError("decision: expected ACCEPT, FREEZE or THAW"));
    }
  }

  void Shutdown() {
    state.stopping = true;
    for (auto& [key, service] : state.tracked) state.Stop(service.loop);
    for (auto& [name, dc] : state.datacenters) {
      state.Stop(dc->catalog_loop);
      state.Stop(dc->checks_loop);
      state.Stop(dc->confirm_loop);
    }
    sweep.End();
    confirmation.Stop();
    state.agent->Close();
    busy_timer.cancel();
    publication.Stop();
    work.reset();
  }
};

ConsulWatcher::ConsulWatcher(ConsulWatcherOptions options, Publish publish)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(publish))) {}

ConsulWatcher::~ConsulWatcher() {
  if (impl_->thread.joinable()) {
    asio::post(impl_->state.io, [impl = impl_.get()] { impl->Shutdown(); });
    impl_->thread.join();
  }
  impl_->publication.JoinWriter();
}

void ConsulWatcher::Start() {
  impl_->thread = std::thread([impl = impl_.get()] {
    impl->publication.Load();  // before any interest is taken, which claims from it
    impl->Reconcile();
    impl->state.io.run();
  });
}

void ConsulWatcher::SetInterest(EndpointInterest interest) {
  {
    absl::MutexLock lock(&impl_->mutex);
    impl_->next_interest = std::move(interest);
  }
  asio::post(impl_->state.io, [impl = impl_.get()] { impl->TakeInterest(); });
}

std::shared_ptr<const EndpointCatalog> ConsulWatcher::current() const { return impl_->publication.current(); }

void ConsulWatcher::Decide(Decision decision, DecideDone done) {
  asio::post(impl_->state.io, [impl = impl_.get(), decision = std::move(decision), done = std::move(done)]() mutable {
    impl->Decide(std::move(decision), std::move(done));
  });
}

std::vector<v1::EndpointEvent> ConsulWatcher::History(const EndpointKey& key) const {
  return impl_->publication.history().Of(key);
}

}  // namespace gateway::controlplane
