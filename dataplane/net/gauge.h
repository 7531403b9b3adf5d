// A number that one thread changes and any thread reads.
#ifndef GATEWAY_DATAPLANE_NET_GAUGE_H_
#define GATEWAY_DATAPLANE_NET_GAUGE_H_

#include <atomic>
#include <cstdint>

namespace gateway::dataplane {

// One writer, so that a change needs no locked instruction.
class Gauge {
 public:
  void Add(int64_t delta) { value_.store(value_.load(std::memory_order_relaxed) + delta, std::memory_order_relaxed); }
  int64_t Get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> value_{0};
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_NET_GAUGE_H_
