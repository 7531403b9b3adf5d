#include "dataplane/auth/password_pool.h"

#include <openssl/crypto.h>

#include <deque>
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
    std::vector<std::function<void(Answer)>> waiters;
    ~Job() { OPENSSL_cleanse(password.data(), password.size()); }
  };
  using Cache = CredentialCache<bool, TimePoint>;

  explicit Impl(const PasswordPool::Options& pool_options)
      : options(pool_options),
        successes({.entries_max = pool_options.remembered_max, .bytes_max = pool_options.remembered_max * 1024}) {}

  void Work();
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return stopped || !queue.empty(); }

  const PasswordPool::Options options;
  const std::shared_ptr<const bool> yes = std::make_shared<bool>(true);
  absl::Mutex mutex;
  std::vector<std::thread> threads ABSL_GUARDED_BY(mutex);
  bool stopped ABSL_GUARDED_BY(mutex) = false;
  std::deque<std::shared_ptr<Job>> queue ABSL_GUARDED_BY(mutex);
  absl::flat_hash_map<Digest, std::shared_ptr<Job>, DigestHash> jobs ABSL_GUARDED_BY(mutex);  // queued or running
  size_t waiting ABSL_GUARDED_BY(mutex) = 0;
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

std::optional<PasswordPool::Answer> PasswordPool::Check(const Digest& key,
                                                        const std::shared_ptr<const PasswordHash>& hash,
                                                        std::string password, bool decoy, TimePoint now,
                                                        std::function<void(Answer)> done) {
  absl::MutexLock lock(&impl_->mutex);
  if (impl_->successes.Find({key, {}}, 0, now) != nullptr) {
    ++impl_->stats.remembered;
    return Answer::kGood;
  }
  const auto running = impl_->jobs.find(key);
  if (impl_->stopped || impl_->waiting >= impl_->options.waiting_max ||
      (running == impl_->jobs.end() && impl_->queue.size() >= impl_->options.queued_max)) {
    ++impl_->stats.overloaded;
    return Answer::kOverloaded;
  }
  // With the first check: where no consumer has a password there are no threads.
  while (impl_->threads.size() < impl_->options.threads) {
    impl_->threads.push_back(
        StartThread("passwords", ThreadPriority::kServing, [impl = impl_.get()] { impl->Work(); }));
  }
  ++impl_->waiting;
  if (running != impl_->jobs.end()) {
    running->second->waiters.push_back(std::move(done));
    return std::nullopt;
  }
  auto job = std::make_shared<Impl::Job>();
  job->key = key;
  job->hash = hash;
  job->password = std::move(password);
  job->decoy = decoy;
  job->waiters.push_back(std::move(done));
  impl_->jobs.emplace(key, job);
  impl_->queue.push_back(std::move(job));
  return std::nullopt;
}

bool PasswordPool::Remembers(const Digest& key, TimePoint now) {
  absl::MutexLock lock(&impl_->mutex);
  if (impl_->successes.Find({key, {}}, 0, now) == nullptr) return false;
  ++impl_->stats.remembered;
  return true;
}

void PasswordPool::Impl::Work() {
  for (;;) {
    std::shared_ptr<Job> job;
    {
      absl::MutexLock lock(&mutex);
      mutex.Await(absl::Condition(this, &Impl::HasWork));
      if (stopped) return;
      job = std::move(queue.front());
      queue.pop_front();
      ++stats.checks;
    }
    const absl::StatusOr<bool> good = VerifyPassword(*job->hash, job->password);
    if (!good.ok()) spdlog::error("a password could not be checked: {}", std::string(good.status().message()));
    const Answer answer = !good.ok() ? Answer::kOverloaded : *good && !job->decoy ? Answer::kGood : Answer::kWrong;
    std::vector<std::function<void(Answer)>> waiters;
    {
      absl::MutexLock lock(&mutex);
      if (stopped) return;
      if (answer == Answer::kGood) {
        successes.Insert({job->key, {}}, 0, std::chrono::steady_clock::now() + options.remembered_for, yes, 0);
      }
      jobs.erase(job->key);
      waiters.swap(job->waiters);
      waiting -= waiters.size();
    }
    for (const auto& done : waiters) done(answer);
  }
}

PasswordPool::Stats PasswordPool::stats() const {
  absl::MutexLock lock(&impl_->mutex);
  Stats stats = impl_->stats;
  stats.queued = impl_->queue.size();
  return stats;
}

}  // namespace gateway::dataplane
