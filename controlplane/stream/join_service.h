// Join: certificates for data planes, on the stream listener.
#ifndef GATEWAY_CONTROLPLANE_STREAM_JOIN_SERVICE_H_
#define GATEWAY_CONTROLPLANE_STREAM_JOIN_SERVICE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "controlplane/identity/audit_log.h"
#include "controlplane/identity/caller.h"
#include "controlplane/identity/caller_limits.h"
#include "controlplane/identity/joining.h"
#include "controlplane/rpc/executor.h"
#include "gateway/v1/join.grpc.pb.h"

namespace gateway::controlplane {

// Served to anybody who reaches the listener: Enroll needs a token, Renew a client certificate that the listener has
// verified. Calls of an address are limited. First certificates and refusals are in the audit, renewals in the log
// alone: a large fleet would fill the audit with them. Works on a thread of its own.
class JoinService final : public v1::Join::CallbackService {
 public:
  static constexpr CallerLimits::Rates kRates{.calls_per_second = 50, .burst = 200, .concurrent = 16};  // of an address
  // Anybody can be refused as often as they like: past the burst, refusals are only counted.
  static constexpr double kRefusalsToldBurst = 20;
  static constexpr double kRefusalsToldPerSecond = 1;

  // Both outlive it.
  JoinService(Joining* joining, AuditLog* audit, std::function<absl::Time()> now = absl::Now)
      : joining_(joining), audit_(audit), now_(std::move(now)) {}

  grpc::ServerUnaryReactor* Enroll(grpc::CallbackServerContext* context, const v1::EnrollRequest* request,
                                   v1::EnrollResponse* response) override;
  grpc::ServerUnaryReactor* Renew(grpc::CallbackServerContext* context, const v1::RenewRequest* request,
                                  v1::EnrollResponse* response) override;

  struct Counts {
    std::atomic<uint64_t> enrolled{0}, renewed{0}, rejected{0};
  };
  const Counts& counts() const { return counts_; }

 private:
  // `work` names the data plane in caller->name as soon as that is known.
  grpc::ServerUnaryReactor* Run(grpc::CallbackServerContext* context, const char* action, std::atomic<uint64_t>* count,
                                std::function<absl::Status(Caller* caller)> work);

  // Whether a refusal goes to the log and the audit.
  bool MayTell(absl::Time now);

  Joining* const joining_;
  AuditLog* const audit_;
  const std::function<absl::Time()> now_;
  Counts counts_;
  CallerLimits limits_{kRates};  // by address
  std::mutex mu_;
  double room_ ABSL_GUARDED_BY(mu_) = kRefusalsToldBurst;
  absl::Time filled_at_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  Executor executor_;  // last: its tasks use the rest
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_STREAM_JOIN_SERVICE_H_
