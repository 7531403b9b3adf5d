// Tokens, roles, scopes and the audit, each alone, and together through a running control plane.
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/config/bootstrap.h"
#include "controlplane/identity/audit_log.h"
#include "controlplane/identity/caller_limits.h"
#include "controlplane/identity/rules.h"
#include "controlplane/identity/scope.h"
#include "controlplane/identity/tokens.h"
#include "controlplane/server.h"
#include "gateway/v1/admin.grpc.pb.h"
#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/openid_issuer.h"
#include "tests/unit/controlplane/testing.h"

namespace gateway::controlplane {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

const absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);

v1::CreateTokenRequest TokenRequest(const std::string& name, v1::Token::Role role) {
  v1::CreateTokenRequest request;
  request.set_name(name);
  request.set_role(role);
  return request;
}

v1::Resource Labelled(v1::Resource resource, const std::string& label, const std::string& value) {
  google::protobuf::Map<std::string, std::string>* labels =
      resource.has_route() ? resource.mutable_route()->mutable_labels() : resource.mutable_service()->mutable_labels();
  (*labels)[label] = value;
  return resource;
}

std::string ReadFile(const std::string& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

class TokensTest : public ::testing::Test {
 protected:
  TokensTest() { Open(); }
  void Open() {
    tokens_.reset();
    store_.reset();
    store_ = Store::Open(At(dir_.File("gateway.db"))).value();
    tokens_ = Tokens::Open(store_.get()).value();
  }
  std::string Create(const v1::CreateTokenRequest& request) {
    const absl::StatusOr<v1::CreateTokenResponse> made = tokens_->Create(request, "tester", kNow);
    EXPECT_TRUE(made.ok()) << made.status();
    return made.ok() ? made->secret() : "";
  }
  absl::Status Refusal(const v1::CreateTokenRequest& request) {
    return tokens_->Create(request, "tester", kNow).status();
  }

  TempDir dir_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Tokens> tokens_;
};

TEST_F(TokensTest, ASecretIsKeptAsAHashAndLivesThroughARestart) {
  v1::CreateTokenRequest request = TokenRequest("ci", v1::Token::EDITOR);
  (*request.mutable_only())["team"] = "orders";
  request.add_kinds("routes");
  const std::string secret = Create(request);
  EXPECT_EQ(secret.size(), 4u + 43u) << "gwt_ and 256 bits";
  Open();
  const absl::StatusOr<Tokens::Grant> grant = tokens_->Find(secret, kNow);
  ASSERT_TRUE(grant.ok()) << grant.status();
  EXPECT_EQ(grant->name, "ci");
  EXPECT_EQ(grant->role, v1::Token::EDITOR);
  ASSERT_NE(grant->scope, nullptr);
  EXPECT_THAT(grant->scope->only, ElementsAre(std::pair("team", "orders")));
  EXPECT_THAT(grant->scope->kinds, ElementsAre("Route"));
  for (const auto& file : std::filesystem::directory_iterator(dir_.path())) {
    EXPECT_FALSE(absl::StrContains(ReadFile(file.path()), secret)) << file.path();
  }
}

TEST_F(TokensTest, WrongExpiredAndRevokedOnesAreToldApart) {
  v1::CreateTokenRequest brief = TokenRequest("brief", v1::Token::VIEWER);
  brief.mutable_expires_in()->set_seconds(60);
  const std::string expiring = Create(brief), revoked = Create(TokenRequest("gone", v1::Token::ADMIN));
  EXPECT_TRUE(tokens_->Find(expiring, kNow + absl::Seconds(59)).ok());
  const absl::Status late = tokens_->Find(expiring, kNow + absl::Seconds(60)).status();
  EXPECT_EQ(late.code(), absl::StatusCode::kUnauthenticated);
  EXPECT_THAT(std::string(late.message()), HasSubstr("'brief' has expired"));

  const Digest digest = tokens_->Find(revoked, kNow)->digest;
  EXPECT_TRUE(tokens_->InForce(digest, kNow));
  int told = 0;
  tokens_->revocations().Add([&told] { ++told; });
  EXPECT_TRUE(tokens_->Revoke("gone", kNow).ok());
  EXPECT_EQ(told, 1);
  EXPECT_FALSE(tokens_->InForce(digest, kNow));
  EXPECT_THAT(std::string(tokens_->Find(revoked, kNow).status().message()), HasSubstr("'gone' is revoked"));
  Open();
  EXPECT_FALSE(tokens_->Find(revoked, kNow).ok()) << "also after a restart";

  for (const std::string& wrong : {std::string(), expiring + "x", std::string("gwt_"), std::string(300, 'a')}) {
    EXPECT_EQ(tokens_->Find(wrong, kNow).status().code(), absl::StatusCode::kUnauthenticated) << wrong;
  }
  EXPECT_EQ(tokens_->Revoke("nobody", kNow).code(), absl::StatusCode::kNotFound);
}

TEST_F(TokensTest, ANameIsTakenWhileItsTokenIsInForce) {
  const std::string first = Create(TokenRequest("ci", v1::Token::ADMIN));
  EXPECT_EQ(Refusal(TokenRequest("ci", v1::Token::VIEWER)).code(), absl::StatusCode::kAlreadyExists);
  ASSERT_TRUE(tokens_->Revoke("ci", kNow).ok());
  const std::string second = Create(TokenRequest("ci", v1::Token::VIEWER));
  EXPECT_FALSE(tokens_->Find(first, kNow).ok()) << "reusing the name does not revive the old secret";
  EXPECT_EQ(tokens_->Find(second, kNow)->role, v1::Token::VIEWER);
  EXPECT_EQ(tokens_->List().size(), 1u);
}

TEST_F(TokensTest, WhatCannotBeIsRefusedByField) {
  EXPECT_THAT(std::string(Refusal(TokenRequest("", v1::Token::ADMIN)).message()), HasSubstr("name"));
  EXPECT_THAT(std::string(Refusal(TokenRequest("two words", v1::Token::ADMIN)).message()), HasSubstr("name"));
  for (const char* const own : {"bootstrap", "acme", "canary"}) {
    EXPECT_THAT(std::string(Refusal(TokenRequest(own, v1::Token::ADMIN)).message()),
                HasSubstr("the control plane's own"));
  }
  EXPECT_THAT(std::string(Refusal(TokenRequest("x", v1::Token::ROLE_UNSPECIFIED)).message()), HasSubstr("role"));
  v1::CreateTokenRequest request = TokenRequest("x", v1::Token::VIEWER);
  request.add_kinds("Route");
  EXPECT_THAT(std::string(Refusal(request).message()), HasSubstr("expected the role editor"));
  request = TokenRequest("x", v1::Token::EDITOR);
  request.add_kinds("Rout");
  EXPECT_THAT(std::string(Refusal(request).message()), HasSubstr("kinds"));
  request = TokenRequest("x", v1::Token::EDITOR);
  request.mutable_expires_in();
  EXPECT_THAT(std::string(Refusal(request).message()), HasSubstr("expires_in"));
  request = TokenRequest("x", v1::Token::EDITOR);
  for (size_t i = 0; i <= kTokenLabelsMax; ++i) (*request.mutable_only())[absl::StrCat("l", i)] = "v";
  EXPECT_THAT(std::string(Refusal(request).message()), HasSubstr("at most 16"));
}

TEST_F(TokensTest, TheFirstOneIsMadeOnceForItsReaderAlone) {
  const std::string path = dir_.File("gateway.db.admin-token");
  // An existing file with a wide mode: its content is not reused.
  std::ofstream(path) << "theirs";
  ASSERT_TRUE(tokens_->MakeFirst(path, kNow).ok());
  struct stat there {};
  ASSERT_EQ(stat(path.c_str(), &there), 0);
  EXPECT_EQ(there.st_mode & 0777, 0600u);
  std::string secret = ReadFile(path);
  ASSERT_TRUE(secret.ends_with("\n"));
  secret.pop_back();
  EXPECT_EQ(tokens_->Find(secret, kNow)->role, v1::Token::ADMIN);
  std::filesystem::remove(path);
  ASSERT_TRUE(tokens_->Revoke(kFirstToken, kNow).ok());
  Open();
  ASSERT_TRUE(tokens_->MakeFirst(path, kNow).ok());
  EXPECT_FALSE(std::filesystem::exists(path)) << "a revoked admin token is not replaced";
}

TEST_F(TokensTest, AFlippedBitGrantsNoRole) {
  Create(TokenRequest("viewer", v1::Token::VIEWER));
  tokens_.reset();
  store_.reset();
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(dir_.File("gateway.db").c_str(), &db), SQLITE_OK);
  // Field 2 is the role: 1 becomes 4.
  ASSERT_EQ(sqlite3_exec(db, "UPDATE tokens SET body = CAST(replace(body, x'1001', x'1004') AS BLOB)", nullptr, nullptr,
                         nullptr),
            SQLITE_OK);
  ASSERT_EQ(sqlite3_changes(db), 1);
  sqlite3_close(db);
  store_ = Store::Open(At(dir_.File("gateway.db"))).value();
  EXPECT_EQ(Tokens::Open(store_.get()).status().code(), absl::StatusCode::kDataLoss);
}

TEST(ReferencesOf, FollowsTheSchema) {
  v1::Resource resource = PrefixRoute("r", "svc");
  resource.mutable_route()->add_rate_limits("limit");
  resource.mutable_route()->set_auth("none");
  resource.mutable_route()->add_mirror()->set_service("shadow");
  EXPECT_THAT(ReferencesOf(resource),
              UnorderedElementsAre(ResourceKey{"Service", "svc"}, ResourceKey{"Service", "shadow"},
                                   ResourceKey{"RateLimit", "limit"}));
}

class ScopeTest : public ::testing::Test {
 protected:
  // "": allowed.
  std::string Denied(const v1::Resource* before, const v1::Resource* after, bool built_in = false) {
    const ResourceKey key = KeyOf(before == nullptr ? *after : *before);
    const absl::Status status = scope_.CheckEdit(key, {before, built_in}, after, [this](const ResourceKey& wanted) {
      const auto it = set_.find(wanted);
      return it == set_.end() ? Scope::Known() : Scope::Known{&it->second, builtins_.contains(wanted)};
    });
    EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kPermissionDenied) << status;
    return std::string(status.message());
  }
  void Add(const v1::Resource& resource) { set_[KeyOf(resource)] = resource; }

  Scope scope_{{{"team", "orders"}}, {}};
  std::map<ResourceKey, v1::Resource> set_;
  std::set<ResourceKey> builtins_;
};

TEST_F(ScopeTest, LabelsHoldBeforeAndAfter) {
  const v1::Resource ours = Labelled(StaticService("a"), "team", "orders"),
                     theirs = Labelled(StaticService("a"), "team", "x"), nobodys = StaticService("a");
  EXPECT_EQ(Denied(nullptr, &ours), "");
  EXPECT_EQ(Denied(&ours, &ours), "");
  EXPECT_EQ(Denied(&ours, nullptr), "");
  EXPECT_THAT(Denied(nullptr, &nobodys), HasSubstr("expected the labels team=orders"));
  EXPECT_THAT(Denied(&ours, &theirs), HasSubstr("expected the labels")) << "must not drop the label";
  EXPECT_THAT(Denied(&theirs, &ours), HasSubstr("not yours")) << "must not take over another's resource";
  EXPECT_THAT(Denied(&theirs, nullptr), HasSubstr("not yours"));
  EXPECT_THAT(Denied(&nobodys, &ours), HasSubstr("not yours"));
  EXPECT_THAT(Denied(&ours, &ours, /*built_in=*/true), HasSubstr("not yours")) << "built-ins are shared";
}

TEST_F(ScopeTest, KindsHoldToo) {
  scope_.kinds = {"Route"};
  const v1::Resource service = Labelled(StaticService("a"), "team", "orders");
  EXPECT_THAT(Denied(nullptr, &service), HasSubstr("you may change Route"));
  scope_.only.clear();
  const v1::Resource route = PrefixRoute("r", "a");
  EXPECT_EQ(Denied(nullptr, &route), "");
  EXPECT_THAT(Denied(nullptr, &service), HasSubstr("you may change Route"));
}

TEST_F(ScopeTest, ReferencesLeadToOwnSharedAndBuiltInResources) {
  const v1::Resource route = Labelled(PrefixRoute("r", "target"), "team", "orders");
  Add(Labelled(StaticService("target"), "team", "billing"));
  EXPECT_THAT(Denied(nullptr, &route), HasSubstr("refers to Service/target"));
  // A reference set by another user stays.
  EXPECT_EQ(Denied(&route, &route), "");
  Add(Labelled(StaticService("target"), "shared", "true"));
  EXPECT_EQ(Denied(nullptr, &route), "");
  Add(Labelled(StaticService("target"), "shared", "false"));
  EXPECT_THAT(Denied(nullptr, &route), HasSubstr("refers to Service/target"));
  builtins_.insert({"Service", "target"});
  EXPECT_EQ(Denied(nullptr, &route), "");
  builtins_.clear();
  Add(Labelled(StaticService("target"), "team", "orders"));
  EXPECT_EQ(Denied(nullptr, &route), "");
}

class AuditLogTest : public ::testing::Test {
 protected:
  Caller Mallory() {
    Caller caller;
    caller.name = "mallory";
    caller.address = "192.0.2.1";
    caller.action = "Apply";
    return caller;
  }
  std::vector<v1::AuditEntry> All(const std::string& actor = "", absl::Time since = absl::InfinitePast()) {
    return store_->AuditBefore(0, actor, since, 10'000).value();
  }

  TempDir dir_;
  std::unique_ptr<Store> store_ = Store::Open(At(dir_.File("gateway.db"))).value();
};

TEST_F(AuditLogTest, EntriesGoToTheDatabaseAndToAFileOfLines) {
  const std::string path = dir_.File("audit.jsonl");
  {
    AuditLog log(store_.get(), path);
    ASSERT_TRUE(log.CheckFile().ok());
    log.Denied(Mallory(), "no \"such\" right\n", kNow);
    v1::AuditEntry committed;
    committed.set_actor("alice");
    committed.set_outcome(v1::AuditEntry::DONE);
    committed.set_revision(7);
    log.Committed(committed);
    log.Flush();
  }
  ASSERT_EQ(All().size(), 1u) << "the store writes a revision's entry";
  EXPECT_EQ(All()[0].detail(), "no \"such\" right\n");
  EXPECT_EQ(All("mallory").size(), 1u);
  EXPECT_EQ(All("alice").size(), 0u);
  EXPECT_EQ(All("", kNow + absl::Seconds(1)).size(), 0u);
  std::istringstream lines(ReadFile(path));
  std::string line;
  ASSERT_TRUE(std::getline(lines, line));
  const auto first = nlohmann::json::parse(line);
  EXPECT_EQ(first["actor"], "mallory");
  EXPECT_EQ(first["address"], "192.0.2.1");
  EXPECT_EQ(first["action"], "Apply");
  EXPECT_EQ(first["outcome"], "denied");
  EXPECT_EQ(first["time"], "2027-01-15T08:00:00+00:00");
  ASSERT_TRUE(std::getline(lines, line));
  EXPECT_EQ(nlohmann::json::parse(line)["revision"], 7);
  EXPECT_FALSE(std::getline(lines, line));
  struct stat there {};
  ASSERT_EQ(stat(path.c_str(), &there), 0);
  EXPECT_EQ(there.st_mode & 0777, 0600u);
}

TEST_F(AuditLogTest, AFloodOfDenialsIsCountedAndNotWritten) {
  AuditLog log(store_.get(), "");
  for (int i = 0; i < 10'000; ++i) log.Denied(Mallory(), "no", kNow);
  log.Flush();
  EXPECT_EQ(All().size(), static_cast<size_t>(AuditLog::kDeniedBurst));
  EXPECT_EQ(log.dropped(), 10'000u - AuditLog::kDeniedBurst);
  log.Denied(Mallory(), "no", kNow + absl::Seconds(1));
  log.Flush();
  EXPECT_THAT(All()[0].detail(), HasSubstr(absl::StrCat("after ", 10'000 - AuditLog::kDeniedBurst, " denied")));
}

TEST_F(AuditLogTest, TheOldestGoPastTheBound) {
  store_.reset();
  StoreOptions options = At(dir_.File("gateway.db"));
  options.audit_rows_max = 10;
  store_ = Store::Open(options).value();
  v1::AuditEntry entry;
  for (int i = 0; i < 25; ++i) {
    entry.set_detail(absl::StrCat(i));
    ASSERT_TRUE(store_->AppendAudit({&entry, 1}).ok());
  }
  const std::vector<v1::AuditEntry> kept = All();
  ASSERT_EQ(kept.size(), 10u);
  EXPECT_EQ(kept.front().detail(), "24");
  EXPECT_EQ(kept.back().detail(), "15");
  EXPECT_EQ(store_->AuditBefore(kept[3].number(), "", absl::InfinitePast(), 2).value()[0].detail(), "20");
}

TEST_F(AuditLogTest, AnUnwritableFileIsReportedAtTheStart) {
  AuditLog log(store_.get(), dir_.File("no/such/folder"));
  EXPECT_THAT(std::string(log.CheckFile().message()), HasSubstr("control_plane.audit_log.path"));
}

TEST(CallerLimits, OneCallerHasItsShareAndLeavesTheOthersTheirs) {
  CallerLimits limits;
  std::vector<CallerLimits::Slot> running;
  for (int i = 0; i < CallerLimits::Rates().concurrent; ++i) running.push_back(limits.Admit("wild", kNow).value());
  EXPECT_THAT(std::string(limits.Admit("wild", kNow).status().message()), HasSubstr("128 calls running"));
  EXPECT_TRUE(limits.Admit("calm", kNow).ok());
  running.pop_back();
  EXPECT_TRUE(limits.Admit("wild", kNow).ok());
  running.clear();
  int admitted = 0;
  while (limits.Admit("wild", kNow).ok()) ++admitted;
  EXPECT_EQ(admitted, static_cast<int>(CallerLimits::Rates().burst) - CallerLimits::Rates().concurrent - 1);
  EXPECT_EQ(limits.Admit("wild", kNow).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(limits.Admit("calm", kNow).ok());
  EXPECT_TRUE(limits.Admit("wild", kNow + absl::Milliseconds(2)).ok());
}

TEST(CallerLimits, ThoseWhoAreIdleAreForgottenFirst) {
  CallerLimits limits;
  const CallerLimits::Slot busy = limits.Admit("busy", kNow).value();
  for (size_t i = 1; i < CallerLimits::kCallersMax; ++i) ASSERT_TRUE(limits.Admit(absl::StrCat(i), kNow).ok());
  EXPECT_FALSE(limits.Admit("one more", kNow).ok());
  EXPECT_TRUE(limits.Admit("one more", kNow + absl::Seconds(10)).ok());
}

// A control plane where every call needs a token, with calls by method name.
class GateTest : public ::testing::Test {
 protected:
  GateTest() {
    v1::Bootstrap config = LoadBootstrap("", {}, {}).config;
    config.mutable_consul()->set_address("");
    v1::ControlPlaneSection* section = config.mutable_control_plane();
    section->set_admin_listen("127.0.0.1:0");
    section->set_stream_listen("127.0.0.1:0");
    section->set_metrics_port(0);
    section->set_database(dir_.File("gateway.db"));
    section->set_require_credentials(true);
    v1::OidcSection* oidc = section->mutable_oidc();
    oidc->set_issuer(issuer_.url());
    oidc->set_audience("gateway");
    oidc->set_ca(issuer_.ca());
    for (const char* role : {"viewer", "operator", "editor", "admin"}) {
      v1::OidcRole* added = oidc->add_roles();
      added->set_group(absl::StrCat(role, "s"));
      added->set_role(role);
    }
    v1::OidcRole* other_team = oidc->add_roles();
    other_team->set_group("other-team");
    other_team->set_role("editor");
    (*other_team->mutable_only())["team"] = "other";
    auto started = ControlPlane::Start(config);
    EXPECT_TRUE(started.ok()) << started.status();
    control_plane_ = *std::move(started);
    channel_ = grpc::CreateChannel(absl::StrCat("127.0.0.1:", control_plane_->admin_port()),
                                   grpc::InsecureChannelCredentials());
    stub_ = v1::Admin::NewStub(channel_);
    admin_ = ReadFile(dir_.File("gateway.db.admin-token"));
    admin_.pop_back();
  }

  static void Identify(grpc::ClientContext* context, const std::string& token) {
    context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    if (!token.empty()) context->AddMetadata("authorization", "Bearer " + token);
  }
  std::string MakeToken(const v1::CreateTokenRequest& request) {
    grpc::ClientContext context;
    Identify(&context, admin_);
    v1::CreateTokenResponse response;
    const grpc::Status status = stub_->CreateToken(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.secret();
  }
  grpc::Status Revoke(const std::string& name) {
    grpc::ClientContext context;
    Identify(&context, admin_);
    v1::RevokeTokenRequest request;
    request.set_name(name);
    v1::RevokeTokenResponse response;
    return stub_->RevokeToken(&context, request, &response);
  }
  grpc::Status Apply(const std::string& token, std::initializer_list<v1::Resource> resources, bool dry_run = false) {
    grpc::ClientContext context;
    Identify(&context, token);
    v1::ApplyRequest request = ApplyOf(resources);
    request.set_dry_run(dry_run);
    v1::ApplyResponse response;
    return stub_->Apply(&context, request, &response);
  }
  grpc::Status Delete(const std::string& token, const std::string& kind, const std::string& name) {
    grpc::ClientContext context;
    Identify(&context, token);
    v1::DeleteRequest request;
    request.set_kind(kind);
    request.set_name(name);
    v1::DeleteResponse response;
    return stub_->Delete(&context, request, &response);
  }
  grpc::Status Rollback(const std::string& token, uint64_t revision) {
    grpc::ClientContext context;
    Identify(&context, token);
    v1::RollbackRequest request;
    request.set_revision(revision);
    v1::RollbackResponse response;
    return stub_->Rollback(&context, request, &response);
  }
  std::vector<v1::AuditEntry> Audit() {
    grpc::ClientContext context;
    Identify(&context, admin_);
    v1::ListAuditRequest request;
    request.set_page_size(1'000);
    v1::ListAuditResponse response;
    EXPECT_TRUE(stub_->ListAudit(&context, request, &response).ok());
    return {response.entries().begin(), response.entries().end()};
  }

  // Calls any method by name, with `request` as its bytes: returns its status, or OK once a first message arrives.
  grpc::StatusCode CallByName(const std::string& method, const std::string& request, const std::string& token) {
    grpc::GenericStub generic(channel_);
    grpc::CompletionQueue queue;
    grpc::ClientContext context;
    Identify(&context, token);
    const auto done = [&queue] {
      void* tag = nullptr;
      bool ok = false;
      queue.Next(&tag, &ok);
      return ok;
    };
    auto call = generic.PrepareCall(&context, "/gateway.v1.Admin/" + method, &queue);
    call->StartCall(nullptr);
    done();
    const grpc::Slice slice(request);
    call->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), nullptr);
    done();
    grpc::ByteBuffer answer;
    call->Read(&answer, nullptr);
    const bool answered = done();
    if (answered) context.TryCancel();
    grpc::Status status;
    call->Finish(&status, nullptr);
    done();
    queue.Shutdown();
    void* tag = nullptr;
    bool ok = false;
    while (queue.Next(&tag, &ok)) {
    }
    return answered ? grpc::StatusCode::OK : status.error_code();
  }

  TempDir dir_;
  fixtures::OpenIdIssuer issuer_;
  std::unique_ptr<ControlPlane> control_plane_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Admin::Stub> stub_;
  std::string admin_;
};

// Every call by every kind of caller. A new call must be added here, in rules.cc and in AdminGate.
TEST_F(GateTest, EveryCallIsLimitedToItsRoles) {
  const std::map<std::string, v1::Token::Role> for_roles = {
      {"Apply", v1::Token::EDITOR},
      {"Get", v1::Token::VIEWER},
      {"List", v1::Token::VIEWER},
      {"Delete", v1::Token::EDITOR},
      {"History", v1::Token::VIEWER},
      {"GetRevision", v1::Token::VIEWER},
      {"Export", v1::Token::ADMIN},
      {"ResourceHistory", v1::Token::VIEWER},
      {"Backup", v1::Token::ADMIN},
      {"Lint", v1::Token::VIEWER},
      {"ForgetDataPlanes", v1::Token::OPERATOR},
      {"AcceptHistory", v1::Token::ADMIN},
      {"Rollback", v1::Token::OPERATOR},
      {"DecideChange", v1::Token::EDITOR},
      {"DecideCanary", v1::Token::OPERATOR},
      {"GetChange", v1::Token::VIEWER},
      {"Watch", v1::Token::VIEWER},
      {"ListDataPlanes", v1::Token::VIEWER},
      {"Rollout", v1::Token::VIEWER},
      {"ListEndpoints", v1::Token::VIEWER},
      {"ListBreakers", v1::Token::VIEWER},
      {"ListLimits", v1::Token::VIEWER},
      {"GetServerInfo", v1::Token::VIEWER},
      {"SetEndpoint", v1::Token::OPERATOR},
      {"DecideEndpoints", v1::Token::OPERATOR},
      {"ListEndpointHistory", v1::Token::VIEWER},
      {"SetDrain", v1::Token::OPERATOR},
      {"SetLogLevel", v1::Token::OPERATOR},
      {"Diagnose", v1::Token::ADMIN},
      {"CreateToken", v1::Token::ADMIN},
      {"CreateJoinToken", v1::Token::ADMIN},
      {"ListTokens", v1::Token::ADMIN},
      {"RevokeToken", v1::Token::ADMIN},
      {"ListAudit", v1::Token::ADMIN},
  };
  ASSERT_TRUE(Apply(admin_, {StaticService("svc")}).ok());
  // A Watch from here on has something to send at once.
  v1::WatchRequest watch;
  watch.set_after_revision(1);

  v1::CreateTokenRequest brief = TokenRequest("brief", v1::Token::ADMIN);
  brief.mutable_expires_in()->set_nanos(1'000'000);
  const std::string expired = MakeToken(brief);
  ASSERT_TRUE(Eventually([&] { return CallByName("List", "", expired) == grpc::StatusCode::UNAUTHENTICATED; }));
  const std::string revoked = MakeToken(TokenRequest("gone", v1::Token::ADMIN));
  ASSERT_TRUE(Revoke("gone").ok());
  v1::CreateTokenRequest other_team = TokenRequest("other-team", v1::Token::EDITOR);
  (*other_team.mutable_only())["team"] = "other";
  struct Credential {
    std::string what, token;
    v1::Token::Role role;  // ROLE_UNSPECIFIED: it may call nothing
    grpc::StatusCode denied = grpc::StatusCode::UNAUTHENTICATED;
  };
  const auto jwt = [this](const char* group) { return issuer_.TokenFor("jwt", absl::StrCat("[\"", group, "\"]")); };
  const fixtures::TokenSigner stranger(JwsAlgorithm::kEs256, "k1");
  const std::vector<Credential> credentials = {
      {"none", "", v1::Token::ROLE_UNSPECIFIED},
      {"wrong", "gwt_0000000000000000000000000000000000000000000", v1::Token::ROLE_UNSPECIFIED},
      {"expired", expired, v1::Token::ROLE_UNSPECIFIED},
      {"revoked", revoked, v1::Token::ROLE_UNSPECIFIED},
      {"viewer", MakeToken(TokenRequest("v", v1::Token::VIEWER)), v1::Token::VIEWER},
      {"operator", MakeToken(TokenRequest("o", v1::Token::OPERATOR)), v1::Token::OPERATOR},
      {"editor", MakeToken(TokenRequest("e", v1::Token::EDITOR)), v1::Token::EDITOR},
      {"another team's editor", MakeToken(other_team), v1::Token::EDITOR},
      {"admin", admin_, v1::Token::ADMIN},
      {"JWT of a viewer", jwt("viewers"), v1::Token::VIEWER},
      {"JWT of an operator", jwt("operators"), v1::Token::OPERATOR},
      {"JWT of an editor", jwt("editors"), v1::Token::EDITOR},
      {"JWT of another team's editor", jwt("other-team"), v1::Token::EDITOR},
      {"JWT of an admin", jwt("admins"), v1::Token::ADMIN},
      {"JWT without a group", jwt("guests"), v1::Token::ROLE_UNSPECIFIED, grpc::StatusCode::PERMISSION_DENIED},
      {"JWT of a stranger",
       stranger.Sign(absl::StrCat(R"({"iss":")", issuer_.url(),
                                  R"(","aud":"gateway","sub":"x","groups":["admins"],"exp":9000000000})")),
       v1::Token::ROLE_UNSPECIFIED},
      {"expired JWT",
       issuer_.signer().Sign(
           absl::StrCat(R"({"iss":")", issuer_.url(), R"(","aud":"gateway","sub":"x","groups":["admins"],"exp":1})")),
       v1::Token::ROLE_UNSPECIFIED},
  };
  const google::protobuf::ServiceDescriptor* service =
      v1::ApplyRequest::descriptor()->file()->FindServiceByName("Admin");
  ASSERT_NE(service, nullptr);
  for (int i = 0; i < service->method_count(); ++i) {
    const std::string& method = service->method(i)->name();
    ASSERT_NE(RuleOf(method), nullptr) << method << " has no rule";
    const auto expected = for_roles.find(method);
    ASSERT_NE(expected, for_roles.end()) << method << " is not in this test";
    const std::string request = method == "Watch" ? watch.SerializeAsString() : "";
    for (const Credential& credential : credentials) {
      const grpc::StatusCode code = CallByName(method, request, credential.token);
      const std::string what = absl::StrCat(method, " with credential: ", credential.what);
      if (credential.role == v1::Token::ROLE_UNSPECIFIED) {
        EXPECT_EQ(code, credential.denied) << what;
      } else if (credential.role < expected->second || (absl::StrContains(credential.what, "another team's editor") &&
                                                        RuleOf(method)->effect == CallRule::kChangesFleet)) {
        EXPECT_EQ(code, grpc::StatusCode::PERMISSION_DENIED) << what;
      } else {
        // An empty request may be invalid or name nothing, but it passes the gate and gets a response.
        EXPECT_NE(code, grpc::StatusCode::UNAUTHENTICATED) << what;
        EXPECT_NE(code, grpc::StatusCode::PERMISSION_DENIED) << what;
        EXPECT_NE(code, grpc::StatusCode::UNIMPLEMENTED) << what;
        EXPECT_NE(code, grpc::StatusCode::DEADLINE_EXCEEDED) << what;
      }
    }
  }
}

TEST_F(GateTest, ATeamChangesOnlyItsOwnResources) {
  v1::CreateTokenRequest bound = TokenRequest("orders-ci", v1::Token::EDITOR);
  (*bound.mutable_only())["team"] = "orders";
  const std::string team = MakeToken(bound);
  const v1::Resource ours = Labelled(StaticService("ours"), "team", "orders");
  const v1::Resource theirs = Labelled(StaticService("theirs"), "team", "billing");
  ASSERT_TRUE(Apply(admin_, {theirs}).ok());  // revision 2
  EXPECT_TRUE(Apply(team, {ours}).ok());      // revision 3
  EXPECT_TRUE(Apply(team, {ours, theirs}).ok()) << "an unchanged resource needs no permission";

  v1::Resource taken = theirs;
  taken.mutable_service()->mutable_static_(0)->set_address("127.0.0.1:1");
  for (const v1::Resource& forbidden :
       {taken, Labelled(taken, "team", "orders"), StaticService("unlabelled"), Labelled(ours, "team", "billing"),
        Labelled(PrefixRoute("r", "theirs"), "team", "orders")}) {
    const grpc::Status status = Apply(team, {forbidden});
    EXPECT_EQ(status.error_code(), grpc::StatusCode::PERMISSION_DENIED) << forbidden.ShortDebugString();
    EXPECT_EQ(Apply(team, {forbidden}, /*dry_run=*/true).error_code(), grpc::StatusCode::PERMISSION_DENIED);
  }
  // Also with an error in it: the content of another team's resource is not disclosed.
  v1::Resource broken = taken;
  broken.mutable_service()->set_retry("nothing");
  EXPECT_EQ(Apply(team, {broken, broken}).error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(Delete(team, "Service", "theirs").error_code(), grpc::StatusCode::PERMISSION_DENIED);
  // Revision 1 has neither; a rollback to it would delete another team's resource.
  EXPECT_EQ(Rollback(team, 1).error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(control_plane_->publisher().current()->revision, 3u);
  EXPECT_TRUE(Rollback(team, 2).ok()) << "it only reverts its own change";
  EXPECT_TRUE(Apply(team, {ours, Labelled(PrefixRoute("r", "ours"), "team", "orders")}).ok());
  EXPECT_TRUE(Delete(team, "Route", "r").ok());
}

TEST_F(GateTest, ARevokedTokenEndsItsOpenStreamsAtOnce) {
  const std::string token = MakeToken(TokenRequest("watcher", v1::Token::VIEWER));
  grpc::ClientContext context, others;
  Identify(&context, token);
  Identify(&others, admin_);
  v1::WatchRequest request;
  request.set_after_revision(1);
  auto watch = stub_->Watch(&context, request);
  auto unharmed = stub_->Watch(&others, request);
  ASSERT_TRUE(Apply(admin_, {StaticService("svc")}).ok());
  v1::WatchResponse response;
  ASSERT_TRUE(watch->Read(&response));
  ASSERT_TRUE(unharmed->Read(&response));
  ASSERT_TRUE(Revoke("watcher").ok());
  EXPECT_FALSE(watch->Read(&response));
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
  ASSERT_TRUE(Apply(admin_, {StaticService("svc-2")}).ok());
  EXPECT_TRUE(unharmed->Read(&response));
  others.TryCancel();
}

TEST_F(GateTest, AnExpiringTokenEndsItsOpenStreams) {
  v1::CreateTokenRequest brief = TokenRequest("brief", v1::Token::VIEWER);
  brief.mutable_expires_in()->set_seconds(1);
  grpc::ClientContext context;
  Identify(&context, MakeToken(brief));
  auto watch = stub_->Watch(&context, v1::WatchRequest());
  v1::WatchResponse response;
  EXPECT_FALSE(watch->Read(&response));
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

// Issuers list every group of an operator: more than the 8 KiB that gRPC takes by default.
TEST_F(GateTest, ATokenMayListManyGroups) {
  std::string groups = R"(["viewers")";
  for (int i = 0; i < 500; ++i) absl::StrAppend(&groups, R"(,"department-)", i, "\"");
  const std::string token = issuer_.TokenFor("carol", groups + "]");
  ASSERT_GT(token.size(), 11'000u);
  EXPECT_EQ(CallByName("List", "", token), grpc::StatusCode::OK);
}

TEST_F(GateTest, AnExpiringTokenOfAnIssuerEndsItsOpenStreams) {
  const int64_t soon = absl::ToUnixSeconds(absl::Now()) - absl::ToInt64Seconds(absl::FromChrono(Oidc::kLeeway)) + 2;
  grpc::ClientContext context;
  Identify(&context, issuer_.signer().Sign(
                         absl::StrCat(R"({"iss":")", issuer_.url(),
                                      R"(","aud":"gateway","sub":"carol","groups":["viewers"],"exp":)", soon, "}")));
  auto watch = stub_->Watch(&context, v1::WatchRequest());
  v1::WatchResponse response;
  EXPECT_FALSE(watch->Read(&response));
  const grpc::Status status = watch->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_THAT(status.error_message(), HasSubstr("expired"));
}

TEST_F(GateTest, HistoryAndAuditNameTheOperatorOfAnIssuer) {
  ASSERT_TRUE(Apply(issuer_.TokenFor("carol@example.com", R"(["editors"])"), {StaticService("svc")}).ok());
  const std::vector<v1::RevisionInfo> revisions = control_plane_->publisher().store().RevisionsBefore(0, {}, 1).value();
  EXPECT_EQ(revisions[0].actor(), "carol@example.com");
  const std::string bound = issuer_.TokenFor("dave", R"(["other-team"])");
  EXPECT_EQ(Delete(bound, "Service", "svc").error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_TRUE(Apply(bound, {Labelled(StaticService("theirs"), "team", "other")}).ok());
  EXPECT_EQ(Delete(issuer_.TokenFor("eve", R"(["guests"])"), "Service", "svc").error_code(),
            grpc::StatusCode::PERMISSION_DENIED);
  std::vector<std::string> told;
  for (const v1::AuditEntry& entry : Audit()) {
    told.push_back(
        absl::StrCat(entry.actor(), " ", entry.action(), " ", v1::AuditEntry::Outcome_Name(entry.outcome())));
  }
  EXPECT_THAT(told, UnorderedElementsAre("eve Delete DENIED", "dave Apply DONE", "dave Delete DENIED",
                                         "carol@example.com Apply DONE", "bootstrap Start DONE"));
}

TEST_F(GateTest, HistoryAndAuditNameWhoWasAuthenticatedAndNotWhoWasClaimed) {
  const std::string token = MakeToken(TokenRequest("alice", v1::Token::EDITOR));
  Audit();  // waits until it is written: only then is the order that of the numbers
  grpc::ClientContext context;
  Identify(&context, token);
  v1::ApplyRequest request = ApplyOf({StaticService("svc")}, "somebody-else");
  request.mutable_context()->set_comment("why");
  v1::ApplyResponse response;
  ASSERT_TRUE(stub_->Apply(&context, request, &response).ok());
  const std::vector<v1::RevisionInfo> revisions = control_plane_->publisher().store().RevisionsBefore(0, {}, 1).value();
  EXPECT_EQ(revisions[0].actor(), "alice");
  EXPECT_EQ(Delete(MakeToken(TokenRequest("bob", v1::Token::VIEWER)), "Service", "svc").error_code(),
            grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(Delete("wrong", "Service", "svc").error_code(), grpc::StatusCode::UNAUTHENTICATED);

  std::vector<std::string> told;
  for (const v1::AuditEntry& entry : Audit()) {
    told.push_back(absl::StrCat(entry.actor(), " ", entry.action(), " ", v1::AuditEntry::Outcome_Name(entry.outcome()),
                                " ", entry.revision(), " ", entry.detail()));
    if (entry.action() != "Start") {
      EXPECT_EQ(entry.address(), "127.0.0.1");
    }
    EXPECT_GT(entry.time().seconds(), 0);
  }
  EXPECT_THAT(
      told,
      ElementsAre(" Delete DENIED 0 the token is not known",
                  "bob Delete DENIED 0 'bob' has the role viewer; Delete needs editor or above",
                  "admin CreateToken DONE 0 created token bob, viewer", "alice Apply DONE 2 created Service/svc: why",
                  "admin CreateToken DONE 0 created token alice, editor", HasSubstr("bootstrap Start DONE 1 ")));
}

TEST_F(GateTest, ACredentialOfAnotherFormIsRefused) {
  for (const char* const value : {"Basic YWRtaW46YWRtaW4=", "Bearer", "Bearer ", ""}) {
    grpc::ClientContext context;
    context.AddMetadata("authorization", value);
    v1::ListResponse response;
    EXPECT_EQ(stub_->List(&context, v1::ListRequest(), &response).error_code(), grpc::StatusCode::UNAUTHENTICATED)
        << value;
  }
  grpc::ClientContext twice;
  twice.AddMetadata("authorization", "Bearer " + admin_);
  twice.AddMetadata("authorization", "Bearer " + admin_);
  v1::ListResponse response;
  EXPECT_EQ(stub_->List(&twice, v1::ListRequest(), &response).error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

}  // namespace
}  // namespace gateway::controlplane
