// What Defaults has in common with a Route, whose fields it fills in.
#ifndef GATEWAY_COMMON_POLICY_KINDS_ROUTE_H_
#define GATEWAY_COMMON_POLICY_KINDS_ROUTE_H_

#include <string>

#include "common/policy/kinds/checks.h"
#include "common/policy/kinds/compilation.h"

namespace gateway {

// The names in `rate_limits`.
void CheckLimitList(const Report& report, const google::protobuf::RepeatedPtrField<std::string>& names);
void CheckLimitReferences(const Report& report, const google::protobuf::RepeatedPtrField<std::string>& names,
                          Compilation* compilation);

// Body: v1::Route, v1::Defaults.
template <typename Body>
void CheckRouteReferences(const Report& report, const Body& body, Compilation* compilation) {
  compilation->CheckOptionalReference<v1::Auth>(report, "auth", "auth", body.auth());
  compilation->CheckOptionalReference<v1::Cors>(report, "cors", "cors", body.cors());
  compilation->CheckOptionalReference<v1::IpAccess>(report, "access", "IP access", body.access());
  CheckLimitReferences(report, body.rate_limits(), compilation);
}

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_KINDS_ROUTE_H_
