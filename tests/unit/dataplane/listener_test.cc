#include "dataplane/server/listener.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <set>
#include <string>
#include <vector>

#include "common/base/text.h"
#include "dataplane/net/socket.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/ports.h"

namespace gateway::dataplane {
namespace {

using fixtures::HasIpv6;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// A listening socket as another process would create it; -1 on failure.
int Listening(int family, uint16_t port, bool reuse_port = false, bool any = false, bool both_families = false) {
  const int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int one = 1;
  const int only = both_families ? 0 : 1;
  if (reuse_port) setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
  sockaddr_storage address{};
  auto& v4 = reinterpret_cast<sockaddr_in&>(address);
  auto& v6 = reinterpret_cast<sockaddr_in6&>(address);
  socklen_t length;
  if (family == AF_INET6) {
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only);
    v6 = {.sin6_family = AF_INET6,
          .sin6_port = htons(port),
          .sin6_flowinfo = 0,
          .sin6_addr = in6addr_loopback,
          .sin6_scope_id = 0};
    if (any) v6.sin6_addr = in6addr_any;
    length = sizeof v6;
  } else {
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
    v4.sin_addr.s_addr = htonl(any ? INADDR_ANY : INADDR_LOOPBACK);
    length = sizeof v4;
  }
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), length) == 0 && listen(fd, 8) == 0) return fd;
  close(fd);
  return -1;
}

PassedSocket Passed(int fd, bool systemd) {
  auto passed = InspectListener(fd);
  EXPECT_TRUE(passed.ok()) << passed.status();
  passed->systemd = systemd;
  return *passed;
}

// Identifies the socket, whatever the descriptor.
uint64_t Cookie(int fd) {
  uint64_t cookie = 0;
  socklen_t length = sizeof cookie;
  EXPECT_EQ(getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length), 0);
  return cookie;
}

bool Listens(int fd) {
  int value = 0;
  socklen_t length = sizeof value;
  return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &length) == 0 && value == 1;
}

v1::ServerSection Server(const std::vector<std::string>& listeners) {
  v1::ServerSection server;
  // The first two have different settings, to tell them apart.
  for (const std::string& each : listeners) server.add_listeners()->set_address(each);
  if (!listeners.empty()) server.mutable_listeners(0)->set_proxy_protocol(v1::Listener::ENABLED);
  if (listeners.size() > 1) server.mutable_listeners(1)->set_proxy_protocol(v1::Listener::OPTIONAL);
  return server;
}

class Listeners : public ::testing::Test {
 protected:
  ~Listeners() override {
    for (const auto& sockets : set_.of_worker) {
      for (const ListeningSocket& each : sockets) close(each.fd);
    }
    for (const ListeningSocket& each : set_.leaving) close(each.fd);
  }
  absl::Status Open(const v1::ServerSection& server, int workers, std::vector<PassedSocket> passed = {}) {
    auto opened = OpenListeners(server, workers, std::move(passed));
    if (opened.ok()) set_ = *std::move(opened);
    return opened.status();
  }
  // The sockets of all workers, each once.
  std::set<uint64_t> Cookies() const {
    std::set<uint64_t> cookies;
    for (const auto& sockets : set_.of_worker) {
      for (const ListeningSocket& each : sockets) cookies.insert(Cookie(each.fd));
    }
    return cookies;
  }
  static std::string At(uint16_t port) { return Concat("127.0.0.1:", port); }

  ListenerSet set_;
  const uint16_t port_ = fixtures::FreePort();
};

TEST_F(Listeners, EachWorkerHasASocketOfEachAddress) {
  ASSERT_TRUE(Open(Server({At(port_), At(0)}), 3).ok());
  ASSERT_THAT(set_.of_worker, SizeIs(3));
  for (const auto& sockets : set_.of_worker) {
    ASSERT_THAT(sockets, SizeIs(2));
    EXPECT_TRUE(Listens(sockets[0].fd) && Listens(sockets[1].fd));
    EXPECT_FALSE(sockets[0].shared);
    EXPECT_EQ(sockets[0].options.proxy_header, ProxyHeaderMode::kRequired);
    EXPECT_EQ(sockets[1].options.proxy_header, ProxyHeaderMode::kOptional);
  }
  EXPECT_THAT(Cookies(), SizeIs(6));
  EXPECT_THAT(set_.sockets, SizeIs(6));
  EXPECT_EQ(set_.port, port_);
  EXPECT_EQ(set_.addresses[0], At(port_));
}

TEST_F(Listeners, OneSocketOfSystemdIsSharedByAllWorkers) {
  const int fd = Listening(AF_INET, port_);
  ASSERT_TRUE(Open(v1::ServerSection(), 3, {Passed(fd, true)}).ok());
  for (const auto& sockets : set_.of_worker) {
    ASSERT_THAT(sockets, SizeIs(1));
    EXPECT_TRUE(sockets[0].shared);
    EXPECT_TRUE(sockets[0].listening);
    EXPECT_EQ(sockets[0].options.proxy_header, ProxyHeaderMode::kNone);
    EXPECT_NE(fcntl(sockets[0].fd, F_GETFL) & O_NONBLOCK, 0);
    EXPECT_NE(fcntl(sockets[0].fd, F_GETFD) & FD_CLOEXEC, 0);
  }
  EXPECT_THAT(Cookies(), SizeIs(1));
  EXPECT_THAT(set_.sockets, SizeIs(1));
  EXPECT_THAT(set_.addresses, ElementsAre(At(port_)));
}

TEST_F(Listeners, SocketsOfOneAddressAreSpreadOverTheWorkers) {
  std::vector<PassedSocket> passed;
  for (int i = 0; i < 5; ++i) passed.push_back(Passed(Listening(AF_INET, port_, true), true));
  ASSERT_TRUE(Open(Server({At(port_)}), 2, passed).ok());
  EXPECT_THAT(set_.of_worker[0], SizeIs(3));
  EXPECT_THAT(set_.of_worker[1], SizeIs(2));
  EXPECT_FALSE(set_.of_worker[0][0].shared);
  EXPECT_THAT(Cookies(), SizeIs(5));
}

TEST_F(Listeners, WhatIsConfiguredButNotPassedIsBoundAndWhatSystemdPassesIsUsedAnyhow) {
  const uint16_t other = fixtures::FreePort();
  const int mine = Listening(AF_INET, port_);
  const int more = Listening(AF_INET, 0);
  const uint64_t cookie = Cookie(mine);
  ASSERT_TRUE(Open(Server({At(other), At(port_)}), 1, {Passed(more, true), Passed(mine, true)}).ok());
  ASSERT_THAT(set_.of_worker[0], SizeIs(3));
  EXPECT_EQ(set_.of_worker[0][0].options.proxy_header, ProxyHeaderMode::kRequired);
  EXPECT_TRUE(Listens(set_.of_worker[0][0].fd));
  EXPECT_EQ(set_.of_worker[0][1].options.proxy_header, ProxyHeaderMode::kOptional);
  EXPECT_EQ(Cookie(set_.of_worker[0][1].fd), cookie);
  EXPECT_EQ(set_.of_worker[0][2].options.proxy_header, ProxyHeaderMode::kNone);
  EXPECT_THAT(set_.leaving, IsEmpty());
}

TEST_F(Listeners, ASocketForBothFamiliesStandsForBothAddresses) {
  if (HasIpv6()) {
    const int fd = Listening(AF_INET6, port_, false, true, true);
    const std::string v4 = Concat("0.0.0.0:", port_);
    const std::string v6 = Concat("[::]:", port_);
    ASSERT_TRUE(Open(Server({v4, v6}), 1, {Passed(fd, true)}).ok());
    ASSERT_THAT(set_.of_worker[0], SizeIs(1));
    EXPECT_EQ(set_.of_worker[0][0].options.proxy_header, ProxyHeaderMode::kOptional);
  }
}

TEST_F(Listeners, AHandoverForMoreWorkersIsJoinedByMoreSocketsThatDoNotListenYet) {
  const int fd = Listening(AF_INET, port_, true);
  const uint16_t added = fixtures::FreePort();
  ASSERT_TRUE(Open(Server({At(port_), At(added)}), 3, {Passed(fd, false)}).ok());
  for (size_t i = 0; i < 3; ++i) {
    ASSERT_THAT(set_.of_worker[i], SizeIs(2));
    EXPECT_EQ(set_.of_worker[i][0].listening, i == 0);
    EXPECT_EQ(Listens(set_.of_worker[i][0].fd), i == 0);
    EXPECT_FALSE(set_.of_worker[i][1].listening);
    EXPECT_FALSE(Listens(set_.of_worker[i][1].fd));
    EXPECT_FALSE(set_.of_worker[i][0].shared);
  }
  EXPECT_THAT(Cookies(), SizeIs(6));
}

TEST_F(Listeners, AHandoverThatCannotBeJoinedIsShared) {
  const int fd = Listening(AF_INET, port_, false);  // without SO_REUSEPORT
  ASSERT_TRUE(Open(Server({At(port_)}), 2, {Passed(fd, false)}).ok());
  EXPECT_TRUE(set_.of_worker[0][0].shared && set_.of_worker[1][0].shared);
  EXPECT_THAT(Cookies(), SizeIs(1));
}

TEST_F(Listeners, WhatIsHandedOverAndNotConfiguredLeaves) {
  const int gone = Listening(AF_INET, 0, true);
  ASSERT_TRUE(Open(Server({At(port_)}), 1, {Passed(gone, false)}).ok());
  ASSERT_THAT(set_.leaving, SizeIs(1));
  EXPECT_EQ(set_.leaving[0].fd, gone);
  ASSERT_THAT(set_.of_worker[0], SizeIs(1));
  EXPECT_NE(set_.of_worker[0][0].fd, gone);
}

TEST_F(Listeners, AHandoverAtAnyPortKeepsItsPort) {
  const int fd = Listening(AF_INET, port_, true, true);
  v1::ServerSection server;
  server.set_port(0);
  ASSERT_TRUE(Open(server, 1, {Passed(fd, false)}).ok());
  EXPECT_EQ(set_.port, port_);
  EXPECT_EQ(set_.of_worker[0][0].fd, fd);
}

TEST_F(Listeners, TheSameSocketFromBothSidesIsUsedOnce) {
  const int fd = Listening(AF_INET, port_);
  const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  ASSERT_TRUE(Open(Server({At(port_)}), 1, {Passed(fd, true), Passed(copy, false)}).ok());
  ASSERT_THAT(set_.of_worker[0], SizeIs(1));
  EXPECT_FALSE(set_.of_worker[0][0].shared);
  EXPECT_THAT(set_.leaving, IsEmpty());
}

TEST_F(Listeners, ATakenAddressIsSaid) {
  const int fd = Listening(AF_INET, port_);
  EXPECT_THAT(std::string(Open(Server({At(port_)}), 1).message()),
              HasSubstr(Concat("cannot listen on ", At(port_), ": Address already in use")));
  close(fd);
}

TEST_F(Listeners, OnlyListeningTcpSocketsAreTaken) {
  int pipes[2];
  ASSERT_EQ(pipe2(pipes, O_CLOEXEC), 0);
  const int datagram = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  const int local = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int idle = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const auto said = [](int fd) { return std::string(InspectListener(fd).status().message()); };
  EXPECT_EQ(said(pipes[0]), "is not a socket");
  EXPECT_EQ(said(datagram), "is not a stream socket");
  EXPECT_EQ(said(local), "is not an IPv4 or IPv6 socket");
  EXPECT_THAT(said(idle), HasSubstr("that does not listen"));
  for (const int fd : {pipes[0], pipes[1], datagram, local, idle}) close(fd);
  EXPECT_EQ(said(idle), "is not open");
}

class SystemdSockets : public ::testing::Test {
 protected:
  static absl::StatusOr<std::vector<PassedSocket>> Take(const std::string& pid, const std::string& count) {
    setenv("LISTEN_PID", pid.c_str(), 1);
    setenv("LISTEN_FDS", count.c_str(), 1);
    setenv("LISTEN_FDNAMES", "web", 1);
    return TakeSystemdSockets();
  }
};

TEST_F(SystemdSockets, AreLeftAloneWhereTheyAreForAnotherProcess) {
  auto taken = Take(std::to_string(getpid() + 1), "1");
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_THAT(*taken, IsEmpty());
  EXPECT_EQ(getenv("LISTEN_PID"), nullptr);
  EXPECT_EQ(getenv("LISTEN_FDS"), nullptr);
  EXPECT_EQ(getenv("LISTEN_FDNAMES"), nullptr);
  EXPECT_TRUE(TakeSystemdSockets().ok());
  EXPECT_THAT(*TakeSystemdSockets(), IsEmpty());
}

TEST_F(SystemdSockets, ThatCannotBeAreSaid) {
  EXPECT_THAT(std::string(Take("me", "1").status().message()), HasSubstr("LISTEN_PID='me'"));
  EXPECT_THAT(std::string(Take(std::to_string(getpid()), "-1").status().message()), HasSubstr("LISTEN_FDS='-1'"));
  EXPECT_FALSE(Take(std::to_string(getpid()), "100000").ok());
}

}  // namespace
}  // namespace gateway::dataplane
