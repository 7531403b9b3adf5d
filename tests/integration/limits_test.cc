// Rate limits as clients see them: several on a route, header values to the second, keys, shadow mode, and a real
// Redis that several data planes share and that fails.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/redis_server.h"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

using namespace std::chrono_literals;

// A RateLimit document, to append to others.
std::string LimitYaml(const std::string& name, const std::string& fields) {
  return Concat("---\nkind: RateLimit\nname: ", name, "\n", fields, "\n");
}
std::string PolicyYaml(const ScriptedUpstream& upstream, const std::string& names, const std::string& limits) {
  return ServicePolicyYaml({upstream.address()}, "", Concat("rate_limits: [", names, "]\n", limits));
}

int Number(const Response& response, const std::string& field) {
  return std::stoi(response.Field(field).value_or("-1"));
}
int StatusOf(const DataPlane& gateway, const std::string& target, const std::string& fields = "") {
  const auto response = Fetch(gateway.port(), "GET", target, fields);
  return response.ok() ? response->status : -1;
}

TEST(Limits, ARefusedRequestCountsInNoneOfSeveral) {
  ScriptedUpstream upstream(Ok("x"));
  DataPlane gateway({.policy = PolicyYaml(upstream, "wide, narrow, whole",
                                          LimitYaml("wide", "key: [client_ip]\nlimit: { requests: 40, window: 1h }") +
                                              LimitYaml("narrow",
                                                        "key: [path]\nlimit: { requests: 10, window: 1h }\n"
                                                        "algorithm: token_bucket") +
                                              LimitYaml("whole", "limit: { requests: 1000, window: 1h }")),
                     .workers = 4});
  std::atomic<int> allowed{0}, refused{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < 6; ++i) {
    clients.emplace_back([&] {
      for (int n = 0; n < 30; ++n) {
        const int status = StatusOf(gateway, "/svc/a");
        if (status == 200) ++allowed;
        if (status == 429) ++refused;
      }
    });
  }
  for (auto& each : clients) each.join();
  EXPECT_EQ(allowed, 10);
  EXPECT_EQ(refused, 170);
  // So the wide limit has 30 left, the global one 990.
  for (int i = 0; i < 3; ++i) {
    for (int n = 0; n < 10; ++n) EXPECT_EQ(StatusOf(gateway, Concat("/svc/b", i)), 200);
  }
  EXPECT_EQ(StatusOf(gateway, "/svc/c"), 429);
  EXPECT_EQ(gateway.Metric("gateway_rate_limit_requests_total{limit=\"wide\",result=\"allowed\"}"), 40);
  EXPECT_EQ(gateway.Metric("gateway_rate_limit_requests_total{limit=\"wide\",result=\"refused\"}"), 1);
  EXPECT_EQ(gateway.Metric("gateway_rate_limit_requests_total{limit=\"narrow\",result=\"refused\"}"), 170);
  EXPECT_EQ(gateway.Metric("gateway_rate_limit_requests_total{limit=\"whole\",result=\"allowed\"}"), 40);
}

// One client uses more made-up paths than a limit has places, while a thousand others send their first request.
TEST(Limits, AFloodOfMadeUpKeysAffectsNoOtherClient) {
  DataPlane gateway(
      {.policy = Concat("kind: Route\nname: r\nmatch: { path: { prefix: / } }\n"
                        "respond: { status: 200, body: x }\nrate_limits: [by-path]\n",
                        LimitYaml("by-path", "key: [client_ip, path]\nlimit: { requests: 20, window: 1h }")),
       .sets = {"server.trusted_proxies=127.0.0.0/8"}});
  constexpr int kKeys = 104'000, kBatch = 200, kBystanders = 1000;
  std::atomic<int> flooded{0}, allowed{0};
  std::atomic<bool> ended{false};
  std::thread flood([&] {
    RawClient client(gateway.port());
    bool answered = true;
    while (answered && flooded < kKeys) {
      std::string batch;
      for (int i = 0; i < kBatch; ++i) {
        Append(&batch, "GET /", flooded + i, " HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n");
      }
      answered = client.Send(batch).ok();
      for (int i = 0; answered && i < kBatch; ++i) {
        const auto response = client.ReadResponse(60s);
        answered = response.ok();
        if (answered && response->status == 200) ++allowed;
      }
      if (answered) flooded += kBatch;
    }
    ended = true;
  });
  RawClient client(gateway.port());
  int refused = 0;
  for (int i = 0; i < kBystanders; ++i) {
    // Spread over the flood; the last ones after it.
    while (!ended && flooded < kKeys / kBystanders * i) std::this_thread::sleep_for(200us);
    const std::string address = i % 2 == 0 ? Concat("198.51.", i / 250, ".", i % 250) : Concat("2001:db8:", i, "::1");
    const auto response = client.Request("GET", "/bystander", Concat("X-Forwarded-For: ", address, "\r\n"), "", 60s);
    EXPECT_TRUE(response.ok()) << response.status();
    if (!response.ok()) break;
    refused += response->status == 200 ? 0 : 1;
  }
  flood.join();
  ASSERT_EQ(flooded, kKeys);
  EXPECT_EQ(refused, 0);
  EXPECT_LE(allowed, 20'020) << "a fifth of the places, and the overflow bucket";
  EXPECT_GT(gateway.Metric("gateway_rate_limit_overflowed_total{limit=\"by-path\"}"), 80'000);
}

TEST(Limits, HeadersTellOfTheTightestToTheSecond) {
  // The service has its own limit; the gateway's clients must not see its headers.
  ScriptedUpstream upstream(Respond([](const UpstreamRequest&) {
    return std::string("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nratelimit-limit: 7\r\nRateLimit-Remaining: 3\r\n\r\nx");
  }));
  DataPlane gateway(
      {.policy = PolicyYaml(upstream, "hourly, minutely, shadow",
                            LimitYaml("hourly", "key: [client_ip]\nlimit: { requests: 5, window: 1h }") +
                                LimitYaml("minutely", "key: [path]\nlimit: { requests: 3, window: 1m }") +
                                LimitYaml("shadow", "limit: { requests: 1, window: 1h }\nmode: shadow"))});
  const auto get = [&](const std::string& target) {
    auto response = Fetch(gateway.port(), "GET", target);
    EXPECT_TRUE(response.ok());
    return *std::move(response);
  };
  const Response first = get("/svc/a");
  EXPECT_EQ(first.status, 200);
  EXPECT_EQ(Number(first, "RateLimit-Limit"), 3);
  EXPECT_EQ(Number(first, "RateLimit-Remaining"), 2);
  EXPECT_EQ(Number(first, "RateLimit-Reset"), 60);
  const auto told = std::count_if(first.fields.begin(), first.fields.end(), [](const auto& field) {
    return field.first.starts_with("RateLimit-") || field.first.starts_with("ratelimit-");
  });
  EXPECT_EQ(told, 3) << "each once";
  EXPECT_EQ(first.Field("Retry-After"), std::nullopt);
  EXPECT_EQ(get("/svc/a").status, 200);
  EXPECT_EQ(get("/svc/a").status, 200);
  const Response minute = get("/svc/a");
  EXPECT_EQ(minute.status, 429);
  EXPECT_EQ(Number(minute, "RateLimit-Limit"), 3);
  EXPECT_EQ(Number(minute, "RateLimit-Remaining"), 0);
  EXPECT_GE(Number(minute, "Retry-After"), 58);
  EXPECT_LE(Number(minute, "Retry-After"), 60);
  EXPECT_EQ(minute.Field("RateLimit-Reset"), minute.Field("Retry-After"));
  const Response fourth = get("/svc/b");
  EXPECT_EQ(Number(fourth, "RateLimit-Limit"), 5) << "one is left of the hour's, two of the minute's";
  EXPECT_EQ(Number(fourth, "RateLimit-Remaining"), 1);
  EXPECT_EQ(Number(fourth, "RateLimit-Reset"), 3600);
  EXPECT_EQ(get("/svc/b").status, 200);
  const Response both = get("/svc/a");
  EXPECT_EQ(both.status, 429);
  EXPECT_EQ(Number(both, "RateLimit-Limit"), 5) << "both refuse; the hour's limit has the longest wait";
  EXPECT_GE(Number(both, "Retry-After"), 3590);
  EXPECT_LE(Number(both, "Retry-After"), 3600);
  // The gateway's own responses have them too.
  EXPECT_EQ(nlohmann::json::parse(both.body)["reason"], "rate_limited");
}

// Retry-After is exact: refused until then, served then.
TEST(Limits, RetryAfterIsTrueOfEachAlgorithm) {
  ScriptedUpstream upstream(Ok("x"));
  for (const std::string algorithm : {"sliding_window", "token_bucket", "fixed_window"}) {
    SCOPED_TRACE(algorithm);
    DataPlane gateway(
        {.policy =
             PolicyYaml(upstream, "l", LimitYaml("l", "limit: { requests: 2, window: 2s }\nalgorithm: " + algorithm))});
    // Both in one window: two requests around a window boundary are not refused.
    std::optional<Response> refused;
    std::chrono::steady_clock::time_point asked;
    for (int i = 0; i < 20 && !refused; ++i) {
      asked = std::chrono::steady_clock::now();
      auto response = Fetch(gateway.port(), "GET", "/svc");
      ASSERT_TRUE(response.ok());
      if (response->status == 429) refused = *std::move(response);
    }
    ASSERT_TRUE(refused.has_value());
    const auto promised = std::chrono::seconds(Number(*refused, "Retry-After"));
    EXPECT_GE(promised, 1s);
    EXPECT_LE(promised, 2s);
    EXPECT_TRUE(WaitFor([&] { return StatusOf(gateway, "/svc") == 200; }));
    const auto took = std::chrono::steady_clock::now() - asked;
    EXPECT_GT(took, promised - 1s) << "it is rounded up to a second";
    EXPECT_LT(took, promised + 1s) << "plus the pause between two tries";
  }
}

TEST(Limits, EveryKeyOfARequestTellsBucketsApart) {
  ScriptedUpstream upstream(Ok("x"));
  const auto limit = [](const std::string& name, const std::string& keys) {
    return LimitYaml(name, Concat("key: [", keys, "]\nlimit: { requests: 1, window: 1h }"));
  };
  std::string policy = Concat("kind: Service\nname: svc\nstatic: [{ address: \"", upstream.address(), "\" }]\n");
  for (const std::string name : {"tenant", "host", "route", "service", "all"}) {
    Append(&policy, "---\nkind: Route\nname: ", name, "\nmatch: { path: { prefix: /", name,
           " } }\nservice: svc\nrate_limits: [", name, "]\n");
  }
  policy += "---\nkind: Route\nname: route2\nmatch: { path: { prefix: /two } }\nservice: svc\nrate_limits: [route]\n";
  policy +=
      "---\nkind: Route\nname: service2\nmatch: { path: { prefix: /three } }\nservice: svc\nrate_limits: [service]\n";
  policy += limit("tenant", "\"header:X-Tenant\"") + limit("host", "host") + limit("route", "route") +
            limit("service", "service") + limit("all", "");
  DataPlane gateway({.policy = policy});

  EXPECT_EQ(StatusOf(gateway, "/tenant", "X-Tenant: a\r\n"), 200);
  EXPECT_EQ(StatusOf(gateway, "/tenant", "x-tenant: a\r\n"), 429);
  EXPECT_EQ(StatusOf(gateway, "/tenant", "X-Tenant: b\r\n"), 200);
  EXPECT_EQ(StatusOf(gateway, "/tenant"), 200);
  EXPECT_EQ(StatusOf(gateway, "/tenant"), 429);
  EXPECT_EQ(StatusOf(gateway, "/tenant", "X-Tenant:\r\n"), 200) << "an empty value is not a missing one";
  const std::string long_value(6000, 'x');
  EXPECT_EQ(StatusOf(gateway, "/tenant", Concat("X-Tenant: ", long_value, "1\r\n")), 200);
  EXPECT_EQ(StatusOf(gateway, "/tenant", Concat("X-Tenant: ", long_value, "2\r\n")), 200);
  EXPECT_EQ(StatusOf(gateway, "/tenant", Concat("X-Tenant: ", long_value, "1\r\n")), 429);

  EXPECT_EQ(StatusOf(gateway, "/host", "Host: a.example\r\n"), 200);
  EXPECT_EQ(StatusOf(gateway, "/host", "Host: A.example:80\r\n"), 429);
  EXPECT_EQ(StatusOf(gateway, "/host", "Host: b.example\r\n"), 200);

  EXPECT_EQ(StatusOf(gateway, "/route"), 200);
  EXPECT_EQ(StatusOf(gateway, "/route/other"), 429);
  EXPECT_EQ(StatusOf(gateway, "/two"), 200) << "another route";
  EXPECT_EQ(StatusOf(gateway, "/service"), 200);
  EXPECT_EQ(StatusOf(gateway, "/three"), 429) << "another route to the same service";
  EXPECT_EQ(StatusOf(gateway, "/all"), 200);
  EXPECT_EQ(StatusOf(gateway, "/all/x", "Host: z\r\n"), 429);
}

TEST(Limits, AShadowIsCountedAndNamedInTheLogAlone) {
  ScriptedUpstream upstream(Ok("x"));
  DataPlane gateway({.policy = PolicyYaml(upstream, "tried",
                                          LimitYaml("tried",
                                                    "limit: { requests: 1, window: 1h }\n"
                                                    "mode: shadow")),
                     .sets = {"server.error_details=true"}});
  for (int i = 0; i < 3; ++i) {
    const auto response = Fetch(gateway.port(), "GET", "/svc");
    ASSERT_TRUE(response.ok());
    EXPECT_EQ(response->status, 200);
    EXPECT_EQ(response->Field("RateLimit-Limit"), std::nullopt);
  }
  EXPECT_EQ(gateway.Metric("gateway_rate_limit_requests_total{limit=\"tried\",result=\"allowed\"}"), 1);
  EXPECT_EQ(gateway.Metric("gateway_rate_limit_requests_total{limit=\"tried\",result=\"shadow_refused\"}"), 2);
  const auto lines = gateway.LogLines(3);
  ASSERT_EQ(lines.size(), 3u);
  std::vector<std::string> policies;  // unordered: each worker writes its own lines
  for (const auto& line : lines) policies.push_back(line.value("policy", ""));
  EXPECT_THAT(policies, testing::UnorderedElementsAre("", "RateLimit/tried (shadow)", "RateLimit/tried (shadow)"));
}

// By consumer: checked after authentication. By address: before it, so that a flood of bad keys is bounded.
TEST(Limits, ByConsumerAfterAuthenticationTheOthersBefore) {
  ScriptedUpstream upstream(Ok("x"));
  std::string policy = Concat("kind: Service\nname: svc\nstatic: [{ address: \"", upstream.address(),
                              "\" }]\n---\nkind: Route\nname: svc\nmatch: { path: { prefix: /svc } }\nservice: svc\n"
                              "auth: keys\nrate_limits: [each, any]\n---\nkind: Auth\nname: keys\n"
                              "methods: [{ api_key: { header: X-API-Key } }]\n");
  // SHA-256 of key-of-acme and key-of-bolt.
  policy +=
      "---\nkind: Consumer\nname: acme\ncredentials: [{ api_key_sha256: "
      "\"689febd264f8b977e29c0fdb75f839eb248ba07d1561b14f2b95f42756943245\" }]\n";
  policy +=
      "---\nkind: Consumer\nname: bolt\ncredentials: [{ api_key_sha256: "
      "\"b79b9325370116a67c10b7c5d520228727ec93f1491256cc60e472c982d74d30\" }]\n";
  policy += LimitYaml("each", "key: [consumer]\nlimit: { requests: 2, window: 1h }") +
            LimitYaml("any", "key: [client_ip]\nlimit: { requests: 10, window: 1h }");
  DataPlane gateway({.policy = policy});
  EXPECT_EQ(StatusOf(gateway, "/svc", "X-API-Key: key-of-acme\r\n"), 200);
  EXPECT_EQ(StatusOf(gateway, "/svc", "X-API-Key: key-of-acme\r\n"), 200);
  EXPECT_EQ(StatusOf(gateway, "/svc", "X-API-Key: key-of-acme\r\n"), 429);
  EXPECT_EQ(StatusOf(gateway, "/svc", "X-API-Key: key-of-bolt\r\n"), 200);
  // Without a consumer: counted by address only.
  for (int i = 0; i < 6; ++i) EXPECT_EQ(StatusOf(gateway, "/svc", "X-API-Key: made-up\r\n"), 401) << i;
  EXPECT_EQ(StatusOf(gateway, "/svc", "X-API-Key: made-up\r\n"), 429);
  EXPECT_EQ(gateway.Metric("gateway_rate_limit_requests_total{limit=\"each\",result=\"allowed\"}"), 3);
  EXPECT_EQ(gateway.Metric("gateway_rate_limit_requests_total{limit=\"any\",result=\"allowed\"}"), 10);
}

std::vector<std::string> RedisSets(const RedisServer& redis, int db = 0, const std::string& password = "") {
  return {"redis.address=" + redis.address(), Concat("redis.db=", db), "redis.password=" + password};
}

// Sends `each` requests to all of `gateways`, from two clients per gateway; returns how many were served.
int ServedOf(const std::vector<DataPlane*>& gateways, int each, const std::string& target) {
  std::atomic<int> served{0};
  std::vector<std::thread> clients;
  for (DataPlane* gateway : gateways) {
    for (int i = 0; i < 2; ++i) {
      clients.emplace_back([&, gateway] {
        for (int n = 0; n < each; ++n) served += StatusOf(*gateway, target) == 200 ? 1 : 0;
      });
    }
  }
  for (auto& client : clients) client.join();
  return served;
}

TEST(RedisLimits, SeveralDataPlanesShareOneLimitExactly) {
  RedisServer redis("pass word");
  ScriptedUpstream upstream(Ok("x"));
  for (const std::string algorithm : {"sliding_window", "token_bucket", "fixed_window"}) {
    SCOPED_TRACE(algorithm);
    // If a loaded machine is too slow for Redis's deadline, requests are refused, so the limit is never exceeded.
    const std::string policy =
        PolicyYaml(upstream, "shared, own",
                   LimitYaml("shared",
                             "key: [client_ip]\nlimit: { requests: 60, window: 24h }\nscope: redis\n"
                             "on_unavailable: deny\nalgorithm: " +
                                 algorithm) +
                       LimitYaml("own", "limit: { requests: 1000, window: 24h }"));
    DataPlane one({.policy = policy, .sets = RedisSets(redis, 5, "pass word")});
    DataPlane two({.policy = policy, .name = "dp-2", .sets = RedisSets(redis, 5, "pass word")});
    ASSERT_TRUE(WaitFor([&] { return one.Metric("gateway_redis_up") == 2 && two.Metric("gateway_redis_up") == 2; }));
    const int served = ServedOf({&one, &two}, 40, "/svc");
    double lost = 0;
    for (DataPlane* each : {&one, &two}) {
      lost += each->Metric("gateway_redis_calls_total{result=\"timeout\"}") +
              each->Metric("gateway_redis_calls_total{result=\"unavailable\"}");
    }
    EXPECT_LE(served, 60);
    EXPECT_GE(served + lost, 60);
    // A request that Redis refused costs nothing in `own`.
    EXPECT_EQ(Number(*Fetch(one.port(), "GET", "/svc"), "RateLimit-Limit"), 60);
    EXPECT_FALSE(redis.Command({"FLUSHALL"}).error);
    const auto next = Fetch(one.port(), "GET", "/svc");
    ASSERT_TRUE(next.ok());
    if (next->status == 200) {
      EXPECT_EQ(Number(*next, "RateLimit-Remaining"), 59);
      if (algorithm == "sliding_window") {
        EXPECT_EQ(Number(*next, "RateLimit-Reset"), 86'400);
      }
    }
  }
}

TEST(RedisLimits, WhatRedisRefusesIsGivenBackHere) {
  RedisServer redis;
  ScriptedUpstream upstream(Ok("x"));
  const std::string policy =
      Concat(PolicyYaml(upstream, "shared, own",
                        LimitYaml("shared",
                                  "key: [path]\nlimit: { requests: 2, window: 24h }\nscope: redis\n"
                                  "on_unavailable: deny") +
                            LimitYaml("own", "limit: { requests: 10, window: 24h }")));
  DataPlane gateway({.policy = policy, .sets = RedisSets(redis)});
  ASSERT_TRUE(WaitFor([&] { return gateway.Metric("gateway_redis_up") == 2; }));
  int served = 0;
  for (int i = 0; i < 30; ++i) served += StatusOf(gateway, "/svc/a") == 200 ? 1 : 0;
  EXPECT_LE(served, 2);
  for (int i = 0; i < 20; ++i) served += StatusOf(gateway, Concat("/svc/b", i)) == 200 ? 1 : 0;
  EXPECT_EQ(served, 10);
}

TEST(RedisLimits, WhileRedisIsAwayEachDoesAsItsPolicySays) {
  RedisServer redis;
  ScriptedUpstream upstream(Ok("x"));
  std::string policy = Concat("kind: Service\nname: svc\nstatic: [{ address: \"", upstream.address(), "\" }]\n");
  for (const std::string name : {"last_share", "allow", "deny"}) {
    std::string limit = name;
    std::replace(limit.begin(), limit.end(), '_', '-');
    Append(&policy, "---\nkind: Route\nname: ", limit, "\nmatch: { path: { prefix: /", name,
           " } }\nservice: svc\nrate_limits: [", limit, "]\n");
    policy += LimitYaml(limit, Concat("limit: { requests: 3, window: 1h }\nscope: redis\non_unavailable: ", name));
  }
  DataPlane gateway({.policy = policy, .sets = RedisSets(redis)});
  ASSERT_TRUE(WaitFor([&] { return gateway.Metric("gateway_redis_up") == 2; }));
  EXPECT_TRUE(WaitFor([&] { return StatusOf(gateway, "/deny") == 200; }));
  redis.Kill();
  ASSERT_TRUE(WaitFor([&] { return gateway.Metric("gateway_redis_up") == 0; }));
  int by_share = 0;
  for (int i = 0; i < 10; ++i) {
    by_share += StatusOf(gateway, "/last_share") == 200 ? 1 : 0;
    EXPECT_EQ(StatusOf(gateway, "/allow"), 200);
    const auto denied = Fetch(gateway.port(), "GET", "/deny");
    ASSERT_TRUE(denied.ok());
    EXPECT_EQ(denied->status, 429);
    EXPECT_EQ(Number(*denied, "Retry-After"), 1);
  }
  EXPECT_EQ(by_share, 3);
  redis.Restart();
  EXPECT_TRUE(WaitFor([&] { return StatusOf(gateway, "/deny") == 200; }));
  EXPECT_TRUE(WaitFor([&] { return gateway.Metric("gateway_redis_up") == 2; }));
}

TEST(RedisLimits, TheFleetIsToldWhereRedisIsAway) {
  RedisServer redis;
  ScriptedUpstream upstream(Ok("x"));
  ControlPlane control;
  control.Apply(
      PolicyYaml(upstream, "shared", LimitYaml("shared", "limit: { requests: 3, window: 1h }\nscope: redis")));
  DataPlane gateway({.control_planes = {control.stream_port()}, .name = "dp-1", .sets = RedisSets(redis)});
  DataPlane without({.control_planes = {control.stream_port()}, .name = "dp-2"});
  const auto told = [&](std::string_view data_plane, bool away) {
    std::string out;
    EXPECT_TRUE(WaitFor([&] {
      out = control.Ctl({"limits", "-o", "json"}).out;
      const auto json = nlohmann::json::parse(out);
      if (!json.contains("items")) return false;
      for (const auto& row : json["items"]) {
        if (row["data_plane"] == data_plane) return row["limit"].value("unavailable", false) == away;
      }
      return false;
    })) << data_plane
        << ": " << out;
  };
  told("dp-1", false);
  told("dp-2", true);
  redis.Kill();
  told("dp-1", true);
  redis.Restart();
  told("dp-1", false);
}

// A Redis that accepts connections but never responds: requests wait about 20 ms, requests of other routes not at all.
TEST(RedisLimits, AStoppedRedisDelaysNoRequest) {
  RedisServer redis;
  ScriptedUpstream upstream(Ok("x"));
  DataPlane gateway(
      {.policy = Concat(
           PolicyYaml(upstream, "shared", LimitYaml("shared", "limit: { requests: 100000, window: 1h }\nscope: redis")),
           "---\nkind: Route\nname: free\nmatch: { path: { prefix: /free } }\nservice: svc\n"
           "rate_limits: [none]\n"),
       .workers = 1,
       .sets = RedisSets(redis)});
  ASSERT_TRUE(WaitFor([&] { return gateway.Metric("gateway_redis_up") == 1; }));
  EXPECT_EQ(StatusOf(gateway, "/svc"), 200);
  redis.Pause();
  std::vector<double> times_ms;
  for (int i = 0; i < 300; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_EQ(StatusOf(gateway, i % 2 == 0 ? "/svc" : "/free"), 200);
    times_ms.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
  }
  std::sort(times_ms.begin(), times_ms.end());
  EXPECT_LT(times_ms[times_ms.size() / 2], 20) << "one waited, the others did not";
  EXPECT_GE(gateway.Metric("gateway_redis_calls_total{result=\"timeout\"}"), 1);
  EXPECT_GE(gateway.Metric("gateway_redis_calls_total{result=\"unavailable\"}"), 1);
  redis.Resume();
  const double answered = gateway.Metric("gateway_redis_calls_total{result=\"answered\"}");
  EXPECT_TRUE(WaitFor([&] {
    return StatusOf(gateway, "/svc") == 200 &&
           gateway.Metric("gateway_redis_calls_total{result=\"answered\"}") > answered;
  }));
}

}  // namespace
}  // namespace gateway::fixtures
