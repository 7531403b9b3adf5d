#include "common/policy/kinds/canary.h"

#include <algorithm>
#include <cmath>

#include "absl/status/statusor.h"
#include "absl/strings/strip.h"
#include "common/base/quote.h"
#include "common/base/units.h"
#include "common/policy/guard.h"

namespace gateway {
namespace {

uint32_t WeightOf(const v1::WeightedService& side) { return side.has_weight() ? side.weight() : 1; }

}  // namespace

const std::string& CanaryServiceOf(const v1::Route& route) {
  const std::string& named = route.canary().service();
  return named.empty() ? route.split(route.split_size() - 1).service() : named;
}

std::chrono::milliseconds CanaryEveryOf(const v1::Route& route) {
  return route.canary().has_every() ? ToMillis(route.canary().every()) : kCanaryEveryDefault;
}

void CheckCanary(const Report& report, const v1::Route& route) {
  const v1::Canary& canary = route.canary();
  if (route.split_size() < 2) {
    report.Add("canary", "needs a split with at least two sides");
  } else {
    const std::string& service = CanaryServiceOf(route);
    const bool is_side = std::any_of(route.split().begin(), route.split().end(),
                                     [&service](const auto& side) { return side.service() == service; });
    if (!is_side) {
      report.Add("canary.service", fmt::format("{} is not a side of the split", QuoteForMessage(service)));
    } else if (std::none_of(route.split().begin(), route.split().end(),
                            [&service](const auto& side) { return side.service() != service && WeightOf(side) > 0; })) {
      report.Add("split", fmt::format("has no weight above 0 beside {}, to which the canary moves the traffic",
                                      QuoteForMessage(service)));
    }
  }
  uint32_t before = 0;
  for (int i = 0; i < canary.steps_size(); ++i) {
    const uint32_t step = canary.steps(i);
    if (step < 1 || step > 100) {
      report.Add(At("canary.steps", i), fmt::format("is {}; expected 1 to 100 (percent)", step));
    } else if (step <= before) {
      report.Add(At("canary.steps", i), fmt::format("is {}; expected more than the step before it", step));
    }
    before = step;
  }
  if (!canary.guard().empty()) {
    const absl::StatusOr<Guard> guard = ParseGuard(canary.guard(), GuardWindow::kGiven);
    if (!guard.ok()) {
      absl::string_view why = guard.status().message();
      absl::ConsumePrefix(&why, "guard: ");
      report.Add("canary.guard", std::string(why));
    }
  }
}

v1::Route ServedRoute(const v1::Route& route, uint32_t percent) {
  v1::Route served = route;
  served.clear_canary();
  const std::string& service = CanaryServiceOf(route);
  double sum = 0;  // of the other sides
  int others = 0;  // that have any weight
  for (const v1::WeightedService& side : route.split()) {
    if (side.service() == service || WeightOf(side) == 0) continue;
    sum += WeightOf(side);
    ++others;
  }
  // Between two sides the weights are the percentages; else in thousandths of a percent, below the largest weight.
  const double unit = others == 1 ? 1 : 1'000;
  for (v1::WeightedService& side : *served.mutable_split()) {
    const double share = side.service() == service ? percent : (100.0 - percent) * WeightOf(side) / sum;
    // What has any share keeps it.
    const double least = share > 0 ? 1 : 0;
    side.set_weight(static_cast<uint32_t>(std::max(least, std::round(share * unit))));
  }
  return served;
}

}  // namespace gateway
