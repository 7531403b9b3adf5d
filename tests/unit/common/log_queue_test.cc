#include "common/base/log_queue.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_split.h"

namespace gateway {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

std::string DroppedLine(uint64_t dropped) { return "dropped " + std::to_string(dropped) + "\n"; }

class LogQueueTest : public ::testing::Test {
 protected:
  LogQueueTest() { EXPECT_EQ(pipe2(ends_, O_CLOEXEC), 0); }
  ~LogQueueTest() override {
    for (const int end : ends_) close(end);
  }

  // Reads from the pipe until `ending` has arrived.
  std::string ReadUntil(const std::string& ending) {
    std::string text;
    char bytes[65536];
    while (!text.ends_with(ending)) {
      const ssize_t n = read(ends_[0], bytes, sizeof bytes);
      if (n <= 0) break;
      text.append(bytes, static_cast<size_t>(n));
    }
    return text;
  }

  int ends_[2] = {-1, -1};
};

TEST_F(LogQueueTest, LinesArriveInOrder) {
  LogQueue queue(ends_[1], DroppedLine);
  for (int i = 0; i < 100; ++i) queue.Push(std::to_string(i) + "\n");
  EXPECT_TRUE(queue.Flush(10s));
  const std::vector<std::string> lines = absl::StrSplit(ReadUntil("99\n"), '\n');
  ASSERT_EQ(lines.size(), 101u);
  for (size_t i = 0; i < 100; ++i) EXPECT_EQ(lines[i], std::to_string(i));
  EXPECT_EQ(queue.dropped(), 0u);
}

// The pipe and the queue fill up. Push never blocks, and when the reader is back it gets a report of the dropped
// lines.
TEST_F(LogQueueTest, AStalledReaderCostsLinesAndNoTime) {
  LogQueue queue(ends_[1], DroppedLine);
  const std::string line(1023, 'x');
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) queue.Push(line + "\n");
    });
  }
  for (std::thread& each : threads) each.join();  // hangs if Push blocks
  const uint64_t dropped = queue.dropped();
  EXPECT_GE(dropped, 4000u - LogQueue::kQueuedBytesMax / 1024 * 2 - 64u);
  EXPECT_LT(dropped, 4000u);
  EXPECT_FALSE(queue.Flush(10ms));

  // The writer may have taken lines while others were already dropped; then it reports drops more than once.
  uint64_t read_lines = 0, told = 0;
  while (read_lines + told < 4000) {
    const std::string next = ReadUntil("\n");
    ASSERT_FALSE(next.empty());
    for (const std::string& each : std::vector<std::string>(absl::StrSplit(next, '\n', absl::SkipEmpty()))) {
      if (each == line) {
        ++read_lines;
      } else {
        ASSERT_EQ(each.substr(0, 8), "dropped ") << each;
        told += std::stoull(std::string(each.substr(8)));
      }
    }
  }
  EXPECT_EQ(told, dropped);
  EXPECT_EQ(read_lines, 4000 - dropped);
  EXPECT_TRUE(queue.Flush(10s));
  queue.Push("on it goes\n");
  EXPECT_EQ(ReadUntil("on it goes\n"), "on it goes\n");
}

TEST_F(LogQueueTest, EndsWithinItsDeadlineWhileTheReaderIsStalled) {
  auto queue = std::make_unique<LogQueue>(ends_[1], DroppedLine);
  for (int i = 0; i < 200; ++i) queue->Push(std::string(1023, 'x') + "\n");
  const auto before = steady_clock::now();
  queue.reset();
  EXPECT_LT(steady_clock::now() - before, LogQueue::kCloseWait + 5s);
  ends_[0] = ends_[1] = -1;  // stay open for the abandoned thread, which writes to that descriptor
}

}  // namespace
}  // namespace gateway
