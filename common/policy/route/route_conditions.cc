#include "common/policy/route/route_conditions.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "common/base/quote.h"
#include "common/policy/route/path.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {
namespace {

constexpr int kRegexPrefixBytesMax = 256;

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

// What every text that `regex` matches begins with, as far as can be seen.
std::string RegexPrefix(const RE2& regex) {
  std::string min;
  std::string max;
  if (!regex.PossibleMatchRange(&min, &max, kRegexPrefixBytesMax)) return {};
  size_t size = 0;
  while (size < min.size() && size < max.size() && min[size] == max[size]) ++size;
  // What begins with "/a/" ends in front of "/a0", and this is how RE2 says so.
  if (size < min.size() && size + 1 == max.size() &&
      static_cast<unsigned char>(min[size]) + 1 == static_cast<unsigned char>(max[size]) && !MatchesWhole(regex, max)) {
    ++size;
  }
  return min.substr(0, size);
}

// Whether `regex`, whose matches begin with `prefix`, matches neither a path in normal form nor "*".
bool MatchesNoPath(const RE2& regex, std::string_view prefix) {
  std::string min;
  std::string max;
  if (regex.PossibleMatchRange(&min, &max, kRegexPrefixBytesMax)) {
    const bool before_paths = max < "/";
    const bool after_paths = min > "/" && min.front() != '/';
    if ((before_paths || after_paths) && !MatchesWhole(regex, "*")) return true;
  }
  if (!prefix.starts_with('/')) return false;
  // Normal form is one of each segment: whole ones tell.
  const std::string_view segments = prefix.substr(0, prefix.rfind('/') + 1);
  std::string normal;
  return NormalizePath(segments, /*reject_encoded_slashes=*/false, &normal) != PathError::kNone || normal != segments;
}

bool DecodedStartsWith(std::string_view raw, std::string_view want, bool whole) {
  QueryBytes bytes(raw);
  for (char c : want) {
    if (bytes.AtEnd() || bytes.Next() != c) return false;
  }
  return !whole || bytes.AtEnd();
}

template <typename Match>
RouteConditions::Value CompileValue(const Match& match) {
  using Value = RouteConditions::Value;
  Value value;
  value.name = match.name();
  switch (match.match_case()) {
    case Match::kExact:
      value.kind = Value::Kind::kExact;
      value.text = match.exact();
      break;
    case Match::kPrefix:
      value.kind = Value::Kind::kPrefix;
      value.text = match.prefix();
      break;
    case Match::kRegex:
      value.kind = Value::Kind::kRegex;
      value.text = match.regex();
      value.regex = CompileRegex(match.regex());
      break;
    case Match::kPresent:
    case Match::MATCH_NOT_SET:
      value.kind = match.present() ? Value::Kind::kPresent : Value::Kind::kAbsent;
      break;
  }
  return value;
}

}  // namespace

bool MatchesWhole(const RE2& regex, std::string_view text) {
  re2::StringPiece piece(text.data(), text.size());
  return regex.Match(piece, 0, piece.size(), RE2::ANCHOR_BOTH, nullptr, 0);
}

std::optional<std::string_view> ComparableSegment(std::string_view segment, char (&buffer)[kPathPatternBytesMax]) {
  if (segment.find('%') == std::string_view::npos) return segment;
  size_t size = 0;
  for (size_t i = 0; i < segment.size(); ++i) {
    char c = segment[i];
    if (c == '%' && i + 2 < segment.size()) {
      const int value = HexValue(segment[i + 1]) * 16 + HexValue(segment[i + 2]);
      const char decoded = static_cast<char>(value);
      if (value > 0 && kComparedDecoded.find(decoded) != std::string_view::npos) {
        c = decoded;
        i += 2;
      }
    }
    if (size == sizeof buffer) return std::nullopt;
    buffer[size++] = c;
  }
  return std::string_view(buffer, size);
}

std::string Comparable(std::string_view segment) {
  char buffer[kPathPatternBytesMax];
  return std::string(ComparableSegment(segment, buffer).value_or(segment));
}

char QueryBytes::Next() {
  const char c = raw_[i_++];
  if (c == '+') return ' ';
  if (c != '%' || raw_.size() - i_ < 2) return c;
  const int high = HexValue(raw_[i_]);
  const int low = HexValue(raw_[i_ + 1]);
  if (high < 0 || low < 0) return c;
  i_ += 2;
  return static_cast<char>(high << 4 | low);
}

std::optional<std::string_view> FindQuery(std::string_view query, std::string_view name) {
  for (size_t begin = 0; begin < query.size();) {
    const size_t end = std::min(query.find('&', begin), query.size());
    const std::string_view pair = query.substr(begin, end - begin);
    begin = end + 1;
    const size_t equals = std::min(pair.find('='), pair.size());
    if (!pair.empty() && DecodedStartsWith(pair.substr(0, equals), name, /*whole=*/true)) {
      return pair.substr(std::min(equals + 1, pair.size()));
    }
  }
  return std::nullopt;
}

bool SameFieldName(std::string_view a, std::string_view b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](char x, char y) {
           return absl::ascii_tolower(static_cast<unsigned char>(x)) ==
                  absl::ascii_tolower(static_cast<unsigned char>(y));
         });
}

RouteConditions RouteConditions::Compile(const v1::RouteMatch& match) {
  RouteConditions conditions;
  conditions.methods = MethodsWithHead(match.methods());
  conditions.implies_head = conditions.methods.size() > static_cast<size_t>(match.methods_size());
  for (const v1::HeaderMatch& header : match.headers()) {
    conditions.headers.push_back(CompileValue(header));
    absl::AsciiStrToLower(&conditions.headers.back().name);
  }
  for (const v1::QueryMatch& query : match.query()) conditions.query.push_back(CompileValue(query));
  if (match.scheme() != v1::RouteMatch::SCHEME_UNSPECIFIED) {
    conditions.https = match.scheme() == v1::RouteMatch::HTTPS;
  }
  if (match.path().has_regex()) {
    conditions.path = CompileRegex(match.path().regex());
    conditions.path_prefix = RegexPrefix(*conditions.path);
  }
  return conditions;
}

bool RouteConditions::Value::HoldsForField(std::string_view value) const {
  switch (kind) {
    case Kind::kExact:
      return value == text;
    case Kind::kPrefix:
      return value.starts_with(text);
    case Kind::kRegex:
      return MatchesWhole(*regex, value);
    case Kind::kPresent:
    case Kind::kAbsent:
      return true;
  }
  return false;
}

bool RouteConditions::Value::HoldsForQuery(std::string_view raw) const {
  switch (kind) {
    case Kind::kExact:
      return DecodedStartsWith(raw, text, /*whole=*/true);
    case Kind::kPrefix:
      return DecodedStartsWith(raw, text, /*whole=*/false);
    case Kind::kRegex: {
      std::string decoded;
      for (QueryBytes bytes(raw); !bytes.AtEnd();) decoded += bytes.Next();
      return MatchesWhole(*regex, decoded);
    }
    case Kind::kPresent:
    case Kind::kAbsent:
      return true;
  }
  return false;
}

bool RouteConditions::Value::Covers(const Value& other) const {
  if (name != other.name) return false;
  const bool same_kind = kind == other.kind;
  switch (kind) {
    case Kind::kExact:
      return same_kind && text == other.text;
    case Kind::kPrefix:
      return (same_kind || other.kind == Kind::kExact) && other.text.starts_with(text);
    case Kind::kRegex:
      return same_kind ? text == other.text : other.kind == Kind::kExact && MatchesWhole(*regex, other.text);
    case Kind::kPresent:
      return other.kind != Kind::kAbsent;
    case Kind::kAbsent:
      return same_kind;
  }
  return false;
}

bool RouteConditions::Value::Excludes(const Value& other) const {
  if (name != other.name) return false;
  if (other.kind == Kind::kExact && kind != Kind::kAbsent) return !HoldsForField(other.text);
  if (kind == Kind::kExact && other.kind != Kind::kAbsent) return !other.HoldsForField(text);
  if (kind == Kind::kPrefix && other.kind == Kind::kPrefix) {
    return !text.starts_with(other.text) && !other.text.starts_with(text);
  }
  return IsAbsentBeside(other);
}

bool RouteConditions::Value::IsAbsentBeside(const Value& other) const {
  return name == other.name && (kind == Kind::kAbsent) != (other.kind == Kind::kAbsent);
}

bool RouteConditions::HoldFor(const MatchInput& in) const {
  if (https.has_value() && *https != in.https) return false;
  if (path != nullptr && !MatchesWhole(*path, in.path)) return false;
  for (const Value& value : headers) {
    const bool wanted = value.kind != Value::Kind::kAbsent;
    const bool found = std::any_of(in.fields.begin(), in.fields.end(), [&value](const FieldView& field) {
      return SameFieldName(field.name, value.name) && value.HoldsForField(field.value);
    });
    if (found != wanted) return false;
  }
  for (const Value& value : query) {
    const std::optional<std::string_view> raw = FindQuery(in.query, value.name);
    const bool found = raw.has_value() && value.HoldsForQuery(*raw);
    if (found != (value.kind != Value::Kind::kAbsent)) return false;
  }
  return true;
}

bool RouteConditions::CoverFieldsAndQuery(const RouteConditions& other) const {
  auto cover = [](const std::vector<Value>& values, const std::vector<Value>& others) {
    return std::all_of(values.begin(), values.end(), [&others](const Value& value) {
      return std::any_of(others.begin(), others.end(), [&value](const Value& v) { return value.Covers(v); });
    });
  };
  const bool same_scheme = !https.has_value() || https == other.https;
  return same_scheme && cover(headers, other.headers) && cover(query, other.query);
}

bool RouteConditions::MatchEveryPath() const {
  return path != nullptr && (path->pattern() == "/.*" || path->pattern() == "^/.*$" || MatchEverything());
}
bool RouteConditions::MatchEverything() const {
  return path != nullptr && (path->pattern() == ".*" || path->pattern() == "^.*$");
}

std::string RouteConditions::Contradiction() const {
  if (path != nullptr && MatchesNoPath(*path, path_prefix)) return "its regex matches no path in normal form";
  // Several lines of a field may each have another value; of a parameter of the query the first one counts.
  auto find = [](const std::vector<Value>& values, auto excludes) -> const Value* {
    for (auto a = values.begin(); a != values.end(); ++a) {
      if (std::any_of(values.begin(), a, [&](const Value& b) { return excludes(*a, b); })) return &*a;
    }
    return nullptr;
  };
  if (const Value* v = find(headers, [](const Value& a, const Value& b) { return a.IsAbsentBeside(b); })) {
    return fmt::format("it asks for the header {} and for its absence", QuoteForMessage(v->name));
  }
  if (const Value* v = find(query, [](const Value& a, const Value& b) { return a.Excludes(b); })) {
    return fmt::format("its conditions on the query parameter {} contradict each other", QuoteForMessage(v->name));
  }
  return {};
}

std::string RouteConditions::Canonical() const {
  auto sorted = [](std::vector<std::string> texts) {
    std::sort(texts.begin(), texts.end());
    std::string out = fmt::format("{};", texts.size());
    for (const std::string& text : texts) out += fmt::format("{}:{}", text.size(), text);
    return out;
  };
  auto values = [&sorted](const std::vector<Value>& all) {
    std::vector<std::string> texts;
    texts.reserve(all.size());
    for (const Value& v : all)
      texts.push_back(fmt::format("{}:{}{}{}", v.name.size(), v.name, static_cast<int>(v.kind), v.text));
    return sorted(std::move(texts));
  };
  return (implies_head ? "implied " : "") + sorted(methods) + values(headers) + values(query) +
         (!https.has_value() ? ""
          : *https           ? "https "
                             : "http ") +
         (path == nullptr ? "" : path->pattern());
}

}  // namespace gateway
