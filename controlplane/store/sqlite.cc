#include "controlplane/store/sqlite.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

// What the system said of a failed read or write; 0: not known. What fails inside a COMMIT is known to the file alone.
int SystemErrorOf(sqlite3* db) {
  if (db == nullptr) return 0;
  if (const int error = sqlite3_system_errno(db); error != 0) return error;
  for (const int which : {SQLITE_FCNTL_JOURNAL_POINTER, SQLITE_FCNTL_FILE_POINTER}) {
    sqlite3_file* file = nullptr;
    int error = 0;
    if (sqlite3_file_control(db, "main", which, &file) == SQLITE_OK && file != nullptr && file->pMethods != nullptr &&
        file->pMethods->xFileControl(file, SQLITE_FCNTL_LAST_ERRNO, &error) == SQLITE_OK && error != 0) {
      return error;
    }
  }
  return 0;
}

}  // namespace

Statement::Statement(sqlite3* db, const char* sql) { rc_ = sqlite3_prepare_v2(db, sql, -1, &statement_, nullptr); }
Statement::~Statement() { sqlite3_finalize(statement_); }

int Database::OpenFile(const std::string& path, int flags, const std::string& vfs) {
  const int rc = sqlite3_open_v2(path.c_str(), &db_, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | flags,
                                 vfs.empty() ? nullptr : vfs.c_str());
  if (rc == SQLITE_OK) sqlite3_extended_result_codes(db_, 1);
  return rc;
}

void Database::Close() { sqlite3_close_v2(std::exchange(db_, nullptr)); }

absl::Status Database::Error(int rc, absl::string_view doing) {
  ++errors_;
  const int code = rc & 0xff;
  const int os_error = SystemErrorOf(db_);
  const std::string head = absl::StrCat("cannot ", doing, " the database '", path_, "': ");
  const char* said = db_ == nullptr ? sqlite3_errstr(rc) : sqlite3_errmsg(db_);
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

absl::Status Database::Damaged(absl::string_view what) {
  ++errors_;
  return absl::DataLossError(
      absl::StrCat("the database '", path_, "' is damaged: ", what, "; restore a backup of the file"));
}

absl::StatusOr<std::string> Database::One(const char* sql, absl::string_view doing) {
  Statement statement(db_, sql);
  if (!statement.Step()) {
    if (statement.rc() != SQLITE_OK) return Error(statement.rc(), doing);
    return std::string();
  }
  return statement.Text(0);
}

absl::StatusOr<int64_t> Database::Number(const char* sql) {
  Statement statement(db_, sql);
  if (!statement.Step()) {
    if (statement.rc() != SQLITE_OK) return Error(statement.rc(), "read");
    return 0;
  }
  return statement.Int(0);
}

absl::Status Database::RolledBack(int rc) {
  absl::Status error = Error(rc, "write to");
  if (sqlite3_get_autocommit(db_) == 0) (void)Exec("ROLLBACK");  // else SQLite has done it by itself
  if (rc == SQLITE_IOERR_FSYNC || rc == SQLITE_IOERR_DIR_FSYNC) {
    broken_ =
        absl::UnavailableError(absl::StrCat(error.message(), "; a sync failed, so nothing is written until a restart"));
    return broken_;
  }
  return error;
}

absl::Status Database::CopyTo(const std::string& to) {
  sqlite3* copy = nullptr;
  CreatePrivate(to);
  int rc =
      sqlite3_open_v2(to.c_str(), &copy, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  if (rc == SQLITE_OK) {
    sqlite3_backup* backup = sqlite3_backup_init(copy, "main", db_, "main");
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
  ++errors_;
  const std::string message = absl::StrCat("cannot copy the database '", path_, "' to '", to, "': ", said);
  if ((rc & 0xff) == SQLITE_FULL) return absl::ResourceExhaustedError(message);
  return absl::FailedPreconditionError(message);
}

void CreatePrivate(const std::string& path) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd >= 0) close(fd);
}

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

uint32_t ItemChecksum(absl::string_view first, absl::string_view second, absl::string_view body) {
  return Crc32c(Crc32c(Crc32c(0, absl::StrCat(first, "\n")), second), body);
}

}  // namespace gateway::controlplane
