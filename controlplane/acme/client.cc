#include "controlplane/acme/client.h"

#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/address_set.h"
#include "common/base/base64.h"
#include "common/base/certificate.h"
#include "nlohmann/json.hpp"
#include "spdlog/spdlog.h"

namespace gateway::controlplane::acme {
namespace {

using nlohmann::json;

constexpr int kHttpOk = 200;
constexpr int kHttpTooManyRequests = 429;
constexpr size_t kNonceBytesMax = 512;
// How long the CA's window for renewal is taken as valid if the CA does not say.
constexpr absl::Duration kWindowHolds = absl::Hours(6);

std::string Dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

const char* TypeName(v1::Acme::Challenge type) { return type == v1::Acme::TLS_ALPN_01 ? "tls-alpn-01" : "http-01"; }

}  // namespace

absl::StatusOr<HttpResponse> Client::Send(const HttpRequest& request) {
  HttpRequest sent = request;
  sent.ca_pem = options_.ca_pem;
  absl::StatusOr<HttpResponse> response = options_.transport(sent);
  if (!response.ok()) return response.status();
  const bool usable = !response->nonce.empty() && response->nonce.size() <= kNonceBytesMax &&
                      std::all_of(response->nonce.begin(), response->nonce.end(),
                                  [](unsigned char c) { return absl::ascii_isalnum(c) || c == '-' || c == '_'; });
  if (usable) nonce_ = response->nonce;
  return response;
}

absl::Status Client::Refused(const HttpResponse& response) {
  const Problem problem = ParseProblem(response.body);
  const std::string text = problem.text.empty() ? absl::StrCat("the CA responds with status ", response.status)
                                                : absl::StrCat("the CA: ", problem.text);
  if (!response.retry_after.empty()) {
    if (const auto wait = ParseRetryAfter(response.retry_after, options_.now())) retry_after_ = *wait;
  }
  if (problem.type == "rateLimited" || response.status == kHttpTooManyRequests)
    return absl::ResourceExhaustedError(text);
  return response.status >= 500 ? absl::UnavailableError(text) : absl::FailedPreconditionError(text);
}

absl::Status Client::ReadDirectory() {
  if (directory_.has_value()) return absl::OkStatus();
  const absl::StatusOr<HttpResponse> response = Send({.url = options_.directory});
  if (!response.ok()) return response.status();
  if (response->status != kHttpOk) return Refused(*response);
  absl::StatusOr<Directory> directory = ParseDirectory(response->body);
  if (!directory.ok()) return directory.status();
  directory_ = *std::move(directory);
  return absl::OkStatus();
}

absl::StatusOr<std::string> Client::TakeNonce() {
  if (nonce_.empty()) {
    const absl::StatusOr<HttpResponse> response =
        Send({.method = HttpRequest::Method::kHead, .url = directory_->new_nonce});
    if (!response.ok()) return response.status();
    if (response->status / 100 != 2) return Refused(*response);
    if (nonce_.empty()) return absl::FailedPreconditionError("the CA gives no nonce");
  }
  return std::exchange(nonce_, "");
}

absl::StatusOr<HttpResponse> Client::Post(const std::string& url, std::string_view payload, bool by_key) {
  for (int tries = 1;; ++tries) {
    const absl::StatusOr<std::string> nonce = TakeNonce();
    if (!nonce.ok()) return nonce.status();
    const absl::StatusOr<std::string> body = key_.Sign(url, *nonce, by_key ? "" : account_, payload);
    if (!body.ok()) return body.status();
    absl::StatusOr<HttpResponse> response = Send({.method = HttpRequest::Method::kPost, .url = url, .body = *body});
    if (!response.ok() || response->status / 100 == 2) return response;
    // The refusal brings a new one (RFC 8555, section 6.5).
    if (ParseProblem(response->body).type == "badNonce" && tries < kNonceTriesMax) continue;
    return Refused(*response);
  }
}

absl::Status Client::Register() {
  if (!account_.empty()) return absl::OkStatus();
  if (directory_->external_account_required) {
    return absl::FailedPreconditionError("the CA takes no accounts without an external one, which is not supported");
  }
  json payload = {{"termsOfServiceAgreed", true}};
  if (!options_.email.empty()) payload["contact"] = json::array({absl::StrCat("mailto:", options_.email)});
  const absl::StatusOr<HttpResponse> response = Post(directory_->new_account, Dump(payload), /*by_key=*/true);
  if (!response.ok()) return response.status();
  if (response->location.empty()) return absl::FailedPreconditionError("the CA does not say the account's URL");
  account_ = response->location;
  return absl::OkStatus();
}

absl::StatusOr<std::pair<std::string, acme::Order>> Client::Begin(const std::vector<std::string>& hosts,
                                                                  const std::string& replaces) {
  json identifiers = json::array();
  for (const std::string& host : hosts) {
    in6_addr address;
    identifiers.push_back({{"type", ParseIp(host, &address) ? "ip" : "dns"}, {"value", host}});
  }
  json payload = {{"identifiers", std::move(identifiers)}};
  if (!replaces.empty() && !directory_->renewal_info.empty()) {
    if (const absl::StatusOr<std::string> id = RenewalId(replaces); id.ok()) payload["replaces"] = *id;
  }
  absl::StatusOr<HttpResponse> response = Post(directory_->new_order, Dump(payload));
  // It may not know the certificate, or have it replaced already: an order like any other, then.
  if (absl::IsFailedPrecondition(response.status()) && payload.contains("replaces")) {
    payload.erase("replaces");
    response = Post(directory_->new_order, Dump(payload));
  }
  if (!response.ok()) return response.status();
  absl::StatusOr<acme::Order> order = ParseOrder(response->body);
  if (!order.ok()) return order.status();
  if (response->location.empty()) return absl::FailedPreconditionError("the CA does not say the order's URL");
  return std::pair(response->location, *std::move(order));
}

absl::Duration Client::PollWait(const HttpResponse& response) const {
  const auto asked = ParseRetryAfter(response.retry_after, options_.now());
  return std::clamp(asked.value_or(absl::Seconds(1)), kPollMin, kPollMax);
}

absl::Status Client::AwaitAuthorization(const std::string& url, absl::Time deadline, std::string_view type) {
  while (true) {
    const absl::StatusOr<HttpResponse> response = Post(url, "");
    if (!response.ok()) return response.status();
    const absl::StatusOr<Authorization> authorization = ParseAuthorization(response->body);
    if (!authorization.ok()) return authorization.status();
    if (authorization->status == Progress::kValid) return absl::OkStatus();
    if (authorization->status == Progress::kInvalid) {
      std::string error;
      for (const ServerChallenge& each : authorization->challenges) {
        if (each.type == type && !each.error.empty()) error = each.error;
      }
      return absl::FailedPreconditionError(
          absl::StrCat(authorization->host, ": the CA: ", error.empty() ? "the challenge failed" : error));
    }
    const absl::Duration wait = PollWait(*response);
    if (options_.now() + wait > deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat(authorization->host, ": the CA has not decided within ", absl::FormatDuration(kDecisionWait)));
    }
    if (!options_.wait(wait)) return absl::CancelledError("the control plane is shutting down");
  }
}

absl::Status Client::Prove(const acme::Order& order, v1::Acme::Challenge type, const Present& present) {
  std::vector<v1::Challenge> challenges;
  std::vector<std::pair<std::string, std::string>> open;  // of the authorization and of its challenge
  for (const std::string& url : order.authorizations) {
    const absl::StatusOr<HttpResponse> response = Post(url, "");
    if (!response.ok()) return response.status();
    const absl::StatusOr<Authorization> authorization = ParseAuthorization(response->body);
    if (!authorization.ok()) return authorization.status();
    if (authorization->status == Progress::kValid) continue;  // of an earlier order
    const auto offered = std::find_if(authorization->challenges.begin(), authorization->challenges.end(),
                                      [type](const ServerChallenge& each) { return each.type == TypeName(type); });
    if (offered == authorization->challenges.end() || offered->token.empty()) {
      return absl::FailedPreconditionError(
          absl::StrCat(authorization->host, ": the CA does not offer the challenge ", TypeName(type)));
    }
    v1::Challenge& challenge = challenges.emplace_back();
    challenge.set_type(type);
    challenge.set_host(authorization->host);
    challenge.set_token(offered->token);
    challenge.set_key_authorization(key_.KeyAuthorization(offered->token));
    open.emplace_back(url, offered->url);
  }
  if (open.empty()) return absl::OkStatus();
  const absl::Cleanup withdraw = [&present] { (void)present({}); };  // not waited for
  if (absl::Status s = present(std::move(challenges)); !s.ok()) return s;
  for (const auto& [authorization, challenge] : open) {
    if (const absl::StatusOr<HttpResponse> response = Post(challenge, "{}"); !response.ok()) return response.status();
  }
  const absl::Time deadline = options_.now() + kDecisionWait;
  for (const auto& [authorization, challenge] : open) {
    if (absl::Status s = AwaitAuthorization(authorization, deadline, TypeName(type)); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Client::Fetch(const std::string& order_url, acme::Order order, const std::string& csr_der) {
  const absl::Time deadline = options_.now() + kDecisionWait;
  bool finalized = false;
  while (order.status != Progress::kValid || order.certificate.empty()) {
    if (order.status == Progress::kInvalid) {
      return absl::FailedPreconditionError(
          absl::StrCat("the CA: ", order.error.empty() ? "the order failed" : order.error));
    }
    absl::StatusOr<HttpResponse> response = HttpResponse();
    if (order.status == Progress::kReady && !std::exchange(finalized, true)) {
      response = Post(order.finalize, Dump({{"csr", EncodeBase64(Base64::kUrl, csr_der)}}));
    } else {
      response = Post(order_url, "");
    }
    if (!response.ok()) return response.status();
    absl::StatusOr<acme::Order> next = ParseOrder(response->body);
    if (!next.ok()) return next.status();
    order = *std::move(next);
    const bool waits = order.status == Progress::kPending || order.status == Progress::kProcessing ||
                       (order.status == Progress::kReady && finalized);
    if (!waits) continue;
    const absl::Duration wait = PollWait(*response);
    if (options_.now() + wait > deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("the CA has not issued within ", absl::FormatDuration(kDecisionWait)));
    }
    if (!options_.wait(wait)) return absl::CancelledError("the control plane is shutting down");
  }
  const absl::StatusOr<HttpResponse> chain = Post(order.certificate, "");
  if (!chain.ok()) return chain.status();
  return chain->body;
}

absl::StatusOr<Client::Issued> Client::Order(const std::vector<std::string>& hosts, v1::Acme::Challenge type,
                                             const std::string& replaces, const Present& present) {
  retry_after_.reset();
  if (absl::Status s = ReadDirectory(); !s.ok()) return s;
  if (absl::Status s = Register(); !s.ok()) return s;
  auto begun = Begin(hosts, replaces);
  if (!begun.ok()) return begun.status();
  auto& [url, order] = *begun;
  if (absl::Status s = Prove(order, type, present); !s.ok()) return s;
  const absl::StatusOr<CertificateSigningRequest> request = MakeRequest(hosts);
  if (!request.ok()) return request.status();
  // What the order was before the challenges is not what it is now.
  const absl::StatusOr<HttpResponse> response = Post(url, "");
  if (!response.ok()) return response.status();
  absl::StatusOr<acme::Order> current = ParseOrder(response->body);
  if (!current.ok()) return current.status();
  absl::StatusOr<std::string> chain = Fetch(url, *std::move(current), request->der);
  if (!chain.ok()) return chain.status();
  const absl::StatusOr<Certificate> certificate = ParseCertificate(
      {.name = "the CA's certificate", .chain_pem = *chain, .key_pem = request->key_pem}, options_.now());
  if (!certificate.ok()) return certificate.status();
  for (const std::string& host : hosts) {
    const auto covers = [&host](const std::string& name) { return name == host; };
    if (std::none_of(certificate->dns_names.begin(), certificate->dns_names.end(), covers) &&
        std::none_of(certificate->addresses.begin(), certificate->addresses.end(), covers)) {
      return absl::FailedPreconditionError(absl::StrCat("the CA's certificate is not for ", host));
    }
  }
  return Issued{*std::move(chain), request->key_pem};
}

absl::StatusOr<std::optional<Client::Window>> Client::RenewalWindow(const std::string& chain_pem) {
  retry_after_.reset();
  if (absl::Status s = ReadDirectory(); !s.ok()) return s;
  const absl::StatusOr<std::string> id = RenewalId(chain_pem);
  if (directory_->renewal_info.empty() || !id.ok()) return std::nullopt;
  const absl::StatusOr<HttpResponse> response = Send({.url = absl::StrCat(directory_->renewal_info, "/", *id)});
  if (!response.ok()) return response.status();
  if (response->status != kHttpOk) return Refused(*response);
  const absl::StatusOr<RenewalInfo> info = ParseRenewalInfo(response->body);
  if (!info.ok()) return info.status();
  return Window{*info, ParseRetryAfter(response->retry_after, options_.now()).value_or(kWindowHolds)};
}

}  // namespace gateway::controlplane::acme
