// drain, undrain, describe dataplane: single data planes.
#include <algorithm>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tools/gatewayctl/commands.h"
#include "tools/gatewayctl/render.h"
#include "tools/gatewayctl/table.h"

namespace gateway::ctl {
namespace {

ExitCode SetDrain(Session& session, bool drained) {
  v1::SetDrainRequest request;
  request.set_data_plane(session.options.data_plane);
  request.set_drained(drained);
  request.mutable_context()->set_actor(session.options.actor.empty() ? session.terminal.actor : session.options.actor);
  request.mutable_context()->set_comment(session.options.comment);
  const absl::StatusOr<v1::SetDrainResponse> done = session.client.SetDrain(request);
  if (!done.ok()) return session.Fail(done.status());
  if (session.PrintStructured(MessageJson(*done))) return kDone;
  if (session.options.output == "name") {
    session.out() << request.data_plane() << "\n";
    return kDone;
  }
  session.out() << Printable(request.data_plane())
                << (drained ? ": drained since " + FormatTime(done->drain().since()) +
                                  ": not ready, still serving; until undrain"
                            : std::string(": back in service"))
                << "\n";
  for (const std::string& warning : done->warnings()) session.err() << "warning: " << Printable(warning) << "\n";
  return kDone;
}

}  // namespace

ExitCode Drain(Session& session) { return SetDrain(session, true); }
ExitCode Undrain(Session& session) { return SetDrain(session, false); }

bool NamesDataPlane(const Options& options) {
  const std::string kind = absl::AsciiStrToLower(options.kind.substr(0, options.kind.find('/')));
  return kind == "dataplane" || kind == "dataplanes";
}

ExitCode DescribeDataPlane(Session& session) {
  const size_t slash = session.options.kind.find('/');
  const std::string name = slash == std::string::npos ? session.options.name : session.options.kind.substr(slash + 1);
  const absl::StatusOr<v1::ListDataPlanesResponse> state = session.client.ListDataPlanes();
  if (!state.ok()) return session.Fail(state.status());
  for (const v1::DataPlaneState& plane : state->data_planes()) {
    if (plane.name() != name) continue;
    if (session.PrintStructured(MessageJson(plane))) return kDone;
    if (session.options.output == "name") {
      session.out() << name << "\n";
      return kDone;
    }
    v1::ListDataPlanesResponse alone;
    alone.set_revision(state->revision());
    *alone.add_data_planes() = plane;
    session.out() << RenderDataPlanes(alone, session.terminal.now());
    std::vector<std::string> labels;
    for (const auto& [label, value] : plane.labels()) labels.push_back(absl::StrCat(label, "=", value));
    std::sort(labels.begin(), labels.end());
    session.out() << "instance: " << Printable(plane.instance_id()) << "\n"
                  << "labels: " << (labels.empty() ? "-" : Printable(absl::StrJoin(labels, ", "))) << "\n";
    return kDone;
  }
  return session.Fail(absl::NotFoundError(absl::StrCat("no data plane is called '", name, "'")));
}

}  // namespace gateway::ctl
