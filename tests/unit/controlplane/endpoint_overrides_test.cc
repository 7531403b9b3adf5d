// Endpoint overrides: stored, expired, and sent to data planes.
#include "controlplane/publish/endpoint_overrides.h"

#include <sqlite3.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/controlplane/testing.h"

namespace gateway::controlplane {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);

v1::EndpointOverride Drain(const std::string& service, const std::string& endpoint,
                           std::optional<absl::Duration> duration = std::nullopt) {
  v1::EndpointOverride made;
  made.set_service(service);
  made.set_endpoint(endpoint);
  made.set_drain(true);
  made.set_actor("alice");
  if (duration) made.mutable_until()->set_seconds(absl::ToUnixSeconds(kNow + *duration));
  return made;
}

class EndpointOverridesTest : public ::testing::Test {
 protected:
  void Open() {
    overrides_.reset();
    store_.reset();
    store_ = Store::Open(At(dir_.File("gateway.db"))).value();
    EndpointOverrides::Options options;
    options.publish = [this](const std::vector<v1::EndpointOverride>& all) {
      std::lock_guard lock(mu_);
      published_.clear();
      for (const v1::EndpointOverride& each : all) published_.push_back(each.endpoint());
    };
    options.ended = [this](const v1::EndpointOverride& each) {
      std::lock_guard lock(mu_);
      ended_.push_back(each.endpoint());
    };
    options.now = [this] {
      std::lock_guard lock(mu_);
      return now_;
    };
    auto opened = EndpointOverrides::Open(store_.get(), options);
    ASSERT_TRUE(opened.ok()) << opened.status();
    overrides_ = *std::move(opened);
  }
  void SetUp() override { Open(); }
  std::vector<std::string> Published() {
    std::lock_guard lock(mu_);
    return published_;
  }
  std::vector<std::string> Ended() {
    std::lock_guard lock(mu_);
    return ended_;
  }
  void Pass(absl::Duration time) {
    std::lock_guard lock(mu_);
    now_ += time;
  }

  TempDir dir_;
  std::mutex mu_;
  absl::Time now_ = kNow;
  std::vector<std::string> published_, ended_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<EndpointOverrides> overrides_;
};

TEST_F(EndpointOverridesTest, TheyAreToldAtOnceAndLiveThroughARestart) {
  ASSERT_TRUE(overrides_->Set(Drain("orders", "10.0.0.2:80")).ok());
  ASSERT_TRUE(overrides_->Set(Drain("orders", "10.0.0.1:80")).ok());
  ASSERT_TRUE(overrides_->Set(Drain("shop", "10.0.0.1:80")).ok());
  EXPECT_THAT(Published(), ElementsAre("10.0.0.1:80", "10.0.0.2:80", "10.0.0.1:80"));
  v1::EndpointOverride heavy = Drain("orders", "10.0.0.1:80");
  heavy.set_weight(7);
  ASSERT_TRUE(overrides_->Set(heavy).ok()) << "replaces the drain";
  Open();
  EXPECT_THAT(Published(), ElementsAre("10.0.0.1:80", "10.0.0.2:80", "10.0.0.1:80"));
  const std::vector<v1::EndpointOverride> orders = overrides_->List("orders");
  ASSERT_EQ(orders.size(), 2u);
  EXPECT_EQ(orders[0].weight(), 7u);
  EXPECT_EQ(orders[0].actor(), "alice");
  EXPECT_EQ(overrides_->List("").size(), 3u);

  ASSERT_TRUE(overrides_->Clear("orders", "10.0.0.1:80").ok());
  EXPECT_THAT(Published(), ElementsAre("10.0.0.2:80", "10.0.0.1:80"));
  EXPECT_EQ(overrides_->Clear("orders", "10.0.0.1:80").code(), absl::StatusCode::kNotFound);
  Open();
  EXPECT_EQ(overrides_->List("").size(), 2u);
  EXPECT_THAT(Ended(), IsEmpty());
}

TEST_F(EndpointOverridesTest, OneEndsWhenItsTimeHasCome) {
  ASSERT_TRUE(overrides_->Set(Drain("orders", "10.0.0.1:80")).ok());
  ASSERT_TRUE(overrides_->Set(Drain("orders", "10.0.0.2:80", absl::Minutes(10))).ok());
  Pass(absl::Minutes(10));
  // Setting another override wakes the thread: it does not sleep for ten minutes.
  ASSERT_TRUE(overrides_->Set(Drain("orders", "10.0.0.3:80")).ok());
  ASSERT_TRUE(Eventually([&] { return Ended() == std::vector<std::string>{"10.0.0.2:80"}; }));
  ASSERT_TRUE(Eventually([&] { return Published() == std::vector<std::string>{"10.0.0.1:80", "10.0.0.3:80"}; }));
  EXPECT_EQ(store_->LoadOverrides()->size(), 2u);
}

TEST_F(EndpointOverridesTest, OneThatEndedWhileNobodyLookedIsGoneAtTheStart) {
  ASSERT_TRUE(overrides_->Set(Drain("orders", "10.0.0.2:80", absl::Minutes(10))).ok());
  overrides_.reset();
  Pass(absl::Minutes(11));
  Open();
  EXPECT_THAT(Published(), IsEmpty());
  EXPECT_THAT(Ended(), ElementsAre("10.0.0.2:80"));
  EXPECT_TRUE(store_->LoadOverrides()->empty());
}

TEST_F(EndpointOverridesTest, ThereIsABound) {
  for (size_t i = 0; i < EndpointOverrides::kOverridesMax; ++i) {
    ASSERT_TRUE(overrides_->Set(Drain("orders", absl::StrCat("host:", i + 1))).ok());
  }
  EXPECT_EQ(overrides_->Set(Drain("orders", "host:9999")).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(overrides_->Set(Drain("orders", "host:1", absl::Minutes(1))).ok()) << "an existing one";
  EXPECT_TRUE(overrides_->Clear("orders", "host:2").ok());
  EXPECT_TRUE(overrides_->Set(Drain("orders", "host:9999")).ok());
}

TEST_F(EndpointOverridesTest, ADamagedRowIsReported) {
  ASSERT_TRUE(overrides_->Set(Drain("orders", "10.0.0.2:80")).ok());
  overrides_.reset();
  store_.reset();
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(dir_.File("gateway.db").c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db, "UPDATE overrides SET service = 'shop'", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(db);
  store_ = Store::Open(At(dir_.File("gateway.db"))).value();
  EXPECT_EQ(EndpointOverrides::Open(store_.get(), {}).status().code(), absl::StatusCode::kDataLoss);
}

TEST(DescribeOverride, SaysWhatItIs) {
  v1::EndpointOverride made = Drain("orders", "10.0.0.2:80");
  EXPECT_EQ(DescribeOverride(made), "drained");
  made.set_weight(0);
  EXPECT_EQ(DescribeOverride(made), "taken out");
  made.set_weight(3);
  EXPECT_EQ(DescribeOverride(made), "weight 3 instead of its own");
}

}  // namespace
}  // namespace gateway::controlplane
