#include "common/base/jwk.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "absl/strings/match.h"
#include "common/base/base64.h"
#include "common/base/strict_json.h"
#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/token_signer.h"

namespace gateway {
namespace {

using fixtures::JwksOf;
using fixtures::TokenSigner;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::string_view kBilboRsa =
    R"({"kty":"RSA","kid":"bilbo.baggins@hobbiton.example","use":"sig","e":"AQAB","n":"n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLw)"
    "UBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_AJmSCpMaJMRBSFKrKb2wqVwGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5yd"
    "QLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7Tpe-OfVfHd1E6cS6M1FZcD1NNLYD5lFHpPI9bTwJlsde3uhGqC0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-"
    R"(tVTU4fg_3L_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_qixoR7jig3__kRhuaxwUkRz5iaiQkqgc5gHdrNP5zw"})";
constexpr std::string_view kBilboEc =
    R"({"kty":"EC","kid":"bilbo.baggins@hobbiton.example","use":"sig","crv":"P-521","x":"AHKZLLOsCOzz5cY97ewNUajB957y-C-)"
    R"(U88c3v13nmGZx6sYl_oJXu9A5RkTKqjqvjyekWF-7ytDyRXYgCF5cj0Kt","y":"AdymlHvOiLxXkEhayXQnNCvDX4h9htZaCJN34kfmC6pV5OhQ)"
    R"(HiraVySsUdaQkAgDPrwQrJmbnX9cwlGfP-HqHZR1"})";
constexpr std::string_view kRoad =
    "SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIG"
    "lmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4";

struct Vector {
  const char* source;
  std::string_view key;
  std::string token;
};

// Tokens signed by others, from their RFCs.
std::vector<Vector> Vectors() {
  return {
      {"RFC 7515, A.3",
       R"({"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",)"
       R"("y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"})",
       "eyJhbGciOiJFUzI1NiJ9."
       "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnV"
       "lfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"},
      {"RFC 7515, A.4",
       R"({"kty":"EC","crv":"P-521","x":"AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6)"
       R"(OvLFV1jSfS9tsz4qUxcWceqwQGk","y":"ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly)"
       R"(79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2"})",
       "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-"
       "KGDKB34XO"
       "0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn"},
      {"RFC 7520, 4.1", kBilboRsa,
       Concat(
           "eyJhbGciOiJSUzI1NiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.", kRoad,
           ".MRjdkly7_-oTPTS3AXP41iQIGKa80A0ZmTuV5MEaHoxnW2e5CZ5NlKtainoFmKZopdHM1O2U4mwzJdQx996ivp83xuglII7PNDi84wnB-"
           "BDkoBwA78185hX-Es4JIwmDLJK3lfWRa-XtL0RnltuYv746iYTh_qHRD68BNt1uSNCrUCTJDt5aAE6x8wW1Kt9eRo4QPocSadnHXFxnt8I"
           "s9UzpERV0ePPQdLuW3IS_de3xyIrDaLGdjluPxUAhb6L2aXic1U12podGU0KLUQSE_oI-ZnmKJ3F4uOZDnd6QZWJushZ41Axf_fcIe8u9i"
           "pH84ogoree7vjbU5y18kDquDg")},
      {"RFC 7520, 4.2", kBilboRsa,
       Concat(
           "eyJhbGciOiJQUzM4NCIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.", kRoad,
           ".cu22eBqkYDKgIlTpzDXGvaFfz6WGoz7fUDcfT0kkOy42miAh2qyBzk1xEsnk2IpN6-tPid6VrklHkqsGqDqHCdP6O8TTB5dDDItllVo6_"
           "1OLPpcbUrhiUSMxbbXUvdvWXzg-UD8biiReQFlfz28zGWVsdiNAUf8ZnyPEgVFn442ZdNqiVJRmBqrYRXe8P_ijQ7p8Vdz0TTrxUeT3lm8"
           "d9shnr2lfJT8ImUjvAA2Xez2Mlp8cBE5awDzT0qI0n6uiP1aCN_2_jLAeQTlqRHtfa64QQSUmFAAjVKPbByi7xho0uTOcbH510a6GYmJUA"
           "fmWjwZ6oD4ifKo8DYM-X72Eaw")},
      {"RFC 7520, 4.3", kBilboEc,
       Concat(
           "eyJhbGciOiJFUzUxMiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.", kRoad,
           ".AE_R_YZCChjn4791jSQCrdPZCNYqHXCTZH0-JZGYNlaAjP2kqaluUIIUnC9qvbu9Plon7KRTzoNEuT4Va2cmL1eJAQy3mtPBu_u_sDDyY"
           "jnAMDxXPn7XrT0lw-kvAD890jl8e2puQens_IEKBpHABlsbEPX6sFY8OcGDqoRuBomu9xQ2")},
      {"RFC 8037, A.4", R"({"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})",
       "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-"
       "09PGcvMg3AIbQR6dWbhijcNR4ki"
       "4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"},
  };
}

bool Verifies(const JwkSet& set, std::string_view token) {
  const absl::StatusOr<CompactJws> jws = CompactJws::Parse(token);
  return jws.ok() && VerifySignature(set.keys.at(0), jws->algorithm, jws->signing_input, jws->signature);
}

JwkSet SetOf(std::string_view key) {
  absl::StatusOr<JwkSet> set = ParseJwks(JwksOf({std::string(key)}));
  EXPECT_TRUE(set.ok()) << set.status();
  return set.ok() ? *std::move(set) : JwkSet();
}

TEST(Jwk, VerifiesWhatTheRfcsPrint) {
  for (const Vector& vector : Vectors()) {
    const JwkSet set = SetOf(vector.key);
    ASSERT_EQ(set.keys.size(), 1u) << vector.source;
    EXPECT_TRUE(Verifies(set, vector.token)) << vector.source;
    // Changes any character of payload or signature. The last one of each part may have unused bits.
    const size_t first = vector.token.find('.') + 1;
    for (size_t at : {first, first + 5, vector.token.rfind('.') + 1, vector.token.size() - 9}) {
      std::string changed = vector.token;
      changed[at] = changed[at] == 'A' ? 'B' : 'A';
      EXPECT_FALSE(Verifies(set, changed)) << vector.source << " at " << at;
    }
    // One byte less, one more, an empty signature.
    EXPECT_FALSE(Verifies(set, vector.token.substr(0, vector.token.size() - 4))) << vector.source;
    EXPECT_FALSE(Verifies(set, vector.token + "AAAA")) << vector.source;
    EXPECT_FALSE(Verifies(set, vector.token.substr(0, vector.token.rfind('.') + 1))) << vector.source;
  }
}

TEST(Jwk, EveryAlgorithmIsVerifiedByItsOwnKeysOnly) {
  std::vector<std::unique_ptr<TokenSigner>> signers;
  std::vector<JwkSet> sets;
  for (int i = 0; i < 10; ++i) {
    signers.push_back(std::make_unique<TokenSigner>(static_cast<JwsAlgorithm>(i)));
    sets.push_back(SetOf(signers.back()->PublicJwk()));
  }
  for (size_t i = 0; i < 10; ++i) {
    const std::string token = signers[i]->Sign(R"({"sub":"x"})");
    for (size_t j = 0; j < 10; ++j) EXPECT_EQ(Verifies(sets[j], token), i == j) << i << " by " << j;
  }
}

// A key without `alg` verifies every algorithm of its type; with `alg`, only that one: the token must not choose.
TEST(Jwk, AKeysOwnAlgorithmBinds) {
  const TokenSigner signer(JwsAlgorithm::kPs256, "k");
  const std::string token = signer.Sign("{}");
  EXPECT_TRUE(Verifies(SetOf(signer.PublicJwk(false)), token));
  std::string other = signer.PublicJwk();
  other.replace(other.find("PS256"), 5, "RS256");
  EXPECT_FALSE(Verifies(SetOf(other), token));
}

// ECDSA with zeros ("psychic signatures"), and DER instead of r || s.
TEST(Jwk, RefusesDegenerateSignatures) {
  const TokenSigner signer(JwsAlgorithm::kEs256);
  const JwkSet set = SetOf(signer.PublicJwk());
  const std::string token = signer.Sign("{}");
  const std::string input = token.substr(0, token.rfind('.') + 1);
  EXPECT_FALSE(Verifies(set, input + EncodeBase64(Base64::kUrl, std::string(64, '\0'))));
  EXPECT_FALSE(Verifies(set, input + EncodeBase64(Base64::kUrl, std::string(64, '\xff'))));
  EXPECT_FALSE(Verifies(set, input + EncodeBase64(Base64::kUrl, std::string("\x30\x06\x02\x01\x01\x02\x01\x01", 8))));
}

TEST(CompactJws, NeverTakesNoneNorASymmetricAlgorithm) {
  const TokenSigner signer(JwsAlgorithm::kRs256);
  const std::string payload = EncodeBase64(Base64::kUrl, R"({"sub":"admin"})");
  for (const char* alg :
       {"none", "None", "NONE", "nOnE", "", "HS256", "HS384", "HS512", "rs256", "RS1", "ES256K", "A128KW"}) {
    const std::string header = EncodeBase64(Base64::kUrl, Concat(R"({"alg":")", alg, R"("})"));
    for (const char* signature : {"", "AAAA"}) {
      EXPECT_FALSE(CompactJws::Parse(Concat(header, ".", payload, ".", signature)).ok()) << alg;
    }
  }
  // The classic attack: an HMAC with the public key as its secret.
  const std::string input = Concat(EncodeBase64(Base64::kUrl, R"({"alg":"HS256","kid":"k1"})"), ".", payload);
  const std::string pem = signer.PublicPem();
  unsigned char mac[32];
  unsigned size = sizeof mac;
  HMAC(EVP_sha256(), pem.data(), static_cast<int>(pem.size()), reinterpret_cast<const unsigned char*>(input.data()),
       input.size(), mac, &size);
  EXPECT_FALSE(
      CompactJws::Parse(Concat(input, ".", EncodeBase64(Base64::kUrl, {reinterpret_cast<char*>(mac), size}))).ok());
}

TEST(CompactJws, RefusesWhatReadersCouldDifferOn) {
  const TokenSigner signer(JwsAlgorithm::kEs256);
  ASSERT_TRUE(CompactJws::Parse(signer.SignWithHeader(R"({"alg":"ES256","typ":"at+jwt"})", "{}")).ok());
  for (const char* header :
       {R"({"alg":"ES256","crit":["exp"]})", R"({"alg":"ES256","crit":[]})", R"({"alg":"ES256","b64":false})",
        R"({"alg":"none","alg":"ES256"})", R"({"alg":["ES256"]})", R"({})", R"([])", R"("ES256")", "", "{",
        R"({"alg":"ES256","kid":7})", R"({"alg":"ES256"} x)", "{\"alg\":\"ES256\",\"x\":\"\xff\"}"}) {
    EXPECT_FALSE(CompactJws::Parse(signer.SignWithHeader(header, "{}")).ok()) << header;
  }
  const std::string deep = Concat(R"({"alg":"ES256","x":)", std::string(100, '['), std::string(100, ']'), "}");
  EXPECT_FALSE(CompactJws::Parse(signer.SignWithHeader(deep, "{}")).ok());
  const std::string token = signer.Sign("{}");
  for (const std::string& bad : {std::string(), std::string("."), std::string(".."), token + ".", token + "=",
                                 " " + token, token.substr(0, token.rfind('.')), std::string(20'000, 'a')}) {
    EXPECT_FALSE(CompactJws::Parse(bad).ok()) << bad.substr(0, 40);
  }
}

TEST(Jwks, RefusesSecrets) {
  EXPECT_THAT(std::string(CheckJwks(R"({"keys":[{"kty":"oct","k":"c2VjcmV0"}]})").message()), HasSubstr("symmetric"));
  const TokenSigner signer(JwsAlgorithm::kEs256);
  std::string key = signer.PublicJwk();
  key.insert(key.size() - 1, R"(,"d":"c2VjcmV0")");
  const absl::Status status = CheckJwks(JwksOf({key}));
  EXPECT_THAT(std::string(status.message()), HasSubstr("private member d"));
  EXPECT_FALSE(absl::StrContains(status.message(), "c2VjcmV0"));
  EXPECT_FALSE(CheckJwks(JwksOf({signer.PublicJwk(), key})).ok()) << "even beside a good key";
}

// A published secret is not a key, whatever is signed with it; the issuer's other keys stay.
TEST(Jwks, LosesOnlyTheSecretsOfAnIssuer) {
  const TokenSigner good(JwsAlgorithm::kEs256, "good");
  const TokenSigner leaked(JwsAlgorithm::kEs256, "leaked");
  std::string key = leaked.PublicJwk();
  key.insert(key.size() - 1, R"(,"d":"c2VjcmV0")");
  const std::string oct = R"({"kty":"oct","kid":"oct","k":"c2VjcmV0"})";
  const absl::StatusOr<JwkSet> set = ParseJwks(JwksOf({oct, key, good.PublicJwk()}), BadJwk::kSkip);
  ASSERT_TRUE(set.ok()) << set.status();
  ASSERT_EQ(set->keys.size(), 1u);
  EXPECT_EQ(set->keys[0].kid, "good");
  EXPECT_THAT(set->unsafe,
              ElementsAre(HasSubstr("key 1: it is symmetric"), HasSubstr("key 2: it has the private member")));
  EXPECT_FALSE(ParseJwks(JwksOf({oct, key}), BadJwk::kSkip).ok());
}

TEST(Jwks, SkipsWhatIsNotForVerifying) {
  const TokenSigner signer(JwsAlgorithm::kEs256);
  const absl::StatusOr<JwkSet> set =
      ParseJwks(JwksOf({R"({"kty":"XYZ"})", R"({"kty":"EC","crv":"secp256k1"})", R"({"kty":"OKP","crv":"X25519"})",
                        R"({"kty":"RSA","use":"enc"})", R"({"kty":"RSA","alg":"RSA-OAEP"})",
                        R"({"kty":"RSA","key_ops":["encrypt"]})", signer.PublicJwk()}));
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->keys.size(), 1u);
  EXPECT_EQ(set->skipped.size(), 6u);
}

TEST(Jwks, RefusesKeysThatProveNothing) {
  const TokenSigner good(JwsAlgorithm::kEs256);
  const TokenSigner weak(JwsAlgorithm::kRs256, "weak", 1024);
  std::string off_curve = good.PublicJwk();
  off_curve.replace(off_curve.find(R"("y":")") + 5, 4, "AAAA");
  std::string even = TokenSigner(JwsAlgorithm::kRs256, "even").PublicJwk();
  std::string exponent_one = even;
  exponent_one.replace(exponent_one.find("AQAB"), 4, "AQ");
  std::string mismatched = good.PublicJwk();
  mismatched.replace(mismatched.find("ES256"), 5, "RS256");
  const std::vector<std::pair<std::string, std::string>> bad = {
      {weak.PublicJwk(), "1024 bits"},
      {off_curve, "not a point"},
      {exponent_one, "odd number"},
      {mismatched, "does not fit"},
      {R"({"kty":"RSA","n":"!","e":"AQAB"})", "n or e"},
      {R"({"kty":"OKP","crv":"Ed25519","x":"AAAA"})", "32 bytes"},
      {R"({"kid":"k"})", "kty is missing"},
      {"7", "not an object"},
  };
  for (const auto& [key, why] : bad) {
    EXPECT_THAT(std::string(CheckJwks(JwksOf({key})).message()), HasSubstr(why)) << key;
    EXPECT_THAT(std::string(CheckJwks(JwksOf({good.PublicJwk(), key})).message()), HasSubstr("key 2")) << key;
    // One bad key in a fetched set must not lose the others.
    const absl::StatusOr<JwkSet> rest = ParseJwks(JwksOf({good.PublicJwk(), key}), BadJwk::kSkip);
    ASSERT_TRUE(rest.ok()) << rest.status();
    EXPECT_EQ(rest->keys.size(), 1u);
  }
  EXPECT_FALSE(CheckJwks(JwksOf({good.PublicJwk(), good.PublicJwk()})).ok());  // one kid twice
}

TEST(Jwks, IsBounded) {
  for (const char* text : {"", "{}", "[]", R"({"keys":{}})", R"({"keys":[]})", R"({"keys":[],"keys":[]})", "null"}) {
    EXPECT_FALSE(CheckJwks(text).ok()) << text;
  }
  std::string many = R"({"keys":[{"kty":"X"})";
  for (size_t i = 0; i < JwkSet::kKeysMax; ++i) many += R"(,{"kty":"X"})";
  EXPECT_THAT(std::string(CheckJwks(many + "]}").message()), HasSubstr("101 keys"));
  EXPECT_THAT(std::string(CheckJwks(std::string(JwkSet::kTextBytesMax + 1, ' ')).message()), HasSubstr("256 KiB"));
}

}  // namespace
}  // namespace gateway
