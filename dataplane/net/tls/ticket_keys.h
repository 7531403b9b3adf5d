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

// Seals with the newest key and opens with any of the last kKept. Any thread. Keys live in memory only, so that a
// stolen disk opens no recorded connection.
class TicketKeys {
 public:
  static constexpr std::chrono::hours kRotation{8};
  static constexpr size_t kKept = 3;

  // Made at once; throws std::runtime_error without randomness.
  explicit TicketKeys(std::chrono::steady_clock::time_point now);
  ~TicketKeys();
  TicketKeys(const TicketKeys&) = delete;
  TicketKeys& operator=(const TicketKeys&) = delete;

  // The key for new tickets; rotates when it is time.
  TicketKey Current(std::chrono::steady_clock::time_point now);
  struct Found {
    TicketKey key;
    bool current;  // else the ticket should be renewed
  };
  std::optional<Found> Find(const unsigned char* name) const;

 private:
  static TicketKey Generate();
  mutable absl::Mutex mutex_;
  std::vector<TicketKey> keys_ ABSL_GUARDED_BY(mutex_);  // newest first
  std::chrono::steady_clock::time_point rotated_at_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gateway::dataplane::tls

#endif  // GATEWAY_DATAPLANE_NET_TLS_TICKET_KEYS_H_
