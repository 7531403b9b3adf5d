// Watch and Rollout: what follows the revisions of policy.
#ifndef GATEWAY_CONTROLPLANE_ADMIN_POLICY_STREAMS_H_
#define GATEWAY_CONTROLPLANE_ADMIN_POLICY_STREAMS_H_

#include <array>
#include <cstdint>
#include <deque>
#include <optional>

#include "absl/time/time.h"
#include "controlplane/admin/streaming_calls.h"
#include "controlplane/publish/publisher.h"
#include "controlplane/rpc/executor.h"
#include "controlplane/stream/hub.h"
#include "gateway/v1/admin.pb.h"

namespace gateway::controlplane {

// Reads revision after revision from the store, at the caller's pace: nothing is queued for a slow one.
class WatchStream final : public AdminStream<v1::WatchResponse> {
 public:
  WatchStream(StreamingCalls* calls, Publisher* publisher, Executor* executor, uint64_t after)
      : AdminStream(calls, &publisher->revisions()), publisher_(publisher), executor_(executor), delivered_(after) {}

 protected:
  Step Next(v1::WatchResponse* message) override;

 private:
  void Read(uint64_t after);

  Publisher* const publisher_;
  Executor* const executor_;
  uint64_t delivered_ ABSL_GUARDED_BY(mu_);
  std::deque<v1::RevisionInfo> ahead_ ABSL_GUARDED_BY(mu_);  // at most kWatchPage
  bool reading_ ABSL_GUARDED_BY(mu_) = false;
};

// Sends the state of a rollout whenever it changes, to its end; once, unless `wait`.
class RolloutStream final : public AdminStream<v1::RolloutResponse> {
 public:
  RolloutStream(StreamingCalls* calls, Hub* hub, uint64_t revision, absl::Time committed_at, bool wait)
      : AdminStream(calls, &hub->ledger()), hub_(hub), revision_(revision), committed_at_(committed_at), wait_(wait) {}

 protected:
  Step Next(v1::RolloutResponse* message) override;

 private:
  Hub* const hub_;
  const uint64_t revision_;
  const absl::Time committed_at_;
  const bool wait_;
  std::optional<std::array<uint32_t, 3>> last_ ABSL_GUARDED_BY(mu_);
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_ADMIN_POLICY_STREAMS_H_
