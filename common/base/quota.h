// What data planes and the control plane exchange about the keys of fleet-wide rate limits; quota.proto has the wire
// form. Plain values: both ends are pure objects without protobuf.
#ifndef GATEWAY_COMMON_BASE_QUOTA_H_
#define GATEWAY_COMMON_BASE_QUOTA_H_

#include <chrono>
#include <cstdint>
#include <string>

#include "common/base/key_shares.h"

namespace gateway {

enum class FleetAlgorithm : uint8_t { kSlidingWindow, kTokenBucket, kFixedWindow };

// A limit shared by all data planes.
struct FleetLimit {
  uint32_t requests = 1000;
  std::chrono::milliseconds window{1000};
  uint32_t burst = 0;  // the token bucket's capacity; 0: `requests`
  FleetAlgorithm algorithm = FleetAlgorithm::kSlidingWindow;

  // The initial amount: the capacity of a token bucket, otherwise the requests of a window.
  uint32_t capacity() const { return algorithm == FleetAlgorithm::kTokenBucket && burst > 0 ? burst : requests; }
  double per_second() const { return 1000.0 * requests / static_cast<double>(window.count() > 0 ? window.count() : 1); }
  bool operator==(const FleetLimit&) const = default;
};

// A lease becomes void after this long without a message from the other end.
inline constexpr std::chrono::milliseconds kLeaseTtl{2000};

// One key, as a data plane reports it. Counts are cumulative, so a repeated message changes nothing.
struct KeyDemand {
  uint64_t id = 0;  // the data plane's number for the key, the same on all of its streams
  // In a stream's first message about this key; otherwise empty, and `first` is false.
  bool first = false;
  std::string key;
  ClientPrefix client;    // with `first`: whose request made the key
  uint64_t used = 0;      // requests let through since the data plane knows the key
  uint64_t returned = 0;  // leased tokens given back on this stream
  uint32_t target = 0;    // how many tokens it would like to hold now
  float rate = 0;         // incoming requests for each second, including rejected ones
  // With `first`: the requests allowed in the last window, and over which time they came.
  uint64_t recent = 0;
  std::chrono::milliseconds recent_span{};
  bool dropped = false;  // the data plane forgets the key and holds no tokens
};

// The response to each demand.
struct KeyGrant {
  uint64_t id = 0;
  uint64_t granted = 0;  // tokens leased on this stream so far, including those that covered overdrafts
  // Demand exceeds supply: nothing may be overdrawn before `wait` is over.
  bool scarce = false;
  std::chrono::milliseconds wait{};     // until the fleet has a token again; 0: it has one
  std::chrono::milliseconds full_in{};  // until nothing counts any more
  uint64_t available = 0;               // tokens that are not leased
  bool unknown = false;                 // no such key on this stream: the data plane must name it again
  float share = 0;                      // tokens a second for this data plane while the control plane is unreachable
};

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_QUOTA_H_
