#include "common/auth/key_source.h"

#include <curl/curl.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "absl/time/time.h"
#include "common/base/fetched_url.h"
#include "common/base/text.h"
#include "common/base/thread.h"
#include "spdlog/spdlog.h"

namespace gateway {
namespace {

using std::chrono::milliseconds;

constexpr int kRedirectsMax = 3;

std::atomic<uint64_t> next_generation{1};

size_t AppendBody(char* data, size_t size, size_t count, void* to) {
  auto* text = static_cast<std::string*>(to);
  if (text->size() + size * count > JwkSet::kTextBytesMax) return 0;  // ends the transfer
  text->append(data, size * count);
  return size * count;
}

int EndIfStopping(void* stopping, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  return static_cast<const std::atomic<bool>*>(stopping)->load() ? 1 : 0;
}

}  // namespace

KeySource::KeySource(std::shared_ptr<const JwkSet> keys) { Set(std::move(keys)); }

std::shared_ptr<const JwkSet> KeySource::keys() const {
  absl::MutexLock lock(&mutex_);
  return keys_;
}

void KeySource::Set(std::shared_ptr<const JwkSet> keys) {
  absl::MutexLock lock(&mutex_);
  keys_ = std::move(keys);
  generation_.store(next_generation.fetch_add(1), std::memory_order_release);
}

struct KeyFetcher::Impl {
  struct Entry {
    std::weak_ptr<KeySource> source;
    milliseconds interval{};
    TimePoint due;
    std::optional<TimePoint> fetched;  // or tried; its begin
    std::optional<TimePoint> asked;    // likewise, of the newest one that a Refresh asked for
    bool wanted = false;               // by a Refresh
    bool fetching = false;
    milliseconds retry{};  // the next one after a failure; 0: the last fetch succeeded
    bool told = false;     // the log, of the failure
    std::string text;      // the newest good one
    TimePoint good_at;
    uint64_t fetches = 0, failures = 0;
    std::vector<std::function<void()>> waiters;
  };

  explicit Impl(Options fetcher_options) : options(std::move(fetcher_options)) {}
  void Work();
  // If no thread waits for the next one that is due.
  void AddThread() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Take(const std::string& url, absl::StatusOr<std::string> text, TimePoint begin);
  // The one that is due; null: none before `next`.
  const std::string* FindDue(TimePoint now, TimePoint* next) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  const Options options;
  mutable absl::Mutex mutex;
  std::vector<std::thread> threads ABSL_GUARDED_BY(mutex);
  size_t idle ABSL_GUARDED_BY(mutex) = 0;  // of `threads`: those that fetch nothing
  absl::CondVar changed;
  bool stopped ABSL_GUARDED_BY(mutex) = false;
  std::map<std::string, Entry> entries ABSL_GUARDED_BY(mutex);
  size_t waiting ABSL_GUARDED_BY(mutex) = 0;
};

KeyFetcher::KeyFetcher(Options options) {
  if (!options.fetch) {
    options.fetch = [](const std::string& url, milliseconds timeout) { return FetchUrl(url, timeout); };
  }
  impl_ = std::make_unique<Impl>(std::move(options));
}

KeyFetcher::~KeyFetcher() { Stop(); }

void KeyFetcher::Stop() {
  std::vector<std::thread> threads;
  {
    absl::MutexLock lock(&impl_->mutex);
    impl_->stopped = true;
    impl_->changed.SignalAll();
    threads.swap(impl_->threads);
  }
  for (std::thread& thread : threads) thread.join();
}

std::shared_ptr<KeySource> KeyFetcher::Find(const std::string& url, milliseconds interval) {
  absl::MutexLock lock(&impl_->mutex);
  Impl::Entry& entry = impl_->entries[url];
  std::shared_ptr<KeySource> source = entry.source.lock();
  if (source == nullptr) {
    // (Also of one that was forgotten a moment ago: its keys are fetched again.)
    source = std::make_shared<KeySource>(url);
    entry.source = source;
    entry.text.clear();
    entry.due = impl_->options.clock();
  } else if (entry.interval != interval && entry.retry == milliseconds(0) && entry.fetched) {
    entry.due = *entry.fetched + interval;
  }
  entry.interval = interval;
  // With the first source: most data planes have none.
  if (impl_->threads.empty()) impl_->AddThread();
  impl_->changed.SignalAll();
  return source;
}

KeyFetcher::Refreshed KeyFetcher::Refresh(const KeySource& source, uint64_t seen, std::function<void()> done) {
  absl::MutexLock lock(&impl_->mutex);
  // (They may have come since the token was tried. To fetch for it all the same would begin the pause for nothing.)
  if (source.generation() != seen) return Refreshed::kThere;
  const auto found = impl_->entries.find(source.url());
  if (found == impl_->entries.end() || impl_->stopped || impl_->waiting >= impl_->options.waiting_max) {
    return Refreshed::kTooSoon;
  }
  Impl::Entry& entry = found->second;
  // (A scheduled fetch does not count: a key that is published just behind one is fetched at once.)
  const TimePoint now = impl_->options.clock();
  const bool pausing = entry.asked && now < *entry.asked + impl_->options.pause;
  if (!entry.fetching && pausing) return Refreshed::kTooSoon;
  entry.waiters.push_back(std::move(done));
  ++impl_->waiting;
  if (!entry.fetching) {
    entry.wanted = now < entry.due;  // else it begins anyway, and the token has asked for nothing
    impl_->changed.SignalAll();
  }
  return Refreshed::kUnderWay;
}

const std::string* KeyFetcher::Impl::FindDue(TimePoint now, TimePoint* next) {
  const std::string* due = nullptr;
  *next = TimePoint::max();
  for (auto entry = entries.begin(); entry != entries.end();) {
    if (entry->second.fetching) {
      ++entry;
      continue;
    }
    if (entry->second.source.expired() && entry->second.waiters.empty()) {
      entry = entries.erase(entry);
      continue;
    }
    const TimePoint at = entry->second.wanted ? TimePoint::min() : entry->second.due;
    if (at < *next) {
      *next = at;
      due = &entry->first;
    }
    ++entry;
  }
  return *next <= now ? due : nullptr;
}

void KeyFetcher::Impl::AddThread() {
  if (stopped || idle > 0 || threads.size() >= options.fetches_max) return;
  ++idle;
  threads.push_back(StartThread("key-fetcher", ThreadPriority::kBackground, [this] { Work(); }));
}

void KeyFetcher::Impl::Work() {
  for (;;) {
    std::string url;
    {
      absl::MutexLock lock(&mutex);
      const std::string* due = nullptr;
      for (TimePoint next; !stopped; changed.WaitWithTimeout(&mutex, absl::Milliseconds(250))) {
        // (A quarter of a second at most, so that a clock of a test's own is looked at, and forgotten sources go.)
        due = FindDue(options.clock(), &next);
        if (due != nullptr) break;
      }
      if (stopped) return;
      url = *due;
      Entry& entry = entries[url];
      entry.fetching = true;
      entry.fetched = options.clock();
      if (std::exchange(entry.wanted, false)) entry.asked = entry.fetched;
      --idle;
      AddThread();
    }
    const TimePoint begin = options.clock();
    Take(url, options.fetch(url, options.timeout), begin);
    absl::MutexLock lock(&mutex);
    ++idle;
  }
}

void KeyFetcher::Impl::Take(const std::string& url, absl::StatusOr<std::string> text, TimePoint begin) {
  absl::StatusOr<JwkSet> keys = text.ok() ? ParseJwks(*text, BadJwk::kSkip) : text.status();
  std::vector<std::function<void()>> waiters;
  {
    absl::MutexLock lock(&mutex);
    if (stopped) return;
    Entry& entry = entries[url];
    entry.fetching = false;
    ++entry.fetches;
    const std::shared_ptr<KeySource> source = entry.source.lock();
    if (keys.ok()) {
      entry.retry = milliseconds(0);
      entry.due = begin + entry.interval;
      entry.good_at = begin;
      if (source != nullptr && (*text != entry.text || source->generation() == 0)) {
        spdlog::info("{} keys of {} are in use{}", keys->keys.size(), url,
                     keys->skipped.empty() ? "" : Concat("; not used: ", keys->skipped[0]));
        if (!keys->unsafe.empty()) {
          spdlog::warn(
              "the keys of {}: {}; it is not used, and anyone who has seen it can sign as its issuer where "
              "others use it",
              url, keys->unsafe[0]);
        }
        entry.text = *std::move(text);
        source->Set(std::make_shared<const JwkSet>(*std::move(keys)));
      } else if (entry.told) {
        spdlog::info("the keys of {} can be fetched again", url);
      }
      entry.told = false;
    } else {
      ++entry.failures;
      entry.retry = std::min({entry.retry == milliseconds(0) ? options.retry : entry.retry * 2, options.retry_max,
                              std::max(entry.interval, options.retry)});
      entry.due = begin + entry.retry;
      if (!std::exchange(entry.told, true)) {
        spdlog::warn("the keys of {} cannot be fetched: {}; {}", url, std::string(keys.status().message()),
                     entry.text.empty() ? "there are none yet, so every token of it is rejected"
                                        : "the last good ones stay in use");
      }
    }
    waiters.swap(entry.waiters);
    waiting -= waiters.size();
  }
  for (const auto& done : waiters) done();
}

std::vector<KeyFetcher::Row> KeyFetcher::Rows() const {
  std::vector<Row> rows;
  absl::MutexLock lock(&impl_->mutex);
  const TimePoint now = impl_->options.clock();
  for (const auto& [url, entry] : impl_->entries) {
    Row row{url, entry.fetches, entry.failures, !entry.text.empty(), 0};
    if (row.has_keys) row.age_seconds = std::chrono::duration<double>(now - entry.good_at).count();
    rows.push_back(std::move(row));
  }
  return rows;
}

absl::StatusOr<std::string> FetchUrl(const std::string& url, milliseconds timeout, const FetchOptions& options) {
  static std::once_flag once;
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
  const std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> curl(curl_easy_init(), curl_easy_cleanup);
  if (curl == nullptr) return absl::ResourceExhaustedError("out of memory");
  const std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> fields(
      curl_slist_append(nullptr, "Accept: application/jwk-set+json, application/json"), curl_slist_free_all);
  std::string text;
  char why[CURL_ERROR_SIZE] = "";
  curl_easy_setopt(curl.get(), CURLOPT_PROTOCOLS_STR, "http,https");
  // Redirects are followed here, so that each is checked first.
  curl_easy_setopt(curl.get(), CURLOPT_FOLLOWLOCATION, 0L);
  curl_easy_setopt(curl.get(), CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_HTTPHEADER, fields.get());
  curl_easy_setopt(curl.get(), CURLOPT_USERAGENT, "gateway");
  curl_easy_setopt(curl.get(), CURLOPT_WRITEFUNCTION, AppendBody);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEDATA, &text);
  curl_easy_setopt(curl.get(), CURLOPT_ERRORBUFFER, why);
  if (!options.ca.empty()) {
    curl_easy_setopt(curl.get(), CURLOPT_CAINFO, options.ca.c_str());
    curl_easy_setopt(curl.get(), CURLOPT_CAPATH, static_cast<char*>(nullptr));
  }
  if (options.stopping != nullptr) {
    curl_easy_setopt(curl.get(), CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl.get(), CURLOPT_XFERINFOFUNCTION, EndIfStopping);
    curl_easy_setopt(curl.get(), CURLOPT_XFERINFODATA, options.stopping);
  }
  const auto until = std::chrono::steady_clock::now() + timeout;
  std::string at = url;
  for (int redirects = 0;; ++redirects) {
    if (const absl::Status allowed = CheckKeysUrl(at); !allowed.ok()) {
      if (redirects == 0) return allowed;
      return absl::InvalidArgumentError(Concat("the redirect to ", std::string(allowed.message())));
    }
    const auto left = std::chrono::ceil<milliseconds>(until - std::chrono::steady_clock::now());
    if (left.count() <= 0) return absl::UnavailableError("the redirects take too long");
    text.clear();
    curl_easy_setopt(curl.get(), CURLOPT_URL, at.c_str());
    curl_easy_setopt(curl.get(), CURLOPT_TIMEOUT_MS, static_cast<long>(left.count()));
    const CURLcode code = curl_easy_perform(curl.get());
    if (code == CURLE_WRITE_ERROR) {
      return absl::InvalidArgumentError(Concat("the response is larger than ", JwkSet::kTextBytesMax >> 10, " KiB"));
    }
    if (code != CURLE_OK) return absl::UnavailableError(why[0] != '\0' ? why : curl_easy_strerror(code));
    const char* next = nullptr;
    curl_easy_getinfo(curl.get(), CURLINFO_REDIRECT_URL, &next);
    if (next == nullptr) {
      long status = 0;
      curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &status);
      if (status != 200) return absl::UnavailableError(Concat("the response is ", status, ", not 200"));
      return text;
    }
    if (redirects == kRedirectsMax) return absl::UnavailableError("there are too many redirects");
    if (at.starts_with("https://") && std::string_view(next).starts_with("http://")) {
      return absl::InvalidArgumentError("the redirect leads from https to http");
    }
    at = next;
  }
}

}  // namespace gateway
