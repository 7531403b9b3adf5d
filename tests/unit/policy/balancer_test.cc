#include "dataplane/policy/balancer.h"

#include <map>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/random/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gateway::dataplane {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::Le;

constexpr auto kRoundRobin = v1::LoadBalancer::ROUND_ROBIN;
constexpr auto kRandom = v1::LoadBalancer::RANDOM;
constexpr auto kWeighted = v1::LoadBalancer::WEIGHTED;

Balancer Make(v1::LoadBalancer::Policy policy, std::vector<uint32_t> weights) { return Balancer(policy, weights); }

std::vector<int> Picks(const Balancer& balancer, int count, const std::vector<bool>& excluded = {}) {
  std::atomic<uint64_t> cursor{0};
  absl::InsecureBitGen random;
  std::vector<int> picks(count);
  for (int& pick : picks) {
    pick = excluded.empty() ? balancer.Pick(cursor, random) : balancer.PickExcept(cursor, random, excluded);
  }
  return picks;
}

std::vector<int> Counts(const std::vector<int>& picks, size_t size) {
  std::vector<int> counts(size, 0);
  for (const int pick : picks) ++counts.at(static_cast<size_t>(pick));
  return counts;
}

TEST(Balancer, RoundRobinGoesInTurnWhateverTheWeights) {
  EXPECT_THAT(Picks(Make(kRoundRobin, {1, 5, 0, 2}), 7), ElementsAre(0, 1, 3, 0, 1, 3, 0));
}

TEST(Balancer, AnUnsaidPolicyIsRoundRobin) {
  EXPECT_THAT(Picks(Make(v1::LoadBalancer::POLICY_UNSPECIFIED, {1, 1}), 4), ElementsAre(0, 1, 0, 1));
}

TEST(Balancer, NothingToChooseIsNone) {
  for (const auto policy : {kRoundRobin, kRandom, kWeighted}) {
    EXPECT_THAT(Picks(Make(policy, {}), 2), Each(Balancer::kNone));
    EXPECT_THAT(Picks(Make(policy, {0, 0}), 2), Each(Balancer::kNone));
    EXPECT_THAT(Picks(Make(policy, {1, 1, 0}), 2, {true, true, false}), Each(Balancer::kNone));
    EXPECT_THAT(Picks(Make(policy, {0, 3}), 3), Each(1));
  }
}

TEST(Balancer, RoundRobinIsExactlyEvenOverThreads) {
  constexpr int kThreads = 4, kEach = 3000;
  const Balancer balancer = Make(kRoundRobin, {1, 1, 1});
  std::atomic<uint64_t> cursor{0};
  std::vector<std::vector<int>> picks(kThreads);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      absl::InsecureBitGen random;
      for (int i = 0; i < kEach; ++i) picks[t].push_back(balancer.Pick(cursor, random));
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<int> all;
  for (const auto& some : picks) all.insert(all.end(), some.begin(), some.end());
  EXPECT_THAT(Counts(all, 3), Each(kThreads * kEach / 3));
}

TEST(Balancer, ACursorSurvivesANewSet) {
  std::atomic<uint64_t> cursor{0};
  absl::InsecureBitGen random;
  const Balancer before = Make(kRoundRobin, {1, 1, 1}), after = Make(kRoundRobin, {1, 1, 1});
  EXPECT_EQ(before.Pick(cursor, random), 0);
  EXPECT_EQ(after.Pick(cursor, random), 1);
}

// Chi-square with 9 degrees of freedom: above 33.7 one time in 10,000.
TEST(Balancer, RandomIsUniform) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  constexpr int kEndpoints = 10, kPicks = 100'000;
  const Balancer balancer = Make(kRandom, std::vector<uint32_t>(kEndpoints, 7));
  for (const bool with_exclusion : {false, true}) {
    std::vector<bool> excluded(kEndpoints, false);
    std::atomic<uint64_t> cursor{0};
    std::vector<int> picks;
    for (int i = 0; i < kPicks; ++i) {
      picks.push_back(with_exclusion ? balancer.PickExcept(cursor, random, excluded) : balancer.Pick(cursor, random));
    }
    double chi_square = 0;
    for (const int count : Counts(picks, kEndpoints)) {
      const double expected = double{kPicks} / kEndpoints;
      chi_square += (count - expected) * (count - expected) / expected;
    }
    EXPECT_LT(chi_square, 33.7);
    EXPECT_GT(chi_square, 0.3) << "too even to be random";
  }
}

TEST(Balancer, WeightedIsSmooth) {
  EXPECT_THAT(Picks(Make(kWeighted, {5, 1, 1}), 8), ElementsAre(0, 0, 1, 0, 2, 0, 0, 0)) << "as nginx has it";
}

TEST(Balancer, WeightedIsExactOverAPeriod) {
  EXPECT_THAT(Counts(Picks(Make(kWeighted, {200, 100, 0, 400}), 700), 4), ElementsAre(200, 100, 0, 400));
}

TEST(Balancer, WeightedTakesTheSmallestNumbers) {
  // 1:2 in 3 turns, not in 196,605.
  EXPECT_THAT(Picks(Make(kWeighted, {32767, 65534}), 6), ElementsAre(1, 0, 1, 1, 0, 1));
}

TEST(Balancer, FinerRatiosAreRoundedButNoneToZero) {
  const std::vector<int> counts = Counts(Picks(Make(kWeighted, {65535, 1, 32768}), Balancer::kScheduleMax), 3);
  EXPECT_THAT(counts, Each(Ge(1)));
  EXPECT_NEAR(counts[0] / double(counts[2]), 2.0, 0.01);
}

TEST(Balancer, MoreEndpointsThanScheduleEntriesAllGetSome) {
  std::vector<uint32_t> weights(Balancer::kScheduleMax + 500, 1);
  weights[7] = 3;
  const std::vector<int> counts =
      Counts(Picks(Make(kWeighted, weights), static_cast<int>(weights.size())), weights.size());
  EXPECT_THAT(counts, Each(Ge(1)));
}

TEST(Balancer, EqualWeightsOfManyEndpointsAreTakenInTurn) {
  std::vector<int> expected(10'000);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(Picks(Make(kWeighted, std::vector<uint32_t>(10'000, 100)), 10'000), expected);
}

TEST(Balancer, TheShareOfAnExcludedOneIsSpreadOverAllOthers) {
  const std::vector<int> counts = Counts(Picks(Make(kRoundRobin, {1, 1, 1, 1}), 3000, {false, true}), 4);
  EXPECT_THAT(counts, ElementsAre(1000, 0, 1000, 1000));
  EXPECT_THAT(Counts(Picks(Make(kWeighted, {1, 2, 3}), 400, {false, true}), 3), ElementsAre(100, 0, 300));
}

}  // namespace
}  // namespace gateway::dataplane
