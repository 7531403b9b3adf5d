// What others need to know of Auths.
#ifndef GATEWAY_COMMON_POLICY_KINDS_AUTH_H_
#define GATEWAY_COMMON_POLICY_KINDS_AUTH_H_

#include <string_view>

#include "common/policy/kinds/compilation.h"

namespace gateway {

// Whether some Auth reads credentials from the header `name`, which is in lower case.
bool HoldsCredentials(const Documents<v1::Auth>& auths, std::string_view name);

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_KINDS_AUTH_H_
