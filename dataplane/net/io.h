// How waits and transfers end, on whatever carries them.
#ifndef GATEWAY_DATAPLANE_NET_IO_H_
#define GATEWAY_DATAPLANE_NET_IO_H_

#include <cstdint>

namespace gateway::dataplane {

enum class Wait : uint8_t {
  kReady,      // try again
  kTimeout,    // the deadline passed
  kCancelled,  // Cancel was called, or the peer reset the connection
};

enum class Io : uint8_t {
  kDone,   // bytes were moved
  kAgain,  // none for now: wait
  kEnd,    // the peer ended its side (reads only)
  kError,  // the connection is broken
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_NET_IO_H_
