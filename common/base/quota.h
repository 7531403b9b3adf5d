// What a data plane and the control plane tell each other about the keys of fleet-wide rate limits; see quota.proto for
// the same on the wire. Plain values: both ends are pure objects that know no protobuf.
#ifndef GATEWAY_COMMON_BASE_QUOTA_H_
#define GATEWAY_COMMON_BASE_QUOTA_H_

#include <chrono>
#include <cstdint>
#include <string>

#include "common/base/key_shares.h"

namespace gateway {

enum class FleetAlgorithm : uint8_t { kSlidingWindow, kTokenBucket, kFixedWindow };

// A limit that all data planes share.
struct FleetLimit {
  uint32_t requests = 1000;
  std::chrono::milliseconds window{1000};
  uint32_t burst = 0;  // the token bucket's capacity; 0: `requests`
  FleetAlgorithm algorithm = FleetAlgorithm::kSlidingWindow;

  // What is there at first: the capacity of a token bucket, else what a window has.
  uint32_t capacity() const { return algorithm == FleetAlgorithm::kTokenBucket && burst > 0 ? burst : requests; }
  double per_second() const { return 1000.0 * requests / static_cast<double>(window.count() > 0 ? window.count() : 1); }
  bool operator==(const FleetLimit&) const = default;
};

// A lease ends if the other end is silent for this long.
inline constexpr std::chrono::milliseconds kLeaseTtl{2000};

// One key, as a data plane reports it. Counts are cumulative, so that a repeated message changes nothing.
struct KeyDemand {
  uint64_t id = 0;  // the data plane's number for the key, the same on all of its streams
  // Only in the stream's first demand for this key; else empty, and `first` is false.
  bool first = false;
  std::string key;
  ClientPrefix client;    // with `first`: whose request made the key
  uint64_t used = 0;      // requests let through since the data plane knows the key
  uint64_t returned = 0;  // leased tokens given back on this stream
  uint32_t target = 0;    // how many tokens it would like to hold now
  float rate = 0;         // requests per second, rejected ones included
  // With `first`: the requests let through in the last window, and over which time they came.
  uint64_t recent = 0;
  std::chrono::milliseconds recent_span{};
  bool dropped = false;  // the data plane forgets the key, and holds nothing
};

// The response to each demand.
struct KeyGrant {
  uint64_t id = 0;
  uint64_t granted = 0;  // tokens leased on this stream so far, what covered overdrafts included
  // There is not enough for everyone: nothing may be overdrawn before `wait` is over.
  bool scarce = false;
  std::chrono::milliseconds wait{};     // until the fleet has a token again; 0: it has
  std::chrono::milliseconds full_in{};  // until nothing counts any more
  uint64_t available = 0;               // tokens that no data plane holds
  bool unknown = false;                 // no such key on this stream: it is to be named again
  float share = 0;                      // tokens per second for this data plane while the control plane is away
};

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_QUOTA_H_
