// One thread, and on it a coroutine for each loop:
//
//   WatchCatalog   one for each datacenter: catalog/services. What exists, and so what to watch.
//   WatchService   one for each service that exists, or past the budget for those that rank highest:
//   health/service/NAME. WatchChecks    past the budget, one for each datacenter: health/state/any. Of the services
//   without a watch, Fetch
//                  reads those whose served set differs from what it (or the catalog) says, and Sweep all: slowly, and
//                  when the catalog has changed without saying where.
//   Confirm        one for each datacenter while something is suspect: asks the leader.
//
// Every answer about a service, whoever asked, goes through OnServiceAnswer; every change of what is known through
// Store, which schedules a publication.
#include "controlplane/sources/consul/watcher.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <set>
#include <thread>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "boost/asio/co_spawn.hpp"
#include "boost/asio/executor_work_guard.hpp"
#include "boost/asio/io_context.hpp"
#include "boost/asio/post.hpp"
#include "boost/asio/redirect_error.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/asio/thread_pool.hpp"
#include "boost/asio/use_awaitable.hpp"
#include "controlplane/sources/consul/decoder.h"
#include "controlplane/sources/consul/http_client.h"
#include "controlplane/sources/consul/pace.h"
#include "controlplane/sources/consul/ranking.h"
#include "controlplane/sources/consul/state_file.h"
#include "controlplane/sources/consul/suspicion.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kReadTimeout{10'000};      // of reads that don't block
constexpr milliseconds kPublishDelay{5};          // joins what one event changes in several services
constexpr milliseconds kStateFileInterval{1000};  // between two writes
constexpr milliseconds kServicePace{250};         // between the reads of one service that changes all the time
constexpr milliseconds kCatalogPace{250};
constexpr milliseconds kChecksPace{500};       // this answer is megabytes
constexpr milliseconds kLeaderlessWait{5000};  // nothing wakes a watch when a leader is found
constexpr milliseconds kConfirmPauseMax{5000};
// Losses that belong together are read one by one: none is confirmed before the others had time to show.
constexpr milliseconds kLossSettle{300};
constexpr milliseconds kSweepInterval{60'000};
constexpr milliseconds kSweepTick{500};
constexpr milliseconds kSweepingTick{20};  // while one runs
// A sweep that the catalog asks for, since it changed and doesn't say which service, begins at once after a quiet time.
// Otherwise it waits as long as the one before it took, so sweeps take half of the fetchers' time at most.
constexpr int kSweepRest = 1;
constexpr int kWarningsPerSet = 5;       // of a set's instances, at a time
constexpr int kFetchers = 4;             // connections for targeted reads
constexpr size_t kServicesMax = 20'000;  // of interest at once; the rest is left out, with an error in the log
// A blocking query keeps its slot at the agent (of 200 for each client) until its wait ends, also when its client has
// gone.
constexpr int kSlotsPerWatch = 2;
// How long a service keeps its watch before a busier one may have it.
constexpr milliseconds kWatchKept{60'000};

// One loop's connection and its timer, and how to end it.
struct Loop {
  Loop(asio::io_context& io, const ConsulWatcherOptions& options)
      : http(io, options.address, options.token), timer(io) {}
  ConsulHttp http;
  asio::steady_timer timer;
  bool stopped = false;
  bool blocking = false;  // a blocking query is under way
  Clock::time_point blocked_until{};

  void Stop() {
    stopped = true;
    http.Close();
    timer.cancel();
  }
};

struct Tracked {
  v1::ConsulSource::OnSuspect on_suspect = v1::ConsulSource::KEEP;
  bool named = false;  // by policy; else it is there because the catalog lists it and `dynamic` lets it pass
  std::shared_ptr<const v1::EndpointSet> set;
  uint64_t good_index = 0;         // of the read that `set` came with; 0: it is from the state file, or never read
  std::optional<uint64_t> checks;  // DigestOf the checks in that read
  RetryDelay disagreement;         // of reads that don't agree with the global watches
  bool failed = false;             // the newest read failed
  RetryDelay retry;                // of targeted reads that Consul refuses
  Clock::time_point retry_at{};
  std::optional<Clock::time_point> suspect_since;
  std::shared_ptr<Loop> loop;  // its own watch
  Clock::time_point watched_since{};
};

struct Datacenter {
  std::string name;
  std::shared_ptr<Loop> catalog_loop, checks_loop, confirm_loop;
  bool known = false;  // `listing` was read
  CatalogListing listing;
  std::shared_ptr<const ConsulNames> names;  // of `listing`
  uint64_t listing_index = 0;
  std::optional<CheckDigests> checks;
  uint64_t checks_index = 0;
  bool checks_failed = false;
  bool catalog_failed = false;
};

size_t CountLost(const v1::EndpointSet& before, const std::vector<v1::Instance>& now) {
  // Both are sorted by id.
  size_t lost = 0, i = 0;
  for (const v1::Instance& instance : before.instances()) {
    while (i < now.size() && now[i].id() < instance.id()) ++i;
    if (i == now.size() || now[i].id() != instance.id()) ++lost;
  }
  return lost;
}

uint64_t DigestAt(const std::map<std::string, uint64_t, std::less<>>& digests, std::string_view name) {
  const auto found = digests.find(name);
  return found == digests.end() ? 0 : found->second;
}

// Of the checks that concern `set`: its service's, and those of the nodes that its instances run on.
uint64_t DigestOf(const v1::EndpointSet& set, const CheckDigests& checks) {
  uint64_t digest = DigestAt(checks.services, set.key().service());
  std::string_view node;
  for (const v1::Instance& instance : set.instances()) {
    const std::string_view id = instance.id();  // sorted, so the instances of a node follow each other
    const std::string_view of = id.substr(0, id.find('/'));
    if (of == node) continue;
    node = of;
    digest = digest * 31 + DigestAt(checks.nodes, node);
  }
  return digest;
}

// Whether the instances of `set` carry exactly the tags that the catalog lists.
bool HasTagsOf(const v1::EndpointSet& set, const std::vector<std::string>& listed) {
  std::set<std::string_view> tags, wanted(listed.begin(), listed.end());
  for (const v1::Instance& instance : set.instances()) tags.insert(instance.tags().begin(), instance.tags().end());
  return tags == wanted;
}

void Rethrow(const std::exception_ptr& error) {
  if (error) std::rethrow_exception(error);
}

}  // namespace

struct ConsulWatcher::Impl {
  Impl(ConsulWatcherOptions watcher_options, Publish callback)
      : options(std::move(watcher_options)), publish(std::move(callback)) {}

  const ConsulWatcherOptions options;
  const Publish publish;

  mutable absl::Mutex mutex;
  std::shared_ptr<const EndpointCatalog> current ABSL_GUARDED_BY(mutex) = std::make_shared<EndpointCatalog>();
  std::optional<ConsulInterest> next_interest ABSL_GUARDED_BY(mutex);

  // The rest belongs to the thread.
  asio::io_context io{1};
  asio::executor_work_guard<asio::io_context::executor_type> work{io.get_executor()};
  absl::BitGen random;
  bool stopping = false;
  ConsulInterest interest;
  bool interest_set = false;
  std::map<std::string, std::shared_ptr<Datacenter>> datacenters;
  std::map<ConsulKey, Tracked> tracked;
  std::map<ConsulKey, std::shared_ptr<const v1::EndpointSet>> loaded;  // of the state file, not claimed yet
  LossLedger losses;
  std::deque<Clock::time_point> abandoned;  // when slots of cancelled blocking queries are free again

  bool past_budget = false;
  std::map<ConsulKey, uint32_t> busy;  // as ConsulWatcherOptions has it
  asio::steady_timer busy_timer{io};
  Clock::time_point chosen_at{};  // who has a watch
  // What is known to have changed comes before what is merely swept. A key is in one of the sets at most, and may be
  // left over in the other's queue.
  std::deque<ConsulKey> fetch_queue, sweep_queue;
  std::set<ConsulKey> fetch_queued, sweep_queued;
  std::set<ConsulKey> fetching;     // under way; never the same key twice, so that no older answer comes second
  std::set<ConsulKey> fetch_again;  // of those
  std::vector<std::shared_ptr<Loop>> fetchers;  // and, last, the sweep's
  Clock::time_point next_sweep{};
  bool eager_sweep = false;
  Clock::time_point eager_sweep_from{};

  bool reachable = false;
  std::string error;
  bool sets_changed = false;
  bool publish_scheduled = false;
  asio::steady_timer publish_timer{io};
  bool state_dirty = false;
  bool state_scheduled = false;
  Clock::time_point state_written{};
  asio::steady_timer state_timer{io};
  asio::thread_pool writer{1};  // a slow disk delays no publication
  std::thread thread;

  double Unit() { return absl::Uniform(random, 0.0, 1.0); }

  Tracked* Find(const ConsulKey& key) {
    const auto found = tracked.find(key);
    return found == tracked.end() ? nullptr : &found->second;
  }

  std::string Query(const Datacenter& dc, const char* mode) const {
    return dc.name.empty() ? absl::StrCat("?", mode) : absl::StrCat("?", mode, "&dc=", EscapeUrl(dc.name));
  }

  // Where a blocking query begins: sets its target's index and wait, and gives the deadline for its answer.
  milliseconds Block(Loop& loop, uint64_t index, bool leader_known, std::string* target) {
    if (index == 0) return kReadTimeout;
    const milliseconds wait = SpreadWait(leader_known ? options.wait : std::min(options.wait, kLeaderlessWait), Unit());
    absl::StrAppend(target, "&index=", index, "&wait=", wait.count(), "ms");
    loop.blocking = true;
    loop.blocked_until = Clock::now() + wait + wait / 16;
    return AnswerDeadline(wait);
  }

  asio::awaitable<void> Pause(Loop& loop, Clock::duration duration) {
    if (loop.stopped || duration <= Clock::duration::zero()) co_return;
    loop.timer.expires_after(duration);
    error_code ignored;  // cancelled: the loop was stopped, or woken
    co_await loop.timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }

  // Ends a loop. Its blocking query goes on at the agent, which must be remembered.
  void Stop(std::shared_ptr<Loop>& loop) {
    if (loop == nullptr) return;
    if (loop->blocking && loop->blocked_until > Clock::now()) {
      abandoned.insert(std::ranges::upper_bound(abandoned, loop->blocked_until), loop->blocked_until);
    }
    loop->Stop();
    loop.reset();
  }

  // --- What is known, and telling it ---

  void SchedulePublish() {
    if (publish_scheduled || stopping) return;
    publish_scheduled = true;
    publish_timer.expires_after(kPublishDelay);
    publish_timer.async_wait([this](const error_code& ec) {
      publish_scheduled = false;
      if (!ec && !stopping) PublishNow();
    });
  }

  bool CatalogKnown() const {
    const auto own = datacenters.find("");
    return own != datacenters.end() && own->second->known;
  }

  void PublishNow() {
    auto next = std::make_shared<EndpointCatalog>();
    {
      absl::MutexLock lock(&mutex);
      next->version = current->version;
      if (current->catalog_known != CatalogKnown()) sets_changed = true;
    }
    if (sets_changed) {
      ++next->version;
      state_dirty = true;
    }
    next->catalog_known = CatalogKnown();
    for (const auto& [key, service] : tracked) {
      next->sets.emplace_hint(next->sets.end(), key, service.set);
      next->watches += service.loop != nullptr ? 1 : 0;
    }
    for (const auto& [name, dc] : datacenters) {
      if (dc->names != nullptr) next->names.emplace(name, dc->names);
    }
    next->reachable = reachable;
    next->error = error;
    sets_changed = false;
    {
      absl::MutexLock lock(&mutex);
      current = next;
    }
    publish(std::move(next));
    if (state_dirty) ScheduleStateFile();
  }

  void ScheduleStateFile() {
    if (options.state_file.empty() || state_scheduled) return;
    state_scheduled = true;
    state_timer.expires_at(std::max(Clock::now(), state_written + kStateFileInterval));
    state_timer.async_wait([this](const error_code& ec) {
      state_scheduled = false;
      if (!ec && !stopping) WriteState();
    });
  }

  void WriteState() {
    state_dirty = false;
    state_written = Clock::now();
    EndpointSets sets;
    for (const auto& [key, service] : tracked) {
      if (service.set->state() == v1::EndpointSet::KNOWN && service.set->instances_size() > 0)
        sets.push_back(service.set);
    }
    // Not claimed since no read of Consul has succeeded yet: still the last that is known of these.
    for (const auto& [key, set] : loaded) sets.push_back(set);
    asio::post(writer, [path = options.state_file, sets = std::move(sets)] {
      if (const absl::Status status = WriteStateFile(path, sets); !status.ok()) {
        spdlog::warn("consul: keeping the last-known endpoints: {}", std::string(status.message()));
      }
    });
  }

  void LoadState() {
    if (options.state_file.empty()) return;
    const absl::StatusOr<EndpointSets> sets = ReadStateFile(options.state_file);
    if (!sets.ok()) {
      if (!absl::IsNotFound(sets.status())) {
        spdlog::warn("consul: the last-known endpoints are ignored: {}", std::string(sets.status().message()));
      }
      return;
    }
    for (const auto& set : *sets) {
      if (loaded.size() >= kServicesMax) break;
      auto copy = std::make_shared<v1::EndpointSet>(*set);
      copy->set_stale(true);
      copy->set_alarm("kept from an earlier run, not read yet");
      loaded[{set->key().datacenter(), set->key().service()}] = std::move(copy);
    }
    spdlog::info("consul: {} services loaded from {}", loaded.size(), options.state_file);
  }

  void SetReachable(const Datacenter& dc, const absl::Status& status) {
    if (!dc.name.empty()) return;  // another datacenter says little about the agent
    const std::string text = status.ok() ? "" : std::string(status.message());
    if (reachable == status.ok() && error == text) return;
    if (reachable != status.ok()) {
      if (status.ok()) {
        spdlog::info("consul: {} responds", options.address);
      } else {
        spdlog::warn("consul: {}; the last good endpoints are kept", text);
      }
    }
    reachable = status.ok();
    error = text;
    SchedulePublish();
  }

  void Store(Tracked& service, v1::EndpointSet set) {
    if (service.set != nullptr && service.set->SerializeAsString() == set.SerializeAsString()) return;
    if (!set.alarm().empty() && (service.set == nullptr || service.set->alarm() != set.alarm())) {
      spdlog::warn("consul: {}: {}", set.key().service(), set.alarm());
    }
    if (std::any_of(set.instances().begin(), set.instances().end(),
                    [](const v1::Instance& each) { return !each.unusable().empty(); })) {
      WarnOfUnusable(service.set.get(), set);
    }
    service.set = std::make_shared<const v1::EndpointSet>(std::move(set));
    sets_changed = true;
    SchedulePublish();
  }

  // Of each instance once, while it stays so.
  static void WarnOfUnusable(const v1::EndpointSet* before, const v1::EndpointSet& set) {
    std::set<std::pair<std::string_view, std::string_view>> told;
    if (before != nullptr) {
      for (const v1::Instance& instance : before->instances()) told.emplace(instance.id(), instance.unusable());
    }
    int warnings = 0;
    for (const v1::Instance& instance : set.instances()) {
      if (instance.unusable().empty() || told.contains({instance.id(), instance.unusable()})) continue;
      if (++warnings > kWarningsPerSet) {
        spdlog::warn("consul: {}: more instances that cannot be used", set.key().service());
        return;
      }
      spdlog::warn("consul: {}: instance {} is not used: {}", set.key().service(), instance.id(), instance.unusable());
    }
  }

  v1::EndpointSet EmptySet(const ConsulKey& key, v1::EndpointSet::State state) const {
    v1::EndpointSet set;
    set.mutable_key()->set_datacenter(key.first);
    set.mutable_key()->set_service(key.second);
    set.set_state(state);
    return set;
  }

  // Keeps what there was, and says why.
  void Hold(Tracked& service, const std::string& alarm) {
    v1::EndpointSet held = *service.set;
    held.set_stale(held.state() != v1::EndpointSet::UNAVAILABLE);
    held.set_alarm(alarm);
    Store(service, std::move(held));
  }

  void OnServiceFailure(const ConsulKey& key, const absl::Status& status) {
    Tracked* service = Find(key);
    if (service == nullptr) return;
    // The first error of a row stays: each further one would be news for every data plane.
    if (service->failed || service->suspect_since.has_value()) return;
    service->failed = true;
    Hold(*service, absl::StrCat("read failed: ", status.message()));
  }

  // --- Answers ---

  // The answer's body where it is one: 200.
  static absl::Status CheckAnswer(const absl::StatusOr<ConsulAnswer>& answer) {
    if (!answer.ok()) return answer.status();
    if (answer->status != 200) return absl::InternalError(DescribeAnswer(*answer));
    return absl::OkStatus();
  }

  void OnServiceAnswer(const ConsulKey& key, const ConsulAnswer& answer, const std::vector<v1::Instance>& instances,
                       const CheckDigests& checks) {
    Tracked* service = Find(key);
    if (service == nullptr) return;
    if (service->suspect_since.has_value() && instances.empty()) return;  // Confirm is at it
    const Loss loss = MeasureLoss(*service, answer, instances);
    if (service->on_suspect != v1::ConsulSource::ACCEPT &&
        JudgeLoss(loss, Clock::duration::zero()).kind != Verdict::Kind::kBelieve) {
      Suspect(key, *service);
      return;
    }
    Believe(key, *service, answer, instances, checks, loss.lost);
  }

  Loss MeasureLoss(const Tracked& service, const ConsulAnswer& answer, const std::vector<v1::Instance>& instances) {
    Loss loss;
    loss.before = static_cast<size_t>(service.set->instances_size());
    loss.remaining = instances.size();
    loss.lost = CountLost(*service.set, instances);
    loss.leader_known = answer.known_leader;
    // What came from the state file has no index to compare: this Consul may have begun anew while we were away.
    loss.index_went_back = answer.index < service.good_index || (service.good_index == 0 && service.set->stale());
    size_t known = 0, suspected = 0;
    if (loss.lost > 0) {
      for (const auto& [key, other] : tracked) {
        const auto count = static_cast<size_t>(other.set->instances_size());
        known += count;
        if (other.suspect_since.has_value() && &other != &service) suspected += count;
      }
      loss.mass = losses.IsMass(loss.lost, suspected, known, Clock::now());
    }
    return loss;
  }

  void Believe(const ConsulKey& key, Tracked& service, const ConsulAnswer& answer,
               const std::vector<v1::Instance>& instances, const CheckDigests& checks, size_t lost) {
    losses.Believe(lost, Clock::now());
    service.failed = false;
    service.retry.Reset();
    service.suspect_since.reset();
    service.good_index = answer.index;
    v1::EndpointSet set = EmptySet(key, v1::EndpointSet::KNOWN);
    set.mutable_instances()->Assign(instances.begin(), instances.end());
    if (!answer.known_leader) set.set_alarm("Consul knew no leader when this was read");
    service.checks = DigestOf(set, checks);
    Store(service, std::move(set));
    if (past_budget && service.loop == nullptr) CompareWithWatches(key, service, answer.index);
  }

  // Whether what is served differs from what the global watches have said last.
  static bool DiffersFromChecks(const Tracked& service, const CheckDigests& checks) {
    return service.checks != DigestOf(*service.set, checks);
  }
  static bool DiffersFromListing(const ConsulKey& key, const Tracked& service, const Datacenter& dc) {
    const auto listed = dc.listing.find(key.second);
    return listed != dc.listing.end() && !HasTagsOf(*service.set, listed->second);
  }

  // After a read. Where it is newer than a global watch's answer, that wakes again. Where it is not, and differs, it is
  // from a server that lags behind (reads are `stale`): nothing will wake for it, so it is read again, less and less
  // often.
  void CompareWithWatches(const ConsulKey& key, Tracked& service, uint64_t index) {
    const Datacenter& dc = *datacenters.at(key.first);
    const bool lags = (dc.checks.has_value() && index <= dc.checks_index && DiffersFromChecks(service, *dc.checks)) ||
                      (dc.known && index <= dc.listing_index && DiffersFromListing(key, service, dc));
    if (!lags) {
      service.disagreement.Reset();
      return;
    }
    service.retry_at = Clock::now() + service.disagreement.Next(Unit());
  }

  // A global watch says something else than what is served, whoever read that.
  void OnDifference(const ConsulKey& key, const Tracked& service) {
    if (service.retry_at == Clock::time_point{}) Enqueue(key);
  }

  void Suspect(const ConsulKey& key, Tracked& service) {
    if (service.suspect_since.has_value()) return;
    service.suspect_since = Clock::now();
    const std::shared_ptr<Datacenter>& dc = datacenters.at(key.first);
    if (dc->confirm_loop != nullptr) {
      dc->confirm_loop->timer.cancel();  // it may be resting because of another service
      return;
    }
    dc->confirm_loop = std::make_shared<Loop>(io, options);
    asio::co_spawn(io, Confirm(dc, dc->confirm_loop), Rethrow);
  }

  // Asks the leader about everything that is suspect, until nothing is.
  asio::awaitable<void> Confirm(std::shared_ptr<Datacenter> dc, std::shared_ptr<Loop> loop) {
    RetryDelay pause;
    while (!loop->stopped) {
      const auto began = Clock::now();
      std::vector<ConsulKey> keys;
      std::optional<Clock::time_point> unsettled;
      for (const auto& [key, service] : tracked) {
        if (key.first != dc->name || !service.suspect_since.has_value()) continue;
        const Clock::time_point settles = *service.suspect_since + kLossSettle;
        if (settles <= began) {
          keys.push_back(key);
        } else {
          unsettled = std::min(unsettled.value_or(settles), settles);
        }
      }
      if (keys.empty() && !unsettled.has_value()) break;
      if (keys.empty()) {
        co_await Pause(*loop, *unsettled - began);
        continue;
      }
      const std::string catalog_target = absl::StrCat("/v1/catalog/services", Query(*dc, "consistent"));
      const absl::StatusOr<ConsulAnswer> answer = co_await loop->http.Get(catalog_target, kReadTimeout);
      if (loop->stopped) co_return;
      absl::Status status = CheckAnswer(answer);
      std::optional<CatalogListing> listing;
      if (status.ok()) {
        absl::StatusOr<CatalogListing> decoded = DecodeCatalogServices(answer->body);
        status = decoded.status();
        if (decoded.ok()) listing = *std::move(decoded);
      }
      for (const ConsulKey& key : keys) {
        if (!status.ok()) {
          if (Tracked* service = Find(key); service != nullptr && service->suspect_since.has_value()) {
            Hold(*service, "instances gone, and Consul's leader can't confirm it");
          }
          continue;
        }
        co_await ConfirmService(*dc, *loop, key, *listing, answer->index);
        if (loop->stopped) co_return;
      }
      // Those that stay suspect are asked about less often; what became so meanwhile does not wait for them.
      bool any_left = false;
      std::optional<Clock::time_point> settles;
      for (const auto& [key, service] : tracked) {
        if (key.first != dc->name || !service.suspect_since.has_value()) continue;
        const Clock::time_point at = *service.suspect_since + kLossSettle;
        if (at <= began) {
          any_left = true;
        } else {
          settles = std::min(settles.value_or(at), at);
        }
      }
      if (!any_left) pause.Reset();
      Clock::duration rest = std::max<Clock::duration>(pause.Next(Unit()), 5 * (Clock::now() - began));
      if (settles.has_value()) rest = std::min<Clock::duration>(rest, *settles - Clock::now());
      co_await Pause(*loop, rest);
    }
    if (dc->confirm_loop == loop) dc->confirm_loop.reset();
  }

  asio::awaitable<void> ConfirmService(Datacenter& dc, Loop& loop, ConsulKey key, const CatalogListing& listing,
                                       uint64_t listing_index) {
    const std::string target = absl::StrCat("/v1/health/service/", EscapeUrl(key.second), Query(dc, "consistent"));
    const absl::StatusOr<ConsulAnswer> answer = co_await loop.http.Get(target, kReadTimeout);
    if (loop.stopped) co_return;
    Tracked* service = Find(key);
    if (service == nullptr || !service->suspect_since.has_value()) co_return;
    CheckDigests checks;
    const absl::StatusOr<std::vector<v1::Instance>> instances =
        DecodeHealthService(answer.ok() ? answer->body : "", &checks);
    if (!CheckAnswer(answer).ok() || !instances.ok()) {
      Hold(*service, "instances gone, and Consul's leader can't confirm it");
      co_return;
    }
    Loss loss = MeasureLoss(*service, *answer, *instances);
    loss.confirmed = true;
    loss.listed = listing.contains(key.second);
    loss.listing_suspect = !SuspectListing(dc.listing, listing).empty();
    loss.index_went_back = loss.index_went_back || (dc.known && listing_index < dc.listing_index);
    if (service->on_suspect != v1::ConsulSource::ACCEPT) {
      const Verdict verdict = JudgeLoss(loss, Clock::now() - *service->suspect_since);
      if (verdict.kind != Verdict::Kind::kBelieve) {
        Hold(*service, verdict.alarm);
        co_return;
      }
    }
    if (instances->empty() && !loss.listed) {
      losses.Believe(loss.lost, Clock::now());
      dc.listing.erase(key.second);
      SetUnknown(key, *service);
    } else {
      Believe(key, *service, *answer, *instances, checks, loss.lost);
    }
  }

  // Not in the catalog. Forgets it where policy doesn't name it.
  void SetUnknown(const ConsulKey& key, Tracked& service) {
    Stop(service.loop);
    if (!service.named) {
      tracked.erase(key);
      sets_changed = true;
      SchedulePublish();
      return;
    }
    service.suspect_since.reset();
    service.failed = false;
    service.good_index = 0;
    service.checks.reset();
    Store(service, EmptySet(key, v1::EndpointSet::UNKNOWN_SERVICE));
  }

  // False: it looks like a lost token, and is no answer.
  bool OnCatalogAnswer(Datacenter& dc, const ConsulAnswer& answer, CatalogListing listing) {
    const std::string suspect = SuspectListing(dc.listing, listing);
    if (!suspect.empty()) {
      SetReachable(dc, absl::InternalError(suspect));
      for (auto& [key, service] : tracked) {
        if (key.first != dc.name) continue;
        if (service.on_suspect == v1::ConsulSource::ACCEPT && dc.known && !listing.contains(key.second)) {
          Suspect(key, service);  // and believe what the leader says
        } else if (service.loop == nullptr) {
          OnServiceFailure(key, absl::InternalError(suspect));
        }
      }
      dc.catalog_failed = true;
      return false;
    }
    const bool same_names = std::ranges::equal(dc.listing, listing, {}, &CatalogListing::value_type::first,
                                               &CatalogListing::value_type::first);
    const bool news = !dc.known || dc.catalog_failed || !same_names;
    dc.known = true;
    dc.catalog_failed = false;
    dc.listing = std::move(listing);
    if (dc.names == nullptr || !same_names) {
      auto names = std::make_shared<ConsulNames>();
      for (const auto& [name, tags] : dc.listing) names->insert(names->end(), name);
      dc.names = std::move(names);
    }
    dc.listing_index = answer.index;
    SetReachable(dc, absl::OkStatus());
    if (news) Reconcile();
    if (past_budget) {
      for (const auto& [key, service] : tracked) {
        if (key.first == dc.name && DiffersFromListing(key, service, dc)) OnDifference(key, service);
      }
      // Not everything that wakes this shows in the list: an instance without checks of a service that has others, say.
      eager_sweep = true;
      fetchers.back()->timer.cancel();
    }
    SchedulePublish();
    return true;
  }

  // --- What to watch ---

  // Brings everything in line with the interest and the catalogs.
  void Reconcile() {
    std::map<ConsulKey, std::pair<v1::ConsulSource::OnSuspect, bool>> wanted;
    std::set<std::string> wanted_datacenters{""};
    bool left_out = false;
    for (const ConsulInterest::Service& service : interest.services) {
      if (wanted.size() >= kServicesMax) left_out = true;
      if (left_out) break;
      const auto [it, added] =
          wanted.try_emplace({service.datacenter, service.service}, std::pair{service.on_suspect, true});
      // Two policies that differ: the careful one.
      if (!added && service.on_suspect != v1::ConsulSource::ACCEPT) it->second.first = service.on_suspect;
      wanted_datacenters.insert(service.datacenter);
    }
    const auto own = datacenters.find("");
    const bool own_known = own != datacenters.end() && own->second->known;
    const auto want_dynamic = [&](const std::string& name) {
      if (left_out || !interest.dynamic || !interest.dynamic(name)) return;
      if (wanted.size() >= kServicesMax) {
        left_out = true;
        return;
      }
      wanted.try_emplace({"", name}, std::pair{interest.dynamic_on_suspect, false});
    };
    if (own_known) {
      for (const auto& [name, tags] : own->second->listing) want_dynamic(name);
    } else {
      for (const auto& [key, set] : loaded) {
        if (key.first.empty()) want_dynamic(key.second);
      }
    }
    // One that has just left the catalog stays until that is confirmed.
    for (const auto& [key, service] : tracked) {
      if (key.first.empty() && service.set->instances_size() > 0) want_dynamic(key.second);
    }
    if (left_out) spdlog::error("consul: more than {} services are of interest; the rest is not watched", kServicesMax);

    for (auto it = tracked.begin(); it != tracked.end();) {
      if (wanted.contains(it->first)) {
        ++it;
        continue;
      }
      Stop(it->second.loop);
      it = tracked.erase(it);
      sets_changed = true;
    }
    for (auto it = datacenters.begin(); it != datacenters.end();) {
      Datacenter& dc = *it->second;
      if (wanted_datacenters.contains(it->first)) {
        ++it;
        continue;
      }
      Stop(dc.catalog_loop);
      Stop(dc.checks_loop);
      Stop(dc.confirm_loop);
      it = datacenters.erase(it);
    }
    for (const std::string& name : wanted_datacenters) {
      std::shared_ptr<Datacenter>& dc = datacenters[name];
      if (dc != nullptr) continue;
      dc = std::make_shared<Datacenter>();
      dc->name = name;
      dc->catalog_loop = std::make_shared<Loop>(io, options);
      asio::co_spawn(io, WatchCatalog(dc, dc->catalog_loop), Rethrow);
    }
    for (const auto& [key, want] : wanted) {
      Tracked& service = tracked[key];
      service.on_suspect = want.first;
      service.named = want.second;
      if (service.set != nullptr) continue;
      const auto kept = loaded.find(key);
      if (kept != loaded.end()) {
        Store(service, *kept->second);
        loaded.erase(kept);
      } else {
        Store(service, EmptySet(key, v1::EndpointSet::UNAVAILABLE));
      }
    }
    if (own_known && interest_set) loaded.clear();  // what nobody wanted by now is of no interest

    ChooseWatches();
    if (sets_changed) SchedulePublish();
  }

  // Connections that are not for watches of services: the catalog's, the checks', the leader's of each datacenter, and
  // those that read.
  size_t OtherConnections() const { return 3 * datacenters.size() + kFetchers + 1; }

  void ChooseWatches() {
    const auto now = Clock::now();
    while (!abandoned.empty() && abandoned.front() <= now) abandoned.pop_front();
    size_t listed = 0;
    for (const auto& [key, service] : tracked) {
      const Datacenter& dc = *datacenters.at(key.first);
      if (dc.known && dc.listing.contains(key.second)) ++listed;
    }
    const auto budget = static_cast<size_t>(std::max(options.watches_max, 0));
    const size_t needed = listed + datacenters.size();
    // Back below the budget by a tenth, so that one service more or less doesn't turn everything around.
    const bool too_many =
        needed > (past_budget ? budget - budget / 10 : budget) || needed + abandoned.size() > budget * kSlotsPerWatch;
    if (too_many != past_budget) {
      past_budget = too_many;
      spdlog::info("consul: {} services: {}", listed,
                   too_many ? "those that rank highest are watched by themselves, the others together"
                            : "each watched by itself");
      if (too_many) {
        BeginFetching();
        FollowBusy();
      } else {
        EndFetching();
        busy_timer.cancel();
        busy.clear();
      }
    }

    std::vector<ConsulKey> vanished;
    std::vector<std::pair<const ConsulKey, Tracked>*> able;  // those that could have a watch
    for (auto& entry : tracked) {
      auto& [key, service] = entry;
      Datacenter& dc = *datacenters.at(key.first);
      if (!dc.known) continue;
      if (!dc.listing.contains(key.second)) {
        if (service.set->instances_size() > 0) {
          Suspect(key, service);
        } else {
          vanished.push_back(key);
        }
        continue;
      }
      able.push_back(&entry);
    }
    if (past_budget) {
      ShareWatches(able, budget, now);
      for (const auto* entry : able) {
        const Tracked& service = entry->second;
        if (service.good_index == 0 || service.failed || service.suspect_since.has_value()) Enqueue(entry->first);
      }
    } else {
      for (auto* entry : able) BeginWatch(entry->first, entry->second, now);
    }
    for (const ConsulKey& key : vanished) SetUnknown(key, tracked.at(key));
    SchedulePublish();  // who has a watch is told, too
    for (const auto& [name, dc] : datacenters) {
      if (!past_budget) {
        Stop(dc->checks_loop);
        dc->checks.reset();
      } else if (dc->checks_loop == nullptr) {
        dc->checks_loop = std::make_shared<Loop>(io, options);
        asio::co_spawn(io, WatchChecks(dc, dc->checks_loop), Rethrow);
      }
    }
  }

  void BeginWatch(const ConsulKey& key, Tracked& service, Clock::time_point now) {
    if (service.loop != nullptr) return;
    service.loop = std::make_shared<Loop>(io, options);
    service.watched_since = now;
    service.retry_at = {};  // its watch tries again by itself
    asio::co_spawn(io, WatchService(datacenters.at(key.first), service.loop, key), Rethrow);
  }

  // Gives the watches of `budget` to those of `able` that rank highest; the others lose theirs and are read once more,
  // since what changed after their last answer woke nobody.
  void ShareWatches(const std::vector<std::pair<const ConsulKey, Tracked>*>& able, size_t budget,
                    Clock::time_point now) {
    chosen_at = now;
    const size_t others = OtherConnections();
    const size_t watches = budget > others ? budget - others : 0;
    std::vector<WatchCandidate> candidates(able.size());
    for (size_t i = 0; i < able.size(); ++i) {
      const auto& [key, service] = *able[i];
      const auto found = busy.find(key);
      candidates[i] = {.index = i,
                       .magnitude = found == busy.end() ? 0 : found->second,
                       .named = service.named,
                       .watched = service.loop != nullptr,
                       .settled = service.loop != nullptr && now - service.watched_since >= kWatchKept};
    }
    const WatchChoice choice = ChooseWatched(candidates, watches);
    const auto end = [this, &able](size_t index) {
      Stop(able[index]->second.loop);
      Enqueue(able[index]->first);
    };
    for (const size_t index : choice.end) end(index);
    // The agent has as many slots, and those of watches that have ended are taken for a while.
    const auto room = [&] {
      size_t running = 0;
      for (const auto* entry : able) running += entry->second.loop != nullptr ? 1 : 0;
      return running + others + abandoned.size() < budget * kSlotsPerWatch;
    };
    for (const size_t index : choice.begin) {
      if (!room()) return;
      BeginWatch(able[index]->first, able[index]->second, now);
    }
    for (const auto& [loser, winner] : choice.swaps) {
      if (!room()) return;
      end(loser);
      BeginWatch(able[winner]->first, able[winner]->second, now);
    }
  }

  // Looks again and again, as long as there are too few watches, whom they are worth most to.
  void FollowBusy() {
    if (!options.busy || stopping) return;
    busy_timer.expires_after(options.busy_interval);
    busy_timer.async_wait([this](const error_code& ec) {
      if (ec || stopping || !past_budget) return;
      std::map<ConsulKey, uint32_t> now_busy = options.busy();
      if (now_busy != busy || Clock::now() >= chosen_at + kWatchKept / 2) {
        busy = std::move(now_busy);
        ChooseWatches();
      }
      if (past_budget) FollowBusy();
    });
  }

  // --- Loops ---

  asio::awaitable<void> WatchCatalog(std::shared_ptr<Datacenter> dc, std::shared_ptr<Loop> loop) {
    LoopPace pace(kCatalogPace);
    RetryDelay retry;
    uint64_t index = 0;
    bool leader_known = true;
    while (!loop->stopped) {
      co_await Pause(*loop, pace.Take(Clock::now()));
      std::string target = absl::StrCat("/v1/catalog/services", Query(*dc, "stale"));
      const milliseconds deadline = Block(*loop, index, leader_known, &target);
      const absl::StatusOr<ConsulAnswer> answer = co_await loop->http.Get(target, deadline);
      loop->blocking = false;
      if (loop->stopped) break;
      absl::Status status = CheckAnswer(answer);
      if (status.ok()) {
        absl::StatusOr<CatalogListing> listing = DecodeCatalogServices(answer->body);
        status = listing.status();
        if (listing.ok() && OnCatalogAnswer(*dc, *answer, *std::move(listing))) {
          index = NextIndex(index, answer->index);
          leader_known = answer->known_leader;
          retry.Reset();
          continue;
        }
      }
      if (!status.ok()) {
        SetReachable(*dc, status);
        dc->catalog_failed = true;
        // Those whose own watch doesn't say so.
        for (auto& [key, service] : tracked) {
          if (key.first == dc->name && service.loop == nullptr) OnServiceFailure(key, status);
        }
      }
      index = 0;  // the next success is then known at once, changed or not
      co_await Pause(*loop, retry.Next(Unit()));
    }
  }

  asio::awaitable<void> WatchService(std::shared_ptr<Datacenter> dc, std::shared_ptr<Loop> loop, ConsulKey key) {
    LoopPace pace(kServicePace);
    RetryDelay retry;
    uint64_t index = 0;
    bool leader_known = true;
    while (!loop->stopped) {
      co_await Pause(*loop, pace.Take(Clock::now()));
      std::string target = absl::StrCat("/v1/health/service/", EscapeUrl(key.second), Query(*dc, "stale"));
      const milliseconds deadline = Block(*loop, index, leader_known, &target);
      const absl::Status status = co_await ReadService(*dc, *loop, key, target, deadline, &index, &leader_known);
      loop->blocking = false;
      if (loop->stopped) break;
      if (status.ok()) {
        retry.Reset();
        continue;
      }
      index = 0;
      co_await Pause(*loop, retry.Next(Unit()));
    }
  }

  // One read of one service, for a watch (then `index` and `leader_known` are brought forward) or for a fetch.
  asio::awaitable<absl::Status> ReadService(Datacenter& dc, Loop& loop, const ConsulKey& key, const std::string& target,
                                            milliseconds deadline, uint64_t* index, bool* leader_known) {
    const absl::StatusOr<ConsulAnswer> answer = co_await loop.http.Get(target, deadline);
    if (loop.stopped) co_return absl::CancelledError("");
    // It got a watch of its own while it was read, whose answer must not be followed by this older one.
    if (const Tracked* service = Find(key); index == nullptr && service != nullptr && service->loop != nullptr) {
      co_return absl::OkStatus();
    }
    absl::Status status = CheckAnswer(answer);
    if (status.ok()) {
      CheckDigests checks;
      const absl::StatusOr<std::vector<v1::Instance>> instances = DecodeHealthService(answer->body, &checks);
      status = instances.status();
      if (instances.ok()) {
        SetReachable(dc, absl::OkStatus());
        OnServiceAnswer(key, *answer, *instances, checks);
        if (index != nullptr) *index = NextIndex(*index, answer->index);
        if (leader_known != nullptr) *leader_known = answer->known_leader;
        co_return status;
      }
    }
    SetReachable(dc, status);
    OnServiceFailure(key, status);
    co_return status;
  }

  asio::awaitable<void> WatchChecks(std::shared_ptr<Datacenter> dc, std::shared_ptr<Loop> loop) {
    LoopPace pace(kChecksPace);
    RetryDelay retry;
    uint64_t index = 0;
    bool leader_known = true;
    while (!loop->stopped) {
      co_await Pause(*loop, pace.Take(Clock::now()));
      std::string target = absl::StrCat("/v1/health/state/any", Query(*dc, "stale"));
      const milliseconds deadline = Block(*loop, index, leader_known, &target);
      const absl::StatusOr<ConsulAnswer> answer = co_await loop->http.Get(target, deadline);
      loop->blocking = false;
      if (loop->stopped) break;
      absl::Status status = CheckAnswer(answer);
      if (status.ok()) {
        absl::StatusOr<CheckDigests> digests = DecodeHealthState(answer->body);
        status = digests.status();
        if (digests.ok()) {
          SetReachable(*dc, absl::OkStatus());
          OnChecks(*dc, *std::move(digests), answer->index);
          index = NextIndex(index, answer->index);
          leader_known = answer->known_leader;
          retry.Reset();
          continue;
        }
      }
      SetReachable(*dc, status);
      // Those whose own watch doesn't say so.
      for (auto& [key, service] : tracked) {
        if (key.first == dc->name && service.loop == nullptr) OnServiceFailure(key, status);
      }
      dc->checks_failed = true;
      index = 0;
      co_await Pause(*loop, retry.Next(Unit()));
    }
  }

  void OnChecks(Datacenter& dc, CheckDigests digests, uint64_t index) {
    // After a failure every set is marked; reading each again takes that back.
    const bool all = !dc.checks.has_value() || dc.checks_failed;
    dc.checks_failed = false;
    dc.checks = std::move(digests);
    dc.checks_index = index;
    for (const auto& [key, service] : tracked) {
      if (key.first != dc.name) continue;
      if (all) {
        Enqueue(key);
      } else if (DiffersFromChecks(service, *dc.checks)) {
        OnDifference(key, service);
      }
    }
  }

  void Enqueue(const ConsulKey& key) {
    if (!past_budget) return;
    const Tracked* service = Find(key);
    if (service == nullptr || service->loop != nullptr) return;  // its own watch tells
    if (fetching.contains(key)) {
      fetch_again.insert(key);  // what is being read may be older than the reason to read it
      return;
    }
    if (!fetch_queued.insert(key).second) return;
    sweep_queued.erase(key);
    fetch_queue.push_back(key);
    for (const auto& loop : fetchers) loop->timer.cancel();
  }

  void EnqueueSweep(const ConsulKey& key) {
    if (tracked.at(key).loop != nullptr || fetch_queued.contains(key) || !sweep_queued.insert(key).second) return;
    sweep_queue.push_back(key);
  }

  std::optional<ConsulKey> NextToFetch() {
    for (auto [queue, queued] : {std::pair{&fetch_queue, &fetch_queued}, {&sweep_queue, &sweep_queued}}) {
      while (!queue->empty()) {
        ConsulKey key = std::move(queue->front());
        queue->pop_front();
        if (queued->erase(key) == 0) continue;  // it went to the other one
        if (!fetching.contains(key)) return key;
        fetch_again.insert(std::move(key));  // what is being read may be older than the sweep
      }
    }
    return std::nullopt;
  }

  void BeginFetching() {
    next_sweep = Clock::now() + kSweepInterval;
    eager_sweep_from = {};
    for (int i = 0; i <= kFetchers; ++i) {
      fetchers.push_back(std::make_shared<Loop>(io, options));
      if (i < kFetchers) {
        asio::co_spawn(io, Fetch(fetchers.back()), Rethrow);
      } else {
        asio::co_spawn(io, Sweep(fetchers.back()), Rethrow);
      }
    }
    for (const auto& [key, service] : tracked) Enqueue(key);
  }

  void EndFetching() {
    for (auto& loop : fetchers) Stop(loop);
    fetchers.clear();
    fetch_queue.clear();
    fetch_queued.clear();
    sweep_queue.clear();
    sweep_queued.clear();
    fetching.clear();
    fetch_again.clear();
    eager_sweep = false;
  }

  asio::awaitable<void> Fetch(std::shared_ptr<Loop> loop) {
    RetryDelay unreachable;
    while (!loop->stopped) {
      const std::optional<ConsulKey> next = NextToFetch();
      if (!next.has_value()) {
        co_await Pause(*loop, kSweepInterval);  // until woken
        continue;
      }
      const ConsulKey& key = *next;
      const auto dc_found = datacenters.find(key.first);
      Tracked* service = Find(key);
      if (dc_found == datacenters.end() || service == nullptr) continue;
      const std::shared_ptr<Datacenter> dc = dc_found->second;
      if (!dc->known || !dc->listing.contains(key.second)) continue;  // the catalog's business
      const std::string target = absl::StrCat("/v1/health/service/", EscapeUrl(key.second), Query(*dc, "stale"));
      fetching.insert(key);
      const absl::Status status = co_await ReadService(*dc, *loop, key, target, kReadTimeout, nullptr, nullptr);
      if (loop->stopped) break;
      fetching.erase(key);
      if (fetch_again.erase(key) > 0) Enqueue(key);
      if (status.ok()) {
        unreachable.Reset();
        continue;
      }
      if (absl::IsInternal(status) || absl::IsInvalidArgument(status) || absl::IsResourceExhausted(status)) {
        // Consul answered, but not this: the others go on meanwhile.
        service = Find(key);
        if (service != nullptr) service->retry_at = Clock::now() + service->retry.Next(Unit());
        continue;
      }
      Enqueue(key);
      const auto until = Clock::now() + unreachable.Next(Unit());
      while (!loop->stopped && Clock::now() < until) co_await Pause(*loop, until - Clock::now());
    }
  }

  // Reads everything again now and then, since no watch shows every change; and again what failed.
  asio::awaitable<void> Sweep(std::shared_ptr<Loop> loop) {
    std::optional<Clock::time_point> began;
    while (!loop->stopped) {
      const auto wake = Clock::now() + (began ? kSweepingTick : kSweepTick);
      const auto eager = [&] { return eager_sweep && !began && Clock::now() >= eager_sweep_from; };
      while (!loop->stopped && Clock::now() < wake && !eager()) {
        const auto until = eager_sweep && !began ? std::min(wake, eager_sweep_from) : wake;
        co_await Pause(*loop, until - Clock::now());
      }
      if (loop->stopped) break;
      const auto now = Clock::now();
      for (auto& [key, service] : tracked) {
        if (service.retry_at == Clock::time_point{} || service.retry_at > now) continue;
        service.retry_at = {};
        Enqueue(key);
      }
      if (began && sweep_queued.empty()) {
        eager_sweep_from = now + kSweepRest * (now - *began);
        began.reset();
      }
      if (began || (now < next_sweep && !eager())) continue;
      eager_sweep = false;
      began = now;
      next_sweep = now + kSweepInterval;
      ChooseWatches();  // slots at the agent may have become free, and this loop be over
      if (loop->stopped) break;
      for (const auto& [key, service] : tracked) EnqueueSweep(key);
      for (const auto& each : fetchers) each->timer.cancel();
    }
  }

  // --- Life ---

  void TakeInterest() {
    {
      absl::MutexLock lock(&mutex);
      if (!next_interest.has_value()) return;
      interest = *std::move(next_interest);
      next_interest.reset();
      interest_set = true;
    }
    if (!stopping) Reconcile();
  }

  void Shutdown() {
    stopping = true;
    for (auto& [key, service] : tracked) Stop(service.loop);
    for (auto& [name, dc] : datacenters) {
      Stop(dc->catalog_loop);
      Stop(dc->checks_loop);
      Stop(dc->confirm_loop);
    }
    EndFetching();
    publish_timer.cancel();
    state_timer.cancel();
    busy_timer.cancel();
    if (state_dirty && !options.state_file.empty()) WriteState();
    work.reset();
  }
};

ConsulWatcher::ConsulWatcher(ConsulWatcherOptions options, Publish publish)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(publish))) {}

ConsulWatcher::~ConsulWatcher() {
  if (impl_->thread.joinable()) {
    asio::post(impl_->io, [impl = impl_.get()] { impl->Shutdown(); });
    impl_->thread.join();
  }
  impl_->writer.join();
}

void ConsulWatcher::Start() {
  impl_->thread = std::thread([impl = impl_.get()] {
    impl->LoadState();  // before any interest is taken, which claims from it
    impl->Reconcile();
    impl->io.run();
  });
}

void ConsulWatcher::SetInterest(ConsulInterest interest) {
  {
    absl::MutexLock lock(&impl_->mutex);
    impl_->next_interest = std::move(interest);
  }
  asio::post(impl_->io, [impl = impl_.get()] { impl->TakeInterest(); });
}

std::shared_ptr<const EndpointCatalog> ConsulWatcher::current() const {
  absl::MutexLock lock(&impl_->mutex);
  return impl_->current;
}

}  // namespace gateway::controlplane
