// The keys that seal session tickets, shared by the workers of a process.
#ifndef GATEWAY_DATAPLANE_NET_TLS_TICKET_KEYS_H_
#define GATEWAY_DATAPLANE_NET_TLS_TICKET_KEYS_H_

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace gateway::dataplane::tls {

// One key of RFC 5077, section 4: AES-256-CBC under an HMAC of SHA-256.
struct TicketKey {
  std::array<unsigned char, 16> name;
  std::array<unsigned char, 32> cipher;
  std::array<unsigned char, 32> mac;
};

// The keys of all data planes, as their control plane hands them out (v1::TicketKeysUpdate).
struct FleetTicketKeys {
  std::optional<TicketKey> previous;
  TicketKey current;
  TicketKey next;
  std::chrono::steady_clock::duration next_in{};  // when `next` becomes the current one
};

// Seals with the current key and opens with that, the next one and the last kKept. Makes its own keys until the fleet's
// come, and again once those are used up: the fleet's next key becomes the current one at its time, whether or not
// there is word from the control plane, so that data planes agree through one rotation without it. Any thread. Keys
// live in memory only, so that a stolen disk opens no recorded connection.
class TicketKeys {
 public:
  static constexpr std::chrono::hours kRotation{8};
  static constexpr size_t kKept = 3;  // the current one among them

  // Made at once; throws std::runtime_error without randomness.
  explicit TicketKeys(std::chrono::steady_clock::time_point now);
  ~TicketKeys();
  TicketKeys(const TicketKeys&) = delete;
  TicketKeys& operator=(const TicketKeys&) = delete;

  // From now on the fleet's. Tickets that were sealed with the keys of before are opened as long as these are kept.
  void Use(const FleetTicketKeys& fleet, std::chrono::steady_clock::time_point now);
  // Whether new tickets are sealed with a key of the fleet.
  bool of_fleet() const;

  // The key for new tickets; rotates when it is time.
  TicketKey Current(std::chrono::steady_clock::time_point now);
  struct Found {
    TicketKey key;
    bool current;  // else the ticket should be renewed
  };
  std::optional<Found> Find(const unsigned char* name) const;

 private:
  static TicketKey Generate();
  // Makes it the current one.
  void Push(const TicketKey& key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  mutable absl::Mutex mutex_;
  std::vector<TicketKey> keys_ ABSL_GUARDED_BY(mutex_);    // the current one, then the one before, and so on
  std::optional<TicketKey> next_ ABSL_GUARDED_BY(mutex_);  // of the fleet
  bool of_fleet_ ABSL_GUARDED_BY(mutex_) = false;          // the current one
  std::chrono::steady_clock::time_point rotates_at_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gateway::dataplane::tls

#endif  // GATEWAY_DATAPLANE_NET_TLS_TICKET_KEYS_H_
