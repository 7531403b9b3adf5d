// What a change must not do to the requests of the routes that it concerns (common/policy/guard.h), judged by what data
// planes see.
#ifndef GATEWAY_CONTROLPLANE_CHANGE_GUARD_H_
#define GATEWAY_CONTROLPLANE_CHANGE_GUARD_H_

#include <array>
#include <cstdint>
#include <map>
#include <string>

#include "common/base/latency_buckets.h"
#include "common/policy/guard.h"
#include "gateway/v1/config_stream.pb.h"

namespace gateway::controlplane {

// Before the window is over, fewer requests than these decide nothing: the first one that fails is 100 % of all.
inline constexpr uint64_t kEarlyRequestsMin = 20;

// Requests of one route.
struct RouteFigures {
  uint64_t requests = 0;
  uint64_t errors = 0;
  std::array<uint64_t, kLatencyBuckets> latency{};

  void Add(const v1::RouteReport& report);
  void Add(const v1::RouteServiceReport& report);
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

// The same for one side of a split: "error_rate 7.1 % of 1204 requests to shop-v2, limit 1 % (other sides: 0.2 %)".
GuardVerdict JudgeSide(const Guard& guard, const std::string& service, const RouteFigures& side,
                       const RouteFigures& others, bool over);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_CHANGE_GUARD_H_
