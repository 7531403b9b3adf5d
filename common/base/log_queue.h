// Lines for a file descriptor whose reader may stall: a bounded queue and one writing thread.
#ifndef GATEWAY_COMMON_BASE_LOG_QUEUE_H_
#define GATEWAY_COMMON_BASE_LOG_QUEUE_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace gateway {

// Push never waits for the reader: above kQueuedBytesMax a line is dropped and counted. When the reader continues, a
// line with the number of dropped ones follows the queued lines. Thread-safe.
class LogQueue {
 public:
  static constexpr size_t kQueuedBytesMax = 1 << 20;
  static constexpr std::chrono::milliseconds kCloseWait{500};

  // Writes to `fd`, which stays the caller's. `dropped_line` makes the line that reports dropped ones.
  LogQueue(int fd, std::function<std::string(uint64_t dropped)> dropped_line);
  // Waits for queued lines, for at most kCloseWait. A thread that is stuck in write(2) is abandoned and ends with the
  // process.
  ~LogQueue();
  LogQueue(const LogQueue&) = delete;
  LogQueue& operator=(const LogQueue&) = delete;

  void Push(std::string_view line);  // includes its line break
  // Until everything pushed so far is written, for at most `wait`. False: not everything was.
  bool Flush(std::chrono::milliseconds wait);

  uint64_t dropped() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_LOG_QUEUE_H_
