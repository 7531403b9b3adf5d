#include "dataplane/net/buffer_pool.h"

#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "gtest/gtest.h"

namespace gateway::dataplane {
namespace {

std::string_view TextOf(const Buffer& buffer) { return {buffer.data(), buffer.size()}; }

void Fill(Buffer* buffer, std::string_view text) {
  std::memcpy(buffer->space(), text.data(), text.size());
  buffer->Filled(text.size());
}

TEST(BufferPool, ShrinksABlockToWhatItHolds) {
  BufferBudget budget(1 << 20);
  BufferPool pool(&budget);
  Buffer buffer = pool.Acquire(BufferPool::kSmall);
  Fill(&buffer, "consumed|kept");
  buffer.Skip(9);
  pool.Shrink(&buffer);
  EXPECT_EQ(TextOf(buffer), "kept");
  EXPECT_EQ(buffer.capacity(), 1024u);
  pool.Shrink(&buffer);  // no smaller one is available
  EXPECT_EQ(buffer.capacity(), 1024u);
  Fill(&buffer, std::string(buffer.room(), 'x'));
  ASSERT_TRUE(pool.Grow(&buffer, buffer.capacity() * 2));
  EXPECT_EQ(buffer.capacity(), 4096u);
  EXPECT_EQ(buffer.size(), 1024u);
  EXPECT_TRUE(TextOf(buffer).starts_with("keptxx"));
}

TEST(BufferPool, ABodyThatFilledTheHeadsBufferBeginsWithALargerOne) {
  BufferBudget budget(8 << 20);
  BufferPool pool(&budget);
  EXPECT_EQ(BufferPool::FirstForFlow(Buffer()), BufferPool::kSmall);
  Buffer head = pool.Acquire(BufferPool::kSmall);
  head.Filled(head.room() - 1);
  EXPECT_EQ(BufferPool::FirstForFlow(head), BufferPool::kSmall);
  head.Filled(1);
  EXPECT_EQ(BufferPool::FirstForFlow(head), BufferPool::kSmall * 4);
  Buffer waiting = pool.Acquire(1024);
  waiting.Filled(waiting.room());
  EXPECT_EQ(BufferPool::FirstForFlow(waiting), BufferPool::kSmall);
  Buffer long_head = pool.Acquire(1024 * 1024);
  long_head.Filled(long_head.room());
  EXPECT_EQ(BufferPool::FirstForFlow(long_head), BufferPool::kLarge);
}

TEST(BufferPool, ShrunkBlocksLeaveTheBudgetToOthers) {
  BufferBudget budget(1 << 20);
  BufferPool pool(&budget);
  std::vector<Buffer> waiting;
  for (int i = 0; i < 900; ++i) {
    Buffer buffer = pool.Acquire(BufferPool::kSmall);
    ASSERT_TRUE(buffer) << i;
    Fill(&buffer, "GET / HT");
    pool.Shrink(&buffer);
    waiting.push_back(std::move(buffer));
  }
  EXPECT_TRUE(pool.scarce());
  EXPECT_LE(budget.used(), 1u << 20);
  waiting.clear();
  EXPECT_TRUE(pool.Acquire(BufferPool::kSmall));
}

}  // namespace
}  // namespace gateway::dataplane
