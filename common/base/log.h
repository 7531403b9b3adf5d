// The program's own log: spdlog on standard error, as JSON lines or as text. Not for requests (see
// dataplane/telemetry/access_log.h).
#ifndef GATEWAY_COMMON_BASE_LOG_H_
#define GATEWAY_COMMON_BASE_LOG_H_

#include <cstdint>
#include <string>

#include "gateway/v1/bootstrap.pb.h"
#include "spdlog/spdlog.h"

namespace gateway {

// Sets up spdlog's default logger: {"time":RFC 3339,"level":...,"process":...,"message":...} or text. Call once, in
// main. Log with spdlog::info("...", ...) and the like afterwards; any thread. Messages are JSON-escaped.
//
// Lines are queued and written by one thread (log_queue.h): a thread that logs never waits for the reader, and beyond a
// bound lines are dropped. spdlog::default_logger()->flush() waits at most half a second for queued lines; so does the
// end of the process by return from main.
void InitLogging(const v1::LoggingSection& config, const std::string& process);

// `level` in spdlog's terms; unspecified: info.
spdlog::level::level_enum SpdlogLevelOf(v1::LoggingSection::Level level);

// Lines of this process that were dropped because the reader stalled. Any thread.
uint64_t DroppedLogLines();

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_LOG_H_
