// The sample alert counts exactly the reasons that the table marks as failures of a service, and no client error.
#include <fstream>
#include <iterator>
#include <regex>
#include <string>

#include "dataplane/http/reason.h"
#include "gtest/gtest.h"

namespace gateway::dataplane {
namespace {

// A 5xx caused by the client's request.
bool IsClientsOwn(std::string_view word) {
  return word == "not_implemented" || word == "http_version" || word == "loop_detected";
}

TEST(AlertRules, ServiceFailingCountsOwn5xxAndNoMistakeOfAClient) {
  std::ifstream file(GATEWAY_SOURCE_DIR "/deploy/prometheus/gateway.rules.yml");
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const size_t alert = text.find("alert: GatewayServiceFailing");
  ASSERT_NE(alert, std::string::npos);
  constexpr std::string_view kBegin = "error_type=~\"";
  const size_t begin = text.find(kBegin, alert) + kBegin.size();
  const std::regex counted(text.substr(begin, text.find('"', begin) - begin));
  EXPECT_TRUE(std::regex_match("upstream_5xx", counted));
  for (int i = 1; i < kReasonCount; ++i) {
    const ReasonInfo& info = InfoOf(static_cast<Reason>(i));
    EXPECT_EQ(std::regex_match(std::string(info.word), counted), info.status >= 500 && !IsClientsOwn(info.word))
        << info.word;
  }
}

}  // namespace
}  // namespace gateway::dataplane
