#include "controlplane/sources/consul/watch_state.h"

#include <algorithm>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "boost/asio/co_spawn.hpp"
#include "boost/asio/redirect_error.hpp"
#include "boost/asio/use_awaitable.hpp"

namespace gateway::controlplane {
namespace {

namespace asio = boost::asio;
using std::chrono::milliseconds;

constexpr milliseconds kLeaderlessWait{5000};  // nothing wakes a watch when a leader is found
// With many watches their waits are longer, so that at most so many are asked again a second.
constexpr size_t kRenewalsPerSecond = 40;
constexpr milliseconds kLongestWait{180'000};
constexpr size_t kRetriesPerSecond = 400;

uint64_t DigestAt(const std::map<std::string, uint64_t, std::less<>>& digests, std::string_view name) {
  const auto found = digests.find(name);
  return found == digests.end() ? 0 : found->second;
}

}  // namespace

uint64_t DigestOf(const v1::EndpointSet& set, const CheckDigests& checks) {
  uint64_t digest = DigestAt(checks.services, set.key().service());
  std::string_view node;
  for (const v1::Instance& instance : set.instances()) {
    const std::string_view id = instance.id();  // sorted, so the instances of a node follow each other
    const std::string_view of = id.substr(0, id.find('/'));
    if (of == node) continue;
    node = of;
    digest = digest * 31 + DigestAt(checks.nodes, node);
  }
  return digest;
}

WatchState::WatchState(const ConsulWatcherOptions& watcher_options)
    : options(watcher_options), agent(std::make_shared<AgentConnections>(io, options.access)) {}

Tracked* WatchState::Find(const EndpointKey& key) {
  const auto found = tracked.find(key);
  return found == tracked.end() ? nullptr : &found->second;
}

bool WatchState::CatalogKnown() const {
  const auto own = datacenters.find("");
  return own != datacenters.end() && own->second->known;
}

void WatchState::Spawn(asio::awaitable<void> loop) {
  asio::co_spawn(io, std::move(loop), [](const std::exception_ptr& error) {
    if (error) std::rethrow_exception(error);
  });
}

std::string WatchState::Query(const Datacenter& dc, const char* mode) {
  return dc.name.empty() ? absl::StrCat("?", mode) : absl::StrCat("?", mode, "&dc=", EscapeUrl(dc.name));
}

std::string WatchState::ServiceTarget(const Datacenter& dc, const std::string& service, const char* mode) {
  return absl::StrCat("/v1/health/service/", EscapeUrl(service), Query(dc, mode));
}

milliseconds WatchState::Block(Loop& loop, uint64_t index, bool leader_known, std::string* target) {
  if (index == 0) return kReadTimeout;
  milliseconds longest = options.wait;
  if (agent->shared()) {
    const milliseconds spread{1000 * tracked.size() / kRenewalsPerSecond};
    longest = std::max(longest, std::min(spread, kLongestWait));
  }
  const milliseconds wait = SpreadWait(leader_known ? longest : std::min(longest, kLeaderlessWait), Unit());
  absl::StrAppend(target, "&index=", index, "&wait=", wait.count(), "ms");
  loop.blocking = true;
  loop.blocked_until = Clock::now() + wait + wait / 16;
  return ResponseDeadline(wait);
}

milliseconds WatchState::RetryPause(RetryDelay& retry) {
  const milliseconds together{1000 * tracked.size() / kRetriesPerSecond};
  const auto spread = together / 2 + std::chrono::duration_cast<milliseconds>(together / 2 * Unit());
  return std::max(retry.Next(Unit()), spread);
}

asio::awaitable<void> WatchState::Pause(Loop& loop, Clock::duration duration) {
  if (loop.stopped || duration <= Clock::duration::zero()) co_return;
  loop.timer.expires_after(duration);
  boost::system::error_code ignored;  // cancelled: the loop was stopped, or woken
  co_await loop.timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
}

void WatchState::Stop(std::shared_ptr<Loop>& loop) {
  if (loop == nullptr) return;
  // Over HTTP/2 the agent counts connections, and these stay.
  if (loop->blocking && loop->blocked_until > Clock::now() && !agent->shared()) {
    abandoned.insert(std::ranges::upper_bound(abandoned, loop->blocked_until), loop->blocked_until);
  }
  loop->Stop();
  loop.reset();
}

}  // namespace gateway::controlplane
