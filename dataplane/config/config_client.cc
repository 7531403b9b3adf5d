#include "dataplane/config/config_client.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <optional>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/random/random.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/log_level.h"
#include "common/base/thread.h"
#include "common/base/units.h"
#include "common/base/version.h"
#include "common/config/codec.h"
#include "common/policy/resource.h"
#include "dataplane/config/applied_config.h"
#include "dataplane/config/cache_keys.h"
#include "dataplane/config/chunk_stage.h"
#include "dataplane/config/config_cache.h"
#include "dataplane/config/config_metrics.h"
#include "dataplane/config/control_plane_rotation.h"
#include "dataplane/config/control_plane_stream.h"
#include "dataplane/config/reporter.h"
#include "gateway/v1/config_stream.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "spdlog/fmt/fmt.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

using SteadyClock = std::chrono::steady_clock;
using namespace std::chrono_literals;

// From the start of a stream to the control plane's first message, connecting included.
constexpr auto kWelcomeWait = 5s;
constexpr int kMessageBytesMax = 16 << 20;  // chunks are at most 1 MiB; one resource may be more: 10 MiB
constexpr size_t kUnreadMessagesMax = 2;
constexpr int kRoundsMax = 6;  // ReconnectDelay grows no more
constexpr size_t kLoggedRejectionsMax = 20;
constexpr auto kCacheInterval = 1s;     // between two writes of the cache
constexpr auto kSweepInterval = 200ms;  // between two looks for states that no worker holds any more
constexpr auto kReportInterval = 1s;    // between two reports, and only with news
constexpr size_t kDiagnosticsChunkBytes = 512u << 10;

using ConfigStream = ControlPlaneStream<v1::ConfigStream::Stub, v1::DataPlaneMessage, v1::ControlPlaneMessage,
                                        &v1::ConfigStream::Stub::Connect>;

// What other threads tell the configuration thread.
struct Inbox : StreamInbox<v1::ControlPlaneMessage> {
  bool stand_by ABSL_GUARDED_BY(mutex) = false;
  bool rebind ABSL_GUARDED_BY(mutex) = false;
  bool goodbye ABSL_GUARDED_BY(mutex) = true;
  TimePoint stop_by ABSL_GUARDED_BY(mutex);
};

std::string RandomId() {
  absl::BitGen random;
  return fmt::format("{:016x}{:016x}", absl::Uniform<uint64_t>(random), absl::Uniform<uint64_t>(random));
}

std::string HostName() {
  std::array<char, HOST_NAME_MAX + 1> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) return "dataplane";
  return name.data();
}

v1::Hello HelloOf(const ConfigClientOptions& options) {
  const v1::DataPlaneSection& section = options.bootstrap.data_plane();
  v1::Hello hello;
  hello.set_schema_version(kSchemaVersion);
  hello.set_name(section.name().empty() ? fmt::format("{}:{}", HostName(), options.main_port) : section.name());
  hello.set_instance_id(RandomId());
  hello.set_replaces_instance(options.replaces_instance);
  hello.set_version(kVersion);
  hello.set_workers(options.workers);
  hello.set_zone(section.zone());
  *hello.mutable_labels() = section.labels();
  // An empty host: the control plane sees where the stream comes from.
  hello.set_advertise(section.advertise().empty() ? fmt::format(":{}", options.main_port) : section.advertise());
  hello.set_health_port(options.health_port);
  hello.set_takes_operations(true);
  hello.set_takes_edge(options.ticket_keys != nullptr && options.challenges != nullptr);
  hello.set_takes_drain(options.set_drained != nullptr);
  return hello;
}

// The bootstrap file's credentials unless the caller has some.
ConfigClientOptions WithCredentials(ConfigClientOptions options) {
  if (options.credentials == nullptr) {
    options.credentials = std::make_shared<ControlPlaneCredentials>(options.bootstrap.data_plane().tls());
  }
  return options;
}

std::vector<std::string> ControlPlanesOf(const v1::Bootstrap& bootstrap) {
  const auto& addresses = bootstrap.data_plane().control_planes();
  return {addresses.begin(), addresses.end()};
}

}  // namespace

struct ConfigClient::Impl {
  Impl(ConfigClientOptions given, RuntimeState* runtime, InstallFunction install)
      : options(WithCredentials(std::move(given))),
        hello(HelloOf(options)),
        applied(options.bootstrap),
        installer(runtime, std::move(install)),
        reporter(runtime, options.redis_away),
        rotation(ControlPlanesOf(options.bootstrap), kRoundsMax) {
    if (!alone() && !options.bootstrap.data_plane().cache_dir().empty()) {
      cache = std::make_unique<ConfigCache>(options.bootstrap.data_plane().cache_dir());
    }
  }

  // Runs on policy files, without a control plane.
  bool alone() const { return options.bootstrap.data_plane().policy_files_size() > 0; }

  absl::Status LoadInitial() {
    if (alone()) {
      std::vector<std::string> warnings;
      if (absl::Status status = applied.LoadPolicyFiles(&warnings); !status.ok()) return status;
      for (const std::string& warning : warnings) spdlog::warn("policy: {}", warning);
      return absl::OkStatus();
    }
    if (cache != nullptr) {
      std::vector<std::string> problems;
      ConfigCache::Content content = cache->Load(&problems);
      for (const std::string& problem : problems) spdlog::error("configuration cache: {}; it is ignored", problem);
      applied.Restore(std::move(content), absl::Now());
    }
    return applied.LoadBuiltins();
  }

  // ---- Installing. False: the client is stopping.

  bool Install() {
    installer.Begin(applied.snapshot(), applied.endpoints(), applied.has_policy());
    return AwaitInstall();
  }

  bool AwaitInstall() {
    if (!installer.Await()) return false;
    metrics.SetServed({.ready = applied.has_policy(),
                       .lacks_keys = applied.lacks_keys(),
                       .revision = applied.snapshot()->revision(),
                       .endpoints_version = applied.endpoints().version});
    return true;
  }

  // ---- The thread.

  void Run() {
    (void)AwaitInstall();  // stopped meanwhile, the loop ends at once
    if (!alone()) reconnect_at = SteadyClock::now();
    while (true) {
      v1::ControlPlaneMessage message;
      std::optional<grpc::Status> end;
      bool stop = false, goodbye = true, received = false, rebind = false;
      {
        const auto awake = [this]() ABSL_SHARED_LOCKS_REQUIRED(inbox->mutex) {
          return inbox->stop || !inbox->messages.empty() || inbox->stream_end.has_value() ||
                 inbox->stand_by != standing_by || inbox->rebind;
        };
        absl::MutexLock lock(&inbox->mutex);
        inbox->mutex.AwaitWithDeadline(absl::Condition(&awake), absl::Now() + absl::FromChrono(UntilNextTimer()));
        stop = inbox->stop;
        goodbye = inbox->goodbye;
        standing_by = inbox->stand_by;
        rebind = std::exchange(inbox->rebind, false);
        if (!inbox->messages.empty()) {
          message = std::move(inbox->messages.front().message);
          inbox->messages.pop_front();
          received = true;
        } else {
          end = std::exchange(inbox->stream_end, std::nullopt);
        }
      }
      if (stop) {
        if (goodbye) SayGoodbye();
        EndStream();
        if (goodbye && cache != nullptr) SaveCache();
        return;
      }
      if (received) {
        OnMessage(std::move(message));
      } else if (end) {
        OnStreamEnd(*end);
      }
      if (rebind) Install();
      RunTimers();
    }
  }

  SteadyClock::duration UntilNextTimer() const {
    TimePoint next = TimePoint::max();
    if (stream == nullptr && reconnect_at && !standing_by) next = std::min(next, *reconnect_at);
    if (stream != nullptr && !welcomed) next = std::min(next, stream_begin + kWelcomeWait);
    if (reports()) next = std::min(next, report_at);
    if (installer.has_retired()) next = std::min(next, sweep_at);
    if (policy_unsaved || endpoints_unsaved) next = std::min(next, cache_at);
    if (applied.overrides_end() != absl::InfiniteFuture()) {
      // By the wall clock, which may be set: checked at least once a minute.
      const absl::Duration left =
          std::clamp(applied.overrides_end() - absl::Now(), absl::Milliseconds(1), absl::Minutes(1));
      next = std::min(next, SteadyClock::now() + absl::ToChronoNanoseconds(left));
    }
    if (next == TimePoint::max()) return 1h;
    return std::max<SteadyClock::duration>(next - SteadyClock::now(), 0s);
  }

  void RunTimers() {
    const TimePoint now = SteadyClock::now();
    if (stream == nullptr && reconnect_at && !standing_by && now >= *reconnect_at) BeginStream();
    if (stream != nullptr && !welcomed && now >= stream_begin + kWelcomeWait) {
      BreakStream(fmt::format("no response within {} s", kWelcomeWait.count()));
    }
    if (applied.EndOverrides(absl::Now())) {
      spdlog::info("endpoints: what an operator had set for a while is over");
      endpoints_unsaved = cache != nullptr;
      if (!Install()) return;
    }
    if (reports() && now >= report_at) SendReport(now);
    if (installer.has_retired() && now >= sweep_at) {
      sweep_at = now + kSweepInterval;
      installer.Sweep();
    }
    if ((policy_unsaved || endpoints_unsaved) && now >= cache_at) SaveCache();
  }

  // ---- The stream.

  void BeginStream() {
    spdlog::debug("configuration: connecting to {}", rotation.address());
    inbox->Clear();
    policy_stage = {};
    endpoints_stage = {};
    stream_begin = SteadyClock::now();
    welcomed = false;
    grpc::ChannelArguments arguments;
    const absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> credentials =
        options.credentials->ForConnection(absl::Now(), &arguments);
    std::shared_ptr<ConfigStream> next;
    if (credentials.ok()) {
      applied.Describe(&hello);
      hello.set_drained(drained);
      v1::DataPlaneMessage first;
      *first.mutable_hello() = hello;
      next = std::make_shared<ConfigStream>(ControlPlaneStreamOptions{.address = rotation.address(),
                                                                      .credentials = *credentials,
                                                                      .arguments = std::move(arguments),
                                                                      .thread_name = "config-stream",
                                                                      .priority = ThreadPriority::kBackground,
                                                                      .unread_max = kUnreadMessagesMax,
                                                                      .message_bytes_max = kMessageBytesMax},
                                            std::move(first), inbox);
    }
    metrics.CountAttempt();
    {
      absl::MutexLock lock(&stream_mutex);
      stream = std::move(next);
    }
    if (!credentials.ok()) BreakStream(std::string(credentials.status().message()));
  }

  // Ends it at once, and drops what it still delivered.
  void EndStream() {
    std::shared_ptr<ConfigStream> last;
    {
      absl::MutexLock lock(&stream_mutex);
      last = std::move(stream);
      stream = nullptr;
    }
    metrics.SetConnected(false);
    if (last == nullptr) return;
    last->Cancel();
    last.reset();
    inbox->Clear();
  }

  void OnStreamEnd(const grpc::Status& status) {
    if (stream == nullptr) return;
    BreakStream(status.ok() ? "it was ended by the control plane" : status.error_message());
  }

  // The stream is over: the next one is to the next control plane, or, after all of them, later.
  void BreakStream(std::string_view why) {
    const bool was_welcomed = welcomed;
    const std::string address = rotation.address();
    EndStream();
    welcomed = false;
    const std::chrono::milliseconds delay = rotation.Next(was_welcomed, SteadyClock::now() - stream_begin);
    reconnect_at = SteadyClock::now() + delay;
    // Once each time that it goes away, and when the reason changes; not for each attempt.
    if (standing_by) {
      spdlog::info(
          "configuration: the stream from the control plane {} has ended ({}), and is left to the next process",
          address, why);
    } else if (was_welcomed || logged_away != why) {
      spdlog::warn("configuration: no stream from the control plane {}: {}; {}", address, why,
                   applied.has_policy() ? "serving the last configuration" : "there is no configuration to serve yet");
      logged_away = why;
    } else {
      spdlog::debug("configuration: control plane {}: {}; next attempt in {} ms", address, why, delay.count());
    }
  }

  void OnMessage(v1::ControlPlaneMessage message) {
    if (stream == nullptr) return;
    switch (message.message_case()) {
      case v1::ControlPlaneMessage::kWelcome:
        OnWelcome(message.welcome());
        break;
      case v1::ControlPlaneMessage::kPolicy:
        OnChunk(std::move(*message.mutable_policy()), &policy_stage);
        break;
      case v1::ControlPlaneMessage::kEndpoints:
        OnChunk(std::move(*message.mutable_endpoints()), &endpoints_stage);
        break;
      case v1::ControlPlaneMessage::kOperations:
        OnOperations(message.operations());
        break;
      case v1::ControlPlaneMessage::kLogLevel:
        log_level.Set(message.log_level().level(), ToMillis(message.log_level().duration()));
        report_at = SteadyClock::now();
        break;
      case v1::ControlPlaneMessage::kTicketKeys:
        TakeTicketKeys(message.ticket_keys());
        break;
      case v1::ControlPlaneMessage::kChallenges:
        TakeChallenges(message.challenges());
        break;
      case v1::ControlPlaneMessage::kDrain:
        OnDrain(message.drain().drained());
        break;
      case v1::ControlPlaneMessage::kDiagnostics:
        SendDiagnostics(message.diagnostics().id());
        break;
      default:
        break;  // of a newer control plane; what must be understood has a schema version
    }
  }

  void OnWelcome(const v1::Welcome& welcome) {
    welcomed = true;
    logged_away.clear();
    hello.clear_replaces_instance();  // it has its place
    takes_reports = welcome.takes_reports();
    operations_version = 0;
    reporter.Restart();
    report_at = SteadyClock::now();
    spdlog::info("configuration: connected to the control plane {} ({}), revision {}", rotation.address(),
                 welcome.control_plane_version(), welcome.revision());
    metrics.SetConnected(true);
  }

  template <typename Update>
  void OnChunk(Update chunk, ChunkStage<Update>* stage) {
    const uint32_t number = chunk.chunk();
    switch (stage->Add(std::move(chunk), SteadyClock::now())) {
      case ChunkStage<Update>::Step::kMore:
        break;
      case ChunkStage<Update>::Step::kOutOfOrder:
        BreakStream(fmt::format("chunk {} of an update came out of order", number));
        break;
      case ChunkStage<Update>::Step::kComplete:
        OnUpdate(std::exchange(*stage, {}));
        break;
    }
  }

  template <typename Update>
  void OnUpdate(ChunkStage<Update> update) {
    using Step = AppliedConfig::Result::Step;
    constexpr bool kIsPolicy = std::is_same_v<Update, v1::PolicyUpdate>;
    v1::Ack ack;
    if constexpr (kIsPolicy) {
      ack.set_epoch(update.epoch);
      ack.set_revision(update.to);
    } else {
      ack.set_endpoints_epoch(update.epoch);
      ack.set_endpoints_version(update.to);
    }
    const TimePoint begin = update.completed_at;
    AppliedConfig::Result result = applied.Apply(std::move(update));
    switch (result.step) {
      case Step::kOutOfStep:
        return BreakStream(result.why);
      case Step::kRejected:
        return SendNack(std::move(result.nack));
      case Step::kApplied:
        break;
    }
    if (!Install()) return;
    SendAck(std::move(ack), begin);
    (kIsPolicy ? policy_unsaved : endpoints_unsaved) = cache != nullptr;
    for (const std::string& warning : result.warnings) spdlog::warn("policy: {}", warning);
  }

  void OnOperations(const v1::OperationsUpdate& update) {
    applied.Apply(update, absl::Now());
    endpoints_unsaved = cache != nullptr;
    if (!Install()) return;
    operations_version = update.version();
    report_at = SteadyClock::now();
    spdlog::info("endpoints: operators have set {}", applied.overrides());
  }

  // Never in the cache: they live in memory alone.
  void TakeTicketKeys(const v1::TicketKeysUpdate& update) {
    if (!options.ticket_keys) return;
    if (const absl::Status status = options.ticket_keys(update); !status.ok()) {
      spdlog::error("configuration: {}; session tickets are sealed as before", std::string(status.message()));
    } else {
      spdlog::debug("configuration: session tickets are sealed with the fleet's keys");
    }
  }

  void TakeChallenges(const v1::ChallengesUpdate& update) {
    if (!options.challenges) return;
    options.challenges(update);
    v1::DataPlaneMessage message;
    message.mutable_challenges()->set_version(update.version());
    (void)stream->Write(message);
  }

  void OnDrain(bool on) {
    if (!options.set_drained || drained == on) return;
    drained = on;
    options.set_drained(on);
    metrics.SetDrained(on);
    report_at = SteadyClock::now();
    spdlog::info("{} by an operator", on ? "drained" : "taken back into service");
  }

  // ---- What it sends. A broken stream is noticed by its end, so the results of writes are not looked at.

  void SendAck(v1::Ack ack, TimePoint begin) {
    const bool is_policy = ack.endpoints_epoch().empty();
    const auto time = std::chrono::duration_cast<std::chrono::nanoseconds>(SteadyClock::now() - begin);
    ack.mutable_apply_time()->set_seconds(time.count() / 1'000'000'000);
    ack.mutable_apply_time()->set_nanos(static_cast<int32_t>(time.count() % 1'000'000'000));
    metrics.CountApplied(is_policy ? UpdateKind::kPolicy : UpdateKind::kEndpoints, time);
    const double millis = static_cast<double>(time.count()) / 1e6;
    if (is_policy) {
      spdlog::info("configuration: serving revision {} on {} workers after {:.1f} ms", ack.revision(), options.workers,
                   millis);
    } else {
      spdlog::debug("configuration: serving endpoints {} after {:.1f} ms", ack.endpoints_version(), millis);
    }
    v1::DataPlaneMessage message;
    *message.mutable_ack() = std::move(ack);
    (void)stream->Write(message);
  }

  void SendNack(v1::Nack nack) {
    const bool is_policy = nack.endpoints_epoch().empty();
    metrics.CountRejected(is_policy ? UpdateKind::kPolicy : UpdateKind::kEndpoints);
    spdlog::error("configuration: revision {} is rejected, {} stays ({} errors)",
                  is_policy ? nack.revision() : nack.endpoints_version(), nack.applied_revision(),
                  nack.rejections_size());
    for (size_t i = 0; i < std::min<size_t>(kLoggedRejectionsMax, static_cast<size_t>(nack.rejections_size())); ++i) {
      const v1::Rejection& rejection = nack.rejections(static_cast<int>(i));
      spdlog::error("configuration: {}/{}: {}: {}", rejection.kind(), rejection.name(), rejection.field(),
                    rejection.reason());
    }
    v1::DataPlaneMessage message;
    *message.mutable_nack() = std::move(nack);
    (void)stream->Write(message);
  }

  bool reports() const { return stream != nullptr && welcomed && takes_reports; }

  void SendReport(TimePoint now) {
    report_at = now + kReportInterval;
    const auto message = reporter.Next(
        {.operations_version = operations_version, .log_level = log_level.temporary(), .drained = drained}, now);
    if (message) (void)stream->Write(*message);
  }

  // Files that are too long for one message continue in the next.
  void SendDiagnostics(uint64_t id) {
    std::vector<v1::DiagnosticFile> files;
    if (options.diagnose) files = options.diagnose();
    v1::DiagnosticFile& bootstrap = files.emplace_back();
    bootstrap.set_name("bootstrap.yaml");
    bootstrap.set_content(EncodeYaml(options.bootstrap));  // secrets as "redacted"
    for (const v1::DiagnosticFile& file : files) {
      for (size_t at = 0; at == 0 || at < file.content().size(); at += kDiagnosticsChunkBytes) {
        v1::DataPlaneMessage message;
        message.mutable_diagnostics()->set_id(id);
        v1::DiagnosticFile* part = message.mutable_diagnostics()->add_files();
        part->set_name(file.name());
        part->set_content(file.content().substr(at, kDiagnosticsChunkBytes));
        if (!stream->Write(message)) return;
      }
    }
    v1::DataPlaneMessage last;
    last.mutable_diagnostics()->set_id(id);
    last.mutable_diagnostics()->set_last(true);
    (void)stream->Write(last);
  }

  // The control plane ends the stream once it has read it; this waits no longer than Stop allows.
  void SayGoodbye() {
    if (stream == nullptr || !welcomed) return;
    v1::DataPlaneMessage message;
    message.mutable_goodbye()->set_reason("shutdown");
    if (!stream->Write(message)) return;
    stream->WritesDone();
    absl::MutexLock lock(&inbox->mutex);
    const auto ended = [this]() ABSL_SHARED_LOCKS_REQUIRED(inbox->mutex) { return inbox->stream_end.has_value(); };
    (void)inbox->mutex.AwaitWithDeadline(absl::Condition(&ended),
                                         absl::Now() + absl::FromChrono(inbox->stop_by - SteadyClock::now()));
  }

  void SaveCache() {
    cache_at = SteadyClock::now() + kCacheInterval;
    if (std::exchange(policy_unsaved, false)) {
      v1::PolicyUpdate update = applied.PolicyToKeep();
      SealKeys(options.bootstrap.data_plane().tls().key(), &update);
      cache->Save(std::move(update));
    }
    if (std::exchange(endpoints_unsaved, false)) cache->Save(applied.EndpointsToKeep());
  }

  const ConfigClientOptions options;
  std::unique_ptr<ConfigCache> cache;  // null: not kept
  const std::shared_ptr<Inbox> inbox = std::make_shared<Inbox>();
  std::thread thread;

  // Start's until the thread is started, then the thread's.
  v1::Hello hello;
  const std::string name = hello.name(), instance_id = hello.instance_id();
  AppliedConfig applied;
  StateInstaller installer;
  Reporter reporter;
  ControlPlaneRotation rotation;
  LogLevel log_level{options.bootstrap.logging().level()};
  bool policy_unsaved = false, endpoints_unsaved = false;
  bool drained = false;
  bool standing_by = false;
  // Of this stream.
  ChunkStage<v1::PolicyUpdate> policy_stage;
  ChunkStage<v1::EndpointsUpdate> endpoints_stage;
  bool welcomed = false;
  bool takes_reports = false;
  uint64_t operations_version = 0;  // 0: none has arrived
  std::string logged_away;          // why there is no stream, as the log has it; empty: there is one
  TimePoint stream_begin{}, sweep_at{}, cache_at{}, report_at{};
  std::optional<TimePoint> reconnect_at;

  ConfigMetrics metrics;
  absl::Mutex stream_mutex;
  // Replaced by the thread under the lock; Stop cancels it under the lock.
  std::shared_ptr<ConfigStream> stream;
};

ConfigClient::ConfigClient(ConfigClientOptions options, RuntimeState* runtime, InstallFunction install)
    : impl_(std::make_unique<Impl>(std::move(options), runtime, std::move(install))) {}

absl::Status ConfigClient::CheckPolicyFiles(const v1::Bootstrap& bootstrap, std::vector<std::string>* warnings) {
  if (bootstrap.data_plane().policy_files_size() == 0) return absl::OkStatus();
  return AppliedConfig(bootstrap).LoadPolicyFiles(warnings);
}

ConfigClient::~ConfigClient() { Stop(0ms); }

absl::Status ConfigClient::Start() {
  Impl& impl = *impl_;
  if (absl::Status status = impl.LoadInitial(); !status.ok()) return status;
  impl.metrics.SetLacksKeys(impl.applied.lacks_keys());
  impl.installer.Begin(impl.applied.snapshot(), impl.applied.endpoints(), impl.applied.has_policy());
  impl.thread = StartThread("config", ThreadPriority::kBackground, [&impl] { impl.Run(); });
  return absl::OkStatus();
}

void ConfigClient::Stop(std::chrono::milliseconds timeout, Goodbye goodbye) {
  Impl& impl = *impl_;
  if (!impl.thread.joinable()) return;
  const TimePoint deadline = SteadyClock::now() + timeout;
  {
    absl::MutexLock lock(&impl.inbox->mutex);
    impl.inbox->stop = true;
    impl.inbox->goodbye = goodbye == Goodbye::kSaid;
    impl.inbox->stop_by = deadline;
  }
  impl.installer.Abandon();
  {
    // The thread may be inside a write that a stopped control plane does not take.
    const auto over = [&impl] { return impl.stream == nullptr; };
    absl::MutexLock lock(&impl.stream_mutex);
    if (!impl.stream_mutex.AwaitWithDeadline(absl::Condition(&over),
                                             absl::Now() + absl::FromChrono(deadline - SteadyClock::now()))) {
      impl.stream->Cancel();
    }
  }
  impl.thread.join();
}

void ConfigClient::StandBy(bool on) {
  absl::MutexLock lock(&impl_->inbox->mutex);
  impl_->inbox->stand_by = on;
}

void ConfigClient::Rebind() {
  absl::MutexLock lock(&impl_->inbox->mutex);
  impl_->inbox->rebind = true;
}

const std::string& ConfigClient::name() const { return impl_->name; }
const std::string& ConfigClient::instance_id() const { return impl_->instance_id; }

bool ConfigClient::ready() const { return impl_->metrics.served().ready; }
bool ConfigClient::lacks_keys() const { return impl_->metrics.served().lacks_keys; }
uint64_t ConfigClient::revision() const { return impl_->metrics.served().revision; }
bool ConfigClient::connected() const { return impl_->metrics.connected(); }

std::vector<prometheus::MetricFamily> ConfigClient::Families() const {
  return impl_->metrics.Families(impl_->cache == nullptr ? 0 : impl_->cache->write_errors());
}

}  // namespace gateway::dataplane
