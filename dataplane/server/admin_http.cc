#include "dataplane/server/admin_http.h"

#include <utility>

#include "absl/time/time.h"
#include "common/base/text.h"
#include "prometheus/text_serializer.h"

namespace gateway::dataplane {

HttpReply MetricsReply(const MetricsRegistry& registry) {
  return {.status = 200,
          .content_type = "text/plain; version=0.0.4; charset=utf-8",
          .body = prometheus::TextSerializer().Serialize(registry.Collect())};
}

HttpReply HealthReply(std::chrono::system_clock::time_point now) {
  const std::string time = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::FromChrono(now), absl::UTCTimeZone());
  return {.status = 200,
          .content_type = "application/json",
          .body = "{\"status\": \"healthy\", \"time\": \"" + time + "\"}\n"};
}

HttpReply ReadyReply(const Readiness& readiness) {
  const bool ready = readiness.configured && !readiness.draining && !readiness.stalled;
  const char* const status = readiness.draining     ? "draining"
                             : readiness.stalled    ? "stalled"
                             : readiness.configured ? "ready"
                                                    : "no configuration";
  HttpReply reply;
  reply.status = ready ? 200 : 503;
  reply.body = Concat("{\"status\": \"", status, "\"}\n");
  return reply;
}

AdminHttp::AdminHttp(std::unique_ptr<MetricsHttp> server, const MetricsRegistry* registry,
                     std::function<Readiness()> readiness)
    : server_(std::move(server)) {
  server_->Handle("/metrics", [registry] { return MetricsReply(*registry); });
  server_->Handle("/health", [] { return HealthReply(std::chrono::system_clock::now()); });
  server_->Handle("/ready", [readiness = std::move(readiness)] { return ReadyReply(readiness()); });
}

void AdminHttp::Start() { server_->Start(); }

}  // namespace gateway::dataplane
