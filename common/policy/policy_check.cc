#include "common/policy/policy_check.h"

#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <set>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "common/base/certificate.h"
#include "common/base/jwk.h"
#include "common/base/password.h"
#include "common/base/text.h"
#include "common/base/units.h"
#include "common/config/bootstrap.h"
#include "common/config/codec.h"
#include "common/config/yaml.h"
#include "common/policy/policy_texts.h"
#include "common/policy/route/path.h"
#include "common/policy/route/route_pattern.h"
#include "re2/re2.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {

void Report::Add(std::string_view field, std::string_view message) const {
  v1::PolicyError& error = errors_->emplace_back();
  error.set_kind(key_.kind);
  error.set_name(key_.name);
  error.set_field(std::string(field));
  error.set_message(std::string(message));
}

void Report::AddIfBad(std::string_view field, const absl::Status& status) const {
  if (!status.ok()) Add(field, std::string(status.message()));
}

std::string At(std::string_view list, int index, std::string_view field) {
  return fmt::format("{}[{}]{}", list, index, field);
}

namespace {

constexpr int kStaticEndpointsMax = 10'000;  // of one service
constexpr int kTagsMax = 64;
constexpr int kLabelsMax = 64;
constexpr size_t kLabelBytesMax = 256;  // a key or a value
constexpr size_t kDescriptionBytesMax = 4096;
constexpr size_t kConsulNameBytesMax = 256;

// A name of Consul's, a tag or a pattern of names: Consul itself takes nearly everything.
void CheckConsulText(const Report& report, const std::string& field, std::string_view text) {
  if (text.empty()) {
    report.Add(field, "is empty");
  } else if (text.size() > kConsulNameBytesMax) {
    report.Add(field, fmt::format("is longer than {} bytes", kConsulNameBytesMax));
  } else if (!std::all_of(text.begin(), text.end(),
                          [](char c) { return absl::ascii_isgraph(static_cast<unsigned char>(c)); })) {
    report.Add(field, "has a space, a control byte or a byte beyond ASCII");
  }
}

void CheckTags(const Report& report, const std::string& field,
               const google::protobuf::RepeatedPtrField<std::string>& tags) {
  if (tags.size() > kTagsMax) report.Add(field, fmt::format("has {} tags; at most {}", tags.size(), kTagsMax));
  for (int i = 0; i < tags.size(); ++i) CheckConsulText(report, At(field, i), tags[i]);
}

template <typename Enum>
void CheckEnum(const Report& report, std::string_view field, Enum value, bool (*is_valid)(int)) {
  if (!is_valid(value))
    report.Add(field, fmt::format("is {}, which this version does not know", static_cast<int>(value)));
}

void CheckEnvelope(const Report& report, const google::protobuf::Map<std::string, std::string>& labels,
                   const std::string& description) {
  if (labels.size() > kLabelsMax)
    report.Add("labels", fmt::format("has {} entries; at most {}", labels.size(), kLabelsMax));
  for (const auto& [key, value] : labels) {
    if (key.empty()) report.Add("labels", "has an empty key");
    if (key.size() > kLabelBytesMax || value.size() > kLabelBytesMax) {
      report.Add(fmt::format("labels.{}", KeyInPath(key)), fmt::format("is longer than {} bytes", kLabelBytesMax));
    }
  }
  if (description.size() > kDescriptionBytesMax) {
    report.Add("description", fmt::format("is longer than {} bytes", kDescriptionBytesMax));
  }
}

// Fields that frame a message or belong to one connection: written by the gateway alone.
bool IsReservedField(std::string_view name) {
  static constexpr std::array<std::string_view, 14> kReserved = {"connection",
                                                                 "content-length",
                                                                 "expect",
                                                                 "host",
                                                                 "http2-settings",
                                                                 "keep-alive",
                                                                 "proxy-authenticate",
                                                                 "proxy-connection",
                                                                 "proxy-authorization",
                                                                 "te",
                                                                 "trailer",
                                                                 "transfer-encoding",
                                                                 "upgrade",
                                                                 "via"};
  const std::string lower = absl::AsciiStrToLower(std::string(name));
  return std::find(kReserved.begin(), kReserved.end(), lower) != kReserved.end();
}

std::string NoFieldName(std::string_view name) {
  return fmt::format("{} is not a header name; expected letters, digits and !#$%&'*+-.^_`|~, as in X-Tenant",
                     QuoteForMessage(name));
}

std::string NoCookieName(std::string_view name) {
  return fmt::format("{} is not a cookie name; expected letters, digits and !#$%&'*+-.^_`|~, as in session_id",
                     QuoteForMessage(name));
}

std::string NoMethod(std::string_view method) {
  return fmt::format("{} is not a method; expected one like GET, of at most 32 bytes", QuoteForMessage(method));
}

// Methods have a case, as RFC 9110 has it: another one than a client's would never be met.
void CheckMethodName(const Report& report, const std::string& field, std::string_view method) {
  const std::string upper = absl::AsciiStrToUpper(std::string(method));
  if (!IsToken(method) || method.size() > 32) {
    report.Add(field, NoMethod(method));
  } else if (upper != method) {
    report.Add(field, fmt::format("methods have a case; {} can never match; write {}", QuoteForMessage(method),
                                  QuoteForMessage(upper)));
  }
}

// The name of a header that policy writes or takes away.
void CheckFieldName(const Report& report, const std::string& field, std::string_view name) {
  if (!IsToken(name) || name.size() > 256) {
    report.Add(field, NoFieldName(name));
  } else if (IsReservedField(name)) {
    report.Add(field, fmt::format("{} is the gateway's own to write{}", QuoteForMessage(name),
                                  absl::AsciiStrToLower(std::string(name)) == "host" ? "; see rewrite.host" : ""));
  }
}

// Of one line that is sent as it stands.
void CheckPlainText(const Report& report, const std::string& field, const std::string& text) {
  if (text.find("${") != std::string::npos) {
    report.Add(field, fmt::format("{} has a variable, but is sent literally; expected text without ${{",
                                  QuoteForMessage(text)));
  } else {
    report.AddIfBad(field, ParseText(text, {}, true, 256).status());
  }
}

// A field that requests lose before anything looks at them.
void CheckRead(const Report& report, const std::string& field, std::string_view name) {
  if (!IsIdentityField(name)) return;
  report.Add(field, fmt::format("{} is removed from every request: services are told their callers in it",
                                QuoteForMessage(name)));
}

void CheckHeaderMap(const Report& report, const std::string& field,
                    const google::protobuf::Map<std::string, std::string>& map,
                    const std::vector<std::string>& variables) {
  if (map.size() > 64) report.Add(field, fmt::format("has {} entries; at most 64", map.size()));
  std::set<std::string> seen;
  for (const auto& [name, value] : map) {
    const std::string at = fmt::format("{}.{}", field, KeyInPath(name));
    CheckFieldName(report, at, name);
    if (!seen.insert(absl::AsciiStrToLower(name)).second) report.Add(at, "comes twice, in another case");
    report.AddIfBad(at, ParseText(value, variables, true, kFieldValueBytesMax).status());
  }
}

void CheckFieldEdits(const Report& report, const std::string& field, const v1::FieldEdits& edits,
                     const std::vector<std::string>& variables) {
  CheckHeaderMap(report, field + ".set", edits.set(), variables);
  CheckHeaderMap(report, field + ".add", edits.add(), variables);
  for (int i = 0; i < edits.remove_size(); ++i) CheckFieldName(report, At(field + ".remove", i), edits.remove(i));
}

void CheckQueryEdits(const Report& report, const v1::FieldEdits& edits, const std::vector<std::string>& variables) {
  const auto check = [&](const std::string& field, const auto& map) {
    if (map.size() > 64) report.Add(field, fmt::format("has {} entries; at most 64", map.size()));
    for (const auto& [name, value] : map) {
      const std::string at = fmt::format("{}.{}", field, KeyInPath(name));
      if (name.empty() || name.size() > 256) report.Add(at, "is not a query parameter name; expected 1 to 256 bytes");
      report.AddIfBad(at, ParseText(value, variables, true, kFieldValueBytesMax).status());
    }
  };
  check("request_query.set", edits.set());
  check("request_query.add", edits.add());
  for (int i = 0; i < edits.remove_size(); ++i) {
    if (edits.remove(i).empty()) report.Add(At("request_query.remove", i), "is empty");
  }
}

void CheckHashOn(const Report& report, const std::string& field, const v1::HashOn& on) {
  switch (on.on_case()) {
    case v1::HashOn::kHeader:
      if (!IsToken(on.header())) {
        report.Add(field + ".header", NoFieldName(on.header()));
      }
      break;
    case v1::HashOn::kCookie:
      if (!IsToken(on.cookie())) {
        report.Add(field + ".cookie", NoCookieName(on.cookie()));
      }
      break;
    case v1::HashOn::ON_NOT_SET:
      report.Add(field, "is empty; expected header, cookie, client_ip or path");
      break;
    default:
      break;
  }
}

// "example.com", "example.com:8443", "[::1]:80".
void CheckHostWithPort(const Report& report, const std::string& field, std::string_view host) {
  const size_t colon = host.rfind(':');
  if (colon != std::string_view::npos && host.back() != ']') {
    absl::StatusOr<HostPort> address = ParseHostPort(host);
    if (!address.ok()) {
      report.Add(field, std::string(address.status().message()));
      return;
    }
    host = host.substr(0, colon);
  }
  report.AddIfBad(field, CheckHost(absl::AsciiStrToLower(std::string(host))));
}

// Whether `path` can stand in a request line: no space, no control byte, nothing beyond ASCII.
bool IsTargetText(std::string_view path) {
  return std::all_of(path.begin(), path.end(),
                     [](char c) { return absl::ascii_isgraph(static_cast<unsigned char>(c)); });
}

void CheckBalancer(const Report& report, const std::string& field, const v1::LoadBalancer& balancer) {
  CheckEnum(report, field + ".policy", balancer.policy(), v1::LoadBalancer::Policy_IsValid);
  CheckEnum(report, field + ".zones", balancer.zones(), v1::LoadBalancer::Zones_IsValid);
  const bool hashes = balancer.policy() == v1::LoadBalancer::RING_HASH || balancer.policy() == v1::LoadBalancer::MAGLEV;
  if (balancer.has_hash_on()) {
    CheckHashOn(report, field + ".hash_on", balancer.hash_on());
    if (!hashes) report.Add(field + ".hash_on", "means something with ring_hash and maglev only");
  }
  if (balancer.has_hash_balance_percent() && balancer.policy() != v1::LoadBalancer::RING_HASH) {
    report.Add(field + ".hash_balance_percent", "means something with ring_hash only");
  }
  if (balancer.has_zone_min_percent() && balancer.zones() != v1::LoadBalancer::PREFER) {
    report.Add(field + ".zone_min_percent", "means something with zones: prefer only");
  }
  if (balancer.has_session()) {
    const v1::SessionCookie& session = balancer.session();
    if (!session.cookie().empty() && !IsToken(session.cookie())) {
      report.Add(field + ".session.cookie", NoCookieName(session.cookie()));
    }
    if (!session.path().empty() &&
        (session.path()[0] != '/' || !IsTargetText(session.path()) || session.path().find(';') != std::string::npos)) {
      report.Add(field + ".session.path", fmt::format("{} is not a cookie path; expected one like /shop, without a ';'",
                                                      QuoteForMessage(session.path())));
    }
  }
}

// Of a Service or a template.
template <typename Body>
bool MaySpeakHttp2(const Body& body) {
  return body.protocol() == v1::Service::HTTP2 || (body.protocol() == v1::Service::AUTO && body.has_tls());
}

// `http2`: the endpoints may speak it.
void CheckHealthCheck(const Report& report, const std::string& field, const v1::HealthCheck& check, bool http2) {
  CheckEnum(report, field + ".type", check.type(), v1::HealthCheck::Type_IsValid);
  if (check.type() == v1::HealthCheck::GRPC) {
    if (!http2) report.Add(field + ".type", "of grpc needs a service of protocol http2, or auto with tls");
    if (!check.path().empty() || check.statuses_size() > 0) report.Add(field, "of type grpc has no path or statuses");
  } else if (!check.service().empty()) {
    report.Add(field + ".service", "means something with type: grpc only");
  }
  if (check.service().size() > 256 || !IsTargetText(check.service())) {
    report.Add(field + ".service", fmt::format("{} is not the name of a gRPC service; expected one like shop.v1.Orders",
                                               QuoteForMessage(check.service())));
  }
  if (check.type() == v1::HealthCheck::TCP &&
      (!check.path().empty() || !check.host().empty() || check.statuses_size() > 0)) {
    report.Add(field, "of type tcp has no path, host or statuses");
  }
  if (!check.path().empty() && (check.path()[0] != '/' || !IsTargetText(check.path()) || check.path().size() > 2048)) {
    report.Add(field + ".path",
               fmt::format("{} is not a path; expected one like /health", QuoteForMessage(check.path())));
  }
  for (int i = 0; i < check.statuses_size(); ++i) {
    if (check.statuses(i) < 200 || check.statuses(i) > 599) {
      report.Add(At(field + ".statuses", i), fmt::format("is {}; expected 200 to 599", check.statuses(i)));
    }
  }
  if (!check.host().empty()) CheckHostWithPort(report, field + ".host", check.host());
}

void CheckOutlier(const Report& report, const std::string& field, const v1::OutlierEjection& outlier) {
  if (outlier.has_max_time() && outlier.has_base_time() &&
      ToMillis(outlier.max_time()) < ToMillis(outlier.base_time())) {
    report.Add(field + ".max_time", "is shorter than base_time");
  }
}

void CheckUpstreamTls(const Report& report, const std::string& field, const v1::UpstreamTls& tls) {
  CheckEnum(report, field + ".verify", tls.verify(), v1::UpstreamTls::Verify_IsValid);
  if (!tls.server_name().empty() && !ParseHostPort(tls.server_name() + ":1").ok()) {
    report.Add(field + ".server_name",
               fmt::format("{} is no host name and no IP address", QuoteForMessage(tls.server_name())));
  }
  switch (tls.ca().source_case()) {
    case v1::PemText::kFile:
      report.Add(field + ".ca.file", "is read by gatewayctl, which puts its text in `inline`; send that");
      break;
    case v1::PemText::kInline: {
      const auto certificates = ReadCertificates(tls.ca().inline_());
      if (!certificates.ok()) report.Add(field + ".ca.inline", std::string(certificates.status().message()));
      if (tls.verify() == v1::UpstreamTls::NONE) report.Add(field + ".ca", "has no effect with verify: none");
      break;
    }
    case v1::PemText::SOURCE_NOT_SET:
      if (tls.has_ca()) report.Add(field + ".ca", "needs one of file and inline");
      break;
  }
  if (!tls.min_version().empty() && tls.min_version() != "1.2" && tls.min_version() != "1.3") {
    report.Add(field + ".min_version",
               fmt::format("{} is no version of TLS; expected 1.2 or 1.3", QuoteForMessage(tls.min_version())));
  }
}

void CheckService(const Report& report, const v1::Service& service) {
  if (service.has_consul() == (service.static__size() > 0)) {
    report.Add("", service.has_consul() ? "has both consul and static; exactly one must define its endpoints"
                                        : "needs consul or static, to define its endpoints");
  }
  if (service.has_consul()) {
    const v1::ConsulSource& consul = service.consul();
    // An empty name is reported by the rules.
    if (!consul.service().empty()) CheckConsulText(report, "consul.service", consul.service());
    if (!consul.datacenter().empty()) CheckConsulText(report, "consul.datacenter", consul.datacenter());
    CheckTags(report, "consul.tags", consul.tags());
    CheckEnum(report, "consul.on_suspect", consul.on_suspect(), v1::ConsulSource::OnSuspect_IsValid);
  }
  if (service.static__size() > kStaticEndpointsMax) {
    report.Add("static", fmt::format("has {} endpoints; at most {}", service.static__size(), kStaticEndpointsMax));
  }
  absl::flat_hash_map<std::string, int> seen;
  for (int i = 0; i < service.static__size(); ++i) {
    const v1::StaticEndpoint& endpoint = service.static_(i);
    const std::string field = At("static", i, ".address");
    if (endpoint.address().empty()) continue;  // reported by the rules
    absl::StatusOr<HostPort> address = ParseHostPort(endpoint.address());
    if (!address.ok()) {
      report.Add(field, std::string(address.status().message()));
      continue;
    }
    if (address->port == 0)
      report.Add(field, fmt::format("{} has port 0; expected 1 to 65535", QuoteForMessage(endpoint.address())));
    auto [it, inserted] = seen.try_emplace(fmt::format("{} {}", address->host, address->port), i);
    if (!inserted) {
      report.Add(field, fmt::format("{} is static[{}] already", QuoteForMessage(endpoint.address()), it->second));
    }
  }
  CheckBalancer(report, "load_balancer", service.load_balancer());
  if (service.has_health_check())
    CheckHealthCheck(report, "health_check", service.health_check(), MaySpeakHttp2(service));
  if (service.has_outlier_ejection()) CheckOutlier(report, "outlier_ejection", service.outlier_ejection());
  if (service.has_tls()) CheckUpstreamTls(report, "tls", service.tls());
  CheckEnum(report, "protocol", service.protocol(), v1::Service::Protocol_IsValid);
}

// A path template of ours that takes its variables from the route's own.
void CheckPathTemplate(const Report& report, const std::string& field, const std::string& text,
                       const v1::PathMatch& path) {
  absl::StatusOr<std::vector<TemplateSegment>> segments = ParseTemplate(text);
  if (!segments.ok()) {
    report.Add(field, std::string(segments.status().message()));
    return;
  }
  std::vector<TemplateSegment> known;
  if (path.has_template_()) {
    absl::StatusOr<std::vector<TemplateSegment>> own = ParseTemplate(path.template_());
    if (!own.ok()) return;  // reported with the match
    known = *std::move(own);
  }
  for (const TemplateSegment& segment : *segments) {
    if (segment.kind == TemplateSegment::Kind::kLiteral) continue;
    const bool found = std::any_of(known.begin(), known.end(), [&segment](const TemplateSegment& k) {
      return k.kind == segment.kind && k.text == segment.text;
    });
    if (found) continue;
    report.Add(field, segment.kind == TemplateSegment::Kind::kRest
                          ? "has **, but match.path has no template that ends in **"
                          : fmt::format("variable {} is not in match.path.template", QuoteForMessage(segment.text)));
  }
}

// Whether every match of `pattern` is where the text begins. Only where that is plain to see: else false.
bool MatchesAtStartOnly(std::string_view pattern) {
  size_t at = pattern.starts_with('^') ? 1 : pattern.starts_with("\\A") ? 2 : 0;
  if (at == 0 || pattern.find("\\Q") != std::string_view::npos) return false;
  if (at < pattern.size() && std::string_view("*+?{").find(pattern[at]) != std::string_view::npos) return false;
  // An alternative on the outermost level may begin anywhere.
  int depth = 0;
  for (; at < pattern.size(); ++at) {
    if (pattern[at] == '\\') {
      ++at;
    } else if (pattern[at] == '(') {
      ++depth;
    } else if (pattern[at] == ')') {
      --depth;
    } else if (pattern[at] == '|' && depth == 0) {
      return false;
    } else if (pattern[at] == '[') {
      ++at;
      if (at < pattern.size() && pattern[at] == '^') ++at;
      if (at < pattern.size() && pattern[at] == ']') ++at;  // the first is one of the class
      for (; at < pattern.size() && pattern[at] != ']'; ++at) {
        if (pattern[at] == '\\') {
          ++at;
        } else if (const size_t end = pattern.find(":]", at);
                   pattern.substr(at).starts_with("[:") && end != std::string_view::npos) {
          at = end + 1;
        }
      }
    }
  }
  return true;
}

// What no path in normal form has, of text that stands in a rewritten path as it is; "" where it may be part of one.
std::string NeverInPath(std::string_view literal) {
  for (size_t i = 0; i < literal.size(); ++i) {
    const std::string_view rest = literal.substr(i);
    std::string normal;
    if (rest.front() == '%') {
      const std::string_view escape = rest.substr(0, 3);
      const auto is_hex = [](char c) { return absl::ascii_isxdigit(static_cast<unsigned char>(c)); };
      if (!std::all_of(escape.begin() + 1, escape.end(), is_hex)) {
        return "has a '%' without two hex digits; expected %25 for a literal one";
      }
      if (escape.size() < 3) return "";  // what follows may complete it
      const PathError error = NormalizePath(Concat("/x", escape), /*reject_encoded_slashes=*/false, &normal);
      if (error != PathError::kNone) return fmt::format("has {}, which no path has", escape);
      if (normal.substr(2) != escape) {
        return fmt::format("has {}, but paths are in normal form; expected {}", escape, normal.substr(2));
      }
      i += 2;
    } else if (rest.starts_with("//")) {
      return "has '//', but paths are in normal form; expected a single '/'";
    } else if (rest.starts_with("/./") || rest.starts_with("/../")) {
      return "has a dot segment, but paths are in normal form; expected the path that is meant";
    } else if (NormalizePath(Concat("/", rest.substr(0, 1)), /*reject_encoded_slashes=*/false, &normal) ==
               PathError::kForbiddenByte) {
      return fmt::format("has {}, which a path has only percent-encoded; expected %{:02X}",
                         QuoteForMessage(rest.substr(0, 1)), static_cast<unsigned char>(rest.front()));
    }
  }
  return "";
}

// Whether some request can come of a substitution: every one of them would be answered 500 else. It is valid for RE2.
void CheckSubstitution(const Report& report, const v1::RegexRewrite& regex) {
  const std::string_view text = regex.substitution();
  std::string literal;  // between two groups
  for (size_t i = 0; i <= text.size(); ++i) {
    const bool escape = i + 1 < text.size() && text[i] == '\\';
    if (i < text.size() && !(escape && absl::ascii_isdigit(static_cast<unsigned char>(text[i + 1])))) {
      literal += text[i];
      if (escape) ++i;  // "\\\\" is one
      continue;
    }
    if (const std::string why = NeverInPath(std::exchange(literal, {})); !why.empty()) {
      report.Add("rewrite.regex.substitution", why);
      return;
    }
    ++i;
  }
  if (!text.empty() && text.front() != '/' && text.front() != '\\' && MatchesAtStartOnly(regex.pattern())) {
    report.Add("rewrite.regex.substitution",
               fmt::format("{} does not start with '/', but replaces the start of the path; expected one "
                           "like {}",
                           QuoteForMessage(text), QuoteForMessage(Concat("/", text))));
  }
}

void CheckRewrite(const Report& report, const v1::Route& route) {
  const v1::Rewrite& rewrite = route.rewrite();
  const v1::PathMatch& path = route.match().path();
  const int paths = static_cast<int>(!rewrite.prefix().empty()) + static_cast<int>(!rewrite.template_().empty()) +
                    static_cast<int>(rewrite.has_regex());
  if (paths > 1)
    report.Add("rewrite",
               "has more than one of prefix, template and regex; one defines the path that the service sees");
  if (paths == 0 && rewrite.host().empty()) {
    report.Add("rewrite", "is empty; expected prefix, template, regex or host");
  }
  if (!rewrite.prefix().empty()) {
    report.AddIfBad("rewrite.prefix", CheckPathPattern(rewrite.prefix()));
    if (!path.has_prefix() && !path.has_template_()) {
      report.Add("rewrite.prefix", "needs a match.path.prefix or a match.path.template, whose beginning it replaces");
    }
  }
  if (!rewrite.template_().empty()) {
    CheckPathTemplate(report, "rewrite.template", rewrite.template_(), path);
  }
  if (rewrite.has_regex()) {
    // As the compiler will have it, within the same memory: what can't be built must not be taken.
    const std::unique_ptr<const re2::RE2> pattern = CompileRegex(rewrite.regex().pattern());
    std::string why;
    if (!pattern->ok()) {
      report.Add("rewrite.regex.pattern", fmt::format("{} is not an RE2 regex: {}",
                                                      QuoteForMessage(rewrite.regex().pattern()), pattern->error()));
    } else if (!pattern->CheckRewriteString(rewrite.regex().substitution(), &why)) {
      report.Add("rewrite.regex.substitution", why);
    } else {
      CheckSubstitution(report, rewrite.regex());
    }
    if (rewrite.regex().pattern().size() > kRegexBytesMax || rewrite.regex().substitution().size() > kRegexBytesMax) {
      report.Add("rewrite.regex", fmt::format("is longer than {} bytes", kRegexBytesMax));
    }
  }
  if (!rewrite.host().empty()) CheckHostWithPort(report, "rewrite.host", rewrite.host());
}

void CheckConsulServiceRoute(const Report& report, const v1::Route& route) {
  const v1::ConsulServiceRoute& config = route.consul_service();
  const v1::PathMatch& path = route.match().path();
  if (!path.has_template_()) {
    report.Add("consul_service.from", "needs a match.path.template with the variable that holds the service's name");
  } else if (!config.from().empty()) {
    absl::StatusOr<std::vector<TemplateSegment>> segments = ParseTemplate(path.template_());
    if (segments.ok() && std::none_of(segments->begin(), segments->end(), [&config](const TemplateSegment& segment) {
          return segment.kind == TemplateSegment::Kind::kVariable && segment.text == config.from();
        })) {
      report.Add("consul_service.from",
                 fmt::format("variable {} is not in match.path.template", QuoteForMessage(config.from())));
    }
  }
  for (int i = 0; i < config.allow_size(); ++i) {
    CheckConsulText(report, At("consul_service.allow", i), config.allow(i));
  }
  for (int i = 0; i < config.deny_size(); ++i) {
    CheckConsulText(report, At("consul_service.deny", i), config.deny(i));
  }
  CheckTags(report, "consul_service.tags", config.tags());
  CheckBalancer(report, "consul_service.template.load_balancer", config.template_().load_balancer());
  if (config.template_().has_health_check()) {
    CheckHealthCheck(report, "consul_service.template.health_check", config.template_().health_check(),
                     MaySpeakHttp2(config.template_()));
  }
  if (config.template_().has_tls()) {
    CheckUpstreamTls(report, "consul_service.template.tls", config.template_().tls());
  }
  CheckEnum(report, "consul_service.template.protocol", config.template_().protocol(), v1::Service::Protocol_IsValid);
  if (config.template_().has_outlier_ejection()) {
    CheckOutlier(report, "consul_service.template.outlier_ejection", config.template_().outlier_ejection());
  }
  CheckEnum(report, "consul_service.template.on_suspect", config.template_().on_suspect(),
            v1::ConsulSource::OnSuspect_IsValid);
}

void CheckLimitList(const Report& report, const google::protobuf::RepeatedPtrField<std::string>& names) {
  for (int i = 0; i < names.size(); ++i) {
    if (names[i] == kNone && names.size() > 1) {
      report.Add(At("rate_limits", i), "'none' must be the only entry");
    } else if (std::find(names.begin(), names.begin() + i, names[i]) != names.begin() + i) {
      report.Add(At("rate_limits", i), fmt::format("{} comes twice", QuoteForMessage(names[i])));
    }
  }
}

std::string_view WithoutLastSlash(std::string_view path) {
  return path.ends_with('/') ? path.substr(0, path.size() - 1) : path;
}

// "http", "https"; empty: either.
std::string_view SchemeOf(const v1::RouteMatch& match) {
  if (match.scheme() == v1::RouteMatch::SCHEME_UNSPECIFIED) return "";
  return match.scheme() == v1::RouteMatch::HTTPS ? "https" : "http";
}

// Whether a client that follows the redirect is back on this route, with the same path and nothing changed by it.
bool LeadsBack(const v1::Route& route, uint32_t status) {
  const v1::Redirect& redirect = route.redirect();
  const v1::RouteMatch& match = route.match();
  if (!redirect.host().empty() || (!redirect.scheme().empty() && redirect.scheme() != SchemeOf(match))) return false;
  const bool same = (match.path().has_exact() && redirect.path() == match.path().exact()) ||
                    (match.path().has_prefix() && !redirect.prefix().empty() &&
                     WithoutLastSlash(redirect.prefix()) == WithoutLastSlash(match.path().prefix())) ||
                    (match.path().has_template_() && redirect.template_() == match.path().template_());
  if (!same) return false;
  // What makes the second request another one: no query, GET in place of POST, a cookie.
  if (redirect.strip_query() && match.query_size() > 0) return false;
  const bool turns_into_get = status == 301 || status == 302 || status == 303;
  if (turns_into_get && match.methods_size() > 0 &&
      std::find(match.methods().begin(), match.methods().end(), "GET") == match.methods().end()) {
    return false;
  }
  return match.headers_size() == 0 || !route.has_response_headers();
}

void CheckRedirect(const Report& report, const v1::Route& route) {
  const v1::Redirect& redirect = route.redirect();
  const v1::PathMatch& path = route.match().path();
  const uint32_t status = redirect.has_status() ? redirect.status() : 308;
  if (status != 301 && status != 302 && status != 303 && status != 307 && status != 308) {
    report.Add("redirect.status", fmt::format("is {}; expected 301, 302, 303, 307 or 308", status));
  }
  if (!redirect.scheme().empty() && redirect.scheme() != "http" && redirect.scheme() != "https") {
    report.Add("redirect.scheme", fmt::format("is {}; expected http or https", QuoteForMessage(redirect.scheme())));
  }
  const bool own_scheme = redirect.scheme().empty() || redirect.scheme() == SchemeOf(route.match());
  if (!redirect.host().empty()) CheckHostWithPort(report, "redirect.host", redirect.host());
  const int paths = static_cast<int>(!redirect.path().empty()) + static_cast<int>(!redirect.prefix().empty()) +
                    static_cast<int>(!redirect.template_().empty());
  if (paths > 1) report.Add("redirect", "has more than one of path, prefix and template");
  if (paths == 0 && redirect.host().empty() && own_scheme) {
    report.Add("redirect", "redirects to the same URL; expected another scheme, host, path, prefix or template");
  }
  if (!redirect.path().empty() && (redirect.path()[0] != '/' || redirect.path().starts_with("//") ||
                                   !IsTargetText(redirect.path()) || redirect.path().size() > 4096)) {
    report.Add("redirect.path",
               fmt::format("{} is not a path; expected one like /new, of at most 4096 bytes, with what is "
                           "not ASCII percent-encoded",
                           QuoteForMessage(redirect.path())));
  }
  if (!redirect.prefix().empty()) {
    report.AddIfBad("redirect.prefix", CheckPathPattern(redirect.prefix()));
    if (!path.has_prefix() && !path.has_template_()) {
      report.Add("redirect.prefix", "needs a match.path.prefix or a match.path.template, whose beginning it replaces");
    }
  }
  if (!redirect.template_().empty()) CheckPathTemplate(report, "redirect.template", redirect.template_(), path);
  if (paths == 1 && LeadsBack(route, status)) {
    const std::string_view field = !redirect.path().empty()     ? "redirect.path"
                                   : !redirect.prefix().empty() ? "redirect.prefix"
                                                                : "redirect.template";
    report.Add(field, "redirects to the same URL; expected another path, or a scheme or a host beside it");
  }
}

void CheckRespond(const Report& report, const v1::Route& route) {
  const v1::Respond& respond = route.respond();
  const std::vector<std::string> variables = VariablesOf(route.match().path());
  const uint32_t status = respond.has_status() ? respond.status() : 200;
  if ((status == 204 || status == 205 || status == 304) && !respond.body().empty()) {
    report.Add("respond.body", fmt::format("has no place in a {}", status));
  }
  report.AddIfBad("respond.body", ParseText(respond.body(), variables, false, kRespondBodyBytesMax).status());
  CheckPlainText(report, "respond.content_type", respond.content_type());
  CheckHeaderMap(report, "respond.headers", respond.headers(), variables);
  for (const auto& [name, value] : respond.headers()) {
    if (absl::AsciiStrToLower(name) == "content-type") {
      report.Add(fmt::format("respond.headers.{}", KeyInPath(name)), "has its own setting: respond.content_type");
    }
  }
}

void CheckRoute(const Report& report, const v1::Route& route) {
  CheckRouteMatch(route.match(), [&report](const std::string& field, const std::string& message) {
    report.Add(fmt::format("match.{}", field), message);
  });
  const int targets = static_cast<int>(!route.service().empty()) + static_cast<int>(route.split_size() > 0) +
                      static_cast<int>(route.has_consul_service()) + static_cast<int>(route.has_redirect()) +
                      static_cast<int>(route.has_respond());
  if (targets != 1) {
    report.Add("", fmt::format("{}exactly one of service, split, consul_service, redirect and respond is needed",
                               targets == 0 ? "leads nowhere; " : "leads to several places; "));
  }
  if (route.split_size() > 0) {
    uint64_t total = 0;
    std::set<std::string_view> seen;
    for (int i = 0; i < route.split_size(); ++i) {
      const v1::WeightedService& target = route.split(i);
      total += target.has_weight() ? target.weight() : 1;
      if (!target.service().empty() && !seen.insert(target.service()).second) {
        report.Add(At("split", i, ".service"), fmt::format("{} comes twice", QuoteForMessage(target.service())));
      }
    }
    if (total == 0) report.Add("split", "has no weight above 0");
    if (total > std::numeric_limits<uint32_t>::max()) report.Add("split", "has weights whose sum is beyond 4294967295");
  }
  if (route.has_consul_service()) CheckConsulServiceRoute(report, route);
  if (route.has_rewrite()) CheckRewrite(report, route);
  if (route.has_redirect()) CheckRedirect(report, route);
  if (route.has_respond()) CheckRespond(report, route);
  if (route.has_redirect() || route.has_respond()) {
    const std::string_view what = route.has_redirect() ? "redirect" : "respond";
    const auto refuse = [&](bool given, std::string_view field) {
      if (given) report.Add(field, fmt::format("has no effect together with {}", what));
    };
    refuse(route.has_rewrite(), "rewrite");
    refuse(route.mirror_size() > 0, "mirror");
    refuse(route.upgrades_size() > 0, "upgrades");
    refuse(route.grpc_web(), "grpc_web");
    refuse(route.has_request_headers(), "request_headers");
    refuse(route.has_request_query(), "request_query");
  }
  if (route.has_split_on()) {
    CheckHashOn(report, "split_on", route.split_on());
    if (route.split_size() == 0) report.Add("split_on", "needs a split");
  }
  const std::vector<std::string> variables = VariablesOf(route.match().path());
  CheckFieldEdits(report, "request_headers", route.request_headers(), variables);
  CheckFieldEdits(report, "response_headers", route.response_headers(), variables);
  CheckQueryEdits(report, route.request_query(), variables);
  CheckLimitList(report, route.rate_limits());
  for (int i = 0; i < route.upgrades_size(); ++i) {
    CheckEnum(report, At("upgrades", i), route.upgrades(i), v1::Route::Upgrade_IsValid);
    if (route.upgrades(i) == v1::Route::UPGRADE_UNSPECIFIED) report.Add(At("upgrades", i), "names no protocol");
  }
}

void CheckRateLimit(const Report& report, const v1::RateLimit& limit) {
  for (int i = 0; i < limit.key_size(); ++i) {
    const absl::StatusOr<LimitKey> key = ParseLimitKey(limit.key(i));
    if (key.ok() && key->kind == LimitKey::Kind::kHeader) CheckRead(report, At("key", i), key->name);
    if (!key.ok()) {
      report.AddIfBad(At("key", i), key.status());
    } else if (std::find(limit.key().begin(), limit.key().begin() + i, limit.key(i)) != limit.key().begin() + i) {
      report.Add(At("key", i), fmt::format("{} comes twice", QuoteForMessage(limit.key(i))));
    }
  }
  CheckEnum(report, "algorithm", limit.algorithm(), v1::RateLimit::Algorithm_IsValid);
  CheckEnum(report, "scope", limit.scope(), v1::RateLimit::Scope_IsValid);
  CheckEnum(report, "mode", limit.mode(), v1::RateLimit::Mode_IsValid);
  CheckEnum(report, "on_unavailable", limit.on_unavailable(), v1::RateLimit::OnUnavailable_IsValid);
  if (limit.limit().has_burst() && limit.algorithm() != v1::RateLimit::TOKEN_BUCKET) {
    report.Add("limit.burst", "means something with algorithm: token_bucket only");
  }
}

void CheckBreaker(const Report& report, const v1::CircuitBreaker& breaker) {
  CheckEnum(report, "force", breaker.force(), v1::CircuitBreaker::Force_IsValid);
  const Millis sleep = breaker.has_sleep_window() ? ToMillis(breaker.sleep_window()) : Millis(5000);
  if (breaker.has_max_sleep_window() && ToMillis(breaker.max_sleep_window()) < sleep) {
    report.Add("max_sleep_window", fmt::format("is shorter than sleep_window ({} ms)", sleep.count()));
  }
  if (breaker.has_slow_call_percent_threshold() && !breaker.has_slow_call_duration()) {
    report.Add("slow_call_percent_threshold", "needs slow_call_duration, which defines a slow call");
  }
}

void CheckRetry(const Report& report, const v1::Retry& retry) {
  RetryPolicy scratch;
  for (int i = 0; i < retry.conditions_size(); ++i) {
    if (!AddRetryCondition(retry.conditions(i), &scratch)) {
      const std::string near =
          NearestName(retry.conditions(i),
                      {"connect_failure", "reset", "timeout", "5xx", "grpc:unavailable", "grpc:resource_exhausted",
                       "grpc:deadline_exceeded", "grpc:internal", "grpc:aborted", "grpc:unknown", "grpc:cancelled"});
      report.Add(
          At("conditions", i),
          fmt::format("{} is not a condition; {}", QuoteForMessage(retry.conditions(i)),
                      near.empty() ? "expected connect_failure, reset, timeout, 5xx, a status from 400 to 599, or "
                                     "grpc:NAME as in grpc:unavailable"
                                   : fmt::format("did you mean {}?", QuoteForMessage(near))));
    }
  }
  for (int i = 0; i < retry.methods_size(); ++i) {
    CheckMethodName(report, At("methods", i), retry.methods(i));
  }
  if (retry.backoff().has_base() && retry.backoff().has_max() &&
      ToMillis(retry.backoff().max()) < ToMillis(retry.backoff().base())) {
    report.Add("backoff.max", "is shorter than base");
  }
}

void CheckJwt(const Report& report, const std::string& field, const v1::JwtAuth& jwt) {
  const v1::Jwks& jwks = jwt.jwks();
  switch (jwks.source_case()) {
    case v1::Jwks::kFile:
      report.Add(field + ".jwks.file", "is read by gatewayctl, which puts its text in `inline`; send that");
      break;
    case v1::Jwks::kInline:
      report.AddIfBad(field + ".jwks.inline", CheckJwks(jwks.inline_()));
      if (jwks.has_refresh()) report.Add(field + ".jwks.refresh", "means something with url only");
      break;
    case v1::Jwks::kUrl:
      report.AddIfBad(field + ".jwks.url", CheckKeysUrl(jwks.url()));
      break;
    case v1::Jwks::SOURCE_NOT_SET:
      report.Add(field + ".jwks", "needs one of file, inline and url");
      break;
  }
  for (int i = 0; i < jwt.audiences_size(); ++i) {
    if (jwt.audiences(i).empty()) report.Add(At(field + ".audiences", i), "is empty");
  }
  for (const auto& [claim, value] : jwt.require()) {
    if (claim.empty() || value.empty()) report.Add(field + ".require", "has an empty claim or value");
  }
}

void CheckAuth(const Report& report, const v1::Auth& auth) {
  for (int i = 0; i < auth.methods_size(); ++i) {
    const v1::AuthMethod& method = auth.methods(i);
    const std::string field = At("methods", i);
    switch (method.method_case()) {
      case v1::AuthMethod::kApiKey:
        if (!method.api_key().header().empty()) {
          CheckFieldName(report, field + ".api_key.header", method.api_key().header());
          CheckRead(report, field + ".api_key.header", method.api_key().header());
        }
        break;
      case v1::AuthMethod::kJwt:
        CheckJwt(report, field + ".jwt", method.jwt());
        break;
      case v1::AuthMethod::kBasic:
        if (method.basic().realm().size() > 256 || method.basic().realm().find_first_of("\"\\") != std::string::npos) {
          report.Add(field + ".basic.realm", "is longer than 256 bytes, or has a quote or a backslash");
        }
        CheckPlainText(report, field + ".basic.realm", method.basic().realm());
        break;
      case v1::AuthMethod::kClientCertificate:
        CheckEnum(report, field + ".client_certificate.identity", method.client_certificate().identity(),
                  v1::ClientCertificateAuth::Identity_IsValid);
        break;
      case v1::AuthMethod::METHOD_NOT_SET:
        report.Add(field, "is empty; expected api_key, jwt, basic or client_certificate");
        break;
    }
  }
  const v1::AuthForward& forward = auth.forward();
  CheckEnum(report, "forward.credentials", forward.credentials(), v1::AuthForward::Credentials_IsValid);
  // A client's own fields of these names are removed everywhere, so none that clients need can be among them.
  const auto check_forwarded = [&](const std::string& field, const std::string& name) {
    CheckFieldName(report, field, name);
    const std::string lower = absl::AsciiStrToLower(name);
    const bool is_key = std::any_of(auth.methods().begin(), auth.methods().end(), [&](const v1::AuthMethod& method) {
      const std::string& header = method.api_key().header();
      return method.has_api_key() && FoldField(name) == FoldField(header.empty() ? "X-API-Key" : header);
    });
    const bool certificate = field == "forward.client_certificate";
    if (certificate && IsCertificateField(lower) && lower != "client-cert-chain" && lower == FoldField(lower)) return;
    if (is_key || IsCertificateField(name) || lower == "authorization" || lower == "cookie" ||
        lower == "x-request-id" || lower == "forwarded" || lower.starts_with("x-forwarded-") ||
        lower.starts_with("x-gateway-")) {
      report.Add(field, fmt::format("{} is what requests need for other things", QuoteForMessage(name)));
    }
  };
  if (!forward.consumer().empty()) check_forwarded("forward.consumer", forward.consumer());
  if (!forward.groups().empty()) check_forwarded("forward.groups", forward.groups());
  if (!forward.client_certificate().empty())
    check_forwarded("forward.client_certificate", forward.client_certificate());
  for (const auto& [name, claim] : forward.claims()) {
    check_forwarded(fmt::format("forward.claims.{}", KeyInPath(name)), name);
    if (claim.empty()) report.Add(fmt::format("forward.claims.{}", KeyInPath(name)), "names no claim");
  }
}

void CheckConsumer(const Report& report, const v1::Consumer& consumer) {
  for (int i = 0; i < consumer.groups_size(); ++i) {
    const std::string& group = consumer.groups(i);
    if (group.empty() || group.size() > 128 || !IsTargetText(group) || group.find(',') != std::string::npos) {
      report.Add(At("groups", i),
                 fmt::format("{} is not a group name; expected 1 to 128 characters without a space, a comma or "
                             "beyond ASCII",
                             QuoteForMessage(group)));
    }
  }
  for (int i = 0; i < consumer.credentials_size(); ++i) {
    const v1::Credential& credential = consumer.credentials(i);
    const std::string field = At("credentials", i);
    switch (credential.credential_case()) {
      case v1::Credential::kApiKeySha256: {
        const std::string& digest = credential.api_key_sha256();
        if (digest.size() != 64 || !std::all_of(digest.begin(), digest.end(), [](char c) {
              return absl::ascii_isxdigit(static_cast<unsigned char>(c));
            })) {
          report.Add(field + ".api_key_sha256",
                     "is not a SHA-256 in hexadecimal (64 digits); `gatewayctl hash api-key` makes one from a key");
        }
        break;
      }
      case v1::Credential::kBasic: {
        const std::string& user = credential.basic().username();
        if (user.size() > 256 || user.find(':') != std::string::npos ||
            std::any_of(user.begin(), user.end(),
                        [](char c) { return absl::ascii_iscntrl(static_cast<unsigned char>(c)); })) {
          report.Add(field + ".basic.username",
                     "is longer than 256 bytes, or has a colon or a control byte (RFC 7617)");
        }
        if (!credential.basic().password_hash().empty()) {
          report.AddIfBad(field + ".basic.password_hash", CheckPasswordHash(credential.basic().password_hash()));
        }
        break;
      }
      case v1::Credential::kJwt:
        break;
      case v1::Credential::kClientCertificate: {
        const std::string& identity = credential.client_certificate().identity();
        if (identity.size() > 2048 || std::any_of(identity.begin(), identity.end(), [](char c) {
              return absl::ascii_iscntrl(static_cast<unsigned char>(c));
            })) {
          report.Add(field + ".client_certificate.identity", "is longer than 2048 bytes, or has a control byte");
        }
        break;
      }
      case v1::Credential::CREDENTIAL_NOT_SET:
        report.Add(field, "is empty; expected api_key_sha256, basic, jwt or client_certificate");
        break;
    }
  }
}

// All but what stands in the PEM, which the compiler reads once for its checks and for its use.
void CheckCertificate(const Report& report, const v1::Certificate& certificate) {
  if (certificate.certificate().has_file()) {
    report.Add("certificate.file", "is read by gatewayctl, which puts its text in `inline`; send that");
  } else if (certificate.has_certificate() && certificate.certificate().inline_().empty()) {
    report.Add("certificate", "needs one of file and inline");
  }
  if (certificate.key().has_file()) {
    report.Add("key.file", "is read by gatewayctl, which puts its text in `inline`; send that");
  } else if (certificate.has_key() && certificate.key().inline_().empty()) {
    report.Add("key", "needs one of file and inline");
  }
  for (int i = 0; i < certificate.hosts_size(); ++i) {
    const std::string& host = certificate.hosts(i);
    const std::string_view name = std::string_view(host).substr(host.starts_with("*.") ? 2 : 0);
    if (const absl::Status status = CheckHost(name); !status.ok()) {
      report.Add(At("hosts", i), std::string(status.message()));
    } else if (ParseHostPort(Concat(name, ":1")).ok() && name.find_first_not_of("0123456789.[]:") == name.npos) {
      report.Add(At("hosts", i), fmt::format("{} is an address; clients ask for names alone", QuoteForMessage(host)));
    }
  }
}

void CheckCors(const Report& report, const v1::Cors& cors) {
  for (int i = 0; i < cors.origins_size(); ++i) {
    if (cors.origins(i) == "*") {
      if (cors.origins_size() > 1) report.Add(At("origins", i), "'*' must be the only entry");
      if (cors.credentials()) report.Add(At("origins", i), "'*' never goes with credentials; name the origins");
      continue;
    }
    if (cors.origins(i) == "null") {
      report.Add(At("origins", i), "'null' is what any sandboxed page sends; it cannot be let in by name");
      continue;
    }
    report.AddIfBad(At("origins", i), ParseOrigin(cors.origins(i)).status());
  }
  const auto check = [&report](const std::string& field, const google::protobuf::RepeatedPtrField<std::string>& names) {
    for (int i = 0; i < names.size(); ++i) {
      if (names[i] == "*") {
        if (names.size() > 1) report.Add(At(field, i), "'*' must be the only entry");
      } else if (field == "methods") {
        CheckMethodName(report, At(field, i), names[i]);
      } else if (!IsToken(names[i])) {
        report.Add(At(field, i), NoFieldName(names[i]));
      }
    }
  };
  check("methods", cors.methods());
  check("headers", cors.headers());
  check("expose_headers", cors.expose_headers());
  if (cors.credentials() && cors.expose_headers_size() > 0 && cors.expose_headers(0) == "*") {
    report.Add("expose_headers[0]", "'*' has no meaning for browsers with credentials; list the headers");
  }
}

void CheckAccess(const Report& report, const v1::IpAccess& access) {
  if (access.allow_size() == 0 && access.deny_size() == 0) report.Add("", "has neither allow nor deny");
  AddressSet scratch;
  for (int i = 0; i < access.allow_size(); ++i) report.AddIfBad(At("allow", i), scratch.Add(access.allow(i)));
  for (int i = 0; i < access.deny_size(); ++i) report.AddIfBad(At("deny", i), scratch.Add(access.deny(i)));
}

}  // namespace

void CheckResource(const v1::Resource& resource, std::vector<v1::PolicyError>* errors) {
  const ResourceKey key = KeyOf(resource);
  const Report report(key, errors);
  const google::protobuf::Message* body = BodyOf(resource);
  if (body == nullptr) {
    report.Add("kind", "is missing, or one that this version does not know");
    return;
  }
  report.AddIfBad("name", CheckName(key.name));
  std::vector<FieldProblem> problems;
  CheckRules(*body, &problems);
  for (const FieldProblem& problem : problems) report.Add(problem.field, problem.message);

  switch (resource.kind_case()) {
    case v1::Resource::kService:
      CheckEnvelope(report, resource.service().labels(), resource.service().description());
      CheckService(report, resource.service());
      break;
    case v1::Resource::kRoute:
      CheckEnvelope(report, resource.route().labels(), resource.route().description());
      CheckRoute(report, resource.route());
      break;
    case v1::Resource::kRateLimit:
      CheckEnvelope(report, resource.rate_limit().labels(), resource.rate_limit().description());
      CheckRateLimit(report, resource.rate_limit());
      break;
    case v1::Resource::kCircuitBreaker:
      CheckEnvelope(report, resource.circuit_breaker().labels(), resource.circuit_breaker().description());
      CheckBreaker(report, resource.circuit_breaker());
      break;
    case v1::Resource::kRetry:
      CheckEnvelope(report, resource.retry().labels(), resource.retry().description());
      CheckRetry(report, resource.retry());
      break;
    case v1::Resource::kAuth:
      CheckEnvelope(report, resource.auth().labels(), resource.auth().description());
      CheckAuth(report, resource.auth());
      break;
    case v1::Resource::kConsumer:
      CheckEnvelope(report, resource.consumer().labels(), resource.consumer().description());
      CheckConsumer(report, resource.consumer());
      break;
    case v1::Resource::kCors:
      CheckEnvelope(report, resource.cors().labels(), resource.cors().description());
      CheckCors(report, resource.cors());
      break;
    case v1::Resource::kIpAccess:
      CheckEnvelope(report, resource.ip_access().labels(), resource.ip_access().description());
      CheckAccess(report, resource.ip_access());
      break;
    case v1::Resource::kCertificate:
      CheckEnvelope(report, resource.certificate().labels(), resource.certificate().description());
      CheckCertificate(report, resource.certificate());
      break;
    case v1::Resource::kDefaults:
      CheckEnvelope(report, resource.defaults().labels(), resource.defaults().description());
      if (key.name != kDefaultName) {
        report.Add("name", fmt::format("{}: there is one Defaults, named 'default'", QuoteForMessage(key.name)));
      }
      CheckLimitList(report, resource.defaults().rate_limits());
      break;
    case v1::Resource::KIND_NOT_SET:
      break;
  }
}

}  // namespace gateway
