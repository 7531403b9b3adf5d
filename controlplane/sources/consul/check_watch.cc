#include "controlplane/sources/consul/check_watch.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace gateway::controlplane {
namespace {

namespace asio = boost::asio;

constexpr std::chrono::milliseconds kChecksPace{500};  // this response is megabytes

}  // namespace

asio::awaitable<void> CheckWatch::Run(std::shared_ptr<Datacenter> dc, std::shared_ptr<Loop> loop) {
  LoopPace pace(kChecksPace);
  RetryDelay retry;
  uint64_t index = 0;
  bool leader_known = true;
  while (!loop->stopped) {
    co_await WatchState::Pause(*loop, pace.Take(WatchState::Clock::now()));
    std::string target = absl::StrCat("/v1/health/state/any", WatchState::Query(*dc, "stale"));
    const std::chrono::milliseconds deadline = state_.Block(*loop, index, leader_known, &target);
    const absl::StatusOr<ConsulResponse> response = co_await loop->http.Get(std::move(target), deadline);
    loop->blocking = false;
    if (loop->stopped) break;
    absl::Status status = CheckResponse(response);
    if (status.ok() && index > 0 && response->index == index) {  // only the wait has ended
      publication_.SetReachable(*dc, absl::OkStatus());
      leader_known = response->known_leader;
      continue;
    }
    if (status.ok()) {
      absl::StatusOr<CheckDigests> digests = DecodeHealthState(response->body);
      status = digests.status();
      if (digests.ok()) {
        publication_.SetReachable(*dc, absl::OkStatus());
        // After a failure every set is marked; reading each again takes that back.
        const bool all = !dc->checks.has_value() || dc->checks_failed;
        dc->checks_failed = false;
        dc->checks = *std::move(digests);
        dc->checks_index = response->index;
        changed_(*dc, all);
        index = NextIndex(index, response->index);
        leader_known = response->known_leader;
        retry.Reset();
        continue;
      }
    }
    publication_.SetReachable(*dc, status);
    // Those whose own watch doesn't say so.
    for (auto& [key, service] : state_.tracked) {
      if (key.first == dc->name && service.loop == nullptr) publication_.Fail(key, status);
    }
    dc->checks_failed = true;
    index = 0;
    co_await WatchState::Pause(*loop, retry.Next(state_.Unit()));
  }
}

}  // namespace gateway::controlplane
