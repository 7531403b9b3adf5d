// How many connections are open: in the process, and by client address.
#ifndef GATEWAY_DATAPLANE_SERVER_CONNECTION_COUNTS_H_
#define GATEWAY_DATAPLANE_SERVER_CONNECTION_COUNTS_H_

#include <netinet/in.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"

namespace gateway::dataplane {

// Counts connections by address: all of IPv4, the /64 of IPv6 (a household's or a machine's, RFC 6177). Holds only the
// addresses that are connected, so server.max_connections bounds it. Shared by all workers; thread-safe.
class ConnectionsByAddress {
 public:
  // Whether both are counted as one.
  static bool Same(const in6_addr& one, const in6_addr& other) { return KeyOf(one) == KeyOf(other); }
  // How many one address may have where nothing else is configured: half of what can be open. That is
  // `connections_max` (server.max_connections), or the lower `by_descriptors`. Where as few as 1,000 are wanted, one
  // address may have them all; where only descriptors are few, it may not.
  static int64_t DefaultMax(int64_t connections_max, int64_t by_descriptors);
  // Counts one more of `address` (IPv4 as IPv4-mapped); false, and not counted, where there are `max` already.
  bool Add(const in6_addr& address, int64_t max);
  // Once for each Add that was true.
  void Remove(const in6_addr& address);
  int64_t Count(const in6_addr& address) const;

 private:
  using Key = std::pair<uint64_t, uint64_t>;
  struct Shard {
    mutable absl::Mutex mutex;
    absl::flat_hash_map<Key, int64_t> counts ABSL_GUARDED_BY(mutex);
  };
  static Key KeyOf(const in6_addr& address);
  static size_t ShardOf(const Key& key);
  std::array<Shard, 16> shards_;
};

// What all workers share.
struct ConnectionCounts {
  std::atomic<int64_t> connections{0};
  ConnectionsByAddress by_address;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_SERVER_CONNECTION_COUNTS_H_
