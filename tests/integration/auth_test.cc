// Authentication as clients, services, logs and operators see it.
#include <atomic>
#include <chrono>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "common/base/base64.h"
#include "common/base/digest.h"
#include "common/base/password.h"
#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/fixtures/token_signer.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string ReasonOf(const Response& response) {
  return nlohmann::json::parse(response.body, nullptr, false).value("reason", "");
}

std::string Sha(std::string_view key) { return Hex(Sha256(key)); }

std::string HashOf(std::string_view password, PasswordHash::Method method = PasswordHash::Method::kScrypt,
                   uint32_t log2_cost = 4) {
  PasswordHash parameters;
  parameters.method = method;
  parameters.log2_cost = log2_cost;
  parameters.parallelism = 1;
  parameters.memory_kib = 64;
  parameters.passes = 1;
  return *HashPassword(password, parameters);
}

std::string Basic(std::string_view user, std::string_view password) {
  return Concat("Authorization: Basic ", EncodeBase64(Base64::kStandard, Concat(user, ":", password)), "\r\n");
}
std::string Bearer(std::string_view token) { return Concat("Authorization: Bearer ", token, "\r\n"); }

// `text` as a YAML scalar.
std::string Quoted(const std::string& text) { return nlohmann::json(text).dump(); }

std::string Claims(std::string_view more = "", int seconds = 300) {
  const auto now =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch());
  return Concat(R"({"iss":"https://id.example.com","aud":"orders","sub":"u1","exp":)", now.count() + seconds, more,
                "}");
}

std::string JwtMethod(std::string_view jwks, std::string_view more = "") {
  return Concat("jwt: { issuer: \"https://id.example.com\", audiences: [orders], jwks: { ", jwks, " }", more, " }");
}

// A policy with a route /svc, which uses the Auth `partners`, and a route /open without Auth.
std::string Policy(const std::string& address, std::string_view methods, std::string_view auth_fields,
                   std::string_view consumers, std::string_view route_fields = "") {
  return Concat("kind: Service\nname: svc\nstatic: [{ address: \"", address,
                "\" }]\n---\nkind: Route\nname: svc\nmatch: { path: { prefix: /svc } }\nservice: svc\nauth: partners\n",
                route_fields,
                "\n---\nkind: Route\nname: open\nmatch: { path: { prefix: /open } }\nservice: svc\n---\n"
                "kind: Auth\nname: partners\nmethods:\n",
                methods, "\n", auth_fields, "\n---\n", consumers, "\n");
}

std::string Consumer(std::string_view name, std::string_view credentials, std::string_view groups = "") {
  return Concat("kind: Consumer\nname: ", name, "\ngroups: [", groups, "]\ncredentials: [", credentials, "]\n---\n");
}

std::string KeyCredential(std::string_view key) { return Concat("{ api_key_sha256: \"", Sha(key), "\" }"); }

nlohmann::json EchoOf(const absl::StatusOr<Response>& response) {
  EXPECT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->status, 200) << response->body;
  return nlohmann::json::parse(response->body, nullptr, false);
}
// All values of a field that the service received, joined by "|".
std::string FieldOf(const nlohmann::json& echo, std::string_view name) {
  std::string values;
  for (const auto& field : echo["fields"]) {
    if (field[0].get<std::string>() == name) Append(&values, values.empty() ? "" : "|", field[1].get<std::string>());
  }
  return values;
}

TEST(Auth, AnApiKeyNamesItsConsumer) {
  ScriptedUpstream upstream(Echo());
  DataPlane gateway(
      {.policy =
           Policy(upstream.address(), "  - api_key: {}", "forward: { consumer: X-Consumer, groups: X-Groups }",
                  Consumer("acme", KeyCredential("k-1"), "gold, partners") + Consumer("other", KeyCredential("k-2"))),
       .workers = 1});
  const auto none = Fetch(gateway.port(), "GET", "/svc");
  ASSERT_TRUE(none.ok());
  EXPECT_EQ(none->status, 401);
  EXPECT_EQ(ReasonOf(*none), "unauthenticated");
  EXPECT_EQ(none->Field("WWW-Authenticate"), R"(ApiKey realm="gateway", header="X-API-Key")");
  for (const char* wrong : {"k-3", "K-1", "k-1k-1", ""}) {
    EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", Concat("X-API-Key: ", wrong, "\r\n"))->status, 401) << wrong;
  }
  // With two keys it would be ambiguous which one counts.
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", "X-API-Key: k-1\r\nX-API-Key: k-2\r\n")->status, 401);
  EXPECT_EQ(upstream.request_count(), 0);

  const auto echo = EchoOf(Fetch(gateway.port(), "GET", "/svc", "X-API-Key: k-1\r\nX_Api_Key: k-1\r\n"));
  EXPECT_EQ(FieldOf(echo, "X-Consumer"), "acme");
  EXPECT_EQ(FieldOf(echo, "X-Groups"), "gold,partners");
  EXPECT_EQ(FieldOf(echo, "X-API-Key"), "");  // not forwarded
  EXPECT_EQ(FieldOf(echo, "X_Api_Key"), "");
  EXPECT_EQ(gateway.Metric(R"(gateway_auth_total{auth="partners",result="allowed"})"), 1);
  EXPECT_EQ(gateway.Metric(R"(gateway_auth_total{auth="partners",result="unauthenticated"})"), 6);
  const auto lines = gateway.LogLines(7);
  EXPECT_EQ(lines[0]["consumer"], "");
  EXPECT_EQ(lines[0]["policy"], "Auth/partners");
  EXPECT_EQ(lines.back()["consumer"], "acme");
  EXPECT_THAT(gateway.process().output(), Not(HasSubstr("k-1")));
}

// A client cannot set the identity fields itself: on no route, in no spelling, and no condition or limit sees them.
TEST(Auth, AClientsOwnIdentityIsRemovedEverywhere) {
  ScriptedUpstream upstream(Echo());
  DataPlane gateway(
      {.policy =
           Policy(upstream.address(), "  - api_key: {}",
                  "forward: { consumer: X-Consumer, groups: X_Who, claims: { X-Sub: sub } }",
                  Consumer("acme", KeyCredential("k-1"))) +
           Concat("---\nkind: Route\nname: told\npriority: 5\nmatch: { path: { prefix: /open }, headers: [{ name: "
                  "X-Consumer, exact: acme }] }\nrespond: { status: 418, body: told }\n")});
  const std::string lies =
      "X-Consumer: root\r\nx-consumer: acme\r\nX_Consumer: root\r\nX-CONSUMER-Groups: root\r\nX-Consumer_Id: root\r\n"
      "X-Who: root\r\nx_who: root\r\nX-Sub: root\r\nX-SUB: root\r\nX_Sub: root\r\nX-Subject: kept\r\nConnection: "
      "X-Consumer\r\n";
  for (const char* path : {"/open", "/svc"}) {
    const auto response = Fetch(gateway.port(), "GET", path, lies + "X-API-Key: k-1\r\n");
    ASSERT_TRUE(response.ok());
    EXPECT_EQ(response->status, 200) << response->body;
    EXPECT_THAT(response->body, Not(HasSubstr("root"))) << path;
    const auto echo = nlohmann::json::parse(response->body);
    EXPECT_EQ(FieldOf(echo, "X-Consumer"), path == std::string("/svc") ? "acme" : "") << path;
    EXPECT_EQ(FieldOf(echo, "X-Subject"), "kept");
  }
}

TEST(Auth, AllowIsByGroupOrConsumer) {
  ScriptedUpstream upstream(Ok("x"));
  DataPlane gateway(
      {.policy =
           Policy(upstream.address(), "  - api_key: { header: X-Key }", "allow: { groups: [gold], consumers: [named] }",
                  Consumer("member", KeyCredential("k-1"), "silver, gold") + Consumer("named", KeyCredential("k-2")) +
                      Consumer("other", KeyCredential("k-3"), "silver")),
       .workers = 1});
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", "X-Key: k-1\r\n")->status, 200);
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", "X-Key: k-2\r\n")->status, 200);
  const auto refused = Fetch(gateway.port(), "GET", "/svc", "X-Key: k-3\r\n");
  EXPECT_EQ(refused->status, 403);
  EXPECT_EQ(ReasonOf(*refused), "forbidden");
  EXPECT_EQ(gateway.Metric(R"(gateway_auth_total{auth="partners",result="forbidden"})"), 1);
  EXPECT_EQ(gateway.LogLines(3).back()["consumer"], "other");
}

TEST(Auth, ATokenIsVerifiedAndItsClaimsAreForwarded) {
  ScriptedUpstream upstream(Echo());
  const TokenSigner es(JwsAlgorithm::kEs256, "es");
  const TokenSigner ps(JwsAlgorithm::kPs256, "ps");
  const TokenSigner stranger(JwsAlgorithm::kEs256, "es");
  DataPlane gateway(
      {.policy = Policy(upstream.address(),
                        "  - " + JwtMethod(Concat("inline: ", Quoted(JwksOf({es.PublicJwk(), ps.PublicJwk()}))),
                                           ", require: { scope: \"orders:read\" }"),
                        "forward: { consumer: X-Consumer, groups: X-Groups, claims: { X-Email: email } }",
                        Consumer("acme", "{ jwt: { issuer: \"https://id.example.com\", subject: u1 } }", "gold"))});
  const std::string scope = R"(,"scope":"orders:read orders:write","email":"a@b.c","groups":["staff","a,b"])";
  const std::string good = es.Sign(Claims(scope));
  for (const std::string& token : {good, good, ps.Sign(Claims(scope))}) {  // the second time from the cache
    const auto echo = EchoOf(Fetch(gateway.port(), "GET", "/svc", Bearer(token)));
    EXPECT_EQ(FieldOf(echo, "X-Consumer"), "acme");
    EXPECT_EQ(FieldOf(echo, "X-Groups"), "gold,staff");
    EXPECT_EQ(FieldOf(echo, "X-Email"), "a@b.c");
    EXPECT_EQ(FieldOf(echo, "Authorization"), "Bearer " + token);  // forwarded
  }
  const auto expired = Fetch(gateway.port(), "GET", "/svc", Bearer(es.Sign(Claims(scope, -61))));
  EXPECT_EQ(expired->status, 401);
  EXPECT_EQ(expired->Field("WWW-Authenticate"),
            R"(Bearer realm="gateway", error="invalid_token", error_description="the token has expired")");
  const auto poor = Fetch(gateway.port(), "GET", "/svc", Bearer(es.Sign(Claims(R"(,"scope":"orders:write")"))));
  EXPECT_EQ(poor->status, 403);
  EXPECT_THAT(poor->Field("WWW-Authenticate").value_or(""), HasSubstr("insufficient_scope"));
  const std::string claims = Claims(scope);
  const std::string none =
      Concat(EncodeBase64(Base64::kUrl, R"({"alg":"none","kid":"es"})"), ".", EncodeBase64(Base64::kUrl, claims), ".");
  const std::string hmac =
      Concat(EncodeBase64(Base64::kUrl, R"({"alg":"HS256","kid":"es"})"), ".", EncodeBase64(Base64::kUrl, claims), ".",
             EncodeBase64(Base64::kUrl, std::string(32, 'x')));
  std::string changed = good;
  changed[changed.find('.') + 3] ^= 1;
  for (const std::string& bad :
       {none, hmac, changed, stranger.Sign(claims), good + "A", std::string("x"), std::string("a.b.c")}) {
    EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", Bearer(bad))->status, 401) << bad;
  }
  // A line break in a claim never gets into a header; an unknown subject is forwarded as it is.
  const auto echo = EchoOf(Fetch(gateway.port(), "GET", "/svc",
                                 Bearer(es.Sign(Claims(R"(,"scope":"orders:read","email":"a\r\nX-Evil: 1")")))));
  EXPECT_EQ(FieldOf(echo, "X-Evil"), "");
  EXPECT_EQ(FieldOf(echo, "X-Email"), "");
  EXPECT_THAT(gateway.process().output(), Not(HasSubstr(good)));
}

// A token whose subject equals a consumer's name does not become that consumer.
TEST(Auth, NoTokenTakesAConsumersName) {
  ScriptedUpstream upstream(Echo());
  const TokenSigner signer(JwsAlgorithm::kEdDsa);
  DataPlane gateway({.policy = Policy(upstream.address(), "  - " + JwtMethod("inline: " + Quoted(signer.Jwks())),
                                      "forward: { consumer: X-Consumer }", Consumer("u1", KeyCredential("k-1")))});
  EXPECT_EQ(FieldOf(EchoOf(Fetch(gateway.port(), "GET", "/svc", Bearer(signer.Sign(Claims())))), "X-Consumer"), "");
  std::string claims = Claims();
  claims.replace(claims.find("u1"), 2, "u2");
  EXPECT_EQ(FieldOf(EchoOf(Fetch(gateway.port(), "GET", "/svc", Bearer(signer.Sign(claims)))), "X-Consumer"), "u2");
}

TEST(Auth, ATokenEndsWhileItIsCached) {
  ScriptedUpstream upstream(Ok("x"));
  const TokenSigner signer(JwsAlgorithm::kEdDsa);
  DataPlane gateway({.policy = Policy(upstream.address(),
                                      "  - " + JwtMethod("inline: " + Quoted(signer.Jwks()), ", leeway: 0s"), "", ""),
                     .workers = 1});
  const std::string token = signer.Sign(Claims("", 2));
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", Bearer(token))->status, 200);
  EXPECT_TRUE(WaitFor([&] { return Fetch(gateway.port(), "GET", "/svc", Bearer(token))->status == 401; }));
}

// An issuer that rotates its keys, one that is down, and a flood of unknown key IDs: one fetch.
TEST(Auth, KeysAreFetchedRotatedAndKept) {
  ScriptedUpstream upstream(Ok("x"));
  const TokenSigner old_key(JwsAlgorithm::kEdDsa, "old");
  const TokenSigner new_key(JwsAlgorithm::kEdDsa, "new");
  std::atomic<int> state{0};  // 0: the old key, 1: the new one, 2: down
  ScriptedUpstream issuer(Respond([&](const UpstreamRequest&) {
    if (state == 2) return MakeResponse(503, "down");
    return MakeResponse(200, (state == 0 ? old_key : new_key).Jwks());
  }));
  DataPlane gateway(
      {.policy =
           Policy(upstream.address(),
                  "  - " + JwtMethod(Concat("url: \"http://", issuer.address(), "/keys\", refresh: 1s")), "", "")});
  const std::string old_token = old_key.Sign(Claims());
  const std::string new_token = new_key.Sign(Claims());
  const auto status = [&](const std::string& token) {
    return Fetch(gateway.port(), "GET", "/svc", Bearer(token))->status;
  };
  // The first request waits for the keys if they are not there yet.
  EXPECT_EQ(status(old_token), 200);
  // An unknown key ID does not cause a fetch for each request.
  const int before = issuer.request_count();
  for (int i = 0; i < 50; ++i) EXPECT_EQ(status(new_token), 401);
  EXPECT_LE(issuer.request_count(), before + 10);  // one per interval
  state = 1;
  EXPECT_TRUE(WaitFor([&] { return status(new_token) == 200; }));
  EXPECT_EQ(status(old_token), 401);  // though it was cached
  state = 2;
  const int good = issuer.request_count();
  EXPECT_TRUE(issuer.WaitForRequests(good + 2));
  EXPECT_EQ(status(new_token), 200);
  EXPECT_EQ(status(new_key.Sign(Claims(R"(,"x":1)"))), 200);
  EXPECT_GE(gateway.Metric(
                Concat("gateway_jwks_fetches_total{url=\"http://", issuer.address(), "/keys\",result=\"failure\"}")),
            1);
}

// One of two issuers hangs. Tokens of the other one do not wait, known or not, and neither does a token with a key
// that it has just published.
TEST(Auth, AHangingIssuerDelaysNoOther) {
  ScriptedUpstream upstream(Ok("x"));
  const TokenSigner signer(JwsAlgorithm::kEdDsa, "a");
  const TokenSigner next(JwsAlgorithm::kEdDsa, "b");
  std::atomic<bool> rotated{false};
  ScriptedUpstream issuer(
      Respond([&](const UpstreamRequest&) { return MakeResponse(200, (rotated ? next : signer).Jwks()); }));
  ScriptedUpstream hanging([](UpstreamConnection& connection) { connection.StaySilent(); });
  for (const char* pinned : {"issuer: \"https://other.example.com\", ", ""}) {
    rotated = false;
    DataPlane gateway(
        {.policy = Policy(upstream.address(),
                          Concat("  - jwt: { ", pinned, "jwks: { url: \"http://", hanging.address(),
                                 "/keys\" } }\n  - ", JwtMethod(Concat("url: \"http://", issuer.address(), "/keys\""))),
                          "", ""),
         .workers = 1});
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", Bearer(signer.Sign(Claims(Concat(R"(,"x":)", i)))))->status, 200);
    }
    const std::string token = signer.Sign(Claims());
    for (int i = 0; i < 3; ++i) EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", Bearer(token))->status, 200);
    rotated = true;
    EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", Bearer(next.Sign(Claims())))->status, 200);
    // A fetch that hangs is abandoned after 5 s.
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(4)) << pinned;
  }
}

TEST(Auth, AnIssuerThatWasNeverReachedLetsNobodyIn) {
  ScriptedUpstream upstream(Ok("x"));
  const TokenSigner signer(JwsAlgorithm::kEdDsa);
  ScriptedUpstream issuer(Respond([](const UpstreamRequest&) { return MakeResponse(500, "x"); }));
  DataPlane gateway({.policy = Policy(upstream.address(),
                                      "  - " + JwtMethod(Concat("url: \"http://", issuer.address(), "/\"")), "", ""),
                     .sets = {"server.error_details=true"}});
  EXPECT_TRUE(issuer.WaitForRequests(1));
  const auto response = Fetch(gateway.port(), "GET", "/svc", Bearer(signer.Sign(Claims())));
  EXPECT_EQ(response->status, 401);
  EXPECT_THAT(response->body, HasSubstr("keys could not be fetched"));
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/open")->status, 200);
}

TEST(Auth, BasicIsCheckedOffTheWorkers) {
  ScriptedUpstream upstream(Echo());
  const std::string scrypt = HashOf("open:sesame");
  DataPlane gateway(
      {.policy = Policy(upstream.address(), "  - basic: { realm: \"The gate\" }", "forward: { consumer: X-Consumer }",
                        Consumer("acme", Concat("{ basic: { username: ali, password_hash: \"", scrypt, "\" } }")) +
                            Consumer("two", Concat("{ basic: { username: baba, password_hash: \"",
                                                   HashOf("argon", PasswordHash::Method::kArgon2id), "\" } }")))});
  const auto none = Fetch(gateway.port(), "GET", "/svc");
  EXPECT_EQ(none->status, 401);
  EXPECT_EQ(none->Field("WWW-Authenticate"), R"(Basic realm="The gate", charset="UTF-8")");
  for (int i = 0; i < 3; ++i) {
    const auto echo = EchoOf(Fetch(gateway.port(), "GET", "/svc", Basic("ali", "open:sesame")));
    EXPECT_EQ(FieldOf(echo, "X-Consumer"), "acme");
    EXPECT_EQ(FieldOf(echo, "Authorization"), "");
  }
  EXPECT_EQ(gateway.Metric(R"(gateway_password_checks_total{result="checked"})"), 1);
  EXPECT_EQ(gateway.Metric(R"(gateway_password_checks_total{result="remembered"})"), 2);
  EXPECT_EQ(FieldOf(EchoOf(Fetch(gateway.port(), "GET", "/svc", Basic("baba", "argon"))), "X-Consumer"), "two");
  for (const auto& [user, password] : std::vector<std::pair<std::string, std::string>>{
           {"ali", "argon"}, {"ali", ""}, {"nobody", "open:sesame"}, {"", ""}, {"baba", "open:sesame"}}) {
    EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", Basic(user, password))->status, 401) << user;
  }
  for (const char* value : {"Basic", "Basic !!!", "Basic YWxp", "Digest x", "Bearer x"}) {
    EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", Concat("Authorization: ", value, "\r\n"))->status, 401) << value;
  }
  // Unknown users cost as much as known ones: each of the five was checked.
  EXPECT_EQ(gateway.Metric(R"(gateway_password_checks_total{result="checked"})"), 7);
  EXPECT_THAT(gateway.process().output(), Not(HasSubstr("sesame")));
  // On a route without basic, Authorization belongs to the service.
  EXPECT_NE(FieldOf(EchoOf(Fetch(gateway.port(), "GET", "/open", Basic("ali", "x"))), "Authorization"), "");
}

// One client sends more passwords than its share of the queue holds: the rest is rejected at once. Meanwhile other
// requests continue, other clients' passwords are checked, and passwords verified before stay valid. After too many
// wrong ones, that client's passwords are not checked for a while.
TEST(Auth, AFloodOfPasswordsIsBounded) {
  ScriptedUpstream upstream(Ok("x"));
  DataPlane gateway(
      {.policy = Policy(
           upstream.address(), "  - basic: {}\n  - api_key: {}", "",
           Consumer("acme", Concat("{ basic: { username: ali, password_hash: \"",
                                   HashOf("x", PasswordHash::Method::kScrypt, 15), "\" } }, ", KeyCredential("k-1"))) +
               Consumer("two", Concat("{ basic: { username: baba, password_hash: \"",
                                      HashOf("y", PasswordHash::Method::kScrypt, 15), "\" } }"))),
       .workers = 1,
       .sets = {"server.trusted_proxies=127.0.0.0/8"}});
  const auto from = [](int client) { return Concat("X-Forwarded-For: 192.0.2.", client, "\r\n"); };
  const auto guess = [&](int i) {
    return Concat("GET /svc HTTP/1.1\r\nHost: a\r\n", from(1), Basic(Concat("made-up-", i), "guess"), "\r\n");
  };
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", Concat(from(2), Basic("ali", "x")))->status, 200);
  std::vector<RawClient> guesses;
  for (int i = 0; i < 90; ++i) {
    guesses.emplace_back(gateway.port());
    ASSERT_TRUE(guesses.back().Send(guess(i)).ok());
  }
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", Concat(from(1), "X-API-Key: k-1\r\n"))->status, 200);
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", Concat(from(2), Basic("ali", "x")))->status, 200) << "remembered";
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", Concat(from(3), Basic("baba", "y")))->status, 200) << "new";
  int unauthenticated = 0;
  int overloaded = 0;
  int throttled = 0;
  for (RawClient& each : guesses) {
    const auto response = each.ReadResponse(std::chrono::seconds(60));
    ASSERT_TRUE(response.ok()) << response.status();
    unauthenticated += response->status == 401;
    overloaded += response->status == 503 && ReasonOf(*response) == "overloaded";
    throttled += response->status == 429;
  }
  EXPECT_EQ(unauthenticated + overloaded + throttled, 90);
  EXPECT_GE(unauthenticated, 8) << "its share of the queue";
  EXPECT_LE(unauthenticated, 50) << "30 failures, and the checks in flight then";

  for (int i = 100; i < 130; ++i) {
    const auto response = Fetch(gateway.port(), "GET", "/svc", Concat(from(1), Basic("ali", Concat("guess", i))));
    if (response->status == 401) continue;
    EXPECT_EQ(response->status, 429);
    EXPECT_EQ(ReasonOf(*response), "rate_limited");
    EXPECT_NE(response->Field("Retry-After"), std::nullopt);
    EXPECT_EQ(response->Field("RateLimit-Limit"), std::nullopt);
  }
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", Concat(from(1), Basic("baba", "z")))->status, 429);
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", Concat(from(4), Basic("baba", "y")))->status, 200);
  EXPECT_GE(gateway.Metric(R"(gateway_password_checks_total{result="throttled"})"), 1);
}

TEST(Auth, AnyMethodThatLetsInDoes) {
  ScriptedUpstream upstream(Echo());
  const TokenSigner signer(JwsAlgorithm::kEdDsa);
  DataPlane gateway(
      {.policy =
           Policy(upstream.address(),
                  Concat("  - basic: {}\n  - ", JwtMethod("inline: " + Quoted(signer.Jwks())), "\n  - api_key: {}"),
                  "allow: { groups: [gold] }\nforward: { consumer: X-Consumer, credentials: keep }",
                  Consumer("acme", KeyCredential("k-1"), "gold") + Consumer("poor", KeyCredential("k-2")) +
                      Consumer("rich", Concat("{ basic: { username: ali, password_hash: \"", HashOf("x"), "\" } }"),
                               "gold"))});
  const auto none = Fetch(gateway.port(), "GET", "/svc");
  EXPECT_EQ(none->status, 401);
  int challenges = 0;
  for (const auto& [name, value] : none->fields) challenges += name == "WWW-Authenticate";
  EXPECT_EQ(challenges, 3);
  // A key whose consumer is not allowed, with a password whose consumer is.
  const auto echo = EchoOf(Fetch(gateway.port(), "GET", "/svc", Concat("X-API-Key: k-2\r\n", Basic("ali", "x"))));
  EXPECT_EQ(FieldOf(echo, "X-Consumer"), "rich");
  EXPECT_EQ(FieldOf(echo, "X-API-Key"), "k-2");  // credentials: keep
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", Concat("X-API-Key: k-2\r\n", Basic("ali", "y")))->status, 403);
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", Concat("X-API-Key: k-1\r\n", Bearer("junk")))->status, 200);
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", Bearer(signer.Sign(Claims(R"(,"groups":["gold"])"))))->status, 200);
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", Bearer(signer.Sign(Claims())))->status, 403);
}

// Limits by client address come before authentication, limits by consumer after it: a flood without credentials costs
// no hash.
TEST(Auth, StandsBetweenTheLimits) {
  ScriptedUpstream upstream(Ok("x"));
  DataPlane gateway(
      {.policy = Policy(upstream.address(), "  - api_key: {}", "",
                        Consumer("acme", KeyCredential("k-1")) + Consumer("other", KeyCredential("k-2")),
                        "rate_limits: [consumer, address]") +
                 "---\nkind: RateLimit\nname: address\nkey: [client_ip]\nlimit: { requests: 8, window: 1h }\n"
                 "---\nkind: RateLimit\nname: consumer\nkey: [consumer]\nlimit: { requests: 2, window: 1h }\n"});
  const auto status = [&](std::string_view key) {
    return Fetch(gateway.port(), "GET", "/svc", Concat("X-API-Key: ", key, "\r\n"))->status;
  };
  EXPECT_EQ(status("k-1"), 200);
  EXPECT_EQ(status("k-1"), 200);
  EXPECT_EQ(status("k-1"), 429);
  EXPECT_EQ(status("k-2"), 200);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(status("wrong"), 401);
  EXPECT_EQ(status("wrong"), 429);
  EXPECT_EQ(status("k-2"), 429);
}

TEST(Auth, SecretsStayWhereTheyAre) {
  ScriptedUpstream upstream(Echo());
  ControlPlane control;
  const std::string phc = HashOf("x");
  const std::string digest = Sha("k-1");
  const std::string policy = Policy(
      upstream.address(), "  - api_key: {}\n  - basic: {}", "forward: { consumer: X-Consumer }",
      Consumer("acme", Concat(KeyCredential("k-1"), ", { basic: { username: ali, password_hash: \"", phc, "\" } }")));
  control.Apply(policy);
  DataPlane gateway({.control_planes = {control.stream_port()}});
  ASSERT_EQ(Fetch(gateway.port(), "GET", "/svc", "X-API-Key: k-1\r\n")->status, 200);

  std::string exported;
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{"get", "consumer", "acme", "-o", "yaml"},
                                             {"get", "consumers", "-o", "json"},
                                             {"describe", "consumer", "acme"},
                                             {"describe", "consumer", "acme", "-o", "json"},
                                             {"history", "consumer", "acme", "-o", "json"},
                                             {"show", "2"},
                                             {"show", "2", "-o", "yaml"},
                                             {"show", "2", "-o", "json"},
                                             {"export"}}) {
    const auto result = control.Ctl(arguments);
    EXPECT_EQ(result.exit.code, 0) << result.err;
    EXPECT_THAT(result.out, Not(HasSubstr(digest))) << arguments[0];
    EXPECT_THAT(result.out, Not(HasSubstr(phc.substr(phc.rfind('$'))))) << arguments[0];
    if (arguments[0] == "export" || arguments[0] == "get") {
      EXPECT_THAT(result.out, HasSubstr("redacted:")) << arguments[0];
    }
    exported = result.out;
  }
  // With secrets, another control plane accepts the export unchanged.
  TempDir directory;
  const std::string file = directory.File("policy.yaml");
  const auto with_secrets = control.Ctl({"export", "--with-secrets", "--output-file", file});
  ASSERT_EQ(with_secrets.exit.code, 0) << with_secrets.err;
  EXPECT_EQ(std::filesystem::status(file).permissions() & std::filesystem::perms::all,
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  EXPECT_THAT(directory.Read("policy.yaml"), HasSubstr(digest));
  {
    ControlPlane another;
    EXPECT_NE(another.Ctl({"apply", "-f", "-"}, exported).exit.code, 0) << "a redacted secret is not a secret";
    const auto restored = another.Ctl({"apply", "-f", file});
    EXPECT_EQ(restored.exit.code, 0) << restored.err;
    DataPlane restored_gateway({.control_planes = {another.stream_port()}});
    EXPECT_EQ(Fetch(restored_gateway.port(), "GET", "/svc", "X-API-Key: k-1\r\n")->status, 200);
  }
  // Applied again, it is unchanged: in a dry run, in diff, and when applied.
  EXPECT_EQ(control.Ctl({"diff", "-f", "-", "--exit-code"}, exported).exit.code, 0);
  EXPECT_THAT(control.Ctl({"diff", "-f", "-"}, policy).out, Not(HasSubstr(digest)));
  auto applied = control.Ctl({"apply", "-f", "-", "-o", "name"}, exported);
  EXPECT_EQ(applied.exit.code, 0) << applied.err;
  EXPECT_EQ(applied.out, "");
  // The secret stays when another field changes.
  std::string changed = control.Ctl({"get", "consumer", "acme", "-o", "yaml"}).out;
  changed += "description: changed\n";
  applied = control.Ctl({"apply", "-f", "-", "--wait"}, changed);
  EXPECT_EQ(applied.exit.code, 0) << applied.err;
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", "X-API-Key: k-1\r\n")->status, 200);
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", Basic("ali", "x"))->status, 200);
  // Under another name or with another fingerprint there is no secret to keep.
  std::string renamed = changed;
  renamed.replace(renamed.find("name: acme"), 10, "name: copy");
  applied = control.Ctl({"apply", "-f", "-"}, renamed);
  EXPECT_EQ(applied.exit.code, 3);
  EXPECT_THAT(applied.err, HasSubstr("is redacted, but there is no such resource"));
  EXPECT_THAT(applied.err, HasSubstr("credentials[0].api_key_sha256"));
  std::string other = changed;
  other.replace(other.find("redacted:") + 9, 4, "0000");
  applied = control.Ctl({"apply", "-f", "-"}, other);
  EXPECT_EQ(applied.exit.code, 3);
  EXPECT_THAT(applied.err, HasSubstr("not one of the secrets"));
  // A key of two consumers: the error names both.
  applied = control.Ctl({"apply", "-f", "-"}, Consumer("twin", KeyCredential("k-1")));
  EXPECT_EQ(applied.exit.code, 3);
  EXPECT_THAT(applied.err, HasSubstr("twin"));
  EXPECT_THAT(applied.err, HasSubstr("Consumer/acme"));
  EXPECT_THAT(applied.err, Not(HasSubstr(digest)));
  EXPECT_THAT(control.process().output(), Not(HasSubstr(digest)));
  // A rollback restores the secret.
  EXPECT_EQ(control.Ctl({"delete", "consumer", "acme", "--wait"}).exit.code, 0);
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", "X-API-Key: k-1\r\n")->status, 401);
  EXPECT_EQ(control.Ctl({"rollback", "2", "--wait"}).exit.code, 0);
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", "X-API-Key: k-1\r\n")->status, 200);
}

TEST(Auth, GatewayctlHashesAndReadsKeyFiles) {
  ScriptedUpstream upstream(Ok("x"));
  ControlPlane control;
  const auto hashed = control.Ctl({"hash", "api-key"}, "k-1\n");
  EXPECT_EQ(hashed.exit.code, 0) << hashed.err;
  EXPECT_EQ(hashed.out, Sha("k-1") + "\n");
  for (const char* method : {"scrypt", "argon2id"}) {
    const auto phc = control.Ctl({"hash", "password", "--method", method}, "pa ss\n");
    ASSERT_EQ(phc.exit.code, 0) << phc.err;
    const auto hash = PasswordHash::Parse(phc.out.substr(0, phc.out.size() - 1));
    ASSERT_TRUE(hash.ok()) << hash.status();
    EXPECT_TRUE(*VerifyPassword(*hash, "pa ss"));
  }
  EXPECT_EQ(control.Ctl({"hash", "password"}, "").exit.code, 2);
  EXPECT_EQ(control.Ctl({"hash", "api-key"}, "a\nb").exit.code, 2);

  const TokenSigner signer(JwsAlgorithm::kEs384);
  const TempDir directory;
  directory.Write("keys.json", signer.Jwks());
  const std::string policy = Policy(upstream.address(), "  - " + JwtMethod("file: keys.json"), "", "");
  const std::string file = directory.Write("policy.yaml", policy);
  const auto applied = control.Ctl({"apply", "-f", file});
  ASSERT_EQ(applied.exit.code, 0) << applied.err;
  DataPlane gateway({.control_planes = {control.stream_port()}});
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc", Bearer(signer.Sign(Claims())))->status, 200);
  // An error in the file is reported at the line that names the file.
  directory.Write("keys.json", R"({"keys":[{"kty":"oct","k":"c2VjcmV0"}]})");
  auto refused = control.Ctl({"apply", "-f", file});
  EXPECT_EQ(refused.exit.code, 3);
  EXPECT_THAT(refused.err, HasSubstr("symmetric"));
  EXPECT_THAT(refused.err, HasSubstr("jwks.file"));
  EXPECT_THAT(refused.err, Not(HasSubstr("c2VjcmV0")));
  std::filesystem::remove(directory.File("keys.json"));
  refused = control.Ctl({"apply", "-f", file});
  EXPECT_EQ(refused.exit.code, 3);
  EXPECT_THAT(refused.err, HasSubstr("No such file"));
}

}  // namespace
}  // namespace gateway::fixtures
