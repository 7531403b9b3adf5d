// The data plane's end of the configuration stream: what is received is applied, installed on the workers and
// acknowledged.
#ifndef GATEWAY_DATAPLANE_CONFIG_CONFIG_CLIENT_H_
#define GATEWAY_DATAPLANE_CONFIG_CONFIG_CLIENT_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "dataplane/config/control_plane_credentials.h"
#include "dataplane/config/state_installer.h"
#include "dataplane/state/runtime_state.h"
#include "gateway/v1/bootstrap.pb.h"
#include "gateway/v1/config_stream.pb.h"
#include "prometheus/metric_family.h"

namespace gateway::dataplane {

struct ConfigClientOptions {
  v1::Bootstrap bootstrap;
  uint32_t workers = 1;
  uint16_t main_port = 0;    // as bound
  uint16_t health_port = 0;  // where Consul's check asks /health
  // Of the process whose sockets this one has taken over, as in v1::Hello; empty: it took over none.
  std::string replaces_instance;
  // Whether limits of scope redis do as their on_unavailable says; empty: they do. The configuration thread asks.
  std::function<bool()> redis_away;
  // For a support bundle: files beside the bootstrap file ("metrics.txt"). Called on the configuration thread; may be
  // null.
  std::function<std::vector<v1::DiagnosticFile>()> diagnose;
  // The fleet's keys for session tickets; an error is logged. The configuration thread calls. Empty: they are not
  // taken.
  std::function<absl::Status(const v1::TicketKeysUpdate&)> ticket_keys = {};
  // Returns when every worker responds to these challenges. Likewise.
  std::function<void(const v1::ChallengesUpdate&)> challenges = {};
  // An operator has drained this data plane, or taken it back. Called on the configuration thread; null: it cannot be
  // drained, and its hello says so.
  std::function<void(bool drained)> set_drained = {};
  // Null: those of bootstrap.data_plane.tls.
  std::shared_ptr<ControlPlaneCredentials> credentials;
};

// Owns the configuration thread, which puts the parts together: a stream to a control plane (ControlPlaneStream, in the
// order of ControlPlaneRotation), its chunks (ChunkStage), what is applied (AppliedConfig), the workers
// (StateInstaller), the cache (ConfigCache) and reports (Reporter). An update is acknowledged when every worker serves
// it. A bad one is NACKed, with every error of every resource, and the one before stays in service. With
// bootstrap.data_plane.policy_files there is no stream: the files are read once, and services of Consul have no
// endpoints.
//
// Two threads: the configuration thread owns everything that is applied, writes to the stream, and frees old states
// after the last worker has released them; one thread for each stream only reads, at most two messages ahead.
class ConfigClient {
 public:
  ConfigClient(ConfigClientOptions options, RuntimeState* runtime, InstallFunction install);
  ~ConfigClient();

  // Whether Start would accept data_plane.policy_files: InvalidArgument names all errors in them, one a line. Starts
  // nothing.
  static absl::Status CheckPolicyFiles(const v1::Bootstrap& bootstrap, std::vector<std::string>* warnings);

  // Loads the policy files, or the cache (a damaged one is logged and ignored), installs what they hold, and starts the
  // thread. If there is nothing yet, a state with the built-ins alone is installed (has_policy false). `install` is
  // called from here the first time, and need not have called `done` before this returns. An error is fatal: bad policy
  // files, all errors in its message, one a line.
  absl::Status Start();

  // kSaid: so that Consul forgets this instance. kNone: another process continues under the same name; then the cache
  // is the other's, too.
  enum class Goodbye { kSaid, kNone };
  // Says goodbye, waits until the control plane has read it, and ends the thread; returns within `timeout` (and the
  // time of a name look-up that is under way).
  void Stop(std::chrono::milliseconds timeout, Goodbye goodbye = Goodbye::kSaid);

  // While it is on, a stream that ends is not started again: another process of this name is about to take its place,
  // and two that replace each other's streams would never end. Thread-safe.
  void StandBy(bool on);

  // Binds what is applied again, since host names in it have other addresses. Returns at once. Thread-safe.
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
