// Responses that are truncated, that announce a body they must not have, and endless interim responses.
#include <chrono>
#include <string>

#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/programs.h"
#include "tests/integration/proxy.h"

namespace gateway::fixtures {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

constexpr char kUnlimited[] =
    "---\nkind: RateLimit\nname: default\nmode: disabled\nlimit: { requests: 1, window: 1s }\n";

// Announces 100 bytes, sends 10, and resets the connection.
UpstreamScript BreaksOff() {
  return [](UpstreamConnection& connection) {
    if (!connection.ReadRequest()) return;
    connection.Send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789");
    connection.Reset();
  };
}

std::string BreakerYaml(const std::string& settings) {
  return Concat("---\nkind: CircuitBreaker\nname: cb\n", settings, "\n", kUnlimited);
}

class Responses : public Proxy {};

TEST_F(Responses, ThatBreakOffOpenTheBreaker) {
  StartWith(BreaksOff(), "circuit_breaker: cb", BreakerYaml("request_volume_threshold: 5\nsleep_window: 60s"));
  for (int i = 0; i < 5; ++i) {
    EXPECT_FALSE(Fetch(gateway_->port(), "GET", "/svc").ok()) << "the client must see the truncation";
  }
  const Response response = Get("/svc");
  EXPECT_EQ(response.status, 503);
  EXPECT_EQ(ReasonOf(response), "breaker_open");
  EXPECT_EQ(upstream_->request_count(), 5);
}

TEST_F(Responses, ThatStallInTheirBodyOpenTheBreaker) {
  StartWith(
      [](UpstreamConnection& connection) {
        if (!connection.ReadRequest()) return;
        connection.Send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789");
        connection.StaySilent();
      },
      "circuit_breaker: cb\ntimeouts: { response: 50ms }",
      BreakerYaml("request_volume_threshold: 3\nsleep_window: 60s"));
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(Fetch(gateway_->port(), "GET", "/svc").ok());
  EXPECT_EQ(ReasonOf(Get("/svc")), "breaker_open");
}

TEST_F(Responses, WhoseClientsGoAwayCountForNothing) {
  StartWith(
      [](UpstreamConnection& connection) {
        if (!connection.ReadRequest()) return;
        connection.Send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789");
        connection.WaitForEnd();
      },
      "circuit_breaker: cb", BreakerYaml("request_volume_threshold: 3\nsleep_window: 60s"));
  for (int i = 0; i < 6; ++i) {
    RawClient client(gateway_->port());
    ASSERT_TRUE(client.Send("GET /svc HTTP/1.1\r\nHost: a\r\n\r\n").ok());
    ASSERT_TRUE(client.ReadUntil("0123456789").ok());
    client.Reset();
  }
  ASSERT_TRUE(WaitFor([&] { return gateway_->Metric("gateway_requests_in_flight") == 0; }));
  upstream_->SetScript(Ok("fine"));
  EXPECT_EQ(Get("/svc").status, 200);
}

TEST_F(Responses, ThatBreakOffEjectTheirEndpoint) {
  ScriptedUpstream bad(BreaksOff());
  ScriptedUpstream good(Ok("fine"));
  DataPlane gateway(
      {.policy = ServicePolicyYaml({bad.address(), good.address()},
                                   "outlier_ejection: { consecutive_failures: 3, base_time: 60s }", kUnlimited),
       .workers = 1});
  int broken = 0;
  for (int i = 0; i < 20; ++i) broken += Fetch(gateway.port(), "GET", "/svc").ok() ? 0 : 1;
  EXPECT_EQ(broken, 3);
  EXPECT_EQ(bad.request_count(), 3);
  EXPECT_EQ(gateway.Metric("gateway_outlier_ejections_total{service=\"svc\"}"), 1);
  EXPECT_EQ(gateway.Metric("api_errors_total{service=\"svc\",error_type=\"upstream_reset\"}"), 3);
}

TEST_F(Responses, AfterAHundredInterimOnesArePassedOn) {
  StartWith(Respond([](const UpstreamRequest&) {
    std::string all;
    for (int i = 0; i < 100; ++i) Append(&all, "HTTP/1.1 103 Early Hints\r\nLink: </style-", i, ".css>\r\n\r\n");
    return all + MakeResponse(200, "there");
  }));
  const Response response = Get("/svc");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.body, "there");
  EXPECT_EQ(response.informational.size(), 100u);
}

TEST_F(Responses, OfInterimOnesWithoutEndAreCut) {
  StartWith([](UpstreamConnection& connection) {
    if (!connection.ReadRequest()) return;
    while (connection.Send("HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n")) {
    }
  });
  const Response response = Get("/svc");
  EXPECT_EQ(response.status, 502);
  EXPECT_EQ(ReasonOf(response), "upstream_invalid");
  EXPECT_EQ(gateway_->LogLines(1).at(0).value("detail", ""), "too many bytes of interim responses");
}

// A mirror responds to HEAD with the announced body, a moment later: no client may get that as its response.
TEST_F(Responses, ToMirroredHeadsThatAnnounceABodyEndTheirConnection) {
  ScriptedUpstream main(Ok("main"));
  ScriptedUpstream shadow([](UpstreamConnection& connection) {
    while (const auto request = connection.ReadRequest()) {
      if (request->method != "HEAD") {
        connection.Send(MakeResponse(200, "shadow"));
        continue;
      }
      connection.Send("HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n");
      if (connection.WaitForEnd(Timeout(2s)) == PeerEnd::kOpen)
        connection.Send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n!!");
    }
  });
  DataPlane gateway(
      {.policy = ServicePolicyYaml(
           {main.address()}, "",
           Concat("mirror: [{ service: shadow }]\n---\nkind: Service\nname: shadow\nstatic: [{ address: \"",
                  shadow.address(),
                  "\" }]\n---\nkind: Route\nname: shadow\nmatch: { path: { prefix: /shadow } }\nservice: "
                  "shadow\n",
                  kUnlimited)),
       .workers = 1});
  RawClient client(gateway.port());
  ASSERT_TRUE(client.Send("HEAD /svc HTTP/1.1\r\nHost: a\r\n\r\n").ok());
  const auto head = client.ReadResponse(kSoon, true);
  ASSERT_TRUE(head.ok()) << head.status();
  ASSERT_TRUE(shadow.WaitForRequests(1));
  ASSERT_TRUE(WaitFor([&] { return gateway.Metric("gateway_upstream_connections") <= 1; })) << "the mirror's was kept";
  const auto response = Fetch(gateway.port(), "GET", "/shadow");
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->body, "shadow");
  EXPECT_EQ(shadow.connections(), 2);
}

}  // namespace
}  // namespace gateway::fixtures
