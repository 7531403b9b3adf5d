// Active checks of endpoints: once for the data plane, whatever the number of workers.
#ifndef GATEWAY_DATAPLANE_UPSTREAM_HEALTH_CHECKER_H_
#define GATEWAY_DATAPLANE_UPSTREAM_HEALTH_CHECKER_H_

#include <sys/socket.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/policy/policy.h"
#include "dataplane/net/tls/client_context.h"
#include "dataplane/policy/endpoint_state.h"

namespace gateway::dataplane {

// One endpoint of one service.
struct HealthTarget {
  std::string service;
  std::string endpoint;  // "10.0.0.7:8080"
  sockaddr_storage address{};
  socklen_t address_length = 0;
  std::shared_ptr<EndpointState> state;
  std::shared_ptr<const HealthCheckPolicy> policy;
  std::shared_ptr<tls::EndpointTls> tls = nullptr;  // null: cleartext
  UpstreamProtocol protocol = UpstreamProtocol::kHttp1;
};
using HealthTargets = std::vector<HealthTarget>;

// Owns a thread with a loop of its own. Every check is a connection of its own, so that it tries what a new request
// would need. Of a new endpoint the first check is made at once and decides; the second comes at a random time within
// an interval, so that data planes that learn of an endpoint together do not keep checking it together.
class HealthChecker {
 public:
  static constexpr int kChecksMax = 128;  // at once; others wait for their turn
  static constexpr size_t kAnswerBytesMax = 16 * 1024;
  static constexpr std::chrono::milliseconds kTickInterval{100};

  // `tick` is called on the thread at each kTickInterval: for what else has to be done by the clock. May be null.
  explicit HealthChecker(std::function<void(TimePoint now)> tick = nullptr);
  ~HealthChecker();
  HealthChecker(const HealthChecker&) = delete;
  HealthChecker& operator=(const HealthChecker&) = delete;

  // From now on these are checked. What is known of those that were checked before is kept, also under another policy;
  // one that is checked no longer counts as healthy. Any thread.
  void Follow(HealthTargets targets);

  struct Row {
    std::string service;
    std::string endpoint;
    std::string failure;  // of the last check that failed: "connection refused", "status 503"
  };
  // The unhealthy ones, sorted. Thread-safe.
  std::vector<Row> Unhealthy() const;

  struct Count {
    std::string service;
    uint64_t passed = 0, failed = 0;
  };
  // Checks made, of the services that are checked. Thread-safe.
  std::vector<Count> Counts() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_UPSTREAM_HEALTH_CHECKER_H_
