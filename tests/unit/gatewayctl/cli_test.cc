// gatewayctl as operators run it, against a scripted server.
#include "tools/gatewayctl/cli.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/policy/policy_files.h"
#include "common/policy/resource.h"
#include "gateway/v1/config_stream.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/temp_dir.h"
#include "tests/unit/gatewayctl/scripted_admin.h"
#include "tools/gatewayctl/commands.h"
#include "tools/gatewayctl/exit_code.h"

namespace gateway::ctl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kService[] = "kind: Service\nname: svc\nstatic:\n  - address: 127.0.0.1:18081\n";
constexpr char kRoute[] =
    "kind: Route\nname: orders\nlabels: { team: a }\nmatch: { path: { prefix: /o } }\nservice: svc\n";

struct Ended {
  int code;
  std::string out, err;
};

class Gatewayctl : public ::testing::Test {
 protected:
  Ended RunAt(const std::string& server, std::vector<std::string> arguments) {
    std::ostringstream out, err;
    const Terminal terminal{.out = &out,
                            .err = &err,
                            .out_is_terminal = out_is_terminal_,
                            .in = in_,
                            .environment =
                                [&](const std::string& name) {
                                  const auto found = environment_.find(name);
                                  return found == environment_.end() ? std::nullopt : std::optional(found->second);
                                },
                            .now = [] { return absl::FromUnixSeconds(1'700'000'180); },
                            .actor = "ana@desk"};
    if (!server.empty()) environment_["GATEWAY_SERVER"] = server;
    const int code = RunCommandLine(arguments, terminal);
    return {code, out.str(), err.str()};
  }
  Ended Ctl(std::vector<std::string> arguments) {
    admin_.Order();
    Ended ended = RunAt(admin_.address(), std::move(arguments));
    admin_.Order();
    return ended;
  }

  // Apply responds that everything in the request was created, as `revision`.
  void AcceptEverything(uint64_t revision) {
    admin_.apply = [this, revision](const v1::ApplyRequest& request, v1::ApplyResponse* response) {
      applied_.push_back(request);
      response->set_revision(revision);
      for (const v1::Resource& resource : request.resources()) {
        v1::Change* change = response->add_changes();
        change->set_op(v1::Change::CREATED);
        change->set_kind(KeyOf(resource).kind);
        change->set_name(KeyOf(resource).name);
      }
      return grpc::Status::OK;
    };
  }

  static v1::RolloutResponse Serving(uint32_t serving, uint32_t of, uint32_t workers, bool done) {
    v1::RolloutResponse response;
    response.set_revision(7);
    response.set_serving(serving);
    response.set_data_planes(of);
    response.set_workers_serving(workers);
    response.set_done(done);
    response.mutable_elapsed()->set_nanos(9'400'000);
    return response;
  }

  fixtures::TempDir dir_;
  ScriptedAdmin admin_;
  std::map<std::string, std::string> environment_;
  bool out_is_terminal_ = false;
  std::istream* in_ = nullptr;
  std::vector<v1::ApplyRequest> applied_;
};

TEST_F(Gatewayctl, ApplySaysWhatChangedAndTheRevision) {
  AcceptEverything(7);
  const Ended run = Ctl({"apply", "-f", dir_.Write("a.yaml", absl::StrCat(kService, "---\n", kRoute)), "--comment",
                         "why", "--expect-revision", "6"});
  EXPECT_EQ(run.code, kDone) << run.err;
  EXPECT_EQ(run.out, "Service/svc created\nRoute/orders created\nrevision 7\n");
  EXPECT_EQ(run.err, "");
  ASSERT_EQ(applied_.size(), 1u);
  EXPECT_EQ(applied_[0].context().actor(), "ana@desk");
  EXPECT_EQ(applied_[0].context().comment(), "why");
  EXPECT_EQ(applied_[0].expected_revision(), 6u);
  EXPECT_FALSE(applied_[0].dry_run());
}

TEST_F(Gatewayctl, ApplyTakesSeveralFilesFoldersAndStandardInput) {
  AcceptEverything(7);
  dir_.Write("folder/b.yaml", "kind: RateLimit\nname: b\nlimit: { requests: 1, window: 1s }\n");
  std::istringstream input(kRoute);
  std::streambuf* const before = std::cin.rdbuf(input.rdbuf());
  const Ended run =
      Ctl({"apply", "-f", dir_.Write("a.yaml", kService), "-f", dir_.File("folder"), "-f", "-", "--dry-run"});
  std::cin.rdbuf(before);
  EXPECT_EQ(run.code, kDone) << run.err;
  EXPECT_EQ(run.out,
            "Service/svc created\nRateLimit/b created\nRoute/orders created\n"
            "revision 7 (dry run: nothing was stored)\n");
  ASSERT_EQ(applied_.size(), 1u);
  EXPECT_TRUE(applied_[0].dry_run());
}

TEST_F(Gatewayctl, ApplyPrintsWarningsBesideTheOutput) {
  admin_.apply = [](const v1::ApplyRequest&, v1::ApplyResponse* response) {
    response->set_revision(3);
    response->add_warnings("Route/orders can never match");
    return grpc::Status::OK;
  };
  const Ended run = Ctl({"apply", "-f", dir_.Write("a.yaml", kRoute)});
  EXPECT_EQ(run.out, "revision 3\n");
  EXPECT_EQ(run.err, "warning: Route/orders can never match\n");
}

TEST_F(Gatewayctl, MistakesOfTheServerStandWhereTheyAreInTheFile) {
  admin_.apply = [](const v1::ApplyRequest&, v1::ApplyResponse*) {
    return InvalidPolicy({{"Route", "orders", "split[1].service", "Service 'x' is not defined"},
                          {"Route", "orders", "rewrite.template", "goes with a template"},
                          {"Route", "elsewhere", "service", "Service 'svc' would be gone"}});
  };
  const std::string file = dir_.Write("a.yaml",
                                      "# a comment\n"
                                      "kind: Route\n"
                                      "name: orders\n"
                                      "match: { path: { prefix: /o } }\n"
                                      "split:\n"
                                      "  - { service: a }\n"
                                      "  - { service: x }\n"
                                      "rewrite:\n"
                                      "  prefix: /\n");
  const Ended run = Ctl({"apply", "-f", file});
  EXPECT_EQ(run.code, kInvalidPolicy);
  EXPECT_EQ(run.out, "");
  const std::vector<std::string> lines = absl::StrSplit(run.err, '\n', absl::SkipEmpty());
  ASSERT_EQ(lines.size(), 4u) << run.err;
  EXPECT_THAT(lines[0], ::testing::StartsWith(file + ":7:"));
  EXPECT_THAT(lines[0], HasSubstr("Route/orders: split[1].service: Service 'x' is not defined"));
  EXPECT_THAT(lines[1], ::testing::StartsWith(file + ":8:")) << "the nearest parent in the file";
  EXPECT_THAT(lines[2], ::testing::EndsWith("Route/elsewhere: service: Service 'svc' would be gone"));
  EXPECT_EQ(lines[3], "gatewayctl: the policy is invalid: 3 errors; nothing was changed");
}

// Errors found by gatewayctl and errors found by the server are printed together, each once.
TEST_F(Gatewayctl, ErrorsOfClientAndServerArePrintedTogether) {
  admin_.apply = [this](const v1::ApplyRequest& request, v1::ApplyResponse*) {
    applied_.push_back(request);
    return InvalidPolicy({{"Service", "svc", "timeouts.connect", "is out of range"},
                          {"Route", "orders", "service", "Service 'nobody' is not defined"}});
  };
  const Ended run = Ctl({"apply", "-f",
                         dir_.Write("a.yaml",
                                    "kind: Service\nname: svc\nstatic: [{ address: \"h:1\" }]\n"
                                    "timeouts: { connect: never }\nload_balancr: { policy: random }\n---\n"
                                    "kind: Route\nname: orders\nmatch: {}\nservice: nobody\n")});
  EXPECT_EQ(run.code, kInvalidPolicy);
  EXPECT_THAT(run.err, HasSubstr("timeouts.connect"));
  EXPECT_THAT(run.err, Not(HasSubstr("is out of range")));
  EXPECT_THAT(run.err, HasSubstr("load_balancer"));
  EXPECT_THAT(run.err, HasSubstr("Service 'nobody' is not defined"));
  EXPECT_THAT(run.err, HasSubstr("3 errors"));
  ASSERT_EQ(applied_.size(), 1u);
  EXPECT_TRUE(applied_[0].dry_run()) << "an invalid policy must never be stored";
}

// A document that cannot be parsed hides only those errors in others that it may have caused.
TEST_F(Gatewayctl, AnUnreadableDocumentHidesNoErrorsOfOthers) {
  admin_.apply = [this](const v1::ApplyRequest& request, v1::ApplyResponse*) {
    applied_.push_back(request);
    return InvalidPolicy({{"Route", "orders", "service", "service 'nobody' is not defined"},
                          {"Route", "orders", "auth", "auth 'none-such' is not defined; did you mean 'x'?"},
                          {"Route", "Bad Name", "name", "is no name"},
                          {"Route", "orders", "priority", "is out of range"}});
  };
  const std::string route = "kind: Route\nname: orders\nmatch: {}\nservice: nobody\nauth: none-such\n---\n";
  const auto errors = [&](const std::string& other) {
    const Ended run = Ctl({"apply", "-f", dir_.Write("a.yaml", route + other)});
    EXPECT_EQ(run.code, kInvalidPolicy);
    EXPECT_TRUE(!applied_.empty() && applied_.back().dry_run()) << "an invalid policy must never be stored";
    EXPECT_THAT(run.err, HasSubstr("priority: is out of range")) << other;
    return run.err;
  };
  const std::string duplicate =
      errors("kind: Service\nname: s\nstatic: [{ address: \"h:1\" }]\nlabels: {}\nlabels: {}\n");
  EXPECT_THAT(duplicate, HasSubstr("duplicate key 'labels'"));
  EXPECT_THAT(duplicate, HasSubstr("service 'nobody' is not defined")) << "the unreadable Service is not 'nobody'";
  EXPECT_THAT(duplicate, HasSubstr("auth 'none-such' is not defined"));
  const std::string unknown = errors("kind: Servce\nname: nobody\n");
  EXPECT_THAT(unknown, HasSubstr("unknown kind 'Servce'"));
  EXPECT_THAT(unknown, Not(HasSubstr("service 'nobody' is not defined"))) << "probably the missing one";
  EXPECT_THAT(unknown, HasSubstr("auth 'none-such' is not defined"));
  const std::string near = errors("kind: service\nname: nobody\n");
  EXPECT_THAT(near, Not(HasSubstr("service 'nobody' is not defined"))) << "probably the missing one";
  EXPECT_THAT(near, HasSubstr("auth 'none-such' is not defined"));
  const std::string named = errors("kind: Route\nname: Bad Name\nmatch: {}\nservice: nobody\n");
  EXPECT_THAT(named, HasSubstr("service 'nobody' is not defined"));
  EXPECT_THAT(named, Not(HasSubstr("is no name\n"))) << "reported once";
  const std::string misnamed = errors("kind: Service\nname: Bad Name\nstatic: [{ address: \"h:1\" }]\n");
  EXPECT_THAT(misnamed, HasSubstr("service 'nobody' is not defined")) << "another Service is not the missing one";
  const std::string nameless = errors("kind: Service\nstatic: [{ address: \"h:1\" }]\n");
  EXPECT_THAT(nameless, HasSubstr("service 'nobody' is not defined"));
  EXPECT_THAT(nameless, HasSubstr("auth 'none-such' is not defined"));
  const std::string broken = errors("kind: Service\nname: nobody\na: [1\n");
  EXPECT_THAT(broken, Not(HasSubstr("service 'nobody' is not defined"))) << "it may be in the invalid YAML";
  EXPECT_THAT(broken, HasSubstr("auth 'none-such' is not defined"));
}

TEST_F(Gatewayctl, TabsAndDocumentsOfKubernetesAreCalledWhatTheyAre) {
  admin_.Stop();
  const auto errors = [&](const std::string& text) {
    const Ended run = Ctl({"apply", "-f", dir_.Write("a.yaml", text)});
    EXPECT_EQ(run.code, kInvalidPolicy) << run.err;
    return run.err;
  };
  for (const char* text : {"kind: Route\nname: a\nmatch:\n\tpath: { prefix: / }\nservice: s\n",
                           "kind: Route\nname: a\nmatch:\n \tpath: { prefix: / }\nservice: s\n"}) {
    EXPECT_THAT(errors(text), HasSubstr("a.yaml:4:")) << text;
    EXPECT_THAT(errors(text), HasSubstr("a tab cannot indent")) << text;
    EXPECT_THAT(errors(text), HasSubstr(" 1 error;")) << text;
  }
  const std::string one = "apiVersion: v1\nkind: Service\nmetadata: { name: s }\nspec: { static: [] }\n";
  EXPECT_THAT(errors(one), HasSubstr("a.yaml:1:1: kind and name stand at the top level; there is no spec"));
  EXPECT_THAT(errors(one), HasSubstr(" 1 error;"));
  const std::string two = errors(one + "---\n" + one + "---\n" + kRoute);
  EXPECT_THAT(two, HasSubstr("so it is in 2 documents"));
  EXPECT_THAT(two, HasSubstr(" 1 error;"));
}

TEST_F(Gatewayctl, LocalMistakesAreToldWithoutAServer) {
  admin_.Stop();
  const Ended run = Ctl({"apply", "-f", dir_.Write("a.yaml", "kind: Route\nname: orders\nservce: svc\n")});
  EXPECT_EQ(run.code, kInvalidPolicy);
  EXPECT_THAT(run.err, HasSubstr("a.yaml:3:1: Route/orders: servce: "));
}

TEST_F(Gatewayctl, AnApplyThatIsTooLongForACallSaysWhatToDo) {
  AcceptEverything(7);
  std::string files;  // more than the 4 MiB that the scripted server accepts
  for (int i = 0; i < 6; ++i) {
    absl::StrAppend(&files, "kind: Service\nname: s", i,
                    "\nstatic: [{ address: \"h:1\" }]\ndescription: ", std::string(900'000, 'x'), "\n---\n");
  }
  const Ended run = Ctl({"apply", "-f", dir_.Write("a.yaml", files)});
  EXPECT_EQ(run.code, kFailed);
  EXPECT_THAT(run.err, HasSubstr("more than fits into one call"));
  EXPECT_THAT(run.err, HasSubstr("apply the files in several steps"));
}

TEST_F(Gatewayctl, FilesThatAreNotThereAreWrongUsage) {
  const Ended run = Ctl({"apply", "-f", dir_.File("none.yaml")});
  EXPECT_EQ(run.code, kUsage);
  EXPECT_EQ(run.err, absl::StrCat("gatewayctl: ", dir_.File("none.yaml"), ": No such file or directory\n"));
  EXPECT_EQ(Ctl({"apply", "-f", dir_.Write("empty.yaml", "# nothing\n")}).code, kUsage);
}

TEST_F(Gatewayctl, WaitTellsWhenEveryoneServes) {
  AcceptEverything(7);
  admin_.rollout = [](const v1::RolloutRequest& request, ScriptedAdmin::Writer* writer, grpc::ServerContext*) {
    EXPECT_EQ(request.revision(), 7u);
    EXPECT_TRUE(request.wait());
    writer->Write(Serving(1, 2, 2, false));
    writer->Write(Serving(2, 2, 4, true));
    return grpc::Status::OK;
  };
  const Ended run = Ctl({"apply", "-f", dir_.Write("a.yaml", kService), "--wait"});
  EXPECT_EQ(run.code, kDone) << run.err;
  EXPECT_EQ(run.out, "Service/svc created\nrevision 7\nrevision 7 serving on 2/2 data planes (4 workers) in 9 ms\n");
}

TEST_F(Gatewayctl, WaitSaysWhoRejectedAndWhy) {
  AcceptEverything(7);
  admin_.rollout = [](const v1::RolloutRequest&, ScriptedAdmin::Writer* writer, grpc::ServerContext*) {
    v1::RolloutResponse response = Serving(1, 3, 2, false);
    response.set_rejected(1);
    v1::DataPlaneState* rejecting = response.add_pending();
    rejecting->set_name("dp-2");
    rejecting->set_connected(true);
    rejecting->set_rejected_revision(7);
    rejecting->set_applied_revision(6);
    v1::Rejection* rejection = rejecting->add_rejections();
    rejection->set_kind("Route");
    rejection->set_name("orders");
    rejection->set_field("match.path.regex");
    rejection->set_reason("too large");
    v1::DataPlaneState* behind = response.add_pending();
    behind->set_name("dp-3");
    behind->set_connected(true);
    behind->set_applied_revision(5);
    writer->Write(response);
    return grpc::Status::OK;
  };
  const Ended run = Ctl({"apply", "-f", dir_.Write("a.yaml", kService), "--wait"});
  EXPECT_EQ(run.code, kNotEveryone);
  EXPECT_EQ(run.out, "Service/svc created\nrevision 7\n");
  EXPECT_EQ(run.err,
            "gatewayctl: revision 7 serving on 1/3 data planes (2 workers), rejected by 1\n"
            "  dp-2 rejected it: Route/orders: match.path.regex: too large\n"
            "  dp-3 serves revision 5\n");
}

TEST_F(Gatewayctl, WaitWithoutAnyDataPlaneEndsAtTheTimeout) {
  AcceptEverything(7);
  admin_.rollout = [](const v1::RolloutRequest&, ScriptedAdmin::Writer* writer, grpc::ServerContext* context) {
    writer->Write(Serving(0, 0, 0, false));
    while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    return grpc::Status::CANCELLED;
  };
  const Ended run = Ctl({"apply", "-f", dir_.Write("a.yaml", kService), "--wait", "--timeout", "300ms"});
  EXPECT_EQ(run.code, kNotEveryone);
  EXPECT_EQ(run.err, "gatewayctl: revision 7: no data plane is connected; waited 300ms\n");
}

// The control plane restarts during a wait: the stream breaks, the wait continues.
TEST_F(Gatewayctl, WaitOutlivesABrokenStream) {
  AcceptEverything(7);
  int calls = 0;
  admin_.rollout = [&](const v1::RolloutRequest&, ScriptedAdmin::Writer* writer, grpc::ServerContext*) {
    if (++calls < 3) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "going down");
    writer->Write(Serving(2, 2, 4, true));
    return grpc::Status::OK;
  };
  const Ended run = Ctl({"apply", "-f", dir_.Write("a.yaml", kService), "--wait"});
  EXPECT_EQ(run.code, kDone) << run.err;
  EXPECT_THAT(run.out, HasSubstr("serving on 2/2"));
  EXPECT_EQ(calls, 3);
}

TEST_F(Gatewayctl, ConflictUnreachableAndNotFoundHaveTheirOwnCodes) {
  const std::string file = dir_.Write("a.yaml", kService);
  admin_.apply = [](const v1::ApplyRequest&, v1::ApplyResponse*) {
    return grpc::Status(grpc::StatusCode::ABORTED, "revision 6 was expected, 8 is current");
  };
  Ended run = Ctl({"apply", "-f", file, "--expect-revision", "6"});
  EXPECT_EQ(run.code, kConflict);
  EXPECT_EQ(run.err, "gatewayctl: revision 6 was expected, 8 is current\n");
  admin_.apply = [](const v1::ApplyRequest&, v1::ApplyResponse*) {
    return grpc::Status(grpc::StatusCode::PERMISSION_DENIED, "not yours");
  };
  EXPECT_EQ(Ctl({"apply", "-f", file}).code, kNotAllowed);
  admin_.apply = [](const v1::ApplyRequest&, v1::ApplyResponse*) {
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the disk is full");
  };
  EXPECT_EQ(Ctl({"apply", "-f", file}).code, kFailed);

  admin_.resources = {Stored(kService)};
  run = Ctl({"get", "service", "svd"});
  EXPECT_EQ(run.code, kNotFound);
  EXPECT_EQ(run.err, "gatewayctl: Service/svd is not defined; did you mean 'svc'?\n");
  EXPECT_EQ(Ctl({"show", "99"}).code, kNotFound);
}

TEST_F(Gatewayctl, UnreachableServerIsSaidInOneLineAndAtOnce) {
  const std::string address = admin_.address();
  admin_.Stop();
  const absl::Time begin = absl::Now();
  const Ended run = RunAt("", {"--server", address, "get", "routes"});
  EXPECT_EQ(run.code, kUnreachable);
  EXPECT_EQ(run.err, absl::StrCat("gatewayctl: cannot reach the control plane at ", address, ": connection refused\n"));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(3));
}

TEST_F(Gatewayctl, ServerThatDoesNotAnswerIsUnreachable) {
  admin_.list = [](const v1::ListRequest&, v1::ListResponse*) {
    absl::SleepFor(absl::Milliseconds(500));
    return grpc::Status::OK;
  };
  const Ended run = Ctl({"get", "--timeout", "100ms"});
  EXPECT_EQ(run.code, kUnreachable);
  EXPECT_THAT(run.err, HasSubstr("no response within 100ms"));
}

TEST_F(Gatewayctl, FlagGoesBeforeEnvironmentAndEnvironmentBeforeTheDefault) {
  admin_.resources = {Stored(kService)};
  EXPECT_EQ(RunAt("127.0.0.1:1", {"get", "--server", admin_.address()}).code, kDone);
  EXPECT_EQ(RunAt(admin_.address(), {"get"}).code, kDone);
  EXPECT_THAT(RunAt("127.0.0.1:1", {"get"}).err, HasSubstr("at 127.0.0.1:1:"));
}

TEST_F(Gatewayctl, WrongUsageSuggestsWhatWasMeant) {
  Ended run = Ctl({"aply"});
  EXPECT_EQ(run.code, kUsage);
  EXPECT_THAT(run.err, HasSubstr("unknown command 'aply'; did you mean 'apply'?"));
  run = Ctl({"get", "--ouput", "json"});
  EXPECT_EQ(run.code, kUsage);
  EXPECT_THAT(run.err, HasSubstr("did you mean '--output'?"));
  EXPECT_EQ(Ctl({"apply", "-f", "x", "--to", "all"}).err.find("did you mean"), std::string::npos);
  EXPECT_THAT(Ctl({"context"}).err, HasSubstr("VERB is required; expected set, use, list"));
  EXPECT_THAT(Ctl({"endpoints", "a", "--set", "h:1"}).err, HasSubstr("--set: expected ADDRESS weight=N|drain|up"));
  for (const std::vector<std::string>& wrong : std::vector<std::vector<std::string>>{{},
                                                                                     {"apply"},
                                                                                     {"get", "nonsense"},
                                                                                     {"get", "-o", "xml"},
                                                                                     {"get", "route/a", "b"},
                                                                                     {"get", "routes", "-l", "x y"},
                                                                                     {"describe", "route"},
                                                                                     {"delete", "route"},
                                                                                     {"show", "seven"},
                                                                                     {"rollback"},
                                                                                     {"completion", "tcsh"},
                                                                                     {"--timeout", "0s", "get"},
                                                                                     {"get", "a", "b", "c"}}) {
    run = Ctl(wrong);
    EXPECT_EQ(run.code, kUsage) << ::testing::PrintToString(wrong);
    EXPECT_EQ(run.out, "");
    EXPECT_NE(run.err, "");
  }
  EXPECT_THAT(Ctl({"rollback", "x"}).err, HasSubstr("'x' is not a revision; expected a number from history"));
}

TEST_F(Gatewayctl, EveryCommandHasHelpWithAnExample) {
  const std::string all = Ctl({"--help"}).out;
  for (const char* command :
       {"apply",    "sync",      "blame",    "backup",         "diff",     "get",        "describe",
        "delete",   "export",    "history",  "show",           "rollback", "rollout",    "dataplanes",
        "services", "endpoints", "loglevel", "support-bundle", "version",  "completion", "confirm",
        "promote",  "abandon",   "drain",    "undrain"}) {
    EXPECT_THAT(all, HasSubstr(absl::StrCat("\n  ", command, " ")));
    const Ended run = Ctl({command, "--help"});
    EXPECT_EQ(run.code, kDone) << command;
    EXPECT_THAT(run.out, HasSubstr("Example:\n  ")) << command;
    EXPECT_THAT(run.out, HasSubstr(absl::StrCat("gatewayctl ", command))) << command;
  }
}

TEST_F(Gatewayctl, HelpFitsIntoEightyColumns) {
  std::vector<std::string> texts = {Ctl({"--help"}).out};
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(texts[0], '\n'))) {
    if (line.size() < 4 || !line.starts_with("  ") || line[2] == ' ' || line[2] == '-') continue;
    texts.push_back(Ctl({line.substr(2, line.find(' ', 2) - 2), "--help"}).out);
  }
  EXPECT_GT(texts.size(), 25u);
  for (const std::string& text : texts) {
    for (const std::string& line : std::vector<std::string>(absl::StrSplit(text, '\n'))) {
      EXPECT_LE(line.size(), 80u) << line;
    }
  }
}

TEST_F(Gatewayctl, FailedHandshakeNamesTheFlagToLookAt) {
  ASSERT_EQ(Ctl({"pki", "init", dir_.File("pki")}).code, kDone);
  const Ended run = Ctl({"get", "--ca", dir_.File("pki/ca.crt")});
  EXPECT_EQ(run.code, kUnreachable);
  EXPECT_THAT(run.err, HasSubstr("TLS")) << "the server speaks cleartext";
}

TEST_F(Gatewayctl, PkiAndListsRefuseWhatTheyDoNotUse) {
  ASSERT_EQ(Ctl({"pki", "init", dir_.File("pki")}).code, kDone);
  const Ended again = Ctl({"pki", "init", dir_.File("pki")});
  EXPECT_EQ(again.code, kConflict);
  EXPECT_THAT(again.err, HasSubstr("there is a CA already"));
  EXPECT_EQ(Ctl({"pki", "issue", dir_.File("pki"), "--server", "a", "--role", "admin"}).code, kUsage);
  EXPECT_EQ(Ctl({"token", "list", "ann"}).code, kUsage);
  EXPECT_EQ(Ctl({"context", "list", "prod"}).code, kUsage);
}

TEST_F(Gatewayctl, GetPrintsTheKindsOwnColumns) {
  admin_.resources = {Stored(kService, 3), Stored(kRoute, 5)};
  EXPECT_EQ(Ctl({"get", "Routes"}).out,
            "NAME     HOSTS   METHODS   PATH    CONDITIONS   TO    PRIORITY   REVISION   AGE\n"
            "orders   any     any       /o/**   -            svc   0          5          3m\n");
  EXPECT_EQ(Ctl({"get"}).out,
            "KIND      NAME     SUMMARY           REVISION   AGE\n"
            "Service   svc      127.0.0.1:18081   3          3m\n"
            "Route     orders   /o/** -> svc      5          3m\n");
  EXPECT_EQ(Ctl({"get", "-o", "name"}).out, "Service/svc\nRoute/orders\n");
  EXPECT_EQ(Ctl({"get", "-l", "team=a", "-o", "name"}).out, "Route/orders\n");
  EXPECT_EQ(Ctl({"get", "-l", "team=b", "-o", "name"}).out, "");
  const Ended none = Ctl({"get", "ratelimits"});
  EXPECT_EQ(none.code, kDone);
  EXPECT_EQ(none.out, "");
  EXPECT_EQ(none.err, "no RateLimit found\n");
}

TEST_F(Gatewayctl, SelectorsFollowKubectlsGrammarAndRepeatedOnesMustAllMatch) {
  admin_.resources = {Stored("kind: Route\nname: a\nlabels: { team: x, env: prod }\nmatch: {}\nservice: s\n"),
                      Stored("kind: Route\nname: b\nlabels: { team: x, env: test }\nmatch: {}\nservice: s\n"),
                      Stored("kind: Route\nname: c\nmatch: {}\nservice: s\n")};
  const auto names = [&](std::vector<std::string> selectors) {
    std::vector<std::string> arguments = {"get", "routes", "-o", "name"};
    for (std::string& selector : selectors) arguments.insert(arguments.end(), {"-l", std::move(selector)});
    const Ended run = Ctl(arguments);
    EXPECT_EQ(run.code, kDone) << run.err;
    return run.out;
  };
  EXPECT_EQ(names({"team=x,env=prod"}), "Route/a\n");
  EXPECT_EQ(names({"team=x", "env=test"}), "Route/b\n");
  EXPECT_EQ(names({"team=x,team=y"}), "");
  EXPECT_EQ(names({"env!=prod"}), "Route/b\nRoute/c\n");
  EXPECT_EQ(names({"env==prod"}), "Route/a\n");
  EXPECT_EQ(names({"env in (prod, test)"}), "Route/a\nRoute/b\n");
  EXPECT_EQ(names({"env notin (prod)"}), "Route/b\nRoute/c\n");
  EXPECT_EQ(names({"!team"}), "Route/c\n");
  EXPECT_EQ(names({"team"}), "Route/a\nRoute/b\n");
  admin_.list = [this](const v1::ListRequest&, v1::ListResponse* response) {
    for (const v1::StoredResource& stored : admin_.resources) *response->add_resources() = stored;
    return grpc::Status::OK;
  };
  EXPECT_EQ(names({"env!=prod"}), "Route/b\nRoute/c\n") << "a control plane without selectors";
}

// Only the first word is a command.
TEST_F(Gatewayctl, EveryKindAndEveryLegalNameWorksInEveryPosition) {
  AcceptEverything(7);
  std::vector<std::string> names;
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(Ctl({"--help"}).out, '\n'))) {
    // "  apply     Add and replace ..." under "Subcommands:"; flags begin with a dash.
    if (line.size() < 4 || !line.starts_with("  ") || line[2] == ' ' || line[2] == '-') continue;
    names.push_back(line.substr(2, line.find(' ', 2) - 2));
  }
  ASSERT_THAT(names, ::testing::IsSupersetOf({"apply", "get", "services", "limits", "version"}));
  std::vector<std::string> deleted;
  admin_.remove = [&](const v1::DeleteRequest& request, v1::DeleteResponse*) {
    deleted.push_back(request.name());
    return grpc::Status::OK;
  };
  admin_.history = [](const v1::HistoryRequest& request, v1::HistoryResponse* response) {
    response->add_revisions()->set_actor(request.name());
    return grpc::Status::OK;
  };
  for (const std::string& name : names) {
    admin_.resources = {Stored(absl::StrCat("kind: Route\nname: ", name, "\nmatch: {}\nservice: ", name, "\n")),
                        Stored(absl::StrCat("kind: Service\nname: ", name, "\nstatic: [{ address: \"h:1\" }]\n"))};
    EXPECT_EQ(Ctl({"get", "route", name, "-o", "name"}).out, absl::StrCat("Route/", name, "\n"));
    EXPECT_EQ(Ctl({"-o", "name", "get", absl::StrCat("Route/", name)}).out, absl::StrCat("Route/", name, "\n"));
    EXPECT_THAT(Ctl({"describe", "route", name}).out, ::testing::StartsWith(absl::StrCat("Route/", name, "\n")));
    EXPECT_THAT(Ctl({"describe", "service", name}).out, ::testing::StartsWith(absl::StrCat("Service/", name, "\n")));
    EXPECT_THAT(Ctl({"history", "route", name}).out, HasSubstr(name));
    EXPECT_EQ(Ctl({"endpoints", name, "-o", "name"}).out, "h:1\n");
    EXPECT_EQ(Ctl({"breakers", name}).code, kDone);
    EXPECT_EQ(Ctl({"apply", "--comment", name, "-f", dir_.Write(name, kService)}).code, kDone);
    EXPECT_EQ(applied_.back().context().comment(), name);
    EXPECT_EQ(Ctl({"delete", "route", name}).code, kDone);
    EXPECT_EQ(deleted.back(), name);
  }
  for (const std::string_view kind : ResourceKinds()) {
    const std::string lower = absl::AsciiStrToLower(std::string(kind));
    for (const std::string& word : {lower, lower + "s", std::string(kind)}) {
      EXPECT_EQ(Ctl({"get", word}).code, kDone) << word;
    }
  }
  EXPECT_EQ(Ctl({"get", "services", "-o", "name"}).out, absl::StrCat("Service/", names.back(), "\n"));
  EXPECT_EQ(Ctl({"get", "limits"}).err, "no RateLimit found\n");
  EXPECT_EQ(Ctl({"get", "breakers"}).err, "no CircuitBreaker found\n");
}

TEST_F(Gatewayctl, WhatGetPrintsCanBeApplied) {
  AcceptEverything(8);
  admin_.resources = {Stored(kService), Stored(kRoute)};
  const Ended got = Ctl({"get", "-o", "yaml"});
  std::istringstream input(got.out);
  std::streambuf* const before = std::cin.rdbuf(input.rdbuf());
  const Ended run = Ctl({"apply", "-f", "-"});
  std::cin.rdbuf(before);
  EXPECT_EQ(run.code, kDone) << run.err << got.out;
  ASSERT_EQ(applied_.size(), 1u);
  ASSERT_EQ(applied_[0].resources_size(), 2);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(CanonicalBytes(applied_[0].resources(i)), CanonicalBytes(admin_.resources[i].resource()));
  }
  // One resource in JSON is its document, too.
  const auto json = nlohmann::json::parse(Ctl({"get", "route/orders", "-o", "json"}).out);
  EXPECT_EQ(json["kind"], "Route");
  EXPECT_EQ(json["match"]["path"]["prefix"], "/o");
  const auto list = nlohmann::json::parse(Ctl({"get", "-o", "json"}).out);
  EXPECT_EQ(list["items"].size(), 2u);
  EXPECT_EQ(list["revision"], 7);
}

TEST_F(Gatewayctl, ExportLeavesOutWhatIsBuiltIn) {
  admin_.resources = {Stored(kService), Stored("kind: Defaults\nname: default\n", 1, /*built_in=*/true)};
  EXPECT_EQ(Ctl({"export"}).out, EncodeResource(admin_.resources[0].resource()));
  EXPECT_EQ(Ctl({"export", "--all", "-o", "name"}).out, "Service/svc\nDefaults/default\n");
}

TEST_F(Gatewayctl, ListsWithManyPagesStartAgainWhenAChangeComesBetween) {
  int calls = 0;
  admin_.list = [&](const v1::ListRequest& request, v1::ListResponse* response) {
    ++calls;
    if (calls == 2) return grpc::Status(grpc::StatusCode::ABORTED, "changed");
    *response->add_resources() = Stored(absl::StrReplaceAll(kService, {{"svc", absl::StrCat("s", calls)}}));
    if (request.page_token().empty()) response->set_next_page_token("next");
    return grpc::Status::OK;
  };
  EXPECT_EQ(Ctl({"get", "-o", "name"}).out, "Service/s3\nService/s4\n");
  calls = 0;
  admin_.list = [&](const v1::ListRequest&, v1::ListResponse*) {
    ++calls;
    return grpc::Status(grpc::StatusCode::ABORTED, "changed");
  };
  EXPECT_EQ(Ctl({"get"}).code, kConflict);
  EXPECT_EQ(calls, 6) << "restarts are bounded";
}

TEST_F(Gatewayctl, DiffShowsWhatApplyWouldChange) {
  admin_.resources = {Stored(kService), Stored(kRoute)};
  admin_.apply = [](const v1::ApplyRequest& request, v1::ApplyResponse* response) {
    EXPECT_TRUE(request.dry_run());
    for (const auto& [op, name] : {std::pair(v1::Change::UNCHANGED, "svc"), {v1::Change::UPDATED, "orders"}}) {
      v1::Change* change = response->add_changes();
      change->set_op(op);
      change->set_kind(op == v1::Change::UNCHANGED ? "Service" : "Route");
      change->set_name(name);
    }
    return grpc::Status::OK;
  };
  const std::string changed = absl::StrReplaceAll(kRoute, {{"/o ", "/p "}});
  const std::string file = dir_.Write("a.yaml", absl::StrCat(kService, "---\n", changed));
  Ended run = Ctl({"diff", "-f", file});
  EXPECT_EQ(run.code, kDone) << run.err;
  EXPECT_THAT(run.out, HasSubstr("--- current/Route/orders\n+++ "));
  EXPECT_THAT(run.out, HasSubstr("\n-    prefix: /o\n+    prefix: /p\n"));
  EXPECT_THAT(run.out, Not(HasSubstr("Service/svc")));
  EXPECT_EQ(Ctl({"diff", "-f", file, "--exit-code"}).code, kFailed);
  EXPECT_EQ(Ctl({"diff", "-f", file, "-o", "name"}).out, "Route/orders\n");

  out_is_terminal_ = true;
  EXPECT_THAT(Ctl({"diff", "-f", file}).out, HasSubstr("\x1b[31m-    prefix: /o\x1b[0m"));
  EXPECT_THAT(Ctl({"diff", "-f", file, "--color", "never"}).out, Not(HasSubstr("\x1b")));
  environment_["NO_COLOR"] = "1";
  EXPECT_THAT(Ctl({"diff", "-f", file}).out, Not(HasSubstr("\x1b")));
  EXPECT_THAT(Ctl({"diff", "-f", file, "--color", "always"}).out, HasSubstr("\x1b[32m"));
}

TEST_F(Gatewayctl, DeleteSaysSoAndRefusesWhatIsStillReferredTo) {
  admin_.remove = [](const v1::DeleteRequest& request, v1::DeleteResponse* response) {
    EXPECT_EQ(request.kind(), "Route");
    EXPECT_EQ(request.name(), "orders");
    EXPECT_EQ(request.context().actor(), "bob");
    response->set_revision(8);
    return grpc::Status::OK;
  };
  EXPECT_EQ(Ctl({"delete", "rt", "orders", "--actor", "bob"}).out, "Route/orders deleted\nrevision 8\n");
  admin_.remove = [](const v1::DeleteRequest&, v1::DeleteResponse*) {
    return InvalidPolicy({{"Route", "orders", "service", "Service 'svc' is not defined"}});
  };
  const Ended run = Ctl({"delete", "service", "svc"});
  EXPECT_EQ(run.code, kInvalidPolicy);
  EXPECT_THAT(run.err,
              HasSubstr("Route/orders: service: Service 'svc' is not defined\n"
                        "gatewayctl: the policy without Service/svc is invalid: 1 error; nothing was changed\n"));
}

TEST_F(Gatewayctl, HistoryIsATableForPeopleAndExactForScripts) {
  admin_.history = [](const v1::HistoryRequest& request, v1::HistoryResponse* response) {
    for (uint64_t revision : {9, 8, 7}) {
      if (response->revisions_size() == static_cast<int>(request.page_size())) break;
      v1::RevisionInfo* info = response->add_revisions();
      info->set_revision(revision);
      info->mutable_time()->set_seconds(1'700'000'000 - static_cast<int64_t>(9 - revision) * 3600);
      info->set_actor("ana@desk");
      info->set_peer("10.1.2.3");
      info->set_comment(revision == 8 ? "für Köln" : "");
      v1::Change* change = info->add_changes();
      change->set_op(revision == 7 ? v1::Change::CREATED : v1::Change::UPDATED);
      change->set_kind("Route");
      change->set_name("orders");
    }
    return grpc::Status::OK;
  };
  EXPECT_EQ(Ctl({"history", "route", "orders", "--limit", "2"}).out,
            "REVISION   AGE   ACTOR      FROM       CHANGES         COMMENT\n"
            "9          3m    ana@desk   10.1.2.3   ~Route/orders   -\n"
            "8          1h    ana@desk   10.1.2.3   ~Route/orders   für Köln\n");
  EXPECT_EQ(Ctl({"history", "-o", "name"}).out, "9\n8\n7\n");
  const auto json = nlohmann::json::parse(Ctl({"history", "-o", "json"}).out);
  EXPECT_EQ(json["revision"], 7);
  EXPECT_EQ(json["items"][0]["time"], "2023-11-14T22:13:20Z");
  EXPECT_EQ(json["items"][2]["changes"][0]["op"], "created");
  EXPECT_THAT(Ctl({"history", "-o", "yaml"}).out, HasSubstr("  - revision: 9\n    time: \"2023-11-14T22:13:20Z\"\n"));
}

TEST_F(Gatewayctl, ShowIsTheDiffToTheRevisionBefore) {
  v1::GetRevisionResponse& seven = admin_.revisions[7];
  v1::GetRevisionResponse& eight = admin_.revisions[8];
  *seven.add_resources() = Stored(kRoute);
  *eight.add_resources() = Stored(absl::StrReplaceAll(kRoute, {{"service: svc", "service: other"}}));
  eight.mutable_info()->set_revision(8);
  eight.mutable_info()->set_actor("ana@desk");
  eight.mutable_info()->mutable_time()->set_seconds(1'700'000'000);
  v1::Change* change = eight.mutable_info()->add_changes();
  change->set_op(v1::Change::UPDATED);
  change->set_kind("Route");
  change->set_name("orders");
  Ended run = Ctl({"show", "8"});
  EXPECT_EQ(run.code, kDone) << run.err;
  EXPECT_THAT(run.out, ::testing::StartsWith("revision 8\n  Time:         2023-11-14T22:13:20Z, 3m ago\n"));
  EXPECT_THAT(run.out, HasSubstr("--- 7/Route/orders\n+++ 8/Route/orders\n"));
  EXPECT_THAT(run.out, HasSubstr("\n-service: svc\n+service: other\n"));
  EXPECT_EQ(Ctl({"show", "8", "-o", "yaml"}).out, EncodeResource(eight.resources(0).resource()));
  admin_.revisions.erase(7);
  EXPECT_THAT(Ctl({"show", "8"}).out, ::testing::EndsWith("\nRoute/orders updated\n"));
}

TEST_F(Gatewayctl, RollbackMakesARevisionAndCanWait) {
  admin_.rollback = [](const v1::RollbackRequest& request, v1::RollbackResponse* response) {
    EXPECT_EQ(request.revision(), 6u);
    EXPECT_EQ(request.context().comment(), "rollback to revision 6");
    response->set_revision(7);
    v1::Change* change = response->add_changes();
    change->set_op(v1::Change::DELETED);
    change->set_kind("Route");
    change->set_name("orders");
    return grpc::Status::OK;
  };
  admin_.rollout = [](const v1::RolloutRequest&, ScriptedAdmin::Writer* writer, grpc::ServerContext*) {
    writer->Write(Serving(1, 1, 2, true));
    return grpc::Status::OK;
  };
  EXPECT_EQ(Ctl({"rollback", "6", "--wait"}).out,
            "Route/orders deleted\nrevision 7\nrevision 7 serving on 1/1 data planes (2 workers) in 9 ms\n");
  const auto json = nlohmann::json::parse(Ctl({"rollback", "6", "--wait", "-o", "json"}).out);
  EXPECT_EQ(json["revision"], 7);
  EXPECT_EQ(json["rollout"]["serving"], 1);
  EXPECT_EQ(json["rollout"]["done"], true);
}

TEST_F(Gatewayctl, RolloutWithoutWaitOnlyTells) {
  admin_.rollout = [](const v1::RolloutRequest& request, ScriptedAdmin::Writer* writer, grpc::ServerContext*) {
    EXPECT_FALSE(request.wait());
    v1::RolloutResponse response = Serving(1, 2, 2, false);
    response.add_pending()->set_name("dp-2");
    response.mutable_pending(0)->set_connected(true);
    response.add_pending()->set_name("dp-3");
    response.add_lost("dp-4");
    writer->Write(response);
    return grpc::Status::OK;
  };
  const Ended run = Ctl({"rollout"});
  EXPECT_EQ(run.code, kDone);
  EXPECT_EQ(run.out,
            "revision 7 serving on 1/2 data planes (2 workers); 1 lost and not counted: dp-4\n"
            "  dp-2 serves nothing yet\n"
            "  dp-3 is not connected, and expected back\n");
  EXPECT_EQ(Ctl({"rollout", "7", "-o", "name"}).out, "dp-2\ndp-3\n");
}

TEST_F(Gatewayctl, DataPlanesAreListedWithWhatTheyServe) {
  EXPECT_EQ(Ctl({"dataplanes"}).err, "no data plane is connected\n");
  admin_.data_planes.set_revision(7);
  v1::DataPlaneState* plane = admin_.data_planes.add_data_planes();
  plane->set_name("dp-1");
  plane->set_address("127.0.0.1:8080");
  plane->set_connected(true);
  plane->mutable_since()->set_seconds(1'700'000'000);
  plane->set_workers(2);
  plane->set_applied_revision(7);
  plane->set_applied_endpoints_version(12);
  plane->set_version("0.1.0");
  EXPECT_EQ(Ctl({"dataplanes"}).out,
            "NAME   ADDRESS          ZONE   STATE       SINCE   REVISION   ENDPOINTS   WORKERS   VERSION\n"
            "dp-1   127.0.0.1:8080   -      connected   3m      7/7        12          2         0.1.0\n");
  EXPECT_EQ(nlohmann::json::parse(Ctl({"dataplanes", "-o", "json"}).out)["items"][0]["since"], "2023-11-14T22:13:20Z");
}

TEST_F(Gatewayctl, DataPlanesSayWhoContendsForANameAndWhoIsSentNothing) {
  admin_.data_planes.set_revision(7);
  for (const char* name : {"dp-1", "dp-2", "dp-3"}) {
    v1::DataPlaneState* plane = admin_.data_planes.add_data_planes();
    plane->set_name(name);
    plane->set_connected(true);
  }
  v1::Rival* rival = admin_.data_planes.mutable_data_planes(0)->add_rivals();
  rival->set_address("10.0.0.7:8080");
  rival->set_version("0.1.0");
  admin_.data_planes.mutable_data_planes(1)->set_held("it serves revision 57 of another history (epoch ab12)");
  admin_.data_planes.mutable_data_planes(2)->set_connected(false);
  admin_.data_planes.mutable_data_planes(2)->set_lost(true);
  const std::string out = Ctl({"dataplanes"}).out;
  for (const char* text : {"contended", "held", "lost",
                           "dp-1: another instance claims this name and is refused "
                           "(10.0.0.7:8080, version 0.1.0;",
                           "dp-2 is sent nothing: it serves revision 57"}) {
    EXPECT_NE(out.find(text), std::string::npos) << text << "\n" << out;
  }
  EXPECT_EQ(Ctl({"accept-history"}).out, "history ab12 is in force; 2 data planes that waited are sent it\n");
}

TEST_F(Gatewayctl, ForgetsDataPlanesAndNamesAtMostFive) {
  EXPECT_EQ(Ctl({"dataplanes", "--forget", "dp-1"}).out, "forgotten: dp-1\n");
  EXPECT_EQ(Ctl({"dataplanes", "--gone"}).out, "forgotten: dp-1, dp-2, dp-3, dp-4, dp-5 and 2 more\n");
  EXPECT_EQ(Ctl({"dataplanes", "--gone", "--forget", "dp-1"}).code, kUsage);
  admin_.rollout = [](const v1::RolloutRequest&, ScriptedAdmin::Writer* writer, grpc::ServerContext*) {
    v1::RolloutResponse response = Serving(1, 9, 2, false);
    for (int i = 1; i <= 8; ++i) response.add_pending()->set_name(absl::StrCat("dp-", i));
    for (int i = 1; i <= 6; ++i) response.add_lost(absl::StrCat("lost-", i));
    response.set_lost_count(30);
    writer->Write(response);
    return grpc::Status::OK;
  };
  const std::string out = Ctl({"rollout"}).out;
  EXPECT_NE(out.find("; 30 lost and not counted: lost-1, lost-2, lost-3, lost-4, lost-5 and 25 more\n"),
            std::string::npos)
      << out;
  EXPECT_NE(out.find("  dp-5 is not connected, and expected back\n  and 3 more; see gatewayctl dataplanes\n"),
            std::string::npos)
      << out;
}

v1::EndpointSet OrdersInConsul() {
  v1::EndpointSet set;
  set.mutable_key()->set_service("orders");
  set.set_state(v1::EndpointSet::KNOWN);
  for (const auto& [port, health] : {std::pair(9001, v1::Instance::PASSING), {9002, v1::Instance::CRITICAL}}) {
    v1::Instance* instance = set.add_instances();
    instance->set_id(absl::StrCat("node/orders-", port));
    instance->set_address("10.0.0.7");
    instance->set_port(port);
    instance->set_weight(2);
    instance->set_health(health);
    instance->add_tags("v2");
  }
  return set;
}

TEST_F(Gatewayctl, EndpointsSayWhyTheyDoNotServe) {
  admin_.resources = {Stored("kind: Service\nname: shop\nconsul: { service: orders, tags: [v2] }\n"), Stored(kService)};
  *admin_.endpoints.add_sets() = OrdersInConsul();
  admin_.endpoints.set_consul_reachable(true);
  EXPECT_EQ(Ctl({"endpoints", "shop"}).out,
            "SERVICE   ADDRESS         SERVING        HEALTH     WEIGHT   ZONE   TAGS   ID\n"
            "orders    10.0.0.7:9001   yes            passing    2        -      v2     node/orders-9001\n"
            "orders    10.0.0.7:9002   no: critical   critical   2        -      v2     node/orders-9002\n");
  EXPECT_EQ(Ctl({"endpoints", "svc", "-o", "name"}).out, "127.0.0.1:18081\n");
  EXPECT_EQ(Ctl({"services"}).out,
            "NAME   SOURCE               SERVING   STATE\n"
            "shop   consul orders (v2)   1/2       ok\n"
            "svc    static               1/1       ok\n");
  admin_.endpoints.set_consul_reachable(false);
  admin_.endpoints.set_consul_error("connection refused");
  EXPECT_EQ(Ctl({"services"}).err, "Consul is not reachable: connection refused\n");
  admin_.endpoints.clear_sets();
  EXPECT_EQ(Ctl({"endpoints", "nobody"}).code, kNotFound);
}

TEST_F(Gatewayctl, EndpointsAreAcceptedFrozenThawedAndTheirHistoryShown) {
  v1::DecideEndpointsRequest asked;
  admin_.decide_endpoints = [&asked](const v1::DecideEndpointsRequest& request, v1::DecideEndpointsResponse* response) {
    asked = request;
    response->mutable_set()->add_instances();
    return grpc::Status::OK;
  };
  EXPECT_EQ(Ctl({"endpoints", "shop", "--freeze", "--comment", "x"}).out,
            "shop: frozen with 1 endpoint, until it is thawed (--thaw)\n");
  EXPECT_EQ(asked.decision(), v1::DecideEndpointsRequest::FREEZE);
  EXPECT_EQ(asked.service(), "shop");
  EXPECT_EQ(asked.context().actor(), "ana@desk");
  EXPECT_EQ(asked.context().comment(), "x");
  EXPECT_EQ(Ctl({"endpoints", "shop", "--thaw"}).out, "shop: follows Consul again, 1 endpoint\n");
  EXPECT_EQ(asked.decision(), v1::DecideEndpointsRequest::THAW);
  EXPECT_EQ(Ctl({"endpoints", "shop", "--accept"}).out, "shop: accepted as Consul has it, 1 endpoint\n");
  EXPECT_EQ(asked.decision(), v1::DecideEndpointsRequest::ACCEPT);
  for (const std::vector<std::string>& wrong :
       std::vector<std::vector<std::string>>{{"endpoints", "shop", "--accept", "--freeze"},
                                             {"endpoints", "shop", "--thaw", "--history"},
                                             {"endpoints", "shop", "--freeze", "--set", "h:1", "up"},
                                             {"endpoints", "shop", "--comment", "why"}}) {
    EXPECT_EQ(Ctl(wrong).code, kUsage) << testing::PrintToString(wrong);
  }
  admin_.endpoint_history = [](const v1::ListEndpointHistoryRequest& request,
                               v1::ListEndpointHistoryResponse* response) {
    v1::EndpointEvent* event = response->add_events();
    event->mutable_time()->set_seconds(1'700'000'000);
    event->set_kind(v1::EndpointEvent::CHANGED);
    event->mutable_key()->set_service(request.service());
    event->add_added("10.0.0.8:80");
    event->add_removed("10.0.0.7:80");
    event->set_serving(1);
    event->set_instances(2);
    event = response->add_events();
    event->mutable_time()->set_seconds(1'699'999'000);
    event->set_kind(v1::EndpointEvent::HELD);
    event->set_reason("Consul cannot be read: refused");
    return grpc::Status::OK;
  };
  EXPECT_EQ(Ctl({"endpoints", "shop", "--history"}).out,
            "TIME                   WHAT      SERVING   ENDPOINTS                    BY   WHY\n"
            "2023-11-14T22:13:20Z   changed   1/2       +10.0.0.8:80, -10.0.0.7:80   -    -\n"
            "2023-11-14T21:56:40Z   held      -         -                            -    Consul cannot be read: "
            "refused\n");
}

TEST_F(Gatewayctl, AnEndpointIsSetForAWhile) {
  v1::SetEndpointRequest asked;
  admin_.set_endpoint = [&asked](const v1::SetEndpointRequest& request, v1::SetEndpointResponse* response) {
    asked = request;
    if (!request.up()) {
      response->mutable_override()->set_service(request.service());
      request.drain() ? response->mutable_override()->set_drain(true)
                      : response->mutable_override()->set_weight(request.weight());
      if (request.has_duration()) response->mutable_override()->mutable_until()->set_seconds(1'700'000'780);
      response->add_warnings("no endpoint of 'shop' gets requests now");
    }
    return grpc::Status::OK;
  };
  const Ended drained = Ctl({"endpoints", "shop", "--set", "10.0.0.7:9001", "drain", "--for", "10m", "--comment", "x"});
  EXPECT_EQ(drained.code, kDone);
  EXPECT_EQ(drained.out, "10.0.0.7:9001 of shop: drained until 2023-11-14T22:26:20Z\n");
  EXPECT_EQ(drained.err, "warning: no endpoint of 'shop' gets requests now\n");
  EXPECT_TRUE(asked.drain());
  EXPECT_EQ(asked.duration().seconds(), 600);
  EXPECT_EQ(asked.service(), "shop");
  EXPECT_EQ(asked.endpoint(), "10.0.0.7:9001");
  EXPECT_EQ(asked.context().actor(), "ana@desk");
  EXPECT_EQ(asked.context().comment(), "x");
  EXPECT_EQ(Ctl({"endpoints", "shop", "--set", "10.0.0.7:9001", "weight=0"}).out,
            "10.0.0.7:9001 of shop: taken out, until it is taken back (up)\n");
  EXPECT_FALSE(asked.has_duration());
  EXPECT_EQ(Ctl({"endpoints", "shop", "--set", "10.0.0.7:9001", "weight=5"}).out,
            "10.0.0.7:9001 of shop: weight 5, until it is taken back (up)\n");
  EXPECT_EQ(asked.weight(), 5u);
  EXPECT_EQ(Ctl({"endpoints", "shop", "--set", "10.0.0.7:9001", "up"}).out,
            "10.0.0.7:9001 of shop: as policy has it again\n");
  for (const std::vector<std::string>& wrong :
       std::vector<std::vector<std::string>>{{"endpoints", "shop", "--set", "10.0.0.7:9001"},
                                             {"endpoints", "shop", "--set", "10.0.0.7:9001", "down"},
                                             {"endpoints", "shop", "--set", "10.0.0.7:9001", "weight=-1"},
                                             {"endpoints", "shop", "--set", "10.0.0.7:9001", "up", "--for", "1m"},
                                             {"endpoints", "shop", "--set", "10.0.0.7:9001", "drain", "--for", "soon"},
                                             {"endpoints", "shop", "--for", "1m"}}) {
    EXPECT_EQ(Ctl(wrong).code, kUsage) << ::testing::PrintToString(wrong);
  }
}

TEST_F(Gatewayctl, EndpointsSayWhatOperatorsHaveSet) {
  admin_.resources = {Stored("kind: Service\nname: shop\nconsul: { service: orders, tags: [v2] }\n"), Stored(kService)};
  *admin_.endpoints.add_sets() = OrdersInConsul();
  admin_.endpoints.set_consul_reachable(true);
  v1::EndpointOverride* drained = admin_.endpoints.add_overrides();
  drained->set_service("orders");
  drained->set_endpoint("10.0.0.7:9001");
  drained->set_drain(true);
  drained->set_actor("alice");
  drained->mutable_until()->set_seconds(1'700'000'180 + 480);
  admin_.endpoints.add_overrides_pending("dp-old");
  const Ended run = Ctl({"endpoints", "shop"});
  EXPECT_EQ(run.out,
            "SERVICE   ADDRESS         SERVING        HEALTH     WEIGHT   ZONE   TAGS   ID                 SET\n"
            "orders    10.0.0.7:9001   no: drained    passing    0        -      v2     node/orders-9001   drained by "
            "alice, 8m left\n"
            "orders    10.0.0.7:9002   no: critical   critical   2        -      v2     node/orders-9002   -\n");
  EXPECT_EQ(run.err, "what operators have set is not in force on: dp-old (not yet, or too old for it)\n");
  const auto items = nlohmann::json::parse(Ctl({"endpoints", "shop", "-o", "json"}).out)["items"];
  EXPECT_EQ(items[0]["override"]["actor"], "alice");
  EXPECT_TRUE(items[1]["override"].is_null());
  const Ended services = Ctl({"services"});
  EXPECT_THAT(services.out, HasSubstr("0/2       no endpoint serves"));
  EXPECT_THAT(services.err, HasSubstr("orders: 10.0.0.7:9001 is drained by alice, 8m left\n"));
}

TEST_F(Gatewayctl, ALogLevelIsForAProcessAndForAWhile) {
  v1::SetLogLevelRequest asked;
  admin_.set_log_level = [&asked](const v1::SetLogLevelRequest& request, v1::SetLogLevelResponse* response) {
    asked = request;
    if (request.level() != v1::LoggingSection::LEVEL_UNSPECIFIED) {
      response->mutable_until()->set_seconds(1'700'000'480);
    }
    return grpc::Status::OK;
  };
  EXPECT_EQ(Ctl({"loglevel", "dp-1", "debug", "--for", "5m"}).out,
            "dp-1: log level debug until 2023-11-14T22:21:20Z\n");
  EXPECT_EQ(asked.data_plane(), "dp-1");
  EXPECT_EQ(asked.level(), v1::LoggingSection::DEBUG);
  EXPECT_EQ(asked.duration().seconds(), 300);
  EXPECT_EQ(Ctl({"loglevel", "controlplane", "default"}).out, "controlplane: log level as its bootstrap file has it\n");
  EXPECT_EQ(asked.data_plane(), "");
  EXPECT_FALSE(asked.has_duration());
  EXPECT_EQ(Ctl({"loglevel", "dp-1", "loud"}).code, kUsage);
  EXPECT_EQ(Ctl({"loglevel", "dp-1"}).code, kUsage);
  EXPECT_EQ(Ctl({"loglevel", "dp-1", "default", "--for", "1m"}).code, kUsage);
}

TEST_F(Gatewayctl, DrainsADataPlaneAndTakesItBack) {
  v1::SetDrainRequest asked;
  admin_.set_drain = [&asked](const v1::SetDrainRequest& request, v1::SetDrainResponse* response) {
    asked = request;
    if (!request.drained()) return grpc::Status::OK;
    response->mutable_drain()->mutable_since()->set_seconds(1'700'000'480);
    response->add_warnings("no other data plane is connected and in service");
    return grpc::Status::OK;
  };
  const Ended drained = Ctl({"drain", "dp-1", "--comment", "kernel update", "--actor", "ann"});
  EXPECT_EQ(drained.out, "dp-1: drained since 2023-11-14T22:21:20Z: not ready, still serving; until undrain\n");
  EXPECT_EQ(drained.err, "warning: no other data plane is connected and in service\n");
  EXPECT_EQ(asked.data_plane(), "dp-1");
  EXPECT_TRUE(asked.drained());
  EXPECT_EQ(asked.context().actor(), "ann");
  EXPECT_EQ(asked.context().comment(), "kernel update");
  EXPECT_EQ(Ctl({"undrain", "dp-1"}).out, "dp-1: back in service\n");
  EXPECT_FALSE(asked.drained());
  EXPECT_EQ(Ctl({"drain"}).code, kUsage);
  admin_.set_drain = [](const v1::SetDrainRequest&, v1::SetDrainResponse*) {
    return grpc::Status(grpc::StatusCode::NOT_FOUND, "no data plane is called 'dp-9'");
  };
  EXPECT_EQ(Ctl({"drain", "dp-9"}).code, kNotFound);
}

TEST_F(Gatewayctl, DescribesADataPlaneWithItsDrain) {
  admin_.data_planes.set_revision(7);
  v1::DataPlaneState* plane = admin_.data_planes.add_data_planes();
  plane->set_name("dp-1");
  plane->set_connected(true);
  plane->set_applied_revision(7);
  (*plane->mutable_labels())["rack"] = "b";
  plane->set_drained(true);
  plane->mutable_drain()->set_actor("ann");
  plane->mutable_drain()->set_comment("kernel update");
  const Ended described = Ctl({"describe", "dataplane", "dp-1"});
  EXPECT_THAT(described.out, HasSubstr("connected, drained"));
  EXPECT_THAT(described.out, HasSubstr("dp-1: drained by ann "));
  EXPECT_THAT(described.out, HasSubstr(" ago (kernel update); take it back with gatewayctl undrain\n"));
  EXPECT_THAT(described.out, HasSubstr("labels: rack=b\n"));
  EXPECT_EQ(Ctl({"describe", "dataplane/dp-1"}).out, described.out);
  EXPECT_EQ(Ctl({"describe", "dataplane", "dp-2"}).code, kNotFound);
  EXPECT_EQ(Ctl({"describe", "dataplane"}).code, kUsage);
}

// The names and contents of the files in a tar archive.
std::map<std::string, std::string> ReadTar(const std::string& bytes) {
  std::map<std::string, std::string> files;
  for (size_t at = 0; at + 512 <= bytes.size() && bytes[at] != '\0';) {
    const std::string name = bytes.substr(at, 100).c_str();
    const std::string prefix = bytes.substr(at + 345, 155).c_str();
    const size_t size = std::stoul(bytes.substr(at + 124, 11), nullptr, 8);
    files[prefix.empty() ? name : prefix + "/" + name] = bytes.substr(at + 512, size);
    at += 512 + (size + 511) / 512 * 512;
  }
  return files;
}

TEST_F(Gatewayctl, ASupportBundleListsWhatIsMissing) {
  admin_.resources = {Stored(kService), Stored(kRoute)};
  v1::DataPlaneState* plane = admin_.data_planes.add_data_planes();
  plane->set_name(std::string(128, 'd'));
  plane->set_connected(true);
  admin_.data_planes.add_data_planes()->set_name("dp-gone");
  admin_.history = [](const v1::HistoryRequest&, v1::HistoryResponse* response) {
    response->add_revisions()->set_revision(7);
    return grpc::Status::OK;
  };
  admin_.diagnose = [](const v1::DiagnoseRequest& request, v1::DiagnoseResponse* response) -> grpc::Status {
    if (request.data_plane().empty()) return {grpc::StatusCode::PERMISSION_DENIED, "'bob' is viewer"};
    for (const char* name : {"metrics.txt", "../../etc/passwd"}) {
      response->add_files()->set_name(name);
      response->mutable_files()->rbegin()->set_content("up 1\n");
    }
    return grpc::Status::OK;
  };
  const std::string file = dir_.File("bundle.tar");
  const Ended run = Ctl({"support-bundle", file});
  EXPECT_EQ(run.code, kDone) << run.err;
  EXPECT_THAT(run.err, HasSubstr("left out: controlplane: 'bob' is viewer\n"));
  EXPECT_THAT(run.err, HasSubstr("left out: dataplanes/dp-gone: it is not connected\n"));
  std::stringstream read;
  read << std::ifstream(file, std::ios::binary).rdbuf();
  std::map<std::string, std::string> files = ReadTar(read.str());
  EXPECT_THAT(files["gateway-support/policy.yaml"], HasSubstr("name: orders"));
  EXPECT_THAT(files["gateway-support/history.json"], HasSubstr("\"revision\": 7"));
  EXPECT_EQ(files["gateway-support/dataplanes/" + std::string(128, 'd') + "/metrics.txt"], "up 1\n");
  EXPECT_THAT(files["gateway-support/missing.txt"], HasSubstr("audit.json"));
  for (const auto& [name, content] : files) EXPECT_EQ(name.find(".."), std::string::npos) << name;
  struct stat there {};
  ASSERT_EQ(stat(file.c_str(), &there), 0);
  EXPECT_EQ(there.st_mode & 0777, 0600u);
  const Ended piped = Ctl({"support-bundle", "-"});
  EXPECT_EQ(piped.out.substr(0, 2), "\x1f\x8b") << "gzip";
  EXPECT_EQ(Ctl({"support-bundle", dir_.File("bundle.zip")}).code, kUsage);
  out_is_terminal_ = true;
  EXPECT_EQ(Ctl({"support-bundle", "-"}).code, kUsage);
}

// A misspelt name is distinguished from a service that no data plane has reported yet.
TEST_F(Gatewayctl, UnknownBreakersAndLimitsAreNotFound) {
  admin_.resources = {Stored(kService), Stored("kind: RateLimit\nname: hourly\nlimit: { requests: 1, window: 1h }\n")};
  for (const char* output : {"table", "json", "name"}) {
    const Ended breakers = Ctl({"breakers", "nosuch", "-o", output});
    EXPECT_EQ(breakers.code, kNotFound) << output;
    EXPECT_THAT(breakers.err, HasSubstr("'nosuch'")) << output;
    EXPECT_EQ(breakers.out, "");
    const Ended limits = Ctl({"limits", "nosuch", "-o", output});
    EXPECT_EQ(limits.code, kNotFound) << output;
    EXPECT_THAT(limits.err, HasSubstr("nosuch")) << output;
    EXPECT_EQ(limits.out, "");
  }
  EXPECT_THAT(Ctl({"breakers", "svc"}).err, HasSubstr("no data plane reports a breaker in front of 'svc'"));
  EXPECT_EQ(Ctl({"breakers", "svc"}).code, kDone);
  EXPECT_THAT(Ctl({"limits", "hourly"}).err, HasSubstr("no data plane reports a limit 'hourly'"));
  EXPECT_EQ(Ctl({"limits", "hourly"}).code, kDone);
  EXPECT_EQ(Ctl({"breakers"}).code, kDone);
  EXPECT_EQ(Ctl({"limits"}).code, kDone);
  // A Route to a service that only Consul knows.
  *admin_.endpoints.add_sets() = OrdersInConsul();
  EXPECT_EQ(Ctl({"breakers", "orders"}).code, kDone);
}

TEST_F(Gatewayctl, DescribeShowsWhatARouteResolvesTo) {
  admin_.resources = {
      Stored("kind: Service\nname: shop\nconsul: { service: orders }\n"),
      Stored("kind: Route\nname: shop\nlabels: { team: a }\nmatch: { path: { prefix: /shop }, methods: [GET] }\n"
             "split: [{ service: shop, weight: 3 }, { service: gone, weight: 1 }]\n",
             5),
      Stored("kind: Defaults\nname: default\nrate_limits: [default]\ncircuit_breaker: hystrix\ntimeout: 29s\n", 1,
             true),
      Stored("kind: CircuitBreaker\nname: hystrix\n", 1, true)};
  *admin_.endpoints.add_sets() = OrdersInConsul();
  admin_.history = [](const v1::HistoryRequest& request, v1::HistoryResponse* response) {
    EXPECT_EQ(request.page_size(), 1u);
    response->add_revisions()->set_actor("ana@desk");
    response->mutable_revisions(0)->set_comment("more shop");
    return grpc::Status::OK;
  };
  Ended run = Ctl({"describe", "route", "shop"});
  EXPECT_EQ(run.code, kDone) << run.err;
  EXPECT_THAT(run.out, ::testing::StartsWith("Route/shop\n"
                                             "  Revision:     5, changed 3m ago (2023-11-14T22:13:20Z)\n"
                                             "  Changed by:   ana@desk: more shop\n"
                                             "  Labels:       team=a\n"
                                             "\n"
                                             "Serves\n"
                                             "  Hosts:        any\n"
                                             "  Methods:      GET\n"
                                             "  Path:         /shop/**\n"
                                             "  To:           75% Service/shop: 1 of 2 endpoints serving: "
                                             "10.0.0.7:9001; breaker: hystrix  (Defaults/default)\n"
                                             "                25% Service/gone: not defined\n"
                                             "  Timeout:      29s  (Defaults/default)\n"
                                             "  Rate limits:  default  (Defaults/default)\n"
                                             "\n"
                                             "Refers to\n"
                                             "  Service/shop\n"
                                             "  Service/gone  (not defined)\n"
                                             "\n"
                                             "Referred to by\n"
                                             "  none\n"
                                             "\n"
                                             "Document\n"
                                             "  kind: Route\n"
                                             "  name: shop\n"));
  admin_.resources[2] = Stored("kind: Defaults\nname: default\ncircuit_breaker: hystrix\n", 1, true);
  EXPECT_THAT(Ctl({"describe", "route", "shop"}).out, HasSubstr("  Timeout:      30s  (built-in)\n"));
  run = Ctl({"describe", "service/shop"});
  EXPECT_THAT(run.out, HasSubstr("\nReferred to by\n  Route/shop\n"));
  EXPECT_THAT(run.out, HasSubstr("\nEndpoints\n  SERVICE   ADDRESS "));
  run = Ctl({"describe", "cb", "hystrix"});
  EXPECT_THAT(run.out, HasSubstr("\nReferred to by\n  Defaults/default  (built-in)\n"));
  EXPECT_THAT(nlohmann::json::parse(Ctl({"describe", "route", "shop", "-o", "json"}).out)["refers_to"],
              ElementsAre("Service/shop", "Service/gone"));
}

TEST_F(Gatewayctl, VersionTellsBothSides) {
  const Ended run = Ctl({"version"});
  EXPECT_EQ(run.code, kDone);
  EXPECT_THAT(run.out, HasSubstr("control plane 9.9.9 at "));
  admin_.Stop();
  EXPECT_EQ(Ctl({"version"}).code, kUnreachable);
  EXPECT_EQ(Ctl({"version", "--client"}).code, kDone);
}

// Text from other sources never reaches a terminal with control characters.
TEST_F(Gatewayctl, TextFromElsewhereHasNoControlCharacters) {
  admin_.history = [](const v1::HistoryRequest&, v1::HistoryResponse* response) {
    response->add_revisions()->set_comment("\x1b]0;owned\x07\nsecond line");
    return grpc::Status::OK;
  };
  const Ended run = Ctl({"history"});
  EXPECT_THAT(run.out, Not(HasSubstr("\x1b")));
  EXPECT_THAT(run.out, HasSubstr("owned"));
}

TEST_F(Gatewayctl, EveryListHasOneShape) {
  admin_.resources = {Stored(kService), Stored(kRoute)};
  *admin_.endpoints.add_sets() = OrdersInConsul();
  admin_.history = [](const v1::HistoryRequest&, v1::HistoryResponse* response) {
    response->add_revisions()->set_revision(7);
    return grpc::Status::OK;
  };
  admin_.data_planes.set_revision(7);
  AcceptEverything(7);
  const std::string file = dir_.Write("a.yaml", kService);
  for (const std::vector<std::string>& list :
       std::vector<std::vector<std::string>>{{"get"},
                                             {"get", "routes"},
                                             {"get", "routes,services"},
                                             {"get", "route/orders", "service/svc"},
                                             {"dataplanes"},
                                             {"services"},
                                             {"endpoints", "svc"},
                                             {"breakers"},
                                             {"limits"},
                                             {"history"},
                                             {"lint"},
                                             {"diff", "-f", file},
                                             {"describe", "route", "orders", "--effective"},
                                             {"describe", "service", "svc", "--effective"}}) {
    std::vector<std::string> arguments = list;
    arguments.insert(arguments.end(), {"-o", "json"});
    const Ended run = Ctl(arguments);
    ASSERT_EQ(run.code, kDone) << ::testing::PrintToString(list) << run.err;
    const auto json = nlohmann::json::parse(run.out, nullptr, false);
    ASSERT_TRUE(json.is_object()) << ::testing::PrintToString(list);
    EXPECT_TRUE(json["items"].is_array()) << ::testing::PrintToString(list);
    EXPECT_EQ(json["revision"], 7) << ::testing::PrintToString(list);
    EXPECT_EQ(json.size(), 2u) << ::testing::PrintToString(list);
  }
}

TEST_F(Gatewayctl, GetTakesSeveralKindsAndNamesAndPicksFromThem) {
  admin_.resources = {Stored(kService), Stored(kRoute),
                      Stored(absl::StrReplaceAll(kRoute, {{"name: orders", "name: shop"}}))};
  EXPECT_EQ(Ctl({"get", "routes", "shop", "orders", "-o", "name"}).out, "Route/shop\nRoute/orders\n");
  EXPECT_EQ(Ctl({"get", "svc,rt", "-o", "name"}).out, "Service/svc\nRoute/orders\nRoute/shop\n");
  EXPECT_EQ(Ctl({"get", "route/shop", "service/svc", "-o", "name"}).out, "Route/shop\nService/svc\n");
  EXPECT_EQ(Ctl({"get", "routes", "shop", "nobody"}).code, kNotFound);
  EXPECT_EQ(Ctl({"get", "svc,rt", "shop"}).code, kUsage);
  EXPECT_EQ(Ctl({"get", "routes", "-o", "jsonpath={.items[*].name}"}).out, "orders shop");
  EXPECT_EQ(Ctl({"get", "route", "shop", "-o", "jsonpath={.match.path.prefix}"}).out, "/o");
  EXPECT_EQ(Ctl({"get", "-o", "jsonpath={.items"}).code, kUsage);
  const std::string wide = Ctl({"get", "routes", "shop", "-o", "wide"}).out;
  EXPECT_THAT(wide, HasSubstr("LABELS"));
  EXPECT_THAT(wide, HasSubstr("team=a"));
  EXPECT_THAT(wide, HasSubstr("2023-11-14T22:13:20Z"));
}

TEST_F(Gatewayctl, WatchGoesOnWithWhatChanges) {
  admin_.resources = {Stored(kService), Stored(kRoute)};
  const auto revision = [this](uint64_t number, v1::Change::Op op, const std::string& kind, const std::string& name) {
    v1::RevisionInfo& info = admin_.watched.emplace_back();
    info.set_revision(number);
    v1::Change* change = info.add_changes();
    change->set_op(op);
    change->set_kind(kind);
    change->set_name(name);
  };
  revision(7, v1::Change::UPDATED, "Route", "orders");  // already printed
  revision(8, v1::Change::UPDATED, "Route", "orders");
  revision(9, v1::Change::UPDATED, "Service", "svc");
  revision(10, v1::Change::DELETED, "Route", "gone");
  const Ended run = Ctl({"get", "routes", "-o", "name", "--watch"});
  EXPECT_EQ(run.out, "Route/orders\nRoute/orders\n");
  EXPECT_THAT(run.err, HasSubstr("Route/gone deleted in revision 10\n"));
  EXPECT_EQ(run.code, kUnreachable) << "the connection ended";
}

TEST_F(Gatewayctl, SummariesSayWhoIsAdmittedAndWhatARouteAsksFor) {
  const std::string match =
      "match: { hosts: [a.example], methods: [GET, POST], path: { prefix: /o }, headers: [{ name: X-Canary, exact: "
      "\"1\" }], query: [{ name: v, prefix: b }] }\n";
  admin_.resources = {Stored("kind: Auth\nname: partners\nmethods: [{ api_key: {} }]\nallow: { groups: [partners] }\n"),
                      Stored("kind: Auth\nname: anyone\nmethods: [{ api_key: {} }]\n"),
                      Stored("kind: Route\nname: r\n" + match + "service: s\n")};
  const std::string all = Ctl({"get"}).out;
  EXPECT_THAT(all, HasSubstr("api_key; admits group partners "));
  EXPECT_THAT(all, HasSubstr("api_key; admits any consumer "));
  EXPECT_THAT(all, HasSubstr("GET, POST a.example/o/** (X-Canary=1, ?v=b*) -> s"));
  EXPECT_THAT(Ctl({"get", "routes"}).out, HasSubstr("X-Canary=1, ?v=b*"));
  // 9,999 deletions are not "+9999".
  admin_.history = [](const v1::HistoryRequest&, v1::HistoryResponse* response) {
    v1::RevisionInfo* info = response->add_revisions();
    for (int i = 0; i < 9'999; ++i) {
      v1::Change* change = info->add_changes();
      change->set_op(v1::Change::DELETED);
      change->set_kind("Route");
      change->set_name(absl::StrCat("r", i));
    }
    return grpc::Status::OK;
  };
  EXPECT_THAT(Ctl({"history"}).out, HasSubstr("-Route/r0, -Route/r1, -Route/r2 and 9996 more (9999 deleted)"));
}

TEST_F(Gatewayctl, ThousandsOfErrorsAreCountedNotPrinted) {
  std::vector<std::array<std::string, 4>> mistakes;
  for (int i = 0; i < 200; ++i) mistakes.push_back({"Route", "orders", "service", absl::StrCat("wrong ", i)});
  admin_.apply = [&mistakes](const v1::ApplyRequest&, v1::ApplyResponse*) {
    const grpc::Status status = InvalidPolicy(mistakes);
    return status;
  };
  const std::string file = dir_.Write("a.yaml", kRoute);
  const Ended some = Ctl({"apply", "-f", file});
  EXPECT_EQ(some.code, kInvalidPolicy);
  EXPECT_EQ(std::count(some.err.begin(), some.err.end(), '\n'), static_cast<long>(kErrorsShown) + 1);
  EXPECT_THAT(some.err, HasSubstr("200 errors, of which 150 are not shown (--all-errors); nothing was changed"));
  const Ended all = Ctl({"apply", "-f", file, "--all-errors"});
  EXPECT_EQ(std::count(all.err.begin(), all.err.end(), '\n'), 201);
}

TEST_F(Gatewayctl, WarningsAboutTheRestAreCounted) {
  admin_.apply = [](const v1::ApplyRequest&, v1::ApplyResponse* response) {
    response->set_revision(8);
    response->set_other_warnings(3);
    return grpc::Status::OK;
  };
  EXPECT_EQ(Ctl({"apply", "-f", dir_.Write("a.yaml", kRoute)}).err,
            "(3 warnings about the rest of the policy: gatewayctl lint)\n");
  admin_.warnings = {"Route/a: doubtful", "Route/b: too"};
  EXPECT_EQ(Ctl({"lint"}).out, "warning: Route/a: doubtful\nwarning: Route/b: too\n");
  admin_.warnings.clear();
  EXPECT_EQ(Ctl({"lint"}).out, "");
  EXPECT_EQ(Ctl({"lint"}).code, kDone);
}

TEST_F(Gatewayctl, DeleteTakesSeveralNamesFilesAndSelectors) {
  admin_.resources = {Stored(kService), Stored(kRoute),
                      Stored(absl::StrReplaceAll(kRoute, {{"name: orders", "name: shop"}}))};
  std::vector<std::string> gone;
  bool ignored = false;
  admin_.remove = [&](const v1::DeleteRequest& request, v1::DeleteResponse* response) {
    gone.clear();
    if (!request.kind().empty()) gone.push_back(request.kind() + "/" + request.name());
    for (const v1::ResourceName& name : request.resources()) gone.push_back(name.kind() + "/" + name.name());
    ignored = request.ignore_not_found();
    response->set_revision(8);
    return grpc::Status::OK;
  };
  EXPECT_EQ(Ctl({"delete", "route", "orders", "shop"}).out, "Route/orders deleted\nRoute/shop deleted\nrevision 8\n");
  EXPECT_THAT(gone, ElementsAre("Route/orders", "Route/shop"));
  EXPECT_EQ(Ctl({"delete", "route/orders", "service/svc", "-o", "name"}).out, "Route/orders\nService/svc\n");
  EXPECT_EQ(Ctl({"delete", "-f", dir_.Write("a.yaml", absl::StrCat(kService, "---\n", kRoute))}).code, kDone);
  EXPECT_THAT(gone, ElementsAre("Route/orders", "Service/svc"));
  EXPECT_EQ(Ctl({"delete", "routes", "-l", "team=a"}).code, kDone);
  EXPECT_THAT(gone, ElementsAre("Route/orders", "Route/shop"));
  EXPECT_FALSE(ignored);
  EXPECT_EQ(Ctl({"delete", "route", "orders", "--ignore-not-found"}).code, kDone);
  EXPECT_TRUE(ignored);
  EXPECT_THAT(Ctl({"delete", "routes", "-l", "team=none"}).err, HasSubstr("nothing matches"));
  gone.clear();
  EXPECT_EQ(Ctl({"delete", "routes"}).code, kUsage) << "a forgotten name must not delete a whole kind";
  EXPECT_EQ(Ctl({"delete"}).code, kUsage);
  EXPECT_EQ(Ctl({"delete", "route", "orders", "-l", "team=a"}).code, kUsage);
  EXPECT_THAT(gone, IsEmpty());
}

TEST_F(Gatewayctl, WhatDestroysAsksOnATerminal) {
  admin_.name = "cp-eu";
  int deletions = 0;
  admin_.remove = [&](const v1::DeleteRequest&, v1::DeleteResponse*) {
    ++deletions;
    return grpc::Status::OK;
  };
  out_is_terminal_ = true;
  std::istringstream no("n\n"), yes("y\n"), end("");
  in_ = &no;
  Ended run = Ctl({"delete", "route", "orders"});
  EXPECT_EQ(run.code, kFailed);
  EXPECT_THAT(run.err, HasSubstr(absl::StrCat("delete Route/orders (on cp-eu at ", admin_.address(), ")? [y/N] ")));
  EXPECT_EQ(deletions, 0);
  in_ = &end;
  EXPECT_EQ(Ctl({"delete", "route", "orders"}).code, kFailed) << "no input means no";
  in_ = &yes;
  EXPECT_EQ(Ctl({"delete", "route", "orders"}).code, kDone);
  EXPECT_EQ(deletions, 1);
  EXPECT_EQ(Ctl({"delete", "route", "orders", "--yes"}).code, kDone);
  in_ = nullptr;
  EXPECT_EQ(Ctl({"delete", "route", "orders"}).code, kDone) << "a script is not asked";
  EXPECT_EQ(deletions, 3);
}

TEST_F(Gatewayctl, RollbackSaysWhatItUndoesAndByWhom) {
  std::vector<v1::RollbackRequest> requests;
  admin_.rollback = [&](const v1::RollbackRequest& request, v1::RollbackResponse* response) {
    requests.push_back(request);
    response->set_revision(request.dry_run() ? 9 : 10);
    if (request.revision() == 8) return grpc::Status::OK;  // the policy was unchanged
    response->set_undone_count(3);
    response->add_changes()->set_op(v1::Change::DELETED);
    v1::RevisionInfo* info = response->add_undone();
    info->set_revision(9);
    info->set_actor("bob@laptop");
    info->set_comment("more shop");
    info->mutable_time()->set_seconds(1'700'000'000);
    v1::Change* change = info->add_changes();
    change->set_op(v1::Change::CREATED);
    change->set_kind("Route");
    change->set_name("shop");
    return grpc::Status::OK;
  };
  Ended run = Ctl({"rollback", "6", "--expect-revision", "9"});
  EXPECT_EQ(run.code, kDone);
  EXPECT_EQ(run.err,
            "undone:\n  revision 9, 3m ago, by bob@laptop: +Route/shop (more shop)\n  and 2 earlier revisions\n");
  ASSERT_EQ(requests.size(), 1u);
  EXPECT_EQ(requests[0].expected_revision(), 9u);
  EXPECT_THAT(Ctl({"rollback", "6", "--dry-run"}).err, HasSubstr("this would undo:\n  revision 9"));
  EXPECT_THAT(Ctl({"rollback", "8", "--dry-run"}).err, HasSubstr("nothing changes"));
  // On a terminal it prints the changes, asks, and rolls back only from the revision that it printed.
  requests.clear();
  out_is_terminal_ = true;
  std::istringstream no("\n"), yes("yes\n");
  in_ = &no;
  EXPECT_EQ(Ctl({"rollback", "6"}).code, kFailed);
  ASSERT_EQ(requests.size(), 1u);
  EXPECT_TRUE(requests[0].dry_run());
  in_ = &yes;
  EXPECT_EQ(Ctl({"rollback", "6"}).code, kDone);
  ASSERT_EQ(requests.size(), 3u);
  EXPECT_FALSE(requests[2].dry_run());
  EXPECT_EQ(requests[2].expected_revision(), 9u);
}

TEST_F(Gatewayctl, ExportWithSecretsGoesIntoAPrivateFile) {
  const std::string hash(64, 'a');
  admin_.with_secrets = {Stored("kind: Consumer\nname: acme\ncredentials: [{ api_key_sha256: \"" + hash + "\" }]\n")};
  EXPECT_EQ(Ctl({"export", "--with-secrets"}).code, kUsage);
  const std::string path = dir_.Write("out.yaml", "what was there before");
  const Ended run = Ctl({"export", "--with-secrets", "--output-file", path});
  EXPECT_EQ(run.code, kDone) << run.err;
  EXPECT_EQ(run.out, "");
  EXPECT_EQ(dir_.Read("out.yaml"),
            absl::StrCat("kind: Consumer\nname: acme\ncredentials:\n  - api_key_sha256: ", hash, "\n"));
  EXPECT_EQ(std::filesystem::status(path).permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  EXPECT_EQ(Ctl({"export", "--output-file", dir_.File("none/x")}).code, kFailed);
}

TEST_F(Gatewayctl, EditAppliesWhatTheEditorLeavesOnTheStateThatItRead) {
  admin_.resources = {Stored(kService), Stored(kRoute)};
  AcceptEverything(8);
  environment_["EDITOR"] = "sed -i 's|prefix: /o|prefix: /p|'";
  Ended run = Ctl({"edit", "route", "orders"});
  EXPECT_EQ(run.code, kDone) << run.err;
  ASSERT_EQ(applied_.size(), 1u);
  ASSERT_EQ(applied_[0].resources_size(), 1);
  EXPECT_EQ(applied_[0].resources(0).route().match().path().prefix(), "/p");
  EXPECT_EQ(applied_[0].expected_revision(), 7u);
  environment_["VISUAL"] = "true";  // overrides EDITOR
  run = Ctl({"edit", "route", "orders"});
  EXPECT_EQ(run.code, kDone);
  EXPECT_EQ(run.err, "nothing was changed\n");
  environment_["VISUAL"] = "false";
  EXPECT_EQ(Ctl({"edit", "route", "orders"}).code, kFailed);
  EXPECT_EQ(applied_.size(), 1u);
  environment_["VISUAL"] = "sed -i 's|match:|macth:|'";
  run = Ctl({"edit", "route", "orders"});
  EXPECT_EQ(run.code, kInvalidPolicy);
  const size_t kept = run.err.find("what was written is in ");
  ASSERT_NE(kept, std::string::npos) << run.err;
  const std::string path = run.err.substr(kept + 23, run.err.find('\n', kept) - kept - 23);
  EXPECT_TRUE(std::filesystem::remove(path)) << path;
  EXPECT_EQ(Ctl({"edit", "route"}).code, kUsage);
}

TEST_F(Gatewayctl, FieldsPrintsTheReference) {
  admin_.Stop();  // there is no server to ask
  EXPECT_THAT(Ctl({"fields"}).out, HasSubstr("RateLimit: "));
  EXPECT_THAT(Ctl({"fields", "routes"}).out, HasSubstr("rate_limits"));
  const std::string headers = Ctl({"fields", "route.match.headers"}).out;
  EXPECT_THAT(headers, ::testing::StartsWith("Route.match.headers\n"));
  for (const char* field : {"name ", "exact ", "regex ", "present "}) EXPECT_THAT(headers, HasSubstr(field));
  EXPECT_THAT(Ctl({"fields", "route.timeout"}).out, HasSubstr("duration"));
  EXPECT_THAT(Ctl({"fields", "service.outlier_ejection.success_rate"}).out, HasSubstr("min_endpoints"));
  const Ended unknown = Ctl({"fields", "route.macth"});
  EXPECT_EQ(unknown.code, kNotFound);
  EXPECT_THAT(unknown.err, HasSubstr("did you mean 'match'?"));
  EXPECT_EQ(Ctl({"fields", "nothing"}).code, kUsage);
}

TEST_F(Gatewayctl, HelpAndVersionHaveTheUsualNames) {
  EXPECT_EQ(Ctl({"help"}).out, Ctl({"--help"}).out);
  EXPECT_EQ(Ctl({"help", "apply"}).out, Ctl({"apply", "--help"}).out);
  EXPECT_EQ(Ctl({"help", "aply"}).code, kUsage);
  EXPECT_EQ(Ctl({"-v"}).out, Ctl({"--version"}).out);
}

TEST_F(Gatewayctl, RequireSaysHowManyAreEnough) {
  v1::RolloutResponse response = Serving(2, 2, 4, true);
  response.add_lost("dp-3");
  admin_.rollout = [&](const v1::RolloutRequest&, ScriptedAdmin::Writer* writer, grpc::ServerContext*) {
    writer->Write(response);
    return grpc::Status::OK;
  };
  EXPECT_EQ(Ctl({"rollout"}).code, kDone);
  EXPECT_EQ(Ctl({"rollout", "--require", "2"}).code, kDone);
  EXPECT_EQ(Ctl({"rollout", "--require", "66%"}).code, kDone);
  const Ended all = Ctl({"rollout", "--require", "all"});
  EXPECT_EQ(all.code, kNotEveryone) << "one was lost";
  EXPECT_THAT(all.out, HasSubstr("1 lost and not counted: dp-3"));
  EXPECT_THAT(all.err, HasSubstr("2 serve it; required: all"));
  EXPECT_EQ(Ctl({"rollout", "--require", "3"}).code, kNotEveryone);
  EXPECT_EQ(Ctl({"rollout", "--require", "67%", "-o", "json"}).code, kNotEveryone);
  for (const char* wrong : {"0", "101%", "some", "", "-1"}) {
    EXPECT_EQ(Ctl({"rollout", "--require", wrong}).code, kUsage) << wrong;
  }
  // It waits on after the server reports the rollout as done, and ends as soon as enough data planes serve the
  // revision.
  AcceptEverything(7);
  const std::string file = dir_.Write("a.yaml", kService);
  Ended run = Ctl({"apply", "-f", file, "--require", "all", "--timeout", "300ms"});
  EXPECT_EQ(run.code, kNotEveryone);
  EXPECT_THAT(run.err, HasSubstr("; required: all; waited 300ms"));
  int calls = 0;
  admin_.rollout = [&](const v1::RolloutRequest&, ScriptedAdmin::Writer* writer, grpc::ServerContext*) {
    ++calls;
    writer->Write(Serving(calls < 3 ? 2 : 3, 3, 4, calls >= 3));
    return grpc::Status::OK;
  };
  EXPECT_EQ(Ctl({"apply", "-f", file, "--require", "3"}).code, kDone);
  EXPECT_EQ(calls, 3);
  // Thirty lost ones are counted, not listed.
  for (int i = 0; i < 29; ++i) response.add_lost(absl::StrCat("dp-", 10 + i));
  admin_.rollout = [&](const v1::RolloutRequest&, ScriptedAdmin::Writer* writer, grpc::ServerContext*) {
    writer->Write(response);
    return grpc::Status::OK;
  };
  EXPECT_THAT(Ctl({"rollout"}).out, HasSubstr("30 lost and not counted: dp-3, dp-10, dp-11, dp-12, dp-13 and 25 more"));
  // Including those that the server leaves out of its list.
  response.set_lost_count(198);
  EXPECT_EQ(Ctl({"rollout", "--require", "1%"}).code, kDone);
  EXPECT_EQ(Ctl({"rollout", "--require", "2%"}).code, kNotEveryone);
}

TEST_F(Gatewayctl, AnInvalidServerNameIsReported) {
  for (const char* url : {"http://127.0.0.1:7400", "https://cp.example", "grpc://a"}) {
    const Ended run = RunAt("", {"--server", url, "get"});
    EXPECT_EQ(run.code, kUsage) << url;
    EXPECT_THAT(run.err, HasSubstr("is a URL; expected the admin listener's HOST or HOST:PORT")) << url;
  }
  for (const auto& [server, address] : std::map<std::string, std::string>{
           {"127.0.0.9", "127.0.0.9:7400"}, {"::1", "[::1]:7400"}, {"[::1]", "[::1]:7400"}}) {
    EXPECT_THAT(RunAt("", {"--server", server, "--timeout", "2s", "get"}).err,
                HasSubstr(absl::StrCat("at ", address, ":")));
  }
  EXPECT_EQ(RunAt("", {"--server", "a b", "get"}).code, kUsage);
  EXPECT_EQ(RunAt("", {"--server", "host:99999", "get"}).code, kUsage);
  // The port of another gRPC service, such as the stream port.
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  v1::ConfigStream::Service other;
  builder.RegisterService(&other);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  const Ended run = RunAt("", {"--server", absl::StrCat("127.0.0.1:", port), "get"});
  EXPECT_EQ(run.code, kUnreachable);
  EXPECT_THAT(run.err, HasSubstr("is it the admin listener?"));
}

TEST_F(Gatewayctl, DescribeConsumerSaysWhichAuthAdmitsIt) {
  const std::string hash(64, 'a');
  admin_.resources = {
      Stored("kind: Consumer\nname: acme\ngroups: [partners]\ncredentials: [{ api_key_sha256: \"" + hash + "\" }]\n"),
      Stored("kind: Auth\nname: byname\nmethods: [{ api_key: {} }]\nallow: { consumers: [acme] }\n"),
      Stored("kind: Auth\nname: partners\nmethods: [{ api_key: {} }, { basic: {} }]\nallow: { groups: [partners] }\n"),
      Stored("kind: Auth\nname: staff\nmethods: [{ api_key: {} }]\nallow: { groups: [staff] }\n"),
      Stored("kind: Auth\nname: passwords\nmethods: [{ basic: {} }]\n"),
      Stored("kind: Route\nname: orders\nmatch: {}\nservice: s\nauth: partners\n"),
      Stored("kind: Route\nname: shop\nmatch: {}\nservice: s\n"),
      Stored("kind: Defaults\nname: default\nauth: byname\n")};
  admin_.history = [](const v1::HistoryRequest&, v1::HistoryResponse*) { return grpc::Status::OK; };
  const Ended run = Ctl({"describe", "consumer", "acme"});
  EXPECT_EQ(run.code, kDone) << run.err;
  EXPECT_THAT(run.out, HasSubstr("\nAdmitted by\n"
                                 "  Auth/byname through api_key: it is named; routes: shop\n"
                                 "  Auth/partners through api_key: group partners; routes: orders\n"
                                 "\nRefers to"));
  const auto json = nlohmann::json::parse(Ctl({"describe", "consumer", "acme", "-o", "json"}).out);
  EXPECT_EQ(json["admitted_by"].size(), 2u);
  EXPECT_EQ(json["admitted_by"][1]["routes"][0], "orders");
}

TEST_F(Gatewayctl, ServicesShowAnOpenBreakerAndEffectiveWhatDefaultsGive) {
  admin_.resources = {Stored(kService), Stored("kind: Defaults\nname: default\ncircuit_breaker: hystrix\n"),
                      Stored("kind: CircuitBreaker\nname: hystrix\n")};
  v1::DataPlaneBreaker* row = admin_.breakers.add_breakers();
  row->set_data_plane("dp-1");
  row->mutable_breaker()->set_service("svc");
  row->mutable_breaker()->set_state(v1::BreakerReport::OPEN);
  EXPECT_THAT(Ctl({"services"}).out, HasSubstr("ok; breaker open on dp-1"));
  const std::string effective = Ctl({"describe", "service", "svc", "--effective"}).out;
  EXPECT_THAT(effective, HasSubstr("CircuitBreaker/hystrix   Defaults/default"));
  EXPECT_THAT(effective, HasSubstr("round_robin"));
}

TEST_F(Gatewayctl, CompletionKnowsEveryCommandAndFlag) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const Ended run = Ctl({"completion", shell});
    EXPECT_EQ(run.code, kDone);
    for (const char* word : {"apply", "rollout", "dataplanes", "endpoints", "completion", "dry-run", "expect-revision",
                             "timeout", "ratelimit"}) {
      EXPECT_THAT(run.out, HasSubstr(word)) << shell;
    }
    EXPECT_THAT(run.out, Not(HasSubstr("P%"))) << shell << ": nothing to type as it stands";
  }
}

TEST_F(Gatewayctl, CompletionGoesOnWhereAPositionTakesSeveral) {
  const std::string bash = Ctl({"completion", "bash"}).out;
  EXPECT_THAT(bash, HasSubstr("    diff:*) words=\"$(gatewayctl --timeout 1s history -o name"));
  EXPECT_THAT(bash, HasSubstr("    get:0) "));
  EXPECT_THAT(bash, HasSubstr("    get:*) "));
  EXPECT_THAT(bash, HasSubstr("    describe:1) words=\"$(test \"${args[0]}\" = dataplane && gatewayctl"));
  EXPECT_THAT(bash, HasSubstr("    drain:0) words=\"$(gatewayctl --timeout 1s dataplanes -o name"));
  EXPECT_THAT(Ctl({"completion", "fish"}).out, HasSubstr("'__gatewayctl_from diff 0'"));
}

}  // namespace
}  // namespace gateway::ctl
