// Lines on their way to a file descriptor whose reader may stop: a bounded queue and one thread that writes.
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

// Push never waits for the reader: past kQueuedBytesMax a line is dropped and counted. Once the reader takes lines
// again, a line that says how many were dropped follows those that waited. Thread-safe.
class LogQueue {
 public:
  static constexpr size_t kQueuedBytesMax = 1 << 20;
  static constexpr std::chrono::milliseconds kCloseWait{500};

  // Writes to `fd`, which stays the caller's. `dropped_line` makes the line that reports dropped ones.
  LogQueue(int fd, std::function<std::string(uint64_t dropped)> dropped_line);
  // Waits at most kCloseWait for what is queued. A thread that is stuck in write(2) is left behind: it ends with
  // the process.
  ~LogQueue();
  LogQueue(const LogQueue&) = delete;
  LogQueue& operator=(const LogQueue&) = delete;

  void Push(std::string_view line);  // with its line break
  // Until everything pushed so far is written, for at most `wait`. False: something still waits.
  bool Flush(std::chrono::milliseconds wait);

  uint64_t dropped() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_LOG_QUEUE_H_
