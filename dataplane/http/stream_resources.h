// What a worker lends to the streams on it, whatever protocol they speak.
#ifndef GATEWAY_DATAPLANE_HTTP_STREAM_RESOURCES_H_
#define GATEWAY_DATAPLANE_HTTP_STREAM_RESOURCES_H_

#include <chrono>
#include <cstddef>

#include "dataplane/net/buffer_pool.h"
#include "dataplane/net/event_loop.h"
#include "dataplane/net/splice_pipe.h"

namespace gateway::dataplane::http {

struct StreamResources {
  EventLoop* loop;
  BufferPool* buffers;
  SplicePipePool* pipes;
  const bool* draining;  // connections end with the response in flight
  std::chrono::milliseconds header_timeout;
  size_t header_bytes_max;  // of a request
};

}  // namespace gateway::dataplane::http

#endif  // GATEWAY_DATAPLANE_HTTP_STREAM_RESOURCES_H_
