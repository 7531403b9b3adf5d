#include "dataplane/net/tls/ticket_keys.h"

#include <chrono>

#include "gtest/gtest.h"

namespace gateway::dataplane::tls {
namespace {

using namespace std::chrono_literals;

TicketKey KeyOf(unsigned char byte) {
  TicketKey key;
  key.name.fill(byte);
  key.cipher.fill(byte);
  key.mac.fill(byte);
  return key;
}

class TicketKeysTest : public ::testing::Test {
 protected:
  const std::chrono::steady_clock::time_point now_{1000h};
  TicketKeys keys_{now_};
};

TEST_F(TicketKeysTest, OwnKeysRotateAndOpenWhatTheLastThreeHaveSealed) {
  const TicketKey first = keys_.Current(now_);
  EXPECT_EQ(keys_.Current(now_ + 7h).name, first.name);
  EXPECT_NE(keys_.Current(now_ + 8h).name, first.name);
  ASSERT_TRUE(keys_.Find(first.name.data()).has_value());
  EXPECT_FALSE(keys_.Find(first.name.data())->current);
  (void)keys_.Current(now_ + 16h);
  EXPECT_TRUE(keys_.Find(first.name.data()).has_value());
  (void)keys_.Current(now_ + 24h);
  EXPECT_FALSE(keys_.Find(first.name.data()).has_value());
}

TEST_F(TicketKeysTest, TheFleetsTakeOverAndTheOwnOneStillOpens) {
  const TicketKey own = keys_.Current(now_);
  EXPECT_FALSE(keys_.of_fleet());
  keys_.Use({.previous = KeyOf(1), .current = KeyOf(2), .next = KeyOf(3), .next_in = 1h}, now_);
  EXPECT_TRUE(keys_.of_fleet());
  EXPECT_EQ(keys_.Current(now_).name, KeyOf(2).name);
  EXPECT_FALSE(keys_.Find(KeyOf(1).name.data())->current);
  EXPECT_TRUE(keys_.Find(KeyOf(3).name.data())->current) << "a data plane may have rotated a little earlier";
  EXPECT_TRUE(keys_.Find(own.name.data()).has_value());
}

// Two data planes that hear nothing more agree through one rotation, and then no key stays for ever.
TEST_F(TicketKeysTest, TheNextKeyBecomesCurrentWithoutTheControlPlaneAndOwnOnesFollow) {
  TicketKeys other(now_);
  for (TicketKeys* each : {&keys_, &other}) {
    each->Use({.previous = {}, .current = KeyOf(2), .next = KeyOf(3), .next_in = 1h}, now_);
  }
  EXPECT_EQ(keys_.Current(now_ + 1h).name, KeyOf(3).name);
  EXPECT_EQ(other.Current(now_ + 2h).name, KeyOf(3).name);
  EXPECT_TRUE(other.Find(KeyOf(2).name.data()).has_value());
  const TicketKey later = keys_.Current(now_ + 9h);
  EXPECT_NE(later.name, KeyOf(3).name);
  EXPECT_FALSE(keys_.of_fleet());
  EXPECT_FALSE(other.Find(later.name.data()).has_value());
  (void)keys_.Current(now_ + 17h);
  (void)keys_.Current(now_ + 25h);
  EXPECT_FALSE(keys_.Find(KeyOf(3).name.data()).has_value());
}

TEST_F(TicketKeysTest, ANextKeyWhoseWholePeriodHasPassedIsNotUsed) {
  keys_.Use({.previous = {}, .current = KeyOf(2), .next = KeyOf(3), .next_in = 1h}, now_);
  const TicketKey late = keys_.Current(now_ + 10h);
  EXPECT_NE(late.name, KeyOf(3).name);
  EXPECT_FALSE(keys_.of_fleet());
}

TEST_F(TicketKeysTest, TheSameKeysAgainAndARotationKeepTheirOrder) {
  const FleetTicketKeys keys = {.previous = KeyOf(1), .current = KeyOf(2), .next = KeyOf(3), .next_in = 1h};
  keys_.Use(keys, now_);
  keys_.Use(keys, now_);
  EXPECT_EQ(keys_.Current(now_).name, KeyOf(2).name);
  EXPECT_EQ(keys_.Current(now_ + 1h).name, KeyOf(3).name);
  keys_.Use({.previous = KeyOf(2), .current = KeyOf(3), .next = KeyOf(4), .next_in = 8h}, now_ + 1h);
  EXPECT_EQ(keys_.Current(now_ + 2h).name, KeyOf(3).name);
  EXPECT_TRUE(keys_.Find(KeyOf(2).name.data()).has_value());
  EXPECT_TRUE(keys_.Find(KeyOf(1).name.data()).has_value());
}

}  // namespace
}  // namespace gateway::dataplane::tls
