#include "controlplane/sources/consul/service_watch.h"

#include <string>
#include <utility>

namespace gateway::controlplane {
namespace {

namespace asio = boost::asio;

constexpr std::chrono::milliseconds kServicePace{250};  // between the reads of one service that changes all the time

}  // namespace

absl::Status ServiceReader::Take(const Datacenter& dc, const EndpointKey& key,
                                 const absl::StatusOr<ConsulResponse>& response) {
  absl::Status status = CheckResponse(response);
  if (status.ok()) status = confirmation_.OnResponse(key, *response);
  publication_.SetReachable(dc, status);
  if (!status.ok()) publication_.Fail(key, status);
  return status;
}

asio::awaitable<absl::Status> ServiceReader::Read(Datacenter& dc, Loop& loop, const EndpointKey& key) {
  const absl::StatusOr<ConsulResponse> response =
      co_await loop.http.Get(WatchState::ServiceTarget(dc, key.second, "stale"), kReadTimeout);
  if (loop.stopped) co_return absl::CancelledError("");
  const Tracked* service = state_.Find(key);
  if (service != nullptr && service->loop != nullptr) co_return absl::OkStatus();
  co_return Take(dc, key, response);
}

asio::awaitable<void> ServiceReader::Watch(std::shared_ptr<Datacenter> dc, std::shared_ptr<Loop> loop,
                                           EndpointKey key) {
  LoopPace pace(kServicePace);
  RetryDelay retry;
  uint64_t index = 0;
  bool leader_known = true;
  while (!loop->stopped) {
    co_await WatchState::Pause(*loop, pace.Take(WatchState::Clock::now()));
    std::string target = WatchState::ServiceTarget(*dc, key.second, "stale");
    const std::chrono::milliseconds deadline = state_.Block(*loop, index, leader_known, &target);
    const absl::StatusOr<ConsulResponse> response = co_await loop->http.Get(std::move(target), deadline);
    loop->blocking = false;
    if (loop->stopped) break;
    if (Take(*dc, key, response).ok()) {
      index = NextIndex(index, response->index);
      leader_known = response->known_leader;
      retry.Reset();
      continue;
    }
    index = 0;
    co_await WatchState::Pause(*loop, state_.RetryPause(retry));
  }
}

}  // namespace gateway::controlplane
