// Who did what, and who tried to: into the database and, where the bootstrap says so, into a file of JSON lines.
#ifndef GATEWAY_CONTROLPLANE_IDENTITY_AUDIT_LOG_H_
#define GATEWAY_CONTROLPLANE_IDENTITY_AUDIT_LOG_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "controlplane/identity/caller.h"
#include "controlplane/store/store.h"
#include "gateway/v1/admin.pb.h"

namespace gateway::controlplane {

// As one line of JSON, without its end.
std::string AuditLine(const v1::AuditEntry& entry);

// What changed, for an entry: "created Route/a, updated Service/b and 98 more: COMMENT".
std::string AuditDetail(const v1::RevisionInfo& info);

// Owns one thread, which writes what is queued. What changes policy is in the database by its own transaction (Store::
// Commit) and comes here for the file alone. Thread-safe.
//
// Anybody can be denied as often as they like, so denials are bounded: past kDeniedBurst at once, kDeniedPerSecond are
// written and the others counted; the count is an entry, too.
class AuditLog {
 public:
  static constexpr size_t kQueueMax = 1'000;
  static constexpr int kDeniedPerSecond = 20;
  static constexpr int kDeniedBurst = 200;
  static constexpr size_t kDetailBytesMax = 2'048;

  // `path`: of the file; "": none. It is opened for each batch, so that it may be moved away at any time.
  AuditLog(Store* store, std::string path);
  ~AuditLog();  // writes what is queued

  // Whether the file can be written: at the start, where somebody reads the answer.
  absl::Status CheckFile() const;

  void Denied(const Caller& caller, const std::string& why, absl::Time now);
  // A write that is no revision.
  void Done(const Caller& caller, const std::string& detail, absl::Time now);
  // A revision, which is in the database already.
  void Committed(const v1::AuditEntry& entry);

  // Waits until what was queued before is written.
  void Flush();

  // Entries that were counted and not written: denials past the bound, and what the disk did not take.
  uint64_t dropped() const;

 private:
  struct Item {
    v1::AuditEntry entry;
    bool stored = false;  // in the database already
  };
  void Queue(Item item) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Run();
  void Write(const std::deque<Item>& batch);

  Store* const store_;
  const std::string path_;

  mutable std::mutex mu_;
  std::condition_variable changed_;
  std::deque<Item> queue_ ABSL_GUARDED_BY(mu_);
  uint64_t queued_ ABSL_GUARDED_BY(mu_) = 0, written_ ABSL_GUARDED_BY(mu_) = 0;
  double room_ ABSL_GUARDED_BY(mu_) = kDeniedBurst;  // for denials; grows by kDeniedPerSecond
  absl::Time filled_at_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  uint64_t suppressed_ ABSL_GUARDED_BY(mu_) = 0;  // since the last entry that told
  uint64_t dropped_ ABSL_GUARDED_BY(mu_) = 0;
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_IDENTITY_AUDIT_LOG_H_
