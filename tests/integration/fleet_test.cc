// The control plane and its data planes together: changes, restarts, kills, and Consul, with real processes.
#include <atomic>
#include <csignal>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/consul_agent.h"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::ThrowsMessage;

// Sends requests to /svc, one after the other on a kept connection, until stopped. Every response other than 200 is a
// failure.
class Load {
 public:
  Load(uint16_t port, std::string target, std::function<void(const Response&)> check = nullptr)
      : thread_([this, port, target = std::move(target), check = std::move(check)] {
          RawClient client(port);
          while (!stop_) {
            const auto response = client.Request("GET", target);
            ++requests_;
            if (!response.ok() || response->status != 200) {
              ++failures_;
              last_failure_ = response.ok() ? response->head + response->body : response.status().ToString();
              client = RawClient(port);
            } else if (check) {
              check(*response);
            }
          }
        }) {}
  ~Load() { Stop(); }
  void Stop() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }
  int requests() const { return requests_; }
  int failures() const { return failures_; }
  const std::string& last_failure() const { return last_failure_; }  // call it after Stop

 private:
  std::atomic<bool> stop_{false};
  std::atomic<int> requests_{0};
  std::atomic<int> failures_{0};
  std::string last_failure_;
  std::thread thread_;
};

TEST(Fleet, AnAppliedPolicyServesOnEveryWorkerOfEveryDataPlane) {
  ScriptedUpstream one(Ok("one"));
  ScriptedUpstream two(Ok("two"));
  ControlPlane control;
  DataPlane first({.control_planes = {control.stream_port()}, .name = "dp-1"});
  DataPlane second({.control_planes = {control.stream_port()}, .name = "dp-2"});
  const auto applied =
      control.Apply(ServicePolicyYaml({one.address(), two.address()}), {"--wait", "--comment", "first"});
  EXPECT_EQ(applied.exit.code, 0) << applied.err;
  EXPECT_THAT(applied.out, HasSubstr("serving on 2/2 data planes (4 workers) in "));
  for (DataPlane* each : {&first, &second}) {
    std::set<std::string> bodies;
    for (int i = 0; i < 4; ++i) bodies.insert(Fetch(each->port(), "GET", "/svc/x")->body);
    EXPECT_EQ(bodies, (std::set<std::string>{"one", "two"}));
  }
  EXPECT_THAT(control.Ctl({"history"}).out, HasSubstr("first"));
  EXPECT_THAT(control.Ctl({"dataplanes"}).out, HasSubstr("dp-2"));
  // Applying the same policy again changes nothing.
  const auto again = control.Apply(ServicePolicyYaml({one.address(), two.address()}), {});
  EXPECT_EQ(again.exit.code, 0);
  EXPECT_THAT(again.out, HasSubstr("unchanged"));
}

TEST(Fleet, AnEndpointWithoutAnAddressIsToldFromOneThatServes) {
  ScriptedUpstream one(Ok("one"));
  ControlPlane control;
  DataPlane data_plane({.control_planes = {control.stream_port()}});
  control.Apply(ServicePolicyYaml({"no-such-host.invalid:80", one.address()}), {"--wait"});
  EXPECT_TRUE(WaitFor([&] { return control.Ctl({"services"}).out.find("1/2") != std::string::npos; }))
      << control.Ctl({"services"}).out;
  const auto endpoints = nlohmann::json::parse(control.Ctl({"endpoints", "svc", "-o", "json"}).out)["items"];
  ASSERT_EQ(endpoints.size(), 2u);
  EXPECT_EQ(endpoints[0]["address"], "no-such-host.invalid:80");
  EXPECT_EQ(endpoints[0]["serving"], false);
  EXPECT_EQ(endpoints[0]["left_out_by"][0], "dp-1: the name has no address");
  EXPECT_EQ(endpoints[1]["serving"], true);
  EXPECT_THAT(control.Ctl({"describe", "service", "svc"}).out, HasSubstr("dp-1: the name has no address"));
  EXPECT_THAT(control.Ctl({"describe", "route", "svc"}).out, HasSubstr("1 of 2 endpoints serving: " + one.address()));
}

TEST(Fleet, FiveMistakesAreFiveMessagesAndNothingChanges) {
  ControlPlane control;
  const auto before = control.Ctl({"export", "--all"}).out;
  const auto refused = control.Apply(
      "kind: Service\nname: a\nstatic: [{ address: \"nowhere\" }]\n---\n"
      "kind: Route\nname: b\nmatch: { path: { prefix: no-slash } }\nservice: missing\n---\n"
      "kind: RateLimit\nname: c\nkey: [shoe_size]\nlimit: { requests: 0, window: 1m }\n");
  EXPECT_EQ(refused.exit.code, 3) << refused.out;
  for (const char* expected :
       {"Service/a", "Route/b", "prefix", "missing", "RateLimit/c", "shoe_size", "requests", "apply.yaml:3"}) {
    EXPECT_THAT(refused.err + refused.out, HasSubstr(expected));
  }
  EXPECT_EQ(control.Ctl({"export", "--all"}).out, before);
}

TEST(Fleet, CheckConfigReadsPolicyFilesAndStartsNothing) {
  TempDir directory;
  const auto check = [&](const std::string& policy) {
    return Process::Run({BinaryPath("gateway-dataplane"), "--check-config", "--set",
                         Concat("data_plane.policy_files=", directory.Write("policy.yaml", policy))});
  };
  const auto good = check(ServicePolicyYaml({"127.0.0.1:1"}));
  EXPECT_EQ(good.exit.code, 0) << good.err;
  EXPECT_THAT(good.out, HasSubstr("data_plane.policy_files: "));
  const auto bad = check("kind: Route\nname: r\nmatch: {}\nservice: nobody\n");
  EXPECT_EQ(bad.exit.code, 1);
  EXPECT_THAT(bad.err, HasSubstr("policy.yaml:4:1: Route/r: service: service 'nobody' is not defined"));
}

TEST(Fleet, CheckConfigNamesEveryCertificateFileThatIsMissing) {
  TempDir directory;
  const auto check = [&](const std::string& cert) {
    const std::string config = directory.Write(
        "gateway.yaml",
        Concat("server:\n  listeners:\n    - address: \"127.0.0.1:8443\"\n      tls:\n        certificates:\n"
               "          - { cert: ",
               cert, ", key: ", directory.File("gone.key"), " }\n",
               "data_plane:\n  tls: { cert: ", directory.File("dp.crt"), ", key: ", directory.File("dp.key"),
               ", ca: ", directory.File("ca.crt"), " }\n"));
    return Process::Run({BinaryPath("gateway-dataplane"), "--check-config", "--config", config});
  };
  const auto missing = check(directory.File("gone.crt"));
  EXPECT_EQ(missing.exit.code, 1);
  EXPECT_THAT(missing.err, HasSubstr("server.listeners[0].tls: " + directory.File("gone.crt") + ": can't be read"));
  EXPECT_THAT(missing.err, HasSubstr("data_plane.tls: " + directory.File("dp.crt")));
  const auto garbled = check(directory.Write("garbled.crt", "no PEM"));
  EXPECT_EQ(garbled.exit.code, 1);
  EXPECT_THAT(garbled.err, HasSubstr(directory.File("gone.key")));
}

TEST(Fleet, AllErrorsOfALargeSetAreReportedAndCounted) {
  ControlPlane control;
  std::string policy;
  const auto refused_lines = [&](int routes, std::vector<std::string> flags) {
    policy.clear();
    for (int i = 0; i < routes; ++i) {
      Append(&policy, "kind: Route\nname: r", i, "\nmatch: { path: { prefix: /r", i, " } }\nservice: none-", i,
             "\n---\n");
    }
    const auto refused = control.Apply(policy, std::move(flags));
    EXPECT_EQ(refused.exit.code, 3) << refused.out;
    size_t lines = 0;
    for (size_t at = refused.err.find("is not defined"); at != std::string::npos;
         at = refused.err.find("is not defined", at + 1)) {
      ++lines;
    }
    return std::pair(lines, refused.err.substr(refused.err.rfind("gatewayctl:")));
  };
  EXPECT_EQ(refused_lines(1000, {}),
            std::pair(size_t{50}, std::string("gatewayctl: the policy is invalid: 1000 errors, of which 950 are not "
                                              "shown (--all-errors); nothing was changed\n")));
  EXPECT_EQ(refused_lines(1000, {"--all-errors"}),
            std::pair(size_t{1000}, std::string("gatewayctl: the policy is invalid: 1000 errors; "
                                                "nothing was changed\n")));
  // Errors beyond one response's limit are counted too.
  const auto [lines, end] = refused_lines(20'000, {"--all-errors"});
  EXPECT_GT(lines, 3000u);
  EXPECT_EQ(end, Concat("gatewayctl: the policy is invalid: 20000 errors, of which ", 20'000 - lines,
                        " are not shown; nothing was changed\n"));
}

TEST(Fleet, TwoHundredChangesUnderLoadFailNoRequestAndAreNeverSeenInHalves) {
  // Each upstream stands for one half of a change: the Service names the upstream, the Route the rewritten path.
  ScriptedUpstream even(
      Respond([](const UpstreamRequest& request) { return MakeResponse(200, "even " + request.target); }));
  ScriptedUpstream odd(
      Respond([](const UpstreamRequest& request) { return MakeResponse(200, "odd " + request.target); }));
  ControlPlane control;
  DataPlane gateway({.control_planes = {control.stream_port()}, .workers = 4, .sets = {"server.error_details=true"}});
  const auto change = [&](int n) {
    return ServicePolicyYaml({n % 2 == 0 ? even.address() : odd.address()}, "",
                             Concat("rewrite: { prefix: /", n % 2 == 0 ? "even" : "odd", " }\nrate_limits: none"));
  };
  ASSERT_EQ(control.Apply(change(0), {"--wait"}).exit.code, 0);
  std::atomic<int> halves{0};
  std::atomic<int> without_revision{0};
  const auto check = [&](const Response& response) {
    if (response.body != "even /even" && response.body != "odd /odd") ++halves;
    if (!response.Field("X-Gateway-Revision")) ++without_revision;
  };
  std::vector<std::unique_ptr<Load>> loads;
  for (int i = 0; i < 4; ++i) loads.push_back(std::make_unique<Load>(gateway.port(), "/svc", check));
  for (int n = 1; n <= 200; ++n) {
    const auto applied = control.Apply(change(n), {"--wait"});
    ASSERT_EQ(applied.exit.code, 0) << applied.err << applied.out;
    ASSERT_THAT(applied.out, HasSubstr("1/1 data planes (4 workers)"));
    // The wait covered every worker, whichever this connection lands on.
    ASSERT_EQ(Fetch(gateway.port(), "GET", "/svc")->body, n % 2 == 0 ? "even /even" : "odd /odd");
  }
  for (auto& load : loads) {
    load->Stop();
    EXPECT_EQ(load->failures(), 0) << load->last_failure();
    EXPECT_GT(load->requests(), 100);
  }
  EXPECT_EQ(halves, 0);
  EXPECT_EQ(without_revision, 0);
}

TEST(Fleet, KillingTheControlPlaneAHundredTimesLosesNoAcknowledgedChange) {
  ScriptedUpstream upstream(Ok("x"));
  ControlPlane control;
  DataPlane gateway({.control_planes = {control.stream_port()}});
  ASSERT_EQ(control.Apply(ServicePolicyYaml({upstream.address()}), {"--wait"}).exit.code, 0);
  Load load(gateway.port(), "/svc/" + std::string("kept"));
  const auto service = [](int n) {
    return Concat("kind: Service\nname: s", n, "\nstatic: [{ address: \"127.0.0.1:1\" }]\n");
  };
  std::vector<int> acknowledged;
  for (int round = 0; round < 100; ++round) {
    // Writers run until the kill, which comes somewhere in the middle.
    std::atomic<int> next{round * 1000};
    std::atomic<bool> stop{false};
    std::vector<int> done;
    std::thread writer([&] {
      while (!stop) {
        const int n = next++;
        if (control.Apply(service(n)).exit.code != 0) break;
        done.push_back(n);
      }
    });
    // A different point each time, chosen by progress rather than by the clock.
    (void)WaitFor([&] { return next >= round * 1000 + 1 + round % 3; });  // the kill follows in any case
    control.Kill();
    stop = true;
    writer.join();
    acknowledged.insert(acknowledged.end(), done.begin(), done.end());
    control.Start();
  }
  const std::string all = control.Ctl({"get", "services", "-o", "name"}).out;
  for (const int n : acknowledged) EXPECT_THAT(all + "\n", HasSubstr(Concat("Service/s", n, "\n")));
  EXPECT_GT(acknowledged.size(), 50u);
  // The data plane kept serving, and accepts the next change.
  const auto next = control.Apply(ServicePolicyYaml({upstream.address()}, "description: last"), {"--wait"});
  EXPECT_EQ(next.exit.code, 0) << next.err << next.out;
  load.Stop();
  EXPECT_GT(load.requests(), 100);
  // The built-in limit of 1000 a minute per path is disabled here, so no request may fail.
  EXPECT_EQ(load.failures(), 0) << load.last_failure();
}

TEST(Fleet, AWaitAfterARestartKnowsWhoIsNotBackYet) {
  ScriptedUpstream one(Ok("one"));
  ScriptedUpstream two(Ok("two"));
  ControlPlane control;
  DataPlane first({.control_planes = {control.stream_port()}, .name = "dp-1"});
  DataPlane second({.control_planes = {control.stream_port()}, .name = "dp-2"});
  ASSERT_EQ(control.Apply(ServicePolicyYaml({one.address()}), {"--wait"}).exit.code, 0);
  for (int round = 0; round < 3; ++round) {
    control.Kill();
    control.Start();
    // The first data plane to return is not the whole fleet.
    const auto applied = control.Apply(ServicePolicyYaml({round % 2 == 0 ? two.address() : one.address()}), {"--wait"});
    ASSERT_EQ(applied.exit.code, 0) << applied.err;
    EXPECT_THAT(applied.out, HasSubstr("serving on 2/2 data planes (4 workers)"));
    for (DataPlane* each : {&first, &second}) {
      EXPECT_EQ(Fetch(each->port(), "GET", "/svc")->body, round % 2 == 0 ? "two" : "one");
    }
  }
}

TEST(Fleet, ALostDataPlaneIsWaitedForAndThenNamed) {
  ScriptedUpstream upstream(Ok("x"));
  ControlPlane control;
  DataPlane first({.control_planes = {control.stream_port()}, .name = "dp-1"});
  DataPlane second({.control_planes = {control.stream_port()}, .name = "dp-2"});
  DataPlane third({.control_planes = {control.stream_port()}, .name = "dp-3"});
  second.process().Kill();
  third.process().Signal(SIGTERM);  // says goodbye, so `--wait` does not count it
  ASSERT_TRUE(third.process().Wait().has_value());
  const auto early = control.Apply(ServicePolicyYaml({upstream.address()}), {"--wait", "--timeout", "2s"});
  EXPECT_EQ(early.exit.code, 7) << early.out;
  EXPECT_THAT(early.out + early.err, HasSubstr("dp-2"));
  EXPECT_THAT(early.out + early.err, Not(HasSubstr("dp-3")));
  const auto late = control.Ctl({"rollout", "--wait"});
  EXPECT_EQ(late.exit.code, 0) << late.err;
  EXPECT_THAT(late.out, HasSubstr("serving on 1/1 data planes (2 workers)"));
  EXPECT_THAT(late.out, HasSubstr("lost and not counted: dp-2"));
}

// Goal: an empty database in place of a lost one removes no route until an operator accepts it.
TEST(Fleet, ALostDatabaseIsNoEmptyPolicy) {
  ScriptedUpstream upstream(Ok("kept"));
  ControlPlane control;
  DataPlane gateway({.control_planes = {control.stream_port()}});
  ASSERT_EQ(control.Apply(ServicePolicyYaml({upstream.address()}), {"--wait"}).exit.code, 0);
  const auto serves = [&] {
    const auto response = Fetch(gateway.port(), "GET", "/svc");
    return response.ok() ? response->body : "";
  };

  // A truncated database: the control plane does not start.
  control.Kill();
  for (const char* contents : {"", "x"}) {
    control.SetAside("gateway.db-wal");
    control.Overwrite("gateway.db", contents);
    EXPECT_THAT([&] { control.Start(); }, ThrowsMessage<std::runtime_error>(HasSubstr("is lost")));
  }
  // A missing database, with and without the list of data planes: it starts, and data planes are held.
  for (const char* also : {"", "gateway.db.dataplanes"}) {
    control.Kill();
    for (const char* file : {"gateway.db", "gateway.db-wal", also}) control.SetAside(file);
    control.Start();
    std::string body;
    ASSERT_TRUE(WaitFor([&] {
      const auto ready = Fetch(control.metrics_port(), "GET", "/ready");
      body = ready.ok() ? ready->body : "";
      return ready.ok() && ready->status == 503 && body.find("1 data plane (dp-1)") != std::string::npos;
    })) << body;
    EXPECT_THAT(control.Ctl({"dataplanes"}).out, HasSubstr("held"));
    EXPECT_EQ(control.Ctl({"rollout", "--wait", "--timeout", "1s"}).exit.code, 7);
    EXPECT_EQ(serves(), "kept");
  }
  const auto accepted = control.Ctl({"accept-history"});
  EXPECT_EQ(accepted.exit.code, 0) << accepted.err;
  EXPECT_EQ(control.Ctl({"rollout", "--wait"}).exit.code, 0);
  EXPECT_THAT(serves(), HasSubstr("no_route"));
  const auto ready = Fetch(control.metrics_port(), "GET", "/ready");
  ASSERT_TRUE(ready.ok());
  EXPECT_EQ(ready->status, 200);
}

TEST(Fleet, TwoDataPlanesOfOneNameAreToldApart) {
  ScriptedUpstream upstream(Ok("x"));
  ControlPlane control;
  DataPlane first({.control_planes = {control.stream_port()}, .name = "dp-1"});
  DataPlane second({.control_planes = {control.stream_port()}, .name = "dp-1", .wait_ready = false});
  ASSERT_TRUE(second.process().WaitForLine("the name 'dp-1' is in use by another instance").has_value());
  const auto contended = control.Apply(ServicePolicyYaml({upstream.address()}), {"--wait", "--timeout", "3s"});
  EXPECT_EQ(contended.exit.code, 7) << contended.out;
  EXPECT_THAT(contended.out + contended.err, HasSubstr("dp-1 is claimed by two instances"));
  EXPECT_THAT(control.Ctl({"dataplanes"}).out, HasSubstr("contended"));
  EXPECT_EQ(Fetch(first.port(), "GET", "/svc")->body, "x") << "the first still serves";
  EXPECT_EQ(control.process().output().find("takes its place"), std::string::npos);
  second.process().Kill();
  const auto alone = control.Ctl({"rollout", "--wait"});
  EXPECT_EQ(alone.exit.code, 0) << alone.err;
  EXPECT_THAT(alone.out, HasSubstr("serving on 1/1 data planes"));
}

TEST(Fleet, ADataPlaneStartsFromItsCacheWithoutAControlPlane) {
  ScriptedUpstream upstream(Ok("cached"));
  TempDir cache;
  auto control = std::make_unique<ControlPlane>();
  const uint16_t stream_port = control->stream_port();
  {
    DataPlane gateway({.control_planes = {stream_port}, .cache_dir = cache.path()});
    ASSERT_EQ(control->Apply(ServicePolicyYaml({upstream.address()}), {"--wait"}).exit.code, 0);
    gateway.process().Signal(SIGTERM);
    ASSERT_TRUE(gateway.process().Wait().has_value());
  }
  control.reset();
  DataPlane gateway({.control_planes = {stream_port}, .cache_dir = cache.path()});
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc")->body, "cached");
}

TEST(Fleet, RollbackBringsBackWhatWas) {
  ScriptedUpstream one(Ok("one"));
  ScriptedUpstream two(Ok("two"));
  ControlPlane control;
  DataPlane gateway({.control_planes = {control.stream_port()}});
  ASSERT_EQ(control.Apply(ServicePolicyYaml({one.address()}), {"--wait"}).exit.code, 0);
  const std::string revision = nlohmann::json::parse(control.Ctl({"history", "-o", "json"}).out)["revision"].dump();
  ASSERT_EQ(control.Apply(ServicePolicyYaml({two.address()}), {"--wait"}).exit.code, 0);
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc")->body, "two");
  const auto conflict = control.Ctl({"rollback", revision, "--expect-revision", revision});
  EXPECT_EQ(conflict.exit.code, 5) << "it has changed since";
  const auto rolled = control.Ctl({"rollback", revision, "--wait"});
  EXPECT_EQ(rolled.exit.code, 0) << rolled.err << rolled.out;
  EXPECT_THAT(rolled.err, HasSubstr("undone:\n  revision 3, "));
  EXPECT_EQ(Fetch(gateway.port(), "GET", "/svc")->body, "one");
}

class WithConsul : public ::testing::Test {
 protected:
  void SetUp() override {
    auto agent = ConsulAgent::Start();
    ASSERT_TRUE(agent.ok()) << agent.status();
    consul_ = *std::move(agent);
    control_ = std::make_unique<ControlPlane>(ControlPlane::Options{.consul = consul_->address()});
    gateway_ = std::make_unique<DataPlane>(DataPlane::Options{.control_planes = {control_->stream_port()}});
    const auto applied = control_->Apply(
        "kind: Route\nname: api\nmatch: { path: { template: \"/api/v1/{service}/**\" } }\n"
        "consul_service: { from: service, allow: [\"*\"] }\n",
        {"--wait"});
    ASSERT_EQ(applied.exit.code, 0) << applied.err << applied.out;
  }
  int Status(const std::string& target) {
    const auto response = Fetch(gateway_->port(), "GET", target);
    return response.ok() ? response->status : -1;
  }
  std::unique_ptr<ConsulAgent> consul_;
  std::unique_ptr<ControlPlane> control_;
  std::unique_ptr<DataPlane> gateway_;
};

TEST_F(WithConsul, AServiceIsReachableByItsNameAndFollowsItsHealth) {
  ScriptedUpstream one(Ok("one"));
  ScriptedUpstream two(Ok("two"));
  EXPECT_TRUE(WaitFor([&] { return Status("/api/v1/orders/x") == 404; }));
  ASSERT_TRUE(consul_->Register({.service = "orders", .id = "o1", .port = one.port()}).ok());
  ASSERT_TRUE(consul_->Register({.service = "orders", .id = "o2", .port = two.port()}).ok());
  EXPECT_TRUE(WaitFor([&] { return Status("/api/v1/orders/x") == 200; }));
  EXPECT_TRUE(WaitFor([&] { return Fetch(gateway_->port(), "GET", "/api/v1/orders/x")->body == "two"; }));
  // An instance that becomes critical gets no new requests.
  ASSERT_TRUE(consul_->SetCheck("o2", "critical").ok());
  EXPECT_TRUE(WaitFor([&] {
    const int before = two.request_count();
    for (int i = 0; i < 4; ++i) (void)Status("/api/v1/orders/x");
    return two.request_count() == before;
  }));
  // All critical is 503, not 404: the service exists.
  ASSERT_TRUE(consul_->SetCheck("o1", "critical").ok());
  EXPECT_TRUE(WaitFor([&] { return Status("/api/v1/orders/x") == 503; }));
  ASSERT_TRUE(consul_->SetCheck("o1", "passing").ok());
  EXPECT_TRUE(WaitFor([&] { return Status("/api/v1/orders/x") == 200; }));
  EXPECT_GT(gateway_->Metric("api_requests_total{service=\"unknown\",method=\"GET\",path=\"/api/v1/{service}/**\"}"),
            0);
  // Consul itself and the gateway are never reachable this way.
  EXPECT_EQ(Status("/api/v1/consul/x"), 404);
  EXPECT_EQ(Status("/api/v1/api-gateway/x"), 404);
}

TEST_F(WithConsul, ADeadOrStoppedConsulFailsNoRequest) {
  ScriptedUpstream one(Ok("one"));
  ASSERT_TRUE(consul_->Register({.service = "orders", .id = "o1", .port = one.port()}).ok());
  // Each worker installs the change in its own time, and each request may land on another worker.
  ASSERT_TRUE(WaitFor([&] {
    for (int i = 0; i < 20; ++i) {
      if (Status("/api/v1/orders/x") != 200) return false;
    }
    return true;
  }));
  Load load(gateway_->port(), "/api/v1/orders/x");
  const auto more = [&] {
    const int from = load.requests();
    return WaitFor([&] { return load.requests() > from + 200; });
  };
  consul_->Pause();
  EXPECT_TRUE(more());
  consul_->Resume();
  EXPECT_TRUE(more());
  consul_->Kill();
  EXPECT_TRUE(more());
  load.Stop();
  EXPECT_EQ(load.failures(), 0) << load.last_failure();
}

TEST_F(WithConsul, AConsulAndAControlPlaneThatBothBeginAnewDropNothing) {
  ScriptedUpstream one(Ok("one"));
  ASSERT_TRUE(consul_->Register({.service = "orders", .id = "o1", .port = one.port()}).ok());
  ASSERT_TRUE(WaitFor([&] { return Status("/api/v1/orders/x") == 200; }));
  Load load(gateway_->port(), "/api/v1/orders/x");
  // The last-known copy is written at most once a second.
  ASSERT_TRUE(WaitFor([&] { return control_->Ctl({"endpoints", "orders"}).out.find("o1") != std::string::npos; }));
  ASSERT_TRUE(WaitFor([&] { return control_->KeptEndpoints().find("o1") != std::string::npos; }));
  consul_->Kill();
  control_->Kill();
  control_->Start();
  ASSERT_TRUE(consul_->Restart().ok());  // a dev agent: it has lost everything
  ASSERT_TRUE(
      WaitFor([&] { return consul_->GetJson("/v1/health/service/api-gateway")->size() == 1; }, Timeout(20'000)));
  const int from = load.requests();
  EXPECT_TRUE(WaitFor([&] { return load.requests() > from + 500; }));
  load.Stop();
  EXPECT_EQ(load.failures(), 0) << load.last_failure();
}

TEST_F(WithConsul, ItsChecksAreNoTraffic) {
  const auto passing = [&] {
    const auto json = consul_->GetJson("/v1/health/service/api-gateway?passing");
    return json.ok() && json->size() == 1;
  };
  ASSERT_TRUE(WaitFor(passing, Timeout(20'000)));  // so the check ran at least once
  constexpr char kHealth[] = "api_requests_total{service=\"gateway\",method=\"GET\",path=\"/health\"}";
  EXPECT_LE(gateway_->Metric(kHealth), 0);  // or there is no such series
  EXPECT_EQ(Status("/health"), 200);
  EXPECT_TRUE(WaitFor([&] { return gateway_->Metric(kHealth) == 1; }));
}

TEST_F(WithConsul, EveryDataPlaneIsAnInstanceUntilItSaysGoodbye) {
  const auto instances = [&] {
    const auto json = consul_->GetJson("/v1/health/service/api-gateway");
    return json.ok() ? json->size() : size_t{0};
  };
  EXPECT_TRUE(WaitFor([&] { return instances() == 1; }));
  // A control plane that stops deregisters no data plane.
  control_->Kill();
  EXPECT_EQ(instances(), 1u);
  control_->Start();
  // Deregistered in Consul: registered again.
  ASSERT_TRUE(consul_->Put("/v1/agent/service/deregister/api-gateway-dp-1").ok());
  EXPECT_TRUE(WaitFor([&] { return instances() == 1; }, Timeout(20'000)));
  // Only a connected data plane can say goodbye.
  EXPECT_TRUE(WaitFor([&] { return gateway_->Metric("gateway_config_connected") == 1; }, Timeout(20'000)));
  gateway_->process().Signal(SIGTERM);
  EXPECT_TRUE(gateway_->process().Wait().has_value());
  EXPECT_TRUE(WaitFor([&] { return instances() == 0; }));
}

// The bodies of `count` requests, sent one after the other.
std::set<std::string> Bodies(uint16_t port, int count = 12) {
  std::set<std::string> bodies;
  for (int i = 0; i < count; ++i) {
    const auto response = Fetch(port, "GET", "/svc");
    bodies.insert(response.ok() && response->status == 200 ? response->body : "failed");
  }
  return bodies;
}

TEST(Fleet, AnOperatorDrainsAnEndpointForAWhileAndNothingIsLost) {
  ScriptedUpstream one(Ok("one")), two(Ok("two"));
  ControlPlane control;
  const TempDir cache;
  auto data_plane = std::make_unique<DataPlane>(
      DataPlane::Options{.control_planes = {control.stream_port()}, .cache_dir = cache.path()});
  ASSERT_EQ(control.Apply(ServicePolicyYaml({one.address(), two.address()}), {"--wait"}).exit.code, 0);
  Load load(data_plane->port(), "/svc");
  const auto drained = control.Ctl({"endpoints", "svc", "--set", one.address(), "drain", "--comment", "kernel"});
  ASSERT_EQ(drained.exit.code, 0) << drained.err;
  EXPECT_TRUE(WaitFor([&] { return Bodies(data_plane->port()) == std::set<std::string>{"two"}; }));
  EXPECT_TRUE(WaitFor([&] { return control.Ctl({"endpoints", "svc"}).err.empty(); })) << "in force, and reported";
  EXPECT_THAT(control.Ctl({"endpoints", "svc"}).out, HasSubstr("no: drained"));
  EXPECT_THAT(control.Ctl({"services"}).out, HasSubstr("1/2"));
  EXPECT_THAT(control.Ctl({"audit"}).out, HasSubstr("drained until it is taken back: kernel"));

  // It survives a control plane that stays away, and a restart of the data plane from its cache.
  load.Stop();
  EXPECT_EQ(load.failures(), 0) << load.last_failure();
  control.Kill();
  data_plane->process().Signal(SIGTERM);
  EXPECT_TRUE(data_plane->process().Wait().has_value());
  data_plane = std::make_unique<DataPlane>(
      DataPlane::Options{.control_planes = {control.stream_port()}, .cache_dir = cache.path()});
  EXPECT_EQ(Bodies(data_plane->port()), std::set<std::string>{"two"});
  control.Start();
  EXPECT_THAT(control.Ctl({"endpoints", "svc"}).out, HasSubstr("no: drained"));
  EXPECT_EQ(Bodies(data_plane->port()), std::set<std::string>{"two"});

  ASSERT_EQ(control.Ctl({"endpoints", "svc", "--set", two.address(), "weight=0", "--for", "2s"}).exit.code, 0);
  ASSERT_EQ(control.Ctl({"endpoints", "svc", "--set", one.address(), "up"}).exit.code, 0);
  EXPECT_TRUE(WaitFor([&] { return Bodies(data_plane->port()) == std::set<std::string>{"one"}; }));
  EXPECT_TRUE(WaitFor([&] {
    return Bodies(data_plane->port()) == std::set<std::string>{"one", "two"};
  })) << "two seconds later";
  EXPECT_THAT(control.Ctl({"endpoints", "svc", "-o", "json"}).out, Not(HasSubstr("\"actor\"")));
}

TEST(Fleet, ADataPlanesLogIsFinerForAWhile) {
  ControlPlane control;
  DataPlane data_plane({.control_planes = {control.stream_port()}});
  ASSERT_TRUE(WaitFor([&] { return control.Ctl({"dataplanes"}).out.find("dp-1") != std::string::npos; }));
  ASSERT_EQ(control.Ctl({"loglevel", "dp-1", "debug", "--for", "3s"}).exit.code, 0);
  EXPECT_TRUE(data_plane.process().WaitForLine("log level: debug for 3 s"));
  EXPECT_TRUE(WaitFor([&] { return control.Ctl({"dataplanes"}).out.find("log debug") != std::string::npos; }));
  EXPECT_TRUE(data_plane.process().WaitForLine("log level: info again"));
  EXPECT_TRUE(WaitFor([&] { return control.Ctl({"dataplanes"}).out.find("log debug") == std::string::npos; }));
  EXPECT_EQ(control.Ctl({"loglevel", "nobody", "debug"}).exit.code, 4);
  EXPECT_EQ(control.Ctl({"loglevel", "controlplane", "debug", "--for", "1s"}).exit.code, 0);
}

TEST(Fleet, ASupportBundleHasAllPartsAndNoSecrets) {
  ScriptedUpstream one(Ok("one"));
  ControlPlane control({.sets = {"consul.token=7f3f8a52-5e0b-4d7c-9d7f-0f1f2f3f4f5f"}});
  DataPlane data_plane({.control_planes = {control.stream_port()}, .sets = {"redis.password=hunter2"}});
  ASSERT_EQ(control.Apply(ServicePolicyYaml({one.address()}), {"--wait"}).exit.code, 0);
  TempDir dir;
  const std::string file = dir.File("bundle.tar.gz");
  const auto made = control.Ctl({"support-bundle", file});
  ASSERT_EQ(made.exit.code, 0) << made.err;
  EXPECT_THAT(made.err, Not(HasSubstr("left out")));
  const std::string names = Process::Run({"tar", "-tzf", file}).out;
  for (const char* name :
       {"policy.yaml", "history.json", "audit.json", "dataplanes.json", "endpoints.json", "breakers.json",
        "limits.json", "version.json", "controlplane/bootstrap.yaml", "controlplane/metrics.txt",
        "dataplanes/dp-1/bootstrap.yaml", "dataplanes/dp-1/metrics.txt"}) {
    EXPECT_THAT(names, HasSubstr(Concat("gateway-support/", name, "\n")));
  }
  const std::string all = Process::Run({"tar", "-xOzf", file}).out;
  EXPECT_THAT(all, HasSubstr("gateway_config_revision"));
  EXPECT_THAT(all, HasSubstr("name: svc"));
  EXPECT_THAT(all, Not(HasSubstr("hunter2")));
  EXPECT_THAT(all, Not(HasSubstr("7f3f8a52-5e0b")));
}

}  // namespace
}  // namespace gateway::fixtures
