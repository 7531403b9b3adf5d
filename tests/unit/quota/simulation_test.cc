// Fleet limits: the allocator and the tables of many data planes, connected by a network with delays, in virtual time.
// What they admit is compared with one exact limiter that sees every request.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "controlplane/stream/quota_allocator.h"
#include "dataplane/limits/lease_bucket.h"

namespace gateway {
namespace {

using controlplane::QuotaAllocator;
using dataplane::LeaseLink;
using dataplane::LeaseTable;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;
using namespace std::chrono_literals;

constexpr char kLimit[] = "shared";

// Runs scheduled events in the order of their times.
class VirtualTime {
 public:
  TimePoint now() const { return now_; }
  void At(TimePoint when, std::function<void()> what) {
    events_.push({std::max(when, now_), next_++, std::move(what)});
  }
  void RunUntil(TimePoint end) {
    while (!events_.empty() && events_.top().when <= end) {
      Event event = events_.top();
      events_.pop();
      now_ = event.when;
      event.what();
    }
    now_ = end;
  }

 private:
  struct Event {
    TimePoint when;
    uint64_t order;
    std::function<void()> what;
    bool operator<(const Event& other) const { return std::pair(when, order) > std::pair(other.when, other.order); }
  };
  TimePoint now_{1000s};
  uint64_t next_ = 0;
  std::priority_queue<Event> events_;
};

// How requests are spread over the data planes: weights over time.
using Pattern = std::function<double(size_t plane, size_t planes, double seconds)>;

const std::map<std::string, Pattern>& Patterns() {
  static const std::map<std::string, Pattern> patterns = {
      {"even", [](size_t, size_t, double) { return 1.0; }},
      {"one has nine tenths",
       [](size_t plane, size_t planes, double) { return plane == 0 ? 9.0 * static_cast<double>(planes - 1) : 1.0; }},
      {"zipf", [](size_t plane, size_t, double) { return 1.0 / static_cast<double>(plane + 1); }},
      {"the hot one moves each second",
       [](size_t plane, size_t planes, double at) {
         return plane == static_cast<size_t>(at) % planes ? 4.0 * static_cast<double>(planes) : 1.0;
       }},
      {"halves take turns",
       [](size_t plane, size_t, double at) { return plane % 2 == static_cast<size_t>(at / 2) % 2 ? 1.0 : 0.0; }},
      {"waves",
       [](size_t plane, size_t planes, double at) {
         return 1.05 + std::sin(at * 2 + 6.28 * static_cast<double>(plane) / static_cast<double>(planes));
       }},
  };
  return patterns;
}

class Fleet {
 public:
  Fleet(size_t planes, FleetLimit limit, uint64_t seed,
        LeaseTable::OnUnavailable on_unavailable = LeaseTable::OnUnavailable::kLastShare)
      : limit_(limit), random_(seed) {
    for (size_t i = 0; i < planes; ++i) {
      auto plane = std::make_unique<Plane>();
      plane->name = "dp-" + std::to_string(i);
      plane->link = std::make_shared<LeaseLink>();
      LeaseTable::Options options;
      options.limit = limit;
      options.on_unavailable = on_unavailable;
      plane->table = std::make_unique<LeaseTable>(options, plane->link, time.now());
      plane->link->wake = [this, p = plane.get()] { Schedule(p, std::max(time.now(), p->collected + 5ms)); };
      planes_.push_back(std::move(plane));
    }
    StartControlPlane({});
    for (auto& plane : planes_) {
      Plane* p = plane.get();
      Schedule(p, time.now() + Uniform(0us, 20ms));
    }
  }

  void StartControlPlane(std::vector<std::string> expected, milliseconds connect_within = 200ms) {
    connect_within_ = connect_within;
    QuotaAllocator::Options options;
    options.expected = std::move(expected);
    allocator_ = std::make_unique<QuotaAllocator>(options, time.now());
    allocator_->SetLimits({{kLimit, limit_}}, time.now());
    ++life_;
    for (auto& plane : planes_)
      time.At(time.now() + Uniform(1ms, connect_within_), [this, p = plane.get(), l = life_] {
        if (l == life_) Connect(p);
      });
    Tick(life_);
  }
  void StopControlPlane() {
    ++life_;
    allocator_.reset();
    for (auto& plane : planes_) plane->link->up = false;
  }

  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& plane : planes_) names.push_back(plane->name);
    return names;
  }

  // Requests at `rate` a second in total, each offered to one data plane and to the exact limiter.
  void Offer(double rate, const Pattern& pattern, TimePoint until) {
    const TimePoint begin = time.now();
    std::exponential_distribution<double> gap(rate);
    double at = 0;
    while (true) {
      at += gap(random_);
      const TimePoint when = begin + std::chrono::duration_cast<nanoseconds>(std::chrono::duration<double>(at));
      if (when >= until) break;
      time.At(when, [this, &pattern] {
        std::vector<double> weights;
        const double now = std::chrono::duration<double>(time.now().time_since_epoch()).count();
        for (size_t i = 0; i < planes_.size(); ++i) weights.push_back(pattern(i, planes_.size(), now));
        const size_t to = std::discrete_distribution<size_t>(weights.begin(), weights.end())(random_);
        ++offered;
        if (planes_[to]->table->Admit("k", time.now()).allowed) admitted.push_back(time.now());
        if (Exact()) exact.push_back(time.now());
      });
    }
    time.RunUntil(until);
  }

  static size_t MostInWindow(const std::vector<TimePoint>& times, nanoseconds window) {
    size_t most = 0, begin = 0;
    for (size_t i = 0; i < times.size(); ++i) {
      while (times[i] - times[begin] >= window) ++begin;
      most = std::max(most, i - begin + 1);
    }
    return most;
  }

  VirtualTime time;
  uint64_t offered = 0;
  uint64_t messages = 0;
  std::vector<TimePoint> admitted, exact;

 private:
  struct Plane {
    std::string name;
    std::shared_ptr<LeaseLink> link;
    std::unique_ptr<LeaseTable> table;
    QuotaAllocator::StreamId stream = 0;
    TimePoint collected{};
    uint64_t timer = 0;
    TimePoint there{}, back{};  // arrival of the last message: a stream keeps its order
    bool told_all = false;
  };

  microseconds Uniform(microseconds from, microseconds to) {
    return microseconds(std::uniform_int_distribution<int64_t>(from.count(), to.count())(random_));
  }
  // One way; a round trip takes 5 ms on average.
  microseconds Delay() { return Uniform(1000us, 4000us); }

  bool Exact() {
    const TimePoint now = time.now();
    if (limit_.algorithm == FleetAlgorithm::kTokenBucket) {
      const double burst = limit_.burst == 0 ? limit_.requests : limit_.burst;
      if (level_at_ == TimePoint{})
        level_ = burst;
      else
        level_ = std::min(burst, level_ + std::chrono::duration<double>(now - level_at_).count() * limit_.per_second());
      level_at_ = now;
      if (level_ < 1) return false;
      level_ -= 1;
      return true;
    }
    while (!window_.empty() && now - window_.front() >= limit_.window) window_.pop_front();
    if (window_.size() >= limit_.requests) return false;
    window_.push_back(now);
    return true;
  }

  void Connect(Plane* plane) {
    plane->stream = allocator_->Attach(plane->name, "1", time.now());
    plane->told_all = false;
    plane->link->stream = plane->link->stream + 1;
    plane->link->heard_ns = time.now().time_since_epoch().count();
    plane->link->round_trip_ns = nanoseconds(5ms).count();
    plane->link->data_planes = static_cast<uint32_t>(planes_.size());
    plane->link->up = true;
  }

  void Schedule(Plane* plane, TimePoint when) {
    const uint64_t timer = ++plane->timer;
    time.At(when, [this, plane, timer] {
      if (timer == plane->timer) Collect(plane);
    });
  }

  void Collect(Plane* plane) {
    plane->collected = time.now();
    plane->link->Listen();
    std::vector<KeyDemand> demands;
    const bool all = plane->table->Collect(time.now(), 1000, &demands);
    const bool tells = all && plane->link->up && !plane->told_all;
    if (!demands.empty() || tells) {
      ++messages;
      plane->told_all = plane->told_all || tells;
      plane->there = std::max(plane->there, time.now() + Delay());
      time.At(plane->there, [this, plane, demands, tells, life = life_, stream = plane->stream] {
        if (life != life_ || allocator_ == nullptr) return;
        for (const KeyDemand& demand : demands) (void)allocator_->OnDemand(stream, kLimit, demand, time.now());
        if (tells) allocator_->OnToldAll(stream, time.now());
        Answer(false);
      });
    }
    Schedule(plane, time.now() + 20ms);
  }

  void Answer(bool tick) {
    allocator_->Collect(time.now(), tick,
                        [this](QuotaAllocator::StreamId stream, const std::string&, const KeyGrant& grant) {
                          for (auto& plane : planes_) {
                            if (plane->stream != stream) continue;
                            plane->back = std::max(plane->back, time.now() + Delay());
                            time.At(plane->back, [p = plane.get(), grant, this, life = life_] {
                              if (life == life_) p->table->OnGrant(grant, time.now());
                            });
                          }
                        });
  }

  void Tick(uint64_t life) {
    if (life != life_) return;
    Answer(true);
    for (auto& plane : planes_) {
      if (plane->stream != 0 && plane->link->up) plane->link->heard_ns = time.now().time_since_epoch().count();
    }
    time.At(time.now() + allocator_->tick(), [this, life] { Tick(life); });
  }

  const FleetLimit limit_;
  std::mt19937_64 random_;
  std::unique_ptr<QuotaAllocator> allocator_;
  uint64_t life_ = 0;
  milliseconds connect_within_{200};
  std::vector<std::unique_ptr<Plane>> planes_;
  std::deque<TimePoint> window_;
  double level_ = 0;
  TimePoint level_at_{};
};

uint64_t Seed() {
  static const uint64_t seed = std::random_device{}();
  return seed;
}

struct Shape {
  const char* name;
  FleetAlgorithm algorithm;
  uint32_t burst;
};

class FleetLimits : public testing::TestWithParam<Shape> {};

TEST_P(FleetLimits, AreNearlyThoseOfOneExactLimiter) {
  const Shape shape = GetParam();
  FleetLimit limit;
  limit.requests = 1000;
  limit.window = 1s;
  limit.algorithm = shape.algorithm;
  limit.burst = shape.burst;
  double worst_over = 0, worst_refused = 0, worst_refused_under = 0;
  for (const size_t planes : {2, 10, 50}) {
    for (const auto& [name, pattern] : Patterns()) {
      for (const double load : {2.0, 0.8}) {
        SCOPED_TRACE(testing::Message() << planes << " data planes, " << name << ", load " << load << ", seed "
                                        << Seed());
        Fleet fleet(planes, limit, Seed());
        fleet.time.RunUntil(fleet.time.now() + 300ms);  // until all are connected
        const TimePoint begin = fleet.time.now();
        fleet.Offer(load * limit.requests, pattern, begin + 8s);
        const auto most = static_cast<double>(Fleet::MostInWindow(fleet.admitted, 1s));
        const auto exact_most = static_cast<double>(
            limit.algorithm == FleetAlgorithm::kTokenBucket ? limit.requests + limit.burst : limit.requests);
        const double over = (most - exact_most) / limit.requests;
        const double refused = (static_cast<double>(fleet.exact.size()) - static_cast<double>(fleet.admitted.size())) /
                               static_cast<double>(fleet.offered);
        if (getenv("QUOTA_FIGURES") != nullptr) {
          printf("%s %zu planes, %s, load %.1f: over %+.1f %%, wrongly refused %.2f %%, %.0f messages/s\n", shape.name,
                 planes, name.c_str(), load, 100 * over, 100 * refused, static_cast<double>(fleet.messages) / 8);
        }
        EXPECT_LE(over, 0.07);
        // With fifty data planes, shifted load is known everywhere after a twentieth of a second: a little more.
        EXPECT_LE(refused, load < 1 ? 0.07 : planes <= 10 ? 0.01 : 0.0125);
        if (load > 1)
          worst_over = std::max(worst_over, over), worst_refused = std::max(worst_refused, refused);
        else
          worst_refused_under = std::max(worst_refused_under, refused);
      }
    }
  }
  printf("%s, seed %lu: worst over %+.1f %%, wrongly refused %.2f %% at 2x, %.2f %% at 0.8x\n", shape.name,
         static_cast<unsigned long>(Seed()), 100 * worst_over, 100 * worst_refused, 100 * worst_refused_under);
}

INSTANTIATE_TEST_SUITE_P(Algorithms, FleetLimits,
                         testing::Values(Shape{"sliding_window", FleetAlgorithm::kSlidingWindow, 0},
                                         Shape{"token_bucket", FleetAlgorithm::kTokenBucket, 100}),
                         [](const auto& info) { return std::string(info.param.name); });

FleetLimit ThousandASecond() {
  FleetLimit limit;
  limit.requests = 1000;
  limit.window = 1s;
  return limit;
}

// The control plane is away for five seconds and returns without its state, under twice the load.
TEST(FleetLimitsWithoutControlPlane, GoOnAtTheLastSharesAndReturnWithoutABurst) {
  SCOPED_TRACE(testing::Message() << "seed " << Seed());
  const Pattern& zipf = Patterns().at("zipf");
  // At several points of a window whose requests all come in its first half.
  for (const auto phase : {0ms, 250ms, 500ms, 750ms}) {
    Fleet fleet(10, ThousandASecond(), Seed());
    fleet.time.RunUntil(fleet.time.now() + 300ms);
    fleet.Offer(2000, zipf, fleet.time.now() + 3s + phase);
    fleet.StopControlPlane();
    const size_t before = fleet.admitted.size();
    fleet.Offer(2000, zipf, fleet.time.now() + 5s);
    const size_t away = fleet.admitted.size() - before;
    fleet.StartControlPlane(fleet.names(), 2500ms);
    fleet.Offer(2000, zipf, fleet.time.now() + 4s);
    const size_t back = fleet.admitted.size() - before - away;
    const size_t most = Fleet::MostInWindow(fleet.admitted, 1s);
    printf("away: %zu in 5 s; back: %zu in 4 s; at most %zu in a second\n", away, back, most);
    EXPECT_NEAR(static_cast<double>(away), 4700, 500);
    EXPECT_NEAR(static_cast<double>(back), 4000, 500);
    // Each knows only its own part of the window in which the control plane left.
    EXPECT_LE(most, 1200u);
  }
}

TEST(FleetLimitsWithoutControlPlane, AllowOrDenyOnceALeaseIsVoid) {
  for (const auto policy : {LeaseTable::OnUnavailable::kAllow, LeaseTable::OnUnavailable::kDeny}) {
    SCOPED_TRACE(testing::Message() << "seed " << Seed());
    Fleet fleet(4, ThousandASecond(), Seed(), policy);
    fleet.time.RunUntil(fleet.time.now() + 300ms);
    fleet.Offer(2000, Patterns().at("even"), fleet.time.now() + 1s);
    fleet.StopControlPlane();
    fleet.Offer(2000, Patterns().at("even"), fleet.time.now() + kLeaseTtl + 100ms);
    const size_t before = fleet.admitted.size();
    const uint64_t offered_before = fleet.offered;
    fleet.Offer(2000, Patterns().at("even"), fleet.time.now() + 1s);
    EXPECT_EQ(fleet.admitted.size() - before,
              policy == LeaseTable::OnUnavailable::kAllow ? fleet.offered - offered_before : 0u);
  }
}

// Ten a minute over ten data planes: each may exceed by one request, and no more.
TEST(FleetLimitsThatAreSmall, AreExceededByOneRequestADataPlaneAtMost) {
  SCOPED_TRACE(testing::Message() << "seed " << Seed());
  FleetLimit limit;
  limit.requests = 10;
  limit.window = 60s;
  Fleet fleet(10, limit, Seed());
  fleet.time.RunUntil(fleet.time.now() + 300ms);
  fleet.Offer(20, Patterns().at("even"), fleet.time.now() + 180s);
  const size_t most = Fleet::MostInWindow(fleet.admitted, 60s);
  printf("at most %zu of 10 in a minute, %zu in three\n", most, fleet.admitted.size());
  EXPECT_LE(most, 20u);
  EXPECT_GE(fleet.admitted.size(), 28u);
}

}  // namespace
}  // namespace gateway
