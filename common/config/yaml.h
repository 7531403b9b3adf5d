// YAML in, with positions and limits: the only place that calls the YAML parser.
#ifndef GATEWAY_COMMON_CONFIG_YAML_H_
#define GATEWAY_COMMON_CONFIG_YAML_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace gateway {

struct YamlPosition {
  int line = 0;    // 1-based; 0: unknown
  int column = 0;  // 1-based
};

// One node of a parsed document: anchors are expanded, duplicate keys are gone (they are errors).
struct YamlNode {
  enum class Kind { kNull, kScalar, kSequence, kMap };
  Kind kind = Kind::kNull;
  YamlPosition position;
  std::string scalar;
  bool quoted = false;          // a quoted scalar is always a string
  std::vector<YamlNode> items;  // of a sequence
  struct Entry;
  std::vector<Entry> entries;  // of a map, in the order written

  const YamlNode* Find(std::string_view key) const;  // null: none
};
struct YamlNode::Entry {
  std::string key;
  YamlPosition position;
  YamlNode value;
};

struct YamlProblem {
  YamlPosition position;
  std::string message;
  // Of a duplicate key: which. Then nothing but what it stands for is missing from what was read. "": more may be.
  std::string duplicate = {};
};

struct YamlLimits {
  // A file may hold a whole policy of 100,000 routes, with some eighty values each.
  size_t bytes_max = 64u << 20;
  int depth_max = 64;
  size_t nodes_max = 8'000'000;       // after the expansion of aliases
  size_t alias_nodes_max = 100'000;   // nodes that anchors and aliases copy: what an expansion bomb costs at most
  size_t alias_bytes_max = 4u << 20;  // the same, in bytes of scalars
  // How much the parser may read without coming to a result: one scalar, or one collection in brackets.
  size_t stretch_bytes_max = 1u << 20;
};

// All documents of `text`: UTF-8 without control characters; YAML 1.2, with merge keys (<<) and without tags (but
// !!str) and complex keys. On a syntax error, a duplicate key, or past a limit: `problems` is not empty (all duplicate
// keys; the first syntax error, after which nothing can be read), and the documents before it are returned. Never
// throws.
std::vector<YamlNode> ParseYaml(std::string_view text, std::vector<YamlProblem>* problems,
                                const YamlLimits& limits = {});

// A scalar as YAML text: quoted if it would be read as something else, by YAML 1.1 or 1.2.
std::string YamlScalar(std::string_view value);

// What a node is, as the second half of a message: "a list", "the string \"x\""; not the text of a secret.
std::string DescribeForMessage(const YamlNode& node, bool secret);

}  // namespace gateway

#endif  // GATEWAY_COMMON_CONFIG_YAML_H_
