// TLS from clients: certificates, versions, resumption, client certificates, reload, and the effect of a handshake
// flood on others.
#include <fcntl.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <atomic>
#include <csignal>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/base/certificate.h"
#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/lab_ca.h"
#include "tests/fixtures/ports.h"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/fixtures/tls_client.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

using ::testing::HasSubstr;

class Tls : public ::testing::Test {
 protected:
  Tls() : upstream_(Echo("svc")), site_(ca_.IssueFor({"DNS:shop.test", "IP:127.0.0.1"})) {}

  static std::string Pair(const LabCa::Files& files) {
    return Concat("{ cert: \"", files.cert, "\", key: \"", files.key, "\" }");
  }
  // The listener's `tls` with these certificates and further fields.
  static std::string Listener(const std::vector<LabCa::Files>& certificates, std::string_view more = "") {
    std::string text = "tls: { certificates: [";
    for (const LabCa::Files& each : certificates) Append(&text, Pair(each), ", ");
    Append(&text, "]", more, " }");
    return text;
  }
  void Serve(std::string listener, int workers = 2, std::vector<std::string> sets = {}) {
    gateway_ = std::make_unique<DataPlane>(DataPlane::Options{.policy = ServicePolicyYaml({upstream_.address()}),
                                                              .workers = workers,
                                                              .sets = std::move(sets),
                                                              .listener = std::move(listener)});
  }
  absl::StatusOr<RawClient> Connect(TlsClientOptions options = {}) { return ConnectTls(gateway_->port(), options); }
  // The subject of the certificate served for `server_name`.
  std::string Served(const std::string& server_name, TlsClientOptions options = {}) {
    options.server_name = server_name;
    const auto client = Connect(options);
    if (!client.ok()) return client.status().ToString();
    return SubjectOf(X509Ptr(SSL_get1_peer_certificate(client->ssl())).get());
  }
  // The status of a request on a new connection; 0: no connection, or no response.
  int Status(TlsClientOptions options = {}) {
    auto client = Connect(options);
    if (!client.ok()) return 0;
    const auto response = client->Request("GET", "/svc");
    return response.ok() ? response->status : 0;
  }

  LabCa ca_;
  ScriptedUpstream upstream_;
  LabCa::Files site_;
  std::unique_ptr<DataPlane> gateway_;
};

TEST_F(Tls, ServesHttpsAndTellsTheService) {
  Serve(Listener({site_}));
  auto client = Connect({.ca = ca_.file(), .server_name = "shop.test"});
  ASSERT_TRUE(client.ok()) << client.status();
  for (int i = 0; i < 3; ++i) {
    const auto response = client->Request("POST", "/svc/a", "", "body");
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->status, 200);
    EXPECT_THAT(response->body, HasSubstr(R"(["X-Forwarded-Proto","https"])"));
  }
  EXPECT_STREQ(SSL_get_version(client->ssl()), "TLSv1.3");
  const auto lines = gateway_->LogLines(3);
  ASSERT_EQ(lines.size(), 3);
  EXPECT_EQ(lines[0]["tls_version"], "TLSv1.3");
  EXPECT_EQ(lines[0]["tls_server_name"], "shop.test");
  EXPECT_EQ(gateway_->Metric(R"(gateway_tls_handshakes_total{result="ok"})"), 1);
  EXPECT_GT(gateway_->Metric(Concat("gateway_certificate_expiry_timestamp_seconds{certificate=\"", site_.cert, "\"}")),
            1.7e9);
}

TEST_F(Tls, ChoosesTheCertificateByServerName) {
  const auto a = ca_.Issue({.names = {"DNS:a.test"}, .common_name = "a"});
  const auto wild = ca_.Issue({.names = {"DNS:*.b.test"}, .common_name = "wild"});
  const auto exact = ca_.Issue({.names = {"DNS:x.b.test"}, .common_name = "exact"});
  Serve(Listener({a, wild, exact}));
  EXPECT_EQ(Served("a.test"), "CN=a");
  EXPECT_EQ(Served("A.Test"), "CN=a");
  EXPECT_EQ(Served("y.b.test"), "CN=wild");
  EXPECT_EQ(Served("x.b.test"), "CN=exact");
  EXPECT_EQ(Served("z.y.b.test"), "CN=a") << "a wildcard stands for one label";
  EXPECT_EQ(Served("b.test"), "CN=a");
  EXPECT_EQ(Served(""), "CN=a") << "the first one, without SNI";
}

TEST_F(Tls, ServesOneNameWithEcdsaAndRsa) {
  const auto ecdsa = ca_.Issue({.names = {"DNS:a.test"}, .common_name = "ecdsa"});
  const auto rsa = ca_.Issue({.names = {"DNS:a.test"}, .common_name = "rsa", .rsa = true});
  Serve(Listener({ecdsa, rsa}));
  EXPECT_EQ(Served("a.test"), "CN=ecdsa");
  EXPECT_EQ(Served("a.test", {.signature_algorithms = "RSA-PSS+SHA256"}), "CN=rsa");
  EXPECT_EQ(Served("", {.signature_algorithms = "RSA-PSS+SHA256"}), "CN=rsa");
}

TEST_F(Tls, SpeaksTls12UnlessToldOtherwise) {
  Serve(Listener({site_}));
  EXPECT_EQ(Status({.version_max = TLS1_2_VERSION}), 200);
  Serve(Listener({site_}, ", min_version: \"1.3\""));
  EXPECT_EQ(Status({.version_max = TLS1_2_VERSION}), 0);
  EXPECT_EQ(Status(), 200);
  EXPECT_EQ(gateway_->Metric(R"(gateway_tls_handshakes_total{result="protocol"})"), 1);
}

TEST_F(Tls, NegotiatesTheProtocol) {
  Serve(Listener({site_}));
  const auto client = Connect({.protocols = {"spdy/3", "http/1.1"}});
  ASSERT_TRUE(client.ok()) << client.status();
  const unsigned char* chosen = nullptr;
  unsigned int size = 0;
  SSL_get0_alpn_selected(client->ssl(), &chosen, &size);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(chosen), size), "http/1.1");
  EXPECT_FALSE(Connect({.protocols = {"spdy/3"}}).ok()) << "RFC 7301, section 3.2";
  EXPECT_EQ(Status(), 200) << "HTTP/1.1 without ALPN";
}

TEST_F(Tls, ResumesSessionsOnAnyWorker) {
  Serve(Listener({site_}), 4);
  for (const int version : {TLS1_2_VERSION, 0}) {
    auto first = Connect({.version_max = version});
    ASSERT_TRUE(first.ok()) << first.status();
    ASSERT_TRUE(first->Request("GET", "/svc").ok());
    const SessionPtr session = SessionOf(*first);
    for (int i = 0; i < 12; ++i) {
      auto again = Connect({.version_max = version, .session = session.get()});
      ASSERT_TRUE(again.ok()) << again.status();
      EXPECT_EQ(SSL_session_reused(again->ssl()), 1);
      EXPECT_TRUE(again->Request("GET", "/svc").ok());
    }
  }
  EXPECT_EQ(gateway_->Metric("gateway_tls_resumed_total"), 24);
}

// RFC 6066, section 3.
TEST_F(Tls, ResumesSessionsForTheirOwnNameAlone) {
  Serve(Listener({site_}));
  for (const int version : {TLS1_2_VERSION, 0}) {
    auto first = Connect({.server_name = "shop.test", .version_max = version});
    ASSERT_TRUE(first.ok()) << first.status();
    ASSERT_TRUE(first->Request("GET", "/svc").ok());
    const SessionPtr session = SessionOf(*first);
    for (const char* const name : {"shop.test", "other.test", ""}) {
      auto again = Connect({.server_name = name, .version_max = version, .session = session.get()});
      ASSERT_TRUE(again.ok()) << again.status();
      EXPECT_EQ(SSL_session_reused(again->ssl()), std::string_view(name) == "shop.test") << name;
    }
  }
}

TEST_F(Tls, AsksForClientCertificates) {
  LabCa other("other");
  const auto partner = ca_.Issue({.names = {"URI:spiffe://lab/partner"}, .common_name = "partner"});
  const auto revoked = ca_.Issue({.common_name = "revoked"});
  const auto expired = ca_.Issue({.common_name = "expired", .validity = std::chrono::hours(-1)});
  const auto stranger = other.Issue({.common_name = "stranger"});
  const std::string crl = ca_.Revoke({revoked.cert});
  const auto with = [](const LabCa::Files& files, int version = 0) {
    return TlsClientOptions{.version_max = version, .cert = files.cert, .key = files.key};
  };
  for (const std::string_view mode : {"required", "optional"}) {
    Serve(Listener({site_}, Concat(", client_certificate: ", mode, ", client_ca: \"", ca_.file(), "\", client_crl: \"",
                                   crl, "\"")));
    for (const int version : {TLS1_2_VERSION, 0}) {
      EXPECT_EQ(Status(with(partner, version)), 200) << mode;
      EXPECT_EQ(Status(with(revoked, version)), 0) << mode;
      EXPECT_EQ(Status(with(expired, version)), 0) << mode;
      EXPECT_EQ(Status(with(stranger, version)), 0) << mode;
      EXPECT_EQ(Status({.version_max = version}), mode == "optional" ? 200 : 0) << mode;
    }
    EXPECT_EQ(gateway_->Metric(R"(gateway_tls_handshakes_total{result="certificate_revoked"})"), 2);
    EXPECT_EQ(gateway_->Metric(R"(gateway_tls_handshakes_total{result="certificate_expired"})"), 2);
    EXPECT_EQ(gateway_->Metric(R"(gateway_tls_handshakes_total{result="unknown_ca"})"), 2);
  }
}

// The class of CVE-2025-23419.
TEST_F(Tls, WarnsOfAnUnusedClientCa) {
  Serve(Listener({site_}, Concat(", client_ca: ", site_.cert)));
  EXPECT_THAT(gateway_->process().output(), HasSubstr("clients are not asked for one"));
}

TEST_F(Tls, ResumesNoSessionUnderOtherRulesForClientCertificates) {
  const uint16_t open = FreePort();
  const uint16_t guarded = FreePort();
  TempDir directory;
  const std::string pair = Pair(site_);
  const std::string config = directory.Write(
      "gateway.yaml", Concat("server:\n  listeners:\n  - { address: \"127.0.0.1:", open, "\", tls: { certificates: [",
                             pair, "] } }\n  - { address: \"127.0.0.1:", guarded, "\", tls: { certificates: [", pair,
                             "], client_certificate: required, client_ca: \"", ca_.file(),
                             "\" } }\nmetrics: { port: 0 }\n", "data_plane: { policy_files: [\"",
                             directory.Write("policy.yaml", ServicePolicyYaml({upstream_.address()})), "\"] }\n"));
  Process process({BinaryPath("gateway-dataplane"), "--config", config});
  ASSERT_TRUE(process.WaitForLine("serves on").has_value()) << process.output();
  for (const int version : {TLS1_2_VERSION, 0}) {
    auto first = ConnectTls(open, {.version_max = version});
    ASSERT_TRUE(first.ok()) << first.status();
    ASSERT_TRUE(first->Request("GET", "/svc").ok());
    const SessionPtr session = SessionOf(*first);
    auto crossed = ConnectTls(guarded, {.version_max = version, .session = session.get()});
    EXPECT_FALSE(crossed.ok() && crossed->Request("GET", "/svc").ok()) << "no client certificate was presented";
  }
}

TEST_F(Tls, StandsBesideACleartextListener) {
  const uint16_t cleartext = FreePort();
  const uint16_t secure = FreePort();
  TempDir directory;
  const std::string config = directory.Write(
      "gateway.yaml", Concat("server:\n  listeners:\n  - { address: \"127.0.0.1:", cleartext,
                             "\" }\n  - { address: \"127.0.0.1:", secure, "\", tls: { certificates: [", Pair(site_),
                             "] } }\nmetrics: { port: 0 }\ndata_plane: { policy_files: [\"",
                             directory.Write("policy.yaml", ServicePolicyYaml({upstream_.address()})), "\"] }\n"));
  Process process({BinaryPath("gateway-dataplane"), "--config", config});
  ASSERT_TRUE(process.WaitForLine("serves on").has_value()) << process.output();
  const auto plain = Fetch(cleartext, "GET", "/svc");
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_THAT(plain->body, HasSubstr(R"(["X-Forwarded-Proto","http"])"));
  auto client = ConnectTls(secure);
  ASSERT_TRUE(client.ok()) << client.status();
  const auto response = client->Request("GET", "/svc");
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_THAT(response->body, HasSubstr(R"(["X-Forwarded-Proto","https"])"));
}

TEST_F(Tls, LeadsCleartextToHttpsByItsScheme) {
  const uint16_t cleartext = FreePort();
  const uint16_t secure = FreePort();
  TempDir directory;
  const std::string policy = ServicePolicyYaml({upstream_.address()}) +
                             "---\nkind: Route\nname: to-https\npriority: 10\nmatch: { scheme: http }\nredirect: { "
                             "scheme: https, status: 301 }\n";
  const std::string config = directory.Write(
      "gateway.yaml", Concat("server:\n  trusted_proxies: [127.0.0.1]\n  listeners:\n  - { address: \"127.0.0.1:",
                             cleartext, "\" }\n  - { address: \"127.0.0.1:", secure, "\", tls: { certificates: [",
                             Pair(site_), "] } }\nmetrics: { port: 0 }\ndata_plane: { policy_files: [\"",
                             directory.Write("policy.yaml", policy), "\"] }\n"));
  Process process({BinaryPath("gateway-dataplane"), "--config", config});
  ASSERT_TRUE(process.WaitForLine("serves on").has_value()) << process.output();
  const auto moved = Fetch(cleartext, "GET", "/svc/a?b=c", "Host: shop.test:8080\r\n");
  ASSERT_TRUE(moved.ok()) << moved.status();
  EXPECT_EQ(moved->status, 301);
  EXPECT_EQ(moved->Field("Location"), "https://shop.test/svc/a?b=c");
  auto client = ConnectTls(secure);
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_EQ(client->Request("GET", "/svc")->status, 200);
  // A trusted proxy's X-Forwarded-Proto overrides the connection's own scheme.
  EXPECT_EQ(client->Request("GET", "/svc", "X-Forwarded-Proto: http\r\n")->status, 301);
  EXPECT_EQ(Fetch(cleartext, "GET", "/svc", "X-Forwarded-Proto: https\r\n")->status, 200);
}

TEST_F(Tls, AnswersCleartextWithBadRequest) {
  Serve(Listener({site_}));
  const auto response = Fetch(gateway_->port(), "GET", "/svc");
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->status, 400);
  EXPECT_EQ(nlohmann::json::parse(response->body)["reason"], "bad_request");
  EXPECT_EQ(gateway_->Metric(R"(gateway_tls_handshakes_total{result="plain_http"})"), 1);
}

TEST_F(Tls, ReadsChangedCertificatesAgainAndKeepsConnections) {
  auto files = ca_.Issue({.names = {"DNS:shop.test"}, .common_name = "before", .file = "site"});
  Serve(Listener({files}));
  auto kept = Connect();
  ASSERT_TRUE(kept.ok());
  EXPECT_EQ(Served("shop.test"), "CN=before");

  files = ca_.Issue({.names = {"DNS:shop.test"}, .common_name = "after", .file = "site"});
  EXPECT_TRUE(WaitFor([&] { return Served("shop.test") == "CN=after"; }));
  EXPECT_TRUE(kept->Request("GET", "/svc").ok()) << "a change of certificate closes no connection";

  // A mismatched pair is rejected by name, and the old one stays in use.
  const auto other = ca_.Issue({.names = {"DNS:shop.test"}, .common_name = "other"});
  const auto mark = gateway_->process().Mark();
  std::ofstream(files.key) << std::ifstream(other.key).rdbuf();
  gateway_->process().Signal(SIGHUP);
  const auto line = gateway_->process().WaitForLine("the private key is not that of the certificate", kSoon, mark);
  ASSERT_TRUE(line.has_value()) << gateway_->process().output();
  EXPECT_THAT(*line, HasSubstr(files.cert));
  EXPECT_EQ(Served("shop.test"), "CN=after");
  EXPECT_EQ(Status(), 200);

  ca_.Issue({.names = {"DNS:shop.test"}, .common_name = "mended", .file = "site"});
  gateway_->process().Signal(SIGHUP);
  EXPECT_TRUE(WaitFor([&] { return Served("shop.test") == "CN=mended"; }));
}

TEST_F(Tls, CarriesLargeBodiesBothWays) {
  Serve(Listener({site_}));
  upstream_.SetScript(Respond([](const UpstreamRequest& request) { return MakeResponse(200, request.body); }));
  std::string body(8 * 1024 * 1024, '\0');
  for (size_t i = 0; i < body.size(); ++i) body[i] = static_cast<char>(i * 7 + i / 4096);
  auto client = Connect();
  ASSERT_TRUE(client.ok());
  // The response begins after the request has ended, so one thread can send and then read.
  for (int i = 0; i < 2; ++i) {
    const auto response = client->Request("POST", "/svc", "", body, Timeout(30'000));
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->status, 200);
    EXPECT_TRUE(response->body == body);
  }
}

TEST_F(Tls, ShowsATruncatedResponseAsSuch) {
  Serve(Listener({site_}));
  upstream_.SetScript([](UpstreamConnection& connection) {
    (void)connection.ReadRequest();
    connection.Send("HTTP/1.1 200 OK\r\n\r\nhalf");
    connection.Reset();
  });
  auto client = Connect();
  ASSERT_TRUE(client.ok());
  const auto response = client->Request("GET", "/svc");
  EXPECT_FALSE(response.ok() && response->status == 200) << "a truncated body must not look complete";
  upstream_.SetScript([](UpstreamConnection& connection) {
    (void)connection.ReadRequest();
    connection.Send("HTTP/1.1 200 OK\r\n\r\nwhole");
  });
  client = Connect();
  ASSERT_TRUE(client.ok());
  const auto whole = client->Request("GET", "/svc");
  ASSERT_TRUE(whole.ok()) << whole.status() << " (closed without close_notify)";
  EXPECT_EQ(whole->body, "whole");
}

TEST_F(Tls, TunnelsWebSockets) {
  const auto service = [](UpstreamConnection& connection) {
    (void)connection.ReadHead();
    connection.Send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
    for (;;) {
      const auto bytes = connection.stream().ReadSome();
      if (!bytes.ok() || !connection.Send(*bytes)) return;
    }
  };
  upstream_.SetScript(service);
  gateway_ = std::make_unique<DataPlane>(DataPlane::Options{
      .policy = ServicePolicyYaml({upstream_.address()}, "", "upgrades: [websocket]"), .listener = Listener({site_})});
  auto client = Connect();
  ASSERT_TRUE(client.ok());
  const auto response = client->Request("GET", "/svc", "Upgrade: websocket\r\nConnection: Upgrade\r\n");
  ASSERT_TRUE(response.ok()) << response.status();
  ASSERT_EQ(response->status, 101);
  const std::string text(100'000, 'w');
  ASSERT_TRUE(client->Send(text).ok());
  const auto back = client->ReadExactly(text.size());
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_TRUE(*back == text);
}

TEST_F(Tls, ComesBehindAProxyHeader) {
  gateway_ = std::make_unique<DataPlane>(DataPlane::Options{.policy = ServicePolicyYaml({upstream_.address()}),
                                                            .sets = {"server.trusted_proxies=127.0.0.1/32"},
                                                            .proxy_protocol = "enabled",
                                                            .listener = Listener({site_})});
  auto client = RawClient::ConnectTcp("127.0.0.1", gateway_->port());
  ASSERT_TRUE(client.ok());
  ASSERT_TRUE(client->Send("PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n").ok());
  const ContextPtr context(SSL_CTX_new(TLS_client_method()));
  SslPtr ssl(SSL_new(context.get()));
  SSL_set_connect_state(ssl.get());
  ASSERT_TRUE(client->StartTls(std::move(ssl)).ok());
  const auto response = client->Request("GET", "/svc");
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_THAT(response->body, HasSubstr(R"(["X-Forwarded-For","192.0.2.7"])"));
}

TEST_F(Tls, HalfOpenHandshakesLeaveOthersUnharmed) {
  Serve(Listener({site_}), 1, {"server.max_connections=20000"});
  std::vector<RawClient> silent;
  const std::string begun = {0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, static_cast<char>(0xfc), 0x03, 0x03};
  for (int i = 0; i < 1500; ++i) {
    auto client = RawClient::ConnectTcp("127.0.0.1", gateway_->port());
    ASSERT_TRUE(client.ok()) << client.status();
    ASSERT_TRUE(client->Send(begun).ok());
    silent.push_back(*std::move(client));
  }
  for (int i = 0; i < 50; ++i) ASSERT_EQ(Status(), 200) << i;
  // Past a worker's bound the oldest handshake gives way.
  EXPECT_TRUE(
      WaitFor([&] { return gateway_->Metric(R"(gateway_tls_handshakes_total{result="closed"})") >= 1500 - 1024; }));
}

TEST_F(Tls, RefusesFilesThatAreWrongAtTheStart) {
  TempDir directory;
  const auto start = [&](const std::string& listener) {
    const std::string config = directory.Write(
        "gateway.yaml", Concat("server:\n  listeners: [{ address: \"127.0.0.1:0\", ", listener,
                               " }]\nmetrics: { port: 0 }\ndata_plane: { policy_files: [\"",
                               directory.Write("p.yaml", ServicePolicyYaml({"127.0.0.1:1"})), "\"] }\n"));
    return Process::Run({BinaryPath("gateway-dataplane"), "--config", config}, Timeout(10'000));
  };
  const auto other = ca_.IssueFor({"DNS:other.test"});
  auto result = start(Listener({{site_.cert, other.key}}));
  EXPECT_EQ(result.exit.code, 2);
  EXPECT_THAT(result.err + result.out, HasSubstr("the private key is not that of the certificate"));
  result = start(Listener({{"/nonexistent.crt", other.key}}));
  EXPECT_EQ(result.exit.code, 2);
  EXPECT_THAT(result.err + result.out, HasSubstr("/nonexistent.crt"));
  const std::string pipe = directory.path() + "/pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  result = start(Listener({{pipe, other.key}}));
  EXPECT_EQ(result.exit.code, 2);
  EXPECT_THAT(result.err + result.out, HasSubstr(Concat(pipe, ": expected a file")));
  result = start(Listener({site_}, ", ciphers: nonsense"));
  EXPECT_EQ(result.exit.code, 2);
  EXPECT_THAT(result.err + result.out, HasSubstr("ciphers"));
  result = start(Listener({site_}, ", client_certificate: required"));
  EXPECT_EQ(result.exit.code, 2);
  EXPECT_THAT(result.err + result.out, HasSubstr("client_ca"));
  result = start(Listener({site_}, ", min_version: \"1.1\""));
  EXPECT_EQ(result.exit.code, 2);
  EXPECT_THAT(result.err + result.out, HasSubstr("min_version"));
}

}  // namespace
}  // namespace gateway::fixtures
