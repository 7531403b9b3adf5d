// How HTTP/2 connections of clients are served.
#ifndef GATEWAY_DATAPLANE_HTTP_HTTP2_SESSION_OPTIONS_H_
#define GATEWAY_DATAPLANE_HTTP_HTTP2_SESSION_OPTIONS_H_

#include <chrono>
#include <cstdint>

namespace gateway::dataplane::http2 {

// The bootstrap's server.http2, and the timeouts that hold for every protocol.
struct SessionOptions {
  uint32_t max_concurrent_streams = 128;
  uint32_t initial_window = 256 * 1024;
  uint32_t max_header_list = 64 * 1024;
  std::chrono::milliseconds header_timeout{10'000};  // of a header section, of SETTINGS and their acknowledgement
  std::chrono::milliseconds write_timeout{30'000};   // the longest stall of the connection
  std::chrono::milliseconds idle_timeout{60'000};    // without a stream; with streams, of silence before a PING
};

}  // namespace gateway::dataplane::http2

#endif  // GATEWAY_DATAPLANE_HTTP_HTTP2_SESSION_OPTIONS_H_
