// The bootstrap file of a process: read, overridden by the environment and by flags, checked whole, defaults filled in.
#ifndef GATEWAY_COMMON_CONFIG_BOOTSTRAP_H_
#define GATEWAY_COMMON_CONFIG_BOOTSTRAP_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gateway/v1/bootstrap.pb.h"

namespace gateway {

struct LoadedBootstrap {
  v1::Bootstrap
      config;  // every field that has a default is set; `rate_limit` stays absent if the file has no such section
  // "server.port" -> "file:3:11", "environment GATEWAY_SERVER_PORT", "--set server.port", "default", "absent".
  std::vector<std::pair<std::string, std::string>> origins;
  // "gateway.yaml:3:11: server.port: ...", all of them; empty: all is well.
  std::vector<std::string> problems;
};

// `path` empty: defaults, environment and flags only. `environment` is "NAME=value" strings (environ). `sets` are
// "server.port=8081" of --set flags. GATEWAY_* names that are not keys are problems, with the nearest one
// (GATEWAY_SERVER, _TOKEN and _CA, the client's, GATEWAY_TEST_*, and what Kubernetes sets for a service called
// `gateway` are left alone). Never throws.
LoadedBootstrap LoadBootstrap(const std::string& path, const std::vector<std::string>& environment,
                              const std::vector<std::string>& sets);

// What --check-config prints: every key with its value (secrets redacted) and its origin; if the value is a word for
// a number, the number too.
std::string DescribeBootstrap(const LoadedBootstrap& loaded);

// A word behind the options that a daemon does instead of serving: "restore FILE".
struct DaemonCommand {
  std::string name, about;
  std::string argument = {};  // "FILE"; "[FILE]": it may be absent; "": it has no argument
  std::string flag = {}, flag_about = {};
};

// What both daemons' main do first: reads `--config FILE` (or the first argument), --set, --check-config, --version,
// --help. Returns an exit code if the process must end now (2 for any problem, all of them printed on stderr).
struct DaemonArguments {
  std::optional<int> exit_code;
  bool check = false;  // --check-config: `config` is valid, and exit_code 0
  v1::Bootstrap config;
  std::string config_file;
  std::string command;   // "": serve
  std::string argument;  // the command's argument; "": not given
  bool flag = false;     // the command's flag was given
};
DaemonArguments ParseDaemonArguments(int argc, char** argv, const std::string& program, const std::string& about,
                                     const std::vector<DaemonCommand>& commands = {});

// The number that `auto`, or 0, stands for.
int WorkersOf(const v1::ServerSection& server);
int64_t ConnectionsPerAddressOf(const v1::ServerSection& server);

}  // namespace gateway

#endif  // GATEWAY_COMMON_CONFIG_BOOTSTRAP_H_
