// The health of an endpoint after a row of active checks.
#ifndef GATEWAY_DATAPLANE_POLICY_HEALTH_TRACKER_H_
#define GATEWAY_DATAPLANE_POLICY_HEALTH_TRACKER_H_

#include <cstdint>

namespace gateway::dataplane {

// One endpoint's. The first check decides at once: nothing is known to wait for. After that it takes as many in a row
// as the thresholds say, so that one lost packet changes nothing. Not thread-safe.
class HealthTracker {
 public:
  struct Options {
    uint32_t healthy = 2;    // passes in a row until an unhealthy one counts as healthy
    uint32_t unhealthy = 3;  // failures in a row until a healthy one counts as unhealthy
    friend bool operator==(const Options&, const Options&) = default;
  };

  explicit HealthTracker(const Options& options) : options_(options) {}

  void Reconfigure(const Options& options) { options_ = options; }
  // True: its health is another than before.
  bool Record(bool passed);
  // True before the first check: who has just come may serve.
  bool healthy() const { return healthy_; }
  bool known() const { return known_; }

 private:
  Options options_;
  bool known_ = false;
  bool healthy_ = true;
  uint32_t against_ = 0;  // checks in a row that speak against what it counts as
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_POLICY_HEALTH_TRACKER_H_
