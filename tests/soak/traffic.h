// The soak's clients: every kind of traffic that a gateway meets, well-behaved and not, each answer checked.
#ifndef GATEWAY_TESTS_SOAK_TRAFFIC_H_
#define GATEWAY_TESTS_SOAK_TRAFFIC_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "tests/soak/wire.h"

namespace gateway::soak {

enum class Kind : uint8_t { kSmall, kDying, kChanging, kLarge, kSlowReader, kSlowWriter, kAbort, kUpgrade };
inline constexpr size_t kKinds = 8;
const char* ToText(Kind kind);

// How the requests of one kind ended.
struct Tally {
  std::atomic<uint64_t> begun{0};
  std::atomic<uint64_t> good{0};
  std::atomic<uint64_t> excused{0};  // an answer that says that a service is away, while one is
  std::atomic<uint64_t> broken{0};   // by the client, on purpose
  std::atomic<uint64_t> lost{0};     // anything else: no answer, a wrong one, a cut one
};

// Runs the clients on a thread of its own, each request after the answer to the one before, until Stop.
//
// The policy that they need: /steady to services that live, /dying to services that come and go, /changing, a route
// that comes and goes, and /ws, which may be upgraded.
class Traffic {
 public:
  struct Options {
    uint16_t port = 0;
    bool upgrades = false;
    double pace = 1;  // of the clients: 2 makes twice the requests
  };
  explicit Traffic(const Options& options);
  ~Traffic();
  Traffic(const Traffic&) = delete;
  Traffic& operator=(const Traffic&) = delete;

  // No new requests; returns when all clients have ended, false where some have not within `patience`.
  bool Stop(milliseconds patience);

  const Tally& tally(Kind kind) const { return tallies_[static_cast<size_t>(kind)]; }
  uint64_t total(std::atomic<uint64_t> Tally::*part) const;
  // What was lost, in words; the first kMessagesMax.
  std::vector<std::string> messages() const;

 private:
  static constexpr size_t kMessagesMax = 20;

  // On the loop. Each is one client's life.
  Detached Small(int client);
  Detached Dying(int client);
  Detached Changing();
  Detached Large(int client);
  Detached SlowReader(int client);
  Detached SlowWriter(int client);
  Detached Abort(int client);
  Detached Upgrade(int client);

  struct Expected {
    std::string text;            // how the body begins, where that is not ""; else:
    uint64_t pattern_bytes = 0;  // a body of so many bytes of the pattern
    bool service_may_be_away = false;
    bool route_may_be_away = false;
  };
  // Reads an answer and tallies it. False: the connection is of no more use.
  Task<bool> Check(Kind kind, Peer* peer, const Expected* expected, Peer::Pace pace = Peer::Pace());
  Task<bool> Connected(Kind kind, Peer* peer, int receive_bytes = 0);
  Task<void> Think(milliseconds time);
  Tally& At(Kind kind) { return tallies_[static_cast<size_t>(kind)]; }
  void Lose(Kind kind, const std::string& why);
  uint64_t NextId() { return ++last_id_; }

  const Options options_;
  EventLoop loop_;
  std::array<Tally, kKinds> tallies_;
  uint64_t last_id_ = 0;
  std::atomic<bool> stopping_{false};
  std::atomic<int> clients_{0};
  mutable absl::Mutex mutex_;
  std::vector<std::string> messages_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace gateway::soak

#endif  // GATEWAY_TESTS_SOAK_TRAFFIC_H_
