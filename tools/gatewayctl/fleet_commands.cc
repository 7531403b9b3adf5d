// dataplanes, services, endpoints, breakers, limits, version.
#include <algorithm>
#include <iostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/version.h"
#include "tools/gatewayctl/commands.h"
#include "tools/gatewayctl/render.h"
#include "tools/gatewayctl/table.h"

namespace gateway::ctl {
namespace {

// Whether Consul has a service of that name: a Route by consul_service reaches some that no policy names.
bool IsKnownToConsul(const absl::StatusOr<v1::ListEndpointsResponse>& endpoints) {
  return endpoints.ok() &&
         std::any_of(endpoints->sets().begin(), endpoints->sets().end(),
                     [](const v1::EndpointSet& set) { return set.state() != v1::EndpointSet::UNKNOWN_SERVICE; });
}

ExitCode Forget(Session& session) {
  v1::ForgetDataPlanesRequest request;
  request.set_name(session.options.forget);
  request.set_gone(session.options.gone);
  const absl::StatusOr<v1::ForgetDataPlanesResponse> forgotten = session.client.ForgetDataPlanes(request);
  if (!forgotten.ok()) return session.Fail(forgotten.status());
  if (session.PrintStructured(MessageJson(*forgotten))) return kDone;
  if (session.options.output == "name") {
    for (const std::string& name : forgotten->names()) session.out() << name << "\n";
    return kDone;
  }
  if (forgotten->names().empty()) {
    session.out() << "no data plane is gone; nothing was forgotten\n";
    return kDone;
  }
  session.out() << "forgotten: " << NamesText(forgotten->names(), forgotten->names_size()) << "\n";
  return kDone;
}

}  // namespace

ExitCode DataPlanes(Session& session) {
  if (session.options.gone || !session.options.forget.empty()) return Forget(session);
  const absl::StatusOr<v1::ListDataPlanesResponse> state = session.client.ListDataPlanes();
  if (!state.ok()) return session.Fail(state.status());
  Json items = Json::array();
  for (const v1::DataPlaneState& plane : state->data_planes()) items.push_back(MessageJson(plane));
  if (session.PrintList(std::move(items), state->revision())) return kDone;
  if (session.options.output == "name") {
    for (const v1::DataPlaneState& plane : state->data_planes()) session.out() << plane.name() << "\n";
    return kDone;
  }
  if (state->data_planes().empty()) {
    session.err() << "no data plane is connected\n";
    return kDone;
  }
  session.out() << RenderDataPlanes(*state, session.terminal.now());
  return kDone;
}

ExitCode AcceptHistory(Session& session) {
  v1::AcceptHistoryRequest request;
  request.mutable_context()->set_actor(session.options.actor.empty() ? session.terminal.actor : session.options.actor);
  const absl::StatusOr<v1::AcceptHistoryResponse> accepted = session.client.AcceptHistory(request);
  if (!accepted.ok()) return session.Fail(accepted.status());
  if (session.PrintStructured(MessageJson(*accepted))) return kDone;
  session.out() << "history " << accepted->epoch() << " is in force; " << accepted->released()
                << " data planes that waited are sent it\n";
  return kDone;
}

ExitCode Services(Session& session) {
  const absl::StatusOr<v1::ListResponse> services = session.client.List("Service");
  if (!services.ok()) return session.Fail(services.status());
  const absl::StatusOr<v1::ListEndpointsResponse> endpoints = session.client.ListEndpoints("");
  if (!endpoints.ok()) return session.Fail(endpoints.status());
  const std::vector<v1::StoredResource> stored(services->resources().begin(), services->resources().end());
  const absl::StatusOr<v1::ListBreakersResponse> breakers = session.client.ListBreakers("");
  if (!breakers.ok()) return session.Fail(breakers.status());
  const std::vector<ServiceRow> rows = ServicesOf(stored, *endpoints, *breakers, session.terminal.now());
  if (session.options.output == "name") {
    for (const ServiceRow& row : rows) session.out() << row.name << "\n";
    return kDone;
  }
  Json json = Json::array();
  for (const ServiceRow& row : rows) {
    json.push_back({{"name", row.name},
                    {"source", row.source},
                    {"serving", row.serving},
                    {"endpoints", row.endpoints},
                    {"state", row.state},
                    {"breaker_open_on", row.breaker_open_on}});
  }
  if (session.PrintList(std::move(json), services->revision())) return kDone;
  if (rows.empty()) {
    session.err() << "no services\n";
  } else {
    session.out() << RenderServices(rows);
  }
  session.err() << RenderEndpointAlarms(*endpoints) << RenderOverrides(*endpoints, session.terminal.now())
                << RenderPendingOverrides(*endpoints);
  return kDone;
}

ExitCode Endpoints(Session& session) {
  const Options& options = session.options;
  if (options.history) return EndpointHistory(session);
  if (options.accept || options.freeze || options.thaw) return DecideEndpoints(session);
  if (!options.set.empty()) return SetEndpoint(session);
  if (!options.comment.empty() || !options.actor.empty()) {
    session.err() << "gatewayctl: --comment and --actor go with --set, --accept, --freeze or --thaw\n";
    return kUsage;
  }
  const std::string& name = session.options.name;
  const absl::StatusOr<v1::GetResponse> service = session.client.Get("Service", name);
  if (!service.ok() && !absl::IsNotFound(service.status())) return session.Fail(service.status());
  const absl::StatusOr<v1::GetServerInfoResponse> server = session.client.GetServerInfo();
  if (!server.ok()) return session.Fail(server.status());
  const absl::StatusOr<v1::ListEndpointsResponse> endpoints = session.client.ListEndpoints(name);
  if (!endpoints.ok() && !absl::IsNotFound(endpoints.status())) return session.Fail(endpoints.status());
  if (!service.ok() && !IsKnownToConsul(endpoints)) {
    return session.Fail(
        absl::NotFoundError(absl::StrCat("neither the policy nor Consul knows a service '", name, "'")));
  }
  std::vector<EndpointRow> rows = EndpointsOf(service.ok() ? &service->resource().resource().service() : nullptr,
                                              endpoints.ok() ? endpoints->sets() : EndpointSets());
  if (endpoints.ok()) {
    AddOverrides(*endpoints, service.ok() ? &service->resource().resource().service() : nullptr, name,
                 session.terminal.now(), &rows);
    AddExclusions(*endpoints, "", &rows);
  }
  if (session.options.output == "name") {
    for (const EndpointRow& row : rows) session.out() << row.address << "\n";
    return kDone;
  }
  Json json = Json::array();
  for (const EndpointRow& row : rows) {
    json.push_back({{"service", row.service},
                    {"address", row.address},
                    {"serving", row.serving},
                    {"why_not", row.why_not},
                    {"health", row.health},
                    {"weight", row.weight},
                    {"zone", row.zone},
                    {"tags", row.tags},
                    {"id", row.id},
                    {"left_out_by", row.excluded},
                    {"override", row.override.has_value() ? MessageJson(*row.override) : Json()}});
  }
  if (session.PrintList(std::move(json), server->revision())) return kDone;
  if (rows.empty()) {
    session.err() << "'" << name << "' has no endpoints\n";
  } else {
    session.out() << RenderEndpoints(rows);
  }
  if (endpoints.ok()) {
    session.err() << RenderEndpointAlarms(*endpoints) << RenderPendingOverrides(*endpoints);
  }
  return kDone;
}

ExitCode EndpointHistory(Session& session) {
  if (session.options.output == "name") {
    return session.Refuse("endpoints --history: events have no names; expected -o json, yaml or none");
  }
  const absl::StatusOr<v1::ListEndpointHistoryResponse> history =
      session.client.ListEndpointHistory(session.options.name);
  if (!history.ok()) return session.Fail(history.status());
  if (session.PrintStructured(MessageJson(*history))) return kDone;
  if (history->events().empty()) {
    session.err() << "nothing has happened to the endpoints of '" << Printable(session.options.name) << "' yet\n";
    return kDone;
  }
  session.out() << RenderEndpointHistory(*history);
  return kDone;
}

ExitCode Breakers(Session& session) {
  const absl::StatusOr<v1::ListBreakersResponse> breakers = session.client.ListBreakers(session.options.name);
  if (!breakers.ok()) return session.Fail(breakers.status());
  if (const std::string& name = session.options.name; !name.empty() && breakers->breakers().empty()) {
    // It is not known yet, or misspelt.
    const absl::Status known = session.client.Get("Service", name).status();
    if (!known.ok() && !absl::IsNotFound(known)) return session.Fail(known);
    if (!known.ok() && !IsKnownToConsul(session.client.ListEndpoints(name))) {
      return session.Fail(
          absl::NotFoundError(absl::StrCat("neither the policy nor Consul knows a service '", name, "'")));
    }
  }
  Json items = Json::array();
  for (const v1::DataPlaneBreaker& row : breakers->breakers()) items.push_back(MessageJson(row));
  if (session.structured()) {
    const absl::StatusOr<v1::GetServerInfoResponse> server = session.client.GetServerInfo();
    if (!server.ok()) return session.Fail(server.status());
    session.PrintList(std::move(items), server->revision());
    return kDone;
  }
  if (session.options.output == "name") {
    for (const v1::DataPlaneBreaker& row : breakers->breakers()) {
      session.out() << row.data_plane() << "/" << row.breaker().service() << "\n";
    }
  } else if (breakers->breakers().empty()) {
    session.err() << "no data plane reports a breaker"
                  << (session.options.name.empty() ? "" : absl::StrCat(" in front of '", session.options.name, "'"))
                  << "\n";
  } else {
    session.out() << RenderBreakers(*breakers, session.terminal.now());
  }
  return kDone;
}

ExitCode Limits(Session& session) {
  const absl::StatusOr<v1::ListLimitsResponse> limits = session.client.ListLimits(session.options.name);
  if (!limits.ok()) return session.Fail(limits.status());
  if (!session.options.name.empty() && limits->limits().empty()) {
    const absl::Status known = session.client.Get("RateLimit", session.options.name).status();
    if (!known.ok()) return session.Fail(known);
  }
  Json items = Json::array();
  for (const v1::DataPlaneLimit& row : limits->limits()) items.push_back(MessageJson(row));
  if (session.structured()) {
    const absl::StatusOr<v1::GetServerInfoResponse> server = session.client.GetServerInfo();
    if (!server.ok()) return session.Fail(server.status());
    session.PrintList(std::move(items), server->revision());
    return kDone;
  }
  if (session.options.output == "name") {
    for (const v1::DataPlaneLimit& row : limits->limits()) {
      session.out() << row.data_plane() << "/" << row.limit().name() << "\n";
    }
  } else if (limits->limits().empty()) {
    session.err() << "no data plane reports a limit"
                  << (session.options.name.empty() ? "" : absl::StrCat(" '", session.options.name, "'")) << "\n";
  } else {
    session.out() << RenderLimits(*limits);
  }
  return kDone;
}

ExitCode Version(Session& session) {
  Json json = Json::object();
  json["client"]["version"] = std::string(kVersion);
  if (!session.structured()) session.out() << "gatewayctl " << kVersion << "\n";
  if (!session.options.client_only) {
    const absl::StatusOr<v1::GetServerInfoResponse> info = session.client.GetServerInfo();
    if (!info.ok()) {
      session.PrintStructured(json);
      return session.Fail(info.status());
    }
    json["server"] = MessageJson(*info);
    if (session.table()) {
      session.out() << "control plane " << Printable(info->name()) << (info->name().empty() ? "" : " ")
                    << info->version() << " at " << session.options.server << ", revision " << info->revision()
                    << ", started " << FormatAge(info->started_at(), session.terminal.now()) << " ago, epoch "
                    << info->epoch() << "\n";
    }
  }
  session.PrintStructured(json);
  return kDone;
}

}  // namespace gateway::ctl
