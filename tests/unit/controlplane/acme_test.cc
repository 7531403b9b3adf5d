// ACME without a CA: messages with their limits, signatures, and what policy does with what is issued. The whole of it
// against a CA is in tests/integration/acme_test.cc.
#include <openssl/core_names.h>
#include <openssl/ec.h>

#include <array>
#include <atomic>
#include <deque>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "common/base/base64.h"
#include "common/base/certificate.h"
#include "common/base/strict_json.h"
#include "controlplane/acme/client.h"
#include "controlplane/acme/issuer.h"
#include "controlplane/acme/keys.h"
#include "controlplane/acme/messages.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/lab_ca.h"
#include "tests/fixtures/wait_for.h"
#include "tests/unit/controlplane/testing.h"

namespace gateway::controlplane {
namespace {

using ::testing::HasSubstr;

TEST(AcmeMessages, ADirectoryHasItsUrlsAndNothingElseIsTaken) {
  const auto read = acme::ParseDirectory(
      R"({"newNonce":"https://ca/n","newAccount":"https://ca/a","newOrder":"https://ca/o","renewalInfo":"https://ca/r",)"
      R"("meta":{"externalAccountRequired":true},"x":[1]})");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->new_order, "https://ca/o");
  EXPECT_EQ(read->renewal_info, "https://ca/r");
  EXPECT_TRUE(read->external_account_required);
  const auto error = [](std::string_view body) { return std::string(acme::ParseDirectory(body).status().message()); };
  EXPECT_THAT(error("[]"), HasSubstr("directory cannot be read"));
  EXPECT_THAT(error(R"({"newNonce":"https://ca/n","newAccount":"https://ca/a"})"), HasSubstr("newOrder is missing"));
  EXPECT_THAT(error(R"({"newNonce":"http://ca/n","newAccount":"https://ca/a","newOrder":"https://ca/o"})"),
              HasSubstr("newNonce is not a URL of https"));
  EXPECT_THAT(error(R"({"newNonce":"file:///n","newAccount":"https://ca/a","newOrder":"https://ca/o"})"),
              HasSubstr("newNonce"));
  EXPECT_THAT(error(std::string(acme::kBodyBytesMax + 1, ' ')), HasSubstr("too long"));
}

TEST(AcmeMessages, AnOrderIsBounded) {
  const auto read = acme::ParseOrder(
      R"({"status":"invalid","authorizations":["https://ca/1"],"finalize":"https://ca/f","error":{"type":)"
      R"("urn:ietf:params:acme:error:caa","detail":"CAA forbids it\u0007"}})");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->status, acme::Progress::kInvalid);
  EXPECT_EQ(read->error, "CAA forbids it  (caa)") << "no control byte reaches a terminal";
  std::string many = R"({"status":"pending","finalize":"https://ca/f","authorizations":["https://ca/1")";
  for (size_t i = 0; i < acme::kAuthorizationsMax; ++i) many += R"(,"https://ca/1")";
  EXPECT_THAT(std::string(acme::ParseOrder(many + "]}").status().message()), HasSubstr("too many authorizations"));
  EXPECT_FALSE(acme::ParseOrder(R"({"status":"odd","authorizations":[],"finalize":"https://ca/f"})").ok());
}

TEST(AcmeMessages, ATokenIsBase64Url) {
  const auto with = [](const std::string& token) {
    return acme::ParseAuthorization(absl::StrCat(
        R"({"status":"pending","identifier":{"type":"dns","value":"A.test"},"challenges":[{"type":"http-01","url":)",
        R"("https://ca/c","token":")", token, R"("}]})"));
  };
  ASSERT_TRUE(with("abc-_09").ok()) << with("abc-_09").status();
  EXPECT_EQ(with("abc")->host, "a.test");
  EXPECT_EQ(with("abc")->challenges[0].token, "abc");
  for (const char* bad : {"", "../etc", "a b", "a.b"}) EXPECT_FALSE(with(bad).ok()) << bad;
  EXPECT_FALSE(with(std::string(acme::kTokenBytesMax + 1, 'a')).ok());
}

TEST(AcmeMessages, ProblemsAreToldInTheCasWords) {
  const acme::Problem problem = acme::ParseProblem(
      R"({"type":"urn:ietf:params:acme:error:rejectedIdentifier","detail":"no","subproblems":[{"type":)"
      R"("urn:ietf:params:acme:error:caa","detail":"CAA","identifier":{"type":"dns","value":"b.test"}}]})");
  EXPECT_EQ(problem.type, "rejectedIdentifier");
  EXPECT_EQ(problem.text, "no (rejectedIdentifier); b.test: CAA (caa)");
  EXPECT_EQ(acme::ParseProblem("<html>").type, "");
  EXPECT_LE(acme::ParseProblem(absl::StrCat(R"({"type":"a","detail":")", std::string(5000, 'x'), R"("})")).text.size(),
            acme::kErrorBytesMax);
}

TEST(AcmeMessages, RetryAfterIsSecondsOrADate) {
  const absl::Time now = absl::FromCivil(absl::CivilSecond(2026, 11, 29, 12, 0, 0), absl::UTCTimeZone());
  EXPECT_EQ(acme::ParseRetryAfter("120", now), absl::Seconds(120));
  EXPECT_EQ(acme::ParseRetryAfter("Sun, 29 Nov 2026 12:01:00 GMT", now), absl::Minutes(1));
  EXPECT_EQ(acme::ParseRetryAfter("Sun, 29 Nov 2026 11:00:00 GMT", now), absl::ZeroDuration());
  for (const char* bad : {"", "-1", "soon", "99999999999999"}) EXPECT_EQ(acme::ParseRetryAfter(bad, now), std::nullopt);
}

TEST(AcmeMessages, ARenewalWindowHasABeginningAndAnEnd) {
  const auto read =
      acme::ParseRenewalInfo(R"({"suggestedWindow":{"start":"2026-01-02T04:00:00Z","end":"2026-01-03T04:00:00.5Z"}})");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->end - read->start, absl::Hours(24) + absl::Milliseconds(500));
  EXPECT_FALSE(
      acme::ParseRenewalInfo(R"({"suggestedWindow":{"start":"2026-01-03T04:00:00Z","end":"2026-01-02T04:00:00Z"}})")
          .ok());
  EXPECT_FALSE(acme::ParseRenewalInfo(R"({"suggestedWindow":{"start":"today","end":"tomorrow"}})").ok());
}

std::string Decoded(const nlohmann::json& in, const char* name) {
  return DecodeBase64(Base64::kUrl, in.at(name).get<std::string>()).value();
}

// The signature is checked with the key that the JWS itself carries.
TEST(AcmeKeys, SignAsJwsHasIt) {
  const auto key = acme::AccountKey::Generate();
  ASSERT_TRUE(key.ok()) << key.status();
  const auto text = key->Sign("https://ca/new", "nonce", "", R"({"a":1})");
  ASSERT_TRUE(text.ok()) << text.status();
  const auto jws = ParseJsonObject(*text);
  ASSERT_TRUE(jws.ok());
  const auto header = ParseJsonObject(Decoded(*jws, "protected"));
  ASSERT_TRUE(header.ok());
  EXPECT_EQ(header->at("alg"), "ES256");
  EXPECT_EQ(header->at("url"), "https://ca/new");
  EXPECT_EQ(header->at("nonce"), "nonce");
  EXPECT_FALSE(header->contains("kid"));
  EXPECT_EQ(Decoded(*jws, "payload"), R"({"a":1})");
  const std::string raw = Decoded(*jws, "signature");
  ASSERT_EQ(raw.size(), 64u);

  const std::string x = Decoded(header->at("jwk"), "x"), y = Decoded(header->at("jwk"), "y");
  std::string point = "\x04" + x + y;
  OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, const_cast<char*>("P-256"), 0),
      OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, point.data(), point.size()),
      OSSL_PARAM_construct_end(),
  };
  EVP_PKEY_CTX* const context = EVP_PKEY_CTX_new_from_name(nullptr, "EC", nullptr);
  EVP_PKEY* made = nullptr;
  ASSERT_EQ(EVP_PKEY_fromdata_init(context), 1);
  ASSERT_EQ(EVP_PKEY_fromdata(context, &made, EVP_PKEY_PUBLIC_KEY, parameters), 1);
  EVP_PKEY_CTX_free(context);
  const KeyPtr public_key(made);
  ECDSA_SIG* const signature = ECDSA_SIG_new();
  const auto* bytes = reinterpret_cast<const unsigned char*>(raw.data());
  ECDSA_SIG_set0(signature, BN_bin2bn(bytes, 32, nullptr), BN_bin2bn(bytes + 32, 32, nullptr));
  unsigned char* der = nullptr;
  const int size = i2d_ECDSA_SIG(signature, &der);
  ECDSA_SIG_free(signature);
  const std::string signed_text =
      absl::StrCat(jws->at("protected").get<std::string>(), ".", jws->at("payload").get<std::string>());
  EVP_MD_CTX* const verify = EVP_MD_CTX_new();
  ASSERT_EQ(EVP_DigestVerifyInit(verify, nullptr, EVP_sha256(), nullptr, public_key.get()), 1);
  EXPECT_EQ(EVP_DigestVerify(verify, der, static_cast<size_t>(size),
                             reinterpret_cast<const unsigned char*>(signed_text.data()), signed_text.size()),
            1);
  EVP_MD_CTX_free(verify);
  OPENSSL_free(der);
}

TEST(AcmeKeys, ComeBackFromPemAndBindTokens) {
  const auto key = acme::AccountKey::Generate();
  ASSERT_TRUE(key.ok());
  const auto again = acme::AccountKey::FromPem(*key->ToPem());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->KeyAuthorization("token"), key->KeyAuthorization("token"));
  EXPECT_TRUE(key->KeyAuthorization("token").starts_with("token."));
  EXPECT_EQ(key->KeyAuthorization("token").size(), 6u + 43);
  EXPECT_FALSE(acme::AccountKey::FromPem("nonsense").ok());
}

TEST(AcmeKeys, ARequestNamesEveryHost) {
  const auto request = acme::MakeRequest(std::vector<std::string>{"a.test", "b.test", "192.0.2.1"});
  ASSERT_TRUE(request.ok()) << request.status();
  const auto* at = reinterpret_cast<const unsigned char*>(request->der.data());
  X509_REQ* const read = d2i_X509_REQ(nullptr, &at, static_cast<long>(request->der.size()));
  ASSERT_NE(read, nullptr);
  EXPECT_EQ(X509_REQ_verify(read, X509_REQ_get0_pubkey(read)), 1);
  X509_REQ_free(read);
  EXPECT_THAT(request->der, HasSubstr("a.test"));
  EXPECT_THAT(request->der, HasSubstr("b.test"));
  EXPECT_TRUE(ReadPrivateKey(request->key_pem).ok());
}

// ---- The protocol, where a CA behaves as pebble does not.

class ScriptedCa {
 public:
  acme::HttpTransport transport() {
    return [this](const acme::HttpRequest& request) -> absl::StatusOr<acme::HttpResponse> {
      requests.push_back(request);
      if (responses.empty()) return absl::UnavailableError("the script is over");
      acme::HttpResponse response = responses.front();
      responses.pop_front();
      return response;
    };
  }
  void Say(long status, std::string body, std::string nonce = "n", std::string retry_after = "") {
    responses.push_back({status, std::move(body), "https://ca/here", std::move(nonce), std::move(retry_after)});
  }
  std::deque<acme::HttpResponse> responses;
  std::vector<acme::HttpRequest> requests;
};

class AcmeClient : public ::testing::Test {
 protected:
  acme::Client Client(std::string account = "https://ca/account") {
    acme::Client::Options options;
    options.directory = "https://ca/directory";
    options.transport = ca_.transport();
    options.now = [this] { return start_ + waited_; };
    options.wait = [this](absl::Duration time) {
      waited_ += time;
      return true;
    };
    return {std::move(options), *acme::AccountKey::Generate(), std::move(account)};
  }
  absl::Status Order(acme::Client* client) {
    return client->Order({"a.test"}, v1::Acme::HTTP_01, "", [](std::vector<v1::Challenge>) { return absl::OkStatus(); })
        .status();
  }
  void SayDirectory() {
    ca_.Say(200, R"({"newNonce":"https://ca/n","newAccount":"https://ca/a","newOrder":"https://ca/o"})");
  }

  const absl::Time start_ = absl::Now();
  ScriptedCa ca_;
  absl::Duration waited_;
};

TEST_F(AcmeClient, ARateLimitIsToldWithItsTime) {
  acme::Client client = Client();
  SayDirectory();
  ca_.Say(429, R"({"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many certificates"})", "n", "3600");
  const absl::Status status = Order(&client);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("too many certificates (rateLimited)"));
  EXPECT_EQ(client.retry_after(), absl::Hours(1));
}

TEST_F(AcmeClient, ANonceThatIsNotTakenIsReplacedSoOften) {
  acme::Client client = Client();
  SayDirectory();
  for (int i = 0; i < acme::Client::kNonceTriesMax; ++i) {
    ca_.Say(400, R"({"type":"urn:ietf:params:acme:error:badNonce","detail":"bad"})", absl::StrCat("n", i));
  }
  EXPECT_TRUE(absl::IsFailedPrecondition(Order(&client)));
  EXPECT_EQ(ca_.requests.size(), 1u + acme::Client::kNonceTriesMax);
}

TEST_F(AcmeClient, AnOutageIsUnavailableAndChallengesThatAreNotOfferedAreTold) {
  acme::Client client = Client();
  ca_.Say(503, "<html>", "", "60");
  EXPECT_TRUE(absl::IsUnavailable(Order(&client)));
  EXPECT_EQ(client.retry_after(), absl::Minutes(1));
  SayDirectory();
  ca_.Say(201, R"({"status":"pending","authorizations":["https://ca/z"],"finalize":"https://ca/f"})");
  ca_.Say(200, R"({"status":"pending","identifier":{"type":"dns","value":"a.test"},"challenges":)"
               R"([{"type":"dns-01","url":"https://ca/c","token":"t"}]})");
  EXPECT_THAT(std::string(Order(&client).message()), HasSubstr("does not offer the challenge http-01"));
}

TEST_F(AcmeClient, AnOrderThatIsNeverDecidedEnds) {
  acme::Client client = Client();
  SayDirectory();
  ca_.Say(201, R"({"status":"pending","authorizations":[],"finalize":"https://ca/f"})");
  for (int i = 0; i < 500; ++i) {
    ca_.Say(200, R"({"status":"processing","authorizations":[],"finalize":"https://ca/f"})", "n", "10000000");
  }
  EXPECT_TRUE(absl::IsDeadlineExceeded(Order(&client)));
  EXPECT_LE(waited_, acme::Client::kDecisionWait) << "whatever Retry-After asks for";
  EXPECT_GT(waited_, acme::Client::kDecisionWait / 2);
}

// ---- What is issued, in policy.

class AcmePolicy : public ::testing::Test {
 protected:
  AcmePolicy() : publisher_(OpenPublisher(At(directory_.File("gateway.db")))) {}

  static v1::Resource Document(const std::string& email = "") {
    v1::Resource resource;
    v1::Certificate* certificate = resource.mutable_certificate();
    certificate->set_name("shop");
    certificate->mutable_acme()->add_hosts("shop.test");
    certificate->mutable_acme()->set_directory("https://ca.test/directory");
    certificate->mutable_acme()->set_challenge(v1::Acme::HTTP_01);
    certificate->mutable_acme()->set_email(email);
    return resource;
  }
  static std::string Text(const std::string& path) {
    std::string text;
    std::ifstream file(path);
    std::getline(file, text, '\0');
    return text;
  }
  absl::Status Issue(const std::string& email = "") {
    const auto files = ca_.IssueFor({"DNS:shop.test"});
    return publisher_->Issue("shop", Document(email).certificate().acme(), Text(files.cert), Text(files.key));
  }
  const v1::Certificate& Now() {
    return publisher_->current()->resources->at({"Certificate", "shop"}).resource->certificate();
  }

  fixtures::LabCa ca_;
  TempDir directory_;
  std::unique_ptr<Publisher> publisher_;
};

TEST_F(AcmePolicy, WaitsForItsCertificateAndServesItThen) {
  const auto applied = publisher_->Apply(ApplyOf({Document()}), "test");
  ASSERT_TRUE(applied.ok()) << applied.status();
  EXPECT_THAT(applied->warnings(), ::testing::Contains(HasSubstr("no certificate is issued yet")));
  EXPECT_TRUE(publisher_->current()->snapshot->certificates().empty());
  EXPECT_EQ(publisher_->current()->snapshot->keys_lacking(), 0u);
  ASSERT_TRUE(Issue().ok());
  ASSERT_EQ(publisher_->current()->snapshot->certificates().size(), 1u);
  const auto history = publisher_->store().RevisionsBefore(0, {}, 1);
  EXPECT_EQ(history->front().actor(), "acme");
  EXPECT_THAT(history->front().comment(), HasSubstr("https://ca.test/directory"));
}

TEST_F(AcmePolicy, ApplyingTheDocumentAgainChangesNothing) {
  ASSERT_TRUE(publisher_->Apply(ApplyOf({Document()}), "test").ok());
  ASSERT_TRUE(Issue().ok());
  const std::string chain = Now().certificate().inline_();
  const auto again = publisher_->Apply(ApplyOf({Document()}), "test");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->changes(0).op(), v1::Change::UNCHANGED);
  const auto changed = publisher_->Apply(ApplyOf({Document("ops@a.test")}), "test");
  ASSERT_TRUE(changed.ok()) << changed.status();
  EXPECT_EQ(Now().certificate().inline_(), chain) << "the last good one serves on";
  EXPECT_EQ(Now().acme().email(), "ops@a.test");
  EXPECT_TRUE(absl::IsFailedPrecondition(Issue())) << "ordered for what is not wanted any more";
}

TEST_F(AcmePolicy, WhatGetPrintsMayBeAppliedHereAndElsewhereAndAKeyMayNot) {
  ASSERT_TRUE(publisher_->Apply(ApplyOf({Document()}), "test").ok());
  ASSERT_TRUE(Issue().ok());
  v1::Resource printed;
  *printed.mutable_certificate() = Now();
  const std::string key = printed.certificate().key().inline_();
  printed.mutable_certificate()->mutable_key()->set_inline_("redacted:0123456789abcdef");
  EXPECT_EQ(publisher_->Apply(ApplyOf({printed}), "test")->changes(0).op(), v1::Change::UNCHANGED);
  auto other = OpenPublisher(At(directory_.File("other.db")));
  const auto moved = other->Apply(ApplyOf({printed}), "test");
  ASSERT_TRUE(moved.ok()) << moved.status();
  EXPECT_FALSE(other->current()->resources->at({"Certificate", "shop"}).resource->certificate().has_key());
  printed.mutable_certificate()->mutable_key()->set_inline_(key);
  EXPECT_FALSE(publisher_->Apply(ApplyOf({printed}), "test").ok());
}

TEST_F(AcmePolicy, ARollbackBringsNoOldCertificateBack) {
  ASSERT_TRUE(publisher_->Apply(ApplyOf({Document()}), "test").ok());
  ASSERT_TRUE(Issue().ok());
  const uint64_t first = publisher_->current()->revision;
  ASSERT_TRUE(Issue().ok());
  const std::string newest = Now().certificate().inline_();
  v1::RollbackRequest request;
  request.set_revision(first);
  ASSERT_TRUE(publisher_->Rollback(request, "test").ok());
  EXPECT_EQ(Now().certificate().inline_(), newest);
}

// Policy would not take the certificate, which the CA has counted by then.
TEST_F(AcmePolicy, NothingIsOrderedWhileAChangeIsUnderWay) {
  v1::Resource document = Document();
  document.mutable_certificate()->mutable_acme()->set_directory("https://127.0.0.1:1/directory");  // refuses
  v1::ApplyRequest request = ApplyOf({document});
  request.mutable_confirm_within()->set_seconds(600);
  const auto applied = publisher_->Apply(request, "test");
  ASSERT_TRUE(applied.ok()) << applied.status();
  Hub hub;
  std::atomic<int> looks{0};
  AcmeOptions options;
  options.now = [&looks] {
    ++looks;
    return absl::Now();
  };
  AcmeIssuer issuer(publisher_.get(), &hub, options);
  ASSERT_TRUE(fixtures::WaitFor([&] {
    hub.ledger().Notify();
    return looks >= 10;
  }));
  EXPECT_EQ(issuer.counts(), (std::array<uint64_t, 3>{}));
  v1::DecideChangeRequest confirm;
  confirm.set_decision(v1::DecideChangeRequest::CONFIRM);
  ASSERT_TRUE(publisher_->Decide(confirm, "test").ok());
  EXPECT_TRUE(fixtures::WaitFor([&] { return issuer.counts()[static_cast<size_t>(AcmeIssuer::Result::kFailed)] == 1; }))
      << "tried, and the directory refused";
}

TEST_F(AcmePolicy, ARollbackTakesBackACertificateThatWasGivenByHand) {
  ASSERT_TRUE(publisher_->Apply(ApplyOf({Document()}), "test").ok());
  ASSERT_TRUE(Issue().ok());
  const std::string issued = Now().certificate().inline_();
  v1::RollbackRequest request;
  request.set_revision(publisher_->current()->revision);
  const auto files = ca_.IssueFor({"DNS:shop.test"});
  v1::Resource by_hand;
  by_hand.mutable_certificate()->set_name("shop");
  by_hand.mutable_certificate()->mutable_certificate()->set_inline_(Text(files.cert));
  by_hand.mutable_certificate()->mutable_key()->set_inline_(Text(files.key));
  const auto applied = publisher_->Apply(ApplyOf({by_hand}), "test");
  ASSERT_TRUE(applied.ok()) << applied.status();
  ASSERT_TRUE(publisher_->Rollback(request, "test").ok());
  EXPECT_TRUE(Now().has_acme());
  EXPECT_EQ(Now().certificate().inline_(), issued);
}

TEST_F(AcmePolicy, WhatIsIssuedStaysInItsSet) {
  v1::ApplyRequest request = ApplyOf({Document()});
  request.set_set("prod");
  ASSERT_TRUE(publisher_->Apply(request, "test").ok());
  ASSERT_TRUE(Issue().ok());
  EXPECT_EQ(publisher_->current()->resources->at({"Certificate", "shop"}).set, "prod");
  EXPECT_EQ(publisher_->Apply(request, "test")->changes(0).op(), v1::Change::UNCHANGED);
  request.clear_resources();
  const auto emptied = publisher_->Apply(request, "test");
  ASSERT_TRUE(emptied.ok()) << emptied.status();
  EXPECT_FALSE(publisher_->current()->resources->contains({"Certificate", "shop"}));
}

TEST_F(AcmePolicy, WarnsOfWhatNoCaIssuesOrNoRouteServes) {
  v1::Resource document = Document();
  document.mutable_certificate()->mutable_acme()->add_hosts("*.shop.test");
  document.mutable_certificate()->mutable_acme()->add_hosts("192.0.2.7");
  v1::Resource route = PrefixRoute("a", "a");
  route.mutable_route()->mutable_match()->add_hosts("other.test");
  const auto applied = publisher_->Apply(ApplyOf({document, StaticService("a"), route}), "test");
  ASSERT_TRUE(applied.ok()) << applied.status();
  EXPECT_THAT(applied->warnings(), ::testing::Contains(HasSubstr("*.shop.test is a wildcard")));
  EXPECT_THAT(applied->warnings(), ::testing::Contains(HasSubstr("192.0.2.7 is an address")));
  EXPECT_THAT(applied->warnings(), ::testing::Contains(HasSubstr("no route serves 'shop.test'")));
}

TEST_F(AcmePolicy, BadDocumentsAreToldFieldByField) {
  const auto error = [this](auto change) {
    v1::Resource document = Document();
    change(document.mutable_certificate());
    const auto applied = publisher_->Apply(ApplyOf({document}), "test");
    return applied.ok() ? std::string() : std::string(applied.status().message());
  };
  EXPECT_NE(error([](v1::Certificate* c) { c->clear_acme(); }), "");
  EXPECT_NE(error([](v1::Certificate* c) { c->mutable_acme()->set_directory("http://ca.test/"); }), "");
  EXPECT_NE(error([](v1::Certificate* c) { c->mutable_acme()->set_directory("ca.test"); }), "");
  EXPECT_NE(error([](v1::Certificate* c) { c->mutable_acme()->set_email("ops"); }), "");
  EXPECT_NE(error([](v1::Certificate* c) { c->mutable_acme()->clear_challenge(); }), "");
  EXPECT_NE(error([](v1::Certificate* c) { c->mutable_acme()->clear_hosts(); }), "");
  EXPECT_NE(error([](v1::Certificate* c) { c->mutable_acme()->add_hosts("shop.test"); }), "");
  EXPECT_NE(error([](v1::Certificate* c) { c->mutable_acme()->mutable_ca()->set_inline_("x"); }), "");
  EXPECT_NE(error([](v1::Certificate* c) { c->add_hosts("x.test"); }), "");
  EXPECT_EQ(error([](v1::Certificate*) {}), "");
}

}  // namespace
}  // namespace gateway::controlplane
