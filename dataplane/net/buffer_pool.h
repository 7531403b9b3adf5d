// Recycled relay buffers of one worker, within the budget of the process.
#ifndef GATEWAY_DATAPLANE_NET_BUFFER_POOL_H_
#define GATEWAY_DATAPLANE_NET_BUFFER_POOL_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "dataplane/net/gauge.h"

namespace gateway::dataplane {

// `server.buffer_budget`: the bytes in buffers of all workers, in use or kept for reuse. Shared; thread-safe.
class BufferBudget {
 public:
  explicit BufferBudget(uint64_t bytes_max) : bytes_max_(bytes_max) {}
  // Large blocks may use half of it and middle ones three quarters, so that bodies always leave room for headers.
  bool Take(uint64_t bytes) {
    const uint64_t limit = bytes >= (256u << 10)  ? bytes_max_ / 2
                           : bytes >= (64u << 10) ? bytes_max_ / 4 * 3
                                                  : bytes_max_;
    if (used_.fetch_add(bytes, std::memory_order_relaxed) + bytes <= limit) return true;
    used_.fetch_sub(bytes, std::memory_order_relaxed);
    return false;
  }
  // Whether free blocks should be returned rather than kept for reuse.
  bool scarce() const { return used_.load(std::memory_order_relaxed) > bytes_max_ / 2; }
  void Give(uint64_t bytes) { used_.fetch_sub(bytes, std::memory_order_relaxed); }
  uint64_t used() const { return used_.load(std::memory_order_relaxed); }

 private:
  const uint64_t bytes_max_;
  std::atomic<uint64_t> used_{0};
};

class BufferPool;

// A block of memory from a pool, returned by the destructor. Holds bytes [begin, end) of a stream: reads append at the
// end, consumers take from the start.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    if (this != &other) {
      Reset();
      pool_ = std::exchange(other.pool_, nullptr);
      data_ = std::exchange(other.data_, nullptr);
      capacity_ = std::exchange(other.capacity_, 0);
      begin_ = std::exchange(other.begin_, 0);
      end_ = std::exchange(other.end_, 0);
    }
    return *this;
  }
  ~Buffer() { Reset(); }

  explicit operator bool() const { return data_ != nullptr; }
  void Reset();  // returns the block

  char* data() const { return data_ + begin_; }
  size_t size() const { return end_ - begin_; }
  bool empty() const { return begin_ == end_; }
  size_t capacity() const { return capacity_; }
  char* space() const { return data_ + end_; }
  size_t room() const { return capacity_ - end_; }
  void Filled(size_t bytes) { end_ += bytes; }
  void Consume(size_t bytes) {
    begin_ += bytes;
    if (begin_ == end_) begin_ = end_ = 0;
  }
  // Like Consume, but without starting over at the front: consumed bytes stay readable.
  void Skip(size_t bytes) { begin_ += bytes; }
  void Clear() { begin_ = end_ = 0; }
  void Compact();  // moves the bytes to the front

 private:
  friend class BufferPool;
  BufferPool* pool_ = nullptr;
  char* data_ = nullptr;
  size_t capacity_ = 0;
  size_t begin_ = 0;
  size_t end_ = 0;
};

// Not thread-safe: belongs to one worker.
class BufferPool {
 public:
  static constexpr size_t kSmall = 16 * 1024;   // a header, a small response
  static constexpr size_t kLarge = 256 * 1024;  // a fast flow
  // The first two are for waiting headers: for the rest of them or, if the budget is scarce, for their response.
  static constexpr std::array<size_t, 6> kSizes = {1024, 4 * 1024, kSmall, 64 * 1024, kLarge, 1024 * 1024};
  static constexpr std::array<size_t, 6> kKeptMax = {256, 256, 1024, 16, 8, 1};  // free blocks kept of each size

  // Counts the bytes in use in `in_use`; may be null.
  explicit BufferPool(BufferBudget* budget, Gauge* in_use = nullptr) : budget_(budget), in_use_(in_use) {}
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // Room for at least `bytes` (at most 1 MiB); empty if the budget is spent.
  Buffer Acquire(size_t bytes);
  // The same for a fast flow, or a small buffer if the budget is nearly spent.
  Buffer AcquireUpTo(size_t bytes) {
    Buffer buffer = Acquire(bytes);
    if (!buffer && bytes > kSmall) buffer = Acquire(kSmall);
    return buffer;
  }
  // The next size for a flow that filled its buffer completely.
  static size_t LargerForFlow(size_t capacity) { return capacity < kLarge ? capacity * 4 : capacity; }
  // The first size for a body whose start came with the header in `input`: large if the body filled that buffer
  // completely.
  static size_t FirstForFlow(const Buffer& input) {
    return input.room() > 0 ? kSmall : std::clamp(LargerForFlow(input.capacity()), kSmall, kLarge);
  }
  // Moves the bytes of `buffer` into a block of at least `bytes`. False, without a change, if the budget is spent.
  bool Grow(Buffer* buffer, size_t bytes);
  // Moves the bytes of `buffer` into the smallest block that holds them; does nothing if that is not smaller or not
  // available.
  void Shrink(Buffer* buffer);
  // Whether waiting connections should hold little.
  bool scarce() const { return budget_->scarce(); }

 private:
  friend class Buffer;
  static size_t IndexOf(size_t bytes);
  void Release(char* data, size_t capacity);
  void Count(int64_t bytes);
  void GiveUpFree();
  BufferBudget* budget_;
  Gauge* in_use_;
  std::array<std::vector<char*>, kSizes.size()> free_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_NET_BUFFER_POOL_H_
