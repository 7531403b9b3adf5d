#include "controlplane/stream/ticket_key_ring.h"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "common/policy/resource.h"
#include "controlplane/stream/hub.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "gtest/gtest.h"
#include "tests/unit/controlplane/testing.h"

namespace gateway::controlplane {
namespace {

class TicketKeyRingTest : public ::testing::Test {
 protected:
  void Open() {
    ring_.reset();
    TicketKeyRing::Options options;
    options.now = [this] { return absl::FromUnixSeconds(now_); };
    options.publish = [this](const v1::TicketKeysUpdate& keys, absl::Time rotates_at) {
      std::lock_guard lock(mu_);
      published_.push_back(keys);
      rotates_at_ = rotates_at;
    };
    auto ring = TicketKeyRing::Open(store_.get(), std::move(options));
    ASSERT_TRUE(ring.ok()) << ring.status();
    ring_ = *std::move(ring);
  }
  v1::TicketKeysUpdate Last() {
    std::lock_guard lock(mu_);
    return published_.back();
  }
  size_t Published() {
    std::lock_guard lock(mu_);
    return published_.size();
  }
  void Advance(absl::Duration time) { now_ += absl::ToInt64Seconds(time); }

  TempDir directory_;
  std::unique_ptr<Store> store_ = *Store::Open(At(directory_.File("gateway.db")));
  std::atomic<int64_t> now_{1'800'000'000};
  std::mutex mu_;
  std::vector<v1::TicketKeysUpdate> published_;
  absl::Time rotates_at_;
  std::unique_ptr<TicketKeyRing> ring_;
};

TEST_F(TicketKeyRingTest, TheNextKeyIsKnownAPeriodBeforeItIsUsed) {
  Open();
  const v1::TicketKeysUpdate first = Last();
  EXPECT_FALSE(first.has_previous());
  EXPECT_EQ(first.current().name().size(), 16u);
  EXPECT_EQ(first.current().cipher().size(), 32u);
  EXPECT_EQ(first.next().mac().size(), 32u);
  EXPECT_NE(first.current().name(), first.next().name());
  EXPECT_EQ(rotates_at_, absl::FromUnixSeconds(now_) + absl::Hours(8));
  ring_->Tick();
  EXPECT_EQ(Published(), 1u) << "it is not time yet";
  Advance(absl::Hours(8));
  ring_->Tick();
  const v1::TicketKeysUpdate second = Last();
  EXPECT_EQ(second.previous().name(), first.current().name());
  EXPECT_EQ(second.current().name(), first.next().name());
  EXPECT_NE(second.next().name(), first.next().name());
}

TEST_F(TicketKeyRingTest, ARestartGoesOnWithTheSameKeys) {
  Open();
  const v1::TicketKeysUpdate before = Last();
  ring_.reset();
  store_.reset();
  store_ = *Store::Open(At(directory_.File("gateway.db")));
  Advance(absl::Hours(1));
  Open();
  EXPECT_EQ(Last().current().name(), before.current().name());
  EXPECT_EQ(Last().next().mac(), before.next().mac());
  EXPECT_EQ(rotates_at_, absl::FromUnixSeconds(now_) + absl::Hours(7));
  // One that was away at the rotation does as data planes have done.
  ring_.reset();
  Advance(absl::Hours(8));
  Open();
  EXPECT_EQ(Last().current().name(), before.next().name());
  EXPECT_EQ(Last().previous().name(), before.current().name());
}

TEST_F(TicketKeyRingTest, KeysOutOfUseAreReplaced) {
  Open();
  const v1::TicketKeysUpdate before = Last();
  ring_.reset();
  Advance(absl::Hours(17));
  Open();
  EXPECT_NE(Last().current().name(), before.current().name());
  EXPECT_NE(Last().current().name(), before.next().name());
}

TEST_F(TicketKeyRingTest, KeysAreSealedOnDisk) {
  Open();
  const std::string cipher = Last().current().cipher(), mac = Last().next().mac();
  const absl::StatusOr<std::string> opened = store_->Secret("ticket-keys");
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_THAT(*opened, ::testing::HasSubstr(cipher));
  ring_.reset();
  store_.reset();
  for (const auto& file : std::filesystem::directory_iterator(directory_.path())) {
    std::ostringstream text;
    text << std::ifstream(file.path(), std::ios::binary).rdbuf();
    EXPECT_EQ(text.str().find(cipher), std::string::npos) << file.path();
    EXPECT_EQ(text.str().find(mac), std::string::npos) << file.path();
  }
}

TEST_F(TicketKeyRingTest, AnotherSealingKeyMeansNewTicketKeysAndNoFailure) {
  Open();
  const v1::TicketKeysUpdate before = Last();
  ring_.reset();
  store_.reset();
  std::filesystem::remove(directory_.File("gateway.db.sealing-key"));
  store_ = *Store::Open(At(directory_.File("gateway.db")));
  Open();
  EXPECT_NE(Last().current().name(), before.current().name());
}

TEST(StoreSecrets, AreKeptByNameAndGone) {
  TempDir directory;
  auto store = *Store::Open(At(directory.File("gateway.db")));
  EXPECT_TRUE(absl::IsNotFound(store->Secret("a").status()));
  ASSERT_TRUE(store->PutSecret("a", "one").ok());
  ASSERT_TRUE(store->PutSecret("a", "two").ok());
  ASSERT_TRUE(store->PutSecret("b", "").ok());
  store = nullptr;
  store = *Store::Open(At(directory.File("gateway.db")));
  EXPECT_EQ(*store->Secret("a"), "two");
  EXPECT_EQ(*store->Secret("b"), "");
  EXPECT_TRUE(store->DeleteSecret("a").ok());
  EXPECT_TRUE(store->DeleteSecret("a").ok());
  EXPECT_TRUE(absl::IsNotFound(store->Secret("a").status()));
}

// ---- The hub hands them on.

class SilentSink final : public StreamSink {
 public:
  void Wake() override {}
  void Replaced() override {}
};

class HubEdge : public ::testing::Test {
 protected:
  Hub::Attachment Attach(const std::string& name, PrivateKeys keys, bool takes_edge = true) {
    v1::Hello hello;
    hello.set_schema_version(kSchemaVersion);
    hello.set_name(name);
    hello.set_instance_id(name);
    hello.set_workers(1);
    hello.set_takes_edge(takes_edge);
    return hub_.Attach(hello, "127.0.0.1:1", sink_, keys);
  }
  // What is written to this stream until it has to wait.
  std::vector<v1::ControlPlaneMessage> Drain(const std::shared_ptr<Hub::Session>& session) {
    std::vector<v1::ControlPlaneMessage> messages;
    while (std::optional<grpc::ByteBuffer> next = hub_.Next(session)) {
      EXPECT_TRUE(
          grpc::SerializationTraits<v1::ControlPlaneMessage>::Deserialize(&*next, &messages.emplace_back()).ok());
    }
    return messages;
  }
  static v1::ChallengesAck AckOf(uint64_t version) {
    v1::ChallengesAck ack;
    ack.set_version(version);
    return ack;
  }

  std::shared_ptr<SilentSink> sink_ = std::make_shared<SilentSink>();
  Hub hub_;
};

TEST_F(HubEdge, TicketKeysTravelOnStreamsThatMayCarryPrivateKeys) {
  v1::TicketKeysUpdate keys;
  keys.mutable_current()->set_name("current");
  hub_.PublishTicketKeys(keys, absl::Now() + absl::Hours(2));
  const auto secure = Attach("secure", PrivateKeys::kSent).session;
  const auto open = Attach("open", PrivateKeys::kKept).session;
  const auto old = Attach("old", PrivateKeys::kSent, /*takes_edge=*/false).session;
  const auto count = [](const std::vector<v1::ControlPlaneMessage>& messages) {
    return std::count_if(messages.begin(), messages.end(), [](const auto& each) { return each.has_ticket_keys(); });
  };
  const std::vector<v1::ControlPlaneMessage> got = Drain(secure);
  ASSERT_EQ(count(got), 1);
  const auto sent = std::find_if(got.begin(), got.end(), [](const auto& each) { return each.has_ticket_keys(); });
  EXPECT_EQ(sent->ticket_keys().current().name(), "current");
  EXPECT_GT(sent->ticket_keys().next_in().seconds(), 7000);
  EXPECT_EQ(count(Drain(open)), 0);
  EXPECT_EQ(count(Drain(old)), 0);
  EXPECT_EQ(Drain(old).size(), 0u);
  hub_.PublishTicketKeys(keys, absl::Now());
  EXPECT_EQ(count(Drain(secure)), 1);
  EXPECT_EQ(count(Drain(secure)), 0);
}

TEST_F(HubEdge, ChallengesArePendingUntilEveryDataPlaneHasThem) {
  const auto a = Attach("a", PrivateKeys::kKept).session;
  (void)Drain(a);
  v1::Challenge challenge;
  challenge.set_token("t");
  const uint64_t version = hub_.PublishChallenges({challenge});
  EXPECT_THAT(hub_.ChallengesPending(version, 5), ::testing::ElementsAre("a"));
  EXPECT_FALSE(hub_.OnChallenges(a, AckOf(version)).ok()) << "it was not sent yet";
  const std::vector<v1::ControlPlaneMessage> got = Drain(a);
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(got[0].challenges().challenges(0).token(), "t");
  ASSERT_TRUE(hub_.OnChallenges(a, AckOf(got[0].challenges().version())).ok());
  EXPECT_THAT(hub_.ChallengesPending(version, 5), ::testing::IsEmpty());
  const auto old = Attach("old", PrivateKeys::kKept, /*takes_edge=*/false).session;
  EXPECT_THAT(hub_.ChallengesPending(version, 5), ::testing::ElementsAre("old"));
  EXPECT_TRUE(hub_.Detach(old, true));
  EXPECT_THAT(hub_.ChallengesPending(version, 5), ::testing::IsEmpty());
  EXPECT_GT(hub_.PublishChallenges({}), version);
}

}  // namespace
}  // namespace gateway::controlplane
