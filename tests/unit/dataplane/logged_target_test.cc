#include "dataplane/telemetry/logged_target.h"

#include <string>
#include <string_view>

#include "gtest/gtest.h"

namespace gateway::dataplane {
namespace {

std::string Logged(std::string_view target) {
  std::string room;
  return std::string(LoggedTarget(target, &room));
}

TEST(LoggedTarget, IsWhatTheClientSent) {
  for (const char* target : {"/", "/a%2Fb?x=1&y=2&&z", "*", "/a?", "/a?tokens=1", "", "nonsense", "/token=1"}) {
    EXPECT_EQ(Logged(target), target);
  }
}

TEST(LoggedTarget, HidesValuesThatAreCredentialsByTheirNames) {
  EXPECT_EQ(Logged("/a?access_token=eyJ.x.y"), "/a?access_token=***");
  EXPECT_EQ(Logged("/a?x=1&API_KEY=k&y=2&password=p"), "/a?x=1&API_KEY=***&y=2&password=***");
  EXPECT_EQ(Logged("/a?token=&x"), "/a?token=***&x");
  EXPECT_EQ(Logged("/a?token"), "/a?token");
}

TEST(LoggedTarget, LeavesOutTheAuthorityOfAnAbsoluteForm) {
  EXPECT_EQ(Logged("http://user:hunter2@a.example/b?c=d"), "/b?c=d");
  EXPECT_EQ(Logged("HTTPS://user:hunter2@a.example"), "/");
  EXPECT_EQ(Logged("http://a.example?secret=s"), "?secret=***");
}

}  // namespace
}  // namespace gateway::dataplane
