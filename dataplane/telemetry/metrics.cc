#include "dataplane/telemetry/metrics.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <limits>
#include <sstream>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "common/base/grpc_code.h"
#include "common/base/log.h"
#include "common/base/version.h"
#include "prometheus/client_metric.h"
#include "prometheus/metric_family.h"
#include "prometheus/metric_type.h"

namespace gateway::dataplane {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

constexpr std::array<std::string_view, kMethodCount> kMethodNames = {"GET",    "HEAD",  "POST",    "PUT",
                                                                     "DELETE", "PATCH", "OPTIONS", "OTHER"};

// Prometheus' default buckets, in seconds and as the worker compares them.
constexpr std::array<double, 11> kBoundSeconds = {.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10};
constexpr std::array<int64_t, 11> kBoundNanos = {5'000'000,     10'000'000,    25'000'000,    50'000'000,
                                                 100'000'000,   250'000'000,   500'000'000,   1'000'000'000,
                                                 2'500'000'000, 5'000'000'000, 10'000'000'000};

// The service answered with a server's error of its own: no success, and no reason of ours.
constexpr std::string_view kUpstream5xx = "upstream_5xx";
constexpr int kErrorTypes = kReasonCount + 1;  // by Reason; kUpstream5xx is the last

// A counter with one writer, so that an increment needs no locked instruction.
class Counter {
 public:
  void Add(uint64_t delta) { value_.store(value_.load(std::memory_order_relaxed) + delta, std::memory_order_relaxed); }
  uint64_t Get() const { return value_.load(std::memory_order_relaxed); }
  void Clear() { value_.store(0, std::memory_order_relaxed); }  // not while a writer may write

 private:
  std::atomic<uint64_t> value_{0};
};

struct alignas(64) SeriesCounters {
  std::array<Counter, kMethodCount> requests;  // exactly a cache line
  void Clear() {
    for (Counter& each : requests) each.Clear();
  }
};

struct alignas(64) ServiceCounters {
  std::array<Counter, kBoundNanos.size() + 1> buckets;  // not cumulative; the last is +Inf
  Counter duration_nanos;
  Counter successes;
  std::array<Counter, kErrorTypes> errors;
  std::array<Counter, kGrpcCodesMax> calls;
  void Clear() {
    for (Counter& each : buckets) each.Clear();
    for (Counter& each : errors) each.Clear();
    for (Counter& each : calls) each.Clear();
    duration_nanos.Clear();
    successes.Clear();
  }
};

struct alignas(64) WatchedCounters {
  std::array<Counter, kLatencyBuckets> latency;
  Counter errors;
  void Record(int status, std::chrono::nanoseconds duration) {
    latency[LatencyBucketOf(duration.count())].Add(1);
    if (status >= 500) errors.Add(1);
  }
  void AddTo(MetricsRegistry::WatchedFigures* figures) const {
    figures->errors += errors.Get();
    for (size_t i = 0; i < kLatencyBuckets; ++i) {
      figures->latency[i] += latency[i].Get();
      figures->requests += latency[i].Get();
    }
  }
  void Clear() {
    for (Counter& each : latency) each.Clear();
    errors.Clear();
  }
};

// Elements 0..kCapacity-1 in chunks that stay where they are. Reserve (registering thread, under the registry's lock)
// makes room; the worker and the scraper only follow pointers.
template <typename T, uint32_t kCapacity, uint32_t kPerChunk>
class ChunkedArray {
 public:
  ~ChunkedArray() {
    for (auto& chunk : chunks_) delete chunk.load(std::memory_order_relaxed);
  }
  void Reserve(uint32_t index) {
    auto& chunk = chunks_[index / kPerChunk];
    if (chunk.load(std::memory_order_relaxed) == nullptr) chunk.store(new Chunk, std::memory_order_release);
  }
  // Null if nothing was reserved.
  T* At(uint32_t index) const {
    Chunk* chunk = chunks_[index / kPerChunk].load(std::memory_order_acquire);
    return chunk == nullptr ? nullptr : &(*chunk)[index % kPerChunk];
  }

 private:
  using Chunk = std::array<T, kPerChunk>;
  std::array<std::atomic<Chunk*>, (kCapacity + kPerChunk - 1) / kPerChunk> chunks_{};
};

// What comes past the limits is counted here.
constexpr uint32_t kOtherSeries = MetricsRegistry::kSeriesMax;
constexpr uint32_t kOtherService = MetricsRegistry::kServicesMax;

// Names and the slots that they have. The registry's lock guards it.
template <typename Key>
class SlotTable {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  SlotTable(uint32_t capacity, uint32_t other) : capacity_(capacity), other_(other) {}

  // `prepare` makes a slot ready for a new name.
  template <typename Prepare>
  MetricId Register(Key key, const Prepare& prepare) {
    if (const auto found = ids_.find(key); found != ids_.end()) {
      Slot& slot = slots_[found->second];
      std::shared_ptr<const void> use = slot.use.lock();
      if (use == nullptr) slot.use = use = std::make_shared<char>();
      slot.removed_at = TimePoint::max();
      return {found->second, std::move(use)};
    }
    uint32_t id = 0;
    if (!free_.empty()) {
      id = free_.back();
      free_.pop_back();
    } else if (slots_.size() < capacity_) {
      id = static_cast<uint32_t>(slots_.size());
      slots_.emplace_back();
    } else {
      return {other_, nullptr};
    }
    prepare(id);
    std::shared_ptr<const void> use = std::make_shared<char>();
    slots_[id] = {key, use, TimePoint::max(), true};
    ids_.emplace(std::move(key), id);
    return {id, std::move(use)};
  }

  // A slot that was let go `keep` ago has no writer any more: `clear` may write to its counters.
  template <typename Clear>
  void DropRemoved(TimePoint now, TimePoint::duration keep, const Clear& clear) {
    for (uint32_t id = 0; id < slots_.size(); ++id) {
      Slot& slot = slots_[id];
      if (!slot.taken || !slot.use.expired()) continue;
      if (slot.removed_at == TimePoint::max()) slot.removed_at = now;
      if (now - slot.removed_at < keep) continue;
      ids_.erase(slot.key);
      slot = {};
      clear(id);
      free_.push_back(id);
    }
  }

  template <typename Visit>  // void(uint32_t id, const Key&)
  void ForEach(const Visit& visit) const {
    for (uint32_t id = 0; id < slots_.size(); ++id) {
      if (slots_[id].taken) visit(id, slots_[id].key);
    }
  }

 private:
  struct Slot {
    Key key;
    std::weak_ptr<const void> use;  // of all copies of its MetricId
    TimePoint removed_at = TimePoint::max();
    bool taken = false;
  };
  const uint32_t capacity_;
  const uint32_t other_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
  absl::flat_hash_map<Key, uint32_t> ids_;
};

struct GaugeInfo {
  const char* name;
  MetricType type;
  const char* help;
};

constexpr std::array<GaugeInfo, static_cast<size_t>(WorkerGauge::kCount)> kGauges = {{
    {"gateway_connections", MetricType::Gauge, "Open connections of clients."},
    {"gateway_connections_total", MetricType::Counter, "Connections accepted."},
    {"gateway_upstream_connections", MetricType::Gauge, "Open connections to endpoints, idle ones included."},
    {"gateway_upstream_idle_connections", MetricType::Gauge, "Open connections to endpoints that wait for use."},
    {"gateway_upstream_connects_total", MetricType::Counter, "Connections opened to endpoints."},
    {"gateway_upstream_reuses_total", MetricType::Counter, "Requests sent on a pooled connection."},
    {"gateway_requests_in_flight", MetricType::Gauge, "Requests being served."},
    {"gateway_received_bytes_total", MetricType::Counter, "Bytes received from clients, headers and bodies."},
    {"gateway_sent_bytes_total", MetricType::Counter, "Bytes sent to clients, headers and bodies."},
    {"gateway_buffer_bytes", MetricType::Gauge, "Bytes of relay buffers and pipes in use."},
    {"gateway_accept_errors_total", MetricType::Counter, "Connections that could not be accepted."},
    {"gateway_bad_requests_total", MetricType::Counter, "Requests rejected before routing."},
    {"gateway_upgraded_connections", MetricType::Gauge, "Connections that have changed their protocol (WebSocket)."},
    {"gateway_upgraded_connections_total", MetricType::Counter, "Connections that changed their protocol."},
    {"gateway_connections_refused_total", MetricType::Counter,
     "Connections rejected by max_connections or max_connections_per_address."},
    {"gateway_connections_gave_way_total", MetricType::Counter,
     "Connections without a request, closed to make room for new ones."},
    {"gateway_retries_total", MetricType::Counter, "Requests sent again, on another connection or endpoint."},
    {"gateway_retries_over_budget_total", MetricType::Counter, "Retries that their budget did not allow."},
    {"gateway_mirrored_total", MetricType::Counter, "Copies of requests that were started."},
    {"gateway_mirrors_failed_total", MetricType::Counter,
     "Copies without a response: no connection, a reset, a timeout."},
    {"gateway_mirrors_dropped_total", MetricType::Counter,
     "Copies that were not sent: no endpoint, too many under way, or too long a body."},
    {"gateway_spliced_bytes_total", MetricType::Counter,
     "Bytes of long bodies that passed from socket to socket without being copied."},
}};
static_assert(kGauges.back().name != nullptr);

MetricFamily FamilyOf(const char* name, const char* help, MetricType type) {
  MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  return family;
}

ClientMetric MetricOf(MetricType type, double value, std::vector<ClientMetric::Label> labels = {}) {
  ClientMetric metric;
  metric.label = std::move(labels);
  if (type == MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  return metric;
}

MetricFamily SingleMetric(const char* name, const char* help, MetricType type, double value) {
  MetricFamily family = FamilyOf(name, help, type);
  family.metric.push_back(MetricOf(type, value));
  return family;
}

std::string_view ErrorTypeName(int index) {
  return index == kReasonCount ? kUpstream5xx : InfoOf(static_cast<Reason>(index)).word;
}

}  // namespace

Method MethodOf(std::string_view method) {
  switch (method.size()) {
    case 3:
      if (method == "GET") return Method::kGet;
      if (method == "PUT") return Method::kPut;
      break;
    case 4:
      if (method == "POST") return Method::kPost;
      if (method == "HEAD") return Method::kHead;
      break;
    case 5:
      if (method == "PATCH") return Method::kPatch;
      break;
    case 6:
      if (method == "DELETE") return Method::kDelete;
      break;
    case 7:
      if (method == "OPTIONS") return Method::kOptions;
      break;
    default:
      break;
  }
  return Method::kOther;
}

std::string_view MethodName(Method method) { return kMethodNames[static_cast<size_t>(method)]; }

struct WorkerShard::Impl {
  alignas(64) std::array<std::atomic<int64_t>, static_cast<size_t>(WorkerGauge::kCount)> gauges{};
  ChunkedArray<SeriesCounters, kOtherSeries + 1, 1024> series;
  ChunkedArray<ServiceCounters, kOtherService + 1, 64> services;
  ChunkedArray<WatchedCounters, MetricsRegistry::kWatchedRoutesMax, 32> watched;
  ChunkedArray<WatchedCounters, MetricsRegistry::kWatchedSidesMax, 32> sides;
};

WorkerShard::WorkerShard() : impl_(std::make_unique<Impl>()) {}
WorkerShard::~WorkerShard() = default;

void WorkerShard::Record(uint32_t service, uint32_t series, Method method, int status, Reason reason,
                         std::chrono::nanoseconds duration) {
  SeriesCounters* of_series = impl_->series.At(std::min(series, kOtherSeries));
  if (of_series == nullptr) of_series = impl_->series.At(kOtherSeries);
  of_series->requests[static_cast<size_t>(method)].Add(1);

  ServiceCounters* of_service = impl_->services.At(std::min(service, kOtherService));
  if (of_service == nullptr) of_service = impl_->services.At(kOtherService);
  const int64_t nanos = std::max<int64_t>(duration.count(), 0);
  size_t bucket = 0;
  for (const int64_t bound : kBoundNanos) bucket += nanos > bound ? 1 : 0;  // a bound is inside its bucket
  of_service->buckets[bucket].Add(1);
  of_service->duration_nanos.Add(static_cast<uint64_t>(nanos));
  if (reason != Reason::kNone) {
    of_service->errors[static_cast<size_t>(reason)].Add(1);
  } else if (status >= 500) {
    of_service->errors[kReasonCount].Add(1);
  } else {
    of_service->successes.Add(1);
  }
}

void WorkerShard::RecordWatched(uint32_t watched_route, int status, Reason reason, std::chrono::nanoseconds duration) {
  if (watched_route == kNotWatched || reason == Reason::kClientClosed) return;
  WatchedCounters* counters = impl_->watched.At(watched_route);
  if (counters != nullptr) counters->Record(status, duration);
}

void WorkerShard::RecordWatchedSide(uint32_t watched_side, int status, Reason reason,
                                    std::chrono::nanoseconds duration) {
  if (watched_side == kNotWatched || reason == Reason::kClientClosed) return;
  WatchedCounters* counters = impl_->sides.At(watched_side);
  if (counters != nullptr) counters->Record(status, duration);
}

void WorkerShard::RecordCall(uint32_t service, int code) {
  ServiceCounters* counters = impl_->services.At(std::min(service, kOtherService));
  if (counters == nullptr) counters = impl_->services.At(kOtherService);
  counters->calls[static_cast<size_t>(code)].Add(1);
}

void WorkerShard::Add(WorkerGauge gauge, int64_t delta) {
  auto& value = impl_->gauges[static_cast<size_t>(gauge)];
  value.store(value.load(std::memory_order_relaxed) + delta, std::memory_order_relaxed);
}

std::atomic<int64_t>* WorkerShard::Cell(WorkerGauge gauge) { return &impl_->gauges[static_cast<size_t>(gauge)]; }

int64_t WorkerShard::Get(WorkerGauge gauge) const {
  return impl_->gauges[static_cast<size_t>(gauge)].load(std::memory_order_relaxed);
}

struct MetricsRegistry::Impl {
  using ShardPointer = std::unique_ptr<WorkerShard, void (*)(WorkerShard*)>;
  using SeriesName = std::pair<std::string, std::string>;  // service, path

  Impl(int workers, Options given) : options(std::move(given)) {
    shards.reserve(static_cast<size_t>(workers));
    for (int i = 0; i < workers; ++i) shards.emplace_back(new WorkerShard, [](WorkerShard* shard) { delete shard; });
  }

  MetricId AddService(std::string_view name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    return services.Register(std::string(name), [this](uint32_t id) {
      for (const auto& shard : shards) shard->impl_->services.Reserve(id);
    });
  }

  MetricId AddSeries(std::string_view service, std::string_view path) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    return series.Register({std::string(service), std::string(path)}, [this](uint32_t id) {
      for (const auto& shard : shards) shard->impl_->series.Reserve(id);
    });
  }

  MetricId AddWatchedRoute(std::string_view route, uint64_t revision) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    return watched.Register({std::string(route), revision}, [this](uint32_t id) {
      for (const auto& shard : shards) shard->impl_->watched.Reserve(id);
    });
  }

  MetricId AddWatchedSide(std::string_view route, uint64_t version, std::string_view service)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    return sides.Register({std::string(route), version, std::string(service)}, [this](uint32_t id) {
      for (const auto& shard : shards) shard->impl_->sides.Reserve(id);
    });
  }

  void DropRemoved() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    const auto now = options.clock();
    services.DropRemoved(now, options.keep_removed_for, [this](uint32_t id) {
      for (const auto& shard : shards) shard->impl_->services.At(id)->Clear();
    });
    series.DropRemoved(now, options.keep_removed_for, [this](uint32_t id) {
      for (const auto& shard : shards) shard->impl_->series.At(id)->Clear();
    });
    watched.DropRemoved(now, options.keep_removed_for, [this](uint32_t id) {
      for (const auto& shard : shards) shard->impl_->watched.At(id)->Clear();
    });
    sides.DropRemoved(now, std::min<std::chrono::milliseconds>(options.keep_removed_for, kSidesKept),
                      [this](uint32_t id) {
                        for (const auto& shard : shards) shard->impl_->sides.At(id)->Clear();
                      });
  }

  void CollectSeries(uint32_t id, const std::string& service, const std::string& path, MetricFamily* requests) const {
    for (int method = 0; method < kMethodCount; ++method) {
      uint64_t sum = 0;
      for (const auto& shard : shards) sum += shard->impl_->series.At(id)->requests[static_cast<size_t>(method)].Get();
      if (sum == 0) continue;
      requests->metric.push_back(MetricOf(
          MetricType::Counter, static_cast<double>(sum),
          {{"service", service}, {"method", std::string(kMethodNames[static_cast<size_t>(method)])}, {"path", path}}));
    }
  }

  void CollectService(uint32_t id, const std::string& service, MetricFamily* times, MetricFamily* errors,
                      MetricFamily* successes, MetricFamily* calls) const {
    std::array<uint64_t, kBoundNanos.size() + 1> buckets{};
    std::array<uint64_t, kErrorTypes> by_type{};
    std::array<uint64_t, kGrpcCodesMax> by_code{};
    uint64_t nanos = 0, good = 0;
    for (const auto& shard : shards) {
      const ServiceCounters& counters = *shard->impl_->services.At(id);
      for (size_t i = 0; i < buckets.size(); ++i) buckets[i] += counters.buckets[i].Get();
      for (size_t i = 0; i < by_type.size(); ++i) by_type[i] += counters.errors[i].Get();
      for (size_t i = 0; i < by_code.size(); ++i) by_code[i] += counters.calls[i].Get();
      nanos += counters.duration_nanos.Get();
      good += counters.successes.Get();
    }
    ClientMetric time;
    time.label = {{"service", service}};
    uint64_t count = 0;
    for (size_t i = 0; i < buckets.size(); ++i) {
      count += buckets[i];
      time.histogram.bucket.push_back(
          {count, i < kBoundSeconds.size() ? kBoundSeconds[i] : std::numeric_limits<double>::infinity()});
    }
    if (count == 0) return;
    time.histogram.sample_count = count;
    time.histogram.sample_sum = static_cast<double>(nanos) / 1e9;
    times->metric.push_back(std::move(time));
    successes->metric.push_back(MetricOf(MetricType::Counter, static_cast<double>(good), {{"service", service}}));
    for (int i = 0; i < kErrorTypes; ++i) {
      if (by_type[static_cast<size_t>(i)] == 0) continue;
      errors->metric.push_back(MetricOf(MetricType::Counter, static_cast<double>(by_type[static_cast<size_t>(i)]),
                                        {{"service", service}, {"error_type", std::string(ErrorTypeName(i))}}));
    }
    for (size_t i = 0; i < by_code.size(); ++i) {
      if (by_code[i] == 0) continue;
      calls->metric.push_back(MetricOf(MetricType::Counter, static_cast<double>(by_code[i]),
                                       {{"service", service}, {"grpc_status", std::to_string(i)}}));
    }
  }

  const Options options;
  std::vector<ShardPointer> shards;  // fixed from the start

  // Guards names only: a worker never takes it.
  mutable absl::Mutex mutex;
  SlotTable<std::string> services ABSL_GUARDED_BY(mutex){kServicesMax, kOtherService};
  SlotTable<SeriesName> series ABSL_GUARDED_BY(mutex){kSeriesMax, kOtherSeries};
  SlotTable<std::pair<std::string, uint64_t>> watched ABSL_GUARDED_BY(mutex){kWatchedRoutesMax,
                                                                             WorkerShard::kNotWatched};
  SlotTable<std::tuple<std::string, uint64_t, std::string>> sides ABSL_GUARDED_BY(mutex){kWatchedSidesMax,
                                                                                         WorkerShard::kNotWatched};
  std::vector<MetricId> registered_from_the_start ABSL_GUARDED_BY(mutex);
  std::vector<std::function<std::vector<MetricFamily>()>> sources ABSL_GUARDED_BY(mutex);
};

MetricsRegistry::MetricsRegistry(int workers, Options options)
    : impl_(std::make_unique<Impl>(workers, std::move(options))) {
  absl::MutexLock lock(&impl_->mutex);
  impl_->registered_from_the_start = {impl_->AddService("unknown"),
                                      impl_->AddService("gateway"),
                                      impl_->AddSeries("unknown", "unmatched"),
                                      impl_->AddSeries("gateway", "/health"),
                                      impl_->AddSeries("gateway", "/test-rate-limit"),
                                      impl_->AddSeries("gateway", "/metrics"),
                                      impl_->AddWatchedRoute("", 0),      // kNotWatched
                                      impl_->AddWatchedSide("", 0, "")};  // kNotWatched
  for (const auto& shard : impl_->shards) {
    shard->impl_->series.Reserve(kOtherSeries);
    shard->impl_->services.Reserve(kOtherService);
  }
}

MetricsRegistry::~MetricsRegistry() = default;

MetricId MetricsRegistry::RegisterService(std::string_view service) {
  absl::MutexLock lock(&impl_->mutex);
  return impl_->AddService(service);
}

MetricId MetricsRegistry::RegisterWatchedRoute(std::string_view route, uint64_t revision) {
  absl::MutexLock lock(&impl_->mutex);
  return impl_->AddWatchedRoute(route, revision);
}

MetricsRegistry::WatchedFigures MetricsRegistry::FiguresOf(const MetricId& watched_route) const {
  WatchedFigures figures;
  for (const auto& shard : impl_->shards) {
    const WatchedCounters* counters = shard->impl_->watched.At(watched_route);
    if (counters != nullptr) counters->AddTo(&figures);
  }
  return figures;
}

MetricId MetricsRegistry::RegisterWatchedSide(std::string_view route, uint64_t version, std::string_view service) {
  absl::MutexLock lock(&impl_->mutex);
  return impl_->AddWatchedSide(route, version, service);
}

MetricsRegistry::WatchedFigures MetricsRegistry::FiguresOfSide(const MetricId& watched_side) const {
  WatchedFigures figures;
  for (const auto& shard : impl_->shards) {
    const WatchedCounters* counters = shard->impl_->sides.At(watched_side);
    if (counters != nullptr) counters->AddTo(&figures);
  }
  return figures;
}

uint64_t MetricsRegistry::RequestsOf(const MetricId& service) const {
  uint64_t sum = 0;
  for (const auto& shard : impl_->shards) {
    const ServiceCounters* counters = shard->impl_->services.At(std::min<uint32_t>(service, kOtherService));
    if (counters == nullptr) continue;
    for (const Counter& bucket : counters->buckets) sum += bucket.Get();
  }
  return sum;
}

MetricId MetricsRegistry::RegisterSeries(std::string_view service, std::string_view path) {
  absl::MutexLock lock(&impl_->mutex);
  return impl_->AddSeries(service, path);
}

void MetricsRegistry::DropRemoved() {
  absl::MutexLock lock(&impl_->mutex);
  impl_->DropRemoved();
}

WorkerShard* MetricsRegistry::shard(int worker) { return impl_->shards.at(static_cast<size_t>(worker)).get(); }

void MetricsRegistry::AddSource(std::function<std::vector<MetricFamily>()> source) {
  absl::MutexLock lock(&impl_->mutex);
  impl_->sources.push_back(std::move(source));
}

std::vector<MetricFamily> MetricsRegistry::Collect() const {
  MetricFamily requests =
      FamilyOf("api_requests_total", "Requests, rejected ones too; path is the route's pattern.", MetricType::Counter);
  MetricFamily times = FamilyOf("api_response_time_seconds", "From the request header to the end of the response.",
                                MetricType::Histogram);
  MetricFamily errors = FamilyOf("api_errors_total",
                                 "Requests that the gateway rejected, by reason; upstream_5xx: the service "
                                 "responded with 500 or above.",
                                 MetricType::Counter);
  MetricFamily successes = FamilyOf("api_successes_total", "Requests with a response below 500.", MetricType::Counter);
  MetricFamily calls = FamilyOf("api_grpc_calls_total",
                                "Calls of gRPC by the status that they ended with, also by one "
                                "of ours.",
                                MetricType::Counter);
  std::vector<std::function<std::vector<MetricFamily>()>> sources;
  {
    absl::MutexLock lock(&impl_->mutex);
    impl_->DropRemoved();
    impl_->series.ForEach([&](uint32_t id, const Impl::SeriesName& name) {
      impl_->CollectSeries(id, name.first, name.second, &requests);
    });
    impl_->CollectSeries(kOtherSeries, "other", "other", &requests);
    impl_->services.ForEach([&](uint32_t id, const std::string& name) {
      impl_->CollectService(id, name, &times, &errors, &successes, &calls);
    });
    impl_->CollectService(kOtherService, "other", &times, &errors, &successes, &calls);
    sources = impl_->sources;
  }

  std::vector<MetricFamily> families;
  families.reserve(5 + kGauges.size());
  families.push_back(std::move(requests));
  families.push_back(std::move(times));
  families.push_back(std::move(errors));
  families.push_back(std::move(successes));
  families.push_back(std::move(calls));
  for (size_t i = 0; i < kGauges.size(); ++i) {
    int64_t sum = 0;
    for (const auto& shard : impl_->shards) sum += shard->Get(static_cast<WorkerGauge>(i));
    families.push_back(SingleMetric(kGauges[i].name, kGauges[i].help, kGauges[i].type, static_cast<double>(sum)));
  }
  for (const auto& source : sources) {  // outside the lock: a source may register, or wait for a lock of its own
    std::vector<MetricFamily> more = source();
    std::move(more.begin(), more.end(), std::back_inserter(families));
  }
  return families;
}

namespace {

// The fields of /proc/self/stat from the third (state) on: proc(5) numbers them from 1, and the second, the program's
// name, may itself hold spaces and parentheses.
std::vector<std::string> StatFields() {
  std::ifstream file("/proc/self/stat");
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return {};
  std::istringstream rest(text.substr(name_end + 1));
  return {std::istream_iterator<std::string>(rest), std::istream_iterator<std::string>()};
}

double BootTimeSeconds() {
  std::ifstream file("/proc/stat");
  for (std::string word; file >> word;) {
    if (word != "btime") continue;
    double seconds = 0;
    file >> seconds;
    return seconds;
  }
  return 0;
}

int OpenDescriptors() {
  DIR* directory = opendir("/proc/self/fd");
  if (directory == nullptr) return 0;
  int count = 0;
  while (const dirent* entry = readdir(directory)) count += entry->d_name[0] != '.' ? 1 : 0;
  closedir(directory);
  return count - 1;  // without the directory's own
}

}  // namespace

std::vector<MetricFamily> ProcessFamilies(std::string_view component) {
  std::vector<MetricFamily> families;
  MetricFamily build = FamilyOf("gateway_build_info", "1; the labels identify the build.", MetricType::Gauge);
  build.metric.push_back(
      MetricOf(MetricType::Gauge, 1, {{"version", kVersion}, {"component", std::string(component)}}));
  families.push_back(std::move(build));

  const std::vector<std::string> fields = StatFields();
  const auto field = [&fields](size_t number) {  // as proc(5) numbers them
    const size_t index = number - 3;
    return index < fields.size() ? std::strtod(fields[index].c_str(), nullptr) : 0.0;
  };
  const auto ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  rlimit descriptors{};
  getrlimit(RLIMIT_NOFILE, &descriptors);
  const auto add = [&families](const char* name, const char* help, MetricType type, double value) {
    families.push_back(SingleMetric(name, help, type, value));
  };
  add("gateway_log_dropped_total", "Lines of the program's own log that were dropped because its reader stalled.",
      MetricType::Counter, static_cast<double>(DroppedLogLines()));
  add("process_cpu_seconds_total", "Processor time, user and system.", MetricType::Counter,
      (field(14) + field(15)) / ticks);
  add("process_resident_memory_bytes", "Resident memory.", MetricType::Gauge,
      field(24) * static_cast<double>(sysconf(_SC_PAGESIZE)));
  add("process_virtual_memory_bytes", "Virtual memory.", MetricType::Gauge, field(23));
  add("process_open_fds", "Open file descriptors.", MetricType::Gauge, OpenDescriptors());
  add("process_max_fds", "The limit of open file descriptors.", MetricType::Gauge,
      static_cast<double>(descriptors.rlim_cur));
  add("process_start_time_seconds", "When the process started, since the epoch.", MetricType::Gauge,
      BootTimeSeconds() + field(22) / ticks);
  add("process_threads", "Threads.", MetricType::Gauge, field(20));
  return families;
}

}  // namespace gateway::dataplane
