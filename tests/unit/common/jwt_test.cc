#include "common/auth/jwt.h"

#include "common/base/text.h"
#include "gtest/gtest.h"
#include "tests/fixtures/token_signer.h"

namespace gateway {
namespace {

using namespace std::chrono_literals;
using fixtures::JwksOf;
using fixtures::TokenSigner;

const WallTime kNow = WallTime(1'800'000'000s);

JwtRules Rules() {
  JwtRules rules;
  rules.issuer = "https://id.example.com";
  rules.audiences = {"orders", "carts"};
  return rules;
}

std::string Claims(std::string_view more = "", int64_t exp = 1'800'000'300) {
  return Concat(R"({"iss":"https://id.example.com","aud":"orders","sub":"u1","exp":)", exp, more, "}");
}

JwtRefusal Check(std::string_view payload, const JwtRules& rules = Rules(), WallTime now = kNow) {
  return CheckJwtClaims(payload, rules, now).refusal;
}

JwkSet SetOf(std::initializer_list<std::string> keys) {
  absl::StatusOr<JwkSet> set = ParseJwks(JwksOf(keys));
  EXPECT_TRUE(set.ok()) << set.status();
  return set.ok() ? *std::move(set) : JwkSet();
}

TEST(JwtClaims, ExpireWithTheirLeeway) {
  EXPECT_EQ(Check(Claims()), JwtRefusal::kNone);
  EXPECT_EQ(CheckJwtClaims(Claims(), Rules(), kNow).claims.expires, kNow + 360s);
  EXPECT_EQ(Check(Claims("", 1'800'000'000 - 59)), JwtRefusal::kNone);
  EXPECT_EQ(Check(Claims("", 1'800'000'000 - 60)), JwtRefusal::kExpired);
  JwtRules strict = Rules();
  strict.leeway = 0s;
  EXPECT_EQ(Check(Claims("", 1'800'000'000), strict), JwtRefusal::kExpired);
  EXPECT_EQ(Check(Claims("", 1'800'000'001), strict), JwtRefusal::kNone);
  EXPECT_EQ(Check(R"({"iss":"https://id.example.com","aud":"orders"})"), JwtRefusal::kNoExpiry);
  for (const char* exp : {"\"1900000000\"", "null", "[]", "true", "1e300", "-1e300"}) {
    EXPECT_EQ(Check(Concat(R"({"exp":)", exp, "}"), {}), JwtRefusal::kMalformed) << exp;
  }
  EXPECT_EQ(Check(R"({"exp":1900000000.5})", {}), JwtRefusal::kNone);
  EXPECT_EQ(Check(R"({"exp":-1})", {}), JwtRefusal::kExpired);
}

TEST(JwtClaims, AreNotValidBeforeTheirTime) {
  for (const char* name : {"nbf", "iat"}) {
    EXPECT_EQ(Check(Claims(Concat(",\"", name, "\":1800000060"))), JwtRefusal::kNone) << name;
    EXPECT_EQ(Check(Claims(Concat(",\"", name, "\":1800000061"))), JwtRefusal::kNotYetValid) << name;
    EXPECT_EQ(Check(Claims(Concat(",\"", name, "\":\"x\""))), JwtRefusal::kMalformed) << name;
  }
}

TEST(JwtClaims, AreOfTheIssuerAndForTheAudience) {
  EXPECT_EQ(Check(R"({"exp":1900000000,"aud":"orders"})"), JwtRefusal::kIssuer);
  EXPECT_EQ(Check(R"({"exp":1900000000,"aud":"orders","iss":"https://id.example.com/"})"), JwtRefusal::kIssuer);
  EXPECT_EQ(Check(R"({"exp":1900000000,"aud":"orders","iss":["https://id.example.com"]})"), JwtRefusal::kIssuer);
  const auto with_aud = [](std::string_view aud) {
    return Concat(R"({"exp":1900000000,"iss":"https://id.example.com","aud":)", aud, "}");
  };
  EXPECT_EQ(Check(with_aud(R"("carts")")), JwtRefusal::kNone);
  EXPECT_EQ(Check(with_aud(R"(["x","orders"])")), JwtRefusal::kNone);
  for (const char* aud : {R"("x")", R"(["x"])", "[]", "{}", "null", R"("orders carts")", R"({"orders":1})"}) {
    EXPECT_EQ(Check(with_aud(aud)), JwtRefusal::kAudience) << aud;
  }
  EXPECT_EQ(Check(R"({"exp":1900000000,"iss":"https://id.example.com"})"), JwtRefusal::kAudience);
  EXPECT_EQ(Check(R"({"exp":1900000000})", {}), JwtRefusal::kNone);
}

TEST(JwtClaims, HaveWhatIsRequired) {
  JwtRules rules;
  rules.require = {{"scope", "orders:read"}};
  const auto with = [](std::string_view claim) { return Concat(R"({"exp":1900000000,"scope":)", claim, "}"); };
  for (const char* good :
       {R"("orders:read")", R"("a orders:read b")", R"("a  orders:read")", R"(["a","orders:read"])"}) {
    EXPECT_EQ(Check(with(good), rules), JwtRefusal::kNone) << good;
  }
  for (const char* bad : {R"("orders:readall")", R"("xorders:read")", R"("")", "[]", R"(["orders:read x"])", "7",
                          "null", R"({"orders:read":true})", R"([["orders:read"]])"}) {
    EXPECT_EQ(Check(with(bad), rules), JwtRefusal::kClaims) << bad;
  }
  rules.require = {{"admin", "true"}, {"level", "7"}};
  EXPECT_EQ(Check(R"({"exp":1900000000,"admin":true,"level":7})", rules), JwtRefusal::kNone);
  EXPECT_EQ(Check(R"({"exp":1900000000,"admin":true})", rules), JwtRefusal::kClaims);
  EXPECT_EQ(Check(R"({"exp":1900000000,"admin":false,"level":7})", rules), JwtRefusal::kClaims);
}

TEST(JwtClaims, AreKeptAsText) {
  const JwtVerdict verdict = CheckJwtClaims(
      R"({"exp":1900000000,"sub":"u1","roles":["a","b"],"n":7,"ok":true,"o":{},"line":"a\r\nX: y","none":null})", {},
      kNow);
  EXPECT_EQ(verdict.claims.Find("sub"), "u1");
  EXPECT_EQ(verdict.claims.Find("roles"), "a b");
  EXPECT_EQ(verdict.claims.Find("n"), "7");
  EXPECT_EQ(verdict.claims.Find("ok"), "true");
  for (const char* absent : {"o", "line", "none", "x", ""}) EXPECT_EQ(verdict.claims.Find(absent), "") << absent;
}

TEST(JwtClaims, AreOneJsonObject) {
  for (const char* payload : {"", "7", "[]", "{", R"({"exp":1900000000,"exp":1})", "\xff"}) {
    EXPECT_EQ(Check(payload, {}), JwtRefusal::kMalformed) << payload;
  }
}

TEST(Jwt, IsVerifiedByTheKeyThatItNames) {
  const TokenSigner a(JwsAlgorithm::kEs256, "a");
  const TokenSigner b(JwsAlgorithm::kEs256, "b");
  const TokenSigner unnamed(JwsAlgorithm::kEs256, "");
  const std::string claims = Claims();
  const JwkSet both = SetOf({a.PublicJwk(), b.PublicJwk()});
  EXPECT_EQ(VerifyJwt(a.Sign(claims), both, Rules(), kNow).refusal, JwtRefusal::kNone);
  EXPECT_EQ(VerifyJwt(b.Sign(claims), both, Rules(), kNow).refusal, JwtRefusal::kNone);
  // Signed by a, with b's key ID.
  EXPECT_EQ(VerifyJwt(a.SignWithHeader(R"({"alg":"ES256","kid":"b"})", claims), both, Rules(), kNow).refusal,
            JwtRefusal::kSignature);
  // Without a kid, all keys of the type are tried.
  EXPECT_EQ(VerifyJwt(b.SignWithHeader(R"({"alg":"ES256"})", claims), both, Rules(), kNow).refusal, JwtRefusal::kNone);
  // An unknown kid: only a key without a kid may match.
  EXPECT_EQ(VerifyJwt(a.SignWithHeader(R"({"alg":"ES256","kid":"c"})", claims), both, Rules(), kNow).refusal,
            JwtRefusal::kUnknownKey);
  EXPECT_EQ(VerifyJwt(unnamed.SignWithHeader(R"({"alg":"ES256","kid":"c"})", claims),
                      SetOf({a.PublicJwk(), unnamed.PublicJwk()}), Rules(), kNow)
                .refusal,
            JwtRefusal::kNone);
  EXPECT_EQ(VerifyJwt(TokenSigner(JwsAlgorithm::kEdDsa, "a").Sign(claims), both, Rules(), kNow).refusal,
            JwtRefusal::kUnknownKey);
  JwtRules rules = Rules();
  rules.algorithms = {JwsAlgorithm::kRs256};
  EXPECT_EQ(VerifyJwt(a.Sign(claims), both, rules, kNow).refusal, JwtRefusal::kMalformed);
}

// A token without a kid costs at most a few signature checks, however many keys there are.
TEST(Jwt, TriesFewKeys) {
  std::vector<std::unique_ptr<TokenSigner>> signers;
  std::string jwks = R"({"keys":[)";
  for (int i = 0; i < 10; ++i) {
    signers.push_back(std::make_unique<TokenSigner>(JwsAlgorithm::kEdDsa, Concat("k", i)));
    Append(&jwks, i == 0 ? "" : ",", signers.back()->PublicJwk());
  }
  const absl::StatusOr<JwkSet> set = ParseJwks(jwks + "]}");
  ASSERT_TRUE(set.ok());
  const auto verdict = [&](int i) {
    return VerifyJwt(signers[static_cast<size_t>(i)]->SignWithHeader(R"({"alg":"EdDSA"})", Claims()), *set, Rules(),
                     kNow)
        .refusal;
  };
  EXPECT_EQ(verdict(kJwtKeysTriedMax - 1), JwtRefusal::kNone);
  EXPECT_EQ(verdict(kJwtKeysTriedMax), JwtRefusal::kSignature);
}

// The issuer that a token claims selects the keys, before anything is verified.
TEST(Jwt, ReadsTheClaimedIssuer) {
  const TokenSigner signer(JwsAlgorithm::kEdDsa);
  EXPECT_EQ(ClaimedIssuer(signer.Sign(R"({"iss":"https://id.example.com"})")), "https://id.example.com");
  for (const char* claims : {"{}", R"({"iss":7})", R"({"iss":null})"}) {
    EXPECT_EQ(ClaimedIssuer(signer.Sign(claims)), "") << claims;
  }
  for (const std::string& token : {std::string("x"), std::string("a.b.c"), signer.Sign("no JSON"), signer.Sign("[]")}) {
    EXPECT_EQ(ClaimedIssuer(token), std::nullopt) << token;
  }
}

}  // namespace
}  // namespace gateway
