// Which endpoint of a set gets the next request.
#ifndef GATEWAY_DATAPLANE_POLICY_BALANCER_H_
#define GATEWAY_DATAPLANE_POLICY_BALANCER_H_

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/random/bit_gen_ref.h"
#include "gateway/v1/policy.pb.h"

namespace gateway::dataplane {

// Immutable; built for each new set of endpoints (weights in their order; 0: never chosen) and shared by all workers.
// What has to survive a new set, the cursor, is the caller's.
class Balancer {
 public:
  static constexpr int kNone = -1;
  static constexpr uint32_t kScheduleMax =
      4096;  // entries of the smooth weighted schedule; finer ratios are rounded, none to 0

  Balancer(v1::LoadBalancer::Policy policy, std::span<const uint32_t> weights);

  // An index into the weights, or kNone where none may be chosen. Every draw from `cursor` moves it by one, so workers
  // that share it go round together. Thread-safe.
  int Pick(std::atomic<uint64_t>& cursor, absl::BitGenRef random) const;

  // Like Pick, but none for which `excluded` (by index; short: false) holds.
  int PickExcept(std::atomic<uint64_t>& cursor, absl::BitGenRef random, const std::vector<bool>& excluded) const;

 private:
  v1::LoadBalancer::Policy policy_;
  std::vector<uint32_t> usable_;    // indices with a weight above 0
  std::vector<uint32_t> schedule_;  // `weighted`: indices in smooth order (nginx' algorithm, one whole period)
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_POLICY_BALANCER_H_
