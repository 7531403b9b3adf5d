#include "common/policy/kinds/auth.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "common/base/fetched_url.h"
#include "common/base/jwk.h"
#include "common/base/quote.h"
#include "common/base/units.h"
#include "common/config/codec.h"
#include "common/policy/kinds/kinds.h"
#include "common/policy/policy_texts.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {
namespace {

std::string KeyFieldOf(const v1::AuthMethod& method) {
  return method.api_key().header().empty() ? "X-API-Key" : method.api_key().header();
}

void CheckJwt(const Report& report, const std::string& field, const v1::JwtAuth& jwt) {
  const v1::Jwks& jwks = jwt.jwks();
  switch (jwks.source_case()) {
    case v1::Jwks::kFile:
      report.Add(field + ".jwks.file", "is read by gatewayctl, which puts its text in `inline`; send that");
      break;
    case v1::Jwks::kInline:
      report.AddIfBad(field + ".jwks.inline", CheckJwks(jwks.inline_()));
      if (jwks.has_refresh()) report.Add(field + ".jwks.refresh", "means something with url only");
      break;
    case v1::Jwks::kUrl:
      report.AddIfBad(field + ".jwks.url", CheckKeysUrl(jwks.url()));
      break;
    case v1::Jwks::SOURCE_NOT_SET:
      report.Add(field + ".jwks", "needs one of file, inline and url");
      break;
  }
  for (int i = 0; i < jwt.audiences_size(); ++i) {
    if (jwt.audiences(i).empty()) report.Add(At(field + ".audiences", i), "is empty");
  }
  for (const auto& [claim, value] : jwt.require()) {
    if (claim.empty() || value.empty()) report.Add(field + ".require", "has an empty claim or value");
  }
}

void CheckAuth(const Report& report, const v1::Auth& auth) {
  for (int i = 0; i < auth.methods_size(); ++i) {
    const v1::AuthMethod& method = auth.methods(i);
    const std::string field = At("methods", i);
    switch (method.method_case()) {
      case v1::AuthMethod::kApiKey:
        if (!method.api_key().header().empty()) {
          CheckFieldName(report, field + ".api_key.header", method.api_key().header());
          CheckRead(report, field + ".api_key.header", method.api_key().header());
        }
        break;
      case v1::AuthMethod::kJwt:
        CheckJwt(report, field + ".jwt", method.jwt());
        break;
      case v1::AuthMethod::kBasic:
        if (method.basic().realm().size() > 256 || method.basic().realm().find_first_of("\"\\") != std::string::npos) {
          report.Add(field + ".basic.realm", "is longer than 256 bytes, or has a quote or a backslash");
        }
        CheckPlainText(report, field + ".basic.realm", method.basic().realm());
        break;
      case v1::AuthMethod::kClientCertificate:
        CheckEnum(report, field + ".client_certificate.identity", method.client_certificate().identity(),
                  v1::ClientCertificateAuth::Identity_IsValid);
        break;
      case v1::AuthMethod::METHOD_NOT_SET:
        report.Add(field, "is empty; expected api_key, jwt, basic or client_certificate");
        break;
    }
  }
  const v1::AuthForward& forward = auth.forward();
  CheckEnum(report, "forward.credentials", forward.credentials(), v1::AuthForward::Credentials_IsValid);
  // A client's own headers of these names are removed everywhere, so they must not be headers that clients need.
  const auto check_forwarded = [&](const std::string& field, const std::string& name) {
    CheckFieldName(report, field, name);
    const std::string lower = absl::AsciiStrToLower(name);
    const bool is_key = std::any_of(auth.methods().begin(), auth.methods().end(), [&](const v1::AuthMethod& method) {
      return method.has_api_key() && FoldField(name) == FoldField(KeyFieldOf(method));
    });
    const bool certificate = field == "forward.client_certificate";
    if (certificate && IsCertificateField(lower) && lower != "client-cert-chain" && lower == FoldField(lower)) return;
    if (is_key || IsCertificateField(name) || lower == "authorization" || lower == "cookie" ||
        lower == "x-request-id" || lower == "forwarded" || lower.starts_with("x-forwarded-") ||
        lower.starts_with("x-gateway-")) {
      report.Add(field, fmt::format("{} is what requests need for other things", QuoteForMessage(name)));
    }
  };
  if (!forward.consumer().empty()) check_forwarded("forward.consumer", forward.consumer());
  if (!forward.groups().empty()) check_forwarded("forward.groups", forward.groups());
  if (!forward.client_certificate().empty())
    check_forwarded("forward.client_certificate", forward.client_certificate());
  for (const auto& [name, claim] : forward.claims()) {
    check_forwarded(fmt::format("forward.claims.{}", KeyInPath(name)), name);
    if (claim.empty()) report.Add(fmt::format("forward.claims.{}", KeyInPath(name)), "names no claim");
  }
}

void CheckAuthReferences(const Report& report, const v1::Auth& auth, Compilation* compilation) {
  for (int i = 0; i < auth.allow().consumers_size(); ++i) {
    compilation->CheckReference<v1::Consumer>(report, At("allow.consumers", i), "consumer", auth.allow().consumers(i));
  }
}

// A field, folded -> the name of the Auth that forwards as it.
using Forwarded = absl::flat_hash_map<std::string, std::string_view>;

Forwarded IndexForwarded(const Documents<v1::Auth>& auths) {
  Forwarded forwarded;
  for (size_t i = 0; i < auths.size(); ++i) {
    const auto add = [&forwarded, name = auths.name(i)](const std::string& field) {
      if (!field.empty()) forwarded.emplace(FoldField(field), name);
    };
    add(auths[i].forward().consumer());
    add(auths[i].forward().groups());
    add(auths[i].forward().client_certificate());
    for (const auto& [field, claim] : auths[i].forward().claims()) add(field);
  }
  return forwarded;
}

// Requests lose what any Auth forwards as, before this one looks for its keys.
void CheckKeyFields(const Report& report, const v1::Auth& auth, const Forwarded& forwarded) {
  for (int i = 0; i < auth.methods_size(); ++i) {
    if (!auth.methods(i).has_api_key()) continue;
    const std::string header = KeyFieldOf(auth.methods(i));
    const auto found = forwarded.find(FoldField(header));
    // (The Auth's own are reported by CheckAuth.)
    if (found == forwarded.end() || found->second == auth.name()) continue;
    report.Add(At("methods", i, ".api_key.header"),
               fmt::format("{} is removed from every request: Auth/{} tells services its callers in it",
                           QuoteForMessage(header), found->second));
  }
}

void CheckAuths(Compilation* compilation) {
  const Forwarded forwarded = IndexForwarded(compilation->All<v1::Auth>());
  for (const v1::Resource* resource : compilation->resources) {
    if (!resource->has_auth()) continue;
    const ResourceKey key = KeyOf(*resource);
    CheckKeyFields(Report(key, &compilation->errors), resource->auth(), forwarded);
  }
}

std::shared_ptr<const AuthPolicy> CompileAuth(const v1::Auth& auth) {
  auto policy = std::make_shared<AuthPolicy>();
  policy->name = auth.name();
  for (const v1::AuthMethod& method : auth.methods()) {
    AuthMethodPolicy& built = policy->methods.emplace_back();
    if (method.has_api_key()) {
      built.kind = AuthMethodPolicy::Kind::kApiKey;
      built.header = KeyFieldOf(method);
    } else if (method.has_basic()) {
      built.kind = AuthMethodPolicy::Kind::kBasic;
      built.realm = method.basic().realm().empty() ? "gateway" : method.basic().realm();
    } else if (method.has_client_certificate()) {
      built.kind = AuthMethodPolicy::Kind::kClientCertificate;
      built.identity = method.client_certificate().identity();
    } else {
      const v1::JwtAuth& jwt = method.jwt();
      built.kind = AuthMethodPolicy::Kind::kJwt;
      built.issuer = jwt.issuer();
      built.audiences.assign(jwt.audiences().begin(), jwt.audiences().end());
      built.jwks_inline = jwt.jwks().inline_();
      built.jwks_url = jwt.jwks().url();
      if (jwt.jwks().has_refresh()) built.jwks_refresh = ToMillis(jwt.jwks().refresh());
      built.require.assign(jwt.require().begin(), jwt.require().end());
      std::sort(built.require.begin(), built.require.end());
      if (jwt.has_leeway()) built.leeway = ToMillis(jwt.leeway());
      built.groups_claim = jwt.groups_claim().empty() ? "groups" : jwt.groups_claim();
      built.consumer_claim = jwt.consumer_claim().empty() ? "sub" : jwt.consumer_claim();
    }
  }
  policy->allow_groups.assign(auth.allow().groups().begin(), auth.allow().groups().end());
  policy->allow_consumers.assign(auth.allow().consumers().begin(), auth.allow().consumers().end());
  std::sort(policy->allow_groups.begin(), policy->allow_groups.end());
  std::sort(policy->allow_consumers.begin(), policy->allow_consumers.end());
  policy->forward_consumer = auth.forward().consumer();
  policy->forward_groups = auth.forward().groups();
  policy->forward_client_certificate = auth.forward().client_certificate();
  policy->forward_claims.assign(auth.forward().claims().begin(), auth.forward().claims().end());
  std::sort(policy->forward_claims.begin(), policy->forward_claims.end());
  policy->keep_credentials = auth.forward().credentials() == v1::AuthForward::KEEP;
  return policy;
}

void CompileIdentityFields(Compilation* compilation) {
  std::vector<std::string>& fields = compilation->identity_fields;
  const auto add = [&fields](const std::string& name) {
    if (!name.empty()) fields.push_back(absl::AsciiStrToLower(name));
  };
  for (const std::shared_ptr<const AuthPolicy>& auth : compilation->auths) {
    add(auth->forward_consumer);
    add(auth->forward_groups);
    add(auth->forward_client_certificate);
    for (const auto& [field, claim] : auth->forward_claims) add(field);
  }
  std::sort(fields.begin(), fields.end());
  fields.erase(std::unique(fields.begin(), fields.end()), fields.end());
}

void CompileAuths(Compilation* compilation) {
  const Documents<v1::Auth> all = compilation->All<v1::Auth>();
  for (size_t i = 0; i < all.size(); ++i) compilation->auths.push_back(CompileAuth(all[i]));
  CompileIdentityFields(compilation);
}

}  // namespace

bool HoldsCredentials(const Documents<v1::Auth>& auths, std::string_view name) {
  for (size_t i = 0; i < auths.size(); ++i) {
    for (const v1::AuthMethod& method : auths[i].methods()) {
      if (method.has_client_certificate()) continue;
      if (name == (method.has_api_key() ? absl::AsciiStrToLower(KeyFieldOf(method)) : "authorization")) return true;
    }
  }
  return false;
}

Kind AuthKind() {
  return {
      .number = v1::Resource::kAuth,
      .labels = [](const v1::Resource& resource) -> const Labels& { return resource.auth().labels(); },
      .check = [](const Report& report, const v1::Resource& resource) { CheckAuth(report, resource.auth()); },
      .check_references = [](const Report& report, const v1::Resource& resource,
                             Compilation* compilation) { CheckAuthReferences(report, resource.auth(), compilation); },
      .check_all = &CheckAuths,
      .compile = &CompileAuths,
  };
}

}  // namespace gateway
