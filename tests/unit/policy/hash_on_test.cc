#include "dataplane/policy/hash_on.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "common/base/address_set.h"
#include "common/base/text.h"
#include "gtest/gtest.h"

namespace gateway::dataplane {
namespace {

using Kind = HashOnPolicy::Kind;

in6_addr Address(std::string_view text) {
  in6_addr address{};
  EXPECT_TRUE(ParseIp(text, &address));
  return address;
}

TEST(FindCookie, TakesTheFirstOfItsNameOverAllFields) {
  const std::vector<FieldView> fields = {
      {"Accept", "sid=no"}, {"cookie", "xsid=1; sid2=2;SID=3"}, {"COOKIE", "a=b; \tsid=four=4 ; sid=5"}};
  EXPECT_EQ(FindCookie(fields, "sid"), "four=4");
  EXPECT_EQ(FindCookie(fields, "SID"), "3");
  EXPECT_EQ(FindCookie(fields, "sid2"), "2");
  EXPECT_EQ(FindCookie(fields, "si"), "");
}

TEST(FindCookie, TakesQuotesOffAndReadsPastWhatIsNoPair) {
  const std::vector<FieldView> fields = {{"Cookie", ";;; x; sid; sid=; =sid; sid=\"v w\"; "}};
  EXPECT_EQ(FindCookie(fields, "sid"), "v w");
  EXPECT_EQ(FindCookie(std::vector<FieldView>{{"Cookie", ""}}, "sid"), "");
  EXPECT_EQ(FindCookie(std::vector<FieldView>{{"Cookie", "sid=\""}}, "sid"), "\"");
}

TEST(HashOf, IsOfWhatThePolicySaysAlone) {
  const in6_addr client = Address("192.0.2.1");
  const std::vector<FieldView> fields = {{"X-User", ""}, {"X-USER", "ann"}, {"Cookie", "sid=ann"}};
  const auto by_header = HashOf({Kind::kHeader, "x-user"}, fields, client, "/a");
  ASSERT_TRUE(by_header.has_value());
  EXPECT_EQ(by_header, HashOf({Kind::kCookie, "sid"}, fields, Address("::1"), "/b"));
  EXPECT_EQ(by_header, HashOf({Kind::kPath, ""}, {}, client, "ann"));
  EXPECT_NE(HashOf({Kind::kClientIp, ""}, fields, client, "/a"),
            HashOf({Kind::kClientIp, ""}, fields, Address("192.0.2.2"), "/a"));
  // Data planes of different versions must agree on these values.
  EXPECT_EQ(HashOf({Kind::kPath, ""}, {}, client, "/orders"), 0xb9f64c0ecf1dbab8);
}

TEST(HashOf, NothingWhereTheRequestLacksIt) {
  const in6_addr client = Address("192.0.2.1");
  const std::vector<FieldView> fields = {{"X-User", ""}, {"Cookie", "sid="}};
  EXPECT_EQ(HashOf({Kind::kHeader, "x-user"}, fields, client, "/a"), std::nullopt);
  EXPECT_EQ(HashOf({Kind::kCookie, "sid"}, fields, client, "/a"), std::nullopt);
  EXPECT_EQ(HashOf({Kind::kNothing, ""}, fields, client, "/a"), std::nullopt);
}

// Services named "s0", "s1"... in order.
std::vector<ServicePolicy> Services(int count) {
  std::vector<ServicePolicy> services(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) services[static_cast<size_t>(i)].name = Concat("s", i);
  return services;
}

std::vector<SplitTarget> Targets(const std::vector<std::pair<uint32_t, uint32_t>>& service_and_weight) {
  std::vector<SplitTarget> targets;
  uint32_t sum = 0;
  for (const auto& [service, weight] : service_and_weight) targets.push_back({service, sum += weight});
  return targets;
}

class Splits : public ::testing::Test {
 protected:
  static constexpr int kUsers = 100'000;
  Splits() {
    std::mt19937_64 random(20261123);
    for (int i = 0; i < kUsers; ++i) users_.push_back(random());
  }
  // The side that each user is sent to.
  std::vector<uint32_t> Sides(const std::vector<SplitTarget>& targets) const {
    std::vector<uint32_t> sides;
    for (const uint64_t user : users_) sides.push_back(targets[ChooseTarget(targets, services_, user)].service);
    return sides;
  }
  std::vector<ServicePolicy> services_ = Services(4);
  std::vector<uint64_t> users_;
};

TEST_F(Splits, SharesAreTheWeights) {
  const std::vector<double> weights = {60, 30, 9, 1};
  std::vector<double> counts(4);
  for (const uint32_t side : Sides(Targets({{0, 60}, {1, 30}, {2, 9}, {3, 1}}))) ++counts[side];
  double chi_square = 0;
  for (size_t i = 0; i < 4; ++i) {
    const double expected = weights[i] / 100 * kUsers;
    chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  EXPECT_LT(chi_square, 16.27);  // 3 degrees of freedom, p = 0.001; the seed is fixed
}

TEST_F(Splits, AGrowingCanaryKeepsItsUsers) {
  std::vector<uint32_t> before = Sides(Targets({{0, 99}, {1, 1}}));
  for (const uint32_t share : {5u, 20u, 50u, 90u}) {
    const std::vector<uint32_t> after = Sides(Targets({{0, 100 - share}, {1, share}}));
    for (size_t i = 0; i < before.size(); ++i) ASSERT_FALSE(before[i] == 1 && after[i] == 0) << "user " << i;
    before = after;
  }
}

TEST_F(Splits, AnotherTargetTakesItsShareFromAllAndMovesNobodyElse) {
  const std::vector<uint32_t> before = Sides(Targets({{0, 50}, {1, 50}}));
  const std::vector<uint32_t> after = Sides(Targets({{2, 25}, {1, 50}, {0, 50}}));  // in another order
  int moved = 0;
  for (size_t i = 0; i < before.size(); ++i) {
    if (before[i] == after[i]) continue;
    ++moved;
    ASSERT_EQ(after[i], 2u) << "user " << i;
  }
  EXPECT_NEAR(moved, kUsers / 5, kUsers / 100);
}

}  // namespace
}  // namespace gateway::dataplane
