#include "dataplane/config/config_client.h"

#include <arpa/inet.h>
#include <openssl/crypto.h>
#include <openssl/x509.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <climits>
#include <cstring>
#include <deque>
#include <fstream>
#include <map>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/random/random.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/certificate.h"
#include "common/base/digest.h"
#include "common/base/log_level.h"
#include "common/base/sealing.h"
#include "common/base/thread.h"
#include "common/base/units.h"
#include "common/base/version.h"
#include "common/config/codec.h"
#include "common/config/redaction.h"
#include "common/policy/builtin.h"
#include "common/policy/policy_files.h"
#include "common/policy/resource.h"
#include "dataplane/config/config_cache.h"
#include "gateway/v1/config_stream.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "prometheus/client_metric.h"
#include "prometheus/metric_type.h"
#include "spdlog/fmt/fmt.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

using SteadyClock = std::chrono::steady_clock;
using SteadyTime = SteadyClock::time_point;
using namespace std::chrono_literals;

constexpr auto kReconnectMin = 100ms;
constexpr auto kReconnectMax = 5s;
// A stream that lived this long was a good one: the next reconnect is a first one again.
constexpr auto kStableStream = 5s;
// From the start of a stream to the control plane's first word, connecting included.
constexpr auto kWelcomeWait = 5s;
constexpr auto kKeepaliveTime = 20s;  // server side: 30 s; and never faster than the 10 s that it tolerates
constexpr auto kKeepaliveTimeout = 10s;
constexpr int kMessageBytesMax = 16 << 20;        // chunks are at most 1 MiB; one resource may be more: 10 MiB
constexpr size_t kUpdateBytesMax = 256ull << 20;  // of one update, all chunks together
constexpr size_t kUnreadMessagesMax = 2;          // the rest waits in the stream's flow control
constexpr int kRejectionsMax = 1000;              // in a NACK
constexpr size_t kLoggedProblemsMax = 20;
constexpr auto kCacheInterval = 1s;     // between two writes of the cache
constexpr auto kSweepInterval = 200ms;  // between two looks for states that no worker holds any more
constexpr size_t kRetiredStatesMax = 1024;
constexpr auto kReportInterval = 1s;            // between two reports, and only with news
constexpr int kReportEntriesMax = 10'000;       // of each list
constexpr size_t kReportBytesMax = 768u << 10;  // the control plane takes 1 MiB
constexpr size_t kDiagnosticsChunkBytes = 512u << 10;
constexpr auto kTrafficInterval = 10s;      // over which requests of services are counted
constexpr size_t kBusyServicesMax = 1'000;  // in a report
constexpr auto kInstallPatience = 10s;      // before a worker that has not taken a state is told in the log

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
  return hello;
}

const std::string& EpochOf(const v1::PolicyUpdate& update) { return update.epoch(); }
const std::string& EpochOf(const v1::EndpointsUpdate& update) { return update.endpoints_epoch(); }

// The chunks of one update, until the last is there.
template <typename Update>
class ChunkStage {
 public:
  enum class Step { kMore, kComplete, kOutOfOrder };

  Step Add(Update chunk) {
    if (chunk.chunk() == 0) {
      *this = ChunkStage();
      epoch = EpochOf(chunk);
      from = chunk.from();
      to = chunk.to();
    } else if (chunk.chunk() != next_ || EpochOf(chunk) != epoch || chunk.from() != from || chunk.to() != to) {
      return Step::kOutOfOrder;
    }
    next_ = chunk.chunk() + 1;
    const bool last = chunk.last();
    bytes_ += chunk.ByteSizeLong();
    too_large = too_large || bytes_ > kUpdateBytesMax;
    if (too_large) {
      chunks.clear();  // what is left of it is read and forgotten, then refused
    } else {
      chunks.push_back(std::move(chunk));
    }
    if (!last) return Step::kMore;
    next_ = 0;  // nothing but a first chunk may follow
    completed_at = SteadyClock::now();
    return Step::kComplete;
  }

  std::string epoch;
  uint64_t from = 0, to = 0;
  bool too_large = false;
  std::vector<Update> chunks;
  SteadyTime completed_at{};

 private:
  uint32_t next_ = 0;
  size_t bytes_ = 0;
};

// What other threads tell the configuration thread. Shared with every `done` that a worker may still call.
struct Inbox {
  absl::Mutex mutex;
  std::deque<v1::ControlPlaneMessage> messages ABSL_GUARDED_BY(mutex);  // at most kUnreadMessagesMax
  std::optional<grpc::Status> stream_end ABSL_GUARDED_BY(mutex);
  uint64_t installed ABSL_GUARDED_BY(mutex) = 0;  // the newest state that every worker serves
  bool stand_by ABSL_GUARDED_BY(mutex) = false;
  bool rebind ABSL_GUARDED_BY(mutex) = false;
  bool goodbye ABSL_GUARDED_BY(mutex) = true;
  bool stop ABSL_GUARDED_BY(mutex) = false;
  SteadyTime stop_by ABSL_GUARDED_BY(mutex);
};

// One attempt at a stream. Its thread connects, says hello and reads into the inbox, waiting there while the
// configuration thread is busy. Write and WritesDone are the configuration thread's, once a message has been read;
// Cancel is anybody's.
class ControlPlaneStream {
 public:
  ControlPlaneStream(const std::string& address, const std::shared_ptr<grpc::ChannelCredentials>& credentials,
                     grpc::ChannelArguments arguments, v1::Hello hello, std::shared_ptr<Inbox> inbox)
      : inbox_(std::move(inbox)) {
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, static_cast<int>(std::chrono::milliseconds(kKeepaliveTime).count()));
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                     static_cast<int>(std::chrono::milliseconds(kKeepaliveTimeout).count()));
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    arguments.SetInt(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, kMessageBytesMax);
    // The waiting between attempts is ours, so none of it may be shared with an earlier channel.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    stub_ = v1::ConfigStream::NewStub(grpc::CreateCustomChannel(address, credentials, arguments));
    v1::DataPlaneMessage first;
    *first.mutable_hello() = std::move(hello);
    thread_ =
        StartThread("config-stream", ThreadPriority::kBackground, [this, first = std::move(first)] { Run(first); });
  }

  ~ControlPlaneStream() {
    Cancel();
    thread_.join();
  }

  void Cancel() {
    {
      absl::MutexLock lock(&inbox_->mutex);
      cancelled_ = true;
    }
    context_.TryCancel();
  }

  bool Write(const v1::DataPlaneMessage& message) { return stream_->Write(message); }
  void WritesDone() { stream_->WritesDone(); }

 private:
  void Run(const v1::DataPlaneMessage& hello) {
    stream_ = stub_->Connect(&context_);
    stream_->Write(hello);
    v1::ControlPlaneMessage message;
    while (stream_->Read(&message)) {
      const auto room = [this]() ABSL_SHARED_LOCKS_REQUIRED(inbox_->mutex) {
        return cancelled_ || inbox_->stop || inbox_->messages.size() < kUnreadMessagesMax;
      };
      absl::MutexLock lock(&inbox_->mutex);
      inbox_->mutex.Await(absl::Condition(&room));
      if (cancelled_) break;
      if (inbox_->stop) continue;  // goodbye was said: read on, to the end
      inbox_->messages.push_back(std::move(message));
    }
    grpc::Status status = stream_->Finish();
    absl::MutexLock lock(&inbox_->mutex);
    inbox_->stream_end = std::move(status);
  }

  const std::shared_ptr<Inbox> inbox_;
  std::unique_ptr<v1::ConfigStream::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::DataPlaneMessage, v1::ControlPlaneMessage>> stream_;
  bool cancelled_ = false;  // guarded by the inbox's mutex
  std::thread thread_;
};

prometheus::MetricFamily Metric(const char* name, const char* help, prometheus::MetricType type, double value) {
  prometheus::MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  family.metric.resize(1);
  family.metric[0].gauge.value = value;
  family.metric[0].counter.value = value;
  return family;
}

// What private keys are sealed with in the cache: made of this data plane's own private key (PEM, in `key_file`), so
// that the cache alone discloses none. Nothing: it has none, or it can't be read.
std::optional<Sealer> CacheSealer(const std::string& key_file) {
  if (key_file.empty()) return std::nullopt;
  std::ifstream file(key_file, std::ios::binary);
  std::string pem(kCertificateBytesMax, '\0');
  file.read(pem.data(), static_cast<std::streamsize>(pem.size()));
  pem.resize(static_cast<size_t>(file.gcount()));
  const auto key = ReadPrivateKey(pem);
  OPENSSL_cleanse(pem.data(), pem.size());
  if (!key.ok()) return std::nullopt;
  unsigned char* der = nullptr;
  const int size = i2d_PrivateKey(key->get(), &der);
  if (size <= 0) return std::nullopt;
  std::string text =
      fmt::format("gateway cache\n{}", std::string_view(reinterpret_cast<char*>(der), static_cast<size_t>(size)));
  OPENSSL_clear_free(der, static_cast<size_t>(size));
  const Digest digest = Sha256(text);
  OPENSSL_cleanse(text.data(), text.size());
  std::array<unsigned char, Sealer::kKeyBytes> sealing_key;
  std::memcpy(sealing_key.data(), digest.data(), sealing_key.size());
  return Sealer(sealing_key);
}

std::string SealingContext(const v1::Certificate& certificate) {
  return fmt::format("Certificate/{} key", certificate.name());
}

// The private keys of `update` as the cache keeps them: sealed, or redacted where there is nothing to seal them with.
void SealKeys(const std::string& key_file, v1::PolicyUpdate* update) {
  std::optional<Sealer> sealer;
  bool asked = false;
  for (v1::VersionedResource& each : *update->mutable_resources()) {
    if (!each.resource().has_certificate()) continue;
    if (!std::exchange(asked, true)) sealer = CacheSealer(key_file);
    v1::Certificate& certificate = *each.mutable_resource()->mutable_certificate();
    if (sealer.has_value() && !IsRedacted(certificate.key().inline_())) {
      auto sealed = sealer->Seal(certificate.key().inline_(), SealingContext(certificate));
      if (sealed.ok()) {
        certificate.mutable_key()->set_inline_(*std::move(sealed));
        continue;
      }
    }
    RedactSecrets(&certificate);
  }
}

// The same backwards. One that can't be opened is as one that was not sent.
void OpenKeys(const std::string& key_file, v1::PolicyUpdate* update) {
  std::optional<Sealer> sealer;
  bool asked = false;
  for (v1::VersionedResource& each : *update->mutable_resources()) {
    if (!IsSealed(each.resource().certificate().key().inline_())) continue;
    if (!std::exchange(asked, true)) sealer = CacheSealer(key_file);
    v1::Certificate& certificate = *each.mutable_resource()->mutable_certificate();
    absl::StatusOr<std::string> plain = absl::FailedPreconditionError("no key");
    if (sealer.has_value()) plain = sealer->Open(certificate.key().inline_(), SealingContext(certificate));
    if (plain.ok()) {
      certificate.mutable_key()->set_inline_(*std::move(plain));
    } else {
      RedactSecrets(&certificate);
    }
  }
}

// The errors of a set of files, each where it stands.
absl::Status PolicyFilesError(const std::vector<PolicyProblem>& problems) {
  std::string text =
      fmt::format("data_plane.policy_files: {} error{}", problems.size(), problems.size() == 1 ? "" : "s");
  for (const PolicyProblem& problem : problems) text += "\n" + problem.ToString();
  return absl::InvalidArgumentError(text);
}

}  // namespace

std::chrono::milliseconds ReconnectDelay(int attempt, absl::BitGenRef random) {
  const auto base = std::chrono::milliseconds(kReconnectMin).count();
  const auto max = std::chrono::milliseconds(kReconnectMax).count();
  // Past six doublings it is above the maximum.
  const auto ceiling = std::min<int64_t>(base << std::clamp(attempt, 0, 6), max);
  return std::chrono::milliseconds(absl::Uniform<int64_t>(absl::IntervalClosed, random, 1, ceiling));
}

struct ConfigClient::Impl {
  Impl(ConfigClientOptions options, RuntimeState* runtime, InstallFunction install)
      : options(WithCredentials(std::move(options))),
        runtime(runtime),
        install(std::move(install)),
        hello(HelloOf(this->options)) {
    if (!alone() && !this->options.bootstrap.data_plane().cache_dir().empty()) {
      cache = std::make_unique<ConfigCache>(this->options.bootstrap.data_plane().cache_dir());
    }
  }

  // Those of the bootstrap file where the caller has none.
  static ConfigClientOptions WithCredentials(ConfigClientOptions options) {
    if (options.credentials == nullptr) {
      options.credentials = std::make_shared<ControlPlaneCredentials>(options.bootstrap.data_plane().tls());
    }
    return options;
  }

  // Runs on policy files, without a control plane.
  bool alone() const { return options.bootstrap.data_plane().policy_files_size() > 0; }

  // ---- What is applied. Start's until the thread is started, then the configuration thread's alone.

  using ResourceSet = std::map<ResourceKey, std::shared_ptr<const v1::VersionedResource>>;

  CompileResult Compile(const ResourceSet& set, const std::string& epoch, uint64_t revision) const {
    std::vector<const v1::Resource*> resources;
    resources.reserve(set.size());
    for (const auto& [key, resource] : set) resources.push_back(&resource->resource());
    CompileOptions compile;
    compile.epoch = epoch;
    compile.revision = revision;
    if (const std::string& own = options.bootstrap.consul().service_name(); !own.empty()) compile.own_service = own;
    return CompileSnapshot(resources, compile);
  }

  static void Put(v1::VersionedResource resource, ResourceSet* set) {
    ResourceKey key = KeyOf(resource.resource());
    (*set)[std::move(key)] = std::make_shared<const v1::VersionedResource>(std::move(resource));
  }

  ResourceSet BuiltinSet() const {
    ResourceSet set;
    for (v1::Resource& resource : BuiltinResources(BuiltinLimitOf(options.bootstrap))) {
      v1::VersionedResource versioned;
      versioned.set_built_in(true);
      *versioned.mutable_resource() = std::move(resource);
      Put(std::move(versioned), &set);
    }
    return set;
  }

  absl::Status LoadPolicyFiles(std::vector<std::string>* warnings) {
    const auto& files = options.bootstrap.data_plane().policy_files();
    std::vector<PolicyProblem> problems;
    const std::vector<PolicyDocument> documents = ReadPolicyFiles({files.begin(), files.end()}, &problems);
    resources = BuiltinSet();
    for (const PolicyDocument& document : documents) {
      v1::VersionedResource versioned;
      *versioned.mutable_resource() = document.resource;
      Put(std::move(versioned), &resources);
    }
    // All mistakes at once: what could be read is checked even where something could not.
    const std::vector<PolicyProblem> told = problems;
    CompileResult result = Compile(resources, "", 0);
    const PolicyPlaces places(documents);
    for (const v1::PolicyError& error : result.errors) {
      PolicyProblem problem = places.Locate(error);
      if (!FollowsFrom(problem, told)) problems.push_back(std::move(problem));
    }
    if (!problems.empty()) return PolicyFilesError(problems);
    *warnings = std::move(result.warnings);
    snapshot = std::move(result.snapshot);
    has_policy = true;
    return absl::OkStatus();
  }

  void LoadCache() {
    std::vector<std::string> problems;
    ConfigCache::Content content = cache->Load(&problems);
    for (const std::string& problem : problems) spdlog::error("configuration cache: {}; it is ignored", problem);
    if (content.policy && content.policy->schema_version() > kSchemaVersion) {
      spdlog::warn("configuration cache: its policy has schema {}, this version understands {}; it is ignored",
                   content.policy->schema_version(), kSchemaVersion);
    } else if (content.policy) {
      OpenKeys(options.bootstrap.data_plane().tls().key(), &*content.policy);
      ResourceSet set;
      for (v1::VersionedResource& resource : *content.policy->mutable_resources()) Put(std::move(resource), &set);
      CompileResult result = Compile(set, content.policy->epoch(), content.policy->to());
      if (result.snapshot != nullptr) {
        snapshot = std::move(result.snapshot);
        resources = std::move(set);
        hello.set_epoch(content.policy->epoch());
        hello.set_revision(content.policy->to());
        has_policy = true;
        spdlog::info("configuration cache: revision {}, {} resources", hello.revision(), resources.size());
        if (snapshot->keys_lacking() > 0) {
          spdlog::warn("configuration cache: {} certificates are not served before a control plane has sent their keys",
                       snapshot->keys_lacking());
        }
      } else {
        spdlog::error("configuration cache: its policy is not valid ({}); it is ignored",
                      result.errors.empty() ? "" : result.errors[0].message());
      }
    }
    if (content.endpoints) {
      endpoints.epoch = content.endpoints->endpoints_epoch();
      endpoints.version = content.endpoints->to();
      endpoints.catalog_known = content.endpoints->catalog_known();
      for (v1::EndpointSet& set : *content.endpoints->mutable_sets()) PutSet(std::move(set));
      overrides.assign(content.endpoints->overrides().begin(), content.endpoints->overrides().end());
      (void)EndOverrides(absl::Now());
      TakeOverrides();
      hello.set_endpoints_epoch(endpoints.epoch);
      hello.set_endpoints_version(endpoints.version);
    }
  }

  void PutSet(v1::EndpointSet set) {
    std::string key = KeyOfSet(set.key().datacenter(), set.key().service());
    endpoints.sets[std::move(key)] = std::move(set);
  }

  // Drops those whose time is over. Tells whether there were any.
  bool EndOverrides(absl::Time now) {
    return std::erase_if(overrides, [now](const v1::EndpointOverride& each) {
             return each.has_until() && TimeOf(each.until()) <= now;
           }) > 0;
  }

  static absl::Time TimeOf(const google::protobuf::Timestamp& time) {
    return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
  }

  // For the next bind.
  void TakeOverrides() {
    endpoints.overrides.by_endpoint.clear();
    overrides_end = absl::InfiniteFuture();
    for (const v1::EndpointOverride& each : overrides) {
      endpoints.overrides.by_endpoint[{each.service(), each.endpoint()}] = {each.action_case(), each.weight()};
      if (each.has_until()) overrides_end = std::min(overrides_end, TimeOf(each.until()));
    }
  }

  absl::Status LoadInitial() {
    if (alone()) {
      std::vector<std::string> warnings;
      if (absl::Status status = LoadPolicyFiles(&warnings); !status.ok()) return status;
      for (const std::string& warning : warnings) spdlog::warn("policy: {}", warning);
      return absl::OkStatus();
    }
    if (cache != nullptr) LoadCache();
    if (snapshot != nullptr) return absl::OkStatus();
    // Nothing to serve yet but what is built in.
    CompileResult result = Compile(BuiltinSet(), "", 0);
    if (result.snapshot == nullptr) {
      return absl::InternalError(
          fmt::format("the built-in policy is not valid: {}", result.errors.empty() ? "" : result.errors[0].message()));
    }
    snapshot = std::move(result.snapshot);
    return absl::OkStatus();
  }

  // Binds what is applied and hands it to the workers; returns at once.
  void BeginInstall() {
    if (current != nullptr) {
      retired.push_back(std::move(current));
      if (retired.size() > kRetiredStatesMax) retired.pop_front();
    }
    current = runtime->Bind(snapshot, endpoints, has_policy);
    install(current, [inbox = inbox, number = ++installs] {
      absl::MutexLock lock(&inbox->mutex);
      inbox->installed = std::max(inbox->installed, number);
    });
  }

  // Until every worker serves the newest state. False: the client is stopping.
  bool AwaitInstall() {
    const auto decided = [this]() ABSL_SHARED_LOCKS_REQUIRED(inbox->mutex) {
      return inbox->installed >= installs || inbox->stop;
    };
    {
      absl::MutexLock lock(&inbox->mutex);
      while (!inbox->mutex.AwaitWithTimeout(absl::Condition(&decided), absl::FromChrono(kInstallPatience))) {
        spdlog::warn("configuration: a worker has not taken revision {}, endpoints {} yet", snapshot->revision(),
                     endpoints.version);
      }
      if (inbox->installed < installs) return false;
    }
    absl::MutexLock lock(&stats_mutex);
    stats.ready = has_policy;
    stats.lacks_keys = snapshot->keys_lacking() > 0;
    stats.revision = snapshot->revision();
    stats.endpoints_version = endpoints.version;
    return true;
  }

  bool Install() {
    BeginInstall();
    return AwaitInstall();
  }

  // ---- The thread.

  void Run() {
    AwaitInstall();
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
          message = std::move(inbox->messages.front());
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
    SteadyTime next = SteadyTime::max();
    if (stream == nullptr && reconnect_at && !standing_by) next = std::min(next, *reconnect_at);
    if (stream != nullptr && !welcomed) next = std::min(next, stream_begin + kWelcomeWait);
    if (reports()) next = std::min(next, report_at);
    if (!retired.empty()) next = std::min(next, sweep_at);
    if (policy_unsaved || endpoints_unsaved) next = std::min(next, cache_at);
    if (overrides_end != absl::InfiniteFuture()) {
      // By the wall clock, which may be set: looked at now and then.
      const absl::Duration left = std::clamp(overrides_end - absl::Now(), absl::Milliseconds(1), absl::Minutes(1));
      next = std::min(next, SteadyClock::now() + absl::ToChronoNanoseconds(left));
    }
    if (next == SteadyTime::max()) return 1h;
    return std::max<SteadyClock::duration>(next - SteadyClock::now(), 0s);
  }

  void RunTimers() {
    const SteadyTime now = SteadyClock::now();
    if (stream == nullptr && reconnect_at && !standing_by && now >= *reconnect_at) BeginStream();
    if (stream != nullptr && !welcomed && now >= stream_begin + kWelcomeWait) {
      BreakStream(fmt::format("no response within {} s", kWelcomeWait.count()));
    }
    if (absl::Now() >= overrides_end && EndOverrides(absl::Now())) {
      spdlog::info("endpoints: what an operator had set for a while is over");
      TakeOverrides();
      endpoints_unsaved = cache != nullptr;
      if (!Install()) return;
    }
    if (reports() && now >= report_at) SendReport(now);
    if (!retired.empty() && now >= sweep_at) {
      sweep_at = now + kSweepInterval;
      // Only this thread's reference is left, so nobody can take another: it is freed here, not by a worker.
      std::erase_if(retired, [](const auto& state) { return state.use_count() == 1; });
    }
    if ((policy_unsaved || endpoints_unsaved) && now >= cache_at) SaveCache();
  }

  void BeginStream() {
    const auto& addresses = options.bootstrap.data_plane().control_planes();
    const std::string& address = addresses[control_plane];
    spdlog::debug("configuration: connecting to {}", address);
    {
      absl::MutexLock lock(&inbox->mutex);
      inbox->messages.clear();
      inbox->stream_end.reset();
    }
    policy_stage = {};
    endpoints_stage = {};
    stream_begin = SteadyClock::now();
    welcomed = false;
    grpc::ChannelArguments arguments;
    const absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> credentials =
        options.credentials->ForConnection(absl::Now(), &arguments);
    std::shared_ptr<ControlPlaneStream> next;
    if (credentials.ok()) {
      hello.set_lacks_keys(snapshot != nullptr && snapshot->keys_lacking() > 0);
      next = std::make_shared<ControlPlaneStream>(address, *credentials, std::move(arguments), hello, inbox);
    }
    {
      absl::MutexLock lock(&stats_mutex);
      stream = std::move(next);
      ++stats.stream_attempts;
    }
    if (!credentials.ok()) BreakStream(std::string(credentials.status().message()));
  }

  // Ends it at once. What it still delivered is forgotten.
  void EndStream() {
    std::shared_ptr<ControlPlaneStream> last;
    {
      absl::MutexLock lock(&stats_mutex);
      last = std::move(stream);
      stream = nullptr;
      stats.connected = false;
    }
    if (last == nullptr) return;
    last->Cancel();
    last.reset();
    absl::MutexLock lock(&inbox->mutex);
    inbox->messages.clear();
    inbox->stream_end.reset();
  }

  void OnStreamEnd(const grpc::Status& status) {
    if (stream == nullptr) return;
    BreakStream(status.ok() ? "it was ended by the control plane" : status.error_message());
  }

  // The stream is over: the next one is to the next control plane, or, all of them tried, later.
  void BreakStream(std::string_view why) {
    const bool was_welcomed = welcomed;
    const bool was_stable = was_welcomed && SteadyClock::now() - stream_begin >= kStableStream;
    const std::string address = options.bootstrap.data_plane().control_planes()[control_plane];
    EndStream();
    welcomed = false;
    if (was_stable) attempt = 0;
    control_plane = was_welcomed ? 0 : (control_plane + 1) % options.bootstrap.data_plane().control_planes_size();
    std::chrono::milliseconds delay{0};
    if (control_plane == 0) delay = ReconnectDelay(attempt++, random);
    reconnect_at = SteadyClock::now() + delay;
    // Told once each time that it goes away, and when the reason is another one; not once for each try.
    if (standing_by) {
      spdlog::info(
          "configuration: the stream from the control plane {} has ended ({}), and is left to the next process",
          address, why);
    } else if (was_welcomed || told_away != why) {
      spdlog::warn("configuration: no stream from the control plane {}: {}; serving the last configuration", address,
                   why);
      told_away = why;
    } else {
      spdlog::debug("configuration: control plane {}: {}; next try in {} ms", address, why, delay.count());
    }
  }

  void OnMessage(v1::ControlPlaneMessage message) {
    if (stream == nullptr) return;
    switch (message.message_case()) {
      case v1::ControlPlaneMessage::kWelcome: {
        welcomed = true;
        told_away.clear();
        hello.clear_replaces_instance();  // it has its place
        takes_reports = message.welcome().takes_reports();
        operations_version = 0;
        last_report.clear();
        report_at = SteadyClock::now();
        spdlog::info("configuration: connected to the control plane {} ({}), revision {}",
                     options.bootstrap.data_plane().control_planes()[control_plane],
                     message.welcome().control_plane_version(), message.welcome().revision());
        absl::MutexLock lock(&stats_mutex);
        stats.connected = true;
        break;
      }
      case v1::ControlPlaneMessage::kPolicy:
        OnChunk(std::move(*message.mutable_policy()), &policy_stage);
        break;
      case v1::ControlPlaneMessage::kEndpoints:
        OnChunk(std::move(*message.mutable_endpoints()), &endpoints_stage);
        break;
      case v1::ControlPlaneMessage::kOperations:
        Apply(std::move(*message.mutable_operations()));
        break;
      case v1::ControlPlaneMessage::kLogLevel:
        log_level.Set(message.log_level().level(), ToMillis(message.log_level().duration()));
        report_at = SteadyClock::now();
        break;
      case v1::ControlPlaneMessage::kDiagnostics:
        SendDiagnostics(message.diagnostics().id());
        break;
      default:
        break;  // of a newer control plane; what must be understood has a schema version
    }
  }

  template <typename Update>
  void OnChunk(Update chunk, ChunkStage<Update>* stage) {
    const uint32_t number = chunk.chunk();
    switch (stage->Add(std::move(chunk))) {
      case ChunkStage<Update>::Step::kMore:
        break;
      case ChunkStage<Update>::Step::kOutOfOrder:
        BreakStream(fmt::format("chunk {} of an update came out of order", number));
        break;
      case ChunkStage<Update>::Step::kComplete: {
        ChunkStage<Update> complete = std::exchange(*stage, {});
        Apply(std::move(complete));
        break;
      }
    }
  }

  void Apply(ChunkStage<v1::PolicyUpdate> update) {
    v1::Nack nack;
    nack.set_epoch(update.epoch);
    nack.set_revision(update.to);
    if (update.too_large) return Refuse(std::move(nack), TooLarge());
    for (const v1::PolicyUpdate& chunk : update.chunks) {
      if (chunk.schema_version() <= kSchemaVersion) continue;
      return Refuse(std::move(nack), fmt::format("schema version {} is not understood: this data plane has {}",
                                                 chunk.schema_version(), kSchemaVersion));
    }
    if (update.from != 0 && (update.from != hello.revision() || update.epoch != hello.epoch())) {
      // No NACK, since nothing is wrong with the revision: the next hello says what is applied.
      return BreakStream(
          fmt::format("it sent a change of revision {}, but {} is applied", update.from, hello.revision()));
    }

    ResourceSet next;
    if (update.from != 0) next = resources;
    for (v1::PolicyUpdate& chunk : update.chunks) {
      for (const v1::ResourceName& name : chunk.removed()) next.erase({name.kind(), name.name()});
      for (v1::VersionedResource& resource : *chunk.mutable_resources()) {
        if (KeyOf(resource.resource()).kind.empty()) {
          return Refuse(std::move(nack), "a resource is of a kind that this data plane does not know");
        }
        Put(std::move(resource), &next);
      }
    }
    CompileResult result = Compile(next, update.epoch, update.to);
    if (result.snapshot == nullptr) {
      for (const v1::PolicyError& error : result.errors) {
        if (nack.rejections_size() == kRejectionsMax) break;
        v1::Rejection* rejection = nack.add_rejections();
        rejection->set_kind(error.kind());
        rejection->set_name(error.name());
        rejection->set_field(error.field());
        rejection->set_reason(error.message());
      }
      return SendNack(std::move(nack));
    }
    snapshot = std::move(result.snapshot);
    resources = std::move(next);
    has_policy = true;
    if (!Install()) return;
    hello.set_epoch(update.epoch);
    hello.set_revision(update.to);
    v1::Ack ack;
    ack.set_epoch(update.epoch);
    ack.set_revision(update.to);
    SendAck(std::move(ack), update.completed_at);
    policy_unsaved = cache != nullptr;
    for (const std::string& warning : result.warnings) spdlog::warn("policy: {}", warning);
  }

  void Apply(ChunkStage<v1::EndpointsUpdate> update) {
    if (update.too_large) {
      v1::Nack nack;
      nack.set_endpoints_epoch(update.epoch);
      nack.set_endpoints_version(update.to);
      return Refuse(std::move(nack), TooLarge());
    }
    if (update.from != 0 && (update.from != endpoints.version || update.epoch != endpoints.epoch)) {
      return BreakStream(
          fmt::format("it sent a change of endpoints {}, but {} is applied", update.from, endpoints.version));
    }
    if (update.from == 0) endpoints.sets.clear();
    for (v1::EndpointsUpdate& chunk : update.chunks) {
      for (const v1::ServiceKey& key : chunk.removed()) endpoints.sets.erase(KeyOfSet(key.datacenter(), key.service()));
      for (v1::EndpointSet& set : *chunk.mutable_sets()) PutSet(std::move(set));
      endpoints.catalog_known = chunk.catalog_known();
    }
    endpoints.epoch = update.epoch;
    endpoints.version = update.to;
    if (!Install()) return;
    hello.set_endpoints_epoch(update.epoch);
    hello.set_endpoints_version(update.to);
    v1::Ack ack;
    ack.set_endpoints_epoch(update.epoch);
    ack.set_endpoints_version(update.to);
    SendAck(std::move(ack), update.completed_at);
    endpoints_unsaved = cache != nullptr;
  }

  void Apply(v1::OperationsUpdate update) {
    const absl::Time now = absl::Now();
    overrides.assign(update.overrides().begin(), update.overrides().end());
    for (v1::EndpointOverride& each : overrides) {
      if (!each.has_remaining()) continue;
      // By the own clock, whatever the control plane's says.
      const int64_t micros = absl::ToUnixMicros(now) + ToMillis(each.remaining()).count() * 1000;
      each.mutable_until()->set_seconds(micros / 1'000'000);
      each.mutable_until()->set_nanos(static_cast<int32_t>(micros % 1'000'000) * 1000);
      each.clear_remaining();
    }
    TakeOverrides();
    endpoints_unsaved = cache != nullptr;
    if (!Install()) return;
    operations_version = update.version();
    report_at = SteadyClock::now();
    spdlog::info("endpoints: operators have set {}", overrides.size());
  }

  // Files that are too long for one message go on in the next.
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
        if (!stream->Write(message)) return;  // its end tells
      }
    }
    v1::DataPlaneMessage last;
    last.mutable_diagnostics()->set_id(id);
    last.mutable_diagnostics()->set_last(true);
    (void)stream->Write(last);  // likewise
  }

  // Which services of Consul get requests: counted anew each kTrafficInterval, half of what was counts on, so that a
  // pause makes nothing idle at once.
  void CountTraffic(SteadyTime now) {
    if (now < traffic_at) return;
    traffic_at = now + kTrafficInterval;
    std::map<std::pair<std::string, std::string>, Traffic> counted;
    for (RuntimeState::TrafficRow& row : runtime->Traffic()) {
      counted[{std::move(row.datacenter), std::move(row.service)}].total += row.requests;
    }
    for (auto& [key, each] : counted) {
      const auto before = traffic.find(key);
      if (before == traffic.end()) {
        each.recent = each.total;
        continue;
      }
      // Less than before: one of several services of that name has left, or its series began anew.
      const uint64_t fresh = each.total - std::min(each.total, before->second.total);
      each.recent = std::max(fresh, before->second.recent / 2);
    }
    traffic = std::move(counted);
  }

  void ReportTraffic(v1::Report* report) const {
    std::vector<std::pair<uint32_t, const std::pair<std::string, std::string>*>> busy;
    for (const auto& [key, each] : traffic) {
      if (each.recent > 0) busy.emplace_back(static_cast<uint32_t>(std::bit_width(each.recent)), &key);
    }
    std::stable_sort(busy.begin(), busy.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
    if (busy.size() > kBusyServicesMax) busy.resize(kBusyServicesMax);
    for (const auto& [magnitude, key] : busy) {
      v1::BusyService* service = report->add_busy();
      service->mutable_key()->set_datacenter(key->first);
      service->mutable_key()->set_service(key->second);
      service->set_magnitude(magnitude);
    }
  }

  static std::string TooLarge() { return fmt::format("an update is at most {} MiB", kUpdateBytesMax >> 20); }

  void SendAck(v1::Ack ack, SteadyTime begin) {
    const bool is_policy = ack.endpoints_epoch().empty();
    const auto time = std::chrono::duration_cast<std::chrono::nanoseconds>(SteadyClock::now() - begin);
    ack.mutable_apply_time()->set_seconds(time.count() / 1'000'000'000);
    ack.mutable_apply_time()->set_nanos(static_cast<int32_t>(time.count() % 1'000'000'000));
    {
      absl::MutexLock lock(&stats_mutex);
      ++(is_policy ? stats.policy_applied : stats.endpoints_applied);
      stats.last_applied = std::chrono::system_clock::now();
      stats.last_apply_time = time;
    }
    const double millis = static_cast<double>(time.count()) / 1e6;
    if (is_policy) {
      spdlog::info("configuration: serving revision {} on {} workers after {:.1f} ms", ack.revision(), options.workers,
                   millis);
    } else {
      spdlog::debug("configuration: serving endpoints {} after {:.1f} ms", ack.endpoints_version(), millis);
    }
    v1::DataPlaneMessage message;
    *message.mutable_ack() = std::move(ack);
    (void)stream->Write(message);  // a broken stream is told by its end
  }

  // The whole update is refused, for one reason.
  void Refuse(v1::Nack nack, std::string reason) {
    nack.add_rejections()->set_reason(std::move(reason));
    SendNack(std::move(nack));
  }

  void SendNack(v1::Nack nack) {
    nack.set_applied_revision(hello.revision());
    {
      absl::MutexLock lock(&stats_mutex);
      ++(nack.endpoints_epoch().empty() ? stats.policy_rejected : stats.endpoints_rejected);
    }
    spdlog::error("configuration: revision {} is rejected, {} stays ({} errors)",
                  nack.endpoints_epoch().empty() ? nack.revision() : nack.endpoints_version(), hello.revision(),
                  nack.rejections_size());
    for (size_t i = 0; i < std::min<size_t>(kLoggedProblemsMax, static_cast<size_t>(nack.rejections_size())); ++i) {
      const v1::Rejection& rejection = nack.rejections(static_cast<int>(i));
      spdlog::error("configuration: {}/{}: {}: {}", rejection.kind(), rejection.name(), rejection.field(),
                    rejection.reason());
    }
    v1::DataPlaneMessage message;
    *message.mutable_nack() = std::move(nack);
    (void)stream->Write(message);
  }

  bool reports() const { return stream != nullptr && welcomed && takes_reports; }

  // The worst first, in case not all of it has room.
  v1::Report MakeReport(SteadyTime now) const {
    v1::Report report;
    report.set_operations_version(operations_version);
    report.set_log_level(log_level.temporary());
    ReportTraffic(&report);
    size_t bytes = report.ByteSizeLong();
    const auto fits = [&bytes](const auto& list, const google::protobuf::Message& last) {
      bytes += last.ByteSizeLong() + 4;
      return bytes <= kReportBytesMax && list.size() < kReportEntriesMax;
    };
    std::vector<RuntimeState::BreakerRow> breakers = runtime->Breakers(now);
    const auto badness = [](const RuntimeState::BreakerRow& row) {
      return row.view.state == BreakerState::kOpen ? 0 : row.view.state == BreakerState::kHalfOpen ? 1 : 2;
    };
    std::stable_sort(breakers.begin(), breakers.end(),
                     [&](const auto& a, const auto& b) { return badness(a) < badness(b); });
    for (const RuntimeState::BreakerRow& row : breakers) {
      v1::BreakerReport* breaker = report.add_breakers();
      breaker->set_service(row.service);
      breaker->set_breaker(row.breaker);
      breaker->set_state(row.view.state == BreakerState::kOpen       ? v1::BreakerReport::OPEN
                         : row.view.state == BreakerState::kHalfOpen ? v1::BreakerReport::HALF_OPEN
                                                                     : v1::BreakerReport::CLOSED);
      breaker->set_forced(row.view.forced);
      breaker->set_in_flight(row.view.in_flight);
      breaker->set_requests(row.view.requests);
      breaker->set_failures(row.view.failures);
      breaker->set_slow(row.view.slow);
      breaker->set_opened(row.view.opened);
      breaker->set_opening_requests(row.view.opening_requests);
      breaker->set_opening_failures(row.view.opening_failures);
      breaker->set_opening_slow(row.view.opening_slow);
      if (row.view.state != BreakerState::kClosed && !row.view.forced) {
        google::protobuf::Duration& next_probe = *breaker->mutable_next_probe();
        next_probe.set_seconds(row.next_probe.count() / 1000);
        next_probe.set_nanos(static_cast<int32_t>(row.next_probe.count() % 1000 * 1'000'000));
      }
      if (!fits(report.breakers(), *breaker)) break;
    }
    for (RuntimeState::ExclusionRow& row : runtime->Exclusions(now)) {
      v1::ExcludedEndpoint* excluded = report.add_excluded();
      excluded->set_service(std::move(row.service));
      excluded->set_endpoint(std::move(row.endpoint));
      excluded->set_reason(std::move(row.reason));
      if (!fits(report.excluded(), *excluded)) break;
    }
    for (RuntimeState::HostRow& row : runtime->Hosts()) {
      v1::HostReport* host = report.add_hosts();
      host->set_service(std::move(row.service));
      host->set_address(std::move(row.address));
      for (std::string& endpoint : row.endpoints) host->add_endpoints(std::move(endpoint));
      if (!fits(report.hosts(), *host)) break;
    }
    for (RuntimeState::HealthRow& row : runtime->Health()) {
      if (!row.panicking || report.panicking_size() >= kReportEntriesMax) continue;
      bytes += row.service.size() + 4;
      if (bytes > kReportBytesMax) break;
      report.add_panicking(std::move(row.service));
    }
    for (const RuntimeState::LimitRow& row : runtime->Limits()) {
      v1::LimitReport* limit = report.add_limits();
      limit->set_name(row.name);
      limit->set_keys(row.stats.keys);
      limit->set_overflowed(row.stats.overflowed);
      limit->set_allowed(row.stats.allowed);
      limit->set_refused(row.stats.refused);
      if (row.redis) limit->set_unavailable(!options.redis_away || options.redis_away());
      if (row.leases != nullptr) {
        const LeaseTable::Stats stats = row.leases->stats();
        limit->set_keys(stats.keys);
        limit->set_overflowed(stats.overflowed);
        limit->set_allowed(stats.allowed);
        limit->set_refused(stats.refused);
        limit->set_unavailable(row.leases->unavailable(now));
      }
      if (!fits(report.limits(), *limit)) break;
    }
    return report;
  }

  void SendReport(SteadyTime now) {
    report_at = now + kReportInterval;
    CountTraffic(now);
    v1::DataPlaneMessage message;
    *message.mutable_report() = MakeReport(now);
    std::string text = message.SerializeAsString();  // no maps: the same content is the same text
    if (text == last_report) return;
    last_report = std::move(text);
    (void)stream->Write(message);  // a broken stream is told by its end
  }

  void SaveCache() {
    cache_at = SteadyClock::now() + kCacheInterval;
    if (std::exchange(policy_unsaved, false)) {
      v1::PolicyUpdate update;
      update.set_epoch(hello.epoch());
      update.set_to(hello.revision());
      update.set_last(true);
      update.set_schema_version(kSchemaVersion);
      for (const auto& [key, resource] : resources) *update.add_resources() = *resource;
      SealKeys(options.bootstrap.data_plane().tls().key(), &update);
      cache->Save(std::move(update));
    }
    if (std::exchange(endpoints_unsaved, false)) {
      v1::EndpointsUpdate update;
      update.set_endpoints_epoch(endpoints.epoch);
      update.set_to(endpoints.version);
      update.set_last(true);
      update.set_catalog_known(endpoints.catalog_known);
      for (const auto& [key, set] : endpoints.sets) *update.add_sets() = set;
      update.mutable_overrides()->Assign(overrides.begin(), overrides.end());
      cache->Save(std::move(update));
    }
  }

  // The control plane ends the stream when it has heard; nobody waits longer than Stop allows.
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

  const ConfigClientOptions options;
  RuntimeState* const runtime;
  const InstallFunction install;
  std::unique_ptr<ConfigCache> cache;  // null: not kept
  const std::shared_ptr<Inbox> inbox = std::make_shared<Inbox>();
  std::thread thread;

  // Start's, then the configuration thread's.
  v1::Hello hello;  // says what is applied
  const std::string name = hello.name(), instance_id = hello.instance_id();
  ResourceSet resources;
  std::shared_ptr<const Snapshot> snapshot;
  bool has_policy = false;
  EndpointTable endpoints;
  std::vector<v1::EndpointOverride> overrides;        // with `until` by the own clock
  absl::Time overrides_end = absl::InfiniteFuture();  // of the first one
  uint64_t operations_version = 0;                    // of this stream; 0: nothing came yet
  struct Traffic {
    uint64_t total = 0;   // requests
    uint64_t recent = 0;  // of the last kTrafficInterval, or what is left of earlier ones
  };
  std::map<std::pair<std::string, std::string>, Traffic> traffic;  // by datacenter and service
  SteadyTime traffic_at{};
  LogLevel log_level{options.bootstrap.logging().level()};
  std::shared_ptr<const ServingState> current;
  std::deque<std::shared_ptr<const ServingState>> retired;  // until the workers have let go of them
  uint64_t installs = 0;
  bool policy_unsaved = false, endpoints_unsaved = false;
  bool welcomed = false;
  std::string told_away;  // why, as the log has it; empty: it is there
  bool takes_reports = false;
  std::string last_report;  // of this stream, as sent
  bool standing_by = false;
  int control_plane = 0;  // index of the one that is tried
  int attempt = 0;
  absl::BitGen random;
  ChunkStage<v1::PolicyUpdate> policy_stage;
  ChunkStage<v1::EndpointsUpdate> endpoints_stage;
  SteadyTime stream_begin{}, sweep_at{}, cache_at{}, report_at{};
  std::optional<SteadyTime> reconnect_at;

  mutable absl::Mutex stats_mutex;
  // Replaced by the configuration thread under the lock; Stop cancels it under the lock.
  std::shared_ptr<ControlPlaneStream> stream;
  struct Stats {
    bool ready = false, connected = false, lacks_keys = false;
    uint64_t revision = 0, endpoints_version = 0;
    uint64_t policy_applied = 0, policy_rejected = 0, endpoints_applied = 0, endpoints_rejected = 0;
    uint64_t stream_attempts = 0;
    std::chrono::system_clock::time_point last_applied{};
    std::chrono::nanoseconds last_apply_time{};
  } stats ABSL_GUARDED_BY(stats_mutex);
};

ConfigClient::ConfigClient(ConfigClientOptions options, RuntimeState* runtime, InstallFunction install)
    : impl_(std::make_unique<Impl>(std::move(options), runtime, std::move(install))) {}

absl::Status ConfigClient::CheckPolicyFiles(const v1::Bootstrap& bootstrap, std::vector<std::string>* warnings) {
  Impl impl({.bootstrap = bootstrap,
             .workers = 1,
             .main_port = 0,
             .health_port = 0,
             .replaces_instance = "",
             .redis_away = nullptr,
             .diagnose = nullptr,
             .credentials = nullptr},
            nullptr, nullptr);
  return impl.alone() ? impl.LoadPolicyFiles(warnings) : absl::OkStatus();
}

ConfigClient::~ConfigClient() { Stop(0ms); }

absl::Status ConfigClient::Start() {
  if (absl::Status status = impl_->LoadInitial(); !status.ok()) return status;
  {
    absl::MutexLock lock(&impl_->stats_mutex);
    impl_->stats.lacks_keys = impl_->snapshot->keys_lacking() > 0;
  }
  impl_->BeginInstall();
  impl_->thread = StartThread("config", ThreadPriority::kBackground, [impl = impl_.get()] { impl->Run(); });
  return absl::OkStatus();
}

void ConfigClient::Stop(std::chrono::milliseconds timeout, Goodbye goodbye) {
  if (!impl_->thread.joinable()) return;
  const SteadyTime deadline = SteadyClock::now() + timeout;
  {
    absl::MutexLock lock(&impl_->inbox->mutex);
    impl_->inbox->stop = true;
    impl_->inbox->goodbye = goodbye == Goodbye::kSaid;
    impl_->inbox->stop_by = deadline;
  }
  {
    // The thread may be inside a write that a stopped control plane does not take.
    const auto over = [impl = impl_.get()]() { return impl->stream == nullptr; };
    absl::MutexLock lock(&impl_->stats_mutex);
    if (!impl_->stats_mutex.AwaitWithDeadline(absl::Condition(&over),
                                              absl::Now() + absl::FromChrono(deadline - SteadyClock::now()))) {
      impl_->stream->Cancel();
    }
  }
  impl_->thread.join();
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

bool ConfigClient::ready() const {
  absl::MutexLock lock(&impl_->stats_mutex);
  return impl_->stats.ready;
}

bool ConfigClient::lacks_keys() const {
  absl::MutexLock lock(&impl_->stats_mutex);
  return impl_->stats.lacks_keys;
}

uint64_t ConfigClient::revision() const {
  absl::MutexLock lock(&impl_->stats_mutex);
  return impl_->stats.revision;
}

bool ConfigClient::connected() const {
  absl::MutexLock lock(&impl_->stats_mutex);
  return impl_->stats.connected;
}

std::vector<prometheus::MetricFamily> ConfigClient::Families() const {
  using prometheus::MetricType;
  Impl::Stats stats;
  {
    absl::MutexLock lock(&impl_->stats_mutex);
    stats = impl_->stats;
  }
  std::vector<prometheus::MetricFamily> families;
  const auto add = [&families](const char* name, const char* help, MetricType type, double value) {
    families.push_back(Metric(name, help, type, value));
  };
  add("gateway_config_revision", "The revision that every worker serves.", MetricType::Gauge,
      static_cast<double>(stats.revision));
  add("gateway_config_endpoints_version", "The version of the endpoints that every worker serves.", MetricType::Gauge,
      static_cast<double>(stats.endpoints_version));
  add("gateway_config_connected", "1 while there is a stream from a control plane.", MetricType::Gauge,
      stats.connected ? 1 : 0);
  add("gateway_config_ready", "1 once a policy is served.", MetricType::Gauge, stats.ready ? 1 : 0);
  add("gateway_config_stream_attempts_total", "Tries to connect to a control plane.", MetricType::Counter,
      static_cast<double>(stats.stream_attempts));
  add("gateway_config_last_applied_timestamp_seconds", "When the newest update was served by every worker; 0: never.",
      MetricType::Gauge, std::chrono::duration<double>(stats.last_applied.time_since_epoch()).count());
  add("gateway_config_last_apply_seconds", "From the last chunk of the newest update to the last worker.",
      MetricType::Gauge, std::chrono::duration<double>(stats.last_apply_time).count());
  add("gateway_config_cache_write_errors_total", "Writes of the disk cache that failed.", MetricType::Counter,
      impl_->cache == nullptr ? 0 : static_cast<double>(impl_->cache->write_errors()));

  prometheus::MetricFamily updates;
  updates.name = "gateway_config_updates_total";
  updates.help = "Updates received in full, by kind and result.";
  updates.type = MetricType::Counter;
  const auto count = [&updates](const char* kind, const char* result, uint64_t value) {
    prometheus::ClientMetric metric;
    metric.label = {{"kind", kind}, {"result", result}};
    metric.counter.value = static_cast<double>(value);
    updates.metric.push_back(std::move(metric));
  };
  count("policy", "applied", stats.policy_applied);
  count("policy", "rejected", stats.policy_rejected);
  count("endpoints", "applied", stats.endpoints_applied);
  count("endpoints", "rejected", stats.endpoints_rejected);
  families.push_back(std::move(updates));
  return families;
}

}  // namespace gateway::dataplane
