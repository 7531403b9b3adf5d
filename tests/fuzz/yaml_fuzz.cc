// ParseYaml on any bytes: it must return soon, within its limits, with documents or a problem, and never throw. The
// output of YamlScalar must parse as the same string.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "common/base/quote.h"
#include "common/config/yaml.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  gateway::YamlLimits limits;
  limits.bytes_max = 64u << 10;
  limits.nodes_max = 10'000;
  limits.alias_nodes_max = 1'000;
  std::vector<gateway::YamlProblem> problems;
  (void)gateway::ParseYaml(text, &problems, limits);  // checked by its own assertions and the sanitizers

  if (!gateway::IsValidUtf8(text) || size > 4096) return 0;
  problems.clear();
  std::vector<gateway::YamlNode> back = gateway::ParseYaml("k: [" + gateway::YamlScalar(text) + "]\n", &problems);
  if (!problems.empty() || back.size() != 1) std::abort();
  const gateway::YamlNode* list = back[0].Find("k");
  if (list == nullptr || list->items.size() != 1 || list->items[0].scalar != text) std::abort();
  return 0;
}
