// What an exchange does beside its plain course: waits for a place where the service is bounded, keeps its body so that
// an attempt can be made again, decides whether it is, and sends copies to mirrors.
#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "common/base/text.h"
#include "dataplane/http/grpc.h"
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
  const Bulkhead::Verdict verdict = Bulkhead::Enter(service_->bulkhead, &place_, make_granted);
  if (verdict == Bulkhead::Verdict::kEntered) co_return Reason::kNone;
  if (verdict == Bulkhead::Verdict::kWaits) {
    const TimePoint patience = std::min(
        {loop().now() + service_->policy->limits->pending_timeout, loop().now() + match_.route->timeout, ends_at_});
    co_await AwaitAlarm(alarm.get(), patience);
    // A grant and the end of the patience may meet: what counts is whether there is a place.
    if (place_.entered()) co_return Reason::kNone;
    place_.Leave();
    if (IsGone()) co_return EndOfCancelled();
    detail_ = "no connection was free in time";
  } else {
    detail_ = verdict == Bulkhead::Verdict::kTooManyPending ? "too many wait for a connection" : "too many requests";
  }
  policy_ = Concat("Service/", service_->runtime->name);
  co_return Reason::kOverloaded;
}

// The request's body, from the client into a buffer.
class Exchange::Buffering final : public RelayObserver {
 public:
  explicit Buffering(Exchange* exchange) : exchange_(*exchange) {}

  http::BodyForms Forms() override { return {}; }
  RelayEnd OnPiece(const http::BodyPiece& piece) override {
    exchange_.body_complete_ = piece.last;
    exchange_.body_bytes_ += piece.payload;
    const RoutePolicy& route = *exchange_.match_.route;
    const bool too_large = route.bounds_body && exchange_.body_bytes_ > route.max_body_bytes;
    return too_large ? RelayEnd::kTooLarge : RelayEnd::kRunning;
  }
  TimePoint ReadDeadline(TimePoint since) override { return since + exchange_.options_.read_timeout; }

 private:
  Exchange& exchange_;
};

// Waits until the body is here, if it is no longer than `bytes_max`; a longer one flows as it comes and makes one
// attempt only.
Task<Reason> Exchange::BufferBody(uint64_t bytes_max) {
  if (head_.length.value_or(0) > bytes_max || buffered_body_.size() > bytes_max) co_return Reason::kNone;
  const size_t expected = head_.length.value_or(buffered_body_.size() + 1);
  BufferPool& buffers = worker_->buffers();
  body_room_ = buffers.AcquireUpTo(std::max<size_t>(expected, 1));
  if (!body_room_ || (body_room_.room() < expected && !buffers.Grow(&body_room_, expected))) {
    body_room_.Reset();
    co_return Reason::kNone;
  }
  std::memcpy(body_room_.space(), buffered_body_.data(), buffered_body_.size());
  body_room_.Filled(buffered_body_.size());
  BodyBuffer sink(&buffers, &body_room_, bytes_max);
  Buffering buffering(this);
  const RelayEnd end = co_await Relay(&loop(), &stream_, &sink, &buffering, {options_.read_timeout, ends_at_});
  buffered_body_ = {body_room_.data(), body_room_.size()};
  request_complete_ = loop().now();
  switch (end) {
    case RelayEnd::kComplete:
      replayable_ = body_room_.size() <= bytes_max;
      co_return Reason::kNone;
    case RelayEnd::kSinkGone:  // it is longer
      co_return sink.overloaded() ? Reason::kOverloaded : Reason::kNone;
    case RelayEnd::kInvalid:
      body_detail_ = stream_.detail();
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

// Whether an attempt that ended with `reason`, or (kNone) with an answer of `status`, is made again after retry_delay_.
// Then the breaker has let it in, and the budget has been charged.
// An answer of ours is retried where its status is one of the conditions, as an endpoint's would be.
bool Exchange::PrepareRetry(Reason reason, int status, bool connected) {
  if (!KeepsRetrying() || !(replayable_ || keeps_body_) || buffered_body_.size() > retry_->max_body_bytes) return false;
  bool wanted = IsRetryStatus(reason, status);
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
  if (now + delay >= std::min(request_complete_ + match_.route->timeout, ends_at_) || stream_.gone()) {
    return false;
  }
  if (service_->breaker != nullptr) {
    if (status > 0) {
      permit_.Report(OutcomeStatus(status) >= 500 ? Outcome::kFailure : Outcome::kSuccess, now, head_latency_);
    }
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

bool Exchange::IsRetryStatus(Reason reason, int status) const {
  const bool answered = status > 0;
  if (!answered) status = InfoOf(reason).status;
  if (static_cast<size_t>(status) < retry_->statuses.size() && retry_->statuses.test(static_cast<size_t>(status))) {
    return true;
  }
  if (!IsCallFor(*retry_)) return false;
  const int code = answered ? grpc_status_ : http::GrpcCodeOfStatus(status);
  return code > 0 && retry_->grpc_codes.test(static_cast<size_t>(code));
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
    if (endpoint == nullptr) {
      worker_->metrics().Add(WorkerGauge::kMirrorsDroppedTotal, 1);
      continue;
    }
    worker_->metrics().Add(WorkerGauge::kMirroredTotal, 1);
    FieldList fields;
    SendMirror(worker_, service, endpoint,
               RequestCopy(BuildRequest(*endpoint, mirror_body_.size(), &fields), mirror_body_));
  }
  mirror_body_ = {};
}

}  // namespace gateway::dataplane
