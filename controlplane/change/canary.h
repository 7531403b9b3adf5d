// The life of a Route's canary: what begins it, what time, figures and people make of it. Pure: `now` is passed in, and
// StoredCanary is all of its state, so that it survives a restart.
#ifndef GATEWAY_CONTROLPLANE_CHANGE_CANARY_H_
#define GATEWAY_CONTROLPLANE_CHANGE_CANARY_H_

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "controlplane/change/guard.h"
#include "controlplane/store/store.h"
#include "gateway/v1/admin.pb.h"

namespace gateway::controlplane {

inline constexpr int kCanaryEventsKept = 50;

// The requests of one Route since it is what it is.
struct SideFigures {
  uint64_t version = 0;  // of the Route: the revision that changed it last
  RouteFigures side;     // to the side that the traffic moves to
  RouteFigures others;
  size_t data_planes = 0;  // that have reported this version, be it without a request
};
using CanaryFigures = std::map<std::string, SideFigures>;  // by the Route's name

// What becomes of a canary: for history, "step 2 of 4, 5 %".
using CanaryMove = std::string;

// `route`, which has a canary, is changed by `revision`, and its canary is a new one: at its first step.
StoredCanary BeginCanary(const v1::Route& route, uint64_t revision, absl::Time now);
// `route` is changed by `revision`, in something else: the step begins again, because its requests are counted again.
void RestartStep(const v1::Route& route, uint64_t revision, absl::Time now, StoredCanary* canary);

// Time has passed, and `figures` are what data planes have reported last. Nothing: it stays as it is. Otherwise that is
// to be `revision`. `judge`: whether a guard is judged at the end of a step, which is not done before data planes have
// had time to report; a step that no data plane has reported does not end. A guard that breaks early is judged in any
// case, and also while the canary is paused.
std::optional<CanaryMove> AdvanceCanary(const v1::Route& route, const SideFigures& figures, bool judge,
                                        uint64_t revision, absl::Time now, StoredCanary* canary);
// Whether AdvanceCanary may ever do something without a decision by people.
bool IsWatched(const v1::Route& route, const v1::CanaryState& state);
// When the step is over; InfiniteFuture: not by time alone.
absl::Time StepEnd(const v1::Route& route, const v1::CanaryState& state);

// People have decided. FailedPrecondition: it is not in a phase for that; InvalidArgument: no such decision.
absl::StatusOr<CanaryMove> DecideCanary(const v1::Route& route, v1::DecideCanaryRequest::Decision decision,
                                        const std::string& actor, uint64_t revision, absl::Time now,
                                        StoredCanary* canary);

// The canaries of `resources`: of `stored`, those that still belong to their Route, and new ones of all others.
CanarySet CanariesOf(const ResourceSet& resources, const CanarySet& stored, absl::Time now);

// What `edits`, committed as `revision`, make of `current`. A Route that keeps its sides, its steps and their service
// keeps its state; one that gets them back as they are in `base` (null: no change is taken back) gets that state.
// `moved`: those that edits of their Routes are about, as they are to be (null: none).
CanarySet NextCanaries(const CanarySet& current, const CanarySet* base, const CanarySet* moved,
                       std::span<const Edit> edits, uint64_t revision, absl::Time now);
// What of it goes into the database.
CanaryEdits EditsOf(const CanarySet& next, std::span<const Edit> edits);

// Past this, a step that is due is shown to wait for reports.
inline constexpr absl::Duration kReportsOverdue = absl::Seconds(5);
// What people are shown: what its steps wait for, if they do: the end of `pending` (null: none), or reports.
v1::CanaryState ShownState(const v1::CanaryState& state, const v1::PendingChange* pending, absl::Time now);

// `resource` as data planes get it: of a Route with a canary, the weights of its step instead of it.
void ReplaceCanary(const CanarySet& canaries, v1::Resource* resource);
// What data planes are asked to count for the guards: OperationsUpdate.watched_routes.
std::vector<std::string> WatchedSides(const ResourceSet& resources, const CanarySet& canaries);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_CHANGE_CANARY_H_
