// Which control plane to connect to next, and after how long.
#ifndef GATEWAY_DATAPLANE_CONFIG_CONTROL_PLANE_ROTATION_H_
#define GATEWAY_DATAPLANE_CONFIG_CONTROL_PLANE_ROTATION_H_

#include <chrono>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "absl/random/random.h"

namespace gateway::dataplane {

// Control planes are tried in order, without a delay between them; after the last one comes a delay (ReconnectDelay)
// that grows with each round. One that accepted the stream and lost it is a reason to start again from the first. Not
// thread-safe; never reads a clock.
class ControlPlaneRotation {
 public:
  // A stream that lived this long was a good one: the delays start again from the shortest.
  static constexpr std::chrono::seconds kStableStream{5};

  // `attempt_max`: rounds after which the delay grows no more.
  ControlPlaneRotation(std::vector<std::string> addresses, int attempt_max)
      : addresses_(std::move(addresses)), attempt_max_(attempt_max) {}

  bool empty() const { return addresses_.empty(); }
  // REQUIRES: not empty.
  const std::string& address() const { return addresses_[index_]; }

  // The stream to address() is over. `welcomed`: the control plane had accepted it; `lived`: since it was started.
  // Moves to the next address and returns the delay before its attempt.
  std::chrono::milliseconds Next(bool welcomed, std::chrono::steady_clock::duration lived);

 private:
  const std::vector<std::string> addresses_;
  const int attempt_max_;
  size_t index_ = 0;
  int attempt_ = 0;
  absl::BitGen random_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_CONFIG_CONTROL_PLANE_ROTATION_H_
