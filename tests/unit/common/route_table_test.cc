#include "common/route_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "common/policy_files.h"
#include "common/snapshot.h"

// A sanitizer has its own operator new, which checks more than ours would.
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
// Of the thread that reads it.
thread_local uint64_t allocations = 0;
}  // namespace

#if GATEWAY_COUNTS_ALLOCATIONS
// Both sides are replaced; inlined into one another, GCC takes them for a mismatch.
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

// One route a line: "name: { match: {...} }" in YAML's flow form.
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
};

// The match of `request`; its views point into it.
RouteMatch Match(const Snapshot& snapshot, const Request& request) {
  std::vector<FieldView> fields;
  for (const auto& [name, value] : request.fields) fields.push_back({name, value});
  RouteMatch match;
  snapshot.Match(
      {.method = request.method, .host = request.host, .path = request.path, .query = request.query, .fields = fields},
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
  EXPECT_EQ(at(std::string(100'000, '.') + "b.example.com"), "bare") << "no host name is that long";
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
            (std::vector<std::string>{"DELETE", "GET", "PUT"}));
  EXPECT_EQ(NameOf(result, {.method = "DELETE", .path = "/a"}), "b") << "falls through to the next best";
  EXPECT_EQ(NameOf(result, {.method = "get", .path = "/a"}), "405") << "methods have a case";

  RouteMatch reused = match;
  const Request get{.path = "/a"};
  result.snapshot->Match({.method = get.method, .host = get.host, .path = get.path, .query = {}, .fields = {}},
                         &reused);
  EXPECT_EQ(reused.route->name, "a");
  EXPECT_FALSE(reused.method_not_allowed);
  EXPECT_TRUE(reused.allowed_methods.empty());
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
  auto result = CompileLines(lines);
  const std::string with_all = "/t/0/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15";
  const std::vector<FieldView> fields = {{"Host", "x"}, {"x-canary-of-long-name", "longer"}};
  std::string long_escape = "/a/%2F";
  long_escape.resize(3000, 'x');
  RouteMatch match;
  const uint64_t before = allocations;
  for (const auto& [method, host, path] : std::vector<std::tuple<std::string_view, std::string_view, std::string_view>>{
           {"POST", "h", "/a/b"},
           {"GET", "h3.example.com", "/a/segment-of-a-long-name-3/x"},
           {"GET", "h3.example.com", "/a/none-of-these"},
           {"GET", "h", with_all},
           {"GET", "h", long_escape}}) {
    const uint64_t before_this = allocations;
    result.snapshot->Match({.method = method, .host = host, .path = path, .query = "a&v=%31", .fields = fields},
                           &match);
    EXPECT_EQ(allocations, before_this) << path.substr(0, 60);
  }
  EXPECT_GT(allocations, before) << "the counter counts: the list of cases itself was allocated";
}

// A reference: every route by itself, the best of those that hold, by the order of POLICY, straight from the messages.
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

  // Rank of the path condition ("0" literal, "1" variable, "2" end, "3" rest, segment by segment; lower is better).
  static std::optional<std::string> PathRank(const v1::PathMatch& match, const std::string& path, Hit* hit) {
    if (match.match_case() == v1::PathMatch::MATCH_NOT_SET) return "5";
    if (match.has_regex()) {
      // The only one that is generated: '/a(/[bc])?'.
      if (path == "/a" || path == "/a/b" || path == "/a/c") return "4";
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
    using Rank = std::tuple<int, std::pair<int, int>, std::string, bool, int, std::string>;
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
          found = found || (name == header.name() && (!header.has_exact() || header.exact() == value));
        }
        holds = holds && found == (header.has_exact() || header.present());
      }
      for (const v1::QueryMatch& query : match.query()) {
        holds = holds && request.query.starts_with(query.name() + "=" + query.exact());
      }
      if (!holds) continue;
      if (!match.methods().empty() &&
          std::find(match.methods().begin(), match.methods().end(), request.method) == match.methods().end()) {
        result.allowed.insert(match.methods().begin(), match.methods().end());
        continue;
      }
      Rank rank{-route.priority(), *host, *path, match.methods().empty(), -match.headers_size() - match.query_size(),
                route.name()};
      if (best.has_value() && !(rank < *best)) continue;
      best = rank;
      hit.allowed = std::move(result.allowed);
      result = std::move(hit);
    }
    if (result.route != nullptr) result.allowed.clear();
    return result;
  }
};

TEST(RouteTable, AgreesWithTheReferenceOnRandomSets) {
  const char* fixed = std::getenv("GATEWAY_TEST_SEED");
  const auto seed = fixed != nullptr ? static_cast<uint32_t>(std::atol(fixed)) : std::random_device{}();
  SCOPED_TRACE(testing::Message() << "GATEWAY_TEST_SEED=" << seed);
  std::mt19937 rng(seed);
  auto pick = [&rng](const auto& from) { return *(std::begin(from) + rng() % std::size(from)); };
  static const char* const kSegments[] = {"a", "b", "c"};
  static const char* const kMethods[] = {"GET", "PUT", "POST"};
  static const char* const kHosts[] = {"x.com", "y.x.com", "*.x.com", "*.y.x.com"};
  static const char* const kRequestHosts[] = {"x.com", "y.x.com", "z.x.com", "z.y.x.com", "w.com", ""};
  uint64_t matched = 0;
  uint64_t refused = 0;
  uint64_t warned = 0;
  for (int set = 0; set < 150; ++set) {
    Reference reference;
    const bool flat = rng() % 2 == 0;  // all priorities are equal
    const int count = 1 + static_cast<int>(rng() % 60);
    for (int i = 0; i < count; ++i) {
      v1::Route& route = reference.routes.emplace_back();
      route.set_name("r" + std::to_string(i));
      if (!flat) route.set_priority(static_cast<int>(rng() % 4) - 1);
      v1::RouteMatch& match = *route.mutable_match();
      if (rng() % 2 == 0) {
        std::set<std::string> hosts;
        for (size_t n = 1 + rng() % 2; n > 0; --n) hosts.insert(pick(kHosts));
        for (const std::string& host : hosts) match.add_hosts(host);
      }
      std::string path;
      const size_t depth = rng() % 4;
      const size_t kind = rng() % 12;
      for (size_t n = 0; n < depth; ++n) {
        path += '/';
        path += kind >= 7 && rng() % 3 == 0 ? "{v" + std::to_string(n) + "}" : pick(kSegments);
      }
      if (kind < 3) {
        match.mutable_path()->set_exact(path + (path.empty() || rng() % 3 == 0 ? "/" : ""));
      } else if (kind < 6) {
        match.mutable_path()->set_prefix(path + (path.empty() || rng() % 3 == 0 ? "/" : ""));
      } else if (kind == 6) {
        if (rng() % 2 == 0) match.mutable_path()->set_regex("/a(/[bc])?");
      } else {
        match.mutable_path()->set_template_(path + (path.empty() || rng() % 2 == 0 ? "/**" : ""));
      }
      if (rng() % 3 == 0) {
        std::set<std::string> methods;
        for (size_t n = 1 + rng() % 2; n > 0; --n) methods.insert(pick(kMethods));
        for (const std::string& method : methods) match.add_methods(method);
      }
      if (rng() % 3 == 0) {
        v1::HeaderMatch& header = *match.add_headers();
        header.set_name(rng() % 2 == 0 ? "h" : "g");
        if (rng() % 2 == 0) {
          header.set_present(rng() % 2 == 0);
        } else {
          header.set_exact("1");
        }
      }
      if (rng() % 4 == 0) {
        match.add_query()->set_name("q");
        match.mutable_query(0)->set_exact("1");
      }
    }
    CompileResult result = CompileRoutes(reference.routes);
    ASSERT_NE(result.snapshot, nullptr);
    // What a warning calls lost must never be seen.
    std::set<std::string> lost;
    for (const std::string& warning : result.warnings) {
      const bool alike = warning.starts_with("routes");
      const size_t begin = alike ? warning.find("and '") + 5 : warning.find('\'') + 1;
      lost.insert(warning.substr(begin, warning.find('\'', begin) - begin));
    }
    warned += lost.size();
    for (int n = 0; n < 300; ++n) {
      Request request{.method = pick(kMethods), .host = pick(kRequestHosts), .path = {}, .query = {}, .fields = {}};
      for (size_t depth = rng() % 5; depth > 0; --depth) request.path += std::string("/") + pick(kSegments);
      if (request.path.empty() || rng() % 4 == 0) request.path += '/';
      if (rng() % 50 == 0) request.path = "*";
      if (rng() % 2 == 0) request.query = rng() % 2 == 0 ? "q=1" : "q=2";
      if (rng() % 2 == 0) request.fields.emplace_back("h", rng() % 2 == 0 ? "1" : "2");
      if (rng() % 3 == 0) request.fields.emplace_back("g", "1");
      const Reference::Hit want = reference.Match(request);
      const RouteMatch got = Match(*result.snapshot, request);
      const std::string told = request.method + " " + request.host + " " + request.path + "?" + request.query;
      ASSERT_EQ(got.route == nullptr ? "" : got.route->name, want.route == nullptr ? "" : want.route->name())
          << "set " << set << ": " << told;
      ASSERT_EQ(std::set<std::string>(got.allowed_methods.begin(), got.allowed_methods.end()), want.allowed) << told;
      ASSERT_EQ(got.method_not_allowed, !want.allowed.empty()) << told;
      if (want.route == nullptr) {
        refused += static_cast<uint64_t>(got.method_not_allowed);
        continue;
      }
      ++matched;
      ASSERT_FALSE(lost.contains(got.route->name)) << told << " -> " << got.route->name;
      ASSERT_EQ(Variables(got), want.variables) << told << " -> " << got.route->name;
      ASSERT_EQ(got.prefix_length, want.prefix_length) << told << " -> " << got.route->name;
    }
  }
  EXPECT_GT(matched, 10'000u);
  EXPECT_GT(refused, 100u);
  EXPECT_GT(warned, 100u);
}

}  // namespace
}  // namespace gateway
