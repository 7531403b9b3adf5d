#include "common/config/codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "common/base/units.h"
#include "common/policy/policy_files.h"
#include "common/policy/resource.h"
#include "gateway/v1/bootstrap.pb.h"
#include "gateway/v1/rules.pb.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/util/message_differencer.h"

namespace gateway {
namespace {

using google::protobuf::Duration;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::util::MessageDifferencer;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

struct Parsed {
  std::vector<PolicyDocument> documents;
  std::vector<std::string> problems;
};

Parsed Parse(std::string_view text) {
  Parsed parsed;
  std::vector<PolicyProblem> problems;
  parsed.documents = ParsePolicy(text, "policy.yaml", &problems);
  for (const PolicyProblem& problem : problems) parsed.problems.push_back(problem.ToString());
  return parsed;
}

// The problems of a bootstrap text, without positions.
std::vector<std::string> BootstrapProblems(std::string_view text, v1::Bootstrap* config = nullptr) {
  std::vector<YamlProblem> yaml;
  std::vector<YamlNode> nodes = ParseYaml(text, &yaml);
  EXPECT_THAT(yaml, IsEmpty());
  v1::Bootstrap unused;
  std::vector<FieldProblem> problems;
  DecodeYaml(nodes.at(0), config == nullptr ? &unused : config, &problems);
  std::vector<std::string> texts;
  for (const FieldProblem& problem : problems) texts.push_back(problem.field + ": " + problem.message);
  return texts;
}

constexpr std::string_view kPolicy = R"(kind: Service
name: orders
labels: { team: shop }
description: "the order service: v2"
consul: { service: orders, datacenter: dc1, tags: [v2], on_suspect: keep }
load_balancer: { policy: weighted }
timeouts: { connect: 2s, response: 1500ms, idle: 60 }
circuit_breaker: hystrix
---
kind: Service
name: svc
static: [{ address: "127.0.0.1:18081" }, { address: "127.0.0.1:18082", weight: 0, zone: a }]
---
kind: Route
name: orders
match:
  hosts: [api.example.com, "*.example.org"]
  path: { prefix: /api/v1/orders }
  methods: GET
  headers: [{ name: X-Canary, exact: "1" }, { name: X-Debug, present: false }]
  query: [{ name: v, exact: "" }]
priority: -5
split: [{ service: orders, weight: 95 }, { service: svc, weight: 5 }]
rewrite: { prefix: / }
timeout: 1h
rate_limits: []
---
kind: Route
name: api
match: { path: { template: "/api/v1/{service}/**" } }
consul_service: { from: service, allow: ["*"], deny: [], template: { load_balancer: { policy: round_robin } } }
---
kind: RateLimit
name: per-client
key: [client_ip, path]
limit: { requests: 1000, window: 1m }
algorithm: sliding_window
scope: data_plane
mode: shadow
---
kind: Defaults
name: default
rate_limits: [default]
circuit_breaker: none
timeout: 30s
)";

TEST(Codec, ReadsEveryKindOfPolicy) {
  Parsed parsed = Parse(kPolicy);
  ASSERT_THAT(parsed.problems, IsEmpty());
  ASSERT_THAT(parsed.documents, SizeIs(6));
  const v1::Service& orders = parsed.documents[0].resource.service();
  EXPECT_EQ(orders.labels().at("team"), "shop");
  EXPECT_EQ(orders.timeouts().response().nanos(), 500'000'000);
  EXPECT_EQ(orders.timeouts().idle().seconds(), 60);
  EXPECT_EQ(orders.consul().on_suspect(), v1::ConsulSource::KEEP);
  EXPECT_TRUE(parsed.documents[1].resource.service().static_(1).has_weight());
  const v1::Route& route = parsed.documents[2].resource.route();
  EXPECT_THAT(route.match().methods(), ElementsAre("GET"));
  EXPECT_TRUE(route.match().headers(1).has_present());
  EXPECT_TRUE(route.match().query(0).has_exact());
  EXPECT_EQ(route.priority(), -5);
  EXPECT_THAT(route.rate_limits(), ElementsAre("none"));
  EXPECT_EQ(parsed.documents[4].resource.rate_limit().mode(), v1::RateLimit::SHADOW);
  // The position of each field, for errors found later.
  const PolicyDocument& document = parsed.documents[2];
  EXPECT_EQ(document.position.line, 14);
  EXPECT_EQ(document.sources.at("split[1].weight").line, 23);
  EXPECT_EQ(document.sources.at("match.path.prefix").line, 18);
  EXPECT_EQ(document.sources.at("match.path.prefix").column, 11);
}

TEST(Codec, WhatIsWrittenReadsBackAsTheSameResource) {
  for (const PolicyDocument& document : Parse(kPolicy).documents) {
    std::string text = EncodeResource(document.resource);
    Parsed again = Parse(text);
    ASSERT_THAT(again.problems, IsEmpty()) << text;
    ASSERT_THAT(again.documents, SizeIs(1));
    EXPECT_EQ(CanonicalBytes(again.documents[0].resource), CanonicalBytes(document.resource)) << text;
  }
}

TEST(Codec, WritesReadableBlocks) {
  EXPECT_EQ(EncodeResource(Parse(kPolicy).documents.at(2).resource), R"(kind: Route
name: orders
match:
  hosts: [api.example.com, "*.example.org"]
  path:
    prefix: /api/v1/orders
  methods: [GET]
  headers:
    - name: X-Canary
      exact: "1"
    - name: X-Debug
      present: false
  query:
    - name: v
      exact: ""
priority: -5
split:
  - service: orders
    weight: 95
  - service: svc
    weight: 5
rewrite:
  prefix: /
timeout: 1h
rate_limits: [none]
)");
}

TEST(Codec, WritesTheSameAsJson) {
  nlohmann::json json = nlohmann::json::parse(EncodeResourceJson(Parse(kPolicy).documents.at(2).resource));
  EXPECT_EQ(json["kind"], "Route");
  EXPECT_EQ(json["name"], "orders");
  EXPECT_EQ(json["priority"], -5);
  EXPECT_EQ(json["timeout"], "1h");
  EXPECT_EQ(json["split"][1]["weight"], 5);
  EXPECT_EQ(json["match"]["headers"][1]["present"], false);
  EXPECT_EQ(nlohmann::json::parse(EncodeResourceJson(Parse(kPolicy).documents.at(0).resource))["labels"]["team"],
            "shop");
}

TEST(Codec, EveryMistakeOfEveryDocumentIsToldOnceWithItsPlace) {
  Parsed parsed = Parse(R"(kind: Route
name: orders
match:
  path: { prefx: /api }
service: orders
timeout: soon
priority: high
---
kind: Rout
name: x
---
kind: RateLimit
name: Bad_Name
limit: { requests: 0 }
mode: enforced
key: { a: 1 }
---
name: nobody
---
just text
)");
  EXPECT_THAT(
      parsed.problems,
      ElementsAre(
          "policy.yaml:4:11: Route/orders: match.path.prefx: unknown field; did you mean 'prefix'?",
          "policy.yaml:6:10: Route/orders: timeout: expected a duration such as 250ms, 30s or 1m, found 'soon'",
          "policy.yaml:7:11: Route/orders: priority: expected a whole number, found 'high'",
          "policy.yaml:9:7: Rout/x: kind: unknown kind 'Rout'; did you mean 'Route'?",
          "policy.yaml:14:20: RateLimit: limit.requests: expected a number from 1 to 100000000, found '0'",
          "policy.yaml:14:8: RateLimit: limit.window: is required",
          "policy.yaml:15:7: RateLimit: mode: expected one of: enforce, shadow, disabled, found 'enforced'; did "
          "you mean 'enforce'?",
          "policy.yaml:16:6: RateLimit: key: expected a list, found a map",
          "policy.yaml:13:7: RateLimit: name: 'Bad_Name' is not a name: expected a lower-case letter or a digit "
          "at its beginning and end",
          "policy.yaml:18:1: kind: is required; expected one of: Service, Route, RateLimit, CircuitBreaker, "
          "Defaults, Retry, Auth, Consumer, Cors, IpAccess, Certificate",
          "policy.yaml:20:1: expected a document with kind and name, found 'just text'"));
}

// The parser and the policy check find the same error; it is reported once.
TEST(PolicyPlaces, LabelsADocumentWithoutALegalNameByItsKind) {
  v1::PolicyError error;
  error.set_kind("Route");
  error.set_name("A_b");
  error.set_field("match");
  error.set_message("is required");
  const PolicyProblem located = PolicyPlaces({}).Locate(error);
  EXPECT_EQ(located.resource, "Route");
  EXPECT_TRUE(FollowsFrom(located, {{"policy.yaml", {1, 1}, "Route", "match", "is required"}}));
}

// A secret in the wrong place is not repeated; other errors there are reported as usual.
TEST(Codec, NoErrorRepeatsASecret) {
  for (const char* credentials :
       {"[{ basic: SuperSecretKey }]", "[SuperSecretKey]", "SuperSecretKey", "[{ SuperSecretKey }]",
        "[{ basic: { SuperSecretKey: } }]", "[{ basic: { username: a, SuperSecretKey: a } }]",
        "[{ basic: { username: a, password_hash: !SuperSecretKey } }]", "[{ api_key_sha256: [SuperSecretKey] }]",
        "[!SuperSecretKey x]"}) {
    const Parsed parsed = Parse(std::string("kind: Consumer\nname: acme\ncredentials: ") + credentials + "\n");
    EXPECT_THAT(parsed.problems, Not(IsEmpty())) << credentials;
    EXPECT_THAT(parsed.problems, Each(AllOf(HasSubstr("policy.yaml:3:"), Not(HasSubstr("Super"))))) << credentials;
  }
  EXPECT_THAT(
      Parse("kind: Consumer\nname: acme\ncredentials: [{ basic: { usrname: a, password_hash: b } }]\n").problems,
      Contains(HasSubstr("credentials[0].basic.usrname: unknown field; did you mean 'username'?")));
  EXPECT_THAT(Parse("kind: Consumer\nname: acme\nlabls: {}\n").problems, Contains(HasSubstr("labls: unknown field")));
  EXPECT_THAT(Parse("kind: Route\nname: a\nmatch: everything\n").problems,
              Contains(HasSubstr("match: expected a map, found 'everything'")));
}

TEST(Codec, KindOfAnotherSpellingIsNotTakenButSuggested) {
  EXPECT_THAT(Parse("kind: routes\nname: a\n").problems,
              ElementsAre("policy.yaml:1:7: routes/a: kind: unknown kind 'routes'; did you mean 'Route'?"));
}

TEST(Codec, SyntaxErrorsAndDuplicateKeysCarryTheFile) {
  Parsed parsed = Parse("kind: Route\nname: a\nname: b\nmatch: {}\n---\nkind: [\n");
  ASSERT_THAT(parsed.problems, SizeIs(2));
  EXPECT_THAT(parsed.problems[0], HasSubstr("policy.yaml:3:1: duplicate key 'name'"));
  EXPECT_THAT(parsed.problems[1], HasSubstr("not YAML"));
}

TEST(Codec, MissingNameAndMatchAreRequired) {
  EXPECT_THAT(Parse("kind: Route\nservice: a\n").problems,
              ElementsAre("policy.yaml:1:1: Route: match: is required", "policy.yaml:1:1: Route: name: is required"));
}

TEST(Codec, OnlyOneMemberOfAOneof) {
  EXPECT_THAT(
      Parse("kind: Route\nname: a\nmatch:\n  path:\n    exact: /a\n    prefix: /b\n").problems,
      ElementsAre("policy.yaml:6:5: Route/a: match.path.prefix: only one of 'exact', 'prefix', 'template', 'regex' "
                  "may be given; 'exact' is, on line 5"));
}

TEST(Codec, BooleansAreTrueAndFalseOnly) {
  for (const char* word : {"on", "off", "yes", "no", "True", "1", "\"true\"", "~"}) {
    std::vector<std::string> problems = BootstrapProblems(std::string("metrics: { enabled: ") + word + " }");
    ASSERT_THAT(problems, SizeIs(1)) << word;
    EXPECT_THAT(problems[0], HasSubstr("metrics.enabled: expected true or false")) << word;
  }
  v1::Bootstrap config;
  EXPECT_THAT(BootstrapProblems("metrics: { enabled: false }", &config), IsEmpty());
  EXPECT_TRUE(config.metrics().has_enabled());
}

TEST(Codec, NumbersAreDecimalInRangeAndUnquoted) {
  for (const char* word : {"-1", "65536", "4294967296", "99999999999999999999", "0x50", "1e3", "080", "80.5", "8 0", "",
                           "\"8080\"", "[80, 81]", ".nan", "+80"}) {
    EXPECT_THAT(BootstrapProblems(std::string("server: { port: ") + word + " }"), SizeIs(1)) << word;
  }
  EXPECT_THAT(BootstrapProblems("server: { port: 4294967296 }"),
              ElementsAre("server.port: expected a whole number from 0 to 65535, found '4294967296'"));
  EXPECT_THAT(BootstrapProblems("server: { port: \"80\" }"),
              ElementsAre("server.port: expected a whole number, without quotes, found the string '80'"));
  EXPECT_THAT(
      BootstrapProblems("server: { max_header_bytes: 12KB, buffer_budget: 1KiB }"),
      ElementsAre("server.max_header_bytes: expected a size such as 64KiB or 10MiB (units: B, KiB, MiB, GiB, TiB), "
                  "found '12KB'",
                  "server.buffer_budget: expected a size from 1MiB to 1TiB, found '1KiB'"));
}

TEST(Codec, StringsTakePlainScalarsAsTheyAreWritten) {
  v1::Bootstrap config;
  EXPECT_THAT(
      BootstrapProblems("server: { workers: 4 }\nredis: { password: 007 }\nconsul: { service_name: on }", &config),
      IsEmpty());
  EXPECT_EQ(config.server().workers(), "4");
  EXPECT_EQ(config.redis().password(), "007");
  EXPECT_EQ(config.consul().service_name(), "on");
  EXPECT_THAT(BootstrapProblems("redis: { password: [hunter2] }"),
              ElementsAre("redis.password: expected a string, found a list"));
  EXPECT_THAT(BootstrapProblems("redis: { password: ~ }"),
              ElementsAre("redis.password: expected a string, found nothing"));
}

TEST(Codec, EmptySectionIsAbsentAndAListOfOneMayBeAScalar) {
  v1::Bootstrap config;
  EXPECT_THAT(BootstrapProblems(
                  "consul:\nserver: { trusted_proxies: 10.0.0.0/8, listeners: { address: \"0.0.0.0:1\" } }", &config),
              IsEmpty());
  EXPECT_FALSE(config.has_consul());
  EXPECT_THAT(config.server().trusted_proxies(), ElementsAre("10.0.0.0/8"));
  EXPECT_EQ(config.server().listeners(0).address(), "0.0.0.0:1");
}

TEST(Codec, ListsAreLimitedByTheirRules) {
  std::string list = "[a0";
  for (int i = 1; i < 17; ++i) list += ", a" + std::to_string(i);
  EXPECT_THAT(Parse("kind: Defaults\nname: default\nrate_limits: " + list + "]\n").problems,
              ElementsAre("policy.yaml:3:14: Defaults/default: rate_limits: expected at most 16 entries, found 17"));
  EXPECT_THAT(Parse("kind: Defaults\nname: default\nrate_limits:\n").problems, SizeIs(1));
}

TEST(CheckRules, FindsInAMessageWhatTheCodecFindsInYaml) {
  v1::Route route;
  route.set_name("a");
  route.mutable_timeout()->set_seconds(100'000);
  route.mutable_match()->add_headers()->set_exact("1");
  route.add_split()->set_weight(1'000'001);
  for (int i = 0; i < 17; ++i) route.add_rate_limits("x");
  v1::RateLimit limit;
  limit.set_mode(static_cast<v1::RateLimit::Mode>(77));
  std::vector<FieldProblem> problems;
  CheckRules(route, &problems);
  CheckRules(limit, &problems);
  std::vector<std::string> texts;
  for (const FieldProblem& problem : problems) texts.push_back(problem.field + ": " + problem.message);
  EXPECT_THAT(texts, ElementsAre("match.headers[0].name: is required", "split[0].service: is required",
                                 "split[0].weight: expected a number from 0 to 1000000, found 1000001",
                                 "timeout: expected a duration from 1ms to 24h, found 100000s",
                                 "rate_limits: expected at most 16 entries, found 17", "limit: is required",
                                 "mode: expected one of: enforce, shadow, disabled, found 77"));
  route.mutable_timeout()->set_seconds(-5);
  problems.clear();
  CheckRules(route, &problems);
  EXPECT_THAT(problems, Not(IsEmpty()));
}

TEST(Codec, SecretsAreNeverWritten) {
  v1::Bootstrap config;
  config.mutable_redis()->set_password("hunter2");
  config.mutable_consul()->set_token("s3cr3t");
  std::string text = EncodeYaml(config);
  EXPECT_THAT(text, Not(HasSubstr("hunter2")));
  EXPECT_THAT(text, Not(HasSubstr("s3cr3t")));
  EXPECT_THAT(text, HasSubstr("password: redacted"));
}

TEST(ParseDuration, UnderstandsUnitsFractionsAndCompounds) {
  auto nanos = [](std::string_view text) {
    absl::StatusOr<Duration> duration = ParseDuration(text);
    EXPECT_TRUE(duration.ok()) << text << duration.status();
    return duration.ok() ? duration->seconds() * 1'000'000'000 + duration->nanos() : -1;
  };
  EXPECT_EQ(nanos("250ms"), 250'000'000);
  EXPECT_EQ(nanos("30"), 30'000'000'000);
  EXPECT_EQ(nanos("0.5"), 500'000'000);
  EXPECT_EQ(nanos("1.5s"), 1'500'000'000);
  EXPECT_EQ(nanos("1h30m"), 5'400'000'000'000);
  EXPECT_EQ(nanos("1m2s3ms4us5ns"), 62'003'004'005);
  EXPECT_EQ(nanos("0s"), 0);
  for (const char* text : {"",
                           "s",
                           "1",
                           "-1s",
                           "1.s",
                           ".5s",
                           "1x",
                           "1s1s",
                           "1s1m",
                           "1h30",
                           "1 s",
                           " 1s",
                           "1.5ns",
                           "inf",
                           "nan",
                           "1e3s",
                           "1000001h",
                           "99999999999999999999s",
                           "9223372036854775807ns9",
                           "1S"}) {
    EXPECT_EQ(ParseDuration(text).ok(), std::string_view(text) == "1") << text;
  }
  EXPECT_THAT(std::string(ParseDuration("-1s").status().message()), HasSubstr("not negative"));
}

TEST(ParseDuration, ReadsWhatFormatDurationWrites) {
  std::random_device device;
  const unsigned seed = device();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const int64_t units[] = {1, 1'000, 1'000'000, 1'000'000'000, 60'000'000'000, 3'600'000'000'000};
  for (int round = 0; round < 20'000; ++round) {
    int64_t total =
        static_cast<int64_t>(random() % 900) * units[random() % 6] + (round % 3 ? 0 : random() % 1'000'000'000);
    if (round % 7 == 0) total = static_cast<int64_t>(random() % 3'500'000'000'000'000'000);
    Duration duration;
    duration.set_seconds(total / 1'000'000'000);
    duration.set_nanos(static_cast<int32_t>(total % 1'000'000'000));
    absl::StatusOr<Duration> back = ParseDuration(FormatDuration(duration));
    ASSERT_TRUE(back.ok()) << FormatDuration(duration) << back.status();
    ASSERT_TRUE(MessageDifferencer::Equals(duration, *back)) << FormatDuration(duration);
  }
  Duration minute;
  minute.set_seconds(60);
  EXPECT_EQ(FormatDuration(minute), "1m");
  minute.set_nanos(500'000'000);
  EXPECT_EQ(FormatDuration(minute), "60500ms");
  EXPECT_EQ(FormatDuration(Duration()), "0s");
}

TEST(ParseSize, UnderstandsBinaryUnits) {
  EXPECT_EQ(*ParseSize("100"), 100u);
  EXPECT_EQ(*ParseSize("64KiB"), 65536u);
  EXPECT_EQ(*ParseSize("16777215TiB"), 16777215ull << 40);
  for (const char* text : {"", "KiB", "1KB", "1 KiB", "-1", "1.5MiB", "16777216TiB", "99999999999999999999", "1kib"}) {
    EXPECT_FALSE(ParseSize(text).ok()) << text;
  }
  for (uint64_t bytes : {uint64_t{0}, uint64_t{1023}, uint64_t{65536}, uint64_t{10} << 20, UINT64_MAX}) {
    EXPECT_EQ(*ParseSize(FormatSize(bytes)), bytes);
  }
  EXPECT_EQ(FormatSize(10 << 20), "10MiB");
}

TEST(NearestName, FindsTyposAndNothingFarther) {
  const std::vector<std::string> names = {"prefix", "exact", "template", "regex"};
  EXPECT_EQ(NearestName("prefx", names), "prefix");
  EXPECT_EQ(NearestName("Prefix", names), "prefix");
  EXPECT_EQ(NearestName("tmplate", names), "template");
  EXPECT_EQ(NearestName("hosts", names), "");
  EXPECT_EQ(NearestName("", names), "");
  EXPECT_EQ(NearestName(std::string(10'000, 'x'), names), "");
  EXPECT_EQ(NearestName("a", {"b", "c"}), "");
}

// Fills a message with random values that its rules allow.
class Generator {
 public:
  explicit Generator(unsigned seed) : random_(seed) {}

  size_t Below(size_t bound) { return random_() % bound; }

  std::string Text() {
    static const std::string kPieces[] = {"a",
                                          "on",
                                          "yes",
                                          "1",
                                          "0x1",
                                          ":",
                                          " ",
                                          "#",
                                          "-",
                                          "\n",
                                          "\"",
                                          "'",
                                          "\\",
                                          "{",
                                          "[",
                                          "*",
                                          "&",
                                          "!",
                                          "%",
                                          ",",
                                          "\t",
                                          "\xc3\xa9",
                                          "\xe2\x80\xa8",
                                          "null",
                                          "~",
                                          "/",
                                          "\x01",
                                          "\xf0\x9f\x98\x80",
                                          "\xc2\x85",
                                          "<<",
                                          "?",
                                          "|",
                                          ">",
                                          "@",
                                          "`",
                                          ".",
                                          "="};
    std::string text;
    for (size_t length = Below(7); length > 0; --length) text += kPieces[Below(std::size(kPieces))];
    return text;
  }

  void Fill(Message* message) {
    const auto* type = message->GetDescriptor();
    const auto* reflection = message->GetReflection();
    for (int i = 0; i < type->field_count(); ++i) {
      const FieldDescriptor* field = type->field(i);
      const v1::FieldRules& rules = field->options().GetExtension(v1::rules);
      if (!rules.required() && Below(3) == 0) continue;
      if (field->is_map()) {
        for (size_t count = Below(4); count > 0; --count) {
          std::string key = Text();
          Message* entry = nullptr;
          for (int k = 0; k < reflection->FieldSize(*message, field); ++k) {
            Message* present = reflection->MutableRepeatedMessage(message, field, k);
            if (present->GetReflection()->GetString(*present, field->message_type()->map_key()) == key) entry = present;
          }
          if (entry == nullptr) entry = reflection->AddMessage(message, field);
          entry->GetReflection()->SetString(entry, field->message_type()->map_key(), key);
          entry->GetReflection()->SetString(entry, field->message_type()->map_value(), Text());
        }
      } else if (field->is_repeated()) {
        const auto count_max = rules.has_max() ? std::min<size_t>(7, static_cast<size_t>(rules.max())) : size_t{7};
        for (size_t count = 1 + Below(static_cast<int>(count_max)); count > 0; --count) {
          if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
            reflection->AddString(message, field, Text());
          } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
            reflection->AddEnumValue(message, field, AnyOf(field->enum_type()));
          } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_UINT32) {
            reflection->AddUInt32(message, field, static_cast<uint32_t>(Below(600)));
          } else {
            Fill(reflection->AddMessage(message, field));
          }
        }
      } else {
        FillOne(message, field, rules);
      }
    }
  }

 private:
  int AnyOf(const google::protobuf::EnumDescriptor* type) {
    return 1 + static_cast<int>(Below(type->value_count() - 1));
  }
  void FillOne(Message* message, const FieldDescriptor* field, const v1::FieldRules& rules) {
    const auto* reflection = message->GetReflection();
    auto number = [&] {
      double low = rules.has_min() ? rules.min() : 0, high = rules.has_max() ? rules.max() : 1e9;
      return Below(4) == 0   ? low
             : Below(4) == 0 ? high
                             : low + static_cast<double>(random_() % 1'000'001) / 1e6 * (high - low);
    };
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_STRING:
        reflection->SetString(message, field,
                              rules.secret()                                ? "redacted:0123456789abcdef"
                              : field->name() == "name" && rules.required() ? "x" + Text()
                              : rules.required()                            ? "y"
                                                                            : Text());
        break;
      case FieldDescriptor::CPPTYPE_BOOL:
        reflection->SetBool(message, field, Below(2) == 0);
        break;
      case FieldDescriptor::CPPTYPE_ENUM:
        reflection->SetEnumValue(message, field, AnyOf(field->enum_type()));
        break;
      case FieldDescriptor::CPPTYPE_INT32:
        reflection->SetInt32(message, field, static_cast<int32_t>(number()) - 1000);
        break;
      case FieldDescriptor::CPPTYPE_UINT32:
        reflection->SetUInt32(message, field, static_cast<uint32_t>(number()));
        break;
      case FieldDescriptor::CPPTYPE_UINT64:
        reflection->SetUInt64(message, field, static_cast<uint64_t>(number()));
        break;
      case FieldDescriptor::CPPTYPE_DOUBLE:
        reflection->SetDouble(message, field, std::max(rules.has_min() ? rules.min() : 0, std::floor(number())));
        break;
      case FieldDescriptor::CPPTYPE_MESSAGE: {
        Message* child = reflection->MutableMessage(message, field);
        if (child->GetDescriptor() != Duration::descriptor()) return Fill(child);
        double seconds = number();
        auto* duration = static_cast<Duration*>(child);
        duration->set_seconds(static_cast<int64_t>(seconds));
        duration->set_nanos(static_cast<int32_t>((seconds - std::floor(seconds)) * 1e9));
        break;
      }
      default:
        FAIL() << "the generator does not know the type of " << field->full_name();
    }
  }

  std::mt19937_64 random_;
};

TEST(Codec, GeneratedResourcesSurviveYaml) {
  std::random_device device;
  const unsigned seed = device();
  SCOPED_TRACE("seed " + std::to_string(seed));
  Generator generator(seed);
  for (int round = 0; round < 400; ++round) {
    v1::Resource resource;
    auto kinds = ResourceKinds();
    Message* body = MutableBodyOf(&resource, kinds[generator.Below(kinds.size())]);
    generator.Fill(body);
    body->GetReflection()->SetString(body, body->GetDescriptor()->FindFieldByName("name"), "n" + std::to_string(round));
    std::vector<FieldProblem> rules;
    CheckRules(resource, &rules);
    ASSERT_THAT(rules, IsEmpty()) << rules[0].field << ": " << rules[0].message;
    std::string text = EncodeResource(resource);
    Parsed back = Parse(text);
    ASSERT_THAT(back.problems, IsEmpty()) << text;
    ASSERT_THAT(back.documents, SizeIs(1)) << text;
    std::string difference;
    MessageDifferencer differencer;
    differencer.ReportDifferencesToString(&difference);
    ASSERT_TRUE(differencer.Compare(resource, back.documents[0].resource)) << difference << "\n" << text;
    ASSERT_EQ(EncodeResource(back.documents[0].resource), text);
    ASSERT_TRUE(nlohmann::json::accept(EncodeResourceJson(resource)));
    // JSON is YAML: the other output reads back too.
    Parsed json = Parse(EncodeResourceJson(resource));
    ASSERT_THAT(json.problems, IsEmpty()) << EncodeResourceJson(resource);
    ASSERT_EQ(CanonicalBytes(json.documents.at(0).resource), CanonicalBytes(resource));
  }
}

class PolicyFilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "codec_test.XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& text) {
    std::filesystem::path path = folder_ / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
    return path.string();
  }

  std::filesystem::path folder_;
};

TEST_F(PolicyFilesTest, FoldersAreReadSortedAndRecursively) {
  const std::string tail = "\nmatch: {}\n";
  Write("b.yaml", "kind: Route\nname: b" + tail);
  Write("a/z.yml", "kind: Route\nname: z" + tail);
  Write("notes.txt", "not: [policy");
  Write("..data/b.yaml", "kind: Route\nname: b" + tail);
  std::vector<PolicyProblem> problems;
  std::vector<PolicyDocument> documents = ReadPolicyFiles({folder_.string()}, &problems);
  EXPECT_THAT(problems, IsEmpty());
  ASSERT_THAT(documents, SizeIs(2));
  EXPECT_EQ(documents[0].resource.route().name(), "z");
  EXPECT_EQ(documents[1].resource.route().name(), "b");
  EXPECT_EQ(documents[1].file, (folder_ / "b.yaml").string());
}

TEST_F(PolicyFilesTest, ResourceGivenTwiceIsAProblemAcrossFiles) {
  std::string one = Write("1.yaml", "kind: Route\nname: a\nmatch: {}\n");
  std::string two = Write("2.yaml", "---\nkind: Route\nname: a\nmatch: {}\n");
  std::vector<PolicyProblem> problems;
  EXPECT_THAT(ReadPolicyFiles({one, two}, &problems), SizeIs(1));
  ASSERT_THAT(problems, SizeIs(1));
  EXPECT_EQ(problems[0].ToString(), two + ":2:1: Route/a: is given twice; first at " + one + ":1:1");
}

TEST_F(PolicyFilesTest, MissingFileIsToldAndTheOthersAreRead) {
  std::string good = Write("1.yaml", "kind: Route\nname: a\nmatch: {}\n");
  std::vector<PolicyProblem> problems;
  EXPECT_THAT(ReadPolicyFiles({(folder_ / "none.yaml").string(), good}, &problems), SizeIs(1));
  ASSERT_THAT(problems, SizeIs(1));
  EXPECT_THAT(problems[0].ToString(), HasSubstr("none.yaml: cannot be read: No such file or directory"));
}

}  // namespace
}  // namespace gateway
