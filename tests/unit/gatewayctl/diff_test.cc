#include "tools/gatewayctl/diff.h"

#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"

namespace gateway::ctl {
namespace {

TEST(UnifiedDiff, IsEmptyForTheSameText) { EXPECT_EQ(UnifiedDiff("a", "b", "x\ny\n", "x\ny\n", false), ""); }

TEST(UnifiedDiff, ShowsThreeLinesAroundAChange) {
  EXPECT_EQ(UnifiedDiff("old", "new", "1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\n2\n3\n4\nfive\n6\n7\n8\n9\n", false),
            "--- old\n+++ new\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n");
}

TEST(UnifiedDiff, SplitsChangesThatAreFarApart) {
  std::string before, after;
  for (int i = 1; i <= 20; ++i) {
    absl::StrAppend(&before, i, "\n");
    absl::StrAppend(&after, i == 2 ? "two" : i == 19 ? "nineteen" : absl::StrCat(i), "\n");
  }
  EXPECT_EQ(UnifiedDiff("a", "b", before, after, false),
            "--- a\n+++ b\n@@ -1,5 +1,5 @@\n 1\n-2\n+two\n 3\n 4\n 5\n"
            "@@ -16,5 +16,5 @@\n 16\n 17\n 18\n-19\n+nineteen\n 20\n");
}

TEST(UnifiedDiff, NamesDevNullForWhatIsNotThere) {
  EXPECT_EQ(UnifiedDiff("a", "b", "", "x\n", false), "--- /dev/null\n+++ b\n@@ -0,0 +1 @@\n+x\n");
  EXPECT_EQ(UnifiedDiff("a", "b", "x\ny\n", "", false), "--- a\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-x\n-y\n");
}

TEST(UnifiedDiff, PaintsOnlyWhenAsked) {
  EXPECT_EQ(
      UnifiedDiff("a", "b", "x\n", "y\n", true),
      "\x1b[1m--- a\x1b[0m\n\x1b[1m+++ b\x1b[0m\n\x1b[36m@@ -1 +1 @@\x1b[0m\n\x1b[31m-x\x1b[0m\n\x1b[32m+y\x1b[0m\n");
}

// Past the limit everything between the first and the last difference is replaced; the diff is still correct.
TEST(UnifiedDiff, DoesNotGrowWithoutBound) {
  std::string before = "same\n", after = "same\n";
  for (int i = 0; i < 5000; ++i) {
    absl::StrAppend(&before, "a", i, "\n");
    absl::StrAppend(&after, "b", i, "\n");
  }
  const std::string diff = UnifiedDiff("a", "b", before, after, false);
  EXPECT_EQ(diff.find("--- a\n+++ b\n@@ -1,5001 +1,5001 @@\n same\n-a0\n"), 0u);
}

// Applies the hunks to the old text: the result must be the new text.
std::string Patch(const std::string& old_text, const std::string& diff) {
  std::vector<std::string> old_lines = absl::StrSplit(old_text, '\n', absl::SkipEmpty());
  std::string patched;
  size_t at = 0;
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(diff, '\n', absl::SkipEmpty()))) {
    if (line.starts_with("---") || line.starts_with("+++")) continue;
    if (line.starts_with("@@ -")) {
      size_t first = std::stoul(line.substr(4));
      const bool nothing = line.substr(4, line.find(' ', 4) - 4).ends_with(",0");
      for (; at + (nothing ? 0 : 1) < first; ++at) absl::StrAppend(&patched, old_lines[at], "\n");
      continue;
    }
    if (line[0] != '+') {
      EXPECT_EQ(old_lines.at(at++), line.substr(1));
    }
    if (line[0] != '-') absl::StrAppend(&patched, line.substr(1), "\n");
  }
  for (; at < old_lines.size(); ++at) absl::StrAppend(&patched, old_lines[at], "\n");
  return patched;
}

TEST(UnifiedDiff, LeadsFromTheOldTextToTheNewOne) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937 random(seed);
  for (int round = 0; round < 300; ++round) {
    const auto text = [&] {
      std::string lines;
      for (size_t i = random() % 30; i > 0; --i) absl::StrAppend(&lines, "l", random() % 5, "\n");
      return lines;
    };
    const std::string before = text(), after = text();
    EXPECT_EQ(Patch(before, UnifiedDiff("a", "b", before, after, false)), after) << before << "=>\n" << after;
  }
}

}  // namespace
}  // namespace gateway::ctl
