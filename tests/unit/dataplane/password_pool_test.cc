#include "dataplane/auth/password_pool.h"

#include <algorithm>
#include <atomic>
#include <future>
#include <mutex>
#include <vector>

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
                 std::string_view password, TimePoint now = Now(), bool decoy = false,
                 const ClientPrefix& client = {}) {
  auto answer = std::make_shared<std::promise<Answer>>();
  if (const auto at_once = pool.Check(Sha256(key), hash, std::string(password), decoy, client, now,
                                      [answer](Answer value) { answer->set_value(value); })) {
    return *at_once;
  }
  return answer->get_future().get();
}

TEST(PasswordPool, RemembersASuccessForAnHourAfterItsLastUse) {
  PasswordPool pool({});
  const auto hash = HashOf("secret");
  const TimePoint begin = Now();
  EXPECT_EQ(CheckOnce(pool, "k", hash, "secret", begin), Answer::kGood);
  for (int i = 1; i <= 3; ++i) EXPECT_EQ(CheckOnce(pool, "k", hash, "secret", begin + i * 59min), Answer::kGood);
  EXPECT_TRUE(pool.Remembers(Sha256("k"), begin + 4 * 59min));
  EXPECT_EQ(pool.stats().checks, 1u);
  EXPECT_EQ(CheckOnce(pool, "k", hash, "secret", begin + 4 * 59min + 61min), Answer::kGood);
  EXPECT_EQ(pool.stats().checks, 2u);
  EXPECT_EQ(pool.stats().remembered, 4u);
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

// A hash that takes seconds occupies the only thread. Checks that arrive meanwhile are queued up to the bound, equal
// credentials share one check, and the rest is rejected at once.
TEST(PasswordPool, IsBounded) {
  PasswordPool pool({.threads = 1, .queued_max = 2, .waiting_max = 5});
  const auto slow = HashOf("x", 16);
  const auto hash = HashOf("x");
  std::atomic<int> answered{0};
  const auto check = [&](std::string_view key, const std::shared_ptr<const PasswordHash>& of) {
    return pool.Check(Sha256(key), of, "x", false, {}, Now(), [&answered](Answer) { ++answered; });
  };
  EXPECT_EQ(check("slow", slow), std::nullopt);
  EXPECT_EQ(check("slow", slow), std::nullopt);
  ASSERT_TRUE(WaitFor([&] { return pool.stats().checks == 1 || answered > 0; }));
  EXPECT_EQ(check("a", hash), std::nullopt);
  EXPECT_EQ(check("b", hash), std::nullopt);
  EXPECT_EQ(check("c", hash), Answer::kOverloaded);  // the queue is full
  EXPECT_EQ(check("b", hash), std::nullopt);         // shares the check
  EXPECT_EQ(check("b", hash), Answer::kOverloaded);  // too many waiters
  EXPECT_EQ(pool.stats().overloaded, 2u);
  EXPECT_TRUE(WaitFor([&] { return answered == 5; }));
  EXPECT_EQ(pool.stats().checks, 3u);
}

ClientPrefix Client(uint32_t address) { return {ClientPrefix::Kind::kIpv4, address}; }

// Ninety connections of one client with made-up names, then others with correct passwords, known and new.
TEST(PasswordPool, OneClientsFloodLeavesOthersTheirPlace) {
  PasswordPool pool({.threads = 1, .queued_max = 16});
  const auto hash = HashOf("secret");
  const auto slow = HashOf("x", 15);
  EXPECT_EQ(CheckOnce(pool, "known", hash, "secret", Now(), false, Client(2)), Answer::kGood);
  std::atomic<int> wrong{0}, ended{0};
  int refused = 0;
  for (int i = 0; i < 90; ++i) {
    const auto at_once =
        pool.Check(Sha256(Concat("made up ", i)), slow, "y", true, Client(1), Now(), [&](Answer answer) {
          if (answer == Answer::kWrong) ++wrong;
          ++ended;
        });
    refused += at_once ? 1 : 0;
    EXPECT_EQ(at_once.value_or(Answer::kOverloaded), Answer::kOverloaded);
  }
  EXPECT_GT(refused, 50) << "past its share";
  EXPECT_EQ(CheckOnce(pool, "known", hash, "secret", Now() + 30min, false, Client(2)), Answer::kGood);
  for (uint32_t i = 0; i < 5; ++i) {
    const int before = ended;
    EXPECT_EQ(CheckOnce(pool, Concat("new ", i), hash, "secret", Now(), false, Client(10 + i)), Answer::kGood);
    EXPECT_LE(ended - before, 3) << "clients must take turns";
  }
  EXPECT_TRUE(WaitFor([&] { return ended == 90 - refused; }));
  EXPECT_EQ(wrong, ended);
}

TEST(PasswordPool, WhoHasNoPlaceTakesThatOfTheLongestLine) {
  PasswordPool pool({.threads = 1, .queued_max = 4});
  const auto slow = HashOf("x", 16), quick = HashOf("x");
  std::vector<Answer> answers;
  std::mutex mutex;
  const auto check = [&](std::string_view key, const ClientPrefix& client) {
    return pool.Check(Sha256(key), key == "running" ? slow : quick, "x", false, client, Now(), [&](Answer answer) {
      std::lock_guard lock(mutex);
      answers.push_back(answer);
    });
  };
  EXPECT_EQ(check("running", Client(9)), std::nullopt);
  ASSERT_TRUE(WaitFor([&] { return pool.stats().checks == 1; }));
  // A client without a prefix is bounded by the queue alone.
  for (const char* key : {"a", "b", "c", "d"}) EXPECT_EQ(check(key, {}), std::nullopt) << key;
  EXPECT_EQ(check("e", {}), Answer::kOverloaded);
  EXPECT_EQ(check("f", Client(1)), std::nullopt) << "replaces the newest of four";
  EXPECT_EQ(check("g", Client(1)), Answer::kOverloaded) << "has one";
  EXPECT_TRUE(WaitFor([&] {
    std::lock_guard lock(mutex);
    return answers.size() == 6;
  }));
  EXPECT_EQ(std::count(answers.begin(), answers.end(), Answer::kOverloaded), 1);
  EXPECT_EQ(std::count(answers.begin(), answers.end(), Answer::kGood), 5);
}

TEST(PasswordPool, AClientWithTooManyFailuresIsNotCheckedForAWhile) {
  PasswordPool pool({.failures_max = 5, .failures_window = 60s});
  const auto hash = HashOf("secret");
  const TimePoint begin = Now();
  EXPECT_EQ(CheckOnce(pool, "right", hash, "secret", begin, false, Client(1)), Answer::kGood);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(CheckOnce(pool, Concat("wrong ", i), hash, "guess", begin, false, Client(1)), Answer::kWrong);
  }
  EXPECT_EQ(CheckOnce(pool, "new", hash, "secret", begin, false, Client(1)), Answer::kTooManyFailures);
  EXPECT_GT(pool.RetryAfter(Client(1), begin), 50s);
  EXPECT_EQ(CheckOnce(pool, "right", hash, "secret", begin, false, Client(1)), Answer::kGood) << "remembered";
  EXPECT_EQ(CheckOnce(pool, "new", hash, "secret", begin, false, Client(2)), Answer::kGood) << "another client";
  EXPECT_EQ(pool.stats().throttled, 1u);
  EXPECT_EQ(CheckOnce(pool, "later", hash, "secret", Now() + 61s, false, Client(1)), Answer::kGood);
  EXPECT_EQ(pool.RetryAfter(Client(1), Now() + 61s), 0ms);
}

TEST(PasswordPool, OneClientsWaitersLeaveRoomForOthers) {
  PasswordPool pool({.threads = 1, .waiting_max = 100});
  const auto slow = HashOf("x", 15);
  std::atomic<int> answered{0};
  int waiting = 0;
  for (int i = 0; i < 200; ++i) {
    waiting += pool.Check(Sha256("same"), slow, "x", false, Client(1), Now(), [&](Answer) { ++answered; }) ? 0 : 1;
  }
  EXPECT_LE(waiting, 25);
  EXPECT_EQ(pool.Check(Sha256("other"), slow, "x", false, Client(2), Now(), [&](Answer) { ++answered; }), std::nullopt);
  EXPECT_TRUE(WaitFor([&] { return answered == waiting + 1; }));
}

TEST(PasswordPool, StopsWithChecksInItsQueue) {
  std::atomic<int> answered{0};
  const auto slow = HashOf("x", 14);
  {
    PasswordPool pool({.threads = 1});
    for (int i = 0; i < 20; ++i) {
      EXPECT_EQ(pool.Check(Sha256(Concat(i)), slow, "x", false, {}, Now(), [&](Answer) { ++answered; }), std::nullopt);
    }
  }
  EXPECT_LT(answered, 20);
}

}  // namespace
}  // namespace gateway::dataplane
