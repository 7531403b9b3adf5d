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
    const std::string change = info.has_change() ? absl::StrCat("[", PendingChangeText(info.change()), "] ") : "";
    table.AddRow({absl::StrCat(info.revision()), FormatAge(info.time(), now), info.actor(), info.peer(),
                  ChangesText(info.changes()), absl::StrCat(change, info.comment())});
  }
  return table.ToString();
}

std::string RenderRevisionHead(const v1::RevisionInfo& info, absl::Time now) {
  std::string text = absl::StrCat("revision ", info.revision(), "\n");
  AppendFact(&text, "Time", absl::StrCat(FormatTime(info.time()), ", ", FormatAge(info.time(), now), " ago"));
  AppendFact(&text, "Actor", info.peer().empty() ? info.actor() : absl::StrCat(info.actor(), " from ", info.peer()));
  if (!info.comment().empty()) AppendFact(&text, "Comment", info.comment());
  if (info.has_change()) AppendFact(&text, "Change", PendingChangeText(info.change()));
  return text;
}

std::string PendingChangeText(const v1::PendingChange& change) {
  switch (change.outcome()) {
    case v1::PendingChange::OUTCOME_UNSPECIFIED:
      break;
    case v1::PendingChange::KEPT:
      return change.reason();
    case v1::PendingChange::ABANDONED:
      return absl::StrCat("abandoned by revision ", change.ended_by());
    case v1::PendingChange::ROLLED_BACK:
      return absl::StrCat("rolled back by revision ", change.ended_by());
    default:
      return absl::StrCat("reverted by revision ", change.ended_by());
  }
  std::vector<std::string> open;
  if (!change.to().empty()) open.push_back(absl::StrCat("staged (", change.to(), ")"));
  if (change.has_confirm_by()) open.push_back("to be confirmed");
  if (change.has_guard_until()) open.push_back(absl::StrCat("guarded (", change.guard(), ")"));
  return absl::StrJoin(open, ", ");
}

std::string RenderPendingChange(const v1::PendingChange& change, absl::Time now) {
  const std::string revision = absl::StrCat(change.revision());
  const auto left = [now](const google::protobuf::Timestamp& until) {
    const absl::Duration time = absl::FromUnixSeconds(until.seconds()) + absl::Nanoseconds(until.nanos()) - now;
    return absl::FormatDuration(absl::Ceil(std::max(time, absl::ZeroDuration()), absl::Seconds(1)));
  };
  std::string text;
  if (change.outcome() != v1::PendingChange::OUTCOME_UNSPECIFIED) {
    const std::string reason = Printable(change.reason());
    // "reverted: ...", "promoted by 'ann'"; that of an abandoned one names the revision itself.
    text = reason.starts_with("revision ") ? absl::StrCat(reason, "\n")
                                           : absl::StrCat("revision ", revision, ": ", reason, "\n");
    if (change.ended_by() != 0) {
      absl::StrAppend(&text, "revision ", change.ended_by(), " has the policy of revision ", change.base_revision(),
                      "\n");
    }
  } else {
    if (!change.to().empty()) {
      absl::StrAppend(&text, "staged for ", Printable(change.to()), "; the others keep revision ",
                      change.base_revision(), ": gatewayctl promote ", revision, ", or abandon ", revision, "\n");
    }
    if (change.has_guard_until()) {
      absl::StrAppend(&text, "its guard ", Printable(change.guard()), " watches ", change.routes_size(),
                      change.routes_size() == 1 ? " route" : " routes", " for ", left(change.guard_until()), "\n");
    }
    if (change.has_confirm_by()) {
      absl::StrAppend(&text, "reverted in ", left(change.confirm_by()), " unless confirmed: gatewayctl confirm ",
                      revision, "\n");
    }
  }
  if (!change.note().empty()) absl::StrAppend(&text, Printable(change.note()), "\n");
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
