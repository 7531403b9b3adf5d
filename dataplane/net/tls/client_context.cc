#include "dataplane/net/tls/client_context.h"

#include <arpa/inet.h>
#include <openssl/x509v3.h>

#include <utility>

#include "common/base/certificate.h"
#include "common/base/text.h"
#include "dataplane/net/tls/session.h"
#include "dataplane/net/tls/settings.h"

namespace gateway::dataplane::tls {
namespace {

bool IsAddress(const std::string& host) {
  unsigned char bytes[sizeof(in6_addr)];
  return inet_pton(AF_INET, host.c_str(), bytes) == 1 || inet_pton(AF_INET6, host.c_str(), bytes) == 1;
}

// What is shown to endpoints that ask who connects.
absl::Status UseCertificate(const UpstreamTlsPolicy& policy, SSL_CTX* context) {
  const std::string name = Concat("tls.certificate: Certificate/", policy.certificate);
  if (policy.key_pem.empty()) {
    return absl::FailedPreconditionError(
        Concat(name, ": its key was not sent; no connection is made before a control plane sends it"));
  }
  auto chain = ReadCertificates(policy.certificate_pem);
  if (!chain.ok()) return absl::InvalidArgumentError(Concat(name, ": ", std::string(chain.status().message())));
  auto key = ReadPrivateKey(policy.key_pem);
  if (!key.ok()) return absl::InvalidArgumentError(Concat(name, ": ", std::string(key.status().message())));
  return UseChain(*chain, key->get(), context) ? absl::OkStatus() : Rejected(name);
}

// Where a new session of an SSL goes.
int SessionsIndex() {
  static const int index = SSL_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
  return index;
}

}  // namespace

void SessionStore::Put(SessionPtr session) {
  absl::MutexLock lock(&mutex_);
  session_.swap(session);
}

SessionPtr SessionStore::Get() const {
  absl::MutexLock lock(&mutex_);
  if (session_ == nullptr || SSL_SESSION_up_ref(session_.get()) != 1) return nullptr;
  return SessionPtr(session_.get());
}

absl::StatusOr<std::shared_ptr<const ClientContext>> ClientContext::Create(const UpstreamTlsPolicy& policy) {
  std::shared_ptr<ClientContext> self(new ClientContext());
  self->server_name_ = policy.server_name;
  self->check_name_ = policy.verify == UpstreamTlsPolicy::Verify::kFull;
  self->context_.reset(SSL_CTX_new(TLS_client_method()));
  SSL_CTX* const context = self->context_.get();
  if (context == nullptr) return Rejected("context");
  if (absl::Status status = UseCommonSettings(context, policy.tls13_only, "", ""); !status.ok()) return status;
  if (policy.verify != UpstreamTlsPolicy::Verify::kNone) {
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
    if (policy.ca_pem.empty()) {
      if (SSL_CTX_set_default_verify_paths(context) != 1) return Rejected("ca");
    } else {
      auto authorities = ReadCertificates(policy.ca_pem);
      if (!authorities.ok()) {
        return absl::InvalidArgumentError(Concat("tls.ca: ", std::string(authorities.status().message())));
      }
      for (const X509Ptr& each : *authorities) {
        if (X509_STORE_add_cert(SSL_CTX_get_cert_store(context), each.get()) != 1) return Rejected("ca");
      }
      // Trust ends at what is given, also where that is an intermediate or the endpoint's own certificate.
      X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(context), X509_V_FLAG_PARTIAL_CHAIN);
    }
  }
  if (!policy.certificate.empty()) {
    if (absl::Status status = UseCertificate(policy, context); !status.ok()) return status;
  }
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_sess_set_new_cb(context, &ClientContext::OnNewSession);
  return std::shared_ptr<const ClientContext>(std::move(self));
}

SslPtr ClientContext::NewSsl(std::string_view host, std::string_view alpn, SessionStore* sessions) const {
  SslPtr ssl(SSL_new(context_.get()));
  if (ssl == nullptr) return nullptr;
  SSL_set_connect_state(ssl.get());
  // (Unlike OpenSSL's other functions, it returns 0 for success.)
  if (SSL_set_alpn_protos(ssl.get(), reinterpret_cast<const unsigned char*>(alpn.data()),
                          static_cast<unsigned>(alpn.size())) != 0) {
    return nullptr;
  }
  const std::string name = server_name_.empty() ? std::string(host) : server_name_;
  const bool address = IsAddress(name);
  // RFC 6066, section 3: no addresses.
  if (!address && SSL_set_tlsext_host_name(ssl.get(), name.c_str()) != 1) return nullptr;
  if (check_name_) {
    X509_VERIFY_PARAM* const parameters = SSL_get0_param(ssl.get());
    X509_VERIFY_PARAM_set_hostflags(parameters, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    const int set = address ? X509_VERIFY_PARAM_set1_ip_asc(parameters, name.c_str())
                            : X509_VERIFY_PARAM_set1_host(parameters, name.data(), name.size());
    if (set != 1) return nullptr;
  }
  if (SSL_set_ex_data(ssl.get(), SessionsIndex(), sessions) != 1) return nullptr;
  if (const SessionPtr session = sessions->Get(); session != nullptr && SSL_SESSION_is_resumable(session.get()) == 1) {
    (void)SSL_set_session(ssl.get(), session.get());  // a full handshake is the next best
  }
  return ssl;
}

int ClientContext::OnNewSession(SSL* ssl, SSL_SESSION* session) {
  static_cast<SessionStore*>(SSL_get_ex_data(ssl, SessionsIndex()))->Put(SessionPtr(session));
  return 1;  // the store owns it
}

}  // namespace gateway::dataplane::tls
