// The sides of a split whose requests are counted for the control plane, from its message to the report.
#include <chrono>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/policy/snapshot.h"
#include "dataplane/config/applied_config.h"
#include "dataplane/config/chunk_stage.h"
#include "dataplane/config/reporter.h"
#include "dataplane/state/runtime_state.h"
#include "dataplane/telemetry/metrics.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/temp_dir.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;

constexpr TimePoint kNow{1000h};

v1::OperationsUpdate Watching(const std::vector<std::string>& names) {
  v1::OperationsUpdate update;
  update.mutable_watched_routes()->Assign(names.begin(), names.end());
  return update;
}

// `routes` at this version, each with v1 and v2.
ChunkStage<v1::PolicyUpdate> Policy(uint64_t revision, uint64_t version, const std::vector<std::string>& routes,
                                    uint32_t weight_of_v2 = 1) {
  v1::PolicyUpdate update;
  update.set_epoch("e");
  update.set_to(revision);
  update.set_last(true);
  for (const char* name : {"v1", "v2"}) {
    v1::VersionedResource* service = update.add_resources();
    service->mutable_resource()->mutable_service()->set_name(name);
    service->mutable_resource()->mutable_service()->add_static_()->set_address("127.0.0.1:1");
  }
  for (const std::string& name : routes) {
    v1::VersionedResource* route = update.add_resources();
    route->set_version(version);
    route->mutable_resource()->mutable_route()->set_name(name);
    route->mutable_resource()->mutable_route()->mutable_match()->mutable_path()->set_prefix("/" + name);
    route->mutable_resource()->mutable_route()->add_split()->set_service("v1");
    route->mutable_resource()->mutable_route()->add_split()->set_service("v2");
    route->mutable_resource()->mutable_route()->mutable_split(1)->set_weight(weight_of_v2);
  }
  ChunkStage<v1::PolicyUpdate> stage;
  (void)stage.Add(std::move(update), kNow);
  return stage;
}

class WatchedSides : public ::testing::Test {
 protected:
  const BoundRoute& Bind(size_t index = 0) {
    state_ = runtime_.Bind(config_.snapshot(), config_.endpoints(), true);
    return state_->routes[index];
  }
  v1::Report Report() {
    Reporter reporter(&runtime_, nullptr);
    return reporter.Next({}, kNow)->report();
  }
  void Take(ChunkStage<v1::PolicyUpdate> update) {
    ASSERT_EQ(config_.Apply(std::move(update)).step, AppliedConfig::Result::Step::kApplied);
  }

  v1::Bootstrap bootstrap_;
  AppliedConfig config_{bootstrap_};
  MetricsRegistry registry_{2};
  RuntimeState runtime_{&registry_};
  std::shared_ptr<const ServingState> state_;
};

TEST_F(WatchedSides, AreCountedByTheVersionOfTheirRouteWhateverElseChanges) {
  config_.Apply(Watching({"shop/sides"}), absl::Now());
  Take(Policy(7, 5, {"shop"}));
  const BoundRoute route = Bind();
  ASSERT_EQ(route.watched_sides.size(), 2u);
  EXPECT_EQ(route.watched, WorkerShard::kNotWatched) << "the route as a whole is not asked for";
  registry_.shard(0)->RecordWatchedSide(route.watched_sides[1], 200, Reason::kNone, 3ms);
  registry_.shard(1)->RecordWatchedSide(route.watched_sides[1], 503, Reason::kNone, 3ms);
  registry_.shard(1)->RecordWatchedSide(route.watched_sides[0], 200, Reason::kNone, 3ms);
  registry_.shard(1)->RecordWatchedSide(route.watched_sides[1], 499, Reason::kClientClosed, 3ms);
  Take(Policy(8, 5, {"shop"}));
  (void)Bind();
  const v1::Report report = Report();
  ASSERT_EQ(report.routes_size(), 1);
  EXPECT_EQ(report.routes(0).route(), "shop");
  EXPECT_EQ(report.routes(0).revision(), 5u);
  EXPECT_EQ(report.routes(0).requests(), 0u) << "a guard of changes sums these up, by another number";
  ASSERT_EQ(report.routes(0).services_size(), 2);
  EXPECT_EQ(report.routes(0).services(0).service(), "v1");
  EXPECT_EQ(report.routes(0).services(0).requests(), 1u);
  EXPECT_EQ(report.routes(0).services(1).requests(), 2u);
  EXPECT_EQ(report.routes(0).services(1).errors(), 1u);
  EXPECT_GT(report.routes(0).services(1).latency_size(), 0);
  Take(Policy(9, 9, {"shop"}));
  (void)Bind();
  EXPECT_EQ(Report().routes(0).revision(), 9u);
  EXPECT_EQ(Report().routes(0).services(1).requests(), 0u) << "another version begins at 0";
}

TEST_F(WatchedSides, ASideThatGetsNothingIsLeftOut) {
  config_.Apply(Watching({"shop/sides"}), absl::Now());
  Take(Policy(7, 7, {"shop"}, /*weight_of_v2=*/0));
  EXPECT_EQ(Bind().watched_sides.size(), 1u);
  EXPECT_EQ(Report().routes(0).services_size(), 1);
}

TEST_F(WatchedSides, UnwatchedRoutesHaveNoCounters) {
  Take(Policy(7, 7, {"shop"}));
  EXPECT_TRUE(Bind().watched_sides.empty());
  config_.Apply(Watching({"shop", "cart/sides"}), absl::Now());
  const BoundRoute& route = Bind();
  EXPECT_TRUE(route.watched_sides.empty());
  EXPECT_NE(route.watched, WorkerShard::kNotWatched);
  registry_.shard(0)->RecordWatchedSide(WorkerShard::kNotWatched, 500, Reason::kNone, 1ms);
}

TEST_F(WatchedSides, AThousandRoutesAreTakenAndReportsAreBounded) {
  std::vector<std::string> names, routes;
  for (int i = 0; i < 1'001; ++i) {
    routes.push_back(absl::StrCat("r", i));
    names.push_back(absl::StrCat("r", i, "/sides"));
  }
  names.push_back("r0");
  config_.Apply(Watching(names), absl::Now());
  EXPECT_EQ(config_.endpoints().watched_sides.size(), 1'000u);
  EXPECT_EQ(config_.endpoints().watched_routes.size(), 1u) << "these have a bound of their own";
  Take(Policy(7, 7, routes));
  (void)Bind();
  for (const BoundRoute& route : state_->routes) {
    // All buckets, each with a count of several bytes.
    for (const MetricId& side : route.watched_sides) {
      for (const int64_t bound : kLatencyBoundNanos) {
        for (int n = 0; n < 130; ++n) {
          registry_.shard(0)->RecordWatchedSide(side, 500, Reason::kNone, std::chrono::nanoseconds(bound));
        }
      }
    }
  }
  const v1::Report report = Report();
  EXPECT_GT(report.routes_size(), 500);
  EXPECT_LE(report.ByteSizeLong(), Reporter::kBytesMax);
}

TEST(WatchedSideCounters, ArePastTheirBoundNotCountedAndDroppedWithTheirLastUser) {
  auto now = std::chrono::steady_clock::time_point(1h);
  MetricsRegistry registry(1, {.keep_removed_for = 10min, .clock = [&now] { return now; }});
  std::vector<MetricId> ids;
  for (uint64_t version = 1; version < MetricsRegistry::kWatchedSidesMax; ++version) {
    ids.push_back(registry.RegisterWatchedSide("shop", version, "v2"));
    ASSERT_NE(ids.back(), WorkerShard::kNotWatched) << version;
  }
  EXPECT_EQ(registry.RegisterWatchedSide("cart", 1, "v2"), WorkerShard::kNotWatched);
  registry.shard(0)->RecordWatchedSide(ids.back(), 500, Reason::kNone, 1ms);
  EXPECT_EQ(registry.FiguresOfSide(ids.back()).errors, 1u);
  ids.clear();
  registry.DropRemoved();
  now += MetricsRegistry::kSidesKept;
  registry.DropRemoved();
  const MetricId later = registry.RegisterWatchedSide("cart", 1, "v2");
  EXPECT_NE(later, WorkerShard::kNotWatched);
  EXPECT_EQ(registry.FiguresOfSide(later).requests, 0u);
}

std::string ProblemsOfFile(const std::string& policy) {
  const fixtures::TempDir directory;
  v1::Bootstrap bootstrap;
  bootstrap.mutable_data_plane()->add_policy_files(directory.Write("policy.yaml", policy));
  std::vector<std::string> warnings;
  return std::string(AppliedConfig(bootstrap).LoadPolicyFiles(&warnings).message());
}

TEST(PolicyFiles, ACanaryNeedsAControlPlane) {
  EXPECT_THAT(ProblemsOfFile("kind: Service\nname: v1\nstatic: [{ address: \"127.0.0.1:1\" }]\n---\n"
                             "kind: Service\nname: v2\nstatic: [{ address: \"127.0.0.1:1\" }]\n---\n"
                             "kind: Route\nname: shop\nmatch: { path: { prefix: / } }\n"
                             "split: [{ service: v1 }, { service: v2 }]\ncanary: { steps: [1] }\n"),
              ::testing::HasSubstr(":13:1: Route/shop: canary: needs a control plane, which takes its steps"));
}

TEST(PolicyFiles, ACertificateOfACaNeedsAControlPlane) {
  EXPECT_THAT(ProblemsOfFile("kind: Certificate\nname: site\nacme: { directory: \"https://ca.example/dir\", hosts: "
                             "[shop.example], challenge: http-01 }\n"),
              ::testing::HasSubstr(":3:1: Certificate/site: acme: needs a control plane, which orders it"));
}

}  // namespace
}  // namespace gateway::dataplane
