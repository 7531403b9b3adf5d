// Copies of requests, whose answers nobody waits for.
#ifndef GATEWAY_DATAPLANE_PROXY_MIRROR_H_
#define GATEWAY_DATAPLANE_PROXY_MIRROR_H_

#include <memory>
#include <string>

#include "dataplane/server/worker.h"
#include "dataplane/state/serving_state.h"

namespace gateway::dataplane {

// The endpoint for the next copy; null: there is none.
std::shared_ptr<Endpoint> PickMirror(const BoundService& service, Worker* worker);

// Sends `request` (a whole one) to `endpoint` and throws its answer away, within the service's timeouts; then the
// connection is kept for others. Returns at once; what goes wrong is counted, and nobody's business else. `head_only`:
// the answer has no body. On the worker; counted in Worker::mirrors until it is over.
void SendMirror(Worker* worker, std::shared_ptr<const BoundService> service, std::shared_ptr<Endpoint> endpoint,
                std::string request, bool head_only);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_MIRROR_H_
