#include "common/policy/guard.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/base/units.h"

namespace gateway {
namespace {

struct MetricName {
  absl::string_view name;
  Guard::Metric metric;
};
constexpr MetricName kMetrics[] = {{"error_rate", Guard::Metric::kErrorRate},
                                   {"p50", Guard::Metric::kP50},
                                   {"p90", Guard::Metric::kP90},
                                   {"p99", Guard::Metric::kP99}};
constexpr absl::string_view kParts = "error_rate, p50, p90 or p99 with < or <=, requests>N, or for=DURATION";
constexpr absl::string_view kPartsWithoutWindow = "error_rate, p50, p90 or p99 with < or <=, or requests>N";

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
                            absl::string_view parts, Guard* guard) {
  const auto* known = std::find_if(std::begin(kMetrics), std::end(kMetrics),
                                   [name](const MetricName& each) { return each.name == name; });
  if (known == std::end(kMetrics)) return Wrong(part, parts);
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

}  // namespace

absl::StatusOr<Guard> ParseGuard(std::string_view text, GuardWindow window) {
  const absl::string_view parts = window == GuardWindow::kAllowed ? kParts : kPartsWithoutWindow;
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
    if (end == absl::string_view::npos) return Wrong(part, parts);
    const absl::string_view name = absl::StripTrailingAsciiWhitespace(part.substr(0, end));
    absl::string_view rest = part.substr(end);
    const bool below = absl::ConsumePrefix(&rest, "<");
    const bool above = !below && absl::ConsumePrefix(&rest, ">");
    const bool equal = absl::ConsumePrefix(&rest, "=");
    rest = absl::StripAsciiWhitespace(rest);
    absl::Status status;
    if (name == "for" && window == GuardWindow::kGiven) return Wrong(part, parts);
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
      return Wrong(part, parts);
    } else {
      status = ParseCondition(part, name, equal, rest, parts, &guard);
    }
    if (!status.ok()) return status;
  }
  if (guard.conditions.empty() && !guard.wants_requests) {
    return Wrong(whole, "at least one condition, such as error_rate<1%");
  }
  return guard;
}

}  // namespace gateway
