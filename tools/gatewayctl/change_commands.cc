// confirm, promote, abandon: what becomes of a change that is not final, and the wait for it.
#include <algorithm>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/units.h"
#include "tools/gatewayctl/commands.h"
#include "tools/gatewayctl/render.h"
#include "tools/gatewayctl/table.h"

namespace gateway::ctl {
namespace {

constexpr absl::Duration kAskEvery = absl::Milliseconds(300);

absl::Time TimeOf(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

bool IsUnderWay(const v1::PendingChange& change) { return change.outcome() == v1::PendingChange::OUTCOME_UNSPECIFIED; }

// Time alone brings it on.
bool IsTimed(const v1::PendingChange& change) {
  return IsUnderWay(change) && (change.has_confirm_by() || change.has_guard_until());
}

ExitCode Decide(Session& session, v1::DecideChangeRequest::Decision decision) {
  const Options& options = session.options;
  v1::DecideChangeRequest request;
  request.set_revision(options.revision);
  request.set_decision(decision);
  request.mutable_context()->set_actor(options.actor.empty() ? session.terminal.actor : options.actor);
  request.mutable_context()->set_comment(options.comment);
  const absl::StatusOr<v1::DecideChangeResponse> decided = session.client.DecideChange(request);
  if (!decided.ok()) return session.Fail(decided.status());
  const bool wait = options.wait || !options.require.empty();
  if (session.structured()) {
    Json json = MessageJson(*decided);
    const ExitCode code = wait ? AwaitEverywhere(session, decided->revision(), &json) : kDone;
    session.PrintStructured(json);
    return code;
  }
  session.out() << RenderPendingChange(decided->change(), session.terminal.now()) << std::flush;
  return wait ? AwaitEverywhere(session, decided->revision(), nullptr) : kDone;
}

}  // namespace

ExitCode Confirm(Session& session) { return Decide(session, v1::DecideChangeRequest::CONFIRM); }
ExitCode Promote(Session& session) { return Decide(session, v1::DecideChangeRequest::PROMOTE); }
ExitCode Abandon(Session& session) { return Decide(session, v1::DecideChangeRequest::ABANDON); }

absl::Status SetTerms(const Options& options, v1::ApplyRequest* request) {
  request->set_to(options.to);
  request->set_guard(options.guard);
  if (options.confirm_within.empty()) return absl::OkStatus();
  const absl::StatusOr<google::protobuf::Duration> within = ParseDuration(options.confirm_within);
  if (!within.ok()) return absl::InvalidArgumentError(absl::StrCat("--confirm-within: ", within.status().message()));
  *request->mutable_confirm_within() = *within;
  return absl::OkStatus();
}

ExitCode AwaitOutcome(Session& session, v1::PendingChange change, Json* json) {
  // It ends by its own time, whatever --timeout says of calls; that is what the control plane may be away for.
  absl::Time deadline = absl::Now();
  if (change.has_confirm_by()) deadline = std::max(deadline, TimeOf(change.confirm_by()));
  if (change.has_guard_until()) deadline = std::max(deadline, TimeOf(change.guard_until()));
  deadline += session.timeout;
  while (IsTimed(change)) {
    absl::SleepFor(kAskEvery);
    const absl::StatusOr<v1::GetChangeResponse> got = session.client.GetChange(change.revision());
    if (got.ok()) {
      change = got->change();
    } else if (!absl::IsUnavailable(got.status()) || absl::Now() > deadline) {
      return session.Fail(got.status());
    }
    if (absl::Now() > deadline) break;
  }
  if (json != nullptr) (*json)["change"] = MessageJson(change);
  // One that is still under way has been shown.
  if (json == nullptr && session.table() && !IsUnderWay(change)) {
    session.out() << RenderPendingChange(change, session.terminal.now());
  }
  switch (change.outcome()) {
    case v1::PendingChange::OUTCOME_UNSPECIFIED:
      if (!IsTimed(change)) return kDone;  // staged, and nothing against it
      session.err() << "gatewayctl: revision " << change.revision() << " has not ended in its time\n";
      return kNotEveryone;
    case v1::PendingChange::KEPT:
      return kDone;
    case v1::PendingChange::REVERTED:
      session.err() << "gatewayctl: revision " << change.revision() << " was " << Printable(change.reason()) << "\n";
      return kReverted;
    default:
      session.err() << "gatewayctl: " << Printable(change.reason()) << "\n";
      return kFailed;
  }
}

}  // namespace gateway::ctl
