#include "common/policy/snapshot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/text.h"
#include "common/policy/builtin.h"
#include "common/policy/kinds/retry.h"
#include "common/policy/policy_files.h"
#include "common/policy/route/route_pattern.h"
#include "re2/re2.h"

namespace gateway {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<v1::Resource> ReadPolicy(std::string_view yaml) {
  std::vector<PolicyProblem> problems;
  std::vector<v1::Resource> resources;
  for (PolicyDocument& document : ParsePolicy(yaml, "test.yaml", &problems)) {
    resources.push_back(std::move(document.resource));
  }
  for (const PolicyProblem& problem : problems) ADD_FAILURE() << problem.ToString();
  return resources;
}

CompileResult Compile(const std::vector<v1::Resource>& resources, const CompileOptions& options = {}) {
  std::vector<const v1::Resource*> pointers;
  for (const v1::Resource& resource : resources) pointers.push_back(&resource);
  return CompileSnapshot(pointers, options);
}

// Includes the built-ins that `yaml` does not replace.
CompileResult CompileWithBuiltins(std::string_view yaml, std::optional<BuiltinRateLimit> limit = BuiltinRateLimit{}) {
  std::vector<v1::Resource> resources = ReadPolicy(yaml);
  const size_t own = resources.size();
  for (v1::Resource& builtin : BuiltinResources(limit)) {
    bool replaced = false;
    for (size_t i = 0; i < own; ++i) {
      replaced = replaced || (builtin.has_rate_limit() && resources[i].rate_limit().name() == "default") ||
                 (builtin.has_circuit_breaker() && resources[i].circuit_breaker().name() == "hystrix") ||
                 (builtin.has_defaults() && resources[i].has_defaults());
    }
    if (!replaced) resources.push_back(std::move(builtin));
  }
  return Compile(resources);
}

std::vector<std::string> Texts(const std::vector<v1::PolicyError>& errors) {
  std::vector<std::string> texts;
  for (const v1::PolicyError& e : errors) {
    texts.push_back(e.kind() + "/" + e.name() + ": " + e.field() + ": " + e.message());
  }
  return texts;
}

constexpr std::string_view kService = "{ kind: Service, name: orders, static: [{ address: '127.0.0.1:1' }] }\n---\n";

// The errors of a Route next to a Service `orders`.
std::vector<std::string> RouteErrors(const std::string& body) {
  std::vector<v1::Resource> resources = ReadPolicy(std::string(kService) + "{ kind: Route, name: r, " + body + " }");
  CompileResult result = Compile(resources);
  EXPECT_EQ(result.snapshot == nullptr, !result.errors.empty());
  std::vector<std::string> texts = Texts(result.errors);
  for (std::string& text : texts) {
    if (text.starts_with("Route/r: ")) text = text.substr(9);
  }
  return texts;
}

TEST(CompileSnapshot, ReportsEverythingAtOnceInOrder) {
  auto result = Compile(ReadPolicy(R"(
kind: Route
name: orders
match: { path: { prefix: /a/../b }, methods: [get], hosts: [API.example.com] }
service: ordres
rate_limits: [per-clients]
---
{ kind: Service, name: orders, static: [{ address: '127.0.0.1:1' }], circuit_breaker: hystrx }
---
{ kind: CircuitBreaker, name: hystrix }
---
{ kind: RateLimit, name: per-client, key: [client_ip, clientip], limit: { requests: 1, window: 1s } }
)"));
  EXPECT_EQ(result.snapshot, nullptr);
  EXPECT_THAT(
      Texts(result.errors),
      ElementsAre("RateLimit/per-client: key[1]: 'clientip' is not a key; did you mean 'client_ip'?",
                  "Route/orders: match.hosts[0]: 'API.example.com' is not lower case; write 'api.example.com'",
                  "Route/orders: match.methods[0]: methods have a case; 'get' can never match; write 'GET'",
                  "Route/orders: match.path.prefix: '/a/../b' can never match: routes see normalised paths; write '/b'",
                  "Route/orders: rate_limits[0]: rate limit 'per-clients' is not defined; did you mean 'per-client'?",
                  "Route/orders: service: service 'ordres' is not defined; did you mean 'orders'?",
                  "Service/orders: circuit_breaker: circuit breaker 'hystrx' is not defined; did you mean 'hystrix'?"));
}

TEST(CompileSnapshot, ARouteLeadsToExactlyOnePlace) {
  EXPECT_THAT(
      RouteErrors("match: {}"),
      ElementsAre(": leads nowhere; exactly one of service, split, consul_service, redirect and respond is needed"));
  EXPECT_THAT(
      RouteErrors("match: {}, service: orders, split: [{ service: orders }]"),
      ElementsAre(
          ": leads to several places; exactly one of service, split, consul_service, redirect and respond is needed"));
  EXPECT_THAT(RouteErrors("match: {}, service: none"), ElementsAre(HasSubstr("service 'none' is not defined")));
  EXPECT_THAT(RouteErrors("match: {}, split: [{ service: orders, weight: 0 }]"),
              ElementsAre("split: has no weight above 0"));
  EXPECT_THAT(RouteErrors("match: {}, split: [{ service: orders }, { service: orders }, { service: nope }]"),
              ElementsAre("split[1].service: 'orders' comes twice", "split[2].service: service 'nope' is not defined"));
  EXPECT_THAT(RouteErrors("match: {}, service: orders"), IsEmpty());
}

TEST(CompileSnapshot, ChecksPaths) {
  auto path_error = [](const std::string& path) {
    std::vector<std::string> errors = RouteErrors("match: { path: { " + path + " } }, service: orders");
    return errors.size() == 1 ? errors[0] : std::to_string(errors.size()) + " errors";
  };
  for (std::string ok : {"exact: /", "exact: /a/", "prefix: /", "prefix: /a/", "exact: /a%20b", "template: '/**'",
                         "template: '/{a}/b/{c_1}/**'", "template: /a/", "regex: '/a.*'", "exact: /a*b"}) {
    EXPECT_EQ(path_error(ok), "0 errors") << ok;
  }
  EXPECT_EQ(path_error("exact: a"), "match.path.exact: 'a' does not start with '/'");
  EXPECT_THAT(path_error("prefix: //a"), HasSubstr("write '/a'"));
  EXPECT_THAT(path_error("prefix: /%61"), HasSubstr("write '/a'"));
  EXPECT_THAT(path_error("prefix: /a%2f"), HasSubstr("write '/a%2F'"));
  EXPECT_THAT(path_error("exact: /.."), HasSubstr("rejected with 400"));
  EXPECT_THAT(path_error("exact: '/..;'"), HasSubstr("rejected with 400"));
  EXPECT_THAT(path_error("exact: '/a b'"), HasSubstr("only percent-encoded"));
  EXPECT_THAT(path_error("exact: '/a?b'"), HasSubstr("under `query`"));
  EXPECT_THAT(path_error("prefix: '/{id}'"), HasSubstr("`template`"));
  EXPECT_THAT(path_error("exact: '/a%'"), HasSubstr("%25"));
  EXPECT_THAT(path_error("template: '/a{id}'"), HasSubstr("whole segment"));
  EXPECT_THAT(path_error("template: '/{'"), HasSubstr("whole segment"));
  EXPECT_THAT(path_error("template: '/{}'"), HasSubstr("name is letters"));
  EXPECT_THAT(path_error("template: '/{1a}'"), HasSubstr("name is letters"));
  EXPECT_THAT(path_error("template: '/{a}/{a}'"), HasSubstr("comes twice"));
  EXPECT_THAT(path_error("template: '/**/a'"), HasSubstr("last segment"));
  EXPECT_THAT(path_error("template: '/*'"), HasSubstr("{name}"));
  EXPECT_THAT(path_error("template: '/{a}//b'"), HasSubstr("write '/x/b'"));
  EXPECT_THAT(path_error("regex: '/(a'"), HasSubstr("is not an RE2 regex"));
  EXPECT_THAT(path_error("regex: '(((a{100}){100}){100}){100}'"), HasSubstr("is not an RE2 regex"))
      << "memory is bounded";
  EXPECT_THAT(path_error("regex: '" + std::string(kRegexBytesMax + 1, 'a') + "'"), HasSubstr("longer"));
  EXPECT_THAT(path_error("exact: '/" + std::string(kPathPatternBytesMax, 'a') + "'"), HasSubstr("longer"));
  std::string deep;
  for (size_t i = 0; i <= kPathPatternSegmentsMax; ++i) deep += "/a";
  EXPECT_THAT(path_error("exact: " + deep), HasSubstr("segments"));
  std::string variables;
  for (size_t i = 0; i <= kTemplateVariablesMax; ++i) variables += "/{v" + std::to_string(i) + "}";
  EXPECT_THAT(path_error("template: '" + variables + "'"), HasSubstr("at most 16"));
  EXPECT_EQ(path_error(""), "match.path: needs one of exact, prefix, template and regex");
}

TEST(CompileSnapshot, ChecksMatchesOfGrpc) {
  EXPECT_THAT(RouteErrors("match: { grpc: { service: shop.v1.Orders, method: Get } }, service: orders"), IsEmpty());
  EXPECT_THAT(RouteErrors("match: { grpc: { service: shop.v1.Orders } }, service: orders"), IsEmpty());
  EXPECT_THAT(RouteErrors("match: { grpc: { service: shop.v1.Orders }, path: { prefix: /a } }, service: orders"),
              ElementsAre(HasSubstr("expected one of grpc and path")));
  EXPECT_THAT(RouteErrors("match: { grpc: { service: shop.v1.Orders }, methods: [GET] }, service: orders"),
              ElementsAre(HasSubstr("calls are POST")));
  EXPECT_THAT(RouteErrors("match: { grpc: { service: shop/Orders } }, service: orders"),
              ElementsAre(HasSubstr("is not the name of a gRPC service")));
  EXPECT_THAT(RouteErrors("match: { grpc: { service: shop.v1.Orders, method: a.b } }, service: orders"),
              ElementsAre(HasSubstr("is not the name of a gRPC method")));
}

TEST(CompileSnapshot, MatchesCallsOfGrpcAlone) {
  const CompileResult result = CompileWithBuiltins(R"(
kind: Service
name: orders
static: [{ address: "10.0.0.7:8080" }]
protocol: http2
health_check: { type: grpc, service: shop.v1.Orders }
---
kind: Route
name: get
match: { grpc: { service: shop.v1.Orders, method: Get } }
service: orders
---
kind: Route
name: all
match: { grpc: { service: shop.v1.Orders } }
service: orders
)");
  ASSERT_THAT(result.errors, IsEmpty());
  EXPECT_EQ(result.snapshot->services()[0].protocol, UpstreamProtocol::kHttp2);
  EXPECT_TRUE(result.snapshot->services()[0].health_check->grpc);
  const auto route = [&](std::string_view method, std::string_view path, std::string_view type) -> std::string {
    const FieldView field{"Content-Type", type};
    RouteMatch match;
    result.snapshot->Match({method, "a.test", path, "", {&field, 1}}, &match);
    return match.route == nullptr ? "" : match.route->name;
  };
  EXPECT_EQ(route("POST", "/shop.v1.Orders/Get", "application/grpc"), "get");
  EXPECT_EQ(route("POST", "/shop.v1.Orders/Get", "application/grpc+proto"), "get");
  EXPECT_EQ(route("POST", "/shop.v1.Orders/List", "application/grpc"), "all");
  EXPECT_EQ(route("POST", "/shop.v1.Orders/Get", "application/json"), "");
  EXPECT_EQ(route("GET", "/shop.v1.Orders/Get", "application/grpc"), "");
  EXPECT_EQ(route("POST", "/shop.v1.OrdersToo/Get", "application/grpc"), "");
}

TEST(CompileSnapshot, ChecksProtocols) {
  const auto errors = [](const std::string& fields) {
    std::vector<std::string> texts;
    for (const v1::PolicyError& error :
         Compile(ReadPolicy("kind: Service\nname: a\nstatic: [{ address: \"10.0.0.7:80\" }]\n" + fields)).errors) {
      texts.push_back(error.field() + ": " + error.message());
    }
    return texts;
  };
  EXPECT_THAT(errors("protocol: auto"), IsEmpty());
  EXPECT_THAT(errors("health_check: { type: grpc }"), IsEmpty()) << "the check is by HTTP/2, requests need not be";
  EXPECT_THAT(errors("protocol: http1\ntls: {}\nhealth_check: { type: grpc, service: a.B }"), IsEmpty());
  EXPECT_THAT(errors("protocol: auto\ntls: {}\nhealth_check: { type: grpc }"), IsEmpty());
  EXPECT_THAT(errors("protocol: http2\nhealth_check: { type: grpc, path: /a }"),
              ElementsAre(HasSubstr("has no path or statuses")));
  EXPECT_THAT(errors("health_check: { service: a.B }"), ElementsAre(HasSubstr("with type: grpc only")));
}

TEST(CompileSnapshot, RetriesNameStatusesOfGrpc) {
  RetryPolicy policy;
  EXPECT_TRUE(AddRetryCondition("grpc:unavailable", &policy));
  EXPECT_TRUE(policy.grpc_codes.test(14));
  EXPECT_EQ(policy.grpc_codes.count(), 1u);
  for (const std::string_view none : {"grpc:ok", "grpc:", "grpc:UNAVAILABLE", "grpc:14"}) {
    EXPECT_FALSE(AddRetryCondition(none, &policy)) << none;
  }
}

TEST(CompileSnapshot, ChecksHosts) {
  auto host_error = [](const std::string& host) {
    std::vector<std::string> errors = RouteErrors("match: { hosts: [" + host + "] }, service: orders");
    return errors.size() == 1 ? errors[0] : std::to_string(errors.size()) + " errors";
  };
  for (std::string ok :
       {"a", "a.b-c.example", "'*.example.org'", "10.0.0.1", "'[::1]'", "a_b.c", "xn--bcher-kva.example"}) {
    EXPECT_EQ(host_error(ok), "0 errors") << ok;
  }
  EXPECT_THAT(host_error("A.example"), HasSubstr("write 'a.example'"));
  EXPECT_THAT(host_error("'*'"), HasSubstr("leave `hosts` out"));
  EXPECT_THAT(host_error("'a.*.b'"), HasSubstr("whole first label"));
  EXPECT_THAT(host_error("'*a.b'"), HasSubstr("whole first label"));
  EXPECT_THAT(host_error("'*.'"), HasSubstr("is empty"));
  EXPECT_THAT(host_error("'*.[::1]'"), HasSubstr("no wildcard"));
  EXPECT_THAT(host_error("'a:80'"), HasSubstr("no port"));
  EXPECT_THAT(host_error("'::1'"), HasSubstr("brackets"));
  EXPECT_THAT(host_error("'[::0:1]'"), HasSubstr("write '[::1]'"));
  EXPECT_THAT(host_error("'[a]'"), HasSubstr("not an IPv6"));
  EXPECT_THAT(host_error("a."), HasSubstr("dot"));
  for (const std::string& bad : std::vector<std::string>{"a..b", "-a", "'a b'", "'a/b'", std::string(64, 'a'), "'é'"}) {
    EXPECT_THAT(host_error(bad), HasSubstr("is not a host name")) << bad;
  }
  EXPECT_THAT(host_error("a, a"), HasSubstr("comes twice"));
}

TEST(CompileSnapshot, ChecksMethodsHeadersAndQueries) {
  EXPECT_THAT(RouteErrors("match: { methods: [CONNECT, TRACE, 'A B', '', GET, GET] }, service: orders"),
              ElementsAre("match.methods[0]: 'CONNECT' is never served", "match.methods[1]: 'TRACE' is never served",
                          "match.methods[2]: 'A B' is not a method; expected a name like GET",
                          "match.methods[3]: '' is not a method; expected a name like GET",
                          "match.methods[5]: 'GET' comes twice"));
  EXPECT_THAT(
      RouteErrors("match: { headers: [{ name: ':path', exact: a }, { name: h }, { name: h, prefix: '' }, "
                  "{ name: h, regex: '(' }, { name: h, exact: ' a' }, { name: h, prefix: ' a' }] }, service: orders"),
      ElementsAre("match.headers[0].name: ':path' is not a header name; expected a name like X-Tenant",
                  "match.headers[1]: needs one of exact, prefix, regex and present",
                  "match.headers[2].prefix: is empty; `present: true` takes any value",
                  HasSubstr("match.headers[3].regex: '(' is not an RE2 regex"), HasSubstr("match.headers[4].exact: "),
                  HasSubstr("match.headers[5].prefix: ")));
  EXPECT_THAT(RouteErrors("match: { query: [{ name: q }] }, service: orders"),
              ElementsAre("match.query[0]: needs one of exact, prefix, regex and present"));
}

TEST(CompileSnapshot, ChecksRewrites) {
  auto rewrite_errors = [](const std::string& path, const std::string& rewrite) {
    return RouteErrors("match: { path: { " + path + " } }, service: orders, rewrite: { " + rewrite + " }");
  };
  EXPECT_THAT(rewrite_errors("prefix: /a", "prefix: /, host: orders.internal"), IsEmpty());
  EXPECT_THAT(rewrite_errors("template: '/a/{id}/**'", "template: '/b/{id}/**', host: 'Orders:8080'"), IsEmpty());
  EXPECT_THAT(rewrite_errors("exact: /a", "template: /b"), IsEmpty());
  EXPECT_THAT(rewrite_errors("exact: /a", "prefix: /b"),
              ElementsAre(HasSubstr("rewrite.prefix: needs a match.path.prefix")));
  EXPECT_THAT(rewrite_errors("prefix: /a", "prefix: /b, template: /c"),
              ElementsAre(HasSubstr("rewrite: has more than one of")));
  EXPECT_THAT(rewrite_errors("prefix: /a", ""), ElementsAre(HasSubstr("rewrite: is empty")));
  EXPECT_THAT(rewrite_errors("prefix: /a", "prefix: b"), ElementsAre(HasSubstr("rewrite.prefix: 'b' does not start")));
  EXPECT_THAT(rewrite_errors("template: '/a/{id}'", "template: '/b/{ids}/**'"),
              ElementsAre("rewrite.template: has **, but match.path has no template that ends in **",
                          "rewrite.template: variable 'ids' is not in match.path.template"));
  EXPECT_THAT(rewrite_errors("prefix: /a", "host: 'a b'"), ElementsAre(HasSubstr("rewrite.host: ")));
  EXPECT_THAT(rewrite_errors("prefix: /a", "host: 'a:x'"), ElementsAre(HasSubstr("rewrite.host: ")));
}

TEST(CompileSnapshot, ChecksConsulServiceRoutes) {
  EXPECT_THAT(RouteErrors("match: { path: { prefix: /a } }, consul_service: { from: service, allow: ['*'] }"),
              ElementsAre(HasSubstr("consul_service.from: needs a match.path.template")));
  EXPECT_THAT(
      RouteErrors("match: { path: { template: '/{s}/**' } }, consul_service: { from: service, allow: ['', 'a b'], "
                  "template: { circuit_breaker: nope } }"),
      ElementsAre("consul_service.allow[0]: is empty", HasSubstr("consul_service.allow[1]: has a space"),
                  "consul_service.from: variable 'service' is not in match.path.template",
                  "consul_service.template.circuit_breaker: circuit breaker 'nope' is not defined"));
}

// Stored before their keys had a grammar: a control plane that rejected them would not start after an upgrade.
TEST(CompileSnapshot, TakesStoredLabelsOfAnyKey) {
  EXPECT_THAT(
      Compile(ReadPolicy("{ kind: Service, name: s, static: [{ address: '127.0.0.1:1' }], labels: { 'my team': x } }"))
          .errors,
      IsEmpty());
}

TEST(CompileSnapshot, ChecksServices) {
  auto errors = [](const std::string& body) {
    return Texts(Compile(ReadPolicy("{ kind: Service, name: s, " + body + " }")).errors);
  };
  EXPECT_THAT(errors("static: [{ address: '127.0.0.1:1' }], consul: { service: s }"),
              ElementsAre(HasSubstr("has both")));
  EXPECT_THAT(errors("labels: {}"), ElementsAre(HasSubstr("needs consul or static")));
  EXPECT_THAT(
      errors("static: [{ address: '127.0.0.1:1' }, { address: '127.0.0.1:1' }, { address: 'a:0' }, { address: a }]"),
      ElementsAre(HasSubstr("static[1].address: '127.0.0.1:1' is static[0] already"),
                  HasSubstr("static[2].address: 'a:0' has port 0"),
                  HasSubstr("static[3].address: expected host:port")));
  EXPECT_THAT(errors("consul: { service: s, tags: [''] }"), ElementsAre(HasSubstr("consul.tags[0]: is empty")));
}

TEST(CompileSnapshot, ChecksLimitsAndDefaults) {
  EXPECT_THAT(
      Texts(Compile(ReadPolicy("{ kind: RateLimit, name: l, key: [path, path], limit: { requests: 1, window: 1s } }"))
                .errors),
      ElementsAre("RateLimit/l: key[1]: 'path' comes twice"));
  EXPECT_THAT(Texts(Compile(ReadPolicy("{ kind: Defaults, name: other }")).errors),
              ElementsAre(HasSubstr("there is one Defaults, named 'default'")));
  EXPECT_THAT(
      Texts(
          Compile(ReadPolicy("{ kind: Defaults, name: default, rate_limits: [none, x], circuit_breaker: y }")).errors),
      ElementsAre("Defaults/default: circuit_breaker: circuit breaker 'y' is not defined",
                  "Defaults/default: rate_limits[0]: 'none' must be the only entry",
                  "Defaults/default: rate_limits[1]: rate limit 'x' is not defined"));
}

TEST(CompileSnapshot, RefusesTheSameNameTwiceAndEmptyResources) {
  std::vector<v1::Resource> resources = ReadPolicy(kService);
  resources.push_back(resources[0]);
  resources.emplace_back();
  EXPECT_THAT(Texts(Compile(resources).errors),
              ElementsAre(HasSubstr("/: kind: is missing"), "Service/orders: name: 'orders' comes twice"));
}

TEST(CompileSnapshot, ChecksValuesThatDidNotComeFromYaml) {
  std::vector<v1::Resource> resources = ReadPolicy(kService);
  resources[0].mutable_service()->set_name("Not A Name");
  resources[0].mutable_service()->mutable_load_balancer()->set_policy(static_cast<v1::LoadBalancer::Policy>(77));
  resources[0].mutable_service()->mutable_timeouts()->mutable_connect()->set_seconds(-1);
  std::vector<std::string> fields;
  for (const v1::PolicyError& error : Compile(resources).errors) fields.push_back(error.field());
  EXPECT_THAT(fields, Contains("name"));
  EXPECT_THAT(fields, Contains("load_balancer.policy"));
  EXPECT_THAT(fields, Contains("timeouts.connect"));
}

TEST(CompileSnapshot, BoundsTheNumberOfRegexes) {
  std::vector<v1::Resource> resources = ReadPolicy(kService);
  for (size_t i = 0; i <= kRegexesMax; ++i) {
    v1::Route& route = *resources.emplace_back().mutable_route();
    route.set_name("r" + std::to_string(i));
    route.set_service("orders");
    route.mutable_match()->mutable_path()->set_regex("/a" + std::to_string(i));
  }
  EXPECT_THAT(Texts(Compile(resources).errors), ElementsAre(HasSubstr("one regex too many")));
  resources.pop_back();
  EXPECT_THAT(Texts(Compile(resources).errors), IsEmpty());
}

TEST(CompileSnapshot, RegexesOfRewritesCountToo) {
  std::vector<v1::Resource> resources = ReadPolicy(kService);
  for (size_t i = 0; i <= kRegexesMax; ++i) {
    v1::Route& route = *resources.emplace_back().mutable_route();
    route.set_name("r" + std::to_string(i));
    route.set_service("orders");
    route.mutable_match()->mutable_path()->set_exact("/a" + std::to_string(i));
    route.mutable_rewrite()->mutable_regex()->set_pattern("^/a");
    route.mutable_rewrite()->mutable_regex()->set_substitution("/b");
  }
  EXPECT_THAT(Texts(Compile(resources).errors), ElementsAre(HasSubstr("rewrite.regex: has one regex too many")));
  resources.pop_back();
  EXPECT_THAT(Texts(Compile(resources).errors), IsEmpty());
}

TEST(CompileSnapshot, ARewriteThatNeedsTooMuchMemoryIsRefused) {
  std::string pattern = "^";  // more than the limit for a regex, less than RE2's own
  for (int i = 0; i < 60; ++i) pattern += "[a-z]{1000}";
  const re2::RE2 by_itself(pattern, re2::RE2::Quiet);
  ASSERT_TRUE(by_itself.ok()) << by_itself.error();
  EXPECT_THAT(
      RouteErrors("match: {}, service: orders, rewrite: { regex: { pattern: '" + pattern + "', substitution: /b } }"),
      ElementsAre(HasSubstr("rewrite.regex.pattern: ")));
}

TEST(CompileSnapshot, OfCorsAndARouteOneWritesItsFields) {
  constexpr std::string_view kRoutes = R"(
{ kind: Defaults, name: default, cors: web }
---
{ kind: Cors, name: web, origins: ["*"] }
---
kind: Route
name: twice
match: { path: { prefix: /twice } }
respond:
  status: 200
  headers: { Access-Control-Max-Age: "5" }
response_headers: { set: { access-control-allow-origin: "*" }, remove: [Access-Control-Allow-Headers] }
---
kind: Route
name: by-itself
match: { path: { prefix: /by-itself } }
respond: { status: 200 }
cors: none
response_headers: { set: { Access-Control-Allow-Origin: "*" } }
)";
  EXPECT_THAT(
      Texts(Compile(ReadPolicy(kRoutes)).errors),
      ElementsAre(HasSubstr("Route/twice: respond.headers.Access-Control-Max-Age: is already set by Cors/web"),
                  "Route/twice: response_headers.set.access-control-allow-origin: is already set by Cors/web: set it "
                  "there, or give this route `cors: none`"));
}

TEST(CompileSnapshot, FillsDefaultsIn) {
  auto result = CompileWithBuiltins(R"(
{ kind: Service, name: plain, static: [{ address: 'a.example:80' }, { address: '[2001:db8::1]:81', weight: 0, zone: z }] }
---
{ kind: Service, name: unbroken, consul: { service: u, tags: [b, a] }, circuit_breaker: none, timeouts: { connect: 1s, response: 2s, idle: 3s } }
---
{ kind: Route, name: a, match: { path: { prefix: /a } }, service: plain }
---
{ kind: Route, name: b, match: { path: { prefix: /b } }, service: unbroken, rate_limits: [none], timeout: 5s }
---
{ kind: Route, name: c, match: { path: { prefix: /c } }, split: [{ service: plain, weight: 95 }, { service: unbroken, weight: 5 }], rate_limits: [shadow, disabled, default] }
---
{ kind: RateLimit, name: shadow, limit: { requests: 7, window: 2m }, mode: shadow }
---
{ kind: RateLimit, name: disabled, limit: { requests: 7, window: 2m }, mode: disabled }
---
{ kind: Defaults, name: default, rate_limits: [default], circuit_breaker: hystrix, timeout: 10s }
)");
  ASSERT_NE(result.snapshot, nullptr) << testing::PrintToString(Texts(result.errors));
  const Snapshot& snapshot = *result.snapshot;
  ASSERT_EQ(snapshot.services().size(), 2u);
  const ServicePolicy& plain = snapshot.services()[0];
  EXPECT_EQ(plain.name, "plain");
  ASSERT_EQ(plain.addresses.size(), 2u);
  EXPECT_EQ(plain.addresses[0].host, "a.example");
  EXPECT_EQ(plain.addresses[0].weight, 1u);
  EXPECT_EQ(plain.addresses[1].host, "2001:db8::1");
  EXPECT_EQ(plain.addresses[1].port, 81);
  EXPECT_EQ(plain.addresses[1].weight, 0u);
  ASSERT_NE(plain.breaker, nullptr);
  EXPECT_EQ(plain.breaker->name, "hystrix");
  EXPECT_EQ(plain.breaker->sleep_window, Millis(5000));
  EXPECT_EQ(plain.response_timeout, Millis(15000));
  const ServicePolicy& unbroken = snapshot.services()[1];
  EXPECT_TRUE(unbroken.from_consul);
  EXPECT_THAT(unbroken.tags, ElementsAre("a", "b"));
  EXPECT_EQ(unbroken.breaker, nullptr);
  EXPECT_EQ(unbroken.connect_timeout, Millis(1000));
  EXPECT_EQ(unbroken.on_suspect, v1::ConsulSource::KEEP);
  EXPECT_EQ(unbroken.balance.policy, v1::LoadBalancer::ROUND_ROBIN);

  ASSERT_EQ(snapshot.rate_limits().size(), 2u) << "a disabled limit is left out";
  EXPECT_EQ(snapshot.rate_limits()[0].name, "default");
  EXPECT_EQ(snapshot.rate_limits()[1].mode, v1::RateLimit::SHADOW);
  EXPECT_EQ(snapshot.rate_limits()[1].window, Millis(120'000));
  EXPECT_EQ(snapshot.builtin_rate_limit(), 0);

  ASSERT_EQ(snapshot.routes().size(), 3u);
  EXPECT_THAT(snapshot.routes()[0]->rate_limits, ElementsAre(0u));
  EXPECT_EQ(snapshot.routes()[0]->timeout, Millis(10'000));
  EXPECT_EQ(snapshot.routes()[0]->pattern, "/a");
  EXPECT_THAT(snapshot.routes()[1]->rate_limits, IsEmpty());
  EXPECT_EQ(snapshot.routes()[1]->timeout, Millis(5'000));
  EXPECT_THAT(snapshot.routes()[2]->rate_limits, ElementsAre(1u, 0u));
  EXPECT_EQ(snapshot.routes()[2]->index, 2u);
  EXPECT_EQ(snapshot.routes()[2]->split_total, 100u);
  ASSERT_EQ(snapshot.routes()[2]->split.size(), 2u);
  EXPECT_EQ(snapshot.routes()[2]->split[0].upto, 95u);
  EXPECT_EQ(snapshot.routes()[2]->split[1].upto, 100u);
  EXPECT_EQ(snapshot.routes()[2]->split[1].service, 1u);
}

TEST(CompileSnapshot, AnEjectionIsNeverLongerThanItsLongest) {
  const auto times = [](const std::string& outlier) {
    auto result = CompileWithBuiltins(
        "{ kind: Service, name: s, static: [{ address: '127.0.0.1:1' }], outlier_ejection: " + outlier + " }");
    if (result.snapshot == nullptr) return std::pair<Millis, Millis>{};
    const OutlierPolicy& policy = *result.snapshot->services()[0].outlier;
    return std::pair(policy.base_time, policy.max_time);
  };
  EXPECT_EQ(times("{ consecutive_failures: 3 }"), std::pair(Millis(30'000), Millis(300'000)));
  EXPECT_EQ(times("{ max_time: 5s }"), std::pair(Millis(5'000), Millis(5'000)));
  EXPECT_EQ(times("{ max_time: 60s }"), std::pair(Millis(30'000), Millis(60'000)));
  EXPECT_EQ(times("{ base_time: 400s }"), std::pair(Millis(400'000), Millis(400'000)));
  EXPECT_EQ(times("{ base_time: 10s, max_time: 5s }"), (std::pair<Millis, Millis>{})) << "refused";
}

TEST(CompileSnapshot, BuiltinsAloneCompile) {
  auto result = CompileWithBuiltins("", BuiltinRateLimit{.max_requests = 5, .window = Millis(1500)});
  ASSERT_NE(result.snapshot, nullptr);
  ASSERT_EQ(result.snapshot->builtin_rate_limit(), 0);
  const RateLimitPolicy& limit = result.snapshot->rate_limits()[0];
  EXPECT_EQ(limit.requests, 5u);
  EXPECT_EQ(limit.window, Millis(1500));
  EXPECT_THAT(limit.keys, ElementsAre(LimitKey{LimitKey::Kind::kClientIp, ""}, LimitKey{LimitKey::Kind::kPath, ""}));

  result = CompileWithBuiltins("", std::nullopt);
  ASSERT_NE(result.snapshot, nullptr);
  EXPECT_EQ(result.snapshot->builtin_rate_limit(), -1);
  EXPECT_TRUE(result.snapshot->rate_limits().empty());
}

TEST(CompileSnapshot, CarriesItsRevision) {
  auto result = Compile({}, {.epoch = "e1", .revision = 42, .own_service = "gw"});
  ASSERT_NE(result.snapshot, nullptr);
  EXPECT_EQ(result.snapshot->epoch(), "e1");
  EXPECT_EQ(result.snapshot->revision(), 42u);
}

TEST(Snapshot, RewritesPaths) {
  struct Case {
    std::string path, rewrite, request, expected;
  };
  for (const Case& c : std::vector<Case>{
           {"prefix: /svc", "prefix: /", "/svc/a/b", "/a/b"},
           {"prefix: /svc", "prefix: /", "/svc", "/"},
           {"prefix: /svc", "prefix: /", "/svc/", "/"},
           {"prefix: /svc/", "prefix: /", "/svc/a", "/a"},
           {"prefix: /svc", "prefix: /v2", "/svc", "/v2"},
           {"prefix: /svc", "prefix: /v2/", "/svc/", "/v2/"},
           {"prefix: /svc", "prefix: /v2/", "/svc/a", "/v2/a"},
           {"prefix: /", "prefix: /v2", "/a/", "/v2/a/"},
           {"prefix: /", "prefix: /v2", "/", "/v2/"},
           {"prefix: /", "prefix: /", "/", "/"},
           {"template: '/api/v1/{service}/**'", "prefix: /", "/api/v1/orders/7", "/orders/7"},
           {"template: '/api/v1'", "prefix: /x", "/api/v1", "/x"},
           {"template: '/{a}'", "prefix: /x", "/1", "/x/1"},
           {"template: '/users/{id}/**'", "template: '/v2/users/{id}/**'", "/users/7/posts/", "/v2/users/7/posts/"},
           {"template: '/users/{id}/**'", "template: '/v2/users/{id}/**'", "/users/7", "/v2/users/7"},
           {"template: '/api/{service}/**'", "template: '/**'", "/api/orders", "/"},
           {"template: '/api/{service}/**'", "template: '/**'", "/api/orders/", "/"},
           {"template: '/api/{service}/**'", "template: '/**'", "/api/orders/a%2Fb/c", "/a%2Fb/c"},
           {"template: '/{a}/{b}'", "template: '/{b}/{a}/'", "/1/2", "/2/1/"},
           {"exact: /a", "template: /b/c", "/a", "/b/c"},
       }) {
    auto resources = ReadPolicy(std::string(kService) + "{ kind: Route, name: r, match: { path: { " + c.path +
                                " } }, service: orders, rewrite: { " + c.rewrite + " } }");
    auto result = Compile(resources);
    ASSERT_NE(result.snapshot, nullptr) << testing::PrintToString(Texts(result.errors));
    RouteMatch match;
    result.snapshot->Match({.method = "GET", .host = "", .path = c.request, .query = "", .fields = {}}, &match);
    ASSERT_NE(match.route, nullptr) << c.path << " " << c.request;
    ASSERT_TRUE(match.route->rewrites);
    std::string out = "GET ";
    Snapshot::Rewrite(match, c.request, &out);
    EXPECT_EQ(out, "GET " + c.expected) << c.path << " -> " << c.rewrite << ": " << c.request;
  }
}

TEST(Snapshot, RewritesOnlyTheHostWhereOnlyItIsGiven) {
  auto result =
      Compile(ReadPolicy(std::string(kService) +
                         "{ kind: Route, name: r, match: {}, service: orders, rewrite: { host: orders.internal } }"));
  ASSERT_NE(result.snapshot, nullptr);
  EXPECT_FALSE(result.snapshot->routes()[0]->rewrites);
  EXPECT_EQ(result.snapshot->routes()[0]->rewrite_host, "orders.internal");
}

TEST(ConsulServicePolicy, ReachesWhatIsAllowedAndNotDenied) {
  auto result = Compile(ReadPolicy(R"(
kind: Route
name: api
match: { path: { template: "/api/{v}/{service}/**" } }
consul_service: { from: service, allow: ["team-*", "x*y*z", gw, consul], deny: ["*-secret"], tags: [t], template: { timeouts: { connect: 1s } } }
)"),
                        {.epoch = "", .revision = 1, .own_service = "gw"});
  ASSERT_NE(result.snapshot, nullptr) << testing::PrintToString(Texts(result.errors));
  const RoutePolicy& route = *result.snapshot->routes()[0];
  ASSERT_NE(route.consul_service, nullptr);
  EXPECT_EQ(route.consul_service->variable, 1u);
  EXPECT_TRUE(route.split.empty());
  EXPECT_EQ(route.consul_service->service.connect_timeout, Millis(1000));
  EXPECT_TRUE(route.consul_service->service.from_consul);
  for (std::string_view name : {"team-a", "team-", "Team-a", "xyz", "x1y2z", "xyyzz"}) {
    EXPECT_TRUE(route.consul_service->Allows(name)) << name;
  }
  for (std::string_view name :
       {"", "team", "a-team-a", "xy", "xzy", "team-a-secret", "TEAM-A-SECRET", "gw", "GW", "consul", "Consul"}) {
    EXPECT_FALSE(route.consul_service->Allows(name)) << name;
  }
}

TEST(ConsulServicePolicy, ReachesNothingUnlessAllowed) {
  ConsulServicePolicy policy{.variable = 0, .allow = {}, .deny = {}, .own_service = "", .service = {}};
  EXPECT_FALSE(policy.Allows("orders"));
  policy.allow = {"*"};
  EXPECT_TRUE(policy.Allows("orders"));
  EXPECT_FALSE(policy.Allows("consul"));
}

TEST(CompileSnapshot, AHeaderThatAnyClientWritesIsNoGoodKeyForItsAddress) {
  const CompileResult result = CompileWithBuiltins(
      "kind: RateLimit\nname: naive\nkey: [\"header:X-Forwarded-For\"]\nlimit: { requests: 1, window: 1s }\n"
      "---\nkind: RateLimit\nname: fine\nkey: [\"header:X-Tenant\", client_ip]\nlimit: { requests: 1, window: 1s }\n");
  EXPECT_THAT(Texts(result.errors), IsEmpty());
  EXPECT_THAT(result.warnings, ElementsAre(testing::AllOf(HasSubstr("RateLimit/naive"), HasSubstr("x-forwarded-for"),
                                                          HasSubstr("client_ip"))));
}

TEST(CompileSnapshot, OnUnavailableOfALimitThatIsAlwaysThereIsAWarning) {
  const CompileResult result = CompileWithBuiltins(
      "kind: RateLimit\nname: alone\nkey: [client_ip]\nlimit: { requests: 1, window: 1s }\nscope: data_plane\n"
      "on_unavailable: last_share\n"
      "---\nkind: RateLimit\nname: fleet\nkey: [client_ip]\nlimit: { requests: 1, window: 1s }\nscope: fleet\n"
      "on_unavailable: deny\n");
  EXPECT_THAT(Texts(result.errors), IsEmpty());
  EXPECT_THAT(result.warnings, ElementsAre("RateLimit/alone: on_unavailable has no effect with scope: data_plane"));
}

constexpr std::string_view kCheapHash =
    "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
constexpr std::string_view kDearHash =
    "$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc";

// A password of an unknown user is checked against one of the known hashes, always the same one.
TEST(CompileSnapshot, UnknownUsersCostAsMuchAsKnownOnes) {
  const auto compile = [](std::string_view more) {
    return CompileWithBuiltins(
        Concat("kind: Consumer\nname: one\ncredentials: [{ basic: { username: a, password_hash: \"", kCheapHash,
               "\" } }]\n---\nkind: Consumer\nname: two\ncredentials: [{ basic: { username: b, password_hash: \"",
               kDearHash, "\" } }]\n", more));
  };
  const CompileResult result = compile("");
  const CompileResult again = compile("---\nkind: Consumer\nname: three\n");
  ASSERT_NE(result.snapshot, nullptr) << testing::PrintToString(Texts(result.errors));
  ASSERT_NE(again.snapshot, nullptr) << testing::PrintToString(Texts(again.errors));
  int dear = 0;
  for (int i = 0; i < 1000; ++i) {
    const std::string name = Concat("nobody-", i);
    const std::string& hash = result.snapshot->consumers()->DecoyOf(name).hash;
    dear += hash == kDearHash ? 1 : 0;
    EXPECT_EQ(again.snapshot->consumers()->DecoyOf(name).hash, hash);
  }
  EXPECT_GT(dear, 400);
  EXPECT_LT(dear, 600);
}

TEST(CompileSnapshot, CredentialsThatCanNeverBeReadAreErrors) {
  const auto errors = [](std::string_view policy) { return Texts(CompileWithBuiltins(policy).errors); };
  for (const char* header : {"X-Consumer", "x_consumer", "X-Consumer-Key"}) {
    EXPECT_THAT(errors(Concat("kind: Auth\nname: a\nmethods: [{ api_key: { header: ", header, " } }]\n")),
                ElementsAre(testing::AllOf(HasSubstr("methods[0].api_key.header"), HasSubstr("removed from every"))));
    EXPECT_THAT(errors(Concat("kind: RateLimit\nname: r\nkey: [\"header:", header,
                              "\"]\nlimit: { requests: 1, window: 1s }\n")),
                ElementsAre(testing::AllOf(HasSubstr("key[0]"), HasSubstr("removed from every"))));
  }
  // The fields that another Auth forwards.
  const std::string forwards =
      "kind: Auth\nname: b\nmethods: [{ basic: {} }]\nforward: { groups: X-Who, claims: { X_Key: sub } }\n---\n";
  for (const char* header : {"x-who", "X-Key"}) {
    EXPECT_THAT(errors(Concat(forwards, "kind: Auth\nname: a\nmethods: [{ api_key: { header: ", header, " } }]\n")),
                ElementsAre(testing::AllOf(HasSubstr("Auth/a"), HasSubstr("Auth/b"), HasSubstr("removed from every"))));
  }
  EXPECT_THAT(errors(forwards + "kind: Auth\nname: a\nmethods: [{ api_key: {} }]\n"), IsEmpty());
}

TEST(CompileSnapshot, ABurstIsATokenBucketsInEveryScope) {
  for (const char* scope : {"data_plane", "fleet", "redis"}) {
    for (const char* algorithm : {"sliding_window", "fixed_window", "token_bucket"}) {
      const auto errors =
          Texts(CompileWithBuiltins(Concat("kind: RateLimit\nname: r\nlimit: { requests: 2, window: 1s, burst: 1 }\n"
                                           "scope: ",
                                           scope, "\nalgorithm: ", algorithm, "\n"))
                    .errors);
      EXPECT_EQ(errors.empty(), algorithm == std::string_view("token_bucket")) << scope << algorithm;
    }
  }
}

TEST(CompileSnapshot, WarnsOfIssuersThatNobodyPins) {
  const auto warnings = [](std::string_view issuer) {
    const CompileResult result = CompileWithBuiltins(
        Concat("kind: Auth\nname: a\nmethods: [{ jwt: { ", issuer,
               "jwks: { url: \"https://id.example.com/keys\" } } }]\n---\nkind: Consumer\nname: acme\n"
               "credentials: [{ jwt: { issuer: \"https://id.example.com\", subject: u1 } }, { jwt: { issuer: "
               "\"https://id.example.com\", subject: u2 } }]\n"));
    EXPECT_THAT(Texts(result.errors), IsEmpty());
    return result.warnings;
  };
  EXPECT_THAT(warnings("issuer: \"https://id.example.com\", "), IsEmpty());
  for (const char* other : {"", "issuer: \"https://id.example.com/\", "}) {
    EXPECT_THAT(warnings(other), ElementsAre(testing::AllOf(HasSubstr("Consumer/acme"),
                                                            HasSubstr("https://id.example.com"), HasSubstr("1 more"))));
  }
}

TEST(CompileSnapshot, AnIdentityOfACertificateIsOneConsumers) {
  const std::string method = "kind: Auth\nname: a\nmethods: [{ client_certificate: { identity: san_dns } }]\n---\n";
  const auto consumer = [](std::string_view name, std::string_view identity) {
    return Concat("kind: Consumer\nname: ", name, "\ncredentials: [{ client_certificate: { identity: \"", identity,
                  "\" } }]\n---\n");
  };
  const CompileResult result = CompileWithBuiltins(method + consumer("one", "A.test") + consumer("two", "b.test"));
  ASSERT_NE(result.snapshot, nullptr) << testing::PrintToString(Texts(result.errors));
  EXPECT_THAT(result.warnings, IsEmpty());
  EXPECT_TRUE(result.snapshot->consumers()->by_certificate.contains("A.test"));
  EXPECT_TRUE(result.snapshot->consumers()->by_folded_certificate.contains("a.test"));
  EXPECT_THAT(Texts(CompileWithBuiltins(method + consumer("one", "A.test") + consumer("two", "a.test")).errors),
              ElementsAre(HasSubstr("has the same client certificate identity")));
  EXPECT_THAT(
      CompileWithBuiltins(consumer("one", "a.test")).warnings,
      ElementsAre("Consumer/one: no Auth has a client_certificate method, so its certificate is never accepted"));
  v1::Resource unsaid;
  unsaid.mutable_auth()->set_name("a");
  unsaid.mutable_auth()->add_methods()->mutable_client_certificate();
  EXPECT_THAT(Texts(Compile({unsaid}).errors),
              ElementsAre("Auth/a: methods[0].client_certificate.identity: is required"));
}

TEST(CompileSnapshot, FieldsOfCertificatesTellOfCertificatesAlone) {
  const auto errors = [](std::string_view forward) {
    return Texts(
        CompileWithBuiltins(Concat("kind: Auth\nname: a\nmethods: [{ api_key: {} }]\nforward: { ", forward, " }\n"))
            .errors);
  };
  for (const char* fine : {"X-Forwarded-Client-Cert", "Client-Cert", "X-Caller"}) {
    EXPECT_THAT(errors(Concat("client_certificate: ", fine)), IsEmpty()) << fine;
  }
  for (const char* bad : {"X-Forwarded-For", "Client-Cert-Chain", "X-API-Key", "Cookie"}) {
    EXPECT_THAT(errors(Concat("client_certificate: ", bad)), ElementsAre(HasSubstr("forward.client_certificate")))
        << bad;
  }
  EXPECT_THAT(errors("consumer: Client-Cert"), ElementsAre(HasSubstr("forward.consumer")));
}

TEST(CompileSnapshot, CredentialsAreNoGoodKeyOfALimit) {
  const CompileResult result = CompileWithBuiltins(
      "kind: Auth\nname: a\nmethods: [{ api_key: { header: X-Partner } }, { basic: {} }]\n---\n"
      "kind: RateLimit\nname: one\nkey: [\"header:x-partner\"]\nlimit: { requests: 1, window: 1s }\n---\n"
      "kind: RateLimit\nname: two\nkey: [\"header:Authorization\"]\nlimit: { requests: 1, window: 1s }\n---\n"
      "kind: RateLimit\nname: fine\nkey: [\"header:X-API-Key\"]\nlimit: { requests: 1, window: 1s }\n");
  EXPECT_THAT(Texts(result.errors), IsEmpty());
  EXPECT_THAT(result.warnings,
              ElementsAre(testing::AllOf(HasSubstr("RateLimit/one"), HasSubstr("x-partner"), HasSubstr("consumer")),
                          testing::AllOf(HasSubstr("RateLimit/two"), HasSubstr("authorization"))));
}

// The part before the @ may be a password.
TEST(CompileSnapshot, AKeySetUrlHasNoUserInfo) {
  for (const char* url : {"https://u:sekret@id.example.com/keys", "http://sekret@127.0.0.1/", "ftp://u:sekret@x/"}) {
    const auto errors =
        Texts(CompileWithBuiltins(Concat("kind: Auth\nname: a\nmethods: [{ jwt: { jwks: { url: \"", url, "\" } } }]\n"))
                  .errors);
    EXPECT_THAT(errors, ElementsAre(testing::AllOf(HasSubstr("jwks.url"), testing::Not(HasSubstr("sekret"))))) << url;
  }
}

TEST(CompileSnapshot, WarnsOfAServiceThatCanServeNothingAndOfAnAddressThatComesTwice) {
  const auto warnings = [](const std::string& endpoints) {
    return Compile(ReadPolicy("kind: Service\nname: s\nstatic: [" + endpoints + "]\n")).warnings;
  };
  EXPECT_THAT(warnings("{ address: \"a:1\", weight: 0 }, { address: \"a:2\", weight: 0 }"),
              ElementsAre("Service/s: every endpoint has weight 0, so none gets a request (503)"));
  EXPECT_THAT(warnings("{ address: \"a:1\", weight: 0 }, { address: \"a:2\" }"), IsEmpty());
  EXPECT_THAT(warnings("{ address: \"a:1\" }, { address: \"b:1\" }, { address: \"A:1\", weight: 2 }"),
              ElementsAre(HasSubstr("Service/s: static[0] and static[2] are the same address 'a:1'")));
  EXPECT_THAT(warnings("{ address: \"[::1]:1\" }, { address: \"[0:0::1]:1\" }"),
              ElementsAre(HasSubstr("static[0] and static[1] are the same address '[::1]:1'")));
}

// A guard by methods only works if no other method reaches the service by another route.
TEST(CompileSnapshot, WarnsOfAGuardThatAnotherMethodBypasses) {
  const auto warnings = [](const std::string& routes) {
    return Compile(ReadPolicy("kind: Service\nname: s\nstatic: [{ address: \"h:1\" }]\n---\n"
                              "kind: IpAccess\nname: office\nallow: [192.0.2.0/24]\n---\n" +
                              routes))
        .warnings;
  };
  const std::string guarded =
      "kind: Route\nname: admin\nmatch: { path: { prefix: /admin }, methods: [GET] }\n"
      "service: s\naccess: office\n---\n";
  EXPECT_THAT(
      warnings(guarded + "kind: Route\nname: all\nmatch: { path: { prefix: / } }\nservice: s\n"),
      ElementsAre("Route/admin: its access covers GET, HEAD alone: any other method of '/admin' takes Route/all, "
                  "which is not guarded by it; leave `methods` out here, or guard that route too"));
  EXPECT_THAT(warnings(guarded), IsEmpty()) << "405";
  EXPECT_THAT(warnings(guarded + "kind: Route\nname: post\nmatch: { path: { prefix: / }, methods: [POST] }\n"
                                 "service: s\n"),
              IsEmpty())
      << "POST is listed explicitly";
  EXPECT_THAT(warnings(guarded + "kind: Route\nname: all\nmatch: { path: { prefix: / } }\nservice: s\n"
                                 "access: office\n"),
              IsEmpty());
  EXPECT_THAT(warnings(guarded + "kind: Route\nname: all\nmatch: { path: { prefix: / } }\nrespond: { status: 404 }\n"),
              IsEmpty());
  // Found through hosts, templates and conditions.
  EXPECT_THAT(
      warnings("kind: Route\nname: admin\nmatch: { hosts: [\"*.a.example\"], path: { template: \"/{x}/b/**\" }, "
               "methods: [GET], headers: [{ name: H, prefix: p }], query: [{ name: q, exact: \"1 &\" }] }\n"
               "service: s\naccess: office\n---\n"
               "kind: Route\nname: all\nmatch: { hosts: [\"*.a.example\"] }\nservice: s\n"),
      ElementsAre(HasSubstr("any other method of '/x/b' takes Route/all")));
}

}  // namespace
}  // namespace gateway
