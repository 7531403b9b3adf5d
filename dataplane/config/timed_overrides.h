// What operators have set for endpoints, ended by this data plane's own clock.
#ifndef GATEWAY_DATAPLANE_CONFIG_TIMED_OVERRIDES_H_
#define GATEWAY_DATAPLANE_CONFIG_TIMED_OVERRIDES_H_

#include <vector>

#include "absl/time/time.h"
#include "dataplane/state/endpoint_table.h"
#include "gateway/v1/config_stream.pb.h"

namespace gateway::dataplane {

// Not thread-safe; never reads a clock. Bounded by what a control plane keeps (1,000).
class TimedOverrides {
 public:
  // All that are in force, as a control plane sends them: their `remaining` time starts at `now`.
  void Assign(const v1::OperationsUpdate& update, absl::Time now);
  // The same from the cache, where they have the time of their end.
  void Restore(const google::protobuf::RepeatedPtrField<v1::EndpointOverride>& overrides, absl::Time now);
  // Removes those whose time is over. True: there were some.
  bool EndDue(absl::Time now);
  // Of the first one that ends; InfiniteFuture: none does.
  absl::Time end() const { return end_; }

  OverrideTable Table() const;
  const std::vector<v1::EndpointOverride>& all() const { return all_; }

 private:
  void FindEnd();
  std::vector<v1::EndpointOverride> all_;
  absl::Time end_ = absl::InfiniteFuture();
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_CONFIG_TIMED_OVERRIDES_H_
