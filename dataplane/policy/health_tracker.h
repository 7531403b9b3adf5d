// Turns a series of active checks into the health of an endpoint.
#ifndef GATEWAY_DATAPLANE_POLICY_HEALTH_TRACKER_H_
#define GATEWAY_DATAPLANE_POLICY_HEALTH_TRACKER_H_

#include <cstdint>

namespace gateway::dataplane {

// For one endpoint. The first check decides at once, since there is no earlier state. After that a change takes as many
// checks in a row as the thresholds say, so that one lost packet changes nothing. Not thread-safe.
class HealthTracker {
 public:
  struct Options {
    uint32_t healthy = 2;    // passed checks in a row until an unhealthy endpoint counts as healthy
    uint32_t unhealthy = 3;  // failed checks in a row until a healthy endpoint counts as unhealthy
    friend bool operator==(const Options&, const Options&) = default;
  };

  explicit HealthTracker(const Options& options) : options_(options) {}

  void Reconfigure(const Options& options) { options_ = options; }
  // True: the health changed.
  bool Record(bool passed);
  // True before the first check: new endpoints may serve.
  bool healthy() const { return healthy_; }
  bool known() const { return known_; }

 private:
  Options options_;
  bool known_ = false;
  bool healthy_ = true;
  uint32_t against_ = 0;  // checks in a row that contradict its health
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_POLICY_HEALTH_TRACKER_H_
