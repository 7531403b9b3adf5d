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

// Keeps what it is given, behind what it holds, until that is more than `bytes_max`: then it takes no more.
class BodyBuffer final : public http::BodySink {
 public:
  BodyBuffer(BufferPool* pool, Buffer* out, uint64_t bytes_max) : pool_(pool), out_(*out), bytes_max_(bytes_max) {}

  http::BodyForms takes() const override { return {}; }
  Io Write(const http::BodyPiece& piece) override {
    if (out_.room() < piece.bytes.size() && !pool_->Grow(&out_, out_.size() + piece.bytes.size())) {
      overloaded_ = true;
      return Io::kError;
    }
    std::memcpy(out_.space(), piece.bytes.data(), piece.bytes.size());
    out_.Filled(piece.bytes.size());
    return out_.size() > bytes_max_ && !piece.last ? Io::kError : Io::kDone;
  }
  Task<Io> Flush(std::chrono::milliseconds, TimePoint) override { co_return Io::kDone; }
  bool overloaded() const { return overloaded_; }

 private:
  BufferPool* const pool_;
  Buffer& out_;
  const uint64_t bytes_max_;
  bool overloaded_ = false;
};

}  // namespace

Task<void> Exchange::AwaitAlarm(Alarm* alarm, TimePoint deadline) {
  if (stream_.gone()) co_return;
  stream_.WatchGone([](void* rung) { static_cast<Alarm*>(rung)->Ring(); }, alarm);
  co_await alarm->Until(deadline);
  stream_.WatchGone(nullptr, nullptr);
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
  const Bulkhead::Verdict verdict = Bulkhead::Enter(target_.service->bulkhead, &admission_.place, make_granted);
  if (verdict == Bulkhead::Verdict::kEntered) co_return Reason::kNone;
  if (verdict == Bulkhead::Verdict::kWaits) {
    const TimePoint patience = std::min(
        {loop().now() + target_.service->policy->limits->pending_timeout, loop().now() + target_.match.route->timeout, request_.ends_at});
    co_await AwaitAlarm(alarm.get(), patience);
    // A grant and the end of the patience may meet: what counts is whether there is a place.
    if (admission_.place.entered()) co_return Reason::kNone;
    admission_.place.Leave();
    if (IsGone()) co_return EndOfCancelled();
    outcome_.detail = "no connection was free in time";
  } else {
    outcome_.detail = verdict == Bulkhead::Verdict::kTooManyPending ? "too many wait for a connection" : "too many requests";
  }
  outcome_.policy = Concat("Service/", target_.service->runtime->name);
  co_return Reason::kOverloaded;
}

// The request's body, from the client into a buffer.
class Exchange::Buffering final : public RelayObserver {
 public:
  explicit Buffering(Exchange* exchange) : exchange_(*exchange) {}

  http::BodyForms Forms() override { return {}; }
  RelayEnd OnPiece(const http::BodyPiece& piece) override {
    exchange_.body_.complete = piece.last;
    exchange_.body_.bytes += piece.payload;
    const RoutePolicy& route = *exchange_.target_.match.route;
    const bool too_large = route.bounds_body && exchange_.body_.bytes > route.max_body_bytes;
    return too_large ? RelayEnd::kTooLarge : RelayEnd::kRunning;
  }
  TimePoint ReadDeadline(TimePoint since) override { return since + exchange_.options_.read_timeout; }

 private:
  Exchange& exchange_;
};

// Waits until the body is here, if it is no longer than `bytes_max`; a longer one flows as it comes and makes one
// attempt only.
Task<Reason> Exchange::BufferBody(uint64_t bytes_max) {
  if (request_.head.length.value_or(0) > bytes_max || body_.buffered.size() > bytes_max) co_return Reason::kNone;
  const size_t expected = request_.head.length.value_or(body_.buffered.size() + 1);
  BufferPool& buffers = worker_->buffers();
  body_.storage = buffers.AcquireUpTo(std::max<size_t>(expected, 1));
  if (!body_.storage || (body_.storage.room() < expected && !buffers.Grow(&body_.storage, expected))) {
    body_.storage.Reset();
    co_return Reason::kNone;
  }
  std::memcpy(body_.storage.space(), body_.buffered.data(), body_.buffered.size());
  body_.storage.Filled(body_.buffered.size());
  BodyBuffer sink(&buffers, &body_.storage, bytes_max);
  Buffering buffering(this);
  const RelayEnd end = co_await Relay(&loop(), &stream_, &sink, &buffering, {options_.read_timeout, request_.ends_at});
  body_.buffered = {body_.storage.data(), body_.storage.size()};
  request_.complete_at = loop().now();
  switch (end) {
    case RelayEnd::kComplete:
      body_.replayable = body_.storage.size() <= bytes_max;
      co_return Reason::kNone;
    case RelayEnd::kSinkGone:  // it is longer
      co_return sink.overloaded() ? Reason::kOverloaded : Reason::kNone;
    case RelayEnd::kInvalid:
      body_.detail = stream_.detail();
      co_return Reason::kBadRequest;
    case RelayEnd::kTooLarge:
      co_return Reason::kBodyTooLarge;
    case RelayEnd::kOverloaded:
      co_return Reason::kOverloaded;
    case RelayEnd::kSourceStalled:
    case RelayEnd::kOutOfTime:
      co_return Reason::kRequestTimeout;
    default:
      co_return Reason::kClientClosed;
  }
}

// Whether an attempt that ended with `reason`, or (kNone) with an answer of `status`, is made again after attempt_.retry_delay.
// Then the breaker has let it in, and the budget has been charged.
// An answer of ours is retried where its status is one of the conditions, as an endpoint's would be.
bool Exchange::PrepareRetry(Reason reason, int status, bool connected) {
  if (!KeepsRetrying() || !body_.replayable || body_.buffered.size() > attempt_.retry->max_body_bytes) return false;
  bool wanted = attempt_.retry->statuses.test(static_cast<size_t>(status > 0 ? status : InfoOf(reason).status));
  switch (reason) {
    case Reason::kNone:
    case Reason::kUpstreamInvalid:
      break;
    case Reason::kUpstreamConnectFailed:
      wanted = wanted || attempt_.retry->on_connect_failure;
      break;
    case Reason::kUpstreamReset:
      wanted = wanted || attempt_.retry->on_reset;
      break;
    case Reason::kUpstreamTimeout:
      wanted = wanted || attempt_.retry->on_timeout || (!connected && attempt_.retry->on_connect_failure);
      break;
    default:
      return false;
  }
  if (!wanted) return false;
  const TimePoint now = loop().now();
  const std::chrono::milliseconds delay = RetryDelay(*attempt_.retry, attempt_.retries + 1, worker_->random());
  if (now + delay >= std::min(request_.complete_at + target_.match.route->timeout, request_.ends_at) || stream_.gone()) {
    return false;
  }
  if (target_.service->breaker != nullptr) {
    if (status > 0) admission_.permit.Report(status >= 500 ? Outcome::kFailure : Outcome::kSuccess, now, attempt_.head_latency);
    admission_.permit = {};
    if (target_.service->breaker->Acquire(now, &admission_.permit) != BreakerVerdict::kAllowed) return false;
  }
  if (!target_.service->runtime->retry_budget.Spend(*attempt_.retry, now)) {
    worker_->metrics().Add(WorkerGauge::kRetriesOverBudgetTotal, 1);
    admission_.permit = {};
    return false;
  }
  attempt_.retry_delay = delay;
  ++attempt_.retries;
  return true;
}

void Exchange::CopyForMirrors(std::string_view payload) {
  if (body_.mirror_copy.size() + payload.size() > kMirrorBodyBytesMax) {
    body_.mirrors = false;
    body_.mirror_copy = {};
    worker_->metrics().Add(WorkerGauge::kMirrorsDroppedTotal, static_cast<int64_t>(target_.match.route->mirrors.size()));
    return;
  }
  body_.mirror_copy += payload;
}

// Once, when all of the request is here: the copies leave while the request itself waits for its answer.
void Exchange::StartMirrors() {
  if (!std::exchange(body_.mirrors, false)) return;
  for (const MirrorTarget& target : target_.match.route->mirrors) {
    if (absl::Uniform<uint32_t>(worker_->random(), 0, 1'000'000) >= target.per_million) continue;
    const std::shared_ptr<const BoundService>& service = (*state_)->services[target.service];
    if (service->balancer == nullptr || worker_->mirrors >= Worker::kMirrorsMax) {
      worker_->metrics().Add(WorkerGauge::kMirrorsDroppedTotal, 1);
      continue;
    }
    const std::shared_ptr<Endpoint> endpoint = PickMirror(*service, worker_);
    if (endpoint == nullptr) {
      worker_->metrics().Add(WorkerGauge::kMirrorsDroppedTotal, 1);
      continue;
    }
    worker_->metrics().Add(WorkerGauge::kMirroredTotal, 1);
    FieldList fields;
    SendMirror(worker_, service, endpoint,
               RequestCopy(BuildRequest(*endpoint, body_.mirror_copy.size(), &fields), body_.mirror_copy));
  }
  body_.mirror_copy = {};
}

}  // namespace gateway::dataplane
