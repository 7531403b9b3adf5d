#include "common/route_table.h"

#include <algorithm>
#include <limits>
#include <optional>
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

// Enough to find the usual mistakes; keeps a build linear where thousands of routes share one path.
constexpr size_t kShadowChecksMax = 32;

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
      if (value > 0 && std::string_view("!$&'()*+,;=:@[]").find(decoded) != std::string_view::npos) {
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

    friend bool operator==(const Value& a, const Value& b) {
      return a.kind == b.kind && a.name == b.name && a.text == b.text;
    }
  };

  std::vector<std::string> methods;  // empty: any
  std::vector<Value> headers;
  std::vector<Value> query;
  std::unique_ptr<const RE2> path;  // null: none

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

  // Whether every request that `other` takes (on the same path) has these hold too, as far as that can be seen.
  bool Cover(const Conditions& other) const {
    auto contains_all = [](const auto& all, const auto& some) {
      return std::all_of(some.begin(), some.end(),
                         [&all](const auto& v) { return std::find(all.begin(), all.end(), v) != all.end(); });
    };
    if (!methods.empty() && (other.methods.empty() || !contains_all(methods, other.methods))) return false;
    if (path != nullptr && (other.path == nullptr || other.path->pattern() != path->pattern())) return false;
    return contains_all(other.headers, headers) && contains_all(other.query, query);
  }
};

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
    for (uint32_t i = leaf.begin; i < leaf.end; ++i) {
      const Candidate& candidate = table_.candidates_[i];
      if (IsBeaten(candidate.priority)) return;
      if (const Conditions* conditions = candidate.conditions; conditions != nullptr) {
        if (!conditions->AllowsMethod(in_.method)) {
          NoteMethods(*conditions);
          continue;
        }
        if (!conditions->HoldFor(in_)) continue;
      }
      Take(candidate, position, literals_end, variables);
      return;
    }
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
  explicit Builder(RouteTable* table) : table_(*table) { (void)AddHost(); }

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
    uint32_t root = 0;
    Candidates regexes;
    Candidates any_path;
  };
  // What takes a route's requests away from it; null: nothing that can be seen.
  struct Cover {
    const RoutePolicy* route = nullptr;
    bool alike = false;  // its conditions and its priority are the same
  };
  // Where a route went, for one of its hosts.
  struct Place {
    const RoutePolicy* route;
    uint32_t host;
    uint32_t node;  // of a path with segments
    PathKind path_kind;
    bool at_rest;
  };

  uint32_t AddNode(uint32_t parent, std::string_view literal = {}) {
    build_nodes_.push_back({.parent = parent, .literal = literal, .end = {}, .rest = {}});
    table_.nodes_.emplace_back();
    return static_cast<uint32_t>(build_nodes_.size() - 1);
  }
  uint32_t AddHost() {
    const uint32_t root = AddNode(kNoParent);
    build_hosts_.push_back({.root = root, .regexes = {}, .any_path = {}});
    return static_cast<uint32_t>(build_hosts_.size() - 1);
  }
  uint32_t HostIndex(std::string_view pattern);
  uint32_t LiteralChild(uint32_t node, std::string_view segment);
  uint32_t VariableChild(uint32_t node);
  std::vector<uint32_t> NodesFromRoot(uint32_t node) const;
  const Candidates& HomeOf(const Place& place) const;
  Cover FindCover(const Place& place) const;
  void Warn(std::vector<std::string>* warnings) const;
  Leaf Flatten(const Candidates& candidates);
  static bool Precedes(const Candidate& a, const Candidate& b);
  static bool Covers(const Candidate& a, const Candidate& b);

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
  auto [it, inserted] = hosts.try_emplace(std::string(normal, NormalizeHost(pattern, normal)), 0);
  if (inserted) it->second = AddHost();
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
    Place place{.route = entry.route,
                .host = host,
                .node = build_hosts_[host].root,
                .path_kind = candidate.path_kind,
                .at_rest = at_rest};
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

bool RouteTable::Builder::Covers(const Candidate& a, const Candidate& b) {
  if (a.conditions == nullptr) return true;
  static const Conditions kNone;
  return a.conditions->Cover(b.conditions == nullptr ? kNone : *b.conditions);
}

std::vector<uint32_t> RouteTable::Builder::NodesFromRoot(uint32_t node) const {
  std::vector<uint32_t> nodes = {node};
  while (build_nodes_[nodes.back()].parent != kNoParent) nodes.push_back(build_nodes_[nodes.back()].parent);
  std::reverse(nodes.begin(), nodes.end());
  return nodes;
}

const RouteTable::Builder::Candidates& RouteTable::Builder::HomeOf(const Place& place) const {
  if (place.path_kind == PathKind::kRegex) return build_hosts_[place.host].regexes;
  if (place.path_kind == PathKind::kAny) return build_hosts_[place.host].any_path;
  return place.at_rest ? build_nodes_[place.node].rest : build_nodes_[place.node].end;
}

// A route that goes before the one at `place` and takes every request that it would.
RouteTable::Builder::Cover RouteTable::Builder::FindCover(const Place& place) const {
  const Candidates& home = HomeOf(place);
  const Candidate& own =
      *std::find_if(home.begin(), home.end(), [&place](const Candidate& c) { return c.route == place.route; });

  // One that precedes it on the same path, or, elsewhere, one whose priority is at least `priority_min`.
  auto find_in = [&](const Candidates& candidates, int64_t priority_min) -> Cover {
    size_t checks = 0;
    for (const Candidate& c : candidates) {
      if (&candidates == &home ? c.route == own.route : c.priority < priority_min) break;
      if (++checks > kShadowChecksMax) break;
      if (Covers(c, own)) return {.route = c.route, .alike = c.priority == own.priority && Covers(own, c)};
    }
    return {};
  };
  const int64_t higher = int64_t{own.priority} + 1;
  if (Cover cover = find_in(home, 0); cover.route != nullptr) return cover;

  for (uint32_t host_index : {place.host, uint32_t{0}}) {
    const BuildHost& host = build_hosts_[host_index];
    if (place.path_kind == PathKind::kRegex) {
      // Within one host, even an equal prefix of `/` goes before every regex.
      const int64_t priority_min = host_index == place.host ? own.priority : higher;
      if (Cover cover = find_in(build_nodes_[host.root].rest, priority_min); cover.route != nullptr) return cover;
      if (Cover cover = find_in(host.regexes, higher); cover.route != nullptr) return cover;
    } else if (place.path_kind != PathKind::kAny) {
      // The same pattern's nodes, here or among the routes without a host.
      uint32_t node = host.root;
      const std::vector<uint32_t> own_nodes = NodesFromRoot(place.node);
      for (size_t depth = 0;; ++depth) {
        const BuildNode& build_node = build_nodes_[node];
        if (Cover cover = find_in(build_node.rest, higher); cover.route != nullptr) return cover;
        if (depth + 1 == own_nodes.size()) {
          if (place.at_rest) break;
          if (Cover cover = find_in(build_node.end, higher); cover.route != nullptr) return cover;
          break;
        }
        const uint32_t next = own_nodes[depth + 1];
        if (host_index == place.host) {
          node = next;
        } else if (table_.nodes_[own_nodes[depth]].variable_child == next) {
          node = table_.nodes_[node].variable_child;
        } else {
          auto it = table_.edges_.find(Edge(node, Key(build_nodes_[next].literal)));
          node = it == table_.edges_.end() ? 0 : it->second;
        }
        if (node == 0) break;
      }
    }
    if (Cover cover = find_in(host.any_path, higher); cover.route != nullptr) return cover;
    if (place.host == 0) break;
  }
  return {};
}

void RouteTable::Builder::Warn(std::vector<std::string>* warnings) const {
  for (size_t i = 0; i < places_.size();) {
    // A route's places stand together; it is lost only if it is lost at each of its hosts.
    const RoutePolicy* route = places_[i].route;
    Cover cover;
    bool lost = true;
    for (; i < places_.size() && places_[i].route == route; ++i) {
      if (!lost) continue;
      cover = FindCover(places_[i]);
      lost = cover.route != nullptr;
    }
    if (!lost) continue;
    warnings->push_back(
        cover.alike
            ? fmt::format("routes {} and {} cannot be told apart: their conditions and priorities are the same; {} "
                          "serves, by its name",
                          QuoteForMessage(cover.route->name), QuoteForMessage(route->name),
                          QuoteForMessage(cover.route->name))
            : fmt::format("route {} can never match: route {} goes before it and takes every request that it would",
                          QuoteForMessage(route->name), QuoteForMessage(cover.route->name)));
  }
}

RouteTable::Leaf RouteTable::Builder::Flatten(const Candidates& candidates) {
  Leaf leaf;
  leaf.begin = static_cast<uint32_t>(table_.candidates_.size());
  table_.candidates_.insert(table_.candidates_.end(), candidates.begin(), candidates.end());
  leaf.end = static_cast<uint32_t>(table_.candidates_.size());
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
  Warn(warnings);

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
