#include "tools/gatewayctl/cli.h"

#include <algorithm>
#include <array>
#include <iostream>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "common/base/host_port.h"
#include "common/base/units.h"
#include "tools/gatewayctl/command_tree.h"
#include "tools/gatewayctl/commands.h"
#include "tools/gatewayctl/completion.h"
#include "tools/gatewayctl/jsonpath.h"
#include "tools/gatewayctl/table.h"

namespace gateway::ctl {
namespace {

// The first argument that is neither a global flag nor the value of one; "": all are.
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

// "host" and "host:port" as "host:port". InvalidArgument otherwise.
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

ExitCode Session::Refuse(const std::string& message) {
  err() << "gatewayctl: " << message << "\n";
  return kUsage;
}

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
  if (keys.empty()) return absl::InvalidArgumentError(absl::StrCat("'", options.kind, "' is not a kind"));
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
  // A misspelt kind is wrong usage, not a resource that was not found.
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
  if (tree.chosen()->get_name() == "describe" && NamesDataPlane(options) && options.name.empty() &&
      options.kind.find('/') == std::string::npos) {
    return Misuse(terminal, "describe: NAME is required", "describe");
  }
  for (const char* needs_name : {"describe", "edit", "blame"}) {
    const absl::StatusOr<ResourceKey> target = ParseTarget(options);
    if (tree.chosen()->get_name() == needs_name && target.ok() && target->name.empty()) {
      return Misuse(terminal, absl::StrCat(needs_name, ": NAME is required"), needs_name);
    }
  }
  return RunParsed(tree, options, terminal);
}

}  // namespace gateway::ctl
