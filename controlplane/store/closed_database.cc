#include "controlplane/store/closed_database.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "controlplane/store/schema.h"
#include "controlplane/store/sqlite.h"

namespace gateway::controlplane {
namespace {

constexpr size_t kCopyBytes = 1u << 20;

absl::Status Failed(absl::string_view what, const std::string& path) {
  const int error = errno;
  const std::string message = absl::StrCat("cannot ", what, " '", path, "': ", strerror(error));
  if (error == ENOENT) return absl::NotFoundError(message);
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) return absl::ResourceExhaustedError(message);
  return absl::PermissionDeniedError(message);
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

absl::Status CopyFile(const std::string& from, const std::string& to) {
  const Descriptor in(open(from.c_str(), O_RDONLY | O_CLOEXEC));
  if (in.get() < 0) return Failed("read", from);
  const Descriptor out(open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (out.get() < 0) return Failed("create", to);
  std::vector<char> buffer(kCopyBytes);
  while (true) {
    const ssize_t got = read(in.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Failed("read", from);
    if (got == 0) break;
    for (ssize_t at = 0; at < got;) {
      const ssize_t put = write(out.get(), buffer.data() + at, static_cast<size_t>(got - at));
      if (put < 0 && errno != EINTR) return Failed("write", to);
      if (put > 0) at += put;
    }
  }
  return fsync(out.get()) == 0 ? absl::OkStatus() : Failed("write", to);
}

}  // namespace

std::string SealingKeyPathOf(const StoreOptions& options) {
  return options.sealing_key.empty() ? absl::StrCat(options.path, ".sealing-key") : options.sealing_key;
}

ClosedDatabase::ClosedDatabase(std::unique_ptr<Database> database) : database_(std::move(database)) {}
ClosedDatabase::~ClosedDatabase() = default;

absl::StatusOr<std::unique_ptr<ClosedDatabase>> ClosedDatabase::Lock(const StoreOptions& options) {
  struct stat there {};
  if (stat(options.path.c_str(), &there) != 0) return Failed("open the database", options.path);
  if (S_ISREG(there.st_mode) && there.st_size < kDatabaseBytesMin) {
    return absl::DataLossError(
        absl::StrCat("the database '", options.path, "' is lost: the file has ", there.st_size, " bytes"));
  }
  auto database = std::make_unique<Database>(options.path);
  if (int rc = database->OpenFile(options.path, 0, options.vfs); rc != SQLITE_OK) return database->Error(rc, "open");
  sqlite3_busy_timeout(database->get(), static_cast<int>(options.lock_wait.count()));
  sqlite3_db_config(database->get(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
  if (int rc = database->Exec("PRAGMA locking_mode=EXCLUSIVE"); rc != SQLITE_OK) return database->Error(rc, "open");
  // A transaction locks a database of any journal mode, and in this locking mode the lock stays.
  int rc = database->Exec("BEGIN EXCLUSIVE");
  if (rc == SQLITE_OK) rc = database->Exec("COMMIT");
  if ((rc & 0xff) == SQLITE_BUSY) {
    return absl::UnavailableError(
        absl::StrCat("the database '", options.path, "' is in use by a control plane; stop it first"));
  }
  if (rc != SQLITE_OK) return database->Error(rc, "open");
  absl::StatusOr<int64_t> application = database->Number("PRAGMA application_id");
  if (!application.ok()) return application.status();
  if (*application != kApplicationId) {
    return absl::FailedPreconditionError(absl::StrCat("the database '", options.path, "' is not a gateway's database"));
  }
  // Without a log, or with an empty one, closing changes nothing, and removes the empty one that opening has made.
  struct stat log {};
  if (stat(absl::StrCat(options.path, "-wal").c_str(), &log) == 0 && log.st_size == 0) {
    sqlite3_db_config(database->get(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, nullptr);
  }
  return std::unique_ptr<ClosedDatabase>(new ClosedDatabase(std::move(database)));
}

absl::Status ClosedDatabase::CopyTo(const std::string& to) { return database_->CopyTo(to); }

absl::Status ClosedDatabase::EmptyLog() {
  // Another database may be at the path when this one is closed.
  sqlite3_db_config(database_->get(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
  const int rc = database_->Exec("PRAGMA wal_checkpoint(TRUNCATE)");
  return rc == SQLITE_OK ? absl::OkStatus() : database_->Error(rc, "write to");
}

absl::Status CopyBackup(const std::string& from, const std::string& to) {
  struct stat found {};
  if (stat(from.c_str(), &found) != 0) return Failed("read", from);
  if (!S_ISREG(found.st_mode)) return absl::FailedPreconditionError(absl::StrCat("'", from, "' is not a file"));
  if (found.st_size < kDatabaseBytesMin) {
    return absl::DataLossError(
        absl::StrCat("'", from, "' has ", found.st_size, " bytes: it is empty or cut short, and is not a backup"));
  }
  if (absl::Status s = CopyFile(from, to); !s.ok()) return s;
  // Of a copy that was made with cp of a database that was not in use: the newest commits are in its log.
  const std::string log = absl::StrCat(from, "-wal");
  if (stat(log.c_str(), &found) != 0 || found.st_size == 0) return absl::OkStatus();
  return CopyFile(log, absl::StrCat(to, "-wal"));
}

absl::StatusOr<int64_t> SchemaOf(const std::string& path, const std::string& name) {
  Database database(path);
  if (int rc = database.OpenFile(path, 0, ""); rc != SQLITE_OK) {
    return absl::DataLossError(absl::StrCat("'", name, "' cannot be opened as a database"));
  }
  sqlite3_db_config(database.get(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
  const absl::StatusOr<int64_t> application = database.Number("PRAGMA application_id");
  const absl::StatusOr<int64_t> schema = database.Number("PRAGMA user_version");
  if (!application.ok() || !schema.ok()) {
    return absl::DataLossError(
        absl::StrCat("'", name, "' is not a database, or its beginning is damaged; nothing was changed"));
  }
  if (*application != kApplicationId) {
    return absl::FailedPreconditionError(absl::StrCat("'", name, "' is not a gateway's database; nothing was changed"));
  }
  const absl::StatusOr<std::string> check = database.One("PRAGMA integrity_check(1)", "read");
  if (!check.ok() || *check != "ok") {
    return absl::DataLossError(absl::StrCat("'", name, "' is damaged or cut short (",
                                            check.ok() ? *check : "a page cannot be read", "); nothing was changed"));
  }
  // A last page that is cut is read as if zeros followed. With a log, the file may be shorter than what it says.
  const absl::StatusOr<int64_t> pages = database.Number("PRAGMA page_count");
  const absl::StatusOr<int64_t> page_bytes = database.Number("PRAGMA page_size");
  struct stat found {
  }, log{};
  const bool with_log = stat(absl::StrCat(path, "-wal").c_str(), &log) == 0 && log.st_size > 0;
  if (!pages.ok() || !page_bytes.ok() || stat(path.c_str(), &found) != 0 ||
      (!with_log && found.st_size != *pages * *page_bytes)) {
    return absl::DataLossError(absl::StrCat("'", name, "' is cut short; nothing was changed"));
  }
  return *schema;
}

absl::Status ReplaceDatabase(const std::string& path, const std::string& with, const std::string& kept,
                             ClosedDatabase* locked) {
  if (!kept.empty()) {
    if (locked != nullptr) {
      if (absl::Status s = locked->EmptyLog(); !s.ok()) return s;
    }
    // Two names for it, so that there is a database at every moment.
    if (link(path.c_str(), kept.c_str()) != 0) return Failed("keep the database as", kept);
    // A log would be read into the new database. It is empty; of a damaged one it may still be of use.
    for (const char* suffix : {"-wal", "-journal"}) {
      const std::string log = absl::StrCat(path, suffix);
      if (locked != nullptr ? unlink(log.c_str()) != 0 && errno != ENOENT
                            : rename(log.c_str(), absl::StrCat(kept, suffix).c_str()) != 0 && errno != ENOENT) {
        return Failed("move away", log);
      }
    }
  }
  (void)unlink(absl::StrCat(path, "-shm").c_str());
  if (rename(with.c_str(), path.c_str()) != 0) return Failed("put the restored database at", path);
  const size_t slash = path.rfind('/');
  const Descriptor folder(
      open(slash == std::string::npos ? "." : path.substr(0, slash + 1).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() >= 0) (void)fsync(folder.get());  // file systems that cannot do that need not
  return absl::OkStatus();
}

}  // namespace gateway::controlplane
