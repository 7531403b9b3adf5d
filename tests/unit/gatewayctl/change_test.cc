// apply --to, --confirm-within and --guard; confirm, promote and abandon, against a server that answers by script.
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/temp_dir.h"
#include "tests/unit/gatewayctl/scripted_admin.h"
#include "tools/gatewayctl/cli.h"
#include "tools/gatewayctl/exit_code.h"

namespace gateway::ctl {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kNowSeconds = 1'700'000'180;

struct Ended {
  int code;
  std::string out, err;
};

class ChangeCommands : public ::testing::Test {
 protected:
  ChangeCommands() {
    admin_.remembers_requests = true;
    change_.set_revision(9);
    change_.set_base_revision(8);
    admin_.apply = [this](const v1::ApplyRequest& request, v1::ApplyResponse* response) {
      applied_ = request;
      response->set_revision(9);
      *response->mutable_change() = change_;
      return grpc::Status::OK;
    };
    admin_.rollout = [](const v1::RolloutRequest&, ScriptedAdmin::Writer* writer, grpc::ServerContext*) {
      v1::RolloutResponse response;
      response.set_revision(9);
      response.set_data_planes(1);
      response.set_serving(1);
      response.set_done(true);
      writer->Write(response);
      return grpc::Status::OK;
    };
    admin_.get_change = [this](const v1::GetChangeRequest& request, v1::GetChangeResponse* response) {
      EXPECT_EQ(request.revision(), 9u);
      *response->mutable_change() = later_;
      return grpc::Status::OK;
    };
    admin_.decide_change = [this](const v1::DecideChangeRequest& request, v1::DecideChangeResponse* response) {
      decided_ = request;
      *response->mutable_change() = later_;
      response->set_revision(9);
      return grpc::Status::OK;
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
  Ended Apply(std::vector<std::string> more) {
    more.insert(
        more.begin(),
        {"apply", "-f", dir_.Write("a.yaml", "kind: Service\nname: svc\nstatic:\n  - address: 127.0.0.1:18081\n")});
    return Ctl(std::move(more));
  }
  // What the server says once the outcome is there.
  void EndAs(v1::PendingChange::Outcome outcome, const std::string& reason) {
    later_ = change_;
    later_.clear_confirm_by();
    later_.set_outcome(outcome);
    later_.set_reason(reason);
    later_.set_ended_by(10);
  }

  fixtures::TempDir dir_;
  ScriptedAdmin admin_;
  v1::PendingChange change_, later_;
  v1::ApplyRequest applied_;
  v1::DecideChangeRequest decided_;
};

TEST_F(ChangeCommands, ApplySendsItsTermsAndSaysWhatToDoNext) {
  change_.set_to("percent=10");
  change_.mutable_confirm_by()->set_seconds(kNowSeconds + 120);
  change_.mutable_guard_until()->set_seconds(kNowSeconds + 60);
  change_.set_guard("error_rate<1%");
  change_.add_routes("orders");
  const Ended run = Apply({"--to", "percent=10", "--confirm-within", "2m", "--guard", "error_rate<1%"});
  EXPECT_EQ(run.code, kDone) << run.err;
  EXPECT_EQ(applied_.to(), "percent=10");
  EXPECT_EQ(applied_.confirm_within().seconds(), 120);
  EXPECT_EQ(applied_.guard(), "error_rate<1%");
  EXPECT_THAT(run.out,
              HasSubstr("staged for percent=10; the others keep revision 8: gatewayctl promote 9, or abandon 9\n"
                        "its guard error_rate<1% watches 1 route for 1m\n"
                        "reverted in 2m unless confirmed: gatewayctl confirm 9\n"));
}

TEST_F(ChangeCommands, ApplyWithWaitEndsWithNineAfterAReversal) {
  change_.mutable_confirm_by()->set_seconds(absl::ToUnixSeconds(absl::Now()) + 60);
  EndAs(v1::PendingChange::REVERTED, "reverted: not confirmed within 2m");
  const Ended run = Apply({"--confirm-within", "2m", "--wait"});
  EXPECT_EQ(run.code, kReverted);
  EXPECT_EQ(run.err, "gatewayctl: revision 9 was reverted: not confirmed within 2m\n");
  const Ended json = Apply({"--confirm-within", "2m", "--wait", "-o", "json"});
  EXPECT_EQ(json.code, kReverted);
  EXPECT_EQ(nlohmann::json::parse(json.out)["change"]["outcome"], "reverted") << json.out;
}

TEST_F(ChangeCommands, ApplyWithWaitIsDoneOnceItIsKept) {
  change_.mutable_guard_until()->set_seconds(absl::ToUnixSeconds(absl::Now()) + 60);
  EndAs(v1::PendingChange::KEPT, "its guard held");
  later_.clear_guard_until();
  later_.set_ended_by(0);
  later_.set_note("warning: the guard saw no requests on the routes of the change");
  const Ended run = Apply({"--guard", "error_rate<1%", "--wait"});
  EXPECT_EQ(run.code, kDone) << run.err;
  EXPECT_THAT(run.out, HasSubstr("revision 9: its guard held\nwarning: the guard saw no requests"));
}

TEST_F(ChangeCommands, ApplyWithWaitDoesNotWaitForAPromotion) {
  change_.set_to("zone=a");
  const Ended run = Apply({"--to", "zone=a", "--wait"});
  EXPECT_EQ(run.code, kDone);
  EXPECT_EQ(run.out.find("staged for zone=a"), run.out.rfind("staged for zone=a")) << "said once: " << run.out;
}

TEST_F(ChangeCommands, AWrongDurationIsWrongUsage) {
  const Ended run = Apply({"--confirm-within", "soon"});
  EXPECT_EQ(run.code, kUsage);
  EXPECT_THAT(run.err, HasSubstr("--confirm-within: expected a duration"));
}

TEST_F(ChangeCommands, DecisionsSayWhoAndWhich) {
  EndAs(v1::PendingChange::KEPT, "promoted by 'ana@desk'");
  later_.set_ended_by(0);
  const Ended promoted = Ctl({"promote", "9", "--comment", "fine"});
  EXPECT_EQ(promoted.code, kDone) << promoted.err;
  EXPECT_EQ(promoted.out, "revision 9: promoted by 'ana@desk'\n");
  EXPECT_EQ(decided_.revision(), 9u);
  EXPECT_EQ(decided_.decision(), v1::DecideChangeRequest::PROMOTE);
  EXPECT_EQ(decided_.context().actor(), "ana@desk");
  EXPECT_EQ(decided_.context().comment(), "fine");
  EXPECT_EQ(Ctl({"confirm"}).code, kDone);
  EXPECT_EQ(decided_.decision(), v1::DecideChangeRequest::CONFIRM);
  EXPECT_EQ(decided_.revision(), 0u);
  EndAs(v1::PendingChange::ABANDONED, "revision 9 abandoned by 'ana@desk'");
  EXPECT_EQ(Ctl({"abandon"}).out, "revision 9 abandoned by 'ana@desk'\nrevision 10 has the policy of revision 8\n");
  EXPECT_EQ(decided_.decision(), v1::DecideChangeRequest::ABANDON);
}

}  // namespace
}  // namespace gateway::ctl
