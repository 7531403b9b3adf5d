// YAML input with positions and limits. The only code that calls the YAML parser.
#ifndef GATEWAY_COMMON_DOCUMENT_YAML_H_
#define GATEWAY_COMMON_DOCUMENT_YAML_H_

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

// One node of a parsed document. Anchors are expanded; duplicate keys are errors.
struct YamlNode {
  enum class Kind { kNull, kScalar, kSequence, kMap };
  Kind kind = Kind::kNull;
  YamlPosition position;
  std::string scalar;
  bool quoted = false;          // a quoted scalar is always a string
  std::vector<YamlNode> items;  // of a sequence
  struct Entry;
  std::vector<Entry> entries;  // of a map, in the order written

  const YamlNode* Find(std::string_view key) const;  // null: not found
};
struct YamlNode::Entry {
  std::string key;
  YamlPosition position;
  YamlNode value;
};

struct YamlProblem {
  YamlPosition position;
  std::string message;
  // The duplicate key, if that is the error; then only its value is missing from the result. "": more may be missing.
  std::string duplicate = {};
};

struct YamlLimits {
  // A file may hold a whole policy of 100,000 routes, with about eighty values each.
  size_t bytes_max = 64u << 20;
  int depth_max = 64;
  size_t nodes_max = 8'000'000;       // after the expansion of aliases
  size_t alias_nodes_max = 100'000;   // copied by anchors and aliases: the cost of an expansion bomb
  size_t alias_bytes_max = 4u << 20;  // the same, in bytes of scalars
  // How much the parser may read before it produces an event: one scalar, or one collection in brackets.
  size_t stretch_bytes_max = 1u << 20;
};

// All documents of `text`: UTF-8 without control characters; YAML 1.2, with merge keys (<<), without tags (except
// !!str) and complex keys. On a syntax error, a duplicate key or an exceeded limit, `problems` is not empty (all
// duplicate keys; the first syntax error, which ends the parse), and the documents before it are returned. Never
// throws.
std::vector<YamlNode> ParseYaml(std::string_view text, std::vector<YamlProblem>* problems,
                                const YamlLimits& limits = {});

// A scalar as YAML text, quoted if it could be read as something else (by YAML 1.1 or 1.2).
std::string YamlScalar(std::string_view value);

// The value of a node, as the second half of a message: "a list", "the string \"x\""; not the text of a secret.
std::string DescribeForMessage(const YamlNode& node, bool secret);

}  // namespace gateway

#endif  // GATEWAY_COMMON_DOCUMENT_YAML_H_
