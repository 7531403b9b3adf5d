#include "dataplane/policy/outlier_ejector.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace gateway::dataplane {
namespace {

constexpr uint64_t kOneFailure = 1;
constexpr uint64_t kOneGatewayFailure = uint64_t{1} << 32;

uint32_t FailuresIn(uint64_t packed) { return static_cast<uint32_t>(packed); }
uint32_t GatewayFailuresIn(uint64_t packed) { return static_cast<uint32_t>(packed >> 32); }

}  // namespace

void OutlierEjector::Reconfigure(const Options& options) {
  absl::MutexLock lock(&mutex_);
  options_ = options;
  failures_max_.store(options.consecutive_failures, std::memory_order_relaxed);
  gateway_failures_max_.store(options.consecutive_gateway_failures, std::memory_order_relaxed);
  rates_.store(options.stdev_factor > 0, std::memory_order_relaxed);
}

void OutlierEjector::SetMembers(const std::vector<Member>& members) {
  absl::MutexLock lock(&mutex_);
  absl::flat_hash_map<const EndpointState*, Record> records;
  records.reserve(members.size());
  ejected_ = 0;
  for (const Member& member : members) {
    const auto known = records_.find(member.state.get());
    Record record = known != records_.end() ? std::move(known->second) : Record{member.name, member.state};
    if (record.ejected) ++ejected_;
    records.emplace(member.state.get(), std::move(record));
  }
  records_ = std::move(records);
}

void OutlierEjector::Report(EndpointState* endpoint, Result result, TimePoint now) {
  if (rates_.load(std::memory_order_relaxed)) {
    endpoint->interval_requests.fetch_add(1, std::memory_order_relaxed);
    if (result == Result::kSuccess) endpoint->interval_successes.fetch_add(1, std::memory_order_relaxed);
  }
  if (result == Result::kSuccess) {
    if (endpoint->failures.load(std::memory_order_relaxed) != 0) endpoint->failures.store(0, std::memory_order_relaxed);
    return;
  }
  const bool gateway = result == Result::kGatewayFailure;
  uint64_t before = endpoint->failures.load(std::memory_order_relaxed);
  uint64_t after;
  do {
    after = before + kOneFailure;
    // A service's own 500 came over a connection that works.
    after = gateway ? after + kOneGatewayFailure : after & (kOneGatewayFailure - 1);
  } while (!endpoint->failures.compare_exchange_weak(before, after, std::memory_order_relaxed));
  const auto reached = [](uint32_t count, const std::atomic<uint32_t>& max) {
    const uint32_t bound = max.load(std::memory_order_relaxed);
    return bound > 0 && count >= bound;
  };
  const bool by_gateway = gateway && reached(GatewayFailuresIn(after), gateway_failures_max_);
  if (!by_gateway && !reached(FailuresIn(after), failures_max_)) return;
  absl::MutexLock lock(&mutex_);
  Eject(endpoint, by_gateway ? Cause::kGatewayFailures : Cause::kFailures,
        by_gateway ? GatewayFailuresIn(after) : FailuresIn(after), now);
}

// Nothing if it is out already (it gets requests still in a panic), is no member any more, or too many are out.
void OutlierEjector::Eject(EndpointState* endpoint, Cause cause, uint32_t count, TimePoint now) {
  const auto found = records_.find(endpoint);
  if (found == records_.end() || found->second.ejected || records_.size() < 2) return;
  if (ejected_ > 0 && (ejected_ + 1) * 100 > records_.size() * options_.max_percent) return;
  Record& record = found->second;
  record.ejected = true;
  record.cause = cause;
  record.count = count;
  ++record.times;
  // Doubled step by step: a shift would overflow where an endpoint has long been out again and again.
  std::chrono::nanoseconds time = std::min(options_.base_time, options_.max_time);
  for (uint32_t i = 1; i < record.times && time < options_.max_time; ++i) time = std::min(time * 2, options_.max_time);
  record.until = now + std::chrono::duration_cast<TimePoint::duration>(time);
  ++ejected_;
  ejections_.fetch_add(1, std::memory_order_relaxed);
  endpoint->Exclude(Exclusion::kEjected);
}

TimePoint OutlierEjector::Tick(TimePoint now) {
  absl::MutexLock lock(&mutex_);
  const auto interval = std::chrono::duration_cast<TimePoint::duration>(options_.interval);
  if (interval_ends_ == TimePoint{}) interval_ends_ = now + interval;
  const bool interval_over = now >= interval_ends_;
  if (interval_over) {
    interval_ends_ = now + interval;
    for (auto& [state, record] : records_) {
      if (!record.ejected && record.times > 0) --record.times;
    }
    CompareRates(now);
  }
  TimePoint next = interval_ends_;
  if (ejected_ == 0) return next;
  for (auto& [state, record] : records_) {
    if (!record.ejected) continue;
    if (now < record.until) {
      next = std::min(next, record.until);
      continue;
    }
    record.ejected = false;
    --ejected_;
    record.state->failures.store(0, std::memory_order_relaxed);
    record.state->Include(Exclusion::kEjected, now);
  }
  return next;
}

void OutlierEjector::CompareRates(TimePoint now) {
  if (options_.stdev_factor <= 0) return;
  std::vector<std::pair<double, EndpointState*>> rates;
  for (auto& [state, record] : records_) {
    const uint32_t requests = record.state->interval_requests.exchange(0, std::memory_order_relaxed);
    const uint32_t successes = record.state->interval_successes.exchange(0, std::memory_order_relaxed);
    if (requests < options_.volume_min || requests == 0 || record.ejected) continue;
    rates.emplace_back(100.0 * std::min(successes, requests) / requests, record.state.get());
  }
  if (rates.size() < options_.hosts_min || rates.empty()) return;
  double sum = 0, squares = 0;
  for (const auto& [rate, state] : rates) sum += rate;
  const double mean = sum / static_cast<double>(rates.size());
  for (const auto& [rate, state] : rates) squares += (rate - mean) * (rate - mean);
  const double bound = mean - options_.stdev_factor * std::sqrt(squares / static_cast<double>(rates.size()));
  // The worst first: there may not be room for all.
  std::sort(rates.begin(), rates.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (const auto& [rate, state] : rates) {
    if (rate >= bound) break;
    Eject(state, Cause::kSuccessRate, static_cast<uint32_t>(rate), now);
  }
}

void OutlierEjector::ReleaseAll(TimePoint now) {
  absl::MutexLock lock(&mutex_);
  for (auto& [state, record] : records_) {
    if (record.ejected) record.state->Include(Exclusion::kEjected, now);
    record.state->failures.store(0, std::memory_order_relaxed);
  }
  records_.clear();
  ejected_ = 0;
}

std::vector<OutlierEjector::Row> OutlierEjector::Ejected() const {
  absl::MutexLock lock(&mutex_);
  std::vector<Row> rows;
  for (const auto& [state, record] : records_) {
    if (record.ejected) rows.push_back({record.name, record.cause, record.count, record.until});
  }
  std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.endpoint < b.endpoint; });
  return rows;
}

}  // namespace gateway::dataplane
