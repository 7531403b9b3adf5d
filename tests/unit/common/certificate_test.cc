#include "common/base/certificate.h"

#include <fstream>
#include <iterator>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/lab_ca.h"

namespace gateway {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

std::string Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

class CertificateFile : public ::testing::Test {
 protected:
  CertificateSource Source(const fixtures::LabCa::Files& files) {
    return {.name = "site.crt", .chain_pem = Read(files.cert), .key_pem = Read(files.key)};
  }
  std::string ErrorOf(CertificateSource source) {
    const auto parsed = ParseCertificate(std::move(source), absl::Now());
    return parsed.ok() ? "" : std::string(parsed.status().message());
  }
  fixtures::LabCa ca_;
};

TEST_F(CertificateFile, IsReadWithItsNames) {
  const auto files = ca_.Issue({.names = {"DNS:A.test", "DNS:*.b.test", "IP:10.0.0.7"}, .common_name = "leaf"});
  const auto parsed = ParseCertificate(Source(files), absl::Now());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->subject, "CN=leaf");
  EXPECT_THAT(parsed->dns_names, ElementsAre("a.test", "*.b.test"));
  EXPECT_THAT(parsed->addresses, ElementsAre("10.0.0.7"));
  EXPECT_EQ(parsed->key_type, Certificate::KeyType::kEcdsa);
  EXPECT_EQ(parsed->fingerprint.size(), 64);
  EXPECT_THAT(parsed->warnings, IsEmpty());
  EXPECT_GT(parsed->not_after, absl::Now());
}

TEST_F(CertificateFile, NamesWhatIsWrong) {
  const auto a = ca_.IssueFor({"DNS:a.test"});
  const auto b = ca_.IssueFor({"DNS:b.test"});
  CertificateSource source = Source(a);
  source.key_pem = Read(b.key);
  EXPECT_THAT(ErrorOf(source), StartsWith("site.crt: the private key is not that of the certificate (CN=leaf)"));

  source = Source(a);
  source.chain_pem += Read(b.cert);
  EXPECT_THAT(ErrorOf(source), HasSubstr("certificate 2 of the chain (CN=leaf) did not issue certificate 1"));
  source.chain_pem = Read(ca_.file()) + Read(a.cert);
  EXPECT_THAT(ErrorOf(source), HasSubstr("the private key belongs to certificate 2 of the chain"));
  source.chain_pem = Read(a.cert) + Read(ca_.file());
  EXPECT_EQ(ErrorOf(source), "");

  source = Source(a);
  source.chain_pem = source.key_pem;
  EXPECT_THAT(ErrorOf(source), HasSubstr("there is no certificate"));
  source = Source(a);
  source.key_pem = source.chain_pem;
  EXPECT_THAT(ErrorOf(source), HasSubstr("there is no private key"));
  source = Source(a);
  source.chain_pem.resize(source.chain_pem.size() / 2);
  EXPECT_THAT(ErrorOf(source), HasSubstr("can't be read"));
  source = Source(a);
  source.key_pem =
      "-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
      "MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAj3Zf8lXr5VVwICCAAw\nDAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEKwqXb5Cdg"
      "g5\n"
      "-----END ENCRYPTED PRIVATE KEY-----\n";
  EXPECT_THAT(ErrorOf(source), HasSubstr("private key"));

  EXPECT_THAT(ErrorOf(Source(ca_.Issue({.names = {"DNS:a.test"}, .rsa = true, .rsa_bits = 1024}))),
              HasSubstr("an RSA key of 1024 bits; at least 2048 are needed"));
  source = Source(a);
  source.ocsp_der = "nonsense";
  EXPECT_THAT(ErrorOf(source), HasSubstr("OCSP response"));
}

TEST_F(CertificateFile, WarnsOfWhatClientsWillReject) {
  auto parsed =
      ParseCertificate(Source(ca_.Issue({.names = {"DNS:a.test"}, .validity = std::chrono::hours(-1)})), absl::Now());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_THAT(parsed->warnings, ElementsAre(HasSubstr("site.crt: expired on")));
  parsed = ParseCertificate(Source(ca_.Issue(fixtures::LabCa::Request())), absl::Now());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_THAT(parsed->warnings, ElementsAre(HasSubstr("no subjectAltName")));
}

TEST(CertificateName, WildcardCoversOneLabel) {
  EXPECT_TRUE(NameCovers("a.test", "a.test"));
  EXPECT_TRUE(NameCovers("*.a.test", "b.a.test"));
  EXPECT_FALSE(NameCovers("*.a.test", "c.b.a.test"));
  EXPECT_FALSE(NameCovers("*.a.test", "a.test"));
  EXPECT_FALSE(NameCovers("*.a.test", ".a.test"));
}

// A chain with its issuer shows which certificate a response is for, who signed it, and until when it is valid.
TEST_F(CertificateFile, AnOcspResponseIsStapledWhileItIsGoodAndElseAWarning) {
  const auto files = ca_.IssueFor({"DNS:a.test"});
  const auto parse = [&](const std::string& der, bool with_issuer = true) {
    CertificateSource source = Source(files);
    if (with_issuer) source.chain_pem += Read(ca_.file());
    source.ocsp_der = der;
    auto parsed = ParseCertificate(std::move(source), absl::Now());
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    return *std::move(parsed);
  };
  const Certificate good = parse(ca_.Ocsp(files.cert, {}));
  EXPECT_THAT(good.warnings, IsEmpty());
  EXPECT_FALSE(good.source.ocsp_der.empty());
  EXPECT_GT(good.ocsp_until, absl::Now() + absl::Hours(23));
  EXPECT_LT(good.ocsp_until, absl::Now() + absl::Hours(25));
  EXPECT_FALSE(parse(ca_.Ocsp(files.cert, {}), /*with_issuer=*/false).source.ocsp_der.empty());

  const auto refused = [&](const std::string& der) {
    const Certificate parsed = parse(der);
    EXPECT_TRUE(parsed.source.ocsp_der.empty());
    return parsed.warnings.empty() ? "" : parsed.warnings[0];
  };
  EXPECT_THAT(refused(ca_.Ocsp(files.cert, {.validity = std::chrono::hours(-1)})),
              HasSubstr("site.crt: the OCSP response is not stapled: it expired on"));
  EXPECT_THAT(refused(ca_.Ocsp(files.cert, {.revoked = true})), HasSubstr("revoked"));
  EXPECT_THAT(refused(ca_.Ocsp(ca_.IssueFor({"DNS:a.test"}).cert, {})), HasSubstr("of another certificate"));
  fixtures::LabCa other("another");
  EXPECT_THAT(refused(other.Ocsp(files.cert, {})), HasSubstr("of another certificate")) << "another issuer's";
}

}  // namespace
}  // namespace gateway
