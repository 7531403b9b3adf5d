// tar and gzip can read the archives.
#include "tools/gatewayctl/archive.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/process.h"
#include "tests/fixtures/temp_dir.h"

namespace gateway::ctl {
namespace {

using fixtures::Process;
using fixtures::TempDir;

TEST(TarArchive, TarReadsWhatWasAdded) {
  TarArchive archive(absl::FromUnixSeconds(1'700'000'000));
  ASSERT_TRUE(archive.Add("a/empty", "").ok());
  ASSERT_TRUE(archive.Add("a/block", std::string(512, 'x')).ok());
  ASSERT_TRUE(archive.Add("a/more", std::string(513, 'y')).ok());
  const std::string folder = "a/" + std::string(150, 'f');
  ASSERT_TRUE(archive.Add(folder + "/long", "z").ok());
  const auto gzipped = Gzip(archive.Finish());
  ASSERT_TRUE(gzipped.ok()) << gzipped.status();
  TempDir dir;
  const std::string file = dir.Write("a.tar.gz", *gzipped);
  const auto listed = Process::Run({"tar", "-tvzf", file, "--utc"});
  EXPECT_EQ(listed.exit.code, 0) << listed.err;
  EXPECT_THAT(listed.out, testing::HasSubstr("513 2023-11-14 22:13 a/more"));
  EXPECT_THAT(listed.out, testing::HasSubstr("-rw-------"));
  EXPECT_EQ(Process::Run({"tar", "-xOzf", file, folder + "/long"}).out, "z");
  EXPECT_EQ(Process::Run({"tar", "-xOzf", file, "a/block"}).out, std::string(512, 'x'));
}

TEST(TarArchive, NamesThatHaveNoRoomAreRefused) {
  TarArchive archive(absl::UnixEpoch());
  EXPECT_FALSE(archive.Add("", "x").ok());
  EXPECT_FALSE(archive.Add("/etc/passwd", "x").ok());
  EXPECT_FALSE(archive.Add(std::string(101, 'n'), "x").ok());
  EXPECT_FALSE(archive.Add(std::string(156, 'f') + "/n", "x").ok());
  EXPECT_TRUE(archive.Add(std::string(155, 'f') + "/" + std::string(100, 'n'), "x").ok());
}

}  // namespace
}  // namespace gateway::ctl
