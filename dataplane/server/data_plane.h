// A whole data plane: its sockets, workers, configuration, metrics port and hand-over, from start to the end of its
// drain.
#ifndef GATEWAY_DATAPLANE_SERVER_DATA_PLANE_H_
#define GATEWAY_DATAPLANE_SERVER_DATA_PLANE_H_

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "dataplane/config/config_client.h"
#include "dataplane/config/enroller.h"
#include "dataplane/config/quota_client.h"
#include "dataplane/server/admin_http.h"
#include "dataplane/server/handover.h"
#include "dataplane/server/listener.h"
#include "dataplane/server/server_options.h"
#include "dataplane/server/signal_loop.h"
#include "dataplane/server/tls_listeners.h"
#include "dataplane/server/watchdog.h"
#include "dataplane/server/worker.h"
#include "dataplane/state/runtime_state.h"
#include "dataplane/telemetry/access_log.h"
#include "dataplane/telemetry/metrics.h"

namespace gateway::dataplane {

// Each step once, in the order below, on the thread of `signals`. After Start the process is to end by _exit:
// connections that did not end in time are coroutines in mid-step that are never resumed.
class DataPlane {
 public:
  // `config` and `signals` must outlive it.
  DataPlane(const v1::Bootstrap& config, ServerOptions options, SignalLoop* signals);
  DataPlane(const DataPlane&) = delete;
  DataPlane& operator=(const DataPlane&) = delete;

  // Takes over what a predecessor or systemd passes, binds the rest, reads certificates, and opens the access log.
  // Nothing is accepted yet. FailedPrecondition: a file that server.listeners names is wrong.
  absl::Status Open();
  // Starts all threads and accepts connections. With a predecessor, waits for a configuration first, then takes its
  // place. An error: the process is to end, and a predecessor serves on.
  absl::Status Start();
  // Returns when a signal or a successor tells it to end.
  void AwaitEnd();
  // Ends: lets requests in flight finish, says goodbye, stops all threads. The exit code.
  int Drain();

 private:
  // What makes it end.
  enum class Cause { kSignal, kSuccessor, kRefused };

  absl::Status FindPredecessor();
  absl::Status OpenMetrics();
  void MakeWorkers();
  absl::Status MakeClient();
  void WarnOfCertificates(const Snapshot& policy);
  void AddMetricSources();
  absl::Status AwaitConfiguration();
  void Accept();
  void TakeItsPlace();
  void OfferHandover();
  void AnnounceDrain();
  void DrainWorkers();
  void SayGoodbye();

  const v1::Bootstrap& config_;
  const ServerOptions options_;
  SignalLoop* const signals_;
  const int worker_count_;

  std::vector<PassedSocket> passed_;
  std::unique_ptr<Predecessor> predecessor_;
  ListenerSet listeners_;
  std::unique_ptr<AccessLog> log_;
  MetricsRegistry metrics_;
  RuntimeState runtime_;
  BufferBudget budget_;
  ConnectionCounts counts_;
  Authentication authentication_{{}};
  std::unique_ptr<RedisDirectory> redis_directory_;
  std::unique_ptr<TlsListeners> tls_;
  std::vector<std::unique_ptr<Worker>> workers_;
  Watchdog watchdog_;
  bool told_of_certificates_ = false;  // the configuration thread's, once that is started
  std::unique_ptr<ConfigClient> client_;
  std::unique_ptr<AdminHttp> admin_;
  std::unique_ptr<QuotaClient> quota_;
  std::unique_ptr<Enroller> enroller_;  // null: the certificate is the operator's

  std::atomic<bool> draining_{false};
  std::atomic<bool> drained_by_operator_{false};
  std::atomic<bool> accepting_{false};
  std::atomic<bool> drained_{false};
  std::atomic<bool> taken_{false};
  std::string successor_;  // its name; written before `taken_`
  std::unique_ptr<HandoverServer> handover_;
  Cause cause_ = Cause::kSignal;
};

// As many workers as the bootstrap says; "auto": one for each core.
int WorkerCount(const v1::ServerSection& server);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_SERVER_DATA_PLANE_H_
