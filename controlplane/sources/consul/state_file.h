// The last-known endpoints on disk, so that a restart while Consul is away begins with something.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_STATE_FILE_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_STATE_FILE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/v1/admin.pb.h"
#include "gateway/v1/config_stream.pb.h"

namespace gateway::controlplane {

inline constexpr size_t kStateFileBytesMax = 256 * 1024 * 1024;

using EndpointSets = std::vector<std::shared_ptr<const v1::EndpointSet>>;

struct KeptEndpoints {
  EndpointSets sets;                      // as Consul had them
  EndpointSets frozen;                    // by operators
  std::vector<v1::EndpointEvent> events;  // oldest first
};

// Replaces the file whole: after a crash at any moment there is the old one or the new one.
absl::Status WriteStateFile(const std::string& path, const KeptEndpoints& kept);

// NotFound: the file does not exist. DataLoss if it is damaged in any way, of another kind, or too long.
absl::StatusOr<KeptEndpoints> ReadStateFile(const std::string& path);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_STATE_FILE_H_
