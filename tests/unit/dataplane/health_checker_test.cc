#include "dataplane/upstream/health_checker.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <atomic>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/ports.h"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/fixtures/wait_for.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;
using fixtures::MakeResponse;
using fixtures::Respond;
using fixtures::ScriptedUpstream;
using fixtures::UpstreamConnection;
using fixtures::UpstreamRequest;
using fixtures::WaitFor;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// The policy fields that matter here.
struct Check {
  bool tcp = false;
  std::string path = "/";
  Millis timeout{1000};
  uint32_t healthy = 2;
  uint32_t unhealthy = 3;
  std::vector<uint32_t> statuses = {};
  std::string host = {};
  uint16_t port = 0;
};

HealthTarget Target(uint16_t port, const Check& check = {}) {
  HealthCheckPolicy policy;
  policy.tcp = check.tcp;
  policy.path = check.path;
  policy.timeout = check.timeout;
  policy.healthy = check.healthy;
  policy.unhealthy = check.unhealthy;
  policy.statuses = check.statuses;
  policy.host = check.host;
  policy.port = check.port;
  HealthTarget target;
  target.service = "svc";
  target.endpoint = "127.0.0.1:" + std::to_string(port);
  auto& address = reinterpret_cast<sockaddr_in&>(target.address);
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  target.address_length = sizeof address;
  target.state = std::make_shared<EndpointState>(std::make_shared<EndpointGroup>());
  policy.interval = 10ms;
  target.policy = std::make_shared<const HealthCheckPolicy>(policy);
  return target;
}

// The result of the service's first check: "" if it passed, otherwise the reason.
std::string FirstFailure(uint16_t port, const Check& check = {}) {
  HealthChecker checker;
  const HealthTarget target = Target(port, check);
  checker.Follow({target});
  EXPECT_TRUE(WaitFor([&] { return !checker.Counts().empty(); }));
  const auto rows = checker.Unhealthy();
  EXPECT_EQ(target.state->usable(), rows.empty());
  return rows.empty() ? "" : rows[0].failure;
}

TEST(HealthChecker, AsksAsItsPolicySays) {
  ScriptedUpstream upstream(Respond([](const UpstreamRequest&) { return MakeResponse(204, ""); }));
  EXPECT_EQ(FirstFailure(upstream.port(), {.path = "/live?deep=1", .host = "svc.internal"}), "");
  const UpstreamRequest request = upstream.requests().at(0);
  EXPECT_EQ(request.method, "GET");
  EXPECT_EQ(request.target, "/live?deep=1");
  EXPECT_EQ(request.Field("Host"), "svc.internal");
}

TEST(HealthChecker, SaysWhyACheckFailed) {
  ScriptedUpstream failing(Respond([](const UpstreamRequest&) { return MakeResponse(503, "no"); }));
  EXPECT_EQ(FirstFailure(failing.port()), "status 503");
  EXPECT_EQ(FirstFailure(failing.port(), {.statuses = {200, 503}}), "");
  ScriptedUpstream silent([](UpstreamConnection& connection) { connection.StaySilent(); });
  EXPECT_EQ(FirstFailure(silent.port(), {.timeout = 50ms}), "no response in time");
  ScriptedUpstream closing([](UpstreamConnection& connection) { (void)connection.ReadHead(); });
  EXPECT_EQ(FirstFailure(closing.port()), "the connection ended before a response");
  ScriptedUpstream babbling([](UpstreamConnection& connection) {
    connection.Send("SSH-2.0-OpenSSH\r\n\r\n");
    connection.StaySilent();
  });
  EXPECT_EQ(FirstFailure(babbling.port()), "the response is not HTTP");
  const uint16_t gone = [] {
    ScriptedUpstream upstream(fixtures::Ok("x"));
    return upstream.port();
  }();
  EXPECT_EQ(FirstFailure(gone), "connection refused");
  EXPECT_EQ(FirstFailure(gone, {.tcp = true}), "connection refused");
}

TEST(HealthChecker, InterimAnswersAreNoAnswers) {
  ScriptedUpstream upstream([](UpstreamConnection& connection) {
    if (!connection.ReadHead()) return;
    connection.Send("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    connection.StaySilent();
  });
  EXPECT_EQ(FirstFailure(upstream.port()), "");
}

TEST(HealthChecker, AConnectionIsEnoughForTcp) {
  ScriptedUpstream silent([](UpstreamConnection& connection) { connection.StaySilent(); });
  EXPECT_EQ(FirstFailure(silent.port(), {.tcp = true}), "");
}

TEST(HealthChecker, AnotherPortMayAnswerForAnEndpoint) {
  ScriptedUpstream admin(fixtures::Ok("fine"));
  EXPECT_EQ(FirstFailure(9, {.port = admin.port()}), "");
}

TEST(HealthChecker, FollowsAnEndpointThatFailsAndComesBack) {
  std::atomic<int> status{200};
  ScriptedUpstream upstream(Respond([&](const UpstreamRequest&) { return MakeResponse(status, "x"); }));
  HealthChecker checker;
  const HealthTarget target = Target(upstream.port(), {.healthy = 2, .unhealthy = 3});
  checker.Follow({target});
  ASSERT_TRUE(WaitFor([&] { return !checker.Counts().empty() && checker.Counts()[0].passed >= 2; }));
  EXPECT_TRUE(target.state->usable());
  status = 500;
  ASSERT_TRUE(WaitFor([&] { return !target.state->usable(); }));
  EXPECT_GE(checker.Counts()[0].failed, 3u);
  ASSERT_TRUE(WaitFor([&] { return checker.Unhealthy().size() == 1; }));
  EXPECT_EQ(checker.Unhealthy()[0].failure, "status 500");
  status = 200;
  ASSERT_TRUE(WaitFor([&] { return target.state->usable(); }));
  EXPECT_TRUE(WaitFor([&] { return checker.Unhealthy().empty(); }));
}

TEST(HealthChecker, WhatIsFollowedNoLongerIsNotCheckedAndCountsAsHealthy) {
  ScriptedUpstream failing(Respond([](const UpstreamRequest&) { return MakeResponse(500, "x"); }));
  ScriptedUpstream silent([](UpstreamConnection& connection) { (void)connection.WaitForEnd(); });
  HealthChecker checker;
  const HealthTarget one = Target(failing.port()), two = Target(silent.port(), {.timeout = 60s});
  checker.Follow({one, two});
  ASSERT_TRUE(WaitFor([&] { return !one.state->usable() && silent.connections() == 1; }));
  checker.Follow({});
  EXPECT_TRUE(WaitFor([&] { return one.state->usable() && silent.open_connections() == 0; }));
  EXPECT_THAT(checker.Unhealthy(), IsEmpty());
  EXPECT_THAT(checker.Counts(), IsEmpty());
}

TEST(HealthChecker, ANewPolicyKeepsWhatIsKnown) {
  std::atomic<bool> hang{false};
  ScriptedUpstream upstream([&](UpstreamConnection& connection) {
    while (connection.ReadRequest()) {
      if (hang) return connection.StaySilent();
      connection.Send(MakeResponse(500, "x"));
      return;
    }
  });
  HealthChecker checker;
  HealthTarget target = Target(upstream.port());
  checker.Follow({target});
  ASSERT_TRUE(WaitFor([&] { return !target.state->usable(); }));
  hang = true;
  const int asked = upstream.request_count();
  auto policy = *target.policy;
  policy.timeout = 60s;
  target.policy = std::make_shared<const HealthCheckPolicy>(policy);
  checker.Follow({target});
  ASSERT_TRUE(upstream.WaitForRequests(asked + 1));
  EXPECT_FALSE(target.state->usable());
  EXPECT_THAT(checker.Unhealthy(), SizeIs(1));
}

TEST(HealthChecker, ChecksAtOnceAreBounded) {
  ScriptedUpstream silent([](UpstreamConnection& connection) { (void)connection.WaitForEnd(); });
  HealthChecker checker;
  HealthTargets targets;
  for (int i = 0; i < HealthChecker::kChecksMax + 50; ++i) {
    targets.push_back(Target(silent.port(), {.timeout = 60s}));
  }
  checker.Follow(targets);
  ASSERT_TRUE(silent.WaitForConnections(HealthChecker::kChecksMax));
  EXPECT_EQ(silent.connections(), HealthChecker::kChecksMax);
  checker.Follow({});
  EXPECT_TRUE(silent.WaitForOpenConnections(0));
}

TEST(HealthChecker, TicksByTheClock) {
  std::atomic<int> ticks{0};
  HealthChecker checker([&](TimePoint) { ++ticks; });
  EXPECT_TRUE(WaitFor([&] { return ticks >= 3; }));
}

}  // namespace
}  // namespace gateway::dataplane
