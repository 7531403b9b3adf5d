// A data plane exits and another takes its place, under load: no request is lost, no connection refused.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <list>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/ports.h"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/fixtures/temp_dir.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int kRestarts = 20;
constexpr Timeout kPause{4};  // of a client, between requests

// Clients that send requests until stopped; each must get its own response. Allowed: a response with `Connection:
// close`, and a connection that closes while no request is outstanding.
// nothing was asked on it.
class Load {
 public:
  Load(uint16_t port, int kept, int fresh) : port_(port) {
    for (int i = 0; i < kept + fresh; ++i) {
      clients_.emplace_back([this, keep = i < kept] { Run(keep); });
    }
  }
  ~Load() { Stop(); }

  void Stop() {
    stop_.Set();
    for (std::thread& each : clients_) {
      if (each.joinable()) each.join();
    }
  }
  int answered() const { return answered_; }
  // Until `more` further requests have got a response.
  [[nodiscard]] bool Await(int more) const {
    return WaitFor([this, want = answered_ + more] { return answered_ >= want; });
  }
  std::vector<std::string> losses() const {
    absl::MutexLock lock(&mutex_);
    return losses_;
  }

 private:
  static constexpr size_t kLossesMax = 10;  // that are reported

  void Lose(std::string what) {
    absl::MutexLock lock(&mutex_);
    if (losses_.size() < kLossesMax) losses_.push_back(std::move(what));
  }

  void Run(bool keep) {
    RawClient client;
    for (int i = 0; !stop_.is_set(); ++i) {
      if (client.open() && client.WaitForEnd(Timeout(0)) != PeerEnd::kOpen) client.Close();
      const bool reused = client.open();
      if (!reused) {
        auto connected = RawClient::Connect("127.0.0.1", port_);
        if (!connected.ok()) {
          Lose(Concat("request ", i, ": ", connected.status().ToString()));
          continue;
        }
        client = *std::move(connected);
      }
      const bool post = i % 2 == 1;
      const std::string body = post ? std::string(1 + i % 5000, 'b') : "";
      const auto response = client.Request(post ? "POST" : "GET", "/svc", "", body);
      if (!response.ok()) {
        Lose(Concat("request ", i, reused ? " of a kept connection: " : ": ", response.status().ToString()));
        client.Close();
        continue;
      }
      if (response->status != 200 || response->body != (post ? body : "got")) {
        Lose(Concat("request ", i, ": ", response->status, " ", response->body.substr(0, 200)));
      }
      ++answered_;
      if (!keep || response->Field("Connection") == "close") client.Close();
      (void)stop_.Wait(kPause);
    }
  }

  const uint16_t port_;
  Event stop_;
  std::atomic<int> answered_{0};
  mutable absl::Mutex mutex_;
  std::vector<std::string> losses_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> clients_;
};

// A listening socket as systemd creates it for a .socket unit.
class ListeningSocket {
 public:
  ListeningSocket() : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    if (bind(fd_, reinterpret_cast<sockaddr*>(&address), length) != 0 || listen(fd_, 1024) != 0 ||
        getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
      throw std::system_error(errno, std::generic_category(), "listen");
    }
    port_ = ntohs(address.sin_port);
  }
  ~ListeningSocket() { close(fd_); }
  ListeningSocket(const ListeningSocket&) = delete;
  ListeningSocket& operator=(const ListeningSocket&) = delete;
  int fd() const { return fd_; }
  uint16_t port() const { return port_; }

 private:
  int fd_;
  uint16_t port_ = 0;
};

class Restart : public ::testing::Test {
 protected:
  Restart()
      : upstream_(Respond([](const UpstreamRequest& request) {
          return MakeResponse(200, request.method == "POST" ? request.body : "got");
        })) {
    options_.policy = ServicePolicyYaml({upstream_.address()});
    options_.port = FreePort();
    options_.metrics_port = FreePort();
  }

  std::unique_ptr<DataPlane> Start(std::vector<std::string> sets = {}) const {
    DataPlane::Options options = options_;
    options.sets.insert(options.sets.end(), sets.begin(), sets.end());
    return std::make_unique<DataPlane>(std::move(options));
  }
  // Starts a process that takes over from the serving one.
  std::unique_ptr<DataPlane> TakeOver(std::vector<std::string> sets = {}) {
    DataPlane::Options options = options_;
    options.sets.insert(options.sets.end(), sets.begin(), sets.end());
    options.wait_line = "this one has its place";
    return std::make_unique<DataPlane>(std::move(options));
  }
  std::string Handover() const { return "server.handover=" + directory_.File("handover"); }

  // The status of /ready at the metrics port.
  static int Ready(const DataPlane& gateway) {
    const auto response = Fetch(gateway.metrics_port(), "GET", "/ready");
    return response.ok() ? response->status : 0;
  }

  TempDir directory_;
  ScriptedUpstream upstream_;
  DataPlane::Options options_;
};

TEST_F(Restart, ServesThroughTheDrainDelayAndEndsEachConnectionWithItsAnswer) {
  const auto gateway = Start({"server.drain_delay=1h"});
  RawClient kept(gateway->port());
  RawClient idle(gateway->port());
  ASSERT_TRUE(kept.Request("GET", "/svc").ok());
  ASSERT_TRUE(idle.Request("GET", "/svc").ok());
  gateway->process().Signal(SIGTERM);
  ASSERT_TRUE(WaitFor([&] { return Ready(*gateway) == 503; }));
  ASSERT_TRUE(gateway->process().WaitForLine("draining"));

  // A rejection and a forwarded response each close the connection, on every worker.
  for (const char* target : {"/svc", "/nowhere"}) {
    ASSERT_TRUE(WaitFor([&] {
      const auto response = Fetch(gateway->port(), "GET", target);
      EXPECT_TRUE(response.ok()) << response.status();
      return response.ok() && response->Field("Connection") == "close";
    })) << target;
  }
  const auto response = kept.Request("POST", "/svc", "", "body");
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->body, "body");
  EXPECT_EQ(response->Field("Connection"), "close");
  EXPECT_EQ(kept.WaitForEnd(), PeerEnd::kFin);
  EXPECT_EQ(idle.WaitForEnd(Timeout(100)), PeerEnd::kOpen);
  EXPECT_TRUE(idle.Request("GET", "/svc").ok());
  gateway->process().Signal(SIGTERM);
  EXPECT_EQ(gateway->process().Wait(), (Process::Exit{-1, SIGTERM}));
}

TEST_F(Restart, AfterTheDrainDelayOnlyRequestsInFlightAreServed) {
  Event release;
  upstream_.SetScript([&](UpstreamConnection& connection) {
    while (connection.ReadRequest()) {
      if (!connection.WaitFor(release)) return;
      connection.Send(MakeResponse(200, "got"));
    }
  });
  const auto gateway = Start({"server.drain_delay=300ms"});
  RawClient busy(gateway->port());
  ASSERT_TRUE(busy.Send("GET /svc HTTP/1.1\r\nHost: a\r\n\r\n").ok());
  ASSERT_TRUE(upstream_.WaitForRequests(1));
  RawClient idle(gateway->port());
  ASSERT_TRUE(idle.Request("GET", "/health").ok());
  const auto begin = std::chrono::steady_clock::now();
  gateway->process().Signal(SIGTERM);
  ASSERT_TRUE(WaitFor([&] { return !Fetch(gateway->port(), "GET", "/health").ok(); }));
  EXPECT_GE(std::chrono::steady_clock::now() - begin, Timeout(300));
  EXPECT_EQ(Ready(*gateway), 503);
  EXPECT_EQ(idle.WaitForEnd(), PeerEnd::kFin);
  release.Set();
  const auto response = busy.ReadResponse();
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->Field("Connection"), "close");
  EXPECT_EQ(gateway->process().Wait(), (Process::Exit{0, 0})) << gateway->process().output();
}

TEST_F(Restart, WhatStillWaitsAfterTheDrainTimeoutIsToldSo) {
  Event release;
  upstream_.SetScript([&](UpstreamConnection& connection) {
    if (connection.ReadRequest()) (void)connection.WaitFor(release);
  });
  const auto gateway = Start({"server.drain_delay=0s", "server.drain_timeout=300ms"});
  RawClient waiting(gateway->port());
  ASSERT_TRUE(waiting.Send("GET /svc HTTP/1.1\r\nHost: a\r\n\r\n").ok());
  RawClient uploading(gateway->port());
  ASSERT_TRUE(uploading.Send("POST /svc HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").ok());
  ASSERT_TRUE(upstream_.WaitForRequests(1));
  gateway->process().Signal(SIGTERM);
  for (RawClient* client : {&waiting, &uploading}) {
    const auto response = client->ReadResponse();
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->status, 503);
    EXPECT_EQ(response->Field("X-Gateway-Reason"), "draining");
    EXPECT_EQ(response->Field("Connection"), "close");
  }
  EXPECT_EQ(gateway->process().Wait(), (Process::Exit{0, 0})) << gateway->process().output();
  release.Set();
}

TEST_F(Restart, LosesNothingWhereSystemdKeepsTheSocket) {
  const ListeningSocket socket;
  options_.sockets = {socket.fd()};
  options_.port = socket.port();
  options_.sets = {"server.drain_delay=100ms"};
  auto gateway = Start();
  EXPECT_TRUE(gateway->process().WaitForLine(Concat("systemd passed a socket at 127.0.0.1:", socket.port())));
  Load load(socket.port(), 3, 3);
  for (int i = 0; i < kRestarts; ++i) {
    ASSERT_TRUE(load.Await(30)) << i;
    gateway->process().Signal(SIGTERM);
    ASSERT_EQ(gateway->process().Wait(), (Process::Exit{0, 0})) << gateway->process().output();
    gateway = Start({Concat("server.workers=", 1 + i % 3)});
  }
  ASSERT_TRUE(load.Await(30));
  load.Stop();
  EXPECT_THAT(load.losses(), IsEmpty()) << "of " << load.answered();
}

TEST_F(Restart, SystemdsSocketIsMatchedToTheConfiguredListenersAndTheRestIsBound) {
  const ListeningSocket socket;
  const uint16_t other = FreePort();
  options_.sockets = {socket.fd()};
  options_.port = socket.port();
  options_.listeners = {Concat("127.0.0.1:", other), Concat("127.0.0.1:", socket.port())};
  const auto gateway = Start();
  for (const uint16_t port : {socket.port(), other}) {
    const auto response = Fetch(port, "GET", "/svc");
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->status, 200);
  }
}

TEST_F(Restart, WhatSystemdPassesMustBeListeningSockets) {
  const auto refusal = [&](int type, bool bound) {
    const int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_TRUE(!bound || bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    options_.sockets = {fd};
    std::string said;
    try {
      Start();
    } catch (const std::runtime_error& error) {
      said = error.what();
    }
    close(fd);
    return said;
  };
  EXPECT_THAT(refusal(SOCK_DGRAM, true), HasSubstr("LISTEN_FDS: descriptor 3 is not a stream socket"));
  EXPECT_THAT(refusal(SOCK_STREAM, true), HasSubstr("that does not listen"));
}

TEST_F(Restart, LosesNothingWhenOneProcessHandsOverToTheNext) {
  options_.sets = {Handover()};
  auto gateway = Start();
  Load load(gateway->port(), 3, 3);
  constexpr int kWorkers[] = {2, 1, 3, 3, 1, 2, 4};
  for (int i = 0; i < kRestarts; ++i) {
    ASSERT_TRUE(load.Await(30)) << i;
    auto next = TakeOver({Concat("server.workers=", kWorkers[i % std::size(kWorkers)])});
    ASSERT_EQ(gateway->process().Wait(), (Process::Exit{0, 0})) << gateway->process().output();
    EXPECT_EQ(Ready(*next), 200);
    gateway = std::move(next);
  }
  ASSERT_TRUE(load.Await(30));
  load.Stop();
  EXPECT_THAT(load.losses(), IsEmpty()) << "of " << load.answered();
  // A normal exit afterwards: the next process starts without a hand-over.
  gateway->process().Signal(SIGTERM);
  EXPECT_EQ(gateway->process().Wait(), (Process::Exit{0, 0}));
  EXPECT_NE(access(directory_.File("handover").c_str(), F_OK), 0);
  EXPECT_EQ(Ready(*Start()), 200);
}

TEST_F(Restart, AHandoverLeavesIdleConnectionsUntilTheirNextAnswer) {
  options_.sets = {Handover(), "server.drain_delay=1h"};
  const auto old = Start();
  RawClient idle(old->port());
  ASSERT_TRUE(idle.Request("GET", "/svc").ok());
  const auto next = TakeOver();
  ASSERT_TRUE(old->process().WaitForLine("draining"));         // without a delay
  EXPECT_EQ(idle.WaitForEnd(Timeout(1'500)), PeerEnd::kOpen);  // longer than the grace of a restart
  const auto response = idle.Request("GET", "/svc");
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->Field("Connection"), "close");
  EXPECT_EQ(old->process().Wait(), (Process::Exit{0, 0})) << old->process().output();
}

TEST_F(Restart, AHandoverFollowsTheConfiguredAddresses) {
  const std::vector<uint16_t> ports = FreePorts(3);
  const auto listeners = [](uint16_t one, uint16_t two) {
    return std::vector<std::string>{Concat("127.0.0.1:", one), Concat("127.0.0.1:", two)};
  };
  options_.sets = {Handover()};
  options_.listeners = listeners(ports[0], ports[1]);
  const auto old = Start();
  options_.listeners = listeners(ports[1], ports[2]);
  const auto next = TakeOver();
  ASSERT_EQ(old->process().Wait(), (Process::Exit{0, 0})) << old->process().output();
  for (const uint16_t port : {ports[1], ports[2]}) {
    for (int i = 0; i < 10; ++i) EXPECT_TRUE(Fetch(port, "GET", "/svc").ok()) << port;
  }
  EXPECT_TRUE(WaitFor([&] { return !Fetch(ports[0], "GET", "/svc").ok(); }));
}

TEST_F(Restart, ASuccessorThatFailsChangesNothing) {
  options_.sets = {Handover()};
  const auto old = Start();
  Load load(old->port(), 2, 2);
  ASSERT_TRUE(load.Await(20));

  // An invalid policy: by then the process has the sockets.
  DataPlane::Options bad = options_;
  bad.policy = "kind: Route\nname: r\nmatch: { path: { prefix: / } }\nservice: nobody\n";
  bad.wait_line = "it never comes so far";
  EXPECT_THROW(DataPlane{bad}, std::runtime_error);
  ASSERT_TRUE(old->process().WaitForLine("did not take over: it is gone"));
  ASSERT_TRUE(load.Await(20));

  // A process that never gets a policy, killed while it waits; with more workers than there are sockets.
  Process::Position mark = old->process().Mark();
  DataPlane::Options stuck = options_;
  stuck.policy.clear();
  stuck.control_planes = {FreePort()};
  stuck.workers = 4;
  stuck.wait_line = "no stream from the control plane";
  {
    DataPlane next(stuck);
    ASSERT_TRUE(load.Await(20));
    next.process().Kill();
  }
  ASSERT_TRUE(old->process().WaitForLine("did not take over: it is gone", kSoon, mark));
  ASSERT_TRUE(load.Await(20));

  // A process that gets SIGTERM while it waits.
  mark = old->process().Mark();
  {
    DataPlane next(stuck);
    next.process().Signal(SIGTERM);
    EXPECT_EQ(next.process().Wait(), (Process::Exit{1, 0}));
  }
  ASSERT_TRUE(old->process().WaitForLine("did not take over: it is gone", kSoon, mark));
  EXPECT_EQ(Ready(*old), 200);
  const auto next = TakeOver();
  EXPECT_EQ(old->process().Wait(), (Process::Exit{0, 0})) << old->process().output();
  ASSERT_TRUE(load.Await(20));
  load.Stop();
  EXPECT_THAT(load.losses(), IsEmpty()) << "of " << load.answered();
}

TEST_F(Restart, APredecessorThatIsKilledLeavesItsSocketsToItsSuccessor) {
  options_.sets = {Handover()};
  const auto old = Start();
  ControlPlane control;
  DataPlane::Options options = options_;
  options.policy.clear();
  options.control_planes = {control.stream_port()};
  control.Kill();
  options.wait_line = "no stream from the control plane";
  DataPlane next(options);
  old->process().Kill();
  RawClient waiting(next.port());  // into the backlog: it is not accepted yet
  ASSERT_TRUE(waiting.Send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n").ok());
  control.Start();
  const auto response = waiting.ReadResponse();
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->status, 200);
  EXPECT_TRUE(next.process().WaitForLine("continues alone"));
}

TEST_F(Restart, GarbageAtTheHandoverSocketIsRefusedAndHarmsNothing) {
  options_.sets = {Handover()};
  const auto gateway = Start();
  const auto say = [&](std::string_view text) {
    const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    const ByteStream closes(fd);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    directory_.File("handover").copy(address.sun_path, sizeof address.sun_path - 1);
    EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(send(fd, text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
    char answer[1024];
    const ssize_t n = recv(fd, answer, sizeof answer, 0);
    return std::string(answer, n > 0 ? static_cast<size_t>(n) : 0);
  };
  EXPECT_THAT(say("GET / HTTP/1.1\r\n\r\n"), HasSubstr("gateway-handover 1 refused"));
  EXPECT_THAT(say("gateway-handover 2 take\n"), HasSubstr("version 2"));
  EXPECT_THAT(say("gateway-handover 1 serving\n"), HasSubstr("refused"));
  EXPECT_THAT(say(std::string(100'000, 'a')), HasSubstr("too long"));
  EXPECT_THAT(say(std::string("\0\xff\n", 3)), HasSubstr("refused"));
  EXPECT_TRUE(gateway->process().WaitForLine("hand-over: rejected: version 2"));
  EXPECT_EQ(Ready(*gateway), 200);
  EXPECT_TRUE(Fetch(gateway->port(), "GET", "/svc").ok());
  const auto next = TakeOver();
  EXPECT_EQ(gateway->process().Wait(), (Process::Exit{0, 0})) << gateway->process().output();
}

TEST_F(Restart, AHandoverPathThatIsNoSocketIsLeftAlone) {
  directory_.Write("handover", "mine");
  options_.sets = {Handover()};
  EXPECT_THROW(Start(), std::runtime_error);
  EXPECT_EQ(directory_.Read("handover"), "mine");
}

TEST_F(Restart, TheControlPlaneSeesOneDataPlaneThroughoutAHandover) {
  ControlPlane control;
  ASSERT_EQ(control.Apply(options_.policy).exit.code, 0);
  options_.policy.clear();
  options_.control_planes = {control.stream_port()};
  options_.sets = {Handover()};
  auto gateway = Start();
  for (int i = 0; i < 3; ++i) {
    auto next = TakeOver();
    ASSERT_EQ(gateway->process().Wait(), (Process::Exit{0, 0})) << gateway->process().output();
    gateway = std::move(next);
    const auto applied = control.Apply(ServicePolicyYaml({upstream_.address()}, "", Concat("priority: ", i + 1)),
                                       {"--wait", "--timeout", "20s"});
    ASSERT_EQ(applied.exit.code, 0) << applied.out << applied.err;
    EXPECT_TRUE(Fetch(gateway->port(), "GET", "/svc").ok());
  }
  const auto planes = control.Ctl({"dataplanes"});
  EXPECT_THAT(planes.out, HasSubstr("dp-1"));
  // Each took over the stream once, none took it back, and none said goodbye.
  const std::string log = control.process().output();
  size_t replaced = 0;
  for (size_t at = log.find("takes its place"); at != std::string::npos; at = log.find("takes its place", at + 1))
    ++replaced;
  EXPECT_EQ(replaced, 3u) << log;
  EXPECT_EQ(log.find("with a goodbye"), std::string::npos) << log;
}

}  // namespace
}  // namespace gateway::fixtures
