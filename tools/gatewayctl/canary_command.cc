// canary: the state of the canary of a route, and what people decide about it.
#include <iostream>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/gatewayctl/commands.h"
#include "tools/gatewayctl/render.h"
#include "tools/gatewayctl/table.h"

namespace gateway::ctl {
namespace {

v1::DecideCanaryRequest::Decision DecisionOf(const Options& options) {
  if (options.pause) return v1::DecideCanaryRequest::PAUSE;
  if (options.resume) return v1::DecideCanaryRequest::RESUME;
  if (options.abort) return v1::DecideCanaryRequest::ABORT;
  if (options.restart) return v1::DecideCanaryRequest::RESTART;
  if (options.complete) return v1::DecideCanaryRequest::COMPLETE;
  return v1::DecideCanaryRequest::DECISION_UNSPECIFIED;
}

}  // namespace

ExitCode Canary(Session& session) {
  const Options& options = session.options;
  std::string name = options.name;
  if (name.starts_with("route/") || name.starts_with("Route/")) name.erase(0, 6);
  v1::DecideCanaryRequest request;
  request.set_route(name);
  request.set_decision(DecisionOf(options));
  const bool decides = request.decision() != v1::DecideCanaryRequest::DECISION_UNSPECIFIED;
  const bool wait = options.wait || !options.require.empty();
  if (!decides && (wait || !options.comment.empty())) {
    return session.Fail(absl::InvalidArgumentError("--wait, --require and --comment go with a decision"));
  }
  uint64_t revision = 0;
  if (decides) {
    request.mutable_context()->set_actor(options.actor.empty() ? session.terminal.actor : options.actor);
    request.mutable_context()->set_comment(options.comment);
    const absl::StatusOr<v1::DecideCanaryResponse> decided = session.client.DecideCanary(request);
    if (!decided.ok()) return session.Fail(decided.status());
    revision = decided->revision();
  }
  const absl::StatusOr<v1::GetResponse> got = session.client.Get("Route", name);
  if (!got.ok()) return session.Fail(got.status());
  if (!got->resource().has_canary()) {
    return session.Fail(absl::NotFoundError(absl::StrCat("Route/", name, " has no canary")));
  }
  if (session.structured()) {
    Json json = MessageJson(got->resource().canary());
    if (decides) json["revision"] = revision;
    const ExitCode code = wait ? AwaitEverywhere(session, revision, &json) : kDone;
    session.PrintStructured(json);
    return code;
  }
  if (options.output == "name") {
    session.out() << "Route/" << name << "\n";
  } else {
    session.out() << "Route/" << Printable(name) << ": " << RenderCanary(got->resource(), session.terminal.now())
                  << std::flush;
  }
  return wait ? AwaitEverywhere(session, revision, nullptr) : kDone;
}

}  // namespace gateway::ctl
