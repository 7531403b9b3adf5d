#include "dataplane/state/auth_binding.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <string_view>
#include <utility>

#include "common/base/digest.h"

namespace gateway::dataplane {
namespace {

JwtRules RulesOf(const AuthMethodPolicy& method) {
  JwtRules rules;
  rules.issuer = method.issuer;
  rules.audiences = method.audiences;
  rules.require = method.require;
  rules.leeway = std::chrono::duration_cast<std::chrono::seconds>(method.leeway);
  rules.groups_claim = method.groups_claim;
  return rules;
}

// Tokens that were verified under other rules, or with keys from elsewhere, are verified again.
Digest MeaningOf(const AuthMethodPolicy& method) {
  std::string meaning;
  const auto add = [&meaning](std::string_view part) {
    meaning.append(std::to_string(part.size())).append(":").append(part);
  };
  for (const std::string& part : {method.issuer, method.jwks_url, method.jwks_inline, method.groups_claim,
                                  method.consumer_claim, std::to_string(method.leeway.count())}) {
    add(part);
  }
  for (const std::string& audience : method.audiences) add(audience);
  add("");
  for (const auto& [claim, value] : method.require) {
    add(claim);
    add(value);
  }
  return Sha256(meaning);
}

}  // namespace

std::shared_ptr<KeySource> AuthBinder::GetOrCreateKeys(const AuthMethodPolicy& method, uint64_t generation) {
  if (!method.jwks_url.empty()) return fetcher_.Find(method.jwks_url, method.jwks_refresh);
  Kept<std::shared_ptr<KeySource>>& kept = inline_keys_[Hex(Sha256(method.jwks_inline))];
  kept.generation = generation;
  if (kept.value == nullptr) {
    absl::StatusOr<JwkSet> keys = ParseJwks(method.jwks_inline);
    // The snapshot was checked; an empty set accepts no token.
    kept.value = std::make_shared<KeySource>(std::make_shared<const JwkSet>(keys.ok() ? *std::move(keys) : JwkSet()));
  }
  return kept.value;
}

std::shared_ptr<const BoundAuth> AuthBinder::Bind(const std::shared_ptr<const AuthPolicy>& policy,
                                                  uint64_t generation) {
  auto bound = std::make_shared<BoundAuth>();
  bound->policy = policy;
  bound->fetcher = &fetcher_;
  Kept<std::shared_ptr<AuthRuntime>>& runtime = auths_[policy->name];
  runtime.generation = generation;
  if (runtime.value == nullptr) runtime.value = std::make_shared<AuthRuntime>(policy->name);
  bound->runtime = runtime.value;
  for (const auto kind : {AuthMethodPolicy::Kind::kClientCertificate, AuthMethodPolicy::Kind::kApiKey,
                          AuthMethodPolicy::Kind::kJwt, AuthMethodPolicy::Kind::kBasic}) {
    for (const AuthMethodPolicy& method : policy->methods) {
      if (method.kind != kind) continue;
      BoundAuthMethod& made = bound->methods.emplace_back();
      made.policy = &method;
      made.folded_header = method.header;
      for (char& c : made.folded_header) c = c == '_' ? '-' : c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
      if (kind == AuthMethodPolicy::Kind::kBasic) bound->takes_basic = true;
      if (kind == AuthMethodPolicy::Kind::kClientCertificate) bound->takes_certificate = true;
      if (kind != AuthMethodPolicy::Kind::kJwt) continue;
      made.rules = RulesOf(method);
      made.keys = GetOrCreateKeys(method, generation);
      made.meaning = MeaningOf(method);
    }
  }
  return bound;
}

void AuthBinder::DropOlder(uint64_t generation) {
  dataplane::DropOlder(auths_, generation);
  dataplane::DropOlder(inline_keys_, generation);
}

std::vector<std::shared_ptr<const AuthRuntime>> AuthBinder::auths() const {
  std::vector<std::shared_ptr<const AuthRuntime>> all;
  for (const auto& [name, kept] : auths_) all.push_back(kept.value);
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a->name() < b->name(); });
  return all;
}

}  // namespace gateway::dataplane
