// Whether a listener serves, asked as a client asks.
#ifndef GATEWAY_CONTROLPLANE_RPC_LISTENER_PROBE_H_
#define GATEWAY_CONTROLPLANE_RPC_LISTENER_PROBE_H_

#include <chrono>
#include <string>

#include "absl/status/status.h"
#include "controlplane/rpc/acceptor.h"

namespace gateway::controlplane {

// Asks gRPC's health check for `service` over a new connection through the acceptor's listening socket (ConnectToSelf),
// for at most `timeout`. An error names the address and what failed.
absl::Status ProbeListener(Acceptor* acceptor, const std::string& service, std::chrono::milliseconds timeout);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_RPC_LISTENER_PROBE_H_
