// Shell completion, generated from the command line's own description.
#ifndef GATEWAY_TOOLS_GATEWAYCTL_COMPLETION_H_
#define GATEWAY_TOOLS_GATEWAYCTL_COMPLETION_H_

#include <string>
#include <string_view>

namespace CLI {
class App;
}

namespace gateway::ctl {

// A script for `shell` (bash, zsh or fish); "" for any other. What follows a flag or stands at a position is known by
// the option's type name: KIND, NAME, SERVICE and REVISION are asked of the server, FILE is the shell's own, and
// "a|b|c" is one of these.
std::string CompletionScript(const CLI::App& app, std::string_view shell);

}  // namespace gateway::ctl

#endif  // GATEWAY_TOOLS_GATEWAYCTL_COMPLETION_H_
