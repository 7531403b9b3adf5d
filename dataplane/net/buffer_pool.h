// Relay buffers of one worker, recycled, within the budget of the whole process.
#ifndef GATEWAY_DATAPLANE_NET_BUFFER_POOL_H_
#define GATEWAY_DATAPLANE_NET_BUFFER_POOL_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace gateway::dataplane {

// `server.buffer_budget`: bytes that all workers' buffers hold together, in use or kept for reuse. Shared; thread-safe.
class BufferBudget {
 public:
  explicit BufferBudget(uint64_t bytes_max) : bytes_max_(bytes_max) {}
  // Large blocks may take up to half of it and middle ones three quarters, so that bulk always leaves room for headers.
  bool Take(uint64_t bytes) {
    const uint64_t limit = bytes >= (256u << 10)  ? bytes_max_ / 2
                           : bytes >= (64u << 10) ? bytes_max_ / 4 * 3
                                                  : bytes_max_;
    if (used_.fetch_add(bytes, std::memory_order_relaxed) + bytes <= limit) return true;
    used_.fetch_sub(bytes, std::memory_order_relaxed);
    return false;
  }
  // Whether free blocks should be given back and not kept for reuse.
  bool scarce() const { return used_.load(std::memory_order_relaxed) > bytes_max_ / 2; }
  void Give(uint64_t bytes) { used_.fetch_sub(bytes, std::memory_order_relaxed); }
  uint64_t used() const { return used_.load(std::memory_order_relaxed); }

 private:
  const uint64_t bytes_max_;
  std::atomic<uint64_t> used_{0};
};

// Bytes that one worker's pools have handed out: written by the worker, read by any thread.
class BytesInUse {
 public:
  // `value` must outlive it; null: not counted.
  explicit BytesInUse(std::atomic<int64_t>* value) : value_(value) {}
  // One writer, so a load and a store suffice.
  void Add(int64_t bytes) {
    if (value_ != nullptr) value_->store(value_->load(std::memory_order_relaxed) + bytes, std::memory_order_relaxed);
  }

 private:
  std::atomic<int64_t>* value_;
};

class BufferPool;

// A block of memory from a pool; goes back at its end. Holds bytes [begin, end) of a stream: read in at the end, taken
// from the beginning.
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
  void Reset();  // gives the block back

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
  // Consume without starting over at the front: what was consumed stays readable.
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

// Not thread-safe: one worker's.
class BufferPool {
 public:
  static constexpr size_t kSmall = 16 * 1024;   // a header, a small response
  static constexpr size_t kLarge = 256 * 1024;  // a body that flows
  // The first two are for headers that wait: for their rest, or, if the budget is scarce, for their response.
  static constexpr std::array<size_t, 6> kSizes = {1024, 4 * 1024, kSmall, 64 * 1024, kLarge, 1024 * 1024};
  static constexpr std::array<size_t, 6> kKeptMax = {256, 256, 1024, 16, 8, 1};  // free blocks kept of each size

  // Counts what is handed out in `in_use`.
  explicit BufferPool(BufferBudget* budget, std::atomic<int64_t>* in_use = nullptr)
      : budget_(budget), in_use_(in_use) {}
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // At least `bytes` (at most 1 MiB) of room; empty if the budget is spent.
  Buffer Acquire(size_t bytes);
  // The same for a flow that has earned so much, or a small one where the budget is nearly spent.
  Buffer AcquireUpTo(size_t bytes) {
    Buffer buffer = Acquire(bytes);
    if (!buffer && bytes > kSmall) buffer = Acquire(kSmall);
    return buffer;
  }
  // The next larger size for a flow that filled its buffer to the brim.
  static size_t LargerForFlow(size_t capacity) { return capacity < kLarge ? capacity * 4 : capacity; }
  // The first size for a body whose beginning came with the header in `input`: one that filled it to the brim flows
  // already.
  static size_t FirstForFlow(const Buffer& input) {
    return input.room() > 0 ? kSmall : std::clamp(LargerForFlow(input.capacity()), kSmall, kLarge);
  }
  // Moves what `buffer` holds into a block of at least `bytes`. False (and nothing changed) where the budget is spent.
  bool Grow(Buffer* buffer, size_t bytes);
  // Moves what `buffer` holds into the smallest block that holds it; nothing where that is no smaller, or not to be
  // had.
  void Shrink(Buffer* buffer);
  // Whether waiting requests should hold little.
  bool scarce() const { return budget_->scarce(); }

 private:
  friend class Buffer;
  static size_t IndexOf(size_t bytes);
  void Release(char* data, size_t capacity);
  void GiveUpFree();
  BufferBudget* budget_;
  BytesInUse in_use_;
  std::array<std::vector<char*>, kSizes.size()> free_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_NET_BUFFER_POOL_H_
