#include "tools/gatewayctl/completion.h"

#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "common/policy/resource.h"

namespace gateway::ctl {
namespace {

using CLI::App;
using CLI::Option;

std::vector<const App*> Commands(const App& app) {
  return app.get_subcommands([](const App* command) { return !command->get_name().empty(); });
}

std::vector<const Option*> Flags(const App& app) {
  return app.get_options([](const Option* option) { return option->nonpositional(); });
}

std::vector<const Option*> Positions(const App& app) {
  return app.get_options([](const Option* option) { return option->get_positional(); });
}

// "-o", "--output".
std::vector<std::string> Spellings(const Option& option) {
  std::vector<std::string> spellings;
  for (const std::string& name : option.get_snames()) spellings.push_back(absl::StrCat("-", name));
  for (const std::string& name : option.get_lnames()) spellings.push_back(absl::StrCat("--", name));
  return spellings;
}

bool TakesValue(const Option& option) { return option.get_items_expected_max() > 0; }

bool TakesSeveral(const Option& option) { return option.get_items_expected_max() > 1; }

// Of "N|P%|all" what can be typed as it stands: "all".
std::string Choices(const std::string& type) {
  std::vector<std::string> words = absl::StrSplit(type, '|');
  std::erase_if(words, [](const std::string& word) {
    return absl::ascii_isupper(static_cast<unsigned char>(word.front())) != 0;
  });
  return absl::StrJoin(words, " ");
}

std::string KindWords() {
  std::vector<std::string> words;
  for (const std::string_view kind : ResourceKinds()) words.push_back(absl::AsciiStrToLower(std::string(kind)));
  return absl::StrJoin(words, " ");
}

// The shell's code that prints the candidates for a value, one a word; "" if there is nothing to offer.
// `kind` is the shell's expression for the KIND already typed.
std::string Candidates(const App& command, const Option& option, const std::string& kind) {
  const std::string type = option.get_type_name();
  const bool also_data_planes = command.get_name() == "describe";
  if (type == "KIND") return absl::StrCat("echo ", KindWords(), also_data_planes ? " dataplane" : "");
  if (type == "NAME") {
    const std::string names =
        absl::StrCat("gatewayctl --timeout 1s get ", kind, " -o name 2>/dev/null | sed 's|^[^/]*/||'");
    if (!also_data_planes) return names;
    // In bash as in fish.
    return absl::StrCat("test ", kind, " = dataplane && gatewayctl --timeout 1s dataplanes -o name 2>/dev/null || ",
                        names);
  }
  if (type == "ROUTE") return "gatewayctl --timeout 1s get routes -o name 2>/dev/null | sed 's|^[^/]*/||'";
  if (type == "SERVICE") return "gatewayctl --timeout 1s services -o name 2>/dev/null";
  if (type == "DATAPLANE|controlplane") {
    return "gatewayctl --timeout 1s dataplanes -o name 2>/dev/null; echo controlplane";
  }
  if (type == "DATAPLANE") return "gatewayctl --timeout 1s dataplanes -o name 2>/dev/null";
  if (type.find(' ') != std::string::npos) return "";  // of several words
  if (type == "REVISION") return "gatewayctl --timeout 1s history -o name 2>/dev/null";
  if (type.find('|') != std::string::npos) return absl::StrCat("echo ", Choices(type));
  return "";
}

std::string JoinSpellings(const std::vector<const Option*>& options, const char* separator, bool with_value_only) {
  std::vector<std::string> words;
  for (const Option* option : options) {
    if (with_value_only && !TakesValue(*option)) continue;
    for (std::string& word : Spellings(*option)) words.push_back(std::move(word));
  }
  return absl::StrJoin(words, separator);
}

// bash and zsh differ only in how candidates reach the shell: zsh runs this through bashcompinit.
std::string BashScript(const App& app) {
  std::string value_flags, values, commands, positions;
  std::vector<const Option*> all = Flags(app);
  std::vector<std::string> names;
  for (const App* command : Commands(app)) {
    names.push_back(command->get_name());
    for (const Option* flag : Flags(*command)) all.push_back(flag);
    absl::StrAppend(&commands, "    ", command->get_name(), ") words=\"", JoinSpellings(Flags(*command), " ", false),
                    " ", JoinSpellings(Flags(app), " ", false), "\" ;;\n");
    int position = 0;
    for (const Option* option : Positions(*command)) {
      const std::string code = Candidates(*command, *option, "\"${args[0]}\"");
      if (!code.empty()) {
        // One that takes several words is the last.
        const std::string at = TakesSeveral(*option) ? "*" : absl::StrCat(position);
        absl::StrAppend(&positions, "    ", command->get_name(), ":", at, ") words=\"$(", code, ")\" ;;\n");
      }
      ++position;
    }
  }
  absl::StrAppend(&commands, "    *) words=\"", absl::StrJoin(names, " "), " ", JoinSpellings(Flags(app), " ", false),
                  "\" ;;\n");
  value_flags = JoinSpellings(all, "|", true);
  std::vector<std::string> told;
  for (const Option* flag : all) {
    if (!TakesValue(*flag)) continue;
    const std::string pattern = absl::StrJoin(Spellings(*flag), "|");
    if (std::find(told.begin(), told.end(), pattern) != told.end()) continue;
    told.push_back(pattern);
    if (flag->get_type_name() == "FILE") {
      absl::StrAppend(&values, "    ", pattern, ") COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n");
    } else {
      const std::string code = Candidates(app, *flag, "\"${args[0]}\"");
      absl::StrAppend(&values, "    ", pattern, ") COMPREPLY=(",
                      code.empty() ? "" : absl::StrCat("$(compgen -W \"$(", code, ")\" -- \"$cur\")"),
                      "); return ;;\n");
    }
  }
  return absl::StrCat(R"(_gatewayctl() {
  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" command="" words="" i
  local args=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "${COMP_WORDS[i]}" in
    )",
                      value_flags, R"() ((i++)) ;;
    -*) ;;
    *) if [[ -z $command ]]; then command="${COMP_WORDS[i]}"; else args+=("${COMP_WORDS[i]}"); fi ;;
    esac
  done
  case "$prev" in
)",
                      values, R"(  esac
  if [[ $cur != -* ]]; then
    case "$command:${#args[@]}" in
)",
                      positions, R"(    esac
    if [[ -n $command ]]; then
      COMPREPLY=($(compgen -W "$words" -- "$cur"))
      return
    fi
  fi
  case "$command" in
)",
                      commands, R"(  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -F _gatewayctl gatewayctl
)");
}

std::string FishQuote(const std::string& text) {
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"'", "\\'"}}), "'");
}

void AppendFishFlags(const App& app, const std::string& condition, std::string* out) {
  for (const Option* flag : Flags(app)) {
    absl::StrAppend(out, "complete -c gatewayctl", condition);
    for (const std::string& name : flag->get_snames()) absl::StrAppend(out, " -s ", name);
    for (const std::string& name : flag->get_lnames()) absl::StrAppend(out, " -l ", name);
    if (TakesValue(*flag)) {
      const std::string code = Candidates(app, *flag, "");
      if (flag->get_type_name() == "FILE") {
        *out += " -r -F";
      } else if (code.empty()) {
        *out += " -x";
      } else {
        absl::StrAppend(out, " -x -a ", FishQuote(absl::StrCat("(", code, " | string split ' ')")));
      }
    }
    absl::StrAppend(out, " -d ", FishQuote(flag->get_description()), "\n");
  }
}

std::string FishScript(const App& app) {
  std::string script = R"(function __gatewayctl_args
  # The words after the command that are no flags: the last one may be unfinished and is left out.
  set -l words (commandline -opc)
  set -e words[1]
  string match -v -- '-*' $words
end
function __gatewayctl_at
  # Whether the command is $argv[1] and $argv[2] of its arguments are given.
  set -l words (__gatewayctl_args)
  test (count $words) -eq (math $argv[2] + 1); and test "$words[1]" = $argv[1]
end
function __gatewayctl_from
  # Likewise with at least $argv[2].
  set -l words (__gatewayctl_args)
  test (count $words) -gt $argv[2]; and test "$words[1]" = $argv[1]
end
complete -c gatewayctl -f
)";
  AppendFishFlags(app, "", &script);
  for (const App* command : Commands(app)) {
    const std::string& name = command->get_name();
    absl::StrAppend(&script, "complete -c gatewayctl -n __fish_use_subcommand -a ", name, " -d ",
                    FishQuote(command->get_description()), "\n");
    AppendFishFlags(*command, absl::StrCat(" -n '__fish_seen_subcommand_from ", name, "'"), &script);
    int position = 0;
    for (const Option* option : Positions(*command)) {
      const std::string code = Candidates(*command, *option, "(__gatewayctl_args)[2]");
      if (!code.empty()) {
        absl::StrAppend(&script, "complete -c gatewayctl -n '__gatewayctl_", TakesSeveral(*option) ? "from " : "at ",
                        name, " ", position, "' -a ", FishQuote(absl::StrCat("(", code, " | string split ' ')")), "\n");
      }
      ++position;
    }
  }
  return script;
}

}  // namespace

std::string CompletionScript(const App& app, std::string_view shell) {
  if (shell == "bash") return absl::StrCat("# gatewayctl's completion for bash\n", BashScript(app));
  if (shell == "zsh") {
    return absl::StrCat(
        "#compdef gatewayctl\n# gatewayctl's completion for zsh\nautoload -U +X bashcompinit && bashcompinit\n",
        BashScript(app));
  }
  if (shell == "fish") return absl::StrCat("# gatewayctl's completion for fish\n", FishScript(app));
  return "";
}

}  // namespace gateway::ctl
