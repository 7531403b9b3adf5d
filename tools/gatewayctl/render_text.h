// What the renderers share: the inside of render.h.
#ifndef GATEWAY_TOOLS_GATEWAYCTL_RENDER_TEXT_H_
#define GATEWAY_TOOLS_GATEWAYCTL_RENDER_TEXT_H_

#include <algorithm>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/units.h"
#include "common/policy/policy_files.h"
#include "tools/gatewayctl/render.h"
#include "tools/gatewayctl/table.h"

namespace gateway::ctl {

inline constexpr size_t kSummaryItemsMax = 3;  // of a list inside a table's cell
inline constexpr char kNone[] = "none";

inline std::string Lower(const std::string& enum_name) { return absl::AsciiStrToLower(enum_name); }

// "a, b, c and 7 more".
template <typename Range>
std::string JoinSome(const Range& items, size_t most = kSummaryItemsMax) {
  std::vector<std::string> shown(items.begin(), items.end());
  const size_t total = shown.size();
  if (total <= most) return absl::StrJoin(shown, ", ");
  shown.resize(most);
  return absl::StrCat(absl::StrJoin(shown, ", "), " and ", total - most, " more");
}

inline std::string DurationOr(bool given, const google::protobuf::Duration& duration, const char* absent) {
  return given ? FormatDuration(duration) : absent;
}

inline std::string HostPort(const std::string& host, uint32_t port) {
  return host.find(':') == std::string::npos ? absl::StrCat(host, ":", port) : absl::StrCat("[", host, "]:", port);
}

inline const v1::StoredResource* Find(const ResourceKey& key, std::span<const v1::StoredResource> all) {
  for (const v1::StoredResource& stored : all) {
    if (KeyOf(stored.resource()) == key) return &stored;
  }
  return nullptr;
}

// "  Label:        text"
inline void AppendFact(std::string* out, const std::string& label, const std::string& text) {
  constexpr size_t kLabelWidth = 14;
  std::string line = absl::StrCat("  ", label, label.empty() ? "" : ":");
  line.resize(std::max(line.size() + 1, kLabelWidth + 2), ' ');
  absl::StrAppend(out, line, Printable(text), "\n");
}

// render_resources.cc: the parts of a document in words.
// "/v1/**", "grpc shop.v1.Orders/Get".
std::string PathText(const v1::RouteMatch& match);
// Of the scheme, of headers and of the query ("?v=2").
std::vector<std::string> ConditionsOf(const v1::RouteMatch& match);
// Where a route's requests go, each with its share in per cent.
std::vector<std::pair<std::string, double>> TargetsOf(const v1::Route& route);
std::string Percent(double share);
std::string ServiceSource(const v1::Service& service, size_t most = kSummaryItemsMax);
std::string BalancerOf(const v1::LoadBalancer& balancer);
std::string LabelsText(const v1::Resource& resource);
// How the control plane fares with a certificate of a CA: "in 59d", "ordering", "failed 3 times, next try in 40s"; ""
// for other certificates.
std::string RenewalCell(const v1::StoredResource& stored, absl::Time now);
// When a certificate expires; "pending": it has not been issued yet.
std::string ExpiryText(const v1::Certificate& certificate);

// render_canary.cc: the canary of a route.
// "walking".
std::string CanaryPhase(const v1::CanaryState& state);
// "5% to v2, walking at step 2 of 4 since 2026-07-04T10:00:00Z; the next in 12s". REQUIRES: `stored` has one.
std::string CanaryText(const v1::StoredResource& stored, absl::Time now);
// A row for each event, the newest first.
std::string CanaryEvents(const v1::CanaryState& state, absl::Time now);
// The route as it is served: with the weights of its canary's step, if it has one.
v1::Route ServedNow(const v1::StoredResource& stored);

// render_endpoints.cc: the endpoints of a service.
const v1::EndpointSet* SetOf(const v1::ConsulSource& source, const EndpointSets& sets);
int CountServing(std::span<const EndpointRow> rows);
std::string SetState(const v1::EndpointSet* set, int serving);
// With what data planes leave out of them.
std::vector<EndpointRow> RowsOf(const v1::Service& service, const v1::ListEndpointsResponse& all, absl::Time now);

}  // namespace gateway::ctl

#endif  // GATEWAY_TOOLS_GATEWAYCTL_RENDER_TEXT_H_
