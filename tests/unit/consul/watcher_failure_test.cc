// The watcher against a Consul that misbehaves.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/temp_dir.h"
#include "tests/fixtures/wait_for.h"
#include "tests/unit/consul/fake_consul.h"
#include "tests/unit/consul/watched.h"

namespace gateway::controlplane {
namespace {

using namespace std::chrono_literals;
using fixtures::WaitFor;
using testing::HasSubstr;
using Reply = FakeConsul::Reply;
using Request = FakeConsul::Request;

ConsulWatcherOptions OptionsFor(const FakeConsul& consul) {
  ConsulWatcherOptions options;
  options.access.address = consul.address();
  return options;
}

// Every read fails in one way: the last good set stays, is marked stale, and recovers by itself.
class WatcherFailure : public testing::TestWithParam<std::pair<const char*, Reply>> {};

TEST_P(WatcherFailure, KeepsTheLastGoodSetAndRecovers) {
  FakeConsul consul;
  consul.SetService("web", {8001, 8002});
  Watched watched(OptionsFor(consul));
  watched.Follow({"web", "absent"});
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 8002")));
  ASSERT_TRUE(watched.Wait(Unknown("absent")));

  consul.SetScript([reply = GetParam().second](const Request&) { return reply; });
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 8002 stale")));
  ASSERT_TRUE(
      watched.Wait([](const EndpointCatalog& catalog) { return !catalog.reachable && !catalog.error.empty(); }));
  EXPECT_FALSE(SetOf(*watched.newest(), "web").alarm().empty());
  EXPECT_TRUE(watched.newest()->catalog_known);
  // It keeps retrying, and nothing gets worse.
  const int before = consul.requests("/v1/health/service/web");
  ASSERT_TRUE(WaitFor([&] { return consul.requests("/v1/health/service/web") >= before + 3; }));
  EXPECT_TRUE(Serves("web", "8001 8002 stale")(*watched.newest()));

  consul.SetService("web", {8001, 8003});
  consul.SetScript(nullptr);
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 8003")));
  ASSERT_TRUE(watched.Wait(
      [](const EndpointCatalog& catalog) { return catalog.reachable && !SetOf(catalog, "absent").stale(); }));
  EXPECT_EQ(SetOf(*watched.newest(), "web").alarm(), "");
  EXPECT_TRUE(watched.ordered());
}

INSTANTIATE_TEST_SUITE_P(
    Ways, WatcherFailure,
    testing::Values(std::pair{"Error500WithIndex", Reply{.status = 500, .body = "No cluster leader", .index = 1}},
                    std::pair{"Forbidden", Reply{.status = 403, .body = "ACL not found"}},
                    std::pair{"TooManyRequests", Reply{.status = 429}},
                    std::pair{"Reset", Reply{.kind = Reply::Kind::kReset}},
                    std::pair{"NotHttp", Reply{.kind = Reply::Kind::kRaw, .body = "hello there\r\n\r\n"}},
                    std::pair{"NoResponse", Reply{.kind = Reply::Kind::kRaw}},
                    std::pair{"NotJson", Reply{.body = "<html>", .index = 5}},
                    std::pair{"WrongJson", Reply{.body = "7", .index = 5}},
                    std::pair{"Truncated", Reply{.kind = Reply::Kind::kRaw,
                                                 .body = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[]"}},
                    std::pair{"Oversize", Reply{.kind = Reply::Kind::kRaw,
                                                .body = "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n[]"}}),
    [](const auto& info) { return info.param.first; });

TEST(ConsulWatcher, UnreachableFromTheStartIsUnavailableThenRecovers) {
  FakeConsul consul;
  consul.SetScript([](const Request&) { return Reply{.kind = Reply::Kind::kReset}; });
  Watched watched(OptionsFor(consul));
  watched.Follow({"web"});
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait([](const EndpointCatalog& catalog) {
    return SetOf(catalog, "web").state() == v1::EndpointSet::UNAVAILABLE && !catalog.error.empty();
  }));
  EXPECT_FALSE(watched.newest()->catalog_known);
  EXPECT_FALSE(SetOf(*watched.newest(), "web").stale()) << "nothing can be stale yet";
  consul.SetService("web", {8001});
  consul.SetScript(nullptr);
  ASSERT_TRUE(watched.Wait(Serves("web", "8001")));
  EXPECT_TRUE(watched.newest()->catalog_known);
}

TEST(ConsulWatcher, HangingReadEndsAtItsDeadline) {
  FakeConsul consul;
  consul.SetService("web", {8001});
  std::atomic<int> hung = 0;
  consul.SetScript([&](const Request& request) -> std::optional<Reply> {
    // The blocking queries hang beyond their requested wait.
    if (request.index == 0 || hung >= 2) return std::nullopt;
    ++hung;
    return Reply{.kind = Reply::Kind::kHang};
  });
  ConsulWatcherOptions options = OptionsFor(consul);
  options.wait = 100ms;
  Watched watched(options);
  watched.Follow({"web"});
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(Serves("web", "8001")));
  ASSERT_TRUE(WaitFor([&] { return hung >= 2; }));
  consul.SetService("web", {8001, 8002});
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 8002"), 20s));
}

TEST(ConsulWatcher, ReadsChunkedResponses) {
  FakeConsul consul;
  consul.SetScript([](const Request& request) -> std::optional<Reply> {
    if (request.index > 0) return std::nullopt;
    if (request.Has("catalog")) return Reply{.body = R"({"consul":[],"web":[]})", .index = 100, .chunked = true};
    return Reply{
        .body = R"([{"Node":{"Node":"n1","Address":"127.0.0.1"},"Service":{"ID":"w","Service":"web","Port":8001}}])",
        .index = 100,
        .chunked = true};
  });
  Watched watched(OptionsFor(consul));
  watched.Follow({"web"});
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(Serves("web", "8001")));
}

// An ACL token that lost node:read: 200 with an empty list, while the catalog still lists the service.
TEST(ConsulWatcher, EmptyListOfAListedServiceIsHeldWithAnAlarm) {
  FakeConsul consul;
  consul.SetService("web", {8001, 8002});
  consul.SetService("other", {8003});
  Watched watched(OptionsFor(consul));
  watched.Follow({"web", "other"});
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 8002")));
  consul.SetService("web", {});
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 8002 stale")));
  EXPECT_THAT(SetOf(*watched.newest(), "web").alarm(), HasSubstr("node:read"));
  EXPECT_TRUE(Serves("other", "8003")(*watched.newest()));
  consul.SetService("web", {8002});
  ASSERT_TRUE(watched.Wait(Serves("web", "8002")));
}

TEST(ConsulWatcher, EmptyListIsBelievedWherePolicyAcceptsIt) {
  FakeConsul consul;
  consul.SetService("web", {8001, 8002});
  Watched watched(OptionsFor(consul));
  watched.Follow({"web"}, v1::ConsulSource::ACCEPT);
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 8002")));
  consul.SetService("web", {});
  ASSERT_TRUE(watched.Wait(Serves("web", "")));
}

TEST(ConsulWatcher, DeregisteredServiceIsUnknown) {
  FakeConsul consul;
  consul.SetService("web", {8001});
  Watched watched(OptionsFor(consul));
  watched.Follow({"web"});
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(Serves("web", "8001")));
  consul.RemoveService("web");
  ASSERT_TRUE(watched.Wait(Unknown("web"), 1s));
  EXPECT_FALSE(SetOf(*watched.newest(), "web").stale());
  consul.SetService("web", {8002});
  ASSERT_TRUE(watched.Wait(Serves("web", "8002"), 1s));
}

// The token lost everything: the catalog too is empty.
TEST(ConsulWatcher, EmptyCatalogIsNotBelieved) {
  FakeConsul consul;
  consul.SetService("web", {8001});
  Watched watched(OptionsFor(consul));
  watched.Follow({"web"});
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(Serves("web", "8001")));
  consul.SetScript([](const Request& request) -> std::optional<Reply> {
    return Reply{.body = request.Has("catalog") ? "{}" : "[]", .index = 200};
  });
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 stale")));
  ASSERT_TRUE(watched.Wait(
      [](const EndpointCatalog& catalog) { return catalog.error.find("service:read") != std::string::npos; }));
  const int before = consul.requests("catalog");
  ASSERT_TRUE(WaitFor([&] { return consul.requests("catalog") >= before + 3; }));
  EXPECT_TRUE(Serves("web", "8001 stale")(*watched.newest()));
  consul.SetScript(nullptr);
  ASSERT_TRUE(watched.Wait(Serves("web", "8001")));
}

// A Consul that lost its state and came back.
TEST(ConsulWatcher, LossAfterTheIndexWentBackIsHeld) {
  FakeConsul consul;
  consul.SetService("web", {8001});
  consul.SetIndex(5000);
  Watched watched(OptionsFor(consul));
  watched.Follow({"web"});
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(Serves("web", "8001")));
  consul.SetScript([](const Request& request) -> std::optional<Reply> {
    return Reply{.body = request.Has("catalog") ? R"({"consul":[]})" : "[]", .index = 12};
  });
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 stale")));
  EXPECT_THAT(SetOf(*watched.newest(), "web").alarm(), HasSubstr("index went back"));
  consul.SetIndex(20);
  consul.SetService("web", {8009});
  consul.SetScript(nullptr);
  ASSERT_TRUE(watched.Wait(Serves("web", "8009"))) << "registered again";
}

TEST(ConsulWatcher, IndexGoingBackReadsAnew) {
  FakeConsul consul;
  consul.SetService("web", {8001});
  consul.SetIndex(5000);
  Watched watched(OptionsFor(consul));
  watched.Follow({"web"});
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(Serves("web", "8001")));
  consul.SetIndex(20);  // wakes the queries with a lower index
  consul.SetService("web", {8001, 8002});
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 8002")));
  consul.SetService("web", {8001, 8002, 8003});
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 8002 8003")));
}

TEST(ConsulWatcher, MassDisappearanceIsHeld) {
  FakeConsul consul;
  std::vector<std::string> names;
  for (int i = 0; i < 12; ++i) {
    names.push_back("s" + std::to_string(i));
    consul.SetService(names.back(), {8000 + i});
  }
  Watched watched(OptionsFor(consul));
  watched.Follow(names);
  watched.watcher().Start();
  for (int i = 0; i < 12; ++i) ASSERT_TRUE(watched.Wait(Serves(names[i], std::to_string(8000 + i))));
  consul.SetScript([](const Request& request) -> std::optional<Reply> {
    if (request.Has("catalog")) return Reply{.body = R"({"consul":[]})", .index = 1000};
    return Reply{.body = "[]", .index = 1000};
  });
  ASSERT_TRUE(watched.Wait([&](const EndpointCatalog& catalog) {
    return std::ranges::all_of(names, [&](const std::string& name) {
      return SetOf(catalog, name).stale() && SetOf(catalog, name).alarm().find("most endpoints") != std::string::npos;
    });
  }));
  for (int i = 0; i < 12; ++i)
    EXPECT_EQ(Serving(SetOf(*watched.newest(), names[i])), std::to_string(8000 + i) + " stale");
}

TEST(ConsulWatcher, LossWithoutALeaderIsHeld) {
  FakeConsul consul;
  consul.SetService("web", {8001, 8002});
  Watched watched(OptionsFor(consul));
  watched.Follow({"web"});
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 8002")));
  consul.SetService("web", {8001, 8002, 8003});
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 8002 8003")));
  // A server that has just started and not replayed its log yet, while the leader that could confirm is away.
  consul.SetScript([](const Request& request) -> std::optional<Reply> {
    if (request.Has("consistent")) return Reply{.status = 500, .body = "No cluster leader"};
    if (request.Has("catalog")) return Reply{.body = R"({"consul":[],"web":[]})", .index = 300, .known_leader = false};
    return Reply{
        .body =
            R"([{"Node":{"Node":"n1","Address":"127.0.0.1"},"Service":{"ID":"web-8001","Service":"web","Port":8001}}])",
        .index = 300,
        .known_leader = false};
  });
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 8002 8003 stale")));
  consul.SetIndex(400);
  consul.SetScript(nullptr);
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 8002 8003")));
}

TEST(ConsulWatcher, DynamicServicesComeAndGo) {
  FakeConsul consul;
  consul.SetService("team-a", {8001});
  consul.SetService("hidden", {8002});
  Watched watched(OptionsFor(consul));
  EndpointInterest interest;
  interest.dynamic = [](std::string_view name) { return name.starts_with("team-"); };
  watched.watcher().SetInterest(interest);
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(Serves("team-a", "8001")));
  EXPECT_EQ(watched.newest()->sets.size(), 1u);
  consul.SetService("team-b", {8003});
  ASSERT_TRUE(watched.Wait(Serves("team-b", "8003"), 1s));
  consul.RemoveService("team-a");
  ASSERT_TRUE(watched.Wait([](const EndpointCatalog& catalog) { return !catalog.sets.contains({"", "team-a"}); }, 1s));
  watched.Follow({"hidden"});
  ASSERT_TRUE(watched.Wait(Serves("hidden", "8002")));
  EXPECT_EQ(watched.newest()->sets.size(), 1u) << "unused services are removed";
}

TEST(ConsulWatcher, NeverMoreBlockingQueriesThanTheBudget) {
  FakeConsul consul;
  std::vector<std::string> names;
  for (int i = 0; i < 30; ++i) {
    names.push_back("s" + std::to_string(i));
    consul.SetService(names.back(), {8000 + i});
  }
  ConsulWatcherOptions options = OptionsFor(consul);
  options.watches_max = 10;
  Watched watched(options);
  watched.Follow(names);
  watched.watcher().Start();
  for (int i = 0; i < 30; ++i) ASSERT_TRUE(watched.Wait(Serves(names[i], std::to_string(8000 + i))));
  ASSERT_TRUE(WaitFor([&] { return consul.blocked() == 4; }));  // the two global watches, and two services' own
  EXPECT_LE(consul.connections(), 10);
  // Within the budget again.
  watched.Follow({"s0", "s1"});
  ASSERT_TRUE(WaitFor([&] { return consul.requests("/v1/health/service/s1?stale&index=") > 0; }));
  consul.SetService("s1", {9001});
  ASSERT_TRUE(watched.Wait(Serves("s1", "9001")));
}

TEST(ConsulWatcher, AServiceThatGetsRequestsGetsAWatchOfItsOwn) {
  FakeConsul consul;
  std::vector<std::string> names;
  for (int i = 10; i < 40; ++i) {
    names.push_back("s" + std::to_string(i));
    consul.SetService(names.back(), {8000 + i});
  }
  ConsulWatcherOptions options = OptionsFor(consul);
  options.watches_max = 10;
  options.busy_interval = 20ms;
  std::atomic<int> busy_from{40};
  options.busy = [&busy_from] {
    std::map<EndpointKey, uint32_t> busy;
    for (int i = busy_from; i < 40; ++i) busy[{"", "s" + std::to_string(i)}] = 10;
    return busy;
  };
  Watched watched(options);
  watched.Follow(names);
  watched.watcher().Start();
  for (int i = 10; i < 40; ++i) ASSERT_TRUE(watched.Wait(Serves("s" + std::to_string(i), std::to_string(8000 + i))));
  ASSERT_TRUE(WaitFor([&] { return consul.blocked() == 4; }));
  EXPECT_EQ(consul.requests("/v1/health/service/s39?stale&index="), 0);
  busy_from = 39;
  ASSERT_TRUE(WaitFor([&] { return consul.requests("/v1/health/service/s39?stale&index=") > 0; }));
  EXPECT_LE(consul.connections(), 10);
  busy_from = 38;
  ASSERT_TRUE(WaitFor([&] { return consul.requests("/v1/health/service/s38?stale&index=") > 0; }))
      << "replaces the idle one";
  const int asked = consul.requests("/v1/health/service/s37?stale&index=");
  busy_from = 37;  // as busy as the watched ones: no swap
  consul.SetService("s38", {9038});
  ASSERT_TRUE(watched.Wait(Serves("s38", "9038")));
  consul.SetService("s39", {9039});
  ASSERT_TRUE(watched.Wait(Serves("s39", "9039")));
  consul.SetService("s20", {9020});
  ASSERT_TRUE(watched.Wait(Serves("s20", "9020"))) << "by a sweep after a catalog change";
  EXPECT_EQ(consul.requests("/v1/health/service/s37?stale&index="), asked);
}

TEST(ConsulWatcher, ServiceThatChangesAllTheTimeIsReadAtAPace) {
  FakeConsul consul;
  consul.SetService("web", {8001});
  Watched watched(OptionsFor(consul));
  watched.Follow({"web"});
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(Serves("web", "8001")));
  const int before = consul.requests("/v1/health/service/web");
  const auto begin = std::chrono::steady_clock::now();
  int port = 8002;
  while (std::chrono::steady_clock::now() - begin < 1s) {
    consul.SetService("web", {port++});
    absl::SleepFor(absl::Milliseconds(2));  // this is the load, not a wait
  }
  consul.SetService("web", {7777});
  ASSERT_TRUE(watched.Wait(Serves("web", "7777"), 1s));
  const auto took = std::chrono::steady_clock::now() - begin;
  // Four a second, two at once; confirmations do not count.
  const int stale = consul.requests("/v1/health/service/web?stale") - before;
  EXPECT_LE(stale, 4 + 4 * std::chrono::duration<double>(took).count());
}

TEST(ConsulWatcher, LastKnownEndpointsOutliveARestartWithoutConsul) {
  const fixtures::TempDir dir;
  FakeConsul consul;
  consul.SetService("web", {8001, 8002});
  consul.SetService("team-a", {8003});
  ConsulWatcherOptions options = OptionsFor(consul);
  options.state_file = dir.File("endpoints");
  EndpointInterest interest;
  interest.services = {{"", "web"}};
  interest.dynamic = [](std::string_view name) { return name == "team-a"; };
  {
    Watched watched(options);
    watched.watcher().SetInterest(interest);
    watched.watcher().Start();
    ASSERT_TRUE(watched.Wait(Serves("web", "8001 8002")));
    ASSERT_TRUE(watched.Wait(Serves("team-a", "8003")));
  }
  consul.SetScript([](const Request&) { return Reply{.kind = Reply::Kind::kReset}; });
  {
    Watched watched(options);
    watched.watcher().Start();
    watched.watcher().SetInterest(interest);
    ASSERT_TRUE(watched.Wait(Serves("web", "8001 8002 stale")));
    ASSERT_TRUE(watched.Wait(Serves("team-a", "8003 stale")));
    EXPECT_FALSE(watched.newest()->catalog_known);
    consul.SetScript(nullptr);
    ASSERT_TRUE(watched.Wait(Serves("web", "8001 8002")));
  }
  dir.Write("endpoints", "GWENDPT1 garbage");
  {
    Watched watched(options);
    watched.watcher().SetInterest(interest);
    watched.watcher().Start();
    ASSERT_TRUE(watched.Wait(Serves("web", "8001 8002"))) << "a damaged file does not matter";
  }
}

TEST(ConsulWatcher, EndsAtAnyMoment) {
  FakeConsul consul;
  consul.SetService("web", {8001});
  for (int i = 0; i < 20; ++i) {
    Watched watched(OptionsFor(consul));
    watched.Follow({"web"});
    if (i > 0) watched.watcher().Start();
    if (i % 4 == 3) {
      ASSERT_TRUE(watched.Wait(Serves("web", "8001")));
    }
  }
}

TEST(ConsulWatcher, VersionRisesOnlyWithWhatIsKnown) {
  FakeConsul consul;
  consul.SetService("web", {8001});
  Watched watched(OptionsFor(consul));
  watched.Follow({"web"});
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(Serves("web", "8001")));
  const uint64_t version = watched.newest()->version;
  EXPECT_GT(version, 0u);
  const int before = consul.requests("health/service/web");
  consul.SetService("unrelated", {1});  // wakes every watch of the fake
  ASSERT_TRUE(WaitFor([&] { return consul.requests("health/service/web") > before; }));
  consul.SetService("web", {8002, 8001});
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 8002")));
  EXPECT_EQ(watched.newest()->version, version + 1);
  EXPECT_EQ(watched.watcher().current()->version, version + 1);
}

}  // namespace
}  // namespace gateway::controlplane
