// Which schema version each resource requires.
#include "common/policy/schema_version.h"

#include <filesystem>
#include <string>
#include <vector>

#include "common/policy/policy_files.h"
#include "common/policy/resource.h"
#include "gtest/gtest.h"

namespace gateway {
namespace {

v1::Resource Service() {
  v1::Resource resource;
  resource.mutable_service()->set_name("svc");
  (*resource.mutable_service()->mutable_labels())["team"] = "web";
  resource.mutable_service()->add_static_()->set_address("10.0.0.1:80");
  resource.mutable_service()->mutable_health_check()->set_type(v1::HealthCheck::TCP);
  resource.mutable_service()->mutable_health_check()->mutable_interval()->set_seconds(5);
  return resource;
}

TEST(RequiredSchemaVersion, IsThatOfTheNewestThingInIt) {
  v1::Resource resource = Service();
  EXPECT_EQ(RequiredSchemaVersion(resource), kSchemaVersionMin);
  resource.mutable_service()->mutable_tls();
  EXPECT_EQ(RequiredSchemaVersion(resource), kSchemaVersion) << "also if the message is empty";
  resource = Service();
  // An enum value that an older reader takes for unspecified.
  resource.mutable_service()->mutable_health_check()->set_type(static_cast<v1::HealthCheck::Type>(77));
  EXPECT_EQ(RequiredSchemaVersion(resource), kSchemaVersion);
  v1::Resource route;
  route.mutable_route()->mutable_consul_service()->mutable_template_()->mutable_tls()->set_server_name("x");
  EXPECT_EQ(RequiredSchemaVersion(route), kSchemaVersion) << "deep inside";
}

// Release 0.1.0 still understands its own samples.
TEST(RequiredSchemaVersion, OfTheOldSamplesIsTheOldOne) {
  const std::filesystem::path folder = std::filesystem::path(GATEWAY_SOURCE_DIR) / "deploy" / "policies";
  for (const char* name : {"minimal", "tour", "limits", "resilience", "balance", "edge", "fleet-limit", "auth"}) {
    std::vector<PolicyProblem> problems;
    const std::vector<PolicyDocument> documents =
        ReadPolicyFiles({(folder / (std::string(name) + ".yaml")).string()}, &problems);
    EXPECT_FALSE(documents.empty()) << name;
    for (const PolicyDocument& document : documents) {
      EXPECT_EQ(RequiredSchemaVersion(document.resource), kSchemaVersionMin)
          << name << ": " << document.resource.ShortDebugString();
    }
  }
}

}  // namespace
}  // namespace gateway
