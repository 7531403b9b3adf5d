// Who calls: the stage of an exchange between the limits that need no identity and those that do.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "common/base/text.h"
#include "dataplane/auth/authorization.h"
#include "dataplane/auth/certificate_fields.h"
#include "dataplane/http/http1/head.h"
#include "dataplane/net/arrival.h"
#include "dataplane/proxy/exchange.h"

namespace gateway::dataplane {
namespace {

constexpr size_t kTokenMethodsInline = 4;  // of an Auth, without an allocation

// A method whose keys, as of a generation, lack the one that a token names.
struct Lacking {
  const BoundAuthMethod* method;
  uint64_t seen;
};

// Asks for newer keys of all of `lacking` at once and waits until the first fetch has ended: that method is given,
// since another may be far from its end. Null, at once: newer ones are there already, or nowhere to be had. Leaves
// those of which there are newer ones, or will be.
Task<const BoundAuthMethod*> AwaitNewerKeys(EventLoop* loop, KeyFetcher* fetcher, std::vector<Lacking>* lacking) {
  const auto arrival = std::make_shared<Arrival<const BoundAuthMethod*>>(loop);
  bool there = false;
  std::erase_if(*lacking, [&](const Lacking& each) {
    const auto deliver = [arrival, method = each.method] { arrival->Deliver(method); };
    const KeyFetcher::Refreshed refreshed = fetcher->Refresh(*each.method->keys, each.seen, deliver);
    there = there || refreshed == KeyFetcher::Refreshed::kThere;
    return refreshed == KeyFetcher::Refreshed::kTooSoon;
  });
  if (there || lacking->empty()) co_return nullptr;
  Arrival<const BoundAuthMethod*>::Wait wait(arrival);
  const BoundAuthMethod* first = co_await wait;
  co_return first;
}

}  // namespace

IdentityFields::IdentityFields(std::span<const std::string> names) {
  for (std::string name : names) {
    std::replace(name.begin(), name.end(), '_', '-');
    if (http::ClassifyField(name) == http::FieldKind::kIdentity) continue;
    sizes_.set(std::min(name.size(), sizes_.size() - 1));
    names_.push_back(std::move(name));
  }
}

bool IdentityFields::Has(std::string_view name) const {
  return sizes_.test(std::min(name.size(), sizes_.size() - 1)) &&
         std::any_of(names_.begin(), names_.end(),
                     [name](const std::string& known) { return http1::EqualsFolded(name, known); });
}

// Before anything looks at the request's fields: what a client says of its identity is no condition, no limit's key,
// and nothing that a service hears.
void Exchange::RemoveIdentityFields() {
  const IdentityFields& named = (*state_)->identity_fields;
  size_t kept = 0;
  for (size_t i = 0; i < head_.fields.size(); ++i) {
    if (head_.kinds[i] == http::FieldKind::kIdentity || (!named.empty() && named.Has(head_.fields[i].name))) continue;
    if (kept != i) {
      head_.fields[kept] = head_.fields[i];
      head_.kinds[kept] = head_.kinds[i];
    }
    ++kept;
  }
  head_.fields.resize(kept);
  head_.kinds.resize(kept);
}

// Its value where the request has it once; of several nobody knows which one counts.
std::string_view Exchange::FindSingleField(std::string_view name) const {
  std::string_view value;
  bool found = false;
  for (const FieldView& field : head_.fields) {
    if (!http1::EqualsIgnoreCase(field.name, name)) continue;
    if (found) return {};
    found = true;
    value = field.value;
  }
  return value;
}

// Whether `allow` lets in who was found.
bool Exchange::IsAllowed(const AuthPolicy& auth) const {
  if (auth.allow_groups.empty() && auth.allow_consumers.empty()) return true;
  const auto has = [](const std::vector<std::string>& sorted, const std::string& name) {
    return std::binary_search(sorted.begin(), sorted.end(), name);
  };
  const auto any_allowed = [&](const std::vector<std::string>& groups) {
    return std::any_of(groups.begin(), groups.end(),
                       [&](const std::string& group) { return has(auth.allow_groups, group); });
  };
  if (caller_ != nullptr && (has(auth.allow_consumers, caller_->name) || any_allowed(caller_->groups))) return true;
  return token_ != nullptr && any_allowed(token_->claims.groups);
}

std::string_view Exchange::ClaimOf(std::string_view name) const {
  return token_ == nullptr ? std::string_view() : token_->claims.Find(name);
}

// Whether the connection was made for another host than the request's, where that host's callers are known by their
// certificates: what the client was willing to show to one name says nothing to another (RFC 9110, section 15.5.20).
bool Exchange::IsMisdirected() const {
  if (!route_->auth->takes_certificate) return false;
  const http::TlsInfo* const tls = stream_.connection().tls;
  return tls != nullptr && tls->asks_certificate && !tls->server_name.empty() && !host_.empty() &&
         tls->server_name != host_;
}

// The Consumer that the client's certificate is of; `tried` of its identities are passed over, and counted. Null: none
// is left.
const ConsumerPolicy* Exchange::FindCertificateHolder(const AuthMethodPolicy& method, size_t* tried) const {
  const http::ClientCertificate& certificate = *stream_.connection().tls->certificate;
  const ConsumerTable& consumers = *(*state_)->snapshot->consumers();
  std::span<const std::string> identities;
  bool folded = false;  // the certificate's is in lower case
  switch (method.identity) {
    case v1::ClientCertificateAuth::SAN_DNS:
      identities = certificate.san_dns_names;
      folded = true;
      break;
    case v1::ClientCertificateAuth::SAN_EMAIL:
      identities = certificate.san_emails;
      break;
    case v1::ClientCertificateAuth::SUBJECT_CN:
      identities = {&certificate.common_name, 1};
      break;
    case v1::ClientCertificateAuth::FINGERPRINT:
      identities = {&certificate.fingerprint, 1};
      folded = true;
      break;
    default:
      identities = certificate.san_uris;
      break;
  }
  while (*tried < identities.size()) {
    const std::string& identity = identities[(*tried)++];
    const auto& table = folded ? consumers.by_folded_certificate : consumers.by_certificate;
    const auto found = table.find(identity);
    if (found != table.end()) return &consumers.consumers[found->second];
  }
  return nullptr;
}

// Any method that lets the request in does; those that cost least are asked first. Nothing is waited for before every
// method has been tried, so an issuer whose keys can't be had keeps nobody waiting but those who need them.
Task<Reason> Exchange::Authenticate() {
  const BoundAuth& auth = *route_->auth;
  const ConsumerTable& consumers = *(*state_)->snapshot->consumers();
  const Authorization offered = ParseAuthorization(FindSingleField("Authorization"));
  bool known = false;       // somebody, whom it does not let in
  bool overloaded = false;  // nobody has looked
  bool throttled = false;   // nobody looks: too many passwords of this client were wrong
  const char* why = "no credentials";
  const auto lets_in = [&](const ConsumerPolicy* caller, std::shared_ptr<const VerifiedToken> token) {
    caller_ = caller;
    token_ = std::move(token);
    consumer_ = {};
    if (caller_ != nullptr) {
      consumer_ = caller_->name;
    } else if (!consumers.by_name.contains(token_->subject)) {
      // (No token takes a consumer's name unless that consumer says so.)
      consumer_ = token_->subject;
    }
    if (IsAllowed(*auth.policy)) {
      auth.runtime->Count(worker_->index(), AuthResult::kAllowed);
      return true;
    }
    known = true;
    why = "allow names neither its consumer nor any of its groups";
    return false;
  };
  const auto note = [&](const BoundAuthMethod& method, JwtRefusal refusal) {
    token_refusal_ = refusal;
    if (refusal == JwtRefusal::kClaims) known = true;
    why = refusal == JwtRefusal::kUnknownKey && method.keys->generation() == 0
              ? "the issuer's keys could not be fetched yet"
              : MessageOf(refusal).data();
  };

  absl::InlinedVector<const BoundAuthMethod*, kTokenMethodsInline> of_tokens;
  for (const BoundAuthMethod& method : auth.methods) {
    switch (method.policy->kind) {
      case AuthMethodPolicy::Kind::kClientCertificate: {
        const http::TlsInfo* const tls = stream_.connection().tls;
        if (tls == nullptr || tls->certificate == nullptr) continue;
        why = "the client certificate is no Consumer's";
        size_t tried = 0;
        while (const ConsumerPolicy* holder = FindCertificateHolder(*method.policy, &tried)) {
          if (lets_in(holder, nullptr)) co_return Reason::kNone;
        }
        break;
      }
      case AuthMethodPolicy::Kind::kApiKey: {
        const std::string_view key = FindSingleField(method.policy->header);
        if (key.empty()) continue;
        // A map's lookup is not constant in time; what it tells is of a digest whose preimage nobody can choose.
        const Digest digest = Sha256(key);
        const auto found = consumers.by_key_digest.find(
            absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
        if (found == consumers.by_key_digest.end()) {
          why = "the API key is unknown";
          continue;
        }
        if (lets_in(&consumers.consumers[found->second], nullptr)) co_return Reason::kNone;
        break;
      }
      case AuthMethodPolicy::Kind::kJwt:
        if (offered.scheme != AuthScheme::kBearer || offered.credentials.empty()) continue;
        // What was verified before costs a lookup, whichever method did; the others are tried below.
        if (auto token = worker_->tokens().Find({method.meaning, offered.credentials}, method.keys->generation(),
                                                loop().wall_now())) {
          if (lets_in(FindConsumerOf(*method.policy, *token), token)) co_return Reason::kNone;
        } else {
          of_tokens.push_back(&method);
        }
        break;
      case AuthMethodPolicy::Kind::kBasic: {
        if (offered.scheme != AuthScheme::kBasic || offered.credentials.empty()) continue;
        const ConsumerPolicy* caller = nullptr;
        const PasswordPool::Answer answer = co_await CheckPassword(offered.credentials, &caller);
        if (answer == PasswordPool::Answer::kOverloaded) overloaded = true;
        if (answer == PasswordPool::Answer::kTooManyFailures) throttled = true;
        if (answer != PasswordPool::Answer::kGood) {
          why = "the user name or the password is wrong";
          continue;
        }
        if (lets_in(caller, nullptr)) co_return Reason::kNone;
        break;
      }
    }
  }

  // Whether the method lets the token in. By the keys that are there: waits for nothing.
  const auto verify = [&](const BoundAuthMethod& method, JwtRefusal* refusal) {
    auto token = VerifyToken(method, offered.credentials, refusal);
    if (token == nullptr) {
      note(method, *refusal);
      return false;
    }
    const ConsumerPolicy* caller = FindConsumerOf(*method.policy, *token);
    return lets_in(caller, std::move(token));
  };
  std::vector<Lacking> lacking;  // those whose keys may be older than the token's
  if (!of_tokens.empty()) {
    const std::optional<std::string> issuer = ClaimedIssuer(offered.credentials);
    for (const BoundAuthMethod* method : of_tokens) {
      if (issuer && !method->rules.issuer.empty() && *issuer != method->rules.issuer) {
        if (!known && token_refusal_ == JwtRefusal::kNone) note(*method, JwtRefusal::kIssuer);
        continue;
      }
      const uint64_t seen = method->keys->generation();
      JwtRefusal refusal = JwtRefusal::kNone;
      if (verify(*method, &refusal)) co_return Reason::kNone;
      if (refusal == JwtRefusal::kUnknownKey && !method->keys->url().empty()) lacking.push_back({method, seen});
    }
  }
  while (!lacking.empty()) {
    const BoundAuthMethod* fetched = co_await AwaitNewerKeys(&loop(), auth.fetcher, &lacking);
    std::vector<Lacking> left;
    for (const Lacking& each : lacking) {
      const uint64_t seen = each.method->keys->generation();
      JwtRefusal refusal = JwtRefusal::kNone;
      if (verify(*each.method, &refusal)) co_return Reason::kNone;
      if (refusal == JwtRefusal::kUnknownKey && each.method != fetched) left.push_back({each.method, seen});
    }
    lacking = std::move(left);
  }

  policy_ = Concat("Auth/", auth.policy->name);
  detail_ = why;
  if (!known && throttled) {
    detail_ = "too many passwords from this address were wrong";
    limit_policy_ = nullptr;  // no RateLimit's: what that would say is not what keeps this client out
    limit_.reset =
        worker_->shared().authentication->passwords.RetryAfter(ClientPrefix::Of(client_address_), loop().now());
    auth.runtime->Count(worker_->index(), AuthResult::kThrottled);
    co_return Reason::kRateLimited;
  }
  if (known || !overloaded) {
    auth.runtime->Count(worker_->index(), known ? AuthResult::kForbidden : AuthResult::kUnauthenticated);
    co_return known ? Reason::kForbidden : Reason::kUnauthenticated;
  }
  detail_ = "too many passwords are being checked";
  auth.runtime->Count(worker_->index(), AuthResult::kOverloaded);
  co_return Reason::kOverloaded;
}

// By the keys that are there. Null: `*refusal` says why.
std::shared_ptr<const VerifiedToken> Exchange::VerifyToken(const BoundAuthMethod& method, std::string_view text,
                                                           JwtRefusal* refusal) {
  const uint64_t generation = method.keys->generation();
  const std::shared_ptr<const JwkSet> keys = method.keys->keys();
  JwtVerdict verdict;
  verdict.refusal = JwtRefusal::kUnknownKey;
  if (keys != nullptr) {
    verdict = VerifyJwt(text, *keys, method.rules, loop().wall_now());
  } else if (!CompactJws::Parse(text).ok()) {
    verdict.refusal = JwtRefusal::kMalformed;
  }
  *refusal = verdict.refusal;
  if (verdict.refusal != JwtRefusal::kNone) return nullptr;
  auto made = std::make_shared<VerifiedToken>();
  made->claims = std::move(verdict.claims);
  made->subject = made->claims.Find(method.policy->consumer_claim);
  worker_->tokens().Insert({method.meaning, text}, generation, made->claims.expires, made,
                           made->claims.bytes() + sizeof *made);
  return made;
}

// The Consumer that has this token's subject as its own. Only where the method pins its issuer: else whoever may sign
// for one issuer could name any.
const ConsumerPolicy* Exchange::FindConsumerOf(const AuthMethodPolicy& method, const VerifiedToken& token) {
  if (method.issuer.empty() || token.subject.empty()) return nullptr;
  const ConsumerTable& consumers = *(*state_)->snapshot->consumers();
  std::string& name = worker_->scratch();
  name.clear();
  Append(&name, method.issuer, "\n", token.subject);
  const auto found = consumers.by_subject.find(name);
  return found == consumers.by_subject.end() ? nullptr : &consumers.consumers[found->second];
}

Task<PasswordPool::Answer> Exchange::CheckPassword(std::string_view credentials, const ConsumerPolicy** caller) {
  using Answer = PasswordPool::Answer;
  const ConsumerTable& consumers = *(*state_)->snapshot->consumers();
  std::optional<BasicCredentials> basic = ParseBasicCredentials(credentials);
  if (!basic || consumers.passwords.empty()) co_return Answer::kWrong;
  const auto found = consumers.by_username.find(basic->username);
  const bool decoy = found == consumers.by_username.end();
  const ConsumerTable::Password& password =
      decoy ? consumers.DecoyOf(basic->username) : consumers.passwords[found->second];
  Authentication& shared = *worker_->shared().authentication;
  const Digest key = shared.digest.Of({password.hash, basic->username, basic->password});
  if (!decoy) *caller = &consumers.consumers[password.consumer];
  if (shared.passwords.Remembers(key, loop().now())) co_return Answer::kGood;
  absl::StatusOr<PasswordHash> hash = PasswordHash::Parse(password.hash);
  if (!hash.ok()) co_return Answer::kWrong;  // (the snapshot was checked)
  auto arrival = std::make_shared<Arrival<Answer>>(&loop());
  const std::optional<Answer> at_once = shared.passwords.Check(
      key, std::make_shared<const PasswordHash>(*std::move(hash)), std::move(basic->password), decoy,
      ClientPrefix::Of(client_address_), loop().now(), [arrival](Answer answer) { arrival->Deliver(answer); });
  if (at_once) co_return *at_once;
  Arrival<Answer>::Wait wait(std::move(arrival));
  const Answer answer = co_await wait;
  co_return answer;
}

// One field for each method, of a 401 or a 403 (RFC 9110, section 11.6.1; RFC 6750, section 3).
void Exchange::AppendChallenges(std::string* fields) const {
  for (const BoundAuthMethod& method : route_->auth->methods) {
    switch (method.policy->kind) {
      case AuthMethodPolicy::Kind::kClientCertificate:
        Append(fields, "WWW-Authenticate: ClientCertificate realm=\"gateway\"\r\n");
        break;
      case AuthMethodPolicy::Kind::kApiKey:
        Append(fields, R"(WWW-Authenticate: ApiKey realm="gateway", header=")", method.policy->header, "\"\r\n");
        break;
      case AuthMethodPolicy::Kind::kJwt:
        Append(fields, R"(WWW-Authenticate: Bearer realm="gateway")");
        if (token_refusal_ != JwtRefusal::kNone) {
          Append(fields, R"(, error=")", token_refusal_ == JwtRefusal::kClaims ? "insufficient_scope" : "invalid_token",
                 R"(", error_description=")", MessageOf(token_refusal_), "\"");
        }
        Append(fields, "\r\n");
        break;
      case AuthMethodPolicy::Kind::kBasic:
        Append(fields, R"(WWW-Authenticate: Basic realm=")", method.policy->realm, R"(", charset="UTF-8")", "\r\n");
        break;
    }
  }
}

// Whether a field of the request is credentials that are meant for the gateway alone.
bool Exchange::IsSpentCredential(const FieldView& field) const {
  const BoundAuth& auth = *route_->auth;
  if (auth.policy->keep_credentials) return false;
  if (auth.takes_basic && http1::EqualsIgnoreCase(field.name, "Authorization")) {
    return ParseAuthorization(field.value).scheme == AuthScheme::kBasic;
  }
  return std::any_of(auth.methods.begin(), auth.methods.end(), [&field](const BoundAuthMethod& method) {
    return method.policy->kind == AuthMethodPolicy::Kind::kApiKey &&
           http1::EqualsFolded(field.name, method.folded_header);
  });
}

// What the service is told of the caller, as field lines.
void Exchange::AppendForwarded(std::string* fields) const {
  const AuthPolicy& auth = *route_->auth->policy;
  if (!auth.forward_consumer.empty() && !consumer_.empty()) {
    Append(fields, auth.forward_consumer, ": ", consumer_, "\r\n");
  }
  if (!auth.forward_groups.empty()) {
    bool any = false;
    const auto add = [&](const std::vector<std::string>& groups) {
      for (const std::string& group : groups) {
        Append(fields, any ? std::string_view(",") : std::string_view(auth.forward_groups), any ? "" : ": ", group);
        any = true;
      }
    };
    if (caller_ != nullptr) add(caller_->groups);
    if (token_ != nullptr) add(token_->claims.groups);
    if (any) fields->append("\r\n");
  }
  const http::TlsInfo* const tls = stream_.connection().tls;
  if (!auth.forward_client_certificate.empty() && tls != nullptr && tls->certificate != nullptr) {
    AppendClientCertificate(auth.forward_client_certificate, *tls->certificate, fields);
  }
  for (const auto& [name, claim] : auth.forward_claims) {
    if (const std::string_view value = ClaimOf(claim); !value.empty()) Append(fields, name, ": ", value, "\r\n");
  }
}

}  // namespace gateway::dataplane
