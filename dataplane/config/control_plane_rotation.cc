#include "dataplane/config/control_plane_rotation.h"

#include <algorithm>

#include "common/base/backoff.h"

namespace gateway::dataplane {

std::chrono::milliseconds ControlPlaneRotation::Next(bool welcomed, std::chrono::steady_clock::duration lived) {
  if (welcomed && lived >= kStableStream) attempt_ = 0;
  index_ = welcomed ? 0 : (index_ + 1) % addresses_.size();
  if (index_ != 0) return std::chrono::milliseconds(0);
  const int attempt = attempt_;
  attempt_ = std::min(attempt_ + 1, attempt_max_);
  return ReconnectDelay(attempt, random_);
}

}  // namespace gateway::dataplane
