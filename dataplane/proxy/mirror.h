// Copies of requests, whose responses are discarded.
#ifndef GATEWAY_DATAPLANE_PROXY_MIRROR_H_
#define GATEWAY_DATAPLANE_PROXY_MIRROR_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "dataplane/proxy/exchange_resources.h"
#include "dataplane/proxy/request_context.h"

namespace gateway::dataplane {

inline constexpr int kMirrorsMax = 256;  // copies under way, of a worker
inline constexpr size_t kMirrorBodyBytesMax = 64 * 1024;

// Adds a part of the body to the copy. Past kMirrorBodyBytesMax the copies are dropped, and counted. REQUIRES:
// mirror.pending.
void CopyForMirrors(std::string_view payload, RequestContext* context, WorkerShard* metrics);

// Sends the copies, once, when all of the request is here: they leave while the request itself waits for its response.
// Returns at once; each runs by itself, within its service's timeouts, and failures are only counted. `attempt`: see
// BuildRequest.
void StartMirrors(uint32_t attempt, ExchangeResources* resources, RequestContext* context);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_MIRROR_H_
