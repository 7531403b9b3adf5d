#include "dataplane/limits/limit_key.h"

#include <arpa/inet.h>

#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace gateway::dataplane {
namespace {

std::string KeyOf(const std::vector<std::string>& parts) {
  std::string key;
  for (const std::string& part : parts) AppendKeyPart(part, &key);
  return key;
}

std::string AddressKey(const char* text) {
  in6_addr address;
  EXPECT_EQ(inet_pton(AF_INET6, text, &address), 1) << text;
  std::string key;
  AppendKeyAddress(address, &key);
  return key;
}

TEST(LimitKey, NoTwoListsOfPartsMakeTheSameKey) {
  const std::vector<std::vector<std::string>> lists = {{},
                                                       {""},
                                                       {"", ""},
                                                       {"a", "b"},
                                                       {"ab"},
                                                       {"ab", ""},
                                                       {"", "ab"},
                                                       {"a\n", "b"},
                                                       {"a", "\nb"},
                                                       {"a\nb", ""},
                                                       {"\1a\1b"},
                                                       {std::string(1, '\0')},
                                                       {"a|b"},
                                                       {"a", "|b"},
                                                       {"\1a", "b"},
                                                       {std::string(127, 'x')},
                                                       {std::string(128, 'x')},
                                                       {std::string(200, 'x')}};
  std::set<std::string> keys;
  for (const auto& parts : lists) EXPECT_TRUE(keys.insert(KeyOf(parts)).second) << testing::PrintToString(parts);
}

TEST(LimitKey, OfAnIpv6AddressTheNetworkCounts) {
  EXPECT_EQ(AddressKey("2001:db8:1:2::1"), AddressKey("2001:db8:1:2:ffff::9"));
  EXPECT_NE(AddressKey("2001:db8:1:2::1"), AddressKey("2001:db8:1:3::1"));
  EXPECT_NE(AddressKey("::ffff:10.0.0.1"), AddressKey("::ffff:10.0.0.2"));
  EXPECT_NE(AddressKey("::ffff:10.0.0.1"), AddressKey("::1"));
}

TEST(LimitKey, LongKeysBecomeDigestsOfTheirOwn) {
  std::string long_text(8000, 'x');
  std::string one = KeyOf({long_text});
  long_text.back() = 'y';
  std::string other = KeyOf({long_text});
  std::string short_one = KeyOf({std::string(200, 'x')});
  const std::string before = short_one;
  BoundKey(&one);
  BoundKey(&other);
  BoundKey(&short_one);
  EXPECT_EQ(one.size(), 32u);
  EXPECT_NE(one, other);
  EXPECT_EQ(short_one, before);
}

}  // namespace
}  // namespace gateway::dataplane
