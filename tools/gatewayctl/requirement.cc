#include "tools/gatewayctl/requirement.h"

#include <algorithm>

#include "absl/strings/numbers.h"

namespace gateway::ctl {

uint64_t LostCount(const v1::RolloutResponse& rollout) {
  return std::max<uint64_t>(rollout.lost_count(), static_cast<uint64_t>(rollout.lost_size()));
}

bool Requirement::IsMet(const v1::RolloutResponse& rollout) const {
  const uint64_t all = rollout.data_planes() + LostCount(rollout);
  switch (kind) {
    case Kind::kAll:
      return all > 0 && rollout.serving() == all;
    case Kind::kCount:
      return rollout.serving() >= value;
    case Kind::kPercent:
      return all > 0 && uint64_t{rollout.serving()} * 100 >= value * all;
  }
  return false;
}

std::optional<Requirement> RequirementOf(const std::string& text) {
  if (text == "all") return Requirement{Requirement::Kind::kAll, 0};
  const bool percent = text.ends_with('%');
  uint64_t value = 0;
  if (!absl::SimpleAtoi(text.substr(0, text.size() - static_cast<size_t>(percent)), &value)) return std::nullopt;
  if (value == 0 || (percent && value > 100)) return std::nullopt;
  return Requirement{percent ? Requirement::Kind::kPercent : Requirement::Kind::kCount, value};
}

}  // namespace gateway::ctl
