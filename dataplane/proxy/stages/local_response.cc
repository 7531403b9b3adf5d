#include "dataplane/proxy/stages/local_response.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/text.h"
#include "dataplane/policy/cors.h"
#include "dataplane/policy/transform.h"

namespace gateway::dataplane {
namespace {

std::string Rfc3339(std::chrono::system_clock::time_point time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::FromChrono(time), absl::UTCTimeZone());
}

}  // namespace

std::optional<Refusal> CheckAccess(const AccessPolicy& access, const in6_addr& client) {
  const bool allowed = access.allow.empty() || access.allow.Contains(client);
  if (allowed && !access.deny.Contains(client)) return std::nullopt;
  return Refusal{.reason = Reason::kForbidden, .policy = {"IpAccess", access.name}};
}

std::optional<std::string> FindChallenge(const tls::AcmeChallenges* challenges, const http::Request& request,
                                         const http::ConnectionInfo& connection, const RequestFacts& facts,
                                         Target* target) {
  if (challenges == nullptr || !facts.path.starts_with(tls::kAcmePath)) return std::nullopt;  // nearly every request
  if (connection.tls != nullptr || request.method != "GET") return std::nullopt;
  std::optional<std::string> found = challenges->FindHttp(facts.host, facts.path);
  if (found.has_value()) target->service_metrics = MetricsRegistry::kBuiltinService;
  return found;
}

bool FindBuiltin(const ExchangeOptions& options, bool serves_metrics, std::string_view path, Target* target) {
  if (options.builtin_routes && path == "/health") {
    target->series = MetricsRegistry::kHealthSeries;
  } else if (options.builtin_routes && path == "/test-rate-limit") {
    target->series = MetricsRegistry::kTestRateLimitSeries;
  } else if (options.metrics_on_main_port && path == "/metrics" && serves_metrics) {
    target->series = MetricsRegistry::kMetricsSeries;
  } else {
    return false;
  }
  target->service_metrics = MetricsRegistry::kBuiltinService;
  return true;
}

std::string BuiltinBody(uint32_t series, std::chrono::system_clock::time_point time) {
  const std::string_view says = series == MetricsRegistry::kHealthSeries
                                    ? R"({"status": "healthy", "time": ")"
                                    : R"({"message": "Rate limit test successful", "time": ")";
  return Concat(says, Rfc3339(time), "\"}");
}

void AppendAllowedMethods(const RouteMatch& match, std::string* fields) {
  for (size_t i = 0; i < match.allowed_methods.size(); ++i) {
    Append(fields, i == 0 ? "Allow: " : ", ", match.allowed_methods[i]);
  }
  *fields += match.allowed_methods.empty() ? kServedMethodsField : "\r\n";
}

Refusal AppendPreflight(const CorsPolicy& cors, const Preflight& preflight, const http::Request& request,
                        std::string* fields) {
  Refusal denied{.detail = AppendPreflightFields(cors, preflight, request.field_views(), fields)};
  if (denied.detail[0] != '\0') denied.policy = {"Cors", cors.name};
  return denied;
}

void AppendCorsFields(const RequestContext& context, std::string* fields) {
  const Target& target = context.target;
  if (target.match.route == nullptr || target.match.route->cors == nullptr) return;
  if (target.preflight && context.result.refusal.reason == Reason::kNone) return;
  Append(fields, "Vary: ", kCorsVary, "\r\n");
  GrantFor(*target.match.route->cors, FindOrigin(context.header.field_views())).AppendTo(fields);
}

const FieldEditsPolicy* ResponseEditsOf(const RequestContext& context) {
  const Target& target = context.target;
  const bool edited =
      target.match.route != nullptr && context.result.refusal.reason == Reason::kNone && !target.preflight;
  return edited ? target.match.route->response_headers.get() : nullptr;
}

std::optional<Refusal> AppendRedirect(const RedirectPolicy& redirect, const RequestContext& context,
                                      std::string* fields) {
  const http::Request& request = context.header;
  const size_t begin = fields->size();
  *fields += "Location: ";
  if (!redirect.scheme.empty() || !redirect.host.empty()) {
    const std::string_view own_scheme = IsHttps(request, context.stream.connection()) ? "https" : "http";
    const std::string_view scheme = redirect.scheme.empty() ? own_scheme : std::string_view(redirect.scheme);
    std::string_view host = redirect.host;
    if (host.empty()) {
      host = request.authority;
      if (host.empty()) return Refusal{Reason::kBadRequest, "no Host to redirect to"};
      // A port belongs to one scheme: another scheme is served at its own default.
      const size_t colon = host.rfind(':');
      if (scheme != own_scheme && colon != std::string_view::npos && host.back() != ']') host = host.substr(0, colon);
    }
    Append(fields, scheme, "://", host);
  }
  const size_t path_begin = fields->size();
  std::string_view fragment;
  if (!redirect.path.empty()) {
    fragment = redirect.path;
    fragment.remove_prefix(std::min(fragment.find('#'), fragment.size()));
    fields->append(redirect.path, 0, redirect.path.size() - fragment.size());
  } else if (!redirect.rewrite.empty()) {
    Snapshot::AppendPath(context.target.match, redirect.rewrite, redirect.rewrite_is_prefix, context.facts.path,
                         fields);
  } else {
    *fields += context.facts.path == "*" ? "/" : context.facts.path;
  }
  // "//x" would name a host (RFC 3986, section 4.2).
  if (fields->compare(path_begin, 2, "//") == 0) fields->erase(path_begin, 1);
  if (request.has_query && !redirect.strip_query) {
    Append(fields, fields->find('?', path_begin) == std::string::npos ? "?" : "&", request.query);
  }
  Append(fields, fragment, "\r\n");
  const FieldEditsPolicy* const edits = ResponseEditsOf(context);
  if (edits != nullptr && Replaces(*edits, "Location")) fields->resize(begin);
  return std::nullopt;
}

void AppendFixedResponse(const RespondPolicy& respond, const RequestContext& context, std::string* fields,
                         std::string* body) {
  const TextValues values = ValuesOf(context);
  const FieldEditsPolicy* const edits = ResponseEditsOf(context);
  for (const FieldEdit& header : respond.headers) {
    if (edits != nullptr && Replaces(*edits, header.name)) continue;
    Append(fields, header.name, ": ");
    AppendText(header.value, values, fields);
    *fields += "\r\n";
  }
  AppendText(respond.body, values, body);
}

std::string RefusalBody(const RequestContext& context, bool details) {
  const Refusal& refusal = context.result.refusal;
  const ReasonInfo& info = InfoOf(refusal.reason);
  std::string body = Concat(R"({"error": ")", info.message, R"(", "code": )", info.status, R"(, "reason": ")",
                            info.word, R"(", "request_id": ")", context.facts.request_id, "\"");
  if (details) {
    if (!refusal.policy.empty()) Append(&body, R"(, "policy": ")", refusal.policy.kind, "/", refusal.policy.name, "\"");
    if (context.target.match.route != nullptr) Append(&body, R"(, "route": ")", context.target.match.route->name, "\"");
    if (refusal.detail[0] != '\0') Append(&body, R"(, "detail": ")", refusal.detail, "\"");
    Append(&body, R"(, "revision": )", context.state->snapshot->revision());
  }
  body += "}";
  return body;
}

}  // namespace gateway::dataplane
