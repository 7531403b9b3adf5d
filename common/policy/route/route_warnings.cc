// The routes that can never match, and those that cannot be told apart.
#include <algorithm>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "common/base/quote.h"
#include "common/base/text.h"
#include "common/policy/route/route_table_builder.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {
namespace {

// thousands of templates cross.
constexpr size_t kCoverChecksMax = 32;  // routes of one place
constexpr size_t kCoverNodesMax = 256;

constexpr size_t kCoversNamedMax = 4;  // in one warning

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

}  // namespace

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
      auto it = table.wildcard_hosts_.find(AbslView(host.substr(dot)));
      if (it != table.wildcard_hosts_.end() && TryHost(it->second)) return routes_;
    }
    return TryHost(0) ? routes_ : Routes();
  }

 private:
  // The one path that an exact path or a template without variables matches; nothing if other spellings of it (see the
  // top of route_table.h) are matched too.
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
      auto it = edges.find(Edge(node, AbslView(*segment)));
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
      const RouteConditions& conditions = ConditionsOf(c);
      if (c.path_kind == PathKind::kRegex && !RegexTakesPaths(conditions)) continue;
      // One that only implies HEAD leaves it to its equal that lists it.
      const bool leaves_head = conditions.implies_head && conditions_.ListsHead() &&
                               &candidates == &builder_.HomeOf(place_) && DifferByNameAlone(c, own_);
      if (conditions.CoverFieldsAndQuery(conditions_) && TakeMethods(c.route, conditions, leaves_head)) return true;
    }
    return false;
  }

  bool RegexTakesPaths(const RouteConditions& other) const {
    if (other.MatchEverything() || (in_tree_ && other.MatchEveryPath())) return true;
    if (own_.path_kind == PathKind::kRegex) return other.path->pattern() == conditions_.path->pattern();
    return literal_path_.has_value() && MatchesWhole(*other.path, *literal_path_);
  }

  // Whether nothing is left.
  bool TakeMethods(const RoutePolicy* route, const RouteConditions& other, bool leaves_head) {
    auto taken = [&other, leaves_head](const std::string& method) {
      return other.AllowsMethod(method) && !(leaves_head && method == "HEAD");
    };
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
  const RouteConditions& conditions_;
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

}  // namespace gateway
