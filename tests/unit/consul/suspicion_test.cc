#include "controlplane/sources/consul/suspicion.h"

#include "controlplane/sources/consul/pace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gateway::controlplane {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using Kind = Verdict::Kind;

Loss Zero() { return {.before = 3, .remaining = 0, .lost = 3}; }

Loss Confirmed(Loss loss) {
  loss.confirmed = true;
  return loss;
}

TEST(Suspicion, GainsAndOrdinaryLossesAreBelieved) {
  EXPECT_EQ(JudgeLoss({.before = 0, .remaining = 5}, 0s).kind, Kind::kBelieve);
  EXPECT_EQ(JudgeLoss({.before = 3, .remaining = 2, .lost = 1}, 0s).kind, Kind::kBelieve);
  // Nothing is lost: an index that went back or a missing leader does not matter.
  EXPECT_EQ(JudgeLoss({.before = 3, .remaining = 3, .leader_known = false, .index_went_back = true}, 0s).kind,
            Kind::kBelieve);
}

TEST(Suspicion, WhatMayBeAMistakeIsConfirmed) {
  EXPECT_EQ(JudgeLoss(Zero(), 0s).kind, Kind::kConfirm);
  const Loss one{.before = 3, .remaining = 2, .lost = 1};
  Loss loss = one;
  loss.leader_known = false;
  EXPECT_EQ(JudgeLoss(loss, 0s).kind, Kind::kConfirm);
  loss = one;
  loss.index_went_back = true;
  EXPECT_EQ(JudgeLoss(loss, 0s).kind, Kind::kConfirm);
  loss = one;
  loss.mass = true;
  EXPECT_EQ(JudgeLoss(loss, 0s).kind, Kind::kConfirm);
}

TEST(Suspicion, ServiceThatShrinksByMostOfManyInstancesIsHeldForAWhile) {
  const Loss shrunk{.before = 20, .remaining = 5, .lost = 15};
  EXPECT_EQ(JudgeLoss(shrunk, 0s).kind, Kind::kConfirm);
  EXPECT_EQ(JudgeLoss(Confirmed(shrunk), 0s).kind, Kind::kHold);
  EXPECT_THAT(JudgeLoss(Confirmed(shrunk), 0s).alarm, HasSubstr("15 of 20 instances gone at once"));
  EXPECT_EQ(JudgeLoss(Confirmed(shrunk), kLossHold).kind, Kind::kBelieve);
  // Half of them, a handful, or all replaced by others.
  EXPECT_EQ(JudgeLoss({.before = 20, .remaining = 10, .lost = 10}, 0s).kind, Kind::kBelieve);
  EXPECT_EQ(JudgeLoss({.before = 9, .remaining = 1, .lost = 8}, 0s).kind, Kind::kBelieve);
  EXPECT_EQ(JudgeLoss({.before = 20, .remaining = 20, .lost = 20}, 0s).kind, Kind::kBelieve);
}

TEST(Suspicion, LeaderSaysGoneAndUnlistedIsBelieved) {
  EXPECT_EQ(JudgeLoss(Confirmed(Zero()), 0s).kind, Kind::kBelieve);
}

TEST(Suspicion, ListedWithoutInstancesIsHeldForEver) {
  Loss loss = Confirmed(Zero());
  loss.listed = true;
  EXPECT_EQ(JudgeLoss(loss, 1000h).kind, Kind::kHold);
  EXPECT_THAT(JudgeLoss(loss, 0s).alarm, HasSubstr("node:read"));
  loss.listed = false;
  loss.listing_suspect = true;
  EXPECT_EQ(JudgeLoss(loss, 1000h).kind, Kind::kHold);
  EXPECT_THAT(JudgeLoss(loss, 0s).alarm, HasSubstr("service:read"));
}

TEST(Suspicion, MassLossAndIndexGoingBackAreHeldForAWhile) {
  for (bool Loss::*reason : {&Loss::mass, &Loss::index_went_back}) {
    Loss loss = Confirmed(Zero());
    loss.*reason = true;
    EXPECT_EQ(JudgeLoss(loss, kLossHold - 1s).kind, Kind::kHold);
    EXPECT_FALSE(JudgeLoss(loss, 0s).alarm.empty());
    EXPECT_EQ(JudgeLoss(loss, kLossHold).kind, Kind::kBelieve);
  }
}

TEST(Suspicion, OtherInstancesAfterTheIndexWentBackAreBelieved) {
  Loss loss = Confirmed({.before = 1, .remaining = 1, .lost = 1});
  loss.index_went_back = true;
  EXPECT_EQ(JudgeLoss(loss, 0s).kind, Kind::kBelieve) << "registered again after a full restart";
}

TEST(Suspicion, ListingWithoutConsulItselfIsSuspect) {
  const CatalogListing whole{{"consul", {}}, {"web", {}}};
  const CatalogListing scoped{{"web", {}}};
  EXPECT_EQ(SuspectListing({}, whole), "");
  EXPECT_EQ(SuspectListing(whole, {{"consul", {}}}), "");
  EXPECT_EQ(SuspectListing({}, scoped), "") << "a token limited to one service";
  EXPECT_EQ(SuspectListing(scoped, {{"other", {}}}), "");
  EXPECT_NE(SuspectListing(whole, scoped), "");
  EXPECT_NE(SuspectListing(whole, {}), "");
  EXPECT_NE(SuspectListing({}, {}), "");
}

TEST(LossLedger, MostOfAllAtOnceIsMass) {
  const LossLedger::Clock::time_point now{};
  LossLedger ledger;
  EXPECT_FALSE(ledger.IsMass(9, 0, 9, now)) << "a few are never mass loss";
  EXPECT_TRUE(ledger.IsMass(10, 0, 10, now));
  EXPECT_FALSE(ledger.IsMass(10, 0, 20, now)) << "half is not more than half";
  EXPECT_TRUE(ledger.IsMass(11, 0, 20, now));
  EXPECT_TRUE(ledger.IsMass(1, 10, 20, now)) << "suspect services count";
}

TEST(LossLedger, LossesOfTheLastSecondsAddUp) {
  LossLedger::Clock::time_point now{};
  LossLedger ledger;
  ledger.Believe(10, now);  // of 20
  EXPECT_TRUE(ledger.IsMass(1, 0, 10, now + kMassLossWindow));
  EXPECT_FALSE(ledger.IsMass(1, 0, 10, now + kMassLossWindow + 1ms));
}

TEST(LossLedger, StaysBounded) {
  LossLedger::Clock::time_point now{};
  LossLedger ledger;
  for (int i = 0; i < 100'000; ++i) ledger.Believe(1, now);
  EXPECT_TRUE(ledger.IsMass(1, 0, 10, now));
  EXPECT_FALSE(ledger.IsMass(1, 0, 10, now + kMassLossWindow + 1ms));
}

TEST(Pace, IndexRules) {
  EXPECT_EQ(NextIndex(0, 0), 1u) << "0 would poll in a busy loop";
  EXPECT_EQ(NextIndex(0, 7), 7u);
  EXPECT_EQ(NextIndex(7, 7), 7u);
  EXPECT_EQ(NextIndex(7, 9), 9u);
  EXPECT_EQ(NextIndex(7, 6), 0u) << "went back";
  EXPECT_EQ(NextIndex(7, 0), 0u);
}

TEST(Pace, TwoTurnsAtOnceThenOneAnInterval) {
  LoopPace pace(250ms);
  const LoopPace::Clock::time_point begin{1h};
  EXPECT_EQ(pace.Take(begin), 0ms);
  EXPECT_EQ(pace.Take(begin), 0ms);
  EXPECT_EQ(pace.Take(begin), 250ms);
  EXPECT_EQ(pace.Take(begin + 250ms), 250ms);
  EXPECT_EQ(pace.Take(begin + 1500ms), 0ms) << "a pause refills it";
  EXPECT_EQ(pace.Take(begin + 1500ms), 0ms);
  EXPECT_GT(pace.Take(begin + 1500ms), 0ms) << "but never above two";
}

TEST(Pace, RetryDelayGrowsToItsLimit) {
  RetryDelay delay;
  EXPECT_EQ(delay.Next(0), 50ms);
  EXPECT_EQ(delay.Next(0), 100ms);
  for (int i = 0; i < 100; ++i) delay.Next(0.5);
  EXPECT_EQ(delay.Next(0), RetryDelay::kMax / 2);
  EXPECT_LE(delay.Next(0.999999), RetryDelay::kMax);
  delay.Reset();
  EXPECT_LE(delay.Next(0.999999), 100ms);
}

TEST(Pace, WaitIsSpreadAndTheDeadlineLiesBeyondConsulsOwn) {
  EXPECT_EQ(SpreadWait(55s, 0), 55s);
  EXPECT_GE(SpreadWait(55s, 0.999999), 49500ms);
  EXPECT_GT(ResponseDeadline(55s), 55s + 55s / 16);
}

}  // namespace
}  // namespace gateway::controlplane
