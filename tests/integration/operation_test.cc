// What supervisors do to the processes: unread logs, signals.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

constexpr char kPolicy[] = "kind: Service\nname: svc\nstatic: [{ address: \"127.0.0.1:9\" }]\n";

// A full FIFO that is not read.
class FullFifo {
 public:
  FullFifo() : path_(directory_.File("fifo")) {
    EXPECT_EQ(mkfifo(path_.c_str(), 0600), 0);
    fd_ = open(path_.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC);
    EXPECT_GE(fd_, 0);
    const std::string bytes(4096, 'x');
    while (write(fd_, bytes.data(), bytes.size()) > 0) {
    }
  }
  ~FullFifo() { close(fd_); }
  const std::string& path() const { return path_; }

  // Reads what follows the filling, until `text` has arrived.
  bool ReadUntil(const std::string& text) {
    std::string all;
    return WaitFor([&] {
      char bytes[65536];
      for (ssize_t n; (n = read(fd_, bytes, sizeof bytes)) > 0;) all.append(bytes, static_cast<size_t>(n));
      return all.find(text) != std::string::npos;
    });
  }

 private:
  TempDir directory_;
  std::string path_;
  int fd_ = -1;
};

TEST(StalledLogReader, DataPlaneServesOnAndEndsInTime) {
  FullFifo fifo;
  ScriptedUpstream upstream(Ok("hello"));
  DataPlane::Options options;
  options.policy = ServicePolicyYaml({upstream.address()});
  options.sets = {"server.max_connections_per_address=20", "server.drain_timeout=1s"};
  options.output = fifo.path();
  DataPlane gateway(std::move(options));

  const auto get = [&] {
    const auto response = Fetch(gateway.port(), "GET", "/svc");
    return response.ok() ? response->status : 0;
  };
  for (int i = 0; i < 100; ++i) ASSERT_EQ(get(), 200);
  {
    // Excess connections make every worker log a warning.
    std::vector<RawClient> clients;
    for (int i = 0; i < 60; ++i) clients.emplace_back(gateway.port());
    ASSERT_TRUE(WaitFor([&] {
      return gateway.Metric("gateway_connections_refused_total") +
                 gateway.Metric("gateway_connections_gave_way_total") >=
             40;
    }));
  }
  ASSERT_TRUE(WaitFor([&] { return gateway.Metric("gateway_connections") == 0; }));
  for (int i = 0; i < 100; ++i) ASSERT_EQ(get(), 200);
  const auto ready = Fetch(gateway.metrics_port(), "GET", "/ready");
  ASSERT_TRUE(ready.ok());
  EXPECT_EQ(ready->status, 200);

  gateway.process().Signal(SIGTERM);
  const auto end = gateway.process().Wait();
  ASSERT_TRUE(end.has_value()) << "it blocks on the reader of its log";
  EXPECT_EQ(*end, (Process::Exit{.code = 0}));
}

TEST(StalledLogReader, DataPlaneTellsWhatWaitedOnceTheReaderIsBack) {
  FullFifo fifo;
  DataPlane::Options options;
  options.policy = kPolicy;
  options.output = fifo.path();
  DataPlane gateway(std::move(options));
  EXPECT_TRUE(fifo.ReadUntil("serves on"));
}

TEST(StalledLogReader, ControlPlaneAppliesOnAndEndsInTime) {
  FullFifo fifo;
  ControlPlane::Options options;
  options.output = fifo.path();
  ControlPlane control_plane(std::move(options));
  for (int i = 0; i < 3; ++i) {
    const auto result = control_plane.Apply("kind: Service\nname: svc-" + std::to_string(i) +
                                            "\nstatic: [{ address: \"127.0.0.1:9\" }]\n");
    EXPECT_EQ(result.exit.code, 0) << result.err;
  }
  control_plane.process().Signal(SIGTERM);
  const auto end = control_plane.process().Wait();
  ASSERT_TRUE(end.has_value()) << "it blocks on the reader of its log";
  EXPECT_EQ(*end, (Process::Exit{.code = 0}));
}

TEST(Signals, DataPlaneReloadsAtHangUpAndOutlivesTheOthers) {
  TempDir directory;
  const std::string log = directory.File("access.log");
  ScriptedUpstream upstream(Ok("hello"));
  DataPlane::Options options;
  options.policy = ServicePolicyYaml({upstream.address()});
  options.sets = {"access_log.path=" + log};
  DataPlane gateway(std::move(options));
  ASSERT_EQ(rename(log.c_str(), (log + ".1").c_str()), 0);
  gateway.process().Signal(SIGHUP);
  EXPECT_TRUE(gateway.process().WaitForLine("SIGHUP: reopening the access log").has_value());
  EXPECT_TRUE(WaitFor([&] { return access(log.c_str(), F_OK) == 0; }));
  for (const int each : {SIGUSR1, SIGUSR2, SIGPIPE}) gateway.process().Signal(each);
  EXPECT_TRUE(gateway.process().WaitForLine("SIGUSR1: reopening the access log").has_value());
  const auto response = Fetch(gateway.port(), "GET", "/svc");
  ASSERT_TRUE(response.ok());
  EXPECT_EQ(response->status, 200);
}

TEST(Signals, ControlPlaneOutlivesAllButThoseThatEndIt) {
  ControlPlane control_plane;
  for (const int each : {SIGHUP, SIGUSR1, SIGUSR2}) control_plane.process().Signal(each);
  for (const char* const each : {"SIGHUP: no new certificates", "SIGUSR1: nothing", "SIGUSR2: nothing"}) {
    EXPECT_TRUE(control_plane.process().WaitForLine(each).has_value()) << each;
  }
  EXPECT_EQ(control_plane.Apply(kPolicy).exit.code, 0);
  control_plane.process().Signal(SIGTERM);
  EXPECT_EQ(control_plane.process().Wait(), (Process::Exit{.code = 0}));
}

}  // namespace
}  // namespace gateway::fixtures
