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

TEST(StateFile, GivesBackWhatWasWritten) {
  const fixtures::TempDir dir;
  const std::string path = dir.File("endpoints");
  EXPECT_EQ(ReadStateFile(path).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(WriteStateFile(path, OneSet("web")).ok());
  ASSERT_TRUE(WriteStateFile(path, OneSet("db")).ok());
  const auto sets = ReadStateFile(path);
  ASSERT_TRUE(sets.ok()) << sets.status();
  ASSERT_EQ(sets->size(), 1u);
  EXPECT_EQ((*sets)[0]->SerializeAsString(), OneSet("db")[0]->SerializeAsString());
  ASSERT_TRUE(WriteStateFile(path, {}).ok());
  EXPECT_EQ(ReadStateFile(path)->size(), 0u);
}

TEST(StateFile, AnyDamageIsSeen) {
  const fixtures::TempDir dir;
  const std::string path = dir.File("endpoints");
  ASSERT_TRUE(WriteStateFile(path, OneSet("web")).ok());
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
  ASSERT_TRUE(WriteStateFile(path, OneSet("web")).ok());
  ASSERT_EQ(mkdir((path + ".new").c_str(), 0700), 0);  // blocks the path of the new file
  EXPECT_FALSE(WriteStateFile(path, OneSet("db")).ok());
  EXPECT_EQ((*ReadStateFile(path))[0]->key().service(), "web");
}

}  // namespace
}  // namespace gateway::controlplane
