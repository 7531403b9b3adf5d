#include "tools/gatewayctl/jsonpath.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gateway::ctl {
namespace {

const Json& Sample() {
  static const Json kSample = Json::parse(R"({"revision": 7, "items": [
      {"name": "a", "labels": {"x.y": "1"}, "ports": [1, 2]}, {"name": "b", "on": true}]})");
  return kSample;
}

std::string Of(const std::string& path) {
  const absl::StatusOr<std::string> text = EvaluateJsonPath(path, Sample());
  return text.ok() ? *text : absl::StrCat("refused: ", text.status().message());
}

TEST(JsonPath, PicksAsKubectlDoes) {
  EXPECT_EQ(Of("{.revision}"), "7");
  EXPECT_EQ(Of(".revision"), "7");
  EXPECT_EQ(Of("{$.items[0].name}"), "a");
  EXPECT_EQ(Of("{.items[-1].name}"), "b");
  EXPECT_EQ(Of("{.items[*].name}"), "a b");
  EXPECT_EQ(Of("{.items[0].labels['x.y']}"), "1");
  EXPECT_EQ(Of("{.items[0].ports}"), "[1,2]");
  EXPECT_EQ(Of("{.items[0].ports.*}"), "1 2");
  EXPECT_EQ(Of("{.items[*].on}"), "true");
  EXPECT_EQ(Of("{.nothing.here[3]}"), "");
  EXPECT_EQ(Of("revision {.revision}{\"\\n\"}"), "revision 7\n");
  EXPECT_EQ(Of("{range .items[*]}{.name}={.ports[*]}{\"\\t\"}{end}!"), "a=1 2\tb=\t!");
  EXPECT_EQ(Of("{range .items[*]}{range .ports[*]}<{@}>{end}{end}"), "<1><2>");
  EXPECT_EQ(Of("{range .none[*]}x{end}"), "");
}

TEST(JsonPath, RefusesWhatItDoesNotKnow) {
  for (const char* path :
       {"{.a", "{range .items[*]}{.name}", "{end}", "{..name}", "{.a[}", "{.a[x]}", "{a}", "{.a[?(@.b)]}"}) {
    EXPECT_THAT(Of(path), ::testing::StartsWith("refused: -o jsonpath")) << path;
  }
  std::string deep;
  for (int i = 0; i <= kJsonPathDepthMax; ++i) deep += "{range .a}";
  for (int i = 0; i <= kJsonPathDepthMax; ++i) deep += "{end}";
  EXPECT_THAT(Of(deep), ::testing::HasSubstr("too many nested"));
}

}  // namespace
}  // namespace gateway::ctl
