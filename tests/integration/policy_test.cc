// Policy as requests see it: limits, breakers, balancing, precedence, over several workers of a real process.
#include <atomic>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "common/base/text.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

std::string ReasonOf(const Response& response) {
  return nlohmann::json::parse(response.body, nullptr, false).value("reason", "");
}

TEST(RateLimiting, ALimitHoldsForTheWholeProcessNotForEachWorker) {
  ScriptedUpstream upstream(Ok("x"));
  DataPlane gateway({.policy = ServicePolicyYaml({upstream.address()}, "",
                                                 "rate_limits: [small]\n---\nkind: RateLimit\nname: small\n"
                                                 "key: [client_ip, path]\nlimit: { requests: 50, window: 1m }"),
                     .workers = 4});
  std::atomic<int> allowed{0};
  std::atomic<int> refused{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back([&] {
      for (int n = 0; n < 20; ++n) {
        const auto response = Fetch(gateway.port(), "GET", "/svc");  // a new connection each, for all workers
        if (response.ok()) ++(response->status == 200 ? allowed : refused);
      }
    });
  }
  for (auto& each : clients) each.join();
  EXPECT_EQ(allowed, 50);
  EXPECT_EQ(refused, 110);
  const auto response = Fetch(gateway.port(), "GET", "/svc?other=query");
  ASSERT_TRUE(response.ok());
  EXPECT_EQ(response->status, 429);
  const auto body = nlohmann::json::parse(response->body);
  EXPECT_EQ(body["error"], "Rate limit exceeded");
  EXPECT_EQ(body["reason"], "rate_limited");
  EXPECT_EQ(response->Field("RateLimit-Limit"), "50");
  EXPECT_EQ(response->Field("RateLimit-Remaining"), "0");
  const int retry_after = std::stoi(response->Field("Retry-After").value_or("0"));
  EXPECT_GE(retry_after, 1);
  EXPECT_LE(retry_after, 61);
  // Another path has its own bucket; another spelling of the same path does not.
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc/other")->status, 200);
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/x/..//svc")->status, 429);
}

TEST(RateLimiting, TheBuiltInLimitGuardsItsTestRoute) {
  ScriptedUpstream upstream(Ok("x"));
  DataPlane gateway({.policy = ServicePolicyYaml({upstream.address()}),
                     .sets = {"rate_limit.max_requests=3", "rate_limit.window_size=1m", "rate_limit.enabled=true"}});
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Fetch(gateway.port(), "GET", "/test-rate-limit")->status, 200);
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/test-rate-limit")->status, 429);
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/health")->status, 200);
}

TEST(Breaking, OpensOnFailuresRefusesAtOnceAndProbesAgain) {
  std::atomic<bool> failing{true};
  ScriptedUpstream upstream(Respond([&](const UpstreamRequest&) { return MakeResponse(failing ? 500 : 200, "x"); }));
  DataPlane gateway({.policy = ServicePolicyYaml(
                         {upstream.address()}, "circuit_breaker: cb",
                         "---\nkind: CircuitBreaker\nname: cb\nrequest_volume_threshold: 5\nsleep_window: 500ms")});
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc")->status, 500);
  const auto open = Fetch(gateway.port(), "GET", "/svc");
  ASSERT_TRUE(open.ok());
  EXPECT_EQ(open->status, 503);
  EXPECT_EQ(ReasonOf(*open), "breaker_open");
  EXPECT_NE(open->Field("Retry-After"), std::nullopt);
  EXPECT_EQ(upstream.request_count(), 5);
  EXPECT_EQ(gateway.Metric("gateway_breaker_state{service=\"svc\"}"), 1);
  failing = false;
  EXPECT_TRUE(WaitFor([&] { return Fetch(gateway.port(), "GET", "/svc")->status == 200; }));
  EXPECT_TRUE(WaitFor([&] { return gateway.Metric("gateway_breaker_state{service=\"svc\"}") == 0; }));
}

TEST(Breaking, ConcurrencyIsBoundedUntilTheAnswersEnd) {
  Event release;
  ScriptedUpstream upstream([&](UpstreamConnection& connection) {
    while (connection.ReadRequest()) {
      // The header is sent at once: the slot is taken until the body has ended.
      connection.Send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n");
      if (!connection.WaitFor(release)) return;
      connection.Send("x");
    }
  });
  DataPlane gateway({.policy = ServicePolicyYaml({upstream.address()}, "circuit_breaker: cb",
                                                 "---\nkind: CircuitBreaker\nname: cb\nmax_concurrent_requests: 2")});
  std::vector<RawClient> busy;
  for (int i = 0; i < 2; ++i) {
    busy.emplace_back(gateway.port());
    ASSERT_TRUE(busy.back().Send("GET /svc HTTP/1.1\r\nHost: a\r\n\r\n").ok());
  }
  for (auto& each : busy) ASSERT_TRUE(each.ReadUntil("\r\n\r\n").ok());
  const auto refused = Fetch(gateway.port(), "GET", "/svc");
  ASSERT_TRUE(refused.ok());
  EXPECT_EQ(refused->status, 503);
  EXPECT_EQ(ReasonOf(*refused), "concurrency_limit");
  release.Set();
  EXPECT_TRUE(WaitFor([&] { return Fetch(gateway.port(), "GET", "/svc")->status == 200; }));
}

TEST(Breaking, ResponsesThatBreakOffOrStallOpenIt) {
  for (const bool stalls : {false, true}) {
    ScriptedUpstream upstream([stalls](UpstreamConnection& connection) {
      if (!connection.ReadRequest()) return;
      connection.Send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
      if (stalls) connection.WaitForEnd();
    });
    DataPlane gateway(
        {.policy = ServicePolicyYaml(
             {upstream.address()}, "circuit_breaker: cb\ntimeouts: { response: 200ms }",
             "---\nkind: CircuitBreaker\nname: cb\nrequest_volume_threshold: 3\nsleep_window: 60s\ntimeout: 10s")});
    for (int i = 0; i < 3; ++i) EXPECT_FALSE(Fetch(gateway.port(), "GET", "/svc").ok());
    EXPECT_TRUE(WaitFor([&] { return gateway.Metric("gateway_breaker_state{service=\"svc\"}") == 1; })) << stalls;
    EXPECT_EQ(upstream.request_count(), 3);
  }
}

TEST(Breaking, AClientThatLeavesInABodyIsNoFailure) {
  ScriptedUpstream upstream([](UpstreamConnection& connection) {
    if (!connection.ReadRequest()) return;
    connection.Send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
    connection.WaitForEnd();
  });
  DataPlane gateway({.policy = ServicePolicyYaml(
                         {upstream.address()}, "circuit_breaker: cb",
                         "---\nkind: CircuitBreaker\nname: cb\nrequest_volume_threshold: 2\nsleep_window: 60s")});
  for (int i = 1; i <= 4; ++i) {
    RawClient client(gateway.port());
    ASSERT_TRUE(client.Send("GET /svc HTTP/1.1\r\nHost: a\r\n\r\n").ok());
    ASSERT_TRUE(client.ReadUntil("half").ok());
    client.Reset();
    ASSERT_EQ(gateway.LogLines(i).size(), static_cast<size_t>(i));
  }
  EXPECT_EQ(gateway.Metric("gateway_breaker_state{service=\"svc\"}"), 0);
  EXPECT_EQ(upstream.request_count(), 4);
}

TEST(Breaking, ItsTimeoutEndsAnAttempt) {
  ScriptedUpstream upstream([](UpstreamConnection& connection) {
    while (connection.ReadRequest()) connection.StaySilent();
  });
  DataPlane gateway({.policy = ServicePolicyYaml({upstream.address()}, "circuit_breaker: cb",
                                                 "---\nkind: CircuitBreaker\nname: cb\ntimeout: 200ms")});
  const auto response = Fetch(gateway.port(), "GET", "/svc");
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->status, 504);
  EXPECT_EQ(ReasonOf(*response), "upstream_timeout");
}

// How often each of three upstreams is chosen.
std::map<std::string, int> Shares(const std::string& balancer, const std::vector<std::string>& weights, int requests) {
  std::vector<std::unique_ptr<ScriptedUpstream>> upstreams;
  std::string policy = "kind: Service\nname: svc\nload_balancer: { policy: " + balancer + " }\nstatic:\n";
  for (size_t i = 0; i < weights.size(); ++i) {
    upstreams.push_back(std::make_unique<ScriptedUpstream>(Ok(Concat(i))));
    Append(&policy, "  - { address: \"", upstreams.back()->address(), "\", weight: ", weights[i], " }\n");
  }
  policy +=
      "---\nkind: Route\nname: svc\nmatch: { path: { prefix: /svc } }\nservice: svc\n---\nkind: RateLimit\nname: "
      "default\nmode: disabled\nlimit: { requests: 1, window: 1s }\n";
  DataPlane gateway({.policy = policy, .workers = 4});
  std::map<std::string, int> shares;
  for (int i = 0; i < requests; ++i) {
    const auto response = Fetch(gateway.port(), "GET", "/svc");
    ++shares[response.ok() && response->status == 200 ? response->body : "failed"];
  }
  return shares;
}

TEST(Balancing, RoundRobinIsEvenOverAllWorkers) {
  const auto shares = Shares("round_robin", {"1", "1", "1"}, 300);
  for (const auto& [name, count] : shares) EXPECT_NEAR(count, 100, 4) << name;
  EXPECT_EQ(shares.size(), 3u);
}

TEST(Balancing, WeightedFollowsTheWeights) {
  const auto shares = Shares("weighted", {"1", "3", "0"}, 200);
  EXPECT_EQ(shares.size(), 2u);
  EXPECT_NEAR(shares.at("0"), 50, 4);
  EXPECT_NEAR(shares.at("1"), 150, 4);
}

TEST(Routing, TheMoreSpecificRouteWins) {
  ScriptedUpstream one(Ok("template"));
  ScriptedUpstream two(Ok("prefix"));
  DataPlane gateway(
      {.policy = Concat("kind: Service\nname: one\nstatic: [{ address: \"", one.address(),
                        "\" }]\n---\nkind: Service\nname: two\nstatic: [{ address: \"", two.address(),
                        "\" }]\n---\nkind: Route\nname: wide\nmatch: { path: { template: \"/api/v1/{service}/**\" } }\n"
                        "service: one\n---\nkind: Route\nname: narrow\nmatch: { path: { prefix: /api/v1/orders } "
                        "}\nservice: two\n")});
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/api/v1/orders/7")->body, "prefix");
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/api/v1/orders")->body, "prefix");
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/api/v1/other/7")->body, "template");
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/api/v1//./orders/7")->body, "prefix");
}

}  // namespace
}  // namespace gateway::fixtures
