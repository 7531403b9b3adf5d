#include "dataplane/server/worker.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <vector>

#include "dataplane/state/runtime_state.h"
#include "gtest/gtest.h"
#include "tests/fixtures/raw_client.h"
#include "tests/fixtures/wait_for.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;
using fixtures::Event;
using fixtures::PeerEnd;
using fixtures::RawClient;
using fixtures::WaitFor;

// Two workers without policy, which respond 503, on one listening socket.
class Workers : public ::testing::Test {
 protected:
  Workers() {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), length), 0);
    EXPECT_EQ(listen(fd, 64), 0);
    EXPECT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length), 0);
    port_ = ntohs(address.sin_port);
    keeper_ = fcntl(fd, F_DUPFD_CLOEXEC, 0);  // as another process would hold it
    auto passed = InspectListener(fd);
    passed->systemd = true;
    auto set = OpenListeners(v1::ServerSection(), 2, {*passed});
    EXPECT_TRUE(set.ok()) << set.status();
    const auto state = runtime_.Bind(nullptr, EndpointTable(), false);
    for (int i = 0; i < 2; ++i) {
      workers_.push_back(std::make_unique<Worker>(i, shared_, set->of_worker[static_cast<size_t>(i)], metrics_.shard(i),
                                                  nullptr, state));
      workers_.back()->Start();
    }
  }
  ~Workers() override {
    // A worker that is stopped abandons requests in flight.
    EXPECT_TRUE(WaitFor([&] { return open(0) + open(1) == 0; }));
    for (const auto& each : workers_) each->Stop();
    workers_.clear();
    close(keeper_);
  }
  void Listen() {
    for (const auto& each : workers_) {
      Event done;
      each->Listen([&done] { done.Set(); });
      ASSERT_TRUE(done.Wait());
    }
  }
  int64_t accepted(int worker) { return metrics_.shard(worker)->Get(WorkerGauge::kClientConnectionsTotal); }

  int64_t open(int worker) { return metrics_.shard(worker)->Get(WorkerGauge::kClientConnections); }

  ServerOptions options_;
  BufferBudget budget_{64 << 20};
  ConnectionCounts counts_;
  Worker::Shared shared_{&options_, &budget_, &counts_, nullptr, {}};
  MetricsRegistry metrics_{2};
  RuntimeState runtime_{&metrics_};
  uint16_t port_ = 0;
  int keeper_ = -1;
  std::vector<std::unique_ptr<Worker>> workers_;
};

TEST_F(Workers, TakeTurnsAtASocketThatTheyShare) {
  Listen();
  // One after the other with nothing else to do, so both workers wait. On a busy machine a worker may not wait yet and
  // miss its turn.
  std::vector<RawClient> clients;
  for (int i = 0; i < 40; ++i) {
    clients.emplace_back(port_);
    ASSERT_TRUE(WaitFor([&] { return accepted(0) + accepted(1) == i + 1; }));
  }
  EXPECT_GE(accepted(0), 8);
  EXPECT_GE(accepted(1), 8);
}

TEST_F(Workers, AcceptNothingBeforeTheyAreTold) {
  RawClient client(port_);
  ASSERT_TRUE(client.Send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").ok());
  EXPECT_EQ(client.ReadResponse(100ms).status().code(), absl::StatusCode::kDeadlineExceeded);
  Listen();
  EXPECT_TRUE(client.ReadResponse().ok());
}

TEST_F(Workers, ThatDrainLeaveASharedSocketToTheOthers) {
  Listen();
  Event drained;
  workers_[0]->Drain(1s, [&drained] { drained.Set(); });
  ASSERT_TRUE(drained.Wait());
  const int64_t before = accepted(0);
  for (int i = 0; i < 20; ++i) {
    RawClient client(port_);
    ASSERT_TRUE(client.Request("GET", "/").ok()) << i;
  }
  EXPECT_EQ(accepted(0), before);
  // With no worker left, a connection waits in the backlog for the next process.
  Event all_drained;
  workers_[1]->Drain(1s, [&all_drained] { all_drained.Set(); });
  ASSERT_TRUE(all_drained.Wait());
  RawClient client(port_);
  EXPECT_EQ(client.WaitForEnd(100ms), PeerEnd::kOpen);
  const int fd = accept(keeper_, nullptr, nullptr);
  EXPECT_GE(fd, 0);
  close(fd);
}

TEST_F(Workers, EndEachConnectionWithItsAnswerOnceTheEndIsAnnounced) {
  Listen();
  RawClient kept(port_);
  const auto first = kept.Request("GET", "/");
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(first->Field("Connection"), std::nullopt);
  for (const auto& each : workers_) each->AnnounceEnd();
  const auto last = kept.Request("GET", "/");  // posted before it was sent
  ASSERT_TRUE(last.ok());
  EXPECT_EQ(last->Field("Connection"), "close");
  RawClient another(port_);
  EXPECT_TRUE(another.Request("GET", "/").ok());
}

}  // namespace
}  // namespace gateway::dataplane
