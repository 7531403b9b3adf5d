// Follows the services of Consul that policy refers to, by blocking queries within a budget of connections.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_WATCHER_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_WATCHER_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "controlplane/sources/consul/access.h"
#include "controlplane/sources/endpoint_source.h"

namespace gateway::controlplane {

struct ConsulWatcherOptions {
  ConsulAccess access;
  // Connections that wait at once. Past it the services of highest rank (ranking.h) have watches of their own, all
  // others two global watches, a diff and targeted reads. Over HTTP/2 kStreamsPerConnection watches share one.
  int watches_max = 90;
  // Which services get requests, and how many, in powers of two. Asked every `busy_interval` while there are more
  // services than watches, on the watcher's thread; must not block. Null: unknown.
  std::function<std::map<EndpointKey, uint32_t>()> busy;
  std::chrono::milliseconds busy_interval{2'000};
  std::chrono::milliseconds wait{55'000};  // of a blocking query; under the 60 s idle cut of most balancers
  // The last-known copy and what operators have frozen, read at start and written (at most once a second) after
  // changes;
  // "": not kept.
  std::string state_file;
};

// Owns a thread with an io_context. Calls `publish` on that thread, in order. A failed or suspect read keeps the last
// good set (stale, with an alarm). Its destructor ends the thread.
class ConsulWatcher final : public EndpointSource {
 public:
  ConsulWatcher(ConsulWatcherOptions options, Publish publish);
  ~ConsulWatcher() override;

  void Start() override;
  void SetInterest(EndpointInterest interest) override;
  std::shared_ptr<const EndpointCatalog> current() const override;
  void Decide(Decision decision, DecideDone done) override;
  std::vector<v1::EndpointEvent> History(const EndpointKey& key) const override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_WATCHER_H_
