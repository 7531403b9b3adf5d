// Which control plane gatewayctl uses and with which credential: flags, environment, contexts.
#include "tools/gatewayctl/connection.h"

#include <sys/stat.h>

#include <map>
#include <sstream>

#include "absl/time/clock.h"
#include "common/base/pki.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/temp_dir.h"
#include "tools/gatewayctl/cli.h"
#include "tools/gatewayctl/exit_code.h"

namespace gateway::ctl {
namespace {

using ::testing::HasSubstr;

class ConnectionTest : public ::testing::Test {
 protected:
  ConnectionTest() {
    environment_["HOME"] = home_.path();
    const CertificateAndKey authority = MakeAuthority("lab", absl::Now(), absl::Hours(1)).value();
    ca_ = home_.Write("ca.crt", authority.certificate);
  }
  std::optional<std::string> Look(const std::string& name) const {
    const auto found = environment_.find(name);
    return found == environment_.end() ? std::nullopt : std::optional(found->second);
  }
  absl::StatusOr<Connection> Resolve(const ConnectionFlags& flags = {}) const {
    return ResolveConnection(flags, [this](const std::string& name) { return Look(name); });
  }
  std::string Problem(const ConnectionFlags& flags = {}) const {
    return std::string(Resolve(flags).status().message());
  }
  int Ctl(std::vector<std::string> arguments) {
    out_.str("");
    const Terminal terminal{.out = &out_,
                            .err = &out_,
                            .environment = [this](const std::string& name) { return Look(name); },
                            .now = [] { return absl::Now(); },
                            .actor = "ana@desk"};
    return RunCommandLine(arguments, terminal);
  }

  fixtures::TempDir home_;
  std::map<std::string, std::string> environment_;
  std::string ca_;
  std::ostringstream out_;
};

TEST_F(ConnectionTest, WithoutAnythingItIsThisMachineInCleartextAndNobody) {
  const absl::StatusOr<Connection> connection = Resolve();
  ASSERT_TRUE(connection.ok()) << connection.status();
  EXPECT_EQ(connection->server, "127.0.0.1:7400");
  EXPECT_FALSE(connection->tls());
  EXPECT_EQ(connection->token, "");
}

TEST_F(ConnectionTest, FlagsComeBeforeTheEnvironmentAndThatBeforeTheContext) {
  const std::string token = home_.Write("prod.token", "gwt_prod\n");
  ASSERT_EQ(Ctl({"context", "set", "prod", "--server", "cp.example:7400", "--ca", ca_, "--token-file", token}), kDone)
      << out_.str();
  absl::StatusOr<Connection> connection = Resolve();
  ASSERT_TRUE(connection.ok()) << connection.status();
  EXPECT_EQ(connection->server, "cp.example:7400");
  EXPECT_TRUE(connection->tls());
  EXPECT_EQ(connection->token, "gwt_prod");

  environment_["GATEWAY_TOKEN"] = "gwt_environment";
  EXPECT_EQ(Resolve()->token, "gwt_environment");
  EXPECT_EQ(Resolve({.token_file = token})->token, "gwt_prod");
  environment_.erase("GATEWAY_TOKEN");

  // For another server the context does not apply, and its token is not sent.
  environment_["GATEWAY_SERVER"] = "127.0.0.1:1";
  connection = Resolve();
  ASSERT_TRUE(connection.ok()) << connection.status();
  EXPECT_EQ(connection->server, "127.0.0.1:1");
  EXPECT_EQ(connection->token, "");
  EXPECT_FALSE(connection->tls());
  EXPECT_EQ(Resolve({.server = "127.0.0.1:2"})->server, "127.0.0.1:2");
  environment_["GATEWAY_CA"] = ca_;
  EXPECT_TRUE(Resolve()->tls());
}

TEST_F(ConnectionTest, ATokenLeavesThisMachineByTlsOnly) {
  environment_["GATEWAY_TOKEN"] = "gwt_x";
  EXPECT_THAT(Problem({.server = "cp.example:7400"}), HasSubstr("in cleartext"));
  EXPECT_THAT(Problem({.server = "10.0.0.1:7400"}), HasSubstr("in cleartext"));
  EXPECT_THAT(Problem({.server = "127.example.com:7400"}), HasSubstr("in cleartext"));
  EXPECT_TRUE(Resolve({.server = "cp.example:7400", .ca = ca_}).ok());
  for (const char* const local : {"localhost:7400", "127.0.0.1:7400", "[::1]:7400", "localhost", "127.0.0.1", "::1"}) {
    EXPECT_TRUE(Resolve({.server = local}).ok()) << local;
  }
}

TEST_F(ConnectionTest, WhatCannotBeUsedIsToldWithItsName) {
  EXPECT_THAT(Problem({.ca = home_.File("none.crt")}), HasSubstr("none.crt: cannot be read"));
  EXPECT_THAT(Problem({.ca = ca_, .cert = ca_}), HasSubstr("--cert and --key"));
  EXPECT_THAT(Problem({.cert = ca_, .key = ca_}), HasSubstr("--cert needs --ca"));
  EXPECT_THAT(Problem({.token_file = home_.Write("two", "a b\n")}), HasSubstr("expected one token"));
  // As long as the JWT of an issuer may be, and longer.
  EXPECT_EQ(Resolve({.token_file = home_.Write("jwt", std::string(16'384, 'x'))})->token.size(), 16'384u);
  EXPECT_FALSE(Resolve({.token_file = home_.Write("long", std::string(16'385, 'x'))}).ok());
  EXPECT_THAT(Problem({.token_file = home_.Write("nothing", "\n")}), HasSubstr("expected one token"));
  environment_["GATEWAY_TOKEN"] = "line\nbreak";
  EXPECT_THAT(Problem(), HasSubstr("GATEWAY_TOKEN: expected one token"));
  environment_.erase("GATEWAY_TOKEN");
  environment_["GATEWAY_SERVER"] = "";
  EXPECT_THAT(Problem(), HasSubstr("GATEWAY_SERVER is empty"));
  environment_.erase("GATEWAY_SERVER");
  home_.Write(".config/gatewayctl/config.yaml", "contexts:\n- name: a\n  server: b:1\n  tokenfile: c\n");
  EXPECT_THAT(Problem(), HasSubstr("config.yaml:4:3: "));
  EXPECT_THAT(Problem(), HasSubstr("tokenfile"));
}

TEST_F(ConnectionTest, ContextsAreAddedUsedAndListed) {
  EXPECT_EQ(Ctl({"context", "set", "a", "--server", "127.0.0.1:1"}), kDone);
  EXPECT_EQ(Ctl({"context", "set", "b", "--server", "127.0.0.1:2"}), kDone);
  EXPECT_EQ(Resolve()->server, "127.0.0.1:1") << "the first is used";
  EXPECT_EQ(Ctl({"context", "use", "b"}), kDone);
  EXPECT_EQ(Resolve()->server, "127.0.0.1:2");
  EXPECT_EQ(Ctl({"context", "set", "b", "--server", "127.0.0.1:3"}), kDone);
  EXPECT_EQ(Resolve()->server, "127.0.0.1:3") << "replaced, and still in use";
  EXPECT_EQ(Ctl({"context", "list", "-o", "name"}), kDone);
  EXPECT_EQ(out_.str(), "a\nb\n");
  EXPECT_EQ(Ctl({"context", "use", "c"}), kNotFound);
  EXPECT_THAT(out_.str(), HasSubstr("there are: a, b"));
  EXPECT_EQ(Ctl({"context", "set", "c"}), kUsage);
  EXPECT_EQ(Ctl({"context", "drop", "c"}), kUsage);
  struct stat there {};
  ASSERT_EQ(stat(home_.File(".config/gatewayctl/config.yaml").c_str(), &there), 0);
  EXPECT_EQ(there.st_mode & 0777, 0600u);
  ASSERT_EQ(stat(home_.File(".config/gatewayctl").c_str(), &there), 0);
  EXPECT_EQ(there.st_mode & 0777, 0700u);
}

}  // namespace
}  // namespace gateway::ctl
