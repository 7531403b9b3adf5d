// What both ends of the admin API agree on besides the proto.
#ifndef GATEWAY_COMMON_BASE_ADMIN_PROTOCOL_H_
#define GATEWAY_COMMON_BASE_ADMIN_PROTOCOL_H_

#include <cstddef>

namespace gateway {

// Metadata of a call: how many bytes of error details its client accepts, and the maximum it gets. See PolicyErrors in
// admin.proto.
inline constexpr char kErrorBytesMetadata[] = "gateway-error-bytes-max";
inline constexpr size_t kErrorBytesAskedMax = 1 << 20;

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_ADMIN_PROTOCOL_H_
