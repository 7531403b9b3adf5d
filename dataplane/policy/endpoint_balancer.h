// Which endpoint of a service gets the next request.
#ifndef GATEWAY_DATAPLANE_POLICY_ENDPOINT_BALANCER_H_
#define GATEWAY_DATAPLANE_POLICY_ENDPOINT_BALANCER_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/random/bit_gen_ref.h"
#include "absl/synchronization/mutex.h"
#include "dataplane/policy/endpoint_state.h"

namespace gateway::dataplane {

enum class Balance : uint8_t {
  kRoundRobin,    // in turn, whatever the weights
  kRandom,        // in proportion to the weights
  kWeighted,      // the same in smooth turns
  kLeastRequest,  // of two drawn by weight, the one with fewer requests in flight for its weight
  kPeakEwma,  // of two drawn by weight, likely the one with the lower product of peak latency and requests in flight
  kRingHash,  // by hash on a ring of points, bounded in load
  kMaglev,    // by hash in Maglev's table (Eisenbud et al., NSDI 2016)
};

// Made for each new set of endpoints and shared by all workers. The set and the weights never change; which of them are
// usable is in the endpoints' states and does: a change there is noticed by the next Pick, which brings the lists up to
// date without allocating. What has to outlive the set, the cursor and the states, is the caller's. Thread-safe.
class EndpointBalancer {
 public:
  static constexpr int kNone = -1;
  static constexpr uint32_t kScheduleMax = 4096;  // turns of the weighted schedule; finer ratios are rounded, none to 0
  static constexpr uint32_t kMaglevSize = 65537;  // the paper's, prime
  static constexpr uint32_t kRingPointsEach = 160;  // of an average endpoint, as ketama has it
  static constexpr uint32_t kRingPointsMax = 262'144;
  // What an unmeasured endpoint with requests in flight costs for each of them: it gets one request to be measured by.
  static constexpr double kUnmeasuredCost = 1e18;
  // Added to each latency of kPeakEwma: below this, differences are the noise of schedulers and of a first connection.
  static constexpr std::chrono::nanoseconds kLatencyNoise = std::chrono::milliseconds(1);

  struct Options {
    Balance balance = Balance::kRoundRobin;
    // With fewer usable endpoints than this share of all, exclusions are ignored: better many that may fail than few
    // that surely will. 0: never.
    uint32_t panic_percent = 50;
    // Over this time the share of a new or returning endpoint grows from `slow_start_min` to its whole. 0: at once.
    std::chrono::nanoseconds slow_start{0};
    double slow_start_min = 0.1;
    std::chrono::nanoseconds decay = std::chrono::seconds(5);  // of kPeakEwma
    // Of kRingHash: no endpoint has more than this share of the average in flight (by weight). 0: no bound.
    uint32_t load_bound_percent = 125;
    // Requests stay with members that are local while this share of them is usable (by weight). Below that as much of
    // it as is usable: with 70 and half of them usable, 50/70 of the requests, and the others get the rest.
    bool prefer_local = false;
    uint32_t zone_min_percent = 70;
  };

  struct Member {
    std::shared_ptr<EndpointState> state;
    uint32_t weight = 1;    // 0: never chosen
    uint64_t identity = 0;  // a stable hash of its address, the same in every process
    bool local = false;     // in the gateway's own zone
    bool draining = false;  // of weight 0: still usable for the sessions that it has
    friend bool operator==(const Member&, const Member&) = default;
  };

  struct PickInput {
    mutable absl::BitGenRef random;
    TimePoint now;
    std::optional<uint64_t> hash = {};     // of kRingHash and kMaglev; none: by weight at random
    std::span<const uint32_t> tried = {};  // indices that are not to be chosen again
  };

  EndpointBalancer(const Options& options, std::shared_ptr<const EndpointGroup> group, std::vector<Member> members);

  // An index into the members, or kNone where none may be chosen. Those in turn move `cursor`; workers that share it go
  // round together.
  int Pick(std::atomic<uint64_t>& cursor, const PickInput& in) const;

  // Whether a request may go to this member, as a session's cookie asks for it.
  bool Usable(uint32_t index) const;
  // Whether it reads EndpointState::in_flight: then whoever sends a request holds an InFlight. Likewise the latency.
  bool counts_in_flight() const {
    return options_.balance == Balance::kLeastRequest || options_.balance == Balance::kPeakEwma ||
           (options_.balance == Balance::kRingHash && options_.load_bound_percent > 0);
  }
  bool measures_latency() const { return options_.balance == Balance::kPeakEwma; }
  const Options& options() const { return options_; }
  const std::vector<Member>& members() const { return members_; }
  // Exclusions are ignored at the moment.
  bool panicking() const;

 private:
  // Those that may be chosen, in turns: of the local zone (or everybody where zones don't matter), and of the others.
  struct Turns {
    std::unique_ptr<std::atomic<uint32_t>[]> indices;
    std::atomic<uint32_t> count{0};
    std::atomic<uint64_t> weight{0};  // the sum
  };
  struct Point {
    uint64_t hash;
    uint32_t index;
  };
  static constexpr uint32_t kWhole = 65536;  // of a share
  static constexpr int kDrawsMax = 16;       // of one candidate, before the lists are searched in order
  static constexpr int kStepsMax = 1024;     // on the ring

  void BringUpToDate() const;
  void Refresh() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int PickIn(int zone, std::atomic<uint64_t>& cursor, const PickInput& in) const;
  int Draw(int zone, std::atomic<uint64_t>* cursor, const PickInput& in, int avoid = kNone) const;
  int PickOfTwo(int zone, const PickInput& in) const;
  bool KeepsFirst(double first, double second, const PickInput& in) const;
  int PickOnRing(int zone, const PickInput& in) const;
  int PickInTable(int zone, const PickInput& in) const;
  int SearchByHash(int zone, const PickInput& in) const;
  bool MayServe(uint32_t index, int zone, const PickInput& in) const;
  bool IsStarting(TimePoint now) const;
  double RampOf(uint32_t index, TimePoint now) const;
  double LoadOf(uint32_t index, const PickInput& in) const;
  void BuildRing();
  void BuildTable();

  const Options options_;
  const std::shared_ptr<const EndpointGroup> group_;
  const std::vector<Member> members_;
  bool zoned_ = false;              // there are local members and others
  double mean_weight_ = 1;          // of those above 0
  std::vector<uint32_t> schedule_;  // everybody's turns
  std::vector<Point> ring_;         // sorted
  std::vector<uint32_t> table_;

  // Derived from the states; see BringUpToDate.
  mutable absl::Mutex mutex_;
  mutable std::atomic<uint64_t> seen_{0};  // EndpointGroup::changes
  mutable Turns turns_[2];
  mutable std::atomic<uint32_t> local_share_{kWhole};
  mutable std::atomic<bool> panic_{false};
  mutable std::atomic<int64_t> starting_until_{EndpointState::kAlways};  // the last slow start's end
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_POLICY_ENDPOINT_BALANCER_H_
