// Authentication by client certificate: identities, what services and the log see, and requests for another host than
// the connection's.
#include <openssl/ssl.h>

#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "common/base/certificate.h"
#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/lab_ca.h"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/fixtures/tls_client.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string ReadAll(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

std::string FingerprintOfFile(const std::string& path) {
  return FingerprintOf(ReadCertificates(ReadAll(path))->front().get());
}

class ClientCertificates : public ::testing::Test {
 protected:
  ClientCertificates()
      : upstream_(Echo("svc")),
        site_(ca_.IssueFor({"DNS:shop.test", "DNS:other.test", "IP:127.0.0.1"})),
        partner_(ca_.Issue({.names = {"URI:spiffe://lab/unknown", "URI:spiffe://lab/partner", "DNS:Partner.Test",
                                      "email:ops@partner.test"},
                            .common_name = "partner"})) {}

  // /svc authenticates callers by `method`, with further fields of the Auth; /open has no Auth.
  void Serve(std::string_view method, std::string_view auth, std::string_view consumers,
             std::string_view mode = "optional", std::string_view more = "") {
    const std::string policy =
        Concat("kind: Service\nname: svc\nstatic: [{ address: \"", upstream_.address(),
               "\" }]\n---\nkind: Route\nname: svc\nmatch: { path: { prefix: /svc } }\nservice: svc\nauth: mtls\n",
               "---\nkind: Route\nname: open\nmatch: { path: { prefix: /open } }\nservice: svc\n---\n",
               "kind: Auth\nname: mtls\nmethods: [", method, "]\n", auth, "\n---\n", consumers, more);
    gateway_ = std::make_unique<DataPlane>(DataPlane::Options{
        .policy = policy,
        .workers = 1,
        .listener = Concat("tls: { certificates: [{ cert: \"", site_.cert, "\", key: \"", site_.key,
                           "\" }], client_certificate: ", mode,
                           mode == "none" ? "" : Concat(", client_ca: \"", ca_.file(), "\""), " }")});
  }
  static std::string Consumer(std::string_view name, std::string_view identity, std::string_view groups = "") {
    return Concat("kind: Consumer\nname: ", name, "\ngroups: [", groups,
                  "]\ncredentials: [{ client_certificate: { identity: \"", identity, "\" } }]\n---\n");
  }
  absl::StatusOr<Response> Ask(const LabCa::Files* files, std::string_view path = "/svc", std::string_view fields = "",
                               std::string server_name = "") {
    TlsClientOptions options{.server_name = std::move(server_name)};
    if (files != nullptr) {
      options.cert = files->cert;
      options.key = files->key;
    }
    auto client = ConnectTls(gateway_->port(), options);
    if (!client.ok()) return client.status();
    return client->Request("GET", path, fields);
  }
  int Status(const LabCa::Files* files) {
    const auto response = Ask(files);
    return response.ok() ? response->status : 0;
  }
  // All values of a field that the service received, joined by "|".
  static std::string FieldOf(const absl::StatusOr<Response>& response, std::string_view name) {
    std::string values;
    if (!response.ok()) return response.status().ToString();
    const auto echo = nlohmann::json::parse(response->body, nullptr, false);
    for (const auto& field : echo.value("fields", nlohmann::json::array())) {
      if (field[0].get<std::string>() == name) Append(&values, values.empty() ? "" : "|", field[1].get<std::string>());
    }
    return values;
  }

  LabCa ca_;
  ScriptedUpstream upstream_;
  LabCa::Files site_;
  LabCa::Files partner_;
  std::unique_ptr<DataPlane> gateway_;
};

TEST_F(ClientCertificates, NameTheirConsumer) {
  const auto stranger = ca_.Issue({.names = {"URI:spiffe://lab/stranger"}, .common_name = "stranger"});
  const std::string fingerprint = FingerprintOfFile(partner_.cert);
  std::string colons;
  for (size_t i = 0; i < fingerprint.size(); i += 2) {
    Append(&colons, i == 0 ? "" : ":", absl::AsciiStrToUpper(fingerprint.substr(i, 2)));
  }
  for (const auto& [identity, known] : std::vector<std::pair<std::string, std::string>>{
           {"san_uri", "spiffe://lab/partner"},
           {"san_dns", "partner.TEST"},
           {"san_email", "ops@partner.test"},
           {"subject_cn", "partner"},
           {"fingerprint", colons},
       }) {
    Serve(Concat("{ client_certificate: { identity: ", identity, " } }"), "forward: { consumer: X-Consumer }",
          Consumer("acme", known));
    const auto response = Ask(&partner_);
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->status, 200) << identity;
    EXPECT_EQ(FieldOf(response, "X-Consumer"), "acme") << identity;
    EXPECT_EQ(Status(&stranger), 401) << identity;
    const auto none = Ask(nullptr);
    ASSERT_TRUE(none.ok()) << none.status();
    EXPECT_EQ(none->status, 401) << identity;
    EXPECT_EQ(none->Field("WWW-Authenticate"), "ClientCertificate realm=\"gateway\"");
    const auto lines = gateway_->LogLines(3);
    EXPECT_EQ(lines[0]["consumer"], "acme");
    EXPECT_EQ(lines[0]["client_certificate"], "CN=partner");
    EXPECT_EQ(lines[2]["client_certificate"], "");
  }
}

TEST_F(ClientCertificates, CountEveryIdentityInTurn) {
  // The first name belongs to a Consumer that is not allowed, the second to one that is.
  Serve("{ client_certificate: { identity: san_uri } }", "allow: { groups: [gold] }\nforward: { consumer: X-Consumer }",
        Consumer("first", "spiffe://lab/unknown", "iron") + Consumer("second", "spiffe://lab/partner", "gold"));
  EXPECT_EQ(FieldOf(Ask(&partner_), "X-Consumer"), "second");
  Serve("{ client_certificate: { identity: san_uri } }", "allow: { consumers: [nobody] }",
        Consumer("first", "spiffe://lab/partner") + Consumer("nobody", "spiffe://lab/nobody"));
  EXPECT_EQ(Status(&partner_), 403);
}

TEST_F(ClientCertificates, StandBesideOtherMethods) {
  Serve("{ api_key: {} }, { client_certificate: { identity: san_uri } }", "forward: { consumer: X-Consumer }",
        Consumer("acme", "spiffe://lab/partner") +
            // SHA-256 of "k-1".
            "kind: Consumer\nname: keyed\ncredentials: [{ api_key_sha256: "
            "7c35c5a1785d20704e44d5de4beb81c1fce91b6fe48ed7c3159af6f7f832078b }]\n");
  EXPECT_EQ(FieldOf(Ask(&partner_), "X-Consumer"), "acme");
  EXPECT_EQ(FieldOf(Ask(nullptr, "/svc", "X-API-Key: k-1\r\n"), "X-Consumer"), "keyed");
  EXPECT_EQ(Status(nullptr), 401);
}

TEST_F(ClientCertificates, LimitTheirConsumer) {
  Serve("{ client_certificate: { identity: san_uri } }", "", Consumer("acme", "spiffe://lab/partner"), "optional",
        "kind: RateLimit\nname: each\nkey: [consumer]\nlimit: { requests: 2, window: 1m }\n---\nkind: Defaults\nname: "
        "default\nrate_limits: [each]\n");
  EXPECT_EQ(Status(&partner_), 200);
  EXPECT_EQ(Status(&partner_), 200);
  EXPECT_EQ(Status(&partner_), 429);
}

TEST_F(ClientCertificates, AreToldToServices) {
  const std::string consumer = Consumer("acme", "spiffe://lab/partner");
  Serve("{ client_certificate: { identity: san_uri } }", "forward: { client_certificate: X-Forwarded-Client-Cert }",
        consumer);
  const std::string lie = "X-Forwarded-Client-Cert: Hash=0\r\nClient-Cert: :AAAA:\r\nclient-cert-chain: :AAAA:\r\n";
  auto response = Ask(&partner_, "/svc", lie);
  EXPECT_THAT(FieldOf(response, "X-Forwarded-Client-Cert"),
              StartsWith(Concat("Hash=", FingerprintOfFile(partner_.cert),
                                ";Subject=\"CN=partner\";URI=spiffe://lab/unknown;URI=spiffe://lab/partner;"
                                "DNS=partner.test;Cert=\"-----BEGIN%20CERTIFICATE-----%0A")));
  EXPECT_EQ(FieldOf(response, "Client-Cert"), "");
  EXPECT_EQ(FieldOf(response, "client-cert-chain"), "");
  // The client's own fields are removed on every route, also without an Auth.
  response = Ask(&partner_, "/open", lie);
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->status, 200);
  for (const char* name : {"X-Forwarded-Client-Cert", "Client-Cert", "client-cert-chain"}) {
    EXPECT_EQ(FieldOf(response, name), "") << name;
  }

  Serve("{ client_certificate: { identity: san_uri } }", "forward: { client_certificate: Client-Cert }", consumer);
  TempDir directory;
  const LabCa::Files whole{directory.Write("chain.crt", ReadAll(partner_.cert) + ReadAll(ca_.file())), partner_.key};
  response = Ask(&whole);
  EXPECT_THAT(FieldOf(response, "Client-Cert"), StartsWith(":MII"));
  EXPECT_THAT(FieldOf(response, "Client-Cert-Chain"), StartsWith(":MII"));

  Serve("{ client_certificate: { identity: san_uri } }", "forward: { client_certificate: X-Caller }", consumer);
  EXPECT_THAT(FieldOf(Ask(&partner_, "/svc", "X-Caller: me\r\nx_caller: me\r\n"), "X-Caller"), StartsWith("Hash="));
  EXPECT_EQ(FieldOf(Ask(&partner_, "/open", "X-Caller: me\r\n"), "X-Caller"), "");
}

// RFC 9110, section 15.5.20.
TEST_F(ClientCertificates, ServeTheHostThatTheConnectionWasMadeFor) {
  const std::string consumer = Consumer("acme", "spiffe://lab/partner");
  Serve("{ client_certificate: { identity: san_uri } }", "", consumer);
  EXPECT_EQ(Ask(&partner_, "/svc", "Host: shop.test\r\n", "shop.test")->status, 200);
  EXPECT_EQ(Ask(&partner_, "/svc", "Host: Shop.Test:8443\r\n", "SHOP.test")->status, 200);
  const auto other = Ask(&partner_, "/svc", "Host: other.test\r\n", "shop.test");
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_EQ(other->status, 421);
  EXPECT_EQ(other->Field("X-Gateway-Reason"), "misdirected_request");
  EXPECT_EQ(Ask(nullptr, "/svc", "Host: other.test\r\n", "shop.test")->status, 421);
  EXPECT_EQ(Ask(&partner_, "/svc", "Host: other.test\r\n")->status, 200) << "the client sent no server name";
  EXPECT_EQ(Ask(&partner_, "/open", "Host: other.test\r\n", "shop.test")->status, 200) << "the route has no Auth";
  // A listener that does not request certificates: none can be misused.
  Serve("{ client_certificate: { identity: san_uri } }", "", consumer, "none");
  EXPECT_EQ(Ask(nullptr, "/svc", "Host: other.test\r\n", "shop.test")->status, 401);
  EXPECT_THAT(gateway_->process().output(), HasSubstr("Auth/mtls takes client certificates, but no listener asks"));
}

// A resumed session belongs to the same client: its certificate is in the ticket.
TEST_F(ClientCertificates, OutliveAResumption) {
  Serve("{ client_certificate: { identity: san_uri } }", "forward: { client_certificate: X-Forwarded-Client-Cert }",
        Consumer("acme", "spiffe://lab/partner"), "required");
  for (const int version : {TLS1_2_VERSION, 0}) {
    auto first = ConnectTls(gateway_->port(), {.version_max = version, .cert = partner_.cert, .key = partner_.key});
    ASSERT_TRUE(first.ok()) << first.status();
    ASSERT_EQ(first->Request("GET", "/svc")->status, 200);
    const SessionPtr session = SessionOf(*first);
    auto again =
        ConnectTls(gateway_->port(),
                   {.version_max = version, .cert = partner_.cert, .key = partner_.key, .session = session.get()});
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(SSL_session_reused(again->ssl()), 1);
    EXPECT_THAT(FieldOf(again->Request("GET", "/svc"), "X-Forwarded-Client-Cert"), HasSubstr("CN=partner"));
  }
}

}  // namespace
}  // namespace gateway::fixtures
