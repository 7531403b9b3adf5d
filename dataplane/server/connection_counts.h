// How many connections are open: in the process, and by client address.
#ifndef GATEWAY_DATAPLANE_SERVER_CONNECTION_COUNTS_H_
#define GATEWAY_DATAPLANE_SERVER_CONNECTION_COUNTS_H_

#include <netinet/in.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
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

// The connections of all workers on which no request has arrived yet: they give way to new ones, the oldest first.
// Thread-safe.
class SilentConnections {
 public:
  // Of one connection, and a part of it. Its worker's, except while it is listed.
  struct Entry {
    int worker = 0;
    int fd = -1;
    in6_addr address{};
    uint64_t id = 0;           // in the order in which they were accepted
    bool counted = false;      // by its address
    bool taken = false;        // it has to go: somebody wants its place
    bool handed_over = false;  // its place in its address's count belongs to the taker already
    bool listed = false;
  };
  enum class Found : uint8_t {
    kNone,
    kUnread,  // what some of them have sent waits to be read: then it will turn out whether they are silent
    kOne,
  };
  struct Result {
    Found found;
    int worker = 0;
    uint64_t id = 0;
    in6_addr address{};
  };

  uint64_t NewId() { return ids_.fetch_add(1, std::memory_order_relaxed); }
  void Add(Entry* entry);
  // It is silent no more, or gone.
  void Remove(Entry* entry);
  bool IsTaken(const Entry& entry);
  // Takes the oldest one of all, or of `worker` alone. Whoever takes it sees to it that its worker closes it.
  Result Take(std::optional<int> worker);
  // The same, of those that count for `address`; the taker has its place in that count from now on.
  Result TakeOver(const in6_addr& address);
  // Those that were taken and are not closed yet.
  int64_t leaving() const { return leaving_.load(std::memory_order_relaxed); }

 private:
  // How many are looked at for one that gives way.
  static constexpr int kSearchMax = 128;
  Result TakeOldest(std::optional<int> worker, const in6_addr* address);
  std::atomic<uint64_t> ids_{1};
  std::atomic<int64_t> leaving_{0};
  absl::Mutex mutex_;
  absl::btree_map<uint64_t, Entry*> entries_ ABSL_GUARDED_BY(mutex_);
};

// What all workers share.
struct ConnectionCounts {
  // Without those that are about to close.
  int64_t staying() const { return connections.load(std::memory_order_relaxed) - silent.leaving(); }

  std::atomic<int64_t> connections{0};
  ConnectionsByAddress by_address;
  SilentConnections silent;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_SERVER_CONNECTION_COUNTS_H_
