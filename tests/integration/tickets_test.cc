// TLS sessions over a fleet: a ticket of one data plane is good at the others, with the control plane's keys.
#include <openssl/ssl.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>

#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/lab_ca.h"
#include "tests/fixtures/tls_client.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

constexpr char kPolicy[] = "kind: Route\nname: all\nmatch: { path: { prefix: / } }\nrespond: { body: hi }\n";

class TlsTickets : public ::testing::Test {
 protected:
  TlsTickets() : site_(ca_.IssueFor({"DNS:shop.test"})) {}

  std::unique_ptr<DataPlane> Serve(const std::string& name, const std::string& more = "",
                                   const std::string& cache = "") {
    auto data_plane = std::make_unique<DataPlane>(DataPlane::Options{
        .control_planes = {control_plane_.stream_port()},
        .name = name,
        .cache_dir = cache,
        .listener =
            Concat("tls: { certificates: [{ cert: \"", site_.cert, "\", key: \"", site_.key, "\" }]", more, " }")});
    EXPECT_TRUE(WaitFor([&] { return data_plane->Metric("gateway_tls_ticket_keys_shared") == 1; }));
    return data_plane;
  }
  // A session that `data_plane` has given a ticket for.
  static SessionPtr SessionAt(const DataPlane& data_plane, const LabCa::Files& client = {}, int version_max = 0) {
    auto connection =
        ConnectTls(data_plane.port(),
                   {.server_name = "shop.test", .version_max = version_max, .cert = client.cert, .key = client.key});
    if (!connection.ok() || !connection->Request("GET", "/").ok()) return nullptr;
    return SessionOf(*connection);
  }
  // Whether `data_plane` resumes it, in its own version of TLS, and responds then.
  static bool Resumes(const DataPlane& data_plane, SSL_SESSION* session, const LabCa::Files& client = {}) {
    auto connection = ConnectTls(data_plane.port(), {.server_name = "shop.test",
                                                     .version_max = SSL_SESSION_get_protocol_version(session),
                                                     .cert = client.cert,
                                                     .key = client.key,
                                                     .session = session});
    if (!connection.ok()) return false;
    const bool resumed = SSL_session_reused(connection->ssl()) == 1;
    return connection->Request("GET", "/").ok() && resumed;
  }

  LabCa ca_;
  LabCa::Files site_;
  ControlPlane control_plane_;
};

TEST_F(TlsTickets, AnotherDataPlaneResumesASession) {
  ASSERT_EQ(control_plane_.Apply(kPolicy).exit.code, 0);
  const auto a = Serve("a");
  const auto b = Serve("b");
  for (const int version : {0, TLS1_2_VERSION}) {
    const SessionPtr session = SessionAt(*a, {}, version);
    ASSERT_NE(session, nullptr);
    EXPECT_TRUE(Resumes(*b, session.get())) << version;
  }
  EXPECT_EQ(b->Metric("gateway_tls_resumed_total"), 2);
}

// A TLS 1.3 client uses each ticket once (RFC 8446, appendix C.4).
TEST_F(TlsTickets, AResumedConnectionGetsATicketForTheNext) {
  ASSERT_EQ(control_plane_.Apply(kPolicy).exit.code, 0);
  const auto data_plane = Serve("a");
  const auto ticket_of = [](const SSL_SESSION* session) {
    const unsigned char* ticket = nullptr;
    size_t size = 0;
    SSL_SESSION_get0_ticket(session, &ticket, &size);
    return std::string(reinterpret_cast<const char*>(ticket), size);
  };
  SessionPtr session = SessionAt(*data_plane);
  for (int i = 0; i < 3; ++i) {
    ASSERT_NE(session, nullptr);
    auto connection = ConnectTls(data_plane->port(), {.server_name = "shop.test", .session = session.get()});
    ASSERT_TRUE(connection.ok() && connection->Request("GET", "/").ok());
    EXPECT_EQ(SSL_session_reused(connection->ssl()), 1);
    SessionPtr next = SessionOf(*connection);
    ASSERT_NE(next, nullptr);
    EXPECT_NE(ticket_of(next.get()), ticket_of(session.get()));
    session = std::move(next);
  }
}

TEST_F(TlsTickets, SessionsOutliveTheControlPlaneAndItsRestart) {
  ASSERT_EQ(control_plane_.Apply(kPolicy).exit.code, 0);
  const auto a = Serve("a");
  const auto b = Serve("b");
  control_plane_.Kill();
  const SessionPtr session = SessionAt(*a);
  ASSERT_NE(session, nullptr);
  EXPECT_TRUE(Resumes(*b, session.get()));
  control_plane_.Start();
  const auto c = Serve("c");
  EXPECT_TRUE(Resumes(*c, session.get())) << "of before the restart";
  EXPECT_TRUE(Resumes(*a, session.get()));
}

// CVE-2025-23419, over two data planes.
TEST_F(TlsTickets, NoSessionCrossesToOtherRulesOfClientCertificates) {
  ASSERT_EQ(control_plane_.Apply(kPolicy).exit.code, 0);
  const LabCa::Files client = ca_.IssueFor({"DNS:client.test"});
  const auto open = Serve("open");
  const auto asks = Serve("asks", Concat(", client_certificate: required, client_ca: \"", ca_.file(), "\""));
  const auto also = Serve("also", Concat(", client_certificate: required, client_ca: \"", ca_.file(), "\""));
  for (const int version : {0, TLS1_2_VERSION}) {
    SCOPED_TRACE(version);
    const SessionPtr plain = SessionAt(*open, {}, version);
    ASSERT_NE(plain, nullptr);
    EXPECT_FALSE(Resumes(*asks, plain.get(), client));
    EXPECT_FALSE(Resumes(*asks, plain.get())) << "and a certificate is required";
    const SessionPtr known = SessionAt(*asks, client, version);
    ASSERT_NE(known, nullptr);
    EXPECT_TRUE(Resumes(*also, known.get(), client)) << "the same rules";
    EXPECT_FALSE(Resumes(*open, known.get(), client));
  }
}

TEST_F(TlsTickets, OneThatRunsAloneHasKeysOfItsOwn) {
  DataPlane alone(
      {.policy = kPolicy,
       .listener = Concat("tls: { certificates: [{ cert: \"", site_.cert, "\", key: \"", site_.key, "\" }] }")});
  EXPECT_EQ(alone.Metric("gateway_tls_ticket_keys_shared"), 0);
  const SessionPtr session = SessionAt(alone);
  ASSERT_NE(session, nullptr);
  EXPECT_TRUE(Resumes(alone, session.get()));
  ASSERT_EQ(control_plane_.Apply(kPolicy).exit.code, 0);
  const auto other = Serve("other");
  EXPECT_FALSE(Resumes(*other, session.get()));
}

}  // namespace
}  // namespace gateway::fixtures
