// Checks of edge policy, and regex rewrites of paths.
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/policy/kinds/kinds.h"
#include "common/policy/policy_texts.h"
#include "common/policy/snapshot.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gateway {
namespace {

// The errors of one resource, as "field: message".
std::vector<std::string> ErrorsOf(const v1::Resource& resource) {
  std::vector<v1::PolicyError> errors;
  CheckResource(resource, &errors);
  std::vector<std::string> texts;
  for (const v1::PolicyError& error : errors) texts.push_back(error.field() + ": " + error.message());
  return texts;
}

TEST(CheckCors, StarsNeverGoWithCredentials) {
  v1::Resource resource;
  v1::Cors& cors = *resource.mutable_cors();
  cors.set_name("web");
  cors.add_origins("https://app.example.com");
  cors.add_expose_headers("*");
  EXPECT_TRUE(ErrorsOf(resource).empty());
  cors.set_credentials(true);
  EXPECT_EQ(ErrorsOf(resource).size(), 1u);
  cors.clear_expose_headers();
  EXPECT_TRUE(ErrorsOf(resource).empty());
  cors.set_origins(0, "*");
  EXPECT_EQ(ErrorsOf(resource).size(), 1u);
}

TEST(CheckCors, MethodsHaveACase) {
  v1::Resource resource;
  v1::Cors& cors = *resource.mutable_cors();
  cors.set_name("web");
  cors.add_origins("https://app.example.com");
  cors.add_methods("put");
  EXPECT_THAT(ErrorsOf(resource),
              testing::ElementsAre("methods[0]: methods have a case; 'put' can never match; write 'PUT'"));
  cors.set_methods(0, "PUT");
  EXPECT_TRUE(ErrorsOf(resource).empty());
  cors.set_methods(0, "*");
  EXPECT_TRUE(ErrorsOf(resource).empty());
}

// The errors of a route with a fixed response, after `fill` has changed it.
std::vector<std::string> RouteErrorsOf(const std::function<void(v1::Route*)>& fill) {
  v1::Resource resource;
  v1::Route& route = *resource.mutable_route();
  route.set_name("r");
  route.mutable_match();
  fill(&route);
  return ErrorsOf(resource);
}

TEST(CheckRespond, AContentTypeIsSentAsItStands) {
  EXPECT_THAT(
      RouteErrorsOf([](v1::Route* route) { route->mutable_respond()->set_content_type("text/${path}"); }),
      testing::ElementsAre(testing::HasSubstr("respond.content_type: 'text/${path}' has a variable, but is sent "
                                              "literally")));
  EXPECT_TRUE(RouteErrorsOf([](v1::Route* route) { route->mutable_respond()->set_content_type("text/css"); }).empty());
}

TEST(CheckRespond, AKeyReachesNoTerminalAsItIs) {
  const std::vector<std::string> errors =
      RouteErrorsOf([](v1::Route* route) { (*route->mutable_respond()->mutable_headers())["a\r\n\x1b[31m"] = "x"; });
  ASSERT_EQ(errors.size(), 1u);
  EXPECT_THAT(errors[0], testing::HasSubstr("respond.headers.'a"));
  for (char c : errors[0]) EXPECT_GE(c, ' ');
}

TEST(CheckRedirect, OneThatLeadsBackIsRefused) {
  const auto errors = [](const std::function<void(v1::Route*)>& fill) {
    return RouteErrorsOf([&](v1::Route* route) {
      route->mutable_match()->mutable_path()->set_exact("/a");
      route->mutable_redirect()->set_path("/a");
      fill(route);
    });
  };
  EXPECT_THAT(errors([](v1::Route*) {}),
              testing::ElementsAre("redirect.path: redirects to the same URL; expected another path, or a scheme "
                                   "or a host beside it"));
  EXPECT_EQ(errors([](v1::Route* route) { route->mutable_redirect()->set_strip_query(true); }).size(), 1u);
  // Allowed: the next request differs or goes to another path.
  EXPECT_TRUE(errors([](v1::Route* route) { route->mutable_redirect()->set_path("/a/"); }).empty());
  EXPECT_TRUE(errors([](v1::Route* route) { route->mutable_redirect()->set_scheme("https"); }).empty());
  EXPECT_TRUE(errors([](v1::Route* route) { route->mutable_redirect()->set_host("b.example"); }).empty());
  EXPECT_TRUE(errors([](v1::Route* route) {
                route->mutable_match()->set_scheme(v1::RouteMatch::HTTP);
                route->mutable_redirect()->set_scheme("https");
              }).empty());
  EXPECT_THAT(errors([](v1::Route* route) {
                route->mutable_match()->set_scheme(v1::RouteMatch::HTTPS);
                route->mutable_redirect()->set_scheme("https");
              }),
              testing::ElementsAre(testing::HasSubstr("redirect.path: redirects to the same URL")));
  EXPECT_THAT(RouteErrorsOf([](v1::Route* route) {
                route->mutable_match()->set_scheme(v1::RouteMatch::HTTPS);
                route->mutable_redirect()->set_scheme("https");
              }),
              testing::ElementsAre(testing::HasSubstr("redirect: redirects to the same URL")));
  EXPECT_TRUE(errors([](v1::Route* route) {
                route->mutable_redirect()->set_strip_query(true);
                v1::QueryMatch& query = *route->mutable_match()->add_query();
                query.set_name("old");
                query.set_present(true);
              }).empty());
  EXPECT_TRUE(errors([](v1::Route* route) {
                route->mutable_match()->add_methods("POST");
                route->mutable_redirect()->set_status(303);
              }).empty());

  const auto prefix = [](const std::string& from, const std::string& to) {
    return RouteErrorsOf([&](v1::Route* route) {
      route->mutable_match()->mutable_path()->set_prefix(from);
      route->mutable_redirect()->set_prefix(to);
    });
  };
  EXPECT_THAT(prefix("/a", "/a"),
              testing::ElementsAre(testing::HasSubstr("redirect.prefix: redirects to the same URL")));
  EXPECT_THAT(prefix("/a", "/a/"),
              testing::ElementsAre(testing::HasSubstr("redirect.prefix: redirects to the same URL")));
  EXPECT_THAT(prefix("/", "/"), testing::ElementsAre(testing::HasSubstr("redirect.prefix: redirects to the same URL")));
  EXPECT_TRUE(prefix("/a", "/b").empty());
}

TEST(ParseText, TheRestOfATemplateIsNoVariable) {
  const absl::Status status = ParseText("${path.**}", {"id", ""}, true, kFieldValueBytesMax).status();
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("'path.**' is not a variable: ** has no name"));
}

TEST(ParseText, BoundsHowOftenAVariableIsUsed) {
  std::string text;
  for (size_t i = 0; i < kTextVariablesMax; ++i) text += "${path}";
  EXPECT_TRUE(ParseText(text, {}, true, kFieldValueBytesMax).ok());
  EXPECT_FALSE(ParseText(text + "${path}", {}, true, kFieldValueBytesMax).ok());
}

// `path` after this rewrite; nullopt if the result is not a path.
std::optional<std::string> Rewritten(std::string_view pattern, std::string_view substitution, std::string_view path) {
  v1::Resource service, route;
  service.mutable_service()->set_name("s");
  service.mutable_service()->add_static_()->set_address("127.0.0.1:1");
  route.mutable_route()->set_name("r");
  route.mutable_route()->mutable_match();
  route.mutable_route()->set_service("s");
  v1::RegexRewrite& regex = *route.mutable_route()->mutable_rewrite()->mutable_regex();
  regex.set_pattern(std::string(pattern));
  regex.set_substitution(std::string(substitution));
  const std::vector<const v1::Resource*> set = {&service, &route};
  const CompileResult result = CompileSnapshot(set, {});
  if (result.snapshot == nullptr) {
    ADD_FAILURE() << "does not compile";
    return std::nullopt;
  }
  RouteMatch match;
  result.snapshot->Match({.method = "GET", .host = "a", .path = path, .query = "", .fields = {}}, &match);
  std::string out;
  return Snapshot::Rewrite(match, path, &out) ? std::optional(out) : std::nullopt;
}

// The error of a rewrite's substitution; "": valid.
std::string SubstitutionError(std::string_view pattern, std::string_view substitution) {
  v1::Resource resource;
  v1::Route& route = *resource.mutable_route();
  route.set_name("r");
  route.mutable_match();
  route.set_service("s");
  route.mutable_rewrite()->mutable_regex()->set_pattern(std::string(pattern));
  route.mutable_rewrite()->mutable_regex()->set_substitution(std::string(substitution));
  const std::vector<std::string> errors = ErrorsOf(resource);
  if (errors.empty()) return "";
  EXPECT_EQ(errors.size(), 1u);
  return errors[0];
}

TEST(RegexRewrite, ASubstitutionThatNeverGivesAPathIsRefused) {
  const auto error = [](std::string_view substitution) { return SubstitutionError("^/api/(.*)$", substitution); };
  EXPECT_EQ(error("/v2?id=\\1"),
            "rewrite.regex.substitution: has '?', which a path has only percent-encoded; expected %3F");
  EXPECT_THAT(error("/\\1#top"), testing::HasSubstr("expected %23"));
  EXPECT_THAT(error("/a b"), testing::HasSubstr("expected %20"));
  EXPECT_THAT(error("/a\x01"), testing::HasSubstr("expected %01"));
  EXPECT_THAT(error("/\\1\xc3\xa9"), testing::HasSubstr("expected %C3"));
  EXPECT_THAT(error("/a\\\\b"), testing::HasSubstr("expected %5C"));
  EXPECT_THAT(error("/a//\\1"), testing::HasSubstr("expected a single '/'"));
  EXPECT_THAT(error("/a/../\\1"), testing::HasSubstr("has a dot segment"));
  EXPECT_THAT(error("/100%/\\1"), testing::HasSubstr("expected %25"));
  EXPECT_THAT(error("/%2f\\1"), testing::HasSubstr("expected %2F"));
  EXPECT_THAT(error("/%61"), testing::HasSubstr("expected a"));
  EXPECT_THAT(error("/%00"), testing::HasSubstr("which no path has"));
  EXPECT_THAT(error("v2/\\1"), testing::HasSubstr("expected one like '/v2/\\1'"));
  for (std::string_view ok :
       {"", "/", "/v2/\\1", "\\0", "/\\1\\1", "/%2F\\1", "/a%20b", "/%2\\1", "/\\1/", "/a:@!$&'()*+,;=~-._[]"}) {
    EXPECT_EQ(error(ok), "") << ok;
  }
}

TEST(RegexRewrite, OnlyTheBeginningOfAPathNeedsASlash) {
  for (std::string_view begins : {"^/a", "^/(a|b)", "\\A/a", "^/[|]", "^/[]|]", "^/[[:alpha:]|(]b", "^/\\|"}) {
    EXPECT_NE(SubstitutionError(begins, "x"), "") << begins;
  }
  for (std::string_view anywhere : {"/a", "^/a|b", "^/[[:alpha:](]|b", "a", "^?b", "(?:^|/)a", "^\\Q(\\E|b"}) {
    EXPECT_EQ(SubstitutionError(anywhere, "x"), "") << anywhere;
  }
}

TEST(RegexRewrite, ReplacesEveryMatch) {
  EXPECT_EQ(Rewritten("^/v[0-9]+/(.*)$", "/\\1", "/v12/a/b"), "/a/b");
  EXPECT_EQ(Rewritten("o", "0", "/foo"), "/f00");
  EXPECT_EQ(Rewritten("nothing", "x", "/a"), "/a");
  EXPECT_EQ(Rewritten("^/api", "", "/api"), "/");
  EXPECT_EQ(Rewritten(".*", "x", "*"), "*");
}

TEST(RegexRewrite, PathsWithEscapesAreRewrittenToo) {
  EXPECT_EQ(Rewritten("^/svc", "/v2", "/svc/a%20b%2Fc"), "/v2/a%20b%2Fc");
}

TEST(RegexRewrite, WhatIsNoPathInNormalFormIsNone) {
  EXPECT_EQ(Rewritten("x", "", "/.x./secret"), std::nullopt);
  EXPECT_EQ(Rewritten("x", "", "/a/.x./secret"), std::nullopt);
  EXPECT_EQ(Rewritten("25", "", "/a/%252e%252e/b"), std::nullopt);  // the removal creates dot segments
  EXPECT_EQ(Rewritten("x", "", "/a/x/b"), std::nullopt);
  EXPECT_EQ(Rewritten("^/", "", "/a"), std::nullopt);
}

}  // namespace
}  // namespace gateway
