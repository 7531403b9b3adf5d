// What operators see of Consul and decide about it, with real processes: freeze, thaw, history, a refused token.
#include <chrono>
#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/consul_agent.h"
#include "tests/fixtures/lab_ca.h"
#include "tests/fixtures/raw_client.h"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kPolicy[] =
    "kind: Service\nname: orders\nconsul: { service: orders }\n---\n"
    "kind: Route\nname: orders\nmatch: { path: { prefix: /orders } }\nservice: orders\n";
constexpr char kMaster[] = "1a2b3c4d-0000-4000-8000-000000000002";

int StatusOf(uint16_t port) {
  const auto response = Fetch(port, "GET", "/orders");
  return response.ok() ? response->status : 0;
}

TEST(OperatorsAndConsul, FrozenEndpointsServeUntilTheyAreThawed) {
  auto started = ConsulAgent::Start();
  ASSERT_TRUE(started.ok()) << started.status();
  ConsulAgent& consul = **started;
  ScriptedUpstream upstream(Ok("hello"));
  ASSERT_TRUE(consul.Register({.service = "orders", .port = upstream.port()}).ok());
  ControlPlane control({.consul = consul.address()});
  control.Apply(kPolicy);
  DataPlane gateway({.control_planes = {control.stream_port()}});
  ASSERT_TRUE(WaitFor([&] { return StatusOf(gateway.port()) == 200; }));

  const Process::Result nothing = control.Ctl({"endpoints", "orders", "--accept"});
  EXPECT_NE(nothing.exit.code, 0);
  EXPECT_THAT(nothing.err, HasSubstr("nothing is held"));
  EXPECT_EQ(control.Ctl({"endpoints", "orders", "--accept", "--freeze"}).exit.code, 2) << "one at a time";
  EXPECT_EQ(control.Ctl({"endpoints", "nobody", "--freeze"}).exit.code, 4);

  const Process::Result frozen = control.Ctl({"endpoints", "orders", "--freeze", "--comment", "a restore"});
  ASSERT_EQ(frozen.exit.code, 0) << frozen.err;
  EXPECT_THAT(frozen.out, HasSubstr("orders: frozen with 1 endpoint"));
  EXPECT_THAT(control.Ctl({"endpoints", "orders"}).err, HasSubstr("orders is frozen since"));
  ASSERT_TRUE(consul.Deregister("orders").ok());
  control.Kill();
  control.Start();
  ASSERT_TRUE(WaitFor([&] {  // Consul has been read again: it says that the service is gone
    return control.Ctl({"endpoints", "orders", "--history"}).out.find("1 of 1 instances gone") != std::string::npos;
  }));
  EXPECT_THAT(control.Ctl({"endpoints", "orders"}).err, HasSubstr("a restore"));
  EXPECT_EQ(StatusOf(gateway.port()), 200);
  // What is gone right after a restart is held for a while, since Consul may have begun again: an operator accepts it.
  ASSERT_EQ(control.Ctl({"endpoints", "orders", "--thaw"}).exit.code, 0);
  EXPECT_THAT(control.Ctl({"endpoints", "orders"}).err, HasSubstr("1 of 1 instances gone"));
  EXPECT_EQ(StatusOf(gateway.port()), 200);
  const Process::Result accepted = control.Ctl({"endpoints", "orders", "--accept"});
  ASSERT_EQ(accepted.exit.code, 0) << accepted.err;
  ASSERT_TRUE(WaitFor([&] { return StatusOf(gateway.port()) != 200; }));
  const std::string history = control.Ctl({"endpoints", "orders", "--history"}).out;
  for (const char* what : {"frozen", "held", "thawed", "vanished", "accepted"}) {
    EXPECT_THAT(history, HasSubstr(what));
  }
  const std::string audit = control.Ctl({"audit"}).out;
  EXPECT_THAT(audit, HasSubstr("DecideEndpoints"));
  EXPECT_THAT(audit, HasSubstr("endpoints of 'orders': frozen as they are (1): a restore"));
}

TEST(OperatorsAndConsul, ARefusedTokenIsShownAndEndpointsServeOnOverTls) {
  LabCa ca;
  const LabCa::Files files = ca.IssueFor({"IP:127.0.0.1"});
  auto started = ConsulAgent::Start({.token = kMaster, .cert = files.cert, .key = files.key});
  ASSERT_TRUE(started.ok()) << started.status();
  ConsulAgent& consul = **started;
  ScriptedUpstream upstream(Ok("hello"));
  ASSERT_TRUE(consul.Register({.service = "orders", .port = upstream.port()}).ok());
  const auto token = consul.MakeToken(
      "gateway", "service_prefix \"\" { policy = \"write\" }\nnode_prefix \"\" { policy = \"read\" }\n");
  ASSERT_TRUE(token.ok()) << token.status();
  const TempDir dir;
  const std::string token_file = dir.Write("token", token->secret);
  ControlPlane control(
      {.consul = consul.https_address(), .sets = {"consul.tls.ca=" + ca.file(), "consul.token_file=" + token_file}});
  control.Apply(kPolicy);
  DataPlane gateway({.control_planes = {control.stream_port()}});
  ASSERT_TRUE(WaitFor([&] { return StatusOf(gateway.port()) == 200; }));
  ASSERT_TRUE(WaitFor([&] {  // the data plane itself is registered, with the same token
    const auto services = consul.GetJson("/v1/agent/services");
    return services.ok() && services->contains("api-gateway-dp-1");
  }));
  ASSERT_TRUE(consul.RevokeToken(*token).ok());
  // A change wakes the watch, which is then refused.
  ASSERT_TRUE(consul.SetCheck("orders", "critical").ok());
  ASSERT_TRUE(WaitFor([&] {
    return control.Ctl({"endpoints", "orders"}).err.find("Consul refuses the token (403") != std::string::npos;
  }));
  EXPECT_EQ(StatusOf(gateway.port()), 200);
  const auto metrics = Fetch(control.metrics_port(), "GET", "/metrics");
  ASSERT_TRUE(metrics.ok());
  EXPECT_THAT(metrics->body, HasSubstr("gateway_controlplane_consul_held 1"));
  EXPECT_THAT(metrics->body, HasSubstr("gateway_controlplane_consul_reachable 0"));
  EXPECT_THAT(control.process().output(), Not(HasSubstr(token->secret)));
}

}  // namespace
}  // namespace gateway::fixtures
