// Whether to believe that endpoints are gone. Pure: `now` is passed in.
//
// Consul responds 200 with too few entries in several situations in which nothing happened to the services: the token
// lost node:read or service:read, a server that just started has not replayed its log yet, a snapshot was restored.
// Losing good endpoints is worse than keeping dead ones for a while, since the data planes detect dead ones themselves.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_SUSPICION_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_SUSPICION_H_

#include <chrono>
#include <cstddef>
#include <deque>
#include <string>
#include <utility>

#include "controlplane/sources/consul/decoder.h"

namespace gateway::controlplane {

// The loss of more than this share of all endpoints at once is a mass disappearance, except for a handful, where one
// service is most of them.
inline constexpr int kMassLossPercent = 50;
inline constexpr size_t kMassLossMin = 10;
inline constexpr std::chrono::seconds kMassLossWindow{10};
// How long endpoints are kept that the leader reports as gone, but too many at once or after its index went back.
// Agents register their services again within one or two minutes (anti-entropy, up to 256 nodes).
inline constexpr std::chrono::seconds kLossHold{120};

// A read of one service, compared with its last good set.
struct Loss {
  size_t before = 0;     // instances in the last good set
  size_t remaining = 0;  // instances in this read
  size_t lost = 0;       // instances of the last good set that are missing
  bool mass = false;     // see LossLedger
  bool leader_known = true;
  bool index_went_back = false;  // below that of the last good set
  // For a confirming read from the leader.
  bool confirmed = false;
  bool listed = false;           // the catalog, just read from the leader, still lists the service
  bool listing_suspect = false;  // the catalog itself looks like a lost token
};

struct Verdict {
  enum class Kind {
    kBelieve,
    kConfirm,  // read again, from the leader
    kHold,     // keep the last good set, and raise `alarm`
  };
  Kind kind = Kind::kBelieve;
  std::string alarm;
};

// `suspected_for`: since the first suspect read.
Verdict JudgeLoss(const Loss& loss, std::chrono::steady_clock::duration suspected_for);

// Whether a catalog looks like the result of a token without permission to read it: no services at all (Consul always
// lists itself if it is visible), or no `consul` although there was one. The message; "" if it looks good.
std::string SuspectListing(const CatalogListing& before, const CatalogListing& now);

// Recently lost endpoints, over all services.
class LossLedger {
 public:
  using Clock = std::chrono::steady_clock;

  void Believe(size_t lost, Clock::time_point now);
  // Whether losing `lost` more now would be a mass disappearance. `known`: endpoints of all last good sets.
  // `suspected`: those not yet believed to be gone.
  bool IsMass(size_t lost, size_t suspected, size_t known, Clock::time_point now);

 private:
  static constexpr size_t kEntriesMax = 4096;  // merged above it
  std::deque<std::pair<Clock::time_point, size_t>> entries_;
  size_t sum_ = 0;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_SUSPICION_H_
