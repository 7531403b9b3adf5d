// The commands of gatewayctl as CLI11 reads them: their arguments, flags and help.
#ifndef GATEWAY_TOOLS_GATEWAYCTL_COMMAND_TREE_H_
#define GATEWAY_TOOLS_GATEWAYCTL_COMMAND_TREE_H_

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "tools/gatewayctl/commands.h"

namespace gateway::ctl {

using Handler = ExitCode (*)(Session&);

// CLI11's help in 80 columns.
std::string Wrapped(const std::string& help);

// The tree of commands. What it reads goes into `options`, which it must not outlive.
class CommandTree {
 public:
  explicit CommandTree(Options* options);

  CLI::App& app() { return app_; }

  // The command that was parsed; null: none was given.
  const CLI::App* chosen() const {
    const std::vector<CLI::App*> parsed = const_cast<CLI::App&>(app_).get_subcommands();
    return parsed.empty() ? nullptr : parsed.front();
  }
  bool is_completion() const { return chosen() == completion_; }
  bool is_help() const { return chosen() == help_; }
  Handler handler() const {
    return std::find_if(handlers_.begin(), handlers_.end(), [&](const auto& entry) { return entry.first == chosen(); })
        ->second;
  }

  // Null: unknown name.
  const CLI::App* Find(const std::string& name) const {
    const auto found = std::find_if(handlers_.begin(), handlers_.end(),
                                    [&name](const auto& entry) { return entry.first->get_name() == name; });
    return found == handlers_.end() ? nullptr : found->first;
  }

  std::vector<std::string> CommandNames() const {
    std::vector<std::string> names;
    for (const auto& [command, handler] : handlers_) names.push_back(command->get_name());
    return names;
  }

 private:
  CLI::App* Add(const char* name, const char* description, Handler handler, const char* examples);

  CLI::App app_;
  CLI::App* completion_;
  CLI::App* help_;
  std::vector<std::pair<const CLI::App*, Handler>> handlers_;
};

}  // namespace gateway::ctl

#endif  // GATEWAY_TOOLS_GATEWAYCTL_COMMAND_TREE_H_
