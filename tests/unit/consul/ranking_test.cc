// Which services get a watch if there are not enough.
#include "controlplane/sources/consul/ranking.h"

#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gateway::controlplane {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

std::vector<WatchCandidate> Numbered(std::vector<WatchCandidate> candidates) {
  for (size_t i = 0; i < candidates.size(); ++i) candidates[i].index = i;
  return candidates;
}

TEST(ChooseWatched, TheBusiestFirstThenThoseThatPolicyNamesThenTheRest) {
  const WatchChoice choice =
      ChooseWatched(Numbered({{}, {.named = true}, {.magnitude = 2}, {.magnitude = 9, .named = true}, {}}), 4);
  EXPECT_THAT(choice.begin, ElementsAre(3, 2, 1, 0));
  EXPECT_THAT(choice.end, IsEmpty());
  EXPECT_THAT(choice.swaps, IsEmpty());
  EXPECT_THAT(ChooseWatched(Numbered({{}, {}}), 0).begin, IsEmpty());
}

TEST(ChooseWatched, PastTheNumberTheLowestEnd) {
  const WatchChoice choice = ChooseWatched(
      Numbered({{.magnitude = 3, .watched = true}, {.watched = true}, {.named = true, .watched = true}}), 1);
  EXPECT_THAT(choice.end, ElementsAre(1, 2));
  EXPECT_THAT(choice.begin, IsEmpty());
}

TEST(ChooseWatched, AWatchChangesHandsOnlyWhereThatIsWorthIt) {
  const auto swaps = [](WatchCandidate has, WatchCandidate wants) {
    has.watched = true;
    return !ChooseWatched(Numbered({has, wants}), 1).swaps.empty();
  };
  EXPECT_TRUE(swaps({.magnitude = 4, .settled = true}, {.magnitude = 6}));
  EXPECT_FALSE(swaps({.magnitude = 4, .settled = true}, {.magnitude = 5})) << "not four times as many";
  EXPECT_FALSE(swaps({.magnitude = 4}, {.magnitude = 20})) << "not settled";
  EXPECT_FALSE(swaps({.magnitude = 1, .settled = true}, {.named = true}));
  EXPECT_TRUE(swaps({.named = true, .settled = true}, {.magnitude = 1}));
  EXPECT_FALSE(swaps({.named = true}, {.magnitude = 1})) << "an occasional request";
  EXPECT_TRUE(swaps({.named = true}, {.magnitude = 3})) << "steady traffic does not wait";
  EXPECT_TRUE(swaps({.settled = true}, {.named = true}));
  EXPECT_FALSE(swaps({}, {.named = true}));
  EXPECT_FALSE(swaps({.named = true, .settled = true}, {.named = true}));
}

TEST(ChooseWatched, TheMostIsGainedFirst) {
  const WatchChoice choice = ChooseWatched(Numbered({{.magnitude = 1, .watched = true, .settled = true},
                                                     {.watched = true, .settled = true},
                                                     {.magnitude = 3},
                                                     {.magnitude = 8}}),
                                           2);
  EXPECT_THAT(choice.swaps, ElementsAre(Pair(1, 3), Pair(0, 2)));
}

// Shifting traffic must not make watches change hands forever.
TEST(ChooseWatched, SteadyTrafficComesToRest) {
  std::vector<WatchCandidate> candidates(300);
  for (size_t i = 0; i < candidates.size(); ++i) {
    candidates[i] = {.index = i, .magnitude = static_cast<uint32_t>(i % 7), .settled = true};
  }
  for (int round = 0; round < 10; ++round) {
    const WatchChoice choice = ChooseWatched(candidates, 80);
    for (const size_t index : choice.end) candidates[index].watched = false;
    for (const size_t index : choice.begin) candidates[index].watched = true;
    for (const auto& [loser, winner] : choice.swaps) {
      candidates[loser].watched = false;
      candidates[winner].watched = true;
    }
    EXPECT_TRUE(round == 0 || choice.swaps.empty()) << round;
    // The measured magnitude varies by one (a factor of two).
    for (WatchCandidate& each : candidates) each.magnitude = each.index % 7 + (each.index + round) % 2;
  }
}

}  // namespace
}  // namespace gateway::controlplane
