// Addresses of host names, resolved again before they expire, on a separate thread.
#ifndef GATEWAY_DATAPLANE_UPSTREAM_HOST_RESOLVER_H_
#define GATEWAY_DATAPLANE_UPSTREAM_HOST_RESOLVER_H_

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "common/base/time.h"

namespace gateway::dataplane {

// The result of a lookup.
struct HostAnswer {
  std::vector<std::string> addresses;  // IP literals
  std::chrono::seconds ttl{0};         // the shortest of the records
};

// The known hosts and their addresses: no thread, no clock, no socket. Not thread-safe.
class HostTable {
 public:
  static constexpr size_t kHostsMax = 10'000;
  static constexpr size_t kAddressesMax = 64;  // of one host; the first in sorted order
  // Limits for the records' time to live: a name that changes for every request would otherwise be resolved without
  // pause, and one with a week could not be moved.
  static constexpr std::chrono::seconds kTtlMin{1};
  static constexpr std::chrono::seconds kTtlMax{300};
  // After a failure; doubled with each further one.
  static constexpr std::chrono::seconds kRetryMin{1};
  static constexpr std::chrono::seconds kRetryMax{30};

  HostTable();
  ~HostTable();

  // False: there are kHostsMax others. A new one is due at once.
  bool Add(const std::string& host, TimePoint now);
  // Forgets all others.
  void Retain(const absl::flat_hash_set<std::string>& hosts);

  // The last good addresses, sorted; null if there are none, or the host is unknown.
  std::shared_ptr<const std::vector<std::string>> Find(const std::string& host) const;
  // Whether its first lookup has not ended yet.
  bool IsNew(const std::string& host) const;

  // At most `count` hosts that are due now; they count as in progress until Answer. `next`: when others are due.
  std::vector<std::string> TakeDue(TimePoint now, size_t count, TimePoint* next);
  // True: the addresses changed. After a failure, or without an address, the previous ones stay.
  bool Answer(const std::string& host, const absl::StatusOr<HostAnswer>& answer, TimePoint now);

 private:
  struct Host;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Owns the thread. Resolves as the system's resolver would (/etc/hosts, /etc/resolv.conf), but with the records' time
// to live. If a host has IPv4 and IPv6 addresses, only the IPv4 ones are used: `localhost` and many names have an IPv6
// address without a listener. Thread-safe.
class HostResolver {
 public:
  static constexpr size_t kLookupsMax = 64;  // at once

  struct Options {
    std::string servers = {};  // "127.0.0.1:5353"; empty: those of the system
    // Called when addresses of a host changed, on the resolver's thread, which it must not block, and not after
    // set_on_change has replaced it.
    std::function<void()> on_change = {};
  };
  explicit HostResolver(Options options);
  ~HostResolver();
  HostResolver(const HostResolver&) = delete;
  HostResolver& operator=(const HostResolver&) = delete;

  void set_on_change(std::function<void()> on_change);

  // The last good addresses, or null. For a newly named host: waits until `deadline` at most for its first
  // result.
  std::shared_ptr<const std::vector<std::string>> Find(const std::string& host, TimePoint deadline);
  // Resolves all of these from now on, and forgets all others. False: there are too many.
  bool Name(const absl::flat_hash_set<std::string>& hosts);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_UPSTREAM_HOST_RESOLVER_H_
