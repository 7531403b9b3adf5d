// Endpoints as the control plane sends them: what Consul knows of services, and what operators have set.
#ifndef GATEWAY_DATAPLANE_STATE_ENDPOINT_TABLE_H_
#define GATEWAY_DATAPLANE_STATE_ENDPOINT_TABLE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "gateway/v1/config_stream.pb.h"

namespace gateway::dataplane {

// What operators have set for endpoints: v1::EndpointOverride, by its service and the endpoint's EndpointName.
struct OverrideTable {
  struct Override {
    v1::EndpointOverride::ActionCase action = v1::EndpointOverride::ACTION_NOT_SET;
    uint32_t weight = 0;
  };
  absl::flat_hash_map<std::pair<std::string, std::string>, Override> by_endpoint;
};

// Written by the configuration thread, read by its binds.
struct EndpointTable {
  std::string epoch;
  uint64_t version = 0;
  bool catalog_known = false;
  absl::flat_hash_map<std::string, v1::EndpointSet> sets;  // by KeyOfSet
  OverrideTable overrides;
  // Routes whose requests are counted for the control plane (v1::OperationsUpdate); at most 1,000.
  absl::flat_hash_set<std::string> watched_routes;
  // Those whose requests are counted by the sides of their split ("NAME/sides"), with the version of the Route; at most
  // 1,000.
  absl::flat_hash_map<std::string, uint64_t> watched_sides;
};

// "datacenter/service"; the agent's own datacenter is "".
std::string KeyOfSet(std::string_view datacenter, std::string_view service);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_STATE_ENDPOINT_TABLE_H_
