#include "common/base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

namespace gateway {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::SizeIs;

class LogTest : public ::testing::Test {
 protected:
  void TearDown() override { InitLogging(v1::LoggingSection(), "test"); }

  static std::string Captured() {
    spdlog::default_logger()->flush();
    return testing::internal::GetCapturedStderr();
  }
  static std::vector<std::string> Lines(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
  }
};

TEST_F(LogTest, JsonLinesParseWhateverTheMessageHolds) {
  v1::LoggingSection config;
  config.set_format(v1::LoggingSection::JSON);
  config.set_level(v1::LoggingSection::INFO);
  InitLogging(config, "gateway-dataplane");
  testing::internal::CaptureStderr();
  spdlog::warn("{}", std::string("a \"b\" \\ \n \x1b[31m \xff \xc3\xa9 \xc2\x9b \0 end", 26));
  spdlog::debug("not logged at info");
  std::vector<std::string> lines = Lines(Captured());
  ASSERT_THAT(lines, SizeIs(1));
  nlohmann::json line = nlohmann::json::parse(lines[0]);  // throws unless it is JSON
  EXPECT_EQ(line["level"], "warn");
  EXPECT_EQ(line["process"], "gateway-dataplane");
  EXPECT_THAT(line["time"].get<std::string>(),
              MatchesRegex("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z"));
  std::string message = line["message"];
  EXPECT_THAT(message, HasSubstr("a \"b\" \\ \n \x1b[31m \xef\xbf\xbd \xc3\xa9 \xef\xbf\xbd"));
  EXPECT_THAT(lines[0], Not(HasSubstr("\x1b")));
}

TEST_F(LogTest, TextHasOneLineAMessageAndNoEscapeSequences) {
  v1::LoggingSection config;
  config.set_format(v1::LoggingSection::TEXT);
  config.set_level(v1::LoggingSection::DEBUG);
  InitLogging(config, "cp");
  testing::internal::CaptureStderr();
  spdlog::debug("first\nforged line \x1b[2J");
  spdlog::error("second \"quoted\"");
  std::vector<std::string> lines = Lines(Captured());
  ASSERT_THAT(lines, SizeIs(2));
  EXPECT_THAT(lines[0], HasSubstr(" debug cp: first\\nforged line \\u001b[2J"));
  EXPECT_THAT(lines[1], HasSubstr(" error cp: second \"quoted\""));
}

TEST_F(LogTest, LevelsAreThoseOfTheBootstrap) {
  v1::LoggingSection config;
  config.set_level(v1::LoggingSection::ERROR);
  InitLogging(config, "p");
  testing::internal::CaptureStderr();
  spdlog::warn("hidden");
  spdlog::error("shown");
  EXPECT_THAT(Lines(Captured()), SizeIs(1));
  config.set_level(v1::LoggingSection::TRACE);
  InitLogging(config, "p");
  testing::internal::CaptureStderr();
  spdlog::trace("shown");
  EXPECT_THAT(Lines(Captured()), SizeIs(1));
}

TEST_F(LogTest, LongMessageIsCutBetweenCharacters) {
  InitLogging(v1::LoggingSection(), "p");
  testing::internal::CaptureStderr();
  std::string text = "x";
  while (text.size() < 100'000) text += "\xc3\xa9";
  spdlog::info(text);
  std::vector<std::string> lines = Lines(Captured());
  ASSERT_THAT(lines, SizeIs(1));
  EXPECT_LT(lines[0].size(), 33'000u);
  std::string message = nlohmann::json::parse(lines[0])["message"];
  EXPECT_TRUE(message.ends_with("\xc3\xa9... (cut)"));
}

TEST_F(LogTest, LinesOfSeveralThreadsDoNotMix) {
  InitLogging(v1::LoggingSection(), "p");
  testing::internal::CaptureStderr();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([] {
      for (int i = 0; i < 100; ++i) spdlog::info("message {}", i);
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<std::string> lines = Lines(Captured());
  EXPECT_THAT(lines, SizeIs(400));
  for (const std::string& line : lines) EXPECT_TRUE(nlohmann::json::accept(line)) << line;
}

}  // namespace
}  // namespace gateway
