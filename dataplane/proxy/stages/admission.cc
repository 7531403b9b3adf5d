#include "dataplane/proxy/stages/admission.h"

#include <algorithm>
#include <functional>
#include <memory>

namespace gateway::dataplane {

Task<void> AwaitTimer(http::DownstreamStream* stream, CancellableTimer* timer, TimePoint deadline) {
  if (stream->gone()) co_return;
  stream->WatchGone([](void* cancelled) { static_cast<CancellableTimer*>(cancelled)->Cancel(); }, timer);
  co_await timer->Until(deadline);
  stream->WatchGone(nullptr, nullptr);
}

Task<std::optional<Refusal>> EnterBulkhead(const BoundService& service, http::DownstreamStream* stream, EventLoop* loop,
                                           TimePoint until, const bool* cut_short, Bulkhead::Place* place) {
  std::shared_ptr<CancellableTimer> timer;
  const auto make_granted = [&timer, loop] {
    timer = std::make_shared<CancellableTimer>(loop);
    return std::function<void()>([loop, weak = std::weak_ptr<CancellableTimer>(timer)] {
      loop->Post([weak] {
        if (const std::shared_ptr<CancellableTimer> waiting = weak.lock()) waiting->Cancel();
      });
    });
  };
  Refusal refusal{.reason = Reason::kOverloaded, .policy = {"Service", service.runtime->name}};
  const Bulkhead::Verdict verdict = Bulkhead::Enter(service.bulkhead, place, make_granted);
  if (verdict == Bulkhead::Verdict::kEntered) co_return std::nullopt;
  if (verdict == Bulkhead::Verdict::kWaits) {
    const TimePoint patience = std::min(loop->now() + service.policy->limits->pending_timeout, until);
    co_await AwaitTimer(stream, timer.get(), patience);
    // A grant and the end of the patience may coincide: what counts is whether there is a place.
    if (place->entered()) co_return std::nullopt;
    place->Leave();
    if (stream->gone() || *cut_short) co_return Refusal{.reason = ReasonOfAbandoned(*cut_short, stream->gone())};
    refusal.detail = "no connection was free in time";
  } else {
    refusal.detail =
        verdict == Bulkhead::Verdict::kTooManyPending ? "too many wait for a connection" : "too many requests";
  }
  co_return refusal;
}

std::optional<Refusal> AcquirePermit(const BoundService& service, TimePoint now, CircuitBreaker::Permit* permit) {
  const BreakerVerdict verdict = service.breaker->Acquire(now, permit);
  if (verdict == BreakerVerdict::kAllowed) return std::nullopt;
  Refusal refusal{.reason = Reason::kConcurrencyLimit, .policy = {"CircuitBreaker", service.policy->breaker->name}};
  if (verdict == BreakerVerdict::kOpen) {
    refusal.reason = Reason::kBreakerOpen;
    refusal.retry_after = service.breaker->RetryAfter(now);
  }
  return refusal;
}

}  // namespace gateway::dataplane
