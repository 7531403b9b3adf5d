// ParsePolicy on any bytes: no crash; and a document parsed without a problem is written, and parsed again, as the
// same resource.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "common/base/quote.h"
#include "common/config/codec.h"
#include "common/policy/policy_files.h"
#include "common/policy/resource.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 64u << 10) return 0;
  std::string_view text(reinterpret_cast<const char*>(data), size);
  std::vector<gateway::PolicyProblem> problems;
  std::vector<gateway::PolicyDocument> documents = gateway::ParsePolicy(text, "fuzz.yaml", &problems);
  for (const gateway::PolicyProblem& problem : problems) {
    if (problem.message.empty() || !gateway::IsValidUtf8(problem.ToString())) std::abort();
  }
  if (!problems.empty()) return 0;
  for (const gateway::PolicyDocument& document : documents) {
    std::vector<gateway::FieldProblem> rules;
    gateway::CheckRules(document.resource, &rules);
    if (!rules.empty()) std::abort();  // the codec accepted what the rules forbid
    std::vector<gateway::PolicyDocument> back =
        gateway::ParsePolicy(gateway::EncodeResource(document.resource), "again.yaml", &problems);
    if (!problems.empty() || back.size() != 1) std::abort();
    if (gateway::CanonicalBytes(back[0].resource) != gateway::CanonicalBytes(document.resource)) std::abort();
    (void)gateway::EncodeResourceJson(document.resource);  // must not throw
  }
  return 0;
}
