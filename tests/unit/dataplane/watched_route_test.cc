// What is counted of the routes that a guard watches.
#include <chrono>

#include "common/base/latency_buckets.h"
#include "dataplane/telemetry/metrics.h"
#include "gtest/gtest.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;

TEST(WatchedRoute, CountsRequestsErrorsAndLatenciesOfAllWorkersByRevision) {
  MetricsRegistry registry(2);
  const MetricId before = registry.RegisterWatchedRoute("orders", 7);
  const MetricId after = registry.RegisterWatchedRoute("orders", 8);
  registry.shard(0)->RecordWatched(before, 500, Reason::kNone, 1ms);
  registry.shard(0)->RecordWatched(after, 200, Reason::kNone, 10ms);
  registry.shard(1)->RecordWatched(after, 502, Reason::kNone, 10ms);
  const MetricsRegistry::WatchedFigures figures = registry.FiguresOf(after);
  EXPECT_EQ(figures.requests, 2u);
  EXPECT_EQ(figures.errors, 1u);
  EXPECT_EQ(figures.latency[LatencyBucketOf(10'000'000)], 2u);
  EXPECT_EQ(registry.FiguresOf(before).requests, 1u);
  EXPECT_EQ(registry.RegisterWatchedRoute("orders", 8), after) << "a bind of the same revision counts on";
}

TEST(WatchedRoute, WhatIsNotWatchedAndWhatTheClientGaveUpIsNotCounted) {
  MetricsRegistry registry(1);
  const MetricId watched = registry.RegisterWatchedRoute("orders", 7);
  registry.shard(0)->RecordWatched(WorkerShard::kNotWatched, 500, Reason::kNone, 1ms);
  registry.shard(0)->RecordWatched(watched, 499, Reason::kClientClosed, 1ms);
  EXPECT_EQ(registry.FiguresOf(MetricId()).requests, 0u);
  EXPECT_EQ(registry.FiguresOf(watched).requests, 0u);
}

}  // namespace
}  // namespace gateway::dataplane
