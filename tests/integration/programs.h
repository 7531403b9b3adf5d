// The three programs as an operator runs them: real processes, real files, real sockets.
#ifndef GATEWAY_TESTS_INTEGRATION_PROGRAMS_H_
#define GATEWAY_TESTS_INTEGRATION_PROGRAMS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/fixtures/process.h"
#include "tests/fixtures/raw_client.h"
#include "tests/fixtures/temp_dir.h"

namespace gateway::fixtures {

// A gateway-dataplane. Ready (serves a policy) when the constructor returns; otherwise throws std::runtime_error with
// its output.
class DataPlane {
 public:
  struct Options {
    std::string policy = {};                    // YAML; served without a control plane
    std::vector<uint16_t> control_planes = {};  // stream ports on loopback, without a policy
    std::string name = "dp-1";
    int workers = 2;
    std::vector<std::string> sets = {};  // "server.idle_timeout=1s"
    std::string cache_dir = {};
    std::string proxy_protocol = {};  // of its listener
    // Further fields of its listener in YAML flow style, "tls: { ... }"; with GATEWAY_TEST_TRANSPORT=tls in the
    // environment, a listener without any speaks TLS, and RawClient does to its port.
    std::string listener = {};
    std::vector<std::pair<std::string, std::string>> env = {};  // on top of the test's own
    bool wait_ready = true;
    uint16_t port = 0, metrics_port = 0;      // 0: free ones
    std::vector<std::string> listeners = {};  // addresses; none: all interfaces at `port`
    std::vector<int> sockets = {};            // passed to it as systemd does
    int descriptors = 0;                      // its limit; 0: as for the test
    std::string output = {};                  // a file or FIFO for its output; otherwise the test's
    // A log line that shows that it is up, instead of asking its metrics port: if another process still serves that.
    std::string wait_line = {};
  };
  explicit DataPlane(Options options);

  uint16_t port() const { return port_; }
  uint16_t metrics_port() const { return metrics_port_; }
  Process& process() { return *process_; }

  // The access log lines so far, without those of /health; waits until there are `count`.
  std::vector<nlohmann::json> LogLines(size_t count);
  // The value of a series ("api_requests_total{method=\"GET\",...}") at the metrics port; -1: not found.
  double Metric(const std::string& series);
  std::string Metrics();

 private:
  TempDir directory_;
  uint16_t port_ = 0;
  uint16_t metrics_port_ = 0;
  std::unique_ptr<Process> process_;
};

// A gateway-controlplane with a database in its own directory, on ports that stay the same over restarts.
class ControlPlane {
 public:
  struct Options {
    std::string consul = "";  // address; "": no Consul
    std::vector<std::string> sets = {};
    std::string output = {};            // as DataPlane's
    std::vector<std::string> ctl = {};  // what every gatewayctl gets: "--ca", FILE
    int descriptors = 0;                // as DataPlane's
  };
  explicit ControlPlane(Options options);
  ControlPlane() : ControlPlane(Options()) {}

  uint16_t admin_port() const { return admin_port_; }
  uint16_t stream_port() const { return stream_port_; }
  uint16_t metrics_port() const { return metrics_port_; }
  Process& process() { return *process_; }
  void Kill() { process_->Kill(); }
  void Start();  // after Kill; returns when it responds

  // Its stored endpoints from Consul for a restart, as on disk.
  std::string KeptEndpoints() const { return directory_.Read("gateway.db.endpoints"); }

  // A file beside the database, which need not be there, gets another name.
  void SetAside(const std::string& file);
  void Overwrite(const std::string& file, std::string_view contents) { directory_.Write(file, contents); }

  // gatewayctl with these arguments, towards this control plane.
  Process::Result Ctl(std::vector<std::string> arguments, std::string input = "");
  // `gatewayctl apply -f -`, expecting success.
  Process::Result Apply(const std::string& policy, std::vector<std::string> more = {});

 private:
  TempDir directory_;
  Options options_;
  uint16_t admin_port_ = 0;
  uint16_t stream_port_ = 0;
  uint16_t metrics_port_ = 0;
  std::unique_ptr<Process> process_;
};

// A Service `svc` on these addresses and a Route to it at /svc, as in the README; `service` and `route` are further
// fields in YAML flow or block style, with lines that are not indented.
std::string ServicePolicyYaml(const std::vector<std::string>& addresses, std::string_view service_fields = "",
                              std::string_view route_fields = "");

}  // namespace gateway::fixtures

#endif  // GATEWAY_TESTS_INTEGRATION_PROGRAMS_H_
