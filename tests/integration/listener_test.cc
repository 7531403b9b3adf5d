// The control plane's listeners under unused connections.
#include <sys/resource.h>

#include <deque>
#include <filesystem>
#include <string>

#include "gtest/gtest.h"
#include "tests/fixtures/raw_client.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

int ReadyStatus(const ControlPlane& control) {
  const auto response = Fetch(control.metrics_port(), "GET", "/ready");
  return response.ok() ? response->status : 0;
}

class Listeners : public testing::TestWithParam<bool> {
 protected:
  static void SetUpTestSuite() {
    rlimit limit{};
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);  // the test's own sockets
  }
  static uint16_t PortOf(const ControlPlane& control) {
    return GetParam() ? control.stream_port() : control.admin_port();
  }
  // Both listeners serve a new client.
  static void ExpectServing(ControlPlane& control) {
    const auto version = control.Ctl({"version"});
    EXPECT_EQ(version.exit.code, 0) << version.err;
    EXPECT_EQ(ReadyStatus(control), 200);
    DataPlane gateway({.control_planes = {control.stream_port()}});  // throws if it does not become ready
  }
};

INSTANTIATE_TEST_SUITE_P(ControlPlane, Listeners, testing::Bool(),
                         [](const auto& info) { return info.param ? "Stream" : "Admin"; });

TEST_P(Listeners, IdleConnectionsPastTheDescriptorLimitHarmNobody) {
  ControlPlane control({.descriptors = 1024});
  std::deque<RawClient> idle;
  for (int i = 0; i < 1100; ++i) idle.emplace_back(PortOf(control));
  ExpectServing(control);
  idle.clear();
  ExpectServing(control);
}

TEST_P(Listeners, AcceptAgainAfterTheProcessRanOutOfDescriptors) {
  ControlPlane control;
  const pid_t pid = control.process().pid();
  rlimit before{};
  ASSERT_EQ(prlimit(pid, RLIMIT_NOFILE, nullptr, &before), 0);
  const std::filesystem::path folder = "/proc/" + std::to_string(pid) + "/fd";
  const auto open = std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator());
  const rlimit few{static_cast<rlim_t>(open) + 4, before.rlim_max};
  ASSERT_EQ(prlimit(pid, RLIMIT_NOFILE, &few, nullptr), 0);
  std::deque<RawClient> idle;
  for (int i = 0; i < 40; ++i) idle.emplace_back(PortOf(control));
  EXPECT_TRUE(control.process().WaitForLine("Too many open files").has_value());
  ASSERT_EQ(prlimit(pid, RLIMIT_NOFILE, &before, nullptr), 0);
  ExpectServing(control);
}

}  // namespace
}  // namespace gateway::fixtures
