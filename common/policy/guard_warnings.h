// Routes whose `auth` or `access` a client gets around by another method.
#ifndef GATEWAY_COMMON_POLICY_GUARD_WARNINGS_H_
#define GATEWAY_COMMON_POLICY_GUARD_WARNINGS_H_

#include <span>
#include <string>
#include <vector>

#include "common/policy/route/route_table.h"

namespace gateway {

// Of one route; further hosts are as guarded as these or not, nearly always.
inline constexpr int kGuardedHostsTriedMax = 4;

// Appends one warning for each route with methods and a guard, beside which a method that no route lists would reach a
// service through a route without that guard. Found by matching a request made of the route's own conditions, so a
// warning is never wrong; a route with a regex is left out.
void WarnOfOpenMethods(const RouteTable& table, std::span<const RouteTable::Entry> entries,
                       std::vector<std::string>* warnings);

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_GUARD_WARNINGS_H_
