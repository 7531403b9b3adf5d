#include "common/route_table.h"

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <tuple>
#include <utility>

#include "absl/strings/ascii.h"
#include "common/path.h"
#include "common/route_pattern.h"
#include "common/text.h"
#include "common/yaml.h"
#include "re2/re2.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {
namespace {

constexpr int32_t kLowestPriority = std::numeric_limits<int32_t>::min();

// Enough to find the usual mistakes; they keep a build linear where thousands of routes share one path, and where
// thousands of templates cross.
constexpr size_t kCoverChecksMax = 32;  // routes of one place
constexpr size_t kCoverNodesMax = 256;

constexpr size_t kCoversNamedMax = 4;  // in one warning

constexpr int kRegexPrefixBytesMax = 256;

constexpr uint32_t kScannedMax = 8;     // candidates of a leaf that are tried in turn; more get an index
constexpr size_t kIndexedNamesMax = 8;  // of headers and of the query, in one index: each is looked for in each request

// See the head of the header.
constexpr std::string_view kComparedDecoded = "!$&'()*+,;=:@[]";

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

bool MatchesWhole(const RE2& regex, std::string_view text) {
  re2::StringPiece piece(text.data(), text.size());
  return regex.Match(piece, 0, piece.size(), RE2::ANCHOR_BOTH, nullptr, 0);
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

// The form in which literal segments are compared; see the head of the header. Views into `segment` or `buffer`;
// nothing where it is longer than any pattern.
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

// The bytes of a name or a value of a query, decoded one by one.
class QueryBytes {
 public:
  explicit QueryBytes(std::string_view raw) : raw_(raw) {}
  bool AtEnd() const { return i_ == raw_.size(); }
  char Next() {
    const char c = raw_[i_++];
    if (c == '+') return ' ';
    if (c != '%' || raw_.size() - i_ < 2) return c;
    const int high = HexValue(raw_[i_]);
    const int low = HexValue(raw_[i_ + 1]);
    if (high < 0 || low < 0) return c;
    i_ += 2;
    return static_cast<char>(high << 4 | low);
  }

 private:
  std::string_view raw_;
  size_t i_ = 0;
};

bool DecodedStartsWith(std::string_view raw, std::string_view want, bool whole) {
  QueryBytes bytes(raw);
  for (char c : want) {
    if (bytes.AtEnd() || bytes.Next() != c) return false;
  }
  return !whole || bytes.AtEnd();
}

// The raw value of the first pair of that name.
std::optional<std::string_view> FindQuery(std::string_view query, std::string_view name) {
  while (!query.empty()) {
    const size_t end = std::min(query.find('&'), query.size());
    const std::string_view pair = query.substr(0, end);
    query.remove_prefix(std::min(end + 1, query.size()));
    const size_t equals = std::min(pair.find('='), pair.size());
    if (!pair.empty() && DecodedStartsWith(pair.substr(0, equals), name, /*whole=*/true)) {
      return pair.substr(std::min(equals + 1, pair.size()));
    }
  }
  return std::nullopt;
}

bool EqualsIgnoreCase(std::string_view a, std::string_view b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](char x, char y) {
           return absl::ascii_tolower(static_cast<unsigned char>(x)) ==
                  absl::ascii_tolower(static_cast<unsigned char>(y));
         });
}

// "'a', 'b' and 'c'", or "'a', 'b' and 7 more".
std::string JoinNames(const std::set<std::string_view>& names) {
  std::string out;
  size_t named = 0;
  for (std::string_view name : names) {
    const size_t left = names.size() - named;
    if (named == kCoversNamedMax && left > 1) return out + fmt::format(" and {} more", left);
    if (named != 0) out += left == 1 ? " and " : ", ";
    out += QuoteForMessage(name);
    ++named;
  }
  return out;
}

// The key's view, as the hash map has it.
absl::string_view Key(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

// What a route asks of a request beyond its host and the path's literal segments and variables.
struct RouteTable::Conditions {
  struct Value {
    enum class Kind : uint8_t { kExact, kPrefix, kRegex, kPresent, kAbsent };
    Kind kind = Kind::kPresent;
    std::string name;  // a field's in lower case
    std::string text;  // of an exact value, a prefix, a regex
    std::unique_ptr<const RE2> regex;

    bool HoldsForField(std::string_view value) const {
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

    bool HoldsForQuery(std::string_view raw) const {
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

    // Whether it holds wherever `other` does, as far as that can be seen.
    bool Covers(const Value& other) const {
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

    // Whether no single text is what both ask for, as far as that can be seen.
    bool Excludes(const Value& other) const {
      if (name != other.name) return false;
      if (other.kind == Kind::kExact && kind != Kind::kAbsent) return !HoldsForField(other.text);
      if (kind == Kind::kExact && other.kind != Kind::kAbsent) return !other.HoldsForField(text);
      if (kind == Kind::kPrefix && other.kind == Kind::kPrefix) {
        return !text.starts_with(other.text) && !other.text.starts_with(text);
      }
      return IsAbsentBeside(other);
    }

    // Whether one asks that there is none, the other for one.
    bool IsAbsentBeside(const Value& other) const {
      return name == other.name && (kind == Kind::kAbsent) != (other.kind == Kind::kAbsent);
    }
  };

  std::vector<std::string> methods;  // empty: any
  std::vector<Value> headers;
  std::vector<Value> query;
  std::unique_ptr<const RE2> path;  // null: none
  std::string path_prefix;          // what every path that it matches begins with

  size_t Count() const { return headers.size() + query.size(); }

  bool AllowsMethod(std::string_view method) const {
    return methods.empty() || std::find(methods.begin(), methods.end(), method) != methods.end();
  }

  // All but the method.
  bool HoldFor(const MatchInput& in) const {
    if (path != nullptr && !MatchesWhole(*path, in.path)) return false;
    for (const Value& value : headers) {
      const bool wanted = value.kind != Value::Kind::kAbsent;
      const bool found = std::any_of(in.fields.begin(), in.fields.end(), [&value](const FieldView& field) {
        return EqualsIgnoreCase(field.name, value.name) && value.HoldsForField(field.value);
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

  // Whether every request whose fields and query are as `other` asks has them as these ask, as far as that can be seen.
  bool CoverFieldsAndQuery(const Conditions& other) const {
    auto cover = [](const std::vector<Value>& values, const std::vector<Value>& others) {
      return std::all_of(values.begin(), values.end(), [&others](const Value& value) {
        return std::any_of(others.begin(), others.end(), [&value](const Value& v) { return value.Covers(v); });
      });
    };
    return cover(headers, other.headers) && cover(query, other.query);
  }

  // Whether the regex matches every path that a pattern can; `.*` matches "*" of OPTIONS besides.
  bool MatchEveryPath() const {
    return path != nullptr && (path->pattern() == "/.*" || path->pattern() == "^/.*$" || MatchEverything());
  }
  bool MatchEverything() const { return path != nullptr && (path->pattern() == ".*" || path->pattern() == "^.*$"); }

  // Why no request has them hold, as far as that can be seen; else empty.
  std::string Contradiction() const {
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
      return fmt::format("what it asks of the query parameter {} excludes itself", QuoteForMessage(v->name));
    }
    return {};
  }

  // One text for all that hold for the same requests, whatever the order in which they were written.
  std::string Canonical() const {
    auto sorted = [](std::vector<std::string> texts) {
      std::sort(texts.begin(), texts.end());
      std::string out = fmt::format("{};", texts.size());
      for (const std::string& text : texts) out += fmt::format("{}:{}", text.size(), text);
      return out;
    };
    auto values = [&sorted](const std::vector<Value>& all) {
      std::vector<std::string> texts;
      for (const Value& v : all)
        texts.push_back(fmt::format("{}:{}{}{}", v.name.size(), v.name, static_cast<int>(v.kind), v.text));
      return sorted(std::move(texts));
    };
    return sorted(methods) + values(headers) + values(query) + (path == nullptr ? "" : path->pattern());
  }
};

// Finds the candidates of a large leaf that a request may match. Each stands under one thing that it asks for: an exact
// value of a header or of the query, or what its regex begins with; of several, under the one that fewest others ask
// for.
class RouteTable::LeafIndex {
 public:
  using Positions = std::vector<uint32_t>;  // ascending

  // The positions begin at `begin`.
  LeafIndex(std::span<const Candidate> candidates, uint32_t begin);

  // Calls `visit` with lists of positions; all candidates that may match are in one of them.
  template <typename Visit>
  void FindFor(const MatchInput& in, Visit visit) const {
    for (const Name& name : names_) {
      if (name.is_query) {
        FindByQuery(name, in, visit);
      } else {
        FindByHeader(name, in, visit);
      }
    }
    // The last one in order that the path may begin with; then those that it begins with itself.
    auto after = std::upper_bound(prefixes_.begin(), prefixes_.end(), in.path,
                                  [](std::string_view path, const Prefix& prefix) { return path < prefix.text; });
    for (auto i = static_cast<size_t>(after - prefixes_.begin()); i != 0; i = prefixes_[i - 1].shorter) {
      if (in.path.starts_with(prefixes_[i - 1].text)) visit(prefixes_[i - 1].positions);
    }
    visit(others_);
  }

 private:
  struct Name {
    bool is_query;
    std::string_view name;
    absl::flat_hash_map<absl::string_view, Positions> by_value;
  };
  struct Prefix {
    std::string_view text;
    size_t shorter;  // 1 + the position of the longest other one that it begins with; 0: none
    Positions positions;
  };
  // What a candidate may stand under; views into its conditions.
  struct Handle {
    enum class Kind : uint8_t { kHeader, kQuery, kPath };
    Kind kind;
    std::string_view name;
    std::string_view value;
    auto Tie() const { return std::tuple(kind, Key(name), Key(value)); }
  };
  static std::vector<Handle> HandlesOf(const Candidate& candidate);

  template <typename Visit>
  static void FindByHeader(const Name& name, const MatchInput& in, Visit visit) {
    for (auto field = in.fields.begin(); field != in.fields.end(); ++field) {
      if (!EqualsIgnoreCase(field->name, name.name)) continue;
      auto it = name.by_value.find(Key(field->value));
      // A line that comes again would only cost again.
      if (it == name.by_value.end() || std::any_of(in.fields.begin(), field, [&](const FieldView& earlier) {
            return earlier.value == field->value && EqualsIgnoreCase(earlier.name, name.name);
          })) {
        continue;
      }
      visit(it->second);
    }
  }

  template <typename Visit>
  static void FindByQuery(const Name& name, const MatchInput& in, Visit visit) {
    const std::optional<std::string_view> raw = FindQuery(in.query, name.name);
    if (!raw.has_value()) return;
    char buffer[kConditionBytesMax];
    std::string_view value = *raw;
    if (value.find_first_of("%+") != std::string_view::npos) {
      size_t size = 0;
      for (QueryBytes bytes(*raw); !bytes.AtEnd();) {
        if (size == sizeof buffer) return;
        buffer[size++] = bytes.Next();
      }
      value = std::string_view(buffer, size);
    }
    auto it = name.by_value.find(Key(value));
    if (it != name.by_value.end()) visit(it->second);
  }

  std::vector<Name> names_;
  std::vector<Prefix> prefixes_;  // sorted by their text
  Positions others_;
};

std::vector<RouteTable::LeafIndex::Handle> RouteTable::LeafIndex::HandlesOf(const Candidate& candidate) {
  std::vector<Handle> handles;
  if (candidate.conditions == nullptr) return handles;
  auto add = [&handles](Handle::Kind kind, const std::vector<Conditions::Value>& values) {
    for (const Conditions::Value& value : values) {
      if (value.kind == Conditions::Value::Kind::kExact) handles.push_back({kind, value.name, value.text});
    }
  };
  add(Handle::Kind::kHeader, candidate.conditions->headers);
  add(Handle::Kind::kQuery, candidate.conditions->query);
  const std::string& prefix = candidate.conditions->path_prefix;
  if (!prefix.empty()) handles.push_back({Handle::Kind::kPath, {}, prefix});
  return handles;
}

RouteTable::LeafIndex::LeafIndex(std::span<const Candidate> candidates, uint32_t begin) {
  absl::flat_hash_map<decltype(Handle().Tie()), size_t> counts;
  std::map<std::pair<bool, std::string_view>, size_t> name_counts;
  for (const Candidate& candidate : candidates) {
    for (const Handle& handle : HandlesOf(candidate)) {
      ++counts[handle.Tie()];
      if (handle.kind != Handle::Kind::kPath) ++name_counts[{handle.kind == Handle::Kind::kQuery, handle.name}];
    }
  }
  using NameCount = std::pair<std::pair<bool, std::string_view>, size_t>;
  std::vector<NameCount> names(name_counts.begin(), name_counts.end());
  std::stable_sort(names.begin(), names.end(),
                   [](const NameCount& a, const NameCount& b) { return a.second > b.second; });
  names.resize(std::min(names.size(), kIndexedNamesMax));
  for (const auto& [name, count] : names) {
    names_.push_back({.is_query = name.first, .name = name.second, .by_value = {}});
  }
  auto find_name = [this](const Handle& handle) {
    return std::find_if(names_.begin(), names_.end(), [&handle](const Name& name) {
      return name.is_query == (handle.kind == Handle::Kind::kQuery) && name.name == handle.name;
    });
  };

  std::map<std::string_view, Positions> by_prefix;
  for (const Candidate& candidate : candidates) {
    std::vector<Handle> handles = HandlesOf(candidate);
    std::erase_if(handles, [&](const Handle& handle) {
      return handle.kind != Handle::Kind::kPath && find_name(handle) == names_.end();
    });
    auto rarest = std::min_element(handles.begin(), handles.end(), [&counts](const Handle& a, const Handle& b) {
      return counts[a.Tie()] < counts[b.Tie()];
    });
    Positions& positions = rarest == handles.end()               ? others_
                           : rarest->kind == Handle::Kind::kPath ? by_prefix[rarest->value]
                                                                 : find_name(*rarest)->by_value[Key(rarest->value)];
    positions.push_back(begin++);
  }

  for (auto& [text, positions] : by_prefix) {
    size_t shorter = prefixes_.size();
    while (shorter != 0 && !text.starts_with(prefixes_[shorter - 1].text)) shorter = prefixes_[shorter - 1].shorter;
    prefixes_.push_back({.text = text, .shorter = shorter, .positions = std::move(positions)});
  }
}

// One match of one request: the walk's state. On the stack of Match.
class RouteTable::Walk {
 public:
  Walk(const RouteTable& table, const MatchInput& in, RouteMatch* out) : table_(table), in_(in), out_(out) {}

  void Run() {
    VisitHosts();
    if (out_->route != nullptr || !method_failed_) return;
    collecting_ = true;
    out_->method_not_allowed = true;
    VisitHosts();
    std::sort(out_->allowed_methods.begin(), out_->allowed_methods.end());
  }

 private:
  // Nothing at or below `priority` can win any more.
  bool IsBeaten(int32_t priority) const { return out_->route != nullptr && priority <= best_priority_; }

  void VisitHosts() {
    if (!in_.host.empty() && in_.host.size() <= kHostBytesMax) {
      if (!table_.exact_hosts_.empty()) {
        auto it = table_.exact_hosts_.find(Key(in_.host));
        if (it != table_.exact_hosts_.end()) VisitHost(table_.hosts_[it->second]);
      }
      if (!table_.wildcard_hosts_.empty()) {
        // From the second label on: the star stands for one label at least. No longer than the longest pattern.
        for (size_t dot = in_.host.find('.', 1); dot != std::string_view::npos; dot = in_.host.find('.', dot + 1)) {
          const std::string_view suffix = in_.host.substr(dot);
          if (suffix.size() > table_.wildcard_bytes_max_) continue;
          auto it = table_.wildcard_hosts_.find(Key(suffix));
          if (it != table_.wildcard_hosts_.end()) VisitHost(table_.hosts_[it->second]);
        }
      }
    }
    VisitHost(table_.hosts_.front());
  }

  void VisitHost(const HostRoutes& host) {
    if (IsBeaten(host.priority_max)) return;
    if (!in_.path.empty() && in_.path.front() == '/') VisitNode(host.root, 0, 0, 0);
    VisitLeaf(host.regexes, 0, 0, 0);
    VisitLeaf(host.any_path, 0, 0, 0);
  }

  // `position`: of the slash in front of the next segment, or the path's end. `literals_end`: of the segments before
  // the first variable. The depth is bounded by kPathPatternSegmentsMax.
  void VisitNode(uint32_t index, size_t position, size_t literals_end, size_t variables) {
    const Node& node = table_.nodes_[index];
    if (IsBeaten(node.priority_max)) return;
    if (position == in_.path.size()) {
      VisitLeaf(node.end, position, literals_end, variables);
      VisitLeaf(node.rest, position, literals_end, variables);
      return;
    }
    if (node.has_literals || node.variable_child != 0) {
      const size_t next = std::min(in_.path.find('/', position + 1), in_.path.size());
      const std::string_view segment = in_.path.substr(position + 1, next - position - 1);
      if (node.has_literals) {
        const uint32_t child = FindLiteral(index, segment);
        if (child != 0) VisitNode(child, next, variables == 0 ? next : literals_end, variables);
      }
      if (node.variable_child != 0 && !segment.empty()) {
        variables_[variables] = segment;
        VisitNode(node.variable_child, next, literals_end, variables + 1);
      }
    }
    VisitLeaf(node.rest, position, literals_end, variables);
  }

  uint32_t FindLiteral(uint32_t node, std::string_view segment) const {
    if (segment.find('%') != std::string_view::npos) return FindEscapedLiteral(node, segment);
    auto it = table_.edges_.find(Edge(node, Key(segment)));
    return it == table_.edges_.end() ? 0 : it->second;
  }

  // Apart, so that the walk's frames have no room for the buffer.
  __attribute__((noinline)) uint32_t FindEscapedLiteral(uint32_t node, std::string_view segment) const {
    char buffer[kPathPatternBytesMax];
    const std::optional<std::string_view> comparable = ComparableSegment(segment, buffer);
    if (!comparable.has_value()) return 0;
    auto it = table_.edges_.find(Edge(node, Key(*comparable)));
    return it == table_.edges_.end() ? 0 : it->second;
  }

  void VisitLeaf(Leaf leaf, size_t position, size_t literals_end, size_t variables) {
    uint32_t taken = leaf.end;
    if (leaf.end - leaf.begin <= kScannedMax) {
      for (uint32_t i = leaf.begin; i < leaf.end && taken == leaf.end; ++i) {
        if (IsBeaten(table_.candidates_[i].priority)) return;
        if (Takes(table_.candidates_[i])) taken = i;
      }
    } else {
      taken = FindInLargeLeaf(leaf);
    }
    if (taken != leaf.end) Take(table_.candidates_[taken], position, literals_end, variables);
  }

  // The first candidate that takes the request; the leaf's end: none. Apart, so that the walk's frames stay small.
  __attribute__((noinline)) uint32_t FindInLargeLeaf(Leaf leaf) {
    uint32_t taken = leaf.end;
    table_.leaf_indices_.at(leaf.begin)->FindFor(in_, [&](const LeafIndex::Positions& positions) {
      for (uint32_t i : positions) {
        if (i >= taken || IsBeaten(table_.candidates_[i].priority)) return;
        if (Takes(table_.candidates_[i])) taken = i;
      }
    });
    return taken;
  }

  bool Takes(const Candidate& candidate) {
    const Conditions* conditions = candidate.conditions;
    if (conditions == nullptr) return true;
    if (conditions->AllowsMethod(in_.method)) return conditions->HoldFor(in_);
    NoteMethods(*conditions);
    return false;
  }

  void NoteMethods(const Conditions& conditions) {
    // Once is enough to know that a second walk shall collect them all.
    if (out_->route != nullptr || (method_failed_ && !collecting_) || !conditions.HoldFor(in_)) return;
    method_failed_ = true;
    if (!collecting_) return;
    for (const std::string& method : conditions.methods) {
      auto& all = out_->allowed_methods;
      if (std::find(all.begin(), all.end(), method) == all.end()) all.push_back(method);
    }
  }

  void Take(const Candidate& candidate, size_t position, size_t literals_end, size_t variables) {
    best_priority_ = candidate.priority;
    out_->route = candidate.route;
    out_->variables.clear();
    switch (candidate.path_kind) {
      case PathKind::kExact:
      case PathKind::kPrefix:
        out_->prefix_length = position;
        break;
      case PathKind::kTemplate:
      case PathKind::kTemplateRest:
        out_->prefix_length = literals_end;
        out_->variables.assign(variables_, variables_ + variables);
        if (candidate.path_kind == PathKind::kTemplateRest) out_->variables.push_back(in_.path.substr(position));
        break;
      case PathKind::kRegex:
      case PathKind::kAny:
        out_->prefix_length = 0;
        break;
    }
  }

  const RouteTable& table_;
  const MatchInput& in_;
  RouteMatch* out_;
  int32_t best_priority_ = kLowestPriority;
  bool method_failed_ = false;  // some route failed by its methods alone
  bool collecting_ = false;
  std::string_view variables_[kTemplateVariablesMax];
};

// Grows the tries, then lays them out flat.
class RouteTable::Builder {
 public:
  explicit Builder(RouteTable* table) : table_(*table) { (void)AddHost(""); }

  void Add(const Entry& entry);
  void Finish(std::vector<std::string>* warnings);

 private:
  static constexpr uint32_t kNoParent = std::numeric_limits<uint32_t>::max();
  using Candidates = std::vector<Candidate>;
  struct BuildNode {
    uint32_t parent = kNoParent;  // always before its children
    std::string_view literal;     // of the edge from it; views into table_.edge_text_
    Candidates end;
    Candidates rest;
  };
  struct BuildHost {
    std::string pattern;  // without its star
    uint32_t root = 0;
    Candidates regexes;
    Candidates any_path;
  };
  // Where a route went, for one of its hosts.
  struct Place {
    Candidate candidate;
    uint32_t host;
    uint32_t node;  // of a path with segments; else the root
    bool at_rest;   // it is among the node's `rest`
  };
  using Routes = std::vector<const RoutePolicy*>;
  class CoverSearch;

  uint32_t AddNode(uint32_t parent, std::string_view literal = {}) {
    build_nodes_.push_back({.parent = parent, .literal = literal, .end = {}, .rest = {}});
    table_.nodes_.emplace_back();
    return static_cast<uint32_t>(build_nodes_.size() - 1);
  }
  uint32_t AddHost(std::string_view pattern) {
    const uint32_t root = AddNode(kNoParent);
    build_hosts_.push_back({.pattern = std::string(pattern), .root = root, .regexes = {}, .any_path = {}});
    return static_cast<uint32_t>(build_hosts_.size() - 1);
  }
  uint32_t HostIndex(std::string_view pattern);
  uint32_t LiteralChild(uint32_t node, std::string_view segment);
  uint32_t VariableChild(uint32_t node);
  std::vector<uint32_t> NodesFromRoot(uint32_t node) const;
  const Candidates& HomeOf(const Place& place) const;
  void Warn(std::vector<std::string>* warnings) const;
  Leaf Flatten(const Candidates& candidates);
  static bool Precedes(const Candidate& a, const Candidate& b);
  static const Conditions& ConditionsOf(const Candidate& candidate);

  RouteTable& table_;
  std::vector<BuildNode> build_nodes_;  // parallel to table_.nodes_
  std::vector<BuildHost> build_hosts_;
  std::vector<Place> places_;
};

namespace {

template <typename Value, typename Match>
Value CompileValue(const Match& match) {
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

uint32_t RouteTable::Builder::HostIndex(std::string_view pattern) {
  const bool wildcard = pattern.starts_with('*');
  if (wildcard) pattern.remove_prefix(1);
  auto& hosts = wildcard ? table_.wildcard_hosts_ : table_.exact_hosts_;
  char normal[kNormalHostBytesMax];
  pattern = {normal, NormalizeHost(pattern, normal)};
  auto [it, inserted] = hosts.try_emplace(std::string(pattern), 0);
  if (inserted) it->second = AddHost(pattern);
  if (wildcard) table_.wildcard_bytes_max_ = std::max(table_.wildcard_bytes_max_, pattern.size());
  return it->second;
}

uint32_t RouteTable::Builder::LiteralChild(uint32_t node, std::string_view segment) {
  const std::string comparable = Comparable(segment);
  auto it = table_.edges_.find(Edge(node, Key(comparable)));
  if (it != table_.edges_.end()) return it->second;
  table_.edge_text_.push_back(std::make_unique<const std::string>(comparable));
  const uint32_t child = AddNode(node, *table_.edge_text_.back());
  table_.edges_.emplace(Edge(node, Key(*table_.edge_text_.back())), child);
  table_.nodes_[node].has_literals = true;
  return child;
}

uint32_t RouteTable::Builder::VariableChild(uint32_t node) {
  if (table_.nodes_[node].variable_child == 0) {
    const uint32_t child = AddNode(node);
    table_.nodes_[node].variable_child = child;
  }
  return table_.nodes_[node].variable_child;
}

void RouteTable::Builder::Add(const Entry& entry) {
  const v1::RouteMatch& match = entry.config->match();
  Candidate candidate{
      .route = entry.route, .conditions = nullptr, .priority = entry.config->priority(), .path_kind = PathKind::kAny};
  auto conditions = std::make_unique<Conditions>();
  conditions->methods.assign(match.methods().begin(), match.methods().end());
  for (const v1::HeaderMatch& header : match.headers()) {
    conditions->headers.push_back(CompileValue<Conditions::Value>(header));
    absl::AsciiStrToLower(&conditions->headers.back().name);
  }
  for (const v1::QueryMatch& query : match.query()) {
    conditions->query.push_back(CompileValue<Conditions::Value>(query));
  }

  std::vector<TemplateSegment> segments;
  bool at_rest = false;
  auto add_literals = [&segments](std::string_view path) {
    for (std::string_view segment : SplitSegments(path)) {
      segments.push_back({TemplateSegment::Kind::kLiteral, std::string(segment)});
    }
  };
  switch (match.path().match_case()) {
    case v1::PathMatch::kExact:
      candidate.path_kind = PathKind::kExact;
      add_literals(match.path().exact());
      break;
    case v1::PathMatch::kPrefix:
      candidate.path_kind = PathKind::kPrefix;
      at_rest = true;
      add_literals(match.path().prefix());
      if (segments.back().text.empty()) segments.pop_back();  // of a trailing slash
      break;
    case v1::PathMatch::kTemplate:
      candidate.path_kind = PathKind::kTemplate;
      segments = ParseTemplate(match.path().template_()).value();
      if (segments.back().kind == TemplateSegment::Kind::kRest) {
        candidate.path_kind = PathKind::kTemplateRest;
        at_rest = true;
        segments.pop_back();
      }
      break;
    case v1::PathMatch::kRegex:
      candidate.path_kind = PathKind::kRegex;
      conditions->path = CompileRegex(match.path().regex());
      conditions->path_prefix = RegexPrefix(*conditions->path);
      break;
    case v1::PathMatch::MATCH_NOT_SET:
      break;
  }
  if (!conditions->methods.empty() || conditions->Count() != 0 || conditions->path != nullptr) {
    candidate.conditions = conditions.get();
    table_.conditions_.push_back(std::move(conditions));
  }

  std::vector<uint32_t> hosts;
  for (const std::string& host : match.hosts()) hosts.push_back(HostIndex(host));
  if (hosts.empty()) hosts.push_back(0);
  for (uint32_t host : hosts) {
    Place place{.candidate = candidate, .host = host, .node = build_hosts_[host].root, .at_rest = at_rest};
    if (candidate.path_kind == PathKind::kRegex) {
      build_hosts_[host].regexes.push_back(candidate);
    } else if (candidate.path_kind == PathKind::kAny) {
      build_hosts_[host].any_path.push_back(candidate);
    } else {
      for (const TemplateSegment& segment : segments) {
        place.node = segment.kind == TemplateSegment::Kind::kVariable ? VariableChild(place.node)
                                                                      : LiteralChild(place.node, segment.text);
      }
      BuildNode& node = build_nodes_[place.node];
      (at_rest ? node.rest : node.end).push_back(candidate);
    }
    places_.push_back(place);
  }
}

// The order within one path pattern.
bool RouteTable::Builder::Precedes(const Candidate& a, const Candidate& b) {
  if (a.priority != b.priority) return a.priority > b.priority;
  auto has_methods = [](const Candidate& c) { return c.conditions != nullptr && !c.conditions->methods.empty(); };
  if (has_methods(a) != has_methods(b)) return has_methods(a);
  auto count = [](const Candidate& c) { return c.conditions == nullptr ? 0 : c.conditions->Count(); };
  if (count(a) != count(b)) return count(a) > count(b);
  return a.route->name < b.route->name;
}

const RouteTable::Conditions& RouteTable::Builder::ConditionsOf(const Candidate& candidate) {
  static const Conditions kNone;
  return candidate.conditions == nullptr ? kNone : *candidate.conditions;
}

std::vector<uint32_t> RouteTable::Builder::NodesFromRoot(uint32_t node) const {
  std::vector<uint32_t> nodes = {node};
  while (build_nodes_[nodes.back()].parent != kNoParent) nodes.push_back(build_nodes_[nodes.back()].parent);
  std::reverse(nodes.begin(), nodes.end());
  return nodes;
}

const RouteTable::Builder::Candidates& RouteTable::Builder::HomeOf(const Place& place) const {
  if (place.candidate.path_kind == PathKind::kRegex) return build_hosts_[place.host].regexes;
  if (place.candidate.path_kind == PathKind::kAny) return build_hosts_[place.host].any_path;
  return place.at_rest ? build_nodes_[place.node].rest : build_nodes_[place.node].end;
}

// Finds the routes that go before the one at `place` and together take every request that it would: one by itself, or
// several for one method each.
class RouteTable::Builder::CoverSearch {
 public:
  CoverSearch(const Builder& builder, const Place& place)
      : builder_(builder), place_(place), own_(place.candidate), conditions_(ConditionsOf(own_)) {
    if (own_.path_kind == PathKind::kRegex) {
      // The whole segments that all its paths begin with.
      const std::string& prefix = conditions_.path_prefix;
      for (std::string_view segment : SplitSegments(std::string_view(prefix).substr(0, prefix.rfind('/') + 1))) {
        segments_.emplace_back(Comparable(segment));
      }
      if (!segments_.empty()) segments_.pop_back();  // behind the last slash
      in_tree_ = !MatchesWhole(*conditions_.path, "*");
    } else {
      in_tree_ = own_.path_kind != PathKind::kAny;
      const std::vector<uint32_t> nodes = builder.NodesFromRoot(place.node);
      for (size_t i = 1; i < nodes.size(); ++i) {
        const bool variable = builder.table_.nodes_[nodes[i - 1]].variable_child == nodes[i];
        segments_.push_back(variable ? std::nullopt
                                     : std::optional(std::string(builder.build_nodes_[nodes[i]].literal)));
      }
    }
    in_end_ = in_tree_ && own_.path_kind != PathKind::kRegex && !place.at_rest;
    FindLiteralPath();
  }

  // Empty: nothing that can be seen.
  Routes Run() {
    if (Try(builder_.HomeOf(place_), own_.priority) || TryHost(place_.host)) return routes_;
    if (place_.host == 0) return {};
    const RouteTable& table = builder_.table_;
    const std::string_view host = builder_.build_hosts_[place_.host].pattern;
    for (size_t dot = host.find('.', 1); dot != std::string_view::npos; dot = host.find('.', dot + 1)) {
      auto it = table.wildcard_hosts_.find(Key(host.substr(dot)));
      if (it != table.wildcard_hosts_.end() && TryHost(it->second)) return routes_;
    }
    return TryHost(0) ? routes_ : Routes();
  }

 private:
  // The one path that an exact path or a template without variables matches; none where other spellings of it (see the
  // head of the header) are matched too.
  void FindLiteralPath() {
    if (!in_end_) return;
    std::string path;
    for (const std::optional<std::string>& segment : segments_) {
      if (!segment.has_value() || segment->find_first_of(kComparedDecoded) != std::string::npos) return;
      path += '/' + *segment;
    }
    literal_path_ = std::move(path);
  }

  bool TryHost(uint32_t index) {
    const BuildHost& host = builder_.build_hosts_[index];
    // Within one host, every pattern goes before a regex, and a regex before no path.
    const bool own_host = index == place_.host;
    const int64_t higher = int64_t{own_.priority} + 1;
    auto priority_min = [&](PathKind kind) { return own_host && own_.path_kind == kind ? own_.priority : higher; };
    return (in_tree_ && TryNode(host.root, 0, priority_min(PathKind::kRegex))) ||
           Try(host.regexes, priority_min(PathKind::kAny)) || Try(host.any_path, higher);
  }

  // The patterns at and below `node` that take every path whose first `depth` segments led there.
  bool TryNode(uint32_t node, size_t depth, int64_t priority_min) {
    const Node& flat = builder_.table_.nodes_[node];
    if (flat.priority_max < priority_min || nodes_tried_ == kCoverNodesMax) return false;
    ++nodes_tried_;
    if (Try(builder_.build_nodes_[node].rest, priority_min)) return true;
    if (depth == segments_.size()) return in_end_ && Try(builder_.build_nodes_[node].end, priority_min);
    const std::optional<std::string>& segment = segments_[depth];
    if (segment.has_value() && flat.has_literals) {
      const auto& edges = builder_.table_.edges_;
      auto it = edges.find(Edge(node, Key(*segment)));
      if (it != edges.end() && TryNode(it->second, depth + 1, priority_min)) return true;
    }
    const bool never_empty = !segment.has_value() || !segment->empty();
    return flat.variable_child != 0 && never_empty && TryNode(flat.variable_child, depth + 1, priority_min);
  }

  // Those whose priority is at least `priority_min`; of the route's own place, those that go before it.
  bool Try(const Candidates& candidates, int64_t priority_min) {
    size_t checks = 0;
    for (const Candidate& c : candidates) {
      if (c.priority < priority_min || c.route == own_.route || ++checks > kCoverChecksMax) return false;
      const Conditions& conditions = ConditionsOf(c);
      if (c.path_kind == PathKind::kRegex && !RegexTakesPaths(conditions)) continue;
      if (conditions.CoverFieldsAndQuery(conditions_) && TakeMethods(c.route, conditions)) return true;
    }
    return false;
  }

  bool RegexTakesPaths(const Conditions& other) const {
    if (other.MatchEverything() || (in_tree_ && other.MatchEveryPath())) return true;
    if (own_.path_kind == PathKind::kRegex) return other.path->pattern() == conditions_.path->pattern();
    return literal_path_.has_value() && MatchesWhole(*other.path, *literal_path_);
  }

  // Whether nothing is left.
  bool TakeMethods(const RoutePolicy* route, const Conditions& other) {
    auto taken = [&other](const std::string& method) { return other.AllowsMethod(method); };
    const std::vector<std::string>& own = conditions_.methods;
    if (other.methods.empty() || (!own.empty() && std::all_of(own.begin(), own.end(), taken))) {
      routes_ = {route};
      return true;
    }
    if (own.empty() || std::erase_if(methods_left_, taken) == 0) return false;
    routes_.push_back(route);
    return methods_left_.empty();
  }

  const Builder& builder_;
  const Place& place_;
  const Candidate& own_;
  const Conditions& conditions_;
  std::vector<std::optional<std::string>> segments_;  // nothing: a variable
  bool in_tree_ = false;                              // all paths that it matches begin with a slash
  bool in_end_ = false;                               // and end where its segments do
  std::optional<std::string> literal_path_;
  std::vector<std::string> methods_left_ = conditions_.methods;
  Routes routes_;
  size_t nodes_tried_ = 0;
};

void RouteTable::Builder::Warn(std::vector<std::string>* warnings) const {
  // Of routes that cannot be told apart at one place, the one that serves.
  using PlaceKey = std::tuple<uint32_t, uint32_t, PathKind, bool, int32_t, std::string>;
  absl::flat_hash_map<PlaceKey, const RoutePolicy*> firsts;
  auto first_at = [&firsts](const Place& place) -> const RoutePolicy*& {
    const Candidate& c = place.candidate;
    // Patterns of every kind share a place.
    const PathKind kind = std::max(c.path_kind, PathKind::kTemplateRest);
    return firsts[PlaceKey(place.host, place.node, kind, place.at_rest, c.priority,
                           c.conditions == nullptr ? std::string() : c.conditions->Canonical())];
  };
  absl::flat_hash_map<const RoutePolicy*, size_t> host_counts;
  for (const Place& place : places_) {
    const RoutePolicy* route = place.candidate.route;
    ++host_counts[route];
    const RoutePolicy*& first = first_at(place);
    if (first == nullptr || route->name < first->name) first = route;
  }

  struct Lost {
    const RoutePolicy* route;
    Routes cover;
    bool alike;  // the cover is one route of the same hosts, conditions and priority
  };
  std::vector<Lost> all_lost;
  absl::flat_hash_map<const RoutePolicy*, size_t> lost_indices;
  for (auto place = places_.begin(); place != places_.end();) {
    // A route's places stand together; it is lost only if it is lost at each of its hosts.
    const RoutePolicy* route = place->candidate.route;
    const auto end = place + static_cast<ptrdiff_t>(host_counts[route]);
    if (const std::string why = ConditionsOf(place->candidate).Contradiction(); !why.empty()) {
      warnings->push_back(fmt::format("route {} can never match: {}", QuoteForMessage(route->name), why));
      place = end;
      continue;
    }
    Lost lost{.route = route, .cover = {}, .alike = true};
    for (; place != end; ++place) {
      const RoutePolicy* first = first_at(*place);
      const Routes cover = first != route ? Routes{first} : CoverSearch(*this, *place).Run();
      if (cover.empty()) break;
      lost.cover.insert(lost.cover.end(), cover.begin(), cover.end());
      lost.alike =
          lost.alike && first != route && first == lost.cover.front() && host_counts[first] == host_counts[route];
    }
    if (place == end) {
      lost_indices.emplace(route, all_lost.size());
      all_lost.push_back(std::move(lost));
    }
    place = end;
  }

  for (const Lost& lost : all_lost) {
    // What is lost itself takes nothing: its own cover does.
    std::set<std::string_view> takers;
    std::set<const RoutePolicy*> seen;
    for (Routes open = lost.cover; !open.empty();) {
      const RoutePolicy* route = open.back();
      open.pop_back();
      if (!seen.insert(route).second) continue;
      auto it = lost_indices.find(route);
      if (it == lost_indices.end()) {
        takers.insert(route->name);
      } else {
        open.insert(open.end(), all_lost[it->second].cover.begin(), all_lost[it->second].cover.end());
      }
    }
    const std::string name = QuoteForMessage(lost.route->name);
    const std::string taker = QuoteForMessage(*takers.begin());
    if (takers.size() > 1) {
      warnings->push_back(
          fmt::format("route {} can never match: routes {} go before it and together take every request that it would",
                      name, JoinNames(takers)));
    } else if (lost.alike && !lost_indices.contains(lost.cover.front())) {
      warnings->push_back(
          fmt::format("routes {} and {} cannot be told apart: their conditions and priorities are the same; {} serves, "
                      "by its name",
                      taker, name, taker));
    } else {
      warnings->push_back(fmt::format(
          "route {} can never match: route {} goes before it and takes every request that it would", name, taker));
    }
  }
}

RouteTable::Leaf RouteTable::Builder::Flatten(const Candidates& candidates) {
  Leaf leaf;
  leaf.begin = static_cast<uint32_t>(table_.candidates_.size());
  table_.candidates_.insert(table_.candidates_.end(), candidates.begin(), candidates.end());
  leaf.end = static_cast<uint32_t>(table_.candidates_.size());
  if (candidates.size() > kScannedMax) {
    table_.leaf_indices_.emplace(leaf.begin, std::make_unique<const LeafIndex>(candidates, leaf.begin));
  }
  return leaf;
}

void RouteTable::Builder::Finish(std::vector<std::string>* warnings) {
  for (BuildNode& node : build_nodes_) {
    std::sort(node.end.begin(), node.end.end(), Precedes);
    std::sort(node.rest.begin(), node.rest.end(), Precedes);
  }
  for (BuildHost& host : build_hosts_) {
    std::sort(host.regexes.begin(), host.regexes.end(), Precedes);
    std::sort(host.any_path.begin(), host.any_path.end(), Precedes);
  }

  auto first_priority = [](const Candidates& c) { return c.empty() ? kLowestPriority : c.front().priority; };
  for (size_t i = 0; i < build_nodes_.size(); ++i) {
    Node& node = table_.nodes_[i];
    const BuildNode& build_node = build_nodes_[i];
    node.end = Flatten(build_node.end);
    node.rest = Flatten(build_node.rest);
    node.priority_max = std::max(first_priority(build_node.end), first_priority(build_node.rest));
  }
  // Children come after their parents.
  for (size_t i = build_nodes_.size(); i-- > 0;) {
    if (build_nodes_[i].parent == kNoParent) continue;
    Node& parent = table_.nodes_[build_nodes_[i].parent];
    parent.priority_max = std::max(parent.priority_max, table_.nodes_[i].priority_max);
  }
  for (const BuildHost& host : build_hosts_) {
    HostRoutes& flat = table_.hosts_.emplace_back();
    flat.root = host.root;
    flat.regexes = Flatten(host.regexes);
    flat.any_path = Flatten(host.any_path);
    flat.priority_max =
        std::max({table_.nodes_[host.root].priority_max, first_priority(host.regexes), first_priority(host.any_path)});
  }
  Warn(warnings);
}

RouteTable::RouteTable() = default;
RouteTable::~RouteTable() = default;

std::unique_ptr<const RouteTable> RouteTable::Build(std::span<const Entry> entries,
                                                    std::vector<std::string>* warnings) {
  std::unique_ptr<RouteTable> table(new RouteTable);
  Builder builder(table.get());
  for (const Entry& entry : entries) builder.Add(entry);
  builder.Finish(warnings);
  return table;
}

void RouteTable::Match(const MatchInput& in, RouteMatch* out) const {
  out->route = nullptr;
  out->variables.clear();
  out->prefix_length = 0;
  out->method_not_allowed = false;
  out->allowed_methods.clear();
  Walk(*this, in, out).Run();
}

}  // namespace gateway
