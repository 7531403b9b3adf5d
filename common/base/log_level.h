// The level of the program's log at run time: another one for a while.
#ifndef GATEWAY_COMMON_BASE_LOG_LEVEL_H_
#define GATEWAY_COMMON_BASE_LOG_LEVEL_H_

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "gateway/v1/bootstrap.pb.h"

namespace gateway {

// Sets the level of spdlog's default logger. One for each process, which goes back to `own` by itself and at its end.
// Starts a thread with the first change, which waits for the end of it. Thread-safe.
class LogLevel {
 public:
  // `own`: the bootstrap file's; unspecified: info.
  explicit LogLevel(v1::LoggingSection::Level own);
  ~LogLevel();
  LogLevel(const LogLevel&) = delete;
  LogLevel& operator=(const LogLevel&) = delete;

  // From now on, for `duration`; a later call takes the place of an earlier one. Unspecified: back at once.
  void Set(v1::LoggingSection::Level level, std::chrono::milliseconds duration);
  // What Set has put in force; unspecified: `own` is.
  v1::LoggingSection::Level temporary() const;

 private:
  void Run();

  const v1::LoggingSection::Level own_;
  mutable std::mutex mu_;
  std::condition_variable changed_;
  v1::LoggingSection::Level current_ ABSL_GUARDED_BY(mu_);
  std::optional<std::chrono::steady_clock::time_point> until_ ABSL_GUARDED_BY(mu_);  // none: `own_` is in force
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_ ABSL_GUARDED_BY(mu_);
};

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_LOG_LEVEL_H_
