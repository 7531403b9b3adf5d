// The data plane's end of the lease stream: what fleet-wide limits need, and what they are given.
#ifndef GATEWAY_DATAPLANE_CONFIG_QUOTA_CLIENT_H_
#define GATEWAY_DATAPLANE_CONFIG_QUOTA_CLIENT_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "dataplane/config/control_plane_credentials.h"
#include "dataplane/limits/lease_bucket.h"
#include "prometheus/metric_family.h"

namespace gateway::dataplane {

// The fleet-wide limits in use, by name.
using LeaseTables = std::vector<std::pair<std::string, std::shared_ptr<LeaseTable>>>;

struct QuotaClientOptions {
  std::string name;  // of this data plane
  std::vector<std::string> control_planes;
  std::shared_ptr<ControlPlaneCredentials> credentials;  // null: cleartext
  std::function<LeaseTables()> tables;                   // thread-safe
  std::shared_ptr<LeaseLink> link;                       // its `wake` is set by the constructor
};

// Owns a thread, and, while there are fleet-wide limits, a stream to the first control plane that accepts it: each tick
// one message with what all keys need, sooner where a key runs dry. Reconnects with jitter (ReconnectDelay). At most
// kUnansweredMax messages are under way, so a stalled control plane holds up nothing; one that is silent for
// a lease TTL is left. Without control planes (policy files) the thread only forgets idle keys.
class QuotaClient {
 public:
  static constexpr uint64_t kUnansweredMax = 8;
  static constexpr size_t kKeysPerMessageMax = 2'000;

  explicit QuotaClient(QuotaClientOptions options);
  ~QuotaClient();  // stops

  void Start();
  void Stop();

  // Thread-safe.
  std::vector<prometheus::MetricFamily> Families() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_CONFIG_QUOTA_CLIENT_H_
