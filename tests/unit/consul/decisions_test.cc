// What operators decide about the endpoints of a service: freeze, thaw, accept; and its history.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/temp_dir.h"
#include "tests/fixtures/wait_for.h"
#include "tests/unit/consul/fake_consul.h"
#include "tests/unit/consul/watched.h"

namespace gateway::controlplane {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::StartsWith;
using Reply = FakeConsul::Reply;
using Request = FakeConsul::Request;

constexpr auto kAccept = v1::DecideEndpointsRequest::ACCEPT;
constexpr auto kFreeze = v1::DecideEndpointsRequest::FREEZE;
constexpr auto kThaw = v1::DecideEndpointsRequest::THAW;

ConsulWatcherOptions OptionsFor(const FakeConsul& consul) {
  ConsulWatcherOptions options;
  options.access.address = consul.address();
  return options;
}

TEST(Decisions, FrozenEndpointsStayWhateverConsulSaysAndOverARestart) {
  const fixtures::TempDir dir;
  FakeConsul consul;
  consul.SetService("web", {8001, 8002});
  consul.SetService("other", {7001});
  ConsulWatcherOptions options = OptionsFor(consul);
  options.state_file = dir.File("endpoints");
  {
    Watched watched(options);
    watched.Follow({"web", "other"});
    watched.watcher().Start();
    ASSERT_TRUE(watched.Wait(Serves("web", "8001 8002")));
    ASSERT_TRUE(watched.Wait(Serves("other", "7001")));
    const auto frozen = watched.Decide(kFreeze, "web", "a restore");
    ASSERT_TRUE(frozen.ok()) << frozen.status();
    EXPECT_EQ(frozen->frozen().actor(), "ada");
    EXPECT_EQ(frozen->frozen().comment(), "a restore");
    EXPECT_EQ(watched.Decide(kFreeze, "web").status().code(), absl::StatusCode::kFailedPrecondition);
    ASSERT_TRUE(watched.Wait([](const EndpointCatalog& catalog) { return catalog.frozen == 1; }));
    consul.SetService("web", {9001});
    consul.SetService("other", {7002});
    ASSERT_TRUE(watched.Wait(Serves("other", "7002"))) << "others are followed";
    EXPECT_TRUE(Serves("web", "8001 8002")(*watched.newest()));
    consul.RemoveService("web");
    consul.SetService("other", {7003});
    ASSERT_TRUE(watched.Wait(Serves("other", "7003")));
    EXPECT_TRUE(Serves("web", "8001 8002")(*watched.newest()));
  }
  Watched watched(options);
  watched.Follow({"web", "other"});
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(Serves("other", "7003")));
  EXPECT_TRUE(Serves("web", "8001 8002")(*watched.newest()));
  consul.SetService("web", {9002});
  consul.SetService("other", {7004});
  ASSERT_TRUE(watched.Wait(Serves("other", "7004")));
  EXPECT_TRUE(Serves("web", "8001 8002")(*watched.newest()));
  const auto thawed = watched.Decide(kThaw, "web");
  ASSERT_TRUE(thawed.ok()) << thawed.status();
  ASSERT_TRUE(watched.Wait(Serves("web", "9002")));
  EXPECT_EQ(watched.Decide(kThaw, "web").status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(watched.History("web"), HasSubstr("frozen")) << "the first process' events are kept";
  EXPECT_THAT(watched.History("web"), HasSubstr("thawed"));
}

// Routes that take the name from the path reach it as long as it is frozen.
TEST(Decisions, FrozenServiceThatPolicyDoesNotNameStaysWhenItLeavesTheCatalog) {
  FakeConsul consul;
  consul.SetService("team-a", {8001});
  Watched watched(OptionsFor(consul));
  EndpointInterest interest;
  interest.dynamic = [](std::string_view name) { return name.starts_with("team-"); };
  watched.watcher().SetInterest(interest);
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(Serves("team-a", "8001")));
  ASSERT_TRUE(watched.Decide(kFreeze, "team-a").ok());
  consul.RemoveService("team-a");
  consul.SetService("team-b", {8002});
  ASSERT_TRUE(watched.Wait(Serves("team-b", "8002")));
  EXPECT_TRUE(Serves("team-a", "8001")(*watched.newest()));
  ASSERT_TRUE(watched.Decide(kThaw, "team-a").ok());
  ASSERT_TRUE(watched.Wait([](const EndpointCatalog& catalog) { return !catalog.sets.contains({"", "team-a"}); }));
}

TEST(Decisions, WhatIsHeldIsAcceptedOnRequestAlone) {
  FakeConsul consul;
  consul.SetService("web", {8001, 8002});
  Watched watched(OptionsFor(consul));
  watched.Follow({"web"});
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 8002")));
  EXPECT_THAT(watched.Decide(kAccept, "web").status().message(), HasSubstr("nothing is held"));
  EXPECT_EQ(watched.Decide(kAccept, "nobody").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(watched.Decide(kFreeze, "nobody").status().code(), absl::StatusCode::kNotFound);
  consul.SetService("web", {});  // listed, and empty: as with a token that lost node:read
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 8002 stale")));
  const auto accepted = watched.Decide(kAccept, "web", "they moved");
  ASSERT_TRUE(accepted.ok()) << accepted.status();
  EXPECT_EQ(accepted->instances_size(), 0);
  EXPECT_FALSE(accepted->stale());
  ASSERT_TRUE(watched.Wait(Serves("web", "")));
  EXPECT_THAT(watched.History("web"), StartsWith("accepted changed held")) << "the newest first";
  const v1::EndpointEvent event = watched.watcher().History({"", "web"})[0];
  EXPECT_EQ(event.actor(), "ada");
  EXPECT_EQ(event.reason(), "they moved");
  // What comes later is judged as ever.
  consul.SetService("web", {8003});
  ASSERT_TRUE(watched.Wait(Serves("web", "8003")));
  consul.SetService("web", {});
  ASSERT_TRUE(watched.Wait(Serves("web", "8003 stale")));
}

TEST(Decisions, NothingIsAcceptedWhileConsulCannotBeRead) {
  FakeConsul consul;
  consul.SetService("web", {8001});
  Watched watched(OptionsFor(consul));
  watched.Follow({"web"});
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(Serves("web", "8001")));
  consul.SetScript([](const Request&) { return Reply{.status = 500, .body = "No cluster leader"}; });
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 stale")));
  const auto accepted = watched.Decide(kAccept, "web");
  EXPECT_EQ(accepted.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(accepted.status().message(), HasSubstr("No cluster leader"));
  EXPECT_TRUE(Serves("web", "8001 stale")(*watched.newest()));
  // Frozen meanwhile, it is not shown as stale.
  ASSERT_TRUE(watched.Decide(kFreeze, "web").ok());
  ASSERT_TRUE(watched.Wait(Serves("web", "8001")));
}

TEST(Decisions, FreezeThatCannotBeKeptIsRefused) {
  const fixtures::TempDir dir;
  FakeConsul consul;
  consul.SetService("web", {8001});
  ConsulWatcherOptions options = OptionsFor(consul);
  options.state_file = dir.File("no-such-folder/endpoints");
  Watched watched(options);
  watched.Follow({"web"});
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(Serves("web", "8001")));
  EXPECT_THAT(watched.Decide(kFreeze, "web").status().message(), HasSubstr("cannot be kept"));
  consul.SetService("web", {8002});
  ASSERT_TRUE(watched.Wait(Serves("web", "8002"))) << "it is not frozen";
}

TEST(Decisions, ServiceThatShrinksAtOnceIsHeldAndAccepted) {
  FakeConsul consul;
  std::vector<int> many;
  for (int port = 8001; port <= 8020; ++port) many.push_back(port);
  consul.SetService("web", many);
  // So that the service is not most of all endpoints.
  std::vector<int> others;
  for (int port = 7001; port <= 7060; ++port) others.push_back(port);
  consul.SetService("others", others);
  Watched watched(OptionsFor(consul));
  watched.Follow({"web", "others"});
  watched.watcher().Start();
  const auto instances = [&](const std::string& service, int count, bool stale) {
    return watched.Wait([=](const EndpointCatalog& catalog) {
      return SetOf(catalog, service).instances_size() == count && SetOf(catalog, service).stale() == stale;
    });
  };
  ASSERT_TRUE(instances("web", 20, false));
  ASSERT_TRUE(instances("others", 60, false));
  consul.SetService("web", {8001, 8002});
  ASSERT_TRUE(instances("web", 20, true));
  EXPECT_THAT(SetOf(*watched.newest(), "web").alarm(), HasSubstr("18 of 20 instances gone at once"));
  ASSERT_TRUE(watched.Decide(kAccept, "web").ok());
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 8002")));
}

}  // namespace
}  // namespace gateway::controlplane
