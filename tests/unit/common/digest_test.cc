#include "common/base/digest.h"

#include "common/base/base64.h"
#include "gtest/gtest.h"

namespace gateway {
namespace {

// FIPS 180-2, appendix B.
TEST(Digest, OfKnownTexts) {
  EXPECT_EQ(Hex(Sha256("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Hex(Sha256("")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Hex(Sha256(std::string(1000000, 'a'))), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Digest, HexIsReadInEitherCaseAndNothingElse) {
  const std::string hex = Hex(Sha256("abc"));
  EXPECT_EQ(ParseHexDigest(hex), Sha256("abc"));
  std::string upper = hex;
  for (char& c : upper) c = static_cast<char>(toupper(c));
  EXPECT_EQ(ParseHexDigest(upper), Sha256("abc"));
  EXPECT_FALSE(ParseHexDigest(hex.substr(1)));
  EXPECT_FALSE(ParseHexDigest(hex + "0"));
  EXPECT_FALSE(ParseHexDigest("g" + hex.substr(1)));
}

// RFC 4231, test cases 1, 2 and 6 (a key longer than a block).
TEST(KeyedDigest, IsHmacSha256) {
  EXPECT_EQ(Hex(KeyedDigest(std::string(20, '\x0b')).OfBytes("Hi There")),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
  EXPECT_EQ(Hex(KeyedDigest("Jefe").OfBytes("what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  EXPECT_EQ(
      Hex(KeyedDigest(std::string(131, '\xaa')).OfBytes("Test Using Larger Than Block-Size Key - Hash Key First")),
      "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

TEST(KeyedDigest, TellsPartsApart) {
  const KeyedDigest digest = KeyedDigest::Random();
  EXPECT_EQ(digest.Of({"ab", "c"}), digest.Of({"ab", "c"}));
  EXPECT_NE(digest.Of({"ab", "c"}), digest.Of({"a", "bc"}));
  EXPECT_NE(digest.Of({"ab", "c"}), KeyedDigest::Random().Of({"ab", "c"}));
}

TEST(Digest, ComparesWholeTexts) {
  EXPECT_TRUE(EqualInConstantTime("abc", "abc"));
  EXPECT_FALSE(EqualInConstantTime("abc", "abd"));
  EXPECT_FALSE(EqualInConstantTime("abc", "ab"));
}

// RFC 4648, section 10, and the choices that it leaves open.
TEST(Base64, IsStrict) {
  for (const auto& [bytes, text] : std::initializer_list<std::pair<std::string_view, std::string_view>>{
           {"", ""}, {"f", "Zg"}, {"fo", "Zm8"}, {"foo", "Zm9v"}, {"foob", "Zm9vYg"}, {"foobar", "Zm9vYmFy"}}) {
    EXPECT_EQ(EncodeBase64(Base64::kUrl, bytes), text);
    EXPECT_EQ(DecodeBase64(Base64::kUrl, text), bytes);
    EXPECT_EQ(DecodeBase64(Base64::kStandard, text), bytes);
  }
  EXPECT_EQ(DecodeBase64(Base64::kStandard, "Zm9vYg=="), "foob");
  EXPECT_EQ(DecodeBase64(Base64::kStandard, "+/+/"), "\xfb\xff\xbf");
  EXPECT_EQ(DecodeBase64(Base64::kUrl, "-_-_"), "\xfb\xff\xbf");
  for (const char* bad : {"Zg==", "Zh", "Z", "Zm9vY", "Zm 9v", "Zm9v\n", "+/+/", "Zg=", "====", "="}) {
    EXPECT_FALSE(DecodeBase64(Base64::kUrl, bad)) << bad;
  }
  for (const char* bad : {"Zg=", "Zh==", "Zg===", "-_-_", "====", "Z===", "Zg==Zg=="}) {
    EXPECT_FALSE(DecodeBase64(Base64::kStandard, bad)) << bad;
  }
}

}  // namespace
}  // namespace gateway
