// Everything that can come and go does so under load: services, routes, limits, consumers, endpoints, Consul services,
// data planes, run-time settings. No request may fail, and nothing may grow.
#include "tests/soak/churn.h"

#include <algorithm>
#include <atomic>
#include <csignal>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "common/base/digest.h"
#include "common/base/text.h"
#include "nlohmann/json.hpp"
#include "spdlog/fmt/fmt.h"
#include "tests/fixtures/consul_agent.h"
#include "tests/fixtures/raw_client.h"
#include "tests/fixtures/temp_dir.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/programs.h"
#include "tests/soak/stage.h"

namespace gateway::soak {
namespace {

using fixtures::ConsulAgent;
using fixtures::ControlPlane;
using fixtures::DataPlane;
using fixtures::RawClient;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int kLives = 20;        // rounds that a service lives
constexpr int kYoung = 4;         // rounds before it is used; by then every data plane serves it
constexpr int kOld = 4;           // rounds before its end in which it is no longer used
constexpr int kKeptSeconds = 30;  // metrics.keep_removed_for
constexpr int kClients = 4;
constexpr milliseconds kRound{1000};
constexpr milliseconds kBetweenRequests{15};
constexpr int kDataPlaneRounds = 15;  // lifetime of a guest
constexpr double kGrowthMax = 0.08;   // of the average, from the first third to the last
constexpr double kGrowthKibMax = 4096;

template <typename... Arguments>
void Say(fmt::format_string<Arguments...> text, Arguments&&... arguments) {
  fmt::print(text, std::forward<Arguments>(arguments)...);
  fmt::print("\n");
  (void)std::fflush(stdout);  // a log of it is read while it runs
}

std::string KeyOf(int n) { return Concat("key-of-consumer-", n); }

// Everything that is added in round `n` and removed kLives rounds later.
std::string Generation(int n, const std::string& address) {
  return Concat("kind: Service\nname: churn-", n, "\nstatic: [{ address: \"", address, "\" }]\ncircuit_breaker: churn-",
                n, "\n---\nkind: CircuitBreaker\nname: churn-", n, "\n---\nkind: RateLimit\nname: churn-", n,
                "\nkey: [\"header:X-Visitor\"]\nlimit: { requests: 1000000, window: 10s }\n---\n"
                "kind: Consumer\nname: churn-",
                n, "\ncredentials: [{ api_key_sha256: \"", Hex(Sha256(KeyOf(n))),
                "\" }]\n---\nkind: Route\nname: churn-", n, "\nmatch: { path: { prefix: /churn/", n,
                " } }\nservice: churn-", n, "\nauth: keys\nrate_limits: [churn-", n, "]\n");
}

// The permanent part; its endpoints alternate between one and two.
std::string Frame(int n, const std::vector<Service>& services) {
  std::string policy = "kind: Service\nname: steady\nstatic:\n";
  Append(&policy, "  - { address: \"", services[0].address(), "\" }\n");
  if (n % 2 == 1) Append(&policy, "  - { address: \"", services[1].address(), "\" }\n");
  policy +=
      "---\nkind: Route\nname: steady\nmatch: { path: { prefix: /steady } }\nservice: steady\n"
      "---\nkind: Auth\nname: keys\nmethods: [{ api_key: { header: X-Key } }]\n"
      "---\nkind: Route\nname: jobs\nmatch: { path: { template: \"/jobs/{name}/**\" } }\n"
      "consul_service: { from: name, allow: [\"job-*\"] }\n";
  return policy;
}

// The generations that requests may use now. Thread-safe.
class Living {
 public:
  void Set(int newest) { newest_ = newest; }
  // One that every data plane serves and that will stay for a while; nullopt if there is none yet.
  std::optional<int> Pick(std::mt19937& random) const {
    const int last = newest_ - kYoung, first = std::max(1, newest_ - kLives + kOld);
    if (last < first) return std::nullopt;
    return first + static_cast<int>(random() % static_cast<unsigned>(last - first + 1));
  }

 private:
  std::atomic<int> newest_{0};
};

// Clients of the gateway, each on its own connection, until the end.
class Load {
 public:
  Load(uint16_t port, const Living* living) : port_(port), living_(living) {
    for (int i = 0; i < kClients; ++i) threads_.emplace_back([this, i] { Run(static_cast<unsigned>(i)); });
  }
  ~Load() { Stop(); }
  void Stop() {
    stop_ = true;
    for (std::thread& each : threads_) {
      if (each.joinable()) each.join();
    }
  }
  uint64_t requests() const { return requests_; }
  uint64_t failures() const { return failures_; }
  std::vector<std::string> messages() {
    std::lock_guard lock(mutex_);
    return messages_;
  }

 private:
  void Run(unsigned seed) {
    std::mt19937 random(seed);
    std::unique_ptr<RawClient> client;
    while (!stop_) {
      std::string target = "/steady/small?id=1", fields;
      const std::optional<int> generation = living_->Pick(random);
      if (generation && random() % 3 != 0) {
        target = Concat(random() % 2 == 0 ? "/churn/" : "/jobs/job-", *generation, "/small?id=1");
        fields = Concat("X-Key: ", KeyOf(*generation), "\r\nX-Visitor: ", random() % 1000, "\r\n");
      }
      if (client == nullptr) client = std::make_unique<RawClient>(port_);
      const auto response = client->Request("GET", target, fields);
      ++requests_;
      if (!response.ok() || response->status != 200 || !response->body.starts_with("id=1")) {
        ++failures_;
        client.reset();
        std::lock_guard lock(mutex_);
        if (messages_.size() < 20) {
          messages_.push_back(
              Concat(target, ": ",
                     response.ok() ? Concat(response->status, " ", response->body) : response.status().ToString()));
        }
      }
      std::this_thread::sleep_for(kBetweenRequests);  // the pace of the load
    }
  }

  const uint16_t port_;
  const Living* const living_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> requests_{0}, failures_{0};
  std::mutex mutex_;
  std::vector<std::string> messages_;
  std::vector<std::thread> threads_;
};

// A value that must stay flat once everything has been used.
class Figure {
 public:
  Figure(std::string name, double slack) : name_(std::move(name)), slack_(slack) {}
  void Add(double value) { values_.push_back(value); }
  double last() const { return values_.empty() ? 0 : values_.back(); }
  const std::string& name() const { return name_; }

  // Compares the highest value of the last third with the highest of the first. Variation within a cycle is the same
  // in both.
  bool Flat(std::string* said) const {
    if (values_.size() < 6) {
      *said = fmt::format("{}: the run is too short to compare", name_);
      return true;
    }
    const auto third = static_cast<ptrdiff_t>(values_.size() / 3);
    const double early = *std::max_element(values_.begin(), values_.begin() + third);
    const double late = *std::max_element(values_.end() - third, values_.end());
    *said = fmt::format("{}: at most {:.0f} in the first third, {:.0f} in the last", name_, early, late);
    return late <= early * (1 + kGrowthMax) + slack_;
  }

 private:
  const std::string name_;
  const double slack_;
  std::vector<double> values_;
};

size_t Lines(const std::string& text) { return static_cast<size_t>(std::count(text.begin(), text.end(), '\n')); }

std::string Page(uint16_t port) {
  const auto page = fixtures::Fetch(port, "GET", "/metrics");
  return page.ok() ? page->body : "";
}

// A temporary data plane with its own name; leaves with a goodbye or is killed.
class Guest {
 public:
  Guest(int n, uint16_t stream_port) : polite_(n % 2 == 0) {
    DataPlane::Options options;
    options.control_planes = {stream_port};
    options.name = Concat("guest-", n);
    options.workers = 1;
    options.sets = {"server.buffer_budget=64MiB", "access_log.path=/dev/null"};
    data_plane_ = std::make_unique<DataPlane>(std::move(options));
  }
  bool Serves() {
    const auto response = fixtures::Fetch(data_plane_->port(), "GET", "/steady/small?id=1");
    return response.ok() && response->status == 200;
  }
  // False: it did not end as expected.
  bool Leave() {
    if (!polite_) {
      data_plane_->process().Kill();
      return true;
    }
    data_plane_->process().Signal(SIGTERM);
    const auto exit = data_plane_->process().Wait(fixtures::Timeout(30'000));
    return exit.has_value() && exit->code == 0;
  }

 private:
  const bool polite_;
  std::unique_ptr<DataPlane> data_plane_;
};

}  // namespace

int RunChurn(double minutes) {
  CatchStop();
  std::vector<Service> services(2);
  auto started = ConsulAgent::Start();
  if (!started.ok()) {
    Say("no Consul: {}", std::string(started.status().message()));
    return 1;
  }
  ConsulAgent& consul = **started;
  ControlPlane::Options control_options;
  control_options.consul = consul.address();
  control_options.sets = {"control_plane.forget_data_planes_after=60s"};
  ControlPlane control(control_options);
  DataPlane::Options options;
  options.control_planes = {control.stream_port()};
  options.name = "host";
  options.wait_ready = false;
  options.sets = {"server.buffer_budget=64MiB", "access_log.path=/dev/null",
                  Concat("metrics.keep_removed_for=", kKeptSeconds, "s")};
  DataPlane gateway(options);
  if (const auto applied = control.Apply(Frame(0, services), {"--wait"}); applied.exit.code != 0) {
    Say("the policy is refused: {}{}", applied.out, applied.err);
    return 1;
  }

  std::vector<std::string> problems;
  const auto expect = [&problems](bool good, const std::string& what) {
    if (good || problems.size() >= 20) return;
    problems.push_back(what);
    Say("PROBLEM {}", what);
  };
  const auto ctl = [&](std::vector<std::string> arguments) {
    const std::string what = arguments[0];
    auto result = control.Ctl(std::move(arguments));
    expect(result.exit.code == 0, Concat("gatewayctl ", what, ": ", result.err));
    return result.out;
  };

  // The first entries of each list are permanent.
  Figure data_rss("data plane, KiB", kGrowthKibMax), control_rss("control plane, KiB", kGrowthKibMax);
  Figure data_fds("data plane, descriptors", 16), control_fds("control plane, descriptors", 24);
  Figure data_page("data plane, /metrics, bytes", 4096), control_page("control plane, /metrics, bytes", 1024);
  std::vector<std::pair<std::vector<std::string>, Figure>> lists;
  for (const char* each : {"get", "services", "breakers", "limits", "dataplanes"}) {
    lists.emplace_back(std::vector<std::string>{each, "-o", "name"}, Figure(Concat("gatewayctl ", each, ", lines"), 4));
  }

  Living living;
  Load load(gateway.port(), &living);
  std::unique_ptr<Guest> guest;
  std::deque<int> generations;
  int guests = 0, round = 0;
  bool goes_on = true;
  const auto began = Clock::now();
  const auto minutes_now = [&] { return std::chrono::duration<double, std::ratio<60>>(Clock::now() - began).count(); };
  // By then each kind has come and gone, and so have the series and data planes that left first.
  const double warm_up = std::min(4.0, minutes / 2);
  Say("{} minutes; Consul {}, data plane {}", minutes, consul.address(), gateway.port());
  Say("{:>6} {:>9} {:>7} {:>7} {:>9} {:>9} {:>5} {:>9} {:>9} {:>6}", "minute", "requests", "failed", "rounds", "dp KiB",
      "cp KiB", "fds", "dp page", "cp page", "guests");
  while (goes_on && minutes_now() < minutes) {
    ++round;
    const std::string address = services[static_cast<size_t>(round % 2)].address();
    const auto applied = control.Apply(Concat(Frame(round, services), "---\n", Generation(round, address)));
    expect(applied.exit.code == 0, Concat("apply: ", applied.err));
    ConsulAgent::Instance job{.service = Concat("job-", round),
                              .port = static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1)))};
    expect(consul.Register(job).ok(), "Consul took no registration");
    generations.push_back(round);
    living.Set(round);
    if (static_cast<int>(generations.size()) > kLives) {
      const int gone = generations.front();
      generations.pop_front();
      std::vector<std::string> remove = {"delete"};
      for (const char* kind : {"route", "service", "circuitbreaker", "ratelimit", "consumer"}) {
        remove.push_back(Concat(kind, "/churn-", gone));
      }
      remove.push_back("--yes");
      ctl(remove);
      expect(consul.Deregister(Concat("job-", gone)).ok(), "Consul took no deregistration");
    }
    // Run-time settings: the endpoint of `steady` that is sometimes absent, and a log level.
    if (round % 10 == 3) {
      ctl({"endpoints", "steady", "--set", services[1].address(), round % 20 == 3 ? "drain" : "weight=7", "--for",
           "4s"});
      ctl({"loglevel", "host", "warn", "--for", "2s"});
    }
    if (round % kDataPlaneRounds == 5) {
      guest = std::make_unique<Guest>(++guests, control.stream_port());
      expect(guest->Serves(), "a guest does not serve");
    }
    if (round % kDataPlaneRounds == kDataPlaneRounds - 1 && guest != nullptr) {
      expect(guest->Leave(), "a guest did not end as it should");
      guest.reset();
    }
    if (!gateway.process().running() || !control.process().running()) {
      Say("A PROCESS ENDED:\n{}\n{}", gateway.process().output(), control.process().output());
      return 1;
    }
    if (round % 5 == 0 && minutes_now() >= warm_up) {
      const Usage data = UsageOf(gateway.process().pid()), plane = UsageOf(control.process().pid());
      data_rss.Add(static_cast<double>(data.rss_kib));
      control_rss.Add(static_cast<double>(plane.rss_kib));
      data_fds.Add(data.descriptors);
      control_fds.Add(plane.descriptors);
      data_page.Add(static_cast<double>(Page(gateway.metrics_port()).size()));
      control_page.Add(static_cast<double>(Page(control.metrics_port()).size()));
      for (auto& [arguments, figure] : lists) figure.Add(static_cast<double>(Lines(ctl(arguments))));
    }
    if (round % 60 == 0) {
      const Usage data = UsageOf(gateway.process().pid()), plane = UsageOf(control.process().pid());
      Say("{:>6.1f} {:>9} {:>7} {:>7} {:>9} {:>9} {:>5} {:>9} {:>9} {:>6}", minutes_now(), load.requests(),
          load.failures(), round, data.rss_kib, plane.rss_kib, data.descriptors, Page(gateway.metrics_port()).size(),
          Page(control.metrics_port()).size(), guests);
    }
    const auto left = std::chrono::duration_cast<milliseconds>(began + round * kRound - Clock::now());
    goes_on = WaitUnlessStopped(std::max(left, milliseconds(1)));
  }
  load.Stop();

  bool held = true;
  const auto check = [&held](bool good, const std::string& what) {
    Say("{}  {}", good ? "ok  " : "FAIL", what);
    held = held && good;
  };
  for (const std::string& each : load.messages()) Say("failed: {}", each);
  check(load.failures() == 0 && load.requests() > 0,
        fmt::format("{} requests, {} failed", load.requests(), load.failures()));
  check(problems.empty(), fmt::format("{} rounds, {} guests, {} problems", round, guests, problems.size()));
  std::vector<const Figure*> figures = {&data_rss, &control_rss, &data_fds, &control_fds, &data_page, &control_page};
  for (const auto& [arguments, figure] : lists) figures.push_back(&figure);
  for (const Figure* figure : figures) {
    std::string said;
    const bool flat = figure->Flat(&said);
    check(flat, said);
  }
  Say("{}", held ? "Everything held." : "NOT everything held.");
  if (!held) {
    Say("the data plane's own log:\n{}", gateway.process().err().substr(0, 10'000));
    Say("the control plane's:\n{}", control.process().err().substr(0, 10'000));
  }
  return held ? 0 : 1;
}

}  // namespace gateway::soak
