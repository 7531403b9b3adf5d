#include "common/policy/label_selector.h"

#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gateway {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// The names that `selector` matches.
std::vector<std::string> Picked(const std::string& selector) {
  static const std::map<std::string, std::map<std::string, std::string>> kThings = {
      {"a", {{"team", "orders"}, {"env", "prod"}, {"tier", "3"}}},
      {"b", {{"team", "orders"}, {"env", "test"}, {"tier", "10"}}},
      {"c", {{"team", "search"}, {"env", "prod"}, {"tier", "high"}}},
      {"d", {{"env", ""}, {"in", "x"}}},
      {"e", {}},
  };
  const absl::StatusOr<LabelSelector> parsed = LabelSelector::Parse(selector);
  if (!parsed.ok()) return {std::string(parsed.status().message())};
  std::vector<std::string> names;
  for (const auto& [name, labels] : kThings) {
    if (parsed->Matches(LabelSelector::Labels(labels.begin(), labels.end()))) names.push_back(name);
  }
  return names;
}

TEST(LabelSelector, EveryFormOfTheGrammarPicksWhatKubectlWouldPick) {
  EXPECT_THAT(Picked(""), ElementsAre("a", "b", "c", "d", "e"));
  EXPECT_THAT(Picked("team=orders"), ElementsAre("a", "b"));
  EXPECT_THAT(Picked("team == orders"), ElementsAre("a", "b"));
  EXPECT_THAT(Picked("team!=orders"), ElementsAre("c", "d", "e")) << "also without the label";
  EXPECT_THAT(Picked("team in (orders, search)"), ElementsAre("a", "b", "c"));
  EXPECT_THAT(Picked("team in(search)"), ElementsAre("c"));
  EXPECT_THAT(Picked("env notin (prod,test)"), ElementsAre("d", "e"));
  EXPECT_THAT(Picked("team"), ElementsAre("a", "b", "c"));
  EXPECT_THAT(Picked("!team"), ElementsAre("d", "e"));
  EXPECT_THAT(Picked("! team"), ElementsAre("d", "e"));
  EXPECT_THAT(Picked("tier>3"), ElementsAre("b")) << "compares numbers, and never matches other values";
  EXPECT_THAT(Picked("tier < 10"), ElementsAre("a"));
  EXPECT_THAT(Picked("team=orders,env!=test"), ElementsAre("a"));
  EXPECT_THAT(Picked("team,env in (prod),tier<5"), ElementsAre("a"));
  EXPECT_THAT(Picked("team=orders,team=search"), IsEmpty()) << "both must hold";
  EXPECT_THAT(Picked("env="), ElementsAre("d")) << "a value may be empty";
  EXPECT_THAT(Picked("env in (,test)"), ElementsAre("b", "d"));
  EXPECT_THAT(Picked("in"), ElementsAre("d")) << "a key may be a word of the grammar";
  EXPECT_THAT(Picked("in in (x)"), ElementsAre("d"));
}

TEST(LabelSelector, WhatIsNoSelectorIsRefusedWithItsPlace) {
  const auto refused = [](const std::string& text, const std::string& why) {
    const absl::StatusOr<LabelSelector> parsed = LabelSelector::Parse(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_TRUE(absl::IsInvalidArgument(parsed.status()));
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(why)) << text;
  };
  refused("=x", "expected a label's key at column 1");
  refused("a=b,", "expected a label's key at column 5");
  refused("a=b c", "expected ',' or the end at column 5");
  refused("a b", "expected '=', '==', '!=', 'in', 'notin', '<', '>', ',' or the end at column 3");
  refused("a in b", "expected '(' at column 6");
  refused("a in (b", "expected ',' or ')' at column 8");
  refused("a in (b c)", "expected ',' or ')' at column 9");
  refused("a>x", "expected a whole number at column 3");
  refused("a===b", "expected ',' or the end at column 4");
  refused("!a=b", "expected ',' or the end at column 3");
  refused("a=b)", "expected ',' or the end at column 4");
}

TEST(LabelSelector, IsBounded) {
  EXPECT_TRUE(LabelSelector::Parse("a=" + std::string(kSelectorBytesMax - 2, 'x')).ok());
  EXPECT_FALSE(LabelSelector::Parse("a=" + std::string(kSelectorBytesMax - 1, 'x')).ok());
  const auto requirements = [](size_t count) {
    std::string text = "k";
    for (size_t i = 1; i < count; ++i) absl::StrAppend(&text, ",k");
    return LabelSelector::Parse(text).ok();
  };
  EXPECT_TRUE(requirements(kSelectorRequirementsMax));
  EXPECT_FALSE(requirements(kSelectorRequirementsMax + 1));
  const auto values = [](size_t count) {
    std::string text = "k in (v";
    for (size_t i = 1; i < count; ++i) absl::StrAppend(&text, ",v");
    return LabelSelector::Parse(text + ")").ok();
  };
  EXPECT_TRUE(values(kSelectorValuesMax));
  EXPECT_FALSE(values(kSelectorValuesMax + 1));
}

}  // namespace
}  // namespace gateway
