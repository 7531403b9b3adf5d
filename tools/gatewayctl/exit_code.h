// What gatewayctl's exit codes mean. Scripts depend on them.
#ifndef GATEWAY_TOOLS_GATEWAYCTL_EXIT_CODE_H_
#define GATEWAY_TOOLS_GATEWAYCTL_EXIT_CODE_H_

namespace gateway::ctl {

enum ExitCode : int {
  kDone = 0,
  kFailed = 1,
  kUsage = 2,
  kInvalidPolicy = 3,
  kNotFound = 4,
  kConflict = 5,
  kUnreachable = 6,
  kNotEveryone = 7,  // --wait or --require: not everyone, or too few, serve it
  kNotAllowed = 8,   // with or without credentials
  kReverted = 9,     // the guard broke, or no confirmation came in time
};

}  // namespace gateway::ctl

#endif  // GATEWAY_TOOLS_GATEWAYCTL_EXIT_CODE_H_
