#include "controlplane/change/canary.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/timestamp.h"
#include "common/policy/kinds/canary.h"
#include "controlplane/change/pending_change.h"

namespace gateway::controlplane {
namespace {

constexpr char kSidesSuffix[] = "/sides";  // no name of a Route has a slash

// What a state belongs to: with another one, it begins again.
std::string ShapeOf(const v1::Route& route) {
  std::string shape = CanaryServiceOf(route);
  for (const v1::WeightedService& side : route.split()) absl::StrAppend(&shape, " ", side.service());
  for (const uint32_t step : route.canary().steps()) absl::StrAppend(&shape, " ", step);
  return shape;
}

const v1::Route* WithCanary(const v1::Resource* resource) {
  return resource != nullptr && resource->route().has_canary() ? &resource->route() : nullptr;
}

bool HasEnded(const v1::CanaryState& state) {
  return state.phase() != v1::CanaryState::WALKING && state.phase() != v1::CanaryState::PAUSED;
}

bool IsLast(const v1::Route& route, uint32_t step) { return static_cast<int>(step) + 1 >= route.canary().steps_size(); }

std::string StepText(const v1::Route& route, uint32_t step) {
  return absl::StrCat("step ", step + 1, " of ", route.canary().steps_size());
}

void AddEvent(std::string what, uint64_t revision, absl::Time now, v1::CanaryState* state) {
  v1::CanaryEvent event;
  SetTime(now, event.mutable_at());
  event.set_revision(revision);
  event.set_percent(state->percent());
  event.set_what(std::move(what));
  google::protobuf::RepeatedPtrField<v1::CanaryEvent> events;
  *events.Add() = std::move(event);
  for (v1::CanaryEvent& before : *state->mutable_events()) {
    if (events.size() == kCanaryEventsKept) break;
    *events.Add() = std::move(before);
  }
  state->mutable_events()->Swap(&events);
}

// The time of the step begins, or begins again.
void StartClock(const v1::Route& route, absl::Time now, v1::CanaryState* state) {
  SetTime(now, state->mutable_since());
  state->clear_next_step();
  if (state->phase() == v1::CanaryState::WALKING && !IsLast(route, state->step())) {
    SetTime(now + absl::FromChrono(CanaryEveryOf(route)), state->mutable_next_step());
  }
}

void End(v1::CanaryState::Phase phase, uint32_t percent, std::string reason, absl::Time now, v1::CanaryState* state) {
  state->set_phase(phase);
  state->set_percent(percent);
  state->set_reason(std::move(reason));
  SetTime(now, state->mutable_since());
  state->clear_next_step();
}

// `seen`: what the guard saw of the step before; may be empty. Without a guard nothing follows the last step.
CanaryMove TakeStep(const v1::Route& route, uint32_t step, const std::string& seen, uint64_t revision, absl::Time now,
                    StoredCanary* canary) {
  v1::CanaryState& state = canary->state;
  state.set_phase(v1::CanaryState::WALKING);
  state.set_step(step);
  state.set_percent(route.canary().steps(static_cast<int>(step)));
  state.clear_reason();
  StartClock(route, now, &state);
  std::string text = StepText(route, step);
  if (IsLast(route, step) && route.canary().guard().empty()) {
    End(v1::CanaryState::COMPLETE, state.percent(), "the last step was taken", now, &state);
    absl::StrAppend(&text, ", complete");
  }
  canary->revision = revision;
  AddEvent(absl::StrCat(text, seen.empty() ? "" : "; the guard ", seen), revision, now, &state);
  return absl::StrCat(text, ", ", state.percent(), " %");
}

}  // namespace

StoredCanary BeginCanary(const v1::Route& route, uint64_t revision, absl::Time now) {
  StoredCanary canary;
  canary.written = revision;
  canary.shape = ShapeOf(route);
  canary.state.set_service(CanaryServiceOf(route));
  TakeStep(route, 0, "", revision, now, &canary);
  return canary;
}

void RestartStep(const v1::Route& route, uint64_t revision, absl::Time now, StoredCanary* canary) {
  canary->revision = revision;
  canary->written = revision;
  if (HasEnded(canary->state)) return;
  StartClock(route, now, &canary->state);
  AddEvent(absl::StrCat("the route was changed: ", StepText(route, canary->state.step()), " begins again"), revision,
           now, &canary->state);
}

bool IsWatched(const v1::Route& route, const v1::CanaryState& state) {
  return state.phase() == v1::CanaryState::WALKING ||
         (state.phase() == v1::CanaryState::PAUSED && !route.canary().guard().empty());
}

absl::Time StepEnd(const v1::Route& route, const v1::CanaryState& state) {
  if (state.phase() != v1::CanaryState::WALKING) return absl::InfiniteFuture();
  return TimeOf(state.since()) + absl::FromChrono(CanaryEveryOf(route));
}

std::optional<CanaryMove> AdvanceCanary(const v1::Route& route, const SideFigures& figures, bool judge,
                                        uint64_t revision, absl::Time now, StoredCanary* canary) {
  v1::CanaryState& state = canary->state;
  if (!IsWatched(route, state)) return std::nullopt;
  const bool over = now >= StepEnd(route, state);
  std::string seen;
  if (!route.canary().guard().empty()) {
    const absl::StatusOr<Guard> guard = ParseGuard(route.canary().guard(), GuardWindow::kGiven);
    // It was parsed before it was stored.
    GuardVerdict verdict = guard.ok() ? JudgeSide(*guard, state.service(), figures.side, figures.others,
                                                  over && judge && figures.data_planes > 0)
                                      : GuardVerdict{true, std::string(guard.status().message()), false};
    if (verdict.broken) {
      CanaryMove move = absl::StrCat("reverted: ", verdict.text);
      canary->revision = revision;
      End(v1::CanaryState::REVERTED, 0, std::move(verdict.text), now, &state);
      AddEvent(move, revision, now, &state);
      return move;
    }
    if (over && (!judge || figures.data_planes == 0)) return std::nullopt;
    seen = std::move(verdict.text);
  }
  if (!over) return std::nullopt;
  if (!IsLast(route, state.step())) return TakeStep(route, state.step() + 1, seen, revision, now, canary);
  canary->revision = revision;
  End(v1::CanaryState::COMPLETE, state.percent(),
      seen.empty() ? "the last step was taken" : absl::StrCat("its guard held: ", seen), now, &state);
  AddEvent(absl::StrCat("complete", seen.empty() ? "" : "; the guard ", seen), revision, now, &state);
  return absl::StrCat("complete, ", state.percent(), " %");
}

absl::StatusOr<CanaryMove> DecideCanary(const v1::Route& route, v1::DecideCanaryRequest::Decision decision,
                                        const std::string& actor, uint64_t revision, absl::Time now,
                                        StoredCanary* canary) {
  v1::CanaryState& state = canary->state;
  const bool walks = state.phase() == v1::CanaryState::WALKING, paused = state.phase() == v1::CanaryState::PAUSED;
  const bool complete = state.phase() == v1::CanaryState::COMPLETE;
  const auto not_now = [&](absl::string_view expected) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the canary of Route/", route.name(), " is ", absl::AsciiStrToLower(v1::CanaryState::Phase_Name(state.phase())),
        " at ", state.percent(), " %; ", expected, "; nothing was changed"));
  };
  std::string done;
  switch (decision) {
    case v1::DecideCanaryRequest::PAUSE:
      if (!walks) return not_now("only one that walks is paused");
      state.set_phase(v1::CanaryState::PAUSED);
      state.clear_next_step();
      done = "paused";
      break;
    case v1::DecideCanaryRequest::RESUME:
      if (!paused) return not_now("only one that is paused is resumed");
      state.set_phase(v1::CanaryState::WALKING);
      StartClock(route, now, &state);
      done = "resumed";
      break;
    case v1::DecideCanaryRequest::ABORT:
      if (!walks && !paused && !complete) return not_now("there is nothing to abort");
      End(v1::CanaryState::ABORTED, 0, absl::StrCat("by '", actor, "'"), now, &state);
      done = "aborted";
      break;
    case v1::DecideCanaryRequest::RESTART: {
      const CanaryMove step = TakeStep(route, 0, "", revision, now, canary);
      state.mutable_events(0)->set_what(absl::StrCat("restarted by '", actor, "': ", state.events(0).what()));
      return absl::StrCat("restarted, ", step);
    }
    case v1::DecideCanaryRequest::COMPLETE:
      if (!walks && !paused && (!complete || state.percent() == 100)) {
        return not_now(complete ? "there is nothing to complete" : "restart it first");
      }
      End(v1::CanaryState::COMPLETE, 100, absl::StrCat("by '", actor, "'"), now, &state);
      done = "completed";
      break;
    default:
      return absl::InvalidArgumentError("decision: expected PAUSE, RESUME, ABORT, RESTART or COMPLETE");
  }
  canary->revision = revision;
  AddEvent(absl::StrCat(done, " by '", actor, "'"), revision, now, &state);
  return absl::StrCat(done, ", ", state.percent(), " %");
}

CanarySet CanariesOf(const ResourceSet& resources, const CanarySet& stored, absl::Time now) {
  CanarySet all;
  for (auto it = resources.lower_bound({"Route", ""}); it != resources.end() && it->first.kind == "Route"; ++it) {
    const v1::Route* route = WithCanary(it->second.resource.get());
    if (route == nullptr) continue;
    const auto found = stored.find(route->name());
    const bool known = found != stored.end() && found->second.shape == ShapeOf(*route);
    all[route->name()] = known ? found->second : BeginCanary(*route, it->second.revision, now);
  }
  return all;
}

CanarySet NextCanaries(const CanarySet& current, const CanarySet* base, const CanarySet* moved,
                       std::span<const Edit> edits, uint64_t revision, absl::Time now) {
  CanarySet next = current;
  for (const Edit& edit : edits) {
    if (edit.key.kind != "Route") continue;
    const std::string& name = edit.key.name;
    const v1::Route* route = WithCanary(edit.resource.get());
    if (route == nullptr) {
      next.erase(name);
      continue;
    }
    if (moved != nullptr && moved->contains(name)) {
      next[name] = moved->at(name);
      continue;
    }
    const StoredCanary* before = nullptr;
    for (const CanarySet* set : {&current, base}) {  // what is taken back goes before what is there
      if (set == nullptr) continue;
      const auto found = set->find(name);
      if (found != set->end() && found->second.shape == ShapeOf(*route)) before = &found->second;
    }
    StoredCanary canary = before != nullptr ? *before : BeginCanary(*route, revision, now);
    if (before != nullptr) RestartStep(*route, revision, now, &canary);
    next[name] = std::move(canary);
  }
  return next;
}

CanaryEdits EditsOf(const CanarySet& next, std::span<const Edit> edits) {
  CanaryEdits result;
  for (const Edit& edit : edits) {
    if (edit.key.kind != "Route") continue;
    const auto found = next.find(edit.key.name);
    if (found != next.end()) {
      result.put.insert(*found);
    } else {
      result.removed.push_back(edit.key.name);
    }
  }
  return result;
}

v1::CanaryState ShownState(const v1::CanaryState& state, const v1::PendingChange* pending, absl::Time now) {
  v1::CanaryState shown = state;
  if (HasEnded(state)) return shown;
  if (pending != nullptr) {
    shown.clear_next_step();
    shown.set_reason(absl::StrCat("waits: ", DescribeUnderWay(*pending)));
  } else if (state.has_next_step() && now > TimeOf(state.next_step()) + kReportsOverdue) {
    shown.clear_next_step();
    shown.set_reason("waits: no data plane reports the requests of this step");
  }
  return shown;
}

void ReplaceCanary(const CanarySet& canaries, v1::Resource* resource) {
  if (WithCanary(resource) == nullptr) return;
  const auto found = canaries.find(resource->route().name());
  *resource->mutable_route() =
      ServedRoute(resource->route(), found == canaries.end() ? 0 : found->second.state.percent());
}

std::vector<std::string> WatchedSides(const ResourceSet& resources, const CanarySet& canaries) {
  std::vector<std::string> watched;
  for (const auto& [name, canary] : canaries) {
    const auto found = resources.find({"Route", name});
    if (found == resources.end() || WithCanary(found->second.resource.get()) == nullptr) continue;
    const v1::Route& route = found->second.resource->route();
    if (!route.canary().guard().empty() && IsWatched(route, canary.state)) {
      watched.push_back(absl::StrCat(name, kSidesSuffix));
    }
  }
  return watched;
}

}  // namespace gateway::controlplane
