// gateway-dataplane: the proxy. See server/data_plane.h.
#include <unistd.h>

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "common/base/descriptors.h"
#include "common/base/log.h"
#include "common/config/bootstrap.h"
#include "dataplane/config/config_client.h"
#include "dataplane/server/data_plane.h"
#include "dataplane/server/server_options.h"
#include "dataplane/server/signal_loop.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

// --check-config: what a start would say of the policy files.
int CheckPolicy(const v1::Bootstrap& config) {
  std::vector<std::string> warnings;
  const absl::Status status = ConfigClient::CheckPolicyFiles(config, &warnings);
  for (const std::string& warning : warnings) std::fprintf(stderr, "warning: %s\n", warning.c_str());
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return 1;
}

int Fail(const absl::Status& status, int code) {
  spdlog::critical("{}", std::string(status.message()));
  spdlog::default_logger()->flush();
  return code;
}

int Run(int argc, char** argv) {
  const DaemonArguments arguments = ParseDaemonArguments(
      argc, argv, "gateway-dataplane", "The gateway's proxy: forwards HTTP by the policy of its control plane.");
  if (arguments.check) return CheckPolicy(arguments.config);
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
