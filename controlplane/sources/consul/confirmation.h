// Whether a response about a service is believed: at once, after the leader has confirmed it, or not.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_CONFIRMATION_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_CONFIRMATION_H_

#include <functional>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "boost/asio/awaitable.hpp"
#include "controlplane/sources/consul/publication.h"
#include "controlplane/sources/consul/suspicion.h"
#include "controlplane/sources/consul/watch_state.h"

namespace gateway::controlplane {

// Every response about a service goes through OnResponse. Belongs to the watcher's thread.
class Confirmation {
 public:
  static constexpr size_t kAcceptsMax = 16;  // reads under way that operators asked for

  // Told of a set that was believed, with the index that it was read at.
  using Believed = std::function<void(const EndpointKey&, Tracked&, uint64_t index)>;

  Confirmation(WatchState* state, Publication* publication, Believed believed)
      : state_(*state), publication_(*publication), believed_(std::move(believed)) {}

  // A response of 200. An error: it is not what the API documents.
  absl::Status OnResponse(const EndpointKey& key, const ConsulResponse& response);
  // It looks as if it were gone, or nearly: the leader is asked.
  void Suspect(const EndpointKey& key, Tracked& service);
  // Not in the catalog. Forgets it if policy doesn't name it.
  void SetUnknown(const EndpointKey& key, Tracked& service);
  // An operator believes what Consul says, whatever it is: the leader is asked once.
  void Accept(EndpointSource::Decision decision, EndpointSource::DecideDone done);
  void Stop();

 private:
  using Clock = WatchState::Clock;

  Loss MeasureLoss(const Tracked& service, const ConsulResponse& response,
                   const std::vector<v1::Instance>& instances) const;
  void Believe(const EndpointKey& key, Tracked& service, const ConsulResponse& response,
               const std::vector<v1::Instance>& instances, const CheckDigests& checks, size_t lost,
               const std::string& reason);
  boost::asio::awaitable<void> Confirm(std::shared_ptr<Datacenter> dc, std::shared_ptr<Loop> loop);
  boost::asio::awaitable<void> ConfirmService(Datacenter& dc, Loop& loop, EndpointKey key,
                                              const CatalogListing& listing, uint64_t listing_index);
  boost::asio::awaitable<void> ReadAndAccept(std::shared_ptr<Datacenter> dc, std::shared_ptr<Loop> loop,
                                             EndpointSource::Decision decision, EndpointSource::DecideDone done);
  boost::asio::awaitable<absl::Status> ReadListing(const Datacenter& dc, Loop& loop, CatalogListing* listing,
                                                   uint64_t* index);

  WatchState& state_;
  Publication& publication_;
  const Believed believed_;
  mutable LossLedger losses_;
  std::set<std::shared_ptr<Loop>> accepts_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_CONFIRMATION_H_
