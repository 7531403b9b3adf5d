// What --check-config reads besides the bootstrap file.
#ifndef GATEWAY_DATAPLANE_SERVER_CHECK_FILES_H_
#define GATEWAY_DATAPLANE_SERVER_CHECK_FILES_H_

#include "gateway/v1/bootstrap.pb.h"

namespace gateway::dataplane {

// Reads every file that `config` names (policy, certificates, keys) and prints the errors and warnings of a start to
// standard error. Returns the exit code: 1 if a file cannot be used.
int CheckFiles(const v1::Bootstrap& config);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_SERVER_CHECK_FILES_H_
