// The three programs as an operator runs them: real processes, files and sockets.
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

// A gateway-dataplane. The constructor returns once it is ready (serves a policy). Otherwise it throws
// std::runtime_error with the program's output.
class DataPlane {
 public:
  struct Options {
    // YAML; served without a control plane. Static Services speak what endpoints of TestTransport do.
    std::string policy = {};
    std::vector<uint16_t> control_planes = {};  // stream ports on loopback, if there is no policy
    std::string name = "dp-1";
    int workers = 2;
    std::vector<std::string> sets = {};  // for --set: "server.idle_timeout=1s"
    std::string cache_dir = {};
    std::string proxy_protocol = {};  // of its listener
    // Further fields of its listener in YAML flow style, "tls: { ... }". A listener without them speaks what clients of
    // TestTransport do; RawClient speaks the same to its port.
    std::string listener = {};
    std::vector<std::pair<std::string, std::string>> env = {};  // added to the test's own environment
    bool wait_ready = true;
    uint16_t port = 0, metrics_port = 0;      // 0: free ones
    std::vector<std::string> listeners = {};  // addresses; empty: all interfaces at `port`
    std::vector<int> sockets = {};            // passed by socket activation, as systemd does
    int descriptors = 0;                      // its limit of descriptors; 0: the test's
    std::string output = {};                  // a file or FIFO for all of its output; "": the test reads it
    // The log line to wait for, instead of /ready of its metrics port, which another process may still hold.
    std::string wait_line = {};
  };
  explicit DataPlane(Options options);

  uint16_t port() const { return port_; }
  uint16_t metrics_port() const { return metrics_port_; }
  Process& process() { return *process_; }

  // The lines of the access log so far, without those of /health; waits until there are `count`.
  std::vector<nlohmann::json> LogLines(size_t count);
  // The value of a series ("api_requests_total{method=\"GET\",...}") at the metrics port; -1: no such series.
  double Metric(const std::string& series);
  std::string Metrics();

 private:
  TempDir directory_;
  uint16_t port_ = 0;
  uint16_t metrics_port_ = 0;
  std::unique_ptr<Process> process_;
};

// A gateway-controlplane with its database in its own directory, on ports that stay the same over restarts.
class ControlPlane {
 public:
  struct Options {
    std::string consul = "";  // address; "": without Consul
    std::vector<std::string> sets = {};
    std::string config = {};            // further keys of `control_plane`, YAML lines indented by two
    std::string output = {};            // as for DataPlane
    std::vector<std::string> ctl = {};  // added to every gatewayctl call: "--ca", FILE
    int descriptors = 0;                // as for DataPlane
  };
  explicit ControlPlane(Options options);
  ControlPlane() : ControlPlane(Options()) {}

  uint16_t admin_port() const { return admin_port_; }
  uint16_t stream_port() const { return stream_port_; }
  uint16_t metrics_port() const { return metrics_port_; }
  Process& process() { return *process_; }
  void Kill() { process_->Kill(); }
  void Start();  // after Kill; returns once it responds

  // The file in which it keeps Consul's endpoints over a restart.
  std::string KeptEndpoints() const { return directory_.Read("gateway.db.endpoints"); }

  // Renames a file beside the database, if it exists.
  void SetAside(const std::string& file);
  void Overwrite(const std::string& file, std::string_view contents) { directory_.Write(file, contents); }

  // Runs gatewayctl with these arguments against this control plane.
  Process::Result Ctl(std::vector<std::string> arguments, std::string input = "");
  // `gatewayctl apply -f -`, expected to succeed.
  Process::Result Apply(const std::string& policy, std::vector<std::string> more = {});

 private:
  TempDir directory_;
  Options options_;
  uint16_t admin_port_ = 0;
  uint16_t stream_port_ = 0;
  uint16_t metrics_port_ = 0;
  std::unique_ptr<Process> process_;
};

// A Service `svc` with these addresses and a Route to it at /svc, as in the README. `service` and `route`: further
// fields in YAML flow or block style, without indentation.
std::string ServicePolicyYaml(const std::vector<std::string>& addresses, std::string_view service_fields = "",
                              std::string_view route_fields = "");

}  // namespace gateway::fixtures

#endif  // GATEWAY_TESTS_INTEGRATION_PROGRAMS_H_
