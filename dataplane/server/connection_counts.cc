#include "dataplane/server/connection_counts.h"

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

}  // namespace gateway::dataplane
