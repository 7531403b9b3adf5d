// The actors in history and audit that are the control plane itself.
#ifndef GATEWAY_CONTROLPLANE_IDENTITY_OWN_ACTORS_H_
#define GATEWAY_CONTROLPLANE_IDENTITY_OWN_ACTORS_H_

#include <string_view>

namespace gateway::controlplane {

inline constexpr char kBootstrapActor[] = "bootstrap";         // what a start changes
inline constexpr char kAcmeActor[] = "acme";                   // stores certificates from a CA
inline constexpr char kCanaryActor[] = "canary";               // takes the steps of canaries
inline constexpr char kControlPlaneActor[] = "control plane";  // ends a change that is not final

// No token is made with one of these names, no certificate with one is accepted, and no call without a credential may
// claim one.
inline bool IsOwnActor(std::string_view name) {
  return name == kBootstrapActor || name == kAcmeActor || name == kCanaryActor || name == kControlPlaneActor;
}

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_IDENTITY_OWN_ACTORS_H_
