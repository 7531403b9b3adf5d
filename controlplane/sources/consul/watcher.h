// Follows the services in Consul that policy refers to, by blocking queries within a budget of connections.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_WATCHER_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_WATCHER_H_

#include <chrono>
#include <memory>
#include <string>

#include "controlplane/sources/endpoint_source.h"

namespace gateway::controlplane {

struct ConsulWatcherOptions {
  std::string address;  // "localhost:8500"
  std::string token;
  int watches_max = 90;  // blocking queries at once; above: two global watches, a diff and targeted reads
  std::chrono::milliseconds wait{55'000};  // of a blocking query; under the 60 s idle timeout of most balancers
  // The last known state, read at start and written after changes (at most once a second); "": not kept.
  std::string state_file;
};

// Owns a thread with an io_context (Boost.Beast's client) and publishes on it. A set that a failed or suspect read
// keeps is marked stale, with an alarm.
class ConsulWatcher : public EndpointSource {
 public:
  ConsulWatcher(ConsulWatcherOptions options, Publish publish);
  ~ConsulWatcher() override;

  void Start() override;
  void SetInterest(EndpointInterest interest) override;
  std::shared_ptr<const EndpointCatalog> current() const override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_WATCHER_H_
