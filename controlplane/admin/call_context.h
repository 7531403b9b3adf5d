// Who makes a call, and how it identifies itself.
#ifndef GATEWAY_CONTROLPLANE_ADMIN_CALL_CONTEXT_H_
#define GATEWAY_CONTROLPLANE_ADMIN_CALL_CONTEXT_H_

#include <string>

#include "absl/status/status.h"
#include "controlplane/identity/caller.h"
#include "controlplane/publish/publisher.h"
#include "gateway/v1/admin.pb.h"

namespace gateway::controlplane {

// Who is said to have done it, for the log: as authenticated, or as claimed.
const std::string& DoerOf(const Caller& caller, const v1::ChangeContext& context);

Author AuthorOf(const Caller& caller);

// InvalidArgument: its actor or its comment is too long.
absl::Status CheckContext(const v1::ChangeContext& context);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_ADMIN_CALL_CONTEXT_H_
