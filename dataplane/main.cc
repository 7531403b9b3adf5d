// gateway-dataplane: the proxy. See server/data_plane.h.
#include <unistd.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "common/base/descriptors.h"
#include "common/base/log.h"
#include "common/config/bootstrap.h"
#include "dataplane/server/check_files.h"
#include "dataplane/server/data_plane.h"
#include "dataplane/server/server_options.h"
#include "dataplane/server/signal_loop.h"
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
