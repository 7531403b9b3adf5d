#include "controlplane/stream/roster.h"

#include <filesystem>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/temp_dir.h"

namespace gateway::controlplane {
namespace {

using fixtures::TempDir;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(Roster, KeepsNamesForItsOwnerAlone) {
  const TempDir dir;
  const std::string path = dir.path() + "/gateway.db.dataplanes";
  EXPECT_THAT(Roster(path).Load(), IsEmpty()) << "no file";
  ASSERT_TRUE(Roster(path).Save({{"dp-1"}, {"dp-2"}}).ok());
  EXPECT_THAT(Roster(path).Load(), ElementsAre(RosterEntry{"dp-1"}, RosterEntry{"dp-2"}));
  using std::filesystem::perms;
  EXPECT_EQ(std::filesystem::status(path).permissions(), perms::owner_read | perms::owner_write);
  const RosterEntry lost{"dp-2", absl::FromUnixSeconds(1'700'000'000)};
  ASSERT_TRUE(Roster(path).Save({lost}).ok());
  EXPECT_THAT(Roster(path).Load(), ElementsAre(lost));
}

TEST(Roster, LinesThatAreNoNamesAreLeftOut) {
  const TempDir dir;
  const std::string path = dir.Write("roster", "dp-1\n\n" + std::string(300, 'x') + "\ndp-3 yesterday\n 17\ndp-2");
  EXPECT_THAT(Roster(path).Load(), ElementsAre(RosterEntry{"dp-1"}, RosterEntry{"dp-2"}));
}

TEST(Roster, WhereItCannotWriteItSaysWhereAndKeepsWhatIsThere) {
  const TempDir dir;
  const std::string path = dir.Write("roster", "dp-1\n");
  std::filesystem::create_directory(path + ".tmp");
  const absl::Status status = Roster(path).Save({{"dp-2"}});
  EXPECT_THAT(std::string(status.message()), HasSubstr(path + ".tmp"));
  EXPECT_THAT(Roster(path).Load(), ElementsAre(RosterEntry{"dp-1"}));
}

}  // namespace
}  // namespace gateway::controlplane
