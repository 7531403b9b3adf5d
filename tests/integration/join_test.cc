// Data planes that join with a token: from nothing to serving, renewal under an open stream, and what a token is not
// good for. `gatewayctl pki` makes the CAs.
#include <sys/stat.h>

#include <filesystem>

#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr char kPolicy[] =
    "kind: Route\nname: hello\nmatch: { path: { exact: /hello } }\nrespond: { status: 200, body: hi }\n";

constexpr Timeout kRenewed{30'000};

class Join : public ::testing::Test {
 protected:
  Join() {
    Pki({"init", File("pki")});
    Pki({"init", File("join")});
    Pki({"issue", File("pki"), "--server", "controlplane,127.0.0.1"});
    directory_.Write("cas.crt", directory_.Read("pki/ca.crt") + directory_.Read("join/ca.crt"));
  }
  std::string File(const std::string& name) const { return directory_.File(name); }
  void Pki(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {BinaryPath("gatewayctl"), "pki"});
    const Process::Result result = Process::Run(Process::Options{.argv = std::move(arguments)});
    ASSERT_EQ(result.exit.code, 0) << result.err;
  }
  ControlPlane StartControlPlane() {
    return ControlPlane({.sets = {"control_plane.stream_tls.cert=" + File("pki/controlplane.crt"),
                                  "control_plane.stream_tls.key=" + File("pki/controlplane.key"),
                                  "control_plane.stream_tls.client_ca=" + File("cas.crt"),
                                  "control_plane.join.ca_cert=" + File("join/ca.crt"),
                                  "control_plane.join.ca_key=" + File("join/ca.key")}});
  }
  // Writes the token into NAME.token.
  void MakeToken(ControlPlane& control_plane, const std::string& name) {
    const Process::Result made = control_plane.Ctl({"join-token", name, "--expires", "10m"});
    ASSERT_EQ(made.exit.code, 0) << made.err;
    EXPECT_THAT(made.out, StartsWith("gwj_"));
    directory_.Write(name + ".token", made.out);
  }
  DataPlane::Options Joining(ControlPlane& control_plane, const std::string& name, const std::string& token) {
    return {.control_planes = {control_plane.stream_port()},
            .name = name,
            .sets = {"data_plane.tls.ca=" + File("pki/ca.crt"), "data_plane.tls.cert=" + File(name + ".crt"),
                     "data_plane.tls.key=" + File(name + ".key"), "data_plane.tls.join_token_file=" + File(token)}};
  }

  TempDir directory_;
};

TEST_F(Join, ATokenBringsANewDataPlaneIntoService) {
  ControlPlane control_plane = StartControlPlane();
  control_plane.Apply(kPolicy);
  MakeToken(control_plane, "dp-7");
  {
    DataPlane data_plane(Joining(control_plane, "dp-7", "dp-7.token"));
    const auto response = Fetch(data_plane.port(), "GET", "/hello");
    ASSERT_TRUE(response.ok());
    EXPECT_EQ(response->body, "hi");
    EXPECT_EQ(control_plane.Ctl({"dataplanes", "-o", "name"}).out, "dp-7\n");
    for (const char* file : {"dp-7.key", "dp-7.crt"}) {
      struct stat there {};
      ASSERT_EQ(stat(File(file).c_str(), &there), 0) << file;
      EXPECT_EQ(there.st_mode & 0777, 0600u) << file;
    }
    EXPECT_THAT(data_plane.process().output(), Not(HasSubstr("gwj_")));
  }
  const std::string certificate = directory_.Read("dp-7.crt");
  // A restart needs no token.
  directory_.Write("dp-7.token", "");
  DataPlane again(Joining(control_plane, "dp-7", "dp-7.token"));
  EXPECT_EQ(directory_.Read("dp-7.crt"), certificate);
  const Process::Result audit = control_plane.Ctl({"audit"});
  EXPECT_THAT(audit.out, HasSubstr("created a join token for data plane 'dp-7'"));
  EXPECT_THAT(audit.out, HasSubstr("issued a certificate for data plane 'dp-7'"));
}

TEST_F(Join, ATokenServesOneDataPlaneOfItsOwnName) {
  ControlPlane control_plane = StartControlPlane();
  control_plane.Apply(kPolicy);
  MakeToken(control_plane, "dp-7");
  MakeToken(control_plane, "dp-8");
  DataPlane first(Joining(control_plane, "dp-7", "dp-7.token"));
  // A thief of the token, with a key of its own.
  DataPlane::Options options = Joining(control_plane, "dp-9", "dp-7.token");
  options.wait_ready = false;
  DataPlane thief(options);
  EXPECT_TRUE(thief.process().WaitForLine("the join token is spent").has_value()) << thief.process().output();
  // A good token for another name.
  options = Joining(control_plane, "dp-10", "dp-8.token");
  options.wait_ready = false;
  DataPlane liar(options);
  EXPECT_TRUE(liar.process().WaitForLine("calls itself 'dp-10', but its certificate is for dp-8").has_value())
      << liar.process().output();
  EXPECT_EQ(control_plane.Ctl({"dataplanes", "-o", "name"}).out, "dp-7\n");
  EXPECT_THAT(control_plane.Ctl({"audit"}).out, HasSubstr("the join token is spent"));
}

TEST_F(Join, ACertificateIsRenewedUnderTheOpenStream) {
  ControlPlane control_plane = StartControlPlane();
  control_plane.Apply(kPolicy);
  // As if it had joined a while ago: 12 s of life are left, of which 4 s are not used.
  Pki({"issue", File("join"), "--data-plane", "dp-7", "--expires", "12s"});
  for (const char* suffix : {".crt", ".key"}) {
    std::filesystem::rename(File(std::string("join/dp-7") + suffix), File(std::string("dp-7") + suffix));
  }
  const std::string certificate = directory_.Read("dp-7.crt"), key = directory_.Read("dp-7.key");
  DataPlane data_plane(Joining(control_plane, "dp-7", "no.token"));
  const auto since = [&control_plane] {
    const auto state = nlohmann::json::parse(control_plane.Ctl({"dataplanes", "-o", "json"}).out);
    return state["items"][0]["since"].get<std::string>();
  };
  const std::string connected_at = since();
  EXPECT_TRUE(data_plane.process().WaitForLine("join: renewed by the control plane", kRenewed).has_value())
      << data_plane.process().output();
  EXPECT_NE(directory_.Read("dp-7.crt"), certificate);
  EXPECT_EQ(directory_.Read("dp-7.key"), key) << "the cache is sealed under it";
  EXPECT_EQ(since(), connected_at) << "the stream was dropped";
  // The next connection is made with it.
  control_plane.Kill();
  control_plane.Start();
  EXPECT_TRUE(WaitFor([&] { return control_plane.Ctl({"dataplanes", "-o", "name"}).out == "dp-7\n"; }));
  EXPECT_EQ(control_plane.Apply(kPolicy, {"--wait"}).exit.code, 0);
}

// Until it has joined, it says so and tries again; a control plane that comes up later takes it.
TEST_F(Join, ADataPlaneWaitsForItsControlPlane) {
  ControlPlane control_plane = StartControlPlane();
  control_plane.Apply(kPolicy);
  MakeToken(control_plane, "dp-7");
  control_plane.Kill();
  DataPlane::Options options = Joining(control_plane, "dp-7", "dp-7.token");
  options.wait_ready = false;
  DataPlane data_plane(options);
  EXPECT_TRUE(data_plane.process().WaitForLine("join: no certificate for this data plane").has_value())
      << data_plane.process().output();
  const auto before = Fetch(data_plane.port(), "GET", "/hello");
  ASSERT_TRUE(before.ok()) << "it listens";
  EXPECT_EQ(before->status, 503);
  control_plane.Start();
  EXPECT_TRUE(WaitFor([&] {
    const auto response = Fetch(data_plane.port(), "GET", "/hello");
    return response.ok() && response->status == 200;
  }));
}

TEST_F(Join, AControlPlaneWithoutACaMakesNoTokens) {
  ControlPlane control_plane;
  const Process::Result refused = control_plane.Ctl({"join-token", "dp-7"});
  EXPECT_EQ(refused.exit.code, 1);
  EXPECT_THAT(refused.err, HasSubstr("control_plane.join.ca_cert"));
}

}  // namespace
}  // namespace gateway::fixtures
