// gateway-controlplane: policy, endpoints and the streams to the data planes. See server.h.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/base/descriptors.h"
#include "common/base/log.h"
#include "common/base/service_manager.h"
#include "common/base/version.h"
#include "common/config/bootstrap.h"
#include "common/policy/builtin.h"
#include "controlplane/maintenance.h"
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

const std::vector<DaemonCommand> kCommands = {
    {"check-db",
     "Checks the database, or a backup, without changing it: every row, the sealing key, the policy. Exit code 1: it "
     "is "
     "not sound; 3: a control plane has it open",
     "[BACKUP]"},
    {"restore",
     "Puts a backup in the place of the database, which is kept beside it; begins a new history. Exit code 3: a "
     "control "
     "plane has it open",
     "BACKUP", "--accept-history",
     "Data planes that serve another history take this one at once, without gatewayctl accept-history"},
    {"reseal", "Makes a new sealing key and seals all private keys again. Exit code 3: a control plane has it open"}};

// Who runs it, for the audit.
std::string LoginName() {
  const char* user = getenv("USER");
  return user != nullptr && *user != '\0' ? std::string(user) : absl::StrCat("uid ", getuid());
}

// Instead of serving. Results go to standard output, errors to standard error.
int Maintain(const DaemonArguments& arguments) {
  const v1::Bootstrap& config = arguments.config;
  StoreOptions options;
  options.path = config.control_plane().database();
  options.sealing_key = config.control_plane().sealing_key();
  const PolicyContext policy{BuiltinResources(BuiltinLimitOf(config)), config.consul().service_name()};
  const auto fail = [](const absl::Status& status) {
    fprintf(stderr, "gateway-controlplane: %s\n", std::string(status.message()).c_str());
    return absl::IsUnavailable(status) ? 3 : 1;
  };
  if (arguments.command == "check-db") {
    const absl::StatusOr<DatabaseSummary> checked = CheckDatabase(options, policy, arguments.argument);
    if (!checked.ok()) return fail(checked.status());
    for (const std::string& warning : checked->warnings) fprintf(stderr, "warning: %s\n", warning.c_str());
    printf("%s is sound: schema %lld, history %s, revisions %llu to %llu, %zu resources\n",
           (arguments.argument.empty() ? options.path : arguments.argument).c_str(),
           static_cast<long long>(checked->schema), checked->epoch.c_str(),
           static_cast<unsigned long long>(checked->oldest_revision),
           static_cast<unsigned long long>(checked->revision), checked->resources);
    return 0;
  }
  if (arguments.command == "restore") {
    const absl::StatusOr<Restored> restored = RestoreDatabase(
        options, policy, arguments.argument, arguments.flag ? Takeover::kAccepted : Takeover::kUndecided, LoginName());
    if (!restored.ok()) return fail(restored.status());
    printf("%s is restored: revision %llu, %zu resources, as the new history %s\n", options.path.c_str(),
           static_cast<unsigned long long>(restored->summary.revision), restored->summary.resources,
           restored->epoch.c_str());
    if (!restored->kept.empty()) printf("the database of before is %s\n", restored->kept.c_str());
    if (!arguments.flag) {
      printf("data planes that serve another history keep it until gatewayctl accept-history\n");
    }
    return 0;
  }
  const absl::StatusOr<Store::Resealed> resealed = ResealDatabase(options, LoginName());
  if (!resealed.ok()) return fail(resealed.status());
  printf("%zu private keys are sealed under a new key\n", resealed->keys);
  printf("the old key is %s: backups of before need it; remove it with the last of them\n",
         resealed->replaced_key.c_str());
  return 0;
}

int Run(int argc, char** argv) {
  DaemonArguments arguments =
      ParseDaemonArguments(argc, argv, "gateway-controlplane",
                           "Keeps policy, watches Consul, and tells the data planes what to serve.", kCommands);
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
