// Conditions of a Retry.
#ifndef GATEWAY_COMMON_POLICY_KINDS_RETRY_H_
#define GATEWAY_COMMON_POLICY_KINDS_RETRY_H_

#include <string_view>

#include "common/policy/policy.h"

namespace gateway {

// Adds the condition that `text` names to `policy`; false: it names no condition.
bool AddRetryCondition(std::string_view text, RetryPolicy* policy);

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_KINDS_RETRY_H_
