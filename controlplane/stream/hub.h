// What every data plane has been sent, has applied, and is to be sent next.
#ifndef GATEWAY_CONTROLPLANE_STREAM_HUB_H_
#define GATEWAY_CONTROLPLANE_STREAM_HUB_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "controlplane/change/guard.h"
#include "controlplane/change/selection.h"
#include "controlplane/publish/publisher.h"
#include "controlplane/rpc/notifier.h"
#include "controlplane/sources/endpoint_source.h"
#include "controlplane/stream/roster.h"
#include "gateway/v1/admin.pb.h"
#include "gateway/v1/config_stream.pb.h"
#include "grpcpp/support/byte_buffer.h"

namespace gateway::controlplane {

// A ControlPlaneMessage is at most this long, but for one that holds a single longer resource or set of endpoints,
// which are never split (a resource has at most kResourceBytesMax).
inline constexpr size_t kChunkBytesMax = 1u << 20;

// An update as it goes over the wire: serialised once, shared by all streams.
struct EncodedUpdate {
  uint64_t from = 0;
  uint64_t to = 0;
  std::vector<grpc::ByteBuffer> chunks;
};

// Whether a stream may carry the private keys of Certificates: over TLS, or within this host.
enum class PrivateKeys : uint8_t { kKept, kSent };

// The full update to `state`, for readers of `schema_version` and above; it has nothing that they do not know. With
// kKept, private keys are redacted.
std::shared_ptr<const EncodedUpdate> EncodePolicy(const PolicyState& state, PrivateKeys keys, uint32_t schema_version);
// What of `state` a reader of `schema_version` does not know; none: nothing.
std::optional<ResourceKey> FirstNewer(const PolicyState& state, uint32_t schema_version);
// The update from `previous` (null: full) to `catalog`.
std::shared_ptr<const EncodedUpdate> EncodeEndpoints(const std::string& endpoints_epoch, const EndpointCatalog& catalog,
                                                     const EndpointCatalog* previous);

// The stream of a data plane, as the hub sees it. Called without the hub's lock.
class StreamSink {
 public:
  virtual ~StreamSink() = default;
  // Hub::Next may have something.
  virtual void Wake() = 0;
  // Another stream of the same name has taken its place.
  virtual void Replaced() = 0;
};

struct HubOptions {
  // How long a data plane that is gone is remembered: one that was lost, and one that said goodbye (no longer than the
  // former).
  absl::Duration lost_kept = absl::Hours(1);
  absl::Duration goodbye_kept = absl::Minutes(10);
  size_t gone_max = 10'000;  // past it the longest gone are forgotten
  // A data plane that went without a goodbye is expected back for this long, and a rollout waits for it: longer than
  // the longest pause between two of its tries (5 s).
  absl::Duration lost_grace = absl::Seconds(10);
  // A second instance of a name counts as a rival for so long after its last try: longer than the longest pause between
  // two of these.
  absl::Duration rival_kept = absl::Seconds(15);
  Takeover takeover = Takeover::kAccepted;
  // Who was there when the process before this one ended: expected back like those that are lost now.
  std::vector<RosterEntry> expected;
  // Told, on a thread of the hub's own, who is there or lost, after every change.
  std::function<void(const std::vector<RosterEntry>&)> save_roster;
  // Told of each that is not remembered any more, with the hub's lock held: must not call back.
  std::function<void(const std::string& name)> forgotten;
  std::function<absl::Time()> now = absl::Now;
};

struct HubCounts {
  size_t connected = 0;
  size_t known = 0;
  uint64_t acks = 0;
  uint64_t nacks = 0;
  uint64_t bytes_sent = 0;
  uint64_t updates_encoded = 0;
  uint64_t updates_sent = 0;
  uint64_t endpoints_version = 0;
  uint64_t rivals_refused = 0;  // streams that claimed the name of another instance
  size_t held = 0;              // connected, and sent nothing: see Hub::WhyHeld
  size_t overrides = 0;         // endpoints that operators have set
};

// A mailbox for each connected data plane that holds only the newest, and the ledger of what each has applied. At most
// one un-ACKed update of policy and one of endpoints a stream: a data plane that is slow skips what was in between.
// Thread-safe.
class Hub {
 public:
  class Session;

  explicit Hub(HubOptions options = {});
  ~Hub();

  // A staged one goes to the data planes that its change chooses, its base to the others. While a guard watches, data
  // planes are asked for the figures of its routes.
  void PublishPolicy(std::shared_ptr<const PolicyState> state);
  // A catalog whose version is that of the one before says nothing new to data planes.
  void PublishEndpoints(std::shared_ptr<const EndpointCatalog> catalog);
  // What operators have set for endpoints, all of it. Goes to data planes that take operations.
  void PublishOverrides(std::vector<v1::EndpointOverride> overrides);
  // The keys of session tickets, whose `next` becomes the current one at `rotates_at`. Go to data planes that take
  // them, on streams that may carry private keys.
  void PublishTicketKeys(const v1::TicketKeysUpdate& keys, absl::Time rotates_at);
  // Pending ACME challenges, all of them. Returns the version for ChallengesPending.
  uint64_t PublishChallenges(std::vector<v1::Challenge> challenges);
  // Connected data planes that do not respond to the challenges of `version` (or later) yet, by name; at most `most`.
  // Includes those that are too old for it.
  std::vector<std::string> ChallengesPending(uint64_t version, size_t most) const;
  // The data planes that operators have drained, all of them. Goes to those that take it, also after a reconnect.
  void PublishDrains(std::map<std::string, v1::DataPlaneDrain> drains);

  struct Attachment {
    std::shared_ptr<Session> session;  // null: refused
    std::string refusal;
    bool news = false;     // this instance was not refused, or not held, the last time
    std::string held;      // not empty: why nothing is sent to it
    size_t keys_kept = 0;  // private keys of the policy of now that it is not sent
  };
  // A data plane has said hello. Its session lasts until Detach. It takes the place of an earlier one of the same
  // instance, or of the instance that it replaces; another instance of a name that is connected is refused.
  Attachment Attach(const v1::Hello& hello, const std::string& address, std::weak_ptr<StreamSink> sink,
                    PrivateKeys keys = PrivateKeys::kKept);
  // The stream has ended, after a goodbye or without. False where another stream has taken its place.
  bool Detach(const std::shared_ptr<Session>& session, bool said_goodbye);
  // Whether `session` is still the one of its data plane.
  bool Holds(const std::shared_ptr<Session>& session) const;

  // What to write next on this stream; none: wait for Wake. The caller writes everything it is given, in order.
  std::optional<grpc::ByteBuffer> Next(const std::shared_ptr<Session>& session);

  // InvalidArgument where it answers no update that is in flight.
  absl::Status OnAck(const std::shared_ptr<Session>& session, const v1::Ack& ack);
  absl::Status OnNack(const std::shared_ptr<Session>& session, const v1::Nack& nack);
  absl::Status OnChallenges(const std::shared_ptr<Session>& session, const v1::ChallengesAck& ack);
  // Keeps the newest of each data plane, until it is gone. Lists are cut at kReportEntriesMax.
  void OnReport(const std::shared_ptr<Session>& session, v1::Report report);
  static constexpr int kReportEntriesMax = 10'000;
  // The answer to a Diagnose, or a part of it.
  void OnDiagnostics(const std::shared_ptr<Session>& session, v1::Diagnostics diagnostics);

  // Commands for one data plane, on its stream. NotFound; FailedPrecondition where it is not connected or too old.
  absl::Status SetLogLevel(const std::string& name, v1::LoggingSection::Level level, absl::Duration duration);
  // Whether the data plane can be drained: NotFound; FailedPrecondition if it is connected and too old.
  absl::Status CheckDrain(const std::string& name) const;
  // Calls `done` once, on any thread: with what the data plane says of itself, or why there is nothing
  // (DeadlineExceeded after `kDiagnoseWait`, Unavailable where its stream has ended). Also ResourceExhausted: kAsksMax
  // wait already, or it is more than kDiagnosticsBytesMax.
  using DiagnoseDone = std::function<void(absl::StatusOr<v1::Diagnostics>)>;
  void Diagnose(const std::string& name, DiagnoseDone done);
  static constexpr absl::Duration kDiagnoseWait = absl::Seconds(10);
  static constexpr size_t kAsksMax = 4;  // of one data plane
  static constexpr size_t kDiagnosticsBytesMax = 64u << 20;

  // Why policy and endpoints are kept from data planes, in a sentence for operators; empty: from nobody. See Takeover.
  std::string WhyHeld() const;
  // An operator has decided: this history takes the place of any other. The store has it already. Returns how many data
  // planes are sent it from now on.
  size_t AcceptHistory();

  // Data planes that are gone, until they come back: one (NotFound, FailedPrecondition where it is connected), or all.
  absl::Status Forget(const std::string& name);
  std::vector<std::string> ForgetGone();

  // What the connected data planes have said last of the routes that they were asked for, sorted by whether they serve
  // `revision`.
  GuardFigures Figures(uint64_t revision) const;
  // By name; also those that are gone, for a while.
  std::vector<v1::DataPlaneState> DataPlanes() const;
  // The newest report of each that is connected, by name.
  std::vector<std::pair<std::string, std::shared_ptr<const v1::Report>>> Reports() const;
  // Services of Consul that get requests, by all reports together: a magnitude in powers of two.
  std::map<EndpointKey, uint32_t> BusyServices() const;
  // Connected data planes that are not known to do as the newest overrides say, by name; none where there never were
  // any.
  std::vector<std::string> OverridesPending() const;
  // Who serves `revision` (committed at `committed_at`), of those who are there or expected back, and, while it is
  // staged, are chosen; at most
  // kPendingListedMax are listed as pending. A name that two instances contend for is pending, whatever one of them
  // serves.
  static constexpr int kPendingListedMax = 100;
  v1::RolloutResponse Rollout(uint64_t revision, absl::Time committed_at) const;
  // Told after every change of the ledger.
  Notifier& ledger() { return ledger_; }

  std::shared_ptr<const EndpointCatalog> endpoints() const;
  const std::string& endpoints_epoch() const { return endpoints_epoch_; }
  HubCounts counts() const;

 private:
  struct Entry;
  struct Lane;
  // One state of policy, as it goes over the wire.
  struct Image {
    std::shared_ptr<const PolicyState> state;  // null: none
    std::shared_ptr<const EncodedUpdate> update;
    std::shared_ptr<const EncodedUpdate> keyless;  // the same where there are no keys
    // For data planes of an older version: made with the first one that there is. Null: it has `newer`, which they do
    // not know.
    std::shared_ptr<const EncodedUpdate> older;
    std::optional<ResourceKey> newer;
    bool older_made = false;
  };
  static Image MakeImage(std::shared_ptr<const PolicyState> state);
  bool Chosen(const Entry& entry) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // What this data plane is to serve.
  Image& ImageOf(const Entry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  const Image& ImageOf(const Entry& entry) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void KeepTime();
  std::vector<RosterEntry> Members() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Expected(const Entry& entry) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // When an entry that is gone is forgotten.
  absl::Time ForgottenAt(const Entry& entry) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Admit(Entry* entry, const v1::Hello& hello, const std::string& address, std::weak_ptr<StreamSink> sink,
             PrivateKeys keys, Attachment* attachment) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Refuse(Entry* entry, const v1::Hello& hello, const std::string& address, Attachment* attachment)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Why a data plane with this hello is sent nothing; empty: it is.
  std::string ReasonToHold(const v1::Hello& hello) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Tells an entry of an older version what it is not sent, and why.
  void JudgeOlder(Entry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void PruneGone() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The session that a command for `name` goes to.
  absl::StatusOr<std::shared_ptr<Session>> FindForCommand(const std::string& name) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::optional<grpc::ByteBuffer> NextOperations(Session* session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::optional<grpc::ByteBuffer> NextEdge(Session* session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::optional<grpc::ByteBuffer> NextDrain(Session* session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Takes those that have waited too long.
  std::vector<DiagnoseDone> TakeOverdueAsks(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void WakeAll();
  absl::Status Settle(Lane* lane, uint64_t to, absl::string_view what) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::optional<grpc::ByteBuffer> NextChunk(Lane* lane) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const HubOptions options_;
  const std::string endpoints_epoch_;  // random: versions of two processes are never compared
  Notifier ledger_;

  mutable std::mutex mu_;
  Image newest_ ABSL_GUARDED_BY(mu_);
  Image base_ ABSL_GUARDED_BY(mu_);                        // while the newest is staged
  std::optional<Selection> chosen_ ABSL_GUARDED_BY(mu_);   // whom it goes to; likewise
  std::vector<std::string> watched_ ABSL_GUARDED_BY(mu_);  // routes
  std::shared_ptr<const EndpointCatalog> catalog_ ABSL_GUARDED_BY(mu_);
  // Of `catalog_`; null: nobody has needed it yet, as those who keep up get the delta.
  std::shared_ptr<const EncodedUpdate> endpoints_full_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<const EncodedUpdate> endpoints_delta_ ABSL_GUARDED_BY(mu_);  // null: none
  std::vector<v1::EndpointOverride> overrides_ ABSL_GUARDED_BY(mu_);
  uint64_t overrides_version_ ABSL_GUARDED_BY(mu_) = 1;
  v1::TicketKeysUpdate ticket_keys_ ABSL_GUARDED_BY(mu_);
  absl::Time tickets_rotate_at_ ABSL_GUARDED_BY(mu_);
  uint64_t tickets_version_ ABSL_GUARDED_BY(mu_) = 0;  // 0: not published yet
  std::vector<v1::Challenge> challenges_ ABSL_GUARDED_BY(mu_);
  uint64_t challenges_version_ ABSL_GUARDED_BY(mu_) = 1;
  std::map<std::string, v1::DataPlaneDrain> drains_ ABSL_GUARDED_BY(mu_);
  uint64_t last_ask_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mu_);
  HubCounts counts_ ABSL_GUARDED_BY(mu_);
  Takeover takeover_ ABSL_GUARDED_BY(mu_);
  bool members_changed_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::string> forgotten_ ABSL_GUARDED_BY(mu_);  // and not told yet
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  std::condition_variable keeper_wakes_;
  std::thread keeper_;  // notices when time alone changes something, and has the roster saved
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_STREAM_HUB_H_
