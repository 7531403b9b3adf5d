// Everything about one resource.
#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "tools/gatewayctl/format.h"
#include "tools/gatewayctl/render_text.h"

namespace gateway::ctl {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

void CollectReferences(const Message& message, std::vector<ResourceKey>* found) {
  const auto* r = message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  r->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    if (field->is_map()) continue;
    const int count = field->is_repeated() ? r->FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        CollectReferences(
            field->is_repeated() ? r->GetRepeatedMessage(message, field, i) : r->GetMessage(message, field), found);
        continue;
      }
      if (field->cpp_type() != FieldDescriptor::CPPTYPE_STRING) continue;
      const std::string& kind = field->options().GetExtension(v1::rules).reference();
      if (kind.empty()) continue;
      ResourceKey key{kind,
                      field->is_repeated() ? r->GetRepeatedString(message, field, i) : r->GetString(message, field)};
      if (key.name.empty() || key.name == kNone) continue;
      if (std::find(found->begin(), found->end(), key) == found->end()) found->push_back(std::move(key));
    }
  }
}

std::string EndpointsText(const v1::Service& service, const v1::ListEndpointsResponse& all, absl::Time now) {
  const std::vector<EndpointRow> rows = RowsOf(service, all, now);
  std::vector<std::string> addresses;
  for (const EndpointRow& row : rows) {
    if (row.serving) addresses.push_back(row.address);
  }
  return absl::StrCat(CountServing(rows), " of ", rows.size(), " endpoints serving",
                      addresses.empty() ? "" : absl::StrCat(": ", JoinSome(addresses)));
}

// A setting and whose it is, where the document itself says nothing.
template <typename List>
std::string LimitsText(const List& own, const v1::Defaults* defaults) {
  const bool inherited = own.empty();
  if (inherited && (defaults == nullptr || defaults->rate_limits().empty())) return kNone;
  const auto& list = inherited ? defaults->rate_limits() : own;
  return absl::StrCat(absl::StrJoin(list, ", "), inherited ? "  (Defaults/default)" : "");
}

std::string BreakerText(const std::string& own, const v1::Defaults* defaults) {
  if (!own.empty()) return own;
  if (defaults == nullptr || defaults->circuit_breaker().empty()) return kNone;
  return absl::StrCat(defaults->circuit_breaker(), "  (Defaults/default)");
}

void DescribeRoute(const v1::Route& route, const Description& d, const v1::Defaults* defaults, absl::Time now,
                   std::string* out) {
  *out += "\nServes\n";
  const v1::RouteMatch& match = route.match();
  AppendFact(out, "Hosts", match.hosts().empty() ? "any" : absl::StrJoin(match.hosts(), ", "));
  AppendFact(out, "Methods", match.methods().empty() ? "any" : absl::StrJoin(match.methods(), ", "));
  AppendFact(out, "Path", PathText(match));
  if (const std::vector<std::string> conditions = ConditionsOf(match); !conditions.empty()) {
    AppendFact(out, "Conditions", absl::StrJoin(conditions, ", "));
  }
  std::string label = "To";
  if (route.has_consul_service()) {
    const v1::ConsulServiceRoute& consul = route.consul_service();
    AppendFact(
        out, label,
        absl::StrCat("the service of Consul named by {", consul.from(),
                     "}; allowed: ", consul.allow().empty() ? "none" : absl::StrJoin(consul.allow(), ", "),
                     consul.deny().empty() ? "" : absl::StrCat("; denied: ", absl::StrJoin(consul.deny(), ", "))));
    AppendFact(out, "Breaker", BreakerText(consul.template_().circuit_breaker(), defaults));
  }
  for (const auto& [name, share] : TargetsOf(ServedNow(d.stored))) {
    const v1::StoredResource* service = Find({"Service", name}, d.all);
    std::string text = absl::StrCat(Percent(share), " Service/", name);
    if (service == nullptr) {
      absl::StrAppend(&text, ": not defined");
    } else {
      absl::StrAppend(&text, ": ", EndpointsText(service->resource().service(), d.endpoints, now),
                      "; breaker: ", BreakerText(service->resource().service().circuit_breaker(), defaults));
    }
    AppendFact(out, label, text);
    label.clear();
  }
  std::string timeout = DurationOr(route.has_timeout(), route.timeout(), "");
  if (timeout.empty()) {
    timeout = defaults != nullptr && defaults->has_timeout()
                  ? absl::StrCat(FormatDuration(defaults->timeout()), "  (Defaults/default)")
                  : "30s  (built-in)";
  }
  AppendFact(out, "Timeout", timeout);
  AppendFact(out, "Rate limits", LimitsText(route.rate_limits(), defaults));
  if (!d.stored.has_canary()) return;
  AppendFact(out, "Canary", CanaryText(d.stored, now));
  const std::vector<std::string> lines = absl::StrSplit(CanaryEvents(d.stored.canary(), now), '\n', absl::SkipEmpty());
  *out += "\nSteps\n";
  for (const std::string& line : lines) absl::StrAppend(out, "  ", line, "\n");
}

void DescribeService(const v1::Service& service, const Description& d, const v1::Defaults* defaults, absl::Time now,
                     std::string* out) {
  *out += "\nServes\n";
  const std::vector<EndpointRow> rows = RowsOf(service, d.endpoints, now);
  if (service.has_consul()) {
    AppendFact(out, "Source", ServiceSource(service));
    AppendFact(out, "State", SetState(SetOf(service.consul(), d.endpoints.sets()), CountServing(rows)));
  } else {
    AppendFact(out, "Source", "static");
  }
  AppendFact(out, "Balancer", BalancerOf(service.load_balancer()));
  if (service.protocol() == v1::Service::HTTP2) AppendFact(out, "Protocol", "HTTP/2");
  if (service.protocol() == v1::Service::AUTO) AppendFact(out, "Protocol", "HTTP/2 or HTTP/1.1, by ALPN");
  AppendFact(out, "Breaker", BreakerText(service.circuit_breaker(), defaults));
  *out += "\nEndpoints\n";
  if (rows.empty()) {
    *out += "  none\n";
    return;
  }
  std::vector<std::string> lines = absl::StrSplit(RenderEndpoints(rows), '\n', absl::SkipEmpty());
  for (const std::string& line : lines) absl::StrAppend(out, "  ", line, "\n");
}

void DescribeAcme(const v1::StoredResource& stored, absl::Time now, std::string* out) {
  const v1::AcmeState& state = stored.acme();
  const std::string expiry = ExpiryText(stored.resource().certificate());
  const bool pending = expiry == "pending";
  AppendFact(out, "Certificate", pending ? "not issued yet" : absl::StrCat("valid until ", expiry));
  std::string renewal = RenewalCell(stored, now);
  if (state.has_next_try()) absl::StrAppend(&renewal, " (", FormatTime(state.next_try()), ")");
  AppendFact(out, pending ? "Order" : "Renewal", renewal);
  if (state.last_error().empty()) return;
  AppendFact(out, "Last error",
             absl::StrCat(Printable(state.last_error()), " (", FormatAge(state.last_error_at(), now), " ago)"));
}

void DescribeConsumer(const v1::Consumer& consumer, const Description& d, std::string* out) {
  *out += "\nAdmitted by\n";
  const std::vector<Admission> admissions = AdmissionsOf(consumer, d.all);
  for (const Admission& admission : admissions) {
    absl::StrAppend(out, "  Auth/", Printable(admission.auth), " through ", absl::StrJoin(admission.methods, ", "),
                    ": ", Printable(admission.because),
                    "; routes: ", admission.routes.empty() ? kNone : Printable(JoinSome(admission.routes)), "\n");
  }
  if (admissions.empty()) *out += "  nothing\n";
}

void AppendKeys(const std::string& title, const std::vector<ResourceKey>& keys, std::span<const v1::StoredResource> all,
                std::string* out) {
  absl::StrAppend(out, "\n", title, "\n");
  for (const ResourceKey& key : keys) {
    const v1::StoredResource* stored = Find(key, all);
    absl::StrAppend(out, "  ", key.ToString(),
                    stored == nullptr    ? "  (not defined)"
                    : stored->built_in() ? "  (built-in)"
                                         : "",
                    "\n");
  }
  if (keys.empty()) *out += "  none\n";
}

}  // namespace

std::vector<ResourceKey> ReferencesOf(const v1::Resource& resource) {
  std::vector<ResourceKey> found;
  if (const Message* body = BodyOf(resource); body != nullptr) CollectReferences(*body, &found);
  return found;
}

std::vector<ResourceKey> ReferrersOf(const ResourceKey& key, std::span<const v1::StoredResource> all) {
  std::vector<ResourceKey> found;
  for (const v1::StoredResource& stored : all) {
    const std::vector<ResourceKey> references = ReferencesOf(stored.resource());
    if (std::find(references.begin(), references.end(), key) != references.end()) {
      found.push_back(KeyOf(stored.resource()));
    }
  }
  return found;
}

std::vector<Admission> AdmissionsOf(const v1::Consumer& consumer, std::span<const v1::StoredResource> all) {
  const v1::StoredResource* stored = Find({"Defaults", "default"}, all);
  const std::string by_default = stored == nullptr ? "" : stored->resource().defaults().auth();
  std::vector<Admission> admissions;
  for (const v1::StoredResource& each : all) {
    if (!each.resource().has_auth()) continue;
    const v1::Auth& auth = each.resource().auth();
    Admission admission{.auth = auth.name(), .methods = {}, .because = "any consumer is admitted", .routes = {}};
    for (const v1::AuthMethod& method : auth.methods()) {
      const bool has = std::any_of(
          consumer.credentials().begin(), consumer.credentials().end(), [&method](const v1::Credential& credential) {
            return (method.has_api_key() && credential.credential_case() == v1::Credential::kApiKeySha256) ||
                   (method.has_basic() && credential.has_basic()) ||
                   (method.has_client_certificate() && credential.has_client_certificate()) ||
                   (method.has_jwt() && credential.has_jwt() && credential.jwt().issuer() == method.jwt().issuer());
          });
      if (!has) continue;
      admission.methods.push_back(method.has_api_key()              ? "api_key"
                                  : method.has_jwt()                ? absl::StrCat("jwt of ", method.jwt().issuer())
                                  : method.has_client_certificate() ? "client_certificate"
                                                                    : "basic");
    }
    if (admission.methods.empty()) continue;
    if (auth.allow().groups_size() + auth.allow().consumers_size() > 0) {
      const auto& named = auth.allow().consumers();
      const auto group =
          std::find_if(auth.allow().groups().begin(), auth.allow().groups().end(), [&](const auto& name) {
            return std::find(consumer.groups().begin(), consumer.groups().end(), name) != consumer.groups().end();
          });
      if (std::find(named.begin(), named.end(), consumer.name()) != named.end()) {
        admission.because = "it is named";
      } else if (group != auth.allow().groups().end()) {
        admission.because = absl::StrCat("group ", *group);
      } else {
        continue;
      }
    }
    for (const v1::StoredResource& other : all) {
      if (!other.resource().has_route()) continue;
      const v1::Route& route = other.resource().route();
      if ((route.auth().empty() ? by_default : route.auth()) == auth.name()) admission.routes.push_back(route.name());
    }
    admissions.push_back(std::move(admission));
  }
  return admissions;
}

std::string RenderDescription(const Description& d, absl::Time now) {
  const ResourceKey key = KeyOf(d.stored.resource());
  std::string out = absl::StrCat(key.ToString(), "\n");
  std::string revision = absl::StrCat(d.stored.revision(), d.stored.built_in() ? ", built-in" : "");
  if (d.stored.has_changed_at()) {
    absl::StrAppend(&revision, ", changed ", FormatAge(d.stored.changed_at(), now), " ago (",
                    FormatTime(d.stored.changed_at()), ")");
  }
  AppendFact(&out, "Revision", revision);
  if (d.last_change.has_value()) {
    AppendFact(&out, "Changed by",
               absl::StrCat(d.last_change->actor(),
                            d.last_change->comment().empty() ? "" : absl::StrCat(": ", d.last_change->comment())));
  }
  if (!LabelsOf(d.stored.resource()).empty()) AppendFact(&out, "Labels", LabelsText(d.stored.resource()));

  const v1::StoredResource* stored_defaults = Find({"Defaults", "default"}, d.all);
  const v1::Defaults* defaults = stored_defaults == nullptr ? nullptr : &stored_defaults->resource().defaults();
  if (d.stored.resource().has_route()) DescribeRoute(d.stored.resource().route(), d, defaults, now, &out);
  if (d.stored.resource().has_consumer()) DescribeConsumer(d.stored.resource().consumer(), d, &out);
  if (d.stored.has_acme()) DescribeAcme(d.stored, now, &out);
  if (d.stored.resource().has_service()) DescribeService(d.stored.resource().service(), d, defaults, now, &out);
  AppendKeys("Refers to", ReferencesOf(d.stored.resource()), d.all, &out);
  AppendKeys("Referred to by", ReferrersOf(key, d.all), d.all, &out);
  std::string document = EncodeResource(d.stored.resource());
  document.erase(document.find_last_not_of('\n') + 1);
  absl::StrAppend(&out, "\nDocument\n  ", absl::StrReplaceAll(document, {{"\n", "\n  "}}), "\n");
  return out;
}

}  // namespace gateway::ctl
