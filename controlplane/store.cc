#include "controlplane/store.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <optional>
#include <random>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/sealing.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

// "GWCP": tells this file from any other SQLite database.
constexpr int kApplicationId = 0x47574350;

// One entry for each schema version, in order; never edited once released, only added to.
const std::array<const char*, 3> kMigrations = {R"sql(
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE resources(
  kind TEXT NOT NULL,
  name TEXT NOT NULL,
  body BLOB NOT NULL,          -- CanonicalBytes of the resource
  checksum INTEGER NOT NULL,   -- over the whole row: a flipped bit passes SQLite's own checks
  revision INTEGER NOT NULL,
  changed_at INTEGER NOT NULL, -- microseconds since 1970
  built_in INTEGER NOT NULL,
  PRIMARY KEY(kind, name)) STRICT;
CREATE TABLE revisions(
  revision INTEGER PRIMARY KEY,
  time INTEGER NOT NULL,
  actor TEXT NOT NULL,
  peer TEXT NOT NULL,
  comment TEXT NOT NULL) STRICT;
-- A row is what a revision made of a resource. The newest row at or below the oldest kept revision stays, so that every
-- kept revision can be put together again.
CREATE TABLE history(
  kind TEXT NOT NULL,
  name TEXT NOT NULL,
  revision INTEGER NOT NULL,
  op INTEGER NOT NULL,
  body BLOB,                   -- NULL: nothing in effect from here on
  checksum INTEGER NOT NULL,
  changed_at INTEGER NOT NULL,
  built_in INTEGER NOT NULL,
  PRIMARY KEY(kind, name, revision)) STRICT;
CREATE INDEX history_by_revision ON history(revision);
)sql",
                                                R"sql(
CREATE TABLE tokens(
  name TEXT PRIMARY KEY,
  digest BLOB NOT NULL UNIQUE, -- SHA-256 of the secret
  body BLOB NOT NULL,          -- gateway.v1.Token
  checksum INTEGER NOT NULL) STRICT;
CREATE TABLE audit(
  number INTEGER PRIMARY KEY,
  time INTEGER NOT NULL,       -- microseconds since 1970
  actor TEXT NOT NULL,
  body BLOB NOT NULL) STRICT;  -- gateway.v1.AuditEntry, without its number
CREATE INDEX audit_by_actor ON audit(actor, number);
)sql",
                                                R"sql(
CREATE TABLE overrides(
  service TEXT NOT NULL,
  endpoint TEXT NOT NULL,
  body BLOB NOT NULL,          -- gateway.v1.EndpointOverride
  checksum INTEGER NOT NULL,
  PRIMARY KEY(service, endpoint)) STRICT;
)sql"};

// A page of history is cut here, to stay below gRPC's 4 MiB.
constexpr size_t kHistoryPageBytesMax = 2u << 20;
// The smallest database of SQLite has one page of 512 bytes. SQLite takes a shorter file for one that is new.
constexpr off_t kDatabaseBytesMin = 512;
// What a checkpoint leaves of the WAL.
constexpr int kWalBytesKept = 16 << 20;

uint32_t Crc32c(uint32_t crc, absl::string_view data) {
  static const auto table = [] {
    std::array<uint32_t, 256> t{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int k = 0; k < 8; ++k) c = (c & 1) ? 0x82f63b78u ^ (c >> 1) : c >> 1;
      t[i] = c;
    }
    return t;
  }();
  crc = ~crc;
  for (unsigned char byte : data) crc = table[(crc ^ byte) & 0xff] ^ (crc >> 8);
  return ~crc;
}

uint32_t RowChecksum(const ResourceKey& key, absl::string_view body, uint64_t revision, int64_t changed_at, int op,
                     bool built_in) {
  uint32_t crc = Crc32c(0, absl::StrCat(key.kind, "\n", key.name, "\n", revision, "\n", changed_at, "\n", op, "\n",
                                        built_in ? 1 : 0, "\n"));
  return Crc32c(crc, body);
}

// Of a token (its name and digest) and of an override (its service and endpoint).
uint32_t ItemChecksum(absl::string_view name, absl::string_view digest, absl::string_view body) {
  return Crc32c(Crc32c(Crc32c(0, absl::StrCat(name, "\n")), digest), body);
}

absl::string_view BytesOf(const Digest& digest) {
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

int64_t MicrosOf(const google::protobuf::Timestamp& time) { return time.seconds() * 1'000'000 + time.nanos() / 1000; }

std::string NewEpoch() {
  std::random_device random;
  return absl::StrFormat("%08x%08x", random(), random());
}

// A prepared statement; finalised with it.
class Statement {
 public:
  Statement(sqlite3* db, const char* sql) { rc_ = sqlite3_prepare_v2(db, sql, -1, &statement_, nullptr); }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  Statement& Bind(int64_t value) {
    if (rc_ == SQLITE_OK) rc_ = sqlite3_bind_int64(statement_, ++bound_, value);
    return *this;
  }
  Statement& Bind(absl::string_view text) {
    if (rc_ == SQLITE_OK) {
      rc_ = sqlite3_bind_text64(statement_, ++bound_, text.data() == nullptr ? "" : text.data(), text.size(),
                                SQLITE_TRANSIENT, SQLITE_UTF8);
    }
    return *this;
  }
  Statement& BindBlob(absl::string_view bytes) {
    if (rc_ == SQLITE_OK) {
      rc_ = bytes.empty() ? sqlite3_bind_zeroblob(statement_, ++bound_, 0)
                          : sqlite3_bind_blob64(statement_, ++bound_, bytes.data(), bytes.size(), SQLITE_TRANSIENT);
    }
    return *this;
  }
  Statement& BindNull() {
    if (rc_ == SQLITE_OK) rc_ = sqlite3_bind_null(statement_, ++bound_);
    return *this;
  }

  // True: a row; false: the end, or an error (see rc).
  bool Step() {
    if (rc_ != SQLITE_OK && rc_ != SQLITE_ROW) return false;
    rc_ = sqlite3_step(statement_);
    return rc_ == SQLITE_ROW;
  }
  // Runs to the end; SQLITE_OK or an error. Ready to be bound again.
  int Run() {
    while (Step()) {
    }
    const int result = rc_ == SQLITE_DONE ? SQLITE_OK : rc_;
    if (statement_ != nullptr) sqlite3_reset(statement_);
    bound_ = 0;
    rc_ = result;
    return result;
  }
  // Of the last step: SQLITE_OK at the end of all rows.
  int rc() const { return rc_ == SQLITE_DONE ? SQLITE_OK : rc_; }

  int64_t Int(int column) { return sqlite3_column_int64(statement_, column); }
  std::string Text(int column) {
    const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column));
    return text == nullptr ? "" : std::string(text, sqlite3_column_bytes(statement_, column));
  }
  absl::string_view Blob(int column) {
    const auto* data = static_cast<const char*>(sqlite3_column_blob(statement_, column));
    return {data, data == nullptr ? 0u : static_cast<size_t>(sqlite3_column_bytes(statement_, column))};
  }

 private:
  sqlite3_stmt* statement_ = nullptr;
  int rc_ = SQLITE_OK;
  int bound_ = 0;
};

constexpr char kTakeoverHeld[] = "held";
constexpr char kTakeoverUndecided[] = "undecided";
constexpr char kTakeoverAccepted[] = "accepted";

Takeover TakeoverOf(absl::string_view word) {
  if (word == kTakeoverHeld) return Takeover::kHeld;
  if (word == kTakeoverUndecided) return Takeover::kUndecided;
  return Takeover::kAccepted;  // also a file of a version that did not ask
}

void ToTimestamp(int64_t micros, google::protobuf::Timestamp* out) {
  out->set_seconds(micros / 1'000'000);
  out->set_nanos(static_cast<int32_t>(micros % 1'000'000) * 1000);
}

// Password hashes and keys' digests are in it: nobody else's to read. What SQLite puts beside it (-wal) has the file's
// mode. Where there is a file it is left alone: opening and closing it here would end its locks.
void CreatePrivate(const std::string& path) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd >= 0) close(fd);
}

// Of a file that an older version made, or a careless copy.
void MakePrivate(const std::string& path) {
  for (const char* suffix : {"", "-wal", "-shm", "-journal"}) {
    const std::string file = absl::StrCat(path, suffix);
    struct stat there {};
    if (stat(file.c_str(), &there) != 0 || (there.st_mode & 077) == 0) continue;
    if (chmod(file.c_str(), there.st_mode & 0700) != 0) {
      spdlog::warn("database '{}': others can read it, and its mode cannot be changed ({})", file, strerror(errno));
    }
  }
}

}  // namespace

struct Store::Impl {
  StoreOptions options;
  mutable std::mutex mu;
  sqlite3* db = nullptr;  // used only with `mu` held
  std::string epoch;
  bool created = false;
  bool orphaned = false;  // created beside the log of a database that is gone
  std::atomic<Takeover> takeover{Takeover::kUndecided};
  std::atomic<uint64_t> revision{0};
  std::atomic<int64_t> revision_micros{0};
  uint64_t oldest = 0;        // revision that is kept; 0: none
  uint64_t history_rows = 0;  // in `history`
  ResourceSet loaded;
  std::optional<Sealer> sealer;  // nothing: before the key was read
  absl::Status broken;           // not OK: no more commits
  std::atomic<uint64_t> errors{0};

  ~Impl() { sqlite3_close_v2(db); }

  // What the failed call `rc` means, with the file's name. `doing`: "open", "write to".
  absl::Status Error(int rc, absl::string_view doing) {
    ++errors;
    const int code = rc & 0xff;
    const int os_error = db == nullptr ? 0 : sqlite3_system_errno(db);
    const std::string head = absl::StrCat("cannot ", doing, " the database '", options.path, "': ");
    const char* said = db == nullptr ? sqlite3_errstr(rc) : sqlite3_errmsg(db);
    switch (code) {
      case SQLITE_BUSY:
      case SQLITE_LOCKED:
        return absl::FailedPreconditionError(absl::StrCat(head, "it is in use by another control plane"));
      case SQLITE_NOTADB:
        return absl::DataLossError(
            absl::StrCat(head, "it is not a database, or its beginning is damaged; it was left as it is"));
      case SQLITE_CORRUPT:
        return absl::DataLossError(absl::StrCat(head, "it is damaged (", said, "); it was left as it is"));
      case SQLITE_FULL:
        return absl::ResourceExhaustedError(absl::StrCat(head, "the disk is full"));
      case SQLITE_READONLY:
      case SQLITE_PERM:
      case SQLITE_AUTH:
        return absl::PermissionDeniedError(absl::StrCat(head, "it is read-only"));
      case SQLITE_CANTOPEN:
        return absl::PermissionDeniedError(
            absl::StrCat(head, "the file, or one beside it, cannot be opened or created",
                         os_error == 0 ? "" : absl::StrCat(" (", strerror(os_error), ")")));
      case SQLITE_IOERR:
        if (os_error == ENOSPC || os_error == EDQUOT || os_error == EFBIG) {
          return absl::ResourceExhaustedError(absl::StrCat(head, "the disk is full (", strerror(os_error), ")"));
        }
        return absl::UnavailableError(
            absl::StrCat(head, said, os_error == 0 ? "" : absl::StrCat(" (", strerror(os_error), ")")));
      default:
        return absl::InternalError(absl::StrCat(head, said));
    }
  }

  int Exec(const std::string& sql) { return sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr); }

  // The one number (or text) that `sql` yields; an error otherwise.
  absl::StatusOr<std::string> One(const char* sql, absl::string_view doing = "open") {
    Statement statement(db, sql);
    if (!statement.Step()) {
      if (statement.rc() != SQLITE_OK) return Error(statement.rc(), doing);
      return std::string();
    }
    return statement.Text(0);
  }
  absl::StatusOr<int64_t> Number(const char* sql) {
    Statement statement(db, sql);
    if (!statement.Step()) {
      if (statement.rc() != SQLITE_OK) return Error(statement.rc(), "read");
      return 0;
    }
    return statement.Int(0);
  }

  absl::Status Open();
  absl::Status Create();
  int OpenFile(const std::string& path, int flags);
  absl::Status Migrate(int from, int to);
  absl::Status Backup(const std::string& to);
  std::string BackupPath(int schema) const { return absl::StrCat(options.path, ".schema", schema, ".backup"); }
  // What an older version, which knows schemas up to `newest`, can go back to.
  std::string BackupHint(int newest) const {
    for (int schema = newest; schema > 0; --schema) {
      if (access(BackupPath(schema).c_str(), F_OK) != 0) continue;
      return absl::StrCat("; to go back, put its copy of before the upgrade, '", BackupPath(schema),
                          "', in its place (and remove its -wal and -shm); revisions made since are not in it");
    }
    return "; to go back, restore a backup of before the upgrade";
  }
  absl::Status Load();
  std::string SealingKeyPath() const {
    return options.sealing_key.empty() ? absl::StrCat(options.path, ".sealing-key") : options.sealing_key;
  }
  absl::Status ReadSealingKey();
  absl::Status MakeSealingKey();
  // CanonicalBytes of `resource` with its private key sealed.
  absl::StatusOr<std::string> Sealed(const ResourceKey& key, const v1::Resource& resource) const;
  absl::Status Unseal(const ResourceKey& key, v1::Resource* resource) const;
  absl::Status Damaged(const ResourceKey& key, absl::string_view what) {
    ++errors;
    return absl::DataLossError(absl::StrCat("the database '", options.path, "' is damaged: ", key.ToString(), " ", what,
                                            "; restore a backup of the file"));
  }
  // Reads one row: kind, name, body, checksum, revision, changed_at, built_in, op.
  absl::Status ReadRow(Statement& row, ResourceSet* into, int op);
  // `bodies`: of each edit, as it is stored.
  int Write(const v1::RevisionInfo& info, const std::string& peer, std::span<const Edit> edits,
            std::span<const std::string> bodies, int64_t micros, uint64_t* rows, uint64_t* new_oldest);
  int WriteAudit(std::span<const v1::AuditEntry> entries);
  // Runs `body` in one transaction. Where a sync failed, nothing more is written.
  template <typename Body>
  absl::Status Transact(Body body);
  int Prune(uint64_t newest, uint64_t* rows, uint64_t* new_oldest);
  absl::Status ReadChanges(v1::RevisionInfo* info);
};

int Store::Impl::OpenFile(const std::string& path, int flags) {
  return sqlite3_open_v2(path.c_str(), &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | flags,
                         options.vfs.empty() ? nullptr : options.vfs.c_str());
}

// Whole or not at all: a process that is killed on its first start leaves no empty file, which would look like a
// database that was lost.
absl::Status Store::Impl::Create() {
  const std::string beside = absl::StrCat(options.path, ".new");
  const size_t slash = options.path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : options.path.substr(0, slash + 1);
  if (folder != ".") (void)mkdir(folder.c_str(), 0700);  // where it cannot be, the file cannot be opened
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
  if (int rc = OpenFile(beside, SQLITE_OPEN_CREATE); rc != SQLITE_OK) return Error(rc, "open");
  sqlite3_extended_result_codes(db, 1);
  absl::Status status = Migrate(0, static_cast<int>(kMigrations.size() + options.further_migrations.size()));
  sqlite3_close_v2(std::exchange(db, nullptr));
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
    if (errno == ENOENT) {
      if (absl::Status s = Create(); !s.ok()) return s;
      created = true;
    }
  } else if (S_ISREG(there.st_mode) && there.st_size < kDatabaseBytesMin) {
    ++errors;
    return absl::DataLossError(absl::StrCat("the database '", options.path, "' is lost: the file is there, but has ",
                                            there.st_size,
                                            " bytes; restore a backup of it, or remove it to begin "
                                            "with an empty policy"));
  }
  if (int rc = OpenFile(options.path, 0); rc != SQLITE_OK) return Error(rc, "open");
  sqlite3_extended_result_codes(db, 1);
  sqlite3_busy_timeout(db, static_cast<int>(options.lock_wait.count()));
  // Until every check has passed, closing must not move the WAL into a file that may be damaged or newer.
  sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
  if (sqlite3_db_readonly(db, "main") == 1) {
    ++errors;
    return absl::PermissionDeniedError(absl::StrCat("cannot open the database '", options.path, "': it is read-only"));
  }
  // The file is ours alone: a second writer would change it behind the set in memory, and a reader that never ends
  // would keep the WAL from being reused.
  int rc = Exec("PRAGMA locking_mode=EXCLUSIVE");
  if (rc != SQLITE_OK) return Error(rc, "open");

  absl::StatusOr<int64_t> version = Number("PRAGMA user_version");
  if (!version.ok()) return version.status();
  absl::StatusOr<int64_t> application = Number("PRAGMA application_id");
  if (!application.ok()) return application.status();
  if (*application != kApplicationId) {
    ++errors;
    return absl::FailedPreconditionError(
        absl::StrCat("cannot open the database '", options.path, "': it is not a gateway's database"));
  }
  const int newest = static_cast<int>(kMigrations.size() + options.further_migrations.size());
  if (*version > newest) {
    ++errors;
    return absl::FailedPreconditionError(
        absl::StrCat("cannot open the database '", options.path, "': it was written by a newer version (its schema is ",
                     *version, ", this version knows ", newest, "); it was left as it is", BackupHint(newest)));
  }
  absl::StatusOr<std::string> check = One("PRAGMA quick_check(1)");
  if (!check.ok()) return check.status();
  if (*check != "ok") {
    ++errors;
    return absl::DataLossError(absl::StrCat("the database '", options.path, "' is damaged (", *check,
                                            "); it was left as it is, restore a backup of the file"));
  }

  MakePrivate(options.path);
  absl::StatusOr<std::string> mode = One("PRAGMA journal_mode=WAL");
  if (!mode.ok()) return mode.status();
  if (*mode != "wal") {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot open the database '", options.path, "': no write-ahead log there (", *mode, ")"));
  }
  rc = Exec(absl::StrCat("PRAGMA synchronous=FULL; PRAGMA journal_size_limit=", kWalBytesKept));
  if (rc != SQLITE_OK) return Error(rc, "open");
  if (options.page_count_max > 0) {
    rc = Exec(absl::StrCat("PRAGMA max_page_count=", options.page_count_max));
    if (rc != SQLITE_OK) return Error(rc, "open");
  }
  if (*version < newest) {
    if (absl::Status s = Migrate(static_cast<int>(*version), newest); !s.ok()) return s;
  }
  if (absl::Status s = ReadSealingKey(); !s.ok()) return s;
  if (absl::Status s = Load(); !s.ok()) return s;
  if (absl::Status s = MakeSealingKey(); !s.ok()) return s;
  sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, nullptr);
  return absl::OkStatus();
}

absl::Status Store::Impl::Migrate(int from, int to) {
  if (from > 0) {
    const std::string copy = BackupPath(from);
    if (absl::Status s = Backup(copy); !s.ok()) return s;
    spdlog::info("database '{}': schema {} -> {}; a copy of the old one is '{}'", options.path, from, to, copy);
  }
  int rc = Exec("BEGIN IMMEDIATE");
  for (int v = from; rc == SQLITE_OK && v < to; ++v) {
    const size_t index = static_cast<size_t>(v);
    rc = Exec(index < kMigrations.size() ? kMigrations[index] : options.further_migrations[index - kMigrations.size()]);
  }
  if (rc == SQLITE_OK && from == 0) {
    rc =
        Exec(absl::StrCat("INSERT INTO meta(key, value) VALUES('epoch', '", NewEpoch(), "'), ('takeover', '",
                          orphaned ? kTakeoverHeld : kTakeoverUndecided, "'); PRAGMA application_id=", kApplicationId));
  }
  if (rc == SQLITE_OK) rc = Exec(absl::StrCat("PRAGMA user_version=", to));
  if (rc == SQLITE_OK) rc = Exec("COMMIT");
  if (rc == SQLITE_OK) return absl::OkStatus();
  absl::Status error = Error(rc, "prepare");
  (void)Exec("ROLLBACK");  // fails only where SQLite has rolled back by itself
  return error;
}

absl::Status Store::Impl::Backup(const std::string& to) {
  sqlite3* copy = nullptr;
  CreatePrivate(to);
  int rc =
      sqlite3_open_v2(to.c_str(), &copy, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  if (rc == SQLITE_OK) {
    sqlite3_backup* backup = sqlite3_backup_init(copy, "main", db, "main");
    if (backup != nullptr) {
      sqlite3_backup_step(backup, -1);
      rc = sqlite3_backup_finish(backup);
    } else {
      rc = sqlite3_errcode(copy);
    }
  }
  const std::string said = sqlite3_errmsg(copy);
  sqlite3_close_v2(copy);
  if (rc == SQLITE_OK) return absl::OkStatus();
  ++errors;
  const std::string message = absl::StrCat("cannot copy the database '", options.path, "' to '", to,
                                           "' before its migration: ", said, "; it was left as it is");
  if ((rc & 0xff) == SQLITE_FULL) return absl::ResourceExhaustedError(message);
  return absl::FailedPreconditionError(message);
}

absl::Status Store::Impl::ReadRow(Statement& row, ResourceSet* into, int op) {
  ResourceKey key{row.Text(0), row.Text(1)};
  const absl::string_view body = row.Blob(2);
  const bool built_in = row.Int(6) != 0;
  const auto revision_of_row = static_cast<uint64_t>(row.Int(4));
  if (row.Int(3) != RowChecksum(key, body, revision_of_row, row.Int(5), op, built_in)) {
    return Damaged(key, "does not match its checksum");
  }
  auto resource = std::make_shared<v1::Resource>();
  if (!resource->ParseFromArray(body.data(), static_cast<int>(body.size())) || KeyOf(*resource) != key) {
    return Damaged(key, "cannot be read");
  }
  if (absl::Status s = Unseal(key, resource.get()); !s.ok()) return s;
  (*into)[std::move(key)] = {std::move(resource), revision_of_row, absl::FromUnixMicros(row.Int(5)), built_in};
  return absl::OkStatus();
}

absl::Status Store::Impl::ReadSealingKey() {
  absl::StatusOr<Sealer> read = Sealer::Read(SealingKeyPath());
  if (read.ok()) {
    sealer.emplace(*std::move(read));
    return absl::OkStatus();
  }
  return absl::IsNotFound(read.status()) ? absl::OkStatus() : read.status();
}

// Only where nothing is sealed under one that was lost: a new key in its place would hide that.
absl::Status Store::Impl::MakeSealingKey() {
  if (sealer.has_value()) return absl::OkStatus();
  absl::StatusOr<Sealer> made = Sealer::Create(SealingKeyPath());
  if (!made.ok()) return made.status();
  sealer.emplace(*std::move(made));
  return absl::OkStatus();
}

absl::StatusOr<std::string> Store::Impl::Sealed(const ResourceKey& key, const v1::Resource& resource) const {
  if (!resource.has_certificate() || resource.certificate().key().inline_().empty()) return CanonicalBytes(resource);
  if (!sealer.has_value()) return absl::FailedPreconditionError("there is no sealing key");
  absl::StatusOr<std::string> sealed =
      sealer->Seal(resource.certificate().key().inline_(), absl::StrCat(key.ToString(), " key"));
  if (!sealed.ok()) return sealed.status();
  v1::Resource copy = resource;
  copy.mutable_certificate()->mutable_key()->set_inline_(*std::move(sealed));
  return CanonicalBytes(copy);
}

absl::Status Store::Impl::Unseal(const ResourceKey& key, v1::Resource* resource) const {
  if (!resource->has_certificate() || !IsSealed(resource->certificate().key().inline_())) return absl::OkStatus();
  const std::string where =
      absl::StrCat("the database '", options.path, "': the private key of ", key.ToString(), ": ");
  if (!sealer.has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat(where, "its sealing key '", SealingKeyPath(), "' is missing; restore it"));
  }
  absl::StatusOr<std::string> plain =
      sealer->Open(resource->certificate().key().inline_(), absl::StrCat(key.ToString(), " key"));
  if (!plain.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat(where, plain.status().message(), " (the sealing key is '", SealingKeyPath(), "')"));
  }
  resource->mutable_certificate()->mutable_key()->set_inline_(*std::move(plain));
  return absl::OkStatus();
}

absl::Status Store::Impl::Load() {
  absl::StatusOr<std::string> stored_epoch = One("SELECT value FROM meta WHERE key='epoch'", "read");
  if (!stored_epoch.ok()) return stored_epoch.status();
  if (stored_epoch->empty()) return absl::DataLossError(absl::StrCat("the database '", options.path, "' has no epoch"));
  epoch = *std::move(stored_epoch);
  absl::StatusOr<std::string> stored_takeover = One("SELECT value FROM meta WHERE key='takeover'", "read");
  if (!stored_takeover.ok()) return stored_takeover.status();
  takeover = TakeoverOf(*stored_takeover);
  {
    Statement row(db, "SELECT coalesce(min(revision), 0), coalesce(max(revision), 0) FROM revisions");
    if (!row.Step()) return Error(row.rc(), "read");
    oldest = static_cast<uint64_t>(row.Int(0));
    revision = static_cast<uint64_t>(row.Int(1));
  }
  absl::StatusOr<int64_t> time = Number(
      "SELECT coalesce(max(time), 0) FROM revisions WHERE revision = "
      "(SELECT max(revision) FROM revisions)");
  if (!time.ok()) return time.status();
  revision_micros = *time;
  absl::StatusOr<int64_t> rows = Number("SELECT count(*) FROM history");
  if (!rows.ok()) return rows.status();
  history_rows = static_cast<uint64_t>(*rows);

  Statement row(db, "SELECT kind, name, body, checksum, revision, changed_at, built_in FROM resources");
  while (row.Step()) {
    if (absl::Status s = ReadRow(row, &loaded, 0); !s.ok()) return s;
  }
  return row.rc() == SQLITE_OK ? absl::OkStatus() : Error(row.rc(), "read");
}

int Store::Impl::Write(const v1::RevisionInfo& info, const std::string& peer, std::span<const Edit> edits,
                       std::span<const std::string> bodies, int64_t micros, uint64_t* rows, uint64_t* new_oldest) {
  const auto number = static_cast<int64_t>(info.revision());
  {
    Statement statement(db, "INSERT INTO revisions(revision, time, actor, peer, comment) VALUES(?,?,?,?,?)");
    statement.Bind(number).Bind(micros).Bind(info.actor()).Bind(peer).Bind(info.comment());
    if (int rc = statement.Run(); rc != SQLITE_OK) return rc;
  }
  Statement upsert(db,
                   "INSERT INTO resources(kind, name, body, checksum, revision, changed_at, built_in) "
                   "VALUES(?,?,?,?,?,?,?) ON CONFLICT(kind, name) DO UPDATE SET body=excluded.body, "
                   "checksum=excluded.checksum, revision=excluded.revision, changed_at=excluded.changed_at, "
                   "built_in=excluded.built_in");
  Statement erase(db, "DELETE FROM resources WHERE kind=? AND name=?");
  Statement remember(db,
                     "INSERT INTO history(kind, name, revision, op, body, checksum, changed_at, built_in) "
                     "VALUES(?,?,?,?,?,?,?,?)");
  for (size_t i = 0; i < edits.size(); ++i) {
    const Edit& edit = edits[i];
    const std::string& body = bodies[i];
    int rc;
    if (edit.resource != nullptr) {
      upsert.Bind(edit.key.kind).Bind(edit.key.name).BindBlob(body);
      upsert.Bind(RowChecksum(edit.key, body, info.revision(), micros, 0, edit.built_in));
      rc = upsert.Bind(number).Bind(micros).Bind(edit.built_in ? 1 : 0).Run();
    } else {
      rc = erase.Bind(edit.key.kind).Bind(edit.key.name).Run();
    }
    if (rc != SQLITE_OK) return rc;
    remember.Bind(edit.key.kind).Bind(edit.key.name).Bind(number).Bind(edit.op);
    edit.resource == nullptr ? remember.BindNull() : remember.BindBlob(body);
    remember.Bind(RowChecksum(edit.key, body, info.revision(), micros, edit.op, edit.built_in));
    if (rc = remember.Bind(micros).Bind(edit.built_in ? 1 : 0).Run(); rc != SQLITE_OK) return rc;
  }
  *rows = history_rows + edits.size();
  *new_oldest = oldest == 0 ? info.revision() : oldest;
  return Prune(info.revision(), rows, new_oldest);
}

int Store::Impl::WriteAudit(std::span<const v1::AuditEntry> entries) {
  Statement append(db, "INSERT INTO audit(time, actor, body) VALUES(?,?,?)");
  for (const v1::AuditEntry& entry : entries) {
    append.Bind(MicrosOf(entry.time())).Bind(entry.actor()).BindBlob(entry.SerializeAsString());
    if (int rc = append.Run(); rc != SQLITE_OK) return rc;
  }
  // Numbers have no gaps but at the old end: those that are kept are the newest.
  Statement prune(db, "DELETE FROM audit WHERE number <= (SELECT max(number) FROM audit) - ?");
  return prune.Bind(static_cast<int64_t>(options.audit_rows_max)).Run();
}

template <typename Body>
absl::Status Store::Impl::Transact(Body body) {
  if (!broken.ok()) return broken;
  int rc = Exec("BEGIN IMMEDIATE");
  if (rc == SQLITE_OK) rc = body();
  if (rc == SQLITE_OK) rc = Exec("COMMIT");
  if (rc == SQLITE_OK) return absl::OkStatus();
  absl::Status error = Error(rc, "write to");
  if (sqlite3_get_autocommit(db) == 0) (void)Exec("ROLLBACK");  // else SQLite has done it by itself
  if (rc == SQLITE_IOERR_FSYNC || rc == SQLITE_IOERR_DIR_FSYNC) {
    broken =
        absl::UnavailableError(absl::StrCat(error.message(), "; a sync failed, so nothing is written until a restart"));
    return broken;
  }
  return error;
}

// Drops the oldest revisions past the bounds. A row of a dropped revision stays while it is the newest of its resource
// at the oldest revision that is kept.
int Store::Impl::Prune(uint64_t newest, uint64_t* rows, uint64_t* new_oldest) {
  Statement superseded(db,
                       "DELETE FROM history WHERE rowid IN (SELECT h.rowid FROM history n JOIN history h ON "
                       "h.kind = n.kind AND h.name = n.name AND h.revision < n.revision WHERE n.revision = ?)");
  Statement gone(db, "DELETE FROM history WHERE revision = ? AND body IS NULL");
  Statement revision_row(db, "DELETE FROM revisions WHERE revision = ?");
  while (*new_oldest < newest &&
         (newest - *new_oldest + 1 > options.history_revisions_max || *rows > options.history_rows_max)) {
    const auto dropped = static_cast<int64_t>(*new_oldest);
    for (auto [statement, number] :
         {std::pair{&superseded, dropped + 1}, std::pair{&gone, dropped}, std::pair{&revision_row, dropped}}) {
      if (int rc = statement->Bind(number).Run(); rc != SQLITE_OK) return rc;
      if (statement != &revision_row) *rows -= static_cast<uint64_t>(sqlite3_changes(db));
    }
    ++*new_oldest;
  }
  return SQLITE_OK;
}

absl::Status Store::Impl::ReadChanges(v1::RevisionInfo* info) {
  Statement row(db, "SELECT kind, name, op FROM history WHERE revision = ? ORDER BY kind, name");
  row.Bind(static_cast<int64_t>(info->revision()));
  while (row.Step()) {
    v1::Change* change = info->add_changes();
    change->set_kind(row.Text(0));
    change->set_name(row.Text(1));
    change->set_op(static_cast<v1::Change::Op>(row.Int(2)));
  }
  return row.rc() == SQLITE_OK ? absl::OkStatus() : Error(row.rc(), "read");
}

Store::Store(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Store::~Store() = default;

absl::StatusOr<std::unique_ptr<Store>> Store::Open(StoreOptions options) {
  auto impl = std::make_unique<Impl>();
  impl->options = std::move(options);
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
  if (!impl_->broken.ok()) return impl_->broken;
  Statement statement(impl_->db,
                      "INSERT INTO meta(key, value) VALUES('takeover', ?) "
                      "ON CONFLICT(key) DO UPDATE SET value=excluded.value");
  statement.Bind(takeover == Takeover::kHeld       ? kTakeoverHeld
                 : takeover == Takeover::kAccepted ? kTakeoverAccepted
                                                   : kTakeoverUndecided);
  if (int rc = statement.Run(); rc != SQLITE_OK) return impl_->Error(rc, "write to");
  impl_->takeover = takeover;
  return absl::OkStatus();
}

uint64_t Store::revision() const { return impl_->revision; }
absl::Time Store::revision_time() const { return absl::FromUnixMicros(impl_->revision_micros); }
ResourceSet Store::TakeLoaded() { return std::exchange(impl_->loaded, {}); }
uint64_t Store::errors() const { return impl_->errors; }

absl::Status Store::Commit(const v1::RevisionInfo& info, const std::string& peer, std::span<const Edit> edits,
                           const v1::AuditEntry* entry) {
  std::lock_guard lock(impl_->mu);
  const int64_t micros = MicrosOf(info.time());
  uint64_t rows = 0, oldest = 0;
  std::vector<std::string> bodies;
  for (const Edit& edit : edits) {
    if (edit.resource == nullptr) {
      bodies.emplace_back();
      continue;
    }
    absl::StatusOr<std::string> body = impl_->Sealed(edit.key, *edit.resource);
    if (!body.ok()) return body.status();
    bodies.push_back(*std::move(body));
  }
  const absl::Status status = impl_->Transact([&] {
    const int rc = impl_->Write(info, peer, edits, bodies, micros, &rows, &oldest);
    return rc != SQLITE_OK || entry == nullptr ? rc : impl_->WriteAudit({entry, 1});
  });
  if (!status.ok()) return status;
  impl_->revision = info.revision();
  impl_->revision_micros = micros;
  impl_->history_rows = rows;
  impl_->oldest = oldest;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<StoredToken>> Store::LoadTokens() {
  std::lock_guard lock(impl_->mu);
  std::vector<StoredToken> all;
  Statement row(impl_->db, "SELECT name, digest, body, checksum FROM tokens ORDER BY name");
  while (row.Step()) {
    StoredToken& each = all.emplace_back();
    const std::string name = row.Text(0);
    const std::string digest(row.Blob(1)), body(row.Blob(2));
    if (row.Int(3) != ItemChecksum(name, digest, body) || digest.size() != each.digest.size() ||
        !each.token.ParseFromString(body) || each.token.name() != name) {
      ++impl_->errors;
      return absl::DataLossError(absl::StrCat("the database '", impl_->options.path, "' is damaged: the token '", name,
                                              "' cannot be read; restore a backup of the file"));
    }
    memcpy(each.digest.data(), digest.data(), digest.size());
  }
  if (row.rc() != SQLITE_OK) return impl_->Error(row.rc(), "read");
  return all;
}

absl::Status Store::PutToken(const StoredToken& token) {
  std::lock_guard lock(impl_->mu);
  return impl_->Transact([&] {
    const std::string body = token.token.SerializeAsString();
    Statement put(impl_->db, "INSERT OR REPLACE INTO tokens(name, digest, body, checksum) VALUES(?,?,?,?)");
    put.Bind(token.token.name()).BindBlob(BytesOf(token.digest)).BindBlob(body);
    return put.Bind(ItemChecksum(token.token.name(), BytesOf(token.digest), body)).Run();
  });
}

absl::StatusOr<std::vector<v1::EndpointOverride>> Store::LoadOverrides() {
  std::lock_guard lock(impl_->mu);
  std::vector<v1::EndpointOverride> all;
  Statement row(impl_->db, "SELECT service, endpoint, body, checksum FROM overrides ORDER BY service, endpoint");
  while (row.Step()) {
    v1::EndpointOverride& each = all.emplace_back();
    const std::string service = row.Text(0), endpoint = row.Text(1), body(row.Blob(2));
    if (row.Int(3) != ItemChecksum(service, endpoint, body) || !each.ParseFromString(body) ||
        each.service() != service || each.endpoint() != endpoint) {
      ++impl_->errors;
      return absl::DataLossError(absl::StrCat("the database '", impl_->options.path, "' is damaged: what was set for ",
                                              endpoint, " of '", service,
                                              "' cannot be read; restore a backup of the file"));
    }
  }
  if (row.rc() != SQLITE_OK) return impl_->Error(row.rc(), "read");
  return all;
}

absl::Status Store::PutOverride(const v1::EndpointOverride& override) {
  std::lock_guard lock(impl_->mu);
  return impl_->Transact([&] {
    const std::string body = override.SerializeAsString();
    Statement put(impl_->db, "INSERT OR REPLACE INTO overrides(service, endpoint, body, checksum) VALUES(?,?,?,?)");
    put.Bind(override.service()).Bind(override.endpoint()).BindBlob(body);
    return put.Bind(ItemChecksum(override.service(), override.endpoint(), body)).Run();
  });
}

absl::Status Store::DeleteOverride(const std::string& service, const std::string& endpoint) {
  std::lock_guard lock(impl_->mu);
  return impl_->Transact([&] {
    Statement erase(impl_->db, "DELETE FROM overrides WHERE service = ? AND endpoint = ?");
    return erase.Bind(service).Bind(endpoint).Run();
  });
}

absl::Status Store::AppendAudit(std::span<const v1::AuditEntry> entries) {
  std::lock_guard lock(impl_->mu);
  return impl_->Transact([&] { return impl_->WriteAudit(entries); });
}

absl::StatusOr<std::vector<v1::AuditEntry>> Store::AuditBefore(uint64_t before, const std::string& actor,
                                                               absl::Time since, size_t limit) {
  std::lock_guard lock(impl_->mu);
  Statement row(impl_->db, actor.empty() ? "SELECT number, body FROM audit WHERE number < ? AND time >= ? "
                                           "ORDER BY number DESC LIMIT ?"
                                         : "SELECT number, body FROM audit WHERE number < ? AND time >= ? AND "
                                           "actor = ? ORDER BY number DESC LIMIT ?");
  row.Bind(before == 0 ? INT64_MAX : static_cast<int64_t>(before)).Bind(absl::ToUnixMicros(since));
  if (!actor.empty()) row.Bind(actor);
  row.Bind(static_cast<int64_t>(limit));
  std::vector<v1::AuditEntry> page;
  size_t bytes = 0;
  while (bytes < kHistoryPageBytesMax && row.Step()) {
    v1::AuditEntry& entry = page.emplace_back();
    if (!entry.ParseFromString(std::string(row.Blob(1)))) {
      ++impl_->errors;
      return absl::DataLossError(
          absl::StrCat("the database '", impl_->options.path, "' is damaged: entry ", row.Int(0), " of the audit"));
    }
    entry.set_number(static_cast<uint64_t>(row.Int(0)));
    bytes += entry.ByteSizeLong();
  }
  if (bytes < kHistoryPageBytesMax && row.rc() != SQLITE_OK) return impl_->Error(row.rc(), "read");
  return page;
}

absl::StatusOr<std::vector<v1::RevisionInfo>> Store::RevisionsBefore(uint64_t before, const ResourceKey* key,
                                                                     size_t limit) {
  std::lock_guard lock(impl_->mu);
  const auto below = before == 0 ? INT64_MAX : static_cast<int64_t>(before);
  Statement row(impl_->db,
                key == nullptr
                    ? "SELECT revision, time, actor, comment, peer FROM revisions WHERE revision < ? "
                      "ORDER BY revision DESC LIMIT ?"
                    : "SELECT r.revision, r.time, r.actor, r.comment, r.peer FROM history h JOIN revisions r "
                      "ON r.revision = h.revision WHERE h.kind = ? AND h.name = ? AND h.revision < ? "
                      "ORDER BY h.revision DESC LIMIT ?");
  if (key != nullptr) row.Bind(key->kind).Bind(key->name);
  row.Bind(below).Bind(static_cast<int64_t>(limit));
  std::vector<v1::RevisionInfo> page;
  size_t bytes = 0;
  while (bytes < kHistoryPageBytesMax && row.Step()) {
    v1::RevisionInfo& info = page.emplace_back();
    info.set_revision(static_cast<uint64_t>(row.Int(0)));
    ToTimestamp(row.Int(1), info.mutable_time());
    info.set_actor(row.Text(2));
    info.set_comment(row.Text(3));
    info.set_peer(row.Text(4));
    if (absl::Status s = impl_->ReadChanges(&info); !s.ok()) return s;
    bytes += info.ByteSizeLong();
  }
  if (bytes < kHistoryPageBytesMax && row.rc() != SQLITE_OK) return impl_->Error(row.rc(), "read");
  return page;
}

absl::StatusOr<std::vector<v1::RevisionInfo>> Store::RevisionsAfter(uint64_t after, size_t limit) {
  std::lock_guard lock(impl_->mu);
  if (after + 1 < impl_->oldest) {
    return absl::OutOfRangeError(absl::StrCat("history starts at revision ", impl_->oldest));
  }
  Statement row(
      impl_->db,
      "SELECT revision, time, actor, comment, peer FROM revisions WHERE revision > ? ORDER BY revision LIMIT ?");
  row.Bind(static_cast<int64_t>(after)).Bind(static_cast<int64_t>(limit));
  std::vector<v1::RevisionInfo> page;
  while (row.Step()) {
    v1::RevisionInfo& info = page.emplace_back();
    info.set_revision(static_cast<uint64_t>(row.Int(0)));
    ToTimestamp(row.Int(1), info.mutable_time());
    info.set_actor(row.Text(2));
    info.set_comment(row.Text(3));
    info.set_peer(row.Text(4));
    if (absl::Status s = impl_->ReadChanges(&info); !s.ok()) return s;
  }
  if (row.rc() != SQLITE_OK) return impl_->Error(row.rc(), "read");
  return page;
}

absl::StatusOr<absl::Time> Store::TimeOf(uint64_t revision) {
  std::lock_guard lock(impl_->mu);
  if (revision == 0 || revision > impl_->revision) {
    return absl::NotFoundError(
        absl::StrCat("there is no revision ", revision, "; the newest is ", impl_->revision.load()));
  }
  if (revision < impl_->oldest) {
    return absl::OutOfRangeError(
        absl::StrCat("revision ", revision, " is no longer kept; history starts at revision ", impl_->oldest));
  }
  Statement row(impl_->db, "SELECT time FROM revisions WHERE revision = ?");
  row.Bind(static_cast<int64_t>(revision));
  if (row.Step()) return absl::FromUnixMicros(row.Int(0));
  if (row.rc() != SQLITE_OK) return impl_->Error(row.rc(), "read");
  return absl::DataLossError(absl::StrCat("the database '", impl_->options.path, "' has lost revision ", revision));
}

absl::StatusOr<Store::Past> Store::SetAt(uint64_t revision) {
  absl::StatusOr<absl::Time> time = TimeOf(revision);
  if (!time.ok()) return time.status();
  std::lock_guard lock(impl_->mu);
  Past past;
  {
    Statement row(impl_->db, "SELECT time, actor, comment, peer FROM revisions WHERE revision = ?");
    row.Bind(static_cast<int64_t>(revision));
    if (!row.Step()) {
      if (row.rc() != SQLITE_OK) return impl_->Error(row.rc(), "read");
      return absl::OutOfRangeError(absl::StrCat("revision ", revision, " is no longer kept"));
    }
    past.info.set_revision(revision);
    ToTimestamp(row.Int(0), past.info.mutable_time());
    past.info.set_actor(row.Text(1));
    past.info.set_comment(row.Text(2));
    past.info.set_peer(row.Text(3));
  }
  if (absl::Status s = impl_->ReadChanges(&past.info); !s.ok()) return s;
  Statement row(impl_->db,
                "SELECT kind, name, body, checksum, revision, changed_at, built_in, op FROM history h WHERE body IS "
                "NOT NULL AND revision = (SELECT max(revision) FROM history WHERE kind = h.kind AND name = h.name "
                "AND revision <= ?)");
  row.Bind(static_cast<int64_t>(revision));
  while (row.Step()) {
    if (absl::Status s = impl_->ReadRow(row, &past.resources, static_cast<int>(row.Int(7))); !s.ok()) return s;
  }
  if (row.rc() != SQLITE_OK) return impl_->Error(row.rc(), "read");
  return past;
}

}  // namespace gateway::controlplane
