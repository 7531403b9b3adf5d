// Retries, bulkheads and mirrors, through real processes.
#include <atomic>
#include <chrono>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "common/base/text.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

using namespace std::chrono_literals;

std::string ReasonOf(const Response& response) {
  return nlohmann::json::parse(response.body, nullptr, false).value("reason", "");
}

std::string RetryYaml(const std::string& settings) {
  return Concat("---\nkind: Retry\nname: again\n", settings,
                "\n---\nkind: RateLimit\nname: default\nmode: disabled\nlimit: { requests: 1, window: 1s }\n");
}

std::string ValueOf(const Message& message, const std::string& name) { return message.Field(name).value_or(""); }

TEST(Retrying, AFailedResponseIsRetriedAtAnotherEndpoint) {
  ScriptedUpstream bad(Respond([](const UpstreamRequest&) { return MakeResponse(503, "no"); }));
  ScriptedUpstream good(Echo("good"));
  DataPlane gateway({.policy = ServicePolicyYaml({bad.address(), good.address()}, "retry: again",
                                                 RetryYaml("budget: { percent: 100, min_per_second: 100 }"))});
  for (int i = 0; i < 20; ++i) {
    const auto response = Fetch(gateway.port(), "GET", "/svc");
    ASSERT_TRUE(response.ok());
    EXPECT_EQ(response->status, 200);
  }
  EXPECT_EQ(good.request_count(), 20);
  EXPECT_GT(bad.request_count(), 0);
  EXPECT_LE(bad.request_count(), 20) << "one attempt of each request that began there";
  int seconds = 0;
  for (const UpstreamRequest& request : good.requests())
    seconds += ValueOf(request, "X-Gateway-Attempt") == "2" ? 1 : 0;
  EXPECT_EQ(seconds, bad.request_count());
  for (const UpstreamRequest& request : bad.requests()) EXPECT_EQ(ValueOf(request, "X-Gateway-Attempt"), "1");
  int logged = 0;
  for (const auto& line : gateway.LogLines(20)) logged += line.value("attempts", 1) == 2 ? 1 : 0;
  EXPECT_EQ(logged, seconds);
}

TEST(Retrying, AClientThatGoesWhileItWaitsForAnotherAttemptEndsIt) {
  ScriptedUpstream upstream(Respond([](const UpstreamRequest&) { return MakeResponse(503, "no"); }));
  DataPlane gateway({.policy = ServicePolicyYaml({upstream.address()}, "retry: again\ntimeouts: { response: 60s }",
                                                 RetryYaml("backoff: { base: 30s, max: 30s }"))});
  for (int i = 0; i < 5; ++i) {  // the delay is random, up to its bound
    RawClient client(gateway.port());
    ASSERT_TRUE(client.Send("GET /svc HTTP/1.1\r\nHost: a\r\n\r\n").ok());
    ASSERT_TRUE(upstream.WaitForRequests(i + 1));
    client.Reset();
  }
  EXPECT_TRUE(WaitFor([&] { return gateway.Metric("gateway_requests_in_flight") == 0; }));
}

TEST(Retrying, TheLastAnswerIsTheClients) {
  ScriptedUpstream upstream(Respond([](const UpstreamRequest&) { return MakeResponse(503, "mine"); }));
  DataPlane gateway({.policy = ServicePolicyYaml({upstream.address()}, "retry: again",
                                                 RetryYaml("attempts: 2\nbackoff: { base: 1ms, max: 2ms }"))});
  const auto response = Fetch(gateway.port(), "GET", "/svc");
  ASSERT_TRUE(response.ok());
  EXPECT_EQ(response->status, 503);
  EXPECT_EQ(response->body, "mine");
  EXPECT_EQ(upstream.request_count(), 3);
}

TEST(Retrying, OnlyNamedMethodsAreSentTwice) {
  ScriptedUpstream upstream([](UpstreamConnection& connection) {
    (void)connection.ReadRequest();  // then closes the connection
  });
  DataPlane gateway(
      {.policy = ServicePolicyYaml({upstream.address()}, "retry: again",
                                   RetryYaml("attempts: 1\nmethods: [GET, PATCH]\nbackoff: { base: 1ms, max: 1ms }"))});
  auto response = Fetch(gateway.port(), "POST", "/svc", "", "body");
  ASSERT_TRUE(response.ok());
  EXPECT_EQ(response->status, 502);
  EXPECT_EQ(ReasonOf(*response), "upstream_reset");
  EXPECT_EQ(upstream.request_count(), 1);
  response = Fetch(gateway.port(), "PATCH", "/svc", "", "body");
  ASSERT_TRUE(response.ok());
  EXPECT_EQ(response->status, 502);
  ASSERT_EQ(upstream.request_count(), 3);
  EXPECT_EQ(upstream.requests()[2].body, "body") << "the whole body is sent again";
}

TEST(Retrying, ABodyThatComesSlowlyIsKeptUpToItsBound) {
  std::atomic<int> seen{0};
  ScriptedUpstream upstream(
      Respond([&](const UpstreamRequest& request) { return MakeResponse(++seen % 2 == 1 ? 503 : 200, request.body); }));
  DataPlane gateway(
      {.policy = ServicePolicyYaml(
           {upstream.address()}, "retry: again",
           RetryYaml("attempts: 1\nmethods: [PUT]\nmax_body_bytes: 8KiB\nbackoff: { base: 1ms, max: 1ms }"))});
  const std::string body(6000, 'b');
  {
    RawClient client(gateway.port());
    ASSERT_TRUE(client.Send("PUT /svc HTTP/1.1\r\nHost: a\r\nContent-Length: 6000\r\n\r\n").ok());
    ASSERT_TRUE(client.Send(body.substr(0, 100)).ok());
    EXPECT_FALSE(upstream.WaitForRequests(1, Timeout(100))) << "nothing is sent before the body is complete";
    ASSERT_TRUE(client.Send(body.substr(100)).ok());
    const auto response = client.ReadResponse();
    ASSERT_TRUE(response.ok());
    EXPECT_EQ(response->status, 200);
    EXPECT_EQ(response->body, body);
    EXPECT_EQ(upstream.request_count(), 2);
    // Chunked, with the next request right after it.
    ASSERT_TRUE(client.Send("PUT /svc HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").ok());
    EXPECT_FALSE(upstream.WaitForRequests(3, Timeout(100)));
    ASSERT_TRUE(client.Send("2\r\nde\r\n0\r\n\r\nGET /svc/next HTTP/1.1\r\nHost: a\r\n\r\n").ok());
    const auto chunked = client.ReadResponse();
    ASSERT_TRUE(chunked.ok());
    EXPECT_EQ(chunked->status, 200);
    EXPECT_EQ(chunked->body, "abcde");
    const auto next = client.ReadResponse();
    ASSERT_TRUE(next.ok());
    EXPECT_EQ(next->status, 503) << "GET is not in `methods`";
    EXPECT_EQ(upstream.requests()[4].target, "/svc/next");
  }
  seen = 0;
  const auto longer = Fetch(gateway.port(), "PUT", "/svc", "", std::string(9000, 'c'));
  ASSERT_TRUE(longer.ok());
  EXPECT_EQ(longer->status, 503) << "one try";
  EXPECT_EQ(upstream.request_count(), 6);
}

TEST(Retrying, ATryThatTakesTooLongIsGivenUp) {
  std::atomic<int> seen{0};
  ScriptedUpstream upstream([&](UpstreamConnection& connection) {
    while (connection.ReadRequest()) {
      if (++seen == 1) return connection.StaySilent();
      if (!connection.Send(MakeResponse(200, "late"))) return;
    }
  });
  DataPlane gateway(
      {.policy = ServicePolicyYaml({upstream.address()}, "retry: again",
                                   RetryYaml("attempts: 1\nper_try_timeout: 200ms\nconditions: [timeout]"))});
  const auto response = Fetch(gateway.port(), "GET", "/svc");
  ASSERT_TRUE(response.ok());
  EXPECT_EQ(response->status, 200);
  EXPECT_EQ(response->body, "late");
}

// The gateway's own status is a retry condition, like an endpoint's response.
TEST(Retrying, OurOwnStatusesAreConditionsToo) {
  ScriptedUpstream silent([](UpstreamConnection& connection) { connection.StaySilent(); });
  ScriptedUpstream garbage([](UpstreamConnection& connection) {
    if (connection.ReadRequest()) connection.Send("no HTTP at all\r\n\r\n");
  });
  ScriptedUpstream full(Echo(), {.backlog = 0, .accepting = false});
  const RawClient queued(full.port());  // fills its backlog
  ScriptedUpstream good(Echo("good"));
  const std::string budget = "\nbackoff: { base: 1ms, max: 2ms }\nbudget: { percent: 100, min_per_second: 100 }";
  const std::tuple<const ScriptedUpstream*, const char*, const char*> cases[] = {
      {&silent, "conditions: [\"504\"]\nper_try_timeout: 200ms", "retry: again"},
      {&garbage, "conditions: [\"502\"]", "retry: again"},
      {&full, "conditions: [connect_failure]", "retry: again\ntimeouts: { connect: 200ms }"},
  };
  for (const auto& [bad, retry, service] : cases) {
    DataPlane gateway(
        {.policy = ServicePolicyYaml({bad->address(), good.address()}, service, RetryYaml(Concat(retry, budget)))});
    for (int i = 0; i < 4; ++i) {
      const auto response = Fetch(gateway.port(), "GET", "/svc");
      ASSERT_TRUE(response.ok()) << response.status();
      EXPECT_EQ(response->status, 200) << retry << response->body;
    }
  }
}

TEST(Retrying, GoesToAnotherEndpointThanTheLastAlsoOnceAllWereTried) {
  ScriptedUpstream one(Respond([](const UpstreamRequest&) { return MakeResponse(503, "one"); }));
  ScriptedUpstream two(Respond([](const UpstreamRequest&) { return MakeResponse(503, "two"); }));
  DataPlane gateway(
      {.policy = ServicePolicyYaml({one.address(), two.address()}, "retry: again\nload_balancer: { policy: random }",
                                   RetryYaml("attempts: 3\nbackoff: { base: 1ms, max: 2ms }\n"
                                             "budget: { percent: 100, min_per_second: 1000 }"))});
  for (int i = 1; i <= 20; ++i) {
    ASSERT_TRUE(Fetch(gateway.port(), "GET", "/svc").ok());
    // Four attempts alternate: two for each.
    EXPECT_EQ(one.request_count(), 2 * i);
    EXPECT_EQ(two.request_count(), 2 * i);
  }
}

TEST(Retrying, ADyingServiceSeesAtMostAFifthMore) {
  ScriptedUpstream upstream(Respond([](const UpstreamRequest&) { return MakeResponse(503, "x"); }));
  DataPlane gateway({.policy = ServicePolicyYaml({upstream.address()}, "retry: again",
                                                 RetryYaml("attempts: 3\nbackoff: { base: 0s, max: 0s }")),
                     .workers = 2});
  constexpr int kRequests = 1500;
  std::vector<std::thread> clients;
  for (int t = 0; t < 5; ++t) {
    clients.emplace_back([&] {
      RawClient client(gateway.port());
      for (int i = 0; i < kRequests / 5; ++i) {
        if (!client.Send("GET /svc HTTP/1.1\r\nHost: a\r\n\r\n").ok() || !client.ReadResponse().ok()) return;
      }
    });
  }
  for (auto& each : clients) each.join();
  EXPECT_GE(upstream.request_count(), kRequests);
  // The floor of three a second admits the beginning.
  EXPECT_LE(upstream.request_count(), kRequests * 1.2 + 30);
  EXPECT_GT(gateway.Metric("gateway_retries_over_budget_total"), 0);
}

TEST(Bulkhead, RequestsWaitForAConnectionInABoundedQueue) {
  Event release;
  ScriptedUpstream upstream([&](UpstreamConnection& connection) {
    while (connection.ReadRequest()) {
      if (!connection.WaitFor(release)) return;
      if (!connection.Send(MakeResponse(200, "x"))) return;
    }
  });
  DataPlane gateway({.policy = ServicePolicyYaml({upstream.address()},
                                                 "limits: { connections: 2, pending: 2, pending_timeout: 30s }"),
                     .workers = 2});
  std::vector<RawClient> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back(gateway.port());
    ASSERT_TRUE(clients.back().Send("GET /svc HTTP/1.1\r\nHost: a\r\n\r\n").ok());
  }
  ASSERT_TRUE(upstream.WaitForRequests(2));
  ASSERT_TRUE(WaitFor([&] { return gateway.Metric("gateway_service_pending{service=\"svc\"}") == 2; }));
  const auto refused = Fetch(gateway.port(), "GET", "/svc");
  ASSERT_TRUE(refused.ok());
  EXPECT_EQ(refused->status, 503);
  EXPECT_EQ(ReasonOf(*refused), "overloaded");
  EXPECT_EQ(upstream.request_count(), 2);
  release.Set();
  for (auto& each : clients) {
    const auto response = each.ReadResponse();
    ASSERT_TRUE(response.ok());
    EXPECT_EQ(response->status, 200);
  }
  EXPECT_LE(upstream.connections(), 4);
}

TEST(Bulkhead, AClientThatGoesWaitsNoLonger) {
  Event release;
  ScriptedUpstream upstream([&](UpstreamConnection& connection) {
    while (connection.ReadRequest()) {
      if (!connection.WaitFor(release) || !connection.Send(MakeResponse(200, "x"))) return;
    }
  });
  DataPlane gateway({.policy = ServicePolicyYaml({upstream.address()},
                                                 "limits: { connections: 1, pending: 5, pending_timeout: 60s }\n"
                                                 "timeouts: { response: 60s }")});
  RawClient first(gateway.port());
  ASSERT_TRUE(first.Send("GET /svc HTTP/1.1\r\nHost: a\r\n\r\n").ok());
  ASSERT_TRUE(upstream.WaitForRequests(1));
  RawClient second(gateway.port());
  ASSERT_TRUE(second.Send("GET /svc HTTP/1.1\r\nHost: a\r\n\r\n").ok());
  ASSERT_TRUE(WaitFor([&] { return gateway.Metric("gateway_service_pending{service=\"svc\"}") == 1; }));
  second.Reset();
  EXPECT_TRUE(WaitFor([&] { return gateway.Metric("gateway_service_pending{service=\"svc\"}") == 0; }));
  const auto lines = gateway.LogLines(1);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["reason"], "client_closed");
  release.Set();
  EXPECT_TRUE(first.ReadResponse().ok());
  EXPECT_EQ(upstream.request_count(), 1);
}

TEST(Bulkhead, NobodyWaitsLongerThanTold) {
  ScriptedUpstream upstream([](UpstreamConnection& connection) {
    while (connection.ReadRequest()) connection.StaySilent();
  });
  DataPlane gateway({.policy = ServicePolicyYaml({upstream.address()},
                                                 "limits: { connections: 1, pending: 5, pending_timeout: 100ms }")});
  RawClient first(gateway.port());
  ASSERT_TRUE(first.Send("GET /svc HTTP/1.1\r\nHost: a\r\n\r\n").ok());
  ASSERT_TRUE(upstream.WaitForRequests(1));
  const auto response = Fetch(gateway.port(), "GET", "/svc");
  ASSERT_TRUE(response.ok());
  EXPECT_EQ(response->status, 503);
  EXPECT_EQ(ReasonOf(*response), "overloaded");
}

TEST(Mirroring, AMirroredRequestDelaysNothing) {
  ScriptedUpstream main(Echo("main"));
  ScriptedUpstream shadow([](UpstreamConnection& connection) {
    while (connection.ReadRequest()) connection.StaySilent();
  });
  DataPlane gateway(
      {.policy = ServicePolicyYaml(
           {main.address()}, "",
           Concat("mirror: [{ service: shadow }]\n---\nkind: Service\nname: shadow\nstatic: [{ address: \"",
                  shadow.address(), "\" }]\n"))});
  const auto response = Fetch(gateway.port(), "POST", "/svc/a?b=c", "X-Mine: 1\r\n", "the body");
  ASSERT_TRUE(response.ok());
  EXPECT_EQ(response->status, 200);
  ASSERT_TRUE(shadow.WaitForRequests(1));
  ASSERT_TRUE(WaitFor([&] { return shadow.requests()[0].body == "the body"; }));
  const UpstreamRequest copy = shadow.requests()[0];
  EXPECT_EQ(copy.method, "POST");
  EXPECT_EQ(copy.target, "/svc/a?b=c");
  EXPECT_EQ(ValueOf(copy, "X-Mine"), "1");
  EXPECT_EQ(ValueOf(copy, "X-Gateway-Mirror"), "1");
  EXPECT_EQ(ValueOf(main.requests()[0], "X-Gateway-Mirror"), "");
}

// The body that the HEAD response announces arrives late: on a kept connection it would be the next request's
// response.
TEST(Mirroring, AConnectionWhoseHeadResponseAnnouncedABodyIsNotUsedAgain) {
  ScriptedUpstream main(Echo("main"));
  ScriptedUpstream shadow([](UpstreamConnection& connection) {
    while (const auto request = connection.ReadRequest()) {
      if (!connection.Send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")) return;
      if (request->method != "HEAD" && !connection.Send("hello")) return;
    }
  });
  DataPlane gateway(
      {.policy = ServicePolicyYaml(
           {main.address()}, "",
           Concat("mirror: [{ service: shadow }]\n---\nkind: Service\nname: shadow\nstatic: [{ address: \"",
                  shadow.address(), "\" }]\n"))});
  for (int i = 1; i <= 3; ++i) {
    RawClient client(gateway.port());
    ASSERT_TRUE(client.Send("HEAD /svc HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").ok());
    ASSERT_TRUE(client.ReadUntil("\r\n\r\n").ok());
    ASSERT_TRUE(shadow.WaitForRequests(i));
    ASSERT_TRUE(shadow.WaitForOpenConnections(0));
  }
  EXPECT_EQ(shadow.connections(), 3);
}

TEST(Mirroring, ADeadMirrorAffectsNoRequestAndConnectionsAreReused) {
  ScriptedUpstream main(Ok("main"));
  ScriptedUpstream shadow(Ok("shadow"));
  DataPlane gateway(
      {.policy = ServicePolicyYaml(
           {main.address()}, "",
           Concat("mirror: [{ service: shadow }]\n---\nkind: Service\nname: shadow\nstatic: [{ address: \"",
                  shadow.address(), "\" }]\n")),
       .workers = 1});
  for (int i = 0; i < 10; ++i) {
    ASSERT_EQ(Fetch(gateway.port(), "GET", "/svc")->status, 200);
    ASSERT_TRUE(shadow.WaitForRequests(i + 1));
    ASSERT_TRUE(WaitFor([&] { return gateway.Metric("gateway_upstream_idle_connections") >= 2; }));
  }
  EXPECT_EQ(shadow.connections(), 1);
  EXPECT_EQ(gateway.Metric("gateway_mirrors_failed_total"), 0);
  shadow.Stop();
  for (int i = 0; i < 10; ++i) EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc")->status, 200);
  EXPECT_TRUE(WaitFor([&] { return gateway.Metric("gateway_mirrors_failed_total") == 10; })) << gateway.Metrics();
  EXPECT_EQ(gateway.Metric("gateway_mirrored_total"), 20);
}

TEST(Breaking, AnOperatorForcesItOpenOrClosed) {
  ScriptedUpstream upstream(Ok("x"));
  DataPlane gateway({.policy = ServicePolicyYaml({upstream.address()}, "circuit_breaker: cb",
                                                 "---\nkind: CircuitBreaker\nname: cb\nforce: open")});
  const auto response = Fetch(gateway.port(), "GET", "/svc");
  ASSERT_TRUE(response.ok());
  EXPECT_EQ(response->status, 503);
  EXPECT_EQ(ReasonOf(*response), "breaker_open");
  EXPECT_EQ(upstream.request_count(), 0);
}

}  // namespace
}  // namespace gateway::fixtures
