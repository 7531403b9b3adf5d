// The control plane's database as operators have it: killed at any moment, on a full disk, backed up, restored, sealed.
#include <sys/resource.h>
#include <sys/stat.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "common/base/text.h"
#include "gateway/v1/admin.grpc.pb.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/lab_ca.h"
#include "tests/fixtures/temp_dir.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string Contents(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

struct Folder {
  TempDir directory;
};

// A control plane whose database, and what belongs to it, is in a folder that tests look into.
class DatabaseLab : private Folder, public ControlPlane {
 public:
  explicit DatabaseLab(std::vector<std::string> sets = {}) : ControlPlane({.sets = SetsOf(directory, sets)}) {}

  std::string File(const std::string& name) const { return directory.File(name); }
  std::string Write(const std::string& name, const std::string& text) const { return directory.Write(name, text); }
  // SIGTERM, and its end.
  void End() {
    process().Signal(SIGTERM);
    ASSERT_TRUE(process().Wait().has_value());
  }
  // gateway-controlplane with a command in place of serving: {"check-db"}.
  Process::Result Maintain(std::vector<std::string> command) const {
    std::vector<std::string> argv = {BinaryPath("gateway-controlplane"), "--set", SetsOf(directory, {}).front()};
    argv.insert(argv.end(), command.begin(), command.end());
    return Process::Run(std::move(argv));
  }

 private:
  static std::vector<std::string> SetsOf(const TempDir& directory, std::vector<std::string> more) {
    more.insert(more.begin(), Concat("control_plane.database=", directory.File("gateway.db")));
    return more;
  }
};

std::unique_ptr<v1::Admin::Stub> Connect(const ControlPlane& control) {
  return v1::Admin::NewStub(
      grpc::CreateChannel(Concat("127.0.0.1:", control.admin_port()), grpc::InsecureChannelCredentials()));
}

v1::Resource Service(const std::string& name, const std::string& address) {
  v1::Resource resource;
  resource.mutable_service()->set_name(name);
  resource.mutable_service()->add_static_()->set_address(address);
  return resource;
}

// Names of services and their addresses.
using Policy = std::map<std::string, std::string>;

// One writer, which knows after each call what must be there, and after a call that was cut off, which two states there
// may be.
class Writer {
 public:
  explicit Writer(const ControlPlane& control) : control_(control) { Reconnect(); }

  void Reconnect() { stub_ = Connect(control_); }

  // Writes until a call fails. Each kind of write in turn; each touches two resources that belong together.
  void WriteUntilKilled() {
    while (Write()) {
    }
  }

  // After a restart: what is there is what was acknowledged, or that and all of the call that was cut off; and the same
  // request again is done once.
  void Check() {
    Reconnect();
    const Policy now = Read();
    EXPECT_TRUE(now == state_ || now == next_) << "half of a change, or an acknowledged one is lost";
    if (repeat_) {
      ASSERT_TRUE(repeat_()) << "the same request again";
      state_ = next_;
      EXPECT_EQ(Read(), state_);
      EXPECT_EQ(revision_, acknowledged_ + (changes_ ? 1 : 0)) << "done twice, or not at all";
      acknowledged_ = revision_;
      states_[revision_] = state_;
      repeat_ = nullptr;
    }
    std::set<std::string> tokens;
    grpc::ClientContext context;
    v1::ListTokensResponse listed;
    ASSERT_TRUE(stub_->ListTokens(&context, {}, &listed).ok());
    for (const v1::Token& token : listed.tokens()) tokens.insert(token.name());
    for (const std::string& name : tokens_) EXPECT_TRUE(tokens.contains(name)) << name;
    grpc::ClientContext endpoints_context;
    v1::ListEndpointsResponse endpoints;
    ASSERT_TRUE(stub_->ListEndpoints(&endpoints_context, {}, &endpoints).ok());
    if (weight_ != 0) {
      ASSERT_EQ(endpoints.overrides_size(), 1);
      EXPECT_THAT(endpoints.overrides(0).weight(), testing::AnyOf(weight_, weight_tried_));
      weight_ = endpoints.overrides(0).weight();
    }
  }
  uint64_t acknowledged() const { return acknowledged_; }
  size_t writes() const { return writes_; }

 private:
  Policy Read() {
    grpc::ClientContext context;
    v1::ListRequest request;
    request.set_kind("Service");
    request.set_page_size(5000);
    v1::ListResponse response;
    EXPECT_TRUE(stub_->List(&context, request, &response).ok());
    Policy policy;
    for (const v1::StoredResource& stored : response.resources()) {
      policy[stored.resource().service().name()] = stored.resource().service().static_(0).address();
    }
    EXPECT_GE(response.revision(), acknowledged_);
    return policy;
  }

  std::string NewId() { return Concat("request-", ++ids_); }

  // Sends one change, whose result is `next`. False: the control plane is gone, and the change is to be repeated.
  template <typename Request, typename Response>
  bool Send(grpc::Status (v1::Admin::Stub::*method)(grpc::ClientContext*, const Request&, Response*), Request request,
            Policy next) {
    request.set_request_id(NewId());
    next_ = std::move(next);
    changes_ = next_ != state_;
    repeat_ = [this, method, request] {
      grpc::ClientContext context;
      Response response;
      const grpc::Status status = ((*stub_).*method)(&context, request, &response);
      EXPECT_TRUE(status.ok() || status.error_code() == grpc::StatusCode::UNAVAILABLE) << status.error_message();
      revision_ = response.revision();
      return status.ok();
    };
    if (!repeat_()) return false;
    repeat_ = nullptr;
    state_ = next_;
    acknowledged_ = revision_;
    states_[revision_] = state_;
    ++writes_;
    return true;
  }

  bool Write() {
    const std::string pair = Concat("p", ++number_);
    const std::string address = Concat("127.0.0.1:", 1024 + number_ % 60000);
    Policy next = state_;
    switch (number_ % 6) {
      case 0: {
        v1::ApplyRequest request;
        for (const char* half : {"-a", "-b"}) {
          next[pair + half] = address;
          *request.add_resources() = Service(pair + half, address);
        }
        return Send(&v1::Admin::Stub::Apply, request, next);
      }
      case 1: {
        v1::DeleteRequest request;
        request.set_ignore_not_found(true);
        for (const char* half : {"-a", "-b"}) {
          v1::ResourceName* name = request.add_resources();
          name->set_kind("Service");
          name->set_name(Concat("p", number_ - 7, half));
          next.erase(name->name());
        }
        return Send(&v1::Admin::Stub::Delete, request, next);
      }
      case 2: {
        v1::ApplyRequest request;
        request.set_set("set");
        for (auto it = next.begin(); it != next.end();) it = it->first.starts_with("s") ? next.erase(it) : ++it;
        for (const char* half : {"-a", "-b"}) {
          next["s" + pair + half] = address;
          *request.add_resources() = Service("s" + pair + half, address);
        }
        return Send(&v1::Admin::Stub::Apply, request, next);
      }
      case 3: {
        if (states_.size() < 3) return true;
        v1::RollbackRequest request;
        const auto target = std::prev(states_.end(), 3);
        request.set_revision(target->first);
        return Send(&v1::Admin::Stub::Rollback, request, target->second);
      }
      case 4: {
        grpc::ClientContext context;
        v1::CreateTokenRequest request;
        request.set_name(Concat("token-", number_));
        request.set_role(v1::Token::VIEWER);
        v1::CreateTokenResponse response;
        if (!stub_->CreateToken(&context, request, &response).ok()) return false;
        tokens_.push_back(request.name());
        ++writes_;
        return true;
      }
      default: {
        // The endpoint of a service that is always there.
        if (!state_.contains("base")) {
          v1::ApplyRequest request;
          next["base"] = "127.0.0.1:1";
          *request.add_resources() = Service("base", "127.0.0.1:1");
          return Send(&v1::Admin::Stub::Apply, request, next);
        }
        grpc::ClientContext context;
        v1::SetEndpointRequest request;
        request.set_service("base");
        request.set_endpoint("127.0.0.1:1");
        weight_tried_ = static_cast<uint32_t>(1 + number_ % 1000);
        request.set_weight(weight_tried_);
        v1::SetEndpointResponse response;
        if (!stub_->SetEndpoint(&context, request, &response).ok()) return false;
        weight_ = weight_tried_;
        ++writes_;
        return true;
      }
    }
  }

  const ControlPlane& control_;
  std::unique_ptr<v1::Admin::Stub> stub_;
  Policy state_, next_;
  std::map<uint64_t, Policy> states_;
  std::function<bool()> repeat_;  // of the change that was cut off
  bool changes_ = false;          // it makes a revision
  uint64_t acknowledged_ = 1, revision_ = 0;
  std::vector<std::string> tokens_;
  uint32_t weight_ = 0, weight_tried_ = 0;
  int64_t number_ = 0, ids_ = 0;
  size_t writes_ = 0;
};

// GATEWAY_TEST_KILLS says how often.
TEST(Database, KilledDuringAnyWriteItLosesNothingAcknowledgedAndKeepsNoHalf) {
  const char* asked = std::getenv("GATEWAY_TEST_KILLS");
  const int kills = asked == nullptr ? 30 : std::atoi(asked);
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(Concat("seed ", seed));
  std::mt19937 random(seed);
  DatabaseLab control;
  Writer writer(control);
  for (int i = 0; i < kills && !testing::Test::HasFailure(); ++i) {
    SCOPED_TRACE(Concat("kill ", i));
    // When it is killed is the point of it: at any moment of a write.
    const auto after = std::chrono::microseconds(random() % 60'000);
    std::thread killer([&] {
      std::this_thread::sleep_for(after);
      control.Kill();
    });
    writer.WriteUntilKilled();
    killer.join();
    control.Start();
    writer.Check();
  }
  control.End();
  const Process::Result checked = control.Maintain({"check-db"});
  EXPECT_EQ(checked.exit.code, 0) << checked.err;
  std::printf("%d kills, %zu acknowledged writes\n", kills, writer.writes());
}

TEST(Database, AFullDiskRefusesWritesAndNothingElseAndHeals) {
  DatabaseLab control;
  ASSERT_EQ(control.Apply(ServicePolicyYaml({"127.0.0.1:1"})).exit.code, 0);
  DataPlane plane({.control_planes = {control.stream_port()}});
  // No file of the process grows further. The log of the database is written from its beginning on after a checkpoint,
  // so that many writes may be needed before it is full.
  struct rlimit before {};
  ASSERT_EQ(prlimit(control.process().pid(), RLIMIT_FSIZE, nullptr, &before), 0);
  struct rlimit small = before;
  small.rlim_cur = std::filesystem::file_size(control.File("gateway.db-wal"));
  ASSERT_EQ(prlimit(control.process().pid(), RLIMIT_FSIZE, &small, nullptr), 0);
  Process::Result refused;
  int stored = 0;
  for (int i = 0; i < 500; ++i, ++stored) {
    refused = control.Apply(Concat("kind: Service\nname: s", i, "\nstatic: [{ address: \"127.0.0.1:1\" }]\n"),
                            {"--comment", Concat("write ", i)});
    if (refused.exit.code != 0) break;
  }
  ASSERT_EQ(refused.exit.code, 1) << refused.err;
  EXPECT_THAT(refused.err, HasSubstr("the disk is full"));
  // Reads, and the streams of data planes.
  EXPECT_EQ(control.Ctl({"get", "route", "svc"}).exit.code, 0);
  EXPECT_EQ(control.Ctl({"history"}).exit.code, 0);
  EXPECT_EQ(control.Ctl({"rollout", "--wait", "--timeout", "10s"}).exit.code, 0);
  DataPlane second({.control_planes = {control.stream_port()}, .name = "dp-2"});
  EXPECT_THAT(control.Ctl({"dataplanes"}).out, HasSubstr("dp-2"));
  EXPECT_EQ(control.Ctl({"get", "service", Concat("s", stored)}).exit.code, 4) << "what was refused is not there";
  small.rlim_cur = 4096;
  ASSERT_EQ(prlimit(control.process().pid(), RLIMIT_FSIZE, &small, nullptr), 0);
  const Process::Result backup = control.Ctl({"backup", control.File("full.backup")});
  EXPECT_EQ(backup.exit.code, 1) << backup.err;
  EXPECT_FALSE(std::filesystem::exists(control.File("full.backup")));
  EXPECT_FALSE(std::filesystem::exists(control.File("gateway.db.backup-in-progress")));

  ASSERT_EQ(prlimit(control.process().pid(), RLIMIT_FSIZE, &before, nullptr), 0);
  const Process::Result healed = control.Apply("kind: Service\nname: healed\nstatic: [{ address: \"127.0.0.1:1\" }]\n",
                                               {"--wait", "--timeout", "10s"});
  EXPECT_EQ(healed.exit.code, 0) << healed.err;
  control.Kill();
  control.Start();
  EXPECT_EQ(control.Ctl({"get", "service", "healed"}).exit.code, 0);
}

TEST(Database, ABackupIsRestoredAsAnotherHistoryThatAnOperatorAccepts) {
  DatabaseLab control;
  ASSERT_EQ(control.Apply(ServicePolicyYaml({"127.0.0.1:1"})).exit.code, 0);
  DataPlane plane({.control_planes = {control.stream_port()}});
  const std::string backup = control.File("night.backup");
  const Process::Result made = control.Ctl({"backup", backup});
  ASSERT_EQ(made.exit.code, 0) << made.err;
  EXPECT_THAT(made.out, HasSubstr("revision 2"));
  struct stat there {};
  ASSERT_EQ(stat(backup.c_str(), &there), 0);
  EXPECT_EQ(there.st_mode & 0777, 0600u);
  EXPECT_FALSE(std::filesystem::exists(control.File("gateway.db.backup-in-progress")));
  ASSERT_EQ(control.Apply("kind: Service\nname: later\nstatic: [{ address: \"127.0.0.1:1\" }]\n", {"--wait"}).exit.code,
            0);

  EXPECT_EQ(control.Maintain({"check-db"}).exit.code, 3) << "it runs";
  EXPECT_EQ(control.Maintain({"restore", backup}).exit.code, 3);
  EXPECT_EQ(control.Maintain({"reseal"}).exit.code, 3);
  EXPECT_EQ(control.Maintain({"check-db", backup}).exit.code, 0) << "a file is checked meanwhile";
  EXPECT_EQ(control.Ctl({"get", "service", "later"}).exit.code, 0);
  control.End();

  EXPECT_EQ(control.Maintain({"check-db"}).exit.code, 0);
  const Process::Result foreign = control.Maintain({"restore", control.Write("some.yaml", std::string(2000, '#'))});
  EXPECT_EQ(foreign.exit.code, 1);
  EXPECT_EQ(control.Maintain({"restore"}).exit.code, 2);
  const Process::Result restored = control.Maintain({"restore", backup});
  ASSERT_EQ(restored.exit.code, 0) << restored.err;
  EXPECT_THAT(restored.out, HasSubstr("revision 2"));
  EXPECT_THAT(restored.out, HasSubstr(".before-restore-"));
  control.Start();
  EXPECT_EQ(control.Ctl({"get", "service", "later"}).exit.code, 4);
  // The data plane serves revision 3 of the history of before, and keeps it until somebody decides.
  ASSERT_TRUE(WaitFor([&] { return control.Ctl({"dataplanes"}).out.find("another history") != std::string::npos; }));
  EXPECT_EQ(control.Ctl({"rollout", "--wait", "--timeout", "300ms"}).exit.code, 7);
  ASSERT_EQ(control.Ctl({"accept-history"}).exit.code, 0);
  EXPECT_EQ(control.Ctl({"rollout", "--wait", "--timeout", "10s"}).exit.code, 0);
  EXPECT_THAT(control.Ctl({"audit"}).out, HasSubstr("Restore"));
}

TEST(Database, SyncOfAFolderDeletesWhatLeftIt) {
  DatabaseLab control;
  const std::string folder = control.File("policy");
  std::filesystem::create_directory(folder);
  const auto file = [&](const std::string& name) {
    control.Write(Concat("policy/", name, ".yaml"),
                  Concat("kind: Service\nname: ", name, "\nstatic: [{ address: \"127.0.0.1:1\" }]\n"));
  };
  file("one");
  file("two");
  ASSERT_EQ(control.Apply("kind: Service\nname: by-hand\nstatic: [{ address: \"127.0.0.1:1\" }]\n").exit.code, 0);
  ASSERT_EQ(control.Ctl({"sync", "-f", folder, "--set", "prod"}).exit.code, 0);
  std::filesystem::remove(folder + "/two.yaml");
  file("three");
  Process::Result run = control.Ctl({"sync", "-f", folder, "--set", "prod", "--dry-run"});
  EXPECT_THAT(run.out, HasSubstr("Service/two deleted"));
  run = control.Ctl({"sync", "-f", folder, "--set", "prod"});
  EXPECT_EQ(run.exit.code, 0) << run.err;
  EXPECT_EQ(control.Ctl({"get", "services", "-o", "name"}).out, "Service/by-hand\nService/one\nService/three\n");
  run = control.Ctl({"sync", "-f", folder, "--set", "staging"});
  EXPECT_EQ(run.exit.code, 5);
  EXPECT_THAT(run.err, HasSubstr("another set owns Service/one (set 'prod')"));
  run = control.Ctl({"diff", "2", "3"});
  EXPECT_THAT(run.out, HasSubstr("+++ 3/Service/one"));
  run = control.Ctl({"history", "services", "--actor", "nobody"});
  EXPECT_THAT(run.out, Not(HasSubstr("Service/")));
  run =
      control.Apply("kind: Service\nname: one\nstatic: [{ address: \"127.0.0.1:1\" }, { address: \"127.0.0.1:2\" }]\n",
                    {"--actor", "zoe", "--expect", "service/one=3"});
  ASSERT_EQ(run.exit.code, 0) << run.err;
  run = control.Ctl({"blame", "service", "one"});
  EXPECT_THAT(run.out, HasSubstr("zoe"));
  run = control.Apply("kind: Service\nname: one\nstatic: [{ address: \"127.0.0.1:3\" }]\n",
                      {"--expect", "service/one=3"});
  EXPECT_EQ(run.exit.code, 5);
  EXPECT_THAT(run.err, HasSubstr("by 'zoe' updated it at"));
}

// Everything that holds or says something of policy, after all has been done with secrets that can be done.
TEST(Database, SecretsAreInNoFileResponseLogOrBackup) {
  LabCa ca;
  const LabCa::Files first = ca.Issue({.names = {"DNS:shop.test"}});
  const LabCa::Files second = ca.Issue({.names = {"DNS:shop.test"}});
  DatabaseLab control({"logging.level=trace"});
  const auto indented = [](const std::string& path) {
    std::string text;
    std::ifstream in(path);
    for (std::string line; std::getline(in, line);) Append(&text, "    ", line, "\n");
    return text;
  };
  const auto policy = [&](const LabCa::Files& files, const std::string& api_key, const std::string& password) {
    return Concat("kind: Certificate\nname: shop\ncertificate:\n  inline: |\n", indented(files.cert),
                  "key:\n  inline: |\n", indented(files.key), "---\nkind: Consumer\nname: acme\ncredentials:\n",
                  "  - api_key_sha256: ", api_key, "\n  - basic: { username: acme, password_hash: \"", password,
                  "\" }\n");
  };
  const auto hash = [&](const std::string& what, const std::string& secret) {
    std::string text = control.Ctl({"hash", what}, secret).out;
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return text;
  };
  const std::string key_hash = hash("api-key", "planted-api-key-0123456789"), password_hash = hash("password", "pw-1");
  const std::string key_hash_2 = hash("api-key", "planted-api-key-9876543210"),
                    password_hash_2 = hash("password", "pw-2");
  std::vector<Process::Result> said;
  const auto run = [&](std::vector<std::string> arguments) {
    said.push_back(control.Ctl(std::move(arguments)));
    return said.back().exit.code;
  };
  said.push_back(control.Apply(policy(first, key_hash, password_hash)));
  ASSERT_EQ(said.back().exit.code, 0) << said.back().err;
  said.push_back(control.Apply(policy(second, key_hash_2, password_hash_2)));
  ASSERT_EQ(said.back().exit.code, 0) << said.back().err;
  // Wrong in every way, with the secrets in it.
  said.push_back(control.Apply(Concat(policy(first, key_hash, password_hash), "nonsense: 1\n")));
  said.push_back(
      control.Apply(Concat("kind: Consumer\nname: bad\ncredentials: [{ basic: { username: x, password_hash: ",
                           "pw-1-in-the-wrong-place } }]\n")));
  const Process::Result token = control.Ctl({"token", "create", "ci", "--role", "editor"});
  std::string token_secret = token.out;
  while (!token_secret.empty() && token_secret.back() == '\n') token_secret.pop_back();
  ASSERT_GT(token_secret.size(), 20u) << token.err;
  std::string admin_token = Contents(control.File("gateway.db.admin-token"));
  while (!admin_token.empty() && admin_token.back() == '\n') admin_token.pop_back();

  const std::string backup = control.File("secret.backup"), bundle = control.File("bundle.tar");
  EXPECT_EQ(run({"rollback", "2"}), 0);
  for (const char* output : {"table", "wide", "yaml", "json"}) {
    run({"get", "-o", output});
    run({"history", "-o", output});
    run({"audit", "-o", output});
    run({"show", "3", "-o", output});
    run({"diff", "2", "3", "-o", output});
    run({"blame", "consumer", "acme", "-o", output});
    run({"blame", "certificate", "shop", "-o", output});
    run({"describe", "certificate", "shop", "-o", output});
    run({"describe", "consumer", "acme", "-o", output});
    run({"token", "list", "-o", output});
  }
  EXPECT_EQ(run({"export"}), 0);
  EXPECT_EQ(run({"export", "--with-secrets", "--output-file", control.File("hashes.yaml")}), 0);
  EXPECT_EQ(run({"support-bundle", bundle}), 0);
  EXPECT_EQ(run({"backup", backup}), 0);
  control.End();
  const std::string log = control.process().output();
  said.push_back(control.Maintain({"check-db"}));
  said.push_back(control.Maintain({"check-db", backup}));
  EXPECT_EQ(said.back().exit.code, 0) << said.back().err;
  said.push_back(control.Maintain({"reseal"}));
  EXPECT_THAT(said.back().out, HasSubstr("4 private keys are sealed under a new key"));
  said.push_back(control.Maintain({"check-db"}));
  EXPECT_EQ(said.back().exit.code, 0) << said.back().err;
  // The backup is of before, and needs the key of before.
  said.push_back(control.Maintain({"restore", backup}));
  EXPECT_EQ(said.back().exit.code, 1);
  EXPECT_THAT(said.back().err, HasSubstr("sealed under another key"));
  control.Start();
  EXPECT_EQ(run({"get", "certificate", "shop", "-o", "yaml"}), 0);

  // A line of a key in base64 is in no other text.
  const auto line_of = [](const std::string& path) {
    std::ifstream in(path);
    std::string line;
    std::getline(in, line);
    std::getline(in, line);
    return line;
  };
  const std::vector<std::string> never = {line_of(first.key), line_of(second.key), "planted-api-key", token_secret};
  const std::vector<std::string> not_told = {key_hash, key_hash_2, password_hash, password_hash_2, admin_token};
  for (const std::string& secret : never) ASSERT_GT(secret.size(), 12u);
  std::string told = log + control.process().output();
  for (const Process::Result& each : said) told += each.out + each.err;
  told += Contents(bundle);
  for (const std::vector<std::string>* secrets : {&never, &not_told}) {
    for (const std::string& secret : *secrets) {
      const size_t at = told.find(secret);
      EXPECT_EQ(at, std::string::npos) << "told: "
                                       << (at == std::string::npos ? ""
                                                                   : told.substr(at - std::min<size_t>(at, 200), 260));
    }
  }
  size_t files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(control.File(""))) {
    if (!entry.is_regular_file()) continue;
    const std::string content = Contents(entry.path());
    ++files;
    for (const std::string& secret : never) {
      EXPECT_EQ(content.find(secret), std::string::npos) << entry.path() << " has '" << secret.substr(0, 12) << "...'";
    }
    const std::string name = entry.path().filename();
    if (name.starts_with("gateway.db.admin-token")) continue;
    EXPECT_EQ(content.find(admin_token), std::string::npos) << entry.path();
    if (name.starts_with("gateway.db") || name == "secret.backup") {
      EXPECT_EQ(std::filesystem::status(entry.path()).permissions() & std::filesystem::perms(077),
                std::filesystem::perms::none)
          << entry.path();
    }
  }
  EXPECT_GE(files, 5u);
}

}  // namespace
}  // namespace gateway::fixtures
