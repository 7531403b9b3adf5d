// What a worker lends to the exchanges on it, and all that they know of it.
#ifndef GATEWAY_DATAPLANE_PROXY_EXCHANGE_RESOURCES_H_
#define GATEWAY_DATAPLANE_PROXY_EXCHANGE_RESOURCES_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/random/random.h"
#include "common/base/address_set.h"
#include "dataplane/auth/auth.h"
#include "dataplane/http/field_lines.h"
#include "dataplane/limits/redis_store.h"
#include "dataplane/net/buffer_pool.h"
#include "dataplane/net/event_loop.h"
#include "dataplane/net/tls/acme_challenges.h"
#include "dataplane/state/state_ref.h"
#include "dataplane/telemetry/access_log.h"
#include "dataplane/telemetry/metrics.h"
#include "dataplane/upstream/upstream_pool.h"

namespace gateway::dataplane {

// Settings of the bootstrap file for requests.
struct ExchangeOptions {
  std::chrono::milliseconds read_timeout{30'000};
  std::chrono::milliseconds write_timeout{30'000};
  bool builtin_routes = true;
  bool metrics_on_main_port = false;
  bool error_details = false;
  bool reject_encoded_slashes = false;
  // What this process writes behind its version in Via, and recognizes its own requests by: "gateway (5f3a9c1e)", drawn
  // at each start. The name alone would take another gateway of this kind for itself.
  std::string via;
  AddressSet trusted_proxies;
  std::vector<std::string> redact_query;  // lower case; see LoggedTarget
};

// Request IDs of one worker: 32 hexadecimal digits, unique with high probability over all workers of all processes.
class RequestIds {
 public:
  static constexpr size_t kBytes = 32;

  explicit RequestIds(absl::InsecureBitGen* random)
      : prefix_(absl::Uniform<uint64_t>(*random)), counter_(absl::Uniform<uint64_t>(*random)) {}
  void Next(char (&text)[kBytes]);

 private:
  const uint64_t prefix_;
  uint64_t counter_;
};

// The Date field's value, rendered once a second.
class HttpDate {
 public:
  // "Mon, 23 Nov 2026 15:04:05 GMT". Holds until the next call.
  std::string_view At(std::chrono::system_clock::time_point now);

 private:
  int64_t second_ = -1;
  char text_[32];
};

// Flushes a worker's lines of the access log within AccessLog::kFlushInterval. Belongs to the loop.
class LogFlush {
 public:
  // `log` may be null: then there are no lines.
  LogFlush(EventLoop* loop, AccessLogBuffer* log) : loop_(loop), log_(log), timer_(loop, &LogFlush::OnTimer, this) {}

  void LineWritten() {
    if (armed_) return;
    armed_ = true;
    timer_.Arm(loop_->now() + AccessLog::kFlushInterval);
  }

 private:
  static void OnTimer(void* self);

  EventLoop* const loop_;
  AccessLogBuffer* const log_;
  Timer timer_;
  bool armed_ = false;
};

// Memory for one step without a wait in it.
struct Scratch {
  std::string text;
  std::string field_text;  // for field lines beside what is in `text`
  http::FieldLines lines;  // for the gateway's own fields of a header
};

// One for each worker, which outlives its exchanges. On the worker's thread.
struct ExchangeResources {
  EventLoop* loop;
  BufferPool* buffers;
  UpstreamPool* pool;
  WorkerShard* metrics;
  AccessLogBuffer* log;            // null: requests are not logged
  RedisStore* redis;               // null: there is no Redis
  Authentication* authentication;  // null only if no route has an Auth
  const ExchangeOptions* options;
  // Serves /metrics on the main port; may be empty.
  const std::function<std::string()>* metrics_page;
  LocalState* const* state;               // the newest
  const bool* cut_short;                  // the worker no longer waits for services
  const tls::AcmeChallenges* challenges;  // null: no listener has TLS
  int worker;                             // its index

  absl::InsecureBitGen random{};
  RequestIds ids{&random};
  HttpDate date{};
  LogFlush log_flush{loop, log};
  Scratch scratch{};
  TokenCache tokens{{}};
  int mirrors = 0;  // copies of requests under way, at most kMirrorsMax (mirror.h)
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_EXCHANGE_RESOURCES_H_
