// The program's own log: spdlog on standard error, as JSON lines or as text. Not for requests (see
// dataplane/access_log.h).
#ifndef GATEWAY_COMMON_BASE_LOG_H_
#define GATEWAY_COMMON_BASE_LOG_H_

#include <string>

#include "gateway/v1/bootstrap.pb.h"
#include "spdlog/spdlog.h"

namespace gateway {

// Sets up spdlog's default logger: {"time":RFC 3339,"level":...,"process":...,"message":...} or text. Call once, in
// main. Log with spdlog::info("...", ...) and the like afterwards; any thread. Messages are JSON-escaped.
void InitLogging(const v1::LoggingSection& config, const std::string& process);

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_LOG_H_
