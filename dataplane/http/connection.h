// What a client's connection lends to the protocol that it speaks, and how it ends, as the protocol decides.
#ifndef GATEWAY_DATAPLANE_HTTP_CONNECTION_H_
#define GATEWAY_DATAPLANE_HTTP_CONNECTION_H_

#include "dataplane/http/connection_info.h"
#include "dataplane/net/buffer_pool.h"
#include "dataplane/net/socket.h"

namespace gateway::dataplane::http {

struct Connection {
  explicit Connection(EventLoop* loop) : socket(loop) {}

  Socket socket;
  Buffer input;  // what was read and not used yet
  ConnectionInfo info;

  bool ending = false;           // no further request
  bool lingers = false;          // what the client still sends is read first, so that it does not reset the response
  bool gone = false;             // the client is gone: closed at once
  bool reset = false;            // the client shall see that its response was cut short
  bool empty_line_seen = false;  // of HTTP/1: it came alone, before a request, and is the one that is ignored
};

}  // namespace gateway::dataplane::http

#endif  // GATEWAY_DATAPLANE_HTTP_CONNECTION_H_
