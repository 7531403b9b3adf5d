#include "tools/gatewayctl/cli.h"

#include <algorithm>
#include <iostream>
#include <memory>

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/units.h"
#include "common/base/version.h"
#include "tools/gatewayctl/commands.h"
#include "tools/gatewayctl/completion.h"

namespace gateway::ctl {
namespace {

using Handler = ExitCode (*)(Session&);

constexpr char kFooter[] =
    R"(Exit codes: 0 done; 1 failed; 2 wrong usage; 3 the policy is invalid; 4 not found; 5 conflict;
  6 unreachable or not authorised; 7 --wait ended without everyone
Examples:
  gatewayctl apply -f policy.yaml --wait
  gatewayctl get routes
  gatewayctl describe route orders
'gatewayctl COMMAND --help' says more of each.)";

// The tree of commands. What it reads goes into `options`, which it must not outlive.
class CommandTree {
 public:
  explicit CommandTree(Options* options)
      : app_("Reads and changes the policy of a gateway, and shows who serves it.", "gatewayctl") {
    app_.footer(kFooter);
    app_.set_version_flag("--version", absl::StrCat("gatewayctl ", kVersion), "This program's version");
    app_.set_help_flag("-h,--help", "This help");
    app_.add_option("--server", options->server, "The control plane's admin address; also GATEWAY_SERVER")
        ->capture_default_str()
        ->type_name("HOST:PORT");
    app_.add_option("--timeout", options->timeout, "How long a call may take, and how long --wait waits")
        ->capture_default_str()
        ->type_name("DURATION");
    app_.add_option("-o,--output", options->output, "How to print")
        ->check(Among({"table", "yaml", "json", "name"}))
        ->capture_default_str()
        ->type_name("table|yaml|json|name");
    app_.add_option("--color", options->color, "Colours; auto: on a terminal, unless NO_COLOR is set")
        ->check(Among({"auto", "always", "never"}))
        ->capture_default_str()
        ->type_name("auto|always|never");
    app_.fallthrough();  // global flags may also follow the command

    CLI::App* apply = Add("apply", "Add and replace policy, all or nothing; never deletes", ctl::Apply, R"(
  gatewayctl apply -f policy.yaml --wait --comment "raise the limit"
  gatewayctl get route orders -o yaml | sed s/30s/10s/ | gatewayctl apply -f -)");
    AddFiles(apply, options);
    AddChange(apply, options);
    apply
        ->add_option("--expect-revision", options->expected_revision,
                     "Only if this is the current revision; else exit 5")
        ->type_name("REVISION");

    CLI::App* diff = Add("diff", "Show what apply would change", ctl::Diff, R"(
  gatewayctl diff -f policy/
  gatewayctl diff -f policy.yaml --exit-code || echo "not applied yet")");
    AddFiles(diff, options);
    diff->add_flag("--exit-code", options->exit_code, "Exit 1 if there are differences; without it they exit 0");

    CLI::App* get = Add("get", "List policy; without KIND, of all kinds", ctl::Get, R"(
  gatewayctl get routes
  gatewayctl get rl per-client -o yaml
  gatewayctl get services -l team=orders -o name)");
    AddTarget(get, options, /*required=*/false);
    get->add_option("-l,--label", options->labels, "Only those with this label; may be repeated")
        ->allow_extra_args(false)
        ->type_name("KEY=VALUE");

    CLI::App* describe =
        Add("describe", "Show everything about one resource: who changed it, what it resolves to", ctl::Describe, R"(
  gatewayctl describe route orders
  gatewayctl describe route orders --effective
  gatewayctl describe service/orders -o json)");
    AddTarget(describe, options, /*required=*/true);
    describe->add_flag("--effective", options->effective,
                       "Of a route: every policy that applies to it, in the order of a request, and whose word it is");

    CLI::App* remove = Add("delete", "Delete one resource; what replaced a built-in gives way to it", ctl::Delete, R"(
  gatewayctl delete route orders --wait)");
    AddTarget(remove, options, /*required=*/true);
    AddChange(remove, options);
    remove
        ->add_option("--expect-revision", options->expected_revision,
                     "Only if this is the current revision; else exit 5")
        ->type_name("REVISION");

    Add("export", "Print all policy as one stream of YAML, ready to apply", ctl::Export, R"(
  gatewayctl export > policy.yaml)")
        ->add_flag("--all", options->all, "Also built-in resources");

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
  gatewayctl rollback 6 --wait)");
    AddRevision(rollback, options, /*required=*/true);
    AddChange(rollback, options);

    CLI::App* rollout = Add("rollout", "Tell who serves a revision; by default the current one", ctl::Rollout, R"(
  gatewayctl rollout
  gatewayctl rollout 7 --wait --timeout 1m)");
    AddRevision(rollout, options, /*required=*/false);
    rollout->add_flag("--wait", options->wait, "Until all serve it; exit 7 if that does not happen");

    CLI::App* dataplanes = Add("dataplanes", "List the data planes and what each serves", ctl::DataPlanes, R"(
  gatewayctl dataplanes
  gatewayctl dataplanes --forget dp-7)");
    CLI::Option* forget =
        dataplanes->add_option("--forget", options->forget, "Forget one that is gone")->type_name("NAME");
    dataplanes->add_flag("--gone", options->gone, "Forget all that are gone")->excludes(forget);
    Add("accept-history",
        "Send this control plane's policy to data planes that serve another history: after a database was created anew "
        "on "
        "purpose",
        ctl::AcceptHistory, R"(
  gatewayctl accept-history)")
        ->add_option("--actor", options->actor, "Who, for the log; default: user@host")
        ->type_name("TEXT");
    Add("services", "List the services of the policy and of Consul, and how many endpoints serve", ctl::Services, R"(
  gatewayctl services)");
    Add("endpoints", "List the endpoints of a service, and why some do not serve", ctl::Endpoints, R"(
  gatewayctl endpoints orders)")
        ->add_option("SERVICE", options->name, "A Service's name, or a Consul service's")
        ->required()
        ->type_name("SERVICE");

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

    Add("version", "Tell this program's version and the server's", ctl::Version, R"(
  gatewayctl version --client)")
        ->add_flag("--client", options->client_only, "Only this program's, without asking the server");

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
  Handler handler() const {
    return std::find_if(handlers_.begin(), handlers_.end(), [&](const auto& entry) { return entry.first == chosen(); })
        ->second;
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

  CLI::App* Add(const char* name, const char* description, Handler handler, const char* examples) {
    CLI::App* command = app_.add_subcommand(name, description);
    command->footer(
        absl::StrCat("Example:", examples, "\nGlobal flags: --server, --timeout, -o, --color; see gatewayctl --help"));
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

  static void AddChange(CLI::App* command, Options* options) {
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
  std::vector<std::pair<const CLI::App*, Handler>> handlers_;
};

// The first argument that is neither a global flag nor the value of one; "" where there is none.
std::string FirstWord(const std::vector<std::string>& arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& word = arguments[i];
    if (word == "--server" || word == "--timeout" || word == "-o" || word == "--output" || word == "--color") {
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

// What CLI11 found wrong, in our words, with the flag that was perhaps meant.
ExitCode ExplainParseError(const CLI::ParseError& error, CommandTree& tree, const Terminal& terminal) {
  const CLI::App* command = tree.chosen();
  const std::string name = command == nullptr ? "" : command->get_name();
  const std::vector<std::string> rest = tree.app().remaining(true);
  if (rest.empty()) return Misuse(terminal, absl::StrCat(name, name.empty() ? "" : ": ", error.what()), name);
  std::string message = absl::StrCat(name, name.empty() ? "" : ": ", "unexpected '", rest.front(), "'");
  if (rest.front().starts_with("--")) {
    std::vector<std::string> flags;
    for (const CLI::App* app : {command, const_cast<const CLI::App*>(&tree.app())}) {
      if (app == nullptr) continue;
      for (const CLI::Option* option : app->get_options()) {
        for (const std::string& flag : option->get_lnames()) flags.push_back(absl::StrCat("--", flag));
      }
    }
    const std::string nearest = NearestName(rest.front().substr(0, rest.front().find('=')), flags);
    if (!nearest.empty()) absl::StrAppend(&message, "; did you mean '", nearest, "'?");
  }
  return Misuse(terminal, message, name);
}

int RunParsed(CommandTree& tree, Options& options, const Terminal& terminal) {
  const std::string command = tree.chosen()->get_name();
  if (tree.is_completion()) {
    *terminal.out << CompletionScript(tree.app(), options.shell);
    return kDone;
  }
  if (tree.app().get_option("--server")->count() == 0) {
    options.server = terminal.environment("GATEWAY_SERVER").value_or(options.server);
    if (options.server.empty()) return Misuse(terminal, "GATEWAY_SERVER is empty", command);
  }
  const absl::StatusOr<google::protobuf::Duration> timeout = ParseDuration(options.timeout);
  if (!timeout.ok() || (timeout->seconds() == 0 && timeout->nanos() == 0)) {
    return Misuse(terminal,
                  absl::StrCat("--timeout: ", timeout.ok() ? "expected more than 0" : timeout.status().message()),
                  command);
  }
  if (command == "export" && tree.app().get_option("--output")->count() == 0) options.output = "yaml";
  if (command == "export" && options.output == "table") {
    return Misuse(terminal, "export prints yaml, json or name; 'gatewayctl get' prints tables", command);
  }
  const bool colour = options.color == "always" || (options.color == "auto" && terminal.out_is_terminal &&
                                                    terminal.environment("NO_COLOR").value_or("").empty());
  const absl::Duration wait = absl::Seconds(timeout->seconds()) + absl::Nanoseconds(timeout->nanos());
  Session session{options, terminal, AdminClient(options.server, wait), wait, colour};
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

bool Session::PrintStructured(const Json& value) {
  if (options.output == "json") {
    *terminal.out << JsonText(value);
  } else if (options.output == "yaml") {
    *terminal.out << YamlText(value);
  } else {
    return false;
  }
  return true;
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
    *terminal.out << (command == nullptr ? tree.app().help() : command->help("gatewayctl"));
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
    *terminal.err << tree.app().help();
    return kUsage;
  }
  for (const char* needs_name : {"describe", "delete"}) {
    const absl::StatusOr<ResourceKey> target = ParseTarget(options);
    if (tree.chosen()->get_name() == needs_name && target.ok() && target->name.empty()) {
      return Misuse(terminal, absl::StrCat(needs_name, ": NAME is required"), needs_name);
    }
  }
  return RunParsed(tree, options, terminal);
}

}  // namespace gateway::ctl
