#include "dataplane/net/tls/server_context.h"

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/time/clock.h"
#include "common/base/text.h"
#include "dataplane/net/tls/session.h"
#include "dataplane/net/tls/settings.h"

namespace gateway::dataplane::tls {
namespace {

constexpr int kChainDepthMax = 8;

// Which client certificates a session was made under: a ticket never crosses to other rules (CVE-2025-23419).
Digest SessionContextId(const ServerSettings& settings) {
  std::string rules;
  rules += static_cast<char>('0' + static_cast<int>(settings.client_certificate));
  if (settings.client_certificate != ClientCertificate::kNone) {
    rules += settings.client_ca_pem;
    rules += '\0';
    rules += settings.client_crl_pem;
  }
  return Sha256(rules);
}

// What one name ("example.com", "*.example.com") is served with: the first certificate listed of each key type.
absl::flat_hash_map<std::string, std::vector<const Certificate*>> CertificatesByName(
    const std::vector<std::shared_ptr<const Certificate>>& certificates) {
  absl::flat_hash_map<std::string, std::vector<const Certificate*>> by_name;
  for (const auto& certificate : certificates) {
    for (const std::string& name : certificate->dns_names) {
      auto& all = by_name[name];
      const bool have = std::any_of(all.begin(), all.end(),
                                    [&](const Certificate* each) { return each->key_type == certificate->key_type; });
      if (!have) all.push_back(certificate.get());
    }
  }
  return by_name;
}

// Whether the client offers tls-alpn-01's protocol and no other (RFC 8737, section 3).
bool OffersAcmeAlone(SSL* ssl) {
  const unsigned char* data = nullptr;
  size_t size = 0;
  if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_application_layer_protocol_negotiation, &data, &size) != 1) {
    return false;
  }
  // The list's length, then one name with its own.
  const std::string_view list(reinterpret_cast<const char*>(data), size);
  return size == 3 + kAcmeProtocol.size() && list[0] == 0 && static_cast<size_t>(list[1]) == size - 2 &&
         static_cast<size_t>(list[2]) == kAcmeProtocol.size() && list.substr(3) == kAcmeProtocol;
}

}  // namespace

std::string ParseServerName(std::string_view extension) {
  // A list of one entry: its length, type 0, the name's length.
  const auto number = [&](size_t at) {
    return static_cast<size_t>(static_cast<unsigned char>(extension[at])) << 8 |
           static_cast<unsigned char>(extension[at + 1]);
  };
  if (extension.size() < 5 || number(0) != extension.size() - 2 || extension[2] != 0) return "";
  if (number(3) != extension.size() - 5) return "";
  const std::string_view name = extension.substr(5);
  if (name.empty() || name.size() > 255) return "";
  for (const char c : name) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '-' && c != '.' && c != '_') return "";
  }
  std::string lower = absl::AsciiStrToLower({name.data(), name.size()});
  if (lower.back() == '.') lower.pop_back();
  return lower;
}

absl::StatusOr<std::shared_ptr<const ServerContext>> ServerContext::Create(
    OSSL_LIB_CTX* library, std::shared_ptr<const ServerSettings> settings, TicketKeys* tickets,
    const AcmeChallenges* challenges) {
  std::shared_ptr<ServerContext> context(new ServerContext());
  context->library_ = library;
  context->tickets_ = tickets;
  context->challenges_ = challenges;
  context->settings_ = std::move(settings);
  context->session_context_ = SessionContextId(*context->settings_);
  if (absl::Status status = context->Compile(); !status.ok()) return status;
  return std::shared_ptr<const ServerContext>(std::move(context));
}

absl::Status ServerContext::Compile() {
  if (settings_->certificates.empty()) return absl::InvalidArgumentError("there is no certificate");
  ticket_cipher_.reset(EVP_CIPHER_fetch(library_, "AES-256-CBC", nullptr));
  if (ticket_cipher_ == nullptr) return Rejected("session tickets");
  for (const std::string& protocol : settings_->protocols) {
    protocols_ += static_cast<char>(protocol.size());
    protocols_ += protocol;
  }
  // Names that the same certificates serve share a context.
  const auto context_of = [this](const std::vector<const Certificate*>& certificates) -> absl::StatusOr<SSL_CTX*> {
    for (const Set& each : sets_) {
      if (each.certificates == certificates) return each.context.get();
    }
    auto context = NewContext(certificates);
    if (!context.ok()) return context.status();
    sets_.push_back({certificates, *std::move(context)});
    return sets_.back().context.get();
  };
  // The default: the first certificate, and one of the other key type for the same names beside it.
  std::vector<const Certificate*> first = {settings_->certificates.front().get()};
  for (const auto& each : settings_->certificates) {
    const bool same_names = each->dns_names == first.front()->dns_names;
    const bool new_type = std::none_of(first.begin(), first.end(),
                                       [&](const Certificate* have) { return have->key_type == each->key_type; });
    if (same_names && new_type) first.push_back(each.get());
  }
  if (const auto context = context_of(first); !context.ok()) return context.status();
  for (const auto& [name, certificates] : CertificatesByName(settings_->certificates)) {
    const auto context = context_of(certificates);
    if (!context.ok()) return context.status();
    if (name.starts_with("*.")) {
      wildcard_[name.substr(2)] = *context;
    } else {
      exact_[name] = *context;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ContextPtr> ServerContext::NewContext(const std::vector<const Certificate*>& certificates) {
  ContextPtr owner(SSL_CTX_new_ex(library_, nullptr, TLS_server_method()));
  SSL_CTX* const context = owner.get();
  if (context == nullptr) return Rejected("a TLS context");
  absl::Status common = UseCommonSettings(context, settings_->tls13_only, settings_->ciphers, settings_->groups);
  if (!common.ok()) return common;
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);  // tickets carry the state
  SSL_CTX_set_num_tickets(context, 1);
  SSL_CTX_set_max_early_data(context, 0);  // a fleet can't detect replays (RFC 8446, section 8)
  if (SSL_CTX_set_session_id_context(context, session_context_.data(), session_context_.size()) != 1) {
    return Rejected("session context");
  }
  for (const Certificate* certificate : certificates) {
    auto chain = ReadCertificates(certificate->source.chain_pem, library_);
    if (!chain.ok()) return chain.status();
    auto key = ReadPrivateKey(certificate->source.key_pem, library_);
    if (!key.ok()) return key.status();
    if (!UseChain(*chain, key->get(), context)) return Rejected(certificate->source.name);
  }
  SSL_CTX_set_client_hello_cb(context, &ServerContext::OnClientHello, this);
  if (!protocols_.empty()) SSL_CTX_set_alpn_select_cb(context, &ServerContext::OnSelectProtocol, this);
  SSL_CTX_set_app_data(context, this);
  SSL_CTX_set_tlsext_ticket_key_evp_cb(context, &ServerContext::OnTicketKey);
  const auto stapled = std::find_if(certificates.begin(), certificates.end(),
                                    [](const Certificate* each) { return !each->source.ocsp_der.empty(); });
  // With two key types OpenSSL does not tell which certificate was chosen, so nothing is stapled.
  if (stapled != certificates.end() && certificates.size() == 1) {
    SSL_CTX_set_tlsext_status_cb(context, &ServerContext::OnStatusRequest);
    SSL_CTX_set_tlsext_status_arg(context, const_cast<Certificate*>(*stapled));
  }
  if (absl::Status status = UseClientCertificates(context); !status.ok()) return status;
  return owner;
}

absl::Status ServerContext::UseClientCertificates(SSL_CTX* context) {
  if (settings_->client_certificate == ClientCertificate::kNone) return absl::OkStatus();
  const bool required = settings_->client_certificate == ClientCertificate::kRequired;
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | (required ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0), nullptr);
  SSL_CTX_set_verify_depth(context, kChainDepthMax);
  X509_STORE* const store = SSL_CTX_get_cert_store(context);
  auto authorities = ReadCertificates(settings_->client_ca_pem, library_);
  if (!authorities.ok())
    return absl::InvalidArgumentError(Concat("client_ca: ", std::string(authorities.status().message())));
  for (const X509Ptr& each : *authorities) {
    if (X509_STORE_add_cert(store, each.get()) != 1) return Rejected("client_ca");
    if (SSL_CTX_add_client_CA(context, each.get()) != 1) return Rejected("client_ca");
  }
  if (settings_->client_crl_pem.empty()) return absl::OkStatus();
  auto crls = ReadCrls(settings_->client_crl_pem, library_);
  if (!crls.ok()) return absl::InvalidArgumentError(Concat("client_crl: ", std::string(crls.status().message())));
  for (const CrlPtr& each : *crls) {
    if (X509_STORE_add_crl(store, each.get()) != 1) return Rejected("client_crl");
  }
  X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK);
  return absl::OkStatus();
}

SslPtr ServerContext::NewSsl() const {
  SslPtr ssl(SSL_new(sets_.front().context.get()));
  if (ssl != nullptr) SSL_set_accept_state(ssl.get());
  return ssl;
}

SSL_CTX* ServerContext::Find(std::string_view server_name) const {
  if (const auto found = exact_.find(std::string(server_name)); found != exact_.end()) return found->second;
  if (const size_t dot = server_name.find('.'); dot != std::string_view::npos && dot > 0) {
    if (const auto found = wildcard_.find(std::string(server_name.substr(dot + 1))); found != wildcard_.end())
      return found->second;
  }
  return nullptr;
}

int ServerContext::OnClientHello(SSL* ssl, int*, void* self) {
  const auto* context = static_cast<const ServerContext*>(self);
  const unsigned char* data = nullptr;
  size_t size = 0;
  if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &data, &size) != 1) return SSL_CLIENT_HELLO_SUCCESS;
  std::string name = ParseServerName({reinterpret_cast<const char*>(data), size});
  if (context->challenges_ != nullptr && OffersAcmeAlone(ssl) && context->RespondToChallenge(ssl, name)) {
    if (Session* const session = Session::Of(ssl); session != nullptr) session->set_server_name(std::move(name));
    return SSL_CLIENT_HELLO_SUCCESS;
  }
  if (SSL_CTX* const chosen = context->Find(name); chosen != nullptr && chosen != SSL_get_SSL_CTX(ssl)) {
    // All contexts of a listener have the same options, verification and session context; only certificates differ.
    if (SSL_set_SSL_CTX(ssl, chosen) == nullptr) return SSL_CLIENT_HELLO_ERROR;
  }
  if (!name.empty()) {
    // A session is resumed for its own name alone (RFC 6066, section 3).
    std::string bound(context->session_context_.begin(), context->session_context_.end());
    const Digest id = Sha256(bound += name);
    if (SSL_set_session_id_context(ssl, id.data(), id.size()) != 1) return SSL_CLIENT_HELLO_ERROR;
  }
  if (Session* const session = Session::Of(ssl); session != nullptr) session->set_server_name(std::move(name));
  return SSL_CLIENT_HELLO_SUCCESS;
}

bool ServerContext::RespondToChallenge(SSL* ssl, const std::string& host) const {
  const std::optional<std::string> key_authorization = challenges_->FindTls(host);
  if (!key_authorization.has_value()) return false;
  const auto made = MakeChallengeCertificate(host, *key_authorization);
  if (!made.ok()) return false;
  const auto chain = ReadCertificates(made->certificate_pem, library_);
  const auto key = ReadPrivateKey(made->key_pem, library_);
  const ContextPtr owner(SSL_CTX_new_ex(library_, nullptr, TLS_server_method()));
  SSL_CTX* const context = owner.get();
  if (!chain.ok() || !key.ok() || context == nullptr) return false;
  if (!UseCommonSettings(context, settings_->tls13_only, "", "").ok() || !UseChain(*chain, key->get(), context)) {
    return false;
  }
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_alpn_select_cb(context, &ServerContext::OnSelectAcme, nullptr);
  if (SSL_set_SSL_CTX(ssl, context) == nullptr) return false;  // the connection holds it
  // Nothing of this connection may be resumed where clients are asked for certificates.
  SSL_set_options(ssl, SSL_OP_NO_TICKET);
  SSL_set_num_tickets(ssl, 0);
  SSL_set_verify(ssl, SSL_VERIFY_NONE, nullptr);
  return true;
}

int ServerContext::OnSelectAcme(SSL*, const unsigned char** chosen, unsigned char* chosen_size,
                                const unsigned char* offered, unsigned int, void*) {
  *chosen = offered + 1;  // the only one: OffersAcmeAlone
  *chosen_size = offered[0];
  return SSL_TLSEXT_ERR_OK;
}

int ServerContext::OnSelectProtocol(SSL*, const unsigned char** chosen, unsigned char* chosen_size,
                                    const unsigned char* offered, unsigned int offered_size, void* self) {
  const std::string& ours = static_cast<const ServerContext*>(self)->protocols_;
  unsigned char* found = nullptr;
  const int result = SSL_select_next_proto(&found, chosen_size, reinterpret_cast<const unsigned char*>(ours.data()),
                                           static_cast<unsigned int>(ours.size()), offered, offered_size);
  if (result != OPENSSL_NPN_NEGOTIATED) return SSL_TLSEXT_ERR_ALERT_FATAL;  // RFC 7301, section 3.2
  *chosen = found;
  return SSL_TLSEXT_ERR_OK;
}

int ServerContext::OnTicketKey(SSL* ssl, unsigned char* name, unsigned char* iv, EVP_CIPHER_CTX* cipher,
                               EVP_MAC_CTX* mac, int encrypt) {
  const auto* self = static_cast<const ServerContext*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
  TicketKey key;
  bool current = true;
  if (encrypt != 0) {
    key = self->tickets_->Current(std::chrono::steady_clock::now());
    std::memcpy(name, key.name.data(), key.name.size());
    if (RAND_bytes_ex(self->library_, iv, 16, 0) != 1) return -1;
  } else {
    const auto found = self->tickets_->Find(name);
    if (!found.has_value()) return 0;
    key = found->key;
    current = found->current;
  }
  char digest[] = "SHA256";
  const OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, key.mac.data(), key.mac.size()),
      OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
      OSSL_PARAM_construct_end(),
  };
  const bool ready =
      EVP_CipherInit_ex(cipher, self->ticket_cipher_.get(), nullptr, key.cipher.data(), iv, encrypt) == 1 &&
      EVP_MAC_CTX_set_params(mac, parameters) == 1;
  OPENSSL_cleanse(&key, sizeof key);
  if (!ready) return -1;
  // A TLS 1.3 client uses each ticket once (RFC 8446, appendix C.4) and needs another for its next connection.
  return current && SSL_version(ssl) < TLS1_3_VERSION ? 1 : 2;
}

int ServerContext::OnStatusRequest(SSL* ssl, void* certificate) {
  if (absl::Now() >= static_cast<const Certificate*>(certificate)->ocsp_until) return SSL_TLSEXT_ERR_NOACK;
  const std::string& response = static_cast<const Certificate*>(certificate)->source.ocsp_der;
  void* copy = OPENSSL_memdup(response.data(), response.size());  // the connection frees it
  if (copy == nullptr) return SSL_TLSEXT_ERR_NOACK;
  SSL_set_tlsext_status_ocsp_resp(ssl, copy, static_cast<int>(response.size()));
  return SSL_TLSEXT_ERR_OK;
}

}  // namespace gateway::dataplane::tls
