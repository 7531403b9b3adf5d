#include "common/base/sealing.h"

#include <sys/stat.h>

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/temp_dir.h"

namespace gateway {
namespace {

using ::testing::HasSubstr;

TEST(Sealer, OpensWhatItSealed) {
  fixtures::TempDir directory;
  const auto sealer = Sealer::Create(directory.File("key"));
  ASSERT_TRUE(sealer.ok()) << sealer.status();
  struct stat there {};
  ASSERT_EQ(stat(directory.File("key").c_str(), &there), 0);
  EXPECT_EQ(there.st_mode & 0777, 0600u);
  const auto again = Sealer::Read(directory.File("key"));
  ASSERT_TRUE(again.ok()) << again.status();
  for (const std::string& plain : {std::string(), std::string("secret"), std::string(100'000, '\0')}) {
    const auto sealed = sealer->Seal(plain, "Certificate/a key");
    ASSERT_TRUE(sealed.ok()) << sealed.status();
    EXPECT_TRUE(IsSealed(*sealed));
    EXPECT_EQ(sealed->find("secret"), std::string::npos);
    const auto opened = again->Open(*sealed, "Certificate/a key");
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_EQ(*opened, plain);
    EXPECT_NE(*sealer->Seal(plain, "Certificate/a key"), *sealed) << "no nonce is used twice";
  }
}

TEST(Sealer, OpensNothingElse) {
  fixtures::TempDir directory;
  const auto sealer = Sealer::Create(directory.File("key"));
  const auto other = Sealer::Create(directory.File("other"));
  ASSERT_TRUE(sealer.ok() && other.ok());
  const std::string sealed = *sealer->Seal("secret", "Certificate/a key");
  EXPECT_FALSE(sealer->Open(sealed, "Certificate/b key").ok()) << "another row";
  EXPECT_FALSE(other->Open(sealed, "Certificate/a key").ok()) << "another key";
  for (size_t i = 0; i < sealed.size(); ++i) {
    std::string changed = sealed;
    changed[i] = changed[i] == 'A' ? 'B' : 'A';
    EXPECT_FALSE(sealer->Open(changed, "Certificate/a key").ok()) << i;
    EXPECT_FALSE(sealer->Open(sealed.substr(0, i), "Certificate/a key").ok()) << i;
  }
}

TEST(Sealer, ReadsAKeyThatIsOneAndNobodyElses) {
  fixtures::TempDir directory;
  EXPECT_TRUE(absl::IsNotFound(Sealer::Read(directory.File("none")).status()));
  const std::string path = directory.Write("key", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n");
  ASSERT_EQ(chmod(path.c_str(), 0640), 0);
  EXPECT_TRUE(Sealer::Read(path).ok()) << "as `openssl rand -base64 32` writes it";
  ASSERT_EQ(chmod(path.c_str(), 0644), 0);
  EXPECT_THAT(std::string(Sealer::Read(path).status().message()), HasSubstr("expected mode 0600"));
  for (const char* bad : {"", "short", "MDEyMzQ1Njc4OWFiY2RlZg==", "not base64!"}) {
    const std::string wrong = directory.Write("wrong", bad);
    ASSERT_EQ(chmod(wrong.c_str(), 0600), 0);
    EXPECT_THAT(std::string(Sealer::Read(wrong).status().message()), HasSubstr("32 bytes in base64")) << bad;
  }
  EXPECT_TRUE(absl::IsAlreadyExists(Sealer::Create(path).status()));
}

}  // namespace
}  // namespace gateway
