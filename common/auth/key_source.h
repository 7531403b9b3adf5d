// The key sets that issuers publish: fetched by a few threads, kept while they can't be fetched again.
#ifndef GATEWAY_COMMON_AUTH_KEY_SOURCE_H_
#define GATEWAY_COMMON_AUTH_KEY_SOURCE_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/base/jwk.h"
#include "common/base/time.h"

namespace gateway {

// One set of keys: an URL's newest good one, or one that policy holds itself. Thread-safe.
class KeySource {
 public:
  explicit KeySource(std::string url) : url_(std::move(url)) {}
  // Of policy: never fetched.
  explicit KeySource(std::shared_ptr<const JwkSet> keys);

  const std::string& url() const { return url_; }  // empty: of policy
  // Another one for other keys, over all sources of the process: what was verified by older ones counts no more. 0:
  // there are no keys yet.
  uint64_t generation() const { return generation_.load(std::memory_order_acquire); }
  std::shared_ptr<const JwkSet> keys() const;  // null: none yet

  void Set(std::shared_ptr<const JwkSet> keys);

 private:
  const std::string url_;
  std::atomic<uint64_t> generation_{0};
  mutable absl::Mutex mutex_;
  std::shared_ptr<const JwkSet> keys_ ABSL_GUARDED_BY(mutex_);
};

// Owns the threads: beside those that are fetching one that waits for what is due next, so that an URL that answers
// slowly delays no other. Sources that are no longer held are forgotten. Thread-safe.
class KeyFetcher {
 public:
  struct Options {
    std::chrono::milliseconds timeout{5000};  // of one fetch, in all
    // The shortest time between two fetches of one URL that tokens ask for, however many name keys that it lacks.
    std::chrono::milliseconds pause{30'000};
    size_t fetches_max = 8;  // at a time, each of another URL
    // After a failure: doubled each time, up to the second; never longer than the source's own interval.
    std::chrono::milliseconds retry{1000}, retry_max{60'000};
    size_t waiting_max = 4096;  // callers of Refresh
    // Gives the text at an URL. Default: libcurl, http and https.
    std::function<absl::StatusOr<std::string>(const std::string& url, std::chrono::milliseconds timeout)> fetch;
    std::function<TimePoint()> clock = std::chrono::steady_clock::now;
  };
  explicit KeyFetcher(Options options);
  ~KeyFetcher();  // stops
  // No `done` is called any more once this returns, at the end of a fetch at most.
  void Stop();

  // The source of `url`, the same for all who ask while anybody has it. Fetched soon, then every `interval` (of
  // several, the newest word counts).
  std::shared_ptr<KeySource> Find(const std::string& url, std::chrono::milliseconds interval);

  enum class Refreshed {
    kUnderWay,  // a fetch is, or begins soon; `done` is called at its end, on a thread of the fetcher's
    kThere,     // newer keys than those `seen`: look at them first
    kTooSoon,   // a token has asked within the pause, so what is not there is not there; or too many are waiting
  };
  // A token names a key that those of `source` lack that have the generation `seen`.
  Refreshed Refresh(const KeySource& source, uint64_t seen, std::function<void()> done);

  struct Row {
    std::string url;
    uint64_t fetches = 0, failures = 0;
    bool has_keys = false;
    double age_seconds = 0;  // of the newest good set
  };
  std::vector<Row> Rows() const;  // sorted by URL

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct FetchOptions {
  std::string ca;                               // PEM file of the CAs to trust; empty: the system's
  const std::atomic<bool>* stopping = nullptr;  // ends the fetch within about a second once it is true
};

// By libcurl: https (certificates checked), http from this host only, a status of 200, at most JwkSet::kTextBytesMax.
// At most three redirects are followed, none from https to http. CheckKeysUrl holds for `url` and for each redirect.
// Blocks for `timeout` at most.
absl::StatusOr<std::string> FetchUrl(const std::string& url, std::chrono::milliseconds timeout,
                                     const FetchOptions& options = {});

}  // namespace gateway

#endif  // GATEWAY_COMMON_AUTH_KEY_SOURCE_H_
