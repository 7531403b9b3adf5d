// The request's body before a service is asked: what has come of it, how long it may be, and keeping it for retries.
#ifndef GATEWAY_DATAPLANE_PROXY_STAGES_BODY_H_
#define GATEWAY_DATAPLANE_PROXY_STAGES_BODY_H_

#include <chrono>
#include <cstdint>
#include <optional>

#include "common/policy/policy.h"
#include "dataplane/http/message.h"
#include "dataplane/http/stream.h"
#include "dataplane/net/buffer_pool.h"
#include "dataplane/net/event_loop.h"
#include "dataplane/net/task.h"
#include "dataplane/proxy/refusal.h"
#include "dataplane/proxy/request_context.h"

namespace gateway::dataplane {

// Takes what came with the header. Refuses invalid framing.
std::optional<Refusal> TakeBufferedBody(const http::Request& request, http::DownstreamStream* stream,
                                        RequestBody* body);

// Whether more than the route allows has come.
inline bool IsTooLarge(const RoutePolicy& route, uint64_t bytes) {
  return route.bounds_body && bytes > route.max_body_bytes;
}
// The same by what is known before the body has come. A chunked one may still become too long.
std::optional<Refusal> CheckBodySize(const RoutePolicy& route, const http::Request& request, const RequestBody& body);

struct BufferInput {
  EventLoop* loop;
  BufferPool* buffers;
  const RoutePolicy& route;
  std::chrono::milliseconds read_timeout;
  TimePoint until;
  uint64_t bytes_max;  // that are kept
};

// Waits until the whole body is in body->storage, if it is no longer than in.bytes_max: then it is replayable. A longer
// one flows as it comes, behind what was read of it. kClientClosed: there is no client to respond to.
Task<std::optional<Refusal>> BufferBody(const BufferInput& in, const http::Request& request,
                                        http::DownstreamStream* stream, RequestBody* body);

// Keeps a piece of a body that flows as it comes, for another attempt, as long as all of it fits into `bytes_max`.
// REQUIRES: body->keeps.
void KeepForRetry(const http::BodyPiece& piece, BufferPool* buffers, uint64_t bytes_max, RequestBody* body);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_STAGES_BODY_H_
