// history, show, rollback, rollout.
#include <functional>
#include <iostream>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/policy/policy_files.h"
#include "tools/gatewayctl/commands.h"
#include "tools/gatewayctl/diff.h"
#include "tools/gatewayctl/render.h"
#include "tools/gatewayctl/requirement.h"
#include "tools/gatewayctl/table.h"

namespace gateway::ctl {
namespace {

// The --require of the command line, which has been checked; nothing: everyone who is not lost.
std::optional<Requirement> RequirementFrom(const Session& session) {
  return session.options.require.empty() ? std::nullopt : RequirementOf(session.options.require);
}

// Enough serve it; a rejection of something newer does not matter.
ExitCode ReportRollout(Session& session, const RolloutOutcome& outcome, Json* json) {
  const v1::RolloutResponse& last = outcome.last;
  const std::optional<Requirement> requirement = RequirementFrom(session);
  if (json != nullptr) (*json)["rollout"] = MessageJson(last);
  if (requirement.has_value() ? requirement->IsMet(last) : last.done()) {
    if (json == nullptr && session.table()) session.out() << RolloutLine(last) << "\n";
    return kDone;
  }
  std::string reason;
  if (last.data_planes() == 0) {
    reason = absl::StrCat("revision ", last.revision(), ": no data plane is connected");
  } else {
    reason =
        absl::StrCat(RolloutLine(last), last.rejected() > 0 ? absl::StrCat(", rejected by ", last.rejected()) : "");
  }
  session.err() << "gatewayctl: " << reason;
  if (requirement.has_value()) session.err() << "; required: " << session.options.require;
  if (outcome.timed_out) session.err() << "; waited " << absl::FormatDuration(session.timeout);
  session.err() << "\n" << RenderPending(last);
  return kNotEveryone;
}

// Which control plane a command speaks to, for people who have several.
void NameServer(Session& session, const v1::GetServerInfoResponse& info) {
  if (info.name().empty() || !session.table()) return;
  session.err() << "control plane " << Printable(info.name()) << " at " << session.options.server << "\n";
}

}  // namespace

ExitCode AwaitEverywhere(Session& session, uint64_t revision, Json* json) {
  const std::optional<Requirement> requirement = RequirementFrom(session);
  std::function<bool(const v1::RolloutResponse&)> enough;
  if (requirement.has_value()) {
    enough = [&requirement](const v1::RolloutResponse& rollout) { return requirement->IsMet(rollout); };
  }
  const absl::StatusOr<RolloutOutcome> outcome = session.client.AwaitRollout(revision, enough);
  if (!outcome.ok()) return session.Fail(outcome.status());
  return ReportRollout(session, *outcome, json);
}

ExitCode History(Session& session) {
  const absl::StatusOr<ResourceKey> target = ParseTarget(session.options);
  if (!target.ok()) return session.Fail(target.status());
  v1::HistoryRequest request = HistoryOf(*target);
  request.set_actor(session.options.actor);
  request.set_comment(session.options.comment_text);
  request.set_selector(absl::StrJoin(session.options.selectors, ","));
  for (const auto& [flag, text, out] :
       {std::tuple{"--since", &session.options.since, &v1::HistoryRequest::mutable_since},
        std::tuple{"--until", &session.options.until, &v1::HistoryRequest::mutable_until}}) {
    if (text->empty()) continue;
    const absl::StatusOr<google::protobuf::Timestamp> moment = ParseMoment(*text, session.terminal.now());
    if (!moment.ok()) {
      return session.Fail(absl::InvalidArgumentError(absl::StrCat(flag, ": ", moment.status().message())));
    }
    *(request.*out)() = *moment;
  }
  const absl::StatusOr<v1::HistoryResponse> history = session.client.History(std::move(request), session.options.limit);
  if (!history.ok()) return session.Fail(history.status());
  if (session.options.output == "name") {
    for (const v1::RevisionInfo& info : history->revisions()) session.out() << info.revision() << "\n";
    return kDone;
  }
  const absl::StatusOr<v1::GetServerInfoResponse> server = session.client.GetServerInfo();
  if (!server.ok()) return session.Fail(server.status());
  Json json = Json::array();
  for (const v1::RevisionInfo& info : history->revisions()) json.push_back(MessageJson(info));
  if (session.PrintList(std::move(json), server->revision())) return kDone;
  NameServer(session, *server);
  const std::vector<v1::RevisionInfo> rows(history->revisions().begin(), history->revisions().end());
  session.out() << RenderHistory(rows, session.terminal.now());
  return kDone;
}

ExitCode Show(Session& session) {
  const uint64_t revision = session.options.revision;
  const absl::StatusOr<v1::GetRevisionResponse> shown = session.client.GetRevision(revision);
  if (!shown.ok()) return session.Fail(shown.status());
  const std::string& output = session.options.output;
  if (output == "name" || output == "yaml") {
    bool first = true;
    for (const auto& stored : shown->resources()) {
      if (output == "name") {
        session.out() << KeyOf(stored.resource()).ToString() << "\n";
      } else if (!stored.built_in()) {
        session.out() << (first ? "" : "---\n") << EncodeResource(stored.resource());
        first = false;
      }
    }
    return kDone;
  }
  if (session.PrintStructured(MessageJson(*shown))) return kDone;

  session.out() << RenderRevisionHead(shown->info(), session.terminal.now());
  std::map<ResourceKey, std::string> before, after;
  for (const auto& stored : shown->resources()) after[KeyOf(stored.resource())] = EncodeResource(stored.resource());
  if (revision > 1) {
    const absl::StatusOr<v1::GetRevisionResponse> previous = session.client.GetRevision(revision - 1);
    if (absl::IsNotFound(previous.status())) {
      // History no longer has it: what was changed is known, not from what.
      session.out() << "\n"
                    << RenderChanges(
                           std::vector<v1::Change>(shown->info().changes().begin(), shown->info().changes().end()));
      return kDone;
    }
    if (!previous.ok()) return session.Fail(previous.status());
    for (const auto& stored : previous->resources()) {
      before[KeyOf(stored.resource())] = EncodeResource(stored.resource());
    }
  }
  for (const v1::Change& change : shown->info().changes()) {
    if (change.op() == v1::Change::UNCHANGED) continue;
    const ResourceKey key{change.kind(), change.name()};
    session.out() << "\n"
                  << UnifiedDiff(absl::StrCat(revision - 1, "/", key.ToString()),
                                 absl::StrCat(revision, "/", key.ToString()), before[key], after[key], session.colour);
  }
  return kDone;
}

ExitCode Rollback(Session& session) {
  const Options& options = session.options;
  v1::RollbackRequest request;
  request.set_revision(options.revision);
  request.set_dry_run(options.dry_run);
  request.mutable_context()->set_actor(options.actor.empty() ? session.terminal.actor : options.actor);
  request.mutable_context()->set_comment(
      options.comment.empty() ? absl::StrCat("rollback to revision ", options.revision) : options.comment);
  request.set_expected_revision(options.expected_revision);
  if (session.terminal.in != nullptr && session.terminal.out_is_terminal && !options.yes && !options.dry_run) {
    // Somebody is there to be asked, so that the answer is about what would happen.
    request.set_dry_run(true);
    const absl::StatusOr<v1::RollbackResponse> would = session.client.Rollback(request);
    if (!would.ok()) return session.Fail(would.status());
    session.err() << RenderUndone(*would, session.terminal.now(), /*done=*/false);
    if (!session.Confirm(absl::StrCat("go back to revision ", options.revision))) return kFailed;
    request.set_dry_run(false);
    request.set_expected_revision(would->revision());  // of a dry run: the current one
  }
  const absl::StatusOr<v1::RollbackResponse> rolled = session.client.Rollback(request);
  if (!rolled.ok()) return session.Fail(rolled.status());
  const bool wait = (options.wait || !options.require.empty()) && !options.dry_run;
  if (session.structured()) {
    Json json = MessageJson(*rolled);
    json["dry_run"] = options.dry_run;
    const ExitCode code = wait ? AwaitEverywhere(session, rolled->revision(), &json) : kDone;
    session.PrintStructured(json);
    return code;
  }
  if (options.output == "name") {
    for (const v1::Change& change : rolled->changes()) session.out() << change.kind() << "/" << change.name() << "\n";
  } else {
    session.err() << RenderUndone(*rolled, session.terminal.now(), !options.dry_run);
    if (rolled->changes().empty()) session.err() << "nothing changes: the policy is that of this revision already\n";
    session.out() << RenderChanges(std::vector<v1::Change>(rolled->changes().begin(), rolled->changes().end()))
                  << "revision " << rolled->revision() << (options.dry_run ? " (dry run: nothing was stored)" : "")
                  << "\n"
                  << std::flush;
  }
  return wait ? AwaitEverywhere(session, rolled->revision(), nullptr) : kDone;
}

ExitCode Rollout(Session& session) {
  const Options& options = session.options;
  if (options.wait) {
    Json json = Json::object();
    const ExitCode code = AwaitEverywhere(session, options.revision, session.structured() ? &json : nullptr);
    if (json.contains("rollout")) session.PrintStructured(json["rollout"]);
    return code;
  }
  const absl::StatusOr<v1::RolloutResponse> rollout = session.client.GetRollout(options.revision);
  if (!rollout.ok()) return session.Fail(rollout.status());
  const std::optional<Requirement> requirement = RequirementFrom(session);
  const ExitCode code = requirement.has_value() && !requirement->IsMet(*rollout) ? kNotEveryone : kDone;
  if (!session.PrintStructured(MessageJson(*rollout))) {
    if (options.output == "name") {
      for (const v1::DataPlaneState& plane : rollout->pending()) session.out() << plane.name() << "\n";
    } else {
      session.out() << RolloutLine(*rollout) << "\n" << RenderPending(*rollout);
    }
  }
  if (code != kDone) {
    session.err() << "gatewayctl: " << rollout->serving() << " serve it; required: " << options.require << "\n";
  }
  return code;
}

}  // namespace gateway::ctl
