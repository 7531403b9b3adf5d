// The soak's clients: every kind of traffic that a gateway sees, well-behaved or not. Each response is checked.
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
  std::atomic<uint64_t> excused{0};  // a response that reports a service as away while one is
  std::atomic<uint64_t> broken{0};   // by the client, on purpose
  std::atomic<uint64_t> lost{0};     // anything else: no response, a wrong one, a truncated one
};

// Runs the clients on its own thread, each with one request at a time, until Stop.
//
// Needs a policy with: /steady to services that stay up, /dying to services that come and go, /changing, a route that
// comes and goes, and /ws, which may be upgraded.
class Traffic {
 public:
  struct Options {
    uint16_t port = 0;
    bool upgrades = false;
    double pace = 1;  // 2: twice the request rate
  };
  explicit Traffic(const Options& options);
  ~Traffic();
  Traffic(const Traffic&) = delete;
  Traffic& operator=(const Traffic&) = delete;

  // Starts no new requests; returns when all clients have ended, false if some have not within `patience`.
  bool Stop(milliseconds patience);

  const Tally& tally(Kind kind) const { return tallies_[static_cast<size_t>(kind)]; }
  uint64_t total(std::atomic<uint64_t> Tally::*part) const;
  // Descriptions of lost requests; the first kMessagesMax.
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
    std::string text;            // the expected start of the body; if "":
    uint64_t pattern_bytes = 0;  // the body is this many bytes of the pattern
    bool service_may_be_away = false;
    bool route_may_be_away = false;
  };
  // Reads a response and counts it. False: the connection cannot be reused.
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
