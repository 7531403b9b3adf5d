#include "controlplane/maintenance_commands.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/policy/builtin.h"
#include "controlplane/maintenance.h"

namespace gateway::controlplane {
namespace {

// Who runs it, for the audit.
std::string LoginName() {
  const char* user = getenv("USER");
  return user != nullptr && *user != '\0' ? std::string(user) : absl::StrCat("uid ", getuid());
}

}  // namespace

const std::vector<DaemonCommand>& MaintenanceCommands() {
  static const std::vector<DaemonCommand>* const commands = new std::vector<DaemonCommand>{
      {"check-db",
       "Checks the database, or a backup, without changing it: every row, the sealing key, the policy. Exit code 1: it "
       "is not sound; 3: a control plane has it open",
       "[BACKUP]"},
      {"restore",
       "Puts a backup in the place of the database, which is kept beside it; begins a new history. Exit code 3: a "
       "control plane has it open",
       "BACKUP", "--accept-history",
       "Data planes that serve another history take this one at once, without gatewayctl accept-history"},
      {"reseal", "Makes a new sealing key and seals all private keys again. Exit code 3: a control plane has it open"}};
  return *commands;
}

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

}  // namespace gateway::controlplane
