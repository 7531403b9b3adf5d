// TLS to endpoints: verification, failure messages, reuse and resumption, health checks.
#include <openssl/ssl.h>

#include <memory>
#include <string>
#include <vector>

#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/lab_ca.h"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/fixtures/tls_client.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

using ::testing::HasSubstr;

class UpstreamTls : public ::testing::Test {
 protected:
  // Starts an endpoint with this certificate.
  void StartService(const LabCa::Files& files, UpstreamScript script = Echo("svc"), int version_max = 0) {
    context_ = ServerContext(files.cert, files.key);
    if (version_max != 0) SSL_CTX_set_max_proto_version(context_.get(), version_max);
    upstream_ = std::make_unique<ScriptedUpstream>(std::move(script), ScriptedUpstream::Options{.tls = context_.get()});
  }
  // `tls`: fields of Service.tls in flow style. `address`: of the endpoint; "": its real address.
  void Serve(const std::string& tls, std::string address = "", const std::string& more = "",
             const std::string& route = "") {
    if (address.empty()) address = upstream_->address();
    gateway_ = std::make_unique<DataPlane>(DataPlane::Options{
        .policy = ServicePolicyYaml({address}, Concat("tls: {", tls, "}\n", more), route), .workers = 1});
  }
  Response Get(std::string_view target = "/svc", std::string_view body = "") {
    const auto response = Fetch(gateway_->port(), body.empty() ? "GET" : "POST", target, "", body);
    if (!response.ok()) ADD_FAILURE() << response.status();
    return response.ok() ? *response : Response();
  }
  // The access log's `detail` of a request that fails with upstream_tls_failed.
  std::string FailureDetail() {
    const Response response = Get();
    EXPECT_EQ(response.status, 502);
    EXPECT_EQ(nlohmann::json::parse(response.body, nullptr, false).value("reason", ""), "upstream_tls_failed");
    const auto lines = gateway_->LogLines(1);
    return lines.empty() ? "" : lines.back().value("detail", "");
  }
  std::string Ca() const { return Concat("ca: { file: \"", ca_.file(), "\" }"); }

  LabCa ca_;
  ContextPtr context_;
  std::unique_ptr<ScriptedUpstream> upstream_;
  std::unique_ptr<DataPlane> gateway_;
};

TEST_F(UpstreamTls, VerifiesTheChainAndTheAddress) {
  StartService(ca_.IssueFor({"IP:127.0.0.1"}));
  Serve(Ca());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Get("/svc", "some body").status, 200);
  EXPECT_EQ(upstream_->connections(), 1) << "connections are reused";
}

TEST_F(UpstreamTls, AsksForTheServerNameAndVerifiesIt) {
  StartService(ca_.IssueFor({"DNS:orders.internal"}));
  Serve(Concat("server_name: orders.internal, ", Ca()));
  EXPECT_EQ(Get().status, 200);
  Serve(Concat("server_name: other.internal, ", Ca()));
  EXPECT_EQ(FailureDetail(), "the certificate is for another name");
  Serve(Concat("server_name: other.internal, verify: chain, ", Ca()));
  EXPECT_EQ(Get().status, 200);
}

TEST_F(UpstreamTls, UsesTheHostNameOfTheAddress) {
  StartService(ca_.IssueFor({"DNS:localhost"}));
  Serve(Ca(), Concat("localhost:", upstream_->port()));
  EXPECT_EQ(Get().status, 200);
}

TEST_F(UpstreamTls, SaysWhyAHandshakeFailed) {
  StartService(ca_.IssueFor({"DNS:orders.internal"}));
  Serve(Ca());
  EXPECT_EQ(FailureDetail(), "the certificate is for another name") << "it has no IP address in its names";
  Serve("server_name: orders.internal");
  EXPECT_EQ(FailureDetail(), "the certificate was issued by an unknown CA") << "the system's CAs do not know ours";
  Serve("verify: none");
  EXPECT_EQ(Get().status, 200);

  StartService(ca_.Issue({.names = {"IP:127.0.0.1"}, .validity = std::chrono::hours(-1)}));
  Serve(Ca());
  EXPECT_EQ(FailureDetail(), "the certificate has expired, or is not valid yet");

  StartService(ca_.IssueFor({"IP:127.0.0.1"}), Echo("svc"), TLS1_2_VERSION);
  Serve(Concat("min_version: \"1.3\", ", Ca()));
  const std::string detail = FailureDetail();
  EXPECT_THAT(detail, ::testing::AnyOf("the peer rejected the TLS handshake",
                                       "no common TLS version, cipher or application protocol"));
}

TEST_F(UpstreamTls, FailsAgainstACleartextEndpoint) {
  ScriptedUpstream cleartext(Echo("svc"));
  StartService(ca_.IssueFor({"IP:127.0.0.1"}));
  Serve(Ca(), cleartext.address());
  EXPECT_NE(FailureDetail(), "");
  EXPECT_EQ(cleartext.request_count(), 0);
}

TEST_F(UpstreamTls, ResumesSessions) {
  StartService(ca_.IssueFor({"IP:127.0.0.1"}), [](UpstreamConnection& connection) {
    const bool resumed = SSL_session_reused(connection.stream().ssl()) == 1;
    if (connection.ReadRequest())
      connection.Send(MakeResponse(200, resumed ? "resumed" : "full", "Connection: close\r\n"));
  });
  Serve(Ca());
  EXPECT_EQ(Get().body, "full");
  EXPECT_EQ(Get().body, "resumed");
  EXPECT_EQ(Get().body, "resumed");
}

TEST_F(UpstreamTls, ReplacesAKeptConnectionThatEndedWithoutDistrust) {
  StartService(ca_.IssueFor({"IP:127.0.0.1"}), [](UpstreamConnection& connection) {
    if (connection.ReadRequest()) connection.Send(MakeResponse(200, "one"));
    // Ends with close_notify: bytes on the wire, but no data.
  });
  Serve(Ca());
  for (int i = 1; i <= 3; ++i) {
    EXPECT_EQ(Get().body, "one");
    ASSERT_TRUE(upstream_->WaitForOpenConnections(0));
    EXPECT_EQ(upstream_->connections(), i);
  }
  EXPECT_EQ(gateway_->process().output().find("unsolicited bytes"), std::string::npos);
}

TEST_F(UpstreamTls, CarriesLargeBodies) {
  StartService(ca_.IssueFor({"IP:127.0.0.1"}),
               Respond([](const UpstreamRequest& request) { return MakeResponse(200, request.body); }));
  Serve(Ca());
  std::string body(6 * 1024 * 1024, '\0');
  for (size_t i = 0; i < body.size(); ++i) body[i] = static_cast<char>(i * 11 + i / 8192);
  const Response response = Get("/svc", body);
  EXPECT_EQ(response.status, 200);
  EXPECT_TRUE(response.body == body);
}

TEST_F(UpstreamTls, TakesATruncatedBodyForWhatItIs) {
  StartService(ca_.IssueFor({"IP:127.0.0.1"}), [](UpstreamConnection& connection) {
    (void)connection.ReadRequest();
    connection.Send("HTTP/1.1 200 OK\r\n\r\nhalf");
    connection.Reset();
  });
  Serve(Ca());
  const auto response = Fetch(gateway_->port(), "GET", "/svc");
  EXPECT_FALSE(response.ok() && response->status == 200);
}

TEST_F(UpstreamTls, ChecksHealthOverTls) {
  StartService(ca_.IssueFor({"DNS:orders.internal"}));
  const std::string check = "health_check: { interval: 100ms, unhealthy: 1, healthy: 1 }";
  Serve(Concat("server_name: orders.internal, ", Ca()), "", check);
  const std::string passed = R"(gateway_health_checks_total{service="svc",result="passed"})";
  EXPECT_TRUE(WaitFor([&] { return gateway_->Metric(passed) >= 1; }));
  EXPECT_EQ(Get().status, 200);
  Serve(Concat("server_name: other.internal, ", Ca()), "", check);
  const std::string failed = R"(gateway_health_checks_total{service="svc",result="failed"})";
  EXPECT_TRUE(WaitFor([&] { return gateway_->Metric(failed) >= 1; })) << "health checks verify like requests";
}

TEST_F(UpstreamTls, KeepsServicesOfOneAddressApart) {
  StartService(ca_.IssueFor({"IP:127.0.0.1"}));
  // One service trusts the endpoint, the other does not: they must not share connections.
  gateway_ = std::make_unique<DataPlane>(DataPlane::Options{
      .policy = Concat(ServicePolicyYaml({upstream_->address()}, Concat("tls: {", Ca(), "}")),
                       "---\nkind: Service\nname: other\nstatic: [{ address: \"", upstream_->address(),
                       "\" }]\ntls: { server_name: other.internal, ", Ca(),
                       " }\n---\nkind: Route\nname: other\nmatch: { path: { prefix: /other } }\nservice: other\n"),
      .workers = 1});
  EXPECT_EQ(Get("/svc").status, 200);
  EXPECT_EQ(Get("/other").status, 502);
  EXPECT_EQ(Get("/svc").status, 200);
}

TEST_F(UpstreamTls, IsRefusedAtApplyWithAClearMessage) {
  ControlPlane control;
  const auto apply = [&](const std::string& tls) {
    return control.Apply(
        Concat("kind: Service\nname: svc\nstatic: [{ address: \"127.0.0.1:1\" }]\ntls: {", tls, "}\n"));
  };
  auto result = apply("ca: { file: /nonexistent.pem }");
  EXPECT_NE(result.exit.code, 0);
  EXPECT_THAT(result.err, HasSubstr("/nonexistent.pem"));
  result = apply("ca: { inline: \"no certificate\" }");
  EXPECT_NE(result.exit.code, 0);
  EXPECT_THAT(result.err, HasSubstr("tls.ca.inline"));
  result = apply("min_version: \"1.0\"");
  EXPECT_NE(result.exit.code, 0);
  EXPECT_THAT(result.err, HasSubstr("expected 1.2 or 1.3"));
  result = apply("server_name: \"a b\"");
  EXPECT_NE(result.exit.code, 0);
  EXPECT_THAT(result.err, HasSubstr("server_name"));
  EXPECT_EQ(apply(Ca()).exit.code, 0);
}

}  // namespace
}  // namespace gateway::fixtures
