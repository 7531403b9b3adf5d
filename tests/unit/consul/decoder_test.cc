#include "controlplane/sources/consul/decoder.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace gateway::controlplane {
namespace {

using Json = nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;
using v1::Instance;

// One entry of /v1/health/service/web as Consul 1.8.7 writes it, without unused fields.
Json Entry(const std::string& id = "web-1") {
  return {
      {"Node", {{"Node", "n1"}, {"Address", "10.0.0.9"}, {"Meta", {{"zone", "of-node"}}}}},
      {"Service",
       {{"ID", id},
        {"Service", "web"},
        {"Tags", {"v2", "blue"}},
        {"Address", "10.0.0.1"},
        {"Port", 8080},
        {"Meta", {{"zone", "of-service"}}},
        {"Weights", {{"Passing", 3}, {"Warning", 2}}}}},
      {"Checks", Json::array({{{"Node", "n1"}, {"CheckID", "serfHealth"}, {"Status", "passing"}, {"ServiceID", ""}}})}};
}

Json Check(const std::string& id, const std::string& status) { return {{"CheckID", id}, {"Status", status}}; }

Instance DecodeOne(const Json& entry) {
  const auto instances = DecodeHealthService(Json::array({entry}).dump());
  EXPECT_TRUE(instances.ok()) << instances.status();
  if (!instances.ok() || instances->size() != 1) return {};
  return instances->front();
}

TEST(ConsulDecoder, ReadsAnInstance) {
  const Instance instance = DecodeOne(Entry());
  EXPECT_EQ(instance.id(), "n1/web-1");
  EXPECT_EQ(instance.address(), "10.0.0.1");
  EXPECT_EQ(instance.port(), 8080u);
  EXPECT_EQ(instance.weight(), 3u);
  EXPECT_EQ(instance.health(), Instance::PASSING);
  EXPECT_EQ(instance.zone(), "of-service");
  EXPECT_THAT(instance.tags(), ElementsAre("v2", "blue"));
}

TEST(ConsulDecoder, EmptyAddressIsTheNodes) {
  Json entry = Entry();
  entry["Service"]["Address"] = "";
  EXPECT_EQ(DecodeOne(entry).address(), "10.0.0.9");
  entry["Service"].erase("Address");
  EXPECT_EQ(DecodeOne(entry).address(), "10.0.0.9");
}

TEST(ConsulDecoder, ZoneFallsBackToLocalityThenNode) {
  Json entry = Entry();
  entry["Service"]["Meta"] = nullptr;
  EXPECT_EQ(DecodeOne(entry).zone(), "of-node");
  entry["Service"]["Locality"] = {{"Region", "r"}, {"Zone", "of-locality"}};
  EXPECT_EQ(DecodeOne(entry).zone(), "of-locality");
}

TEST(ConsulDecoder, HealthIsTheWorstOfAllChecks) {
  Json entry = Entry();
  entry["Checks"].push_back(Check("service:web-1", "warning"));
  EXPECT_EQ(DecodeOne(entry).health(), Instance::WARNING);
  EXPECT_EQ(DecodeOne(entry).weight(), 2u) << "Weights.Warning";
  entry["Checks"][0]["Status"] = "critical";  // the node's check
  EXPECT_EQ(DecodeOne(entry).health(), Instance::CRITICAL);
  EXPECT_EQ(DecodeOne(entry).weight(), 0u);
  entry["Checks"].push_back(Check("_service_maintenance:web-1", "critical"));
  EXPECT_EQ(DecodeOne(entry).health(), Instance::MAINTENANCE);
  entry["Checks"] = Json::array({Check("_node_maintenance", "critical")});
  EXPECT_EQ(DecodeOne(entry).health(), Instance::MAINTENANCE);
  entry["Checks"] = nullptr;
  EXPECT_EQ(DecodeOne(entry).health(), Instance::PASSING) << "no checks";
  entry["Checks"] = Json::array({Check("x", "splendid")});
  EXPECT_EQ(DecodeOne(entry).health(), Instance::CRITICAL) << "an unknown status gets no traffic";
}

TEST(ConsulDecoder, WeightsAreClampedAndDefaultToOne) {
  Json entry = Entry();
  entry["Service"]["Weights"]["Passing"] = 10'000'000'000;
  EXPECT_EQ(DecodeOne(entry).weight(), 65535u);
  entry["Service"]["Weights"]["Passing"] = -5;
  EXPECT_EQ(DecodeOne(entry).weight(), 0u);
  entry["Service"]["Weights"]["Passing"] = UINT64_MAX;
  EXPECT_EQ(DecodeOne(entry).weight(), 65535u);
  entry["Service"].erase("Weights");
  EXPECT_EQ(DecodeOne(entry).weight(), 1u);
}

TEST(ConsulDecoder, UnusableAddressOrPortOnlyTakesThatInstanceOut) {
  for (const Json& port : {Json(0), Json(-1), Json(65536), Json(1e300), Json("80"), Json(nullptr)}) {
    Json entry = Entry();
    entry["Service"]["Port"] = port;
    EXPECT_EQ(DecodeOne(entry).weight(), 0u) << port;
    EXPECT_EQ(DecodeOne(entry).port(), 0u) << port;
  }
  for (const char* address : {"a b", "10.0.0.1/x", "x\r\ny", "\xc3\xa4"}) {
    Json entry = Entry();
    entry["Service"]["Address"] = address;
    EXPECT_EQ(DecodeOne(entry).weight(), 0u) << address;
    EXPECT_EQ(DecodeOne(entry).address(), "") << address;
  }
}

TEST(ConsulDecoder, AnAddressIsAnIpAddressOrAHostNameWithoutAPort) {
  for (const char* address : {"10.0.0.1", "::1", "fe80::1%eth0", "2001:db8::1", "db", "db-1.example.com", "a_b.local.",
                              "1.example.com", "xn--bcher-kva.example"}) {
    Json entry = Entry();
    entry["Service"]["Address"] = address;
    EXPECT_EQ(DecodeOne(entry).weight(), 3u) << address;
    EXPECT_EQ(DecodeOne(entry).unusable(), "") << address;
  }
  const std::string long_label(64, 'a');
  for (const std::string& address :
       {std::string("127.0.0.1:9999"), std::string("[::1]"), std::string("[::1]:80"), std::string("host:80"),
        std::string("256.0.0.1"), std::string("10.0.0"), std::string("10.0.0.1.2"), std::string("a..b"),
        std::string("-a.example"), std::string("fe80::1%"), std::string("fe80::1%a/b"), std::string("10.0.0.1%eth0"),
        std::string("http://a"), std::string("."), long_label}) {
    Json entry = Entry();
    entry["Service"]["Address"] = address;
    const v1::Instance instance = DecodeOne(entry);
    EXPECT_EQ(instance.weight(), 0u) << address;
    EXPECT_EQ(instance.address(), "") << address;
    EXPECT_NE(instance.unusable().find("is neither an IP address nor a host name"), std::string::npos) << address;
    EXPECT_NE(instance.unusable().find(address), std::string::npos) << instance.unusable();
  }
  Json entry = Entry();
  entry["Service"]["Port"] = 0;
  EXPECT_EQ(DecodeOne(entry).unusable(), "the port is not between 1 and 65535");
}

// The same checks in two of Consul's endpoints: one lists node checks once per instance, the other once in total.
TEST(ConsulDecoder, ChecksOfAServiceAndOfEverythingHaveTheSameDigests) {
  const auto check = [](const char* node, const char* id, const char* service_id, const char* status) {
    return Json{{"Node", node},
                {"CheckID", id},
                {"ServiceID", service_id},
                {"ServiceName", service_id[0] == '\0' ? "" : "s"},
                {"ServiceTags", Json::array({"a"})},
                {"Status", status},
                {"Output", "this and that"}};
  };
  const auto entry = [](const char* node, const char* id, Json checks) {
    return Json{{"Node", {{"Node", node}, {"Address", "10.0.0.1"}}},
                {"Service", {{"ID", id}, {"Service", "s"}, {"Address", ""}, {"Port", 80}}},
                {"Checks", std::move(checks)}};
  };
  const Json serf1 = check("n1", "serf", "", "passing"), serf2 = check("n2", "serf", "", "passing");
  const Json a = check("n1", "a", "s-1", "passing"), b = check("n1", "b", "s-2", "critical");
  const Json c = check("n2", "c", "s-3", "passing");
  CheckDigests of_service;
  ASSERT_TRUE(DecodeHealthService(Json::array({entry("n1", "s-1", {serf1, a}), entry("n1", "s-2", {b, serf1}),
                                               entry("n2", "s-3", {serf2, c})})
                                      .dump(),
                                  &of_service)
                  .ok());
  const auto of_all = DecodeHealthState(Json::array({c, serf2, b, a, serf1}).dump());
  ASSERT_TRUE(of_all.ok());
  EXPECT_EQ(of_service.services, of_all->services);
  EXPECT_EQ(of_service.nodes, of_all->nodes);
  const auto flipped = DecodeHealthState(Json::array({c, serf2, check("n1", "b", "s-2", "passing"), a, serf1}).dump());
  EXPECT_NE(of_service.services, flipped->services);
  EXPECT_EQ(of_service.nodes, flipped->nodes);
}

TEST(ConsulDecoder, InstancesAreSortedAndUnique) {
  const auto instances = DecodeHealthService(Json::array({Entry("b"), Entry("a"), Entry("b")}).dump());
  ASSERT_TRUE(instances.ok());
  ASSERT_THAT(*instances, SizeIs(2));
  EXPECT_EQ((*instances)[0].id(), "n1/a");
  EXPECT_EQ((*instances)[1].id(), "n1/b");
}

TEST(ConsulDecoder, EveryPrefixOfAResponseIsAnError) {
  const std::string text = Json::array({Entry(), Entry("web-2")}).dump();
  for (size_t length = 0; length < text.size(); ++length) {
    ASSERT_FALSE(DecodeHealthService(text.substr(0, length)).ok()) << length;
  }
  EXPECT_FALSE(DecodeHealthService(text + "]").ok());
}

TEST(ConsulDecoder, WrongTypesAreErrorsAsAWhole) {
  for (const char* text :
       {"null", "{}", "7", "\"\"", "[7]", "[null]", "[{}]", "[[]]", "<html>", "[{\"Node\":1,\"Service\":2}]"}) {
    EXPECT_FALSE(DecodeHealthService(text).ok()) << text;
  }
  for (const auto& [pointer, value] : {std::pair{"/Node/Node", Json(7)},
                                       {"/Node/Node", Json("")},
                                       {"/Service/ID", Json::array()},
                                       {"/Service/Tags", Json("v2")},
                                       {"/Service/Tags", Json::array({1})},
                                       {"/Checks", Json("x")},
                                       {"/Checks", Json::array({1})},
                                       {"/Service/Address", Json(1)},
                                       {"/Checks/0/Status", Json(1)},
                                       {"/Service/ID", Json(std::string(2000, 'x'))}}) {
    Json entry = Entry();
    entry[Json::json_pointer(pointer)] = value;
    EXPECT_FALSE(DecodeHealthService(Json::array({Entry("good"), entry}).dump()).ok()) << pointer << " " << value;
  }
}

TEST(ConsulDecoder, BadUtf8IsAnError) {
  std::string text = Json::array({Entry("web-1")}).dump();
  text.replace(text.find("blue"), 4, "bl\xff\xfe");
  EXPECT_FALSE(DecodeHealthService(text).ok());
}

TEST(ConsulDecoder, LimitsHold) {
  EXPECT_EQ(DecodeHealthService(std::string(kResponseBytesMax + 1, ' ')).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(
      DecodeHealthService(std::string(kResponseDepthMax + 1, '[') + std::string(kResponseDepthMax + 1, ']')).ok());
  EXPECT_FALSE(DecodeHealthService(std::string(50'000'000, '[')).ok());
  std::string values = "[";
  for (size_t i = 0; i <= kResponseValuesMax; ++i) values += "0,";
  EXPECT_EQ(DecodeHealthService(values + "0]").status().code(), absl::StatusCode::kResourceExhausted);

  std::string instances = "[";
  for (size_t i = 0; i <= kInstancesMax; ++i) instances += "{},";
  EXPECT_THAT(std::string(DecodeHealthService(instances + "{}]").status().message()), HasSubstr("instances"));

  Json entry = Entry();
  entry["Service"]["Tags"] = Json::array();
  for (size_t i = 0; i < kTagsMax + 10; ++i) entry["Service"]["Tags"].push_back(absl::StrCat("t", i));
  entry["Service"]["Tags"][0] = std::string(kTagBytesMax + 1, 't');
  EXPECT_THAT(DecodeOne(entry).tags(), SizeIs(kTagsMax));
  EXPECT_EQ(DecodeOne(entry).tags(0), "t1");
}

TEST(ConsulDecoder, BracketsInStringsDontNest) {
  Json entry = Entry();
  entry["Service"]["Tags"] = {std::string(100, '['), "\\\"[[[", ",,,,"};
  EXPECT_THAT(DecodeOne(entry).tags(), SizeIs(3));
}

TEST(ConsulDecoder, ReadsTheCatalog) {
  const auto listing = DecodeCatalogServices(R"({"consul":[],"web":["v1","v2"],"plain":null})");
  ASSERT_TRUE(listing.ok()) << listing.status();
  EXPECT_THAT(*listing, SizeIs(3));
  EXPECT_THAT(listing->at("web"), ElementsAre("v1", "v2"));
  for (const char* text : {"[]", "null", "", "{\"web\":7}", "{\"web\":[7]}", "{\"web\":[]", "{\"\":[]}"}) {
    EXPECT_FALSE(DecodeCatalogServices(text).ok()) << text;
  }
  EXPECT_FALSE(DecodeCatalogServices(absl::StrCat("{\"", std::string(kNameBytesMax + 1, 'x'), "\":[]}")).ok());
}

TEST(ConsulDecoder, DigestsSayWhichServiceOrNodeChanged) {
  const auto digests = [](const std::string& node_status, const std::string& web_status, const std::string& output) {
    Json checks = {
        {{"Node", "n1"}, {"CheckID", "serfHealth"}, {"Status", node_status}, {"ServiceName", ""}},
        {{"Node", "n1"},
         {"CheckID", "c1"},
         {"Status", web_status},
         {"ServiceID", "web-1"},
         {"ServiceName", "web"},
         {"Output", output}},
        {{"Node", "n2"}, {"CheckID", "c2"}, {"Status", "passing"}, {"ServiceID", "db-1"}, {"ServiceName", "db"}}};
    return *DecodeHealthState(checks.dump());
  };
  const CheckDigests before = digests("passing", "passing", "a");
  EXPECT_EQ(before.services, digests("passing", "passing", "b").services) << "a check's output does not matter";
  const CheckDigests after = digests("passing", "critical", "a");
  EXPECT_NE(before.services.at("web"), after.services.at("web"));
  EXPECT_EQ(before.services.at("db"), after.services.at("db"));
  EXPECT_EQ(before.nodes, after.nodes);
  EXPECT_NE(before.nodes.at("n1"), digests("critical", "passing", "a").nodes.at("n1"));
  for (const char* text : {"{}", "[7]", "[{\"Node\":7}]", "["}) EXPECT_FALSE(DecodeHealthState(text).ok()) << text;
}

TEST(ConsulDecoder, ReadsTheAgentsServices) {
  const auto services = DecodeAgentServices(
      R"({"gw-1":{"Service":"gw","Address":"::1","Port":80,"Tags":["a"],"Meta":{"k":"v"}},"x":{}})");
  ASSERT_TRUE(services.ok()) << services.status();
  EXPECT_EQ(services->at("gw-1").port, 80);
  EXPECT_EQ(services->at("gw-1").meta.at("k"), "v");
  for (const char* text : {"[]", "{\"x\":7}", "{\"x\":{\"Service\":7}}"})
    EXPECT_FALSE(DecodeAgentServices(text).ok()) << text;
}

}  // namespace
}  // namespace gateway::controlplane
