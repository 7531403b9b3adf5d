// Join tokens: one certificate for one key, in the database; and the service in front of them, over TLS.
#include "controlplane/identity/joining.h"

#include <sqlite3.h>

#include <fstream>
#include <memory>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/pki.h"
#include "common/config/bootstrap.h"
#include "common/policy/schema_version.h"
#include "controlplane/server.h"
#include "controlplane/stream/join_service.h"
#include "gateway/v1/admin.grpc.pb.h"
#include "gateway/v1/config_stream.grpc.pb.h"
#include "gateway/v1/join.grpc.pb.h"
#include "gateway/v1/quota.grpc.pb.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "tests/unit/controlplane/testing.h"

namespace gateway::controlplane {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

std::string RequestFor(const std::string& key) { return MakeSigningRequest(key, "dp").value(); }

class Joins : public ::testing::Test {
 protected:
  Joins() {
    server_ = IssueCertificate(
                  ca_, {.common_name = "cp", .names = {"127.0.0.1"}, .server = true, .lifetime = absl::Hours(24)}, now_)
                  .value();
    Write("ca.crt", ca_.certificate);
    Write("ca.key", ca_.private_key);
    Write("cp.crt", server_.certificate);
    Write("cp.key", server_.private_key);
    store_ = Store::Open(At(dir_.File("gateway.db"))).value();
  }
  void Write(const std::string& file, const std::string& text) { std::ofstream(dir_.File(file)) << text; }
  void Open() {
    joining_.reset();
    auto opened = Try(ca_.certificate);
    ASSERT_TRUE(opened.ok()) << opened.status();
    joining_ = *std::move(opened);
  }
  absl::StatusOr<std::unique_ptr<Joining>> Try(const std::string& client_ca) {
    return Joining::Open(
        {.authority = {.cert = dir_.File("ca.crt"), .key = dir_.File("ca.key")},
         .server_certificate = dir_.File("cp.crt"),
         .lifetime = absl::Hours(2)},
        [this, client_ca] { return client_ca_.empty() ? client_ca : client_ca_; }, store_.get());
  }
  absl::StatusOr<v1::CreateJoinTokenResponse> Create(const std::string& name,
                                                     absl::Duration lifetime = absl::Hours(1)) {
    v1::CreateJoinTokenRequest request;
    request.set_name(name);
    request.mutable_expires_in()->set_seconds(absl::ToInt64Seconds(lifetime));
    return joining_->CreateToken(request, now_);
  }
  absl::Status Enroll(const std::string& token, const std::string& signing_request) {
    v1::EnrollRequest request;
    request.set_token(token);
    request.set_certificate_request(signing_request);
    name_.clear();
    response_.Clear();
    return joining_->Enroll(request, now_, &name_, &response_);
  }

  TempDir dir_;
  absl::Time now_ = absl::FromUnixSeconds(absl::ToUnixSeconds(absl::Now()));
  const CertificateAndKey ca_ = MakeAuthority("lab", now_, absl::Hours(48)).value();
  CertificateAndKey server_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Joining> joining_;
  std::string client_ca_;  // "": as it was opened
  std::string name_;
  v1::EnrollResponse response_;
};

TEST_F(Joins, ATokenGivesItsNameACertificateForTheKeyOfTheRequest) {
  Open();
  const auto token = Create("dp-7");
  ASSERT_TRUE(token.ok()) << token.status();
  EXPECT_THAT(token->secret(), StartsWith("gwj_"));
  EXPECT_EQ(token->ca(), ca_.certificate);
  const std::string key = MakePrivateKey().value();
  ASSERT_TRUE(Enroll(token->secret(), RequestFor(key)).ok());
  EXPECT_EQ(name_, "dp-7");
  const CertificateInfo info = DescribeCertificate(response_.certificate()).value();
  EXPECT_EQ(info.common_name, "dp-7");
  EXPECT_EQ(info.organizational_unit, "data-plane") << "no role on the admin API";
  EXPECT_THAT(info.names.dns, ElementsAre("dp-7")) << "whatever the request asks for";
  EXPECT_EQ(info.not_after, now_ + absl::Hours(2));
  EXPECT_EQ(response_.not_after().seconds(), absl::ToUnixSeconds(info.not_after));
  EXPECT_TRUE(IsIssuedBy(response_.certificate(), ca_.certificate));
  EXPECT_FALSE(IsAuthority(response_.certificate()));
  Write("dp.crt", response_.certificate());
  Write("dp.key", key);
  EXPECT_TRUE(ReadTlsFiles({dir_.File("dp.crt"), dir_.File("dp.key"), ""}, now_).ok()) << "not for this key";
}

TEST_F(Joins, ATokenIsSpentByTheFirstKeyWhichMayAskAgain) {
  Open();
  const std::string secret = Create("dp-7")->secret();
  const std::string first = RequestFor(MakePrivateKey().value());
  const std::string second = RequestFor(MakePrivateKey().value());
  ASSERT_TRUE(Enroll(secret, first).ok());
  EXPECT_TRUE(Enroll(secret, first).ok()) << "its response may have been lost";
  // Also after a restart.
  joining_.reset();
  store_.reset();
  store_ = Store::Open(At(dir_.File("gateway.db"))).value();
  Open();
  const absl::Status refused = Enroll(secret, second);
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnauthenticated);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("is spent"));
  EXPECT_EQ(name_, "dp-7") << "the audit names the owner";
  EXPECT_THAT(response_.certificate(), IsEmpty());
  EXPECT_TRUE(Enroll(secret, first).ok());
}

TEST_F(Joins, AFailedRequestSpendsNothing) {
  Open();
  const std::string secret = Create("dp-7")->secret();
  EXPECT_EQ(Enroll(secret, "no request").code(), absl::StatusCode::kInvalidArgument);
  std::filesystem::rename(dir_.File("ca.key"), dir_.File("away"));
  EXPECT_EQ(Enroll(secret, RequestFor(MakePrivateKey().value())).code(), absl::StatusCode::kFailedPrecondition);
  std::filesystem::rename(dir_.File("away"), dir_.File("ca.key"));
  EXPECT_TRUE(Enroll(secret, RequestFor(MakePrivateKey().value())).ok());
}

TEST_F(Joins, ExpiredAndUnknownTokensAreRefused) {
  Open();
  const std::string secret = Create("dp-7", absl::Minutes(5))->secret();
  const std::string request = RequestFor(MakePrivateKey().value());
  now_ += absl::Minutes(5);
  EXPECT_THAT(std::string(Enroll(secret, request).message()), HasSubstr("the join token of 'dp-7' has expired"));
  for (const std::string& wrong : {std::string(), std::string("gwj_"), secret + "x", std::string(100'000, 'a')}) {
    const absl::Status refused = Enroll(wrong, request);
    EXPECT_EQ(refused.code(), absl::StatusCode::kUnauthenticated);
    EXPECT_EQ(refused.message(), "the join token is not known");
    EXPECT_THAT(name_, IsEmpty());
  }
}

TEST_F(Joins, OnlyNamesThatACertificateMayHave) {
  Open();
  for (const std::string& bad : {std::string(), std::string("a b"), std::string("*.fleet"), std::string("10.0.0.7"),
                                 std::string("::1"), std::string("a/b"), std::string("a\nb"), std::string(65, 'a')}) {
    const absl::Status refused = Create(bad).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(refused.message()), StartsWith("name: expected 1 to 64 of letters, digits"));
  }
  EXPECT_THAT(std::string(Create("canary").status().message()), HasSubstr("is the control plane itself"));
  EXPECT_TRUE(Create(std::string(64, 'a')).ok());
  EXPECT_TRUE(Create("DP_1.zone-a").ok());
  EXPECT_EQ(Create("dp", absl::ZeroDuration()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Create("dp", absl::Hours(24 * 31)).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(Joins, TokensAreHashesInTheDatabaseAndBounded) {
  Open();
  const std::string secret = Create("dp-7")->secret();
  std::string file;
  for (const auto& entry : std::filesystem::directory_iterator(dir_.path())) {
    if (!absl::StartsWith(entry.path().filename().string(), "gateway.db")) continue;
    std::ifstream in(entry.path(), std::ios::binary);
    file.append(std::istreambuf_iterator<char>(in), {});
  }
  EXPECT_THAT(file, HasSubstr("dp-7"));
  EXPECT_EQ(file.find(secret), std::string::npos);
  joining_.reset();
  store_.reset();
  sqlite3* database = nullptr;
  ASSERT_EQ(sqlite3_open(dir_.File("gateway.db").c_str(), &database), SQLITE_OK);
  const std::string fill =
      absl::StrCat("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ", kJoinTokensMax - 1,
                   ") INSERT INTO join_tokens(digest, name, expires, checksum) SELECT CAST(i AS BLOB), 'dp', ",
                   absl::ToUnixMicros(now_ + absl::Hours(2)), ", 0 FROM n");
  EXPECT_EQ(sqlite3_exec(database, fill.c_str(), nullptr, nullptr, nullptr), SQLITE_OK) << sqlite3_errmsg(database);
  sqlite3_close(database);
  store_ = Store::Open(At(dir_.File("gateway.db"))).value();
  Open();
  EXPECT_EQ(Create("dp-8").status().code(), absl::StatusCode::kResourceExhausted);
  now_ += absl::Hours(2);
  EXPECT_TRUE(Create("dp-8").ok()) << "expired ones leave";
}

TEST_F(Joins, RenewalKeepsTheNames) {
  Open();
  const CertificateAndKey old =
      IssueCertificate(
          ca_,
          {.common_name = "dp-7", .names = {"dp-7", "spiffe://fleet/dp-7"}, .client = true, .lifetime = absl::Hours(1)},
          now_)
          .value();
  v1::RenewRequest request;
  request.set_certificate_request(RequestFor(old.private_key));
  ASSERT_TRUE(joining_->Renew(request, old.certificate, now_ + absl::Minutes(40), &name_, &response_).ok());
  EXPECT_EQ(name_, "dp-7");
  const CertificateInfo info = DescribeCertificate(response_.certificate()).value();
  EXPECT_THAT(info.names.dns, ElementsAre("dp-7"));
  EXPECT_THAT(info.names.uris, ElementsAre("spiffe://fleet/dp-7"));
  EXPECT_EQ(info.not_after, now_ + absl::Minutes(160));
  EXPECT_EQ(joining_->Renew(request, "", now_, &name_, &response_).code(), absl::StatusCode::kUnauthenticated);
  // An operator's certificate has no alternative name, and gives none.
  const CertificateAndKey ops =
      IssueCertificate(
          ca_, {.common_name = "ops", .organizational_unit = "admin", .client = true, .lifetime = absl::Hours(1)}, now_)
          .value();
  EXPECT_EQ(joining_->Renew(request, ops.certificate, now_, &name_, &response_).code(),
            absl::StatusCode::kPermissionDenied);
}

TEST_F(Joins, AnAuthorityThatCannotServeIsRefusedAtTheStart) {
  const CertificateAndKey other = MakeAuthority("other", now_, absl::Hours(48)).value();
  EXPECT_THAT(std::string(Try(other.certificate).status().message()),
              HasSubstr("ca.crt: is not in control_plane.stream_tls.client_ca"));
  EXPECT_TRUE(Try(other.certificate + ca_.certificate).ok());
  Write("ca.crt", server_.certificate);
  Write("ca.key", server_.private_key);
  EXPECT_THAT(std::string(Try(ca_.certificate).status().message()), HasSubstr("is not the certificate of a CA"));
  Write("ca.key", ca_.private_key);
  EXPECT_THAT(std::string(Try(ca_.certificate).status().message()), HasSubstr("is not the key of the certificate"));
}

TEST_F(Joins, ACaThatTheListenerDoesNotTrustIssuesNothing) {
  Open();
  const std::string secret = Create("dp-7")->secret();
  client_ca_ = MakeAuthority("other", now_, absl::Hours(48)).value().certificate;
  const std::string request = RequestFor(MakePrivateKey().value());
  EXPECT_EQ(Enroll(secret, request).code(), absl::StatusCode::kFailedPrecondition);
  client_ca_ += ca_.certificate;
  EXPECT_TRUE(Enroll(secret, request).ok()) << "the token was spent";
}

TEST_F(Joins, ADamagedTokenIsFound) {
  Open();
  ASSERT_TRUE(Create("dp-7").ok());
  ASSERT_TRUE(store_->CheckAll().ok());
  joining_.reset();
  store_.reset();
  sqlite3* database = nullptr;
  ASSERT_EQ(sqlite3_open(dir_.File("gateway.db").c_str(), &database), SQLITE_OK);
  EXPECT_EQ(sqlite3_exec(database, "UPDATE join_tokens SET name = 'dp-8'", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(database);
  store_ = Store::Open(At(dir_.File("gateway.db"))).value();
  EXPECT_EQ(store_->CheckAll().code(), absl::StatusCode::kDataLoss);
}

// A running control plane whose stream listener takes those that join.
class JoinServer : public Joins {
 protected:
  void Start() {
    store_.reset();
    v1::Bootstrap config = LoadBootstrap("", {}, {}).config;
    config.mutable_consul()->set_address("");
    v1::ControlPlaneSection* section = config.mutable_control_plane();
    section->set_admin_listen("127.0.0.1:0");
    section->set_stream_listen("127.0.0.1:0");
    section->set_metrics_port(0);
    section->set_database(dir_.File("gateway.db"));
    section->mutable_stream_tls()->set_cert(dir_.File("cp.crt"));
    section->mutable_stream_tls()->set_key(dir_.File("cp.key"));
    section->mutable_stream_tls()->set_client_ca(dir_.File("ca.crt"));
    section->mutable_join()->set_ca_cert(dir_.File("ca.crt"));
    section->mutable_join()->set_ca_key(dir_.File("ca.key"));
    auto started = ControlPlane::Start(config);
    ASSERT_TRUE(started.ok()) << started.status();
    control_plane_ = *std::move(started);
  }
  std::shared_ptr<grpc::Channel> Channel(const CertificateAndKey& pair = {}) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", control_plane_->stream_port()),
                                     grpc::SslCredentials({ca_.certificate, pair.private_key, pair.certificate}),
                                     arguments);
  }
  static void SetDeadline(grpc::ClientContext* context) {
    context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  }
  grpc::Status CreateToken(const std::string& name, v1::CreateJoinTokenResponse* response) {
    const auto admin = v1::Admin::NewStub(grpc::CreateChannel(absl::StrCat("127.0.0.1:", control_plane_->admin_port()),
                                                              grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    SetDeadline(&context);
    v1::CreateJoinTokenRequest request;
    request.set_name(name);
    request.mutable_context()->set_actor("tester");
    return admin->CreateJoinToken(&context, request, response);
  }

  std::unique_ptr<ControlPlane> control_plane_;
};

TEST_F(JoinServer, WithoutACertificateOneMayEnrollAndDoNothingElse) {
  Start();
  v1::CreateJoinTokenResponse token;
  ASSERT_TRUE(CreateToken("dp-7", &token).ok());
  const std::string key = MakePrivateKey().value();
  const auto anonymous = Channel();
  v1::EnrollRequest request;
  request.set_token(token.secret());
  request.set_certificate_request(RequestFor(key));
  v1::EnrollResponse enrolled;
  {
    grpc::ClientContext context;
    SetDeadline(&context);
    const grpc::Status status = v1::Join::NewStub(anonymous)->Enroll(&context, request, &enrolled);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  {
    grpc::ClientContext context;
    SetDeadline(&context);
    v1::RenewRequest renew;
    renew.set_certificate_request(RequestFor(key));
    v1::EnrollResponse none;
    EXPECT_EQ(v1::Join::NewStub(anonymous)->Renew(&context, renew, &none).error_code(),
              grpc::StatusCode::UNAUTHENTICATED);
  }
  const auto hello = [](const std::shared_ptr<grpc::Channel>& channel) {
    grpc::ClientContext context;
    SetDeadline(&context);
    auto stream = v1::ConfigStream::NewStub(channel)->Connect(&context);
    v1::DataPlaneMessage message;
    message.mutable_hello()->set_schema_version(kSchemaVersion);
    message.mutable_hello()->set_name("dp-7");
    message.mutable_hello()->set_instance_id("i");
    message.mutable_hello()->set_workers(1);
    stream->Write(message);
    v1::ControlPlaneMessage first;
    if (!stream->Read(&first)) return stream->Finish();
    context.TryCancel();
    stream->Finish();
    return grpc::Status::OK;
  };
  const grpc::Status refused = hello(anonymous);
  EXPECT_FALSE(refused.ok()) << "a stream without a certificate";
  EXPECT_THAT(refused.error_message(), HasSubstr("certificate"));
  const grpc::Status welcomed = hello(Channel({enrolled.certificate(), key}));
  EXPECT_TRUE(welcomed.ok()) << welcomed.error_message();
  {
    grpc::ClientContext context;
    SetDeadline(&context);
    v1::RenewRequest renew;
    renew.set_certificate_request(RequestFor(key));
    v1::EnrollResponse renewed;
    const grpc::Status status =
        v1::Join::NewStub(Channel({enrolled.certificate(), key}))->Renew(&context, renew, &renewed);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_THAT(DescribeCertificate(renewed.certificate())->names.dns, ElementsAre("dp-7"));
  }
  {
    grpc::ClientContext context;
    SetDeadline(&context);
    const auto lease = v1::Quota::NewStub(anonymous)->Lease(&context);
    EXPECT_EQ(lease->Finish().error_code(), grpc::StatusCode::PERMISSION_DENIED);
  }
}

TEST_F(JoinServer, RefusalsAreCountedAndNotAllWritten) {
  Start();
  const auto stub = v1::Join::NewStub(Channel());
  v1::EnrollRequest request;
  request.set_token("gwj_guess");
  for (int i = 0; i < 2 * static_cast<int>(JoinService::kRefusalsToldBurst); ++i) {
    grpc::ClientContext context;
    SetDeadline(&context);
    v1::EnrollResponse response;
    EXPECT_EQ(stub->Enroll(&context, request, &response).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  }
  const auto admin = v1::Admin::NewStub(grpc::CreateChannel(absl::StrCat("127.0.0.1:", control_plane_->admin_port()),
                                                            grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  SetDeadline(&context);
  v1::ListAuditRequest list;
  list.set_page_size(1'000);
  v1::ListAuditResponse entries;
  ASSERT_TRUE(admin->ListAudit(&context, list, &entries).ok());
  EXPECT_GE(entries.entries_size(), static_cast<int>(JoinService::kRefusalsToldBurst));
  EXPECT_LT(entries.entries_size(), 2 * static_cast<int>(JoinService::kRefusalsToldBurst));
  EXPECT_EQ(entries.entries(0).detail(), "the join token is not known");
}

}  // namespace
}  // namespace gateway::controlplane
