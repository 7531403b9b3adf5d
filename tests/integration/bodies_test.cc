// Bodies through the proxy: every size and framing, truncated, late, slow, and in both directions at once.
#include <algorithm>
#include <string>

#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/proxy.h"

namespace gateway::fixtures {
namespace {

class RelayedBodies : public Proxy {
 protected:
  // Sends `request` over a client connection whose upstream connection was kept, and waits until the service has
  // received it `times` times.
  void AskAgain(RawClient* client, const std::string& request, int times) {
    ASSERT_TRUE(client->Request("GET", "/svc").ok());
    const int before = upstream_->request_count();
    ASSERT_TRUE(client->Send(request).ok());
    ASSERT_TRUE(upstream_->WaitForRequests(before + times));
  }
};

TEST_F(RelayedBodies, PassesBodiesOfEverySizeAndFramingBothWays) {
  StartWith(Respond([](const UpstreamRequest& request) {
    if (request.target.ends_with("chunked")) {
      std::string out = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
      for (size_t at = 0; at < request.body.size(); at += 1000) out += Chunk(request.body.substr(at, 1000));
      return out + Chunk("");
    }
    return MakeResponse(200, request.body, request.chunked ? "X-Chunked: 1\r\n" : "");
  }));
  std::string body;
  for (int i = 0; body.size() < 3'000'000; ++i) Append(&body, i, ",");
  for (const size_t size : {size_t{0}, size_t{1}, size_t{16'000}, size_t{16'384}, size_t{100'000}, body.size()}) {
    for (const char* target : {"/svc/plain", "/svc/chunked"}) {
      const std::string part = body.substr(0, size);
      auto response = Fetch(gateway_->port(), "POST", target, "", part);
      ASSERT_TRUE(response.ok()) << size << target << response.status();
      EXPECT_EQ(response->body == part, true) << size << target << " gave " << response->body.size();
      // The same body in chunks.
      RawClient client(gateway_->port());
      std::string request = Concat("POST ", target, " HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
      for (size_t at = 0; at < part.size(); at += 777) request += Chunk(part.substr(at, 777));
      request += Chunk("");
      // Sends the whole body before reading: the gateway must relay in both directions at once.
      ASSERT_TRUE(client.Send(request, Timeout(30'000)).ok());
      response = client.ReadResponse(Timeout(30'000));
      ASSERT_TRUE(response.ok()) << size << target << response.status();
      EXPECT_EQ(response->body == part, true) << size << target;
      // The connection is still in sync: another request works.
      const auto after = client.Request("GET", "/svc/plain");
      ASSERT_TRUE(after.ok()) << after.status();
      EXPECT_EQ(after->status, 200);
    }
  }
}

// Long enough for a pipe, with content that differs everywhere.
std::string LongBody(char name) {
  std::string body;
  while (body.size() < 24'000'000) Append(&body, std::string_view(&name, 1), body.size(), ",");
  return body;
}

TEST_F(RelayedBodies, LongBodiesPassUncopiedAndLeaveTheConnectionInStep) {
  StartWith(Respond([](const UpstreamRequest& request) { return MakeResponse(200, request.body); }));
  const std::string body = LongBody('a');
  RawClient client(gateway_->port());
  for (int i = 0; i < 2; ++i) {
    // Another request follows the body directly.
    ASSERT_TRUE(client
                    .Send(Concat("POST /svc HTTP/1.1\r\nHost: a\r\nContent-Length: ", body.size(), "\r\n\r\n", body,
                                 "POST /svc HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nnext"),
                          Timeout(30'000))
                    .ok());
    auto response = client.ReadResponse(Timeout(30'000));
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->body == body, true) << response->body.size();
    response = client.ReadResponse();
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->body, "next");
  }
  EXPECT_GE(gateway_->Metric("gateway_spliced_bytes_total"), 24'000'000);
  const auto lines = gateway_->LogLines(4);
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_GT(lines[0]["bytes_in"], body.size());
  EXPECT_GT(lines[0]["bytes_out"], body.size());
  EXPECT_LT(lines[0]["bytes_out"], body.size() + 1000);
  EXPECT_TRUE(WaitFor([&] { return gateway_->Metric("gateway_buffer_bytes") == 0; }));
}

// Bytes left in a pipe belong to its request: they never appear in another body.
TEST_F(RelayedBodies, ALongBodyThatBreaksOffLeaksIntoNoOther) {
  const std::string body = LongBody('a');
  const std::string other = LongBody('b');
  Event stopped, freed;
  StartWith([&](UpstreamConnection& connection) {
    while (const auto request = connection.ReadHead()) {
      if (request->target == "/svc/upload") {
        if (!connection.stream().ReadExactly(4'000'000, Timeout(30'000)).ok() || !connection.WaitFor(stopped)) return;
        connection.WaitForEnd();
        freed.Set();
        return;
      }
      if (request->target == "/svc/cut") {
        const std::string answer = MakeResponse(200, body);
        connection.Send(answer.substr(0, answer.size() / 2));
        return;
      }
      if (!connection.Send(MakeResponse(200, request->target == "/svc/other" ? other : body))) return;
    }
  });
  const auto expect_other = [&] {
    const auto response = Fetch(gateway_->port(), "GET", "/svc/other", "", "", Timeout(30'000));
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->body == other, true) << response->body.size();
  };
  const auto expect_flow = [&](double from) {
    return WaitFor([&] { return gateway_->Metric("gateway_spliced_bytes_total") > from; });
  };
  {
    // The service closes the connection.
    const auto response = Fetch(gateway_->port(), "GET", "/svc/cut", "", "", Timeout(30'000));
    EXPECT_FALSE(response.ok()) << "a truncated response ended cleanly";
    expect_other();
  }
  {
    // The client stops reading, then closes the connection.
    const double from = gateway_->Metric("gateway_spliced_bytes_total");
    RawClient client(gateway_->port());
    ASSERT_TRUE(client.Send("GET /svc HTTP/1.1\r\nHost: a\r\n\r\n").ok());
    ASSERT_TRUE(client.ReadExactly(4'000'000, Timeout(30'000)).ok());
    ASSERT_TRUE(expect_flow(from));
    client.Reset();
    expect_other();
  }
  {
    // The service stops reading, then the client closes the connection.
    const double from = gateway_->Metric("gateway_spliced_bytes_total");
    RawClient client(gateway_->port());
    (void)client.Send(Concat("POST /svc/upload HTTP/1.1\r\nHost: a\r\nContent-Length: 400000000\r\n\r\n", body),
                      Timeout(300));
    ASSERT_TRUE(expect_flow(from));
    client.Reset();
    EXPECT_TRUE(WaitFor([&] { return gateway_->Metric("gateway_requests_in_flight") == 0; }));
    stopped.Set();
    EXPECT_TRUE(freed.Wait());
  }
  EXPECT_TRUE(WaitFor([&] { return gateway_->Metric("gateway_buffer_bytes") == 0; }));
  EXPECT_TRUE(WaitFor([&] { return gateway_->Metric("gateway_requests_in_flight") == 0; }));
}

TEST_F(RelayedBodies, SendsNoBodyWhereNoneBelongs) {
  StartWith(Respond([](const UpstreamRequest& request) -> std::string {
    if (request.target.ends_with("204")) return "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n";
    if (request.target.ends_with("304")) return "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: x\r\n\r\n";
    return request.method == "HEAD" ? "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" : MakeResponse(200, "hello");
  }));
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Send("HEAD /svc HTTP/1.1\r\nHost: a\r\n\r\n").ok());
  auto response = client.ReadResponse(kSoon, true);
  ASSERT_TRUE(response.ok());
  EXPECT_EQ(response->Field("Content-Length"), "5");
  for (const char* target : {"/svc/204", "/svc/304", "/svc"}) {
    response = client.Request("GET", target);
    ASSERT_TRUE(response.ok()) << target << response.status();
    EXPECT_EQ(response->body, std::string(target) == "/svc" ? "hello" : "") << target;
  }
  // After HEAD and 304 an announced body might still arrive, so the connection is not reused.
  EXPECT_EQ(upstream_->connections(), 3);
}

TEST_F(RelayedBodies, ATruncatedAnswerLooksTruncated) {
  StartWith([](UpstreamConnection& connection) {
    const auto request = connection.ReadRequest();
    if (!request) return;
    if (request->target.ends_with("length")) {
      connection.Send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this");
    } else {
      connection.Send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + Chunk("only this"));
    }
  });
  for (const char* target : {"/svc/length", "/svc/chunked"}) {
    const auto response = Fetch(gateway_->port(), "GET", target);
    EXPECT_FALSE(response.ok()) << target << ": a truncated response ended cleanly";
  }
  // For an HTTP/1.0 client only the end of the connection delimits a response of unknown length: it must not be a
  // clean end.
  RawClient old(gateway_->port());
  ASSERT_TRUE(old.Send("GET /svc/chunked HTTP/1.0\r\n\r\n").ok());
  EXPECT_FALSE(old.ReadToEnd().ok());
  const auto lines = gateway_->LogLines(3);
  ASSERT_EQ(lines.size(), 3u);
  for (const auto& line : lines) {
    EXPECT_EQ(line["reason"], "upstream_reset") << line;
    EXPECT_EQ(line["aborted"], true) << line;
  }
}

TEST_F(RelayedBodies, AnAnswerWithoutLengthEndsWithItsConnection) {
  StartWith([](UpstreamConnection& connection) {
    if (!connection.ReadRequest()) return;
    connection.Send("HTTP/1.1 200 OK\r\n\r\nall of it");
  });
  RawClient client(gateway_->port());
  for (int i = 0; i < 2; ++i) {
    const auto response = client.Request("GET", "/svc");
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_TRUE(response->chunked);
    EXPECT_EQ(response->body, "all of it");
  }
}

TEST_F(RelayedBodies, AClientThatEndsInsideItsBodyFreesTheService) {
  Event gone;
  StartWith([&](UpstreamConnection& connection) {
    if (!connection.ReadHead()) return;
    connection.WaitForEnd();
    gone.Set();
  });
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Send("POST /svc HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf").ok());
  ASSERT_TRUE(upstream_->WaitForRequests(1));
  client.Close();
  EXPECT_TRUE(gone.Wait());
}

TEST_F(RelayedBodies, AnEarlyAnswerEndsTheUploadAndTheConnection) {
  StartWith([](UpstreamConnection& connection) {
    if (!connection.ReadHead()) return;
    connection.Send(MakeResponse(413, "too much"));
    connection.WaitForEnd();
  });
  RawClient client(gateway_->port());
  ASSERT_TRUE(
      client.Send("POST /svc HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nGET /svc/smuggled HTTP/1.1\r\n")
          .ok());
  const auto response = client.ReadResponse();
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->status, 413);
  EXPECT_EQ(response->Field("Connection"), "close");
  (void)client.Send("Host: a\r\n\r\nGET /svc/smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_NE(client.WaitForEnd(), PeerEnd::kOpen);
  EXPECT_EQ(upstream_->request_count(), 1);
}

TEST_F(RelayedBodies, ABodyThatWasStreamedIsNeverSentTwice) {
  // The second request of each connection is read to its end, then the connection closes without a response.
  StartWith(
      [](UpstreamConnection& connection) {
        if (!connection.ReadRequest()) return;
        connection.Send(MakeResponse(200, "x"));
        (void)connection.ReadRequest();
      },
      "", "", {"server.workers=1"});
  for (const char* framing : {"Content-Length: 5", "Transfer-Encoding: chunked"}) {
    RawClient client(gateway_->port());
    // The body follows after the header has been forwarded. It is not buffered, so it cannot be sent again, even for
    // an idempotent method.
    AskAgain(&client, Concat("PUT /svc HTTP/1.1\r\nHost: a\r\n", framing, "\r\n\r\n"), 1);
    const int asked = upstream_->request_count();
    ASSERT_TRUE(client.Send(framing[0] == 'C' ? "hello" : Chunk("hello") + Chunk("")).ok());
    const auto response = client.ReadResponse();
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->status, 502) << framing;
    EXPECT_EQ(upstream_->request_count(), asked) << framing;
  }
}

// Echoes its first request and closes the connection at the header of the second.
void EndsWithItsSecondHead(UpstreamConnection& connection) {
  const auto request = connection.ReadRequest();
  if (!request) return;
  connection.Send(MakeResponse(200, request->body));
  (void)connection.ReadHead();
}

TEST_F(RelayedBodies, AnUnreadBodyMovesToAFreshConnection) {
  StartWith(EndsWithItsSecondHead, "", "", {"server.workers=1"});
  for (const char* more : {"", "Expect: 100-continue\r\n"}) {
    RawClient client(gateway_->port());
    // Sent twice, before any of the body has arrived.
    AskAgain(&client, Concat("PUT /svc HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n", more, "\r\n"), 2);
    ASSERT_TRUE(client.Send("hello").ok());
    const auto response = client.ReadResponse();
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->status, 200) << response->body;
    EXPECT_EQ(upstream_->requests().back().body, "hello");
    // The client's connection is still in sync.
    EXPECT_EQ(client.Request("GET", "/svc")->status, 200);
  }
  // A POST may have been processed.
  RawClient client(gateway_->port());
  AskAgain(&client, "POST /svc HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", 1);
  const int asked = upstream_->request_count();
  ASSERT_TRUE(client.Send("hello").ok());
  ASSERT_TRUE(client.ReadResponse().ok());
  EXPECT_EQ(upstream_->request_count(), asked);
}

TEST_F(RelayedBodies, ACopyOfARequestThatWasSentAgainHasItsBodyOnce) {
  ScriptedUpstream copies(Ok("x"));
  StartWith(
      EndsWithItsSecondHead, "",
      Concat("mirror: [{ service: copies, percent: 100 }]\n---\nkind: Service\nname: copies\nstatic: [{ address: \"",
             copies.address(), "\" }]"),
      {"server.workers=1"});
  RawClient client(gateway_->port());
  AskAgain(&client, "PUT /svc HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe", 2);
  ASSERT_TRUE(client.Send("llo").ok());
  const auto response = client.ReadResponse();
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->body, "hello");
  ASSERT_TRUE(copies.WaitForRequests(2));
  // The copy of an earlier request may arrive later.
  EXPECT_TRUE(WaitFor([&] {
    const auto requests = copies.requests();
    return std::any_of(requests.begin(), requests.end(), [](const auto& each) { return each.body == "hello"; });
  })) << copies.requests().back().body;
}

TEST_F(RelayedBodies, AnEarlyHeadGivesItsBodyTheWholeResponseTimeout) {
  Event uploaded;
  Event go_on;
  StartWith(
      [&](UpstreamConnection& connection) {
        auto request = connection.ReadHead();
        if (!request) return;
        connection.Send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc");
        if (!connection.ReadBody(&*request)) return;
        uploaded.Set();
        if (connection.WaitFor(go_on)) connection.Send("def");
        connection.WaitForEnd();
      },
      "timeouts: { response: 20s }\ncircuit_breaker: cb", "---\nkind: CircuitBreaker\nname: cb\ntimeout: 100ms");
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Send("POST /svc HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n1").ok());
  ASSERT_TRUE(client.ReadUntil("abc").ok());
  ASSERT_TRUE(client.Send("2").ok());
  ASSERT_TRUE(uploaded.Wait());
  // Longer than the breaker's timeout, which ends at the header.
  EXPECT_EQ(client.WaitForEnd(Timeout(400)), PeerEnd::kOpen);
  go_on.Set();
  EXPECT_TRUE(client.ReadUntil("def").ok());
}

TEST_F(RelayedBodies, SlowReadersLeaveRoomForOthers) {
  const std::string body(4'000'000, 'b');
  StartWith(Ok(body), "", "", {"server.buffer_budget=4MiB"});
  std::vector<RawClient> slow;
  for (int i = 0; i < 60; ++i) {
    slow.emplace_back(gateway_->port());
    ASSERT_TRUE(slow.back().Send("GET /svc HTTP/1.1\r\nHost: a\r\n\r\n").ok());
  }
  for (auto& each : slow) ASSERT_TRUE(each.ReadUntil("\r\n\r\n").ok());
  for (int i = 0; i < 50; ++i) EXPECT_EQ(Get("/health").status, 200);
  slow.clear();
  // The whole budget is free again, on every worker.
  EXPECT_TRUE(WaitFor([&] { return gateway_->Metric("gateway_buffer_bytes") == 0; }));
  for (int i = 0; i < 50; ++i) EXPECT_EQ(Get("/health").status, 200);
}

TEST_F(RelayedBodies, ALateBodyAfterAHeadRequestIsNoResponse) {
  StartWith(
      [](UpstreamConnection& connection) {
        for (;;) {
          const auto request = connection.ReadRequest();
          if (!request) return;
          if (request->method != "HEAD") {
            if (!connection.Send(MakeResponse(200, "mine"))) return;
            continue;
          }
          // The forbidden body arrives together with the next request.
          const std::string planted = MakeResponse(200, "planted");
          if (!connection.Send(Concat("HTTP/1.1 200 OK\r\nContent-Length: ", planted.size(), "\r\n\r\n"))) return;
          if (connection.ReadHead()) (void)connection.Send(planted);
        }
      },
      "", "", {"server.workers=1"});
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Send("HEAD /svc HTTP/1.1\r\nHost: a\r\n\r\n").ok());
  ASSERT_TRUE(client.ReadResponse(kSoon, true).ok());
  const auto response = client.Request("GET", "/svc");
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->body, "mine");
}

}  // namespace
}  // namespace gateway::fixtures
