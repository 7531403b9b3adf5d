// gatewayctl: the operators' command line.
#include <pwd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "tools/gatewayctl/cli.h"
#include "tools/gatewayctl/standard_output.h"

namespace {

std::optional<std::string> Environment(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

std::string UserAtHost() {
  const passwd* user = getpwuid(geteuid());
  char host[256] = "";
  if (gethostname(host, sizeof(host) - 1) != 0) host[0] = '\0';
  return (user != nullptr ? std::string(user->pw_name) : std::to_string(geteuid())) + "@" + host;
}

}  // namespace

int main(int argc, char** argv) {
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);  // gRPC's own log lines; the calls' errors say the same
  std::signal(SIGPIPE, SIG_IGN);                      // a closed pipe ends the output, not a change half way through
  gateway::ctl::StandardOutput output;
  std::ostream out(&output);
  const gateway::ctl::Terminal terminal{.out = &out,
                                        .err = &std::cerr,
                                        .out_is_terminal = isatty(STDOUT_FILENO) == 1,
                                        .in = isatty(STDIN_FILENO) == 1 ? &std::cin : nullptr,
                                        .environment = Environment,
                                        .now = [] { return absl::Now(); },
                                        .actor = UserAtHost()};
  const int code = gateway::ctl::RunCommandLine(std::vector<std::string>(argv + 1, argv + argc), terminal);
  out.flush();
  // A reader that has seen enough (`| head`) is no failure; a full disk is.
  if (output.error() != 0 && output.error() != EPIPE) {
    std::cerr << "gatewayctl: cannot write the output: " << std::strerror(output.error()) << "\n";
    return code == 0 ? 1 : code;
  }
  return code;
}
