// Canaries with real programs under load: walking, reverting themselves, surviving a killed control plane.
#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

using ::testing::HasSubstr;

// Requests for /shop at a data plane, about 500 a second, until it ends. Counts the bodies.
class Shoppers {
 public:
  explicit Shoppers(uint16_t port)
      : thread_([this, port] {
          RawClient client(port);
          while (!stop_) {
            const auto response = client.Request("GET", "/shop");
            {
              std::lock_guard lock(mutex_);
              ++bodies_[response.ok() ? response->body : "failed"];
            }
            if (!response.ok()) client = RawClient(port);
            std::this_thread::sleep_for(std::chrono::milliseconds(2));  // the pace, not a wait for a result
          }
        }) {}
  ~Shoppers() { Stop(); }
  void Stop() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }
  int Of(const std::string& body) {
    std::lock_guard lock(mutex_);
    return bodies_[body];
  }
  void Reset() {
    std::lock_guard lock(mutex_);
    bodies_.clear();
  }

 private:
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::map<std::string, int> bodies_;
  std::thread thread_;
};

std::string Policy(const std::string& v1, const std::string& v2, const std::string& canary) {
  return Concat("kind: Service\nname: v1\nstatic: [{ address: \"", v1, "\" }]\n---\n",
                "kind: Service\nname: v2\nstatic: [{ address: \"", v2, "\" }]\n---\n",
                "kind: Route\nname: shop\nmatch: { path: { prefix: /shop } }\nrate_limits: [none]\n",
                "split: [{ service: v1 }, { service: v2 }]\ncanary: ", canary, "\n");
}

struct Fleet {
  ControlPlane control;
  DataPlane first{{.control_planes = {control.stream_port()}, .name = "dp-1"}};
  DataPlane second{{.control_planes = {control.stream_port()}, .name = "dp-2"}};
  nlohmann::json State() {
    const auto shown = control.Ctl({"canary", "shop", "-o", "json"});
    return shown.exit.code == 0 ? nlohmann::json::parse(shown.out) : nlohmann::json::object();
  }
  // Waits for the canary to be at `percent`, and for both data planes to serve that.
  [[nodiscard]] bool Await(int percent, const std::string& phase) {
    return WaitFor(
               [&] {
                 const nlohmann::json state = State();
                 return state.value("percent", -1) == percent && state.value("phase", "") == phase;
               },
               Timeout(30'000)) &&
           control.Ctl({"rollout", "--wait"}).exit.code == 0;
  }
};

// The share of `body` of the next requests to both data planes, in percent.
double Share(Shoppers& first, Shoppers& second, const std::string& body, int requests) {
  first.Reset();
  second.Reset();
  const auto sum = [&](const std::string& which) { return first.Of(which) + second.Of(which); };
  EXPECT_TRUE(WaitFor([&] { return sum("one") + sum("two") >= requests; }, Timeout(30'000)));
  return 100.0 * sum(body) / (sum("one") + sum("two"));
}

TEST(Canary, WalksThroughItsStepsOnAllDataPlanes) {
  ScriptedUpstream one(Ok("one")), two(Ok("two"));
  Fleet fleet;
  Shoppers first(fleet.first.port()), second(fleet.second.port());
  ASSERT_EQ(fleet.control
                .Apply(Policy(one.address(), two.address(),
                              "{ steps: [10, 50, 100], every: 5s, guard: 'error_rate<5%,p99<10s,requests>10' }"),
                       {"--wait"})
                .exit.code,
            0);
  ASSERT_TRUE(fleet.Await(10, "walking"));
  // Of 400 requests 10 % are 40; five standard deviations of a fair draw are 30.
  EXPECT_NEAR(Share(first, second, "two", 400), 10, 7.5);
  ASSERT_TRUE(fleet.Await(50, "walking"));
  EXPECT_NEAR(Share(first, second, "two", 400), 50, 12.5);
  ASSERT_TRUE(fleet.Await(100, "walking"));
  EXPECT_EQ(Share(first, second, "two", 200), 100);
  ASSERT_TRUE(fleet.Await(100, "complete"));
  first.Stop();
  second.Stop();
  EXPECT_EQ(first.Of("failed") + second.Of("failed"), 0) << "no step costs a request";
  EXPECT_THAT(fleet.State()["reason"].get<std::string>(), HasSubstr("its guard held: saw "));
  const std::string history = fleet.control.Ctl({"history", "route", "shop"}).out;
  EXPECT_THAT(history, HasSubstr("Route/shop: canary step 2 of 3, 50 %"));
  EXPECT_THAT(history, HasSubstr("Route/shop: canary complete, 100 %"));
  EXPECT_THAT(fleet.control.Ctl({"audit"}).out, HasSubstr("Route/shop"));
  EXPECT_THAT(fleet.control.Ctl({"get", "route", "-o", "wide"}).out, HasSubstr("v2 100% (canary: 100%, complete)"));
  EXPECT_THAT(fleet.control.Ctl({"describe", "route", "shop"}).out, HasSubstr("100% to v2, complete since "));
  const std::string exported = fleet.control.Ctl({"export"}).out;
  EXPECT_EQ(fleet.control.Ctl({"diff", "-f", "-", "--exit-code"}, exported).exit.code, 0)
      << "a step makes no difference";
  EXPECT_THAT(fleet.control.Ctl({"apply", "-f", "-"}, exported).out, HasSubstr("unchanged"));
}

TEST(Canary, RevertsItselfWhenItsSideFails) {
  ScriptedUpstream one(Ok("one"));
  ScriptedUpstream two(Respond([](const UpstreamRequest&) { return MakeResponse(500, "two"); }));
  Fleet fleet;
  Shoppers first(fleet.first.port()), second(fleet.second.port());
  ASSERT_EQ(fleet.control
                .Apply(Policy(one.address(), two.address(), "{ steps: [20, 100], every: 10m, guard: 'error_rate<5%' }"),
                       {"--wait"})
                .exit.code,
            0);
  ASSERT_TRUE(fleet.Await(0, "reverted"));
  EXPECT_EQ(Share(first, second, "two", 200), 0);
  EXPECT_THAT(fleet.State()["reason"].get<std::string>(), HasSubstr(" to v2, limit 5 % (other sides: 0 %)"));
  EXPECT_THAT(fleet.control.Ctl({"history"}).out, HasSubstr("Route/shop: canary reverted: error_rate 100 % of "));
  const std::string metrics = Fetch(fleet.control.metrics_port(), "GET", "/metrics")->body;
  EXPECT_THAT(metrics, HasSubstr("gateway_controlplane_canary_percent{route=\"shop\",service=\"v2\"} 0"));
  EXPECT_THAT(metrics, HasSubstr("gateway_controlplane_canary_reverted{route=\"shop\"} 1"));
  EXPECT_THAT(metrics, HasSubstr("gateway_controlplane_canaries_reverted_total 1"));
  EXPECT_EQ(fleet.control.Ctl({"canary", "shop", "--resume"}).exit.code, 1) << "nothing but a restart tries again";
  const auto restarted = fleet.control.Ctl({"canary", "shop", "--restart", "--comment", "fixed", "--wait"});
  EXPECT_EQ(restarted.exit.code, 0) << restarted.err;
  ASSERT_TRUE(fleet.Await(0, "reverted")) << "it is still broken";
  first.Stop();
  second.Stop();
}

TEST(Canary, ContinuesAtItsStepAfterTheControlPlaneWasKilledAndDataPlanesServeItMeanwhile) {
  ScriptedUpstream one(Ok("one")), two(Ok("two"));
  Fleet fleet;
  ASSERT_EQ(fleet.control.Apply(Policy(one.address(), two.address(), "{ steps: [1, 100], every: 10m }"), {"--wait"})
                .exit.code,
            0);
  ASSERT_EQ(fleet.control.Ctl({"canary", "shop", "--complete", "--wait"}).exit.code, 0);
  fleet.control.Kill();
  EXPECT_EQ(Fetch(fleet.first.port(), "GET", "/shop")->body, "two");
  fleet.control.Start();
  ASSERT_TRUE(fleet.Await(100, "complete"));
  EXPECT_EQ(Fetch(fleet.second.port(), "GET", "/shop")->body, "two");
  ASSERT_EQ(fleet.control.Ctl({"canary", "shop", "--restart"}).exit.code, 0);
  fleet.control.Kill();
  fleet.control.Start();
  ASSERT_TRUE(fleet.Await(1, "walking"));
  const auto aborted = fleet.control.Ctl({"canary", "shop", "--abort", "--wait"});
  EXPECT_EQ(aborted.exit.code, 0) << aborted.err;
  EXPECT_THAT(aborted.out, HasSubstr("0% to v2, aborted since "));
  EXPECT_EQ(Fetch(fleet.first.port(), "GET", "/shop")->body, "one");
  EXPECT_EQ(fleet.control.Ctl({"canary", "nothing"}).exit.code, 4);
}

}  // namespace
}  // namespace gateway::fixtures
