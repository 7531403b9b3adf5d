// Where endpoints come from: what a source is asked for, what it tells, and what operators may decide about it.
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

#include "absl/status/statusor.h"
#include "gateway/v1/admin.pb.h"
#include "gateway/v1/config_stream.pb.h"

namespace gateway::controlplane {

// (datacenter, service); the source's own datacenter is "".
using EndpointKey = std::pair<std::string, std::string>;

using ServiceNames = std::set<std::string, std::less<>>;

// Everything known, immutable. A new one for every change.
struct EndpointCatalog {
  uint64_t version =
      0;  // rises by one with every change of `sets` or `catalog_known`; never written to the policy store
  bool catalog_known = false;  // the source's list of services was read at least once
  std::map<EndpointKey, std::shared_ptr<const v1::EndpointSet>> sets;
  // The services that the source lists, by datacenter (those that were read): also those without a watch.
  std::map<std::string, std::shared_ptr<const ServiceNames>> names;
  bool reachable = false;  // the newest read succeeded
  std::string error;       // of the newest read
  size_t watches = 0;      // services that have a watch of their own
  size_t held = 0;         // sets that are stale
  size_t frozen = 0;       // sets that an operator has frozen
};

// What to follow: what policy refers to.
struct EndpointInterest {
  struct Service {
    std::string datacenter;
    std::string service;
    v1::ConsulSource::OnSuspect on_suspect = v1::ConsulSource::KEEP;
  };
  std::vector<Service> services;
  // Of routes that take a service's name from the path: every service of the source's own datacenter whose name passes.
  // Null: without such routes.
  std::function<bool(std::string_view)> dynamic;
  v1::ConsulSource::OnSuspect dynamic_on_suspect = v1::ConsulSource::KEEP;
};

// Owns what it needs to follow a registry of services, and publishes what it knows through a callback that it was made
// with. Keeps the last good set of a service while reads fail or are suspect. Its functions are thread-safe and do not
// block.
class EndpointSource {
 public:
  using Publish = std::function<void(std::shared_ptr<const EndpointCatalog>)>;

  virtual ~EndpointSource() = default;

  // Begins to follow; once.
  virtual void Start() = 0;
  // Takes effect soon after. Services that are no longer of interest leave the catalog.
  virtual void SetInterest(EndpointInterest interest) = 0;
  virtual std::shared_ptr<const EndpointCatalog> current() const = 0;

  // What an operator decides about a service. Calls `done` once, on any thread, with the set that is then served: after
  // the read that ACCEPT asks for, and once FREEZE and THAW are on disk. Errors as Admin.DecideEndpoints has them.
  struct Decision {
    EndpointKey key;
    v1::DecideEndpointsRequest::Decision what = v1::DecideEndpointsRequest::DECISION_UNSPECIFIED;
    std::string actor, comment;
  };
  using DecideDone = std::function<void(absl::StatusOr<v1::EndpointSet>)>;
  virtual void Decide(Decision decision, DecideDone done) = 0;

  // Newest first; empty for a service that nothing happened to.
  virtual std::vector<v1::EndpointEvent> History(const EndpointKey& key) const = 0;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_ENDPOINT_SOURCE_H_
