#include "common/config/bootstrap.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "common/base/host_port.h"
#include "common/base/units.h"
#include "common/policy/builtin.h"

namespace gateway {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

// The file that POLICY promises to accept unchanged.
constexpr std::string_view kOneFile =
    R"(server: { port: 8080, read_timeout: 30, write_timeout: 30, idle_timeout: 60 }        # data plane
consul: { address: "localhost:8500", service_name: "api-gateway", health_check: { interval: "10s", timeout: "5s" } }
redis: { address: "localhost:6379", password: "", db: 0 }        # data plane; used only by limits of scope `redis`
rate_limit: { max_requests: 1000, window_size: "1m", enabled: true }  # the built-in RateLimit `default`
metrics: { enabled: true, port: 9090 }                           # data plane: /metrics, /health, /ready
logging: { level: "info", format: "json" }                       # every process; format json | text
)";

class BootstrapTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "bootstrap_test.XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string Write(std::string_view text) {
    std::string path = (folder_ / "gateway.yaml").string();
    std::ofstream(path) << text;
    return path;
  }

  // The problems of a file, without its folder.
  std::vector<std::string> Problems(std::string_view text, const std::vector<std::string>& environment = {},
                                    const std::vector<std::string>& sets = {}) {
    std::vector<std::string> problems = LoadBootstrap(Write(text), environment, sets).problems;
    std::string prefix = folder_.string() + "/";
    for (std::string& problem : problems) {
      if (problem.starts_with(prefix)) problem.erase(0, prefix.size());
    }
    return problems;
  }

  static std::string OriginOf(const LoadedBootstrap& loaded, const std::string& key) {
    for (const auto& [path, origin] : loaded.origins) {
      if (path == key) return origin;
    }
    return "no such key";
  }

  std::filesystem::path folder_;
};

TEST_F(BootstrapTest, TheOneFileForAllIsValidAsItStands) {
  LoadedBootstrap loaded = LoadBootstrap(Write(kOneFile), {}, {});
  EXPECT_THAT(loaded.problems, IsEmpty());
  EXPECT_EQ(loaded.config.server().port(), 8080u);
  EXPECT_EQ(loaded.config.server().read_timeout().seconds(), 30);
  EXPECT_EQ(loaded.config.consul().health_check().interval().seconds(), 10);
  ASSERT_TRUE(BuiltinLimitOf(loaded.config).has_value());
  EXPECT_EQ(BuiltinLimitOf(loaded.config)->max_requests, 1000u);
  EXPECT_EQ(BuiltinLimitOf(loaded.config)->window, std::chrono::minutes(1));
  EXPECT_EQ(OriginOf(loaded, "server.port"), (folder_ / "gateway.yaml").string() + ":1:11");
  EXPECT_EQ(OriginOf(loaded, "server.workers"), "default");
}

TEST_F(BootstrapTest, EveryKeyOfThePolicyPageIsKnown) {
  EXPECT_THAT(Problems(R"(server:
  listeners: [{ address: "0.0.0.0:8080" }, { address: "[::]:8080", proxy_protocol: disabled }]
  workers: auto
  header_timeout: 10s
  drain_timeout: 30s
  builtin_routes: true
  trusted_proxies: [10.0.0.0/8]
  error_details: false
  max_connections: 50000
  max_header_bytes: 64KiB
  buffer_budget: 512MiB
  encoded_slashes: keep
  drain_delay: 3s
  handover: /run/gateway/handover
  watchdog_timeout: 5s
access_log: { path: "-", redact_query: [card_number, X-Ticket] }
metrics: { host: 127.0.0.1, main_port: false, keep_removed_for: 10m }
control_plane: { admin_listen: "127.0.0.1:7400", stream_listen: "127.0.0.1:7401", database: gateway.db, metrics_port: 9091, insecure: false }
data_plane: { control_planes: ["127.0.0.1:7401"], name: dp-1, advertise: "10.0.0.5:8080", zone: a, labels: {}, cache_dir: DIR, policy_files: [FILE] }
)"),
              IsEmpty());
}

TEST_F(BootstrapTest, NamesOfQueryParametersToRedactAreNamesAsServicesReadThem) {
  EXPECT_THAT(Problems("access_log: { redact_query: [card, \"a%20b\", \"\", \"a&b\"] }\n"),
              ElementsAre(HasSubstr("access_log.redact_query[1]: expected the name of a query parameter"),
                          HasSubstr("redact_query[2]"), HasSubstr("redact_query[3]")));
  LoadedBootstrap loaded = LoadBootstrap("", {}, {"access_log.redact_query=card,ticket"});
  EXPECT_THAT(loaded.problems, IsEmpty());
  EXPECT_THAT(loaded.config.access_log().redact_query(), ElementsAre("card", "ticket"));
}

TEST_F(BootstrapTest, ListenersLeaveLoopbackWithTlsOrWhereToldTo) {
  const std::string beyond = "control_plane:\n  admin_listen: 0.0.0.0:7400\n  stream_listen: 0.0.0.0:7401\n";
  EXPECT_THAT(Problems(beyond), ElementsAre(AllOf(HasSubstr("control_plane.admin_listen"), HasSubstr("admin_tls")),
                                            AllOf(HasSubstr("control_plane.stream_listen"), HasSubstr("stream_tls"))));
  EXPECT_THAT(Problems(beyond + "  insecure: true\n"), IsEmpty());
  EXPECT_THAT(Problems(beyond + "  admin_tls: { cert: a.crt, key: a.key }\n"
                                "  stream_tls: { cert: a.crt, key: a.key, client_ca: ca.crt }\n"),
              IsEmpty());
  EXPECT_THAT(Problems(beyond + "  admin_tls: { cert: a.crt, key: a.key }\n"),
              ElementsAre(HasSubstr("control_plane.stream_listen")))
      << "each listener needs its own TLS";
}

TEST_F(BootstrapTest, TlsIsGivenWholeOrNotAtAll) {
  EXPECT_THAT(Problems("control_plane: { admin_tls: { cert: a.crt } }\n"),
              ElementsAre(HasSubstr("control_plane.admin_tls.key: is missing")));
  EXPECT_THAT(Problems("control_plane: { admin_tls: { client_ca: ca.crt } }\n"),
              ElementsAre(HasSubstr("control_plane.admin_tls.client_ca: is given without cert and key")));
  EXPECT_THAT(Problems("control_plane: { stream_tls: { cert: a.crt, key: a.key } }\n"),
              ElementsAre(HasSubstr("control_plane.stream_tls.client_ca: is needed")));
  EXPECT_THAT(Problems("data_plane: { tls: { ca: ca.crt } }\n"),
              ElementsAre(HasSubstr("data_plane.tls.cert: is needed")));
  EXPECT_THAT(Problems("data_plane: { tls: { cert: a.crt, key: a.key } }\n"),
              ElementsAre(HasSubstr("data_plane.tls.ca: is needed")));
  EXPECT_THAT(Problems("data_plane: { tls: { ca: ca.crt, key: a.key } }\n"),
              ElementsAre(HasSubstr("data_plane.tls.cert: is missing")));
  EXPECT_THAT(Problems("data_plane: { tls: { ca: ca.crt, cert: a.crt, key: a.key, server_name: controlplane } }\n"),
              IsEmpty());
}

TEST_F(BootstrapTest, JoiningNeedsACaAndTls) {
  const std::string tls = "  stream_tls: { cert: a.crt, key: a.key, client_ca: ca.crt }\n";
  EXPECT_THAT(Problems("control_plane:\n" + tls + "  join: { ca_cert: ca.crt, ca_key: ca.key, lifetime: 1h }\n"),
              IsEmpty());
  EXPECT_THAT(Problems("control_plane:\n" + tls + "  join: { ca_cert: ca.crt }\n"),
              ElementsAre(HasSubstr("control_plane.join.ca_key: is missing")));
  EXPECT_THAT(Problems("control_plane:\n  join: { ca_cert: ca.crt, ca_key: ca.key }\n"),
              ElementsAre(HasSubstr("control_plane.join.ca_cert: needs stream_tls")));
  EXPECT_THAT(Problems("control_plane:\n" + tls + "  join: { ca_cert: ca.crt, ca_key: ca.key, lifetime: 1s }\n"),
              ElementsAre(HasSubstr("control_plane.join.lifetime")));
  const std::string files = "ca: ca.crt, cert: dp.crt, key: dp.key, join_token_file: dp.token";
  EXPECT_THAT(Problems("data_plane: { name: dp-1, tls: { " + files + " } }\n"), IsEmpty());
  EXPECT_THAT(Problems("data_plane: { tls: { " + files + " } }\n"),
              ElementsAre(HasSubstr("data_plane.name: is needed")));
  EXPECT_THAT(Problems("data_plane: { name: dp-1, tls: { ca: ca.crt, join_token_file: dp.token } }\n"),
              ElementsAre(HasSubstr("data_plane.tls.cert: is needed with join_token_file")));
}

TEST_F(BootstrapTest, ConsulHasOneTokenAndAWholeCertificate) {
  EXPECT_THAT(Problems("consul: { token: a, token_file: b }\n"),
              ElementsAre(HasSubstr("consul.token_file: is given beside consul.token; expected one of the two")));
  EXPECT_THAT(Problems("consul: { tls: { ca: ca.crt, cert: a.crt } }\n"),
              ElementsAre(HasSubstr("consul.tls.key: is missing")));
  EXPECT_THAT(Problems("consul: { token_file: b, tls: { ca: ca.crt, cert: a.crt, key: a.key, server_name: s } }\n"),
              IsEmpty());
}

TEST_F(BootstrapTest, AListenerHasTlsWhereItSaysSo) {
  const std::string file = Write(
      "server:\n  listeners:\n"
      "  - { address: \"127.0.0.1:8080\", proxy_protocol: optional }\n"
      "  - { address: \"127.0.0.1:8443\", tls: { certificates: [{ cert: a.crt, key: a.key }] } }\n");
  const LoadedBootstrap loaded = LoadBootstrap(file, {}, {});
  EXPECT_THAT(loaded.problems, IsEmpty());
  ASSERT_EQ(loaded.config.server().listeners_size(), 2);
  EXPECT_FALSE(loaded.config.server().listeners(0).has_tls());
  EXPECT_EQ(loaded.config.server().listeners(1).tls().min_version(), "1.2");
}

TEST_F(BootstrapTest, TheClientsOwnVariablesAreLeftAlone) {
  EXPECT_THAT(LoadBootstrap("", {"GATEWAY_SERVER=x", "GATEWAY_TOKEN=x", "GATEWAY_CA=x"}, {}).problems, IsEmpty());
}

TEST_F(BootstrapTest, DefaultsAreFilledInEverywhereButForTheRateLimit) {
  LoadedBootstrap loaded = LoadBootstrap("", {}, {});
  EXPECT_THAT(loaded.problems, IsEmpty());
  const v1::Bootstrap& config = loaded.config;
  EXPECT_FALSE(config.has_rate_limit());
  EXPECT_FALSE(BuiltinLimitOf(config).has_value());
  EXPECT_EQ(config.server().port(), 8080u);
  EXPECT_EQ(config.server().workers(), "auto");
  EXPECT_EQ(config.server().max_header_bytes(), 64u << 10);
  EXPECT_EQ(config.server().buffer_budget(), 512u << 20);
  EXPECT_EQ(config.server().encoded_slashes(), v1::ServerSection::KEEP);
  EXPECT_TRUE(config.server().builtin_routes());
  EXPECT_EQ(ToMillis(config.server().header_timeout()), std::chrono::seconds(10));
  EXPECT_EQ(config.consul().address(), "localhost:8500");
  EXPECT_EQ(config.consul().health_check().timeout().seconds(), 5);
  EXPECT_EQ(config.metrics().port(), 9090u);
  EXPECT_EQ(ToMillis(config.metrics().keep_removed_for()), std::chrono::minutes(10));
  EXPECT_EQ(config.logging().level(), v1::LoggingSection::INFO);
  EXPECT_EQ(config.logging().format(), v1::LoggingSection::JSON);
  EXPECT_EQ(config.access_log().path(), "-");
  EXPECT_EQ(config.control_plane().admin_listen(), "127.0.0.1:7400");
  EXPECT_THAT(config.data_plane().control_planes(), ElementsAre("127.0.0.1:7401"));
  EXPECT_TRUE(config.data_plane().has_cache_dir());
  EXPECT_THAT(loaded.origins, Contains(std::pair<std::string, std::string>("rate_limit.enabled", "absent")));
  EXPECT_THAT(LoadBootstrap(Write("# nothing\n"), {}, {}).problems, IsEmpty());
}

TEST_F(BootstrapTest, TheHandoverPathFitsAUnixSocket) {
  EXPECT_THAT(Problems("server: { handover: " + std::string(90, 'a') + " }\n"), IsEmpty());
  EXPECT_THAT(Problems("server: { handover: " + std::string(91, 'a') + " }\n"),
              ElementsAre("gateway.yaml:1:11: server.handover: expected a path of at most 90 bytes, found one of 91"));
}

TEST_F(BootstrapTest, RateLimitThatIsThereHasItsDefaults) {
  LoadedBootstrap loaded = LoadBootstrap("", {"GATEWAY_RATE_LIMIT_MAX_REQUESTS=7"}, {});
  EXPECT_THAT(loaded.problems, IsEmpty());
  EXPECT_EQ(BuiltinLimitOf(loaded.config)->max_requests, 7u);
  EXPECT_EQ(BuiltinLimitOf(loaded.config)->window, std::chrono::minutes(1));
  EXPECT_FALSE(BuiltinLimitOf(LoadBootstrap("", {}, {"rate_limit.enabled=false"}).config).has_value());
}

TEST_F(BootstrapTest, FlagsOverrideTheEnvironmentAndThatTheFile) {
  std::string path =
      Write("server: { port: 1 }\nlogging: { level: warn }\nconsul: { health_check: { interval: 3s } }\n");
  LoadedBootstrap loaded = LoadBootstrap(path,
                                         {"GATEWAY_SERVER_PORT=2", "GATEWAY_LOGGING_LEVEL=debug",
                                          "GATEWAY_CONSUL_HEALTH_CHECK_INTERVAL=20", "HOME=/nowhere"},
                                         {"server.port=3", "server.error_details=true"});
  EXPECT_THAT(loaded.problems, IsEmpty());
  EXPECT_EQ(loaded.config.server().port(), 3u);
  EXPECT_EQ(loaded.config.logging().level(), v1::LoggingSection::DEBUG);
  EXPECT_EQ(loaded.config.consul().health_check().interval().seconds(), 20);
  EXPECT_TRUE(loaded.config.server().error_details());
  EXPECT_EQ(OriginOf(loaded, "server.port"), "--set server.port");
  EXPECT_EQ(OriginOf(loaded, "logging.level"), "environment GATEWAY_LOGGING_LEVEL");
  EXPECT_EQ(OriginOf(loaded, "consul.health_check.interval"), "environment GATEWAY_CONSUL_HEALTH_CHECK_INTERVAL");
}

TEST_F(BootstrapTest, ListsOfTheEnvironmentReplaceTheFilesLists) {
  LoadedBootstrap loaded = LoadBootstrap(
      Write("server: { trusted_proxies: [10.0.0.0/8] }\n"),
      {"GATEWAY_SERVER_TRUSTED_PROXIES=192.0.2.0/24, 2001:db8::/32, 127.0.0.1, ::1", "GATEWAY_CONSUL_ADDRESS="},
      {"data_plane.control_planes=a:1,b:2"});
  EXPECT_THAT(loaded.problems, IsEmpty());
  EXPECT_THAT(loaded.config.server().trusted_proxies(),
              ElementsAre("192.0.2.0/24", "2001:db8::/32", "127.0.0.1", "::1"));
  EXPECT_THAT(loaded.config.data_plane().control_planes(), ElementsAre("a:1", "b:2"));
  EXPECT_EQ(loaded.config.consul().address(), "");
  EXPECT_TRUE(loaded.config.consul().has_address());
}

TEST_F(BootstrapTest, UnknownNamesOfOursAreProblemsWithTheNearestName) {
  EXPECT_THAT(LoadBootstrap("",
                            {"GATEWAY_SERVER_PROT=1", "GATEWAY_SERVER=1.2.3.4:7400", "GATEWAY_TEST_X=1",
                             "GATEWAY_SERVER_LISTENERS=0.0.0.0:1", "GATEWAY_DATA_PLANE_LABELS=a"},
                            {"servr.port=1", "server.port", "server=1"})
                  .problems,
              ElementsAre("environment 'GATEWAY_SERVER_PROT': is not a key of the bootstrap file; did you mean "
                          "GATEWAY_SERVER_PORT?",
                          "environment GATEWAY_SERVER_LISTENERS: server.listeners can be set in the file only",
                          "environment GATEWAY_DATA_PLANE_LABELS: data_plane.labels can be set in the file only",
                          "--set 'servr.port': unknown key; did you mean 'server.port'?",
                          "--set 'server.port': expected KEY=VALUE, such as server.port=8081",
                          HasSubstr("--set 'server': unknown key")));
}

TEST_F(BootstrapTest, EveryKeyHasItsOwnEnvironmentName) {
  std::set<std::string> names;
  for (const auto& [path, origin] : LoadBootstrap("", {}, {}).origins) {
    std::string name;
    for (char c : path) name += c == '.' ? '_' : c;
    EXPECT_TRUE(names.insert(name).second) << path;
    EXPECT_NE(name, "server");
    EXPECT_FALSE(name.starts_with("test_"));
  }
  EXPECT_GT(names.size(), 40u);
}

TEST_F(BootstrapTest, NoProblemRepeatsASecret) {
  for (const char* text :
       {"consul: sekret2\n", "consul: { sekret2: }\n", "redis: [sekret2]\n", "redis: sekret2\n",
        "redis: { password: [sekret2] }\n", "redis: { address: \"redis://:sekret2@10.0.0.1:6379\" }\n",
        "consul: { address: \"http://u:sekret2@10.0.0.1:8500\" }\n", "consul: { token: !sekret2 }\n", "sekret2\n"}) {
    const auto problems = Problems(text, {}, {});
    EXPECT_THAT(problems, Not(IsEmpty())) << text;
    EXPECT_THAT(problems, testing::Each(Not(HasSubstr("sekret2")))) << text;
  }
}

TEST_F(BootstrapTest, AllProblemsAtOnceWithTheirPlaces) {
  EXPECT_THAT(
      Problems("server:\n"
               "  prot: 8080\n"
               "  port: 70000\n"
               "  workers: many\n"
               "  listeners: [{ address: example.com:80 }, { address: \"1.2.3.4\" }, {}]\n"
               "  trusted_proxies: [10.0.0.0/8, 10.0.0.1/8, 10.0.0.0/33]\n"
               "redis: { address: nowhere }\n"
               "control_plane: { admin_listen: \"0.0.0.0:7400\", stream_listen: \"[::1]:7401\" }\n"
               "data_plane: { control_planes: [\"a:0\"] }\n",
               {"GATEWAY_METRICS_PORT=x"}, {"consul.address=::1:8500"}),
      ElementsAre("gateway.yaml:2:3: server.prot: unknown field; did you mean 'port'?",
                  "gateway.yaml:3:9: server.port: expected a number from 0 to 65535, found '70000'",
                  "gateway.yaml:5:68: server.listeners[2].address: is required",
                  "environment GATEWAY_METRICS_PORT: metrics.port: expected a whole number, found 'x'",
                  HasSubstr("gateway.yaml:5:17: server.listeners[0].address: expected an IP address and a port"),
                  HasSubstr("gateway.yaml:5:46: server.listeners[1].address: expected host:port"),
                  "gateway.yaml:4:3: server.workers: expected auto, or a number from 1 to 1024, found 'many'",
                  "gateway.yaml:6:33: server.trusted_proxies[1]: '10.0.0.1/8' has bits behind its prefix; expected "
                  "10.0.0.0/8, or 10.0.0.1 for this address alone",
                  HasSubstr("gateway.yaml:6:45: server.trusted_proxies[2]: '10.0.0.0/33' has too long a prefix"),
                  HasSubstr("--set consul.address: consul.address: expected host:port"),
                  HasSubstr("gateway.yaml:7:10: redis.address: expected host:port"),
                  HasSubstr("gateway.yaml:8:18: control_plane.admin_listen: '0.0.0.0:7400' is reachable"),
                  HasSubstr("gateway.yaml:9:32: data_plane.control_planes[0]: a port from 1 to 65535")));
}

TEST_F(BootstrapTest, ListenersBeyondLoopbackNeedInsecure) {
  const std::string open = "control_plane: { admin_listen: \"0.0.0.0:7400\", stream_listen: \"10.0.0.1:7401\"";
  std::vector<std::string> problems = Problems(open + " }");
  ASSERT_THAT(problems, SizeIs(2));
  EXPECT_THAT(problems[0], HasSubstr("set control_plane.insecure: true"));
  EXPECT_THAT(problems[1], HasSubstr("control_plane.stream_listen"));
  EXPECT_THAT(Problems(open + ", insecure: true }"), IsEmpty());
  EXPECT_THAT(Problems("control_plane: { admin_listen: \"[::1]:1\", stream_listen: \"localhost:2\" }"), IsEmpty());
  EXPECT_THAT(Problems("control_plane: { admin_listen: \"[::]:1\", stream_listen: \"127.5.5.5:2\" }"), SizeIs(1));
}

TEST_F(BootstrapTest, AnIssuerOfOperatorsIsGivenWhole) {
  const auto problems = [this](std::string_view oidc, std::string_view more = "") {
    return Problems("control_plane:\n  oidc: " + std::string(oidc) + "\n" + std::string(more));
  };
  const std::string rest = ", audience: gateway, roles: [{ group: ops, role: admin }]";
  EXPECT_THAT(problems("{ issuer: \"https://id.example.com/\"" + rest + " }"), IsEmpty());
  EXPECT_THAT(problems("{ issuer: \"http://127.0.0.1:8080/realms/ops\"" + rest + " }"), IsEmpty());
  EXPECT_THAT(
      problems("{ issuer: \"http://id.example.com\"" + rest + " }"),
      ElementsAre(HasSubstr("control_plane.oidc.issuer: 'http://id.example.com': plain http is for this host")));
  for (const char* issuer : {"id.example.com", "https://id.example.com/?tenant=1", "https://id.example.com/#x"}) {
    EXPECT_THAT(problems("{ issuer: \"" + std::string(issuer) + "\"" + rest + " }"),
                ElementsAre(HasSubstr("control_plane.oidc.issuer: ")))
        << issuer;
  }
  EXPECT_THAT(problems("{ issuer: \"https://u:sekret@id.example.com\"" + rest + " }"),
              ElementsAre(Not(HasSubstr("sekret"))));
  EXPECT_THAT(problems("{ audience: gateway }"),
              ElementsAre(HasSubstr("control_plane.oidc.issuer: is needed with oidc")));
  EXPECT_THAT(problems("{ issuer: \"https://id.example.com\", name_claim: \"\" }"),
              ElementsAre(HasSubstr("control_plane.oidc.audience: is needed"),
                          HasSubstr("control_plane.oidc.name_claim: expected the name of a claim"),
                          HasSubstr("control_plane.oidc.roles: is needed")));
  // A token is not to cross a network in cleartext, whatever else may.
  const std::string outside = "  admin_listen: \"10.0.0.1:7400\"\n  insecure: true\n";
  EXPECT_THAT(problems("{ issuer: \"https://id.example.com\"" + rest + " }", outside),
              ElementsAre(HasSubstr("control_plane.oidc.issuer: needs admin_tls")));
  EXPECT_THAT(problems("{ issuer: \"https://id.example.com\"" + rest + " }",
                       outside + "  admin_tls: { cert: c.crt, key: c.key }\n"),
              IsEmpty());
}

TEST_F(BootstrapTest, RolesOfGroupsAreTold) {
  const auto problems = [this](const std::string& roles) {
    return Problems("control_plane:\n  oidc: { issuer: \"https://id.example.com\", audience: gateway, roles: [" +
                    roles + "] }\n");
  };
  EXPECT_THAT(problems("{ group: a, role: editor, only: { team: a }, kinds: [Route] }, { group: b, role: viewer }"),
              IsEmpty());
  EXPECT_THAT(problems("{ group: a, role: root }"),
              ElementsAre(HasSubstr("control_plane.oidc.roles[0].role: expected viewer, operator, editor or admin, "
                                    "found 'root'")));
  EXPECT_THAT(problems("{ group: a, role: viewer }, { group: a, role: admin }"),
              ElementsAre(HasSubstr("control_plane.oidc.roles[1].group: 'a' is given twice")));
  EXPECT_THAT(problems("{ group: a, role: admin, only: { team: a } }"),
              ElementsAre(HasSubstr("control_plane.oidc.roles[0].only: is for an editor")));
  EXPECT_THAT(problems("{ group: a, role: operator, kinds: [Route] }"),
              ElementsAre(HasSubstr("control_plane.oidc.roles[0].kinds: is for an editor")));
  EXPECT_THAT(problems("{ role: admin }"), ElementsAre(HasSubstr("control_plane.oidc.roles[0].group")));
  EXPECT_THAT(problems("{ group: a }"), ElementsAre(HasSubstr("control_plane.oidc.roles[0].role")));
}

TEST_F(BootstrapTest, PortsThatMeetAreFound) {
  EXPECT_THAT(Problems("server: { port: 9090 }"),
              ElementsAre("default: metrics.port: port 9090 is that of server.port"));
  EXPECT_THAT(Problems("server: { port: 9090 }\nmetrics: { enabled: false }"), IsEmpty());
  EXPECT_THAT(Problems("control_plane: { admin_listen: \"127.0.0.1:7401\" }"), SizeIs(1));
  EXPECT_THAT(Problems("control_plane: { metrics_port: 7400 }"), SizeIs(1));
  EXPECT_THAT(Problems("control_plane: { admin_listen: \"127.0.0.1:0\", stream_listen: \"127.0.0.1:0\" }"), IsEmpty());
}

TEST_F(BootstrapTest, UnreadableFilesAreProblems) {
  std::vector<std::string> missing = LoadBootstrap((folder_ / "none.yaml").string(), {}, {}).problems;
  ASSERT_THAT(missing, SizeIs(1));
  EXPECT_THAT(missing[0], HasSubstr("none.yaml: cannot be read: No such file or directory"));
  EXPECT_THAT(LoadBootstrap(folder_.string(), {}, {}).problems, SizeIs(1)) << "a folder";
  EXPECT_THAT(Problems("a: [\n"), SizeIs(1));
  EXPECT_THAT(Problems("server: {}\n---\nserver: {}\n"), ElementsAre(HasSubstr("expected one document, found 2")));
  EXPECT_THAT(Problems("- a\n"), ElementsAre("gateway.yaml:1:1: expected a map, found a list"));
  EXPECT_THAT(Problems(std::string((1 << 20) + 1, '#')), ElementsAre(HasSubstr("longer than")));
}

TEST_F(BootstrapTest, DescriptionHasEveryKeyItsOriginAndNoSecret) {
  LoadedBootstrap loaded = LoadBootstrap(Write("redis: { password: hunter2 }\n"
                                               "data_plane: { labels: { rack: \"7\" } }\n"
                                               "server: { listeners: [{ address: \"0.0.0.0:1\" }] }\n"),
                                         {"GATEWAY_CONSUL_TOKEN=s3cr3t"}, {"redis.password=hunter3"});
  ASSERT_THAT(loaded.problems, IsEmpty());
  std::string text = DescribeBootstrap(loaded);
  EXPECT_THAT(text, Not(HasSubstr("hunter")));
  EXPECT_THAT(text, Not(HasSubstr("s3cr3t")));
  EXPECT_THAT(text, HasSubstr("consul.token: redacted "));
  EXPECT_THAT(text, HasSubstr("# environment GATEWAY_CONSUL_TOKEN\n"));
  EXPECT_THAT(text, HasSubstr("data_plane.labels: {rack: \"7\"} "));
  EXPECT_THAT(text, HasSubstr("server.listeners: [{address: \"0.0.0.0:1\", proxy_protocol: disabled}] "));
  EXPECT_THAT(text, HasSubstr("server.max_header_bytes: 64KiB "));
  EXPECT_THAT(text, HasSubstr("rate_limit.window_size: absent "));
  for (const auto& [path, origin] : loaded.origins) EXPECT_THAT(text, HasSubstr(path + ": "));
}

TEST_F(BootstrapTest, DescriptionHasNestedMapsInOneLine) {
  const LoadedBootstrap loaded = LoadBootstrap(
      Write("control_plane:\n  oidc:\n    issuer: https://id.example.com\n    audience: gateway\n    roles:\n"
            "      - { group: a, role: editor, only: { team: a }, kinds: [Route, Service] }\n"),
      {}, {});
  ASSERT_THAT(loaded.problems, IsEmpty());
  EXPECT_THAT(DescribeBootstrap(loaded),
              HasSubstr("control_plane.oidc.roles: [{group: a, role: editor, only: {team: a}, "
                        "kinds: [Route, Service]}]"));
}

TEST_F(BootstrapTest, CheckConfigShowsTheNumbersBehindWords) {
  const auto described = [](const std::vector<std::string>& sets) {
    const LoadedBootstrap loaded = LoadBootstrap("", {}, sets);
    EXPECT_TRUE(loaded.problems.empty());
    return DescribeBootstrap(loaded);
  };
  EXPECT_THAT(described({}),
              ::testing::ContainsRegex("server.workers: auto +# default; [1-9][0-9]* on this machine\n"));
  EXPECT_THAT(described({}),
              ::testing::ContainsRegex("server.max_connections_per_address: 0 +# default; 25000 in effect\n"));
  EXPECT_THAT(described({"server.max_connections=500"}), HasSubstr("; 500 in effect\n"));
  EXPECT_THAT(described({"server.max_connections_per_address=7"}), Not(HasSubstr("in effect")));
  EXPECT_THAT(described({"server.workers=3"}), Not(HasSubstr("on this machine")));
}

class DaemonArgumentsTest : public BootstrapTest {
 protected:
  DaemonArguments Parse(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "gateway-test");
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    DaemonArguments parsed =
        ParseDaemonArguments(static_cast<int>(arguments.size()), argv.data(), "gateway-test", "A test.");
    out_ = testing::internal::GetCapturedStdout();
    err_ = testing::internal::GetCapturedStderr();
    return parsed;
  }

  std::string out_, err_;
};

TEST_F(DaemonArgumentsTest, FileComesByFlagOrByPosition) {
  std::string path = Write("server: { port: 4321 }\n");
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{"--config", path}, {path}, {"--config=" + path}}) {
    DaemonArguments parsed = Parse(arguments);
    EXPECT_FALSE(parsed.exit_code.has_value()) << err_;
    EXPECT_EQ(parsed.config.server().port(), 4321u);
    EXPECT_EQ(parsed.config_file, path);
  }
  DaemonArguments set = Parse({"--set", "server.port=1", "--set", "logging.level=error", path});
  EXPECT_FALSE(set.exit_code.has_value()) << err_;
  EXPECT_EQ(set.config.server().port(), 1u);
  EXPECT_EQ(set.config.logging().level(), v1::LoggingSection::ERROR);
  EXPECT_EQ(Parse({path, "--config", path}).exit_code, 2);
}

TEST_F(DaemonArgumentsTest, ProblemsAreAllOnStandardErrorWithExitCode2) {
  EXPECT_EQ(Parse({Write("servr: {}\nlogging: { level: loud }\n")}).exit_code, 2);
  EXPECT_THAT(err_, HasSubstr("gateway.yaml:1:1: servr: unknown field; did you mean 'server'?\n"));
  EXPECT_THAT(err_, HasSubstr("gateway.yaml:2:19: logging.level: expected one of"));
  EXPECT_THAT(err_, HasSubstr("2 errors"));
  EXPECT_EQ(out_, "");
  EXPECT_EQ(Parse({"--config", (folder_ / "none").string()}).exit_code, 2);
  EXPECT_EQ(Parse({"--frobnicate"}).exit_code, 2);
  EXPECT_THAT(err_, Not(IsEmpty()));
  EXPECT_EQ(Parse({"--check-config", "--set", "server.port=x"}).exit_code, 2);
}

TEST_F(DaemonArgumentsTest, HelpVersionAndCheckEndWithZero) {
  EXPECT_EQ(Parse({"--help"}).exit_code, 0);
  for (const char* word : {"--config", "--set", "--check-config", "--version", "GATEWAY_SERVER_PORT", "Examples"}) {
    EXPECT_THAT(out_, HasSubstr(word));
  }
  EXPECT_EQ(Parse({"--version"}).exit_code, 0);
  EXPECT_THAT(out_, HasSubstr("gateway-test 0."));
  EXPECT_EQ(Parse({"--check-config", "--set", "server.port=4"}).exit_code, 0);
  EXPECT_THAT(out_, HasSubstr("server.port: 4"));
  EXPECT_THAT(out_, HasSubstr("# --set server.port"));
}

TEST(ParseHostPort, TakesNamesAndAddresses) {
  struct Case {
    const char *text, *host;
    int port;
  };
  for (const Case& c : {Case{"10.0.0.7:8080", "10.0.0.7", 8080},
                        {"[::1]:80", "::1", 80},
                        {"[2001:db8::1]:0", "2001:db8::1", 0},
                        {"host.example:65535", "host.example", 65535},
                        {"my_service-1:1", "my_service-1", 1},
                        {"localhost:8500", "localhost", 8500},
                        {"3com.example:1", "3com.example", 1}}) {
    absl::StatusOr<HostPort> parsed = ParseHostPort(c.text);
    ASSERT_TRUE(parsed.ok()) << c.text << parsed.status();
    EXPECT_EQ(parsed->host, c.host);
    EXPECT_EQ(parsed->port, c.port);
  }
  EXPECT_FALSE(ParseHostPort(":80").ok());
  EXPECT_EQ(ParseHostPort(":80", true)->host, "");
}

TEST(ParseHostPort, RefusesEverythingElse) {
  EXPECT_THAT(std::string(ParseHostPort("http://a:80").status().message()), ::testing::EndsWith("this is a URL"));
  for (const char* text : {"",
                           "host",
                           "host:",
                           "host:x",
                           "host:65536",
                           "host:-1",
                           "host:+1",
                           "host: 1",
                           "host:000080",
                           "::1:80",
                           "[::1]",
                           "[::1",
                           "[]:80",
                           "[1.2.3.4]:80",
                           "[fe80::1%eth0]:1",
                           "10.0.0.256:80",
                           "1.2.3:80",
                           "a b:80",
                           "http://host:80",
                           "a..b:80",
                           ".a:80",
                           "a/b:80",
                           "[::1]x:80",
                           "h\xc3\xa9:80"}) {
    EXPECT_FALSE(ParseHostPort(text).ok()) << text;
  }
  EXPECT_FALSE(ParseHostPort(std::string(254, 'a') + ":1").ok());
  EXPECT_FALSE(ParseHostPort(std::string(64, 'a') + ":1").ok());
  EXPECT_FALSE(ParseHostPort("", true).ok());
}

}  // namespace
}  // namespace gateway
