// What an exchange does beside its plain course: waits for a place where the service is bounded, keeps its body so that
// an attempt can be made again, decides whether it is, and sends copies to mirrors.
#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "common/base/text.h"
#include "dataplane/net/alarm.h"
#include "dataplane/proxy/exchange.h"
#include "dataplane/proxy/mirror.h"

namespace gateway::dataplane {
namespace {

constexpr size_t kMirrorBodyBytesMax = 64 * 1024;

}  // namespace

Task<void> Exchange::AwaitAlarm(Alarm* alarm, TimePoint deadline) {
  if (client_->socket.broken()) co_return;
  client_->socket.WatchReset([](void* rung) { static_cast<Alarm*>(rung)->Ring(); }, alarm);
  co_await alarm->Until(deadline);
  client_->socket.WatchReset(nullptr, nullptr);
}

Task<Reason> Exchange::EnterBulkhead() {
  std::shared_ptr<Alarm> alarm;
  EventLoop* const on = &loop();
  const auto make_granted = [&alarm, on] {
    alarm = std::make_shared<Alarm>(on);
    return std::function<void()>([on, weak = std::weak_ptr<Alarm>(alarm)] {
      on->Post([weak] {
        if (const std::shared_ptr<Alarm> waiting = weak.lock()) waiting->Ring();
      });
    });
  };
  const Bulkhead::Verdict verdict = Bulkhead::Enter(service_->bulkhead, &place_, make_granted);
  if (verdict == Bulkhead::Verdict::kEntered) co_return Reason::kNone;
  if (verdict == Bulkhead::Verdict::kWaits) {
    const TimePoint patience = std::min(
        {loop().now() + service_->policy->limits->pending_timeout, loop().now() + match_.route->timeout, ends_at_});
    co_await AwaitAlarm(alarm.get(), patience);
    // A grant and the end of the patience may meet: what counts is whether there is a place.
    if (place_.entered()) co_return Reason::kNone;
    place_.Leave();
    if (client_->socket.broken() || worker_->cut_short()) co_return EndOfCancelled();
    detail_ = "no connection was free in time";
  } else {
    detail_ = verdict == Bulkhead::Verdict::kTooManyPending ? "too many wait for a connection" : "too many requests";
  }
  policy_ = Concat("Service/", service_->runtime->name);
  co_return Reason::kOverloaded;
}

// Waits until the body is here, if it is no longer than `bytes_max`; a longer one flows as it comes and makes one
// attempt only.
Task<Reason> Exchange::BufferBody(uint64_t bytes_max) {
  if (head_.has_length && head_.length > bytes_max) co_return Reason::kNone;
  if (buffered_body_.size() > bytes_max) co_return Reason::kNone;
  const size_t expected = head_.has_length ? head_.length : buffered_body_.size() + 1;
  body_room_ = worker_->buffers().AcquireUpTo(std::max<size_t>(expected, 1));
  if (!body_room_ || (body_room_.room() < expected && !worker_->buffers().Grow(&body_room_, expected))) {
    body_room_.Reset();
    co_return Reason::kNone;
  }
  std::memcpy(body_room_.space(), buffered_body_.data(), buffered_body_.size());
  body_room_.Filled(buffered_body_.size());
  while (!body_.done() && body_room_.size() <= bytes_max) {
    if (body_room_.room() == 0 && !worker_->buffers().Grow(&body_room_, body_room_.capacity() * 2)) break;
    const size_t room = std::min(body_room_.room(), body_.ReadableBytes());
    size_t moved = 0;
    const Io io = client_->socket.Read(body_room_.space(), room, &moved);
    if (io == Io::kAgain) {
      const Wait wait = co_await client_->socket.Readable(std::min(loop().now() + options_.read_timeout, ends_at_));
      if (wait == Wait::kReady) continue;
      client_->EndAfterThis();
      co_return wait == Wait::kTimeout ? Reason::kRequestTimeout : Reason::kClientClosed;
    }
    if (io != Io::kDone) {
      client_->EndGone();
      co_return Reason::kClientClosed;
    }
    const auto result = body_.Decode(body_room_.space(), moved);
    bytes_in_ += result.consumed;
    if (result.refused) {
      upload_ = Upload::kRefused;
      body_detail_ = body_.detail();
      co_return Reason::kBadRequest;
    }
    if (result.consumed < moved) {
      // Behind a chunked body, the beginning of the next request.
      next_input_ = worker_->buffers().AcquireUpTo(moved - result.consumed);
      if (!next_input_ || (next_input_.room() < moved - result.consumed &&
                           !worker_->buffers().Grow(&next_input_, moved - result.consumed))) {
        next_input_.Reset();
        client_->EndAfterThis();
      } else {
        std::memcpy(next_input_.space(), body_room_.space() + result.consumed, moved - result.consumed);
        next_input_.Filled(moved - result.consumed);
      }
    }
    body_room_.Filled(result.payload);
    body_bytes_ += result.payload;
    if (match_.route->bounds_body && body_bytes_ > match_.route->max_body_bytes) {
      upload_ = Upload::kTooLarge;
      co_return Reason::kBodyTooLarge;
    }
  }
  buffered_body_ = {body_room_.data(), body_room_.size()};
  replayable_ = body_.done() && body_room_.size() <= bytes_max;
  request_complete_ = loop().now();
  co_return Reason::kNone;
}

// Whether an attempt that ended with `reason`, or (kNone) with an answer of `status`, is made again after retry_delay_.
// Then the breaker has let it in, and the budget has been charged.
// An answer of ours is retried where its status is one of the conditions, as an endpoint's would be.
bool Exchange::PrepareRetry(Reason reason, int status, bool connected) {
  if (!KeepsRetrying() || !replayable_ || buffered_body_.size() > retry_->max_body_bytes) return false;
  bool wanted = retry_->statuses.test(static_cast<size_t>(status > 0 ? status : InfoOf(reason).status));
  switch (reason) {
    case Reason::kNone:
    case Reason::kUpstreamInvalid:
      break;
    case Reason::kUpstreamConnectFailed:
    case Reason::kUpstreamTlsFailed:
      wanted = wanted || retry_->on_connect_failure;
      break;
    case Reason::kUpstreamReset:
      wanted = wanted || retry_->on_reset;
      break;
    case Reason::kUpstreamTimeout:
      wanted = wanted || retry_->on_timeout || (!connected && retry_->on_connect_failure);
      break;
    default:
      return false;
  }
  if (!wanted) return false;
  const TimePoint now = loop().now();
  const std::chrono::milliseconds delay = RetryDelay(*retry_, retries_ + 1, worker_->random());
  if (now + delay >= std::min(request_complete_ + match_.route->timeout, ends_at_) || client_->socket.broken()) {
    return false;
  }
  if (service_->breaker != nullptr) {
    if (status > 0) permit_.Report(status >= 500 ? Outcome::kFailure : Outcome::kSuccess, now, head_latency_);
    permit_ = {};
    if (service_->breaker->Acquire(now, &permit_) != BreakerVerdict::kAllowed) return false;
  }
  if (!service_->runtime->retry_budget.Spend(*retry_, now)) {
    worker_->metrics().Add(WorkerGauge::kRetriesOverBudgetTotal, 1);
    permit_ = {};
    return false;
  }
  retry_delay_ = delay;
  ++retries_;
  return true;
}

void Exchange::CopyForMirrors(std::string_view payload) {
  if (mirror_body_.size() + payload.size() > kMirrorBodyBytesMax) {
    mirrors_ = false;
    mirror_body_ = {};
    worker_->metrics().Add(WorkerGauge::kMirrorsDroppedTotal, static_cast<int64_t>(match_.route->mirrors.size()));
    return;
  }
  mirror_body_ += payload;
}

// Once, when all of the request is here: the copies leave while the request itself waits for its answer.
void Exchange::StartMirrors() {
  if (!std::exchange(mirrors_, false)) return;
  for (const MirrorTarget& target : match_.route->mirrors) {
    if (absl::Uniform<uint32_t>(worker_->random(), 0, 1'000'000) >= target.per_million) continue;
    const std::shared_ptr<const BoundService>& service = (*state_)->services[target.service];
    if (service->balancer == nullptr || worker_->mirrors >= Worker::kMirrorsMax) {
      worker_->metrics().Add(WorkerGauge::kMirrorsDroppedTotal, 1);
      continue;
    }
    const std::shared_ptr<Endpoint> endpoint = PickMirror(*service, worker_);
    Buffer head = worker_->buffers().Acquire(BufferPool::kSmall);
    if (endpoint == nullptr || !head || !BuildUpstreamHead(*endpoint, mirror_body_.size(), &head)) {
      worker_->metrics().Add(WorkerGauge::kMirrorsDroppedTotal, 1);
      continue;
    }
    worker_->metrics().Add(WorkerGauge::kMirroredTotal, 1);
    SendMirror(worker_, service, endpoint, Concat(std::string_view(head.data(), head.size()), mirror_body_),
               head_.method == "HEAD");
  }
  mirror_body_ = {};
}

}  // namespace gateway::dataplane
