// Keeps what Consul says of the services that policy refers to, by blocking queries within a budget of connections.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_WATCHER_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_WATCHER_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gateway/v1/config_stream.pb.h"

namespace gateway::controlplane {

// (datacenter, service); the agent's own datacenter is "".
using ConsulKey = std::pair<std::string, std::string>;

using ConsulNames = std::set<std::string, std::less<>>;

// Everything known, immutable. A new one for every change.
struct EndpointCatalog {
  uint64_t version =
      0;  // rises by one with every change of `sets` or `catalog_known`; never written to the policy store
  bool catalog_known = false;  // the agent's list of services was read at least once
  std::map<ConsulKey, std::shared_ptr<const v1::EndpointSet>> sets;
  // The services that Consul lists, by datacenter (those that were read): also those that nobody watches.
  std::map<std::string, std::shared_ptr<const ConsulNames>> names;
  bool reachable = false;  // the newest read succeeded
  std::string error;       // of the newest read
  size_t watches = 0;      // services that have a watch of their own
};

// What to watch: what policy refers to.
struct ConsulInterest {
  struct Service {
    std::string datacenter;
    std::string service;
    v1::ConsulSource::OnSuspect on_suspect = v1::ConsulSource::KEEP;
  };
  std::vector<Service> services;
  // Of consul_service routes: every service of the agent's datacenter whose name passes. Null: none.
  std::function<bool(std::string_view)> dynamic;
  v1::ConsulSource::OnSuspect dynamic_on_suspect = v1::ConsulSource::KEEP;
};

struct ConsulWatcherOptions {
  std::string address;  // "localhost:8500"
  std::string token;
  // Connections that wait at once. Past it the services of highest rank (ranking.h) have watches of their own, all
  // others two global watches, a diff and targeted reads.
  int watches_max = 90;
  // Which services get requests, and how many, in powers of two. Asked every `busy_interval` while there are more
  // services than watches, on the watcher's thread; must not block. Null: nobody knows.
  std::function<std::map<ConsulKey, uint32_t>()> busy;
  std::chrono::milliseconds busy_interval{2'000};
  std::chrono::milliseconds wait{55'000};  // of a blocking query; under the 60 s idle cut of most balancers
  // The last-known copy, read at start and written (at most once a second) after changes; "": not kept.
  std::string state_file;
};

// Owns a thread with an io_context; Beast's client. Calls `publish` on that thread, in order. A failed or suspect read
// keeps the last good set (stale, with an alarm).
class ConsulWatcher {
 public:
  using Publish = std::function<void(std::shared_ptr<const EndpointCatalog>)>;

  ConsulWatcher(ConsulWatcherOptions options, Publish publish);
  ~ConsulWatcher();  // ends the thread

  void Start();
  // Thread-safe; takes effect soon after. Services that are no longer of interest leave the catalog.
  void SetInterest(ConsulInterest interest);
  // Thread-safe.
  std::shared_ptr<const EndpointCatalog> current() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_WATCHER_H_
