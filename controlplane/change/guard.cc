#include "controlplane/change/guard.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/units.h"

namespace gateway::controlplane {
namespace {

constexpr size_t kDataPlanesTold = 5;  // in a verdict

struct MetricInfo {
  absl::string_view name;
  Guard::Metric metric;
  double quantile;  // of a latency
};
constexpr MetricInfo kMetrics[] = {{"error_rate", Guard::Metric::kErrorRate, 0},
                                   {"p50", Guard::Metric::kP50, 0.5},
                                   {"p90", Guard::Metric::kP90, 0.9},
                                   {"p99", Guard::Metric::kP99, 0.99}};
constexpr absl::string_view kParts = "error_rate, p50, p90 or p99 with < or <=, requests>N, or for=DURATION";

const MetricInfo& InfoOf(Guard::Metric metric) {
  return *std::find_if(std::begin(kMetrics), std::end(kMetrics),
                       [metric](const MetricInfo& each) { return each.metric == metric; });
}

absl::Status Wrong(absl::string_view part, absl::string_view expected) {
  return absl::InvalidArgumentError(absl::StrCat("guard: '", part, "': expected ", expected));
}

absl::StatusOr<absl::Duration> DurationOf(absl::string_view text) {
  absl::StatusOr<google::protobuf::Duration> parsed = ParseDuration({text.data(), text.size()});
  if (!parsed.ok()) return parsed.status();
  return absl::Seconds(parsed->seconds()) + absl::Nanoseconds(parsed->nanos());
}

absl::Status ParseWindow(absl::string_view part, absl::string_view value, Guard* guard) {
  const absl::StatusOr<absl::Duration> window = DurationOf(value);
  if (!window.ok() || *window < kGuardWindowMin || *window > kGuardWindowMax) {
    return Wrong(part, "for= with a duration of 1s to 24h, such as for=60s");
  }
  guard->window = *window;
  return absl::OkStatus();
}

absl::Status ParseCondition(absl::string_view part, absl::string_view name, bool or_equal, absl::string_view value,
                            Guard* guard) {
  const auto* known = std::find_if(std::begin(kMetrics), std::end(kMetrics),
                                   [name](const MetricInfo& each) { return each.name == name; });
  if (known == std::end(kMetrics)) return Wrong(part, kParts);
  for (const Guard::Condition& other : guard->conditions) {
    if (other.metric == known->metric) return Wrong(part, absl::StrCat(name, " once"));
  }
  Guard::Condition condition{known->metric, or_equal, 0, std::string(value)};
  if (known->metric == Guard::Metric::kErrorRate) {
    if (!absl::ConsumeSuffix(&value, "%") || !absl::SimpleAtod(value, &condition.bound) ||
        !(condition.bound >= 0 && condition.bound <= 100)) {
      return Wrong(part, "a percentage of 0% to 100%, such as error_rate<1%");
    }
  } else {
    const absl::StatusOr<absl::Duration> bound = DurationOf(value);
    if (!bound.ok() || *bound <= absl::ZeroDuration()) {
      return Wrong(part, absl::StrCat("a duration above 0, such as ", name, "<250ms"));
    }
    condition.bound = absl::ToDoubleNanoseconds(*bound);
  }
  guard->conditions.push_back(std::move(condition));
  return absl::OkStatus();
}

double ValueOf(Guard::Metric metric, const RouteFigures& figures) {
  if (metric != Guard::Metric::kErrorRate) return LatencyQuantile(figures.latency, InfoOf(metric).quantile);
  if (figures.requests == 0) return 0;
  return 100.0 * static_cast<double>(figures.errors) / static_cast<double>(figures.requests);
}

std::string ValueText(Guard::Metric metric, double value) {
  if (metric == Guard::Metric::kErrorRate) return absl::StrFormat("%.3g %%", value);
  return value < 1e9 ? absl::StrFormat("%.3g ms", value / 1e6) : absl::StrFormat("%.3g s", value / 1e9);
}

std::string BoundText(const Guard::Condition& condition) {
  absl::string_view text = condition.bound_text;
  const bool percent = absl::ConsumeSuffix(&text, "%");
  return absl::StrCat(condition.or_equal ? "at most " : "below ", text, percent ? " %" : "");  // as figures are written
}

bool Holds(const Guard::Condition& condition, double value) {
  return condition.or_equal ? value <= condition.bound : value < condition.bound;
}

// "route orders, data planes dp-1, dp-2 (without the change: 0.2 %)".
std::string Where(const Guard::Condition& condition, const std::string& route, const GuardFigures& figures) {
  std::vector<std::string> names;
  for (const auto& [name, each] : figures.with.at(route)) {
    if (each.requests > 0 && !Holds(condition, ValueOf(condition.metric, each))) names.push_back(name);
  }
  const size_t count = names.size();
  if (count > kDataPlanesTold) names.resize(kDataPlanesTold);
  std::string text = absl::StrCat("route ", route, ", data plane", count == 1 ? " " : "s ", absl::StrJoin(names, ", "),
                                  count > names.size() ? absl::StrCat(" and ", count - names.size(), " more") : "");
  const auto without = figures.without.find(route);
  if (without != figures.without.end() && without->second.requests > 0) {
    absl::StrAppend(
        &text, " (without the change: ", ValueText(condition.metric, ValueOf(condition.metric, without->second)), ")");
  }
  return text;
}

}  // namespace

absl::StatusOr<Guard> ParseGuard(std::string_view text) {
  if (text.size() > kGuardBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("guard: ", text.size(), " bytes; expected at most ", kGuardBytesMax));
  }
  const absl::string_view whole(text.data(), text.size());
  Guard guard;
  bool has_window = false;
  for (absl::string_view part : absl::StrSplit(whole, ',')) {
    part = absl::StripAsciiWhitespace(part);
    const size_t end = part.find_first_of("<>=");
    if (end == absl::string_view::npos) return Wrong(part, kParts);
    const absl::string_view name = absl::StripTrailingAsciiWhitespace(part.substr(0, end));
    absl::string_view rest = part.substr(end);
    const bool below = absl::ConsumePrefix(&rest, "<");
    const bool above = !below && absl::ConsumePrefix(&rest, ">");
    const bool equal = absl::ConsumePrefix(&rest, "=");
    rest = absl::StripAsciiWhitespace(rest);
    absl::Status status;
    if (name == "for") {
      if (below || above || has_window) return Wrong(part, "for=DURATION, once");
      has_window = true;
      status = ParseWindow(part, rest, &guard);
    } else if (name == "requests") {
      if (!above || equal || guard.wants_requests || !absl::SimpleAtoi(rest, &guard.requests_above)) {
        return Wrong(part, "requests>N, once");
      }
      guard.wants_requests = true;
    } else if (!below) {
      return Wrong(part, kParts);
    } else {
      status = ParseCondition(part, name, equal, rest, &guard);
    }
    if (!status.ok()) return status;
  }
  if (guard.conditions.empty() && !guard.wants_requests) {
    return Wrong(whole, "at least one condition, such as error_rate<1%");
  }
  return guard;
}

void RouteFigures::Add(const v1::RouteReport& report) {
  requests += report.requests();
  errors += report.errors();
  const int buckets = std::min(report.latency_size(), static_cast<int>(kLatencyBuckets));
  for (int i = 0; i < buckets; ++i) latency[static_cast<size_t>(i)] += report.latency(i);
}

void RouteFigures::Add(const RouteFigures& other) {
  requests += other.requests;
  errors += other.errors;
  for (size_t i = 0; i < kLatencyBuckets; ++i) latency[i] += other.latency[i];
}

void AddReport(const v1::Report& report, const std::string& data_plane, uint64_t revision, GuardFigures* figures) {
  for (const v1::RouteReport& route : report.routes()) {
    RouteFigures& into =
        route.revision() >= revision ? figures->with[route.route()][data_plane] : figures->without[route.route()];
    into.Add(route);
  }
}

GuardVerdict JudgeGuard(const Guard& guard, const GuardFigures& figures, bool over) {
  RouteFigures all;
  std::map<std::string, RouteFigures> by_route;
  for (const auto& [route, data_planes] : figures.with) {
    RouteFigures& total = by_route[route];
    for (const auto& [name, each] : data_planes) total.Add(each);
    all.Add(total);
  }
  const bool enough = !guard.wants_requests || all.requests > guard.requests_above;
  if (!over && !enough) return {};
  for (const auto& [route, total] : by_route) {
    if (total.requests == 0 || (!over && total.requests < kEarlyRequestsMin)) continue;
    for (const Guard::Condition& condition : guard.conditions) {
      const double value = ValueOf(condition.metric, total);
      if (Holds(condition, value)) continue;
      return {true, absl::StrCat(InfoOf(condition.metric).name, " ", ValueText(condition.metric, value), " is not ",
                                 BoundText(condition), " on ", Where(condition, route, figures))};
    }
  }
  if (!over) return {};
  if (!enough) {
    return {true, absl::StrCat("requests ", all.requests, " is not above ", guard.requests_above, " within ",
                               absl::FormatDuration(guard.window))};
  }
  if (all.requests == 0) return {false, "saw no requests on the routes of the change", true};
  std::vector<std::string> seen;
  for (const Guard::Condition& condition : guard.conditions) {
    seen.push_back(
        absl::StrCat(InfoOf(condition.metric).name, " ", ValueText(condition.metric, ValueOf(condition.metric, all))));
  }
  return {false, absl::StrCat("saw ", all.requests, all.requests == 1 ? " request" : " requests",
                              seen.empty() ? "" : ": ", absl::StrJoin(seen, ", "))};
}

}  // namespace gateway::controlplane
