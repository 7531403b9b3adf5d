#include "dataplane/policy/endpoint_balancer.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <numeric>
#include <queue>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/random/random.h"
#include "common/base/hash.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::Gt;
using ::testing::Lt;

constexpr TimePoint kNow{1000h};
constexpr Balance kAll[] = {Balance::kRoundRobin, Balance::kRandom,   Balance::kWeighted, Balance::kLeastRequest,
                            Balance::kPeakEwma,   Balance::kRingHash, Balance::kMaglev};

// A service's endpoints with their states, which outlive the balancers built from them.
class Service {
 public:
  explicit Service(const std::vector<uint32_t>& weights, std::vector<bool> local = {}) {
    for (size_t i = 0; i < weights.size(); ++i) {
      members_.push_back({std::make_shared<EndpointState>(group_), weights[i],
                          StableHash("10.0.0." + std::to_string(i) + ":8080"), i < local.size() && local[i]});
    }
  }

  EndpointBalancer Make(EndpointBalancer::Options options) const { return {options, group_, members_}; }
  EndpointBalancer Make(Balance balance) const { return Make({.balance = balance}); }
  // Leaves out one endpoint.
  EndpointBalancer MakeWithout(size_t index, Balance balance) const {
    auto fewer = members_;
    fewer.erase(fewer.begin() + static_cast<std::ptrdiff_t>(index));
    return {{.balance = balance}, group_, fewer};
  }

  EndpointState& state(size_t index) { return *members_[index].state; }
  std::vector<EndpointBalancer::Member>& members() { return members_; }

  std::vector<InFlight> Busy(size_t index, int requests) {
    std::vector<InFlight> all;
    for (int i = 0; i < requests; ++i) all.emplace_back(members_[index].state);
    return all;
  }

 private:
  std::shared_ptr<EndpointGroup> group_ = std::make_shared<EndpointGroup>();
  std::vector<EndpointBalancer::Member> members_;
};

class EndpointBalancerTest : public ::testing::Test {
 protected:
  EndpointBalancerTest() : trace_(__FILE__, __LINE__, "seed " + std::to_string(seed_)) {}

  int Pick(const EndpointBalancer& balancer, std::optional<uint64_t> hash = {}, std::vector<uint32_t> tried = {},
           TimePoint now = kNow) {
    return balancer.Pick(cursor_, {.random = random_, .now = now, .hash = hash, .tried = tried});
  }
  std::vector<int> Picks(const EndpointBalancer& balancer, int count, const std::vector<uint32_t>& tried = {}) {
    std::vector<int> picks(static_cast<size_t>(count));
    for (int& pick : picks) pick = Pick(balancer, {}, tried);
    return picks;
  }
  // How often each endpoint is picked in `count` picks, each with a different hash.
  std::vector<int> Counts(const EndpointBalancer& balancer, int count, const std::vector<uint32_t>& tried = {},
                          TimePoint now = kNow) {
    std::vector<int> counts(balancer.members().size(), 0);
    for (int i = 0; i < count; ++i) {
      ++counts.at(static_cast<size_t>(Pick(balancer, MixBits(static_cast<uint64_t>(i)), tried, now)));
    }
    return counts;
  }

  const uint32_t seed_ = std::random_device()();
  std::mt19937_64 random_{seed_};
  std::atomic<uint64_t> cursor_{0};
  ::testing::ScopedTrace trace_;
};

double ChiSquare(const std::vector<int>& counts, const std::vector<double>& shares) {
  const double picks = std::accumulate(counts.begin(), counts.end(), 0.0);
  const double whole = std::accumulate(shares.begin(), shares.end(), 0.0);
  double sum = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double expected = picks * shares[i] / whole;
    sum += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  return sum;
}

// A chi-square exceeds these once in 10,000, with as many degrees of freedom.
constexpr double kChiSquare3 = 21.1, kChiSquare9 = 33.7;

TEST_F(EndpointBalancerTest, NothingToChooseIsNone) {
  for (const Balance balance : kAll) {
    EXPECT_EQ(Pick(Service({}).Make(balance), 1), EndpointBalancer::kNone);
    EXPECT_EQ(Pick(Service({0, 0}).Make(balance), 1), EndpointBalancer::kNone);
    EXPECT_EQ(Pick(Service({1, 1, 0}).Make(balance), 1, {0, 1}), EndpointBalancer::kNone);
    EXPECT_EQ(Pick(Service({0, 3}).Make(balance), 1), 1);
  }
}

TEST_F(EndpointBalancerTest, RoundRobinGoesInTurnWhateverTheWeights) {
  EXPECT_THAT(Picks(Service({1, 5, 0, 2}).Make(Balance::kRoundRobin), 7), ElementsAre(0, 1, 3, 0, 1, 3, 0));
}

TEST_F(EndpointBalancerTest, RoundRobinIsExactlyEvenOverThreads) {
  constexpr int kThreads = 4, kEach = 3000;
  const EndpointBalancer balancer = Service({1, 1, 1}).Make(Balance::kRoundRobin);
  std::vector<std::vector<int>> counts(kThreads, std::vector<int>(3, 0));
  std::vector<std::thread> threads;
  for (size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      absl::InsecureBitGen random;
      for (int i = 0; i < kEach; ++i) {
        ++counts[t][static_cast<size_t>(balancer.Pick(cursor_, {.random = random, .now = kNow}))];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < 3; ++i) {
    int sum = 0;
    for (const auto& each : counts) sum += each[i];
    EXPECT_EQ(sum, kThreads * kEach / 3);
  }
}

TEST_F(EndpointBalancerTest, ACursorSurvivesANewSet) {
  Service service({1, 1, 1});
  EXPECT_EQ(Pick(service.Make(Balance::kRoundRobin)), 0);
  EXPECT_EQ(Pick(service.Make(Balance::kRoundRobin)), 1);
}

TEST_F(EndpointBalancerTest, RandomGoesByWeight) {
  const EndpointBalancer even = Service(std::vector<uint32_t>(10, 7)).Make(Balance::kRandom);
  const double chi_square = ChiSquare(Counts(even, 100'000), std::vector<double>(10, 1));
  EXPECT_THAT(chi_square, AllOf(Gt(0.3), Lt(kChiSquare9))) << "below: too even to be random";
  const EndpointBalancer weighted = Service({1, 2, 3, 4}).Make(Balance::kRandom);
  EXPECT_LT(ChiSquare(Counts(weighted, 100'000), {1, 2, 3, 4}), kChiSquare3);
}

TEST_F(EndpointBalancerTest, WeightedIsSmoothAndExactOverAPeriod) {
  EXPECT_THAT(Picks(Service({5, 1, 1}).Make(Balance::kWeighted), 7), ElementsAre(0, 0, 1, 0, 2, 0, 0)) << "as nginx";
  EXPECT_THAT(Counts(Service({200, 100, 0, 400}).Make(Balance::kWeighted), 700), ElementsAre(200, 100, 0, 400));
  cursor_ = 0;
  EXPECT_THAT(Picks(Service({32767, 65534}).Make(Balance::kWeighted), 6), ElementsAre(1, 0, 1, 1, 0, 1))
      << "1:2 in 3 turns, not in 196,605";
}

TEST_F(EndpointBalancerTest, FinerRatiosAreRoundedButNoneToZero) {
  const std::vector<int> counts =
      Counts(Service({65535, 1, 32768}).Make(Balance::kWeighted), EndpointBalancer::kScheduleMax);
  EXPECT_THAT(counts, Each(Ge(1)));
  EXPECT_NEAR(counts[0] / double(counts[2]), 2.0, 0.01);
  std::vector<uint32_t> many(EndpointBalancer::kScheduleMax + 500, 1);
  many[7] = 3;
  EXPECT_THAT(Counts(Service(many).Make(Balance::kWeighted), static_cast<int>(many.size())), Each(Ge(1)));
}

TEST_F(EndpointBalancerTest, TheShareOfOneThatWasTriedIsSpreadOverAllOthers) {
  EXPECT_THAT(Counts(Service({1, 1, 1, 1}).Make(Balance::kRoundRobin), 3000, {1}), ElementsAre(1000, 0, 1000, 1000));
  EXPECT_THAT(Counts(Service({1, 2, 3}).Make(Balance::kWeighted), 400, {1}), ElementsAre(100, 0, 300));
  for (const Balance balance : kAll) {
    const std::vector<int> counts = Counts(Service({1, 1, 1, 1}).Make(balance), 3000, {1});
    EXPECT_EQ(counts[1], 0);
    for (const size_t i : {0, 2, 3}) EXPECT_NEAR(counts[i], 1000, 250) << static_cast<int>(balance);
  }
}

TEST_F(EndpointBalancerTest, AnExcludedOneGetsNothingAndItsShareIsSpreadEvenly) {
  for (const Balance balance : kAll) {
    Service service({1, 1, 1, 1});
    const EndpointBalancer balancer = service.Make(balance);
    EXPECT_THAT(Counts(balancer, 4000), Each(Gt(0)));
    service.state(1).Exclude(Exclusion::kEjected);
    service.state(1).Exclude(Exclusion::kUnhealthy);
    std::vector<int> counts = Counts(balancer, 3000);
    EXPECT_EQ(counts[1], 0);
    for (const size_t i : {0, 2, 3}) EXPECT_NEAR(counts[i], 1000, 250) << static_cast<int>(balance);
    service.state(1).Include(Exclusion::kEjected, kNow);
    EXPECT_EQ(Counts(balancer, 300)[1], 0) << "one reason is left";
    service.state(1).Include(Exclusion::kUnhealthy, kNow);
    EXPECT_THAT(Counts(balancer, 4000), Each(Gt(500)));
  }
}

TEST_F(EndpointBalancerTest, LeastRequestTakesTheLessBusyOfTwo) {
  Service service({1, 1});
  const EndpointBalancer balancer = service.Make(Balance::kLeastRequest);
  const auto busy = service.Busy(0, 1);
  EXPECT_THAT(Picks(balancer, 100), Each(1));
}

TEST_F(EndpointBalancerTest, LeastRequestWithNothingToDoGoesByWeight) {
  EXPECT_LT(ChiSquare(Counts(Service({1, 2, 3, 4}).Make(Balance::kLeastRequest), 100'000), {1, 2, 3, 4}), kChiSquare3);
}

// 800 requests that never end.
TEST_F(EndpointBalancerTest, LeastRequestKeepsLoadInProportionToWeights) {
  Service service({1, 1, 2, 4});
  const EndpointBalancer balancer = service.Make(Balance::kLeastRequest);
  std::vector<InFlight> busy;
  for (int i = 0; i < 800; ++i) busy.emplace_back(service.members()[static_cast<size_t>(Pick(balancer))].state);
  EXPECT_NEAR(service.state(0).in_flight, 100, 8);
  EXPECT_NEAR(service.state(2).in_flight, 200, 10);
  EXPECT_NEAR(service.state(3).in_flight, 400, 14);
}

TEST(PeakEwmaTest, JumpsToAPeakAndForgetsItSlowly) {
  PeakEwma latency;
  EXPECT_FALSE(latency.measured());
  latency.Observe(100ms, kNow, 10s);
  latency.Observe(1s, kNow + 1s, 10s);
  EXPECT_NEAR(latency.Cost(kNow + 1s, 10s), 1e9, 1e3);
  EXPECT_NEAR(latency.Cost(kNow + 11s, 10s), 1e9 / M_E, 1e5) << "also with no traffic";
  latency.Observe(100ms, kNow + 11s, 10s);
  EXPECT_NEAR(latency.Cost(kNow + 11s, 10s), 1e9 / M_E + 1e8 * (1 - 1 / M_E), 1e5);
  latency.Observe(1ms, kNow + 10s, 10s);
  EXPECT_NEAR(latency.Cost(kNow + 11s, 10s), (1e9 / M_E + 1e8 * (1 - 1 / M_E)) * 0.875 + 1e6 * 0.125, 1e5)
      << "a sample from a slow clock has its usual weight";
}

TEST(PeakEwmaTest, ManyGoodAnswersForgetAPeakWhateverTheTime) {
  PeakEwma latency;
  latency.Observe(1ms, kNow, 10s);
  latency.Observe(100ms, kNow, 10s);
  for (int i = 0; i < 40; ++i) latency.Observe(1ms, kNow, 10s);
  EXPECT_LT(latency.Cost(kNow, 10s), 2e6);
  EXPECT_GT(latency.Cost(kNow, 10s), 1e6);
}

// 32 clients with one request at a time, ten endpoints: nine respond in 10 ms, one in 200 ms.
struct Outcome {
  double slow_share, mean_ms, p99_ms;
};
Outcome RunClients(Balance balance, std::mt19937_64& random) {
  Service service(std::vector<uint32_t>(10, 1));
  const EndpointBalancer balancer = service.Make(balance);
  std::atomic<uint64_t> cursor{0};
  struct Request {
    TimePoint end;
    TimePoint begin;
    size_t endpoint;
    InFlight in_flight;
  };
  const auto later = [](const Request& a, const Request& b) { return a.end > b.end; };
  std::vector<Request> running;
  std::vector<double> latencies;
  int slow = 0;
  const auto start = [&](TimePoint now) {
    const auto index = static_cast<size_t>(balancer.Pick(cursor, {.random = random, .now = now}));
    if (index == 0) ++slow;
    const std::chrono::microseconds base = index == 0 ? 200ms : 10ms;
    const auto takes = base + base * (random() % 21) / 100 - base / 10;
    running.push_back({now + takes, now, index, InFlight(service.members()[index].state)});
    std::push_heap(running.begin(), running.end(), later);
  };
  for (int client = 0; client < 32; ++client) start(kNow + client * 1ms);
  for (int i = 0; i < 20'000; ++i) {
    std::pop_heap(running.begin(), running.end(), later);
    const TimePoint now = running.back().end;
    const auto took = now - running.back().begin;
    service.state(running.back().endpoint).latency.Observe(took, now, balancer.options().decay);
    running.pop_back();
    latencies.push_back(std::chrono::duration<double, std::milli>(took).count());
    start(now);
  }
  std::sort(latencies.begin(), latencies.end());
  return {slow / 20'032.0, std::accumulate(latencies.begin(), latencies.end(), 0.0) / double(latencies.size()),
          latencies[latencies.size() * 99 / 100]};
}

TEST_F(EndpointBalancerTest, PeakEwmaLeavesASlowEndpointAlone) {
  const Outcome in_turn = RunClients(Balance::kRoundRobin, random_);
  const Outcome least = RunClients(Balance::kLeastRequest, random_);
  const Outcome ewma = RunClients(Balance::kPeakEwma, random_);
  for (const auto& [name, row] : {std::pair("round_robin", in_turn), {"least_request", least}, {"peak_ewma", ewma}}) {
    std::printf("%-14s slow endpoint's share %5.2f %%, mean %6.2f ms, p99 %6.1f ms\n", name, row.slow_share * 100,
                row.mean_ms, row.p99_ms);
  }
  EXPECT_NEAR(in_turn.slow_share, 0.1, 0.01);
  EXPECT_LT(ewma.slow_share, 0.01);
  EXPECT_LT(ewma.mean_ms, in_turn.mean_ms / 2);
  EXPECT_LT(ewma.slow_share, least.slow_share);
}

// Clients with one request at a time, `requests` in total. `takes` gives the duration of a request that begins at a
// given time; clients pause between requests. Returns the begin and endpoint of each request.
std::vector<std::pair<TimePoint, size_t>> RunPeakEwma(const std::vector<uint32_t>& weights, int clients,
                                                      size_t requests, std::chrono::nanoseconds pause,
                                                      std::mt19937_64& random,
                                                      const std::function<double(size_t, TimePoint)>& takes_ms) {
  Service service(weights);
  const EndpointBalancer balancer = service.Make(Balance::kPeakEwma);
  std::atomic<uint64_t> cursor{0};
  struct Request {
    TimePoint end, begin;
    size_t endpoint;
    InFlight in_flight;
  };
  const auto later = [](const Request& a, const Request& b) { return a.end > b.end; };
  std::vector<Request> running;
  std::vector<std::pair<TimePoint, size_t>> begun;
  const auto start = [&](TimePoint now) {
    const auto index = static_cast<size_t>(balancer.Pick(cursor, {.random = random, .now = now}));
    const auto takes = std::chrono::nanoseconds(static_cast<int64_t>(takes_ms(index, now) * 1e6));
    running.push_back({now + takes, now, index, InFlight(service.members()[index].state)});
    std::push_heap(running.begin(), running.end(), later);
    begun.emplace_back(now, index);
  };
  for (int client = 0; client < clients; ++client) start(kNow + client * 100us);
  while (begun.size() < requests) {
    std::pop_heap(running.begin(), running.end(), later);
    const Request ended = std::move(running.back());
    running.pop_back();
    service.state(ended.endpoint).latency.Observe(ended.end - ended.begin, ended.end, balancer.options().decay);
    start(ended.end + pause);
  }
  return begun;
}

std::vector<int> CountsOf(const std::vector<std::pair<TimePoint, size_t>>& begun, size_t endpoints) {
  std::vector<int> counts(endpoints);
  for (const auto& [begin, endpoint] : begun) ++counts[endpoint];
  return counts;
}

// Less than a millisecond, with an occasional tail, and a first request that pays for the connection. At most 10 ms:
// an endpoint a hundred times slower than the others would be avoided for longer than these runs last.
class FastService {
 public:
  explicit FastService(std::mt19937_64& random) : random_(random) {}
  double operator()(size_t endpoint, TimePoint) {
    double takes = std::lognormal_distribution<double>(std::log(0.3), 0.3)(random_);
    if (random_() % 100 == 0) takes += std::exponential_distribution<double>(0.25)(random_);
    if (seen_.insert(endpoint).second) takes += std::exponential_distribution<double>(0.33)(random_);
    return std::min(takes, 10.0);
  }

 private:
  std::mt19937_64& random_;
  std::set<size_t> seen_;
};

TEST_F(EndpointBalancerTest, PeakEwmaLetsNoneOfEqualsStarve) {
  std::vector<int> all(3);
  for (int run = 0; run < 20; ++run) {
    const auto counts = CountsOf(RunPeakEwma({1, 1, 1}, 6, 900, 0ns, random_, FastService(random_)), 3);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_GT(counts[i], 90) << "of 900, in run " << run;
      all[i] += counts[i];
    }
  }
  for (const int count : all) EXPECT_NEAR(count, 6000, 900);
}

TEST_F(EndpointBalancerTest, PeakEwmaAsksTheSlowerWithTheSquareOfTheRatio) {
  Service service({1, 1});
  const EndpointBalancer balancer = service.Make(Balance::kPeakEwma);
  service.state(0).latency.Observe(7ms, kNow, 10s);  // 1 ms of both is noise: a ratio of 4
  service.state(1).latency.Observe(1ms, kNow, 10s);
  const std::vector<int> picks = Picks(balancer, 100'000);
  EXPECT_NEAR(std::count(picks.begin(), picks.end(), 0), 100'000 / 2 / 16, 400) << "half of its first draws";
}

TEST_F(EndpointBalancerTest, PeakEwmaWithNothingToDoGoesByWeight) {
  std::vector<int> all(4);
  for (int run = 0; run < 40; ++run) {  // a peak may affect a whole run
    const auto counts = CountsOf(RunPeakEwma({1, 2, 3, 4}, 1, 500, 0ns, random_, FastService(random_)), 4);
    for (size_t i = 0; i < 4; ++i) all[i] += counts[i];
  }
  for (size_t i = 0; i < 4; ++i) {
    const double share = 2000.0 * double(i + 1);
    EXPECT_GT(all[i], 0.65 * share) << i;
    EXPECT_LT(all[i], 1.5 * share) << i;
  }
}

TEST_F(EndpointBalancerTest, PeakEwmaComesBackToOneThatWasSlowForAWhile) {
  const auto begun = RunPeakEwma({1, 1, 1}, 6, 20'000, 5ms, random_, [&](size_t endpoint, TimePoint now) {
    return (endpoint == 0 && now < kNow + 5s ? 50 : 1) * std::lognormal_distribution<double>(0, 0.2)(random_);
  });
  ASSERT_GT(begun.back().first, kNow + 12s);
  int slow = 0, slow_of = 0, after = 0, after_of = 0;
  for (const auto& [begin, endpoint] : begun) {
    if (begin < kNow + 5s) {
      ++slow_of;
      slow += endpoint == 0 ? 1 : 0;
    } else if (begin > kNow + 10s) {
      ++after_of;
      after += endpoint == 0 ? 1 : 0;
    }
  }
  EXPECT_LT(slow, slow_of / 100);
  EXPECT_NEAR(after, after_of / 3, after_of / 8);
}

TEST_F(EndpointBalancerTest, PeakEwmaGivesAnUnmeasuredEndpointOneRequestToBeMeasuredBy) {
  Service service({1, 1});
  const EndpointBalancer balancer = service.Make(Balance::kPeakEwma);
  service.state(0).latency.Observe(10ms, kNow, 10s);
  EXPECT_THAT(Picks(balancer, 20), Each(1));
  const auto busy = service.Busy(1, 1);
  EXPECT_THAT(Picks(balancer, 20), Each(0));
}

// The share of 100,000 keys that changed endpoint: among those whose endpoint still exists, and among all.
struct Moved {
  double others, all;
};
Moved CountMoved(const std::function<int(uint64_t)>& before, const std::function<int(uint64_t)>& after, int gone) {
  int moved = 0, of_gone = 0;
  for (uint64_t key = 0; key < 100'000; ++key) {
    const int was = before(MixBits(key)), is = after(MixBits(key));
    if (was == gone) {
      EXPECT_NE(is, gone);
      ++of_gone;
    } else if (was != is) {
      ++moved;
    }
  }
  return {moved / 1e5, (moved + of_gone) / 1e5};
}

TEST_F(EndpointBalancerTest, WhenOneOfManyGoesLittleMoves) {
  for (const Balance balance : {Balance::kRingHash, Balance::kMaglev}) {
    for (const int size : {5, 10, 50, 100}) {
      Service service(std::vector<uint32_t>(static_cast<size_t>(size), 1));
      const EndpointBalancer all = service.Make(balance);
      const int gone = static_cast<int>(random_() % static_cast<unsigned>(size));
      const auto before = [&](uint64_t hash) { return Pick(all, hash); };
      const EndpointBalancer fewer = service.MakeWithout(static_cast<size_t>(gone), balance);
      const Moved removed = CountMoved(
          before,
          [&](uint64_t hash) {
            const int index = Pick(fewer, hash);
            return index < gone ? index : index + 1;
          },
          gone);
      const EndpointBalancer masked = service.Make(balance);
      std::vector<int> was;
      for (uint64_t key = 0; key < 100'000; ++key) was.push_back(Pick(masked, MixBits(key)));
      service.state(static_cast<size_t>(gone)).Exclude(Exclusion::kEjected);
      uint64_t key = 0;
      const Moved excluded =
          CountMoved([&](uint64_t) { return was[key++]; }, [&](uint64_t hash) { return Pick(masked, hash); }, gone);
      std::printf("%s of %3d: a new set moves %5.2f %% of all keys (%4.2f %% of others'), an exclusion %5.2f %%\n",
                  balance == Balance::kMaglev ? "maglev   " : "ring_hash", size, removed.all * 100,
                  removed.others * 100, excluded.all * 100);
      EXPECT_EQ(excluded.others, 0) << "only the excluded one's keys move";
      if (balance == Balance::kRingHash) {
        EXPECT_EQ(removed.others, 0);
      }
      EXPECT_LE(removed.others, 0.01);
    }
  }
}

TEST_F(EndpointBalancerTest, HashesAreSpreadByWeight) {
  for (const Balance balance : {Balance::kRingHash, Balance::kMaglev}) {
    const std::vector<int> counts = Counts(Service({1, 1, 2, 4}).Make(balance), 100'000);
    // A ring with 160 points per endpoint is uneven by about 8 %.
    const double tolerance = balance == Balance::kMaglev ? 0.015 : 0.3;
    EXPECT_NEAR(counts[0] / 12'500.0, 1, tolerance);
    EXPECT_NEAR(counts[2] / 25'000.0, 1, tolerance);
    EXPECT_NEAR(counts[3] / 50'000.0, 1, tolerance);
  }
}

TEST_F(EndpointBalancerTest, TheSameKeyGoesToTheSameEndpointInWhateverOrderTheyAreNamed) {
  for (const Balance balance : {Balance::kRingHash, Balance::kMaglev}) {
    Service service(std::vector<uint32_t>(7, 1));
    const EndpointBalancer one = service.Make(balance);
    std::reverse(service.members().begin(), service.members().end());
    const EndpointBalancer other = service.Make(balance);
    for (uint64_t key = 0; key < 1000; ++key) EXPECT_EQ(Pick(one, MixBits(key)), 6 - Pick(other, MixBits(key)));
  }
}

// All requests have the same key and none ends.
TEST_F(EndpointBalancerTest, ARingsLoadIsBounded) {
  Service service(std::vector<uint32_t>(10, 1));
  const EndpointBalancer bounded = service.Make(Balance::kRingHash);
  const EndpointBalancer unbounded = service.Make({.balance = Balance::kRingHash, .load_bound_percent = 0});
  const int home = Pick(bounded, 42);
  int full = 0;
  std::vector<InFlight> busy;
  for (int i = 0; i < 200; ++i) {
    busy.emplace_back(service.members()[static_cast<size_t>(Pick(bounded, 42))].state);
    for (size_t each = 0; each < 10; ++each) {
      EXPECT_LE(service.state(each).in_flight, std::max(4.0, std::ceil(1.25 * (i + 1) / 10)));
    }
  }
  EXPECT_EQ(Pick(unbounded, 42), home);
  for (size_t each = 0; each < 10; ++each) full += service.state(each).in_flight == 25 ? 1 : 0;
  EXPECT_EQ(full, 8) << "1.25 of the average each, one after the other";
  busy.clear();
  EXPECT_EQ(Pick(bounded, 42), home);
}

TEST_F(EndpointBalancerTest, WithoutAHashOneIsDrawnByWeight) {
  for (const Balance balance : {Balance::kRingHash, Balance::kMaglev}) {
    const EndpointBalancer balancer = Service({1, 2, 3, 4}).Make(balance);
    std::vector<int> counts(4, 0);
    for (const int pick : Picks(balancer, 100'000)) ++counts[static_cast<size_t>(pick)];
    EXPECT_LT(ChiSquare(counts, {1, 2, 3, 4}), kChiSquare3);
  }
}

TEST_F(EndpointBalancerTest, TheShareOfAReturningEndpointGrowsWithTime) {
  for (const Balance balance : kAll) {
    Service service(std::vector<uint32_t>(4, 1));
    const EndpointBalancer balancer = service.Make({.balance = balance, .slow_start = 60s});
    service.state(0).Exclude(Exclusion::kUnhealthy);
    service.state(0).Include(Exclusion::kUnhealthy, kNow);
    std::string curve;
    for (const auto& [after, ramp] : {std::pair(0s, 0.1), {15s, 0.25}, {30s, 0.5}, {45s, 0.75}, {60s, 1.0}}) {
      const double share = Counts(balancer, 40'000, {}, kNow + after)[0] / 40'000.0;
      curve += " " + std::to_string(share * 100).substr(0, 4);
      // By hash an endpoint keeps that share of its own keys; otherwise that share is its weight.
      const bool by_hash = balance == Balance::kRingHash || balance == Balance::kMaglev;
      const double whole = by_hash ? Counts(balancer, 40'000, {}, kNow + 60s)[0] / 40'000.0 : 0.25;
      const double expected = by_hash ? whole * ramp : ramp / (3 + ramp);
      // The other one of two choices wins by its weight, too.
      const double tolerance = balance == Balance::kLeastRequest || balance == Balance::kPeakEwma ? 0.03 : 0.015;
      EXPECT_NEAR(share, expected, tolerance) << static_cast<int>(balance) << " after " << after.count() << " s";
    }
    std::printf("policy %d: share after 0, 15, 30, 45, 60 s of 60:%s %%\n", static_cast<int>(balance), curve.c_str());
  }
}

TEST_F(EndpointBalancerTest, WhereAllAreStartingNobodyWaits) {
  Service service(std::vector<uint32_t>(4, 1));
  for (size_t i = 0; i < 4; ++i) {
    service.state(i).Exclude(Exclusion::kUnhealthy);
    service.state(i).Include(Exclusion::kUnhealthy, kNow);
  }
  for (const Balance balance : kAll) {
    const std::vector<int> counts = Counts(service.Make({.balance = balance, .slow_start = 60s}), 4000);
    EXPECT_THAT(counts, Each(AllOf(Gt(600), Lt(1400)))) << static_cast<int>(balance);
  }
}

TEST_F(EndpointBalancerTest, BelowThePanicThresholdExclusionsAreIgnored) {
  for (const Balance balance : kAll) {
    Service service(std::vector<uint32_t>(4, 1));
    const EndpointBalancer balancer = service.Make({.balance = balance, .panic_percent = 50});
    service.state(0).Exclude(Exclusion::kEjected);
    service.state(1).Exclude(Exclusion::kEjected);
    EXPECT_FALSE(balancer.panicking()) << "half is enough";
    EXPECT_EQ(Counts(balancer, 1000)[0], 0);
    service.state(2).Exclude(Exclusion::kUnhealthy);
    EXPECT_TRUE(balancer.panicking());
    EXPECT_THAT(Counts(balancer, 4000), Each(Gt(500)));
    EXPECT_TRUE(balancer.Usable(0));
    service.state(2).Include(Exclusion::kUnhealthy, kNow);
    EXPECT_EQ(Counts(balancer, 1000)[0], 0);
    EXPECT_FALSE(balancer.Usable(0));
  }
}

TEST_F(EndpointBalancerTest, WithoutAPanicThresholdAllExcludedIsNone) {
  for (const Balance balance : kAll) {
    Service service({1, 1});
    const EndpointBalancer balancer = service.Make({.balance = balance, .panic_percent = 0});
    service.state(0).Exclude(Exclusion::kEjected);
    EXPECT_EQ(Pick(balancer, 1), 1);
    service.state(1).Exclude(Exclusion::kEjected);
    EXPECT_EQ(Pick(balancer, 1), EndpointBalancer::kNone);
  }
}

// Eight endpoints in this zone, eight elsewhere.
TEST_F(EndpointBalancerTest, RequestsStayInTheZoneWhileEnoughOfItIsUsable) {
  for (const Balance balance : kAll) {
    std::vector<bool> local(16, false);
    std::fill_n(local.begin(), 8, true);
    Service service(std::vector<uint32_t>(16, 1), local);
    const EndpointBalancer balancer =
        service.Make({.balance = balance, .panic_percent = 10, .load_bound_percent = 0, .prefer_local = true});
    std::string curve;
    for (size_t gone = 0; gone <= 8; ++gone) {
      if (gone > 0) service.state(gone - 1).Exclude(Exclusion::kUnhealthy);
      const std::vector<int> counts = Counts(balancer, 20'000);
      const double here = std::accumulate(counts.begin(), counts.begin() + 8, 0.0) / 20'000;
      curve += " " + std::to_string(here * 100).substr(0, 4);
      EXPECT_NEAR(here, std::min(1.0, double(8 - gone) / 8 / 0.7), 0.02);
    }
    if (balance == Balance::kRoundRobin) {
      std::printf("own zone's share with 0 to 8 of 8 endpoints out:%s %%\n", curve.c_str());
    }
    EXPECT_GE(Pick(balancer, 1, {8, 9, 10, 11, 12, 13}), 14);
  }
  Service elsewhere({1, 1}, {false, false});
  EXPECT_THAT(Counts(elsewhere.Make({.prefer_local = true}), 100), ElementsAre(50, 50)) << "no endpoint is local";
}

TEST_F(EndpointBalancerTest, AZoneWhoseEndpointsWereAllTriedSpillsOver) {
  Service service({1, 1}, {true, false});
  for (const Balance balance : kAll) {
    const EndpointBalancer balancer = service.Make({.balance = balance, .prefer_local = true});
    EXPECT_EQ(Pick(balancer, 1), 0);
    EXPECT_EQ(Pick(balancer, 1, {0}), 1);
  }
}

// Exclusions change during picks: a pick never returns no endpoint, and never a missing one.
TEST_F(EndpointBalancerTest, ExclusionsMayChangeUnderPicks) {
  Service service(std::vector<uint32_t>(20, 1));
  const EndpointBalancer balancer = service.Make({.balance = Balance::kWeighted});
  std::atomic<bool> stop{false};
  std::thread changing([&] {
    absl::InsecureBitGen random;
    for (int i = 0; i < 5000; ++i) {
      EndpointState& state = service.state(absl::Uniform<size_t>(random, 0, 10));
      state.Exclude(Exclusion::kEjected);
      state.Include(Exclusion::kEjected, kNow);
    }
    stop = true;
  });
  std::vector<std::thread> picking;
  for (int t = 0; t < 2; ++t) {
    picking.emplace_back([&] {
      absl::InsecureBitGen random;
      while (!stop) {
        const int index = balancer.Pick(cursor_, {.random = random, .now = kNow});
        ASSERT_GE(index, 0);
        ASSERT_LT(index, 20);
      }
    });
  }
  changing.join();
  for (std::thread& thread : picking) thread.join();
  EXPECT_THAT(Counts(balancer, 2000), Each(100)) << "in the end all are usable";
}

TEST_F(EndpointBalancerTest, OneThatDrainsIsUsableForItsSessionsAndNeverPicked) {
  Service service({0, 1, 0});
  service.members()[0].draining = true;
  for (const Balance balance : kAll) {
    const EndpointBalancer balancer = service.Make(balance);
    EXPECT_TRUE(balancer.Usable(0));
    EXPECT_FALSE(balancer.Usable(2)) << "taken out";
    for (int i = 0; i < 100; ++i) EXPECT_EQ(Pick(balancer, static_cast<uint64_t>(i)), 1);
  }
  service.state(0).Exclude(Exclusion::kUnhealthy);
  EXPECT_FALSE(service.Make(Balance::kRoundRobin).Usable(0));
  service.state(0).Include(Exclusion::kUnhealthy, kNow);
  service.members().erase(service.members().begin() + 1, service.members().end());
  const EndpointBalancer last = service.Make(Balance::kRoundRobin);
  EXPECT_EQ(Pick(last), EndpointBalancer::kNone);
  EXPECT_TRUE(last.Usable(0));
}

}  // namespace
}  // namespace gateway::dataplane
