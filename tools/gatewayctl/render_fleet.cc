// Data planes: who serves what, their breakers and limits.
#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tools/gatewayctl/format.h"
#include "tools/gatewayctl/render_text.h"
#include "tools/gatewayctl/requirement.h"

namespace gateway::ctl {
namespace {

std::string StateOf(const v1::DataPlaneState& plane) {
  if (!plane.connected()) return plane.lost() ? "lost" : "gone";
  if (!plane.rivals().empty()) return "contended";
  if (!plane.held().empty()) return "held";
  std::string state = plane.rejections().empty() ? "connected" : absl::StrCat("rejected ", plane.rejected_revision());
  // Not drained yet, or not undrained yet: until its next report.
  if (plane.has_drain() || plane.drained()) {
    absl::StrAppend(&state, plane.has_drain() && plane.drained() ? ", drained"
                            : plane.has_drain()                  ? ", to be drained"
                                                                 : ", to be undrained");
  }
  if (plane.staged()) absl::StrAppend(&state, ", staged");
  if (plane.log_level() == v1::LoggingSection::LEVEL_UNSPECIFIED) return state;
  return absl::StrCat(state, ", log ", Lower(v1::LoggingSection::Level_Name(plane.log_level())));
}

// "10.0.0.7:8080, version 0.2.0"
std::string RivalText(const v1::Rival& rival) {
  return Printable(absl::StrCat(rival.address(), ", version ", rival.version()));
}

// "Route/orders: match.path.regex: too long"
std::string RejectionText(const v1::Rejection& rejection) {
  std::vector<std::string> parts;
  if (!rejection.kind().empty()) parts.push_back(absl::StrCat(rejection.kind(), "/", rejection.name()));
  if (!rejection.field().empty()) parts.push_back(rejection.field());
  parts.push_back(rejection.reason());
  return Printable(absl::StrJoin(parts, ": "));
}

}  // namespace

std::string RenderDataPlanes(const v1::ListDataPlanesResponse& state, absl::Time now) {
  Table table({"NAME", "ADDRESS", "ZONE", "STATE", "SINCE", "REVISION", "ENDPOINTS", "WORKERS", "VERSION"});
  for (const v1::DataPlaneState& plane : state.data_planes()) {
    table.AddRow({plane.name(), plane.address(), plane.zone(), StateOf(plane), FormatAge(plane.since(), now),
                  absl::StrCat(plane.applied_revision(), "/",
                               plane.wanted_revision() == 0 ? state.revision() : plane.wanted_revision()),
                  absl::StrCat(plane.applied_endpoints_version()), absl::StrCat(plane.workers()), plane.version()});
  }
  std::string text = table.ToString();
  if (state.has_change())
    absl::StrAppend(&text, "revision ", state.change().revision(), " is ", Printable(PendingChangeText(state.change())),
                    "\n");
  for (const v1::DataPlaneState& plane : state.data_planes()) {
    for (const v1::Rejection& rejection : plane.rejections()) {
      absl::StrAppend(&text, Printable(plane.name()), " rejected revision ", plane.rejected_revision(), ": ",
                      RejectionText(rejection), "\n");
    }
    for (const v1::Rival& rival : plane.rivals()) {
      absl::StrAppend(&text, Printable(plane.name()), ": another instance claims this name and is refused (",
                      RivalText(rival), "; last try ", FormatAge(rival.last_seen(), now), " ago)\n");
    }
    if (plane.has_drain()) {
      const v1::DataPlaneDrain& drain = plane.drain();
      absl::StrAppend(&text, Printable(plane.name()), ": drained by ", Printable(drain.actor()), " ",
                      FormatAge(drain.since(), now), " ago",
                      drain.comment().empty() ? "" : absl::StrCat(" (", Printable(drain.comment()), ")"),
                      "; take it back with gatewayctl undrain\n");
    }
    if (!plane.held().empty()) {
      absl::StrAppend(&text, Printable(plane.name()), " is sent nothing: ", Printable(plane.held()),
                      "; see gatewayctl accept-history --help\n");
    }
  }
  return text;
}

std::string NamesText(const google::protobuf::RepeatedPtrField<std::string>& names, size_t count) {
  constexpr int kNamed = 5;
  std::string text;
  for (int i = 0; i < std::min(kNamed, names.size()); ++i) {
    absl::StrAppend(&text, i == 0 ? "" : ", ", Printable(names[i]));
  }
  const auto total = std::max<size_t>(count, names.size());
  if (total > kNamed) absl::StrAppend(&text, " and ", total - kNamed, " more");
  return text;
}

std::string RolloutLine(const v1::RolloutResponse& rollout) {
  return absl::StrCat(
      "revision ", rollout.revision(),
      rollout.has_change() ? absl::StrCat(", ", Printable(PendingChangeText(rollout.change())), ",") : "",
      " serving on ", rollout.serving(), "/", rollout.data_planes(), " data planes (", rollout.workers_serving(),
      " workers)",
      rollout.done() && rollout.has_elapsed() ? absl::StrCat(" in ", FormatElapsed(rollout.elapsed())) : "",
      rollout.lost().empty() ? ""
                             : absl::StrCat("; ", LostCount(rollout),
                                            " lost and not counted: ", NamesText(rollout.lost(), LostCount(rollout))));
}

std::string RenderPending(const v1::RolloutResponse& rollout) {
  constexpr int kTold = 5;
  std::string text;
  int told = 0;
  for (const v1::DataPlaneState& plane : rollout.pending()) {
    const std::string name = Printable(plane.name());
    if (told++ == kTold) break;
    // A rejection of an older revision says nothing of this one.
    if (plane.rejected_revision() >= rollout.revision() && !plane.rejections().empty()) {
      for (const v1::Rejection& rejection : plane.rejections()) {
        absl::StrAppend(&text, "  ", name, " rejected it: ", RejectionText(rejection), "\n");
      }
    } else if (!plane.connected()) {
      absl::StrAppend(&text, "  ", name, " is not connected, and expected back\n");
    } else if (!plane.rivals().empty()) {
      absl::StrAppend(&text, "  ", name, " is claimed by two instances: ", Printable(plane.address()), " and ",
                      RivalText(plane.rivals(0)), "\n");
    } else if (!plane.held().empty()) {
      absl::StrAppend(&text, "  ", name, " is sent nothing: ", Printable(plane.held()), "\n");
    } else if (plane.applied_revision() == 0) {
      absl::StrAppend(&text, "  ", name, " serves nothing yet\n");
    } else {
      absl::StrAppend(&text, "  ", name, " serves revision ", plane.applied_revision(), "\n");
    }
  }
  const uint32_t pending = std::max<uint32_t>(rollout.data_planes() - rollout.serving(), rollout.pending_size());
  if (pending > kTold) absl::StrAppend(&text, "  and ", pending - kTold, " more; see gatewayctl dataplanes\n");
  return text;
}

std::string RenderBreakers(const v1::ListBreakersResponse& breakers, absl::Time now) {
  Table table({"SERVICE", "DATA PLANE", "BREAKER", "STATE", "NEXT PROBE", "IN FLIGHT", "REQUESTS", "FAILURES", "SLOW",
               "OPENED", "OPENED BY", "AS OF"});
  for (const v1::DataPlaneBreaker& row : breakers.breakers()) {
    const v1::BreakerReport& breaker = row.breaker();
    std::string next_probe;
    if (breaker.has_next_probe()) {
      // It was said at the time of the report.
      const absl::Duration told =
          absl::Seconds(breaker.next_probe().seconds()) + absl::Nanoseconds(breaker.next_probe().nanos());
      const absl::Duration age = now - absl::FromUnixSeconds(row.reported_at().seconds());
      const absl::Duration left = row.has_reported_at() ? told - age : told;
      next_probe = left <= absl::ZeroDuration() ? "due" : absl::StrCat("in ", absl::ToInt64Seconds(left) + 1, "s");
    }
    std::string opened_by;
    if (breaker.opening_requests() > 0) {
      opened_by = absl::StrCat(breaker.opening_failures(), " of ", breaker.opening_requests(), " failed",
                               breaker.opening_slow() > 0 ? absl::StrCat(", ", breaker.opening_slow(), " slow") : "");
    }
    const std::string age = FormatAge(row.reported_at(), now);
    table.AddRow(
        {breaker.service(), row.data_plane(), breaker.breaker(),
         absl::StrCat(Lower(v1::BreakerReport::State_Name(breaker.state())), breaker.forced() ? " (forced)" : ""),
         next_probe, absl::StrCat(breaker.in_flight()), absl::StrCat(breaker.requests()),
         absl::StrCat(breaker.failures()), absl::StrCat(breaker.slow()), absl::StrCat(breaker.opened()), opened_by,
         age.empty() ? "" : absl::StrCat(age, " ago")});
  }
  return table.ToString();
}

std::string RenderLimits(const v1::ListLimitsResponse& limits) {
  struct Total {
    uint64_t planes = 0, keys = 0, allowed = 0, refused = 0, overflowed = 0;
  };
  std::map<std::string, Total> totals;
  Table table({"LIMIT", "DATA PLANE", "KEYS", "ALLOWED", "REFUSED", "OVERFLOWED", "STATE"});
  for (const v1::DataPlaneLimit& row : limits.limits()) {
    const v1::LimitReport& limit = row.limit();
    table.AddRow({limit.name(), row.data_plane(), absl::StrCat(limit.keys()), absl::StrCat(limit.allowed()),
                  absl::StrCat(limit.refused()), absl::StrCat(limit.overflowed()),
                  limit.unavailable() ? "unavailable" : "ok"});
    Total& total = totals[limit.name()];
    ++total.planes;
    total.keys += limit.keys();
    total.allowed += limit.allowed();
    total.refused += limit.refused();
    total.overflowed += limit.overflowed();
  }
  // Of limits that more than one data plane counts.
  for (const auto& [name, total] : totals) {
    if (total.planes < 2) continue;
    table.AddRow({name, absl::StrCat("all ", total.planes), absl::StrCat(total.keys), absl::StrCat(total.allowed),
                  absl::StrCat(total.refused), absl::StrCat(total.overflowed), ""});
  }
  return table.ToString();
}

}  // namespace gateway::ctl
