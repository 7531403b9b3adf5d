// Canaries of Routes, from the publisher to the streams of data planes, with a real database and virtual time.
#include "controlplane/change/canary.h"

#include <sqlite3.h>

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/policy/schema_version.h"
#include "controlplane/stream/canary_keeper.h"
#include "controlplane/stream/hub.h"
#include "gateway/v1/config_stream.grpc.pb.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "tests/unit/controlplane/testing.h"

namespace gateway::controlplane {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

v1::Resource CanaryRoute(std::vector<uint32_t> steps, const std::string& guard = "", int every_seconds = 60,
                         const std::string& name = "shop") {
  v1::Resource resource;
  v1::Route& route = *resource.mutable_route();
  route.set_name(name);
  route.mutable_match()->mutable_path()->set_prefix("/" + name);
  route.add_split()->set_service("v1");
  route.add_split()->set_service("v2");
  for (const uint32_t step : steps) route.mutable_canary()->add_steps(step);
  route.mutable_canary()->set_guard(guard);
  route.mutable_canary()->mutable_every()->set_seconds(every_seconds);
  return resource;
}

class CanaryChanges : public testing::Test {
 protected:
  void SetUp() override {
    Open();
    ASSERT_EQ(Apply({StaticService("v1"), StaticService("v2")}).revision(), 2u);
  }
  // A start of the control plane: data planes come back and say what they serve.
  void Open() {
    publisher_.reset();
    hub_ = std::make_unique<Hub>();
    sessions_.clear();
    PublisherOptions options;
    options.builtins = BuiltinResources(BuiltinRateLimit{});
    options.publish = [this](std::shared_ptr<const PolicyState> state) { hub_->PublishPolicy(std::move(state)); };
    options.data_planes = [this] { return hub_->DataPlanes(); };
    options.now = [this] { return now_; };
    publisher_ = OpenPublisher(At(dir_.File("gateway.db")), std::move(options));
    ASSERT_NE(publisher_, nullptr);
    Connect("dp-1");
    Connect("dp-2");
  }
  void Connect(const std::string& name, uint32_t schema_version = kSchemaVersion) {
    v1::Hello hello;
    hello.set_schema_version(schema_version);
    hello.set_name(name);
    hello.set_instance_id(name);
    hello.set_workers(1);
    hello.set_takes_operations(true);
    Hub::Attachment attachment = hub_->Attach(hello, "192.0.2.1:1", {});
    ASSERT_NE(attachment.session, nullptr);
    sessions_[name] = attachment.session;
  }
  // Takes all that is sent to `name` and acknowledges it: the weight of v2 in the Route, and the Route's version.
  struct Served {
    uint32_t weight = 0;
    uint64_t version = 0;
    bool has_canary = false;
  };
  Served Serves(const std::string& name, const std::string& route = "shop") {
    while (auto next = hub_->Next(sessions_[name])) {
      v1::ControlPlaneMessage message;
      EXPECT_TRUE(grpc::SerializationTraits<v1::ControlPlaneMessage>::Deserialize(&*next, &message).ok());
      if (message.has_operations()) {
        watched_.assign(message.operations().watched_routes().begin(), message.operations().watched_routes().end());
      }
      if (!message.has_policy()) continue;
      for (const v1::VersionedResource& each : message.policy().resources()) {
        if (each.resource().route().name() != route) continue;
        served_[name] = {each.resource().route().split(1).weight(), each.version(),
                         each.resource().route().has_canary()};
      }
      v1::Ack ack;
      ack.set_epoch(message.policy().epoch());
      ack.set_revision(message.policy().to());
      EXPECT_TRUE(hub_->OnAck(sessions_[name], ack).ok());
    }
    return served_[name];
  }
  v1::ApplyResponse Apply(std::initializer_list<v1::Resource> resources) {
    const absl::StatusOr<v1::ApplyResponse> done = publisher_->Apply(ApplyOf(resources, "ann"), "127.0.0.1");
    EXPECT_TRUE(done.ok()) << done.status();
    return done.value_or(v1::ApplyResponse());
  }
  absl::StatusOr<v1::DecideCanaryResponse> Decide(v1::DecideCanaryRequest::Decision decision,
                                                  const std::string& comment = "", const Author& author = "") {
    v1::DecideCanaryRequest request;
    request.set_route("shop");
    request.set_decision(decision);
    request.mutable_context()->set_actor("bob");
    request.mutable_context()->set_comment(comment);
    return publisher_->DecideCanary(request, author);
  }
  absl::Status Look(bool judge = true) {
    return publisher_->AdvanceCanaries(counts_.Count(*publisher_->current(), hub_->Reports(), now_), judge);
  }
  void Tick(absl::Duration passed) {
    now_ += passed;
    const absl::Status status = Look();
    EXPECT_TRUE(status.ok()) << status;
  }
  // What `name` has counted of the Route as it serves it.
  void Report(const std::string& name, uint64_t requests, uint64_t errors, uint64_t others = 0) {
    v1::Report report;
    v1::RouteReport* route = report.add_routes();
    route->set_route("shop");
    route->set_revision(Serves(name).version);
    v1::RouteServiceReport* side = route->add_services();
    side->set_service("v2");
    side->set_requests(requests);
    side->set_errors(errors);
    side = route->add_services();
    side->set_service("v1");
    side->set_requests(others);
    hub_->OnReport(sessions_[name], report);
  }
  v1::CanaryState State(const std::string& route = "shop") {
    const std::shared_ptr<const PolicyState> state = publisher_->current();
    const auto found = state->canaries->find(route);
    return found == state->canaries->end() ? v1::CanaryState()
                                           : ShownState(found->second.state, state->pending.get(), now_);
  }
  uint64_t Revision() { return publisher_->current()->revision; }
  v1::RevisionInfo Newest() { return publisher_->store().RevisionsBefore(0, {}, 1)->front(); }

  TempDir dir_;
  absl::Time now_ = absl::FromUnixSeconds(1'700'000'000);
  std::unique_ptr<Hub> hub_;
  std::unique_ptr<Publisher> publisher_;
  CanaryCounts counts_;
  std::map<std::string, std::shared_ptr<Hub::Session>> sessions_;
  std::map<std::string, Served> served_;
  std::vector<std::string> watched_;
};

TEST_F(CanaryChanges, WalksStepByStepEachARevisionOfItsRoute) {
  ASSERT_EQ(Apply({CanaryRoute({1, 5, 100})}).revision(), 3u);
  EXPECT_EQ(Serves("dp-1").weight, 1u);
  EXPECT_FALSE(Serves("dp-1").has_canary) << "data planes get weights alone";
  EXPECT_EQ(State().phase(), v1::CanaryState::WALKING);
  EXPECT_EQ(State().next_step().seconds(), absl::ToUnixSeconds(now_) + 60);
  Tick(absl::Seconds(59));
  EXPECT_EQ(Revision(), 3u);
  Tick(absl::Seconds(1));
  EXPECT_EQ(Revision(), 4u);
  EXPECT_EQ(Serves("dp-1").weight, 5u);
  EXPECT_EQ(Serves("dp-1").version, 4u) << "a version of the route";
  EXPECT_EQ(Newest().actor(), "canary");
  EXPECT_EQ(Newest().comment(), "Route/shop: canary step 2 of 3, 5 %");
  ASSERT_EQ(Newest().changes_size(), 1);
  EXPECT_EQ(Newest().changes(0).name(), "shop");
  const auto audit = publisher_->store().AuditBefore(0, "canary", absl::InfinitePast(), 1);
  ASSERT_EQ(audit->size(), 1u);
  EXPECT_EQ(audit->front().action(), "Canary");
  EXPECT_EQ(audit->front().revision(), 4u);
  Tick(absl::Seconds(60));
  EXPECT_EQ(Serves("dp-2").weight, 100u);
  EXPECT_EQ(State().phase(), v1::CanaryState::COMPLETE) << "without a guard nothing follows the last step";
  EXPECT_EQ(State().reason(), "the last step was taken");
  EXPECT_FALSE(State().has_next_step());
  ASSERT_EQ(State().events_size(), 3);
  EXPECT_EQ(State().events(0).what(), "step 3 of 3, complete");
  EXPECT_EQ(State().events(2).what(), "step 1 of 3");
  EXPECT_EQ(State().events(2).revision(), 3u);
  Tick(absl::Hours(10));
  EXPECT_EQ(Revision(), 5u);
}

TEST_F(CanaryChanges, KeepsWhatOperatorsHaveWritten) {
  ASSERT_EQ(Apply({CanaryRoute({1, 50})}).revision(), 3u);
  Tick(absl::Seconds(60));
  ASSERT_EQ(Revision(), 4u);
  const v1::Resource& stored = *publisher_->current()->resources->at({"Route", "shop"}).resource;
  EXPECT_EQ(CanonicalBytes(stored), CanonicalBytes(CanaryRoute({1, 50})));
  EXPECT_EQ(Apply({CanaryRoute({1, 50})}).revision(), 4u) << "applied again, it is unchanged";
  v1::RollbackRequest rollback;
  rollback.set_revision(3);
  EXPECT_EQ(publisher_->Rollback(rollback, "")->revision(), 4u) << "steps are not policy that could be taken back";
  EXPECT_EQ(State().percent(), 50u);
  v1::ApplyRequest synced = ApplyOf({CanaryRoute({1, 50}), StaticService("v1"), StaticService("v2")});
  synced.set_set("prod");
  ASSERT_TRUE(publisher_->Apply(synced, "").ok());
  EXPECT_EQ(publisher_->Apply(synced, "")->revision(), 5u) << "a set again is unchanged, too";
  EXPECT_EQ(State().percent(), 50u);
}

TEST_F(CanaryChanges, AStepOfSeveralRoutesIsOneRevision) {
  ASSERT_EQ(Apply({CanaryRoute({1, 5}), CanaryRoute({2, 7}, "", 60, "cart")}).revision(), 3u);
  Tick(absl::Seconds(60));
  EXPECT_EQ(Revision(), 4u);
  EXPECT_EQ(Newest().comment(),
            "Route/cart: canary step 2 of 2, complete, 7 %; Route/shop: canary step 2 of 2, "
            "complete, 5 %");
  EXPECT_EQ(State("cart").percent(), 7u);
}

TEST_F(CanaryChanges, AGuardThatHoldsLetsItWalkAndEndsIt) {
  ASSERT_EQ(Apply({CanaryRoute({10, 100}, "error_rate<1%")}).revision(), 3u);
  Report("dp-1", 1000, 3);
  EXPECT_THAT(watched_, ElementsAre("shop/sides"));
  Tick(absl::Seconds(60));
  EXPECT_EQ(State().percent(), 100u);
  EXPECT_EQ(State().phase(), v1::CanaryState::WALKING) << "the guard watches the last step, too";
  EXPECT_EQ(State().events(0).what(), "step 2 of 2; the guard saw 1000 requests: error_rate 0.3 %");
  Report("dp-1", 500, 0);
  Tick(absl::Seconds(60));
  EXPECT_EQ(State().phase(), v1::CanaryState::COMPLETE);
  EXPECT_EQ(State().reason(), "its guard held: saw 500 requests: error_rate 0 %");
  EXPECT_EQ(Newest().comment(), "Route/shop: canary complete, 100 %");
  (void)Serves("dp-1");
  EXPECT_THAT(watched_, IsEmpty());
}

TEST_F(CanaryChanges, AGuardThatBreaksRevertsIt) {
  ASSERT_EQ(Apply({CanaryRoute({10, 100}, "error_rate<1%")}).revision(), 3u);
  Report("dp-1", 19, 19);
  Tick(absl::Seconds(1));
  EXPECT_EQ(Revision(), 3u) << "before the end of the step a few requests decide nothing";
  Report("dp-1", 600, 0, 5400);
  Report("dp-2", 604, 86, 5400);
  Tick(absl::Seconds(1));
  EXPECT_EQ(Revision(), 4u);
  EXPECT_EQ(Serves("dp-2").weight, 0u);
  EXPECT_EQ(State().phase(), v1::CanaryState::REVERTED);
  EXPECT_EQ(State().percent(), 0u);
  EXPECT_EQ(State().reason(), "error_rate 7.14 % of 1204 requests to v2, limit 1 % (other sides: 0 %)");
  EXPECT_EQ(Newest().comment(), "Route/shop: canary reverted: " + State().reason());
  EXPECT_EQ(publisher_->counts().canaries_reverted, 1u);
  Report("dp-1", 1000, 0);
  Tick(absl::Hours(10));
  EXPECT_EQ(Revision(), 4u) << "nothing is tried again by itself";
  ASSERT_TRUE(Decide(v1::DecideCanaryRequest::RESTART).ok());
  EXPECT_EQ(State().percent(), 10u);
  EXPECT_EQ(State().events(0).what(), "restarted by 'bob': step 1 of 2");
}

TEST_F(CanaryChanges, FiguresOfAnotherVersionOfTheRouteDoNotCount) {
  ASSERT_EQ(Apply({CanaryRoute({10, 50, 100}, "error_rate<1%")}).revision(), 3u);
  Report("dp-1", 1000, 0);
  Report("dp-2", 1000, 0);
  Tick(absl::Seconds(60));
  ASSERT_EQ(Revision(), 4u);
  // dp-2 has not taken the step yet.
  v1::Report late;
  late.add_routes()->set_route("shop");
  late.mutable_routes(0)->set_revision(3);
  late.mutable_routes(0)->add_services()->set_service("v2");
  late.mutable_routes(0)->mutable_services(0)->set_requests(2000);
  late.mutable_routes(0)->mutable_services(0)->set_errors(1000);
  hub_->OnReport(sessions_["dp-2"], late);
  Tick(absl::Seconds(1));
  EXPECT_EQ(Revision(), 4u);
  // Another change of policy begins no new count.
  ASSERT_EQ(Apply({StaticService("other")}).revision(), 5u);
  Report("dp-1", 1000, 999);
  Tick(absl::Seconds(1));
  EXPECT_EQ(State().phase(), v1::CanaryState::REVERTED);
}

TEST_F(CanaryChanges, WithoutRequestsAGuardHoldsUnlessItWantsThem) {
  ASSERT_TRUE(Apply({CanaryRoute({10, 100}, "error_rate<1%")}).revision() > 0);
  Report("dp-1", 0, 0);
  Tick(absl::Seconds(60));
  EXPECT_EQ(State().events(0).what(), "step 2 of 2; the guard saw no requests to v2");
  ASSERT_TRUE(Apply({CanaryRoute({5, 100}, "error_rate<1%,requests>10")}).revision() > 0);
  Report("dp-1", 9, 0);
  Tick(absl::Seconds(60));
  EXPECT_EQ(State().phase(), v1::CanaryState::REVERTED);
  EXPECT_EQ(State().reason(), "9 requests to v2 during the step, not above 10");
}

// All data planes may be cut off, or serve the step later than it was to end.
TEST_F(CanaryChanges, AGuardedStepEndsNotBeforeSomebodyHasWatchedIt) {
  ASSERT_EQ(Apply({CanaryRoute({10, 100}, "error_rate<1%")}).revision(), 3u);
  Tick(absl::Seconds(60));
  EXPECT_EQ(State().percent(), 10u);
  EXPECT_EQ(State().reason(), "");
  Tick(absl::Hours(1));
  EXPECT_EQ(State().percent(), 10u);
  EXPECT_EQ(State().reason(), "waits: no data plane reports the requests of this step");
  Report("dp-2", 3, 0);
  Tick(absl::ZeroDuration());
  EXPECT_EQ(State().percent(), 100u);
  // What was reported of the step before says nothing of this one.
  Tick(absl::Seconds(60));
  EXPECT_EQ(State().phase(), v1::CanaryState::WALKING);
  Report("dp-1", 0, 0);
  Tick(absl::ZeroDuration());
  EXPECT_EQ(State().phase(), v1::CanaryState::COMPLETE);
}

TEST_F(CanaryChanges, AChangeThatLeavesItsShapeKeepsItAndBeginsTheStepAgain) {
  ASSERT_TRUE(Apply({CanaryRoute({1, 5, 100})}).revision() > 0);
  Tick(absl::Seconds(60));
  ASSERT_EQ(State().percent(), 5u);
  Tick(absl::Seconds(50));
  v1::Resource changed = CanaryRoute({1, 5, 100}, "p99<1s", 30);
  changed.mutable_route()->mutable_timeout()->set_seconds(3);
  ASSERT_EQ(Apply({changed}).revision(), 5u);
  EXPECT_EQ(State().percent(), 5u);
  EXPECT_EQ(State().step(), 1u);
  EXPECT_EQ(State().next_step().seconds(), absl::ToUnixSeconds(now_) + 30) << "the requests are counted again";
  EXPECT_EQ(State().events(0).what(), "the route was changed: step 2 of 3 begins again");
  EXPECT_EQ(Serves("dp-1").weight, 5u);
  Report("dp-1", 1, 0);
  Tick(absl::Seconds(29));
  EXPECT_EQ(State().percent(), 5u);
  Tick(absl::Seconds(1));
  EXPECT_EQ(State().percent(), 100u);
}

TEST_F(CanaryChanges, OtherSidesStepsOrServiceBeginItAgain) {
  for (const std::string what : {"steps", "service", "sides"}) {
    ASSERT_TRUE(Apply({StaticService("v3"), CanaryRoute({1, 5, 100})}).revision() > 0);
    Tick(absl::Seconds(60));
    ASSERT_EQ(State().percent(), 5u) << what;
    v1::Resource changed = CanaryRoute({1, 5, 100});
    if (what == "steps") changed.mutable_route()->mutable_canary()->set_steps(2, 50);
    if (what == "service") changed.mutable_route()->mutable_canary()->set_service("v1");
    if (what == "sides") changed.mutable_route()->add_split()->set_service("v3");
    ASSERT_TRUE(Apply({changed}).revision() > 0);
    EXPECT_EQ(State().percent(), 1u) << what;
    EXPECT_EQ(State().step(), 0u) << what;
    EXPECT_EQ(State().events_size(), 1) << what;
  }
}

TEST_F(CanaryChanges, WithoutItTheWrittenWeightsCountAndWithItAgainItBegins) {
  ASSERT_TRUE(Apply({CanaryRoute({1, 5, 100})}).revision() > 0);
  Tick(absl::Seconds(60));
  v1::Resource plain = CanaryRoute({1, 5, 100});
  plain.mutable_route()->clear_canary();
  plain.mutable_route()->mutable_split(1)->set_weight(30);
  ASSERT_TRUE(Apply({plain}).revision() > 0);
  EXPECT_EQ(Serves("dp-1").weight, 30u);
  EXPECT_FALSE(publisher_->current()->canaries->contains("shop"));
  EXPECT_EQ(Decide(v1::DecideCanaryRequest::PAUSE).status().code(), absl::StatusCode::kNotFound);
  Open();
  EXPECT_FALSE(publisher_->current()->canaries->contains("shop"));
  ASSERT_TRUE(Apply({CanaryRoute({1, 5, 100})}).revision() > 0);
  EXPECT_EQ(State().percent(), 1u);
  v1::DeleteRequest remove;
  remove.set_kind("Route");
  remove.set_name("shop");
  ASSERT_TRUE(publisher_->Delete(remove, "").ok());
  EXPECT_TRUE(publisher_->current()->canaries->empty());
  EXPECT_TRUE(publisher_->store().LoadCanaries(Revision())->empty());
  EXPECT_EQ(Decide(v1::DecideCanaryRequest::PAUSE).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(CanaryChanges, ARollbackToOtherStepsBeginsThem) {
  ASSERT_EQ(Apply({CanaryRoute({1, 5, 100})}).revision(), 3u);
  Tick(absl::Seconds(60));
  ASSERT_EQ(Apply({CanaryRoute({2, 100})}).revision(), 5u);
  v1::RollbackRequest rollback;
  rollback.set_revision(4);
  ASSERT_TRUE(publisher_->Rollback(rollback, "").ok());
  EXPECT_EQ(State().percent(), 1u);
  EXPECT_EQ(Serves("dp-1").weight, 1u);
}

TEST_F(CanaryChanges, ARestartTakesTheDueStepAndNoMore) {
  ASSERT_EQ(Apply({CanaryRoute({1, 5, 25, 100})}).revision(), 3u);
  Tick(absl::Seconds(60));
  ASSERT_EQ(State().percent(), 5u);
  now_ += absl::Hours(10);
  Open();
  EXPECT_EQ(State().percent(), 5u);
  EXPECT_EQ(Serves("dp-1").weight, 5u);
  Tick(absl::ZeroDuration());
  EXPECT_EQ(State().percent(), 25u);
  Tick(absl::Seconds(59));
  EXPECT_EQ(State().percent(), 25u) << "no step is skipped";
  EXPECT_EQ(State().events_size(), 3);
}

TEST_F(CanaryChanges, AfterARestartAGuardIsJudgedOnceDataPlanesHaveReported) {
  ASSERT_EQ(Apply({CanaryRoute({10, 100}, "error_rate<1%")}).revision(), 3u);
  now_ += absl::Seconds(90);
  Open();
  ASSERT_TRUE(Look(/*judge=*/false).ok());
  EXPECT_EQ(Revision(), 3u);
  Report("dp-1", 100, 50);
  ASSERT_TRUE(Look(/*judge=*/true).ok());
  EXPECT_EQ(State().phase(), v1::CanaryState::REVERTED);
}

TEST_F(CanaryChanges, PeopleDecide) {
  ASSERT_EQ(Apply({CanaryRoute({1, 5, 25})}).revision(), 3u);
  EXPECT_EQ(Decide(v1::DecideCanaryRequest::RESUME).status().code(), absl::StatusCode::kFailedPrecondition);
  auto done = Decide(v1::DecideCanaryRequest::PAUSE, "the release party");
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(done->revision(), 4u);
  EXPECT_EQ(done->canary().phase(), v1::CanaryState::PAUSED);
  EXPECT_FALSE(done->canary().has_next_step());
  EXPECT_EQ(Newest().comment(), "Route/shop: canary paused, 1 %: the release party");
  EXPECT_EQ(Newest().actor(), "bob");
  EXPECT_EQ(Decide(v1::DecideCanaryRequest::PAUSE).status().message(),
            "the canary of Route/shop is paused at 1 %; only one that walks is paused; nothing was changed");
  Tick(absl::Hours(1));
  EXPECT_EQ(State().percent(), 1u);
  Open();
  EXPECT_EQ(State().phase(), v1::CanaryState::PAUSED);
  ASSERT_TRUE(Decide(v1::DecideCanaryRequest::RESUME).ok());
  Tick(absl::Seconds(59));
  EXPECT_EQ(State().percent(), 1u) << "the step begins again";
  Tick(absl::Seconds(1));
  EXPECT_EQ(State().percent(), 5u);
  ASSERT_TRUE(Decide(v1::DecideCanaryRequest::ABORT).ok());
  EXPECT_EQ(State().phase(), v1::CanaryState::ABORTED);
  EXPECT_EQ(State().reason(), "by 'bob'");
  EXPECT_EQ(Serves("dp-1").weight, 0u);
  for (const auto decision : {v1::DecideCanaryRequest::PAUSE, v1::DecideCanaryRequest::RESUME,
                              v1::DecideCanaryRequest::ABORT, v1::DecideCanaryRequest::COMPLETE}) {
    EXPECT_EQ(Decide(decision).status().code(), absl::StatusCode::kFailedPrecondition) << decision;
  }
  ASSERT_TRUE(Decide(v1::DecideCanaryRequest::RESTART).ok());
  EXPECT_EQ(State().percent(), 1u);
  ASSERT_TRUE(Decide(v1::DecideCanaryRequest::COMPLETE).ok());
  EXPECT_EQ(State().phase(), v1::CanaryState::COMPLETE);
  EXPECT_EQ(Serves("dp-1").weight, 100u) << "all traffic, whatever the last step";
  EXPECT_EQ(Decide(v1::DecideCanaryRequest::COMPLETE).status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(Decide(v1::DecideCanaryRequest::ABORT).ok()) << "a complete one may be taken back";
  EXPECT_EQ(Decide(v1::DecideCanaryRequest::DECISION_UNSPECIFIED).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(CanaryChanges, WhilePausedTheGuardWatchesWhatIsRecent) {
  ASSERT_EQ(Apply({CanaryRoute({10, 100}, "error_rate<1%")}).revision(), 3u);
  ASSERT_TRUE(Decide(v1::DecideCanaryRequest::PAUSE).ok());
  // An hour of good requests, then all fail.
  for (uint64_t minute = 1; minute <= 60; ++minute) {
    Report("dp-1", 10'000 * minute, 0);
    Tick(absl::Seconds(60));
  }
  ASSERT_EQ(State().phase(), v1::CanaryState::PAUSED);
  Report("dp-1", 600'000 + 1'000, 1'000);
  Tick(absl::Seconds(1));
  EXPECT_EQ(State().phase(), v1::CanaryState::REVERTED) << "1000 of 600000 alone would be less than 1 %";
}

TEST_F(CanaryChanges, ABoundEditorDecidesAboutRoutesOfTheirsAlone) {
  ASSERT_EQ(Apply({CanaryRoute({1, 5})}).revision(), 3u);
  const auto scope = std::make_shared<Scope>();
  EXPECT_TRUE(Decide(v1::DecideCanaryRequest::PAUSE, "", Author("", "ann", "DecideCanary", scope)).ok());
  const auto bound = std::make_shared<Scope>();
  bound->only["team"] = "cart";
  EXPECT_EQ(Decide(v1::DecideCanaryRequest::RESUME, "", Author("", "eve", "DecideCanary", bound)).status().code(),
            absl::StatusCode::kPermissionDenied);
}

TEST_F(CanaryChanges, StepsWaitForTheEndOfAChangeUnderWay) {
  ASSERT_EQ(Apply({CanaryRoute({1, 5, 100})}).revision(), 3u);
  v1::ApplyRequest request = ApplyOf({StaticService("other")}, "ann");
  request.mutable_confirm_within()->set_seconds(3600);
  ASSERT_TRUE(publisher_->Apply(request, "").ok());
  now_ += absl::Seconds(60);
  const absl::Status waits = Look();
  EXPECT_EQ(waits.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(waits.message()),
              HasSubstr("Route/shop: canary step 2 of 3, 5 % waits: revision 4 by 'ann' is to be confirmed"));
  EXPECT_EQ(Revision(), 4u);
  EXPECT_EQ(State().reason(), "waits: revision 4 by 'ann' is to be confirmed");
  EXPECT_FALSE(State().has_next_step());
  EXPECT_EQ(Decide(v1::DecideCanaryRequest::PAUSE).status().code(), absl::StatusCode::kAborted);
  v1::DecideChangeRequest confirm;
  confirm.set_decision(v1::DecideChangeRequest::CONFIRM);
  ASSERT_TRUE(publisher_->Decide(confirm, "").ok());
  Tick(absl::ZeroDuration());
  EXPECT_EQ(State().percent(), 5u);
}

TEST_F(CanaryChanges, AnAbandonedChangeGivesTheStateBackAlsoOverARestart) {
  for (const bool restart : {false, true}) {
    ASSERT_TRUE(Apply({CanaryRoute({1, 5, 100})}).revision() > 0);
    ASSERT_TRUE(Decide(v1::DecideCanaryRequest::RESTART).ok());
    Tick(absl::Seconds(60));
    ASSERT_EQ(State().percent(), 5u);
    v1::ApplyRequest request = ApplyOf({CanaryRoute({2, 3, 4})}, "ann");
    request.set_to("percent=1");
    const auto staged = publisher_->Apply(request, "");
    ASSERT_TRUE(staged.ok()) << staged.status();
    ASSERT_EQ(State().percent(), 2u);
    const std::string chosen = staged->change().picked().empty() ? "dp-1" : staged->change().picked();
    if (restart) Open();
    EXPECT_EQ(State().percent(), 2u);
    EXPECT_EQ(Serves("dp-1").weight + Serves("dp-2").weight, 7u) << "one serves 2 %, the other the base's 5 %";
    v1::DecideChangeRequest abandon;
    abandon.set_decision(v1::DecideChangeRequest::ABANDON);
    ASSERT_TRUE(publisher_->Decide(abandon, "").ok());
    EXPECT_EQ(State().percent(), 5u);
    EXPECT_EQ(State().step(), 1u);
    EXPECT_EQ(Serves(chosen).weight, 5u);
    Open();
    EXPECT_EQ(State().percent(), 5u) << "kept";
  }
}

TEST_F(CanaryChanges, AnExpectedVersionOutlivesStepsAndNothingElse) {
  ASSERT_EQ(Apply({CanaryRoute({1, 5, 100})}).revision(), 3u);
  Tick(absl::Seconds(60));
  ASSERT_EQ(Revision(), 4u);
  v1::ApplyRequest request = ApplyOf({CanaryRoute({1, 5, 100}, "p99<1s")});
  v1::ExpectedVersion* expected = request.add_expected_versions();
  expected->set_kind("Route");
  expected->set_name("shop");
  expected->set_revision(2);
  EXPECT_EQ(publisher_->Apply(request, "").status().code(), absl::StatusCode::kAborted);
  expected->set_revision(3);
  ASSERT_TRUE(publisher_->Apply(request, "").ok()) << "what was read is what there is";
  EXPECT_EQ(publisher_->Apply(request, "").status().code(), absl::StatusCode::kAborted);
}

TEST_F(CanaryChanges, ADataPlaneOfTheFirstReleaseWalksAlong) {
  ASSERT_EQ(Apply({CanaryRoute({1, 5, 100})}).revision(), 3u);
  Connect("old", kSchemaVersionMin);
  EXPECT_EQ(Serves("old").weight, 1u);
  Tick(absl::Seconds(60));
  EXPECT_EQ(Serves("old").weight, 5u);
}

TEST_F(CanaryChanges, KeepsItsNewest50Events) {
  ASSERT_TRUE(Apply({CanaryRoute({1, 5})}).revision() > 0);
  for (int i = 0; i < kCanaryEventsKept; ++i) ASSERT_TRUE(Decide(v1::DecideCanaryRequest::RESTART).ok());
  ASSERT_TRUE(Decide(v1::DecideCanaryRequest::PAUSE).ok());
  EXPECT_EQ(State().events_size(), kCanaryEventsKept);
  EXPECT_EQ(State().events(0).what(), "paused by 'bob'");
}

TEST_F(CanaryChanges, ABackupHasTheState) {
  ASSERT_TRUE(Apply({CanaryRoute({1, 5, 100})}).revision() > 0);
  Tick(absl::Seconds(60));
  ASSERT_TRUE(publisher_->store().BackUp(dir_.File("copy")).ok());
  ASSERT_TRUE(Decide(v1::DecideCanaryRequest::ABORT).ok());
  publisher_.reset();
  for (const char* suffix : {"-wal", "-shm"}) std::filesystem::remove(dir_.File("gateway.db") + suffix);
  std::filesystem::rename(dir_.File("copy"), dir_.File("gateway.db"));
  Open();
  EXPECT_EQ(State().phase(), v1::CanaryState::WALKING);
  EXPECT_EQ(State().percent(), 5u);
  EXPECT_EQ(State().events_size(), 2);
  Tick(absl::Seconds(60));
  EXPECT_EQ(State().percent(), 100u);
}

TEST_F(CanaryChanges, ADamagedRowIsReported) {
  ASSERT_TRUE(Apply({CanaryRoute({1, 5})}).revision() > 0);
  EXPECT_TRUE(publisher_->store().CheckAll().ok());
  const StoredCanary canary = publisher_->current()->canaries->at("shop");
  EXPECT_EQ(publisher_->store().LoadCanaries(Revision())->at("shop").state.SerializeAsString(),
            canary.state.SerializeAsString());
  EXPECT_TRUE(publisher_->store().LoadCanaries(1)->empty()) << "it had not begun yet";
  publisher_.reset();
  sqlite3* database = nullptr;
  ASSERT_EQ(sqlite3_open(dir_.File("gateway.db").c_str(), &database), SQLITE_OK);
  EXPECT_EQ(sqlite3_exec(database, "UPDATE canaries SET written = written + 1", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(database);
  auto store = Store::Open(At(dir_.File("gateway.db")));
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->LoadCanaries(100).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string((*store)->CheckAll().message()), HasSubstr("the canary of Route/shop cannot be read"));
}

}  // namespace
}  // namespace gateway::controlplane
