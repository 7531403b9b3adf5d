// Policy on disk: the resources, their history and the revisions, in one SQLite file. The only folder that includes
// sqlite3.h (sqlite.h).
#ifndef GATEWAY_CONTROLPLANE_STORE_STORE_H_
#define GATEWAY_CONTROLPLANE_STORE_STORE_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/digest.h"
#include "common/policy/resource.h"
#include "gateway/v1/admin.pb.h"

namespace gateway::controlplane {

// A resource as it is (or was) in effect.
struct ResourceRecord {
  std::shared_ptr<const v1::Resource> resource;
  uint64_t revision = 0;  // that last changed it
  absl::Time changed_at;
  bool built_in = false;
  std::string set;  // that owns it; "": no set
};
// By kind, then name.
using ResourceSet = std::map<ResourceKey, ResourceRecord>;

// One resource's part in a revision.
struct Edit {
  ResourceKey key;
  v1::Change::Op op = v1::Change::OP_UNSPECIFIED;
  // What is in effect from now on; null: nothing. (A deletion that restores a built-in has op DELETED and the
  // built-in.)
  std::shared_ptr<const v1::Resource> resource;
  bool built_in = false;
  std::string set;  // that owns it from now on; "": no set
};

// A request that has been done, so that the same one again is not.
struct StoredRequest {
  std::string id;
  std::string digest;  // of the request and of who asked
  uint64_t revision = 0;
  std::string response;  // serialized; see Publisher
};
inline constexpr uint64_t kRequestsMax = 1'000;  // that are kept; the oldest goes

// Which revisions are wanted; each part that is set narrows it.
struct HistoryFilter {
  std::string kind, name;  // of a kind, or of one resource; "": of all
  std::string actor;
  std::string comment;  // contained in it, in any case of ASCII letters
  absl::Time since = absl::InfinitePast();
  absl::Time until = absl::InfiniteFuture();
  std::optional<std::set<ResourceKey>> any_of;  // revisions that changed one of these
};

// What one revision made of one resource.
struct ResourceVersion {
  v1::RevisionInfo info;  // without changes; with revision and time alone if the revision itself is no longer kept
  v1::Change::Op op = v1::Change::OP_UNSPECIFIED;
  std::shared_ptr<const v1::Resource> resource;  // null: deleted
};

// A token with which a data plane gets its first certificate.
struct StoredJoinToken {
  Digest digest{};   // SHA-256 of the secret
  std::string name;  // of the data plane
  absl::Time expires;
};
// That have not expired, spent or not.
inline constexpr size_t kJoinTokensMax = 10'000;

// A token of the admin API, with the SHA-256 of its secret.
struct StoredToken {
  v1::Token token;
  Digest digest{};
};

// The state of a Route's canary, as of the revision that made it so.
struct StoredCanary {
  uint64_t revision = 0;
  uint64_t written = 0;  // the revision that last changed the Route itself
  std::string shape;     // what of the Route the state belongs to
  v1::CanaryState state;
};
using CanarySet = std::map<std::string, StoredCanary>;  // by the Route's name

// What a revision makes of the canaries in the database.
struct CanaryEdits {
  CanarySet put;
  std::vector<std::string> removed;  // Routes that have none any more
  enum class Older {
    kDropped,      // of the same Routes: what the newest takes the place of
    kKept,         // the change is not final: what was may come back
    kAllReplaced,  // `put` is all that there is
  } older = Older::kDropped;

  bool empty() const { return put.empty() && removed.empty(); }
};

// Whether this history may take the place of another one that data planes serve: an empty database in the place of a
// lost one must not.
enum class Takeover {
  kUndecided,  // not decided yet: data planes that serve another history keep it
  kHeld,       // it was made although data planes were known: nothing is sent to anybody
  kAccepted,   // an operator said so, or the file is of a version that did not ask
};

struct StoreOptions {
  std::string path;
  // The key that private keys are sealed under; "": PATH.sealing-key. Made (0600) if it is missing, unless something
  // was sealed under it.
  std::string sealing_key;
  // False: what is missing, database or key, is not made, and an interrupted Reseal is left as it is.
  bool create = true;
  bool keep_copy = true;  // of a database that is migrated: PATH.schemaN.backup
  // How much of history is kept; past it the oldest revisions go, never the newest.
  uint64_t history_revisions_max = 10'000;
  uint64_t history_rows_max = 1'000'000;
  // Of the audit; past it the oldest entries go.
  uint64_t audit_rows_max = 100'000;
  // How long to wait for another process that has the file (a control plane that is just ending).
  std::chrono::milliseconds lock_wait{2'000};

  // For tests: a VFS by name ("": SQLite's own), a file that is full at so many pages (0: never), and the SQL of schema
  // versions beyond this build's.
  std::string vfs;
  int page_count_max = 0;
  std::vector<std::string> further_migrations;
};

// Owns the one connection, which has the file to itself for as long as this lives: WAL, synchronous=FULL, so that a
// commit is on disk before Commit returns. Thread-safe (one mutex around the connection). Never serves the current set:
// that is read once, at Open, and lives in memory (publisher.h).
class Store {
 public:
  // Opens the file and reads all of the current set; creates it if it is missing. Every error names the file, and
  // leaves it as it was: FailedPrecondition (in use by another control plane; written by a newer version; not a
  // gateway's database), PermissionDenied (read-only, cannot be opened), DataLoss (damaged, empty or cut short),
  // ResourceExhausted (disk full). FailedPrecondition too: private keys of certificates can't be opened, since their
  // sealing key is missing or another one.
  static absl::StatusOr<std::unique_ptr<Store>> Open(StoreOptions options);
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  // Names the history that this file's revisions belong to; made with the file.
  const std::string& epoch() const;
  // There was no file before Open.
  bool created() const;
  Takeover takeover() const;
  absl::Status SetTakeover(Takeover takeover);
  // The newest revision; 0: none yet.
  uint64_t revision() const;
  absl::Time revision_time() const;
  // The set as read by Open; empty afterwards.
  ResourceSet TakeLoaded();

  // Writes revision `info.revision` with its entry in the audit (null: none) (which must be revision() + 1) in one
  // transaction: resources, history, revision, `changes`, `canaries` (null: as they are). Durable when it returns OK.
  // On any error nothing of it is in effect: ResourceExhausted where the disk is full (a later Commit may succeed),
  // Unavailable after a failed sync (every later Commit is refused until a restart, because the kernel may have dropped
  // what it could not write). With `request`, that it was done is in the same transaction.
  absl::Status Commit(const v1::RevisionInfo& info, const std::string& peer, std::span<const Edit> edits,
                      const v1::AuditEntry* entry = nullptr, const StoredRequest* request = nullptr,
                      std::span<const v1::PendingChange> changes = {}, const CanaryEdits* canaries = nullptr);
  // As of `revision`, of every Route that has or had one. DataLoss where a row is damaged.
  absl::StatusOr<CanarySet> LoadCanaries(uint64_t revision);
  // The request of that id. Nothing: it was never done, or is too old to be kept.
  absl::StatusOr<std::optional<StoredRequest>> FindRequest(const std::string& id);
  // Keeps a request that made no revision. Durable when it returns OK, like a Commit.
  absl::Status PutRequest(const StoredRequest& request);

  // Changes that were not final at once: the newest kPendingChangesKept, by their revision. Commit writes `changes` in
  // its transaction; this one is for what becomes of one without a revision. Durable like a Commit.
  static constexpr int64_t kPendingChangesKept = 1'000;
  absl::Status PutPendingChange(const v1::PendingChange& change, const v1::AuditEntry& entry);
  // That of `revision`; 0: the newest. NotFound; DataLoss where the row is damaged.
  absl::StatusOr<v1::PendingChange> PendingChangeOf(uint64_t revision);

  // Revisions below `before` (0: all) that `filter` wants, newest first, at most `limit` and about 2 MiB.
  absl::StatusOr<std::vector<v1::RevisionInfo>> RevisionsBefore(uint64_t before, const HistoryFilter& filter,
                                                                size_t limit);
  // What revisions below `before` (0: all) made of `key`, newest first, at most `limit` and about 2 MiB.
  absl::StatusOr<std::vector<ResourceVersion>> VersionsBefore(const ResourceKey& key, uint64_t before, size_t limit);
  uint64_t oldest_revision() const;  // that is kept; 0: there is no revision yet
  // What `revision` changed.
  absl::StatusOr<std::vector<v1::Change>> ChangesOf(uint64_t revision);
  // Revisions above `after`, oldest first, at most `limit`. OutOfRange where history begins later than that.
  absl::StatusOr<std::vector<v1::RevisionInfo>> RevisionsAfter(uint64_t after, size_t limit);
  // The set as it was at `revision`. NotFound if it never existed, OutOfRange if it is no longer kept, DataLoss.
  struct Past {
    v1::RevisionInfo info;
    ResourceSet resources;
  };
  absl::StatusOr<Past> SetAt(uint64_t revision);
  // When `revision` was committed.
  absl::StatusOr<absl::Time> TimeOf(uint64_t revision);

  // All tokens. DataLoss where a row is damaged: a flipped bit must not make an admin.
  absl::StatusOr<std::vector<StoredToken>> LoadTokens();
  // Adds or replaces the token of its name. Durable when it returns OK, like a Commit.
  absl::Status PutToken(const StoredToken& token);

  // Forgets those that have expired. ResourceExhausted: there are kJoinTokensMax.
  absl::Status PutJoinToken(const StoredJoinToken& token, absl::Time now);
  // The data plane's name. Unauthenticated: it is not known, or has expired.
  absl::StatusOr<std::string> FindJoinToken(const Digest& digest, absl::Time now);
  // DataLoss where a row is damaged.
  absl::Status CheckJoinTokens();
  // From now on it is good for `key`, a public key, alone. Unauthenticated: it is another's, or has expired.
  absl::Status SpendJoinToken(const Digest& digest, const Digest& key, absl::Time now);

  // What operators have set for endpoints, by service and endpoint. DataLoss where a row is damaged.
  absl::StatusOr<std::vector<v1::EndpointOverride>> LoadOverrides();
  // Adds or replaces the one of its service and endpoint. Durable when it returns OK, like a Commit.
  absl::Status PutOverride(const v1::EndpointOverride& override);
  absl::Status DeleteOverride(const std::string& service, const std::string& endpoint);  // OK if it is missing

  // Secrets of the control plane's own, by name ("ticket-keys"), sealed as private keys are. NotFound;
  // FailedPrecondition if it was sealed under another key.
  absl::StatusOr<std::string> Secret(const std::string& name);
  // Adds or replaces it. Durable when it returns OK, like a Commit.
  absl::Status PutSecret(const std::string& name, const std::string& plain);
  absl::Status DeleteSecret(const std::string& name);  // OK if it is not there

  // The same for data planes that operators have drained, by name.
  absl::StatusOr<std::map<std::string, v1::DataPlaneDrain>> LoadDrains();
  absl::Status PutDrain(const std::string& name, const v1::DataPlaneDrain& drain);
  absl::Status DeleteDrain(const std::string& name);

  // Appends to the audit in one transaction, durable like a Commit; sets no numbers in `entries`.
  absl::Status AppendAudit(std::span<const v1::AuditEntry> entries);
  // Entries below `before` (0: all), newest first, at most `limit` and about 2 MiB; of `actor` ("": of all), not older
  // than `since`.
  absl::StatusOr<std::vector<v1::AuditEntry>> AuditBefore(uint64_t before, const std::string& actor, absl::Time since,
                                                          size_t limit);

  // Copies the whole database to the new file `to` (mode 0600), in steps between which other calls get their turn: the
  // copy is of one moment. Says which revision it has. ResourceExhausted where the disk is full; `to` is then removed.
  absl::StatusOr<uint64_t> BackUp(const std::string& to);
  // Reads every row that Open did not. DataLoss names the first damaged one.
  absl::Status CheckAll();
  // Begins another history with the resources of this one: a new epoch, no requests; `entry` is in the audit.
  absl::Status BeginHistory(Takeover takeover, const v1::AuditEntry& entry);

  // Replaces the sealing key and seals all private keys, also those in history, and all secrets under the new one. A
  // secret that the old key does not open stays as it is, with a warning in the log. The order survives a crash at any
  // point: the new key is synced to KEY.next; one transaction has all rows and the new key's fingerprint; then the old
  // key is renamed to `replaced_key` and the new one to KEY. An Open between these finishes the renaming, or removes a
  // KEY.next that nothing was sealed under.
  struct Resealed {
    size_t keys = 0;  // private keys that were sealed again
    std::string replaced_key;
  };
  absl::StatusOr<Resealed> Reseal();

  // Errors that SQLite gave since Open.
  uint64_t errors() const;

 private:
  struct Impl;
  explicit Store(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_STORE_STORE_H_
