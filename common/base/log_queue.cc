#include "common/base/log_queue.h"

#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/thread.h"

namespace gateway {

// Shared with the writing thread, which may outlive the queue.
struct LogQueue::Impl {
  Impl(int fd, std::function<std::string(uint64_t)> dropped_line) : fd(fd), dropped_line(std::move(dropped_line)) {
    struct stat info {};
    may_stall = fstat(fd, &info) != 0 || !S_ISREG(info.st_mode);
  }

  void Run() {
    std::string lines;
    while (true) {
      uint64_t lost = 0;
      {
        const auto awake = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex) { return !queued.empty() || closing; };
        absl::MutexLock lock(&mutex);
        writing = false;
        mutex.Await(absl::Condition(&awake));
        if (queued.empty()) break;
        lines.clear();
        std::swap(lines, queued);
        lost = std::exchange(lost_before, 0);
        writing = true;
      }
      Write(lines);
      if (lost > 0) Write(dropped_line(lost));
    }
    absl::MutexLock lock(&mutex);
    finished = true;
  }

  // A pipe with room takes PIPE_BUF bytes without waiting (pipe(7)), as long as there is no other writer. An error
  // loses the lines: there is no other place to report it.
  void Write(std::string_view lines) {
    while (!lines.empty()) {
      if (may_stall) {
        pollfd waiting{fd, POLLOUT, 0};
        if (poll(&waiting, 1, -1) < 0 && errno != EINTR) return;
      }
      const size_t piece = may_stall ? std::min<size_t>(lines.size(), PIPE_BUF) : lines.size();
      const ssize_t written = write(fd, lines.data(), piece);
      if (written < 0 && errno != EINTR && errno != EAGAIN) return;
      if (written > 0) lines.remove_prefix(static_cast<size_t>(written));
    }
  }

  const int fd;
  const std::function<std::string(uint64_t)> dropped_line;
  bool may_stall = false;  // not a file
  std::atomic<uint64_t> dropped{0};
  absl::Mutex mutex;
  std::string queued ABSL_GUARDED_BY(mutex);
  uint64_t lost_before ABSL_GUARDED_BY(mutex) = 0;  // dropped after the queued ones
  bool writing ABSL_GUARDED_BY(mutex) = false;
  bool closing ABSL_GUARDED_BY(mutex) = false;
  bool finished ABSL_GUARDED_BY(mutex) = false;
  std::thread writer;
};

LogQueue::LogQueue(int fd, std::function<std::string(uint64_t)> dropped_line)
    : impl_(std::make_shared<Impl>(fd, std::move(dropped_line))) {
  impl_->writer = StartThread("log", ThreadPriority::kServing, [impl = impl_] { impl->Run(); });
}

LogQueue::~LogQueue() {
  bool finished = false;
  {
    absl::MutexLock lock(&impl_->mutex);
    impl_->closing = true;
    finished = impl_->mutex.AwaitWithTimeout(absl::Condition(&impl_->finished), absl::FromChrono(kCloseWait));
  }
  if (finished) {
    impl_->writer.join();
  } else {
    impl_->writer.detach();
  }
}

void LogQueue::Push(std::string_view line) {
  absl::MutexLock lock(&impl_->mutex);
  if (impl_->queued.size() + line.size() > kQueuedBytesMax) {
    ++impl_->lost_before;
    impl_->dropped.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  impl_->queued.append(line);
}

bool LogQueue::Flush(std::chrono::milliseconds wait) {
  const auto idle = [this]() ABSL_SHARED_LOCKS_REQUIRED(impl_->mutex) {
    return (impl_->queued.empty() && !impl_->writing) || impl_->finished;
  };
  absl::MutexLock lock(&impl_->mutex);
  return impl_->mutex.AwaitWithTimeout(absl::Condition(&idle), absl::FromChrono(wait));
}

uint64_t LogQueue::dropped() const { return impl_->dropped.load(std::memory_order_relaxed); }

}  // namespace gateway
