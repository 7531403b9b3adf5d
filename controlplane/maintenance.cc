#include "controlplane/maintenance.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/policy/snapshot.h"
#include "controlplane/store/closed_database.h"
#include "google/protobuf/util/time_util.h"

namespace gateway::controlplane {
namespace {

constexpr size_t kErrorsShown = 5;  // of a policy that does not compile

void RemoveCopy(const std::string& path) {
  for (const char* suffix : {"", "-journal", "-wal", "-shm"}) (void)unlink(absl::StrCat(path, suffix).c_str());
}

// As the control plane compiles it at its start: the built-ins are those of now.
absl::Status Compile(const ResourceSet& stored, const PolicyContext& policy, DatabaseSummary* summary) {
  std::vector<const v1::Resource*> resources;
  for (const auto& [key, record] : stored) {
    if (!record.built_in) resources.push_back(record.resource.get());
  }
  summary->resources = resources.size();
  for (const v1::Resource& builtin : policy.builtins) {
    const auto it = stored.find(KeyOf(builtin));
    if (it == stored.end() || it->second.built_in) resources.push_back(&builtin);
  }
  CompileResult compiled = CompileSnapshot(resources, {summary->epoch, summary->revision, policy.own_service});
  summary->warnings = std::move(compiled.warnings);
  if (compiled.snapshot != nullptr) return absl::OkStatus();
  std::string message = "its policy is not valid for this version";
  for (size_t i = 0; i < compiled.errors.size() && i < kErrorsShown; ++i) {
    const v1::PolicyError& error = compiled.errors[i];
    absl::StrAppend(&message, "\n  ", error.kind(), "/", error.name(), ": ", error.field(), ": ", error.message());
  }
  if (compiled.errors.size() > kErrorsShown) {
    absl::StrAppend(&message, "\n  and ", compiled.errors.size() - kErrorsShown, " more");
  }
  return absl::FailedPreconditionError(message);
}

// Opens the copy `copy` of `source` and checks all of it. Messages speak of the source.
absl::StatusOr<std::unique_ptr<Store>> OpenCopy(const StoreOptions& options, const PolicyContext& policy,
                                                const std::string& copy, const std::string& source,
                                                DatabaseSummary* summary) {
  const auto named = [&](const absl::Status& status) {
    std::string message(status.message());
    for (size_t at = 0; (at = message.find(copy, at)) != std::string::npos; at += source.size()) {
      message.replace(at, copy.size(), source);
    }
    if (message.find(source) == std::string::npos) message = absl::StrCat("the database '", source, "': ", message);
    return absl::Status(status.code(), message);
  };
  StoreOptions opened = options;
  opened.path = copy;
  opened.sealing_key = SealingKeyPathOf(options);
  opened.create = false;
  opened.keep_copy = false;
  absl::StatusOr<std::unique_ptr<Store>> store = Store::Open(opened);
  if (!store.ok()) return named(store.status());
  if (absl::Status s = (*store)->CheckAll(); !s.ok()) return named(s);
  summary->epoch = (*store)->epoch();
  summary->revision = (*store)->revision();
  summary->oldest_revision = (*store)->oldest_revision();
  if (absl::Status s = Compile((*store)->TakeLoaded(), policy, summary); !s.ok()) return named(s);
  return store;
}

v1::AuditEntry EntryOf(const std::string& actor, const std::string& action, const std::string& detail) {
  v1::AuditEntry entry;
  *entry.mutable_time() = google::protobuf::util::TimeUtil::GetCurrentTime();
  entry.set_actor(actor);
  entry.set_action(action);
  entry.set_outcome(v1::AuditEntry::DONE);
  entry.set_detail(detail);
  return entry;
}

}  // namespace

absl::StatusOr<DatabaseSummary> CheckDatabase(const StoreOptions& options, const PolicyContext& policy,
                                              const std::string& file) {
  const std::string copy = absl::StrCat(options.path, ".check");
  RemoveCopy(copy);
  absl::Cleanup remove = [&copy] { RemoveCopy(copy); };
  DatabaseSummary summary;
  if (file.empty()) {
    absl::StatusOr<std::unique_ptr<ClosedDatabase>> closed = ClosedDatabase::Lock(options);
    if (!closed.ok()) return closed.status();
    if (absl::Status s = (*closed)->CopyTo(copy); !s.ok()) return s;
  } else if (absl::Status s = CopyBackup(file, copy); !s.ok()) {
    return s;
  }
  absl::StatusOr<int64_t> schema = SchemaOf(copy, file.empty() ? options.path : file);
  if (!schema.ok()) return schema.status();
  summary.schema = *schema;
  absl::StatusOr<std::unique_ptr<Store>> store =
      OpenCopy(options, policy, copy, file.empty() ? options.path : file, &summary);
  if (!store.ok()) return store.status();
  return summary;
}

absl::StatusOr<Restored> RestoreDatabase(const StoreOptions& options, const PolicyContext& policy,
                                         const std::string& file, Takeover takeover, const std::string& actor) {
  // First of all, and until the end: nobody opens it meanwhile.
  absl::StatusOr<std::unique_ptr<ClosedDatabase>> before = ClosedDatabase::Lock(options);
  const bool damaged = absl::IsDataLoss(before.status());
  if (!before.ok() && !damaged && !absl::IsNotFound(before.status())) return before.status();

  const std::string next = absl::StrCat(SealingKeyPathOf(options), ".next");
  if (access(next.c_str(), F_OK) == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("the replacement of the sealing key was interrupted ('", next,
                     "' is there): start the control plane once, which finishes it, or move that file away"));
  }

  const std::string copy = absl::StrCat(options.path, ".restore");
  RemoveCopy(copy);
  absl::Cleanup remove = [&copy] { RemoveCopy(copy); };
  if (absl::Status s = CopyBackup(file, copy); !s.ok()) return s;
  Restored restored;
  absl::StatusOr<int64_t> schema = SchemaOf(copy, file);
  if (!schema.ok()) return schema.status();
  restored.summary.schema = *schema;
  {
    absl::StatusOr<std::unique_ptr<Store>> store = OpenCopy(options, policy, copy, file, &restored.summary);
    if (!store.ok()) return store.status();
    const std::string detail = absl::StrCat("restored revision ", restored.summary.revision, " of the history ",
                                            restored.summary.epoch, " from a backup");
    if (absl::Status s = (*store)->BeginHistory(takeover, EntryOf(actor, "Restore", detail)); !s.ok()) return s;
    restored.epoch = (*store)->epoch();
  }  // its log is in the file now
  if (!absl::IsNotFound(before.status())) {
    restored.kept = absl::StrCat(options.path, ".before-restore-",
                                 absl::FormatTime("%Y%m%dT%H%M%SZ", absl::Now(), absl::UTCTimeZone()));
  }
  if (absl::Status s = ReplaceDatabase(options.path, copy, restored.kept, before.ok() ? before->get() : nullptr);
      !s.ok()) {
    return s;
  }
  return restored;
}

absl::StatusOr<Store::Resealed> ResealDatabase(const StoreOptions& options, const std::string& actor) {
  // Never a new database.
  if (absl::StatusOr<std::unique_ptr<ClosedDatabase>> closed = ClosedDatabase::Lock(options); !closed.ok()) {
    return closed.status();
  }
  absl::StatusOr<std::unique_ptr<Store>> store = Store::Open(options);
  if (!store.ok()) return store.status();
  absl::StatusOr<Store::Resealed> done = (*store)->Reseal();
  if (!done.ok()) return done.status();
  const v1::AuditEntry entry =
      EntryOf(actor, "Reseal", absl::StrCat("sealed ", done->keys, " private keys under a new key"));
  if (absl::Status s = (*store)->AppendAudit({&entry, 1}); !s.ok()) return s;
  return done;
}

}  // namespace gateway::controlplane
