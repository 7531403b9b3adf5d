// How many data planes must serve a revision: --require.
#ifndef GATEWAY_TOOLS_GATEWAYCTL_REQUIREMENT_H_
#define GATEWAY_TOOLS_GATEWAYCTL_REQUIREMENT_H_

#include <cstdint>
#include <optional>
#include <string>

#include "gateway/v1/admin.pb.h"

namespace gateway::ctl {

// How many data planes are lost, also those that the list leaves out. (A server before 0.2 lists all and counts none.)
uint64_t LostCount(const v1::RolloutResponse& rollout);

// Counts every data plane that is there, expected back, or lost.
struct Requirement {
  enum class Kind { kAll, kCount, kPercent };
  Kind kind = Kind::kAll;
  uint64_t value = 0;

  bool IsMet(const v1::RolloutResponse& rollout) const;
};

// "3", "80%", "all"; nothing: it is none of these.
std::optional<Requirement> RequirementOf(const std::string& text);

}  // namespace gateway::ctl

#endif  // GATEWAY_TOOLS_GATEWAYCTL_REQUIREMENT_H_
