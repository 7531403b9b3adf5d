// Real sockets on loopback; the test keeps, serves or closes what the acceptor hands over.
#include "controlplane/rpc/acceptor.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "controlplane/rpc/listener_probe.h"
#include "gtest/gtest.h"
#include "tests/fixtures/wait_for.h"

namespace gateway::controlplane {
namespace {

using fixtures::WaitFor;

constexpr char kPreface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// A connection from an address in 127.0.0.0/8.
class Client {
 public:
  explicit Client(uint16_t port, const char* from = "127.0.0.1") : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    inet_pton(AF_INET, from, &address.sin_addr);
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    address.sin_port = htons(port);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  Client(Client&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  ~Client() {
    if (fd_ >= 0) close(fd_);
  }
  void Send(std::string_view bytes) {
    EXPECT_EQ(send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
  bool closed() const {
    char byte;
    const ssize_t got = recv(fd_, &byte, 1, MSG_DONTWAIT);
    return got == 0 || (got < 0 && errno != EAGAIN);
  }

 private:
  int fd_;
};

class AcceptorTest : public testing::Test {
 protected:
  ~AcceptorTest() override {
    acceptor_.reset();
    CloseHandedOver();
  }
  void Listen(AcceptorOptions options) {
    options.key = "control_plane.admin_listen";
    options.address = "127.0.0.1:0";
    auto acceptor = Acceptor::Listen(std::move(options));
    ASSERT_TRUE(acceptor.ok()) << acceptor.status();
    acceptor_ = *std::move(acceptor);
  }
  void Start() {
    acceptor_->Start([this](int fd, bool own) {
      std::lock_guard lock(mu_);
      handed_over_.push_back(fd);
      own_ += own ? 1 : 0;
    });
  }
  void Start(AcceptorOptions options) {
    Listen(std::move(options));
    Start();
  }
  size_t handed_over() {
    std::lock_guard lock(mu_);
    return handed_over_.size();
  }
  void CloseHandedOver() {
    std::lock_guard lock(mu_);
    for (const int fd : handed_over_) close(fd);
    handed_over_.clear();
  }
  Client Connect(const char* from = "127.0.0.1") { return Client(acceptor_->port(), from); }
  // A client whose connection has been handed over.
  Client Speaking(const char* from = "127.0.0.1") {
    const size_t before = handed_over();
    Client client = Connect(from);
    client.Send(kPreface);
    EXPECT_TRUE(WaitFor([&] { return handed_over() > before; }));
    return client;
  }

  std::unique_ptr<Acceptor> acceptor_;
  std::mutex mu_;
  std::vector<int> handed_over_;
  int own_ = 0;
};

TEST_F(AcceptorTest, HandsOverOnceThePrefaceIsWhole) {
  Start({});
  Client client = Connect();
  client.Send(std::string_view(kPreface).substr(0, 10));
  Client second = Speaking();
  EXPECT_EQ(handed_over(), 1u);
  client.Send(std::string_view(kPreface).substr(10));
  EXPECT_TRUE(WaitFor([&] { return handed_over() == 2; }));
  EXPECT_EQ(acceptor_->counts().open, 2u);
}

TEST_F(AcceptorTest, LeavesTheFirstBytesToWhoeverTakesTheConnection) {
  Start({});
  Client client = Speaking();
  std::string bytes(64, '\0');
  std::lock_guard lock(mu_);
  bytes.resize(static_cast<size_t>(recv(handed_over_.at(0), bytes.data(), bytes.size(), 0)));
  EXPECT_EQ(bytes, kPreface);
}

TEST_F(AcceptorTest, HandsOverTlsOnceTheClientHelloIsWhole) {
  Start({.tls = true});
  Client client = Connect();
  const std::string record = std::string("\x16\x03\x01\x00\x20", 5) + std::string(32, 'x');
  client.Send(record.substr(0, 30));
  Client other = Connect();
  other.Send(kPreface);
  EXPECT_TRUE(WaitFor([&] { return other.closed(); })) << "cleartext on a TLS listener";
  EXPECT_EQ(handed_over(), 0u);
  client.Send(record.substr(30));
  EXPECT_TRUE(WaitFor([&] { return handed_over() == 1; }));
}

TEST_F(AcceptorTest, ClosesWhoSpeaksAnotherProtocol) {
  Start({});
  Client client = Connect();
  client.Send("GET / HTTP/1.1\r\n\r\n");
  EXPECT_TRUE(WaitFor([&] { return client.closed(); }));
  EXPECT_EQ(acceptor_->counts().invalid, 1u);
  EXPECT_EQ(acceptor_->counts().open, 0u);
}

TEST_F(AcceptorTest, ClosesWhoSendsNoWholePrefaceInTime) {
  Start({.first_bytes_timeout = std::chrono::milliseconds(50)});
  Client silent = Connect();
  Client slow = Connect();
  slow.Send("PRI ");
  EXPECT_TRUE(WaitFor([&] { return silent.closed() && slow.closed(); }));
  EXPECT_EQ(acceptor_->counts().silent, 2u);
  Client client = Speaking();
  EXPECT_FALSE(client.closed());
}

TEST_F(AcceptorTest, TheLongestSilentConnectionGivesWayAtTheBoundOfAnAddress) {
  Start({.connections_max = 100, .connections_per_address_max = 3});
  std::vector<Client> silent;
  for (int i = 0; i < 10; ++i) silent.push_back(Connect());
  EXPECT_TRUE(WaitFor([&] { return acceptor_->counts().silent == 7; }));
  for (int i = 0; i < 7; ++i) EXPECT_TRUE(WaitFor([&] { return silent[i].closed(); })) << i;
  EXPECT_FALSE(silent[7].closed());
  Client speaking = Speaking();
  EXPECT_TRUE(WaitFor([&] { return silent[7].closed(); }));
  EXPECT_FALSE(silent[8].closed());
  EXPECT_FALSE(speaking.closed());
  EXPECT_EQ(acceptor_->counts().refused, 0u);
}

TEST_F(AcceptorTest, OneAddressThatFillsItsShareIsRefusedAndTheOthersAreNot) {
  Start({.connections_max = 100, .connections_per_address_max = 3});
  std::vector<Client> speaking;
  for (int i = 0; i < 3; ++i) speaking.push_back(Speaking());
  Client refused = Connect();
  EXPECT_TRUE(WaitFor([&] { return refused.closed(); }));
  Client other = Speaking("127.0.0.2");
  EXPECT_FALSE(other.closed());
  for (const Client& client : speaking) EXPECT_FALSE(client.closed());
  EXPECT_EQ(acceptor_->counts().refused, 1u);
}

TEST_F(AcceptorTest, AConnectionThatItsServerClosedMakesRoom) {
  Start({.connections_max = 2, .connections_per_address_max = 2});
  std::vector<Client> speaking;
  for (int i = 0; i < 2; ++i) speaking.push_back(Speaking());
  Client refused = Connect("127.0.0.2");
  EXPECT_TRUE(WaitFor([&] { return refused.closed(); })) << "the overall bound";
  CloseHandedOver();
  EXPECT_TRUE(WaitFor([&] { return acceptor_->counts().open == 0; }));
  Client client = Speaking();
  EXPECT_FALSE(client.closed());
}

TEST_F(AcceptorTest, AcceptsAgainAfterDescriptorsRanOut) {
  Listen({});
  std::vector<Client> waiting;  // in the kernel's backlog
  for (int i = 0; i < 20; ++i) waiting.push_back(Connect());
  Client late = Connect();
  const int lowest_free = dup(0);
  ASSERT_GE(lowest_free, 0);
  close(lowest_free);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{static_cast<rlim_t>(lowest_free), before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  Start();
  const bool exhausted = WaitFor([&] { return acceptor_->counts().exhausted > 0; });
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(exhausted);
  Client client = Speaking();
  EXPECT_FALSE(client.closed());
}

TEST_F(AcceptorTest, AConnectionToItselfComesThroughTheSameSocketAndCountsTowardsNoBound) {
  Start({.connections_max = 1, .connections_per_address_max = 1});
  Client speaking = Speaking();
  for (int i = 1; i <= 3; ++i) {
    const absl::Status status = acceptor_->ConnectToSelf(std::chrono::seconds(10), [&](int fd) {
      const bool taken = WaitFor([&] {
        std::lock_guard lock(mu_);
        return own_ == i;
      });
      close(fd);
      return taken ? absl::OkStatus() : absl::InternalError("not taken");
    });
    EXPECT_TRUE(status.ok()) << status;
  }
  EXPECT_FALSE(speaking.closed());
  EXPECT_EQ(acceptor_->counts().open, 1u);
}

TEST_F(AcceptorTest, AProbeOfAnUnservedListenerFails) {
  Start({});  // the receiver never responds
  const absl::Status status = ProbeListener(acceptor_.get(), "", std::chrono::milliseconds(200));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  Listen({});  // never accepts
  EXPECT_FALSE(ProbeListener(acceptor_.get(), "", std::chrono::milliseconds(200)).ok());
}

TEST(Acceptor, APortInUseIsAnErrorWithAddressAndKey) {
  auto first = Acceptor::Listen({.key = "control_plane.admin_listen", .address = "127.0.0.1:0"});
  ASSERT_TRUE(first.ok()) << first.status();
  const std::string address = absl::StrCat("127.0.0.1:", (*first)->port());
  const auto second = Acceptor::Listen({.key = "control_plane.admin_listen", .address = address});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().message(),
            absl::StrCat("cannot listen on ", address, " (control_plane.admin_listen): Address already in use"));
}

}  // namespace
}  // namespace gateway::controlplane
