// Who may call what of the admin API.
#ifndef GATEWAY_CONTROLPLANE_IDENTITY_RULES_H_
#define GATEWAY_CONTROLPLANE_IDENTITY_RULES_H_

#include "absl/strings/string_view.h"
#include "gateway/v1/admin.pb.h"

namespace gateway::controlplane {

struct CallRule {
  absl::string_view method;
  v1::Token::Role role;  // at least
  enum Effect {
    kReads,
    kChangesPolicy,  // of a bound editor, resource by resource (Scope); recorded with its revision
    kChangesFleet,   // no resource of anybody's: not for a bound editor; recorded by who does it
    kChangesTokens,  // recorded by who does it
  } effect;
};

// Null: nobody may call it. A test holds this against the service's descriptor.
const CallRule* RuleOf(absl::string_view method);

// "editor"; "" of none.
absl::string_view RoleName(v1::Token::Role role);
// ROLE_UNSPECIFIED where it is no role's name.
v1::Token::Role RoleNamed(absl::string_view name);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_IDENTITY_RULES_H_
