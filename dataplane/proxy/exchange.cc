#include "dataplane/proxy/exchange.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/text.h"
#include "common/policy/route/path.h"
#include "dataplane/http/http1/head.h"
#include "dataplane/policy/hash_on.h"
#include "dataplane/telemetry/logged_target.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;

// Characters of a request id that is taken over from a trusted peer: none that a log or a header could trip over.
bool IsUsableRequestId(std::string_view id) {
  return !id.empty() && id.size() <= 128 && std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' ||
           c == '.' || c == ':' || c == '/' || c == '+' || c == '=' || c == '@';
  });
}

// Where no route was looked for: CONNECT and TRACE are served by none.
constexpr std::string_view kServedMethodsField = "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n";

// Of "192.0.2.1:80", "[2001:db8::1]:80" and "[2001:db8::1]" the address, as some proxies write it.
std::string_view WithoutPort(std::string_view text) {
  if (text.front() == '[') return text.substr(1, std::min(text.find(']'), text.size()) - 1);
  const size_t colon = text.find(':');
  return colon == text.rfind(':') ? text.substr(0, colon) : text;
}

std::string NowRfc3339(std::chrono::system_clock::time_point now) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::FromChrono(now), absl::UTCTimeZone());
}

}  // namespace

Exchange::Exchange(Worker* worker, http::DownstreamStream* stream)
    : worker_(worker),
      stream_(*stream),
      request_.head(stream->request()),
      options_(worker->options()),
      state_(worker->state()),
      request_.started(stream->started()) {}

Task<void> ServeRequest(Worker& worker, http::DownstreamStream& stream) {
  Exchange exchange(&worker, &stream);
  worker.metrics().Add(WorkerGauge::kInFlight, 1);
  if (!stream.rejection()) exchange.RemoveIdentityFields();
  exchange.Identify();
  std::exception_ptr failed;
  try {
    if (const http::Rejection& rejection = stream.rejection()) {
      worker.metrics().Add(WorkerGauge::kBadRequestsTotal, 1);
      co_await exchange.Refuse(rejection.reason, rejection.detail);
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
      spdlog::error("request {} failed: {}", exchange.request_.id, error.what());
    }
    if (exchange.outcome_.response_started) {
      exchange.outcome_.end = http::End::kReset;
      exchange.outcome_.aborted = true;
    } else {
      co_await exchange.Refuse(Reason::kInternal);
    }
  }
  stream.WatchGone(nullptr, nullptr);
  stream.Finish(exchange.outcome_.end);
  exchange.admission_.permit = {};
  exchange.admission_.place.Leave();
  worker.metrics().Add(WorkerGauge::kInFlight, -1);
  exchange.Record();
}

void Exchange::Identify() {
  const http::ConnectionInfo& connection = stream_.connection();
  request_.client_ip = connection.peer_ip;
  request_.client_address = connection.peer;
  std::string_view offered_id;
  if (connection.peer_trusted && !stream_.rejection()) {
    // From the right, the first address that is none of ours is the client (RFC 7239, section 5.2, in X-Forwarded-For's
    // spelling).
    bool known = false;
    for (size_t i = request_.head.fields.size(); i-- > 0 && !known;) {
      if (request_.head.kinds[i] == http::FieldKind::kRequestId) offered_id = request_.head.fields[i].value;
      if (request_.head.kinds[i] != http::FieldKind::kForwardedFor) continue;
      std::string_view list = request_.head.fields[i].value;
      while (!list.empty() && !known) {
        const size_t comma = list.rfind(',');
        std::string_view each = comma == std::string_view::npos ? list : list.substr(comma + 1);
        list = comma == std::string_view::npos ? std::string_view() : list.substr(0, comma);
        each = http1::Trim(each);
        if (each.empty()) continue;
        in6_addr address;
        if (!ParseIp(WithoutPort(each), &address)) {
          known = true;  // the chain is broken: the last good one it is
          break;
        }
        request_.client_address = address;
        request_.client_ip_storage = IpText(address);
        request_.client_ip = request_.client_ip_storage;
        known = !options_.trusted_proxies.Contains(address);
      }
    }
    for (size_t i = 0; i < request_.head.fields.size(); ++i) {
      if (request_.head.kinds[i] == http::FieldKind::kRequestId) offered_id = request_.head.fields[i].value;
    }
  }
  if (IsUsableRequestId(offered_id)) {
    request_.id = offered_id;
  } else {
    worker_->NewRequestId(request_.id_storage);
    request_.id = std::string_view(request_.id_storage, 32);
  }
}

// THE life of a request whose head is well-formed.
Task<void> Exchange::Handle() {
  request_.complete_at = loop().now();  // a head that comes slowly is its client's time, not the service's
  TakeBufferedBody();
  if (body_.upload == RelayEnd::kInvalid) co_return co_await Refuse(Reason::kBadRequest, body_.detail);
  if (const Reason reason = NormalizeTarget(); reason != Reason::kNone) co_return co_await Refuse(reason, outcome_.detail);
  if (FindBuiltin()) co_return co_await AnswerBuiltin();
  if (!(*state_)->has_policy) co_return co_await Refuse(Reason::kDiscoveryUnavailable, "no configuration yet");
  if (const Reason reason = MatchRoute(); reason != Reason::kNone) {
    // Asked of the server itself, and no service is meant (RFC 9110, section 9.3.7).
    if (request_.path == "*") co_return co_await Reply(200, {}, kServedMethodsField, {});
    co_return co_await Refuse(reason, outcome_.detail);
  }
  if (target_.match.route->max_duration.count() > 0) request_.ends_at = request_.started + target_.match.route->max_duration;
  request_.upgrading = target_.match.route->websocket && !request_.head.protocol.empty();
  const RoutePolicy& route = *target_.match.route;
  ChooseService();
  if (route.access != nullptr && !MayAccess(*route.access)) co_return co_await Refuse(Reason::kForbidden);
  // Browsers send it without credentials, so it needs none; it costs no more than a refusal, so it counts for no limit.
  if (request_.preflight) co_return co_await AnswerPreflight(*route.cors);
  Reason refused = Reason::kNone;
  if (target_.route->limits_ask_redis) {
    refused = co_await AdmitWithRedis(route.rate_limits);
  } else {
    refused = AdmitByLimits(route.rate_limits);
  }
  if (refused != Reason::kNone) co_return co_await Refuse(refused);
  if (target_.route->auth != nullptr) {
    refused = co_await Authenticate();
    if (refused != Reason::kNone) co_return co_await Refuse(refused, outcome_.detail);
  }
  if (target_.route->identity_limits_ask_redis) {
    refused = co_await AdmitWithRedis(route.identity_limits);
  } else {
    refused = AdmitByLimits(route.identity_limits);
  }
  if (refused != Reason::kNone) co_return co_await Refuse(refused);
  if (route.bounds_body && IsBodyTooLarge()) co_return co_await Refuse(Reason::kBodyTooLarge);
  if (request_.head.max_forwards == 0) co_return co_await Reply(200, {}, kServedMethodsField, {});
  if (route.redirect != nullptr) co_return co_await Redirect(*route.redirect);
  if (route.respond != nullptr) co_return co_await Respond(*route.respond);
  if (route.rewrite_regex != nullptr && !RewriteByRegex()) {
    co_return co_await Refuse(Reason::kInternal, "rewrite.regex did not produce a path");
  }
  if (const Reason reason = FindEndpoints(); reason != Reason::kNone) co_return co_await Refuse(reason);
  if (target_.service->bulkhead != nullptr) {
    if (const Reason reason = co_await EnterBulkhead(); reason == Reason::kClientClosed) {
      co_return EndUnanswered();
    } else if (reason != Reason::kNone) {
      co_return co_await Refuse(reason);
    }
  }
  if (target_.service->breaker != nullptr) {
    const BreakerVerdict verdict = target_.service->breaker->Acquire(loop().now(), &admission_.permit);
    if (verdict != BreakerVerdict::kAllowed) {
      outcome_.policy = Concat("CircuitBreaker/", target_.service->policy->breaker->name);
      if (verdict == BreakerVerdict::kOpen) outcome_.retry_after = target_.service->breaker->RetryAfter(loop().now());
      co_return co_await Refuse(verdict == BreakerVerdict::kOpen ? Reason::kBreakerOpen : Reason::kConcurrencyLimit);
    }
  }
  body_.mirrors = !route.mirrors.empty();
  const RetryPolicy* const retry = target_.service->policy->retry.get();
  if (retry != nullptr) {
    target_.service->runtime->retry_budget.OnRequest(loop().now());
    if (!request_.upgrading && std::binary_search(retry->methods.begin(), retry->methods.end(), request_.head.method)) {
      if (!body_.complete && !request_.head.expect_continue) {
        const Reason reason = co_await BufferBody(retry->max_body_bytes);
        if (reason == Reason::kClientClosed) co_return EndUnanswered();
        if (reason != Reason::kNone) co_return co_await Refuse(reason, body_.detail);
      }
      attempt_.retry = retry;
    }
  }
  co_await Forward();
}

Reason Exchange::NormalizeTarget() {
  const http::ConnectionInfo& connection = stream_.connection();
  // Only a proxy in front can have had TLS (RFC 9110, section 7.4).
  if (request_.head.scheme == "https" && connection.tls == nullptr && !connection.peer_trusted) {
    outcome_.detail = "an https target without TLS";
    return Reason::kBadRequest;
  }
  std::string_view host = request_.head.authority;
  if (!host.empty() && host[0] != '[') host = host.substr(0, host.find(':'));
  if (!host.empty() && host[0] == '[') host = host.substr(0, host.find(']') + 1);
  if (!host.empty() && host.back() == '.') host.remove_suffix(1);
  if (host.size() > sizeof request_.host_storage) {
    outcome_.detail = "Host is too long";
    return Reason::kBadRequest;
  }
  request_.host = std::string_view(request_.host_storage, NormalizeHost(host, request_.host_storage));
  request_.path = request_.head.path;
  if (request_.path == "*" || IsNormalPath(request_.path)) return Reason::kNone;
  const PathError error = NormalizePath(request_.head.path, options_.reject_encoded_slashes, &request_.normal_storage);
  request_.path = request_.normal_storage;
  if (error == PathError::kNone) return Reason::kNone;
  request_.path = {};
  outcome_.detail = PathErrorMessage(error).data();
  return Reason::kBadRequest;
}

// What of the body came with the head.
void Exchange::TakeBufferedBody() {
  body_.complete = body_.replayable = !request_.head.has_body;
  if (!request_.head.has_body) return;
  http::BodyPiece piece;
  switch (stream_.Read({}, &piece)) {
    case http::BodyRead::kPiece:
      body_.buffered = piece.bytes;
      body_.bytes = piece.payload;
      body_.complete = body_.replayable = piece.last;
      break;
    case http::BodyRead::kInvalid:
      body_.upload = RelayEnd::kInvalid;
      body_.detail = stream_.detail();
      break;
    default:
      break;
  }
}

bool Exchange::FindBuiltin() {
  if (options_.builtin_routes && request_.path == "/health") {
    target_.series = MetricsRegistry::kHealthSeries;
  } else if (options_.builtin_routes && request_.path == "/test-rate-limit") {
    target_.series = MetricsRegistry::kTestRateLimitSeries;
  } else if (options_.metrics_on_main_port && request_.path == "/metrics" && worker_->shared().metrics_page != nullptr) {
    target_.series = MetricsRegistry::kMetricsSeries;
  } else {
    return false;
  }
  target_.service_metrics = MetricsRegistry::kBuiltinService;
  return true;
}

Task<void> Exchange::AnswerBuiltin() {
  if (target_.series == MetricsRegistry::kTestRateLimitSeries) {
    const ServingState& state = **state_;
    if (const int limit = state.snapshot->builtin_rate_limit(); limit >= 0) {
      const auto index = static_cast<uint32_t>(limit);
      const std::span<const uint32_t> limits(&index, 1);
      Reason reason;
      if (state.limits[index].policy->scope == v1::RateLimit::REDIS) {
        reason = co_await AdmitWithRedis(limits);
      } else {
        reason = AdmitByLimits(limits);
      }
      if (reason != Reason::kNone) co_return co_await Refuse(reason);
    }
    co_await Reply(200, Concat(R"({"message": "Rate limit test successful", "time": ")",
                               NowRfc3339(stream_.started_wall()), "\"}"));
  } else if (target_.series == MetricsRegistry::kHealthSeries) {
    co_await Reply(200, Concat(R"({"status": "healthy", "time": ")", NowRfc3339(stream_.started_wall()), "\"}"));
  } else {
    co_await Reply(200, worker_->shared().metrics_page(), {}, "text/plain; version=0.0.4; charset=utf-8");
  }
}

Reason Exchange::MatchRoute() {
  const ServingState& state = **state_;
  request_.preflight = ReadPreflight(request_.head.method, request_.head.field_views());
  if (request_.preflight && FindPreflightRoute()) return Reason::kNone;
  state.snapshot->Match({request_.head.method, request_.host, request_.path, request_.head.query, request_.head.field_views()}, &target_.match);
  if (target_.match.route == nullptr) return target_.match.method_not_allowed ? Reason::kMethodNotAllowed : Reason::kNoRoute;
  if (MayBeReadOtherwise(request_.path) && IsGuardedOtherwise()) {
    outcome_.detail = "a path that some services read as one that another route protects";
    return Reason::kBadRequest;
  }
  target_.route = &state.routes[target_.match.route->index];
  if (target_.match.route->cors == nullptr) request_.preflight.reset();  // the service's to answer
  return Reason::kNone;
}

// Whether the path, as some servers would read it, belongs to a route that lets fewer in than the one that was found.
bool Exchange::IsGuardedOtherwise() const {
  const auto guards = [this](const RoutePolicy& other) {
    const RoutePolicy& own = *target_.match.route;
    return (other.auth != nullptr && other.auth != own.auth) || (other.access != nullptr && other.access != own.access);
  };
  for (const PathReading reading :
       {PathReading::kWithoutParameters, PathReading::kDecodedSlashes, PathReading::kBoth}) {
    std::string path;
    RouteMatch other;
    if (!ReadPathAs(reading, request_.path, &path) || path == request_.path) continue;
    (*state_)->snapshot->Match({request_.head.method, request_.host, path, request_.head.query, request_.head.field_views()}, &other);
    if (other.route != nullptr && guards(*other.route)) return true;
  }
  return false;
}

void Exchange::ChooseService() {
  const RoutePolicy& policy = *target_.match.route;
  if (policy.consul_service != nullptr) {
    const std::string_view name = target_.match.variables[policy.consul_service->variable];
    target_.series = target_.route->unknown_series;
    const auto found = target_.route->dynamic.find(name);
    if (found == target_.route->dynamic.end()) return;
    target_.dynamic = found->second.service;
    target_.service = target_.dynamic.get();
    target_.series = found->second.series;
  } else if (policy.redirect != nullptr || policy.respond != nullptr) {
    target_.series = target_.route->series[0];
    target_.service_metrics = MetricsRegistry::kBuiltinService;
    return;
  } else {
    size_t target = 0;
    if (policy.split.size() > 1) {
      const std::optional<uint64_t> hash = HashOf(policy.split_on, request_.head.field_views(), request_.client_address, request_.path);
      if (hash) {
        target = ChooseTarget(policy.split, (*state_)->snapshot->services(), *hash);
      } else {
        const uint32_t draw = absl::Uniform<uint32_t>(worker_->random(), 0, policy.split_total);
        while (draw >= policy.split[target].upto) ++target;
      }
    }
    target_.service = (*state_)->services[policy.split[target].service].get();
    target_.series = target_.route->series[target];
  }
  target_.service_metrics = target_.service->runtime->metrics_service;
}

Reason Exchange::FindEndpoints() const {
  if (target_.service == nullptr) return (*state_)->catalog_known ? Reason::kUnknownService : Reason::kDiscoveryUnavailable;
  switch (target_.service->discovery) {
    case Discovery::kUnknownService:
      return Reason::kUnknownService;
    case Discovery::kUnavailable:
      return Reason::kDiscoveryUnavailable;
    case Discovery::kKnown:
      break;
  }
  return target_.service->balancer == nullptr ? Reason::kNoHealthyEndpoint : Reason::kNone;
}

// An answer of our own that says why there is no other.
Task<void> Exchange::Refuse(Reason reason, const char* detail) {
  outcome_.reason = reason;
  outcome_.detail = detail;
  const ReasonInfo& info = InfoOf(reason);
  std::string body = Concat(R"({"error": ")", info.message, R"(", "code": )", info.status, R"(, "reason": ")",
                            info.word, R"(", "request_id": ")", request_.id, "\"");
  if (options_.error_details) {
    if (!outcome_.policy.empty()) Append(&body, R"(, "policy": ")", outcome_.policy, "\"");
    if (target_.match.route != nullptr) Append(&body, R"(, "route": ")", target_.match.route->name, "\"");
    if (detail[0] != '\0') Append(&body, R"(, "detail": ")", detail, "\"");
    Append(&body, R"(, "revision": )", (*state_)->snapshot->revision());
  }
  body += "}";
  std::string fields = Concat("X-Gateway-Reason: ", info.word, "\r\n");
  if (reason == Reason::kRateLimited) {
    Append(&fields, "Retry-After: ", CeilSeconds(limits_.decision.reset), "\r\n");
  } else if (reason == Reason::kBreakerOpen) {
    Append(&fields, "Retry-After: ", CeilSeconds(outcome_.retry_after), "\r\n");
  } else if (target_.route != nullptr && target_.route->auth != nullptr &&
             (reason == Reason::kUnauthenticated ||
              (reason == Reason::kForbidden && caller_.token_refusal == JwtRefusal::kClaims))) {
    AppendChallenges(&fields);
  } else if (reason == Reason::kMethodNotAllowed) {
    for (size_t i = 0; i < target_.match.allowed_methods.size(); ++i) {
      Append(&fields, i == 0 ? "Allow: " : ", ", target_.match.allowed_methods[i]);
    }
    fields += target_.match.allowed_methods.empty() ? kServedMethodsField : "\r\n";
  }
  co_await Reply(info.status, body, fields);
}

void Exchange::EndUnanswered() {
  outcome_.reason = Reason::kClientClosed;
  outcome_.status = InfoOf(outcome_.reason).status;
  outcome_.end = http::End::kUnanswered;
}

Task<void> Exchange::Reply(int status, std::string_view body, std::string_view fields, std::string_view content_type) {
  outcome_.status = status;
  std::string lines;
  const FieldEditsPolicy* const edits = AnswerEdits();
  const auto add = [&](std::string_view name, auto value) {
    if (edits == nullptr || !Replaces(*edits, name)) Append(&lines, name, ": ", value, "\r\n");
  };
  add("Date", worker_->HttpDate());
  add("X-Request-Id", request_.id);
  lines += fields;
  if (!content_type.empty()) add("Content-Type", content_type);
  AppendCorsFields(&lines);
  if (limits_.policy != nullptr) AppendLimitFields(&lines);
  if (edits != nullptr) {
    const TextValues values = Values();
    const size_t size = lines.size();
    lines.resize(size + AddedFieldBytesMax(*edits, values));
    lines.resize(static_cast<size_t>(WriteAddedFields(*edits, values, lines.data() + size) - lines.data()));
  }
  if (options_.error_details) Append(&lines, "X-Gateway-Revision: ", (*state_)->snapshot->revision(), "\r\n");

  http::OutgoingResponse response;
  response.status = status;
  response.phrase = StatusPhrase(status);
  response.lines = lines;
  response.has_body = !body.empty() && request_.head.method != "HEAD";
  // Neither has a body, nor a length (RFC 9110, section 8.6).
  if (status != 204 && status != 304) response.length = body.size();
  http::BodyPiece piece{.last = true};
  if (response.has_body) {
    piece.bytes = body;
    piece.payload = body.size();
  }
  outcome_.response_started = true;
  Io io = stream_.Begin(response, piece);
  if (io == Io::kAgain) io = co_await stream_.Flush(options_.write_timeout, request_.ends_at);
  if (io != Io::kDone) {
    outcome_.aborted = true;
    outcome_.end = http::End::kCutShort;
  }
}

void Exchange::Record() {
  WorkerShard& metrics = worker_->metrics();
  const nanoseconds duration = loop().now() - request_.started;
  // Of a tunnel the histogram sees how long the change took; how long it stood is in the log.
  const nanoseconds answered_in = outcome_.status == 101 ? attempt_.upstream_duration : duration;
  metrics.Add(WorkerGauge::kBytesReceived, static_cast<int64_t>(stream_.bytes_received()));
  metrics.Add(WorkerGauge::kBytesSent, static_cast<int64_t>(stream_.bytes_sent()));
  metrics.Record(target_.service_metrics, target_.series, MethodOf(request_.head.method), outcome_.status, outcome_.reason, answered_in);
  if (worker_->log() == nullptr) return;
  RequestRecord record;
  record.time = stream_.started_wall();
  record.method = request_.head.method;
  record.path = LoggedTarget(request_.head.target, &worker_->field_scratch());
  record.client_ip = request_.client_ip;
  for (size_t i = 0; i < request_.head.fields.size(); ++i) {
    if (request_.head.kinds[i] == http::FieldKind::kUserAgent) record.user_agent = request_.head.fields[i].value;
  }
  record.request_id = request_.id;
  if (target_.service != nullptr) record.service = target_.service->runtime->name;
  if (target_.service == nullptr && target_.service_metrics == MetricsRegistry::kBuiltinService) record.service = "gateway";
  if (target_.match.route != nullptr) record.route = target_.match.route->name;
  if (attempt_.endpoint != nullptr) record.endpoint = attempt_.endpoint->name;
  record.consumer = caller_.name;
  record.policy = outcome_.policy;
  if (!limits_.shadow_refusals.empty() && outcome_.policy.empty()) {
    std::string& names = worker_->scratch();
    names.clear();
    for (const RateLimitPolicy* limit : limits_.shadow_refusals) {
      Append(&names, names.empty() ? "" : ", ", "RateLimit/", limit->name, " (shadow)");
    }
    record.policy = names;
  }
  record.status = outcome_.status;
  record.reason = outcome_.reason;
  record.detail = outcome_.detail;
  record.duration = duration;
  record.upstream_duration = attempt_.upstream_duration;
  record.bytes_in = stream_.bytes_received();
  record.bytes_out = stream_.bytes_sent();
  record.revision = (*state_)->snapshot->revision();
  record.attempts = attempt_.count;
  record.aborted = outcome_.aborted;
  worker_->log()->Write(record);
  worker_->LogWritten();
}

}  // namespace gateway::dataplane
