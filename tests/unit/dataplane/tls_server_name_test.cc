#include <string>

#include "dataplane/net/tls/server_context.h"
#include "gtest/gtest.h"

namespace gateway::dataplane::tls {
namespace {

// The body of a server_name extension with one host name (RFC 6066, section 3).
std::string Extension(const std::string& name) {
  const auto number = [](size_t n) { return std::string{static_cast<char>(n >> 8), static_cast<char>(n & 0xff)}; };
  return number(name.size() + 3) + '\0' + number(name.size()) + name;
}

TEST(ServerName, IsReadInLowerCase) {
  EXPECT_EQ(ParseServerName(Extension("Shop.Example.COM")), "shop.example.com");
  EXPECT_EQ(ParseServerName(Extension("shop.example.com.")), "shop.example.com");
  EXPECT_EQ(ParseServerName(Extension(std::string(255, 'a'))), std::string(255, 'a'));
}

TEST(ServerName, IsEmptyWhereItIsMalformed) {
  const std::string whole = Extension("a.test");
  for (size_t size = 0; size < whole.size(); ++size) EXPECT_EQ(ParseServerName(whole.substr(0, size)), "") << size;
  EXPECT_EQ(ParseServerName(whole + "x"), "") << "bytes behind the list";
  std::string other_type = whole;
  other_type[2] = 1;
  EXPECT_EQ(ParseServerName(other_type), "");
  for (const char* name : {"", "a b", "a/b", "a\nb", "\xff.test"})
    EXPECT_EQ(ParseServerName(Extension(name)), "") << name;
  EXPECT_EQ(ParseServerName(Extension(std::string("a\0b", 3))), "");
  EXPECT_EQ(ParseServerName(Extension(std::string(256, 'a'))), "");
}

}  // namespace
}  // namespace gateway::dataplane::tls
