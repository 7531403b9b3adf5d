// The inside of the store, for its own files: store.cc (opening, creating, migrating), history.cc (resources and
// revisions), access.cc (tokens, audit), overrides.cc, pending_changes.cc, canaries.cc, sealed_keys.cc.
#ifndef GATEWAY_CONTROLPLANE_STORE_STORE_IMPL_H_
#define GATEWAY_CONTROLPLANE_STORE_STORE_IMPL_H_

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/sealing.h"
#include "controlplane/store/sqlite.h"
#include "controlplane/store/store.h"

namespace gateway::controlplane {

// A page of history is cut here, to stay below gRPC's 4 MiB.
inline constexpr size_t kHistoryPageBytesMax = 2u << 20;

inline int64_t MicrosOf(const google::protobuf::Timestamp& time) {
  return time.seconds() * 1'000'000 + time.nanos() / 1000;
}

// Over everything in a row of `resources` (op 0) and of `history`.
uint32_t RowChecksum(const ResourceKey& key, absl::string_view body, uint64_t revision, int64_t changed_at, int op,
                     bool built_in, absl::string_view set);

struct Store::Impl {
  explicit Impl(StoreOptions given) : options(std::move(given)), database(options.path) {}

  const StoreOptions options;
  mutable std::mutex mu;
  Database database;  // used only with `mu` held
  std::string epoch;
  bool created = false;
  bool orphaned = false;  // created beside the log of a database that is gone
  std::atomic<Takeover> takeover{Takeover::kUndecided};
  std::atomic<uint64_t> revision{0};
  std::atomic<int64_t> revision_micros{0};
  uint64_t oldest = 0;        // revision that is kept; 0: none
  uint64_t history_rows = 0;  // in `history`
  ResourceSet loaded;
  std::optional<Sealer> sealer;  // empty until the key has been read

  absl::Status Open();
  absl::Status Create();
  absl::Status Migrate(int from, int to);
  std::string BackupPath(int schema) const { return absl::StrCat(options.path, ".schema", schema, ".backup"); }
  // What an older version, which knows schemas up to `newest`, can go back to.
  std::string BackupHint(int newest) const;
  absl::Status Load();

  std::string SealingKeyPath() const {
    return options.sealing_key.empty() ? absl::StrCat(options.path, ".sealing-key") : options.sealing_key;
  }
  // Of a Reseal that was interrupted: what is missing of it, or what is too much.
  absl::Status FinishReseal();
  absl::Status PromoteSealingKey(std::string* replaced);
  absl::Status ReadSealingKey();
  absl::Status MakeSealingKey();
  // CanonicalBytes of `resource` with its private key sealed.
  absl::StatusOr<std::string> Sealed(const ResourceKey& key, const v1::Resource& resource) const;
  absl::Status Unseal(const ResourceKey& key, v1::Resource* resource) const;

  absl::Status Damaged(const ResourceKey& key, absl::string_view what) {
    return database.Damaged(absl::StrCat(key.ToString(), " ", what));
  }
  // Reads one row: kind, name, body, checksum, revision, changed_at, built_in, owner, op.
  absl::Status ReadRow(Statement& row, ResourceSet* into, int op);
  // `bodies`: of each edit, as it is stored.
  int Write(const v1::RevisionInfo& info, const std::string& peer, std::span<const Edit> edits,
            std::span<const std::string> bodies, int64_t micros, uint64_t* rows, uint64_t* new_oldest);
  int WriteRequest(const StoredRequest& request);
  int WriteChange(const v1::PendingChange& change);
  absl::StatusOr<std::optional<v1::PendingChange>> ReadPendingChange(uint64_t revision);
  int WriteCanaries(const CanaryEdits& edits);
  int WriteAudit(std::span<const v1::AuditEntry> entries);
  int Prune(uint64_t newest, uint64_t* rows, uint64_t* new_oldest);
  absl::Status ReadChanges(v1::RevisionInfo* info);
  // Sealed again under `next`; kept in `status` if it is not SQLite's error.
  int ResealRows(const Sealer& next, size_t* count, absl::Status* status);
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_STORE_STORE_IMPL_H_
