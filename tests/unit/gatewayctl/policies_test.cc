// The sample policies in deploy/ must be valid: people copy them.
#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "common/policy/builtin.h"
#include "common/policy/policy_files.h"
#include "common/policy/resource.h"
#include "common/policy/snapshot.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gateway {
namespace {

using ::testing::IsEmpty;

// Compiles a file together with the built-ins that it does not replace, as the control plane does.
CompileResult CompileFile(const std::string& file) {
  std::vector<PolicyProblem> problems;
  const std::vector<PolicyDocument> documents = ReadPolicyFiles({file}, &problems);
  for (const PolicyProblem& problem : problems) ADD_FAILURE() << problem.ToString();
  const std::vector<v1::Resource> builtins = BuiltinResources(BuiltinRateLimit{});
  std::vector<const v1::Resource*> set;
  for (const PolicyDocument& document : documents) set.push_back(&document.resource);
  for (const v1::Resource& builtin : builtins) {
    const bool replaced = std::any_of(documents.begin(), documents.end(), [&](const PolicyDocument& document) {
      return KeyOf(document.resource) == KeyOf(builtin);
    });
    if (!replaced) set.push_back(&builtin);
  }
  CompileResult result = CompileSnapshot(set, {.epoch = "e", .revision = 1});
  for (const v1::PolicyError& error : result.errors) ADD_FAILURE() << file << ": " << error.ShortDebugString();
  EXPECT_THAT(result.warnings, IsEmpty()) << file;
  return result;
}

const std::filesystem::path kPolicies = std::filesystem::path(GATEWAY_SOURCE_DIR) / "deploy" / "policies";

RouteMatch MatchPath(const Snapshot& snapshot, std::string_view path) {
  RouteMatch match;
  snapshot.Match({.method = "GET", .host = "localhost", .path = path, .query = "", .fields = {}}, &match);
  return match;
}

TEST(SamplePolicies, AllCompileAlone) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kPolicies)) {
    if (entry.path().extension() != ".yaml") continue;
    ++files;
    EXPECT_NE(CompileFile(entry.path().string()).snapshot, nullptr) << entry.path();
  }
  EXPECT_GE(files, 2);
}

TEST(SamplePolicies, MinimalForwardsWhatItSays) {
  const CompileResult result = CompileFile((kPolicies / "minimal.yaml").string());
  ASSERT_NE(result.snapshot, nullptr);
  ASSERT_NE(MatchPath(*result.snapshot, "/svc/a").route, nullptr);
  EXPECT_EQ(MatchPath(*result.snapshot, "/svcs").route, nullptr);
  EXPECT_EQ(result.snapshot->services()[0].addresses.size(), 2u);
}

TEST(SamplePolicies, TourSendsOrdersByItsOwnRouteAndAnyOtherNameToConsul) {
  const CompileResult result = CompileFile((kPolicies / "tour.yaml").string());
  ASSERT_NE(result.snapshot, nullptr);
  const RouteMatch orders = MatchPath(*result.snapshot, "/api/v1/orders/42");
  ASSERT_NE(orders.route, nullptr);
  EXPECT_EQ(orders.route->name, "orders");
  EXPECT_EQ(orders.route->split_total, 100u);
  const RouteMatch users = MatchPath(*result.snapshot, "/api/v1/users/7");
  ASSERT_NE(users.route, nullptr);
  EXPECT_EQ(users.route->name, "api");
  ASSERT_NE(users.route->consul_service, nullptr);
  EXPECT_TRUE(users.route->consul_service->Allows("users"));
  EXPECT_FALSE(users.route->consul_service->Allows("consul"));
  ASSERT_NE(users.route->consul_service->service.breaker, nullptr);
  EXPECT_EQ(users.route->consul_service->service.breaker->name, "hystrix");
}

}  // namespace
}  // namespace gateway
