#include "dataplane/policy/retry_budget.h"

#include <algorithm>
#include <chrono>

#include "absl/random/distributions.h"

namespace gateway::dataplane {
namespace {

int64_t SecondOf(TimePoint now) { return std::chrono::floor<std::chrono::seconds>(now.time_since_epoch()).count(); }

}  // namespace

RetryBudget::Bucket& RetryBudget::BucketOf(TimePoint now) {
  const int64_t second = SecondOf(now);
  Bucket& bucket = buckets_[static_cast<size_t>(second % kBuckets)];
  // A worker's `now` may be slightly behind another's: then it counts in the newer second.
  if (bucket.second < second) bucket = {second, 0, 0};
  return bucket;
}

void RetryBudget::OnRequest(TimePoint now) {
  absl::MutexLock lock(&mutex_);
  ++BucketOf(now).requests;
}

bool RetryBudget::Spend(const RetryPolicy& policy, TimePoint now) {
  absl::MutexLock lock(&mutex_);
  Bucket& current = BucketOf(now);
  uint64_t requests = 0;
  uint64_t retries = 0;
  int64_t first = current.second;
  for (const Bucket& bucket : buckets_) {
    if (bucket.second <= current.second - kBuckets) continue;
    requests += bucket.requests;
    retries += bucket.retries;
    if (bucket.requests > 0) first = std::min(first, bucket.second);
  }
  const bool within_share = (retries + 1) * 100 <= requests * policy.budget_percent;
  const auto seconds = static_cast<uint64_t>(current.second - first + 1);
  const bool within_floor =
      current.retries < policy.budget_min_per_second && retries < policy.budget_min_per_second * seconds;
  if (!within_share && !within_floor) {
    ++stats_.refused;
    return false;
  }
  ++current.retries;
  ++stats_.retries;
  return true;
}

RetryBudget::Stats RetryBudget::stats() const {
  absl::MutexLock lock(&mutex_);
  return stats_;
}

Millis RetryDelay(const RetryPolicy& policy, uint32_t attempt, absl::BitGenRef random) {
  const int64_t doubled = policy.backoff_base.count() << std::min(attempt - 1, 16u);
  const int64_t most = std::min(doubled, policy.backoff_max.count());
  return Millis(most <= 0 ? 0 : absl::Uniform<int64_t>(absl::IntervalClosed, random, 0, most));
}

}  // namespace gateway::dataplane
