#include "common/config/redaction.h"

#include "absl/strings/match.h"
#include "common/policy/policy_files.h"
#include "gtest/gtest.h"

namespace gateway {
namespace {

v1::Resource ConsumerOf(const std::string& key, const std::string& hash) {
  v1::Resource resource;
  v1::Consumer* consumer = resource.mutable_consumer();
  consumer->set_name("acme");
  consumer->add_credentials()->set_api_key_sha256(key);
  v1::BasicCredential* basic = consumer->add_credentials()->mutable_basic();
  basic->set_username("ali");
  basic->set_password_hash(hash);
  return resource;
}

TEST(Redaction, IsAFingerprintOfTheSecret) {
  v1::Resource resource = ConsumerOf("aaaa", "hhhh");
  RedactSecrets(resource.mutable_consumer());
  const v1::Consumer& consumer = resource.consumer();
  const std::string key = consumer.credentials(0).api_key_sha256();
  EXPECT_TRUE(IsRedacted(key));
  EXPECT_EQ(key.size(), kRedactedPrefix.size() + 16);
  EXPECT_EQ(key, RedactedText("aaaa"));
  EXPECT_NE(key, RedactedText("aaab"));
  EXPECT_TRUE(IsRedacted(consumer.credentials(1).basic().password_hash()));
  EXPECT_EQ(consumer.credentials(1).basic().username(), "ali");
  RedactSecrets(resource.mutable_consumer());
  EXPECT_EQ(resource.consumer().credentials(0).api_key_sha256(), key);
  EXPECT_EQ(RedactedText(""), "");
}

TEST(Redaction, IsPutBackWhereverInTheListItStands) {
  const v1::Resource current = ConsumerOf("aaaa", "hhhh");
  v1::Resource resource = current;
  RedactSecrets(resource.mutable_consumer());
  resource.mutable_consumer()->mutable_credentials()->SwapElements(0, 1);
  resource.mutable_consumer()->add_credentials()->set_api_key_sha256("new");
  std::vector<v1::PolicyError> errors;
  RestoreSecrets(&current, &resource, &errors);
  EXPECT_TRUE(errors.empty());
  EXPECT_EQ(resource.consumer().credentials(0).basic().password_hash(), "hhhh");
  EXPECT_EQ(resource.consumer().credentials(1).api_key_sha256(), "aaaa");
  EXPECT_EQ(resource.consumer().credentials(2).api_key_sha256(), "new");
}

TEST(Redaction, OfAnUnknownSecretIsAnError) {
  const v1::Resource current = ConsumerOf("aaaa", "hhhh");
  v1::Resource resource = current;
  RedactSecrets(resource.mutable_consumer());
  std::vector<v1::PolicyError> errors;
  v1::Resource orphan = resource;
  RestoreSecrets(nullptr, &orphan, &errors);
  ASSERT_EQ(errors.size(), 2u);
  EXPECT_EQ(errors[0].field(), "credentials[0].api_key_sha256");
  EXPECT_EQ(errors[1].field(), "credentials[1].basic.password_hash");
  EXPECT_TRUE(absl::StrContains(errors[0].message(), "no such resource"));
  errors.clear();
  // A key's fingerprint does not restore a password.
  resource.mutable_consumer()->mutable_credentials(1)->mutable_basic()->set_password_hash(RedactedText("aaaa"));
  RestoreSecrets(&current, &resource, &errors);
  ASSERT_EQ(errors.size(), 1u);
  EXPECT_EQ(errors[0].field(), "credentials[1].basic.password_hash");
}

TEST(Redaction, IsWhatTheCodecWrites) {
  const std::string yaml = EncodeResource(ConsumerOf("aaaa", "hhhh"));
  EXPECT_FALSE(absl::StrContains(yaml, "aaaa"));
  EXPECT_FALSE(absl::StrContains(yaml, "hhhh"));
  std::vector<PolicyProblem> problems;
  const std::vector<PolicyDocument> documents = ParsePolicy(yaml, "f", &problems);
  ASSERT_TRUE(problems.empty()) << problems[0].message;
  EXPECT_EQ(documents.at(0).resource.consumer().credentials(0).api_key_sha256(), RedactedText("aaaa"));
  EXPECT_FALSE(absl::StrContains(EncodeResourceJson(ConsumerOf("aaaa", "hhhh")), "aaaa"));
}

}  // namespace
}  // namespace gateway
