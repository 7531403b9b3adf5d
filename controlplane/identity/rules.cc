#include "controlplane/identity/rules.h"

#include <utility>

namespace gateway::controlplane {
namespace {

constexpr CallRule kRules[] = {
    {"Apply", v1::Token::EDITOR, CallRule::kChangesPolicy},
    {"Get", v1::Token::VIEWER, CallRule::kReads},
    {"List", v1::Token::VIEWER, CallRule::kReads},
    {"Delete", v1::Token::EDITOR, CallRule::kChangesPolicy},
    {"History", v1::Token::VIEWER, CallRule::kReads},
    {"ResourceHistory", v1::Token::VIEWER, CallRule::kReads},
    {"Backup", v1::Token::ADMIN, CallRule::kReads},  // with hashes of secrets
    {"Export", v1::Token::ADMIN, CallRule::kReads},  // with hashes of secrets
    {"Lint", v1::Token::VIEWER, CallRule::kReads},
    {"GetRevision", v1::Token::VIEWER, CallRule::kReads},
    {"Rollback", v1::Token::OPERATOR, CallRule::kChangesPolicy},
    {"DecideChange", v1::Token::EDITOR, CallRule::kChangesPolicy},  // of a bound editor: of its own changes
    {"DecideCanary", v1::Token::OPERATOR, CallRule::kChangesPolicy},
    {"GetChange", v1::Token::VIEWER, CallRule::kReads},
    {"Watch", v1::Token::VIEWER, CallRule::kReads},
    {"ListDataPlanes", v1::Token::VIEWER, CallRule::kReads},
    {"ForgetDataPlanes", v1::Token::OPERATOR, CallRule::kChangesFleet},
    {"AcceptHistory", v1::Token::ADMIN, CallRule::kChangesFleet},
    {"Rollout", v1::Token::VIEWER, CallRule::kReads},
    {"ListEndpoints", v1::Token::VIEWER, CallRule::kReads},
    {"ListBreakers", v1::Token::VIEWER, CallRule::kReads},
    {"ListLimits", v1::Token::VIEWER, CallRule::kReads},
    {"GetServerInfo", v1::Token::VIEWER, CallRule::kReads},
    {"SetEndpoint", v1::Token::OPERATOR, CallRule::kChangesFleet},
    {"DecideEndpoints", v1::Token::OPERATOR, CallRule::kChangesFleet},
    {"ListEndpointHistory", v1::Token::VIEWER, CallRule::kReads},
    {"SetDrain", v1::Token::OPERATOR, CallRule::kChangesFleet},
    {"SetLogLevel", v1::Token::OPERATOR, CallRule::kChangesFleet},
    {"Diagnose", v1::Token::ADMIN, CallRule::kReads},  // with bootstrap files
    {"CreateToken", v1::Token::ADMIN, CallRule::kChangesTokens},
    {"ListTokens", v1::Token::ADMIN, CallRule::kReads},
    {"RevokeToken", v1::Token::ADMIN, CallRule::kChangesTokens},
    {"CreateJoinToken", v1::Token::ADMIN, CallRule::kChangesTokens},
    {"ListAudit", v1::Token::ADMIN, CallRule::kReads},
};

constexpr std::pair<v1::Token::Role, absl::string_view> kRoleNames[] = {{v1::Token::VIEWER, "viewer"},
                                                                        {v1::Token::OPERATOR, "operator"},
                                                                        {v1::Token::EDITOR, "editor"},
                                                                        {v1::Token::ADMIN, "admin"}};

}  // namespace

const CallRule* RuleOf(absl::string_view method) {
  for (const CallRule& rule : kRules) {
    if (rule.method == method) return &rule;
  }
  return nullptr;
}

absl::string_view RoleName(v1::Token::Role role) {
  for (const auto& [each, name] : kRoleNames) {
    if (each == role) return name;
  }
  return "";
}

v1::Token::Role RoleNamed(absl::string_view name) {
  for (const auto& [role, each] : kRoleNames) {
    if (each == name) return role;
  }
  return v1::Token::ROLE_UNSPECIFIED;
}

}  // namespace gateway::controlplane
