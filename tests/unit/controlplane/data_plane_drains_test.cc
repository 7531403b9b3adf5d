// Data planes that operators drain: kept, told, forgotten.
#include "controlplane/publish/data_plane_drains.h"

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/controlplane/testing.h"

namespace gateway::controlplane {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class DataPlaneDrainsTest : public ::testing::Test {
 protected:
  void Open() {
    drains_.reset();
    store_.reset();
    store_ = Store::Open(At(dir_.File("gateway.db"))).value();
    auto opened = DataPlaneDrains::Open(store_.get());
    ASSERT_TRUE(opened.ok()) << opened.status();
    drains_ = *std::move(opened);
    drains_->Start([this](const DrainMap& all) {
      std::lock_guard lock(mu_);
      published_.clear();
      for (const auto& [name, drain] : all) published_.push_back(name);
    });
  }
  void SetUp() override { Open(); }
  std::vector<std::string> Published() {
    std::lock_guard lock(mu_);
    return published_;
  }
  absl::Status Set(const std::string& name, const std::string& actor = "ann") {
    v1::DataPlaneDrain drain;
    drain.set_actor(actor);
    return drains_->Set(name, drain).status();
  }

  TempDir dir_;
  std::mutex mu_;
  std::vector<std::string> published_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<DataPlaneDrains> drains_;
};

TEST_F(DataPlaneDrainsTest, AreKeptOverARestartAndTold) {
  EXPECT_THAT(Published(), IsEmpty());
  ASSERT_TRUE(Set("dp-1").ok());
  ASSERT_TRUE(Set("dp-2").ok());
  Open();
  EXPECT_THAT(Published(), ElementsAre("dp-1", "dp-2"));
  EXPECT_EQ(drains_->List().at("dp-1").actor(), "ann");
  ASSERT_TRUE(drains_->Clear("dp-1").ok());
  EXPECT_THAT(Published(), ElementsAre("dp-2"));
  EXPECT_TRUE(absl::IsNotFound(drains_->Clear("dp-1")));
  Open();
  EXPECT_THAT(Published(), ElementsAre("dp-2"));
}

TEST_F(DataPlaneDrainsTest, AnEarlierDrainStaysAsItIs) {
  ASSERT_TRUE(Set("dp-1", "ann").ok());
  ASSERT_TRUE(Set("dp-1", "bob").ok());
  EXPECT_EQ(drains_->List().at("dp-1").actor(), "ann");
}

TEST_F(DataPlaneDrainsTest, OneThatIsForgottenIsNoLongerDrained) {
  ASSERT_TRUE(Set("dp-1").ok());
  ASSERT_TRUE(Set("dp-2").ok());
  drains_->Forget("dp-1");
  drains_->Forget("dp-9");  // was not drained
  drains_->Stop();          // finishes what was begun
  EXPECT_THAT(Published(), ElementsAre("dp-2"));
  Open();
  EXPECT_THAT(Published(), ElementsAre("dp-2"));
}

}  // namespace
}  // namespace gateway::controlplane
