// Whole exchanges, on a client's stream that follows a script: how the outcome of each stage becomes a response.
#include <memory>
#include <optional>
#include <string>

#include "dataplane/proxy/serve_request.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/proxy/proxy_fixture.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::Not;

class ExchangeTest : public ProxyTest {
 protected:
  void Serve() {
    client_.SetStarted(loop_.now());
    task_.emplace(ServeRequest(resources_, client_));
    task_->Start();
  }
  // Its response is the gateway's own, for `word`.
  void ExpectRefused(int status, const std::string& word) {
    EXPECT_TRUE(task_->done());
    EXPECT_TRUE(client_.finished());
    EXPECT_EQ(client_.end(), http::End::kComplete);
    EXPECT_EQ(client_.status(), status);
    EXPECT_THAT(client_.fields(), HasSubstr("X-Gateway-Reason: " + word + "\r\n"));
    EXPECT_THAT(client_.text(), HasSubstr("\"reason\": \"" + word + "\""));
    EXPECT_EQ(shard_.Get(WorkerGauge::kInFlight), 0);
  }

  ScriptedDownstream client_;
  std::optional<Task<void>> task_;
};

TEST_F(ExchangeTest, ARejectedHeaderIsRespondedTo) {
  client_.Reject(Reason::kHeadersTooLarge, "too many");
  Serve();
  ExpectRefused(431, "headers_too_large");
  EXPECT_EQ(shard_.Get(WorkerGauge::kBadRequestsTotal), 1);
}

TEST_F(ExchangeTest, WithoutPolicyThereIsNoService) {
  Serve();
  ExpectRefused(503, "discovery_unavailable");
  EXPECT_THAT(client_.text(), Not(HasSubstr("detail")));
}

TEST_F(ExchangeTest, DetailsAreForThoseWhoAskForThem) {
  options_.error_details = true;
  Serve();
  ExpectRefused(503, "discovery_unavailable");
  EXPECT_THAT(client_.text(), HasSubstr("\"detail\": \"no configuration yet\""));
}

TEST_F(ExchangeTest, HealthNeedsNoPolicy) {
  client_.SetTarget("/health");
  Serve();
  EXPECT_EQ(client_.status(), 200);
  EXPECT_THAT(client_.text(), HasSubstr("healthy"));
}

TEST_F(ExchangeTest, AnUnknownPathIsNoRoute) {
  Install({});
  Serve();
  ExpectRefused(404, "no_route");
}

TEST_F(ExchangeTest, OptionsOfTheServerItselfNeedsNoRoute) {
  Install({});
  client_.request().method = "OPTIONS";
  client_.SetTarget("*");
  Serve();
  EXPECT_EQ(client_.status(), 200);
  EXPECT_THAT(client_.fields(), HasSubstr("Allow: GET"));
}

TEST_F(ExchangeTest, AFixedResponseHasItsTextsAndEdits) {
  Install(
      {"route { name: 'r' match { path { prefix: '/' } } respond { status: 418 body: 'for ${client_ip}' } "
       "response_headers { set { key: 'X-Brewed' value: '${route}' } } }"});
  Serve();
  EXPECT_EQ(client_.status(), 418);
  EXPECT_EQ(client_.text(), "for 192.0.2.1");
  EXPECT_THAT(client_.fields(), HasSubstr("X-Brewed: r\r\n"));
}

TEST_F(ExchangeTest, ALimitSaysWhenToComeBack) {
  options_.error_details = true;
  Install({"rate_limit { name: 'one' key: 'client_ip' limit { requests: 1 window { seconds: 60 } } }",
           "route { name: 'r' match { path { prefix: '/' } } respond { status: 200 } rate_limits: 'one' }"});
  Serve();
  EXPECT_EQ(client_.status(), 200);
  EXPECT_THAT(client_.fields(), HasSubstr("RateLimit-Remaining: 0\r\n"));
  Serve();
  ExpectRefused(429, "rate_limited");
  EXPECT_THAT(client_.fields(), HasSubstr("Retry-After: 60\r\n"));
  EXPECT_THAT(client_.text(), HasSubstr("\"policy\": \"RateLimit/one\""));
}

TEST_F(ExchangeTest, AnUnauthenticatedRequestIsChallenged) {
  Install({"auth { name: 'keys' methods { api_key { header: 'X-Api-Key' } } }",
           "route { name: 'r' match { path { prefix: '/' } } respond { status: 200 } auth: 'keys' }"});
  Serve();
  ExpectRefused(401, "unauthenticated");
  EXPECT_THAT(client_.fields(), HasSubstr("WWW-Authenticate: ApiKey"));
}

TEST_F(ExchangeTest, AnAddressThatIsNotAllowedIsForbidden) {
  Install({"ip_access { name: 'inside' allow: '10.0.0.0/8' }",
           "route { name: 'r' match { path { prefix: '/' } } respond { status: 200 } access: 'inside' }"});
  Serve();
  ExpectRefused(403, "forbidden");
  EXPECT_THAT(client_.fields(), Not(HasSubstr("WWW-Authenticate")));
}

TEST_F(ExchangeTest, CallsAreRefusedByTheirStatus) {
  client_.request().version = http::Version::kHttp2;
  client_.request().method = "POST";
  client_.AddField("content-type", "application/grpc");
  Serve();
  EXPECT_EQ(client_.status(), 200);
  EXPECT_THAT(client_.fields(), HasSubstr("grpc-status: 14\r\n"));
  EXPECT_THAT(client_.fields(), HasSubstr("Content-Type: application/grpc\r\n"));
  EXPECT_EQ(client_.text(), "");
}

TEST_F(ExchangeTest, AnOpenBreakerRefuses) {
  Install({"service { name: 'svc' static { address: '127.0.0.1:9' } circuit_breaker: 'cb' }",
           "circuit_breaker { name: 'cb' force: OPEN sleep_window { seconds: 5 } }",
           "route { name: 'r' match { path { prefix: '/' } } service: 'svc' }"});
  Serve();
  ExpectRefused(503, "breaker_open");
  EXPECT_THAT(client_.fields(), HasSubstr("Retry-After: 5\r\n"));
}

TEST_F(ExchangeTest, AClientThatLeftIsNotRespondedTo) {
  Install({"service { name: 'svc' static { address: '127.0.0.1:9' } }",
           "route { name: 'r' match { path { prefix: '/' } } service: 'svc' }"});
  client_.Leave();
  Serve();
  EXPECT_TRUE(task_->done());
  EXPECT_EQ(client_.status(), 0);
  EXPECT_EQ(client_.end(), http::End::kUnanswered);
}

TEST_F(ExchangeTest, AWorkerThatDrainsRefuses) {
  Install({"service { name: 'svc' static { address: '127.0.0.1:9' } }",
           "route { name: 'r' match { path { prefix: '/' } } service: 'svc' }"});
  cut_short_ = true;
  Serve();
  ExpectRefused(503, "draining");
}

TEST_F(ExchangeTest, AResponseThatTheClientDoesNotTakeIsAborted) {
  client_.SetTarget("/health");
  client_.Break();
  Serve();
  EXPECT_TRUE(task_->done());
  EXPECT_EQ(client_.end(), http::End::kCutShort);
}

}  // namespace
}  // namespace gateway::dataplane
