// What is decided before a service is asked, and answers that need none: who may come by address, preflights, bodies
// that are too long, redirects and fixed answers.
#include <string>
#include <string_view>

#include "common/base/text.h"
#include "dataplane/http/http1/head.h"
#include "dataplane/proxy/exchange.h"

namespace gateway::dataplane {

bool Exchange::MayAccess(const AccessPolicy& access) {
  const bool allowed = access.allow.empty() || access.allow.Contains(request_.client_address);
  if (allowed && !access.deny.Contains(request_.client_address)) return true;
  outcome_.policy = Concat("IpAccess/", access.name);
  return false;
}

// A preflight says nothing of itself: where it goes is where the request that it asks for would go. Only where that has
// no Cors is it an OPTIONS request like any other.
bool Exchange::FindPreflightRoute() {
  const ServingState& state = **state_;
  state.snapshot->Match({request_.preflight->method, request_.host, request_.path, request_.head.query, request_.head.field_views()}, &target_.match);
  if (target_.match.route == nullptr || target_.match.route->cors == nullptr) return false;
  target_.route = &state.routes[target_.match.route->index];
  return true;
}

Task<void> Exchange::AnswerPreflight(const CorsPolicy& cors) {
  std::string fields;
  outcome_.detail = AppendPreflightFields(cors, *request_.preflight, request_.head.field_views(), &fields);
  // The answer is the same 204; the log says what the browser only tells its console.
  if (outcome_.detail[0] != '\0') outcome_.policy = Concat("Cors/", cors.name);
  co_await Reply(204, "", fields, "");
}

// By what is known of it: a chunked one may still become so.
bool Exchange::IsBodyTooLarge() const { return request_.head.length.value_or(body_.bytes) > target_.match.route->max_body_bytes; }

bool Exchange::RewriteByRegex() {
  request_.rewritten.clear();
  return Snapshot::Rewrite(target_.match, request_.path, &request_.rewritten);
}

TextValues Exchange::Values() const {
  return {.client_ip = request_.client_ip,
          .request_id = request_.id,
          .consumer = caller_.name,
          .host = request_.host,
          .path = request_.path,
          .method = request_.head.method,
          .route = target_.match.route->name,
          .variables = {target_.match.variables.data(), target_.match.variables.size()}};
}

// What the client used, as far as somebody who is trusted says so.
std::string_view Exchange::RequestScheme() const {
  if (stream_.connection().peer_trusted) {
    for (size_t i = 0; i < request_.head.fields.size(); ++i) {
      if (request_.head.kinds[i] != http::FieldKind::kForwardedProto) continue;
      return http1::EqualsIgnoreCase(request_.head.fields[i].value, "https") ? "https" : "http";
    }
  }
  return stream_.connection().scheme();
}

const FieldEditsPolicy* Exchange::AnswerEdits() const {
  const bool edited = target_.match.route != nullptr && outcome_.reason == Reason::kNone && !request_.preflight;
  return edited ? target_.match.route->response_headers.get() : nullptr;
}

// Refusals have them too, so that scripts can read why.
void Exchange::AppendCorsFields(std::string* fields) const {
  if (target_.match.route == nullptr || target_.match.route->cors == nullptr || (request_.preflight && outcome_.reason == Reason::kNone)) return;
  Append(fields, "Vary: ", kCorsVary, "\r\n");
  GrantFor(*target_.match.route->cors, FindOrigin(request_.head.field_views())).AppendTo(fields);
}

// 3xx with a Location made of the request's own parts where policy names none.
Task<void> Exchange::Redirect(const RedirectPolicy& redirect) {
  std::string fields = "Location: ";
  if (!redirect.scheme.empty() || !redirect.host.empty()) {
    const std::string_view own_scheme = RequestScheme();
    const std::string_view scheme = redirect.scheme.empty() ? own_scheme : std::string_view(redirect.scheme);
    std::string_view host = redirect.host;
    if (host.empty()) {
      host = request_.head.authority;
      if (host.empty()) co_return co_await Refuse(Reason::kBadRequest, "no Host to redirect to");
      // A port is one scheme's: another scheme is served at its own default.
      const size_t colon = host.rfind(':');
      if (scheme != own_scheme && colon != std::string_view::npos && host.back() != ']') host = host.substr(0, colon);
    }
    Append(&fields, scheme, "://", host);
  }
  const size_t path_begin = fields.size();
  std::string_view fragment;
  if (!redirect.path.empty()) {
    fragment = redirect.path;
    fragment.remove_prefix(std::min(fragment.find('#'), fragment.size()));
    fields.append(redirect.path, 0, redirect.path.size() - fragment.size());
  } else if (!redirect.rewrite.empty()) {
    Snapshot::AppendPath(target_.match, redirect.rewrite, redirect.rewrite_is_prefix, request_.path, &fields);
  } else {
    fields += request_.path == "*" ? "/" : request_.path;
  }
  // "//x" would name a host (RFC 3986, section 4.2).
  if (fields.compare(path_begin, 2, "//") == 0) fields.erase(path_begin, 1);
  if (request_.head.has_query && !redirect.strip_query) {
    Append(&fields, fields.find('?', path_begin) == std::string::npos ? "?" : "&", request_.head.query);
  }
  Append(&fields, fragment, "\r\n");
  const FieldEditsPolicy* const edits = AnswerEdits();
  if (edits != nullptr && Replaces(*edits, "Location")) fields.clear();
  co_await Reply(redirect.status, "", fields, "");
}

Task<void> Exchange::Respond(const RespondPolicy& respond) {
  const TextValues values = Values();
  const FieldEditsPolicy* const edits = AnswerEdits();
  std::string fields;
  for (const FieldEdit& header : respond.headers) {
    if (edits != nullptr && Replaces(*edits, header.name)) continue;
    Append(&fields, header.name, ": ");
    AppendText(header.value, values, &fields);
    fields += "\r\n";
  }
  std::string body;
  AppendText(respond.body, values, &body);
  co_await Reply(respond.status, body, fields, body.empty() ? std::string_view() : respond.content_type);
}

}  // namespace gateway::dataplane
