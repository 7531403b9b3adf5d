// Changes that are not final, from the publisher to the streams of data planes, with a real database and virtual time.
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "controlplane/stream/hub.h"
#include "gateway/v1/config_stream.grpc.pb.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "tests/unit/controlplane/testing.h"

namespace gateway::controlplane {
namespace {

using ::testing::HasSubstr;

class StagedChange : public testing::Test {
 protected:
  void SetUp() override {
    Open();
    ASSERT_EQ(Apply({StaticService("old"), PrefixRoute("orders", "old")}).revision(), 2u);
  }
  // A start of the control plane: data planes come back and say what they serve.
  void Open() {
    publisher_.reset();
    hub_ = std::make_unique<Hub>();
    sessions_.clear();
    PublisherOptions options;
    options.builtins = BuiltinResources(limit_);
    options.publish = [this](std::shared_ptr<const PolicyState> state) { hub_->PublishPolicy(std::move(state)); };
    options.data_planes = [this] { return hub_->DataPlanes(); };
    options.now = [this] { return now_; };
    publisher_ = OpenPublisher(At(dir_.File("gateway.db")), std::move(options));
    ASSERT_NE(publisher_, nullptr);
    Connect("dp-a", "a");
    Connect("dp-b", "b");
  }
  void Connect(const std::string& name, const std::string& zone) {
    v1::Hello hello;
    hello.set_schema_version(kSchemaVersion);
    hello.set_name(name);
    hello.set_instance_id(name);
    hello.set_zone(zone);
    hello.set_workers(1);
    hello.set_takes_operations(true);
    if (const auto serves = serves_.find(name); serves != serves_.end()) {
      hello.set_epoch(publisher_->current()->epoch);
      hello.set_revision(serves->second);
    }
    Hub::Attachment attachment = hub_->Attach(hello, "192.0.2.1:1", {});
    ASSERT_NE(attachment.session, nullptr);
    sessions_[name] = attachment.session;
  }
  // Takes all that is sent to `name`, acknowledges it, and tells which revision it serves then.
  uint64_t Serves(const std::string& name) {
    while (auto next = hub_->Next(sessions_[name])) {
      v1::ControlPlaneMessage message;
      EXPECT_TRUE(grpc::SerializationTraits<v1::ControlPlaneMessage>::Deserialize(&*next, &message).ok());
      if (message.has_operations()) {
        watched_[name].assign(message.operations().watched_routes().begin(),
                              message.operations().watched_routes().end());
      }
      if (!message.has_policy() || !message.policy().last()) continue;
      serves_[name] = message.policy().to();
      v1::Ack ack;
      ack.set_epoch(message.policy().epoch());
      ack.set_revision(message.policy().to());
      EXPECT_TRUE(hub_->OnAck(sessions_[name], ack).ok());
    }
    return serves_[name];
  }
  v1::ApplyResponse Apply(std::initializer_list<v1::Resource> resources) {
    const absl::StatusOr<v1::ApplyResponse> done = publisher_->Apply(ApplyOf(resources, "ann"), "127.0.0.1");
    EXPECT_TRUE(done.ok()) << done.status();
    return done.value_or(v1::ApplyResponse());
  }
  // Another service, on these terms.
  absl::StatusOr<v1::ApplyResponse> Change(const std::string& to, int confirm_seconds = 0,
                                           const std::string& guard = "") {
    v1::ApplyRequest request = ApplyOf({StaticService("new"), PrefixRoute("orders", "new")}, "ann");
    request.set_to(to);
    request.set_guard(guard);
    if (confirm_seconds > 0) request.mutable_confirm_within()->set_seconds(confirm_seconds);
    return publisher_->Apply(request, "127.0.0.1");
  }
  absl::StatusOr<v1::DecideChangeResponse> Decide(v1::DecideChangeRequest::Decision decision, uint64_t revision = 0) {
    v1::DecideChangeRequest request;
    request.set_decision(decision);
    request.set_revision(revision);
    request.mutable_context()->set_actor("bob");
    return publisher_->Decide(request, "127.0.0.1");
  }
  void Tick(absl::Duration passed) {
    now_ += passed;
    const uint64_t revision = publisher_->current()->revision;
    const absl::Status status = publisher_->AdvanceChange(revision, hub_->Figures(revision));
    EXPECT_TRUE(status.ok()) << status;
  }
  void Report(const std::string& name, uint64_t requests, uint64_t errors) {
    v1::Report report;
    v1::RouteReport* route = report.add_routes();
    route->set_route("orders");
    route->set_revision(serves_[name]);
    route->set_requests(requests);
    route->set_errors(errors);
    hub_->OnReport(sessions_[name], report);
  }
  std::string ServiceOfOrders() const {
    return publisher_->current()->resources->at({"Route", "orders"}).resource->route().service();
  }
  v1::RevisionInfo Newest() {
    const absl::StatusOr<std::vector<v1::RevisionInfo>> newest = publisher_->store().RevisionsBefore(0, {}, 1);
    return newest->front();
  }

  TempDir dir_;
  absl::Time now_ = absl::FromUnixSeconds(1'700'000'000);
  std::optional<BuiltinRateLimit> limit_ = BuiltinRateLimit{};
  std::unique_ptr<Hub> hub_;
  std::unique_ptr<Publisher> publisher_;
  std::map<std::string, std::shared_ptr<Hub::Session>> sessions_;
  std::map<std::string, uint64_t> serves_;
  std::map<std::string, std::vector<std::string>> watched_;
};

TEST_F(StagedChange, GoesToTheChosenDataPlanesAndTheOthersKeepTheBase) {
  ASSERT_EQ(Serves("dp-b"), 2u);
  const auto staged = Change("zone=a");
  ASSERT_TRUE(staged.ok()) << staged.status();
  EXPECT_EQ(staged->revision(), 3u);
  EXPECT_EQ(staged->change().base_revision(), 2u);
  EXPECT_EQ(Serves("dp-a"), 3u);
  EXPECT_EQ(Serves("dp-b"), 2u);
  // Later ones, by the same rule.
  Connect("dp-a2", "a");
  Connect("dp-c", "c");
  EXPECT_EQ(Serves("dp-a2"), 3u);
  EXPECT_EQ(Serves("dp-c"), 2u);
  for (const v1::DataPlaneState& each : hub_->DataPlanes()) {
    EXPECT_EQ(each.staged(), each.zone() == "a") << each.name();
    EXPECT_EQ(each.wanted_revision(), each.zone() == "a" ? 3u : 2u) << each.name();
  }
  const v1::RolloutResponse rollout = hub_->Rollout(3, now_);
  EXPECT_EQ(rollout.data_planes(), 2u);
  EXPECT_TRUE(rollout.done());
  EXPECT_EQ(rollout.change().to(), "zone=a");
}

TEST_F(StagedChange, PromotedItGoesToAll) {
  ASSERT_TRUE(Change("zone=a").ok());
  ASSERT_EQ(Serves("dp-a"), 3u);
  const auto promoted = Decide(v1::DecideChangeRequest::PROMOTE, 3);
  ASSERT_TRUE(promoted.ok()) << promoted.status();
  EXPECT_EQ(promoted->revision(), 3u);
  EXPECT_EQ(promoted->change().outcome(), v1::PendingChange::KEPT);
  EXPECT_EQ(Serves("dp-a"), 3u);
  EXPECT_EQ(Serves("dp-b"), 3u);
  EXPECT_TRUE(hub_->Rollout(3, now_).done());
  EXPECT_EQ(hub_->Rollout(3, now_).data_planes(), 2u);
  EXPECT_EQ(Newest().change().reason(), "promoted by 'bob'");
  EXPECT_TRUE(Change("").ok()) << "what is the same changes nothing, and nothing is under way";
}

TEST_F(StagedChange, AbandonedItIsANewRevisionWithThePolicyOfBefore) {
  ASSERT_TRUE(Change("zone=a").ok());
  ASSERT_EQ(Serves("dp-a"), 3u);
  const auto abandoned = Decide(v1::DecideChangeRequest::ABANDON);
  ASSERT_TRUE(abandoned.ok()) << abandoned.status();
  EXPECT_EQ(abandoned->revision(), 4u);
  EXPECT_EQ(abandoned->change().outcome(), v1::PendingChange::ABANDONED);
  EXPECT_EQ(abandoned->change().ended_by(), 4u);
  EXPECT_EQ(ServiceOfOrders(), "old");
  EXPECT_FALSE(publisher_->current()->resources->contains({"Service", "new"}));
  EXPECT_EQ(Serves("dp-a"), 4u);
  EXPECT_EQ(Serves("dp-b"), 4u);
  EXPECT_EQ(Newest().comment(), "revision 3 abandoned by 'bob'");
  EXPECT_EQ(publisher_->counts().abandoned, 1u);
}

TEST_F(StagedChange, OtherChangesAreAConflictThatNamesIt) {
  ASSERT_TRUE(Change("zone=a").ok());
  const auto other = publisher_->Apply(ApplyOf({StaticService("other")}), "127.0.0.1");
  EXPECT_EQ(other.status().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(other.status().message(),
            "revision 3 by 'ann' is staged (zone=a) until it is promoted or abandoned; nothing was changed");
  v1::DeleteRequest remove;
  remove.set_kind("Route");
  remove.set_name("orders");
  EXPECT_EQ(publisher_->Delete(remove, "").status().code(), absl::StatusCode::kAborted);
  v1::ApplyRequest dry = ApplyOf({StaticService("other")});
  dry.set_dry_run(true);
  EXPECT_TRUE(publisher_->Apply(dry, "").ok()) << "what would change may be asked";

  v1::RollbackRequest rollback;
  rollback.set_revision(1);
  ASSERT_TRUE(publisher_->Rollback(rollback, "").ok());
  EXPECT_EQ(Serves("dp-b"), 4u) << "a rollback is for all, and ends it";
  EXPECT_EQ(publisher_->store().PendingChangeOf(3)->outcome(), v1::PendingChange::ROLLED_BACK);
  EXPECT_EQ(publisher_->Apply(ApplyOf({StaticService("other")}), "")->revision(), 5u);
}

TEST_F(StagedChange, SurvivesARestartOfTheControlPlane) {
  ASSERT_TRUE(Change("zone=a").ok());
  ASSERT_EQ(Serves("dp-a"), 3u);
  ASSERT_EQ(Serves("dp-b"), 2u);
  Open();
  ASSERT_NE(publisher_->current()->pending, nullptr);
  EXPECT_EQ(Serves("dp-a"), 3u);
  EXPECT_EQ(Serves("dp-b"), 2u);
  Connect("dp-c", "c");
  EXPECT_EQ(Serves("dp-c"), 2u) << "the base is sent after a restart, too";
  ASSERT_TRUE(Decide(v1::DecideChangeRequest::PROMOTE).ok());
  EXPECT_EQ(Serves("dp-c"), 3u);
  Open();
  EXPECT_EQ(publisher_->current()->pending, nullptr);
  EXPECT_EQ(Serves("dp-b"), 3u);
}

TEST_F(StagedChange, ADataPlaneThatIsNoLongerChosenGoesBackToTheBase) {
  ASSERT_TRUE(Change("zone=a").ok());
  ASSERT_EQ(Serves("dp-a"), 3u);
  Connect("dp-a", "b");
  EXPECT_EQ(Serves("dp-a"), 2u);
}

TEST_F(StagedChange, APercentageTakesAtLeastOneAndRemembersWhich) {
  const auto staged = Change("percent=1");
  ASSERT_TRUE(staged.ok()) << staged.status();
  const std::string picked = staged->change().picked();
  ASSERT_TRUE(picked == "dp-a" || picked == "dp-b") << picked;
  const std::string other = picked == "dp-a" ? "dp-b" : "dp-a";
  EXPECT_EQ(Serves(picked), 3u);
  EXPECT_EQ(Serves(other), 2u);
  Open();
  EXPECT_EQ(Serves(picked), 3u);
  EXPECT_EQ(Serves(other), 2u);
}

TEST_F(StagedChange, ThatChoosesNoDataPlaneIsRefused) {
  const auto staged = Change("zone=nowhere");
  EXPECT_EQ(staged.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(staged.status().message()), HasSubstr("no connected data plane has zone=nowhere"));
  EXPECT_EQ(publisher_->current()->revision, 2u);
}

TEST_F(StagedChange, IsDecidedByItsOwnRevision) {
  EXPECT_EQ(Decide(v1::DecideChangeRequest::PROMOTE).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(Change("zone=a").ok());
  EXPECT_EQ(Decide(v1::DecideChangeRequest::PROMOTE, 2).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Decide(v1::DecideChangeRequest::CONFIRM).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Decide(v1::DecideChangeRequest::DECISION_UNSPECIFIED).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(StagedChange, ABoundEditorDecidesOwnChangesAlone) {
  ASSERT_TRUE(Change("zone=a").ok());
  v1::DecideChangeRequest request;
  request.set_decision(v1::DecideChangeRequest::ABANDON);
  const auto scope = std::make_shared<Scope>();
  EXPECT_EQ(publisher_->Decide(request, Author("", "eve", "DecideChange", scope)).status().code(),
            absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(publisher_->Decide(request, Author("", "ann", "DecideChange", scope)).ok());
}

TEST_F(StagedChange, AnUnconfirmedChangeIsRevertedInTimeAlsoOverARestart) {
  ASSERT_TRUE(Change("", 120).ok());
  EXPECT_EQ(Serves("dp-b"), 3u) << "it is for all";
  Tick(absl::Seconds(100));
  Open();
  EXPECT_EQ(publisher_->current()->revision, 3u);
  Tick(absl::Seconds(19));
  EXPECT_EQ(publisher_->current()->revision, 3u);
  Tick(absl::Seconds(1));
  EXPECT_EQ(publisher_->current()->revision, 4u);
  EXPECT_EQ(ServiceOfOrders(), "old");
  EXPECT_EQ(Newest().comment(), "reverted: not confirmed within 2m");
  EXPECT_EQ(Newest().actor(), "control plane");
  EXPECT_EQ(publisher_->store().PendingChangeOf(3)->outcome(), v1::PendingChange::REVERTED);
  EXPECT_EQ(publisher_->counts().reverted_unconfirmed, 1u);
  const auto audit = publisher_->store().AuditBefore(0, "control plane", absl::InfinitePast(), 1);
  ASSERT_EQ(audit->size(), 1u);
  EXPECT_THAT(audit->front().detail(), HasSubstr("not confirmed within 2m"));
}

TEST_F(StagedChange, ARequestThatIsRepeatedTellsWhatBecameOfItsChange) {
  v1::ApplyRequest request = ApplyOf({StaticService("new")}, "ann");
  request.set_request_id("one");
  request.mutable_confirm_within()->set_seconds(60);
  const auto begun = publisher_->Apply(request, "127.0.0.1");
  ASSERT_TRUE(begun.ok()) << begun.status();
  auto again = publisher_->Apply(request, "127.0.0.1");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->repeated());
  EXPECT_TRUE(again->change().has_confirm_by());
  ASSERT_TRUE(Decide(v1::DecideChangeRequest::CONFIRM).ok());
  again = publisher_->Apply(request, "127.0.0.1");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->revision(), begun->revision());
  EXPECT_EQ(again->change().outcome(), v1::PendingChange::KEPT);
}

TEST_F(StagedChange, AConfirmedOneStays) {
  ASSERT_TRUE(Change("", 120).ok());
  ASSERT_TRUE(Decide(v1::DecideChangeRequest::CONFIRM).ok());
  Tick(absl::Hours(1));
  EXPECT_EQ(publisher_->current()->revision, 3u);
  EXPECT_EQ(publisher_->Apply(ApplyOf({StaticService("other")}), "")->revision(), 4u);
}

TEST_F(StagedChange, AGuardWatchesTheRoutesAndRevertsWhenItBreaks) {
  ASSERT_EQ(Serves("dp-b"), 2u);
  ASSERT_TRUE(Change("zone=a", 0, "error_rate<1%,for=60s").ok());
  ASSERT_EQ(Serves("dp-a"), 3u);
  ASSERT_EQ(Serves("dp-b"), 2u);
  EXPECT_EQ(watched_["dp-a"], std::vector<std::string>{"orders"});
  EXPECT_EQ(watched_["dp-b"], std::vector<std::string>{"orders"});
  Report("dp-a", 1000, 5);
  Report("dp-b", 1000, 500);
  Tick(absl::Seconds(10));
  EXPECT_EQ(publisher_->current()->revision, 3u) << "what others see is not the change's";
  Report("dp-a", 1000, 41);
  Tick(absl::Seconds(10));
  EXPECT_EQ(publisher_->current()->revision, 4u);
  EXPECT_EQ(Newest().comment(),
            "reverted: error_rate 4.1 % is not below 1 % on route orders, data plane dp-a (without the change: 50 %)");
  EXPECT_EQ(publisher_->counts().reverted_by_guard, 1u);
  EXPECT_EQ(Serves("dp-a"), 4u);
  EXPECT_EQ(watched_["dp-a"], std::vector<std::string>()) << "the guard is over";
}

TEST_F(StagedChange, AGuardThatHoldsEndsAChangeForAllAndLeavesAStagedOne) {
  ASSERT_TRUE(Change("zone=a", 0, "error_rate<1%,for=60s").ok());
  ASSERT_EQ(Serves("dp-a"), 3u);
  Report("dp-a", 1000, 5);
  Tick(absl::Seconds(60));
  ASSERT_NE(publisher_->current()->pending, nullptr);
  EXPECT_FALSE(publisher_->current()->pending->has_guard_until());
  EXPECT_EQ(publisher_->current()->pending->note(), "the guard saw 1000 requests: error_rate 0.5 %");
  ASSERT_TRUE(Decide(v1::DecideChangeRequest::PROMOTE).ok());
  EXPECT_EQ(Serves("dp-b"), 3u);
}

TEST_F(StagedChange, GivesWayToAnotherBootstrapFile) {
  ASSERT_TRUE(Change("zone=a").ok());
  limit_ = BuiltinRateLimit{5, Millis(1000)};
  Open();
  EXPECT_EQ(publisher_->current()->revision, 4u);
  EXPECT_EQ(ServiceOfOrders(), "old");
  EXPECT_EQ(publisher_->current()->resources->at({"RateLimit", "default"}).resource->rate_limit().limit().requests(),
            5u);
  EXPECT_EQ(publisher_->store().PendingChangeOf(3)->outcome(), v1::PendingChange::REVERTED);
}

}  // namespace
}  // namespace gateway::controlplane
