#include "tools/gatewayctl/command_tree.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/version.h"
#include "tools/gatewayctl/requirement.h"

namespace gateway::ctl {
namespace {

constexpr char kFooter[] =
    R"(Exit codes: 0 done; 1 failed; 2 wrong usage; 3 the policy is invalid;
            4 not found; 5 conflict; 6 unreachable; 7 too few data planes serve
            it (--wait, --require); 8 not allowed; 9 the guard or the
            confirmation reverted it
Examples:
  gatewayctl apply -f policy.yaml --wait
  gatewayctl get routes
  gatewayctl describe route orders
'gatewayctl COMMAND --help' says more of each.)";

CLI::Validator IsRevision() {
  return CLI::Validator(
      [](std::string& text) {
        uint64_t revision = 0;
        const bool valid = absl::SimpleAtoi(text, &revision) && revision >= 1 && revision <= uint64_t{INT64_MAX};
        return valid ? std::string() : absl::StrCat("'", text, "' is not a revision; expected a number from history");
      },
      "");
}

CLI::Validator Among(const std::vector<std::string>& words) {
  return CLI::Validator(
      [words](std::string& word) {
        if (std::find(words.begin(), words.end(), word) != words.end()) return std::string();
        return absl::StrCat("'", word, "': expected ", absl::StrJoin(words, ", "));
      },
      "");
}

CLI::Validator OutputFormat() {
  return CLI::Validator(
      [](std::string& word) {
        for (const char* format : {"table", "wide", "yaml", "json", "name"}) {
          if (word == format) return std::string();
        }
        if (word.starts_with("jsonpath=")) return std::string();
        return absl::StrCat("'", word, "': expected table, wide, yaml, json, name or jsonpath=TEMPLATE");
      },
      "");
}

void AddFiles(CLI::App* command, Options* options, bool required = true) {
  command
      ->add_option("-f,--file", options->files,
                   "A file, a folder (its *.yaml and *.yml), or - for standard input; may be repeated")
      ->required(required)
      ->allow_extra_args(false)
      ->type_name("FILE");
}

void AddExpectedRevision(CLI::App* command, Options* options) {
  command
      ->add_option("--expect-revision", options->expected_revision, "Only if this is the current revision; else exit 5")
      ->type_name("REVISION");
}

void AddExpectedVersions(CLI::App* command, Options* options) {
  command
      ->add_option("--expect", options->expected,
                   "Only if a resource was last changed by this revision (0: if it does not exist); else exit 5; "
                   "may be repeated")
      ->allow_extra_args(false)
      ->type_name("KIND/NAME=REVISION");
}

void AddDrain(CLI::App* command, Options* options) {
  command->add_option("DATAPLANE", options->data_plane, "Its name")->required()->type_name("DATAPLANE");
  command->add_option("--comment", options->comment, "Why, for the audit")->type_name("TEXT");
  command->add_option("--actor", options->actor, "Who; default: user@host")->type_name("TEXT");
}

void AddYes(CLI::App* command, Options* options) {
  command->add_flag("-y,--yes", options->yes, "Ask nothing; without a terminal nothing is asked");
}

CLI::Option* AddFor(CLI::App* command, Options* options, const char* description) {
  return command->add_option("--for", options->lasting, description)->type_name("TIME");
}

void AddRequire(CLI::App* command, Options* options) {
  command
      ->add_option("--require", options->require,
                   "How many data planes must serve it, lost ones counted: a number, a percentage, or all; exit 7 "
                   "if fewer do")
      ->check([](const std::string& text) {
        return RequirementOf(text).has_value() ? std::string()
                                               : absl::StrCat("'", text, "': expected a number, a percentage or all");
      })
      ->type_name("N|P%|all");
}

void AddChange(CLI::App* command, Options* options) {
  AddRequire(command, options);
  command->add_flag("--all-errors", options->all_errors,
                    absl::StrCat("Print every error, not only the first ", kErrorsShown));
  command->add_flag("--dry-run", options->dry_run, "Check and show what would change; store nothing");
  command->add_flag("--wait", options->wait, "Until every data plane serves it; exit 7 if that does not happen");
  command->add_option("--comment", options->comment, "Why, for history")->type_name("TEXT");
  command->add_option("--actor", options->actor, "Who, for history; default: user@host")->type_name("TEXT");
}

// How a change that is not final at once ends (v1::ApplyRequest).
void AddTerms(CLI::App* command, Options* options) {
  command
      ->add_option("--to", options->to,
                   "Stage it: only for these data planes, until promote or abandon; also label=KEY=VALUE; a "
                   "percentage is by a hash of their names, at least one")
      ->type_name("zone=NAME|label=KEY|percent=N");
  command
      ->add_option("--confirm-within", options->confirm_within,
                   "Revert it unless it is confirmed in time; with --wait, wait for that: exit 9 if it was reverted")
      ->type_name("DURATION");
  command
      ->add_option("--guard", options->guard,
                   "Revert it when the requests of the routes that it concerns break this: error_rate, p50, p90, p99 "
                   "with < or <=; requests>N as the least volume; for=DURATION, default 60s; with --wait as above")
      ->type_name("CONDITION,...");
}

void AddTarget(CLI::App* command, Options* options, bool required) {
  command->add_option("KIND", options->kind, "In any case, plural or short: route, Routes, rl, KIND/NAME")
      ->required(required)
      ->type_name("KIND");
  command->add_option("NAME", options->name, "The resource's name")->type_name("NAME");
}

void AddVerb(CLI::App* command, Options* options, const std::vector<std::string>& verbs) {
  command->add_option("VERB", options->verb, "What to do")
      ->required()
      ->check(Among(verbs))
      ->type_name(absl::StrJoin(verbs, "|"));
}

CLI::Option* AddRole(CLI::App* command, Options* options) {
  return command->add_option("--role", options->role, "What they may do; each includes the ones before it")
      ->check(Among({"viewer", "operator", "editor", "admin"}))
      ->type_name("viewer|operator|editor|admin");
}

void AddTargets(CLI::App* command, Options* options) {
  command
      ->add_option("KIND", options->kind,
                   "In any case, plural or short: route, Routes, rl; several with commas; or KIND/NAME")
      ->type_name("KIND");
  command->add_option("NAME", options->names, "The names of resources, or further KIND/NAME")->type_name("NAME");
}

void AddSelector(CLI::App* command, Options* options) {
  command
      ->add_option("-l,--selector,--label", options->selectors,
                   "Only those whose labels match: k=v, k!=v, 'k in (a, b)', 'k notin (a)', k, !k, with commas "
                   "between; repeated: all must match")
      ->allow_extra_args(false)
      ->type_name("SELECTOR");
}

void AddRevision(CLI::App* command, Options* options, bool required) {
  command->add_option("REVISION", options->revision, "A number from history")
      ->required(required)
      ->check(IsRevision())
      ->type_name("REVISION");
}

void AddDecision(CLI::App* command, Options* options) {
  AddRevision(command, options, /*required=*/false);
  AddRequire(command, options);
  command->add_flag("--wait", options->wait, "Until every data plane serves what results; exit 7 if not");
  command->add_option("--comment", options->comment, "Why, for the audit")->type_name("TEXT");
  command->add_option("--actor", options->actor, "Who, for the audit; default: user@host")->type_name("TEXT");
}

void AddCanary(CLI::App* command, Options* options) {
  command->add_option("ROUTE", options->name, "The name of a Route with a canary")->required()->type_name("ROUTE");
  CLI::Option* pause = command->add_flag("--pause", options->pause, "Stay at this step; the guard still watches");
  CLI::Option* resume = command->add_flag("--resume", options->resume, "Walk on; the time of the step begins again");
  CLI::Option* abort = command->add_flag("--abort", options->abort, "Give the side no more requests");
  CLI::Option* restart = command->add_flag("--restart", options->restart, "Begin again with the first step");
  CLI::Option* complete = command->add_flag("--complete", options->complete, "Give the side all requests, now");
  resume->excludes(pause);
  abort->excludes(pause)->excludes(resume);
  restart->excludes(pause)->excludes(resume)->excludes(abort);
  complete->excludes(pause)->excludes(resume)->excludes(abort)->excludes(restart);
  AddRequire(command, options);
  command->add_flag("--wait", options->wait, "Until every data plane serves what results; exit 7 if not");
  command->add_option("--comment", options->comment, "Why, for history and the audit")->type_name("TEXT");
  command->add_option("--actor", options->actor, "Who; default: user@host")->type_name("TEXT");
}

}  // namespace

// CLI11 does not wrap. Descriptions that pass column 80 continue below, in their column, and so do flags; examples,
// which are indented, stay as they are, so that they can be copied.
std::string Wrapped(const std::string& help) {
  constexpr size_t kColumns = 80, kDescription = 30;  // CLI11's own column for descriptions
  constexpr size_t kFlagContinued = 8;                // flags are at column 2
  std::string text;
  for (std::string line : std::vector<std::string>(absl::StrSplit(help, '\n'))) {
    const bool describes = line.size() > kDescription && line[kDescription - 1] == ' ' && line[kDescription] != ' ';
    const bool names_flag = line.starts_with("  -");  // "  --set ADDRESS weight=N Excludes: --accept --thaw"
    const size_t indent = describes ? kDescription : names_flag ? kFlagContinued : 0;
    while (line.size() > kColumns && (describes || names_flag || line.front() != ' ')) {
      const size_t space = line.rfind(' ', kColumns);
      if (space == std::string::npos || space <= indent) break;
      absl::StrAppend(&text, line.substr(0, space), "\n");
      line = absl::StrCat(std::string(indent, ' '), line.substr(space + 1));
    }
    absl::StrAppend(&text, line, "\n");
  }
  if (help.ends_with('\n')) text.pop_back();
  return text;
}

CommandTree::CommandTree(Options* options)
    : app_("Reads and changes the policy of a gateway, and shows who serves it.", "gatewayctl") {
  app_.footer(kFooter);
  app_.set_version_flag("-v,--version", absl::StrCat("gatewayctl ", kVersion), "This program's version");
  app_.set_help_flag("-h,--help", "This help");
  app_.add_option("--server", options->server,
                  "The control plane's admin address; also GATEWAY_SERVER; else the context's, else 127.0.0.1:7400")
      ->type_name("HOST[:PORT]");
  app_.add_option("--ca", options->ca, "Speak TLS, and trust certificates of this CA (PEM); also GATEWAY_CA")
      ->type_name("FILE");
  app_.add_option("--token-file", options->token_file,
                  "Your credential: a file with a token; also GATEWAY_TOKEN, the token itself")
      ->type_name("FILE");
  app_.add_option("--cert", options->cert, "Your credential: a client certificate (PEM), with --key")
      ->type_name("FILE");
  app_.add_option("--key", options->key, "The key of --cert (PEM)")->type_name("FILE");
  app_.add_option("--timeout", options->timeout, "How long a call may take, and how long --wait waits")
      ->capture_default_str()
      ->type_name("DURATION");
  app_.add_option("-o,--output", options->output, "How to print")
      ->check(OutputFormat())
      ->capture_default_str()
      ->type_name("table|wide|yaml|json|name|jsonpath=TEMPLATE");
  app_.add_option("--color", options->color, "Colours; auto: on a terminal, unless NO_COLOR is set")
      ->check(Among({"auto", "always", "never"}))
      ->capture_default_str()
      ->type_name("auto|always|never");
  app_.fallthrough();  // global flags may also follow the command
  // Once there is a command, every further word is its argument: names and kinds may be those of commands.
  app_.require_subcommand(0, 1);

  CLI::App* apply = Add("apply", "Add and replace policy, all or nothing; never deletes", ctl::Apply, R"(
  gatewayctl apply -f policy.yaml --wait --comment "raise the limit"
  gatewayctl get route orders -o yaml | sed s/30s/10s/ | gatewayctl apply -f -
  gatewayctl apply -f policy.yaml --to percent=10
  gatewayctl apply -f policy.yaml --confirm-within 2m
  gatewayctl apply -f policy.yaml --wait \
    --guard 'error_rate<1%,p99<250ms,for=60s')");
  AddFiles(apply, options);
  AddChange(apply, options);
  AddExpectedRevision(apply, options);
  AddExpectedVersions(apply, options);
  apply->add_flag("--prune", options->prune,
                  "Delete, in the same revision, what -l selects and the files have not; built-ins stay");
  AddSelector(apply, options);
  AddYes(apply, options);
  AddTerms(apply, options);

  CLI::App* sync =
      Add("sync", "Make a set of resources what the files say: add, replace, and delete what is no longer there",
          ctl::Sync, R"(
  gatewayctl sync -f policy/ --set prod --dry-run
  gatewayctl sync -f policy/ --set prod --yes --wait --comment "$GIT_COMMIT")");
  AddFiles(sync, options);
  sync->add_option("--set", options->set_name, "The set's name; it owns its resources, and no other set may take them")
      ->required()
      ->type_name("SET");
  sync->add_flag("--allow-empty", options->allow_empty, "Files without any policy delete all that the set has");
  AddChange(sync, options);
  AddExpectedRevision(sync, options);
  AddExpectedVersions(sync, options);
  AddYes(sync, options);

  CLI::App* diff = Add("diff", "Show what apply would change, or what changed from one revision to another", ctl::Diff,
                       R"(
  gatewayctl diff -f policy/
  gatewayctl diff -f policy.yaml --exit-code || echo "not applied yet"
  gatewayctl diff 12 15
  gatewayctl diff 12)");
  AddFiles(diff, options, /*required=*/false);
  diff->add_option("REVISION", options->revisions, "One from history, and the one to compare it with; default: now")
      ->check(IsRevision())
      ->type_name("REVISION");
  diff->add_flag("--all-errors", options->all_errors,
                 absl::StrCat("Print every error, not only the first ", kErrorsShown));
  diff->add_flag("--exit-code", options->exit_code, "Exit 1 if there are differences; without it they exit 0");

  CLI::App* get = Add("get", "List policy; without KIND, of all kinds", ctl::Get, R"(
  gatewayctl get routes
  gatewayctl get rl per-client -o yaml
  gatewayctl get routes orders shop -o wide
  gatewayctl get routes --watch
  gatewayctl get routes -o jsonpath='{.items[*].name}'
  gatewayctl get services -l team=orders -o name
  gatewayctl get routes -l 'team in (orders, search),env!=test')");
  AddTargets(get, options);
  AddSelector(get, options);
  get->add_flag("-w,--watch", options->watch, "Go on with what changes, until interrupted");

  CLI::App* describe =
      Add("describe", "Show everything about one resource, or about a data plane: who changed it, what it resolves to",
          ctl::Describe, R"(
  gatewayctl describe route orders
  gatewayctl describe route orders --effective
  gatewayctl describe service/orders -o json
  gatewayctl describe dataplane dp-1)");
  AddTarget(describe, options, /*required=*/true);
  describe->add_flag(
      "--effective", options->effective,
      "Of a route or a service: every policy that applies, in the order of a request, and where it comes from");

  CLI::App* remove =
      Add("delete", "Delete resources; a built-in comes back where its replacement goes", ctl::Delete, R"(
  gatewayctl delete route orders --wait
  gatewayctl delete route/orders service/orders
  gatewayctl delete -f policy.yaml --ignore-not-found
  gatewayctl delete routes -l team=orders --yes)");
  AddTargets(remove, options);
  AddSelector(remove, options);
  remove->add_option("-f,--file", options->files, "Delete what these files define: a file, a folder, or -; repeatable")
      ->allow_extra_args(false)
      ->type_name("FILE");
  remove->add_flag("--ignore-not-found", options->ignore_not_found, "Do not fail on what does not exist");
  AddChange(remove, options);
  AddExpectedRevision(remove, options);
  AddYes(remove, options);

  CLI::App* edit = Add("edit", "Open one resource in $VISUAL or $EDITOR and apply what is saved", ctl::Edit, R"(
  gatewayctl edit route orders
  EDITOR=nano gatewayctl edit ratelimit per-client --wait)");
  AddTarget(edit, options, /*required=*/true);
  AddChange(edit, options);

  Add("lint", "List everything that is doubtful in the current policy", ctl::Lint, R"(
  gatewayctl lint)");

  Add("fields", "Show the reference of a kind or of one of its fields", ctl::Fields, R"(
  gatewayctl fields
  gatewayctl fields route
  gatewayctl fields route.match.headers)")
      ->add_option("KIND", options->name, "A kind, with the path of a field behind dots: route.match.path")
      ->type_name("KIND[.FIELD]");

  CLI::App* exported = Add("export", "Print all policy as one stream of YAML, ready to apply", ctl::Export, R"(
  gatewayctl export > policy.yaml
  gatewayctl export --with-secrets --output-file with-hashes.yaml)");
  exported->add_flag("--all", options->all, "Also built-in resources");
  exported->add_flag("--with-secrets", options->with_secrets,
                     "With the hashes of secrets, so that a new control plane takes it; needs --output-file");
  exported->add_option("--output-file", options->output_file, "Write it to this file (mode 0600)")->type_name("FILE");

  CLI::App* history = Add("history", "List revisions, the newest first", ctl::History, R"(
  gatewayctl history
  gatewayctl history route orders --limit 5
  gatewayctl history routes --actor ci --since 7d --comment "raise the limit")");
  AddTarget(history, options, /*required=*/false);
  history->add_option("--actor", options->actor, "Only theirs")->type_name("ACTOR");
  history->add_option("--comment", options->comment_text, "Only those whose comment contains it, in any case")
      ->type_name("TEXT");
  history->add_option("--since", options->since, "Not older: 90m, 12h, 30d, or 2026-07-04T10:00:00Z")
      ->type_name("TIME");
  history->add_option("--until", options->until, "Not newer; likewise")->type_name("TIME");
  history
      ->add_option("-l,--selector", options->selectors,
                   "Only those that changed a resource whose labels match now; as in get")
      ->allow_extra_args(false)
      ->type_name("SELECTOR");
  history->add_option("--limit", options->limit, "At most so many; 0: all")->capture_default_str()->type_name("N");

  CLI::App* blame =
      Add("blame", "Show who last changed each line of a resource, when, and in which revision", ctl::Blame, R"(
  gatewayctl blame route orders
  gatewayctl blame service/orders -o json)");
  AddTarget(blame, options, /*required=*/true);

  AddRevision(Add("show", "Show a revision: who made it and what it changed", ctl::Show, R"(
  gatewayctl show 7
  gatewayctl show 7 -o yaml > as-it-was.yaml)"),
              options, /*required=*/true);

  CLI::App* rollback = Add("rollback", "Make a new revision with the policy of an older one", ctl::Rollback, R"(
  gatewayctl rollback 6 --dry-run
  gatewayctl rollback 6 --wait --expect-revision 9)");
  AddRevision(rollback, options, /*required=*/true);
  AddChange(rollback, options);
  AddExpectedRevision(rollback, options);
  AddYes(rollback, options);

  AddDecision(Add("confirm", "Keep a change that --confirm-within would revert", ctl::Confirm, R"(
  gatewayctl confirm
  gatewayctl confirm 12 --comment "checkout works")"),
              options);
  AddDecision(Add("promote", "Give a staged change to all data planes, for good", ctl::Promote, R"(
  gatewayctl promote
  gatewayctl promote 12 --wait)"),
              options);
  AddDecision(Add("abandon", "Take a change back that is staged, watched or to be confirmed", ctl::Abandon, R"(
  gatewayctl abandon
  gatewayctl abandon 12 --comment "orders are slow")"),
              options);

  CLI::App* canary = Add("canary", "Show the state of the canary of a route, or decide about it", ctl::Canary, R"(
  gatewayctl canary shop
  gatewayctl canary shop --pause --comment "until Monday"
  gatewayctl canary shop --abort --wait)");
  AddCanary(canary, options);

  CLI::App* rollout = Add("rollout", "Tell who serves a revision; by default the current one", ctl::Rollout, R"(
  gatewayctl rollout
  gatewayctl rollout 7 --wait --timeout 1m
  gatewayctl rollout --wait --require 80%)");
  AddRevision(rollout, options, /*required=*/false);
  rollout->add_flag("--wait", options->wait, "Until all serve it; exit 7 if that does not happen");
  AddRequire(rollout, options);

  CLI::App* dataplanes = Add("dataplanes", "List the data planes and what each serves", ctl::DataPlanes, R"(
  gatewayctl dataplanes
  gatewayctl dataplanes --forget dp-7)");
  CLI::Option* forget =
      dataplanes->add_option("--forget", options->forget, "Forget one that is gone")->type_name("NAME");
  dataplanes->add_flag("--gone", options->gone, "Forget all that are gone")->excludes(forget);
  Add("accept-history",
      "Let this control plane's policy replace another history that data planes serve, once its database is new on "
      "purpose",
      ctl::AcceptHistory, R"(
  gatewayctl accept-history)")
      ->add_option("--actor", options->actor, "Who, for the log; default: user@host")
      ->type_name("TEXT");
  Add("services", "List the services of the policy and of Consul, and how many endpoints serve", ctl::Services, R"(
  gatewayctl services)");
  CLI::App* endpoints =
      Add("endpoints",
          "List the endpoints of a service and why some do not serve; set one beside policy; or accept, freeze "
          "or thaw all of them",
          ctl::Endpoints, R"(
  gatewayctl endpoints orders
  gatewayctl endpoints orders --set 10.0.0.7:8080 drain --for 10m
  gatewayctl endpoints orders --set 10.0.0.7:8080 weight=1
  gatewayctl endpoints orders --set 10.0.0.7:8080 up
  gatewayctl endpoints orders --freeze --comment 'Consul is being restored'
  gatewayctl endpoints orders --history)");
  endpoints->add_option("SERVICE", options->name, "A Service's name, or a Consul service's")
      ->required()
      ->type_name("SERVICE");
  CLI::Option* set = endpoints
                         ->add_option("--set", options->set,
                                      "What an endpoint gets, whatever policy and Consul say: weight=N (0: no "
                                      "requests), drain (only its sessions), up (as policy and Consul have it)")
                         ->expected(2)
                         ->type_name("ADDRESS weight=N|drain|up");
  AddFor(endpoints, options, "How long it holds: 90s, 10m, 2d; without it until up")->needs(set);
  CLI::Option* accept =
      endpoints->add_flag("--accept", options->accept, "Take what Consul says now, although it is held as suspect")
          ->excludes(set);
  CLI::Option* freeze =
      endpoints
          ->add_flag("--freeze", options->freeze, "Keep the endpoints as they are, whatever Consul says, until --thaw")
          ->excludes(set)
          ->excludes(accept);
  CLI::Option* thaw = endpoints->add_flag("--thaw", options->thaw, "Follow Consul again")
                          ->excludes(set)
                          ->excludes(accept)
                          ->excludes(freeze);
  endpoints->add_flag("--history", options->history, "What happened to the endpoints, the newest first; at most 50")
      ->excludes(set)
      ->excludes(accept)
      ->excludes(freeze)
      ->excludes(thaw);
  endpoints->add_option("--comment", options->comment, "Why, for the audit")->type_name("TEXT");
  endpoints->add_option("--actor", options->actor, "Who; default: user@host")->type_name("TEXT");

  AddDrain(Add("drain", "Move traffic away from a data plane: not ready, but every request is served", ctl::Drain, R"(
  gatewayctl drain dp-1 --comment 'kernel update')"),
           options);
  AddDrain(Add("undrain", "Take a drained data plane back into service", ctl::Undrain, R"(
  gatewayctl undrain dp-1)"),
           options);

  CLI::App* log_level = Add("loglevel", "Change the level of a process' log for a while", ctl::LogLevel, R"(
  gatewayctl loglevel dp-1 debug --for 5m
  gatewayctl loglevel controlplane debug
  gatewayctl loglevel dp-1 default)");
  log_level->add_option("PROCESS", options->data_plane, "A data plane's name, or controlplane")
      ->required()
      ->type_name("DATAPLANE|controlplane");
  log_level->add_option("LEVEL", options->level, "trace, debug, info, warn, error; default: that of the bootstrap file")
      ->required()
      ->check(Among({"trace", "debug", "info", "warn", "error", "default"}))
      ->type_name("trace|debug|info|warn|error|default");
  AddFor(log_level, options, "How long; at most 24h; default: 5m");

  CLI::App* bundle =
      Add("support-bundle",
          "Write configuration and state of the control plane and its data planes, without secrets, into one archive",
          ctl::SupportBundle, R"(
  gatewayctl support-bundle gateway.tar.gz
  gatewayctl support-bundle - | ssh helpdesk 'cat > gateway.tar.gz')");
  bundle->add_option("FILE", options->output_file, "Where to: FILE.tar.gz, FILE.tar, or - for standard output")
      ->required()
      ->type_name("FILE");
  bundle->add_flag("--all", options->all, "Ask all data planes for their own part, not only the first 20");

  Add("backup", "Write a copy of the control plane's whole database, while it serves, to a file (mode 0600)",
      ctl::Backup, R"(
  gatewayctl backup gateway-$(date +%F).backup
  gateway-controlplane --config gateway.yaml check-db gateway-2026-07-04.backup)")
      ->add_option("FILE", options->output_file, "Where to; it has hashes of secrets, but not the sealing key")
      ->required()
      ->type_name("FILE");

  CLI::App* hash =
      Add("hash", "Read a secret from standard input and print the hash that goes into a Consumer", ctl::Hash, R"(
  openssl rand -hex 24 | tee key.txt | gatewayctl hash api-key
  printf %s "$PASSWORD" | gatewayctl hash password --method argon2id)");
  hash->add_option("WHAT", options->secret_kind,
                   "Of an API key: credentials.api_key_sha256; of a password: basic.password_hash")
      ->required()
      ->check(Among({"api-key", "password"}))
      ->type_name("api-key|password");
  hash->add_option("--method", options->hash_method,
                   "Of a password: scrypt (32 MiB, RFC 7914) or argon2id (19 MiB, RFC 9106)")
      ->check(Among({"scrypt", "argon2id"}))
      ->capture_default_str()
      ->type_name("METHOD");
  Add("breakers", "List the breakers of all data planes, or those in front of one service", ctl::Breakers, R"(
  gatewayctl breakers
  gatewayctl breakers orders)")
      ->add_option("SERVICE", options->name, "A Service's name, or a Consul service's")
      ->type_name("SERVICE");
  Add("limits", "List what all data planes count for each RateLimit, or for one", ctl::Limits, R"(
  gatewayctl limits
  gatewayctl limits per-client)")
      ->add_option("NAME", options->name, "A RateLimit's name")
      ->type_name("NAME");

  CLI::App* token = Add("token", "Make, list and revoke tokens of people and pipelines", ctl::Token, R"(
  gatewayctl token create ann --role admin > ann.token
  gatewayctl token create ci --role editor --only team=orders \
    --kinds Route,Service --expires 30d > ci.token
  gatewayctl token list
  gatewayctl token revoke ci)");
  AddVerb(token, options, {"create", "list", "revoke"});
  token->add_option("NAME", options->name, "The token's name, which history and audit show")->type_name("TOKEN");
  AddRole(token, options);
  token
      ->add_option("--only", options->only,
                   "Of an editor: changes only resources that have all of these labels, and refers only to those, to "
                   "built-in ones and to those labelled shared: \"true\"")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("LABEL=VALUE,...");
  token->add_option("--kinds", options->kinds, "Of an editor: changes only these kinds")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("KIND,...");
  token->add_option("--expires", options->expires, "When it ends; default: never")->type_name("TIME");

  CLI::App* join_token =
      Add("join-token", "Make a token with which one data plane gets its first certificate", ctl::JoinToken, R"(
  gatewayctl join-token dp-1 > dp-1.join-token
  gatewayctl join-token dp-2 --expires 10m -o json)");
  join_token->add_option("NAME", options->data_plane, "Its data_plane.name, and the name in the certificate")
      ->required()
      ->type_name("NAME");
  join_token->add_option("--expires", options->expires, "How long it can be used, once; default: 1h, at most 30d")
      ->type_name("TIME");
  join_token->add_option("--comment", options->comment, "Why, for the audit")->type_name("TEXT");
  join_token->add_option("--actor", options->actor, "Who, for the audit; default: user@host")->type_name("TEXT");

  CLI::App* audit = Add("audit", "List writes and denied attempts, the newest first", ctl::Audit, R"(
  gatewayctl audit --since 1h
  gatewayctl audit --actor ci --limit 0 -o json)");
  audit->add_option("--actor", options->actor, "Only theirs")->type_name("ACTOR");
  audit->add_option("--since", options->since, "Not older than that: 90m, 12h, 30d")->type_name("TIME");
  audit->add_option("--limit", options->limit, "At most so many; 0: all")->capture_default_str()->type_name("N");

  CLI::App* context = Add("context", "Name control planes, with how to reach them and who you are there", ctl::Context,
                          R"(
  gatewayctl context set prod --server cp.example.com:7400 --ca ca.crt \
    --token-file prod.token
  gatewayctl context use prod
  gatewayctl context list)");
  AddVerb(context, options, {"set", "use", "list"});
  context->add_option("NAME", options->name, "The context's name")->type_name("CONTEXT");

  CLI::App* pki = Add("pki", "Make a CA for a lab, and certificates of it: EC P-256, keys of mode 0600", ctl::Pki, R"(
  gatewayctl pki init pki
  gatewayctl pki issue pki --server controlplane,localhost,127.0.0.1
  gatewayctl pki issue pki --data-plane dp-1
  gatewayctl pki issue pki --operator alice --role editor)");
  AddVerb(pki, options, {"init", "issue"});
  pki->add_option("DIR", options->directory, "The folder of ca.crt, ca.key and all certificates")
      ->required()
      ->type_name("DIR");
  pki->add_option("--server", options->server_names, "For a control plane: DNS names and IP addresses it goes by")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("NAME,...");
  pki->add_option("--data-plane", options->data_plane, "For a data plane: its data_plane.name")->type_name("DATAPLANE");
  pki->add_option("--operator", options->operator_name, "For a person or a pipeline, in place of a token")
      ->type_name("OPERATOR");
  AddRole(pki, options);
  pki->add_option("--expires", options->expires, "How long it is valid; default: 90d")->type_name("TIME");

  Add("version", "Tell this program's version and the server's", ctl::Version, R"(
  gatewayctl version --client)")
      ->add_flag("--client", options->client_only, "Only this program's, without asking the server");

  help_ = Add("help", "Show this help, or that of a command", nullptr, R"(
  gatewayctl help apply)");
  help_->add_option("COMMAND", options->name, "Which command")->type_name("COMMAND");

  completion_ = Add("completion", "Print a completion script for a shell", nullptr, R"(
  source <(gatewayctl completion bash)
  gatewayctl completion fish > ~/.config/fish/completions/gatewayctl.fish)");
  completion_->add_option("SHELL", options->shell, "Which shell")
      ->required()
      ->check(Among({"bash", "zsh", "fish"}))
      ->type_name("bash|zsh|fish");
}

CLI::App* CommandTree::Add(const char* name, const char* description, Handler handler, const char* examples) {
  CLI::App* command = app_.add_subcommand(name, description);
  command->footer(absl::StrCat("Example:", examples,
                               "\nGlobal flags: --server, --ca, --token-file, --cert, --key, --timeout, -o,\n"
                               "  --color; see gatewayctl --help"));
  handlers_.emplace_back(command, handler);
  return command;
}

}  // namespace gateway::ctl
