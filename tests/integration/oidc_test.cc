// Operators with tokens of an OpenID Connect issuer: gatewayctl, a control plane with TLS, and an issuer over HTTPS.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/openid_issuer.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class OidcOperators : public ::testing::Test {
 protected:
  OidcOperators() {
    const LabCa::Files server = ca_.IssueFor({"IP:127.0.0.1"});
    const LabCa::Files admin = ca_.Issue({.common_name = "ops"});
    ControlPlane::Options options;
    options.config =
        Concat("  admin_tls: { cert: \"", server.cert, "\", key: \"", server.key, "\", client_ca: \"", ca_.file(),
               "\" }\n  oidc:\n    issuer: \"", issuer_.url(), "\"\n    audience: gateway\n    ca: \"", issuer_.ca(),
               "\"\n    name_claim: email\n    groups_claim: realm_access.roles\n    roles:\n",
               "      - { group: shop, role: editor, only: { team: shop }, kinds: [Route] }\n",
               "      - { group: staff, role: viewer }\n");
    options.ctl = {"--ca", ca_.file(), "--cert", admin.cert, "--key", admin.key};
    control_plane_ = std::make_unique<ControlPlane>(std::move(options));
  }

  std::string TokenFor(const std::string& name, const std::string& group) const {
    return issuer_.TokenFor(
        "1234", "[]", Concat(R"(,"email":")", name, R"(@example.com","realm_access":{"roles":[")", group, R"("]})"));
  }
  // gatewayctl with this token.
  Process::Result Run(const std::string& token, std::vector<std::string> arguments,
                      const std::string& input = "") const {
    arguments.insert(arguments.begin(),
                     {BinaryPath("gatewayctl"), "--server", Concat("127.0.0.1:", control_plane_->admin_port()), "--ca",
                      ca_.file(), "--token-file", directory_.Write("token", token)});
    return Process::Run(Process::Options{.argv = std::move(arguments), .input = input});
  }
  static std::string RouteNamed(const std::string& name, const std::string& labels) {
    return Concat("kind: Route\nname: ", name, "\n", labels, "match: { path: { exact: /", name,
                  " } }\nrespond: { status: 200, body: hi }\n");
  }

  TempDir directory_;
  LabCa ca_;
  OpenIdIssuer issuer_;
  std::unique_ptr<ControlPlane> control_plane_;
};

TEST_F(OidcOperators, AnEditorAppliesItsOwnPolicyAndTheAuditNamesIt) {
  const std::string dave = TokenFor("dave", "shop");
  const std::string labels = "labels: { team: shop }\n";
  const Process::Result applied = Run(dave, {"apply", "-f", "-"}, RouteNamed("cart", labels));
  ASSERT_EQ(applied.exit.code, 0) << applied.err;

  const Process::Result unlabelled = Run(dave, {"apply", "-f", "-"}, RouteNamed("cart2", ""));
  EXPECT_EQ(unlabelled.exit.code, 8);
  EXPECT_THAT(unlabelled.err, HasSubstr("expected the labels team=shop"));
  const Process::Result other_kind =
      Run(dave, {"apply", "-f", "-"},
          Concat("kind: Service\nname: s\n", labels, "static: [{ address: \"127.0.0.1:1\" }]\n"));
  EXPECT_EQ(other_kind.exit.code, 8);
  EXPECT_THAT(other_kind.err, HasSubstr("you may change Route"));

  const std::string eve = TokenFor("eve", "staff");
  EXPECT_EQ(Run(eve, {"get", "routes"}).exit.code, 0);
  const Process::Result denied = Run(eve, {"delete", "route", "cart"});
  EXPECT_EQ(denied.exit.code, 8);
  EXPECT_THAT(denied.err, HasSubstr("'eve@example.com' has the role viewer; Delete needs editor or above"));
  const Process::Result guest = Run(TokenFor("guest", "guests"), {"get", "routes"});
  EXPECT_EQ(guest.exit.code, 8);
  EXPECT_THAT(guest.err, HasSubstr("'guest@example.com' is in no group with a role"));

  EXPECT_THAT(control_plane_->Ctl({"history"}).out, HasSubstr("dave@example.com"));
  EXPECT_THAT(control_plane_->Ctl({"audit", "--actor", "dave@example.com"}).out,
              AllOf(HasSubstr("Apply"), HasSubstr("created Route/cart"), HasSubstr("not yours to change")));
  EXPECT_THAT(control_plane_->Ctl({"audit", "--actor", "guest@example.com"}).out, HasSubstr("in no group"));
  EXPECT_THAT(control_plane_->Ctl({"audit"}).out, Not(HasSubstr(dave)));
}

TEST_F(OidcOperators, OutagesOfTheIssuerAreNotThoseOfOperators) {
  const std::string eve = TokenFor("eve", "staff");
  ASSERT_EQ(Run(eve, {"get", "routes"}).exit.code, 0);
  const auto metrics = Fetch(control_plane_->metrics_port(), "GET", "/metrics");
  ASSERT_TRUE(metrics.ok());
  EXPECT_THAT(metrics->body, AllOf(HasSubstr("gateway_controlplane_oidc_fetches_total{result=\"success\"} 1"),
                                   HasSubstr("gateway_controlplane_oidc_fetches_total{result=\"failure\"} 0"),
                                   HasSubstr("\ngateway_controlplane_oidc_keys_age_seconds ")));
  issuer_.Stop();
  EXPECT_EQ(Run(eve, {"get", "routes"}).exit.code, 0) << "by the keys that were fetched";
  // Without any keys yet, certificates and the control plane's own tokens still count.
  control_plane_->Kill();
  control_plane_->Start();
  const Process::Result without_keys = Run(eve, {"get", "routes"});
  EXPECT_NE(without_keys.exit.code, 0);
  EXPECT_THAT(without_keys.err, HasSubstr("cannot be fetched"));
  EXPECT_EQ(control_plane_->Ctl({"get", "routes"}).exit.code, 0);
  issuer_.Restart();
  EXPECT_TRUE(WaitFor([&] { return Run(eve, {"get", "routes"}).exit.code == 0; }, Timeout(30'000)));
}

}  // namespace
}  // namespace gateway::fixtures
