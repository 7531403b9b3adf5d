// What this build calls itself in --version, in the hello of a data plane and in gateway_build_info.
#ifndef GATEWAY_COMMON_BASE_VERSION_H_
#define GATEWAY_COMMON_BASE_VERSION_H_

namespace gateway {

extern const char kVersion[];  // "0.2.0"

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_VERSION_H_
