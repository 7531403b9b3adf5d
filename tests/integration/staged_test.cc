// Changes that are not final, with real programs under load: staged ones, unconfirmed ones, guards that break.
#include <atomic>
#include <string>
#include <thread>
#include <vector>

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
using ::testing::Not;

// Requests for `target`, one after the other, about 500 a second, until it ends. Counts statuses other than 200.
class Load {
 public:
  Load(uint16_t port, std::string target)
      : thread_([this, port, target = std::move(target)] {
          RawClient client(port);
          while (!stop_) {
            const auto response = client.Request("GET", target);
            ++requests_;
            if (!response.ok() || response->status != 200) {
              ++failures_;
              client = RawClient(port);
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(2));  // the pace, not a wait for a result
          }
        }) {}
  ~Load() { Stop(); }
  void Stop() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }
  int requests() const { return requests_; }
  int failures() const { return failures_; }

 private:
  std::atomic<bool> stop_{false};
  std::atomic<int> requests_{0}, failures_{0};
  std::thread thread_;
};

// The route `orders` to `orders`, and `other` to `other`.
std::string Policy(const std::string& orders, const std::string& other) {
  return Concat(
      "kind: Service\nname: orders\nstatic: [{ address: \"", orders, "\" }]\n---\n",
      "kind: Service\nname: other\nstatic: [{ address: \"", other, "\" }]\n---\n",
      "kind: Route\nname: orders\nmatch: { path: { prefix: /orders } }\nservice: orders\nrate_limits: [none]\n",
      "---\nkind: Route\nname: other\nmatch: { path: { prefix: /other } }\nservice: other\n", "rate_limits: [none]\n");
}
std::string Orders(const std::string& address) {
  return Concat("kind: Service\nname: orders\nstatic: [{ address: \"", address, "\" }]\n");
}

struct Fleet {
  ControlPlane control;
  DataPlane first{{.control_planes = {control.stream_port()}, .name = "dp-1", .sets = {"data_plane.zone=a"}}};
  DataPlane second{{.control_planes = {control.stream_port()}, .name = "dp-2", .sets = {"data_plane.zone=b"}}};
  std::string Body(DataPlane& data_plane) { return Fetch(data_plane.port(), "GET", "/orders")->body; }
};

TEST(Staged, OnlyTheChosenDataPlaneHasTheChangeUntilItIsPromotedAlsoOverRestarts) {
  ScriptedUpstream before(Ok("before")), after(Ok("after"));
  Fleet fleet;
  ASSERT_EQ(fleet.control.Apply(Policy(before.address(), before.address()), {"--wait"}).exit.code, 0);
  const auto staged = fleet.control.Apply(Orders(after.address()), {"--to", "zone=a", "--wait"});
  EXPECT_EQ(staged.exit.code, 0) << staged.err;
  EXPECT_THAT(staged.out, HasSubstr("staged for zone=a; the others keep revision"));
  EXPECT_EQ(fleet.Body(fleet.first), "after");
  EXPECT_EQ(fleet.Body(fleet.second), "before");
  EXPECT_THAT(fleet.control.Ctl({"dataplanes"}).out, HasSubstr("connected, staged"));

  const auto other = fleet.control.Ctl({"apply", "-f", "-"}, Orders(before.address()));
  EXPECT_EQ(other.exit.code, 5);
  EXPECT_THAT(other.err, HasSubstr("is staged (zone=a) until it is promoted or abandoned"));

  fleet.control.Kill();
  fleet.control.Start();
  DataPlane third({.control_planes = {fleet.control.stream_port()}, .name = "dp-3", .sets = {"data_plane.zone=b"}});
  EXPECT_EQ(fleet.Body(third), "before") << "placed by the same rule, after a restart";
  EXPECT_EQ(fleet.Body(fleet.first), "after");
  EXPECT_EQ(fleet.Body(fleet.second), "before");
  EXPECT_THAT(fleet.control.Ctl({"history"}).out, HasSubstr("[staged (zone=a)]"));

  const auto promoted = fleet.control.Ctl({"promote", "--wait"});
  EXPECT_EQ(promoted.exit.code, 0) << promoted.err;
  for (DataPlane* each : {&fleet.first, &fleet.second, &third}) EXPECT_EQ(fleet.Body(*each), "after");
  EXPECT_EQ(fleet.control.Ctl({"promote"}).exit.code, 4) << "there is nothing left to promote";
}

// Its one count is for all data planes: the others would have the change as well.
TEST(Staged, AFleetLimitStaysForTheOthersUntilItIsPromoted) {
  const auto limit = [](int requests) {
    return Concat("kind: RateLimit\nname: few\nkey: []\nscope: fleet\nlimit: { requests: ", requests,
                  ", window: 10m }\n");
  };
  Fleet fleet;
  const std::string route =
      "---\nkind: Route\nname: orders\nmatch: { path: { prefix: /orders } }\nrespond: { body: hi }\nrate_limits: "
      "[few]\n";
  ASSERT_EQ(fleet.control.Apply(limit(5) + route, {"--wait"}).exit.code, 0);
  ASSERT_EQ(fleet.control.Apply(limit(5000), {"--to", "zone=a", "--wait"}).exit.code, 0);
  const auto status = [&] { return Fetch(fleet.second.port(), "GET", "/orders")->status; };
  int passed = 0;
  ASSERT_TRUE(WaitFor([&] {
    const int got = status();
    passed += got == 200 ? 1 : 0;
    return got == 429 || passed > 100;
  }));
  EXPECT_LE(passed, 20) << "as few as before";
  ASSERT_EQ(fleet.control.Ctl({"promote", "--wait"}).exit.code, 0);
  EXPECT_TRUE(WaitFor([&] { return status() == 200; }));
}

TEST(Staged, AbandonedTheChosenOnesGoBack) {
  ScriptedUpstream before(Ok("before")), after(Ok("after"));
  Fleet fleet;
  ASSERT_EQ(fleet.control.Apply(Policy(before.address(), before.address()), {"--wait"}).exit.code, 0);
  ASSERT_EQ(fleet.control.Apply(Orders(after.address()), {"--to", "percent=1", "--wait"}).exit.code, 0);
  EXPECT_NE(fleet.Body(fleet.first), fleet.Body(fleet.second)) << "one percent of two is one";
  const auto abandoned = fleet.control.Ctl({"abandon", "--wait"});
  EXPECT_EQ(abandoned.exit.code, 0) << abandoned.err;
  EXPECT_EQ(fleet.Body(fleet.first), "before");
  EXPECT_EQ(fleet.Body(fleet.second), "before");
}

TEST(Staged, AnUnconfirmedChangeIsRevertedAlsoByTheNextControlPlane) {
  ScriptedUpstream before(Ok("before")), after(Ok("after"));
  Fleet fleet;
  ASSERT_EQ(fleet.control.Apply(Policy(before.address(), before.address()), {"--wait"}).exit.code, 0);
  const auto reverted =
      fleet.control.Ctl({"apply", "-f", "-", "--confirm-within", "2s", "--wait"}, Orders(after.address()));
  EXPECT_EQ(reverted.exit.code, 9) << reverted.out << reverted.err;
  EXPECT_THAT(reverted.err, HasSubstr("reverted: not confirmed within 2s"));
  EXPECT_TRUE(WaitFor([&] { return fleet.Body(fleet.first) == "before" && fleet.Body(fleet.second) == "before"; }));

  ASSERT_EQ(fleet.control.Apply(Orders(after.address()), {"--confirm-within", "8s"}).exit.code, 0);
  ASSERT_TRUE(WaitFor([&] { return fleet.Body(fleet.first) == "after" && fleet.Body(fleet.second) == "after"; }));
  fleet.control.Kill();
  fleet.control.Start();
  EXPECT_TRUE(WaitFor([&] { return fleet.Body(fleet.first) == "before" && fleet.Body(fleet.second) == "before"; },
                      Timeout(30'000)));
}

TEST(Staged, AConfirmedChangeStays) {
  ScriptedUpstream before(Ok("before")), after(Ok("after"));
  Fleet fleet;
  ASSERT_EQ(fleet.control.Apply(Policy(before.address(), before.address()), {"--wait"}).exit.code, 0);
  ASSERT_EQ(fleet.control.Apply(Orders(after.address()), {"--confirm-within", "10m"}).exit.code, 0);
  const auto confirmed = fleet.control.Ctl({"confirm"});
  EXPECT_EQ(confirmed.exit.code, 0) << confirmed.err;
  EXPECT_THAT(confirmed.out, HasSubstr("confirmed by"));
  ASSERT_EQ(fleet.control.Apply(Policy(after.address(), before.address()), {"--wait"}).exit.code, 0);
  EXPECT_EQ(fleet.Body(fleet.first), "after");
}

TEST(Staged, AGuardThatBreaksRevertsAndNoRequestOfOthersFails) {
  ScriptedUpstream good(Ok("good"));
  ScriptedUpstream bad(Respond([](const UpstreamRequest&) { return MakeResponse(500, "broken"); }));
  Fleet fleet;
  ASSERT_EQ(fleet.control.Apply(Policy(good.address(), good.address()), {"--wait"}).exit.code, 0);
  Load touched(fleet.first.port(), "/orders"), untouched(fleet.first.port(), "/other"),
      base(fleet.second.port(), "/orders");
  const auto reverted = fleet.control.Ctl(
      {"apply", "-f", "-", "--to", "zone=a", "--guard", "error_rate<5%,for=30s", "--wait"}, Orders(bad.address()));
  EXPECT_EQ(reverted.exit.code, 9) << reverted.out << reverted.err;
  EXPECT_THAT(reverted.err, HasSubstr("is not below 5 % on route orders, data plane dp-1"));
  EXPECT_THAT(reverted.err, Not(HasSubstr("dp-2")));
  ASSERT_TRUE(WaitFor([&] { return fleet.Body(fleet.first) == "good"; }));
  const int failures = touched.failures(), requests = touched.requests();
  ASSERT_TRUE(WaitFor([&] { return touched.requests() > requests + 50; }));
  EXPECT_LE(touched.failures(), failures + 1) << "the one that was under way";
  touched.Stop();
  untouched.Stop();
  base.Stop();
  EXPECT_GT(touched.failures(), 0);
  EXPECT_EQ(untouched.failures(), 0);
  EXPECT_EQ(base.failures(), 0);
  EXPECT_THAT(fleet.control.Ctl({"history"}).out, HasSubstr("reverted: error_rate "));
  const auto metrics = Fetch(fleet.control.metrics_port(), "GET", "/metrics")->body;
  EXPECT_THAT(metrics, HasSubstr("gateway_controlplane_reverts_total{cause=\"guard\"} 1"));
  EXPECT_THAT(metrics, HasSubstr("gateway_controlplane_staged_revision 0"));
}

TEST(Staged, AGuardThatHoldsKeepsTheChangeAlsoOverARestart) {
  ScriptedUpstream before(Ok("before")), after(Ok("after"));
  Fleet fleet;
  ASSERT_EQ(fleet.control.Apply(Policy(before.address(), before.address()), {"--wait"}).exit.code, 0);
  Load first(fleet.first.port(), "/orders"), second(fleet.second.port(), "/orders");
  ASSERT_EQ(
      fleet.control.Apply(Orders(after.address()), {"--guard", "error_rate<1%,p99<5s,requests>200,for=4s"}).exit.code,
      0);
  fleet.control.Kill();
  fleet.control.Start();
  nlohmann::json change;
  ASSERT_TRUE(WaitFor(
      [&] {
        const auto history = nlohmann::json::parse(fleet.control.Ctl({"history", "-o", "json"}).out);
        change = history["items"][0].value("change", nlohmann::json());
        return change.is_object() && change["outcome"] != "outcome_unspecified";
      },
      Timeout(30'000)))
      << change;
  EXPECT_EQ(change["outcome"], "kept") << change;
  EXPECT_THAT(change["note"].get<std::string>(), HasSubstr("error_rate 0 %"));
  first.Stop();
  second.Stop();
  EXPECT_EQ(first.failures() + second.failures(), 0);
  EXPECT_EQ(fleet.Body(fleet.second), "after");
}

}  // namespace
}  // namespace gateway::fixtures
