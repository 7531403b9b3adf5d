// Certificates in policy, from apply to the handshake: served by server name, presented to endpoints, and kept secret
// on the wire, on disk and in output.
#include "common/base/certificate.h"

#include <openssl/ssl.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/lab_ca.h"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/fixtures/tls_client.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string ReadAll(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

// A part of a key's text that is unique to it.
std::string HeartOf(const std::string& key_file) { return ReadAll(key_file).substr(60, 60); }

class PolicyCertificates : public ::testing::Test {
 protected:
  PolicyCertificates() : own_(ca_.Issue({.names = {"DNS:own.test"}, .common_name = "own"})) {}

  static std::string Document(std::string_view name, const LabCa::Files& files) {
    return Concat("kind: Certificate\nname: ", name, "\ncertificate: { file: \"", files.cert, "\" }\nkey: { file: \"",
                  files.key,
                  "\" }\n---\nkind: Route\nname: all\nmatch: { path: { prefix: / } }\nrespond: { body: hi }\n");
  }
  std::string Listener() const {
    return Concat("tls: { certificates: [{ cert: \"", own_.cert, "\", key: \"", own_.key, "\" }] }");
  }
  // The subject of the certificate served for `server_name`.
  static std::string Served(uint16_t port, const std::string& server_name) {
    const auto client = ConnectTls(port, {.server_name = server_name});
    if (!client.ok()) return client.status().ToString();
    return SubjectOf(X509Ptr(SSL_get1_peer_certificate(client->ssl())).get());
  }

  LabCa ca_;
  LabCa::Files own_;
};

TEST_F(PolicyCertificates, StapleTheirOcspResponseIfItIsGood) {
  const auto files = ca_.Issue({.names = {"DNS:shop.test"}, .common_name = "shop"});
  const std::string chain = ca_.directory().Write("chain.crt", ReadAll(files.cert) + ReadAll(ca_.file()));
  const auto policy = [&](const std::string& der) {
    return Concat("kind: Certificate\nname: shop\ncertificate: { file: \"", chain, "\" }\nkey: { file: \"", files.key,
                  "\" }\nocsp: { file: \"", ca_.directory().Write("shop.ocsp", der), "\" }\n");
  };
  ControlPlane control_plane;
  DataPlane data_plane({.control_planes = {control_plane.stream_port()}, .listener = Listener()});
  const auto stapled = [&]() -> std::string {
    const auto client = ConnectTls(data_plane.port(), {.server_name = "shop.test", .asks_ocsp = true});
    if (!client.ok()) return client.status().ToString();
    const unsigned char* response = nullptr;
    const long size = SSL_get_tlsext_status_ocsp_resp(client->ssl(), &response);
    return size <= 0 ? "" : std::string(reinterpret_cast<const char*>(response), static_cast<size_t>(size));
  };
  const std::string good = ca_.Ocsp(files.cert, {});
  Process::Result applied = control_plane.Apply(policy(good), {"--wait"});
  ASSERT_EQ(applied.exit.code, 0) << applied.err;
  EXPECT_EQ(stapled(), good);
  applied = control_plane.Apply(policy(ca_.Ocsp(files.cert, {.validity = std::chrono::hours(-1)})), {"--wait"});
  ASSERT_EQ(applied.exit.code, 0) << applied.err;
  EXPECT_THAT(applied.out + applied.err, HasSubstr("the OCSP response is not stapled: it expired on"));
  EXPECT_EQ(stapled(), "");
  EXPECT_EQ(Served(data_plane.port(), "shop.test"), "CN=shop");
  applied = control_plane.Apply(policy("nonsense"), {"--wait"});
  EXPECT_EQ(applied.exit.code, 3) << applied.out;
  EXPECT_THAT(applied.err, HasSubstr("ocsp"));
}

TEST_F(PolicyCertificates, AreServedByServerNameAndChangeUnderOpenConnections) {
  const auto before = ca_.Issue({.names = {"DNS:shop.test", "DNS:*.b.test"}, .common_name = "before"});
  const auto after = ca_.Issue({.names = {"DNS:shop.test"}, .common_name = "after"});
  ControlPlane control_plane;
  DataPlane data_plane({.control_planes = {control_plane.stream_port()}, .listener = Listener()});
  EXPECT_EQ(Served(data_plane.port(), "shop.test"), "CN=own") << "the first one, for unknown names";
  Process::Result applied = control_plane.Apply(Document("shop", before), {"--wait"});
  ASSERT_EQ(applied.exit.code, 0) << applied.err;
  EXPECT_THAT(applied.out + applied.err, HasSubstr("Certificate/shop: expires soon"));
  EXPECT_EQ(Served(data_plane.port(), "shop.test"), "CN=before");
  EXPECT_EQ(Served(data_plane.port(), "x.b.test"), "CN=before");
  EXPECT_EQ(Served(data_plane.port(), "own.test"), "CN=own");
  EXPECT_EQ(Served(data_plane.port(), ""), "CN=own");
  EXPECT_GT(data_plane.Metric(R"(gateway_certificate_expiry_timestamp_seconds{certificate="Certificate/shop"})"),
            1.7e9);

  auto kept = ConnectTls(data_plane.port(), {.server_name = "shop.test"});
  ASSERT_TRUE(kept.ok()) << kept.status();
  ASSERT_TRUE(kept->Request("GET", "/").ok());
  applied = control_plane.Apply(Document("shop", after), {"--wait"});
  ASSERT_EQ(applied.exit.code, 0) << applied.err;
  EXPECT_EQ(Served(data_plane.port(), "shop.test"), "CN=after");
  EXPECT_EQ(Served(data_plane.port(), "x.b.test"), "CN=own");
  const auto response = kept->Request("GET", "/");
  ASSERT_TRUE(response.ok()) << "a change closes no connection: " << response.status();
  EXPECT_EQ(response->status, 200);
  EXPECT_EQ(control_plane.Ctl({"delete", "certificate", "shop", "--yes"}).exit.code, 0);
  EXPECT_TRUE(WaitFor([&] { return Served(data_plane.port(), "shop.test") == "CN=own"; }));
}

TEST_F(PolicyCertificates, TellTheirKeyToNobody) {
  const auto site = ca_.Issue({.names = {"DNS:shop.test"}, .common_name = "site"});
  TempDir directory;
  const std::string database = directory.File("keys.db");
  ControlPlane control_plane({.sets = {"control_plane.database=" + database}});
  ASSERT_EQ(control_plane.Apply(Document("shop", site)).exit.code, 0);
  const std::string heart = HeartOf(site.key);
  const Process::Result got = control_plane.Ctl({"get", "certificate", "shop", "-o", "yaml"});
  EXPECT_THAT(got.out, HasSubstr("redacted:"));
  EXPECT_THAT(got.out, HasSubstr("BEGIN CERTIFICATE"));
  const std::string exported = directory.File("all.yaml");
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
           {"get", "certificate", "shop", "-o", "json"},
           {"get", "certificates"},
           {"describe", "certificate", "shop"},
           {"export"},
           {"history"},
           {"show", "2"},
           {"export", "--with-secrets", "--output-file", exported},
       }) {
    const Process::Result result = control_plane.Ctl(command);
    EXPECT_EQ(result.exit.code, 0) << command[0] << ": " << result.err;
    EXPECT_THAT(result.out + result.err, Not(HasSubstr("PRIVATE KEY"))) << command[0];
  }
  EXPECT_THAT(ReadAll(exported), Not(HasSubstr("PRIVATE KEY")));
  // Applying the output of `get` changes nothing.
  const Process::Result again = control_plane.Ctl({"apply", "-f", "-"}, got.out);
  EXPECT_EQ(again.exit.code, 0) << again.err;
  EXPECT_THAT(again.out, HasSubstr("unchanged"));
  EXPECT_THAT(control_plane.process().output(), Not(HasSubstr(heart)));

  struct stat there {};
  ASSERT_EQ(stat((database + ".sealing-key").c_str(), &there), 0);
  EXPECT_EQ(there.st_mode & 0777, 0600u);
  control_plane.Kill();
  for (const char* suffix : {"", "-wal"}) {
    EXPECT_THAT(ReadAll(database + suffix), Not(HasSubstr("PRIVATE KEY"))) << suffix;
    EXPECT_THAT(ReadAll(database + suffix), Not(HasSubstr(heart))) << suffix;
  }
  control_plane.Start();
  DataPlane data_plane({.control_planes = {control_plane.stream_port()}, .listener = Listener()});
  EXPECT_TRUE(WaitFor([&] { return Served(data_plane.port(), "shop.test") == "CN=site"; }));
  EXPECT_THAT(data_plane.process().output(), Not(HasSubstr(heart)));
}

TEST_F(PolicyCertificates, AreNotInACacheThatCannotSealThemAndComeBackWithTheControlPlane) {
  const auto site = ca_.Issue({.names = {"DNS:shop.test"}, .common_name = "site"});
  TempDir cache;
  ControlPlane control_plane;
  const auto start = [&] {
    return std::make_unique<DataPlane>(DataPlane::Options{
        .control_planes = {control_plane.stream_port()}, .cache_dir = cache.path(), .listener = Listener()});
  };
  auto data_plane = start();
  ASSERT_EQ(control_plane.Apply(Document("shop", site), {"--wait"}).exit.code, 0);
  EXPECT_EQ(Served(data_plane->port(), "shop.test"), "CN=site");
  const std::string file = cache.File("policy.cache");
  ASSERT_TRUE(WaitFor([&] { return ReadAll(file).find("BEGIN CERTIFICATE") != std::string::npos; }));
  data_plane.reset();
  EXPECT_THAT(ReadAll(file), Not(HasSubstr("PRIVATE KEY")));
  struct stat there {};
  ASSERT_EQ(stat(file.c_str(), &there), 0);
  EXPECT_EQ(there.st_mode & 0777, 0600u);

  control_plane.Kill();
  data_plane = start();
  EXPECT_EQ(Served(data_plane->port(), "shop.test"), "CN=own");
  EXPECT_TRUE(data_plane->process().WaitForLine("before a control plane has sent their keys").has_value());
  auto client = ConnectTls(data_plane->port());
  ASSERT_TRUE(client.ok());
  EXPECT_EQ(client->Request("GET", "/")->status, 200) << "everything else is served";
  control_plane.Start();
  EXPECT_TRUE(WaitFor([&] { return Served(data_plane->port(), "shop.test") == "CN=site"; }, Timeout(20'000)));
}

TEST_F(PolicyCertificates, AreSealedInTheCacheOfADataPlaneWithAKeyOfItsOwn) {
  const auto site = ca_.Issue({.names = {"DNS:shop.test"}, .common_name = "site"});
  const auto server = ca_.IssueFor({"DNS:controlplane", "IP:127.0.0.1"});
  const auto own = ca_.Issue({.names = {"DNS:dp-1"}, .file = "dp-1"});
  TempDir cache;
  ControlPlane control_plane(
      {.sets = {"control_plane.stream_tls.cert=" + server.cert, "control_plane.stream_tls.key=" + server.key,
                "control_plane.stream_tls.client_ca=" + ca_.file()}});
  const auto start = [&] {
    return std::make_unique<DataPlane>(DataPlane::Options{
        .control_planes = {control_plane.stream_port()},
        .sets = {"data_plane.tls.ca=" + ca_.file(), "data_plane.tls.cert=" + own.cert, "data_plane.tls.key=" + own.key},
        .cache_dir = cache.path(),
        .listener = Listener()});
  };
  auto data_plane = start();
  ASSERT_EQ(control_plane.Apply(Document("shop", site), {"--wait"}).exit.code, 0);
  EXPECT_EQ(Served(data_plane->port(), "shop.test"), "CN=site");
  const std::string file = cache.File("policy.cache");
  ASSERT_TRUE(WaitFor([&] { return ReadAll(file).find("sealed:1:") != std::string::npos; }));
  data_plane.reset();
  EXPECT_THAT(ReadAll(file), Not(HasSubstr("PRIVATE KEY")));

  control_plane.Kill();
  data_plane = start();
  EXPECT_EQ(Served(data_plane->port(), "shop.test"), "CN=site") << "without a control plane";
  data_plane.reset();
  // With another key nothing can be opened, but everything else still works.
  ca_.Issue({.names = {"DNS:dp-1"}, .file = "dp-1"});
  data_plane = start();
  EXPECT_EQ(Served(data_plane->port(), "shop.test"), "CN=own");
  control_plane.Start();
  EXPECT_TRUE(WaitFor([&] { return Served(data_plane->port(), "shop.test") == "CN=site"; }, Timeout(20'000)));
}

TEST_F(PolicyCertificates, AreCheckedAtApply) {
  const auto a = ca_.IssueFor({"DNS:a.test"});
  const auto b = ca_.IssueFor({"DNS:b.test"});
  ControlPlane control_plane;
  const Process::Result refused = control_plane.Apply(Document("a", {a.cert, b.key}));
  EXPECT_EQ(refused.exit.code, 3) << refused.err;
  EXPECT_THAT(refused.err + refused.out, HasSubstr("the private key is not that of the certificate"));
  EXPECT_THAT(refused.err + refused.out, Not(HasSubstr(HeartOf(b.key))));
}

TEST_F(PolicyCertificates, AreShownToEndpoints) {
  const auto service = ca_.IssueFor({"IP:127.0.0.1"});
  const auto client = ca_.Issue({.names = {"URI:spiffe://lab/gateway"}, .common_name = "gateway"});
  const ContextPtr context = ServerContext(service.cert, service.key, ca_.file());
  ScriptedUpstream upstream(Echo("svc"), ScriptedUpstream::Options{.tls = context.get()});
  const std::string ca = Concat("ca: { file: \"", ca_.file(), "\" }");
  const std::string certificate = Concat("kind: Certificate\nname: client\ncertificate: { file: \"", client.cert,
                                         "\" }\nkey: { file: \"", client.key, "\" }\n---\n");
  DataPlane without({.policy = ServicePolicyYaml({upstream.address()}, Concat("tls: { ", ca, " }\n"))});
  EXPECT_EQ(Fetch(without.port(), "GET", "/svc")->status, 502) << "the endpoint requires a certificate";
  DataPlane with({.policy = certificate + ServicePolicyYaml({upstream.address()},
                                                            Concat("tls: { ", ca, ", certificate: client }\n"))});
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Fetch(with.port(), "GET", "/svc")->status, 200);
}

}  // namespace
}  // namespace gateway::fixtures
