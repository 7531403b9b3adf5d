// What the parts of the watcher share: its thread's state, and the loops of queries.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_WATCH_STATE_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_WATCH_STATE_H_

#include <chrono>
#include <cstdint>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/random/random.h"
#include "boost/asio/awaitable.hpp"
#include "boost/asio/io_context.hpp"
#include "boost/asio/steady_timer.hpp"
#include "controlplane/sources/consul/agent_connections.h"
#include "controlplane/sources/consul/decoder.h"
#include "controlplane/sources/consul/http_client.h"
#include "controlplane/sources/consul/pace.h"
#include "controlplane/sources/consul/watcher.h"

namespace gateway::controlplane {

inline constexpr std::chrono::milliseconds kReadTimeout{10'000};  // of reads that don't block
inline constexpr size_t kServicesMax = 20'000;  // of interest at once; the rest is left out, with an error in the log

// One loop of queries: its client and its timer, and how to end it.
struct Loop {
  explicit Loop(const std::shared_ptr<AgentConnections>& agent) : http(agent), timer(agent->io()) {}
  ConsulHttp http;
  boost::asio::steady_timer timer;
  bool stopped = false;
  bool blocking = false;  // a blocking query is under way
  std::chrono::steady_clock::time_point blocked_until{};

  void Stop() {
    stopped = true;
    http.Close();
    timer.cancel();
  }
};

// A service of interest.
struct Tracked {
  v1::ConsulSource::OnSuspect on_suspect = v1::ConsulSource::KEEP;
  bool named = false;  // by policy; else it is there because the catalog lists it and `dynamic` lets it pass
  std::shared_ptr<const v1::EndpointSet> set;  // as Consul has it; what operators have frozen is in Publication
  uint64_t good_index = 0;         // of the read that `set` came with; 0: it is from the state file, or never read
  std::optional<size_t> body;      // digest of the body of that read
  std::optional<uint64_t> checks;  // DigestOf the checks in that read
  RetryDelay disagreement;         // of reads that don't agree with the global watches
  bool failed = false;             // the newest read failed
  RetryDelay retry;                // of targeted reads that Consul refuses
  std::chrono::steady_clock::time_point retry_at{};
  std::optional<std::chrono::steady_clock::time_point> suspect_since;
  std::shared_ptr<Loop> loop;  // its own watch
  std::chrono::steady_clock::time_point watched_since{};
};

struct Datacenter {
  std::string name;
  std::shared_ptr<Loop> catalog_loop, checks_loop, confirm_loop;
  bool known = false;  // `listing` was read
  CatalogListing listing;
  std::shared_ptr<const ServiceNames> names;  // of `listing`
  uint64_t listing_index = 0;
  std::optional<CheckDigests> checks;
  uint64_t checks_index = 0;
  bool checks_failed = false;
  bool catalog_failed = false;
};

// Of the checks that concern `set`: its service's, and those of the nodes that its instances run on.
uint64_t DigestOf(const v1::EndpointSet& set, const CheckDigests& checks);

// Belongs to the watcher's thread.
struct WatchState {
  using Clock = std::chrono::steady_clock;

  explicit WatchState(const ConsulWatcherOptions& watcher_options);

  const ConsulWatcherOptions& options;
  boost::asio::io_context io{1};
  const std::shared_ptr<AgentConnections> agent;
  absl::BitGen random;
  bool stopping = false;
  bool past_budget = false;  // there are more services than watches
  std::map<std::string, std::shared_ptr<Datacenter>> datacenters;
  std::map<EndpointKey, Tracked> tracked;
  std::deque<Clock::time_point> abandoned;  // when slots of cancelled blocking queries are free again

  double Unit() { return absl::Uniform(random, 0.0, 1.0); }
  Tracked* Find(const EndpointKey& key);
  bool CatalogKnown() const;

  std::shared_ptr<Loop> NewLoop() const { return std::make_shared<Loop>(agent); }
  // Runs a coroutine on the watcher's thread.
  void Spawn(boost::asio::awaitable<void> loop);
  // "?stale&dc=NAME"; `mode` is "stale" or "consistent".
  static std::string Query(const Datacenter& dc, const char* mode);
  static std::string ServiceTarget(const Datacenter& dc, const std::string& service, const char* mode);
  // The beginning of a blocking query: adds index and wait to its target, and gives the deadline for its response.
  // Index 0 reads at once.
  std::chrono::milliseconds Block(Loop& loop, uint64_t index, bool leader_known, std::string* target);
  static boost::asio::awaitable<void> Pause(Loop& loop, Clock::duration duration);
  // Between failed tries of one of many loops: long enough that all of them together try a few hundred times a second.
  std::chrono::milliseconds RetryPause(RetryDelay& retry);
  // Ends a loop. Its blocking query goes on at the agent, which must be remembered.
  void Stop(std::shared_ptr<Loop>& loop);
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_WATCH_STATE_H_
