// What the admin API's two ends agree on beside its proto.
#ifndef GATEWAY_COMMON_BASE_ADMIN_PROTOCOL_H_
#define GATEWAY_COMMON_BASE_ADMIN_PROTOCOL_H_

#include <cstddef>

namespace gateway {

// In a call's metadata: how many bytes of errors its client accepts, and the most that it gets. See PolicyErrors in
// admin.proto.
inline constexpr char kErrorBytesMetadata[] = "gateway-error-bytes-max";
inline constexpr size_t kErrorBytesAskedMax = 1 << 20;

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_ADMIN_PROTOCOL_H_
