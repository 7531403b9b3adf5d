// Reads and watches of one service: /v1/health/service/NAME.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_SERVICE_WATCH_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_SERVICE_WATCH_H_

#include <memory>

#include "absl/status/status.h"
#include "boost/asio/awaitable.hpp"
#include "controlplane/sources/consul/confirmation.h"
#include "controlplane/sources/consul/publication.h"
#include "controlplane/sources/consul/watch_state.h"

namespace gateway::controlplane {

// Belongs to the watcher's thread.
class ServiceReader {
 public:
  ServiceReader(WatchState* state, Publication* publication, Confirmation* confirmation)
      : state_(*state), publication_(*publication), confirmation_(*confirmation) {}

  // Once, now. What comes is dropped if the service has got a watch of its own meanwhile, whose response must not be
  // followed by this older one.
  boost::asio::awaitable<absl::Status> Read(Datacenter& dc, Loop& loop, const EndpointKey& key);
  // Until the loop is stopped.
  boost::asio::awaitable<void> Watch(std::shared_ptr<Datacenter> dc, std::shared_ptr<Loop> loop, EndpointKey key);

 private:
  absl::Status Take(const Datacenter& dc, const EndpointKey& key, const absl::StatusOr<ConsulResponse>& response);

  WatchState& state_;
  Publication& publication_;
  Confirmation& confirmation_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_SERVICE_WATCH_H_
