#include "dataplane/config/config_client.h"

#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "common/base/thread.h"
#include "common/policy/builtin.h"
#include "common/policy/resource.h"
#include "common/policy/snapshot.h"
#include "dataplane/state/runtime_state.h"
#include "dataplane/telemetry/metrics.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "prometheus/text_serializer.h"
#include "spdlog/spdlog.h"
#include "tests/fixtures/fake_control_plane.h"
#include "tests/fixtures/ports.h"
#include "tests/fixtures/temp_dir.h"
#include "tests/fixtures/wait_for.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;
using fixtures::EndpointsMessage;
using fixtures::FakeControlPlane;
using fixtures::FakeStream;
using fixtures::PolicyMessage;
using fixtures::TempDir;
using fixtures::WaitFor;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

constexpr char kEpoch[] = "epoch-1";

// Stands in for the workers: keeps the states that it gets, and reports done at once or when the test says so.
class Workers {
 public:
  InstallFunction function() {
    return [this](std::shared_ptr<const ServingState> state, std::function<void()> done) {
      {
        absl::MutexLock lock(&mutex_);
        state_ = std::move(state);
        nice_ = getpriority(PRIO_PROCESS, static_cast<id_t>(gettid()));
        ++installs_;
        if (holding_) {
          held_.push_back(std::move(done));
          return;
        }
      }
      done();
    };
  }
  void Hold() {
    absl::MutexLock lock(&mutex_);
    holding_ = true;
  }
  void Release() {
    std::vector<std::function<void()>> held;
    {
      absl::MutexLock lock(&mutex_);
      holding_ = false;
      held.swap(held_);
    }
    for (const auto& done : held) done();
  }
  std::shared_ptr<const ServingState> state() const {
    absl::MutexLock lock(&mutex_);
    return state_;
  }
  void Forget() {
    absl::MutexLock lock(&mutex_);
    state_ = nullptr;
  }
  uint64_t revision() const { return state()->snapshot->revision(); }
  int installs() const {
    absl::MutexLock lock(&mutex_);
    return installs_;
  }
  // Of the thread that installed the last one.
  int nice() const {
    absl::MutexLock lock(&mutex_);
    return nice_;
  }

 private:
  mutable absl::Mutex mutex_;
  std::shared_ptr<const ServingState> state_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::function<void()>> held_ ABSL_GUARDED_BY(mutex_);
  bool holding_ ABSL_GUARDED_BY(mutex_) = false;
  int installs_ ABSL_GUARDED_BY(mutex_) = 0;
  int nice_ ABSL_GUARDED_BY(mutex_) = 0;
};

// A data plane's configuration side, complete except for the workers.
struct DataPlane {
  explicit DataPlane(const std::vector<std::string>& control_planes, const std::string& cache_dir = "",
                     const std::vector<std::string>& policy_files = {}) {
    options.workers = 2;
    options.main_port = 8080;
    options.health_port = 9090;
    v1::DataPlaneSection* section = options.bootstrap.mutable_data_plane();
    for (const std::string& address : control_planes) section->add_control_planes(address);
    for (const std::string& file : policy_files) section->add_policy_files(file);
    section->set_name("dp-1");
    section->set_cache_dir(cache_dir);
    options.bootstrap.mutable_consul()->set_service_name("api-gateway");
    client = std::make_unique<ConfigClient>(options, &runtime, workers.function());
  }

  std::string metrics() const { return prometheus::TextSerializer().Serialize(client->Families()); }

  ConfigClientOptions options;
  MetricsRegistry registry{2};
  RuntimeState runtime{&registry};
  Workers workers;
  std::unique_ptr<ConfigClient> client;
};

v1::Resource ServiceResource(const std::string& name, const std::string& address = "127.0.0.1:18081") {
  v1::Resource resource;
  resource.mutable_service()->set_name(name);
  resource.mutable_service()->add_static_()->set_address(address);
  return resource;
}

v1::Resource ConsulServiceResource(const std::string& name) {
  v1::Resource resource;
  resource.mutable_service()->set_name(name);
  resource.mutable_service()->mutable_consul()->set_service(name);
  return resource;
}

v1::Resource RouteResource(const std::string& name, const std::string& service) {
  v1::Resource resource;
  resource.mutable_route()->set_name(name);
  resource.mutable_route()->mutable_match()->mutable_path()->set_prefix("/" + name);
  resource.mutable_route()->set_service(service);
  return resource;
}

std::vector<v1::Resource> WithBuiltins(std::vector<v1::Resource> resources) {
  for (v1::Resource& builtin : BuiltinResources(std::nullopt)) resources.push_back(std::move(builtin));
  return resources;
}

v1::ResourceName Name(const std::string& kind, const std::string& name) {
  v1::ResourceName result;
  result.set_kind(kind);
  result.set_name(name);
  return result;
}

v1::EndpointSet Endpoints(const std::string& service, const std::vector<uint32_t>& ports) {
  v1::EndpointSet set;
  set.mutable_key()->set_service(service);
  set.set_state(v1::EndpointSet::KNOWN);
  for (const uint32_t port : ports) {
    v1::Instance* instance = set.add_instances();
    instance->set_id("node/" + std::to_string(port));
    instance->set_address("127.0.0.1");
    instance->set_port(port);
    instance->set_weight(1);
    instance->set_health(v1::Instance::PASSING);
  }
  return set;
}

std::vector<std::string> RouteNames(const ServingState& state) {
  std::vector<std::string> names;
  for (const auto& route : state.snapshot->routes()) names.push_back(route->name);
  return names;
}

std::vector<std::string> EndpointNames(const ServingState& state, const std::string& service) {
  std::vector<std::string> names;
  for (const auto& bound : state.services) {
    if (bound->policy->name != service) continue;
    for (const auto& endpoint : bound->endpoints) names.push_back(endpoint->name);
  }
  return names;
}

// Sends `message` and returns the response, which must be an ACK.
v1::Ack Acked(FakeStream& stream, const v1::ControlPlaneMessage& message) {
  EXPECT_TRUE(stream.Send(message));
  const auto answer = stream.Next();
  EXPECT_TRUE(answer && answer->has_ack()) << (answer ? answer->DebugString() : "no response");
  return answer ? answer->ack() : v1::Ack();
}

v1::Nack Nacked(FakeStream& stream, const v1::ControlPlaneMessage& message) {
  EXPECT_TRUE(stream.Send(message));
  const auto answer = stream.Next();
  EXPECT_TRUE(answer && answer->has_nack()) << (answer ? answer->DebugString() : "no response");
  return answer ? answer->nack() : v1::Nack();
}

TEST(ConfigClient, HelloTellsWhoThisIsAndThatNothingIsApplied) {
  FakeControlPlane plane;
  DataPlane dp({plane.address()});
  ASSERT_TRUE(dp.client->Start().ok());
  const auto stream = plane.NextStream();
  ASSERT_TRUE(stream);
  const v1::Hello& hello = stream->hello();
  EXPECT_EQ(hello.schema_version(), kSchemaVersion);
  EXPECT_EQ(hello.name(), "dp-1");
  EXPECT_EQ(hello.instance_id().size(), 32u);
  EXPECT_EQ(hello.workers(), 2u);
  EXPECT_EQ(hello.advertise(), ":8080");
  EXPECT_EQ(hello.health_port(), 9090u);
  EXPECT_EQ(hello.epoch(), "");
  EXPECT_EQ(hello.revision(), 0u);
  EXPECT_TRUE(WaitFor([&] { return dp.client->connected(); }));
}

TEST(ConfigClient, FilesThatAreReadInPartTellAllOfTheirMistakes) {
  fixtures::TempDir dir;
  const std::string file = dir.Write("policy.yaml",
                                     "kind: Service\nname: svc\nstatic: [{ address: \"h:1\" }]\nlabelz: {}\n---\n"
                                     "kind: Route\nname: r\nmatch: { path: { prefix: /a/../b } }\nservice: svd\n");
  DataPlane data_plane({}, "", {file});
  const absl::Status status = data_plane.client->Start();
  EXPECT_THAT(std::string(status.message()), HasSubstr("labelz: unknown field"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("policy.yaml:8:"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("match.path.prefix: "));
  EXPECT_THAT(std::string(status.message()), HasSubstr("service 'svd' is not defined; did you mean 'svc'?"));
}

TEST(ConfigClient, BeforeTheFirstPolicyTheWorkersHaveTheBuiltinsAlone) {
  DataPlane dp({"127.0.0.1:" + std::to_string(fixtures::FreePort())});
  ASSERT_TRUE(dp.client->Start().ok());
  ASSERT_TRUE(dp.workers.state());
  EXPECT_FALSE(dp.workers.state()->has_policy);
  EXPECT_EQ(dp.workers.revision(), 0u);
  EXPECT_FALSE(dp.client->ready());
  EXPECT_FALSE(dp.client->connected());
}

TEST(ConfigClient, AnUpdateInChunksIsInstalledAndAckedOnlyOnceEveryWorkerServesIt) {
  FakeControlPlane plane;
  DataPlane dp({plane.address()});
  ASSERT_TRUE(dp.client->Start().ok());
  const auto stream = plane.NextStream();
  ASSERT_TRUE(stream);
  dp.workers.Hold();

  v1::ControlPlaneMessage first = PolicyMessage(kEpoch, 0, 7, {ServiceResource("a"), RouteResource("a", "a")});
  first.mutable_policy()->set_last(false);
  v1::ControlPlaneMessage second = PolicyMessage(kEpoch, 0, 7, WithBuiltins({RouteResource("b", "b")}));
  second.mutable_policy()->set_chunk(1);
  second.mutable_policy()->set_last(false);
  v1::ControlPlaneMessage third = PolicyMessage(kEpoch, 0, 7, {ServiceResource("b")});
  third.mutable_policy()->set_chunk(2);
  const int installs = dp.workers.installs();
  ASSERT_TRUE(stream->Send(first) && stream->Send(second));
  EXPECT_EQ(dp.workers.installs(), installs);  // nothing changes before the last chunk
  ASSERT_TRUE(stream->Send(third));

  ASSERT_TRUE(WaitFor([&] { return dp.workers.revision() == 7; }));
  EXPECT_THAT(RouteNames(*dp.workers.state()), UnorderedElementsAre("a", "b"));
  EXPECT_TRUE(dp.workers.state()->has_policy);
  EXPECT_FALSE(WaitFor([&] { return stream->HasNext(); }, 100ms));
  EXPECT_FALSE(dp.client->ready());
  dp.workers.Release();

  const auto answer = stream->Next();
  ASSERT_TRUE(answer && answer->has_ack());
  EXPECT_EQ(answer->ack().epoch(), kEpoch);
  EXPECT_EQ(answer->ack().revision(), 7u);
  EXPECT_GE(answer->ack().apply_time().nanos(), 90'000'000);  // it includes the workers
  EXPECT_EQ(answer->ack().endpoints_epoch(), "");
  EXPECT_TRUE(dp.client->ready());
  EXPECT_EQ(dp.client->revision(), 7u);
}

TEST(ConfigClient, AChangeOfPolicyIsCompiledInTheBackground) {
  FakeControlPlane plane;
  DataPlane dp({plane.address()});
  ASSERT_TRUE(dp.client->Start().ok());
  const int nice = dp.workers.nice();  // of the first state, installed before requests are served: the main thread's
  const auto stream = plane.NextStream();
  ASSERT_TRUE(stream);
  Acked(*stream, PolicyMessage(kEpoch, 0, 1, WithBuiltins({ServiceResource("a"), RouteResource("a", "a")})));
  constexpr int kNiceMax = 19;
  EXPECT_EQ(dp.workers.nice(), std::min(nice + kBackgroundNice, kNiceMax));
}

TEST(ConfigClient, ABadPolicyIsNackedWithAllErrorsAndTheOldOneStays) {
  FakeControlPlane plane;
  DataPlane dp({plane.address()});
  ASSERT_TRUE(dp.client->Start().ok());
  const auto stream = plane.NextStream();
  ASSERT_TRUE(stream);
  Acked(*stream, PolicyMessage(kEpoch, 0, 1, WithBuiltins({ServiceResource("a"), RouteResource("a", "a")})));

  const v1::Nack nack =
      Nacked(*stream,
             PolicyMessage(kEpoch, 0, 2, WithBuiltins({ServiceResource("a", "no-port"), RouteResource("a", "gone")})));
  EXPECT_EQ(nack.revision(), 2u);
  EXPECT_EQ(nack.epoch(), kEpoch);
  EXPECT_EQ(nack.applied_revision(), 1u);
  ASSERT_EQ(nack.rejections_size(), 2) << nack.DebugString();
  EXPECT_EQ(nack.rejections(0).kind() + "/" + nack.rejections(0).name(), "Route/a");
  EXPECT_EQ(nack.rejections(0).field(), "service");
  EXPECT_EQ(nack.rejections(1).kind() + "/" + nack.rejections(1).name(), "Service/a");
  EXPECT_NE(nack.rejections(1).reason(), "");
  EXPECT_EQ(dp.workers.revision(), 1u);

  // The stream continues.
  Acked(*stream, PolicyMessage(kEpoch, 0, 3, WithBuiltins({ServiceResource("b"), RouteResource("b", "b")})));
  EXPECT_THAT(RouteNames(*dp.workers.state()), UnorderedElementsAre("b"));
  EXPECT_THAT(dp.metrics(), AllOf(HasSubstr("gateway_config_updates_total{kind=\"policy\",result=\"applied\"} 2\n"),
                                  HasSubstr("gateway_config_updates_total{kind=\"policy\",result=\"rejected\"} 1\n"),
                                  HasSubstr("gateway_config_revision 3\n"), HasSubstr("gateway_config_connected 1\n")));
}

TEST(ConfigClient, APolicyOfANewerSchemaIsNacked) {
  FakeControlPlane plane;
  DataPlane dp({plane.address()});
  ASSERT_TRUE(dp.client->Start().ok());
  const auto stream = plane.NextStream();
  ASSERT_TRUE(stream);
  v1::ControlPlaneMessage newer = PolicyMessage(kEpoch, 0, 1, WithBuiltins({}));
  newer.mutable_policy()->set_schema_version(kSchemaVersion + 1);
  const v1::Nack nack = Nacked(*stream, newer);
  ASSERT_EQ(nack.rejections_size(), 1);
  EXPECT_THAT(nack.rejections(0).reason(), HasSubstr("schema version"));
  EXPECT_FALSE(dp.workers.state()->has_policy);
}

TEST(ConfigClient, AResourceOfAnUnknownKindIsNackedNotIgnored) {
  FakeControlPlane plane;
  DataPlane dp({plane.address()});
  ASSERT_TRUE(dp.client->Start().ok());
  const auto stream = plane.NextStream();
  ASSERT_TRUE(stream);
  const v1::Nack nack = Nacked(*stream, PolicyMessage(kEpoch, 0, 1, WithBuiltins({v1::Resource()})));
  ASSERT_EQ(nack.rejections_size(), 1);
  EXPECT_THAT(nack.rejections(0).reason(), HasSubstr("kind"));
}

TEST(ConfigClient, ADeltaChangesAddsAndRemovesOnTopOfWhatIsApplied) {
  FakeControlPlane plane;
  DataPlane dp({plane.address()});
  ASSERT_TRUE(dp.client->Start().ok());
  const auto stream = plane.NextStream();
  ASSERT_TRUE(stream);
  Acked(*stream, PolicyMessage(kEpoch, 0, 1,
                               WithBuiltins({ServiceResource("a"), RouteResource("a", "a"), RouteResource("b", "a")})));
  const v1::Ack ack = Acked(
      *stream, PolicyMessage(kEpoch, 1, 2, {ServiceResource("c"), RouteResource("c", "c")}, {Name("Route", "b")}));
  EXPECT_EQ(ack.revision(), 2u);
  EXPECT_THAT(RouteNames(*dp.workers.state()), UnorderedElementsAre("a", "c"));
  // A change that leaves a dangling reference is rejected whole.
  Nacked(*stream, PolicyMessage(kEpoch, 2, 3, {}, {Name("Service", "a")}));
  EXPECT_THAT(RouteNames(*dp.workers.state()), UnorderedElementsAre("a", "c"));
}

TEST(ConfigClient, ADeltaThatDoesNotFollowWhatIsAppliedRestartsTheStream) {
  FakeControlPlane plane;
  DataPlane dp({plane.address()});
  ASSERT_TRUE(dp.client->Start().ok());
  for (const auto& [epoch, from] : {std::pair{kEpoch, 2}, std::pair{"another", 1}}) {
    const auto stream = plane.NextStream();
    ASSERT_TRUE(stream);
    Acked(*stream, PolicyMessage(kEpoch, 0, 1, WithBuiltins({ServiceResource("a"), RouteResource("a", "a")})));
    ASSERT_TRUE(stream->Send(PolicyMessage(epoch, static_cast<uint64_t>(from), 9, {RouteResource("b", "a")})));
    EXPECT_TRUE(stream->WaitForEnd());
    EXPECT_EQ(dp.workers.revision(), 1u);
  }
  const auto again = plane.NextStream();
  ASSERT_TRUE(again);
  EXPECT_EQ(again->hello().epoch(), kEpoch);
  EXPECT_EQ(again->hello().revision(), 1u);
}

TEST(ConfigClient, ChunksOutOfOrderRestartTheStreamAndChangeNothing) {
  FakeControlPlane plane;
  DataPlane dp({plane.address()});
  ASSERT_TRUE(dp.client->Start().ok());
  const auto broken = [&](uint32_t chunk, uint64_t to) {
    const auto stream = plane.NextStream();
    ASSERT_TRUE(stream);
    v1::ControlPlaneMessage first = PolicyMessage(kEpoch, 0, 5, WithBuiltins({ServiceResource("a")}));
    first.mutable_policy()->set_last(false);
    v1::ControlPlaneMessage second = PolicyMessage(kEpoch, 0, to, {RouteResource("a", "a")});
    second.mutable_policy()->set_chunk(chunk);
    stream->Send(first);
    stream->Send(second);
    EXPECT_TRUE(stream->WaitForEnd());
  };
  broken(2, 5);  // one is missing
  broken(1, 6);  // of another update
  EXPECT_FALSE(dp.workers.state()->has_policy);
  const auto stream = plane.NextStream();
  ASSERT_TRUE(stream);
  Acked(*stream, PolicyMessage(kEpoch, 0, 5, WithBuiltins({ServiceResource("a"), RouteResource("a", "a")})));
}

TEST(ConfigClient, EndpointsHaveTheirOwnCounterAndKeepTheSnapshot) {
  FakeControlPlane plane;
  DataPlane dp({plane.address()});
  ASSERT_TRUE(dp.client->Start().ok());
  const auto stream = plane.NextStream();
  ASSERT_TRUE(stream);

  // Before any policy: accepted, and bound with the first one.
  v1::Ack ack =
      Acked(*stream, EndpointsMessage("process-1", 0, 4, {Endpoints("a", {1001, 1002}), Endpoints("b", {2001})}));
  EXPECT_EQ(ack.endpoints_epoch(), "process-1");
  EXPECT_EQ(ack.endpoints_version(), 4u);
  EXPECT_EQ(ack.epoch(), "");
  EXPECT_FALSE(dp.workers.state()->has_policy);
  EXPECT_TRUE(dp.workers.state()->catalog_known);

  Acked(*stream, PolicyMessage(kEpoch, 0, 1,
                               WithBuiltins({ConsulServiceResource("a"), ConsulServiceResource("b"),
                                             RouteResource("a", "a"), RouteResource("b", "b")})));
  const auto before = dp.workers.state();
  EXPECT_EQ(before->endpoints_version, 4u);
  EXPECT_THAT(EndpointNames(*before, "a"), UnorderedElementsAre("127.0.0.1:1001", "127.0.0.1:1002"));

  ack = Acked(*stream, EndpointsMessage("process-1", 4, 5, {Endpoints("a", {1002, 1003})}));
  EXPECT_EQ(ack.endpoints_version(), 5u);
  const auto after = dp.workers.state();
  EXPECT_EQ(after->snapshot, before->snapshot);
  EXPECT_GT(after->generation, before->generation);
  EXPECT_EQ(after->endpoints_version, 5u);
  EXPECT_THAT(EndpointNames(*after, "a"), UnorderedElementsAre("127.0.0.1:1002", "127.0.0.1:1003"));
  EXPECT_THAT(EndpointNames(*after, "b"), UnorderedElementsAre("127.0.0.1:2001"));

  v1::ServiceKey gone;
  gone.set_service("b");
  Acked(*stream, EndpointsMessage("process-1", 5, 6, {}, {gone}));
  EXPECT_THAT(EndpointNames(*dp.workers.state(), "b"), testing::IsEmpty());
  // A full update replaces everything.
  Acked(*stream, EndpointsMessage("process-2", 0, 1, {Endpoints("b", {2002})}));
  EXPECT_THAT(EndpointNames(*dp.workers.state(), "a"), testing::IsEmpty());
  EXPECT_THAT(EndpointNames(*dp.workers.state(), "b"), UnorderedElementsAre("127.0.0.1:2002"));

  ASSERT_TRUE(stream->Send(EndpointsMessage("process-2", 7, 8, {Endpoints("b", {2003})})));  // not a successor
  EXPECT_TRUE(stream->WaitForEnd());
  const auto next = plane.NextStream();
  ASSERT_TRUE(next);
  EXPECT_EQ(next->hello().endpoints_epoch(), "process-2");
  EXPECT_EQ(next->hello().endpoints_version(), 1u);
}

TEST(ConfigClient, ARestartedControlPlaneIsFoundAndLearnsTheAppliedRevision) {
  const uint16_t port = fixtures::FreePort();
  auto plane = std::make_unique<FakeControlPlane>(FakeControlPlane::Options{.port = port});
  DataPlane dp({plane->address()});
  ASSERT_TRUE(dp.client->Start().ok());
  std::string instance;
  {
    const auto stream = plane->NextStream();
    ASSERT_TRUE(stream);
    instance = stream->hello().instance_id();
    Acked(*stream, PolicyMessage(kEpoch, 0, 1, WithBuiltins({ServiceResource("a"), RouteResource("a", "a")})));
  }
  plane.reset();
  EXPECT_TRUE(WaitFor([&] { return !dp.client->connected(); }));
  EXPECT_TRUE(dp.client->ready());
  EXPECT_EQ(dp.workers.revision(), 1u);

  plane = std::make_unique<FakeControlPlane>(FakeControlPlane::Options{.port = port});
  const auto stream = plane->NextStream();
  ASSERT_TRUE(stream);
  EXPECT_EQ(stream->hello().epoch(), kEpoch);
  EXPECT_EQ(stream->hello().revision(), 1u);
  EXPECT_EQ(stream->hello().instance_id(), instance);
  EXPECT_EQ(Acked(*stream, PolicyMessage(kEpoch, 1, 2, {RouteResource("b", "a")})).revision(), 2u);
}

TEST(ConfigClient, AStreamThatDropsInsideAnUpdateLeavesNothingOfIt) {
  FakeControlPlane plane;
  DataPlane dp({plane.address()});
  ASSERT_TRUE(dp.client->Start().ok());
  auto stream = plane.NextStream();
  ASSERT_TRUE(stream);
  v1::ControlPlaneMessage first = PolicyMessage(kEpoch, 0, 1, WithBuiltins({ServiceResource("a")}));
  first.mutable_policy()->set_last(false);
  ASSERT_TRUE(stream->Send(first));
  stream->Drop();
  stream = plane.NextStream();
  ASSERT_TRUE(stream);
  EXPECT_EQ(stream->hello().revision(), 0u);
  Acked(*stream, PolicyMessage(kEpoch, 0, 2, WithBuiltins({ServiceResource("b"), RouteResource("b", "b")})));
  EXPECT_THAT(RouteNames(*dp.workers.state()), UnorderedElementsAre("b"));
  EXPECT_EQ(dp.workers.state()->services.size(), 1u);
}

TEST(ConfigClient, ControlPlanesAreTriedInOrder) {
  FakeControlPlane plane;
  DataPlane dp({"127.0.0.1:" + std::to_string(fixtures::FreePort()), plane.address()});
  ASSERT_TRUE(dp.client->Start().ok());
  EXPECT_TRUE(plane.NextStream());
}

// A control plane that accepts the connection and then never responds must not block the others.
TEST(ConfigClient, AControlPlaneThatNeverRespondsIsAbandoned) {
  const int silent = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  ASSERT_EQ(bind(silent, reinterpret_cast<sockaddr*>(&address), length), 0);
  ASSERT_EQ(listen(silent, 8), 0);
  ASSERT_EQ(getsockname(silent, reinterpret_cast<sockaddr*>(&address), &length), 0);

  FakeControlPlane plane;
  DataPlane dp({"127.0.0.1:" + std::to_string(ntohs(address.sin_port)), plane.address()});
  ASSERT_TRUE(dp.client->Start().ok());
  EXPECT_TRUE(plane.NextStream(20s));
  close(silent);
}

TEST(ConfigClient, StopSaysGoodbye) {
  FakeControlPlane plane;
  DataPlane dp({plane.address()});
  ASSERT_TRUE(dp.client->Start().ok());
  const auto stream = plane.NextStream();
  ASSERT_TRUE(stream);
  ASSERT_TRUE(WaitFor([&] { return dp.client->connected(); }));
  dp.client->Stop(10s);
  const auto last = stream->Next();
  ASSERT_TRUE(last && last->has_goodbye());
  EXPECT_TRUE(stream->WaitForEnd());
  EXPECT_FALSE(dp.client->connected());
  EXPECT_TRUE(dp.workers.state());  // the workers keep serving
}

TEST(ConfigClient, WhileStandingByAStreamThatEndedIsNotBegunAnew) {
  FakeControlPlane plane;
  DataPlane dp({plane.address()});
  ASSERT_TRUE(dp.client->Start().ok());
  const auto stream = plane.NextStream();
  ASSERT_TRUE(stream);
  ASSERT_TRUE(WaitFor([&] { return dp.client->connected(); }));
  dp.client->StandBy(true);
  Acked(*stream, PolicyMessage(kEpoch, 0, 1, WithBuiltins({})));  // the existing stream continues
  stream->Drop();
  EXPECT_FALSE(plane.NextStream(500ms));  // a first attempt would come within 100 ms
  dp.client->StandBy(false);
  const auto next = plane.NextStream();
  ASSERT_TRUE(next);
  EXPECT_EQ(next->hello().revision(), 1u);
}

TEST(ConfigClient, StopWithoutAGoodbyeSaysNothing) {
  FakeControlPlane plane;
  DataPlane dp({plane.address()});
  ASSERT_TRUE(dp.client->Start().ok());
  const auto stream = plane.NextStream();
  ASSERT_TRUE(stream);
  ASSERT_TRUE(WaitFor([&] { return dp.client->connected(); }));
  dp.client->Stop(10s, ConfigClient::Goodbye::kNone);
  EXPECT_TRUE(stream->WaitForEnd());
  EXPECT_FALSE(stream->HasNext());
}

TEST(ConfigClient, StopDoesNotWaitForAControlPlaneThatHangs) {
  FakeControlPlane plane({.port = 0, .ends_at_goodbye = false});
  DataPlane dp({plane.address()});
  ASSERT_TRUE(dp.client->Start().ok());
  ASSERT_TRUE(plane.NextStream());
  ASSERT_TRUE(WaitFor([&] { return dp.client->connected(); }));
  const auto begin = std::chrono::steady_clock::now();
  dp.client->Stop(200ms);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 3s);
}

TEST(ConfigClient, StopDoesNotWaitForAWorkerThatHangs) {
  FakeControlPlane plane;
  DataPlane dp({plane.address()});
  ASSERT_TRUE(dp.client->Start().ok());
  const auto stream = plane.NextStream();
  ASSERT_TRUE(stream);
  ASSERT_TRUE(WaitFor([&] { return dp.client->connected(); }));
  dp.workers.Hold();
  ASSERT_TRUE(stream->Send(PolicyMessage(kEpoch, 0, 1, WithBuiltins({}))));
  ASSERT_TRUE(WaitFor([&] { return dp.workers.revision() == 1; }));
  dp.client->Stop(5s);
  const auto last = stream->Next();
  ASSERT_TRUE(last);
  EXPECT_TRUE(last->has_goodbye());  // and no ACK
  dp.client.reset();
  dp.workers.Release();  // a late `done` must not touch freed memory
}

TEST(ConfigClient, AStateThatNoWorkerHoldsIsFreed) {
  FakeControlPlane plane;
  DataPlane dp({plane.address()});
  ASSERT_TRUE(dp.client->Start().ok());
  const auto stream = plane.NextStream();
  ASSERT_TRUE(stream);
  Acked(*stream, PolicyMessage(kEpoch, 0, 1, WithBuiltins({})));
  auto held = dp.workers.state();
  const std::weak_ptr<const ServingState> state = held;
  const std::weak_ptr<const Snapshot> snapshot = held->snapshot;
  Acked(*stream, PolicyMessage(kEpoch, 0, 2, WithBuiltins({})));
  EXPECT_FALSE(WaitFor([&] { return snapshot.expired(); }, 300ms));  // an exchange still uses it
  held = nullptr;
  EXPECT_TRUE(WaitFor([&] { return state.expired() && snapshot.expired(); }));
}

TEST(ConfigClient, WithoutAControlPlaneTheCacheServes) {
  const TempDir directory;
  const std::string cache = directory.File("cache");
  {
    FakeControlPlane plane;
    DataPlane dp({plane.address()}, cache);
    ASSERT_TRUE(dp.client->Start().ok());
    const auto stream = plane.NextStream();
    ASSERT_TRUE(stream);
    Acked(*stream, PolicyMessage(kEpoch, 0, 6, WithBuiltins({ConsulServiceResource("a"), RouteResource("a", "a")})));
    Acked(*stream, EndpointsMessage("process-1", 0, 3, {Endpoints("a", {1001})}));
    Acked(*stream, PolicyMessage(kEpoch, 6, 7, {RouteResource("b", "a")}));
    dp.client->Stop(5s);
  }
  struct stat info {};
  ASSERT_EQ(stat((cache + "/policy.cache").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);

  const uint16_t port = fixtures::FreePort();
  DataPlane dp({"127.0.0.1:" + std::to_string(port)}, cache);
  ASSERT_TRUE(dp.client->Start().ok());
  EXPECT_TRUE(WaitFor([&] { return dp.client->ready(); }));
  const auto state = dp.workers.state();
  EXPECT_TRUE(state->has_policy);
  EXPECT_EQ(state->snapshot->revision(), 7u);
  EXPECT_EQ(state->snapshot->epoch(), kEpoch);
  EXPECT_THAT(RouteNames(*state), UnorderedElementsAre("a", "b"));
  EXPECT_THAT(EndpointNames(*state, "a"), UnorderedElementsAre("127.0.0.1:1001"));

  // The control plane learns where to continue.
  FakeControlPlane plane({.port = port});
  const auto stream = plane.NextStream();
  ASSERT_TRUE(stream);
  EXPECT_EQ(stream->hello().epoch(), kEpoch);
  EXPECT_EQ(stream->hello().revision(), 7u);
  EXPECT_EQ(stream->hello().endpoints_epoch(), "process-1");
  EXPECT_EQ(stream->hello().endpoints_version(), 3u);
  Acked(*stream, PolicyMessage(kEpoch, 7, 8, {}, {Name("Route", "b")}));
  EXPECT_THAT(RouteNames(*dp.workers.state()), UnorderedElementsAre("a"));
}

TEST(ConfigClient, WhatIsServedIsOnDiskSoonNotOnlyAtTheEnd) {
  const TempDir directory;
  FakeControlPlane plane;
  DataPlane dp({plane.address()}, directory.File("cache"));
  ASSERT_TRUE(dp.client->Start().ok());
  const auto stream = plane.NextStream();
  ASSERT_TRUE(stream);
  Acked(*stream, PolicyMessage(kEpoch, 0, 1, WithBuiltins({ServiceResource("first"), RouteResource("a", "first")})));
  EXPECT_TRUE(WaitFor([&] { return directory.Read("cache/policy.cache").find("first") != std::string::npos; }));
  Acked(*stream, PolicyMessage(kEpoch, 0, 2, WithBuiltins({ServiceResource("second"), RouteResource("a", "second")})));
  EXPECT_TRUE(WaitFor([&] { return directory.Read("cache/policy.cache").find("second") != std::string::npos; }));
}

TEST(ConfigClient, ADamagedCacheIsIgnoredAndReplaced) {
  const TempDir directory;
  const std::string cache = directory.File("cache");
  const auto serve = [&](uint64_t revision) {
    FakeControlPlane plane;
    DataPlane dp({plane.address()}, cache);
    ASSERT_TRUE(dp.client->Start().ok());
    const auto stream = plane.NextStream();
    ASSERT_TRUE(stream);
    EXPECT_EQ(stream->hello().revision(), 0u) << revision;
    EXPECT_EQ(stream->hello().epoch(), "");
    Acked(*stream, PolicyMessage(kEpoch, 0, revision, WithBuiltins({ServiceResource("a"), RouteResource("a", "a")})));
    dp.client->Stop(5s);
  };
  serve(1);
  const std::string good = directory.Read("cache/policy.cache");
  ASSERT_GT(good.size(), 24u);
  std::vector<std::string> damaged = {"", "garbage", good.substr(0, good.size() / 2), good.substr(0, 20), good + "x"};
  std::string flipped = good;
  flipped[good.size() - 3] ^= 1;
  damaged.push_back(flipped);
  std::string newer = good;
  newer[8] = 2;
  damaged.push_back(newer);
  uint64_t revision = 1;
  for (const std::string& text : damaged) {
    directory.Write("cache/policy.cache", text);
    serve(++revision);
    EXPECT_GT(directory.Read("cache/policy.cache").size(), 24u);
  }
  // The last update was followed by a good one.
  DataPlane dp({"127.0.0.1:" + std::to_string(fixtures::FreePort())}, cache);
  ASSERT_TRUE(dp.client->Start().ok());
  EXPECT_EQ(dp.workers.revision(), revision);
}

TEST(ConfigClient, ACacheThatCannotBeWrittenCostsNothingButALine) {
  const TempDir directory;
  directory.Write("file", "");
  FakeControlPlane plane;
  DataPlane dp({plane.address()}, directory.File("file") + "/cache");  // the directory cannot be created
  ASSERT_TRUE(dp.client->Start().ok());
  const auto stream = plane.NextStream();
  ASSERT_TRUE(stream);
  Acked(*stream, PolicyMessage(kEpoch, 0, 1, WithBuiltins({ServiceResource("a"), RouteResource("a", "a")})));
  EXPECT_TRUE(
      WaitFor([&] { return dp.metrics().find("gateway_config_cache_write_errors_total 1\n") != std::string::npos; }));
  EXPECT_EQ(Acked(*stream, PolicyMessage(kEpoch, 1, 2, {RouteResource("b", "a")})).revision(), 2u);
}

TEST(ConfigClient, PolicyFilesServeWithoutAControlPlane) {
  const TempDir directory;
  const std::string file = directory.Write("policy.yaml", R"(
kind: Service
name: svc
static: [{ address: "127.0.0.1:18081" }, { address: "127.0.0.1:18082" }]
---
kind: Route
name: svc
match: { path: { prefix: /svc } }
service: svc
)");
  DataPlane dp({}, "", {file});
  const absl::Status status = dp.client->Start();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_TRUE(WaitFor([&] { return dp.client->ready(); }));
  EXPECT_THAT(RouteNames(*dp.workers.state()), UnorderedElementsAre("svc"));
  EXPECT_THAT(EndpointNames(*dp.workers.state(), "svc"), UnorderedElementsAre("127.0.0.1:18081", "127.0.0.1:18082"));
  EXPECT_FALSE(dp.client->connected());
  dp.client->Stop(1s);
}

TEST(ConfigClient, MistakesInPolicyFilesAreAllToldWithTheirPlaces) {
  const TempDir directory;
  const std::string file = directory.Write("policy.yaml", R"(kind: Route
name: a
match: { path: { prefix: /a } }
service: gone
---
kind: Route
name: b
match: { path: { prefix: /b } }
service: gone-too
)");
  DataPlane dp({}, "", {file});
  const absl::Status status = dp.client->Start();
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("policy.yaml:4:"), HasSubstr("Route/a"), HasSubstr("policy.yaml:9:"),
                    HasSubstr("Route/b"), HasSubstr("2 errors")));
  EXPECT_EQ(dp.workers.installs(), 0);
  // --check-config reports the same.
  std::vector<std::string> warnings;
  EXPECT_EQ(ConfigClient::CheckPolicyFiles(dp.options.bootstrap, &warnings), status);
  dp.options.bootstrap.mutable_data_plane()->clear_policy_files();
  EXPECT_TRUE(ConfigClient::CheckPolicyFiles(dp.options.bootstrap, &warnings).ok());
  dp.options.bootstrap.mutable_data_plane()->add_policy_files(
      directory.Write("good.yaml",
                      "kind: Route\nname: never\n"
                      "match: { path: { regex: a } }\nrespond: { status: 204 }\n"));
  EXPECT_TRUE(ConfigClient::CheckPolicyFiles(dp.options.bootstrap, &warnings).ok());
  EXPECT_THAT(warnings, ElementsAre(HasSubstr("can never match")));
}

v1::EndpointOverride TakenOut(const std::string& service, const std::string& endpoint, int seconds = 0) {
  v1::EndpointOverride made;
  made.set_service(service);
  made.set_endpoint(endpoint);
  made.set_weight(0);
  if (seconds > 0) made.mutable_remaining()->set_seconds(seconds);
  return made;
}

v1::ControlPlaneMessage OperationsMessage(uint64_t version, const std::vector<v1::EndpointOverride>& overrides) {
  v1::ControlPlaneMessage message;
  message.mutable_operations()->set_version(version);
  for (const v1::EndpointOverride& each : overrides) *message.mutable_operations()->add_overrides() = each;
  return message;
}

TEST(ConfigClient, WhatOperatorsSetIsServedEndsByItselfAndIsCached) {
  FakeControlPlane plane;
  TempDir dir;
  v1::Resource service = ServiceResource("svc", "127.0.0.1:1");
  service.mutable_service()->add_static_()->set_address("127.0.0.1:2");
  service.mutable_service()->add_static_()->set_address("127.0.0.1:3");
  {
    DataPlane dp({plane.address()}, dir.path());
    ASSERT_TRUE(dp.client->Start().ok());
    const auto stream = plane.NextStream();
    ASSERT_TRUE(stream);
    EXPECT_TRUE(stream->hello().takes_operations());
    Acked(*stream, PolicyMessage(kEpoch, 0, 1, WithBuiltins({service})));
    ASSERT_TRUE(stream->Send(OperationsMessage(
        1, {TakenOut("svc", "127.0.0.1:1"), TakenOut("svc", "127.0.0.1:2", 3600), TakenOut("svc", "127.0.0.1:3", 1)})));
    EXPECT_TRUE(WaitFor([&] { return EndpointNames(*dp.workers.state(), "svc").empty(); }));
    EXPECT_TRUE(WaitFor([&] {
      return EndpointNames(*dp.workers.state(), "svc") == std::vector<std::string>{"127.0.0.1:3"};
    })) << "a second later";
    dp.client->Stop(2s);
  }
  // A start without a control plane.
  DataPlane dp({"127.0.0.1:1"}, dir.path());
  ASSERT_TRUE(dp.client->Start().ok());
  EXPECT_EQ(EndpointNames(*dp.workers.state(), "svc"), std::vector<std::string>{"127.0.0.1:3"});
}

TEST(ConfigClient, AnEmptyListTakesBackWhatTheCacheHad) {
  FakeControlPlane plane;
  DataPlane dp({plane.address()});
  ASSERT_TRUE(dp.client->Start().ok());
  const auto stream = plane.NextStream();
  ASSERT_TRUE(stream);
  Acked(*stream, PolicyMessage(kEpoch, 0, 1, WithBuiltins({ServiceResource("svc")})));
  ASSERT_TRUE(stream->Send(OperationsMessage(1, {TakenOut("svc", "127.0.0.1:18081")})));
  EXPECT_TRUE(WaitFor([&] { return EndpointNames(*dp.workers.state(), "svc").empty(); }));
  ASSERT_TRUE(stream->Send(OperationsMessage(2, {})));
  EXPECT_TRUE(WaitFor([&] { return EndpointNames(*dp.workers.state(), "svc").size() == 1; }));
}

TEST(ConfigClient, ALogLevelFallsBackByItself) {
  FakeControlPlane plane;
  DataPlane dp({plane.address()});
  const auto before = spdlog::default_logger_raw()->level();
  ASSERT_TRUE(dp.client->Start().ok());
  const auto stream = plane.NextStream();
  ASSERT_TRUE(stream);
  v1::ControlPlaneMessage message;
  message.mutable_log_level()->set_level(v1::LoggingSection::TRACE);
  message.mutable_log_level()->mutable_duration()->set_seconds(1);
  ASSERT_TRUE(stream->Send(message));
  EXPECT_TRUE(WaitFor([] { return spdlog::default_logger_raw()->level() == spdlog::level::trace; }));
  EXPECT_TRUE(WaitFor([] { return spdlog::default_logger_raw()->level() == spdlog::level::info; }));
  spdlog::default_logger_raw()->set_level(before);
}

TEST(ConfigClient, DiagnosticsComeInChunksWithoutSecrets) {
  FakeControlPlane plane;
  DataPlane dp({plane.address()});
  dp.options.bootstrap.mutable_redis()->set_password("hunter2");
  dp.options.diagnose = [] {
    v1::DiagnosticFile metrics;
    metrics.set_name("metrics.txt");
    metrics.set_content(std::string(1'200'000, 'm'));
    return std::vector<v1::DiagnosticFile>{metrics};
  };
  dp.client = std::make_unique<ConfigClient>(dp.options, &dp.runtime, dp.workers.function());
  ASSERT_TRUE(dp.client->Start().ok());
  const auto stream = plane.NextStream();
  ASSERT_TRUE(stream);
  v1::ControlPlaneMessage message;
  message.mutable_diagnostics()->set_id(7);
  ASSERT_TRUE(stream->Send(message));
  std::map<std::string, std::string> files;
  for (bool last = false; !last;) {
    const auto part = stream->Next();
    ASSERT_TRUE(part && part->has_diagnostics());
    EXPECT_EQ(part->diagnostics().id(), 7u);
    EXPECT_LT(part->ByteSizeLong(), 1u << 20);
    for (const v1::DiagnosticFile& file : part->diagnostics().files()) files[file.name()] += file.content();
    last = part->diagnostics().last();
  }
  EXPECT_EQ(files["metrics.txt"], std::string(1'200'000, 'm'));
  EXPECT_THAT(files["bootstrap.yaml"], AllOf(HasSubstr("redacted"), ::testing::Not(HasSubstr("hunter2"))));
}

}  // namespace
}  // namespace gateway::dataplane
