// How a RouteTable is made, and how it is searched for errors. Only for route_table.cc and route_warnings.cc.
#ifndef GATEWAY_COMMON_POLICY_ROUTE_ROUTE_TABLE_BUILDER_H_
#define GATEWAY_COMMON_POLICY_ROUTE_ROUTE_TABLE_BUILDER_H_

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "common/policy/route/route_conditions.h"
#include "common/policy/route/route_table.h"

namespace gateway {

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
  static const RouteConditions& ConditionsOf(const Candidate& candidate);

  RouteTable& table_;
  std::vector<BuildNode> build_nodes_;  // parallel to table_.nodes_
  std::vector<BuildHost> build_hosts_;
  std::vector<Place> places_;
};

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_ROUTE_ROUTE_TABLE_BUILDER_H_
