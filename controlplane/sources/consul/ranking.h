// Which services have watches of their own where there are not enough for all. Pure.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_RANKING_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_RANKING_H_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace gateway::controlplane {

// A service that could have a watch.
struct WatchCandidate {
  size_t index = 0;        // the caller's
  uint32_t magnitude = 0;  // of its requests, in powers of two; 0: it gets none
  bool named = false;      // by policy
  bool watched = false;    // has a watch now
  bool settled = false;    // has had it for so long that it may lose it to a busier one
};

struct WatchChoice {
  std::vector<size_t> begin;  // of those that have none, the highest rank first
  std::vector<size_t> end;    // of those that have one, the lowest rank first
  // What is worth more elsewhere: who loses a watch, and who gets one for it; the most worth first.
  std::vector<std::pair<size_t, size_t>> swaps;
};

// For `watches` services: those that get requests, the busiest first; then those that policy names; then the rest, each
// in the order that they are given in. A watch costs the agent a connection for a minute after it has ended, so it
// changes hands only where that is worth it. One of a service that gets requests goes to one that gets four times as
// many, once it is settled; one of a service that gets none to one of a higher rank, and before it is settled only to
// one that has requests all the time.
WatchChoice ChooseWatched(const std::vector<WatchCandidate>& candidates, size_t watches);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_RANKING_H_
