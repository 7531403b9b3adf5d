// The last good configuration on disk, for a start without a control plane.
#ifndef GATEWAY_DATAPLANE_CONFIG_CONFIG_CACHE_H_
#define GATEWAY_DATAPLANE_CONFIG_CONFIG_CACHE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gateway/v1/config_stream.pb.h"

namespace gateway::dataplane {

// Two files in one directory, policy.cache and endpoints.cache, each a full update after a header with format version,
// length and checksum. Replaced as a whole (written beside, synced, renamed), mode 0600. Owns the writing thread: a
// slow or full disk delays nothing and costs only the copy.
class ConfigCache {
 public:
  static constexpr uint64_t kFileBytesMax = 512ull << 20;

  // Creates the directory (0700) if it is missing.
  explicit ConfigCache(std::string directory);
  ~ConfigCache();  // writes pending data
  ConfigCache(const ConfigCache&) = delete;
  ConfigCache& operator=(const ConfigCache&) = delete;

  // The stored updates. A file that is damaged, truncated or of a newer format is skipped and reported in `problems`.
  struct Content {
    std::optional<v1::PolicyUpdate> policy;
    std::optional<v1::EndpointsUpdate> endpoints;
  };
  Content Load(std::vector<std::string>* problems) const;

  // Written soon; of several waiting ones only the newest is written. Failures are logged and counted. Thread-safe.
  void Save(v1::PolicyUpdate policy);
  void Save(v1::EndpointsUpdate endpoints);

  uint64_t write_errors() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_CONFIG_CONFIG_CACHE_H_
