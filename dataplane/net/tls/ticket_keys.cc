#include "dataplane/net/tls/ticket_keys.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace gateway::dataplane::tls {

TicketKeys::TicketKeys(std::chrono::steady_clock::time_point now) : rotates_at_(now + kRotation) {
  keys_.reserve(kKept + 1);  // never moved, so that no copy is left behind
  keys_.push_back(Generate());
}

TicketKeys::~TicketKeys() {
  for (TicketKey& key : keys_) OPENSSL_cleanse(&key, sizeof key);
  if (next_.has_value()) OPENSSL_cleanse(&*next_, sizeof *next_);
}

TicketKey TicketKeys::Generate() {
  TicketKey key;
  if (RAND_bytes(key.name.data(), static_cast<int>(key.name.size())) != 1 ||
      RAND_priv_bytes(key.cipher.data(), static_cast<int>(key.cipher.size())) != 1 ||
      RAND_priv_bytes(key.mac.data(), static_cast<int>(key.mac.size())) != 1) {
    throw std::runtime_error("no randomness for session tickets");
  }
  return key;
}

void TicketKeys::Push(const TicketKey& key) {
  const auto same =
      std::find_if(keys_.begin(), keys_.end(), [&](const TicketKey& each) { return each.name == key.name; });
  if (same != keys_.end()) {
    std::rotate(keys_.begin(), same, same + 1);
    return;
  }
  keys_.insert(keys_.begin(), key);
  if (keys_.size() <= kKept) return;
  OPENSSL_cleanse(&keys_.back(), sizeof(TicketKey));
  keys_.pop_back();
}

void TicketKeys::Use(const FleetTicketKeys& fleet, std::chrono::steady_clock::time_point now) {
  absl::MutexLock lock(&mutex_);
  if (fleet.previous.has_value()) Push(*fleet.previous);
  Push(fleet.current);
  next_ = fleet.next;
  of_fleet_ = true;
  rotates_at_ = now + fleet.next_in;
}

bool TicketKeys::of_fleet() const {
  absl::MutexLock lock(&mutex_);
  return of_fleet_;
}

TicketKey TicketKeys::Current(std::chrono::steady_clock::time_point now) {
  absl::MutexLock lock(&mutex_);
  if (now >= rotates_at_) {
    // Without a connection for a whole period, the other data planes have left the next key behind as well.
    of_fleet_ = next_.has_value() && now - rotates_at_ < kRotation;
    rotates_at_ = of_fleet_ ? rotates_at_ + kRotation : now + kRotation;
    if (of_fleet_) {
      Push(*next_);
    } else {
      Push(Generate());
    }
    if (next_.has_value()) OPENSSL_cleanse(&*next_, sizeof *next_);
    next_.reset();
  }
  return keys_.front();
}

std::optional<TicketKeys::Found> TicketKeys::Find(const unsigned char* name) const {
  absl::MutexLock lock(&mutex_);
  const auto is = [name](const TicketKey& key) { return std::memcmp(key.name.data(), name, key.name.size()) == 0; };
  for (const TicketKey& key : keys_) {
    if (is(key)) return Found{key, &key == &keys_.front()};
  }
  // From a data plane that rotated a little earlier.
  if (next_.has_value() && is(*next_)) return Found{*next_, true};
  return std::nullopt;
}

}  // namespace gateway::dataplane::tls
