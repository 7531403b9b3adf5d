// endpoints --set, --accept, --freeze and --thaw, loglevel: what an operator changes for a while, beside policy.
#include <iostream>
#include <optional>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "google/protobuf/util/time_util.h"
#include "tools/gatewayctl/commands.h"
#include "tools/gatewayctl/table.h"

namespace gateway::ctl {
namespace {

constexpr char kControlPlane[] = "controlplane";

// --for, into `request` if it is given.
template <typename Request>
absl::Status SetDuration(const std::string& text, Request* request) {
  if (text.empty()) return absl::OkStatus();
  const absl::StatusOr<absl::Duration> duration = ParseAge(text);
  if (!duration.ok()) return absl::InvalidArgumentError(absl::StrCat("--for: ", duration.status().message()));
  *request->mutable_duration() =
      google::protobuf::util::TimeUtil::MicrosecondsToDuration(absl::ToInt64Microseconds(*duration));
  return absl::OkStatus();
}

// "weight=3", "drain", "up".
absl::Status SetAction(const std::string& action, v1::SetEndpointRequest* request) {
  absl::string_view word = action;
  uint32_t weight = 0;
  if (word == "drain") {
    request->set_drain(true);
  } else if (word == "up") {
    request->set_up(true);
  } else if (absl::ConsumePrefix(&word, "weight=") && absl::SimpleAtoi(word, &weight)) {
    request->set_weight(weight);
  } else {
    return absl::InvalidArgumentError(absl::StrCat("--set: '", action, "': expected weight=N, drain or up"));
  }
  return absl::OkStatus();
}

void SetContext(const Session& session, v1::ChangeContext* context) {
  context->set_actor(session.options.actor.empty() ? session.terminal.actor : session.options.actor);
  context->set_comment(session.options.comment);
}

std::string UntilText(const google::protobuf::Timestamp& until) { return absl::StrCat(" until ", FormatTime(until)); }

}  // namespace

ExitCode SetEndpoint(Session& session) {
  v1::SetEndpointRequest request;
  request.set_service(session.options.name);
  request.set_endpoint(session.options.set[0]);
  SetContext(session, request.mutable_context());
  if (absl::Status s = SetAction(session.options.set[1], &request); !s.ok()) {
    return session.Refuse(std::string(s.message()));
  }
  if (request.up() && !session.options.lasting.empty()) return session.Refuse("--for: 'up' has no end");
  const absl::Status duration = SetDuration(session.options.lasting, &request);
  if (!duration.ok()) return session.Refuse(std::string(duration.message()));
  const absl::StatusOr<v1::SetEndpointResponse> done = session.client.SetEndpoint(request);
  if (!done.ok()) return session.Fail(done.status());
  if (session.PrintStructured(MessageJson(*done))) return kDone;
  if (session.options.output == "name") {
    session.out() << session.options.set[0] << "\n";
    return kDone;
  }
  const v1::EndpointOverride& made = done->override();
  std::string what = "as policy has it again";
  if (done->has_override()) {
    what = made.action_case() == v1::EndpointOverride::kDrain ? "drained"
           : made.weight() == 0                               ? "taken out"
                                                              : absl::StrCat("weight ", made.weight());
    absl::StrAppend(&what, made.has_until() ? UntilText(made.until()) : ", until it is taken back (up)");
  }
  session.out() << Printable(absl::StrCat(session.options.set[0], " of ", session.options.name, ": ", what)) << "\n";
  for (const std::string& warning : done->warnings()) session.err() << "warning: " << Printable(warning) << "\n";
  return kDone;
}

ExitCode DecideEndpoints(Session& session) {
  v1::DecideEndpointsRequest request;
  request.set_service(session.options.name);
  SetContext(session, request.mutable_context());
  request.set_decision(session.options.accept   ? v1::DecideEndpointsRequest::ACCEPT
                       : session.options.freeze ? v1::DecideEndpointsRequest::FREEZE
                                                : v1::DecideEndpointsRequest::THAW);
  const absl::StatusOr<v1::DecideEndpointsResponse> done = session.client.DecideEndpoints(request);
  if (!done.ok()) return session.Fail(done.status());
  if (session.PrintStructured(MessageJson(*done))) return kDone;
  if (session.options.output == "name") {
    session.out() << session.options.name << "\n";
    return kDone;
  }
  const int count = done->set().instances_size();
  const std::string endpoints = absl::StrCat(count, count == 1 ? " endpoint" : " endpoints");
  std::string what;
  if (session.options.accept) {
    what = absl::StrCat("accepted as Consul has it, ", endpoints);
  } else if (session.options.freeze) {
    what = absl::StrCat("frozen with ", endpoints, ", until it is thawed (--thaw)");
  } else {
    what = absl::StrCat("follows Consul again, ", endpoints);
  }
  session.out() << Printable(absl::StrCat(session.options.name, ": ", what)) << "\n";
  return kDone;
}

ExitCode LogLevel(Session& session) {
  v1::SetLogLevelRequest request;
  const std::string& process = session.options.data_plane;
  if (process != kControlPlane) request.set_data_plane(process);
  SetContext(session, request.mutable_context());
  const bool back = session.options.level == "default";
  v1::LoggingSection::Level level = v1::LoggingSection::LEVEL_UNSPECIFIED;
  if (!back && !v1::LoggingSection::Level_Parse(absl::AsciiStrToUpper(session.options.level), &level)) {
    return session.Refuse(absl::StrCat("'", session.options.level, "' is not a level"));
  }
  request.set_level(level);
  if (back && !session.options.lasting.empty()) return session.Refuse("--for: 'default' has no end");
  const absl::Status duration = SetDuration(session.options.lasting, &request);
  if (!duration.ok()) return session.Refuse(std::string(duration.message()));
  const absl::StatusOr<v1::SetLogLevelResponse> done = session.client.SetLogLevel(request);
  if (!done.ok()) return session.Fail(done.status());
  if (session.PrintStructured(MessageJson(*done))) return kDone;
  session.out() << Printable(process) << ": log level "
                << (done->has_until() ? absl::StrCat(session.options.level, UntilText(done->until()))
                                      : "as its bootstrap file has it")
                << "\n";
  return kDone;
}

}  // namespace gateway::ctl
