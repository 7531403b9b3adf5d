// Overload: work that cannot be done is refused in time, other work continues, memory stays within bounds, and
// everything recovers. tools/soak --overload has the large figures.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <chrono>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

constexpr int kBudgetKib = 1024;  // the minimum: 64 blocks of 16 KiB

// One data plane with the smallest buffer budget, an affected service at /victim and a healthy one at /well.
class Overload : public ::testing::Test {
 protected:
  void StartWith(const std::string& victim_address, std::string_view victim_fields = "",
                 std::vector<std::string> sets = {}, int descriptors = 0) {
    DataPlane::Options options;
    options.descriptors = descriptors;
    options.policy = Concat("kind: Service\nname: victim\nstatic: [{ address: \"", victim_address, "\" }]\n",
                            victim_fields, "\n---\nkind: Service\nname: well\nstatic: [{ address: \"", well_.address(),
                            "\" }]\n---\nkind: Route\nname: victim\nmatch: { path: { prefix: /victim } }\n",
                            "service: victim\n---\nkind: Route\nname: well\nmatch: { path: { prefix: /well } }\n",
                            "service: well\n");
    options.workers = workers_;
    options.sets = std::move(sets);
    options.sets.push_back(Concat("server.buffer_budget=", kBudgetKib, "KiB"));
    gateway_ = std::make_unique<DataPlane>(std::move(options));
  }

  // On its own connection.
  int StatusOf(std::string_view target) {
    const auto response = Fetch(gateway_->port(), "GET", target);
    return response.ok() ? response->status : 0;
  }

  // The status line of GET /well for a client at `address` (in 127.0.0.0/8), on its own connection.
  std::string StatusLineFrom(const char* address) {
    ByteStream stream(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in at{};
    at.sin_family = AF_INET;
    EXPECT_EQ(inet_pton(AF_INET, address, &at.sin_addr), 1);
    EXPECT_EQ(bind(stream.fd(), reinterpret_cast<sockaddr*>(&at), sizeof at), 0);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    at.sin_port = htons(gateway_->port());
    EXPECT_EQ(connect(stream.fd(), reinterpret_cast<sockaddr*>(&at), sizeof at), 0);
    EXPECT_TRUE(stream.Send("GET /well HTTP/1.1\r\nHost: a\r\n\r\n").ok());
    const auto head = ReadMessageHead(stream);
    return head.ok() ? head->start_line : head.status().ToString();
  }

  std::vector<std::unique_ptr<RawClient>> Clients(int count, const std::string& request) {
    std::vector<std::unique_ptr<RawClient>> clients;
    for (int i = 0; i < count; ++i) {
      clients.push_back(std::make_unique<RawClient>(gateway_->port()));
      EXPECT_TRUE(clients.back()->Send(request).ok());
    }
    return clients;
  }

  [[nodiscard]] bool WaitForGauge(const std::string& gauge, double value) {
    return WaitFor([&] { return gateway_->Metric(gauge) == value; });
  }

  // Shadow memory of a sanitizer, several times the program's own.
  static constexpr int64_t SanitizerKib() {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    return 512 * 1024;
#else
    return 0;
#endif
  }

  int64_t RssKib() const {
    std::ifstream status(Concat("/proc/", gateway_->process().pid(), "/status"));
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("VmRSS:")) return std::stoll(line.substr(6));
    }
    return -1;
  }

  ScriptedUpstream well_{Ok("well")};
  int workers_ = 1;
  std::unique_ptr<DataPlane> gateway_;
};

TEST_F(Overload, SlowHeadsHoldWhatTheyHaveSentAndNoMore) {
  StartWith(well_.address());
  // Five times as many as there are blocks for complete headers.
  auto clients = Clients(320, "GET /well HTTP/1.1\r\nHost: a\r\nX-Slow");
  ASSERT_TRUE(WaitForGauge("gateway_connections", 320));
  ASSERT_TRUE(WaitFor([&] { return gateway_->Metric("gateway_buffer_bytes") >= 320 * 1024; }));
  EXPECT_LE(gateway_->Metric("gateway_buffer_bytes"), 320 * 1024 + 64 * 1024);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(StatusOf("/well"), 200);
  // They are served once their headers are complete.
  for (const auto& client : clients) {
    ASSERT_TRUE(client->Send(": 1\r\n\r\n").ok());
    const auto response = client->ReadResponse();
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->status, 200);
  }
  clients.clear();
  EXPECT_TRUE(WaitForGauge("gateway_connections", 0));
  EXPECT_TRUE(WaitForGauge("gateway_buffer_bytes", 0));
}

TEST_F(Overload, RequestsThatWaitForASilentServiceLeaveRoomForOthers) {
  ScriptedUpstream silent([](UpstreamConnection&) {}, {.accepting = false});
  StartWith(silent.address(), "timeouts: { response: 4s }");
  auto clients = Clients(320, "GET /victim HTTP/1.1\r\nHost: a\r\n\r\n");
  ASSERT_TRUE(WaitForGauge("gateway_requests_in_flight", 320));
  for (int i = 0; i < 20; ++i) EXPECT_EQ(StatusOf("/well"), 200);
  EXPECT_LE(gateway_->Metric("gateway_buffer_bytes"), kBudgetKib * 1024);
  for (const auto& client : clients) {
    const auto response = client->ReadResponse();
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->status, 504);
  }
  clients.clear();
  EXPECT_TRUE(WaitForGauge("gateway_connections", 0));
  EXPECT_TRUE(WaitForGauge("gateway_buffer_bytes", 0));
  EXPECT_EQ(StatusOf("/well"), 200);
}

TEST_F(Overload, ClientsThatDoNotReadTakeNoMoreThanTheBudget) {
  // Each response is far larger than what its socket and the gateway's hold.
  ScriptedUpstream generous([answer = MakeResponse(200, std::string(8 << 20, 'x'))](UpstreamConnection& connection) {
    while (connection.ReadRequest() && connection.Send(answer)) {
    }
  });
  StartWith(generous.address());
  const int64_t before_kib = RssKib();
  auto clients = Clients(48, "GET /victim HTTP/1.1\r\nHost: a\r\n\r\n");
  ASSERT_TRUE(generous.WaitForRequests(48));
  for (int i = 0; i < 20; ++i) {
    const int status = StatusOf("/well");
    EXPECT_TRUE(status == 200 || status == 503) << status;
    EXPECT_LE(gateway_->Metric("gateway_buffer_bytes"), kBudgetKib * 1024);
  }
  EXPECT_LE(RssKib(), before_kib + kBudgetKib + 8 * 1024 + SanitizerKib());
  clients.clear();
  EXPECT_TRUE(WaitForGauge("gateway_connections", 0));
  EXPECT_TRUE(WaitForGauge("gateway_buffer_bytes", 0));
  EXPECT_EQ(StatusOf("/well"), 200);
}

TEST_F(Overload, OutOfDescriptorsServesWhatItHasAndAcceptsAgain) {
  StartWith(well_.address(), "", {"server.max_connections_per_address=100"});
  RawClient kept(gateway_->port());
  ASSERT_TRUE(kept.Request("GET", "/well").ok());  // opens the connection to the service too
  rlimit before{};
  const pid_t pid = gateway_->process().pid();
  ASSERT_EQ(prlimit(pid, RLIMIT_NOFILE, nullptr, &before), 0);
  // Only the soft limit, which the program does not raise again. With so few, all accepted clients can be served at
  // once.
  const rlimit few{36, before.rlim_max};
  ASSERT_EQ(prlimit(pid, RLIMIT_NOFILE, &few, nullptr), 0);

  // Each is being served, so it does not give way at once.
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 60; ++i) {
    clients.push_back(std::make_unique<RawClient>(gateway_->port()));
    ASSERT_TRUE(clients.back()->Send("GET /victim HTTP/1.1\r\nHost: a\r\n\r\n").ok());
  }
  ASSERT_TRUE(gateway_->process().WaitForLine("cannot accept connections").has_value());
  for (int i = 0; i < 20; ++i) {
    const auto response = kept.Request("GET", "/well");
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->status, 200);
  }
  // No client leaves, but served clients without a request make room for waiting ones.
  for (const auto& client : clients) {
    const auto response = client->ReadResponse(Timeout(20'000));
    ASSERT_TRUE(response.ok()) << response.status();
    EXPECT_EQ(response->status, 200);
  }
  EXPECT_EQ(StatusOf("/well"), 200);
}

TEST_F(Overload, SilentConnectionsGiveWayToNewOnesWhereDescriptorsAreFew) {
  for (const int workers : {1, 2}) {
    for (const std::string_view sent : {"", "GET /well HT"}) {
      for (const bool same_address : {true, false}) {
        SCOPED_TRACE(Concat(workers, " workers, \"", sent, "\", ", same_address ? "one address" : "two addresses"));
        workers_ = workers;
        StartWith(well_.address(), "", {}, 64);
        RawClient kept(gateway_->port());
        ASSERT_TRUE(kept.Request("GET", "/well").ok());
        std::vector<std::unique_ptr<RawClient>> silent;
        for (int i = 0; i < 150; ++i) {
          silent.push_back(std::make_unique<RawClient>(gateway_->port()));
          (void)silent.back()->Send(sent);  // some are closed by now
        }
        const auto start = std::chrono::steady_clock::now();
        for (int i = 0; i < 10; ++i) {
          EXPECT_EQ(StatusLineFrom(same_address ? "127.0.0.1" : "127.0.0.2"), "HTTP/1.1 200 OK");
        }
        EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
        const auto again = kept.Request("GET", "/well");  // it was served before
        ASSERT_TRUE(again.ok()) << again.status();
        EXPECT_EQ(again->status, 200);
        EXPECT_GT(gateway_->Metric("gateway_connections_gave_way_total"), 0);
        // The oldest is closed. The newest is not, once all have been accepted.
        EXPECT_NE(silent.front()->WaitForEnd(), PeerEnd::kOpen);
        ASSERT_TRUE(WaitForGauge("gateway_connections_total", 1 + 150 + 10));
        RawClient newest(gateway_->port());
        ASSERT_TRUE(newest.Send(sent).ok());
        ASSERT_TRUE(WaitForGauge("gateway_connections_total", 1 + 150 + 10 + 1));
        for (int i = 0; i < 10; ++i) {
          EXPECT_EQ(StatusLineFrom(same_address ? "127.0.0.1" : "127.0.0.2"), "HTTP/1.1 200 OK");
        }
        constexpr std::string_view kRequest = "GET /well HTTP/1.1\r\nHost: a\r\n\r\n";
        ASSERT_TRUE(newest.Send(kRequest.substr(sent.size())).ok());
        const auto response = newest.ReadResponse();
        ASSERT_TRUE(response.ok()) << response.status();
        EXPECT_EQ(response->status, 200);
      }
    }
  }
}

TEST_F(Overload, OneAddressGetsHalfOfWhatTheDescriptorsAllow) {
  StartWith(well_.address(), "", {}, 100);
  std::vector<std::unique_ptr<RawClient>> clients;
  int served = 0;
  for (int i = 0; i < 100; ++i) {
    clients.push_back(std::make_unique<RawClient>(gateway_->port()));
    const auto response = clients.back()->Request("GET", "/well");
    ASSERT_TRUE(response.ok()) << response.status();
    if (response->status != 200) break;
    ++served;
  }
  EXPECT_GE(served, 20);
  EXPECT_LE(served, 44);
  EXPECT_TRUE(gateway_->process().WaitForLine("max_connections_per_address").has_value());
  EXPECT_EQ(StatusLineFrom("127.0.0.2"), "HTTP/1.1 200 OK");
}

TEST_F(Overload, ClientsDoNotTakeTheDescriptorsThatServicesNeed) {
  // Kept upstream connections count against the descriptors reserved for services, even if they use all of them.
  for (const int asked : {6, 8, 9, 10, 11, 12, 14}) {
    SCOPED_TRACE(asked);
    Event all_connected;
    Event release;
    ScriptedUpstream slow([&](UpstreamConnection& connection) {
      while (const auto request = connection.ReadRequest()) {
        if (!connection.WaitFor(request->target == "/victim/first" ? all_connected : release)) return;
        connection.Send(MakeResponse(200, "late"));
      }
    });
    StartWith(slow.address(), "", {"server.max_connections_per_address=1000"}, 64);
    // Concurrent requests need as many upstream connections, which are kept.
    std::vector<std::unique_ptr<RawClient>> asking = Clients(asked, "GET /victim/first HTTP/1.1\r\nHost: a\r\n\r\n");
    ASSERT_TRUE(slow.WaitForRequests(asked));
    all_connected.Set();
    for (auto& client : asking) ASSERT_EQ(client->ReadResponse()->status, 200);
    std::vector<std::unique_ptr<RawClient>> silent;
    for (int i = 0; i < 80; ++i) silent.push_back(std::make_unique<RawClient>(gateway_->port()));
    // The metrics port responds too.
    ASSERT_TRUE(WaitFor([&] { return gateway_->Metric("gateway_connections_gave_way_total") > 0; }));
    for (auto& client : asking) ASSERT_TRUE(client->Send("GET /victim HTTP/1.1\r\nHost: a\r\n\r\n").ok());
    ASSERT_TRUE(slow.WaitForRequests(2 * asked));
    release.Set();
    for (auto& client : asking) {
      const auto response = client->ReadResponse();
      ASSERT_TRUE(response.ok()) << response.status();
      EXPECT_EQ(response->status, 200) << response->body;
    }
    silent.clear();
    EXPECT_EQ(StatusOf("/well"), 200);
  }
}

TEST_F(Overload, LargeBodiesStreamThroughLittleMemory) {
  constexpr size_t kPieceBytes = 1 << 20;
  constexpr int kPieces = 256;
  ScriptedUpstream echo([](UpstreamConnection& connection) {
    const auto request = connection.ReadHead();
    if (!request ||
        !connection.Send(Concat("HTTP/1.1 200 OK\r\nContent-Length: ", kPieces * kPieceBytes, "\r\n\r\n"))) {
      return;
    }
    for (int i = 0; i < kPieces; ++i) {
      const auto piece = connection.stream().ReadExactly(kPieceBytes, Timeout(30'000));
      if (!piece.ok() || !connection.Send(*piece)) return;
    }
  });
  StartWith(echo.address());
  const int64_t before_kib = RssKib();
  RawClient client(gateway_->port());
  ASSERT_TRUE(
      client.Send(Concat("POST /victim HTTP/1.1\r\nHost: a\r\nContent-Length: ", kPieces * kPieceBytes, "\r\n\r\n"))
          .ok());
  const std::string piece(kPieceBytes, 'x');
  const auto head = ReadMessageHead(client);
  ASSERT_TRUE(head.ok()) << head.status();
  for (int i = 0; i < kPieces; ++i) {
    ASSERT_TRUE(client.Send(piece, Timeout(30'000)).ok());
    const auto back = client.ReadExactly(kPieceBytes, Timeout(30'000));
    ASSERT_TRUE(back.ok()) << i << ": " << back.status();
    ASSERT_EQ(*back == piece, true) << i;
  }
  EXPECT_LE(RssKib(), before_kib + kBudgetKib + 4 * 1024 + SanitizerKib());
  EXPECT_TRUE(WaitForGauge("gateway_buffer_bytes", 0));
}

}  // namespace
}  // namespace gateway::fixtures
