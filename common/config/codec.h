// Messages to YAML and back, driven by their descriptors: one codec for policy and for the bootstrap file.
//
// Durations are "250ms", "30s", "1m", "1h" (a bare number is seconds), sizes "64KiB", "10MiB" (fields with rules.size),
// enum values lower case, 64-bit integers plain numbers. A scalar where a list is expected is a list of one. A quoted
// scalar is a string; a string takes any scalar as it is written. A map, list or section with nothing after its colon
// is absent; a scalar with nothing is an error. An explicit empty list is kept as [none] if rules.empty_is_none says
// so.
#ifndef GATEWAY_COMMON_CONFIG_CODEC_H_
#define GATEWAY_COMMON_CONFIG_CODEC_H_

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/config/yaml.h"
#include "google/protobuf/message.h"

namespace gateway {

struct FieldProblem {
  YamlPosition position;
  std::string field;    // "match.path.prefix", "split[1].weight"
  std::string message;  // what was wrong, what was expected
};

// Field path -> its position, for errors found later (also by the server).
using SourceMap = std::map<std::string, YamlPosition, std::less<>>;

// A map's key as a field's path shows it: in quotes unless it is only letters, digits, '_' and '-'.
std::string KeyInPath(std::string_view key);

// Reads `node` (a map) into `message`. Reports every problem: unknown fields with the nearest known name, wrong types,
// ranges of the rules, missing required fields, several members of one oneof. A field with a problem stays as it was; a
// list or map that is given replaces what `message` has. `skip` are keys of the top level that the caller has read.
void DecodeYaml(const YamlNode& node, google::protobuf::Message* message, std::vector<FieldProblem>* problems,
                SourceMap* sources = nullptr, const std::vector<std::string>& skip = {});

// The checks of the rules alone (ranges, lengths, required), on a message that did not come from YAML.
void CheckRules(const google::protobuf::Message& message, std::vector<FieldProblem>* problems);

// Whether secrets are written as "redacted" (those of policy with a fingerprint behind it: redaction.h), or as they are
// stored (hashes): for files that only their owner can read.
enum class Secrets { kRedacted, kAsStored };

// Block YAML, fields in the order of their numbers, absent ones left out. `indent` in spaces.
std::string EncodeYaml(const google::protobuf::Message& message, int indent = 0, Secrets secrets = Secrets::kRedacted);
// One JSON object with the same names and spellings, secrets redacted; its first member is "kind" unless that is empty.
std::string EncodeJson(const google::protobuf::Message& message, std::string_view kind = "");

}  // namespace gateway

#endif  // GATEWAY_COMMON_CONFIG_CODEC_H_
