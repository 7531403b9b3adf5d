#include "controlplane/store/store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "controlplane/store/schema.h"
#include "controlplane/store/store_impl.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

// What a checkpoint leaves of the WAL.
constexpr int kWalBytesKept = 16 << 20;

std::string NewEpoch() {
  std::random_device random;
  return absl::StrFormat("%08x%08x", random(), random());
}

constexpr char kTakeoverHeld[] = "held";
constexpr char kTakeoverUndecided[] = "undecided";
constexpr char kTakeoverAccepted[] = "accepted";

Takeover TakeoverOf(absl::string_view word) {
  if (word == kTakeoverHeld) return Takeover::kHeld;
  if (word == kTakeoverUndecided) return Takeover::kUndecided;
  return Takeover::kAccepted;  // also a file of a version that did not ask
}

const char* TakeoverWord(Takeover takeover) {
  switch (takeover) {
    case Takeover::kHeld:
      return kTakeoverHeld;
    case Takeover::kAccepted:
      return kTakeoverAccepted;
    case Takeover::kUndecided:
      break;
  }
  return kTakeoverUndecided;
}

}  // namespace

// Whole or not at all: a process that is killed on its first start leaves no empty file, which would look like a
// database that was lost.
absl::Status Store::Impl::Create() {
  const std::string beside = absl::StrCat(options.path, ".new");
  const size_t slash = options.path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : options.path.substr(0, slash + 1);
  if (folder != ".") (void)mkdir(folder.c_str(), 0700);  // opening the file reports it
  for (const char* suffix : {"", "-journal", "-wal", "-shm"}) unlink(absl::StrCat(beside, suffix).c_str());
  // A log without its database is of one that is gone, and would be read into the new one.
  for (const char* suffix : {"-journal", "-wal"}) {
    const std::string log = absl::StrCat(options.path, suffix);
    struct stat there {};
    if (stat(log.c_str(), &there) != 0 || there.st_size == 0) continue;
    const std::string aside = absl::StrCat(log, ".lost");
    if (rename(log.c_str(), aside.c_str()) != 0) {
      return absl::DataLossError(absl::StrCat("the database '", options.path, "' is lost, its log '", log,
                                              "' is there and cannot be renamed: ", strerror(errno)));
    }
    spdlog::error("the database '{}' is lost, its log is there: it is now '{}'", options.path, aside);
    orphaned = true;
  }
  unlink(absl::StrCat(options.path, "-shm").c_str());
  CreatePrivate(beside);
  if (int rc = database.OpenFile(beside, SQLITE_OPEN_CREATE, options.vfs); rc != SQLITE_OK)
    return database.Error(rc, "open");
  absl::Status status = Migrate(0, static_cast<int>(Migrations().size() + options.further_migrations.size()));
  database.Close();
  // A link does not replace what another control plane has put there meanwhile. Not every file system has links.
  if (status.ok() && link(beside.c_str(), options.path.c_str()) != 0 && errno != EEXIST &&
      rename(beside.c_str(), options.path.c_str()) != 0) {
    status = absl::UnavailableError(absl::StrCat("cannot create the database '", options.path, "': ", strerror(errno)));
  }
  unlink(beside.c_str());
  if (!status.ok()) return status;
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) {
    (void)fsync(fd);  // file systems that cannot do that need not; commits are synced by SQLite
    close(fd);
  }
  return absl::OkStatus();
}

absl::Status Store::Impl::Open() {
  struct stat there {};
  if (stat(options.path.c_str(), &there) != 0) {
    if (errno == ENOENT && !options.create) {
      return absl::NotFoundError(absl::StrCat("there is no database '", options.path, "'"));
    }
    if (errno == ENOENT) {
      if (absl::Status s = Create(); !s.ok()) return s;
      created = true;
    }
  } else if (S_ISREG(there.st_mode) && there.st_size < kDatabaseBytesMin) {
    database.CountError();
    return absl::DataLossError(absl::StrCat("the database '", options.path, "' is lost: the file is there, but has ",
                                            there.st_size,
                                            " bytes; restore a backup of it, or remove it to begin "
                                            "with an empty policy"));
  }
  if (int rc = database.OpenFile(options.path, 0, options.vfs); rc != SQLITE_OK) return database.Error(rc, "open");
  sqlite3_busy_timeout(database.get(), static_cast<int>(options.lock_wait.count()));
  // Until every check has passed, closing must not move the WAL into a file that may be damaged or newer.
  sqlite3_db_config(database.get(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
  if (sqlite3_db_readonly(database.get(), "main") == 1) {
    database.CountError();
    return absl::PermissionDeniedError(absl::StrCat("cannot open the database '", options.path, "': it is read-only"));
  }
  // The file is ours alone: a second writer would change it behind the set in memory, and a reader that never ends
  // would keep the WAL from being reused.
  int rc = database.Exec("PRAGMA locking_mode=EXCLUSIVE");
  if (rc != SQLITE_OK) return database.Error(rc, "open");

  absl::StatusOr<int64_t> version = database.Number("PRAGMA user_version");
  if (!version.ok()) return version.status();
  absl::StatusOr<int64_t> application = database.Number("PRAGMA application_id");
  if (!application.ok()) return application.status();
  if (*application != kApplicationId) {
    database.CountError();
    return absl::FailedPreconditionError(
        absl::StrCat("cannot open the database '", options.path, "': it is not a gateway's database"));
  }
  const int newest = static_cast<int>(Migrations().size() + options.further_migrations.size());
  schema = newest;
  if (*version > newest) {
    database.CountError();
    return absl::FailedPreconditionError(
        absl::StrCat("cannot open the database '", options.path, "': it was written by a newer version (its schema is ",
                     *version, ", this version knows ", newest, "); it was left as it is", BackupHint(newest)));
  }
  absl::StatusOr<std::string> check = database.One("PRAGMA quick_check(1)");
  if (!check.ok()) return check.status();
  if (*check != "ok") {
    database.CountError();
    return absl::DataLossError(absl::StrCat("the database '", options.path, "' is damaged (", *check,
                                            "); it was left as it is, restore a backup of the file"));
  }

  MakePrivate(options.path);
  absl::StatusOr<std::string> mode = database.One("PRAGMA journal_mode=WAL");
  if (!mode.ok()) return mode.status();
  if (*mode != "wal") {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot open the database '", options.path, "': no write-ahead log there (", *mode, ")"));
  }
  rc = database.Exec(absl::StrCat("PRAGMA synchronous=FULL; PRAGMA journal_size_limit=", kWalBytesKept));
  if (rc != SQLITE_OK) return database.Error(rc, "open");
  if (options.page_count_max > 0) {
    rc = database.Exec(absl::StrCat("PRAGMA max_page_count=", options.page_count_max));
    if (rc != SQLITE_OK) return database.Error(rc, "open");
  }
  if (*version < newest) {
    if (absl::Status s = Migrate(static_cast<int>(*version), newest); !s.ok()) return s;
  }
  if (absl::Status s = FinishReseal(); !s.ok()) return s;
  if (absl::Status s = ReadSealingKey(); !s.ok()) return s;
  if (absl::Status s = Load(); !s.ok()) return s;
  if (absl::Status s = MakeSealingKey(); !s.ok()) return s;
  sqlite3_db_config(database.get(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, nullptr);
  return absl::OkStatus();
}

std::string Store::Impl::BackupHint(int newest) const {
  for (int schema = newest; schema > 0; --schema) {
    if (access(BackupPath(schema).c_str(), F_OK) != 0) continue;
    return absl::StrCat("; to go back, put its copy of before the upgrade, '", BackupPath(schema),
                        "', in its place (and remove its -wal and -shm); revisions made since are not in it");
  }
  return "; to go back, restore a backup of before the upgrade";
}

absl::Status Store::Impl::Migrate(int from, int to) {
  if (from > 0 && options.keep_copy) {
    const std::string copy = BackupPath(from);
    if (absl::Status s = database.CopyTo(copy); !s.ok()) {
      return absl::Status(s.code(), absl::StrCat(s.message(), "; it was not migrated, and left as it is"));
    }
    spdlog::info("database '{}': schema {} -> {}; a copy of the old one is '{}'", options.path, from, to, copy);
  }
  int rc = database.Exec("BEGIN IMMEDIATE");
  for (int v = from; rc == SQLITE_OK && v < to; ++v) {
    const size_t index = static_cast<size_t>(v);
    rc = database.Exec(index < Migrations().size() ? Migrations()[index]
                                                   : options.further_migrations[index - Migrations().size()]);
  }
  if (rc == SQLITE_OK && from == 0) {
    rc = database.Exec(absl::StrCat("INSERT INTO meta(key, value) VALUES('epoch', '", NewEpoch(), "'), ('takeover', '",
                                    orphaned ? kTakeoverHeld : kTakeoverUndecided,
                                    "'); PRAGMA application_id=", kApplicationId));
  }
  if (rc == SQLITE_OK) rc = database.Exec(absl::StrCat("PRAGMA user_version=", to));
  if (rc == SQLITE_OK) rc = database.Exec("COMMIT");
  if (rc == SQLITE_OK) return absl::OkStatus();
  absl::Status error = database.Error(rc, "prepare");
  (void)database.Exec("ROLLBACK");  // fails only where SQLite has rolled back by itself
  return error;
}

absl::Status Store::Impl::Load() {
  absl::StatusOr<std::string> stored_epoch = database.One("SELECT value FROM meta WHERE key='epoch'", "read");
  if (!stored_epoch.ok()) return stored_epoch.status();
  if (stored_epoch->empty()) return absl::DataLossError(absl::StrCat("the database '", options.path, "' has no epoch"));
  epoch = *std::move(stored_epoch);
  absl::StatusOr<std::string> stored_takeover = database.One("SELECT value FROM meta WHERE key='takeover'", "read");
  if (!stored_takeover.ok()) return stored_takeover.status();
  takeover = TakeoverOf(*stored_takeover);
  if (absl::Status s = ReadCounters(); !s.ok()) return s;
  if (absl::Status s = ReadPosition(); !s.ok()) return s;

  Statement row(database.get(),
                "SELECT kind, name, body, checksum, revision, changed_at, built_in, owner FROM resources");
  while (row.Step()) {
    if (absl::Status s = ReadRow(row, &loaded, 0); !s.ok()) return s;
  }
  return row.rc() == SQLITE_OK ? absl::OkStatus() : database.Error(row.rc(), "read");
}

absl::Status Store::Impl::ReadCounters() {
  {
    Statement row(database.get(), "SELECT coalesce(min(revision), 0), coalesce(max(revision), 0) FROM revisions");
    if (!row.Step()) return database.Error(row.rc(), "read");
    oldest = static_cast<uint64_t>(row.Int(0));
    revision = static_cast<uint64_t>(row.Int(1));
  }
  absl::StatusOr<int64_t> time = database.Number(
      "SELECT coalesce(max(time), 0) FROM revisions WHERE revision = "
      "(SELECT max(revision) FROM revisions)");
  if (!time.ok()) return time.status();
  revision_micros = *time;
  absl::StatusOr<int64_t> rows = database.Number("SELECT count(*) FROM history");
  if (!rows.ok()) return rows.status();
  history_rows = static_cast<uint64_t>(*rows);
  return absl::OkStatus();
}

absl::Status Store::BeginHistory(Takeover takeover, const v1::AuditEntry& entry) {
  std::lock_guard lock(impl_->mu);
  const std::string epoch = NewEpoch();
  const absl::Status status = impl_->database.Transact([&] {
    Statement set(impl_->database.get(), "INSERT OR REPLACE INTO meta(key, value) VALUES('epoch', ?), ('takeover', ?)");
    int rc = set.Bind(epoch).Bind(TakeoverWord(takeover)).Run();
    if (rc == SQLITE_OK) rc = impl_->database.Exec("DELETE FROM requests");
    return rc == SQLITE_OK ? impl_->WriteAudit({&entry, 1}) : rc;
  });
  if (!status.ok()) return status;
  impl_->epoch = epoch;
  impl_->takeover = takeover;
  return absl::OkStatus();
}

Store::Store(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Store::~Store() = default;

absl::StatusOr<std::unique_ptr<Store>> Store::Open(StoreOptions options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  {
    std::lock_guard lock(impl->mu);
    if (absl::Status s = impl->Open(); !s.ok()) return s;
  }
  return std::unique_ptr<Store>(new Store(std::move(impl)));
}

const std::string& Store::epoch() const { return impl_->epoch; }
bool Store::created() const { return impl_->created; }
Takeover Store::takeover() const { return impl_->takeover; }

absl::Status Store::SetTakeover(Takeover takeover) {
  std::lock_guard lock(impl_->mu);
  const absl::Status status = impl_->database.Transact(
      [&] {
        Statement statement(impl_->database.get(),
                            "INSERT INTO meta(key, value) VALUES('takeover', ?) "
                            "ON CONFLICT(key) DO UPDATE SET value=excluded.value");
        return statement.Bind(TakeoverWord(takeover)).Run();
      },
      WriteKind::kBlind);
  if (!status.ok()) return status;
  impl_->takeover = takeover;
  return absl::OkStatus();
}

uint64_t Store::revision() const { return impl_->revision; }
absl::Time Store::revision_time() const { return absl::FromUnixMicros(impl_->revision_micros); }
ResourceSet Store::TakeLoaded() { return std::exchange(impl_->loaded, {}); }
uint64_t Store::errors() const { return impl_->database.errors(); }

}  // namespace gateway::controlplane
