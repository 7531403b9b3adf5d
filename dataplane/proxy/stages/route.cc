#include "dataplane/proxy/stages/route.h"

#include <optional>
#include <string>

#include "dataplane/policy/hash_on.h"

namespace gateway::dataplane {
namespace {

MatchInput InputOf(const RequestContext& request, std::string_view method, std::string_view path) {
  return {method, request.host, path, request.head.query, request.head.field_views()};
}

// Whether the path, as some servers would read it, belongs to a route that lets fewer in than the one that was found.
bool IsGuardedOtherwise(const ServingState& state, const RequestContext& request, const RoutePolicy& own) {
  const auto guards = [&own](const RoutePolicy& other) {
    return (other.auth != nullptr && other.auth != own.auth) || (other.access != nullptr && other.access != own.access);
  };
  for (const PathReading reading :
       {PathReading::kWithoutParameters, PathReading::kDecodedSlashes, PathReading::kBoth}) {
    std::string path;
    RouteMatch other;
    if (!ReadPathAs(reading, request.path, &path) || path == request.path) continue;
    state.snapshot->Match(InputOf(request, request.head.method, path), &other);
    if (other.route != nullptr && guards(*other.route)) return true;
  }
  return false;
}

}  // namespace

Refusal MatchRoute(const ServingState& state, RequestContext* request, Target* target) {
  RouteMatch& match = target->match;
  request->preflight = ReadPreflight(request->head.method, request->head.field_views());
  if (request->preflight) {
    state.snapshot->Match(InputOf(*request, request->preflight->method, request->path), &match);
    if (match.route != nullptr && match.route->cors != nullptr) {
      target->route = &state.routes[match.route->index];
      return {};
    }
  }
  state.snapshot->Match(InputOf(*request, request->head.method, request->path), &match);
  if (match.route == nullptr) return {match.method_not_allowed ? Reason::kMethodNotAllowed : Reason::kNoRoute};
  if (MayBeReadOtherwise(request->path) && IsGuardedOtherwise(state, *request, *match.route)) {
    return {Reason::kBadRequest, "a path that some services read as one that another route protects"};
  }
  target->route = &state.routes[match.route->index];
  if (match.route->cors == nullptr) request->preflight.reset();  // the service's to answer
  return {};
}

void ChooseService(const ServingState& state, const RequestContext& request, absl::InsecureBitGen& random,
                   Target* target) {
  const RoutePolicy& policy = *target->match.route;
  if (policy.consul_service != nullptr) {
    const std::string_view name = target->match.variables[policy.consul_service->variable];
    target->series = target->route->unknown_series;
    const auto found = target->route->dynamic.find(name);
    if (found == target->route->dynamic.end()) return;
    target->dynamic = found->second.service;
    target->service = target->dynamic.get();
    target->series = found->second.series;
  } else if (policy.redirect != nullptr || policy.respond != nullptr) {
    target->series = target->route->series[0];
    target->service_metrics = MetricsRegistry::kBuiltinService;
    return;
  } else {
    size_t chosen = 0;
    if (policy.split.size() > 1) {
      const std::optional<uint64_t> hash =
          HashOf(policy.split_on, request.head.field_views(), request.client_address, request.path);
      if (hash) {
        chosen = ChooseTarget(policy.split, state.snapshot->services(), *hash);
      } else {
        const uint32_t draw = absl::Uniform<uint32_t>(random, 0, policy.split_total);
        while (draw >= policy.split[chosen].upto) ++chosen;
      }
    }
    target->service = state.services[policy.split[chosen].service].get();
    target->series = target->route->series[chosen];
  }
  target->service_metrics = target->service->runtime->metrics_service;
}

Refusal CheckAccess(const AccessPolicy& access, const in6_addr& client) {
  const bool allowed = access.allow.empty() || access.allow.Contains(client);
  if (allowed && !access.deny.Contains(client)) return {};
  return {.reason = Reason::kForbidden, .policy = {"IpAccess", access.name}};
}

Refusal CheckBodySize(const RoutePolicy& route, const http::Request& request, uint64_t bytes_so_far) {
  const bool too_large = route.bounds_body && request.length.value_or(bytes_so_far) > route.max_body_bytes;
  return {too_large ? Reason::kBodyTooLarge : Reason::kNone};
}

Refusal RewritePath(RequestContext* request, const RouteMatch& match) {
  if (match.route->rewrite_regex == nullptr) return {};
  request->rewritten.clear();
  if (Snapshot::Rewrite(match, request->path, &request->rewritten)) return {};
  return {Reason::kInternal, "rewrite.regex did not produce a path"};
}

Refusal FindEndpoints(const ServingState& state, const BoundService* service) {
  if (service == nullptr) return {state.catalog_known ? Reason::kUnknownService : Reason::kDiscoveryUnavailable};
  switch (service->discovery) {
    case Discovery::kUnknownService:
      return {Reason::kUnknownService};
    case Discovery::kUnavailable:
      return {Reason::kDiscoveryUnavailable};
    case Discovery::kKnown:
      break;
  }
  return {service->balancer == nullptr ? Reason::kNoHealthyEndpoint : Reason::kNone};
}

}  // namespace gateway::dataplane
