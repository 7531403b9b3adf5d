#include "dataplane/auth/password_pool.h"

#include <atomic>
#include <future>

#include "common/base/text.h"
#include "gtest/gtest.h"
#include "tests/fixtures/wait_for.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;
using fixtures::WaitFor;
using Answer = PasswordPool::Answer;

std::shared_ptr<const PasswordHash> HashOf(std::string_view password, uint32_t log2_cost = 4) {
  PasswordHash parameters;
  parameters.log2_cost = log2_cost;
  parameters.parallelism = 1;
  return std::make_shared<const PasswordHash>(*PasswordHash::Parse(*HashPassword(password, parameters)));
}

TimePoint Now() { return std::chrono::steady_clock::now(); }

Answer CheckOnce(PasswordPool& pool, std::string_view key, const std::shared_ptr<const PasswordHash>& hash,
                 std::string_view password, TimePoint now = Now(), bool decoy = false) {
  auto answer = std::make_shared<std::promise<Answer>>();
  if (const auto at_once = pool.Check(Sha256(key), hash, std::string(password), decoy, now,
                                      [answer](Answer value) { answer->set_value(value); })) {
    return *at_once;
  }
  return answer->get_future().get();
}

TEST(PasswordPool, RemembersASuccessForAMinute) {
  PasswordPool pool({});
  const auto hash = HashOf("secret");
  EXPECT_EQ(CheckOnce(pool, "k", hash, "secret"), Answer::kGood);
  EXPECT_EQ(CheckOnce(pool, "k", hash, "secret", Now() + 59s), Answer::kGood);
  EXPECT_EQ(pool.stats().checks, 1u);
  EXPECT_EQ(CheckOnce(pool, "k", hash, "secret", Now() + 61s), Answer::kGood);
  EXPECT_EQ(pool.stats().checks, 2u);
  EXPECT_EQ(pool.stats().remembered, 1u);
}

TEST(PasswordPool, ChecksAFailureAgain) {
  PasswordPool pool({});
  const auto hash = HashOf("secret");
  EXPECT_EQ(CheckOnce(pool, "k", hash, "guess"), Answer::kWrong);
  EXPECT_EQ(CheckOnce(pool, "k", hash, "guess"), Answer::kWrong);
  EXPECT_EQ(pool.stats().checks, 2u);
}

TEST(PasswordPool, ADecoyIsCheckedAndNeverRight) {
  PasswordPool pool({});
  const auto hash = HashOf("secret");
  EXPECT_EQ(CheckOnce(pool, "k", hash, "secret", Now(), true), Answer::kWrong);
  EXPECT_EQ(pool.stats().checks, 1u);
}

// A hash of a few seconds' work holds the only thread; what comes meanwhile is queued up to the bound, the same
// credentials share one check, and the rest is told so at once.
TEST(PasswordPool, IsBounded) {
  PasswordPool pool({.threads = 1, .queued_max = 2, .waiting_max = 5});
  const auto slow = HashOf("x", 16);
  const auto hash = HashOf("x");
  std::atomic<int> answered{0};
  const auto check = [&](std::string_view key, const std::shared_ptr<const PasswordHash>& of) {
    return pool.Check(Sha256(key), of, "x", false, Now(), [&answered](Answer) { ++answered; });
  };
  EXPECT_EQ(check("slow", slow), std::nullopt);
  EXPECT_EQ(check("slow", slow), std::nullopt);
  ASSERT_TRUE(WaitFor([&] { return pool.stats().checks == 1 || answered > 0; }));
  EXPECT_EQ(check("a", hash), std::nullopt);
  EXPECT_EQ(check("b", hash), std::nullopt);
  EXPECT_EQ(check("c", hash), Answer::kOverloaded);  // the queue is full
  EXPECT_EQ(check("b", hash), std::nullopt);         // shares
  EXPECT_EQ(check("b", hash), Answer::kOverloaded);  // too many wait
  EXPECT_EQ(pool.stats().overloaded, 2u);
  EXPECT_TRUE(WaitFor([&] { return answered == 5; }));
  EXPECT_EQ(pool.stats().checks, 3u);
}

TEST(PasswordPool, StopsWithChecksInItsQueue) {
  std::atomic<int> answered{0};
  const auto slow = HashOf("x", 14);
  {
    PasswordPool pool({.threads = 1});
    for (int i = 0; i < 20; ++i) {
      EXPECT_EQ(pool.Check(Sha256(Concat(i)), slow, "x", false, Now(), [&](Answer) { ++answered; }), std::nullopt);
    }
  }
  EXPECT_LT(answered, 20);
}

}  // namespace
}  // namespace gateway::dataplane
