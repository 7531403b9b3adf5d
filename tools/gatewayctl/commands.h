// The commands of gatewayctl. Each reads what the command line said, talks to the server, prints, and returns the exit
// code.
#ifndef GATEWAY_TOOLS_GATEWAYCTL_COMMANDS_H_
#define GATEWAY_TOOLS_GATEWAYCTL_COMMANDS_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
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
  std::string server;  // these five: "" where the command line says nothing
  std::string ca, cert, key, token_file;
  std::string timeout = "30s";
  std::string output = "table";  // table | wide | yaml | json | name | jsonpath=TEMPLATE
  std::string color = "auto";    // auto | always | never

  std::vector<std::string> files;
  bool all_errors = false;  // not only the first kErrorsShown
  bool yes = false;         // asks nothing before it destroys something
  std::string require;      // of a rollout: "3", "all", "80%"; empty: everyone who is not lost
  bool dry_run = false;
  bool wait = false;
  std::string comment;
  std::string actor;
  uint64_t expected_revision = 0;     // 0: any
  std::vector<std::string> expected;  // "KIND/NAME=REVISION"
  bool prune = false;                 // deletes what `selectors` select and the files have not
  std::string set_name;               // of sync
  bool allow_empty = false;           // sync of no document at all

  std::string kind;  // as written: any case, plural, short name, or KIND/NAME
  std::string name;
  std::vector<std::string> names;      // of get and delete: all that follows `kind`
  std::vector<std::string> selectors;  // of labels
  bool ignore_not_found = false;
  bool watch = false;
  bool with_secrets = false;
  std::string output_file;  // of export
  uint64_t revision = 0;
  std::vector<uint64_t> revisions;  // of diff: one or two
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

  std::string verb;  // of a command that has several: set, init, create
  std::string directory;
  std::vector<std::string> server_names;
  std::string data_plane;
  std::string operator_name;
  std::string role;                // viewer | operator | editor | admin
  std::string expires;             // "30d"; "": the command's default
  std::vector<std::string> only;   // "label=value"
  std::vector<std::string> kinds;  // in any spelling
  std::string since, until;        // "1h" ago, or RFC 3339; "": the beginning, now
  std::string comment_text;        // of history: contained in the comment
  std::vector<std::string> set;    // of an endpoint: its address, and weight=N, drain or up
  // Of all endpoints of a service: at most one of these.
  bool accept = false, freeze = false, thaw = false, history = false;
  std::string lasting;  // --for: "10m"; "": the command's default
  std::string level;    // of the log: trace | ... | error | default

  // Of a canary: at most one of these.
  bool pause = false, resume = false, abort = false, restart = false, complete = false;

  // Of apply, as in v1::ApplyRequest; "": no such term.
  std::string to, guard, confirm_within;
};

// The history of one resource, of a kind, or of all.
inline v1::HistoryRequest HistoryOf(const ResourceKey& key) {
  v1::HistoryRequest request;
  request.set_kind(key.kind);
  request.set_name(key.name);
  return request;
}

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
  // Of arguments that cannot be: prints `message`, returns kUsage.
  ExitCode Refuse(const std::string& message);
  // Whether -o asks for a value (json, yaml, jsonpath) and not for a table or names.
  bool structured() const;
  bool table() const { return options.output == "table" || options.output == "wide"; }
  // Prints `value` as -o asks. False: it asks for a table or names.
  bool PrintStructured(const Json& value);
  // The one shape of a list: {"items": [...], "revision": N}. As PrintStructured.
  bool PrintList(Json items, uint64_t revision);
  // Asks on the terminal, if any and without --yes, before something is lost; `what` ends without a
  // question mark, and is told with the server's name. False: the answer is no.
  bool Confirm(const std::string& what);
};

inline constexpr size_t kErrorsShown = 50;  // errors of a policy that are printed, unless --all-errors is given

// What KIND and the NAMEs of the command line mean: KIND[,KIND...] [NAME...], or KIND/NAME...; without KIND, nothing. A
// name is empty if a whole kind is meant. InvalidArgument otherwise.
absl::StatusOr<std::vector<ResourceKey>> ParseTargets(const Options& options);
// KIND and NAME of the command line; the kind is canonical, or empty if absent. InvalidArgument otherwise.
absl::StatusOr<ResourceKey> ParseTarget(const Options& options);

// apply_commands.cc: changing policy, and what a change would be.
ExitCode Apply(Session& session);
ExitCode Sync(Session& session);
ExitCode Diff(Session& session);
// policy_commands.cc: what is in force.
ExitCode Get(Session& session);
ExitCode Describe(Session& session);
ExitCode Export(Session& session);
ExitCode Lint(Session& session);
// delete_command.cc
ExitCode Delete(Session& session);

// edit_command.cc
ExitCode Edit(Session& session);

// fields_command.cc: the reference of policy; asks no server.
ExitCode Fields(Session& session);

// revision_commands.cc: what was in force, and who serves what.
ExitCode History(Session& session);
ExitCode Show(Session& session);
// blame_command.cc
ExitCode Blame(Session& session);
// backup_command.cc
ExitCode Backup(Session& session);
ExitCode Rollback(Session& session);
ExitCode Rollout(Session& session);
// Waits for `revision` to be everywhere and says how that ended. With `json`, adds the end to it instead of printing.
ExitCode AwaitEverywhere(Session& session, uint64_t revision, Json* json);

// change_commands.cc: what becomes of a change that is not final.
ExitCode Confirm(Session& session);
ExitCode Promote(Session& session);
ExitCode Abandon(Session& session);
// --to, --guard and --confirm-within into `request`. InvalidArgument.
absl::Status SetTerms(const Options& options, v1::ApplyRequest* request);
// Waits until neither a guard nor a confirmation decides about `change` any more, and says how that ended. With `json`,
// adds the end to it instead of printing.
ExitCode AwaitOutcome(Session& session, v1::PendingChange change, Json* json);

// canary_command.cc
ExitCode Canary(Session& session);

// fleet_commands.cc: who is there.
ExitCode DataPlanes(Session& session);
ExitCode AcceptHistory(Session& session);
ExitCode Services(Session& session);
ExitCode Endpoints(Session& session);
ExitCode EndpointHistory(Session& session);
ExitCode Breakers(Session& session);
ExitCode Limits(Session& session);
ExitCode Version(Session& session);

// operation_commands.cc: what an operator changes for a while, beside policy.
ExitCode SetEndpoint(Session& session);
ExitCode DecideEndpoints(Session& session);
ExitCode LogLevel(Session& session);
// drain_commands.cc: single data planes.
ExitCode Drain(Session& session);
ExitCode Undrain(Session& session);
// Whether `describe` is asked about a data plane, and that.
bool NamesDataPlane(const Options& options);
ExitCode DescribeDataPlane(Session& session);
// bundle_command.cc
ExitCode SupportBundle(Session& session);

// secret_commands.cc: what goes into a Consumer; asks no server.
ExitCode Hash(Session& session);

// context_commands.cc: gatewayctl's own files, and a CA for labs; they ask no server.
ExitCode Context(Session& session);
ExitCode Pki(Session& session);

// identity_commands.cc: who may, and who did.
ExitCode Token(Session& session);
ExitCode JoinToken(Session& session);
ExitCode Audit(Session& session);

}  // namespace gateway::ctl

#endif  // GATEWAY_TOOLS_GATEWAYCTL_COMMANDS_H_
