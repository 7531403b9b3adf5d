#include "dataplane/proxy/retry.h"

#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "tests/unit/proxy/proxy_fixture.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;

// Asks whether an attempt of one request is made again.
class RetriesTest : public ProxyTest {
 protected:
  // `retry`: fields of the Retry; `service`: of its service.
  void Begin(const std::string& retry, const std::string& service = "") {
    Install({"retry { name: 'again' backoff { base {} max {} } " + retry + " }",
             "service { name: 'svc' static { address: '127.0.0.1:9' } retry: 'again' " + service + " }",
             "circuit_breaker { name: 'cb' max_concurrent_requests: 1 sleep_window { seconds: 5 } "
             "request_volume_threshold: 1 }",
             "route { name: 'r' match { path { prefix: '/' } } service: 'svc' timeout { seconds: 30 } }"});
    context_ = Route(&client_);
    retries_ = std::make_unique<Retries>(context_->target.service->policy->retry.get());
  }
  bool Grant(const FailedAttempt& attempt) {
    return retries_->Grant(attempt, {.call = context_->call,
                                     .body = context_->body,
                                     .service = *context_->target.service,
                                     .now = loop_.now(),
                                     .until = start_ + 30s,
                                     .client_gone = client_.gone(),
                                     .random = &resources_.random,
                                     .metrics = &shard_,
                                     .permit = &permit_});
  }

  ScriptedDownstream client_;
  std::unique_ptr<RequestContext> context_;
  std::unique_ptr<Retries> retries_;
  CircuitBreaker::Permit permit_;
};

TEST_F(RetriesTest, OnlyWhatAConditionNamesIsMadeAgain) {
  struct Case {
    const char* condition;
    FailedAttempt attempt;
    bool granted;
  };
  const Case cases[] = {
      {"reset", {.reason = Reason::kUpstreamReset}, true},
      {"reset", {.reason = Reason::kUpstreamTimeout}, false},
      {"reset", {.reason = Reason::kUpstreamConnectFailed, .connected = false}, false},
      {"connect_failure", {.reason = Reason::kUpstreamConnectFailed, .connected = false}, true},
      {"connect_failure", {.reason = Reason::kUpstreamTlsFailed, .connected = false}, true},
      {"connect_failure", {.reason = Reason::kUpstreamTimeout, .connected = false}, true},
      {"connect_failure", {.reason = Reason::kUpstreamTimeout}, false},
      {"timeout", {.reason = Reason::kUpstreamTimeout}, true},
      {"503", {.status = 503}, true},
      {"503", {.status = 500}, false},
      {"5xx", {.status = 500}, true},
      {"502", {.reason = Reason::kUpstreamInvalid}, true},
      {"504", {.reason = Reason::kUpstreamTimeout}, true},
      {"5xx", {.reason = Reason::kRequestDeadline}, false},
      {"5xx", {.reason = Reason::kClientClosed}, false},
      {"5xx", {.reason = Reason::kOverloaded}, false},
  };
  for (const Case& each : cases) {
    Begin("attempts: 1 budget { min_per_second: 1000 } conditions: '" + std::string(each.condition) + "'");
    EXPECT_EQ(Grant(each.attempt), each.granted)
        << each.condition << " " << InfoOf(each.attempt.reason).word << " " << each.attempt.status;
  }
}

TEST_F(RetriesTest, ThereAreNoMoreThanThePolicySays) {
  Begin("attempts: 2 conditions: 'reset'");
  const FailedAttempt reset{.reason = Reason::kUpstreamReset};
  EXPECT_TRUE(Grant(reset));
  EXPECT_TRUE(Grant(reset));
  EXPECT_FALSE(retries_->left());
  EXPECT_FALSE(Grant(reset));
  EXPECT_EQ(retries_->made(), 2u);
}

TEST_F(RetriesTest, ABodyThatIsGoneIsNotSentAgain) {
  Begin("attempts: 5 conditions: 'reset'");
  const FailedAttempt reset{.reason = Reason::kUpstreamReset};
  context_->body.replayable = false;
  EXPECT_FALSE(Grant(reset));
  context_->body.keeps = true;
  EXPECT_TRUE(Grant(reset));
}

TEST_F(RetriesTest, ABodyPastTheBoundIsNotSentAgain) {
  Begin("attempts: 5 conditions: 'reset' max_body_bytes: 4");
  context_->body.buffered = "12345";
  EXPECT_FALSE(Grant({.reason = Reason::kUpstreamReset}));
  context_->body.buffered = "1234";
  EXPECT_TRUE(Grant({.reason = Reason::kUpstreamReset}));
}

TEST_F(RetriesTest, NoneBeginsAfterTheDeadlineOrWithoutAClient) {
  Begin("attempts: 5 conditions: 'reset'");
  const FailedAttempt reset{.reason = Reason::kUpstreamReset};
  loop_.SetNow(start_ + 30s);
  EXPECT_FALSE(Grant(reset));
  loop_.SetNow(start_);
  client_.Leave();
  EXPECT_FALSE(Grant(reset));
}

TEST_F(RetriesTest, TheBudgetBoundsThem) {
  Begin("attempts: 5 conditions: 'reset' budget { percent: 0 min_per_second: 1 }");
  const FailedAttempt reset{.reason = Reason::kUpstreamReset};
  context_->target.service->runtime->retry_budget.OnRequest(loop_.now());
  EXPECT_TRUE(Grant(reset));
  EXPECT_FALSE(Grant(reset));
  EXPECT_EQ(shard_.Get(WorkerGauge::kRetriesOverBudgetTotal), 1);
}

TEST_F(RetriesTest, TheBreakerHasTheLastWord) {
  Begin("attempts: 5 conditions: ['reset', '503']", "circuit_breaker: 'cb'");
  CircuitBreaker& breaker = *context_->target.service->breaker;
  ASSERT_EQ(breaker.Acquire(loop_.now(), &permit_), BreakerVerdict::kAllowed);
  EXPECT_TRUE(Grant({.reason = Reason::kUpstreamReset})) << "its own place is free for the next attempt";
  ASSERT_TRUE(permit_);
  EXPECT_FALSE(Grant({.status = 503})) << "the failure that it reports opens the breaker";
  EXPECT_EQ(breaker.view(loop_.now()).state, BreakerState::kOpen);
}

TEST_F(RetriesTest, CallsAreRetriedByTheirStatus) {
  Begin("attempts: 5 conditions: 'grpc:unavailable'");
  context_->call.is_call = true;
  context_->call.status = 14;
  EXPECT_TRUE(Grant({.status = 200}));
  context_->call.status = 5;
  EXPECT_FALSE(Grant({.status = 200}));
  EXPECT_TRUE(Grant({.reason = Reason::kUpstreamReset})) << "the gateway's own status would be UNAVAILABLE";
}

}  // namespace
}  // namespace gateway::dataplane
