// Which version of the policy language a resource needs.
#ifndef GATEWAY_COMMON_POLICY_SCHEMA_VERSION_H_
#define GATEWAY_COMMON_POLICY_SCHEMA_VERSION_H_

#include <cstdint>

#include "gateway/v1/policy.pb.h"

namespace gateway {

// The lowest version of a data plane that is still sent policy: that of release 0.1.0.
inline constexpr uint32_t kSchemaVersionMin = 2;

// The lowest version, kSchemaVersionMin to kSchemaVersion, whose readers know every kind, field and enum value that
// `resource` sets. What an older reader does not know it would ignore: policy that a service is reached by TLS, say.
uint32_t RequiredSchemaVersion(const v1::Resource& resource);

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_SCHEMA_VERSION_H_
