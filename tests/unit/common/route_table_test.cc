#include "common/policy/route/route_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "common/policy/policy_files.h"
#include "common/policy/route/route_pattern.h"
#include "common/policy/snapshot.h"
#include "re2/re2.h"

// A sanitizer has its own operator new, which checks more than ours.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define GATEWAY_COUNTS_ALLOCATIONS 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define GATEWAY_COUNTS_ALLOCATIONS 0
#endif
#endif
#ifndef GATEWAY_COUNTS_ALLOCATIONS
#define GATEWAY_COUNTS_ALLOCATIONS 1
#endif

namespace {
// Of the current thread.
thread_local uint64_t allocations = 0;
}  // namespace

#if GATEWAY_COUNTS_ALLOCATIONS
// Both sides are replaced; GCC reports a mismatch if it inlines them into one another.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
void* operator new(size_t size) {
  ++allocations;
  if (void* p = std::malloc(size == 0 ? 1 : size)) return p;
  throw std::bad_alloc();
}
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::malloc(size == 0 ? 1 : size);
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }
void operator delete(void* p, const std::nothrow_t&) noexcept { std::free(p); }
#endif

namespace gateway {
namespace {

CompileResult CompileRoutes(const std::vector<v1::Route>& routes) {
  std::vector<v1::Resource> resources(1);
  resources[0].mutable_service()->set_name("svc");
  resources[0].mutable_service()->add_static_()->set_address("127.0.0.1:1");
  for (const v1::Route& route : routes) {
    *resources.emplace_back().mutable_route() = route;
    resources.back().mutable_route()->set_service("svc");
  }
  std::vector<const v1::Resource*> pointers;
  for (const v1::Resource& resource : resources) pointers.push_back(&resource);
  CompileResult result = CompileSnapshot(pointers, {});
  for (const v1::PolicyError& error : result.errors) {
    ADD_FAILURE() << error.name() << ": " << error.field() << ": " << error.message();
  }
  return result;
}

// One route per line: "name: { match: {...} }" in YAML flow style.
CompileResult CompileLines(const std::vector<std::string>& lines) {
  std::vector<v1::Route> routes;
  for (const std::string& line : lines) {
    std::vector<PolicyProblem> problems;
    std::vector<PolicyDocument> documents = ParsePolicy("{ kind: Route, " + line + " }", "test.yaml", &problems);
    for (const PolicyProblem& problem : problems) ADD_FAILURE() << problem.ToString();
    for (PolicyDocument& document : documents) routes.push_back(document.resource.route());
  }
  return CompileRoutes(routes);
}

struct Request {
  std::string method = "GET";
  std::string host = "api.example.com";
  std::string path = "/";
  std::string query = {};
  std::vector<std::pair<std::string, std::string>> fields = {};
  bool https = false;
};

// The match of `request`, with views into it.
RouteMatch Match(const Snapshot& snapshot, const Request& request) {
  std::vector<FieldView> fields;
  for (const auto& [name, value] : request.fields) fields.push_back({name, value});
  RouteMatch match;
  snapshot.Match({.method = request.method,
                  .host = request.host,
                  .path = request.path,
                  .query = request.query,
                  .fields = fields,
                  .https = request.https},
                 &match);
  return match;
}

std::string NameOf(const CompileResult& result, const Request& request) {
  RouteMatch match = Match(*result.snapshot, request);
  if (match.route != nullptr) return match.route->name;
  return match.method_not_allowed ? "405" : "404";
}

std::string NameAt(const CompileResult& result, const std::string& path) {
  Request request;
  request.path = path;
  return NameOf(result, request);
}

std::vector<std::string> Variables(const RouteMatch& match) { return {match.variables.begin(), match.variables.end()}; }

TEST(RouteTable, PrefixIsWholeSegments) {
  for (std::string prefix : {"/a", "/a/"}) {
    auto result = CompileLines({"name: r, match: { path: { prefix: " + prefix + " } }"});
    EXPECT_EQ(NameAt(result, "/a"), "r");
    EXPECT_EQ(NameAt(result, "/a/"), "r");
    EXPECT_EQ(NameAt(result, "/a/b/c"), "r");
    EXPECT_EQ(NameAt(result, "/ab"), "404");
    EXPECT_EQ(NameAt(result, "/"), "404");
    EXPECT_EQ(NameAt(result, "/A"), "404");
  }
}

TEST(RouteTable, ExactPathsAndTemplatesTellATrailingSlash) {
  auto result = CompileLines(
      {"name: plain, match: { path: { exact: /a } }", "name: slash, match: { path: { exact: /a/ } }",
       "name: root, match: { path: { exact: / } }", "name: template, match: { path: { template: '/t/{x}' } }"});
  EXPECT_EQ(NameAt(result, "/a"), "plain");
  EXPECT_EQ(NameAt(result, "/a/"), "slash");
  EXPECT_EQ(NameAt(result, "/"), "root");
  EXPECT_EQ(NameAt(result, "/a/b"), "404");
  EXPECT_EQ(NameAt(result, "/t/1"), "template");
  EXPECT_EQ(NameAt(result, "/t/1/"), "404");
}

TEST(RouteTable, VariablesAreSegmentsAndTheRestKeepsItsSlash) {
  auto result = CompileLines({"name: r, match: { path: { template: '/users/{id}/{part}/**' } }"});
  const Request rest{.path = "/users/7/posts/x/y"};
  RouteMatch match = Match(*result.snapshot, rest);
  EXPECT_EQ(Variables(match), (std::vector<std::string>{"7", "posts", "/x/y"}));
  EXPECT_EQ(match.prefix_length, std::string("/users").size());
  EXPECT_EQ(match.variables[0].data(), rest.path.data() + 7) << "views into the path";
  EXPECT_EQ(Variables(Match(*result.snapshot, {.path = "/users/7/posts"})),
            (std::vector<std::string>{"7", "posts", ""}));
  EXPECT_EQ(Variables(Match(*result.snapshot, {.path = "/users/7/posts/"})),
            (std::vector<std::string>{"7", "posts", "/"}));
  EXPECT_EQ(NameAt(result, "/users/7"), "404");
  EXPECT_EQ(NameAt(result, "/users/7/"), "404") << "a variable is never empty";
}

TEST(RouteTable, GoesSegmentBySegmentAndTurnsBack) {
  auto result = CompileLines(
      {"name: all, match: { path: { prefix: / } }", "name: deep, match: { path: { template: '/a/{x}/c/d' } }",
       "name: literal, match: { path: { exact: /a/b/c/e } }", "name: rest, match: { path: { template: '/{y}/b/**' } }",
       "name: regex, match: { path: { regex: '/a/.*' } }"});
  EXPECT_EQ(NameAt(result, "/a/b/c/e"), "literal");
  EXPECT_EQ(NameAt(result, "/a/b/c/d"), "deep");
  EXPECT_EQ(Variables(Match(*result.snapshot, {.path = "/a/b/c/d"})), (std::vector<std::string>{"b"}));
  EXPECT_EQ(NameAt(result, "/a/b/c/f"), "rest");
  EXPECT_EQ(Variables(Match(*result.snapshot, {.path = "/a/b/c/f"})), (std::vector<std::string>{"a", "/c/f"}));
  EXPECT_EQ(NameAt(result, "/a/z"), "all") << "any prefix before any regex";
}

TEST(RouteTable, LiteralPrefixWinsOverTheMissionsTemplate) {
  auto result = CompileLines({"name: api, match: { path: { template: '/api/v1/{service}/**' } }",
                              "name: orders, match: { path: { prefix: /api/v1/orders } }"});
  EXPECT_EQ(NameAt(result, "/api/v1/orders/1"), "orders");
  EXPECT_EQ(NameAt(result, "/api/v1/users/1"), "api");
}

TEST(RouteTable, ExactHostThenLongerWildcardThenNone) {
  auto result =
      CompileLines({"name: bare, match: { path: { exact: /a } }", "name: short, match: { hosts: ['*.example.com'] }",
                    "name: long, match: { hosts: ['*.b.example.com'] }",
                    "name: exact, match: { hosts: [a.b.example.com] }", "name: v6, match: { hosts: ['[::1]'] }"});
  auto at = [&result](const std::string& host) { return NameOf(result, {.host = host, .path = "/a"}); };
  EXPECT_EQ(at("a.b.example.com"), "exact");
  EXPECT_EQ(at("x.b.example.com"), "long");
  EXPECT_EQ(at("x.y.b.example.com"), "long");
  EXPECT_EQ(at("b.example.com"), "short");
  EXPECT_EQ(at("example.com"), "bare");
  EXPECT_EQ(at(".example.com"), "bare");
  EXPECT_EQ(at("notexample.com"), "bare");
  EXPECT_EQ(at("[::1]"), "v6");
  EXPECT_EQ(at(""), "bare");
  EXPECT_EQ(at(std::string(100'000, '.') + "b.example.com"), "bare") << "longer than any host name";
}

TEST(RouteTable, PriorityGoesBeforeEverythingElse) {
  auto result = CompileLines(
      {"name: exact, match: { hosts: [a.com], path: { exact: /a/b } }",
       "name: mid, priority: 5, match: { path: { prefix: /a } }",
       "name: top, priority: 9, match: { path: { regex: '/a/b.*' }, headers: [{ name: x, present: true }] }",
       "name: low, priority: -1, match: { hosts: [a.com], path: { exact: /a/c } }"});
  EXPECT_EQ(NameOf(result, {.host = "a.com", .path = "/a/b"}), "mid");
  EXPECT_EQ(NameOf(result, {.host = "a.com", .path = "/a/b", .fields = {{"X", ""}}}), "top");
  EXPECT_EQ(NameOf(result, {.host = "a.com", .path = "/a/c"}), "mid");
}

TEST(RouteTable, MethodsThenConditionsThenNameDecideWithinAPath) {
  auto result = CompileLines({"name: c, match: { path: { exact: /a } }", "name: b, match: { path: { exact: /a } }",
                              "name: x, match: { path: { exact: /a }, headers: [{ name: h, exact: '1' }] }",
                              "name: y, match: { path: { exact: /a }, headers: [{ name: h, exact: '1' }], query: [{ "
                              "name: q, present: true }] }",
                              "name: z, match: { path: { exact: /a }, methods: [POST] }"});
  EXPECT_EQ(NameOf(result, {.path = "/a"}), "b");
  EXPECT_EQ(NameOf(result, {.path = "/a", .fields = {{"H", "1"}}}), "x");
  EXPECT_EQ(NameOf(result, {.path = "/a", .query = "q", .fields = {{"H", "1"}}}), "y");
  EXPECT_EQ(NameOf(result, {.method = "POST", .path = "/a", .query = "q", .fields = {{"H", "1"}}}), "z");
}

TEST(RouteTable, FindsOneOfManyRoutesOfOnePath) {
  std::vector<std::string> lines = {
      "name: put, match: { path: { exact: /a }, methods: [PUT], headers: [{ name: h, exact: '7' }] }",
      "name: both, match: { path: { exact: /a }, headers: [{ name: h, exact: '7' }, { name: q, exact: '9' }] }",
      "name: urgent, priority: 1, match: { path: { exact: /a }, headers: [{ name: u, present: true }] }",
      "name: any, match: { path: { exact: /a } }"};
  for (int i = 10; i < 100; ++i) {
    const std::string number = std::to_string(i);
    lines.push_back("name: h" + number + ", match: { path: { exact: /a }, headers: [{ name: H, exact: '" + number +
                    "' }] }");
    lines.push_back("name: q" + number + ", match: { path: { exact: /a }, query: [{ name: q, exact: 'a " + number +
                    "' }] }");
    lines.push_back("name: r" + number + ", match: { path: { regex: '/r" + number + "/[0-9]+' } }");
    lines.push_back("name: name" + number + ", match: { path: { exact: /n }, headers: [{ name: n" + number +
                    ", exact: '1' }] }");
  }
  lines.push_back("name: nested, match: { path: { regex: '/r[0-9]+/[0-9]+/.*' } }");
  auto result = CompileLines(lines);
  EXPECT_EQ(NameOf(result, {.path = "/a"}), "any");
  EXPECT_EQ(NameOf(result, {.path = "/a", .fields = {{"H", "55"}}}), "h55");
  EXPECT_EQ(NameOf(result, {.path = "/a", .query = "q=a+60&q=a+61", .fields = {{"H", "5"}}}), "q60");
  EXPECT_EQ(NameOf(result, {.path = "/a",
                            .query = "q=%61%20"
                                     "62"}),
            "q62");
  EXPECT_EQ(NameOf(result, {.path = "/a", .query = "q=" + std::string(5000, '+')}), "any");
  EXPECT_EQ(NameOf(result, {.path = "/a", .query = "q=a+60", .fields = {{"h", "99"}, {"h", "55"}}}), "h55")
      << "by name";
  EXPECT_EQ(NameOf(result, {.method = "PUT", .path = "/a", .fields = {{"h", "7"}, {"h", "55"}}}), "put");
  EXPECT_EQ(NameOf(result, {.path = "/a", .fields = {{"h", "7"}, {"q", "9"}, {"h", "55"}}}), "both");
  EXPECT_EQ(NameOf(result, {.path = "/a", .fields = {{"h", "55"}, {"u", ""}}}), "urgent");
  EXPECT_EQ(NameOf(result, {.path = "/r50/1"}), "r50");
  EXPECT_EQ(NameOf(result, {.path = "/r50/1/x"}), "nested");
  EXPECT_EQ(NameOf(result, {.path = "/r5/1"}), "404");
  for (int i = 10; i < 100; ++i) {
    const std::string number = std::to_string(i);
    EXPECT_EQ(NameOf(result, {.path = "/n", .fields = {{"n" + number, "1"}}}), "name" + number)
        << "more than are indexed";
  }
}

TEST(RouteTable, SaysWhichMethodsWouldMatch) {
  auto result = CompileLines(
      {"name: a, match: { path: { exact: /a }, methods: [PUT, GET] }",
       "name: b, match: { path: { prefix: / }, methods: [DELETE, GET] }",
       "name: c, match: { path: { exact: /a }, methods: [PATCH], headers: [{ name: h, present: true }] }"});
  const Request post{.method = "POST", .path = "/a"};
  RouteMatch match = Match(*result.snapshot, post);
  EXPECT_EQ(match.route, nullptr);
  EXPECT_TRUE(match.method_not_allowed);
  EXPECT_EQ(std::vector<std::string>(match.allowed_methods.begin(), match.allowed_methods.end()),
            (std::vector<std::string>{"DELETE", "GET", "HEAD", "PUT"}));
  EXPECT_EQ(NameOf(result, {.method = "DELETE", .path = "/a"}), "b") << "falls back to the next best";
  EXPECT_EQ(NameOf(result, {.method = "get", .path = "/a"}), "405") << "methods are case-sensitive";

  RouteMatch reused = match;
  const Request get{.path = "/a"};
  result.snapshot->Match({.method = get.method, .host = get.host, .path = get.path, .query = {}, .fields = {}},
                         &reused);
  EXPECT_EQ(reused.route->name, "a");
  EXPECT_FALSE(reused.method_not_allowed);
  EXPECT_TRUE(reused.allowed_methods.empty());
}

TEST(RouteTable, ARouteOfGetTakesHeadUnlessItsEqualListsIt) {
  auto result = CompileLines({"name: a, match: { path: { exact: /a }, methods: [GET] }",
                              "name: b, match: { path: { exact: /a }, methods: [HEAD] }",
                              "name: c, match: { path: { prefix: /c }, methods: [GET] }",
                              "name: d, match: { path: { prefix: /c }, methods: [GET, HEAD] }",
                              "name: e, match: { path: { exact: /e }, methods: [POST] }",
                              "name: all, match: { path: { prefix: / } }"});
  EXPECT_EQ(NameOf(result, {.path = "/a"}), "a");
  EXPECT_EQ(NameOf(result, {.method = "HEAD", .path = "/a"}), "b");
  EXPECT_EQ(NameOf(result, {.path = "/c/x"}), "c");
  EXPECT_EQ(NameOf(result, {.method = "HEAD", .path = "/c/x"}), "d");
  EXPECT_EQ(NameOf(result, {.method = "HEAD", .path = "/e"}), "all");
  EXPECT_EQ(NameOf(result, {.method = "POST", .path = "/a"}), "all");
  EXPECT_TRUE(result.warnings.empty()) << result.warnings.front();

  auto alone = CompileLines({"name: get, match: { path: { prefix: /admin }, methods: [GET] }",
                             "name: all, match: { path: { prefix: / } }",
                             "name: more, match: { path: { exact: /m }, methods: [GET], headers: [{ name: h, exact: "
                             "'1' }] }",
                             "name: head, match: { path: { exact: /m }, methods: [HEAD] }"});
  EXPECT_EQ(NameOf(alone, {.method = "HEAD", .path = "/admin"}), "get");
  EXPECT_EQ(NameOf(alone, {.method = "HEAD", .path = "/m", .fields = {{"h", "1"}}}), "more") << "conditions come first";
  EXPECT_EQ(NameOf(alone, {.method = "HEAD", .path = "/m"}), "head");
  // Many routes of one path, found by an index.
  std::vector<std::string> lines;
  for (int i = 10; i < 40; ++i) {
    const std::string number = std::to_string(i);
    lines.push_back("name: get" + number +
                    ", match: { path: { exact: /a }, methods: [GET], headers: [{ name: h, "
                    "exact: '" +
                    number + "' }] }");
    lines.push_back("name: head" + number +
                    ", match: { path: { exact: /a }, methods: [HEAD], headers: [{ name: h, "
                    "exact: '" +
                    number + "' }] }");
  }
  auto many = CompileLines(lines);
  EXPECT_EQ(NameOf(many, {.path = "/a", .fields = {{"h", "25"}}}), "get25");
  EXPECT_EQ(NameOf(many, {.method = "HEAD", .path = "/a", .fields = {{"h", "25"}}}), "head25");
}

TEST(RouteTable, TheSchemeIsAConditionMore) {
  auto result = CompileLines({"name: any, match: { path: { prefix: /a } }",
                              "name: clear, match: { path: { prefix: /a }, scheme: http }",
                              "name: one, match: { path: { prefix: /b }, headers: [{ name: h, present: true }] }",
                              "name: two, match: { path: { prefix: /b }, scheme: https, headers: [{ name: h, present: "
                              "true }] }",
                              "name: secure, match: { path: { prefix: /s }, scheme: https, methods: [PUT] }"});
  EXPECT_THAT(result.warnings, testing::IsEmpty());
  EXPECT_EQ(NameOf(result, {.path = "/a"}), "clear");
  EXPECT_EQ(NameOf(result, {.path = "/a", .https = true}), "any");
  EXPECT_EQ(NameOf(result, {.path = "/b", .fields = {{"h", "1"}}}), "one");
  EXPECT_EQ(NameOf(result, {.path = "/b", .fields = {{"h", "1"}}, .https = true}), "two");
  EXPECT_EQ(NameOf(result, {.path = "/s", .https = true}), "405");
  EXPECT_EQ(NameOf(result, {.path = "/s"}), "404") << "no 405 for the other scheme";

  auto twice = CompileLines({"name: a, match: { path: { prefix: / }, scheme: https }",
                             "name: b, match: { path: { prefix: / }, scheme: https }",
                             "name: c, match: { path: { prefix: / }, scheme: http }"});
  ASSERT_EQ(twice.warnings.size(), 1);
  EXPECT_THAT(twice.warnings[0], testing::HasSubstr("'a' and 'b' cannot be told apart"));
}

TEST(RouteTable, HeaderConditions) {
  auto holds = [](const std::string& condition, std::vector<std::pair<std::string, std::string>> fields) {
    auto result = CompileLines({"name: r, match: { headers: [{ name: X-Canary, " + condition + " }] }"});
    return NameOf(result, {.path = "/", .fields = std::move(fields)}) == "r";
  };
  EXPECT_TRUE(holds("exact: 'a'", {{"x-canary", "a"}}));
  EXPECT_FALSE(holds("exact: 'a'", {{"x-canary", "A"}}));
  EXPECT_FALSE(holds("exact: 'a'", {{"x-canar", "a"}}));
  EXPECT_TRUE(holds("exact: 'a'", {{"X-CANARY", "b"}, {"X-canary", "a"}})) << "any line of the field";
  EXPECT_TRUE(holds("prefix: 'a'", {{"x-canary", "abc"}}));
  EXPECT_FALSE(holds("prefix: 'b'", {{"x-canary", "abc"}}));
  EXPECT_TRUE(holds("regex: 'a.c'", {{"x-canary", "abc"}}));
  EXPECT_TRUE(holds("regex: 'a..c'", {{"x-canary",
                                       "a\xc3\xa9"
                                       "c"}}))
      << "bytes";
  EXPECT_FALSE(holds("regex: 'b'", {{"x-canary", "abc"}})) << "the whole value";
  EXPECT_TRUE(holds("present: true", {{"x-canary", ""}}));
  EXPECT_FALSE(holds("present: true", {}));
  EXPECT_TRUE(holds("present: false", {}));
  EXPECT_FALSE(holds("present: false", {{"x-canary", ""}}));
}

TEST(RouteTable, QueryConditions) {
  auto holds = [](const std::string& condition, const std::string& query) {
    auto result = CompileLines({"name: r, match: { query: [{ " + condition + " }] }"});
    return NameOf(result, {.path = "/", .query = query}) == "r";
  };
  EXPECT_TRUE(holds("name: v, exact: '2'", "v=2"));
  EXPECT_TRUE(holds("name: v, exact: '2'", "a=1&v=%32&b"));
  EXPECT_TRUE(holds("name: v, exact: '2'", "%76=2"));
  EXPECT_FALSE(holds("name: v, exact: '2'", "v=1&v=2")) << "the first pair of a name";
  EXPECT_FALSE(holds("name: v, exact: '2'", "V=2"));
  EXPECT_FALSE(holds("name: v, exact: '2'", "v=22"));
  EXPECT_FALSE(holds("name: v, exact: '2'", "av=2"));
  EXPECT_TRUE(holds("name: v, exact: 'a b'", "v=a+b"));
  EXPECT_TRUE(holds("name: v, exact: 'a&b=c'", "v=a%26b=c"));
  EXPECT_TRUE(holds("name: v, exact: '%'", "v=%"));
  EXPECT_TRUE(holds("name: v, exact: '%2'", "v=%2"));
  EXPECT_TRUE(holds("name: v, exact: '%zz'", "v=%zz"));
  EXPECT_TRUE(holds("name: v, exact: '%32'", "v=%2532")) << "decoded once";
  EXPECT_TRUE(holds("name: v, prefix: 'ab'", "v=%61bc"));
  EXPECT_FALSE(holds("name: v, prefix: 'ab'", "v=a"));
  EXPECT_TRUE(holds("name: v, regex: '[0-9]+'", "v=1%32"));
  EXPECT_TRUE(holds("name: v, present: true", "v"));
  EXPECT_TRUE(holds("name: v, present: true", "&&v=&"));
  EXPECT_TRUE(holds("name: v, exact: ''", "v"));
  EXPECT_FALSE(holds("name: v, present: true", "vv"));
  EXPECT_TRUE(holds("name: v, present: false", ""));
  EXPECT_FALSE(holds("name: v, present: false", "x&v"));
}

TEST(RouteTable, SpellingsThatServersTakeForOneAreOneSegment) {
  auto result = CompileLines(
      {"name: at, match: { path: { prefix: '/a@b;c' } }", "name: escaped, match: { path: { prefix: '/x%3Ay' } }",
       "name: slash, match: { path: { prefix: '/p%2Fq' } }", "name: all, match: { path: { prefix: / } }"});
  for (std::string path : {"/a@b;c", "/a%40b;c", "/a@b%3Bc/d", "/a%40b%3Bc"})
    EXPECT_EQ(NameAt(result, path), "at") << path;
  for (std::string path : {"/x:y", "/x%3Ay"}) EXPECT_EQ(NameAt(result, path), "escaped") << path;
  EXPECT_EQ(NameAt(result, "/p%2Fq"), "slash");
  EXPECT_EQ(NameAt(result, "/p/q"), "all");
  EXPECT_EQ(NameAt(result, "/a%2540b;c"), "all") << "decoded once";
  std::string huge = "/";
  for (int i = 0; i < 2000; ++i) huge += "%40%2F";
  EXPECT_EQ(NameAt(result, huge), "all");
}

TEST(RouteTable, RewritesFromAnotherSpellingOfThePrefix) {
  auto result = CompileLines({"name: r, match: { path: { prefix: '/a@b' } }, rewrite: { prefix: /v2 }"});
  const Request request{.path = "/a%40b/c"};
  RouteMatch match = Match(*result.snapshot, request);
  std::string out;
  Snapshot::Rewrite(match, request.path, &out);
  EXPECT_EQ(out, "/v2/c");
}

TEST(RouteTable, RegexIsTheWholePathAndComesAfterPatterns) {
  auto result = CompileLines({"name: regex, match: { path: { regex: '/v[0-9]+/x' } }",
                              "name: exact, match: { path: { exact: /v1/x } }", "name: bare, match: {}"});
  EXPECT_EQ(NameAt(result, "/v1/x"), "exact");
  EXPECT_EQ(NameAt(result, "/v2/x"), "regex");
  EXPECT_EQ(NameAt(result, "/v2/x/y"), "bare");
  EXPECT_EQ(NameAt(result, "/a/v2/x"), "bare");
}

TEST(RouteTable, AsteriskFormMatchesOnlyRoutesWithoutAPath) {
  auto with = CompileLines({"name: any, match: { methods: [OPTIONS] }", "name: all, match: { path: { prefix: / } }"});
  EXPECT_EQ(NameOf(with, {.method = "OPTIONS", .path = "*"}), "any");
  auto without = CompileLines({"name: all, match: { path: { prefix: / } }"});
  EXPECT_EQ(NameOf(without, {.method = "OPTIONS", .path = "*"}), "404");
}

TEST(RouteTable, EmptyTableMatchesNothing) { EXPECT_EQ(NameAt(CompileLines({}), "/a"), "404"); }

TEST(RouteTable, WarnsOfRoutesThatCanNeverMatch) {
  auto result =
      CompileLines({"name: a, match: { path: { prefix: /a } }", "name: b, match: { path: { template: '/a/**' } }",
                    "name: high, priority: 1, match: { path: { prefix: /h }, methods: [GET, PUT] }",
                    "name: low, match: { hosts: [x.com, y.com], path: { exact: /h/i }, methods: [GET] }",
                    "name: safe, match: { path: { exact: /h/i }, methods: [POST] }",
                    "name: root, match: { hosts: [z.com], path: { prefix: / } }",
                    "name: regex, match: { hosts: [z.com], path: { regex: '/r.*' } }",
                    "name: other, match: { hosts: [z.com], path: { exact: /r } }"});
  ASSERT_EQ(result.warnings.size(), 3u);
  EXPECT_EQ(result.warnings[0],
            "route 'low' can never match: route 'high' goes before it and takes every request that it would");
  EXPECT_EQ(result.warnings[1],
            "route 'regex' can never match: route 'root' goes before it and takes every request that it would");
  EXPECT_EQ(result.warnings[2],
            "routes 'a' and 'b' cannot be told apart: their conditions and priorities are the same; 'a' serves, by its "
            "name");
}

// The warnings of `lines`.
std::vector<std::string> WarningsOf(const std::vector<std::string>& lines) { return CompileLines(lines).warnings; }

// Whether route 'low' is reported as shadowed by 'high', which has priority 1.
bool IsLost(const std::string& high, const std::string& low) {
  const std::vector<std::string> warnings =
      WarningsOf({"name: high, priority: 1, match: { " + high + " }", "name: low, match: { " + low + " }"});
  if (warnings.empty()) return false;
  EXPECT_EQ(warnings, (std::vector<std::string>{
                          "route 'low' can never match: route 'high' goes before it and takes every request that it "
                          "would"}));
  return true;
}

TEST(RouteTable, WarnsOfConditionsThatOthersCover) {
  auto is_lost = [](const std::string& high, const std::string& low) {
    const bool of_header = IsLost("headers: [{ name: X-A, " + high + " }]", "headers: [{ name: x-a, " + low + " }]");
    EXPECT_EQ(of_header, IsLost("query: [{ name: a, " + high + " }]", "query: [{ name: a, " + low + " }]"));
    EXPECT_FALSE(IsLost("query: [{ name: A, " + high + " }]", "query: [{ name: a, " + low + " }]"));
    return of_header;
  };
  for (std::string low : {"exact: abc", "prefix: abc", "regex: 'ab+c'", "present: true"}) {
    EXPECT_TRUE(is_lost("present: true", low)) << low;
    EXPECT_FALSE(is_lost("present: false", low)) << low;
  }
  EXPECT_TRUE(is_lost("prefix: ab", "exact: abc"));
  EXPECT_TRUE(is_lost("prefix: ab", "prefix: abc"));
  EXPECT_FALSE(is_lost("prefix: abc", "prefix: ab"));
  EXPECT_FALSE(is_lost("prefix: ab", "regex: 'ab+c'"));
  EXPECT_TRUE(is_lost("regex: 'ab+c'", "exact: abbc"));
  EXPECT_FALSE(is_lost("regex: 'ab+c'", "exact: abd"));
  EXPECT_FALSE(is_lost("regex: 'ab.*'", "prefix: abc"));
  EXPECT_TRUE(is_lost("regex: 'ab.*'", "regex: 'ab.*'"));
  EXPECT_FALSE(is_lost("exact: abc", "present: true"));
  EXPECT_TRUE(is_lost("present: false", "present: false"));
}

TEST(RouteTable, WarnsOfPathsThatOthersCover) {
  auto is_lost = [](const std::string& high, const std::string& low) {
    return IsLost(high.empty() ? "" : "path: { " + high + " }", low.empty() ? "" : "path: { " + low + " }");
  };
  for (std::string high : {"template: '/a/{x}'", "template: '/a/{x}/**'", "template: '/{t}/**'", "template: '/{t}/b'",
                           "template: '/**'", "prefix: /a", "regex: '.*'", "regex: '/.*'", "regex: '/a/[a-c]'", ""}) {
    EXPECT_TRUE(is_lost(high, "exact: /a/b")) << high;
  }
  for (std::string high : {"template: '/{t}/{u}/{v}/**'", "exact: /a/b/", "regex: '/a/c'"}) {
    EXPECT_FALSE(is_lost(high, "exact: /a/b")) << high;
  }
  EXPECT_FALSE(is_lost("template: '/a/{x}'", "exact: /a/")) << "a variable is never empty";
  EXPECT_FALSE(is_lost("template: '/a/{x}'", "prefix: /a/b"));
  EXPECT_FALSE(is_lost("exact: /a/b", "template: '/a/{x}'"));
  EXPECT_TRUE(is_lost("template: '/{t}/**'", "template: '/{a}/{b}'"));
  EXPECT_FALSE(is_lost("template: '/{t}/**'", "prefix: /")) << "the prefix also matches /";
  EXPECT_TRUE(is_lost("regex: '/.*'", "prefix: /"));
  EXPECT_FALSE(is_lost("regex: '/.*'", "")) << "the other also matches the * of OPTIONS";
  EXPECT_FALSE(is_lost("prefix: /", "regex: '.*'")) << "the regex also matches the * of OPTIONS";
  EXPECT_TRUE(is_lost("prefix: /", "regex: '/.*'"));
  EXPECT_TRUE(is_lost("prefix: /a", "regex: '/a/b+'"));
  EXPECT_FALSE(is_lost("prefix: /a/b", "regex: '/a/b+'"));
  EXPECT_TRUE(is_lost("regex: '/a.b'", "exact: /a-b"));
  EXPECT_FALSE(is_lost("regex: '/a.b'", "exact: /a@b")) << "the exact path also matches /a%40b";
}

TEST(RouteTable, WarnsOfHostsThatOthersCover) {
  auto is_lost = [](const std::string& high, const std::string& low) {
    return IsLost("hosts: ['" + high + "'], path: { prefix: /a }", "hosts: ['" + low + "'], path: { exact: /a/b }");
  };
  for (std::string high : {"*.example.com", "*.com", "x.example.com"}) EXPECT_TRUE(is_lost(high, "x.example.com"));
  EXPECT_TRUE(is_lost("*.com", "*.example.com"));
  EXPECT_FALSE(is_lost("*.example.com", "example.com"));
  EXPECT_FALSE(is_lost("*.example.com", "*.com"));
  EXPECT_FALSE(is_lost("*.x.example.com", "*.example.com"));
}

TEST(RouteTable, WarnsOfARouteThatExcludesItself) {
  auto why = [](const std::string& match) {
    const std::vector<std::string> warnings = WarningsOf({"name: r, match: { " + match + " }"});
    if (warnings.empty()) return std::string();
    EXPECT_EQ(warnings.size(), 1u);
    const std::string begin = "route 'r' can never match: ";
    EXPECT_EQ(warnings[0].substr(0, begin.size()), begin);
    return warnings[0].substr(begin.size());
  };
  auto pair = [&why](const std::string& list, const std::string& a, const std::string& b) {
    return why(list + ": [{ name: a, " + a + " }, { name: a, " + b + " }]");
  };
  EXPECT_EQ(pair("headers", "present: true", "present: false"), "it asks for the header 'a' and for its absence");
  EXPECT_EQ(pair("headers", "present: false", "exact: b"), "it asks for the header 'a' and for its absence");
  EXPECT_EQ(pair("headers", "exact: b", "exact: c"), "") << "the field may have two lines";
  const std::string query = "its conditions on the query parameter 'a' contradict each other";
  EXPECT_EQ(pair("query", "exact: b", "exact: c"), query) << "the first pair counts";
  EXPECT_EQ(pair("query", "exact: b", "present: false"), query);
  EXPECT_EQ(pair("query", "prefix: ab", "prefix: ac"), query);
  EXPECT_EQ(pair("query", "prefix: ab", "exact: ac"), query);
  EXPECT_EQ(pair("query", "regex: 'a[bd]'", "exact: ac"), query);
  EXPECT_EQ(pair("query", "prefix: a", "exact: ac"), "");
  EXPECT_EQ(pair("query", "prefix: a", "prefix: ac"), "");
  EXPECT_EQ(pair("query", "present: true", "regex: b"), "");

  const std::string regex = "its regex matches no path in normal form";
  for (std::string text : {"api/.*", "(api|v1)/.*", "^api$", "/a//b.*", "/a/\\./b", "/a/\\.\\./.*", "\\*/a"}) {
    EXPECT_EQ(why("path: { regex: '" + text + "' }"), regex) << text;
  }
  for (std::string text : {"/api/.*", "(/api|v1)/.*", ".*api", "\\*", "[*]?", "/a/..", "/a/?/b", "(?i)/A/b"}) {
    EXPECT_EQ(why("path: { regex: '" + text + "' }"), "") << text;
  }
}

TEST(RouteTable, FindsTwinsAmongAnyNumberOfRoutes) {
  std::vector<std::string> lines;
  for (int i = 100; i < 300; ++i) {
    const std::string values = std::to_string(i);
    lines.push_back("name: a" + values + ", match: { path: { prefix: /a }, methods: [GET, PUT], headers: [{ name: h, " +
                    "exact: '" + values + "' }, { name: g, present: true }] }");
  }
  lines.push_back(
      "name: b, match: { path: { template: '/a/**' }, methods: [PUT, GET], headers: [{ name: G, present: true }, { "
      "name: "
      "H, exact: '299' }] }");
  EXPECT_EQ(WarningsOf(lines),
            (std::vector<std::string>{"routes 'a299' and 'b' cannot be told apart: their conditions and priorities are "
                                      "the same; 'a299' serves, by its name"}));
}

TEST(RouteTable, NamesAllRoutesThatTogetherTakeEverything) {
  EXPECT_EQ(WarningsOf({"name: a, match: { hosts: [x.com], path: { prefix: /a } }",
                        "name: b, match: { hosts: [y.com], path: { prefix: /a } }",
                        "name: c, match: { hosts: [x.com, y.com], path: { prefix: /a } }"}),
            (std::vector<std::string>{"route 'c' can never match: routes 'a' and 'b' go before it and together take "
                                      "every request that it would"}));
  EXPECT_EQ(WarningsOf({"name: a, match: { hosts: [x.com, y.com], path: { prefix: /a } }",
                        "name: b, match: { hosts: [y.com], path: { prefix: /a } }"}),
            (std::vector<std::string>{"route 'b' can never match: route 'a' goes before it and takes every request "
                                      "that it would"}))
      << "their hosts differ";
  EXPECT_EQ(WarningsOf({"name: a, match: { path: { prefix: /a }, methods: [GET] }",
                        "name: b, match: { path: { prefix: /a }, methods: [POST] }",
                        "name: c, match: { path: { prefix: /a }, methods: [GET, POST] }"}),
            (std::vector<std::string>{"route 'c' can never match: routes 'a' and 'b' go before it and together take "
                                      "every request that it would"}));
  EXPECT_EQ(WarningsOf({"name: a, match: { path: { prefix: /a } }", "name: b, match: { path: { prefix: /a } }",
                        "name: c, priority: 1, match: { path: { prefix: / } }"}),
            (std::vector<std::string>{
                "route 'a' can never match: route 'c' goes before it and takes every request that it would",
                "route 'b' can never match: route 'c' goes before it and takes every request that it would"}))
      << "a has no service, so it shadows nothing";

  std::vector<std::string> lines = {"name: all, match: { hosts: [h0.com, h1.com, h2.com, h3.com, h4.com, h5.com] }"};
  for (int i = 0; i < 6; ++i) {
    const std::string number = std::to_string(i);
    lines.push_back("name: h" + number + ", priority: 1, match: { hosts: [h" + number + ".com] }");
  }
  EXPECT_EQ(WarningsOf(lines),
            (std::vector<std::string>{"route 'all' can never match: routes 'h0', 'h1', 'h2', 'h3' and 2 more go before "
                                      "it and together take every request that it would"}));
}

TEST(RouteTable, WarnsOfWhatImpliedHeadsTakeAndOfNothingElse) {
  EXPECT_EQ(WarningsOf({"name: a, match: { path: { prefix: /a }, methods: [GET, HEAD] }",
                        "name: b, match: { path: { prefix: /a }, methods: [GET] }"}),
            (std::vector<std::string>{"route 'b' can never match: route 'a' goes before it and takes every request "
                                      "that it would"}));
  EXPECT_EQ(WarningsOf({"name: a, match: { path: { prefix: /a }, methods: [GET] }",
                        "name: b, match: { path: { prefix: /a }, methods: [GET] }"}),
            (std::vector<std::string>{"routes 'a' and 'b' cannot be told apart: their conditions and priorities are "
                                      "the same; 'a' serves, by its name"}));
  EXPECT_EQ(WarningsOf({"name: a, priority: 1, match: { path: { prefix: / }, methods: [GET] }",
                        "name: b, match: { path: { prefix: /a }, methods: [HEAD] }"}),
            (std::vector<std::string>{"route 'b' can never match: route 'a' goes before it and takes every request "
                                      "that it would"}));
}

TEST(RouteTable, DoesNotWarnOfARouteThatKeepsOneOfItsHosts) {
  auto result = CompileLines({"name: a, match: { hosts: [x.com], path: { prefix: /a } }",
                              "name: b, match: { hosts: [x.com, y.com], path: { prefix: /a } }"});
  EXPECT_TRUE(result.warnings.empty());
}

TEST(RouteTable, AllocatesNothing) {
  if (!GATEWAY_COUNTS_ALLOCATIONS) GTEST_SKIP() << "allocations are the sanitizer's";
  std::vector<std::string> lines = {
      "name: a, match: { path: { prefix: /a }, methods: [POST], headers: [{ name: X-Canary-Of-Long-Name, prefix: long "
      "}], "
      "query: [{ name: v, exact: '1' }] }"};
  std::string all_variables;
  for (size_t i = 0; i < kTemplateVariablesMax; ++i) all_variables += "/{a_variable_" + std::to_string(i) + "}";
  lines.push_back("name: t, match: { path: { template: '/t" + all_variables + "' } }");
  for (int i = 0; i < 500; ++i) {
    lines.push_back("name: r" + std::to_string(i) + ", match: { hosts: [h" + std::to_string(i % 7) +
                    ".example.com], path: { prefix: /a/segment-of-a-long-name-" + std::to_string(i) + " } }");
  }
  for (int i = 0; i < 20; ++i) {
    const std::string value = std::to_string(i);
    lines.push_back("name: many-h" + value + ", match: { path: { exact: /many }, headers: [{ name: X-Tenant, exact: '" +
                    value + "' }] }");
    lines.push_back("name: many-q" + value + ", match: { path: { exact: /many }, query: [{ name: tenant, exact: 'a " +
                    value + "' }] }");
  }
  auto result = CompileLines(lines);
  const std::string with_all = "/t/0/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15";
  const std::vector<FieldView> fields = {{"Host", "x"}, {"x-canary-of-long-name", "longer"}, {"x-tenant", "none"}};
  std::string long_escape = "/a/%2F";
  long_escape.resize(3000, 'x');
  RouteMatch match;
  const uint64_t before = allocations;
  for (const auto& [method, host, path] : std::vector<std::tuple<std::string_view, std::string_view, std::string_view>>{
           {"POST", "h", "/a/b"},
           {"GET", "h3.example.com", "/a/segment-of-a-long-name-3/x"},
           {"GET", "h3.example.com", "/a/none-of-these"},
           {"GET", "h", with_all},
           {"GET", "h", "/many"},
           {"GET", "h", long_escape}}) {
    const uint64_t before_this = allocations;
    result.snapshot->Match(
        {.method = method, .host = host, .path = path, .query = "a&v=%31&tenant=a+7", .fields = fields}, &match);
    EXPECT_EQ(allocations, before_this) << path.substr(0, 60);
  }
  EXPECT_GT(allocations, before) << "the counter works: the list of cases was allocated";
}

// The reference: tests every route and takes the best match, in the order of POLICY, straight from the messages.
struct Reference {
  std::vector<v1::Route> routes;

  struct Hit {
    const v1::Route* route = nullptr;
    std::vector<std::string> variables;
    size_t prefix_length = 0;
    std::set<std::string> allowed;
  };

  static std::vector<std::string> Split(const std::string& path) {
    std::vector<std::string> parts(1);
    for (char c : path.substr(1)) {
      if (c == '/') {
        parts.emplace_back();
      } else {
        parts.back() += c;
      }
    }
    return parts;
  }

  static bool MatchesWhole(const std::string& pattern, const std::string& text) {
    static std::map<std::string, std::unique_ptr<const RE2>> compiled;
    std::unique_ptr<const RE2>& regex = compiled[pattern];
    if (regex == nullptr) regex = CompileRegex(pattern);
    return RE2::FullMatch(text, *regex);
  }

  template <typename StringMatch>
  static bool Holds(const StringMatch& match, const std::string& value) {
    if (match.has_exact()) return value == match.exact();
    if (match.has_prefix()) return value.starts_with(match.prefix());
    if (match.has_regex()) return MatchesWhole(match.regex(), value);
    return true;
  }

  // The value of the first pair with this name. For queries without escapes.
  static std::optional<std::string> QueryValue(const std::string& query, const std::string& name) {
    std::istringstream pairs(query);
    for (std::string pair; std::getline(pairs, pair, '&');) {
      if (pair.substr(0, pair.find('=')) == name) return pair.substr(pair.find('=') + 1);
    }
    return std::nullopt;
  }

  // Rank of the path condition ("0" literal, "1" variable, "2" end, "3" rest, segment by segment; lower is better).
  static std::optional<std::string> PathRank(const v1::PathMatch& match, const std::string& path, Hit* hit) {
    if (match.match_case() == v1::PathMatch::MATCH_NOT_SET) return "5";
    if (match.has_regex()) {
      if (MatchesWhole(match.regex(), path)) return "4";
      return std::nullopt;
    }
    if (path[0] != '/') return std::nullopt;
    std::vector<std::string> want;
    bool rest = false;
    if (match.has_exact()) want = Split(match.exact());
    if (match.has_prefix()) {
      want = Split(match.prefix());
      rest = true;
      if (want.back().empty()) want.pop_back();
    }
    if (match.has_template_()) {
      want = Split(match.template_());
      rest = want.back() == "**";
      if (rest) want.pop_back();
    }
    const std::vector<std::string> got = Split(path);
    if (got.size() < want.size() || (!rest && got.size() != want.size())) return std::nullopt;
    std::string rank;
    size_t position = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      if (match.has_template_() && want[i][0] == '{') {
        if (got[i].empty()) return std::nullopt;
        rank += '1';
        hit->variables.push_back(got[i]);
      } else {
        if (want[i] != got[i]) return std::nullopt;
        rank += '0';
        if (hit->variables.empty()) hit->prefix_length += 1 + got[i].size();
      }
      position += 1 + got[i].size();
    }
    if (match.has_template_() && rest) hit->variables.push_back(path.substr(position));
    return rank + (rest ? '3' : '2');
  }

  static std::optional<std::pair<int, int>> HostRank(const v1::RouteMatch& match, const std::string& host) {
    if (match.hosts().empty()) return std::pair(2, 0);
    std::optional<std::pair<int, int>> best;
    for (const std::string& pattern : match.hosts()) {
      std::optional<std::pair<int, int>> rank;
      if (pattern[0] != '*') {
        if (pattern == host) rank = {0, 0};
      } else if (host.size() >= pattern.size() && host.ends_with(pattern.substr(1))) {
        rank = {1, -static_cast<int>(pattern.size())};
      }
      if (rank.has_value() && (!best.has_value() || *rank < *best)) best = rank;
    }
    return best;
  }

  Hit Match(const Request& request) const {
    using Rank = std::tuple<int, std::pair<int, int>, std::string, bool, int, bool, std::string>;
    std::optional<Rank> best;
    Hit result;
    for (const v1::Route& route : routes) {
      const v1::RouteMatch& match = route.match();
      Hit hit{.route = &route, .variables = {}, .prefix_length = 0, .allowed = {}};
      auto host = HostRank(match, request.host);
      auto path = PathRank(match.path(), request.path, &hit);
      if (!host.has_value() || !path.has_value()) continue;
      bool holds = true;
      for (const v1::HeaderMatch& header : match.headers()) {
        bool found = false;
        for (const auto& [name, value] : request.fields) {
          found = found || (name == header.name() && Holds(header, value));
        }
        holds = holds && found == (!header.has_present() || header.present());
      }
      for (const v1::QueryMatch& query : match.query()) {
        const std::optional<std::string> value = QueryValue(request.query, query.name());
        const bool found = value.has_value() && Holds(query, *value);
        holds = holds && found == (!query.has_present() || query.present());
      }
      if (!holds) continue;
      std::set<std::string> methods(match.methods().begin(), match.methods().end());
      const bool implied = request.method == "HEAD" && methods.contains("GET") && !methods.contains("HEAD");
      if (methods.contains("GET")) methods.insert("HEAD");
      if (!methods.empty() && !methods.contains(request.method)) {
        result.allowed.insert(methods.begin(), methods.end());
        continue;
      }
      Rank rank{
          -route.priority(), *host,       *path, match.methods().empty(), -match.headers_size() - match.query_size(),
          implied,           route.name()};
      if (best.has_value() && !(rank < *best)) continue;
      best = rank;
      hit.allowed = std::move(result.allowed);
      result = std::move(hit);
    }
    if (result.route != nullptr) result.allowed.clear();
    return result;
  }
};

// Few distinct values, so that conditions overlap.
class RandomSets {
 public:
  explicit RandomSets(uint32_t seed) : rng_(seed) {}

  size_t Below(size_t n) { return rng_() % n; }
  bool OneIn(size_t n) { return Below(n) == 0; }
  template <typename From>
  auto Pick(const From& from) {
    return *(std::begin(from) + Below(std::size(from)));
  }

  // `crowded`: most routes share a path and differ in their conditions.
  std::vector<v1::Route> Routes(size_t count, bool crowded) {
    const bool flat = OneIn(2);  // all priorities are equal
    std::vector<v1::Route> routes(count);
    for (size_t i = 0; i < count; ++i) {
      v1::Route& route = routes[i];
      route.set_name("r" + std::to_string(i));
      if (!flat) route.set_priority(static_cast<int>(Below(4)) - 1);
      v1::RouteMatch& match = *route.mutable_match();
      if (OneIn(crowded ? 4 : 2)) {
        std::set<std::string> hosts;
        for (size_t n = 1 + Below(2); n > 0; --n) hosts.insert(Pick(kHosts));
        for (const std::string& host : hosts) match.add_hosts(host);
      }
      AddPath(crowded, &match);
      if (OneIn(3)) {
        std::set<std::string> methods;
        for (size_t n = 1 + Below(2); n > 0; --n) methods.insert(Pick(kMethods));
        for (const std::string& method : methods) match.add_methods(method);
      }
      for (size_t n = Below(crowded ? 4 : 2); n > 0; --n) {
        v1::HeaderMatch& header = *match.add_headers();
        header.set_name(crowded ? Pick(kManyNames) : Pick(kNames));
        AddCondition(crowded, &header);
      }
      for (size_t n = OneIn(2) ? 0 : Below(3); n > 0; --n) {
        v1::QueryMatch& query = *match.add_query();
        query.set_name(Pick(kNames));
        AddCondition(crowded, &query);
      }
    }
    return routes;
  }

  Request ARequest() {
    Request request{.method = Pick(kMethods), .host = Pick(kRequestHosts), .path = {}, .query = {}, .fields = {}};
    for (size_t depth = Below(5); depth > 0; --depth) request.path += std::string("/") + Pick(kSegments);
    if (request.path.empty() || OneIn(4)) request.path += '/';
    if (OneIn(30)) request.path = "*";
    for (size_t n = Below(4); n > 0; --n) {
      request.query += std::string(request.query.empty() ? "" : "&") + Pick(kNames) + "=" + Pick(kValues);
    }
    for (size_t n = Below(5); n > 0; --n) {
      request.fields.emplace_back(OneIn(2) ? Pick(kManyNames) : Pick(kNames), Pick(kValues));
    }
    return request;
  }

 private:
  static constexpr const char* kSegments[] = {"a", "b", "c"};
  static constexpr const char* kMethods[] = {"GET", "HEAD", "PUT", "POST"};
  static constexpr const char* kHosts[] = {"x.com", "y.x.com", "*.x.com", "*.y.x.com", "*.com"};
  static constexpr const char* kRequestHosts[] = {"x.com", "y.x.com", "z.x.com", "z.y.x.com", "w.com", "w.org", ""};
  static constexpr const char* kNames[] = {"g", "h"};
  static constexpr const char* kManyNames[] = {"g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r"};
  static constexpr const char* kValues[] = {"1", "2", "12", "21"};
  static constexpr const char* kValuePrefixes[] = {"1", "2", "12"};
  static constexpr const char* kValueRegexes[] = {".*", "[12]", "1.*", "2?1"};
  static constexpr const char* kPathRegexes[] = {
      "/a(/[bc])?",    ".*",       "/.*",     "^/.*$",    "/a/.*",  "/a/b",      "/a/b/?", "/a/b/.*", "(?i)/A/B.*",
      "/(a|b)/c",      "/[ab]/.+", "/b.*",    "[^*]*",    "\\*",    "\\*|/a",    "a/.*",   "(a|b)/c", "/a//b.*",
      "/a/(b/)?\\./c", "/a|b/c",   "(/a)?.*", "/a/[b-c]", "/a/b/c", "/a(/b)+/?", ".*/c",   "[/*].*",  "/a/\\.\\./.*"};

  void AddPath(bool crowded, v1::RouteMatch* match) {
    const size_t kind = Below(12);
    if (kind == 6 || (crowded && kind < 3)) {
      if (OneIn(2)) match->mutable_path()->set_regex(Pick(kPathRegexes));
      return;
    }
    if (crowded) {
      match->mutable_path()->set_prefix("/a");
      return;
    }
    std::string path;
    for (size_t n = 0, depth = Below(4); n < depth; ++n) {
      path += '/';
      path += kind >= 7 && OneIn(3) ? "{v" + std::to_string(n) + "}" : Pick(kSegments);
    }
    if (kind < 3) {
      match->mutable_path()->set_exact(path + (path.empty() || OneIn(3) ? "/" : ""));
    } else if (kind < 6) {
      match->mutable_path()->set_prefix(path + (path.empty() || OneIn(3) ? "/" : ""));
    } else {
      match->mutable_path()->set_template_(path + (path.empty() || OneIn(2) ? "/**" : ""));
    }
  }

  template <typename StringMatch>
  void AddCondition(bool crowded, StringMatch* match) {
    const size_t kind = Below(crowded ? 10 : 5);
    if (kind == 0) {
      match->set_present(OneIn(2));
    } else if (kind == 1) {
      match->set_prefix(Pick(kValuePrefixes));
    } else if (kind == 2) {
      match->set_regex(Pick(kValueRegexes));
    } else {
      match->set_exact(Pick(kValues));
    }
  }

  std::mt19937 rng_;
};

// The quoted names of a warning, in order.
std::vector<std::string> QuotedNames(const std::string& warning) {
  std::vector<std::string> names;
  for (size_t begin = warning.find('\''); begin != std::string::npos;) {
    const size_t end = warning.find('\'', begin + 1);
    names.push_back(warning.substr(begin + 1, end - begin - 1));
    begin = warning.find('\'', end + 1);
  }
  return names;
}

TEST(RouteTable, AgreesWithTheReferenceOnRandomSets) {
  const char* fixed = std::getenv("GATEWAY_TEST_SEED");
  const auto seed = fixed != nullptr ? static_cast<uint32_t>(std::atol(fixed)) : std::random_device{}();
  SCOPED_TRACE(testing::Message() << "GATEWAY_TEST_SEED=" << seed);
  RandomSets random(seed);
  uint64_t matched = 0;
  uint64_t refused = 0;
  uint64_t warned = 0;
  for (int set = 0; set < 100; ++set) {
    const bool crowded = set % 4 == 0;
    const Reference reference{random.Routes(1 + random.Below(crowded ? 200 : 60), crowded)};
    CompileResult result = CompileRoutes(reference.routes);
    ASSERT_NE(result.snapshot, nullptr);
    // A route reported as shadowed must never match, and the routes that the warning names must suffice for that.
    struct Lost {
      Reference with_takers;
      bool all_named;
    };
    std::map<std::string, Lost> all_lost;
    for (const std::string& warning : result.warnings) {
      const bool alike = warning.starts_with("routes");
      std::vector<std::string> names = QuotedNames(warning);
      const std::string name = alike ? names[1] : names[0];
      if (warning.find(" go before it") == std::string::npos && warning.find(" goes before it") == std::string::npos &&
          !alike) {
        names.resize(1);
      }
      Lost& lost = all_lost[name];
      lost.all_named = warning.find(" more go before it") == std::string::npos;
      for (const v1::Route& route : reference.routes) {
        if (std::find(names.begin(), names.end(), route.name()) != names.end())
          lost.with_takers.routes.push_back(route);
      }
    }
    warned += all_lost.size();
    for (int n = 0; n < 300; ++n) {
      const Request request = random.ARequest();
      const Reference::Hit want = reference.Match(request);
      const RouteMatch got = Match(*result.snapshot, request);
      std::string told = request.method + " " + request.host + " " + request.path + "?" + request.query;
      for (const auto& [name, value] : request.fields) told += " " + name + ":" + value;
      ASSERT_EQ(got.route == nullptr ? "" : got.route->name, want.route == nullptr ? "" : want.route->name())
          << "set " << set << ": " << told;
      ASSERT_EQ(std::set<std::string>(got.allowed_methods.begin(), got.allowed_methods.end()), want.allowed) << told;
      ASSERT_EQ(got.method_not_allowed, !want.allowed.empty()) << told;
      for (const auto& [name, lost] : all_lost) {
        if (!lost.all_named || n % 8 != 0) continue;  // each takes long
        const v1::Route* taker = lost.with_takers.Match(request).route;
        ASSERT_TRUE(taker == nullptr || taker->name() != name) << "set " << set << ": " << told << " -> " << name;
      }
      if (want.route == nullptr) {
        refused += static_cast<uint64_t>(got.method_not_allowed);
        continue;
      }
      ++matched;
      ASSERT_FALSE(all_lost.contains(got.route->name)) << told << " -> " << got.route->name;
      ASSERT_EQ(Variables(got), want.variables) << told << " -> " << got.route->name;
      ASSERT_EQ(got.prefix_length, want.prefix_length) << told << " -> " << got.route->name;
    }
  }
  EXPECT_GT(matched, 5000u);
  EXPECT_GT(refused, 100u);
  EXPECT_GT(warned, 300u);
}

}  // namespace
}  // namespace gateway
