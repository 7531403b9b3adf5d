// gateway-dataplane: the proxy. Wires listeners, workers, configuration and the metrics port; waits for signals.
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "common/base/log.h"
#include "common/base/text.h"
#include "common/base/version.h"
#include "common/config/bootstrap.h"
#include "dataplane/config/config_client.h"
#include "dataplane/limits/quota_client.h"
#include "dataplane/net/socket.h"
#include "dataplane/server/admin_http.h"
#include "dataplane/server/handover.h"
#include "dataplane/server/listener.h"
#include "dataplane/server/runtime_metrics.h"
#include "dataplane/server/server_options.h"
#include "dataplane/server/tls_listeners.h"
#include "dataplane/server/watchdog.h"
#include "dataplane/server/worker.h"
#include "dataplane/state/serving_state.h"
#include "dataplane/telemetry/access_log.h"
#include "dataplane/telemetry/metrics.h"

namespace gateway::dataplane {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kGoodbyeTimeout{1000};
constexpr milliseconds kCutShortWait{1000};  // for the last answers, after drain_timeout
constexpr milliseconds kIdleGraceMax{1000};  // of connections between two requests, once nobody new is accepted
constexpr milliseconds kWatchInterval{250};
constexpr milliseconds kReadyInterval{10};  // between two looks whether there is something to serve
constexpr milliseconds kCatchUpWait{5000};

// Calls `all_done` when it has been called as often as there are workers.
std::function<void()> AfterAll(size_t count, std::function<void()> all_done) {
  auto left = std::make_shared<std::atomic<size_t>>(count);
  return [left, all_done = std::move(all_done)] {
    if (left->fetch_sub(1) == 1) all_done();
  };
}

int WorkerCount(const v1::ServerSection& server) {
  if (server.workers() != "auto")
    return std::max(1, std::atoi(server.workers().c_str()));  // checked with the bootstrap
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

void RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &limit);  // what there was will do
}

// What the main thread does once everything runs: it waits, takes signals, and looks after the workers.
class Vigil {
 public:
  enum class End { kDone, kDeadline, kSignal };

  // Blocks its signals, in every thread that is started from here on.
  Vigil() : self_(pthread_self()) {
    sigemptyset(&signals_);
    for (const int each : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, kWake}) sigaddset(&signals_, each);
    pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
    std::signal(SIGPIPE, SIG_IGN);
  }

  void LookAfter(const std::vector<std::unique_ptr<Worker>>* workers, Watchdog* watchdog, AccessLog* log,
                 TlsListeners* tls) {
    tls_ = tls;
    workers_ = workers;
    watchdog_ = watchdog;
    log_ = log;
  }

  // Until `done` (asked after each Wake, and every `interval` at least) or a signal to end.
  End Until(TimePoint deadline, const std::function<bool()>& done, milliseconds interval = kWatchInterval) {
    for (;;) {
      if (done()) return End::kDone;
      const TimePoint now = std::chrono::steady_clock::now();
      if (now >= deadline) return End::kDeadline;
      const auto wait = std::min<TimePoint::duration>(deadline - now, interval);
      const timespec left{0, static_cast<long>(std::chrono::nanoseconds(wait).count())};  // below a second
      const int signal = sigtimedwait(&signals_, nullptr, &left);
      Watch();
      if (signal == SIGHUP || signal == SIGUSR1) Reload(signal == SIGHUP ? "SIGHUP" : "SIGUSR1");
      if (signal == SIGTERM || signal == SIGINT) return End::kSignal;
    }
  }
  // Any thread.
  void Wake() { pthread_kill(self_, kWake); }

  // From here on SIGTERM and SIGINT end the process at once, by their default action. The others stay blocked: their
  // default action would end it too.
  void LetSignalsEnd() {
    sigset_t ending;
    sigemptyset(&ending);
    for (const int each : {SIGTERM, SIGINT}) {
      std::signal(each, SIG_DFL);
      sigaddset(&ending, each);
      sigdelset(&signals_, each);
    }
    pthread_sigmask(SIG_UNBLOCK, &ending, nullptr);
  }

 private:
  static constexpr int kWake = SIGUSR2;
  static constexpr milliseconds kRefreshInterval{1000};  // how often files of certificates are looked at

  // What changes without a restart. The bootstrap file is not read again.
  void Reload(const char* signal) {
    spdlog::info("{}: reading certificates again", signal);
    RefreshTls(true);
    if (log_ == nullptr) return;
    spdlog::info("{}: reopening the access log", signal);
    log_->Reopen();
  }

  void RefreshTls(bool forced) {
    if (tls_ == nullptr || !tls_->Refresh(forced)) return;
    for (size_t i = 0; i < workers_->size(); ++i) (*workers_)[i]->InstallTls(tls_->contexts(static_cast<int>(i)));
  }

  void Watch() {
    if (workers_ == nullptr) return;
    if (const TimePoint now = std::chrono::steady_clock::now(); now >= refresh_at_) {
      RefreshTls(false);
      refresh_at_ = now + kRefreshInterval;
    }
    turns_.clear();
    for (const auto& worker : *workers_) turns_.push_back(worker->loop().last_turn());
    for (const Watchdog::Change& each : watchdog_->Check(std::chrono::steady_clock::now(), turns_)) {
      if (each.stalled) {
        spdlog::error("worker {} is stalled: its loop has not run for {} ms", each.worker, each.standing.count());
      } else {
        spdlog::warn("worker {} turns its loop again, after {} ms", each.worker, each.standing.count());
      }
    }
  }

  const pthread_t self_;
  sigset_t signals_;
  const std::vector<std::unique_ptr<Worker>>* workers_ = nullptr;
  Watchdog* watchdog_ = nullptr;
  AccessLog* log_ = nullptr;
  TlsListeners* tls_ = nullptr;
  TimePoint refresh_at_{};
  std::vector<TimePoint> turns_;
};

// The metrics port's server: on the predecessor's socket where that is at the configured address.
absl::StatusOr<std::unique_ptr<MetricsHttp>> OpenMetrics(const v1::MetricsSection& metrics, Predecessor* predecessor) {
  const std::string host = metrics.host() == "localhost" ? "127.0.0.1" : metrics.host();
  int fd = -1;
  if (predecessor != nullptr) {
    in6_addr configured, bound;
    const bool literal = ParseIp(host, &configured);
    for (const PassedSocket& each : predecessor->TakeMetrics()) {
      const bool wanted = literal && ParseIp(IpText(each.address), &bound) &&
                          std::memcmp(&configured, &bound, sizeof bound) == 0 &&
                          (metrics.port() == 0 || metrics.port() == PortOf(each.address));
      if (wanted && fd < 0) {
        fd = each.fd;
      } else {
        close(each.fd);
      }
    }
  }
  return fd >= 0 ? MetricsHttp::Adopt(fd) : MetricsHttp::Listen(host, static_cast<uint16_t>(metrics.port()));
}

// --check-config: what a start would say of the policy files.
int CheckPolicy(const v1::Bootstrap& config) {
  std::vector<std::string> warnings;
  const absl::Status status = ConfigClient::CheckPolicyFiles(config, &warnings);
  for (const std::string& warning : warnings) std::fprintf(stderr, "warning: %s\n", warning.c_str());
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return 1;
}

int Run(int argc, char** argv) {
  DaemonArguments arguments = ParseDaemonArguments(
      argc, argv, "gateway-dataplane", "The gateway's proxy: forwards HTTP by the policy of its control plane.");
  if (arguments.check) return CheckPolicy(arguments.config);
  if (arguments.exit_code) return *arguments.exit_code;
  const v1::Bootstrap& config = arguments.config;
  InitLogging(config.logging(), "gateway-dataplane");
#ifdef NDEBUG
  // Debian's Abseil looks for them at every lock, which about doubles its cost; builds for tests leave that on.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
#endif

  Vigil vigil;
  RaiseDescriptorLimit();

  const auto options = ServerOptions::From(config);
  if (!options.ok()) {
    spdlog::critical("{}", std::string(options.status().message()));
    return 2;
  }
  const int worker_count = WorkerCount(config.server());
  auto passed = TakeSystemdSockets();
  if (!passed.ok()) {
    spdlog::critical("{}", std::string(passed.status().message()));
    return 1;
  }
  for (const PassedSocket& each : *passed) spdlog::info("systemd passed a socket at {}", AddressText(each.address));
  std::unique_ptr<Predecessor> predecessor;
  if (!config.server().handover().empty()) {
    auto found = Predecessor::Find(config.server().handover());
    if (!found.ok()) {
      spdlog::critical("{}", std::string(found.status().message()));
      return 1;
    }
    predecessor = *std::move(found);
  }
  if (predecessor != nullptr) {
    const std::vector<PassedSocket> sockets = predecessor->TakeMain();
    spdlog::info("hand-over: process {} hands over {} sockets", predecessor->pid(), sockets.size());
    passed->insert(passed->end(), sockets.begin(), sockets.end());
  }
  auto listeners = OpenListeners(config.server(), worker_count, *std::move(passed));
  if (!listeners.ok()) {
    spdlog::critical("{}", std::string(listeners.status().message()));
    return 1;
  }
  std::unique_ptr<AccessLog> log;
  if (options->log_requests) {
    auto opened = AccessLog::Open(config.access_log().path(), config.logging().format());
    if (!opened.ok()) {
      spdlog::critical("{}", std::string(opened.status().message()));
      return 1;
    }
    log = *std::move(opened);
  }

  MetricsRegistry metrics(worker_count);
  RuntimeState::Options runtime_options;
  runtime_options.zone = config.data_plane().zone();
  RuntimeState runtime(&metrics, std::move(runtime_options));
  const std::vector<v1::Resource> builtins = BuiltinResources(BuiltinLimitOf(config));
  std::vector<const v1::Resource*> builtin_pointers;
  builtin_pointers.reserve(builtins.size());
  for (const v1::Resource& each : builtins) builtin_pointers.push_back(&each);
  const CompileResult empty = CompileSnapshot(builtin_pointers, CompileOptions());
  const auto first_state = runtime.Bind(empty.snapshot, EndpointTable(), false);

  auto tls = TlsListeners::Open(config.server(), worker_count);
  if (!tls.ok()) {
    spdlog::critical("{}", std::string(tls.status().message()));
    return 2;
  }
  BufferBudget budget(config.server().buffer_budget());
  ConnectionCounts counts;
  Authentication authentication({});
  Worker::Shared shared;
  shared.authentication = &authentication;
  shared.tls = tls->get();
  shared.options = &*options;
  shared.budget = &budget;
  shared.counts = &counts;
  shared.metrics_page = [&metrics] { return MetricsReply(metrics).body; };
  std::unique_ptr<RedisDirectory> redis_directory;
  if (const auto redis = ParseHostPort(config.redis().address()); redis.ok()) {
    redis_directory = std::make_unique<RedisDirectory>(redis->host, redis->port);
    shared.redis_directory = redis_directory.get();
    shared.redis = {config.redis().username(), config.redis().password(), config.redis().db()};
  }
  std::vector<std::unique_ptr<Worker>> workers;
  workers.reserve(static_cast<size_t>(worker_count));
  for (int i = 0; i < worker_count; ++i) {
    workers.push_back(std::make_unique<Worker>(i, shared, listeners->of_worker[static_cast<size_t>(i)],
                                               metrics.shard(i), log ? log->NewBuffer() : nullptr, first_state));
  }

  std::atomic<bool> draining{false};
  ConfigClientOptions client_options;
  client_options.bootstrap = config;
  client_options.workers = static_cast<uint32_t>(worker_count);
  client_options.main_port = listeners->port;
  client_options.redis_away = [&workers] {
    return std::any_of(workers.begin(), workers.end(), [](const auto& worker) {
      return worker->redis() == nullptr || !worker->redis()->counters().up.load(std::memory_order_relaxed);
    });
  };
  Watchdog watchdog(workers.size(), options->watchdog_timeout, kWatchInterval);
  std::unique_ptr<ConfigClient> client;
  std::unique_ptr<AdminHttp> admin;
  if (config.metrics().enabled()) {
    auto opened = OpenMetrics(config.metrics(), predecessor.get());
    if (!opened.ok()) {
      spdlog::critical("{}", std::string(opened.status().message()));
      return 1;
    }
    admin = std::make_unique<AdminHttp>(*std::move(opened), &metrics, [&client, &draining, &watchdog] {
      return Readiness{.configured = client->ready(), .draining = draining, .stalled = watchdog.AllStalled()};
    });
  }
  // Consul's check asks the main port where that answers /health, else the metrics port.
  client_options.health_port = config.server().builtin_routes() || !admin ? listeners->port : admin->port();
  client = std::make_unique<ConfigClient>(client_options, &runtime, [&workers](auto state, auto done) {
    const auto each_done = AfterAll(workers.size(), std::move(done));
    for (const auto& worker : workers) worker->Install(state, each_done);
  });
  runtime.OnHostsChanged([&client] { client->Rebind(); });
  metrics.AddSource([&client] { return client->Families(); });
  metrics.AddSource([&runtime, &log] { return RuntimeFamilies(runtime, log.get()); });
  metrics.AddSource([&authentication] { return PasswordFamilies(authentication.passwords); });
  metrics.AddSource([] { return ProcessFamilies("dataplane"); });
  metrics.AddSource([&workers] {
    std::vector<const RedisStore*> stores;
    for (const auto& worker : workers) {
      if (worker->redis() != nullptr) stores.push_back(worker->redis());
    }
    return RedisFamilies(stores);
  });
  QuotaClientOptions quota_options;
  quota_options.name = client->name();
  if (config.data_plane().policy_files_size() == 0) {
    quota_options.control_planes = {config.data_plane().control_planes().begin(),
                                    config.data_plane().control_planes().end()};
  }
  quota_options.tables = [&runtime] { return runtime.Leases(); };
  quota_options.link = runtime.lease_link();
  QuotaClient quota(std::move(quota_options));
  metrics.AddSource([&quota] { return quota.Families(); });
  metrics.AddSource([&tls] { return (*tls)->Families(); });
  metrics.AddSource([&watchdog] { return watchdog.Families(); });

  for (const auto& worker : workers) worker->Start();
  vigil.LookAfter(&workers, &watchdog, log.get(), tls->get());
  if (const absl::Status status = client->Start(); !status.ok()) {
    spdlog::critical("{}", std::string(status.message()));
    return 1;
  }
  quota.Start();
  const auto now = [] { return std::chrono::steady_clock::now(); };
  if (predecessor != nullptr) {
    // Nothing is accepted before there is something to serve. A cache may be older than what the predecessor serves:
    // the control plane has a moment to say what is new.
    const TimePoint caught_up = now() + kCatchUpWait;
    const auto ready = [&] {
      return client->ready() && (client->revision() >= predecessor->revision() || now() >= caught_up);
    };
    const Vigil::End end = vigil.Until(now() + kSuccessorPatience, ready, kReadyInterval);
    if (end != Vigil::End::kDone && (end == Vigil::End::kSignal || predecessor->there())) {
      spdlog::critical("hand-over: this process {}; process {} serves on",
                       end == Vigil::End::kSignal ? "was told to end" : "has no configuration to serve",
                       predecessor->pid());
      spdlog::default_logger()->flush();
      _exit(1);
    }
  }
  std::atomic<bool> accepting{false};
  const auto each_accepting = AfterAll(workers.size(), [&] {
    accepting = true;
    vigil.Wake();
  });
  for (const auto& worker : workers) worker->Listen(each_accepting);
  if (admin) admin->Start();
  std::string where;
  for (const std::string& address : listeners->addresses) where += (where.empty() ? "" : ", ") + address;
  spdlog::info("gateway-dataplane {} serves on {} with {} workers; metrics on {}", kVersion, where, worker_count,
               admin ? Concat(config.metrics().host(), ":", admin->port()) : "no port");

  // What makes it end.
  enum class Cause { kSignal, kSuccessor, kRefused } cause = Cause::kSignal;
  if (predecessor != nullptr) {
    (void)vigil.Until(now() + kGoodbyeTimeout, [&] { return accepting.load(); });
    const absl::Status status = predecessor->Succeed(client->name());
    if (status.ok()) {
      spdlog::info("hand-over: process {} drains, this one has its place", predecessor->pid());
    } else if (absl::IsFailedPrecondition(status)) {
      spdlog::critical("hand-over: {}", std::string(status.message()));
      cause = Cause::kRefused;
    } else {
      spdlog::warn("hand-over: process {} does not respond ({}): this process continues alone", predecessor->pid(),
                   std::string(status.message()));
    }
    for (const ListeningSocket& each : listeners->leaving) workers[0]->AcceptLast(each);
    predecessor.reset();
  }

  std::atomic<bool> taken{false};
  std::string successor;  // its name; written before `taken`
  std::unique_ptr<HandoverServer> handover;
  if (!config.server().handover().empty() && cause != Cause::kRefused) {
    HandoverServer::Options handing;
    handing.path = config.server().handover();
    for (const PassedSocket& each : listeners->sockets) {
      handing.sockets.push_back(
          {each.systemd ? SocketRole::kSystemd : SocketRole::kMain, each.fd, AddressText(each.address)});
    }
    if (admin) handing.sockets.push_back({SocketRole::kMetrics, admin->fd(), admin->address()});
    handing.revision = [&client] { return client->revision(); };
    handing.under_way = [&client](bool on) { client->StandBy(on); };
    handing.taken = [&](const std::string& name) {
      successor = name;
      taken = true;
      vigil.Wake();
    };
    auto started = HandoverServer::Start(std::move(handing));
    if (started.ok()) {
      handover = *std::move(started);
    } else {
      spdlog::error("hand-over: {}; the next process can't take over", std::string(started.status().message()));
    }
  }

  if (cause != Cause::kRefused) {
    for (Vigil::End end = Vigil::End::kDeadline; end == Vigil::End::kDeadline;) {
      end = vigil.Until(now() + std::chrono::hours(24), [&] { return taken.load(); });
    }
  }
  handover.reset();  // a hand-over that is under way comes to nothing, unless it has been taken by now
  if (taken) cause = Cause::kSuccessor;

  // Drain. Told by a signal: out of Consul and out of /ready first, and on with the service while that gets about; then
  // no new connections, then what is in flight. Where another process has the sockets, nobody has to be told.
  const auto drain_delay = cause == Cause::kSignal ? ToMillis(config.server().drain_delay()) : milliseconds(0);
  const auto drain_timeout = ToMillis(config.server().drain_timeout());
  const TimePoint delayed_until = now() + drain_delay;
  if (cause == Cause::kSignal) {
    draining = true;
    vigil.LetSignalsEnd();
    spdlog::info("draining: {} ms more for new connections, then {} ms for requests in flight", drain_delay.count(),
                 drain_timeout.count());
  } else {
    if (admin) admin->StopListening();
    spdlog::info("draining: no new connections, {} ms for requests in flight", drain_timeout.count());
  }
  std::atomic<bool> drained{false};
  const auto each_drained = AfterAll(workers.size(), [&] {
    drained = true;
    vigil.Wake();
  });
  const auto drain = [&](milliseconds idle_grace) {
    for (const auto& worker : workers) worker->Drain(idle_grace, each_drained);
  };
  if (cause == Cause::kSignal) {
    for (const auto& worker : workers) worker->AnnounceEnd();
    client->Stop(std::min(kGoodbyeTimeout, drain_delay + drain_timeout));
    (void)vigil.Until(delayed_until, [] { return false; });
    drain(std::min(kIdleGraceMax, drain_timeout / 4));
  } else {
    // Idle connections lose nothing by waiting for their next answer.
    drain(drain_timeout);
    // The instance goes on under its name, or it is gone.
    const bool renamed = cause == Cause::kSuccessor && successor != client->name();
    client->Stop(kGoodbyeTimeout, renamed ? ConfigClient::Goodbye::kSaid : ConfigClient::Goodbye::kNone);
  }
  const TimePoint deadline = now() + drain_timeout;
  Vigil::End end = vigil.Until(deadline, [&] { return drained.load(); });
  if (end == Vigil::End::kSignal) {  // one that was not the cause: it drains already
    vigil.LetSignalsEnd();
    end = vigil.Until(deadline, [&] { return drained.load(); });
  }
  if (end == Vigil::End::kDeadline) {
    spdlog::warn("{} connections were still open after drain_timeout", counts.connections.load());
    for (const auto& worker : workers) worker->CutShort();
    (void)vigil.Until(now() + kCutShortWait, [&] { return drained.load(); });
  }
  for (const auto& worker : workers) worker->Stop();
  admin.reset();
  runtime.OnHostsChanged(nullptr);
  quota.Stop();
  client.reset();  // writes what the cache has not seen yet
  log.reset();
  spdlog::info("ended");
  spdlog::default_logger()->flush();
  // Connections that did not end in time are coroutines in mid-step: the process's end is theirs.
  _exit(cause == Cause::kRefused ? 1 : 0);
}

}  // namespace
}  // namespace gateway::dataplane

int main(int argc, char** argv) { return gateway::dataplane::Run(argc, argv); }
