// What gateway-controlplane does with its database instead of serving it: check-db, restore, reseal. None of them runs
// beside a control plane that has the database open.
#ifndef GATEWAY_CONTROLPLANE_MAINTENANCE_H_
#define GATEWAY_CONTROLPLANE_MAINTENANCE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "controlplane/store/store.h"
#include "gateway/v1/policy.pb.h"

namespace gateway::controlplane {

// What the policy in a database is compiled with.
struct PolicyContext {
  std::vector<v1::Resource> builtins;  // BuiltinResources of the bootstrap
  std::string own_service;
};

// What a check found of a sound database.
struct DatabaseSummary {
  int64_t schema = 0;  // as it was found; this version's may be newer
  std::string epoch;
  uint64_t oldest_revision = 0, revision = 0;
  size_t resources = 0;
  std::vector<std::string> warnings;  // of the policy
};

// Reads every row of the database of `options`, or of the backup `file` (""), in a copy that is removed afterwards; a
// database of an older version is migrated there. Opens its private keys with the sealing key and compiles its policy.
// Changes nothing. NotFound, Unavailable (in use by a control plane), FailedPrecondition (of a newer version; foreign;
// sealed under another key; policy that this version does not accept), DataLoss (damaged, cut short), ResourceExhausted
// (no room for the copy): each names the file.
absl::StatusOr<DatabaseSummary> CheckDatabase(const StoreOptions& options, const PolicyContext& policy,
                                              const std::string& file = "");

struct Restored {
  DatabaseSummary summary;
  std::string epoch;  // the new one
  std::string kept;   // where the database of before is; "": there was none
};

// Puts the backup `file` in the place of the database of `options`, after all that CheckDatabase checks. It begins a
// new history: data planes that serve another one keep that until an operator accepts this (`takeover` kUndecided), or
// take it at once (kAccepted). The database of before is kept beside it. A crash leaves one or the other, whole.
absl::StatusOr<Restored> RestoreDatabase(const StoreOptions& options, const PolicyContext& policy,
                                         const std::string& file, Takeover takeover, const std::string& actor);

// A new sealing key (Store::Reseal). Also needs the database for itself.
absl::StatusOr<Store::Resealed> ResealDatabase(const StoreOptions& options, const std::string& actor);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_MAINTENANCE_H_
