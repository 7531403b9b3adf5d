#include "controlplane/change/guard.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"

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

const MetricInfo& InfoOf(Guard::Metric metric) {
  return *std::find_if(std::begin(kMetrics), std::end(kMetrics),
                       [metric](const MetricInfo& each) { return each.metric == metric; });
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

template <typename Counts>
void AddCounts(const Counts& report, RouteFigures* figures) {
  figures->requests += report.requests();
  figures->errors += report.errors();
  const int buckets = std::min(report.latency_size(), static_cast<int>(kLatencyBuckets));
  for (int i = 0; i < buckets; ++i) figures->latency[static_cast<size_t>(i)] += report.latency(i);
}

// Whether `seen` breaks `condition`. Before the window is over, a few requests decide nothing.
bool Breaks(const Guard::Condition& condition, const RouteFigures& seen, bool over) {
  if (seen.requests == 0 || (!over && seen.requests < kEarlyRequestsMin)) return false;
  return !Holds(condition, ValueOf(condition.metric, seen));
}

std::string Counted(uint64_t requests) { return absl::StrCat(requests, requests == 1 ? " request" : " requests"); }

// "saw 1234 requests: error_rate 0.1 %".
std::string Seen(const Guard& guard, const RouteFigures& all) {
  std::vector<std::string> seen;
  for (const Guard::Condition& condition : guard.conditions) {
    seen.push_back(
        absl::StrCat(InfoOf(condition.metric).name, " ", ValueText(condition.metric, ValueOf(condition.metric, all))));
  }
  return absl::StrCat("saw ", Counted(all.requests), seen.empty() ? "" : ": ", absl::StrJoin(seen, ", "));
}

}  // namespace

void RouteFigures::Add(const v1::RouteReport& report) { AddCounts(report, this); }
void RouteFigures::Add(const v1::RouteServiceReport& report) { AddCounts(report, this); }

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
    for (const Guard::Condition& condition : guard.conditions) {
      if (!Breaks(condition, total, over)) continue;
      return {true, absl::StrCat(InfoOf(condition.metric).name, " ",
                                 ValueText(condition.metric, ValueOf(condition.metric, total)), " is not ",
                                 BoundText(condition), " on ", Where(condition, route, figures))};
    }
  }
  if (!over) return {};
  if (!enough) {
    return {true, absl::StrCat("requests ", all.requests, " is not above ", guard.requests_above, " within ",
                               absl::FormatDuration(guard.window))};
  }
  if (all.requests == 0) return {false, "saw no requests on the routes of the change", true};
  return {false, Seen(guard, all)};
}

GuardVerdict JudgeSide(const Guard& guard, const std::string& service, const RouteFigures& side,
                       const RouteFigures& others, bool over) {
  const bool enough = !guard.wants_requests || side.requests > guard.requests_above;
  if (!over && !enough) return {};
  for (const Guard::Condition& condition : guard.conditions) {
    if (!Breaks(condition, side, over)) continue;
    const auto value = [&condition](const RouteFigures& figures) {
      return ValueText(condition.metric, ValueOf(condition.metric, figures));
    };
    absl::string_view limit = condition.bound_text;
    const bool percent = absl::ConsumeSuffix(&limit, "%");
    return {true, absl::StrCat(InfoOf(condition.metric).name, " ", value(side), " of ", Counted(side.requests), " to ",
                               service, ", limit ", limit, percent ? " %" : "",
                               others.requests == 0 ? "" : absl::StrCat(" (other sides: ", value(others), ")"))};
  }
  if (!over) return {};
  if (!enough) {
    return {true, absl::StrCat(Counted(side.requests), " to ", service, " during the step, not above ",
                               guard.requests_above)};
  }
  if (side.requests == 0) return {false, absl::StrCat("saw no requests to ", service), true};
  return {false, Seen(guard, side)};
}

}  // namespace gateway::controlplane
