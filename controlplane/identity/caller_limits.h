// How much one authenticated caller may ask for, so that a pipeline gone wild leaves room for the others.
#ifndef GATEWAY_CONTROLPLANE_IDENTITY_CALLER_LIMITS_H_
#define GATEWAY_CONTROLPLANE_IDENTITY_CALLER_LIMITS_H_

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace gateway::controlplane {

// Thread-safe. Outlives the slots that it gives out.
class CallerLimits {
 public:
  static constexpr size_t kCallersMax = 1'000;  // that are remembered; idle ones are forgotten first
  struct Rates {
    double calls_per_second = 1'000;
    double burst = 2'000;
    int concurrent = 128;  // of kAdminStreamsMax for all
  };

  explicit CallerLimits(Rates rates) : rates_(rates) {}
  CallerLimits() : CallerLimits(Rates()) {}

  // Held until the call has ended. ResourceExhausted says which limit.
  using Slot = std::shared_ptr<void>;
  absl::StatusOr<Slot> Admit(const std::string& caller, absl::Time now);

 private:
  struct State {
    double room = 0;
    absl::Time filled_at;
    int running = 0;
  };
  void Forget(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Rates rates_;
  std::mutex mu_;
  std::map<std::string, State> callers_ ABSL_GUARDED_BY(mu_);
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_IDENTITY_CALLER_LIMITS_H_
