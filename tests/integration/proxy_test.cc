// What a client and a service see of the proxy: real sockets, byte for byte.
#include "tests/integration/proxy.h"

#include <string>
#include <vector>

#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/ports.h"
#include "tests/fixtures/scripted_upstream.h"

namespace gateway::fixtures {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

using List = std::vector<std::string>;

TEST_F(Proxy, ForwardsARequestAndTellsTheServiceWhereItCameFrom) {
  StartWith(Echo());
  const auto echo = Echoed("/svc/a?b=c%20d", "Host: api.example:99\r\nX-Own: 1\r\n");
  EXPECT_EQ(echo["target"], "/svc/a?b=c%20d");
  EXPECT_EQ(Seen(echo, "host"), List{"api.example:99"});
  EXPECT_EQ(Seen(echo, "x-own"), List{"1"});
  EXPECT_EQ(Seen(echo, "x-forwarded-for"), List{"127.0.0.1"});
  EXPECT_EQ(Seen(echo, "x-forwarded-proto"), List{"http"});
  EXPECT_EQ(Seen(echo, "x-forwarded-host"), List{"api.example:99"});
  EXPECT_THAT(Seen(echo, "via"), ::testing::ElementsAre(::testing::MatchesRegex("1\\.1 gateway \\([0-9a-f]{8}\\)")));
  EXPECT_EQ(Seen(echo, "x-request-id").size(), 1u);
}

TEST_F(Proxy, RemovesHopByHopFieldsAndNeverBelievesAnUntrustedPeer) {
  StartWith(Echo());
  const auto echo =
      Echoed("/svc",
             "Connection: X-Gone, keep-alive, X-Forwarded-For\r\nX-Gone: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n"
             "Upgrade: h2c\r\nProxy-Connection: close\r\nProxy-Authorization: x\r\nX-Forwarded-For: 6.6.6.6\r\n"
             "X_Forwarded_For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Forwarded-Proto: https\r\n"
             "X-Forwarded-Host: evil\r\nX-Request-Id: mine\r\nAuthorization: Basic eA==\r\n");
  for (const char* gone : {"connection", "x-gone", "keep-alive", "te", "upgrade", "proxy-connection",
                           "proxy-authorization", "x_forwarded_for", "x-real-ip", "forwarded"}) {
    EXPECT_EQ(Seen(echo, gone), List{}) << gone;
  }
  EXPECT_EQ(Seen(echo, "x-forwarded-for"), List{"127.0.0.1"});
  EXPECT_EQ(Seen(echo, "x-forwarded-proto"), List{"http"});
  EXPECT_NE(Seen(echo, "x-forwarded-host"), List{"evil"});
  EXPECT_NE(Seen(echo, "x-request-id"), List{"mine"});
  EXPECT_EQ(Seen(echo, "authorization"), List{"Basic eA=="});
}

TEST_F(Proxy, ConnectionCannotNameAwayAuthorization) {
  StartWith(Echo());
  EXPECT_EQ(Seen(Echoed("/svc", "Connection: Authorization\r\nAuthorization: Basic eA==\r\n"), "authorization"),
            List{"Basic eA=="});
}

TEST_F(Proxy, BelievesATrustedPeerAndLogsTheClientBehindIt) {
  StartWith(Echo(), "", "", {"server.trusted_proxies=127.0.0.0/8"});
  const auto echo =
      Echoed("/svc", "X-Forwarded-For: 6.6.6.6, 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Request-Id: mine\r\n");
  EXPECT_EQ(Seen(echo, "x-forwarded-for"), List{"6.6.6.6, 203.0.113.9, 127.0.0.1"});
  EXPECT_EQ(Seen(echo, "x-forwarded-proto"), List{"https"});
  EXPECT_EQ(Seen(echo, "x-request-id"), List{"mine"});
  const auto lines = gateway_->LogLines(1);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["client_ip"], "203.0.113.9");
  EXPECT_EQ(lines[0]["request_id"], "mine");
}

TEST_F(Proxy, KeepsBothConnectionsForTheNextRequest) {
  StartWith(Ok("x"), "", "", {"server.workers=1"});
  RawClient client(gateway_->port());
  for (int i = 0; i < 5; ++i) {
    const auto response = client.Request("GET", "/svc");
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->status, 200);
    EXPECT_EQ(response->Field("Connection"), std::nullopt);
  }
  EXPECT_EQ(upstream_->connections(), 1);
  EXPECT_GE(gateway_->Metric("gateway_upstream_reuses_total"), 4);
}

TEST_F(Proxy, AnswersPipelinedRequestsInOrder) {
  StartWith(
      Respond([](const UpstreamRequest& request) { return MakeResponse(200, request.target + "|" + request.body); }));
  RawClient client(gateway_->port());
  std::string requests;
  for (int i = 0; i < 200; ++i) {
    if (i % 3 == 0) {
      Append(&requests, "GET /svc/", i, " HTTP/1.1\r\nHost: a\r\n\r\n");
    } else if (i % 3 == 1) {
      Append(&requests, "POST /svc/", i, " HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
    } else {
      Append(&requests, "POST /svc/", i, " HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Chunk("de"),
             Chunk("f"), Chunk(""));
    }
  }
  ASSERT_TRUE(client.Send(requests).ok());
  for (int i = 0; i < 200; ++i) {
    const auto response = client.ReadResponse();
    ASSERT_TRUE(response.ok()) << i << ": " << response.status();
    EXPECT_EQ(response->body, Concat("/svc/", i, "|", i % 3 == 0 ? "" : i % 3 == 1 ? "abc" : "def"));
  }
}

TEST_F(Proxy, ServesHttp10ClientsWithoutChunks) {
  StartWith(Respond([](const UpstreamRequest&) {
    return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + Chunk("hello") + Chunk("");
  }));
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Send("GET /svc HTTP/1.0\r\n\r\n").ok());
  const auto all = client.ReadToEnd();
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_THAT(*all, HasSubstr("\r\nConnection: close\r\n"));
  EXPECT_THAT(*all, Not(HasSubstr("chunked")));
  EXPECT_TRUE(all->ends_with("\r\n\r\nhello")) << *all;
}

TEST_F(Proxy, KeepsAnHttp10ConnectionThatAsksForIt) {
  StartWith(Ok("x"));
  RawClient client(gateway_->port());
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(client.Send("GET /svc HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").ok());
    const auto response = client.ReadResponse();
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->Field("Connection"), "keep-alive");
  }
}

TEST_F(Proxy, RelaysExpectContinueAndItsRefusal) {
  StartWith([](UpstreamConnection& connection) {
    while (auto request = connection.ReadHead()) {
      if (request->target.ends_with("no")) {
        connection.Send(MakeResponse(417, "no"));
        connection.WaitForEnd();
        return;
      }
      connection.Send("HTTP/1.1 100 Continue\r\n\r\n");
      if (!connection.ReadBody(&*request)) return;
      connection.Send(MakeResponse(200, request->body));
    }
  });
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Send("POST /svc HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").ok());
  const auto interim = client.ReadUntil("\r\n\r\n");
  ASSERT_TRUE(interim.ok()) << interim.status();
  EXPECT_THAT(*interim, HasSubstr("HTTP/1.1 100"));
  ASSERT_TRUE(client.Send("hello").ok());
  auto response = client.ReadResponse();
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->body, "hello");
  // An early final response stops the wait for the body; the body is never read as a request.
  RawClient refused(gateway_->port());
  ASSERT_TRUE(
      refused.Send("POST /svc/no HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\nExpect: 100-continue\r\n\r\n").ok());
  response = refused.ReadResponse();
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->status, 417);
  EXPECT_EQ(response->Field("Connection"), "close");
}

TEST_F(Proxy, ForwardsEarlyHintsButNoFloodOfThem) {
  StartWith(Respond([](const UpstreamRequest& request) {
    std::string out;
    for (int i = 0; i < (request.target.ends_with("flood") ? 4000 : 100); ++i)
      out += "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    return out + MakeResponse(200, "x");
  }));
  const auto response = Get("/svc");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.informational.size(), 100u);
  const auto flood = Get("/svc/flood");
  // Part of the flood was forwarded before the rejection.
  EXPECT_EQ(flood.status, 502);
  EXPECT_EQ(ReasonOf(flood), "upstream_invalid");
}

struct BadAnswer {
  const char* name;
  const char* bytes;
};
void PrintTo(const BadAnswer& bad, std::ostream* os) { *os << bad.name; }
class ProxyBadAnswer : public Proxy, public ::testing::WithParamInterface<BadAnswer> {};

TEST_P(ProxyBadAnswer, Is502UpstreamInvalidAndTheConnectionCloses) {
  StartWith([](UpstreamConnection& connection) {
    if (!connection.ReadRequest()) return;
    connection.Send(GetParam().bytes);
    connection.WaitForEnd();
  });
  const auto response = Get("/svc");
  EXPECT_EQ(response.status, 502) << response.head << response.body;
  EXPECT_EQ(ReasonOf(response), "upstream_invalid");
  EXPECT_TRUE(upstream_->WaitForOpenConnections(0));
}

INSTANTIATE_TEST_SUITE_P(
    Answers, ProxyBadAnswer,
    ::testing::Values(
        BadAnswer{"NoHttp", "hello there\r\n\r\n"}, BadAnswer{"StatusLetters", "HTTP/1.1 2x0 OK\r\n\r\n"},
        BadAnswer{"TwoLengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"},
        BadAnswer{"LengthAndChunked", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"},
        BadAnswer{"NegativeLength", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"},
        BadAnswer{"OtherCoding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"},
        BadAnswer{"BareLf", "HTTP/1.1 200 OK\nContent-Length: 0\n\n"},
        BadAnswer{"FoldedLine", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n"},
        BadAnswer{"SpaceBeforeColon", "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n"},
        BadAnswer{"UnaskedUpgrade", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_F(Proxy, OversizedAnswerHeadIs502) {
  StartWith(Respond(
      [](const UpstreamRequest&) { return MakeResponse(200, "x", "X-Large: " + std::string(100'000, 'a') + "\r\n"); }));
  EXPECT_EQ(ReasonOf(Get("/svc")), "upstream_invalid");
}

TEST_F(Proxy, RepeatsOnAFreshConnectionWhereAKeptOneHadEnded) {
  // The first request of each connection gets a response; at the second the connection closes without one, as after an
  // idle timeout.
  StartWith(
      [](UpstreamConnection& connection) {
        if (!connection.ReadRequest()) return;
        connection.Send(MakeResponse(200, "x"));
        (void)connection.ReadHead();
      },
      "", "", {"server.workers=1"});
  RawClient client(gateway_->port());
  for (int i = 0; i < 4; ++i) {
    const auto response = client.Request("GET", "/svc");
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->status, 200) << i;
  }
  // A POST that may have arrived is never sent twice.
  const auto posted = client.Request("POST", "/svc", "", "x");
  ASSERT_TRUE(posted.ok()) << posted.status();
  EXPECT_EQ(posted->status, 502);
  EXPECT_EQ(ReasonOf(*posted), "upstream_reset");
  int posts = 0;
  for (const auto& request : upstream_->requests()) posts += request.method == "POST" ? 1 : 0;
  EXPECT_LE(posts, 1);
}

TEST_F(Proxy, TriesAnotherEndpointWhereAConnectionIsRefused) {
  upstream_ = std::make_unique<ScriptedUpstream>(Ok("x"));
  DataPlane::Options options;
  options.policy = ServicePolicyYaml({Concat("127.0.0.1:", FreePort()), upstream_->address()});
  gateway_ = std::make_unique<DataPlane>(std::move(options));
  for (int i = 0; i < 10; ++i) EXPECT_EQ(Get("/svc").status, 200);
}

TEST_F(Proxy, AnswersOfItsOwnAreThoseOfTheTable) {
  const uint16_t nobody = FreePort();
  DataPlane::Options options;
  options.policy = Concat(
      "kind: Service\nname: dead\nstatic: [{ address: \"127.0.0.1:", nobody,
      "\" }]\n---\nkind: Route\nname: dead\nmatch: { path: { prefix: /dead }, methods: [GET] }\nservice: dead\n");
  gateway_ = std::make_unique<DataPlane>(std::move(options));
  auto response = Get("/dead");
  EXPECT_EQ(response.status, 502);
  EXPECT_EQ(ReasonOf(response), "upstream_connect_failed");
  EXPECT_EQ(response.Field("Content-Type"), "application/json");
  const auto body = nlohmann::json::parse(response.body);
  EXPECT_EQ(body["code"], 502);
  EXPECT_EQ(body["request_id"], response.Field("X-Request-Id").value_or(""));
  response = Get("/nowhere");
  EXPECT_EQ(response.status, 404);
  EXPECT_EQ(ReasonOf(response), "no_route");
  const auto post = Fetch(gateway_->port(), "POST", "/dead", "", "x");
  ASSERT_TRUE(post.ok());
  EXPECT_EQ(post->status, 405);
  EXPECT_EQ(ReasonOf(*post), "method_not_allowed");
  EXPECT_EQ(post->Field("Allow"), "GET, HEAD");
  EXPECT_EQ(Get("/health").status, 200);
  EXPECT_EQ(nlohmann::json::parse(Get("/health").body)["status"], "healthy");
  EXPECT_EQ(nlohmann::json::parse(Get("/test-rate-limit").body)["message"], "Rate limit test successful");
}

TEST_F(Proxy, ASilentServiceIs504ByItsTimeoutAndByTheRoutes) {
  StartWith(
      [](UpstreamConnection& connection) {
        while (connection.ReadRequest()) connection.StaySilent();
      },
      "timeouts: { response: 200ms }");
  auto response = Get("/svc");
  EXPECT_EQ(response.status, 504);
  EXPECT_EQ(ReasonOf(response), "upstream_timeout");
  gateway_.reset();
  DataPlane::Options options;
  options.policy = ServicePolicyYaml({upstream_->address()}, "", "timeout: 200ms");
  gateway_ = std::make_unique<DataPlane>(std::move(options));
  response = Get("/svc");
  EXPECT_EQ(response.status, 504);
  EXPECT_EQ(ReasonOf(response), "request_deadline");
}

TEST_F(Proxy, AClientThatGoesFreesTheServiceAtOnce) {
  Event gone;
  StartWith([&](UpstreamConnection& connection) {
    if (!connection.ReadRequest()) return;
    connection.WaitForEnd();
    gone.Set();
  });
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Send("GET /svc HTTP/1.1\r\nHost: a\r\n\r\n").ok());
  ASSERT_TRUE(upstream_->WaitForRequests(1));
  client.Reset();
  EXPECT_TRUE(gone.Wait());
  const auto lines = gateway_->LogLines(1);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["status"], 499);
  EXPECT_EQ(lines[0]["reason"], "client_closed");
}

TEST_F(Proxy, AHalfClosedClientStillGetsItsAnswer) {
  Event ended;
  StartWith([&](UpstreamConnection& connection) {
    if (!connection.ReadRequest() || !connection.WaitFor(ended)) return;
    connection.Send(MakeResponse(200, "late"));
    connection.WaitForEnd();
  });
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Send("GET /svc HTTP/1.1\r\nHost: a\r\n\r\n").ok());
  client.ShutdownWrite();
  ASSERT_TRUE(upstream_->WaitForRequests(1));
  ended.Set();
  const auto response = client.ReadResponse();
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->body, "late");
}

TEST_F(Proxy, SlowClientsAreEndedByTheirTimeouts) {
  StartWith(Ok("x"), "", "", {"server.header_timeout=300ms", "server.read_timeout=300ms", "server.idle_timeout=300ms"});
  RawClient head(gateway_->port());
  ASSERT_TRUE(head.Send("GET /svc HT").ok());
  auto response = head.ReadResponse();
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->status, 408);
  RawClient body(gateway_->port());
  ASSERT_TRUE(body.Send("POST /svc HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").ok());
  response = body.ReadResponse();
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->status, 408);
  EXPECT_EQ(ReasonOf(*response), "request_timeout");
  RawClient idle(gateway_->port());
  ASSERT_TRUE(idle.Request("GET", "/svc").ok());
  EXPECT_EQ(idle.WaitForEnd(), PeerEnd::kFin);
}

TEST_F(Proxy, RewritesPrefixTemplateAndHost) {
  StartWith(Echo());
  gateway_.reset();
  DataPlane::Options options;
  options.policy = Concat("kind: Service\nname: svc\nstatic: [{ address: \"", upstream_->address(), "\" }]\n---\n",
                          "kind: Route\nname: a\nmatch: { path: { prefix: /a } }\nservice: svc\nrewrite: { prefix: /x, "
                          "host: in.example }\n---\n",
                          "kind: Route\nname: b\nmatch: { path: { template: \"/users/{id}/**\" } }\nservice: svc\n",
                          "rewrite: { template: \"/v2/{id}/u/**\" }\n");
  gateway_ = std::make_unique<DataPlane>(std::move(options));
  auto echo = Echoed("/a/b/../c?q=/a");
  EXPECT_EQ(echo["target"], "/x/c?q=/a");
  EXPECT_EQ(Seen(echo, "host"), List{"in.example"});
  EXPECT_EQ(Echoed("/a")["target"], "/x");
  EXPECT_EQ(Echoed("/users/7/p/q?z")["target"], "/v2/7/u/p/q?z");
}

TEST_F(Proxy, WritesOneLogLineARequestAndItsMetrics) {
  StartWith(Ok("hello"));
  EXPECT_EQ(Get("/svc/a?secret=1", "User-Agent: test \"agent\"\r\n").status, 200);
  const auto lines = gateway_->LogLines(1);
  ASSERT_EQ(lines.size(), 1u);
  const auto& line = lines[0];
  EXPECT_EQ(line["method"], "GET");
  EXPECT_EQ(line["path"], "/svc/a?secret=***");
  EXPECT_EQ(line["client_ip"], "127.0.0.1");
  EXPECT_EQ(line["user_agent"], "test \"agent\"");
  EXPECT_EQ(line["status"], 200);
  EXPECT_EQ(line["service"], "svc");
  EXPECT_EQ(line["route"], "svc");
  EXPECT_EQ(line["endpoint"], upstream_->address());
  EXPECT_GT(line["bytes_in"].get<int>(), 20);
  EXPECT_GT(line["bytes_out"].get<int>(), 20);
  EXPECT_EQ(line["reason"], "");
  EXPECT_EQ(line["request_id"].get<std::string>().size(), 32u);
  EXPECT_TRUE(line["time"].get<std::string>().ends_with("Z"));
  EXPECT_TRUE(line["duration_ms"].is_number());
  EXPECT_TRUE(line["upstream_duration_ms"].is_number());
  EXPECT_TRUE(line["revision"].is_number());
  EXPECT_EQ(gateway_->Metric("api_requests_total{service=\"svc\",method=\"GET\",path=\"/svc\"}"), 1);
  EXPECT_EQ(gateway_->Metric("api_successes_total{service=\"svc\"}"), 1);
  EXPECT_EQ(gateway_->Metric("api_response_time_seconds_count{service=\"svc\"}"), 1);
  // Labels that clients choose are clamped.
  ASSERT_TRUE(Fetch(gateway_->port(), "BREW", "/made/up/1").ok());
  // A response is sent before it is counted.
  EXPECT_TRUE(WaitFor([&] {
    return gateway_->Metric("api_requests_total{service=\"unknown\",method=\"OTHER\",path=\"unmatched\"}") == 1;
  }));
  EXPECT_EQ(gateway_->Metric("api_errors_total{service=\"unknown\",error_type=\"no_route\"}"), 1);
}

TEST_F(Proxy, ErrorDetailsSayPolicyRouteAndRevision) {
  StartWith(Ok("x"), "", "rate_limits: [tight]\n---\nkind: RateLimit\nname: tight\nlimit: { requests: 1, window: 1m }",
            {"server.error_details=true"});
  EXPECT_EQ(Get("/svc").Field("X-Gateway-Route"), "svc");
  const auto refused = Get("/svc");
  EXPECT_EQ(refused.status, 429);
  const auto body = nlohmann::json::parse(refused.body);
  EXPECT_EQ(body["policy"], "RateLimit/tight");
  EXPECT_EQ(body["route"], "svc");
  EXPECT_TRUE(body["revision"].is_number());
}

TEST_F(Proxy, DrainsOnSigtermAndAnswersWhatIsInFlight) {
  Event release;
  StartWith([&](UpstreamConnection& connection) {
    while (connection.ReadRequest()) {
      if (!connection.WaitFor(release)) return;
      connection.Send(MakeResponse(200, "done"));
    }
  });
  RawClient busy(gateway_->port());
  ASSERT_TRUE(busy.Send("GET /svc HTTP/1.1\r\nHost: a\r\n\r\n").ok());
  ASSERT_TRUE(upstream_->WaitForRequests(1));
  RawClient idle(gateway_->port());
  ASSERT_TRUE(idle.Request("GET", "/health").ok());
  gateway_->process().Signal(SIGTERM);
  EXPECT_EQ(idle.WaitForEnd(), PeerEnd::kFin);  // the drain has started
  EXPECT_FALSE(Fetch(gateway_->port(), "GET", "/health").ok());
  release.Set();
  const auto response = busy.ReadResponse();
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->body, "done");
  EXPECT_EQ(response->Field("Connection"), "close");
  EXPECT_EQ(gateway_->process().Wait(), (Process::Exit{0, 0})) << gateway_->process().output();
}

TEST_F(Proxy, ASecondSignalEndsAtOnceAndDrainTimeoutEndsToo) {
  StartWith([](UpstreamConnection& connection) {
    while (connection.ReadRequest()) connection.StaySilent();
  });
  RawClient busy(gateway_->port());
  ASSERT_TRUE(busy.Send("GET /svc HTTP/1.1\r\nHost: a\r\n\r\n").ok());
  ASSERT_TRUE(upstream_->WaitForRequests(1));
  gateway_->process().Signal(SIGTERM);
  ASSERT_TRUE(gateway_->process().WaitForOutput("draining"));
  gateway_->process().Signal(SIGTERM);
  EXPECT_TRUE(gateway_->process().Wait().has_value());

  StartWith(
      [](UpstreamConnection& connection) {
        while (connection.ReadRequest()) connection.StaySilent();
      },
      "", "", {"server.drain_timeout=300ms"});
  RawClient stuck(gateway_->port());
  ASSERT_TRUE(stuck.Send("GET /svc HTTP/1.1\r\nHost: a\r\n\r\n").ok());
  ASSERT_TRUE(upstream_->WaitForRequests(1));
  gateway_->process().Signal(SIGTERM);
  EXPECT_EQ(gateway_->process().Wait(), (Process::Exit{0, 0}));
}

TEST_F(Proxy, AResponseThatArrivedWhileTheProcessWasStoppedIsNoTimeout) {
  Event stopped;
  Event answered;
  StartWith(
      [&](UpstreamConnection& connection) {
        if (!connection.ReadRequest() || !connection.WaitFor(stopped)) return;
        connection.Send(MakeResponse(200, "in time"));
        answered.Set();
        connection.WaitForEnd();
      },
      "timeouts: { response: 300ms }");
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Send("GET /svc HTTP/1.1\r\nHost: a\r\n\r\n").ok());
  ASSERT_TRUE(upstream_->WaitForRequests(1));
  gateway_->process().Signal(SIGSTOP);
  stopped.Set();
  ASSERT_TRUE(answered.Wait());
  EXPECT_EQ(client.WaitForEnd(Timeout(600)), PeerEnd::kOpen);  // the deadline passes meanwhile
  gateway_->process().Signal(SIGCONT);
  const auto response = client.ReadResponse();
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->body, "in time");
}

TEST_F(Proxy, AnEmptyLineBetweenRequestsLeavesAConnectionIdle) {
  StartWith(Ok("x"), "", "", {"server.header_timeout=200ms"});
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Request("GET", "/svc").ok());
  ASSERT_TRUE(client.Send("\r\n").ok());
  EXPECT_EQ(client.WaitForEnd(Timeout(500)), PeerEnd::kOpen);
  EXPECT_EQ(client.buffered(), "");
  const auto response = client.Request("GET", "/svc");
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->status, 200);
}

TEST_F(Proxy, TheHeadLimitHoldsHoweverAHeadArrives) {
  StartWith(Ok("x"), "", "", {"server.max_header_bytes=2KiB"});
  EXPECT_EQ(Get("/svc", "X: " + std::string(1'000, 'a') + "\r\n").status, 200);
  EXPECT_EQ(Get("/svc", "X: " + std::string(3'000, 'a') + "\r\n").status, 431);
  std::string many;
  for (int i = 0; i < 100; ++i) many += "a,";
  EXPECT_EQ(Get("/svc", "Connection: " + many + "\r\n").status, 400);
}

TEST_F(Proxy, AConnectionWithoutACloseIsServedOnceMoreWhileDraining) {
  Event release;
  StartWith([&](UpstreamConnection& connection) {
    if (!connection.ReadRequest()) return;
    connection.Send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na");
    if (!connection.WaitFor(release)) return;
    connection.Send("bc");
    connection.WaitForEnd();
  });
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Send("GET /svc HTTP/1.1\r\nHost: a\r\n\r\n").ok());
  ASSERT_TRUE(client.ReadUntil("\r\n\r\na").ok());
  gateway_->process().Signal(SIGTERM);
  ASSERT_TRUE(WaitFor([&] { return !Fetch(gateway_->port(), "GET", "/health").ok(); }));
  gateway_->process().Signal(SIGUSR1);  // a log rotation now aborts nothing
  release.Set();
  ASSERT_TRUE(client.ReadUntil("bc").ok());
  const auto response = client.Request("GET", "/health");
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->Field("Connection"), "close");
  EXPECT_EQ(gateway_->process().Wait(), (Process::Exit{0, 0})) << gateway_->process().output();
}

TEST_F(Proxy, AnEndpointThatTalksOutOfTurnIsNotReused) {
  StartWith(
      [](UpstreamConnection& connection) {
        while (connection.ReadRequest()) {
          const std::string surplus = connection.index() == 0 ? MakeResponse(200, "planted") : "";
          if (!connection.Send(MakeResponse(200, "mine") + surplus)) return;
        }
      },
      "", "", {"server.workers=1"});
  RawClient client(gateway_->port());
  for (int i = 0; i < 4; ++i) {
    const auto response = client.Request("GET", "/svc");
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->body, "mine");
  }
  EXPECT_EQ(upstream_->connections(), 4);
  EXPECT_TRUE(gateway_->process().WaitForLine("unsolicited bytes").has_value());
}

TEST_F(Proxy, AnEndpointThatGivesNoLeaveToSendABodyIsLate) {
  StartWith([](UpstreamConnection& connection) { connection.StaySilent(); }, "timeouts: { response: 400ms }");
  const auto response = [this] {
    RawClient client(gateway_->port());
    EXPECT_TRUE(client.Send("POST /svc HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").ok());
    return client.ReadResponse();
  }();
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->status, 504);
  EXPECT_EQ(ReasonOf(*response), "upstream_timeout");
}

TEST_F(Proxy, AClientThatDoesNotWaitForLeaveIsGivenItsTime) {
  // The body takes longer than the endpoint's response timeout.
  StartWith(Echo(), "timeouts: { response: 300ms }");
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Send("POST /svc HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n").ok());
  for (int i = 0; i < 9; ++i) {
    ASSERT_TRUE(client.Send("x").ok());
    EXPECT_EQ(client.WaitForEnd(Timeout(70)), PeerEnd::kOpen);
  }
  const auto response = client.ReadResponse();
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->status, 200);
}

TEST_F(Proxy, AnEmptyListOfATrustedPeerAddsNothing) {
  StartWith(Echo(), "", "", {"server.trusted_proxies=127.0.0.0/8"});
  EXPECT_EQ(Seen(Echoed("/svc", "X-Forwarded-For:\r\n"), "x-forwarded-for"), List{"127.0.0.1"});
}

TEST_F(Proxy, ReadsTheListsThatProxiesWrite) {
  StartWith(Echo(), "", "", {"server.trusted_proxies=127.0.0.0/8"});
  const std::pair<const char*, const char*> lists[] = {{"5.6.7.8,\t1.2.3.4", "1.2.3.4"},
                                                       {"1.2.3.4,", "1.2.3.4"},
                                                       {"1.2.3.4 , ,", "1.2.3.4"},
                                                       {"1.2.3.4:5555", "1.2.3.4"},
                                                       {"[2001:db8:0::5]", "2001:db8::5"},
                                                       {"[2001:db8::5]:443", "2001:db8::5"},
                                                       {"2001:DB8::5", "2001:db8::5"},
                                                       {"1.2.3.4, unknown", "127.0.0.1"},
                                                       {"[1.2.3.4", "1.2.3.4"},
                                                       {"[", "127.0.0.1"},
                                                       {":80", "127.0.0.1"}};
  size_t lines = 0;
  for (const auto& [list, client] : lists) {
    (void)Echoed("/svc", Concat("X-Forwarded-For: ", list, "\r\n"));
    const auto log = gateway_->LogLines(++lines);
    ASSERT_EQ(log.size(), lines);
    EXPECT_EQ(log.back()["client_ip"], client) << list;
  }
}

TEST_F(Proxy, CountsMaxForwardsDownAndAnswersAtTheEnd) {
  StartWith(Echo());
  EXPECT_EQ(Seen(Echoed("/svc", "Max-Forwards: 5\r\n", "OPTIONS"), "max-forwards"), List{"4"});
  EXPECT_EQ(Seen(Echoed("/svc", "Max-Forwards: many\r\n", "OPTIONS"), "max-forwards"), List{"many"});
  EXPECT_EQ(Seen(Echoed("/svc", "Max-Forwards: 5\r\n", "GET"), "max-forwards"), List{"5"});
  // Several fields become one: a number for each would need more room than the received header had.
  std::string many = "Max-Forwards: 18446744073709551615\r\n";
  for (int i = 0; i < 150; ++i) many += "Max-Forwards: x\r\n";
  Append(&many, "X-Long: ", std::string(11'000, 'l'), "\r\n");
  EXPECT_EQ(Seen(Echoed("/svc", many, "OPTIONS"), "max-forwards"), List{"18446744073709551614"});
  const int before = upstream_->request_count();
  for (const char* target : {"/svc", "*"}) {
    const auto response = Fetch(gateway_->port(), "OPTIONS", target, "Max-Forwards: 0\r\n");
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->status, 200) << target;
    EXPECT_THAT(response->Field("Allow").value_or(""), HasSubstr("OPTIONS"));
    EXPECT_EQ(response->body, "");
  }
  EXPECT_EQ(upstream_->request_count(), before);
}

TEST_F(Proxy, AnswersForItselfWhereNoServiceIsMeant) {
  StartWith(Echo());
  const auto response = Fetch(gateway_->port(), "OPTIONS", "*");
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->status, 200);
  EXPECT_THAT(response->Field("Allow").value_or(""), HasSubstr("GET"));
}

TEST_F(Proxy, AnHttpsTargetNeedsAProxyThatHadTls) {
  StartWith(Echo());
  const auto response = Fetch(gateway_->port(), "GET", "https://a/svc");
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->status, 400);
  EXPECT_EQ(Fetch(gateway_->port(), "GET", "http://a/svc")->status, 200);
  StartWith(Echo(), "", "", {"server.trusted_proxies=127.0.0.0/8"});
  EXPECT_EQ(Fetch(gateway_->port(), "GET", "https://a/svc")->status, 200);
}

TEST_F(Proxy, ServesHeadsAsLargeAsTheLimitAllows) {
  StartWith(Echo(), "", "", {"server.max_header_bytes=960KiB", "server.trusted_proxies=127.0.0.0/8"});
  const std::string large(900 * 1024, 'x');
  EXPECT_EQ(Seen(Echoed("/svc", Concat("X-Large: ", large, "\r\n")), "x-large"), List{large});
  EXPECT_EQ(Get("/svc", Concat("X-Large: ", large, large, "\r\n")).status, 431);
}

TEST_F(Proxy, WhatAnAnswerSaysAmissWithoutHarmIsNotPassedOn) {
  StartWith(Respond([](const UpstreamRequest& request) -> std::string {
    if (request.target.ends_with("connection")) {
      return "HTTP/1.1 200 OK\r\nConnection: Keep-Alive; timeout=5\r\nContent-Length: 2\r\n\r\nok";
    }
    return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nSet-Cookie: a=b\r\n\r\n";
  }));
  for (const char* target : {"/svc/connection", "/svc/trailer"}) {
    const auto response = Get(target);
    EXPECT_EQ(response.status, 200) << target;
    EXPECT_EQ(response.body, "ok") << target;
    EXPECT_FALSE(response.Field("Connection")) << target;
    EXPECT_FALSE(response.Field("Set-Cookie")) << target;
  }
}

TEST_F(Proxy, AnAddressIsOneHostHoweverItIsWritten) {
  StartWith(Echo(), "",
            "---\nkind: Route\nname: guarded\nmatch: { hosts: [\"[::1]\"], path: { prefix: /svc } }\n"
            "respond: { status: 403 }");
  for (const char* host : {"[::1]", "[0:0::1]:80", "[0000:0000:0000:0000:0000:0000:0000:0001]"}) {
    EXPECT_EQ(Get("/svc", Concat("Host: ", host, "\r\n")).status, 403) << host;
  }
  EXPECT_EQ(Get("/svc", "Host: [::2]\r\n").status, 200);
}

TEST_F(Proxy, NoSpellingOfAPathGoesAroundTheRouteThatGuardsIt) {
  StartWith(Echo(), "",
            "---\nkind: IpAccess\nname: nobody\ndeny: [0.0.0.0/0]\n---\nkind: Route\nname: guarded\n"
            "match: { path: { prefix: /svc/admin } }\nservice: svc\naccess: nobody");
  EXPECT_EQ(Get("/svc/admin/a").status, 403);
  for (const char* target : {"/svc/admin;x/a", "/svc/;x/admin", "/svc;x/admin", "/svc/admin%3Bx", "/svc/admin%2Fa",
                             "/svc/%2Fadmin", "/svc%5cadmin", "/svc/admin;x%2Fa", "/svc%2fadmin;a"}) {
    const int status = Get(target).status;
    EXPECT_TRUE(status == 400 || status == 403 || status == 404) << target << " gave " << status;
  }
  EXPECT_EQ(upstream_->request_count(), 0);
  // A path that bypasses no guard is served unchanged.
  for (const char* target : {"/svc/a;b=c/d", "/svc/a%2Fb", "/svc/admins;x", "/svc/%3Badmin"}) {
    EXPECT_EQ(Echoed(target)["target"], target);
  }
}

// A guard on GET beside an open route for all methods. HEAD is GET without content, and a service may ignore the case
// of methods.
TEST_F(Proxy, NoSpellingOfAMethodBypassesItsGuard) {
  StartWith(Echo(), "",
            "---\nkind: IpAccess\nname: nobody\ndeny: [0.0.0.0/0]\n---\nkind: Route\nname: guarded\n"
            "match: { path: { prefix: /svc/admin }, methods: [GET] }\nservice: svc\naccess: nobody\n"
            "---\nkind: Route\nname: readers\nmatch: { path: { exact: /x/list }, methods: [GET] }\nservice: svc\n"
            "---\nkind: Route\nname: parameters\nmatch: { path: { exact: /x/list%3Bx } }\nservice: svc");
  const auto status = [&](std::string_view method, std::string_view target) {
    const auto response = Fetch(gateway_->port(), method, target);
    EXPECT_TRUE(response.ok()) << method << " " << target << ": " << response.status();
    return response.ok() ? response->status : 0;
  };
  EXPECT_EQ(status("GET", "/svc/admin"), 403);
  EXPECT_EQ(status("HEAD", "/svc/admin"), 403);
  for (const char* method : {"get", "Get", "gEt", "head", "post", "Options", "trace", "propfind"}) {
    EXPECT_EQ(status(method, "/svc/admin"), 400) << method;
  }
  for (const char* method : {"GET", "HEAD"}) EXPECT_EQ(status(method, "/svc/admin;x"), 400) << method;
  // Without its parameters, this path allows only GET and HEAD.
  EXPECT_EQ(status("POST", "/x/list"), 405);
  EXPECT_EQ(status("POST", "/x/list%3Bx"), 400);
  EXPECT_EQ(upstream_->request_count(), 0);
  EXPECT_EQ(status("GET", "/x/list%3Bx"), 200);
  EXPECT_EQ(status("HEAD", "/x/list"), 200);
  EXPECT_EQ(status("purgatory", "/svc/open"), 200) << "unknown methods may be lower-case";
}

// The service's only endpoint is the gateway itself.
TEST_F(Proxy, ARequestThatComesBackIsStopped) {
  StartWith(Echo());
  const auto passed = Get("/svc", "Via: 1.1 gateway (00000000), 1.1 gateway, 1.0 other\r\n");
  EXPECT_EQ(passed.status, 200) << "a different gateway of the same kind";
  std::string many = "1.1 a";
  for (int i = 0; i < 16; ++i) many += ", 1.1 gateway (0000000" + std::to_string(i % 10) + ")";
  EXPECT_EQ(Get("/svc", Concat("Via: ", many, "\r\n")).status, 508) << "a loop through other data planes";

  DataPlane::Options options;
  const int port = FreePort();
  options.policy = ServicePolicyYaml({Concat("127.0.0.1:", port)});
  options.port = port;
  options.sets = {"server.workers=1"};  // so that lines are in order
  DataPlane looping(std::move(options));
  const auto response = Fetch(looping.port(), "GET", "/svc");
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->status, 508);
  EXPECT_EQ(ReasonOf(*response), "loop_detected");
  const auto lines = looping.LogLines(2);
  ASSERT_EQ(lines.size(), 2u) << "once out and once back, no more";
  EXPECT_EQ(lines[0]["reason"], "loop_detected");
}

TEST_F(Proxy, CredentialsInATargetAreNotLogged) {
  StartWith(Echo(), "", "", {"server.workers=1"});  // so that lines are in order
  EXPECT_EQ(Fetch(gateway_->port(), "GET", "/svc?access_token=topsecret&x=1")->status, 200);
  EXPECT_EQ(Fetch(gateway_->port(), "GET", "http://user:topsecret@a/svc")->status, 400);
  const auto lines = gateway_->LogLines(2);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0]["path"], "/svc?access_token=***&x=1");
  EXPECT_EQ(lines[1]["path"], "/svc");
}

TEST_F(Proxy, SaysWhatIsServedWhereAMethodNeverIs) {
  StartWith(Ok("x"));
  const auto response = Fetch(gateway_->port(), "TRACE", "/svc");
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->status, 405);
  EXPECT_THAT(response->Field("Allow").value_or(""), HasSubstr("GET"));
}

TEST_F(Proxy, ReopensItsLogOnSigusr1) {
  TempDir directory;
  const std::string log = directory.File("access.log");
  StartWith(Ok("x"), "", "", {"access_log.path=" + log});
  EXPECT_EQ(Get("/svc/one").status, 200);
  EXPECT_TRUE(WaitFor([&] { return directory.Read("access.log").find("/svc/one") != std::string::npos; }));
  ASSERT_EQ(rename(log.c_str(), directory.File("old.log").c_str()), 0);
  gateway_->process().Signal(SIGUSR1);
  EXPECT_TRUE(WaitFor([&] {
    (void)Get("/svc/two");
    return directory.Read("access.log").find("/svc/two") != std::string::npos;
  }));
  EXPECT_THAT(directory.Read("old.log"), HasSubstr("/svc/one"));
}

}  // namespace
}  // namespace gateway::fixtures
