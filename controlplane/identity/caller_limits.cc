#include "controlplane/identity/caller_limits.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace gateway::controlplane {

void CallerLimits::Forget(absl::Time now) {
  const absl::Duration refill = absl::Seconds(rates_.burst / rates_.calls_per_second);  // full again
  std::erase_if(callers_,
                [&](const auto& each) { return each.second.running == 0 && now - each.second.filled_at >= refill; });
}

absl::StatusOr<CallerLimits::Slot> CallerLimits::Admit(const std::string& caller, absl::Time now) {
  std::lock_guard lock(mu_);
  if (callers_.size() >= kCallersMax && !callers_.contains(caller)) {
    Forget(now);
    if (callers_.size() >= kCallersMax) {
      return absl::ResourceExhaustedError(absl::StrCat("there are calls of ", kCallersMax, " callers already"));
    }
  }
  State& state = callers_.try_emplace(caller, State{rates_.burst, now, 0}).first->second;
  state.room =
      std::min(rates_.burst, state.room + absl::ToDoubleSeconds(now - state.filled_at) * rates_.calls_per_second);
  state.filled_at = now;
  if (state.running >= rates_.concurrent) {
    return absl::ResourceExhaustedError(
        absl::StrCat("'", caller, "' has ", rates_.concurrent, " calls running; wait for one to end"));
  }
  if (state.room < 1) {
    return absl::ResourceExhaustedError(
        absl::StrCat("'", caller, "' makes more than ", rates_.calls_per_second, " calls a second"));
  }
  state.room -= 1;
  ++state.running;
  return Slot(nullptr, [this, caller](void*) {
    std::lock_guard release(mu_);
    --callers_.at(caller).running;  // it is remembered while calls run
  });
}

}  // namespace gateway::controlplane
