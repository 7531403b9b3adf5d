// Tokens of an OpenID Connect issuer, fetched from a real one over HTTPS on loopback.
#include "controlplane/identity/oidc.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <atomic>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/base64.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/openid_issuer.h"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/fixtures/wait_for.h"

namespace gateway::controlplane {
namespace {

using namespace std::chrono_literals;
using fixtures::JwksOf;
using fixtures::TokenSigner;
using fixtures::WaitFor;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

class OidcTest : public ::testing::Test {
 protected:
  OidcTest() {
    section_.set_issuer(issuer_.url());
    section_.set_audience("gateway");
    section_.set_name_claim("sub");
    section_.set_groups_claim("groups");
    section_.set_ca(issuer_.ca());
    AddRole("staff", "viewer");
    AddRole("on-call", "operator");
    AddRole("platform", "admin");
    v1::OidcRole* orders = AddRole("orders", "editor");
    (*orders->mutable_only())["team"] = "orders";
    orders->add_kinds("routes");
    (*AddRole("billing", "editor")->mutable_only())["team"] = "billing";
    AddRole("editors", "editor");
  }

  v1::OidcRole* AddRole(const std::string& group, const std::string& role) {
    v1::OidcRole* added = section_.add_roles();
    added->set_group(group);
    added->set_role(role);
    return added;
  }

  void Open() {
    OidcOptions options;
    options.wait = wait_;
    options.clock = [this] { return TimePoint(std::chrono::milliseconds(now_ms_)); };
    auto opened = Oidc::Open(section_, std::move(options));
    ASSERT_TRUE(opened.ok()) << opened.status();
    oidc_ = *std::move(opened);
  }

  // Of the newest call.
  absl::Status Identify(const std::string& token, absl::Duration later = absl::ZeroDuration()) {
    if (oidc_ == nullptr) Open();
    caller_ = Caller();
    return oidc_->Identify(token, absl::Now() + later, &caller_);
  }
  absl::StatusCode CodeOf(const std::string& token, absl::Duration later = absl::ZeroDuration()) {
    return Identify(token, later).code();
  }
  // The claims of a good token, with other ones instead of "iss", "aud" and "exp".
  std::string Claims(std::string_view issuer, std::string_view audience_json, int64_t expires_in,
                     std::string_view more = "") const {
    return absl::StrCat(R"({"iss":")", std::string(issuer), R"(","aud":)", std::string(audience_json),
                        R"(,"sub":"ann","groups":["staff"],"exp":)", absl::ToUnixSeconds(absl::Now()) + expires_in,
                        std::string(more), "}");
  }
  std::string Sign(const std::string& claims) const { return issuer_.signer().Sign(claims); }

  fixtures::OpenIdIssuer issuer_;
  v1::OidcSection section_;
  std::chrono::milliseconds wait_{10'000};
  std::atomic<int64_t> now_ms_{1'000'000};
  std::unique_ptr<Oidc> oidc_;
  Caller caller_;
};

TEST_F(OidcTest, TheHighestRoleOfTheGroupsCounts) {
  ASSERT_TRUE(Identify(issuer_.TokenFor("ann", R"(["staff","unknown","on-call"])")).ok());
  EXPECT_EQ(caller_.name, "ann");
  EXPECT_EQ(caller_.role, v1::Token::OPERATOR);
  EXPECT_EQ(caller_.scope, nullptr);
  EXPECT_GT(caller_.expires_at, absl::Now() + absl::Minutes(59));
  EXPECT_LT(caller_.expires_at, absl::Now() + absl::Minutes(61));
  ASSERT_TRUE(Identify(issuer_.TokenFor("ann", R"(["platform","orders"])")).ok());
  EXPECT_EQ(caller_.role, v1::Token::ADMIN);
  EXPECT_EQ(caller_.scope, nullptr);
  ASSERT_TRUE(Identify(issuer_.TokenFor("ann", R"("staff")")).ok()) << "a string is one group";
  EXPECT_EQ(caller_.role, v1::Token::VIEWER);
}

TEST_F(OidcTest, AnEditorIsBoundToLabelsAndKinds) {
  ASSERT_TRUE(Identify(issuer_.TokenFor("ci", R"(["orders"])")).ok());
  EXPECT_EQ(caller_.role, v1::Token::EDITOR);
  ASSERT_NE(caller_.scope, nullptr);
  EXPECT_THAT(caller_.scope->only, ElementsAre(Pair("team", "orders")));
  EXPECT_THAT(caller_.scope->kinds, ElementsAre("Route"));
  // Of several: the unrestricted one, else the first in the file.
  ASSERT_TRUE(Identify(issuer_.TokenFor("ci", R"(["billing","orders"])")).ok());
  ASSERT_NE(caller_.scope, nullptr);
  EXPECT_THAT(caller_.scope->only, ElementsAre(Pair("team", "orders")));
  ASSERT_TRUE(Identify(issuer_.TokenFor("ci", R"(["billing","editors"])")).ok());
  EXPECT_EQ(caller_.scope, nullptr);
}

TEST_F(OidcTest, WithoutAGroupOfTheFileNobodyHasARole) {
  for (const char* groups : {R"(["guests"])", "[]", R"("staff on-call")", "7", R"({"staff":true})", "[7]"}) {
    const absl::Status status = Identify(issuer_.TokenFor("ann", groups));
    EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied) << groups;
    EXPECT_THAT(std::string(status.message()), HasSubstr("'ann' is in no group with a role")) << groups;
    EXPECT_EQ(caller_.name, "ann") << "the audit names who is denied";
    EXPECT_EQ(caller_.role, v1::Token::ROLE_UNSPECIFIED);
  }
  section_.set_groups_claim("roles");
  Open();
  const absl::Status status = Identify(issuer_.TokenFor("ann", R"(["staff"])"));
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(status.message()), HasSubstr("has no claim 'roles'"));
}

TEST_F(OidcTest, GroupsMayBeInsideObjects) {
  section_.set_groups_claim("resource_access.gate.way.roles");
  Open();
  EXPECT_TRUE(Identify(issuer_.TokenFor("ann", "[]",
                                        R"(,"resource_access":{"gate":{"x":1},"gate.way":{"roles":["platform"]}})"))
                  .ok());
  EXPECT_EQ(caller_.role, v1::Token::ADMIN);
  EXPECT_EQ(CodeOf(issuer_.TokenFor("ann", "[]", R"(,"resource_access":["gate"])")),
            absl::StatusCode::kPermissionDenied);
  section_.set_groups_claim("https://example.com/groups");
  Open();
  EXPECT_TRUE(Identify(issuer_.TokenFor("ann", "[]", R"(,"https://example.com/groups":["staff"])")).ok());
}

TEST_F(OidcTest, ANameIsFitForHistoryAndAudit) {
  const std::string longest(Oidc::kNameBytesMax, 'x');
  for (const std::string& name : {longest, std::string("auth0|5f7c"), std::string("Jörg Groß")}) {
    ASSERT_TRUE(Identify(issuer_.TokenFor(name, R"("staff")")).ok()) << name;
    EXPECT_EQ(caller_.name, name);
  }
  for (const std::string& name :
       {longest + "x", std::string(), std::string("a\\u001b[2J"), std::string("a\\nb"), std::string("a\\u007f"),
        std::string("a\\u009b2J"), std::string(" ann"), std::string("bootstrap"), std::string("acme"),
        std::string("canary"), std::string("Control Plane")}) {
    const absl::Status status = Identify(issuer_.TokenFor(name, R"("platform")"));
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << name;
    EXPECT_THAT(std::string(status.message()), HasSubstr("'sub' is not an operator's name"));
    EXPECT_EQ(caller_.name, "");
  }
  section_.set_name_claim("email");
  Open();
  EXPECT_EQ(CodeOf(issuer_.TokenFor("ann", R"("staff")")), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(CodeOf(issuer_.TokenFor("ann", R"("staff")", R"(,"email":7)")), absl::StatusCode::kUnauthenticated);
  ASSERT_TRUE(Identify(issuer_.TokenFor("ann", R"("staff")", R"(,"email":"ann@example.com")")).ok());
  EXPECT_EQ(caller_.name, "ann@example.com");
}

TEST_F(OidcTest, ATokenIsOfTheIssuerForTheAudienceAndInItsTime) {
  const std::string mine = issuer_.url();
  struct Case {
    std::string claims, message;
  };
  const std::vector<Case> cases = {
      {Claims("https://id.example.com", R"("gateway")", 60), "another issuer"},
      {Claims(mine + "/", R"("gateway")", 60), "another issuer"},
      {Claims(mine, R"("other")", 60), "another audience"},
      {Claims(mine, R"(["other"])", 60), "another audience"},
      {Claims(mine, R"("gateway other")", 60), "another audience"},
      {Claims(mine, R"("gateway")", -31), "has expired"},
      {Claims(mine, R"("gateway")", 60, absl::StrCat(",\"nbf\":", absl::ToUnixSeconds(absl::Now()) + 90)),
       "is not valid yet"},
      {absl::StrCat(R"({"iss":")", mine, R"(","aud":"gateway","sub":"ann","groups":"staff"})"), "never expires"},
  };
  for (const Case& each : cases) {
    const absl::Status status = Identify(Sign(each.claims));
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << each.claims;
    EXPECT_THAT(std::string(status.message()), HasSubstr(each.message)) << each.claims;
  }
  for (const std::string& good :
       {Claims(mine, R"(["other","gateway"])", 60), Claims(mine, R"("gateway")", -10),
        Claims(mine, R"("gateway")", 60, absl::StrCat(",\"nbf\":", absl::ToUnixSeconds(absl::Now()) + 10))}) {
    EXPECT_TRUE(Identify(Sign(good)).ok()) << good;
  }
  EXPECT_EQ(CodeOf(Sign(Claims(mine, R"("gateway")", 60)), absl::Seconds(91)), absl::StatusCode::kUnauthenticated);
}

TEST_F(OidcTest, OnlyItsKeysSignAndOnlyByTheirAlgorithms) {
  const std::string claims = Claims(issuer_.url(), R"("gateway")", 60);
  const auto url = [](std::string_view text) { return EncodeBase64(Base64::kUrl, text); };
  const std::string none = absl::StrCat(url(R"({"alg":"none"})"), ".", url(claims), ".");
  // The public key as the secret of an HMAC.
  const std::string input = absl::StrCat(url(R"({"alg":"HS256","kid":"k1"})"), ".", url(claims));
  const std::string pem = issuer_.signer().PublicPem();
  unsigned char mac[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  HMAC(EVP_sha256(), pem.data(), static_cast<int>(pem.size()), reinterpret_cast<const unsigned char*>(input.data()),
       input.size(), mac, &size);
  const std::string confused = absl::StrCat(input, ".", url({reinterpret_cast<const char*>(mac), size}));
  const std::string stranger = TokenSigner(JwsAlgorithm::kEs256, "k1").Sign(claims);
  const std::string good = Sign(claims);
  for (const std::string& bad : {none, confused, stranger, good.substr(0, good.rfind('.') + 1), good + "x",
                                 std::string("a.b.c"), std::string(".."), std::string(20'000, 'x')}) {
    EXPECT_EQ(CodeOf(bad), absl::StatusCode::kUnauthenticated) << bad.substr(0, 200);
  }
  EXPECT_TRUE(Identify(good).ok());
  EXPECT_TRUE(Oidc::LooksLikeToken(good));
  EXPECT_FALSE(Oidc::LooksLikeToken("gwt_0000"));
}

TEST_F(OidcTest, RotatedKeysAreFetchedOnceForAllUnknownOnes) {
  ASSERT_TRUE(Identify(issuer_.TokenFor("ann", R"("staff")")).ok());
  const int before = issuer_.fetches();
  const std::string claims = Claims(issuer_.url(), R"("gateway")", 60);
  const TokenSigner stranger(JwsAlgorithm::kEs256, "unknown");
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(CodeOf(stranger.Sign(claims)), absl::StatusCode::kUnauthenticated);
  }
  EXPECT_EQ(issuer_.fetches(), before + 1);
  // A token of another issuer causes none.
  now_ms_ += 10'000;
  EXPECT_EQ(CodeOf(stranger.Sign(Claims("https://id.example.com", R"("gateway")", 60))),
            absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(issuer_.fetches(), before + 1);

  const TokenSigner next(JwsAlgorithm::kRs256, "k2");
  issuer_.PublishKeys(next.Jwks());
  EXPECT_TRUE(Identify(next.Sign(claims)).ok());
  EXPECT_EQ(issuer_.fetches(), before + 2);
  EXPECT_EQ(CodeOf(Sign(claims)), absl::StatusCode::kUnauthenticated) << "the key that it replaced";
}

TEST_F(OidcTest, TheLastKeysServeForADayWhileTheIssuerIsAway) {
  const std::string token = issuer_.TokenFor("ann", R"("staff")");
  ASSERT_TRUE(Identify(token).ok());
  issuer_.Stop();
  now_ms_ += std::chrono::milliseconds(23h).count();
  ASSERT_TRUE(WaitFor([&] { return oidc_->keys().failures > 0; }));
  EXPECT_TRUE(Identify(token).ok());
  now_ms_ += std::chrono::milliseconds(2h).count();
  const absl::Status status = Identify(token);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("not been fetched for 24 hours"));
  issuer_.Restart();
  now_ms_ += std::chrono::milliseconds(1min).count();
  EXPECT_TRUE(WaitFor([&] { return Identify(token).ok(); }));
}

TEST_F(OidcTest, WithoutKeysNobodyIsIdentified) {
  issuer_.Stop();
  const std::string token = issuer_.TokenFor("ann", R"("staff")");
  const absl::Status status = Identify(token);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_FALSE(oidc_->keys().has_keys);
  issuer_.Restart();
  now_ms_ += 60'000;
  EXPECT_TRUE(WaitFor([&] { return Identify(token).ok(); }));
}

// A call waits for keys for a moment at most, and one at a time: gRPC's threads serve data planes too.
TEST_F(OidcTest, ASlowIssuerHoldsOneCallForAMoment) {
  fixtures::ScriptedUpstream silent([](fixtures::UpstreamConnection& connection) { connection.StaySilent(); });
  issuer_.PublishConfiguration(
      absl::StrCat(R"({"issuer":")", issuer_.url(), R"(","jwks_uri":"http://)", silent.address(), R"(/keys"})"));
  wait_ = 500ms;
  Open();
  ASSERT_TRUE(silent.WaitForConnections(1));
  const std::string token = issuer_.TokenFor("ann", R"("staff")");
  constexpr int kCalls = 8;
  std::atomic<int> unavailable{0};
  const absl::Time begin = absl::Now();
  std::vector<std::thread> calls;
  for (int i = 0; i < kCalls; ++i) {
    calls.emplace_back([&] {
      Caller caller;
      if (oidc_->Identify(token, absl::Now(), &caller).code() == absl::StatusCode::kUnavailable) ++unavailable;
    });
  }
  for (std::thread& call : calls) call.join();
  EXPECT_EQ(unavailable, kCalls);
  EXPECT_LT(absl::Now() - begin, absl::Seconds(4)) << "before the fetch times out";
  // Nor does it hold up the end.
  const absl::Time end = absl::Now();
  oidc_ = nullptr;
  EXPECT_LT(absl::Now() - end, absl::Seconds(3));
}

TEST_F(OidcTest, AConfigurationOrKeysThatAreNotTheIssuersAreNotUsed) {
  const std::string mine = issuer_.url();
  const auto configuration = [](std::string_view issuer, std::string_view keys) {
    return absl::StrCat(R"({"issuer":")", std::string(issuer), R"(","jwks_uri":")", std::string(keys), R"("})");
  };
  const std::string token = issuer_.TokenFor("ann", R"("staff")");
  for (const std::string& bad :
       {configuration("https://id.example.com", mine + "/keys"), configuration(mine + "/", mine + "/keys"),
        absl::StrCat(R"({"jwks_uri":")", mine, R"(/keys"})"), absl::StrCat(R"({"issuer":")", mine, R"("})"),
        configuration(mine, "http://id.example.com/keys"), configuration(mine, "file:///etc/hostname"),
        configuration(mine, mine + "/nowhere"), std::string("<html>"),
        absl::StrCat(configuration(mine, mine + "/keys"), std::string(JwkSet::kTextBytesMax, ' '))}) {
    issuer_.PublishConfiguration(bad);
    Open();
    EXPECT_EQ(CodeOf(token), absl::StatusCode::kUnavailable) << bad.substr(0, 200);
  }
  issuer_.PublishConfiguration(configuration(mine, mine + "/keys"));
  for (const std::string& bad :
       {std::string(JwkSet::kTextBytesMax, ' ') + issuer_.signer().Jwks(), std::string(R"({"keys":[]})"),
        JwksOf({R"({"kty":"oct","k":"c2VjcmV0","kid":"k1"})"})}) {
    issuer_.PublishKeys(bad);
    Open();
    EXPECT_EQ(CodeOf(token), absl::StatusCode::kUnavailable) << bad.substr(0, 200);
  }
}

TEST_F(OidcTest, TheIssuersCertificateIsOfTheGivenCa) {
  const fixtures::LabCa other;
  section_.set_ca(other.file());
  EXPECT_EQ(CodeOf(issuer_.TokenFor("ann", R"("staff")")), absl::StatusCode::kUnavailable);
  section_.set_ca("/nowhere/ca.crt");
  EXPECT_THAT(std::string(Oidc::Open(section_).status().message()), HasSubstr("control_plane.oidc.ca: '/nowhere"));
}

TEST_F(OidcTest, AKindThatDoesNotExistIsNamed) {
  section_.mutable_roles(3)->add_kinds("Rout");
  EXPECT_THAT(std::string(Oidc::Open(section_).status().message()),
              HasSubstr("control_plane.oidc.roles[3].kinds[1]: there is no kind 'Rout'"));
}

}  // namespace
}  // namespace gateway::controlplane
