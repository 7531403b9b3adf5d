// The commands of gatewayctl. Each reads what the command line said, talks to the server, prints, and returns the exit
// code.
#ifndef GATEWAY_TOOLS_GATEWAYCTL_COMMANDS_H_
#define GATEWAY_TOOLS_GATEWAYCTL_COMMANDS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/policy/resource.h"
#include "tools/gatewayctl/cli.h"
#include "tools/gatewayctl/client.h"
#include "tools/gatewayctl/exit_code.h"
#include "tools/gatewayctl/format.h"

namespace gateway::ctl {

// What the command line said; each command reads its own part.
struct Options {
  std::string server = "127.0.0.1:7400";
  std::string timeout = "30s";
  std::string output = "table";  // table | yaml | json | name
  std::string color = "auto";    // auto | always | never

  std::vector<std::string> files;
  bool dry_run = false;
  bool wait = false;
  std::string comment;
  std::string actor;
  uint64_t expected_revision = 0;  // 0: any

  std::string kind;  // as written: any case, plural, short name, or KIND/NAME
  std::string name;
  std::vector<std::string> labels;  // "k=v"
  uint64_t revision = 0;
  uint64_t limit = 50;
  bool all = false;
  bool exit_code = false;
  bool client_only = false;
  std::string forget;  // a data plane's name
  bool gone = false;
  bool effective = false;
  std::string shell;
  std::string secret_kind;             // of hash: api-key | password
  std::string hash_method = "scrypt";  // of a password: scrypt | argon2id
};

// One run of one command.
struct Session {
  const Options& options;
  const Terminal& terminal;
  AdminClient client;
  absl::Duration timeout;
  bool colour;

  std::ostream& out() { return *terminal.out; }
  std::ostream& err() { return *terminal.err; }
  // Prints the error as gatewayctl does and returns its exit code.
  ExitCode Fail(const absl::Status& status);
  // Prints `value` as -o json or -o yaml asks. False: another format is asked for.
  bool PrintStructured(const Json& value);
};

// KIND and NAME of the command line; the kind is canonical, or empty where none was given. InvalidArgument otherwise.
absl::StatusOr<ResourceKey> ParseTarget(const Options& options);

// policy_commands.cc: what is in force, and changing it.
ExitCode Apply(Session& session);
ExitCode Diff(Session& session);
ExitCode Get(Session& session);
ExitCode Describe(Session& session);
ExitCode Delete(Session& session);
ExitCode Export(Session& session);

// revision_commands.cc: what was in force, and who serves what.
ExitCode History(Session& session);
ExitCode Show(Session& session);
ExitCode Rollback(Session& session);
ExitCode Rollout(Session& session);
// Waits for `revision` to be everywhere and says how that ended. With `json`, adds the end to it instead of printing.
ExitCode AwaitEverywhere(Session& session, uint64_t revision, Json* json);

// fleet_commands.cc: who is there.
ExitCode DataPlanes(Session& session);
ExitCode AcceptHistory(Session& session);
ExitCode Services(Session& session);
ExitCode Endpoints(Session& session);
ExitCode Breakers(Session& session);
ExitCode Limits(Session& session);
ExitCode Version(Session& session);

// secret_commands.cc: what goes into a Consumer; asks no server.
ExitCode Hash(Session& session);

}  // namespace gateway::ctl

#endif  // GATEWAY_TOOLS_GATEWAYCTL_COMMANDS_H_
