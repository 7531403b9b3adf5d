// Who occupies how much of a table whose keys clients can make up.
#ifndef GATEWAY_COMMON_BASE_KEY_SHARES_H_
#define GATEWAY_COMMON_BASE_KEY_SHARES_H_

#include <netinet/in.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"

namespace gateway {

// What counts as one client: an IPv4 address, or an IPv6 /64 (a household's or a machine's, RFC 6177).
struct ClientPrefix {
  enum class Kind : uint8_t { kNone, kIpv4, kIpv6Client, kIpv6Site, kIpv6Provider };  // IPv6: /64, /48, /32
  Kind kind = Kind::kNone;
  uint64_t bits = 0;  // of IPv6 the first 64, those past the prefix are 0

  static ClientPrefix Of(const in6_addr& address);
  // As on the wire: 0, 4 or 8 bytes, big endian. Anything else is kNone.
  static ClientPrefix FromBytes(std::string_view bytes);
  std::string ToBytes() const;
  // The /48 of an IPv6 client; else the client itself.
  ClientPrefix site() const;

  bool operator==(const ClientPrefix&) const = default;
  template <typename H>
  friend H AbslHashValue(H hash, const ClientPrefix& prefix) {
    return H::combine(std::move(hash), prefix.kind, prefix.bits);
  }
};

// Counts the places that each client holds in a table and says whether it may have one more. The bound of a client
// depends on what is free (a dynamic threshold): it may hold at most a quarter as many places as are free, so one
// client gets a fifth of the table at most, and ten that take all they can leave a tenth of it. An IPv6 site (/48) is
// bounded like a client, a provider (/32) may hold as many as are free. The first few places are always granted: the
// table has to find room for them.
//
// Thread-safe, by locks of its own that are held only for one lookup. Of a client without a prefix nothing is counted.
class KeyShares {
 public:
  static constexpr size_t kFreePerPlace = 4;  // of a client and of a site
  static constexpr size_t kClientAlways = 16;
  static constexpr size_t kSiteAlways = 64;
  static constexpr size_t kProviderAlways = 1024;

  struct Answer {
    bool granted = true;
    // Who has exhausted its share: the client, or the site where that, or its provider, has.
    ClientPrefix whose;
  };
  // Takes a place for `client`, of a table with `free` places left.
  Answer Take(const ClientPrefix& client, size_t free);
  // Gives one back.
  void Release(const ClientPrefix& client);

  // For tests.
  size_t held(const ClientPrefix& prefix) const;
  size_t prefixes() const;

 private:
  struct Shard {
    mutable absl::Mutex mutex;
    absl::flat_hash_map<ClientPrefix, uint32_t> held ABSL_GUARDED_BY(mutex);
  };
  Shard& ShardOf(const ClientPrefix& prefix);
  bool TakeOne(const ClientPrefix& prefix, size_t always, size_t more);
  void ReleaseOne(const ClientPrefix& prefix);

  std::array<Shard, 16> shards_;
};

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_KEY_SHARES_H_
