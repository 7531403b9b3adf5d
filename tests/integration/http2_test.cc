// HTTP/2 clients, HTTP/1.1 services: requests arrive unchanged, and HTTP/2 clients get the same protections as
// HTTP/1.1 clients.
#include <algorithm>
#include <cctype>
#include <csignal>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/http2_client.h"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

class Http2 : public ::testing::Test {
 protected:
  void StartWith(UpstreamScript script, std::string_view route_fields = "", std::vector<std::string> sets = {},
                 std::string_view service_fields = "") {
    upstream_ = std::make_unique<ScriptedUpstream>(std::move(script));
    DataPlane::Options options;
    options.policy = ServicePolicyYaml({upstream_->address()}, service_fields, route_fields);
    options.workers = 1;
    options.sets = std::move(sets);
    options.listener = "protocols: [h2, http/1.1]";
    gateway_ = std::make_unique<DataPlane>(std::move(options));
  }
  std::unique_ptr<Http2Client> Connect(Http2Client::Options options = {}) {
    return Http2Client::To(gateway_->port(), std::move(options));
  }

  std::unique_ptr<ScriptedUpstream> upstream_;
  std::unique_ptr<DataPlane> gateway_;
};

TEST_F(Http2, ARequestReachesTheServiceAsItWouldByHttp1) {
  StartWith(Echo("svc"));
  const auto over_http1 = Fetch(gateway_->port(), "POST", "/svc/a?b=c", "X-One: 1\r\nCookie: a=b; c=d\r\n", "hello");
  ASSERT_TRUE(over_http1.ok()) << over_http1.status();
  const auto client = Connect();
  const Http2Response& over_http2 =
      client->Fetch({.method = "POST",
                     .path = "/svc/a?b=c",
                     .fields = {{"x-one", "1"}, {"cookie", "a=b"}, {"cookie", "c=d"}, {"content-length", "5"}},
                     .body = "hello"});
  ASSERT_EQ(over_http2.status, 200) << over_http2.body;
  const auto fields = [](const nlohmann::json& echo) {
    std::map<std::string, std::string> all;
    for (const auto& field : echo["fields"]) {
      std::string name = field[0];
      std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
      if (name == "host" || name == "via" || name == "x-request-id" || name.starts_with("x-forwarded-host")) continue;
      all[name] = field[1];
    }
    return all;
  };
  const auto one = nlohmann::json::parse(over_http1->body);
  const auto two = nlohmann::json::parse(over_http2.body);
  EXPECT_EQ(two["method"], "POST");
  EXPECT_EQ(two["target"], one["target"]);
  EXPECT_EQ(two["body"], "hello");
  EXPECT_EQ(fields(two), fields(one));
  const auto lines = gateway_->LogLines(2);
  EXPECT_EQ(lines.at(0)["protocol"], "HTTP/1.1");
  EXPECT_EQ(lines.at(1)["protocol"], "HTTP/2");
  EXPECT_EQ(gateway_->Metric("gateway_http2_connections_total"), 1);
}

TEST_F(Http2, ARequestThatIsResetOverItsHeaderIsInTheAccessLog) {
  StartWith(Echo("svc"));
  const auto client = Connect();
  // A body is announced, and the request ends without one (RFC 9113, section 8.1.1).
  const int32_t stream = client->SendFields({{":method", "POST"},
                                             {":scheme", "http"},
                                             {":authority", "a.test"},
                                             {":path", "/svc/broken"},
                                             {"user-agent", "lab"},
                                             {"content-length", "5"}});
  const Http2Response& response = client->Finish(stream);
  ASSERT_TRUE(response.status >= 400 || response.reset) << response.status;
  const auto line = gateway_->LogLines(1).at(0);
  EXPECT_EQ(line["method"], "POST");
  EXPECT_EQ(line["path"], "/svc/broken");
  EXPECT_EQ(line["reason"], "bad_request");
  EXPECT_EQ(line["status"], 400);
  EXPECT_EQ(line["user_agent"], "lab");
  EXPECT_EQ(client->Fetch({.path = "/svc"}).status, 200);
}

TEST_F(Http2, ManyRequestsShareAConnection) {
  StartWith(Ok("hello"));
  const auto client = Connect();
  for (int round = 0; round < 10; ++round) {
    std::vector<int32_t> streams;
    for (int i = 0; i < 100; ++i) streams.push_back(client->Send({.path = "/svc"}));
    for (const int32_t stream : streams) ASSERT_EQ(client->Finish(stream).body, "hello");
  }
  EXPECT_EQ(gateway_->Metric("gateway_http2_streams_total"), 1000);
  EXPECT_EQ(gateway_->Metric("gateway_connections"), 1);
}

TEST_F(Http2, LongBodiesPassBothWays) {
  StartWith(Respond([](const UpstreamRequest& request) { return MakeResponse(200, request.body); }));
  const std::string body(4 << 20, 'x');
  const auto client = Connect();
  EXPECT_EQ(client->Finish(client->Send({.method = "POST", .path = "/svc", .body = body}), 60s).body, body);
  EXPECT_EQ(client
                ->Finish(client->Send({.method = "POST",
                                       .path = "/svc",
                                       .fields = {{"content-length", std::to_string(body.size())}},
                                       .body = body}),
                         60s)
                .body,
            body);
}

TEST_F(Http2, RejectionsAreTheGateways) {
  StartWith(Ok("hello"));
  const auto client = Connect();
  const Http2Response& none = client->Fetch({.path = "/nowhere"});
  EXPECT_EQ(none.status, 404);
  EXPECT_EQ(nlohmann::json::parse(none.body)["reason"], "no_route");
  const Http2Response& invalid = client->Fetch({.path = "/svc", .fields = {{"x", "a\x01"}}});
  EXPECT_EQ(invalid.status, 400);
  EXPECT_EQ(nlohmann::json::parse(invalid.body)["reason"], "bad_request");
  const Http2Response& large = client->Fetch({.path = "/svc", .fields = {{"x", std::string(70'000, 'a')}}});
  EXPECT_EQ(large.status, 431);
  EXPECT_EQ(client->Fetch({.path = "/svc"}).body, "hello");
}

TEST_F(Http2, AClientThatCancelsEndsTheServicesWork) {
  Event gone;
  StartWith([&](UpstreamConnection& connection) {
    if (!connection.ReadRequest()) return;
    if (connection.WaitForEnd() != PeerEnd::kOpen) gone.Set();
  });
  const auto client = Connect();
  const int32_t stream = client->Send({.path = "/svc"});
  ASSERT_TRUE(client->Await([&] { return !upstream_->requests().empty(); }));
  client->Reset(stream);
  EXPECT_TRUE(gone.Wait());
  EXPECT_EQ(gateway_->LogLines(1).at(0)["reason"], "client_closed");
  EXPECT_FALSE(client->closed());
}

TEST_F(Http2, ExtendedConnectReachesAWebSocketOfHttp1) {
  StartWith(
      [](UpstreamConnection& connection) {
        const auto request = connection.ReadHead();
        if (!request || request->AllFields("Sec-WebSocket-Key").size() != 1) return;
        connection.Send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Accept: x\r\n\r\n");
        for (;;) {
          const auto some = connection.stream().ReadSome(64 * 1024, Timeout(60'000));
          if (!some.ok() || !connection.Send(*some)) return;
        }
      },
      "upgrades: [websocket]");
  const auto client = Connect();
  ASSERT_TRUE(client->Await([&] { return client->settings_received(); }));
  const int32_t stream = client->Send({.method = "CONNECT",
                                       .path = "/svc/chat",
                                       .fields = {{"sec-websocket-version", "13"}},
                                       .ends = false,
                                       .protocol = "websocket"});
  ASSERT_TRUE(client->Await([&] { return client->response(stream).status != 0; }));
  ASSERT_EQ(client->response(stream).status, 200);
  EXPECT_EQ(client->response(stream).Field("sec-websocket-accept"), "");
  client->SendData(stream, "ping", false);
  EXPECT_TRUE(client->Await([&] { return client->response(stream).body == "ping"; }));
  client->SendData(stream, "pong", true);
  EXPECT_EQ(client->Finish(stream).body, "pingpong");
}

TEST_F(Http2, ADrainLosesNoRequest) {
  Event release;
  StartWith(
      [&](UpstreamConnection& connection) {
        while (connection.ReadRequest()) {
          if (!connection.WaitFor(release) || !connection.Send(MakeResponse(200, "late"))) return;
        }
      },
      "", {"server.drain_delay=0s"});
  const auto client = Connect();
  const int32_t stream = client->Send({.path = "/svc"});
  ASSERT_TRUE(client->Await([&] { return !upstream_->requests().empty(); }));
  gateway_->process().Signal(SIGTERM);
  ASSERT_TRUE(client->Await([&] { return client->goaways() == 2; }));
  EXPECT_EQ(client->goaway(), uint32_t{NGHTTP2_NO_ERROR});
  release.Set();
  EXPECT_EQ(client->Finish(stream).body, "late");
  EXPECT_TRUE(client->Await([&] { return client->closed(); }));
}

// Other clients are served while one connection floods.
TEST_F(Http2, BystandersAreServedDuringAFlood) {
  StartWith(Ok("hello"));
  const auto bystander = Connect();
  EXPECT_EQ(bystander->Fetch({.path = "/svc"}).body, "hello");
  const auto flooder = Connect();
  for (int i = 0; i < 5000 && !flooder->closed(); ++i) {
    const int32_t stream = flooder->Send({.method = "POST", .path = "/svc", .ends = false});
    if (stream < 0) break;
    flooder->Reset(stream);
    if (i % 100 == 0) {
      ASSERT_EQ(bystander->Fetch({.path = "/svc"}).body, "hello");
    }
  }
  EXPECT_TRUE(flooder->Await([&] { return flooder->closed(); }));
  EXPECT_EQ(flooder->goaway(), uint32_t{NGHTTP2_ENHANCE_YOUR_CALM});
  EXPECT_EQ(gateway_->Metric(R"(gateway_http2_abuse_total{kind="rapid_reset"})"), 1);
  EXPECT_EQ(bystander->Fetch({.path = "/svc"}).body, "hello");
}

TEST_F(Http2, Http1IsServedOnTheSameListener) {
  StartWith(Ok("hello"));
  const auto response = Fetch(gateway_->port(), "GET", "/svc");
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->body, "hello");
  RawClient slow(gateway_->port());
  ASSERT_TRUE(slow.Send("P").ok());
  ASSERT_TRUE(slow.Send("OST /svc HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").ok());
  EXPECT_EQ(slow.ReadResponse()->body, "hello");
}

}  // namespace
}  // namespace gateway::fixtures
