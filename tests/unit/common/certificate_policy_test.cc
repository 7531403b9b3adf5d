// The kind Certificate: its errors and warnings at apply, and which parts of it are ever shown.
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/clock.h"
#include "common/base/certificate.h"
#include "common/base/text.h"
#include "common/config/redaction.h"
#include "common/policy/policy_files.h"
#include "common/policy/snapshot.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/lab_ca.h"

namespace gateway {
namespace {

using fixtures::LabCa;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

std::string ReadAll(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

v1::Resource Document(std::string_view name, std::string chain, std::string key) {
  v1::Resource resource;
  resource.mutable_certificate()->set_name(std::string(name));
  resource.mutable_certificate()->mutable_certificate()->set_inline_(std::move(chain));
  resource.mutable_certificate()->mutable_key()->set_inline_(std::move(key));
  return resource;
}

class CertificatePolicy : public ::testing::Test {
 protected:
  v1::Resource Issue(std::string_view name, LabCa::Request request) {
    const LabCa::Files files = ca_.Issue(request);
    return Document(name, ReadAll(files.cert), ReadAll(files.key));
  }
  static CompileResult Compile(const std::vector<v1::Resource>& resources) {
    std::vector<const v1::Resource*> pointers;
    for (const v1::Resource& each : resources) pointers.push_back(&each);
    return CompileSnapshot(pointers, {});
  }
  static std::vector<std::string> Errors(const std::vector<v1::Resource>& resources) {
    std::vector<std::string> texts;
    for (const v1::PolicyError& e : Compile(resources).errors) {
      texts.push_back(Concat(e.kind(), "/", e.name(), ": ", e.field(), ": ", e.message()));
    }
    return texts;
  }
  static v1::Resource Route(std::string_view host) {
    v1::Resource resource;
    resource.mutable_route()->set_name("r");
    resource.mutable_route()->mutable_match();
    if (!host.empty()) resource.mutable_route()->mutable_match()->add_hosts(std::string(host));
    resource.mutable_route()->mutable_respond();
    return resource;
  }

  LabCa ca_;
};

TEST_F(CertificatePolicy, IsServedForItsNamesOrItsHosts) {
  v1::Resource site = Issue("site", {.names = {"DNS:a.test", "DNS:*.b.test"}});
  CompileResult result = Compile({site});
  ASSERT_NE(result.snapshot, nullptr) << testing::PrintToString(Errors({site}));
  ASSERT_EQ(result.snapshot->certificates().size(), 1u);
  EXPECT_EQ(result.snapshot->certificates()[0]->source.name, "Certificate/site");
  EXPECT_THAT(result.snapshot->certificates()[0]->dns_names, ElementsAre("a.test", "*.b.test"));
  EXPECT_THAT(result.warnings, ElementsAre(HasSubstr("expires soon")));  // within 30 days

  site = Issue("site", {.names = {"DNS:a.test", "DNS:*.b.test"}, .validity = std::chrono::hours(24 * 90)});
  site.mutable_certificate()->add_hosts("x.b.test");
  result = Compile({site});
  ASSERT_NE(result.snapshot, nullptr);
  EXPECT_THAT(result.warnings, IsEmpty());
  EXPECT_THAT(result.snapshot->certificates()[0]->dns_names, ElementsAre("x.b.test"));
}

TEST_F(CertificatePolicy, IsCheckedWhereItIsWritten) {
  const v1::Resource good = Issue("a", {.names = {"DNS:a.test"}});
  const v1::Resource other = Issue("b", {.names = {"DNS:b.test"}});
  const std::string& chain = good.certificate().certificate().inline_();
  const std::string& key = good.certificate().key().inline_();
  EXPECT_THAT(Errors({Document("a", chain, other.certificate().key().inline_())}),
              ElementsAre(HasSubstr("Certificate/a: certificate: the private key is not that of the certificate")));
  EXPECT_THAT(
      Errors({Document("a", "nonsense", key)}),
      ElementsAre("Certificate/a: certificate: there is no certificate (expected \"-----BEGIN CERTIFICATE-----\")"));
  EXPECT_THAT(Errors({Document("a", chain, "nonsense")}),
              ElementsAre(HasSubstr("Certificate/a: key: there is no private")));
  EXPECT_THAT(Errors({Document("a", chain + other.certificate().certificate().inline_(), key)}),
              ElementsAre(HasSubstr("did not issue certificate 1")));
  EXPECT_THAT(Errors({Issue("weak", {.names = {"DNS:a.test"}, .rsa = true, .rsa_bits = 1024})}),
              ElementsAre(HasSubstr("an RSA key of 1024 bits")));
  v1::Resource hosts = good;
  hosts.mutable_certificate()->add_hosts("A.test");
  hosts.mutable_certificate()->add_hosts("10.0.0.7");
  EXPECT_THAT(Errors({hosts}), ElementsAre(HasSubstr("hosts[0]"), HasSubstr("hosts[1]")));
  v1::Resource empty;
  empty.mutable_certificate()->set_name("a");
  EXPECT_THAT(Errors({empty}), ElementsAre("Certificate/a: certificate: is required, unless there is acme",
                                           "Certificate/a: key: is required, unless there is acme"));
  // No message repeats a key.
  for (const std::string& text : Errors({Document("a", key, key)}))
    EXPECT_THAT(text, Not(HasSubstr(key.substr(40, 20))));
}

TEST_F(CertificatePolicy, WarnsOfWhatClientsWillReject) {
  const auto warnings = [](const std::vector<v1::Resource>& resources) { return Compile(resources).warnings; };
  const std::chrono::hours long_enough(24 * 90);
  EXPECT_THAT(warnings({Issue("a", {.names = {"DNS:a.test"}, .validity = std::chrono::hours(-1)})}),
              ElementsAre(HasSubstr("Certificate/a: expired on")));
  v1::Resource site = Issue("a", {.names = {"DNS:a.test"}, .validity = long_enough});
  EXPECT_THAT(warnings({site, Route("a.test")}), IsEmpty());
  EXPECT_THAT(warnings({site, Route("*.test")}), IsEmpty());
  EXPECT_THAT(warnings({site, Route("")}), IsEmpty());
  EXPECT_THAT(warnings({site, Route("b.test")}), ElementsAre("Certificate/a: no route serves any of its hosts"));
  site.mutable_certificate()->add_hosts("b.test");
  EXPECT_THAT(warnings({site, Route("b.test")}),
              ElementsAre(HasSubstr("hosts has 'b.test', which the certificate is not for")));
  // A client certificate towards endpoints serves no hosts.
  v1::Resource client = Issue("a", {.names = {"DNS:gateway.test"}, .validity = long_enough});
  v1::Resource service;
  service.mutable_service()->set_name("s");
  service.mutable_service()->add_static_()->set_address("127.0.0.1:1");
  service.mutable_service()->mutable_tls()->set_certificate("a");
  EXPECT_THAT(warnings({client, service, Route("b.test")}), IsEmpty());
}

TEST_F(CertificatePolicy, IsNamedByServices) {
  const v1::Resource client = Issue("client", {.names = {"DNS:gateway.test"}});
  v1::Resource service;
  service.mutable_service()->set_name("s");
  service.mutable_service()->add_static_()->set_address("127.0.0.1:1");
  service.mutable_service()->mutable_tls()->set_certificate("clent");
  EXPECT_THAT(Errors({client, service}),
              ElementsAre("Service/s: tls.certificate: certificate 'clent' is not defined; did you mean 'client'?"));
  service.mutable_service()->mutable_tls()->set_certificate("client");
  const CompileResult result = Compile({client, service});
  ASSERT_NE(result.snapshot, nullptr);
  EXPECT_EQ(result.snapshot->services()[0].tls->key_pem, client.certificate().key().inline_());
}

// What a data plane gets over a stream that may not carry keys.
TEST_F(CertificatePolicy, WithoutItsKeyIsNotServedAndHarmsNothing) {
  v1::Resource site = Issue("site", {.names = {"DNS:a.test"}});
  const std::string key = site.certificate().key().inline_();
  RedactSecrets(site.mutable_certificate());
  EXPECT_TRUE(IsRedacted(site.certificate().key().inline_()));
  EXPECT_THAT(site.certificate().certificate().inline_(), HasSubstr("BEGIN CERTIFICATE")) << "it is public";
  v1::Resource service;
  service.mutable_service()->set_name("s");
  service.mutable_service()->add_static_()->set_address("127.0.0.1:1");
  service.mutable_service()->mutable_tls()->set_certificate("site");
  const CompileResult result = Compile({site, service});
  ASSERT_NE(result.snapshot, nullptr);
  EXPECT_THAT(result.snapshot->certificates(), IsEmpty());
  EXPECT_EQ(result.snapshot->keys_lacking(), 1u);
  EXPECT_EQ(result.snapshot->services()[0].tls->certificate, "site");
  EXPECT_EQ(result.snapshot->services()[0].tls->key_pem, "");
  EXPECT_THAT(result.warnings, ElementsAre(HasSubstr("has no key here and is not served")));
}

TEST_F(CertificatePolicy, ItsKeyIsShownAsAFingerprintAndComesBack) {
  const v1::Resource site = Issue("site", {.names = {"DNS:a.test"}});
  const std::string yaml = EncodeResource(site);
  EXPECT_THAT(yaml, HasSubstr("redacted:"));
  EXPECT_THAT(yaml, Not(HasSubstr("PRIVATE KEY")));
  std::vector<PolicyProblem> problems;
  std::vector<PolicyDocument> documents = ParsePolicy(yaml, "test.yaml", &problems);
  ASSERT_THAT(problems, IsEmpty());
  ASSERT_EQ(documents.size(), 1u);
  std::vector<v1::PolicyError> errors;
  RestoreSecrets(&site, &documents[0].resource, &errors);
  EXPECT_THAT(errors, IsEmpty());
  EXPECT_EQ(CanonicalBytes(documents[0].resource), CanonicalBytes(site));
}

TEST_F(CertificatePolicy, FilesAreReadBesideTheDocument) {
  const LabCa::Files files = ca_.IssueFor({"DNS:a.test"});
  fixtures::TempDir directory;
  directory.Write("site.crt", ReadAll(files.cert));
  directory.Write("site.key", ReadAll(files.key));
  const std::string document = directory.Write(
      "policy.yaml", "kind: Certificate\nname: site\ncertificate: { file: site.crt }\nkey: { file: site.key }\n");
  std::vector<PolicyProblem> problems;
  std::vector<PolicyDocument> documents = ReadPolicyFiles({document}, &problems);
  EXPECT_THAT(problems, IsEmpty());
  ASSERT_EQ(documents.size(), 1u);
  EXPECT_THAT(Errors({documents[0].resource}), IsEmpty());
  directory.Write("site.key", "nonsense");
  (void)ReadPolicyFiles({document}, &problems);
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_THAT(problems[0].ToString(), HasSubstr("policy.yaml:4:"));
  EXPECT_THAT(problems[0].ToString(), HasSubstr("key.file: "));
}

}  // namespace
}  // namespace gateway
