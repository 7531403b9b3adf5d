// What changed between two texts, as `diff -u` writes it.
#ifndef GATEWAY_TOOLS_GATEWAYCTL_DIFF_H_
#define GATEWAY_TOOLS_GATEWAYCTL_DIFF_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace gateway::ctl {

// Past this many line pairs between the first and the last difference, all of that is shown as replaced.
constexpr size_t kDiffCellsMax = 16'000'000;

struct LineEdit {
  char sign;               // ' ', '-' or '+'
  absl::string_view line;  // of one of the texts
};
// What makes `new_text` of `old_text`, line by line, with what stays.
std::vector<LineEdit> CompareLines(absl::string_view old_text, absl::string_view new_text);

// Empty if the texts are the same. An empty text is a file that isn't there: its name is shown as /dev/null.
std::string UnifiedDiff(const std::string& old_name, const std::string& new_name, const std::string& old_text,
                        const std::string& new_text, bool colour);

}  // namespace gateway::ctl

#endif  // GATEWAY_TOOLS_GATEWAYCTL_DIFF_H_
