#include "dataplane/state/runtime_state.h"

#include <netinet/in.h>

#include <map>
#include <set>

#include "absl/random/random.h"
#include "common/policy/builtin.h"
#include "gmock/gmock.h"
#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

constexpr TimePoint kNow{1000h};

// Each text is a Resource in protobuf text format; the built-in ones are added.
std::shared_ptr<const Snapshot> Compile(const std::vector<std::string>& texts) {
  std::vector<v1::Resource> resources = BuiltinResources(std::nullopt);
  for (const std::string& text : texts) {
    resources.emplace_back();
    EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &resources.back())) << text;
  }
  std::vector<const v1::Resource*> pointers;
  for (const v1::Resource& resource : resources) pointers.push_back(&resource);
  CompileResult result = CompileSnapshot(pointers, {.epoch = "e", .revision = 1});
  for (const v1::PolicyError& error : result.errors) ADD_FAILURE() << error.ShortDebugString();
  return result.snapshot;
}

std::string Static(const std::string& name, const std::vector<std::string>& addresses, const std::string& more = "") {
  std::string text = "service { name: '" + name + "' ";
  for (const std::string& address : addresses) text += "static { address: '" + address + "' } ";
  return text + more + " }";
}

std::string Consul(const std::string& name, const std::string& more = "") {
  return "service { name: '" + name + "' consul { service: '" + name + "' " + more + " } }";
}

std::string RouteTo(const std::string& service) {
  return "route { name: '" + service + "' match { path { prefix: '/" + service + "' } } service: '" + service + "' }";
}

std::string DynamicRoute(const std::string& name, const std::string& more) {
  return "route { name: '" + name + "' match { path { template: '/" + name +
         "/{s}/**' } } consul_service { from: 's' " + more + " } }";
}

struct Serving {
  std::string address;
  uint32_t port = 80;
  v1::Instance::Health health = v1::Instance::PASSING;
  uint32_t weight = 1;
  std::vector<std::string> tags = {};
};

void Put(EndpointTable& table, const std::string& service, const std::vector<Serving>& instances,
         v1::EndpointSet::State state = v1::EndpointSet::KNOWN, const std::string& datacenter = "") {
  v1::EndpointSet set;
  set.mutable_key()->set_service(service);
  set.mutable_key()->set_datacenter(datacenter);
  set.set_state(state);
  for (const Serving& serving : instances) {
    v1::Instance& instance = *set.add_instances();
    instance.set_address(serving.address);
    instance.set_port(serving.port);
    instance.set_health(serving.health);
    instance.set_weight(serving.weight);
    for (const std::string& tag : serving.tags) instance.add_tags(tag);
  }
  table.sets[KeyOfSet(datacenter, service)] = set;
}

EndpointTable Known() {
  EndpointTable table;
  table.catalog_known = true;
  return table;
}

std::vector<std::string> Names(const BoundService& service) {
  std::vector<std::string> names;
  for (const auto& endpoint : service.endpoints) names.push_back(endpoint->name);
  return names;
}

const BoundService& Find(const ServingState& state, const std::string& name) {
  for (const auto& service : state.services) {
    if (service->policy->name == name) return *service;
  }
  throw std::out_of_range(name);
}

const BoundRoute& FindRoute(const ServingState& state, const std::string& name) {
  for (const BoundRoute& route : state.routes) {
    if (route.policy->name == name) return route;
  }
  throw std::out_of_range(name);
}

class RuntimeStateTest : public ::testing::Test {
 protected:
  std::shared_ptr<const ServingState> Bind(const std::vector<std::string>& resources,
                                           const EndpointTable& table = EndpointTable()) {
    return runtime_.Bind(Compile(resources), table, true);
  }

  MetricsRegistry metrics_{1};
  std::map<std::string, std::vector<std::string>> hosts_;
  int resolved_ = 0;
  TimePoint now_ = kNow;
  RuntimeState runtime_{
      &metrics_,
      {.zone = "a",
       .clock = [this] { return now_; },
       .find_host = [this](const std::string& host) -> std::shared_ptr<const std::vector<std::string>> {
         ++resolved_;
         if (!hosts_.contains(host)) return nullptr;
         return std::make_shared<const std::vector<std::string>>(hosts_[host]);
       }}};
};

TEST_F(RuntimeStateTest, WithoutPolicyThereIsAnEmptyState) {
  const auto state = runtime_.Bind(nullptr, EndpointTable(), false);
  ASSERT_NE(state->snapshot, nullptr);
  EXPECT_THAT(state->routes, IsEmpty());
  EXPECT_FALSE(state->has_policy);
}

TEST_F(RuntimeStateTest, StaticEndpointsAreBoundInOrder) {
  const auto state = Bind({Static("a", {"127.0.0.1:18081", "[2001:db8:0::1]:18082"}), RouteTo("a")});
  const BoundService& service = Find(*state, "a");
  EXPECT_THAT(Names(service), ElementsAre("127.0.0.1:18081", "[2001:db8::1]:18082"));
  EXPECT_EQ(service.discovery, Discovery::kKnown);
  ASSERT_NE(service.balancer, nullptr);
  EXPECT_EQ(service.breaker, nullptr);
  const Endpoint& v4 = *service.endpoints[0];
  EXPECT_EQ(ntohs(reinterpret_cast<const sockaddr_in&>(v4.address).sin_port), 18081);
  EXPECT_EQ(v4.address_length, sizeof(sockaddr_in));
  EXPECT_EQ(service.endpoints[1]->address.ss_family, AF_INET6);
  EXPECT_THAT(FindRoute(*state, "a").series, SizeIs(1));
  EXPECT_EQ(resolved_, 0) << "a literal is never looked up";
  EXPECT_TRUE(state->has_policy);
}

TEST_F(RuntimeStateTest, AWeightOfZeroTakesAnEndpointOut) {
  const auto state =
      Bind({"service { name: 'a' static { address: '10.0.0.1:1' weight: 0 } static { address: "
            "'10.0.0.2:1' weight: 3 } load_balancer { policy: WEIGHTED } }"});
  EXPECT_THAT(Names(Find(*state, "a")), ElementsAre("10.0.0.2:1"));
}

TEST_F(RuntimeStateTest, AnAddressNamedTwiceIsOneEndpointWithBothWeights) {
  EndpointTable table = Known();
  Put(table, "a",
      {{"10.0.0.1", 1, v1::Instance::PASSING, 1}, {"10.0.0.2", 1}, {"10.0.0.1", 1, v1::Instance::PASSING, 2}});
  const auto state = Bind({"service { name: 'a' consul { service: 'a' } load_balancer { policy: WEIGHTED } }"}, table);
  const BoundService& service = Find(*state, "a");
  ASSERT_THAT(Names(service), ElementsAre("10.0.0.1:1", "10.0.0.2:1"));
  std::vector<int> counts(2);
  absl::InsecureBitGen random;
  for (int i = 0; i < 8; ++i)
    ++counts[service.balancer->Pick(service.runtime->cursor, {.random = random, .now = kNow})];
  EXPECT_THAT(counts, ElementsAre(6, 2));
}

TEST_F(RuntimeStateTest, ServicesShareAnEndpoint) {
  const auto state = Bind({Static("a", {"10.0.0.1:1"}), Static("b", {"10.0.0.1:1", "10.0.0.2:1"})});
  EXPECT_EQ(Find(*state, "a").endpoints[0], Find(*state, "b").endpoints[0]);
  EXPECT_NE(Find(*state, "b").endpoints[0]->id, Find(*state, "b").endpoints[1]->id);
}

TEST_F(RuntimeStateTest, AnEndpointThatNothingNamesFallsBehind) {
  const auto first = Bind({Static("a", {"10.0.0.1:1", "10.0.0.2:1"})});
  const auto second = Bind({Static("a", {"10.0.0.2:1"})});
  const auto& endpoints = Find(*first, "a").endpoints;
  EXPECT_EQ(endpoints[0]->bound_generation, first->generation);
  EXPECT_EQ(endpoints[1]->bound_generation, second->generation);
  EXPECT_EQ(Find(*second, "a").endpoints[0], endpoints[1]);
  const auto third = Bind({Static("a", {"10.0.0.1:1"})});
  EXPECT_NE(Find(*third, "a").endpoints[0]->id, endpoints[0]->id) << "an ID is never reused";
}

TEST_F(RuntimeStateTest, OnlyServingInstancesOfConsulAreBound) {
  EndpointTable table = Known();
  Put(table, "a",
      {{"10.0.0.1"},
       {"10.0.0.2", 80, v1::Instance::WARNING},
       {"10.0.0.3", 80, v1::Instance::CRITICAL},
       {"10.0.0.4", 80, v1::Instance::MAINTENANCE},
       {"10.0.0.5", 80, v1::Instance::PASSING, 0},
       {"10.0.0.6", 0},
       {"", 80}});
  EXPECT_THAT(Names(Find(*Bind({Consul("a")}, table), "a")), ElementsAre("10.0.0.1:80", "10.0.0.2:80"));
}

TEST_F(RuntimeStateTest, OnlyInstancesWithAllTagsAreBound) {
  EndpointTable table = Known();
  Put(table, "a",
      {{"10.0.0.1", 80, v1::Instance::PASSING, 1, {"v2", "eu"}},
       {"10.0.0.2", 80, v1::Instance::PASSING, 1, {"v2"}},
       {"10.0.0.3", 80, v1::Instance::PASSING, 1, {"eu", "x", "v2"}}});
  EXPECT_THAT(Names(Find(*Bind({Consul("a", "tags: 'v2' tags: 'eu'")}, table), "a")),
              ElementsAre("10.0.0.1:80", "10.0.0.3:80"));
}

TEST_F(RuntimeStateTest, WeightsOfConsulCount) {
  EndpointTable table = Known();
  Put(table, "a", {{"10.0.0.1", 80, v1::Instance::PASSING, 10}, {"10.0.0.2", 80, v1::Instance::WARNING, 30}});
  const auto state = Bind({"service { name: 'a' consul { service: 'a' } load_balancer { policy: WEIGHTED } }"}, table);
  const BoundService& service = Find(*state, "a");
  std::vector<int> counts(2);
  absl::InsecureBitGen random;
  for (int i = 0; i < 8; ++i)
    ++counts[service.balancer->Pick(service.runtime->cursor, {.random = random, .now = kNow})];
  EXPECT_THAT(counts, ElementsAre(2, 6));
}

TEST_F(RuntimeStateTest, DatacentersAreApart) {
  EndpointTable table = Known();
  Put(table, "a", {{"10.0.0.1"}});
  Put(table, "a", {{"10.9.0.1"}}, v1::EndpointSet::KNOWN, "dc2");
  EXPECT_THAT(Names(Find(*Bind({Consul("a", "datacenter: 'dc2'")}, table), "a")), ElementsAre("10.9.0.1:80"));
}

TEST_F(RuntimeStateTest, TellsWhyAServiceOfConsulHasNoEndpoints) {
  EndpointTable table = Known();
  Put(table, "unknown", {}, v1::EndpointSet::UNKNOWN_SERVICE);
  Put(table, "unavailable", {{"10.0.0.1"}}, v1::EndpointSet::UNAVAILABLE);
  Put(table, "critical", {{"10.0.0.1", 80, v1::Instance::CRITICAL}});
  const auto state = Bind({Consul("unknown"), Consul("unavailable"), Consul("critical"), Consul("unasked")}, table);
  EXPECT_EQ(Find(*state, "unknown").discovery, Discovery::kUnknownService);
  EXPECT_EQ(Find(*state, "unavailable").discovery, Discovery::kUnavailable);
  EXPECT_EQ(Find(*state, "unasked").discovery, Discovery::kUnavailable);
  EXPECT_EQ(Find(*state, "critical").discovery, Discovery::kKnown);
  for (const auto& service : state->services) {
    EXPECT_THAT(service->endpoints, IsEmpty());
    EXPECT_EQ(service->balancer, nullptr);
  }
}

TEST_F(RuntimeStateTest, ADynamicRouteHoldsWhatConsulListsAndItAllows) {
  EndpointTable table = Known();
  Put(table, "team-a", {{"10.0.0.1", 80, v1::Instance::PASSING, 1, {"v2"}}, {"10.0.0.2"}});
  Put(table, "team-secret", {{"10.0.0.3"}});
  Put(table, "other", {{"10.0.0.4"}});
  Put(table, "consul", {{"10.0.0.5"}});
  Put(table, "api-gateway", {{"10.0.0.6"}});
  Put(table, "team-gone", {}, v1::EndpointSet::UNKNOWN_SERVICE);
  Put(table, "team-unread", {}, v1::EndpointSet::UNAVAILABLE);
  Put(table, "team-far", {{"10.0.0.7"}}, v1::EndpointSet::KNOWN, "dc2");
  const auto state = Bind({DynamicRoute("api", "allow: 'team-*' deny: 'team-secret' tags: 'v2'"),
                           DynamicRoute("all", "allow: '*'"), DynamicRoute("nothing", "")},
                          table);
  const auto& dynamic = FindRoute(*state, "api").dynamic;
  EXPECT_THAT(dynamic, UnorderedElementsAre(Pair("team-a", ::testing::_), Pair("team-unread", ::testing::_)));
  const BoundService& service = *dynamic.find(std::string_view("team-a"))->second.service;
  EXPECT_THAT(Names(service), ElementsAre("10.0.0.1:80"));
  EXPECT_EQ(service.runtime->name, "team-a");
  EXPECT_EQ(dynamic.find(std::string_view("team-unread"))->second.service->discovery, Discovery::kUnavailable);
  EXPECT_THAT(FindRoute(*state, "all").dynamic, SizeIs(4));
  EXPECT_THAT(FindRoute(*state, "nothing").dynamic, IsEmpty());
}

TEST_F(RuntimeStateTest, AServiceAndAServiceOfConsulOfOneNameAreApart) {
  EndpointTable table = Known();
  Put(table, "a", {{"10.0.0.2"}});
  const auto state = Bind({Static("a", {"10.0.0.1:1"}), DynamicRoute("api", "allow: '*'")}, table);
  const auto& dynamic = FindRoute(*state, "api").dynamic.find(std::string_view("a"))->second;
  EXPECT_NE(dynamic.service->runtime, Find(*state, "a").runtime);
  EXPECT_EQ(dynamic.service->runtime->metrics_service, Find(*state, "a").runtime->metrics_service);
  EXPECT_THAT(Names(*dynamic.service), ElementsAre("10.0.0.2:80"));
}

TEST_F(RuntimeStateTest, CursorsSurviveNewEndpointsAndNewPolicy) {
  const auto first = Bind({Static("a", {"10.0.0.1:1", "10.0.0.2:1"})});
  Find(*first, "a").runtime->cursor = 41;
  const auto second = Bind({Static("a", {"10.0.0.1:1", "10.0.0.3:1"}, "timeouts { connect { seconds: 1 } }")});
  EXPECT_EQ(Find(*second, "a").runtime, Find(*first, "a").runtime);
  EXPECT_EQ(Find(*second, "a").runtime->cursor, 41u);
}

TEST_F(RuntimeStateTest, WhatIsTakenAwayAndComesBackBeginsAnew) {
  const auto first = Bind({Static("a", {"10.0.0.1:1"})});
  Find(*first, "a").runtime->cursor = 41;
  Bind({Static("b", {"10.0.0.1:1"})});
  EXPECT_EQ(Find(*Bind({Static("a", {"10.0.0.1:1"})}), "a").runtime->cursor, 0u);
}

constexpr char kBreaker[] = "circuit_breaker { name: 'b' request_volume_threshold: 2 }";

void OpenBreaker(CircuitBreaker& breaker) {
  for (int i = 0; i < 2; ++i) {
    CircuitBreaker::Permit permit;
    ASSERT_EQ(breaker.Acquire(kNow, &permit), BreakerVerdict::kAllowed);
    permit.Report(Outcome::kFailure, kNow);
  }
}

TEST_F(RuntimeStateTest, AnOpenBreakerStaysOpenThroughAChange) {
  const std::string service = Static("a", {"10.0.0.1:1"}, "circuit_breaker: 'b'");
  const auto first = Bind({service, kBreaker});
  OpenBreaker(*Find(*first, "a").breaker);
  const auto second = Bind({service, "circuit_breaker { name: 'b' sleep_window { seconds: 60 } }"});
  EXPECT_EQ(Find(*second, "a").breaker, Find(*first, "a").breaker);
  EXPECT_EQ(Find(*second, "a").breaker->RetryAfter(kNow), 60s) << "with the new settings";
  const auto third =
      Bind({Static("a", {"10.0.0.1:1"}, "circuit_breaker: 'other'"), "circuit_breaker { name: 'other' }"});
  EXPECT_EQ(Find(*third, "a").breaker, Find(*first, "a").breaker);
  const auto fourth = Bind({Static("a", {"10.0.0.1:1"})});
  EXPECT_EQ(Find(*fourth, "a").breaker, nullptr);
  EXPECT_THAT(runtime_.Breakers(kNow), IsEmpty());
}

TEST_F(RuntimeStateTest, RoutesWithDifferentBreakersDoNotShareOne) {
  EndpointTable table = Known();
  Put(table, "a", {{"10.0.0.1"}});
  const auto state = Bind({DynamicRoute("one", "allow: '*' template { circuit_breaker: 'b' }"),
                           DynamicRoute("two", "allow: '*' template { circuit_breaker: 'b' }"),
                           DynamicRoute("three", "allow: '*' template { circuit_breaker: 'c' }"), kBreaker,
                           "circuit_breaker { name: 'c' }"},
                          table);
  const auto breaker = [&](const std::string& route) {
    return FindRoute(*state, route).dynamic.find(std::string_view("a"))->second.service->breaker;
  };
  EXPECT_EQ(breaker("one"), breaker("two"));
  EXPECT_NE(breaker("one"), breaker("three"));
  OpenBreaker(*breaker("one"));
  const auto rows = runtime_.Breakers(kNow);
  ASSERT_THAT(rows, SizeIs(1)) << "one row per service: a scrape must not repeat a series";
  EXPECT_EQ(rows[0].service, "a");
  EXPECT_EQ(rows[0].view.state, BreakerState::kOpen);
  EXPECT_EQ(rows[0].view.failures, 2u);
}

TEST_F(RuntimeStateTest, LimitersSurviveAChangeOfTheirSettings) {
  const auto limit = [](int requests) {
    return "rate_limit { name: 'r' key: 'client_ip' limit { requests: " + std::to_string(requests) +
           " window { seconds: 60 } } }";
  };
  const std::string route = "route { name: 'a' match { path { prefix: '/' } } service: 'a' rate_limits: 'r' }";
  const auto find = [](const ServingState& state) {
    for (const BoundLimit& bound : state.limits) {
      if (bound.policy->name == "r") return bound.limiter;
    }
    throw std::out_of_range("r");
  };
  const auto first = Bind({Static("a", {"10.0.0.1:1"}), route, limit(2)});
  const TimePoint now = kNow;
  EXPECT_TRUE(find(*first)->Admit("k", now).allowed);
  const auto second = Bind({Static("a", {"10.0.0.1:1"}), route, limit(1)});
  EXPECT_EQ(find(*second), find(*first));
  EXPECT_FALSE(find(*second)->Admit("k", now).allowed) << "requests admitted before count";
  EXPECT_EQ(find(*second)->Peek("k", now).limit, 1u);
  bool listed = false;
  for (const auto& row : runtime_.Limits()) listed |= row.name == "r" && row.stats.keys == 1;
  EXPECT_TRUE(listed);
}

TEST_F(RuntimeStateTest, AnotherAlgorithmCountsWhatWasAdmittedBefore) {
  const auto limit = [](const std::string& algorithm) {
    return "rate_limit { name: 'r' algorithm: " + algorithm + " limit { requests: 3 window { seconds: 60 } } }";
  };
  const std::string route = "route { name: 'a' match { path { prefix: '/' } } service: 'a' rate_limits: 'r' }";
  const auto first = Bind({Static("a", {"10.0.0.1:1"}), route, limit("SLIDING_WINDOW")});
  EXPECT_TRUE(first->limits.at(0).limiter->Admit("k", kNow).allowed);
  EXPECT_TRUE(first->limits.at(0).limiter->Admit("k", kNow).allowed);
  const auto second = Bind({Static("a", {"10.0.0.1:1"}), route, limit("TOKEN_BUCKET")});
  EXPECT_TRUE(second->limits.at(0).limiter->Admit("k", kNow).allowed);
  const RateLimitDecision refused = second->limits.at(0).limiter->Admit("k", kNow);
  EXPECT_FALSE(refused.allowed);
  EXPECT_EQ(refused.reset, std::chrono::seconds(20)) << "a token bucket's";
}

TEST_F(RuntimeStateTest, WhatDidNotChangeIsShared) {
  EndpointTable table = Known();
  Put(table, "a", {{"10.0.0.1"}});
  Put(table, "b", {{"10.0.0.2"}});
  const auto snapshot = Compile({Consul("a"), Consul("b"), DynamicRoute("api", "allow: '*'"), RouteTo("a")});
  const auto first = runtime_.Bind(snapshot, table, true);
  Put(table, "b", {{"10.0.0.2"}, {"10.0.0.3"}});
  const auto second = runtime_.Bind(snapshot, table, true);
  EXPECT_EQ(&Find(*second, "a"), &Find(*first, "a"));
  EXPECT_NE(&Find(*second, "b"), &Find(*first, "b"));
  const auto& before = FindRoute(*first, "api").dynamic;
  const auto& after = FindRoute(*second, "api").dynamic;
  EXPECT_EQ(after.at("a").service, before.at("a").service);
  EXPECT_EQ(after.at("a").series, before.at("a").series);
  EXPECT_NE(after.at("b").service, before.at("b").service);
  EXPECT_EQ(FindRoute(*second, "a").series, FindRoute(*first, "a").series);
  EXPECT_EQ(Find(*second, "a").endpoints[0]->bound_generation, second->generation);
}

TEST_F(RuntimeStateTest, ANewSnapshotIsNeverSeenThroughOldPolicy) {
  const auto first = Bind({Static("a", {"10.0.0.1:1"})});
  const auto second = Bind({Static("a", {"10.0.0.1:1"})});
  const auto services = second->snapshot->services();
  EXPECT_EQ(Find(*second, "a").policy, &services[0]);
  EXPECT_EQ(Find(*second, "a").balancer, Find(*first, "a").balancer);
}

TEST_F(RuntimeStateTest, AChangedBalancePolicyMakesANewBalancer) {
  const auto first = Bind({Static("a", {"10.0.0.1:1", "10.0.0.2:1"})});
  const auto second = Bind({Static("a", {"10.0.0.1:1", "10.0.0.2:1"}, "load_balancer { policy: RANDOM }")});
  EXPECT_NE(Find(*second, "a").balancer, Find(*first, "a").balancer);
}

TEST_F(RuntimeStateTest, AHostStandsForAllOfItsAddresses) {
  hosts_["one.example"] = {"10.0.0.1", "10.0.0.2", "::1"};
  const std::vector<std::string> policy = {Static("a", {"one.example:80", "one.example:81"})};
  const auto state = Bind(policy);
  EXPECT_THAT(Names(Find(*state, "a")),
              ElementsAre("10.0.0.1:80", "10.0.0.2:80", "[::1]:80", "10.0.0.1:81", "10.0.0.2:81", "[::1]:81"));
  hosts_["one.example"] = {"10.0.0.2", "10.0.0.3"};
  const auto next = Bind(policy);
  EXPECT_THAT(Names(Find(*next, "a")), ElementsAre("10.0.0.2:80", "10.0.0.3:80", "10.0.0.2:81", "10.0.0.3:81"));
  EXPECT_EQ(Find(*next, "a").balancer->members()[0].state, Find(*state, "a").balancer->members()[1].state);
}

TEST_F(RuntimeStateTest, AHostThatCannotBeResolvedHasNoEndpoints) {
  const auto state = Bind({Static("a", {"missing.example:80", "10.0.0.1:80"}), Static("b", {"missing.example:80"})});
  EXPECT_THAT(Names(Find(*state, "a")), ElementsAre("10.0.0.1:80"));
  EXPECT_THAT(Find(*state, "b").endpoints, IsEmpty());
  EXPECT_EQ(Find(*state, "b").discovery, Discovery::kKnown);
}

TEST(RuntimeState, HostsAreLookedUpAsTheSystemDoes) {
  MetricsRegistry metrics(1);
  RuntimeState runtime(&metrics);
  const auto state = runtime.Bind(Compile({Static("a", {"localhost:80"})}), EndpointTable(), true);
  EXPECT_THAT(Names(Find(*state, "a")), ElementsAre("127.0.0.1:80"));
}

// A service's state of an endpoint belongs to that service, and survives other changes.
TEST_F(RuntimeStateTest, EndpointStatesSurviveNewSetsAndNewPolicy) {
  const auto first = Bind({Static("a", {"10.0.0.1:1", "10.0.0.2:1"}), Static("b", {"10.0.0.1:1"})});
  const auto state_of = [](const BoundService& service, size_t i) { return service.balancer->members()[i].state; };
  EXPECT_NE(state_of(Find(*first, "a"), 0), state_of(Find(*first, "b"), 0));
  EXPECT_EQ(state_of(Find(*first, "a"), 0)->serving_since(), EndpointState::kAlways) << "present from the start";
  now_ += 1h;
  const auto second = Bind({Static("a", {"10.0.0.3:1", "10.0.0.2:1", "10.0.0.1:1"},
                                   "load_balancer { policy: PEAK_EWMA slow_start { seconds: 60 } }")});
  EXPECT_EQ(state_of(Find(*second, "a"), 2), state_of(Find(*first, "a"), 0));
  EXPECT_EQ(state_of(Find(*second, "a"), 1), state_of(Find(*first, "a"), 1));
  EXPECT_EQ(state_of(Find(*second, "a"), 0)->serving_since(), std::chrono::nanoseconds(now_.time_since_epoch()).count())
      << "new, so it starts slowly";
  EXPECT_EQ(Find(*second, "a").balancer->options().balance, Balance::kPeakEwma);
  EXPECT_EQ(Find(*second, "a").balancer->options().slow_start, 60s);
}

TEST_F(RuntimeStateTest, OnlyMembersOfTheOwnZoneAreLocal) {
  EndpointTable table = Known();
  Put(table, "c", {{"10.0.0.1"}, {"10.0.0.2"}});
  table.sets[KeyOfSet("", "c")].mutable_instances(1)->set_zone("a");
  const auto state = Bind({"service { name: 's' static { address: '10.0.0.1:1' zone: 'a' } static { address: "
                           "'10.0.0.2:1' zone: 'b' } static { address: '10.0.0.3:1' } }",
                           Consul("c")},
                          table);
  const auto locals = [](const BoundService& service) {
    std::vector<bool> result;
    for (const auto& member : service.balancer->members()) result.push_back(member.local);
    return result;
  };
  EXPECT_THAT(locals(Find(*state, "s")), ElementsAre(true, false, false));
  EXPECT_THAT(locals(Find(*state, "c")), ElementsAre(false, true));
}

TEST_F(RuntimeStateTest, NamesAreTellableWithTheirAddressesAndThoseWithoutFirst) {
  hosts_["a.example"] = {"10.0.0.1", "10.0.0.2"};
  for (int bind = 0; bind < 2; ++bind) {
    Bind({Static("s", {"a.example:80", "gone.example:80", "10.0.0.9:80"})});
    const auto rows = runtime_.Hosts();
    ASSERT_THAT(rows, SizeIs(2));
    EXPECT_EQ(rows[0].service, "s");
    EXPECT_EQ(rows[0].address, "gone.example:80");
    EXPECT_THAT(rows[0].endpoints, IsEmpty());
    EXPECT_EQ(rows[1].address, "a.example:80");
    EXPECT_THAT(rows[1].endpoints, ElementsAre("10.0.0.1:80", "10.0.0.2:80"));
  }
  Bind({Static("s", {"10.0.0.9:80"})});
  EXPECT_THAT(runtime_.Hosts(), IsEmpty());
}

TEST_F(RuntimeStateTest, AnEjectedEndpointStaysOutOverNewPolicyAndIsNamed) {
  const std::string outlier = "outlier_ejection { consecutive_failures: 2 base_time { seconds: 30 } }";
  const std::vector<std::string> two = {"10.0.0.1:1", "10.0.0.2:1"};
  const auto first = Bind({Static("a", two, outlier)});
  const BoundService& service = Find(*first, "a");
  ASSERT_NE(service.ejector, nullptr);
  EndpointState* state = service.balancer->members()[0].state.get();
  for (int i = 0; i < 2; ++i) service.ejector->Report(state, OutlierEjector::Result::kFailure, now_);
  EXPECT_FALSE(state->usable());
  const auto rows = runtime_.Exclusions(now_ + 2s);
  ASSERT_THAT(rows, SizeIs(1));
  EXPECT_EQ(rows[0].service, "a");
  EXPECT_EQ(rows[0].endpoint, "10.0.0.1:1");
  EXPECT_EQ(rows[0].reason, "ejected: 2 failures in a row, 28s left");
  const auto second =
      Bind({Static("a", {"10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"}, "outlier_ejection { consecutive_failures: 7 }")});
  EXPECT_EQ(Find(*second, "a").ejector, service.ejector);
  EXPECT_FALSE(Find(*second, "a").balancer->members()[0].state->usable());
  EXPECT_THAT(runtime_.Health(), SizeIs(1));
  EXPECT_EQ(runtime_.Health()[0].ejected, 1u);
  EXPECT_EQ(runtime_.Health()[0].ejections, 1u);
  const auto third = Bind({Static("a", two)});
  EXPECT_EQ(Find(*third, "a").ejector, nullptr);
  EXPECT_TRUE(Find(*third, "a").balancer->members()[0].state->usable()) << "ejection is no longer configured";
  EXPECT_THAT(runtime_.Exclusions(now_), IsEmpty());
}

TEST_F(RuntimeStateTest, ASessionsCookieNamesNoAddressAndTheSameEndpointEverywhere) {
  const std::string session = "load_balancer { session { cookie: 'sid' } }";
  const auto state = Bind({Static("a", {"10.0.0.1:1", "10.0.0.2:1"}, session), Static("b", {"10.0.0.1:1"})});
  const BoundService& service = Find(*state, "a");
  ASSERT_NE(service.sessions, nullptr);
  ASSERT_THAT(service.sessions->values, SizeIs(2));
  EXPECT_EQ(service.sessions->values[0].size(), 32u);
  EXPECT_NE(service.sessions->values[0], service.sessions->values[1]);
  EXPECT_EQ(Find(*state, "b").sessions, nullptr);
  MetricsRegistry metrics(1);
  RuntimeState other(&metrics);
  const auto elsewhere = other.Bind(Compile({Static("a", {"10.0.0.2:1"}, session)}), EndpointTable(), true);
  EXPECT_EQ(Find(*elsewhere, "a").sessions->values[0], service.sessions->values[1]);
}

OverrideTable::Override Weight(uint32_t weight) { return {v1::EndpointOverride::kWeight, weight}; }
OverrideTable::Override Drain() { return {v1::EndpointOverride::kDrain, 0}; }

TEST_F(RuntimeStateTest, WhatOperatorsSetForAnEndpointHolds) {
  const std::vector<std::string> policy = {
      Static("a", {"10.0.0.1:1", "[2001:db8:0::1]:1", "10.0.0.3:1"}),
      Static("b", {"10.0.0.1:1"}),
      Consul("c"),
      "service { name: 'd' consul { service: 'c' } }",
      "service { name: 'e' consul { service: 'c' datacenter: 'dc2' } }",
      DynamicRoute("api", "allow: '*'"),
  };
  EndpointTable table = Known();
  Put(table, "c", {{"10.1.0.1"}, {"10.1.0.2"}, {"10.1.0.3", 80, v1::Instance::CRITICAL}});
  Put(table, "c", {{"10.1.0.1"}}, v1::EndpointSet::KNOWN, "dc2");
  table.overrides.by_endpoint[{"a", "10.0.0.1:1"}] = Weight(0);
  table.overrides.by_endpoint[{"a", "[2001:db8::1]:1"}] = Weight(7);
  table.overrides.by_endpoint[{"c", "10.1.0.1:80"}] = Drain();
  table.overrides.by_endpoint[{"d", "10.1.0.1:80"}] = Weight(3);
  table.overrides.by_endpoint[{"c", "10.1.0.3:80"}] = Weight(1);
  const auto state = Bind(policy, table);
  EXPECT_THAT(Names(Find(*state, "a")), ElementsAre("[2001:db8::1]:1", "10.0.0.3:1"));
  EXPECT_EQ(Find(*state, "a").balancer->members()[0].weight, 7u);
  EXPECT_THAT(Names(Find(*state, "b")), ElementsAre("10.0.0.1:1")) << "another service's";
  EXPECT_THAT(Names(Find(*state, "c")), ElementsAre("10.1.0.2:80")) << "a weight does not make an endpoint healthy";
  EXPECT_THAT(Names(Find(*state, "d")), ElementsAre("10.1.0.1:80", "10.1.0.2:80")) << "its own override wins";
  EXPECT_THAT(Names(Find(*state, "e")), ElementsAre("10.1.0.1:80")) << "another datacenter";
  EXPECT_THAT(Names(*FindRoute(*state, "api").dynamic.at("c").service), ElementsAre("10.1.0.2:80"));
  table.overrides.by_endpoint.clear();
  EXPECT_THAT(Names(Find(*Bind(policy, table), "a")), ElementsAre("10.0.0.1:1", "[2001:db8::1]:1", "10.0.0.3:1"));
}

TEST_F(RuntimeStateTest, AnEndpointThatDrainsKeepsItsSessions) {
  const std::string session = "load_balancer { session { cookie: 'sid' } }";
  const std::vector<std::string> policy = {Static("a", {"10.0.0.1:1", "10.0.0.2:1"}, session),
                                           Static("b", {"10.0.0.1:1", "10.0.0.2:1"})};
  EndpointTable table = Known();
  table.overrides.by_endpoint[{"a", "10.0.0.1:1"}] = Drain();
  table.overrides.by_endpoint[{"b", "10.0.0.1:1"}] = Drain();
  const auto state = Bind(policy, table);
  const BoundService& service = Find(*state, "a");
  EXPECT_THAT(Names(service), ElementsAre("10.0.0.1:1", "10.0.0.2:1"));
  EXPECT_TRUE(service.balancer->Usable(0));
  EXPECT_EQ(service.balancer->members()[0].weight, 0u);
  EXPECT_THAT(Names(Find(*state, "b")), ElementsAre("10.0.0.2:1")) << "no sessions to keep";
}

TEST_F(RuntimeStateTest, TrafficIsThatOfConsulsServices) {
  EndpointTable table = Known();
  Put(table, "c", {{"10.1.0.1"}});
  Put(table, "x", {{"10.1.0.1"}});
  const auto state =
      Bind({Static("a", {"10.0.0.1:1"}), "service { name: 'd' consul { service: 'c' datacenter: 'dc2' } }",
            DynamicRoute("api", "allow: 'x'")},
           table);
  const uint32_t id = Find(*state, "d").runtime->metrics_service;
  for (int i = 0; i < 3; ++i) metrics_.shard(0)->Record(id, 0, Method::kGet, 200, Reason::kNone, 1ms);
  std::map<std::string, uint64_t> requests;
  for (const RuntimeState::TrafficRow& row : runtime_.Traffic()) {
    requests[row.datacenter + "/" + row.service] = row.requests;
  }
  EXPECT_THAT(requests, UnorderedElementsAre(Pair("dc2/c", 3u), Pair("/x", 0u)));
}

// 2,000 Consul services, one changed: binds in less than 5 ms in a release build; the bound leaves room for a debug
// build.
TEST_F(RuntimeStateTest, OneChangeAmongManyServicesIsCheap) {
  EndpointTable table = Known();
  std::vector<std::string> policy = {DynamicRoute("api", "allow: '*'")};
  for (int i = 0; i < 1000; ++i) {
    const std::string name = "s" + std::to_string(i);
    policy.push_back(Consul(name));
    policy.push_back(RouteTo(name));
    Put(table, name, {{"10.0." + std::to_string(i / 250) + "." + std::to_string(i % 250)}, {"10.1.0.1"}, {"10.1.0.2"}});
  }
  const auto snapshot = Compile(policy);
  runtime_.Bind(snapshot, table, true);
  auto fastest = std::chrono::nanoseconds::max();
  for (int i = 0; i < 5; ++i) {
    Put(table, "s7", {{"10.2.0." + std::to_string(i)}});
    const auto begin = std::chrono::steady_clock::now();
    const auto state = runtime_.Bind(snapshot, table, true);
    fastest = std::min<std::chrono::nanoseconds>(fastest, std::chrono::steady_clock::now() - begin);
    EXPECT_THAT(Names(*FindRoute(*state, "api").dynamic.at("s7").service),
                ElementsAre("10.2.0." + std::to_string(i) + ":80"));
  }
  RecordProperty("bind_us", static_cast<int>(fastest.count() / 1000));
  EXPECT_LT(fastest, 100ms);
}

}  // namespace
}  // namespace gateway::dataplane
