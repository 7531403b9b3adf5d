// soak: mixed traffic through real processes for a long time, and overload of every kind. tools/soak runs it; see
// --help.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "common/base/text.h"
#include "spdlog/fmt/fmt.h"
#include "tests/fixtures/raw_client.h"
#include "tests/fixtures/temp_dir.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/programs.h"
#include "tests/soak/churn.h"
#include "tests/soak/stage.h"
#include "tests/soak/traffic.h"
#include "tests/soak/upstream.h"

namespace gateway::soak {
namespace {

using fixtures::ControlPlane;
using fixtures::DataPlane;

constexpr int64_t kRssGrowthKibMax = 2048;  // after the warm-up; or 5 % of it, if that is more

template <typename... Arguments>
void Say(fmt::format_string<Arguments...> text, Arguments&&... arguments) {
  fmt::print(text, std::forward<Arguments>(arguments)...);
  fmt::print("\n");
  (void)std::fflush(stdout);  // a log of it is read while it runs
}

// The policy of second `n`: running services keep their endpoints (one is removed and added by policy, its process
// stays), one route comes and goes, fifty others change, and so do the breaker's thresholds.
std::string Policy(int n, const std::vector<Service>& living, const std::vector<Service>& dying, bool upgrades) {
  std::string policy = "kind: Service\nname: steady\nstatic:\n";
  Append(&policy, "  - { address: \"", living[0].address(), "\" }\n");
  if (n % 2 == 1) Append(&policy, "  - { address: \"", living[1].address(), "\" }\n");
  policy += "timeouts: { response: 20s }\n---\nkind: Service\nname: dying\nstatic:\n";
  for (const Service& each : dying) Append(&policy, "  - { address: \"", each.address(), "\" }\n");
  Append(&policy,
         "timeouts: { connect: 1s, response: 1500ms }\ncircuit_breaker: guard\n---\n"
         "kind: CircuitBreaker\nname: guard\ntimeout: 2s\nmax_concurrent_requests: ",
         50 + n % 10,
         "\nsleep_window: 1s\n---\n"
         "kind: RateLimit\nname: many\nkey: [client_ip]\nlimit: { requests: 100000000, window: 1m }\n");
  for (const char* each : {"steady", "dying"}) {
    Append(&policy, "---\nkind: Route\nname: ", each, "\nmatch: { path: { prefix: /", each, " } }\nservice: ", each,
           "\nrate_limits: [many]\n");
  }
  Append(&policy, "---\nkind: Route\nname: changing\nmatch: { path: { prefix: /", n % 4 < 2 ? "changing" : "changed",
         " } }\nservice: steady\n");
  if (upgrades) {
    policy += "---\nkind: Route\nname: ws\nmatch: { path: { prefix: /ws } }\nservice: steady\nupgrades: [websocket]\n";
  }
  for (int i = 0; i < 50; ++i) {
    Append(&policy, "---\nkind: Route\nname: other-", i, "\nmatch: { path: { prefix: /other/", n % 10, "/", i,
           " } }\nservice: steady\n");
  }
  return policy;
}

// KiB per minute, by least squares.
double Slope(const std::vector<std::pair<double, double>>& samples) {
  const auto n = static_cast<double>(samples.size());
  double x = 0, y = 0, xx = 0, xy = 0;
  for (const auto& [minutes, kib] : samples) {
    x += minutes;
    y += kib;
    xx += minutes * minutes;
    xy += minutes * kib;
  }
  const double spread = n * xx - x * x;
  return spread <= 0 ? 0 : (n * xy - x * y) / spread;
}

int RunSoak(double minutes, double pace, const std::string& upgrades_wish) {
  CatchStop();
  std::vector<Service> living(2);
  std::vector<Service> dying(2);
  ControlPlane control_plane;
  const fixtures::TempDir directory;
  const std::string log = directory.File("access.log");
  DataPlane::Options options;
  options.control_planes = {control_plane.stream_port()};
  options.wait_ready = false;
  options.sets = {"server.buffer_budget=64MiB", "access_log.path=" + log};
  DataPlane gateway(options);
  const pid_t pid = gateway.process().pid();

  bool upgrades = upgrades_wish != "off";
  auto applied = control_plane.Apply(Policy(0, living, dying, upgrades), {"--wait"});
  if (applied.exit.code != 0 && upgrades && upgrades_wish == "auto") {
    upgrades = false;
    applied = control_plane.Apply(Policy(0, living, dying, upgrades), {"--wait"});
  }
  if (applied.exit.code != 0) {
    Say("the policy is refused: {}{}", applied.out, applied.err);
    return 1;
  }
  const double upstream_before = gateway.Metric("gateway_upstream_connections");
  const int descriptors_before = UsageOf(pid).descriptors - static_cast<int>(upstream_before);
  Say("{} minutes; upgrades {}; {} descriptors and {} KiB at rest", minutes, upgrades ? "too" : "left out",
      descriptors_before, UsageOf(pid).rss_kib);

  std::vector<std::pair<double, double>> rss;  // minute, KiB
  std::vector<int> descriptors;
  int refused_changes = 0, changes = 0, kills = 0;
  const auto began = std::chrono::steady_clock::now();
  const auto minutes_now = [&] {
    return std::chrono::duration<double, std::ratio<60>>(std::chrono::steady_clock::now() - began).count();
  };
  const double warm_up = std::min(5.0, minutes / 3);
  auto traffic = std::make_unique<Traffic>(Traffic::Options{gateway.port(), upgrades, pace});
  Say("{:>6} {:>9} {:>9} {:>8} {:>8} {:>5} {:>9} {:>9} {:>5} {:>8} {:>6} {:>6}", "minute", "requests", "good",
      "excused", "broken", "lost", "RSS KiB", "RSS max", "fds", "changes", "kills", "CPU %");
  double cpu_before = UsageOf(pid).cpu_seconds;
  double minute_before = 0;
  int64_t rss_max = 0;
  bool goes_on = true;
  int second = 0;
  for (; goes_on && minutes_now() < minutes; ++second) {
    // Two services take turns being killed (4 s) and paused (4 s); one is always up.
    const size_t first = second / 20 % 2 == 0 ? 0 : 1;
    switch (second % 20) {
      case 2:
        dying[first].Kill();
        ++kills;
        break;
      case 6:
        dying[first].Start();
        break;
      case 10:
        dying[1 - first].Signal(SIGSTOP);
        break;
      case 14:
        dying[1 - first].Signal(SIGCONT);
        break;
      default:
        break;
    }
    ++changes;
    if (const auto result = control_plane.Apply(Policy(changes, living, dying, upgrades)); result.exit.code != 0) {
      ++refused_changes;
      Say("a change was refused: {}{}", result.out, result.err);
    }
    const Usage usage = UsageOf(pid);
    rss_max = std::max(rss_max, usage.rss_kib);
    if (minutes_now() >= warm_up) {
      rss.emplace_back(minutes_now(), static_cast<double>(usage.rss_kib));
      descriptors.push_back(usage.descriptors);
    }
    if (!gateway.process().running()) {
      Say("THE DATA PLANE ENDED:\n{}", gateway.process().output());
      return 1;
    }
    if (second % 60 == 59) {
      std::error_code error;
      std::filesystem::remove(log, error);  // as a rotation would, and saves gigabytes
      gateway.process().Signal(SIGUSR1);
      Say("{:>6.1f} {:>9} {:>9} {:>8} {:>8} {:>5} {:>9} {:>9} {:>5} {:>8} {:>6} {:>6.1f}", minutes_now(),
          traffic->total(&Tally::begun), traffic->total(&Tally::good), traffic->total(&Tally::excused),
          traffic->total(&Tally::broken), traffic->total(&Tally::lost), usage.rss_kib, rss_max, usage.descriptors,
          changes, kills, (usage.cpu_seconds - cpu_before) / ((minutes_now() - minute_before) * 60) * 100);
      cpu_before = usage.cpu_seconds;
      minute_before = minutes_now();
      rss_max = 0;
    }
    const auto next = began + std::chrono::seconds(second + 1);
    const auto left = std::chrono::duration_cast<milliseconds>(next - std::chrono::steady_clock::now());
    goes_on = WaitUnlessStopped(std::max(left, milliseconds(1)));
  }

  for (Service& each : dying) each.Start();  // whatever their state
  bool held = true;
  const auto check = [&held](bool good, const std::string& what) {
    Say("{}  {}", good ? "ok  " : "FAIL", what);
    held = held && good;
  };
  const double run = minutes_now();
  check(traffic->Stop(std::chrono::minutes(2)), "every client ended");
  Say("{:<12} {:>9} {:>9} {:>8} {:>8} {:>5}", "", "requests", "good", "excused", "broken", "lost");
  for (size_t i = 0; i < kKinds; ++i) {
    const Tally& tally = traffic->tally(static_cast<Kind>(i));
    Say("{:<12} {:>9} {:>9} {:>8} {:>8} {:>5}", ToText(static_cast<Kind>(i)), tally.begun.load(), tally.good.load(),
        tally.excused.load(), tally.broken.load(), tally.lost.load());
  }
  for (const std::string& each : traffic->messages()) Say("lost: {}", each);
  const uint64_t begun = traffic->total(&Tally::begun);
  const uint64_t ended =
      traffic->total(&Tally::good) + traffic->total(&Tally::excused) + traffic->total(&Tally::broken);
  const uint64_t lost = traffic->total(&Tally::lost);
  check(lost == 0 && begun == ended, fmt::format("{} requests, {} lost", begun, lost));
  traffic.reset();

  const auto settles = [&](const std::string& gauge) {
    const bool zero = fixtures::WaitFor([&] { return gateway.Metric(gauge) == 0; }, fixtures::Timeout(30'000));
    check(zero, fmt::format("{} is {} at the end", gauge, gateway.Metric(gauge)));
  };
  settles("gateway_connections");
  settles("gateway_requests_in_flight");
  settles("gateway_buffer_bytes");
  const int upstream = static_cast<int>(gateway.Metric("gateway_upstream_connections"));
  check(fixtures::WaitFor([&] { return UsageOf(pid).descriptors <= descriptors_before + upstream + 1; }),
        fmt::format("{} descriptors at the end, {} of them to services; {} at the beginning", UsageOf(pid).descriptors,
                    upstream, descriptors_before));
  check(refused_changes == 0,
        fmt::format("{} changes of policy, {} refused; {} services killed", changes, refused_changes, kills));
  if (rss.size() >= 30) {
    const double slope = Slope(rss);
    const double grown = slope * (run - warm_up);
    const double mean =
        std::accumulate(rss.begin(), rss.end(), 0.0, [](double sum, const auto& each) { return sum + each.second; }) /
        static_cast<double>(rss.size());
    check(
        grown <= std::max<double>(kRssGrowthKibMax, mean * 0.05),
        fmt::format("RSS {:.0f} KiB on average after {:.1f} minutes, {:+.1f} KiB a minute, {:+.0f} KiB by that in all",
                    mean, warm_up, slope, grown));
    const size_t third = descriptors.size() / 3;
    const int early = *std::max_element(descriptors.begin(), descriptors.begin() + static_cast<ptrdiff_t>(third));
    const int late = *std::max_element(descriptors.end() - static_cast<ptrdiff_t>(third), descriptors.end());
    check(late <= early + early / 4 + 16,
          fmt::format("at most {} descriptors in the first third after that, {} in the last", early, late));
  }
  Say("{}", held ? "Everything held." : "NOT everything held.");
  if (!held) Say("the data plane's own log:\n{}", gateway.process().err().substr(0, 20'000));
  return held ? 0 : 1;
}

int Main(int argc, char** argv) {
  CLI::App app(
      "Mixed traffic through a control plane and a data plane of two workers, as processes: small requests, 8 MiB up "
      "and\n"
      "down, slow readers and writers, clients that go away at every point, upgrades; policy changes each second, "
      "services\n"
      "that are killed or hang. Every response is checked. Afterwards: nothing lost, memory and descriptors "
      "flat,\n"
      "gauges back at zero; exit code 0, or 1 and what did not hold.");
  app.name("soak");
  double minutes = 30;
  double pace = 1;
  std::string upgrades = "auto";
  bool overload = false, churn = false;
  std::string only;
  uint16_t port = 0;
  app.add_option("--minutes", minutes, "How long; default 30")->check(CLI::Range(0.1, 10'000.0));
  app.add_option("--pace", pace,
                 "Of the clients: 2 makes about twice the requests; 1 keeps the whole of it below half a core")
      ->check(CLI::Range(0.1, 20.0));
  app.add_option("--upgrades", upgrades, "on, off, or auto: where the policy knows them")
      ->check(CLI::IsMember({"on", "off", "auto"}));
  app.add_flag("--overload", overload,
               "Instead: one kind of overload after the other, memory and other routes watched");
  app.add_flag(
      "--churn", churn,
      "Instead: services, routes, limits, consumers, endpoints, services of Consul and data planes come and go "
      "all the time; no request may fail, and nothing may grow");
  app.add_option("--only", only, "Of --overload: the cases whose name holds this");
  CLI::App* upstream = app.add_subcommand("upstream", "The services behind the gateway: started by itself");
  upstream->add_option("port", port)->required();
  CLI11_PARSE(app, argc, argv);
  if (upstream->parsed()) return RunUpstream(port);
  if (churn) return RunChurn(minutes);
  return overload ? RunOverload(only) : RunSoak(minutes, pace, upgrades);
}

}  // namespace
}  // namespace gateway::soak

int main(int argc, char** argv) {
  try {
    return gateway::soak::Main(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "soak: {}\n", error.what());
    return 1;
  }
}
