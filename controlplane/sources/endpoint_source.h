// Where the endpoints of services come from: what any source of them is asked for and what it publishes.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_ENDPOINT_SOURCE_H_
#define GATEWAY_CONTROLPLANE_SOURCES_ENDPOINT_SOURCE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gateway/v1/config_stream.pb.h"

namespace gateway::controlplane {

// (datacenter, service); the source's own datacenter is "".
using ServiceKey = std::pair<std::string, std::string>;

// Names of services, sorted.
using ServiceNames = std::set<std::string, std::less<>>;

// Everything known, immutable. Every change makes a new one.
struct EndpointCatalog {
  // Rises by one with every change of `sets` or `catalog_known`; never written to the policy store.
  uint64_t version = 0;
  bool catalog_known = false;  // the list of services was read at least once
  std::map<ServiceKey, std::shared_ptr<const v1::EndpointSet>> sets;
  // The services that the source lists, by datacenter (of those that were read), including unwatched ones.
  std::map<std::string, std::shared_ptr<const ServiceNames>> names;
  bool reachable = false;  // the newest read succeeded
  std::string error;       // of the newest read
};

// What to watch: the services that policy refers to.
struct EndpointInterest {
  struct Service {
    std::string datacenter;
    std::string service;
    v1::ConsulSource::OnSuspect on_suspect = v1::ConsulSource::KEEP;
  };
  std::vector<Service> services;
  // For consul_service routes: every service of the source's own datacenter whose name passes. Empty: none.
  std::function<bool(std::string_view)> dynamic;
  v1::ConsulSource::OnSuspect dynamic_on_suspect = v1::ConsulSource::KEEP;
};

// Owns the threads that read. Publishes catalogs in order, through the function that its constructor takes, on a thread
// of its own. A failed or suspect read keeps the last good set.
class EndpointSource {
 public:
  using Publish = std::function<void(std::shared_ptr<const EndpointCatalog>)>;

  virtual ~EndpointSource() = default;  // ends the threads
  // Once.
  virtual void Start() = 0;
  // Thread-safe; takes effect soon after. Services that are no longer of interest leave the catalog.
  virtual void SetInterest(EndpointInterest interest) = 0;
  // Thread-safe.
  virtual std::shared_ptr<const EndpointCatalog> current() const = 0;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_ENDPOINT_SOURCE_H_
