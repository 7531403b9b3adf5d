// gateway-dataplane: the proxy. Wires listeners, workers, configuration and the metrics port; waits for signals.
#include <signal.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "common/bootstrap.h"
#include "common/log.h"
#include "common/text.h"
#include "common/version.h"
#include "dataplane/access_log.h"
#include "dataplane/admin_http.h"
#include "dataplane/config_client.h"
#include "dataplane/listener.h"
#include "dataplane/metrics.h"
#include "dataplane/runtime_metrics.h"
#include "dataplane/server_options.h"
#include "dataplane/serving_state.h"
#include "dataplane/worker.h"

namespace gateway::dataplane {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kGoodbyeTimeout{1000};
constexpr milliseconds kIdleGraceMax{1000};  // of connections between two requests, once draining began

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

// Waits for the next of `signals`, at most until `deadline`; 0: the deadline came first.
int AwaitSignal(const sigset_t& signals, std::chrono::steady_clock::time_point deadline) {
  for (;;) {
    const auto left = deadline - std::chrono::steady_clock::now();
    if (left <= left.zero()) return 0;
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
    const timespec wait{std::min<time_t>(seconds.count(), 3600), static_cast<long>((left - seconds).count())};
    const int signal = sigtimedwait(&signals, nullptr, &wait);
    if (signal > 0) return signal;
  }
}

int Run(int argc, char** argv) {
  DaemonArguments arguments = ParseDaemonArguments(argc, argv, "gateway-dataplane",
                                                   "The gateway's proxy: forwards HTTP as its control plane says.");
  if (arguments.exit_code) return *arguments.exit_code;
  const v1::Bootstrap& config = arguments.config;
  InitLogging(config.logging(), "gateway-dataplane");

  // Every thread inherits the mask; only this one waits for signals.
  sigset_t signals;
  sigemptyset(&signals);
  for (const int each : {SIGTERM, SIGINT, SIGUSR1}) sigaddset(&signals, each);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  RaiseDescriptorLimit();

  const auto options = ServerOptions::From(config);
  if (!options.ok()) {
    spdlog::critical("{}", std::string(options.status().message()));
    return 2;
  }
  const int worker_count = WorkerCount(config.server());
  auto listeners = OpenListeners(config.server(), worker_count);
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
  RuntimeState runtime(&metrics);
  const std::vector<v1::Resource> builtins = BuiltinResources(BuiltinLimitOf(config));
  std::vector<const v1::Resource*> builtin_pointers;
  builtin_pointers.reserve(builtins.size());
  for (const v1::Resource& each : builtins) builtin_pointers.push_back(&each);
  const CompileResult empty = CompileSnapshot(builtin_pointers, CompileOptions());
  const auto first_state = runtime.Bind(empty.snapshot, EndpointTable(), false);

  BufferBudget budget(config.server().buffer_budget());
  ConnectionCounts counts;
  Worker::Shared shared;
  shared.options = &*options;
  shared.budget = &budget;
  shared.counts = &counts;
  shared.metrics_page = [&metrics] { return MetricsReply(metrics).body; };
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
  std::unique_ptr<ConfigClient> client;
  std::unique_ptr<AdminHttp> admin;
  if (config.metrics().enabled()) {
    auto listening = AdminHttp::Listen(
        config.metrics().host(), static_cast<uint16_t>(config.metrics().port()), &metrics,
        [&client] { return client->ready(); }, [&draining] { return draining.load(); });
    if (!listening.ok()) {
      spdlog::critical("{}", std::string(listening.status().message()));
      return 1;
    }
    admin = *std::move(listening);
  }
  // Consul's check asks the main port where that answers /health, else the metrics port.
  client_options.health_port = config.server().builtin_routes() || !admin ? listeners->port : admin->port();
  client = std::make_unique<ConfigClient>(client_options, &runtime, [&workers](auto state, auto done) {
    const auto each_done = AfterAll(workers.size(), std::move(done));
    for (const auto& worker : workers) worker->Install(state, each_done);
  });
  metrics.AddSource([&client] { return client->Families(); });
  metrics.AddSource([&runtime, &log] { return RuntimeFamilies(runtime, log.get()); });
  metrics.AddSource([] { return ProcessFamilies("dataplane"); });

  for (const auto& worker : workers) worker->Start();
  if (const absl::Status status = client->Start(); !status.ok()) {
    spdlog::critical("{}", std::string(status.message()));
    return 1;
  }
  if (admin) admin->Start();
  std::string where;
  for (const std::string& address : listeners->addresses) where += (where.empty() ? "" : ", ") + address;
  spdlog::info("gateway-dataplane {} serves on {} with {} workers; metrics on {}", kVersion, where, worker_count,
               admin ? Concat(config.metrics().host(), ":", admin->port()) : "no port");

  constexpr auto kForEver = std::chrono::hours(24 * 365);
  for (;;) {
    const int signal = AwaitSignal(signals, std::chrono::steady_clock::now() + kForEver);
    if (signal == SIGUSR1 && log) log->Reopen();
    if (signal == SIGTERM || signal == SIGINT) break;
  }

  // Drain: out of Consul first, then no new connections, then what is in flight.
  draining = true;
  const auto drain_timeout = ToMillis(config.server().drain_timeout());
  const auto deadline = std::chrono::steady_clock::now() + drain_timeout;
  spdlog::info("draining: new connections are refused, {} ms for what is in flight", drain_timeout.count());
  // A second signal ends the process at once: with the default action it needs nobody to wait for it.
  // SIGUSR1 stays blocked: its default action would end the process too.
  std::signal(SIGTERM, SIG_DFL);
  std::signal(SIGINT, SIG_DFL);
  sigdelset(&signals, SIGUSR1);
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  client->Stop(std::min(kGoodbyeTimeout, drain_timeout));
  std::mutex mutex;
  std::condition_variable all_drained;
  bool drained = false;
  const auto each_drained = AfterAll(workers.size(), [&] {
    const std::lock_guard lock(mutex);
    drained = true;
    all_drained.notify_all();
  });
  for (const auto& worker : workers) worker->Drain(std::min(kIdleGraceMax, drain_timeout / 4), each_drained);
  {
    std::unique_lock lock(mutex);
    if (!all_drained.wait_until(lock, deadline, [&] { return drained; })) {
      spdlog::warn("{} connections were still open after drain_timeout", counts.connections.load());
    }
  }
  for (const auto& worker : workers) worker->Stop();
  admin.reset();
  client.reset();  // writes what the cache has not seen yet
  log.reset();
  spdlog::info("ended");
  spdlog::default_logger()->flush();
  // Connections that did not end in time are coroutines in mid-step: the process's end is theirs.
  _exit(0);
}

}  // namespace
}  // namespace gateway::dataplane

int main(int argc, char** argv) { return gateway::dataplane::Run(argc, argv); }
