// bench-catalog SERVICES ROUND: how soon a change in a Consul with this many services is served by every worker, and
// what the control plane costs while nothing changes. Prints samples for tools/bench: row, who, round, cost,
// requests/s, p50, p99, errors. Times in microseconds; CPU in microseconds per second.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/base/text.h"
#include "tests/fixtures/consul_agent.h"
#include "tests/fixtures/raw_client.h"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/programs.h"
#include "tests/soak/stage.h"

namespace gateway::bench {
namespace {

using namespace std::chrono_literals;
using fixtures::ConsulAgent;
using fixtures::ControlPlane;
using fixtures::DataPlane;
using fixtures::RawClient;
using fixtures::ScriptedUpstream;
using Clock = std::chrono::steady_clock;

constexpr int kBusyChanges = 40;
constexpr int kOtherChanges = 15;
constexpr auto kBusyPause = 400ms;    // the watcher polls one service four times a second
constexpr auto kOtherPause = 1500ms;  // so that a sweep finds a quiet time
constexpr auto kReported = 25s;       // of traffic, until the data plane has reported it and the watch has moved
constexpr auto kIdleTime = 15s;
constexpr size_t kConnections = 8;  // over two workers

void Print(const char* row, const char* who, int round, double cost, double p50, double p99, int errors) {
  std::printf("%s\t%s\t%d\t%.1f\t0\t%.1f\t%.1f\t%d\n", row, who, round, cost, p50, p99, errors);
}

double At(std::vector<double> sorted, double share) {
  std::sort(sorted.begin(), sorted.end());
  return sorted[std::min(sorted.size() - 1, static_cast<size_t>(share * static_cast<double>(sorted.size())))];
}

// Moves `service` between two endpoints that send their names, and waits until each connection sees it.
class Mover {
 public:
  Mover(ConsulAgent* consul, uint16_t port) : consul_(consul), one_(fixtures::Ok("one")), two_(fixtures::Ok("two")) {
    for (size_t i = 0; i < kConnections; ++i) clients_.push_back(std::make_unique<RawClient>(port));
  }
  // Microseconds; -1: it never arrived.
  double Move(const std::string& service) {
    const bool second = turn_++ % 2 == 1;
    const std::string wanted = second ? "two" : "one", target = Concat("/api/", service, "/x");
    const auto begin = Clock::now();
    if (!consul_->Register({.service = service, .port = second ? two_.port() : one_.port(), .status = ""}).ok())
      return -1;
    const auto deadline = begin + 10s;
    for (auto& client : clients_) {
      while (true) {
        const auto response = client->Request("GET", target);
        if (response.ok() && response->body == wanted) break;
        if (Clock::now() > deadline) return -1;
      }
    }
    return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
  }

 private:
  ConsulAgent* const consul_;
  ScriptedUpstream one_, two_;
  std::vector<std::unique_ptr<RawClient>> clients_;
  int turn_ = 0;
};

int Run(int services, int round) {
  auto started = ConsulAgent::Start();
  if (!started.ok()) {
    std::fprintf(stderr, "bench-catalog: %s\n", std::string(started.status().message()).c_str());
    return 1;
  }
  ConsulAgent& consul = **started;
  for (int i = 0; i < services; ++i) {
    if (!consul.Register({.service = Concat("s", i), .port = static_cast<uint16_t>(20'000 + i % 40'000), .status = ""})
             .ok()) {
      return 1;
    }
  }
  ControlPlane control({.consul = consul.address()});
  DataPlane gateway({.control_planes = {control.stream_port()}, .sets = {"access_log.path=/dev/null"}});
  const auto applied = control.Apply(
      "kind: Route\nname: api\nmatch: { path: { template: \"/api/{service}/**\" } }\n"
      "consul_service: { from: service, allow: [\"s*\"] }\n",
      {"--wait"});
  if (applied.exit.code != 0) return 1;

  Mover mover(&consul, gateway.port());
  // By name, this is the last service that would get a watch without traffic.
  const std::string busy = "s999", other = "s500";
  if (mover.Move(busy) < 0) return 1;
  std::atomic<bool> stop{false};
  std::thread traffic([&] {
    RawClient client(gateway.port());
    while (!stop) {
      if (!client.Request("GET", Concat("/api/", busy, "/x")).ok()) client = RawClient(gateway.port());
      std::this_thread::sleep_for(20ms);
    }
  });
  std::this_thread::sleep_for(kReported);
  const auto measure = [&](const std::string& service, int changes, std::chrono::milliseconds pause) {
    std::vector<double> times;
    int errors = 0;
    for (int i = 0; i < changes; ++i) {
      const double time = mover.Move(service);
      time < 0 ? static_cast<void>(++errors) : times.push_back(time);
      std::this_thread::sleep_for(pause);
    }
    if (times.empty()) times.push_back(1e9);
    return std::pair(times, errors);
  };
  const auto [busy_times, busy_errors] = measure(busy, kBusyChanges, kBusyPause);
  Print("consul", "busy", round, At(busy_times, 0.5), At(busy_times, 0.5), At(busy_times, 0.99), busy_errors);
  const auto [other_times, other_errors] = measure(other, kOtherChanges, kOtherPause);
  Print("consul", "any", round, At(other_times, 1), At(other_times, 0.5), At(other_times, 1), other_errors);
  Print("consul", "20ms", round, 20'000, 0, 0, 0);
  Print("consul", "1s", round, 1'000'000, 0, 0, 0);
  stop = true;
  traffic.join();
  std::this_thread::sleep_for(5s);
  const double before = soak::UsageOf(control.process().pid()).cpu_seconds;
  std::this_thread::sleep_for(kIdleTime);
  const double used = soak::UsageOf(control.process().pid()).cpu_seconds - before;
  Print("consul-idle", "controlplane", round, used * 1e6 / std::chrono::duration<double>(kIdleTime).count(), 0, 0, 0);
  Print("consul-idle", "one-percent", round, 10'000, 0, 0, 0);
  return 0;
}

}  // namespace
}  // namespace gateway::bench

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: bench-catalog SERVICES ROUND\n");
    return 2;
  }
  try {
    return gateway::bench::Run(std::max(1'000, std::atoi(argv[1])), std::atoi(argv[2]));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench-catalog: %s\n", error.what());
    return 1;
  }
}
