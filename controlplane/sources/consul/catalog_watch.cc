#include "controlplane/sources/consul/catalog_watch.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "controlplane/sources/consul/suspicion.h"

namespace gateway::controlplane {
namespace {

namespace asio = boost::asio;

constexpr std::chrono::milliseconds kCatalogPace{250};

}  // namespace

asio::awaitable<void> CatalogWatch::Run(std::shared_ptr<Datacenter> dc, std::shared_ptr<Loop> loop) {
  LoopPace pace(kCatalogPace);
  RetryDelay retry;
  uint64_t index = 0;
  bool leader_known = true;
  while (!loop->stopped) {
    co_await WatchState::Pause(*loop, pace.Take(WatchState::Clock::now()));
    std::string target = absl::StrCat("/v1/catalog/services", WatchState::Query(*dc, "stale"));
    const std::chrono::milliseconds deadline = state_.Block(*loop, index, leader_known, &target);
    const absl::StatusOr<ConsulResponse> response = co_await loop->http.Get(std::move(target), deadline);
    loop->blocking = false;
    if (loop->stopped) break;
    absl::Status status = CheckResponse(response);
    if (status.ok()) {
      bool believed = index > 0 && response->index == index;  // only the wait has ended
      if (!believed) {
        absl::StatusOr<CatalogListing> listing = DecodeCatalogServices(response->body);
        status = listing.status();
        believed = listing.ok() && OnListing(*dc, response->index, *std::move(listing));
      }
      if (believed) {
        publication_.SetReachable(*dc, absl::OkStatus());
        index = NextIndex(index, response->index);
        leader_known = response->known_leader;
        retry.Reset();
        continue;
      }
    }
    if (!status.ok()) {
      publication_.SetReachable(*dc, status);
      dc->catalog_failed = true;
      // Those whose own watch doesn't say so.
      for (auto& [key, service] : state_.tracked) {
        if (key.first == dc->name && service.loop == nullptr) publication_.Fail(key, status);
      }
    }
    index = 0;  // the next success is then known at once, changed or not
    co_await WatchState::Pause(*loop, retry.Next(state_.Unit()));
  }
}

bool CatalogWatch::OnListing(Datacenter& dc, uint64_t index, CatalogListing listing) {
  const std::string suspect = SuspectListing(dc.listing, listing);
  if (!suspect.empty()) {
    publication_.SetReachable(dc, absl::InternalError(suspect));
    for (auto& [key, service] : state_.tracked) {
      if (key.first != dc.name) continue;
      if (service.on_suspect == v1::ConsulSource::ACCEPT && dc.known && !listing.contains(key.second)) {
        confirmation_.Suspect(key, service);  // and believe what the leader says
      } else if (service.loop == nullptr) {
        publication_.Fail(key, absl::InternalError(suspect));
      }
    }
    dc.catalog_failed = true;
    return false;
  }
  const bool same_names = std::ranges::equal(dc.listing, listing, {}, &CatalogListing::value_type::first,
                                             &CatalogListing::value_type::first);
  const bool news = !dc.known || dc.catalog_failed || !same_names;
  dc.known = true;
  dc.catalog_failed = false;
  dc.listing = std::move(listing);
  if (dc.names == nullptr || !same_names) {
    auto names = std::make_shared<ServiceNames>();
    for (const auto& [name, tags] : dc.listing) names->insert(names->end(), name);
    dc.names = std::move(names);
  }
  dc.listing_index = index;
  listed_(dc, news);
  publication_.Schedule();
  return true;
}

}  // namespace gateway::controlplane
