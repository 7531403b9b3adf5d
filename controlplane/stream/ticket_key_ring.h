// The keys that seal TLS session tickets on all data planes, and when they change.
#ifndef GATEWAY_CONTROLPLANE_STREAM_TICKET_KEY_RING_H_
#define GATEWAY_CONTROLPLANE_STREAM_TICKET_KEY_RING_H_

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "controlplane/store/store.h"
#include "gateway/v1/config_stream.pb.h"

namespace gateway::controlplane {

// Three keys: the previous, the current and the next one, which data planes know a whole period before it is used.
// Kept sealed in the database, so that sessions outlive a restart. Thread-safe; has a thread that rotates.
class TicketKeyRing {
 public:
  struct Options {
    absl::Duration rotation = absl::Hours(8);
    std::function<absl::Time()> now = absl::Now;
    // Told of the keys at the start and after each rotation: `next` becomes the current one at `rotates_at`. Must not
    // call back.
    std::function<void(const v1::TicketKeysUpdate& keys, absl::Time rotates_at)> publish;
  };

  // Takes the keys of `store`, or makes the first ones: also instead of keys that cannot be read, or that are so
  // old that no data plane uses them. Publishes them. An error: no randomness.
  static absl::StatusOr<std::unique_ptr<TicketKeyRing>> Open(Store* store, Options options);
  ~TicketKeyRing();

  // Rotates if it is time; for the thread, and for tests that move `now`.
  void Tick();

 private:
  TicketKeyRing(Store* store, Options options) : store_(store), options_(std::move(options)) {}
  absl::Status Load() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status Rotate(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Save() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Run();

  Store* const store_;
  const Options options_;
  std::mutex mu_;
  v1::TicketKeysUpdate keys_ ABSL_GUARDED_BY(mu_);
  absl::Time rotates_at_ ABSL_GUARDED_BY(mu_);
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  std::condition_variable wakes_;
  std::thread thread_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_STREAM_TICKET_KEY_RING_H_
