// What happened to the endpoints of each service, for operators.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_HISTORY_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_HISTORY_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "controlplane/sources/endpoint_source.h"

namespace gateway::controlplane {

// The event that takes a set from `before` (null: the first one) to `after`: which endpoints came, went and are
// different, at most kEventEndpointsMax of each, and how many serve. Its time and actor are the caller's.
inline constexpr int kEventEndpointsMax = 20;
v1::EndpointEvent DescribeChange(const v1::EndpointSet* before, const v1::EndpointSet& after);
// Whether it says anything about endpoints.
bool ChangesEndpoints(const v1::EndpointEvent& event);

// Thread-safe.
class EndpointHistory {
 public:
  static constexpr size_t kEventsOfServiceMax = 50;
  static constexpr size_t kEventsMax = 20'000;  // past either, the oldest go

  // Under its own key. What concerns all services, such as an outage of Consul, has the key of no service ("").
  void Add(v1::EndpointEvent event);
  // Of the service and of all, newest first; at most kEventsOfServiceMax.
  std::vector<v1::EndpointEvent> Of(const EndpointKey& key) const;
  // Oldest first.
  std::vector<v1::EndpointEvent> All() const;

 private:
  using Numbered = std::pair<uint64_t, v1::EndpointEvent>;
  mutable absl::Mutex mutex_;
  uint64_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<EndpointKey, std::deque<Numbered>> events_ ABSL_GUARDED_BY(mutex_);
  // Whose each of them is, oldest first.
  std::map<uint64_t, EndpointKey> order_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_HISTORY_H_
