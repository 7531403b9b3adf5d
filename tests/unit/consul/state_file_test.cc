#include "controlplane/sources/consul/state_file.h"

#include <sys/stat.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/temp_dir.h"

namespace gateway::controlplane {
namespace {

EndpointSets OneSet(const std::string& service) {
  auto set = std::make_shared<v1::EndpointSet>();
  set->mutable_key()->set_service(service);
  set->set_state(v1::EndpointSet::KNOWN);
  v1::Instance* instance = set->add_instances();
  instance->set_id("n1/" + service);
  instance->set_address("10.0.0.1");
  instance->set_port(80);
  return {set};
}

v1::EndpointEvent Event() {
  v1::EndpointEvent event;
  event.set_kind(v1::EndpointEvent::FROZEN);
  event.mutable_key()->set_service("web");
  event.set_actor("ada");
  return event;
}

TEST(StateFile, GivesBackWhatWasWritten) {
  const fixtures::TempDir dir;
  const std::string path = dir.File("endpoints");
  EXPECT_EQ(ReadStateFile(path).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(WriteStateFile(path, {.sets = OneSet("web"), .frozen = {}, .events = {}}).ok());
  ASSERT_TRUE(WriteStateFile(path, {.sets = OneSet("db"), .frozen = OneSet("web"), .events = {Event()}}).ok());
  const auto kept = ReadStateFile(path);
  ASSERT_TRUE(kept.ok()) << kept.status();
  ASSERT_EQ(kept->sets.size(), 1u);
  EXPECT_EQ(kept->sets[0]->SerializeAsString(), OneSet("db")[0]->SerializeAsString());
  ASSERT_EQ(kept->frozen.size(), 1u);
  EXPECT_EQ(kept->frozen[0]->SerializeAsString(), OneSet("web")[0]->SerializeAsString());
  ASSERT_EQ(kept->events.size(), 1u);
  EXPECT_EQ(kept->events[0].SerializeAsString(), Event().SerializeAsString());
  ASSERT_TRUE(WriteStateFile(path, {}).ok());
  EXPECT_EQ(ReadStateFile(path)->sets.size(), 0u);
}

// Earlier releases wrote an EndpointsUpdate.
TEST(StateFile, PayloadOfEarlierReleasesIsTheSame) {
  v1::EndpointsUpdate update;
  *update.add_sets() = *OneSet("web")[0];
  v1::EndpointStateFile read;
  ASSERT_TRUE(read.ParseFromString(update.SerializeAsString()));
  ASSERT_EQ(read.sets_size(), 1);
  EXPECT_EQ(read.sets(0).SerializeAsString(), OneSet("web")[0]->SerializeAsString());
}

TEST(StateFile, AnyDamageIsSeen) {
  const fixtures::TempDir dir;
  const std::string path = dir.File("endpoints");
  ASSERT_TRUE(WriteStateFile(path, {.sets = OneSet("web"), .frozen = {}, .events = {}}).ok());
  const std::string whole = dir.Read("endpoints");
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x20);
    dir.Write("damaged", damaged);
    ASSERT_EQ(ReadStateFile(dir.File("damaged")).status().code(), absl::StatusCode::kDataLoss) << "byte " << i;
    dir.Write("damaged", whole.substr(0, i));
    ASSERT_EQ(ReadStateFile(dir.File("damaged")).status().code(), absl::StatusCode::kDataLoss) << "cut at " << i;
  }
  dir.Write("damaged", whole + "x");
  EXPECT_EQ(ReadStateFile(dir.File("damaged")).status().code(), absl::StatusCode::kDataLoss);
}

TEST(StateFile, FailedWriteLeavesTheOldOne) {
  const fixtures::TempDir dir;
  const std::string path = dir.File("endpoints");
  ASSERT_TRUE(WriteStateFile(path, {.sets = OneSet("web"), .frozen = {}, .events = {}}).ok());
  ASSERT_EQ(mkdir((path + ".new").c_str(), 0700), 0);  // where the new one would be written
  EXPECT_FALSE(WriteStateFile(path, {.sets = OneSet("db"), .frozen = OneSet("web"), .events = {Event()}}).ok());
  EXPECT_EQ(ReadStateFile(path)->sets[0]->key().service(), "web");
}

}  // namespace
}  // namespace gateway::controlplane
