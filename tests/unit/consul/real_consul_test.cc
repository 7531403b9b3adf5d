// The watcher and the registration against a real agent.
#include <algorithm>
#include <atomic>
#include <map>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/metrics_http.h"
#include "controlplane/sources/consul/registration.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/consul_agent.h"
#include "tests/fixtures/temp_dir.h"
#include "tests/fixtures/wait_for.h"
#include "tests/unit/consul/watched.h"

namespace gateway::controlplane {
namespace {

using namespace std::chrono_literals;
using fixtures::ConsulAgent;
using fixtures::WaitFor;
using testing::Contains;
using testing::IsSupersetOf;

// The promised delay for every change that Consul knows of.
constexpr fixtures::Timeout kWithinASecond{1000};

class RealConsul : public testing::Test {
 protected:
  void Run(ConsulAgent::Mode mode = ConsulAgent::Mode::kDev) {
    auto agent = ConsulAgent::Start(mode);
    ASSERT_TRUE(agent.ok()) << agent.status();
    agent_ = *std::move(agent);
  }

  ConsulWatcherOptions WatcherOptions() const {
    ConsulWatcherOptions options;
    options.access.address = agent_->address();
    return options;
  }

  RegistrationOptions ForRegistration() const {
    RegistrationOptions options;
    options.access.address = agent_->address();
    options.check_interval = 1000ms;
    options.check_timeout = 500ms;
    return options;
  }

  // Status of the instance's own check in Consul, "" if it has no check.
  std::string CheckStatus(const std::string& service_id) { return StatusOfCheck("service:" + service_id); }

  // "" without such a check.
  std::string StatusOfCheck(const std::string& check_id) {
    const auto checks = agent_->GetJson("/v1/agent/checks");
    if (!checks.ok() || !checks->contains(check_id)) return "";
    return (*checks)[check_id]["Status"];
  }

  std::unique_ptr<ConsulAgent> agent_;
};

TEST_F(RealConsul, ChangesAreSeenWithinASecond) {
  ASSERT_NO_FATAL_FAILURE(Run());
  Watched watched(WatcherOptions());
  watched.Follow({"web"});
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(Unknown("web")));

  ASSERT_TRUE(agent_->Register({.service = "web", .id = "web-1", .port = 8001}).ok());
  ASSERT_TRUE(watched.Wait(Serves("web", "8001"), kWithinASecond));
  EXPECT_EQ(SetOf(*watched.newest(), "web").instances(0).id(), "node-1/web-1");

  ASSERT_TRUE(
      agent_->Register({.service = "web", .id = "web-2", .port = 8002, .tags = {"v2"}, .meta = {{"zone", "b"}}}).ok());
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 8002"), kWithinASecond));
  EXPECT_EQ(SetOf(*watched.newest(), "web").instances(1).zone(), "b");
  EXPECT_THAT(SetOf(*watched.newest(), "web").instances(1).tags(), Contains("v2"));

  ASSERT_TRUE(agent_->SetCheck("web-1", "critical").ok());
  ASSERT_TRUE(watched.Wait(Serves("web", "8002"), kWithinASecond));
  ASSERT_TRUE(agent_->SetCheck("web-2", "critical").ok());
  ASSERT_TRUE(watched.Wait(Serves("web", ""), kWithinASecond)) << "a response with all critical is not suspect";
  EXPECT_EQ(SetOf(*watched.newest(), "web").instances_size(), 2);
  ASSERT_TRUE(agent_->SetCheck("web-1", "passing").ok());
  ASSERT_TRUE(agent_->SetCheck("web-2", "warning").ok());
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 8002"), kWithinASecond));

  ASSERT_TRUE(agent_->SetMaintenance("web-1", true).ok());
  ASSERT_TRUE(watched.Wait(Serves("web", "8002"), kWithinASecond));
  EXPECT_EQ(SetOf(*watched.newest(), "web").instances(0).health(), v1::Instance::MAINTENANCE);
  ASSERT_TRUE(agent_->SetMaintenance("web-1", false).ok());
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 8002"), kWithinASecond));
  ASSERT_TRUE(agent_->SetNodeMaintenance(true).ok());
  ASSERT_TRUE(watched.Wait(Serves("web", ""), kWithinASecond));
  ASSERT_TRUE(agent_->SetNodeMaintenance(false).ok());
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 8002"), kWithinASecond));

  ASSERT_TRUE(agent_->Deregister("web-1").ok());
  ASSERT_TRUE(watched.Wait(Serves("web", "8002"), kWithinASecond));
  ASSERT_TRUE(agent_->Deregister("web-2").ok());
  ASSERT_TRUE(watched.Wait(Unknown("web"), kWithinASecond));
}

TEST_F(RealConsul, WeightsFollowTheHealth) {
  ASSERT_NO_FATAL_FAILURE(Run());
  ConsulAgent::Instance instance{.service = "web", .port = 8001, .weight_passing = 7, .weight_warning = 2};
  ASSERT_TRUE(agent_->Register(instance).ok());
  Watched watched(WatcherOptions());
  watched.Follow({"web"});
  watched.watcher().Start();
  const auto weighs = [](uint32_t weight) {
    return [weight](const EndpointCatalog& catalog) {
      const v1::EndpointSet& set = SetOf(catalog, "web");
      return set.instances_size() == 1 && set.instances(0).weight() == weight;
    };
  };
  ASSERT_TRUE(watched.Wait(weighs(7)));
  ASSERT_TRUE(agent_->SetCheck("web", "warning").ok());
  ASSERT_TRUE(watched.Wait(weighs(2), kWithinASecond));
  instance.weight_warning = 0;
  instance.status = "warning";
  ASSERT_TRUE(agent_->Register(instance).ok());
  ASSERT_TRUE(watched.Wait(weighs(0), kWithinASecond));
}

TEST_F(RealConsul, EmptyServiceAddressIsTheNodes) {
  ASSERT_NO_FATAL_FAILURE(Run());
  ASSERT_TRUE(agent_->Register({.service = "web", .address = "", .port = 8001, .status = ""}).ok());
  Watched watched(WatcherOptions());
  watched.Follow({"web"});
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(Serves("web", "8001")));
  EXPECT_EQ(SetOf(*watched.newest(), "web").instances(0).address(), "127.0.0.1");
}

TEST_F(RealConsul, UnknownDatacenterIsUnavailableAndHarmsNobody) {
  ASSERT_NO_FATAL_FAILURE(Run());
  ASSERT_TRUE(agent_->Register({.service = "web", .port = 8001}).ok());
  Watched watched(WatcherOptions());
  EndpointInterest interest;
  interest.services = {{"", "web"}, {"dc1", "web"}, {"mars", "web"}};
  watched.watcher().SetInterest(interest);
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(Serves("web", "8001")));
  ASSERT_TRUE(
      watched.Wait([](const EndpointCatalog& catalog) { return Serving(SetOf(catalog, "web", "dc1")) == "8001"; }));
  ASSERT_TRUE(watched.Wait([](const EndpointCatalog& catalog) {
    const v1::EndpointSet& set = SetOf(catalog, "web", "mars");
    return set.state() == v1::EndpointSet::UNAVAILABLE && !set.alarm().empty();
  }));
  EXPECT_TRUE(watched.newest()->reachable);
}

TEST_F(RealConsul, KilledServerKeepsEndpointsUntilItIsBack) {
  ASSERT_NO_FATAL_FAILURE(Run(ConsulAgent::Mode::kServer));
  ASSERT_TRUE(agent_->Register({.service = "web", .id = "web-1", .port = 8001}).ok());
  Watched watched(WatcherOptions());
  watched.Follow({"web"});
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(Serves("web", "8001")));

  // From here on the instance never disappears.
  std::atomic<bool> watching = true, lost = false;
  std::thread observer([&] {
    while (watching) {
      (void)watched.Wait([&](const EndpointCatalog& catalog) { return SetOf(catalog, "web").instances_size() == 0; },
                         10ms);
      if (SetOf(*watched.newest(), "web").instances_size() == 0) lost = true;
    }
  });
  agent_->Kill();
  EXPECT_TRUE(watched.Wait(Serves("web", "8001 stale")));
  const absl::Status restarted = agent_->Restart();
  EXPECT_TRUE(restarted.ok()) << restarted;
  EXPECT_TRUE(watched.Wait(
      [](const EndpointCatalog& catalog) { return catalog.reachable && !SetOf(catalog, "web").stale(); }, 30s));
  watching = false;
  observer.join();
  EXPECT_FALSE(lost);
  ASSERT_TRUE(agent_->Register({.service = "web", .id = "web-2", .port = 8002}).ok());
  ASSERT_TRUE(watched.Wait(
      [](const EndpointCatalog& catalog) { return Serving(SetOf(catalog, "web")).find("8002") != std::string::npos; }));
}

// A dev agent forgets everything when it restarts. Its services are kept, and new registrations count.
TEST_F(RealConsul, ForgetfulRestartKeepsEndpoints) {
  ASSERT_NO_FATAL_FAILURE(Run());
  for (int i = 0; i < 5; ++i) {
    // Raises the index, so that the new agent's is lower.
    ASSERT_TRUE(agent_->Register({.service = "other", .port = static_cast<uint16_t>(9000 + i)}).ok());
  }
  ASSERT_TRUE(agent_->Register({.service = "web", .port = 8001}).ok());
  Watched watched(WatcherOptions());
  watched.Follow({"web"});
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(Serves("web", "8001")));
  const absl::Status restarted = agent_->Restart();
  ASSERT_TRUE(restarted.ok()) << restarted;
  ASSERT_TRUE(watched.Wait([](const EndpointCatalog& catalog) {
    return catalog.reachable && Serving(SetOf(catalog, "web")) == "8001 stale";
  }));
  ASSERT_TRUE(agent_->Register({.service = "web", .port = 8005}).ok());
  ASSERT_TRUE(watched.Wait(Serves("web", "8005")));
}

TEST_F(RealConsul, FrozenAgentKeepsEndpointsAndGoesOnWhenThawed) {
  ASSERT_NO_FATAL_FAILURE(Run());
  ASSERT_TRUE(agent_->Register({.service = "web", .port = 8001}).ok());
  ConsulWatcherOptions options = WatcherOptions();
  options.wait = 500ms;  // so that a hanging watch reaches its deadline soon
  Watched watched(options);
  watched.Follow({"web"});
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(Serves("web", "8001")));
  agent_->Pause();
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 stale"), 30s));
  agent_->Resume();
  ASSERT_TRUE(watched.Wait(Serves("web", "8001"), 30s));
  ASSERT_TRUE(agent_->SetCheck("web", "critical").ok());
  ASSERT_TRUE(watched.Wait(Serves("web", "")));
}

TEST_F(RealConsul, HundredAndFiftyServicesPastTheBudget) {
  ASSERT_NO_FATAL_FAILURE(Run());
  constexpr int kServices = 150;
  for (int i = 0; i < kServices; ++i) {
    ASSERT_TRUE(agent_->Register({.service = absl::StrCat("s", i), .port = static_cast<uint16_t>(8000 + i)}).ok());
  }
  ConsulWatcherOptions options = WatcherOptions();
  options.watches_max = 20;
  Watched watched(options);
  EndpointInterest interest;
  interest.dynamic = [](std::string_view name) { return name != "consul"; };
  watched.watcher().SetInterest(interest);
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait([](const EndpointCatalog& catalog) {
    for (int i = 0; i < kServices; ++i) {
      if (Serving(SetOf(catalog, absl::StrCat("s", i))) != absl::StrCat(8000 + i)) return false;
    }
    return true;
  }));
  ASSERT_TRUE(agent_->SetCheck("s149", "critical").ok());
  ASSERT_TRUE(watched.Wait(Serves("s149", ""), kWithinASecond));
  ASSERT_TRUE(agent_->Register({.service = "s150", .port = 9000}).ok());
  ASSERT_TRUE(watched.Wait(Serves("s150", "9000"), kWithinASecond));
  ASSERT_TRUE(agent_->Register({.service = "s150", .id = "second", .port = 9001}).ok());
  ASSERT_TRUE(watched.Wait(Serves("s150", "9000 9001"), kWithinASecond));
  ASSERT_TRUE(agent_->SetMaintenance("s7", true).ok());
  ASSERT_TRUE(watched.Wait(Serves("s7", ""), kWithinASecond));
  ASSERT_TRUE(agent_->SetNodeMaintenance(true).ok());  // one check, all services
  ASSERT_TRUE(watched.Wait([](const EndpointCatalog& catalog) {
    return std::ranges::all_of(catalog.sets, [](const auto& entry) { return Serving(*entry.second).empty(); });
  }));
  ASSERT_TRUE(agent_->SetNodeMaintenance(false).ok());
  ASSERT_TRUE(watched.Wait([](const EndpointCatalog& catalog) {
    // All except the one in maintenance and the critical one.
    return std::ranges::count_if(catalog.sets, [](const auto& entry) { return Serving(*entry.second).empty(); }) == 2;
  }));
  ASSERT_TRUE(agent_->Deregister("s3").ok());
  ASSERT_TRUE(watched.Wait(
      [](const EndpointCatalog& catalog) {
        return !catalog.sets.contains({"", "s3"});
      },
      kWithinASecond));
  // An instance without a check only shows in a global watch if something else wakes it: the sweep finds it.
  ASSERT_TRUE(agent_->Register({.service = "s5", .id = "silent", .port = 9100, .status = ""}).ok());
  ASSERT_TRUE(
      watched.Wait([](const EndpointCatalog& catalog) { return SetOf(catalog, "s5").instances_size() == 2; }, 20s));
}

// A change of a service without checks wakes only its own watch and the catalog's.
TEST_F(RealConsul, ABusyServiceIsFollowedAtOnceAmongManyAndTheOthersWithinASecond) {
  ASSERT_NO_FATAL_FAILURE(Run());
  constexpr int kServices = 1'000;
  for (int i = 0; i < kServices; ++i) {
    ASSERT_TRUE(
        agent_->Register({.service = absl::StrCat("s", i), .port = static_cast<uint16_t>(8000 + i), .status = ""})
            .ok());
  }
  ConsulWatcherOptions options = WatcherOptions();
  options.busy_interval = 50ms;
  options.busy = [] { return std::map<EndpointKey, uint32_t>{{{"", "s999"}, 12}}; };
  Watched watched(options);
  EndpointInterest interest;
  interest.dynamic = [](std::string_view name) { return name != "consul"; };
  watched.watcher().SetInterest(interest);
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait([](const EndpointCatalog& catalog) { return catalog.sets.size() == kServices; }, 60s));
  ASSERT_TRUE(watched.Wait(Serves("s999", "8999"), 60s));
  const auto follow = [&](const std::string& service, uint16_t port) {
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_TRUE(agent_->Register({.service = service, .port = port, .status = ""}).ok());
    EXPECT_TRUE(watched.Wait(Serves(service, std::to_string(port)), 10s)) << service;
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  };
  std::vector<double> busy, idle;
  for (uint16_t i = 0; i < 11; ++i) {
    busy.push_back(follow("s999", static_cast<uint16_t>(20'000 + i)));
    // After an idle period, which its own sweep provides.
    if (i % 3 == 0) idle.push_back(follow("s500", static_cast<uint16_t>(21'000 + i)));
    absl::SleepFor(absl::Milliseconds(600));  // one service may change four times a second
  }
  std::sort(busy.begin(), busy.end());
  std::sort(idle.begin(), idle.end());
  RecordProperty("busy_median_us", static_cast<int>(busy[5] * 1000));
  RecordProperty("idle_max_us", static_cast<int>(idle.back() * 1000));
  EXPECT_LT(busy[5], 100) << "20 ms on an idle machine";
  EXPECT_LT(idle.back(), 3'000);
}

class RealConsulRegistration : public RealConsul {
 protected:
  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(Run());
    auto health = MetricsHttp::Listen("127.0.0.1", 0);
    ASSERT_TRUE(health.ok()) << health.status();
    health_ = *std::move(health);
    health_->Handle("/health", [this] {
      ++asked_;
      return HttpReply{.status = healthy_ ? 200 : 503, .body = "{}"};
    });
    health_->Start();
  }

  RegisteredInstance Instance() const {
    return {.name = "dp-1",
            .host = "127.0.0.1",
            .port = 8080,
            .health_port = health_->port(),
            .zone = "a",
            .labels = {{"team/name", "x"}},
            .version = "1.2.3"};
  }

  std::atomic<bool> healthy_ = true;
  std::atomic<int> asked_ = 0;
  std::unique_ptr<MetricsHttp> health_;
};

TEST_F(RealConsulRegistration, InstanceIsUpAtOnceAndConsulChecksIt) {
  ConsulRegistration registration(ForRegistration());
  registration.Register(Instance());
  ASSERT_TRUE(WaitFor([&] { return CheckStatus("api-gateway-dp-1") == "passing"; }));
  const auto services = agent_->GetJson("/v1/agent/services");
  ASSERT_TRUE(services.ok()) << services.status();
  const auto& service = (*services)["api-gateway-dp-1"];
  EXPECT_EQ(service["Service"], "api-gateway");
  EXPECT_EQ(service["Port"], 8080);
  EXPECT_EQ(service["Meta"]["version"], "1.2.3");
  EXPECT_EQ(service["Meta"]["zone"], "a");
  EXPECT_EQ(service["Meta"]["label-team_name"], "x");
  EXPECT_THAT(service["Tags"].get<std::vector<std::string>>(),
              IsSupersetOf({"version=1.2.3", "zone=a", "team/name=x"}));
  ASSERT_TRUE(WaitFor([&] { return asked_ > 0; })) << "a real check ran";
  healthy_ = false;
  ASSERT_TRUE(WaitFor([&] { return CheckStatus("api-gateway-dp-1") == "critical"; }));
  healthy_ = true;
  ASSERT_TRUE(WaitFor([&] { return CheckStatus("api-gateway-dp-1") == "passing"; }));
}

TEST_F(RealConsulRegistration, ForgottenInstanceIsRegisteredAgainAsItIsNow) {
  ConsulRegistration registration(ForRegistration());
  registration.Register(Instance());
  ASSERT_TRUE(WaitFor([&] { return CheckStatus("api-gateway-dp-1") == "passing"; }));
  ASSERT_TRUE(agent_->Deregister("api-gateway-dp-1").ok());
  ASSERT_TRUE(WaitFor([&] { return CheckStatus("api-gateway-dp-1") == "passing"; }));
  // Dead meanwhile: it must not return as passing.
  healthy_ = false;
  ASSERT_TRUE(agent_->Deregister("api-gateway-dp-1").ok());
  std::string first;
  ASSERT_TRUE(WaitFor([&] { return !(first = CheckStatus("api-gateway-dp-1")).empty(); }));
  EXPECT_EQ(first, "critical");
}

// A data plane that is lost for good: Consul's check decides, and the registration is not renewed forever.
TEST_F(RealConsulRegistration, OneThatIsForgottenIsLeftToConsul) {
  ConsulRegistration registration(ForRegistration());
  registration.Register(Instance());
  ASSERT_TRUE(WaitFor([&] { return CheckStatus("api-gateway-dp-1") == "passing"; }));
  registration.Forget("dp-1");
  EXPECT_EQ(CheckStatus("api-gateway-dp-1"), "passing") << "it may be healthy and only unreachable from here";
  ASSERT_TRUE(agent_->Deregister("api-gateway-dp-1").ok());
  RegisteredInstance other = Instance();
  other.name = "dp-2";
  registration.Register(other);  // one pass, after which the first one would be back
  ASSERT_TRUE(WaitFor([&] { return CheckStatus("api-gateway-dp-2") == "passing"; }));
  EXPECT_EQ(CheckStatus("api-gateway-dp-1"), "");
  registration.Deregister("dp-2");
  registration.Forget("dp-2");
  EXPECT_TRUE(WaitFor([&] { return CheckStatus("api-gateway-dp-2").empty(); })) << "after a goodbye it is deregistered";
}

TEST_F(RealConsulRegistration, OneThatIsDrainedIsCriticalUntilItIsTakenBack) {
  const auto passing = [&] {
    const auto entries = agent_->GetJson("/v1/health/service/api-gateway?passing");
    return entries.ok() && !entries->empty();
  };
  ConsulRegistration registration(ForRegistration());
  registration.Register(Instance());
  ASSERT_TRUE(WaitFor(passing));
  registration.SetDrained({"dp-1"});
  ASSERT_TRUE(WaitFor([&] { return !passing(); }));
  EXPECT_EQ(StatusOfCheck("api-gateway-dp-1-drained"), "critical");
  EXPECT_EQ(CheckStatus("api-gateway-dp-1"), "passing") << "under the ID that it has without a drain";
  registration.Register(Instance());  // it says hello again
  const int asked = asked_;
  ASSERT_TRUE(WaitFor([&] { return asked_ > asked + 1; })) << "its health is checked, and is not enough";
  EXPECT_FALSE(passing());
  registration.SetDrained({});
  EXPECT_TRUE(WaitFor(passing));
}

TEST_F(RealConsulRegistration, SurvivesARestartOfTheAgent) {
  ConsulRegistration registration(ForRegistration());
  agent_->Kill();
  registration.Register(Instance());
  ASSERT_TRUE(agent_->Restart().ok());
  ASSERT_TRUE(WaitFor([&] { return CheckStatus("api-gateway-dp-1") == "passing"; }));
  ASSERT_TRUE(agent_->Restart().ok());  // forgets everything
  ASSERT_TRUE(WaitFor([&] { return CheckStatus("api-gateway-dp-1") == "passing"; }, 20s));
}

TEST_F(RealConsulRegistration, OnlyDeregisterTakesOut) {
  {
    ConsulRegistration registration(ForRegistration());
    registration.Register(Instance());
    ASSERT_TRUE(WaitFor([&] { return !CheckStatus("api-gateway-dp-1").empty(); }));
  }
  EXPECT_FALSE(CheckStatus("api-gateway-dp-1").empty()) << "stopping a control plane deregisters no data plane";
  ConsulRegistration registration(ForRegistration());
  registration.Deregister("dp-1");  // also one registered by an earlier process
  ASSERT_TRUE(WaitFor([&] { return CheckStatus("api-gateway-dp-1").empty(); }));
}

TEST_F(RealConsulRegistration, ChangedInstanceReplacesTheOldOne) {
  ConsulRegistration registration(ForRegistration());
  RegisteredInstance instance = Instance();
  registration.Register(instance);
  ASSERT_TRUE(WaitFor([&] { return !CheckStatus("api-gateway-dp-1").empty(); }));
  instance.port = 8090;
  instance.version = "2.0.0";
  registration.Register(instance);
  ASSERT_TRUE(WaitFor([&] {
    const auto services = agent_->GetJson("/v1/agent/services");
    return services.ok() && services->contains("api-gateway-dp-1") && (*services)["api-gateway-dp-1"]["Port"] == 8090 &&
           (*services)["api-gateway-dp-1"]["Meta"]["version"] == "2.0.0";
  }));
}

}  // namespace
}  // namespace gateway::controlplane
