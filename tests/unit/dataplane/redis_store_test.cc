// Against a real Redis: the script's arithmetic with the test's clock, and a store on a loop with Redis's clock.
#include "dataplane/limits/redis_store.h"

#include <atomic>
#include <deque>
#include <future>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "common/base/text.h"
#include "dataplane/limits/redis_script.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/ports.h"
#include "tests/fixtures/redis_server.h"
#include "tests/fixtures/wait_for.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;
using fixtures::RedisServer;
using fixtures::WaitFor;
using std::chrono::microseconds;
using std::chrono::milliseconds;

// Runs the script at times chosen by the test. Redis expires keys by its own clock, so keys are kept, except in the
// test of expiry.
class ScriptClock {
 public:
  explicit ScriptClock(const RedisServer* redis, bool expiring = false) : redis_(redis), script_(kRedisScript) {
    const std::string clock = "redis.call('TIME')";
    const size_t at = script_.find(clock);
    EXPECT_NE(at, std::string::npos);
    script_.replace(at, clock.size(), "{ARGV[#ARGV - 1], ARGV[#ARGV]}");
    const std::string expiry = "/ 1000 + 2";
    int replaced = 0;
    for (size_t i = 0; !expiring && (i = script_.find(expiry, i)) != std::string::npos; ++i, ++replaced) {
      script_.replace(i, expiry.size(), "/ 1000 + 100000000");
    }
    EXPECT_EQ(replaced, expiring ? 0 : 3);
  }

  struct Limit {
    std::string key;
    RateLimiter::Options options;
    bool shadow = false;
  };
  std::vector<RateLimitDecision> Ask(const std::vector<Limit>& limits, TimePoint now) {
    std::vector<std::string> words = {"EVAL", script_, std::to_string(limits.size())};
    for (const Limit& limit : limits) words.push_back(limit.key);
    for (const Limit& limit : limits) {
      words.emplace_back(1, "stf"[static_cast<int>(limit.options.algorithm)]);
      words.push_back(std::to_string(limit.options.requests));
      words.push_back(std::to_string(microseconds(limit.options.window).count()));
      words.push_back(std::to_string(limit.options.burst > 0 ? limit.options.burst : limit.options.requests));
      words.emplace_back(limit.shadow ? "1" : "0");
    }
    const auto time = std::chrono::duration_cast<microseconds>(now.time_since_epoch());
    words.push_back(std::to_string(time / 1s));
    words.push_back(std::to_string((time % 1s).count()));
    const RedisServer::Reply reply = redis_->Command(words);
    EXPECT_FALSE(reply.error) << reply.text;
    EXPECT_EQ(reply.elements.size(), 3 * limits.size());
    std::vector<RateLimitDecision> decisions;
    for (size_t i = 0; i + 2 < reply.elements.size(); i += 3) {
      decisions.push_back({reply.elements[i].number == 1, limits[i / 3].options.requests,
                           static_cast<uint32_t>(reply.elements[i + 1].number),
                           milliseconds(reply.elements[i + 2].number)});
    }
    return decisions;
  }

 private:
  const RedisServer* redis_;
  std::string script_;
};

// As many microseconds since 1970 as today.
constexpr TimePoint kStart{1'790'000'000s};

// Redis decides as the limiter of one data plane does, for every algorithm, several limits and shadow limits together.
TEST(RedisScript, DecidesAsTheLimiterOfOneDataPlaneDoes) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  RedisServer redis;
  ScriptClock script(&redis);
  for (int round = 0; round < 12; ++round) {
    std::vector<ScriptClock::Limit> limits;
    std::vector<std::unique_ptr<RateLimiter>> limiters;
    const size_t count = 1 + random() % 3;
    for (size_t i = 0; i < count; ++i) {
      RateLimiter::Options options;
      options.algorithm = static_cast<LimitAlgorithm>(random() % 3);
      options.requests = std::vector<uint32_t>{1, 2, 5, 50}[random() % 4];
      options.window = std::vector<milliseconds>{100ms, 1000ms, 60'000ms}[random() % 3];
      if (random() % 2 == 0) options.burst = 1 + random() % 20;
      limits.push_back({Concat("r", round, ":", i), options, random() % 4 == 0});
      limiters.push_back(std::make_unique<RateLimiter>(options));
    }
    TimePoint now = kStart + microseconds(random());
    const auto pace = microseconds(limits[0].options.window) / limits[0].options.requests;
    for (int i = 0; i < 150; ++i) {
      if (random() % 5 != 0) now += pace * (random() % 1000) / 1500;
      if (random() % 60 == 0) now += limits[random() % count].options.window * 2;
      const std::vector<RateLimitDecision> asked = script.Ask(limits, now);
      std::vector<RateLimiter::Check> checks;
      for (size_t k = 0; k < count; ++k) checks.push_back({limiters[k].get(), "key", limits[k].shadow, {}});
      RateLimiter::AdmitTogether(checks, now);
      ASSERT_EQ(asked.size(), count);
      for (size_t k = 0; k < count; ++k) {
        SCOPED_TRACE(Concat("round ", round, ", request ", i, ", limit ", k, " of algorithm ",
                            static_cast<int>(limits[k].options.algorithm)));
        ASSERT_EQ(asked[k].allowed, checks[k].decision.allowed);
        ASSERT_EQ(asked[k].remaining, checks[k].decision.remaining);
        ASSERT_EQ(asked[k].reset, checks[k].decision.reset);
      }
    }
  }
}

// A busy key: never more than the limit in any window, and bounded memory per moment.
TEST(RedisScript, ABusyWindowStaysBoundedAndIsNeverExceeded) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  RedisServer redis;
  ScriptClock script(&redis);
  const RateLimiter::Options options{.requests = 1500, .window = 1000ms};
  std::deque<TimePoint> admitted;
  TimePoint now = kStart;
  uint64_t refused = 0;
  for (int i = 0; i < 4000; ++i) {
    now += microseconds(random() % 1000);
    while (!admitted.empty() && admitted.front() <= now - 1s) admitted.pop_front();
    if (script.Ask({{"busy", options, false}}, now)[0].allowed) {
      admitted.push_back(now);
      ASSERT_LE(admitted.size(), options.requests);
    } else {
      ++refused;
    }
  }
  EXPECT_GT(refused, 0u);
  EXPECT_GE(admitted.size(), 1450u) << "and nearly the limit is admitted";
  EXPECT_LE(redis.Command({"LLEN", "busy"}).number, 64 + 194 + 1);
}

TEST(RedisScript, KeysExpireWhenTheyHaveRecovered) {
  RedisServer redis;
  ScriptClock script(&redis, true);
  for (const auto algorithm :
       {LimitAlgorithm::kSlidingWindow, LimitAlgorithm::kTokenBucket, LimitAlgorithm::kFixedWindow}) {
    const RateLimiter::Options options{.algorithm = algorithm, .requests = 10, .window = 60s};
    const std::string key = Concat("k", static_cast<int>(algorithm));
    EXPECT_TRUE(script.Ask({{key, options, false}}, kStart)[0].allowed);
    const int64_t left_ms = redis.Command({"PTTL", key}).number;
    EXPECT_GT(left_ms, 1000);
    EXPECT_LE(left_ms, 60'002);
  }
}

// A loop on its own thread, with one store.
class Stored {
 public:
  explicit Stored(uint16_t port, RedisStore::Options options = {}) : directory_("127.0.0.1", port) {
    std::promise<void> made;
    thread_ = std::thread([this] { loop_.Run(); });
    loop_.Post([&] {
      store_ = std::make_unique<RedisStore>(&loop_, options, &directory_);
      store_->Prepare();
      made.set_value();
    });
    made.get_future().wait();
  }
  ~Stored() {
    std::promise<void> gone;
    loop_.Post([&] {
      store_.reset();
      gone.set_value();
    });
    gone.get_future().wait();
    loop_.Stop();
    thread_.join();
  }

  bool up() const { return store_->counters().up; }
  const RedisStore::Counters& counters() const { return store_->counters(); }

  // One call for each of `calls`, all at once; returns those that were decided.
  std::vector<std::vector<RedisLimit>> AskAll(const std::vector<std::vector<RedisLimit>>& calls) {
    std::vector<std::vector<RedisLimit>> decided;
    std::promise<void> all;
    size_t left = calls.size();
    loop_.Post([&] {
      for (const auto& call : calls) Start(call, &decided, &left, &all);
    });
    all.get_future().wait();
    return decided;
  }
  std::optional<RateLimitDecision> Ask(const RedisLimit& limit) {
    const auto decided = AskAll({{limit}});
    if (decided.empty()) return std::nullopt;
    return decided[0][0].decision;
  }

 private:
  Detached Start(std::vector<RedisLimit> limits, std::vector<std::vector<RedisLimit>>* decided, size_t* left,
                 std::promise<void>* all) {
    bool ok;
    {
      RedisStore::Call call(store_.get(), limits);
      ok = co_await call;
    }
    if (ok) decided->push_back(limits);
    if (--*left == 0) all->set_value();
  }

  EventLoop loop_;
  RedisDirectory directory_;
  std::unique_ptr<RedisStore> store_;
  std::thread thread_;
};

RedisLimit Limit(uint32_t requests, milliseconds window, std::string_view key = "k") {
  RedisLimit limit;
  limit.requests = limit.burst = requests;
  limit.window = window;
  limit.name = "n";
  limit.key = key;
  return limit;
}

TEST(RedisStore, SeveralConnectionsShareOneExactLimit) {
  RedisServer redis("a secret");
  const RedisStore::Options options{.username = "", .password = "a secret", .db = 3};
  Stored one(redis.port(), options), two(redis.port(), options);
  ASSERT_TRUE(WaitFor([&] { return one.up() && two.up(); }));
  size_t allowed = 0, decided = 0;
  for (int round = 0; round < 20; ++round) {
    for (Stored* each : {&one, &two}) {
      for (const auto& limits : each->AskAll(std::vector<std::vector<RedisLimit>>(10, {Limit(150, 1h)}))) {
        ++decided;
        allowed += limits[0].decision.allowed ? 1 : 0;
      }
    }
  }
  // If the machine is too busy for 20 ms, Redis has counted requests whose response came too late.
  EXPECT_LE(allowed, 150u);
  EXPECT_GE(allowed + (400 - decided), 150u);
  EXPECT_EQ(redis.Command({"KEYS", "*"}, 3).elements.size(), 1u);
  EXPECT_EQ(redis.Command({"KEYS", "*"}, 3).elements[0].text, "gateway:limit:n:s:k");
  EXPECT_EQ(redis.Command({"KEYS", "*"}).elements.size(), 0u) << "nothing in another database";
}

TEST(RedisStore, ARefusedCallConsumesNoneOfItsLimits) {
  RedisServer redis;
  Stored store(redis.port());
  ASSERT_TRUE(WaitFor([&] { return store.up(); }));
  RedisLimit shadow = Limit(1, 1h, "shadow");
  shadow.shadow = true;
  const std::vector<RedisLimit> limits = {Limit(10, 1h, "wide"), Limit(2, 1h, "narrow"), shadow};
  int allowed = 0;
  for (const auto& each : store.AskAll(std::vector<std::vector<RedisLimit>>(20, limits))) {
    allowed += each[0].decision.allowed && each[1].decision.allowed ? 1 : 0;
  }
  EXPECT_LE(allowed, 2);
  const std::string newest = redis.Command({"LINDEX", "gateway:limit:n:s:wide", "-1"}).text;
  EXPECT_EQ(newest.substr(newest.find(' ')), " 2") << "admitted so far";
}

TEST(RedisStore, AStoppedRedisFailsEachCallInTimeAndThenAtOnce) {
  RedisServer redis;
  Stored store(redis.port());
  ASSERT_TRUE(WaitFor([&] { return store.up(); }));
  ASSERT_TRUE(WaitFor([&] { return store.Ask(Limit(100, 1h)).has_value(); }));
  const uint64_t timeouts = store.counters().timeouts;
  redis.Pause();
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_FALSE(store.Ask(Limit(100, 1h)).has_value());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 5s) << "20 ms on an idle machine";
  EXPECT_EQ(store.counters().timeouts, timeouts + 1);
  EXPECT_FALSE(store.Ask(Limit(100, 1h)).has_value());
  EXPECT_EQ(store.counters().timeouts, timeouts + 1) << "a call after an overdue response does not wait";
  EXPECT_GE(store.counters().unavailable, 1u);
  EXPECT_TRUE(WaitFor([&] { return !store.up(); })) << "abandoned after a second of silence";
  redis.Resume();
  EXPECT_TRUE(WaitFor([&] { return store.Ask(Limit(100, 1h)).has_value(); }));
}

TEST(RedisStore, AShortStopIsForgivenOnTheSameConnection) {
  RedisServer redis;
  Stored store(redis.port());
  ASSERT_TRUE(WaitFor([&] { return store.up(); }));
  redis.Pause();
  EXPECT_FALSE(store.Ask(Limit(100, 1h)).has_value());
  redis.Resume();
  EXPECT_TRUE(WaitFor([&] { return store.Ask(Limit(100, 1h)).has_value(); }));
}

TEST(RedisStore, ComesBackAfterAKillAndARestart) {
  RedisServer redis;
  Stored store(redis.port());
  ASSERT_TRUE(WaitFor([&] { return store.up(); }));
  redis.Kill();
  EXPECT_TRUE(WaitFor([&] { return !store.up(); }));
  EXPECT_FALSE(store.Ask(Limit(100, 1h)).has_value());
  redis.Restart();
  EXPECT_TRUE(WaitFor([&] { return store.Ask(Limit(100, 1h)).has_value(); }));
  EXPECT_GE(store.counters().connects, 2u);
}

// Redis's `timeout` closes the connection: calls after it, and calls that race with it, are still decided.
TEST(RedisStore, AConnectionThatRedisClosesAsIdleIsReplaced) {
  RedisServer redis;
  Stored store(redis.port());
  ASSERT_TRUE(WaitFor([&] { return store.up(); }));
  ASSERT_TRUE(store.Ask(Limit(100, 1h)).has_value());
  uint32_t remaining = 99;
  for (uint64_t round = 1; round <= 3; ++round) {
    ASSERT_FALSE(redis.Command({"CONFIG", "SET", "timeout", "1"}).error);
    // Redis checks for idle clients about once a second; the call that sees the replacement is the first one since.
    ASSERT_TRUE(WaitFor([&] { return store.counters().replaced >= round; }, 10s));
    ASSERT_FALSE(redis.Command({"CONFIG", "SET", "timeout", "0"}).error);
    const auto decision = store.Ask(Limit(100, 1h));
    if (!decision) continue;  // the machine stalled for 20 ms
    EXPECT_LT(decision->remaining, remaining);
    remaining = decision->remaining;
  }
  EXPECT_LE(remaining, 97u) << "at most one of three was lost to a slow machine";
  EXPECT_EQ(store.counters().unavailable, 0u);
  EXPECT_TRUE(store.up());
}

// The calls are sent just as Redis closes the connection: neither side knows of the other's action.
TEST(RedisStore, CallsThatMeetAClosedConnectionAreSentAgain) {
  RedisServer redis;
  Stored store(redis.port());
  ASSERT_TRUE(WaitFor([&] { return store.up(); }));
  std::this_thread::sleep_for(RedisStore::kIdleMin);  // a younger connection does not count as idle
  uint64_t decided = 0, asked = 0;
  for (int i = 0; i < 20 && store.counters().replaced < 3; ++i) {
    ASSERT_FALSE(redis.Command({"CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"}).error);
    decided += store.AskAll({{Limit(1000, 1h)}, {Limit(1000, 1h)}}).size();
    asked += 2;
    std::this_thread::sleep_for(RedisStore::kIdleMin);
  }
  EXPECT_GE(store.counters().replaced, 3u);
  EXPECT_EQ(store.counters().unavailable, 0u);
  EXPECT_EQ(decided + store.counters().timeouts, asked);
}

TEST(RedisStore, AConnectionThatEndsSoonIsNotReplacedAtOnce) {
  RedisServer redis;
  const auto begin = std::chrono::steady_clock::now();
  Stored store(redis.port());
  ASSERT_TRUE(WaitFor([&] { return store.up(); }));
  ASSERT_FALSE(redis.Command({"CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"}).error);
  const bool young = std::chrono::steady_clock::now() - begin < RedisStore::kIdleMin;
  EXPECT_TRUE(WaitFor([&] { return store.counters().connects >= 2; }));
  EXPECT_TRUE(store.counters().replaced == 0 || !young);
}

TEST(RedisStore, AForgottenScriptIsLoadedAgain) {
  RedisServer redis;
  Stored store(redis.port());
  ASSERT_TRUE(WaitFor([&] { return store.up(); }));
  uint32_t remaining = 100;
  for (int i = 0; i < 10; ++i) {
    ASSERT_FALSE(redis.Command({"SCRIPT", "FLUSH"}).error);
    // The calls that find the connection closed are still decided, and counted once.
    for (const auto& limits : store.AskAll({{Limit(100, 1h)}, {Limit(100, 1h)}})) {
      EXPECT_LT(limits[0].decision.remaining, remaining);
      remaining = limits[0].decision.remaining;
    }
  }
  EXPECT_EQ(store.counters().errors, 0u);
  EXPECT_EQ(store.counters().unavailable, 0u);
  EXPECT_EQ(store.counters().connects, 1u);
  EXPECT_GE(remaining, 80u);
  // A machine that stalls for 20 ms is not the store's fault.
  EXPECT_EQ(store.counters().answered + store.counters().timeouts, 20u);
}

TEST(RedisStore, AWrongPasswordIsNoConnection) {
  RedisServer redis("right");
  Stored store(redis.port(), {.username = "", .password = "wrong", .db = 0});
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(store.Ask(Limit(100, 1h)).has_value());
  EXPECT_FALSE(store.up());
}

TEST(RedisStore, NobodyThereFailsAtOnce) {
  Stored store(fixtures::FreePort());
  for (int i = 0; i < 5; ++i) EXPECT_FALSE(store.Ask(Limit(100, 1h)).has_value());
  EXPECT_FALSE(store.up());
}

TEST(RedisStore, MoreCallsThanItsBoundFailAtOnce) {
  RedisServer redis;
  Stored store(redis.port());
  ASSERT_TRUE(WaitFor([&] { return store.up(); }));
  redis.Pause();
  const std::vector<std::vector<RedisLimit>> calls(RedisStore::kInFlightMax + 500, {Limit(100, 1h)});
  EXPECT_TRUE(store.AskAll(calls).empty());
  EXPECT_EQ(store.counters().unavailable, 500u);
  EXPECT_EQ(store.counters().timeouts, RedisStore::kInFlightMax);
  redis.Resume();
  EXPECT_TRUE(WaitFor([&] { return store.Ask(Limit(100, 1h)).has_value(); }));
}

TEST(RedisDirectory, AskFirstAnswerLaterOffTheCallersThread) {
  std::promise<void> answer;
  std::shared_future<void> may_answer(answer.get_future());
  std::atomic<int> asked{0};
  RedisDirectory directory("redis.example", 6379, [&](const std::string& host, uint16_t port) {
    EXPECT_EQ(Concat(host, ":", port), "redis.example:6379");
    ++asked;
    may_answer.wait();
    return std::vector<RedisDirectory::Address>(1);
  });
  EXPECT_TRUE(directory.Find().empty());
  EXPECT_TRUE(WaitFor([&] { return asked == 1; }));
  EXPECT_TRUE(directory.Find().empty()) << "no call waits for the resolver";
  answer.set_value();
  EXPECT_TRUE(WaitFor([&] { return directory.Find().size() == 1; }));
}

}  // namespace
}  // namespace gateway::dataplane
