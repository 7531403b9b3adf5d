// What a data plane may be called: a name that its certificate has.
#ifndef GATEWAY_CONTROLPLANE_IDENTITY_DATA_PLANE_NAME_H_
#define GATEWAY_CONTROLPLANE_IDENTITY_DATA_PLANE_NAME_H_

#include <string>

#include "absl/status/status.h"
#include "grpcpp/security/auth_context.h"

namespace gateway::controlplane {

// The PEM of the client's certificate; "": it has shown none.
std::string PeerCertificate(const grpc::AuthContext& context);

// PermissionDenied if the client has shown no certificate.
absl::Status CheckHasCertificate(const grpc::AuthContext& context);

// PermissionDenied unless `name` is a DNS or URI name in `certificate` (PEM), byte by byte: wildcards name nobody.
absl::Status CheckDataPlaneName(const std::string& name, const std::string& certificate);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_IDENTITY_DATA_PLANE_NAME_H_
