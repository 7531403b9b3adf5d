// Policy in files: YAML documents, each a resource, with the position of everything in them.
#ifndef GATEWAY_COMMON_CONFIG_POLICY_FILES_H_
#define GATEWAY_COMMON_CONFIG_POLICY_FILES_H_

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/document/codec.h"
#include "common/document/resource.h"
#include "common/document/yaml.h"
#include "gateway/v1/admin.pb.h"
#include "gateway/v1/policy.pb.h"

namespace gateway {

// A resource read from a file.
struct PolicyDocument {
  v1::Resource resource;
  std::string file;
  YamlPosition position;
  SourceMap sources;
};

struct PolicyProblem {
  std::string file;
  YamlPosition position;
  std::string resource;  // "Route/orders", as far as known
  std::string field;
  std::string message;
  // The resources that could not be read, or not under their names: what refers to one of them looks wrong without
  // being so. An empty kind or name is any.
  std::vector<ResourceKey> hides = {};
  // "policy.yaml:12:3: Route/orders: match.path.prefix: ..."
  std::string ToString() const;
};

// Whether `error`, found by checking what could be read, may be a consequence of one of `problems`, found by reading:
// it is at the same field, or misses what could not be read.
bool FollowsFrom(const PolicyProblem& error, const std::vector<PolicyProblem>& problems);

// The positions in the files of what a check found. Views into `documents`, which must outlive it.
class PolicyPlaces {
 public:
  explicit PolicyPlaces(const std::vector<PolicyDocument>& documents);
  // At its field, or at the nearest parent that is written. A resource in none of the documents has no
  // file.
  PolicyProblem Locate(const v1::PolicyError& error) const;

 private:
  std::map<ResourceKey, const PolicyDocument*> by_key_;
};

// Every document in the text of one file; `file` is its name in messages. Skips empty documents. Does not check
// references. A document with errors is returned too, without its invalid parts, so that they can be checked (see
// FollowsFrom); do not use documents if there are errors.
std::vector<PolicyDocument> ParsePolicy(std::string_view text, std::string_view file,
                                        std::vector<PolicyProblem>* problems);

// Reads files and directories (*.yaml, *.yml, sorted, recursive, without hidden ones; at most 10,000 files) and "-"
// (standard input). A duplicate resource is an error. Files that documents name (`jwks.file`, relative to the document)
// are read into them.
std::vector<PolicyDocument> ReadPolicyFiles(const std::vector<std::string>& paths,
                                            std::vector<PolicyProblem>* problems);

}  // namespace gateway

#endif  // GATEWAY_COMMON_CONFIG_POLICY_FILES_H_
