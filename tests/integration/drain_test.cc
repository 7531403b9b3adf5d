// A data plane that an operator takes out of the load and back in, with the programs as they run.
#include <memory>
#include <string>
#include <utility>

#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/http2_client.h"
#include "tests/fixtures/raw_client.h"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

using ::testing::HasSubstr;

class Drain : public ::testing::Test {
 protected:
  Drain() : upstream_(Ok("hello")) {
    control_.Apply(ServicePolicyYaml({upstream_.address()}));
    StartDataPlane();
  }
  void StartDataPlane() {
    DataPlane::Options options;
    options.control_planes = {control_.stream_port()};
    options.workers = 1;
    options.listener = "protocols: [h2, http/1.1]";
    gateway_ = std::make_unique<DataPlane>(std::move(options));
  }
  std::string Ready() {
    const auto ready = Fetch(gateway_->metrics_port(), "GET", "/ready");
    return ready.ok() ? Concat(ready->status, " ", ready->body) : "";
  }
  bool IsDrained() { return Ready() == "503 {\"status\": \"draining\"}\n"; }
  bool IsReady() { return Ready() == "200 {\"status\": \"ready\"}\n"; }

  ScriptedUpstream upstream_;
  ControlPlane control_;
  std::unique_ptr<DataPlane> gateway_;
};

TEST_F(Drain, IsNotReadyServesEveryRequestAndEndsItsConnections) {
  const auto before = Http2Client::To(gateway_->port());
  EXPECT_EQ(before->Fetch({.path = "/svc"}).status, 200);
  const auto drained = control_.Ctl({"drain", "dp-1", "--comment", "kernel update"});
  ASSERT_EQ(drained.exit.code, 0) << drained.err;
  ASSERT_TRUE(WaitFor([&] { return IsDrained(); })) << Ready();
  EXPECT_TRUE(before->Await([&] { return before->goaway().has_value(); }));

  const auto over_http1 = Fetch(gateway_->port(), "GET", "/svc");
  ASSERT_TRUE(over_http1.ok()) << over_http1.status();
  EXPECT_EQ(over_http1->status, 200);
  EXPECT_EQ(over_http1->Field("Connection"), "close");
  const auto after = Http2Client::To(gateway_->port());
  EXPECT_EQ(after->Fetch({.path = "/svc"}).status, 200);
  EXPECT_TRUE(after->Await([&] { return after->goaway().has_value(); }));
  EXPECT_EQ(gateway_->Metric("gateway_drained"), 1);
  EXPECT_TRUE(WaitFor([&] { return control_.Ctl({"dataplanes"}).out.find("connected, drained") != std::string::npos; }))
      << control_.Ctl({"dataplanes"}).out;
  EXPECT_THAT(control_.Ctl({"describe", "dataplane", "dp-1"}).out, HasSubstr("(kernel update)"));

  ASSERT_EQ(control_.Ctl({"undrain", "dp-1"}).exit.code, 0);
  ASSERT_TRUE(WaitFor([&] { return IsReady(); })) << Ready();
  const auto back = Fetch(gateway_->port(), "GET", "/svc");
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_NE(back->Field("Connection"), "close");
}

TEST_F(Drain, OutlivesTheControlPlaneAndTheDataPlane) {
  ASSERT_EQ(control_.Ctl({"drain", "dp-1"}).exit.code, 0);
  ASSERT_TRUE(WaitFor([&] { return IsDrained(); }));
  control_.Kill();
  EXPECT_TRUE(IsDrained());
  control_.Start();
  gateway_.reset();
  DataPlane::Options options;
  options.control_planes = {control_.stream_port()};
  options.wait_ready = false;
  gateway_ = std::make_unique<DataPlane>(std::move(options));
  EXPECT_TRUE(WaitFor([&] { return IsDrained(); })) << Ready();
  ASSERT_EQ(control_.Ctl({"undrain", "dp-1"}).exit.code, 0);
  EXPECT_TRUE(WaitFor([&] { return IsReady(); })) << Ready();
}

}  // namespace
}  // namespace gateway::fixtures
