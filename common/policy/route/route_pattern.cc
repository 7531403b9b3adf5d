#include "common/policy/route/route_pattern.h"

#include <arpa/inet.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "common/base/quote.h"
#include "common/base/text.h"
#include "common/policy/route/path.h"
#include "common/policy/snapshot.h"
#include "re2/re2.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {
namespace {

bool HasControl(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](char c) { return absl::ascii_iscntrl(static_cast<unsigned char>(c)); });
}

std::string Lower(std::string_view text) { return absl::AsciiStrToLower(std::string(text)); }

bool IsSpace(char c) { return c == ' ' || c == '\t'; }

bool IsVariableName(std::string_view name) {
  return !name.empty() && name.size() <= 64 && !absl::ascii_isdigit(static_cast<unsigned char>(name[0])) &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_'; });
}

absl::Status CheckPathSize(std::string_view path) {
  if (path.size() > kPathPatternBytesMax) {
    return absl::InvalidArgumentError(fmt::format("is longer than {} bytes", kPathPatternBytesMax));
  }
  if (static_cast<size_t>(std::count(path.begin(), path.end(), '/')) > kPathPatternSegmentsMax) {
    return absl::InvalidArgumentError(fmt::format("has more than {} segments", kPathPatternSegmentsMax));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<std::string> MethodsWithHead(const google::protobuf::RepeatedPtrField<std::string>& methods) {
  std::vector<std::string> all(methods.begin(), methods.end());
  const auto listed = [&](std::string_view method) { return std::find(all.begin(), all.end(), method) != all.end(); };
  if (listed("GET") && !listed("HEAD")) all.emplace_back("HEAD");
  return all;
}

std::vector<std::string_view> SplitSegments(std::string_view path) {
  std::vector<std::string_view> segments;
  for (size_t slash = 0; slash < path.size();) {
    const size_t next = std::min(path.find('/', slash + 1), path.size());
    segments.push_back(path.substr(slash + 1, next - slash - 1));
    slash = next;
  }
  return segments;
}

std::unique_ptr<const RE2> CompileRegex(const std::string& pattern) {
  RE2::Options options(RE2::Latin1);  // bytes: a header's value has no known encoding
  options.set_log_errors(false);
  options.set_max_mem(kRegexMemoryBytesMax);
  return std::make_unique<const RE2>(pattern, options);
}

absl::Status CheckPathPattern(std::string_view path) {
  if (path.empty() || path.front() != '/') {
    return absl::InvalidArgumentError(fmt::format("{} does not start with '/'", QuoteForMessage(path)));
  }
  if (absl::Status status = CheckPathSize(path); !status.ok()) return status;
  std::string normal;
  switch (NormalizePath(path, /*reject_encoded_slashes=*/false, &normal)) {
    case PathError::kNone:
      break;
    case PathError::kForbiddenByte: {
      const size_t at = path.find_first_of("{}?");
      if (at != std::string_view::npos && path[at] == '?') {
        return absl::InvalidArgumentError("a path has no '?'; conditions on the query go under `query`");
      }
      if (at != std::string_view::npos) {
        return absl::InvalidArgumentError("'{' and '}' are for a `template`; literally they are %7B and %7D");
      }
      return absl::InvalidArgumentError(
          fmt::format("{} has a character that a path has only percent-encoded", QuoteForMessage(path)));
    }
    case PathError::kBadEscape:
      return absl::InvalidArgumentError(
          fmt::format("{} has a '%' without two hex digits; literally it is %25", QuoteForMessage(path)));
    case PathError::kNotAbsolute:
    case PathError::kEncodedNul:
    case PathError::kAboveRoot:
    case PathError::kEncodedDotSegment:
    case PathError::kEncodedSlash:
      return absl::InvalidArgumentError(
          fmt::format("{} can never match: requests with such a path are rejected with 400", QuoteForMessage(path)));
  }
  if (normal != path) {
    return absl::InvalidArgumentError(fmt::format("{} can never match: routes see normalised paths; write {}",
                                                  QuoteForMessage(path), QuoteForMessage(normal)));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TemplateSegment>> ParseTemplate(std::string_view text) {
  if (text.empty() || text.front() != '/') {
    return absl::InvalidArgumentError(fmt::format("{} does not start with '/'", QuoteForMessage(text)));
  }
  if (absl::Status status = CheckPathSize(text); !status.ok()) return status;
  std::vector<TemplateSegment> segments;
  std::string literal_path;  // with variables as "x": what must be in normal form
  size_t variables = 0;
  const std::vector<std::string_view> parts = SplitSegments(text);
  for (size_t i = 0; i < parts.size(); ++i) {
    const std::string_view part = parts[i];
    literal_path += '/';
    if (part == "**") {
      if (i + 1 != parts.size()) return absl::InvalidArgumentError("** may only be the last segment");
      segments.push_back({TemplateSegment::Kind::kRest, ""});
      literal_path += 'x';
      ++variables;
      continue;
    }
    if (part == "*") return absl::InvalidArgumentError("'*' is not a template segment; write {name} for one segment");
    if (part.find_first_of("{}") == std::string_view::npos) {
      segments.push_back({TemplateSegment::Kind::kLiteral, std::string(part)});
      literal_path += part;
      continue;
    }
    const std::string_view name = part.substr(1, part.size() < 2 ? 0 : part.size() - 2);
    if (!part.starts_with('{') || !part.ends_with('}') || name.find_first_of("{}") != std::string_view::npos) {
      return absl::InvalidArgumentError(
          fmt::format("{}: a variable is a whole segment, {{name}}", QuoteForMessage(part)));
    }
    if (!IsVariableName(name)) {
      return absl::InvalidArgumentError(fmt::format(
          "{}: a variable's name is letters, digits and '_', no digit first, at most 64", QuoteForMessage(part)));
    }
    for (const TemplateSegment& other : segments) {
      if (other.kind == TemplateSegment::Kind::kVariable && other.text == name) {
        return absl::InvalidArgumentError(fmt::format("variable {} comes twice", QuoteForMessage(name)));
      }
    }
    segments.push_back({TemplateSegment::Kind::kVariable, std::string(name)});
    literal_path += 'x';
    ++variables;
  }
  if (variables > kTemplateVariablesMax) {
    return absl::InvalidArgumentError(
        fmt::format("has {} variables (** counts); at most {}", variables, kTemplateVariablesMax));
  }
  if (absl::Status status = CheckPathPattern(literal_path); !status.ok()) {
    return absl::InvalidArgumentError(
        variables == 0 ? std::string(status.message())
                       : fmt::format("with every variable as 'x', {}", std::string(status.message())));
  }
  return segments;
}

absl::Status CheckHost(std::string_view host) {
  if (host.empty()) return absl::InvalidArgumentError("is empty; expected a host name like api.example.org");
  const std::string lower = Lower(host);
  if (lower != host)
    return absl::InvalidArgumentError(
        fmt::format("{} is not lower case; write {}", QuoteForMessage(host), QuoteForMessage(lower)));
  if (host.front() == '[' && host.back() == ']') {
    const std::string inner(host.substr(1, host.size() - 2));
    in6_addr address;
    char text[INET6_ADDRSTRLEN];
    if (inet_pton(AF_INET6, inner.c_str(), &address) != 1 ||
        inet_ntop(AF_INET6, &address, text, sizeof text) == nullptr) {
      return absl::InvalidArgumentError(fmt::format("{} is not an IPv6 address", QuoteForMessage(host)));
    }
    if (inner != text) {
      return absl::InvalidArgumentError(
          fmt::format("{} has a shorter form; write '[{}]'", QuoteForMessage(host), text));
    }
    return absl::OkStatus();
  }
  if (host.find(':') != std::string_view::npos) {
    return absl::InvalidArgumentError(
        fmt::format("{} is not a host name; it has no port, and IPv6 addresses need brackets", QuoteForMessage(host)));
  }
  if (host.back() == '.')
    return absl::InvalidArgumentError(fmt::format("{} ends in a dot; leave it out", QuoteForMessage(host)));
  bool valid = host.size() <= kHostBytesMax;
  for (size_t begin = 0; begin <= host.size();) {
    const size_t end = std::min(host.find('.', begin), host.size());
    const std::string_view label = host.substr(begin, end - begin);
    begin = end + 1;
    valid = valid && !label.empty() && label.size() <= 63 && label.front() != '-' && label.back() != '-' &&
            std::all_of(label.begin(), label.end(), [](char c) {
              return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_';
            });
  }
  if (!valid) {
    return absl::InvalidArgumentError(fmt::format(
        "{} is not a host name; expected labels of letters, digits, '-' and '_' with dots between them, as in "
        "api.example.org",
        QuoteForMessage(host)));
  }
  return absl::OkStatus();
}

namespace {

absl::Status CheckHostPattern(std::string_view pattern) {
  if (pattern == "*") return absl::InvalidArgumentError("leave `hosts` out for any host");
  const bool wildcard = pattern.starts_with("*.");
  const std::string_view host = pattern.substr(wildcard ? 2 : 0);
  if (host.find('*') != std::string_view::npos) {
    return absl::InvalidArgumentError(
        fmt::format("{}: a star is the whole first label, as in *.example.org", QuoteForMessage(pattern)));
  }
  if (wildcard && !host.empty() && host.front() == '[') {
    return absl::InvalidArgumentError(
        fmt::format("{}: an address has no wildcard; write it whole", QuoteForMessage(pattern)));
  }
  return CheckHost(host);
}

absl::Status CheckMethod(std::string_view method) {
  if (!IsToken(method) || method.size() > 32) {
    return absl::InvalidArgumentError(
        fmt::format("{} is not a method; expected a name like GET", QuoteForMessage(method)));
  }
  const std::string upper = absl::AsciiStrToUpper(std::string(method));
  if (upper != method) {
    return absl::InvalidArgumentError(fmt::format("methods have a case; {} can never match; write {}",
                                                  QuoteForMessage(method), QuoteForMessage(upper)));
  }
  if (method == "CONNECT" || method == "TRACE") {
    return absl::InvalidArgumentError(fmt::format("{} is never served", QuoteForMessage(method)));
  }
  return absl::OkStatus();
}

absl::Status CheckRegex(const std::string& pattern) {
  if (pattern.empty()) return absl::InvalidArgumentError("is empty");
  if (pattern.size() > kRegexBytesMax) {
    return absl::InvalidArgumentError(fmt::format("is longer than {} bytes", kRegexBytesMax));
  }
  const std::unique_ptr<const RE2> regex = CompileRegex(pattern);
  if (!regex->ok())
    return absl::InvalidArgumentError(
        fmt::format("{} is not an RE2 regex: {}", QuoteForMessage(pattern), regex->error()));
  return absl::OkStatus();
}

// Each of `texts` by itself, and that none comes twice.
void CheckEach(const google::protobuf::RepeatedPtrField<std::string>& texts, std::string_view field,
               absl::FunctionRef<absl::Status(std::string_view)> check, ReportField report) {
  for (auto text = texts.begin(); text != texts.end(); ++text) {
    const std::string place = fmt::format("{}[{}]", field, text - texts.begin());
    if (absl::Status status = check(*text); !status.ok()) {
      report(place, std::string(status.message()));
    } else if (std::find(texts.begin(), text, *text) != text) {
      report(place, fmt::format("{} comes twice", QuoteForMessage(*text)));
    }
  }
}

// HeaderMatch and QueryMatch have the same fields.
template <typename Match>
void CheckStringMatch(const Match& match, const std::string& field, ReportField report) {
  const std::string too_long = fmt::format("is longer than {} bytes", kConditionBytesMax);
  switch (match.match_case()) {
    case Match::kExact:
      if (match.exact().size() > kConditionBytesMax) report(field + ".exact", too_long);
      break;
    case Match::kPrefix:
      if (match.prefix().empty()) report(field + ".prefix", "is empty; `present: true` takes any value");
      if (match.prefix().size() > kConditionBytesMax) report(field + ".prefix", too_long);
      break;
    case Match::kRegex:
      if (absl::Status status = CheckRegex(match.regex()); !status.ok()) {
        report(field + ".regex", std::string(status.message()));
      }
      break;
    case Match::kPresent:
      break;
    case Match::MATCH_NOT_SET:
      report(field, "needs one of exact, prefix, regex and present");
      break;
  }
}

}  // namespace

v1::RouteMatch WithoutGrpc(const v1::RouteMatch& match, bool any_type) {
  v1::RouteMatch plain = match;
  if (!match.has_grpc()) return plain;
  const v1::GrpcMatch& grpc = match.grpc();
  if (grpc.method().empty()) {
    plain.mutable_path()->set_prefix(fmt::format("/{}", grpc.service()));
  } else {
    plain.mutable_path()->set_exact(fmt::format("/{}/{}", grpc.service(), grpc.method()));
  }
  plain.clear_methods();
  plain.add_methods("POST");
  if (!any_type) {
    v1::HeaderMatch* const type = plain.add_headers();
    type->set_name("content-type");
    type->set_prefix("application/grpc");
  }
  plain.clear_grpc();
  return plain;
}

void CheckRouteMatch(const v1::RouteMatch& match, ReportField report) {
  if (match.has_grpc()) {
    const auto is_name = [](const std::string& text, bool dots) {
      return text.size() <= 512 && std::all_of(text.begin(), text.end(), [dots](char c) {
               return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || (dots && c == '.');
             });
    };
    if (match.has_path()) report("grpc", "is a path by itself; expected one of grpc and path");
    if (match.methods_size() > 0) report("methods", "has no place beside grpc: calls are POST");
    if (!is_name(match.grpc().service(), true)) {
      report("grpc.service", fmt::format("{} is not the name of a gRPC service; expected one like shop.v1.Orders",
                                         QuoteForMessage(match.grpc().service())));
    }
    if (!is_name(match.grpc().method(), false)) {
      report("grpc.method", fmt::format("{} is not the name of a gRPC method; expected one like Get",
                                        QuoteForMessage(match.grpc().method())));
    }
  }
  CheckEach(match.hosts(), "hosts", CheckHostPattern, report);
  if (match.has_path()) {
    absl::Status status;
    std::string field;
    switch (match.path().match_case()) {
      case v1::PathMatch::kExact:
        field = "path.exact";
        status = CheckPathPattern(match.path().exact());
        break;
      case v1::PathMatch::kPrefix:
        field = "path.prefix";
        status = CheckPathPattern(match.path().prefix());
        break;
      case v1::PathMatch::kTemplate:
        field = "path.template";
        status = ParseTemplate(match.path().template_()).status();
        break;
      case v1::PathMatch::kRegex:
        field = "path.regex";
        status = CheckRegex(match.path().regex());
        break;
      case v1::PathMatch::MATCH_NOT_SET:
        field = "path";
        status = absl::InvalidArgumentError("needs one of exact, prefix, template and regex");
        break;
    }
    if (!status.ok()) report(field, std::string(status.message()));
  }
  CheckEach(match.methods(), "methods", CheckMethod, report);
  if (!v1::RouteMatch::Scheme_IsValid(match.scheme())) {
    report("scheme", fmt::format("is {}, which this version does not know", static_cast<int>(match.scheme())));
  }
  for (int i = 0; i < match.headers_size(); ++i) {
    const v1::HeaderMatch& header = match.headers(i);
    const std::string field = fmt::format("headers[{}]", i);
    if (!header.name().empty() && (!IsToken(header.name()) || header.name().size() > 256)) {
      report(field + ".name",
             fmt::format("{} is not a header name; expected a name like X-Tenant", QuoteForMessage(header.name())));
    }
    if (header.has_exact() &&
        (HasControl(header.exact()) ||
         (!header.exact().empty() && (IsSpace(header.exact().front()) || IsSpace(header.exact().back()))))) {
      report(field + ".exact", "can never match: no field's value has control bytes, or spaces at its ends");
    }
    if (header.has_prefix() &&
        (HasControl(header.prefix()) || (!header.prefix().empty() && IsSpace(header.prefix().front())))) {
      report(field + ".prefix", "can never match: no field's value has control bytes, or a space at its beginning");
    }
    CheckStringMatch(header, field, report);
  }
  for (int i = 0; i < match.query_size(); ++i) {
    const std::string field = fmt::format("query[{}]", i);
    if (match.query(i).name().size() > 256) report(field + ".name", "is longer than 256 bytes");
    CheckStringMatch(match.query(i), field, report);
  }
}

size_t CountRegexes(const v1::RouteMatch& match) {
  auto has_regex = [](const auto& m) { return m.has_regex(); };
  return static_cast<size_t>(match.path().has_regex()) +
         static_cast<size_t>(std::count_if(match.headers().begin(), match.headers().end(), has_regex)) +
         static_cast<size_t>(std::count_if(match.query().begin(), match.query().end(), has_regex));
}

}  // namespace gateway
