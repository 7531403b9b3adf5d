#include "dataplane/net/tls/ticket_keys.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include <cstring>
#include <stdexcept>

namespace gateway::dataplane::tls {

TicketKeys::TicketKeys(std::chrono::steady_clock::time_point now) : rotated_at_(now) { keys_.push_back(Generate()); }

TicketKeys::~TicketKeys() {
  for (TicketKey& key : keys_) OPENSSL_cleanse(&key, sizeof key);
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

TicketKey TicketKeys::Current(std::chrono::steady_clock::time_point now) {
  absl::MutexLock lock(&mutex_);
  if (now - rotated_at_ >= kRotation) {
    keys_.insert(keys_.begin(), Generate());
    if (keys_.size() > kKept) {
      OPENSSL_cleanse(&keys_.back(), sizeof(TicketKey));
      keys_.pop_back();
    }
    rotated_at_ = now;
  }
  return keys_.front();
}

std::optional<TicketKeys::Found> TicketKeys::Find(const unsigned char* name) const {
  absl::MutexLock lock(&mutex_);
  for (const TicketKey& key : keys_) {
    if (std::memcmp(key.name.data(), name, key.name.size()) == 0) return Found{key, &key == &keys_.front()};
  }
  return std::nullopt;
}

}  // namespace gateway::dataplane::tls
