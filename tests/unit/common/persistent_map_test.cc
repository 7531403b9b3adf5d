#include "common/base/persistent_map.h"

#include <map>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace gateway {
namespace {

std::map<std::string, int> ContentOf(const PersistentMap<int>& map) {
  std::map<std::string, int> content;
  map.ForEach([&content](const PersistentMap<int>::Entry& entry) {
    content.emplace(entry.name, entry.value);
    return true;
  });
  return content;
}

TEST(PersistentMap, ACopyStaysAsItIsWhileTheOriginalChanges) {
  std::mt19937 random(7);
  PersistentMap<int> map;
  std::map<std::string, int> expected;
  std::vector<std::pair<PersistentMap<int>, std::map<std::string, int>>> copies;
  for (int i = 0; i < 5'000; ++i) {
    const std::string name = "name-" + std::to_string(random() % 600);
    if (random() % 3 == 0) {
      EXPECT_EQ(map.Erase(name), expected.erase(name) == 1);
    } else {
      map.Put(name, i);
      expected[name] = i;
    }
    if (i % 250 == 0) copies.emplace_back(map, expected);
  }
  EXPECT_EQ(map.size(), expected.size());
  EXPECT_EQ(ContentOf(map), expected);
  for (const auto& [copy, content] : copies) EXPECT_EQ(ContentOf(copy), content);
}

TEST(PersistentMap, FindsWhatIsThereAndNothingElse) {
  PersistentMap<int> map;
  EXPECT_EQ(map.Find("a"), nullptr);
  map.Edit("a") += 2;
  ASSERT_NE(map.Find("a"), nullptr);
  EXPECT_EQ(*map.Find("a"), 2);
  EXPECT_FALSE(map.Contains("b"));
  EXPECT_FALSE(map.Erase("b"));
  EXPECT_TRUE(map.Erase("a"));
  EXPECT_TRUE(map.empty());
}

TEST(PersistentMap, EndsAWalkWhenTold) {
  PersistentMap<int> map;
  for (int i = 0; i < 100; ++i) map.Put(std::to_string(i), i);
  int visited = 0;
  EXPECT_FALSE(map.ForEach([&visited](const auto&) { return ++visited < 3; }));
  EXPECT_EQ(visited, 3);
}

}  // namespace
}  // namespace gateway
