// What must hold of requests: "error_rate<1%,p99<250ms,requests>100,for=60s". Of a change that is applied with it, and
// of each step of a canary.
#ifndef GATEWAY_COMMON_POLICY_GUARD_H_
#define GATEWAY_COMMON_POLICY_GUARD_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace gateway {

inline constexpr size_t kGuardBytesMax = 256;
inline constexpr absl::Duration kGuardWindowDefault = absl::Seconds(60);
inline constexpr absl::Duration kGuardWindowMin = absl::Seconds(1);
inline constexpr absl::Duration kGuardWindowMax = absl::Hours(24);

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

// Whether the text may have `for`. That of a canary may not: its steps have a length of their own.
enum class GuardWindow { kAllowed, kGiven };

// InvalidArgument names the part that is wrong and what was expected: "'p99': expected ...".
absl::StatusOr<Guard> ParseGuard(std::string_view text, GuardWindow window = GuardWindow::kAllowed);

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_GUARD_H_
