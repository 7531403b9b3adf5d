// Where a route leads the path of a request: rewrites and redirects.
#ifndef GATEWAY_COMMON_POLICY_KINDS_ROUTE_TARGET_H_
#define GATEWAY_COMMON_POLICY_KINDS_ROUTE_TARGET_H_

#include <memory>
#include <string>
#include <vector>

#include "common/policy/kinds/checks.h"
#include "common/policy/policy.h"

namespace gateway {

// REQUIRES: the route has one.
void CheckRewrite(const Report& report, const v1::Route& route);
void CheckRedirect(const Report& report, const v1::Route& route);

// `variables` are those of the route's template (VariablesOf). REQUIRES: checked.
void CompileRewrite(const v1::Rewrite& rewrite, const std::vector<std::string>& variables, RoutePolicy* policy);
std::unique_ptr<const RedirectPolicy> CompileRedirect(const v1::Redirect& redirect,
                                                      const std::vector<std::string>& variables);

// Appends a warning for a redirect to another scheme alone, which leads those who have it back to itself.
void WarnOfRedirect(const v1::Route& route, std::vector<std::string>* warnings);

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_KINDS_ROUTE_TARGET_H_
