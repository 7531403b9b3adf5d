// Whether to believe that endpoints are gone. Pure: `now` is passed in.
//
// Consul responds 200 with too little in several situations in which nothing has happened to the services: the token
// lost node:read or service:read, a server that has just started has not replayed its log yet, a snapshot was restored.
// Losing good endpoints is worse than keeping dead ones for a while: the data planes notice a dead one by themselves.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_SUSPICION_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_SUSPICION_H_

#include <chrono>
#include <cstddef>
#include <deque>
#include <string>
#include <utility>

#include "controlplane/sources/consul/decoder.h"

namespace gateway::controlplane {

// More endpoints than this share of all, at once, is a mass disappearance, of one service a shrink. But for
// a handful, where one service is most, or a deployment all.
inline constexpr int kMassLossPercent = 50;
inline constexpr size_t kMassLossMin = 10;
inline constexpr std::chrono::seconds kMassLossWindow{10};
// How long endpoints are held that the leader itself says are gone, but too many at once or after its index went back.
// Agents register what they run again within one or two minutes (anti-entropy, up to 256 nodes).
inline constexpr std::chrono::seconds kLossHold{120};

// What was read of one service, against its last good set.
struct Loss {
  size_t before = 0;     // instances of the last good set
  size_t remaining = 0;  // instances read now
  size_t lost = 0;       // instances of the last good set that are not among them
  bool mass = false;     // see LossLedger
  bool leader_known = true;
  bool index_went_back = false;  // below the one that the last good set came with
  // Of a confirming read, made by the leader.
  bool confirmed = false;
  bool listed = false;           // the catalog, read by the leader just before, still lists the service
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

// `suspected_for`: since the first read that was not believed.
Verdict JudgeLoss(const Loss& loss, std::chrono::steady_clock::duration suspected_for);

// Whether a catalog looks like the response to a token that may no longer read it: no services at all (a Consul always
// lists itself to who may see it), or `consul` is missing now. The message; "" for a good one.
std::string SuspectListing(const CatalogListing& before, const CatalogListing& now);

// The endpoints that were lost lately, over all services.
class LossLedger {
 public:
  using Clock = std::chrono::steady_clock;

  void Believe(size_t lost, Clock::time_point now);
  // Whether losing `lost` more now would be a mass disappearance. `known`: endpoints of all last good sets.
  // `suspected`: those that are not believed to be gone yet.
  bool IsMass(size_t lost, size_t suspected, size_t known, Clock::time_point now);

 private:
  static constexpr size_t kEntriesMax = 4096;  // merged past it
  std::deque<std::pair<Clock::time_point, size_t>> entries_;
  size_t sum_ = 0;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_SUSPICION_H_
