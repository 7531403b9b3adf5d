#include "tools/gatewayctl/cli.h"

#include <algorithm>
#include <array>
#include <iostream>
#include <memory>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "common/base/host_port.h"
#include "common/base/units.h"
#include "common/base/version.h"
#include "tools/gatewayctl/commands.h"
#include "tools/gatewayctl/completion.h"
#include "tools/gatewayctl/jsonpath.h"
#include "tools/gatewayctl/requirement.h"
#include "tools/gatewayctl/table.h"

namespace gateway::ctl {
namespace {

using Handler = ExitCode (*)(Session&);

constexpr char kFooter[] =
    R"(Exit codes: 0 done; 1 failed; 2 wrong usage; 3 the policy is invalid;
            4 not found; 5 conflict; 6 unreachable; 7 too few data planes serve
            it (--wait, --require); 8 not allowed
Examples:
  gatewayctl apply -f policy.yaml --wait
  gatewayctl get routes
  gatewayctl describe route orders
'gatewayctl COMMAND --help' says more of each.)";

// CLI11 does not wrap. Descriptions that pass column 80 continue below, in their column; examples, which are indented,
// stay as they are, so that they can be copied.
std::string Wrapped(const std::string& help) {
  constexpr size_t kColumns = 80, kDescription = 30;  // CLI11's own column for descriptions
  std::string text;
  for (std::string line : std::vector<std::string>(absl::StrSplit(help, '\n'))) {
    const bool describes = line.size() > kDescription && line[kDescription - 1] == ' ' && line[kDescription] != ' ';
    const size_t indent = describes ? kDescription : 0;
    while (line.size() > kColumns && (describes || line.front() != ' ')) {
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

// The tree of commands. What it reads goes into `options`, which it must not outlive.
class CommandTree {
 public:
  explicit CommandTree(Options* options)
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
  gatewayctl get route orders -o yaml | sed s/30s/10s/ | gatewayctl apply -f -)");
    AddFiles(apply, options);
    AddChange(apply, options);
    AddExpectedRevision(apply, options);

    CLI::App* diff = Add("diff", "Show what apply would change", ctl::Diff, R"(
  gatewayctl diff -f policy/
  gatewayctl diff -f policy.yaml --exit-code || echo "not applied yet")");
    AddFiles(diff, options);
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
        Add("describe", "Show everything about one resource: who changed it, what it resolves to", ctl::Describe, R"(
  gatewayctl describe route orders
  gatewayctl describe route orders --effective
  gatewayctl describe service/orders -o json)");
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
    remove
        ->add_option("-f,--file", options->files, "Delete what these files define: a file, a folder, or -; repeatable")
        ->allow_extra_args(false)
        ->type_name("FILE");
    remove->add_flag("--ignore-not-found", options->ignore_not_found, "What does not exist is no error");
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
  gatewayctl history route orders --limit 5)");
    AddTarget(history, options, /*required=*/false);
    history->add_option("--limit", options->limit, "At most so many; 0: all")->capture_default_str()->type_name("N");

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
        Add("endpoints", "List the endpoints of a service and why some do not serve; or set one beside policy",
            ctl::Endpoints, R"(
  gatewayctl endpoints orders
  gatewayctl endpoints orders --set 10.0.0.7:8080 drain --for 10m
  gatewayctl endpoints orders --set 10.0.0.7:8080 weight=1
  gatewayctl endpoints orders --set 10.0.0.7:8080 up)");
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
    endpoints->add_option("--comment", options->comment, "Why, for the audit")->needs(set)->type_name("TEXT");
    endpoints->add_option("--actor", options->actor, "Who; default: user@host")->needs(set)->type_name("TEXT");

    CLI::App* log_level = Add("loglevel", "Change the level of a process' log for a while", ctl::LogLevel, R"(
  gatewayctl loglevel dp-1 debug --for 5m
  gatewayctl loglevel controlplane debug
  gatewayctl loglevel dp-1 default)");
    log_level->add_option("PROCESS", options->data_plane, "A data plane's name, or controlplane")
        ->required()
        ->type_name("DATAPLANE|controlplane");
    log_level
        ->add_option("LEVEL", options->level, "trace, debug, info, warn, error; default: that of the bootstrap file")
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

    CLI::App* audit = Add("audit", "List writes and denied attempts, the newest first", ctl::Audit, R"(
  gatewayctl audit --since 1h
  gatewayctl audit --actor ci --limit 0 -o json)");
    audit->add_option("--actor", options->actor, "Only theirs")->type_name("ACTOR");
    audit->add_option("--since", options->since, "Not older than that: 90m, 12h, 30d")->type_name("TIME");
    audit->add_option("--limit", options->limit, "At most so many; 0: all")->capture_default_str()->type_name("N");

    CLI::App* context =
        Add("context", "Name control planes, with how to reach them and who you are there", ctl::Context,
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
    pki->add_option("--data-plane", options->data_plane, "For a data plane: its data_plane.name")
        ->type_name("DATAPLANE");
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

  // Null: there is no command of that name.
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
  static CLI::Validator Among(const std::vector<std::string>& words) {
    return CLI::Validator(
        [words](std::string& word) {
          if (std::find(words.begin(), words.end(), word) != words.end()) return std::string();
          return absl::StrCat("'", word, "': expected ", absl::StrJoin(words, ", "));
        },
        "");
  }

  static CLI::Validator OutputFormat() {
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

  CLI::App* Add(const char* name, const char* description, Handler handler, const char* examples) {
    CLI::App* command = app_.add_subcommand(name, description);
    command->footer(absl::StrCat("Example:", examples,
                                 "\nGlobal flags: --server, --ca, --token-file, --cert, --key, --timeout, -o,\n"
                                 "  --color; see gatewayctl --help"));
    handlers_.emplace_back(command, handler);
    return command;
  }

  static void AddFiles(CLI::App* command, Options* options) {
    command
        ->add_option("-f,--file", options->files,
                     "A file, a folder (its *.yaml and *.yml), or - for standard input; may be repeated")
        ->required()
        ->allow_extra_args(false)
        ->type_name("FILE");
  }

  static void AddExpectedRevision(CLI::App* command, Options* options) {
    command
        ->add_option("--expect-revision", options->expected_revision,
                     "Only if this is the current revision; else exit 5")
        ->type_name("REVISION");
  }

  static void AddYes(CLI::App* command, Options* options) {
    command->add_flag("-y,--yes", options->yes, "Ask nothing; without a terminal nothing is asked");
  }

  static CLI::Option* AddFor(CLI::App* command, Options* options, const char* description) {
    return command->add_option("--for", options->lasting, description)->type_name("TIME");
  }

  static void AddRequire(CLI::App* command, Options* options) {
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

  static void AddChange(CLI::App* command, Options* options) {
    AddRequire(command, options);
    command->add_flag("--all-errors", options->all_errors,
                      absl::StrCat("Print every error, not only the first ", kErrorsShown));
    command->add_flag("--dry-run", options->dry_run, "Check and show what would change; store nothing");
    command->add_flag("--wait", options->wait, "Until every data plane serves it; exit 7 if that does not happen");
    command->add_option("--comment", options->comment, "Why, for history")->type_name("TEXT");
    command->add_option("--actor", options->actor, "Who, for history; default: user@host")->type_name("TEXT");
  }

  static void AddTarget(CLI::App* command, Options* options, bool required) {
    command->add_option("KIND", options->kind, "In any case, plural or short: route, Routes, rl, KIND/NAME")
        ->required(required)
        ->type_name("KIND");
    command->add_option("NAME", options->name, "The resource's name")->type_name("NAME");
  }

  static void AddVerb(CLI::App* command, Options* options, const std::vector<std::string>& verbs) {
    command->add_option("VERB", options->verb, "What to do")
        ->required()
        ->check(Among(verbs))
        ->type_name(absl::StrJoin(verbs, "|"));
  }

  static CLI::Option* AddRole(CLI::App* command, Options* options) {
    return command->add_option("--role", options->role, "What they may do; each includes the ones before it")
        ->check(Among({"viewer", "operator", "editor", "admin"}))
        ->type_name("viewer|operator|editor|admin");
  }

  static void AddTargets(CLI::App* command, Options* options) {
    command
        ->add_option("KIND", options->kind,
                     "In any case, plural or short: route, Routes, rl; several with commas; or KIND/NAME")
        ->type_name("KIND");
    command->add_option("NAME", options->names, "The names of resources, or further KIND/NAME")->type_name("NAME");
  }

  static void AddSelector(CLI::App* command, Options* options) {
    command
        ->add_option("-l,--selector,--label", options->selectors,
                     "Only those whose labels match: k=v, k!=v, 'k in (a, b)', 'k notin (a)', k, !k, with commas "
                     "between; repeated: all must match")
        ->allow_extra_args(false)
        ->type_name("SELECTOR");
  }

  static void AddRevision(CLI::App* command, Options* options, bool required) {
    command->add_option("REVISION", options->revision, "A number from history")
        ->required(required)
        ->check([](const std::string& text) {
          uint64_t revision = 0;
          const bool valid = absl::SimpleAtoi(text, &revision) && revision >= 1 && revision <= uint64_t{INT64_MAX};
          return valid ? std::string() : absl::StrCat("'", text, "' is not a revision; expected a number from history");
        })
        ->type_name("REVISION");
  }

  CLI::App app_;
  CLI::App* completion_;
  CLI::App* help_;
  std::vector<std::pair<const CLI::App*, Handler>> handlers_;
};

// The first argument that is neither a global flag nor the value of one; "" where there is none.
std::string FirstWord(const std::vector<std::string>& arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& word = arguments[i];
    constexpr std::array kWithValue = {"--server",  "--ca", "--token-file", "--cert", "--key",
                                       "--timeout", "-o",   "--output",     "--color"};
    if (std::find(kWithValue.begin(), kWithValue.end(), word) != kWithValue.end()) {
      ++i;
    } else if (!word.starts_with("-")) {
      return word;
    }
  }
  return "";
}

ExitCode Misuse(const Terminal& terminal, const std::string& message, const std::string& command) {
  *terminal.err << "gatewayctl: " << message << "\nSee 'gatewayctl " << command << (command.empty() ? "" : " ")
                << "--help'.\n";
  return kUsage;
}

// CLI11's text, then the words to choose from, if any: "VERB is required; expected set, use, list".
std::string WithExpectation(const CLI::ParseError& error, const CLI::App* command) {
  const std::string text = error.what();
  const bool mismatch = error.get_name() == "ArgumentMismatch";  // "--set: At least 2 required but received 1"
  if (command == nullptr || (!mismatch && error.get_name() != "RequiredError")) return text;
  const CLI::Option* option = command->get_option_no_throw(text.substr(0, text.find_first_of(mismatch ? ":" : " ")));
  if (option == nullptr) return text;
  const std::string type = option->get_type_name();
  if (mismatch) return absl::StrCat(option->get_name(), ": expected ", type);
  return type.find('|') == std::string::npos
             ? text
             : absl::StrCat(text, "; expected ", absl::StrReplaceAll(type, {{"|", ", "}}));
}

// What CLI11 found wrong, in our words, with the flag that was perhaps meant.
ExitCode ExplainParseError(const CLI::ParseError& error, CommandTree& tree, const Terminal& terminal) {
  const CLI::App* command = tree.chosen();
  const std::string name = command == nullptr ? "" : command->get_name();
  const std::vector<std::string> rest = tree.app().remaining(true);
  if (rest.empty()) {
    return Misuse(terminal, absl::StrCat(name, name.empty() ? "" : ": ", WithExpectation(error, command)), name);
  }
  std::string message = absl::StrCat(name, name.empty() ? "" : ": ", "unexpected '", rest.front(), "'");
  if (rest.front().starts_with("--")) {
    std::vector<std::string> flags;
    for (const CLI::App* app : {command, const_cast<const CLI::App*>(&tree.app())}) {
      if (app == nullptr) continue;
      for (const CLI::Option* option : app->get_options()) {
        for (const std::string& flag : option->get_lnames()) flags.push_back(flag);
      }
    }
    // Without the dashes, which would make any two short flags alike.
    const std::string nearest = NearestName(rest.front().substr(2, rest.front().find('=') - 2), flags);
    if (!nearest.empty()) absl::StrAppend(&message, "; did you mean '--", nearest, "'?");
  }
  return Misuse(terminal, message, name);
}

// "host" and "host:port" as "host:port". InvalidArgument where it is neither.
absl::StatusOr<std::string> ServerAddress(const std::string& text) {
  constexpr int kAdminPort = 7400;
  if (text.find("://") != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is a URL; expected the admin listener's HOST or HOST:PORT"));
  }
  if (ParseHostPort(text).ok()) return text;
  const bool bare_ipv6 = std::count(text.begin(), text.end(), ':') > 1 && text.front() != '[';
  const std::string with_port = absl::StrCat(bare_ipv6 ? absl::StrCat("[", text, "]") : text, ":", kAdminPort);
  if (ParseHostPort(with_port).ok()) return with_port;
  return absl::InvalidArgumentError(absl::StrCat("'", text, "': expected HOST or HOST:PORT"));
}

int RunParsed(CommandTree& tree, Options& options, const Terminal& terminal) {
  const std::string command = tree.chosen()->get_name();
  if (tree.is_completion()) {
    *terminal.out << CompletionScript(tree.app(), options.shell);
    return kDone;
  }
  if (tree.is_help()) {
    if (options.name.empty()) {
      // An app that has parsed a command prints that command's help.
      Options unused;
      *terminal.out << Wrapped(CommandTree(&unused).app().help());
      return kDone;
    }
    const CLI::App* about = tree.Find(options.name);
    if (about == nullptr) {
      const std::string nearest = NearestName(options.name, tree.CommandNames());
      return Misuse(terminal,
                    absl::StrCat("unknown command '", options.name, "'",
                                 nearest.empty() ? "" : absl::StrCat("; did you mean '", nearest, "'?")),
                    "");
    }
    *terminal.out << Wrapped(about->help("gatewayctl"));
    return kDone;
  }
  if (options.output.starts_with("jsonpath=")) {
    const auto tried = EvaluateJsonPath(options.output.substr(options.output.find('=') + 1), Json());
    if (!tried.ok()) return Misuse(terminal, std::string(tried.status().message()), command);
  }
  const absl::StatusOr<google::protobuf::Duration> timeout = ParseDuration(options.timeout);
  if (!timeout.ok() || (timeout->seconds() == 0 && timeout->nanos() == 0)) {
    return Misuse(terminal,
                  absl::StrCat("--timeout: ", timeout.ok() ? "expected more than 0" : timeout.status().message()),
                  command);
  }
  if (command == "export" && tree.app().get_option("--output")->count() == 0) options.output = "yaml";
  if (command == "export" && (options.output == "table" || options.output == "wide")) {
    return Misuse(terminal, "export prints yaml, json or name; 'gatewayctl get' prints tables", command);
  }
  const bool colour = options.color == "always" || (options.color == "auto" && terminal.out_is_terminal &&
                                                    terminal.environment("NO_COLOR").value_or("").empty());
  const absl::Duration wait = absl::Seconds(timeout->seconds()) + absl::Nanoseconds(timeout->nanos());
  Connection connection;
  if (command != "context" && command != "pki" && command != "hash") {
    absl::StatusOr<Connection> resolved = ResolveConnection(
        {options.server, options.ca, options.cert, options.key, options.token_file}, terminal.environment);
    if (!resolved.ok()) return Misuse(terminal, std::string(resolved.status().message()), command);
    connection = *std::move(resolved);
    absl::StatusOr<std::string> server = ServerAddress(connection.server);
    if (!server.ok()) return Misuse(terminal, absl::StrCat("--server: ", server.status().message()), command);
    connection.server = *std::move(server);
    options.server = connection.server;  // for messages
  }
  Session session{options, terminal, AdminClient(connection, wait), wait, colour};
  return tree.handler()(session);
}

}  // namespace

ExitCode Session::Fail(const absl::Status& status) {
  terminal.out->flush();
  *terminal.err << "gatewayctl: " << status.message() << "\n";
  const v1::PolicyErrors errors = PolicyErrorsOf(status);
  for (const v1::PolicyError& error : errors.errors()) {
    *terminal.err << "  " << error.kind() << "/" << error.name() << ": " << error.field() << ": " << error.message()
                  << "\n";
  }
  return ExitCodeOf(status);
}

bool Session::structured() const {
  return options.output == "json" || options.output == "yaml" || options.output.starts_with("jsonpath=");
}

bool Session::PrintStructured(const Json& value) {
  if (options.output == "json") {
    *terminal.out << JsonText(value);
  } else if (options.output == "yaml") {
    *terminal.out << YamlText(value);
  } else if (options.output.starts_with("jsonpath=")) {
    // RunParsed has tried it: it cannot be refused.
    *terminal.out << EvaluateJsonPath(options.output.substr(options.output.find('=') + 1), value).value_or("");
  } else {
    return false;
  }
  return true;
}

bool Session::PrintList(Json items, uint64_t revision) {
  if (!structured()) return false;
  Json list = Json::object();
  list["items"] = items.is_null() ? Json::array() : std::move(items);
  list["revision"] = revision;
  return PrintStructured(list);
}

bool Session::Confirm(const std::string& what) {
  if (options.yes || options.dry_run || terminal.in == nullptr || !terminal.out_is_terminal) return true;
  const absl::StatusOr<v1::GetServerInfoResponse> info = client.GetServerInfo();
  const std::string name = info.ok() && !info->name().empty() ? absl::StrCat(Printable(info->name()), " at ") : "";
  terminal.out->flush();
  *terminal.err << what << " (on " << name << options.server << ")? [y/N] " << std::flush;
  std::string answer;
  std::getline(*terminal.in, answer);
  absl::AsciiStrToLower(&answer);
  if (answer == "y" || answer == "yes") return true;
  *terminal.err << "gatewayctl: nothing was changed\n";
  return false;
}

absl::StatusOr<std::vector<ResourceKey>> ParseTargets(const Options& options) {
  std::vector<ResourceKey> keys;
  if (options.kind.empty()) return keys;
  Options one;
  if (options.kind.find('/') != std::string::npos) {
    std::vector<std::string> words = {options.kind};
    words.insert(words.end(), options.names.begin(), options.names.end());
    for (const std::string& word : words) {
      if (word.find('/') == std::string::npos) {
        return absl::InvalidArgumentError(absl::StrCat("both '", options.kind, "' and '", word, "' name a resource"));
      }
      one.kind = word;
      absl::StatusOr<ResourceKey> key = ParseTarget(one);
      if (!key.ok()) return key.status();
      keys.push_back(*std::move(key));
    }
    return keys;
  }
  for (const absl::string_view kind : absl::StrSplit(options.kind, ',', absl::SkipEmpty())) {
    one.kind = std::string(kind);
    absl::StatusOr<ResourceKey> key = ParseTarget(one);
    if (!key.ok()) return key.status();
    if (std::find(keys.begin(), keys.end(), *key) == keys.end()) keys.push_back(*std::move(key));
  }
  if (keys.empty()) return absl::InvalidArgumentError(absl::StrCat("'", options.kind, "' is no kind"));
  if (options.names.empty()) return keys;
  if (keys.size() > 1) return absl::InvalidArgumentError("names go with one kind; or write KIND/NAME for each");
  const std::string kind = keys.front().kind;
  keys.clear();
  for (const std::string& name : options.names) {
    if (name.find('/') != std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat("both '", options.kind, "' and '", name, "' name a kind"));
    }
    ResourceKey key{kind, name};
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(std::move(key));
  }
  return keys;
}

absl::StatusOr<ResourceKey> ParseTarget(const Options& options) {
  std::string kind = options.kind, name = options.name;
  if (const size_t slash = kind.find('/'); slash != std::string::npos) {
    if (!name.empty())
      return absl::InvalidArgumentError(absl::StrCat("both '", kind, "' and '", name, "' name a resource"));
    name = kind.substr(slash + 1);
    kind.resize(slash);
    if (name.empty()) return absl::InvalidArgumentError(absl::StrCat("'", options.kind, "' has no name"));
  }
  if (kind.empty()) return ResourceKey{};
  absl::StatusOr<std::string> canonical = CanonicalKind(kind);
  // A kind that does not exist is a slip of the tongue, not something that was looked for and not found.
  if (!canonical.ok()) return absl::InvalidArgumentError(canonical.status().message());
  return ResourceKey{*std::move(canonical), std::move(name)};
}

int RunCommandLine(const std::vector<std::string>& arguments, const Terminal& terminal) {
  Options options;
  CommandTree tree(&options);
  try {
    tree.app().parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));  // CLI11 wants them reversed
  } catch (const CLI::CallForHelp&) {
    const CLI::App* command = tree.chosen();
    *terminal.out << Wrapped(command == nullptr ? tree.app().help() : command->help("gatewayctl"));
    return kDone;
  } catch (const CLI::CallForVersion& version) {
    *terminal.out << version.what() << "\n";
    return kDone;
  } catch (const CLI::ParseError& error) {
    if (const std::string word = FirstWord(arguments); tree.chosen() == nullptr && !word.empty()) {
      const std::string nearest = NearestName(word, tree.CommandNames());
      return Misuse(terminal,
                    absl::StrCat("unknown command '", word, "'",
                                 nearest.empty() ? "" : absl::StrCat("; did you mean '", nearest, "'?")),
                    "");
    }
    return ExplainParseError(error, tree, terminal);
  }
  if (tree.chosen() == nullptr) {
    *terminal.err << Wrapped(tree.app().help());
    return kUsage;
  }
  for (const char* needs_name : {"describe", "edit"}) {
    const absl::StatusOr<ResourceKey> target = ParseTarget(options);
    if (tree.chosen()->get_name() == needs_name && target.ok() && target->name.empty()) {
      return Misuse(terminal, absl::StrCat(needs_name, ": NAME is required"), needs_name);
    }
  }
  return RunParsed(tree, options, terminal);
}

}  // namespace gateway::ctl
