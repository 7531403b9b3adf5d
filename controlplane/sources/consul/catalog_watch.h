// What exists: /v1/catalog/services of a datacenter.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_CATALOG_WATCH_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_CATALOG_WATCH_H_

#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "boost/asio/awaitable.hpp"
#include "controlplane/sources/consul/confirmation.h"
#include "controlplane/sources/consul/publication.h"
#include "controlplane/sources/consul/watch_state.h"

namespace gateway::controlplane {

// Belongs to the watcher's thread.
class CatalogWatch {
 public:
  // Told after every response that was believed; `news`: other services are listed, or they are for the first time.
  using Listed = std::function<void(Datacenter& dc, bool news)>;

  CatalogWatch(WatchState* state, Publication* publication, Confirmation* confirmation, Listed listed)
      : state_(*state), publication_(*publication), confirmation_(*confirmation), listed_(std::move(listed)) {}

  // Until the loop is stopped.
  boost::asio::awaitable<void> Run(std::shared_ptr<Datacenter> dc, std::shared_ptr<Loop> loop);

 private:
  // False: it looks like a lost token, and is not believed.
  bool OnListing(Datacenter& dc, uint64_t index, CatalogListing listing);

  WatchState& state_;
  Publication& publication_;
  Confirmation& confirmation_;
  const Listed listed_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_CATALOG_WATCH_H_
