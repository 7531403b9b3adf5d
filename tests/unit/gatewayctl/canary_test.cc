// canary, and what get and describe show of one, against a scripted server.
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/unit/gatewayctl/scripted_admin.h"
#include "tools/gatewayctl/cli.h"
#include "tools/gatewayctl/exit_code.h"

namespace gateway::ctl {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kNowSeconds = 1'700'000'180;

struct Ended {
  int code;
  std::string out, err;
};

class CanaryCommand : public ::testing::Test {
 protected:
  CanaryCommand() {
    route_ = Stored(
        "kind: Route\nname: shop\nmatch: { path: { prefix: /shop } }\nsplit: [{ service: v1 }, { service: v2 }]\n"
        "canary: { steps: [1, 5, 25, 100], guard: 'error_rate<1%' }\n",
        12);
    v1::CanaryState& state = *route_.mutable_canary();
    state.set_phase(v1::CanaryState::WALKING);
    state.set_service("v2");
    state.set_step(1);
    state.set_percent(5);
    state.mutable_since()->set_seconds(kNowSeconds - 48);
    state.mutable_next_step()->set_seconds(kNowSeconds + 12);
    v1::CanaryEvent* event = state.add_events();
    event->mutable_at()->set_seconds(kNowSeconds - 48);
    event->set_revision(12);
    event->set_percent(5);
    event->set_what("step 2 of 4");
    admin_.resources = {route_, Stored("kind: Route\nname: plain\nmatch: { path: { prefix: /p } }\nservice: v1\n")};
    admin_.history = [](const v1::HistoryRequest&, v1::HistoryResponse*) { return grpc::Status::OK; };
    admin_.decide_canary = [this](const v1::DecideCanaryRequest& request, v1::DecideCanaryResponse* response) {
      decided_ = request;
      response->set_revision(13);
      return request.route() == "shop" ? grpc::Status::OK : grpc::Status(grpc::StatusCode::NOT_FOUND, "no such Route");
    };
  }
  Ended Ctl(std::vector<std::string> arguments) {
    std::ostringstream out, err;
    const Terminal terminal{.out = &out,
                            .err = &err,
                            .environment = [this](const std::string& name) -> std::optional<std::string> {
                              if (name == "GATEWAY_SERVER") return admin_.address();
                              return std::nullopt;
                            },
                            .now = [] { return absl::FromUnixSeconds(kNowSeconds); },
                            .actor = "ana@desk"};
    admin_.Order();
    const int code = RunCommandLine(arguments, terminal);
    admin_.Order();
    return {code, out.str(), err.str()};
  }

  ScriptedAdmin admin_;
  v1::StoredResource route_;
  v1::DecideCanaryRequest decided_;
};

TEST_F(CanaryCommand, ShowsWhereItIsAndWhatHappened) {
  const Ended shown = Ctl({"canary", "shop"});
  EXPECT_EQ(shown.code, kDone) << shown.err;
  EXPECT_THAT(shown.out, HasSubstr("Route/shop: 5% to v2, walking at step 2 of 4 since "));
  EXPECT_THAT(shown.out, HasSubstr("; the next in 12s\n"));
  EXPECT_THAT(shown.out, HasSubstr("steps: 1, 5, 25, 100 %, each for 1m; guard: error_rate<1%\n"));
  EXPECT_THAT(shown.out, HasSubstr("48s   12         5%        step 2 of 4\n"));
  EXPECT_EQ(Ctl({"canary", "route/shop"}).out, shown.out);
  const auto json = nlohmann::json::parse(Ctl({"canary", "shop", "-o", "json"}).out);
  EXPECT_EQ(json["phase"], "walking");
  EXPECT_EQ(json["percent"], 5);
  EXPECT_EQ(json["events"][0]["what"], "step 2 of 4");
  EXPECT_EQ(decided_.route(), "") << "nothing was decided";
}

TEST_F(CanaryCommand, DecisionsSayWhoAndWhy) {
  const std::vector<std::pair<std::string, v1::DecideCanaryRequest::Decision>> decisions = {
      {"--pause", v1::DecideCanaryRequest::PAUSE},
      {"--resume", v1::DecideCanaryRequest::RESUME},
      {"--abort", v1::DecideCanaryRequest::ABORT},
      {"--restart", v1::DecideCanaryRequest::RESTART},
      {"--complete", v1::DecideCanaryRequest::COMPLETE}};
  for (const auto& [flag, decision] : decisions) {
    const Ended done = Ctl({"canary", "shop", flag, "--comment", "because"});
    EXPECT_EQ(done.code, kDone) << done.err;
    EXPECT_EQ(decided_.decision(), decision);
    EXPECT_EQ(decided_.context().actor(), "ana@desk");
    EXPECT_EQ(decided_.context().comment(), "because");
  }
  EXPECT_EQ(nlohmann::json::parse(Ctl({"canary", "shop", "--pause", "-o", "json"}).out)["revision"], 13);
}

TEST_F(CanaryCommand, WhatIsWrongHasItsExitCode) {
  EXPECT_EQ(Ctl({"canary"}).code, kUsage);
  EXPECT_EQ(Ctl({"canary", "shop", "--pause", "--abort"}).code, kUsage);
  EXPECT_EQ(Ctl({"canary", "shop", "--wait"}).code, kUsage) << "there is nothing to wait for";
  EXPECT_EQ(Ctl({"canary", "nothing"}).code, kNotFound);
  EXPECT_EQ(Ctl({"canary", "nothing", "--abort"}).code, kNotFound);
  const Ended without = Ctl({"canary", "plain"});
  EXPECT_EQ(without.code, kNotFound);
  EXPECT_THAT(without.err, HasSubstr("Route/plain has no canary"));
}

TEST_F(CanaryCommand, GetAndDescribeShowTheSharesOfTheStepAndTheDocumentAsWritten) {
  EXPECT_THAT(Ctl({"get", "routes"}).out, HasSubstr("v1 95%, v2 5%  "));
  EXPECT_THAT(Ctl({"get", "routes", "-o", "wide"}).out, HasSubstr("v1 95%, v2 5% (canary: 5%, walking)"));
  EXPECT_THAT(Ctl({"get", "route", "shop", "-o", "yaml"}).out, Not(HasSubstr("weight")));
  const Ended described = Ctl({"describe", "route", "shop"});
  EXPECT_EQ(described.code, kDone) << described.err;
  EXPECT_THAT(described.out, HasSubstr("95% Service/v1"));
  EXPECT_THAT(described.out, HasSubstr("Canary:       5% to v2, walking at step 2 of 4"));
  EXPECT_THAT(described.out, HasSubstr("\nSteps\n"));
  EXPECT_THAT(described.out, HasSubstr("canary:"));
  const auto json = nlohmann::json::parse(Ctl({"describe", "route", "shop", "-o", "json"}).out);
  EXPECT_EQ(json["canary"]["percent"], 5);
}

TEST_F(CanaryCommand, AnEndedOneSaysWhy) {
  v1::CanaryState& state = *admin_.resources[0].mutable_canary();
  state.set_phase(v1::CanaryState::REVERTED);
  state.set_percent(0);
  state.clear_next_step();
  state.set_reason("error_rate 7.1 % of 1204 requests to v2, limit 1 %");
  EXPECT_THAT(Ctl({"canary", "shop"}).out,
              HasSubstr("0% to v2, reverted since 2023-11-14T22:15:32Z: error_rate 7.1 % of 1204 requests to v2"));
  state.set_phase(v1::CanaryState::WALKING);
  state.set_reason("waits: revision 9 by 'ann' is staged");
  EXPECT_THAT(Ctl({"canary", "shop"}).out, HasSubstr("; waits: revision 9 by 'ann' is staged\n"));
}

}  // namespace
}  // namespace gateway::ctl
