// The known data planes, kept over restarts of the control plane, so that a rollout knows which ones to wait for before
// they are back.
#ifndef GATEWAY_CONTROLPLANE_STREAM_ROSTER_H_
#define GATEWAY_CONTROLPLANE_STREAM_ROSTER_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace gateway::controlplane {

struct RosterEntry {
  std::string name;
  std::optional<absl::Time> lost_since = {};  // gone without a goodbye; none: it was connected
  friend bool operator==(const RosterEntry&, const RosterEntry&) = default;
};

// A file of mode 0600, replaced whole: a name a line, with the second since which it is lost where it is. Not
// thread-safe. What it holds is a hint: a lost or damaged file costs a rollout its patience, and a new database the
// knowledge that there was another.
class Roster {
 public:
  explicit Roster(std::string path) : path_(std::move(path)) {}

  // Empty where there is no file. Lines that are no names are left out.
  std::vector<RosterEntry> Load() const;
  absl::Status Save(const std::vector<RosterEntry>& entries) const;

 private:
  const std::string path_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_STREAM_ROSTER_H_
