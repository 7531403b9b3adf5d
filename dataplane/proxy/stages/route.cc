#include "dataplane/proxy/stages/route.h"

#include <cstdint>
#include <string>

#include "common/policy/route/path.h"
#include "dataplane/policy/hash_on.h"

namespace gateway::dataplane {
namespace {

// Several data planes behind one load balancer may pass a request around for a while before it returns to the same one.
constexpr int kGatewaysMax = 16;
constexpr std::string_view kAnyGateway = "gateway (";

MatchInput MatchInputOf(const http::Request& request, const http::ConnectionInfo& connection, const RequestFacts& facts,
                        std::string_view method, std::string_view path) {
  return {.method = method,
          .host = facts.host,
          .path = path,
          .query = request.query,
          .fields = request.field_views(),
          .https = IsHttps(request, connection)};
}

bool Guards(const RoutePolicy& other, const RoutePolicy& own) {
  return (other.auth != nullptr && other.auth != own.auth) || (other.access != nullptr && other.access != own.access);
}

// Whether the path, as some servers would read it, belongs to a route that lets fewer in than `own`.
bool IsGuardedOtherwise(const ServingState& state, const http::Request& request, const http::ConnectionInfo& connection,
                        const RequestFacts& facts, const RoutePolicy& own) {
  for (const PathReading reading :
       {PathReading::kWithoutParameters, PathReading::kDecodedSlashes, PathReading::kBoth}) {
    std::string path;
    RouteMatch other;
    if (!ReadPathAs(reading, facts.path, &path) || path == facts.path) continue;
    state.snapshot->Match(MatchInputOf(request, connection, facts, request.method, path), &other);
    // A method that the route there does not take would be refused.
    if (other.route == nullptr ? other.method_not_allowed : Guards(*other.route, own)) return true;
  }
  return false;
}

}  // namespace

std::optional<Refusal> NormalizeTarget(const http::Request& request, const http::ConnectionInfo& connection,
                                       bool reject_encoded_slashes, RequestFacts* facts) {
  // Only a proxy in front can have had TLS (RFC 9110, section 7.4).
  if (request.scheme == "https" && connection.tls == nullptr && !connection.peer_trusted) {
    return Refusal{Reason::kBadRequest, "an https target without TLS"};
  }
  std::string_view host = request.authority;
  if (!host.empty() && host[0] != '[') host = host.substr(0, host.find(':'));
  if (!host.empty() && host[0] == '[') host = host.substr(0, host.find(']') + 1);
  if (!host.empty() && host.back() == '.') host.remove_suffix(1);
  if (host.size() > sizeof facts->host_storage) return Refusal{Reason::kBadRequest, "Host is too long"};
  facts->host = std::string_view(facts->host_storage, NormalizeHost(host, facts->host_storage));
  facts->path = request.path;
  if (facts->path == "*" || IsNormalPath(facts->path)) return std::nullopt;
  const PathError error = NormalizePath(request.path, reject_encoded_slashes, &facts->path_storage);
  facts->path = facts->path_storage;
  if (error == PathError::kNone) return std::nullopt;
  facts->path = {};
  return Refusal{Reason::kBadRequest, PathErrorMessage(error).data()};
}

std::optional<Refusal> MatchRoute(const ServingState& state, const http::Request& request,
                                  const http::ConnectionInfo& connection, const RequestFacts& facts, Target* target) {
  RouteMatch& match = target->match;
  // A preflight itself has no destination: it goes where the request that it asks for would go. If that has no Cors, it
  // is an OPTIONS request like any other.
  target->preflight = ReadPreflight(request.method, request.field_views());
  if (target->preflight) {
    state.snapshot->Match(MatchInputOf(request, connection, facts, target->preflight->method, facts.path), &match);
    if (match.route != nullptr && match.route->cors != nullptr) {
      target->route = &state.routes[match.route->index];
      return std::nullopt;
    }
  }
  state.snapshot->Match(MatchInputOf(request, connection, facts, request.method, facts.path), &match);
  if (match.route == nullptr) {
    return Refusal{.reason = match.method_not_allowed ? Reason::kMethodNotAllowed : Reason::kNoRoute};
  }
  if (MayBeReadOtherwise(facts.path) && IsGuardedOtherwise(state, request, connection, facts, *match.route)) {
    return Refusal{Reason::kBadRequest, "a path that some services read as one that another route protects"};
  }
  target->route = &state.routes[match.route->index];
  if (match.route->cors == nullptr) target->preflight.reset();  // the service responds to it
  return std::nullopt;
}

void ChooseService(const ServingState& state, const http::Request& request, const RequestFacts& facts,
                   absl::InsecureBitGen* random, Target* target) {
  const RoutePolicy& policy = target->policy();
  const BoundRoute& route = *target->route;
  if (policy.consul_service != nullptr) {
    target->series = route.unknown_series;
    const auto found = route.dynamic.find(target->match.variables[policy.consul_service->variable]);
    if (found == route.dynamic.end()) return;
    target->dynamic = found->second.service;
    target->service = target->dynamic.get();
    target->series = found->second.series;
  } else if (policy.redirect != nullptr || policy.respond != nullptr) {
    target->series = route.series[0];
    target->service_metrics = MetricsRegistry::kBuiltinService;
    return;
  } else {
    size_t chosen = 0;
    if (policy.split.size() > 1) {
      const std::optional<uint64_t> hash =
          HashOf(policy.split_on, request.field_views(), facts.client_address, facts.path);
      if (hash) {
        chosen = ChooseTarget(policy.split, state.snapshot->services(), *hash);
      } else {
        const uint32_t draw = absl::Uniform<uint32_t>(*random, 0, policy.split_total);
        while (draw >= policy.split[chosen].upto) ++chosen;
      }
    }
    target->service = state.services[policy.split[chosen].service].get();
    target->series = route.series[chosen];
    if (!route.watched_sides.empty()) target->watched_side = route.watched_sides[chosen];
  }
  target->service_metrics = target->service->runtime->metrics_service;
}

std::optional<Refusal> RewriteByRegex(std::string_view path, Target* target) {
  target->rewritten.clear();
  if (Snapshot::Rewrite(target->match, path, &target->rewritten)) return std::nullopt;
  return Refusal{Reason::kInternal, "rewrite.regex did not produce a path"};
}

std::optional<Refusal> CheckForLoop(const http::Request& request, std::string_view via) {
  constexpr Refusal kLoop{Reason::kLoopDetected, "its Via says that it has come from this gateway"};
  int gateways = 0;
  for (size_t i = 0; i < request.fields.size(); ++i) {
    if (request.kinds[i] != http::FieldKind::kVia) continue;
    const std::string_view value = request.fields[i].value;
    if (value.find(via) != std::string_view::npos) return kLoop;
    for (size_t at = value.find(kAnyGateway); at != std::string_view::npos; at = value.find(kAnyGateway, at + 1)) {
      if (++gateways == kGatewaysMax) return kLoop;
    }
  }
  return std::nullopt;
}

std::optional<Refusal> CheckEndpoints(const ServingState& state, const BoundService* service) {
  if (service == nullptr) {
    return Refusal{.reason = state.catalog_known ? Reason::kUnknownService : Reason::kDiscoveryUnavailable};
  }
  // Policy names it, not the client: so it is not 404.
  if (service->discovery == Discovery::kUnknownService) return Refusal{.reason = Reason::kNoHealthyEndpoint};
  if (service->discovery == Discovery::kUnavailable) return Refusal{.reason = Reason::kDiscoveryUnavailable};
  if (service->balancer == nullptr) return Refusal{.reason = Reason::kNoHealthyEndpoint};
  return std::nullopt;
}

}  // namespace gateway::dataplane
