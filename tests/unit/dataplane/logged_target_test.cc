#include "dataplane/telemetry/logged_target.h"

#include <string>
#include <string_view>
#include <vector>

#include "gtest/gtest.h"

namespace gateway::dataplane {
namespace {

std::string Logged(std::string_view target, const std::vector<std::string>& more = {}) {
  std::string room;
  return std::string(LoggedTarget(target, more, &room));
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

// Services decode names before they compare them.
TEST(LoggedTarget, HidesThemHoweverTheirNamesAreWritten) {
  EXPECT_EQ(Logged("/a?acce%73s_token=eyJ.x.y"), "/a?acce%73s_token=***");
  EXPECT_EQ(Logged("/a?%41%50%49_%6b%65%79=k&b=1"), "/a?%41%50%49_%6b%65%79=***&b=1");
  EXPECT_EQ(Logged("/a?toke%6=x&toke%zz=y&%=z"), "/a?toke%6=x&toke%zz=y&%=z");
  EXPECT_EQ(Logged("/a?" + std::string(100, 'a') + "=x"), "/a?" + std::string(100, 'a') + "=x");
}

TEST(LoggedTarget, HidesCodesAndSignatures) {
  EXPECT_EQ(Logged("/cb?code=c&state=s"), "/cb?code=***&state=***");
  EXPECT_EQ(Logged("/o?X-Amz-Signature=1&X-Amz-Security-Token=2&X-Amz-Date=3&sig=4"),
            "/o?X-Amz-Signature=***&X-Amz-Security-Token=***&X-Amz-Date=3&sig=***");
}

TEST(LoggedTarget, HidesWhatTheOperatorNamed) {
  const std::vector<std::string> more = {"card", "x-ticket"};
  EXPECT_EQ(Logged("/a?Card=1&c%61rd=2&X-Ticket=3&cards=4&token=5", more),
            "/a?Card=***&c%61rd=***&X-Ticket=***&cards=4&token=***");
  EXPECT_EQ(Logged("/a?card=1"), "/a?card=1");
}

TEST(LoggedTarget, HidesNestedNamesAndThoseBehindASemicolon) {
  EXPECT_EQ(Logged("/a?user[password]=p&user%5Btoken%5D=t&a[b][otp]=1&[]=x&user[name]=n"),
            "/a?user[password]=***&user%5Btoken%5D=***&a[b][otp]=***&[]=x&user[name]=n");
  EXPECT_EQ(Logged("/a?x=1;token=t;y=2"), "/a?x=1;token=***;y=2");
  EXPECT_EQ(Logged("/a?]=1&a]=2"), "/a?]=1&a]=2");
}

TEST(LoggedTarget, LeavesOutTheAuthorityOfAnAbsoluteForm) {
  EXPECT_EQ(Logged("http://user:hunter2@a.example/b?c=d"), "/b?c=d");
  EXPECT_EQ(Logged("HTTPS://user:hunter2@a.example"), "/");
  EXPECT_EQ(Logged("http://a.example?secret=s"), "?secret=***");
}

}  // namespace
}  // namespace gateway::dataplane
