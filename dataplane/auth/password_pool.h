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
#include "common/base/password.h"
#include "dataplane/limits/rate_limiter.h"

namespace gateway::dataplane {

// Thread-safe. Bounded in everything: threads, checks that wait, callers that wait for one check, successes that are
// remembered. Of the same credentials one check runs at a time, whoever asks.
class PasswordPool {
 public:
  struct Options {
    size_t threads = 2;  // each takes up to PasswordHash::kMemoryBytesMax while it checks
    size_t queued_max = 64;
    size_t waiting_max = 4096;                // callers, over all checks
    std::chrono::seconds remembered_for{60};  // a success; a failure is checked again
    size_t remembered_max = 10'000;
  };
  enum class Answer : uint8_t { kGood, kWrong, kOverloaded };

  explicit PasswordPool(Options options);
  ~PasswordPool();  // stops
  // No `done` is called any more once this returns.
  void Stop();

  // Whether `password` is `hash`'s. `key` is a keyed digest of both and of the name, under which a success is
  // remembered. With `decoy` the answer is kWrong at the end of a check that takes as long: nobody learns from the
  // time whether there is such a name. An answer at once, or none: `done` is called later, on a thread of the pool.
  std::optional<Answer> Check(const Digest& key, const std::shared_ptr<const PasswordHash>& hash, std::string password,
                              bool decoy, TimePoint now, std::function<void(Answer)> done);

  // Whether `key` is a success that is remembered: then there is nothing to check.
  bool Remembers(const Digest& key, TimePoint now);

  struct Stats {
    uint64_t checks = 0;      // run
    uint64_t remembered = 0;  // answered at once
    uint64_t overloaded = 0;
    size_t queued = 0;
  };
  Stats stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_AUTH_PASSWORD_POOL_H_
