// The lease stream: the gRPC side of the quota allocator.
#ifndef GATEWAY_CONTROLPLANE_STREAM_QUOTA_SERVICE_H_
#define GATEWAY_CONTROLPLANE_STREAM_QUOTA_SERVICE_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/base/quota.h"
#include "common/policy/snapshot.h"
#include "controlplane/stream/quota_allocator.h"
#include "gateway/v1/quota.grpc.pb.h"

namespace gateway::controlplane {

// The limits of scope `fleet` that data planes may demand.
std::map<std::string, FleetLimit> FleetLimitsOf(const Snapshot& snapshot);

// Owns the allocator, under one lock. Runs on gRPC's callback threads and one of its own, which ticks while there are
// streams. Each stream writes at most one message at a time; further grants are merged into the next.
class QuotaService final : public v1::Quota::CallbackService {
 public:
  static constexpr size_t kStreamsMax = 10'000;
  static constexpr int kKeysPerMessageMax = 2'000;
  static constexpr std::chrono::milliseconds kHeartbeat{500};

  // `names_by_certificate`: as ConfigServiceOptions has it.
  explicit QuotaService(QuotaAllocator::Options options, bool names_by_certificate = false);
  ~QuotaService() override;  // waits until every stream has ended

  // Thread-safe, like all methods.
  void SetLimits(const std::map<std::string, FleetLimit>& limits);

  grpc::ServerBidiReactor<v1::LeaseDemands, v1::LeaseGrants>* Lease(grpc::CallbackServerContext* context) override;

  // Ends every stream with UNAVAILABLE and rejects new ones.
  void Drain();

  struct Stats {
    size_t streams = 0;
    uint64_t messages = 0;  // from data planes
    QuotaAllocator::Stats quota;
  };
  Stats stats() const;

 private:
  class Stream;
  void Remove(Stream* stream);
  void Collect(bool tick) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Tick();

  const bool names_by_certificate_;
  mutable std::mutex mu_;
  std::condition_variable changed_;
  QuotaAllocator quota_ ABSL_GUARDED_BY(mu_);
  std::map<Stream*, std::shared_ptr<Stream>> streams_ ABSL_GUARDED_BY(mu_);
  std::map<QuotaAllocator::StreamId, Stream*> by_id_ ABSL_GUARDED_BY(mu_);
  std::vector<Stream*> touched_ ABSL_GUARDED_BY(mu_);  // by the current collection
  uint64_t messages_ ABSL_GUARDED_BY(mu_) = 0;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  std::thread ticker_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_STREAM_QUOTA_SERVICE_H_
