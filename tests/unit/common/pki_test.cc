#include "common/base/pki.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/certificate.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/temp_dir.h"

namespace gateway {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);

class Certificates : public ::testing::Test {
 protected:
  CertificateAndKey Issue(CertificateRequest request) {
    if (request.lifetime == absl::ZeroDuration()) request.lifetime = absl::Hours(24);
    absl::StatusOr<CertificateAndKey> made = IssueCertificate(authority_, request, kNow);
    EXPECT_TRUE(made.ok()) << made.status();
    return made.ok() ? *made : CertificateAndKey();
  }
  TlsFiles Write(const CertificateAndKey& pair) {
    return {dir_.Write("a.crt", pair.certificate), dir_.Write("a.key", pair.private_key),
            dir_.Write("ca.crt", authority_.certificate)};
  }
  std::string Problem(const TlsFiles& files, absl::Time now = kNow) {
    return std::string(ReadTlsFiles(files, now).status().message());
  }

  const CertificateAndKey authority_ = MakeAuthority("lab", kNow, absl::Hours(48)).value();
  fixtures::TempDir dir_;
};

TEST_F(Certificates, AnIssuedOneSaysWhoItIsFor) {
  const CertificateAndKey pair =
      Issue({.common_name = "dp-1",
             .organizational_unit = "data-plane",
             .names = {"dp-1", "host.example:8080", "10.0.0.7", "::1", "spiffe://fleet/dp-1"},
             .client = true});
  const absl::StatusOr<CertificateInfo> info = DescribeCertificate(pair.certificate);
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->common_name, "dp-1");
  EXPECT_EQ(info->organizational_unit, "data-plane");
  EXPECT_THAT(info->names.dns, ElementsAre("dp-1", "host.example:8080"));
  EXPECT_THAT(info->names.uris, ElementsAre("spiffe://fleet/dp-1"));
  EXPECT_THAT(info->names.addresses, ElementsAre("10.0.0.7", "::1"));
  EXPECT_LT(info->not_before, kNow) << "clocks differ";
  EXPECT_EQ(info->not_after, kNow + absl::Hours(24));
}

TEST_F(Certificates, DnsNamesKeepTheirCaseOnlyIfAsked) {
  const CertificateAndKey pair = Issue({.common_name = "dp", .names = {"DP-1.Fleet"}, .client = true});
  EXPECT_THAT(DescribeCertificate(pair.certificate)->names.dns, ElementsAre("DP-1.Fleet"));
  EXPECT_THAT(AlternativeNamesOf(ReadCertificates(pair.certificate)->front().get()).dns, ElementsAre("dp-1.fleet"));
}

// A unit that nobody can read must not look like a certificate without one, which may be an admin's.
TEST_F(Certificates, ControlCharactersOfTheSubjectAreRefused) {
  const CertificateAndKey name = Issue({.common_name = "dp\n1", .client = true});
  EXPECT_THAT(std::string(DescribeCertificate(name.certificate).status().message()),
              HasSubstr("the subject's CN has a control character"));
  const CertificateAndKey unit = Issue({.common_name = "ann", .organizational_unit = "viewer\x1b[2J", .client = true});
  EXPECT_THAT(std::string(DescribeCertificate(unit.certificate).status().message()),
              HasSubstr("the subject's OU has a control character"));
}

TEST_F(Certificates, NoneOutlivesItsAuthority) {
  const CertificateAndKey pair = Issue({.common_name = "cp", .server = true, .lifetime = absl::Hours(1000)});
  EXPECT_EQ(DescribeCertificate(pair.certificate)->not_after, kNow + absl::Hours(48));
  EXPECT_THAT(std::string(IssueCertificate(authority_, {.common_name = "cp", .lifetime = absl::Hours(1)},
                                           kNow + absl::Hours(49))
                              .status()
                              .message()),
              HasSubstr("expired"));
}

TEST_F(Certificates, NamesThatFitNoCertificateAreRefused) {
  for (const std::string name : {"", "two words", "line\nbreak"}) {
    EXPECT_FALSE(
        IssueCertificate(authority_, {.common_name = "x", .names = {name}, .lifetime = absl::Hours(1)}, kNow).ok())
        << name;
  }
  EXPECT_FALSE(IssueCertificate(authority_, {.common_name = "", .lifetime = absl::Hours(1)}, kNow).ok());
  EXPECT_FALSE(IssueCertificate({authority_.certificate, Issue({.common_name = "x"}).private_key},
                                {.common_name = "x", .lifetime = absl::Hours(1)}, kNow)
                   .ok())
      << "another certificate's key";
}

TEST_F(Certificates, ARequestGivesItsKeyAndNothingElse) {
  const std::string key = MakePrivateKey().value();
  const std::string request = MakeSigningRequest(key, "anyone").value();
  EXPECT_EQ(*SigningRequestKey(request), *SigningRequestKey(MakeSigningRequest(key, "other").value()));
  EXPECT_NE(*SigningRequestKey(request), *SigningRequestKey(MakeSigningRequest(MakePrivateKey().value(), "x").value()));
  const absl::StatusOr<std::string> issued = IssueForRequest(
      authority_, {.common_name = "dp-1", .names = {"dp-1"}, .client = true, .lifetime = absl::Hours(1)}, request,
      kNow);
  ASSERT_TRUE(issued.ok()) << issued.status();
  EXPECT_EQ(DescribeCertificate(*issued)->common_name, "dp-1");
  EXPECT_TRUE(IsIssuedBy(*issued, authority_.certificate));
  const CertificateAndKey other = MakeAuthority("lab", kNow, absl::Hours(48)).value();
  EXPECT_FALSE(IsIssuedBy(*issued, other.certificate)) << "the same name, another key";
  EXPECT_TRUE(IsAuthority(authority_.certificate));
  EXPECT_FALSE(IsAuthority(*issued));
}

TEST_F(Certificates, ARequestThatIsNoneIsRefused) {
  const std::string good = MakeSigningRequest(MakePrivateKey().value(), "dp").value();
  const auto problem = [](const std::string& pem) { return std::string(SigningRequestKey(pem).status().message()); };
  EXPECT_THAT(problem(""), HasSubstr("certificate_request: expected a certificate request"));
  EXPECT_THAT(problem("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"),
              HasSubstr("expected a certificate request"));
  EXPECT_THAT(problem(authority_.certificate), HasSubstr("expected a certificate request"));
  EXPECT_THAT(problem(good + std::string(kSigningRequestBytesMax, ' ')), HasSubstr("expected at most 16384 bytes"));
  EXPECT_THAT(problem(good.substr(0, good.size() / 2)), HasSubstr("expected a certificate request"));

  // Another's public key, which the sender cannot sign for.
  const BioPtr in(BIO_new_mem_buf(good.data(), static_cast<int>(good.size())));
  X509_REQ* const request = PEM_read_bio_X509_REQ(in.get(), nullptr, nullptr, nullptr);
  ASSERT_NE(request, nullptr);
  const KeyPtr stolen(EVP_EC_gen("P-256")), small(EVP_RSA_gen(1024));
  const auto text = [request] {
    const BioPtr out(BIO_new(BIO_s_mem()));
    PEM_write_bio_X509_REQ(out.get(), request);
    char* data = nullptr;
    const long size = BIO_get_mem_data(out.get(), &data);
    return std::string(data, static_cast<size_t>(size));
  };
  X509_REQ_set_pubkey(request, stolen.get());
  EXPECT_THAT(problem(text()), HasSubstr("is not signed by its own key"));
  X509_REQ_set_pubkey(request, small.get());
  X509_REQ_sign(request, small.get(), EVP_sha256());
  EXPECT_THAT(problem(text()), HasSubstr("certificate_request: "));
  X509_REQ_free(request);
}

TEST_F(Certificates, AShortLivedOneIsBackdatedLess) {
  const CertificateInfo info =
      *DescribeCertificate(Issue({.common_name = "dp", .client = true, .lifetime = absl::Seconds(60)}).certificate);
  EXPECT_EQ(info.not_before, kNow - absl::Seconds(6));
  EXPECT_EQ(info.not_after, kNow + absl::Seconds(60));
}

TEST_F(Certificates, GoodFilesAreReadWhole) {
  const CertificateAndKey pair = Issue({.common_name = "cp", .names = {"cp"}, .server = true});
  const absl::StatusOr<TlsMaterial> read = ReadTlsFiles(Write(pair), kNow);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->certificate_chain, pair.certificate);
  EXPECT_EQ(read->private_key, pair.private_key);
  EXPECT_EQ(read->ca, authority_.certificate);
  EXPECT_EQ(read->not_after, kNow + absl::Hours(24));
  EXPECT_THAT(Problem({}), IsEmpty()) << "no TLS at all";
}

TEST_F(Certificates, WhatAHandshakeWouldFailOnIsToldByFile) {
  const CertificateAndKey pair = Issue({.common_name = "cp", .server = true});
  const TlsFiles files = Write(pair);
  EXPECT_THAT(Problem(files, kNow + absl::Hours(25)), HasSubstr("a.crt: the certificate expired at 2027-01-16"));
  EXPECT_THAT(Problem(files, kNow - absl::Hours(1)), HasSubstr("a.crt: the certificate is not valid before"));
  EXPECT_THAT(Problem({files.cert, dir_.File("no.key"), ""}), HasSubstr("no.key: cannot be read: No such file"));
  EXPECT_THAT(Problem({files.key, files.key, ""}), HasSubstr("a.key: holds no certificate"));
  EXPECT_THAT(Problem({files.cert, files.cert, ""}), HasSubstr("a.crt: holds no private key"));
  EXPECT_THAT(Problem({files.cert, dir_.Write("other.key", Issue({.common_name = "other"}).private_key), ""}),
              HasSubstr("other.key: is not the key of the certificate in"));
  EXPECT_THAT(Problem({"", "", files.key}), HasSubstr("a.key: holds no certificate"));
  EXPECT_THAT(Problem({"", "", files.ca}, kNow + absl::Hours(49)), HasSubstr("ca.crt: every certificate in it has"));
  EXPECT_THAT(Problem({"", "", dir_.Write("big", std::string(kPemFileBytesMax + 1, 'x'))}), HasSubstr("at most"));
  EXPECT_THAT(Problem({dir_.Write("half.crt", pair.certificate.substr(0, 200)), files.key, ""}),
              HasSubstr("half.crt: holds no certificate"));
}

TEST_F(Certificates, AnEncryptedKeyIsRefusedWithoutAskingATerminal) {
  const CertificateAndKey pair = Issue({.common_name = "cp"});
  BIO* in = BIO_new_mem_buf(pair.private_key.data(), static_cast<int>(pair.private_key.size()));
  EVP_PKEY* key = PEM_read_bio_PrivateKey(in, nullptr, nullptr, nullptr);
  BIO* out = BIO_new(BIO_s_mem());
  ASSERT_EQ(PEM_write_bio_PKCS8PrivateKey(out, key, EVP_aes_256_cbc(), "secret", 6, nullptr, nullptr), 1);
  char* text = nullptr;
  const long size = BIO_get_mem_data(out, &text);
  const std::string encrypted(text, static_cast<size_t>(size));
  BIO_free(in);
  BIO_free(out);
  EVP_PKEY_free(key);
  EXPECT_THAT(Problem({dir_.Write("a.crt", pair.certificate), dir_.Write("a.key", encrypted), ""}),
              HasSubstr("without a passphrase"));
}

TEST_F(Certificates, TheStampChangesWithEachFile) {
  const TlsFiles files = Write(Issue({.common_name = "cp"}));
  const std::string first = TlsFilesStamp(files);
  EXPECT_EQ(TlsFilesStamp(files), first);
  for (const std::string& path : {files.cert, files.key, files.ca}) {
    const std::string before = TlsFilesStamp(files);
    const std::string next = dir_.Write("next", "other");
    ASSERT_EQ(rename(next.c_str(), path.c_str()), 0);
    EXPECT_NE(TlsFilesStamp(files), before) << path;
  }
  ASSERT_EQ(unlink(files.ca.c_str()), 0);
  EXPECT_NE(TlsFilesStamp(files), first);
}

TEST_F(Certificates, SharedAuthoritiesAreFoundInBundles) {
  const std::string other = MakeAuthority("other", kNow, absl::Hours(1))->certificate;
  EXPECT_TRUE(ShareCertificate(authority_.certificate, other + authority_.certificate));
  EXPECT_FALSE(ShareCertificate(authority_.certificate, other));
  EXPECT_FALSE(ShareCertificate("", other));
}

}  // namespace
}  // namespace gateway
