// Every kind of overload we know, one after the other, each on its own data plane with a small buffer budget: measures
// memory, the effect on requests to another route, and the recovery.
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "common/base/text.h"
#include "spdlog/fmt/fmt.h"
#include "tests/fixtures/raw_client.h"
#include "tests/fixtures/temp_dir.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/programs.h"
#include "tests/soak/stage.h"
#include "tests/soak/wire.h"

namespace gateway::soak {
namespace {

using fixtures::DataPlane;

// What a data plane may use beyond its budget: a fixed part (recycled coroutine frames, allocator pools, logs), and
// for each concurrent connection its objects and coroutine frames.
constexpr int64_t kFixedKib = 8 * 1024;
constexpr double kKibPerConnection = 8;

template <typename... Arguments>
void Say(fmt::format_string<Arguments...> text, Arguments&&... arguments) {
  fmt::print(text, std::forward<Arguments>(arguments)...);
  fmt::print("\n");
  (void)std::fflush(stdout);  // a log of it is read while it runs
}

std::string Get(const std::string& target) { return Concat("GET ", target, " HTTP/1.1\r\nHost: soak.example\r\n\r\n"); }

// Requests another route every 10 ms, alternating between a kept and a new connection, from its own thread.
class Probe {
 public:
  explicit Probe(uint16_t port) : port_(port) {
    loop_.Post([this] { Run(); });
    thread_ = std::thread([this] { loop_.Run(); });
  }
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;
  ~Probe() {
    stopping_ = true;
    (void)fixtures::WaitFor([this] { return ended_.load(); }, kPatience);  // its loop ends in any case
    loop_.Stop();
    thread_.join();
  }

  struct Seen {
    int asked = 0, good = 0, refused = 0, unanswered = 0;
    double p50_ms = 0, p99_ms = 0, max_ms = 0;
    double share() const { return asked == 0 ? 0 : 100.0 * good / asked; }
  };
  // Since the last call.
  Seen Take() {
    absl::MutexLock lock(&mutex_);
    Seen seen = std::exchange(seen_, {});
    std::vector<double> times = std::exchange(times_, {});
    std::sort(times.begin(), times.end());
    if (!times.empty()) {
      seen.p50_ms = times[times.size() / 2];
      seen.p99_ms = times[std::min(times.size() - 1, times.size() * 99 / 100)];
      seen.max_ms = times.back();
    }
    return seen;
  }

 private:
  Detached Run() {
    std::unique_ptr<Peer> kept;
    for (int i = 0; !stopping_; ++i) {
      const bool fresh = i % 2 == 0;
      if (fresh || kept == nullptr) {
        auto made = std::make_unique<Peer>(&loop_);
        const bool connected = co_await made->Connect(port_);
        if (!connected) {
          Count(0, {});
          continue;
        }
        if (fresh) {
          (void)co_await Ask(made.get());  // counted there
        } else {
          kept = std::move(made);
        }
      }
      if (!fresh) {
        const bool goes_on = co_await Ask(kept.get());
        if (!goes_on) kept.reset();
      }
      co_await Pause(&loop_, milliseconds(10));
    }
    ended_ = true;
  }

  Task<bool> Ask(Peer* peer) {
    const auto began = std::chrono::steady_clock::now();
    const std::string request = Get("/well/small?id=1");
    Head head;
    std::string body;
    uint64_t bytes = 0;
    const bool sent = co_await peer->Send(request);
    Got got = Got::kReset;
    if (sent) got = co_await peer->ReadHead(&head);
    if (got == Got::kAll) got = co_await peer->ReadBody(head, &body, &bytes, Peer::Pace());
    Count(got == Got::kAll ? head.status : 0, std::chrono::steady_clock::now() - began);
    co_return got == Got::kAll && !head.close;
  }

  void Count(int status, std::chrono::steady_clock::duration time) {
    absl::MutexLock lock(&mutex_);
    ++seen_.asked;
    seen_.good += status == 200 ? 1 : 0;
    seen_.refused += status != 200 && status != 0 ? 1 : 0;
    seen_.unanswered += status == 0 ? 1 : 0;
    times_.push_back(std::chrono::duration<double, std::milli>(time).count());
  }

  const uint16_t port_;
  EventLoop loop_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> ended_{false};
  absl::Mutex mutex_;
  Seen seen_ ABSL_GUARDED_BY(mutex_);
  std::vector<double> times_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

// Many clients on one thread; `client(index, load)` is the life of one.
class Load {
 public:
  using Client = std::function<Detached(int, Load*)>;
  Load(uint16_t port, int clients, Client client) : port(port), client_(std::move(client)) {
    loop.Post([this, clients] { Begin(clients); });
    thread_ = std::thread([this] { loop.Run(); });
  }
  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;
  ~Load() {
    stopping = true;
    (void)fixtures::WaitFor([this] { return living.load() == 0; }, kPatience);  // its loop ends in any case
    loop.Stop();
    thread_.join();
  }

  const uint16_t port;
  EventLoop loop;
  std::atomic<bool> stopping{false};
  std::atomic<int> living{0};
  std::atomic<uint64_t> good{0}, refused{0}, broken{0}, bytes{0};

 private:
  // In batches: a listener's backlog is finite.
  Detached Begin(int clients) {
    for (int i = 0; i < clients && !stopping; ++i) {
      ++living;
      client_(i, this);
      if (i % 100 == 99) co_await Pause(&loop, milliseconds(10));
    }
  }

  Client client_;
  std::thread thread_;
};

struct Case {
  std::string name;
  std::string what;
  std::vector<std::string> sets = {};  // in addition to the budget
  std::string victim = {};             // further fields of the affected service
  int budget_mib = 16;
  int clients = 0;
  milliseconds time{10'000};
  Load::Client client = {};
  // Whether requests to the other route must be unaffected; otherwise they may be refused, but must get a response.
  bool others_unharmed = true;
  rlim_t descriptors = 0;  // 0: unlimited
};

Task<bool> Open(Peer* peer, Load* load, int receive_bytes = 0) {
  const bool connected = co_await peer->Connect(load->port, receive_bytes);
  if (!connected) ++load->broken;
  co_return connected;
}

// Sends one request and reads the whole response: text, or the pattern.
Task<void> Fetch(Peer* peer, Load* load, const std::string* request, bool text) {
  Head head;
  uint64_t bytes = 0;
  std::string body;
  const bool sent = co_await peer->Send(*request);
  Got got = Got::kReset;
  if (sent) got = co_await peer->ReadHead(&head, milliseconds(120'000));
  if (got == Got::kAll)
    got = co_await peer->ReadBody(head, head.status == 200 && !text ? nullptr : &body, &bytes, Peer::Pace(),
                                  milliseconds(120'000));
  load->bytes += bytes;
  if (got != Got::kAll) {
    ++load->broken;
  } else if (head.status == 200) {
    ++load->good;
  } else {
    ++load->refused;
  }
}

// A header, byte by byte, one per second; starts over when it is cut off.
Detached SlowHead(int, Load* load) {
  static const std::string head = Get(Concat("/victim/small?id=1&", std::string(300, 'x')));
  while (!load->stopping) {
    Peer peer(&load->loop);
    if (co_await Open(&peer, load)) {
      for (size_t at = 0; at < head.size() && !load->stopping; ++at) {
        const bool sent = co_await peer.Send(std::string_view(head).substr(at, 1));
        if (!sent) break;
        co_await Pause(&load->loop, milliseconds(1000));
      }
      ++load->broken;
    }
    co_await Pause(&load->loop, milliseconds(500));
  }
  --load->living;
}

// Takes 512 bytes a second of 256 KiB.
Detached SlowReader(int, Load* load) {
  static const std::string request = Get("/victim/bytes?n=262144");
  while (!load->stopping) {
    Peer peer(&load->loop);
    if (co_await Open(&peer, load, 2048) && co_await peer.Send(request)) {
      while (!load->stopping) {
        peer.buffer().clear();
        const Got got = co_await peer.Fill(milliseconds(10'000), 512);
        load->bytes += peer.buffer().size();
        if (got == Got::kEnd || got == Got::kReset) break;
        co_await Pause(&load->loop, milliseconds(1000));
      }
      ++load->broken;
    }
    co_await Pause(&load->loop, milliseconds(500));
  }
  --load->living;
}

constexpr uint64_t kHugeBytes = uint64_t{10} << 30;

Detached HugeUp(int, Load* load) {
  Peer peer(&load->loop);
  const std::string head =
      Concat("POST /victim/upload HTTP/1.1\r\nHost: a\r\nContent-Length: ", kHugeBytes, "\r\n\r\n");
  if (co_await Open(&peer, load)) {
    const bool sent =
        co_await peer.Send(head) && co_await peer.SendPattern(0, kHugeBytes, 64 * 1024, 0, milliseconds(0));
    const std::string nothing;
    if (sent) co_await Fetch(&peer, load, &nothing, true);
    if (!sent) ++load->broken;
  }
  --load->living;
}

Detached HugeDown(int, Load* load) {
  Peer peer(&load->loop);
  const std::string request = Get(Concat("/victim/bytes?n=", kHugeBytes));
  if (co_await Open(&peer, load)) co_await Fetch(&peer, load, &request, false);
  --load->living;
}

// One request after the other, each on a new connection.
Load::Client Asking(const std::string& target, bool text) {
  return [request = Get(target), text](int, Load* load) -> Detached {
    // (The lambda outlives its coroutines: it is a member of Load.)
    return [](const std::string* what, bool text, Load* load) -> Detached {
      while (!load->stopping) {
        Peer peer(&load->loop);
        if (co_await Open(&peer, load)) {
          co_await Fetch(&peer, load, what, text);
        } else {
          co_await Pause(&load->loop, milliseconds(200));
        }
      }
      --load->living;
    }(&request, text, load);
  };
}

// Requests at a fixed rate, without waiting for responses: what the gateway does not take stays in the socket.
Load::Client Flooding(double requests_per_second) {
  return [requests_per_second](int, Load* load) -> Detached {
    static const std::string request = Get("/victim/small?id=1");
    const auto reader = [](std::shared_ptr<Peer> peer, Load* load) -> Detached {
      while (!load->stopping) {
        peer->buffer().clear();
        const Got got = co_await peer->Fill(milliseconds(1000));
        load->bytes += peer->buffer().size();
        load->good += static_cast<uint64_t>(
            std::count(peer->buffer().begin(), peer->buffer().end(), '('));  // one in the text of each response
        if (got == Got::kEnd || got == Got::kReset) break;
      }
      --load->living;
    };
    return [](double rate, Load* load, auto reader) -> Detached {
      auto peer = std::make_shared<Peer>(&load->loop);
      if (co_await Open(peer.get(), load)) {
        ++load->living;
        reader(peer, load);
        std::string batch;
        double owed = 0;
        while (!load->stopping) {
          co_await Pause(&load->loop, milliseconds(20));
          owed += rate * 0.02;
          batch.clear();
          for (; owed >= 1 && batch.size() < 256 * 1024; owed -= 1) batch += request;
          const bool sent = co_await peer->Send(batch, milliseconds(2000));
          if (!sent && !load->stopping) ++load->broken;
          if (!sent) break;
        }
      }
      --load->living;
    }(requests_per_second, load, reader);
  };
}

std::string Policy(const Service& victim, const Service& well, const Case& test) {
  return Concat("kind: Service\nname: victim\nstatic: [{ address: \"", victim.address(), "\" }]\n", test.victim,
                "\n---\nkind: Service\nname: well\nstatic: [{ address: \"", well.address(),
                "\" }]\n---\nkind: CircuitBreaker\nname: guard\ntimeout: 30s\nmax_concurrent_requests: 50\n"
                "---\nkind: Route\nname: victim\nmatch: { path: { prefix: /victim } }\nservice: victim\ntimeout: 60s\n"
                "---\nkind: Route\nname: well\nmatch: { path: { prefix: /well } }\nservice: well\n");
}

bool Run(const Case& test) {
  Say("\n{}: {}", test.name, test.what);
  Service victim, well;
  const fixtures::TempDir directory;
  DataPlane::Options options;
  options.policy = Policy(victim, well, test);
  options.sets = test.sets;
  options.sets.push_back(Concat("server.buffer_budget=", test.budget_mib, "MiB"));
  options.sets.push_back("access_log.path=" + directory.File("access.log"));
  DataPlane gateway(options);
  const pid_t pid = gateway.process().pid();
  if (test.descriptors > 0) {
    const rlimit limit{test.descriptors, test.descriptors};
    if (prlimit(pid, RLIMIT_NOFILE, &limit, nullptr) != 0) {
      Say("cannot bound its descriptors");
      return false;
    }
  }
  Probe probe(gateway.port());
  if (!WaitUnlessStopped(milliseconds(2000))) return false;
  const Probe::Seen before = probe.Take();
  const int64_t rest_kib = UsageOf(pid).rss_kib;
  const double cpu_before = UsageOf(pid).cpu_seconds;

  int64_t peak_kib = 0;
  double connections = 0, buffers = 0, upstream = 0;
  uint64_t good = 0, refused = 0, broken = 0, bytes = 0;
  const auto began = std::chrono::steady_clock::now();
  {
    Load load(gateway.port(), test.clients, test.client);
    const auto over = [&] {
      const bool by_itself = load.living == 0 && load.good + load.refused + load.broken > 0;
      return by_itself || std::chrono::steady_clock::now() - began > test.time;
    };
    for (int i = 0; !over(); ++i) {
      peak_kib = std::max(peak_kib, UsageOf(pid).rss_kib);
      if (i % 10 == 0) {
        connections = std::max(connections, gateway.Metric("gateway_connections"));
        buffers = std::max(buffers, gateway.Metric("gateway_buffer_bytes"));
        upstream = std::max(upstream, gateway.Metric("gateway_upstream_connections"));
      }
      if (!WaitUnlessStopped(milliseconds(50))) return false;
    }
    good = load.good;
    refused = load.refused;
    broken = load.broken;
    bytes = load.bytes;
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  const Probe::Seen during = probe.Take();
  const double cpu = (UsageOf(pid).cpu_seconds - cpu_before) / seconds * 100;
  const bool settled = fixtures::WaitFor(
      [&] { return gateway.Metric("gateway_connections") <= 2 && gateway.Metric("gateway_buffer_bytes") <= 65536; },
      milliseconds(20'000));
  (void)probe.Take();
  if (!WaitUnlessStopped(milliseconds(2000))) return false;
  const Probe::Seen after = probe.Take();

  const auto bound = static_cast<int64_t>(rest_kib + test.budget_mib * 1024 + kFixedKib +
                                          (connections + upstream) * kKibPerConnection);
  Say("  {:.0f} s, {:.0f} % CPU; {} good, {} refused, {} broken, {:.1f} MiB; {:.0f} connections, {:.0f} to services",
      seconds, cpu, good, refused, broken, static_cast<double>(bytes) / 1048576, connections, upstream);
  const auto show = [](const char* when, const Probe::Seen& seen) {
    Say("  other route {}: {} sent, {:.1f} % good, {} refused, {} unfinished; p50 {:.1f} ms, p99 {:.1f} ms, max "
        "{:.1f} ms",
        when, seen.asked, seen.share(), seen.refused, seen.unanswered, seen.p50_ms, seen.p99_ms, seen.max_ms);
  };
  show("before", before);
  show("during", during);
  show("after ", after);
  bool held = true;
  const auto check = [&held](bool ok, const std::string& what) {
    Say("  {}  {}", ok ? "ok  " : "FAIL", what);
    held = held && ok;
  };
  check(gateway.process().running(), "the data plane runs");
  check(peak_kib <= bound,
        fmt::format("RSS {} KiB at rest, at most {} ({:.1f} KiB a connection beyond the buffers); "
                    "bound {}; buffers at most {:.0f} KiB of {}",
                    rest_kib, peak_kib,
                    (static_cast<double>(peak_kib - rest_kib) - buffers / 1024) / std::max(1.0, connections + upstream),
                    bound, buffers / 1024, test.budget_mib * 1024));
  if (test.others_unharmed) check(during.good == during.asked, "requests to another route were all served meanwhile");
  check(settled && after.good == after.asked, "afterwards connections and buffers are given back, and all is served");
  if (test.descriptors > 0) {
    int said = 0;
    const std::string err = gateway.process().err();
    for (size_t at = err.find("cannot accept"); at != std::string::npos; at = err.find("cannot accept", at + 1)) ++said;
    const double errors = gateway.Metric("gateway_accept_errors_total");
    check(said > 0 && said <= 2 * (static_cast<int>(seconds) + 2),
          fmt::format("logged {} times in {:.0f} s by two workers that {:.0f} tries had no descriptor", said, seconds,
                      errors));
  }
  return held;
}

// Small requests per second that an otherwise idle data plane serves: 32 clients, one request at a time each.
double Capacity(const std::vector<std::string>& sets) {
  Service victim, well;
  const fixtures::TempDir directory;
  DataPlane::Options options;
  options.policy = Policy(victim, well, Case());
  options.sets = sets;
  options.sets.push_back("access_log.path=" + directory.File("access.log"));
  DataPlane gateway(options);
  const Load::Client client = [](int, Load* load) -> Detached {
    static const std::string request = Get("/victim/small?id=1");
    Peer peer(&load->loop);
    if (co_await Open(&peer, load)) {
      Head head;
      std::string body;
      uint64_t bytes = 0;
      while (!load->stopping && co_await peer.Send(request)) {
        if (co_await peer.ReadHead(&head) != Got::kAll) break;
        body.clear();
        if (co_await peer.ReadBody(head, &body, &bytes, Peer::Pace()) != Got::kAll) break;
        ++load->good;
      }
    }
    --load->living;
  };
  Load load(gateway.port(), 32, client);
  (void)WaitUnlessStopped(milliseconds(500));
  const uint64_t before = load.good;
  (void)WaitUnlessStopped(milliseconds(2000));
  return static_cast<double>(load.good - before) / 2;
}

}  // namespace

int RunOverload(const std::string& only) {
  CatchStop();
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);  // the current limit may be enough
  }
  const int many = static_cast<int>(std::min<rlim_t>(10'000, limit.rlim_max - 500));
  const int readers = static_cast<int>(std::min<rlim_t>(4'000, limit.rlim_max / 2 - 500));
  std::vector<Case> cases;
  const auto wanted = [&only](const std::string& name) { return name.find(only) != std::string::npos; };
  if (wanted("flood")) {
    const double capacity = Capacity({});
    cases.push_back({"flood", fmt::format("ten times {:.0f} requests/s, by 200 clients that do not wait", capacity)});
    cases.back().clients = 200;
    cases.back().client = Flooding(10 * capacity / 200);
  }
  cases.push_back({"busy", "1,000 clients, each asking again at once, of a service that does 50 requests in 200 ms"});
  cases.back().victim = "circuit_breaker: guard";
  cases.back().clients = 1000;
  cases.back().client = [](int, Load* load) -> Detached {
    static const std::string request = Get("/victim/delay?ms=200");
    while (!load->stopping) {
      Peer peer(&load->loop);
      if (co_await Open(&peer, load)) co_await Fetch(&peer, load, &request, true);
      co_await Pause(&load->loop, milliseconds(400));
    }
    --load->living;
  };
  for (const int budget : {512, 16}) {
    cases.push_back(
        {Concat("slow-heads-", budget), Concat(many, " clients that send one byte of a header each second"), {}});
    cases.back().budget_mib = budget;
    cases.back().clients = many;
    cases.back().client = &SlowHead;
    cases.back().time = milliseconds(20'000);
    cases.push_back(
        {Concat("slow-readers-", budget), Concat(readers, " clients that take 512 bytes a second of 256 KiB")});
    cases.back().budget_mib = budget;
    cases.back().clients = readers;
    cases.back().client = &SlowReader;
    cases.back().time = milliseconds(20'000);
    cases.back().others_unharmed = budget > 16;
  }
  cases.push_back({"huge-up", "a body of 10 GiB to a service"});
  cases.back().clients = 1;
  cases.back().client = &HugeUp;
  cases.back().time = milliseconds(240'000);
  cases.push_back({"huge-down", "a body of 10 GiB from a service"});
  cases.back().clients = 1;
  cases.back().client = &HugeDown;
  cases.back().time = milliseconds(240'000);
  cases.push_back({"silent", "2,000 requests to a service that accepts and never responds (timeout 5 s)"});
  cases.back().victim = "timeouts: { response: 5s }";
  cases.back().clients = 2000;
  cases.back().client = Asking("/victim/silent", true);
  cases.back().time = milliseconds(12'000);
  cases.push_back({"drip", "2,000 responses of 10 bytes, one byte a second"});
  cases.back().clients = 2000;
  cases.back().client = Asking("/victim/drip?n=10&piece=1&ms=1000", false);
  cases.back().time = milliseconds(15'000);
  cases.push_back({"descriptors", "300 clients with 100 descriptors"});
  cases.back().clients = 300;
  cases.back().client = Asking("/victim/delay?ms=500", true);
  cases.back().time = milliseconds(8'000);
  cases.back().descriptors = 100;
  cases.back().sets = {"server.max_connections_per_address=300"};
  cases.back().others_unharmed = false;

  int failed = 0, run = 0;
  for (const Case& each : cases) {
    if (!wanted(each.name)) continue;
    ++run;
    failed += Run(each) ? 0 : 1;
  }
  Say("\n{} of {} cases held.", run - failed, run);
  return failed == 0 && run > 0 ? 0 : 1;
}

}  // namespace gateway::soak
