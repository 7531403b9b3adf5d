// Messages to YAML and back, driven by their descriptors: one codec for policy and for the bootstrap file.
//
// Durations are "250ms", "30s", "1m", "1h" (a bare number is seconds), sizes "64KiB", "10MiB" (fields with
// rules.size), enum values lower case, 64-bit integers plain numbers. A scalar in the place of a list is a list of
// one. A quoted scalar is a string; a string takes any scalar as written. A map, list or section without a value
// is absent; a scalar without a value is an error. An explicit empty list is kept as [none] if
// rules.empty_is_none.
#ifndef GATEWAY_COMMON_DOCUMENT_CODEC_H_
#define GATEWAY_COMMON_DOCUMENT_CODEC_H_

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/document/yaml.h"
#include "gateway/v1/policy.pb.h"
#include "google/protobuf/message.h"

namespace gateway {

struct FieldProblem {
  YamlPosition position;
  std::string field;    // "match.path.prefix", "split[1].weight"
  std::string message;  // what is wrong, what was expected
};

// Field path -> position, for errors found later (also by the server).
using SourceMap = std::map<std::string, YamlPosition, std::less<>>;

// The key of a map as field paths show it: in quotes if it has more than letters, digits, '_' and '-'.
std::string KeyInPath(std::string_view key);

// Reads `node` (a map) into `message`. Reports every error: unknown fields with the nearest known name, wrong types,
// violated ranges, missing required fields, several members of one oneof. A field with an error keeps its value; a list
// or map replaces the one in `message`. `skip` are top-level keys that the caller has read.
void DecodeYaml(const YamlNode& node, google::protobuf::Message* message, std::vector<FieldProblem>* problems,
                SourceMap* sources = nullptr, const std::vector<std::string>& skip = {});

// Checks only the rules (ranges, lengths, required), of a message that did not come from YAML.
void CheckRules(const google::protobuf::Message& message, std::vector<FieldProblem>* problems);

// Block YAML, fields in the order of their numbers, without absent ones, secrets as "redacted" (secrets of policy with
// a fingerprint: redaction.h). `indent` in spaces.
std::string EncodeYaml(const google::protobuf::Message& message, int indent = 0);

// A policy resource as a document: "kind: Route\nname: ...". EncodeResource, then ParsePolicy, is the identity, except
// for secrets.
std::string EncodeResource(const v1::Resource& resource);
// The same as one JSON object, with the names and spellings of the YAML.
std::string EncodeResourceJson(const v1::Resource& resource);

}  // namespace gateway

#endif  // GATEWAY_COMMON_DOCUMENT_CODEC_H_
