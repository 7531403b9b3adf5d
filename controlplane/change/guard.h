// What a change must not do to the requests of the routes that it concerns: parsed, and judged by what data planes see.
#ifndef GATEWAY_CONTROLPLANE_CHANGE_GUARD_H_
#define GATEWAY_CONTROLPLANE_CHANGE_GUARD_H_

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/latency_buckets.h"
#include "gateway/v1/config_stream.pb.h"

namespace gateway::controlplane {

inline constexpr size_t kGuardBytesMax = 256;
inline constexpr absl::Duration kGuardWindowDefault = absl::Seconds(60);
inline constexpr absl::Duration kGuardWindowMin = absl::Seconds(1);
inline constexpr absl::Duration kGuardWindowMax = absl::Hours(24);
// Before the window is over, fewer requests than these decide nothing: the first one that fails is 100 % of all.
inline constexpr uint64_t kEarlyRequestsMin = 20;

// "error_rate<1%,p99<250ms,requests>100,for=60s".
struct Guard {
  enum class Metric { kErrorRate, kP50, kP90, kP99 };
  struct Condition {
    Metric metric = Metric::kErrorRate;
    bool or_equal = false;   // <=
    double bound = 0;        // percent, or nanoseconds
    std::string bound_text;  // as written: "1%", "250ms"
  };
  std::vector<Condition> conditions;  // at most one of each metric
  bool wants_requests = false;
  uint64_t requests_above = 0;  // with wants_requests: of all routes and data planes together
  absl::Duration window = kGuardWindowDefault;
};

// InvalidArgument names the part that is wrong and what was expected.
absl::StatusOr<Guard> ParseGuard(std::string_view text);

// Requests of one route.
struct RouteFigures {
  uint64_t requests = 0;
  uint64_t errors = 0;
  std::array<uint64_t, kLatencyBuckets> latency{};

  void Add(const v1::RouteReport& report);
  void Add(const RouteFigures& other);
};

// What is known of a change: with it, by route and data plane; of the data planes without it, by route.
struct GuardFigures {
  std::map<std::string, std::map<std::string, RouteFigures>> with;
  std::map<std::string, RouteFigures> without;
};

// Adds the figures of one data plane: of `revision` and later ones to those with the change, of earlier ones to those
// without it.
void AddReport(const v1::Report& report, const std::string& data_plane, uint64_t revision, GuardFigures* figures);

struct GuardVerdict {
  bool broken = false;
  // Broken: "error_rate 4.1 % is not below 1 % on route orders, data planes dp-1, dp-2 (without the change: 0.2 %)".
  // Else, once the window is over: what was seen ("saw 1234 requests: error_rate 0.1 %"). Else empty.
  std::string text;
  bool unseen = false;  // the window is over, and there were no requests
};

// `over`: the window is, so what there is decides. Before, only what breaks a condition by enough requests does.
GuardVerdict JudgeGuard(const Guard& guard, const GuardFigures& figures, bool over);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_CHANGE_GUARD_H_
