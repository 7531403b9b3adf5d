// One data plane in front of one service, for tests of what both sides see.
#ifndef GATEWAY_TESTS_INTEGRATION_PROXY_H_
#define GATEWAY_TESTS_INTEGRATION_PROXY_H_

#include <algorithm>
#include <cctype>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {

// The service is a ScriptedUpstream.
class Proxy : public ::testing::Test {
 protected:
  void StartWith(UpstreamScript script, std::string_view service_fields = "", std::string_view route_fields = "",
                 std::vector<std::string> sets = {}) {
    upstream_ = std::make_unique<ScriptedUpstream>(std::move(script));
    DataPlane::Options options;
    options.policy = ServicePolicyYaml({upstream_->address()}, service_fields, route_fields);
    options.sets = std::move(sets);
    gateway_ = std::make_unique<DataPlane>(std::move(options));
  }
  Response Get(std::string_view target, std::string_view fields = "") {
    auto response = Fetch(gateway_->port(), "GET", target, fields);
    if (!response.ok()) ADD_FAILURE() << target << ": " << response.status();
    return response.ok() ? *response : Response();
  }
  nlohmann::json Echoed(std::string_view target, std::string_view fields = "", std::string_view method = "GET",
                        std::string_view body = "") {
    auto response = Fetch(gateway_->port(), method, target, fields, body);
    if (!response.ok() || response->status != 200) {
      ADD_FAILURE() << target << ": "
                    << (response.ok() ? response->head + response->body : response.status().ToString());
      return {};
    }
    return nlohmann::json::parse(response->body);
  }
  // All values of a field that the upstream saw.
  static std::vector<std::string> Seen(const nlohmann::json& echo, const std::string& name) {
    std::vector<std::string> values;
    for (const auto& field : echo["fields"]) {
      std::string each = field[0];
      std::transform(each.begin(), each.end(), each.begin(), [](unsigned char c) { return std::tolower(c); });
      if (each == name) values.push_back(field[1]);
    }
    return values;
  }
  static std::string ReasonOf(const Response& response) {
    const auto body = nlohmann::json::parse(response.body, nullptr, false);
    return body.is_object() ? body.value("reason", "") : "no JSON: " + response.body;
  }

  std::unique_ptr<ScriptedUpstream> upstream_;
  std::unique_ptr<DataPlane> gateway_;
};

}  // namespace gateway::fixtures

#endif  // GATEWAY_TESTS_INTEGRATION_PROXY_H_
