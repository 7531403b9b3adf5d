// Results of verified credentials, kept for a while to avoid verifying them again.
#ifndef GATEWAY_DATAPLANE_AUTH_CREDENTIAL_CACHE_H_
#define GATEWAY_DATAPLANE_AUTH_CREDENTIAL_CACHE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <list>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "common/base/digest.h"
#include "common/base/hash.h"

namespace gateway::dataplane {

// The key of an entry. Two keys are equal only if all their bytes are, so only valid credentials find the result of
// valid credentials.
struct CredentialKey {
  Digest meaning;  // of everything else that the result depends on; may include the credentials, then `text` is empty
  std::string_view text;  // stored as is: only for credentials that expire soon by themselves
};

// Not thread-safe. Above either limit the least recently used entry is removed. Only valid credentials are inserted, so
// strangers cannot displace entries.
//
// `Time` is the clock of the entries' expiry; callers pass `now`.
template <typename Value, typename Time>
class CredentialCache {
 public:
  struct Options {
    size_t entries_max = 10'000;
    size_t bytes_max = 8 * 1024 * 1024;  // as told to Insert, plus an overhead for each entry
  };
  struct Stats {
    uint64_t hits = 0, misses = 0, evictions = 0;
  };
  explicit CredentialCache(Options options) : options_(options) {}

  // Null: not here, expired, or of another generation (of the verifying keys). Allocates nothing.
  std::shared_ptr<const Value> Find(const CredentialKey& key, uint64_t generation, Time now) {
    const auto found = index_.find(HashOf(key));
    if (found == index_.end() || found->second->meaning != key.meaning || found->second->text != key.text) {
      ++stats_.misses;
      return nullptr;
    }
    const auto entry = found->second;
    if (entry->generation != generation || entry->expires <= now) {
      ++stats_.misses;
      Remove(entry);
      return nullptr;
    }
    ++stats_.hits;
    entries_.splice(entries_.begin(), entries_, entry);
    return entry->value;
  }

  void Insert(const CredentialKey& key, uint64_t generation, Time expires, std::shared_ptr<const Value> value,
              size_t bytes) {
    const uint64_t hash = HashOf(key);
    if (const auto found = index_.find(hash); found != index_.end()) Remove(found->second);
    bytes += sizeof(Entry) + sizeof(std::pair<uint64_t, void*>) + key.text.size();
    if (bytes > options_.bytes_max || options_.entries_max == 0) return;
    while (entries_.size() >= options_.entries_max || bytes_ + bytes > options_.bytes_max) {
      ++stats_.evictions;
      Remove(std::prev(entries_.end()));
    }
    entries_.push_front({hash, key.meaning, std::string(key.text), generation, expires, std::move(value), bytes});
    index_.emplace(hash, entries_.begin());
    bytes_ += bytes;
  }

  // Requires: Find has just found it.
  void Extend(const CredentialKey& key, Time expires) { index_.find(HashOf(key))->second->expires = expires; }

  size_t size() const { return entries_.size(); }
  size_t bytes() const { return bytes_; }
  const Stats& stats() const { return stats_; }

 private:
  struct Entry {
    uint64_t hash;
    Digest meaning;
    std::string text;
    uint64_t generation;
    Time expires;
    std::shared_ptr<const Value> value;
    size_t bytes;
  };
  using Position = typename std::list<Entry>::iterator;

  // Of the end of the text: for a token that is its signature, as good as random. Two keys with one hash displace each
  // other, nothing worse.
  uint64_t HashOf(const CredentialKey& key) const {
    uint64_t seed;
    std::memcpy(&seed, key.meaning.data(), sizeof seed);
    const std::string_view end = key.text.substr(key.text.size() - std::min<size_t>(key.text.size(), 64));
    return StableHash(end, seed ^ seed_);
  }

  void Remove(Position entry) {
    bytes_ -= entry->bytes;
    index_.erase(entry->hash);
    entries_.erase(entry);
  }

  const Options options_;
  std::list<Entry> entries_;  // most recently used first
  absl::flat_hash_map<uint64_t, Position> index_;
  const uint64_t seed_ = std::random_device()() | uint64_t{std::random_device()()} << 32;
  size_t bytes_ = 0;
  Stats stats_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_AUTH_CREDENTIAL_CACHE_H_
