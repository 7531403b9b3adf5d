#include "common/base/password.h"

#include "absl/strings/match.h"
#include "common/base/base64.h"
#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gateway {
namespace {

using ::testing::HasSubstr;

PasswordHash Cheap(PasswordHash::Method method) {
  PasswordHash parameters;
  parameters.method = method;
  parameters.log2_cost = 4;
  parameters.memory_kib = 64;
  parameters.passes = 1;
  parameters.parallelism = 1;
  return parameters;
}

// RFC 7914, section 12: scrypt("password", "NaCl", N=1024, r=8, p=16). Its salt is too short for a PHC string here.
TEST(Password, ScryptIsTheOneOfItsRfc) {
  PasswordHash hash;
  hash.log2_cost = 10;
  hash.block_size = 8;
  hash.parallelism = 16;
  hash.salt = "NaCl";
  const std::string raw =
      "\xfd\xba\xbe\x1c\x9d\x34\x72\x00\x78\x56\xe7\x19\x0d\x01\xe9\xfe\x7c\x6a\xd7\xcb\xc8\x23\x78\x30\xe7\x73\x76\x63"
      "\x4b\x37\x31\x62\x2e\xaf\x30\xd9\x2e\x22\xa3\x88\x6f\xf1\x09\x27\x9d\x98\x30\xda\xc7\x27\xaf\xb9\x4a\x83\xee\x6d"
      "\x83\x60\xcb\xdf\xa2\xcc\x06\x40";
  hash.hash = raw;
  EXPECT_TRUE(*VerifyPassword(hash, "password"));
  EXPECT_FALSE(*VerifyPassword(hash, "Password"));
}

// From argon2's own test suite (test.c): version 0x13, argon2id, t=2, m=2^16, p=1, and p=2 over 2^8.
TEST(Password, Argon2idIsTheOneOfItsReference) {
  for (const char* phc : {"$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
                          "$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc"}) {
    const absl::StatusOr<PasswordHash> hash = PasswordHash::Parse(phc);
    ASSERT_TRUE(hash.ok()) << hash.status();
    EXPECT_TRUE(*VerifyPassword(*hash, "password")) << phc;
    EXPECT_FALSE(*VerifyPassword(*hash, "password ")) << phc;
    EXPECT_EQ(hash->ToText(), phc);
  }
}

TEST(Password, WhatIsHashedIsVerified) {
  for (const auto method : {PasswordHash::Method::kScrypt, PasswordHash::Method::kArgon2id}) {
    const absl::StatusOr<std::string> phc = HashPassword("correct horse", Cheap(method));
    ASSERT_TRUE(phc.ok()) << phc.status();
    EXPECT_TRUE(CheckPasswordHash(*phc).ok()) << *phc;
    EXPECT_NE(*phc, *HashPassword("correct horse", Cheap(method)));  // another salt
    const absl::StatusOr<PasswordHash> hash = PasswordHash::Parse(*phc);
    ASSERT_TRUE(hash.ok());
    EXPECT_TRUE(*VerifyPassword(*hash, "correct horse"));
    EXPECT_FALSE(*VerifyPassword(*hash, "battery staple"));
    EXPECT_FALSE(*VerifyPassword(*hash, ""));
  }
}

TEST(Password, OtherTextsAreRefusedWithoutRepeatingThem) {
  const std::string salt = "c29tZXNhbHRzb21lc2FsdA";
  const std::string bytes = EncodeBase64(Base64::kStandard, std::string(32, 'x'));
  const std::string rest = Concat("$", salt, "$", bytes);
  ASSERT_TRUE(CheckPasswordHash("$scrypt$ln=15,r=8,p=1" + rest).ok());
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"", "not a PHC string"},
      {"hunter2", "not a PHC string"},
      {"$2b$12$abcdefghijklmnopqrstuv", "another method"},
      {"$argon2i$v=19$m=256,t=2,p=1" + rest, "another method"},
      {"$argon2id$m=256,t=2,p=1" + rest, "parts"},
      {"$argon2id$v=16$m=256,t=2,p=1" + rest, "version"},
      {"$argon2id$v=19$m=4,t=2,p=1" + rest, "out of range"},
      {"$argon2id$v=19$m=4194304,t=1,p=1" + rest, "memory"},
      {"$argon2id$v=19$m=262144,t=64,p=1" + rest, "MiB a check"},
      {"$scrypt$ln=15,r=8" + rest, "parameters"},
      {"$scrypt$ln=15,r=8,p=1,x=1" + rest, "parameters"},
      {"$scrypt$r=8,ln=15,p=1" + rest, "parameters"},
      {"$scrypt$ln=-1,r=8,p=1" + rest, "parameters"},
      {"$scrypt$ln=99999999999,r=8,p=1" + rest, "parameters"},
      {"$scrypt$ln=0,r=8,p=1" + rest, "out of range"},
      {"$scrypt$ln=63,r=8,p=1" + rest, "out of range"},
      {"$scrypt$ln=20,r=8,p=1" + rest, "memory"},
      {"$scrypt$ln=17,r=8,p=64" + rest, "MiB a check"},
      {"$scrypt$ln=15,r=8,p=1$c2Fs$" + bytes, "salt of 3 bytes"},
      {"$scrypt$ln=15,r=8,p=1$" + salt + "$c2Fs", "hash of 3 bytes"},
      {"$scrypt$ln=15,r=8,p=1$" + salt + "$!!!!", "not base64"},
      {"$scrypt$ln=15,r=8,p=1" + rest + "$x", "parts"},
      {std::string(10'000, '$'), "too long"},
  };
  for (const auto& [phc, why] : bad) {
    const absl::Status status = CheckPasswordHash(phc);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << phc;
    const std::string message(status.message());
    EXPECT_THAT(message, HasSubstr(why)) << phc;
    EXPECT_FALSE(absl::StrContains(message, "hunter2"));
    EXPECT_FALSE(absl::StrContains(message, AbslView(bytes)));
  }
}

}  // namespace
}  // namespace gateway
