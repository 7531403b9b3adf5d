// Policy as files: documents of YAML, each a resource, with the place of everything in them.
#ifndef GATEWAY_COMMON_POLICY_POLICY_FILES_H_
#define GATEWAY_COMMON_POLICY_POLICY_FILES_H_

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/config/codec.h"
#include "common/config/yaml.h"
#include "common/policy/resource.h"
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
  // The resources that could not be read, or not under their names: references to them look wrong but may be right. An
  // empty kind or name is any.
  std::vector<ResourceKey> hides = {};
  // "policy.yaml:12:3: Route/orders: match.path.prefix: ..."
  std::string ToString() const;
};

// Whether `error`, from a check of what could be read, may be a consequence of one of `problems`, from reading: it is
// at the same field, or refers to what was not read.
bool FollowsFrom(const PolicyProblem& error, const std::vector<PolicyProblem>& problems);

// The positions of a check's errors in the files. Views into `documents`, which outlive it.
class PolicyPlaces {
 public:
  explicit PolicyPlaces(const std::vector<PolicyDocument>& documents);
  // At its field, or at the nearest thing around it that is written; without a file if the resource is not in the
  // documents.
  PolicyProblem Locate(const v1::PolicyError& error) const;

 private:
  std::map<ResourceKey, const PolicyDocument*> by_key_;
};

// A resource as a document: "kind: Route\nname: ...". Without secrets, ParsePolicy reads back the same resource.
std::string EncodeResource(const v1::Resource& resource);
// The same with secrets as they are stored (hashes): for files that only their owner can read.
std::string EncodeResourceWithSecrets(const v1::Resource& resource);
// As EncodeResource, in JSON: one object, the same names and spellings as the YAML.
std::string EncodeResourceJson(const v1::Resource& resource);

// Every document of one file's text; `file` is its name in messages. Empty documents are skipped. Does not check
// references. A document with problems is among the results too, without what was wrong in it: if there are problems,
// check the documents (see FollowsFrom), but do not use them.
std::vector<PolicyDocument> ParsePolicy(std::string_view text, std::string_view file,
                                        std::vector<PolicyProblem>* problems);

// Reads files and directories (*.yaml, *.yml, sorted, recursively, without hidden ones; at most 10,000 files) and "-"
// (standard input). The same resource twice is a problem. What documents name as files (`jwks.file`, the files of a
// Certificate; relative to the document) is read and put into them.
std::vector<PolicyDocument> ReadPolicyFiles(const std::vector<std::string>& paths,
                                            std::vector<PolicyProblem>* problems);

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_POLICY_FILES_H_
