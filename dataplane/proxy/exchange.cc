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
#include "dataplane/http/http1/response_reader.h"
#include "dataplane/net/alarm.h"
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

constexpr int kDescriptorsFreedMax = 4;  // for one connection

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

Exchange::Exchange(Worker* worker, ClientConnection* client)
    : worker_(worker), client_(client), options_(worker->options()) {}

Exchange::~Exchange() {
  // What was used goes; what the client sent ahead stays for the next exchange.
  if (next_input_) {
    client_->input = std::move(next_input_);
  } else if (client_->input && input_used_ > 0) {
    client_->input.Consume(input_used_);
  }
}

Task<bool> Exchange::Run() {
  if (!co_await ReadHead()) co_return false;
  client_->empty_line_seen = false;
  worker_->metrics().Add(WorkerGauge::kInFlight, 1);
  std::exception_ptr failed;
  try {
    if (reason_ != Reason::kNone) {
      co_await Refuse(reason_, detail_);
    } else {
      co_await Handle();
    }
  } catch (...) {
    failed = std::current_exception();
  }
  if (failed) {
    // Whatever went wrong here stays here: this request fails, the worker goes on.
    try {
      std::rethrow_exception(failed);
    } catch (const std::exception& error) {
      spdlog::error("request {} failed: {}", request_id_, error.what());
    }
    client_->EndAfterThis();
    if (answer_started_) {
      client_->ResetAtEnd();
      aborted_ = true;
    } else {
      co_await Refuse(Reason::kInternal);
    }
  }
  client_->socket.CancelOnReset(nullptr);
  permit_ = {};
  place_.Leave();
  worker_->metrics().Add(WorkerGauge::kInFlight, -1);
  Record();
  co_return true;
}

// A refusal is left in reason_ and detail_: it is answered, and recorded, like any other.
Task<bool> Exchange::ReadHead() {
  Buffer& input = client_->input;
  http1::HeadScanner scanner;
  size_t skipped = 0;  // an empty line before the request (RFC 9112, section 2.2)
  TimePoint deadline{};
  started_ = loop().now();
  started_wall_ = loop().wall_now();
  for (;;) {
    if (!input.empty()) {
      if (skipped == 0 && !client_->empty_line_seen && input.size() >= 2 && input.data()[0] == '\r' &&
          input.data()[1] == '\n') {
        skipped = 2;
        if (input.size() == 2) {
          // Alone it is no beginning of a request: the connection is idle still.
          client_->empty_line_seen = true;
          input.Clear();
          co_return false;
        }
      }
      const auto result = scanner.Scan(input.data() + skipped, input.size() - skipped);
      if (result == http1::HeadScanner::Result::kComplete) {
        if (scanner.head_bytes() > options_.max_header_bytes) reason_ = Reason::kHeadersTooLarge;
        break;
      }
      if (result == http1::HeadScanner::Result::kRefused) {
        reason_ = Reason::kBadRequest;
        detail_ = scanner.detail();
      } else if (!scanner.line_seen() && input.size() - skipped > http1::kTargetBytesMax + 64) {
        reason_ = Reason::kTargetTooLong;
      } else if (input.size() - skipped >= options_.max_header_bytes) {
        reason_ = scanner.line_seen() ? Reason::kHeadersTooLarge : Reason::kTargetTooLong;
      }
    }
    if (reason_ != Reason::kNone) break;
    if (!input) {
      input = worker_->buffers().Acquire(BufferPool::kSmall);
      if (!input) {
        reason_ = Reason::kOverloaded;
        break;
      }
    } else if (input.room() == 0) {
      input.Compact();
      if (input.room() == 0 && !worker_->buffers().Grow(&input, input.capacity() * 2)) {
        reason_ = Reason::kOverloaded;
        break;
      }
    }
    size_t moved = 0;
    switch (client_->socket.Read(input.space(), input.room(), &moved)) {
      case Io::kDone:
        if (input.empty()) {
          started_ = loop().now();
          started_wall_ = loop().wall_now();
        }
        input.Filled(moved);
        continue;
      case Io::kEnd:
      case Io::kError:
        // Between two requests, or inside a head: nobody waits for an answer.
        client_->EndGone();
        input.Reset();
        co_return false;
      case Io::kAgain:
        break;
    }
    if (input.empty()) {
      // An event that was no data: back to being idle, without a buffer.
      co_return false;
    }
    if (deadline == TimePoint{}) deadline = started_ + options_.header_timeout;
    // A head that comes slowly holds no more than there is of it, lest slow clients take what others need.
    worker_->buffers().Shrink(&input);
    const Wait wait = co_await client_->socket.Readable(deadline);
    if (wait == Wait::kTimeout) {
      reason_ = Reason::kRequestTimeout;
      detail_ = "the header did not arrive in time";
    } else if (wait == Wait::kCancelled) {
      client_->EndGone();
      input.Reset();
      co_return false;
    }
  }
  state_.emplace(worker_->state());
  if (reason_ == Reason::kNone) {
    // Where room is scarce, so does a request that may have to wait for its answer.
    if (worker_->buffers().scarce()) worker_->buffers().Shrink(&input);
    const std::string_view head(input.data() + skipped, scanner.head_bytes());
    const http1::HeadError error = http1::ParseRequestHead(head, &head_);
    input_used_ = skipped + scanner.head_bytes();
    bytes_in_ = input_used_;
    if (error) {
      reason_ = error.reason;
      detail_ = error.detail;
    } else {
      head_parsed_ = true;
      RemoveIdentityFields();
    }
  } else {
    bytes_in_ = input.size();
  }
  if (!head_parsed_) {
    // Where the next request would begin is not known any more.
    client_->EndAfterThis();
    worker_->metrics().Add(WorkerGauge::kBadRequestsTotal, 1);
  }
  Identify();
  co_return true;
}

void Exchange::Identify() {
  client_ip_ = client_->peer_ip;
  client_address_ = client_->peer;
  std::string_view offered_id;
  if (client_->peer_trusted && head_parsed_) {
    // From the right, the first address that is none of ours is the client (RFC 7239, section 5.2, in X-Forwarded-For's
    // spelling).
    bool known = false;
    for (size_t i = head_.fields.size(); i-- > 0 && !known;) {
      if (head_.kinds[i] == http1::FieldKind::kRequestId) offered_id = head_.fields[i].value;
      if (head_.kinds[i] != http1::FieldKind::kForwardedFor) continue;
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
      if (head_.kinds[i] == http1::FieldKind::kRequestId) offered_id = head_.fields[i].value;
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
  TakeBufferedBody();
  if (upload_ == Upload::kRefused) co_return co_await Refuse(Reason::kBadRequest, body_detail_);
  if (const Reason reason = NormalizeTarget(); reason != Reason::kNone) co_return co_await Refuse(reason, detail_);
  if (FindBuiltin()) co_return co_await AnswerBuiltin();
  if (!(*state_)->has_policy) co_return co_await Refuse(Reason::kDiscoveryUnavailable, "no configuration yet");
  if (const Reason reason = MatchRoute(); reason != Reason::kNone) {
    // Asked of the server itself, and no service is meant (RFC 9110, section 9.3.7).
    if (path_ == "*") co_return co_await Reply(200, {}, kServedMethodsField, {});
    co_return co_await Refuse(reason, detail_);
  }
  if (match_.route->max_duration.count() > 0) ends_at_ = started_ + match_.route->max_duration;
  // Only a GET of HTTP/1.1 without a body (RFC 6455, section 4.1); anything else is served without the change.
  upgrading_ = match_.route->websocket && head_.upgrade && head_.method == "GET" && head_.minor_version > 0 &&
               !head_.HasBody() && head_.NamesWebSocket();
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
    refused = co_await Authenticate();
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
    if (!upgrading_ && std::binary_search(retry->methods.begin(), retry->methods.end(), head_.method)) {
      if (!body_.done() && !head_.expect_continue) {
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
  // Only a proxy in front can have had TLS (RFC 9110, section 7.4).
  if (head_.secure_target && !client_->peer_trusted) {
    detail_ = "an https target without TLS";
    return Reason::kBadRequest;
  }
  std::string_view host = head_.host;
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
    co_await Reply(200,
                   Concat(R"({"message": "Rate limit test successful", "time": ")", NowRfc3339(started_wall_), "\"}"));
  } else if (series_ == MetricsRegistry::kHealthSeries) {
    co_await Reply(200, Concat(R"({"status": "healthy", "time": ")", NowRfc3339(started_wall_), "\"}"));
  } else {
    co_await Reply(200, worker_->shared().metrics_page(), {}, "text/plain; version=0.0.4; charset=utf-8");
  }
}

Reason Exchange::MatchRoute() {
  const ServingState& state = **state_;
  preflight_ = ReadPreflight(head_.method, {head_.fields.data(), head_.fields.size()});
  if (preflight_ && FindPreflightRoute()) return Reason::kNone;
  state.snapshot->Match({head_.method, host_, path_, head_.query, {head_.fields.data(), head_.fields.size()}}, &match_);
  if (match_.route == nullptr) return match_.method_not_allowed ? Reason::kMethodNotAllowed : Reason::kNoRoute;
  if (MayBeReadOtherwise(path_) && IsGuardedOtherwise()) {
    detail_ = "a path that some services read as one that another route protects";
    return Reason::kBadRequest;
  }
  route_ = &state.routes[match_.route->index];
  if (match_.route->cors == nullptr) preflight_.reset();  // the service's to answer
  return Reason::kNone;
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
    (*state_)->snapshot->Match({head_.method, host_, path, head_.query, {head_.fields.data(), head_.fields.size()}},
                               &other);
    if (other.route != nullptr && guards(*other.route)) return true;
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
      const std::optional<uint64_t> hash =
          HashOf(policy.split_on, {head_.fields.data(), head_.fields.size()}, client_address_, path_);
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
      return Reason::kUnknownService;
    case Discovery::kUnavailable:
      return Reason::kDiscoveryUnavailable;
    case Discovery::kKnown:
      break;
  }
  return service_->balancer == nullptr ? Reason::kNoHealthyEndpoint : Reason::kNone;
}

// Chooses endpoints until one has answered, or nothing is left to try.
Task<void> Exchange::Forward() {
  Attempt attempt;
  attempt.reason = Reason::kNoHealthyEndpoint;
  bool fresh = false;  // a kept connection had ended: now only a new one will do
  int connects_failed = 0;
  for (;;) {
    if (client_->socket.broken() || worker_->cut_short()) {
      attempt.reason = EndOfCancelled();
      break;
    }
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
    attempt_started_ = head_sent_ = request_sent_ = loop().now();
    std::unique_ptr<UpstreamConnection> upstream;
    if (!fresh) {
      const bool repeatable = replayable_ && http1::IsIdempotent(head_.method);
      upstream = worker_->pool().Take(*endpoint_, !repeatable);
    }
    if (upstream == nullptr) upstream = co_await Connect(endpoint_, &attempt);
    bool at_once = false;
    if (upstream != nullptr) {
      attempt = co_await TryEndpoint(upstream.get());
      if (attempt.stale && !fresh && MayRepeat(attempt)) {
        fresh = true;
        upload_ = Upload::kComplete;
        worker_->metrics().Add(WorkerGauge::kRetriesTotal, 1);
        continue;
      }
      if (attempt.reusable) worker_->pool().Keep(std::move(upstream), service_->policy->idle_timeout);
      if (attempt.reason == Reason::kNone) {
        ReportSuccess();
        ReportEndpoint(status_, Reason::kNone);
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
        if (client_->socket.broken() || worker_->cut_short()) continue;  // not made: nobody waits for it any more
      }
    }
    fresh = false;
    worker_->metrics().Add(WorkerGauge::kRetriesTotal, 1);
  }
  if (attempt.reason == Reason::kNone) co_return;
  ReportFailure(attempt);
  if (attempt.answered) {
    reason_ = attempt.reason;
    detail_ = attempt.detail;
    aborted_ = true;
    co_return;
  }
  if (attempt.reason == Reason::kClientClosed) co_return EndUnanswered();
  co_await Refuse(attempt.reason, attempt.detail);
}

void Exchange::EndUnanswered() {
  reason_ = Reason::kClientClosed;
  status_ = InfoOf(reason_).status;
  client_->EndAfterThis();
}

// Counts as a failure of the service unless the client or its policy caused it. The first report on an attempt counts.
void Exchange::ReportFailure(const Attempt& attempt) {
  if (!permit_) return;
  const bool blameless = attempt.reason == Reason::kClientClosed || attempt.reason == Reason::kRequestTimeout ||
                         attempt.reason == Reason::kBadRequest || attempt.reason == Reason::kOverloaded ||
                         attempt.reason == Reason::kBodyTooLarge || attempt.reason == Reason::kDraining ||
                         (attempt.answered && attempt.reason == Reason::kRequestDeadline) ||
                         (attempt.reason == Reason::kRequestDeadline && upload_ != Upload::kComplete);
  permit_.Report(blameless ? Outcome::kCancelled : Outcome::kFailure, loop().now(), ServiceTime());
}

// Reports the attempt by its status: a 5xx is a failure whatever follows, a 101 a success.
void Exchange::ReportHead(int status) {
  const Outcome outcome = status >= 500 ? Outcome::kFailure : Outcome::kSuccess;
  permit_.Report(outcome, loop().now(), head_latency_);
  ReportEndpoint(status, Reason::kNone);
}

void Exchange::ReportSuccess() { permit_.Report(Outcome::kSuccess, loop().now(), head_latency_); }

bool Exchange::MayRepeat(const Attempt& attempt) const {
  // A body that was wholly there before is there still, and so is what has not been read yet; what was read as it came
  // is gone.
  return !attempt.answered && (replayable_ || !upload_begun_) && (!attempt.sent || http1::IsIdempotent(head_.method));
}

Task<std::unique_ptr<UpstreamConnection>> Exchange::Connect(const std::shared_ptr<Endpoint>& endpoint,
                                                            Attempt* failure) {
  std::unique_ptr<UpstreamConnection> upstream = worker_->pool().Connect(endpoint);
  // (Others may take what was freed.)
  for (int freed = 0; upstream == nullptr && (errno == EMFILE || errno == ENFILE) && freed < kDescriptorsFreedMax &&
                      worker_->FreeDescriptor();
       ++freed) {
    upstream = worker_->pool().Connect(endpoint);
  }
  if (upstream != nullptr && worker_->IsShortOfDescriptors(upstream->socket.fd())) (void)worker_->FreeDescriptor();
  if (upstream == nullptr) {
    const bool exhausted = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS;
    failure->reason = exhausted ? Reason::kOverloaded : Reason::kUpstreamConnectFailed;
    failure->detail = exhausted ? "out of descriptors or memory" : "connection refused";
    co_return nullptr;
  }
  client_->socket.CancelOnReset(&upstream->socket);
  const TimePoint patience = std::min(
      {attempt_started_ + service_->policy->connect_timeout, request_complete_ + match_.route->timeout, ends_at_});
  const Wait wait = co_await upstream->socket.Writable(patience);
  client_->socket.CancelOnReset(nullptr);
  if (wait == Wait::kReady && upstream->socket.ConnectError() == 0 && !upstream->socket.broken()) {
    if (endpoint->tls == nullptr) co_return upstream;
    client_->socket.CancelOnReset(&upstream->socket);
    const tls::HandshakeError error = co_await upstream->Secure(patience);
    client_->socket.CancelOnReset(nullptr);
    if (error == tls::HandshakeError::kNone) co_return upstream;
    if (upstream->socket.cancelled()) {
      failure->reason = EndOfCancelled();
    } else if (error == tls::HandshakeError::kTimeout &&
               (OutOfTime() || loop().now() >= request_complete_ + match_.route->timeout)) {
      failure->reason = Reason::kRequestDeadline;
    } else {
      failure->reason = Reason::kUpstreamTlsFailed;
      failure->detail = tls::HandshakeErrorText(error);
    }
    co_return nullptr;
  }
  if (wait == Wait::kCancelled) {
    failure->reason = EndOfCancelled();
  } else if (wait == Wait::kTimeout && (OutOfTime() || loop().now() >= request_complete_ + match_.route->timeout)) {
    failure->reason = Reason::kRequestDeadline;
    failure->detail = OutOfTime() ? kMaxDurationDetail : "";
  } else if (wait == Wait::kTimeout) {
    failure->reason = Reason::kUpstreamTimeout;
    failure->detail = "the connection was not established in time";
  } else {
    failure->reason = Reason::kUpstreamConnectFailed;
    failure->detail = "connection refused";
  }
  co_return nullptr;
}

Task<Exchange::Attempt> Exchange::TryEndpoint(UpstreamConnection* upstream) {
  client_->socket.CancelOnReset(&upstream->socket);
  std::optional<Task<void>> upload;
  Attempt attempt;
  std::exception_ptr failed;
  try {
    attempt = co_await Converse(upstream, &upload);
  } catch (...) {
    failed = std::current_exception();
  }
  client_->socket.CancelOnReset(nullptr);
  if (upload && !upload->done()) {
    // The answer ended before the request: the rest of the body is nobody's, unless all of it is still to be read, by
    // another attempt. Both of its waits end, then the task itself.
    stop_upload_ = true;
    if (!attempt.stale || upload_begun_) client_->EndAfterThis();
    upstream->socket.Cancel();
    client_->socket.Interrupt();
    co_await upload->Done();
    stop_upload_ = false;
  }
  if (failed) std::rethrow_exception(failed);
  co_return attempt;
}

// Sends the request and relays the answer, on one connection.
Task<Exchange::Attempt> Exchange::Converse(UpstreamConnection* upstream, std::optional<Task<void>>* upload) {
  Attempt attempt;
  {
    Buffer out = worker_->buffers().Acquire(BufferPool::kSmall);
    if (!out || !BuildUpstreamHead(*upstream->endpoint, std::nullopt, &out)) {
      attempt.reason = Reason::kOverloaded;
      co_return attempt;
    }
    std::array<char, 20> chunk_room;
    std::array<iovec, 4> parts;
    size_t count = 0;
    const auto add = [&](std::string_view bytes) {
      if (!bytes.empty()) parts[count++] = {const_cast<char*>(bytes.data()), bytes.size()};
    };
    add({out.data(), out.size()});
    if (head_.chunked && !buffered_body_.empty()) {
      add(http1::ChunkHead(buffered_body_.size(), &chunk_room));
      add(buffered_body_);
      add(body_.done() ? std::string_view("\r\n0\r\n\r\n") : http1::kChunkEnd);
    } else if (head_.chunked && body_.done()) {
      add(http1::kLastChunk);
    } else {
      add(buffered_body_);
    }
    std::span<iovec> rest(parts.data(), count);
    uint64_t sent = 0;
    size_t moved = 0;
    Io io = upstream->socket.Write(&rest, &moved);
    sent = moved;
    if (io == Io::kAgain)
      io = co_await upstream->socket.WriteRest(rest, service_->policy->response_timeout, &sent, ends_at_);
    attempt.sent = sent > 0;
    if (upstream->socket.cancelled()) co_return EndOfWait(Wait::kCancelled);
    if (io == Io::kAgain && OutOfTime()) co_return EndOfWait(Wait::kTimeout);
    if (io == Io::kAgain) {
      attempt.reason = Reason::kUpstreamTimeout;
      attempt.detail = "the endpoint did not take the request in time";
      co_return attempt;
    }
    if (io == Io::kError && upstream->reused && !attempt.sent) {
      attempt.reason = Reason::kUpstreamReset;
      attempt.stale = true;
      co_return attempt;
    }
    // An endpoint that takes no more may have answered already: what it said is read first.
  }
  request_sent_ = head_sent_ = heard_ = loop().now();
  if (mirrors_) {
    mirror_body_.clear();  // of an attempt that came to nothing
    CopyForMirrors(buffered_body_);
    if (body_.done()) StartMirrors();
  }
  if (!body_.done()) {
    upload_ = Upload::kRunning;
    continue_awaited_ = head_.expect_continue && buffered_body_.empty();
    upload->emplace(UploadBody(upstream));
    (*upload)->Start();
  }

  // The response's head; interim responses before it.
  http1::ResponseHead answer;
  http1::ResponseReader reader;
  Buffer& input = upstream->input;
  bool any_byte = false;
  for (;;) {
    using Result = http1::ResponseReader::Result;
    const Result result = reader.Read(input.data(), input.size(), &answer);
    if (result == Result::kRejected) {
      attempt.reason = Reason::kUpstreamInvalid;
      attempt.detail = reader.detail();
      co_return attempt;
    }
    if (result == Result::kFinal) {
      if (answer.status >= 200 || (upgrading_ && answer.NamesWebSocket())) break;
      attempt.reason = Reason::kUpstreamInvalid;
      attempt.detail = "an unsolicited 101";
      co_return attempt;
    }
    if (result == Result::kInterim) {
      if (head_.minor_version > 0) {
        Buffer out = worker_->buffers().Acquire(BufferPool::kSmall);
        if (out && BuildAnswerHead(answer, false, false, &out)) {
          std::array<iovec, 1> part = {{{out.data(), out.size()}}};
          if (co_await SendToClient(part, false) != Io::kDone) {
            attempt.reason = Reason::kClientClosed;
            co_return attempt;
          }
        }
      }
      if (answer.status == 100) {
        continue_awaited_ = false;
        client_->socket.ExtendRead(loop().now() + options_.read_timeout);
      }
      input.Consume(reader.head_bytes());
      continue;
    }
    if (!input) {
      // Only when there is something to read: a request that waits holds no second buffer.
      const Wait wait = co_await upstream->socket.Readable(AnswerDeadline());
      if (wait != Wait::kReady) co_return EndOfWait(wait);
      input = worker_->buffers().Acquire(BufferPool::kSmall);
      if (!input) {
        attempt.reason = Reason::kOverloaded;
        co_return attempt;
      }
    } else if (input.room() == 0) {
      input.Compact();
      if (input.room() == 0 && !worker_->buffers().Grow(&input, input.capacity() * 2)) {
        attempt.reason = Reason::kOverloaded;
        co_return attempt;
      }
    }
    size_t moved = 0;
    const Io io = upstream->socket.Read(input.space(), input.room(), &moved);
    if (io == Io::kDone) {
      any_byte = true;
      heard_ = loop().now();
      input.Filled(moved);
      continue;
    }
    if (io == Io::kAgain) {
      const Wait wait = co_await upstream->socket.Readable(AnswerDeadline());
      if (wait != Wait::kReady) co_return EndOfWait(wait);
      continue;
    }
    if (upstream->socket.cancelled()) co_return EndOfWait(Wait::kCancelled);
    attempt.reason = Reason::kUpstreamReset;
    attempt.detail =
        any_byte ? "the connection ended inside the response header" : "the connection ended before a response";
    attempt.stale = upstream->reused && !any_byte;
    co_return attempt;
  }
  head_latency_ = ServiceTime();
  head_read_ = loop().now();
  answer_head_read_ = true;
  upstream_duration_ = loop().now() - attempt_started_;
  if (answer.status < 502 || answer.status > 504) ObserveLatency(head_latency_);  // else ReportHead does
  if (answer.status >= 500) ReportHead(answer.status);
  if (KeepsRetrying() && answer.status < 600 && retry_->statuses.test(static_cast<size_t>(answer.status)) &&
      PrepareRetry(Reason::kNone, answer.status)) {
    ReportEndpoint(answer.status, Reason::kNone);
    // The client does not see this response. Its connection is good for another one only where all of it is here
    // already.
    answer_head_read_ = false;
    attempt.retried = true;
    attempt.reason = Reason::kNoHealthyEndpoint;  // if there is no other to ask
    const size_t rest = input.size() - reader.head_bytes();
    const bool to_head = head_.method == "HEAD";
    const bool whole = answer.has_length && answer.length == rest;
    if (whole && http1::MayReuseConnection(answer, to_head)) {
      input.Reset();
      attempt.reusable = true;
    }
    co_return attempt;
  }
  if (answer.status == 101) {
    ReportHead(answer.status);
    co_return co_await Tunnel(upstream, &answer);
  }
  co_return co_await RelayAnswer(upstream, &answer);
}

// When the answer's head has to be there. While the request is still on its way no clock runs against the endpoint,
// unless it is the endpoint's leave that the client waits for.
TimePoint Exchange::AnswerDeadline() const {
  if (upload_ == Upload::kRunning && !continue_awaited_) return ends_at_;
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
  const TimePoint uploaded = upload_ == Upload::kRunning ? loop().now() : request_sent_;
  return loop().now() - attempt_started_ - (uploaded - head_sent_);
}

Exchange::Attempt Exchange::EndOfWait(Wait wait) const {
  Attempt attempt;
  attempt.sent = true;
  if (wait == Wait::kTimeout) {
    const bool deadline = OutOfTime() || loop().now() >= request_complete_ + match_.route->timeout;
    attempt.reason = deadline ? Reason::kRequestDeadline : Reason::kUpstreamTimeout;
    attempt.detail = OutOfTime() ? kMaxDurationDetail : "no response in time";
    return attempt;
  }
  switch (upload_) {
    case Upload::kClientTimeout:
      attempt.reason = Reason::kRequestTimeout;
      attempt.detail = "the body stopped arriving";
      break;
    case Upload::kRefused:
      attempt.reason = Reason::kBadRequest;
      attempt.detail = body_detail_;
      break;
    case Upload::kTooLarge:
      attempt.reason = Reason::kBodyTooLarge;
      break;
    case Upload::kUpstreamTimeout:
      attempt.reason = Reason::kUpstreamTimeout;
      attempt.detail = "the endpoint did not take the body in time";
      break;
    case Upload::kOverloaded:
      attempt.reason = Reason::kOverloaded;
      break;
    default:
      attempt.reason = EndOfCancelled();
      break;
  }
  return attempt;
}

Reason Exchange::EndOfCancelled() const {
  return worker_->cut_short() && !client_->socket.broken() ? Reason::kDraining : Reason::kClientClosed;
}

// An answer of our own that says why there is no other.
Task<void> Exchange::Refuse(Reason reason, const char* detail) {
  reason_ = reason;
  detail_ = detail;
  const ReasonInfo& info = InfoOf(reason);
  std::string body = Concat(R"({"error": ")", info.message, R"(", "code": )", info.status, R"(, "reason": ")",
                            info.word, R"(", "request_id": ")", request_id_, "\"");
  if (options_.error_details) {
    if (!policy_.empty()) Append(&body, R"(, "policy": ")", policy_, "\"");
    if (match_.route != nullptr) Append(&body, R"(, "route": ")", match_.route->name, "\"");
    if (detail[0] != '\0') Append(&body, R"(, "detail": ")", detail, "\"");
    Append(&body, R"(, "revision": )", (*state_)->snapshot->revision());
  }
  body += "}";
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
  co_await Reply(info.status, body, fields);
}

Task<void> Exchange::Reply(int status, std::string_view body, std::string_view fields, std::string_view content_type) {
  status_ = status;
  // A body that is not all here is never read as a request, nor waited for.
  const bool broken_off = upload_ == Upload::kRefused || upload_ == Upload::kTooLarge;
  if (!head_parsed_ || !body_.done() || broken_off || worker_->draining()) client_->EndAfterThis();
  if (!head_.Persistent()) client_->EndAsAsked();
  std::string head = Concat("HTTP/1.1 ", status, " ", StatusPhrase(status), "\r\n");
  const FieldEditsPolicy* const edits = AnswerEdits();
  const auto add = [&](std::string_view name, auto value) {
    if (edits == nullptr || !Replaces(*edits, name)) Append(&head, name, ": ", value, "\r\n");
  };
  add("Date", worker_->HttpDate());
  // Neither has a body, nor a length (RFC 9110, section 8.6).
  if (status != 204 && status != 304) Append(&head, "Content-Length: ", body.size(), "\r\n");
  add("X-Request-Id", request_id_);
  head += fields;
  if (!content_type.empty()) add("Content-Type", content_type);
  AppendCorsFields(&head);
  if (limit_policy_ != nullptr) AppendLimitFields(&head);
  if (edits != nullptr) {
    const TextValues values = Values();
    const size_t size = head.size();
    head.resize(size + AddedFieldBytesMax(*edits, values));
    head.resize(static_cast<size_t>(WriteAddedFields(*edits, values, head.data() + size) - head.data()));
  }
  if (options_.error_details) Append(&head, "X-Gateway-Revision: ", (*state_)->snapshot->revision(), "\r\n");
  if (client_->ending()) {
    head += "Connection: close\r\n";
  } else if (head_.minor_version == 0) {
    head += "Connection: keep-alive\r\n";
  }
  head += "\r\n";
  std::array<iovec, 2> parts = {{{head.data(), head.size()}, {const_cast<char*>(body.data()), body.size()}}};
  const bool without_body = head_.method == "HEAD";
  answer_started_ = true;
  if (co_await SendToClient(std::span(parts.data(), without_body ? 1 : 2), true) != Io::kDone) {
    aborted_ = true;
    client_->EndAfterThis();
  }
}

void Exchange::Record() {
  WorkerShard& metrics = worker_->metrics();
  const nanoseconds duration = loop().now() - started_;
  // Of a tunnel the histogram sees how long the change took; how long it stood is in the log.
  const nanoseconds answered_in = status_ == 101 ? upstream_duration_ : duration;
  metrics.Add(WorkerGauge::kBytesReceived, static_cast<int64_t>(bytes_in_));
  metrics.Add(WorkerGauge::kBytesSent, static_cast<int64_t>(bytes_out_));
  metrics.Record(service_metrics_, series_, MethodOf(head_.method), status_, reason_, answered_in);
  if (worker_->log() == nullptr) return;
  RequestRecord record;
  record.time = started_wall_;
  record.method = head_.method;
  record.path = LoggedTarget(head_.target, &worker_->field_scratch());
  record.client_ip = client_ip_;
  for (size_t i = 0; i < head_.fields.size(); ++i) {
    if (head_.kinds[i] == http1::FieldKind::kUserAgent) record.user_agent = head_.fields[i].value;
  }
  record.request_id = request_id_;
  if (const tls::Session* tls = client_->socket.tls(); tls != nullptr) {
    record.tls_version = tls->version();
    record.tls_server_name = tls->server_name();
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
  record.reason = reason_;
  record.detail = detail_;
  record.duration = duration;
  record.upstream_duration = upstream_duration_;
  record.bytes_in = bytes_in_;
  record.bytes_out = bytes_out_;
  record.revision = (*state_)->snapshot->revision();
  record.attempts = attempts_;
  record.aborted = aborted_;
  worker_->log()->Write(record);
  worker_->LogWritten();
}

}  // namespace gateway::dataplane
