#include "dataplane/upstream/host_resolver.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/wait_for.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;
using fixtures::WaitFor;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pointee;

constexpr TimePoint kNow{1000h};

std::vector<std::string> Due(HostTable& table, TimePoint now) {
  TimePoint next;
  return table.TakeDue(now, 100, &next);
}

HostAnswer Found(std::vector<std::string> addresses, std::chrono::seconds ttl) { return {std::move(addresses), ttl}; }

TEST(HostTable, ANewHostIsDueAtOnceAndAgainByItsTtl) {
  HostTable table;
  ASSERT_TRUE(table.Add("a.example", kNow));
  EXPECT_TRUE(table.IsNew("a.example"));
  EXPECT_THAT(Due(table, kNow), ElementsAre("a.example"));
  EXPECT_THAT(Due(table, kNow), IsEmpty()) << "a lookup is in progress";
  EXPECT_TRUE(table.Answer("a.example", Found({"10.0.0.2", "10.0.0.1"}, 20s), kNow));
  EXPECT_FALSE(table.IsNew("a.example"));
  EXPECT_THAT(table.Find("a.example"), Pointee(ElementsAre("10.0.0.1", "10.0.0.2")));
  TimePoint next;
  EXPECT_THAT(table.TakeDue(kNow + 19s, 100, &next), IsEmpty());
  EXPECT_EQ(next, kNow + 20s);
  EXPECT_THAT(Due(table, kNow + 20s), ElementsAre("a.example"));
  EXPECT_FALSE(table.Answer("a.example", Found({"10.0.0.1", "10.0.0.2"}, 20s), kNow)) << "only the order differs";
}

TEST(HostTable, TtlsAreBounded) {
  HostTable table;
  table.Add("a", kNow);
  Due(table, kNow);
  table.Answer("a", Found({"10.0.0.1"}, 0s), kNow);
  EXPECT_THAT(Due(table, kNow + 999ms), IsEmpty());
  EXPECT_THAT(Due(table, kNow + 1s), ElementsAre("a"));
  table.Answer("a", Found({"10.0.0.1"}, 604800s), kNow);
  EXPECT_THAT(Due(table, kNow + 299s), IsEmpty());
  EXPECT_THAT(Due(table, kNow + 300s), ElementsAre("a"));
}

TEST(HostTable, AFailureKeepsTheLastGoodAddressesAndIsTriedAgainEverLater) {
  HostTable table;
  table.Add("a", kNow);
  Due(table, kNow);
  table.Answer("a", Found({"10.0.0.1"}, 1s), kNow);
  TimePoint now = kNow + 1s;
  for (const auto pause : {1s, 2s, 4s, 8s, 16s, 30s, 30s}) {
    ASSERT_THAT(Due(table, now), ElementsAre("a"));
    EXPECT_FALSE(table.Answer("a", absl::UnavailableError("refused"), now));
    EXPECT_THAT(table.Find("a"), Pointee(ElementsAre("10.0.0.1")));
    EXPECT_THAT(Due(table, now + pause - 1ms), IsEmpty());
    now += pause;
  }
  Due(table, now);
  EXPECT_FALSE(table.Answer("a", Found({}, 1s), now)) << "no address is a failure, too";
  EXPECT_THAT(table.Find("a"), Pointee(ElementsAre("10.0.0.1")));
}

TEST(HostTable, HostsAndAddressesAreBounded) {
  HostTable table;
  for (size_t i = 0; i < HostTable::kHostsMax; ++i) EXPECT_TRUE(table.Add("h" + std::to_string(i), kNow));
  EXPECT_FALSE(table.Add("one-more", kNow));
  EXPECT_TRUE(table.Add("h7", kNow));
  std::vector<std::string> many;
  for (int i = 0; i < 100; ++i) many.push_back("10.0.1." + std::to_string(i));
  table.Answer("h7", Found(many, 1s), kNow);
  EXPECT_EQ(table.Find("h7")->size(), HostTable::kAddressesMax);
  table.Retain({"h7"});
  EXPECT_TRUE(table.Add("one-more", kNow));
  EXPECT_EQ(table.Find("h8"), nullptr);
}

// A name server on its own port: serves the A records that the test sets.
class NameServer {
 public:
  NameServer() {
    fd_ = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&address), length), 0);
    EXPECT_EQ(getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &length), 0);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { Serve(); });
  }
  ~NameServer() {
    stop_ = true;
    thread_.join();
    close(fd_);
  }

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  void Put(const std::string& name, std::vector<std::string> addresses) {
    absl::MutexLock lock(&mutex_);
    records_[name] = std::move(addresses);
  }
  void Fail(bool on) { failing_ = on; }
  int questions() const { return questions_; }

 private:
  void Serve() {
    while (!stop_) {
      pollfd polled{fd_, POLLIN, 0};
      if (poll(&polled, 1, 10) <= 0) continue;
      char message[1500];
      sockaddr_in from{};
      socklen_t length = sizeof from;
      const ssize_t got = recvfrom(fd_, message, sizeof message, 0, reinterpret_cast<sockaddr*>(&from), &length);
      if (got < 17) continue;
      ++questions_;
      const std::string answer = Answer(std::string(message, static_cast<size_t>(got)));
      sendto(fd_, answer.data(), answer.size(), 0, reinterpret_cast<sockaddr*>(&from), length);
    }
  }

  // RFC 1035, section 4.1.
  std::string Answer(const std::string& question) {
    size_t at = 12;
    std::string name;
    while (question[at] != 0) {
      const auto size = static_cast<size_t>(question[at]);
      name += (name.empty() ? "" : ".") + question.substr(at + 1, size);
      at += size + 1;
    }
    const bool wants_v4 = question[at + 2] == 1;
    const size_t end = at + 5;
    std::vector<std::string> addresses;
    bool known = false;
    {
      absl::MutexLock lock(&mutex_);
      known = records_.contains(name);
      if (known && wants_v4) addresses = records_[name];
    }
    std::string answer = question.substr(0, 2);
    const int code = failing_ ? 2 : known ? 0 : 3;
    if (failing_) addresses.clear();
    answer += {'\x81', static_cast<char>(0x80 | code), 0, 1, 0, static_cast<char>(addresses.size()), 0, 0, 0, 0};
    answer += question.substr(12, end - 12);
    for (const std::string& address : addresses) {
      in_addr binary{};
      inet_pton(AF_INET, address.c_str(), &binary);
      answer += {'\xc0', 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4};  // a TTL of 0
      answer.append(reinterpret_cast<const char*>(&binary), 4);
    }
    return answer;
  }

  int fd_ = -1;
  uint16_t port_ = 0;
  std::atomic<bool> stop_{false}, failing_{false};
  std::atomic<int> questions_{0};
  absl::Mutex mutex_;
  std::map<std::string, std::vector<std::string>> records_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

TimePoint Soon() { return std::chrono::steady_clock::now() + fixtures::kSoon; }

TEST(HostResolver, FindsTheAddressesOfANameAndFollowsThem) {
  NameServer server;
  server.Put("svc.test", {"10.1.0.2", "10.1.0.1"});
  std::atomic<int> changes{0};
  HostResolver resolver({.servers = server.address(), .on_change = [&] { ++changes; }});
  EXPECT_TRUE(resolver.Name({"svc.test"}));
  EXPECT_THAT(resolver.Find("svc.test", Soon()), Pointee(ElementsAre("10.1.0.1", "10.1.0.2")));
  server.Put("svc.test", {"10.1.0.3"});
  EXPECT_TRUE(WaitFor([&] { return *resolver.Find("svc.test", Soon()) == std::vector<std::string>{"10.1.0.3"}; }));
  EXPECT_TRUE(WaitFor([&] { return changes == 2; }));
  // A failing name server removes nothing; once it works again, its records count again.
  server.Fail(true);
  const int asked = server.questions();
  EXPECT_TRUE(WaitFor([&] { return server.questions() >= asked + 4; }));
  EXPECT_THAT(resolver.Find("svc.test", Soon()), Pointee(ElementsAre("10.1.0.3")));
  server.Put("svc.test", {"10.1.0.4"});
  server.Fail(false);
  EXPECT_TRUE(WaitFor([&] { return *resolver.Find("svc.test", Soon()) == std::vector<std::string>{"10.1.0.4"}; }));
}

TEST(HostResolver, ANameThatDoesNotExistHasNoAddresses) {
  NameServer server;
  HostResolver resolver({.servers = server.address()});
  EXPECT_TRUE(resolver.Name({"nobody.test"}));
  EXPECT_EQ(resolver.Find("nobody.test", Soon()), nullptr);
  EXPECT_EQ(resolver.Find("never-named.test", Soon()), nullptr);
}

TEST(HostResolver, NobodyWaitsLongerThanItsDeadline) {
  HostResolver resolver({.servers = "127.0.0.1:9"});
  resolver.Name({"svc.test"});
  EXPECT_EQ(resolver.Find("svc.test", std::chrono::steady_clock::now()), nullptr);
}

TEST(HostResolver, LocalhostIsFoundInTheHostsFile) {
  HostResolver resolver({});
  resolver.Name({"localhost"});
  EXPECT_THAT(resolver.Find("localhost", Soon()), Pointee(ElementsAre("127.0.0.1")));
}

}  // namespace
}  // namespace gateway::dataplane
