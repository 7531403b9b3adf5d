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

// Whether Consul asks, as its agent names itself: its checks are no traffic.
bool IsConsulsCheck(const http::Request& head) {
  for (size_t i = 0; i < head.fields.size(); ++i) {
    if (head.kinds[i] == http::FieldKind::kUserAgent) return head.fields[i].value == "Consul Health Check";
  }
  return false;
}

// Where no route was looked for: CONNECT and TRACE are served by none.
constexpr std::string_view kServedMethodsField = "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n";

// Of "192.0.2.1:80", "[2001:db8::1]:80" and "[2001:db8::1]" the address, as some proxies write it.
std::string_view WithoutPort(std::string_view text) {
  if (text.front() == '[') return text.substr(1, std::min(text.find(']'), text.size()) - 1);
  const size_t colon = text.find(':');
  return colon == text.rfind(':') ? text.substr(0, colon) : text;
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

std::string NowRfc3339(std::chrono::system_clock::time_point now) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::FromChrono(now), absl::UTCTimeZone());
}

}  // namespace

Exchange::Exchange(Worker* worker, http::DownstreamStream* stream)
    : worker_(worker),
      stream_(*stream),
      head_(stream->request()),
      options_(worker->options()),
      state_(worker->state()),
      started_(stream->started()) {}

Task<void> ServeRequest(Worker& worker, http::DownstreamStream& stream) {
  Exchange exchange(&worker, &stream);
  worker.metrics().Add(WorkerGauge::kInFlight, 1);
  if (!stream.rejection()) exchange.RemoveIdentityFields();
  exchange.Identify();
  std::exception_ptr failed;
  try {
    if (const http::Rejection& rejection = stream.rejection()) {
      worker.metrics().Add(WorkerGauge::kBadRequestsTotal, 1);
      exchange.ReadCall();  // as far as its head was read
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
      spdlog::error("request {} failed: {}", exchange.request_id_, error.what());
    }
    if (exchange.answer_started_) {
      exchange.end_ = http::End::kReset;
      exchange.aborted_ = true;
    } else {
      co_await exchange.Refuse(Reason::kInternal);
    }
  }
  stream.WatchGone(nullptr, nullptr);
  stream.Finish(exchange.end_);
  exchange.permit_ = {};
  exchange.place_.Leave();
  worker.metrics().Add(WorkerGauge::kInFlight, -1);
  exchange.Record();
}

void Exchange::Identify() {
  const http::ConnectionInfo& connection = stream_.connection();
  client_ip_ = connection.peer_ip;
  client_address_ = connection.peer;
  std::string_view offered_id;
  if (connection.peer_trusted && !stream_.rejection()) {
    // From the right, the first address that is none of ours is the client (RFC 7239, section 5.2, in X-Forwarded-For's
    // spelling).
    bool known = false;
    for (size_t i = head_.fields.size(); i-- > 0 && !known;) {
      if (head_.kinds[i] == http::FieldKind::kRequestId) offered_id = head_.fields[i].value;
      if (head_.kinds[i] != http::FieldKind::kForwardedFor) continue;
      std::string_view list = head_.fields[i].value;
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
        client_address_ = address;
        client_ip_room_ = IpText(address);
        client_ip_ = client_ip_room_;
        known = !options_.trusted_proxies.Contains(address);
      }
    }
    for (size_t i = 0; i < head_.fields.size(); ++i) {
      if (head_.kinds[i] == http::FieldKind::kRequestId) offered_id = head_.fields[i].value;
    }
  }
  if (IsUsableRequestId(offered_id)) {
    request_id_ = offered_id;
  } else {
    worker_->NewRequestId(request_id_room_);
    request_id_ = std::string_view(request_id_room_, 32);
  }
}

// THE life of a request whose head is well-formed.
Task<void> Exchange::Handle() {
  request_complete_ = loop().now();  // a head that comes slowly is its client's time, not the service's
  ReadCall();
  TakeBufferedBody();
  if (upload_ == RelayEnd::kInvalid) co_return co_await Refuse(Reason::kBadRequest, body_detail_);
  if (const Reason reason = NormalizeTarget(); reason != Reason::kNone) co_return co_await Refuse(reason, detail_);
  if (FindBuiltin()) co_return co_await AnswerBuiltin();
  if (!(*state_)->has_policy) co_return co_await Refuse(Reason::kDiscoveryUnavailable, "no configuration yet");
  if (const Reason reason = MatchRoute(); reason != Reason::kNone) {
    // Asked of the server itself, and no service is meant (RFC 9110, section 9.3.7).
    if (path_ == "*") co_return co_await Reply(200, {}, kServedMethodsField, {});
    co_return co_await Refuse(reason, detail_);
  }
  if (match_.route->grpc_web) {
    if (const Reason reason = ReadWebCall(); reason != Reason::kNone) co_return co_await Refuse(reason, body_detail_);
  }
  if (match_.route->max_duration.count() > 0) ends_at_ = started_ + match_.route->max_duration;
  if (grpc_timeout_.count() >= 0 && started_ + grpc_timeout_ < ends_at_) {
    ends_at_ = started_ + grpc_timeout_;
    timed_by_client_ = true;
  }
  upgrading_ = match_.route->websocket && !head_.protocol.empty();
  const RoutePolicy& route = *match_.route;
  ChooseService();
  if (route.access != nullptr && !MayAccess(*route.access)) co_return co_await Refuse(Reason::kForbidden);
  // Browsers send it without credentials, so it needs none; it costs no more than a refusal, so it counts for no limit.
  if (preflight_) co_return co_await AnswerPreflight(*route.cors);
  Reason refused = Reason::kNone;
  if (route_->limits_ask_redis) {
    refused = co_await AdmitWithRedis(route.rate_limits);
  } else {
    refused = AdmitByLimits(route.rate_limits);
  }
  if (refused != Reason::kNone) co_return co_await Refuse(refused);
  if (route_->auth != nullptr) {
    refused = IsMisdirected() ? Reason::kMisdirectedRequest : co_await Authenticate();
    if (refused != Reason::kNone) co_return co_await Refuse(refused, detail_);
  }
  if (route_->identity_limits_ask_redis) {
    refused = co_await AdmitWithRedis(route.identity_limits);
  } else {
    refused = AdmitByLimits(route.identity_limits);
  }
  if (refused != Reason::kNone) co_return co_await Refuse(refused);
  if (route.bounds_body && IsBodyTooLarge()) co_return co_await Refuse(Reason::kBodyTooLarge);
  if (head_.max_forwards == 0) co_return co_await Reply(200, {}, kServedMethodsField, {});
  if (route.redirect != nullptr) co_return co_await Redirect(*route.redirect);
  if (route.respond != nullptr) co_return co_await Respond(*route.respond);
  if (route.rewrite_regex != nullptr && !RewriteByRegex()) {
    co_return co_await Refuse(Reason::kInternal, "rewrite.regex did not produce a path");
  }
  if (HasBeenHere()) {
    co_return co_await Refuse(Reason::kLoopDetected, "its Via says that it has come from this gateway");
  }
  if (const Reason reason = FindEndpoints(); reason != Reason::kNone) co_return co_await Refuse(reason);
  if (service_->bulkhead != nullptr) {
    if (const Reason reason = co_await EnterBulkhead(); reason == Reason::kClientClosed) {
      co_return EndUnanswered();
    } else if (reason != Reason::kNone) {
      co_return co_await Refuse(reason);
    }
  }
  if (service_->breaker != nullptr) {
    const BreakerVerdict verdict = service_->breaker->Acquire(loop().now(), &permit_);
    if (verdict != BreakerVerdict::kAllowed) {
      policy_ = Concat("CircuitBreaker/", service_->policy->breaker->name);
      if (verdict == BreakerVerdict::kOpen) retry_after_ = service_->breaker->RetryAfter(loop().now());
      co_return co_await Refuse(verdict == BreakerVerdict::kOpen ? Reason::kBreakerOpen : Reason::kConcurrencyLimit);
    }
  }
  mirrors_ = !route.mirrors.empty();
  const RetryPolicy* const retry = service_->policy->retry.get();
  if (retry != nullptr) {
    service_->runtime->retry_budget.OnRequest(loop().now());
    if (!upgrading_ &&
        (IsCallFor(*retry) || std::binary_search(retry->methods.begin(), retry->methods.end(), head_.method))) {
      if (grpc_) {
        keeps_body_ = !body_complete_;  // the client may send the rest of it only once it has heard of the service
      } else if (!body_complete_ && !head_.expect_continue) {
        const Reason reason = co_await BufferBody(retry->max_body_bytes);
        if (reason == Reason::kClientClosed) co_return EndUnanswered();
        if (reason != Reason::kNone) co_return co_await Refuse(reason, body_detail_);
      }
      retry_ = retry;
    }
  }
  co_await Forward();
}

Reason Exchange::NormalizeTarget() {
  const http::ConnectionInfo& connection = stream_.connection();
  // Only a proxy in front can have had TLS (RFC 9110, section 7.4).
  if (head_.scheme == "https" && connection.tls == nullptr && !connection.peer_trusted) {
    detail_ = "an https target without TLS";
    return Reason::kBadRequest;
  }
  std::string_view host = head_.authority;
  if (!host.empty() && host[0] != '[') host = host.substr(0, host.find(':'));
  if (!host.empty() && host[0] == '[') host = host.substr(0, host.find(']') + 1);
  if (!host.empty() && host.back() == '.') host.remove_suffix(1);
  if (host.size() > sizeof host_room_) {
    detail_ = "Host is too long";
    return Reason::kBadRequest;
  }
  host_ = std::string_view(host_room_, NormalizeHost(host, host_room_));
  path_ = head_.path;
  if (path_ == "*" || IsNormalPath(path_)) return Reason::kNone;
  const PathError error = NormalizePath(head_.path, options_.reject_encoded_slashes, &normal_room_);
  path_ = normal_room_;
  if (error == PathError::kNone) return Reason::kNone;
  path_ = {};
  detail_ = PathErrorMessage(error).data();
  return Reason::kBadRequest;
}

// What of the body came with the head.
void Exchange::TakeBufferedBody() {
  body_complete_ = replayable_ = !head_.has_body;
  if (!head_.has_body) return;
  http::BodyPiece piece;
  switch (stream_.Read({}, &piece)) {
    case http::BodyRead::kPiece:
      buffered_body_ = piece.bytes;
      body_bytes_ = piece.payload;
      body_complete_ = replayable_ = piece.last;
      buffered_trailers_ = piece.trailers;
      break;
    case http::BodyRead::kInvalid:
      upload_ = RelayEnd::kInvalid;
      body_detail_ = stream_.detail();
      break;
    default:
      break;
  }
}

bool Exchange::FindBuiltin() {
  if (options_.builtin_routes && path_ == "/health") {
    series_ = MetricsRegistry::kHealthSeries;
  } else if (options_.builtin_routes && path_ == "/test-rate-limit") {
    series_ = MetricsRegistry::kTestRateLimitSeries;
  } else if (options_.metrics_on_main_port && path_ == "/metrics" && worker_->shared().metrics_page != nullptr) {
    series_ = MetricsRegistry::kMetricsSeries;
  } else {
    return false;
  }
  service_metrics_ = MetricsRegistry::kBuiltinService;
  return true;
}

Task<void> Exchange::AnswerBuiltin() {
  if (series_ == MetricsRegistry::kTestRateLimitSeries) {
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
  } else if (series_ == MetricsRegistry::kHealthSeries) {
    co_await Reply(200, Concat(R"({"status": "healthy", "time": ")", NowRfc3339(stream_.started_wall()), "\"}"));
  } else {
    co_await Reply(200, worker_->shared().metrics_page(), {}, "text/plain; version=0.0.4; charset=utf-8");
  }
}

Reason Exchange::MatchRoute() {
  const ServingState& state = **state_;
  preflight_ = ReadPreflight(head_.method, head_.field_views());
  if (preflight_ && FindPreflightRoute()) return Reason::kNone;
  state.snapshot->Match(MatchInputOf(head_.method, path_), &match_);
  if (match_.route == nullptr) return match_.method_not_allowed ? Reason::kMethodNotAllowed : Reason::kNoRoute;
  if (MayBeReadOtherwise(path_) && IsGuardedOtherwise()) {
    detail_ = "a path that some services read as one that another route protects";
    return Reason::kBadRequest;
  }
  route_ = &state.routes[match_.route->index];
  if (match_.route->cors == nullptr) preflight_.reset();  // the service's to answer
  return Reason::kNone;
}

MatchInput Exchange::MatchInputOf(std::string_view method, std::string_view path) const {
  return {.method = method,
          .host = host_,
          .path = path,
          .query = head_.query,
          .fields = head_.field_views(),
          .https = IsHttps()};
}

// Whether the path, as some servers would read it, belongs to a route that lets fewer in than the one that was found.
bool Exchange::IsGuardedOtherwise() const {
  const auto guards = [this](const RoutePolicy& other) {
    const RoutePolicy& own = *match_.route;
    return (other.auth != nullptr && other.auth != own.auth) || (other.access != nullptr && other.access != own.access);
  };
  for (const PathReading reading :
       {PathReading::kWithoutParameters, PathReading::kDecodedSlashes, PathReading::kBoth}) {
    std::string path;
    RouteMatch other;
    if (!ReadPathAs(reading, path_, &path) || path == path_) continue;
    (*state_)->snapshot->Match(MatchInputOf(head_.method, path), &other);
    // A method that the route there does not take would be refused.
    if (other.route == nullptr ? other.method_not_allowed : guards(*other.route)) return true;
  }
  return false;
}

bool Exchange::HasBeenHere() const {
  // Through several data planes behind one load balancer it may take a while to come back to the same one.
  constexpr int kGatewaysMax = 16;
  constexpr std::string_view kAnyGateway = "gateway (";
  int gateways = 0;
  for (size_t i = 0; i < head_.fields.size(); ++i) {
    if (head_.kinds[i] != http::FieldKind::kVia) continue;
    const std::string_view value = head_.fields[i].value;
    if (value.find(options_.via) != std::string_view::npos) return true;
    for (size_t at = value.find(kAnyGateway); at != std::string_view::npos; at = value.find(kAnyGateway, at + 1)) {
      if (++gateways == kGatewaysMax) return true;
    }
  }
  return false;
}

void Exchange::ChooseService() {
  const RoutePolicy& policy = *match_.route;
  if (policy.consul_service != nullptr) {
    const std::string_view name = match_.variables[policy.consul_service->variable];
    series_ = route_->unknown_series;
    const auto found = route_->dynamic.find(name);
    if (found == route_->dynamic.end()) return;
    dynamic_ = found->second.service;
    service_ = dynamic_.get();
    series_ = found->second.series;
  } else if (policy.redirect != nullptr || policy.respond != nullptr) {
    series_ = route_->series[0];
    service_metrics_ = MetricsRegistry::kBuiltinService;
    return;
  } else {
    size_t target = 0;
    if (policy.split.size() > 1) {
      const std::optional<uint64_t> hash = HashOf(policy.split_on, head_.field_views(), client_address_, path_);
      if (hash) {
        target = ChooseTarget(policy.split, (*state_)->snapshot->services(), *hash);
      } else {
        const uint32_t draw = absl::Uniform<uint32_t>(worker_->random(), 0, policy.split_total);
        while (draw >= policy.split[target].upto) ++target;
      }
    }
    service_ = (*state_)->services[policy.split[target].service].get();
    series_ = route_->series[target];
  }
  service_metrics_ = service_->runtime->metrics_service;
}

Reason Exchange::FindEndpoints() const {
  if (service_ == nullptr) return (*state_)->catalog_known ? Reason::kUnknownService : Reason::kDiscoveryUnavailable;
  switch (service_->discovery) {
    case Discovery::kUnknownService:
      return Reason::kNoHealthyEndpoint;  // policy names it, not the client
    case Discovery::kUnavailable:
      return Reason::kDiscoveryUnavailable;
    case Discovery::kKnown:
      break;
  }
  return service_->balancer == nullptr ? Reason::kNoHealthyEndpoint : Reason::kNone;
}

// An answer of our own that says why there is no other.
Task<void> Exchange::Refuse(Reason reason, const char* detail) {
  reason_ = reason;
  detail_ = detail;
  const ReasonInfo& info = InfoOf(reason);
  std::string fields = Concat("X-Gateway-Reason: ", info.word, "\r\n");
  if (reason == Reason::kRateLimited) {
    Append(&fields, "Retry-After: ", CeilSeconds(limit_.reset), "\r\n");
  } else if (reason == Reason::kBreakerOpen) {
    Append(&fields, "Retry-After: ", CeilSeconds(retry_after_), "\r\n");
  } else if (route_ != nullptr && route_->auth != nullptr &&
             (reason == Reason::kUnauthenticated ||
              (reason == Reason::kForbidden && token_refusal_ == JwtRefusal::kClaims))) {
    AppendChallenges(&fields);
  } else if (reason == Reason::kMethodNotAllowed) {
    for (size_t i = 0; i < match_.allowed_methods.size(); ++i) {
      Append(&fields, i == 0 ? "Allow: " : ", ", match_.allowed_methods[i]);
    }
    fields += match_.allowed_methods.empty() ? kServedMethodsField : "\r\n";
  }
  if (grpc_) co_return co_await RefuseCall(reason, fields);
  std::string body = Concat(R"({"error": ")", info.message, R"(", "code": )", info.status, R"(, "reason": ")",
                            info.word, R"(", "request_id": ")", request_id_, "\"");
  if (options_.error_details) {
    if (!policy_.empty()) Append(&body, R"(, "policy": ")", policy_, "\"");
    if (match_.route != nullptr) Append(&body, R"(, "route": ")", match_.route->name, "\"");
    if (detail[0] != '\0') Append(&body, R"(, "detail": ")", detail, "\"");
    Append(&body, R"(, "revision": )", (*state_)->snapshot->revision());
  }
  body += "}";
  co_await Reply(info.status, body, fields);
}

void Exchange::EndUnanswered() {
  reason_ = Reason::kClientClosed;
  status_ = InfoOf(reason_).status;
  end_ = http::End::kUnanswered;
}

Task<void> Exchange::Reply(int status, std::string_view body, std::string_view fields, std::string_view content_type) {
  status_ = status;
  std::string lines;
  const FieldEditsPolicy* const edits = AnswerEdits();
  const auto add = [&](std::string_view name, auto value) {
    if (edits == nullptr || !Replaces(*edits, name)) Append(&lines, name, ": ", value, "\r\n");
  };
  add("Date", worker_->HttpDate());
  add("X-Request-Id", request_id_);
  lines += fields;
  if (!content_type.empty()) add("Content-Type", content_type);
  AppendCorsFields(&lines);
  if (limit_policy_ != nullptr) AppendLimitFields(&lines);
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
  response.has_body = !body.empty() && head_.method != "HEAD";
  // Neither has a body, nor a length (RFC 9110, section 8.6).
  if (status != 204 && status != 304 && !(grpc_ && head_.version == http::Version::kHttp2)) {
    response.length = body.size();
  }
  http::BodyPiece piece{.last = true};
  if (response.has_body) {
    piece.bytes = body;
    piece.payload = body.size();
  }
  answer_started_ = true;
  Io io = stream_.Begin(response, piece);
  if (io == Io::kAgain) io = co_await stream_.Flush(options_.write_timeout, ends_at_);
  if (io != Io::kDone) {
    aborted_ = true;
    end_ = http::End::kCutShort;
  }
}

void Exchange::Record() {
  WorkerShard& metrics = worker_->metrics();
  const nanoseconds duration = loop().now() - started_;
  // Of a tunnel the histogram sees how long the change took; how long it stood is in the log.
  const nanoseconds answered_in = status_ == 101 ? upstream_duration_ : duration;
  metrics.Add(WorkerGauge::kBytesReceived, static_cast<int64_t>(stream_.bytes_received()));
  metrics.Add(WorkerGauge::kBytesSent, static_cast<int64_t>(stream_.bytes_sent()));
  if (series_ != MetricsRegistry::kHealthSeries || !IsConsulsCheck(head_)) {
    metrics.Record(service_metrics_, series_, MethodOf(head_.method), OutcomeStatus(status_), reason_, answered_in);
  }
  if (grpc_status_ >= 0) metrics.RecordCall(service_metrics_, grpc_status_);
  if (worker_->log() == nullptr) return;
  RequestRecord record;
  record.time = stream_.started_wall();
  record.method = head_.method;
  record.path = LoggedTarget(head_.target, options_.redact_query, &worker_->field_scratch());
  record.client_ip = client_ip_;
  for (size_t i = 0; i < head_.fields.size(); ++i) {
    if (head_.kinds[i] == http::FieldKind::kUserAgent) record.user_agent = head_.fields[i].value;
  }
  record.request_id = request_id_;
  if (const http::TlsInfo* tls = stream_.connection().tls; tls != nullptr) {
    record.tls_version = tls->version;
    record.tls_server_name = tls->server_name;
    if (tls->certificate != nullptr) {
      const http::ClientCertificate& certificate = *tls->certificate;
      record.client_certificate = certificate.subject.empty() ? certificate.fingerprint : certificate.subject;
    }
  }
  if (service_ != nullptr) record.service = service_->runtime->name;
  if (service_ == nullptr && service_metrics_ == MetricsRegistry::kBuiltinService) record.service = "gateway";
  if (match_.route != nullptr) record.route = match_.route->name;
  if (endpoint_ != nullptr) record.endpoint = endpoint_->name;
  record.consumer = consumer_;
  record.policy = policy_;
  if (!shadow_refusals_.empty() && policy_.empty()) {
    std::string& names = worker_->scratch();
    names.clear();
    for (const RateLimitPolicy* limit : shadow_refusals_) {
      Append(&names, names.empty() ? "" : ", ", "RateLimit/", limit->name, " (shadow)");
    }
    record.policy = names;
  }
  record.status = status_;
  record.grpc_status = grpc_status_;
  record.reason = reason_;
  record.detail = detail_;
  record.duration = duration;
  record.upstream_duration = upstream_duration_;
  record.bytes_in = stream_.bytes_received();
  record.bytes_out = stream_.bytes_sent();
  record.revision = (*state_)->snapshot->revision();
  record.protocol = ProtocolName(head_.version);
  record.attempts = attempts_;
  record.aborted = aborted_;
  worker_->log()->Write(record);
  worker_->LogWritten();
}

}  // namespace gateway::dataplane
