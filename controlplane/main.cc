// gateway-controlplane: policy, endpoints and the streams to the data planes. See server.h.
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/base/descriptors.h"
#include "common/base/log.h"
#include "common/base/service_manager.h"
#include "common/base/version.h"
#include "common/config/bootstrap.h"
#include "controlplane/check_files.h"
#include "controlplane/maintenance_commands.h"
#include "controlplane/server.h"
#include "controlplane/signals.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

// Under the few seconds that an orchestrator or a person waits.
constexpr std::chrono::milliseconds kStopGrace{1500};

std::string WithPort(const std::string& address, uint16_t port) {
  return address.substr(0, address.rfind(':') + 1) + std::to_string(port);
}

int Run(int argc, char** argv) {
  DaemonArguments arguments = ParseDaemonArguments(
      argc, argv, "gateway-controlplane",
      "Keeps policy, watches Consul, and tells the data planes what to serve.\n"
      "With --check-config, the certificates and keys that the bootstrap file names are read, too.",
      MaintenanceCommands());
  if (arguments.check) return CheckFiles(arguments.config);
  if (arguments.exit_code) return *arguments.exit_code;
  if (!arguments.command.empty()) return Maintain(arguments);
  InitLogging(arguments.config.logging(), "gateway-controlplane");
  Signals signals;
  (void)RaiseDescriptorLimit();  // the listeners' bounds follow what there is
  auto started = ControlPlane::Start(arguments.config);
  if (!started.ok()) {
    fprintf(stderr, "gateway-controlplane: %s\n", std::string(started.status().message()).c_str());
    return 1;
  }
  const std::unique_ptr<ControlPlane> control_plane = *std::move(started);
  const v1::ControlPlaneSection& section = arguments.config.control_plane();
  spdlog::info("gateway-controlplane {} listening: admin {}, stream {}, metrics {}:{}; database '{}', revision {}",
               kVersion, WithPort(section.admin_listen(), control_plane->admin_port()),
               WithPort(section.stream_listen(), control_plane->stream_port()), arguments.config.metrics().host(),
               control_plane->metrics_port(), section.database(), control_plane->publisher().current()->revision);
  NotifyServiceManager("READY=1");
  signals.AwaitEnd([&control_plane] {
    if (!control_plane->ReloadCertificates()) spdlog::info("SIGHUP: no new certificates to use");
  });
  NotifyServiceManager("STOPPING=1");
  control_plane->Stop(kStopGrace);
  spdlog::info("ended");
  spdlog::shutdown();
  return 0;
}

}  // namespace
}  // namespace gateway::controlplane

int main(int argc, char** argv) { return gateway::controlplane::Run(argc, argv); }
