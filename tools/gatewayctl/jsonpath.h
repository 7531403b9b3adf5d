// kubectl's -o jsonpath=TEMPLATE: parts of an answer, for scripts.
#ifndef GATEWAY_TOOLS_GATEWAYCTL_JSONPATH_H_
#define GATEWAY_TOOLS_GATEWAYCTL_JSONPATH_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "tools/gatewayctl/format.h"

namespace gateway::ctl {

inline constexpr int kJsonPathDepthMax = 16;  // of nested {range}

// `path` filled in from `value`. Text stands for itself; in braces are
//
//   {.a.b[0]}  {.a['x.y']}  {.items[*].name}  {$.a}  {@.a}  {range .items[*]}...{end}  {"\n"}
//
// Several results are separated by spaces; a string is printed as it is, everything else as JSON; what is not there is
// nothing. InvalidArgument says what was expected. A path without braces is one expression.
absl::StatusOr<std::string> EvaluateJsonPath(std::string_view path, const Json& value);

}  // namespace gateway::ctl

#endif  // GATEWAY_TOOLS_GATEWAYCTL_JSONPATH_H_
