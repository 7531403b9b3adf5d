// Rendering of the fleet: breakers, limits, unusable endpoints, and a route's policies in order.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "tests/unit/gatewayctl/scripted_admin.h"
#include "tools/gatewayctl/effective.h"
#include "tools/gatewayctl/render.h"

namespace gateway::ctl {
namespace {

TEST(FleetRender, BreakersSayWhoseWordTheirStateIs) {
  v1::ListBreakersResponse response;
  v1::DataPlaneBreaker* row = response.add_breakers();
  row->set_data_plane("dp-1");
  row->mutable_breaker()->set_service("orders");
  row->mutable_breaker()->set_breaker("hystrix");
  row->mutable_breaker()->set_state(v1::BreakerReport::HALF_OPEN);
  row->mutable_breaker()->set_requests(20);
  row->mutable_breaker()->set_failures(12);
  row->mutable_breaker()->set_opened(3);
  *response.add_breakers() = *row;
  response.mutable_breakers(1)->mutable_breaker()->set_state(v1::BreakerReport::OPEN);
  response.mutable_breakers(1)->mutable_breaker()->set_forced(true);
  const auto lines = [&](int64_t now) -> std::vector<std::string> {
    return absl::StrSplit(RenderBreakers(response, absl::FromUnixSeconds(now)), '\n', absl::SkipEmpty());
  };
  EXPECT_EQ(lines(100)[0],
            "SERVICE   DATA PLANE   BREAKER   STATE           NEXT PROBE   IN FLIGHT   REQUESTS   FAILURES   SLOW   "
            "OPENED   OPENED BY   AS OF");
  EXPECT_EQ(lines(100)[1],
            "orders    dp-1         hystrix   half_open       -            0           20         12         0      "
            "3        -           -");
  EXPECT_EQ(lines(100)[2],
            "orders    dp-1         hystrix   open (forced)   -            0           20         12         0      "
            "3        -           -");

  // The age of the figures, the time of the next probe, and what opened the breaker.
  row = response.mutable_breakers(0);
  row->mutable_reported_at()->set_seconds(98);
  row->mutable_breaker()->set_state(v1::BreakerReport::OPEN);
  row->mutable_breaker()->mutable_next_probe()->set_seconds(4);
  row->mutable_breaker()->set_opening_requests(20);
  row->mutable_breaker()->set_opening_failures(11);
  row->mutable_breaker()->set_opening_slow(2);
  EXPECT_THAT(lines(100)[1], ::testing::HasSubstr(" in 3s "));
  EXPECT_THAT(lines(100)[1], ::testing::HasSubstr("11 of 20 failed, 2 slow"));
  EXPECT_THAT(lines(100)[1], ::testing::EndsWith(" 2s ago"));
  EXPECT_THAT(lines(110)[1], ::testing::HasSubstr(" due "));
}

TEST(FleetRender, LimitsSayWhereTheirScopeIsAway) {
  v1::ListLimitsResponse response;
  v1::DataPlaneLimit* row = response.add_limits();
  row->set_data_plane("dp-1");
  row->mutable_limit()->set_name("shared");
  row->mutable_limit()->set_keys(2);
  row->mutable_limit()->set_allowed(10);
  row->mutable_limit()->set_refused(4);
  row->mutable_limit()->set_unavailable(true);
  EXPECT_EQ(RenderLimits(response),
            "LIMIT    DATA PLANE   KEYS   ALLOWED   REFUSED   OVERFLOWED   STATE\n"
            "shared   dp-1         2      10        4         0            unavailable\n");
  *response.add_limits() = response.limits(0);
  response.mutable_limits(1)->set_data_plane("dp-2");
  EXPECT_THAT(RenderLimits(response),
              ::testing::EndsWith("shared   all 2        4      20        8         0            -\n"));
}

TEST(FleetRender, EndpointsSayWhoLeavesThemOutAndWhy) {
  v1::ListEndpointsResponse endpoints;
  const auto exclude = [&](const char* plane, const char* endpoint, const char* reason) {
    v1::Exclusion* exclusion = endpoints.add_excluded();
    exclusion->set_data_plane(plane);
    exclusion->mutable_endpoint()->set_service("svc");
    exclusion->mutable_endpoint()->set_endpoint(endpoint);
    exclusion->mutable_endpoint()->set_reason(reason);
  };
  exclude("dp-1", "10.0.0.7:80", "ejected: 5 failures in a row, 28s left");
  exclude("dp-2", "10.0.0.7:80", "active check failed: connection refused");
  exclude("dp-1", "10.9.9.9:80", "active check failed: timeout");
  v1::Service service;
  service.set_name("svc");
  service.add_static_()->set_address("10.0.0.7:80");
  service.add_static_()->set_address("10.0.0.8:80");
  std::vector<EndpointRow> rows = EndpointsOf(&service, {});
  AddExclusions(endpoints, "svc", &rows);
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0].excluded.size(), 2u);
  EXPECT_TRUE(rows[1].excluded.empty());
  EXPECT_EQ(rows[2].address, "10.9.9.9:80");
  const std::string text = RenderEndpoints(rows);
  EXPECT_NE(text.find("LEFT OUT BY\n"), std::string::npos);
  EXPECT_NE(text.find("not everywhere"), std::string::npos);
  EXPECT_NE(text.find("dp-1: ejected: 5 failures in a row, 28s left; dp-2: active check failed: connection refused"),
            std::string::npos);
}

// Reports of two data planes on a service whose endpoints are host names.
TEST(Endpoints, OneThatCannotBeUsedSaysWhy) {
  v1::EndpointSet set;
  set.mutable_key()->set_service("svc");
  v1::Instance* instance = set.add_instances();
  instance->set_id("node/svc-1");
  instance->set_health(v1::Instance::PASSING);
  instance->set_unusable("address '127.0.0.1:9999' is neither an IP address nor a host name");
  EndpointSets sets;
  *sets.Add() = set;
  const std::vector<EndpointRow> rows = EndpointsOf(nullptr, sets);
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_FALSE(rows[0].serving);
  EXPECT_EQ(rows[0].why_not, instance->unusable());
  EXPECT_NE(RenderEndpoints(rows).find("127.0.0.1:9999"), std::string::npos);
}

class NamedEndpoints : public ::testing::Test {
 protected:
  NamedEndpoints() {
    service_.set_name("svc");
    for (const char* address : {"a.example:80", "gone.example:80", "10.0.0.9:80"})
      service_.add_static_()->set_address(address);
    all_.set_reporting(2);
    for (const char* plane : {"dp-1", "dp-2"}) {
      Resolve(plane, "a.example:80", {"10.0.0.7:80", "10.0.0.8:80"});
      Resolve(plane, "gone.example:80", {});
    }
  }
  void Resolve(const char* plane, const char* address, const std::vector<std::string>& endpoints) {
    v1::ResolvedHost* host = all_.add_hosts();
    host->set_data_plane(plane);
    host->mutable_host()->set_service("svc");
    host->mutable_host()->set_address(address);
    for (const std::string& endpoint : endpoints) host->mutable_host()->add_endpoints(endpoint);
  }
  void Exclude(const char* plane, const char* endpoint) {
    v1::Exclusion* exclusion = all_.add_excluded();
    exclusion->set_data_plane(plane);
    exclusion->mutable_endpoint()->set_service("svc");
    exclusion->mutable_endpoint()->set_endpoint(endpoint);
    exclusion->mutable_endpoint()->set_reason("active check failed");
  }
  std::vector<EndpointRow> Rows() const {
    std::vector<EndpointRow> rows = EndpointsOf(&service_, {});
    AddExclusions(all_, "svc", &rows);
    return rows;
  }

  v1::Service service_;
  v1::ListEndpointsResponse all_;
};

TEST_F(NamedEndpoints, ANameWithoutAnAddressDoesNotServe) {
  const std::vector<EndpointRow> rows = Rows();
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_TRUE(rows[0].serving);
  EXPECT_FALSE(rows[1].serving);
  EXPECT_EQ(rows[1].why_not, "left out by every data plane");
  EXPECT_EQ(rows[1].excluded,
            (std::vector<std::string>{"dp-1: the name has no address", "dp-2: the name has no address"}));
  v1::StoredResource stored;
  *stored.mutable_resource()->mutable_service() = service_;
  EXPECT_EQ(ServicesOf(std::span(&stored, 1), all_, {}, absl::UnixEpoch())[0].serving, 2);
}

TEST_F(NamedEndpoints, ANameIsOutWhereAllOfItsAddressesAre) {
  for (const char* plane : {"dp-1", "dp-2"}) Exclude(plane, "10.0.0.7:80");
  EXPECT_TRUE(Rows()[0].serving);
  EXPECT_TRUE(Rows()[0].out_at.empty());
  Exclude("dp-1", "10.0.0.8:80");
  std::vector<EndpointRow> rows = Rows();
  ASSERT_EQ(rows.size(), 3u) << "a resolved address has no row of its own";
  EXPECT_TRUE(rows[0].serving);
  EXPECT_EQ(rows[0].out_at, std::set<std::string>{"dp-1"});
  EXPECT_NE(RenderEndpoints(rows).find("not everywhere"), std::string::npos);
  Exclude("dp-2", "10.0.0.8:80");
  EXPECT_FALSE(Rows()[0].serving);
}

TEST_F(NamedEndpoints, WhereExclusionsAreIgnoredAllServe) {
  for (const char* plane : {"dp-1", "dp-2"}) {
    Exclude(plane, "10.0.0.9:80");
    v1::PanickingService* panicking = all_.add_panicking();
    panicking->set_data_plane(plane);
    panicking->set_service("svc");
  }
  const std::vector<EndpointRow> rows = Rows();
  EXPECT_TRUE(rows[2].serving);
  EXPECT_TRUE(rows[2].out_at.empty());
  EXPECT_EQ(rows[2].excluded[0], "dp-1: active check failed (ignored: too few endpoints are usable)");
}

TEST(FleetRender, EffectivePoliciesStandInTheOrderOfARequest) {
  const std::vector<v1::StoredResource> all = {
      Stored("kind: Defaults\nname: default\nrate_limits: [default, theirs]\nauth: partners\n", 1, true),
      Stored("kind: RateLimit\nname: default\nkey: [client_ip]\nlimit: { requests: 5, window: 1s }\n", 1, true),
      Stored("kind: RateLimit\nname: theirs\nkey: [consumer]\nlimit: { requests: 9, window: 1s }\nscope: fleet\n"),
      Stored("kind: Auth\nname: partners\nmethods: [{ api_key: {} }]\n"),
      Stored("kind: Service\nname: svc\nstatic: [{ address: \"10.0.0.7:80\" }]\nretry: none\n"),
      Stored("kind: Route\nname: r\nmatch: { path: { exact: /r } }\nservice: svc\nauth: none\ntimeout: 5s\n")};
  std::vector<std::string> rows;
  for (const EffectiveRow& row : EffectiveOf(all[5].resource().route(), all)) {
    rows.push_back(row.stage + ": " + row.policy + ", " + row.source);
  }
  const std::vector<std::string> expected = {"access: none, built-in",
                                             "cors: none, built-in",
                                             "limits before auth: RateLimit/default, Defaults/default (built-in)",
                                             "auth: none, route",
                                             "limits after auth: RateLimit/theirs, Defaults/default (built-in)",
                                             "body: none, built-in",
                                             "breaker: none, built-in",
                                             "balance: load_balancer, built-in",
                                             "forward: none, Service/svc",
                                             "forward: timeouts, built-in",
                                             "forward: timeout, route"};
  EXPECT_EQ(rows, expected);
}

TEST(FleetRender, EffectiveNamesWhatChangesARequestAndWhoseServiceARowIs) {
  const std::vector<v1::StoredResource> all = {
      Stored("kind: Defaults\nname: default\ncircuit_breaker: hystrix\n"),
      Stored("kind: CircuitBreaker\nname: hystrix\n"),
      Stored("kind: Service\nname: a\nstatic: [{ address: \"10.0.0.7:80\" }]\nlimits: { requests: 9 }\n"
             "outlier_ejection: { max_time: 5s }\n"),
      Stored("kind: Service\nname: b\nstatic: [{ address: \"10.0.0.8:80\" }]\ncircuit_breaker: none\n"),
      Stored("kind: Route\nname: r\nmatch: { path: { prefix: /r } }\nsplit: [{ service: a }, { service: b }]\n"
             "split_on: { header: X-User }\nrewrite: { prefix: /, host: in.example }\n"
             "request_headers: { remove: [X-Debug], set: { B: 1, A: secret } }\nrequest_query: { add: { q: 1 } }\n"
             "response_headers: { set: { Server: x } }\nmirror: [{ service: b, percent: 10 }]\n")};
  std::vector<std::string> rows;
  for (const EffectiveRow& row : EffectiveOf(all[4].resource().route(), all)) {
    rows.push_back(row.stage + ": " + row.policy + ", " + row.source);
    if (row.policy == "split_on") {
      EXPECT_EQ(row.settings, "header X-User");
    }
    if (row.policy == "rewrite") {
      EXPECT_EQ(row.settings, "prefix /, host in.example");
    }
    if (row.policy == "request_headers") {
      EXPECT_EQ(row.settings, "remove X-Debug; set A, B");
    }
    if (row.policy == "outlier_ejection") {
      EXPECT_EQ(row.settings, "5 failures in a row, for 5s and longer");
    }
  }
  const std::vector<std::string> expected = {"split: split_on, route",
                                             "access: none, built-in",
                                             "cors: none, built-in",
                                             "limits before auth: none, built-in",
                                             "auth: none, built-in",
                                             "limits after auth: none, built-in",
                                             "body: none, built-in",
                                             "rewrite: rewrite, route",
                                             "limits of the service: limits, Service/a",
                                             "breaker: CircuitBreaker/hystrix, Defaults/default, for Service/a",
                                             "balance: load_balancer, built-in, for Service/a",
                                             "balance: outlier_ejection, Service/a",
                                             "forward: none, built-in, for Service/a",
                                             "forward: timeouts, built-in, for Service/a",
                                             "breaker: none, Service/b",
                                             "balance: load_balancer, built-in, for Service/b",
                                             "forward: none, built-in, for Service/b",
                                             "forward: timeouts, built-in, for Service/b",
                                             "forward: timeout, built-in",
                                             "forward: request_headers, route",
                                             "forward: request_query, route",
                                             "mirror: Service/b, route",
                                             "answer: response_headers, route"};
  EXPECT_EQ(rows, expected);
}

TEST(FleetRender, ARouteThatRespondsItselfNeedsNoService) {
  const v1::StoredResource route = Stored("kind: Route\nname: r\nmatch: {}\nredirect: { status: 301, path: /new }\n");
  const std::vector<EffectiveRow> rows = EffectiveOf(route.resource().route(), std::span(&route, 1));
  EXPECT_EQ(rows.back().stage, "answer");
  EXPECT_EQ(rows.back().settings, "301");
}

}  // namespace
}  // namespace gateway::ctl
