// How many retries a service bears: a share of its requests, so that a service that fails gets no avalanche on top.
#ifndef GATEWAY_DATAPLANE_POLICY_RETRY_BUDGET_H_
#define GATEWAY_DATAPLANE_POLICY_RETRY_BUDGET_H_

#include <array>
#include <cstdint>

#include "absl/random/bit_gen_ref.h"
#include "absl/synchronization/mutex.h"
#include "common/base/time.h"
#include "common/policy/policy.h"

namespace gateway::dataplane {

// One service's, over all workers of the process. Thread-safe; never reads a clock.
// Over the last ten seconds retries are at most the larger of `budget_percent` of the requests (first tries) and
// `budget_min_per_second` for each of those seconds since the first request. The two are not added: a busy service that
// fails sees its share and no more. What the floor allows is not saved up: past the share, a second has no more than
// `budget_min_per_second`.
class RetryBudget {
 public:
  void OnRequest(TimePoint now);
  // Whether one more retry is within the budget; then it is counted.
  bool Spend(const RetryPolicy& policy, TimePoint now);

  struct Stats {
    uint64_t retries = 0;
    uint64_t refused = 0;  // beyond the budget
  };
  Stats stats() const;

 private:
  static constexpr int kBuckets = 10;  // of one second each
  struct Bucket {
    int64_t second = -1;
    uint32_t requests = 0, retries = 0;
  };
  Bucket& BucketOf(TimePoint now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  std::array<Bucket, kBuckets> buckets_ ABSL_GUARDED_BY(mutex_);
  Stats stats_ ABSL_GUARDED_BY(mutex_);
};

// Before retry number `attempt` (from 1): at random between 0 and backoff_base doubled `attempt` - 1 times, at most
// backoff_max ("full jitter", aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter).
Millis RetryDelay(const RetryPolicy& policy, uint32_t attempt, absl::BitGenRef random);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_POLICY_RETRY_BUDGET_H_
