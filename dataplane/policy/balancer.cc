#include "dataplane/policy/balancer.h"

#include <algorithm>
#include <cstddef>
#include <numeric>

#include "absl/random/uniform_int_distribution.h"

namespace gateway::dataplane {
namespace {

// nginx' smooth weighted round robin over one whole period: in each turn everybody gains its weight, the richest is
// chosen and pays the sum of all. Among equals the first is chosen.
std::vector<uint32_t> MakeSchedule(const std::vector<uint32_t>& indices, const std::vector<uint64_t>& weights) {
  const uint64_t total = std::accumulate(weights.begin(), weights.end(), uint64_t{0});
  // All alike: the algorithm gives them in turn. Said here because thousands of endpoints of one weight are common, and
  // the algorithm is quadratic in them.
  if (total == weights.size()) return indices;
  std::vector<int64_t> current(weights.size(), 0);
  std::vector<uint32_t> schedule;
  schedule.reserve(total);
  for (uint64_t turn = 0; turn < total; ++turn) {
    size_t richest = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      current[i] += static_cast<int64_t>(weights[i]);
      if (current[i] > current[richest]) richest = i;
    }
    current[richest] -= static_cast<int64_t>(total);
    schedule.push_back(indices[richest]);
  }
  return schedule;
}

// The ratio of the weights in the smallest numbers; in coarser ones where their sum would exceed kScheduleMax.
std::vector<uint64_t> ReduceWeights(std::vector<uint64_t> weights) {
  uint64_t divisor = 0;
  for (const uint64_t weight : weights) divisor = std::gcd(divisor, weight);
  uint64_t total = 0;
  for (uint64_t& weight : weights) total += weight /= divisor;
  if (total <= Balancer::kScheduleMax) return weights;
  // One entry each is set aside for those that would be rounded to 0. (More endpoints than entries: one each.)
  const uint64_t count = weights.size();
  const uint64_t share = count < Balancer::kScheduleMax ? Balancer::kScheduleMax - count : 0;
  for (uint64_t& weight : weights) weight = std::max<uint64_t>(1, weight * share / total);
  return weights;
}

bool Excluded(const std::vector<bool>& excluded, uint32_t index) { return index < excluded.size() && excluded[index]; }

}  // namespace

Balancer::Balancer(v1::LoadBalancer::Policy policy, std::span<const uint32_t> weights) : policy_(policy) {
  std::vector<uint64_t> usable_weights;
  for (uint32_t i = 0; i < weights.size(); ++i) {
    if (weights[i] == 0) continue;
    usable_.push_back(i);
    usable_weights.push_back(weights[i]);
  }
  if (policy_ == v1::LoadBalancer::WEIGHTED && !usable_.empty()) {
    schedule_ = MakeSchedule(usable_, ReduceWeights(std::move(usable_weights)));
  }
}

int Balancer::Pick(std::atomic<uint64_t>& cursor, absl::BitGenRef random) const {
  if (usable_.empty()) return kNone;
  if (usable_.size() == 1) return static_cast<int>(usable_[0]);
  if (policy_ == v1::LoadBalancer::RANDOM) {
    return static_cast<int>(usable_[absl::uniform_int_distribution<size_t>(0, usable_.size() - 1)(random)]);
  }
  const std::vector<uint32_t>& turns = schedule_.empty() ? usable_ : schedule_;
  return static_cast<int>(turns[cursor.fetch_add(1, std::memory_order_relaxed) % turns.size()]);
}

int Balancer::PickExcept(std::atomic<uint64_t>& cursor, absl::BitGenRef random,
                         const std::vector<bool>& excluded) const {
  const std::vector<uint32_t>& turns = schedule_.empty() ? usable_ : schedule_;
  const auto allowed = [&](uint32_t index) { return !Excluded(excluded, index); };
  const auto count = static_cast<uint64_t>(std::count_if(turns.begin(), turns.end(), allowed));
  if (count == 0) return kNone;
  // Turns are taken among the allowed ones only: the next one after an excluded one would otherwise get its share too.
  uint64_t turn = policy_ == v1::LoadBalancer::RANDOM ? absl::uniform_int_distribution<uint64_t>(0, count - 1)(random)
                                                      : cursor.fetch_add(1, std::memory_order_relaxed) % count;
  for (const uint32_t index : turns) {
    if (allowed(index) && turn-- == 0) return static_cast<int>(index);
  }
  return kNone;
}

}  // namespace gateway::dataplane
