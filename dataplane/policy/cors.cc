#include "dataplane/policy/cors.h"

#include <algorithm>

#include "common/base/text.h"
#include "dataplane/http/http1/head.h"

namespace gateway::dataplane {
namespace {

using http1::EqualsIgnoreCase;

// The next member of a list, without space around it; `list` is what is behind its comma.
std::string_view TakeMember(std::string_view* list) {
  const size_t comma = std::min(list->find(','), list->size());
  std::string_view member = list->substr(0, comma);
  list->remove_prefix(std::min(comma + 1, list->size()));
  while (!member.empty() && (member.front() == ' ' || member.front() == '\t')) member.remove_prefix(1);
  while (!member.empty() && (member.back() == ' ' || member.back() == '\t')) member.remove_suffix(1);
  return member;
}

// What stands for "*." of a wildcard: labels, none of them empty. Whatever else an Origin can hold (a port, a path,
// user information) would let a foreign host end like one of ours.
bool AreLabels(std::string_view text) {
  if (text.empty() || text.front() == '.' || text.back() == '.') return false;
  if (text.find("..") != std::string_view::npos) return false;
  return std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
  });
}

}  // namespace

std::optional<std::string_view> FindOrigin(std::span<const FieldView> fields) {
  std::optional<std::string_view> origin;
  for (const FieldView& field : fields) {
    if (!EqualsIgnoreCase(field.name, "origin")) continue;
    if (origin) return std::nullopt;
    origin = field.value;
  }
  return origin;
}

bool AllowsOrigin(const CorsPolicy& cors, std::string_view origin) {
  if (cors.any_origin) return true;
  if (std::binary_search(cors.origins.begin(), cors.origins.end(), origin)) return true;
  return std::any_of(cors.wildcards.begin(), cors.wildcards.end(), [origin](const auto& wildcard) {
    const auto& [scheme, suffix] = wildcard;
    return origin.size() > scheme.size() + suffix.size() && origin.starts_with(scheme) && origin.ends_with(suffix) &&
           AreLabels(origin.substr(scheme.size(), origin.size() - scheme.size() - suffix.size()));
  });
}

char* CorsGrant::Write(char* at) const {
  const auto put = [&at](std::string_view text) { at = std::copy(text.begin(), text.end(), at); };
  if (allow_origin.empty()) return at;
  put("Access-Control-Allow-Origin: ");
  put(allow_origin);
  if (credentials) put("\r\nAccess-Control-Allow-Credentials: true");
  if (!expose_headers.empty()) {
    put("\r\nAccess-Control-Expose-Headers: ");
    put(expose_headers);
  }
  put("\r\n");
  return at;
}

void CorsGrant::AppendTo(std::string* fields) const {
  const size_t size = fields->size();
  fields->resize(size + bytes());
  fields->resize(static_cast<size_t>(Write(fields->data() + size) - fields->data()));
}

CorsGrant GrantFor(const CorsPolicy& cors, std::optional<std::string_view> origin) {
  CorsGrant grant;
  if (cors.any_origin) {
    // The same for everybody, so that what a cache got for one is right for all.
    grant.allow_origin = "*";
  } else if (origin && AllowsOrigin(cors, *origin)) {
    grant.allow_origin = *origin;
    grant.credentials = cors.credentials;
  } else {
    return grant;
  }
  grant.expose_headers = cors.expose_headers;
  return grant;
}

std::optional<Preflight> ReadPreflight(std::string_view method, std::span<const FieldView> fields) {
  if (method != "OPTIONS") return std::nullopt;
  const std::optional<std::string_view> origin = FindOrigin(fields);
  if (!origin) return std::nullopt;
  const auto found = std::find_if(fields.begin(), fields.end(), [](const FieldView& field) {
    return EqualsIgnoreCase(field.name, "access-control-request-method");
  });
  if (found == fields.end() || !IsToken(found->value)) return std::nullopt;
  return Preflight{*origin, found->value};
}

const char* AppendPreflightFields(const CorsPolicy& cors, const Preflight& preflight,
                                  std::span<const FieldView> request_fields, std::string* fields) {
  Append(fields, "Vary: ", kPreflightVary, "\r\n");
  CorsGrant grant = GrantFor(cors, preflight.origin);
  if (grant.allow_origin.empty()) return "the origin is not listed";
  grant.expose_headers = {};  // of actual responses only
  grant.AppendTo(fields);

  const char* refused = "";
  // "*" stands for itself with credentials, so what was asked for is named instead.
  *fields += "Access-Control-Allow-Methods: ";
  if (cors.any_method) {
    *fields += preflight.method;
  } else {
    for (size_t i = 0; i < cors.methods.size(); ++i) Append(fields, i == 0 ? "" : ", ", cors.methods[i]);
    // The standard lets these three pass unasked.
    const bool safelisted = preflight.method == "GET" || preflight.method == "HEAD" || preflight.method == "POST";
    if (!safelisted && std::find(cors.methods.begin(), cors.methods.end(), preflight.method) == cors.methods.end()) {
      refused = "the method is not listed";
    }
  }
  *fields += "\r\n";

  std::string allowed;
  for (const FieldView& field : request_fields) {
    if (!EqualsIgnoreCase(field.name, "access-control-request-headers")) continue;
    for (std::string_view list = field.value; !list.empty();) {
      const std::string_view name = TakeMember(&list);
      if (name.empty()) continue;
      const bool listed = cors.any_header
                              ? IsToken(name)
                              : std::any_of(cors.headers.begin(), cors.headers.end(),
                                            [name](std::string_view h) { return EqualsIgnoreCase(h, name); });
      if (!listed) {
        refused = "a header is not listed";
      } else if (cors.any_header) {
        Append(&allowed, allowed.empty() ? "" : ", ", name);
      }
    }
  }
  if (!cors.any_header) {
    for (const std::string& header : cors.headers) Append(&allowed, allowed.empty() ? "" : ", ", header);
  }
  if (!allowed.empty()) Append(fields, "Access-Control-Allow-Headers: ", allowed, "\r\n");
  Append(fields, "Access-Control-Max-Age: ", cors.max_age.count(), "\r\n");
  return refused;
}

bool IsCorsField(std::string_view name) {
  constexpr std::string_view kPrefix = "access-control-";
  return name.size() > kPrefix.size() && EqualsIgnoreCase(name.substr(0, kPrefix.size()), kPrefix);
}

bool VariesByOrigin(std::string_view vary) {
  while (!vary.empty()) {
    const std::string_view member = TakeMember(&vary);
    if (member == "*" || EqualsIgnoreCase(member, "origin")) return true;
  }
  return false;
}

}  // namespace gateway::dataplane
