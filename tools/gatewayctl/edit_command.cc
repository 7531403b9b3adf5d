// edit.
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/policy/policy_files.h"
#include "tools/gatewayctl/commands.h"
#include "tools/gatewayctl/documents.h"
#include "tools/gatewayctl/render.h"

extern char** environ;

namespace gateway::ctl {
namespace {

// A file of mode 0600 with `text`. InternalError says what failed.
absl::StatusOr<std::string> WriteDraft(const Session& session, const std::string& text) {
  std::string path = absl::StrCat(session.terminal.environment("TMPDIR").value_or("/tmp"), "/gatewayctl-XXXXXX.yaml");
  const int file = mkstemps(path.data(), static_cast<int>(std::strlen(".yaml")));  // mode 0600
  if (file < 0) return absl::InternalError(absl::StrCat("cannot create '", path, "': ", std::strerror(errno)));
  close(file);
  std::ofstream out(path, std::ios::binary);
  out << text << std::flush;
  if (!out) return absl::InternalError(absl::StrCat("cannot write '", path, "'"));
  return path;
}

absl::StatusOr<std::string> ReadDraft(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  if (!in && !in.eof()) return absl::InternalError(absl::StrCat("cannot read '", path, "'"));
  return text;
}

// Runs `editor`, which may have arguments, on `path` and waits for it.
absl::Status RunEditor(const std::string& editor, const std::string& path) {
  // The shell splits the editor's own arguments; the path is not part of its text.
  std::string script = absl::StrCat(editor, " \"$1\"");
  char shell[] = "sh", flag[] = "-c", name[] = "gatewayctl-edit";
  std::string argument = path;
  char* const arguments[] = {shell, flag, script.data(), name, argument.data(), nullptr};
  pid_t child = 0;
  const int error = posix_spawnp(&child, shell, nullptr, nullptr, arguments, environ);
  if (error != 0) return absl::InternalError(absl::StrCat("cannot run '", editor, "': ", std::strerror(error)));
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return absl::InternalError(absl::StrCat("cannot wait for '", editor, "'"));
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("the editor '", editor, "' failed; nothing was changed"));
}

}  // namespace

ExitCode Edit(Session& session) {
  const absl::StatusOr<ResourceKey> target = ParseTarget(session.options);
  if (!target.ok()) return session.Fail(target.status());
  const absl::StatusOr<v1::GetResponse> got = session.client.Get(target->kind, target->name);
  if (!got.ok()) return session.Fail(got.status());
  std::optional<std::string> editor = session.terminal.environment("VISUAL");
  if (!editor.has_value() || editor->empty()) editor = session.terminal.environment("EDITOR");
  const std::string before = EncodeResource(got->resource().resource());
  const absl::StatusOr<std::string> path = WriteDraft(session, before);
  if (!path.ok()) return session.Fail(path.status());
  session.out().flush();
  const absl::Status edited = RunEditor(editor.has_value() && !editor->empty() ? *editor : "vi", *path);
  const absl::StatusOr<std::string> after = ReadDraft(*path);
  if (!edited.ok() || !after.ok() || *after == before) {
    unlink(path->c_str());
    if (!edited.ok()) return session.Fail(edited);
    if (!after.ok()) return session.Fail(after.status());
    session.err() << "nothing was changed\n";
    return kDone;
  }

  // From here on it is an apply of the draft, on the state that the draft was made of.
  Options options = session.options;
  options.files = {*path};
  const absl::StatusOr<v1::GetServerInfoResponse> info = session.client.GetServerInfo();
  if (!info.ok() || !info->remembers_requests()) {
    options.expected_revision = got->revision();  // an older one knows no version of one resource
  } else {
    options.expected = {absl::StrCat(target->ToString(), "=", got->resource().revision())};
  }
  Session applying{options, session.terminal, std::move(session.client), session.timeout, session.colour};
  const ExitCode code = Apply(applying);
  if (code == kDone || code == kNotEveryone) {
    unlink(path->c_str());
  } else {
    session.err() << "gatewayctl: what was written is in " << *path << "\n"
                  << "Correct it, then: gatewayctl apply -f " << *path << "\n";
  }
  return code;
}

}  // namespace gateway::ctl
