// HTTP/2 to endpoints, from HTTP/1.1 and HTTP/2 clients.
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/http2_client.h"
#include "tests/fixtures/http2_server.h"
#include "tests/fixtures/lab_ca.h"
#include "tests/fixtures/raw_client.h"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/fixtures/tls_client.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

class UpstreamHttp2 : public ::testing::Test {
 protected:
  void Start(Http2Upstream::Serve serve = &EchoHttp2, Http2Server::Options options = {},
             const std::string& service = "", const std::string& route = "") {
    upstream_ = std::make_unique<Http2Upstream>(std::move(serve), Http2Upstream::Options{.connection = options});
    Serve({upstream_->address()}, service, route);
  }
  void Serve(const std::vector<std::string>& addresses, const std::string& service = "",
             const std::string& route = "") {
    DataPlane::Options options;
    options.policy = ServicePolicyYaml(addresses, Concat("protocol: http2\n", service), route);
    options.workers = 1;
    options.listener = "protocols: [h2, http/1.1]";
    gateway_ = std::make_unique<DataPlane>(std::move(options));
  }
  Response Get(std::string_view target = "/svc", std::string_view method = "GET", std::string_view body = "",
               std::string_view fields = "") {
    const auto response = Fetch(gateway_->port(), method, target, fields, body);
    if (!response.ok()) ADD_FAILURE() << response.status();
    return response.ok() ? *response : Response();
  }

  std::unique_ptr<Http2Upstream> upstream_;
  std::unique_ptr<DataPlane> gateway_;
};

TEST_F(UpstreamHttp2, RequestsOfHttp1Pass) {
  Start();
  EXPECT_EQ(Get("/svc/a?b=c").body, "GET /svc/a?b=c ");
  EXPECT_EQ(Get("/svc/a", "POST", "hello").body, "POST /svc/a hello");
  const std::string large(3 << 20, 'x');
  EXPECT_EQ(Get("/svc", "PUT", large).body, "PUT /svc " + large);
  EXPECT_EQ(upstream_->connections(), 1) << "they share a connection";
  EXPECT_EQ(gateway_->Metric("gateway_http2_upstream_streams_total"), 3);
}

TEST_F(UpstreamHttp2, ResponsesHaveTheirPhraseAndLength) {
  Start([](Http2Server& connection) {
    for (auto& [stream, request] : connection.requests()) {
      if (!request.ended || request.answered) continue;
      connection.Respond(stream, 404, "none", {{"content-length", "4"}, {"x-one", "1"}});
    }
  });
  const Response response = Get();
  EXPECT_EQ(response.status, 404);
  EXPECT_THAT(response.head, HasSubstr("HTTP/1.1 404 Not Found\r\n"));
  EXPECT_THAT(response.head, HasSubstr("Content-Length: 4\r\n"));
  EXPECT_THAT(response.head, HasSubstr("x-one: 1\r\n"));
  EXPECT_EQ(response.body, "none");
}

TEST_F(UpstreamHttp2, FieldsAreThoseOfHttp2) {
  std::string seen;
  absl::Mutex mutex;
  Start([&](Http2Server& connection) {
    for (auto& [stream, request] : connection.requests()) {
      if (!request.ended || request.answered) continue;
      absl::MutexLock lock(&mutex);
      seen.clear();
      for (const auto& [name, value] : request.fields) Append(&seen, name, "=", value, "\n");
      connection.Respond(stream, 200, "x");
    }
  });
  EXPECT_EQ(
      Get("/svc", "GET", "", "Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n").status,
      200);
  absl::MutexLock lock(&mutex);
  EXPECT_THAT(seen, HasSubstr(":scheme=http\n"));
  EXPECT_THAT(seen, HasSubstr(":authority=gateway.test\n"));
  EXPECT_THAT(seen, Not(HasSubstr("\nhost=")));
  EXPECT_THAT(seen, Not(HasSubstr("connection")));
  EXPECT_THAT(seen, Not(HasSubstr("x-hop")));
  EXPECT_THAT(seen, Not(HasSubstr("keep-alive")));
  EXPECT_THAT(seen, Not(HasSubstr("te=")));
}

TEST_F(UpstreamHttp2, TrailersPassBetweenClientsAndEndpointsOfHttp2) {
  std::string trailer;
  absl::Mutex mutex;
  Start([&](Http2Server& connection) {
    for (auto& [stream, request] : connection.requests()) {
      if (!request.ended || request.answered) continue;
      absl::MutexLock lock(&mutex);
      trailer = request.Trailer("x-up");
      connection.Respond(stream, 200, "x", {}, {{"x-down", "2"}});
    }
  });
  const auto client = Http2Client::To(gateway_->port());
  const Http2Response& response =
      client->Fetch({.method = "POST", .path = "/svc", .body = "hello", .trailers = {{"x-up", "1"}}});
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.Trailer("x-down"), "2");
  absl::MutexLock lock(&mutex);
  EXPECT_EQ(trailer, "1");
}

// RFC 9113, section 8.1: an endpoint may respond without reading the whole request.
TEST_F(UpstreamHttp2, AnEndpointMayAnswerWithoutReadingTheBody) {
  Start(
      [](Http2Server& connection) {
        for (auto& [stream, request] : connection.requests()) {
          if (request.complete && !std::exchange(request.answered, true)) {
            connection.SendHead(stream, {{":status", "401"}}, true);
          }
        }
      },
      {.settings = {{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0}}});
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Get("/svc", "POST", "hello").status, 401) << i;
}

// A POST on a refused stream was not processed, so it may be sent again, whatever its method.
TEST_F(UpstreamHttp2, ARefusedStreamIsSentAgain) {
  std::atomic<int> refused{0};
  Start([&](Http2Server& connection) {
    for (auto& [stream, request] : connection.requests()) {
      if (!request.ended || request.answered) continue;
      if (refused++ == 0) {
        request.answered = true;
        connection.Reset(stream, NGHTTP2_REFUSED_STREAM);
      } else {
        connection.Respond(stream, 200, request.body);
      }
    }
  });
  const Response response = Get("/svc", "POST", "hello");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.body, "hello");
  EXPECT_EQ(gateway_->Metric("gateway_http2_upstream_streams_refused_total"), 1);
}

TEST_F(UpstreamHttp2, AResetPostIsNotSentAgain) {
  std::atomic<int> seen{0};
  Start([&](Http2Server& connection) {
    for (auto& [stream, request] : connection.requests()) {
      if (!request.ended || request.answered) continue;
      request.answered = true;
      ++seen;
      connection.Reset(stream, NGHTTP2_INTERNAL_ERROR);
    }
  });
  const Response response = Get("/svc", "POST", "hello");
  EXPECT_EQ(response.status, 502);
  EXPECT_THAT(response.body, HasSubstr("upstream_reset"));
  EXPECT_EQ(seen, 1);
  EXPECT_EQ(gateway_->LogLines(1).at(0)["detail"], "the endpoint reset the stream (INTERNAL_ERROR)");
}

TEST_F(UpstreamHttp2, AConnectionThatWasToldToEndIsReplaced) {
  std::atomic<int> answered{0};
  Start([&](Http2Server& connection) {
    for (auto& [stream, request] : connection.requests()) {
      if (!request.ended || request.answered) continue;
      connection.Respond(stream, 200, "x");
      if (++answered == 1) connection.GoAway(stream);
    }
  });
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Get("/svc", "POST", "hello").status, 200) << i;
  EXPECT_EQ(upstream_->connections(), 2);
  EXPECT_EQ(gateway_->Metric("gateway_http2_upstream_goaways_total"), 1);
}

// Each connection ends after some requests, with others in flight: those were not processed, and none may be lost.
TEST_F(UpstreamHttp2, ConnectionsThatEndUnderLoadLoseNoRequest) {
  constexpr int kClients = 8;
  constexpr int kRequests = 150;
  std::atomic<int> served{0};
  Start([&](Http2Server& connection) {
    for (auto& [stream, request] : connection.requests()) {
      if (!request.ended || request.answered) continue;
      request.answered = true;
      if (connection.last_stream != 0 && stream > connection.last_stream) continue;
      connection.Respond(stream, 200, request.body);
      ++served;
      if (++connection.answered == 40) {
        connection.last_stream = stream;
        connection.GoAway(stream);
      }
    }
  });
  std::vector<std::thread> clients;
  std::atomic<int> failed{0};
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back([&, i] {
      RawClient client(gateway_->port());
      for (int n = 0; n < kRequests; ++n) {
        const std::string body = Concat(i, "-", n);
        const auto response = client.Request("POST", "/svc", "", body);
        if (!response.ok() || response->status != 200 || response->body != body) {
          ++failed;
          ADD_FAILURE() << (response.ok() ? response->head + response->body : response.status().ToString());
          if (!response.ok()) return;
        }
      }
    });
  }
  for (std::thread& each : clients) each.join();
  EXPECT_EQ(failed, 0);
  EXPECT_EQ(served, kClients * kRequests) << "no request is repeated";
  EXPECT_GT(upstream_->connections(), 10);
}

TEST_F(UpstreamHttp2, AKeptConnectionThatEndedIsReplaced) {
  Start();
  EXPECT_EQ(Get().status, 200);
  upstream_->Do([](Http2Server& connection) { connection.Close(); });
  ASSERT_TRUE(WaitFor([&] { return gateway_->Metric("gateway_http2_upstream_connections") == 0; }));
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Get("/svc", "POST", "hello").status, 200) << i;
  EXPECT_EQ(upstream_->connections(), 2);
}

TEST_F(UpstreamHttp2, AClientThatLeavesResetsItsStreamAlone) {
  std::atomic<int> resets{0};
  Start([&](Http2Server& connection) {
    for (auto& [stream, request] : connection.requests()) {
      if (request.reset && !request.answered) {
        request.answered = true;
        ++resets;
      }
      if (request.ended && !request.answered && request.Field(":path") != "/svc/hang") {
        connection.Respond(stream, 200, "x");
      }
    }
  });
  const auto client = Http2Client::To(gateway_->port());
  const int32_t hanging = client->Send({.path = "/svc/hang"});
  EXPECT_EQ(client->Fetch({.path = "/svc/a"}).status, 200);
  client->Reset(hanging);
  EXPECT_TRUE(client->Await([&] { return resets == 1; }));
  EXPECT_EQ(client->Fetch({.path = "/svc/b"}).status, 200);
  EXPECT_EQ(upstream_->connections(), 1);
}

TEST_F(UpstreamHttp2, ChecksSpeakWhatTheServiceSpeaks) {
  Start(&EchoHttp2, {}, "health_check: { path: /live, interval: 100ms }");
  EXPECT_EQ(Get().status, 200);
  EXPECT_TRUE(WaitFor([&] { return upstream_->connections() >= 3; }));
  EXPECT_EQ(gateway_->process().output().find("is unhealthy"), std::string::npos);
}

TEST_F(UpstreamHttp2, AnEndpointWithoutAlpnIsNamed) {
  LabCa ca;
  const LabCa::Files files = ca.IssueFor({"IP:127.0.0.1"});
  const ContextPtr context = ServerContext(files.cert, files.key);
  ScriptedUpstream upstream(Echo("svc"), ScriptedUpstream::Options{.tls = context.get()});
  Serve({upstream.address()}, Concat("tls: { ca: { file: \"", ca.file(), "\" } }"));
  const Response response = Get();
  EXPECT_EQ(response.status, 502);
  EXPECT_THAT(response.body, HasSubstr("upstream_tls_failed"));
  EXPECT_EQ(gateway_->LogLines(1).at(0)["detail"], "the endpoint did not select HTTP/2 (ALPN h2)");
  EXPECT_EQ(upstream.request_count(), 0);
}

TEST_F(UpstreamHttp2, AutoTakesHttp1WhereTheEndpointDoes) {
  LabCa ca;
  const LabCa::Files files = ca.IssueFor({"IP:127.0.0.1"});
  const ContextPtr context = ServerContext(files.cert, files.key);
  ScriptedUpstream upstream(Echo("svc"), ScriptedUpstream::Options{.tls = context.get()});
  DataPlane::Options options;
  options.policy =
      ServicePolicyYaml({upstream.address()}, Concat("protocol: auto\ntls: { ca: { file: \"", ca.file(), "\" } }"));
  options.workers = 1;
  gateway_ = std::make_unique<DataPlane>(std::move(options));
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Get("/svc", "POST", "some body").status, 200);
  EXPECT_EQ(upstream.connections(), 1);
}

// ---- WebSocket over HTTP/2 (RFC 8441).

constexpr std::string_view kWebSocketAsked =
    "GET /svc/chat?a=b HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

// Agrees with `status`, sends back what comes, and ends when the client has.
Http2Upstream::Serve EchoExtendedConnect(std::string status = "200",
                                         std::function<void(const Http2Request&)> seen = {}) {
  return [status, seen](Http2Server& connection) {
    for (auto& [stream, request] : connection.requests()) {
      if (!request.complete) continue;
      if (!std::exchange(request.answered, true)) {
        if (seen) seen(request);
        if (request.Field(":method") != "CONNECT" || status != "200") {
          connection.Respond(stream, std::stoi(status), "no");
          continue;
        }
        connection.SendHead(stream, {{":status", "200"}, {"sec-websocket-protocol", "chat"}});
      }
      const std::string body = std::exchange(request.body, "");
      const bool ends = request.ended && connection.last_stream != stream;
      if (ends) connection.last_stream = stream;
      if (!body.empty() || ends) connection.SendData(stream, body, ends);
    }
  };
}

Http2Server::Options WithExtendedConnect() { return {.settings = {{NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, 1}}}; }

TEST_F(UpstreamHttp2, AWebSocketOfHttp1BecomesExtendedConnect) {
  absl::Mutex mutex;
  std::map<std::string, std::string> seen;
  Start(EchoExtendedConnect("200",
                            [&](const Http2Request& request) {
                              absl::MutexLock lock(&mutex);
                              for (const auto& [name, value] : request.fields) seen[name] = value;
                            }),
        WithExtendedConnect(), "", "upgrades: [websocket]");
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Send(kWebSocketAsked).ok());
  const auto response = client.ReadResponse();
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->status, 101) << response->head << response->body;
  EXPECT_THAT(response->head, HasSubstr("HTTP/1.1 101 Switching Protocols\r\n"));
  EXPECT_EQ(response->Field("Upgrade"), "websocket");
  EXPECT_EQ(response->Field("Sec-WebSocket-Accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") << "of RFC 6455, section 1.3";
  EXPECT_EQ(response->Field("Sec-WebSocket-Protocol"), "chat");
  ASSERT_TRUE(client.Send("hello").ok());
  EXPECT_EQ(*client.ReadExactly(5), "hello");
  const std::string large(1 << 20, 'x');
  std::thread sender([&] { EXPECT_TRUE(client.Send(large).ok()); });
  EXPECT_EQ(*client.ReadExactly(large.size()), large);
  sender.join();
  client.ShutdownWrite();
  EXPECT_EQ(client.WaitForEnd(), PeerEnd::kFin);
  absl::MutexLock lock(&mutex);
  EXPECT_EQ(seen[":method"], "CONNECT");
  EXPECT_EQ(seen[":protocol"], "websocket");
  EXPECT_EQ(seen[":path"], "/svc/chat?a=b");
  EXPECT_EQ(seen[":scheme"], "http");
  EXPECT_EQ(seen["sec-websocket-version"], "13");
  EXPECT_FALSE(seen.contains("sec-websocket-key"));
  EXPECT_FALSE(seen.contains("upgrade"));
  EXPECT_FALSE(seen.contains("connection"));
}

// The endpoint's SETTINGS come after the handshake that has selected HTTP/2. Another gateway is the endpoint.
TEST_F(UpstreamHttp2, AWebSocketWaitsForTheSettingsOfAnEndpointThatSelectsHttp2) {
  ScriptedUpstream service([](UpstreamConnection& connection) {
    if (!connection.ReadHead()) return;
    connection.Send(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Accept: x\r\n\r\n");
    const auto some = connection.stream().ReadSome(1024, kSoon);
    if (some.ok()) connection.Send(*some);
  });
  LabCa ca;
  const LabCa::Files files = ca.IssueFor({"IP:127.0.0.1"});
  DataPlane::Options inner;
  inner.policy = ServicePolicyYaml({service.address()}, "", "upgrades: [websocket]");
  inner.workers = 1;
  inner.listener = Concat("protocols: [h2, http/1.1], tls: { certificates: [{ cert: \"", files.cert, "\", key: \"",
                          files.key, "\" }] }");
  DataPlane endpoint(std::move(inner));
  DataPlane::Options outer;
  outer.policy =
      ServicePolicyYaml({Concat("127.0.0.1:", endpoint.port())},
                        Concat("protocol: auto\ntls: { ca: { file: \"", ca.file(), "\" } }"), "upgrades: [websocket]");
  outer.workers = 1;
  outer.listener = "protocols: [h2, http/1.1]";
  gateway_ = std::make_unique<DataPlane>(std::move(outer));
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Send(kWebSocketAsked).ok());
  const auto response = client.ReadResponse();
  ASSERT_TRUE(response.ok()) << response.status();
  ASSERT_EQ(response->status, 101) << response->head << response->body;
  ASSERT_TRUE(client.Send("hello").ok());
  EXPECT_EQ(*client.ReadExactly(5), "hello");
  EXPECT_EQ(gateway_->Metric("gateway_http2_upstream_streams_total"), 1);
}

TEST_F(UpstreamHttp2, AWebSocketOfHttp2StaysOne) {
  Start(EchoExtendedConnect(), WithExtendedConnect(), "", "upgrades: [websocket]");
  const auto client = Http2Client::To(gateway_->port());
  const int32_t stream = client->Send({.method = "CONNECT",
                                       .path = "/svc/chat",
                                       .fields = {{"sec-websocket-version", "13"}},
                                       .ends = false,
                                       .protocol = "websocket"});
  ASSERT_TRUE(client->Await([&] { return client->response(stream).status != 0; }));
  EXPECT_EQ(client->response(stream).status, 200);
  client->SendData(stream, "hello", true);
  ASSERT_TRUE(client->Await([&] { return client->response(stream).ended; }));
  EXPECT_EQ(client->response(stream).body, "hello");
}

TEST_F(UpstreamHttp2, AnEndpointWithoutExtendedConnectGetsNoWebSocketAndOtherRequestsGoOn) {
  Start(EchoExtendedConnect(), {}, "", "upgrades: [websocket]");
  for (int i = 0; i < 2; ++i) {
    RawClient client(gateway_->port());
    ASSERT_TRUE(client.Send(kWebSocketAsked).ok());
    const auto response = client.ReadResponse();
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->status, 502);
  }
  EXPECT_THAT(gateway_->LogLines(1).at(0)["detail"].get<std::string>(),
              HasSubstr("does not take WebSocket over HTTP/2 (SETTINGS_ENABLE_CONNECT_PROTOCOL, RFC 8441)"));
  EXPECT_EQ(upstream_->connections(), 1);
}

TEST_F(UpstreamHttp2, AnEndpointThatRefusesAWebSocketIsHeard) {
  Start(EchoExtendedConnect("403"), WithExtendedConnect(), "", "upgrades: [websocket]");
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Send(kWebSocketAsked).ok());
  const auto response = client.ReadResponse();
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->status, 403);
  EXPECT_EQ(response->body, "no");
}

}  // namespace
}  // namespace gateway::fixtures
