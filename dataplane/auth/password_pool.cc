#include "dataplane/auth/password_pool.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <deque>
#include <list>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "common/base/thread.h"
#include "dataplane/auth/credential_cache.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {

struct PasswordPool::Impl {
  struct Job {
    Digest key;
    std::shared_ptr<const PasswordHash> hash;
    std::string password;
    bool decoy;
    ClientPrefix site;  // whose turn it takes
    struct Waiter {
      ClientPrefix client;
      std::function<void(Answer)> done;
    };
    std::vector<Waiter> waiters;
    ~Job() { OPENSSL_cleanse(password.data(), password.size()); }
  };
  using Cache = CredentialCache<bool, TimePoint>;

  explicit Impl(const PasswordPool::Options& pool_options)
      : options(pool_options),
        failures({.requests = pool_options.failures_max,
                  .window = pool_options.failures_window,
                  .keys_max = pool_options.failing_clients_max}),
        successes({.entries_max = pool_options.remembered_max, .bytes_max = pool_options.remembered_max * 1024}) {}

  using Jobs = std::deque<std::shared_ptr<Job>>;
  // The jobs of one client (of IPv6: of one site) that wait, oldest first. Never empty.
  struct Line {
    ClientPrefix site;
    Jobs jobs;
  };

  void Work();
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return stopped || queued > 0; }
  bool Knows(const Digest& key, TimePoint now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // A place in the queue. Where another client's job gives it up, that is moved to `dropped`.
  bool FindPlace(const ClientPrefix& site, std::shared_ptr<Job>* dropped) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Enqueue(std::shared_ptr<Job> job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  std::shared_ptr<Job> Dequeue() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // Its waiters, who wait no more.
  std::vector<Job::Waiter> End(Job* job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  const PasswordPool::Options options;
  RateLimiter failures;  // by client
  const std::shared_ptr<const bool> yes = std::make_shared<bool>(true);
  absl::Mutex mutex;
  std::vector<std::thread> threads ABSL_GUARDED_BY(mutex);
  bool stopped ABSL_GUARDED_BY(mutex) = false;
  std::list<Line> lines ABSL_GUARDED_BY(mutex);  // in the order of their turns
  absl::flat_hash_map<ClientPrefix, std::list<Line>::iterator> line_of ABSL_GUARDED_BY(mutex);
  size_t queued ABSL_GUARDED_BY(mutex) = 0;
  absl::flat_hash_map<Digest, std::shared_ptr<Job>, DigestHash> jobs ABSL_GUARDED_BY(mutex);  // queued or running
  size_t waiting ABSL_GUARDED_BY(mutex) = 0;
  KeyShares waiting_shares;
  Cache successes ABSL_GUARDED_BY(mutex);
  Stats stats ABSL_GUARDED_BY(mutex);
};

PasswordPool::PasswordPool(Options options) : impl_(std::make_unique<Impl>(options)) {}

PasswordPool::~PasswordPool() { Stop(); }

void PasswordPool::Stop() {
  std::vector<std::thread> threads;
  {
    absl::MutexLock lock(&impl_->mutex);
    impl_->stopped = true;
    threads.swap(impl_->threads);
  }
  for (std::thread& thread : threads) thread.join();
}

namespace {

std::string FailureKey(const ClientPrefix& client) { return client.ToBytes(); }

}  // namespace

// Each use makes it last longer.
bool PasswordPool::Impl::Knows(const Digest& key, TimePoint now) {
  if (successes.Find({key, {}}, 0, now) == nullptr) return false;
  successes.Extend({key, {}}, now + options.remembered_for);
  ++stats.remembered;
  return true;
}

bool PasswordPool::Impl::FindPlace(const ClientPrefix& site, std::shared_ptr<Job>* dropped) {
  const size_t free = options.queued_max - std::min(queued, options.queued_max);
  if (site.kind == ClientPrefix::Kind::kNone) return free > 0;
  const auto own = line_of.find(site);
  const size_t held = own == line_of.end() ? 0 : own->second->jobs.size();
  if (held < std::max<size_t>(1, free / KeyShares::kFreePerPlace) && free > 0) return true;
  if (held > 0 || free > 0) return false;
  const auto longest = std::max_element(lines.begin(), lines.end(),
                                        [](const Line& a, const Line& b) { return a.jobs.size() < b.jobs.size(); });
  if (longest == lines.end() || longest->jobs.size() < 2) return false;
  *dropped = std::move(longest->jobs.back());
  longest->jobs.pop_back();
  --queued;
  return true;
}

void PasswordPool::Impl::Enqueue(std::shared_ptr<Job> job) {
  auto [at, fresh] = line_of.try_emplace(job->site);
  if (fresh) at->second = lines.insert(lines.end(), Line{job->site, {}});
  at->second->jobs.push_back(std::move(job));
  ++queued;
}

std::shared_ptr<PasswordPool::Impl::Job> PasswordPool::Impl::Dequeue() {
  const auto line = lines.begin();
  std::shared_ptr<Job> job = std::move(line->jobs.front());
  line->jobs.pop_front();
  --queued;
  if (line->jobs.empty()) {
    line_of.erase(line->site);
    lines.erase(line);
  } else {
    lines.splice(lines.end(), lines, line);
  }
  return job;
}

std::vector<PasswordPool::Impl::Job::Waiter> PasswordPool::Impl::End(Job* job) {
  jobs.erase(job->key);
  std::vector<Job::Waiter> waiters;
  waiters.swap(job->waiters);
  waiting -= waiters.size();
  for (const Job::Waiter& each : waiters) waiting_shares.Release(each.client);
  return waiters;
}

std::optional<PasswordPool::Answer> PasswordPool::Check(const Digest& key,
                                                        const std::shared_ptr<const PasswordHash>& hash,
                                                        std::string password, bool decoy, const ClientPrefix& client,
                                                        TimePoint now, std::function<void(Answer)> done) {
  std::vector<Impl::Job::Waiter> given_up;
  {
    absl::MutexLock lock(&impl_->mutex);
    if (impl_->Knows(key, now)) return Answer::kGood;
    if (client.kind != ClientPrefix::Kind::kNone && !impl_->failures.Peek(FailureKey(client), now, client).allowed) {
      ++impl_->stats.throttled;
      return Answer::kTooManyFailures;
    }
    const auto running = impl_->jobs.find(key);
    std::shared_ptr<Impl::Job> dropped;
    const bool may_wait = !impl_->stopped && impl_->waiting < impl_->options.waiting_max &&
                          impl_->waiting_shares.Take(client, impl_->options.waiting_max - impl_->waiting).granted;
    if (!may_wait || (running == impl_->jobs.end() && !impl_->FindPlace(client.site(), &dropped))) {
      if (may_wait) impl_->waiting_shares.Release(client);
      ++impl_->stats.overloaded;
      return Answer::kOverloaded;
    }
    // With the first check: if no consumer has a password, no threads are started.
    while (impl_->threads.size() < impl_->options.threads) {
      impl_->threads.push_back(
          StartThread("passwords", ThreadPriority::kServing, [impl = impl_.get()] { impl->Work(); }));
    }
    ++impl_->waiting;
    if (running != impl_->jobs.end()) {
      running->second->waiters.push_back({client, std::move(done)});
      return std::nullopt;
    }
    if (dropped != nullptr) {
      given_up = impl_->End(dropped.get());
      impl_->stats.overloaded += given_up.size();
    }
    auto job = std::make_shared<Impl::Job>();
    job->key = key;
    job->hash = hash;
    job->password = std::move(password);
    job->decoy = decoy;
    job->site = client.site();
    job->waiters.push_back({client, std::move(done)});
    impl_->jobs.emplace(key, job);
    impl_->Enqueue(std::move(job));
  }
  for (const Impl::Job::Waiter& each : given_up) each.done(Answer::kOverloaded);
  return std::nullopt;
}

std::chrono::milliseconds PasswordPool::RetryAfter(const ClientPrefix& client, TimePoint now) {
  const RateLimitDecision decision = impl_->failures.Peek(FailureKey(client), now, client);
  return decision.allowed ? std::chrono::milliseconds(0) : decision.reset;
}

bool PasswordPool::Remembers(const Digest& key, TimePoint now) {
  absl::MutexLock lock(&impl_->mutex);
  return impl_->Knows(key, now);
}

void PasswordPool::Impl::Work() {
  for (;;) {
    std::shared_ptr<Job> job;
    {
      absl::MutexLock lock(&mutex);
      mutex.Await(absl::Condition(this, &Impl::HasWork));
      if (stopped) return;
      job = Dequeue();
      ++stats.checks;
    }
    const absl::StatusOr<bool> good = VerifyPassword(*job->hash, job->password);
    if (!good.ok()) spdlog::error("a password could not be checked: {}", std::string(good.status().message()));
    const Answer answer = !good.ok() ? Answer::kOverloaded : *good && !job->decoy ? Answer::kGood : Answer::kWrong;
    const TimePoint now = std::chrono::steady_clock::now();
    std::vector<Job::Waiter> waiters;
    {
      absl::MutexLock lock(&mutex);
      if (stopped) return;
      if (answer == Answer::kGood) successes.Insert({job->key, {}}, 0, now + options.remembered_for, yes, 0);
      waiters = End(job.get());
    }
    for (const Job::Waiter& each : waiters) {
      if (answer == Answer::kWrong && each.client.kind != ClientPrefix::Kind::kNone) {
        (void)failures.Admit(FailureKey(each.client), now, each.client);
      }
      each.done(answer);
    }
  }
}

PasswordPool::Stats PasswordPool::stats() const {
  absl::MutexLock lock(&impl_->mutex);
  Stats stats = impl_->stats;
  stats.queued = impl_->queued;
  return stats;
}

}  // namespace gateway::dataplane
