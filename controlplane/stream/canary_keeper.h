// Looks after the canaries of Routes: asks what data planes see of their sides, and what time makes of them.
#ifndef GATEWAY_CONTROLPLANE_STREAM_CANARY_KEEPER_H_
#define GATEWAY_CONTROLPLANE_STREAM_CANARY_KEEPER_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "controlplane/publish/publisher.h"
#include "controlplane/stream/hub.h"

namespace gateway::controlplane {

// The figures of the sides of canaries, from reports. One thread's; never reads a clock.
class CanaryCounts {
 public:
  using Reports = std::vector<std::pair<std::string, std::shared_ptr<const v1::Report>>>;  // by data plane

  // Of every canary of `state` with a guard that is watched. Of one that is paused, the requests of the last `every` to
  // two times that: what was good for hours does not hide what is bad now.
  CanaryFigures Count(const PolicyState& state, const Reports& reports, absl::Time now);

 private:
  using Sides = std::map<std::string, SideFigures>;  // by data plane
  struct Window {
    uint64_t version = 0;  // of the Route
    absl::Time next;       // when `before` and `since` move on
    Sides before, since;   // what had been counted at the beginning of the last window, and of this one
  };
  std::map<std::string, Window> paused_;  // by the Route's name; of those that are paused
};

// Owns a thread, which sleeps while nothing is due. Both outlive it.
class CanaryKeeper {
 public:
  // Between two looks while a guard watches: data planes report once a second.
  static constexpr std::chrono::milliseconds kLookEvery{500};
  // After a start, no guard is judged at the end of its step before data planes have come back and reported.
  static constexpr absl::Duration kReportsWait = absl::Seconds(6);

  CanaryKeeper(Publisher* publisher, Hub* hub, std::function<absl::Time()> now = absl::Now);
  ~CanaryKeeper();
  CanaryKeeper(const CanaryKeeper&) = delete;
  CanaryKeeper& operator=(const CanaryKeeper&) = delete;

 private:
  void Run();
  void Look(const PolicyState& state);

  Publisher* const publisher_;
  Hub* const hub_;
  const std::function<absl::Time()> now_;
  const absl::Time started_at_;
  CanaryCounts counts_;  // the thread's, like the error that the log has
  std::string told_;

  // What wakes the thread. The publisher's callback has it, too, and may outlive this.
  struct Bell {
    std::mutex mu;
    std::condition_variable wakes;
    bool news ABSL_GUARDED_BY(mu) = true;
    bool ending ABSL_GUARDED_BY(mu) = false;
  };
  const std::shared_ptr<Bell> bell_ = std::make_shared<Bell>();
  uint64_t subscription_ = 0;
  std::thread thread_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_STREAM_CANARY_KEEPER_H_
