#include "controlplane/identity/caller_limits.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace gateway::controlplane {
namespace {

// A bucket that is not used is full again after this.
const absl::Duration kRefill = absl::Seconds(CallerLimits::kBurst / CallerLimits::kCallsPerSecond);

}  // namespace

void CallerLimits::Forget(absl::Time now) {
  std::erase_if(callers_,
                [now](const auto& each) { return each.second.running == 0 && now - each.second.filled_at >= kRefill; });
}

absl::StatusOr<CallerLimits::Slot> CallerLimits::Admit(const std::string& caller, absl::Time now) {
  std::lock_guard lock(mu_);
  if (callers_.size() >= kCallersMax && !callers_.contains(caller)) {
    Forget(now);
    if (callers_.size() >= kCallersMax) {
      return absl::ResourceExhaustedError(absl::StrCat("there are calls of ", kCallersMax, " callers already"));
    }
  }
  State& state = callers_.try_emplace(caller, State{kBurst, now, 0}).first->second;
  state.room = std::min(kBurst, state.room + absl::ToDoubleSeconds(now - state.filled_at) * kCallsPerSecond);
  state.filled_at = now;
  if (state.running >= kConcurrentMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("'", caller, "' has ", kConcurrentMax, " calls running; wait for one to end"));
  }
  if (state.room < 1) {
    return absl::ResourceExhaustedError(
        absl::StrCat("'", caller, "' makes more than ", kCallsPerSecond, " calls a second"));
  }
  state.room -= 1;
  ++state.running;
  return Slot(nullptr, [this, caller](void*) {
    std::lock_guard release(mu_);
    --callers_.at(caller).running;  // it is remembered while calls run
  });
}

}  // namespace gateway::controlplane
