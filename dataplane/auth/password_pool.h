// Checks passwords against their hashes on threads of its own, since one check takes 10 ms to 1 s.
#ifndef GATEWAY_DATAPLANE_AUTH_PASSWORD_POOL_H_
#define GATEWAY_DATAPLANE_AUTH_PASSWORD_POOL_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "common/base/digest.h"
#include "common/base/key_shares.h"
#include "common/base/password.h"
#include "dataplane/limits/rate_limiter.h"

namespace gateway::dataplane {

// Thread-safe. Bounded in everything: threads, checks that wait, callers that wait for one check, successes that are
// remembered, failures of one client. Of the same credentials one check runs at a time, for all callers.
//
// The queue is shared fairly: clients take turns, and one may hold a quarter of the free places at most; a client that
// holds none takes the newest place of the one that holds most. So wrong passwords keep their own client waiting.
class PasswordPool {
 public:
  struct Options {
    size_t threads = 2;  // each takes up to PasswordHash::kMemoryBytesMax while it checks
    size_t queued_max = 64;
    size_t waiting_max = 4096;  // callers, over all checks
    // A success, since it was used last; a failure is checked again. Longer than a flood: what is remembered is about
    // the hash that policy names, so it is never out of date.
    std::chrono::seconds remembered_for{3600};
    size_t remembered_max = 10'000;
    // Of one client, after which its passwords are not checked any more. Successes that are remembered still count.
    uint32_t failures_max = 30;
    std::chrono::milliseconds failures_window{60'000};
    size_t failing_clients_max = 20'000;
  };
  enum class Answer : uint8_t { kGood, kWrong, kOverloaded, kTooManyFailures };

  explicit PasswordPool(Options options);
  ~PasswordPool();  // stops
  // No `done` is called any more once this returns.
  void Stop();

  // Whether `password` is `hash`'s. `key` is a keyed digest of both and of the name, under which a success is
  // remembered. With `decoy` the answer is kWrong at the end of a check that takes as long: nobody learns from the
  // time whether there is such a name. An answer at once, or none: `done` is called later, on a thread of the pool.
  std::optional<Answer> Check(const Digest& key, const std::shared_ptr<const PasswordHash>& hash, std::string password,
                              bool decoy, const ClientPrefix& client, TimePoint now, std::function<void(Answer)> done);
  // When a client that was told kTooManyFailures may try again.
  std::chrono::milliseconds RetryAfter(const ClientPrefix& client, TimePoint now);

  // Whether `key` is a success that is remembered: then there is nothing to check.
  bool Remembers(const Digest& key, TimePoint now);

  struct Stats {
    uint64_t checks = 0;      // run
    uint64_t remembered = 0;  // decided at once
    uint64_t overloaded = 0;
    uint64_t throttled = 0;  // of a client with too many failures
    size_t queued = 0;
  };
  Stats stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_AUTH_PASSWORD_POOL_H_
