// The database's file while no control plane has it: locked, copied, replaced.
#ifndef GATEWAY_CONTROLPLANE_STORE_CLOSED_DATABASE_H_
#define GATEWAY_CONTROLPLANE_STORE_CLOSED_DATABASE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "controlplane/store/store.h"

namespace gateway::controlplane {

class Database;

// Holds the lock that a control plane takes, so that none can start; changes nothing. Not thread-safe.
class ClosedDatabase {
 public:
  // NotFound: there is no file. Unavailable: a control plane has it. FailedPrecondition: it is not a gateway's.
  // DataLoss: it cannot be read.
  static absl::StatusOr<std::unique_ptr<ClosedDatabase>> Lock(const StoreOptions& options);
  ~ClosedDatabase();

  // All of it, with what is in its log, to the new file `to` (mode 0600).
  absl::Status CopyTo(const std::string& to);
  // Moves its log into the file, and empties it.
  absl::Status EmptyLog();

 private:
  explicit ClosedDatabase(std::unique_ptr<Database> database);
  std::unique_ptr<Database> database_;
};

// Where the key is that the database's private keys are sealed under.
std::string SealingKeyPathOf(const StoreOptions& options);

// The bytes of the backup `from`, and of a log beside it, to the new file `to` (mode 0600), synced. NotFound, DataLoss
// (too short for a database).
absl::Status CopyBackup(const std::string& from, const std::string& to);

// The schema version of the database `path`, which messages call `name`. FailedPrecondition: it is not a gateway's;
// DataLoss: it is not a database, damaged, or cut short.
absl::StatusOr<int64_t> SchemaOf(const std::string& path, const std::string& name);

// Renames `with`, which is whole and without a log, to `path`. What is there is linked to `kept` ("": nothing is there)
// first. `locked`: it; null: it is damaged, and its log is kept beside it.
absl::Status ReplaceDatabase(const std::string& path, const std::string& with, const std::string& kept,
                             ClosedDatabase* locked);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_STORE_CLOSED_DATABASE_H_
