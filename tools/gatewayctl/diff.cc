#include "tools/gatewayctl/diff.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace gateway::ctl {
namespace {

constexpr size_t kContext = 3;  // unchanged lines around a change, as diff -u
constexpr char kRed[] = "\x1b[31m", kGreen[] = "\x1b[32m", kCyan[] = "\x1b[36m", kBold[] = "\x1b[1m",
               kPlain[] = "\x1b[0m";

using Lines = std::vector<absl::string_view>;

Lines SplitLines(absl::string_view text) {
  Lines lines = absl::StrSplit(text, '\n');
  if (lines.back().empty()) lines.pop_back();  // the end of the last line, not a line
  return lines;
}

// The longest common subsequence of what lies between the common head and tail; policy documents are short.
std::vector<LineEdit> Compare(const Lines& a, const Lines& b) {
  size_t head = 0;
  while (head < a.size() && head < b.size() && a[head] == b[head]) ++head;
  size_t tail = 0;
  while (tail < a.size() - head && tail < b.size() - head && a[a.size() - 1 - tail] == b[b.size() - 1 - tail]) ++tail;
  const size_t n = a.size() - head - tail, m = b.size() - head - tail;

  std::vector<LineEdit> edits;
  for (size_t i = 0; i < head; ++i) edits.push_back({' ', a[i]});
  // common[i * (m + 1) + j]: of a's middle from i on and b's from j on.
  std::vector<uint32_t> common;
  const bool comparable = n == 0 || m == 0 || n <= kDiffCellsMax / m;
  if (comparable) {
    common.assign((n + 1) * (m + 1), 0);
    for (size_t i = n; i-- > 0;) {
      for (size_t j = m; j-- > 0;) {
        common[i * (m + 1) + j] = a[head + i] == b[head + j]
                                      ? common[(i + 1) * (m + 1) + j + 1] + 1
                                      : std::max(common[(i + 1) * (m + 1) + j], common[i * (m + 1) + j + 1]);
      }
    }
  }
  size_t i = 0, j = 0;
  while (i < n || j < m) {
    if (comparable && i < n && j < m && a[head + i] == b[head + j]) {
      edits.push_back({' ', a[head + i]});
      ++i, ++j;
    } else if (i < n && (j == m || !comparable || common[(i + 1) * (m + 1) + j] >= common[i * (m + 1) + j + 1])) {
      edits.push_back({'-', a[head + i++]});
    } else {
      edits.push_back({'+', b[head + j++]});
    }
  }
  for (size_t k = a.size() - tail; k < a.size(); ++k) edits.push_back({' ', a[k]});
  return edits;
}

// "3,7"; "3" for one line; the line before for none.
std::string HunkRange(size_t before, size_t count) {
  if (count == 1) return absl::StrCat(before + 1);
  return absl::StrCat(count == 0 ? before : before + 1, ",", count);
}

}  // namespace

std::vector<LineEdit> CompareLines(absl::string_view old_text, absl::string_view new_text) {
  return Compare(SplitLines(old_text), SplitLines(new_text));
}

std::string UnifiedDiff(const std::string& old_name, const std::string& new_name, const std::string& old_text,
                        const std::string& new_text, bool colour) {
  if (old_text == new_text) return "";
  const Lines old_lines = SplitLines(old_text), new_lines = SplitLines(new_text);
  const std::vector<LineEdit> edits = Compare(old_lines, new_lines);
  std::string out;
  const auto print = [&](const char* paint, const std::string& line) {
    absl::StrAppend(&out, colour ? paint : "", line, colour && *paint != '\0' ? kPlain : "", "\n");
  };
  print(kBold, absl::StrCat("--- ", old_text.empty() ? "/dev/null" : old_name));
  print(kBold, absl::StrCat("+++ ", new_text.empty() ? "/dev/null" : new_name));

  size_t old_at = 0, new_at = 0;  // lines before edits[at]
  for (size_t at = 0; at < edits.size();) {
    // A hunk begins kContext lines before a change and ends where more than 2 * kContext lines are unchanged.
    size_t change = at;
    while (change < edits.size() && edits[change].sign == ' ') ++change;
    if (change == edits.size()) break;
    const size_t begin = change - std::min(kContext, change - at);
    size_t end = change, unchanged = 0;
    for (size_t i = change; i < edits.size() && unchanged <= 2 * kContext; ++i) {
      unchanged = edits[i].sign == ' ' ? unchanged + 1 : 0;
      if (unchanged == 0) end = i + 1;
    }
    end = std::min(end + kContext, edits.size());
    old_at += begin - at, new_at += begin - at;
    size_t removed = 0, added = 0;
    for (size_t i = begin; i < end; ++i) {
      removed += edits[i].sign != '+';
      added += edits[i].sign != '-';
    }
    print(kCyan, absl::StrCat("@@ -", HunkRange(old_at, removed), " +", HunkRange(new_at, added), " @@"));
    for (size_t i = begin; i < end; ++i) {
      const char* paint = edits[i].sign == '-' ? kRed : edits[i].sign == '+' ? kGreen : "";
      print(paint, absl::StrCat(std::string(1, edits[i].sign), edits[i].line));
    }
    old_at += removed, new_at += added;
    at = end;
  }
  return out;
}

}  // namespace gateway::ctl
