// Files of mode 0600.
#ifndef GATEWAY_TOOLS_GATEWAYCTL_PRIVATE_FILE_H_
#define GATEWAY_TOOLS_GATEWAYCTL_PRIVATE_FILE_H_

#include <string>

#include "absl/status/status.h"

namespace gateway::ctl {

// Writes `text` to `path`, which nobody else can read from then on, also where the file was there before.
absl::Status WritePrivately(const std::string& path, const std::string& text);

}  // namespace gateway::ctl

#endif  // GATEWAY_TOOLS_GATEWAYCTL_PRIVATE_FILE_H_
