// What credentials that were found good stand for, kept for a while, so that they need not be checked again.
#ifndef GATEWAY_DATAPLANE_POLICY_CREDENTIAL_CACHE_H_
#define GATEWAY_DATAPLANE_POLICY_CREDENTIAL_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "common/digest.h"

namespace gateway::dataplane {

// Keyed by a KeyedDigest of the credentials and of whatever their meaning depends on, so that it holds neither them nor
// anything that they could be guessed from. Not thread-safe. Past either bound the entry that was used longest ago
// goes: only credentials that are good are ever put in, so strangers can't push others out.
//
// `Time` is the clock that the caller's entries end by; `now` is always passed in.
template <typename Value, typename Time>
class CredentialCache {
 public:
  struct Options {
    size_t entries_max = 10'000;
    size_t bytes_max = 8 * 1024 * 1024;  // by what Insert is told, and each entry's own
  };
  struct Stats {
    uint64_t hits = 0, misses = 0, evictions = 0;
  };
  explicit CredentialCache(Options options) : options_(options) {}

  // Null: not here, ended, or of another generation (of the keys that had verified it). Allocates nothing.
  std::shared_ptr<const Value> Find(const Digest& key, uint64_t generation, Time now) {
    const auto found = index_.find(key);
    if (found == index_.end()) {
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

  void Insert(const Digest& key, uint64_t generation, Time expires, std::shared_ptr<const Value> value, size_t bytes) {
    if (const auto found = index_.find(key); found != index_.end()) Remove(found->second);
    bytes += sizeof(Entry) + sizeof(std::pair<Digest, void*>);
    if (bytes > options_.bytes_max || options_.entries_max == 0) return;
    while (entries_.size() >= options_.entries_max || bytes_ + bytes > options_.bytes_max) {
      ++stats_.evictions;
      Remove(std::prev(entries_.end()));
    }
    entries_.push_front({key, generation, expires, std::move(value), bytes});
    index_.emplace(key, entries_.begin());
    bytes_ += bytes;
  }

  size_t size() const { return entries_.size(); }
  size_t bytes() const { return bytes_; }
  const Stats& stats() const { return stats_; }

 private:
  struct Entry {
    Digest key;
    uint64_t generation;
    Time expires;
    std::shared_ptr<const Value> value;
    size_t bytes;
  };
  using Position = typename std::list<Entry>::iterator;

  void Remove(Position entry) {
    bytes_ -= entry->bytes;
    index_.erase(entry->key);
    entries_.erase(entry);
  }

  const Options options_;
  std::list<Entry> entries_;  // the one used last first
  absl::flat_hash_map<Digest, Position, DigestHash> index_;
  size_t bytes_ = 0;
  Stats stats_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_POLICY_CREDENTIAL_CACHE_H_
