// Endpoints and services.
#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/endpoint_name.h"
#include "common/base/host_port.h"
#include "tools/gatewayctl/format.h"
#include "tools/gatewayctl/render_text.h"

namespace gateway::ctl {
namespace {

bool HasTags(const v1::Instance& instance, const google::protobuf::RepeatedPtrField<std::string>& tags,
             std::string* missing) {
  for (const std::string& tag : tags) {
    if (std::find(instance.tags().begin(), instance.tags().end(), tag) == instance.tags().end()) {
      *missing = tag;
      return false;
    }
  }
  return true;
}

// Those of Consul; `service`: whose tags they need to have, or null.
void AddInstances(const v1::EndpointSet& set, const v1::Service* service, std::vector<EndpointRow>* rows) {
  for (const v1::Instance& instance : set.instances()) {
    EndpointRow row{.service = set.key().service(),
                    .address = HostPort(instance.address(), instance.port()),
                    .health = Lower(v1::Instance::Health_Name(instance.health())),
                    .weight = instance.weight(),
                    .serving = false,
                    .why_not = "",
                    .zone = instance.zone(),
                    .tags = {instance.tags().begin(), instance.tags().end()},
                    .id = instance.id(),
                    .excluded = {},
                    .out_at = {},
                    .override = {},
                    .set_by = {}};
    std::string missing_tag;
    if (!instance.unusable().empty()) {
      row.why_not = instance.unusable();
    } else if (instance.health() != v1::Instance::PASSING && instance.health() != v1::Instance::WARNING) {
      row.why_not = row.health;
    } else if (instance.weight() == 0) {
      row.why_not = "weight 0";
    } else if (service != nullptr && !HasTags(instance, service->consul().tags(), &missing_tag)) {
      row.why_not = absl::StrCat("no tag ", missing_tag);
    } else {
      row.serving = true;
    }
    rows->push_back(std::move(row));
  }
}

std::string NameOfEndpoint(const std::string& address) {
  const absl::StatusOr<gateway::HostPort> parsed = ParseHostPort(address);
  return parsed.ok() ? EndpointName(parsed->host, parsed->port) : address;
}

// "drained", "weight 3"
std::string ActionText(const v1::EndpointOverride& override) {
  if (override.action_case() == v1::EndpointOverride::kDrain) return "drained";
  return override.weight() == 0 ? "taken out" : absl::StrCat("weight ", override.weight());
}

// "by alice, 8m left"
std::string OverrideText(const v1::EndpointOverride& override, absl::Time now) {
  std::string left;
  if (override.has_until()) {
    const absl::Time until =
        absl::FromUnixSeconds(override.until().seconds()) + absl::Nanoseconds(override.until().nanos());
    google::protobuf::Timestamp then;  // as long ago as it is away
    then.set_seconds(absl::ToUnixSeconds(now - std::max(until - now, absl::ZeroDuration())));
    left = absl::StrCat(", ", FormatAge(then, now), " left");
  }
  return absl::StrCat("by ", override.actor(), left);
}

}  // namespace

const v1::EndpointSet* SetOf(const v1::ConsulSource& source, const EndpointSets& sets) {
  for (const v1::EndpointSet& set : sets) {
    if (set.key().service() == source.service() &&
        (source.datacenter().empty() || set.key().datacenter() == source.datacenter())) {
      return &set;
    }
  }
  return nullptr;
}

int CountServing(std::span<const EndpointRow> rows) {
  return static_cast<int>(std::count_if(rows.begin(), rows.end(), [](const EndpointRow& row) { return row.serving; }));
}

std::string SetState(const v1::EndpointSet* set, int serving) {
  if (set != nullptr && set->state() == v1::EndpointSet::UNKNOWN_SERVICE) return "unknown to Consul";
  if (set == nullptr || set->state() != v1::EndpointSet::KNOWN) return "not read from Consul yet";
  if (set->stale()) return absl::StrCat("stale: ", set->alarm());
  return serving == 0 ? "no endpoint serves" : "ok";
}

// With what data planes leave out of them.
std::vector<EndpointRow> RowsOf(const v1::Service& service, const v1::ListEndpointsResponse& all, absl::Time now) {
  std::vector<EndpointRow> rows = EndpointsOf(&service, all.sets());
  AddOverrides(all, &service, service.name(), now, &rows);
  AddExclusions(all, service.name(), &rows);
  return rows;
}

std::vector<EndpointRow> EndpointsOf(const v1::Service* service, const EndpointSets& sets) {
  std::vector<EndpointRow> rows;
  if (service != nullptr && !service->has_consul()) {
    for (const v1::StaticEndpoint& endpoint : service->static_()) {
      const uint32_t weight = endpoint.has_weight() ? endpoint.weight() : 1;
      rows.push_back({.service = service->name(),
                      .address = endpoint.address(),
                      .health = "static",
                      .weight = weight,
                      .serving = weight > 0,
                      .why_not = weight > 0 ? "" : "weight 0",
                      .zone = endpoint.zone(),
                      .tags = {},
                      .id = "",
                      .excluded = {},
                      .out_at = {},
                      .override = {},
                      .set_by = {}});
    }
    return rows;
  }
  const v1::EndpointSet* only = service == nullptr ? nullptr : SetOf(service->consul(), sets);
  for (const v1::EndpointSet& set : sets) {
    if (service != nullptr && &set != only) continue;
    AddInstances(set, service, &rows);
  }
  return rows;
}

void AddOverrides(const v1::ListEndpointsResponse& endpoints, const v1::Service* service, std::string_view name,
                  absl::Time now, std::vector<EndpointRow>* rows) {
  const std::string consul_name = service != nullptr && service->has_consul() && service->consul().datacenter().empty()
                                      ? service->consul().service()
                                      : std::string(name);
  for (EndpointRow& row : *rows) {
    const std::string address = NameOfEndpoint(row.address);
    const v1::EndpointOverride* found = nullptr;
    for (const v1::EndpointOverride& each : endpoints.overrides()) {
      if (each.endpoint() != address) continue;
      if (each.service() == name) found = &each;  // goes before one of Consul's service
      if (each.service() == consul_name && found == nullptr) found = &each;
    }
    if (found == nullptr) continue;
    row.override = *found;
    row.set_by = absl::StrCat(ActionText(*found), " ", OverrideText(*found, now));
    row.weight = found->weight();
    const bool well = row.serving || row.why_not == "weight 0";
    if (!well) continue;
    row.serving = found->action_case() == v1::EndpointOverride::kWeight && found->weight() > 0;
    row.why_not = row.serving ? "" : ActionText(*found);
  }
}

std::string RenderOverrides(const v1::ListEndpointsResponse& endpoints, absl::Time now) {
  constexpr int kTold = 5;
  std::string text;
  for (int i = 0; i < std::min(kTold, endpoints.overrides_size()); ++i) {
    const v1::EndpointOverride& each = endpoints.overrides(i);
    absl::StrAppend(&text,
                    Printable(absl::StrCat(each.service(), ": ", each.endpoint(), " is ", ActionText(each), " ",
                                           OverrideText(each, now))),
                    "\n");
  }
  if (endpoints.overrides_size() > kTold) {
    absl::StrAppend(&text, "and ", endpoints.overrides_size() - kTold, " more endpoints are set by operators\n");
  }
  return text;
}

std::string RenderPendingOverrides(const v1::ListEndpointsResponse& endpoints) {
  if (endpoints.overrides_pending().empty()) return "";
  return absl::StrCat("what operators have set is not in force on: ",
                      NamesText(endpoints.overrides_pending(), endpoints.overrides_pending_size()),
                      " (not yet, or too old for it)\n");
}

void AddExclusions(const v1::ListEndpointsResponse& endpoints, std::string_view service,
                   std::vector<EndpointRow>* rows) {
  const auto concerns = [service](const std::string& other) { return service.empty() || other == service; };
  std::map<std::string, size_t> by_address;
  for (size_t i = 0; i < rows->size(); ++i) by_address.emplace((*rows)[i].address, i);
  // Of each data plane and endpoint: the rows of the names that it is an address of, and how many of a name's are in
  // use.
  std::map<std::pair<std::string, std::string>, std::vector<size_t>> named;
  std::map<std::pair<std::string, size_t>, int> in_use;
  for (const v1::ResolvedHost& resolved : endpoints.hosts()) {
    const v1::HostReport& host = resolved.host();
    const auto row = by_address.find(host.address());
    if (!concerns(host.service()) || row == by_address.end()) continue;
    in_use[{resolved.data_plane(), row->second}] += host.endpoints_size();
    for (const std::string& endpoint : host.endpoints()) {
      named[{resolved.data_plane(), endpoint}].push_back(row->second);
    }
    if (host.endpoints_size() > 0) continue;
    (*rows)[row->second].excluded.push_back(absl::StrCat(resolved.data_plane(), ": the name has no address"));
    (*rows)[row->second].out_at.insert(resolved.data_plane());
  }
  std::set<std::string> panicking;
  for (const v1::PanickingService& each : endpoints.panicking()) {
    if (concerns(each.service())) panicking.insert(each.data_plane());
  }
  std::set<std::pair<std::string, std::string>> told;  // an endpoint may be left out for two reasons
  for (const v1::Exclusion& exclusion : endpoints.excluded()) {
    const v1::ExcludedEndpoint& endpoint = exclusion.endpoint();
    if (!concerns(endpoint.service())) continue;
    const std::string& plane = exclusion.data_plane();
    const bool ignored = panicking.contains(plane);
    const bool first = told.emplace(plane, endpoint.endpoint()).second;
    const std::string reason =
        absl::StrCat(endpoint.reason(), ignored ? " (ignored: too few endpoints are usable)" : "");
    const auto names = named.find({plane, endpoint.endpoint()});
    if (names != named.end()) {
      for (const size_t index : names->second) {
        EndpointRow& row = (*rows)[index];
        row.excluded.push_back(absl::StrCat(plane, ": ", endpoint.endpoint(), " ", reason));
        if (first && --in_use[{plane, index}] == 0 && !ignored) row.out_at.insert(plane);
      }
    }
    auto found = by_address.find(endpoint.endpoint());
    if (found == by_address.end()) {
      if (names != named.end()) continue;
      EndpointRow added;
      added.service = endpoint.service();
      added.address = endpoint.endpoint();
      added.health = "unknown";
      added.serving = true;
      found = by_address.emplace(added.address, rows->size()).first;
      rows->push_back(std::move(added));
    }
    EndpointRow& row = (*rows)[found->second];
    row.excluded.push_back(absl::StrCat(plane, ": ", reason));
    if (!ignored) row.out_at.insert(plane);
  }
  for (EndpointRow& row : *rows) {
    if (!row.serving || row.out_at.empty() || row.out_at.size() < endpoints.reporting()) continue;
    if (endpoints.reporting() == 0) continue;  // a control plane that does not say how many there are
    row.serving = false;
    row.why_not = "left out by every data plane";
  }
}

std::string RenderEndpoints(std::span<const EndpointRow> rows) {
  const bool excluded =
      std::any_of(rows.begin(), rows.end(), [](const EndpointRow& row) { return !row.excluded.empty(); });
  const bool set =
      std::any_of(rows.begin(), rows.end(), [](const EndpointRow& row) { return row.override.has_value(); });
  std::vector<std::string> headings = {"SERVICE", "ADDRESS", "SERVING", "HEALTH", "WEIGHT", "ZONE", "TAGS", "ID"};
  if (set) headings.push_back("SET");
  if (excluded) headings.push_back("LEFT OUT BY");
  Table table(headings);
  for (const EndpointRow& row : rows) {
    const std::string serving = !row.serving         ? absl::StrCat("no: ", row.why_not)
                                : row.out_at.empty() ? "yes"
                                                     : "not everywhere";
    std::vector<std::string> cells = {row.service,
                                      row.address,
                                      serving,
                                      row.health,
                                      absl::StrCat(row.weight),
                                      row.zone,
                                      absl::StrJoin(row.tags, ", "),
                                      row.id};
    if (set) cells.push_back(Printable(row.set_by));
    if (excluded) cells.push_back(absl::StrJoin(row.excluded, "; "));
    table.AddRow(std::move(cells));
  }
  return table.ToString();
}

std::string RenderEndpointAlarms(const v1::ListEndpointsResponse& endpoints) {
  std::string text;
  if (!endpoints.consul_reachable() && !endpoints.consul_error().empty()) {
    absl::StrAppend(&text, "Consul is not reachable: ", Printable(endpoints.consul_error()), "\n");
  }
  for (const v1::EndpointSet& set : endpoints.sets()) {
    if (set.has_frozen()) {
      const std::string& comment = set.frozen().comment();
      absl::StrAppend(&text,
                      Printable(absl::StrCat(set.key().service(), " is frozen since ", FormatTime(set.frozen().since()),
                                             " by ", set.frozen().actor(), comment.empty() ? "" : ": ", comment)),
                      "\n");
    } else if (set.stale()) {
      absl::StrAppend(&text, Printable(set.key().service()), " is held from an earlier read: ", Printable(set.alarm()),
                      "\n");
    }
  }
  return text;
}

std::string RenderEndpointHistory(const v1::ListEndpointHistoryResponse& history) {
  Table table({"TIME", "WHAT", "SERVING", "ENDPOINTS", "BY", "WHY"});
  for (const v1::EndpointEvent& event : history.events()) {
    std::vector<std::string> changes;
    for (const std::string& each : event.added()) changes.push_back(absl::StrCat("+", each));
    for (const std::string& each : event.removed()) changes.push_back(absl::StrCat("-", each));
    for (const std::string& each : event.altered()) changes.push_back(absl::StrCat("~", each));
    const bool of_service = !event.key().service().empty();  // else of all: Consul was away
    table.AddRow({FormatTime(event.time()), absl::AsciiStrToLower(v1::EndpointEvent::Kind_Name(event.kind())),
                  of_service ? absl::StrCat(event.serving(), "/", event.instances()) : "", absl::StrJoin(changes, ", "),
                  event.actor(), event.reason()});
  }
  return table.ToString();
}

std::vector<ServiceRow> ServicesOf(std::span<const v1::StoredResource> services, const v1::ListEndpointsResponse& all,
                                   const v1::ListBreakersResponse& breakers, absl::Time now) {
  const auto open_on = [&breakers](const std::string& service) {
    std::vector<std::string> planes;
    for (const v1::DataPlaneBreaker& row : breakers.breakers()) {
      if (row.breaker().service() != service || row.breaker().state() == v1::BreakerReport::CLOSED ||
          row.breaker().state() == v1::BreakerReport::STATE_UNSPECIFIED) {
        continue;
      }
      planes.push_back(row.data_plane());
    }
    return planes;
  };
  std::vector<ServiceRow> rows;
  std::vector<const v1::EndpointSet*> told;
  for (const v1::StoredResource& stored : services) {
    const v1::Service& service = stored.resource().service();
    const std::vector<EndpointRow> endpoints = RowsOf(service, all, now);
    const int serving = CountServing(endpoints);
    std::string state = serving == 0 ? "no endpoint serves" : "ok";
    if (service.has_consul()) {
      told.push_back(SetOf(service.consul(), all.sets()));
      state = SetState(told.back(), serving);
    }
    rows.push_back({service.name(), service.has_consul() ? ServiceSource(service) : "static", serving,
                    static_cast<int>(endpoints.size()), open_on(service.name()), std::move(state)});
  }
  for (const v1::EndpointSet& set : all.sets()) {
    if (set.written_down() || std::find(told.begin(), told.end(), &set) != told.end()) continue;
    std::vector<EndpointRow> endpoints;
    AddInstances(set, nullptr, &endpoints);
    AddOverrides(all, nullptr, set.key().service(), now, &endpoints);
    AddExclusions(all, set.key().service(), &endpoints);
    const int serving = CountServing(endpoints);
    rows.push_back({set.key().service(), "consul only", serving, static_cast<int>(endpoints.size()),
                    open_on(set.key().service()), SetState(&set, serving)});
  }
  return rows;
}

std::string RenderServices(std::span<const ServiceRow> rows) {
  Table table({"NAME", "SOURCE", "SERVING", "STATE"});
  for (const ServiceRow& row : rows) {
    const std::string breaker =
        row.breaker_open_on.empty() ? "" : absl::StrCat("; breaker open on ", JoinSome(row.breaker_open_on));
    table.AddRow(
        {row.name, row.source, absl::StrCat(row.serving, "/", row.endpoints), absl::StrCat(row.state, breaker)});
  }
  return table.ToString();
}

}  // namespace gateway::ctl
