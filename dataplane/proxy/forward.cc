// How a service is asked: attempts at its endpoints until one has answered, and what each of them meant for the service
// and the endpoint. The two bodies of an attempt flow at once: the request's in a task of its own, the response's in
// the exchange's.
#include <algorithm>
#include <cerrno>
#include <exception>
#include <memory>
#include <utility>

#include "dataplane/net/alarm.h"
#include "dataplane/proxy/exchange.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {

using std::chrono::nanoseconds;

// The request's body, from the client to the endpoint.
class Exchange::Upload final : public RelayObserver {
 public:
  Upload(Exchange* exchange, http::UpstreamStream* upstream) : exchange_(*exchange), upstream_(*upstream) {}

  // A mirror needs the payload.
  http::BodyForms Forms() override { return {.framed = !exchange_.body_.mirrors, .pipe = !exchange_.body_.mirrors}; }

  RelayEnd OnPiece(const http::BodyPiece& piece) override {
    if (piece.pipe != nullptr) {
      exchange_.worker_->metrics().Add(WorkerGauge::kSplicedBytesTotal, static_cast<int64_t>(piece.payload));
    }
    exchange_.body_.upload_begun = true;
    if (exchange_.body_.continue_awaited) {
      exchange_.body_.continue_awaited = false;  // the client did not wait
      upstream_.ExtendRead(exchange_.request_.ends_at);
    }
    exchange_.body_.complete = piece.last;
    exchange_.body_.bytes += piece.payload;
    const RoutePolicy& route = *exchange_.target_.match.route;
    if (route.bounds_body && exchange_.body_.bytes > route.max_body_bytes) return RelayEnd::kTooLarge;
    if (exchange_.body_.mirrors) exchange_.CopyForMirrors(piece.bytes);
    if (piece.last) exchange_.StartMirrors();
    return RelayEnd::kRunning;
  }

  // A client that waits for a 100 does not stall.
  TimePoint ReadDeadline(TimePoint since) override {
    return exchange_.body_.continue_awaited ? exchange_.request_.ends_at : since + exchange_.options_.read_timeout;
  }
  bool Stopped() const override { return exchange_.body_.stop_upload; }

 private:
  Exchange& exchange_;
  http::UpstreamStream& upstream_;
};

// The response's body, from the endpoint to the client.
class Exchange::Download final : public RelayObserver {
 public:
  explicit Download(Exchange* exchange) : exchange_(*exchange) {}

  http::BodyForms Forms() override { return {.framed = true, .pipe = true}; }

  RelayEnd OnPiece(const http::BodyPiece& piece) override {
    if (piece.pipe != nullptr) {
      exchange_.worker_->metrics().Add(WorkerGauge::kSplicedBytesTotal, static_cast<int64_t>(piece.payload));
    }
    // A response that still flows when the breaker's timeout has passed since its head succeeded, so that a long one
    // does not hold a probe until it is given up.
    const BoundService& service = *exchange_.target_.service;
    if (service.breaker != nullptr &&
        exchange_.loop().now() >= exchange_.attempt_.head_read + service.policy->breaker->timeout) {
      exchange_.ReportSuccess();
    }
    return RelayEnd::kRunning;
  }

  // While the request is still on its way the endpoint may be waiting for it.
  TimePoint ReadDeadline(TimePoint since) override {
    if (exchange_.body_.upload == RelayEnd::kRunning) return TimePoint::max();
    return since + exchange_.target_.service->policy->response_timeout;
  }

 private:
  Exchange& exchange_;
};

// Chooses endpoints until one has answered, or nothing is left to try.
Task<void> Exchange::Forward() {
  using Reuse = UpstreamPool::Reuse;
  Attempt attempt;
  attempt.reason = Reason::kNoHealthyEndpoint;
  bool fresh = false;  // a kept connection had ended: now only a new one will do
  int connects_failed = 0;
  for (;;) {
    if (IsGone()) {
      attempt.reason = EndOfCancelled();
      break;
    }
    if (!fresh && !PickEndpoint()) {
      if (attempt_.retries == 0) break;
      // All were tried: then one of them again, rather not the last.
      const uint32_t last = attempt_.endpoint_index;
      attempt_.tried.assign(1, last);
      if (!PickEndpoint()) {
        attempt_.tried.clear();
        if (!PickEndpoint()) break;
      }
    }
    ++attempt_.count;
    attempt = {};
    attempt_.started = attempt_.head_sent = attempt_.request_sent = loop().now();
    const bool repeatable = body_.replayable && http::IsIdempotent(request_.head.method);
    const Reuse reuse = fresh ? Reuse::kNone : repeatable ? Reuse::kKept : Reuse::kProbed;
    std::unique_ptr<http::UpstreamStream> upstream =
        worker_->pool().Acquire(attempt_.endpoint, reuse, target_.service->policy->idle_timeout);
    if (upstream == nullptr) {
      const bool exhausted = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS;
      attempt.reason = exhausted ? Reason::kOverloaded : Reason::kUpstreamConnectFailed;
      attempt.detail = exhausted ? "out of descriptors or memory" : "connection refused";
    } else if (!upstream->connected() && !co_await Connect(upstream.get(), &attempt)) {
      upstream = nullptr;
    }
    bool at_once = false;
    if (upstream != nullptr) {
      attempt = co_await TryEndpoint(upstream.get());
      if (attempt.stale && !fresh && MayRepeat(attempt)) {
        fresh = true;
        body_.upload = RelayEnd::kComplete;
        worker_->metrics().Add(WorkerGauge::kRetriesTotal, 1);
        continue;
      }
      if (attempt.complete) upstream->Finish();
      if (attempt.reason == Reason::kNone) {
        ReportSuccess();
        ReportEndpoint(outcome_.status, Reason::kNone);
        break;
      }
      if (!attempt.stale) ReportEndpoint(0, attempt.reason);
    } else {
      ReportEndpoint(0, attempt.reason);
      // Nothing was sent: another endpoint may have it, at once. A connection that timed out has used up its patience.
      at_once = attempt.reason == Reason::kUpstreamConnectFailed && ++connects_failed < kConnectAttemptsMax;
    }
    attempt_.tried.push_back(attempt_.endpoint_index);
    attempt_.in_flight = {};
    if (attempt_.tried.size() >= target_.service->endpoints.size()) at_once = false;
    if (!at_once) {
      ReportFailure(attempt);
      if (!attempt.retried) attempt.retried = !attempt.answered && PrepareRetry(attempt.reason, 0, upstream != nullptr);
      if (!attempt.retried) break;
      upstream = nullptr;
      if (attempt_.retry_delay.count() > 0) {
        Alarm alarm(&loop());
        co_await AwaitAlarm(&alarm, loop().now() + attempt_.retry_delay);
        if (IsGone()) continue;  // not made: nobody waits for it any more
      }
    }
    fresh = false;
    worker_->metrics().Add(WorkerGauge::kRetriesTotal, 1);
  }
  if (attempt.reason == Reason::kNone) co_return;
  ReportFailure(attempt);
  if (attempt.answered) {
    outcome_.reason = attempt.reason;
    outcome_.detail = attempt.detail;
    outcome_.aborted = true;
    if (outcome_.end == http::End::kComplete) outcome_.end = http::End::kCutShort;
    co_return;
  }
  if (attempt.reason == Reason::kClientClosed) co_return EndUnanswered();
  co_await Refuse(attempt.reason, attempt.detail);
}

// Counts as a failure of the service unless the client or its policy caused it. The first report on an attempt counts.
void Exchange::ReportFailure(const Attempt& attempt) {
  if (!admission_.permit) return;
  const bool blameless = attempt.reason == Reason::kClientClosed || attempt.reason == Reason::kRequestTimeout ||
                         attempt.reason == Reason::kBadRequest || attempt.reason == Reason::kOverloaded ||
                         attempt.reason == Reason::kBodyTooLarge || attempt.reason == Reason::kDraining ||
                         (attempt.answered && attempt.reason == Reason::kRequestDeadline) ||
                         (attempt.reason == Reason::kRequestDeadline && body_.upload != RelayEnd::kComplete);
  admission_.permit.Report(blameless ? Outcome::kCancelled : Outcome::kFailure, loop().now(), ServiceTime());
}

// Reports the attempt by its status: a 5xx is a failure whatever follows, a 101 a success.
void Exchange::ReportHead(int status) {
  const Outcome outcome = status >= 500 ? Outcome::kFailure : Outcome::kSuccess;
  admission_.permit.Report(outcome, loop().now(), attempt_.head_latency);
  ReportEndpoint(status, Reason::kNone);
}

void Exchange::ReportSuccess() { admission_.permit.Report(Outcome::kSuccess, loop().now(), attempt_.head_latency); }

bool Exchange::MayRepeat(const Attempt& attempt) const {
  // A body that was wholly there before is there still, and so is what has not been read yet; what was read as it came
  // is gone.
  return !attempt.answered && (body_.replayable || !body_.upload_begun) && (!attempt.sent || http::IsIdempotent(request_.head.method));
}

void Exchange::CancelWhenGone(http::UpstreamStream* upstream) {
  if (upstream == nullptr) return stream_.WatchGone(nullptr, nullptr);
  stream_.WatchGone([](void* owner) { static_cast<http::UpstreamStream*>(owner)->Cancel(); }, upstream);
}

Task<bool> Exchange::Connect(http::UpstreamStream* upstream, Attempt* failure) {
  CancelWhenGone(upstream);
  const TimePoint patience = std::min(
      {attempt_.started + target_.service->policy->connect_timeout, request_.complete_at + target_.match.route->timeout, request_.ends_at});
  const Io io = co_await upstream->Connect(patience);
  CancelWhenGone(nullptr);
  if (io == Io::kDone) co_return true;
  if (upstream->cancelled()) {
    failure->reason = EndOfCancelled();
  } else if (io == Io::kAgain && (OutOfTime() || loop().now() >= request_.complete_at + target_.match.route->timeout)) {
    failure->reason = Reason::kRequestDeadline;
    failure->detail = OutOfTime() ? kMaxDurationDetail : "";
  } else if (io == Io::kAgain) {
    failure->reason = Reason::kUpstreamTimeout;
    failure->detail = "the connection was not established in time";
  } else {
    failure->reason = Reason::kUpstreamConnectFailed;
    failure->detail = "connection refused";
  }
  co_return false;
}

Task<Exchange::Attempt> Exchange::TryEndpoint(http::UpstreamStream* upstream) {
  CancelWhenGone(upstream);
  std::optional<Task<void>> upload;
  Attempt attempt;
  std::exception_ptr failed;
  try {
    attempt = co_await Converse(upstream, &upload);
  } catch (...) {
    failed = std::current_exception();
  }
  CancelWhenGone(nullptr);
  if (upload && !upload->done()) {
    // The response ended before the request: the rest of the body is nobody's, unless all of it is still to be read, by
    // another attempt. Both of its waits end, then the task itself.
    body_.stop_upload = true;
    upstream->Cancel();
    stream_.Interrupt();
    co_await upload->Done();
    body_.stop_upload = false;
  }
  if (failed) std::rethrow_exception(failed);
  co_return attempt;
}

// Sends the request and relays the response, on one connection.
Task<Exchange::Attempt> Exchange::Converse(http::UpstreamStream* upstream, std::optional<Task<void>>* upload) {
  Attempt attempt;
  {
    FieldList fields;
    const http::OutgoingRequest request = BuildRequest(*attempt_.endpoint, std::nullopt, &fields);
    Io io =
        upstream->Begin(request, {.bytes = body_.buffered, .payload = body_.buffered.size(), .last = body_.complete});
    if (io == Io::kEnd) {
      attempt.reason = Reason::kOverloaded;
      co_return attempt;
    }
    if (io == Io::kAgain) io = co_await upstream->Flush(target_.service->policy->response_timeout, request_.ends_at);
    attempt.sent = upstream->sent();
    if (upstream->cancelled()) co_return EndOfWait(Wait::kCancelled);
    if (io == Io::kAgain && OutOfTime()) co_return EndOfWait(Wait::kTimeout);
    if (io == Io::kAgain) {
      attempt.reason = Reason::kUpstreamTimeout;
      attempt.detail = "the endpoint did not take the request in time";
      co_return attempt;
    }
    if (io == Io::kError && upstream->stale() && !attempt.sent) {
      attempt.reason = Reason::kUpstreamReset;
      attempt.stale = true;
      co_return attempt;
    }
    // An endpoint that takes no more may have answered already: what it said is read first.
  }
  attempt_.request_sent = attempt_.head_sent = attempt_.heard = loop().now();
  if (body_.mirrors) {
    body_.mirror_copy.clear();  // of an attempt that came to nothing
    CopyForMirrors(body_.buffered);
    if (body_.complete) StartMirrors();
  }
  if (!body_.complete) {
    body_.upload = RelayEnd::kRunning;
    body_.continue_awaited = request_.head.expect_continue && body_.buffered.empty();
    upload->emplace(UploadBody(upstream));
    (*upload)->Start();
  }

  // The response's head; interim responses before it.
  http::Response* response = nullptr;
  for (http::HeadRead read = http::HeadRead::kWait; read != http::HeadRead::kFinal;) {
    read = upstream->ReadHead(&response);
    switch (read) {
      case http::HeadRead::kFinal:
        break;
      case http::HeadRead::kInterim: {
        Io io = stream_.SendInterim(BuildResponse(response));
        if (io == Io::kAgain) io = co_await stream_.Flush(options_.write_timeout, request_.ends_at);
        if (io != Io::kDone) {
          attempt.reason = Reason::kClientClosed;
          co_return attempt;
        }
        if (response->status == 100) {
          body_.continue_awaited = false;
          stream_.ExtendRead(loop().now() + options_.read_timeout);
        }
        break;
      }
      case http::HeadRead::kWait: {
        if (upstream->heard()) attempt_.heard = loop().now();
        const Wait wait = co_await upstream->Readable(ResponseDeadline());
        if (wait != Wait::kReady) co_return EndOfWait(wait);
        break;
      }
      case http::HeadRead::kCutShort:
        if (upstream->cancelled()) co_return EndOfWait(Wait::kCancelled);
        attempt.reason = Reason::kUpstreamReset;
        attempt.detail = upstream->detail();
        attempt.stale = upstream->stale();
        co_return attempt;
      case http::HeadRead::kInvalid:
        attempt.reason = Reason::kUpstreamInvalid;
        attempt.detail = upstream->detail();
        co_return attempt;
      case http::HeadRead::kOverloaded:
        attempt.reason = Reason::kOverloaded;
        co_return attempt;
    }
  }
  const int status = response->status;
  attempt_.head_latency = ServiceTime();
  attempt_.head_read = loop().now();
  attempt_.has_response = true;
  attempt_.upstream_duration = loop().now() - attempt_.started;
  if (status < 502 || status > 504) ObserveLatency(attempt_.head_latency);  // else ReportHead does
  if (status >= 500) ReportHead(status);
  if (KeepsRetrying() && status < 600 && attempt_.retry->statuses.test(static_cast<size_t>(status)) &&
      PrepareRetry(Reason::kNone, status)) {
    ReportEndpoint(status, Reason::kNone);
    // The client does not see this response. Its connection is good for another one only where all of it is here
    // already.
    attempt_.has_response = false;
    attempt.retried = true;
    attempt.reason = Reason::kNoHealthyEndpoint;  // if there is no other to ask
    http::BodyPiece rest;
    attempt.complete = upstream->Read({}, &rest) == http::BodyRead::kPiece && rest.last;
    co_return attempt;
  }
  if (status == 101) {
    ReportHead(status);
    co_return co_await Tunnel(upstream, response);
  }
  co_return co_await RelayResponse(upstream, response);
}

Task<Exchange::Attempt> Exchange::RelayResponse(http::UpstreamStream* upstream, http::Response* response) {
  Attempt attempt;
  attempt.answered = true;
  const http::OutgoingResponse head = BuildResponse(response);
  // What of the body came with the head leaves with the head.
  http::BodyPiece first;
  const http::BodyRead read = upstream->Read({}, &first);
  Io io = stream_.Begin(head, first);
  if (io == Io::kEnd) {
    attempt.answered = false;
    attempt.reason = Reason::kOverloaded;
    co_return attempt;
  }
  outcome_.status = head.status;
  outcome_.response_started = true;
  if (io == Io::kAgain) io = co_await stream_.Flush(options_.write_timeout, request_.ends_at);
  RelayEnd end = RelayEnd::kComplete;
  if (io != Io::kDone) {
    end = io == Io::kError ? RelayEnd::kSinkGone : OutOfTime() ? RelayEnd::kOutOfTime : RelayEnd::kSinkStalled;
  } else if (read == http::BodyRead::kInvalid) {
    end = RelayEnd::kInvalid;
  } else if (!first.last) {
    Download download(this);
    end = co_await Relay(&loop(), upstream, &stream_, &download, {options_.write_timeout, request_.ends_at});
  }
  switch (end) {
    case RelayEnd::kSinkGone:
      attempt.reason = Reason::kClientClosed;
      break;
    case RelayEnd::kSinkStalled:
      attempt.reason = Reason::kClientClosed;
      attempt.detail = "the client stopped reading";
      break;
    case RelayEnd::kSourceStalled:
      attempt.reason = Reason::kUpstreamTimeout;
      attempt.detail = "the response stalled";
      break;
    case RelayEnd::kSourceGone:
      attempt.reason = upstream->cancelled() ? EndOfWait(Wait::kCancelled).reason : Reason::kUpstreamReset;
      attempt.detail = upstream->cancelled() ? "" : "the response was cut off";
      break;
    case RelayEnd::kInvalid:
      attempt.reason = Reason::kUpstreamInvalid;
      attempt.detail = upstream->detail();
      break;
    case RelayEnd::kOverloaded:
      attempt.reason = Reason::kOverloaded;
      break;
    case RelayEnd::kOutOfTime:
      attempt.reason = Reason::kRequestDeadline;
      attempt.detail = kMaxDurationDetail;
      break;
    default:
      attempt.complete = body_.upload == RelayEnd::kComplete;
      break;
  }
  co_return attempt;
}

Task<void> Exchange::UploadBody(http::UpstreamStream* upstream) {
  RelayEnd end = RelayEnd::kOverloaded;
  try {
    Upload upload(this, upstream);
    end = co_await Relay(&loop(), &stream_, upstream, &upload, {target_.service->policy->response_timeout});
  } catch (const std::exception& error) {
    spdlog::error("request {}: its body could not be relayed: {}", request_.id, error.what());
  }
  if (end == RelayEnd::kSinkGone && upstream->cancelled()) end = RelayEnd::kSourceGone;
  if (end == RelayEnd::kInvalid) body_.detail = stream_.detail();
  body_.upload = end;
  if (end == RelayEnd::kComplete || end == RelayEnd::kSinkGone) {
    // Now the clock runs for the response. An endpoint that takes no more may have answered before it stopped reading.
    attempt_.request_sent = request_.complete_at = loop().now();
    upstream->ExtendRead(attempt_.has_response ? std::min(loop().now() + target_.service->policy->response_timeout, request_.ends_at)
                                           : ResponseDeadline());
  } else if (end != RelayEnd::kStopped) {
    // It ends the exchange with it: nobody waits for a response any more.
    upstream->Cancel();
  }
}

// When the response's head has to be there. While the request is still on its way no clock runs against the endpoint,
// unless it is the endpoint's leave that the client waits for.
TimePoint Exchange::ResponseDeadline() const {
  if (body_.upload == RelayEnd::kRunning && !body_.continue_awaited) return request_.ends_at;
  const TimePoint silent_until = std::max(attempt_.request_sent, attempt_.heard) + target_.service->policy->response_timeout;
  TimePoint deadline = std::min({silent_until, request_.complete_at + target_.match.route->timeout, request_.ends_at});
  // The other two bound the attempt, whatever it says in the meantime.
  if (target_.service->breaker != nullptr) deadline = std::min(deadline, attempt_.request_sent + target_.service->policy->breaker->timeout);
  if (attempt_.retry != nullptr && attempt_.retry->per_try_timeout.count() > 0) {
    deadline = std::min(deadline, attempt_.request_sent + attempt_.retry->per_try_timeout);
  }
  return deadline;
}

// How long the endpoint has taken so far in this attempt: while the client sends its body, it is the client that takes.
nanoseconds Exchange::ServiceTime() const {
  if (attempt_.has_response) return attempt_.head_latency;
  const TimePoint uploaded = body_.upload == RelayEnd::kRunning ? loop().now() : attempt_.request_sent;
  return loop().now() - attempt_.started - (uploaded - attempt_.head_sent);
}

Exchange::Attempt Exchange::EndOfWait(Wait wait) const {
  Attempt attempt;
  attempt.sent = true;
  if (wait == Wait::kTimeout) {
    const bool deadline = OutOfTime() || loop().now() >= request_.complete_at + target_.match.route->timeout;
    attempt.reason = deadline ? Reason::kRequestDeadline : Reason::kUpstreamTimeout;
    attempt.detail = OutOfTime() ? kMaxDurationDetail : "no response in time";
    return attempt;
  }
  switch (body_.upload) {
    case RelayEnd::kSourceStalled:
      attempt.reason = Reason::kRequestTimeout;
      attempt.detail = "the body stopped arriving";
      break;
    case RelayEnd::kInvalid:
      attempt.reason = Reason::kBadRequest;
      attempt.detail = body_.detail;
      break;
    case RelayEnd::kTooLarge:
      attempt.reason = Reason::kBodyTooLarge;
      break;
    case RelayEnd::kSinkStalled:
      attempt.reason = Reason::kUpstreamTimeout;
      attempt.detail = "the endpoint did not take the body in time";
      break;
    case RelayEnd::kOverloaded:
      attempt.reason = Reason::kOverloaded;
      break;
    default:
      attempt.reason = EndOfCancelled();
      break;
  }
  return attempt;
}

Reason Exchange::EndOfCancelled() const {
  return worker_->cut_short() && !stream_.gone() ? Reason::kDraining : Reason::kClientClosed;
}

}  // namespace gateway::dataplane
