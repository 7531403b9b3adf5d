// What the gateway decides, responds and changes by itself, as clients and services see it: access by address, CORS,
// body limits, redirects, fixed responses, transforms, sticky splits.
#include <algorithm>
#include <map>
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

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

std::string ReasonOf(const Response& response) {
  return nlohmann::json::parse(response.body, nullptr, false).value("reason", "");
}

// Adds a Host field.
std::string Hosted(std::string_view fields) { return Concat("Host: api.example.com:8443\r\n", fields); }

class Edge : public ::testing::Test {
 protected:
  Edge() : upstream_(Echo("svc")) {}
  // A service `svc`, a route /svc, and further documents.
  void Serve(std::string_view route_fields, std::vector<std::string> sets = {}) {
    gateway_ = std::make_unique<DataPlane>(DataPlane::Options{
        .policy = ServicePolicyYaml({upstream_.address()}, "", route_fields), .workers = 1, .sets = std::move(sets)});
  }
  Response Get(std::string_view target, std::string_view fields = "", std::string_view method = "GET",
               std::string_view body = "") {
    const auto response = Fetch(gateway_->port(), method, target, fields, body);
    if (!response.ok()) ADD_FAILURE() << method << " " << target << ": " << response.status();
    return response.ok() ? *response : Response();
  }

  ScriptedUpstream upstream_;
  std::unique_ptr<DataPlane> gateway_;
};

using Access = Edge;

TEST_F(Access, IsByTheAddressBehindTrustedProxiesAndDenyWins) {
  Serve(
      "access: office\n---\nkind: IpAccess\nname: office\nallow: [192.0.2.0/24, \"2001:db8::/32\"]\n"
      "deny: [192.0.2.66]",
      {"server.trusted_proxies=127.0.0.1/32", "server.error_details=true"});
  EXPECT_EQ(Get("/svc", "X-Forwarded-For: 192.0.2.1\r\n").status, 200);
  EXPECT_EQ(Get("/svc", "X-Forwarded-For: 192.0.2.66, 2001:db8::7\r\n").status, 200);
  const int reached = upstream_.request_count();
  const Response refused = Get("/svc", "X-Forwarded-For: 192.0.2.66\r\n");
  EXPECT_EQ(refused.status, 403);
  EXPECT_EQ(ReasonOf(refused), "forbidden");
  EXPECT_THAT(refused.body, HasSubstr("\"policy\": \"IpAccess/office\""));
  EXPECT_EQ(Get("/svc", "X-Forwarded-For: 192.0.2.1, 198.51.100.9\r\n").status, 403) << "the last untrusted one counts";
  EXPECT_EQ(Get("/svc").status, 403) << "the proxy's own address is not allowed";
  EXPECT_EQ(upstream_.request_count(), reached);
  const auto lines = gateway_->LogLines(5);
  EXPECT_EQ(lines[2]["policy"], "IpAccess/office");
  EXPECT_EQ(lines[2]["reason"], "forbidden");
  EXPECT_EQ(gateway_->Metric("api_requests_total{service=\"svc\",method=\"GET\",path=\"/svc\"}"), 5)
      << gateway_->Metrics();
}

TEST_F(Access, ComesBeforeTheLimits) {
  Serve(
      "access: nobody\nrate_limits: [one]\n---\nkind: IpAccess\nname: nobody\ndeny: [0.0.0.0/0]\n---\n"
      "kind: RateLimit\nname: one\nlimit: { requests: 1, window: 1h }");
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Get("/svc").status, 403);
}

class Sharing : public Edge {
 protected:
  static constexpr std::string_view kOrigin = "Origin: https://app.example.com\r\n";
  static constexpr std::string_view kWeb =
      "---\nkind: Cors\nname: web\norigins: [\"https://app.example.com\"]\nmethods: [GET, PUT]\n"
      "headers: [Content-Type]\nexpose_headers: [X-Total]\ncredentials: true\nmax_age: 1h";
  Response Preflight(std::string_view target, std::string_view method, std::string_view origin = kOrigin) {
    return Get(target, Concat(origin, "Access-Control-Request-Method: ", method, "\r\n"), "OPTIONS");
  }
};

TEST_F(Sharing, PreflightsAreAnsweredHere) {
  Serve(Concat("cors: web\n", kWeb));
  const Response answer = Preflight("/svc/a", "PUT");
  EXPECT_EQ(answer.status, 204);
  EXPECT_EQ(answer.Field("Access-Control-Allow-Origin"), "https://app.example.com");
  EXPECT_EQ(answer.Field("Access-Control-Allow-Credentials"), "true");
  EXPECT_EQ(answer.Field("Access-Control-Allow-Methods"), "GET, PUT");
  EXPECT_EQ(answer.Field("Access-Control-Allow-Headers"), "content-type");
  EXPECT_EQ(answer.Field("Access-Control-Max-Age"), "3600");
  EXPECT_EQ(answer.Field("Vary"), "Origin, Access-Control-Request-Method, Access-Control-Request-Headers");
  EXPECT_EQ(answer.Field("Content-Length"), std::nullopt);
  EXPECT_EQ(answer.Field("Content-Type"), std::nullopt);

  const Response unlisted = Preflight("/svc/a", "PUT", "Origin: https://evil.test\r\n");
  EXPECT_EQ(unlisted.status, 204);
  EXPECT_THAT(unlisted.head, Not(HasSubstr("Access-Control-Allow")));
  EXPECT_EQ(unlisted.Field("Vary"), answer.Field("Vary"));
  EXPECT_THAT(upstream_.requests(), IsEmpty());
  const auto lines = gateway_->LogLines(2);
  EXPECT_EQ(lines[0].value("policy", ""), "");
  EXPECT_EQ(lines[1]["policy"], "Cors/web");
  EXPECT_EQ(lines[1]["detail"], "the origin is not listed");

  // An OPTIONS request that is not a preflight goes to the service.
  EXPECT_EQ(Get("/svc/a", kOrigin, "OPTIONS").status, 200);
  EXPECT_EQ(upstream_.request_count(), 1);
}

TEST_F(Sharing, APreflightTakesTheRouteOfItsRequest) {
  Serve(Concat(
      "rate_limits: [none]\n---\nkind: Route\nname: put\nmatch: { path: { prefix: /svc/items }, methods: [PUT] "
      "}\nservice: svc\ncors: web\n---\nkind: Route\nname: only\nmatch: { path: { prefix: /only }, methods: [PUT] "
      "}\nservice: svc\ncors: web\n",
      kWeb));
  // /svc matches OPTIONS too, but has no Cors.
  EXPECT_EQ(Preflight("/svc/items", "PUT").Field("Access-Control-Allow-Origin"), "https://app.example.com");
  EXPECT_EQ(Preflight("/only", "PUT").status, 204);
  EXPECT_THAT(upstream_.requests(), IsEmpty());
  // GET goes to /svc, whose service handles CORS itself.
  EXPECT_EQ(Preflight("/svc/items", "GET").status, 200);
  EXPECT_EQ(upstream_.request_count(), 1);
  EXPECT_EQ(Preflight("/only", "GET").status, 405);
}

TEST_F(Sharing, PreflightsCountForNoLimitAndRefusalsCanBeRead) {
  Serve(
      Concat("cors: web\nrate_limits: [two]\n---\nkind: RateLimit\nname: two\nkey: [client_ip]\n"
             "limit: { requests: 2, window: 1h }\n",
             kWeb));
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Preflight("/svc", "PUT").status, 204);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(Get("/svc", kOrigin).status, 200);
  // A script can read the reason.
  const Response refused = Get("/svc", kOrigin);
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(refused.Field("Access-Control-Allow-Origin"), "https://app.example.com");
  EXPECT_EQ(refused.Field("Access-Control-Expose-Headers"), "X-Total");
  EXPECT_EQ(refused.Field("Vary"), "Origin");
  EXPECT_EQ(Get("/svc", "Origin: https://evil.test\r\n").Field("Access-Control-Allow-Origin"), std::nullopt);
}

TEST_F(Sharing, TheServicesOwnWordIsReplacedAndItsVaryKept) {
  Serve(Concat("cors: web\n", kWeb));
  upstream_.SetScript(fixtures::Respond([](const UpstreamRequest& request) {
    return MakeResponse(200, "x",
                        Concat("Access-Control-Allow-Origin: *\r\naccess-control-max-age: 9\r\n",
                               request.target == "/svc/vary" ? "Vary: Accept-Encoding\r\nX-Total: 7\r\n" : ""));
  }));
  const Response answer = Get("/svc/vary", kOrigin);
  EXPECT_THAT(answer.AllFields("Access-Control-Allow-Origin"), ElementsAre("https://app.example.com"));
  EXPECT_THAT(answer.AllFields("Access-Control-Max-Age"), IsEmpty());
  EXPECT_THAT(answer.AllFields("Vary"), ElementsAre("Accept-Encoding, Origin"));
  EXPECT_EQ(answer.Field("X-Total"), "7");
  for (const char* fields : {"", "Origin: https://evil.test\r\n", "Origin: null\r\n"}) {
    const Response other = Get("/svc", fields);
    EXPECT_EQ(other.status, 200) << fields;
    EXPECT_THAT(other.head, Not(HasSubstr("ccess-"))) << fields;
    EXPECT_THAT(other.AllFields("Vary"), ElementsAre("Origin")) << fields;
  }
}

TEST_F(Sharing, AnyOriginIsAStarForAll) {
  Serve("cors: open\n---\nkind: Cors\nname: open\norigins: [\"*\"]");
  for (const char* fields : {"", "Origin: https://x.test\r\n"}) {
    const Response answer = Get("/svc", fields);
    EXPECT_EQ(answer.Field("Access-Control-Allow-Origin"), "*");
    EXPECT_EQ(answer.Field("Access-Control-Allow-Credentials"), std::nullopt);
  }
}

class Bodies : public Edge {
 protected:
  static constexpr std::string_view kRest = "Transfer-Encoding: chunked\r\n\r\n";
  void ServeBound(std::string_view max = "10") { Serve(Concat("body: { max_bytes: ", max, " }")); }
};

TEST_F(Bodies, AnnouncedTooLongIsRefusedBeforeItIsSent) {
  ServeBound();
  EXPECT_EQ(Get("/svc", "", "POST", "0123456789").status, 200);
  EXPECT_EQ(upstream_.request_count(), 1);
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Send("POST /svc HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\n").ok());
  const auto refused = client.ReadResponse();
  ASSERT_TRUE(refused.ok()) << refused.status();
  EXPECT_EQ(refused->status, 413);
  EXPECT_EQ(ReasonOf(*refused), "body_too_large");
  EXPECT_THAT(refused->informational, IsEmpty());
  EXPECT_EQ(refused->Field("Connection"), "close");
  EXPECT_EQ(upstream_.request_count(), 1);
}

TEST_F(Bodies, ChunkedOnesAreCounted) {
  ServeBound();
  EXPECT_EQ(
      Get("/svc", "Transfer-Encoding: chunked\r\n", "POST", Concat(Chunk("01234"), Chunk("56789"), Chunk(""))).status,
      200);
  const int reached = upstream_.request_count();
  const Response refused =
      Get("/svc", "Transfer-Encoding: chunked\r\n", "POST", Concat(Chunk("01234"), Chunk("567890"), Chunk("")));
  EXPECT_EQ(refused.status, 413);
  EXPECT_EQ(upstream_.request_count(), reached) << "the whole body was buffered, so the service never saw it";
}

TEST_F(Bodies, OneThatGrowsTooLongOnItsWayIsCutOffOnBothSides) {
  Event upstream_ended;
  upstream_.SetScript([&](UpstreamConnection& connection) {
    if (!connection.ReadHead()) return;
    connection.WaitForEnd();
    upstream_ended.Set();
  });
  ServeBound();
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Send(Concat("POST /svc HTTP/1.1\r\nHost: a\r\n", kRest, Chunk("01234"))).ok());
  ASSERT_TRUE(upstream_.WaitForRequests(1));
  ASSERT_TRUE(client.Send(Chunk("567890")).ok());
  const auto refused = client.ReadResponse();
  ASSERT_TRUE(refused.ok()) << refused.status();
  EXPECT_EQ(refused->status, 413);
  EXPECT_EQ(refused->Field("Connection"), "close");
  EXPECT_TRUE(upstream_ended.Wait());
  EXPECT_EQ(gateway_->LogLines(1)[0]["reason"], "body_too_large");
}

TEST_F(Bodies, ABoundOfZeroLetsNoneIn) {
  ServeBound("0");
  EXPECT_EQ(Get("/svc").status, 200);
  EXPECT_EQ(Get("/svc", "Content-Length: 0\r\n", "POST").status, 200);
  EXPECT_EQ(Get("/svc", "", "POST", "x").status, 413);
}

class AnsweredHere : public Edge {
 protected:
  void ServeRoutes(std::string_view routes, std::vector<std::string> sets = {}) {
    Serve(Concat("---\n", routes), std::move(sets));
  }
  static std::string RedirectAt(std::string_view name, std::string_view path, std::string_view redirect) {
    return Concat("kind: Route\nname: ", name, "\nmatch: { path: ", path, " }\nredirect: { ", redirect, " }\n");
  }
};

TEST_F(AnsweredHere, RedirectsKeepWhatTheyDoNotSay) {
  ServeRoutes(
      Concat(RedirectAt("path", "{ exact: /path }", "status: 301, path: \"/new#part\""), "---\n",
             RedirectAt("prefix", "{ prefix: /old }", "prefix: /new"), "---\n",
             RedirectAt("template", "{ template: \"/u/{id}/**\" }", "status: 302, template: \"/users/{id}/**\""),
             "---\n", RedirectAt("host", "{ prefix: /host }", "host: other.example.com, strip_query: true"), "---\n",
             RedirectAt("scheme", "{ prefix: /scheme }", "scheme: https"), "---\n",
             RedirectAt("base", "{ prefix: /base }", "status: 303, prefix: /")),
      {"server.trusted_proxies=127.0.0.1/32"});
  const auto location = [&](std::string_view target, std::string_view fields = "") {
    return Get(target, Hosted(fields)).Field("Location").value_or("none");
  };
  EXPECT_EQ(location("/path?a=1&b=%20"), "/new?a=1&b=%20#part");
  EXPECT_EQ(location("/old/x/./y?q"), "/new/x/y?q");
  EXPECT_EQ(location("/old"), "/new");
  EXPECT_EQ(location("/u/7%20/x%0D%0Ay"), "/users/7%20/x%0D%0Ay");
  EXPECT_EQ(location("/host/a?q=1"), "http://other.example.com/host/a");
  EXPECT_EQ(location("/host/a", "X-Forwarded-Proto: https\r\n"), "https://other.example.com/host/a");
  EXPECT_EQ(location("/scheme/a?q=1"), "https://api.example.com/scheme/a?q=1");
  EXPECT_EQ(location("/scheme", "X-Forwarded-Proto: https\r\n"), "https://api.example.com:8443/scheme");
  EXPECT_EQ(location("/base//evil.test"), "/evil.test");
  EXPECT_EQ(location("/base"), "/");
  EXPECT_EQ(Get("/path").status, 301);
  EXPECT_EQ(Get("/old").status, 308);
  EXPECT_EQ(Get("/base").status, 303);
  EXPECT_THAT(upstream_.requests(), IsEmpty());

  // Without a Host the redirect has no target.
  RawClient old(gateway_->port());
  ASSERT_TRUE(old.Send("GET /scheme HTTP/1.0\r\n\r\n").ok());
  const auto refused = old.ReadResponse();
  ASSERT_TRUE(refused.ok());
  EXPECT_EQ(refused->status, 400);
}

TEST_F(AnsweredHere, ARedirectIsLoggedAndCountedAsTheGateways) {
  ServeRoutes(RedirectAt("moved", "{ prefix: /moved }", "prefix: /svc"));
  RawClient client(gateway_->port());
  const auto first = client.Request("GET", "/moved/a");
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(first->Field("Content-Length"), "0");
  EXPECT_EQ(first->Field("Content-Type"), std::nullopt);
  ASSERT_TRUE(client.Request("POST", "/moved/a", "", "a body").ok()) << "on the same connection, body and all";
  const auto last = client.Request("GET", "/svc");
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_EQ(last->status, 200);
  const auto lines = gateway_->LogLines(3);
  EXPECT_EQ(lines[0]["service"], "gateway");
  EXPECT_EQ(lines[0]["route"], "moved");
  EXPECT_EQ(gateway_->Metric("api_requests_total{service=\"gateway\",method=\"GET\",path=\"/moved\"}"), 1)
      << gateway_->Metrics();
}

TEST_F(AnsweredHere, RespondFillsInItsTemplatesAndHasNoBodyForHead) {
  ServeRoutes(
      "kind: Route\nname: hello\nmatch: { path: { template: \"/hello/{name}\" } }\n"
      "respond: { status: 404, body: \"${method} ${path.name} of ${host}\\n\", content_type: text/x-hello,\n"
      "  headers: { X-Route: \"${route}\", X-Gone: \"1\" } }\n"
      "response_headers: { remove: [X-Gone], set: { X-Path: \"${path}\" }, add: { X-More: \"2\" } }\n---\n"
      "kind: Route\nname: empty\nmatch: { path: { exact: /empty } }\nrespond: { status: 204 }\n---\n"
      "kind: Route\nname: typed\nmatch: { path: { exact: /typed } }\nrespond: { body: \"{}\" }\n"
      "response_headers: { set: { Content-Type: application/json } }\n");
  const Response answer = Get("/hello/ann", Hosted(""));
  EXPECT_EQ(answer.status, 404);
  EXPECT_EQ(answer.body, "GET ann of api.example.com\n");
  EXPECT_THAT(answer.AllFields("Content-Type"), ElementsAre("text/x-hello"));
  EXPECT_EQ(answer.Field("X-Route"), "hello");
  EXPECT_EQ(answer.Field("X-Gone"), std::nullopt);
  EXPECT_EQ(answer.Field("X-Path"), "/hello/ann");
  EXPECT_EQ(answer.Field("X-More"), "2");
  RawClient client(gateway_->port());
  ASSERT_TRUE(client.Send("HEAD /hello/ann HTTP/1.1\r\nHost: a\r\n\r\n").ok());
  const auto head = client.ReadResponse(kSoon, true);
  ASSERT_TRUE(head.ok());
  EXPECT_EQ(head->Field("Content-Length"), std::to_string(std::string("HEAD ann of a\n").size()));
  const auto empty = client.Request("GET", "/empty");
  ASSERT_TRUE(empty.ok()) << empty.status();
  EXPECT_EQ(empty->status, 204);
  EXPECT_EQ(empty->Field("Content-Length"), std::nullopt);
  EXPECT_EQ(empty->Field("Content-Type"), std::nullopt);
  EXPECT_THAT(Get("/typed").AllFields("Content-Type"), ElementsAre("application/json"));
}

TEST_F(AnsweredHere, LimitsAndAccessStandBeforeThem) {
  ServeRoutes(
      "kind: Route\nname: hello\nmatch: { path: { exact: /hello } }\nrespond: { body: hi }\nrate_limits: [one]\n---\n"
      "kind: RateLimit\nname: one\nlimit: { requests: 1, window: 1h }\n");
  EXPECT_EQ(Get("/hello").status, 200);
  EXPECT_EQ(Get("/hello").status, 429);
}

using Transforms = Edge;

TEST_F(Transforms, TheServiceSeesEditedFieldsAndQuery) {
  Serve(
      "request_headers:\n  remove: [x-debug, X-Forwarded-For]\n"
      "  set: { X-Env: prod, X-Forwarded-Proto: https, X-Who: \"${client_ip} ${request_id}\" }\n"
      "  add: { X-Seen: \"${path}\" }\n"
      "request_query:\n  remove: [\"de bug\"]\n  set: { user: \"${path}?&=\" }\n");
  const Response answer =
      Get("/svc/a%0Db?x=%2f&de%20bug=1&user=me&&de+bug=2&y", "X-DEBUG: 1\r\nx-env: test\r\nX-Seen: no\r\n");
  ASSERT_EQ(answer.status, 200);
  const auto seen = nlohmann::json::parse(answer.body);
  EXPECT_EQ(seen["target"], "/svc/a%0Db?x=%2f&&y&user=%2Fsvc%2Fa%250Db%3F%26%3D");
  std::multimap<std::string, std::string> fields;
  for (const auto& field : seen["fields"]) fields.emplace(field[0], field[1]);
  const auto all = [&](const std::string& name) {
    std::vector<std::string> values;
    for (auto [at, end] = fields.equal_range(name); at != end; ++at) values.push_back(at->second);
    return values;
  };
  EXPECT_THAT(all("X-DEBUG"), IsEmpty());
  EXPECT_THAT(all("x-env"), IsEmpty());
  EXPECT_THAT(all("X-Env"), ElementsAre("prod"));
  EXPECT_THAT(all("X-Seen"), ElementsAre("no", "/svc/a%0Db"));
  EXPECT_THAT(all("X-Forwarded-For"), IsEmpty());
  EXPECT_THAT(all("X-Forwarded-Proto"), ElementsAre("https"));
  EXPECT_THAT(all("X-Who"), ElementsAre(Concat("127.0.0.1 ", answer.Field("X-Request-Id").value_or(""))));

  EXPECT_EQ(nlohmann::json::parse(Get("/svc").body)["target"], "/svc?user=%2Fsvc%3F%26%3D");
}

TEST_F(Transforms, AQueryThatLosesAllItHasLosesItsMark) {
  Serve("request_query: { remove: [a] }");
  EXPECT_EQ(nlohmann::json::parse(Get("/svc?a=1&a").body)["target"], "/svc");
}

TEST_F(Transforms, TheClientSeesEditedAnswersButNotEditedRefusals) {
  upstream_.SetScript(fixtures::Respond([](const UpstreamRequest&) {
    return "HTTP/1.1 103 Early Hints\r\nServer: early\r\n\r\n" +
           MakeResponse(200, "x", "Server: secret/1.0\r\nX-Cache: a\r\nX-Keep: 1\r\n");
  }));
  Serve(
      "response_headers: { remove: [server], set: { x-cache: \"${method}\" }, add: { X-Keep: \"2\" } }\n"
      "rate_limits: [one]\n---\nkind: RateLimit\nname: one\nlimit: { requests: 1, window: 1h }");
  const Response answer = Get("/svc");
  ASSERT_EQ(answer.status, 200);
  ASSERT_EQ(answer.informational.size(), 1u);
  EXPECT_EQ(answer.informational[0].Field("Server"), "early");
  EXPECT_EQ(answer.Field("Server"), std::nullopt);
  EXPECT_THAT(answer.AllFields("X-Cache"), ElementsAre("GET"));
  EXPECT_THAT(answer.AllFields("X-Keep"), ElementsAre("1", "2"));
  const Response refused = Get("/svc");
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(refused.Field("X-Keep"), std::nullopt);
}

// 64 values of 4 KiB: far more than a header's initial buffer.
TEST_F(Transforms, LongValuesHaveRoom) {
  std::string edits = "request_headers:\n  set:\n";
  for (int i = 0; i < 20; ++i) Append(&edits, "    X-Long-", i, ": ", std::string(4000, 'v'), "\n");
  Serve(edits);
  const Response answer = Get("/svc");
  ASSERT_EQ(answer.status, 200);
  EXPECT_GT(answer.body.size(), 80'000u);
}

TEST_F(Transforms, RegexRewritesWholePathsAndNothingElse) {
  Serve("rewrite: { regex: { pattern: \"/svc(?:/v[0-9]+)?|x\", substitution: \"\" } }");
  const auto target = [&](std::string_view path) { return nlohmann::json::parse(Get(path).body).value("target", ""); };
  EXPECT_EQ(target("/svc/v2/a%20b?q=x"), "/a%20b?q=x") << "an escape does not prevent the rewrite";
  EXPECT_EQ(target("/svc"), "/");
  const int reached = upstream_.request_count();
  // A client cannot build dot segments out of the part that is removed.
  for (const char* path : {"/svc/.x./secret", "/svc/a/.x./secret", "/svc/x/a", "/svc/x./a"}) {
    const Response refused = Get(path);
    EXPECT_EQ(refused.status, 500) << path;
    EXPECT_EQ(ReasonOf(refused), "internal") << path;
  }
  EXPECT_EQ(upstream_.request_count(), reached);
}

// Users keep their side when weights change, on every data plane; anonymous requests are drawn each time.
TEST(StickySplit, UsersStayWhileWeightsMove) {
  ScriptedUpstream stable(Ok("stable"));
  ScriptedUpstream canary(Ok("canary"));
  const auto policy = [&](int percent) {
    return Concat(
        "kind: Service\nname: stable\nstatic: [{ address: \"", stable.address(),
        "\" }]\n---\nkind: Service\nname: canary\nstatic: [{ address: \"", canary.address(),
        "\" }]\n---\nkind: Route\nname: r\nmatch: { path: { prefix: /r } }\nsplit: [{ service: stable, weight: ",
        100 - percent, " }, { service: canary, weight: ", percent, " }]\nsplit_on: { cookie: sid }\n",
        "rate_limits: [none]\n");
  };
  constexpr int kUsers = 200;
  const auto sides = [&](int percent) {
    DataPlane gateway({.policy = policy(percent), .workers = 2});
    std::vector<std::string> result;
    RawClient client(gateway.port());
    for (int i = 0; i < kUsers; ++i) {
      const std::string cookie = Concat("Cookie: other=1; sid=user-", i, "\r\n");
      const auto first = client.Request("GET", "/r", cookie);
      const auto again = Fetch(gateway.port(), "GET", "/r", cookie);
      EXPECT_EQ(first.ok() ? first->body : "failed", again.ok() ? again->body : "failed too") << i;
      result.push_back(first.ok() ? first->body : "failed");
    }
    return result;
  };
  const std::vector<std::string> before = sides(30);
  const std::vector<std::string> after = sides(60);
  EXPECT_NEAR(std::count(before.begin(), before.end(), "canary"), kUsers * 30 / 100, 25);
  EXPECT_NEAR(std::count(after.begin(), after.end(), "canary"), kUsers * 60 / 100, 25);
  for (int i = 0; i < kUsers; ++i) {
    EXPECT_FALSE(before[static_cast<size_t>(i)] == "canary" && after[static_cast<size_t>(i)] == "stable") << i;
  }
}

}  // namespace
}  // namespace gateway::fixtures
