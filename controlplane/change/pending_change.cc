#include "controlplane/change/pending_change.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/timestamp.h"
#include "common/base/units.h"
#include "controlplane/identity/scope.h"

namespace gateway::controlplane {
namespace {

// Ends it if it waits for nothing more.
void EndIfSettled(const std::string& reason, absl::Time now, v1::PendingChange* change) {
  if (!change->to().empty() || change->has_confirm_by() || change->has_guard_until()) return;
  EndChange(v1::PendingChange::KEPT, reason, 0, now, change);
}

}  // namespace

absl::StatusOr<ChangeTerms> TermsOf(const v1::ApplyRequest& request) {
  ChangeTerms terms;
  if (!request.to().empty()) {
    absl::StatusOr<Selection> to = Selection::Parse(request.to());
    if (!to.ok()) return to.status();
    terms.to = *std::move(to);
  }
  if (!request.guard().empty()) {
    absl::StatusOr<Guard> guard = ParseGuard(request.guard());
    if (!guard.ok()) return guard.status();
    terms.guard = *std::move(guard);
  }
  if (request.has_confirm_within()) {
    const absl::Duration within =
        absl::Seconds(request.confirm_within().seconds()) + absl::Nanoseconds(request.confirm_within().nanos());
    if (within < kConfirmWithinMin || within > kConfirmWithinMax) {
      return absl::InvalidArgumentError("confirm_within: expected 1s to 168h (7 days)");
    }
    terms.confirm_within = within;
  }
  return terms;
}

v1::PendingChange BeginChange(const v1::ApplyRequest& request, const ChangeTerms& terms, uint64_t revision,
                              uint64_t base_revision, const std::string& actor, std::string picked,
                              std::vector<std::string> routes, absl::Time now) {
  v1::PendingChange change;
  change.set_revision(revision);
  change.set_base_revision(base_revision);
  change.set_actor(actor);
  SetTime(now, change.mutable_begun());
  change.set_to(request.to());
  change.set_picked(std::move(picked));
  if (terms.confirm_within) {
    *change.mutable_confirm_within() = request.confirm_within();
    SetTime(now + *terms.confirm_within, change.mutable_confirm_by());
  }
  if (terms.guard) {
    change.set_guard(request.guard());
    SetTime(now + terms.guard->window, change.mutable_guard_until());
    for (std::string& route : routes) change.add_routes(std::move(route));
  }
  return change;
}

std::string DescribeUnderWay(const v1::PendingChange& change) {
  std::vector<std::string> open;
  if (!change.to().empty()) {
    open.push_back(absl::StrCat("staged (", change.to(), ") until it is promoted or abandoned"));
  }
  if (change.has_confirm_by()) open.push_back("to be confirmed");
  if (change.has_guard_until()) open.push_back(absl::StrCat("watched by its guard (", change.guard(), ")"));
  return absl::StrCat("revision ", change.revision(), " by '", change.actor(), "' is ", absl::StrJoin(open, ", and "));
}

Progress Advance(const GuardFigures& figures, absl::Time now, v1::PendingChange* change) {
  Progress progress;
  if (!IsUnderWay(*change)) return progress;
  if (change->has_guard_until()) {
    const bool over = now >= TimeOf(change->guard_until());
    absl::StatusOr<Guard> guard = ParseGuard(change->guard());
    // It was parsed before it was stored. What an older version has stored, and this one does not know, cannot hold.
    GuardVerdict verdict = guard.ok() ? JudgeGuard(*guard, figures, over)
                                      : GuardVerdict{true, std::string(guard.status().message()), false};
    if (verdict.broken) {
      progress.revert = RevertCause::kGuard;
      progress.reason = absl::StrCat("reverted: ", verdict.text);
      return progress;
    }
    if (over) {
      change->clear_guard_until();
      change->set_note(absl::StrCat(verdict.unseen ? "warning: " : "", "the guard ", verdict.text));
      progress.changed = true;
      EndIfSettled("its guard held", now, change);
    }
  }
  if (change->has_confirm_by() && now >= TimeOf(change->confirm_by())) {
    progress.revert = RevertCause::kConfirmation;
    progress.reason = absl::StrCat("reverted: not confirmed within ", FormatDuration(change->confirm_within()));
  }
  return progress;
}

absl::Status Confirm(const std::string& actor, absl::Time now, v1::PendingChange* change) {
  if (!change->has_confirm_by()) {
    return absl::FailedPreconditionError(
        absl::StrCat("revision ", change->revision(), " does not wait for a confirmation",
                     IsStaged(*change) ? "; it is staged: promote or abandon it" : ""));
  }
  change->clear_confirm_by();
  EndIfSettled(absl::StrCat("confirmed by '", actor, "'"), now, change);
  return absl::OkStatus();
}

absl::Status Promote(const std::string& actor, absl::Time now, v1::PendingChange* change) {
  if (change->to().empty()) {
    return absl::FailedPreconditionError(absl::StrCat("revision ", change->revision(),
                                                      " is not staged: it goes to all data planes",
                                                      change->has_confirm_by() ? "; confirm or abandon it" : ""));
  }
  change->clear_confirm_by();
  change->clear_guard_until();
  EndChange(v1::PendingChange::KEPT, absl::StrCat("promoted by '", actor, "'"), 0, now, change);
  return absl::OkStatus();
}

void EndChange(v1::PendingChange::Outcome outcome, std::string reason, uint64_t revision, absl::Time now,
               v1::PendingChange* change) {
  change->set_outcome(outcome);
  change->set_reason(std::move(reason));
  change->set_ended_by(revision);
  SetTime(now, change->mutable_ended());
}

std::vector<std::string> RoutesConcerned(const ResourceSet& resources, const std::set<ResourceKey>& changed) {
  std::multimap<ResourceKey, ResourceKey> referrers;
  std::vector<ResourceKey> auths, routes;
  for (const auto& [key, record] : resources) {
    for (const ResourceKey& reference : ReferencesOf(*record.resource)) referrers.emplace(reference, key);
    if (key.kind == "Auth") auths.push_back(key);
    if (key.kind == "Route") routes.push_back(key);
  }
  std::set<ResourceKey> concerned;
  std::vector<ResourceKey> next(changed.begin(), changed.end());
  while (!next.empty()) {
    const ResourceKey key = std::move(next.back());
    next.pop_back();
    if (!concerned.insert(key).second) continue;
    const auto [begin, end] = referrers.equal_range(key);
    for (auto it = begin; it != end; ++it) next.push_back(it->second);
    // What applies without being named: who may pass an Auth, and what a route that says nothing gets.
    if (key.kind == "Consumer") next.insert(next.end(), auths.begin(), auths.end());
    if (key.kind == "Defaults") next.insert(next.end(), routes.begin(), routes.end());
  }
  std::vector<std::string> names;
  for (const ResourceKey& route : routes) {
    if (concerned.contains(route)) names.push_back(route.name);
  }
  return names;
}

}  // namespace gateway::controlplane
