// gateway-controlplane: policy, endpoints and the streams to the data planes. See server.h.
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "common/base/descriptors.h"
#include "common/base/log.h"
#include "common/base/version.h"
#include "common/config/bootstrap.h"
#include "controlplane/server.h"
#include "spdlog/spdlog.h"

namespace {

// Under the few seconds that an orchestrator or a person waits.
constexpr std::chrono::milliseconds kStopGrace{1500};

}  // namespace

int main(int argc, char** argv) {
  gateway::DaemonArguments arguments = gateway::ParseDaemonArguments(
      argc, argv, "gateway-controlplane", "Keeps policy, watches Consul, and tells the data planes what to serve.");
  if (arguments.exit_code) return *arguments.exit_code;
  gateway::InitLogging(arguments.config.logging(), "gateway-controlplane");

  // Before any thread is made, so that all of them leave the signals to this one.
  sigset_t ending;
  sigemptyset(&ending);
  sigaddset(&ending, SIGTERM);
  sigaddset(&ending, SIGINT);
  sigset_t handled = ending;
  for (const int each : {SIGHUP, SIGUSR1, SIGUSR2}) sigaddset(&handled, each);
  pthread_sigmask(SIG_BLOCK, &handled, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);  // past a limit of file size, writes fail like on a full disk

  (void)gateway::RaiseDescriptorLimit();  // the listeners' bounds follow what there is
  auto started = gateway::controlplane::ControlPlane::Start(arguments.config);
  if (!started.ok()) {
    fprintf(stderr, "gateway-controlplane: %s\n", std::string(started.status().message()).c_str());
    return 1;
  }
  std::unique_ptr<gateway::controlplane::ControlPlane> control_plane = *std::move(started);
  const auto with_port = [](const std::string& address, uint16_t port) {
    return address.substr(0, address.rfind(':') + 1) + std::to_string(port);
  };
  const gateway::v1::ControlPlaneSection& section = arguments.config.control_plane();
  spdlog::info("gateway-controlplane {} listening: admin {}, stream {}, metrics {}:{}; database '{}', revision {}",
               gateway::kVersion, with_port(section.admin_listen(), control_plane->admin_port()),
               with_port(section.stream_listen(), control_plane->stream_port()), arguments.config.metrics().host(),
               control_plane->metrics_port(), section.database(), control_plane->publisher().current()->revision);

  int signal_number = 0;
  while (true) {
    sigwait(&handled, &signal_number);
    if (sigismember(&ending, signal_number) == 1) break;
    spdlog::info("{}: nothing to reload; the control plane reads its files at start only",
                 signal_number == SIGHUP    ? "SIGHUP"
                 : signal_number == SIGUSR1 ? "SIGUSR1"
                                            : "SIGUSR2");
  }
  spdlog::info("{}: ending; once more ends at once", signal_number == SIGTERM ? "SIGTERM" : "SIGINT");
  std::thread impatient([&ending] {
    int again = 0;
    sigwait(&ending, &again);
    _exit(128 + again);
  });
  impatient.detach();  // waits for a signal that need not come
  control_plane->Stop(kStopGrace);
  spdlog::info("ended");
  spdlog::shutdown();
  return 0;
}
