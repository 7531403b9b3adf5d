// What --check-config of the control plane does beyond the bootstrap file itself.
#ifndef GATEWAY_CONTROLPLANE_CHECK_FILES_H_
#define GATEWAY_CONTROLPLANE_CHECK_FILES_H_

#include "gateway/v1/bootstrap.pb.h"

namespace gateway::controlplane {

// Reads the certificates and keys that `config` names. Prints what is wrong to stderr; returns the exit code.
int CheckFiles(const v1::Bootstrap& config);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_CHECK_FILES_H_
