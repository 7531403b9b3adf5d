#include "dataplane/policy/cors.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace gateway::dataplane {
namespace {

// As the compiler produces it: origins sorted, headers in lower case.
CorsPolicy Web() {
  CorsPolicy cors;
  cors.name = "web";
  cors.origins = {"http://localhost:3000", "https://app.example.com"};
  cors.wildcards = {{"https://", ".example.org"}, {"https://", ".example.net:8443"}};
  cors.methods = {"GET", "PUT"};
  cors.headers = {"content-type", "x-token"};
  return cors;
}

TEST(AllowsOrigin, OnlyWhatIsListedByteByByte) {
  const CorsPolicy cors = Web();
  for (const char* origin : {"https://app.example.com", "http://localhost:3000", "https://a.example.org",
                             "https://a.b-c.example.org", "https://a.example.net:8443"}) {
    EXPECT_TRUE(AllowsOrigin(cors, origin)) << origin;
  }
  for (const char* origin : {"",
                             "null",
                             "*",
                             "https://app.example.com.evil.test",
                             "https://app.example.com:443",
                             "http://app.example.com",
                             "https://evil.test/app.example.com",
                             "https://APP.example.com",
                             "https://example.org",
                             "https://.example.org",
                             "https://evil.test/.example.org",
                             "https://evil.test?.example.org",
                             "https://evil.test#.example.org",
                             "https://evil.test:80.example.org",
                             "https://u@evil.test\\.example.org",
                             "https://a..example.org",
                             "https://a.example.org:8443",
                             "http://a.example.org",
                             "https://a.example.net",
                             "https://xexample.org"}) {
    EXPECT_FALSE(AllowsOrigin(cors, origin)) << origin;
  }
}

TEST(GrantFor, RepeatsAListedOriginAndNoOther) {
  CorsPolicy cors = Web();
  cors.credentials = true;
  cors.expose_headers = "X-Total";
  std::string fields;
  GrantFor(cors, "https://app.example.com").AppendTo(&fields);
  EXPECT_EQ(fields,
            "Access-Control-Allow-Origin: https://app.example.com\r\nAccess-Control-Allow-Credentials: true\r\n"
            "Access-Control-Expose-Headers: X-Total\r\n");
  fields.clear();
  GrantFor(cors, "https://evil.test").AppendTo(&fields);
  GrantFor(cors, std::nullopt).AppendTo(&fields);
  EXPECT_EQ(fields, "");
}

TEST(GrantFor, AnyOriginIsAStarForEverybodyWithoutCredentials) {
  CorsPolicy cors;
  cors.any_origin = true;
  cors.credentials = true;  // policy rejects this combination; if it got through, browsers reject it
  for (const auto origin : {std::optional<std::string_view>("https://x.test"), std::optional<std::string_view>()}) {
    std::string fields;
    GrantFor(cors, origin).AppendTo(&fields);
    EXPECT_EQ(fields, "Access-Control-Allow-Origin: *\r\n");
  }
}

TEST(GrantFor, TellsABoundOfWhatItAppends) {
  CorsPolicy cors = Web();
  cors.credentials = true;
  cors.expose_headers = std::string(300, 'x');
  const CorsGrant grant = GrantFor(cors, "https://app.example.com");
  std::string fields;
  grant.AppendTo(&fields);
  EXPECT_LE(fields.size(), grant.bytes());
}

TEST(ReadPreflight, NeedsOptionsOneOriginAndAMethod) {
  const std::vector<FieldView> whole = {{"ORIGIN", "https://a.test"}, {"access-control-request-method", "PUT"}};
  const auto preflight = ReadPreflight("OPTIONS", whole);
  ASSERT_TRUE(preflight.has_value());
  EXPECT_EQ(preflight->origin, "https://a.test");
  EXPECT_EQ(preflight->method, "PUT");
  EXPECT_FALSE(ReadPreflight("GET", whole));
  EXPECT_FALSE(ReadPreflight("OPTIONS", std::vector<FieldView>{{"Origin", "https://a.test"}}));
  EXPECT_FALSE(ReadPreflight("OPTIONS", std::vector<FieldView>{{"Access-Control-Request-Method", "PUT"}}));
  EXPECT_FALSE(ReadPreflight(
      "OPTIONS", std::vector<FieldView>{{"Origin", "https://a.test"}, {"Access-Control-Request-Method", "P T"}}));
  EXPECT_FALSE(ReadPreflight("OPTIONS", std::vector<FieldView>{{"Origin", "https://a.test"},
                                                               {"Origin", "https://b.test"},
                                                               {"Access-Control-Request-Method", "PUT"}}));
}

// The response to a preflight, and why the browser refuses to continue.
struct Answer {
  std::string fields;
  std::string refused;
};
Answer AnswerTo(const CorsPolicy& cors, std::string_view origin, std::string_view method, std::string_view headers) {
  std::vector<FieldView> fields = {{"Origin", origin}, {"Access-Control-Request-Method", method}};
  if (!headers.empty()) fields.push_back({"Access-Control-Request-Headers", headers});
  Answer answer;
  answer.refused = AppendPreflightFields(cors, {origin, method}, fields, &answer.fields);
  return answer;
}

TEST(AppendPreflightFields, TellsWhatIsAllowed) {
  CorsPolicy cors = Web();
  cors.credentials = true;
  cors.max_age = std::chrono::hours(1);
  cors.expose_headers = "X-Total";
  const Answer answer = AnswerTo(cors, "https://app.example.com", "PUT", "content-type,X-Token");
  EXPECT_EQ(answer.refused, "");
  EXPECT_EQ(answer.fields,
            "Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\r\n"
            "Access-Control-Allow-Origin: https://app.example.com\r\nAccess-Control-Allow-Credentials: true\r\n"
            "Access-Control-Allow-Methods: GET, PUT\r\nAccess-Control-Allow-Headers: content-type, x-token\r\n"
            "Access-Control-Max-Age: 3600\r\n");
}

TEST(AppendPreflightFields, GrantsNothingToAnOriginThatIsNotListed) {
  const Answer answer = AnswerTo(Web(), "https://evil.test", "GET", "");
  EXPECT_EQ(answer.refused, "the origin is not listed");
  EXPECT_EQ(answer.fields, "Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\r\n");
}

TEST(AppendPreflightFields, SaysWhichPartIsNotListed) {
  EXPECT_EQ(AnswerTo(Web(), "https://app.example.com", "DELETE", "").refused, "the method is not listed");
  EXPECT_EQ(AnswerTo(Web(), "https://app.example.com", "POST", "").refused, "");  // safelisted
  const Answer answer = AnswerTo(Web(), "https://app.example.com", "PUT", "x-token, x-evil");
  EXPECT_EQ(answer.refused, "a header is not listed");
  EXPECT_EQ(answer.fields.find("x-evil"), std::string::npos);
}

TEST(AppendPreflightFields, AnyMethodAndHeaderAreNamedSinceAStarDoesNotCoverCredentials) {
  CorsPolicy cors = Web();
  cors.any_method = cors.any_header = cors.credentials = true;
  cors.methods = cors.headers = {"*"};
  const Answer answer = AnswerTo(cors, "https://app.example.com", "PATCH", "authorization , x-a,, \"bad\"");
  EXPECT_NE(answer.fields.find("Access-Control-Allow-Methods: PATCH\r\n"), std::string::npos);
  EXPECT_NE(answer.fields.find("Access-Control-Allow-Headers: authorization, x-a\r\n"), std::string::npos);
  EXPECT_EQ(answer.refused, "a header is not listed");  // "bad", with its quotes, is not a field name
}

TEST(Cors, KnowsItsFieldsAndWhatVaries) {
  EXPECT_TRUE(IsCorsField("access-control-ALLOW-origin"));
  EXPECT_FALSE(IsCorsField("Access-Control"));
  EXPECT_FALSE(IsCorsField("X-Access-Control-Allow-Origin"));
  EXPECT_TRUE(VariesByOrigin("Accept, origin"));
  EXPECT_TRUE(VariesByOrigin("*"));
  EXPECT_FALSE(VariesByOrigin("X-Origin, Accept"));
  EXPECT_FALSE(VariesByOrigin(""));
}

}  // namespace
}  // namespace gateway::dataplane
