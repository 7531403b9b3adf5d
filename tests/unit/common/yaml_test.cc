#include "common/config/yaml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <random>

#include "common/base/quote.h"

namespace gateway {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

struct Parsed {
  std::vector<YamlNode> documents;
  std::vector<YamlProblem> problems;
};

Parsed Parse(std::string_view text, const YamlLimits& limits = {}) {
  Parsed parsed;
  parsed.documents = ParseYaml(text, &parsed.problems, limits);
  return parsed;
}

// The message of the only problem; all messages if there is not exactly one.
std::string OnlyProblem(const Parsed& parsed) {
  if (parsed.problems.size() == 1) return parsed.problems[0].message;
  std::string all = std::to_string(parsed.problems.size()) + " problems:";
  for (const YamlProblem& problem : parsed.problems) all += "\n" + problem.message;
  return all;
}

TEST(ParseYaml, KeepsPositionsOfKeysAndValues) {
  Parsed parsed = Parse("server: { port: 8080 }\nlist:\n  - a\n  - \"b\"\n");
  ASSERT_THAT(parsed.problems, IsEmpty());
  ASSERT_THAT(parsed.documents, SizeIs(1));
  const YamlNode& root = parsed.documents[0];
  ASSERT_THAT(root.entries, SizeIs(2));
  const YamlNode::Entry& port = root.entries[0].value.entries[0];
  EXPECT_EQ(port.key, "port");
  EXPECT_EQ(port.position.line, 1);
  EXPECT_EQ(port.position.column, 11);
  EXPECT_EQ(port.value.position.column, 17);
  const YamlNode* list = root.Find("list");
  ASSERT_NE(list, nullptr);
  ASSERT_THAT(list->items, SizeIs(2));
  EXPECT_EQ(list->items[1].position.line, 4);
  EXPECT_EQ(list->items[1].position.column, 5);
  EXPECT_FALSE(list->items[0].quoted);
  EXPECT_TRUE(list->items[1].quoted);
  EXPECT_EQ(root.Find("none"), nullptr);
}

TEST(ParseYaml, ReadsSeveralDocumentsAndEmptyOnes) {
  Parsed parsed = Parse("a: 1\n---\n---\nb: 2\n...\n---\n# only a comment\n");
  ASSERT_THAT(parsed.problems, IsEmpty());
  ASSERT_THAT(parsed.documents, SizeIs(4));
  EXPECT_EQ(parsed.documents[0].Find("a")->scalar, "1");
  EXPECT_EQ(parsed.documents[1].kind, YamlNode::Kind::kNull);
  EXPECT_EQ(parsed.documents[2].Find("b")->scalar, "2");
  EXPECT_THAT(Parse("").problems, IsEmpty());
  EXPECT_THAT(Parse("\xef\xbb\xbfkey: 1").documents, SizeIs(1));
  EXPECT_THAT(Parse("a: 1\r\nb: 2\r\n").documents.at(0).entries, SizeIs(2));
}

TEST(ParseYaml, ReportsEveryDuplicateKeyAndKeepsTheFirst) {
  Parsed parsed = Parse("a: 1\nb: {c: 1, c: 2}\na: 3\n");
  ASSERT_THAT(parsed.problems, SizeIs(2));
  EXPECT_THAT(parsed.problems[0].message, HasSubstr("duplicate key 'c'"));
  EXPECT_EQ(parsed.problems[0].position.line, 2);
  EXPECT_EQ(parsed.problems[0].position.column, 11);
  EXPECT_THAT(parsed.problems[1].message, HasSubstr("duplicate key 'a'; it is on line 1 already"));
  ASSERT_THAT(parsed.documents, SizeIs(1));
  EXPECT_EQ(parsed.documents[0].Find("a")->scalar, "1");
}

TEST(ParseYaml, SyntaxErrorKeepsTheDocumentsBeforeIt) {
  Parsed parsed = Parse("a: 1\n---\nb: [1, 2\nc: 3\n");
  EXPECT_THAT(OnlyProblem(parsed), HasSubstr("not YAML"));
  ASSERT_THAT(parsed.documents, SizeIs(1));
  EXPECT_EQ(parsed.documents[0].Find("a")->scalar, "1");
}

TEST(ParseYaml, SaysWhatIsWrongWithTheSyntax) {
  EXPECT_THAT(OnlyProblem(Parse("a: { b: 1\nc: 2\n")), HasSubstr("a '{' is not closed; expected ',' or '}'"));
  EXPECT_THAT(OnlyProblem(Parse("a: [b\nc: 2\n")), HasSubstr("a '[' is not closed; expected ',' or ']'"));
  EXPECT_THAT(OnlyProblem(Parse("a: b: c\n")), HasSubstr("misplaced ':'"));
  EXPECT_THAT(OnlyProblem(Parse("kind:Route\nname: a\n")), HasSubstr("the space after each ':'"));
  EXPECT_THAT(OnlyProblem(Parse("hosts: [*.example.com]\n")), HasSubstr("quote text that begins with '*'"));
}

TEST(ParseYaml, LeftoverBehindADocumentIsNoSecondDocument) {
  EXPECT_THAT(Parse("{a: 1} {b: 2}\n").problems, SizeIs(1));
  EXPECT_THAT(Parse("\"a\"\nb: 1\n").problems, SizeIs(1));
}

TEST(ParseYaml, ExpandsAnchorsAndMergeKeys) {
  Parsed parsed = Parse(
      "base: &base {timeout: 1s, retries: 2}\n"
      "same: *base\n"
      "own: {<<: *base, retries: 3}\n"
      "both: {<<: [{x: 1}, *base, {x: 2, y: 2}]}\n"
      "&k key: *k\n");
  ASSERT_THAT(parsed.problems, IsEmpty()) << OnlyProblem(parsed);
  const YamlNode& root = parsed.documents[0];
  EXPECT_EQ(root.Find("same")->Find("timeout")->scalar, "1s");
  EXPECT_EQ(root.Find("own")->Find("timeout")->scalar, "1s");
  EXPECT_EQ(root.Find("own")->Find("retries")->scalar, "3");
  EXPECT_THAT(root.Find("own")->entries, SizeIs(2));
  EXPECT_EQ(root.Find("both")->Find("x")->scalar, "1");
  EXPECT_EQ(root.Find("both")->Find("y")->scalar, "2");
  EXPECT_EQ(root.Find("key")->scalar, "key");
}

TEST(ParseYaml, RefusesBadMergesAliasesTagsAndKeys) {
  EXPECT_THAT(OnlyProblem(Parse("a: {<<: 3}\n")), HasSubstr("to merge"));
  EXPECT_THAT(OnlyProblem(Parse("a: *nobody\n")), HasSubstr("not YAML"));
  EXPECT_THAT(OnlyProblem(Parse("a: &x [*x]\n")), HasSubstr("inside its own anchor"));
  EXPECT_THAT(OnlyProblem(Parse("a: !!binary aGk=\n")), HasSubstr("not supported"));
  EXPECT_THAT(OnlyProblem(Parse("a: !mine {b: 1}\n")), HasSubstr("not supported"));
  EXPECT_THAT(OnlyProblem(Parse("? [a]\n: 1\n")), HasSubstr("a key must be a scalar"));
  EXPECT_THAT(OnlyProblem(Parse("~: 1\n")), HasSubstr("a key is missing"));
  Parsed text = Parse("a: !!str 12\n");
  ASSERT_THAT(text.problems, IsEmpty());
  EXPECT_TRUE(text.documents[0].Find("a")->quoted);
}

TEST(ParseYaml, RefusesWhatIsNotUtf8OrHoldsControlBytes) {
  Parsed parsed = Parse("a: 1\nb: \xff\n");
  EXPECT_EQ(OnlyProblem(parsed), "not UTF-8");
  EXPECT_EQ(parsed.problems[0].position.line, 2);
  EXPECT_EQ(parsed.problems[0].position.column, 4);
  EXPECT_THAT(OnlyProblem(Parse("\xff\xfe"
                                "a")),
              HasSubstr("not UTF-8"));                                // UTF-16, which yaml-cpp would read
  EXPECT_THAT(OnlyProblem(Parse("a: \x04 b\n")), HasSubstr("0x04"));  // yaml-cpp's own end marker
  EXPECT_THAT(OnlyProblem(Parse(std::string_view("a: \0b", 5))), HasSubstr("0x00"));
  EXPECT_THAT(OnlyProblem(Parse("a: \xed\xa0\x80\n")), HasSubstr("not UTF-8"));  // a surrogate
  EXPECT_THAT(OnlyProblem(Parse("a: \xc0\xaf\n")), HasSubstr("not UTF-8"));      // an overlong slash
}

TEST(ParseYaml, DepthIsLimitedInFlowBlockAndThroughAliases) {
  auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_THAT(Parse(nested(64)).problems, IsEmpty());
  EXPECT_THAT(OnlyProblem(Parse(nested(65))), HasSubstr("nested deeper than 64"));
  std::string block;
  for (int i = 0; i < 65; ++i) block += std::string(i, ' ') + "a:\n";
  EXPECT_THAT(OnlyProblem(Parse(block + std::string(65, ' ') + "b: 1")), HasSubstr("nested deeper"));
  std::string compact;
  for (int i = 0; i < 100'000; ++i) compact += "- ";
  EXPECT_THAT(OnlyProblem(Parse(compact)), HasSubstr("nested deeper"));
  EXPECT_THAT(OnlyProblem(Parse("a: &a " + nested(40) + "\nb: " + std::string(30, '[') + "*a" + std::string(30, ']'))),
              HasSubstr("nested deeper"));
}

TEST(ParseYaml, ExpansionBombIsRefusedCheaply) {
  std::string bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n";
  for (int i = 1; i < 30; ++i) {
    std::string last = "*a" + std::to_string(i - 1);
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [";
    for (int k = 0; k < 10; ++k) bomb += (k == 0 ? "" : ", ") + last;
    bomb += "]\n";
  }
  auto start = std::chrono::steady_clock::now();
  Parsed parsed = Parse(bomb);
  EXPECT_THAT(OnlyProblem(parsed), HasSubstr("anchors and aliases expand to more than"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  std::string wide = "a: &a \"" + std::string(1 << 20, 'x') + "\"\nb: [";
  for (int i = 0; i < 10; ++i) wide += "*a, ";
  EXPECT_THAT(OnlyProblem(Parse(wide + "]\n")), HasSubstr("anchors and aliases expand to more than"));
}

TEST(ParseYaml, BytesNodesAndUnbrokenStretchesAreLimited) {
  YamlLimits limits;
  limits.bytes_max = 10;
  EXPECT_THAT(Parse("a: 1\nb: 2\n", limits).problems, IsEmpty());
  EXPECT_THAT(OnlyProblem(Parse("a: 1\nb: 22\n", limits)), HasSubstr("longer than 10 bytes"));
  limits = {};
  limits.nodes_max = 5;
  EXPECT_THAT(Parse("[1, 2, 3, 4]", limits).problems, IsEmpty());
  EXPECT_THAT(OnlyProblem(Parse("[1, 2, 3, 4, 5]", limits)), HasSubstr("more than 5 values"));
  EXPECT_THAT(OnlyProblem(Parse("a: &a 1\nb: *a\nc: *a\n", limits)), HasSubstr("more than 5 values"));
  limits = {};
  limits.stretch_bytes_max = 10'000;
  std::string many;
  for (int i = 0; i < 10'000; ++i) many += "- item\n";
  EXPECT_THAT(Parse(many, limits).problems, IsEmpty()) << "long, but made of small values";
  EXPECT_THAT(OnlyProblem(Parse("a: " + std::string(20'000, 'x'), limits)), HasSubstr("longer than 10000 bytes"));
}

TEST(ParseYaml, OneTextHoldsAPolicyOfAHundredThousandRoutes) {
  std::string text;
  for (int i = 0; i < 100'000; ++i) {
    text +=
        "kind: Route\nname: r\nmatch: { hosts: [a, b], path: { prefix: /a }, methods: [GET, PUT] }\nservice: s\n"
        "timeout: 1s\nrate_limits: [x, y]\nrequest_headers: { set: { A: 1, B: 2 } }\n---\n";
  }
  const Parsed parsed = Parse(text);
  EXPECT_THAT(parsed.problems, IsEmpty());
  EXPECT_EQ(parsed.documents.size(), 100'000u + 1);  // no document follows the last ---
}

TEST(ParseYaml, HostileShapesEndSoon) {
  auto start = std::chrono::steady_clock::now();
  EXPECT_THAT(OnlyProblem(Parse(std::string(15 << 20, '['))), HasSubstr("longer than"));
  EXPECT_THAT(OnlyProblem(Parse(std::string(15 << 20, '{'))), HasSubstr("longer than"));
  EXPECT_THAT(OnlyProblem(Parse("a: \"" + std::string(15 << 20, 'x'))), HasSubstr("longer than"));
  EXPECT_FALSE(Parse(std::string(1 << 20, '?')).documents.empty() && Parse(std::string(1 << 20, '!')).problems.empty());
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

TEST(ParseYaml, SurvivesRandomText) {
  std::random_device device;
  const unsigned seed = device();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const std::string_view alphabet = "ab:-?[]{},&*!|>'\"%@` \n\n  #<~1.\t";
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (size_t length = random() % 60; length > 0; --length) text += alphabet[random() % alphabet.size()];
    Parsed parsed = Parse(text);
    for (const YamlProblem& problem : parsed.problems) EXPECT_FALSE(problem.message.empty());
  }
}

TEST(YamlScalar, ReadsBackAsTheSameString) {
  const std::string cases[] = {"",
                               "plain",
                               "on",
                               "Yes",
                               "n",
                               "null",
                               "~",
                               "1",
                               "0x1f",
                               "1:20",
                               "1e3",
                               ".inf",
                               "a: b",
                               "a #b",
                               "- a",
                               "* ",
                               "&a",
                               "!t",
                               "%d",
                               "@x",
                               "`",
                               "a,b",
                               "[a]",
                               "{a}",
                               "'",
                               "\"",
                               "\\",
                               " a",
                               "a ",
                               "a\nb",
                               "\t",
                               "a\r\nb",
                               "x\x01y",
                               "\x7f",
                               "---",
                               "...",
                               "<<",
                               "=",
                               "a:",
                               "a:b",
                               "/a/b",
                               "*.example",
                               "\u00e9",
                               "\u0085",
                               "\u2028",
                               "2001-01-01",
                               "a  b",
                               "true",
                               "TRUE",
                               "off",
                               "\ufeff",
                               "?",
                               std::string("a\0b", 3)};
  for (const std::string& value : cases) {
    for (const std::string& text : {"k: " + YamlScalar(value) + "\n", "k: [" + YamlScalar(value) + ", x]\n"}) {
      Parsed parsed = Parse(text);
      ASSERT_THAT(parsed.problems, IsEmpty()) << text << OnlyProblem(parsed);
      const YamlNode* node = parsed.documents[0].Find("k");
      if (node->kind == YamlNode::Kind::kSequence) node = &node->items.at(0);
      EXPECT_EQ(node->kind, YamlNode::Kind::kScalar) << text;
      EXPECT_EQ(node->scalar, value) << text;
    }
  }
  EXPECT_EQ(YamlScalar("client_ip"), "client_ip");
  EXPECT_EQ(YamlScalar("/users/{id}"), "\"/users/{id}\"");
  EXPECT_EQ(YamlScalar("yes"), "\"yes\"");
  EXPECT_EQ(YamlScalar("502"), "\"502\"");
}

TEST(CutUtf8, CutsBetweenCharacters) {
  EXPECT_EQ(CutUtf8("abc", 3), "abc");
  EXPECT_EQ(CutUtf8("abc", 2), "ab");
  EXPECT_EQ(CutUtf8("a\xc3\xa9z", 2), "a");
  EXPECT_EQ(CutUtf8("a\xc3\xa9z", 3), "a\xc3\xa9");
  EXPECT_EQ(CutUtf8("\xf0\x9f\x98\x80", 3), "");
}

TEST(QuoteForMessage, EscapesAndCuts) {
  EXPECT_EQ(QuoteForMessage("a"), "'a'");
  EXPECT_EQ(QuoteForMessage("a\x1b[31m\xff"), "'a\\x1b[31m\\xff'");
  EXPECT_EQ(QuoteForMessage(std::string(100, 'x')), "'" + std::string(80, 'x') + "...'");
}

}  // namespace
}  // namespace gateway
