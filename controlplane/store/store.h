// Policy on disk: the resources, their history and the revisions, in one SQLite file. The only folder that includes
// sqlite3.h (sqlite.h).
#ifndef GATEWAY_CONTROLPLANE_STORE_STORE_H_
#define GATEWAY_CONTROLPLANE_STORE_STORE_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
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
};

// A token of the admin API, with the SHA-256 of its secret.
struct StoredToken {
  v1::Token token;
  Digest digest{};
};

// Whether this history may take the place of another one that data planes serve: an empty database in the place of a
// lost one must not.
enum class Takeover {
  kUndecided,  // nobody has been asked: data planes that serve another history keep it
  kHeld,       // it was made although data planes were known: nothing is sent to anybody
  kAccepted,   // an operator said so, or the file is of a version that did not ask
};

struct StoreOptions {
  std::string path;
  // The key that private keys are sealed under; "": PATH.sealing-key. Made (0600) where there is none, unless something
  // was sealed under one that is missing.
  std::string sealing_key;
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
  // Opens the file and reads all of the current set; creates it where there is none. Every error names the file, and
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
  // transaction: resources, history, revision. Durable when it returns OK. On any error nothing of it is in effect:
  // ResourceExhausted where the disk is full (a later Commit may succeed), Unavailable after a failed sync (every later
  // Commit is refused until a restart, because the kernel may have dropped what it could not write).
  absl::Status Commit(const v1::RevisionInfo& info, const std::string& peer, std::span<const Edit> edits,
                      const v1::AuditEntry* entry = nullptr);

  // Revisions below `before` (0: all), newest first, at most `limit` and about 2 MiB; with `key`, those that changed
  // it.
  absl::StatusOr<std::vector<v1::RevisionInfo>> RevisionsBefore(uint64_t before, const ResourceKey* key, size_t limit);
  // Revisions above `after`, oldest first, at most `limit`. OutOfRange where history begins later than that.
  absl::StatusOr<std::vector<v1::RevisionInfo>> RevisionsAfter(uint64_t after, size_t limit);
  // The set as it was at `revision`. NotFound where it never was, OutOfRange where it is no longer kept, DataLoss.
  struct Past {
    v1::RevisionInfo info;
    ResourceSet resources;
  };
  absl::StatusOr<Past> SetAt(uint64_t revision);
  // When `revision` was committed.
  absl::StatusOr<absl::Time> TimeOf(uint64_t revision);

  // All tokens. DataLoss where a row is damaged: a flipped bit makes nobody an admin.
  absl::StatusOr<std::vector<StoredToken>> LoadTokens();
  // Adds or replaces the token of its name. Durable when it returns OK, like a Commit.
  absl::Status PutToken(const StoredToken& token);

  // What operators have set for endpoints, by service and endpoint. DataLoss where a row is damaged.
  absl::StatusOr<std::vector<v1::EndpointOverride>> LoadOverrides();
  // Adds or replaces the one of its service and endpoint. Durable when it returns OK, like a Commit.
  absl::Status PutOverride(const v1::EndpointOverride& override);
  absl::Status DeleteOverride(const std::string& service, const std::string& endpoint);  // OK where there is none

  // Appends to the audit in one transaction, durable like a Commit; sets no numbers in `entries`.
  absl::Status AppendAudit(std::span<const v1::AuditEntry> entries);
  // Entries below `before` (0: all), newest first, at most `limit` and about 2 MiB; of `actor` ("": of all), not older
  // than `since`.
  absl::StatusOr<std::vector<v1::AuditEntry>> AuditBefore(uint64_t before, const std::string& actor, absl::Time since,
                                                          size_t limit);

  // Errors that SQLite gave since Open.
  uint64_t errors() const;

 private:
  struct Impl;
  explicit Store(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_STORE_STORE_H_
