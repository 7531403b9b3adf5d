// docs/policy-reference.md, as it was when this program was built.
#ifndef GATEWAY_TOOLS_GATEWAYCTL_POLICY_REFERENCE_H_
#define GATEWAY_TOOLS_GATEWAYCTL_POLICY_REFERENCE_H_

#include <string_view>

namespace gateway::ctl {

extern const std::string_view kPolicyReference;

}  // namespace gateway::ctl

#endif  // GATEWAY_TOOLS_GATEWAYCTL_POLICY_REFERENCE_H_
