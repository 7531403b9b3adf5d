// gateway-dataplane: the proxy. See server/data_plane.h.
#include <unistd.h>

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/base/descriptors.h"
#include "common/base/log.h"
#include "common/config/bootstrap.h"
#include "dataplane/config/config_client.h"
#include "dataplane/config/control_plane_credentials.h"
#include "dataplane/server/data_plane.h"
#include "dataplane/server/server_options.h"
#include "dataplane/server/signal_loop.h"
#include "dataplane/server/tls_listeners.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

constexpr char kAbout[] = R"(The gateway's proxy: forwards HTTP as its control plane says.

Requests come in at server.port or server.listeners; /metrics, /health and
/ready are on metrics.port. systemd's sockets (LISTEN_FDS) are used if it passes
some, and those of a running process with server.handover.
With --check-config, files that the bootstrap file names are read, too: policy,
certificates and keys.

Signals:
  SIGTERM, SIGINT  drain: not ready at once, no new connections after
                   server.drain_delay, end after the last response or
                   server.drain_timeout; a second one ends at once
  SIGHUP, SIGUSR1  read certificates again, reopen the access log)";

// --check-config: what a start would say about the files that `config` names. All of them are read.
int CheckFiles(const v1::Bootstrap& config) {
  std::vector<std::string> warnings, more;
  std::vector<absl::Status> checks = {ConfigClient::CheckPolicyFiles(config, &warnings),
                                      TlsListeners::Check(config.server(), &more),
                                      ControlPlaneCredentials(config.data_plane().tls()).Name(absl::Now()).status()};
  warnings.insert(warnings.end(), more.begin(), more.end());
  for (const std::string& warning : warnings) std::fprintf(stderr, "warning: %s\n", warning.c_str());
  int code = 0;
  for (const absl::Status& status : checks) {
    if (status.ok()) continue;
    std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    code = 1;
  }
  return code;
}

int Fail(const absl::Status& status, int code) {
  spdlog::critical("{}", std::string(status.message()));
  spdlog::default_logger()->flush();
  return code;
}

int Run(int argc, char** argv) {
  const DaemonArguments arguments = ParseDaemonArguments(argc, argv, "gateway-dataplane", kAbout);
  if (arguments.check) return CheckFiles(arguments.config);
  if (arguments.exit_code) return *arguments.exit_code;
  InitLogging(arguments.config.logging(), "gateway-dataplane");
#ifdef NDEBUG
  // Debian's Abseil looks for them at every lock, which about doubles its cost; builds for tests leave that on.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
#endif
  SignalLoop signals;            // before any other thread
  (void)RaiseDescriptorLimit();  // what there was will do
  auto options = ServerOptions::From(arguments.config);
  if (!options.ok()) return Fail(options.status(), 2);
  DataPlane data_plane(arguments.config, *std::move(options), &signals);
  if (const absl::Status status = data_plane.Open(); !status.ok()) {
    return Fail(status, absl::IsFailedPrecondition(status) ? 2 : 1);
  }
  if (const absl::Status status = data_plane.Start(); !status.ok()) _exit(Fail(status, 1));
  data_plane.AwaitEnd();
  const int code = data_plane.Drain();
  spdlog::default_logger()->flush();
  _exit(code);
}

}  // namespace
}  // namespace gateway::dataplane

int main(int argc, char** argv) { return gateway::dataplane::Run(argc, argv); }
