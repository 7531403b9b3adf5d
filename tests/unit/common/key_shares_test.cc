#include "common/base/key_shares.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

namespace gateway {
namespace {

ClientPrefix Prefix(const std::string& text) {
  in6_addr address{};
  EXPECT_EQ(inet_pton(AF_INET6, text.c_str(), &address), 1) << text;
  return ClientPrefix::Of(address);
}

// A table of `size` places that clients fill one after the other, as far as they may.
struct Places {
  explicit Places(size_t size) : free(size) {}
  size_t Fill(const ClientPrefix& client, size_t tries = 1'000'000) {
    size_t taken = 0;
    while (taken < tries && free > 0 && shares.Take(client, free).granted) ++taken, --free;
    return taken;
  }
  KeyShares shares;
  size_t free;
};

TEST(ClientPrefix, IsAnIpv4AddressOrTheFirstHalfOfAnIpv6One) {
  EXPECT_EQ(Prefix("::ffff:192.0.2.1"), Prefix("::ffff:192.0.2.1"));
  EXPECT_NE(Prefix("::ffff:192.0.2.1"), Prefix("::ffff:192.0.2.2"));
  EXPECT_EQ(Prefix("2001:db8:1:2::1"), Prefix("2001:db8:1:2:ffff::9"));
  EXPECT_NE(Prefix("2001:db8:1:2::1"), Prefix("2001:db8:1:3::1"));
  EXPECT_EQ(Prefix("2001:db8:1:2::1").site(), Prefix("2001:db8:1:3::1").site());
  EXPECT_NE(Prefix("2001:db8:1:2::1").site(), Prefix("2001:db8:2:2::1").site());
  EXPECT_NE(Prefix("2001:db8:1::1").site(), Prefix("2001:db8:1::1")) << "a site and its first client differ";
}

TEST(ClientPrefix, BytesTellTheSamePrefix) {
  for (const char* text : {"::ffff:192.0.2.1", "2001:db8:1:2::1", "fe80::1"}) {
    EXPECT_EQ(ClientPrefix::FromBytes(Prefix(text).ToBytes()), Prefix(text)) << text;
  }
  EXPECT_EQ(ClientPrefix().ToBytes(), "");
  for (const size_t size : {0, 1, 3, 5, 7, 9, 16}) {
    EXPECT_EQ(ClientPrefix::FromBytes(std::string(size, 'x')), ClientPrefix()) << size;
  }
}

TEST(KeyShares, OneClientHoldsAFifthAtMost) {
  Places places(100'000);
  EXPECT_NEAR(static_cast<double>(places.Fill(Prefix("::ffff:192.0.2.1"))), 20'000, 1);
  EXPECT_EQ(places.Fill(Prefix("::ffff:192.0.2.2"), 100), 100u) << "others are not affected";
}

TEST(KeyShares, ManyClientsLeaveRoomForOneMore) {
  Places places(100'000);
  for (uint64_t i = 0; i < 10; ++i) places.Fill({ClientPrefix::Kind::kIpv4, i});
  EXPECT_GT(places.free, 10'000u);
  EXPECT_EQ(places.Fill({ClientPrefix::Kind::kIpv4, 5000}, 1000), 1000u);
}

TEST(KeyShares, TheFirstPlacesAreGrantedWithoutRoom) {
  KeyShares shares;
  const ClientPrefix client = Prefix("::ffff:192.0.2.1");
  for (size_t i = 0; i < KeyShares::kClientAlways; ++i) EXPECT_TRUE(shares.Take(client, 0).granted) << i;
  const KeyShares::Answer answer = shares.Take(client, 0);
  EXPECT_FALSE(answer.granted);
  EXPECT_EQ(answer.whose, client);
}

TEST(KeyShares, AnIpv6SiteIsBoundedWhateverItsClients) {
  Places places(100'000);
  ClientPrefix whose;
  size_t taken = 0;
  for (uint64_t subnet = 0; subnet < 65'536; ++subnet) {
    const KeyShares::Answer answer =
        places.shares.Take({ClientPrefix::Kind::kIpv6Client, 0x20010db800010000 + subnet}, places.free);
    if (answer.granted) ++taken, --places.free;
    if (!answer.granted) whose = answer.whose;
  }
  EXPECT_NEAR(static_cast<double>(taken), 20'000, 1);
  EXPECT_EQ(whose, Prefix("2001:db8:1::").site());
  EXPECT_TRUE(places.shares.Take(Prefix("2001:db8:2::"), places.free).granted) << "another site";
}

TEST(KeyShares, AnIpv6ProviderHoldsHalfAtMost) {
  Places places(100'000);
  size_t taken = 0;
  for (uint64_t site = 0; site < 65'536; ++site) {
    for (uint64_t subnet = 0; subnet < 2; ++subnet) {
      const ClientPrefix client{ClientPrefix::Kind::kIpv6Client, 0x20010db800000000 + (site << 16) + subnet};
      const KeyShares::Answer answer = places.shares.Take(client, places.free);
      if (answer.granted) ++taken, --places.free;
      if (!answer.granted) {
        ASSERT_EQ(answer.whose, client.site());
      }
    }
  }
  EXPECT_NEAR(static_cast<double>(taken), 50'000, 1);
  EXPECT_TRUE(places.shares.Take(Prefix("2001:db9::"), places.free).granted) << "another provider";
}

TEST(KeyShares, WhatIsGivenBackIsForgotten) {
  KeyShares shares;
  const std::vector<ClientPrefix> clients = {Prefix("::ffff:192.0.2.1"), Prefix("2001:db8::"), {}};
  for (const ClientPrefix& client : clients) EXPECT_TRUE(shares.Take(client, 100).granted);
  EXPECT_EQ(shares.held(clients[0]), 1u);
  EXPECT_EQ(shares.held(clients[1].site()), 1u);
  EXPECT_EQ(shares.prefixes(), 4u) << "an address, a client, its site and its provider";
  for (const ClientPrefix& client : clients) shares.Release(client);
  EXPECT_EQ(shares.prefixes(), 0u);
  // A refused place leaves nothing behind either.
  for (size_t i = 0; i < KeyShares::kSiteAlways; ++i) {
    EXPECT_TRUE(shares.Take({ClientPrefix::Kind::kIpv6Client, i}, 0).granted);
  }
  EXPECT_FALSE(shares.Take({ClientPrefix::Kind::kIpv6Client, 1000}, 0).granted);
  for (size_t i = 0; i < KeyShares::kSiteAlways; ++i) shares.Release({ClientPrefix::Kind::kIpv6Client, i});
  EXPECT_EQ(shares.prefixes(), 0u);
}

TEST(KeyShares, CountsExactlyOverThreads) {
  KeyShares shares;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (uint64_t i = 0; i < 20'000; ++i) {
        const ClientPrefix client{ClientPrefix::Kind::kIpv6Client, (i % 7) << 16};
        if (shares.Take(client, 1000).granted) shares.Release(client);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(shares.prefixes(), 0u);
}

}  // namespace
}  // namespace gateway
