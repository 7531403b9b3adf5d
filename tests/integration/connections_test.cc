// Client addresses and connection limits: the PROXY protocol, and limits by process and by address.
#include <memory>
#include <string>
#include <vector>

#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

using ::testing::HasSubstr;

constexpr std::string_view kGet = "GET /svc HTTP/1.1\r\nHost: a\r\n\r\n";

class Connections : public ::testing::Test {
 protected:
  void StartWith(std::string proxy_protocol, std::vector<std::string> sets) {
    upstream_ = std::make_unique<ScriptedUpstream>(Echo());
    DataPlane::Options options;
    options.policy = ServicePolicyYaml({upstream_->address()});
    options.proxy_protocol = std::move(proxy_protocol);
    options.sets = std::move(sets);
    gateway_ = std::make_unique<DataPlane>(std::move(options));
  }
  absl::StatusOr<Response> Say(std::string_view bytes) {
    RawClient client(gateway_->port());
    if (auto sent = client.Send(bytes); !sent.ok()) return sent;
    return client.ReadResponse();
  }
  // The client address that the service receives.
  std::string ForwardedFor(const absl::StatusOr<Response>& response) {
    if (!response.ok()) return response.status().ToString();
    if (response->status != 200) return response->head + response->body;
    return upstream_->requests().back().Field("X-Forwarded-For").value_or("nothing");
  }

  std::unique_ptr<ScriptedUpstream> upstream_;
  std::unique_ptr<DataPlane> gateway_;
};

const std::vector<std::string> kTrusted = {"server.trusted_proxies=127.0.0.0/8"};

// Version 2, PROXY, TCP over IPv4: 192.0.2.7:1000 to 192.0.2.8:80.
const std::string kVersion2("\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc0\0\x02\x08\x03\xe8\0\x50", 28);
// LOCAL: a connection of the proxy itself.
const std::string kVersion2Local("\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", 16);

TEST_F(Connections, ATrustedProxysHeaderNamesTheClient) {
  StartWith("enabled", kTrusted);
  EXPECT_EQ(ForwardedFor(Say(Concat("PROXY TCP4 203.0.113.9 192.0.2.8 5000 80\r\n", kGet))), "203.0.113.9");
  EXPECT_EQ(ForwardedFor(Say(Concat("PROXY TCP6 2001:db8::9 2001:db8::1 5000 80\r\n", kGet))), "2001:db8::9");
  EXPECT_EQ(ForwardedFor(Say(Concat(kVersion2, kGet))), "192.0.2.7");
  EXPECT_EQ(ForwardedFor(Say(Concat(kVersion2Local, kGet))), "127.0.0.1");
  EXPECT_EQ(ForwardedFor(Say(Concat("PROXY UNKNOWN\r\n", kGet))), "127.0.0.1");
  const auto lines = gateway_->LogLines(5);
  ASSERT_EQ(lines.size(), 5u);
}

TEST_F(Connections, TheHeaderMayArriveByteByByte) {
  StartWith("enabled", kTrusted);
  RawClient client(gateway_->port());
  for (const char each : kVersion2) ASSERT_TRUE(client.Send(std::string_view(&each, 1)).ok());
  for (int i = 0; i < 2; ++i) {  // it applies to the connection, not to one request
    ASSERT_TRUE(client.Send(kGet).ok());
    EXPECT_EQ(ForwardedFor(client.ReadResponse()), "192.0.2.7");
  }
}

TEST_F(Connections, TheNamedClientIsNotBelievedWhatItSaysOfItself) {
  StartWith("enabled", kTrusted);
  EXPECT_EQ(ForwardedFor(Say(Concat(kVersion2, "GET /svc HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n"))),
            "192.0.2.7");
}

TEST_F(Connections, ATrustedProxyWithoutItsHeaderIsRefused) {
  StartWith("enabled", kTrusted);
  for (const std::string& bytes :
       {std::string(kGet), std::string("PROXY TCP4 1.2.3.4 5.6.7 1 2\r\n") + std::string(kGet),
        std::string("PROXY TCP4 1.2.3.4\r\n"), std::string("\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c", 16)}) {
    RawClient client(gateway_->port());
    ASSERT_TRUE(client.Send(bytes).ok());
    const auto answer = client.ReadResponse();
    ASSERT_TRUE(answer.ok()) << answer.status() << bytes;
    EXPECT_EQ(answer->status, 400);
    EXPECT_EQ(nlohmann::json::parse(answer->body)["reason"], "bad_request");
    EXPECT_EQ(client.WaitForEnd(), PeerEnd::kFin);
  }
  EXPECT_EQ(upstream_->request_count(), 0);
}

TEST_F(Connections, WhereItIsOptionalATrustedProxyMayComeWithoutOne) {
  StartWith("optional", kTrusted);
  EXPECT_EQ(ForwardedFor(Say(kGet)), "127.0.0.1");
  EXPECT_EQ(ForwardedFor(Say(Concat(kVersion2, kGet))), "192.0.2.7");
}

TEST_F(Connections, NobodyElseMaySayWhoTheyAre) {
  StartWith("enabled", {"server.trusted_proxies=10.0.0.0/8"});
  EXPECT_EQ(ForwardedFor(Say(kGet)), "127.0.0.1");
  for (const std::string& header : {kVersion2, std::string("PROXY TCP4 203.0.113.9 192.0.2.8 5000 80\r\n")}) {
    const auto answer = Say(Concat(header, kGet));
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->status, 400);
  }
  EXPECT_EQ(upstream_->request_count(), 1);
}

TEST_F(Connections, WhereItIsDisabledAHeaderIsABadRequest) {
  StartWith("disabled", kTrusted);
  const auto answer = Say(Concat("PROXY TCP4 203.0.113.9 192.0.2.8 5000 80\r\n", kGet));
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->status, 400);
}

TEST_F(Connections, AHeaderThatDoesNotComeEndsTheConnection) {
  StartWith("enabled", {"server.trusted_proxies=127.0.0.0/8", "server.header_timeout=500ms"});
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Send("PROXY TCP4 ").ok());
  EXPECT_NE(client.WaitForEnd(), PeerEnd::kOpen);
}

TEST_F(Connections, WhereFewAreAllowedOneAddressMayHaveThemAll) {
  StartWith("", {"server.max_connections=6"});
  std::vector<RawClient> clients;
  for (int i = 0; i < 6; ++i) {
    clients.emplace_back(gateway_->port());
    EXPECT_EQ(clients.back().Request("GET", "/svc")->status, 200);
  }
  EXPECT_EQ(Fetch(gateway_->port(), "GET", "/svc")->status, 503);
}

TEST_F(Connections, AnAddressHasSoManyAndNoMore) {
  StartWith("", {"server.max_connections_per_address=3"});
  std::vector<RawClient> clients;
  for (int i = 0; i < 3; ++i) {
    clients.emplace_back(gateway_->port());
    EXPECT_EQ(clients.back().Request("GET", "/svc")->status, 200);
  }
  RawClient fourth(gateway_->port());
  const auto refused = fourth.ReadResponse();
  ASSERT_TRUE(refused.ok()) << refused.status();
  EXPECT_EQ(refused->status, 503);
  EXPECT_EQ(nlohmann::json::parse(refused->body)["reason"], "overloaded");
  EXPECT_EQ(fourth.WaitForEnd(), PeerEnd::kFin);
  EXPECT_GE(gateway_->Metric("gateway_connections_refused_total"), 1);
  EXPECT_TRUE(gateway_->process().WaitForLine("max_connections_per_address").has_value());
  // The other connections are still served, and a closed one makes room.
  EXPECT_EQ(clients.front().Request("GET", "/svc")->status, 200);
  clients.pop_back();
  EXPECT_TRUE(WaitFor([&] {
    const auto again = Fetch(gateway_->port(), "GET", "/svc");
    return again.ok() && again->status == 200;
  }));
}

TEST_F(Connections, ATrustedProxyHasNoSuchBoundButItsClientsHave) {
  StartWith("optional", {"server.max_connections_per_address=1", "server.trusted_proxies=127.0.0.0/8"});
  std::vector<RawClient> clients;
  for (int i = 0; i < 3; ++i) {
    clients.emplace_back(gateway_->port());
    EXPECT_EQ(clients.back().Request("GET", "/svc")->status, 200);
  }
  RawClient named(gateway_->port());
  ASSERT_TRUE(named.Send(Concat(kVersion2, kGet)).ok());
  EXPECT_EQ(named.ReadResponse()->status, 200);
  EXPECT_EQ(Say(Concat(kVersion2, kGet))->status, 503);
  EXPECT_EQ(Say(Concat("PROXY TCP4 203.0.113.9 192.0.2.8 5000 80\r\n", kGet))->status, 200);
}

}  // namespace
}  // namespace gateway::fixtures
