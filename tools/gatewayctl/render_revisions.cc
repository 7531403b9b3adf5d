// Revisions, and what they changed.
#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tools/gatewayctl/format.h"
#include "tools/gatewayctl/render_text.h"

namespace gateway::ctl {
namespace {

// "+Route/a, -Route/b and 9,997 more (9,998 deleted)".
std::string ChangesText(const google::protobuf::RepeatedPtrField<v1::Change>& all) {
  std::vector<std::string> shown;
  std::map<v1::Change::Op, size_t> counts;
  for (const v1::Change& change : all) {
    if (change.op() == v1::Change::UNCHANGED) continue;
    ++counts[change.op()];
    const char* sign = change.op() == v1::Change::CREATED ? "+" : change.op() == v1::Change::DELETED ? "-" : "~";
    shown.push_back(absl::StrCat(sign, change.kind(), "/", change.name()));
  }
  std::string text = JoinSome(shown);
  if (shown.size() <= kSummaryItemsMax) return text;
  std::vector<std::string> sums;
  for (const auto& [op, count] : counts) sums.push_back(absl::StrCat(count, " ", Lower(v1::Change::Op_Name(op))));
  return absl::StrCat(text, " (", absl::StrJoin(sums, ", "), ")");
}

}  // namespace

std::string RenderChanges(std::span<const v1::Change> changes) {
  std::string text;
  for (const v1::Change& change : changes) {
    absl::StrAppend(&text, Printable(change.kind()), "/", Printable(change.name()), " ",
                    Lower(v1::Change::Op_Name(change.op())), "\n");
  }
  return text;
}

std::string RenderHistory(std::span<const v1::RevisionInfo> revisions, absl::Time now) {
  Table table({"REVISION", "AGE", "ACTOR", "FROM", "CHANGES", "COMMENT"});
  for (const v1::RevisionInfo& info : revisions) {
    table.AddRow({absl::StrCat(info.revision()), FormatAge(info.time(), now), info.actor(), info.peer(),
                  ChangesText(info.changes()), info.comment()});
  }
  return table.ToString();
}

std::string RenderRevisionHead(const v1::RevisionInfo& info, absl::Time now) {
  std::string text = absl::StrCat("revision ", info.revision(), "\n");
  AppendFact(&text, "Time", absl::StrCat(FormatTime(info.time()), ", ", FormatAge(info.time(), now), " ago"));
  AppendFact(&text, "Actor", info.peer().empty() ? info.actor() : absl::StrCat(info.actor(), " from ", info.peer()));
  if (!info.comment().empty()) AppendFact(&text, "Comment", info.comment());
  return text;
}

std::string RenderUndone(const v1::RollbackResponse& rollback, absl::Time now, bool done) {
  if (rollback.undone_count() == 0) return "";
  std::string text = absl::StrCat(done ? "undone" : "this would undo", ":\n");
  for (const v1::RevisionInfo& info : rollback.undone()) {
    absl::StrAppend(&text, "  revision ", info.revision(), ", ", FormatAge(info.time(), now), " ago, by ",
                    Printable(info.actor()), ": ", Printable(ChangesText(info.changes())),
                    info.comment().empty() ? "" : absl::StrCat(" (", Printable(info.comment()), ")"), "\n");
  }
  const uint64_t more = rollback.undone_count() - static_cast<uint64_t>(rollback.undone_size());
  if (more > 0) absl::StrAppend(&text, "  and ", more, " earlier revisions\n");
  return text;
}

}  // namespace gateway::ctl
