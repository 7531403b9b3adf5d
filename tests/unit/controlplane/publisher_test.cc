#include "controlplane/publish/publisher.h"

#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "common/base/admin_protocol.h"
#include "common/policy/builtin.h"
#include "controlplane/rpc/grpc_status.h"
#include "gmock/gmock.h"
#include "google/rpc/status.pb.h"
#include "tests/unit/controlplane/testing.h"

namespace gateway::controlplane {
namespace {

class PublisherTest : public testing::Test {
 protected:
  void SetUp() override { Open(); }
  void Open(std::optional<BuiltinRateLimit> limit = BuiltinRateLimit{}) {
    publisher_.reset();
    PublisherOptions options;
    options.builtins = BuiltinResources(limit);
    options.publish = [this](std::shared_ptr<const PolicyState> state) { published_.push_back(state->revision); };
    publisher_ = OpenPublisher(At(dir_.File("gateway.db")), std::move(options));
    ASSERT_NE(publisher_, nullptr);
  }
  absl::StatusOr<v1::ApplyResponse> Apply(std::initializer_list<v1::Resource> resources) {
    return publisher_->Apply(ApplyOf(resources), "127.0.0.1");
  }
  uint64_t revision() const { return publisher_->current()->revision; }
  bool Has(const std::string& kind, const std::string& name) const {
    return publisher_->current()->resources->contains({kind, name});
  }
  v1::RevisionInfo Newest() { return publisher_->store().RevisionsBefore(0, {}, 1)->front(); }

  TempDir dir_;
  std::vector<uint64_t> published_;
  std::unique_ptr<Publisher> publisher_;
};

TEST_F(PublisherTest, TheFirstStartIsRevisionOneByBootstrapWithTheBuiltIns) {
  EXPECT_EQ(revision(), 1u);
  EXPECT_EQ(published_, std::vector<uint64_t>{1});
  EXPECT_EQ(Newest().actor(), "bootstrap");
  const auto& resources = *publisher_->current()->resources;
  for (const ResourceKey& key : {ResourceKey{"RateLimit", "default"}, ResourceKey{"CircuitBreaker", "hystrix"},
                                 ResourceKey{"Defaults", "default"}}) {
    ASSERT_TRUE(resources.contains(key)) << key.ToString();
    EXPECT_TRUE(resources.at(key).built_in);
  }
  ASSERT_NE(publisher_->current()->snapshot, nullptr);
  EXPECT_EQ(publisher_->current()->snapshot->revision(), 1u);
}

TEST_F(PublisherTest, ARestartWithTheSameBootstrapMakesNoRevision) {
  ASSERT_TRUE(Apply({StaticService("a"), PrefixRoute("a", "a")}).ok());
  const std::string epoch = publisher_->current()->epoch;
  Open();
  EXPECT_EQ(revision(), 2u);
  EXPECT_EQ(publisher_->current()->epoch, epoch);
  EXPECT_EQ(publisher_->current()->snapshot->routes().size(), 1u);
}

TEST_F(PublisherTest, AChangedBootstrapIsARevisionUnlessAnOperatorReplacedTheBuiltIn) {
  Open(BuiltinRateLimit{5, Millis(1000)});
  EXPECT_EQ(revision(), 2u);
  EXPECT_EQ(Newest().actor(), "bootstrap");
  ASSERT_EQ(Newest().changes_size(), 1);
  EXPECT_EQ(Newest().changes(0).op(), v1::Change::UPDATED);

  v1::Resource own;
  own.mutable_rate_limit()->set_name("default");
  own.mutable_rate_limit()->add_key("client_ip");
  own.mutable_rate_limit()->mutable_limit()->set_requests(77);
  own.mutable_rate_limit()->mutable_limit()->mutable_window()->set_seconds(60);
  ASSERT_TRUE(Apply({own}).ok());
  EXPECT_FALSE(publisher_->current()->resources->at({"RateLimit", "default"}).built_in);
  Open(std::nullopt);
  EXPECT_EQ(revision(), 3u);
  EXPECT_EQ(publisher_->current()->resources->at({"RateLimit", "default"}).resource->rate_limit().limit().requests(),
            77u);

  v1::DeleteRequest request;
  request.set_kind("ratelimit");
  request.set_name("default");
  ASSERT_TRUE(publisher_->Delete(request, "127.0.0.1").ok());
  const ResourceRecord restored = publisher_->current()->resources->at({"RateLimit", "default"});
  EXPECT_TRUE(restored.built_in);
  EXPECT_EQ(restored.resource->rate_limit().mode(), v1::RateLimit::DISABLED);
  EXPECT_EQ(publisher_->Delete(request, "").status().code(), absl::StatusCode::kFailedPrecondition);
  // Also after a restart, and in history.
  Open(std::nullopt);
  EXPECT_EQ(revision(), 4u);
  EXPECT_TRUE(publisher_->store().SetAt(4)->resources.at({"RateLimit", "default"}).built_in);
}

TEST_F(PublisherTest, AnApplyIsOneRevisionAndSaysWhatItDid) {
  auto first = Apply({StaticService("a"), PrefixRoute("r", "a")});
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->revision(), 2u);
  auto second = Apply({StaticService("a"), StaticService("b"), PrefixRoute("r", "b")});
  ASSERT_TRUE(second.ok()) << second.status();
  ASSERT_EQ(second->changes_size(), 3);
  EXPECT_EQ(second->changes(0).op(), v1::Change::UNCHANGED);
  EXPECT_EQ(second->changes(1).op(), v1::Change::CREATED);
  EXPECT_EQ(second->changes(2).op(), v1::Change::UPDATED);
  const ResourceSet& set = *publisher_->current()->resources;
  EXPECT_EQ(set.at({"Service", "a"}).revision, 2u);
  EXPECT_EQ(set.at({"Route", "r"}).revision, 3u);
  EXPECT_EQ(Newest().changes_size(), 2) << "unchanged resources are not in history";
  EXPECT_EQ(published_, (std::vector<uint64_t>{1, 2, 3}));
}

TEST_F(PublisherTest, WhatChangesNothingIsNoRevisionAlsoForABuiltIn) {
  ASSERT_TRUE(Apply({StaticService("a")}).ok());
  std::vector<v1::Resource> all;
  v1::ApplyRequest request;
  for (const auto& [key, record] : *publisher_->current()->resources) *request.add_resources() = *record.resource;
  auto again = publisher_->Apply(request, "");
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->revision(), 2u);
  EXPECT_EQ(revision(), 2u);
  EXPECT_TRUE(publisher_->current()->resources->at({"Defaults", "default"}).built_in);
}

TEST_F(PublisherTest, ADryRunStoresNothing) {
  v1::ApplyRequest request = ApplyOf({StaticService("a")});
  request.set_dry_run(true);
  auto done = publisher_->Apply(request, "");
  ASSERT_TRUE(done.ok());
  EXPECT_EQ(done->revision(), 1u);
  EXPECT_EQ(done->changes(0).op(), v1::Change::CREATED);
  EXPECT_FALSE(Has("Service", "a"));
  *request.add_resources() = PrefixRoute("r", "nowhere");
  EXPECT_EQ(publisher_->Apply(request, "").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(PublisherTest, FiveMistakesAreFiveViolationsAndNothingChanges) {
  v1::Resource bad_address = StaticService("bad-address", "nonsense");
  v1::Resource bad_name = StaticService("Bad_Name");
  v1::Resource dangling = PrefixRoute("dangling", "nowhere");
  v1::Resource bad_prefix = PrefixRoute("bad-prefix", "good");
  bad_prefix.mutable_route()->mutable_match()->mutable_path()->set_prefix("no-slash");
  v1::Resource bad_limit;
  bad_limit.mutable_rate_limit()->set_name("bad-limit");
  bad_limit.mutable_rate_limit()->mutable_limit()->set_requests(0);
  bad_limit.mutable_rate_limit()->mutable_limit()->mutable_window()->set_seconds(1);
  auto done = Apply({StaticService("good"), bad_address, bad_name, dangling, bad_prefix, bad_limit});
  ASSERT_EQ(done.status().code(), absl::StatusCode::kInvalidArgument);
  const std::vector<v1::PolicyError> errors = PolicyErrorsOf(done.status());
  ASSERT_EQ(errors.size(), 5u) << done.status();
  EXPECT_EQ(revision(), 1u);
  EXPECT_FALSE(Has("Service", "good"));
  EXPECT_EQ(published_, std::vector<uint64_t>{1});

  const grpc::Status rich = ToGrpc(done.status());
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(rich.error_details()));
  google::rpc::BadRequest violations;
  v1::PolicyErrors typed;
  ASSERT_TRUE(details.details(0).UnpackTo(&violations));
  ASSERT_TRUE(details.details(1).UnpackTo(&typed));
  ASSERT_EQ(violations.field_violations_size(), 5);
  EXPECT_EQ(typed.errors_size(), 5);
  bool found = false;
  for (const auto& violation : violations.field_violations()) {
    found = found || violation.field() == "Route/dangling: service";
  }
  EXPECT_TRUE(found) << violations.DebugString();
}

TEST_F(PublisherTest, TheEnvelopeIsChecked) {
  v1::ApplyRequest request = ApplyOf({StaticService("a"), StaticService("a"), v1::Resource()});
  v1::Resource newer = StaticService("b");
  newer.service().GetReflection()->MutableUnknownFields(newer.mutable_service())->AddVarint(999, 1);
  *request.add_resources() = newer;
  v1::Resource huge = StaticService("c");
  huge.mutable_service()->set_description(std::string(kResourceBytesMax + 1, 'x'));
  *request.add_resources() = huge;
  const absl::Status status = publisher_->Apply(request, "").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  std::string all;
  for (const v1::PolicyError& error : PolicyErrorsOf(status)) {
    absl::StrAppend(&all, error.message(), "\n");
    if (error.name() == "c") {
      EXPECT_EQ(error.field(), "description");
    }
  }
  for (const char* said : {"given twice", "holds no resource", "does not know", "at most 10485760"}) {
    EXPECT_NE(all.find(said), std::string::npos) << said << " is not in:\n" << all;
  }
  EXPECT_EQ(revision(), 1u);

  v1::ApplyRequest many;
  for (int i = 0; i <= kApplyResourcesMax; ++i) many.add_resources();
  EXPECT_EQ(publisher_->Apply(many, "").status().code(), absl::StatusCode::kInvalidArgument);
  v1::ApplyRequest talkative = ApplyOf({StaticService("a")}, std::string(kActorBytesMax + 1, 'x'));
  EXPECT_EQ(publisher_->Apply(talkative, "").status().code(), absl::StatusCode::kInvalidArgument);
  talkative = ApplyOf({StaticService("a")});
  talkative.mutable_context()->set_comment(std::string(kCommentBytesMax + 1, 'x'));
  EXPECT_EQ(publisher_->Apply(talkative, "").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(publisher_->Apply(ApplyOf({StaticService("a")}, "bootstrap"), "").status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(PublisherTest, KeysOfLabelsAreCheckedWhereTheyChange) {
  v1::Resource resource = StaticService("s");
  auto& labels = *resource.mutable_service()->mutable_labels();
  labels["example.com/team"] = "x";
  ASSERT_TRUE(Apply({resource}).ok());
  labels["my team"] = "x";
  labels["Example.com/team"] = "x";
  const std::vector<v1::PolicyError> errors = PolicyErrorsOf(Apply({resource}).status());
  ASSERT_EQ(errors.size(), 2u);
  std::set<std::string> fields;
  for (const v1::PolicyError& error : errors) {
    fields.insert(error.field());
    EXPECT_EQ(error.kind() + "/" + error.name(), "Service/s");
    EXPECT_THAT(error.message(), testing::HasSubstr("is not the key of a label: expected"));
  }
  EXPECT_THAT(fields, testing::ElementsAre("labels.'Example.com/team'", "labels.'my team'"));
  EXPECT_EQ(revision(), 2u);
}

TEST_F(PublisherTest, AHundredThousandRoutesAreOneApply) {
  constexpr int kRoutes = 100'000;
  v1::ApplyRequest request = ApplyOf({StaticService("a")});
  for (int i = 0; i < kRoutes; ++i) *request.add_resources() = PrefixRoute(absl::StrCat("r", i), "a");
  const auto done = publisher_->Apply(request, "");
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(publisher_->current()->snapshot->routes().size(), static_cast<size_t>(kRoutes));
  EXPECT_TRUE(Apply({PrefixRoute("one-more", "a")}).ok());
}

TEST_F(PublisherTest, AnAccessListOfTheLongestIsTaken) {
  constexpr int kBlocks = 100'000;  // of each list, as the schema limits it
  v1::Resource resource;
  v1::IpAccess& access = *resource.mutable_ip_access();
  access.set_name("blocked");
  for (int i = 0; i < kBlocks; ++i) {
    access.add_allow(absl::StrFormat("2001:db80:1234:5678:9abc:def0:%04x:%04x/128", i >> 16, i & 0xffff));
    access.add_deny(absl::StrFormat("2001:db81:1234:5678:9abc:def0:%04x:%04x/128", i >> 16, i & 0xffff));
  }
  const auto done = Apply({resource});
  EXPECT_TRUE(done.ok()) << done.status();
  access.add_deny("192.0.2.1");
  const absl::Status refused = Apply({resource}).status();
  ASSERT_EQ(PolicyErrorsOf(refused).size(), 1u);
  EXPECT_EQ(PolicyErrorsOf(refused)[0].field(), "deny");
}

TEST_F(PublisherTest, AnOutdatedExpectationIsAConflict) {
  v1::ApplyRequest request = ApplyOf({StaticService("a")});
  request.set_expected_revision(1);
  ASSERT_TRUE(publisher_->Apply(request, "").ok());
  request = ApplyOf({StaticService("b")});
  request.set_expected_revision(1);
  EXPECT_EQ(publisher_->Apply(request, "").status().code(), absl::StatusCode::kAborted);
  v1::DeleteRequest erase;
  erase.set_kind("Service");
  erase.set_name("a");
  erase.set_expected_revision(1);
  EXPECT_EQ(publisher_->Delete(erase, "").status().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(revision(), 2u);
  EXPECT_EQ(publisher_->counts().conflict, 2u);
}

TEST_F(PublisherTest, WhatIsReferredToCannotBeDeleted) {
  ASSERT_TRUE(Apply({StaticService("a"), PrefixRoute("r", "a")}).ok());
  v1::DeleteRequest request;
  request.set_kind("service");
  request.set_name("a");
  const absl::Status status = publisher_->Delete(request, "").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  ASSERT_EQ(PolicyErrorsOf(status).size(), 1u);
  EXPECT_EQ(PolicyErrorsOf(status)[0].name(), "r");
  request.set_kind("Route");
  request.set_name("r");
  request.set_dry_run(true);
  EXPECT_EQ(publisher_->Delete(request, "")->revision(), 2u);
  EXPECT_TRUE(Has("Route", "r"));
  request.set_dry_run(false);
  EXPECT_EQ(publisher_->Delete(request, "")->revision(), 3u);
  EXPECT_FALSE(Has("Route", "r"));
  EXPECT_EQ(publisher_->Delete(request, "").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(PublisherTest, ARollbackIsANewRevisionWithTheResourcesOfTheOldOne) {
  ASSERT_TRUE(Apply({StaticService("a", "127.0.0.1:1"), PrefixRoute("r", "a")}).ok());                      // 2
  ASSERT_TRUE(Apply({StaticService("a", "127.0.0.1:2"), StaticService("b"), PrefixRoute("r", "b")}).ok());  // 3
  v1::RollbackRequest request;
  request.set_revision(2);
  request.mutable_context()->set_actor("anna");
  auto done = publisher_->Rollback(request, "10.1.2.3");
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(done->revision(), 4u);
  EXPECT_EQ(done->changes_size(), 3);
  EXPECT_FALSE(Has("Service", "b"));
  EXPECT_EQ(publisher_->current()->resources->at({"Service", "a"}).resource->service().static_(0).address(),
            "127.0.0.1:1");
  EXPECT_EQ(Newest().actor(), "anna");
  EXPECT_EQ(Newest().comment(), "rollback to revision 2");
  EXPECT_EQ(publisher_->Rollback(request, "")->revision(), 4u) << "nothing to do";
  request.set_revision(99);
  EXPECT_EQ(publisher_->Rollback(request, "").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(PublisherTest, ARollbackListsWhatItUndoesAndChecksTheExpectedRevision) {
  ASSERT_TRUE(Apply({StaticService("a")}).ok());  // 2
  v1::ApplyRequest by_bob = ApplyOf({StaticService("b")}, "bob");
  by_bob.mutable_context()->set_comment("more");
  ASSERT_TRUE(publisher_->Apply(by_bob, "10.1.2.3").ok());  // 3
  v1::RollbackRequest request;
  request.set_revision(2);
  request.set_dry_run(true);
  auto dry = publisher_->Rollback(request, "");
  ASSERT_TRUE(dry.ok()) << dry.status();
  EXPECT_EQ(dry->undone_count(), 1u);
  ASSERT_EQ(dry->undone_size(), 1);
  EXPECT_EQ(dry->undone(0).revision(), 3u);
  EXPECT_EQ(dry->undone(0).actor(), "bob");
  EXPECT_EQ(dry->undone(0).comment(), "more");
  EXPECT_EQ(dry->undone(0).peer(), "10.1.2.3");
  ASSERT_EQ(dry->undone(0).changes_size(), 1);
  EXPECT_EQ(dry->undone(0).changes(0).name(), "b");
  request.set_dry_run(false);
  request.set_expected_revision(2);
  EXPECT_EQ(publisher_->Rollback(request, "").status().code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(Has("Service", "b"));
  request.set_expected_revision(3);
  EXPECT_TRUE(publisher_->Rollback(request, "").ok());
  EXPECT_FALSE(Has("Service", "b"));
  // Of many, only the newest are listed.
  for (int i = 0; i < kUndoneToldMax + 5; ++i) {
    ASSERT_TRUE(Apply({StaticService("c", absl::StrCat("127.0.0.1:", i + 1))}).ok());
  }
  request = v1::RollbackRequest();
  request.set_revision(4);
  auto many = publisher_->Rollback(request, "");
  ASSERT_TRUE(many.ok()) << many.status();
  EXPECT_EQ(many->undone_count(), static_cast<uint64_t>(kUndoneToldMax) + 5);
  EXPECT_EQ(many->undone_size(), kUndoneToldMax);
  EXPECT_EQ(many->undone(0).revision(), 4u + kUndoneToldMax + 5);
}

TEST_F(PublisherTest, SeveralAreDeletedAtOnceOrNone) {
  ASSERT_TRUE(Apply({StaticService("a"), PrefixRoute("r", "a"), StaticService("b")}).ok());  // 2
  const auto erase = [this](std::vector<std::pair<std::string, std::string>> names, bool ignore = false) {
    v1::DeleteRequest request;
    for (auto& [kind, name] : names) {
      request.add_resources()->set_kind(kind);
      request.mutable_resources()->rbegin()->set_name(name);
    }
    request.set_ignore_not_found(ignore);
    return publisher_->Delete(request, "");
  };
  EXPECT_EQ(erase({{"Service", "a"}, {"Service", "b"}}).status().code(), absl::StatusCode::kInvalidArgument)
      << "the route refers to one of them";
  EXPECT_TRUE(Has("Service", "b"));
  const absl::Status missing = erase({{"Service", "b"}, {"Route", "x"}, {"Route", "y"}}).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(missing.message(), "no Route/x, Route/y");
  EXPECT_TRUE(Has("Service", "b"));
  auto done = erase({{"service", "a"}, {"routes", "r"}, {"Route", "r"}, {"Route", "x"}}, /*ignore=*/true);
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(done->revision(), 3u) << "one revision, whatever the order";
  ASSERT_EQ(done->changes_size(), 2);
  EXPECT_EQ(done->changes(0).op(), v1::Change::DELETED);
  EXPECT_FALSE(Has("Service", "a"));
  auto nothing = erase({{"Route", "x"}}, /*ignore=*/true);
  ASSERT_TRUE(nothing.ok()) << nothing.status();
  EXPECT_EQ(nothing->revision(), 3u);
  EXPECT_EQ(publisher_->Delete(v1::DeleteRequest(), "").status().code(), absl::StatusCode::kNotFound)
      << "an empty request names nothing";
}

// Two routes that cannot be told apart, in a policy that has more such pairs.
TEST_F(PublisherTest, WarningsAreAboutWhatChanged) {
  const auto route = [](const std::string& name, const std::string& prefix, const std::string& comment = "") {
    v1::Resource resource = PrefixRoute(name, "a");
    resource.mutable_route()->mutable_match()->mutable_path()->set_prefix(prefix);
    resource.mutable_route()->set_description(comment);
    return resource;
  };
  auto first = Apply({StaticService("a"), route("r1", "/x"), route("r2", "/x")});
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_EQ(first->warnings_size(), 1);
  EXPECT_EQ(first->other_warnings(), 0u);
  auto second = Apply({route("s1", "/y"), route("s2", "/y")});
  ASSERT_TRUE(second.ok());
  ASSERT_EQ(second->warnings_size(), 1) << "about the new resource only";
  EXPECT_THAT(second->warnings(0), testing::HasSubstr("'s1'"));
  EXPECT_EQ(second->other_warnings(), 1u);
  auto unchanged = Apply({route("s1", "/y")});
  EXPECT_EQ(unchanged->warnings_size(), 0);
  EXPECT_EQ(unchanged->other_warnings(), 2u);
  auto touched = Apply({route("r2", "/x", "touched")});
  ASSERT_EQ(touched->warnings_size(), 1) << "it names the changed resource";
  EXPECT_THAT(touched->warnings(0), testing::HasSubstr("'r2'"));
  EXPECT_EQ(publisher_->current()->warnings.size(), 2u);
  Open(BuiltinRateLimit{});
  EXPECT_EQ(publisher_->current()->warnings.size(), 2u) << "also after a restart";
}

TEST_F(PublisherTest, ARollbackKeepsTheBuiltInsOfNow) {
  Open(BuiltinRateLimit{5, Millis(1000)});
  ASSERT_TRUE(Apply({StaticService("a")}).ok());
  v1::RollbackRequest request;
  request.set_revision(1);
  auto done = publisher_->Rollback(request, "");
  ASSERT_TRUE(done.ok()) << done.status();
  ASSERT_EQ(done->changes_size(), 1);
  EXPECT_EQ(publisher_->current()->resources->at({"RateLimit", "default"}).resource->rate_limit().limit().requests(),
            5u);
}

TEST_F(PublisherTest, WithoutAnActorTheCallersAddressStandsInHistory) {
  v1::ApplyRequest request = ApplyOf({StaticService("a")}, "");
  ASSERT_TRUE(publisher_->Apply(request, "10.9.8.7").ok());
  EXPECT_EQ(Newest().actor(), "10.9.8.7");
}

TEST_F(PublisherTest, ACallerCannotClaimToBeTheControlPlane) {
  for (const char* const own : {"bootstrap", "acme", "canary", "control plane"}) {
    const absl::Status status = publisher_->Apply(ApplyOf({StaticService("a")}, own), "10.9.8.7").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << own;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("the control plane's own"));
  }
}

TEST_F(PublisherTest, AFullDiskLeavesPolicyAsItWas) {
  publisher_.reset();
  StoreOptions store = At(dir_.File("small.db"));
  store.page_count_max = 20;
  publisher_ = OpenPublisher(store);
  ASSERT_NE(publisher_, nullptr);
  v1::ApplyRequest request;
  for (int i = 0; i < 1000; ++i) *request.add_resources() = StaticService(absl::StrCat("s", i));
  EXPECT_EQ(publisher_->Apply(request, "").status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(revision(), 1u);
  EXPECT_EQ(publisher_->counts().failed, 1u);
  EXPECT_TRUE(Apply({StaticService("fits")}).ok());
}

TEST(GrpcStatus, DetailsStayWithinWhatAClientTakes) {
  std::vector<v1::PolicyError> errors(500);
  for (v1::PolicyError& error : errors) {
    error.set_kind("Route");
    error.set_name("a-name-of-some-length");
    error.set_message("service 'nowhere' is not defined; expected the name of a Service");
  }
  const auto told = [](const grpc::Status& status) {
    google::rpc::Status rich;
    v1::PolicyErrors told;
    EXPECT_TRUE(rich.ParseFromString(status.error_details()));
    EXPECT_TRUE(rich.details(1).UnpackTo(&told));
    return told;
  };
  grpc::Status status = ToGrpc(PolicyError("the policy is not valid", errors));
  EXPECT_LE(status.error_details().size(), kErrorDetailsBytesMax + 256);
  EXPECT_NE(status.error_message().find("500 errors"), std::string::npos) << status.error_message();
  EXPECT_GT(told(status).errors_size(), 10);
  EXPECT_EQ(told(status).errors_size() + static_cast<int>(told(status).left_out()), 500);
  // For a client that accepts larger errors.
  status = ToGrpc(PolicyError("the policy is not valid", errors), kErrorBytesAskedMax);
  EXPECT_EQ(told(status).errors_size(), 500);
  EXPECT_EQ(told(status).left_out(), 0u);
}

}  // namespace
}  // namespace gateway::controlplane
