#include "common/base/address_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <initializer_list>
#include <string>
#include <string_view>

namespace gateway {
namespace {

AddressSet SetOf(std::initializer_list<std::string_view> blocks) {
  AddressSet set;
  for (std::string_view block : blocks) {
    const absl::Status status = set.Add(block);
    EXPECT_TRUE(status.ok()) << status.message();
  }
  set.Seal();
  return set;
}

bool Holds(const AddressSet& set, std::string_view address) {
  in6_addr parsed;
  if (!ParseIp(address, &parsed)) {
    ADD_FAILURE() << address;
    return false;
  }
  return set.Contains(parsed);
}

std::string ErrorOf(std::string_view block) { return std::string(AddressSet().Add(block).message()); }

TEST(AddressSet, HoldsAddressesAndBlocks) {
  const AddressSet set = SetOf({"10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "::1", "198.51.100.0/31"});
  for (std::string_view in :
       {"10.0.0.0", "10.255.255.255", "192.0.2.1", "2001:db8::1", "::1", "::ffff:10.1.2.3", "198.51.100.1"}) {
    EXPECT_TRUE(Holds(set, in)) << in;
  }
  for (std::string_view out :
       {"9.255.255.255", "11.0.0.0", "192.0.2.0", "192.0.2.2", "2001:db9::", "::2", "::", "198.51.100.2"}) {
    EXPECT_FALSE(Holds(set, out)) << out;
  }
}

TEST(AddressSet, AllOfOneFamilyIsNothingOfTheOther) {
  const AddressSet v6 = SetOf({"::/0"});
  EXPECT_TRUE(Holds(v6, "::"));
  EXPECT_TRUE(Holds(v6, "2001:db8::1"));
  EXPECT_TRUE(Holds(v6, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
  EXPECT_TRUE(Holds(v6, "::fffe:ffff:ffff"));
  EXPECT_TRUE(Holds(v6, "::1:0:0:0"));
  EXPECT_FALSE(Holds(v6, "0.0.0.0"));
  EXPECT_FALSE(Holds(v6, "10.0.0.1"));
  EXPECT_FALSE(Holds(v6, "255.255.255.255"));
  EXPECT_FALSE(Holds(SetOf({"::/64"}), "10.0.0.1"));

  const AddressSet v4 = SetOf({"0.0.0.0/0"});
  EXPECT_TRUE(Holds(v4, "10.0.0.1"));
  EXPECT_FALSE(Holds(v4, "2001:db8::1"));
  EXPECT_TRUE(Holds(SetOf({"::ffff:0:0/96"}), "10.0.0.1")) << "the set has the mapped block itself";

  const AddressSet both = SetOf({"::/0", "0.0.0.0/0"});
  EXPECT_TRUE(Holds(both, "10.0.0.1"));
  EXPECT_TRUE(Holds(both, "2001:db8::1"));
}

TEST(AddressSet, SaysWhatWasExpected) {
  EXPECT_EQ(ErrorOf("10.0.0.1/8"),
            "'10.0.0.1/8' has bits behind its prefix; expected 10.0.0.0/8, or 10.0.0.1 for this address alone");
  EXPECT_EQ(
      ErrorOf("2001:db8::1/32"),
      "'2001:db8::1/32' has bits behind its prefix; expected 2001:db8::/32, or 2001:db8::1 for this address alone");
  EXPECT_EQ(ErrorOf("10.0.0.0/33"), "'10.0.0.0/33' has too long a prefix; expected a length from 0 to 32");
  for (std::string_view bad : {"", "a", "10.0.0/8", "10.0.0.0/", "10.0.0.0/ 8", "10.0.0.0/+8", "10.0.0.0/-1",
                               "10.0.0.0/8 ", "10.0.0.0/8/8", " 10.0.0.0/8", "10.0.0.0/99999999999", "[::1]", "::/x"}) {
    EXPECT_THAT(ErrorOf(bad), testing::HasSubstr("expected one like 192.0.2.1, 10.0.0.0/8 or 2001:db8::/32")) << bad;
  }
  EXPECT_THAT(ErrorOf("\x1b[31m"), testing::Not(testing::HasSubstr("\x1b"))) << "a terminal would interpret it";
}

}  // namespace
}  // namespace gateway
