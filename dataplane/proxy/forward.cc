// How a service is asked: attempts at its endpoints until one has answered, and what each of them meant for the service
// and the endpoint. The two bodies of an attempt flow at once: the request's in a task of its own, the response's in
// the exchange's.
#include <algorithm>
#include <cerrno>
#include <exception>
#include <memory>
#include <utility>

#include "common/base/grpc_code.h"
#include "dataplane/http/grpc.h"
#include "dataplane/net/alarm.h"
#include "dataplane/proxy/exchange.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {

using std::chrono::nanoseconds;

// The request's body, from the client to the endpoint.
class Exchange::Upload final : public RelayObserver {
 public:
  Upload(Exchange* exchange, http::UpstreamStream* upstream) : exchange_(*exchange), upstream_(*upstream) {}

  // A mirror and a retry need the payload.
  http::BodyForms Forms() override {
    const bool looks = exchange_.mirrors_ || exchange_.keeps_body_;
    return {.framed = !looks, .pipe = !looks};
  }

  RelayEnd OnPiece(const http::BodyPiece& piece) override {
    if (piece.pipe != nullptr) {
      exchange_.worker_->metrics().Add(WorkerGauge::kSplicedBytesTotal, static_cast<int64_t>(piece.payload));
    }
    exchange_.upload_begun_ = true;
    if (exchange_.continue_awaited_) {
      exchange_.continue_awaited_ = false;  // the client did not wait
      upstream_.ExtendRead(exchange_.ends_at_);
    }
    exchange_.body_complete_ = piece.last;
    exchange_.body_bytes_ += piece.payload;
    const RoutePolicy& route = *exchange_.match_.route;
    if (route.bounds_body && exchange_.body_bytes_ > route.max_body_bytes) return RelayEnd::kTooLarge;
    if (exchange_.keeps_body_) exchange_.KeepForRetry(piece);
    if (exchange_.mirrors_) exchange_.CopyForMirrors(piece.bytes);
    if (piece.last) exchange_.StartMirrors();
    return RelayEnd::kRunning;
  }

  // A client that waits for a 100 does not stall, nor does a call with nothing to say for now: whether its client is
  // still there is asked of the connection.
  TimePoint ReadDeadline(TimePoint since) override {
    const bool silent = exchange_.continue_awaited_ || (exchange_.grpc_ && exchange_.web_type_.empty());
    return silent ? exchange_.ends_at_ : since + exchange_.options_.read_timeout;
  }
  bool Stopped() const override { return exchange_.stop_upload_; }

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
    if (piece.last) exchange_.NoteCallStatus(piece.trailers);
    // A response that still flows when the breaker's timeout has passed since its head succeeded, so that a long one
    // does not hold a probe until it is given up.
    const BoundService& service = *exchange_.service_;
    if (!piece.last && service.breaker != nullptr &&
        exchange_.loop().now() >= exchange_.head_read_ + service.policy->breaker->timeout) {
      exchange_.ReportSuccess();
    }
    return RelayEnd::kRunning;
  }

  // While the request is still on its way the endpoint may be waiting for it.
  TimePoint ReadDeadline(TimePoint since) override {
    if (exchange_.upload_ == RelayEnd::kRunning) return TimePoint::max();
    return since + exchange_.service_->policy->response_timeout;
  }

 private:
  Exchange& exchange_;
};

// Chooses endpoints until one has answered, or nothing is left to try.
Task<void> Exchange::Forward() {
  using Reuse = UpstreamPool::Reuse;
  Attempt attempt;
  attempt.reason = Reason::kNoHealthyEndpoint;
  // So often a kept connection had ended, or took no more requests: then only a new one will do.
  int renewals = 0;
  int connects_failed = 0;
  for (;;) {
    if (IsGone()) {
      attempt.reason = EndOfCancelled();
      break;
    }
    const bool fresh = renewals > 0;
    if (!fresh && !PickEndpoint()) {
      if (retries_ == 0) break;
      // All were tried: then one of them again, rather not the last.
      const uint32_t last = endpoint_index_;
      tried_.assign(1, last);
      if (!PickEndpoint()) {
        tried_.clear();
        if (!PickEndpoint()) break;
      }
    }
    ++attempts_;
    attempt = {};
    grpc_status_ = -1;
    upload_ = RelayEnd::kComplete;
    if (keeps_body_ && body_room_) buffered_body_ = {body_room_.data(), body_room_.size()};
    attempt_started_ = head_sent_ = request_sent_ = loop().now();
    const bool repeatable = replayable_ && http::IsIdempotent(head_.method);
    const Reuse reuse = fresh ? Reuse::kNone : repeatable ? Reuse::kKept : Reuse::kProbed;
    std::unique_ptr<http::UpstreamStream> upstream =
        worker_->pool().Acquire(endpoint_, reuse, service_->policy->idle_timeout);
    if (upstream == nullptr) {
      const bool exhausted = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS;
      attempt.reason = exhausted ? Reason::kOverloaded : Reason::kUpstreamConnectFailed;
      attempt.detail = exhausted ? "out of descriptors or memory" : "connection refused";
    } else if (!upstream->connected() && !co_await Connect(upstream.get(), &attempt)) {
      upstream = nullptr;
    }
    if (grpc_ && upstream != nullptr && !upstream->carries_trailers()) {
      attempt.reason = Reason::kNotImplemented;
      attempt.detail = "the endpoint speaks HTTP/1.1, which would lose the status of a call: gRPC needs protocol http2";
      break;
    }
    bool at_once = false;
    if (upstream != nullptr) {
      attempt = co_await TryEndpoint(upstream.get());
      const int renewals_max = attempt.refused ? kRenewalsMax : attempt.stale ? 1 : 0;
      if (renewals < renewals_max && MayRepeat(attempt)) {
        ++renewals;
        worker_->metrics().Add(WorkerGauge::kRetriesTotal, 1);
        continue;
      }
      if (attempt.complete) upstream->Finish();
      if (attempt.reason == Reason::kNone) {
        ReportEnd();
        break;
      }
      if (!attempt.stale) ReportEndpoint(0, attempt.reason);
    } else {
      ReportEndpoint(0, attempt.reason);
      // Nothing was sent: another endpoint may have it, at once. A connection that timed out has used up its patience.
      at_once = (attempt.reason == Reason::kUpstreamConnectFailed || attempt.reason == Reason::kUpstreamTlsFailed) &&
                ++connects_failed < kConnectAttemptsMax;
    }
    tried_.push_back(endpoint_index_);
    in_flight_ = {};
    if (tried_.size() >= service_->endpoints.size()) at_once = false;
    if (!at_once) {
      ReportFailure(attempt);
      if (!attempt.retried) attempt.retried = !attempt.answered && PrepareRetry(attempt.reason, 0, upstream != nullptr);
      if (!attempt.retried) break;
      upstream = nullptr;
      if (retry_delay_.count() > 0) {
        Alarm alarm(&loop());
        co_await AwaitAlarm(&alarm, loop().now() + retry_delay_);
        if (IsGone()) continue;  // not made: nobody waits for it any more
      }
    }
    renewals = 0;
    worker_->metrics().Add(WorkerGauge::kRetriesTotal, 1);
  }
  if (attempt.reason == Reason::kNone) co_return;
  ReportFailure(attempt);
  if (attempt.answered) {
    reason_ = attempt.reason;
    detail_ = attempt.detail;
    aborted_ = true;
    if (end_ == http::End::kComplete) end_ = http::End::kCutShort;
    if (answers_call_) co_await EndCall(attempt.reason);
    co_return;
  }
  if (attempt.reason == Reason::kClientClosed) co_return EndUnanswered();
  co_await Refuse(attempt.reason, attempt.detail);
}

// Counts as a failure of the service unless the client or its policy caused it. The first report on an attempt counts.
void Exchange::ReportFailure(const Attempt& attempt) {
  if (!permit_) return;
  const bool blameless = attempt.reason == Reason::kClientClosed || attempt.reason == Reason::kRequestTimeout ||
                         attempt.reason == Reason::kBadRequest || attempt.reason == Reason::kOverloaded ||
                         attempt.reason == Reason::kBodyTooLarge || attempt.reason == Reason::kDraining ||
                         attempt.reason == Reason::kNotImplemented ||
                         // (Else a client could open it by a deadline that nobody can meet.)
                         (attempt.reason == Reason::kRequestDeadline && timed_by_client_ && OutOfTime()) ||
                         (attempt.answered && attempt.reason == Reason::kRequestDeadline) ||
                         (attempt.reason == Reason::kRequestDeadline && upload_ != RelayEnd::kComplete);
  permit_.Report(blameless ? Outcome::kCancelled : Outcome::kFailure, loop().now(), ServiceTime());
}

// Reports the attempt by its status: a 5xx is a failure whatever follows, a 101 a success.
void Exchange::ReportHead(int status) {
  const Outcome outcome = status >= 500 ? Outcome::kFailure : Outcome::kSuccess;
  permit_.Report(outcome, loop().now(), head_latency_);
  ReportEndpoint(status, Reason::kNone);
}

void Exchange::ReportEnd() {
  if (answers_call_ && grpc_status_ < 0) grpc_status_ = kGrpcUnknown;  // as its client sees it
  const int status = OutcomeStatus(status_);
  permit_.Report(status >= 500 ? Outcome::kFailure : Outcome::kSuccess, loop().now(), head_latency_);
  ReportEndpoint(status, Reason::kNone);
}

void Exchange::ReportSuccess() { permit_.Report(Outcome::kSuccess, loop().now(), head_latency_); }

bool Exchange::MayRepeat(const Attempt& attempt) const {
  // A body that was wholly there before is there still, and so is what has not been read yet; what was read as it came
  // is gone.
  return !attempt.answered && (replayable_ || keeps_body_ || !upload_begun_) &&
         (!attempt.sent || attempt.refused || http::IsIdempotent(head_.method));
}

void Exchange::CancelWhenGone(http::UpstreamStream* upstream) {
  if (upstream == nullptr) return stream_.WatchGone(nullptr, nullptr);
  stream_.WatchGone([](void* owner) { static_cast<http::UpstreamStream*>(owner)->Cancel(); }, upstream);
}

Task<bool> Exchange::Connect(http::UpstreamStream* upstream, Attempt* failure) {
  CancelWhenGone(upstream);
  const TimePoint patience = std::min(
      {attempt_started_ + service_->policy->connect_timeout, request_complete_ + match_.route->timeout, ends_at_});
  const Io io = co_await upstream->Connect(patience);
  CancelWhenGone(nullptr);
  if (io == Io::kDone) co_return true;
  if (upstream->cancelled()) {
    failure->reason = EndOfCancelled();
  } else if (io == Io::kAgain && (OutOfTime() || loop().now() >= request_complete_ + match_.route->timeout)) {
    failure->reason = Reason::kRequestDeadline;
    failure->detail = OutOfTime() ? OutOfTimeDetail() : "";
  } else if (upstream->tls_failure() != nullptr) {
    failure->reason = Reason::kUpstreamTlsFailed;
    failure->detail = upstream->tls_failure();
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
    stop_upload_ = true;
    upstream->Cancel();
    stream_.Interrupt();
    co_await upload->Done();
    stop_upload_ = false;
  }
  if (failed) std::rethrow_exception(failed);
  co_return attempt;
}

// Sends the request and relays the response, on one connection.
Task<Exchange::Attempt> Exchange::Converse(http::UpstreamStream* upstream, std::optional<Task<void>>* upload) {
  Attempt attempt;
  {
    FieldList fields;
    const http::OutgoingRequest request = BuildRequest(*endpoint_, std::nullopt, &fields);
    Io io = upstream->Begin(request, {.bytes = buffered_body_,
                                      .payload = buffered_body_.size(),
                                      .last = body_complete_,
                                      .trailers = buffered_trailers_});
    if (io == Io::kEnd) {
      attempt.reason = Reason::kOverloaded;
      co_return attempt;
    }
    if (io == Io::kAgain) io = co_await upstream->Flush(service_->policy->response_timeout, ends_at_);
    attempt.sent = upstream->sent();
    if (upstream->cancelled()) co_return EndOfWait(Wait::kCancelled);
    if (io == Io::kAgain && OutOfTime()) co_return EndOfWait(Wait::kTimeout);
    if (io == Io::kAgain) {
      attempt.reason = Reason::kUpstreamTimeout;
      attempt.detail = "the endpoint did not take the request in time";
      co_return attempt;
    }
    if (io == Io::kError && !attempt.sent && (upstream->stale() || upstream->refused())) {
      attempt.reason = Reason::kUpstreamReset;
      attempt.stale = true;
      attempt.refused = upstream->refused();
      co_return attempt;
    }
    // An endpoint that takes no more may have answered already: what it said is read first.
  }
  request_sent_ = head_sent_ = heard_ = loop().now();
  if (mirrors_) {
    mirror_body_.clear();  // of an attempt that came to nothing
    CopyForMirrors(buffered_body_);
    if (body_complete_) StartMirrors();
  }
  if (!body_complete_) {
    upload_ = RelayEnd::kRunning;
    continue_awaited_ = head_.expect_continue && buffered_body_.empty();
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
        if (io == Io::kAgain) io = co_await stream_.Flush(options_.write_timeout, ends_at_);
        if (io != Io::kDone) {
          attempt.reason = Reason::kClientClosed;
          co_return attempt;
        }
        if (response->status == 100) {
          continue_awaited_ = false;
          stream_.ExtendRead(loop().now() + options_.read_timeout);
        }
        break;
      }
      case http::HeadRead::kWait: {
        if (upstream->heard()) heard_ = loop().now();
        const Wait wait = co_await upstream->Readable(ResponseDeadline());
        if (wait != Wait::kReady) co_return EndOfWait(wait);
        break;
      }
      case http::HeadRead::kCutShort:
        if (upstream->cancelled()) co_return EndOfWait(Wait::kCancelled);
        attempt.reason = Reason::kUpstreamReset;
        attempt.detail = upstream->detail();
        attempt.stale = upstream->stale();
        attempt.refused = upstream->refused();
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
  if (!response->has_body) NoteCallStatus(response->field_views());
  const int status = OutcomeStatus(response->status);
  head_latency_ = ServiceTime();
  head_read_ = loop().now();
  answer_head_read_ = true;
  upstream_duration_ = loop().now() - attempt_started_;
  if (status < 502 || status > 504) ObserveLatency(head_latency_);  // else ReportHead does
  if (status >= 500) ReportHead(status);
  if (KeepsRetrying() && IsRetryStatus(Reason::kNone, response->status) &&
      PrepareRetry(Reason::kNone, response->status)) {
    ReportEndpoint(status, Reason::kNone);
    // The client does not see this response. Its connection is good for another one only where all of it is here
    // already.
    answer_head_read_ = false;
    attempt.retried = true;
    attempt.reason = Reason::kNoHealthyEndpoint;  // if there is no other to ask
    http::BodyPiece rest;
    attempt.complete = upstream->Read({}, &rest) == http::BodyRead::kPiece && rest.last;
    co_return attempt;
  }
  if (response->status == 101) {
    ReportHead(status);
    co_return co_await Tunnel(upstream, response);
  }
  co_return co_await RelayResponse(upstream, response);
}

Task<Exchange::Attempt> Exchange::RelayResponse(http::UpstreamStream* upstream, http::Response* response) {
  Attempt attempt;
  attempt.answered = true;
  answers_call_ = grpc_ && response->status == 200 &&
                  http::IsGrpcContentType(http::FindFieldValue(response->field_views(), "content-type"));
  http::OutgoingResponse head = BuildResponse(response);
  const bool web = AdaptToWeb(response, &head);
  http::BodySink* const sink = web ? static_cast<http::BodySink*>(&*web_sink_) : &stream_;
  // What of the body came with the head leaves with the head.
  http::BodyPiece first;
  const http::BodyRead read = upstream->Read({}, &first);
  Io io = stream_.Begin(head, web ? web_sink_->Encode(first) : first);
  if (io == Io::kEnd) {
    attempt.answered = false;
    attempt.reason = Reason::kOverloaded;
    co_return attempt;
  }
  status_ = head.status;
  answer_bounded_ = head.length.has_value();
  if (first.last && response->has_body) NoteCallStatus(first.trailers);
  answer_started_ = true;
  if (io == Io::kAgain) io = co_await stream_.Flush(options_.write_timeout, ends_at_);
  RelayEnd end = RelayEnd::kComplete;
  if (io != Io::kDone) {
    end = io == Io::kError ? RelayEnd::kSinkGone : OutOfTime() ? RelayEnd::kOutOfTime : RelayEnd::kSinkStalled;
  } else if (read == http::BodyRead::kInvalid) {
    end = RelayEnd::kInvalid;
  } else if (!first.last) {
    Download download(this);
    end = co_await Relay(&loop(), upstream, sink, &download, {options_.write_timeout, ends_at_});
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
      attempt.detail = OutOfTimeDetail();
      break;
    default:
      attempt.complete = upload_ == RelayEnd::kComplete;
      break;
  }
  co_return attempt;
}

Task<void> Exchange::UploadBody(http::UpstreamStream* upstream) {
  RelayEnd end = RelayEnd::kOverloaded;
  try {
    Upload upload(this, upstream);
    http::BodySource* const source = web_source_ ? static_cast<http::BodySource*>(&*web_source_) : &stream_;
    end = co_await Relay(&loop(), source, upstream, &upload, {service_->policy->response_timeout});
  } catch (const std::exception& error) {
    spdlog::error("request {}: its body could not be relayed: {}", request_id_, error.what());
  }
  if (end == RelayEnd::kSinkGone && upstream->cancelled()) end = RelayEnd::kSourceGone;
  if (end == RelayEnd::kInvalid) body_detail_ = web_source_ ? web_source_->detail() : stream_.detail();
  upload_ = end;
  if (end == RelayEnd::kComplete || end == RelayEnd::kSinkGone) {
    // Now the clock runs for the response. An endpoint that takes no more may have answered before it stopped reading.
    request_sent_ = request_complete_ = loop().now();
    upstream->ExtendRead(answer_head_read_ ? std::min(loop().now() + service_->policy->response_timeout, ends_at_)
                                           : ResponseDeadline());
  } else if (end != RelayEnd::kStopped) {
    // It ends the exchange with it: nobody waits for a response any more.
    upstream->Cancel();
  }
}

// When the response's head has to be there. While the request is still on its way no clock runs against the endpoint,
// unless it is the endpoint's leave that the client waits for.
TimePoint Exchange::ResponseDeadline() const {
  if (upload_ == RelayEnd::kRunning && !continue_awaited_) return ends_at_;
  const TimePoint silent_until = std::max(request_sent_, heard_) + service_->policy->response_timeout;
  TimePoint deadline = std::min({silent_until, request_complete_ + match_.route->timeout, ends_at_});
  // The other two bound the attempt, whatever it says in the meantime.
  if (service_->breaker != nullptr) deadline = std::min(deadline, request_sent_ + service_->policy->breaker->timeout);
  if (retry_ != nullptr && retry_->per_try_timeout.count() > 0) {
    deadline = std::min(deadline, request_sent_ + retry_->per_try_timeout);
  }
  return deadline;
}

// How long the endpoint has taken so far in this attempt: while the client sends its body, it is the client that takes.
nanoseconds Exchange::ServiceTime() const {
  if (answer_head_read_) return head_latency_;
  const TimePoint uploaded = upload_ == RelayEnd::kRunning ? loop().now() : request_sent_;
  return loop().now() - attempt_started_ - (uploaded - head_sent_);
}

Exchange::Attempt Exchange::EndOfWait(Wait wait) const {
  Attempt attempt;
  attempt.sent = true;
  if (wait == Wait::kTimeout) {
    const bool deadline = OutOfTime() || loop().now() >= request_complete_ + match_.route->timeout;
    attempt.reason = deadline ? Reason::kRequestDeadline : Reason::kUpstreamTimeout;
    attempt.detail = OutOfTime() ? OutOfTimeDetail() : "no response in time";
    return attempt;
  }
  switch (upload_) {
    case RelayEnd::kSourceStalled:
      attempt.reason = Reason::kRequestTimeout;
      attempt.detail = "the body stopped arriving";
      break;
    case RelayEnd::kInvalid:
      attempt.reason = Reason::kBadRequest;
      attempt.detail = body_detail_;
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
