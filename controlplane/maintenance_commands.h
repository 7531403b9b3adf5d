// check-db, restore and reseal on gateway-controlplane's command line.
#ifndef GATEWAY_CONTROLPLANE_MAINTENANCE_COMMANDS_H_
#define GATEWAY_CONTROLPLANE_MAINTENANCE_COMMANDS_H_

#include <vector>

#include "common/config/bootstrap.h"

namespace gateway::controlplane {

const std::vector<DaemonCommand>& MaintenanceCommands();

// Runs `arguments.command`, one of these, instead of serving. Results go to standard output, errors to standard error.
// Returns the exit code: 0 done, 1 failed, 3 a control plane has the database open.
int Maintain(const DaemonArguments& arguments);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_MAINTENANCE_COMMANDS_H_
