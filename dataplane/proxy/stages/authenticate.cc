#include "dataplane/proxy/stages/authenticate.h"

#include <algorithm>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "common/base/text.h"
#include "dataplane/auth/authorization.h"
#include "dataplane/auth/certificate_fields.h"
#include "dataplane/http/http1/head.h"
#include "dataplane/net/arrival.h"

namespace gateway::dataplane {
namespace {

constexpr size_t kTokenMethodsInline = 4;  // of an Auth, without an allocation

// A method whose keys, as of a generation, do not include the one that a token names.
struct MissingKey {
  const BoundAuthMethod* method;
  uint64_t seen;
};

// Asks for newer keys of all of `missing` at once and waits until the first fetch has ended, whose method it gives:
// another may take much longer. Null, at once: newer ones are there already, or none can be fetched now. Leaves those
// with newer ones, or for which a fetch is under way.
Task<const BoundAuthMethod*> AwaitNewerKeys(EventLoop* loop, KeyFetcher* fetcher, std::vector<MissingKey>* missing) {
  const auto arrival = std::make_shared<Arrival<const BoundAuthMethod*>>(loop);
  bool there = false;
  std::erase_if(*missing, [&](const MissingKey& each) {
    const auto deliver = [arrival, method = each.method] { arrival->Deliver(method); };
    const KeyFetcher::Refreshed refreshed = fetcher->Refresh(*each.method->keys, each.seen, deliver);
    there = there || refreshed == KeyFetcher::Refreshed::kThere;
    return refreshed == KeyFetcher::Refreshed::kTooSoon;
  });
  if (there || missing->empty()) co_return nullptr;
  Arrival<const BoundAuthMethod*>::Wait wait(arrival);
  const BoundAuthMethod* first = co_await wait;
  co_return first;
}

// Its value if the request has it once. With several it is unclear which one counts.
std::string_view FindSingleField(const http::Request& request, std::string_view name) {
  std::string_view value;
  bool found = false;
  for (const FieldView& field : request.fields) {
    if (!http1::EqualsIgnoreCase(field.name, name)) continue;
    if (found) return {};
    found = true;
    value = field.value;
  }
  return value;
}

// Whether `allow` lets in the caller that was found.
bool IsAllowed(const AuthPolicy& auth, const Caller& caller) {
  if (auth.allow_groups.empty() && auth.allow_consumers.empty()) return true;
  const auto has = [](const std::vector<std::string>& sorted, const std::string& name) {
    return std::binary_search(sorted.begin(), sorted.end(), name);
  };
  const auto any_allowed = [&](const std::vector<std::string>& groups) {
    return std::any_of(groups.begin(), groups.end(),
                       [&](const std::string& group) { return has(auth.allow_groups, group); });
  };
  if (caller.policy != nullptr &&
      (has(auth.allow_consumers, caller.policy->name) || any_allowed(caller.policy->groups)))
    return true;
  return caller.token != nullptr && any_allowed(caller.token->claims.groups);
}

// The Consumer that the client's certificate belongs to; the first `tried` of its identities are passed over, and
// counted. Null: there is no further one.
const ConsumerPolicy* FindCertificateHolder(const AuthInput& in, const AuthMethodPolicy& method, size_t* tried) {
  const http::ClientCertificate& certificate = *in.tls->certificate;
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
    const auto& table = folded ? in.consumers.by_folded_certificate : in.consumers.by_certificate;
    const auto found = table.find(identity);
    if (found != table.end()) return &in.consumers.consumers[found->second];
  }
  return nullptr;
}

// By the keys that are there. Null: `*refusal` says why.
std::shared_ptr<const VerifiedToken> VerifyToken(const AuthInput& in, const BoundAuthMethod& method,
                                                 std::string_view text, JwtRefusal* refusal) {
  const uint64_t generation = method.keys->generation();
  const std::shared_ptr<const JwkSet> keys = method.keys->keys();
  JwtVerdict verdict;
  verdict.refusal = JwtRefusal::kUnknownKey;
  if (keys != nullptr) {
    verdict = VerifyJwt(text, *keys, method.rules, in.loop.wall_now());
  } else if (!CompactJws::Parse(text).ok()) {
    verdict.refusal = JwtRefusal::kMalformed;
  }
  *refusal = verdict.refusal;
  if (verdict.refusal != JwtRefusal::kNone) return nullptr;
  auto made = std::make_shared<VerifiedToken>();
  made->claims = std::move(verdict.claims);
  made->subject = made->claims.Find(method.policy->consumer_claim);
  in.tokens.Insert({method.meaning, text}, generation, made->claims.expires, made, made->claims.bytes() + sizeof *made);
  return made;
}

// The Consumer that has this token's subject as its own. Only if the method pins its issuer: else any issuer that is
// trusted could name any subject.
const ConsumerPolicy* FindConsumerOf(const AuthInput& in, const AuthMethodPolicy& method, const VerifiedToken& token) {
  if (method.issuer.empty() || token.subject.empty()) return nullptr;
  in.scratch.clear();
  Append(&in.scratch, method.issuer, "\n", token.subject);
  const auto found = in.consumers.by_subject.find(in.scratch);
  return found == in.consumers.by_subject.end() ? nullptr : &in.consumers.consumers[found->second];
}

Task<PasswordPool::Answer> CheckPassword(const AuthInput& in, std::string_view credentials,
                                         const ConsumerPolicy** caller) {
  using Answer = PasswordPool::Answer;
  const ConsumerTable& consumers = in.consumers;
  std::optional<BasicCredentials> basic = ParseBasicCredentials(credentials);
  if (!basic || consumers.passwords.empty()) co_return Answer::kWrong;
  const auto found = consumers.by_username.find(basic->username);
  const bool decoy = found == consumers.by_username.end();
  const ConsumerTable::Password& password =
      decoy ? consumers.DecoyOf(basic->username) : consumers.passwords[found->second];
  const Digest key = in.shared.digest.Of({password.hash, basic->username, basic->password});
  if (!decoy) *caller = &consumers.consumers[password.consumer];
  if (in.shared.passwords.Remembers(key, in.loop.now())) co_return Answer::kGood;
  absl::StatusOr<PasswordHash> hash = PasswordHash::Parse(password.hash);
  if (!hash.ok()) co_return Answer::kWrong;  // (the snapshot was checked)
  auto arrival = std::make_shared<Arrival<Answer>>(&in.loop);
  const std::optional<Answer> at_once = in.shared.passwords.Check(
      key, std::make_shared<const PasswordHash>(*std::move(hash)), std::move(basic->password), decoy,
      ClientPrefix::Of(in.client_address), in.loop.now(), [arrival](Answer answer) { arrival->Deliver(answer); });
  if (at_once) co_return *at_once;
  Arrival<Answer>::Wait wait(std::move(arrival));
  const Answer answer = co_await wait;
  co_return answer;
}

}  // namespace

std::optional<Refusal> CheckDirection(const BoundAuth& auth, const http::TlsInfo* tls, std::string_view host) {
  if (!auth.takes_certificate) return std::nullopt;
  const bool misdirected =
      tls != nullptr && tls->asks_certificate && !tls->server_name.empty() && !host.empty() && tls->server_name != host;
  if (!misdirected) return std::nullopt;
  return Refusal{.reason = Reason::kMisdirectedRequest};
}

Task<std::optional<Refusal>> Authenticate(const AuthInput& in, Caller* caller) {
  const BoundAuth& auth = in.auth;
  const Authorization offered = ParseAuthorization(FindSingleField(in.request, "Authorization"));
  bool known = false;       // a caller was found, whom it does not let in
  bool overloaded = false;  // a password was not checked
  bool throttled = false;   // the same, because too many passwords of this client were wrong
  const char* why = "no credentials";
  const auto lets_in = [&](const ConsumerPolicy* found, std::shared_ptr<const VerifiedToken> token) {
    caller->policy = found;
    caller->token = std::move(token);
    caller->consumer = {};
    if (found != nullptr) {
      caller->consumer = found->name;
    } else if (!in.consumers.by_name.contains(caller->token->subject)) {
      // (A token takes a consumer's name only if that consumer says so.)
      caller->consumer = caller->token->subject;
    }
    if (IsAllowed(*auth.policy, *caller)) {
      auth.runtime->Count(in.worker, AuthResult::kAllowed);
      return true;
    }
    known = true;
    why = "allow names neither its consumer nor any of its groups";
    return false;
  };
  const auto note = [&](const BoundAuthMethod& method, JwtRefusal refusal) {
    caller->token_refusal = refusal;
    if (refusal == JwtRefusal::kClaims) known = true;
    why = refusal == JwtRefusal::kUnknownKey && method.keys->generation() == 0
              ? "the issuer's keys could not be fetched yet"
              : MessageOf(refusal).data();
  };

  absl::InlinedVector<const BoundAuthMethod*, kTokenMethodsInline> of_tokens;
  for (const BoundAuthMethod& method : auth.methods) {
    switch (method.policy->kind) {
      case AuthMethodPolicy::Kind::kClientCertificate: {
        if (in.tls == nullptr || in.tls->certificate == nullptr) continue;
        why = "the client certificate is no Consumer's";
        size_t tried = 0;
        while (const ConsumerPolicy* holder = FindCertificateHolder(in, *method.policy, &tried)) {
          if (lets_in(holder, nullptr)) co_return std::nullopt;
        }
        break;
      }
      case AuthMethodPolicy::Kind::kApiKey: {
        const std::string_view key = FindSingleField(in.request, method.policy->header);
        if (key.empty()) continue;
        // A map's lookup is not constant in time; what it reveals is about a digest whose preimage cannot be chosen.
        const Digest digest = Sha256(key);
        const auto found = in.consumers.by_key_digest.find(
            absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
        if (found == in.consumers.by_key_digest.end()) {
          why = "the API key is unknown";
          continue;
        }
        if (lets_in(&in.consumers.consumers[found->second], nullptr)) co_return std::nullopt;
        break;
      }
      case AuthMethodPolicy::Kind::kJwt:
        if (offered.scheme != AuthScheme::kBearer || offered.credentials.empty()) continue;
        // What was verified before costs a lookup, whichever method did; the others are tried below.
        if (auto token =
                in.tokens.Find({method.meaning, offered.credentials}, method.keys->generation(), in.loop.wall_now())) {
          if (lets_in(FindConsumerOf(in, *method.policy, *token), token)) co_return std::nullopt;
        } else {
          of_tokens.push_back(&method);
        }
        break;
      case AuthMethodPolicy::Kind::kBasic: {
        if (offered.scheme != AuthScheme::kBasic || offered.credentials.empty()) continue;
        const ConsumerPolicy* found = nullptr;
        const PasswordPool::Answer answer = co_await CheckPassword(in, offered.credentials, &found);
        if (answer == PasswordPool::Answer::kOverloaded) overloaded = true;
        if (answer == PasswordPool::Answer::kTooManyFailures) throttled = true;
        if (answer != PasswordPool::Answer::kGood) {
          why = "the user name or the password is wrong";
          continue;
        }
        if (lets_in(found, nullptr)) co_return std::nullopt;
        break;
      }
    }
  }

  // Whether the method lets the token in, by the keys that are there: it does not wait.
  const auto verify = [&](const BoundAuthMethod& method, JwtRefusal* refusal) {
    auto token = VerifyToken(in, method, offered.credentials, refusal);
    if (token == nullptr) {
      note(method, *refusal);
      return false;
    }
    const ConsumerPolicy* found = FindConsumerOf(in, *method.policy, *token);
    return lets_in(found, std::move(token));
  };
  std::vector<MissingKey> missing;  // those whose keys may be older than the token's
  if (!of_tokens.empty()) {
    const std::optional<std::string> issuer = ClaimedIssuer(offered.credentials);
    for (const BoundAuthMethod* method : of_tokens) {
      if (issuer && !method->rules.issuer.empty() && *issuer != method->rules.issuer) {
        if (!known && caller->token_refusal == JwtRefusal::kNone) note(*method, JwtRefusal::kIssuer);
        continue;
      }
      const uint64_t seen = method->keys->generation();
      JwtRefusal refusal = JwtRefusal::kNone;
      if (verify(*method, &refusal)) co_return std::nullopt;
      if (refusal == JwtRefusal::kUnknownKey && !method->keys->url().empty()) missing.push_back({method, seen});
    }
  }
  while (!missing.empty()) {
    const BoundAuthMethod* fetched = co_await AwaitNewerKeys(&in.loop, auth.fetcher, &missing);
    std::vector<MissingKey> left;
    for (const MissingKey& each : missing) {
      const uint64_t seen = each.method->keys->generation();
      JwtRefusal refusal = JwtRefusal::kNone;
      if (verify(*each.method, &refusal)) co_return std::nullopt;
      if (refusal == JwtRefusal::kUnknownKey && each.method != fetched) left.push_back({each.method, seen});
    }
    missing = std::move(left);
  }

  Refusal refused{.detail = why, .policy = {"Auth", auth.policy->name}};
  if (!known && throttled) {
    refused.reason = Reason::kRateLimited;
    refused.detail = "too many passwords from this address were wrong";
    refused.retry_after = in.shared.passwords.RetryAfter(ClientPrefix::Of(in.client_address), in.loop.now());
    auth.runtime->Count(in.worker, AuthResult::kThrottled);
  } else if (known || !overloaded) {
    refused.reason = known ? Reason::kForbidden : Reason::kUnauthenticated;
    auth.runtime->Count(in.worker, known ? AuthResult::kForbidden : AuthResult::kUnauthenticated);
  } else {
    refused.reason = Reason::kOverloaded;
    refused.detail = "too many passwords are being checked";
    auth.runtime->Count(in.worker, AuthResult::kOverloaded);
  }
  co_return refused;
}

void AppendChallenges(const BoundAuth& auth, JwtRefusal token_refusal, std::string* fields) {
  for (const BoundAuthMethod& method : auth.methods) {
    switch (method.policy->kind) {
      case AuthMethodPolicy::Kind::kClientCertificate:
        Append(fields, "WWW-Authenticate: ClientCertificate realm=\"gateway\"\r\n");
        break;
      case AuthMethodPolicy::Kind::kApiKey:
        Append(fields, R"(WWW-Authenticate: ApiKey realm="gateway", header=")", method.policy->header, "\"\r\n");
        break;
      case AuthMethodPolicy::Kind::kJwt:
        Append(fields, R"(WWW-Authenticate: Bearer realm="gateway")");
        if (token_refusal != JwtRefusal::kNone) {
          Append(fields, R"(, error=")", token_refusal == JwtRefusal::kClaims ? "insufficient_scope" : "invalid_token",
                 R"(", error_description=")", MessageOf(token_refusal), "\"");
        }
        Append(fields, "\r\n");
        break;
      case AuthMethodPolicy::Kind::kBasic:
        Append(fields, R"(WWW-Authenticate: Basic realm=")", method.policy->realm, R"(", charset="UTF-8")", "\r\n");
        break;
    }
  }
}

bool IsSpentCredential(const BoundAuth& auth, const FieldView& field) {
  if (auth.policy->keep_credentials) return false;
  if (auth.takes_basic && http1::EqualsIgnoreCase(field.name, "Authorization")) {
    return ParseAuthorization(field.value).scheme == AuthScheme::kBasic;
  }
  return std::any_of(auth.methods.begin(), auth.methods.end(), [&field](const BoundAuthMethod& method) {
    return method.policy->kind == AuthMethodPolicy::Kind::kApiKey &&
           http1::EqualsFolded(field.name, method.folded_header);
  });
}

void AppendForwardedIdentity(const AuthPolicy& auth, const Caller& caller, const http::TlsInfo* tls,
                             std::string* fields) {
  if (!auth.forward_consumer.empty() && !caller.consumer.empty()) {
    Append(fields, auth.forward_consumer, ": ", caller.consumer, "\r\n");
  }
  if (!auth.forward_groups.empty()) {
    bool any = false;
    const auto add = [&](const std::vector<std::string>& groups) {
      for (const std::string& group : groups) {
        Append(fields, any ? std::string_view(",") : std::string_view(auth.forward_groups), any ? "" : ": ", group);
        any = true;
      }
    };
    if (caller.policy != nullptr) add(caller.policy->groups);
    if (caller.token != nullptr) add(caller.token->claims.groups);
    if (any) fields->append("\r\n");
  }
  if (!auth.forward_client_certificate.empty() && tls != nullptr && tls->certificate != nullptr) {
    AppendClientCertificate(auth.forward_client_certificate, *tls->certificate, fields);
  }
  for (const auto& [name, claim] : auth.forward_claims) {
    if (const std::string_view value = caller.ClaimOf(claim); !value.empty()) {
      Append(fields, name, ": ", value, "\r\n");
    }
  }
}

}  // namespace gateway::dataplane
