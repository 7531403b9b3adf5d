// How a body gets from a source to a sink: one loop for requests, responses and tunnels, and for bodies that are kept.
#ifndef GATEWAY_DATAPLANE_PROXY_RELAY_H_
#define GATEWAY_DATAPLANE_PROXY_RELAY_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "dataplane/http/stream.h"
#include "dataplane/net/event_loop.h"
#include "dataplane/net/task.h"

namespace gateway::dataplane {

enum class RelayEnd : uint8_t {
  kRunning,
  kComplete,
  kSourceGone,  // it was cut short, or its waits were cancelled
  kSourceStalled,
  kInvalid,   // its framing is wrong
  kTooLarge,  // past what its route allows
  kSinkGone,  // it takes no more
  kSinkStalled,
  kOverloaded,  // the buffer budget is spent
  kOutOfTime,
  kStopped,  // by the observer
};

// What is particular to one relay. Lives as long as it.
class RelayObserver {
 public:
  // The forms in which the payload need not be seen; asked before each read.
  virtual http::BodyForms Forms() = 0;
  // Sees each piece before it goes on. Any other end than kRunning ends the relay instead.
  virtual RelayEnd OnPiece(const http::BodyPiece& piece) = 0;
  // A piece has gone on after a wait.
  virtual void OnFlushed() {}
  // Until when a wait that began at `since` lasts: the source stalls then. Asked again when it is over: it may have
  // moved.
  virtual TimePoint ReadDeadline(TimePoint since) = 0;
  // Asked after each wait.
  virtual bool Stopped() const { return false; }

 protected:
  ~RelayObserver() = default;
};

struct RelayLimits {
  std::chrono::milliseconds write_stall;  // how long the sink may take nothing
  TimePoint until = TimePoint::max();     // the end of it all
};

inline constexpr size_t kRelayBytesPerTurnMax = 2 * 1024 * 1024;  // then the other connections have their turn

// Moves a body until it has ended, or cannot continue. Holds no memory of its own; the source gives back what it has
// while it waits. Backpressure is the sink's: nothing is read before it has taken what was read.
Task<RelayEnd> Relay(EventLoop* loop, http::BodySource* source, http::BodySink* sink, RelayObserver* observer,
                     RelayLimits limits);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_RELAY_H_
