// blame.
#include <iostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/policy/policy_files.h"
#include "tools/gatewayctl/blame.h"
#include "tools/gatewayctl/commands.h"
#include "tools/gatewayctl/diff.h"
#include "tools/gatewayctl/table.h"

namespace gateway::ctl {

std::vector<BlamedLine> BlameOf(const std::vector<v1::ResourceVersion>& newest_first) {
  std::vector<BlamedLine> lines;
  std::string before;
  for (size_t i = newest_first.size(); i-- > 0;) {
    const v1::ResourceVersion& version = newest_first[i];
    std::string after = version.has_resource() ? EncodeResource(version.resource()) : "";
    std::vector<BlamedLine> next;
    size_t at = 0;  // in `lines`
    for (const LineEdit& edit : CompareLines(before, after)) {
      if (edit.sign == ' ') next.push_back(std::move(lines[at]));
      if (edit.sign == '+') next.push_back({std::string(edit.line), i});
      if (edit.sign != '+') ++at;
    }
    lines = std::move(next);
    before = std::move(after);
  }
  return lines;
}

ExitCode Blame(Session& session) {
  const absl::StatusOr<ResourceKey> target = ParseTarget(session.options);
  if (!target.ok()) return session.Fail(target.status());
  const absl::StatusOr<v1::ResourceHistoryResponse> history =
      session.client.ResourceHistory(target->kind, target->name);
  if (!history.ok()) return session.Fail(history.status());
  const std::vector<v1::ResourceVersion> versions(history->versions().begin(), history->versions().end());
  if (!versions.front().has_resource()) {
    const v1::RevisionInfo& info = versions.front().info();
    return session.Fail(
        absl::NotFoundError(absl::StrCat(target->ToString(), " was deleted in revision ", info.revision(), " by ",
                                         Printable(info.actor()), "; see gatewayctl show ", info.revision())));
  }
  const std::vector<BlamedLine> lines = BlameOf(versions);
  if (session.options.output == "name") {
    for (const v1::ResourceVersion& version : versions) session.out() << version.info().revision() << "\n";
    return kDone;
  }
  Json json = Json::array();
  Table table({"REVISION", "ACTOR", "AGE", "LINE"});
  for (const BlamedLine& line : lines) {
    const v1::RevisionInfo& info = versions[line.version].info();
    json.push_back({{"line", line.text},
                    {"revision", info.revision()},
                    {"actor", info.actor()},
                    {"time", FormatTime(info.time())},
                    {"comment", info.comment()}});
    table.AddRow(
        {absl::StrCat(info.revision()), info.actor(), FormatAge(info.time(), session.terminal.now()), line.text});
  }
  if (session.PrintList(std::move(json), versions.front().info().revision())) return kDone;
  session.out() << table.ToString();
  if (versions.back().op() != v1::Change::CREATED) {
    session.err() << "history begins at revision " << history->oldest_revision()
                  << ": what the oldest version says may be older\n";
  }
  return kDone;
}

}  // namespace gateway::ctl
