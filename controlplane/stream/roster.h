// Which data planes there are, kept over restarts of the control plane: so that it knows, before they are back, whom a
// rollout has to wait for.
#ifndef GATEWAY_CONTROLPLANE_STREAM_ROSTER_H_
#define GATEWAY_CONTROLPLANE_STREAM_ROSTER_H_

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace gateway::controlplane {

// A file of names, one a line, of mode 0600, replaced whole. Not thread-safe. What it holds is a hint: a lost or
// damaged file costs a rollout its patience, nothing else.
class Roster {
 public:
  explicit Roster(std::string path) : path_(std::move(path)) {}

  // Empty where there is no file. Lines that are no names are left out.
  std::vector<std::string> Load() const;
  absl::Status Save(const std::vector<std::string>& names) const;

 private:
  const std::string path_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_STREAM_ROSTER_H_
