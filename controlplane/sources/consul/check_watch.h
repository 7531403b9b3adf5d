// Past the budget of watches: the state of all checks of a datacenter, /v1/health/state/any.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_CHECK_WATCH_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_CHECK_WATCH_H_

#include <functional>
#include <memory>
#include <utility>

#include "boost/asio/awaitable.hpp"
#include "controlplane/sources/consul/publication.h"
#include "controlplane/sources/consul/watch_state.h"

namespace gateway::controlplane {

// Belongs to the watcher's thread.
class CheckWatch {
 public:
  // Called after every change of checks; `all`: read everything again, as the read before failed, or this is the first
  // one.
  using Changed = std::function<void(const Datacenter& dc, bool all)>;

  CheckWatch(WatchState* state, Publication* publication, Changed changed)
      : state_(*state), publication_(*publication), changed_(std::move(changed)) {}

  // Until the loop is stopped.
  boost::asio::awaitable<void> Run(std::shared_ptr<Datacenter> dc, std::shared_ptr<Loop> loop);

 private:
  WatchState& state_;
  Publication& publication_;
  const Changed changed_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_CHECK_WATCH_H_
