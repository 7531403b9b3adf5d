#include "common/policy/route/route_table.h"

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <tuple>
#include <utility>

#include "common/base/text.h"
#include "common/policy/route/path.h"
#include "common/policy/route/route_conditions.h"
#include "common/policy/route/route_pattern.h"
#include "common/policy/route/route_table_builder.h"

namespace gateway {
namespace {

constexpr int32_t kLowestPriority = std::numeric_limits<int32_t>::min();

constexpr uint32_t kScannedMax = 8;     // candidates of a leaf that are tried in turn; more get an index
constexpr size_t kIndexedNamesMax = 8;  // of headers and of the query, in one index: each is looked for in each request

}  // namespace

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
    auto Tie() const { return std::tuple(kind, AbslView(name), AbslView(value)); }
  };
  static std::vector<Handle> HandlesOf(const Candidate& candidate);

  template <typename Visit>
  static void FindByHeader(const Name& name, const MatchInput& in, Visit visit) {
    for (auto field = in.fields.begin(); field != in.fields.end(); ++field) {
      if (!SameFieldName(field->name, name.name)) continue;
      auto it = name.by_value.find(AbslView(field->value));
      // A line that comes again would only cost again.
      if (it == name.by_value.end() || std::any_of(in.fields.begin(), field, [&](const FieldView& earlier) {
            return earlier.value == field->value && SameFieldName(earlier.name, name.name);
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
    auto it = name.by_value.find(AbslView(value));
    if (it != name.by_value.end()) visit(it->second);
  }

  std::vector<Name> names_;
  std::vector<Prefix> prefixes_;  // sorted by their text
  Positions others_;
};

std::vector<RouteTable::LeafIndex::Handle> RouteTable::LeafIndex::HandlesOf(const Candidate& candidate) {
  std::vector<Handle> handles;
  if (candidate.conditions == nullptr) return handles;
  auto add = [&handles](Handle::Kind kind, const std::vector<RouteConditions::Value>& values) {
    for (const RouteConditions::Value& value : values) {
      if (value.kind == RouteConditions::Value::Kind::kExact) handles.push_back({kind, value.name, value.text});
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
    Positions& positions = rarest == handles.end() ? others_
                           : rarest->kind == Handle::Kind::kPath
                               ? by_prefix[rarest->value]
                               : find_name(*rarest)->by_value[AbslView(rarest->value)];
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
        auto it = table_.exact_hosts_.find(AbslView(in_.host));
        if (it != table_.exact_hosts_.end()) VisitHost(table_.hosts_[it->second]);
      }
      if (!table_.wildcard_hosts_.empty()) {
        // From the second label on: the star stands for one label at least. No longer than the longest pattern.
        for (size_t dot = in_.host.find('.', 1); dot != std::string_view::npos; dot = in_.host.find('.', dot + 1)) {
          const std::string_view suffix = in_.host.substr(dot);
          if (suffix.size() > table_.wildcard_bytes_max_) continue;
          auto it = table_.wildcard_hosts_.find(AbslView(suffix));
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
    auto it = table_.edges_.find(Edge(node, AbslView(segment)));
    return it == table_.edges_.end() ? 0 : it->second;
  }

  // Apart, so that the walk's frames have no room for the buffer.
  __attribute__((noinline)) uint32_t FindEscapedLiteral(uint32_t node, std::string_view segment) const {
    char buffer[kPathPatternBytesMax];
    const std::optional<std::string_view> comparable = ComparableSegment(segment, buffer);
    if (!comparable.has_value()) return 0;
    auto it = table_.edges_.find(Edge(node, AbslView(*comparable)));
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
    if (taken == leaf.end) return;
    if (table_.candidates_[taken].yields_head && in_.method == "HEAD") taken = FindListedHead(leaf, taken);
    Take(table_.candidates_[taken], position, literals_end, variables);
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

  // The first after `implied`, equal to it except for its name, that lists HEAD and takes the request; else `implied`.
  __attribute__((noinline)) uint32_t FindListedHead(Leaf leaf, uint32_t implied) {
    for (uint32_t i = implied + 1; i < leaf.end; ++i) {
      const Candidate& candidate = table_.candidates_[i];
      if (!DifferByNameAlone(table_.candidates_[implied], candidate)) break;
      if (candidate.conditions->ListsHead() && Takes(candidate)) return i;
    }
    return implied;
  }

  bool Takes(const Candidate& candidate) {
    const RouteConditions* conditions = candidate.conditions;
    if (conditions == nullptr) return true;
    if (conditions->AllowsMethod(in_.method)) return conditions->HoldFor(in_);
    NoteMethods(*conditions);
    return false;
  }

  void NoteMethods(const RouteConditions& conditions) {
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
  auto it = table_.edges_.find(Edge(node, AbslView(comparable)));
  if (it != table_.edges_.end()) return it->second;
  table_.edge_text_.push_back(std::make_unique<const std::string>(comparable));
  const uint32_t child = AddNode(node, *table_.edge_text_.back());
  table_.edges_.emplace(Edge(node, AbslView(*table_.edge_text_.back())), child);
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
  auto conditions = std::make_unique<const RouteConditions>(RouteConditions::Compile(match));

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
      break;
    case v1::PathMatch::MATCH_NOT_SET:
      break;
  }
  if (!conditions->IsEmpty()) {
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

bool RouteTable::HasMethods(const Candidate& candidate) {
  return candidate.conditions != nullptr && !candidate.conditions->methods.empty();
}

size_t RouteTable::CountConditions(const Candidate& candidate) {
  return candidate.conditions == nullptr ? 0 : candidate.conditions->Count();
}

bool RouteTable::DifferByNameAlone(const Candidate& a, const Candidate& b) {
  return a.priority == b.priority && HasMethods(a) == HasMethods(b) && CountConditions(a) == CountConditions(b);
}

// The order within one path pattern.
bool RouteTable::Builder::Precedes(const Candidate& a, const Candidate& b) {
  if (a.priority != b.priority) return a.priority > b.priority;
  if (HasMethods(a) != HasMethods(b)) return HasMethods(a);
  if (CountConditions(a) != CountConditions(b)) return CountConditions(a) > CountConditions(b);
  return a.route->name < b.route->name;
}

const RouteConditions& RouteTable::Builder::ConditionsOf(const Candidate& candidate) {
  static const RouteConditions kNone;
  return candidate.conditions == nullptr ? kNone : *candidate.conditions;
}

RouteTable::Leaf RouteTable::Builder::Flatten(const Candidates& candidates) {
  Leaf leaf;
  leaf.begin = static_cast<uint32_t>(table_.candidates_.size());
  table_.candidates_.insert(table_.candidates_.end(), candidates.begin(), candidates.end());
  leaf.end = static_cast<uint32_t>(table_.candidates_.size());
  bool listed_behind = false;
  for (uint32_t i = leaf.end; i-- > leaf.begin;) {
    Candidate& candidate = table_.candidates_[i];
    if (i + 1 < leaf.end && !DifferByNameAlone(candidate, table_.candidates_[i + 1])) listed_behind = false;
    if (candidate.conditions == nullptr) continue;
    candidate.yields_head = listed_behind && candidate.conditions->implies_head;
    listed_behind = listed_behind || candidate.conditions->ListsHead();
  }
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
