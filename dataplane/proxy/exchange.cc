#include "dataplane/proxy/exchange.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <span>
#include <string>

#include "common/base/text.h"
#include "dataplane/policy/transform.h"
#include "dataplane/proxy/forward.h"
#include "dataplane/proxy/grpc_call.h"
#include "dataplane/proxy/serve_request.h"
#include "dataplane/proxy/stages/authenticate.h"
#include "dataplane/proxy/stages/body.h"
#include "dataplane/proxy/stages/identify.h"
#include "dataplane/proxy/stages/limits.h"
#include "dataplane/proxy/stages/local_response.h"
#include "dataplane/proxy/stages/route.h"
#include "dataplane/telemetry/logged_target.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

using std::chrono::nanoseconds;

// The value of the request's User-Agent.
std::string_view UserAgentOf(const http::Request& request) {
  std::string_view value;
  for (size_t i = 0; i < request.fields.size(); ++i) {
    if (request.kinds[i] == http::FieldKind::kUserAgent) value = request.fields[i].value;
  }
  return value;
}

std::string_view ProtocolName(http::Version version) {
  switch (version) {
    case http::Version::kHttp10:
      return "HTTP/1.0";
    case http::Version::kHttp11:
      return "HTTP/1.1";
    case http::Version::kHttp2:
      return "HTTP/2";
  }
  return "";
}

// "RateLimit/per-client"; of limits that only would have refused, with " (shadow)". Allocates nothing once it is warm.
std::string_view PolicyText(const RequestContext& context, std::string* scratch) {
  const PolicyName& policy = context.result.refusal.policy;
  if (policy.empty() && context.limits.shadow_refusals.empty()) return {};
  scratch->clear();
  if (!policy.empty()) {
    Append(scratch, policy.kind, "/", policy.name);
    return *scratch;
  }
  for (const RateLimitPolicy* limit : context.limits.shadow_refusals) {
    Append(scratch, scratch->empty() ? "" : ", ", "RateLimit/", limit->name, " (shadow)");
  }
  return *scratch;
}

}  // namespace

Exchange::Exchange(ExchangeResources* resources, http::DownstreamStream* stream)
    : resources_(*resources), options_(*resources->options), context_(*resources->state, stream) {}

Task<void> ServeRequest(ExchangeResources& resources, http::DownstreamStream& stream) {
  Exchange exchange(&resources, &stream);
  RequestContext& context = exchange.context_;
  const http::Rejection& rejection = stream.rejection();
  resources.metrics->Add(WorkerGauge::kInFlight, 1);
  if (!rejection) RemoveIdentityFields(context.state->identity_fields, &context.header);
  Identify(context.header, stream.connection(), !rejection, resources.options->trusted_proxies, &resources.ids,
           &context.facts);
  std::exception_ptr failed;
  try {
    if (rejection) {
      resources.metrics->Add(WorkerGauge::kBadRequestsTotal, 1);
      ReadCall(context.header, &context.call);  // as far as its header was read
      exchange.NoteRefusal(Stage::kReadHeader, {rejection.reason, rejection.detail});
      co_await exchange.Refuse();
    } else {
      co_await exchange.Handle();
    }
  } catch (...) {
    failed = std::current_exception();
  }
  if (failed) {
    // Contain the exception: fail this request, keep the worker running.
    try {
      std::rethrow_exception(failed);
    } catch (const std::exception& error) {
      spdlog::error("request {} failed: {}", context.facts.request_id, error.what());
    }
    if (context.result.response_started) {
      context.result.end = http::End::kReset;
      context.result.aborted = true;
    } else {
      exchange.NoteRefusal(Stage::kInternal, {.reason = Reason::kInternal});
      co_await exchange.Refuse();
    }
  }
  stream.WatchGone(nullptr, nullptr);
  stream.Finish(context.result.end);
  exchange.admission_.permit = {};
  exchange.admission_.place.Leave();
  resources.metrics->Add(WorkerGauge::kInFlight, -1);
  exchange.Record();
}

Task<void> Exchange::Handle() {
  http::DownstreamStream& stream = context_.stream;
  http::Request& request = context_.header;
  const http::ConnectionInfo& connection = stream.connection();
  const ServingState& state = *context_.state;
  EventLoop& loop = *resources_.loop;
  RequestFacts& facts = context_.facts;
  GrpcCall& call = context_.call;
  Target& target = context_.target;
  RequestBody& body = context_.body;
  Deadline& deadline = context_.deadline;

  body.complete_at = loop.now();  // a header that comes slowly is its client's time, not the service's
  ReadCall(request, &call);
  if (Note(Stage::kTakeBody, TakeBufferedBody(request, &stream, &body))) co_return co_await Refuse();
  if (Note(Stage::kNormalizeTarget, NormalizeTarget(request, connection, options_.reject_encoded_slashes, &facts))) {
    co_return co_await Refuse();
  }
  if (const auto challenge = FindChallenge(resources_.challenges, request, connection, facts, &target)) {
    co_return co_await Reply(200, *challenge, {}, "application/octet-stream");
  }
  const bool serves_metrics = *resources_.metrics_page != nullptr;
  if (FindBuiltin(options_, serves_metrics, facts.path, &target)) co_return co_await ServeBuiltin();
  if (!state.has_policy) {
    NoteRefusal(Stage::kConfiguration, {Reason::kDiscoveryUnavailable, "no configuration yet"});
    co_return co_await Refuse();
  }
  const std::optional<Refusal> unmatched = MatchRoute(state, request, connection, facts, &target);
  // It asks the gateway itself, and no service is meant (RFC 9110, section 9.3.7).
  if (unmatched && facts.path == "*") co_return co_await Reply(200, {}, kServedMethodsField, {});
  if (Note(Stage::kMatchRoute, unmatched)) co_return co_await Refuse();

  const RoutePolicy& route = target.policy();
  if (route.grpc_web && Note(Stage::kReadWebCall, ReadWebCall(&request, &stream, &body, &call))) {
    co_return co_await Refuse();
  }
  if (route.max_duration.count() > 0) deadline.at = facts.started + route.max_duration;
  if (call.timeout.count() >= 0 && facts.started + call.timeout < deadline.at) {
    deadline.at = facts.started + call.timeout;
    deadline.by_client = true;
  }
  facts.upgrading = route.websocket && !request.protocol.empty();
  ChooseService(state, request, facts, &resources_.random, &target);
  if (route.access != nullptr && Note(Stage::kAccess, CheckAccess(*route.access, facts.client_address))) {
    co_return co_await Refuse();
  }
  // Browsers send it without credentials, so it needs none; it costs no more than a refusal, so it counts for no limit.
  if (target.preflight) co_return co_await ServePreflight(*route.cors);

  const LimitInput counted{state, request, facts, target, context_.caller, loop};
  if (target.route->limits_ask_redis) {
    const std::optional<Refusal> refusal =
        co_await AdmitWithRedis(counted, route.rate_limits, resources_.redis, &context_.limits);
    if (Note(Stage::kLimits, refusal)) co_return co_await Refuse();
  } else if (Note(Stage::kLimits,
                  AdmitByLimits(counted, route.rate_limits, &resources_.scratch.text, &context_.limits))) {
    co_return co_await Refuse();
  }
  if (target.route->auth != nullptr) {
    const BoundAuth& auth = *target.route->auth;
    if (Note(Stage::kAuthenticate, CheckDirection(auth, connection.tls, facts.host))) co_return co_await Refuse();
    const AuthInput shown{auth,
                          *state.snapshot->consumers(),
                          request,
                          connection.tls,
                          facts.client_address,
                          loop,
                          resources_.tokens,
                          *resources_.authentication,
                          resources_.scratch.text,
                          resources_.worker};
    const std::optional<Refusal> refusal = co_await Authenticate(shown, &context_.caller);
    if (Note(Stage::kAuthenticate, refusal)) co_return co_await Refuse();
  }
  if (target.route->identity_limits_ask_redis) {
    const std::optional<Refusal> refusal =
        co_await AdmitWithRedis(counted, route.identity_limits, resources_.redis, &context_.limits);
    if (Note(Stage::kIdentityLimits, refusal)) co_return co_await Refuse();
  } else if (Note(Stage::kIdentityLimits,
                  AdmitByLimits(counted, route.identity_limits, &resources_.scratch.text, &context_.limits))) {
    co_return co_await Refuse();
  }
  if (Note(Stage::kBodySize, CheckBodySize(route, request, body))) co_return co_await Refuse();
  if (request.max_forwards == 0) co_return co_await Reply(200, {}, kServedMethodsField, {});
  if (route.redirect != nullptr) co_return co_await Redirect(*route.redirect);
  if (route.respond != nullptr) co_return co_await Respond(*route.respond);
  if (route.rewrite_regex != nullptr && Note(Stage::kRewrite, RewriteByRegex(facts.path, &target))) {
    co_return co_await Refuse();
  }
  if (Note(Stage::kLoop, CheckForLoop(request, options_.via))) co_return co_await Refuse();
  if (Note(Stage::kEndpoints, CheckEndpoints(state, target.service))) co_return co_await Refuse();

  const BoundService& service = *target.service;
  if (service.bulkhead != nullptr) {
    const std::optional<Refusal> refusal =
        co_await EnterBulkhead(service, &stream, &loop, std::min(loop.now() + route.timeout, deadline.at),
                               resources_.cut_short, &admission_.place);
    if (Note(Stage::kBulkhead, refusal)) co_return co_await RefuseIfPresent();
  }
  if (service.breaker != nullptr && Note(Stage::kBreaker, AcquirePermit(service, loop.now(), &admission_.permit))) {
    co_return co_await Refuse();
  }
  context_.mirror.pending = !route.mirrors.empty();
  const RetryPolicy* retry = service.policy->retry.get();
  if (retry != nullptr) {
    service.runtime->retry_budget.OnRequest(loop.now());
    if (facts.upgrading ||
        !(call.IsFor(*retry) || std::binary_search(retry->methods.begin(), retry->methods.end(), request.method))) {
      retry = nullptr;
    } else if (call.is_call) {
      body.keeps = !body.complete;  // the client may send the rest of it only once it has heard from the service
    } else if (!body.complete && !request.expect_continue) {
      const BufferInput kept{&loop,       resources_.buffers,   route, options_.read_timeout,
                             deadline.at, retry->max_body_bytes};
      const std::optional<Refusal> refusal = co_await BufferBody(kept, request, &stream, &body);
      if (Note(Stage::kBufferBody, refusal)) co_return co_await RefuseIfPresent();
    }
  }
  Forwarding forwarding(&resources_, &context_, retry, &admission_.permit);
  const AttemptEnd attempt = co_await forwarding.Run();
  if (attempt.reason != Reason::kNone) co_await EndForwarding(attempt);
}

void Exchange::NoteRefusal(Stage stage, const Refusal& refusal) {
  context_.result.refused_by = stage;
  context_.result.refusal = refusal;
  // Wrong passwords keep this client out: the fields of a RateLimit would say something else.
  if (stage == Stage::kAuthenticate && refusal.reason == Reason::kRateLimited) context_.limits.tightest = nullptr;
}

Task<void> Exchange::ServeBuiltin() {
  const uint32_t series = context_.target.series;
  if (series == MetricsRegistry::kMetricsSeries) {
    const std::string page = (*resources_.metrics_page)();
    co_return co_await Reply(200, page, {}, "text/plain; version=0.0.4; charset=utf-8");
  }
  const ServingState& state = *context_.state;
  if (const int limit = state.snapshot->builtin_rate_limit();
      series == MetricsRegistry::kTestRateLimitSeries && limit >= 0) {
    const auto index = static_cast<uint32_t>(limit);
    const std::span<const uint32_t> limits(&index, 1);
    const LimitInput counted{state,           context_.header, context_.facts,
                             context_.target, context_.caller, *resources_.loop};
    std::optional<Refusal> refusal;
    if (state.limits[index].policy->scope == v1::RateLimit::REDIS) {
      refusal = co_await AdmitWithRedis(counted, limits, resources_.redis, &context_.limits);
    } else {
      refusal = AdmitByLimits(counted, limits, &resources_.scratch.text, &context_.limits);
    }
    if (Note(Stage::kBuiltin, refusal)) co_return co_await Refuse();
  }
  const std::string body = BuiltinBody(series, context_.stream.started_wall());
  co_await Reply(200, body);
}

Task<void> Exchange::ServePreflight(const CorsPolicy& cors) {
  std::string fields;
  context_.result.refusal = AppendPreflight(cors, *context_.target.preflight, context_.header, &fields);
  co_await Reply(204, "", fields, "");
}

Task<void> Exchange::Redirect(const RedirectPolicy& redirect) {
  std::string fields;
  if (Note(Stage::kRedirect, AppendRedirect(redirect, context_, &fields))) co_return co_await Refuse();
  co_await Reply(redirect.status, "", fields, "");
}

Task<void> Exchange::Respond(const RespondPolicy& respond) {
  std::string fields, body;
  AppendFixedResponse(respond, context_, &fields, &body);
  co_await Reply(respond.status, body, fields, body.empty() ? std::string_view() : respond.content_type);
}

Task<void> Exchange::EndForwarding(const AttemptEnd& attempt) {
  Result& result = context_.result;
  NoteRefusal(Stage::kForward, {attempt.reason, attempt.detail});
  if (!attempt.responded) co_return co_await RefuseIfPresent();
  result.aborted = true;
  if (result.end == http::End::kComplete) result.end = http::End::kCutShort;
  const bool takes_trailers = attempt.reason != Reason::kClientClosed && !result.length_announced &&
                              result.end != http::End::kReset && context_.call.relays_response;
  if (takes_trailers && co_await EndCall(&context_.stream, &context_.call, attempt.reason)) {
    result.end = http::End::kComplete;
  }
}

Task<void> Exchange::Refuse() {
  const Refusal& refusal = context_.result.refusal;
  const ReasonInfo& info = InfoOf(refusal.reason);
  const JwtRefusal token_refusal = context_.caller.token_refusal;
  const bool unauthenticated = refusal.reason == Reason::kUnauthenticated ||
                               (refusal.reason == Reason::kForbidden && token_refusal == JwtRefusal::kClaims);
  std::string fields = Concat("X-Gateway-Reason: ", info.word, "\r\n");
  if (refusal.reason == Reason::kRateLimited || refusal.reason == Reason::kBreakerOpen) {
    Append(&fields, "Retry-After: ", CeilSeconds(refusal.retry_after), "\r\n");
  } else if (context_.result.refused_by == Stage::kAuthenticate && unauthenticated) {
    AppendChallenges(*context_.target.route->auth, token_refusal, &fields);
  } else if (refusal.reason == Reason::kMethodNotAllowed) {
    AppendAllowedMethods(context_.target.match, &fields);
  }
  if (context_.call.is_call) {
    const std::string all = RefusedCallFields(refusal.reason, fields, &context_.call);
    co_return co_await Reply(200, {}, all, context_.call.response_type());
  }
  const std::string body = RefusalBody(context_, options_.error_details);
  co_await Reply(info.status, body, fields);
}

Task<void> Exchange::RefuseIfPresent() {
  if (context_.result.refusal.reason != Reason::kClientClosed) co_return co_await Refuse();
  EndUnanswered();
}

void Exchange::EndUnanswered() {
  context_.result.status = InfoOf(Reason::kClientClosed).status;
  context_.result.end = http::End::kUnanswered;
}

Task<void> Exchange::Reply(int status, std::string_view body, std::string_view fields, std::string_view content_type) {
  Result& result = context_.result;
  const http::Request& request = context_.header;
  result.status = status;
  std::string lines;
  const FieldEditsPolicy* const edits = ResponseEditsOf(context_);
  const auto add = [&](std::string_view name, auto value) {
    if (edits == nullptr || !Replaces(*edits, name)) Append(&lines, name, ": ", value, "\r\n");
  };
  add("Date", resources_.date.At(resources_.loop->wall_now()));
  add("X-Request-Id", context_.facts.request_id);
  lines += fields;
  if (!content_type.empty()) add("Content-Type", content_type);
  AppendCorsFields(context_, &lines);
  if (context_.limits.tightest != nullptr) AppendLimitFields(context_.limits, &lines);
  if (edits != nullptr) {
    const TextValues values = ValuesOf(context_);
    const size_t size = lines.size();
    lines.resize(size + AddedFieldBytesMax(*edits, values));
    lines.resize(static_cast<size_t>(WriteAddedFields(*edits, values, lines.data() + size) - lines.data()));
  }
  if (options_.error_details) {
    Append(&lines, "X-Gateway-Revision: ", context_.state->snapshot->revision(), "\r\n");
  }

  http::OutgoingResponse response;
  response.status = status;
  response.phrase = StatusPhrase(status);
  response.lines = lines;
  response.has_body = !body.empty() && request.method != "HEAD";
  // Neither has a body, nor a length (RFC 9110, section 8.6).
  if (status != 204 && status != 304 && !(context_.call.is_call && request.version == http::Version::kHttp2)) {
    response.length = body.size();
  }
  http::BodyPiece piece{.last = true};
  if (response.has_body) {
    piece.bytes = body;
    piece.payload = body.size();
  }
  result.response_started = true;
  Io io = context_.stream.Begin(response, piece);
  if (io == Io::kAgain) io = co_await context_.stream.Flush(options_.write_timeout, context_.deadline.at);
  if (io != Io::kDone) {
    result.aborted = true;
    result.end = http::End::kCutShort;
  }
}

void Exchange::Record() {
  WorkerShard& metrics = *resources_.metrics;
  http::DownstreamStream& stream = context_.stream;
  const http::Request& request = context_.header;
  const Target& target = context_.target;
  const GrpcCall& call = context_.call;
  const Result& result = context_.result;
  const nanoseconds duration = resources_.loop->now() - context_.facts.started;
  // The histogram has how long a change to a tunnel took; how long the tunnel lasted is in the log.
  const nanoseconds responded_in = result.status == 101 ? result.upstream_duration : duration;
  metrics.Add(WorkerGauge::kBytesReceived, static_cast<int64_t>(stream.bytes_received()));
  metrics.Add(WorkerGauge::kBytesSent, static_cast<int64_t>(stream.bytes_sent()));
  const std::string_view user_agent = UserAgentOf(request);
  // Consul's own checks, by the name of its agent, are not counted as traffic.
  if (target.series != MetricsRegistry::kHealthSeries || user_agent != "Consul Health Check") {
    metrics.Record(target.service_metrics, target.series, MethodOf(request.method), call.OutcomeStatus(result.status),
                   result.refusal.reason, responded_in);
  }
  if (target.route != nullptr) {
    metrics.RecordWatched(target.route->watched, call.OutcomeStatus(result.status), result.refusal.reason,
                          responded_in);
    metrics.RecordWatchedSide(target.watched_side, call.OutcomeStatus(result.status), result.refusal.reason,
                              responded_in);
  }
  if (call.status >= 0) metrics.RecordCall(target.service_metrics, call.status);
  if (resources_.log == nullptr) return;
  RequestRecord record;
  record.time = stream.started_wall();
  record.method = request.method;
  record.path = LoggedTarget(request.target, options_.redact_query, &resources_.scratch.field_text);
  record.client_ip = context_.facts.client_ip;
  record.user_agent = user_agent;
  record.request_id = context_.facts.request_id;
  if (const http::TlsInfo* tls = stream.connection().tls; tls != nullptr) {
    record.tls_version = tls->version;
    record.tls_server_name = tls->server_name;
    if (tls->certificate != nullptr) {
      const http::ClientCertificate& certificate = *tls->certificate;
      record.client_certificate = certificate.subject.empty() ? certificate.fingerprint : certificate.subject;
    }
  }
  if (target.service != nullptr) {
    record.service = target.service->runtime->name;
  } else if (target.service_metrics == MetricsRegistry::kBuiltinService) {
    record.service = "gateway";
  }
  if (target.match.route != nullptr) record.route = target.match.route->name;
  if (result.endpoint != nullptr) record.endpoint = result.endpoint->name;
  record.consumer = context_.caller.consumer;
  record.policy = PolicyText(context_, &resources_.scratch.text);
  record.status = result.status;
  record.grpc_status = call.status;
  record.reason = result.refusal.reason;
  record.detail = result.refusal.detail;
  record.duration = duration;
  record.upstream_duration = result.upstream_duration;
  record.bytes_in = stream.bytes_received();
  record.bytes_out = stream.bytes_sent();
  record.revision = context_.state->snapshot->revision();
  record.protocol = ProtocolName(request.version);
  record.attempts = result.attempts;
  record.aborted = result.aborted;
  resources_.log->Write(record);
  resources_.log_flush.LineWritten();
}

}  // namespace gateway::dataplane
