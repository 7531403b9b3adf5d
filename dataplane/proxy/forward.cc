#include "dataplane/proxy/forward.h"

#include <algorithm>
#include <cerrno>
#include <exception>
#include <memory>
#include <utility>

#include "common/base/grpc_code.h"
#include "common/base/text.h"
#include "dataplane/http/grpc.h"
#include "dataplane/net/cancellable_timer.h"
#include "dataplane/policy/hash_on.h"
#include "dataplane/proxy/header_rules.h"
#include "dataplane/proxy/mirror.h"
#include "dataplane/proxy/relay.h"
#include "dataplane/proxy/stages/admission.h"
#include "dataplane/proxy/stages/body.h"
#include "dataplane/proxy/tunnel.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

using std::chrono::nanoseconds;

// What a failed attempt counts as at least, so that an endpoint that fails at once does not look fast.
constexpr std::chrono::seconds kFailureLatency{1};

void CountSpliced(const http::BodyPiece& piece, WorkerShard* metrics) {
  if (piece.pipe != nullptr) metrics->Add(WorkerGauge::kSplicedBytesTotal, static_cast<int64_t>(piece.payload));
}

}  // namespace

// The request's body, from the client to the endpoint.
class Forwarding::Upload final : public RelayObserver {
 public:
  Upload(Forwarding* forwarding, http::UpstreamStream* upstream)
      : forwarding_(*forwarding),
        resources_(forwarding->resources_),
        context_(forwarding->context_),
        body_(forwarding->context_.body),
        upstream_(*upstream) {}

  // A mirror and a retry need the payload.
  http::BodyForms Forms() override {
    const bool looks = context_.mirror.pending || body_.keeps;
    return {.framed = !looks, .pipe = !looks};
  }

  RelayEnd OnPiece(const http::BodyPiece& piece) override {
    CountSpliced(piece, resources_.metrics);
    body_.flow_begun = true;
    if (body_.continue_awaited) {
      body_.continue_awaited = false;  // the client did not wait
      upstream_.ExtendRead(context_.deadline.at);
    }
    body_.complete = piece.last;
    body_.bytes += piece.payload;
    if (IsTooLarge(context_.target.policy(), body_.bytes)) return RelayEnd::kTooLarge;
    if (body_.keeps) {
      KeepForRetry(piece, resources_.buffers, forwarding_.retries_.policy()->max_body_bytes, &body_);
    }
    if (context_.mirror.pending) CopyForMirrors(piece.bytes, &context_, resources_.metrics);
    if (piece.last) StartMirrors(forwarding_.retries_.made() + 1, &resources_, &context_);
    return RelayEnd::kRunning;
  }

  // A client that waits for a 100 does not stall, nor does a call that is silent for now: the connection tells whether
  // its client is still there.
  TimePoint ReadDeadline(TimePoint since) override {
    const bool silent = body_.continue_awaited || (context_.call.is_call && context_.call.web == nullptr);
    return silent ? context_.deadline.at : since + resources_.options->read_timeout;
  }
  bool Stopped() const override { return forwarding_.stop_upload_; }

 private:
  Forwarding& forwarding_;
  ExchangeResources& resources_;
  RequestContext& context_;
  RequestBody& body_;
  http::UpstreamStream& upstream_;
};

// The response's body, from the endpoint to the client.
class Forwarding::Download final : public RelayObserver {
 public:
  explicit Download(Forwarding* forwarding) : forwarding_(*forwarding) {}

  http::BodyForms Forms() override { return {.framed = true, .pipe = true}; }

  RelayEnd OnPiece(const http::BodyPiece& piece) override {
    CountSpliced(piece, forwarding_.resources_.metrics);
    if (piece.last) forwarding_.context_.call.NoteStatus(piece.trailers);
    // A response that still flows when the breaker's timeout has passed since its header succeeded, so that a long one
    // does not hold a probe until it is given up.
    const BoundService& service = forwarding_.service_;
    if (!piece.last && service.breaker != nullptr &&
        forwarding_.now() >= forwarding_.clock_.header_read + service.policy->breaker->timeout) {
      forwarding_.ReportSuccess();
    }
    return RelayEnd::kRunning;
  }

  // While the request is still on its way the endpoint may be waiting for it.
  TimePoint ReadDeadline(TimePoint since) override {
    if (forwarding_.context_.body.upload == RelayEnd::kRunning) return TimePoint::max();
    return since + forwarding_.policy().response_timeout;
  }

 private:
  Forwarding& forwarding_;
};

Forwarding::Forwarding(ExchangeResources* resources, RequestContext* context, const RetryPolicy* retry,
                       CircuitBreaker::Permit* permit)
    : resources_(*resources),
      context_(*context),
      service_(*context->target.service),
      permit_(*permit),
      retries_(retry) {}

Task<AttemptEnd> Forwarding::Run() {
  using Reuse = UpstreamPool::Reuse;
  AttemptEnd attempt;
  attempt.reason = Reason::kNoHealthyEndpoint;
  // Times that a kept connection had ended, or took no more requests: then only a new one will do.
  int renewals = 0;
  int connects_failed = 0;
  for (;;) {
    if (IsGone()) {
      attempt.reason = EndOfCancelled();
      break;
    }
    const bool fresh = renewals > 0;
    if (!Begin(fresh)) break;
    attempt = {};
    const bool repeatable = context_.body.replayable && http::IsIdempotent(context_.header.method);
    const Reuse reuse = fresh ? Reuse::kNone : repeatable ? Reuse::kKept : Reuse::kProbed;
    std::unique_ptr<http::UpstreamStream> upstream =
        resources_.pool->Acquire(context_.result.endpoint, reuse, policy().idle_timeout);
    if (upstream == nullptr) {
      const bool exhausted = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS;
      attempt.reason = exhausted ? Reason::kOverloaded : Reason::kUpstreamConnectFailed;
      attempt.detail = exhausted ? "out of descriptors or memory" : "connection refused";
    } else if (context_.facts.upgrading) {
      upstream->ExpectProtocol();
    }
    if (upstream != nullptr && !upstream->connected() && !co_await Connect(upstream.get(), &attempt)) {
      upstream = nullptr;
    }
    if (context_.call.is_call && upstream != nullptr && !upstream->carries_trailers()) {
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
        resources_.metrics->Add(WorkerGauge::kRetriesTotal, 1);
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
    if (tried_.size() >= service_.endpoints.size()) at_once = false;
    if (!at_once) {
      ReportFailure(attempt);
      if (!attempt.retried) {
        attempt.retried =
            !attempt.responded && GrantRetry({.reason = attempt.reason, .connected = upstream != nullptr});
      }
      if (!attempt.retried) break;
      upstream = nullptr;
      if (retries_.delay().count() > 0) {
        CancellableTimer timer(&loop());
        co_await AwaitTimer(&context_.stream, &timer, now() + retries_.delay());
        if (IsGone()) continue;  // it ends there
      }
    }
    renewals = 0;
    resources_.metrics->Add(WorkerGauge::kRetriesTotal, 1);
  }
  if (attempt.reason != Reason::kNone) ReportFailure(attempt);
  co_return attempt;
}

bool Forwarding::Begin(bool same_endpoint) {
  if (!same_endpoint && !PickEndpoint()) {
    if (retries_.made() == 0) return false;
    // All were tried: then one of them again, preferably not the last.
    tried_.assign(1, endpoint_index_);
    if (!PickEndpoint()) {
      tried_.clear();
      if (!PickEndpoint()) return false;
    }
  }
  ++context_.result.attempts;
  context_.call.status = -1;
  RequestBody& body = context_.body;
  body.upload = RelayEnd::kComplete;
  if (body.keeps && body.storage) body.buffered = {body.storage.data(), body.storage.size()};
  clock_.started = clock_.header_sent = clock_.request_sent = now();
  return true;
}

bool Forwarding::PickEndpoint() {
  const EndpointBalancer& balancer = *service_.balancer;
  const http::Request& request = context_.header;
  in_flight_ = {};
  int index = EndpointBalancer::kNone;
  if (service_.sessions != nullptr) {
    const auto found =
        service_.sessions->indices.find(FindCookie(request.field_views(), policy().balance.session_cookie));
    if (found != service_.sessions->indices.end() && balancer.Usable(found->second) &&
        std::find(tried_.begin(), tried_.end(), found->second) == tried_.end()) {
      index = static_cast<int>(found->second);
    }
    sets_session_ = index == EndpointBalancer::kNone;
  }
  if (index == EndpointBalancer::kNone) {
    index = balancer.Pick(service_.runtime->cursor, {.random = resources_.random,
                                                     .now = now(),
                                                     .hash = HashOf(policy().balance.hash_on, request.field_views(),
                                                                    context_.facts.client_address, context_.facts.path),
                                                     .tried = {tried_.data(), tried_.size()}});
  }
  if (index == EndpointBalancer::kNone) return false;
  endpoint_index_ = static_cast<uint32_t>(index);
  context_.result.endpoint = service_.endpoints[endpoint_index_];
  endpoint_reported_ = false;
  if (balancer.counts_in_flight()) in_flight_ = InFlight(balancer.members()[endpoint_index_].state);
  return true;
}

void Forwarding::CancelWhenGone(http::UpstreamStream* upstream) {
  if (upstream == nullptr) return context_.stream.WatchGone(nullptr, nullptr);
  context_.stream.WatchGone([](void* owner) { static_cast<http::UpstreamStream*>(owner)->Cancel(); }, upstream);
}

TimePoint Forwarding::ResponseUntil() const {
  return std::min(context_.body.complete_at + context_.target.policy().timeout, context_.deadline.at);
}

Task<bool> Forwarding::Connect(http::UpstreamStream* upstream, AttemptEnd* failure) {
  CancelWhenGone(upstream);
  const Io io = co_await upstream->Connect(std::min(clock_.started + policy().connect_timeout, ResponseUntil()));
  CancelWhenGone(nullptr);
  if (io == Io::kDone) co_return true;
  if (upstream->cancelled()) {
    failure->reason = EndOfCancelled();
  } else if (io == Io::kAgain && now() >= ResponseUntil()) {
    failure->reason = Reason::kRequestDeadline;
    failure->detail = IsOutOfTime() ? context_.deadline.detail() : "";
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

Task<AttemptEnd> Forwarding::TryEndpoint(http::UpstreamStream* upstream) {
  CancelWhenGone(upstream);
  std::optional<Task<void>> upload;
  AttemptEnd attempt;
  std::exception_ptr failed;
  try {
    attempt = co_await Converse(upstream, &upload);
  } catch (...) {
    failed = std::current_exception();
  }
  CancelWhenGone(nullptr);
  if (upload && !upload->done()) {
    // The response ended before the request: the rest of the body is not needed, unless all of it is still to be read,
    // by another attempt. Both of its waits end, then the task itself.
    stop_upload_ = true;
    upstream->Cancel();
    context_.stream.Interrupt();
    co_await upload->Done();
    stop_upload_ = false;
  }
  if (failed) std::rethrow_exception(failed);
  co_return attempt;
}

// Sends the request and relays the response, on one connection.
Task<AttemptEnd> Forwarding::Converse(http::UpstreamStream* upstream, std::optional<Task<void>>* upload) {
  RequestBody& body = context_.body;
  AttemptEnd attempt;
  {
    FieldList fields;
    const http::OutgoingRequest request =
        BuildRequest(context_, *context_.result.endpoint, retries_.made() + 1, std::nullopt, &resources_, &fields);
    Io io = upstream->Begin(
        request,
        {.bytes = body.buffered, .payload = body.buffered.size(), .last = body.complete, .trailers = body.trailers});
    if (io == Io::kEnd) {
      attempt.reason = Reason::kOverloaded;
      co_return attempt;
    }
    if (io == Io::kAgain) io = co_await upstream->Flush(policy().response_timeout, context_.deadline.at);
    attempt.sent = upstream->sent();
    if (upstream->cancelled()) co_return EndOfWait(Wait::kCancelled);
    if (io == Io::kAgain && IsOutOfTime()) co_return EndOfWait(Wait::kTimeout);
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
    // An endpoint that takes no more may have responded already: its response is read first.
  }
  clock_.request_sent = clock_.header_sent = clock_.heard = now();
  if (context_.mirror.pending) {
    context_.mirror.body.clear();  // of an attempt that failed
    CopyForMirrors(body.buffered, &context_, resources_.metrics);
    if (body.complete) StartMirrors(retries_.made() + 1, &resources_, &context_);
  }
  if (!body.complete) {
    body.upload = RelayEnd::kRunning;
    const bool is_call = context_.call.is_call;
    body.continue_awaited = context_.header.expect_continue && body.buffered.empty() && !is_call;
    // Servers of gRPC do not implement Expect; it is not forwarded.
    if (is_call && std::exchange(context_.header.expect_continue, false)) {
      http::OutgoingResponse interim;
      interim.status = 100;
      interim.phrase = "Continue";
      if (context_.stream.SendInterim(interim) == Io::kAgain) {
        // (a client that is gone is seen below)
        (void)co_await context_.stream.Flush(resources_.options->write_timeout, context_.deadline.at);
      }
    }
    upload->emplace(UploadBody(upstream));
    (*upload)->Start();
  }

  // The response's header; interim responses before it.
  http::Response* response = nullptr;
  for (http::HeadRead read = http::HeadRead::kWait; read != http::HeadRead::kFinal;) {
    read = upstream->ReadHead(&response);
    switch (read) {
      case http::HeadRead::kFinal:
        break;
      case http::HeadRead::kInterim: {
        Io io = context_.stream.SendInterim(BuildResponse(context_, {}, &resources_, response));
        if (io == Io::kAgain) {
          io = co_await context_.stream.Flush(resources_.options->write_timeout, context_.deadline.at);
        }
        if (io != Io::kDone) {
          attempt.reason = Reason::kClientClosed;
          co_return attempt;
        }
        if (response->status == 100) {
          body.continue_awaited = false;
          context_.stream.ExtendRead(now() + resources_.options->read_timeout);
        }
        break;
      }
      case http::HeadRead::kWait: {
        if (upstream->heard()) clock_.heard = now();
        const Wait wait = co_await upstream->Readable(HeaderDeadline());
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
  if (!response->has_body) context_.call.NoteStatus(response->field_views());
  const int status = context_.call.OutcomeStatus(response->status);
  clock_.latency = ServiceTime();
  clock_.header_read = now();
  clock_.response_begun = true;
  context_.result.upstream_duration = now() - clock_.started;
  if (status < 502 || status > 504) ObserveLatency(clock_.latency);  // else ReportHeader does
  if (status >= 500) ReportHeader(status);
  const FailedAttempt responded{.status = response->status, .latency = clock_.latency};
  if (retries_.left() && retries_.IsStatusWanted(responded, context_.call) && GrantRetry(responded)) {
    ReportEndpoint(status, Reason::kNone);
    // The client does not see this response. Its connection is good for another one only if all of it is here already.
    clock_.response_begun = false;
    attempt.retried = true;
    attempt.reason = Reason::kNoHealthyEndpoint;  // if no other is left to ask
    http::BodyPiece rest;
    attempt.complete = upstream->Read({}, &rest) == http::BodyRead::kPiece && rest.last;
    co_return attempt;
  }
  if (response->status == 101) {
    ReportHeader(status);
    const std::string session_cookie = SessionCookie(101);
    co_return co_await RunTunnel(&resources_, &context_, &permit_, upstream, response, session_cookie);
  }
  co_return co_await RelayResponse(upstream, response);
}

Task<AttemptEnd> Forwarding::RelayResponse(http::UpstreamStream* upstream, http::Response* response) {
  Result& result = context_.result;
  GrpcCall& call = context_.call;
  http::DownstreamStream& stream = context_.stream;
  AttemptEnd attempt;
  attempt.responded = true;
  call.relays_response = call.is_call && response->status == 200 &&
                         http::IsGrpcContentType(http::FindFieldValue(response->field_views(), "content-type"));
  std::string session_cookie;
  if (sets_session_) session_cookie = SessionCookie(response->status);
  http::OutgoingResponse header = BuildResponse(context_, session_cookie, &resources_, response);
  std::string ending;
  if (call.relays_response && !header.has_body && call.status < 0) {
    header.lines = ending = MissingStatusFields(header.lines, &call);
    result.refusal.detail = http::GrpcEndSink::kMessage;
  }
  const bool web = AdaptToWeb(&stream, &call, response, &header);
  http::BodySink* sink = web ? static_cast<http::BodySink*>(&*call.web->sink) : &stream;
  std::optional<http::GrpcEndSink> completing;
  if (call.relays_response && header.has_body) sink = &completing.emplace(sink);
  // What of the body came with the header leaves with the header.
  http::BodyPiece first;
  const http::BodyRead read = upstream->Read({}, &first);
  if (completing && read == http::BodyRead::kPiece) first = completing->Complete(first);
  Io io = stream.Begin(header, web ? call.web->sink->Encode(first) : first);
  if (io == Io::kEnd) {
    attempt.responded = false;
    attempt.reason = Reason::kOverloaded;
    co_return attempt;
  }
  result.status = header.status;
  result.length_announced = header.length.has_value();
  if (first.last && response->has_body) call.NoteStatus(first.trailers);
  result.response_started = true;
  const RelayLimits limits{resources_.options->write_timeout, context_.deadline.at};
  if (io == Io::kAgain) io = co_await stream.Flush(limits.write_stall, limits.until);
  RelayEnd end = RelayEnd::kComplete;
  if (io != Io::kDone) {
    end = io == Io::kError ? RelayEnd::kSinkGone : IsOutOfTime() ? RelayEnd::kOutOfTime : RelayEnd::kSinkStalled;
  } else if (read == http::BodyRead::kInvalid) {
    end = RelayEnd::kInvalid;
  } else if (!first.last) {
    Download download(this);
    end = co_await Relay(&loop(), upstream, sink, &download, limits);
  }
  if (completing && completing->given() >= 0) {
    call.status = completing->given();
    result.refusal.detail = http::GrpcEndSink::kMessage;
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
      attempt.detail = context_.deadline.detail();
      break;
    default:
      attempt.complete = context_.body.upload == RelayEnd::kComplete;
      break;
  }
  co_return attempt;
}

Task<void> Forwarding::UploadBody(http::UpstreamStream* upstream) {
  RequestBody& body = context_.body;
  GrpcWebCall* const web = context_.call.web.get();
  const bool decodes = web != nullptr && web->source;
  RelayEnd end = RelayEnd::kOverloaded;
  try {
    Upload upload(this, upstream);
    http::BodySource* const source = decodes ? static_cast<http::BodySource*>(&*web->source) : &context_.stream;
    end = co_await Relay(&loop(), source, upstream, &upload, {policy().response_timeout});
  } catch (const std::exception& error) {
    spdlog::error("request {}: its body could not be relayed: {}", context_.facts.request_id, error.what());
  }
  if (end == RelayEnd::kSinkGone && upstream->cancelled()) end = RelayEnd::kSourceGone;
  if (end == RelayEnd::kInvalid) body.detail = decodes ? web->source->detail() : context_.stream.detail();
  body.upload = end;
  if (end == RelayEnd::kComplete || end == RelayEnd::kSinkGone) {
    // Now the clock runs for the response. An endpoint that takes no more may have responded before it stopped reading.
    clock_.request_sent = body.complete_at = now();
    upstream->ExtendRead(clock_.response_begun ? std::min(now() + policy().response_timeout, context_.deadline.at)
                                               : HeaderDeadline());
  } else if (end != RelayEnd::kStopped) {
    // It ends the exchange with it: the response is not awaited any more.
    upstream->Cancel();
  }
}

// When the response's header has to be there. While the request is still on its way no clock runs against the endpoint,
// unless the client waits for the endpoint's 100.
TimePoint Forwarding::HeaderDeadline() const {
  const RequestBody& body = context_.body;
  if (body.upload == RelayEnd::kRunning && !body.continue_awaited) return context_.deadline.at;
  const TimePoint silent_until = std::max(clock_.request_sent, clock_.heard) + policy().response_timeout;
  TimePoint deadline = std::min(silent_until, ResponseUntil());
  // The other two bound the attempt, whatever it says in the meantime.
  if (service_.breaker != nullptr) deadline = std::min(deadline, clock_.request_sent + policy().breaker->timeout);
  const RetryPolicy* const retry = retries_.policy();
  if (retry != nullptr && retry->per_try_timeout.count() > 0) {
    deadline = std::min(deadline, clock_.request_sent + retry->per_try_timeout);
  }
  return deadline;
}

// How long the endpoint has taken so far in this attempt. The time in which the client sends its body does not count.
nanoseconds Forwarding::ServiceTime() const {
  if (clock_.response_begun) return clock_.latency;
  const TimePoint uploaded = context_.body.upload == RelayEnd::kRunning ? now() : clock_.request_sent;
  return now() - clock_.started - (uploaded - clock_.header_sent);
}

AttemptEnd Forwarding::EndOfWait(Wait wait) const {
  AttemptEnd attempt;
  attempt.sent = true;
  if (wait == Wait::kTimeout) {
    attempt.reason = now() >= ResponseUntil() ? Reason::kRequestDeadline : Reason::kUpstreamTimeout;
    attempt.detail = IsOutOfTime() ? context_.deadline.detail() : "no response in time";
    return attempt;
  }
  switch (context_.body.upload) {
    case RelayEnd::kSourceStalled:
      attempt.reason = Reason::kRequestTimeout;
      attempt.detail = "the body stopped arriving";
      break;
    case RelayEnd::kInvalid:
      attempt.reason = Reason::kBadRequest;
      attempt.detail = context_.body.detail;
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

Reason Forwarding::EndOfCancelled() const { return ReasonOfAbandoned(*resources_.cut_short, context_.stream.gone()); }

// A body that was complete is there still, and so is what has not been read yet; what was read as it came is lost.
bool Forwarding::MayRepeat(const AttemptEnd& attempt) const {
  const RequestBody& body = context_.body;
  return !attempt.responded && (body.replayable || body.keeps || !body.flow_begun) &&
         (!attempt.sent || attempt.refused || http::IsIdempotent(context_.header.method));
}

bool Forwarding::GrantRetry(const FailedAttempt& attempt) {
  return retries_.Grant(attempt, {.call = context_.call,
                                  .body = context_.body,
                                  .service = service_,
                                  .now = now(),
                                  .until = ResponseUntil(),
                                  .client_gone = context_.stream.gone(),
                                  .random = &resources_.random,
                                  .metrics = resources_.metrics,
                                  .permit = &permit_});
}

// Counts as a failure of the service unless the client or its policy caused it.
void Forwarding::ReportFailure(const AttemptEnd& attempt) {
  if (!permit_) return;
  const bool blameless = attempt.reason == Reason::kClientClosed || attempt.reason == Reason::kRequestTimeout ||
                         attempt.reason == Reason::kBadRequest || attempt.reason == Reason::kOverloaded ||
                         attempt.reason == Reason::kBodyTooLarge || attempt.reason == Reason::kDraining ||
                         attempt.reason == Reason::kNotImplemented ||
                         // (Else a client could open it by a deadline that no service can meet.)
                         (attempt.reason == Reason::kRequestDeadline && context_.deadline.by_client && IsOutOfTime()) ||
                         (attempt.responded && attempt.reason == Reason::kRequestDeadline) ||
                         (attempt.reason == Reason::kRequestDeadline && context_.body.upload != RelayEnd::kComplete);
  permit_.Report(blameless ? Outcome::kCancelled : Outcome::kFailure, now(), ServiceTime());
}

void Forwarding::ReportHeader(int status) {
  permit_.Report(status >= 500 ? Outcome::kFailure : Outcome::kSuccess, now(), clock_.latency);
  ReportEndpoint(status, Reason::kNone);
}

void Forwarding::ReportSuccess() { permit_.Report(Outcome::kSuccess, now(), clock_.latency); }

void Forwarding::ReportEnd() {
  GrpcCall& call = context_.call;
  if (call.relays_response && call.status < 0) call.status = kGrpcUnknown;  // as its client sees it
  ReportHeader(call.OutcomeStatus(context_.result.status));
}

// How the attempt went: the status of its response, or (0) why it has no response. A failing status is reported at the
// header, others at the end of the body, so that a response that breaks off or stalls is a failure. Latency is that of
// the header. A failure that the client or the gateway caused is not reported.
void Forwarding::ReportEndpoint(int status, Reason reason) {
  if (endpoint_reported_ || (service_.ejector == nullptr && !service_.balancer->measures_latency())) return;
  using Result = OutlierEjector::Result;
  Result result = Result::kSuccess;
  if (status >= 500) {
    result = status >= 502 && status <= 504 ? Result::kGatewayFailure : Result::kFailure;
  } else if (status == 0) {
    const bool its_fault = reason == Reason::kUpstreamReset || reason == Reason::kUpstreamInvalid ||
                           reason == Reason::kUpstreamConnectFailed || reason == Reason::kUpstreamTlsFailed ||
                           reason == Reason::kUpstreamTimeout || (reason == Reason::kRequestDeadline && !IsOutOfTime());
    if (!its_fault) return;
    result = Result::kGatewayFailure;
  }
  endpoint_reported_ = true;
  if (result == Result::kGatewayFailure) ObserveLatency(std::max<nanoseconds>(ServiceTime(), kFailureLatency));
  EndpointState& state = *service_.balancer->members()[endpoint_index_].state;
  if (service_.ejector != nullptr) service_.ejector->Report(&state, result, now());
}

void Forwarding::ObserveLatency(nanoseconds latency) {
  if (!service_.balancer->measures_latency()) return;
  EndpointState& state = *service_.balancer->members()[endpoint_index_].state;
  state.latency.Observe(latency, now(), service_.balancer->options().decay);
}

std::string Forwarding::SessionCookie(int status) const {
  std::string line;
  // For a client that has no session here yet, or whose endpoint is another now. An endpoint that fails does not keep
  // its client.
  if (!sets_session_ || !(status == 101 || (status >= 200 && status < 500))) return line;
  const BalancePolicy& balance = policy().balance;
  Append(&line, "Set-Cookie: ", balance.session_cookie, "=", service_.sessions->values[endpoint_index_],
         "; Path=", balance.session_path, "; HttpOnly; SameSite=Lax");
  if (IsHttps(context_.header, context_.stream.connection())) line += "; Secure";
  if (balance.session_ttl.count() > 0) Append(&line, "; Max-Age=", balance.session_ttl.count());
  line += "\r\n";
  return line;
}

}  // namespace gateway::dataplane
