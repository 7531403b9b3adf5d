// The worker's seam: what a connection of any protocol calls for each request.
#ifndef GATEWAY_DATAPLANE_PROXY_SERVE_REQUEST_H_
#define GATEWAY_DATAPLANE_PROXY_SERVE_REQUEST_H_

#include "dataplane/http/stream.h"
#include "dataplane/net/task.h"
#include "dataplane/proxy/exchange_resources.h"

namespace gateway::dataplane {

// Responds to the stream's request, or rejection, and records it. Both have to outlive the task, which ends after it
// has called Finish. Does not throw.
Task<void> ServeRequest(ExchangeResources& resources, http::DownstreamStream& stream);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_SERVE_REQUEST_H_
