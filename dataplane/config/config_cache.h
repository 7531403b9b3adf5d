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

// Two files in one directory, policy.cache and endpoints.cache, each a full update behind a header with format version,
// length and checksum. Replaced whole (written beside, synced, renamed), mode 0600. Owns the thread that writes: a disk
// that is slow or full holds up nothing and costs nothing but the copy.
class ConfigCache {
 public:
  static constexpr uint64_t kFileBytesMax = 512ull << 20;

  // Makes the directory (0700) if it is missing.
  explicit ConfigCache(std::string directory);
  ~ConfigCache();  // writes what is pending
  ConfigCache(const ConfigCache&) = delete;
  ConfigCache& operator=(const ConfigCache&) = delete;

  // What is there. A file that is damaged, cut short or of a newer format is left out, and told in `problems`.
  struct Content {
    std::optional<v1::PolicyUpdate> policy;
    std::optional<v1::EndpointsUpdate> endpoints;
  };
  Content Load(std::vector<std::string>* problems) const;

  // Soon on disk; of several that wait the newest is written. Failures are logged and counted. Thread-safe.
  void Save(v1::PolicyUpdate policy);
  void Save(v1::EndpointsUpdate endpoints);

  uint64_t write_errors() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_CONFIG_CONFIG_CACHE_H_
