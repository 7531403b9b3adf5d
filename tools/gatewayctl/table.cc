#include "tools/gatewayctl/table.h"

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <utility>

namespace gateway::ctl {
namespace {

constexpr char32_t kNotUtf8 = 0xFFFFFFFF;
constexpr char kReplacement[] = "\xEF\xBF\xBD";
constexpr size_t kGap = 3;  // spaces between columns

// The code point at `*at`, which moves past it; kNotUtf8 for a byte that begins none (and `*at` moves by one).
char32_t NextCodePoint(const std::string& text, size_t* at) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(*at);
  const size_t length = first < 0x80   ? 1
                        : first < 0xC2 ? 0
                        : first < 0xE0 ? 2
                        : first < 0xF0 ? 3
                        : first < 0xF5 ? 4
                                       : 0;
  const size_t begin = *at;
  *at += 1;
  if (length == 1) return first;
  if (length == 0 || begin + length > text.size()) return kNotUtf8;
  char32_t point = first & (0x7F >> length);
  for (size_t i = begin + 1; i < begin + length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return kNotUtf8;
    point = point << 6 | (byte(i) & 0x3F);
  }
  constexpr char32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  if (point < kSmallest[length] || point > 0x10FFFF || (point >= 0xD800 && point <= 0xDFFF)) return kNotUtf8;
  *at = begin + length;
  return point;
}

struct Range {
  char32_t first, last;
};

template <size_t n>
bool IsIn(const Range (&ranges)[n], char32_t point) {
  return std::any_of(std::begin(ranges), std::end(ranges),
                     [&](const Range& range) { return point >= range.first && point <= range.last; });
}

// Unicode's blocks of combining marks, joiners and variation selectors.
constexpr Range kNoWidth[] = {{0x300, 0x36F},   {0x200B, 0x200F}, {0x20D0, 0x20FF},  {0xFE00, 0xFE0F},
                              {0xFE20, 0xFE2F}, {0xFEFF, 0xFEFF}, {0xE0100, 0xE01EF}};
// East Asian wide and full-width (UAX #11), and emoji.
constexpr Range kTwoWide[] = {{0x1100, 0x115F},   {0x2E80, 0x303E},   {0x3041, 0xA4CF},   {0xAC00, 0xD7A3},
                              {0xF900, 0xFAFF},   {0xFE30, 0xFE6F},   {0xFF00, 0xFF60},   {0xFFE0, 0xFFE6},
                              {0x1F300, 0x1F64F}, {0x1F680, 0x1F6FF}, {0x1F900, 0x1F9FF}, {0x20000, 0x3FFFD}};

bool IsControl(char32_t point) {
  // Also the marks that turn the direction of writing: they reorder what stands next to them.
  return point < 0x20 || (point >= 0x7F && point < 0xA0) || (point >= 0x202A && point <= 0x202E) ||
         (point >= 0x2066 && point <= 0x2069);
}

}  // namespace

size_t DisplayWidth(const std::string& text) {
  size_t width = 0;
  for (size_t at = 0; at < text.size();) {
    const char32_t point = NextCodePoint(text, &at);
    if (point != kNotUtf8 && IsIn(kNoWidth, point)) continue;
    width += point != kNotUtf8 && IsIn(kTwoWide, point) ? 2 : 1;
  }
  return width;
}

std::string Printable(const std::string& text) {
  std::string printable;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t point = NextCodePoint(text, &at);
    if (point == kNotUtf8) {
      printable += kReplacement;
    } else if (IsControl(point)) {
      printable += ' ';
    } else {
      printable.append(text, begin, at - begin);
    }
  }
  return printable;
}

Table::Table(std::vector<std::string> headings) { rows_.push_back(std::move(headings)); }

void Table::AddRow(std::vector<std::string> cells) {
  assert(cells.size() == rows_.front().size());
  for (std::string& cell : cells) {
    cell = Printable(cell);
    cell.erase(cell.find_last_not_of(' ') + 1);
    if (cell.empty()) cell = "-";
  }
  rows_.push_back(std::move(cells));
}

std::string Table::ToString() const {
  std::vector<size_t> widths(rows_.front().size(), 0);
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], DisplayWidth(row[i]));
  }
  std::string text;
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) {
      text += row[i];
      if (i + 1 < row.size()) text.append(widths[i] - DisplayWidth(row[i]) + kGap, ' ');
    }
    text += '\n';
  }
  return text;
}

}  // namespace gateway::ctl
