#include "dataplane/config/quota_client.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <map>
#include <optional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/random/random.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/digest.h"
#include "common/base/thread.h"
#include "dataplane/config/control_plane_rotation.h"
#include "dataplane/config/control_plane_stream.h"
#include "gateway/v1/quota.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "spdlog/fmt/fmt.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

using SteadyClock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using namespace std::chrono_literals;

// Between two looks at tables of which no key has anything to say.
constexpr auto kIdleInterval = 1s;
// Of a tick: a key that runs dry does not wait for the rest of it.
constexpr int kWokenTicks = 4;
constexpr auto kWelcomeWait = 5s;
// Attempts are at most 800 ms apart, because the shares that were leased last age.
constexpr int kRoundsMax = 3;
constexpr auto kRoundTripMin = 100us;
constexpr auto kRoundTripMax = 200ms;
constexpr size_t kKeyBytesMax = 32;  // longer ones are told by their digest
constexpr size_t kUnreadMax = 64;

using LeaseStream = ControlPlaneStream<v1::Quota::Stub, v1::LeaseDemands, v1::LeaseGrants, &v1::Quota::Stub::Lease>;

// What other threads tell the client's own.
struct Inbox : StreamInbox<v1::LeaseGrants> {
  bool woken ABSL_GUARDED_BY(mutex) = false;
};

std::string WireKey(std::string_view key) {
  if (key.size() < kKeyBytesMax) return std::string(key);
  const Digest digest = Sha256(key);
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

void FillDemand(const KeyDemand& demand, v1::KeyDemand* message) {
  message->set_id(demand.id);
  message->set_used(demand.used);
  message->set_returned(demand.returned);
  message->set_target(demand.target);
  message->set_rate(demand.rate);
  message->set_dropped(demand.dropped);
  if (!demand.first) return;
  message->set_first(true);
  message->set_key(WireKey(demand.key));
  message->set_client(demand.client.ToBytes());
  message->set_recent(demand.recent);
  message->set_recent_span_ms(static_cast<uint32_t>(demand.recent_span.count()));
}

KeyGrant GrantOf(const v1::KeyGrant& message) {
  KeyGrant grant;
  grant.id = message.id();
  grant.granted = message.granted();
  grant.scarce = message.scarce();
  grant.wait = milliseconds(message.wait_ms());
  grant.full_in = milliseconds(message.full_in_ms());
  grant.available = message.available();
  grant.share = message.share();
  grant.unknown = message.unknown();
  return grant;
}

}  // namespace

struct QuotaClient::Impl {
  explicit Impl(QuotaClientOptions given) : options(std::move(given)), rotation(options.control_planes, kRoundsMax) {
    absl::BitGen bits;
    instance = fmt::format("{:016x}{:016x}", absl::Uniform<uint64_t>(bits), absl::Uniform<uint64_t>(bits));
    options.link->wake = [inbox = inbox] {
      absl::MutexLock lock(&inbox->mutex);
      inbox->woken = true;
    };
  }

  void Run() {
    while (true) {
      std::deque<StreamInbox<v1::LeaseGrants>::Arrival> messages;
      std::optional<grpc::Status> end;
      {
        // While something is due soon anyway, a wake-up changes nothing.
        const auto now = SteadyClock::now();
        const auto woken_at = collected + WokenInterval();
        const bool heeds_wakes = woken_at <= now;
        const auto awake = [this, heeds_wakes]() ABSL_SHARED_LOCKS_REQUIRED(inbox->mutex) {
          return inbox->stop || !inbox->messages.empty() || inbox->stream_end.has_value() ||
                 (heeds_wakes && inbox->woken);
        };
        absl::MutexLock lock(&inbox->mutex);
        auto due = Due();
        if (!heeds_wakes && inbox->woken) due = std::min(due, woken_at);
        if (!heeds_wakes && !inbox->woken) {
          // Woken before then, it is looked at again then.
          const auto woken_or = [this, &awake]()
                                    ABSL_SHARED_LOCKS_REQUIRED(inbox->mutex) { return awake() || inbox->woken; };
          inbox->mutex.AwaitWithDeadline(absl::Condition(&woken_or), absl::Now() + absl::FromChrono(due - now));
        } else {
          inbox->mutex.AwaitWithDeadline(absl::Condition(&awake), absl::Now() + absl::FromChrono(due - now));
        }
        if (inbox->stop) break;
        messages.swap(inbox->messages);
        end = std::exchange(inbox->stream_end, std::nullopt);
      }
      tables = options.tables();
      for (const auto& [message, at] : messages) OnMessage(message, at);
      if (end && stream != nullptr) BreakStream(end->ok() ? "it was ended" : end->error_message());
      RunTimers();
    }
    options.link->up.store(false, std::memory_order_release);
    stream.reset();
  }

  SteadyClock::duration Tick() const { return nanoseconds(options.link->tick_ns.load(std::memory_order_relaxed)); }
  SteadyClock::duration WokenInterval() const { return Tick() / kWokenTicks; }

  bool Live() const {
    return std::any_of(tables.begin(), tables.end(), [](const auto& each) { return each.second->live(); });
  }

  SteadyClock::time_point Due() const {
    SteadyClock::time_point due = collected + (up && (Live() || more) ? Tick() : SteadyClock::duration(kIdleInterval));
    if (stream == nullptr && reconnect_at && !tables.empty()) due = std::min(due, *reconnect_at);
    return due;
  }

  void RunTimers() {
    const auto now = SteadyClock::now();
    bool woken;
    {
      absl::MutexLock lock(&inbox->mutex);
      woken = inbox->woken;
    }
    if (stream == nullptr && !tables.empty() && !rotation.empty() && (!reconnect_at || now >= *reconnect_at)) {
      BeginStream(now);
    }
    if (stream != nullptr && tables.empty()) return EndStream();  // nothing to lease any more
    if (stream != nullptr && !up && now - stream_begin >= kWelcomeWait) return BreakStream("no response in time");
    if (stream != nullptr && up && now - heard >= kLeaseTtl) return BreakStream("it is silent");
    if (now >= collected + (up && (Live() || more) ? Tick() : SteadyClock::duration(kIdleInterval)) ||
        (woken && now >= collected + WokenInterval())) {
      Collect(now);
    }
  }

  void Collect(SteadyClock::time_point now) {
    {
      absl::MutexLock lock(&inbox->mutex);
      inbox->woken = false;
    }
    collected = now;
    options.link->Listen();
    // Wait for responses before asking for more.
    if (up && number - answered > kUnansweredMax) return;
    v1::LeaseDemands message;
    size_t room = kKeysPerMessageMax;
    more = false;
    for (size_t i = 0; i < tables.size(); ++i) {
      const auto& [name, table] = tables[(first_table + i) % tables.size()];
      demands.clear();
      const bool all = table->Collect(now, room, &demands);
      room -= std::min(room, demands.size());
      if (up && !demands.empty()) {
        v1::LimitDemands* limit = message.add_limits();
        limit->set_limit(name);
        for (const KeyDemand& demand : demands) FillDemand(demand, limit->add_keys());
      }
      if (!all) {
        // The rest comes first the next time.
        more = true;
        first_table = (first_table + i) % tables.size();
        break;
      }
    }
    if (!up) return;
    const bool tells_all = !more && !told_all;
    if (message.limits_size() == 0 && !tells_all) return;
    told_all = told_all || tells_all;
    message.set_told_all(tells_all);
    message.set_number(++number);
    sent = now;
    messages_sent.fetch_add(1, std::memory_order_relaxed);
    (void)stream->Write(message);  // a broken stream is told by its end
  }

  void BeginStream(SteadyClock::time_point now) {
    inbox->Clear();
    stream_begin = now;
    number = 1;
    answered = 0;
    sent = now;
    told_all = false;
    v1::LeaseDemands first;
    first.set_name(options.name);
    first.set_instance_id(instance);
    first.set_number(number);
    grpc::ChannelArguments arguments;
    absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> credentials = grpc::InsecureChannelCredentials();
    if (options.credentials != nullptr) credentials = options.credentials->ForConnection(absl::Now(), &arguments);
    if (!credentials.ok()) return BreakStream(std::string(credentials.status().message()));
    stream = std::make_unique<LeaseStream>(ControlPlaneStreamOptions{.address = rotation.address(),
                                                                     .credentials = *credentials,
                                                                     .arguments = std::move(arguments),
                                                                     .thread_name = "quota-stream",
                                                                     .priority = ThreadPriority::kServing,
                                                                     .unread_max = kUnreadMax},
                                           std::move(first), inbox);
  }

  void OnMessage(const v1::LeaseGrants& message, SteadyClock::time_point at) {
    if (stream == nullptr) return;
    LeaseLink& link = *options.link;
    heard = std::max(heard, at);
    link.heard_ns.store(nanoseconds(at.time_since_epoch()).count(), std::memory_order_relaxed);
    link.data_planes.store(std::max<uint32_t>(1, message.data_planes()), std::memory_order_relaxed);
    const milliseconds tick(std::clamp<uint32_t>(message.tick_ms(), 5, 1000));
    link.tick_ns.store(nanoseconds(tick).count(), std::memory_order_relaxed);
    if (message.answers() == number && answered != number && up) {
      const nanoseconds measured = std::clamp<nanoseconds>(at - sent - std::chrono::microseconds(message.held_us()),
                                                           kRoundTripMin, kRoundTripMax);
      const int64_t before = link.round_trip_ns.load(std::memory_order_relaxed);
      link.round_trip_ns.store(before + (measured.count() - before) / 4, std::memory_order_relaxed);
    }
    answered = std::max(answered, message.answers());
    if (!up) {
      up = true;
      away_told = false;
      link.stream.fetch_add(1, std::memory_order_release);
      link.up.store(true, std::memory_order_release);
      spdlog::info("quota: leases from the control plane {}, {} data planes", rotation.address(),
                   message.data_planes());
      collected = {};  // what keys have to say is said at once
    }
    for (const v1::LimitGrants& limit : message.limits()) {
      for (const auto& [name, table] : tables) {
        if (name != limit.limit()) continue;
        for (const v1::KeyGrant& grant : limit.keys()) table->OnGrant(GrantOf(grant), at);
      }
    }
  }

  void EndStream() {
    options.link->up.store(false, std::memory_order_release);
    up = false;
    stream.reset();
    reconnect_at.reset();
    inbox->Clear();
  }

  void BreakStream(std::string_view why) {
    const bool was_up = up;
    const std::string address = rotation.address();
    EndStream();
    reconnect_at = SteadyClock::now() + rotation.Next(was_up, SteadyClock::now() - stream_begin);
    if (was_up || !away_told) {
      spdlog::warn("quota: no leases from the control plane {}: {}; limits of the fleet continue without", address,
                   why);
      away_told = true;
    }
  }

  QuotaClientOptions options;
  std::string instance;
  const std::shared_ptr<Inbox> inbox = std::make_shared<Inbox>();
  std::thread thread;
  std::atomic<uint64_t> messages_sent{0};

  // The thread's own.
  ControlPlaneRotation rotation;
  LeaseTables tables;
  std::unique_ptr<LeaseStream> stream;
  bool up = false, told_all = false, away_told = false;
  bool more = false;  // the last Collect did not take everything
  size_t first_table = 0;
  uint64_t number = 0, answered = 0;
  SteadyClock::time_point stream_begin{}, sent{}, heard{}, collected{};
  std::optional<SteadyClock::time_point> reconnect_at;
  std::vector<KeyDemand> demands;
};

QuotaClient::QuotaClient(QuotaClientOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
QuotaClient::~QuotaClient() { Stop(); }

void QuotaClient::Start() {
  impl_->thread = StartThread("quota", ThreadPriority::kServing, [impl = impl_.get()] { impl->Run(); });
}

void QuotaClient::Stop() {
  if (!impl_->thread.joinable()) return;
  {
    absl::MutexLock lock(&impl_->inbox->mutex);
    impl_->inbox->stop = true;
  }
  impl_->thread.join();
}

std::vector<prometheus::MetricFamily> QuotaClient::Families() const {
  using prometheus::MetricType;
  std::vector<prometheus::MetricFamily> families;
  const auto add = [&families](const char* name, const char* help, MetricType type, double value) {
    prometheus::MetricFamily family{name, help, type, {}};
    family.metric.resize(1);
    family.metric[0].gauge.value = value;
    family.metric[0].counter.value = value;
    families.push_back(std::move(family));
  };
  const LeaseLink& link = *impl_->options.link;
  add("gateway_quota_connected", "1 while a control plane leases tokens of fleet-wide limits.", MetricType::Gauge,
      link.up.load(std::memory_order_relaxed) ? 1 : 0);
  add("gateway_quota_data_planes", "Data planes that share fleet-wide limits, as the control plane told this one.",
      MetricType::Gauge, link.data_planes.load(std::memory_order_relaxed));
  add("gateway_quota_round_trip_seconds", "To the control plane and back, averaged.", MetricType::Gauge,
      static_cast<double>(link.round_trip_ns.load(std::memory_order_relaxed)) / 1e9);
  add("gateway_quota_messages_total", "Messages about leases that were sent.", MetricType::Counter,
      static_cast<double>(impl_->messages_sent.load(std::memory_order_relaxed)));
  const auto each = [this, &families](const char* name, const char* help, MetricType type, auto value) {
    prometheus::MetricFamily family{name, help, type, {}};
    for (const auto& [limit, table] : impl_->options.tables()) {
      prometheus::ClientMetric metric;
      metric.label = {{"limit", limit}};
      metric.gauge.value = metric.counter.value = static_cast<double>(value(*table));
      family.metric.push_back(std::move(metric));
    }
    families.push_back(std::move(family));
  };
  each("gateway_quota_keys", "Keys of a fleet-wide limit that are remembered.", MetricType::Gauge,
       [](const LeaseTable& table) { return table.stats().keys; });
  each("gateway_quota_overdrawn_total", "Requests let through ahead of a grant.", MetricType::Counter,
       [](const LeaseTable& table) { return table.stats().overdrawn; });
  each("gateway_quota_unleased_total", "Requests decided without the control plane.", MetricType::Counter,
       [](const LeaseTable& table) { return table.stats().by_share; });
  each("gateway_quota_unavailable", "1 while the lease is void and on_unavailable holds.", MetricType::Gauge,
       [](const LeaseTable& table) { return table.unavailable(SteadyClock::now()) ? 1 : 0; });
  return families;
}

}  // namespace gateway::dataplane
