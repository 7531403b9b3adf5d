// Backup, check, restore and reseal, on real files.
#include "controlplane/maintenance.h"

#include <sqlite3.h>
#include <sys/stat.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "controlplane/store/closed_database.h"
#include "gmock/gmock.h"
#include "tests/unit/controlplane/testing.h"

namespace gateway::controlplane {
namespace {

using testing::HasSubstr;

std::string Contents(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

void Write(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

// Changes the database behind the store's back.
void Sql(const std::string& path, const std::string& sql) {
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(path.c_str(), &db), SQLITE_OK);
  EXPECT_EQ(sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK) << sqlite3_errmsg(db);
  sqlite3_close(db);
}

PolicyContext Context() { return {BuiltinResources(BuiltinRateLimit{}), "api-gateway"}; }

// A Certificate that does not compile (its key is no key): for stores alone.
v1::Resource Keyed(const std::string& name, const std::string& key) {
  v1::Resource resource;
  resource.mutable_certificate()->set_name(name);
  resource.mutable_certificate()->mutable_certificate()->set_inline_("chain of " + name);
  resource.mutable_certificate()->mutable_key()->set_inline_(key);
  return resource;
}

class MaintenanceTest : public testing::Test {
 protected:
  void SetUp() override {
    publisher_ = OpenPublisher(options_);
    ASSERT_NE(publisher_, nullptr);
    ASSERT_TRUE(publisher_->Apply(ApplyOf({StaticService("a"), PrefixRoute("r", "a")}), "here").ok());
  }
  void BackUp() {
    const auto revision = publisher_->store().BackUp(backup_);
    ASSERT_TRUE(revision.ok()) << revision.status();
    EXPECT_EQ(*revision, publisher_->current()->revision);
  }
  // Nothing that a failed restore or a check may leave.
  std::vector<std::string> Files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(dir_.path())) names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }

  TempDir dir_;
  StoreOptions options_ = At(dir_.File("gateway.db"));
  const std::string backup_ = dir_.File("copy.backup");
  std::unique_ptr<Publisher> publisher_;
};

TEST_F(MaintenanceTest, ABackupIsPrivateWholeAndOfOneMomentWhileChangesGoOn) {
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    for (int i = 0; !stop; ++i) {
      // Two resources that belong together in each revision.
      const std::string address = absl::StrCat("127.0.0.1:", 1000 + i % 1000);
      ASSERT_TRUE(publisher_->Apply(ApplyOf({StaticService("x", address), StaticService("y", address)}), "").ok());
    }
  });
  for (int i = 0; i < 20; ++i) {
    std::filesystem::remove(backup_);
    const auto revision = publisher_->store().BackUp(backup_);
    ASSERT_TRUE(revision.ok()) << revision.status();
    struct stat there {};
    ASSERT_EQ(stat(backup_.c_str(), &there), 0);
    EXPECT_EQ(there.st_mode & 0777, 0600u);
    EXPECT_FALSE(std::filesystem::exists(backup_ + "-wal"));
    const auto checked = CheckDatabase(At(dir_.File("elsewhere.db")), Context(), backup_);
    ASSERT_TRUE(checked.ok()) << checked.status();
    EXPECT_EQ(checked->revision, *revision);
    StoreOptions copy = At(backup_);
    copy.sealing_key = dir_.File("gateway.db.sealing-key");
    auto store = Store::Open(copy);
    ASSERT_TRUE(store.ok()) << store.status();
    const ResourceSet set = (*store)->TakeLoaded();
    if (!set.contains({"Service", "x"})) continue;
    EXPECT_EQ(set.at({"Service", "x"}).resource->service().static_(0).address(),
              set.at({"Service", "y"}).resource->service().static_(0).address());
  }
  stop = true;
  writer.join();
}

TEST_F(MaintenanceTest, CheckReadsEverythingAndChangesNothing) {
  BackUp();
  const auto busy = CheckDatabase(options_, Context());
  EXPECT_TRUE(absl::IsUnavailable(busy.status())) << busy.status();
  publisher_.reset();
  const std::string before = Contents(options_.path);
  const std::vector<std::string> files = Files();
  const auto checked = CheckDatabase(options_, Context());
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_EQ(checked->revision, 2u);
  EXPECT_EQ(checked->oldest_revision, 1u);
  EXPECT_EQ(checked->resources, 2u);
  EXPECT_EQ(Contents(options_.path), before);
  EXPECT_EQ(Files(), files);

  // A flipped bit in a row that SQLite takes for sound: of history, which no start reads.
  std::string damaged = Contents(backup_);
  size_t at = damaged.find("127.0.0.1:18081");
  ASSERT_NE(at, std::string::npos);
  damaged.replace(at, 1, "2");
  const size_t second = damaged.find("127.0.0.1:18081");
  if (second != std::string::npos) damaged.replace(second, 1, "2");
  Write(backup_, damaged);
  const auto flipped = CheckDatabase(options_, Context(), backup_);
  EXPECT_TRUE(absl::IsDataLoss(flipped.status())) << flipped.status();
  EXPECT_THAT(std::string(flipped.status().message()), HasSubstr(backup_));
  EXPECT_TRUE(absl::IsNotFound(CheckDatabase(options_, Context(), dir_.File("nothing")).status()));
  EXPECT_TRUE(absl::IsNotFound(CheckDatabase(At(dir_.File("nothing.db")), Context()).status()));
  EXPECT_FALSE(std::filesystem::exists(dir_.File("nothing.db")));
}

TEST_F(MaintenanceTest, CheckReadsDrainsAndWhatBecameOfChanges) {
  v1::ApplyRequest request = ApplyOf({StaticService("b")});
  request.mutable_confirm_within()->set_seconds(60);
  ASSERT_TRUE(publisher_->Apply(request, "here").ok());
  ASSERT_TRUE(publisher_->store().PutDrain("dp-1", v1::DataPlaneDrain()).ok());
  publisher_.reset();
  ASSERT_TRUE(CheckDatabase(options_, Context()).ok());
  for (const char* table : {"drains", "pending_changes"}) {
    Sql(options_.path, absl::StrCat("UPDATE ", table, " SET checksum = checksum + 1"));
    const auto checked = CheckDatabase(options_, Context());
    EXPECT_TRUE(absl::IsDataLoss(checked.status())) << table << ": " << checked.status();
    Sql(options_.path, absl::StrCat("UPDATE ", table, " SET checksum = checksum - 1"));
  }
  EXPECT_TRUE(CheckDatabase(options_, Context()).ok());
}

TEST_F(MaintenanceTest, RestoreBeginsANewHistoryAndKeepsTheOldDatabase) {
  BackUp();
  const std::string epoch = publisher_->current()->epoch;
  ASSERT_TRUE(publisher_->Apply(ApplyOf({StaticService("later")}), "here").ok());
  const auto busy = RestoreDatabase(options_, Context(), backup_, Takeover::kUndecided, "ann");
  EXPECT_TRUE(absl::IsUnavailable(busy.status())) << busy.status();
  EXPECT_TRUE(publisher_->Apply(ApplyOf({StaticService("even-later")}), "here").ok()) << "it was left alone";
  publisher_.reset();
  const auto restored = RestoreDatabase(options_, Context(), backup_, Takeover::kUndecided, "ann");
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_NE(restored->epoch, epoch);
  publisher_ = OpenPublisher(options_);
  ASSERT_NE(publisher_, nullptr);
  EXPECT_EQ(publisher_->current()->revision, 2u);
  EXPECT_EQ(publisher_->current()->epoch, restored->epoch);
  EXPECT_FALSE(publisher_->current()->resources->contains({"Service", "later"}));
  EXPECT_EQ(publisher_->store().takeover(), Takeover::kUndecided);
  const auto audit = publisher_->store().AuditBefore(0, "ann", absl::InfinitePast(), 10);
  ASSERT_EQ(audit->size(), 1u);
  EXPECT_EQ(audit->front().action(), "Restore");
  publisher_.reset();
  // What was there is a whole database by itself.
  StoreOptions kept = At(restored->kept);
  kept.sealing_key = options_.path + ".sealing-key";
  auto old = OpenPublisher(kept);
  ASSERT_NE(old, nullptr);
  EXPECT_TRUE(old->current()->resources->contains({"Service", "even-later"}));
  EXPECT_EQ(old->current()->epoch, epoch);
}

TEST_F(MaintenanceTest, WhatIsNoBackupIsRefusedAndNothingIsLost) {
  BackUp();
  publisher_.reset();
  const std::string whole = Contents(backup_), before = Contents(options_.path);
  const std::string bad = dir_.File("bad.backup");
  Write(bad, "");
  const std::vector<std::string> files = Files();
  const auto refused = [&](const std::string& text, const char* says) {
    Write(bad, text);
    const auto restored = RestoreDatabase(options_, Context(), bad, Takeover::kUndecided, "ann");
    EXPECT_FALSE(restored.ok());
    EXPECT_THAT(std::string(restored.status().message()), HasSubstr(bad));
    EXPECT_THAT(std::string(restored.status().message()), HasSubstr(says));
    EXPECT_EQ(Contents(options_.path), before);
    EXPECT_EQ(Files(), files);
  };
  refused("", "cut short");
  refused("short", "cut short");
  refused(std::string(10'000, 'x'), "not a database");
  for (size_t bytes = 4096; bytes < whole.size(); bytes += 4096) refused(whole.substr(0, bytes), "");
  refused(whole.substr(0, whole.size() - 1), "");
  std::string foreign = whole;
  foreign[68] = 'N';  // SQLite's application id
  refused(foreign, "not a gateway's database");
  std::string newer = whole;
  newer[60] = newer[61] = 0;
  newer[62] = 0x7f;  // its user_version
  refused(newer, "newer version");
  ASSERT_NE(OpenPublisher(options_), nullptr);
}

TEST_F(MaintenanceTest, ADatabaseThatIsDamagedOrLostIsReplaced) {
  BackUp();
  publisher_.reset();
  for (const std::string& text : {std::string(), std::string(8192, 'z')}) {
    std::filesystem::remove(options_.path + "-wal");
    Write(options_.path, text);
    const auto restored = RestoreDatabase(options_, Context(), backup_, Takeover::kAccepted, "ann");
    ASSERT_TRUE(restored.ok()) << restored.status();
    EXPECT_EQ(Contents(restored->kept), text);
    auto publisher = OpenPublisher(options_);
    ASSERT_NE(publisher, nullptr);
    EXPECT_EQ(publisher->current()->revision, 2u);
    EXPECT_EQ(publisher->store().takeover(), Takeover::kAccepted);
    publisher.reset();
    std::filesystem::remove(restored->kept);
  }
  std::filesystem::remove(options_.path);
  const auto restored = RestoreDatabase(options_, Context(), backup_, Takeover::kUndecided, "ann");
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_EQ(restored->kept, "");
  EXPECT_NE(OpenPublisher(options_), nullptr);
}

// A store with sealed keys in its set and in its history.
class ResealTest : public testing::Test {
 protected:
  void SetUp() override {
    auto store = Store::Open(options_);
    ASSERT_TRUE(store.ok()) << store.status();
    v1::RevisionInfo info;
    info.set_revision(1);
    const Edit first[] = {{KeyOf(Keyed("a", "SECRET-1")), v1::Change::CREATED,
                           std::make_shared<const v1::Resource>(Keyed("a", "SECRET-1")), false, "set"}};
    ASSERT_TRUE((*store)->Commit(info, "", first).ok());
    info.set_revision(2);
    const Edit second[] = {{KeyOf(Keyed("a", "SECRET-2")), v1::Change::UPDATED,
                            std::make_shared<const v1::Resource>(Keyed("a", "SECRET-2")), false, "set"}};
    ASSERT_TRUE((*store)->Commit(info, "", second).ok());
    ASSERT_TRUE((*store)->PutSecret("ticket-keys", "SECRET-3").ok());
  }
  void ExpectReadable() {
    auto store = Store::Open(options_);
    ASSERT_TRUE(store.ok()) << store.status();
    EXPECT_EQ((*store)->TakeLoaded().at({"Certificate", "a"}).resource->certificate().key().inline_(), "SECRET-2");
    EXPECT_EQ((*store)->SetAt(1)->resources.at({"Certificate", "a"}).resource->certificate().key().inline_(),
              "SECRET-1");
    EXPECT_EQ((*store)->Secret("ticket-keys").value_or(""), "SECRET-3");
    EXPECT_TRUE((*store)->CheckAll().ok());
    EXPECT_FALSE(std::filesystem::exists(key_ + ".next"));
  }

  TempDir dir_;
  const StoreOptions options_ = At(dir_.File("gateway.db"));
  const std::string key_ = options_.path + ".sealing-key";
};

TEST_F(ResealTest, AllKeysAreSealedAgainAndNothingOfTheOldIsLeft) {
  const std::string old_key = Contents(key_);
  const std::string old_file = Contents(options_.path);
  const auto done = ResealDatabase(options_, "ann");
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(done->keys, 3u) << "one in the set, two in history";
  EXPECT_EQ(Contents(done->replaced_key), old_key);
  EXPECT_NE(Contents(key_), old_key);
  ExpectReadable();
  // No text that opens under the old key.
  const std::string now = Contents(options_.path);
  for (size_t at = old_file.find("sealed:1:"); at != std::string::npos; at = old_file.find("sealed:1:", at + 1)) {
    EXPECT_EQ(now.find(old_file.substr(at, 60)), std::string::npos);
  }
  // With the old key it does not open.
  std::filesystem::rename(done->replaced_key, key_);
  EXPECT_TRUE(absl::IsFailedPrecondition(Store::Open(options_).status()));
}

TEST_F(ResealTest, ASecretThatNoKeyOpensIsLeftAsItIs) {
  Sql(options_.path, "INSERT INTO secrets(name, body) VALUES('lost', 'sealed:1:AAAA')");
  const auto done = ResealDatabase(options_, "ann");
  ASSERT_TRUE(done.ok()) << done.status();
  ExpectReadable();
  auto store = Store::Open(options_);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_TRUE(absl::IsFailedPrecondition((*store)->Secret("lost").status()));
  EXPECT_TRUE((*store)->PutSecret("lost", "made anew").ok());
  EXPECT_EQ(*(*store)->Secret("lost"), "made anew");
}

TEST_F(ResealTest, ACrashAtAnyPointIsFinishedOrForgottenByTheNextStart) {
  const std::string old_key = Contents(key_);
  // Before the transaction: the new key is there, and nothing is sealed under it.
  Write(key_ + ".next", old_key.substr(1, 1) + old_key.substr(0, 1) + old_key.substr(2));
  std::filesystem::permissions(key_ + ".next", std::filesystem::perms::owner_read);
  ExpectReadable();
  EXPECT_EQ(Contents(key_), old_key);
  Write(key_ + ".next", "half a k");
  ExpectReadable();

  const auto done = ResealDatabase(options_, "ann");
  ASSERT_TRUE(done.ok()) << done.status();
  const std::string new_key = Contents(key_);
  // After the transaction, before the first rename.
  std::filesystem::rename(key_, key_ + ".next");
  std::filesystem::rename(done->replaced_key, key_);
  const auto checked = CheckDatabase(options_, Context());
  EXPECT_THAT(std::string(checked.status().message()), HasSubstr("policy is not valid"))
      << "a check reads it with the new key (and finds that these are no certificates): " << checked.status();
  EXPECT_TRUE(std::filesystem::exists(key_ + ".next")) << "and finishes nothing";
  ExpectReadable();
  EXPECT_EQ(Contents(key_), new_key);
  // Between the two renames.
  std::filesystem::rename(key_, key_ + ".next");
  ExpectReadable();
  EXPECT_EQ(Contents(key_), new_key);
}

TEST_F(ResealTest, ADatabaseInUseOrMissingIsLeftAlone) {
  {
    auto store = Store::Open(options_);
    ASSERT_TRUE(store.ok());
    EXPECT_TRUE(absl::IsUnavailable(ResealDatabase(options_, "ann").status()));
  }
  EXPECT_TRUE(absl::IsNotFound(ResealDatabase(At(dir_.File("none.db")), "ann").status()));
  EXPECT_FALSE(std::filesystem::exists(dir_.File("none.db")));
  ExpectReadable();
}

}  // namespace
}  // namespace gateway::controlplane
