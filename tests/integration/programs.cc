#include "tests/integration/programs.h"

#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <stdexcept>

#include "common/base/text.h"
#include "tests/fixtures/ports.h"
#include "tests/fixtures/transport.h"
#include "tests/fixtures/wait_for.h"

namespace gateway::fixtures {
namespace {

void AddSets(const std::vector<std::string>& sets, std::vector<std::string>* argv) {
  for (const std::string& each : sets) {
    argv->push_back("--set");
    argv->push_back(each);
  }
}

// Runs `preparation` in a shell, which then becomes the program of `argv`.
void Prepare(const std::string& preparation, std::vector<std::string>* argv) {
  const std::string shell[] = {"sh", "-c", preparation + R"(; exec "$@")", "sh"};
  argv->insert(argv->begin(), std::begin(shell), std::end(shell));
}

}  // namespace

DataPlane::DataPlane(Options options) {
  port_ = options.port != 0 ? options.port : FreePort();
  metrics_port_ = options.metrics_port != 0 ? options.metrics_port : FreePort();
  std::string config = Concat("server:\n  port: ", port_, "\n  workers: ", options.workers, "\n  drain_delay: 0s\n");
  if (!options.listeners.empty()) config += "  listeners:\n";
  for (const std::string& each : options.listeners) Append(&config, "    - { address: \"", each, "\" }\n");
  if (options.listener.empty() && options.listeners.empty() && options.sockets.empty() &&
      TestTransport().clients != Protocol::kHttp1) {
    options.listener = Concat("tls: { certificates: [{ cert: \"", TestCertificate().cert, "\", key: \"",
                              TestCertificate().key, "\" }] }");
    RawClient::SpeakAt(port_, TestTransport().clients);
  }
  if (!options.proxy_protocol.empty() || !options.listener.empty()) {
    Append(&config, "  listeners: [{ address: \"127.0.0.1:", port_, "\"",
           options.proxy_protocol.empty() ? "" : ", proxy_protocol: ", options.proxy_protocol,
           options.listener.empty() ? "" : ", ", options.listener, " }]\n");
  }
  Append(&config, "metrics: { port: ", metrics_port_, " }\ndata_plane:\n  name: ", options.name, "\n");
  if (!options.policy.empty()) {
    Append(&config, "  policy_files: [\"", directory_.Write("policy.yaml", ForTestTransport(options.policy)), "\"]\n");
  } else {
    config += "  control_planes: [";
    for (const uint16_t port : options.control_planes) Append(&config, "\"127.0.0.1:", port, "\", ");
    config += "]\n";
  }
  if (!options.cache_dir.empty()) Append(&config, "  cache_dir: \"", options.cache_dir, "\"\n");
  std::vector<std::string> argv = {BinaryPath("gateway-dataplane"), "--config",
                                   directory_.Write("gateway.yaml", config)};
  AddSets(options.sets, &argv);
  if (options.descriptors > 0) Prepare(Concat("ulimit -n ", options.descriptors), &argv);
  if (!options.output.empty()) Prepare(Concat("exec > ", options.output, " 2>&1"), &argv);
  process_ = std::make_unique<Process>(
      Process::Options{.argv = std::move(argv), .env = std::move(options.env), .listen_sockets = options.sockets});
  const bool ready = !options.wait_line.empty()
                         ? process_->WaitForLine(options.wait_line, Timeout(30'000)).has_value()
                         : WaitFor(
                               [&] {
                                 if (!process_->running()) return true;
                                 const auto response =
                                     Fetch(metrics_port_, "GET", options.wait_ready ? "/ready" : "/health");
                                 return response.ok() && response->status == 200;
                               },
                               Timeout(30'000));
  if (!ready || !process_->running())
    throw std::runtime_error("the data plane did not become ready: " + process_->output());
}

std::vector<nlohmann::json> DataPlane::LogLines(size_t count) {
  std::vector<nlohmann::json> lines;
  (void)WaitFor([&] {  // the caller checks how many there are
    lines.clear();
    std::istringstream out(process_->out());
    for (std::string line; std::getline(out, line);) {
      auto parsed = nlohmann::json::parse(line, nullptr, false);
      if (!parsed.is_discarded() && parsed.value("path", "") != "/health") lines.push_back(std::move(parsed));
    }
    return lines.size() >= count;
  });
  return lines;
}

std::string DataPlane::Metrics() {
  const auto response = Fetch(metrics_port_, "GET", "/metrics");
  return response.ok() ? response->body : "";
}

double DataPlane::Metric(const std::string& series) {
  std::istringstream page(Metrics());
  for (std::string line; std::getline(page, line);) {
    if (line.starts_with(series + " ")) return std::stod(line.substr(series.size() + 1));
  }
  return -1;
}

ControlPlane::ControlPlane(Options options) : options_(std::move(options)) {
  const auto ports = FreePorts(3);
  admin_port_ = ports[0];
  stream_port_ = ports[1];
  metrics_port_ = ports[2];
  directory_.Write("gateway.yaml",
                   Concat("consul: { address: \"", options_.consul,
                          "\" }\ncontrol_plane:\n  admin_listen: \"127.0.0.1:", admin_port_,
                          "\"\n  stream_listen: \"127.0.0.1:", stream_port_, "\"\n  database: \"",
                          directory_.File("gateway.db"), "\"\n  metrics_port: ", metrics_port_, "\n", options_.config));
  Start();
}

void ControlPlane::Start() {
  std::vector<std::string> argv = {BinaryPath("gateway-controlplane"), "--config", directory_.File("gateway.yaml")};
  AddSets(options_.sets, &argv);
  if (!options_.output.empty()) Prepare(Concat("exec > ", options_.output, " 2>&1"), &argv);
  if (options_.descriptors > 0) Prepare(Concat("ulimit -n ", options_.descriptors), &argv);
  process_ = std::make_unique<Process>(argv);
  const bool up = WaitFor(
      [&] {
        if (!process_->running()) return true;
        return Ctl({"version"}).exit.code == 0;
      },
      Timeout(30'000));
  if (!up || !process_->running()) throw std::runtime_error("the control plane did not come up: " + process_->output());
}

void ControlPlane::SetAside(const std::string& file) {
  if (file.empty()) return;
  std::error_code none;  // it need not exist
  std::filesystem::rename(directory_.File(file), directory_.File(file + ".aside"), none);
}

Process::Result ControlPlane::Ctl(std::vector<std::string> arguments, std::string input) {
  Process::Options options;
  options.argv = {BinaryPath("gatewayctl"), "--server", Concat("127.0.0.1:", admin_port_)};
  options.argv.insert(options.argv.end(), options_.ctl.begin(), options_.ctl.end());
  options.argv.insert(options.argv.end(), arguments.begin(), arguments.end());
  options.input = std::move(input);
  return Process::Run(std::move(options));
}

Process::Result ControlPlane::Apply(const std::string& policy, std::vector<std::string> more) {
  std::vector<std::string> arguments = {"apply", "-f", directory_.Write("apply.yaml", ForTestTransport(policy))};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return Ctl(std::move(arguments));
}

std::string ServicePolicyYaml(const std::vector<std::string>& addresses, std::string_view service_fields,
                              std::string_view route_fields) {
  std::string yaml = "kind: Service\nname: svc\nstatic:\n";
  for (const std::string& address : addresses) Append(&yaml, "  - { address: \"", address, "\" }\n");
  Append(&yaml, service_fields, "\n---\nkind: Route\nname: svc\nmatch: { path: { prefix: /svc } }\nservice: svc\n",
         route_fields, "\n");
  return yaml;
}

}  // namespace gateway::fixtures
