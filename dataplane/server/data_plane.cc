#include "dataplane/server/data_plane.h"

#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/host_port.h"
#include "common/base/service_manager.h"
#include "common/base/text.h"
#include "common/base/units.h"
#include "common/base/version.h"
#include "common/policy/builtin.h"
#include "dataplane/net/socket.h"
#include "dataplane/server/runtime_metrics.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kGoodbyeTimeout{1000};
constexpr milliseconds kCutShortWait{1000};  // for the last responses, after drain_timeout
constexpr milliseconds kIdleGraceMax{1000};  // of connections between two requests, once no new ones are accepted
constexpr milliseconds kReadyInterval{10};   // between two looks whether there is something to serve
constexpr milliseconds kCatchUpWait{5000};
constexpr milliseconds kKeysWait{2000};  // for the private keys that the cache does not have

TimePoint Now() { return std::chrono::steady_clock::now(); }

// Calls `all_done` when it has been called as often as there are workers.
std::function<void()> AfterAll(size_t count, std::function<void()> all_done) {
  auto left = std::make_shared<std::atomic<size_t>>(count);
  return [left, all_done = std::move(all_done)] {
    if (left->fetch_sub(1) == 1) all_done();
  };
}

MetricsRegistry::Options MetricsOptionsOf(const v1::Bootstrap& config) {
  MetricsRegistry::Options options;
  options.keep_removed_for = ToMillis(config.metrics().keep_removed_for());
  return options;
}

RuntimeState::Options RuntimeOptionsOf(const v1::Bootstrap& config) {
  RuntimeState::Options options;
  options.zone = config.data_plane().zone();
  return options;
}

// Of the sockets that a predecessor's metrics port listens on, the one at the configured address; -1: none. Closes the
// others.
int PickMetricsSocket(const v1::MetricsSection& metrics, const std::string& host, Predecessor* predecessor) {
  int fd = -1;
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
  return fd;
}

}  // namespace

int WorkerCount(const v1::ServerSection& server) {
  if (server.workers() != "auto")
    return std::max(1, std::atoi(server.workers().c_str()));  // checked with the bootstrap
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

DataPlane::DataPlane(const v1::Bootstrap& config, ServerOptions options, SignalLoop* signals)
    : config_(config),
      options_(std::move(options)),
      signals_(signals),
      worker_count_(WorkerCount(config.server())),
      metrics_(worker_count_, MetricsOptionsOf(config)),
      runtime_(&metrics_, RuntimeOptionsOf(config)),
      budget_(config.server().buffer_budget()),
      watchdog_(static_cast<size_t>(worker_count_), options_.watchdog_timeout, SignalLoop::kWatchInterval) {}

absl::Status DataPlane::Open() {
  auto passed = TakeSystemdSockets();
  if (!passed.ok()) return passed.status();
  passed_ = *std::move(passed);
  for (const PassedSocket& each : passed_) spdlog::info("systemd passed a socket at {}", AddressText(each.address));
  auto tls = TlsListeners::Open(config_.server(), worker_count_);
  if (!tls.ok()) return absl::FailedPreconditionError(std::string(tls.status().message()));
  tls_ = *std::move(tls);
  if (const absl::Status status = FindPredecessor(); !status.ok()) return status;
  auto listeners = OpenListeners(config_.server(), worker_count_, std::exchange(passed_, {}));
  if (!listeners.ok()) return listeners.status();
  listeners_ = *std::move(listeners);
  if (options_.log_requests) {
    auto opened = AccessLog::Open(config_.access_log().path(), config_.logging().format());
    if (!opened.ok()) return opened.status();
    log_ = *std::move(opened);
  }
  MakeWorkers();
  if (config_.metrics().enabled()) {
    if (const absl::Status status = OpenMetrics(); !status.ok()) return status;
  }
  if (absl::Status status = MakeClient(); !status.ok()) return status;
  AddMetricSources();
  return absl::OkStatus();
}

absl::Status DataPlane::FindPredecessor() {
  if (config_.server().handover().empty()) return absl::OkStatus();
  auto found = Predecessor::Find(config_.server().handover());
  if (!found.ok()) return found.status();
  predecessor_ = *std::move(found);
  if (predecessor_ == nullptr) return absl::OkStatus();
  const std::vector<PassedSocket> sockets = predecessor_->TakeMain();
  spdlog::info("hand-over: process {} hands over {} sockets", predecessor_->pid(), sockets.size());
  passed_.insert(passed_.end(), sockets.begin(), sockets.end());
  return absl::OkStatus();
}

// On the predecessor's socket where that is at the configured address.
absl::Status DataPlane::OpenMetrics() {
  const v1::MetricsSection& section = config_.metrics();
  const std::string host = section.host() == "localhost" ? "127.0.0.1" : section.host();
  const int fd = predecessor_ != nullptr ? PickMetricsSocket(section, host, predecessor_.get()) : -1;
  auto opened = fd >= 0 ? MetricsHttp::Adopt(fd) : MetricsHttp::Listen(host, static_cast<uint16_t>(section.port()));
  if (!opened.ok()) return opened.status();
  admin_ = std::make_unique<AdminHttp>(*std::move(opened), &metrics_, [this] {
    return Readiness{.configured = client_->ready(),
                     .draining = draining_ || drained_by_operator_,
                     .stalled = watchdog_.AllStalled()};
  });
  return absl::OkStatus();
}

void DataPlane::MakeWorkers() {
  const std::vector<v1::Resource> builtins = BuiltinResources(BuiltinLimitOf(config_));
  std::vector<const v1::Resource*> pointers;
  pointers.reserve(builtins.size());
  for (const v1::Resource& each : builtins) pointers.push_back(&each);
  const auto first_state = runtime_.Bind(CompileSnapshot(pointers, CompileOptions()).snapshot, EndpointTable(), false);

  Worker::Shared shared;
  shared.authentication = &authentication_;
  shared.tls = tls_.get();
  shared.options = &options_;
  shared.budget = &budget_;
  shared.counts = &counts_;
  shared.metrics_page = [this] { return MetricsReply(metrics_).body; };
  if (worker_count_ > 1) {
    shared.ask_others_for_room = [this](int asking) {
      for (const auto& worker : workers_) {
        if (worker->index() != asking) worker->CloseOneIdle();
      }
    };
    shared.close_silent = [this](int worker, uint64_t id) { workers_[static_cast<size_t>(worker)]->CloseSilent(id); };
  }
  if (const auto redis = ParseHostPort(config_.redis().address()); redis.ok()) {
    redis_directory_ = std::make_unique<RedisDirectory>(redis->host, redis->port);
    shared.redis_directory = redis_directory_.get();
    shared.redis = {config_.redis().username(), config_.redis().password(), config_.redis().db()};
  }
  workers_.reserve(static_cast<size_t>(worker_count_));
  for (int i = 0; i < worker_count_; ++i) {
    workers_.push_back(std::make_unique<Worker>(i, shared, listeners_.of_worker[static_cast<size_t>(i)],
                                                metrics_.shard(i), log_ ? log_->NewBuffer() : nullptr, first_state));
  }
}

absl::Status DataPlane::MakeClient() {
  ConfigClientOptions options;
  options.bootstrap = config_;
  options.credentials = std::make_shared<ControlPlaneCredentials>(config_.data_plane().tls());
  if (config_.data_plane().name().empty()) {
    const absl::StatusOr<std::string> name = options.credentials->Name(absl::Now());
    if (!name.ok()) {
      return absl::Status(name.status().code(),
                          absl::StrCat(name.status().message(),
                                       "; without data_plane.name, the data plane is called as its certificate says"));
    }
    options.bootstrap.mutable_data_plane()->set_name(*name);  // "": the host's name and the main port
  }
  options.workers = static_cast<uint32_t>(worker_count_);
  options.main_port = listeners_.port;
  if (predecessor_ != nullptr) {
    options.replaces_instance = predecessor_->instance().empty() ? "*" : predecessor_->instance();
  }
  options.redis_away = [this] {
    return std::any_of(workers_.begin(), workers_.end(), [](const auto& worker) {
      return worker->redis() == nullptr || !worker->redis()->counters().up.load(std::memory_order_relaxed);
    });
  };
  options.diagnose = [this] {
    v1::DiagnosticFile metrics;
    metrics.set_name("metrics.txt");
    metrics.set_content(MetricsReply(metrics_).body);
    return std::vector<v1::DiagnosticFile>{std::move(metrics)};
  };
  options.ticket_keys = [this](const v1::TicketKeysUpdate& update) { return tls_->UseTicketKeys(update); };
  options.challenges = [this](const v1::ChallengesUpdate& update) { tls_->UseChallenges(update); };
  options.set_drained = [this](bool drained) {
    drained_by_operator_ = drained;
    for (const auto& worker : workers_) worker->SetDrained(drained);
  };
  // Consul's check asks the main port if that serves /health, else the metrics port.
  options.health_port = config_.server().builtin_routes() || !admin_ ? listeners_.port : admin_->port();
  client_ = std::make_unique<ConfigClient>(options, &runtime_, [this](auto state, auto done) {
    WarnOfCertificates(*state->snapshot);
    tls_->UseCertificates(state->snapshot->certificates(), [this](int worker, TlsContexts contexts) {
      workers_[static_cast<size_t>(worker)]->InstallTls(std::move(contexts));
    });
    const auto each_done = AfterAll(workers_.size(), std::move(done));
    for (const auto& worker : workers_) worker->Install(state, each_done);
  });
  runtime_.OnHostsChanged([this] { client_->Rebind(); });

  QuotaClientOptions quota;
  quota.name = client_->name();
  quota.credentials = options.credentials;
  if (config_.data_plane().policy_files_size() == 0) {
    quota.control_planes = {config_.data_plane().control_planes().begin(), config_.data_plane().control_planes().end()};
  }
  quota.tables = [this] { return runtime_.Leases(); };
  quota.link = runtime_.lease_link();
  const v1::ClientTlsSection& tls = config_.data_plane().tls();
  if (!tls.join_token_file().empty() && !quota.control_planes.empty()) {
    enroller_ = std::make_unique<Enroller>(tls, quota.control_planes, client_->name());
  }
  quota_ = std::make_unique<QuotaClient>(std::move(quota));
  return absl::OkStatus();
}

// What no client could ever pass; told again when it is mended and comes back.
void DataPlane::WarnOfCertificates(const Snapshot& policy) {
  std::string_view asking;
  for (const auto& auth : policy.auths()) {
    for (const AuthMethodPolicy& method : auth->methods) {
      if (method.kind == AuthMethodPolicy::Kind::kClientCertificate) asking = auth->name;
    }
  }
  const bool lost = !asking.empty() && !tls_->asks_certificates();
  if (lost && !told_of_certificates_) {
    spdlog::warn(
        "Auth/{} takes client certificates, but no listener asks for them (server.listeners[].tls.client_certificate)",
        asking);
  }
  told_of_certificates_ = lost;
}

void DataPlane::AddMetricSources() {
  metrics_.AddSource([this] { return client_->Families(); });
  metrics_.AddSource([this] { return RuntimeFamilies(runtime_, log_.get()); });
  metrics_.AddSource([this] { return PasswordFamilies(authentication_.passwords); });
  metrics_.AddSource([] { return ProcessFamilies("dataplane"); });
  metrics_.AddSource([this] {
    std::vector<const RedisStore*> stores;
    for (const auto& worker : workers_) {
      if (worker->redis() != nullptr) stores.push_back(worker->redis());
    }
    return RedisFamilies(stores);
  });
  metrics_.AddSource([this] { return quota_->Families(); });
  if (enroller_ != nullptr) metrics_.AddSource([this] { return enroller_->Families(); });
  metrics_.AddSource([this] { return watchdog_.Families(); });
  metrics_.AddSource([this] { return tls_->Families(); });
  metrics_.AddSource([this] {
    std::vector<const http2::SessionMetrics*> of_workers;
    for (const auto& worker : workers_) of_workers.push_back(&worker->http2_metrics());
    return http2::SessionFamilies(of_workers);
  });
  metrics_.AddSource([this] {
    std::vector<const http2::ClientMetrics*> of_workers;
    for (const auto& worker : workers_) of_workers.push_back(&worker->upstream_http2_metrics());
    return http2::ClientFamilies(of_workers);
  });
}

absl::Status DataPlane::Start() {
  for (const auto& worker : workers_) worker->Start();
  signals_->LookAfter(&workers_, &watchdog_, log_.get(), tls_.get());
  if (enroller_ != nullptr) enroller_->Start();
  if (const absl::Status status = client_->Start(); !status.ok()) return status;
  quota_->Start();
  if (predecessor_ != nullptr) {
    if (const absl::Status status = AwaitConfiguration(); !status.ok()) return status;
  } else if (client_->lacks_keys()) {
    // Of the cache: a moment later than clients could connect, a control plane has sent them.
    const auto sent = [this] { return !client_->lacks_keys(); };
    if (signals_->Until(Now() + kKeysWait, sent, kReadyInterval) == SignalLoop::End::kSignal) {
      (void)kill(getpid(), SIGTERM);  // AwaitEnd's to see
    }
  }
  Accept();
  if (predecessor_ != nullptr) TakeItsPlace();
  if (!config_.server().handover().empty() && cause_ != Cause::kRefused) OfferHandover();
  NotifyServiceManager("READY=1");
  return absl::OkStatus();
}

// Nothing is accepted before there is something to serve. A cache may be older than what the predecessor serves: the
// control plane has a moment to say what is new.
absl::Status DataPlane::AwaitConfiguration() {
  const TimePoint caught_up = Now() + kCatchUpWait;
  const auto ready = [&] {
    const bool current = client_->revision() >= predecessor_->revision() && !client_->lacks_keys();
    return client_->ready() && (current || Now() >= caught_up);
  };
  const SignalLoop::End end = signals_->Until(Now() + kSuccessorPatience, ready, kReadyInterval);
  if (end == SignalLoop::End::kDone || (end != SignalLoop::End::kSignal && !predecessor_->there())) {
    return absl::OkStatus();
  }
  return absl::AbortedError(Concat(
      "hand-over: this process ", end == SignalLoop::End::kSignal ? "was told to end" : "has no configuration to serve",
      "; process ", predecessor_->pid(), " serves on"));
}

void DataPlane::Accept() {
  const auto each_accepting = AfterAll(workers_.size(), [this] {
    accepting_ = true;
    signals_->Wake();
  });
  for (const auto& worker : workers_) worker->Listen(each_accepting);
  if (admin_) admin_->Start();
  std::string where;
  for (const std::string& address : listeners_.addresses) where += (where.empty() ? "" : ", ") + address;
  spdlog::info("gateway-dataplane {} serves on {} with {} workers; metrics on {}", kVersion, where, worker_count_,
               admin_ ? Concat(config_.metrics().host(), ":", admin_->port()) : "no port");
}

void DataPlane::TakeItsPlace() {
  (void)signals_->Until(Now() + kGoodbyeTimeout, [this] { return accepting_.load(); });
  const absl::Status status = predecessor_->Succeed(client_->name());
  if (status.ok()) {
    spdlog::info("hand-over: process {} drains, this one has its place", predecessor_->pid());
  } else if (absl::IsFailedPrecondition(status)) {
    spdlog::critical("hand-over: {}", std::string(status.message()));
    cause_ = Cause::kRefused;
  } else {
    spdlog::warn("hand-over: process {} does not respond ({}): this process continues alone", predecessor_->pid(),
                 std::string(status.message()));
  }
  for (const ListeningSocket& each : listeners_.leaving) workers_[0]->AcceptLast(each);
  predecessor_.reset();
}

void DataPlane::OfferHandover() {
  HandoverServer::Options options;
  options.path = config_.server().handover();
  options.instance = client_->instance_id();
  for (const PassedSocket& each : listeners_.sockets) {
    options.sockets.push_back(
        {each.systemd ? SocketRole::kSystemd : SocketRole::kMain, each.fd, AddressText(each.address)});
  }
  if (admin_) options.sockets.push_back({SocketRole::kMetrics, admin_->fd(), admin_->address()});
  options.revision = [this] { return client_->revision(); };
  options.under_way = [this](bool on) { client_->StandBy(on); };
  options.taken = [this](const std::string& name) {
    successor_ = name;
    taken_ = true;
    signals_->Wake();
  };
  auto started = HandoverServer::Start(std::move(options));
  if (started.ok()) {
    handover_ = *std::move(started);
  } else {
    spdlog::error("hand-over: {}; the next process can't take over", std::string(started.status().message()));
  }
}

void DataPlane::AwaitEnd() {
  if (cause_ == Cause::kRefused) return;
  while (signals_->Until(Now() + std::chrono::hours(24), [this] { return taken_.load(); }) ==
         SignalLoop::End::kDeadline) {
  }
  handover_.reset();  // a hand-over that is under way comes to nothing, unless it has been taken by now
  if (taken_) cause_ = Cause::kSuccessor;
}

int DataPlane::Drain() {
  NotifyServiceManager("STOPPING=1");
  AnnounceDrain();
  DrainWorkers();
  for (const auto& worker : workers_) worker->Stop();
  admin_.reset();
  runtime_.OnHostsChanged(nullptr);
  quota_->Stop();
  client_.reset();  // writes what the cache has not seen yet
  log_.reset();
  spdlog::info("ended");
  return cause_ == Cause::kRefused ? 1 : 0;
}

// Told by a signal: out of Consul and out of /ready first, and on with the service while that gets about; then no new
// connections. If another process has the sockets, nothing has to be announced.
void DataPlane::AnnounceDrain() {
  const auto drain_timeout = ToMillis(config_.server().drain_timeout());
  if (cause_ != Cause::kSignal) {
    if (admin_) admin_->StopListening();
    spdlog::info("draining: no new connections, {} ms for requests in flight", drain_timeout.count());
    return;
  }
  const auto drain_delay = ToMillis(config_.server().drain_delay());
  const TimePoint delayed_until = Now() + drain_delay;
  draining_ = true;
  signals_->LetSignalsEnd();
  spdlog::info("draining: {} ms more for new connections, then {} ms for requests in flight", drain_delay.count(),
               drain_timeout.count());
  for (const auto& worker : workers_) worker->AnnounceEnd();
  client_->Stop(std::min(kGoodbyeTimeout, drain_delay + drain_timeout));
  (void)signals_->Until(delayed_until, [] { return false; });
}

void DataPlane::DrainWorkers() {
  const auto drain_timeout = ToMillis(config_.server().drain_timeout());
  const auto drained = [this] { return drained_.load(); };
  const auto each_drained = AfterAll(workers_.size(), [this] {
    drained_ = true;
    signals_->Wake();
  });
  // With a successor, idle connections lose nothing by waiting for their next response.
  const milliseconds idle_grace = cause_ == Cause::kSignal ? std::min(kIdleGraceMax, drain_timeout / 4) : drain_timeout;
  for (const auto& worker : workers_) worker->Drain(idle_grace, each_drained);
  if (cause_ != Cause::kSignal) SayGoodbye();
  const TimePoint deadline = Now() + drain_timeout;
  SignalLoop::End end = signals_->Until(deadline, drained);
  if (end == SignalLoop::End::kSignal) {  // one that was not the cause: it drains already
    signals_->LetSignalsEnd();
    end = signals_->Until(deadline, drained);
  }
  if (end != SignalLoop::End::kDeadline) return;
  spdlog::warn("{} connections were still open after drain_timeout", counts_.connections.load());
  for (const auto& worker : workers_) worker->CutShort();
  (void)signals_->Until(Now() + kCutShortWait, drained);
}

// The instance continues under its name, or it is gone.
void DataPlane::SayGoodbye() {
  const bool renamed = cause_ == Cause::kSuccessor && successor_ != client_->name();
  client_->Stop(kGoodbyeTimeout, renamed ? ConfigClient::Goodbye::kSaid : ConfigClient::Goodbye::kNone);
}

}  // namespace gateway::dataplane
