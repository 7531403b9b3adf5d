// The fields that describe a client's certificate to services.
#include "dataplane/auth/certificate_fields.h"

#include <string>

#include "dataplane/http/connection_info.h"
#include "dataplane/http/fields.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gateway::dataplane {
namespace {

http::ClientCertificate Sample() {
  return {.fingerprint = "ab12",
          .subject = "CN=billing,O=Acme\\, Inc.",
          .common_name = "billing",
          .san_uris = {"spiffe://acme/billing", "https://acme.test/?a=b"},
          .san_dns_names = {"billing.acme.test"},
          .san_emails = {},
          .pem = "-----BEGIN CERTIFICATE-----\nAB+/\nCg==\n-----END CERTIFICATE-----\n",
          .chain_pem = ""};
}

std::string Told(std::string_view name, const http::ClientCertificate& certificate) {
  std::string fields;
  AppendClientCertificate(name, certificate, &fields);
  return fields;
}

TEST(CertificateFields, AreEnvoysUnderAnyName) {
  EXPECT_EQ(Told("X-Forwarded-Client-Cert", Sample()),
            "X-Forwarded-Client-Cert: Hash=ab12;Subject=\"CN=billing,O=Acme\\, Inc.\";URI=spiffe://acme/billing;"
            "URI=\"https://acme.test/?a=b\";DNS=billing.acme.test;Cert=\"-----BEGIN%20CERTIFICATE-----%0AAB%2B%2F%0A"
            "Cg%3D%3D%0A-----END%20CERTIFICATE-----%0A\"\r\n");
}

TEST(CertificateFields, AreRfc9440sUnderItsName) {
  http::ClientCertificate certificate = Sample();
  EXPECT_EQ(Told("Client-Cert", certificate), "Client-Cert: :AB+/Cg==:\r\n");
  certificate.chain_pem =
      "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
      "-----BEGIN CERTIFICATE-----\nBBBB\n-----END CERTIFICATE-----\n";
  EXPECT_EQ(Told("client-cert", certificate), "client-cert: :AB+/Cg==:\r\nclient-cert-Chain: :AAAA:, :BBBB:\r\n");
}

// Text in a certificate cannot end a value, whatever a parser takes a backslash for.
TEST(CertificateFields, ACertificateCannotInjectAKey) {
  http::ClientCertificate certificate = Sample();
  certificate.subject = R"(CN=a\";URI=spiffe://root;x=\\)";
  certificate.san_uris = {R"(spiffe://a;Subject="CN=root")", R"(spiffe://b\)"};
  certificate.san_dns_names = {"a,By=root"};
  const std::string told = Told("X-Forwarded-Client-Cert", certificate);
  EXPECT_THAT(told, testing::HasSubstr(R"(Subject="CN=a\22;URI=spiffe://root;x=\5C";URI=)"));
  EXPECT_THAT(told, testing::HasSubstr(R"(;URI="spiffe://a;Subject=%22CN=root%22";URI=spiffe://b%5C;)"));
  EXPECT_THAT(told, testing::HasSubstr(R"(;DNS="a,By=root";)"));
}

TEST(CertificateFields, AreTheGatewaysAlone) {
  for (const std::string_view name : {"X-Forwarded-Client-Cert", "client-cert", "Client-Cert-Chain"}) {
    EXPECT_EQ(http::ClassifyField(name), http::FieldKind::kIdentity) << name;
  }
  EXPECT_EQ(http::ClassifyField("X_Forwarded_Client_Cert"), http::FieldKind::kLookalike);
  EXPECT_EQ(http::ClassifyField("Client-Certs"), http::FieldKind::kOther);
}

}  // namespace
}  // namespace gateway::dataplane
