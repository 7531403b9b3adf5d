// Responses of Consul's HTTP API, as our messages. Pure: text in, values out; no sockets, no clock.
//
// A response that isn't what the API documents (truncated, other types, over a limit) is an error as a whole: a failed
// read, never a smaller result. What one badly registered instance says wrong (no port, no address) only takes that
// instance out of service.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_DECODER_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_DECODER_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/v1/config_stream.pb.h"

namespace gateway::controlplane {

inline constexpr size_t kResponseBytesMax = 64 * 1024 * 1024;  // health/state/any of 2,000 services x 3 is 2.4 MB
inline constexpr size_t kResponseDepthMax = 32;                // Consul's own nest to 6
inline constexpr size_t kResponseValuesMax = 4'000'000;        // members and elements; bounds the parsed form's memory
inline constexpr size_t kInstancesMax = 20'000;                // of one service
inline constexpr size_t kCatalogServicesMax = 100'000;
inline constexpr size_t kIdBytesMax = 1024;   // "node/service-id"
inline constexpr size_t kNameBytesMax = 512;  // of a service
inline constexpr size_t kTagsMax = 256;       // of one instance; the rest is left out
inline constexpr size_t kTagBytesMax = 512;   // longer ones are left out
inline constexpr uint32_t kInstanceWeightMax = 65535;

// Checks, digested: equal digests mean the same checks with the same status and tags, whichever response has them.
// What a check merely prints is left out.
struct CheckDigests {
  std::map<std::string, uint64_t, std::less<>> services;  // by service name
  std::map<std::string, uint64_t, std::less<>> nodes;     // by node: its own checks, which concern all it runs
};

// /v1/health/service/NAME: every instance, sorted by id, unfiltered. Health is the worst of its checks, those of its
// node too; maintenance stands above critical. `weight` is Weights.Passing or Weights.Warning, and 0 for an instance
// that is critical, in maintenance, or whose address or port can't be used (`unusable` says why): an address is an IP
// address or a host name, without a port. The zone is `zone` of the service's meta, else its locality's, else the
// node's. `checks`, where given, gets the digests of the checks in the response: those of the service and of its nodes.
absl::StatusOr<std::vector<v1::Instance>> DecodeHealthService(std::string_view json, CheckDigests* checks = nullptr);

// /v1/catalog/services: names with all tags that their instances carry.
using CatalogListing = std::map<std::string, std::vector<std::string>, std::less<>>;
absl::StatusOr<CatalogListing> DecodeCatalogServices(std::string_view json);

// /v1/health/state/any, digested.
absl::StatusOr<CheckDigests> DecodeHealthState(std::string_view json);

// /v1/agent/services: what is registered with this agent, by service ID.
struct AgentService {
  std::string service;
  std::string address;
  int64_t port = 0;
  std::vector<std::string> tags;
  std::map<std::string, std::string> meta;
};
absl::StatusOr<std::map<std::string, AgentService>> DecodeAgentServices(std::string_view json);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_DECODER_H_
