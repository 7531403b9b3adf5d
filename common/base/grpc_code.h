// The status codes of gRPC (grpc/doc/statuscodes.md), by number and by name.
#ifndef GATEWAY_COMMON_BASE_GRPC_CODE_H_
#define GATEWAY_COMMON_BASE_GRPC_CODE_H_

#include <optional>
#include <string_view>

namespace gateway {

inline constexpr int kGrpcCodesMax = 17;  // 0 to 16

enum GrpcCode : int {
  kGrpcOk = 0,
  kGrpcCancelled = 1,
  kGrpcUnknown = 2,
  kGrpcDeadlineExceeded = 4,
  kGrpcPermissionDenied = 7,
  kGrpcResourceExhausted = 8,
  kGrpcUnimplemented = 12,
  kGrpcInternal = 13,
  kGrpcUnavailable = 14,
  kGrpcDataLoss = 15,
  kGrpcUnauthenticated = 16,
};

// "unavailable"; "unknown" for a code that gRPC does not have.
std::string_view GrpcCodeName(int code);
// Of such a name.
std::optional<int> GrpcCodeOf(std::string_view name);

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_GRPC_CODE_H_
