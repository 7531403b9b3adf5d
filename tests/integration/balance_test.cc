// Balancing and health as requests see them, over several workers of a real process.
#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string ReasonOf(const Response& response) {
  return nlohmann::json::parse(response.body, nullptr, false).value("reason", "");
}

// Which upstreams respond, by the body: counts the 200 responses of `requests` requests.
std::map<std::string, int> Answers(const DataPlane& gateway, int requests, const std::string& fields = "") {
  std::map<std::string, int> counts;
  for (int i = 0; i < requests; ++i) {
    const auto response = Fetch(gateway.port(), "GET", "/svc", fields);
    if (response.ok()) ++counts[response->status == 200 ? response->body : std::to_string(response->status)];
  }
  return counts;
}

// Responds with its name, and with a configurable status to health checks (/live) and to requests.
struct Instance {
  explicit Instance(const std::string& name)
      : upstream(Respond([this, name](const UpstreamRequest& request) {
          const bool check = request.target == "/live";
          if (check) ++checks;
          return MakeResponse(check ? check_status : status, name);
        })) {}
  std::atomic<int> status{200}, check_status{200}, checks{0};
  ScriptedUpstream upstream;
};

TEST(Health, AnEndpointThatFailsItsChecksGetsNoRequestsUntilItPassesAgain) {
  Instance a("a"), b("b");
  DataPlane gateway({.policy = ServicePolicyYaml({a.upstream.address(), b.upstream.address()},
                                                 "health_check: { path: /live, interval: 100ms, unhealthy: 2 }"),
                     .workers = 4});
  ASSERT_TRUE(WaitFor([&] { return a.checks > 0 && b.checks > 0; }));
  EXPECT_EQ(Answers(gateway, 10), (std::map<std::string, int>{{"a", 5}, {"b", 5}}));
  a.check_status = 503;
  const std::string excluded = "gateway_endpoint_excluded{service=\"svc\",reason=\"unhealthy\"}";
  ASSERT_TRUE(WaitFor([&] { return gateway.Metric(excluded) == 1; })) << gateway.Metrics();
  EXPECT_EQ(Answers(gateway, 10), (std::map<std::string, int>{{"b", 10}}));
  EXPECT_GE(gateway.Metric("gateway_health_checks_total{service=\"svc\",result=\"failed\"}"), 2);
  a.check_status = 200;
  ASSERT_TRUE(WaitFor([&] { return gateway.Metric(excluded) == 0; }));
  EXPECT_EQ(Answers(gateway, 10), (std::map<std::string, int>{{"a", 5}, {"b", 5}}));
}

TEST(Health, ChecksAreMadeOnceForTheDataPlaneWhateverItsWorkers) {
  Instance a("a");
  DataPlane gateway(
      {.policy = ServicePolicyYaml({a.upstream.address()}, "health_check: { path: /live, interval: 200ms }"),
       .workers = 4});
  ASSERT_TRUE(WaitFor([&] { return a.checks >= 2; }));
  const auto begin = std::chrono::steady_clock::now();
  const int before = a.checks;
  ASSERT_TRUE(WaitFor([&] { return a.checks >= before + 6; }));
  // Separate counters per worker would take a quarter of that.
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(5 * 170));
}

TEST(Health, AnEndpointWhoseAnswersFailIsEjectedForAWhile) {
  Instance a("a"), b("b");
  DataPlane gateway({.policy = ServicePolicyYaml({a.upstream.address(), b.upstream.address()},
                                                 "outlier_ejection: { consecutive_failures: 3, base_time: 1s }")});
  a.status = 500;
  EXPECT_EQ(Answers(gateway, 20), (std::map<std::string, int>{{"500", 3}, {"b", 17}}));
  EXPECT_EQ(gateway.Metric("gateway_outlier_ejections_total{service=\"svc\"}"), 1);
  EXPECT_EQ(gateway.Metric("gateway_endpoint_excluded{service=\"svc\",reason=\"ejected\"}"), 1);
  a.status = 200;
  EXPECT_TRUE(WaitFor([&] { return Answers(gateway, 2).contains("a"); }));
  EXPECT_EQ(gateway.Metric("gateway_endpoint_excluded{service=\"svc\",reason=\"ejected\"}"), 0);
}

// Each response has status 200, but its body is never complete.
TEST(Health, AnEndpointWhoseResponsesBreakOffIsEjected) {
  ScriptedUpstream broken([](UpstreamConnection& connection) {
    if (!connection.ReadRequest()) return;
    connection.Send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
    connection.Reset();
  });
  Instance b("b");
  DataPlane gateway({.policy = ServicePolicyYaml({broken.address(), b.upstream.address()},
                                                 "outlier_ejection: { consecutive_failures: 3, base_time: 60s }")});
  int cut_off = 0;
  for (int i = 0; i < 20; ++i) cut_off += Fetch(gateway.port(), "GET", "/svc").ok() ? 0 : 1;
  EXPECT_EQ(cut_off, 3);
  EXPECT_EQ(gateway.Metric("gateway_outlier_ejections_total{service=\"svc\"}"), 1);
}

TEST(Health, AnEndpointThatRefusesConnectionsIsEjected) {
  Instance a("a"), b("b");
  DataPlane gateway(
      {.policy = ServicePolicyYaml({a.upstream.address(), b.upstream.address()},
                                   "outlier_ejection: { consecutive_failures: 0, consecutive_gateway_failures: 2 }")});
  a.upstream.Stop();
  EXPECT_EQ(Answers(gateway, 10), (std::map<std::string, int>{{"b", 10}})) << "retried elsewhere, then not used";
  EXPECT_EQ(gateway.Metric("gateway_outlier_ejections_total{service=\"svc\"}"), 1);
}

TEST(Health, WhereAllAreUnhealthyAllServeUnlessPolicySaysOtherwise) {
  Instance a("a"), b("b");
  a.check_status = b.check_status = 500;
  const std::vector<std::string> addresses = {a.upstream.address(), b.upstream.address()};
  const std::string check = "health_check: { path: /live, interval: 100ms }";
  DataPlane panicking({.policy = ServicePolicyYaml(addresses, check)});
  ASSERT_TRUE(WaitFor([&] { return panicking.Metric("gateway_service_panic{service=\"svc\"}") == 1; }));
  EXPECT_EQ(Answers(panicking, 10), (std::map<std::string, int>{{"a", 5}, {"b", 5}}));
  DataPlane strict({.policy = ServicePolicyYaml(addresses, check + "\nload_balancer: { panic_percent: 0 }")});
  ASSERT_TRUE(WaitFor([&] { return Answers(strict, 1).contains("503"); }));
  const auto refused = Fetch(strict.port(), "GET", "/svc");
  ASSERT_TRUE(refused.ok());
  EXPECT_EQ(ReasonOf(*refused), "no_healthy_endpoint");
}

TEST(Balancing, LeastRequestGoesAroundABusyEndpointOfAnotherWorker) {
  Event release_busy, release_idle;
  const auto answer_after = [](const Event& event, const std::string& name) {
    return [&event, name](UpstreamConnection& connection) {
      while (connection.ReadRequest()) {
        if (!connection.WaitFor(event)) return;
        connection.Send(MakeResponse(200, name));
      }
    };
  };
  ScriptedUpstream busy(answer_after(release_busy, "busy"));
  ScriptedUpstream idle(answer_after(release_idle, "idle"));
  DataPlane gateway(
      {.policy = ServicePolicyYaml({busy.address(), idle.address()}, "load_balancer: { policy: least_request }"),
       .workers = 4});
  std::vector<RawClient> held;
  while (busy.request_count() < 2) {
    held.emplace_back(gateway.port());
    ASSERT_TRUE(held.back().Send("GET /svc HTTP/1.1\r\nHost: a\r\n\r\n").ok());
    ASSERT_TRUE(WaitFor([&] { return busy.request_count() + idle.request_count() == static_cast<int>(held.size()); }));
  }
  EXPECT_LE(held.size(), 4u) << "two each, at most";
  release_idle.Set();
  ASSERT_TRUE(WaitFor([&] { return gateway.Metric("gateway_requests_in_flight") == 2; }));
  EXPECT_EQ(Answers(gateway, 50), (std::map<std::string, int>{{"idle", 50}}));
  release_busy.Set();
}

TEST(Balancing, PeakEwmaLeavesASlowEndpointAloneAndLetsNoneOfEqualsStarve) {
  const auto answer_after = [](std::chrono::milliseconds takes, const std::string& name) {
    return Respond([takes, name](const UpstreamRequest&) {
      std::this_thread::sleep_for(takes);
      return MakeResponse(200, name);
    });
  };
  // Ten times what a loaded machine adds to a fast response.
  ScriptedUpstream slow(answer_after(std::chrono::milliseconds(200), "slow"));
  ScriptedUpstream one(answer_after(std::chrono::milliseconds(2), "one"));
  ScriptedUpstream two(answer_after(std::chrono::milliseconds(2), "two"));
  DataPlane gateway({.policy = ServicePolicyYaml({slow.address(), one.address(), two.address()},
                                                 "load_balancer: { policy: peak_ewma }"),
                     .workers = 2});
  std::mutex mutex;
  std::map<std::string, int> counts;
  std::vector<std::thread> clients;
  clients.reserve(4);
  for (int client = 0; client < 4; ++client) {
    clients.emplace_back([&] {
      const auto mine = Answers(gateway, 150);
      std::lock_guard lock(mutex);
      for (const auto& [name, count] : mine) counts[name] += count;
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(counts["slow"] + counts["one"] + counts["two"], 600);
  EXPECT_GE(counts["slow"], 1) << "it must be measured";
  EXPECT_LE(counts["slow"], 30) << "of 600";
  EXPECT_GE(counts["one"], 100) << "of 600";
  EXPECT_GE(counts["two"], 100) << "of 600";
}

TEST(Balancing, AUserStaysOnItsEndpointByHash) {
  Instance a("a"), b("b"), c("c");
  for (const std::string policy : {"ring_hash", "maglev"}) {
    DataPlane gateway(
        {.policy = ServicePolicyYaml({a.upstream.address(), b.upstream.address(), c.upstream.address()},
                                     Concat("load_balancer: { policy: ", policy, ", hash_on: { header: X-User } }"))});
    std::map<std::string, int> users;
    for (int user = 0; user < 60; ++user) {
      const auto answers = Answers(gateway, 3, Concat("X-User: user-", user, "\r\n"));
      ASSERT_EQ(answers.size(), 1u) << policy;
      ++users[answers.begin()->first];
    }
    EXPECT_EQ(users.size(), 3u) << policy;
    EXPECT_EQ(Answers(gateway, 100).size(), 3u) << "without the field, any endpoint";
  }
}

TEST(Balancing, ASessionStaysOnItsEndpointByItsCookie) {
  Instance a("a"), b("b");
  DataPlane gateway({.policy = ServicePolicyYaml({a.upstream.address(), b.upstream.address()},
                                                 "load_balancer: { session: { cookie: sid, ttl: 1h } }\n"
                                                 "outlier_ejection: { consecutive_gateway_failures: 1 }")});
  const auto first = Fetch(gateway.port(), "GET", "/svc");
  ASSERT_TRUE(first.ok());
  const std::string line = first->Field("Set-Cookie").value_or("");
  EXPECT_THAT(line, HasSubstr("; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600"));
  for (const auto& address : {a.upstream.address(), b.upstream.address()}) EXPECT_THAT(line, Not(HasSubstr(address)));
  const std::string cookie = Concat("Cookie: theme=dark; ", line.substr(0, line.find(';')), "\r\n");
  EXPECT_EQ(Answers(gateway, 20, cookie), (std::map<std::string, int>{{first->body, 20}}));
  const auto again = Fetch(gateway.port(), "GET", "/svc", cookie);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->Field("Set-Cookie"), std::nullopt);
  // The session's endpoint stops: the session moves to the other one and stays there.
  (first->body == "a" ? a : b).upstream.Stop();
  const auto moved = Fetch(gateway.port(), "GET", "/svc", cookie);
  ASSERT_TRUE(moved.ok());
  EXPECT_EQ(moved->body, first->body == "a" ? "b" : "a");
  EXPECT_NE(moved->Field("Set-Cookie"), std::nullopt);
}

TEST(Balancing, TheSessionCookieIsSecureWhereATrustedProxySaysHttps) {
  Instance a("a");
  constexpr char kService[] = "load_balancer: { session: { cookie: sid, ttl: 1h } }";
  const auto line = [](DataPlane& gateway, std::string_view fields) {
    const auto response = Fetch(gateway.port(), "GET", "/svc", fields);
    return response.ok() ? response->Field("Set-Cookie").value_or("") : response.status().ToString();
  };
  DataPlane trusting(
      {.policy = ServicePolicyYaml({a.upstream.address()}, kService), .sets = {"server.trusted_proxies=127.0.0.0/8"}});
  EXPECT_THAT(line(trusting, "X-Forwarded-Proto: https\r\n"),
              HasSubstr("; HttpOnly; SameSite=Lax; Secure; Max-Age=3600"));
  EXPECT_THAT(line(trusting, "X-Forwarded-Proto: http\r\n"),
              AllOf(HasSubstr("SameSite=Lax"), Not(HasSubstr("Secure"))));
  EXPECT_THAT(line(trusting, ""), AllOf(HasSubstr("SameSite=Lax"), Not(HasSubstr("Secure"))));
  DataPlane strict({.policy = ServicePolicyYaml({a.upstream.address()}, kService)});
  EXPECT_THAT(line(strict, "X-Forwarded-Proto: https\r\n"), AllOf(HasSubstr("SameSite=Lax"), Not(HasSubstr("Secure"))));
}

TEST(Balancing, RequestsStayInTheOwnZone) {
  Instance near("near"), far("far");
  DataPlane gateway({.policy = Concat("kind: Service\nname: svc\nstatic: [{ address: \"", near.upstream.address(),
                                      "\", zone: here }, { address: \"", far.upstream.address(),
                                      "\", zone: there }]\nload_balancer: { zones: prefer }\n"
                                      "health_check: { path: /live, interval: 100ms, unhealthy: 1 }\n"
                                      "---\nkind: Route\nname: svc\nmatch: { path: { prefix: /svc } }\nservice: svc\n"),
                     .sets = {"data_plane.zone=here"}});
  EXPECT_EQ(Answers(gateway, 20), (std::map<std::string, int>{{"near", 20}}));
  near.check_status = 500;
  EXPECT_TRUE(WaitFor([&] { return Answers(gateway, 10) == std::map<std::string, int>{{"far", 10}}; }));
}

TEST(Balancing, AnEndpointMayBeAHostName) {
  Instance a("a");
  DataPlane gateway({.policy = ServicePolicyYaml({Concat("localhost:", a.upstream.port())})});
  EXPECT_EQ(Answers(gateway, 5), (std::map<std::string, int>{{"a", 5}})) << "from the first request on";
}

}  // namespace
}  // namespace gateway::fixtures
