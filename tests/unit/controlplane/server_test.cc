// The whole control plane in this process, on its own ports, used only through its gRPC interfaces.
#include "controlplane/server.h"

#include <deque>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <set>
#include <thread>

#include "absl/strings/match.h"
#include "common/base/admin_protocol.h"
#include "common/config/redaction.h"
#include "common/policy/schema_version.h"
#include "gateway/v1/admin.grpc.pb.h"
#include "gateway/v1/config_stream.grpc.pb.h"
#include "gmock/gmock.h"
#include "google/rpc/status.pb.h"
#include "grpc/reflection/v1/reflection.grpc.pb.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "spdlog/spdlog.h"
#include "tests/fixtures/raw_client.h"
#include "tests/unit/controlplane/testing.h"

namespace gateway::controlplane {
namespace {

using DataPlaneStream = grpc::ClientReaderWriter<v1::DataPlaneMessage, v1::ControlPlaneMessage>;

// A scripted data plane: sends what the test wants, reads one message at a time.
class FakeDataPlane {
 public:
  FakeDataPlane(uint16_t port, const std::string& name) : name_(name) {
    // A separate connection, like another process.
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    channel_ =
        grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials(), arguments);
    context_ = std::make_unique<grpc::ClientContext>();
    context_->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(100));
    stream_ = v1::ConfigStream::NewStub(channel_)->Connect(context_.get());
  }
  ~FakeDataPlane() {
    context_->TryCancel();
    if (!finished_) stream_->Finish();
  }

  v1::Hello HelloMessage() const {
    v1::Hello hello;
    hello.set_schema_version(kSchemaVersion);
    hello.set_name(name_);
    hello.set_instance_id(name_ + "-1");
    hello.set_version("test");
    hello.set_workers(4);
    return hello;
  }
  bool Send(const v1::Hello& hello) {
    v1::DataPlaneMessage message;
    *message.mutable_hello() = hello;
    return stream_->Write(message);
  }
  bool Hello() { return Send(HelloMessage()); }
  bool Send(const v1::DataPlaneMessage& message) { return stream_->Write(message); }
  std::optional<v1::ControlPlaneMessage> Read() {
    v1::ControlPlaneMessage message;
    if (!stream_->Read(&message)) return std::nullopt;
    return message;
  }
  // All chunks of the next policy update, which must be the next message on the stream.
  std::vector<v1::PolicyUpdate> ReadPolicy() {
    std::vector<v1::PolicyUpdate> chunks;
    do {
      auto message = Read();
      if (!message || !message->has_policy()) {
        ADD_FAILURE() << "no policy update: " << (message ? message->ShortDebugString() : "the stream has ended");
        chunks.emplace_back();  // never empty: callers read the last one
        return chunks;
      }
      EXPECT_LE(message->ByteSizeLong(), kChunkBytesMax);
      chunks.push_back(message->policy());
    } while (!chunks.back().last());
    epoch_ = chunks.back().epoch();
    return chunks;
  }
  bool Ack(uint64_t revision) {
    v1::DataPlaneMessage message;
    message.mutable_ack()->set_epoch(epoch_);
    message.mutable_ack()->set_revision(revision);
    return stream_->Write(message);
  }
  grpc::Status Finish() {
    finished_ = true;
    v1::ControlPlaneMessage ignored;
    while (stream_->Read(&ignored)) {
    }
    return stream_->Finish();
  }
  DataPlaneStream& stream() { return *stream_; }
  const std::string& epoch() const { return epoch_; }

 private:
  const std::string name_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<DataPlaneStream> stream_;
  std::string epoch_;
  bool finished_ = false;
};

class ServerTest : public testing::Test {
 protected:
  void SetUp() override { Start(); }
  void Start() {
    config_.mutable_consul()->set_address("");
    config_.mutable_consul()->set_service_name("api-gateway");
    config_.mutable_metrics()->set_host("127.0.0.1");
    v1::ControlPlaneSection* section = config_.mutable_control_plane();
    section->set_admin_listen("127.0.0.1:0");
    section->set_stream_listen("127.0.0.1:0");
    section->set_metrics_port(0);
    section->set_database(dir_.File("gateway.db"));
    ControlPlaneOptions options = options_;
    auto started = ControlPlane::Start(config_, options);
    ASSERT_TRUE(started.ok()) << started.status();
    control_plane_ = *std::move(started);
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    admin_ = v1::Admin::NewStub(grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", control_plane_->admin_port()),
                                                          grpc::InsecureChannelCredentials(), arguments));
  }
  FakeDataPlane DataPlane(const std::string& name) { return {control_plane_->stream_port(), name}; }
  uint64_t MustApply(const v1::ApplyRequest& request) {
    grpc::ClientContext context;
    v1::ApplyResponse response;
    grpc::Status status = admin_->Apply(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.revision();
  }
  uint64_t MustApply(std::initializer_list<v1::Resource> resources) { return MustApply(ApplyOf(resources)); }
  v1::DataPlaneState StateOf(const std::string& name) {
    grpc::ClientContext context;
    v1::ListDataPlanesResponse response;
    EXPECT_TRUE(admin_->ListDataPlanes(&context, {}, &response).ok());
    for (const v1::DataPlaneState& state : response.data_planes()) {
      if (state.name() == name) return state;
    }
    return {};
  }
  void Restart() {
    control_plane_.reset();
    Start();
  }
  v1::RolloutResponse RolloutNow() {
    return control_plane_->hub().Rollout(control_plane_->publisher().current()->revision, absl::Now());
  }
  bool Serves(const std::string& name, uint64_t revision) {
    return Eventually([&] { return StateOf(name).applied_revision() == revision; });
  }

  TempDir dir_;
  v1::Bootstrap config_;
  ControlPlaneOptions options_;
  std::unique_ptr<ControlPlane> control_plane_;
  std::unique_ptr<v1::Admin::Stub> admin_;
};

TEST_F(ServerTest, ADataPlaneIsWelcomedSentPolicyAndCountedOnceItAcks) {
  MustApply({StaticService("svc"), PrefixRoute("svc", "svc")});
  FakeDataPlane dp = DataPlane("dp-1");
  ASSERT_TRUE(dp.Hello());
  auto welcome = dp.Read();
  ASSERT_TRUE(welcome && welcome->has_welcome());
  EXPECT_EQ(welcome->welcome().revision(), 2u);
  std::vector<v1::PolicyUpdate> update = dp.ReadPolicy();
  ASSERT_EQ(update.size(), 1u);
  EXPECT_EQ(update[0].from(), 0u);
  EXPECT_EQ(update[0].to(), 2u);
  EXPECT_EQ(update[0].schema_version(), kSchemaVersion);
  EXPECT_EQ(update[0].epoch(), welcome->welcome().epoch());
  EXPECT_EQ(update[0].resources_size(), 5);
  int built_in = 0;
  for (const auto& resource : update[0].resources()) {
    built_in += resource.built_in() ? 1 : 0;
    EXPECT_EQ(resource.version(), resource.built_in() ? 1u : 2u);
  }
  EXPECT_EQ(built_in, 3);
  EXPECT_EQ(StateOf("dp-1").applied_revision(), 0u) << "an update that is only sent is not served";
  ASSERT_TRUE(dp.Ack(2));
  EXPECT_TRUE(Serves("dp-1", 2));
  EXPECT_TRUE(StateOf("dp-1").connected());
  EXPECT_EQ(StateOf("dp-1").workers(), 4u);
}

TEST_F(ServerTest, OneUpdateIsInFlightAndThenTheNewestIsSent) {
  FakeDataPlane dp = DataPlane("dp-1");
  ASSERT_TRUE(dp.Hello());
  ASSERT_TRUE(dp.Read());
  EXPECT_EQ(dp.ReadPolicy().back().to(), 1u);
  uint64_t newest = 1;
  for (int i = 0; i < 20; ++i) newest = MustApply({StaticService(absl::StrCat("s", i))});
  EXPECT_EQ(control_plane_->hub().counts().updates_sent, 1u) << "something was sent over an update in flight";
  ASSERT_TRUE(dp.Ack(1));
  EXPECT_EQ(dp.ReadPolicy().back().to(), newest);
  ASSERT_TRUE(dp.Ack(newest));
  EXPECT_TRUE(Serves("dp-1", newest));
  EXPECT_EQ(control_plane_->hub().counts().updates_sent, 2u);
}

TEST_F(ServerTest, AnUpdateIsSerialisedOnceForAllStreams) {
  std::deque<FakeDataPlane> planes;
  for (int i = 0; i < 10; ++i) {
    planes.emplace_back(control_plane_->stream_port(), absl::StrCat("dp-", i));
    ASSERT_TRUE(planes.back().Hello());
    ASSERT_TRUE(planes.back().Read());
    EXPECT_EQ(planes.back().ReadPolicy().back().to(), 1u);
    ASSERT_TRUE(planes.back().Ack(1));
  }
  EXPECT_EQ(control_plane_->hub().counts().updates_encoded, 1u);
  MustApply({StaticService("svc")});
  for (FakeDataPlane& dp : planes) EXPECT_EQ(dp.ReadPolicy().back().to(), 2u);
  EXPECT_EQ(control_plane_->hub().counts().updates_encoded, 2u);
  EXPECT_EQ(control_plane_->hub().counts().updates_sent, 20u);
}

TEST_F(ServerTest, ALargePolicyComesInChunksOfAtMostAMebibyte) {
  // Descriptions of 2 KiB: 10,000 services are 20 MB.
  v1::ApplyRequest request;
  for (int i = 0; i < 10'000; ++i) {
    v1::Resource resource = StaticService(absl::StrCat("s", i));
    resource.mutable_service()->set_description(std::string(2048, 'd'));
    *request.add_resources() = resource;
  }
  ASSERT_EQ(MustApply(request), 2u);
  FakeDataPlane dp = DataPlane("dp-1");
  ASSERT_TRUE(dp.Hello());
  ASSERT_TRUE(dp.Read());
  std::vector<v1::PolicyUpdate> chunks = dp.ReadPolicy();
  EXPECT_GE(chunks.size(), 20u);
  int resources = 0;
  for (size_t i = 0; i < chunks.size(); ++i) {
    EXPECT_EQ(chunks[i].chunk(), i);
    EXPECT_EQ(chunks[i].to(), 2u);
    EXPECT_EQ(chunks[i].last(), i + 1 == chunks.size());
    resources += chunks[i].resources_size();
  }
  EXPECT_EQ(resources, 10'003);
  ASSERT_TRUE(dp.Ack(2));
  EXPECT_TRUE(Serves("dp-1", 2));
}

TEST_F(ServerTest, ARejectionIsRememberedAndTheNextRevisionSent) {
  FakeDataPlane dp = DataPlane("dp-1");
  ASSERT_TRUE(dp.Hello());
  ASSERT_TRUE(dp.Read());
  dp.ReadPolicy();
  ASSERT_TRUE(dp.Ack(1));
  MustApply({StaticService("svc")});
  dp.ReadPolicy();
  v1::DataPlaneMessage message;
  message.mutable_nack()->set_epoch(dp.epoch());
  message.mutable_nack()->set_revision(2);
  message.mutable_nack()->set_applied_revision(1);
  v1::Rejection* rejection = message.mutable_nack()->add_rejections();
  rejection->set_kind("Service");
  rejection->set_name("svc");
  rejection->set_reason("no such thing");
  ASSERT_TRUE(dp.Send(message));
  ASSERT_TRUE(Eventually([&] { return StateOf("dp-1").rejected_revision() == 2; }));
  v1::DataPlaneState state = StateOf("dp-1");
  EXPECT_EQ(state.applied_revision(), 1u);
  ASSERT_EQ(state.rejections_size(), 1);
  EXPECT_EQ(state.rejections(0).reason(), "no such thing");

  MustApply({StaticService("svc", "127.0.0.1:2")});
  EXPECT_EQ(dp.ReadPolicy().back().to(), 3u);
  ASSERT_TRUE(dp.Ack(3));
  EXPECT_TRUE(Serves("dp-1", 3));
  EXPECT_EQ(StateOf("dp-1").rejections_size(), 0);
  EXPECT_EQ(StateOf("dp-1").rejected_revision(), 0u);
}

TEST_F(ServerTest, AStreamOfTheSameNameTakesTheOldOnesPlace) {
  FakeDataPlane first = DataPlane("dp-1");
  ASSERT_TRUE(first.Hello());
  ASSERT_TRUE(first.Read());
  first.ReadPolicy();
  FakeDataPlane second = DataPlane("dp-1");
  ASSERT_TRUE(second.Hello());
  ASSERT_TRUE(second.Read());
  second.ReadPolicy();
  EXPECT_EQ(first.Finish().error_code(), grpc::StatusCode::ABORTED);
  ASSERT_TRUE(second.Ack(1));
  EXPECT_TRUE(Serves("dp-1", 1));
  EXPECT_TRUE(StateOf("dp-1").connected());
  EXPECT_EQ(control_plane_->hub().counts().known, 1u);
}

TEST_F(ServerTest, WhatADataPlaneServesAlreadyIsNotSentAgain) {
  {
    FakeDataPlane dp = DataPlane("dp-1");
    ASSERT_TRUE(dp.Hello());
    ASSERT_TRUE(dp.Read());
    dp.ReadPolicy();
    ASSERT_TRUE(dp.Ack(1));
    ASSERT_TRUE(Serves("dp-1", 1));
  }
  ASSERT_TRUE(Eventually([&] { return !StateOf("dp-1").connected(); }));
  EXPECT_EQ(StateOf("dp-1").applied_revision(), 1u) << "disconnected, but still listed";
  FakeDataPlane dp = DataPlane("dp-1");
  v1::Hello hello = dp.HelloMessage();
  hello.set_epoch(control_plane_->publisher().current()->epoch);
  hello.set_revision(1);
  ASSERT_TRUE(dp.Send(hello));
  ASSERT_TRUE(dp.Read());
  ASSERT_TRUE(Eventually([&] { return StateOf("dp-1").connected(); }));
  EXPECT_EQ(StateOf("dp-1").applied_revision(), 1u) << "counts without an ack";
  MustApply({StaticService("svc")});
  EXPECT_EQ(dp.ReadPolicy().back().to(), 2u) << "the first update is the next revision";
}

// Reassembles what is encoded for a stream.
v1::PolicyUpdate Decode(const EncodedUpdate& encoded) {
  v1::PolicyUpdate all;
  for (grpc::ByteBuffer chunk : encoded.chunks) {
    v1::ControlPlaneMessage message;
    EXPECT_TRUE(grpc::SerializationTraits<v1::ControlPlaneMessage>::Deserialize(&chunk, &message).ok());
    all.MergeFrom(message.policy());
  }
  return all;
}

TEST(Hub, PrivateKeysTravelOnStreamsThatMayCarryThem) {
  auto resource = std::make_shared<v1::Resource>();
  resource->mutable_certificate()->set_name("a");
  resource->mutable_certificate()->mutable_certificate()->set_inline_("chain");
  resource->mutable_certificate()->mutable_key()->set_inline_("PRIVATE-KEY");
  auto resources = std::make_shared<ResourceSet>();
  (*resources)[KeyOf(*resource)].resource = resource;
  auto state = std::make_shared<PolicyState>();
  state->epoch = "e";
  state->revision = 7;
  state->resources = resources;

  EXPECT_EQ(Decode(*EncodePolicy(*state, PrivateKeys::kSent, kSchemaVersion))
                .resources(0)
                .resource()
                .certificate()
                .key()
                .inline_(),
            "PRIVATE-KEY");
  const v1::Certificate kept =
      Decode(*EncodePolicy(*state, PrivateKeys::kKept, kSchemaVersion)).resources(0).resource().certificate();
  EXPECT_TRUE(IsRedacted(kept.key().inline_()));
  EXPECT_EQ(kept.certificate().inline_(), "chain");

  Hub hub;
  hub.PublishPolicy(state);
  v1::Hello hello;
  hello.set_schema_version(kSchemaVersion);
  hello.set_name("dp");
  hello.set_instance_id("1");
  hello.set_epoch("e");
  hello.set_revision(7);
  hello.set_lacks_keys(true);
  const auto sent = [&hub](const Hub::Attachment& attachment) {
    std::string key = "nothing";
    while (auto next = hub.Next(attachment.session)) {
      v1::ControlPlaneMessage message;
      EXPECT_TRUE(grpc::SerializationTraits<v1::ControlPlaneMessage>::Deserialize(&*next, &message).ok());
      if (message.has_policy()) key = message.policy().resources(0).resource().certificate().key().inline_();
    }
    return key;
  };
  Hub::Attachment cleartext = hub.Attach(hello, "192.0.2.1:1", {}, PrivateKeys::kKept);
  EXPECT_EQ(cleartext.keys_kept, 1u);
  EXPECT_EQ(sent(cleartext), "nothing") << "it already has all that it may have";
  const Hub::Attachment secure = hub.Attach(hello, "192.0.2.1:1", {}, PrivateKeys::kSent);
  EXPECT_EQ(secure.keys_kept, 0u);
  EXPECT_EQ(sent(secure), "PRIVATE-KEY") << "the same revision again, with its keys";
  hello.set_lacks_keys(false);
  EXPECT_EQ(sent(hub.Attach(hello, "192.0.2.1:1", {}, PrivateKeys::kSent)), "nothing");
  hello.set_revision(0);
  cleartext = hub.Attach(hello, "192.0.2.1:1", {}, PrivateKeys::kKept);
  EXPECT_TRUE(IsRedacted(sent(cleartext)));
}

TEST_F(ServerTest, ANewInstanceTakesTheNameOfTheProcessThatItReplaces) {
  for (const std::string replaces : {"dp-1-1", "*"}) {
    FakeDataPlane first = DataPlane("dp-1");
    ASSERT_TRUE(first.Hello());
    ASSERT_TRUE(first.Read());
    FakeDataPlane second = DataPlane("dp-1");
    v1::Hello hello = second.HelloMessage();
    hello.set_instance_id("dp-1-2");
    hello.set_replaces_instance(replaces);
    ASSERT_TRUE(second.Send(hello));
    ASSERT_TRUE(second.Read());
    EXPECT_EQ(first.Finish().error_code(), grpc::StatusCode::ABORTED);
    second.stream().WritesDone();
    EXPECT_TRUE(second.Finish().ok());
    EXPECT_TRUE(Eventually([&] { return !StateOf("dp-1").connected(); }));
  }
}

TEST_F(ServerTest, AnotherInstanceOfAConnectedNameIsRefusedAndShownAndKeepsARolloutOpen) {
  options_.hub.rival_kept = absl::Seconds(2);
  Restart();
  FakeDataPlane first = DataPlane("dp-1");
  ASSERT_TRUE(first.Hello());
  ASSERT_TRUE(first.Read());
  first.ReadPolicy();
  ASSERT_TRUE(first.Ack(1));
  ASSERT_TRUE(Serves("dp-1", 1));
  EXPECT_TRUE(RolloutNow().done());

  FakeDataPlane second = DataPlane("dp-1");
  v1::Hello hello = second.HelloMessage();
  hello.set_instance_id("dp-1-2");
  hello.set_version("clone");
  ASSERT_TRUE(second.Send(hello));
  const grpc::Status refused = second.Finish();
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_TRUE(absl::StrContains(refused.error_message(), "'dp-1'")) << refused.error_message();
  const v1::RolloutResponse contended = RolloutNow();
  EXPECT_FALSE(contended.done());
  EXPECT_EQ(contended.serving(), 0u);
  ASSERT_EQ(contended.pending_size(), 1);
  ASSERT_EQ(contended.pending(0).rivals_size(), 1);
  EXPECT_EQ(contended.pending(0).rivals(0).version(), "clone");
  EXPECT_EQ(control_plane_->hub().counts().rivals_refused, 1u);

  // The first one was not disturbed, and counts again once the other has given up.
  EXPECT_TRUE(Eventually([&] { return RolloutNow().done(); }));
  EXPECT_EQ(StateOf("dp-1").instance_id(), "dp-1-1");
  EXPECT_EQ(StateOf("dp-1").rivals_size(), 0);
}

TEST_F(ServerTest, RivalsOfANameAreBounded) {
  FakeDataPlane first = DataPlane("dp-1");
  ASSERT_TRUE(first.Hello());
  ASSERT_TRUE(first.Read());
  for (int i = 0; i < 20; ++i) {
    FakeDataPlane other = DataPlane("dp-1");
    v1::Hello hello = other.HelloMessage();
    hello.set_instance_id(absl::StrCat("clone-", i));
    ASSERT_TRUE(other.Send(hello));
    ASSERT_EQ(other.Finish().error_code(), grpc::StatusCode::ALREADY_EXISTS);
  }
  const v1::DataPlaneState state = StateOf("dp-1");
  ASSERT_EQ(state.rivals_size(), 8);
  EXPECT_EQ(state.rivals(7).instance_id(), "clone-19");
}

TEST_F(ServerTest, ADataPlaneOfAnotherHistoryKeepsItUntilAnOperatorAccepts) {
  FakeDataPlane dp = DataPlane("dp-1");
  v1::Hello hello = dp.HelloMessage();
  hello.set_epoch("another");
  hello.set_revision(57);
  ASSERT_TRUE(dp.Send(hello));
  auto welcome = dp.Read();
  ASSERT_TRUE(welcome && welcome->has_welcome());
  MustApply({StaticService("svc")});
  auto catalog = std::make_shared<EndpointCatalog>();
  catalog->version = 1;
  control_plane_->hub().PublishEndpoints(catalog);
  EXPECT_EQ(StateOf("dp-1").applied_revision(), 0u);
  EXPECT_TRUE(absl::StrContains(StateOf("dp-1").held(), "revision 57")) << StateOf("dp-1").held();
  auto ready = fixtures::Fetch(control_plane_->metrics_port(), "GET", "/ready");
  ASSERT_TRUE(ready.ok()) << ready.status();
  EXPECT_EQ(ready->status, 503);
  EXPECT_TRUE(absl::StrContains(ready->body, "dp-1")) << ready->body;
  EXPECT_TRUE(absl::StrContains(ready->body, "accept-history")) << ready->body;

  // A data plane without policy loses nothing, so it gets the new one.
  FakeDataPlane fresh = DataPlane("dp-2");
  ASSERT_TRUE(fresh.Hello());
  ASSERT_TRUE(fresh.Read());
  auto endpoints = fresh.Read();
  EXPECT_TRUE(endpoints && endpoints->has_endpoints());
  EXPECT_EQ(fresh.ReadPolicy().back().to(), 2u);
  EXPECT_EQ(control_plane_->hub().counts().updates_sent, 2u) << "something was sent to dp-1";

  grpc::ClientContext context;
  v1::AcceptHistoryResponse accepted;
  ASSERT_TRUE(admin_->AcceptHistory(&context, {}, &accepted).ok());
  EXPECT_EQ(accepted.released(), 1u);
  EXPECT_EQ(accepted.epoch(), control_plane_->publisher().current()->epoch);
  endpoints = dp.Read();
  EXPECT_TRUE(endpoints && endpoints->has_endpoints());
  EXPECT_EQ(dp.ReadPolicy().back().to(), 2u);
  ready = fixtures::Fetch(control_plane_->metrics_port(), "GET", "/ready");
  ASSERT_TRUE(ready.ok()) << ready.status();
  EXPECT_EQ(ready->status, 200) << ready->body;

  // The decision is permanent.
  Restart();
  FakeDataPlane later = DataPlane("dp-3");
  ASSERT_TRUE(later.Send([&] {
    v1::Hello other = later.HelloMessage();
    other.set_epoch("another");
    other.set_revision(57);
    return other;
  }()));
  ASSERT_TRUE(later.Read());
  EXPECT_EQ(later.ReadPolicy().back().to(), 2u);
}

TEST_F(ServerTest, ANewDatabaseBesideKnownDataPlanesIsNotDistributed) {
  {
    FakeDataPlane dp = DataPlane("dp-1");
    ASSERT_TRUE(dp.Hello());
    ASSERT_TRUE(dp.Read());
    ASSERT_TRUE(Eventually([&] { return std::filesystem::exists(dir_.File("gateway.db.dataplanes")); }));
  }
  control_plane_.reset();
  std::filesystem::remove(dir_.File("gateway.db"));
  // Also after a restart, when the file is no longer new.
  for (int start = 0; start < 2; ++start) {
    Restart();
    FakeDataPlane dp = DataPlane("dp-2");
    ASSERT_TRUE(dp.Hello());
    ASSERT_TRUE(dp.Read());
    EXPECT_FALSE(StateOf("dp-2").held().empty());
    EXPECT_TRUE(absl::StrContains(control_plane_->hub().WhyHeld(), "created anew"));
    EXPECT_EQ(control_plane_->hub().counts().updates_sent, 0u);
  }
}

TEST_F(ServerTest, WhoIsGoneIsForgottenByTimeOrByWord) {
  options_.hub.goodbye_kept = absl::Milliseconds(50);
  Restart();
  const auto go = [&](const std::string& name, bool goodbye) {
    FakeDataPlane dp = DataPlane(name);
    ASSERT_TRUE(dp.Hello());
    ASSERT_TRUE(dp.Read());
    if (!goodbye) return;
    v1::DataPlaneMessage message;
    message.mutable_goodbye();
    ASSERT_TRUE(dp.Send(message));
    dp.stream().WritesDone();
    dp.Finish();
  };
  go("polite", true);
  EXPECT_TRUE(Eventually([&] { return control_plane_->hub().counts().known == 0; }));
  for (const char* name : {"lost-1", "lost-2", "lost-3"}) go(name, false);
  FakeDataPlane there = DataPlane("there");
  ASSERT_TRUE(there.Hello());
  ASSERT_TRUE(there.Read());
  ASSERT_TRUE(Eventually([&] { return StateOf("lost-3").lost(); }));
  ASSERT_TRUE(Eventually([&] { return Roster(dir_.File("gateway.db.dataplanes")).Load().size() == 4; }));

  const auto forget = [&](const std::string& name, bool gone) {
    grpc::ClientContext context;
    v1::ForgetDataPlanesRequest request;
    request.set_name(name);
    request.set_gone(gone);
    v1::ForgetDataPlanesResponse response;
    const grpc::Status status = admin_->ForgetDataPlanes(&context, request, &response);
    return std::pair(status.error_code(), response.names_size());
  };
  EXPECT_EQ(forget("lost-1", false), std::pair(grpc::StatusCode::OK, 1));
  EXPECT_EQ(forget("lost-1", false).first, grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(forget("there", false).first, grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(forget("", false).first, grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(forget("", true), std::pair(grpc::StatusCode::OK, 2));
  EXPECT_EQ(control_plane_->hub().counts().known, 1u);
  EXPECT_TRUE(Eventually([&] { return Roster(dir_.File("gateway.db.dataplanes")).Load().size() == 1; }));
}

TEST_F(ServerTest, ALostDataPlaneIsForgottenByTimeAlsoOverARestart) {
  std::ofstream(dir_.File("gateway.db.dataplanes")) << "long-ago " << absl::ToUnixSeconds(absl::Now()) - 7200 << "\n"
                                                    << "just-now " << absl::ToUnixSeconds(absl::Now()) - 60 << "\n";
  Restart();
  EXPECT_TRUE(Eventually([&] { return control_plane_->hub().counts().known == 1; }));
  EXPECT_TRUE(StateOf("just-now").lost());
  EXPECT_EQ(RolloutNow().lost_count(), 1u);
  EXPECT_EQ(RolloutNow().data_planes(), 0u) << "the rollout does not wait for one lost before the restart";
}

// As grpcurl does: list the services, and get a service's descriptor by name. v1alpha equals v1 in another package.
TEST_F(ServerTest, ReflectionKnowsEveryServiceThatItListsInBothVersions) {
  using Request = grpc::reflection::v1::ServerReflectionRequest;
  using Response = grpc::reflection::v1::ServerReflectionResponse;
  for (const uint16_t port : {control_plane_->admin_port(), control_plane_->stream_port()}) {
    const auto channel = grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials());
    for (const std::string version : {"v1", "v1alpha"}) {
      const auto ask = [&](const Request& request) {
        grpc::CompletionQueue queue;
        grpc::ClientContext context;
        context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
        const std::string method = absl::StrCat("/grpc.reflection.", version, ".ServerReflection/ServerReflectionInfo");
        auto call = grpc::TemplatedGenericStub<Request, Response>(channel).PrepareCall(&context, method, &queue);
        const auto done = [&queue] {
          void* tag;
          bool ok = false;
          return queue.Next(&tag, &ok) && ok;
        };
        Response response;
        grpc::Status status;
        call->StartCall(nullptr);
        EXPECT_TRUE(done());
        call->Write(request, nullptr);
        EXPECT_TRUE(done());
        call->Read(&response, nullptr);
        EXPECT_TRUE(done());
        call->WritesDone(nullptr);
        EXPECT_TRUE(done());
        call->Finish(&status, nullptr);
        EXPECT_TRUE(done());
        EXPECT_TRUE(status.ok()) << status.error_message();
        return response;
      };
      Request list;
      list.set_list_services("");
      std::set<std::string> services;
      const Response listed = ask(list);
      for (const auto& service : listed.list_services_response().service()) {
        services.insert(service.name());
        Request symbol;
        symbol.set_file_containing_symbol(service.name());
        const Response answer = ask(symbol);
        EXPECT_GT(answer.file_descriptor_response().file_descriptor_proto_size(), 0)
            << version << ", " << service.name() << ": " << answer.error_response().error_message();
      }
      EXPECT_EQ(services.count("grpc.health.v1.Health"), 1u) << version;
      EXPECT_EQ(services.count("grpc.reflection.v1.ServerReflection"), 1u) << version;
      EXPECT_EQ(services.count("gateway.v1.Admin"), port == control_plane_->admin_port() ? 1u : 0u) << version;
      Request unknown;
      unknown.set_file_containing_symbol("no.such.Thing");
      EXPECT_EQ(ask(unknown).error_response().error_code(), grpc::StatusCode::NOT_FOUND) << version;
    }
  }
}

TEST_F(ServerTest, ReadyAsksBothListeners) {
  const auto ready = fixtures::Fetch(control_plane_->metrics_port(), "GET", "/ready");
  ASSERT_TRUE(ready.ok()) << ready.status();
  EXPECT_EQ(ready->status, 200) << ready->body;
  const auto metrics = fixtures::Fetch(control_plane_->metrics_port(), "GET", "/metrics");
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  EXPECT_TRUE(absl::StrContains(metrics->body, "gateway_controlplane_connections{listener=\"stream\"} 0"))
      << "a probe does not count as a client's connection";
}

TEST_F(ServerTest, ADataPlaneThatIsTooOldIsSentNothingAndShownWithTheReason) {
  FakeDataPlane dp = DataPlane("old");
  v1::Hello hello = dp.HelloMessage();
  hello.set_schema_version(kSchemaVersionMin - 1);
  ASSERT_TRUE(dp.Send(hello));
  auto welcome = dp.Read();
  ASSERT_TRUE(welcome && welcome->has_welcome());
  MustApply({StaticService("svc")});
  ASSERT_EQ(StateOf("old").rejections_size(), 1);
  EXPECT_TRUE(absl::StrContains(StateOf("old").rejections(0).reason(), "schema version"));
  EXPECT_EQ(StateOf("old").rejected_revision(), 2u);
  EXPECT_EQ(control_plane_->hub().counts().updates_sent, 0u);
}

// An upgrade begins with the control plane: data planes keep getting the policy that they understand.
TEST_F(ServerTest, AnOlderDataPlaneIsSentPolicyThatItUnderstandsAndNoOther) {
  FakeDataPlane dp = DataPlane("old");
  v1::Hello hello = dp.HelloMessage();
  hello.set_schema_version(kSchemaVersionMin);
  ASSERT_TRUE(dp.Send(hello));
  ASSERT_TRUE(dp.Read()->has_welcome());
  EXPECT_EQ(dp.ReadPolicy()[0].schema_version(), kSchemaVersionMin);
  ASSERT_TRUE(dp.Ack(1));
  ASSERT_EQ(MustApply({StaticService("svc")}), 2u);
  EXPECT_EQ(dp.ReadPolicy()[0].to(), 2u);
  ASSERT_TRUE(dp.Ack(2));
  ASSERT_TRUE(Serves("old", 2));

  v1::Resource encrypted = StaticService("private");
  encrypted.mutable_service()->mutable_tls()->set_server_name("private.example");
  ASSERT_EQ(MustApply({encrypted}), 3u);
  ASSERT_EQ(StateOf("old").rejected_revision(), 3u);
  ASSERT_EQ(StateOf("old").rejections_size(), 1);
  EXPECT_EQ(StateOf("old").rejections(0).kind(), "Service");
  EXPECT_EQ(StateOf("old").rejections(0).name(), "private");
  EXPECT_TRUE(absl::StrContains(StateOf("old").rejections(0).reason(), "schema version 2; version 3 is needed"));
  EXPECT_EQ(StateOf("old").applied_revision(), 2u) << "it keeps serving the last policy";
  // A data plane that connects under this policy is told so at once.
  FakeDataPlane later = DataPlane("later");
  hello = later.HelloMessage();
  hello.set_schema_version(kSchemaVersionMin);
  ASSERT_TRUE(later.Send(hello));
  ASSERT_TRUE(later.Read()->has_welcome());
  EXPECT_EQ(StateOf("later").rejected_revision(), 3u);
  FakeDataPlane current = DataPlane("current");
  ASSERT_TRUE(current.Hello());
  ASSERT_TRUE(current.Read()->has_welcome());
  EXPECT_EQ(current.ReadPolicy()[0].schema_version(), kSchemaVersion);

  grpc::ClientContext context;
  v1::DeleteRequest remove;
  remove.set_kind("Service");
  remove.set_name("private");
  v1::DeleteResponse removed;
  ASSERT_TRUE(admin_->Delete(&context, remove, &removed).ok());
  for (FakeDataPlane* each : {&dp, &later}) {
    EXPECT_EQ(each->ReadPolicy()[0].to(), 4u);
    ASSERT_TRUE(each->Ack(4));
  }
  ASSERT_TRUE(Serves("old", 4));
  EXPECT_EQ(StateOf("old").rejections_size(), 0);
}

TEST_F(ServerTest, WhatIsNotInTheProtocolEndsTheStreamWithAReason) {
  struct Case {
    const char* what;
    std::function<void(FakeDataPlane&)> act;
  };
  const std::vector<Case> cases = {
      {"must be a hello", [](FakeDataPlane& dp) { dp.Ack(1); }},
      {"hello.name",
       [](FakeDataPlane& dp) {
         v1::Hello hello = dp.HelloMessage();
         hello.set_name("has a space");
         dp.Send(hello);
       }},
      {"hello.advertise",
       [](FakeDataPlane& dp) {
         v1::Hello hello = dp.HelloMessage();
         hello.set_advertise("nonsense");
         dp.Send(hello);
       }},
      {"second hello",
       [](FakeDataPlane& dp) {
         dp.Hello();
         dp.Hello();
       }},
      {"not in flight",
       [](FakeDataPlane& dp) {
         dp.Hello();
         dp.Read();
         dp.ReadPolicy();
         dp.Ack(7);
       }},
      {"not know",
       [](FakeDataPlane& dp) {
         dp.Hello();
         dp.Send(v1::DataPlaneMessage());
       }},
      {"either",
       [](FakeDataPlane& dp) {
         dp.Hello();
         v1::DataPlaneMessage message;
         message.mutable_ack();
         dp.Send(message);
       }},
  };
  for (const Case& c : cases) {
    FakeDataPlane dp = DataPlane("dp-1");
    c.act(dp);
    const grpc::Status status = dp.Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << c.what << ": " << status.error_message();
    EXPECT_TRUE(absl::StrContains(status.error_message(), c.what)) << status.error_message();
  }
}

class LimitedServerTest : public ServerTest {
 protected:
  void SetUp() override {
    options_.config.streams_max = 2;
    options_.config.hello_wait = absl::Milliseconds(200);
    options_.config.registered = [this](const RegisteredInstance& instance) {
      std::lock_guard lock(mu_);
      registered_.push_back(
          absl::StrCat(instance.name, "@", instance.host, ":", instance.port, "/", instance.health_port));
    };
    options_.config.said_goodbye = [this](const std::string& name) {
      std::lock_guard lock(mu_);
      gone_.push_back(name);
    };
    Start();
  }
  std::vector<std::string> registered() {
    std::lock_guard lock(mu_);
    return registered_;
  }
  std::vector<std::string> gone() {
    std::lock_guard lock(mu_);
    return gone_;
  }
  std::mutex mu_;
  std::vector<std::string> registered_, gone_;
};

TEST_F(LimitedServerTest, StreamsAreBounded) {
  FakeDataPlane a = DataPlane("a"), b = DataPlane("b");
  ASSERT_TRUE(a.Hello() && a.Read() && b.Hello() && b.Read());
  FakeDataPlane c = DataPlane("c");
  EXPECT_EQ(c.Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(LimitedServerTest, AStreamWithoutAHelloIsEnded) {
  FakeDataPlane silent = DataPlane("silent");
  EXPECT_EQ(silent.Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(LimitedServerTest, AGoodbyeDeregistersAndALostStreamDoesNot) {
  {
    FakeDataPlane dp = DataPlane("lost");
    v1::Hello hello = dp.HelloMessage();
    hello.set_advertise(":8080");
    hello.set_health_port(9090);
    ASSERT_TRUE(dp.Send(hello));
    ASSERT_TRUE(dp.Read());
  }
  ASSERT_TRUE(Eventually([&] { return !StateOf("lost").connected(); }));
  FakeDataPlane dp = DataPlane("polite");
  v1::Hello hello = dp.HelloMessage();
  hello.set_advertise("10.0.0.5:8080");
  ASSERT_TRUE(dp.Send(hello));
  ASSERT_TRUE(dp.Read());
  v1::DataPlaneMessage goodbye;
  goodbye.mutable_goodbye()->set_reason("the end");
  ASSERT_TRUE(dp.Send(goodbye));
  dp.stream().WritesDone();
  EXPECT_TRUE(dp.Finish().ok());
  EXPECT_EQ(registered(), (std::vector<std::string>{"lost@127.0.0.1:8080/9090", "polite@10.0.0.5:8080/8080"}));
  EXPECT_EQ(gone(), std::vector<std::string>{"polite"});
}

TEST_F(ServerTest, FiveMistakesComeAsFiveViolationsOverGrpc) {
  grpc::ClientContext context;
  v1::ApplyResponse response;
  v1::ApplyRequest request =
      ApplyOf({StaticService("good"), StaticService("bad-address", "nonsense"), StaticService("Bad_Name"),
               PrefixRoute("one", "nowhere"), PrefixRoute("two", "nowhere"), PrefixRoute("three", "nowhere")});
  grpc::Status status = admin_->Apply(&context, request, &response);
  ASSERT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  google::rpc::Status rich;
  ASSERT_TRUE(rich.ParseFromString(status.error_details()));
  google::rpc::BadRequest violations;
  ASSERT_TRUE(rich.details(0).UnpackTo(&violations));
  EXPECT_EQ(violations.field_violations_size(), 5) << violations.DebugString();
  EXPECT_EQ(control_plane_->publisher().current()->revision, 1u);
}

TEST_F(ServerTest, HundredsOfErrorsReachAClientWithDefaultLimits) {
  v1::ApplyRequest request;
  for (int i = 0; i < 500; ++i) *request.add_resources() = PrefixRoute(absl::StrCat("route-", i), "nowhere");
  // The client's limit counts only if it is a valid number.
  for (const char* takes : {"", "0", "x", "-1", "99999999999999999999"}) {
    grpc::ClientContext context;
    context.AddMetadata(kErrorBytesMetadata, takes);
    v1::ApplyResponse response;
    grpc::Status status = admin_->Apply(&context, request, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
    EXPECT_TRUE(absl::StrContains(status.error_message(), "500 errors")) << status.error_message();
  }
}

TEST_F(ServerTest, ListsComeInPagesAndAChangeBetweenThemIsAConflict) {
  v1::ApplyRequest many;
  for (int i = 0; i < 25; ++i) {
    v1::Resource resource = StaticService(absl::StrCat("s", 10 + i));
    (*resource.mutable_service()->mutable_labels())["half"] = i % 2 == 0 ? "even" : "odd";
    *many.add_resources() = resource;
  }
  MustApply(many);
  auto list = [&](v1::ListRequest request, v1::ListResponse* response) {
    grpc::ClientContext context;
    return admin_->List(&context, request, response);
  };
  v1::ListRequest request;
  request.set_kind("services");
  request.set_page_size(10);
  std::vector<std::string> names;
  int pages = 0;
  do {
    v1::ListResponse response;
    grpc::Status status = list(request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    for (const auto& stored : response.resources()) names.push_back(stored.resource().service().name());
    request.set_page_token(response.next_page_token());
    ++pages;
  } while (!request.page_token().empty());
  EXPECT_EQ(pages, 3);
  EXPECT_EQ(names.size(), 25u);
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));

  v1::ListResponse response;
  ASSERT_TRUE(list(request, &response).ok());
  request.set_page_token(response.next_page_token());
  v1::ListRequest other = request;
  other.set_kind("Route");
  v1::ListResponse ignored;
  EXPECT_EQ(list(other, &ignored).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  MustApply({StaticService("another")});
  EXPECT_EQ(list(request, &ignored).error_code(), grpc::StatusCode::ABORTED);
  other = v1::ListRequest();
  other.set_page_token("garbage");
  EXPECT_EQ(list(other, &ignored).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  other = v1::ListRequest();
  other.set_page_size(5001);
  EXPECT_EQ(list(other, &ignored).error_code(), grpc::StatusCode::INVALID_ARGUMENT);

  other = v1::ListRequest();
  (*other.mutable_labels())["half"] = "odd";
  v1::ListResponse odd;
  ASSERT_TRUE(list(other, &odd).ok());
  EXPECT_EQ(odd.resources_size(), 12);
  const auto selected = [&](const std::string& selector) {
    v1::ListRequest by_selector;
    by_selector.set_kind("Service");
    by_selector.set_selector(selector);
    v1::ListResponse found;
    const grpc::Status status = list(by_selector, &found);
    return status.ok() ? found.resources_size() : -static_cast<int>(status.error_code());
  };
  EXPECT_EQ(selected("half!=odd"), 14) << "also the one without labels";
  EXPECT_EQ(selected("half in (odd, even)"), 25);
  EXPECT_EQ(selected("!half"), 1);
  EXPECT_EQ(selected("half=odd,half=even"), 0);
  EXPECT_EQ(selected("half odd"), -static_cast<int>(grpc::StatusCode::INVALID_ARGUMENT));
  v1::ListResponse all;
  ASSERT_TRUE(list(v1::ListRequest(), &all).ok());
  EXPECT_EQ(all.resources_size(), 29);
}

TEST_F(ServerTest, GetHistoryAndOldRevisionsTellTheSameStory) {
  MustApply({StaticService("a", "127.0.0.1:1")});
  MustApply({StaticService("a", "127.0.0.1:2")});
  MustApply({StaticService("b")});
  {
    grpc::ClientContext context;
    v1::GetRequest request;
    request.set_kind("SERVICE");
    request.set_name("a");
    v1::GetResponse response;
    ASSERT_TRUE(admin_->Get(&context, request, &response).ok());
    EXPECT_EQ(response.resource().revision(), 3u);
    EXPECT_EQ(response.revision(), 4u);
  }
  {
    grpc::ClientContext context;
    v1::GetRequest request;
    request.set_kind("Service");
    request.set_name("zzz");
    v1::GetResponse response;
    EXPECT_EQ(admin_->Get(&context, request, &response).error_code(), grpc::StatusCode::NOT_FOUND);
  }
  v1::HistoryRequest history;
  history.set_page_size(3);
  std::vector<uint64_t> revisions;
  do {
    grpc::ClientContext context;
    v1::HistoryResponse response;
    ASSERT_TRUE(admin_->History(&context, history, &response).ok());
    for (const auto& info : response.revisions()) revisions.push_back(info.revision());
    history.set_page_token(response.next_page_token());
  } while (!history.page_token().empty());
  EXPECT_EQ(revisions, (std::vector<uint64_t>{4, 3, 2, 1}));
  {
    grpc::ClientContext context;
    v1::HistoryRequest of_a;
    of_a.set_kind("Service");
    of_a.set_name("a");
    v1::HistoryResponse response;
    ASSERT_TRUE(admin_->History(&context, of_a, &response).ok());
    ASSERT_EQ(response.revisions_size(), 2);
    EXPECT_EQ(response.revisions(0).revision(), 3u);
    EXPECT_EQ(response.revisions(0).actor(), "tester");
    EXPECT_TRUE(response.next_page_token().empty());
  }
  {
    grpc::ClientContext context;
    v1::GetRevisionRequest request;
    request.set_revision(2);
    v1::GetRevisionResponse response;
    ASSERT_TRUE(admin_->GetRevision(&context, request, &response).ok());
    EXPECT_EQ(response.info().revision(), 2u);
    ASSERT_EQ(response.resources_size(), 4);
    bool found = false;
    for (const auto& stored : response.resources()) {
      if (stored.resource().service().name() == "a") {
        found = stored.resource().service().static_(0).address() == "127.0.0.1:1";
      }
    }
    EXPECT_TRUE(found);
  }
}

TEST_F(ServerTest, AWatchReportsEveryRevisionInOrder) {
  MustApply({StaticService("s0")});
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  v1::WatchRequest request;
  request.set_after_revision(1);
  auto reader = admin_->Watch(&context, request);
  v1::WatchResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.revision().revision(), 2u);
  std::thread writer([&] {
    for (int i = 1; i <= 100; ++i) MustApply({StaticService(absl::StrCat("s", i))});
  });
  for (uint64_t expected = 3; expected <= 102; ++expected) {
    ASSERT_TRUE(reader->Read(&response));
    ASSERT_EQ(response.revision().revision(), expected);
    ASSERT_EQ(response.revision().changes_size(), 1);
  }
  writer.join();
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);

  grpc::ClientContext ahead;
  request.set_after_revision(1000);
  auto refused = admin_->Watch(&ahead, request);
  EXPECT_FALSE(refused->Read(&response));
  EXPECT_EQ(refused->Finish().error_code(), grpc::StatusCode::OUT_OF_RANGE);
}

TEST_F(ServerTest, ARolloutWaitsForEveryDataPlaneThatIsConnected) {
  FakeDataPlane a = DataPlane("a"), b = DataPlane("b");
  for (FakeDataPlane* dp : {&a, &b}) {
    ASSERT_TRUE(dp->Hello() && dp->Read());
    dp->ReadPolicy();
    ASSERT_TRUE(dp->Ack(1));
  }
  ASSERT_TRUE(Serves("a", 1) && Serves("b", 1));
  const uint64_t revision = MustApply({StaticService("svc")});
  a.ReadPolicy();
  b.ReadPolicy();

  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  v1::RolloutRequest request;
  request.set_revision(revision);
  request.set_wait(true);
  auto reader = admin_->Rollout(&context, request);
  v1::RolloutResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.data_planes(), 2u);
  EXPECT_EQ(response.serving(), 0u);
  EXPECT_FALSE(response.done());
  EXPECT_EQ(response.pending_size(), 2);
  ASSERT_TRUE(a.Ack(revision));
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.serving(), 1u);
  EXPECT_FALSE(response.done());
  ASSERT_TRUE(b.Ack(revision));
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_TRUE(response.done());
  EXPECT_EQ(response.workers_serving(), 8u);
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_TRUE(reader->Finish().ok());

  // An older revision counts as served once a later one is; a revision that never existed does not.
  grpc::ClientContext older;
  request.set_revision(1);
  auto done = admin_->Rollout(&older, request);
  ASSERT_TRUE(done->Read(&response));
  EXPECT_TRUE(response.done());
  grpc::ClientContext never;
  request.set_revision(99);
  auto refused = admin_->Rollout(&never, request);
  EXPECT_FALSE(refused->Read(&response));
  EXPECT_EQ(refused->Finish().error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(ServerTest, EndpointsOfAStaticServiceAreThoseWrittenDown) {
  v1::Resource service = StaticService("svc", "[::1]:9000");
  service.mutable_service()->mutable_static_(0)->set_weight(3);
  MustApply({service});
  grpc::ClientContext context;
  v1::ListEndpointsRequest request;
  request.set_service("svc");
  v1::ListEndpointsResponse response;
  ASSERT_TRUE(admin_->ListEndpoints(&context, request, &response).ok());
  ASSERT_EQ(response.sets_size(), 1);
  const v1::Instance& instance = response.sets(0).instances(0);
  EXPECT_EQ(instance.address(), "::1");
  EXPECT_EQ(instance.port(), 9000u);
  EXPECT_EQ(instance.weight(), 3u);
  grpc::ClientContext unknown;
  request.set_service("nobody");
  EXPECT_EQ(admin_->ListEndpoints(&unknown, request, &response).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(ServerTest, ChangesOfEndpointsTravelAsDeltasUnderTheirOwnCounter) {
  auto set = [](const std::string& name, uint32_t port) {
    auto made = std::make_shared<v1::EndpointSet>();
    made->mutable_key()->set_service(name);
    made->set_state(v1::EndpointSet::KNOWN);
    made->add_instances()->set_port(port);
    return std::shared_ptr<const v1::EndpointSet>(made);
  };
  auto first = std::make_shared<EndpointCatalog>();
  first->version = 1;
  first->catalog_known = true;
  first->sets = {{{"", "a"}, set("a", 1)}, {{"", "b"}, set("b", 1)}, {{"", "c"}, set("c", 1)}};
  control_plane_->hub().PublishEndpoints(first);

  FakeDataPlane dp = DataPlane("dp-1");
  ASSERT_TRUE(dp.Hello() && dp.Read());
  auto full = dp.Read();
  ASSERT_TRUE(full && full->has_endpoints()) << "endpoints come before the policy that needs them";
  EXPECT_EQ(full->endpoints().from(), 0u);
  EXPECT_EQ(full->endpoints().sets_size(), 3);
  EXPECT_TRUE(full->endpoints().catalog_known());
  dp.ReadPolicy();
  auto ack = [&](uint64_t version) {
    v1::DataPlaneMessage message;
    message.mutable_ack()->set_endpoints_epoch(full->endpoints().endpoints_epoch());
    message.mutable_ack()->set_endpoints_version(version);
    return dp.Send(message);
  };
  ASSERT_TRUE(ack(1));
  ASSERT_TRUE(Eventually([&] { return StateOf("dp-1").applied_endpoints_version() == 1; }));

  auto second = std::make_shared<EndpointCatalog>(*first);
  second->version = 2;
  second->sets[{"", "b"}] = set("b", 2);
  second->sets.erase({"", "c"});
  control_plane_->hub().PublishEndpoints(second);
  auto delta = dp.Read();
  ASSERT_TRUE(delta && delta->has_endpoints());
  EXPECT_EQ(delta->endpoints().from(), 1u);
  EXPECT_EQ(delta->endpoints().to(), 2u);
  ASSERT_EQ(delta->endpoints().sets_size(), 1);
  EXPECT_EQ(delta->endpoints().sets(0).key().service(), "b");
  ASSERT_EQ(delta->endpoints().removed_size(), 1);
  EXPECT_EQ(delta->endpoints().removed(0).service(), "c");

  // Two more while one is in flight: only the newest is sent, and in full, because the step in between was not.
  for (uint64_t version : {3, 4}) {
    auto next = std::make_shared<EndpointCatalog>(*second);
    next->version = version;
    next->sets[{"", "a"}] = set("a", static_cast<uint32_t>(version));
    control_plane_->hub().PublishEndpoints(next);
  }
  ASSERT_TRUE(ack(2));
  auto jump = dp.Read();
  ASSERT_TRUE(jump && jump->has_endpoints());
  EXPECT_EQ(jump->endpoints().from(), 0u);
  EXPECT_EQ(jump->endpoints().to(), 4u);
  EXPECT_EQ(jump->endpoints().sets_size(), 2);
}

TEST_F(ServerTest, WarnsOfAServiceThatConsulDoesNotKnow) {
  const auto warnings = [&](const std::string& name, const std::string& datacenter = "") {
    v1::Resource resource;
    resource.mutable_service()->set_name("svc");
    resource.mutable_service()->mutable_consul()->set_service(name);
    resource.mutable_service()->mutable_consul()->set_datacenter(datacenter);
    grpc::ClientContext context;
    v1::ApplyResponse response;
    v1::ApplyRequest request = ApplyOf({resource});
    request.set_dry_run(true);
    const grpc::Status status = admin_->Apply(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return std::vector<std::string>(response.warnings().begin(), response.warnings().end());
  };
  EXPECT_TRUE(warnings("ordres").empty()) << "Consul has not been read yet";
  auto catalog = std::make_shared<EndpointCatalog>();
  catalog->version = 1;
  catalog->catalog_known = true;
  catalog->names[""] = std::make_shared<const ServiceNames>(ServiceNames{"consul", "orders"});
  control_plane_->hub().PublishEndpoints(catalog);
  EXPECT_TRUE(warnings("orders").empty());
  ASSERT_EQ(warnings("ordres").size(), 1u);
  EXPECT_EQ(
      warnings("ordres")[0],
      "Service/svc: 'ordres' is unknown to Consul (did you mean 'orders'?); requests get 503 until it is registered");
  EXPECT_TRUE(warnings("ordres", "dc2").empty()) << "another datacenter is unknown";
}

TEST_F(ServerTest, ARestartKeepsPolicyAndEpochAndEndsStreamsPolitely) {
  MustApply({StaticService("svc")});
  const std::string epoch = control_plane_->publisher().current()->epoch;
  FakeDataPlane dp = DataPlane("dp-1");
  ASSERT_TRUE(dp.Hello() && dp.Read());
  grpc::ClientContext watch_context;
  auto watch = admin_->Watch(&watch_context, v1::WatchRequest());
  const absl::Time begun = absl::Now();
  control_plane_->Stop(std::chrono::milliseconds(1500));
  EXPECT_LT(absl::Now() - begun, absl::Seconds(2.5));
  EXPECT_EQ(dp.Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  v1::WatchResponse response;
  EXPECT_FALSE(watch->Read(&response));
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  control_plane_.reset();
  Start();
  EXPECT_EQ(control_plane_->publisher().current()->epoch, epoch);
  EXPECT_EQ(control_plane_->publisher().current()->revision, 2u);
}

TEST_F(ServerTest, AFailedStartIsExplainedInOneLine) {
  v1::Bootstrap second = config_;
  second.mutable_control_plane()->set_database(dir_.File("second.db"));
  second.mutable_control_plane()->set_admin_listen(absl::StrCat("127.0.0.1:", control_plane_->admin_port()));
  absl::Status status = ControlPlane::Start(second).status();
  EXPECT_TRUE(absl::StrContains(status.message(), "control_plane.admin_listen")) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "in use")) << status;

  ControlPlaneOptions impatient;
  impatient.store.lock_wait = std::chrono::milliseconds(20);
  status = ControlPlane::Start(config_, impatient).status();
  EXPECT_TRUE(absl::StrContains(status.message(), "in use by another control plane")) << status;

  second = config_;
  second.mutable_control_plane()->set_stream_listen("0.0.0.0:0");
  status = ControlPlane::Start(second).status();
  EXPECT_TRUE(absl::StrContains(status.message(), "insecure")) << status;
}

TEST(HubTest, TellsWhomItRemembersNoMore) {
  std::mutex mu;
  std::vector<std::string> told;
  HubOptions options;
  options.expected = {{"dp-1", absl::Now()}, {"dp-2", absl::Now()}};
  options.forgotten = [&](const std::string& name) {
    std::lock_guard lock(mu);
    told.push_back(name);
  };
  Hub hub(std::move(options));
  ASSERT_TRUE(hub.Forget("dp-2").ok());
  const auto heard = [&](const std::vector<std::string>& names) {
    return Eventually([&] {
      std::lock_guard lock(mu);
      return told == names;
    });
  };
  EXPECT_TRUE(heard({"dp-2"}));
  EXPECT_EQ(hub.ForgetGone().size(), 1u);
  EXPECT_TRUE(heard({"dp-2", "dp-1"}));
}

// Run-time settings by operators.
class OperationsTest : public ServerTest {
 protected:
  static void Greet(FakeDataPlane& dp, bool takes_operations = true) {
    v1::Hello hello = dp.HelloMessage();
    hello.set_takes_operations(takes_operations);
    EXPECT_TRUE(dp.Send(hello));
    const auto welcome = dp.Read();
    EXPECT_TRUE(welcome && welcome->has_welcome());
  }
  static v1::SetEndpointRequest Request(const std::string& service, const std::string& endpoint) {
    v1::SetEndpointRequest request;
    request.mutable_context()->set_actor("alice");
    request.mutable_context()->set_comment("a new kernel");
    request.set_service(service);
    request.set_endpoint(endpoint);
    return request;
  }
  grpc::Status Set(const v1::SetEndpointRequest& request, v1::SetEndpointResponse* response) {
    grpc::ClientContext context;
    return admin_->SetEndpoint(&context, request, response);
  }
  v1::ListEndpointsResponse Endpoints(const std::string& service) {
    grpc::ClientContext context;
    v1::ListEndpointsRequest request;
    request.set_service(service);
    v1::ListEndpointsResponse response;
    EXPECT_TRUE(admin_->ListEndpoints(&context, request, &response).ok());
    return response;
  }
  std::vector<std::string> Audit() {
    grpc::ClientContext context;
    v1::ListAuditResponse response;
    EXPECT_TRUE(admin_->ListAudit(&context, {}, &response).ok());
    std::vector<std::string> told;
    for (const v1::AuditEntry& entry : response.entries()) {
      told.push_back(absl::StrCat(entry.action(), ": ", entry.detail()));
    }
    return told;
  }
};

TEST_F(OperationsTest, AnEndpointIsDrainedForAWhileOnEveryDataPlaneThatCan) {
  MustApply({StaticService("svc", "10.0.0.7:8080"), PrefixRoute("svc", "svc")});
  FakeDataPlane dp = DataPlane("dp-1"), old = DataPlane("dp-old");
  Greet(dp);
  Greet(old, /*takes_operations=*/false);
  auto first = dp.Read();
  ASSERT_TRUE(first && first->has_operations()) << "sent even if empty: a cache may have some";
  EXPECT_EQ(first->operations().overrides_size(), 0);
  dp.ReadPolicy();
  old.ReadPolicy();

  v1::SetEndpointRequest request = Request("svc", "10.0.0.7:8080");
  request.set_drain(true);
  request.mutable_duration()->set_seconds(600);
  v1::SetEndpointResponse response;
  ASSERT_TRUE(Set(request, &response).ok());
  EXPECT_EQ(response.override().actor(), "alice");
  ASSERT_EQ(response.warnings_size(), 1);
  EXPECT_EQ(response.warnings(0), "no endpoint of 'svc' gets requests now");
  auto told = dp.Read();
  ASSERT_TRUE(told && told->has_operations());
  ASSERT_EQ(told->operations().overrides_size(), 1);
  EXPECT_TRUE(told->operations().overrides(0).drain());
  EXPECT_GT(told->operations().overrides(0).remaining().seconds(), 590);
  EXPECT_LE(told->operations().overrides(0).remaining().seconds(), 600);

  v1::ListEndpointsResponse listed = Endpoints("svc");
  ASSERT_EQ(listed.overrides_size(), 1);
  EXPECT_EQ(listed.overrides_pending_size(), 2);
  v1::DataPlaneMessage report;
  report.mutable_report()->set_operations_version(told->operations().version());
  ASSERT_TRUE(dp.Send(report));
  EXPECT_TRUE(Eventually([&] {
    listed = Endpoints("svc");
    return listed.overrides_pending_size() == 1 && listed.overrides_pending(0) == "dp-old";
  }));
  EXPECT_EQ(Endpoints("").overrides_size(), 1);

  Restart();
  EXPECT_EQ(Endpoints("svc").overrides_size(), 1);
  FakeDataPlane again = DataPlane("dp-1");
  Greet(again);
  told = again.Read();
  ASSERT_TRUE(told && told->has_operations());
  EXPECT_EQ(told->operations().overrides_size(), 1);
  request.set_up(true);
  request.clear_duration();
  ASSERT_TRUE(Set(request, &response).ok());
  EXPECT_EQ(Endpoints("svc").overrides_size(), 0);
  EXPECT_EQ(Set(request, &response).error_code(), grpc::StatusCode::NOT_FOUND);
  const std::vector<std::string> audit = Audit();
  ASSERT_GE(audit.size(), 2u);
  EXPECT_EQ(audit[0], "SetEndpoint: 10.0.0.7:8080 of 'svc': as policy has it again");
  EXPECT_TRUE(std::find(audit.begin(), audit.end(),
                        "SetEndpoint: 10.0.0.7:8080 of 'svc': drained for 10m: a new kernel") != audit.end());
}

TEST_F(OperationsTest, AnOverrideEndsByItself) {
  MustApply({StaticService("svc", "10.0.0.7:8080")});
  v1::SetEndpointRequest request = Request("svc", "10.0.0.7:8080");
  request.set_weight(3);
  request.mutable_duration()->set_seconds(1);
  v1::SetEndpointResponse response;
  ASSERT_TRUE(Set(request, &response).ok());
  ASSERT_EQ(response.warnings_size(), 1);
  EXPECT_TRUE(absl::StrContains(response.warnings(0), "round_robin"));
  EXPECT_TRUE(Eventually([&] { return Endpoints("svc").overrides_size() == 0; }));
  EXPECT_TRUE(absl::StrContains(Audit()[0], "EndpointOverrideEnded: 10.0.0.7:8080 of 'svc' is as policy has it again"));
}

TEST_F(OperationsTest, WhatIsNotThereCannotBeSet) {
  v1::Resource service = StaticService("svc", "[2001:db8:0::1]:8080");
  service.mutable_service()->add_static_()->set_address("host.example:80");
  MustApply({service});
  v1::SetEndpointResponse response;
  v1::SetEndpointRequest request = Request("svc", "[2001:db8::1]:8080");
  EXPECT_EQ(Set(request, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT) << "no action";
  request.set_weight(65'536);
  EXPECT_EQ(Set(request, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request.set_weight(0);
  request.mutable_duration();
  EXPECT_EQ(Set(request, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request.clear_duration();
  EXPECT_TRUE(Set(request, &response).ok()) << "in any spelling";
  EXPECT_EQ(response.override().endpoint(), "[2001:db8::1]:8080");
  EXPECT_EQ(response.warnings_size(), 0);
  request.set_endpoint("10.0.0.1:80");
  EXPECT_EQ(Set(request, &response).error_code(), grpc::StatusCode::NOT_FOUND);
  request.set_endpoint("nonsense");
  EXPECT_EQ(Set(request, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request = Request("nobody", "10.0.0.1:80");
  request.set_drain(true);
  EXPECT_EQ(Set(request, &response).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(OperationsTest, ALogLevelIsACommandToOneConnectedDataPlane) {
  FakeDataPlane dp = DataPlane("dp-1"), old = DataPlane("dp-old");
  Greet(dp);
  Greet(old, /*takes_operations=*/false);
  ASSERT_TRUE(dp.Read()->has_operations());
  dp.ReadPolicy();
  const auto set = [this](const std::string& name, v1::SetLogLevelResponse* response) {
    grpc::ClientContext context;
    v1::SetLogLevelRequest request;
    request.set_data_plane(name);
    request.set_level(v1::LoggingSection::DEBUG);
    return admin_->SetLogLevel(&context, request, response);
  };
  v1::SetLogLevelResponse response;
  ASSERT_TRUE(set("dp-1", &response).ok());
  EXPECT_TRUE(response.has_until());
  auto told = dp.Read();
  ASSERT_TRUE(told && told->has_log_level());
  EXPECT_EQ(told->log_level().level(), v1::LoggingSection::DEBUG);
  EXPECT_EQ(told->log_level().duration().seconds(), 300);
  v1::DataPlaneMessage report;
  report.mutable_report()->set_log_level(v1::LoggingSection::DEBUG);
  ASSERT_TRUE(dp.Send(report));
  EXPECT_TRUE(Eventually([&] { return StateOf("dp-1").log_level() == v1::LoggingSection::DEBUG; }));
  EXPECT_EQ(set("dp-old", &response).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(set("nobody", &response).error_code(), grpc::StatusCode::NOT_FOUND);
  const auto before = spdlog::default_logger_raw()->level();
  ASSERT_TRUE(set("", &response).ok());
  EXPECT_EQ(spdlog::default_logger_raw()->level(), spdlog::level::debug);
  spdlog::default_logger_raw()->set_level(before);
}

class DrainTest : public OperationsTest {
 protected:
  // Says hello; the first message is the welcome.
  static void Greet(FakeDataPlane& dp, bool drained = false, bool takes_drain = true) {
    v1::Hello hello = dp.HelloMessage();
    hello.set_takes_drain(takes_drain);
    hello.set_drained(drained);
    EXPECT_TRUE(dp.Send(hello));
    const auto welcome = dp.Read();
    EXPECT_TRUE(welcome && welcome->has_welcome());
  }
  grpc::Status Set(const std::string& name, bool drained, v1::SetDrainResponse* response = nullptr) {
    grpc::ClientContext context;
    v1::SetDrainRequest request;
    request.mutable_context()->set_actor("ann");
    request.mutable_context()->set_comment("kernel update");
    request.set_data_plane(name);
    request.set_drained(drained);
    v1::SetDrainResponse own;
    return admin_->SetDrain(&context, request, response != nullptr ? response : &own);
  }
  // The next message, which must be a DrainChange.
  static bool ReadDrain(FakeDataPlane& dp) {
    const auto message = dp.Read();
    EXPECT_TRUE(message && message->has_drain()) << (message ? message->ShortDebugString() : "the stream has ended");
    return message && message->drain().drained();
  }
};

TEST_F(DrainTest, IsSentShownAuditedAndTakenBack) {
  FakeDataPlane dp = DataPlane("dp-1");
  Greet(dp);
  dp.ReadPolicy();
  v1::SetDrainResponse response;
  ASSERT_TRUE(Set("dp-1", true, &response).ok());
  EXPECT_EQ(response.drain().actor(), "ann");
  ASSERT_EQ(response.warnings_size(), 1);
  EXPECT_EQ(response.warnings(0), "no other data plane is connected and in service");
  EXPECT_TRUE(ReadDrain(dp));
  EXPECT_EQ(StateOf("dp-1").drain().comment(), "kernel update");
  EXPECT_FALSE(StateOf("dp-1").drained());
  v1::DataPlaneMessage report;
  report.mutable_report()->set_drained(true);
  ASSERT_TRUE(dp.Send(report));
  EXPECT_TRUE(Eventually([&] { return StateOf("dp-1").drained(); }));
  ASSERT_TRUE(Set("dp-1", true).ok());  // again: nothing changes
  ASSERT_TRUE(Set("dp-1", false).ok());
  EXPECT_FALSE(ReadDrain(dp));
  EXPECT_FALSE(StateOf("dp-1").has_drain());
  EXPECT_EQ(Set("dp-1", false).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(Audit(), testing::IsSupersetOf({std::string("SetDrain: data plane 'dp-1': drained"),
                                              std::string("SetDrain: data plane 'dp-1': undrained")}));
}

TEST_F(DrainTest, SurvivesARestartAndAReconnect) {
  {
    FakeDataPlane dp = DataPlane("dp-1");
    Greet(dp);
    dp.ReadPolicy();
    ASSERT_TRUE(Set("dp-1", true).ok());
    EXPECT_TRUE(ReadDrain(dp));
  }
  Restart();
  {
    FakeDataPlane fresh = DataPlane("dp-1");
    Greet(fresh);
    EXPECT_TRUE(ReadDrain(fresh));
  }
  // Undrained while it is away: what its hello says is in force is taken back.
  ASSERT_TRUE(Eventually([&] { return !StateOf("dp-1").connected(); }));
  ASSERT_TRUE(Set("dp-1", false).ok());
  FakeDataPlane back = DataPlane("dp-1");
  Greet(back, /*drained=*/true);
  EXPECT_FALSE(ReadDrain(back));
}

TEST_F(DrainTest, OnesThatAreUnknownOrTooOldAreRefused) {
  FakeDataPlane old = DataPlane("dp-old");
  Greet(old, false, /*takes_drain=*/false);
  EXPECT_EQ(Set("dp-9", true).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(Set("dp-old", true).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(Set("", true).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(DrainTest, IsForgottenWithItsDataPlane) {
  {
    FakeDataPlane dp = DataPlane("dp-1");
    Greet(dp);
    dp.ReadPolicy();
    ASSERT_TRUE(Set("dp-1", true).ok());
    EXPECT_TRUE(ReadDrain(dp));
  }
  ASSERT_TRUE(Eventually([&] { return !StateOf("dp-1").connected(); }));
  ASSERT_TRUE(control_plane_->hub().Forget("dp-1").ok());
  // The drain goes soon after. A data plane of that name then gets policy at once.
  EXPECT_TRUE(Eventually([&] {
    FakeDataPlane dp = DataPlane("dp-1");
    Greet(dp);
    const auto next = dp.Read();
    return next && next->has_policy();
  }));
}

TEST_F(OperationsTest, ADataPlaneSendsItsPartOfABundle) {
  FakeDataPlane dp = DataPlane("dp-1");
  Greet(dp);
  ASSERT_TRUE(dp.Read()->has_operations());
  dp.ReadPolicy();
  v1::DiagnoseResponse response;
  grpc::Status status;
  std::thread asking([&] {
    grpc::ClientContext context;
    v1::DiagnoseRequest request;
    request.set_data_plane("dp-1");
    status = admin_->Diagnose(&context, request, &response);
  });
  auto told = dp.Read();
  ASSERT_TRUE(told && told->has_diagnostics());
  for (const auto& [name, content, last] : {std::tuple("metrics.txt", "up 1\n", false),
                                            {"metrics.txt", "down 0\n", false},
                                            {"bootstrap.yaml", "{}", true}}) {
    v1::DataPlaneMessage part;
    part.mutable_diagnostics()->set_id(told->diagnostics().id());
    part.mutable_diagnostics()->set_last(last);
    v1::DiagnosticFile* file = part.mutable_diagnostics()->add_files();
    file->set_name(name);
    file->set_content(content);
    ASSERT_TRUE(dp.Send(part));
  }
  asking.join();
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.files_size(), 2);
  EXPECT_EQ(response.files(0).content(), "up 1\ndown 0\n");

  // A data plane that disconnects sends no response, and the caller does not wait for one.
  grpc::ClientContext context;
  v1::DiagnoseRequest request;
  request.set_data_plane("dp-1");
  std::thread leaving([&] {
    told = dp.Read();
    dp.stream().WritesDone();
  });
  EXPECT_EQ(admin_->Diagnose(&context, request, &response).error_code(), grpc::StatusCode::UNAVAILABLE);
  leaving.join();
}

TEST_F(OperationsTest, TheControlPlanesOwnPartHasNoSecrets) {
  control_plane_.reset();
  config_.mutable_consul()->set_token("3fa85f64-5717-4562-b3fc-2c963f66afa6");
  config_.mutable_redis()->set_password("hunter2");
  Start();
  grpc::ClientContext context;
  v1::DiagnoseResponse response;
  ASSERT_TRUE(admin_->Diagnose(&context, {}, &response).ok());
  ASSERT_EQ(response.files_size(), 2);
  EXPECT_EQ(response.files(0).name(), "bootstrap.yaml");
  EXPECT_TRUE(absl::StrContains(response.files(0).content(), "redacted")) << response.files(0).content();
  EXPECT_FALSE(absl::StrContains(response.files(0).content(), "hunter2"));
  EXPECT_FALSE(absl::StrContains(response.files(0).content(), "3fa85f64"));
  EXPECT_TRUE(absl::StrContains(response.files(1).content(), "gateway_controlplane_endpoint_overrides 0"));
}

TEST_F(OperationsTest, BusyServicesOfAllDataPlanesAreOneList) {
  FakeDataPlane one = DataPlane("dp-1"), two = DataPlane("dp-2");
  Greet(one);
  Greet(two);
  v1::DataPlaneMessage message;
  v1::BusyService* busy = message.mutable_report()->add_busy();
  busy->mutable_key()->set_service("orders");
  busy->set_magnitude(10);
  ASSERT_TRUE(one.Send(message));
  ASSERT_TRUE(two.Send(message));
  EXPECT_TRUE(Eventually([&] {
    return control_plane_->hub().BusyServices()[{"", "orders"}] == 11;
  })) << "twice as many";
}

}  // namespace
}  // namespace gateway::controlplane
