// Past the budget of watches: reads of services that have no watch of their own.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_SWEEP_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_SWEEP_H_

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "boost/asio/awaitable.hpp"
#include "controlplane/sources/consul/service_watch.h"
#include "controlplane/sources/consul/watch_state.h"

namespace gateway::controlplane {

// Reads those whose served set differs from what the global watches say, those that could not be read, all of them when
// the catalog has changed without saying where, and otherwise a few at a time. Belongs to the watcher's thread; idle
// unless the state is past the budget.
class Sweep {
 public:
  static constexpr int kFetchers = 4;  // connections for reads
  static constexpr size_t kConnections = kFetchers + 1;

  Sweep(WatchState* state, ServiceReader* reader) : state_(*state), reader_(*reader) {}

  void Begin();
  void End();

  // Reads it soon, unless its own watch does.
  void Enqueue(const EndpointKey& key);
  // After a read that was believed. If it is newer than a global watch's response, that wakes again. If it is not, and
  // differs, it is from a server that lags behind (reads are `stale`): nothing will wake for it, so it is read again,
  // less and less often.
  void OnBelieved(const EndpointKey& key, Tracked& service, uint64_t index);
  // The global watches have said something.
  void OnCatalog(const Datacenter& dc);
  void OnChecks(const Datacenter& dc, bool all);

 private:
  using Clock = WatchState::Clock;

  void EnqueueSweep(const EndpointKey& key);
  std::optional<EndpointKey> NextToFetch();
  void RetryAt(Tracked& service, Clock::time_point at);
  void RetryDue(Clock::time_point now);
  void SweepSome();
  void WakeFetchers();
  boost::asio::awaitable<void> Fetch(std::shared_ptr<Loop> loop);
  boost::asio::awaitable<void> Run(std::shared_ptr<Loop> loop);

  WatchState& state_;
  ServiceReader& reader_;
  // What is known to have changed comes before what is merely swept. A key is in one of the sets at most, and may be
  // left over in the other's queue.
  std::deque<EndpointKey> fetch_queue_, sweep_queue_;
  std::set<EndpointKey> fetch_queued_, sweep_queued_;
  std::set<EndpointKey> fetching_;     // under way; never the same key twice, so that no older response comes second
  std::set<EndpointKey> fetch_again_;  // of those
  std::vector<std::shared_ptr<Loop>> fetchers_;
  std::shared_ptr<Loop> sweeper_;
  EndpointKey swept_;                            // the last one that was read a few at a time
  std::optional<Clock::time_point> retry_next_;  // the earliest retry_at of a service
  bool eager_ = false;
  Clock::time_point eager_from_{};
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_SWEEP_H_
