// A store as a copy of a log: what is written goes through the log, and what the log has is applied, in its order.
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "controlplane/store/schema.h"
#include "controlplane/store/store_impl.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

constexpr char kLostRaceMark[] = "gateway/lost-race";
thread_local bool owner_writes = false;

// Where this copy is. Never part of an entry: each control plane has its own.
constexpr char kPositionKey[] = "log.position";
constexpr char kIdKey[] = "log.id";

// A deleted row that is not there, or a new one that is, would mean that the copy is not of this log.
int OnConflict(void* /*context*/, int /*kind*/, sqlite3_changeset_iter* /*row*/) { return SQLITE_CHANGESET_ABORT; }

int OnTable(void* context, const char* table) {
  static_cast<std::set<std::string>*>(context)->insert(table);
  return 1;
}

int WritePosition(sqlite3* db, const LogPosition& at) {
  Statement put(db, "INSERT OR REPLACE INTO meta(key, value) VALUES(?, ?), (?, ?)");
  return put.Bind(kPositionKey).Bind(absl::StrCat(at.number)).Bind(kIdKey).Bind(at.id).Run();
}

}  // namespace

absl::Status LostRace() {
  absl::Status status =
      absl::AbortedError("other control planes have changed the policy meanwhile; nothing was changed");
  status.SetPayload(kLostRaceMark, absl::Cord("1"));
  return status;
}

bool IsLostRace(const absl::Status& status) {
  return absl::IsAborted(status) && status.GetPayload(kLostRaceMark).has_value();
}

OwnerWrites::OwnerWrites() : before_(std::exchange(owner_writes, true)) {}
OwnerWrites::~OwnerWrites() { owner_writes = before_; }
bool OwnerWrites::here() { return owner_writes; }

absl::Status Store::Impl::ReadPosition() {
  absl::StatusOr<std::string> number = database.One("SELECT value FROM meta WHERE key='log.position'", "read");
  if (!number.ok()) return number.status();
  absl::StatusOr<std::string> id = database.One("SELECT value FROM meta WHERE key='log.id'", "read");
  if (!id.ok()) return id.status();
  position = {};
  if (number->empty()) return absl::OkStatus();
  if (!absl::SimpleAtoi(*number, &position.number)) return database.Damaged("its place in the log cannot be read");
  position.id = *std::move(id);
  return absl::OkStatus();
}

int64_t Store::Impl::UsedBytes() {
  int64_t pages = 0;
  for (const auto& [sql, sign] : {std::pair{"PRAGMA page_count", 1}, std::pair{"PRAGMA freelist_count", -1}}) {
    Statement count(database.get(), sql);
    if (count.Step()) pages += sign * count.Int(0);
  }
  Statement size(database.get(), "PRAGMA page_size");
  return size.Step() ? pages * size.Int(0) : 0;
}

// With `mu` held, which it gives back while the log is asked.
absl::Status Store::Impl::Propose(const std::function<int()>& body, WriteKind kind) {
  constexpr int kBlindAttemptsMax = 50;
  mu.unlock();
  // One at a time: a second one of the same base could only lose.
  std::lock_guard turn(propose_mu);
  mu.lock();
  absl::Status status;
  for (int attempt = 0; attempt < kBlindAttemptsMax; ++attempt) {
    status = ProposeOnce(body, kind);
    if (kind != WriteKind::kBlind || !IsLostRace(status)) break;
    mu.unlock();
    const absl::Status fetched = log->Fetch();
    mu.lock();
    if (!fetched.ok()) return fetched;
  }
  return status;
}

absl::Status Store::Impl::ProposeOnce(const std::function<int()>& body, WriteKind kind) {
  if (!database.broken().ok()) return database.broken();
  // What the caller has decided by is older than the copy.
  if (kind == WriteKind::kDecided && told != position.number) return LostRace();
  std::string changes;
  {
    int rc = database.Exec("BEGIN IMMEDIATE");
    if (rc != SQLITE_OK) return database.Error(rc, "write to");
    sqlite3_session* session = nullptr;
    rc = sqlite3session_create(database.get(), "main", &session);
    if (rc == SQLITE_OK) rc = sqlite3session_attach(session, nullptr);
    if (rc == SQLITE_OK) rc = body();
    const bool too_long = rc == SQLITE_OK && options.database_bytes_max > 0 && UsedBytes() > options.database_bytes_max;
    int size = 0;
    void* bytes = nullptr;
    if (rc == SQLITE_OK) rc = sqlite3session_patchset(session, &size, &bytes);
    const absl::Status failed = rc == SQLITE_OK ? absl::OkStatus() : database.Error(rc, "write to");
    changes.assign(static_cast<const char*>(bytes), bytes == nullptr ? 0 : static_cast<size_t>(size));
    sqlite3_free(bytes);
    sqlite3session_delete(session);
    // It comes back as an entry of the log, or not at all.
    if (sqlite3_get_autocommit(database.get()) == 0) (void)database.Exec("ROLLBACK");
    if (!failed.ok()) return failed;
    if (too_long) {
      return absl::ResourceExhaustedError(absl::StrCat("the policy and its history would take more than ",
                                                       options.database_bytes_max >> 20,
                                                       " MiB in Consul; nothing was changed"));
    }
  }
  if (changes.empty()) return absl::OkStatus();
  const LogPosition base = position;
  const uint64_t next_revision = revision;
  CommitLog::Proposal proposal{base, schema, next_revision, OwnerWrites::here(), &changes};
  mu.unlock();
  absl::StatusOr<LogEntry> entry = log->Append(proposal);
  mu.lock();
  if (!entry.ok()) return entry.status();
  const bool all_told = told == base.number;
  if (absl::Status s = Apply(*entry); !s.ok()) {
    // It is committed, and this copy lacks it: the next start, or the follower, applies it.
    spdlog::error("an entry of the log is committed, and not applied here: {}", std::string(s.message()));
    return s;
  }
  // The writer has it in mind by itself. Where others' entries are not told yet, it is told with them.
  if (all_told && told == base.number && position.number == entry->at.number) told = position.number;
  return absl::OkStatus();
}

absl::Status Store::Impl::Apply(const LogEntry& entry) {
  if (entry.at.number <= position.number) return absl::OkStatus();
  if (entry.at.number != position.number + 1 || entry.previous.id != position.id) {
    return absl::OutOfRangeError(absl::StrCat("entry ", entry.at.number, " of the log does not follow entry ",
                                              position.number, ", which the database '", options.path, "' has"));
  }
  if (entry.schema > schema) {
    return absl::FailedPreconditionError(
        absl::StrCat("entry ", entry.at.number, " of the log was written by a newer version (its schema is ",
                     entry.schema, ", this version knows ", schema, "): upgrade this control plane"));
  }
  std::set<std::string> tables;
  bool foreign = false;
  const absl::Status status = database.TransactHere([&] {
    const int rc = sqlite3changeset_apply(database.get(), static_cast<int>(entry.changes.size()),
                                          const_cast<char*>(entry.changes.data()), OnTable, OnConflict, &tables);
    foreign = rc == SQLITE_ABORT;
    return rc == SQLITE_OK ? WritePosition(database.get(), entry.at) : rc;
  });
  if (foreign) {
    return absl::OutOfRangeError(
        absl::StrCat("entry ", entry.at.number, " of the log does not fit the database '", options.path, "'"));
  }
  if (!status.ok()) return status;
  position = entry.at;
  changed_tables.merge(tables);
  return ReadCounters();
}

absl::Status Store::Impl::LoadCopy(const std::string& path) {
  int rc = SQLITE_OK;
  {
    Statement attach(database.get(), "ATTACH DATABASE ? AS copy");
    rc = attach.Bind(path).Run();
  }
  if (rc != SQLITE_OK) return database.Error(rc, "copy into");
  std::vector<std::string> tables;
  {
    Statement row(database.get(),
                  "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'");
    while (row.Step()) tables.push_back(row.Text(0));
    rc = row.rc();
  }
  absl::Status status = rc == SQLITE_OK ? database.TransactHere([&] {
    int result = SQLITE_OK;
    for (const std::string& table : tables) {
      if (result == SQLITE_OK) {
        result = database.Exec(
            absl::StrCat("DELETE FROM main.", table, "; INSERT INTO main.", table, " SELECT * FROM copy.", table));
      }
    }
    return result;
  })
                                        : database.Error(rc, "copy into");
  (void)database.Exec("DETACH DATABASE copy");
  if (!status.ok()) return status;
  changed_tables.insert(tables.begin(), tables.end());
  if (status = ReadPosition(); !status.ok()) return status;
  return Load();
}

void Store::Replicate(CommitLog* log) {
  std::lock_guard lock(impl_->mu);
  impl_->log = log;
  impl_->told = impl_->position.number;
  impl_->changed_tables.clear();
  if (log == nullptr) {
    impl_->database.SetWriter(nullptr);
    return;
  }
  impl_->database.SetWriter(
      [impl = impl_.get()](const std::function<int()>& body, WriteKind kind) { return impl->Propose(body, kind); });
}

bool Store::replicated() const {
  std::lock_guard lock(impl_->mu);
  return impl_->log != nullptr;
}

int Store::schema() const { return impl_->schema; }
std::string Store::sealing_key_fingerprint() const {
  std::lock_guard lock(impl_->mu);
  return impl_->sealer.has_value() ? impl_->sealer->Fingerprint() : "";
}

LogPosition Store::log_position() const {
  std::lock_guard lock(impl_->mu);
  return impl_->position;
}

absl::Status Store::BeginLog(const LogPosition& at) {
  std::lock_guard lock(impl_->mu);
  const absl::Status status = impl_->database.TransactHere([&] { return WritePosition(impl_->database.get(), at); });
  if (!status.ok()) return status;
  impl_->position = at;
  impl_->told = at.number;
  return absl::OkStatus();
}

absl::Status Store::ApplyEntry(const LogEntry& entry) {
  std::lock_guard lock(impl_->mu);
  return impl_->Apply(entry);
}

absl::Status Store::LoadCopy(const std::string& path) {
  {
    // As the copy's own control plane would: it may be of an older schema.
    StoreOptions options = impl_->options;
    options.path = path;
    options.sealing_key = impl_->SealingKeyPath();
    options.create = true;
    options.keep_copy = false;
    absl::StatusOr<std::unique_ptr<Store>> copy = Store::Open(std::move(options));
    if (!copy.ok()) return copy.status();
    if (absl::Status s =
            (*copy)->impl_->database.Exec("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode=DELETE") == SQLITE_OK
                ? absl::OkStatus()
                : absl::UnavailableError(absl::StrCat("cannot write '", path, "'"));
        !s.ok()) {
      return s;
    }
  }
  std::lock_guard lock(impl_->mu);
  return impl_->LoadCopy(path);
}

Store::Untold Store::TakeUntold() {
  std::lock_guard lock(impl_->mu);
  return {impl_->position.number, std::exchange(impl_->changed_tables, {})};
}

void Store::Told(uint64_t position) {
  std::lock_guard lock(impl_->mu);
  impl_->told = std::max(impl_->told, position);
}

bool Store::all_told() const {
  std::lock_guard lock(impl_->mu);
  return impl_->told == impl_->position.number;
}

absl::Status Store::CatchUp() {
  CommitLog* log = nullptr;
  {
    std::lock_guard lock(impl_->mu);
    log = impl_->log;
  }
  return log == nullptr ? absl::OkStatus() : log->CatchUp();
}

absl::Status Store::Reload() {
  std::lock_guard lock(impl_->mu);
  impl_->loaded.clear();
  return impl_->Load();
}

absl::StatusOr<std::vector<Edit>> Store::EditsOf(uint64_t revision) {
  std::lock_guard lock(impl_->mu);
  std::vector<Edit> edits;
  Statement row(
      impl_->database.get(),
      "SELECT kind, name, body, checksum, revision, changed_at, built_in, owner, op, body IS NULL FROM history "
      "WHERE revision = ? ORDER BY kind, name");
  row.Bind(static_cast<int64_t>(revision));
  while (row.Step()) {
    Edit& edit = edits.emplace_back();
    edit.key = {row.Text(0), row.Text(1)};
    edit.op = static_cast<v1::Change::Op>(row.Int(8));
    edit.built_in = row.Int(6) != 0;
    edit.set = row.Text(7);
    if (row.Int(9) != 0) continue;
    ResourceSet read;
    if (absl::Status s = impl_->ReadRow(row, &read, static_cast<int>(row.Int(8))); !s.ok()) return s;
    edit.resource = read.begin()->second.resource;
  }
  if (row.rc() != SQLITE_OK) return impl_->database.Error(row.rc(), "read");
  return edits;
}

}  // namespace gateway::controlplane
