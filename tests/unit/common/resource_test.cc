#include "common/policy/resource.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace gateway {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Resource, KindsAreThoseOfTheSchemaInItsOrder) {
  EXPECT_THAT(ResourceKinds(), ElementsAre("Service", "Route", "RateLimit", "CircuitBreaker", "Defaults", "Retry",
                                           "Auth", "Consumer", "Cors", "IpAccess", "Certificate"));
}

TEST(Resource, CanonicalKindTakesCasePluralsAndShortNames) {
  const std::pair<const char*, const char*> cases[] = {{"Route", "Route"},
                                                       {"routes", "Route"},
                                                       {"SERVICE", "Service"},
                                                       {"svc", "Service"},
                                                       {"ratelimits", "RateLimit"},
                                                       {"rl", "RateLimit"},
                                                       {"rate-limit", "RateLimit"},
                                                       {"rate_limits", "RateLimit"},
                                                       {"cb", "CircuitBreaker"},
                                                       {"circuitbreakers", "CircuitBreaker"},
                                                       {"breakers", "CircuitBreaker"},
                                                       {"default", "Defaults"},
                                                       {"defaults", "Defaults"}};
  for (const auto& [word, kind] : cases) {
    absl::StatusOr<std::string> found = CanonicalKind(word);
    ASSERT_TRUE(found.ok()) << word;
    EXPECT_EQ(*found, kind) << word;
  }
  absl::StatusOr<std::string> none = CanonicalKind("rout");
  EXPECT_EQ(none.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("Service, Route, RateLimit"));
  EXPECT_FALSE(CanonicalKind("").ok());
  EXPECT_FALSE(CanonicalKind("s").ok());
}

TEST(Resource, EveryKindHasKeyLabelsAndBody) {
  for (std::string_view kind : ResourceKinds()) {
    v1::Resource resource;
    google::protobuf::Message* body = MutableBodyOf(&resource, kind);
    ASSERT_NE(body, nullptr);
    body->GetReflection()->SetString(body, body->GetDescriptor()->FindFieldByName("name"), "a");
    EXPECT_EQ(KeyOf(resource).ToString(), std::string(kind) + "/a");
    EXPECT_EQ(BodyOf(resource), body);
    // LabelsOf must cover every kind: this fails for a missing one.
    const auto* labels = body->GetDescriptor()->FindFieldByName("labels");
    google::protobuf::Message* entry = body->GetReflection()->AddMessage(body, labels);
    entry->GetReflection()->SetString(entry, labels->message_type()->map_key(), "team");
    EXPECT_EQ(LabelsOf(resource).count("team"), 1u) << kind;
  }
  v1::Resource nothing;
  EXPECT_EQ(KeyOf(nothing), ResourceKey());
  EXPECT_EQ(BodyOf(nothing), nullptr);
  EXPECT_TRUE(LabelsOf(nothing).empty());
  EXPECT_EQ(MutableBodyOf(&nothing, "Gateway"), nullptr);
  EXPECT_EQ(BodyOf(nothing), nullptr);
}

TEST(Resource, NamesAreLowerCaseDnsLike) {
  const std::string longest(128, 'x'), longer(129, 'x');
  for (const std::string& name : std::vector<std::string>{"a", "0", "a.b_c-d", "orders", "nonesuch", longest}) {
    EXPECT_TRUE(CheckName(name).ok()) << name;
  }
  for (const std::string& name :
       std::vector<std::string>{"", "none", "A", "-a", "a-", ".a", "a b", "a/b", "\xc3\xa9", longer}) {
    EXPECT_EQ(CheckName(name).code(), absl::StatusCode::kInvalidArgument) << name;
  }
}

TEST(Resource, KeysOfLabelsAreKubectls) {
  const std::string longest(63, 'x'), longest_prefix = std::string(249, 'a') + ".com";
  for (const std::string& key : std::vector<std::string>{"a", "0", "Team", "a.b_c-D", longest, "example.com/team",
                                                         "x/y", "a-b.c0/" + longest, longest_prefix + "/a"}) {
    EXPECT_TRUE(CheckLabelKey(key).ok()) << key;
  }
  for (const std::string& key :
       std::vector<std::string>{"",       "a b",  "-a",   "a-",       "_a",
                                "a=b",    "a,b",  "!a",   "\xc3\xa9", longest + "x",
                                "/a",     "a/",   "a//b", "a/b/c",    "Example.com/a",
                                "a..b/c", ".a/b", "a./b", "-a/b",     "x" + longest_prefix + "/a"}) {
    EXPECT_EQ(CheckLabelKey(key).code(), absl::StatusCode::kInvalidArgument) << key;
  }
  EXPECT_EQ(
      CheckLabelKey("my team").message(),
      "'my team' is not the key of a label: expected 1 to 63 letters, digits, '.', '_' and '-', with a letter or a "
      "digit at both ends, as in team or example.com/team");
}

TEST(Resource, CanonicalBytesDoNotDependOnTheOrderOfLabels) {
  v1::Resource one, other;
  for (int i = 0; i < 50; ++i) (*one.mutable_route()->mutable_labels())["k" + std::to_string(i)] = "v";
  for (int i = 49; i >= 0; --i) (*other.mutable_route()->mutable_labels())["k" + std::to_string(i)] = "v";
  EXPECT_EQ(CanonicalBytes(one), CanonicalBytes(other));
  v1::Resource back;
  ASSERT_TRUE(back.ParseFromString(CanonicalBytes(one)));
  EXPECT_EQ(back.route().labels_size(), 50);
  (*other.mutable_route()->mutable_labels())["k0"] = "w";
  EXPECT_NE(CanonicalBytes(one), CanonicalBytes(other));
  EXPECT_EQ(CanonicalBytes(v1::Resource()), "");
}

}  // namespace
}  // namespace gateway
