// Whose delay counts: the client's, bounded by its own timeouts, or the service's, which its policy bounds and its
// breaker counts.
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "common/base/text.h"
#include "gtest/gtest.h"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/proxy.h"

namespace gateway::fixtures {
namespace {

using namespace std::chrono_literals;

using Patience = Proxy;

// Sends the pieces with a pause before each but the first: these tests are about the pause.
absl::StatusOr<Response> SayPaused(uint16_t port, const std::vector<std::string>& pieces, Timeout pause) {
  RawClient client(port);
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (i > 0) std::this_thread::sleep_for(pause);
    if (auto sent = client.Send(pieces[i]); !sent.ok()) return sent;
  }
  return client.ReadResponse();
}

TEST_F(Patience, TheRoutesTimeoutBeginsWithTheWholeRequest) {
  StartWith(Echo(), "retry: again",
            "timeout: 600ms\n---\nkind: Retry\nname: again\nmethods: [PUT]\n---\nkind: Route\nname: plain\n"
            "match: { path: { prefix: /plain } }\nservice: svc\ntimeout: 600ms");
  for (const char* line : {"GET /svc/head HTTP/1.1\r\n", "GET /plain/head HTTP/1.1\r\n"}) {
    const auto response = SayPaused(gateway_->port(), {line, "Host: a\r\n", "\r\n"}, Timeout(400));
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->status, 200) << line << response->body;
  }
  // One body is buffered for a retry, the other is streamed.
  for (const char* line : {"PUT /svc/body HTTP/1.1\r\n", "POST /svc/body HTTP/1.1\r\n"}) {
    const auto response =
        SayPaused(gateway_->port(), {Concat(line, "Host: a\r\nContent-Length: 2\r\n\r\n"), "a", "b"}, Timeout(400));
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->status, 200) << line << response->body;
  }
}

TEST_F(Patience, WaitingForA100IsNoStall) {
  StartWith(
      [](UpstreamConnection& connection) {
        while (auto request = connection.ReadHead()) {
          std::this_thread::sleep_for(1200ms);
          connection.Send("HTTP/1.1 100 Continue\r\n\r\n");
          if (!connection.ReadBody(&*request)) return;
          connection.Send(MakeResponse(200, request->body));
        }
      },
      "timeouts: { response: 10s }", "", {"server.read_timeout=800ms"});
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Send("POST /svc HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").ok());
  const auto leave = client.ReadUntil("\r\n\r\n");
  ASSERT_TRUE(leave.ok()) << leave.status();
  EXPECT_TRUE(leave->starts_with("HTTP/1.1 100")) << *leave;
  std::this_thread::sleep_for(500ms);  // the client's time starts with the 100
  ASSERT_TRUE(client.Send("ab").ok());
  const auto response = client.ReadResponse();
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->status, 200) << response->body;
  // After the 100 Continue, the client may not stall longer than any other.
  ASSERT_TRUE(client.Send("POST /svc HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").ok());
  const auto late = client.ReadResponse();
  ASSERT_TRUE(late.ok()) << late.status();
  EXPECT_EQ(late->status, 408) << late->body;
}

TEST_F(Patience, ResponseTimeoutIsOfSilence) {
  StartWith(
      [](UpstreamConnection& connection) {
        while (const auto request = connection.ReadRequest()) {
          for (const char* piece :
               {"HTTP/1.1 102 Processing\r\n\r\n", "HTTP/1.1 200 OK\r\n", "Content-Length: 2\r\n\r\n", "ok"}) {
            std::this_thread::sleep_for(500ms);
            if (!connection.Send(piece)) return;
            if (request->target.ends_with("silent")) return connection.StaySilent();
          }
        }
      },
      "timeouts: { response: 900ms }");
  auto response = Fetch(gateway_->port(), "GET", "/svc/slow");
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->status, 200) << response->body;
  response = Fetch(gateway_->port(), "GET", "/svc/silent");
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->status, 504);
  EXPECT_EQ(ReasonOf(*response), "upstream_timeout");
}

TEST_F(Patience, SlowClientsDoNotOpenTheBreaker) {
  StartWith(Echo(), "circuit_breaker: touchy",
            "max_duration: 700ms\n---\nkind: CircuitBreaker\nname: touchy\nrequest_volume_threshold: 2\n"
            "slow_call_duration: 300ms\nslow_call_percent_threshold: 1\nerror_percent_threshold: 1\n"
            "sleep_window: 60s\ntimeout: 10s");
  for (int i = 0; i < 4; ++i) {
    // Late, but then the service responds at once.
    auto response =
        SayPaused(gateway_->port(), {"POST /svc HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na", "b"}, Timeout(450));
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->status, 200) << response->body;
    // Never complete.
    response = Fetch(gateway_->port(), "POST", "/svc", "Content-Length: 9\r\n", "a");
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->status, 504) << response->body;
  }
  EXPECT_EQ(Get("/svc").status, 200);
  EXPECT_EQ(gateway_->Metric("gateway_breaker_opened_total{service=\"svc\"}"), 0);
}

TEST_F(Patience, AClientThatClosesInsideABufferedBodyGetsNoResponse) {
  StartWith(Echo(), "retry: again", "\n---\nkind: Retry\nname: again\nmethods: [PUT]");
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Send("PUT /svc HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nab").ok());
  client.ShutdownWrite();
  const auto said = client.ReadUntil("\r\n");
  EXPECT_FALSE(said.ok()) << *said;
  EXPECT_EQ(upstream_->request_count(), 0);
}

}  // namespace
}  // namespace gateway::fixtures
