// What the control plane remembers of changes: sets, versions of resources, requests, who changed what.
#include <sqlite3.h>

#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "controlplane/publish/publisher.h"
#include "gmock/gmock.h"
#include "tests/unit/controlplane/testing.h"

namespace gateway::controlplane {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class MemoryTest : public testing::Test {
 protected:
  void SetUp() override { Open(); }
  void Open() {
    publisher_.reset();
    publisher_ = OpenPublisher(At(dir_.File("gateway.db")));
    ASSERT_NE(publisher_, nullptr);
  }
  absl::StatusOr<v1::ApplyResponse> Apply(const v1::ApplyRequest& request) {
    return publisher_->Apply(request, "here");
  }
  absl::StatusOr<v1::ApplyResponse> Sync(const std::string& set, std::initializer_list<v1::Resource> resources) {
    v1::ApplyRequest request = ApplyOf(resources);
    request.set_set(set);
    return Apply(request);
  }
  uint64_t revision() const { return publisher_->current()->revision; }
  bool Has(const std::string& kind, const std::string& name) const {
    return publisher_->current()->resources->contains({kind, name});
  }
  std::string SetOf(const std::string& name) const {
    return publisher_->current()->resources->at({"Service", name}).set;
  }
  std::vector<uint64_t> History(const HistoryFilter& filter) {
    std::vector<uint64_t> numbers;
    const absl::StatusOr<std::vector<v1::RevisionInfo>> page = publisher_->store().RevisionsBefore(0, filter, 100);
    EXPECT_TRUE(page.ok()) << page.status();
    for (const v1::RevisionInfo& info : page.value()) numbers.push_back(info.revision());
    return numbers;
  }

  TempDir dir_;
  std::unique_ptr<Publisher> publisher_;
};

v1::Resource Labelled(v1::Resource resource, const std::string& team) {
  (*resource.mutable_service()->mutable_labels())["team"] = team;
  return resource;
}

TEST_F(MemoryTest, ASetDeletesWhatItHadAndHasNoMoreInTheSameRevision) {
  ASSERT_TRUE(Apply(ApplyOf({StaticService("by-hand")})).ok());
  ASSERT_TRUE(Sync("prod", {StaticService("a"), StaticService("b"), PrefixRoute("r", "b")}).ok());
  const uint64_t before = revision();
  auto done = Sync("prod", {StaticService("a"), StaticService("c")});
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(revision(), before + 1) << "all of it is one revision";
  EXPECT_TRUE(Has("Service", "by-hand")) << "no set owns it";
  EXPECT_FALSE(Has("Service", "b"));
  EXPECT_FALSE(Has("Route", "r"));
  EXPECT_TRUE(Has("Service", "c"));
  EXPECT_EQ(done->changes_size(), 4);
  // All or nothing: b is still needed, so that c does not come either.
  ASSERT_TRUE(Sync("prod", {StaticService("a"), StaticService("b")}).ok());
  ASSERT_TRUE(Apply(ApplyOf({PrefixRoute("other", "b")})).ok());
  EXPECT_EQ(Sync("prod", {StaticService("a"), StaticService("c")}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(Has("Service", "c"));
  EXPECT_TRUE(Has("Service", "b"));
}

TEST_F(MemoryTest, ASetTakesOverWhatNoSetOwnsAndNeverWhatAnotherOwns) {
  ASSERT_TRUE(Apply(ApplyOf({StaticService("a")})).ok());
  ASSERT_TRUE(Sync("one", {StaticService("a")}).ok());
  EXPECT_EQ(SetOf("a"), "one");
  const uint64_t before = revision();
  auto stolen = Sync("two", {StaticService("a"), StaticService("x")});
  EXPECT_TRUE(absl::IsAlreadyExists(stolen.status())) << stolen.status();
  EXPECT_THAT(std::string(stolen.status().message()), HasSubstr("Service/a (set 'one')"));
  EXPECT_EQ(revision(), before);
  EXPECT_FALSE(Has("Service", "x"));
  // A change by hand leaves it the set's, also over a restart and a rollback.
  ASSERT_TRUE(Apply(ApplyOf({StaticService("a", "127.0.0.1:9")})).ok());
  Open();
  EXPECT_EQ(SetOf("a"), "one");
  const uint64_t with_a = revision();
  ASSERT_TRUE(Sync("one", {}).ok());
  EXPECT_FALSE(Has("Service", "a"));
  v1::RollbackRequest back;
  back.set_revision(with_a);
  ASSERT_TRUE(publisher_->Rollback(back, "here").ok());
  EXPECT_EQ(SetOf("a"), "one");
  ASSERT_TRUE(Sync("one", {}).ok());
  EXPECT_FALSE(Has("Service", "a")) << "what a rollback brought back is the set's again";
  ASSERT_TRUE(Sync("two", {StaticService("a")}).ok()) << "what is deleted is anybody's";
}

TEST_F(MemoryTest, PruneDeletesWhatTheSelectorSelectsAndTheRequestHasNot) {
  ASSERT_TRUE(Apply(ApplyOf({Labelled(StaticService("a"), "x"), Labelled(StaticService("b"), "x"),
                             Labelled(StaticService("c"), "y"), StaticService("d")}))
                  .ok());
  v1::ApplyRequest request = ApplyOf({Labelled(StaticService("a"), "x")});
  request.set_prune("team=x");
  request.set_dry_run(true);
  auto would = Apply(request);
  ASSERT_TRUE(would.ok()) << would.status();
  ASSERT_EQ(would->changes_size(), 2);
  EXPECT_EQ(would->changes(1).name(), "b");
  EXPECT_EQ(would->changes(1).op(), v1::Change::DELETED);
  EXPECT_TRUE(Has("Service", "b"));
  request.set_dry_run(false);
  ASSERT_TRUE(Apply(request).ok());
  EXPECT_FALSE(Has("Service", "b"));
  for (const char* stays : {"a", "c", "d"}) EXPECT_TRUE(Has("Service", stays)) << stays;

  request = ApplyOf({StaticService("unlabelled")});
  request.set_prune("team=x");
  EXPECT_TRUE(absl::IsInvalidArgument(Apply(request).status())) << "it would never be pruned";
  request.set_prune("team in");
  EXPECT_TRUE(absl::IsInvalidArgument(Apply(request).status()));
  request.set_prune("team=x");
  request.set_set("s");
  EXPECT_TRUE(absl::IsInvalidArgument(Apply(request).status()));
  // `!team` selects the built-ins too; they stay.
  request = ApplyOf({StaticService("e")});
  request.set_prune("!team");
  ASSERT_TRUE(Apply(request).ok());
  EXPECT_FALSE(Has("Service", "d"));
  EXPECT_TRUE(Has("RateLimit", "default"));

  ASSERT_TRUE(Sync("owner", {StaticService("f")}).ok());
  const absl::Status owned = Apply(request).status();
  EXPECT_TRUE(absl::IsAlreadyExists(owned)) << owned;
  EXPECT_THAT(std::string(owned.message()), HasSubstr("Service/f (set 'owner')"));
  EXPECT_TRUE(Has("Service", "f"));
}

TEST_F(MemoryTest, AConflictSaysWhoChangedTheResourceAndHow) {
  ASSERT_TRUE(Apply(ApplyOf({StaticService("a")})).ok());  // revision 2
  ASSERT_TRUE(Apply(ApplyOf({StaticService("b")})).ok());  // revision 3: not a's
  v1::ApplyRequest request = ApplyOf({StaticService("a", "127.0.0.1:1")});
  v1::ExpectedVersion* expected = request.add_expected_versions();
  expected->set_kind("service");
  expected->set_name("a");
  expected->set_revision(2);
  ASSERT_TRUE(Apply(request).ok()) << "a change of another resource is no conflict";
  v1::ApplyRequest theirs = ApplyOf({StaticService("a", "127.0.0.1:2")}, "bob");
  theirs.mutable_context()->set_comment("a faster one");
  ASSERT_TRUE(Apply(theirs).ok());
  expected->set_revision(4);
  const absl::Status conflict = Apply(request).status();
  EXPECT_TRUE(absl::IsAborted(conflict)) << conflict;
  EXPECT_THAT(std::string(conflict.message()),
              HasSubstr("Service/a: expected its version of revision 4, but revision 5 by 'bob' updated it at "));
  EXPECT_THAT(std::string(conflict.message()), HasSubstr("(\"a faster one\"); nothing was changed"));
  expected->set_revision(0);
  EXPECT_TRUE(absl::IsAborted(Apply(request).status())) << "it exists";
  expected->set_name("never");
  EXPECT_TRUE(Apply(request).ok()) << "it does not exist";
  expected->set_revision(9);
  EXPECT_THAT(std::string(Apply(request).status().message()), HasSubstr("but it has never existed"));

  v1::DeleteRequest remove;
  remove.set_kind("Service");
  remove.set_name("b");
  *remove.add_expected_versions() = *expected;
  EXPECT_TRUE(absl::IsAborted(publisher_->Delete(remove, "here").status()));
  EXPECT_TRUE(Has("Service", "b"));
}

TEST_F(MemoryTest, ARequestOfTheSameIdIsDoneOnceAlsoAfterARestart) {
  v1::ApplyRequest request = ApplyOf({Labelled(StaticService("a"), "x")});
  request.set_request_id("one");
  auto first = Apply(request);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_FALSE(first->repeated());
  ASSERT_TRUE(Apply(ApplyOf({StaticService("a", "127.0.0.1:9")})).ok());
  Open();
  auto again = Apply(request);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->repeated());
  EXPECT_EQ(again->revision(), 2u);
  ASSERT_EQ(again->changes_size(), 1);
  EXPECT_EQ(again->changes(0).op(), v1::Change::CREATED);
  EXPECT_EQ(revision(), 3u) << "it did not undo what came between";

  // What changed nothing is remembered as well.
  v1::ApplyRequest nothing = ApplyOf({StaticService("a", "127.0.0.1:9")});
  nothing.set_request_id("two");
  ASSERT_TRUE(Apply(nothing).ok());
  ASSERT_TRUE(Apply(ApplyOf({StaticService("a", "127.0.0.1:8")})).ok());
  ASSERT_TRUE(Apply(nothing)->repeated());
  EXPECT_EQ(revision(), 4u);

  v1::DeleteRequest remove;
  remove.set_kind("Service");
  remove.set_name("a");
  remove.set_request_id("three");
  ASSERT_TRUE(publisher_->Delete(remove, "here").ok());
  auto removed = publisher_->Delete(remove, "here");
  ASSERT_TRUE(removed.ok()) << "and not NOT_FOUND: " << removed.status();
  EXPECT_EQ(removed->revision(), 5u);
  v1::RollbackRequest back;
  back.set_revision(4);
  back.set_request_id("four");
  ASSERT_TRUE(publisher_->Rollback(back, "here").ok());
  EXPECT_EQ(publisher_->Rollback(back, "here")->revision(), 6u);
  EXPECT_EQ(revision(), 6u);

  // Another request, or another caller, under the same id.
  remove.set_request_id("one");
  EXPECT_TRUE(absl::IsInvalidArgument(publisher_->Delete(remove, "here").status()));
  EXPECT_TRUE(
      absl::IsInvalidArgument(publisher_->Apply(request, Author("here", "mallory", "Apply", nullptr)).status()));
  // What failed was not done, and may be tried again.
  v1::ApplyRequest wrong = ApplyOf({PrefixRoute("r", "later")});
  wrong.set_request_id("five");
  EXPECT_FALSE(Apply(wrong).ok());
  ASSERT_TRUE(Apply(ApplyOf({StaticService("later")})).ok());
  EXPECT_TRUE(Apply(wrong).ok());
  request.set_dry_run(true);
  EXPECT_TRUE(absl::IsInvalidArgument(Apply(request).status()));
  request.set_dry_run(false);
  request.set_request_id(std::string(kRequestIdBytesMax + 1, 'x'));
  EXPECT_TRUE(absl::IsInvalidArgument(Apply(request).status()));
}

TEST_F(MemoryTest, TheOldestRequestsAreForgotten) {
  for (uint64_t i = 0; i <= kRequestsMax; ++i) {
    ASSERT_TRUE(publisher_->store().PutRequest({absl::StrCat("id-", i), "digest", 0, ""}).ok());
  }
  EXPECT_FALSE(publisher_->store().FindRequest("id-0")->has_value());
  EXPECT_TRUE(publisher_->store().FindRequest("id-1")->has_value());
  EXPECT_TRUE(publisher_->store().FindRequest(absl::StrCat("id-", kRequestsMax))->has_value());
}

TEST_F(MemoryTest, ALongResponseIsKeptWithoutWhatHistoryHas) {
  v1::ApplyRequest request;
  for (int i = 0; i < 3000; ++i) *request.add_resources() = StaticService(absl::StrCat("service-number-", i));
  request.set_request_id("long");
  ASSERT_TRUE(Apply(request).ok());
  const auto kept = publisher_->store().FindRequest("long");
  ASSERT_TRUE(kept.ok() && kept->has_value());
  EXPECT_LE((*kept)->response.size(), kKeptResponseBytesMax);
  auto again = Apply(request);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->changes_size(), 3000);
  // And if it changed nothing, no other's changes are told.
  request.set_request_id("long and nothing");
  ASSERT_TRUE(Apply(request).ok());
  EXPECT_EQ(Apply(request)->changes_size(), 0);
}

TEST_F(MemoryTest, HistoryIsFiltered) {
  v1::ApplyRequest by_ann = ApplyOf({Labelled(StaticService("a"), "x")}, "ann");  // 2
  by_ann.mutable_context()->set_comment("Raise the LIMIT by 50%");
  ASSERT_TRUE(Apply(by_ann).ok());
  const absl::Time between = absl::Now();
  ASSERT_TRUE(Eventually([&] { return absl::Now() > between + absl::Milliseconds(1); }));
  ASSERT_TRUE(Apply(ApplyOf({StaticService("b")}, "bob")).ok());     // 3
  ASSERT_TRUE(Apply(ApplyOf({PrefixRoute("r", "a")}, "ann")).ok());  // 4
  HistoryFilter filter;
  filter.actor = "ann";
  EXPECT_THAT(History(filter), ElementsAre(4, 2));
  filter.kind = "Service";
  EXPECT_THAT(History(filter), ElementsAre(2));
  filter = {};
  filter.comment = "the limit";
  EXPECT_THAT(History(filter), ElementsAre(2));
  filter.comment = "50%";  // is no pattern
  EXPECT_THAT(History(filter), ElementsAre(2));
  filter.comment = "5%0";
  EXPECT_THAT(History(filter), IsEmpty());
  filter = {};
  filter.since = between;
  EXPECT_THAT(History(filter), ElementsAre(4, 3));
  filter.until = between;
  EXPECT_THAT(History(filter), IsEmpty());
  filter.since = absl::InfinitePast();
  EXPECT_THAT(History(filter), ElementsAre(2, 1));
  filter = {};
  filter.any_of = std::set<ResourceKey>{{"Service", "b"}, {"Route", "r"}};
  EXPECT_THAT(History(filter), ElementsAre(4, 3));
  filter.any_of.emplace();
  EXPECT_THAT(History(filter), IsEmpty());
}

TEST_F(MemoryTest, VersionsOfAResourceAreKeptWithWhoMadeThem) {
  ASSERT_TRUE(Apply(ApplyOf({StaticService("a")}, "ann")).ok());                 // 2
  ASSERT_TRUE(Apply(ApplyOf({StaticService("other")}, "eve")).ok());             // 3
  ASSERT_TRUE(Apply(ApplyOf({StaticService("a", "127.0.0.1:9")}, "bob")).ok());  // 4
  v1::DeleteRequest remove;
  remove.set_kind("Service");
  remove.set_name("a");
  ASSERT_TRUE(publisher_->Delete(remove, "here").ok());  // 5
  const auto versions = publisher_->store().VersionsBefore({"Service", "a"}, 0, 100);
  ASSERT_TRUE(versions.ok()) << versions.status();
  ASSERT_EQ(versions->size(), 3u);
  EXPECT_EQ((*versions)[0].info.revision(), 5u);
  EXPECT_EQ((*versions)[0].op, v1::Change::DELETED);
  EXPECT_EQ((*versions)[0].resource, nullptr);
  EXPECT_EQ((*versions)[1].info.actor(), "bob");
  EXPECT_EQ((*versions)[1].resource->service().static_(0).address(), "127.0.0.1:9");
  EXPECT_EQ((*versions)[2].info.actor(), "ann");
  EXPECT_EQ((*versions)[2].op, v1::Change::CREATED);
  EXPECT_EQ(publisher_->store().VersionsBefore({"Service", "a"}, 4, 100)->size(), 1u);
  EXPECT_TRUE(publisher_->store().VersionsBefore({"Service", "never"}, 0, 100)->empty());
}

// As version 0.2.0 left it with schema 3.
TEST_F(MemoryTest, ADatabaseOfTheSchemaBeforeSetsIsMigrated) {
  ASSERT_TRUE(Apply(ApplyOf({StaticService("a")}, "ann")).ok());
  publisher_.reset();
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(dir_.File("gateway.db").c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db,
                         "ALTER TABLE resources DROP COLUMN owner; ALTER TABLE history DROP COLUMN owner; "
                         "DROP TABLE requests; DROP TABLE secrets; DROP TABLE drains; DROP TABLE pending_changes; "
                         "DROP TABLE canaries; DROP TABLE join_tokens; PRAGMA user_version=3",
                         nullptr, nullptr, nullptr),
            SQLITE_OK)
      << sqlite3_errmsg(db);
  sqlite3_close(db);
  Open();
  EXPECT_EQ(revision(), 2u);
  ASSERT_TRUE(Sync("prod", {StaticService("a")}).ok());
  Open();
  EXPECT_EQ(SetOf("a"), "prod");
  EXPECT_TRUE(publisher_->store().CheckAll().ok());
  EXPECT_EQ(publisher_->store().SetAt(2)->resources.at({"Service", "a"}).set, "");
}

}  // namespace
}  // namespace gateway::controlplane
