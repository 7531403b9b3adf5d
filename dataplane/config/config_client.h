// The data plane's end of the config stream, and its disk cache: what is received, compiled, bound and handed to the
// workers.
#ifndef GATEWAY_DATAPLANE_CONFIG_CONFIG_CLIENT_H_
#define GATEWAY_DATAPLANE_CONFIG_CONFIG_CLIENT_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/random/bit_gen_ref.h"
#include "absl/status/status.h"
#include "dataplane/config/control_plane_credentials.h"
#include "dataplane/state/serving_state.h"
#include "gateway/v1/bootstrap.pb.h"
#include "gateway/v1/config_stream.pb.h"
#include "prometheus/metric_family.h"

namespace gateway::dataplane {

// Hands a state to every worker and calls `done` (on any thread, once) when all of them serve from it.
using InstallFunction = std::function<void(std::shared_ptr<const ServingState>, std::function<void()> done)>;

// Before try number `attempt` (from 0) at a control plane: full jitter, uniform from 1 ms to 100 ms doubled `attempt`
// times, at most 5 s. A thousand data planes that lost the same control plane come back spread out.
std::chrono::milliseconds ReconnectDelay(int attempt, absl::BitGenRef random);

struct ConfigClientOptions {
  v1::Bootstrap bootstrap;
  uint32_t workers = 1;
  uint16_t main_port = 0;    // as bound
  uint16_t health_port = 0;  // where Consul's check asks /health
  // Of the process whose sockets this one has taken over, as v1::Hello says it; empty: none.
  std::string replaces_instance;
  // Whether limits of scope redis do as their on_unavailable says; empty: they do. The configuration thread asks.
  std::function<bool()> redis_away;
  // For a support bundle: files beside the bootstrap's ("metrics.txt"). The configuration thread asks. Empty: none.
  std::function<std::vector<v1::DiagnosticFile>()> diagnose;
  // Null: as bootstrap.data_plane.tls has it.
  std::shared_ptr<ControlPlaneCredentials> credentials;
};

// Owns the configuration thread: the stream to the first control plane that answers, reconnects with jitter
// (ReconnectDelay), stages chunks, compiles, binds, installs, waits for every worker, then ACKs. A bad update is
// NACKed, with every error of every resource, and what is served stays. With bootstrap.data_plane.policy_files there is
// no stream: the files are read once, and services of Consul have no endpoints.
//
// Two threads: the configuration thread owns everything that is applied, writes to the stream, and frees old states
// when the last worker has let go of them; one thread for each stream only reads, at most two messages ahead. With
// data_plane.cache_dir, what is served is kept on disk by ConfigCache.
class ConfigClient {
 public:
  ConfigClient(ConfigClientOptions options, RuntimeState* runtime, InstallFunction install);
  ~ConfigClient();

  // Whether Start would take data_plane.policy_files: InvalidArgument tells all mistakes in them, one a line. Starts
  // nothing.
  static absl::Status CheckPolicyFiles(const v1::Bootstrap& bootstrap, std::vector<std::string>* warnings);

  // Loads the policy files, or the cache (a damaged one is reported and ignored), installs what they hold, and starts
  // the thread. Where there is nothing yet, a state with the built-ins alone is installed (has_policy false). `install`
  // is called from here the first time, and need not have called `done` before this returns. An error is fatal: bad
  // policy files, all problems in its message, one a line.
  absl::Status Start();

  // kSaid: so that Consul forgets this instance. kNone: another process of the same name goes on in its place; then the
  // cache is the other's, too.
  enum class Goodbye { kSaid, kNone };
  // Says goodbye, waits until the control plane has heard, and ends the thread; returns within `timeout` (and the time
  // of a name look-up that is under way).
  void Stop(std::chrono::milliseconds timeout, Goodbye goodbye = Goodbye::kSaid);

  // While it is on, a stream that ends is not begun anew: another process of this name is about to take its place, and
  // two that replace each other's streams would never end. Thread-safe.
  void StandBy(bool on);

  // Binds what is applied anew: hosts that it names have other addresses. Returns at once. Thread-safe.
  void Rebind();

  // Of this data plane, as the control plane knows it; and of this process, for the one that takes its place.
  const std::string& name() const;
  const std::string& instance_id() const;

  // A policy is being served: /ready. Thread-safe.
  bool ready() const;
  // Certificates of the policy have no key here: it is from the cache, or the stream may not carry them. Thread-safe.
  bool lacks_keys() const;
  uint64_t revision() const;
  bool connected() const;

  // gateway_config_revision, gateway_config_connected, gateway_config_updates_total{result}, ... Thread-safe.
  std::vector<prometheus::MetricFamily> Families() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_CONFIG_CONFIG_CLIENT_H_
