#include "tools/gatewayctl/table.h"

#include "gtest/gtest.h"

namespace gateway::ctl {
namespace {

TEST(DisplayWidth, CountsWhatATerminalShows) {
  EXPECT_EQ(DisplayWidth("orders"), 6u);
  EXPECT_EQ(DisplayWidth("Bestellungen für Köln"), 21u);
  EXPECT_EQ(DisplayWidth("注文"), 4u);
  EXPECT_EQ(DisplayWidth("e\xCC\x81"), 1u);  // an e and a combining accent
  EXPECT_EQ(DisplayWidth("🚀"), 2u);
  EXPECT_EQ(DisplayWidth("\xFF\xC3"), 2u);  // two bytes that are not UTF-8
}

TEST(Printable, DisarmsWhatATerminalWouldObey) {
  EXPECT_EQ(Printable("a\x1b[2Jb"), "a [2Jb");
  EXPECT_EQ(Printable("two\nlines\t"), "two lines ");
  EXPECT_EQ(Printable("a\xC2\x9Bz"), "a z");         // CSI as one character
  EXPECT_EQ(Printable("a\xE2\x80\xAEz"), "a z");     // right-to-left override
  EXPECT_EQ(Printable("\xC0\xAF"), "\uFFFD\uFFFD");  // an overlong slash
  EXPECT_EQ(Printable("für 注文"), "für 注文");
}

TEST(Table, AlignsByWidthAndLeavesNoSpacesAtTheEnd) {
  Table table({"NAME", "OWNER", "AGE"});
  table.AddRow({"a", "Jürgen", "3m"});
  table.AddRow({"注文", "", "12d"});
  table.AddRow({"long-name", "x", ""});
  EXPECT_EQ(table.ToString(),
            "NAME        OWNER    AGE\n"
            "a           Jürgen   3m\n"
            "注文        -        12d\n"
            "long-name   x        -\n");
}

TEST(Table, KeepsACellOnItsLine) {
  Table table({"COMMENT", "N"});
  table.AddRow({"first\nsecond", "1"});
  EXPECT_EQ(table.ToString(), "COMMENT        N\nfirst second   1\n");
}

}  // namespace
}  // namespace gateway::ctl
