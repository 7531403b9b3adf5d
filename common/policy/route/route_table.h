// Which route a request takes: the conditions of all routes, indexed.
//
// How a route's conditions are read:
// - A prefix is whole segments: /a matches /a, /a/ and /a/b, never /ab. Its trailing slash means nothing: `/a/` is the
//   same. An exact path and a template do tell /a from /a/.
// - `{x}` is one segment that is not empty. `**` is the rest, with its leading slash ("/b/c"), or nothing.
// - Literal segments are compared with every escape of a sub-delimiter, ':', '@', '[' or ']' decoded on both sides:
//   /a%40b is /a@b, as it is for the servers behind us. Everything else of an escape stays (see path.h), and regexes
//   see the path as it is.
// - Field names are compared without case, values with it. With several fields of one name, one that holds is enough;
//   `present: false` requires that the field is absent. Regexes match the whole value, byte by byte.
// - Of a query, names and values are compared percent-decoded and with '+' as a space; the first pair of a name counts.
//   A malformed escape is itself.
// - A route of GET takes HEAD too. Where the routes of one path, with one priority and as many conditions, would be
// told
//   apart by their names alone, one that lists HEAD goes before one that only implies it.
// - The scheme is the client's: of its connection, or as a trusted proxy says. It counts as a condition, like a header.
// - A route without a path comes after those with a regex; it alone (and a regex) can match "*" of OPTIONS.
#ifndef GATEWAY_COMMON_POLICY_ROUTE_ROUTE_TABLE_H_
#define GATEWAY_COMMON_POLICY_ROUTE_ROUTE_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/policy/snapshot.h"
#include "gateway/v1/policy.pb.h"

namespace gateway {

struct RouteConditions;

// Immutable once built, any thread may match. Holds pointers to the RoutePolicies, which the Snapshot owns.
//
// One trie of path segments for each host pattern, its edges in one hash map, so that the number of routes hardly
// matters. A match walks the tries from the most to the least specific candidate (a literal child, then {x}, then the
// rest) and keeps the best; what cannot beat it by priority is not entered, so where all priorities are equal the first
// hit ends the walk. A walk visits each node at most once, and no more than the path's segments allow. Routes of one
// and the same path pattern are tried in turn, as are regexes; of many, only those are tried that ask for an exact
// header or query value that the request has, whose regex begins as the path does, or that cannot be told by any of
// these.
class RouteTable {
 public:
  struct Entry {
    const RoutePolicy* route;
    const v1::Route* config;  // has passed CheckRouteMatch (route_pattern.h); only read while building
  };
  // Appends to `warnings` the routes that can never match, because they exclude themselves or others precede them and
  // take everything, and the pairs that can never be distinguished. A warning is never wrong, for requests as
  // MatchInput has them; not every such route is found.
  static std::unique_ptr<const RouteTable> Build(std::span<const Entry> entries, std::vector<std::string>* warnings);
  ~RouteTable();
  RouteTable(const RouteTable&) = delete;
  RouteTable& operator=(const RouteTable&) = delete;

  // See Snapshot::Match.
  void Match(const MatchInput& in, RouteMatch* out) const;

 private:
  class LeafIndex;
  class Builder;
  class Walk;

  enum class PathKind : uint8_t { kExact, kPrefix, kTemplate, kTemplateRest, kRegex, kAny };

  // A route at a place of the table.
  struct Candidate {
    const RoutePolicy* route;
    const RouteConditions* conditions;  // null: none but host and path
    int32_t priority;
    PathKind path_kind;
    // It takes HEAD because of GET, and one after it, equal except for its name, lists HEAD.
    bool yields_head = false;
  };
  // A range of candidates_, best first.
  struct Leaf {
    uint32_t begin = 0;
    uint32_t end = 0;
  };
  struct Node {
    int32_t priority_max = 0;     // of all candidates at this node and below
    uint32_t variable_child = 0;  // 0: no child; node 0 is the root
    bool has_literals = false;
    Leaf end;   // where the path ends here
    Leaf rest;  // where it ends or continues
  };
  // What is behind one host pattern.
  struct HostRoutes {
    uint32_t root = 0;
    int32_t priority_max = 0;
    Leaf regexes;
    Leaf any_path;
  };
  using Edge = std::pair<uint32_t, absl::string_view>;  // a node and a literal segment; views into edge_text_

  RouteTable();
  static bool HasMethods(const Candidate& candidate);
  static size_t CountConditions(const Candidate& candidate);
  // Of two at one path pattern.
  static bool DifferByNameAlone(const Candidate& a, const Candidate& b);

  std::vector<Node> nodes_;
  absl::flat_hash_map<Edge, uint32_t> edges_;
  std::vector<Candidate> candidates_;
  absl::flat_hash_map<uint32_t, std::unique_ptr<const LeafIndex>> leaf_indices_;  // of large leaves, by their begin
  std::vector<HostRoutes> hosts_;                                                 // hosts_[0]: routes without a host
  absl::flat_hash_map<std::string, uint32_t> exact_hosts_;                        // -> index into hosts_
  absl::flat_hash_map<std::string, uint32_t> wildcard_hosts_;                     // by ".example.org"
  size_t wildcard_bytes_max_ = 0;
  std::vector<std::unique_ptr<const RouteConditions>> conditions_;
  std::vector<std::unique_ptr<const std::string>> edge_text_;
};

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_ROUTE_ROUTE_TABLE_H_
