// Protocol upgrades: WebSocket bytes pass in both directions after the service has agreed, and not before (RFC 9110,
// section 7.8; RFC 6455, section 4).
#include <algorithm>
#include <string>
#include <vector>

#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::string_view kAgreed =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
constexpr std::string_view kAsked =
    "GET /svc/chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

// Agrees, sends `greeting`, and echoes until the other side closes.
UpstreamScript EchoTunnel(std::string greeting = "") {
  return [greeting](UpstreamConnection& connection) {
    if (!connection.ReadHead() || !connection.Send(Concat(kAgreed, greeting))) return;
    for (;;) {
      const auto some = connection.stream().ReadSome(64 * 1024, Timeout(60'000));
      if (!some.ok() || !connection.Send(*some)) return;
    }
  };
}

class Upgrade : public ::testing::Test {
 protected:
  void StartWith(UpstreamScript script, std::string_view route_fields = "upgrades: [websocket]",
                 std::vector<std::string> sets = {}) {
    upstream_ = std::make_unique<ScriptedUpstream>(std::move(script));
    DataPlane::Options options;
    options.policy = ServicePolicyYaml({upstream_->address()}, "circuit_breaker: hystrix\n", route_fields);
    options.sets = std::move(sets);
    gateway_ = std::make_unique<DataPlane>(std::move(options));
  }
  // An upgraded connection.
  RawClient Open(std::string_view with_it = "") {
    RawClient client(gateway_->port());
    EXPECT_TRUE(client.Send(Concat(kAsked, with_it)).ok());
    const auto answer = client.ReadResponse();
    EXPECT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer.ok() ? answer->status : 0, 101);
    return client;
  }
  bool WaitForTunnels(int count) {
    return WaitFor([&] { return gateway_->Metric("gateway_upgraded_connections") == count; });
  }

  std::unique_ptr<ScriptedUpstream> upstream_;
  std::unique_ptr<DataPlane> gateway_;
};

TEST_F(Upgrade, TunnelsBytesBothWaysAfterTheServiceAgreed) {
  StartWith(EchoTunnel("hello"));
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Send(Concat(kAsked, "early")).ok());
  const auto answer = client.ReadResponse();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->status, 101);
  EXPECT_EQ(answer->Field("Upgrade"), "websocket");
  EXPECT_EQ(answer->Field("Connection"), "Upgrade");
  EXPECT_EQ(answer->Field("Sec-WebSocket-Accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
  EXPECT_EQ(answer->Field("Content-Length"), std::nullopt);
  EXPECT_EQ(*client.ReadExactly(10), "helloearly");
  ASSERT_TRUE(client.Send(std::string_view("\0\r\n\r\nGET / HTTP/1.1\r\n", 21)).ok());
  EXPECT_EQ(*client.ReadExactly(21), std::string_view("\0\r\n\r\nGET / HTTP/1.1\r\n", 21));
  const UpstreamRequest seen = upstream_->requests().at(0);
  EXPECT_EQ(seen.Field("Upgrade"), "websocket");
  EXPECT_EQ(seen.AllFields("Connection"), std::vector<std::string>{"Upgrade"});
  EXPECT_EQ(seen.Field("Sec-WebSocket-Key"), "dGhlIHNhbXBsZSBub25jZQ==");
  EXPECT_EQ(gateway_->Metric("gateway_upgraded_connections"), 1);
  EXPECT_EQ(gateway_->Metric("gateway_requests_in_flight"), 0);
  // The breaker counts requests that wait for a response.
  EXPECT_EQ(gateway_->Metric("gateway_breaker_in_flight{service=\"svc\"}"), 0) << gateway_->Metrics();
  client.ShutdownWrite();
  EXPECT_EQ(client.WaitForEnd(), PeerEnd::kFin);
  const auto lines = gateway_->LogLines(1);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["status"], 101);
  EXPECT_EQ(lines[0]["path"], "/svc/chat");
  EXPECT_GE(lines[0]["bytes_in"].get<int>(), static_cast<int>(kAsked.size()) + 26);
  EXPECT_TRUE(WaitForTunnels(0));
  EXPECT_EQ(gateway_->Metric("gateway_upgraded_connections_total"), 1);
}

TEST_F(Upgrade, OneSideMayEndAndTheOtherGoesOn) {
  Event ended;
  StartWith([&](UpstreamConnection& connection) {
    if (!connection.ReadHead() || !connection.Send(kAgreed)) return;
    if (connection.WaitForEnd() != PeerEnd::kFin) return;
    ended.Set();
    connection.Send("still here");
  });
  RawClient client = Open();
  client.ShutdownWrite();
  ASSERT_TRUE(ended.Wait());
  EXPECT_EQ(*client.ReadToEnd(), "still here");
  EXPECT_TRUE(WaitForTunnels(0));
}

TEST_F(Upgrade, WhatTheClientSendsAfterTheServiceEndedStillArrives) {
  Event got;
  StartWith([&](UpstreamConnection& connection) {
    if (!connection.ReadHead() || !connection.Send(kAgreed)) return;
    connection.ShutdownWrite();
    const auto rest = connection.stream().ReadToEnd();
    if (rest.ok() && rest->size() == 3'000'000) got.Set();
  });
  RawClient client = Open();
  EXPECT_EQ(*client.ReadToEnd(), "");
  ASSERT_TRUE(client.Send(std::string(3'000'000, 'x')).ok());
  client.ShutdownWrite();
  EXPECT_TRUE(got.Wait());
  EXPECT_TRUE(WaitForTunnels(0));
}

TEST_F(Upgrade, AResetOfEitherSideEndsTheOtherAtOnce) {
  Event reset;
  StartWith([&](UpstreamConnection& connection) {
    if (!connection.ReadHead() || !connection.Send(kAgreed)) return;
    if (connection.index() == 0) {
      connection.WaitForEnd();
      reset.Set();
    } else {
      (void)connection.stream().ReadSome();
      connection.Reset();
    }
  });
  RawClient client = Open();
  client.Reset();
  EXPECT_TRUE(reset.Wait());
  RawClient other = Open();
  ASSERT_TRUE(other.Send("x").ok());
  EXPECT_EQ(other.WaitForEnd(), PeerEnd::kReset);
  EXPECT_TRUE(WaitForTunnels(0));
  EXPECT_TRUE(WaitFor([&] { return gateway_->Metric("gateway_buffer_bytes") == 0; }));
}

TEST_F(Upgrade, AReaderThatWaitsHoldsBackTheSender) {
  StartWith([](UpstreamConnection& connection) {
    if (!connection.ReadHead() || !connection.Send(kAgreed)) return;
    const std::string block(1 << 20, 'y');
    for (int i = 0; i < 64 && connection.Send(block); ++i) {
    }
  });
  RawClient client = Open();
  // 64 MiB are in flight and the client does not read: they stay with the service, not in the gateway.
  ASSERT_TRUE(WaitFor([&] { return gateway_->Metric("gateway_buffer_bytes") >= 256 * 1024; }));
  EXPECT_LE(gateway_->Metric("gateway_buffer_bytes"), 512 * 1024);
  const auto all = client.ReadToEnd(Timeout(30'000));
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(all->size(), size_t{64} << 20);
}

TEST_F(Upgrade, ARefusalIsAnOrdinaryAnswer) {
  StartWith(Respond([](const UpstreamRequest& request) {
    return request.Field("Upgrade") ? MakeResponse(426, "no", "Sec-WebSocket-Version: 8\r\n")
                                    : MakeResponse(200, "yes");
  }));
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Send(kAsked).ok());
  auto answer = client.ReadResponse();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->status, 426);
  EXPECT_EQ(answer->body, "no");
  EXPECT_EQ(answer->Field("Upgrade"), std::nullopt);
  answer = client.Request("GET", "/svc");  // and the connection is reused
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->body, "yes");
  EXPECT_EQ(gateway_->Metric("gateway_upgraded_connections_total"), 0);
}

TEST_F(Upgrade, WithoutTheRoutesLeaveItIsServedWithoutAChange) {
  StartWith(Echo(), "");
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Send(kAsked).ok());
  const auto answer = client.ReadResponse();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->status, 200);
  EXPECT_EQ(upstream_->requests().at(0).Field("Upgrade"), std::nullopt);
  EXPECT_EQ(upstream_->requests().at(0).Field("Connection"), std::nullopt);
}

TEST_F(Upgrade, OnlyAGetOfWebSocketChanges) {
  StartWith(Echo());
  const std::vector<std::string> asked = {
      "GET /svc HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAA\r\n\r\n",
      "GET /svc HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
      "GET /svc HTTP/1.0\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
      "POST /svc HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\nx",
      "GET /svc HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websockets\r\n\r\n",
  };
  for (size_t i = 0; i < asked.size(); ++i) {
    RawClient client(gateway_->port());
    ASSERT_TRUE(client.Send(asked[i]).ok());
    const auto answer = client.ReadResponse();
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->status, 200) << asked[i];
    EXPECT_EQ(upstream_->requests().at(i).Field("Upgrade"), std::nullopt) << asked[i];
    EXPECT_EQ(upstream_->requests().at(i).Field("HTTP2-Settings"), std::nullopt);
  }
}

TEST_F(Upgrade, OfAListOnlyWebSocketIsAskedFor) {
  StartWith(EchoTunnel());
  RawClient client(gateway_->port());
  ASSERT_TRUE(
      client.Send("GET /svc HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c, WebSocket\r\n\r\n").ok());
  const auto answer = client.ReadResponse();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->status, 101);
  EXPECT_EQ(upstream_->requests().at(0).AllFields("Upgrade"), std::vector<std::string>{"websocket"});
}

TEST_F(Upgrade, AnotherProtocolIsNoUpgrade) {
  StartWith([](UpstreamConnection& connection) {
    if (!connection.ReadHead()) return;
    connection.Send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n");
    connection.WaitForEnd();
  });
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Send(kAsked).ok());
  const auto answer = client.ReadResponse();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->status, 502);
  EXPECT_THAT(answer->body, HasSubstr("upstream_invalid"));
  EXPECT_TRUE(upstream_->WaitForOpenConnections(0));
}

TEST_F(Upgrade, ASilentTunnelEndsAndABusyOneStays) {
  StartWith(EchoTunnel(), "upgrades: [websocket]\nupgrade_idle_timeout: 1s");
  RawClient silent = Open();
  RawClient busy = Open();
  // Kept alive for longer than the other one's idle timeout.
  ASSERT_TRUE(WaitFor([&] {
    EXPECT_TRUE(busy.Send("ping").ok());
    EXPECT_EQ(*busy.ReadExactly(4), "ping");
    return silent.WaitForEnd(Timeout(100)) != PeerEnd::kOpen;
  }));
  EXPECT_EQ(silent.WaitForEnd(), PeerEnd::kFin);
  ASSERT_TRUE(busy.Send("ping").ok());
  EXPECT_EQ(*busy.ReadExactly(4), "ping");
  const auto lines = gateway_->LogLines(1);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["status"], 101);
}

TEST_F(Upgrade, MaxDurationEndsEvenABusyTunnel) {
  StartWith(EchoTunnel(), "upgrades: [websocket]\nmax_duration: 1s");
  RawClient busy = Open();
  ASSERT_TRUE(WaitFor([&] {
    if (!busy.Send("ping").ok()) return true;
    return !busy.ReadExactly(4).ok();
  }));
  EXPECT_TRUE(WaitForTunnels(0));
  const auto lines = gateway_->LogLines(1);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["reason"], "request_deadline");
}

TEST_F(Upgrade, ManyTunnelsHoldNoBuffers) {
  StartWith(EchoTunnel());
  std::vector<RawClient> clients;
  for (int i = 0; i < 100; ++i) {
    clients.push_back(Open());
    ASSERT_TRUE(clients.back().Send("x").ok());
    EXPECT_EQ(*clients.back().ReadExactly(1), "x");
  }
  EXPECT_EQ(gateway_->Metric("gateway_upgraded_connections"), 100);
  EXPECT_TRUE(WaitFor([&] { return gateway_->Metric("gateway_buffer_bytes") == 0; }));
}

// max_duration without an upgrade.
class MaxDuration : public Upgrade {};

TEST_F(MaxDuration, EndsAnAnswerThatTricklesOn) {
  StartWith(
      [](UpstreamConnection& connection) {
        if (!connection.ReadHead() || !connection.Send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")) return;
        while (connection.stream().WaitForEnd(Timeout(50)) == PeerEnd::kOpen && connection.Send("x")) {
        }
      },
      "max_duration: 700ms");
  RawClient client(gateway_->port());
  const auto answer = client.Request("GET", "/svc");
  EXPECT_FALSE(answer.ok());  // visibly truncated
  EXPECT_TRUE(upstream_->WaitForOpenConnections(0));
  const auto lines = gateway_->LogLines(1);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["reason"], "request_deadline");
  EXPECT_EQ(lines[0]["status"], 200);
}

TEST_F(MaxDuration, EndsARequestThatTricklesIn) {
  StartWith(Echo(), "max_duration: 700ms");
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Send("POST /svc HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n").ok());
  ASSERT_TRUE(WaitFor([&] {
    (void)client.SendSome("x");
    return client.WaitForEnd(Timeout(50)) != PeerEnd::kOpen;
  }));
  const auto answer = client.ReadResponse();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->status, 504);
  EXPECT_THAT(answer->body, HasSubstr("request_deadline"));
}

TEST_F(MaxDuration, AnAnswerInTimeIsNotTouched) {
  StartWith(Ok("x"), "max_duration: 20s");
  EXPECT_EQ(Fetch(gateway_->port(), "GET", "/svc")->body, "x");
}

}  // namespace
}  // namespace gateway::fixtures
