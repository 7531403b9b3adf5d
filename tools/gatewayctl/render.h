// What people read: answers of the admin API as text. Pure functions; `now` is passed in.
#ifndef GATEWAY_TOOLS_GATEWAYCTL_RENDER_H_
#define GATEWAY_TOOLS_GATEWAYCTL_RENDER_H_

#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "common/policy/resource.h"
#include "gateway/v1/admin.pb.h"

namespace gateway::ctl {

// Every resource that `resource` names, in the order of its fields, each once; `none` is no name.
std::vector<ResourceKey> ReferencesOf(const v1::Resource& resource);

// With one kind: that kind's own columns; with an empty `kind`: kind, name and a summary. `wide`: nothing is cut short,
// and labels, description and time besides.
std::string RenderResources(const std::string& kind, std::span<const v1::StoredResource> resources, absl::Time now,
                            bool wide = false);

// What one is about, in a few words.
std::string SummaryOf(const v1::Resource& resource);

// "Route/orders created", a line each.
std::string RenderChanges(std::span<const v1::Change> changes);

// What a change waits for and what to do about it, or how it ended; lines.
std::string RenderPendingChange(const v1::PendingChange& change, absl::Time now);
// The same in a few words: "staged (percent=10)", "reverted by revision 9".
std::string PendingChangeText(const v1::PendingChange& change);

// A line for each revision; what it changed is summed up.
std::string RenderHistory(std::span<const v1::RevisionInfo> revisions, absl::Time now);

// The head of `show`: revision, time, actor, comment.
std::string RenderRevisionHead(const v1::RevisionInfo& info, absl::Time now);

// What a rollback undoes (`done`: has undone), and by whom; empty if there is nothing.
std::string RenderUndone(const v1::RollbackResponse& rollback, absl::Time now, bool done);

// The state of the canary of a route, and its events. REQUIRES: `stored` has one.
std::string RenderCanary(const v1::StoredResource& stored, absl::Time now);

std::string RenderDataPlanes(const v1::ListDataPlanesResponse& state, absl::Time now);

// "a, b, c, d, e and 25 more": the first five of `names`, and how many of `count` are not among them.
std::string NamesText(const google::protobuf::RepeatedPtrField<std::string>& names, size_t count);

// "revision 7 serving on 2/2 data planes (4 workers) in 9 ms"; without the time while not all serve it.
std::string RolloutLine(const v1::RolloutResponse& rollout);
// Who does not serve it and why, an indented line for each of the first five; empty if no data plane is missing.
std::string RenderPending(const v1::RolloutResponse& rollout);

// An endpoint of a service and whether requests reach it.
struct EndpointRow {
  std::string service;  // of Consul, or the Service that has it written down
  std::string address;  // host:port
  std::string health;   // "passing"; "static" for one that is written down
  uint32_t weight = 0;
  bool serving = false;
  std::string why_not;  // "critical", "weight 0", "no tag v2"
  std::string zone;
  std::vector<std::string> tags;
  std::string id;
  std::vector<std::string> excluded;                  // by data planes: "dp-1: ejected: 5 failures in a row, 28s left"
  std::set<std::string> out_at;                       // data planes that send it nothing
  std::optional<v1::EndpointOverride> override = {};  // what an operator has set; `weight` is then its
  std::string set_by = {};                            // in words: "drain by alice, 8m left"
};

using EndpointSets = google::protobuf::RepeatedPtrField<v1::EndpointSet>;
// Of a Service of the policy (static ones are in it, the others in `sets`), or with null of whatever `sets` hold.
std::vector<EndpointRow> EndpointsOf(const v1::Service* service, const EndpointSets& sets);
// Adds what data planes say of the endpoints of `service` (empty: all that is said is of these rows): what they leave
// out, under the name that it has in the service, and names that they cannot resolve. A name is out where all of its
// addresses are; what all of them leave out does not serve. An endpoint that is in no row gets one.
void AddExclusions(const v1::ListEndpointsResponse& endpoints, std::string_view service,
                   std::vector<EndpointRow>* rows);
// Adds what operators have set for the endpoints of `service` (null: of the service of Consul called `name`).
void AddOverrides(const v1::ListEndpointsResponse& endpoints, const v1::Service* service, std::string_view name,
                  absl::Time now, std::vector<EndpointRow>* rows);
// All that operators have set, a line each, the first five; empty: nothing.
std::string RenderOverrides(const v1::ListEndpointsResponse& endpoints, absl::Time now);
// Which data planes do not do so yet; empty: all do.
std::string RenderPendingOverrides(const v1::ListEndpointsResponse& endpoints);
std::string RenderEndpoints(std::span<const EndpointRow> rows);
// A row for each event, the newest first.
std::string RenderEndpointHistory(const v1::ListEndpointHistoryResponse& history);
// What is wrong with what is known of endpoints, a line each: Consul away, a set held from earlier or frozen.
std::string RenderEndpointAlarms(const v1::ListEndpointsResponse& endpoints);

// A service that requests can reach: of the policy, or only Consul's.
struct ServiceRow {
  std::string name;
  std::string source;  // "static", "consul orders", "consul only"
  int serving = 0;
  int endpoints = 0;
  std::vector<std::string> breaker_open_on;  // data planes whose breaker is open, or half open
  std::string state;  // "ok", "stale: ...", "unknown to consul", "unavailable", "no endpoint serves"
};
std::vector<ServiceRow> ServicesOf(std::span<const v1::StoredResource> services,
                                   const v1::ListEndpointsResponse& endpoints, const v1::ListBreakersResponse& breakers,
                                   absl::Time now);
std::string RenderServices(std::span<const ServiceRow> rows);

std::string RenderBreakers(const v1::ListBreakersResponse& breakers, absl::Time now);
std::string RenderLimits(const v1::ListLimitsResponse& limits);

// By which Auth a consumer gets in, and where that leads.
struct Admission {
  std::string auth;                  // its name
  std::vector<std::string> methods;  // "api_key"; those that the consumer has credentials for
  std::string because;               // "group partners", "it is named", "any consumer is admitted"
  std::vector<std::string> routes;   // that ask for this Auth, themselves or by Defaults
};
std::vector<Admission> AdmissionsOf(const v1::Consumer& consumer, std::span<const v1::StoredResource> all);

// Everything that is worth knowing of one resource.
struct Description {
  v1::StoredResource stored;
  std::optional<v1::RevisionInfo> last_change;  // absent where history has none, as of built-ins
  std::vector<v1::StoredResource> all;          // the whole set, for references and defaults
  v1::ListEndpointsResponse endpoints;          // of all services
};
std::vector<ResourceKey> ReferrersOf(const ResourceKey& key, std::span<const v1::StoredResource> all);
std::string RenderDescription(const Description& description, absl::Time now);

}  // namespace gateway::ctl

#endif  // GATEWAY_TOOLS_GATEWAYCTL_RENDER_H_
