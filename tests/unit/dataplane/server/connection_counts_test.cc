#include "dataplane/server/connection_counts.h"

#include "common/base/address_set.h"
#include "gtest/gtest.h"

namespace gateway::dataplane {
namespace {

in6_addr Address(std::string_view text) {
  in6_addr address{};
  EXPECT_TRUE(ParseIp(text, &address)) << text;
  return address;
}

TEST(ConnectionsByAddress, DefaultIsHalfOfWhatIsWantedOrAllWhereThatIsLittle) {
  EXPECT_EQ(ConnectionsByAddress::DefaultMax(50'000, 1'000'000), 25'000);
  EXPECT_EQ(ConnectionsByAddress::DefaultMax(1'500, 1'000'000), 1'000);
  EXPECT_EQ(ConnectionsByAddress::DefaultMax(6, 1'000'000), 6);
}

TEST(ConnectionsByAddress, DefaultIsHalfOfWhatTheDescriptorsAllowWhereThatIsLess) {
  EXPECT_EQ(ConnectionsByAddress::DefaultMax(50'000, 32), 16);
  EXPECT_EQ(ConnectionsByAddress::DefaultMax(50'000, 40'000), 20'000);
  EXPECT_EQ(ConnectionsByAddress::DefaultMax(50'000, 1), 1);
  EXPECT_EQ(ConnectionsByAddress::DefaultMax(50, 44), 22);
}

TEST(ConnectionsByAddress, A64OfIpv6IsOneClientAndAnIpv4AddressIsAnother) {
  EXPECT_TRUE(ConnectionsByAddress::Same(Address("2001:db8::1"), Address("2001:db8::ffff:1")));
  EXPECT_FALSE(ConnectionsByAddress::Same(Address("2001:db8::1"), Address("2001:db8:0:1::1")));
  EXPECT_FALSE(ConnectionsByAddress::Same(Address("10.0.0.1"), Address("10.0.0.2")));
  ConnectionsByAddress counts;
  EXPECT_TRUE(counts.Add(Address("2001:db8::1"), 1));
  EXPECT_FALSE(counts.Add(Address("2001:db8::2"), 1));
  counts.Remove(Address("2001:db8::3"));
  EXPECT_TRUE(counts.Add(Address("2001:db8::2"), 1));
}

}  // namespace
}  // namespace gateway::dataplane
