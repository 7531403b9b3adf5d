// The canary of a route.
#include <algorithm>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/units.h"
#include "common/policy/kinds/canary.h"
#include "tools/gatewayctl/format.h"
#include "tools/gatewayctl/render_text.h"
#include "tools/gatewayctl/table.h"

namespace gateway::ctl {
namespace {

absl::Time TimeOf(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

}  // namespace

std::string CanaryPhase(const v1::CanaryState& state) {
  return absl::AsciiStrToLower(v1::CanaryState::Phase_Name(state.phase()));
}

std::string CanaryText(const v1::StoredResource& stored, absl::Time now) {
  const v1::CanaryState& state = stored.canary();
  const int steps = stored.resource().route().canary().steps_size();
  std::string text = absl::StrCat(state.percent(), "% to ", Printable(state.service()), ", ", CanaryPhase(state));
  const bool has_ended = state.phase() != v1::CanaryState::WALKING && state.phase() != v1::CanaryState::PAUSED;
  if (!has_ended) {
    absl::StrAppend(&text, " at step ", state.step() + 1, " of ", steps, " since ", FormatTime(state.since()));
    if (state.has_next_step()) {
      const absl::Duration left = std::max(TimeOf(state.next_step()) - now, absl::ZeroDuration());
      absl::StrAppend(&text, "; the next in ", absl::FormatDuration(absl::Trunc(left, absl::Seconds(1))));
    }
  } else {
    absl::StrAppend(&text, " since ", FormatTime(state.since()));
  }
  if (!state.reason().empty()) absl::StrAppend(&text, has_ended ? ": " : "; ", Printable(state.reason()));
  return text;
}

v1::Route ServedNow(const v1::StoredResource& stored) {
  const v1::Route& route = stored.resource().route();
  return stored.has_canary() ? ServedRoute(route, stored.canary().percent()) : route;
}

std::string CanaryEvents(const v1::CanaryState& state, absl::Time now) {
  Table table({"AGE", "REVISION", "PERCENT", "WHAT"});
  for (const v1::CanaryEvent& event : state.events()) {
    table.AddRow({FormatAge(event.at(), now), absl::StrCat(event.revision()), absl::StrCat(event.percent(), "%"),
                  Printable(event.what())});
  }
  return table.ToString();
}

std::string RenderCanary(const v1::StoredResource& stored, absl::Time now) {
  const v1::Canary& canary = stored.resource().route().canary();
  std::string out =
      absl::StrCat(CanaryText(stored, now), "\n", "steps: ", absl::StrJoin(canary.steps(), ", "), " %, each for ",
                   canary.has_every() ? FormatDuration(canary.every()) : "1m",
                   canary.guard().empty() ? "" : absl::StrCat("; guard: ", Printable(canary.guard())), "\n");
  return absl::StrCat(out, CanaryEvents(stored.canary(), now));
}

}  // namespace gateway::ctl
