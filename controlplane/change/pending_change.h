// The life of a change that is not final at once: what begins it, what time, figures and people make of it. Pure: `now`
// is passed in, and v1::PendingChange is all of its state, so that it survives a restart.
#ifndef GATEWAY_CONTROLPLANE_CHANGE_PENDING_CHANGE_H_
#define GATEWAY_CONTROLPLANE_CHANGE_PENDING_CHANGE_H_

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "controlplane/change/guard.h"
#include "controlplane/change/selection.h"
#include "controlplane/store/store.h"
#include "gateway/v1/admin.pb.h"

namespace gateway::controlplane {

inline constexpr absl::Duration kConfirmWithinMin = absl::Seconds(1);
inline constexpr absl::Duration kConfirmWithinMax = absl::Hours(24 * 7);
inline constexpr size_t kWatchedRoutesMax = 1'000;

// What an ApplyRequest asks for beyond its resources.
struct ChangeTerms {
  std::optional<Selection> to;
  std::optional<Guard> guard;
  std::optional<absl::Duration> confirm_within;

  bool final() const { return !to && !guard && !confirm_within; }
};
// InvalidArgument names the field.
absl::StatusOr<ChangeTerms> TermsOf(const v1::ApplyRequest& request);

// What `request`, committed as `revision` over `base_revision`, begins. `picked`: Selection::Pick's. `routes`: those
// that the guard watches.
v1::PendingChange BeginChange(const v1::ApplyRequest& request, const ChangeTerms& terms, uint64_t revision,
                              uint64_t base_revision, const std::string& actor, std::string picked,
                              std::vector<std::string> routes, absl::Time now);

inline bool IsUnderWay(const v1::PendingChange& change) {
  return change.outcome() == v1::PendingChange::OUTCOME_UNSPECIFIED;
}
// Under way, and not for all data planes.
inline bool IsStaged(const v1::PendingChange& change) { return IsUnderWay(change) && !change.to().empty(); }

// What a change does not go on without, for people: "revision 9 by 'ann' is staged (percent=10): promote or abandon
// it".
std::string DescribeUnderWay(const v1::PendingChange& change);

enum class RevertCause { kGuard, kConfirmation };

// What became of a change that is under way.
struct Progress {
  bool changed = false;               // `change` is another one: it has to be stored
  std::optional<RevertCause> revert;  // it must be taken back, for `reason`
  std::string reason;                 // "reverted: not confirmed within 2m"
};
// Time has passed, and `figures` are what data planes have said last. Ends it (KEPT) once nothing is open.
Progress Advance(const GuardFigures& figures, absl::Time now, v1::PendingChange* change);

// People have decided. FailedPrecondition: it does not wait for that.
absl::Status Confirm(const std::string& actor, absl::Time now, v1::PendingChange* change);
absl::Status Promote(const std::string& actor, absl::Time now, v1::PendingChange* change);

// It has ended, `revision` (0: none) took it back.
void EndChange(v1::PendingChange::Outcome outcome, std::string reason, uint64_t revision, absl::Time now,
               v1::PendingChange* change);

// The routes of `resources` that `changed` concerns: themselves, or by what they refer to, at any depth; all of them
// where Defaults changed. By name.
std::vector<std::string> RoutesConcerned(const ResourceSet& resources, const std::set<ResourceKey>& changed);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_CHANGE_PENDING_CHANGE_H_
