#include "common/base/metrics_http.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <vector>

namespace gateway {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using namespace std::chrono_literals;

// A plain blocking socket: the test controls every byte of the client.
class Client {
 public:
  // `from`: the client's own address, in 127.0.0.0/8.
  explicit Client(uint16_t port, uint32_t from = INADDR_LOOPBACK)
      : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(from);
    (void)bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address));
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  ~Client() { close(fd_); }
  Client(const Client&) = delete;

  bool connected() const { return connected_; }
  bool Send(std::string_view text) {
    while (!text.empty()) {
      ssize_t sent = send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      text.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }
  // Reads until `until` has arrived (empty: until EOF), or the deadline.
  std::string Read(std::string_view until = "", std::chrono::milliseconds within = 15s) {
    auto deadline = std::chrono::steady_clock::now() + within;
    std::string text;
    while (until.empty() || text.find(until) == std::string::npos) {
      auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
      pollfd ready{fd_, POLLIN, 0};
      if (left.count() <= 0 || poll(&ready, 1, static_cast<int>(left.count())) <= 0) return text + "<no end>";
      char chunk[4096];
      ssize_t length = recv(fd_, chunk, sizeof(chunk), 0);
      if (length < 0) return text + "<reset>";
      if (length == 0) return text;
      text.append(chunk, static_cast<size_t>(length));
    }
    return text;
  }

 private:
  int fd_;
  bool connected_ = false;
};

class MetricsHttpTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto server = MetricsHttp::Listen("127.0.0.1", 0);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = std::move(*server);
    server_->Handle("/health", [] { return HttpReply{200, "application/json", "{\"status\": \"healthy\"}"}; });
    server_->Handle("/metrics", [] { return HttpReply{200, "text/plain; version=0.0.4", "a_total 1\n"}; });
    server_->Handle("/ready", [] { return HttpReply{503, "application/json", "{}"}; });
    server_->Handle("/throws", []() -> HttpReply { throw std::runtime_error("no"); });
    server_->Handle("/large", [] { return HttpReply{200, "text/plain", std::string(4 << 20, 'x')}; });
    server_->Start();
  }

  std::string Ask(std::string_view request) {
    Client client(server_->port());
    client.Send(request);
    return client.Read();
  }

  std::unique_ptr<MetricsHttp> server_;
};

TEST_F(MetricsHttpTest, AnswersGetWithTheHandlersReply) {
  std::string answer = Ask("GET /metrics?name=x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(answer, HasSubstr("Content-Type: text/plain; version=0.0.4\r\n"));
  EXPECT_THAT(answer, HasSubstr("Content-Length: 10\r\n"));
  EXPECT_THAT(answer, EndsWith("\r\n\r\na_total 1\n"));
  EXPECT_THAT(Ask("GET /ready HTTP/1.0\r\n\r\n"), StartsWith("HTTP/1.0 503 "));
}

TEST_F(MetricsHttpTest, HeadHasTheLengthAndNoBody) {
  std::string answer = Ask("HEAD /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(answer, HasSubstr("Content-Length: 10\r\n"));
  EXPECT_THAT(answer, EndsWith("\r\n\r\n"));
  EXPECT_THAT(Ask("HEAD /none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), EndsWith("\r\n\r\n"));
}

TEST_F(MetricsHttpTest, ConnectionServesRequestAfterRequestAlsoPipelined) {
  Client client(server_->port());
  ASSERT_TRUE(client.Send("GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"));
  std::string both = client.Read("a_total 1\n");
  EXPECT_THAT(both, HasSubstr("healthy"));
  ASSERT_TRUE(client.Send("GET /none HTTP/1.1\r\nHost: a\r\n\r\n"));
  EXPECT_THAT(client.Read("404}"), HasSubstr("{\"error\": \"Not found\", \"code\": 404}"));
}

TEST_F(MetricsHttpTest, OtherMethodsAre405AndSayWhichThereAre) {
  std::string answer = Ask("DELETE /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 405 "));
  EXPECT_THAT(answer, HasSubstr("Allow: GET, HEAD\r\n"));
  EXPECT_THAT(answer, HasSubstr("\"code\": 405"));
}

TEST_F(MetricsHttpTest, BodiesAreRefusedAndTheConnectionCloses) {
  std::string answer = Ask("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 413 "));
  EXPECT_THAT(answer, Not(HasSubstr("<")));
}

TEST_F(MetricsHttpTest, GarbageIs400) { EXPECT_THAT(Ask("nonsense\r\n\r\n"), StartsWith("HTTP/1.1 400 ")); }

TEST_F(MetricsHttpTest, OversizeHeadIs431AndIsRead) {
  std::string answer = Ask("GET /metrics HTTP/1.1\r\nHost: a\r\nX: " + std::string(20'000, 'x') + "\r\n\r\n");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 431 "));
  EXPECT_THAT(answer, HasSubstr("\"code\": 431"));
  EXPECT_THAT(answer, Not(HasSubstr("<reset>")));
}

TEST_F(MetricsHttpTest, HandlerThatThrowsIs500AndTheServerLives) {
  EXPECT_THAT(Ask("GET /throws HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), StartsWith("HTTP/1.1 500 "));
  EXPECT_THAT(Ask("GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), StartsWith("HTTP/1.1 200 "));
}

TEST_F(MetricsHttpTest, SlowClientsDoNotKeepOthersWaitingAndAreCutOff) {
  Client slow_head(server_->port()), slow_reader(server_->port());
  ASSERT_TRUE(slow_head.Send("GET /health HT"));
  ASSERT_TRUE(slow_reader.Send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n"));  // but never reads
  EXPECT_THAT(Ask("GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), HasSubstr("healthy"));
  auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(slow_head.Read("", 20s), "");
  EXPECT_GE(std::chrono::steady_clock::now() - start, 8s);
}

constexpr char kProbe[] = "GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

// Whether the server closes this connection within `within`.
bool Ended(Client* client, std::chrono::milliseconds within = 5ms) {
  return client->Read("", within).find("<no end>") == std::string::npos;
}

TEST_F(MetricsHttpTest, SilentConnectionsOfOneAddressGiveWayToItsProbes) {
  std::vector<std::unique_ptr<Client>> silent;
  for (int i = 0; i < 64; ++i) silent.push_back(std::make_unique<Client>(server_->port()));
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 30; ++i) ASSERT_THAT(Ask(kProbe), HasSubstr("healthy")) << i;
  EXPECT_LT(std::chrono::steady_clock::now() - start, 1500ms);
}

TEST_F(MetricsHttpTest, SilentConnectionsOfManyAddressesGiveWayToAProbe) {
  std::vector<std::unique_ptr<Client>> silent;
  for (int i = 0; i < 200; ++i) {
    silent.push_back(std::make_unique<Client>(server_->port(), 0x7f000100u + static_cast<uint32_t>(i)));
    ASSERT_TRUE(silent.back()->connected());
  }
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THAT(Ask(kProbe), HasSubstr("healthy"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, 1500ms);
  // The oldest was closed: 64 at once, and one more for the probe.
  EXPECT_TRUE(Ended(silent.front().get(), 1s));
  EXPECT_FALSE(Ended(silent.back().get()));
}

TEST_F(MetricsHttpTest, HalfARequestAndAnUnreadResponseGiveWayToo) {
  std::vector<std::unique_ptr<Client>> slow;
  for (int i = 0; i < 64; ++i) {
    slow.push_back(std::make_unique<Client>(server_->port(), 0x7f000100u + static_cast<uint32_t>(i)));
    ASSERT_TRUE(slow.back()->Send(i % 2 == 0 ? "GET /health HT" : "GET /large HTTP/1.1\r\nHost: a\r\n\r\n"));
  }
  for (int i = 0; i < 30; ++i) ASSERT_THAT(Ask(kProbe), HasSubstr("healthy")) << i;
}

TEST_F(MetricsHttpTest, AConnectionThatWasServedOutlivesASilentOne) {
  Client kept(server_->port());
  ASSERT_TRUE(kept.Send("GET /ready HTTP/1.1\r\nHost: a\r\n\r\n"));
  ASSERT_THAT(kept.Read("{}"), StartsWith("HTTP/1.1 503 "));
  std::vector<std::unique_ptr<Client>> silent;
  for (int i = 0; i < 40; ++i) silent.push_back(std::make_unique<Client>(server_->port()));
  EXPECT_TRUE(Ended(silent.front().get(), 1s));
  ASSERT_TRUE(kept.Send("GET /ready HTTP/1.1\r\nHost: a\r\n\r\n"));
  EXPECT_THAT(kept.Read("{}"), StartsWith("HTTP/1.1 503 "));
}

TEST_F(MetricsHttpTest, SixteenOfAnAddressAndSixtyFourInAllStay) {
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 100; ++i) {
    clients.push_back(std::make_unique<Client>(server_->port(), 0x7f000100u + static_cast<uint32_t>(i / 20)));
    // The response shows that this connection is counted.
    ASSERT_TRUE(clients.back()->Send("GET /ready HTTP/1.1\r\nHost: a\r\n\r\n"));
    ASSERT_THAT(clients.back()->Read("{}"), StartsWith("HTTP/1.1 503 ")) << i;
  }
  int open = 0;
  for (const auto& each : clients) open += Ended(each.get()) ? 0 : 1;
  EXPECT_EQ(open, 64);
  for (size_t i = 80; i < 84; ++i) EXPECT_TRUE(Ended(clients[i].get())) << i;  // the last address's first four
  for (size_t i = 84; i < 100; ++i) EXPECT_FALSE(Ended(clients[i].get())) << i;
}

TEST_F(MetricsHttpTest, NewConnectionThatSendsNothingEndsSoon) {
  Client silent(server_->port());
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(silent.Read("", 8s), "");
  EXPECT_LT(std::chrono::steady_clock::now() - start, 6s);
}

TEST(MetricsHttpDescriptors, ProbesGetThroughWhereSilentConnectionsHoldTheLastDescriptors) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  auto server = std::move(MetricsHttp::Listen("127.0.0.1", 0)).value();
  server->Handle("/health", [] { return HttpReply{.body = "healthy"}; });
  server->Start();
  std::vector<int> held;
  const rlimit few{128, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  std::vector<std::unique_ptr<Client>> silent;
  for (int i = 0; i < 8; ++i) silent.push_back(std::make_unique<Client>(server->port()));
  {
    Client last(server->port());  // served, so all earlier ones have been accepted
    ASSERT_TRUE(last.Send(kProbe));
    ASSERT_THAT(last.Read(), HasSubstr("healthy"));
  }
  for (int fd = dup(0); fd >= 0; fd = dup(0)) held.push_back(fd);
  ASSERT_EQ(errno, EMFILE);
  close(held.back());  // for the probe's own socket; the server has none left
  held.pop_back();
  {
    Client probe(server->port());
    EXPECT_TRUE(probe.Send(kProbe));
    EXPECT_THAT(probe.Read(), HasSubstr("healthy"));
  }
  for (const int fd : held) close(fd);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
}

TEST_F(MetricsHttpTest, EndsWithConnectionsOpen) {
  Client idle(server_->port()), asking(server_->port());
  ASSERT_TRUE(asking.Send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n"));
  ASSERT_THAT(asking.Read("\r\n\r\n"), StartsWith("HTTP/1.1 200 "));
  server_.reset();
  std::string rest = idle.Read();
  EXPECT_THAT(rest, Not(HasSubstr("<no end>")));
}

TEST(MetricsHttp, TakenPortAndBadHostAreErrors) {
  auto first = MetricsHttp::Listen("127.0.0.1", 0);
  ASSERT_TRUE(first.ok());
  auto second = MetricsHttp::Listen("127.0.0.1", (*first)->port());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("127.0.0.1 port"));
  EXPECT_EQ(MetricsHttp::Listen("nowhere", 0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(MetricsHttp::Listen("localhost", 0).ok());
}

TEST(MetricsHttpHandover, TheSocketServesOnInWhoeverTookIt) {
  auto old = std::move(MetricsHttp::Listen("127.0.0.1", 0)).value();
  old->Handle("/who", [] { return HttpReply{.body = "old"}; });
  old->Start();
  Client kept(old->port());
  ASSERT_TRUE(kept.Send("GET /who HTTP/1.1\r\nHost: a\r\n\r\n"));
  EXPECT_THAT(kept.Read("old"), Not(HasSubstr("Connection: close")));

  auto next = std::move(MetricsHttp::Adopt(dup(old->fd()))).value();
  EXPECT_EQ(next->port(), old->port());
  EXPECT_EQ(next->address(), old->address());
  next->Handle("/who", [] { return HttpReply{.body = "next"}; });
  old->StopListening();
  Client waiting(next->port());  // in the backlog of a socket that is not accepting yet
  ASSERT_TRUE(waiting.connected());
  ASSERT_TRUE(waiting.Send("GET /who HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
  next->Start();
  EXPECT_THAT(waiting.Read(), EndsWith("next"));
  // A connection made before still gets a response.
  ASSERT_TRUE(kept.Send("GET /who HTTP/1.1\r\nHost: a\r\n\r\n"));
  const std::string last = kept.Read();
  EXPECT_THAT(last, HasSubstr("Connection: close"));
  EXPECT_THAT(last, EndsWith("old"));
  for (int i = 0; i < 20; ++i) {
    Client client(next->port());
    ASSERT_TRUE(client.Send("GET /who HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
    EXPECT_THAT(client.Read(), EndsWith("next"));
  }
  old.reset();
  Client client(next->port());
  ASSERT_TRUE(client.Send("GET /who HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
  EXPECT_THAT(client.Read(), EndsWith("next"));
}

}  // namespace
}  // namespace gateway
