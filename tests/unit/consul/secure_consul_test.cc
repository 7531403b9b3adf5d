// The watcher and the registration against a real agent with TLS and ACLs.
#include <time.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "controlplane/sources/consul/registration.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/consul_agent.h"
#include "tests/fixtures/lab_ca.h"
#include "tests/fixtures/temp_dir.h"
#include "tests/fixtures/wait_for.h"
#include "tests/unit/consul/watched.h"

namespace gateway::controlplane {
namespace {

using namespace std::chrono_literals;
using fixtures::ConsulAgent;
using fixtures::LabCa;
using fixtures::WaitFor;
using testing::HasSubstr;
using testing::Not;

constexpr char kMaster[] = "1a2b3c4d-0000-4000-8000-000000000001";
constexpr char kReads[] = "service_prefix \"\" { policy = \"read\" }\nnode_prefix \"\" { policy = \"read\" }\n";
constexpr char kWrites[] = "service_prefix \"\" { policy = \"write\" }\nnode_prefix \"\" { policy = \"write\" }\n";

// Connections to a port of this machine that are open, as the kernel has them.
int ConnectionsTo(uint16_t port) {
  std::ifstream table("/proc/net/tcp");
  const std::string to = absl::StrFormat(":%04X", port);
  int count = 0;
  for (std::string line; std::getline(table, line);) {
    std::istringstream words(line);
    std::string number, local, remote, state;
    words >> number >> local >> remote >> state;
    count += remote.ends_with(to) && state == "01" ? 1 : 0;
  }
  return count;
}

class SecureConsul : public testing::Test {
 protected:
  void Run(ConsulAgent::Options options) {
    auto agent = ConsulAgent::Start(options);
    ASSERT_TRUE(agent.ok()) << agent.status();
    agent_ = *std::move(agent);
  }
  void RunWithTls(ConsulAgent::Options options = {}) {
    const LabCa::Files files = ca_.IssueFor({"DNS:server.dc1.consul", "IP:127.0.0.1"});
    options.cert = files.cert;
    options.key = files.key;
    Run(std::move(options));
  }
  ConsulAccess Access() const {
    ConsulAccess access{.address = agent_->https_address()};
    access.tls = {.on = true, .files = {.ca = ca_.file()}};
    return access;
  }
  static ConsulWatcherOptions OptionsWith(ConsulAccess access) {
    ConsulWatcherOptions options;
    options.access = std::move(access);
    return options;
  }
  // The error of a watcher that cannot read Consul.
  static std::string ErrorWith(ConsulAccess access) {
    Watched watched(OptionsWith(std::move(access)));
    watched.Follow({"web"});
    watched.watcher().Start();
    EXPECT_TRUE(watched.Wait([](const EndpointCatalog& catalog) { return !catalog.error.empty(); }));
    return watched.newest()->error;
  }

  LabCa ca_;
  std::unique_ptr<ConsulAgent> agent_;
};

TEST_F(SecureConsul, EachOfManyServicesHasItsWatchOnAFewConnections) {
  ASSERT_NO_FATAL_FAILURE(RunWithTls());
  constexpr int kServices = 900;
  for (int i = 0; i < kServices; ++i) {
    ASSERT_TRUE(agent_->Register({.service = absl::StrCat("s", i), .port = static_cast<uint16_t>(8000 + i)}).ok());
  }
  ConsulWatcherOptions options = OptionsWith(Access());
  options.watches_max = 10;
  Watched watched(options);
  EndpointInterest interest;
  interest.dynamic = [](std::string_view name) { return name != "consul"; };
  watched.watcher().SetInterest(interest);
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(
      [](const EndpointCatalog& catalog) {
        if (catalog.watches != kServices) return false;
        return std::ranges::all_of(catalog.sets, [](const auto& entry) { return !Serving(*entry.second).empty(); });
      },
      60s))
      << watched.newest()->watches << " watches; " << watched.newest()->error;
  EXPECT_LE(ConnectionsTo(agent_->https_port()), 10);
  const auto begin = std::chrono::steady_clock::now();
  for (const int i : {0, 450, 899}) {
    const std::string service = absl::StrCat("s", i);
    // A change that no global watch shows.
    ASSERT_TRUE(agent_->Register({.service = service, .id = "second", .port = 7, .status = ""}).ok());
    ASSERT_TRUE(watched.Wait(Serves(service, absl::StrCat(8000 + i, " 7")), 1s) ||
                watched.Wait(Serves(service, absl::StrCat("7 ", 8000 + i)), 1s))
        << Serving(SetOf(*watched.newest(), service));
    ASSERT_TRUE(agent_->Deregister("second").ok());
    ASSERT_TRUE(watched.Wait(Serves(service, absl::StrCat(8000 + i)), 1s));
  }
  RecordProperty("six_changes_us", static_cast<int>((std::chrono::steady_clock::now() - begin) / 1us));
  // The connections break, and every watch begins again on new ones.
  ASSERT_TRUE(agent_->Restart().ok());
  ASSERT_TRUE(agent_->Register({.service = "s5", .port = 9005}).ok());
  ASSERT_TRUE(watched.Wait(Serves("s5", "9005"), 60s)) << watched.newest()->error;
}

double CpuSeconds() {
  timespec used{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) / 1e9;
}

// In cleartext past the budget of watches, and over TLS with a watch for each service.
TEST_F(SecureConsul, TwoThousandServicesCostLittleWhileNothingChanges) {
  ASSERT_NO_FATAL_FAILURE(RunWithTls());
  constexpr int kServices = 2'000;
  for (int i = 0; i < kServices; ++i) {
    ASSERT_TRUE(agent_->Register({.service = absl::StrCat("s", i), .port = static_cast<uint16_t>(8000 + i)}).ok());
  }
  for (const ConsulAccess& access : {ConsulAccess{.address = agent_->address()}, Access()}) {
    Watched watched(OptionsWith(access));
    EndpointInterest interest;
    interest.dynamic = [](std::string_view name) { return name != "consul"; };
    watched.watcher().SetInterest(interest);
    watched.watcher().Start();
    ASSERT_TRUE(watched.Wait(
        [](const EndpointCatalog& catalog) {
          return catalog.sets.size() == kServices &&
                 std::ranges::all_of(catalog.sets, [](const auto& entry) { return !Serving(*entry.second).empty(); });
        },
        120s));
    // What is measured is a rest of the process: its beginning is over when a second of it costs a tenth or less.
    double before = 0;
    ASSERT_TRUE(WaitFor(
        [&before] {
          const double now = CpuSeconds();
          const double used = now - std::exchange(before, now);
          absl::SleepFor(absl::Seconds(1));
          return used < 0.1;
        },
        60s));
    const double begun = CpuSeconds();
    absl::SleepFor(absl::Seconds(15));  // the span of the measurement
    const double percent = (CpuSeconds() - begun) / 15 * 100;
    std::cout << (access.tls.on ? "over TLS: " : "in cleartext: ") << percent << " % of a core\n";
    EXPECT_LT(percent, 2) << "1 % on a machine that does nothing else";
  }
}

TEST_F(SecureConsul, WhatIsWrongWithTlsIsSaid) {
  ASSERT_NO_FATAL_FAILURE(RunWithTls());
  const LabCa other("other");
  ConsulAccess access = Access();
  access.tls.files.ca = other.file();
  EXPECT_THAT(ErrorWith(access), HasSubstr("the agent's certificate is not trusted"));
  EXPECT_THAT(ErrorWith(access), HasSubstr(other.file()));
  access = Access();
  access.tls.server_name = "consul.example";
  EXPECT_THAT(ErrorWith(access), HasSubstr("the agent's certificate is not for 'consul.example'"));
  access.tls.server_name = "server.dc1.consul";
  EXPECT_THAT(ErrorWith(ConsulAccess{.address = agent_->https_address()}), HasSubstr("HTTPS"))
      << "cleartext to the HTTPS port";
  ConsulAccess cleartext_port = Access();
  cleartext_port.address = agent_->address();
  EXPECT_THAT(ErrorWith(cleartext_port), HasSubstr("does the agent speak TLS on this port"));
  ASSERT_TRUE(agent_->Register({.service = "web", .port = 8001}).ok());
  Watched watched(OptionsWith(access));
  watched.Follow({"web"});
  watched.watcher().Start();
  EXPECT_TRUE(watched.Wait(Serves("web", "8001"))) << watched.newest()->error;

  access.tls.files.ca = "/nowhere/ca.pem";
  EXPECT_THAT(CheckConsulAccess(access).message(), HasSubstr("/nowhere/ca.pem"));
  access = {.address = "127.0.0.1:1", .token_file = "/nowhere/token"};
  EXPECT_THAT(CheckConsulAccess(access).message(), HasSubstr("consul.token_file: cannot read /nowhere/token"));
}

TEST_F(SecureConsul, AgentThatVerifiesClientsGetsTheCertificate) {
  ASSERT_NO_FATAL_FAILURE(RunWithTls({.client_ca = ca_.file()}));
  ASSERT_TRUE(agent_->Register({.service = "web", .port = 8001}).ok());
  EXPECT_THAT(ErrorWith(Access()), HasSubstr("certificate"));
  const LabCa::Files files = ca_.IssueFor({"DNS:gateway"});
  ConsulAccess access = Access();
  access.tls.files.cert = files.cert;
  access.tls.files.key = files.key;
  Watched watched(OptionsWith(access));
  watched.Follow({"web"});
  watched.watcher().Start();
  EXPECT_TRUE(watched.Wait(Serves("web", "8001"))) << watched.newest()->error;
}

TEST_F(SecureConsul, EndpointsAreKeptWhileTheTokenIsRefusedAndTheNextOneIsTaken) {
  ASSERT_NO_FATAL_FAILURE(RunWithTls({.token = kMaster}));
  ASSERT_TRUE(agent_->Register({.service = "web", .port = 8001}).ok());
  const fixtures::TempDir dir;
  auto token = agent_->MakeToken("first", kReads);
  ASSERT_TRUE(token.ok()) << token.status();
  ConsulAccess access = Access();
  access.token_file = dir.Write("token", token->secret + "\n");
  ConsulWatcherOptions options = OptionsWith(access);
  options.wait = 500ms;  // so that what is refused shows soon
  Watched watched(options);
  watched.Follow({"web"});
  watched.watcher().Start();
  ASSERT_TRUE(watched.Wait(Serves("web", "8001"))) << watched.newest()->error;

  ASSERT_TRUE(agent_->RevokeToken(*token).ok());
  ASSERT_TRUE(watched.Wait(Serves("web", "8001 stale"), 30s)) << watched.newest()->error;
  ASSERT_TRUE(watched.Wait([](const EndpointCatalog& catalog) { return catalog.held == 1 && !catalog.reachable; }));
  EXPECT_THAT(watched.newest()->error, HasSubstr("Consul refuses the token (403"));
  EXPECT_THAT(SetOf(*watched.newest(), "web").alarm(), HasSubstr("Consul refuses the token"));
  EXPECT_THAT(watched.newest()->error, Not(HasSubstr(token->secret)));

  auto next = agent_->MakeToken("second", kReads);
  ASSERT_TRUE(next.ok()) << next.status();
  dir.Write("token", "two words\n");  // told, and the old one stays
  dir.Write("token", next->secret);
  ASSERT_TRUE(watched.Wait(Serves("web", "8001"), 30s)) << watched.newest()->error;
  EXPECT_EQ(watched.newest()->error, "");
}

TEST_F(SecureConsul, DataPlanesAreRegisteredOverTlsWithTheTokenOfNow) {
  ASSERT_NO_FATAL_FAILURE(RunWithTls({.token = kMaster}));
  const fixtures::TempDir dir;
  RegistrationOptions options;
  options.access = Access();
  options.access.token_file = dir.Write("token", "00000000-0000-4000-8000-000000000009");  // unknown to Consul
  ConsulRegistration registration(options);
  registration.Register(
      {.name = "dp-1", .host = "127.0.0.1", .port = 8080, .health_port = 1, .zone = "", .labels = {}, .version = ""});
  const auto registered = [&] {
    const auto services = agent_->GetJson("/v1/agent/services");
    return services.ok() && services->contains("api-gateway-dp-1");
  };
  auto token = agent_->MakeToken("writes", kWrites);
  ASSERT_TRUE(token.ok()) << token.status();
  EXPECT_FALSE(registered());
  dir.Write("token", token->secret);
  ASSERT_TRUE(WaitFor(registered, 30s));
  registration.Deregister("dp-1");
  ASSERT_TRUE(WaitFor([&] { return !registered(); }, 30s));
}

TEST(ConsulToken, IsOneLineOfAFile) {
  const fixtures::TempDir dir;
  EXPECT_EQ(*ReadConsulToken(dir.Write("good", "  abc-123\n\n")), "abc-123");
  EXPECT_THAT(ReadConsulToken(dir.Write("empty", "\n")).status().message(), HasSubstr("expected a token"));
  const auto two = ReadConsulToken(dir.Write("two", "secret1 secret2"));
  EXPECT_THAT(two.status().message(), HasSubstr("expected one token"));
  EXPECT_THAT(two.status().message(), Not(HasSubstr("secret1")));
  EXPECT_THAT(ReadConsulToken(dir.Write("long", std::string(kConsulTokenBytesMax + 1, 'x'))).status().message(),
              HasSubstr("longer than 4096 bytes"));
  EXPECT_FALSE(ReadConsulToken("/").ok());
}

TEST(ConsulToken, IsReadAgainWhenItsFileChanges) {
  const fixtures::TempDir dir;
  ConsulToken token({.address = "127.0.0.1:1", .token_file = dir.Write("token", "one")});
  const ConsulToken::Clock::time_point start{};
  EXPECT_EQ(token.Get(start + 1s), "one");
  dir.Write("token", "another");
  EXPECT_EQ(token.Get(start + 1500ms), "one") << "looked at once a second";
  EXPECT_EQ(token.Get(start + 2s), "another");
  dir.Write("token", "");
  EXPECT_EQ(token.Get(start + 4s), "another") << "the last good one";
}

}  // namespace
}  // namespace gateway::controlplane
