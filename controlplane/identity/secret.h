// Secrets that the control plane makes for tokens.
#ifndef GATEWAY_CONTROLPLANE_IDENTITY_SECRET_H_
#define GATEWAY_CONTROLPLANE_IDENTITY_SECRET_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace gateway::controlplane {

// `prefix` and 256 random bits in web-safe base64.
absl::StatusOr<std::string> NewSecret(std::string_view prefix);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_IDENTITY_SECRET_H_
