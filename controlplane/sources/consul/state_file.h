// The last known endpoints on disk, for a restart while Consul is unreachable.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_STATE_FILE_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_STATE_FILE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/v1/config_stream.pb.h"

namespace gateway::controlplane {

inline constexpr size_t kStateFileBytesMax = 256 * 1024 * 1024;

using EndpointSets = std::vector<std::shared_ptr<const v1::EndpointSet>>;

// Replaces the whole file: after a crash at any moment there is the old one or the new one.
absl::Status WriteStateFile(const std::string& path, const EndpointSets& sets);

// NotFound if there is none; DataLoss if it is damaged, of another kind, or too long.
absl::StatusOr<EndpointSets> ReadStateFile(const std::string& path);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_STATE_FILE_H_
