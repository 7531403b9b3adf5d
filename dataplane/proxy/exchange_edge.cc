// What is decided before a service is asked, and answers that need none: who may come by address, preflights, bodies
// that are too long, redirects and fixed answers.
#include <string>
#include <string_view>

#include "common/base/text.h"
#include "dataplane/http/http1/head.h"
#include "dataplane/proxy/exchange.h"

namespace gateway::dataplane {

bool Exchange::MayAccess(const AccessPolicy& access) {
  const bool allowed = access.allow.empty() || access.allow.Contains(client_address_);
  if (allowed && !access.deny.Contains(client_address_)) return true;
  policy_ = Concat("IpAccess/", access.name);
  return false;
}

// A preflight says nothing of itself: where it goes is where the request that it asks for would go. Only where that has
// no Cors is it an OPTIONS request like any other.
bool Exchange::FindPreflightRoute() {
  const ServingState& state = **state_;
  state.snapshot->Match(MatchInputOf(preflight_->method, path_), &match_);
  if (match_.route == nullptr || match_.route->cors == nullptr) return false;
  route_ = &state.routes[match_.route->index];
  return true;
}

Task<void> Exchange::AnswerPreflight(const CorsPolicy& cors) {
  std::string fields;
  detail_ = AppendPreflightFields(cors, *preflight_, head_.field_views(), &fields);
  // The answer is the same 204; the log says what the browser only tells its console.
  if (detail_[0] != '\0') policy_ = Concat("Cors/", cors.name);
  co_await Reply(204, "", fields, "");
}

// By what is known of it: a chunked one may still become so.
bool Exchange::IsBodyTooLarge() const { return head_.length.value_or(body_bytes_) > match_.route->max_body_bytes; }

bool Exchange::RewriteByRegex() {
  rewritten_.clear();
  return Snapshot::Rewrite(match_, path_, &rewritten_);
}

TextValues Exchange::Values() const {
  return {.client_ip = client_ip_,
          .request_id = request_id_,
          .consumer = consumer_,
          .host = host_,
          .path = path_,
          .method = head_.method,
          .route = match_.route->name,
          .variables = {match_.variables.data(), match_.variables.size()}};
}

// What the client used, as far as somebody who is trusted says so.
bool Exchange::IsHttps() const {
  if (stream_.connection().peer_trusted) {
    for (size_t i = 0; i < head_.fields.size(); ++i) {
      if (head_.kinds[i] != http::FieldKind::kForwardedProto) continue;
      return http1::EqualsIgnoreCase(head_.fields[i].value, "https");
    }
  }
  return stream_.connection().tls != nullptr;
}

const FieldEditsPolicy* Exchange::AnswerEdits() const {
  const bool edited = match_.route != nullptr && reason_ == Reason::kNone && !preflight_;
  return edited ? match_.route->response_headers.get() : nullptr;
}

// Refusals have them too, so that scripts can read why.
void Exchange::AppendCorsFields(std::string* fields) const {
  if (match_.route == nullptr || match_.route->cors == nullptr || (preflight_ && reason_ == Reason::kNone)) return;
  Append(fields, "Vary: ", kCorsVary, "\r\n");
  GrantFor(*match_.route->cors, FindOrigin(head_.field_views())).AppendTo(fields);
}

// 3xx with a Location made of the request's own parts where policy names none.
Task<void> Exchange::Redirect(const RedirectPolicy& redirect) {
  std::string fields = "Location: ";
  if (!redirect.scheme.empty() || !redirect.host.empty()) {
    const std::string_view own_scheme = IsHttps() ? "https" : "http";
    const std::string_view scheme = redirect.scheme.empty() ? own_scheme : std::string_view(redirect.scheme);
    std::string_view host = redirect.host;
    if (host.empty()) {
      host = head_.authority;
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
    Snapshot::AppendPath(match_, redirect.rewrite, redirect.rewrite_is_prefix, path_, &fields);
  } else {
    fields += path_ == "*" ? "/" : path_;
  }
  // "//x" would name a host (RFC 3986, section 4.2).
  if (fields.compare(path_begin, 2, "//") == 0) fields.erase(path_begin, 1);
  if (head_.has_query && !redirect.strip_query) {
    Append(&fields, fields.find('?', path_begin) == std::string::npos ? "?" : "&", head_.query);
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
