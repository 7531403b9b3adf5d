// Where several control planes commit what they write: a log of transactions, of which each database is a copy.
#ifndef GATEWAY_CONTROLPLANE_STORE_COMMIT_LOG_H_
#define GATEWAY_CONTROLPLANE_STORE_COMMIT_LOG_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace gateway::controlplane {

// A place in the log. The ID tells two logs apart that have the same number of entries.
struct LogPosition {
  uint64_t number = 0;  // 0: before the first entry
  std::string id;
  friend bool operator==(const LogPosition&, const LogPosition&) = default;
};

// One transaction of a store: the rows that it changes, as SQLite's patchset. Private keys in it are sealed, as they
// are in the rows.
struct LogEntry {
  LogPosition at, previous;
  int schema = 0;  // the number of migrations of the database that wrote it
  std::string changes;
};

// Thread-safe. Its calls block on the network; the store holds none of its locks meanwhile.
class CommitLog {
 public:
  virtual ~CommitLog() = default;

  // Commits `changes` behind `base`, or does nothing. LostRace: the log is further than `base`. Unavailable: it cannot
  // be reached, and the message says whether the change may have been made all the same. ResourceExhausted: too long.
  // FailedPrecondition: `fenced`, and this control plane is not the owner any more.
  struct Proposal {
    LogPosition base;
    int schema = 0;
    uint64_t revision = 0;  // of policy, with this entry; for people
    bool fenced = false;    // only as the owner
    const std::string* changes = nullptr;
  };
  virtual absl::StatusOr<LogEntry> Append(const Proposal& proposal) = 0;

  // Applies to the store what the log has beyond it.
  virtual absl::Status Fetch() = 0;
  // The same, and tells all that is kept in memory of it.
  virtual absl::Status CatchUp() = 0;
};

// The entry was computed from a state that is not the newest: catch up, and do it again.
absl::Status LostRace();
bool IsLostRace(const absl::Status& status);

// While it lives, what this thread writes to a store is committed only as long as this control plane is the owner (of
// leases, orders and timers). Nothing else where there is one control plane.
class OwnerWrites {
 public:
  OwnerWrites();
  ~OwnerWrites();
  OwnerWrites(const OwnerWrites&) = delete;
  OwnerWrites& operator=(const OwnerWrites&) = delete;
  static bool here();  // one lives on this thread

 private:
  const bool before_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_STORE_COMMIT_LOG_H_
