#include "common/base/backoff.h"

#include <algorithm>
#include <chrono>
#include <random>

#include "gtest/gtest.h"

namespace gateway {
namespace {

using namespace std::chrono_literals;

TEST(Backoff, ReconnectDelayGrowsToFiveSecondsWithFullJitter) {
  std::mt19937_64 random(20'240'607);
  for (int attempt = 0; attempt < 40; ++attempt) {
    const auto ceiling = attempt < 6 ? 100ms * (1 << attempt) : 5000ms;
    std::chrono::milliseconds least = 1h, most = 0ms;
    for (int i = 0; i < 2000; ++i) {
      const auto delay = ReconnectDelay(attempt, random);
      ASSERT_GE(delay, 1ms);
      ASSERT_LE(delay, ceiling);
      least = std::min(least, delay);
      most = std::max(most, delay);
    }
    EXPECT_LT(least, ceiling / 20) << attempt;  // full jitter: delays start near zero
    EXPECT_GT(most, ceiling - ceiling / 20) << attempt;
  }
}

}  // namespace
}  // namespace gateway
