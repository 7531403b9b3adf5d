// Any policy that parses is compiled: either errors or a snapshot, never a crash. A snapshot compiles again to the
// same one, and matches some requests.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "common/policy/policy_files.h"
#include "common/policy/snapshot.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 16384) return 0;
  std::vector<gateway::PolicyProblem> problems;
  const std::vector<gateway::PolicyDocument> documents =
      gateway::ParsePolicy(std::string_view(reinterpret_cast<const char*>(data), size), "fuzz.yaml", &problems);
  std::vector<const gateway::v1::Resource*> resources;
  resources.reserve(documents.size());
  for (const gateway::PolicyDocument& document : documents) resources.push_back(&document.resource);
  const gateway::CompileResult result = gateway::CompileSnapshot(resources, {});
  if ((result.snapshot == nullptr) == result.errors.empty()) std::abort();
  if (result.snapshot == nullptr) return 0;
  const gateway::CompileResult again = gateway::CompileSnapshot(resources, {});
  if (again.snapshot == nullptr || again.snapshot->routes().size() != result.snapshot->routes().size() ||
      again.warnings != result.warnings) {
    std::abort();
  }
  for (std::string_view path : {"/", "/a", "/a/b/c", "/api/v1/orders/1", "/svc/%2F@", "*"}) {
    gateway::RouteMatch match;
    result.snapshot->Match({.method = "GET", .host = "api.example.com", .path = path, .query = "v=2", .fields = {}},
                           &match);
    if (match.route == nullptr || !match.route->rewrites) continue;
    std::string out;
    gateway::Snapshot::Rewrite(match, path, &out);
    if (out.empty() || out[0] != '/') std::abort();
  }
  return 0;
}
