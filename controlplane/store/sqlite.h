// One connection to an SQLite file, and statements on it. The only code that includes sqlite3.h.
#ifndef GATEWAY_CONTROLPLANE_STORE_SQLITE_H_
#define GATEWAY_CONTROLPLANE_STORE_SQLITE_H_

// Sessions, which record what a transaction changes, are declared only for those who ask for them.
#define SQLITE_ENABLE_SESSION 1
#define SQLITE_ENABLE_PREUPDATE_HOOK 1
#include <sqlite3.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace gateway::controlplane {

// A prepared statement; finalised with it.
class Statement {
 public:
  Statement(sqlite3* db, const char* sql);
  ~Statement();
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

// How a transaction that goes through a log was decided.
enum class WriteKind {
  kDecided,  // by what the writer has in memory: another control plane's write in between voids it
  kBlind,    // it holds whatever else was written
};

// Owns a connection. Not thread-safe, except `errors`; the store holds its mutex around every call.
class Database {
 public:
  explicit Database(std::string path) : path_(std::move(path)) {}
  ~Database() { sqlite3_close_v2(db_); }
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  // Opens `path`, which is path(), or another name while the file is being made. SQLite's result; `vfs` "": its own.
  int OpenFile(const std::string& path, int flags, const std::string& vfs);
  void Close();
  sqlite3* get() const { return db_; }
  const std::string& path() const { return path_; }

  // What the failed call `rc` means, with the file's name; counted. `doing`: "open", "write to".
  absl::Status Error(int rc, absl::string_view doing);
  absl::Status Damaged(absl::string_view what);  // DataLoss: "... is damaged: `what`; restore a backup of the file"
  int Exec(const std::string& sql) { return sqlite3_exec(db_, sql.c_str(), nullptr, nullptr, nullptr); }
  // The one text (or number) that `sql` yields; "" and 0 if there is no row.
  absl::StatusOr<std::string> One(const char* sql, absl::string_view doing = "open");
  absl::StatusOr<int64_t> Number(const char* sql);

  // Runs `body`, which returns SQLite's result, in one transaction. After a failed sync nothing more is written. With a
  // writer, that does it, and may run `body` several times.
  template <typename Body>
  absl::Status Transact(Body body, WriteKind kind = WriteKind::kDecided) {
    return writer_ ? writer_(body, kind) : TransactHere(body);
  }
  using Writer = std::function<absl::Status(const std::function<int()>& body, WriteKind kind)>;
  void SetWriter(Writer writer) { writer_ = std::move(writer); }

  // The same on this connection, whoever the writer is.
  template <typename Body>
  absl::Status TransactHere(Body body) {
    if (!broken_.ok()) return broken_;
    int rc = Exec("BEGIN IMMEDIATE");
    if (rc == SQLITE_OK) rc = body();
    if (rc == SQLITE_OK) rc = Exec("COMMIT");
    return rc == SQLITE_OK ? absl::OkStatus() : RolledBack(rc);
  }
  // Not OK: a sync failed, and every write is refused until a restart.
  const absl::Status& broken() const { return broken_; }

  // Copies the whole database, as it is now, to the file `to`, which is made with mode 0600 or replaced.
  absl::Status CopyTo(const std::string& to);

  void CountError() { ++errors_; }
  uint64_t errors() const { return errors_; }

 private:
  absl::Status RolledBack(int rc);

  const std::string path_;
  sqlite3* db_ = nullptr;
  absl::Status broken_;
  Writer writer_;  // null: this connection
  std::atomic<uint64_t> errors_{0};
};

// Creates `path` with mode 0600 if it is not there. What SQLite puts beside it (-wal) has the file's mode. A file that
// exists is left alone: opening and closing it here would end its locks.
void CreatePrivate(const std::string& path);
// Takes from others the right to read a file that an older version made, or a careless copy.
void MakePrivate(const std::string& path);

// CRC-32C of `data`, continued from `crc`. A flipped bit passes SQLite's own checks; rows have checksums of their own.
uint32_t Crc32c(uint32_t crc, absl::string_view data);
// Of a row with two names (a token: name and digest; an override: service and endpoint) and a body.
uint32_t ItemChecksum(absl::string_view first, absl::string_view second, absl::string_view body);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_STORE_SQLITE_H_
