#include "dataplane/policy/health_tracker.h"

namespace gateway::dataplane {

bool HealthTracker::Record(bool passed) {
  if (!known_) {
    known_ = true;
    const bool changed = passed != healthy_;
    healthy_ = passed;
    return changed;
  }
  if (passed == healthy_) {
    against_ = 0;
    return false;
  }
  if (++against_ < (passed ? options_.healthy : options_.unhealthy)) return false;
  healthy_ = passed;
  against_ = 0;
  return true;
}

}  // namespace gateway::dataplane
