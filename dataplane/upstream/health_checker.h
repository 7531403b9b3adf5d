// Active checks of endpoints, once for the data plane, independent of the number of workers.
#ifndef GATEWAY_DATAPLANE_UPSTREAM_HEALTH_CHECKER_H_
#define GATEWAY_DATAPLANE_UPSTREAM_HEALTH_CHECKER_H_

#include <sys/socket.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/time.h"
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
};
using HealthTargets = std::vector<HealthTarget>;

// Owns a thread with its own loop. Every check opens a connection, as a new request would. The first check of a new
// endpoint starts at once and decides; the second is at a random time within an interval, so that data planes that
// learn of an endpoint together do not check it in step.
class HealthChecker {
 public:
  static constexpr int kChecksMax = 128;  // at once; others wait for their turn
  static constexpr size_t kAnswerBytesMax = 16 * 1024;
  static constexpr std::chrono::milliseconds kTickInterval{100};

  // `tick` is called on the thread every kTickInterval, for other periodic work. May be null.
  explicit HealthChecker(std::function<void(TimePoint now)> tick = nullptr);
  ~HealthChecker();
  HealthChecker(const HealthChecker&) = delete;
  HealthChecker& operator=(const HealthChecker&) = delete;

  // From now on these are checked. Results of endpoints that were checked before are kept, also under another policy;
  // an endpoint that is no longer checked counts as healthy. Any thread.
  void Follow(HealthTargets targets);

  struct Row {
    std::string service;
    std::string endpoint;
    std::string failure;  // the newest failure: "connection refused", "status 503"
  };
  // The unhealthy ones, sorted. Thread-safe.
  std::vector<Row> Unhealthy() const;

  struct Count {
    std::string service;
    uint64_t passed = 0, failed = 0;
  };
  // Numbers of checks of the services that are checked. Thread-safe.
  std::vector<Count> Counts() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_UPSTREAM_HEALTH_CHECKER_H_
