// What gatewayctl makes of the control plane's memory: sync, prune, versions, repeated requests, blame, backup.
#include <openssl/sha.h>
#include <sys/stat.h>

#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/policy/policy_files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/temp_dir.h"
#include "tests/unit/gatewayctl/scripted_admin.h"
#include "tools/gatewayctl/blame.h"
#include "tools/gatewayctl/cli.h"
#include "tools/gatewayctl/exit_code.h"

namespace gateway::ctl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kService[] = "kind: Service\nname: svc\nstatic:\n  - address: 127.0.0.1:18081\n";

struct Ended {
  int code;
  std::string out, err;
};

class MemoryCtl : public ::testing::Test {
 protected:
  MemoryCtl() {
    admin_.remembers_requests = true;
    admin_.apply = [this](const v1::ApplyRequest& request, v1::ApplyResponse* response) {
      applied_.push_back(request);
      response->set_revision(request.dry_run() ? 7 : 8);
      AddChange(response, v1::Change::UPDATED, "svc");
      if (!request.set().empty() || !request.prune().empty()) AddChange(response, v1::Change::DELETED, "old");
      return grpc::Status::OK;
    };
  }
  static void AddChange(v1::ApplyResponse* response, v1::Change::Op op, const std::string& name) {
    v1::Change* change = response->add_changes();
    change->set_op(op);
    change->set_kind("Service");
    change->set_name(name);
  }
  Ended Ctl(std::vector<std::string> arguments, std::istream* in = nullptr) {
    std::ostringstream out, err;
    const Terminal terminal{.out = &out,
                            .err = &err,
                            .out_is_terminal = in != nullptr,
                            .in = in,
                            .environment = [this](const std::string& name) -> std::optional<std::string> {
                              return name == "GATEWAY_SERVER" ? std::optional(admin_.address()) : std::nullopt;
                            },
                            .now = [] { return absl::FromUnixSeconds(1'700'000'180); },
                            .actor = "ana@desk"};
    admin_.Order();
    const int code = RunCommandLine(arguments, terminal);
    admin_.Order();
    return {code, out.str(), err.str()};
  }

  fixtures::TempDir dir_;
  ScriptedAdmin admin_;
  std::vector<v1::ApplyRequest> applied_;
};

TEST_F(MemoryCtl, SyncSendsTheSetAndShowsWhatIsDeleted) {
  const std::string file = dir_.Write("a.yaml", kService);
  const Ended run = Ctl({"sync", "-f", file, "--set", "prod"});
  EXPECT_EQ(run.code, kDone) << run.err;
  EXPECT_EQ(run.out, "Service/svc updated\nService/old deleted\nrevision 8\n");
  ASSERT_EQ(applied_.size(), 1u) << "nobody is there to be asked";
  EXPECT_EQ(applied_[0].set(), "prod");
  EXPECT_EQ(Ctl({"sync", "-f", file}).code, kUsage);

  const std::string empty = dir_.Write("empty.yaml", "# nothing\n");
  const Ended refused = Ctl({"sync", "-f", empty, "--set", "prod"});
  EXPECT_EQ(refused.code, kUsage);
  EXPECT_THAT(refused.err, HasSubstr("--allow-empty"));
  EXPECT_EQ(applied_.size(), 1u);
  EXPECT_EQ(Ctl({"sync", "-f", empty, "--set", "prod", "--allow-empty"}).code, kDone);
  EXPECT_EQ(applied_.back().resources_size(), 0);
}

TEST_F(MemoryCtl, OnATerminalItAsksAboutWhatItShowed) {
  const std::string file = dir_.Write("a.yaml", kService);
  std::istringstream no("n\n");
  Ended run = Ctl({"apply", "-f", file, "--prune", "-l", "team=x"}, &no);
  EXPECT_EQ(run.code, kFailed);
  EXPECT_THAT(run.err, HasSubstr("Service/old would be deleted\n"));
  EXPECT_THAT(run.err, HasSubstr("delete 1 resource"));
  ASSERT_EQ(applied_.size(), 1u);
  EXPECT_TRUE(applied_[0].dry_run());
  std::istringstream yes("y\n");
  run = Ctl({"apply", "-f", file, "--prune", "-l", "team=x"}, &yes);
  EXPECT_EQ(run.code, kDone) << run.err;
  ASSERT_EQ(applied_.size(), 3u);
  EXPECT_EQ(applied_[2].prune(), "team=x");
  EXPECT_EQ(applied_[2].expected_revision(), 7u) << "what was shown is what happens";
  std::istringstream unread;
  EXPECT_EQ(Ctl({"apply", "-f", file, "--prune", "-l", "team=x", "--yes"}, &unread).code, kDone);
  EXPECT_EQ(applied_.size(), 4u);
  EXPECT_EQ(Ctl({"apply", "-f", file, "--prune"}).code, kUsage);
  EXPECT_EQ(Ctl({"apply", "-f", file, "-l", "team=x"}).code, kUsage);
}

TEST_F(MemoryCtl, ExpectedVersionsAreSentAndAConflictIsExitCodeFive) {
  const std::string file = dir_.Write("a.yaml", kService);
  EXPECT_EQ(Ctl({"apply", "-f", file, "--expect", "svc/svc=12", "--expect", "route/r=0"}).code, kDone);
  ASSERT_EQ(applied_.size(), 1u);
  ASSERT_EQ(applied_[0].expected_versions_size(), 2);
  EXPECT_EQ(applied_[0].expected_versions(0).kind(), "Service");
  EXPECT_EQ(applied_[0].expected_versions(0).revision(), 12u);
  const Ended wrong = Ctl({"apply", "-f", file, "--expect", "svc=12"});
  EXPECT_EQ(wrong.code, kUsage);
  EXPECT_THAT(wrong.err, HasSubstr("expected KIND/NAME=REVISION"));
  admin_.apply = [](const v1::ApplyRequest&, v1::ApplyResponse*) {
    return grpc::Status(grpc::StatusCode::ABORTED, "Service/svc: revision 13 by 'bob' updated it");
  };
  const Ended conflict = Ctl({"apply", "-f", file, "--expect", "svc/svc=12"});
  EXPECT_EQ(conflict.code, kConflict);
  EXPECT_THAT(conflict.err, HasSubstr("by 'bob'"));
}

TEST_F(MemoryCtl, AnOlderControlPlaneIsNotAskedForWhatItWouldIgnore) {
  admin_.remembers_requests = false;
  const std::string file = dir_.Write("a.yaml", kService);
  for (const std::vector<std::string>& more :
       {std::vector<std::string>{"--prune", "-l", "a=b"}, std::vector<std::string>{"--expect", "svc/svc=1"},
        std::vector<std::string>{"--to", "percent=10"}, std::vector<std::string>{"--confirm-within", "2m"},
        std::vector<std::string>{"--guard", "error_rate<1%"}}) {
    std::vector<std::string> arguments = {"apply", "-f", file};
    arguments.insert(arguments.end(), more.begin(), more.end());
    EXPECT_EQ(Ctl(arguments).code, kUnreachable);
  }
  EXPECT_THAT(Ctl({"sync", "-f", file, "--set", "prod"}).err, HasSubstr("is of version 9.9.9"));
  EXPECT_THAT(applied_, IsEmpty());
}

TEST_F(MemoryCtl, ALostResponseIsAskedForAgainUnderTheSameId) {
  std::vector<std::string> ids;
  admin_.apply = [&](const v1::ApplyRequest& request, v1::ApplyResponse* response) {
    ids.push_back(request.request_id());
    if (ids.size() < 3) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the control plane is shutting down");
    response->set_revision(8);
    return grpc::Status::OK;
  };
  const std::string file = dir_.Write("a.yaml", kService);
  EXPECT_EQ(Ctl({"apply", "-f", file}).code, kDone);
  ASSERT_EQ(ids.size(), 3u);
  EXPECT_EQ(ids[0].size(), 32u);
  EXPECT_THAT(ids, ElementsAre(ids[0], ids[0], ids[0]));
  EXPECT_EQ(Ctl({"apply", "-f", file}).code, kDone);
  EXPECT_NE(ids.back(), ids[0]) << "each command is a request of its own";
  EXPECT_EQ(Ctl({"apply", "-f", file, "--dry-run"}).code, kDone);
  EXPECT_EQ(ids.back(), "");
  // One that does not remember requests might do it twice.
  ids.clear();
  admin_.remembers_requests = false;
  EXPECT_EQ(Ctl({"apply", "-f", file}).code, kUnreachable);
  EXPECT_EQ(ids.size(), 1u);
}

v1::ResourceVersion Version(uint64_t revision, const std::string& actor, const std::string& yaml) {
  v1::ResourceVersion version;
  version.mutable_info()->set_revision(revision);
  version.mutable_info()->set_actor(actor);
  version.mutable_info()->mutable_time()->set_seconds(1'700'000'000 + static_cast<int64_t>(revision));
  version.set_op(revision == 2 ? v1::Change::CREATED : v1::Change::UPDATED);
  if (!yaml.empty()) *version.mutable_resource() = Stored(yaml).resource();
  return version;
}

TEST_F(MemoryCtl, BlameNamesTheRevisionThatLastChangedEachLine) {
  const std::string second = absl::StrCat(kService, "  - address: 127.0.0.1:2\n");
  const std::string third = "kind: Service\nname: svc\nstatic:\n  - address: 127.0.0.1:3\n  - address: 127.0.0.1:2\n";
  admin_.resource_history = [&](const v1::ResourceHistoryRequest& request, v1::ResourceHistoryResponse* response) {
    EXPECT_EQ(request.kind(), "Service");
    if (request.before() == 0) {
      *response->add_versions() = Version(9, "cyd", third);
      *response->add_versions() = Version(5, "bob", second);
      response->set_next_before(5);
    } else {
      *response->add_versions() = Version(2, "ann", kService);
    }
    return grpc::Status::OK;
  };
  const Ended run = Ctl({"blame", "svc", "svc"});
  EXPECT_EQ(run.code, kDone) << run.err;
  EXPECT_THAT(run.out, HasSubstr("2          ann     2m    kind: Service\n"));
  EXPECT_THAT(run.out, HasSubstr("9          cyd     2m      - address: \"127.0.0.1:3\"\n"));
  EXPECT_THAT(run.out, HasSubstr("5          bob     2m      - address: \"127.0.0.1:2\"\n"));
  EXPECT_EQ(run.err, "");
  const auto json = nlohmann::json::parse(Ctl({"blame", "service/svc", "-o", "json"}).out);
  EXPECT_EQ(json["items"][0]["actor"], "ann");
  EXPECT_EQ(Ctl({"blame", "service/svc", "-o", "name"}).out, "9\n5\n2\n");

  admin_.resource_history = [&](const v1::ResourceHistoryRequest&, v1::ResourceHistoryResponse* response) {
    *response->add_versions() = Version(11, "dee", "");
    *response->add_versions() = Version(9, "cyd", third);
    return grpc::Status::OK;
  };
  const Ended gone = Ctl({"blame", "svc", "svc"});
  EXPECT_EQ(gone.code, kNotFound);
  EXPECT_THAT(gone.err, HasSubstr("deleted in revision 11 by dee"));
}

TEST(Blame, WhatWasDeletedAndMadeAgainIsOfTheNewOne) {
  const std::vector<v1::ResourceVersion> versions = {Version(9, "cyd", kService), Version(5, "bob", ""),
                                                     Version(2, "ann", kService)};
  for (const BlamedLine& line : BlameOf(versions)) EXPECT_EQ(line.version, 0u) << line.text;
  EXPECT_THAT(BlameOf({Version(5, "bob", ""), Version(2, "ann", kService)}), IsEmpty());
}

TEST_F(MemoryCtl, DiffComparesRevisionsAsItComparesFiles) {
  const std::string changed = "kind: Service\nname: svc\nstatic:\n  - address: 127.0.0.1:9\n";
  const std::string other = "kind: Service\nname: other\nstatic:\n  - address: 127.0.0.1:1\n";
  *admin_.revisions[3].add_resources() = Stored(kService);
  *admin_.revisions[3].add_resources() = Stored(other);
  *admin_.revisions[5].add_resources() = Stored(changed);
  admin_.resources = {Stored(changed), Stored(other)};
  Ended run = Ctl({"diff", "3", "5", "--exit-code"});
  EXPECT_EQ(run.code, kFailed) << run.err;
  EXPECT_THAT(run.out, HasSubstr("--- 3/Service/svc\n+++ 5/Service/svc\n"));
  EXPECT_THAT(run.out, HasSubstr("--- 3/Service/other\n+++ /dev/null\n"));
  run = Ctl({"diff", "3"});
  EXPECT_EQ(run.code, kDone);
  EXPECT_THAT(run.out, HasSubstr("+++ current/Service/svc\n"));
  EXPECT_EQ(Ctl({"diff", "3", "5", "-o", "name"}).out, "Service/other\nService/svc\n");
  const auto json = nlohmann::json::parse(Ctl({"diff", "5", "3", "-o", "json"}).out);
  EXPECT_EQ(json["items"][0]["op"], "created");
  EXPECT_EQ(Ctl({"diff", "5", "--exit-code", "-o", "name"}).out, "Service/other\n");
  EXPECT_EQ(Ctl({"diff", "4"}).code, kNotFound);
  EXPECT_EQ(Ctl({"diff"}).code, kUsage);
  EXPECT_EQ(Ctl({"diff", "x"}).code, kUsage);
  EXPECT_EQ(Ctl({"diff", "3", "-f", dir_.Write("a.yaml", kService)}).code, kUsage);
}

TEST_F(MemoryCtl, HistorySendsItsFilters) {
  v1::HistoryRequest asked;
  admin_.history = [&](const v1::HistoryRequest& request, v1::HistoryResponse*) {
    asked = request;
    return grpc::Status::OK;
  };
  EXPECT_EQ(Ctl({"history", "routes", "--actor", "ci", "--comment", "limit", "--since", "1h", "--until",
                 "2023-11-14T22:00:00Z", "-l", "team=a"})
                .code,
            kDone);
  EXPECT_EQ(asked.kind(), "Route");
  EXPECT_EQ(asked.name(), "");
  EXPECT_EQ(asked.actor(), "ci");
  EXPECT_EQ(asked.comment(), "limit");
  EXPECT_EQ(asked.since().seconds(), 1'700'000'180 - 3600);
  EXPECT_EQ(asked.until().seconds(), 1'699'999'200);
  EXPECT_EQ(asked.selector(), "team=a");
  const Ended wrong = Ctl({"history", "--since", "yesterday"});
  EXPECT_EQ(wrong.code, kUsage);
  EXPECT_THAT(wrong.err, HasSubstr("--since: expected a time such as 30d, 12h or 2026-07-04T10:00:00Z"));
}

TEST_F(MemoryCtl, ABackupIsWholeOrThereIsNone) {
  const std::string data(3000, 'd');
  unsigned char sum[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(data.data()), data.size(), sum);
  v1::BackupResponse info, first, second, end;
  info.mutable_info()->set_revision(12);
  info.mutable_info()->set_bytes(data.size());
  first.set_data(data.substr(0, 1000));
  second.set_data(data.substr(1000));
  end.set_sha256(sum, sizeof sum);
  admin_.backup = {info, first, second, end};
  const std::string path = dir_.File("gateway.backup");
  const Ended run = Ctl({"backup", path});
  EXPECT_EQ(run.code, kDone) << run.err;
  EXPECT_EQ(run.out, absl::StrCat(path, ": revision 12, 3000 bytes\n"));
  EXPECT_EQ(dir_.Read("gateway.backup"), data);
  struct stat there {};
  ASSERT_EQ(stat(path.c_str(), &there), 0);
  EXPECT_EQ(there.st_mode & 0777, 0600u);

  // Cut short, changed on its way, without its sum: the one of before stays.
  v1::BackupResponse changed = second;
  (*changed.mutable_data())[0] = 'x';
  const std::vector<std::vector<v1::BackupResponse>> broken_ones = {
      {}, {info, first}, {info, first, end}, {info, first, changed, end}, {info, first, second}};
  for (const std::vector<v1::BackupResponse>& parts : broken_ones) {
    admin_.backup = parts;
    const Ended broken = Ctl({"backup", path});
    EXPECT_EQ(broken.code, kFailed);
    EXPECT_THAT(broken.err, HasSubstr("did not arrive whole"));
    EXPECT_EQ(dir_.Read("gateway.backup"), data);
    EXPECT_FALSE(std::filesystem::exists(path + ".part"));
  }
  EXPECT_EQ(Ctl({"backup", dir_.File("none/x")}).code, kFailed);
}

}  // namespace
}  // namespace gateway::ctl
