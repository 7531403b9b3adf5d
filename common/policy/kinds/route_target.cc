#include "common/policy/kinds/route_target.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/strings/ascii.h"
#include "common/base/quote.h"
#include "common/base/text.h"
#include "common/policy/route/path.h"
#include "common/policy/route/route_pattern.h"
#include "re2/re2.h"

namespace gateway {
namespace {

// A path template that takes its variables from the route's own.
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

// Whether every match of `pattern` is at the start of the text, as far as that is easy to see; else false.
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

// Why `literal`, which is copied into a rewritten path, can never be part of a path in normal form; "" if it can.
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

// Reports a substitution whose result is never a path: every request would get 500. It is valid for RE2.
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
  // What makes the second request differ: no query, GET instead of POST, a cookie.
  if (redirect.strip_query() && match.query_size() > 0) return false;
  const bool turns_into_get = status == 301 || status == 302 || status == 303;
  if (turns_into_get && match.methods_size() > 0 &&
      std::find(match.methods().begin(), match.methods().end(), "GET") == match.methods().end()) {
    return false;
  }
  return match.headers_size() == 0 || !route.has_response_headers();
}

std::vector<RewritePiece> PrefixPieces(std::string_view prefix) {
  if (prefix.ends_with('/')) prefix.remove_suffix(1);  // the rest begins with its own, or is nothing
  return {{.literal = std::string(prefix), .variable = -1}};
}

std::vector<RewritePiece> TemplatePieces(const std::string& text, const std::vector<std::string>& variables) {
  std::vector<RewritePiece> pieces;
  std::string literal;
  const std::vector<TemplateSegment> segments = ParseTemplate(text).value();
  for (const TemplateSegment& segment : segments) {
    if (segment.kind != TemplateSegment::Kind::kRest) literal += '/';  // ** has its own, or is nothing
    if (segment.kind == TemplateSegment::Kind::kLiteral) {
      literal += segment.text;
      continue;
    }
    if (!literal.empty()) pieces.push_back({.literal = std::exchange(literal, {}), .variable = -1});
    const auto at = std::find(variables.begin(), variables.end(), segment.text) - variables.begin();
    pieces.push_back({.literal = {}, .variable = static_cast<int>(at)});
  }
  if (!literal.empty()) pieces.push_back({.literal = std::move(literal), .variable = -1});
  return pieces;
}

}  // namespace

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
    // Compiled as for serving, within the same memory: what can't be built must be rejected.
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

void CompileRewrite(const v1::Rewrite& rewrite, const std::vector<std::string>& variables, RoutePolicy* policy) {
  policy->rewrite_host = rewrite.host();
  if (!rewrite.prefix().empty()) {
    policy->rewrites = true;
    policy->rewrite_is_prefix = true;
    policy->rewrite = PrefixPieces(rewrite.prefix());
  }
  if (!rewrite.template_().empty()) {
    policy->rewrites = true;
    policy->rewrite = TemplatePieces(rewrite.template_(), variables);
  }
  if (rewrite.has_regex()) {
    policy->rewrites = true;
    policy->rewrite_regex = CompileRegex(rewrite.regex().pattern());  // checked before
    policy->rewrite_substitution = rewrite.regex().substitution();
  }
}

std::unique_ptr<const RedirectPolicy> CompileRedirect(const v1::Redirect& redirect,
                                                      const std::vector<std::string>& variables) {
  auto policy = std::make_unique<RedirectPolicy>();
  if (redirect.has_status()) policy->status = static_cast<int>(redirect.status());
  policy->scheme = redirect.scheme();
  policy->host = redirect.host();
  policy->path = redirect.path();
  if (!redirect.prefix().empty()) {
    policy->rewrite_is_prefix = true;
    policy->rewrite = PrefixPieces(redirect.prefix());
  }
  if (!redirect.template_().empty()) policy->rewrite = TemplatePieces(redirect.template_(), variables);
  policy->strip_query = redirect.strip_query();
  return policy;
}

void WarnOfRedirect(const v1::Route& route, std::vector<std::string>* warnings) {
  const v1::Redirect& redirect = route.redirect();
  if (redirect.scheme().empty() || !redirect.host().empty() || !redirect.path().empty() || !redirect.prefix().empty() ||
      !redirect.template_().empty() || route.match().scheme() != v1::RouteMatch::SCHEME_UNSPECIFIED) {
    return;
  }
  warnings->push_back(fmt::format("Route/{}: redirects {} requests to themselves; add `match: {{ scheme: {} }}`",
                                  route.name(), redirect.scheme(), redirect.scheme() == "https" ? "http" : "https"));
}

}  // namespace gateway
