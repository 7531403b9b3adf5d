#include "dataplane/proxy/stages/respond.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/text.h"

namespace gateway::dataplane {
namespace {

std::string Rfc3339(std::chrono::system_clock::time_point time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::FromChrono(time), absl::UTCTimeZone());
}

}  // namespace

bool FindBuiltin(const ServerOptions& options, bool has_metrics_page, std::string_view path, Target* target) {
  if (options.builtin_routes && path == "/health") {
    target->series = MetricsRegistry::kHealthSeries;
  } else if (options.builtin_routes && path == "/test-rate-limit") {
    target->series = MetricsRegistry::kTestRateLimitSeries;
  } else if (options.metrics_on_main_port && has_metrics_page && path == "/metrics") {
    target->series = MetricsRegistry::kMetricsSeries;
  } else {
    return false;
  }
  target->service_metrics = MetricsRegistry::kBuiltinService;
  return true;
}

LocalResponse HealthResponse(std::chrono::system_clock::time_point now) {
  return {.body = Concat(R"({"status": "healthy", "time": ")", Rfc3339(now), "\"}")};
}

LocalResponse TestRateLimitResponse(std::chrono::system_clock::time_point now) {
  return {.body = Concat(R"({"message": "Rate limit test successful", "time": ")", Rfc3339(now), "\"}")};
}

LocalResponse ServedMethodsResponse() {
  return {.lines = "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n", .content_type = {}};
}

LocalResponse PreflightResponse(const CorsPolicy& cors, const RequestContext& request, const char** detail) {
  LocalResponse response{.status = 204, .content_type = {}};
  *detail = AppendPreflightFields(cors, *request.preflight, request.head.field_views(), &response.lines);
  return response;
}

TextValues ValuesOf(const RequestContext& request, const Target& target, const Caller& caller) {
  return {.client_ip = request.client_ip,
          .request_id = request.id,
          .consumer = caller.name,
          .host = request.host,
          .path = request.path,
          .method = request.head.method,
          .route = target.match.route->name,
          .variables = {target.match.variables.data(), target.match.variables.size()}};
}

Refusal MakeRedirect(const RedirectPolicy& redirect, std::string_view own_scheme, const RequestContext& request,
                     const RouteMatch& match, const FieldEditsPolicy* edits, LocalResponse* response) {
  std::string line = "Location: ";
  if (!redirect.scheme.empty() || !redirect.host.empty()) {
    const std::string_view scheme = redirect.scheme.empty() ? own_scheme : std::string_view(redirect.scheme);
    std::string_view host = redirect.host;
    if (host.empty()) {
      host = request.head.authority;
      if (host.empty()) return {Reason::kBadRequest, "no Host to redirect to"};
      // A port belongs to one scheme: another scheme is served at its own default.
      const size_t colon = host.rfind(':');
      if (scheme != own_scheme && colon != std::string_view::npos && host.back() != ']') host = host.substr(0, colon);
    }
    Append(&line, scheme, "://", host);
  }
  const size_t path_begin = line.size();
  std::string_view fragment;
  if (!redirect.path.empty()) {
    fragment = redirect.path;
    fragment.remove_prefix(std::min(fragment.find('#'), fragment.size()));
    line.append(redirect.path, 0, redirect.path.size() - fragment.size());
  } else if (!redirect.rewrite.empty()) {
    Snapshot::AppendPath(match, redirect.rewrite, redirect.rewrite_is_prefix, request.path, &line);
  } else {
    line += request.path == "*" ? "/" : request.path;
  }
  // "//x" would name a host (RFC 3986, section 4.2).
  if (line.compare(path_begin, 2, "//") == 0) line.erase(path_begin, 1);
  if (request.head.has_query && !redirect.strip_query) {
    Append(&line, line.find('?', path_begin) == std::string::npos ? "?" : "&", request.head.query);
  }
  Append(&line, fragment, "\r\n");
  if (edits != nullptr && Replaces(*edits, "Location")) line.clear();
  *response = {.status = redirect.status, .lines = std::move(line), .content_type = {}};
  return {};
}

LocalResponse FixedResponse(const RespondPolicy& respond, const TextValues& values, const FieldEditsPolicy* edits) {
  LocalResponse response{.status = respond.status};
  for (const FieldEdit& header : respond.headers) {
    if (edits != nullptr && Replaces(*edits, header.name)) continue;
    Append(&response.lines, header.name, ": ");
    AppendText(header.value, values, &response.lines);
    response.lines += "\r\n";
  }
  AppendText(respond.body, values, &response.body);
  response.content_type = response.body.empty() ? std::string_view() : std::string_view(respond.content_type);
  return response;
}

}  // namespace gateway::dataplane
