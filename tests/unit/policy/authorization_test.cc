#include "dataplane/auth/authorization.h"

#include <chrono>

#include "common/base/base64.h"
#include "common/base/text.h"
#include "dataplane/auth/credential_cache.h"
#include "gtest/gtest.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;
using Time = std::chrono::steady_clock::time_point;

TEST(Authorization, IsASchemeAndCredentials) {
  for (const char* value : {"Bearer a.b.c", "bearer a.b.c", "BEARER   a.b.c", "Bearer a.b.c  "}) {
    const Authorization authorization = ParseAuthorization(value);
    EXPECT_EQ(authorization.scheme, AuthScheme::kBearer) << value;
    EXPECT_EQ(authorization.credentials, "a.b.c") << value;
  }
  EXPECT_EQ(ParseAuthorization("Basic dTpw").scheme, AuthScheme::kBasic);
  EXPECT_EQ(ParseAuthorization("Basic dTpw==").credentials, "dTpw==");
  for (const char* value : {"", " ", "Bearer", "Bearer ", "Bearer \t "}) {
    EXPECT_EQ(ParseAuthorization(value).credentials, "") << value;
  }
  EXPECT_EQ(ParseAuthorization("Bearer a b ").credentials, "a b");  // not a valid token; its reader rejects it
  for (const char* value : {"", "Digest a", "Bearerx a", "Bearer\ta", " Bearer a"}) {
    EXPECT_EQ(ParseAuthorization(value).scheme, AuthScheme::kOther) << value;
  }
}

TEST(Authorization, BasicIsANameAColonAndThePassword) {
  const auto parse = [](std::string_view text) { return ParseBasicCredentials(EncodeBase64(Base64::kStandard, text)); };
  const std::optional<BasicCredentials> credentials = parse("Aladdin:open:sesame");
  ASSERT_TRUE(credentials);
  EXPECT_EQ(credentials->username, "Aladdin");
  EXPECT_EQ(credentials->password, "open:sesame");
  EXPECT_EQ(ParseBasicCredentials("QWxhZGRpbjpvcGVuIHNlc2FtZQ==")->password, "open sesame");  // RFC 7617, section 2
  EXPECT_EQ(parse(":")->username, "");
  for (const char* bad : {"no colon", "", "a:b\n", "a\x7f:b"}) EXPECT_FALSE(parse(bad)) << bad;
  EXPECT_FALSE(parse(std::string("a\0:b", 4)));
  EXPECT_FALSE(ParseBasicCredentials("dTpw="));
  EXPECT_FALSE(ParseBasicCredentials(std::string(BasicCredentials::kTextBytesMax + 4, 'A')));
}

TEST(CredentialCache, KeepsUntilItsTimeAndItsGenerationEnd) {
  CredentialCache<int, Time> cache({});
  const CredentialKey key{Sha256("a"), "text"};
  cache.Insert(key, 1, Time(10s), std::make_shared<int>(7), 0);
  ASSERT_NE(cache.Find(key, 1, Time(9s)), nullptr);
  EXPECT_EQ(*cache.Find(key, 1, Time(9s)), 7);
  EXPECT_EQ(cache.Find({Sha256("b"), "text"}, 1, Time(9s)), nullptr);
  EXPECT_EQ(cache.Find({Sha256("a"), "texT"}, 1, Time(9s)), nullptr);
  EXPECT_EQ(cache.Find({Sha256("a"), ""}, 1, Time(9s)), nullptr);
  EXPECT_EQ(cache.Find(key, 1, Time(10s)), nullptr);
  EXPECT_EQ(cache.size(), 0u);
  cache.Insert(key, 1, Time(10s), std::make_shared<int>(7), 0);
  EXPECT_EQ(cache.Find(key, 2, Time(9s)), nullptr);
  EXPECT_EQ(cache.Find(key, 1, Time(9s)), nullptr);  // permanently: keys that were rotated out do not come back
  EXPECT_EQ(cache.size(), 0u);
  EXPECT_EQ(cache.bytes(), 0u);
}

TEST(CredentialCache, DropsWhatWasUsedLongestAgoPastItsBounds) {
  CredentialCache<int, Time> few({.entries_max = 2, .bytes_max = 1 << 20});
  const auto insert = [](auto& cache, std::string_view name, size_t bytes) {
    cache.Insert({Sha256(name), name}, 1, Time(10s), std::make_shared<int>(0), bytes);
  };
  const auto has = [](auto& cache, std::string_view name) {
    return cache.Find({Sha256(name), name}, 1, Time(1s)) != nullptr;
  };
  insert(few, "a", 0);
  insert(few, "b", 0);
  EXPECT_TRUE(has(few, "a"));
  insert(few, "c", 0);
  EXPECT_TRUE(has(few, "a"));
  EXPECT_FALSE(has(few, "b"));
  EXPECT_TRUE(has(few, "c"));
  EXPECT_EQ(few.stats().evictions, 1u);

  CredentialCache<int, Time> small({.entries_max = 1000, .bytes_max = 10'000});
  for (int i = 0; i < 1000; ++i) insert(small, Concat(i), 1000);
  EXPECT_LE(small.bytes(), 10'000u);
  EXPECT_GE(small.size(), 7u);
  insert(small, "huge", 20'000);  // never stored, and evicts nothing
  EXPECT_FALSE(has(small, "huge"));
  EXPECT_TRUE(has(small, "999"));
}

}  // namespace
}  // namespace gateway::dataplane
