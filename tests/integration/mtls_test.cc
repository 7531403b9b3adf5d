// TLS between the three programs, with certificates from `gatewayctl pki`: who may connect, under which name, and what
// happens when certificates change under running processes.
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

constexpr char kPolicy[] =
    "kind: Route\nname: hello\nmatch: { path: { exact: /hello } }\nrespond: { status: 200, body: hi }\n";

Process::Result Ctl(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), BinaryPath("gatewayctl"));
  return Process::Run(Process::Options{.argv = std::move(arguments)});
}

// A lab CA that issues certificates on demand.
class Pki {
 public:
  explicit Pki(const std::string& directory) : directory_(directory) {
    EXPECT_EQ(Ctl({"pki", "init", directory_}).exit.code, 0);
  }
  void Issue(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"pki", "issue", directory_});
    const Process::Result result = Ctl(arguments);
    EXPECT_EQ(result.exit.code, 0) << result.err;
  }
  std::string File(const std::string& name) const { return directory_ + "/" + name; }

 private:
  const std::string directory_;
};

class Mtls : public ::testing::Test {
 protected:
  Mtls() {
    pki_.Issue({"--server", "controlplane,127.0.0.1"});
    pki_.Issue({"--operator", "ops"});
    for (const char* name : {"dp-1", "dp-2"}) pki_.Issue({"--data-plane", name});
  }

  ControlPlane StartControlPlane() {
    ControlPlane::Options options;
    for (const std::string section : {"control_plane.admin_tls", "control_plane.stream_tls"}) {
      options.sets.push_back(section + ".cert=" + pki_.File("controlplane.crt"));
      options.sets.push_back(section + ".key=" + pki_.File("controlplane.key"));
      options.sets.push_back(section + ".client_ca=" + pki_.File("ca.crt"));
    }
    options.ctl = {"--ca", pki_.File("ca.crt"), "--cert", pki_.File("ops.crt"), "--key", pki_.File("ops.key")};
    return ControlPlane(std::move(options));
  }
  std::vector<std::string> Tls(const std::string& certificate) const {
    return {"data_plane.tls.ca=" + pki_.File("ca.crt"), "data_plane.tls.cert=" + pki_.File(certificate + ".crt"),
            "data_plane.tls.key=" + pki_.File(certificate + ".key")};
  }
  // Copies the certificate of `from` over that of `to`, as a rotation does: the key first.
  void Replace(const std::string& from, const std::string& to, const char* suffix) const {
    std::filesystem::copy_file(pki_.File(from + suffix), pki_.File("next"));
    std::filesystem::rename(pki_.File("next"), pki_.File(to + suffix));
  }

  TempDir directory_;
  Pki pki_{directory_.File("pki")};
};

TEST_F(Mtls, KeysOfTheLabsAuthorityAreNobodyElses) {
  for (const char* name : {"ca.key", "controlplane.key", "dp-1.key"}) {
    struct stat there {};
    ASSERT_EQ(stat(pki_.File(name).c_str(), &there), 0) << name;
    EXPECT_EQ(there.st_mode & 0777, 0600u) << name;
  }
  const Process::Result again = Ctl({"pki", "init", directory_.File("pki")});
  EXPECT_EQ(again.exit.code, 5) << again.err;
  EXPECT_EQ(Ctl({"pki", "issue", directory_.File("nowhere"), "--data-plane", "x"}).exit.code, 4);
  EXPECT_EQ(Ctl({"pki", "issue", directory_.File("pki")}).exit.code, 2);
}

TEST_F(Mtls, AFleetServesWithTlsThroughout) {
  ControlPlane control_plane = StartControlPlane();
  DataPlane data_plane({.control_planes = {control_plane.stream_port()}, .name = "dp-1", .sets = Tls("dp-1")});
  const Process::Result applied = control_plane.Apply(kPolicy, {"--wait"});
  ASSERT_EQ(applied.exit.code, 0) << applied.err;
  const auto answer = Fetch(data_plane.port(), "GET", "/hello");
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(answer->body, "hi");
  EXPECT_THAT(control_plane.Ctl({"dataplanes", "-o", "name"}).out, HasSubstr("dp-1\n"));
}

TEST_F(Mtls, ADataPlaneWithoutANameIsCalledAsItsCertificateSays) {
  ControlPlane control_plane = StartControlPlane();
  DataPlane data_plane({.control_planes = {control_plane.stream_port()}, .name = "\"\"", .sets = Tls("dp-2")});
  EXPECT_EQ(control_plane.Ctl({"dataplanes", "-o", "name"}).out, "dp-2\n");
}

TEST_F(Mtls, NobodyClaimsAnothersName) {
  ControlPlane control_plane = StartControlPlane();
  DataPlane liar(
      {.control_planes = {control_plane.stream_port()}, .name = "dp-1", .sets = Tls("dp-2"), .wait_ready = false});
  const char* const told = "calls itself 'dp-1', but its certificate is for dp-2";
  EXPECT_TRUE(liar.process().WaitForLine(told).has_value()) << liar.process().output();
  EXPECT_TRUE(control_plane.process().WaitForLine(told).has_value()) << control_plane.process().output();
  EXPECT_EQ(control_plane.Ctl({"dataplanes", "-o", "name"}).out, "");
}

TEST_F(Mtls, WithoutACertificateOfTheAuthorityNobodyConnects) {
  ControlPlane control_plane = StartControlPlane();
  Pki other(directory_.File("other"));
  other.Issue({"--data-plane", "dp-1"});
  DataPlane stranger(
      {.control_planes = {control_plane.stream_port()},
       .name = "dp-1",
       .sets = {"data_plane.tls.ca=" + pki_.File("ca.crt"), "data_plane.tls.cert=" + other.File("dp-1.crt"),
                "data_plane.tls.key=" + other.File("dp-1.key")},
       .wait_ready = false});
  DataPlane cleartext({.control_planes = {control_plane.stream_port()}, .name = "dp-2", .wait_ready = false});
  for (DataPlane* each : {&stranger, &cleartext}) {
    EXPECT_TRUE(each->process().WaitForLine("no stream from the control plane").has_value());
  }
  // A data plane that does not trust the control plane logs why.
  DataPlane suspicious(
      {.control_planes = {control_plane.stream_port()},
       .name = "dp-1",
       .sets = {"data_plane.tls.ca=" + other.File("ca.crt"), "data_plane.tls.cert=" + pki_.File("dp-1.crt"),
                "data_plane.tls.key=" + pki_.File("dp-1.key")},
       .wait_ready = false});
  EXPECT_TRUE(suspicious.process().WaitForLine("no stream from the control plane").has_value());
  EXPECT_THAT(suspicious.process().output(),
              AnyOf(HasSubstr("certificate verify failed"), HasSubstr("andshake failed")));
  EXPECT_EQ(control_plane.Ctl({"dataplanes", "-o", "name"}).out, "");
}

TEST_F(Mtls, WithoutAClientCaOperatorsNeedTokens) {
  const std::string database = directory_.File("gateway.db");
  ControlPlane::Options options;
  options.sets = {"control_plane.database=" + database, "control_plane.admin_tls.cert=" + pki_.File("controlplane.crt"),
                  "control_plane.admin_tls.key=" + pki_.File("controlplane.key")};
  options.ctl = {"--ca", pki_.File("ca.crt"), "--token-file", database + ".admin-token"};
  ControlPlane control_plane(std::move(options));
  EXPECT_EQ(control_plane.Ctl({"dataplanes"}).exit.code, 0);
  const auto with = [&](std::vector<std::string> credential) {
    credential.insert(credential.begin(), {"--server", Concat("127.0.0.1:", control_plane.admin_port()), "--ca",
                                           pki_.File("ca.crt"), "dataplanes"});
    return Ctl(std::move(credential)).exit.code;
  };
  EXPECT_EQ(with({}), 8);
  EXPECT_EQ(with({"--cert", pki_.File("ops.crt"), "--key", pki_.File("ops.key")}), 8) << "it is not asked for";
}

TEST_F(Mtls, ATokenIsAsGoodAsACertificateAndNothingIsNoCredential) {
  ControlPlane control_plane = StartControlPlane();
  const std::string server = Concat("127.0.0.1:", control_plane.admin_port());
  const auto run = [&](std::vector<std::string> arguments, std::vector<std::pair<std::string, std::string>> env = {}) {
    arguments.insert(arguments.begin(), {BinaryPath("gatewayctl"), "--server", server, "--ca", pki_.File("ca.crt")});
    return Process::Run(Process::Options{.argv = std::move(arguments), .env = std::move(env)});
  };
  const Process::Result nobody = run({"get", "routes"});
  EXPECT_EQ(nobody.exit.code, 8);
  EXPECT_THAT(nobody.err, HasSubstr("no credential"));

  const Process::Result created =
      control_plane.Ctl({"token", "create", "reader", "--role", "viewer", "--expires", "30d"});
  ASSERT_EQ(created.exit.code, 0) << created.err;
  const std::string file = directory_.Write("reader.token", created.out);
  EXPECT_EQ(run({"--token-file", file, "get", "routes"}).exit.code, 0);
  const std::string secret = created.out.substr(0, created.out.size() - 1);
  EXPECT_EQ(run({"get", "routes"}, {{"GATEWAY_TOKEN", secret}}).exit.code, 0);
  const Process::Result denied = run({"--token-file", file, "delete", "route", "x"});
  EXPECT_EQ(denied.exit.code, 8);
  EXPECT_THAT(denied.err, HasSubstr("'reader' has the role viewer; Delete needs editor or above"));
  EXPECT_EQ(control_plane.Ctl({"token", "revoke", "reader"}).exit.code, 0);
  EXPECT_EQ(run({"--token-file", file, "get", "routes"}).exit.code, 8);

  const Process::Result audit = control_plane.Ctl({"audit", "--since", "1h", "--actor", "reader"});
  EXPECT_THAT(audit.out, HasSubstr("Delete"));
  EXPECT_THAT(control_plane.Ctl({"audit", "--actor", "ops"}).out, HasSubstr("created token reader, viewer"));
  EXPECT_EQ(control_plane.Ctl({"token", "list"}).out.find(secret), std::string::npos);
}

TEST_F(Mtls, ACertificateCarriesTheOperatorsRole) {
  ControlPlane control_plane = StartControlPlane();
  const std::string server = Concat("127.0.0.1:", control_plane.admin_port());
  const auto as = [&](const std::string& name, std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"--server", server, "--ca", pki_.File("ca.crt"), "--cert",
                                         pki_.File(name + ".crt"), "--key", pki_.File(name + ".key")});
    return Ctl(arguments);
  };
  pki_.Issue({"--operator", "eve", "--role", "viewer"});
  EXPECT_EQ(as("eve", {"get", "routes"}).exit.code, 0);
  EXPECT_EQ(as("eve", {"delete", "route", "x"}).exit.code, 8);
  // A name that stands for the control plane itself in history and audit.
  pki_.Issue({"--operator", "acme", "--role", "admin"});
  const Process::Result own = as("acme", {"get", "routes"});
  EXPECT_EQ(own.exit.code, 8);
  EXPECT_THAT(own.err, HasSubstr("is for 'acme', which is the control plane itself"));
  // A data plane's certificate has the same CA, but is not an operator's.
  const Process::Result data_plane = as("dp-1", {"get", "routes"});
  EXPECT_EQ(data_plane.exit.code, 8);
  EXPECT_THAT(data_plane.err, HasSubstr("is for a 'data-plane'"));
  // An operator's certificate is not a data plane's.
  DataPlane liar(
      {.control_planes = {control_plane.stream_port()}, .name = "eve", .sets = Tls("eve"), .wait_ready = false});
  EXPECT_TRUE(liar.process().WaitForLine("its certificate is for nobody").has_value()) << liar.process().output();
}

TEST_F(Mtls, CertificatesChangeUnderOpenStreams) {
  ControlPlane control_plane = StartControlPlane();
  DataPlane data_plane({.control_planes = {control_plane.stream_port()}, .name = "dp-1", .sets = Tls("dp-1")});
  const auto since = [&control_plane] {
    const auto state = nlohmann::json::parse(control_plane.Ctl({"dataplanes", "-o", "json"}).out);
    return state["items"][0]["since"].get<std::string>();
  };
  const std::string connected_at = since();

  // Half of a new pair: reported, and the old pair stays in use.
  pki_.Issue({"--server", "second,127.0.0.1"});
  Replace("second", "controlplane", ".key");
  control_plane.process().Signal(SIGHUP);
  EXPECT_TRUE(control_plane.process().WaitForLine("is not the key of the certificate in").has_value());
  EXPECT_EQ(control_plane.Ctl({"version"}).exit.code, 0);

  Replace("second", "controlplane", ".crt");
  control_plane.process().Signal(SIGHUP);
  EXPECT_TRUE(control_plane.process().WaitForLine("control_plane.stream_tls: a new certificate is in use").has_value());
  // Only the new certificate has this name.
  std::vector<std::string> named = Tls("dp-2");
  named.push_back("data_plane.tls.server_name=second");
  DataPlane newcomer({.control_planes = {control_plane.stream_port()}, .name = "dp-2", .sets = named});
  EXPECT_EQ(since(), connected_at) << "the stream was dropped";
  const Process::Result applied = control_plane.Apply(kPolicy, {"--wait"});
  EXPECT_EQ(applied.exit.code, 0) << applied.err;
}

TEST_F(Mtls, ADataPlaneTakesItsNewCertificateWithTheNextConnection) {
  ControlPlane control_plane = StartControlPlane();
  DataPlane data_plane({.control_planes = {control_plane.stream_port()}, .name = "dp-1", .sets = Tls("dp-1")});
  // From now on the files hold dp-2's certificate: a process that uses them is not dp-1.
  Replace("dp-2", "dp-1", ".key");
  Replace("dp-2", "dp-1", ".crt");
  control_plane.Kill();
  control_plane.Start();
  EXPECT_TRUE(data_plane.process().WaitForLine("calls itself 'dp-1', but its certificate is for dp-2").has_value())
      << data_plane.process().output();
}

TEST_F(Mtls, AnUnusableCertificateIsReportedAtTheStart) {
  pki_.Issue({"--server", "brief", "--expires", "1ms"});
  const Process::Result result = Process::Run(Process::Options{
      .argv = {BinaryPath("gateway-controlplane"), "--set", "control_plane.database=" + directory_.File("x.db"),
               "--set", "control_plane.admin_listen=127.0.0.1:0", "--set", "control_plane.stream_listen=127.0.0.1:0",
               "--set", "control_plane.metrics_port=0", "--set", "consul.address=", "--set",
               "control_plane.admin_tls.cert=" + pki_.File("brief.crt"), "--set",
               "control_plane.admin_tls.key=" + pki_.File("brief.key")}});
  EXPECT_EQ(result.exit.code, 1);
  EXPECT_THAT(result.err, HasSubstr("control_plane.admin_tls: "));
  EXPECT_THAT(result.err, HasSubstr("brief.crt: the certificate expired at"));
}

TEST_F(Mtls, CheckConfigReadsTheControlPlanesCertificates) {
  const auto check = [this](const std::string& cert, const std::string& key) {
    return Process::Run(Process::Options{.argv = {BinaryPath("gateway-controlplane"), "--check-config", "--set",
                                                  "control_plane.stream_tls.cert=" + cert, "--set",
                                                  "control_plane.stream_tls.key=" + key, "--set",
                                                  "control_plane.stream_tls.client_ca=" + pki_.File("ca.crt"), "--set",
                                                  "control_plane.join.ca_cert=" + pki_.File("ca.crt"), "--set",
                                                  "control_plane.join.ca_key=" + pki_.File("ca.key")}});
  };
  const Process::Result good = check(pki_.File("controlplane.crt"), pki_.File("controlplane.key"));
  EXPECT_EQ(good.exit.code, 0) << good.err;
  const Process::Result missing = check(pki_.File("nowhere.crt"), pki_.File("controlplane.key"));
  EXPECT_EQ(missing.exit.code, 1);
  EXPECT_THAT(missing.err, HasSubstr("control_plane.stream_tls: "));
  EXPECT_THAT(missing.err, HasSubstr("nowhere.crt: cannot be read"));
  std::filesystem::copy_file(pki_.File("dp-1.key"), pki_.File("ca.key"),
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(check(pki_.File("controlplane.crt"), pki_.File("controlplane.key")).err,
              HasSubstr("control_plane.join: "));
}

}  // namespace
}  // namespace gateway::fixtures
