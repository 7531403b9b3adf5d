#include "common/policy/kinds/route.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "common/base/quote.h"
#include "common/base/units.h"
#include "common/config/codec.h"
#include "common/policy/guard_warnings.h"
#include "common/policy/kinds/canary.h"
#include "common/policy/kinds/kinds.h"
#include "common/policy/kinds/route_target.h"
#include "common/policy/kinds/upstream.h"
#include "common/policy/policy_texts.h"
#include "common/policy/route/route_pattern.h"
#include "common/policy/route/route_table.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {

void CheckLimitList(const Report& report, const google::protobuf::RepeatedPtrField<std::string>& names) {
  for (int i = 0; i < names.size(); ++i) {
    if (names[i] == kNone && names.size() > 1) {
      report.Add(At("rate_limits", i), "'none' must be the only entry");
    } else if (std::find(names.begin(), names.begin() + i, names[i]) != names.begin() + i) {
      report.Add(At("rate_limits", i), fmt::format("{} comes twice", QuoteForMessage(names[i])));
    }
  }
}

void CheckLimitReferences(const Report& report, const google::protobuf::RepeatedPtrField<std::string>& names,
                          Compilation* compilation) {
  for (int i = 0; i < names.size(); ++i) {
    if (names[i].empty()) report.Add(At("rate_limits", i), "is empty");
    if (names[i] != kNone) {
      compilation->CheckReference<v1::RateLimit>(report, At("rate_limits", i), "rate limit", names[i]);
    }
  }
}

namespace {

constexpr Millis kRouteTimeout{30'000};  // if neither the route nor Defaults names one
constexpr size_t kRespondBodyBytesMax = 64 * 1024;

// Of rate limits that are not disabled, by name: the index into Compilation::rate_limits.
using LimitIndices = absl::flat_hash_map<std::string_view, uint32_t>;

void CheckHeaderMap(const Report& report, const std::string& field,
                    const google::protobuf::Map<std::string, std::string>& map,
                    const std::vector<std::string>& variables) {
  if (map.size() > 64) report.Add(field, fmt::format("has {} entries; at most 64", map.size()));
  std::set<std::string> seen;
  for (const auto& [name, value] : map) {
    const std::string at = fmt::format("{}.{}", field, KeyInPath(name));
    CheckFieldName(report, at, name);
    if (!seen.insert(absl::AsciiStrToLower(name)).second) report.Add(at, "comes twice, in another case");
    report.AddIfBad(at, ParseText(value, variables, true, kFieldValueBytesMax).status());
  }
}

void CheckFieldEdits(const Report& report, const std::string& field, const v1::FieldEdits& edits,
                     const std::vector<std::string>& variables) {
  CheckHeaderMap(report, field + ".set", edits.set(), variables);
  CheckHeaderMap(report, field + ".add", edits.add(), variables);
  for (int i = 0; i < edits.remove_size(); ++i) CheckFieldName(report, At(field + ".remove", i), edits.remove(i));
}

void CheckQueryEdits(const Report& report, const v1::FieldEdits& edits, const std::vector<std::string>& variables) {
  const auto check = [&](const std::string& field, const auto& map) {
    if (map.size() > 64) report.Add(field, fmt::format("has {} entries; at most 64", map.size()));
    for (const auto& [name, value] : map) {
      const std::string at = fmt::format("{}.{}", field, KeyInPath(name));
      if (name.empty() || name.size() > 256) report.Add(at, "is not a query parameter name; expected 1 to 256 bytes");
      report.AddIfBad(at, ParseText(value, variables, true, kFieldValueBytesMax).status());
    }
  };
  check("request_query.set", edits.set());
  check("request_query.add", edits.add());
  for (int i = 0; i < edits.remove_size(); ++i) {
    if (edits.remove(i).empty()) report.Add(At("request_query.remove", i), "is empty");
  }
}

void CheckConsulServiceRoute(const Report& report, const v1::Route& route) {
  const v1::ConsulServiceRoute& config = route.consul_service();
  const v1::PathMatch& path = route.match().path();
  if (!path.has_template_()) {
    report.Add("consul_service.from", "needs a match.path.template with the variable that holds the service's name");
  } else if (!config.from().empty()) {
    absl::StatusOr<std::vector<TemplateSegment>> segments = ParseTemplate(path.template_());
    if (segments.ok() && std::none_of(segments->begin(), segments->end(), [&config](const TemplateSegment& segment) {
          return segment.kind == TemplateSegment::Kind::kVariable && segment.text == config.from();
        })) {
      report.Add("consul_service.from",
                 fmt::format("variable {} is not in match.path.template", QuoteForMessage(config.from())));
    }
  }
  for (int i = 0; i < config.allow_size(); ++i) {
    CheckConsulText(report, At("consul_service.allow", i), config.allow(i));
  }
  for (int i = 0; i < config.deny_size(); ++i) {
    CheckConsulText(report, At("consul_service.deny", i), config.deny(i));
  }
  CheckTags(report, "consul_service.tags", config.tags());
  CheckUpstream(report, "consul_service.template.", config.template_());
  CheckEnum(report, "consul_service.template.on_suspect", config.template_().on_suspect(),
            v1::ConsulSource::OnSuspect_IsValid);
}

void CheckRespond(const Report& report, const v1::Route& route) {
  const v1::Respond& respond = route.respond();
  const std::vector<std::string> variables = VariablesOf(route.match().path());
  const uint32_t status = respond.has_status() ? respond.status() : 200;
  if ((status == 204 || status == 205 || status == 304) && !respond.body().empty()) {
    report.Add("respond.body", fmt::format("has no place in a {}", status));
  }
  report.AddIfBad("respond.body", ParseText(respond.body(), variables, false, kRespondBodyBytesMax).status());
  CheckPlainText(report, "respond.content_type", respond.content_type());
  CheckHeaderMap(report, "respond.headers", respond.headers(), variables);
  for (const auto& [name, value] : respond.headers()) {
    if (absl::AsciiStrToLower(name) == "content-type") {
      report.Add(fmt::format("respond.headers.{}", KeyInPath(name)), "has its own setting: respond.content_type");
    }
  }
}

void CheckRoute(const Report& report, const v1::Route& route) {
  CheckRouteMatch(route.match(), [&report](const std::string& field, const std::string& message) {
    report.Add(fmt::format("match.{}", field), message);
  });
  const int targets = static_cast<int>(!route.service().empty()) + static_cast<int>(route.split_size() > 0) +
                      static_cast<int>(route.has_consul_service()) + static_cast<int>(route.has_redirect()) +
                      static_cast<int>(route.has_respond());
  if (targets != 1) {
    report.Add("", fmt::format("{}exactly one of service, split, consul_service, redirect and respond is needed",
                               targets == 0 ? "leads nowhere; " : "leads to several places; "));
  }
  if (route.split_size() > 0) {
    uint64_t total = 0;
    std::set<std::string_view> seen;
    for (int i = 0; i < route.split_size(); ++i) {
      const v1::WeightedService& target = route.split(i);
      total += target.has_weight() ? target.weight() : 1;
      if (!target.service().empty() && !seen.insert(target.service()).second) {
        report.Add(At("split", i, ".service"), fmt::format("{} comes twice", QuoteForMessage(target.service())));
      }
    }
    if (total == 0) report.Add("split", "has no weight above 0");
    if (total > std::numeric_limits<uint32_t>::max()) report.Add("split", "has weights whose sum is beyond 4294967295");
  }
  if (route.has_consul_service()) CheckConsulServiceRoute(report, route);
  if (route.has_rewrite()) CheckRewrite(report, route);
  if (route.has_redirect()) CheckRedirect(report, route);
  if (route.has_respond()) CheckRespond(report, route);
  if (route.has_redirect() || route.has_respond()) {
    const std::string_view what = route.has_redirect() ? "redirect" : "respond";
    const auto refuse = [&](bool given, std::string_view field) {
      if (given) report.Add(field, fmt::format("has no effect together with {}", what));
    };
    refuse(route.has_rewrite(), "rewrite");
    refuse(route.mirror_size() > 0, "mirror");
    refuse(route.upgrades_size() > 0, "upgrades");
    refuse(route.grpc_web(), "grpc_web");
    refuse(route.has_request_headers(), "request_headers");
    refuse(route.has_request_query(), "request_query");
  }
  if (route.has_canary()) CheckCanary(report, route);
  if (route.has_split_on()) {
    CheckHashOn(report, "split_on", route.split_on());
    if (route.split_size() == 0) report.Add("split_on", "needs a split");
  }
  const std::vector<std::string> variables = VariablesOf(route.match().path());
  CheckFieldEdits(report, "request_headers", route.request_headers(), variables);
  CheckFieldEdits(report, "response_headers", route.response_headers(), variables);
  CheckQueryEdits(report, route.request_query(), variables);
  CheckLimitList(report, route.rate_limits());
  for (int i = 0; i < route.upgrades_size(); ++i) {
    CheckEnum(report, At("upgrades", i), route.upgrades(i), v1::Route::Upgrade_IsValid);
    if (route.upgrades(i) == v1::Route::UPGRADE_UNSPECIFIED) report.Add(At("upgrades", i), "names no protocol");
  }
}

// Browsers ignore a CORS header with two values.
void CheckCorsAlone(const Report& report, const v1::Route& route, const v1::Defaults& defaults) {
  const std::string& cors = route.cors().empty() ? defaults.cors() : route.cors();
  if (cors.empty() || cors == kNone) return;
  const auto check = [&](std::string_view field, const auto& edits) {
    for (const auto& [name, value] : edits) {
      if (!absl::StartsWithIgnoreCase(name, "access-control-")) continue;
      report.Add(fmt::format("{}.{}", field, KeyInPath(name)),
                 fmt::format("is already set by Cors/{}: set it there, or give this route `cors: none`", cors));
    }
  };
  check("response_headers.set", route.response_headers().set());
  check("response_headers.add", route.response_headers().add());
  check("respond.headers", route.respond().headers());
}

void CheckReferences(const Report& report, const v1::Route& route, Compilation* compilation) {
  compilation->CheckReference<v1::Service>(report, "service", "service", route.service());
  for (int i = 0; i < route.split_size(); ++i) {
    compilation->CheckReference<v1::Service>(report, At("split", i, ".service"), "service", route.split(i).service());
  }
  for (int i = 0; i < route.mirror_size(); ++i) {
    compilation->CheckReference<v1::Service>(report, At("mirror", i, ".service"), "service", route.mirror(i).service());
  }
  CheckUpstreamReferences(report, "consul_service.template.", route.consul_service().template_(), compilation);
  CheckRouteReferences(report, route, compilation);
  CheckCorsAlone(report, route, compilation->defaults());
}

void CheckRegexBudget(Compilation* compilation) {
  const Documents<v1::Route> routes = compilation->All<v1::Route>();
  size_t regexes = 0;
  for (size_t i = 0; i < routes.size(); ++i) {
    const size_t matching = CountRegexes(routes[i].match());
    regexes += matching + static_cast<size_t>(routes[i].rewrite().has_regex());
    if (regexes > kRegexesMax) {
      const ResourceKey key{"Route", std::string(routes.name(i))};
      Report(key, &compilation->errors)
          .Add(matching > 0 ? "match" : "rewrite.regex",
               fmt::format("has one regex too many: all routes together may have {}", kRegexesMax));
      return;
    }
  }
}

void CheckCanaries(Compilation* compilation) {
  const Documents<v1::Route> routes = compilation->All<v1::Route>();
  size_t canaries = 0;
  for (size_t i = 0; i < routes.size(); ++i) {
    canaries += routes[i].has_canary() ? 1 : 0;
    if (canaries <= kCanariesMax) continue;
    const ResourceKey key{"Route", std::string(routes.name(i))};
    Report(key, &compilation->errors)
        .Add("canary", fmt::format("is one too many: all routes together may have {}", kCanariesMax));
    return;
  }
}

void CheckAll(Compilation* compilation) {
  CheckRegexBudget(compilation);
  CheckCanaries(compilation);
}

std::vector<FieldEdit> CompileEdits(const google::protobuf::Map<std::string, std::string>& map,
                                    const std::vector<std::string>& variables) {
  std::vector<FieldEdit> edits;
  for (const auto& [name, value] : map) {
    edits.push_back({.name = name, .value = ParseText(value, variables, true, kFieldValueBytesMax).value()});
  }
  // A map has no order, so edits are in the order of their names.
  std::sort(edits.begin(), edits.end(), [](const FieldEdit& a, const FieldEdit& b) { return a.name < b.name; });
  return edits;
}

std::unique_ptr<const FieldEditsPolicy> CompileFieldEdits(const v1::FieldEdits& edits,
                                                          const std::vector<std::string>& variables) {
  auto policy = std::make_unique<FieldEditsPolicy>();
  policy->remove.assign(edits.remove().begin(), edits.remove().end());
  policy->set = CompileEdits(edits.set(), variables);
  policy->add = CompileEdits(edits.add(), variables);
  if (policy->empty()) return nullptr;
  policy->IndexNames();
  return policy;
}

std::unique_ptr<const RespondPolicy> CompileRespond(const v1::Respond& respond,
                                                    const std::vector<std::string>& variables) {
  auto policy = std::make_unique<RespondPolicy>();
  if (respond.has_status()) policy->status = static_cast<int>(respond.status());
  policy->body = ParseText(respond.body(), variables, false, kRespondBodyBytesMax).value();
  policy->content_type = respond.content_type().empty() ? "text/plain; charset=utf-8" : respond.content_type();
  policy->headers = CompileEdits(respond.headers(), variables);
  return policy;
}

std::unique_ptr<RoutePolicy> CompileRoute(const v1::Route& route, const LimitIndices& limits,
                                          Compilation* compilation) {
  const v1::Defaults& defaults = compilation->defaults();
  const Documents<v1::Service> services = compilation->All<v1::Service>();
  auto policy = std::make_unique<RoutePolicy>();
  policy->name = route.name();
  std::vector<std::string> variables;
  const v1::PathMatch& path = route.match().path();
  switch (path.match_case()) {
    case v1::PathMatch::kExact:
      policy->pattern = path.exact();
      break;
    case v1::PathMatch::kPrefix:
      policy->pattern = path.prefix();
      break;
    case v1::PathMatch::kTemplate:
      policy->pattern = path.template_();
      variables = VariablesOf(path);
      break;
    case v1::PathMatch::kRegex:
      policy->pattern = path.regex();
      break;
    case v1::PathMatch::MATCH_NOT_SET:
      break;
  }
  auto variable_index = [&variables](std::string_view name) {
    return static_cast<int>(std::find(variables.begin(), variables.end(), name) - variables.begin());
  };

  if (!route.service().empty()) {
    policy->split.push_back({.service = services.IndexOf(route.service()), .upto = 1});
    policy->split_total = 1;
  }
  for (const v1::WeightedService& target : route.split()) {
    const uint32_t weight = target.has_weight() ? target.weight() : 1;
    if (weight == 0) continue;
    policy->split_total += weight;
    policy->split.push_back({.service = services.IndexOf(target.service()), .upto = policy->split_total});
  }
  if (route.has_consul_service()) {
    const v1::ConsulServiceRoute& config = route.consul_service();
    auto consul_service = std::make_unique<ConsulServicePolicy>();
    consul_service->variable = static_cast<uint32_t>(variable_index(config.from()));
    consul_service->allow.assign(config.allow().begin(), config.allow().end());
    consul_service->deny.assign(config.deny().begin(), config.deny().end());
    consul_service->own_service = compilation->options.own_service;
    ServicePolicy& service = consul_service->service;
    service.from_consul = true;
    service.tags = SortedTags(config.tags());
    service.on_suspect = OnSuspectOf(config.template_().on_suspect());
    CompileUpstream(config.template_(), *compilation, &service);
    policy->consul_service = std::move(consul_service);
  }

  if (route.has_split_on()) policy->split_on = CompileHashOn(route.split_on());
  if (route.has_redirect()) policy->redirect = CompileRedirect(route.redirect(), variables);
  if (route.has_respond()) policy->respond = CompileRespond(route.respond(), variables);
  policy->request_headers = CompileFieldEdits(route.request_headers(), variables);
  policy->response_headers = CompileFieldEdits(route.response_headers(), variables);
  policy->request_query = CompileFieldEdits(route.request_query(), variables);
  for (const v1::Mirror& mirror : route.mirror()) {
    const double percent = mirror.has_percent() ? mirror.percent() : 100;
    policy->mirrors.push_back({.service = services.IndexOf(mirror.service()),
                               .per_million = static_cast<uint32_t>(std::lround(percent * 10'000))});
  }
  policy->access = compilation->Referred<v1::IpAccess>(route.access(), defaults.access(), compilation->accesses);
  policy->cors = compilation->Referred<v1::Cors>(route.cors(), defaults.cors(), compilation->cors);
  policy->auth = compilation->Referred<v1::Auth>(route.auth(), defaults.auth(), compilation->auths);
  const v1::BodyLimits& body = route.has_body() ? route.body() : defaults.body();
  policy->bounds_body = body.has_max_bytes();
  policy->max_body_bytes = body.max_bytes();

  CompileRewrite(route.rewrite(), variables, policy.get());
  policy->timeout = kRouteTimeout;
  if (route.has_timeout()) {
    policy->timeout = ToMillis(route.timeout());
  } else if (defaults.has_timeout()) {
    policy->timeout = ToMillis(defaults.timeout());
  }
  if (route.has_max_duration()) policy->max_duration = ToMillis(route.max_duration());
  if (route.has_upgrade_idle_timeout()) policy->upgrade_idle_timeout = ToMillis(route.upgrade_idle_timeout());
  policy->grpc_web = route.grpc_web();
  policy->websocket = std::find(route.upgrades().begin(), route.upgrades().end(),
                                static_cast<int>(v1::Route::WEBSOCKET)) != route.upgrades().end();
  for (const std::string& name : route.rate_limits().empty() ? defaults.rate_limits() : route.rate_limits()) {
    if (name == kNone) continue;
    const auto limit = limits.find(name);
    if (limit == limits.end()) continue;  // disabled
    const bool needs_identity = compilation->rate_limits[limit->second].needs_identity;
    (needs_identity ? policy->identity_limits : policy->rate_limits).push_back(limit->second);
    if (needs_identity && policy->auth == nullptr) {
      compilation->warnings.push_back(fmt::format(
          "Route/{}: RateLimit/{} counts by consumer or claim, but the route has no auth: all of its requests share "
          "one bucket",
          route.name(), name));
    }
  }
  return policy;
}

void CompileRoutes(Compilation* compilation) {
  const Documents<v1::Route> all = compilation->All<v1::Route>();
  LimitIndices limits;
  for (uint32_t i = 0; i < compilation->rate_limits.size(); ++i) limits.emplace(compilation->rate_limits[i].name, i);
  std::vector<RouteTable::Entry> entries;
  entries.reserve(all.size());
  compilation->routes.reserve(all.size());
  std::deque<v1::Route> plain;  // of those that match gRPC
  for (size_t i = 0; i < all.size(); ++i) {
    const v1::Route* route = &all[i];
    if (route->match().has_grpc()) {
      plain.push_back(*route);
      *plain.back().mutable_match() = WithoutGrpc(route->match(), route->grpc_web());
      route = &plain.back();
    }
    auto policy = CompileRoute(*route, limits, compilation);
    WarnOfRedirect(*route, &compilation->warnings);
    policy->index = static_cast<uint32_t>(compilation->routes.size());
    entries.push_back({policy.get(), route});
    compilation->routes.push_back(std::move(policy));
  }
  compilation->table = RouteTable::Build(entries, &compilation->warnings);
  WarnOfOpenMethods(*compilation->table, entries, &compilation->warnings);
}

}  // namespace

Kind RouteKind() {
  return {
      .number = v1::Resource::kRoute,
      .short_names = {"rt"},
      .labels = [](const v1::Resource& resource) -> const Labels& { return resource.route().labels(); },
      .check = [](const Report& report, const v1::Resource& resource) { CheckRoute(report, resource.route()); },
      .check_references = [](const Report& report, const v1::Resource& resource,
                             Compilation* compilation) { CheckReferences(report, resource.route(), compilation); },
      .check_all = &CheckAll,
      .compile = &CompileRoutes,
  };
}

}  // namespace gateway
