// One attempt to have an endpoint respond: what is measured of it while it lasts, and how it ended.
#ifndef GATEWAY_DATAPLANE_PROXY_ATTEMPT_H_
#define GATEWAY_DATAPLANE_PROXY_ATTEMPT_H_

#include <chrono>
#include <cstdint>

#include "common/base/time.h"
#include "dataplane/http/reason.h"

namespace gateway::dataplane {

// Times are of the attempt that is under way.
struct AttemptClock {
  TimePoint started{};
  TimePoint header_sent{};              // with what there was of the body
  TimePoint request_sent{};             // all of it
  TimePoint heard{};                    // of the endpoint, before the response's header was complete
  TimePoint header_read{};              // the response's
  bool response_begun = false;          // its header was read
  std::chrono::nanoseconds latency{0};  // what the endpoint took for the header
};

struct AttemptEnd {
  bool responded = false;  // a part of a response has reached the client: no other one can be sent
  Reason reason = Reason::kNone;
  const char* detail = "";
  bool stale = false;     // a kept connection that had ended before any byte of a response
  bool refused = false;   // the endpoint has not looked at the request
  bool complete = false;  // the connection has carried the request and the response to their ends
  bool sent = false;      // bytes of the request may have reached the endpoint
  bool retried = false;   // a retry was granted
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_ATTEMPT_H_
