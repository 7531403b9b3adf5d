// Pipes through which long bodies pass from socket to socket without being copied (splice(2)).
#ifndef GATEWAY_DATAPLANE_NET_SPLICE_PIPE_H_
#define GATEWAY_DATAPLANE_NET_SPLICE_PIPE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "dataplane/net/buffer_pool.h"

namespace gateway::dataplane {

class SplicePipePool;

// A pipe from a pool. Returns to the pool at its end if it is empty; else it is closed.
class SplicePipe {
 public:
  // At most so much is in a pipe: what a flow's buffer would hold.
  static constexpr size_t kBytesMax = BufferPool::kLarge;

  SplicePipe() = default;
  SplicePipe(SplicePipe&& other) noexcept { *this = std::move(other); }
  SplicePipe& operator=(SplicePipe&& other) noexcept {
    if (this != &other) {
      Reset();
      pool_ = std::exchange(other.pool_, nullptr);
      read_end_ = std::exchange(other.read_end_, -1);
      write_end_ = std::exchange(other.write_end_, -1);
      held_ = std::exchange(other.held_, 0);
    }
    return *this;
  }
  ~SplicePipe() { Reset(); }

  explicit operator bool() const { return pool_ != nullptr; }
  void Reset();

  // Bytes in it.
  size_t held() const { return held_; }
  int read_end() const { return read_end_; }
  int write_end() const { return write_end_; }
  void Filled(size_t bytes) { held_ += bytes; }
  void Drained(size_t bytes) { held_ -= bytes; }

 private:
  friend class SplicePipePool;
  SplicePipePool* pool_ = nullptr;
  int read_end_ = -1;
  int write_end_ = -1;
  size_t held_ = 0;
};

// Not thread-safe: one worker's. What pipes hold counts into the budget of all buffers.
class SplicePipePool {
 public:
  static constexpr int kInUseMax = 128;  // two descriptors each; further flows are copied
  static constexpr size_t kKeptMax = 8;  // empty ones, for reuse

  // Counts what pipes in use may hold in `in_use`.
  SplicePipePool(BufferBudget* budget, std::atomic<int64_t>* in_use) : budget_(budget), bytes_in_use_(in_use) {}
  ~SplicePipePool();
  SplicePipePool(const SplicePipePool&) = delete;
  SplicePipePool& operator=(const SplicePipePool&) = delete;

  // Empty if the budget is spent, too many are in use, or the kernel gives none.
  SplicePipe Acquire();

 private:
  friend class SplicePipe;
  struct Ends {
    int read, write;
  };
  static void Close(Ends ends);
  BufferBudget* budget_;
  BytesInUse bytes_in_use_;
  int in_use_ = 0;
  std::vector<Ends> free_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_NET_SPLICE_PIPE_H_
