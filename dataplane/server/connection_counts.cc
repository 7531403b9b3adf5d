#include "dataplane/server/connection_counts.h"

#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "absl/hash/hash.h"

namespace gateway::dataplane {
namespace {

// Where few connections are wanted at all, one client address may have them all.
constexpr int64_t kOneAddressMin = 1000;

}  // namespace

int64_t ConnectionsByAddress::DefaultMax(int64_t connections_max, int64_t by_descriptors) {
  const int64_t wanted = std::max(connections_max / 2, std::min(connections_max, kOneAddressMin));
  return by_descriptors >= connections_max ? wanted : std::max<int64_t>(1, std::min(wanted, by_descriptors / 2));
}

ConnectionsByAddress::Key ConnectionsByAddress::KeyOf(const in6_addr& address) {
  Key key{0, 0};
  std::memcpy(&key.first, address.s6_addr, 8);
  if (IN6_IS_ADDR_V4MAPPED(&address)) std::memcpy(&key.second, address.s6_addr + 8, 8);
  return key;
}

size_t ConnectionsByAddress::ShardOf(const Key& key) { return absl::Hash<Key>()(key) >> 60; }

bool ConnectionsByAddress::Add(const in6_addr& address, int64_t max) {
  const Key key = KeyOf(address);
  Shard& shard = shards_[ShardOf(key)];
  const absl::MutexLock lock(&shard.mutex);
  int64_t& count = shard.counts[key];
  if (count >= max) {
    if (count == 0) shard.counts.erase(key);
    return false;
  }
  ++count;
  return true;
}

void ConnectionsByAddress::Remove(const in6_addr& address) {
  const Key key = KeyOf(address);
  Shard& shard = shards_[ShardOf(key)];
  const absl::MutexLock lock(&shard.mutex);
  const auto found = shard.counts.find(key);
  if (found != shard.counts.end() && --found->second <= 0) shard.counts.erase(found);
}

int64_t ConnectionsByAddress::Count(const in6_addr& address) const {
  const Key key = KeyOf(address);
  const Shard& shard = shards_[ShardOf(key)];
  const absl::MutexLock lock(&shard.mutex);
  const auto found = shard.counts.find(key);
  return found == shard.counts.end() ? 0 : found->second;
}

void SilentConnections::Add(Entry* entry) {
  const absl::MutexLock lock(&mutex_);
  entry->listed = true;
  entries_.emplace(entry->id, entry);
}

void SilentConnections::Remove(Entry* entry) {
  const absl::MutexLock lock(&mutex_);
  if (entry->listed) entries_.erase(entry->id);
  entry->listed = false;
  if (!entry->taken) return;
  entry->taken = false;
  leaving_.fetch_sub(1, std::memory_order_relaxed);
}

bool SilentConnections::IsTaken(const Entry& entry) {
  const absl::MutexLock lock(&mutex_);
  return entry.taken;
}

SilentConnections::Result SilentConnections::Take(std::optional<int> worker) { return TakeOldest(worker, nullptr); }

SilentConnections::Result SilentConnections::TakeOver(const in6_addr& address) {
  return TakeOldest(std::nullopt, &address);
}

SilentConnections::Result SilentConnections::TakeOldest(std::optional<int> worker, const in6_addr* address) {
  const absl::MutexLock lock(&mutex_);
  Result result{.found = Found::kNone};
  int looked_at = 0;
  for (auto each = entries_.begin(); each != entries_.end() && looked_at < kSearchMax; ++each, ++looked_at) {
    Entry* const entry = each->second;
    if (worker && entry->worker != *worker) continue;
    if (address != nullptr && !(entry->counted && ConnectionsByAddress::Same(entry->address, *address))) continue;
    char byte;
    if (recv(entry->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0) {
      result.found = Found::kUnread;
      continue;
    }
    entry->taken = true;
    leaving_.fetch_add(1, std::memory_order_relaxed);
    if (address != nullptr) {
      entry->counted = false;
      entry->handed_over = true;
    }
    entry->listed = false;
    entries_.erase(each);
    return {Found::kOne, entry->worker, entry->id, entry->address};
  }
  return result;
}

}  // namespace gateway::dataplane
