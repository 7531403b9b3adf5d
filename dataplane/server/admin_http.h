// What the data plane tells on its metrics port: /metrics, /health and /ready.
#ifndef GATEWAY_DATAPLANE_SERVER_ADMIN_HTTP_H_
#define GATEWAY_DATAPLANE_SERVER_ADMIN_HTTP_H_

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/base/metrics_http.h"
#include "dataplane/telemetry/metrics.h"

namespace gateway::dataplane {

// What /ready depends on.
struct Readiness {
  bool configured = false;  // a policy is served
  bool draining = false;
  bool stalled = false;  // every worker is; one that still turns serves what the others' listeners do not take
};

// Wires the metrics server to what it tells; `registry` must outlive it. `readiness` is asked on the server's thread
// and must not wait for a worker.
//   /metrics  everything that `registry` and its sources know
//   /health   200 {"status":"healthy","time":RFC 3339} for as long as the process lives: also what Consul's check asks
//             where server.builtin_routes is off
//   /ready    200 {"status":"ready"}; 503 {"status":"draining"}, {"status":"stalled"} or {"status":"no configuration"}
class AdminHttp {
 public:
  // Responds from Start on. `server`: MetricsHttp::Listen's or Adopt's.
  AdminHttp(std::unique_ptr<MetricsHttp> server, const MetricsRegistry* registry, std::function<Readiness()> readiness);
  void Start();
  uint16_t port() const { return server_->port(); }
  std::string address() const { return server_->address(); }
  int fd() const { return server_->fd(); }
  void StopListening() { server_->StopListening(); }

 private:
  std::unique_ptr<MetricsHttp> server_;
};

// The bodies, also for the main port (server.builtin_routes, metrics.main_port).
HttpReply MetricsReply(const MetricsRegistry& registry);
HttpReply HealthReply(std::chrono::system_clock::time_point now);
HttpReply ReadyReply(const Readiness& readiness);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_SERVER_ADMIN_HTTP_H_
