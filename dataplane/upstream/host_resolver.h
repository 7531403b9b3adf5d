// Addresses of host names, looked up again before they grow old, on a thread of their own.
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

// What a look-up found.
struct HostAnswer {
  std::vector<std::string> addresses;  // IP literals
  std::chrono::seconds ttl{0};         // the shortest of the records
};

// What is known of the hosts that somebody names: no thread, no clock, no socket. Not thread-safe.
class HostTable {
 public:
  static constexpr size_t kHostsMax = 10'000;
  static constexpr size_t kAddressesMax = 64;  // of one host; the first in sorted order are kept
  // Bounds on the records' own time to live: a name that changes at every request would otherwise be asked for without
  // pause, and one that says a week could not be moved.
  static constexpr std::chrono::seconds kTtlMin{1};
  static constexpr std::chrono::seconds kTtlMax{300};
  // After a failure: doubled with each further one.
  static constexpr std::chrono::seconds kRetryMin{1};
  static constexpr std::chrono::seconds kRetryMax{30};

  HostTable();
  ~HostTable();

  // False: there are kHostsMax others. A new one is due at once.
  bool Add(const std::string& host, TimePoint now);
  // Forgets all others.
  void Retain(const absl::flat_hash_set<std::string>& hosts);

  // The last good addresses, sorted; of a host that has none, or is not known: null.
  std::shared_ptr<const std::vector<std::string>> Find(const std::string& host) const;
  // Whether the first look-up of it is still to end.
  bool IsNew(const std::string& host) const;

  // At most `count` that are to be asked for now; they count as asked until Answer. `next`: when others are due.
  std::vector<std::string> TakeDue(TimePoint now, size_t count, TimePoint* next);
  // True: it has other addresses than before. A failure, or no address, keeps those that it had.
  bool Answer(const std::string& host, const absl::StatusOr<HostAnswer>& answer, TimePoint now);

 private:
  struct Host;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Owns the thread. Asks as the system's resolver would (/etc/hosts, /etc/resolv.conf), with the records' time to live.
// Of a host with IPv4 and IPv6 addresses the IPv4 ones are taken: `localhost` and many names have an IPv6 address that
// nothing listens on. Thread-safe.
class HostResolver {
 public:
  static constexpr size_t kLookupsMax = 64;  // at once

  struct Options {
    std::string servers = {};  // "127.0.0.1:5353"; empty: the system's
    // A host has other addresses than before. Called on the resolver's thread, which it should not keep, and not after
    // set_on_change has put another in its place.
    std::function<void()> on_change = {};
  };
  explicit HostResolver(Options options);
  ~HostResolver();
  HostResolver(const HostResolver&) = delete;
  HostResolver& operator=(const HostResolver&) = delete;

  void set_on_change(std::function<void()> on_change);

  // The last good addresses, or null. Of a host that was named for the first time: waits until `deadline` at
  // most for its first response.
  std::shared_ptr<const std::vector<std::string>> Find(const std::string& host, TimePoint deadline);
  // Begins to ask for all of these at once, and forgets all others. False: there were too many.
  bool Name(const absl::flat_hash_set<std::string>& hosts);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_UPSTREAM_HOST_RESOLVER_H_
