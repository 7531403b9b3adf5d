// absl::Status to grpc::Status and the rich errors of the admin API.
#ifndef GATEWAY_CONTROLPLANE_RPC_GRPC_STATUS_H_
#define GATEWAY_CONTROLPLANE_RPC_GRPC_STATUS_H_

#include <vector>

#include "absl/status/status.h"
#include "gateway/v1/admin.pb.h"
#include "grpcpp/support/status.h"

namespace gateway::controlplane {

// INVALID_ARGUMENT: "`what`: 5 mistakes; Route/a: service: ...", carrying all of `errors`. Requires: errors is not
// empty.
absl::Status PolicyError(absl::string_view what, const std::vector<v1::PolicyError>& errors);

// The mistakes that `status` carries; empty: none.
std::vector<v1::PolicyError> PolicyErrorsOf(const absl::Status& status);

// How much of google.rpc.Status is sent: a client's metadata limit is 8 KiB unless it says otherwise, and past it the
// whole answer is lost to it.
inline constexpr size_t kErrorDetailsBytesMax = 5600;

// With a google.rpc.Status (BadRequest, PolicyErrors) in the details where `status` carries policy errors: as many of
// them as fit into `details_bytes_max`; the message says how many there are.
grpc::Status ToGrpc(const absl::Status& status, size_t details_bytes_max = kErrorDetailsBytesMax);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_RPC_GRPC_STATUS_H_
