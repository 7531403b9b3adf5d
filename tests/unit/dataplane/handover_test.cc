#include "dataplane/server/handover.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "common/base/text.h"
#include "dataplane/net/socket.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/raw_client.h"
#include "tests/fixtures/temp_dir.h"
#include "tests/fixtures/wait_for.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;
using fixtures::Event;
using fixtures::RawClient;
using fixtures::TempDir;
using fixtures::WaitFor;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using Kind = HandoverMessage::Kind;

int ListenOnLoopback() {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(listen(fd, 8), 0);
  return fd;
}

TEST(HandoverMessage, IsReadAsItWasWritten) {
  HandoverMessage message;
  message.kind = Kind::kSockets;
  message.revision = 17;
  message.instance = "ab12";
  message.last = false;
  message.sockets = {{SocketRole::kMain, "0.0.0.0:80"}, {SocketRole::kSystemd, "[::]:80"}, {SocketRole::kMetrics, "m"}};
  const std::string text = FormatHandoverMessage(message);
  EXPECT_EQ(text,
            "gateway-handover 1 sockets\nrevision: 17\ninstance: ab12\nlast: no\nsocket: main 0.0.0.0:80\nsocket: "
            "systemd [::]:80\n"
            "socket: metrics m\n");
  const auto read = ParseHandoverMessage(text);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, message);
  for (const Kind kind : {Kind::kTake, Kind::kServing, Kind::kDraining, Kind::kRefused}) {
    HandoverMessage other;
    other.kind = kind;
    other.name = "dp-1";
    other.reason = "it took too long: 30 s";
    EXPECT_EQ(*ParseHandoverMessage(FormatHandoverMessage(other)), other);
  }
}

TEST(HandoverMessage, KeysOfLaterReleasesAreIgnored) {
  const auto read = ParseHandoverMessage("gateway-handover 1 serving\nname: dp\ncolour: blue\n");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->name, "dp");
}

TEST(HandoverMessage, WhatIsNoMessageIsRefused) {
  for (const std::string& text : std::vector<std::string>{
           "",
           "\n",
           "gateway-handover",
           "gateway-handover 1 take",
           "gateway-handover x take\n",
           "gateway-handover 1\n",
           "gateway-handover 1 \n",
           "gateway-handover 1 steal\n",
           "hello 1 take\n",
           "gateway-handover 1 take\nname\n",
           "gateway-handover 1 take\nname:x\n",
           "gateway-handover 1 take\nname: x",
           "gateway-handover 1 sockets\nsocket: \n",
           "gateway-handover 1 sockets\nsocket: main \n",
           "gateway-handover 1 sockets\nsocket: other 1.2.3.4:5\n",
           "gateway-handover 1 sockets\nrevision: -1\n",
           "gateway-handover 1 take\nname: \x1b[31m\n",
           "gateway-handover 1 take\r\n",
           "gateway-handover 1 take\nname: " + std::string(HandoverMessage::kValueBytesMax + 1, 'a') + "\n",
           std::string(HandoverMessage::kBytesMax + 1, 'a')}) {
    EXPECT_EQ(ParseHandoverMessage(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_EQ(ParseHandoverMessage("gateway-handover 2 take\n").status().code(), absl::StatusCode::kFailedPrecondition);
  std::string many = "gateway-handover 1 sockets\n";
  for (size_t i = 0; i < HandoverMessage::kSocketsMax; ++i) many += "socket: main a\n";
  EXPECT_TRUE(ParseHandoverMessage(many).ok());
  EXPECT_FALSE(ParseHandoverMessage(many + "socket: main a\n").ok());
}

TEST(HandoverMessage, NoBytesAtAllBreakTheParser) {
  const auto seed = std::random_device{}();
  SCOPED_TRACE(Concat("seed ", seed));
  std::mt19937 random(seed);
  const std::string good = "gateway-handover 1 sockets\nrevision: 17\nlast: no\nsocket: main 0.0.0.0:80\n";
  for (int i = 0; i < 20'000; ++i) {
    std::string text = good.substr(0, random() % (good.size() + 1));
    for (unsigned n = random() % 4; n > 0 && !text.empty(); --n) {
      text[random() % text.size()] =
          static_cast<char>(random() % 3 == 0 ? random() % 256 : good[random() % good.size()]);
    }
    const auto read = ParseHandoverMessage(text);
    EXPECT_TRUE(!read.ok() || ParseHandoverMessage(FormatHandoverMessage(*read)).ok()) << text;
  }
}

// A process with a main and a metrics port, ready to hand both over.
class Handover : public ::testing::Test {
 protected:
  ~Handover() override {
    server_.reset();
    for (const int fd : fds_) close(fd);
  }
  void Serve(size_t sockets = 1, std::chrono::milliseconds patience = 30s) {
    HandoverServer::Options options;
    options.path = path_;
    options.patience = patience;
    for (size_t i = 0; i <= sockets; ++i) {
      fds_.push_back(ListenOnLoopback());
      const auto socket = InspectListener(fds_.back());
      ASSERT_TRUE(socket.ok());
      options.sockets.push_back(
          {i < sockets ? SocketRole::kMain : SocketRole::kMetrics, fds_.back(), AddressText(socket->address)});
    }
    options.revision = [] { return 7; };
    options.under_way = [this](bool on) {
      absl::MutexLock lock(&mutex_);
      under_way_.push_back(on);
    };
    options.taken = [this](const std::string& name) {
      name_ = name;
      taken_.Set();
    };
    auto started = HandoverServer::Start(std::move(options));
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
  }
  std::vector<bool> under_way() {
    absl::MutexLock lock(&mutex_);
    return under_way_;
  }
  // Waits until the hand-over in progress has failed.
  [[nodiscard]] bool AwaitBack() {
    return WaitFor([&] { return !under_way().empty() && !under_way().back(); });
  }
  std::unique_ptr<Predecessor> Find() {
    auto found = Predecessor::Find(path_);
    EXPECT_TRUE(found.ok()) << found.status();
    return found.ok() ? *std::move(found) : nullptr;
  }
  static void Close(const std::vector<PassedSocket>& sockets) {
    for (const PassedSocket& each : sockets) close(each.fd);
  }

  const TempDir directory_;
  const std::string path_ = directory_.File("handover");
  std::vector<int> fds_;
  std::unique_ptr<HandoverServer> server_;
  absl::Mutex mutex_;
  std::vector<bool> under_way_ ABSL_GUARDED_BY(mutex_);
  Event taken_;
  std::string name_;
};

TEST_F(Handover, GivesTheSocketsThemselves) {
  Serve();
  const auto predecessor = Find();
  ASSERT_TRUE(predecessor);
  EXPECT_EQ(predecessor->pid(), getpid());
  EXPECT_EQ(predecessor->revision(), 7u);
  const auto main = predecessor->TakeMain();
  const auto metrics = predecessor->TakeMetrics();
  ASSERT_THAT(main, SizeIs(1));
  ASSERT_THAT(metrics, SizeIs(1));
  EXPECT_TRUE(predecessor->there());
  EXPECT_EQ(under_way(), std::vector<bool>{true});
  EXPECT_FALSE(taken_.is_set());
  // A connection in the old socket's backlog is accepted from the new descriptor.
  RawClient client(PortOf(main[0].address));
  close(std::exchange(fds_[0], -1));
  int accepted = -1;
  ASSERT_TRUE(WaitFor([&] { return (accepted = accept(main[0].fd, nullptr, nullptr)) >= 0; }));
  close(accepted);
  EXPECT_TRUE(predecessor->Succeed("dp-2").ok());
  ASSERT_TRUE(taken_.Wait());
  EXPECT_EQ(name_, "dp-2");
  EXPECT_EQ(under_way(), std::vector<bool>{true});
  Close(main);
  Close(metrics);
}

TEST_F(Handover, ManySocketsComeInSeveralMessages) {
  Serve(300);
  const auto predecessor = Find();
  ASSERT_TRUE(predecessor);
  const auto main = predecessor->TakeMain();
  EXPECT_THAT(main, SizeIs(300));
  EXPECT_EQ(PortOf(main[299].address), PortOf(InspectListener(fds_[299])->address));
  EXPECT_THAT(predecessor->TakeMetrics(), SizeIs(1));
  Close(main);
}

TEST_F(Handover, ASuccessorThatEndsChangesNothing) {
  Serve();
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(Find());
    ASSERT_TRUE(AwaitBack());
  }
  EXPECT_EQ(under_way(), (std::vector<bool>{true, false, true, false, true, false}));
  EXPECT_FALSE(taken_.is_set());
  EXPECT_TRUE(Find()->Succeed("dp-1").ok());
}

TEST_F(Handover, ASuccessorThatTakesTooLongGetsAnError) {
  Serve(1, 50ms);
  const auto predecessor = Find();
  ASSERT_TRUE(AwaitBack());
  EXPECT_FALSE(predecessor->there());
  const absl::Status status = predecessor->Succeed("dp-1");
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("it took too long"));
  EXPECT_FALSE(taken_.is_set());
}

TEST_F(Handover, OnlyOneAtATime) {
  Serve();
  const auto first = Find();
  const auto second = Predecessor::Find(path_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("another hand-over is under way"));
  EXPECT_TRUE(first->Succeed("dp-1").ok());
}

TEST_F(Handover, APredecessorThatEndsMeanwhileLeavesItsSuccessorAlone) {
  Serve();
  const auto predecessor = Find();
  server_.reset();
  EXPECT_EQ(under_way(), std::vector<bool>{true});  // it must not reclaim its name
  EXPECT_FALSE(predecessor->there());
  EXPECT_EQ(predecessor->Succeed("dp-1").code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(taken_.is_set());
}

TEST_F(Handover, NobodyThereIsAnOrdinaryStart) {
  EXPECT_EQ(Find(), nullptr);
  Serve();
  struct stat mode {};
  ASSERT_EQ(stat(path_.c_str(), &mode), 0);
  EXPECT_EQ(mode.st_mode & 0777, 0600u);
  server_.reset();
  EXPECT_NE(access(path_.c_str(), F_OK), 0);
  // A killed process leaves its path behind.
  const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path_.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  close(fd);
  EXPECT_EQ(Find(), nullptr);
  Serve();
  EXPECT_TRUE(Find());
}

TEST_F(Handover, ThePathOfTheNextProcessIsLeftToIt) {
  Serve();
  const auto old = std::move(server_);
  Serve();  // replaces it by rename
  const_cast<std::unique_ptr<HandoverServer>&>(old).reset();
  EXPECT_TRUE(Find());
}

TEST_F(Handover, SomethingElseAtThePathIsAnError) {
  directory_.Write("handover", "mine");
  EXPECT_THAT(std::string(Predecessor::Find(path_).status().message()), HasSubstr("is there, and no socket"));
  HandoverServer::Options options;
  options.path = path_;
  EXPECT_FALSE(HandoverServer::Start(options).ok());
  EXPECT_EQ(directory_.Read("handover"), "mine");
}

// The result of finding a process at `path` that sends these bytes and descriptors.
absl::Status FindAt(const std::string& path, const std::string& answer, const std::vector<int>& descriptors) {
  const int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  EXPECT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(listen(listener, 1), 0);
  std::thread other([&] {
    const int peer = accept(listener, nullptr, nullptr);
    char asked[1024];
    EXPECT_GT(recv(peer, asked, sizeof asked, 0), 0);
    iovec part{const_cast<char*>(answer.data()), answer.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 4)] = {};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    if (!descriptors.empty()) {
      header.msg_control = control;
      header.msg_controllen = CMSG_SPACE(sizeof(int) * descriptors.size());
      cmsghdr* rights = CMSG_FIRSTHDR(&header);
      rights->cmsg_level = SOL_SOCKET;
      rights->cmsg_type = SCM_RIGHTS;
      rights->cmsg_len = CMSG_LEN(sizeof(int) * descriptors.size());
      memcpy(CMSG_DATA(rights), descriptors.data(), sizeof(int) * descriptors.size());
    }
    EXPECT_GE(sendmsg(peer, &header, MSG_NOSIGNAL), 0);
    close(peer);
  });
  const absl::Status status = Predecessor::Find(path).status();
  other.join();
  close(listener);
  unlink(path.c_str());
  return status;
}

TEST_F(Handover, APredecessorWithAnInvalidResponseIsRefused) {
  const int listening = ListenOnLoopback();
  const int other = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const std::string at = AddressText(InspectListener(listening)->address);
  const std::string head = "gateway-handover 1 sockets\n";
  const auto said = [&](const std::string& answer, const std::vector<int>& descriptors) {
    return std::string(FindAt(path_, answer, descriptors).message());
  };
  EXPECT_EQ(said(Concat(head, "socket: main ", at, "\n"), {listening}), "");
  EXPECT_THAT(said("HTTP/1.1 200 OK\r\n\r\n", {}), HasSubstr("not text"));
  EXPECT_THAT(said("gateway-handover 9 sockets\n", {}), HasSubstr("version 9"));
  EXPECT_THAT(said("gateway-handover 1 draining\n", {}), HasSubstr("a response without sockets"));
  EXPECT_THAT(said("gateway-handover 1 refused\nreason: busy\n", {}), HasSubstr("rejects it: busy"));
  EXPECT_THAT(said(Concat(head, "socket: main ", at, "\n"), {}), HasSubstr("names 1 sockets and brings 0"));
  EXPECT_THAT(said(head, {listening}), HasSubstr("names 0 sockets and brings 1"));
  EXPECT_THAT(said(Concat(head, "socket: main 1.2.3.4:5\n"), {listening}), HasSubstr("1.2.3.4:5 is a socket at"));
  EXPECT_THAT(said(Concat(head, "socket: main ", at, "\n"), {other}), HasSubstr("that does not listen"));
  EXPECT_THAT(said(Concat(head, "last: no\nsocket: main ", at, "\n"), {listening}), HasSubstr("it is gone"));
  close(listening);
  close(other);
}

}  // namespace
}  // namespace gateway::dataplane
