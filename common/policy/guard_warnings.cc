#include "common/policy/guard_warnings.h"

#include <deque>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/str_join.h"
#include "common/base/quote.h"
#include "common/policy/route/path.h"
#include "common/policy/route/route_pattern.h"
#include "common/policy/snapshot.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {
namespace {

// A method that no policy lists: only routes without methods take it.
constexpr std::string_view kUnlistedMethod = "X-ANY-OTHER";

// A request that `match` takes, except for its method and host.
class SampleRequest {
 public:
  // False: it has a regex.
  bool Make(const v1::RouteMatch& match) {
    if (!MakePath(match.path())) return false;
    https_ = match.scheme() != v1::RouteMatch::HTTP;
    for (const v1::HeaderMatch& header : match.headers()) {
      const std::optional<std::string> value = ValueOf(header);
      if (!value.has_value()) return false;
      if (header.has_present() && !header.present()) continue;
      texts_.push_back(*value);
      fields_.push_back({header.name(), texts_.back()});
    }
    for (const v1::QueryMatch& query : match.query()) {
      const std::optional<std::string> value = ValueOf(query);
      if (!value.has_value()) return false;
      if (query.has_present() && !query.present()) continue;
      query_ += fmt::format("{}{}={}", query_.empty() ? "" : "&", Encoded(query.name()), Encoded(*value));
    }
    return true;
  }

  MatchInput For(std::string_view method, std::string_view host) const {
    return {.method = method, .host = host, .path = path_, .query = query_, .fields = fields_, .https = https_};
  }
  const std::string& path() const { return path_; }

 private:
  bool MakePath(const v1::PathMatch& path) {
    switch (path.match_case()) {
      case v1::PathMatch::kExact:
        path_ = path.exact();
        return true;
      case v1::PathMatch::kPrefix:
        path_ = path.prefix();
        return true;
      case v1::PathMatch::kTemplate: {
        const std::vector<TemplateSegment> segments = ParseTemplate(path.template_()).value();
        for (const TemplateSegment& segment : segments) {
          if (segment.kind == TemplateSegment::Kind::kRest) continue;
          path_ += segment.kind == TemplateSegment::Kind::kVariable ? "/x" : "/" + segment.text;
        }
        if (path_.empty()) path_ = "/";
        return true;
      }
      case v1::PathMatch::kRegex:
        return false;
      case v1::PathMatch::MATCH_NOT_SET:
        path_ = "/";
        return true;
    }
    return false;
  }

  template <typename Match>
  static std::optional<std::string> ValueOf(const Match& match) {
    if (match.has_regex()) return std::nullopt;
    return match.has_exact() ? match.exact() : match.has_prefix() ? match.prefix() : std::string("x");
  }

  static std::string Encoded(std::string_view text) {
    std::string encoded;
    for (const char c : text) encoded += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    return encoded;
  }

  std::string path_;
  std::string query_;
  bool https_ = true;
  std::deque<std::string> texts_;  // what fields_ points into
  std::vector<FieldView> fields_;
};

// Whether `open` lets requests through to a service that `guarded` would not.
bool IsOpenBeside(const RoutePolicy& guarded, const RoutePolicy& open) {
  if (open.respond != nullptr || open.redirect != nullptr) return false;
  return (guarded.auth != nullptr && guarded.auth != open.auth) ||
         (guarded.access != nullptr && guarded.access != open.access);
}

// The route that an unlisted method takes where one of `guarded`'s own would take that one; null: none that is open.
const RoutePolicy* OpenBeside(const RouteTable& table, const RouteTable::Entry& guarded, const SampleRequest& sample) {
  std::vector<std::string> hosts;
  for (const std::string& pattern : guarded.config->match().hosts()) {
    if (hosts.size() == kGuardedHostsTriedMax) break;
    const std::string host = pattern.starts_with('*') ? "x" + pattern.substr(1) : pattern;
    char normal[kNormalHostBytesMax];
    hosts.emplace_back(normal, NormalizeHost(host, normal));
  }
  if (hosts.empty()) hosts.emplace_back("x.invalid");
  for (const std::string& host : hosts) {
    RouteMatch own;
    table.Match(sample.For(guarded.config->match().methods(0), host), &own);
    if (own.route != guarded.route) continue;  // another route goes before it here
    RouteMatch other;
    table.Match(sample.For(kUnlistedMethod, host), &other);
    if (other.route != nullptr && IsOpenBeside(*guarded.route, *other.route)) return other.route;
  }
  return nullptr;
}

}  // namespace

void WarnOfOpenMethods(const RouteTable& table, std::span<const RouteTable::Entry> entries,
                       std::vector<std::string>* warnings) {
  for (const RouteTable::Entry& entry : entries) {
    const RoutePolicy& route = *entry.route;
    if (entry.config->match().methods().empty() || (route.auth == nullptr && route.access == nullptr)) continue;
    SampleRequest sample;
    if (!sample.Make(entry.config->match())) continue;
    const RoutePolicy* open = OpenBeside(table, entry, sample);
    if (open == nullptr) continue;
    const bool by_auth = route.auth != nullptr && route.auth != open->auth;
    warnings->push_back(fmt::format(
        "Route/{}: its {} covers {} alone: any other method of {} takes Route/{}, which is not guarded by it; leave "
        "`methods` out here, or guard that route too",
        route.name, by_auth ? "auth" : "access", absl::StrJoin(MethodsWithHead(entry.config->match().methods()), ", "),
        QuoteForMessage(sample.path()), open->name));
  }
}

}  // namespace gateway
