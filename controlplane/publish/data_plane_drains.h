// Data planes that operators have drained: kept beside policy, until they are taken back.
#ifndef GATEWAY_CONTROLPLANE_PUBLISH_DATA_PLANE_DRAINS_H_
#define GATEWAY_CONTROLPLANE_PUBLISH_DATA_PLANE_DRAINS_H_

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "controlplane/store/store.h"
#include "gateway/v1/admin.pb.h"

namespace gateway::controlplane {

// By the data plane's name.
using DrainMap = std::map<std::string, v1::DataPlaneDrain>;

// A drain is in the store before it is published. Thread-safe; Set and Clear block on the disk. Owns a thread for what
// must not block (Forget).
class DataPlaneDrains {
 public:
  static constexpr size_t kDrainsMax = 10'000;

  // Receives all of them after every change and once from Start; in order, with the lock held: must not call back.
  using PublishFunction = std::function<void(const DrainMap&)>;

  // Reads what the store holds.
  static absl::StatusOr<std::unique_ptr<DataPlaneDrains>> Open(Store* store);
  ~DataPlaneDrains();  // stops
  // Once, before Set, Clear and Forget have an effect.
  void Start(PublishFunction publish);
  // Finishes what Forget has begun. From then on the store is not used, and Forget has no effect.
  void Stop();
  DataPlaneDrains(const DataPlaneDrains&) = delete;
  DataPlaneDrains& operator=(const DataPlaneDrains&) = delete;

  // Returns the drain in force: an earlier one stays as it is. ResourceExhausted past kDrainsMax; the store's errors.
  absl::StatusOr<v1::DataPlaneDrain> Set(const std::string& name, const v1::DataPlaneDrain& drain);
  // NotFound: it is not drained.
  absl::Status Clear(const std::string& name);
  // The data plane is forgotten, and with it its drain, soon. Never blocks.
  void Forget(const std::string& name);

  DrainMap List() const;

 private:
  explicit DataPlaneDrains(Store* store) : store_(store) {}
  void Run();

  Store* const store_;
  PublishFunction publish_;  // Start's
  mutable std::mutex mu_;    // over the disk
  DrainMap all_ ABSL_GUARDED_BY(mu_);
  std::mutex forgotten_mu_;
  std::condition_variable changed_;
  std::set<std::string> forgotten_ ABSL_GUARDED_BY(forgotten_mu_);  // at most as many as the hub knows
  bool ending_ ABSL_GUARDED_BY(forgotten_mu_) = false;
  std::thread thread_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_PUBLISH_DATA_PLANE_DRAINS_H_
