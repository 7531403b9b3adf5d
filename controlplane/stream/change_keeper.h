// Looks after the change that is under way: asks what data planes see of it, and what time makes of it.
#ifndef GATEWAY_CONTROLPLANE_STREAM_CHANGE_KEEPER_H_
#define GATEWAY_CONTROLPLANE_STREAM_CHANGE_KEEPER_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "controlplane/publish/publisher.h"
#include "controlplane/stream/hub.h"

namespace gateway::controlplane {

// Owns a thread, which sleeps while no change is under way. Both outlive it.
class ChangeKeeper {
 public:
  // Between two looks at a change that is under way: data planes report once a second.
  static constexpr std::chrono::milliseconds kLookEvery{200};
  // After a start, a guard whose window is over is not judged before data planes have come back and reported.
  static constexpr absl::Duration kReportsWait = absl::Seconds(6);

  ChangeKeeper(Publisher* publisher, Hub* hub, std::function<absl::Time()> now = absl::Now);
  ~ChangeKeeper();
  ChangeKeeper(const ChangeKeeper&) = delete;
  ChangeKeeper& operator=(const ChangeKeeper&) = delete;

 private:
  void Run();
  void Look(const v1::PendingChange& change);

  Publisher* const publisher_;
  Hub* const hub_;
  const std::function<absl::Time()> now_;
  const absl::Time started_at_;
  std::string told_;  // the error that the log has; the thread's

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

#endif  // GATEWAY_CONTROLPLANE_STREAM_CHANGE_KEEPER_H_
