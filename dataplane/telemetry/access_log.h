// The access log: one line a request, formatted by the worker into its own buffer, written by one thread.
#ifndef GATEWAY_DATAPLANE_TELEMETRY_ACCESS_LOG_H_
#define GATEWAY_DATAPLANE_TELEMETRY_ACCESS_LOG_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "dataplane/http/reason.h"
#include "gateway/v1/bootstrap.pb.h"

namespace gateway::dataplane {

// One finished request, as log, metrics and (later) the decision ring see it. Views live until the call returns.
struct RequestRecord {
  std::chrono::system_clock::time_point time;  // when its head had been read
  std::string_view method, path;               // path: a LoggedTarget, of which at most 8 KiB are logged
  std::string_view client_ip, user_agent, request_id;
  std::string_view service, route, endpoint;  // empty: none
  std::string_view consumer;                  // who was authenticated
  std::string_view policy;                    // "RateLimit/per-client": whose decision it was
  int status = 0;
  int grpc_status = -1;  // of a gRPC call; -1: none was said
  Reason reason = Reason::kNone;
  std::string_view detail;  // e.g. "bare LF in the header"; may be empty
  std::chrono::nanoseconds duration{};
  std::chrono::nanoseconds upstream_duration{-1};  // from the upstream's head sent to its answer's head; below 0: none
  uint64_t bytes_in = 0, bytes_out = 0;            // bodies and heads, of the client's connection
  uint64_t revision = 0;
  std::string_view protocol;  // of the client: "HTTP/2"; empty: unknown
  uint32_t attempts = 0;      // how often an endpoint was asked, or would have been had it let itself be connected to
  bool aborted = false;       // the answer did not end as it should have
  std::string_view tls_version;         // "TLSv1.3"; empty: cleartext
  std::string_view tls_server_name;     // that the client asked for (SNI); empty: none
  std::string_view client_certificate;  // its subject, or its fingerprint; empty: none was given
};

class AccessLogBuffer;

// Owns the file and the writing thread. A reader that stalls costs lines (counted), never a worker's time.
class AccessLog {
 public:
  static constexpr size_t kBufferBytes = 72 * 1024;
  static constexpr size_t kQueuedBuffersMax = 64;  // waiting to be written; past it a buffer is dropped whole
  static constexpr std::chrono::milliseconds kFlushInterval{100};

  // `path` "-": standard output. An error says which file could not be opened.
  static absl::StatusOr<std::unique_ptr<AccessLog>> Open(const std::string& path, v1::LoggingSection::Format format);
  ~AccessLog();  // writes what is queued, for at most a second

  // For one worker; lives as long as this.
  AccessLogBuffer* NewBuffer();

  // Opens the file again (after a rotation), soon, on the writing thread: no line is lost. Nothing for standard output.
  // Any thread; not async-signal-safe.
  void Reopen();

  // Lines lost: to a reader that is too slow, or to an error. Said in the program's own log too, once a second.
  uint64_t dropped_lines() const;
  uint64_t write_errors() const;

  struct Impl;

 private:
  explicit AccessLog(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

// Not thread-safe: one worker's.
class AccessLogBuffer {
 public:
  ~AccessLogBuffer();
  // JSON: {"time":"2026-01-02T03:04:05.678Z","method":...,...}, always the same fields in the same order: what a
  // request has not is "" (upstream_duration_ms: null); `attempts` (more than one), `detail` and `aborted` are there
  // only where set. Durations are milliseconds with three decimals. Control characters are escaped, bytes that are no
  // UTF-8 are "\ufffd". Allocates nothing.
  void Write(const RequestRecord& record);
  // Hands the buffer over where it has anything. The worker calls it when a loop turn finds kFlushInterval passed, and
  // at its end.
  void Flush();
  bool empty() const;

  struct Impl;

 private:
  friend class AccessLog;
  explicit AccessLogBuffer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_TELEMETRY_ACCESS_LOG_H_
