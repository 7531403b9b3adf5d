// Certificates by ACME, against a real CA (pebble): the control plane orders, data planes respond to its challenges.
// Pebble refuses a third of all nonces.
#include <openssl/ssl.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "common/base/certificate.h"
#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/lab_ca.h"
#include "tests/fixtures/pebble.h"
#include "tests/fixtures/ports.h"
#include "tests/fixtures/raw_client.h"
#include "tests/fixtures/tls_client.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr Timeout kIssued{60'000};

class CertificateAcme : public ::testing::Test {
 protected:
  CertificateAcme() : own_(ca_.Issue({.names = {"DNS:own.test"}, .common_name = "own"})) {
    const std::vector<uint16_t> ports = FreePorts(2);
    plain_ = ports[0];
    secure_ = ports[1];
  }

  // Skips the test if pebble is not available.
  void StartCa(std::chrono::seconds validity = std::chrono::hours(1)) {
    auto started = Pebble::Start({.http_port = plain_, .tls_port = secure_, .validity = validity});
    if (absl::IsNotFound(started.status())) GTEST_SKIP() << started.status().message();
    ASSERT_TRUE(started.ok()) << started.status();
    pebble_ = *std::move(started);
  }
  // One data plane with a listener in cleartext, where the CA asks for http-01, and one with TLS.
  std::unique_ptr<DataPlane> ServePlain(const std::string& name = "plain") {
    return std::make_unique<DataPlane>(DataPlane::Options{
        .control_planes = {control_plane_.stream_port()}, .name = name, .wait_ready = false, .port = plain_});
  }
  std::unique_ptr<DataPlane> ServeTls(const std::string& more = "", const std::string& cache = "") {
    return std::make_unique<DataPlane>(DataPlane::Options{
        .control_planes = {control_plane_.stream_port()},
        .name = "secure",
        .cache_dir = cache,
        .listener = Concat("tls: { certificates: [{ cert: \"", own_.cert, "\", key: \"", own_.key, "\" }]", more, " }"),
        .wait_ready = false,
        .port = secure_});
  }
  std::string Document(const std::string& hosts, const std::string& challenge, const std::string& email = "") const {
    return Concat("kind: Certificate\nname: shop\nacme:\n  hosts: [", hosts, "]\n  directory: \"", pebble_->directory(),
                  "\"\n  challenge: ", challenge, "\n  ca: { file: \"", pebble_->ca(), "\" }\n",
                  email.empty() ? "" : Concat("  email: ", email, "\n"),
                  "---\nkind: Route\nname: all\nmatch: { path: { prefix: / } }\nrespond: { body: hi }\n");
  }
  // The leaf that a client asking for `server_name` gets; "" without a connection.
  std::string Served(const std::string& server_name = "shop.test") {
    const auto client = ConnectTls(secure_, {.server_name = server_name});
    if (!client.ok()) return "";
    const X509Ptr leaf(SSL_get1_peer_certificate(client->ssl()));
    const AlternativeNames names = AlternativeNamesOf(leaf.get());
    return Concat(names.dns.empty() ? "" : names.dns[0], " ", FingerprintOf(leaf.get()));
  }
  bool IsServed(const std::string& name = "shop.test") { return Served(name).starts_with(Concat(name, " ")); }
  std::string Describe() { return control_plane_.Ctl({"describe", "certificate", "shop"}).out; }
  double Metric(const std::string& series) {
    const auto page = Fetch(control_plane_.metrics_port(), "GET", "/metrics");
    if (!page.ok()) return -1;
    const size_t at = page->body.find(series + " ");
    return at == std::string::npos ? -1 : std::stod(page->body.substr(at + series.size() + 1));
  }

  LabCa ca_;
  LabCa::Files own_;
  uint16_t plain_ = 0, secure_ = 0;
  ControlPlane control_plane_;
  std::unique_ptr<Pebble> pebble_;
};

TEST_F(CertificateAcme, IsIssuedByHttp01AndServedByEveryDataPlane) {
  StartCa();
  if (pebble_ == nullptr) return;
  const auto plain = ServePlain();
  const auto secure = ServeTls();
  const Process::Result applied = control_plane_.Apply(Document("shop.test, www.shop.test", "http-01"), {"--wait"});
  ASSERT_EQ(applied.exit.code, 0) << applied.err;
  EXPECT_THAT(applied.out + applied.err, HasSubstr("no certificate is issued yet"));
  ASSERT_TRUE(WaitFor([&] { return IsServed(); }, kIssued))
      << control_plane_.process().output() << pebble_->output() << plain->process().output();
  EXPECT_TRUE(IsServed("shop.test"));
  EXPECT_THAT(Served("www.shop.test"), Not(HasSubstr("own.test")));
  const std::string described = Describe();
  EXPECT_THAT(described, HasSubstr("valid until"));
  EXPECT_THAT(described, HasSubstr("Renewal"));
  EXPECT_THAT(described, Not(HasSubstr("PRIVATE KEY")));
  EXPECT_THAT(control_plane_.Ctl({"get", "certificates"}).out, HasSubstr("RENEWAL"));
  EXPECT_THAT(control_plane_.Ctl({"history"}).out, HasSubstr("acme"));
  EXPECT_GE(Metric("gateway_controlplane_acme_orders_total{result=\"issued\"}"), 1);
  EXPECT_GT(Metric("gateway_controlplane_acme_expiry_timestamp_seconds{certificate=\"shop\"}"), 1.7e9);
  // No challenge is pending: routes decide again.
  const auto response = Fetch(plain_, "GET", "/.well-known/acme-challenge/token", "Host: shop.test\r\n");
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->body, "hi");
  // The document is as the server has it.
  const Process::Result diff = control_plane_.Ctl({"diff", "-f", "-"}, Document("shop.test, www.shop.test", "http-01"));
  EXPECT_EQ(diff.exit.code, 0) << diff.err;
  EXPECT_EQ(diff.out, "");
  EXPECT_EQ(control_plane_.Apply(Document("shop.test, www.shop.test", "http-01")).exit.code, 0);
  EXPECT_TRUE(IsServed());
}

TEST_F(CertificateAcme, IsIssuedByTlsAlpn01AlsoWhereClientsNeedCertificates) {
  StartCa();
  if (pebble_ == nullptr) return;
  const auto secure = ServeTls(Concat(", client_certificate: required, client_ca: \"", ca_.file(), "\""));
  ASSERT_EQ(control_plane_.Apply(Document("shop.test", "tls-alpn-01")).exit.code, 0);
  const LabCa::Files client = ca_.Issue({.names = {"DNS:client.test"}});
  const auto served = [&] {
    const auto connected = ConnectTls(secure_, {.server_name = "shop.test", .cert = client.cert, .key = client.key});
    if (!connected.ok()) return false;
    const X509Ptr leaf(SSL_get1_peer_certificate(connected->ssl()));
    const AlternativeNames names = AlternativeNamesOf(leaf.get());
    return !names.dns.empty() && names.dns[0] == "shop.test";
  };
  ASSERT_TRUE(WaitFor(served, kIssued)) << control_plane_.process().output() << secure->process().output();
  // Once nothing is pending, that protocol is not spoken.
  EXPECT_FALSE(ConnectTls(secure_, {.server_name = "shop.test", .protocols = {"acme-tls/1"}}).ok());
}

TEST_F(CertificateAcme, AChallengeThatFailsIsToldInTheCasWordsAndAChangeTriesAgainAtOnce) {
  StartCa();
  if (pebble_ == nullptr) return;
  const auto secure = ServeTls();  // nothing listens where http-01 asks
  ASSERT_EQ(control_plane_.Apply(Document("shop.test", "http-01")).exit.code, 0);
  ASSERT_TRUE(WaitFor([&] { return Describe().find("Last error") != std::string::npos; }, kIssued))
      << control_plane_.process().output();
  const std::string described = Describe();
  EXPECT_THAT(described, HasSubstr("not issued yet"));
  EXPECT_THAT(described, HasSubstr("failed 1 time, next try in"));
  EXPECT_THAT(described, HasSubstr("shop.test: the CA: "));
  EXPECT_THAT(control_plane_.Ctl({"get", "certificates"}).out, HasSubstr("pending"));
  EXPECT_EQ(Metric("gateway_controlplane_acme_orders_total{result=\"failed\"}"), 1);
  EXPECT_EQ(Metric("gateway_controlplane_acme_failures{certificate=\"shop\"}"), 1);
  // What became of it survives a restart, which does not ask the CA at once.
  control_plane_.Kill();
  control_plane_.Start();
  EXPECT_THAT(Describe(), HasSubstr("failed 1 time, next try in"));
  const auto plain = ServePlain();
  ASSERT_EQ(control_plane_.Apply(Document("shop.test", "http-01", "ops@shop.test")).exit.code, 0);
  ASSERT_TRUE(WaitFor([&] { return IsServed(); }, kIssued)) << control_plane_.process().output();
  EXPECT_THAT(Describe(), Not(HasSubstr("Last error")));
}

TEST_F(CertificateAcme, ANameThatTheCaRefusesIsTold) {
  StartCa();
  if (pebble_ == nullptr) return;
  const auto plain = ServePlain();
  ASSERT_EQ(control_plane_.Apply(Document("blocked.test", "http-01")).exit.code, 0);
  ASSERT_TRUE(WaitFor([&] { return Describe().find("rejectedIdentifier") != std::string::npos; }, kIssued))
      << Describe() << control_plane_.process().output();
}

TEST_F(CertificateAcme, WithoutADataPlaneTheCaIsNotAsked) {
  StartCa();
  if (pebble_ == nullptr) return;
  ASSERT_EQ(control_plane_.Apply(Document("shop.test", "http-01")).exit.code, 0);
  ASSERT_TRUE(WaitFor([&] { return Describe().find("no data plane is connected") != std::string::npos; }, kIssued))
      << Describe();
}

// Renewed at two thirds of a short life; the old one is served through an outage of the CA, and the next try after it
// is good: with another root and without its accounts, as pebble forgets all.
TEST_F(CertificateAcme, RenewsInTimeAndServesOnThroughAnOutage) {
  StartCa(std::chrono::seconds(30));
  if (pebble_ == nullptr) return;
  TempDir cache;
  const auto plain = ServePlain();
  const auto secure = ServeTls("", cache.path());
  ASSERT_EQ(control_plane_.Apply(Document("shop.test", "http-01")).exit.code, 0);
  ASSERT_TRUE(WaitFor([&] { return IsServed(); }, kIssued)) << control_plane_.process().output();
  const std::string first = Served();
  ASSERT_TRUE(WaitFor([&] { return Served() != first; }, kIssued)) << control_plane_.process().output();
  pebble_->Kill();
  const double failed = Metric("gateway_controlplane_acme_orders_total{result=\"failed\"}");
  const std::string kept = Served();
  ASSERT_TRUE(WaitFor([&] { return Metric("gateway_controlplane_acme_orders_total{result=\"failed\"}") >= failed + 2; },
                      kIssued))
      << control_plane_.process().output();
  EXPECT_EQ(Served(), kept) << "the last good one serves on";
  EXPECT_THAT(Describe(), HasSubstr("Last error"));
  ASSERT_TRUE(pebble_->Restart().ok());
  ASSERT_TRUE(WaitFor([&] { return Served() != kept; }, kIssued)) << control_plane_.process().output();
  EXPECT_TRUE(IsServed());
  // Neither keys of certificates nor that of the account are in the clear on disk, or in a log.
  for (const std::string& text : {control_plane_.process().output(), secure->process().output()}) {
    EXPECT_THAT(text, Not(HasSubstr("PRIVATE KEY")));
  }
  for (const auto& file : std::filesystem::directory_iterator(cache.path())) {
    std::ostringstream text;
    text << std::ifstream(file.path(), std::ios::binary).rdbuf();
    EXPECT_EQ(text.str().find("PRIVATE KEY"), std::string::npos) << file.path();
  }
}

}  // namespace
}  // namespace gateway::fixtures
