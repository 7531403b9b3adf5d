#include "dataplane/policy/health_tracker.h"

#include "gtest/gtest.h"

namespace gateway::dataplane {
namespace {

TEST(HealthTracker, ServesUntilTheFirstCheckDecides) {
  HealthTracker tracker({.healthy = 2, .unhealthy = 3});
  EXPECT_TRUE(tracker.healthy());
  EXPECT_FALSE(tracker.known());
  EXPECT_TRUE(tracker.Record(false));
  EXPECT_FALSE(tracker.healthy());
  HealthTracker other({.healthy = 2, .unhealthy = 3});
  EXPECT_FALSE(other.Record(true));
  EXPECT_TRUE(other.known());
}

TEST(HealthTracker, TakesAsManyInARowAsItsThresholds) {
  HealthTracker tracker({.healthy = 2, .unhealthy = 3});
  tracker.Record(true);
  EXPECT_FALSE(tracker.Record(false));
  EXPECT_FALSE(tracker.Record(false));
  EXPECT_FALSE(tracker.Record(true));
  EXPECT_FALSE(tracker.Record(false));
  EXPECT_FALSE(tracker.Record(false));
  EXPECT_TRUE(tracker.healthy()) << "a pass restarts the count";
  EXPECT_TRUE(tracker.Record(false));
  EXPECT_FALSE(tracker.healthy());
  EXPECT_FALSE(tracker.Record(true));
  EXPECT_FALSE(tracker.Record(false));
  EXPECT_FALSE(tracker.Record(true));
  EXPECT_TRUE(tracker.Record(true));
  EXPECT_TRUE(tracker.healthy());
}

TEST(HealthTracker, NewThresholdsKeepItsHealth) {
  HealthTracker tracker({.healthy = 5, .unhealthy = 1});
  tracker.Record(false);
  tracker.Reconfigure({.healthy = 1, .unhealthy = 1});
  EXPECT_FALSE(tracker.healthy());
  EXPECT_TRUE(tracker.Record(true));
}

}  // namespace
}  // namespace gateway::dataplane
