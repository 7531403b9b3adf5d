// gatewayctl as a function of its arguments, so that tests run what people run.
#ifndef GATEWAY_TOOLS_GATEWAYCTL_CLI_H_
#define GATEWAY_TOOLS_GATEWAYCTL_CLI_H_

#include <functional>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace gateway::ctl {

// What surrounds a command.
struct Terminal {
  std::ostream* out;
  std::ostream* err;
  bool out_is_terminal = false;
  std::istream* in = nullptr;  // answers to questions; null: nobody is there to ask
  std::function<std::optional<std::string>(const std::string& name)> environment;
  std::function<absl::Time()> now;
  std::string actor;  // "user@host", for history
};

// Runs one command and returns its exit code (exit_code.h). `arguments` is without the program's name.
int RunCommandLine(const std::vector<std::string>& arguments, const Terminal& terminal);

}  // namespace gateway::ctl

#endif  // GATEWAY_TOOLS_GATEWAYCTL_CLI_H_
