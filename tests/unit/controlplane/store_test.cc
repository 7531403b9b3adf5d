#include "controlplane/store/store.h"

#include <signal.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/unit/controlplane/testing.h"

namespace gateway::controlplane {
namespace {

v1::RevisionInfo Info(uint64_t revision, const std::string& actor = "tester") {
  v1::RevisionInfo info;
  info.set_revision(revision);
  info.mutable_time()->set_seconds(1'700'000'000 + static_cast<int64_t>(revision));
  info.set_actor(actor);
  return info;
}

Edit PutEdit(const v1::Resource& resource, v1::Change::Op op = v1::Change::CREATED) {
  return {KeyOf(resource), op, std::make_shared<const v1::Resource>(resource), false, ""};
}
Edit DeleteEdit(const ResourceKey& key) { return {key, v1::Change::DELETED, nullptr, false, ""}; }

std::unique_ptr<Store> MustOpen(StoreOptions options) {
  auto store = Store::Open(std::move(options));
  EXPECT_TRUE(store.ok()) << store.status();
  return store.ok() ? *std::move(store) : nullptr;
}

std::string Contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
void Overwrite(const std::string& path, const std::string& contents) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << contents;
}

// Runs SQL on a file that no store has open.
void Sql(const std::string& path, const std::string& sql) {
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(path.c_str(), &db), SQLITE_OK);
  char* error = nullptr;
  EXPECT_EQ(sqlite3_exec(db, sql.c_str(), nullptr, nullptr, &error), SQLITE_OK) << error;
  sqlite3_close(db);
}

// The error of an open that must fail, name the file and leave its bytes unchanged.
absl::Status RefusedUntouched(StoreOptions options) {
  const std::string path = options.path;
  const std::string before = Contents(path);
  absl::Status status = Store::Open(std::move(options)).status();
  EXPECT_NE(std::string(status.message()).find(path), std::string::npos) << status;
  EXPECT_EQ(Contents(path), before) << "the file was changed";
  return status;
}

TEST(Store, WhatWasCommittedIsThereAfterReopening) {
  TempDir dir;
  std::string epoch;
  {
    auto store = MustOpen(At(dir.File("gateway.db")));
    epoch = store->epoch();
    EXPECT_EQ(store->revision(), 0u);
    const Edit edits[] = {PutEdit(StaticService("a")), PutEdit(StaticService("b"))};
    ASSERT_TRUE(store->Commit(Info(1), "127.0.0.1", edits).ok());
    const Edit more[] = {DeleteEdit({"Service", "a"})};
    ASSERT_TRUE(store->Commit(Info(2), "127.0.0.1", more).ok());
  }
  auto store = MustOpen(At(dir.File("gateway.db")));
  EXPECT_EQ(store->epoch(), epoch);
  EXPECT_EQ(store->revision(), 2u);
  ResourceSet set = store->TakeLoaded();
  ASSERT_EQ(set.size(), 1u);
  const ResourceRecord& b = set.at({"Service", "b"});
  EXPECT_EQ(b.revision, 1u);
  EXPECT_EQ(absl::ToUnixSeconds(b.changed_at), 1'700'000'001);
  EXPECT_EQ(CanonicalBytes(*b.resource), CanonicalBytes(StaticService("b")));
}

TEST(Store, ARevisionIsWrittenWholeOrNotAtAll) {
  TempDir dir;
  auto store = MustOpen(At(dir.File("gateway.db")));
  // The second edit of the same resource violates history's primary key after the first was written.
  const Edit edits[] = {PutEdit(StaticService("a")), PutEdit(StaticService("b")), PutEdit(StaticService("a"))};
  EXPECT_FALSE(store->Commit(Info(1), "", edits).ok());
  EXPECT_EQ(store->revision(), 0u);
  EXPECT_GT(store->errors(), 0u);
  const Edit good[] = {PutEdit(StaticService("c"))};
  ASSERT_TRUE(store->Commit(Info(1), "", good).ok());
  store.reset();
  ResourceSet set = MustOpen(At(dir.File("gateway.db")))->TakeLoaded();
  EXPECT_EQ(set.size(), 1u);
}

TEST(Store, AnyKeptRevisionCanBePutTogetherAgain) {
  TempDir dir;
  StoreOptions options = At(dir.File("gateway.db"));
  options.history_revisions_max = 5;
  auto store = MustOpen(options);
  // The expected set after each revision.
  std::vector<std::map<std::string, std::string>> expected(1);
  for (uint64_t r = 1; r <= 40; ++r) {
    auto now = expected.back();
    const std::string name = absl::StrCat("s", r * 7 % 6);
    std::vector<Edit> edits;
    if (r % 4 == 0 && now.contains(name)) {
      now.erase(name);
      edits.push_back(DeleteEdit({"Service", name}));
    } else {
      const v1::Resource resource = StaticService(name, absl::StrCat("127.0.0.1:", 1000 + r));
      now[name] = resource.service().static_(0).address();
      edits.push_back(PutEdit(resource));
    }
    ASSERT_TRUE(store->Commit(Info(r), "", edits).ok());
    expected.push_back(now);
    for (uint64_t past = 1; past <= r; ++past) {
      auto set = store->SetAt(past);
      if (past + 5 <= r) {
        EXPECT_EQ(set.status().code(), absl::StatusCode::kOutOfRange) << past << " of " << r;
        continue;
      }
      ASSERT_TRUE(set.ok()) << set.status();
      std::map<std::string, std::string> got;
      for (const auto& [key, record] : set->resources) got[key.name] = record.resource->service().static_(0).address();
      EXPECT_EQ(got, expected[past]) << past << " of " << r;
    }
  }
  EXPECT_EQ(store->RevisionsBefore(0, {}, 100)->size(), 5u);
  EXPECT_EQ(store->RevisionsAfter(3, 10).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(store->SetAt(41).status().code(), absl::StatusCode::kNotFound);
  store.reset();
  // History holds no more than it needs: at most one base row per resource besides those of five revisions.
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(dir.File("gateway.db").c_str(), &db), SQLITE_OK);
  sqlite3_exec(
      db, "SELECT count(*) FROM history",
      [](void*, int, char** row, char**) {
        EXPECT_LE(atoi(row[0]), 5 + 6);
        return 0;
      },
      nullptr, nullptr);
  sqlite3_close(db);
}

TEST(Store, HistoryIsBoundedByItsRowsToo) {
  TempDir dir;
  StoreOptions options = At(dir.File("gateway.db"));
  options.history_rows_max = 10;
  auto store = MustOpen(options);
  for (uint64_t r = 1; r <= 20; ++r) {
    std::vector<Edit> edits;
    for (int i = 0; i < 4; ++i) edits.push_back(PutEdit(StaticService(absl::StrCat("s", i))));
    ASSERT_TRUE(store->Commit(Info(r), "", edits).ok());
  }
  EXPECT_EQ(store->RevisionsBefore(0, {}, 100)->size(), 2u);
  EXPECT_EQ(store->SetAt(19)->resources.size(), 4u);
}

// The copy that a migration leaves: "gateway.db.schemaN.backup".
std::string CopyOf(const TempDir& dir) {
  for (const auto& file : std::filesystem::directory_iterator(dir.path())) {
    if (file.path().extension() == ".backup") return file.path();
  }
  return "no copy";
}

TEST(Store, ANewerFileIsRefused) {
  TempDir dir;
  MustOpen(At(dir.File("gateway.db"))).reset();
  Sql(dir.File("gateway.db"), "PRAGMA user_version=99");
  absl::Status status = RefusedUntouched(At(dir.File("gateway.db")));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(std::string(status.message()).find("newer version"), std::string::npos) << status;
  EXPECT_NE(std::string(status.message()).find("restore a backup of before the upgrade"), std::string::npos) << status;
}

TEST(Store, GoingBackNamesTheCopyOfBeforeTheUpgradeWhichWorks) {
  TempDir dir;
  const std::string path = dir.File("gateway.db");
  MustOpen(At(path)).reset();
  StoreOptions newer = At(path);
  newer.further_migrations = {"CREATE TABLE further(x INTEGER) STRICT"};
  MustOpen(newer).reset();
  const absl::Status status = RefusedUntouched(At(path));
  const std::string copy = CopyOf(dir);
  EXPECT_NE(std::string(status.message()).find(copy), std::string::npos) << status;
  std::filesystem::rename(copy, path);
  for (const char* suffix : {"-wal", "-shm"}) std::filesystem::remove(path + suffix);
  EXPECT_NE(MustOpen(At(path)), nullptr);
}

TEST(Store, AnotherProgramsDatabaseIsRefused) {
  TempDir dir;
  Sql(dir.File("other.db"), "CREATE TABLE recipes(name TEXT)");
  EXPECT_NE(std::string(RefusedUntouched(At(dir.File("other.db"))).message()).find("not a gateway's database"),
            std::string::npos);
}

// SQLite treats a file shorter than a page as an empty database.
TEST(Store, AnEmptyOrShortFileIsALostDatabaseAndNoFirstStart) {
  TempDir dir;
  for (const size_t bytes : {0, 1, 100, 511}) {
    Overwrite(dir.File("gateway.db"), std::string(bytes, '\0'));
    const absl::Status status = RefusedUntouched(At(dir.File("gateway.db")));
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << bytes;
    EXPECT_NE(std::string(status.message()).find("restore a backup"), std::string::npos) << status;
  }
  Overwrite(dir.File("gateway.db"), std::string(4096, '\0'));
  EXPECT_FALSE(RefusedUntouched(At(dir.File("gateway.db"))).ok());
}

TEST(Store, AFileIsCreatedWholeAndOnce) {
  TempDir dir;
  const std::string path = dir.File("folder/gateway.db");
  // Left by a process that was killed while creating it.
  std::filesystem::create_directory(dir.File("folder"));
  Overwrite(path + ".new", "half");
  auto store = MustOpen(At(path));
  EXPECT_TRUE(store->created());
  EXPECT_EQ(store->takeover(), Takeover::kUndecided);
  EXPECT_FALSE(std::filesystem::exists(path + ".new"));
  const std::string epoch = store->epoch();
  ASSERT_TRUE(store->SetTakeover(Takeover::kHeld).ok());
  store.reset();
  store = MustOpen(At(path));
  EXPECT_FALSE(store->created());
  EXPECT_EQ(store->takeover(), Takeover::kHeld);
  EXPECT_EQ(store->epoch(), epoch);
}

TEST(Store, AFileOfAVersionThatDidNotAskMayTakeOver) {
  TempDir dir;
  MustOpen(At(dir.File("gateway.db"))).reset();
  Sql(dir.File("gateway.db"), "DELETE FROM meta WHERE key = 'takeover'");
  EXPECT_EQ(MustOpen(At(dir.File("gateway.db")))->takeover(), Takeover::kAccepted);
}

// Goal: the log of a lost database does not get into a new one. Method: the log of a store that is still open, as kill
// -9 leaves it, without its database.
TEST(Store, ALogWithoutItsDatabaseIsPutAside) {
  TempDir dir;
  const std::string path = dir.File("gateway.db");
  {
    auto store = MustOpen(At(dir.File("old.db")));
    const Edit edits[] = {PutEdit(StaticService("old"))};
    ASSERT_TRUE(store->Commit(Info(1), "", edits).ok());
    ASSERT_GT(std::filesystem::file_size(dir.File("old.db-wal")), 0u);
    std::filesystem::copy_file(dir.File("old.db-wal"), path + "-wal");
  }
  auto store = MustOpen(At(path));
  EXPECT_EQ(store->revision(), 0u);
  EXPECT_EQ(store->takeover(), Takeover::kHeld);
  EXPECT_TRUE(std::filesystem::exists(path + "-wal.lost"));
}

TEST(Store, AMigrationKeepsACopyAndIsWholeOrNothing) {
  TempDir dir;
  StoreOptions options = At(dir.File("gateway.db"));
  {
    auto store = MustOpen(options);
    const Edit edits[] = {PutEdit(StaticService("a"))};
    ASSERT_TRUE(store->Commit(Info(1), "", edits).ok());
  }
  StoreOptions broken = options;
  broken.further_migrations = {"CREATE TABLE added(x TEXT) STRICT; DROP TABLE resources; SELECT nonsense;"};
  EXPECT_FALSE(Store::Open(broken).ok());
  EXPECT_EQ(MustOpen(options)->TakeLoaded().size(), 1u) << "a failed migration left its half";

  StoreOptions next = options;
  next.further_migrations = {"CREATE TABLE added(x TEXT) STRICT;"};
  EXPECT_EQ(MustOpen(next)->TakeLoaded().size(), 1u);
  EXPECT_EQ(Store::Open(options).status().code(), absl::StatusCode::kFailedPrecondition) << "the older version";
  EXPECT_EQ(MustOpen(At(CopyOf(dir)))->TakeLoaded().size(), 1u);
}

// It holds password hashes: the mode is 0600 whatever the umask, even if the file existed.
TEST(Store, OnlyItsOwnerMayReadIt) {
  TempDir dir;
  const std::string path = dir.File("gateway.db");
  const auto mode = [](const std::string& file) {
    struct stat there {};
    EXPECT_EQ(stat(file.c_str(), &there), 0) << file;
    return there.st_mode & 0777;
  };
  const mode_t before = umask(0);
  const Edit edits[] = {PutEdit(StaticService("a"))};
  {
    auto store = MustOpen(At(path));
    ASSERT_TRUE(store->Commit(Info(1), "", edits).ok());
    EXPECT_EQ(mode(path), 0600u);
    EXPECT_EQ(mode(path + "-wal"), 0600u);
  }
  ASSERT_EQ(chmod(path.c_str(), 0644), 0);
  {
    auto store = MustOpen(At(path));
    ASSERT_TRUE(store->Commit(Info(2), "", edits).ok());
    EXPECT_EQ(mode(path), 0600u);
    EXPECT_EQ(mode(path + "-wal"), 0600u);
  }
  StoreOptions next = At(path);
  next.further_migrations = {"CREATE TABLE added(x TEXT) STRICT;"};
  MustOpen(next).reset();
  EXPECT_EQ(mode(CopyOf(dir)), 0600u);
  umask(before);
}

TEST(Store, AFileInUseIsRefused) {
  TempDir dir;
  auto store = MustOpen(At(dir.File("gateway.db")));
  absl::Status status = Store::Open(At(dir.File("gateway.db"))).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(std::string(status.message()).find("in use by another control plane"), std::string::npos) << status;
  const Edit edits[] = {PutEdit(StaticService("a"))};
  EXPECT_TRUE(store->Commit(Info(1), "", edits).ok());
}

class DamagedStore : public testing::Test {
 protected:
  void SetUp() override {
    auto store = MustOpen(At(path_));
    for (uint64_t r = 1; r <= 20; ++r) {
      std::vector<Edit> edits;
      for (int i = 0; i < 20; ++i) edits.push_back(PutEdit(StaticService(absl::StrCat("needle-", r, "-", i))));
      ASSERT_TRUE(store->Commit(Info(r), "", edits).ok());
    }
  }
  TempDir dir_;
  const std::string path_ = dir_.File("gateway.db");
};

TEST_F(DamagedStore, AFlippedBitInsideABlobIsFound) {
  // Changes the row itself, so that SQLite's own checks find nothing.
  Sql(path_,
      "UPDATE resources SET body = CAST(replace(CAST(body AS TEXT), '18081', '18091') AS BLOB) "
      "WHERE name = 'needle-3-4'");
  absl::Status status = RefusedUntouched(At(path_));
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(std::string(status.message()).find("Service/needle-3-4"), std::string::npos) << status;
}

TEST_F(DamagedStore, ASmashedPageIsFound) {
  std::string bytes = Contents(path_);
  for (size_t page = 2; page < bytes.size() / 4096; ++page) memset(bytes.data() + page * 4096, 0x5a, 64);
  Overwrite(path_, bytes);
  EXPECT_EQ(RefusedUntouched(At(path_)).code(), absl::StatusCode::kDataLoss);
}

TEST_F(DamagedStore, ATruncatedFileIsFound) {
  Overwrite(path_, Contents(path_).substr(0, 3 * 4096 + 100));
  EXPECT_EQ(RefusedUntouched(At(path_)).code(), absl::StatusCode::kDataLoss);
}

TEST_F(DamagedStore, GarbageIsFound) {
  Overwrite(path_, std::string(20'000, 'x'));
  EXPECT_EQ(RefusedUntouched(At(path_)).code(), absl::StatusCode::kDataLoss);
}

TEST_F(DamagedStore, AFlippedBitInHistoryIsFoundWhereItIsRead) {
  Sql(path_,
      "UPDATE history SET body = CAST(replace(CAST(body AS TEXT), '18081', '18091') AS BLOB) WHERE revision = 7");
  auto store = MustOpen(At(path_));
  EXPECT_TRUE(store->SetAt(6).ok());
  EXPECT_EQ(store->SetAt(7).status().code(), absl::StatusCode::kDataLoss);
}

// Runs `body` in a child without root's right to write anywhere; returns its exit code.
int InUnprivilegedChild(const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    if (geteuid() == 0 && (setegid(65534) != 0 || seteuid(65534) != 0)) _exit(100);
    _exit(body());
  }
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Store, AReadOnlyFileAndAReadOnlyFolderAreRefused) {
  TempDir dir;
  const std::string path = dir.File("gateway.db");
  MustOpen(At(path)).reset();
  const std::string before = Contents(path);
  std::filesystem::permissions(dir.path(), std::filesystem::perms(0555));
  auto refused = [&] {
    absl::Status status = Store::Open(At(path)).status();
    if (status.code() != absl::StatusCode::kPermissionDenied) return 1;
    return std::string(status.message()).find(path) == std::string::npos ? 2 : 0;
  };
  std::filesystem::permissions(path, std::filesystem::perms(0444));
  EXPECT_EQ(InUnprivilegedChild(refused), 0) << "read-only file";
  std::filesystem::permissions(path, std::filesystem::perms(0666));
  EXPECT_EQ(InUnprivilegedChild(refused), 0) << "read-only folder";
  std::filesystem::permissions(dir.path(), std::filesystem::perms(0755));
  EXPECT_EQ(Contents(path), before);
}

TEST(Store, AFullDiskRefusesTheChangeAndTakesTheNextOneThatFits) {
  TempDir dir;
  StoreOptions options = At(dir.File("gateway.db"));
  options.page_count_max = 40;
  auto store = MustOpen(options);
  uint64_t revision = 0;
  absl::Status status;
  while (status.ok() && revision < 1000) {
    std::vector<Edit> edits;
    for (int i = 0; i < 20; ++i) edits.push_back(PutEdit(StaticService(absl::StrCat("s-", revision, "-", i))));
    status = store->Commit(Info(revision + 1), "", edits);
    if (status.ok()) ++revision;
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_NE(std::string(status.message()).find(options.path), std::string::npos) << status;
  ASSERT_GT(revision, 0u);
  EXPECT_EQ(store->revision(), revision);
  EXPECT_EQ(store->SetAt(revision)->resources.size(), revision * 20) << "reads still work";
  store.reset();

  // Space again: the same store continues.
  options.page_count_max = 0;
  store = MustOpen(options);
  EXPECT_EQ(store->TakeLoaded().size(), revision * 20);
  const Edit edits[] = {PutEdit(StaticService("after"))};
  EXPECT_TRUE(store->Commit(Info(revision + 1), "", edits).ok());
}

// Goal: kill -9 loses no acknowledged commit and leaves no partial one. Method: a child commits as fast as it can and
// reports each revision over a pipe after Commit returns; it is killed at a random time, a hundred times.
TEST(Store, KillNineLosesNothingThatWasAcknowledged) {
  TempDir dir;
  const std::string path = dir.File("gateway.db");
  const unsigned seed = static_cast<unsigned>(absl::ToUnixMicros(absl::Now()));
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  srand(seed);
  uint64_t acknowledged = 0;
  for (int round = 0; round < 100; ++round) {
    int pipe_ends[2];
    ASSERT_EQ(pipe(pipe_ends), 0);
    const pid_t child = fork();
    if (child == 0) {
      auto store = Store::Open(At(path));
      if (!store.ok()) _exit(1);
      for (uint64_t r = (*store)->revision() + 1;; ++r) {
        // Two resources per revision, which must appear together.
        const Edit edits[] = {PutEdit(StaticService("left", absl::StrCat("127.0.0.1:", r % 60000 + 1))),
                              PutEdit(StaticService("right", absl::StrCat("127.0.0.1:", r % 60000 + 1)))};
        if (!(*store)->Commit(Info(r), "", edits).ok()) _exit(2);
        if (write(pipe_ends[1], &r, sizeof r) != sizeof r) _exit(3);
      }
    }
    close(pipe_ends[1]);
    // Not before the first one, so that every round writes.
    uint64_t told = 0;
    if (read(pipe_ends[0], &told, sizeof told) == sizeof told) acknowledged = told;
    usleep(static_cast<useconds_t>(rand() % 4000));  // the moment of the kill, not a wait for a result
    kill(child, SIGKILL);
    while (read(pipe_ends[0], &told, sizeof told) == sizeof told) acknowledged = told;
    close(pipe_ends[0]);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended by itself: " << WEXITSTATUS(status);

    auto store = Store::Open(At(path));
    ASSERT_TRUE(store.ok()) << store.status();
    ASSERT_GE((*store)->revision(), acknowledged) << "an acknowledged revision is gone";
    ASSERT_LE((*store)->revision(), acknowledged + 1);
    ResourceSet set = (*store)->TakeLoaded();
    const std::string want = absl::StrCat("127.0.0.1:", (*store)->revision() % 60000 + 1);
    for (const char* name : {"left", "right"}) {
      ASSERT_EQ(set.at({"Service", name}).resource->service().static_(0).address(), want) << name;
    }
    acknowledged = (*store)->revision();
  }
  EXPECT_GE(acknowledged, 100u);
}

// A VFS that forwards everything to SQLite's own and records, in order, what is written and synced; a sync can be made
// to fail.
struct Recorder {
  static inline std::vector<std::string> calls;
  static inline bool fail_sync = false;

  struct File {
    sqlite3_file base;
    const char* name;
    bool wal;
    sqlite3_file* real() { return reinterpret_cast<sqlite3_file*>(this + 1); }
  };
  static sqlite3_vfs* Root() { return sqlite3_vfs_find(nullptr); }
  static File* Of(sqlite3_file* file) { return reinterpret_cast<File*>(file); }
  static sqlite3_file* Real(sqlite3_file* file) { return Of(file)->real(); }

  static int Open(sqlite3_vfs*, const char* name, sqlite3_file* file, int flags, int* out) {
    static sqlite3_io_methods methods = [] {
      sqlite3_io_methods m{};
      m.iVersion = 1;  // no shared memory: an exclusive connection needs none
      m.xClose = [](sqlite3_file* f) { return Real(f)->pMethods ? Real(f)->pMethods->xClose(Real(f)) : SQLITE_OK; };
      m.xRead = [](sqlite3_file* f, void* to, int n, sqlite3_int64 at) {
        return Real(f)->pMethods->xRead(Real(f), to, n, at);
      };
      m.xWrite = [](sqlite3_file* f, const void* from, int n, sqlite3_int64 at) {
        calls.push_back(Of(f)->wal ? "write wal" : "write other");
        return Real(f)->pMethods->xWrite(Real(f), from, n, at);
      };
      m.xTruncate = [](sqlite3_file* f, sqlite3_int64 size) { return Real(f)->pMethods->xTruncate(Real(f), size); };
      m.xSync = [](sqlite3_file* f, int how) {
        calls.push_back(Of(f)->wal ? "sync wal" : "sync other");
        if (fail_sync) return SQLITE_IOERR_FSYNC;
        return Real(f)->pMethods->xSync(Real(f), how);
      };
      m.xFileSize = [](sqlite3_file* f, sqlite3_int64* size) { return Real(f)->pMethods->xFileSize(Real(f), size); };
      m.xLock = [](sqlite3_file* f, int level) { return Real(f)->pMethods->xLock(Real(f), level); };
      m.xUnlock = [](sqlite3_file* f, int level) { return Real(f)->pMethods->xUnlock(Real(f), level); };
      m.xCheckReservedLock = [](sqlite3_file* f, int* held) {
        return Real(f)->pMethods->xCheckReservedLock(Real(f), held);
      };
      m.xFileControl = [](sqlite3_file* f, int op, void* arg) {
        return Real(f)->pMethods->xFileControl(Real(f), op, arg);
      };
      m.xSectorSize = [](sqlite3_file* f) { return Real(f)->pMethods->xSectorSize(Real(f)); };
      m.xDeviceCharacteristics = [](sqlite3_file* f) { return Real(f)->pMethods->xDeviceCharacteristics(Real(f)); };
      return m;
    }();
    File* mine = Of(file);
    mine->name = name;
    mine->wal = (flags & SQLITE_OPEN_WAL) != 0;
    mine->base.pMethods = nullptr;
    const int rc = Root()->xOpen(Root(), name, mine->real(), flags, out);
    if (rc == SQLITE_OK) mine->base.pMethods = &methods;
    return rc;
  }
  static void Register() {
    static sqlite3_vfs vfs = [] {
      sqlite3_vfs v = *Root();
      v.zName = "recorder";
      v.szOsFile = static_cast<int>(sizeof(File)) + Root()->szOsFile;
      v.xOpen = &Open;
      return v;
    }();
    sqlite3_vfs_register(&vfs, 0);
    calls.clear();
    fail_sync = false;
  }
};

TEST(Store, ACommitIsSyncedBeforeItReturns) {
  TempDir dir;
  Recorder::Register();
  StoreOptions options = At(dir.File("gateway.db"));
  options.vfs = "recorder";
  auto publisher = OpenPublisher(options);
  ASSERT_NE(publisher, nullptr);
  for (int i = 0; i < 20; ++i) {
    Recorder::calls.clear();
    auto done = publisher->Apply(ApplyOf({StaticService(absl::StrCat("s", i))}), "127.0.0.1");
    ASSERT_TRUE(done.ok()) << done.status();
    const std::vector<std::string> calls = Recorder::calls;  // everything before the reply
    auto last_write = std::find(calls.rbegin(), calls.rend(), "write wal");
    ASSERT_NE(last_write, calls.rend()) << "nothing was written";
    EXPECT_NE(std::find(calls.rbegin(), last_write, "sync wal"), last_write)
        << "the log was not synced after its last write";
  }
}

TEST(Store, AFailedSyncIsAnErrorAndNothingIsWrittenAfterIt) {
  TempDir dir;
  Recorder::Register();
  StoreOptions options = At(dir.File("gateway.db"));
  options.vfs = "recorder";
  auto publisher = OpenPublisher(options);
  ASSERT_NE(publisher, nullptr);
  const uint64_t revision = publisher->current()->revision;
  Recorder::fail_sync = true;
  EXPECT_EQ(publisher->Apply(ApplyOf({StaticService("a")}), "").status().code(), absl::StatusCode::kUnavailable);
  Recorder::fail_sync = false;
  // The kernel may have discarded what it could not write: a sync that succeeds now would prove nothing.
  EXPECT_EQ(publisher->Apply(ApplyOf({StaticService("a")}), "").status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(publisher->current()->revision, revision);
  EXPECT_FALSE(publisher->current()->resources->contains({"Service", "a"}));
}

// A Certificate; the store does not care what its key is.
v1::Resource Keyed(const std::string& name, const std::string& key) {
  v1::Resource resource;
  resource.mutable_certificate()->set_name(name);
  resource.mutable_certificate()->mutable_certificate()->set_inline_("chain of " + name);
  resource.mutable_certificate()->mutable_key()->set_inline_(key);
  return resource;
}

TEST(Store, PrivateKeysAreSealedOnDisk) {
  TempDir dir;
  const std::string path = dir.File("gateway.db");
  {
    auto store = MustOpen(At(path));
    const Edit edits[] = {PutEdit(Keyed("a", "PRIVATE-KEY-1"))};
    ASSERT_TRUE(store->Commit(Info(1), "", edits).ok());
    const Edit more[] = {PutEdit(Keyed("a", "PRIVATE-KEY-2"), v1::Change::UPDATED)};
    ASSERT_TRUE(store->Commit(Info(2), "", more).ok());
  }
  struct stat there {};
  ASSERT_EQ(stat((path + ".sealing-key").c_str(), &there), 0);
  EXPECT_EQ(there.st_mode & 0777, 0600u);
  EXPECT_EQ(Contents(path).find("PRIVATE-KEY"), std::string::npos);
  EXPECT_EQ(Contents(path + "-wal").find("PRIVATE-KEY"), std::string::npos);
  EXPECT_NE(Contents(path).find("chain of a"), std::string::npos) << "it is public";
  auto store = MustOpen(At(path));
  EXPECT_EQ(store->TakeLoaded().at({"Certificate", "a"}).resource->certificate().key().inline_(), "PRIVATE-KEY-2");
  const auto past = store->SetAt(1);
  ASSERT_TRUE(past.ok()) << past.status();
  EXPECT_EQ(past->resources.at({"Certificate", "a"}).resource->certificate().key().inline_(), "PRIVATE-KEY-1");
}

TEST(Store, WithoutItsSealingKeyItDoesNotOpen) {
  TempDir dir;
  const std::string path = dir.File("gateway.db");
  const std::string key = path + ".sealing-key";
  {
    auto store = MustOpen(At(path));
    const Edit edits[] = {PutEdit(Keyed("a", "PRIVATE-KEY-1"))};
    ASSERT_TRUE(store->Commit(Info(1), "", edits).ok());
  }
  std::filesystem::rename(key, key + ".aside");
  absl::Status status = RefusedUntouched(At(path));
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_NE(std::string(status.message()).find(key), std::string::npos) << status;
  EXPECT_FALSE(std::filesystem::exists(key)) << "a new one would hide the loss";
  {
    auto other = MustOpen(At(dir.File("other.db")));  // makes another key
    ASSERT_NE(other, nullptr);
  }
  StoreOptions options = At(path);
  options.sealing_key = dir.File("other.db.sealing-key");
  status = RefusedUntouched(options);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_NE(std::string(status.message()).find("Certificate/a"), std::string::npos) << status;
  std::filesystem::rename(key + ".aside", key);
  EXPECT_EQ(MustOpen(At(path))->TakeLoaded().size(), 1u);
}

// No row can replace another, even for someone who can write the file.
TEST(Store, ASealedKeyIsBoundToItsRow) {
  TempDir dir;
  const std::string path = dir.File("gateway.db");
  {
    auto store = MustOpen(At(path));
    const Edit edits[] = {PutEdit(Keyed("a", "PRIVATE-KEY-1")), PutEdit(Keyed("b", "PRIVATE-KEY-2"))};
    ASSERT_TRUE(store->Commit(Info(1), "", edits).ok());
  }
  Sql(path, "UPDATE resources SET body = (SELECT body FROM resources WHERE name = 'b') WHERE name = 'a'");
  EXPECT_FALSE(Store::Open(At(path)).ok());
}

}  // namespace
}  // namespace gateway::controlplane
