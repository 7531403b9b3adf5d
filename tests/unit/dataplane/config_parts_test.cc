// The parts of ConfigClient, each tested alone.
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/base/sealing.h"
#include "common/config/redaction.h"
#include "common/policy/resource.h"
#include "dataplane/config/applied_config.h"
#include "dataplane/config/cache_keys.h"
#include "dataplane/config/chunk_stage.h"
#include "dataplane/config/control_plane_rotation.h"
#include "dataplane/config/reporter.h"
#include "dataplane/config/state_installer.h"
#include "dataplane/config/timed_overrides.h"
#include "dataplane/state/runtime_state.h"
#include "dataplane/telemetry/metrics.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/lab_ca.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr TimePoint kNow{1000h};

v1::PolicyUpdate Chunk(uint32_t number, bool last, uint64_t to = 7, const std::string& epoch = "e") {
  v1::PolicyUpdate chunk;
  chunk.set_epoch(epoch);
  chunk.set_to(to);
  chunk.set_chunk(number);
  chunk.set_last(last);
  return chunk;
}

TEST(ChunkStage, IsCompleteWithItsLastChunk) {
  using Step = ChunkStage<v1::PolicyUpdate>::Step;
  ChunkStage<v1::PolicyUpdate> stage;
  EXPECT_EQ(stage.Add(Chunk(0, false), kNow), Step::kMore);
  EXPECT_EQ(stage.Add(Chunk(1, true), kNow + 1s), Step::kComplete);
  EXPECT_EQ(stage.to, 7u);
  EXPECT_EQ(stage.chunks.size(), 2u);
  EXPECT_EQ(stage.completed_at, kNow + 1s);
}

TEST(ChunkStage, ChunksOfAnotherUpdateOrOutOfOrderAreRejected) {
  using Step = ChunkStage<v1::PolicyUpdate>::Step;
  const auto second = [](v1::PolicyUpdate chunk) {
    ChunkStage<v1::PolicyUpdate> stage;
    EXPECT_EQ(stage.Add(Chunk(0, false), kNow), Step::kMore);
    return stage.Add(std::move(chunk), kNow);
  };
  EXPECT_EQ(second(Chunk(2, true)), Step::kOutOfOrder);
  EXPECT_EQ(second(Chunk(1, true, 8)), Step::kOutOfOrder);
  EXPECT_EQ(second(Chunk(1, true, 7, "f")), Step::kOutOfOrder);
  EXPECT_EQ(second(Chunk(0, true, 8)), Step::kComplete);  // a first chunk starts again
  ChunkStage<v1::PolicyUpdate> stage;
  EXPECT_EQ(stage.Add(Chunk(0, true), kNow), Step::kComplete);
  EXPECT_EQ(stage.Add(Chunk(1, true), kNow), Step::kOutOfOrder);  // after the last
}

TEST(ControlPlaneRotation, TriesAllBeforeItWaits) {
  ControlPlaneRotation rotation({"a", "b", "c"}, 3);
  EXPECT_EQ(rotation.address(), "a");
  EXPECT_EQ(rotation.Next(false, 0s), 0ms);
  EXPECT_EQ(rotation.address(), "b");
  EXPECT_EQ(rotation.Next(false, 0s), 0ms);
  EXPECT_EQ(rotation.address(), "c");
  EXPECT_GE(rotation.Next(false, 0s), 1ms);
  EXPECT_EQ(rotation.address(), "a");
}

TEST(ControlPlaneRotation, StartsFromTheFirstAfterOneThatHadAcceptedTheStream) {
  ControlPlaneRotation rotation({"a", "b"}, 3);
  EXPECT_EQ(rotation.Next(false, 0s), 0ms);
  EXPECT_EQ(rotation.address(), "b");
  EXPECT_GE(rotation.Next(true, 10s), 1ms);
  EXPECT_EQ(rotation.address(), "a");
}

// Delays are random, so each round is drawn often: the longest delay shows its ceiling.
TEST(ControlPlaneRotation, DelaysGrowToTheirLastRoundAndShrinkAfterAStableStream) {
  std::vector<std::chrono::milliseconds> longest(7);
  std::chrono::milliseconds after_stable{0};
  for (int i = 0; i < 500; ++i) {
    ControlPlaneRotation rotation({"a"}, 3);
    for (auto& each : longest) each = std::max(each, rotation.Next(false, 0s));
    after_stable = std::max(after_stable, rotation.Next(true, ControlPlaneRotation::kStableStream));
  }
  EXPECT_LE(longest[0], 100ms);
  EXPECT_GT(longest[2], 200ms);
  EXPECT_GT(longest[6], 400ms);
  EXPECT_LE(longest[6], 800ms);
  EXPECT_LE(after_stable, 100ms);
}

v1::EndpointOverride Override(const std::string& endpoint, int seconds) {
  v1::EndpointOverride made;
  made.set_service("svc");
  made.set_endpoint(endpoint);
  made.set_weight(3);
  if (seconds > 0) made.mutable_remaining()->set_seconds(seconds);
  return made;
}

TEST(TimedOverrides, EndByTheOwnClockWhateverTheControlPlanesSays) {
  const absl::Time now = absl::FromUnixSeconds(1'700'000'000);
  v1::OperationsUpdate update;
  *update.add_overrides() = Override("a:1", 10);
  update.mutable_overrides(0)->mutable_until()->set_seconds(1);  // by a clock that is decades behind
  *update.add_overrides() = Override("b:1", 0);
  TimedOverrides overrides;
  overrides.Assign(update, now);
  EXPECT_EQ(overrides.end(), now + absl::Seconds(10));
  EXPECT_EQ(overrides.Table().by_endpoint.size(), 2u);
  EXPECT_FALSE(overrides.EndDue(now + absl::Seconds(9)));
  EXPECT_TRUE(overrides.EndDue(now + absl::Seconds(10)));
  EXPECT_EQ(overrides.end(), absl::InfiniteFuture());
  ASSERT_EQ(overrides.all().size(), 1u);
  EXPECT_EQ(overrides.all()[0].endpoint(), "b:1");
}

TEST(TimedOverrides, WhatEndedWhileTheProcessWasDownIsNotRestored) {
  const absl::Time now = absl::FromUnixSeconds(1'700'000'000);
  v1::OperationsUpdate update;
  *update.add_overrides() = Override("a:1", 10);
  *update.add_overrides() = Override("b:1", 20);
  TimedOverrides before;
  before.Assign(update, now);
  v1::EndpointsUpdate kept;
  kept.mutable_overrides()->Assign(before.all().begin(), before.all().end());
  TimedOverrides after;
  after.Restore(kept.overrides(), now + absl::Seconds(15));
  ASSERT_EQ(after.all().size(), 1u);
  EXPECT_EQ(after.all()[0].endpoint(), "b:1");
  EXPECT_EQ(after.end(), now + absl::Seconds(20));
}

v1::PolicyUpdate UpdateWithKey(const std::string& key) {
  v1::PolicyUpdate update;
  v1::Certificate* certificate = update.add_resources()->mutable_resource()->mutable_certificate();
  certificate->set_name("c");
  certificate->mutable_key()->set_inline_(key);
  return update;
}

const std::string& KeyIn(const v1::PolicyUpdate& update) {
  return update.resources(0).resource().certificate().key().inline_();
}

TEST(CacheKeys, AreSealedUnderTheOwnKeyAndOpenedWithItAlone) {
  fixtures::LabCa ca;
  const std::string own = ca.IssueFor({"DNS:dp-1"}).key, other = ca.IssueFor({"DNS:dp-2"}).key;
  v1::PolicyUpdate sealed = UpdateWithKey("secret");
  SealKeys(own, &sealed);
  EXPECT_TRUE(IsSealed(KeyIn(sealed)));
  EXPECT_THAT(sealed.SerializeAsString(), ::testing::Not(HasSubstr("secret")));
  v1::PolicyUpdate opened = sealed;
  OpenKeys(own, &opened);
  EXPECT_EQ(KeyIn(opened), "secret");
  v1::PolicyUpdate not_opened = sealed;
  OpenKeys(other, &not_opened);
  EXPECT_TRUE(IsRedacted(KeyIn(not_opened)));
  v1::PolicyUpdate not_sealed = UpdateWithKey("secret");
  SealKeys("", &not_sealed);  // without a key
  EXPECT_TRUE(IsRedacted(KeyIn(not_sealed)));
  v1::PolicyUpdate not_issued;  // by ACME: with a key of no bytes, the cached policy would not be valid
  not_issued.add_resources()->mutable_resource()->mutable_certificate()->mutable_acme();
  SealKeys(own, &not_issued);
  EXPECT_FALSE(not_issued.resources(0).resource().certificate().has_key());
}

v1::Bootstrap NoBootstrap() { return {}; }

ChunkStage<v1::PolicyUpdate> PolicyOf(uint64_t from, uint64_t to, const std::vector<std::string>& services,
                                      const std::string& address = "127.0.0.1:1") {
  v1::PolicyUpdate update = Chunk(0, true, to);
  update.set_from(from);
  for (const std::string& name : services) {
    v1::Service* service = update.add_resources()->mutable_resource()->mutable_service();
    service->set_name(name);
    service->add_static_()->set_address(address);
  }
  ChunkStage<v1::PolicyUpdate> stage;
  (void)stage.Add(std::move(update), kNow);
  return stage;
}

TEST(AppliedConfig, AnUpdateThatIsNotAppliedChangesNothing) {
  using Step = AppliedConfig::Result::Step;
  const v1::Bootstrap bootstrap = NoBootstrap();
  AppliedConfig config(bootstrap);
  ASSERT_TRUE(config.LoadBuiltins().ok());
  EXPECT_FALSE(config.has_policy());
  ASSERT_EQ(config.Apply(PolicyOf(0, 3, {"a", "b"})).step, Step::kApplied);
  const auto before = config.snapshot();
  const AppliedConfig::Result rejected = config.Apply(PolicyOf(3, 4, {"c"}, "no-port"));
  EXPECT_EQ(rejected.step, Step::kRejected);
  EXPECT_EQ(rejected.nack.revision(), 4u);
  EXPECT_EQ(rejected.nack.applied_revision(), 3u);
  ASSERT_EQ(rejected.nack.rejections_size(), 1);
  EXPECT_EQ(rejected.nack.rejections(0).name(), "c");
  EXPECT_EQ(config.Apply(PolicyOf(2, 5, {"d"})).step, Step::kOutOfStep);
  EXPECT_EQ(config.snapshot(), before);
  v1::Hello hello;
  config.Describe(&hello);
  EXPECT_EQ(hello.revision(), 3u);
  EXPECT_EQ(hello.epoch(), "e");
}

TEST(AppliedConfig, WhatIsKeptIsRestored) {
  const v1::Bootstrap bootstrap = NoBootstrap();
  AppliedConfig before(bootstrap);
  ASSERT_EQ(before.Apply(PolicyOf(0, 3, {"a"})).step, AppliedConfig::Result::Step::kApplied);
  AppliedConfig after(bootstrap);
  after.Restore({.policy = before.PolicyToKeep(), .endpoints = before.EndpointsToKeep()}, absl::Now());
  EXPECT_TRUE(after.has_policy());
  EXPECT_EQ(after.revision(), 3u);
  v1::PolicyUpdate newer = before.PolicyToKeep();
  newer.set_schema_version(kSchemaVersion + 1);
  AppliedConfig ignoring(bootstrap);
  ignoring.Restore({.policy = std::move(newer), .endpoints = std::nullopt}, absl::Now());
  EXPECT_FALSE(ignoring.has_policy());
}

class Installing : public ::testing::Test {
 protected:
  std::shared_ptr<const Snapshot> snapshot_ = CompileSnapshot({}, CompileOptions()).snapshot;
  MetricsRegistry registry_{1};
  RuntimeState runtime_{&registry_};
  std::vector<std::shared_ptr<const ServingState>> states_;
  std::vector<std::function<void()>> done_;
  StateInstaller installer_{&runtime_, [this](auto state, auto done) {
                              states_.push_back(std::move(state));
                              done_.push_back(std::move(done));
                            }};
};

TEST_F(Installing, EndsWhenTheWorkersServeTheNewestState) {
  installer_.Begin(snapshot_, {}, false);
  installer_.Begin(snapshot_, {}, true);
  done_[1]();  // it replaced the first one
  EXPECT_TRUE(installer_.Await());
  done_[0]();
  EXPECT_TRUE(installer_.Await());
}

TEST_F(Installing, AbandoningEndsAWait) {
  installer_.Begin(snapshot_, {}, false);
  std::thread other([this] { installer_.Abandon(); });
  EXPECT_FALSE(installer_.Await());
  other.join();
}

TEST_F(Installing, ARetiredStateIsFreedOnceNoWorkerHoldsIt) {
  installer_.Begin(snapshot_, {}, false);
  std::weak_ptr<const ServingState> first = states_[0];
  EXPECT_FALSE(installer_.has_retired());
  installer_.Begin(snapshot_, {}, true);
  installer_.Sweep();
  EXPECT_TRUE(installer_.has_retired());  // a worker still holds it
  states_.erase(states_.begin());
  // The runtime keeps only the newest state.
  installer_.Sweep();
  EXPECT_FALSE(installer_.has_retired());
  EXPECT_TRUE(first.expired());
}

TEST(Reporter, SaysOnlyWhatIsNews) {
  MetricsRegistry registry{1};
  RuntimeState runtime{&registry};
  Reporter reporter(&runtime, nullptr);
  Reporter::Facts facts;
  EXPECT_TRUE(reporter.Next(facts, kNow).has_value());
  EXPECT_FALSE(reporter.Next(facts, kNow + 1s).has_value());
  facts.drained = true;
  const auto news = reporter.Next(facts, kNow + 2s);
  ASSERT_TRUE(news.has_value());
  EXPECT_TRUE(news->report().drained());
  EXPECT_FALSE(reporter.Next(facts, kNow + 3s).has_value());
  reporter.Restart();  // a new stream knows nothing yet
  EXPECT_TRUE(reporter.Next(facts, kNow + 4s).has_value());
}

}  // namespace
}  // namespace gateway::dataplane
